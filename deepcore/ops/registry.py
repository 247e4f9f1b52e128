"""How an op is declared.

A **primitive** is a forward over raw arrays with its VJPs beside it; the set is closed and small. A **composite** is
a public function of tensors made of primitives, so its gradient is derived. Declaring either installs the public
function `dc.<name>`, the Tensor method, the line in the stubs, and its tests.

Forward: `def mul(xp, input, other)`; tensors are positional, parameters keyword-only, `xp` is the backend (NumPy's
or CuPy's functions). VJP: one function per tensor input, whose argument names declare what it reads, so that nothing
else is kept alive: `g` (the incoming gradient), an input's name, `<input>_shape`, `out`, or a parameter's name.
The last VJP of a variadic op serves all its further inputs; it may read them by their common name, `i` (the index of
the input) and `shapes`. VJPs are written in tensor ops, so derivatives of any order work; the engine sums a gradient
of the broadcast shape back to the input's shape.

Complex tensors: an op that says `complex=True` takes them, and its VJPs hold for them as written: g and the result are
PyTorch's gradients, ∂L/∂Re z + i ∂L/∂Im z. With `complex="analytic"` the VJPs have the formula of an analytic function,
g · f'(z), and the engine conjugates around them: conj(conj(g) · f'(z)). Any other op refuses complex tensors.

A primitive that shares its name with a public function and is called from other files has the suffix `_p`: `sum_p`, `sum`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deepcore.autograd import apply, autocasting, constant, enable_grad, is_array, mode, wrong_argument
from deepcore.autograd.engine import partial_gradients
from deepcore.autograd.levels import is_differentiated
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.config import settings
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops import casting
from deepcore.tensor import Tensor, as_tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Op:
    """A primitive, which `apply` runs and records. Called with tensors and keyword parameters."""

    __slots__ = (
        "_plans", "_with_aux", "analytic", "batch", "complex", "differentiable", "formula", "forward", "hint_text", "inputs",
        "joint", "jvp", "label", "lowering", "many", "name", "raises", "reads_aux", "saves", "saves_for_gradient", "variadic",
        "view", "vjps",
    )  # fmt: skip

    #: Sums a gradient over broadcast dimensions; set by ops.shape.
    sum_to: Callable = staticmethod(lambda gradient, shape: gradient)

    #: The ops of a batch joined along a new first dimension; set by ops.batching.
    stack: Callable

    def __init__(
        self,
        forward,
        vjps,
        view=None,
        hint=None,
        joint=False,
        many=False,
        raises=False,
        batch=None,
        jvp=None,
        complex=False,
    ):
        self.name = forward.__name__.strip("_").removesuffix("_p")
        #: The name in messages and in the names of nodes.
        self.label = self.name
        self.forward = forward
        code = forward.__code__
        self.inputs = code.co_varnames[1 : code.co_argcount]
        #: The op's `kernels.plan.Lowering`, once a backend that has one has bound the op.
        self.lowering: Any = None
        self.variadic = None
        if code.co_flags & inspect.CO_VARARGS:
            self.variadic = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        self.vjps = vjps
        self.differentiable = any(v is not None for v in vjps)
        self.joint = joint
        self.many = many
        self.raises = raises
        #: Whether complex operands are allowed, and whether the engine conjugates around the VJPs for them.
        self.complex = complex is not False
        self.analytic = complex == "analytic"
        self.view = view
        self.hint_text = hint
        #: The batching rule and the forward rule; see `primitive`.
        self.batch, self.jvp = batch, jvp
        #: The function of tensors that computes the same, of an op declared with `fused`.
        self.formula: Callable | None = None
        #: Whether results are arrays saved for a gradient.
        self.saves_for_gradient = False
        self._with_aux: Op | None = None
        self.saves: dict[int, tuple[tuple[bool, ...], bool]] = {}
        self._plans = [None if v is None else self._plan(v) for v in vjps]
        self.reads_aux = any(("param", "aux") in plan for plan in self._plans if plan is not None)

    @property
    def with_aux(self) -> Op:
        """The op whose results are those of this one and the arrays saved for its gradient."""
        if self._with_aux is None:
            self._with_aux = Op(self.forward, (None,), many=True, batch=self.batch, complex=self.complex)
            self._with_aux.label, self._with_aux.saves_for_gradient = self.label, True
        return self._with_aux

    def __call__(self, *tensors, **params):
        return apply(self, tensors, params)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def _plan(self, vjp) -> list[tuple[str, Any]]:
        """(kind, key) of each argument of a VJP, derived from its name."""
        plan: list[tuple[str, Any]] = []
        for name in vjp.__code__.co_varnames[: vjp.__code__.co_argcount]:
            if name in ("g", "out", "i", "shapes", "needs"):
                plan.append((name, None))
            elif name == self.variadic:
                plan.append(("rest", len(self.inputs)))
            elif name in self.inputs:
                plan.append(("input", self.inputs.index(name)))
            elif name.endswith("_shape") and name[:-6] in self.inputs:
                plan.append(("shape", self.inputs.index(name[:-6])))
            else:
                plan.append(("param", name))
        return plan

    def vjp_plan(self, i: int):
        """(the VJP for input i, the kinds of its arguments)."""
        if self.variadic or self.joint:
            # Leading named inputs have their own VJP; the others share the last one.
            i = min(i, len(self.vjps) - 1)
        return self.vjps[i], self._plans[i]

    def plan_saves(self, mask: int, count: int) -> tuple[tuple[bool, ...], bool]:
        """(which of `count` inputs the VJPs of the inputs in `mask` read, whether they read the output)."""
        needed, out = [False] * count, False
        for i in range(count):
            if mask >> i & 1:
                for kind, key in self.vjp_plan(i)[1] or ():
                    if kind == "input" and key < count:
                        needed[key] = True
                    elif kind == "rest":
                        needed[key:] = [True] * (count - key)
                    out = out or kind == "out"
        plan = tuple(needed), out
        if not self.variadic and not self.forward.__defaults__:  # else the plan depends on the count, too
            self.saves[mask] = plan
        return plan

    def hint(self, inputs, params) -> str | None:
        return self.hint_text(inputs, params) if self.hint_text else None


@dataclass
class Sample:
    """One call of a function, for its tests."""

    args: tuple
    kwargs: dict[str, Any] = field(default_factory=dict)


def sample(*args, **kwargs) -> Sample:
    return Sample(args, kwargs)


@dataclass(eq=False)
class Declared:
    """A public function, with its samples and properties for the tests."""

    name: str
    function: Callable
    examples: Callable[[Any], list[Sample]]
    method: bool
    aliases: tuple[str, ...]
    differentiable: bool
    second_order: bool
    inplace: bool
    through: Callable | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and aliases; one with a dot is in a module, as "linalg.inv"."""
        return self.name, *self.aliases


