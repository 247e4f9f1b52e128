"""Compile every kernel, or those named, into the cache, so that nothing waits for the compiler later.

Kernels that are there already are only loaded. To be run once after an installation, or when an image is built.
"""

from __future__ import annotations

import sys
import time
import warnings

from deepcore.errors import DeepcoreWarning


def arguments(parser) -> None:
    parser.add_argument("names", nargs="*", help="what the kernels' names begin with (default: all)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--cuda", metavar="X.Y", help="also for GPUs of this compute capability (default: those that are here)"
    )


def run(args) -> int:
    from deepcore import kernels
    from deepcore.kernels.codegen import background, cache, jit, ptx
    from deepcore.kernels.cpu import optimizer
    from deepcore.kernels.cuda import optimizer as cuda_optimizer

    background.disable()  # what is compiled here is what is told
    kernels.discover()
    optimizer.kernel.define_all()
    cuda_optimizer.kernel.define_all()
    every: list[_Cpu | _Cuda] = [_Cpu(kernel) for kernel in jit.KERNELS.values()]
    for target in sorted(_targets(args.cuda)):
        every += [_Cuda(kernel, target) for kernel in ptx.KERNELS.values()]
    names = tuple(args.names)
    if names:
        every = [kernel for kernel in every if kernel.name.startswith(names)]
        if not every:
            print(f"deepcore warmup: no kernel's name begins with {' or '.join(names)}", file=sys.stderr)
            return 2
    begun = time.perf_counter()
    width = max(len(kernel.name) for kernel in every)
    failed = 0
    warnings.filterwarnings("ignore", "compiled kernels cannot be kept", DeepcoreWarning)  # what the end says
    for i, kernel in enumerate(every, 1):
        since = time.perf_counter()
        state = kernel.prepare()
        failed += state == "failed"
        if not args.quiet:
            seconds = f" in {time.perf_counter() - since:.2f} s" if state == "compiled" else ""
            print(f"[{i}/{len(every)}] {kernel.name.ljust(width)}  {state}{seconds}", flush=True)
    problem = cache.problem()
    if failed:
        print(f"deepcore warmup: {failed} of {len(every)} kernels cannot be compiled here", file=sys.stderr)
    if problem:
        print(f"deepcore warmup: nothing is kept: {problem} ({cache.folder()})", file=sys.stderr)
    if not args.quiet and not failed:
        print(f"{len(every)} kernels in {time.perf_counter() - begun:.1f} s")
    return 1 if failed or problem else 0


class _Cpu:
    def __init__(self, kernel):
        self.kernel, self.name = kernel, kernel.name

    def prepare(self) -> str:
        self.kernel.ready()
        return self.kernel.state


class _Cuda:
    def __init__(self, kernel, target: int):
        self.kernel, self.target, self.name = kernel, target, f"cuda_{kernel.name} sm_{target}"

    def prepare(self) -> str:
        self.kernel.ptx(self.target)
        return self.kernel.states[self.target]


def _targets(wanted: str | None) -> set[int]:
    """What PTX is wanted for: the compute capability that is asked for, or those of the GPUs here."""
    from deepcore.backend import get_backend
    from deepcore.errors import ArgumentError, BackendError
    from deepcore.kernels.codegen import ptx

    least = f"{ptx.TARGETS[0] / 10} or later"
    if wanted is not None:
        major, point, minor = wanted.partition(".")
        known = major.isdecimal() and len(minor) == 1 and minor.isdecimal() and bool(point)
        target = ptx.target_of(10 * int(major) + int(minor)) if known else 0
        if not target:
            raise ArgumentError("--cuda takes a compute capability", expected=f'"X.Y", {least}', received=wanted)
        return {target}
    found: set[int] = set()
    try:
        for index in range(64):
            found.add(ptx.target_of(get_backend(f"cuda:{index}").capability))  # type: ignore[attr-defined]
    except BackendError:  # no such GPU
        pass
    return found - {0}
