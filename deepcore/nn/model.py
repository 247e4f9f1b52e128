"""`Input` and `Model`: models in functional form, from layers that are called on symbolic tensors.

    inputs = dc.Input((784,))
    hidden = nn.LazyLinear(64)(inputs, name="hidden")
    outputs = nn.LazyLinear(10)(hidden.relu())
    model = dc.Model(inputs, outputs)

A call of a layer, a function or a method on a `Symbol` runs it on zeros, without gradients and in evaluation mode, for the
shape of its result, and records it. `Model` keeps the calls between its inputs and its outputs and repeats them on tensors.
"""

from __future__ import annotations

import contextlib
import operator
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deepcore.autograd import no_grad
from deepcore.autograd.trees import tree_map
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DataError, ShapeError, suggest
from deepcore.nn.modules import module as module_
from deepcore.nn.modules.module import Module
from deepcore.tensor import Tensor, zeros

#: The length of unknown dimensions in two runs: dimensions of a result that differ between the two are unknown. The second
#: pair is for calls in which more than the batch is unknown, as windows and filters need some length.
_RUNS = ((2, 3), (32, 33))
#: Properties of tensors that are tensors.
_VIEWS = ("T", "mT", "H", "mH")


class Symbol:
    """A tensor without values: `shape`, where None is an unknown length, and `dtype`, and the call that gives it.

    Tensor methods, operators and functions of deepcore on it are recorded.
    """

    def __init__(self, shape: tuple[int | None, ...], dtype, call: Call | None = None, name: str | None = None):
        self.shape, self.dtype, self.call, self.name = shape, dtype, call, name

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None):
        return self.shape if dim is None else self.shape[dim]

    def record_call(self, function: Callable, args: tuple, kwargs: Mapping[str, Any]):
        """Record `function(*args, **kwargs)`, with symbols among the arguments, and return its result as symbols."""
        return record(function, args, dict(kwargs))

    def __getattr__(self, name: str):
        attribute = getattr(Tensor, name, None) if not name.startswith("_") else None
        if name in _VIEWS:
            return record(operator.attrgetter(name), (self,), {})
        if callable(attribute):
            return lambda *args, **kwargs: record(attribute, (self, *args), kwargs)
        raise AttributeError(f"a symbolic tensor has no {name!r}", name=name, obj=self)

    def __len__(self) -> int:
        raise _no_values("its length")

    def __bool__(self) -> bool:
        raise _no_values("whether it is true")

    def __iter__(self):
        raise _no_values("its elements")

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"<symbolic tensor, shape={self.shape}, dtype={dt.name_of(self.dtype)}{name}>"


def _no_values(what: str) -> ArgumentError:
    return ArgumentError(
        f"a symbolic tensor has no values, and so not {what}",
        fix="a function of your own in a Module, whose forward gets tensors",
    )


def _binary(function: Callable, reflected: bool) -> Callable:
    if reflected:
        return lambda self, other: record(function, (other, self), {})
    return lambda self, other: record(function, (self, other), {})


def _unary(function: Callable) -> Callable:
    return lambda self: record(function, (self,), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Symbol, f"__{_name}__", _binary(getattr(operator, _name), False))
    setattr(Symbol, f"__r{_name}__", _binary(getattr(operator, _name), True))
for _name in ("lt", "le", "gt", "ge", "getitem"):
    setattr(Symbol, f"__{_name}__", _binary(getattr(operator, _name), False))
for _name in ("neg", "abs"):
    setattr(Symbol, f"__{_name}__", _unary(getattr(operator, _name)))


class Call:
    """A recorded call: `function(*args, **kwargs)`, with symbols among the arguments, gave `output`."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any]):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.output: Any = None

    def inputs(self) -> list[Symbol]:
        return [*_symbols((self.args, self.kwargs))]


class Origin:
    """A layer's first recorded call, which the layer does not keep alive; copies of the layer have none of their own."""

    def __init__(self, call: Call | None = None):
        self.call = None if call is None else weakref.ref(call)

    def __deepcopy__(self, memo):
        return Origin()

    def __reduce__(self):
        return Origin, ()