#: Every primitive, by name.
PRIMITIVES: dict[str, Op] = {}
#: The ops declared with `fused`, by name.
FUSED: dict[str, Op] = {}
#: Every public function, by name.
FUNCTIONS: dict[str, Declared] = {}
#: The functions of `nn.functional`, by name.
FUNCTIONAL: dict[str, Callable] = {}


def primitive(
    *,
    vjp=(),
    joint=None,
    view: str | None = None,
    hint=None,
    raises: bool = False,
    batch=None,
    jvp=None,
    complex: bool | str = False,
) -> Callable[[Callable], Op]:
    """Declare a structured primitive: an `Op` that composites call with normalised parameters.

    `vjp`: a function, or one per input (None: no gradient). `joint`: instead, one function that returns the
    gradients of all inputs; those that `needs` excludes may be None. `view`: "always" or "sometimes", where the
    output shares the input's memory. `hint(inputs, params)`: the likely fix when the array library raises. `raises`:
    the op checks its operands' values, so programs run it even where nothing reads its results. `complex`: whether the
    op is defined for complex tensors, as below.

    `batch`: how `vmap` maps the op: "elementwise", or a rule of `ops.batching`; by default the op runs for each example.
    `jvp`: how tangents pass: "elementwise", where each element of the result depends on one of each input and the tangent is
    g · slope, as the gradient is; "linear" over the reals in all floating and complex inputs; "product": linear in each of the
    first two and in a third that is added; or a function of (op, inputs, tangents, params) that returns result and tangent.
    By default "elementwise" where `batch` is and gradients have this form, which those of `complex=True` do where slopes are
    real (they name it), and otherwise the VJPs, transposed.

    Trailing inputs with a default may be left out. A forward may return `(out, *aux)`: raw arrays saved for
    the gradient, which reads them as `aux`.
    """

    def declare(forward) -> Op:
        vjps = (joint,) if joint else vjp if isinstance(vjp, tuple) else (vjp,)
        forward_rule = "elementwise" if jvp is None and batch == "elementwise" and complex is not True else jvp
        op = Op(
            forward, vjps, view, hint, joint is not None, raises=raises, batch=batch, jvp=forward_rule, complex=complex
        )
        _register(PRIMITIVES, op.name, op)
        return op

    return declare


