"""Programs for a range of sizes: which dimensions vary, the recordings at several sizes, and one runner for all of them."""

from __future__ import annotations

import inspect
import logging
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deepcore.compiler.runner import Runner
from deepcore.compiler.sizes import Fit, Recording, Sample, Unsupported
from deepcore.compiler.symbolic import Conditions
from deepcore.config import settings
from deepcore.errors import ArgumentError
from deepcore.tensor import Tensor

log = logging.getLogger("deepcore.compile")

#: Sizes that one program is prepared for at most, on the CPU and on a GPU, where each has a graph with memory of its own.
_SIZES = {"cpu": 128}
_GRAPHS = 8
#: Recordings of one structure after which it counts as no polynomial of the sizes.
_MAX_SAMPLES = 12
#: Programs may serve the sizes with one remainder by these, where lengths are quotients, as with steps of 2.
_DIVISORS = (1, 2, 4)
#: A program counts as checked at sizes up to so many times beyond those that were, as conditions follow decisions.
_MARGIN = 2
#: New sizes of a program that are checked, besides those beyond the ones that were.
_CHECKED_SIZES = (1, 2, 3, 5, 11, 23, 47, 97, 199, 397, 797)


class Variant:
    """The state of a runner for some sizes; `checked`: the function has been run beside it."""

    __slots__ = ("checked", "numbers", "state", "symbols")

    def __init__(self, symbols: tuple[int, ...], state: dict[str, Any], numbers: list[int], checked: bool):
        self.symbols, self.state, self.numbers, self.checked = symbols, state, numbers, checked


class SizedProgram:
    """One runner for all sizes that a fit describes."""

    def __init__(self, fit: Fit, samples: list[Sample], runner: Runner, tree):
        self.fit, self.runner, self.tree = fit, runner, tree
        points = [fit.symbols(sample.sizes) for sample in samples]
        #: The range of each size that was checked; sizes beyond it at which the program differed.
        self.low = [min(column) for column in zip(*points)]  # type: ignore[misc]
        self.high = [max(column) for column in zip(*points)]  # type: ignore[misc]
        self.wrong: list[tuple[int, ...]] = []
        self.made = 0
        #: Whether Python may have decided something by sizes that no condition describes.
        self.escaped = any(sample.conditions.escaped for sample in samples)
        first = Variant(points[-1], runner.state(), [], True)  # type: ignore[arg-type]
        runner.variant = first
        self.variants: OrderedDict[tuple[int, ...], Variant] = OrderedDict({first.symbols: first})
        runner.sized = self

    def variant(self, sizes: tuple[int, ...], arrays: list) -> Variant | None:
        """The runner's state for these sizes, or None where the program does not apply."""
        symbols = self.fit.symbols(sizes)
        if symbols is None or any(self._is_beyond(symbols, point) for point in self.wrong):
            return None
        variant = self.variants.get(symbols)
        if variant is None:
            margin = 1 if self.escaped else _MARGIN
            inside = all(low <= n * margin and n <= high * margin for low, n, high in zip(self.low, symbols, self.high))
            if not inside and settings.compile_check == 0:
                return None
            recording = self.fit.at(symbols)
            state = None if recording is None else self.runner.resized(recording, arrays)
            if recording is None or state is None:
                return None
            self.made += 1
            often = settings.compile_check is None and self.made in _CHECKED_SIZES
            variant = Variant(symbols, state, recording.numbers, inside and not often and settings.compile_check != 1)
            self.variants[symbols] = variant
            most = _SIZES.get(self.runner.backend.name, _GRAPHS)
            while len(self.variants) > most:
                oldest = next(v for v in self.variants.values() if v is not self.runner.variant)
                del self.variants[oldest.symbols]
        self.variants.move_to_end(symbols)
        return variant

    def _is_beyond(self, symbols: tuple[int, ...], point: tuple[int, ...]) -> bool:
        """Whether sizes are as far out as those at which the program differed."""
        return all(
            low <= bound <= high or (n >= bound if bound > high else n <= bound)
            for n, bound, low, high in zip(symbols, point, self.low, self.high)
        )

    def passed(self, variant: Variant) -> None:
        """Note that a check of these sizes has found no difference."""
        variant.checked = True
        self.low = list(map(min, self.low, variant.symbols))
        self.high = list(map(max, self.high, variant.symbols))

    def failed(self, variant: Variant) -> bool:
        """Note that a check of these sizes has found a difference; whether other sizes remain."""
        self.variants.pop(variant.symbols, None)
        self.wrong.append(variant.symbols)
        return any(not low <= n <= high for low, n, high in zip(self.low, variant.symbols, self.high))

    def __str__(self) -> str:
        ranges = ", ".join(f"{low} to {high}" for low, high in zip(self.low, self.high))
        return f"{len(self.variants)} sizes so far ({ranges})"


