"""Recordings of one function at several sizes: what differs between them as polynomials of the sizes.

Two recordings have the same structure where they differ in whole numbers, real numbers and constant arrays alone. Each
number that differs is fitted by the simplest polynomial of the sizes that all recordings agree on, and a recording at
other sizes is a copy with other numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.control import Body, Draws, Operand, Result
from deepcore.compiler.ir import Record
from deepcore.compiler.record import Drawn, Forward, Recorded, itself
from deepcore.compiler.symbolic import Conditions, hold, shared
from deepcore.kernels.codegen.jit import address
from deepcore.kernels.runtime.executable import Buffer, Ref, root, span, view_at

#: Highest exponent of a size, and degree of a product of sizes.
_EXPONENT, _DEGREE = 2, 3
#: Whole numbers in a tuple that may be a shape.
_MAX_RANK = 4
#: Parameters of a draw that each run sets.
_DRAWN = ("seed", "stream", "position")


@dataclass
class Recording:
    """All that a program is built from, and the places that its runner binds."""

    recorded: Recorded
    #: Places of the results, and of the leaves' new gradients.
    outputs: list[Ref]
    grads: list[Ref]
    #: Memory that is written; gradients from before that are added to.
    changed: list[Buffer]
    accumulated: list[Buffer]
    #: Blocks of each draw, and the numbers of elements that they fill, or 0 where those are unknown.
    blocks: list[int] = field(default_factory=list)
    #: Of results that are differentiated outside: see `split.Split`.
    passes: dict[tuple[int, ...], tuple[list[Record], list[Ref | None]]] = field(default_factory=dict)
    seeds: list[Buffer] = field(default_factory=list)
    saved: list[Buffer] = field(default_factory=list)
    like: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)
    #: Whole numbers among the results.
    numbers: list[int] = field(default_factory=list)


class Unsupported(Exception):
    """A recording has a part that cannot be copied to other sizes."""


class Numbers:
    """The numbers of a recording in the order of a copy, and its structure; the visitor that collects them."""

    def __init__(self):
        self.whole: list[int] = []
        #: Numbers of those of `whole` that are lengths of dimensions.
        self.dims: list[int] = []
        self.real: list[tuple[Any, Any]] = []
        self.arrays: list[Any] = []
        self.structure: list[Any] = []

    def integer(self, n: int) -> int:
        self.whole.append(n)
        return n

    def dim(self, n: int) -> int:
        self.dims.append(len(self.whole))
        self.whole.append(n)
        return n

    def number(self, x, dtype=None):
        """A real number, or one of another dtype that a 0-d array has."""
        self.real.append((x, dtype))
        return x

    def array(self, array, shape: tuple[int, ...]):
        self.arrays.append(array)
        return array

    def same(self, part) -> None:
        self.structure.append(part)


class Supply:
    """The visitor that supplies the numbers of another size."""

    def __init__(self, whole: Iterable[int], real: Iterable, arrays: Iterable[Callable], symbols: Sequence[int]):
        self._symbols = symbols
        self._whole, self._real, self._arrays = iter(whole), iter(real), iter(arrays)

    def integer(self, n: int) -> int:
        return next(self._whole)

    dim = integer

    def number(self, x, dtype=None):
        return next(self._real)

    def array(self, array, shape: tuple[int, ...]):
        return next(self._arrays)(array, shape, self._symbols)

    def same(self, part) -> None:
        pass


class _Copier:
    """Copies a recording in a fixed order, with the numbers of a visitor."""

    def __init__(self, recording: Recording, numbers, fold: bool = False):
        self.numbers, self.fold = numbers, fold
        self.integer, self.dim, self.same = numbers.integer, numbers.dim, numbers.same
        self.constants = dict(recording.recorded.constants)
        self.new_constants: dict[Buffer, Any] = {}
        self.buffers: dict[Buffer, Buffer] = {}
        self.numbers_of: dict[Buffer, int] = {}
        #: Content of buffers that depends on constants alone.
        self.known: dict[Buffer, Any] = {}

    # -- memory -------------------------------------------------------------------------------------------
    def buffer(self, buffer: Buffer, filled: int | None = None) -> Buffer:
        """The copy of a buffer; `filled`: the bytes of a place that fills it."""
        new = self.buffers.get(buffer)
        if new is None:
            self.numbers_of[buffer] = len(self.buffers)
            new = self._new_buffer(buffer, filled)
            self.buffers[buffer] = new
        self.same(self.numbers_of[buffer])
        return new

    def _new_buffer(self, buffer: Buffer, filled: int | None) -> Buffer:
        kind = buffer.kind
        self.same(kind)
        if kind == "outside":
            if buffer in self.constants:
                return self._constant(self.constants[buffer])
            if not buffer.nbytes:
                return Buffer("outside", 0, buffer.array)
            self.same(id(buffer.array))
            return buffer
        self.same((buffer.changing, buffer.name, filled is None))
        return Buffer(
            kind, self.integer(buffer.nbytes) if filled is None else filled, None, buffer.name, buffer.changing
        )

    def _constant(self, array) -> Buffer:
        if span(root(array)) != span(array):
            raise Unsupported
        self.same((array.dtype, array.ndim))
        if array.ndim:
            new = self.numbers.array(array, tuple(map(self.dim, array.shape)))
        else:
            value = array.item()
            number = self.numbers.number(value, array.dtype)
            new = array if number is value else self.xp.asarray(number, array.dtype)
        buffer = Buffer("outside", new.nbytes, new)
        self.new_constants[buffer] = self.known[buffer] = new
        return buffer

    def ref(self, ref: Ref) -> Ref:
        shape, strides, dtype = ref.shape, ref.strides, ref.dtype
        new_shape = tuple(map(self.dim, shape))
        order = _order(shape, strides, dtype.itemsize)
        self.same((len(shape), dtype, order))
        if order is None:
            new_strides = tuple(map(self.integer, strides))
        else:
            new_strides = _strides(new_shape, order, dtype.itemsize)
        whole = order is not None and not ref.offset and ref.nbytes == ref.buffer.nbytes
        buffer = self.buffer(ref.buffer, math.prod(new_shape) * dtype.itemsize if whole else None)
        return Ref(buffer, self.integer(ref.offset), new_shape, new_strides, dtype)

    def refs(self, refs: Iterable[Ref]) -> list[Ref]:
        return list(map(self.ref, refs))

    # -- records ------------------------------------------------------------------------------------------
    def record(self, record: Record) -> Record:
        self.same((record.name, id(record.op), record.kept, record.draw, len(record.ins), len(record.outs)))
        if record.chain is not None or record.plan is not None:
            raise Unsupported
        ins, outs = self.refs(record.ins), self.refs(record.outs)
        drawn = record.draw is not None
        self.same(tuple(record.params))
        params = {
            name: value if drawn and name in _DRAWN else self.parameter(value) for name, value in record.params.items()
        }
        new = Record(
            record.name, ins, outs, record.op, params, self.call(record.call, params), record.kept, record.draw
        )
        self.same(len(record.bodies))
        new.bodies = [self.body(body, new) for body in record.bodies]
        if self.fold:
            self._evaluate(new)
        return new

    def call(self, call, params: dict):
        self.same(type(call))
        if isinstance(call, Forward):
            self.same((id(call.impl), tuple(call.fresh)))
            return Forward(call.impl, call.xp, params, call.fresh, call.enter)
        if isinstance(call, Drawn):
            self.same((id(call.function), len(call.args)))
            args = tuple(a if a is call.argument else self.parameter(a) for a in call.args)
            drawn = {
                name: value if name in _DRAWN or value is call.argument else self.parameter(value)
                for name, value in call.params.items()
            }
            return Drawn(call.run, call.function, call.xp, args, drawn, call.argument)
        if call is not None and call is not itself:  # of gradients' clipping and norms, whose sizes do not change
            self.same(call.__qualname__)
        return call

    def parameter(self, value):
        kind = type(value)
        if kind is int:
            return self.integer(value)
        if kind is float:
            return self.numbers.number(value)
        if kind is tuple and len(value) > _MAX_RANK and value.count(value[0]) == len(value) and type(value[0]) is int:
            self.same("equal")  # one for each time step
            return (self.integer(value[0]),) * self.integer(len(value))
        if kind is tuple or kind is list:
            self.same((kind, len(value)))
            return kind(map(self.parameter, value))
        if kind is slice:
            return slice(*map(self.parameter, (value.start, value.stop, value.step)))
        if kind is dict:
            self.same(tuple(value))
            return {name: self.parameter(item) for name, item in value.items()}
        is_number = hasattr(value, "itemsize") and not hasattr(value, "__setitem__")  # of NumPy, or a dtype
        self.same(value if is_number or kind in (bool, str, type(None)) else id(value))
        return value

    def body(self, body: Body, record: Record) -> Body:
        sub = body.recorder
        self.constants |= sub.constants
        self.same(
            (body.reverse, len(body.carry), len(body.rows), len(body.fixed), len(body.carried), len(body.stacked))
        )
        records = list(map(self.record, sub.records))
        new = Body(None, record, None, self.integer(body.length), body.reverse)

        def operands(items: list[Operand]) -> list[Operand]:
            return [Operand(self.buffer(b), n, None, self.integer(stride)) for b, n, _, stride in items]

        def results(items: list[Result]) -> list[Result]:
            return [Result(self.ref(ref), n, self.integer(stride)) for ref, n, stride in items]

        new.carry, new.rows, new.fixed = operands(body.carry), operands(body.rows), operands(body.fixed)
        new.carried, new.stacked = results(body.carried), results(body.stacked)
        self.same(tuple((draw.row, draw.replayed) for draw in body.draws))
        new.draws = [Draws(row, self.integer(n), self.integer(at), replayed) for row, n, at, replayed in body.draws]
        new.recorder = Recorded(sub.backend)
        new.recorder.records, new.recorder.constants = records, self.new_constants
        self.same(tuple(id(generator) for generator, _ in sub.rows))
        new.recorder.rows = [(generator, self.integer(offset)) for generator, offset in sub.rows]
        return new

    def _evaluate(self, record: Record) -> None:
        """Compute what depends on constants alone, which `passes.fold` then takes out of the program."""
        copied = record.op is None and record.name == "copy"
        if (
            not (record.pure or copied)
            or record.call is None
            or any(ref.buffer not in self.known for ref in record.ins)
        ):
            return
        if any(ref.buffer.kind != "own" or ref.buffer.changing or not ref.whole for ref in record.outs):
            return
        results = record.call(*[view_at(address(self.known[ref.buffer]), ref) for ref in record.ins])
        for ref, result in zip(record.outs, results if isinstance(results, tuple) else (results,)):
            if result.shape != ref.shape or result.dtype != ref.dtype:
                raise Unsupported
            self.known[ref.buffer] = ref.buffer.array = self.xp.array(result, order="C")  # of a NumPy number, too

    # -- all ----------------------------------------------------------------------------------------------
    def copy(self, recording: Recording) -> Recording:
        recorded = recording.recorded
        self.xp = recorded.backend
        new = Recorded(recorded.backend)
        new.inspector, new.range_errors, new.outside = recorded.inspector, recorded.range_errors, recorded.outside
        self.same(len(recorded.inputs))
        new.inputs = [(self.buffer(buffer), None) for buffer, _ in recorded.inputs]
        self.same((len(recorded.records), len(recording.changed), len(recording.accumulated)))
        new.records = list(map(self.record, recorded.records))
        copied = Recording(new, self.refs(recording.outputs), self.refs(recording.grads), [], [])
        # The order of outside memory differs between a step that creates an optimizer's states and later ones.
        changed = sorted(recording.changed, key=lambda b: id(b.array) if b.kind == "outside" else 0)
        copied.changed = list(map(self.buffer, changed))
        copied.accumulated = list(map(self.buffer, recording.accumulated))
        new.redirected = {self.buffer(old): self.buffer(to) for old, to in recorded.redirected.items()}
        for update in recorded.updates:
            self.same((id(update.optimizer), len(update.gradients), update.norm is None))
            norm = None if update.norm is None else self.ref(update.norm)
            new.updates.append(update._replace(gradients=self.refs(update.gradients), norm=norm))
        self._draws(recording, copied)
        self.same((tuple(recording.passes), len(recording.seeds), len(recording.saved)))
        copied.seeds = list(map(self.buffer, recording.seeds))
        for chosen, (records, refs) in recording.passes.items():
            self.same((len(records), tuple(ref is None for ref in refs)))
            copied.passes[chosen] = (
                list(map(self.record, records)),
                [None if ref is None else self.ref(ref) for ref in refs],
            )
        copied.saved = list(map(self.buffer, recording.saved))
        copied.like = [(tuple(map(self.dim, shape)), dtype) for shape, dtype in recording.like]
        copied.numbers = list(map(self.integer, recording.numbers))
        new.constants = self.new_constants
        return copied

    def _draws(self, recording: Recording, copied: Recording) -> None:
        """Draws claim blocks of four numbers, one after another."""
        filled: dict[int, tuple[Record, Record]] = {}
        for old, record in zip(recording.recorded.records, copied.recorded.records):
            if record.draw is not None and len(record.outs) == 1:
                filled.setdefault(record.draw.row, (old, record))
        offsets: dict[Any, int] = {}
        for row, ((generator, _), blocks) in enumerate(zip(recording.recorded.rows, recording.blocks)):
            pair = filled.get(row)
            if pair is not None and blocks == -(-math.prod(pair[0].outs[0].shape) // 4):
                self.same((id(generator), "filled"))
                blocks = -(-math.prod(pair[1].outs[0].shape) // 4)
            else:
                self.same((id(generator), "counted"))
                blocks = self.integer(blocks)
            copied.blocks.append(blocks)
            copied.recorded.rows.append((generator, offsets.get(generator, 0)))
            offsets[generator] = offsets.get(generator, 0) + blocks


def _order(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, ...] | None:
    """The dimensions from the outermost to the innermost where strides leave no gap, or None."""
    order = sorted(range(len(shape)), key=lambda d: (-strides[d], d))
    step = itemsize
    for d in reversed(order):
        if strides[d] != step or not shape[d]:
            return None
        step *= shape[d]
    return tuple(order)


def _strides(shape: tuple[int, ...], order: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides, step = [0] * len(shape), itemsize
    for d in reversed(order):
        strides[d], step = step, step * shape[d]
    return tuple(strides)


# -- samples ------------------------------------------------------------------------------------------------------------


class Sample:
    """A recording at some sizes; `sizes`: those of all dimensions that may vary, `facts`: further structure."""

    def __init__(self, sizes: tuple[int, ...], recording: Recording, facts: tuple, conditions: Conditions):
        self.sizes, self.facts, self.conditions = sizes, facts, conditions
        #: The key of the call that was recorded.
        self.key: Any = None
        self.numbers = Numbers()
        self.recording = _Copier(recording, self.numbers).copy(recording)

    def agrees(self, other: Sample) -> bool:
        """Whether two recordings differ in numbers alone."""
        a, b = self.numbers, other.numbers
        return (
            self.facts == other.facts
            and self.conditions.agree(other.conditions)
            and a.structure == b.structure
            and (len(a.whole), len(a.real), len(a.arrays)) == (len(b.whole), len(b.real), len(b.arrays))
        )


class Form:
    """Σ coefficient · Π size ** exponent / divisor."""

    def __init__(self, terms: list[tuple[Fraction, tuple[int, ...]]], divisor: int):
        self.terms = [(int(c * divisor), powers) for c, powers in terms]
        self.divisor = divisor

    def __call__(self, symbols: Sequence[int]) -> int:
        """Raises `Unsupported` where the value is not whole."""
        value = sum(c * math.prod([n**e for n, e in zip(symbols, powers)]) for c, powers in self.terms)
        if self.divisor > 1:
            value, remainder = divmod(value, self.divisor)
            if remainder:
                raise Unsupported
        return value


def fitted(values: Sequence[int], symbols: Sequence[Sequence[int]], divisor: int = 1) -> Form | None:
    """The simplest polynomial that has these values at these sizes, or None; `divisor`: of its coefficients."""
    for basis in _bases(len(symbols[0])):
        if len(basis) > len(symbols):
            continue
        rows = [[math.prod([n**e for n, e in zip(sizes, powers)]) for powers in basis] for sizes in symbols]
        coefficients = _solve(rows, values)
        if coefficients is not None and all(divisor % c.denominator == 0 for c in coefficients):
            return Form([(c, powers) for c, powers in zip(coefficients, basis) if c], divisor)
    return None


def _bases(count: int) -> list[list[tuple[int, ...]]]:
    """Sets of products of sizes, the simplest first."""
    every = [p for p in itertools.product(range(_EXPONENT + 1), repeat=count) if sum(p) <= _DEGREE]
    every.sort(key=sum)
    one, *products = every
    linear = [p for p in products if sum(p) == 1]
    multilinear = [p for p in products if max(p) == 1]
    bases = [[one], *([p] for p in products), [one, *linear], *([one, p] for p in products if sum(p) > 1)]
    return [*bases, [one, *multilinear], [one, *(p for p in products if sum(p) <= 2)]]


def _solve(rows: list[list[int]], values: Sequence[int]) -> list[Fraction] | None:
    """The only solution of a linear system, or None."""
    matrix = [[*map(Fraction, row), Fraction(value)] for row, value in zip(rows, values)]
    count = len(rows[0])
    for column in range(count):
        pivot = next((i for i in range(column, len(matrix)) if matrix[i][column]), None)
        if pivot is None:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        first = matrix[column]
        matrix[column] = first = [x / first[column] for x in first]
        for i, row in enumerate(matrix):
            if i != column and row[column]:
                matrix[i] = [x - row[column] * y for x, y in zip(row, first)]
    if any(row[count] for row in matrix[count:]):
        return None
    return [row[count] for row in matrix[:count]]


#: Functions of a whole number m and of a factor, and the m that a value of each belongs to.
_REAL: tuple[tuple[Callable, Callable], ...] = (
    (lambda m, c: c * m, lambda x, c: x / c),
    (lambda m, c: c / m, lambda x, c: c / x),
    (lambda m, c: c * m**0.5, lambda x, c: (x / c) ** 2),
    (lambda m, c: c * m**-0.5, lambda x, c: (c / x) ** 2),
    (lambda m, c: c / m**0.5, lambda x, c: (c / x) ** 2),
    (lambda m, c: c * m / (m - 1), lambda x, c: x / (x - c)),
    (lambda m, c: c * (1 / m), lambda x, c: c / x),
)


def _fitted_real(values: Sequence, dtype, symbols: Sequence[Sequence[int]], divisor: int, factors) -> Callable | None:
    """A function of the sizes with these values to the bit, or None; `factors`: numbers that may be in it."""
    kind = type(values[0])
    if kind not in (int, float):
        return None
    for factor, (function, inverse) in itertools.product((1, -1, *factors), _REAL):
        try:
            whole = [round(inverse(x, factor)) for x in values]
            equal = all(_same_number(function(m, factor), x, dtype) for m, x in zip(whole, values))
            form = fitted(whole, symbols, divisor) if equal else None
        except (ArithmeticError, ValueError):
            continue
        if form is not None:
            return lambda sizes, function=function, factor=factor, form=form: kind(function(form(sizes), factor))
    return None


def _same_number(a, b, dtype) -> bool:
    if dtype is not None:
        a, b = (dtype.type(x).item() for x in (a, b))
    return repr(type(b)(a)) == repr(b)


def _same_array(xp, a, b) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and xp.to_host(a).tobytes() == xp.to_host(b).tobytes())


def _array_rule(arrays: Sequence, symbols: Sequence[Sequence[int]], xp) -> Callable | None:
    """A function (array, shape, sizes) of a constant array that all samples agree on: the same, filled, or counted."""
    if all(_same_array(xp, a, arrays[0]) for a in arrays[1:]):
        return lambda array, shape, sizes: array
    hosts = [xp.to_host(array) for array in arrays]
    first = hosts[0].reshape(-1)[:1]
    if any(not a.size or not a.flags.c_contiguous for a in hosts):
        return None
    if all(a.tobytes() == first.tobytes() * a.size for a in hosts):
        value = arrays[0].reshape(-1)[:1]

        def filled(array, shape, sizes):
            new = xp.empty(shape, dtype=array.dtype)
            new[...] = value
            return new

        return filled
    rules: list[Callable] = []
    if all(a.ndim == 2 for a in hosts):
        rules.append(lambda array, shape, sizes: xp.eye(*shape, dtype=array.dtype))
    if all(a.ndim == 1 and a.size > 1 and a.dtype.kind in "iuf" for a in hosts):
        ends = [[a[0].item(), a[1].item() - a[0].item(), a[-1].item()] for a in hosts]
        start, step, _ = (
            fitted(list(map(int, column)), symbols) for column in zip(*ends) if all(map(math.isfinite, column))
        )
        if start is not None and step is not None:
            rules.append(lambda array, shape, sizes: _range(xp, start(sizes), step(sizes), shape[0], array.dtype))
        low, _, high = ends[0]
        if all((a, b) == (low, high) for a, _, b in ends):
            rules.append(
                lambda array, shape, sizes: xp.linspace(low, high, shape[0], dtype=dt.float64).astype(array.dtype)
            )
    return next(
        (r for r in rules if all(_same_array(xp, r(a, a.shape, at), a) for a, at in zip(arrays, symbols))), None
    )


def _range(xp, start: int, step: int, count: int, dtype):
    return (xp.arange(count, dtype=dt.int64) * step + start).astype(dtype)


# -- fits ---------------------------------------------------------------------------------------------------------------


class Fit:
    """What recordings at several sizes have in common, and each number that differs as a function of the sizes."""

    def __init__(self, samples: Sequence[Sample], divisor: int = 1):
        self.base = samples[-1]
        #: For each of the sizes: the number of the one that varies like it and the distance, or its only value.
        self.columns: list[tuple[int | None, int]] = []
        sizes = [sample.sizes for sample in samples]
        leaders: list[int] = []
        for i in range(len(sizes[0])):
            column = [row[i] for row in sizes]
            if len(set(column)) == 1:
                self.columns.append((None, column[0]))
                continue
            for number, leader in enumerate(leaders):
                distances = {row[i] - row[leader] for row in sizes}
                if len(distances) == 1:
                    self.columns.append((number, distances.pop()))
                    break
            else:
                leaders.append(i)
                self.columns.append((len(leaders) - 1, 0))
        self.leaders = leaders
        self.conditions = shared([sample.conditions for sample in samples])
        #: Remainders are fixed by conditions, so that quotients are polynomials.
        if divisor > 1:
            self.conditions |= {("%", (((i,), 1),), divisor): sizes[-1][i] % divisor for i in leaders}
        self._divisor = math.lcm(*[number for name, _, number in self.conditions if name == "%" and number])
        self._symbols = [tuple(row[i] for i in leaders) for row in sizes]
        #: Forms, and the numbers of the whole ones that they supply; (number, form) of real numbers.
        self.forms: list[tuple[Form, list[int], bool]] = []
        self.real: list[tuple[int, Callable]] = []
        self.arrays: list[Callable] = []
        same = all(hold(self.conditions, row) for row in sizes)
        self.complete = bool(leaders) and same and self._ranked() and self._fit(samples)

    def symbols(self, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
        """The sizes that vary, or None where the others are not as in the samples."""
        symbols = tuple(sizes[i] for i in self.leaders)
        if not hold(self.conditions, sizes):
            return None
        for size, (number, value) in zip(sizes, self.columns):
            if size != (value if number is None else symbols[number] + value) or (number is not None and size < 2):
                return None
        return symbols

    def _ranked(self) -> bool:
        """Whether the samples' sizes determine an affine function."""
        rows = [[1, *symbols] for symbols in dict.fromkeys(self._symbols)]
        return _rank(rows) == len(rows[0])

    def _fit(self, samples: Sequence[Sample]) -> bool:
        numbers = [sample.numbers for sample in samples]
        by_values: dict[tuple[int, ...], list[int]] = {}
        for i, values in enumerate(zip(*(n.whole for n in numbers))):
            if any(value != values[0] for value in values):
                by_values.setdefault(values, []).append(i)
        dims = set(self.base.numbers.dims)
        for values, places in by_values.items():
            form = fitted(values, self._symbols, self._divisor)
            if form is None:
                return False
            self.forms.append((form, places, not dims.isdisjoint(places)))
        reals = list(zip(*(n.real for n in numbers)))
        fixed = {pairs[0][0] for pairs in reals if len({repr(x) for x, _ in pairs}) == 1}
        factors = [x for x in fixed if type(x) is float and x and math.isfinite(x)]
        for i, pairs in enumerate(reals):
            column, dtype = [x for x, _ in pairs], pairs[0][1]
            if any(repr(x) != repr(column[0]) for x in column):
                function = _fitted_real(column, dtype, self._symbols, self._divisor, factors)
                if function is None:
                    return False
                self.real.append((i, function))
        xp = self.base.recording.recorded.backend
        for arrays in zip(*(n.arrays for n in numbers)):
            rule = _array_rule(arrays, self._symbols, xp)
            if rule is None:
                return False
            self.arrays.append(rule)
        return True

    def predicted(self, symbols: Sequence[int]) -> tuple[list[int], list] | None:
        """The whole and the real numbers of a recording at these sizes, or None where a dimension would have a
        length below 2, at which broadcasting changes, or where a formula has no real value."""
        whole = list(self.base.numbers.whole)
        for form, places, is_dim in self.forms:
            value = form(symbols)
            if value < (2 if is_dim else 0):
                return None
            for i in places:
                whole[i] = value
        real = [x for x, _ in self.base.numbers.real]
        try:
            for i, function in self.real:
                real[i] = function(symbols)
        except (ArithmeticError, TypeError, ValueError):  # no real number there: a root of a negative number, x / 0
            return None
        return whole, real

    def predicts(self, sample: Sample) -> bool:
        """Whether a further recording is as predicted."""
        symbols = self.symbols(sample.sizes)
        try:
            numbers = None if symbols is None else self.predicted(symbols)
        except Unsupported:
            return False
        if numbers is None:
            return False
        whole, real = numbers
        xp = self.base.recording.recorded.backend
        return (
            whole == sample.numbers.whole
            and all(_same_number(a, b, dtype) for a, (b, dtype) in zip(real, sample.numbers.real))
            and all(
                _same_array(xp, rule(a, b.shape, symbols), b)
                for rule, a, b in zip(self.arrays, self.base.numbers.arrays, sample.numbers.arrays)
            )
        )

    def at(self, symbols: Sequence[int]) -> Recording | None:
        """The recording at other sizes, or None."""
        base = self.base.recording
        fold = base.recorded.backend.name == "cpu"
        try:
            numbers = self.predicted(symbols)
            if numbers is None:
                return None
            return _Copier(base, Supply(*numbers, self.arrays, symbols), fold).copy(base)
        except Unsupported:
            return None


def _rank(rows: list[list[int]]) -> int:
    matrix, rank = [list(map(Fraction, row)) for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(matrix)) if matrix[i][column]), None)
        if pivot is None:
            continue
        matrix[rank], matrix[pivot] = matrix[pivot], matrix[rank]
        for i in range(rank + 1, len(matrix)):
            factor = matrix[i][column] / matrix[rank][column]
            matrix[i] = [x - factor * y for x, y in zip(matrix[i], matrix[rank])]
        rank += 1
    return rank
