"""The size of a grid."""

from __future__ import annotations

#: Blocks of a grid that strides over its work, for each multiprocessor.
_BLOCKS_EACH = 16


def blocks_for(xp, work: int, each: int) -> int:
    """Blocks of a grid that strides over `work` pieces, `each` of them a block's at a time."""
    return max(1, min(-(-work // each), _BLOCKS_EACH * xp.multiprocessors))
