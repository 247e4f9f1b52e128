"""Compiles Python functions to CUDA kernels with numba and LLVM's PTX generator; CuPy loads and launches them.

numba lowers the function to LLVM IR, as for the CPU and from the same scalar formulas, and the LLVM inside llvmlite
compiles that to PTX, so compilation needs neither the CUDA toolkit nor a GPU. Nothing is contracted: sums and products
round as on the CPU, and an fma is emitted only for `fma`. PTX is cached on disk; a process whose kernels are all cached
never imports numba.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from deepcore import locks
from deepcore.errors import DeepcoreError, DeepcoreWarning
from deepcore.kernels.codegen import cache, jit, kernel, toolchain

#: Compute capabilities, times ten, with PTX of their own; a GPU runs the highest one not above its own.
TARGETS = (75, 80, 90, 100)
#: Default threads per block.
THREADS = 256

#: Every kernel defined so far, by name.
KERNELS: dict[str, Kernel] = {}

_TRIPLE = "nvptx64-nvidia-cuda"
_LAYOUT = "e-i64:64-i128:128-v16:16-v32:32-n16:32:64"
_LOCK = locks.rlock()


class Kernel(kernel.Kernel):
    """A CUDA kernel: the built function runs in each thread.

    `tools` is `codegen.cuda_intrinsics`. `threads` is the block size, `resident` the minimum of blocks per
    multiprocessor, which bounds the registers of a thread.
    """

    __slots__ = ("_ptx", "resident", "states", "threads")

    def __init__(self, name: str, build: Callable, *parameters, threads: int = THREADS, resident: int = 0):
        if not name.isidentifier() or name in KERNELS:
            raise DeepcoreError(f"{name!r} cannot name a CUDA kernel, or names one already")
        super().__init__(name, build, *parameters)
        self.threads, self.resident = threads, resident
        self._ptx: dict[int, str | None] = {}
        #: "compiled", "cached" or "failed", by target.
        self.states: dict[int, str] = {}
        KERNELS[name] = self

    def values(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments of a launch in the order of the declaration: arrays, and numbers of the declared types."""
        values = []
        for (name, declared), value in zip(self.arguments.items(), self.ordered(arguments)):
            if declared.kind == "Size":
                value = kernel.whole(value)
            elif declared.kind == "Float":
                value = declared.dtype.type(value)
            elif getattr(value, "dtype", None) != declared.dtype:
                value = None
            if value is None:
                raise self.mistyped(name, arguments[name])
            values.append(value)
        return tuple(values)

    @property
    def symbol(self) -> str:
        return f"deepcore_{self.name}"

    def ptx(self, capability: int) -> str | None:
        """PTX for a GPU of this compute capability (90 is 9.0); None on failure, with one warning."""
        target = target_of(capability)
        if target not in self._ptx:
            with _LOCK:
                if target not in self._ptx:
                    self.states[target] = "failed"
                    self._ptx[target] = self._load_or_compile(target)
            cache.warn_write_failed()
        return self._ptx[target]

    def _load_or_compile(self, target: int) -> str | None:
        if target == 0:
            _warn(f"kernel {self.name} needs compute capability {TARGETS[0] / 10} or later")
            return None
        try:
            import llvmlite.binding  # noqa: F401

            parameters, *files = jit.sources(self.build, self.parameters)
            stem = cache.stem(
                f"cuda_{self.name}", (self.arguments, self.threads, self.resident, target, *parameters), *files
            )
            data = cache.read(stem) if stem else None
            if data is not None:
                self.states[target] = "cached"
                return data.decode()
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
    """The target whose PTX a GPU of this compute capability runs; 0 if there is none."""
    return max((t for t in TARGETS if t <= capability), default=0)


def compile_ptx(numba: Any, declaration: Kernel, *targets: int) -> list[str]:
    """The PTX of a kernel for each of these compute capabilities; raises on failure."""
    from llvmlite import binding

    from deepcore.kernels.codegen import cuda_intrinsics

    function = declaration.body(cuda_intrinsics)
    types = [jit.numba_type(numba, declared, cuda_intrinsics.pointer) for declared in declaration.arguments.values()]
    text, native = jit.lowered(numba, function, numba.types.void(*types))
    _, _, *arguments = binding.parse_assembly(text).get_function(native).arguments
    text, late = _retargeted(text, native, [str(argument.type) for argument in arguments], declaration)
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return [_ptx(text, native, late, declaration.symbol, target) for target in targets]


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
    external = re.search(r"^\s*(\.extern|\.func|call).*$", ptx, re.MULTILINE)
    if external:
        raise DeepcoreError(f"its PTX calls an undefined function: {external.group().strip()}")
    return ptx


def _retargeted(text: str, native: str, argument_types: list[str], declaration: Kernel) -> tuple[str, set[str]]:
    """The module retargeted to PTX, with the kernel's entry and bodies of device functions, except the late ones returned."""
    from deepcore.kernels.codegen import cuda_intrinsics

    text = re.sub(r"^target triple = .*$", f'target triple = "{_TRIPLE}"', text, flags=re.MULTILINE)
    text = re.sub(r"^target datalayout = .*$", f'target datalayout = "{_LAYOUT}"', text, flags=re.MULTILINE)
    used = set(re.findall(r"@(deepcore_ptx_\w+|" + "|".join(cuda_intrinsics.LIBRARY) + r")\(", text))
    late = {
        symbol
        for symbol in used
        if symbol in cuda_intrinsics.DEVICE_FUNCTIONS and cuda_intrinsics.DEVICE_FUNCTIONS[symbol].late
    }
    arguments = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(argument_types))
    resident = f', !"minctasm", i32 {declaration.resident}' if declaration.resident else ""
    entry = f"""
define ptx_kernel void @{declaration.symbol}({arguments}) {{
  %result = alloca i64
  %raised = alloca i64
  %failed = call i32 @{native}(ptr %result, ptr %raised, {arguments})
  ret void
}}
!nvvm.annotations = !{{!90001}}
!90001 = !{{ptr @{declaration.symbol}, !"maxntidx", i32 {declaration.threads}{resident}}}
"""
    return _with_bodies(text, used - late) + entry, late


def _with_bodies(text: str, symbols: set[str]) -> str:
    """The module's IR with definitions of these functions in place of their declarations."""
    from deepcore.kernels.codegen import cuda_intrinsics

    definitions, modules = [], set()
    for symbol in sorted(symbols):
        function = cuda_intrinsics.DEVICE_FUNCTIONS.get(symbol) or cuda_intrinsics.LIBRARY[symbol]
        modules |= {function.module} - {""}
        text = re.sub(rf"^declare .*@{symbol}\(.*$", "", text, flags=re.MULTILINE)
        arguments = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(function.arguments))
        definitions.append(
            f"define internal {function.result} @{symbol}({arguments}) alwaysinline convergent {{\n{function.body}\n}}"
        )
    declared = set(re.findall(r"^declare .*?@([\w.]+)\(", text, re.MULTILINE))
    for module in sorted(modules):
        name = re.search(r"@([\w.]+)", module)[1]  # type: ignore[index]
        if name not in declared:
            definitions.append(module)
    return "\n".join([text, *definitions])


_warned = False


def _warn(problem: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"{problem}; plain CuPy code runs in its place: slower", DeepcoreWarning, stacklevel=6)