class Family:
    """Calls that differ in sizes alone: recordings by structure, and the programs that they led to."""

    def __init__(self):
        self.samples: list[list[Sample]] = []
        self.programs: list[SizedProgram] = []

    def add(self, sample: Sample, runner: Runner, tree) -> tuple[SizedProgram, list[Sample]] | None:
        """Add a recording; the program for all sizes, once the earlier recordings predict it."""
        group = next((group for group in self.samples if group[0].agrees(sample)), None)
        if group is None:
            if len(self.samples) >= _MAX_SAMPLES:
                self.samples.pop(0)
            self.samples.append([sample])
            return None
        group[:] = [other for other in group if other.sizes != sample.sizes] + [sample]
        for alike, divisor, escaped in _subsets(group):
            earlier = Fit(alike[:-1], divisor)
            fit = Fit(alike, divisor) if earlier.complete and earlier.predicts(sample) else None
            if fit is not None and fit.complete:
                program = SizedProgram(fit, alike, runner, tree)
                program.escaped |= escaped
                self.programs.append(program)
                group[:] = [other for other in group if other not in alike]
                if not group:
                    self.samples.remove(group)
                return program, alike
        if len(group) >= _MAX_SAMPLES:
            del group[0]
        return None


def _subsets(group: list[Sample]) -> Iterator[tuple[list[Sample], int, bool]]:
    """Recordings that may have one fit, the last one at the end: all, those with one remainder by a divisor, and the
    nearest ones, where something that no condition shows has changed between others."""
    last = group[-1]
    for divisor in _DIVISORS:
        alike = [other for other in group if all((a - b) % divisor == 0 for a, b in zip(other.sizes, last.sizes))]
        if len(alike) > 2:
            yield alike, divisor, False
    for below in (True, False):
        beyond = [other for other in group if _is_ordered(other.sizes, last.sizes, below)]
        beyond.sort(key=lambda other: other.sizes, reverse=not below)
        for count in range(min(len(beyond), len(group) - 1), 2, -1):
            yield beyond[-count:], 1, True


def _is_ordered(a: tuple[int, ...], b: tuple[int, ...], below: bool) -> bool:
    return all(x <= y if below else x >= y for x, y in zip(a, b))


