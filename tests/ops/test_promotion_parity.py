"""dtypes of results against PyTorch's: every pair of dtypes, with and without dimensions, and Python numbers."""

from __future__ import annotations

import itertools
import operator

import pytest

import deepcore as dc
from deepcore.backend.dtypes import DTYPES, name_of, promote_types, result_type

torch = pytest.importorskip("torch")

# PyTorch has no promotion of the wider unsigned types.
NAMES = [name for name in DTYPES if name not in ("uint16", "uint32", "uint64")]
NUMBERS = {"bool": True, "int": 2, "float": 1.5, "complex": 1.5 + 2j}
OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "eq", "lt", "and_", "or_"]
FUNCTIONS = ["maximum", "fmod", "atan2", "where", "logaddexp"]


pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:Casting complex")


def torch_name(dtype) -> str:
    """The dtype's name here: complex64 where PyTorch has complex numbers of two float16."""
    return str(dtype).removeprefix("torch.").replace("complex32", "complex64")


def both(name: str, shape: tuple):
    return torch.ones(shape, dtype=getattr(torch, name)), dc.ones(shape, dtype=name)


@pytest.mark.parametrize("first", NAMES)
def test_promote_types(first):
    for second in NAMES:
        want = torch.promote_types(getattr(torch, first), getattr(torch, second))
        assert name_of(promote_types(DTYPES[first], DTYPES[second])) == torch_name(want), second


@pytest.mark.parametrize("first", NAMES)
def test_result_type(first):
    """Dimensions outrank numbers of no dimension, which outrank Python's numbers, within a category."""
    for second, a, b in itertools.product(NAMES, [(), (2,)], [(), (2,)]):
        want = torch.result_type(both(first, a)[0], both(second, b)[0])
        got = result_type([(DTYPES[first], len(a)), (DTYPES[second], len(b))])
        assert name_of(got) == torch_name(want), (second, a, b)
    for number, a in itertools.product(NUMBERS.values(), [(), (2,)]):
        want = torch.result_type(both(first, a)[0], number)
        assert name_of(result_type([(DTYPES[first], len(a)), type(number)])) == torch_name(want), (number, a)


def outcome(function, *operands):
    try:
        return function(*operands).dtype
    except (TypeError, ValueError, RuntimeError):
        return None


def same_outcome(theirs, ours, what) -> None:
    """Both refuse, or both give one dtype; but a bool subtracted with a number is 0 or 1 here, an error in PyTorch."""
    if theirs is None and "sub" in what and ours is not None and ours != DTYPES["bool"]:
        return
    if theirs is None and ours is not None and "float16" in what:  # PyTorch lacks ops for its complex32
        return
    if what[:3] == ("bool", "pow", True):  # bool in PyTorch, where (bool, bool) is refused
        return
    assert (ours and name_of(ours)) == (theirs and torch_name(theirs)), what


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("first", NAMES)
def test_operators(first, name):
    function = getattr(operator, name)
    for second, a, b in itertools.product(NAMES, [(), (2,)], [(), (2,)]):
        (ta, da), (tb, db) = both(first, a), both(second, b)
        same_outcome(outcome(function, ta, tb), outcome(function, da, db), (first, name, second, a, b))
    for number, a in itertools.product(NUMBERS.values(), [(), (2,)]):
        ta, da = both(first, a)
        same_outcome(outcome(function, ta, number), outcome(function, da, number), (first, name, number, a))
        same_outcome(
            outcome(function, number, ta), outcome(function, number, da), (first, name, number, a, "reflected")
        )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("first", NAMES)
def test_functions_of_two(first, name):
    for second in NAMES:
        (ta, da), (tb, db) = both(first, (2,)), both(second, ())
        if name == "where":
            theirs = outcome(torch.where, torch.tensor([True, False]), ta, tb)
            ours = outcome(dc.where, dc.tensor([True, False]), da, db)
        else:
            theirs, ours = outcome(getattr(torch, name), ta, tb), outcome(getattr(dc, name), da, db)
        if theirs is not None:
            same_outcome(theirs, ours, (first, name, second))


UNARY = [
    "abs", "neg", "sign", "square", "exp", "log", "sqrt", "sin", "tanh", "sigmoid", "erf", "floor", "ceil", "trunc", "round",
    "relu", "isnan", "isinf", "isfinite", "logical_not", "bitwise_not", "reciprocal", "rsqrt", "sum", "prod", "mean", "var",
    "std", "amax", "argmax", "all", "any", "count_nonzero", "cumsum", "logsumexp", "softmax", "max", "sort",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one(name):
    """The result's dtype for each input dtype, where PyTorch takes it."""
    extra = {"cumsum": (0,), "logsumexp": (0,), "softmax": (0,), "sort": (0,)}.get(name, ())
    for first in NAMES:
        (ta, da) = both(first, (3,))
        theirs = outcome(lambda x: _first(getattr(torch, name)(x, *extra)), ta)
        ours = outcome(lambda x: _first(getattr(dc, name)(x, *extra)), da)
        if theirs is not None:
            same_outcome(theirs, ours, (first, name))


def _first(value):
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"])
@pytest.mark.parametrize("first", NAMES)
def test_in_place_keeps_the_dtype_or_refuses(first, name):
    function = getattr(operator, name)
    for second in [*NAMES, *NUMBERS]:
        (ta, da) = both(first, (2,))
        tb, db = (NUMBERS[second],) * 2 if second in NUMBERS and second != "bool" else both(second, (2,))
        same_outcome(outcome(function, ta, tb), outcome(function, da, db), (first, name[1:], second))


def test_creation():
    """Python's numbers: float32, int64 and bool; mixtures take the widest."""
    for data in (
        1j,
        [1j, 1],
        [[1.5], [2j]],
        1,
        1.5,
        True,
        [1, 2],
        [1, 2.5],
        [True, False],
        [True, 2],
        [],
        [[1.0], [2]],
    ):
        assert name_of(dc.tensor(data).dtype) == torch_name(torch.tensor(data).dtype), data
    for arguments in ((3,), (3.0,), (0, 3, 1), (0, 3, 1.5), (1.0, 4)):
        assert name_of(dc.arange(*arguments).dtype) == torch_name(torch.arange(*arguments).dtype), arguments
    for value in (1, 1.0, True):
        assert name_of(dc.full((2,), value).dtype) == torch_name(torch.full((2,), value).dtype), value
