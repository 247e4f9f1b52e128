"""From a Python function to machine code in memory and on disk: the one file that names what numba keeps to itself.

A kernel is a serial function over one chunk of its work. numba compiles its body, which has the declared arguments, and
LLVM inlines that into `int32 kernel(int64* words, int64 chunk)`, which reads them from words: an address, a whole number or
the bits of a float64 each. The result is 0 or the reason why it stopped. Object files are loaded by llvmlite alone, so a
process that finds its kernels in the cache never imports numba.
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

#: Versions of numba whose function symbols and calling convention are known; others go through `numba.cfunc`.
_KNOWN = ((0, 61), (0, 69))

#: Every kernel defined so far, by name.
KERNELS: dict[str, Kernel] = {}


_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A child must not begin with LLVM in the middle of something.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class Kernel(kernel.Kernel):
    """A CPU kernel that is loaded from the cache, or compiled, when first asked for.

    The built function has the declared arguments and, where the work has several chunks, the number of the chunk last; it
    returns a status. `tools` is `codegen.intrinsics`. What is inlined must come from the file of `build` or of a
    parameter that is a function, or from `kernels`: these are what the cache's key covers.

    >>> if kernel.ready():
    ...     status = kernel.run(x=x, out=out, n=x.size)
    """

    __slots__ = ("_call", "_kept", "address", "state")

    def __init__(self, name: str, build: Callable[..., Callable], *parameters):
        if not name.isidentifier() or name in KERNELS:  # it becomes part of a symbol and of a file's name
            raise DeepcoreError(f"{name!r} cannot name a kernel, or names one already")
        super().__init__(name, build, *parameters)
        #: Where the machine code starts, once ready.
        self.address = 0
        #: "" before the first try, then "compiled", "cached" or "failed".
        self.state = ""
        #: Runs a chunk, once ready: (words as bytes, number of the chunk) to the status.
        self._call: Callable[[bytes, int], int] = _not_ready
        self._kept: Any = None
        KERNELS[name] = self

    def words(self, arguments: Mapping[str, Any]) -> tuple[int | Operand, ...]:
        """The words of a launch, in the order of the declaration: numbers, and the plan's operands as they are."""
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
        """The words in memory, for `threadpool.prepared`. They and the arrays must outlive their use."""
        return np.array(self.words(arguments), np.int64)

    def run(self, /, **arguments) -> int:
        """Run chunk 0; the status. Only when ready."""
        return self.run_words(self.words(arguments))

    def run_words(self, words: Sequence[Any], chunk: int = 0) -> int:
        """Run one chunk with words in their order; the status. Only when ready."""
        return self._call(_packer(len(words))(*words), chunk)

    def ready(self) -> bool:
        """Whether it can be called, after loading or compiling it at the first try. Warns once on failure; callers fall
        back to the reference."""
        return self.address != 0 or self._prepare() in ("compiled", "cached")

    def kept(self) -> bool:
        """Whether it can be called without being compiled now: it was used before, or is in the cache."""
        if self.address:
            return True
        with _LOCK:
            if not self.state:
                try:
                    import llvmlite.binding  # noqa: F401

                    if self._load_kept(*self._stem()):
                        self.state = "cached"
                except Exception:  # `ready` says what is wrong, where it matters
                    return False
        return self.address != 0

    def _prepare(self) -> str:
        with _LOCK:
            if not self.state:
                try:
                    self.state = self._make()
                except DeepcoreWarning:  # where warnings are errors
                    self.state = "failed"
                    raise
                except Exception as error:
                    self.state = "failed"
                    _warn(f"kernel {self.name} cannot be compiled ({type(error).__name__}: {error})")
        cache.warn_unkept()
        return self.state

    def _make(self) -> str:
        try:
            import llvmlite.binding  # noqa: F401
        except ImportError:
            return "compiled" if self._plain() else "failed"
        stem, symbol = self._stem()
        if self._load_kept(stem, symbol):
            return "cached"
        with notice.CompileNotice():
            return self._compiled(stem, symbol)

    def _compiled(self, stem: str | None, symbol: str) -> str:
        numba = toolchain.load_numba()
        if numba is None:
            return "failed"
        if not _known(numba):
            return "compiled" if self._plain() else "failed"
        if stem and not cache.problem() and _elsewhere(self.name) and self._load_kept(stem, symbol):
            return "cached"
        machine = _machine()
        data = machine.emit_object(optimized(numba, self, symbol, machine))
        if not _loadable(data):
            return "compiled" if self._plain() else "failed"
        if stem:
            cache.write(stem, data)
            if self.source:
                cache.write_source(stem, self.source)
        return "compiled" if self._load(data, symbol) else "failed"

    def _stem(self) -> tuple[str | None, str]:
        """The kernel's name in the cache, if it can have one, and its symbol."""
        parameters, *files = sources(self.build, self.parameters)
        stem = cache.stem(self.name, (self.arguments, *parameters), *files)
        return stem, f"deepcore_{self.name}_{(stem or '')[-40:]}"

    @property
    def source(self) -> str:
        """The Python code that was generated for it, if it was."""
        made = getattr(self.build, "source", None)
        return "" if made is None else made(*self.parameters)

    def _load_kept(self, stem: str | None, symbol: str) -> bool:
        kept = cache.read(stem) if stem else None
        return kept is not None and self._load(kept, symbol)

    def _load(self, data: bytes, symbol: str) -> bool:
        if not _loadable(data):
            return False
        from llvmlite import binding

        engine = _engine()
        engine.add_object_file(binding.ObjectFileRef.from_data(data))
        engine.finalize_object()
        return self._bind(engine.get_function_address(symbol))

    def _plain(self) -> bool:
        """Compile by numba's public interface alone: the same machine code, in memory only."""
        numba = toolchain.load_numba()
        if numba is None or numba.config.DISABLE_JIT:
            return False
        from deepcore.kernels.codegen import intrinsics

        function = _unpacking(numba, intrinsics, self)
        options = {name: value for name, value in intrinsics.OPTIONS.items() if name != "nogil"}
        self._kept = numba.cfunc(
            numba.types.int32(numba.types.CPointer(numba.types.int64), numba.types.int64), **options
        )(function)
        return self._bind(self._kept.address)

    def _bind(self, address: int) -> bool:
        # Bytes are passed as a pointer to what they hold: packing words and passing them is a quarter of a microsecond.
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64)(address)
        self.address = address
        return address != 0