def gradient(forward: Callable) -> Op:
    """Declare an op that computes the gradients of another in array code, as a tuple, and has none itself."""
    return Op(forward, (None,), many=True, complex=True)


def saved_array(array, backend) -> Tensor:
    """An array of `aux` as a tensor; inside of a level it is one."""
    return array if isinstance(array, Tensor) else Tensor(array, backend)


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed from these: in a gradient, that it is to be differentiated."""
    if mode.level is not None:
        return any(map(is_differentiated, tensors)) and (mode.grad or mode.level.forward)
    return mode.grad and any(t is not None and t._requires_grad for t in tensors)


def composed_gradients(function: Callable, g: Tensor, inputs, needs, create_graph: bool = True) -> tuple:
    """The gradients of an op's inputs, None where not needed, as those of `function`, the same result composed of ops."""
    with enable_grad():
        # Nodes of their own, so that inputs that are computed from each other, or equal, count as independent.
        copies = [
            (t.clone() if create_graph else t.detach().requires_grad_()) if need else t
            for t, need in zip(inputs, needs)
        ]
        chosen = [t for t, need in zip(copies, needs) if need]
        results = iter(partial_gradients([function(*copies)], chosen, [g], create_graph=create_graph))
    return tuple([next(results) if need else None for need in needs])


def fused(formula: Callable) -> Callable:
    """Decorator: runs a formula of tensors, which returns a tensor or a tuple of them, as one op where a kernel exists.

    Positional arguments are tensors, or None at the end; keywords are parameters. The formula itself runs where autograd
    records, as for derivatives of higher order, and where no kernel is registered.
    """

    def reference(*tensors, **params):
        half = tensors[0]._data.dtype
        if half.itemsize > 2 or not dt.is_floating(half):
            return formula(*tensors, **params)
        # In float32, as kernels do: an intermediate may overflow 16 bits where the result does not.
        wide = [cast(t, dt.float32) if t is not None and t._data.dtype == half else t for t in tensors]
        result = formula(*wide, **params)
        return tuple(cast(t, half) for t in result) if isinstance(result, tuple) else cast(result, half)

    def forward(xp, *arrays, **params):
        result = reference(*[None if a is None else Tensor(a, xp) for a in arrays], **params)
        return tuple(t._data for t in result) if isinstance(result, tuple) else result._data

    forward.__name__ = formula.__name__
    op = Op(forward, (None,), many=True, complex=True)  # the formula's own ops refuse what they lack
    op.formula = reference
    _register(FUSED, op.name, op)

    @functools.wraps(formula)
    def function(*tensors, **params):
        inputs = tuple(t for t in tensors if t is not None)
        backend = inputs[0].backend
        if not settings.kernels or (backend.impls.get(op) or backend.bind(op)) is forward:
            return reference(*tensors, **params)
        if is_recorded(*inputs):
            return reference(*tensors, **params)
        return apply(op, inputs, params)

    return function


