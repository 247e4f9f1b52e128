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

    background.disable()  # compile in this process, so that the states printed are its own
    kernels.discover()
    optimizer.kernel.define_all()
    cuda_optimizer.kernel.define_all()
    all_kernels: list[_Cpu | _Cuda] = [_Cpu(kernel) for kernel in jit.KERNELS.values()]
    for target in sorted(_targets(args.cuda)):
        all_kernels += [_Cuda(kernel, target) for kernel in ptx.KERNELS.values()]
    names = tuple(args.names)
    if names:
        all_kernels = [kernel for kernel in all_kernels if kernel.name.startswith(names)]
        if not all_kernels:
            print(f"deepcore warmup: no kernel's name begins with {' or '.join(names)}", file=sys.stderr)
            return 2
    start = time.perf_counter()
    width = max(len(kernel.name) for kernel in all_kernels)
    failed = 0
    warnings.filterwarnings("ignore", "compiled kernels cannot be kept", DeepcoreWarning)  # reported at the end
    for i, kernel in enumerate(all_kernels, 1):
        kernel_start = time.perf_counter()
        state = kernel.prepare()
        failed += state == "failed"
        if not args.quiet:
            seconds = f" in {time.perf_counter() - kernel_start:.2f} s" if state == "compiled" else ""
            print(f"[{i}/{len(all_kernels)}] {kernel.name.ljust(width)}  {state}{seconds}", flush=True)
    problem = cache.problem()
    if failed:
        print(f"deepcore warmup: {failed} of {len(all_kernels)} kernels cannot be compiled here", file=sys.stderr)
    if problem:
        print(f"deepcore warmup: nothing is kept: {problem} ({cache.folder()})", file=sys.stderr)
    if not args.quiet and not failed:
        print(f"{len(all_kernels)} kernels in {time.perf_counter() - start:.1f} s")
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


def _targets(capability: str | None) -> set[int]:
    """The compute capabilities to compile PTX for: the given one, or those of this machine's GPUs."""
    from deepcore.backend import get_backend
    from deepcore.errors import ArgumentError, BackendError
    from deepcore.kernels.codegen import ptx

    least = f"{ptx.TARGETS[0] / 10} or later"
    if capability is not None:
        major, point, minor = capability.partition(".")
        valid = major.isdecimal() and len(minor) == 1 and minor.isdecimal() and bool(point)
        target = ptx.target_of(10 * int(major) + int(minor)) if valid else 0
        if not target:
            raise ArgumentError("--cuda takes a compute capability", expected=f'"X.Y", {least}', received=capability)
        return {target}
    targets: set[int] = set()
    try:
        for index in range(64):
            targets.add(ptx.target_of(get_backend(f"cuda:{index}").capability))  # type: ignore[attr-defined]
    except BackendError:  # no such GPU
        pass
    return targets - {0}
