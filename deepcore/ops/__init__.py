"""The ops: declared in the files beside this one, installed as `dc.<name>` and `Tensor.<name>` by being declared."""

from deepcore.ops import (
    activation,
    arithmetic,
    comparison,
    convert,
    dropout,
    exponential,
    index,
    linalg,
    loss,
    norm,
    reduction,
    rounding,
    scan,
    shape,
    softmax,
    sort,
    trigonometric,
)
from deepcore.ops.registry import FUNCTIONS, PRIMITIVES

convert.install_in_place()

__all__ = [
    "FUNCTIONS", "PRIMITIVES", "activation", "arithmetic", "comparison", "convert", "dropout", "exponential", "index",
    "linalg", "loss", "norm", "reduction", "rounding", "scan", "shape", "softmax", "sort", "trigonometric",
]  # fmt: skip


def public() -> dict:
    """Every public function by every name it has."""
    return {name: entry.function for entry in FUNCTIONS.values() for name in (entry.name, *entry.aliases)}
