"""From a Python function to a kernel of a CUDA GPU: numba, LLVM's PTX generator, and CuPy to load and launch it.

numba makes LLVM's language of the function, as for the CPU and from the same scalar formulas, and the LLVM inside
llvmlite makes PTX of that, so neither the CUDA toolkit nor a GPU is needed to compile. Nothing is contracted: sums and
products round as on the CPU, and `fma` is what the code calls so. PTX is kept on disk, and a process that finds it
there imports no numba.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from deepcore import locks
from deepcore.errors import DeepcoreError, DeepcoreWarning
from deepcore.kernels.codegen import cache, jit, toolchain

#: The compute capabilities (ten times) that PTX is made for; a GPU runs that of the highest one not above its own.
TARGETS = (75, 80, 90, 100)
#: Blocks of a grid that strides over its work, for each multiprocessor.
_BLOCKS_EACH = 16

#: Threads of a block, where a kernel does not say otherwise.
THREADS = 256

#: Every kernel defined so far, by name.
KERNELS: dict[str, Kernel] = {}

_TRIPLE = "nvptx64-nvidia-cuda"
_LAYOUT = "e-i64:64-i128:128-v16:16-v32:32-n16:32:64"
_LOCK = locks.rlock()


class Kernel:
    """A CUDA kernel: `build(tools, *parameters)` returns a Python function of pointers and numbers, one thread's work.

    `arguments` are its types: "float32*" is a pointer, "int64" a number. `tools` is `codegen.ptx`. `threads` is
    the size of every block, `resident`, if given, how many a multiprocessor's registers must have room for. Parameters
    are plain functions, or told apart by their repr.
    """

    __slots__ = ("_ptx", "arguments", "build", "name", "parameters", "resident", "states", "threads")

    def __init__(
        self,
        name: str,
        arguments: tuple[str, ...],
        build: Callable,
        *parameters,
        threads: int = THREADS,
        resident: int = 0,
    ):
        if not name.isidentifier() or name in KERNELS:
            raise DeepcoreError(f"{name!r} cannot name a CUDA kernel, or names one already")
        self.name, self.arguments, self.build, self.parameters = name, arguments, build, parameters
        self.threads, self.resident = threads, resident
        self._ptx: dict[int, str | None] = {}
        #: By target, once tried: "compiled", "cached" or "failed".
        self.states: dict[int, str] = {}
        KERNELS[name] = self

    @property
    def symbol(self) -> str:
        return f"deepcore_{self.name}"

    def ptx(self, capability: int) -> str | None:
        """PTX for a GPU of this compute capability (90 is 9.0); None where it cannot be made, which is told once."""
        target = target_of(capability)
        if target not in self._ptx:
            with _LOCK:
                if target not in self._ptx:
                    self.states[target] = "failed"
                    self._ptx[target] = self._make(target)
            cache.warn_unkept()
        return self._ptx[target]

    def _make(self, target: int) -> str | None:
        if target == 0:
            _warn(f"kernel {self.name} needs compute capability {TARGETS[0] / 10} or later")
            return None
        try:
            import llvmlite.binding  # noqa: F401

            parameters, *files = jit.sources(self.build, self.parameters)
            stem = cache.stem(
                f"cuda_{self.name}", (self.arguments, self.threads, self.resident, target, *parameters), *files
            )
            kept = cache.read(stem) if stem else None
            if kept is not None:
                self.states[target] = "cached"
                return kept.decode()
            numba = toolchain.load_numba()
            if numba is None or numba.config.DISABLE_JIT:
                return None
            (text,) = compile_ptx(numba, self, target)
        except DeepcoreWarning:  # where warnings are errors
            raise
        except Exception as error:
            _warn(f"kernel {self.name} cannot be compiled for CUDA ({type(error).__name__}: {error})")
            return None
        self.states[target] = "compiled"
        if stem:
            cache.write(stem, text.encode())
        return text


def target_of(capability: int) -> int:
    """The target whose PTX a GPU of this compute capability runs; 0 where there is none."""
    return max((t for t in TARGETS if t <= capability), default=0)


def compile_ptx(numba: Any, kernel: Kernel, *targets: int) -> list[str]:
    """The PTX of a kernel for each of these compute capabilities; an exception says what is wrong with it."""
    from llvmlite import binding

    from deepcore.kernels.codegen import ptx

    function = kernel.build(ptx, *kernel.parameters)
    types = [_numba_type(numba, name) for name in kernel.arguments]
    text, native = jit.lowered(numba, function, numba.types.void(*types))
    passed = [str(argument.type) for argument in binding.parse_assembly(text).get_function(native).arguments][2:]
    text, late = _for_gpu(text, native, passed, kernel)
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return [_ptx(text, native, late, kernel.symbol, target) for target in targets]


def _ptx(text: str, native: str, late: set[str], symbol: str, target: int) -> str:
    from llvmlite import binding

    machine = binding.Target.from_triple(_TRIPLE).create_target_machine(cpu=f"sm_{target}", opt=3)
    module = binding.parse_assembly(text)
    module.get_function(native).add_function_attribute("alwaysinline")
    jit.optimize(machine, module, symbol)
    if late:
        module = binding.parse_assembly(_with_bodies(str(module), late))
        jit.optimize(machine, module, symbol, level=0)
    ptx = machine.emit_assembly(module)
    unwanted = re.search(r"^\s*(\.extern|\.func|call).*$", ptx, re.MULTILINE)
    if unwanted:
        raise DeepcoreError(f"its PTX calls what is not there: {unwanted.group().strip()}")
    return ptx


def _numba_type(numba, name: str):
    import numpy as np

    kind = numba.from_dtype(np.dtype(name.rstrip("*")))
    return numba.types.CPointer(kind) if name.endswith("*") else kind


def _for_gpu(text: str, native: str, passed: list[str], kernel: Kernel) -> tuple[str, set[str]]:
    """The module with the kernel's entry, and with bodies for what only a GPU has, but for the symbols returned."""
    from deepcore.kernels.codegen import ptx

    text = re.sub(r"^target triple = .*$", f'target triple = "{_TRIPLE}"', text, flags=re.MULTILINE)
    text = re.sub(r"^target datalayout = .*$", f'target datalayout = "{_LAYOUT}"', text, flags=re.MULTILINE)
    used = set(re.findall(r"@(deepcore_ptx_\w+|" + "|".join(ptx.LIBRARY) + r")\(", text))
    late = {symbol for symbol in used if symbol in ptx.PARTS and ptx.PARTS[symbol].late}
    arguments = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(passed))
    resident = f', !"minctasm", i32 {kernel.resident}' if kernel.resident else ""
    entry = f"""
define ptx_kernel void @{kernel.symbol}({arguments}) {{
  %result = alloca i64
  %raised = alloca i64
  %failed = call i32 @{native}(ptr %result, ptr %raised, {arguments})
  ret void
}}
!nvvm.annotations = !{{!90001}}
!90001 = !{{ptr @{kernel.symbol}, !"maxntidx", i32 {kernel.threads}{resident}}}
"""
    return _with_bodies(text, used - late) + entry, late


