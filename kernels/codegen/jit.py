"""Compiles Python functions to machine code in memory and on disk. The only file that uses numba's internals.

A kernel is a serial function over one chunk of its work. numba compiles its body, which has the declared arguments, and
LLVM inlines that into `int32 kernel(int64* words, int64 chunk)`, which reads the arguments from words: an address, a
whole number or the bits of a float64 each. It returns a status: 0, or why it stopped. Object files are loaded by llvmlite
alone, so a process whose kernels are all cached never imports numba.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from deepcore.errors import DeepcoreError, DeepcoreWarning
from deepcore.kernels.codegen import background, cache, kernel, notice, object_files, toolchain
from deepcore.kernels.codegen.kernel import Operand, Type

#: Versions of numba with known symbol names and calling convention; others compile through `numba.cfunc`.
_SUPPORTED_NUMBA = ((0, 61), (0, 69))

#: Every kernel defined so far, by name.
KERNELS: dict[str, Kernel] = {}


_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # Never fork while LLVM is compiling.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class Kernel(kernel.Kernel):
    """A CPU kernel that is loaded from the cache, or compiled, on first use.

    The built function has the declared arguments and, where the work has several chunks, the chunk's number last; it
    returns a status. `tools` is `codegen.intrinsics`. Inlined functions must come from the file of `build`, of a
    parameter that is a function, or from `kernels`: the cache key covers these files.

    >>> if kernel.ready():
    ...     status = kernel.run(x=x, out=out, n=x.size)
    """

    __slots__ = ("_call", "_cfunc", "address", "state")

    def __init__(self, name: str, build: Callable[..., Callable], *parameters):
        if not name.isidentifier() or name in KERNELS:  # part of a symbol and of a file name
            raise DeepcoreError(f"{name!r} cannot name a kernel, or names one already")
        super().__init__(name, build, *parameters)
        #: The address of the machine code, once ready.
        self.address = 0
        #: "" before the first try, then "compiled", "cached" or "failed".
        self.state = ""
        #: Runs a chunk, once ready: (words as bytes, chunk number) -> status.
        self._call: Callable[[bytes, int], int] = _not_ready
        self._cfunc: Any = None
        KERNELS[name] = self

    def words(self, arguments: Mapping[str, Any]) -> tuple[int | Operand, ...]:
        """The words of a launch in the order of the declaration; the plan's operands stay as they are."""
        words: list[int | Operand] = []
        for name, value in zip(self.arguments, self.ordered(arguments)):
            words += self.encoded(name, value)
        return tuple(words)

    def encoded(self, name: str, value: Any) -> tuple[int | Operand, ...]:
        """The words of one argument."""
        declared = self.arguments[name]
        if isinstance(value, Operand) and declared.kind not in ("Size", "Code", "Rest"):
            return (value,)
        words = _ENCODE[declared.kind](declared, value)
        if words is None:
            raise self.mistyped(name, value)
        return words

    def packed(self, /, **arguments) -> np.ndarray:
        """The words as an array, for `threadpool.prepared`. It and the arguments must outlive their use."""
        return np.array(self.words(arguments), np.int64)

    def run(self, /, **arguments) -> int:
        """Run chunk 0; the status. Only when ready."""
        return self.run_words(self.words(arguments))

    def run_words(self, words: Sequence[Any], chunk: int = 0) -> int:
        """Run one chunk with words in their order; the status. Only when ready."""
        return self._call(_packer(len(words))(*words), chunk)

    def ready(self) -> bool:
        """Whether the kernel can run; loads or compiles it on the first call. Warns once on failure; callers fall back to
        the reference."""
        return self.address != 0 or self._prepare() in ("compiled", "cached")

    def is_cached(self) -> bool:
        """Whether it can run without compilation: it is loaded or in the cache."""
        if self.address:
            return True
        with _LOCK:
            if not self.state:
                try:
                    import llvmlite.binding  # noqa: F401

                    if self._load_cached(*self._stem()):
                        self.state = "cached"
                except Exception:  # `ready` reports the problem
                    return False
        return self.address != 0

    def _prepare(self) -> str:
        with _LOCK:
            if not self.state:
                try:
                    self.state = self._load_or_compile()
                except DeepcoreWarning:  # where warnings are errors
                    self.state = "failed"
                    raise
                except Exception as error:
                    self.state = "failed"
                    _warn(f"kernel {self.name} cannot be compiled ({type(error).__name__}: {error})")
        cache.warn_write_failed()
        return self.state

    def _load_or_compile(self) -> str:
        try:
            import llvmlite.binding  # noqa: F401
        except ImportError:
            return "compiled" if self._compile_in_memory() else "failed"
        stem, symbol = self._stem()
        if self._load_cached(stem, symbol):
            return "cached"
        with notice.CompileNotice():
            return self._compile(stem, symbol)

    def _compile(self, stem: str | None, symbol: str) -> str:
        numba = toolchain.load_numba()
        if numba is None:
            return "failed"
        if not _is_supported(numba):
            return "compiled" if self._compile_in_memory() else "failed"
        if stem and not cache.problem() and _compiled_by_worker(self.name) and self._load_cached(stem, symbol):
            return "cached"
        machine = _machine()
        data = machine.emit_object(optimized(numba, self, symbol, machine))
        if not _loadable(data):
            return "compiled" if self._compile_in_memory() else "failed"
        if stem:
            cache.write(stem, data)
            if self.source:
                cache.write_source(stem, self.source)
        return "compiled" if self._load(data, symbol) else "failed"

    def _stem(self) -> tuple[str | None, str]:
        """The kernel's name in the cache, or None if it cannot be cached, and its symbol."""
        parameters, *files = sources(self.build, self.parameters)
        stem = cache.stem(self.name, (self.arguments, *parameters), *files)
        return stem, f"deepcore_{self.name}_{(stem or '')[-40:]}"

    @property
    def source(self) -> str:
        """The generated Python code, or ""."""
        generate = getattr(self.build, "source", None)
        return "" if generate is None else generate(*self.parameters)

    def _load_cached(self, stem: str | None, symbol: str) -> bool:
        data = cache.read(stem) if stem else None
        return data is not None and self._load(data, symbol)

    def _load(self, data: bytes, symbol: str) -> bool:
        if not _loadable(data):
            return False
        from llvmlite import binding

        engine = _engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(data))
        engine.finalize_object()
        return self._bind(engine.get_function_address(symbol))

    def _compile_in_memory(self) -> bool:
        """Compile with numba's public interface only: the same machine code, not cached on disk."""
        numba = toolchain.load_numba()
        if numba is None or numba.config.DISABLE_JIT:
            return False
        from deepcore.kernels.codegen import intrinsics

        function = _unpacking_function(numba, intrinsics, self)
        options = {name: value for name, value in intrinsics.OPTIONS.items() if name != "nogil"}
        self._cfunc = numba.cfunc(
            numba.types.int32(numba.types.CPointer(numba.types.int64), numba.types.int64), **options
        )(function)
        return self._bind(self._cfunc.address)

    def _bind(self, address: int) -> bool:
        # Words are passed as bytes: packing and passing them takes a quarter of a microsecond.
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64)(address)
        self.address = address
        return address != 0