def elementwise(
    rule: str,
    *,
    vjp=(),
    examples=None,
    method=True,
    aliases=(),
    second_order=True,
    public=True,
    check=None,
    wide=False,
    place="",
    complex=False,
    jvp=None,
) -> Callable[[Callable], Callable]:
    """Declare an elementwise primitive with one or two inputs, and its public function.

    `rule` names the dtypes of operands and result: "numeric" (PyTorch's result type), "float" (integers become float32),
    "compare" (inputs promoted, result bool), "logical" (any dtypes, result bool), "integer" (integers and bool).
    `check(input, other)` may refuse operands before promotion; it does not run where both have one floating dtype.
    `wide`: a number or 0-d tensor beside a 16-bit float is not rounded to 16 bits first; the op runs in float32, as in PyTorch.
    `complex`, `jvp`: as in `primitive`.
    """

    def declare(forward) -> Callable:
        op = Op(
            forward,
            vjp if isinstance(vjp, tuple) else (vjp,),
            batch="elementwise",
            jvp="elementwise" if jvp is None and complex is not True else jvp,
            complex=complex,
        )
        if rule in ("compare", "logical", "integer"):
            op.differentiable = False
        _register(PRIMITIVES, op.name, op)
        rounding = _rounding(op) if wide else None
        function = _unary(op, rule) if len(op.inputs) == 1 else _binary(op, rule, check, rounding)
        function.__name__ = function.__qualname__ = op.name
        function.__doc__ = forward.__doc__
        function.__module__ = forward.__module__
        if not public:
            return function
        declared = composite(
            examples=examples or (UNARY if len(op.inputs) == 1 else BINARY),
            method=method,
            aliases=aliases,
            differentiable=op.differentiable,
            second_order=second_order,
            inplace=not place and (rule != "logical" or len(op.inputs) == 2),
            place=place,
        )
        return declared(function)

    return declare


def composite(
    *,
    examples,
    method=True,
    aliases=(),
    differentiable=True,
    second_order=True,
    inplace=False,
    place="",
    through=None,
) -> Callable[[Callable], Callable]:
    """Declare a public function of tensors. `examples(make)` gives the samples its tests run (`make(2, 3)` is a tensor).

    `method`: also `Tensor.<name>`; `inplace`: also `Tensor.<name>_`. `aliases`: further names for the same function.
    `place`: the module of the name: `linalg_norm` of "linalg" is `dc.linalg.norm`; aliases are elsewhere, and may name a module, too ("special.erfc").
    `through`: tests of gradients apply it to the first argument, so that finite differences stay in the domain.
    """

    def declare(function: Callable) -> Callable:
        function = casting.casts(function)
        name = f"{place}.{function.__name__.removeprefix(f'{place}_')}" if place else function.__name__
        entry = Declared(
            name, function, examples, method, tuple(aliases), differentiable, second_order, inplace, through
        )
        _register(FUNCTIONS, name, entry)
        if method:
            for method_name in entry.names:
                if "." not in method_name:
                    setattr(Tensor, method_name, function)
        return function

    return declare


def functional(function: _Function) -> _Function:
    """Decorator: add this function, an op or composed of ops, to `nn.functional`."""
    function = casting.casts(function)  # type: ignore[assignment]
    _register(FUNCTIONAL, function.__name__, function)
    return function


def _register(table: dict, name: str, value) -> None:
    if name in table:
        raise ArgumentError(f"{name!r} is declared twice")
    table[name] = value


# -- dtypes and scalars ---------------------------------------------------------------------------------------


