"""`nn.functional`: layers and losses as functions, declared with `functional` by the ops and the files beside this one."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.nn.registry import discover
from deepcore.ops.registry import FUNCTIONAL

if TYPE_CHECKING:
    from deepcore.nn.functional._names import *  # noqa: F403

globals().update(discover(__name__, __path__, FUNCTIONAL))  # noqa: F405
__all__ = sorted(FUNCTIONAL)

__getattr__ = missing.names_of(__name__, "torch.nn.functional")