@functools.cache
def narrow_floats() -> bool:
    """Whether the processor converts float16 by instructions rather than library calls."""
    try:
        triple, _, features = cache.host()
    except ImportError:  # llvmlite, without which no kernel runs
        return False
    return triple.startswith(("aarch64", "arm64")) or "+f16c" in features.split(",")


def _compiled_by_worker(name: str) -> bool:
    """Whether the worker process has compiled the kernel. While it does, this process compiles others from the queue."""
    worker = background.worker()
    if worker is None or worker.claim(name):
        return False
    while worker.current == name:
        other = worker.claim()
        if other is None:
            return worker.wait(name)
        with contextlib.suppress(Exception):  # compiled ahead of use
            KERNELS[other].ready()
    return True


def sources(build: Callable, parameters: tuple) -> tuple:
    """The parameters as part of the cache key, then the source files of the kernel."""
    functions = [p for p in parameters if isinstance(p, FunctionType)]
    named = tuple(p.__qualname__ if isinstance(p, FunctionType) else p for p in parameters)
    return named, build.__code__.co_filename, *(f.__code__.co_filename for f in functions)


def named(kind: str, *parameters) -> str:
    """A kernel name with a digest of its parameters."""
    return f"{kind}_{hashlib.sha256(repr(parameters).encode()).hexdigest()[:16]}"