def _symbols(value) -> Iterator[Symbol]:
    if isinstance(value, Symbol):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _symbols(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _symbols(item)


def Input(shape=(), batch_size: int | None = None, dtype=None, name: str | None = None) -> Symbol:
    """A symbolic input (batch, *shape) of a `Model`; shape leaves out the batch, and None is a length that varies.

    dtype: a type or its name (default: the default float); inputs of an Embedding need "int64". name: by which a dict of
    inputs has it.
    """
    lengths = (shape,) if shape is None or hasattr(shape, "__index__") else tuple(shape)
    for length in (*lengths, batch_size):
        if length is not None and (isinstance(length, bool) or not hasattr(length, "__index__") or length < 0):
            raise ArgumentError(
                "shape is the lengths of a sample's dimensions", expected="(784,), or None for one that varies",
                received=repr(shape),
            )  # fmt: skip
    kind = (
        dt.default_float
        if dtype is None
        else zeros(0, dtype=getattr(dt, dtype, dtype) if isinstance(dtype, str) else dtype).dtype
    )
    module_.symbol_class = Symbol
    return Symbol((batch_size, *lengths), kind, None, name)


def call_layer(layer: Module, args: tuple, kwargs: dict[str, Any]):
    """A layer called on symbols; `name` becomes `layer.name`."""
    name = kwargs.pop("name", None)
    if name is not None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError("a layer's name is text without a dot", received=repr(name))
        layer.name = name
    return record(layer, args, kwargs)


def record(function: Callable, args: tuple, kwargs: dict[str, Any]):
    """Record a call, and return symbols in the structure of its result."""
    call = Call(function, args, kwargs)
    first, second = (_run(call, length) for length in _RUNS[any(None in s.shape[1:] for s in call.inputs())])
    others = iter([*_tensors(second)])

    def symbol(leaf):
        if not isinstance(leaf, Tensor):
            raise _no_values(f"a {type(leaf).__name__} from it")
        shape = [a if a == b else None for a, b in zip(leaf.shape, next(others).shape, strict=True)]
        return Symbol(tuple(shape), leaf.dtype, call)

    call.output = tree_map(symbol, first)
    if isinstance(function, Module):
        vars(function).setdefault("_origin", Origin(call))
        if vars(function)["_origin"].call is None:
            vars(function)["_origin"] = Origin(call)
    return call.output


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _run(call: Call, length: int):
    """The result of a call on zeros, where unknown dimensions have this length."""
    layer = call.function if isinstance(call.function, Module) else None
    placed = [*_tensors((call.args, call.kwargs)), *(layer.parameters() if layer is not None else ())]
    backend = placed[0].backend if placed else get_backend()

    def sample(value):
        if not isinstance(value, Symbol):
            return value
        return zeros([length if n is None else n for n in value.shape], dtype=value.dtype, backend=backend)

    args, kwargs = tree_map(sample, call.args), tree_map(sample, call.kwargs)
    with no_grad(), _evaluating(layer):
        return call.function(*args, **kwargs)


@contextlib.contextmanager
def _evaluating(layer: Module | None) -> Iterator[None]:
    modes = [] if layer is None else [(module, module.training) for module in layer.modules()]
    if layer is not None:
        layer.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_lengths(model: str, name: str, value, lengths: tuple[int | None, ...]) -> None:
    """Raise where an input's last dimensions are not the declared ones: a recorded call may run on it all the same."""
    shape = tuple(getattr(value, "shape", lengths))
    if lengths and not all(n is None or n == m for n, m in zip(lengths[::-1], shape[::-1], strict=False)):
        declared = ", ".join("*" if n is None else str(n) for n in lengths)
        column = lengths == (1,) and len(shape) == 1
        raise ShapeError(
            f"{model}: input {name!r} has another shape than it was declared with",
            expected=f"shape (*, {declared})",
            received=str(shape),
            fix="x[:, None]" if column else "inputs in the order of the model's, or a dict by their names",
        )


class Model(Module):
    """The recorded calls that lead from `inputs` to `outputs`, as a module.

    inputs, outputs: symbols, or lists or dicts of them; the model takes and returns what they are. Inputs may also be
    results of other layers, so `dc.Model(model.input, model.get_layer("hidden").output)` is a part of a model, with its
    layers. Layers are submodules by their `name`: what a call gave, `layer(x, name="hidden")`, or the class in snake case
    with a number. Without arguments it is an ordinary Module for subclasses that define `forward`.

    Errors: `ArgumentError` for outputs that depend on an input that is not among `inputs`, with its name.
    """

    #: Names of inputs and outputs; None for a subclass with a forward of its own.
    input_names: list[str] | None = None
    output_names: list[str] | None = None

    def __init__(self, inputs=None, outputs=None, name: str | None = None):
        super().__init__()
        self.name = name or _snake(type(self).__name__)
        if inputs is None and outputs is None:
            return
        self._inputs, self._outputs = inputs, outputs
        for kind, value in (("inputs", inputs), ("outputs", outputs)):
            found = [*_symbols(value)]
            if not found or any(not isinstance(leaf, Symbol) for leaf in _leaves(value)):
                raise ArgumentError(
                    f"{kind} of a Model are symbolic tensors, or a list or a dict of them",
                    received=type(value).__name__,
                    fix="inputs = dc.Input(shape), and what layers give that are called on it",
                )
        entries = [*_symbols(inputs)]
        self._calls = _order([*_symbols(outputs)], entries)
        self._register()
        self.input_names = _names_of(inputs, entries, "input")
        self.output_names = self._names_of_outputs()
        self._compile(entries)

    def _register(self) -> None:
        """Make the layers submodules, by names."""
        for call in self._calls:
            layer = call.function
            if not isinstance(layer, Module) or any(layer is known for known in self._modules.values()):
                continue
            name = base = getattr(layer, "name", None) or _snake(type(layer).__name__)
            count = 0
            while name in self._modules:
                count += 1
                name = f"{base}_{count}"
            if not hasattr(layer, "name"):
                layer.name = name
            self._modules[name] = layer
            if not hasattr(self, name):  # a layer named as a method of Module is found by get_layer alone
                vars(self)[name] = layer

    def _names_of_outputs(self) -> list[str]:
        layers = {id(layer): name for name, layer in self._modules.items()}
        symbols = [*_symbols(self._outputs)]
        if isinstance(self._outputs, Mapping):
            return list(self._outputs)
        names = [layers.get(id(s.call.function)) if s.call else s.name for s in symbols]
        return [name if name and names.count(name) == 1 else f"output_{i + 1}" for i, name in enumerate(names)]

    def _compile(self, entries: list[Symbol]) -> None:
        """Number the values of a run, and let arguments refer to them."""
        places = {id(symbol): i for i, symbol in enumerate(entries)}
        plan = []
        for call in self._calls:
            known = dict(places)
            outputs = []
            for symbol in _symbols(call.output):
                outputs.append(places.setdefault(id(symbol), len(places)))
            replaced = [tree_map(lambda v, known=known: _Place(known[id(v)]) if isinstance(v, Symbol) else v, part)
                        for part in (call.args, call.kwargs)]  # fmt: skip
            plan.append((call, *replaced, outputs))
        self._plan, self._count = plan, len(places)
        self._lengths = [symbol.shape[1:] for symbol in entries]
        self._result = tree_map(lambda s: _Place(places[id(s)]), self._outputs)

    def forward(self, *inputs):
        if self.input_names is None:
            renamed = hasattr(type(self), "call")
            raise ArgumentError(
                f"{type(self).__name__} has no forward()",
                fix="call() is named forward() here" if renamed else "define forward(self, …)",
            )
        names = self.input_names
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = tuple(inputs[0])
        elif len(inputs) == 1 and isinstance(inputs[0], Mapping):
            missing = [name for name in names if name not in inputs[0]]
            if missing:
                raise DataError(f"{self.name}: there is no input {missing[0]!r}", fix=suggest(missing[0], inputs[0]))
            inputs = tuple([inputs[0][name] for name in names])
        if len(inputs) != len(names):
            raise DataError(f"{self.name} takes {len(names)} input(s): {', '.join(names)}", received=f"{len(inputs)}")
        for name, value, lengths in zip(names, inputs, self._lengths, strict=True):
            _check_lengths(self.name, name, value, lengths)
        values: list[Any] = [*inputs, *[None] * (self._count - len(inputs))]
        for call, args, kwargs, places in self._plan:
            result = call.function(*_filled(args, values), **_filled(kwargs, values))
            if len(places) == 1 and isinstance(result, Tensor):
                values[places[0]] = result
            else:
                for place, tensor in zip(places, _tensors(result), strict=True):
                    values[place] = tensor
        return _filled(self._result, values)

    @property
    def inputs(self) -> list[Symbol]:
        """The input symbols."""
        return [*_symbols(self._inputs)]

    @property
    def outputs(self) -> list[Symbol]:
        """The output symbols."""
        return [*_symbols(self._outputs)]

    @property
    def input(self):
        """The input, or the list or dict of several."""
        return self._inputs

    @property
    def output(self):
        """The output, or the list or dict of several."""
        return self._outputs

    @property
    def layers(self) -> list[Module]:
        """The layers, in the order of their first call."""
        return [layer for layer in self._modules.values() if layer is not None]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """The layer of this name, or of this number."""
        if index is not None:
            return self.layers[index]
        if name not in self._modules:
            raise ArgumentError(f"{self.name} has no layer {name!r}", fix=suggest(str(name), self._modules))
        return self._modules[name]

    def summary(self, input_shape=None, dtype=None, batch_size: int = 1):
        """A table of the layers with output shapes, where None is any length, and parameters; `print` it."""
        if self.input_names is None or input_shape is not None:
            return super().summary(input_shape, dtype, batch_size)
        from deepcore.nn.summary import of_graph

        shapes: dict[int, Any] = {}
        for call in self._calls:
            outputs = [symbol.shape for symbol in _symbols(call.output)]
            shapes.setdefault(id(call.function), outputs[0] if len(outputs) == 1 else outputs)
        inputs = [symbol.shape for symbol in self.inputs]
        return of_graph(self, inputs[0] if len(inputs) == 1 else inputs, shapes)

    def __deepcopy__(self, memo):
        import copy

        new = memo[id(self)] = type(self).__new__(type(self))
        for name, value in vars(self).items():
            vars(new)[name] = copy.deepcopy(value, memo)
        for call in vars(new).get("_calls", ()):
            if isinstance(call.function, Module):
                vars(call.function)["_origin"] = Origin(call)
        if "_calls" in vars(new):
            new._compile([*_symbols(new._inputs)])
        return new


class _Place:
    """A value of a run, by its number."""

    __slots__ = ("number",)

    def __init__(self, number: int):
        self.number = number


def _filled(value, values: list):
    """Nested arguments with the values that they refer to."""
    if value.__class__ is _Place:
        return values[value.number]
    if value.__class__ is tuple or value.__class__ is list:
        return value.__class__([_filled(item, values) for item in value])
    if value.__class__ is dict:
        return {key: _filled(item, values) for key, item in value.items()}
    return value


def _leaves(value) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _order(outputs: list[Symbol], entries: list[Symbol]) -> list[Call]:
    """The calls between inputs and outputs, each after those it needs. Iterative: models may be deep."""
    known = {id(symbol) for symbol in entries}
    done: dict[int, Call] = {}
    stack: list[tuple[Symbol, bool]] = [(symbol, False) for symbol in reversed(outputs)]
    while stack:
        symbol, ready = stack.pop()
        if id(symbol) in known or (symbol.call is not None and id(symbol.call) in done):
            continue
        if symbol.call is None:
            named = f" {symbol.name!r}" if symbol.name else ""
            raise ArgumentError(
                f"the outputs of a Model depend on an input{named} that is not among its inputs",
                received=repr(symbol),
                fix="list every Input: dc.Model([a, b], outputs)",
            )
        if ready:
            done[id(symbol.call)] = symbol.call
        else:
            stack.append((symbol, True))
            stack += [(needed, False) for needed in reversed(symbol.call.inputs())]
    return list(done.values())


def _names_of(structure, symbols: list[Symbol], kind: str) -> list[str]:
    if isinstance(structure, Mapping):
        return list(structure)
    return [symbol.name or f"{kind}_{i + 1}" for i, symbol in enumerate(symbols)]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
