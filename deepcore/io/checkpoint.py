"""`save` and `load`: nested state in one safetensors file; checkpoints of a whole training run.

Tensors and arrays are entries of the file, named by their dotted path; everything else is JSON in its metadata:

    null, true, 1, 0.5, "text", [list]     as themselves
    {"dict": {…}} {"items": [[k, v], …]}   a dict with string keys; with any keys
    {"tuple": […]} {"int": "0x…"} {"float": "<16 hex digits>"}   tuples, integers past 64 bits, inf and NaN
    {"tensor": name} {"array": name} {"scalar": name}            an entry of the file
"""

from __future__ import annotations

import json
import operator
import os
import reprlib
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from deepcore.backend import Backend, dtypes, get_backend, place, takes_device
from deepcore.errors import ArgumentError, DeepcoreError, DTypeError, FileFormatError, StateDictError, suggest
from deepcore.io import safetensors
from deepcore.io.background import Saving, writer
from deepcore.io.files import path_of
from deepcore.random import default_generator
from deepcore.tensor import Tensor, from_raw, unmasked

_STATE_KEY = "deepcore.state"
_MAX_DEPTH = 100
_MAX_COLLISIONS = 1000
CHECKPOINT_VERSION = 1


# -- nested state -----------------------------------------------------------------------------------
def save(obj, path, metadata: Mapping[str, str] | None = None, *, wait: bool = True) -> Saving | None:
    """Write `obj` to `path` as safetensors, atomically: the old file or the new one, never a part of it.

    `obj`: dicts, lists, tuples, tensors, NumPy arrays and scalars, int, float, bool, str and None, nested.
    A `dict[str, Tensor]` becomes a plain safetensors file that any tool reads, with unchanged names.
    Tensors are stored without their graph and load with `requires_grad=False`; one that occurs twice is stored once,
    except in a plain `dict[str, Tensor]`. `metadata` are extra notes, str to str.
    wait=False: `obj` is copied, a background thread writes the copy, and the result is a `Saving`, whose `wait()` returns
    once the file is there and raises what went wrong. A process that ends writes what is pending first; one that is
    killed leaves the old file. Later saves to the same path, and `load` of it, wait for earlier ones.

    Errors: `ArgumentError` for a value of another type, with its path; `DTypeError` for a dtype that the format lacks.
    """
    if isinstance(obj, (str, os.PathLike)) and not isinstance(path, (str, os.PathLike)):
        raise ArgumentError("save takes the object first, then the path", fix="dc.save(obj, path)")
    arrays, notes = _encoded(obj, metadata)
    if wait:
        writer.wait_for(path_of(path))
        safetensors.save_file(arrays, path, notes)
        return None
    arrays = {name: array.copy() for name, array in arrays.items()}
    target = os.path.abspath(path_of(path))  # the working directory may change
    return writer.submit(target, lambda: safetensors.save_file(arrays, target, notes))


