"""`dc.distributions` against `torch.distributions`, and against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deepcore as dc
from deepcore.errors import ArgumentError, DeepcoreError, ShapeError, UnsupportedError

D = dc.distributions
A, B, C = [0.4, 1.3, 2.5], [1.7, 0.6, 3.1], [[0.3], [1.1]]
PROBS = [0.2, 0.5, 0.9]
ROWS = [[0.2, 0.5, 0.3], [2.0, 1.0, 4.0]]
FACTOR = [[1.2, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.5, 0.4, 1.5]]
FACTOR2 = [[0.9, 0.0, 0.0], [-0.2, 1.1, 0.0], [0.1, 0.3, 0.7]]
COVARIANCE = (np.array(FACTOR) @ np.array(FACTOR).T).tolist()

#: name: (constructor of a library's module and parameters, parameters, those of another one for KL, values).
CASES = {
    "Normal": (lambda d, a, b: d.Normal(a, b), (A, B), (B, A), [[-1.0, 0.2, 3.0]]),
    "Normal, broadcast": (lambda d, a, b: d.Normal(a, b), (A, C), (B, C), [0.5, 1.5, 2.5]),
    "LogNormal": (lambda d, a, b: d.LogNormal(a, b), (A, B), (B, A), [0.2, 1.0, 3.0]),
    "Laplace": (lambda d, a, b: d.Laplace(a, b), (A, B), (B, A), [-1.0, 1.0, 3.0]),
    "Cauchy": (lambda d, a, b: d.Cauchy(a, b), (A, B), (B, A), [-1.0, 1.0, 3.0]),
    "StudentT": (lambda d, a, b, c: d.StudentT(a, b, c), (B, A, B), None, [-1.0, 1.0, 3.0]),
    "Uniform": (lambda d, a, b: d.Uniform(a, a + b), (A, B), (A, B), [0.5, 1.5, 3.0]),
    "Exponential": (lambda d, a: d.Exponential(a), (A,), (B,), [0.5, 1.5, 3.0]),
    "Gamma": (lambda d, a, b: d.Gamma(a, b), (A, B), (B, A), [0.5, 1.5, 3.0]),
    "Beta": (lambda d, a, b: d.Beta(a, b), (A, B), (B, A), PROBS),
    "Dirichlet": (lambda d, a: d.Dirichlet(a), (ROWS,), ([[1.0, 2.0, 0.5]],), [0.2, 0.7, 0.1]),
    "Bernoulli of probs": (lambda d, p: d.Bernoulli(p), (PROBS,), ([0.7, 0.1, 0.4],), [1.0, 0.0, 1.0]),
    "Bernoulli of logits": (lambda d, a: d.Bernoulli(logits=a), (A,), (B,), [1.0, 0.0, 1.0]),
    "Geometric": (lambda d, p: d.Geometric(p), (PROBS,), ([0.7, 0.1, 0.4],), [0.0, 2.0, 5.0]),
    "Geometric of logits": (lambda d, a: d.Geometric(logits=a), (A,), (B,), [0.0, 2.0, 5.0]),
    "Poisson": (lambda d, a: d.Poisson(a), (A,), (B,), [0.0, 2.0, 5.0]),
    "Binomial": (lambda d, p: d.Binomial(7, p), (PROBS,), ([0.7, 0.1, 0.4],), [0.0, 3.0, 7.0]),
    "Binomial of logits": (lambda d, a: d.Binomial(7, logits=a), (A,), (B,), [0.0, 3.0, 7.0]),
    "Categorical": (lambda d, p: d.Categorical(p), (ROWS,), ([[0.1, 0.8, 0.1]],), [[0.0, 2.0]]),
    "Categorical of logits": (lambda d, p: d.Categorical(logits=p), (ROWS,), ([[0.1, 0.8, 0.1]],), [2.0]),
    "OneHotCategorical": (lambda d, p: d.OneHotCategorical(p), (ROWS,), ([[0.1, 0.8, 0.1]],), [0.0, 1.0, 0.0]),
    "Multinomial": (lambda d, p: d.Multinomial(5, p), (ROWS,), None, [1.0, 1.0, 3.0]),
    "MultivariateNormal of L": (lambda d, a, m: d.MultivariateNormal(a, scale_tril=m), ([A, B], FACTOR), (A, FACTOR2), [0.5, 1.0, 0.1]),
    "MultivariateNormal of C": (lambda d, a, m: d.MultivariateNormal(a, m), (A, COVARIANCE), (B, np.eye(3).tolist()), [[0.5, 1.0, 0.1]]),
    "MultivariateNormal of P": (lambda d, a, m: d.MultivariateNormal(a, precision_matrix=m), (A, COVARIANCE), (B, np.eye(3).tolist()), [0.5, 1.0, 0.1]),
    "Independent": (lambda d, a, b: d.Independent(d.Normal(a, b), 1), ([A, B], B), ([B, A], B), [0.5, 1.0, 0.1]),
    "sigmoid of affine": (
        lambda d, a, b: d.TransformedDistribution(d.Normal(a, b), [d.AffineTransform(0.5, -2.0), d.SigmoidTransform()]),
        (A, B), (B, A), PROBS,
    ),
    "tanh": (lambda d, a, b: d.TransformedDistribution(d.Normal(a, b), d.TanhTransform()), (A, B), (B, A), [-0.5, 0.1, 0.9]),
    "exp of a vector": (
        lambda d, a, m: d.TransformedDistribution(d.MultivariateNormal(a, scale_tril=m), d.ExpTransform()),
        (A, FACTOR), (B, FACTOR2), [0.5, 1.0, 0.1],
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def ours(parameters, backend="cpu", grad=False):
    return [dc.tensor(p, dtype="float64", backend=backend, requires_grad=grad) for p in parameters]


def numbers(x):
    return x.detach().numpy()


def outcome(call):
    """What a call returns, or the kind of its error."""
    try:
        return call()
    except NotImplementedError:
        return NotImplementedError


def same(got, want):
    assert (got is NotImplementedError) == (want is NotImplementedError)
    if got is not NotImplementedError:
        assert tuple(got.shape) == tuple(want.shape)
        np.testing.assert_allclose(numbers(got), numbers(want), rtol=1e-7, atol=1e-10)


def test_functions_and_gradients_are_pytorchs(case, backend):
    torch = pytest.importorskip("torch")
    make, parameters, other, value = case
    mine = ours(parameters, backend, grad=True)
    theirs = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in parameters]
    d, t = make(D, *mine), make(torch.distributions, *theirs)
    assert d.batch_shape == tuple(t.batch_shape) and d.event_shape == tuple(t.event_shape)
    assert d.has_rsample == t.has_rsample and d.has_enumerate_support == t.has_enumerate_support
    x, y = dc.tensor(value, dtype="float64", backend=backend), torch.tensor(value, dtype=torch.float64)
    level = [0.1, 0.5, 0.8]
    functions = [
        lambda o, v, u: o.log_prob(v),
        lambda o, v, u: o.entropy(),
        lambda o, v, u: o.mean,
        lambda o, v, u: o.variance,
        lambda o, v, u: o.stddev,
        lambda o, v, u: o.expand((4, *o.batch_shape)).log_prob(v),
        *((lambda o, v, u: o.icdf(u),) if not d.event_shape else ()),
    ]
    if type(t).__name__ != "Gamma" and not d.event_shape:
        functions.append(lambda o, v, u: o.cdf(v))
    for function in functions:
        got = outcome(lambda f=function: f(d, x, dc.tensor(level, dtype="float64", backend=backend)))
        want = outcome(lambda f=function: f(t, y, torch.tensor(level, dtype=torch.float64)))
        same(got, want)
        if got is not NotImplementedError and want.requires_grad and bool(torch.isfinite(want).all()):
            gradients = dc.autograd.grad(got.sum(), mine, retain_graph=True, allow_unused=True)
            wanted = torch.autograd.grad(want.sum(), theirs, retain_graph=True, allow_unused=True)
            for g, w in zip(gradients, wanted):
                g, w = (np.zeros(1) if h is None else numbers(h) for h in (g, w))
                np.testing.assert_allclose(g, w, rtol=1e-7, atol=1e-9)
    got, want = outcome(lambda: d.mode), outcome(lambda: t.mode)
    same(got, want)
    if d.has_enumerate_support:
        same(d.enumerate_support(), t.enumerate_support())
    if other is not None:
        q, r = (
            make(D, *ours(other, backend)),
            make(torch.distributions, *[torch.tensor(p, dtype=torch.float64) for p in other]),
        )
        same(D.kl_divergence(d, q), torch.distributions.kl_divergence(t, r))


def test_draws_have_shape_mean_and_variance(case, backend):
    make, parameters, _, _ = case
    d = make(D, *ours(parameters, backend))
    n = 2000 if backend == "cpu" else 20
    x = d.sample((n,))
    assert x.shape == (n, *d.batch_shape, *d.event_shape) and not x.requires_grad
    assert d.sample().shape == (*d.batch_shape, *d.event_shape)
    assert d.expand((2, *d.batch_shape)).sample((3, 1)).shape == (3, 1, 2, *d.batch_shape, *d.event_shape)
    d.log_prob(x)  # every draw is in the support
    mean, variance = outcome(lambda: d.mean), outcome(lambda: d.variance)
    if n < 1000 or mean is NotImplementedError:
        return
    mean, variance = numbers(mean), numbers(variance)
    heavy = ~(np.isfinite(mean) & np.isfinite(variance) & (variance < 50))
    values = x.numpy()
    near = np.abs(values.mean(0) - mean) < 5 * np.sqrt(variance / n) + 1e-12
    assert (near | heavy).all()
    np.testing.assert_array_less(np.abs(values.var(0) - variance)[~heavy], (0.5 * variance + 0.05)[~heavy])


def test_reparametrised_gradients(case):
    """The mean gradient of a draw is the gradient of the mean."""
    make, parameters, _, _ = case
    mine = ours(parameters, grad=True)
    d = make(D, *mine)
    if not d.has_rsample:
        with pytest.raises(UnsupportedError, match="rsample"):
            d.rsample()
        return
    draws = d.rsample((4000,))
    gradients = dc.autograd.grad(draws.mean(0).sum(), mine, retain_graph=True, allow_unused=True)
    assert any(g is not None and np.isfinite(g.numpy()).all() and (g.numpy() != 0).any() for g in gradients)
    mean = outcome(lambda: d.mean)
    if mean is NotImplementedError or not np.isfinite(numbers(mean)).all() or type(d) is D.LogNormal:
        return
    weight = dc.tensor(np.arange(1.0, 1 + mean.numel()).reshape(mean.shape))
    got = dc.autograd.grad((draws.mean(0) * weight).sum(), mine, retain_graph=True, allow_unused=True)
    want = dc.autograd.grad((mean * weight).sum(), mine, allow_unused=True)
    for g, w in zip(got, want):
        if g is not None and w is not None:
            np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=0.2, atol=0.3)


def test_kl_is_the_mean_log_ratio(case):
    make, parameters, other, _ = case
    if other is None:
        return
    p, q = make(D, *ours(parameters)), make(D, *ours(other))
    x = p.sample((4000,))
    ratio = numbers(p.log_prob(x) - q.log_prob(x))
    kl = numbers(D.kl_divergence(p, q))
    assert (kl > -1e-12).all()
    finite = np.isfinite(ratio).all(0)
    error = 6 * ratio.std(0) / math.sqrt(4000) + 1e-9
    assert (np.abs(ratio.mean(0) - kl) < error)[finite].all()


@pytest.mark.parametrize(
    "pair",
    [
        lambda d, one: (d.Exponential(one * 2), d.Gamma(one * 3, one)),
        lambda d, one: (d.Gamma(one * 3, one), d.Exponential(one * 2)),
        lambda d, one: (d.Uniform(one, one * 2), d.Uniform(one * 0, one * 3)),
        lambda d, one: (d.Uniform(one, one * 4), d.Uniform(one * 0, one * 3)),
        lambda d, one: (d.Uniform(one, one * 4), d.Normal(one * 0, one * 3)),
        lambda d, one: (d.Binomial(3, one * 0.5), d.Binomial(2, one * 0.5)),
        lambda d, one: (d.Bernoulli(one * 0.5), d.Bernoulli(one)),
        lambda d, one: (d.Categorical(one * 0.5), d.Categorical(one * 0.3)),
    ],
)
def test_kl_of_pairs(pair):
    torch = pytest.importorskip("torch")
    got = D.kl_divergence(*pair(D, dc.ones(2, dtype="float64")))
    same(got, torch.distributions.kl_divergence(*pair(torch.distributions, torch.ones(2, dtype=torch.float64))))


def test_kl_registration():
    class Narrow(D.Normal):
        pass

    p = Narrow(0.0, 1.0)
    assert D.kl_divergence(p, D.Normal(1.0, 1.0)).item() == pytest.approx(0.5)
    D.register_kl(Narrow, D.Normal)(lambda p, q: dc.tensor(7.0))
    assert D.kl_divergence(p, D.Normal(1.0, 1.0)).item() == 7
    with pytest.raises(UnsupportedError, match="Narrow from Dirichlet"):
        D.kl_divergence(p, D.Dirichlet(dc.ones(2)))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: D.Normal(0.0, -1.0), ArgumentError, "scale"),
        (lambda: D.Normal(math.nan, 1.0), ArgumentError, "loc"),
        (lambda: D.Normal(dc.zeros(2), dc.ones(3)), ShapeError, "broadcast"),
        (lambda: D.Bernoulli(0.5, 0.0), ArgumentError, "either probs or logits"),
        (lambda: D.Bernoulli(), ArgumentError, "either probs or logits"),
        (lambda: D.Bernoulli(1.5), ArgumentError, "probs"),
        (lambda: D.Geometric(0.0), ArgumentError, "probs > 0"),
        (lambda: D.Uniform(1.0, 0.0), ArgumentError, "low < high"),
        (lambda: D.Beta(1.0, 0.0), ArgumentError, "concentration0"),
        (lambda: D.Dirichlet(dc.tensor(1.0)), ShapeError, "at least one dimension"),
        (lambda: D.Categorical(dc.tensor(1.0)), ShapeError, "at least one dimension"),
        (lambda: D.Categorical(dc.tensor([1.0, -1.0])), ArgumentError, "probs"),
        (lambda: D.Categorical(dc.zeros(2)), ArgumentError, "probs"),
        (lambda: D.MultivariateNormal(dc.zeros(2)), ArgumentError, "one of"),
        (lambda: D.MultivariateNormal(dc.zeros(2), -dc.eye(2)), ArgumentError, "covariance_matrix"),
        (lambda: D.MultivariateNormal(dc.zeros(2), scale_tril=dc.ones(2, 2)), ArgumentError, "scale_tril"),
        (lambda: D.MultivariateNormal(dc.zeros(2), dc.ones(2)), ShapeError, "matrix"),
        (lambda: D.Independent(D.Normal(dc.zeros(2), 1.0), 2), ArgumentError, "at most 1"),
        (lambda: D.TransformedDistribution(D.Normal(0.0, 1.0), [dc.exp]), ArgumentError, "Transforms"),
        (lambda: D.Normal(0.0, 1.0).log_prob(1.0), ArgumentError, "tensor"),
        (lambda: D.Normal(0.0, 1.0).log_prob(dc.tensor(math.nan)), ArgumentError, "value"),
        (lambda: D.Normal(dc.zeros(3), 1.0).log_prob(dc.zeros(2)), ShapeError, "broadcast"),
        (lambda: D.Dirichlet(dc.ones(3)).log_prob(dc.ones(2) / 2), ShapeError, "event"),
        (lambda: D.Bernoulli(0.5).log_prob(dc.tensor(0.5)), ArgumentError, "value"),
        (lambda: D.Categorical(dc.ones(3)).log_prob(dc.tensor(3)), ArgumentError, "value"),
        (lambda: D.Uniform(0.0, 1.0).log_prob(dc.tensor(2.0)), ArgumentError, "value"),
        (lambda: D.Poisson(1.0).entropy(), UnsupportedError, "entropy"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words) as info:
        call()
    assert isinstance(info.value, DeepcoreError)


def test_validation_can_be_left_out():
    assert D.Uniform(0.0, 1.0, validate_args=False).log_prob(dc.tensor(2.0)).item() == -math.inf
    try:
        D.Distribution.set_default_validate_args(False)
        D.Normal(0.0, -1.0)
    finally:
        D.Distribution.set_default_validate_args(True)
    assert repr(D.Normal(dc.zeros(3), 1.0)) == "Normal(loc: (3,), scale: (3,))"


def test_a_seed_gives_the_draws_again():
    def draw():
        dc.manual_seed(3)
        return [D.Beta(2.0, 3.0).sample((4,)).tolist(), D.Categorical(dc.ones(9)).sample((4,)).tolist()]

    assert draw() == draw()


def test_numbers_become_float32_and_small_concentrations_stay_finite():
    assert D.Normal(0, 1).loc.dtype == dc.float32 and D.Gamma(dc.ones(2).double(), 1).rate.dtype == dc.float64
    small = D.Beta(dc.full((1000,), 0.02), 0.02).rsample()
    assert np.isfinite(small.numpy()).all()
    d = D.Gamma(dc.full((1000,), 1e-3, requires_grad=True), 1.0)
    d.rsample().log().sum().backward()
    assert np.isfinite(d.concentration.detach().numpy()).all()


def test_compiled_steps_equal_eager_ones():
    weight = dc.zeros(4, requires_grad=True)

    def step(x):
        q = D.Normal(weight, dc.ones(4), validate_args=False)
        z = q.rsample((3,))
        prior = D.Normal(x, 2 * dc.ones(4), validate_args=False)
        likelihood = D.Bernoulli(logits=z, validate_args=False).log_prob((x > 1).float())
        return D.kl_divergence(q, prior).sum() - likelihood.mean()

    compiled = dc.compile(step)
    for seed in range(4):
        losses = []
        for function in (step, compiled):
            dc.manual_seed(seed)
            losses.append(function(dc.full((4,), float(seed))).item())
        assert losses[0] == losses[1]
