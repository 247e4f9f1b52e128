"""`dc.save`, `dc.load`, and checkpoints of a whole run."""

from __future__ import annotations

import json
import math
import os
import struct
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import io
from deepcore.backend import get_backend
from deepcore.backend.dtypes import DTYPES
from deepcore.data import DataLoader, TensorDataset
from deepcore.errors import ArgumentError, DTypeError, FileFormatError, StateDictError
from deepcore.io import load_checkpoint, safetensors, save_checkpoint
from deepcore.tensor import Tensor

#: The dtypes that safetensors has.
SAVED = [dtype for dtype in DTYPES.values() if dtype != dc.complex128]


def host(tensor):
    return np.asarray(tensor.backend.to_host(tensor.array))


def equal(a, b):
    """The same types, values and bits, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return equal(host(a), host(b))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


# -- save and load ----------------------------------------------------------------------------------
STATE = {
    "model": {"0.weight": dc.tensor([[1.0, 2.0]]), "0.bias": dc.tensor([3.0])},
    "optimizer": {
        "state": {0: {"step": 3, "exp_avg": dc.ones(2), "max": None}, 1: {}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "nesterov": True}],
    },
    "floats": [math.inf, -math.inf, math.nan, -0.0, 0.1, 5e-324, 1.7976931348623157e308],
    "nan bits": struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_1234))[0],
    "ints": [0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(10**5000)],
    "keys": {None: 1, True: 2, 2.5: 3, ("a", 1): 4, -(2**70): 5},
    "text": 'é 字 \0 \ud800 {"tensor": 1}',
    "like tags": {"tensor": "x", "dict": {"tuple": []}},
    "nothing": [None, {}, [], (), "", [[[]]], ({},)],
    "array": np.arange(6).reshape(2, 3).astype(np.uint16),
    "scalar": np.float32(0.1),
    "bool scalar": np.bool_(True),
    "": {"": {"": dc.zeros(0, 3)}},
}


def test_nested_state_round_trips_exactly(path):
    io.save(STATE, path)
    assert equal(io.load(path), STATE)
    before = path.read_bytes()
    io.save(io.load(path), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, (1,), dc.ones(2), np.ones(2), np.int8(3), math.nan])
def test_any_value_can_be_the_whole(value, path):
    io.save(value, path)
    assert equal(io.load(path), value)


def test_property_nested_state(path, monkeypatch):
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    monkeypatch.setattr(os, "fsync", lambda fd: None)
    keys = st.text(max_size=4) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
    leaves = (
        keys
        | st.floats()
        | st.builds(lambda n, kind: np.arange(n).astype(kind), st.integers(0, 3), st.sampled_from(SAVED))
        | st.builds(lambda n: dc.ones(n), st.integers(0, 3))
    )
    states = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=12,
    )

    @settings(max_examples=80)
    @given(states)
    def check(state):
        io.save(state, path)
        assert equal(io.load(path), state)

    check()


@pytest.mark.parametrize("dtype", SAVED, ids=str)
def test_every_dtype_on_every_backend(dtype, backend, path):
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    io.save({"x": dc.tensor(values, backend=backend)}, path)
    back = io.load(path, backend=backend)["x"]
    assert back.backend is get_backend(backend) and back.dtype == dtype
    assert host(back).tobytes() == values.tobytes()
    assert io.load(path)["x"].backend == "cpu"


def test_a_plain_dict_is_a_plain_file(path):
    state = OrderedDict([("b.weight", dc.ones(2, 3)), ("a", dc.zeros(1)), ("b.weight~2", dc.ones(1))])
    state["a"].requires_grad_()
    io.save(state, path, metadata={"note": "1"})
    arrays, metadata = safetensors.load_with_metadata(path)
    assert list(arrays) == list(state) and metadata == {"note": "1"}
    loaded = io.load(path)
    assert type(loaded) is dict and equal(loaded, dict(state)) and not loaded["a"].requires_grad


def test_pytorchs_arguments_of_load(path):
    io.save({"a": dc.ones(2)}, path)
    for options in (
        {"map_location": "cpu", "weights_only": True},
        {"map_location": dc.device("standin")},
        {"weights_only": False},
    ):
        assert io.load(path, **options)["a"].device.type == str(options.get("map_location", "cpu"))
    for location in (lambda storage, location: storage, {"cuda:0": "cpu"}):
        with pytest.raises(ArgumentError, match="map_location"):
            io.load(path, map_location=location)


def test_files_of_pytorch(path):
    torch = pytest.importorskip("torch")
    public = pytest.importorskip("safetensors.torch")
    layer = torch.nn.Linear(3, 2)
    public.save_file(layer.state_dict(), path)
    loaded = io.load(path)
    np.testing.assert_array_equal(loaded["weight"].numpy(), layer.weight.detach().numpy())
    io.save(loaded, path)
    layer.load_state_dict(public.load_file(path))
    io.save({"layer": loaded, "epoch": 3}, path)
    assert set(public.load_file(path)) == {"layer.weight", "layer.bias"}


def test_entries_are_named_by_their_path(path):
    state = {"a": {"b": dc.ones(1), "list": [dc.ones(2)], 0: dc.ones(3)}, "a.b": dc.ones(4), "__metadata__": dc.ones(5)}
    io.save(state, path)
    assert set(safetensors.load_file(path)) == {"a.b", "a.list.0", "a.0", "a.b~2", "__metadata__~2"}
    assert equal(io.load(path), state)


def test_a_tensor_that_occurs_twice_is_stored_once(path):
    weight = dc.ones(1000)
    io.save({"encoder": [weight], "decoder": [weight]}, path)
    loaded = io.load(path)
    assert loaded["encoder"][0] is loaded["decoder"][0]
    assert path.stat().st_size < 5000


def test_subclasses_become_plain(path):
    point = namedtuple("point", "x y")

    class Number(int):
        pass

    io.save({"od": OrderedDict(a=1), "nt": point(1, 2), "n": Number(3), "p": dc.nn.Parameter(dc.ones(1))}, path)
    loaded = io.load(path)
    assert equal(loaded, {"od": {"a": 1}, "nt": (1, 2), "n": 3, "p": dc.ones(1)})


def cycle():
    state = {"a": []}
    state["a"].append(state)
    return state


def deep():
    state = []
    for _ in range(150):
        state = [state]
    return state


@pytest.mark.parametrize(
    "state, error, message",
    [
        ({"a": [1, {2}]}, ArgumentError, r"state\['a'\]\[1\]"),
        ({"a": b"x"}, ArgumentError, "a bytes cannot be saved"),
        ({"a": lambda: 0}, ArgumentError, "a function cannot be saved"),
        ({"a": Path("x")}, ArgumentError, r"str\(path\)"),
        ({"a": {b"k": 1}}, ArgumentError, "key of type bytes"),
        ({"a": np.array(["x"])}, DTypeError, r"state\['a'\]"),
        ({"a": np.array([object()])}, DTypeError, "object"),
        ({"a": np.complex128(1)}, DTypeError, r"(?s)complex128.*view_as_real"),
        ({"a": dc.ones(2, dtype=dc.complex128)}, DTypeError, r"(?s)complex128.*view_as_real"),
        (cycle(), ArgumentError, "contains itself"),
        (deep(), ArgumentError, "deeper than 100"),
        ([[]] * 60, ArgumentError, "lists and objects"),
    ],
    ids=[
        "set",
        "bytes",
        "function",
        "path",
        "key",
        "text",
        "object",
        "complex",
        "complex128",
        "cycle",
        "deep",
        "flood",
    ],
)
def test_what_cannot_be_saved(state, error, message, path, monkeypatch):
    monkeypatch.setattr(safetensors, "_MAX_BRACKETS", 50)
    path.write_bytes(b"old")
    with pytest.raises(error, match=message):
        io.save(state, path)
    assert path.read_bytes() == b"old" and len(list(path.parent.iterdir())) == 1


def test_arguments_in_the_wrong_order(path):
    with pytest.raises(ArgumentError, match=r"dc\.save\(obj, path\)"):
        io.save(str(path), {"a": 1})


@pytest.mark.parametrize(
    "skeleton",
    [
        "",
        "[",
        '{"a": 1, "b": 2}',
        "{}",
        '{"unknown": 1}',
        '{"tensor": "y"}',
        '{"tensor": ["x"]}',
        '{"tensor": null}',
        '{"scalar": "x"}',
        '{"dict": []}',
        '{"items": 3}',
        '{"items": [[1]]}',
        '{"items": [[[], 1]]}',
        '{"tuple": 3}',
        '{"int": 3}',
        '{"int": "zz"}',
        '{"float": "00"}',
        "[" * 100_000 + "]" * 100_000,
        "null",
    ],
)
def test_a_damaged_description_is_refused(skeleton, path):
    safetensors.save_file({"x": np.zeros(2)}, path, {"deepcore.state": skeleton})
    with pytest.raises(FileFormatError) as caught:
        io.load(path)
    assert str(path) in str(caught.value)


def test_eight_bit_floats_are_read_but_not_as_tensors(path):
    import ml_dtypes

    safetensors.save_file({"x": np.ones(2, ml_dtypes.float8_e4m3fn)}, path)
    with pytest.raises(DTypeError, match="load_file"):
        io.load(path)
    arrays = {
        "w": np.ones(2, np.float32),
        "c": np.ones(2, ml_dtypes.float8_e5m2),
        "x": np.ones(2, ml_dtypes.float8_e8m0fnu),
    }
    safetensors.save_file(arrays, path)
    with pytest.raises(DTypeError, match=r"(?s)'c' \(float8_e5m2\), 'x' \(float8_e8m0fnu\).*names=\[…\]"):
        io.load(path)
    with pytest.raises(DTypeError, match=r"'c' \(float8_e5m2\)"):
        dc.nn.Linear(2, 1).load(path)
    assert io.load(path, names=["w"])["w"].tolist() == [1, 1]
    assert equal(safetensors.load_file(path)["x"], arrays["x"])


def test_names_and_shards(path, backend):
    state = {"model": {"w": dc.arange(3.0), "b": dc.ones(1)}, "step": 3}
    io.save(state, path)
    loaded = io.load(path, backend, names=["model.b"])
    assert list(loaded) == ["model.b"] and loaded["model.b"].backend == backend and loaded["model.b"].tolist() == [1]
    with pytest.raises(ArgumentError, match=r"did you mean 'model\.w'"):
        io.load(path, names=["model.c"])
    places = {}
    for i in range(3):
        io.save({f"layer.{i}": dc.full((2,), float(i))}, path.parent / f"shard{i}.safetensors")
        places[f"layer.{i}"] = f"shard{i}.safetensors"
    index = path.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": places}))
    for where in (index, path.parent):
        loaded = io.load(where, backend)
        assert {name: t.tolist() for name, t in loaded.items()} == {f"layer.{i}": [i, i] for i in range(3)}
        assert all(t.backend == backend for t in loaded.values())
    assert list(io.load(index, names=("layer.1",))) == ["layer.1"]
    linear = dc.nn.Linear(2, 1)
    io.save({"weight": linear.weight + 1}, path.parent / "shard0.safetensors")
    io.save({"bias": linear.bias + 1}, path.parent / "shard1.safetensors")
    index.write_text(json.dumps({"weight_map": {"weight": "shard0.safetensors", "bias": "shard1.safetensors"}}))
    assert dc.nn.Linear(2, 1).load(path.parent).bias.tolist() == (linear.bias + 1).tolist()


def test_lazy_names():
    assert dc.save is io.save and dc.load is io.load


# -- a whole run --------------------------------------------------------------------------------------
class Momentum:
    """A part of a run: state_dict and load_state_dict, with tensors of its own."""

    def __init__(self, params):
        self.params = params
        self.buffers = [np.zeros(p.shape, np.float32) for p in params]
        self.steps = 0

    def step(self, gradients):
        self.steps += 1
        for p, b, g in zip(self.params, self.buffers, gradients, strict=True):
            b *= 0.9
            b += g
            p.array[...] -= np.float32(0.1) * b

    def state_dict(self):
        state = {i: {"buffer": dc.from_numpy(b), "step": self.steps} for i, b in enumerate(self.buffers)}
        return {"state": state, "param_groups": [{"lr": 0.1, "params": list(state)}]}

    def load_state_dict(self, state):
        if len(state["state"]) != len(self.buffers):
            raise StateDictError("another number of parameters")
        for i, b in enumerate(self.buffers):
            b[...] = host(state["state"][i]["buffer"])
            self.steps = state["state"][i]["step"]


class Net:
    def __init__(self, width=3):
        self.weight = dc.randn(width, 4)

    def state_dict(self):
        return {"weight": self.weight.detach()}

    def load_state_dict(self, state):
        self.weight.data[...] = host(state["weight"])


class Run:
    def __init__(self, seed, width=3):
        dc.manual_seed(seed)
        self.net = Net(width)
        self.optimizer = Momentum([self.net.weight])
        data = TensorDataset(np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10))
        self.loader = DataLoader(data, batch_size=3, shuffle=True)
        self.generator = dc.Generator(seed)
        self.log = []

    @property
    def parts(self):
        return {k: getattr(self, k) for k in ("net", "optimizer", "loader", "generator")}

    def train(self, steps):
        while steps:
            for x, _ in self.loader:
                noise = dc.randn(*self.net.weight.shape).numpy() + dc.rand(1, generator=self.generator).numpy()
                self.optimizer.step([noise * x.numpy().mean(0) / 100])
                self.log.append(self.net.weight.numpy().tobytes())
                steps -= 1
                if not steps:
                    break


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_a_resumed_run_has_the_same_bits(cut, path):
    whole = Run(1)
    whole.train(cut)
    save_checkpoint(path, extra={"step": cut}, **whole.parts)
    whole.loader.load_state_dict(whole.loader.state_dict())  # go on within the epoch
    whole.train(10)

    second = Run(2)  # everything about it differs
    second.train(2)
    assert load_checkpoint(path, **second.parts) == {"step": cut}
    second.log = whole.log[:cut]
    second.train(10)
    assert second.log == whole.log
    assert second.optimizer.steps == whole.optimizer.steps


def test_with_layers_and_none(path, backend):
    model = dc.nn.Linear(3, 2).to(backend)
    save_checkpoint(path, model=model, scheduler=None, extra=[1, (2,)])
    other = dc.nn.Linear(3, 2).to(backend)
    assert load_checkpoint(path, model=other, scheduler=None) == [1, (2,)]
    assert equal(model.state_dict(), other.state_dict())
    assert other.weight.backend is get_backend(backend)
    assert set(safetensors.load_file(path)) == {"model.weight", "model.bias"}


def test_a_part_whose_state_is_a_named_tuple(path):
    class Part:
        value = 1

        def state_dict(self):
            return {"at": namedtuple("Place", "x y")(self.value, dc.ones(2))}

        def load_state_dict(self, state):
            self.value = state["at"][0]

    part = Part()
    save_checkpoint(path, part=part)
    part.value = 5
    load_checkpoint(path, part=part)
    assert part.value == 1


def test_the_random_state_is_restored_unless_told_otherwise(path):
    save_checkpoint(path)
    expected = dc.rand(3).numpy()
    dc.manual_seed(99)
    load_checkpoint(path, random=False)
    assert dc.rand(3).numpy().tolist() != expected.tolist()
    load_checkpoint(path)
    assert dc.rand(3).numpy().tolist() == expected.tolist()
    save_checkpoint(path, random=False)
    before = dc.random.get_rng_state()
    load_checkpoint(path)
    assert dc.random.get_rng_state() == before


def snapshot(run):
    return [
        run.net.weight.numpy().copy(),
        run.optimizer.buffers[0].copy(),
        run.optimizer.steps,
        run.loader.state_dict(),
        run.generator.get_state(),
        dc.random.get_rng_state(),
    ]


def test_all_or_nothing_when_a_part_refuses(path):
    run = Run(1)
    run.train(4)
    save_checkpoint(path, **run.parts)
    other = Run(2)
    other.train(2)
    other.loader = DataLoader(other.loader.dataset, batch_size=2, shuffle=True)  # comes after net and optimizer
    before = snapshot(other)
    with pytest.raises(StateDictError, match="batch_size"):
        load_checkpoint(path, **other.parts)
    assert equal(snapshot(other), before)


class Refuses:
    """Changes itself, then raises."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = 7
        if state["value"] == 1:
            raise StateDictError("not this one")


