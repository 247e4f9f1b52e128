"""`device`: where tensors live, in PyTorch's naming, and the default device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, suggest

if TYPE_CHECKING:
    from deepcore.backend import Backend

#: Device types of PyTorch that no backend serves.
FOREIGN = frozenset(("fpga", "hip", "hpu", "ipu", "maia", "meta", "mkldnn", "mps", "mtia", "vulkan", "xla", "xpu"))
#: Default backends to restore, innermost `with device:` block last.
_defaults: list[str] = []


def check_kind(kind: str, received: Any = None) -> str:
    """`kind`, if there is a backend of that name."""
    from deepcore.backend import available_kinds

    if kind in ("cpu", "cuda") or kind in (kinds := available_kinds()):
        return kind
    if kind in FOREIGN:
        raise BackendError(
            f"deepcore computes on CPUs and CUDA GPUs, and has no backend {kind!r}",
            expected='"cpu", "cuda", "cuda:1" or "auto"',
            fix='"auto" is the GPU where there is one, and else the CPU',
        )
    raise BackendError(f"there is no backend named {received or kind!r}", fix=suggest(kind, [*kinds, "auto"]))


def split_name(name: str) -> tuple[str, int | None]:
    """("cuda", 1) for "cuda:1"; the index is None where it is left out."""
    kind, colon, index = name.partition(":")
    if colon and not (index.isascii() and index.isdigit() and len(index) < 10):
        raise BackendError(f"{name!r} is not a backend", expected='a name such as "cpu", "cuda" or "cuda:1"')
    return kind, int(index) if colon else None


class device:
    """Where tensors live, as torch.device: `device("cuda", 1)`, `device("cuda:1")`, `device(1)`.

    `device("auto")` is the first GPU, or the CPU where there is none.

    `type` is "cpu" or "cuda", `index` a number or None. `str()` is the name that `backend=` and `device=` take, and a
    device equals that string. As a context manager it is the default device of the block. Creating one does not need the
    device; using it does. Errors: `BackendError` for types without a backend.
    """

    __slots__ = ("_index", "_type")
    _type: str
    _index: int | None

    def __init__(self, type: str | int | device | Backend, index: int | None = None):
        from deepcore.backend import Backend, get_backend

        if isinstance(type, Backend):
            type = type.device
        if isinstance(type, device):
            self._type, self._index = type._type, type._index
        elif isinstance(type, int) and not isinstance(type, bool):
            self._type, self._index = "cuda", type
        elif not isinstance(type, str):
            raise ArgumentError(
                "a device is given by its name or number", expected='"cpu", "cuda", "cuda:1", 1', received=repr(type)
            )
        elif type == "auto":
            auto_device = get_backend("auto").device
            self._type, self._index = auto_device._type, auto_device._index
        else:
            kind, self._index = split_name(type)
            self._type = check_kind(kind, type)
        if index is not None:
            if self._index is not None:
                raise ArgumentError("the number of a device is given twice", received=f"device({type!r}, {index!r})")
            self._index = index
        if self._index is not None and (isinstance(self._index, bool) or self._index < 0):
            raise ArgumentError("the number of a device is a whole number of at least 0", received=repr(self._index))

    @property
    def type(self) -> str:
        return self._type

    @property
    def index(self) -> int | None:
        return self._index

    def __str__(self) -> str:
        return self._type if self._index is None else f"{self._type}:{self._index}"

    def __repr__(self) -> str:
        return f"device(type={self._type!r}" + ("" if self._index is None else f", index={self._index}") + ")"

    def __eq__(self, other) -> bool:
        if isinstance(other, device):
            return self._type == other._type and self._index == other._index
        return str(self) == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self):
        return device, (self._type, self._index)

    def __enter__(self) -> device:
        before = settings.backend
        set_default_device(self)
        _defaults.append(before)
        return self

    def __exit__(self, *exc) -> None:
        settings.backend = _defaults.pop()


def device_of(name: str) -> device:
    """The device of the backend called `name`, unchecked."""
    result = device.__new__(device)
    result._type, result._index = split_name(name)
    return result


def set_default_device(device: str | int | device | Backend | None) -> None:
    """Set the device of tensors created without `device=` or `backend=`; None is the CPU. Same as `use_backend`."""
    from deepcore.backend import get_backend

    settings.backend = get_backend("cpu" if device is None else device).name


def get_default_device() -> device:
    """The device of tensors created without `device=` or `backend=`."""
    from deepcore.backend import get_backend

    return get_backend().device