def _not_ready(words: bytes, chunk: int) -> int:
    raise DeepcoreError("the kernel is not ready")


@functools.cache
def _structure(count: int) -> struct.Struct:
    return struct.Struct(f"{count}q")


@functools.cache
def _packer(count: int) -> Callable[..., bytes]:
    return _structure(count).pack


def signed_words(*values: int) -> list[int]:
    """Unsigned 64-bit integers as signed words."""
    return [value - (value >> 63 << 64) for value in values]


def bits(value: float) -> int:
    """The bits of a float64 as a word."""
    try:
        return _nonzero_bits(value) if value else _bits(value)  # -0.0 == 0.0, so they would share a cache entry
    except struct.error:
        raise TypeError(f"a number is needed, not {value!r}") from None


def _bits(value: float) -> int:
    return _float_word.unpack(_as_float.pack(value))[0]


_nonzero_bits = functools.lru_cache(256)(_bits)


_as_float, _float_word = struct.Struct("d"), struct.Struct("q")


def _pointer(declared: Type, value: Any) -> tuple[int, ...] | None:
    return (address(value),) if isinstance(value, np.ndarray) and value.dtype == declared.dtype else None


def _whole(declared: Type, value: Any) -> tuple[int, ...] | None:
    number = kernel.whole(value)
    return None if number is None else (number,)


def _float(declared: Type, value: Any) -> tuple[int, ...] | None:
    return (bits(float(value)),) if hasattr(value, "__float__") and not isinstance(value, np.ndarray) else None


def _optional(declared: Type, value: Any) -> tuple[int, ...] | None:
    return (0,) if value is None else (address(value),) if isinstance(value, np.ndarray) else None


def _code(declared: Type, value: Any) -> tuple[int, ...] | None:
    return (0,) if value is None else (value.address,) if isinstance(value, Kernel) and value.address else None


def _several(declared: Type, value: Any) -> tuple[int, ...] | None:
    numbers = tuple(map(kernel.whole, value))
    return None if None in numbers else numbers  # type: ignore[return-value]


#: Encoders by kind of argument: the words of a value, or None if it has the wrong type.
_ENCODE: dict[str, Callable[[Type, Any], tuple[int, ...] | None]] = {
    "In": _pointer, "Out": _pointer, "InOut": _pointer, "Words": _pointer,
    "Size": _whole, "Float": _float, "Address": _optional, "Code": _code, "Rest": _several,
}  # fmt: skip


def pack(words) -> bytes:
    """The words as bytes, the form that kernels read."""
    return _packer(len(words))(*words)


# -- addresses --------------------------------------------------------------------------------------------------

# Behind the object's header, an array starts with the address of its data (PyArrayObject_fields, NumPy's C API). All
# memory as one ctypes array is the cheapest way to read it: 0.07 µs, where .ctypes.data takes 0.8.
HEADER = object.__basicsize__
MEMORY: Any = (ctypes.c_int64 * (2**60 - 1)).from_address(0) if struct.calcsize("P") == 8 else None


def fast_address(array) -> int:
    """The address of the first element of a NumPy array (not of a scalar)."""
    return MEMORY[(id(array) + HEADER) >> 3]


def word(at: int) -> int:
    """The int64 at an address."""
    return MEMORY[at >> 3] if MEMORY is not None else 0


def fill(target: Any, words) -> None:
    """Write integers to the start of an int64 array."""
    words = list(words)
    _structure(len(words)).pack_into(target, 0, *words)


def _slow_address(array) -> int:
    return array.ctypes.data


address = fast_address


def _layout_is_known() -> bool:
    samples: list[Any] = [np.empty(3), np.empty((2, 5), np.int8)[1, 2:], np.zeros(0)]
    return MEMORY is not None and HEADER % 8 == 0 and all(address(a) == a.ctypes.data for a in samples)