def promote(op_name: str, rule: str, *operands) -> tuple[Tensor, ...]:
    """Numbers and tensors as tensors of one backend and, by `rule`, one dtype."""
    backend = None
    kinds: list[Any] = []
    values: list[Any] = []
    for o in operands:
        if not isinstance(o, Tensor):
            number = None if rule == "logical" and hasattr(o, "dtype") else as_number(o)
            if number is not None:
                kinds.append(type(number))
                values.append(number)
                continue
            o = constant(op_name, o)
        backend = backend or o.backend
        kinds.append((o._data.dtype, o._data.ndim))
        values.append(o)
    backend = backend or get_backend()
    dtype = None
    if rule != "logical":
        dtype = dt.result_type(kinds)
        if rule == "float" and not dt.is_inexact(dtype):
            dtype = dt.default_float
        if rule == "integer" and dt.is_inexact(dtype):
            raise DTypeError(f"{op_name} takes integers and booleans", received=dt.name_of(dtype))
    try:
        return tuple(_cast_operand(o, kind, dtype, backend) for o, kind in zip(values, kinds))
    except DTypeError:
        if rule != "compare":
            raise
    # A number beyond the dtype still compares: as infinity with integers, in float64 with floats.
    values = [o if isinstance(o, Tensor) else _beyond(o, dtype) for o in values]
    assert dtype is not None
    dtype = dt.complex128 if dtype.kind == "c" else dt.float64 if dt.is_floating(dtype) else dt.default_float
    return tuple(_cast_operand(o, kind, dtype, backend) for o, kind in zip(values, kinds))


def _beyond(number, dtype):
    """`number`, or the infinity of its sign where it is beyond integers of `dtype` or beyond float64."""
    if isinstance(number, complex):
        return number
    wide = dtype if not dt.is_floating(dtype) else dt.float64
    return float(number) if dt.fits(number, wide) else math.inf if number > 0 else -math.inf


def as_number(value):
    """A Python or NumPy number as a Python number, as in PyTorch; None for anything else."""
    if value.__class__ in _NUMBERS:
        return value
    if isinstance(value, _NUMBERS):  # of a derived class, as NumPy's float64
        return next(base for base in _NUMBERS if isinstance(value, base))(value)
    if getattr(value, "shape", None) == () and not hasattr(value, "__setitem__"):  # 0-d arrays are tensors
        value = value.item()
        return value if isinstance(value, _NUMBERS) else None
    return None


_NUMBERS = (bool, int, float, complex)


def _cast_operand(o, kind, dtype, backend) -> Tensor:
    if isinstance(o, Tensor):
        return o if dtype is None or o._data.dtype == dtype else cast(o, dtype)
    if dtype is None:
        dtype = dt.result_type([kind])
    return Tensor(backend.constant(o, dtype), backend)


def is_half(t) -> bool:
    """Whether `t` is float16 or bfloat16; sums of those accumulate in float32 and round once, as in PyTorch."""
    return t.dtype.itemsize == 2 and dt.is_floating(t.dtype)


def cast(t: Tensor, dtype, drop_imaginary: bool = False) -> Tensor:
    """`t` in another dtype; the gradient is cast back to the dtype of `t`.

    Complex numbers become real ones only with `drop_imaginary`: functions of real numbers cast their operands, too.
    """
    if t._data.dtype.kind == "c" and dtype.kind not in "cb" and not drop_imaginary:
        raise DTypeError(
            f"a function of {dt.name_of(dtype)} is not defined for complex tensors",
            received=f"{dt.name_of(t.dtype)}{list(t.shape)}",
            fix="apply it to real numbers: t.abs(), t.angle(), t.real and t.imag, or both parts as dc.view_as_real(t)",
        )
    return _cast(t, dtype=dtype, source=t._data.dtype)


