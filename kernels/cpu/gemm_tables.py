"""Tuning tables of the matrix product by shape, dtype and processor family: tiles, blocks, chunks, or BLAS.

The figures were measured by `benchmarks/tune_gemm.py`, which prints them; nothing is measured at run time.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from deepcore.kernels.codegen import cache

#: How an operand is read: unpacked, packed by each chunk, packed before the product.
UNPACKED, BY_CHUNK, PACKED_BEFORE = 0, 1, 2

#: The maximum block of k, on every processor, as the bits depend on it. Longer chains are less accurate.
MAX_STEPS = 192
#: Bytes of the L1 cache, which widely spaced rows of B use unevenly.
FIRST_CACHE = 1 << 15
#: The maximum rows of A packed at a time, whatever the table says: the size of the buffer.
MAX_ROWS = 128


class Table(NamedTuple):
    """The figures of a processor family."""

    #: Bytes of a vector, vectors across a tile, heights of the tall and the low tile.
    bytes: int
    across: int
    heights: tuple[int, int]
    #: Rows up to which A is not split; rows up to which it is not packed either.
    rows: int = MAX_ROWS
    rows_unpacked: int = 36
    #: Rows up to which row-major B is read unpacked, if A is not split and B does not fit the L1 cache.
    rows_plain: int = MAX_ROWS
    #: Steps of k up to which A is not packed in products of more rows; bytes up to which B is not packed.
    steps_unpacked: int = 128
    bytes_unpacked: int = 1 << 17
    #: Multiplications (in float32) up to which a product is one chunk, and two; then those per chunk.
    one_chunk: int = 3 << 17
    two_chunks: int = 1 << 22
    chunk: int = 1 << 21
    #: Vectors across a chunk of a product of more rows.
    across_chunk: int = 32
    #: Cases that BLAS computes faster, by dtype and `kind`, as in "float64 large".
    blas: tuple[str, ...] = ()


TABLES = {
    "avx512": Table(64, 2, (12, 8)),
    "avx2": Table(32, 2, (6, 4), rows_plain=24),
    "neon": Table(16, 2, (12, 8)),
}


def family() -> str | None:
    """The name of this processor's table; None if its vectors have no fused multiply-add, or there is no compiler."""
    try:
        triple, _, features = cache.host()
    except ImportError:
        return None
    available = set(features.split(","))
    if "+avx512f" in available:
        return "avx512"
    if {"+avx2", "+fma"} <= available:
        return "avx2"
    return "neon" if triple.startswith(("aarch64", "arm64")) else None


def own() -> Table:
    """This processor's table, for which kernels are compiled even where `table` is replaced."""
    return TABLES[family() or ""]


@functools.cache
def table() -> Table | None:
    """The table that plans use, or None."""
    return None if family() is None else own()


def kind(m: int, n: int, k: int) -> str:
    """The class of a product's shape: "few" rows or columns, "small", "large", or "long", with much memory read per sum."""
    if min(m, n) <= 4:
        return "few"
    if m * n * k <= 1 << 24:
        return "small"
    return "large" if min(m, n, k) >= 192 else "long"


def steps(k: int) -> int:
    """The block of k: the steps between two sums."""
    blocks = max(1, -(-k // MAX_STEPS))
    return -(-k // (16 * blocks)) * 16


def chunks(t: Table, m: int, n: int, k: int, size: int, columns: int, in_rows: bool) -> tuple[int, int, int, int]:
    """Rows and columns of a chunk, how B and A are read. `columns`: of a tile."""
    if not m * n * k:
        return 1, 1, UNPACKED, UNPACKED
    work = m * n * k * size // 4
    if m <= t.rows:
        count = 1 if work < t.one_chunk else 2 if work < t.two_chunks else max(2, min(32, work // t.chunk))
        chunk_columns = -(-n // (columns * count)) * columns
        pack_a = BY_CHUNK if m > t.rows_unpacked and n >= 8 * columns else UNPACKED
        plain = in_rows and (m <= t.rows_plain or n * k * size <= FIRST_CACHE)
        return m, chunk_columns, UNPACKED if plain else BY_CHUNK, pack_a
    pack_a = BY_CHUNK if k > t.steps_unpacked else UNPACKED
    chunk_columns = min(n, columns * t.across_chunk // t.across)
    # As many rows as a chunk's work needs; more than a block of them only if A is unpacked.
    max_rows = min(t.rows, MAX_ROWS) if pack_a else 1 << 20
    rows = min(max_rows, max(48, max(t.chunk, work // 32) // (chunk_columns * k)))
    rows = -(-m // (8 * -(-m // rows))) * 8
    plain = in_rows and n * k * size <= t.bytes_unpacked
    return rows, chunk_columns, UNPACKED if plain else PACKED_BEFORE, pack_a