if not _layout_is_known():
    address = _slow_address


# -- LLVM -------------------------------------------------------------------------------------------------------


@functools.cache
def _engine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine())
    # Never freed: pool threads may still run its code while Python exits.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    return engine


def _machine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple, cpu, features = cache.host()
    return binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu,
        features=features,
        opt=3,
        reloc="static" if triple.startswith(("x86", "i686", "amd64")) else "default",
        codemodel="jitdefault",
        jit=True,
    )


def assembled(text: str, symbol: str) -> int:
    """Compile a function in LLVM IR; its address."""
    from llvmlite import binding

    with _LOCK:
        engine, module = _engine(), binding.parse_assembly(text)
        module.verify()
        engine.add_object_file(binding.ObjectFileRef.from_data(_machine().emit_object(module)))
        engine.finalize_object()
        return engine.get_function_address(symbol)


def _loadable(data: bytes) -> bool:
    """Whether all undefined symbols are allowed and resolvable. LLVM would load the object anyway and call address 0."""
    from llvmlite import binding

    try:
        symbols = object_files.undefined(data)
    except ValueError:
        return False
    return symbols <= object_files.ALLOWED and all(binding.address_of_symbol(name) for name in symbols)


# -- numba ------------------------------------------------------------------------------------------------------


def _is_supported(numba: Any) -> bool:
    version = tuple(int(part) for part in numba.__version__.split(".")[:2] if part.isdecimal())
    return _SUPPORTED_NUMBA[0] <= version < _SUPPORTED_NUMBA[1] and not numba.config.DISABLE_JIT


def numba_type(numba, declared: Type, pointer: Callable) -> Any:
    """An argument's numba type in a kernel's body. `pointer(dtype)`: the device's pointer type."""
    if declared.kind in ("Size", "Address", "Code"):
        return numba.types.int64
    return numba.from_dtype(declared.dtype) if declared.kind == "Float" else pointer(declared.dtype)


def _unpacking_function(numba, tools, declaration: kernel.Kernel) -> Callable:
    """`function(words, chunk)` for numba's public interface, which calls the kernel's body with its arguments."""
    function = declaration.body(tools, "chunk")
    chunk = ", chunk" * (function.__code__.co_argcount - len(declaration.arguments))
    scope: dict[str, Any] = {"body": tools.inline(function), "np": np, "after": tools.after(np.dtype(np.int64))}
    values = []
    for i, (name, declared) in enumerate(declaration.arguments.items()):
        scope[f"view_{name}"] = tools.view_as(numba_type(numba, declared, tools.pointer))
        values.append({
            "Size": f"words[{i}]", "Address": f"words[{i}]", "Code": f"words[{i}]", "Rest": f"after(words, {i})",
            "Float": f"number_{name}(np.int64(words[{i}]).view(np.float64))",
        }.get(declared.kind, f"view_{name}(words[{i}])"))  # fmt: skip
        scope[f"number_{name}"] = declared.dtype.type
    return tools.compiled(f"def kernel(words, chunk):\n    return body({', '.join(values)}{chunk})", scope)["kernel"]


def optimized(numba, declaration: kernel.Kernel, symbol: str, machine) -> Any:
    """The optimised LLVM module with the kernel as `symbol`."""
    from llvmlite import binding

    from deepcore.kernels.codegen import intrinsics

    function = declaration.body(intrinsics, "chunk")
    inputs = [numba_type(numba, declared, intrinsics.pointer) for declared in declaration.arguments.values()]
    inputs += [numba.types.int64] * (function.__code__.co_argcount - len(inputs))
    text, native = lowered(numba, function, numba.types.int32(*inputs))
    module = binding.parse_assembly(text)
    # numba's calling convention: status f(result*, exception**, arguments…).
    types = [str(argument.type) for argument in module.get_function(native).arguments]
    module = binding.parse_assembly(text + _wrapper(symbol, native, types, list(declaration.arguments.values())))
    optimize(machine, module, symbol, vectorize=True)
    return module


