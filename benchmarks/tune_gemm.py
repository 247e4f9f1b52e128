"""Derives the figures of `kernels/cpu/gemm_tables.py` for this machine's family of processors, and prints them.

    python benchmarks/tune_gemm.py [--tiles] [--rounds 5]

One figure after the other is varied; all its values take turns, round after round, and one that is 2 % faster in the
geometric mean over the shapes stays. `--tiles` also tries other heights of tiles, which are compiled for it. At last
each class of shapes is compared with BLAS on chunks. A few minutes on an idle machine; nothing is written.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np

from deepcore.backend import get_backend
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu import gemm, gemm_tables

SHAPES = [
    (32, 64, 64), (32, 784, 128), (64, 784, 512), (64, 512, 512), (256, 1024, 1024), (1024, 1024, 1024),
    (50176, 64, 64), (8, 64, 3136), (1, 2048, 2048), (127, 255, 63), (300, 300, 300), (2000, 64, 256),
]  # fmt: skip
LAYOUTS = ("NN", "NT", "TN", "TT")
VALUES = {
    "rows": (64, 96, 128),
    "rows_unpacked": (16, 36, 64, 128),
    "rows_plain": (12, 24, 64, 128),
    "steps_unpacked": (64, 128, 256, 512),
    "bytes_unpacked": (1 << 15, 1 << 17, 1 << 19, 1 << 21),
    "one_chunk": (3 << 15, 3 << 16, 3 << 17, 3 << 18),
    "two_chunks": (1 << 20, 1 << 21, 1 << 22, 1 << 23),
    "chunk": (1 << 19, 1 << 20, 1 << 21, 1 << 22),
    "across_chunk": (8, 16, 32, 64, 256),
}
TILES = {"avx512": [(12, 8), (8, 4), (14, 8), (10, 6)], "avx2": [(6, 4), (4, 2), (5, 3)], "neon": [(12, 8), (8, 4)]}
FLOAT32 = np.dtype("float32")
#: How much faster a value must be to replace the present one.
WORTH = 1.02


def operands(shape, layout: str, dtype: str):
    rng = np.random.default_rng(0)
    m, k, n = shape
    a = rng.standard_normal((k, m) if layout[0] == "T" else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if layout[1] == "T" else (k, n)).astype(dtype)
    return a.T if layout[0] == "T" else a, b.T if layout[1] == "T" else b


def seconds(call, least: float = 0.003) -> float:
    call()
    count, start = 0, time.perf_counter()
    while True:
        call()
        count += 1
        taken = time.perf_counter() - start
        if taken >= least:
            return taken / count


def use(table: gemm_tables.Table, *kernels: Kernel) -> None:
    """Have float32 products planned by a table, and computed by kernels that were compiled for it."""
    gemm_tables.table = lambda: table
    gemm.PRODUCT.plans.clear()
    if kernels:
        gemm._KERNELS[FLOAT32], gemm._ROW_PACKERS[FLOAT32] = kernels


def contest(tables: list, shapes, rounds: int, dtype: str = "float32", kernels=None) -> list[float]:
    """Each table's speed beside the first's: geometric mean over the shapes of medians of ratios within a round."""
    logs = [0.0] * len(tables)
    for shape in shapes:
        for layout in LAYOUTS:
            a, b = operands(shape, layout, dtype)
            out = np.empty((shape[0], shape[2]), dtype)
            ratios: list[list[float]] = [[] for _ in tables]
            seconds(lambda a=a, b=b, out=out: gemm.product(a, b, out))
            for r in range(rounds):
                taken = [0.0] * len(tables)
                for i in (*range(r % len(tables), len(tables)), *range(r % len(tables))):
                    use(tables[i], *(kernels[i] if kernels else ()))
                    taken[i] = seconds(lambda a=a, b=b, out=out: gemm.product(a, b, out))
                for found, t in zip(ratios, taken):
                    found.append(taken[0] / t)
            for i, found in enumerate(ratios):
                logs[i] += math.log(statistics.median(found)) / (len(shapes) * len(LAYOUTS))
    return [math.exp(x) for x in logs]


def best_tile(table, family: str, rounds: int):
    tables = [table._replace(heights=heights) for heights in TILES[family]]
    kernels = []
    for candidate in tables:
        heights = "_".join(map(str, candidate.heights))
        product = Kernel(f"tune_gemm_{heights}", gemm._product_chunk, "float32", candidate)
        rows = Kernel(f"tune_gemm_pack_rows_{heights}", gemm._pack_rows_before, "float32", candidate)
        if not product.ready() or not rows.ready():
            raise SystemExit(f"the tile {candidate.heights} cannot be compiled")
        kernels.append((product, rows))
    speeds = contest(tables, SHAPES, rounds, kernels=kernels)
    for candidate, speed in zip(tables, speeds):
        print(f"heights={candidate.heights}: {speed:.3f}", flush=True)
    best = max(range(len(tables)), key=speeds.__getitem__)
    best = best if speeds[best] > WORTH else 0
    use(tables[best], *kernels[best])
    return tables[best]


def best_values(table, rounds: int):
    for field, values in VALUES.items():
        values = [getattr(table, field), *(v for v in values if v != getattr(table, field))]
        tables = [table._replace(**{field: value}) for value in values]
        speeds = contest(tables, SHAPES, rounds)
        print(field, ", ".join(f"{value}: {speed:.3f}" for value, speed in zip(values, speeds)), flush=True)
        best = max(range(len(tables)), key=speeds.__getitem__)
        if speeds[best] > WORTH:
            table = tables[best]
    return table


def blas_wins(table, rounds: int) -> tuple[str, ...]:
    """Classes of shapes in which BLAS on chunks is faster, by dtype."""
    backend, wins = get_backend("cpu"), []
    use(table)

    def chunked(a, b):
        with backend.blas.one_thread():
            return backend._chunked_matmul(a, b)

    for dtype in ("float32", "float64"):
        logs: dict[str, list[float]] = {}
        for shape in SHAPES:
            m, k, n = shape
            for layout in LAYOUTS:
                a, b = operands(shape, layout, dtype)
                ratio = statistics.median(
                    seconds(lambda a=a, b=b: gemm.product(a, b)) / seconds(lambda a=a, b=b: chunked(a, b))
                    for _ in range(rounds)
                )
                logs.setdefault(gemm_tables.kind(m, n, k), []).append(math.log(ratio))
        for kind, found in logs.items():
            ratio = math.exp(statistics.mean(found))
            print(f"{dtype} {kind}: {1 / ratio:.2f} times BLAS on chunks", flush=True)
            if ratio > WORTH:
                wins.append(f"{dtype} {kind}")
    return tuple(wins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", action="store_true", help="also try other heights of tiles")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    name = gemm_tables.family()
    if name is None:
        raise SystemExit("this processor's vectors have no fused multiply-add: there is nothing to tune")
    table = gemm_tables.TABLES[name]._replace(blas=())
    if arguments.tiles:
        table = best_tile(table, name, arguments.rounds)
    table = best_values(table, arguments.rounds)
    table = table._replace(blas=blas_wins(table, arguments.rounds))
    print(f"{name!r}: {table}")


if __name__ == "__main__":
    main()