def _with_bodies(text: str, symbols: set[str]) -> str:
    """The module's text with definitions of these functions in place of their declarations."""
    from deepcore.kernels.codegen import ptx

    added, modules = [], set()
    for symbol in sorted(symbols):
        part = ptx.PARTS.get(symbol) or ptx.LIBRARY[symbol]
        modules |= {part.module} - {""}
        text = re.sub(rf"^declare .*@{symbol}\(.*$", "", text, flags=re.MULTILINE)
        arguments = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(part.arguments))
        added.append(
            f"define internal {part.result} @{symbol}({arguments}) alwaysinline convergent {{\n{part.body}\n}}"
        )
    declared = set(re.findall(r"^declare .*?@([\w.]+)\(", text, re.MULTILINE))
    for module in sorted(modules):
        name = re.search(r"@([\w.]+)", module)[1]  # type: ignore[index]
        if name not in declared:
            added.append(module)
    return "\n".join([text, *added])


def blocks_for(xp, work: int, each: int) -> int:
    """Blocks of a grid that strides over `work` pieces, `each` of them a block's at a time."""
    return max(1, min(-(-work // each), _BLOCKS_EACH * xp.multiprocessors))


_warned = False


def _warn(problem: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"{problem}; plain CuPy code runs in its place: slower", DeepcoreWarning, stacklevel=6)