def real_parts(batch_size, seed, backend, schedule=True):
    dc.manual_seed(seed)
    model = dc.nn.Sequential(dc.nn.Linear(4, 3), dc.nn.BatchNorm1d(3)).to(backend)
    optimizer = dc.optim.SGD(model.parameters(), lr=0.1 * seed, momentum=0.9)
    data = TensorDataset(np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10))
    parts = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": dc.optim.lr_scheduler.StepLR(optimizer, seed) if schedule else None,
        "generator": dc.Generator(seed),
        "loader": DataLoader(data, batch_size, shuffle=True, backend=backend),
        "last": Refuses(),
    }
    for x, _ in parts["loader"]:
        model(x).sum().backward()
        optimizer.step()
        break
    return parts


def as_it_is(parts):
    """Everything about the parts, what their states leave out included."""
    inside = {
        name: {k: v for k, v in vars(part).items() if isinstance(v, (bool, int, float, str))}
        for name, part in parts.items()
        if hasattr(part, "__dict__")
    }
    states = {
        name: part.get_state() if name == "generator" else io.checkpoint._copied(part.state_dict())
        for name, part in parts.items()
        if part is not None
    }
    return [states, inside, list(parts["optimizer"].param_groups[0]), dc.random.get_rng_state()]


@pytest.mark.parametrize("saved_schedule, schedule", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("batch_size, refuses", [(5, 0), (4, 1)], ids=["loader", "last"])
def test_nothing_of_a_refused_checkpoint_stays(saved_schedule, schedule, batch_size, refuses, backend, path):
    saved = real_parts(4, 1, backend, saved_schedule)
    saved["last"].value = refuses
    save_checkpoint(path, extra=None, **saved)
    parts = real_parts(batch_size, 2, backend, schedule)
    before = as_it_is(parts)
    with pytest.raises(StateDictError, match="batch_size" if batch_size == 5 else "not this one"):
        load_checkpoint(path, **parts)
    assert equal(as_it_is(parts), before)
    assert next(iter(parts["loader"]))[0].shape[0] == batch_size and parts["loader"].epoch == 1, "the next pass"


def test_a_part_that_cannot_be_put_back_is_named_and_the_others_are(path):
    parts = {"first": Refuses(), "model": dc.nn.Linear(2, 2), "last": Refuses()}
    save_checkpoint(path, **parts | {"last": type("Ones", (), {"state_dict": lambda self: {"value": 1}})()})
    parts["first"].value = 1  # its own state is one that it refuses
    dc.nn.init.zeros_(parts["model"].weight)
    with pytest.raises(StateDictError) as caught:
        load_checkpoint(path, **parts)
    assert parts["model"].weight.tolist() == [[0, 0], [0, 0]] and parts["first"].value == 1
    assert "Refuses could not be put back" in caught.value.__notes__[0]


@pytest.mark.parametrize("mend", ["shape", "missing", "unexpected", "part"])
def test_nothing_is_touched_when_names_or_shapes_differ(mend, path):
    run = Run(1)
    save_checkpoint(path, **run.parts)
    other = Run(2, width=5 if mend == "shape" else 3)
    parts = other.parts
    if mend == "missing":
        other.net.state_dict = lambda: {"weight": other.net.weight, "bias": dc.ones(1)}
    elif mend == "unexpected":
        other.net.state_dict = lambda: {"w": other.net.weight}
    elif mend == "part":
        parts["optimiser"] = parts.pop("optimizer")
    before = snapshot(other)
    expected = {
        "shape": r"weight: \(3, 4\) in the file, \(5, 4\) here",
        "missing": "missing: bias",
        "unexpected": "missing: w; unexpected: weight",
        "part": "did you mean 'optimizer'",
    }
    with pytest.raises(StateDictError, match=expected[mend]):
        load_checkpoint(path, **parts)
    assert equal(snapshot(other), before)


def test_a_damaged_checkpoint_touches_nothing(path):
    run = Run(1)
    save_checkpoint(path, **run.parts)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    before = snapshot(run)
    with pytest.raises(FileFormatError, match="corrupt"):
        load_checkpoint(path, **run.parts)
    assert equal(snapshot(run), before)


def test_other_files_are_no_checkpoints(path):
    io.save({"w": dc.ones(1)}, path)
    with pytest.raises(FileFormatError, match="not a training checkpoint"):
        load_checkpoint(path)
    io.save({"checkpoint": 2, "random": {}, "extra": None}, path)
    with pytest.raises(FileFormatError, match="version 2"):
        load_checkpoint(path)


def test_parts_need_a_state(path):
    with pytest.raises(ArgumentError, match="extra="):
        save_checkpoint(path, epoch=3)
    with pytest.raises(ArgumentError, match="another name"):
        save_checkpoint(path, checkpoint=dc.nn.Linear(1, 1))
    assert not path.exists()


# -- in memory --------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [STATE, STATE["model"]], ids=["nested", "plain"])
def test_bytes_are_those_of_the_file(path, state):
    io.save(state, path)
    assert io.to_bytes(state) == path.read_bytes()
    assert equal(io.from_bytes(path.read_bytes()), io.load(path))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\x07", lambda b: b""])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(FileFormatError, match="safetensors bytes"):
        io.from_bytes(damage(io.to_bytes({"a": dc.ones(3)})))


def test_bytes_are_mapped_as_read_only_arrays():
    with safetensors.SafetensorsBytes(io.to_bytes({"a": dc.ones(3)})) as file:
        array = file.map("a")
    assert array.tolist() == [1, 1, 1] and not array.flags.writeable