@functools.cache
def narrow_floats() -> bool:
    """Whether the processor converts float16 itself: without that, each would be a call of a library."""
    triple, _, features = cache.host()
    return triple.startswith(("aarch64", "arm64")) or "+f16c" in features.split(",")


def _elsewhere(name: str) -> bool:
    """Whether another process has compiled it meanwhile; this one compiles what comes later as long as that takes."""
    helper = background.helper()
    if helper is None or helper.take(name):
        return False
    while helper.current == name:
        later = helper.take()
        if later is None:
            return helper.wait(name)
        with contextlib.suppress(Exception):  # nobody has asked for it
            KERNELS[later].ready()
    return True


def sources(build: Callable, parameters: tuple) -> tuple:
    """The parameters as they are told apart, then the files that the kernel is made from."""
    functions = [p for p in parameters if isinstance(p, FunctionType)]
    named = tuple(p.__qualname__ if isinstance(p, FunctionType) else p for p in parameters)
    return named, build.__code__.co_filename, *(f.__code__.co_filename for f in functions)


def named(kind: str, *parameters) -> str:
    """A kernel's name, for one of very many that differ in their parameters."""
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
    """Whole numbers of 64 bits without a sign as the words that a kernel takes."""
    return [value - (value >> 63 << 64) for value in values]