@primitive(
    vjp=lambda g, source, dtype: _cast(g, dtype=source, source=dtype),
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def _cast(xp, input, *, dtype, source):
    if input.dtype.kind == "c" and dtype.kind not in "cb":
        input = input.real
    return input.astype(dtype)


def _unary(op: Op, rule: str) -> Callable:
    floats_only = rule == "float"
    has_rule = op.name in casting.RULES

    def function(input):
        if has_rule and autocasting.used:
            (input,) = casting.operands(op.name, input)
        try:
            dtype = input._data.dtype
        except AttributeError:
            if hasattr(type(input), "record_call"):  # a symbolic tensor: `nn.model`
                return input.record_call(function, (input,), {})
            (input,) = promote(op.name, rule, input)
        else:
            if floats_only and dtype.kind not in "fc" and not dt.is_floating(dtype):
                input = cast(input, dt.default_float)
        return apply(op, (input,))

    return casting.follows(function)


def _rounding(op: Op) -> Op:
    """`op` of a 16-bit tensor and a 0-d float32 tensor: computed in float32, rounded once."""

    def forward(xp, input, other):
        dtype = input.dtype if input.dtype.itemsize == 2 else other.dtype
        return op.forward(xp, input.astype(dt.float32), other.astype(dt.float32)).astype(dtype)

    forward.__name__ = f"{op.name}_rounding"
    rounding = Op(forward, op.vjps, batch="elementwise", jvp="elementwise")
    rounding.label = op.name
    _register(PRIMITIVES, rounding.name, rounding)
    return rounding


def _half_beside_number(input, other):
    """The 16-bit dtype of one operand where the other is a number or a 0-d tensor of another dtype; else None."""
    for half, number in ((input, other), (other, input)):
        if isinstance(half, Tensor) and half._data.itemsize == 2 and dt.is_floating(half._data.dtype):
            if not isinstance(number, Tensor):
                return None if isinstance(as_number(number), (complex, type(None))) else half._data.dtype
            if half._data.ndim and not number._data.ndim:
                same = number._data.dtype == half._data.dtype or number._data.dtype.kind == "c"
                return None if same else half._data.dtype
    return None


def _with_number(op: Op, rounding: Op, half, input, other) -> Tensor:
    """`op` of a tensor of the 16-bit dtype `half` and a number, computed in float32 and rounded once."""
    backend = (input if isinstance(input, Tensor) else other).backend
    pair = []
    for o in (input, other):
        if not isinstance(o, Tensor):
            o = Tensor(backend.constant(as_number(o), dt.float32), backend)
        elif o._data.dtype != half and o._data.dtype != dt.float32:
            o = cast(o, dt.float32)
        pair.append(o)
    first, second = pair
    number = second if first._data.dtype == half else first
    if not number._requires_grad and (first._data.ndim or second._data.ndim):
        return apply(rounding, (first, second))
    # A number's gradient is summed in float32, and two 0-d tensors would promote to float32.
    return cast(apply(op, tuple(cast(t, dt.float32) if t is not number else t for t in pair)), half)


def _binary(op: Op, rule: str, check: Callable | None, rounding: Op | None) -> Callable:
    floats = "efd" if rounding is None else "fd"
    has_rule = op.name in casting.RULES

    def function(input, other):
        if has_rule and autocasting.used:
            input, other = casting.operands(op.name, input, other)
        try:
            dtype = input._data.dtype
            kind = type(other)  # the fast path: tensor and number is the most frequent mix
            if (kind is float or kind is int) and dtype.char in floats:
                backend = input.backend
                other = Tensor(backend.constant(other, dtype), backend, False, None, backend.number_specs.get(dtype))
                same = True
            else:
                same = dtype is other._data.dtype and dtype.kind in "fc"
        except (AttributeError, DTypeError):  # not a tensor, or a number out of the dtype's range
            for operand in (input, other):
                if hasattr(type(operand), "record_call"):  # a symbolic tensor: `nn.model`
                    return operand.record_call(function, (input, other), {})
            same = False
        if not same or rule == "integer":
            if check is not None:
                check(input, other)
            if rounding is not None:
                half = _half_beside_number(input, other)
                if half is not None:
                    return _with_number(op, rounding, half, input, other)
            input, other = promote(op.name, rule, input, other)
        return apply(op, (input, other))

    return casting.follows(function)


# -- arguments ----------------------------------------------------------------------------------------------------


def takes_arrays(function: Callable) -> Callable:
    """Decorator: a function of tensors also accepts NumPy and CuPy arrays, as constants; an error names any other argument.

    Calls with tensors pay for no check: a call that fails is repeated with its arrays converted to tensors.
    """
    name = function.__name__
    has_rule = name in casting.RULES

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if has_rule and autocasting.used:
            result = casting.call(name, wrapper, args, kwargs)
            if result is not NotImplemented:
                return result
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            return _retry_with_tensors(function, args, kwargs, error)

    return casting.follows(wrapper)


def axis_names(function: Callable) -> Callable:
    """`takes_arrays`; also accepts NumPy's `axis` and `keepdims` for `dim` and `keepdim`."""
    name = function.__name__
    has_rule = name in casting.RULES

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if has_rule and autocasting.used:
            result = casting.call(name, wrapper, args, kwargs)
            if result is not NotImplemented:
                return result
        if kwargs:
            if "axis" in kwargs:
                kwargs["dim"] = kwargs.pop("axis")
            if "keepdims" in kwargs:
                kwargs["keepdim"] = kwargs.pop("keepdims")
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError, ValueError) as error:
            return _retry_with_tensors(function, args, kwargs, error)

    return casting.follows(wrapper)


