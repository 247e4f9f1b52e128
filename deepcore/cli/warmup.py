"""Compile every kernel into the cache, so that nothing waits for the compiler later.

Kernels that are there already are only loaded. To be run once after an installation, or when an image is built.
"""

from __future__ import annotations

import sys
import time


def arguments(parser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args) -> int:
    from deepcore import kernels
    from deepcore.kernels import cache, compiler

    kernels.discover()
    every = list(compiler.KERNELS.values())
    begun = time.perf_counter()
    width = max(len(kernel.name) for kernel in every)
    for i, kernel in enumerate(every, 1):
        since = time.perf_counter()
        kernel.ready()
        if not args.quiet:
            seconds = f" in {time.perf_counter() - since:.2f} s" if kernel.state == "compiled" else ""
            print(f"[{i}/{len(every)}] {kernel.name.ljust(width)}  {kernel.state}{seconds}", flush=True)
    failed = sum(kernel.state == "failed" for kernel in every)
    problem = cache.problem()
    if failed:
        print(f"deepcore warmup: {failed} of {len(every)} kernels cannot be compiled here", file=sys.stderr)
    if problem:
        print(f"deepcore warmup: nothing is kept: {problem} ({cache.folder()})", file=sys.stderr)
    if not args.quiet and not failed:
        print(f"{len(every)} kernels in {time.perf_counter() - begun:.1f} s")
    return 1 if failed or problem else 0