def to_bytes(obj, metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of the file that `save` would write."""
    return safetensors.to_bytes(*_encoded(obj, metadata))


def _encoded(obj, metadata: Mapping[str, str] | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and notes of a file that holds `obj`."""
    notes = dict(metadata or {})
    if _STATE_KEY in notes:
        raise ArgumentError(f"metadata key {_STATE_KEY!r} is written by deepcore itself", fix="use another key")
    if _is_plain(obj):
        return {name: _host(t) for name, t in obj.items()}, notes
    encoder = _Encoder()
    skeleton = encoder.encode(obj, ())
    notes[_STATE_KEY] = json.dumps(skeleton, separators=(",", ":"), allow_nan=False)
    return encoder.arrays, notes


@takes_device
def load(
    path,
    backend: str | Backend | None = None,
    *,
    device=None,
    map_location=None,
    names: Iterable[str] | None = None,
    weights_only: bool = True,
):
    """The object that `save` wrote to `path`, its tensors on `backend` (default: the default backend).

    `map_location`: PyTorch's word for `backend`. `weights_only` is accepted and changes nothing: there is no other way.

    A safetensors file of another program gives a dict[str, Tensor]; so do the shards of a model, whose `path` is
    their index (model.safetensors.index.json), and a folder with one of these. `names` loads only the tensors with these
    names, as a dict[str, Tensor]. Nothing in a file is ever executed.

    Errors: `FileFormatError` for a file that is damaged, truncated or of another format; the message says how to
    convert the formats of PyTorch, Keras and NumPy. `DTypeError` for a dtype that tensors cannot have.
    """
    if callable(map_location) or isinstance(map_location, Mapping):
        raise ArgumentError(
            "map_location names the one device that every tensor is loaded to",
            received=type(map_location).__name__,
            fix='map_location="cpu", or leave it out for the default device',
        )
    backend = get_backend(backend if map_location is None else place(backend, map_location))
    writer.wait_for(os.fsdecode(path))
    with safetensors.open_file(path) as file:
        return _decoded(file, os.fsdecode(path), backend, names)


@takes_device
def from_bytes(data, backend: str | Backend | None = None, *, device=None):
    """The object that `to_bytes` encoded, its tensors on `backend`. Errors: as `load`."""
    with safetensors.SafetensorsBytes(data) as file:
        return _decoded(file, file.path, get_backend(backend), None)


def _decoded(file: safetensors.TensorFile, name: str, backend: Backend, names: Iterable[str] | None):
    """The object in an open file; `name` stands for the file in errors."""
    metadata = file.metadata
    if names is not None or _STATE_KEY not in metadata:
        chosen = file.select(names)
        check_dtypes({key: info.dtype for key, info in chosen.items()}, name)
        return {key: from_raw(backend.from_host(file.read(key)), backend) for key in chosen}
    arrays = file.load()
    try:
        skeleton = json.loads(metadata[_STATE_KEY])
        decoder = _Decoder(arrays, backend, name)
        state = decoder.decode(skeleton)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, struct.error) as error:
        if isinstance(error, DeepcoreError):
            raise
        raise FileFormatError(
            f"{name!r} has a description of its state that cannot be followed: {error}",
            fix="take another copy; its tensors alone: deepcore.io.safetensors.load_file(path)",
        ) from None
    unused = arrays.keys() - decoder.used
    if unused:
        raise FileFormatError(f"{name!r} has tensors that its state does not name: {', '.join(sorted(unused)[:5])}")
    return state


def _is_plain(obj) -> bool:
    """Whether `obj` is a dict[str, Tensor] whose keys are all valid names of entries."""
    return (
        isinstance(obj, Mapping)
        and len(obj) > 0
        and all(isinstance(t, Tensor) and isinstance(name, str) for name, t in obj.items())
        and all(name != "__metadata__" and _encodable(name) for name in obj)
    )


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _host(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.backend.to_host(tensor.array))


def check_dtypes(dtypes_by_name: Mapping[str, Any], path: str) -> None:
    """Raise for dtypes that NumPy arrays can have and tensors cannot, naming every such tensor."""
    odd = [name for name, dtype in dtypes_by_name.items() if not dtypes.is_supported(dtype)]
    if odd:
        names = [f"{name!r} ({dtypes_by_name[name]})" for name in odd]
        listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise DTypeError(
            f"{path!r} holds {listed}, {'a dtype' if len(odd) == 1 else 'dtypes'} that tensors cannot have",
            fix="deepcore.io.safetensors.load_file(path) gives arrays, to be converted: array.astype('float32')"
            + ("; the other tensors alone: dc.load(path, names=[…])" if len(odd) < len(dtypes_by_name) else ""),
        )


