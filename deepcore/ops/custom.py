"""`dc.kernel`: elementwise ops of scalar Python functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from deepcore import locks
from deepcore.autograd import apply
from deepcore.autograd.graph import constant, is_array
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ArgumentTypeError, GradientError, UnsupportedError, suggest
from deepcore.kernels.math import formulas, translate
from deepcore.ops.pieces import broadcast_shapes
from deepcore.ops.registry import Op, as_number, cast
from deepcore.tensor import Tensor

_LOCK = locks.rlock()
#: Points at which a gradient is compared with finite differences, and the step, relative to numbers above 1.
_POINTS, _STEP = 24, 1e-6
_TOLERANCE = 1e-4
_ROOTS = (2, 3, 5, 7, 11, 13, 17, 19)


class Kernel:
    """What `dc.kernel` returns: called with tensors and numbers, which broadcast."""

    def __init__(self, function: Callable, component: tuple[int, int] | None = None, real: bool = False):
        self._reader = translate.Reader(function)
        self._kernel_function = self._reader.function
        functools.update_wrapper(self, self._kernel_function)
        self._component, self._least = component, "f" if real else None
        #: By parameter: the kernel that computes the derivative, and whether it multiplies by the incoming gradient.
        self._derivatives: dict[str, tuple[Kernel, bool]] = {}
        self._variants: dict[tuple, _Variant] = {}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the function's arguments."""
        return self._reader.parameters

    def __repr__(self) -> str:
        return f"<kernel {self._reader.name}({', '.join(self.parameters)})>"

    def __reduce__(self) -> str:  # by name, as functions are
        return self.__qualname__  # type: ignore[attr-defined]

    # -- calls --------------------------------------------------------------------------------------------
    def __call__(self, *args, **kwargs):
        values = args if not kwargs and len(args) == len(self.parameters) else self._bound(args, kwargs)
        operands: list[Any] = []
        numeric: list[Any] = []
        has_tensor = False
        for name, value in zip(self.parameters, values):
            if not isinstance(value, Tensor):
                number = as_number(value)
                if number is None:
                    if not is_array(value):
                        raise ArgumentTypeError(
                            f"{self._reader.name}: {name!r} is neither a tensor nor a number",
                            received=type(value).__name__,
                            fix="dc.tensor(…) makes a tensor",
                        )
                    value = constant(self._reader.name, value)
                else:
                    operands.append(number)
                    if not isinstance(number, bool):
                        numeric.append(type(number))
                    continue
            has_tensor = True
            operands.append(value)
            if value._data.dtype != dt.bool_:
                numeric.append((value._data.dtype, value._data.ndim))
        if not has_tensor:
            return self._kernel_function(*operands) if self._component is None else self._number(operands)
        dtype = dt.result_type(numeric) if numeric else dt.bool_
        return self.variant(operands, dtype)(operands, dtype)

    def _bound(self, args: tuple, kwargs: dict) -> list:
        names, defaults = self.parameters, self._reader.defaults
        if len(args) > len(names):
            raise ArgumentTypeError(
                f"{self._reader.name} takes {len(names)} arguments",
                received=f"{len(args)}",
                fix=f"({', '.join(names)})",
            )
        given = dict(zip(names, args))
        for name, value in kwargs.items():
            if name not in names:
                raise ArgumentTypeError(f"{self._reader.name} has no argument {name!r}", fix=suggest(name, names))
            if name in given:
                raise ArgumentTypeError(f"{self._reader.name} got {name!r} twice")
            given[name] = value
        missing = [name for name in names if name not in given and name not in defaults]
        if missing:
            raise ArgumentTypeError(f"{self._reader.name} needs {' and '.join(map(repr, missing))}")
        return [given[name] if name in given else defaults[name] for name in names]

    def _number(self, operands: list):
        n = self._component[0]  # type: ignore[index]
        result = self._kernel_function(*operands)
        return result[n] if isinstance(result, tuple) else result

    def variant(self, operands: Sequence, dtype) -> _Variant:
        """The op for operands of these kinds, with the present values of what the function reads from outside."""
        real = dt.is_floating(dtype)
        kinds = "".join(
            "b"
            if isinstance(x, bool) or (isinstance(x, Tensor) and x._data.dtype == dt.bool_)
            else "f"
            if real
            else "i"
            for x in operands
        )
        key = kinds, tuple([isinstance(x, Tensor) for x in operands])
        found = self._variants.get(key)
        if found is None or not found.is_current():
            with _LOCK:
                found = self._variants[key] = _Variant(self, *key)
        return found

    # -- gradients ------------------------------------------------------------------------------------------
    def gradient(self, function, check: bool = True):
        """Set the derivative: of the first argument, or with a tuple as result of as many arguments; also a decorator.

        `function`: a scalar function, or a kernel, which may have a gradient itself, or a sequence of them, one for each
        argument, with None where there is none. Its arguments are some of the kernel's, by name; `out`, the kernel's
        result, and `g`, the incoming gradient, by which it then multiplies itself. Returns the kernel of the derivative.

        With `check`, it is compared with finite differences in float64 at points between -3 and 3 where both are
        finite and smooth; `GradientError` names a point and the two numbers.
        """
        parts = self._parts(function)
        derivatives = {}
        for name, part in zip(self.parameters, parts):
            if part is None:
                continue
            known = {*self.parameters, "g", "out"}
            for wanted in part.parameters:
                if wanted not in known:
                    raise ArgumentError(
                        f"the gradient of {self._reader.name} has an argument {wanted!r} of its own",
                        expected=f"some of {', '.join(self.parameters)}, out and g",
                        where=part._reader.place(part._reader.node),
                    )
            derivatives[name] = part, "g" in part.parameters and "g" not in self.parameters
        if check:
            for name in derivatives:
                self._compare(name, *derivatives[name])
        self._derivatives = derivatives
        for variant in self._variants.values():
            variant.op = None
        first = next((part for part in parts if part is not None), None)
        return first if isinstance(function, Kernel) or len(derivatives) == 1 else function

    def _parts(self, function) -> list[Kernel | None]:
        if isinstance(function, (list, tuple)):
            parts = [f if f is None or isinstance(f, Kernel) else Kernel(f, real=True) for f in function]
        elif isinstance(function, Kernel):
            parts = [function]
        else:
            count = translate.returns(translate.Reader(function))
            parts = [Kernel(function, real=True)] if count is None else [
                Kernel(function, (i, count), real=True) for i in range(count)
            ]  # fmt: skip
        if len(parts) > len(self.parameters):
            raise ArgumentError(
                f"{self._reader.name} has {len(self.parameters)} arguments, and {len(parts)} derivatives",
                fix="one number for each argument, in order",
            )
        return parts

    def _compare(self, name: str, part: Kernel, multiplies: bool) -> None:
        """Compare a derivative with finite differences; nothing where the kernel is not of real numbers."""
        xp, j, count = get_backend("cpu"), self.parameters.index(name), len(self.parameters)
        try:
            values = self._array_function("f" * count)
            derivative = part._array_function("f" * len(part.parameters))
        except (translate.WrongKind, translate.UndefinedName):
            return
        points = [
            xp.asarray([math.fmod((k + 1) * math.sqrt(_ROOTS[i % len(_ROOTS)] + i // len(_ROOTS)), 1.0) * 6 - 3 for k in range(_POINTS)])
            for i in range(count)
        ]  # fmt: skip
        step = _STEP * xp.maximum(1.0, xp.abs(points[j]))

        def moved(times: float):
            return values(xp, [p + times * step if i == j else p for i, p in enumerate(points)])

        def compute():
            out = values(xp, points)
            numeric, other = ((moved(h) - moved(-h)) / (2 * h * step) for h in (1.0, 3.0))
            given = {**dict(zip(self.parameters, points))}
            given = {"out": out, "g": xp.ones(_POINTS), **given}
            exact = xp.broadcast_to(derivative(xp, [given[n] for n in part.parameters]), (_POINTS,))
            return out, numeric, other, exact

        from deepcore.effects import mode

        out, numeric, other, exact = mode.enter(compute)
        scale = _TOLERANCE * xp.maximum(1.0, xp.abs(numeric)) + 1e-14 * xp.abs(out) / step
        smooth = xp.isfinite(out) & xp.isfinite(numeric) & (xp.abs(numeric - other) <= scale)
        wrong = smooth & ~(xp.abs(exact - numeric) <= 2 * scale)
        if bool(wrong.any()):
            k = int(wrong.argmax())
            at = ", ".join(f"{n}={float(p[k]):.6g}" for n, p in zip(self.parameters, points))
            raise GradientError(
                f"the gradient of {self._reader.name} with respect to {name!r} is wrong",
                expected=f"{float(numeric[k]):.9g} at {at}, by finite differences",
                received=f"{float(exact[k]):.9g}",
                where=part._reader.place(part._reader.node),
                fix="correct it, or pass check=False where it differs on purpose",
            )

    def _array_function(self, kinds: str) -> Callable:
        translation, _ = translate.translate(self._reader, kinds, self._component, self._least)
        return lambda xp, values: translate.evaluate(xp, translation, values, dt.float64)


class _Variant:
    """A kernel for operands of some kinds, as an op."""

    def __init__(self, kernel: Kernel, kinds: str, tensors: tuple[bool, ...]):
        self.kernel, self.kinds = kernel, kinds
        translation, self.outside = translate.translate(kernel._reader, kinds, kernel._component, kernel._least)
        count = len(kinds)
        self.real = "f" in kinds
        #: Whether kernels of real numbers run it: numbers are parameters then, and else operands.
        self.is_map = self.real and translation.result == "f"
        numbers = [i for i in range(count) if not tensors[i] and kinds[i] == "f"] if self.is_map else []
        self.inputs = [i for i in range(count) if i not in numbers]
        if self.is_map:
            self.inputs.sort(key=lambda i: kinds[i] != "b")
        self.numbers = numbers
        translation = translate.reordered(translation, kernel._reader, [*self.inputs, *numbers])
        self.names = [f"p{k}" for k in range(len(numbers))]
        if numbers:
            translation = translation._replace(name=f"{translation.name}_{len(numbers)}")
        self.translation = translation
        self.op: Op | None = None
        self._define()

    def _define(self) -> None:
        from deepcore.kernels.cpu import elementwise, typed
        from deepcore.kernels.cuda import elementwise as cuda

        name = self.translation.name
        if name in formulas.USERS:
            return
        formulas.USERS[name] = translate.formula(self.translation)
        formulas.HOST_ONLY.update((name, dtype) for dtype in self.translation.host)
        kinds = [self.kinds[i] for i in self.inputs]
        if self.is_map:
            elementwise.define(name, tuple(self.names), kinds.count("b"))
            if "b" not in kinds:
                cuda.define(name, len(kinds), tuple(self.names))
        else:
            typed.define(name, "".join(kinds), self.translation.result)

    def is_current(self) -> bool:
        """Whether the function still reads the same numbers and functions from outside."""
        for lookup, path, value in self.outside:
            try:
                now = lookup(path[0])
                for attribute in path[1:]:
                    now = getattr(now, attribute)
            except (AttributeError, ArgumentError):
                return False
            if now is not value and (type(now) is not type(value) or callable(value) or repr(now) != repr(value)):
                return False
        return True

    def __call__(self, operands: Sequence, dtype) -> Tensor:
        backend = next(x.backend for x in operands if isinstance(x, Tensor))
        inputs = []
        for i in self.inputs:
            x, wanted = operands[i], dt.bool_ if self.kinds[i] == "b" else dtype
            if not isinstance(x, Tensor):
                x = Tensor(backend.constant(x, wanted), backend)
            elif x._data.dtype != wanted:
                x = cast(x, wanted)
            inputs.append(x)
        op = self.op or self._op()
        return apply(op, tuple(inputs), {n: float(operands[i]) for n, i in zip(self.names, self.numbers)})

    def _op(self) -> Op:
        kernel, translation, names = self.kernel, self.translation, self.kernel.parameters
        result, real_kinds = translation.result, [self.kinds[i] for i in self.inputs]

        def run(xp, arrays, numbers):
            real = next((a.dtype for a, kind in zip(arrays, real_kinds) if kind == "f"), dt.default_float)
            computed = real if real.itemsize > 2 else dt.float32
            wide = {"f": computed, "i": dt.int64, "b": dt.bool_}
            values = [a.astype(wide[kind]) for a, kind in zip(arrays, real_kinds)]
            out = translate.evaluate(xp, translation, [*values, *numbers], computed)
            whole = next((a.dtype for a, kind in zip(arrays, real_kinds) if kind == "i"), dt.int64)
            shape = broadcast_shapes(*(a.shape for a in arrays))
            return xp.broadcast_to(out, shape).astype({"f": real, "i": whole, "b": dt.bool_}[result])

        ins, parameters = [f"a{k}" for k in range(len(self.inputs))], self.names
        keywords = f", *, {', '.join(parameters)}" if parameters else ""
        text = f"def forward(xp, {', '.join(ins)}{keywords}):\n    return run(xp, ({', '.join(ins)},), [{', '.join(parameters)}])"
        scope: dict[str, Any] = {"run": run}
        exec(text, scope)
        forward = scope["forward"]
        forward.__name__ = translation.name
        vjps: tuple = (None,)
        if result == "f":
            vjps = tuple(
                None
                if self.kinds[i] != "f"
                else self._vjp(names[i], [*ins, *parameters], [*self.inputs, *self.numbers])
                for i in self.inputs
            )
        op = Op(forward, vjps)
        op.label = kernel._reader.name.strip("<>")
        self.op = op
        return op

    def _vjp(self, name: str, arguments: list[str], order: list[int]) -> Callable:
        kernel, parameters = self.kernel, self.kernel.parameters
        derivative, multiplies = kernel._derivatives.get(name, (None, False))
        if derivative is None:

            def unknown(g):
                others = f" in a tuple of {parameters.index(name) + 1} numbers" if parameters[0] != name else ""
                title = kernel._reader.name
                called = title if title.strip("_").isidentifier() else "kernel"  # not `_`, nor <lambda>
                raise GradientError(
                    f"the kernel {title} has no gradient with respect to {name!r}",
                    where=kernel._reader.place(kernel._reader.node),
                    fix=f"{called}.gradient(f), where f({', '.join(parameters)}) returns the derivative{others}, or "
                    f"{name}.detach(); a second derivative is the gradient of the kernel that .gradient returns",
                )

            return unknown
        reads_out = "out" in derivative.parameters and "out" not in parameters

        def run(g, out, values):
            given = {"g": g, "out": out, **{parameters[i]: v for i, v in zip(order, values)}}
            slope = derivative(**{n: given[n] for n in derivative.parameters})
            return slope if multiplies else g * slope

        out = ", out" if reads_out else ""
        scope: dict[str, Any] = {"run": run}
        text = f"def vjp(g{out}, {', '.join(arguments)}):\n    return run(g, {'out' if reads_out else 'None'}, [{', '.join(arguments)}])"
        exec(text, scope)
        return scope["vjp"]


def kernel(function: Callable | None = None, *, grad=None, check: bool = True):
    """An elementwise op of a scalar function: out[i] = function(x[i], …), compiled for the CPU and for CUDA.

    >>> @dc.kernel
    ... def softclip(x, limit):
    ...     return limit * math.tanh(x / limit)
    >>> @softclip.gradient
    ... def _(x, limit):
    ...     t = math.tanh(x / limit)
    ...     return 1 - t * t, t - (1 - t * t) * x / limit
    >>> softclip(dc.randn(1000), 2.5)

    Arguments are tensors, arrays and numbers, which broadcast; numbers alone call the function itself. Real tensors are
    promoted as in PyTorch's arithmetic and give their dtype; 16-bit floats are computed in float32. Whole numbers are
    computed in 64 bits and give their dtype, or the default float where the function divides or calls `math`; conditions
    give bool, and bool tensors are conditions. In `dc.compile` it is fused as other elementwise ops are.

    The function has assignments, `if`, `for i in range(…)` with constant bounds, `while`, `x if y else z`, arithmetic, comparisons,
    `min`, `max`, `abs`, `round`, `int`, `float`, `bool`, functions of `math` and NumPy's of the same names, and other
    functions of numbers. `floor`, `ceil`, `trunc` and `round` of real numbers are real. Numbers that it reads from outside are
    constants: where one has changed at a call, that is another kernel (in a compiled function they stay as recorded). Its source must be there, in a file or a notebook.

    grad, check: see `Kernel.gradient`. Without a gradient, `backward()` through it raises `GradientError`. In float32 the
    sine, cosine and tangent of numbers from 2⁴⁸ on are NaN. Without numba, and on a GPU where the function needs the C
    library (`erfc`, `lgamma`, `//` and `%` of real numbers; circular functions and powers in float64) or whole numbers, array
    code computes the same values, more slowly.

    Errors: `UnsupportedError` for what no kernel has, `ArgumentTypeError` for an array or another object read from outside;
    both name the line.
    """
    if function is None:
        return functools.partial(kernel, grad=grad, check=check)
    made = function if isinstance(function, Kernel) else Kernel(function)
    first: UnsupportedError | None = None
    for kinds in ("f", "i"):  # to report what no kernel has at the declaration
        try:
            translate.translate(made._reader, kinds * len(made.parameters))
            break
        except translate.UndefinedName:
            break
        except translate.WrongKind as error:
            first = first or error
    else:
        assert first is not None
        raise first
    if grad is not None:
        made.gradient(grad, check)
    return made
