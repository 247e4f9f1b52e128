"""The ops: declared in the files beside this one, installed as `dc.<name>` and `Tensor.<name>` by being declared."""

from deepcore.ops import elementwise, shape  # noqa: I001  (reduce and index need these two)
from deepcore.ops import index, reduce, linalg, losses, convert
from deepcore.ops.registry import FUNCTIONS, PRIMITIVES

convert.install_in_place()

__all__ = ["FUNCTIONS", "PRIMITIVES", "convert", "elementwise", "index", "linalg", "losses", "reduce", "shape"]


def public() -> dict:
    """Every public function by every name it has."""
    return {name: entry.function for entry in FUNCTIONS.values() for name in (entry.name, *entry.aliases)}
