"""PyTorch's `torch.backends`: switches of libraries that deepcore does without, so that scripts which set them run.

Each accepts what it is set to and changes nothing: algorithms depend on shapes alone, results are the same from run to
run, and float32 products are float32's. A name that PyTorch has not is an error, as a setting misspelt would be.
"""

from __future__ import annotations

import sys
from types import ModuleType

from deepcore.errors import ArgumentError, suggest


class Switches(ModuleType):
    """The switches of one library, by name; a module, as `import deepcore.backends.cudnn as cudnn` wants it."""

    def __init__(self, name: str, **values):
        super().__init__(f"{__name__}.{name}", self.__doc__)
        self.__dict__.update(values)
        sys.modules[self.__name__] = self

    def __setattr__(self, name: str, value) -> None:
        if name not in self.__dict__ and not name.startswith("__"):
            switches = [n for n in self.__dict__ if not n.startswith("_")]
            place = self.__name__.removeprefix("deepcore.")
            raise ArgumentError(f"dc.{place} has no switch {name!r}", fix=suggest(name, switches))
        self.__dict__[name] = value

    def is_available(self) -> bool:
        """Whether deepcore computes with this library: it has kernels of its own."""
        return False

    is_built = is_available

    def version(self) -> None:
        """The library's version: None, as it is not used."""
        return None


cudnn = Switches("cudnn", enabled=True, benchmark=False, deterministic=True, allow_tf32=False, benchmark_limit=10)
cpu, mps, mkl, openmp = Switches("cpu"), Switches("mps"), Switches("mkl", verbose=0), Switches("openmp")
mkldnn = Switches("mkldnn", enabled=True, deterministic=True, allow_tf32=False)
cuda = Switches("cuda", matmul=None)
cuda.matmul = Switches(
    "cuda.matmul",
    allow_tf32=False,
    allow_fp16_reduced_precision_reduction=False,
    allow_bf16_reduced_precision_reduction=False,
)
_precision = "highest"


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` set; float32 products are float32's in any case."""
    return _precision


def set_float32_matmul_precision(precision: str) -> None:
    """Accepts PyTorch's "highest", "high" and "medium", and changes nothing: float32 products are float32's."""
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise ArgumentError("precision is 'highest', 'high' or 'medium'", received=repr(precision))
    _precision = precision
