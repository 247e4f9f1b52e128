# Written by `python -m deepcore.ops.stubs` from the op registry; not edited by hand.

import builtins
from collections.abc import Sequence
from typing import Any

from deepcore.ops.reduction import ValuesAndIndices
from deepcore.tensor import Tensor

Operand = Tensor | builtins.float | builtins.int | builtins.bool
