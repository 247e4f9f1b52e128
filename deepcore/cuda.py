"""`dc.cuda`: the GPUs, by PyTorch's names.

Without one, `is_available()` is False, `device_count()` 0, and what needs one raises `BackendError`.
"""

from __future__ import annotations

from typing import Any

from deepcore import missing, random
from deepcore.backend import device as device_
from deepcore.backend import get_backend
from deepcore.backend.devices import set_default_device
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError

__all__ = [
    "current_device", "device", "device_count", "empty_cache", "get_device_capability", "get_device_name",
    "init", "is_available", "is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all", "mem_get_info",
    "memory_allocated", "memory_reserved", "set_device", "synchronize",
]  # fmt: skip

__getattr__ = missing.names_of(__name__, "torch.cuda", __all__)


def _gpu(device=None) -> Any:
    """The backend of a device or its number, None for the current one."""
    gpu = get_backend(f"cuda:{current_device()}" if device is None else device)
    if gpu.device.type != "cuda":
        raise ArgumentError("dc.cuda is about GPUs", received=repr(device), fix='"cuda", "cuda:1" or 1')
    return gpu


def is_available() -> bool:
    """Whether `backend="cuda"` can be used here."""
    try:
        get_backend("cuda")
    except BackendError:
        return False
    return True


def device_count() -> int:
    """How many GPUs can be used: 0 without CuPy, a driver or a GPU."""
    return get_backend("cuda").count() if is_available() else 0  # type: ignore[attr-defined]


def current_device() -> int:
    """The number of the GPU that "cuda" means: the default backend's if that is one, else 0."""
    default = get_backend()
    gpu = default if default.device.type == "cuda" else get_backend("cuda")
    return gpu.device.index or 0


def set_device(device) -> None:
    """Make a GPU the default device: `dc.use_backend`, as tensors are made on the default one."""
    set_default_device(_gpu(device))


class device:
    """Context manager: the default device of the block is the GPU `device`; None or -1 leaves it."""

    def __init__(self, device):
        self.device = None if device is None or device == -1 else _gpu(device)

    def __enter__(self) -> None:
        self._before = settings.backend
        if self.device is not None:
            set_default_device(self.device)

    def __exit__(self, *exc) -> None:
        settings.backend = self._before


def get_device_name(device: int | str | device_ | None = None) -> str:
    """The GPU's name."""
    return str(_gpu(device).info()["device"])


def get_device_capability(device: int | str | device_ | None = None) -> tuple[int, int]:
    """The GPU's compute capability, as (9, 0)."""
    return divmod(_gpu(device).capability, 10)


def is_bf16_supported() -> bool:
    """Whether there is a GPU: kernels for bfloat16 run on each that deepcore supports."""
    return is_available()


def init() -> None:
    """Nothing is left to do once the backend has been made."""
    get_backend("cuda")


def is_initialized() -> bool:
    """Whether there is a GPU."""
    return is_available()


def synchronize(device: int | str | device_ | None = None) -> None:
    """Wait until everything that was queued on the GPU has run."""
    _gpu(device).synchronize()


def empty_cache() -> None:
    """Give the memory that the pool holds and nobody uses back to the driver. Nothing without a GPU."""
    if is_available():
        for index in range(device_count()):
            get_backend(f"cuda:{index}").release_memory()


def memory_allocated(device: int | str | device_ | None = None) -> int:
    """Bytes of the GPU that arrays use."""
    return _gpu(device).memory()["used"]


def memory_reserved(device: int | str | device_ | None = None) -> int:
    """Bytes of the GPU that the pool holds: the most that was in use since `empty_cache()`, and fragments."""
    return _gpu(device).memory()["held"]


def mem_get_info(device: int | str | device_ | None = None) -> tuple[int, int]:
    """(free, total) bytes of the GPU, as the driver counts them."""
    memory = _gpu(device).memory()
    return memory["free"], memory["total"]


def manual_seed(seed: int) -> None:
    """`dc.manual_seed`: one generator serves every device."""
    random.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """`dc.manual_seed`: one generator serves every device."""
    random.manual_seed(seed)
