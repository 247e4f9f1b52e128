"""Tables of parameters and gradients, over which one parallel section runs all of them.

A chunk is a fixed range of the concatenated elements of all parameters, each padded to whole blocks, so chunks depend on
sizes alone and many small parameters cost as much as one.

    table    one row per parameter: start, size, then the addresses of gradient, parameter and states
    scalars  one row per parameter: learning rate etc., as float64
    slots    inputs and results of clipping, numbered below
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from deepcore.kernels.codegen.jit import address

# Elements of a chunk, some 10 µs; parameters start at whole blocks.
CHUNK = 1 << 15
BLOCK = 64
# Columns of a table.
_START, SIZE, GRADIENT = 0, 1, 2
# Slots: maximum norm, maximum magnitude, whether a non-finite norm stops the program; the norm, the gradients' scaling
# factor, and why the program stopped.
MAX_NORM, BOUND, FINITE, NORM, FACTOR, STOPPED, SLOTS = range(7)
#: Why a program stopped: an array does not match the table; a gradient, or their norm, is not finite.
MISFIT, NOT_FINITE = 1, 2


def row_of(table, width, rows, element):
    """The row of an element of the concatenated parameters."""
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle * width] <= element:
            low = middle
        else:
            high = middle
    return low


def lay_out(table) -> int:
    """Fill in the start of each row; the total number of elements, padded to whole blocks."""
    ends = np.cumsum(-(-table[:, SIZE] // BLOCK) * BLOCK)
    table[1:, _START] = ends[:-1]
    return int(ends[-1])


UNCLIPPED = (math.inf, math.inf, 0.0, 0.0, 1.0, 0.0)


def disjoint(arrays) -> bool:
    """Whether no two contiguous arrays share memory."""
    ranges = sorted([(address(x), address(x) + x.nbytes) for x in arrays if x.nbytes])
    return all(stop <= start for (_, stop), (start, _) in pairwise(ranges))
