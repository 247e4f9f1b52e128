"""Draws whose parameters are tensors, and the methods that fill a tensor with draws."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, BackendError, DeepcoreError, DTypeError, GradientError, ShapeError
from deepcore.ops import sampling
from deepcore.random import Generator

N = 20_000


def column(value, dtype=dt.float64, backend="cpu", n=N):
    return dc.full((n,), value, dtype=dtype, backend=backend)


#: (method, arguments, scipy's distribution, its arguments)
FILLS = [
    ("uniform_", (-2.0, 3.0), "uniform", (-2, 5)),
    ("normal_", (1.0, 2.0), "norm", (1, 2)),
    ("log_normal_", (0.5, 0.7), "lognorm", (0.7, 0, math.exp(0.5))),
    ("exponential_", (3.0,), "expon", (0, 1 / 3)),
    ("cauchy_", (1.0, 2.0), "cauchy", (1, 2)),
]
#: (function of a backend and a generator, scipy's distribution, its arguments)
COUNTS = [
    *(
        (lambda b, g, rate=rate: dc.poisson(column(rate, backend=b), g), "poisson", (rate,))
        for rate in (0.3, 9.9, 10.0, 40.0, 3000.0)
    ),
    *(
        (lambda b, g, n=n, p=p: dc.binomial(column(n, backend=b), column(p, backend=b), g), "binom", (n, p))
        for n, p in ((5.0, 0.4), (12.0, 0.95), (100.0, 0.5), (4000.0, 0.99), (1e5, 0.2))
    ),
    (lambda b, g: dc.zeros(N, backend=b, dtype="int64").geometric_(0.3, generator=g), "geom", (0.3,)),
    (lambda b, g: dc.zeros(N, backend=b).geometric_(0.01, generator=g), "geom", (0.01,)),
]


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.float16, dt.bfloat16], ids=dt.name_of)
@pytest.mark.parametrize("name, args, law, parameters", FILLS)
def test_fills_have_their_distribution(name, args, law, parameters, dtype):
    stats = pytest.importorskip("scipy.stats")
    x = column(7.0, dtype)
    assert getattr(x, name)(*args, generator=Generator(1)) is x and x.dtype == dtype
    values = x.numpy().astype(float)
    if dtype.itemsize > 2:
        assert stats.kstest(values, law, parameters).pvalue > 1e-3
    # Rounded values have atoms: compare levels.
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    at = getattr(stats, law).ppf(levels, *parameters)
    spread = 5 * np.sqrt(levels * (1 - levels) / N) + (0.01 if dtype.itemsize == 2 else 0)
    assert (np.abs((values[:, None] <= at).mean(0) - levels) < spread).all()


@pytest.mark.parametrize("draw, law, parameters", COUNTS)
def test_counts_have_their_distribution(draw, law, parameters):
    stats = pytest.importorskip("scipy.stats")
    values = draw("cpu", Generator(2)).numpy()
    assert (values == np.floor(values)).all()
    law = getattr(stats, law)(*parameters)
    edges = np.unique(law.ppf(np.linspace(0.05, 0.95, 12)))
    want = np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    got = np.diff(np.concatenate([[0], (values[:, None] <= edges).sum(0), [N]]))
    keep = want * N > 5
    chi2 = ((got - N * want)[keep] ** 2 / (N * want[keep])).sum()
    assert chi2 < keep.sum() + 5 * math.sqrt(2 * keep.sum())


@pytest.mark.parametrize("a", [0.05, 0.5, 1.0, 3.0, 50.0, 999.0, 1001.0, 1e5])
def test_gamma_numbers_and_their_gradient(a):
    stats = pytest.importorskip("scipy.stats")
    concentration = column(a).requires_grad_()
    x = sampling.standard_gamma(concentration, Generator(3))
    values = x.detach().numpy()
    assert stats.kstest(values, "gamma", (a,)).pvalue > 1e-3
    x.sum().backward()
    # At a fixed level of the distribution function, by central differences of the quantile.
    level, h = stats.gamma.cdf(values[:200], a), a * 1e-4
    want = (stats.gamma.ppf(level, a + h) - stats.gamma.ppf(level, a - h)) / (2 * h)
    inside = (level > 1e-4) & (level < 1 - 1e-4)
    np.testing.assert_allclose(concentration.grad.numpy()[:200][inside], want[inside], rtol=2e-4)


def test_backends_draw_the_same_numbers(backend):
    for name, args, *_ in FILLS:
        got, want = (
            getattr(dc.zeros(50, backend=b, dtype="float64"), name)(*args, generator=Generator(4)).numpy()
            for b in (backend, "cpu")
        )
        np.testing.assert_allclose(got, want, rtol=1e-9)
    for draw, *_ in COUNTS:
        np.testing.assert_array_equal(
            draw(backend, Generator(4)).numpy()[:500], draw("cpu", Generator(4)).numpy()[:500]
        )
    weights = dc.rand(6, 9, generator=Generator(5))
    for replacement in (False, True):
        got = dc.multinomial(weights.to(backend), 5, replacement, generator=Generator(4))
        assert got.backend.name == dc.get_backend(backend).name and got.dtype == dt.int64
        np.testing.assert_array_equal(
            got.numpy(), dc.multinomial(weights, 5, replacement, generator=Generator(4)).numpy()
        )
    x = dc.zeros(99, backend=backend, dtype="int32").random_(-5, 9, generator=Generator(1))
    np.testing.assert_array_equal(x.numpy(), dc.randint(-5, 9, (99,), dtype="int32", generator=Generator(1)).numpy())
    gamma = [sampling.standard_gamma(column(0.7, backend=b, n=50), Generator(8)).numpy() for b in (backend, "cpu")]
    np.testing.assert_allclose(*gamma, rtol=1e-9)


def test_a_seed_gives_the_numbers_again():
    calls = [
        lambda: dc.zeros(9).normal_(),
        lambda: dc.zeros(9).random_(100),
        lambda: dc.poisson(dc.full((9,), 20.0)),
        lambda: dc.multinomial(dc.ones(9), 4),
        lambda: dc.zeros(9).bernoulli_(0.5),
        lambda: sampling.standard_gamma(dc.ones(9)),
    ]
    dc.manual_seed(5)
    first = [call().tolist() for call in calls]
    second = [call().tolist() for call in calls]
    dc.manual_seed(5)
    assert [call().tolist() for call in calls] == first and first != second


def test_multinomial_draws_in_proportion():
    weights = dc.tensor([[1.0, 0.0, 3.0, 6.0], [5.0, 5.0, 0.0, 0.0]], dtype="float64")
    drawn = dc.multinomial(weights, N, True, generator=Generator(1)).numpy()
    for row, p in zip(drawn, weights.numpy()):
        share = np.bincount(row, minlength=4) / N
        np.testing.assert_allclose(share, p / p.sum(), atol=5 * math.sqrt(0.25 / N))
        assert (share[p == 0] == 0).all()
    rows = dc.multinomial(weights[0].expand(N, 4), 2, generator=Generator(2)).numpy()
    assert (rows[:, 0] != rows[:, 1]).all() and (rows != 1).all()
    first = np.bincount(rows[:, 0], minlength=4) / N
    np.testing.assert_allclose(first, [0.1, 0, 0.3, 0.6], atol=5 * math.sqrt(0.25 / N))
    # The second one, given that the first was 3: 1 to 3.
    second = rows[rows[:, 0] == 3, 1]
    assert abs((second == 2).mean() - 0.75) < 5 * math.sqrt(0.25 / len(second))
    assert sorted(dc.multinomial(dc.tensor([1.0, 0.0, 2.0]), 3).tolist()) == [0, 1, 2]
    assert dc.multinomial(dc.tensor([1.0, 0.0]), 2).tolist() == [0, 1]
    assert dc.multinomial(dc.ones(0, 3), 2).shape == (0, 2)


def test_bernoulli_and_random_forms():
    x = dc.zeros(4, dtype="int64")
    assert dc.bernoulli(x, 1.0).tolist() == [1] * 4 and dc.bernoulli(x, 1.0).dtype == dt.int64
    assert x.bernoulli_(dc.tensor([1.0, 0.0, 1.0, 0.0])).tolist() == [1, 0, 1, 0]
    assert dc.ones(3).bernoulli(0.0).tolist() == [0] * 3
    assert dc.ones(2, 3).bernoulli_(dc.zeros(3)).tolist() == [[0] * 3] * 2
    assert dc.ones(1000, dtype="bool").random_().tolist().count(True) in range(400, 600)
    values = dc.zeros(N, dtype="int8").random_().numpy()
    assert values.min() == 0 and values.max() == 127
    assert set(dc.zeros(1000).random_(3).tolist()) == {0, 1, 2}
    assert set(dc.zeros(1000).random_(-1, 2).tolist()) == {-1, 0, 1}
    assert dc.zeros(1000, dtype="int64").random_(2**40, None).min().item() >= 2**40


def test_special_parameters():
    nan, inf = math.nan, math.inf
    got = dc.binomial(dc.tensor([3.0, -3.0, 3.0, nan, 0.0]), dc.tensor([1.5, 0.5, -1.0, 0.5, 0.5])).tolist()
    assert got[:3] == [3, 0, 0] and math.isnan(got[3]) and got[4] == 0
    assert dc.poisson(dc.zeros(3)).tolist() == [0] * 3
    gamma = sampling.standard_gamma(dc.tensor([nan, inf, 1e-30])).tolist()
    assert math.isnan(gamma[0]) and gamma[1] == inf and gamma[2] > 0
    for empty in (dc.poisson(dc.ones(0)), dc.binomial(dc.ones(0), dc.ones(0)), sampling.standard_gamma(dc.ones(0))):
        assert empty.shape == (0,)
    assert dc.binomial(dc.full((3, 1), 5.0), dc.full((4,), 0.5)).shape == (3, 4)
    assert dc.normal(dc.zeros(3, 1), dc.ones(2, dtype="float64")).dtype == dt.float64


def test_compiled_draws_follow_their_parameters():
    step = dc.compile(lambda p: (dc.bernoulli(p * 1), dc.normal(p * 100, 0.01), dc.multinomial(p + 0, 3, True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
            heads, near, index = step(dc.tensor(row))
            assert heads.tolist() == row and np.abs(near.numpy() - 100 * np.array(row)).max() < 0.1
            assert index.tolist() == [row.index(1.0)] * 3


def test_gradients_and_writes():
    leaf = dc.ones(3, requires_grad=True)
    with pytest.raises(GradientError, match="leaf"):
        leaf.normal_()
    with dc.no_grad():
        leaf.normal_()
    x = leaf * 2
    x.exponential_()
    (x.sum() + leaf.sum()).backward()
    assert leaf.grad.tolist() == [1, 1, 1]  # nothing goes through what was overwritten
    base = dc.zeros(2, 3)
    base[1].fill_(4).uniform_(5, 6)
    assert base[0].tolist() == [0, 0, 0] and base[1].min().item() >= 5
    for constant in (dc.poisson(leaf.exp()), dc.bernoulli(leaf.sigmoid()), dc.normal(leaf, 1.0)):
        assert not constant.requires_grad


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: dc.zeros(3).uniform_(2, 1), ArgumentError, "from_ ≤ to"),
        (lambda: dc.zeros(3).normal_(0, -1), ArgumentError, "std ≥ 0"),
        (lambda: dc.zeros(3).log_normal_(0, 0), ArgumentError, "std > 0"),
        (lambda: dc.zeros(3).exponential_(0), ArgumentError, "lambd > 0"),
        (lambda: dc.zeros(3).cauchy_(0, 0), ArgumentError, "sigma > 0"),
        (lambda: dc.zeros(3).geometric_(1), ArgumentError, "0 < p < 1"),
        (lambda: dc.zeros(3).bernoulli_(2), ArgumentError, "p ≤ 1"),
        (lambda: dc.zeros(3).bernoulli_(dc.ones(2, 3)), ShapeError, "expand|broadcast"),
        (lambda: dc.zeros(3).bernoulli_(dc.tensor([0, 1, 2.0])), ArgumentError, "p ≤ 1"),
        (lambda: dc.zeros(3).bernoulli_(dc.ones(3, dtype="int64")), DTypeError, "floats"),
        (lambda: dc.zeros(3).random_(5, 3), ArgumentError, "from < to"),
        (lambda: dc.zeros(3).random_(0), ArgumentError, "from < to"),
        (lambda: dc.zeros(3).random_(0.5), ArgumentError, "whole numbers"),
        (lambda: dc.zeros(3).random_(1, 2, 3), ArgumentError, "one or two"),
        (lambda: dc.zeros(3, dtype="int8").random_(0, 1000), ArgumentError, "int8"),
        (lambda: dc.zeros(3, dtype="bool").geometric_(0.5), DTypeError, "bool"),
        *(
            (lambda name=name: getattr(dc.zeros(3, dtype="int64"), name)(), DTypeError, f"{name} takes floats")
            for name in ("uniform_", "normal_", "log_normal_", "exponential_", "cauchy_")
        ),
        (lambda: dc.poisson(-dc.ones(3)), ArgumentError, "rate ≥ 0"),
        (lambda: dc.poisson(dc.tensor([math.nan])), ArgumentError, "rate ≥ 0"),
        (lambda: dc.poisson(dc.ones(3, dtype="int64")), DTypeError, "floats"),
        (lambda: dc.binomial(dc.ones(3, dtype="int64"), dc.ones(3)), DTypeError, "floats"),
        (lambda: dc.binomial(dc.ones(3, dtype="float64"), dc.ones(3)), DTypeError, "one dtype"),
        (lambda: dc.normal(dc.zeros(3), dc.full((3,), -1.0)), ArgumentError, "std ≥ 0"),
        (lambda: dc.normal(dc.zeros(3, dtype="int64"), 1.0), DTypeError, "floats"),
        (lambda: dc.multinomial(dc.zeros(3), 1), ArgumentError, "sum to 0"),
        (lambda: dc.multinomial(-dc.ones(3), 1), ArgumentError, "≥ 0"),
        (lambda: dc.multinomial(dc.tensor([1.0, math.inf]), 1), ArgumentError, "finite"),
        (lambda: dc.multinomial(dc.ones(2), 3), ArgumentError, "3 of 2"),
        (lambda: dc.multinomial(dc.ones(2), 0), ArgumentError, "at least 1"),
        (lambda: dc.multinomial(dc.ones(2, dtype="int64"), 1), DTypeError, "floats"),
        (lambda: dc.multinomial(dc.ones(2, 2, 2), 1), ShapeError, "vector or a matrix"),
        (lambda: dc.multinomial(dc.ones(0), 1, True), ShapeError, "no classes"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_parameters_on_two_backends(backend):
    if backend == "cpu":
        pytest.skip("there is one backend")
    with pytest.raises(BackendError, match="two backends"):
        dc.normal(dc.zeros(3), dc.ones(3, backend=backend))
    with pytest.raises(DeepcoreError):
        dc.binomial(dc.ones(3), dc.ones(3, backend=backend))
