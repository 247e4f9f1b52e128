"""The ops: each file beside this one declares some; a declaration installs `dc.<name>` and `Tensor.<name>`."""

import importlib
import pkgutil

from deepcore.ops.registry import FUNCTIONS, PRIMITIVES, Tensor

__all__ = ["FUNCTIONS", "PRIMITIVES", "public"]

#: Files that declare no ops and are imported when first needed.
_LAZY = {"numpy_protocol", "stubs"}

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in _LAZY:
        importlib.import_module(f"{__name__}.{_module.name}")

from deepcore.ops import convert  # noqa: E402

convert.install_in_place()
convert.install_turns()


def public(place: str = "") -> dict:
    """The public functions of `dc` or of the module `place` ("linalg"), by each of their names."""
    parts = ((name.rpartition("."), entry.function) for entry in FUNCTIONS.values() for name in entry.names)
    return {name: function for (where, _, name), function in parts if where == place}


def in_place() -> dict:
    """The in-place methods as functions, as PyTorch has them: relu_(t) for t.relu_()."""
    names = [f"{name}_" for name, entry in FUNCTIONS.items() if entry.inplace]
    return {name: getattr(Tensor, name) for name in names}
