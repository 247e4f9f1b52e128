"""Sizes that remember how they were computed, so that what Python decides by them becomes a condition of the program.

While a function with varying dimensions is recorded, `Tensor.shape` has integers of a subclass. A comparison, a remainder
or a quotient of one is noted with its outcome: a program serves the sizes at which all of them come out alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

from deepcore import locks
from deepcore.effects import mode
from deepcore.tensor import Tensor

#: Σ coefficient · Π size: (numbers of the sizes, coefficient), sorted.
Polynomial = tuple[tuple[tuple[int, ...], Any], ...]
#: Products in a polynomial at most.
_TERMS = 12


def _normal(terms: dict[tuple[int, ...], Any]) -> Polynomial:
    return tuple(sorted((product, c) for product, c in terms.items() if c))


def _sum(a: Polynomial, b: Polynomial, sign: int = 1) -> Polynomial:
    terms = dict(a)
    for product, c in b:
        terms[product] = terms.get(product, 0) + sign * c
    return _normal(terms)


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    terms: dict[tuple[int, ...], Any] = {}
    for p, c in a:
        for q, d in b:
            product = tuple(sorted(p + q))
            terms[product] = terms.get(product, 0) + c * d
    return _normal(terms)


def _constant(n) -> Polynomial:
    return (((), n),) if n else ()


def value_of(polynomial: Polynomial, sizes: tuple[int, ...]):
    return sum(c * math.prod([sizes[i] for i in product]) for product, c in polynomial)


#: By name: the outcome of a condition on the value of a polynomial.
_OUTCOMES: dict[str, Callable] = {
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    "==": lambda value, bound: value == bound,
    "%": lambda value, divisor: value % divisor,
}


class Conditions:
    """What was decided by sizes while a function was recorded: outcomes by (name, polynomial, number)."""

    def __init__(self, tensors: Iterable[Tensor], marks: Iterable[tuple[int, ...] | None]):
        self.outcomes: dict[tuple[str, Polynomial, Any], Any] = {}
        #: Whether a size was used as a number that is not followed.
        self.escaped = False
        self.active = True
        self._arguments: dict[int, dict[int, Polynomial]] = {}
        #: Other tensors have the lengths of arguments where the values are equal.
        self._by_value: dict[int, Polynomial] = {}
        count = 0
        for t, dims in zip(tensors, marks):
            own = self._arguments[id(t)] = {}
            for d in dims or ():
                own[d] = (((count,), 1),)
                self.follow(t._data.shape[d], own[d])
                count += 1

    def follow(self, n: int, polynomial: Polynomial) -> None:
        if n > 1:
            self._by_value.setdefault(n, polynomial)

    def shape(self, t: Tensor) -> tuple[int, ...]:
        """The shape of a tensor, with the lengths that vary as `Size`."""
        shape, own = t._data.shape, self._arguments.get(id(t))
        if own is not None:
            return tuple([Size.of(n, own[d], self) if d in own else n for d, n in enumerate(shape)])
        known = self._by_value
        return tuple([Size.of(n, known[n], self) if n in known else n for n in shape])

    def note(self, name: str, polynomial: Polynomial, number, outcome):
        if self.active:
            self.outcomes.setdefault((name, polynomial, number), outcome)
        return outcome

    def agree(self, other: Conditions) -> bool:
        """Whether no condition came out differently in two recordings."""
        theirs = other.outcomes
        return all(theirs[key] == outcome for key, outcome in self.outcomes.items() if key in theirs)


def shared(conditions: list[Conditions]) -> dict[tuple[str, Polynomial, Any], Any]:
    """The conditions of all recordings; the others are of lengths that were equal by chance."""
    first, *others = conditions
    return {key: x for key, x in first.outcomes.items() if all(key in other.outcomes for other in others)}


def hold(outcomes: dict[tuple[str, Polynomial, Any], Any], sizes: tuple[int, ...]) -> bool:
    """Whether all conditions come out at these sizes as they did when recorded."""
    return all(_OUTCOMES[name](value_of(p, sizes), number) == x for (name, p, number), x in outcomes.items())


class Size(int):
    """A length that varies."""

    polynomial: Polynomial
    conditions: Conditions

    @classmethod
    def of(cls, n: int, polynomial: Polynomial, conditions: Conditions) -> int:
        if not polynomial or polynomial[-1][0] == () or len(polynomial) > _TERMS:  # no size in it
            return int.__int__(n)
        self = int.__new__(cls, n)
        self.polynomial, self.conditions = polynomial, conditions
        return self

    def _new(self, n: int, polynomial: Polynomial) -> int:
        return Size.of(n, polynomial, self.conditions) if self.conditions.active else n

    def _compared(self, name: str, other, outcome: bool) -> bool:
        if isinstance(other, Size):
            polynomial, number = _sum(self.polynomial, other.polynomial, -1), 0
        else:
            polynomial, number = self.polynomial, other
        if polynomial:
            self.conditions.note(name, polynomial, number, outcome)
        return outcome

    # -- arithmetic ---------------------------------------------------------------------------------------
    def __add__(self, other):
        n = int.__add__(self, other)
        return n if n is NotImplemented else self._new(n, _sum(self.polynomial, _of(other)))

    __radd__ = __add__

    def __sub__(self, other):
        n = int.__sub__(self, other)
        return n if n is NotImplemented else self._new(n, _sum(self.polynomial, _of(other), -1))

    def __rsub__(self, other):
        n = int.__rsub__(self, other)
        return n if n is NotImplemented else self._new(n, _sum(_of(other), self.polynomial, -1))

    def __mul__(self, other):
        n = int.__mul__(self, other)
        return n if n is NotImplemented else self._new(n, _product(self.polynomial, _of(other)))

    __rmul__ = __mul__

    def __neg__(self):
        return self._new(int.__neg__(self), _product(self.polynomial, _constant(-1)))

    def __pos__(self):
        return self

    def __floordiv__(self, other):
        n = int.__floordiv__(self, other)
        if n is NotImplemented or isinstance(other, Size):
            return self._escape(n)
        scaled = _sum(self.polynomial, _constant(self % other), -1)
        return self._new(n, _product(scaled, _constant(Fraction(1, int(other)))))

    def __mod__(self, other):
        n = int.__mod__(self, other)
        if n is NotImplemented or isinstance(other, Size):
            return self._escape(n)
        return self.conditions.note("%", self.polynomial, int(other), n)

    def __divmod__(self, other):
        return self // other, self % other

    def _escape(self, result):
        self.conditions.escaped = True
        return result

    def __truediv__(self, other):
        return self._escape(int.__truediv__(self, other))

    def __rtruediv__(self, other):
        return self._escape(int.__rtruediv__(self, other))

    def __pow__(self, other, modulo=None):
        if modulo is None and other == 2 and isinstance(other, int):
            return self * self
        return self._escape(int.__pow__(self, other, modulo))

    def __rfloordiv__(self, other):
        return self._escape(int.__rfloordiv__(self, other))

    def __rmod__(self, other):
        return self._escape(int.__rmod__(self, other))

    def __float__(self):
        return self._escape(int.__float__(self))

    def __int__(self):
        return self._escape(int.__int__(self))

    # -- decisions ----------------------------------------------------------------------------------------
    def __lt__(self, other):
        outcome = int.__lt__(self, other) if isinstance(other, int) else NotImplemented
        return outcome if outcome is NotImplemented else self._compared("<", other, outcome)

    def __le__(self, other):
        outcome = int.__le__(self, other) if isinstance(other, int) else NotImplemented
        return outcome if outcome is NotImplemented else self._compared("<=", other, outcome)

    def __gt__(self, other):
        below = self.__le__(other)
        return below if below is NotImplemented else not below

    def __ge__(self, other):
        below = self.__lt__(other)
        return below if below is NotImplemented else not below

    def __eq__(self, other):
        outcome = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        return outcome if outcome is NotImplemented else self._compared("==", other, outcome)

    def __ne__(self, other):
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __bool__(self):
        return not self._compared("==", 0, int.__eq__(self, 0))

    def __hash__(self):  # a key of a table
        return self._escape(int.__hash__(self))

    def __reduce__(self):
        return int, (plain(self),)


def _of(other) -> Polynomial:
    return other.polynomial if isinstance(other, Size) else _constant(int(other))


def plain(value):
    """A parameter with sizes as plain integers."""
    kind = type(value)
    if kind is Size:
        return int.__int__(value)
    if kind is tuple or kind is list:
        return kind(map(plain, value))
    if kind is slice:
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if kind is dict:
        return {name: plain(item) for name, item in value.items()}
    return value


# -- while recording ----------------------------------------------------------------------------------------------------


def _conditions() -> Conditions | None:
    tracer = mode.tracer
    return None if tracer is None or tracer.inside else tracer.conditions


def _shape(self):
    conditions = _conditions()
    return self._data.shape if conditions is None else conditions.shape(self)


def _size(self, dim: int | None = None):
    return self.shape if dim is None else self._of_dim(self.shape, dim)


def _numel(self) -> int:
    return int(self._data.size) if _conditions() is None else math.prod(self.shape)


def _len(self) -> int:
    conditions = _conditions()
    if conditions is not None and self._data.ndim:
        conditions.escaped |= isinstance(self.shape[0], Size)  # `len` makes a plain number of it
    return _plain_len(self)


_plain_len = Tensor.__len__
_PATCHES: dict[str, Any] = {
    "shape": property(_shape), "size": _size, "numel": _numel, "nelement": _numel, "__len__": _len,
}  # fmt: skip
_ORIGINAL = {name: Tensor.__dict__[name] for name in _PATCHES}
_lock = locks.lock()
_count = 0


@contextlib.contextmanager
def following(conditions: Conditions | None) -> Iterator[None]:
    """Inside, tensors' shapes of a recording thread have sizes that remember how they were computed."""
    global _count
    if conditions is None:
        yield
        return
    with _lock:
        _count += 1
        for name, value in _PATCHES.items():
            setattr(Tensor, name, value)
    try:
        yield
    finally:
        conditions.active = False
        with _lock:
            _count -= 1
            if not _count:
                for name, value in _ORIGINAL.items():
                    setattr(Tensor, name, value)
