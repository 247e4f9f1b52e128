"""The size of a grid."""

from __future__ import annotations

#: Blocks of a grid-stride loop per multiprocessor.
_BLOCKS_PER_MULTIPROCESSOR = 16


def blocks_for(xp, work: int, per_block: int) -> int:
    """Blocks for a grid-stride loop over `work` items, `per_block` at a time."""
    return max(1, min(-(-work // per_block), _BLOCKS_PER_MULTIPROCESSOR * xp.multiprocessors))
