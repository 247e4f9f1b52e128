"""Tables of parameters and gradients, over which one parallel section runs all of them.

A slice is a fixed range of the elements of all parameters one after the other, each parameter rounded up to whole
blocks, so sizes alone decide it and many small parameters cost as much as one.

    table    one row per parameter: start, size, then the addresses of gradient, parameter and states
    scalars  one row per parameter: learning rate and the like, as float64
    slots    what clipping computes and reads: see the numbers below
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from deepcore.kernels.codegen.jit import address

# Elements of one slice, some 10 µs; parameters begin at whole blocks.
SLICE = 1 << 15
BLOCK = 64
# Columns of a table.
_START, SIZE, GRADIENT = 0, 1, 2
# Slots: the largest norm allowed, the largest magnitude allowed, whether a norm that is not finite stops the program;
# the norm, the factor for the gradients, and why the program stopped.
MAX_NORM, BOUND, FINITE, NORM, FACTOR, STOPPED, SLOTS = range(7)
#: Why a program stopped: an array is not what the table was made for; a gradient, or their norm, is not finite.
MISFIT, NOT_FINITE = 1, 2


def row_of(table, width, rows, element):
    """The row that an element of all is in."""
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle * width] <= element:
            low = middle
        else:
            high = middle
    return low


def lay_out(table) -> int:
    """Fill in where each row starts; the number of elements, whole blocks each."""
    ends = np.cumsum(-(-table[:, SIZE] // BLOCK) * BLOCK)
    table[1:, _START] = ends[:-1]
    return int(ends[-1])


UNCLIPPED = (math.inf, math.inf, 0.0, 0.0, 1.0, 0.0)


def disjoint(arrays) -> bool:
    """Whether no two of the arrays share memory; they are contiguous."""
    ranges = sorted([(address(x), address(x) + x.nbytes) for x in arrays if x.nbytes])
    return all(stop <= start for (_, stop), (start, _) in pairwise(ranges))