class Dimensions:
    """The dimensions that vary, by arguments: `dynamic` of `dc.compile`."""

    def __init__(self, function: Callable, dynamic):
        self.every = dynamic is True
        self.dims: dict[Any, Any] = {} if self.every else dict(dynamic)
        self.signature = _signature(function)
        if not self.every:
            self._check()

    def _check(self) -> None:
        names = None if self.signature is None else list(self.signature.parameters.values())
        for name, dims in self.dims.items():
            first = name.partition(".")[0] if isinstance(name, str) else name
            if names is not None:
                positional = [p.name for p in names if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
                rest = {p.kind for p in names}
                if isinstance(first, str):
                    exists = first in [p.name for p in names] or inspect.Parameter.VAR_KEYWORD in rest
                else:
                    exists = 0 <= first < len(positional) or inspect.Parameter.VAR_POSITIONAL in rest
                if not exists:
                    raise ArgumentError(
                        "dynamic= names an argument that the function does not have",
                        expected=f"a name or a position of ({', '.join(p.name for p in names)})",
                        received=repr(name),
                    )
            _check_dims(name, dims)

    def of(self, args: tuple, kwargs: dict) -> list[tuple[int, ...] | None]:
        """For each tensor among the arguments, in the order of a compiled call: its dimensions that vary."""
        marks: list[tuple[int, ...] | None] = []
        if self.every:
            for t in _tensors((args, kwargs)):
                marks.append(tuple(range(t.ndim)))
            return marks
        names = self._names(len(args))
        for i, arg in enumerate(args):
            entries = [(key, dims) for key, dims in self.dims.items() if key == i and not isinstance(key, str)]
            entries += [(key, dims) for key, dims in self.dims.items() if _heads(key, names[i])]
            _mark(arg, [(_rest(key), dims) for key, dims in entries], marks, names[i] or str(i))
        positions = {name: i for i, name in enumerate(self._names(1000)) if name}
        for name, arg in kwargs.items():
            entries = [(key, dims) for key, dims in self.dims.items() if _heads(key, name)]
            entries += [
                (key, dims)
                for key, dims in self.dims.items()
                if not isinstance(key, str) and key == positions.get(name)
            ]
            _mark(arg, [(_rest(key), dims) for key, dims in entries], marks, name)
        return marks

    def _names(self, count: int) -> list[str | None]:
        if self.signature is None:
            return [None] * count
        names: list[str | None] = [
            p.name for p in self.signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        rest = next((p.name for p in self.signature.parameters.values() if p.kind is p.VAR_POSITIONAL), None)
        return names[:count] + [rest] * (count - len(names))


def _signature(function: Callable) -> inspect.Signature | None:
    """The signature of a call: of a module, that of its forward."""
    forward = getattr(type(function), "forward", None)
    try:
        return inspect.signature(function if forward is None else function.forward)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None


def _check_dims(name, dims) -> None:
    if isinstance(dims, dict):
        for key, item in dims.items():
            _check_dims(f"{name}.{key}", item)
        return
    items = dims if isinstance(dims, (tuple, list)) else (dims,)
    if all(_is_int(d) for d in items) and items:
        return
    if isinstance(dims, (tuple, list)) and dims:
        for i, item in enumerate(dims):
            if item is not None:
                _check_dims(f"{name}.{i}", item)
        return
    raise ArgumentError(
        f"dynamic= has no dimensions for {name!r}",
        expected="a dimension, a tuple of them, or a structure like the argument's",
        received=repr(dims),
        fix='for example dynamic={"x": 1, "mask": (0, 1)}',
    )


def _is_int(d) -> bool:
    return hasattr(d, "__index__") and not isinstance(d, bool)


def _heads(key, name: str | None) -> bool:
    return isinstance(key, str) and name is not None and key.partition(".")[0] == name


def _rest(key) -> tuple[str, ...]:
    return tuple(key.split(".")[1:]) if isinstance(key, str) else ()


def _mark(tree, entries: list[tuple[tuple[str, ...], Any]], marks: list, label: str, named: bool = True) -> None:
    """Append the dimensions of each tensor in `tree`; entries: (path below it, dimensions or a structure of them).

    `named`: the entries name this part itself, not a container around it.
    """
    if isinstance(tree, Tensor):
        dims: set[int] = set()
        for path, item in entries:
            numbers = item if isinstance(item, (tuple, list)) else (item,)
            if path or isinstance(item, dict) or not all(map(_is_int, numbers)):
                raise ArgumentError(
                    f"dynamic= has a structure for {label}, which is one tensor",
                    received=repr(item),
                    fix=f'name its dimensions, as in dynamic={{"{label}": 1}}',
                )
            dims.update(_dimension(tree, d, label, named) for d in map(operator.index, numbers))
        marks.append(tuple(sorted(dims)) or None)
        return
    if isinstance(tree, dict):
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        if named and entries and tree is not None:
            raise ArgumentError(
                f"dynamic= names {label}, which is no tensor",
                received=type(tree).__name__,
                fix="pass a tensor or an array, or leave it out of dynamic=",
            )
        return
    for name, item in items:
        below: list[tuple[tuple[str, ...], Any]] = []
        itself = False
        for path, dims_of in entries:
            if path:
                part = (path[1:], dims_of) if path[0] == str(name) else None
            elif isinstance(dims_of, dict):
                part = ((), dims_of[name]) if name in dims_of else None
            elif isinstance(dims_of, (tuple, list)) and not all(map(_is_int, dims_of)):
                has = isinstance(name, int) and name < len(dims_of) and dims_of[name] is not None
                part = ((), dims_of[name]) if has else None
            else:
                below.append(((), dims_of))
                continue
            if part is not None:
                below.append(part)
                itself = True
        _mark(item, below, marks, f"{label}.{name}", itself)


def _dimension(t: Tensor, d: int, label: str, named: bool) -> int:
    if -t.ndim <= d < t.ndim:
        return d % t.ndim
    fix = f"a dimension from {-t.ndim} to {t.ndim - 1}" if t.ndim else "leave it out of dynamic="
    if not named:
        fix = f'name the tensors that have it by their paths, as in dynamic={{"{label}": …}}'
    raise ArgumentError(
        f"dynamic= names dimension {d} of {label}, which has {t.ndim}", received=f"shape {tuple(t.shape)}", fix=fix
    )


def _tensors(tree) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _tensors(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)


def sampled(sizes: tuple[int, ...], recording: Recording, facts: tuple, conditions: Conditions) -> Sample | None:
    """A sample of a recording, or None where it cannot be copied to other sizes."""
    try:
        return Sample(sizes, recording, (*facts, tuple(n if n < 2 else -1 for n in sizes)), conditions)
    except Unsupported:
        return None
