"""Special functions, as in `torch.special`. The functions are declared in `ops`."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.ops import public

if TYPE_CHECKING:
    from deepcore.ops._special import *  # noqa: F403

globals().update(public("special"))
__all__ = sorted(public("special"))

__getattr__ = missing.names_of(__name__, "torch.special")