def optimize(machine, module, symbol: str, level: int = 3, vectorize: bool = False) -> None:
    """Run LLVM's passes for a target machine over a module that exports only `symbol`."""
    from llvmlite import binding

    for defined in (*module.functions, *module.global_variables):
        if not defined.is_declaration and defined.name != symbol:
            defined.linkage = "internal"  # two objects may inline the same function
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization, options.slp_vectorization = vectorize, False  # numba's defaults
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


def lowered(numba, function: Callable, signature) -> tuple[str, str]:
    """A function lowered by numba: the LLVM IR, and the function's name in it."""
    from deepcore.kernels.codegen import intrinsics

    with _ir_only():
        compiled = numba.njit([signature], no_cpython_wrapper=True, no_cfunc_wrapper=True, **intrinsics.OPTIONS)(
            function
        )
        (inputs,) = compiled.signatures
        return compiled.inspect_llvm(inputs), compiled.overloads[inputs].fndesc.llvm_func_name


@contextlib.contextmanager
def _ir_only() -> Iterator[None]:
    """Context in which numba stops at LLVM IR. Callees are linked into the kernel as IR: compiling each by itself would
    produce unused machine code, and its passes run again on the whole. Blocks compilation in other threads."""
    from numba.core.codegen import CPUCodeLibrary
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    with global_compiler_lock, contextlib.ExitStack() as back:
        codegen = cpu_target.target_context.codegen()
        for owner, name, value in (
            (codegen, "_engine", _NoEngine()),
            (CPUCodeLibrary, "_optimize_functions", _set_data_layout),
            (CPUCodeLibrary, "_optimize_final_module", lambda library: None),
        ):
            back.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _set_data_layout(library, module) -> None:
    """Replaces numba's passes over a single function."""
    module.data_layout = library._codegen._data_layout


class _NoEngine:
    """Replaces numba's execution engine; discards modules."""

    def __init__(self):
        self._environment = ctypes.c_void_p()  # for a function's environment, which only calls from Python read

    def add_module(self, module) -> None:
        pass

    def finalize_object(self) -> None:
        pass

    def is_symbol_defined(self, name: str) -> bool:
        return False

    def get_global_value_address(self, name: str) -> int:
        return ctypes.addressof(self._environment)


def _wrapper(symbol: str, native: str, types: list[str], declared: list[Type]) -> str:
    """LLVM IR of `int32 symbol(int64* words, int64 chunk)`, which reads the arguments from words and calls the body."""
    result, exception, *argument_types = types
    words = result.replace("i32", "i64")  # "ptr", or "i64*" of an older LLVM
    lines, values = [], []
    for i, (kind, type_) in enumerate(zip(declared, argument_types)):
        lines.append(f"%p{i} = getelementptr i64, {words} %words, i64 {i}")
        if kind.kind == "Rest":
            values.append(f"{type_} %p{i}")
            continue
        lines.append(f"%w{i} = load i64, {words} %p{i}")
        if kind.kind in ("Size", "Address", "Code"):
            values.append(f"i64 %w{i}")
            continue
        if kind.kind != "Float":
            lines.append(f"%v{i} = inttoptr i64 %w{i} to {type_}")
        elif type_ == "double":
            lines.append(f"%v{i} = bitcast i64 %w{i} to double")
        else:
            lines += [f"%d{i} = bitcast i64 %w{i} to double", f"%v{i} = fptrunc double %d{i} to {type_}"]
        values.append(f"{type_} %v{i}")
    values += ["i64 %chunk"] * (len(argument_types) - len(declared))
    body = "\n  ".join(lines)
    return f"""
define i32 @{symbol}({words} %words, i64 %chunk) {{
  {body}
  %result = alloca i64
  %raised = alloca i64
  store i64 0, {words} %result
  %r = bitcast {words} %result to {result}
  %e = bitcast {words} %raised to {exception}
  %failed = call i32 @{native}({", ".join([f"{result} %r", f"{exception} %e", *values])})
  %value = load i32, {result} %r
  %fine = icmp eq i32 %failed, 0
  %status = select i1 %fine, i32 %value, i32 -1
  ret i32 %status
}}
"""


_warned = False


def _warn(problem: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"{problem}; plain array code runs in its place: slower", DeepcoreWarning, stacklevel=5)