def bits(value: float) -> int:
    """A float64 as the word that a kernel takes."""
    try:
        return _nonzero_bits(value) if value else _bits(value)  # a cache takes -0.0 for 0.0
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


#: From an argument's value to its words, or None where it has the wrong type.
_ENCODE: dict[str, Callable[[Type, Any], tuple[int, ...] | None]] = {
    "In": _pointer, "Out": _pointer, "InOut": _pointer, "Words": _pointer,
    "Size": _whole, "Float": _float, "Address": _optional, "Code": _code, "Rest": _several,
}  # fmt: skip


def pack(words) -> bytes:
    """The words as memory that a kernel reads."""
    return _packer(len(words))(*words)


# -- addresses --------------------------------------------------------------------------------------------------

# Behind the object's header, an array starts with the address of its data (PyArrayObject_fields, NumPy's C API). All
# memory as one ctypes array is the cheapest way to read it: 0.07 µs, where .ctypes.data takes 0.8.
HEADER = object.__basicsize__
MEMORY: Any = (ctypes.c_int64 * (2**60 - 1)).from_address(0) if struct.calcsize("P") == 8 else None


def fast_address(array) -> int:
    """Where the first element of a NumPy array (not of a scalar) is."""
    return MEMORY[(id(array) + HEADER) >> 3]


def word(at: int) -> int:
    """The eight bytes at an address, as a whole number."""
    return MEMORY[at >> 3] if MEMORY is not None else 0


def fill(target: Any, words) -> None:
    """Write whole numbers to the start of an int64 array."""
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
    # Never freed: threads of the pool may still be in its code when Python goes.
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
    """The address of a function that is given in LLVM's language."""
    from llvmlite import binding

    with _LOCK:
        engine, module = _engine(), binding.parse_assembly(text)
        module.verify()
        engine.add_object_file(binding.ObjectFileRef.from_data(_machine().emit_object(module)))
        engine.finalize_object()
        return engine.get_function_address(symbol)


def _loadable(data: bytes) -> bool:
    """Whether all that an object leaves open is harmless and here. LLVM loads it either way, and calls address 0."""
    from llvmlite import binding

    try:
        wanted = object_files.undefined(data)
    except ValueError:
        return False
    return wanted <= object_files.ALLOWED and all(binding.address_of_symbol(name) for name in wanted)


# -- numba ------------------------------------------------------------------------------------------------------


def _known(numba: Any) -> bool:
    version = tuple(int(part) for part in numba.__version__.split(".")[:2] if part.isdecimal())
    return _KNOWN[0] <= version < _KNOWN[1] and not numba.config.DISABLE_JIT


def numba_type(numba, declared: Type, pointer: Callable) -> Any:
    """An argument's type in a kernel's body. `pointer(dtype)`: a device's type of a pointer."""
    if declared.kind in ("Size", "Address", "Code"):
        return numba.types.int64
    return numba.from_dtype(declared.dtype) if declared.kind == "Float" else pointer(declared.dtype)


def _unpacking(numba, tools, made: kernel.Kernel) -> Callable:
    """`function(words, chunk)` for numba's public interface: it calls the kernel's body with its arguments."""
    function = made.body(tools, "chunk")
    chunk = ", chunk" * (function.__code__.co_argcount - len(made.arguments))
    scope: dict[str, Any] = {"body": tools.inline(function), "np": np, "after": tools.after(np.dtype(np.int64))}
    values = []
    for i, (name, declared) in enumerate(made.arguments.items()):
        scope[f"view_{name}"] = tools.view_as(numba_type(numba, declared, tools.pointer))
        values.append({
            "Size": f"words[{i}]", "Address": f"words[{i}]", "Code": f"words[{i}]", "Rest": f"after(words, {i})",
            "Float": f"number_{name}(np.int64(words[{i}]).view(np.float64))",
        }.get(declared.kind, f"view_{name}(words[{i}])"))  # fmt: skip
        scope[f"number_{name}"] = declared.dtype.type
    return tools.compiled(f"def kernel(words, chunk):\n    return body({', '.join(values)}{chunk})", scope)["kernel"]