class _Encoder:
    """Encodes state as JSON, and collects its arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._referenced: list = []  # keeps the objects alive, so that their ids stay unique
        self._open: set[int] = set()

    def encode(self, value, path: tuple):
        if value is None or value is True or value is False or type(value) is str:
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._entry(value, _host, path)}
        if isinstance(value, np.ndarray):
            return {"array": self._entry(unmasked(value), np.asarray, path)}
        if isinstance(value, np.generic):
            return {"scalar": self._entry(value, np.asarray, path)}
        if isinstance(value, int):
            value = int(value)
            return value if -(1 << 63) <= value < 1 << 64 else {"int": hex(value)}
        if isinstance(value, float):
            value = float(value)
            return value if value - value == 0.0 else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, str):
            return str(value)
        if isinstance(value, (list, tuple, Mapping)):
            return self._container(value, path)
        kind = type(value).__name__
        raise ArgumentError(
            f"a {kind} cannot be saved",
            expected="dict, list, tuple, Tensor, numpy array, int, float, bool, str or None",
            where=_path_text(path),
            fix=_FIXES.get(kind, "save its state_dict(), or the values it is made of"),
        )

    def _container(self, value, path: tuple):
        if id(value) in self._open:
            raise ArgumentError("a container that contains itself cannot be saved", where=_path_text(path))
        if len(path) >= _MAX_DEPTH:
            raise ArgumentError(f"the state is nested deeper than {_MAX_DEPTH} levels", where=_path_text(path[:6]))
        self._open.add(id(value))
        try:
            if isinstance(value, list):
                return [self.encode(item, (*path, i)) for i, item in enumerate(value)]
            if isinstance(value, tuple):
                return {"tuple": [self.encode(item, (*path, i)) for i, item in enumerate(value)]}
            if all(type(key) is str for key in value):
                return {"dict": {key: self.encode(item, (*path, key)) for key, item in value.items()}}
            pairs = []
            for key, item in value.items():
                if not _is_key(key):
                    raise ArgumentError(
                        f"a dict key of type {type(key).__name__} cannot be saved",
                        expected="str, int, float, bool, None, or tuples of them",
                        where=_path_text(path),
                    )
                pairs.append([self.encode(key, path), self.encode(item, (*path, key))])
            return {"items": pairs}
        finally:
            self._open.discard(id(value))

    def _entry(self, value, to_array, path: tuple) -> str:
        entry_name = self._names.get(id(value))
        if entry_name is not None:
            return entry_name
        base = ".".join(str(part) for part in path) or "value"
        if not _encodable(base):
            base = base.encode(errors="replace").decode()
        name, count = base, 1
        while name in self.arrays or name == "__metadata__":
            count += 1
            name = f"{base}~{count}"
        array = to_array(value)
        if array.dtype.newbyteorder("=") not in safetensors.DTYPE_NAMES:
            raise DTypeError(
                f"an array of dtype {array.dtype} cannot be saved",
                expected="one of " + ", ".join(dtypes.DTYPES),
                where=_path_text(path),
                fix=safetensors.fix_for(array.dtype) + ("" if array.dtype.kind == "c" else "; text goes in lists"),
            )
        self.arrays[name] = array
        self._names[id(value)] = name
        self._referenced.append(value)
        return name


_FIXES = {
    "set": "sorted(the_set)",
    "frozenset": "sorted(the_set)",
    "bytes": "numpy.frombuffer(value, 'uint8')",
    "PosixPath": "str(path)",
    "WindowsPath": "str(path)",
    "complex": "(value.real, value.imag)",
    "dtype": "str(dtype)",
    "Backend": "backend.name",
}


def _is_key(key) -> bool:
    if isinstance(key, tuple):
        return all(_is_key(part) for part in key)
    return key is None or type(key) in (str, int, float, bool)


def _path_text(path: tuple) -> str:
    return "state" + "".join(f"[{part!r}]" for part in path)


class _Decoder:
    """Decodes JSON to state; invalid input raises a ValueError, KeyError or TypeError, which `load` converts."""

    def __init__(self, arrays: dict[str, np.ndarray], backend: Backend, path: str):
        self.used: set[str] = set()
        self._arrays, self._backend, self._path = arrays, backend, path
        self._cache: dict[tuple[str, str], Any] = {}

    def decode(self, value):
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ValueError(f"an object with {len(value)} keys")
        ((tag, payload),) = value.items()
        if tag == "dict":
            return {key: self.decode(item) for key, item in payload.items()}
        if tag == "items":
            pairs = [(self.decode(key), self.decode(item)) for key, item in payload]
            hashes = sorted(hash(key) for key, _ in pairs)
            if sum(map(operator.eq, hashes, hashes[1:])) > _MAX_COLLISIONS:  # colliding keys take quadratic time
                raise ValueError("a dict whose keys have the same hash")
            return dict(pairs)
        if tag == "tuple":
            return tuple([self.decode(item) for item in payload])
        if tag == "int":
            return int(payload, 16)
        if tag == "float":
            return struct.unpack(">d", bytes.fromhex(payload))[0]
        if tag in ("tensor", "array", "scalar"):
            return self._entry(tag, payload)
        raise ValueError(f"an unknown tag {tag[:40]!r}")

    def _entry(self, tag: str, name: str):
        value = self._cache.get((tag, name))
        if value is None:
            if not isinstance(name, str) or name not in self._arrays:
                raise KeyError(f"no tensor {reprlib.repr(name)}")
            array = self._arrays[name]
            value = array
            if tag == "tensor":
                check_dtypes({name: array.dtype}, self._path)
                value = from_raw(self._backend.from_host(array), self._backend)
            elif tag == "scalar":
                if array.ndim:
                    raise ValueError(f"a scalar of shape {array.shape}")
                value = array[()]
            self._cache[tag, name] = value
            self.used.add(name)
        return value


# -- a whole training run ---------------------------------------------------------------------------
def save_checkpoint(path, *, extra=None, random: bool = True, wait: bool = True, **parts) -> Saving | None:
    """Write everything a run needs to resume with the same bits, in one file, atomically.

    `parts`, by any name: objects with `state_dict()`/`load_state_dict()`, or `get_state()`/`set_state()`: the model,
    optimizer, scheduler, loader (its order and position), generators. A part that is None is left out.
    `random`: the default generator's state too. `extra`: any state `save` takes: epoch, step, history. `wait`: as in `save`.

    >>> save_checkpoint("last.safetensors", model=model, optimizer=opt, loader=loader, extra={"epoch": 3})
    """
    states = {name: _state_of(name, part) for name, part in parts.items() if part is not None}
    streams = {"default": default_generator.get_state()} if random else {}
    return save({"checkpoint": CHECKPOINT_VERSION, **states, "random": streams, "extra": extra}, path, wait=wait)


@takes_device
def load_checkpoint(path, *, random: bool = True, backend: str | Backend | None = None, device=None, **parts):
    """Restore `parts` from a file of `save_checkpoint`, all of them or none, and return its `extra`.

    `parts` are named as when they were saved; other parts in the file are ignored, so
    `load_checkpoint(path, model=model, random=False)` loads the weights alone. The whole file is read and checked
    first; names and shapes are compared; if a part still rejects its state, every part is restored.
    `backend` defaults to that of the parts' own tensors.

    Errors: `FileFormatError` for a damaged file, `StateDictError` for one that does not fit the parts.
    """
    return restore(path, parts, random=random, backend=backend)


def restore(
    path,
    parts: Mapping[str, Any],
    extra_jobs: Callable[[Any], list[tuple[Any, Any]]] | None = None,
    random: bool = True,
    backend: str | Backend | None = None,
):
    """`load_checkpoint` of `parts` and of the (part, state) pairs of `extra_jobs(extra)`, all of them or none."""
    parts = {name: part for name, part in parts.items() if part is not None}
    current = {name: _state_of(name, part) for name, part in parts.items()}
    name = os.fsdecode(path)
    checkpoint = read_checkpoint(path, backend or _backend_of(list(current.values())))
    for key in parts:
        if key not in checkpoint["parts"]:
            raise StateDictError(
                f"{name!r} has no state for {key!r}", fix=f"leave it out; or {suggest(key, checkpoint['parts'])}"
            )
        _compare(key, current[key], checkpoint["parts"][key], name)
    jobs = [(part, checkpoint["parts"][key]) for key, part in parts.items()]
    if random and "default" in checkpoint["random"]:
        jobs.append((default_generator, checkpoint["random"]["default"]))
    jobs += extra_jobs(checkpoint["extra"]) if extra_jobs is not None else []
    snapshots: list[_PartSnapshot] = []
    try:
        for part, state in jobs:
            snapshots.append(_PartSnapshot(part))
            _restore(part, state)
    except BaseException as error:
        for snapshot in reversed(snapshots):
            snapshot.restore(error)
        raise
    return checkpoint["extra"]


class _PartSnapshot:
    """A snapshot of a part: its state, and its attributes, which may not all be in the state."""

    def __init__(self, part):
        self._part = part
        # A copy, because the state shares memory with the part.
        self._state = _copied(_state_of("", part))
        self._attributes = dict(vars(part)) if hasattr(part, "__dict__") else None

    def restore(self, reason: BaseException) -> None:
        """Restore the part; one that rejects its own state is named in a note on `reason`."""
        try:
            _restore(self._part, self._state)
        except Exception as error:
            kind = type(self._part).__name__
            reason.add_note(f"{kind} could not be put back as it was: {type(error).__name__}: {error}")
        if self._attributes is not None:
            vars(self._part).clear()
            vars(self._part).update(self._attributes)


@takes_device
def read_checkpoint(path, backend: str | Backend | None = None, *, device=None) -> dict[str, Any]:
    """The content of a checkpoint as `{"parts": {name: state}, "random": {…}, "extra": …}`."""
    state = load(path, backend)
    version = state.get("checkpoint") if isinstance(state, dict) else None
    if type(version) is not int or not isinstance(state.get("random"), dict) or "extra" not in state:
        raise FileFormatError(
            f"{os.fsdecode(path)!r} is not a training checkpoint",
            expected="a file of save_checkpoint",
            fix="dc.load(path) reads other files, for example a model's state dict",
        )
    if version > CHECKPOINT_VERSION:
        raise FileFormatError(
            f"{os.fsdecode(path)!r} is a checkpoint of version {version}",
            expected=f"at most {CHECKPOINT_VERSION}",
            fix="pip install -U deepcore-nn",
        )
    extra, streams = state.pop("extra"), state.pop("random")
    del state["checkpoint"]
    return {"parts": state, "random": streams, "extra": extra}


def _state_of(name: str, part):
    if name == "checkpoint":
        raise ArgumentError("'checkpoint' cannot be the name of a part", fix="use another name")
    for method in ("state_dict", "get_state"):
        if hasattr(part, method):
            return getattr(part, method)()
    raise ArgumentError(
        f"{name!r} has no state to save",
        expected="an object with state_dict() and load_state_dict()",
        received=type(part).__name__,
        fix=f"put plain values in extra={{{name!r}: …}}",
    )


def _restore(part, state) -> None:
    (part.load_state_dict if hasattr(part, "load_state_dict") else part.set_state)(state)


def _tensors(state):
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for item in state.values():
            yield from _tensors(item)
    elif isinstance(state, (list, tuple)):
        for item in state:
            yield from _tensors(item)


def _backend_of(states: list) -> Backend | None:
    return next((t.backend for t in _tensors(states)), None)


def _copied(state):
    """The state with copied arrays."""
    if isinstance(state, Tensor):
        return from_raw(state.array.copy(), state.backend)
    if isinstance(state, np.ndarray):
        return state.copy()
    if isinstance(state, Mapping):
        return {key: _copied(item) for key, item in state.items()}
    if isinstance(state, (list, tuple)):
        items = [_copied(item) for item in state]
        return (
            items if isinstance(state, list) else tuple(items)
        )  # named tuples become tuples, as when loaded from a file
    return state


def _compare(part: str, current, saved, path: str) -> None:
    """Raise unless a flat dict of tensors has the names and shapes of the part's current state."""
    if not (isinstance(current, Mapping) and current and all(isinstance(t, Tensor) for t in current.values())):
        return
    if not isinstance(saved, Mapping):
        raise StateDictError(f"{path!r} holds no state dict for {part!r}", received=type(saved).__name__)
    missing = [key for key in current if key not in saved]
    extra = [key for key in saved if key not in current]
    shapes = [
        f"{key}: {tuple(saved[key].shape)} in the file, {tuple(current[key].shape)} here"
        for key in current
        if key in saved and tuple(getattr(saved[key], "shape", ())) != tuple(current[key].shape)
    ]
    faults = [
        f"{word} {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for word, names in (("missing:", missing), ("unexpected:", extra), ("of another shape:", shapes))
        if names
    ]
    if faults:
        raise StateDictError(
            f"{path!r} does not fit {part!r}",
            received="; ".join(faults),
            fix="build it with the same layers as when the checkpoint was saved",
        )
