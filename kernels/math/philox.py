"""Philox4x32-10, the counter-based random generator, as a scalar function."""

from __future__ import annotations

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# The multipliers and key increments of Philox4x32 (Salmon, Moraes, Dror, Shaw 2011, section 4.3).
_PHILOX_M0, _PHILOX_M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_PHILOX_W0, _PHILOX_W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def philox_block(seed, stream, number):
    """The four words of block `number` of a stream: key = seed, counter = (number, stream), all of them uint64."""
    return philox(number & _MASK, number >> _SHIFT, stream & _MASK, stream >> _SHIFT, seed & _MASK, seed >> _SHIFT)


def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10: four random 32-bit words of counter (c0 … c3) under key (k0, k1), all held in uint64.

    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    for _ in range(10):
        p0 = c0 * _PHILOX_M0
        p1 = c2 * _PHILOX_M1
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0 = (k0 + _PHILOX_W0) & _MASK
        k1 = (k1 + _PHILOX_W1) & _MASK
    return c0, c1, c2, c3