def _retry_with_tensors(function: Callable, args: tuple, kwargs: dict, error: Exception):
    """Call `function` with arrays converted to tensors, or raise the error that names the argument of a wrong type."""
    arguments = (*args, *kwargs.values())
    symbol = symbol_in(arguments)
    if symbol is not None:
        return symbol.record_call(function, args, kwargs)
    if any(map(_holds_array, arguments)):
        return function(*map(_tensors, args), **{name: _tensors(value) for name, value in kwargs.items()})
    wrong = wrong_argument(function.__name__, arguments, error)
    if wrong is not None:
        raise wrong from None
    raise error


def _holds_array(value) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_array, value))
    return not isinstance(value, Tensor) and is_array(value)


def symbol_in(value):
    """The first symbolic tensor (`nn.model`) in an argument, or None."""
    if isinstance(value, (list, tuple)):
        return next((s for s in map(symbol_in, value) if s is not None), None)
    return value if hasattr(type(value), "record_call") else None


def _tensors(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_tensors, value)) if _holds_array(value) else value
    return as_tensor(value) if _holds_array(value) else value


# -- samples that most ops share -----------------------------------------------------------------------------------------


def unary_samples(low: float = -2.0, high: float = 2.0) -> Callable:
    """Ranks 0 to 3, an empty tensor, a transposed one; values between `low` and `high`."""

    def examples(make) -> list[Sample]:
        shapes: Iterable[tuple] = [(), (5,), (3, 4), (2, 1, 3), (2, 0)]
        return [sample(make(*s, low=low, high=high)) for s in shapes]

    return examples


def binary_samples(
    low: float = -2.0, high: float = 2.0, other_low=None, other_high=None, scalar: Any = 1.5
) -> Callable:
    """Equal shapes, every kind of broadcasting, a Python number."""
    other_low = low if other_low is None else other_low
    other_high = high if other_high is None else other_high

    def examples(make) -> list[Sample]:
        pairs: list[tuple[tuple, tuple]] = [
            ((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 3), ()), ((2, 1, 3), (4, 1)),
            ((0, 3), (3,)),
        ]  # fmt: skip
        samples = [sample(make(*a, low=low, high=high), make(*b, low=other_low, high=other_high)) for a, b in pairs]
        return [*samples, sample(make(2, 3, low=low, high=high), scalar)]

    return examples


UNARY = unary_samples()
BINARY = binary_samples()