def optimized(numba, made: kernel.Kernel, symbol: str, machine) -> Any:
    """LLVM's module in which `symbol` is the kernel, after all passes for a machine."""
    from llvmlite import binding

    from deepcore.kernels.codegen import intrinsics

    function = made.body(intrinsics, "chunk")
    inputs = [numba_type(numba, declared, intrinsics.pointer) for declared in made.arguments.values()]
    inputs += [numba.types.int64] * (function.__code__.co_argcount - len(inputs))
    text, native = lowered(numba, function, numba.types.int32(*inputs))
    module = binding.parse_assembly(text)
    # numba's own convention: status f(result*, exception**, arguments…).
    types = [str(argument.type) for argument in module.get_function(native).arguments]
    module = binding.parse_assembly(text + _wrapper(symbol, native, types, list(made.arguments.values())))
    optimize(machine, module, symbol, vectorize=True)
    return module


def optimize(machine, module, symbol: str, level: int = 3, vectorize: bool = False) -> None:
    """LLVM's passes for a machine over a module of which only `symbol` is seen from outside."""
    from llvmlite import binding

    for defined in (*module.functions, *module.global_variables):
        if not defined.is_declaration and defined.name != symbol:
            defined.linkage = "internal"  # two objects may inline the same function
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization, options.slp_vectorization = vectorize, False  # as numba has it
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


def lowered(numba, function: Callable, signature) -> tuple[str, str]:
    """What numba makes of a function: LLVM's text, and the function's name in it."""
    from deepcore.kernels.codegen import intrinsics

    with _no_machine_code():
        made = numba.njit([signature], no_cpython_wrapper=True, no_cfunc_wrapper=True, **intrinsics.OPTIONS)(function)
        (inputs,) = made.signatures
        return made.inspect_llvm(inputs), made.overloads[inputs].fndesc.llvm_func_name


@contextlib.contextmanager
def _no_machine_code() -> Iterator[None]:
    """Inside, numba makes LLVM's language and stops there. What a kernel calls is linked into it as that: machine code of
    each function by itself would be thrown away, and passes over it run again on the whole. Other threads' compiling
    waits."""
    from numba.core.codegen import CPUCodeLibrary
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    with global_compiler_lock, contextlib.ExitStack() as back:
        codegen = cpu_target.target_context.codegen()
        for owner, name, value in (
            (codegen, "_engine", _NoEngine()),
            (CPUCodeLibrary, "_optimize_functions", _laid_out),
            (CPUCodeLibrary, "_optimize_final_module", lambda library: None),
        ):
            back.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _laid_out(library, module) -> None:
    """All that is left of a function's own passes."""
    module.data_layout = library._codegen._data_layout


class _NoEngine:
    """In the stead of numba's engine: it takes modules, and makes nothing of them."""

    def __init__(self):
        self._environment = ctypes.c_void_p()  # where that of a function goes, which only Python's calls would read

    def add_module(self, module) -> None:
        pass

    def finalize_object(self) -> None:
        pass

    def is_symbol_defined(self, name: str) -> bool:
        return False

    def get_global_value_address(self, name: str) -> int:
        return ctypes.addressof(self._environment)


def _wrapper(symbol: str, native: str, types: list[str], declared: list[Type]) -> str:
    """`int32 symbol(int64* words, int64 chunk)`: it reads the arguments from their words and calls the body."""
    result, exception, *passed = types
    words = result.replace("i32", "i64")  # "ptr", or "i64*" of an older LLVM
    lines, values = [], []
    for i, (kind, type_) in enumerate(zip(declared, passed)):
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
    values += ["i64 %chunk"] * (len(passed) - len(declared))
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
