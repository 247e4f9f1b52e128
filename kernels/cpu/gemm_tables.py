"""What is decided about a matrix product by shape, dtype and family of processors: tiles, blocks, slices, or BLAS.

The figures were measured by `benchmarks/tune_gemm.py`, which prints them anew; nothing is measured in a user's run.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from deepcore.kernels.codegen import cache

#: How an operand is read: where it lies, packed by each slice, packed before.
PLAIN, BY_SLICE, BEFORE = 0, 1, 2

#: The most steps of k between two sums, on every processor: the bits depend on it. Longer chains are less accurate.
MAX_STEPS = 192
#: Bytes of the first cache, which rows of B far apart do not use evenly.
FIRST_CACHE = 1 << 15
#: The most rows of A that are packed at a time, whatever the table says: there is room for no more.
MAX_ROWS = 128


class Table(NamedTuple):
    """One family of processors."""

    #: Bytes of a vector, vectors across a tile, heights of the tall and the low tile.
    bytes: int
    across: int
    heights: tuple[int, int]
    #: Rows up to which A is not cut; rows up to which it is not packed then.
    rows: int = MAX_ROWS
    rows_unpacked: int = 36
    #: Rows up to which B in rows is read where it lies, if A is not cut and B does not fit the first cache.
    rows_plain: int = MAX_ROWS
    #: Steps of k up to which A is not packed in products of more rows, and bytes of B up to which it is not.
    steps_unpacked: int = 128
    bytes_unpacked: int = 1 << 17
    #: Multiplications (in float32) up to which a product is one slice, and two; then those of a slice.
    one_slice: int = 3 << 17
    two_slices: int = 1 << 22
    slice: int = 1 << 21
    #: Vectors across a slice of more rows.
    across_slice: int = 32
    #: What BLAS on slices computes faster: a dtype and a `kind`, as in "float64 large".
    blas: tuple[str, ...] = ()


TABLES = {
    "avx512": Table(64, 2, (12, 8)),
    "avx2": Table(32, 2, (6, 4), rows_plain=24),
    "neon": Table(16, 2, (12, 8)),
}


def family() -> str | None:
    """The table for this processor; None where its vectors have no fused multiply-add, or nothing compiles for it."""
    try:
        triple, _, features = cache.host()
    except ImportError:
        return None
    there = set(features.split(","))
    if "+avx512f" in there:
        return "avx512"
    if {"+avx2", "+fma"} <= there:
        return "avx2"
    return "neon" if triple.startswith(("aarch64", "arm64")) else None


def own() -> Table:
    """This processor's table, where there is one: kernels are compiled for it, whatever `table` is made to give."""
    return TABLES[family() or ""]


@functools.cache
def table() -> Table | None:
    """What plans go by, if there is anything."""
    return None if family() is None else own()


def kind(m: int, n: int, k: int) -> str:
    """The class of a product's shape: "few" rows or columns, "small", "large", or "long" with much to read a sum."""
    if min(m, n) <= 4:
        return "few"
    if m * n * k <= 1 << 24:
        return "small"
    return "large" if min(m, n, k) >= 192 else "long"


def steps(k: int) -> int:
    """The steps of k between two sums."""
    blocks = max(1, -(-k // MAX_STEPS))
    return -(-k // (16 * blocks)) * 16


def slices(t: Table, m: int, n: int, k: int, size: int, columns: int, in_rows: bool) -> tuple[int, int, int, int]:
    """Rows and columns of a slice, how B and A are read. `columns`: of a tile."""
    if not m * n * k:
        return 1, 1, PLAIN, PLAIN
    work = m * n * k * size // 4
    if m <= t.rows:
        count = 1 if work < t.one_slice else 2 if work < t.two_slices else max(2, min(32, work // t.slice))
        wide = -(-n // (columns * count)) * columns
        pack_a = BY_SLICE if m > t.rows_unpacked and n >= 8 * columns else PLAIN
        plain = in_rows and (m <= t.rows_plain or n * k * size <= FIRST_CACHE)
        return m, wide, PLAIN if plain else BY_SLICE, pack_a
    pack_a = BY_SLICE if k > t.steps_unpacked else PLAIN
    wide = min(n, columns * t.across_slice // t.across)
    # As many rows as give the work of a slice; more than a block of them only where nothing is packed.
    most = min(t.rows, MAX_ROWS) if pack_a else 1 << 20
    rows = min(most, max(48, max(t.slice, work // 32) // (wide * k)))
    rows = -(-m // (8 * -(-m // rows))) * 8
    plain = in_rows and n * k * size <= t.bytes_unpacked
    return rows, wide, PLAIN if plain else BEFORE, pack_a
