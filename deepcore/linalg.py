"""Linear algebra, as in `torch.linalg`: decompositions, solvers, norms. The functions are declared in `ops`."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.errors import LinAlgError as LinAlgError
from deepcore.ops import public

if TYPE_CHECKING:
    from deepcore.ops._linalg import *  # noqa: F403

globals().update(public("linalg"))
__all__ = sorted(["LinAlgError", *public("linalg")])

__getattr__ = missing.names_of(__name__, "torch.linalg")
