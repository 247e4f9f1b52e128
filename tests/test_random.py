from __future__ import annotations

import copy
import math
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import deepcore as dc
from deepcore import random
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, BackendError, DTypeError, ShapeError
from deepcore.kernels.math import reference
from deepcore.kernels.math.philox import philox
from deepcore.random import Generator

CPU = get_backend("cpu")

# Random123's known answers for philox4x32-10: counter, key, result (Salmon et al. 2011).
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def number(low, high):
    return low | high << 32


def kernel(xp, seed, stream, position, blocks):
    pytest.importorskip("numba")
    from deepcore.kernels.cpu.philox import philox

    return philox(xp, seed=seed, stream=stream, position=position, blocks=blocks)


@pytest.mark.parametrize("counter, key, want", KNOWN)
def test_philox_known_answers(backend, counter, key, want):
    words = philox(*(np.uint64(word) for word in counter + key))
    assert [int(word) for word in words] == want
    xp = get_backend(backend)
    got = reference.philox(xp, number(*key), number(*counter[2:]), number(*counter[:2]), 1)
    assert got.dtype == np.uint32 and xp.to_host(got).tolist() == want
    if backend == "cpu":
        assert kernel(xp, number(*key), number(*counter[2:]), number(*counter[:2]), 1).tolist() == want


@pytest.mark.parametrize("blocks", [0, 1, 3, 1000])
def test_kernel_and_reference_give_the_same_words(blocks):
    args = (3**39, 5**27, 2**33 - 500, blocks)  # the counter carries into its second word
    np.testing.assert_array_equal(kernel(CPU, *args), reference.philox(CPU, *args))


@pytest.mark.parametrize("count", [1, 6, 1023, 1025, 5000])
def test_words_do_not_depend_on_how_they_are_drawn(backend, count):
    xp = get_backend(backend)
    g = Generator(11)
    drawn = [xp.to_host(random.random_bits(xp, g, count)) for _ in range(9)]
    blocks = -(-count // 4)
    want = reference.philox(CPU, 11, 0, 0, 9 * blocks).reshape(9, -1)[:, :count]
    np.testing.assert_array_equal(np.stack(drawn), want)
    assert g.get_state()["position"] == 9 * blocks


REAL = [dt.float32, dt.float64, dt.float16, dt.bfloat16]


@pytest.mark.parametrize("dtype", REAL, ids=dt.name_of)
def test_backends_draw_the_same_numbers(backend, dtype):
    def draw(name, what, *args, **options):
        return what(*args, **options, backend=name, generator=Generator(5)).numpy()

    for shape in [(), (0,), (7,), (33, 41)]:
        uniform, normal = (draw(backend, f, shape, dtype=dtype) for f in (dc.rand, dc.randn))
        assert uniform.shape == normal.shape == shape and uniform.dtype == normal.dtype == dtype
        np.testing.assert_array_equal(uniform, draw("cpu", dc.rand, shape, dtype=dtype))
        want = draw("cpu", dc.randn, shape, dtype=dtype).astype(float)
        np.testing.assert_allclose(normal.astype(float), want, rtol=8e-3 if dtype.itemsize == 2 else 1e-4, atol=1e-5)
    np.testing.assert_array_equal(draw(backend, dc.randperm, 999), draw("cpu", dc.randperm, 999))
    for low, high in [(-3, 9), (-(2**40), 2**41), (-(2**63), 2**63)]:
        np.testing.assert_array_equal(
            draw(backend, dc.randint, low, high, (65,)), draw("cpu", dc.randint, low, high, (65,))
        )


def test_numbers_are_these_for_good():
    """Seeds must keep their meaning from version to version: these follow from the known answers above."""
    w = KNOWN[0][2]
    assert dc.rand(4, generator=Generator(0)).tolist() == [(word >> 8) / 2**24 for word in w]
    assert dc.rand(2, dtype=dc.float64, generator=Generator(0)).tolist() == [
        (number(*w[i : i + 2]) >> 11) / 2**53 for i in (0, 2)
    ]
    assert dc.randint(1000, (2,), generator=Generator(0)).tolist() == [
        number(*w[i : i + 2]) * 1000 >> 64 for i in (0, 2)
    ]
    u, v = (w[0] + 1) / 2**32, (w[2] >> 8) / 2**24
    z = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
    assert dc.randn(3, generator=Generator(0))[0].item() == pytest.approx(z, rel=1e-5)
    keys = [(number(*w[i : i + 2]) >> 1, i // 2) for i in (0, 2)]
    assert dc.randperm(2, generator=Generator(0)).tolist() == [i for _, i in sorted(keys)]


# -- distributions ------------------------------------------------------------------------------------

N = 200_000


@pytest.mark.parametrize("dtype", REAL, ids=dt.name_of)
def test_uniform_moments(dtype):
    x = dc.rand(N, dtype=dtype).numpy().astype(float)
    digits = random._DIGITS[dtype]
    assert x.min() >= 0 and x.max() <= 1 - 2.0**-digits
    assert abs(x.mean() - (0.5 - 2.0**-digits / 2)) < 5 * math.sqrt(1 / 12 / N)
    assert abs(x.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / N) + 2.0**-digits
    # Kolmogorov and Smirnov: the largest distance of the distribution functions.
    assert np.abs(np.sort(x) - np.arange(N) / N).max() < 2.5 / math.sqrt(N) + 2.0**-digits


@pytest.mark.parametrize("dtype", REAL, ids=dt.name_of)
def test_normal_moments(dtype):
    x = dc.randn(N, dtype=dtype).numpy().astype(float)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((x**power).mean() - moment) < 5 * math.sqrt(variance / N) + (0.02 if dtype == dt.bfloat16 else 1e-3)
    cdf = 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in np.sort(x)[::50]]))
    assert np.abs(cdf - np.arange(0, N, 50) / N).max() < 2.5 / math.sqrt(N) + (0.002 if dtype.itemsize == 2 else 0)
    assert abs(np.corrcoef(x[: N // 2], x[N // 2 :])[0, 1]) < 5 / math.sqrt(N / 2)


@pytest.mark.parametrize("low, span", [(0, 10), (-5, 7), (-(2**62), 3 * 2**61), (-(2**63), 2**64)])
def test_integers_are_even(low, span):
    x = dc.randint(low, low + span, (N,)).numpy()
    assert x.dtype == np.int64 and x.min() >= low and x.max() < low + span
    cells = min(span, 16)
    edges = [low + span * i // cells for i in range(cells)]
    counts = np.diff(np.append(np.searchsorted(np.sort(x), edges), N))
    chi2 = ((counts - N / cells) ** 2 / (N / cells)).sum()
    assert chi2 < cells - 1 + 5 * math.sqrt(2 * (cells - 1))


def test_permutations():
    for n in (0, 1, 2, 3, 1000, 70_000):
        np.testing.assert_array_equal(np.sort(dc.randperm(n).numpy()), np.arange(n))
    orders = np.array([dc.randperm(4).tolist() for _ in range(4800)])
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24 and ((counts - 200) ** 2 / 200).sum() < 23 + 5 * math.sqrt(46)


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.3, 0.5, 1.0])
def test_bernoulli(backend, p):
    xp = get_backend(backend)
    kept = xp.to_host(random.raw_bernoulli(xp, Generator(1), (N,), p))
    assert kept.dtype == bool and abs(kept.mean() - p) <= 5 * math.sqrt(p * (1 - p) / N)
    for dtype in REAL:
        of = dc.bernoulli(dc.full((N // 10,), p, backend=backend, dtype=dtype)).numpy()
        assert of.dtype == dtype and set(of.tolist()) <= {0.0, 1.0}
        assert abs(of.mean(dtype=float) - p) <= 5 * math.sqrt(p * (1 - p) / (N / 10)) + p * 2.0**-8


def test_normal_and_uniform_with_parameters(backend):
    x = dc.normal(3.0, 0.5, (N,), backend=backend).numpy()
    assert abs(x.mean() - 3) < 0.01 and abs(x.std() - 0.5) < 0.01 and x.dtype == np.float32
    x = dc.uniform(-2.0, 6.0, (N,), backend=backend, dtype="bfloat16").numpy().astype(float)
    assert x.min() >= -2 and x.max() <= 6 and abs(x.mean() - 2) < 0.05
    mean = dc.tensor([[0.0], [100.0]], backend=backend)
    x = dc.normal(mean, dc.full((1, 5000), 2.0, backend=backend))
    assert x.shape == (2, 5000) and x.backend == mean.backend
    np.testing.assert_allclose(x.numpy().mean(1), [0, 100], atol=0.2)
    np.testing.assert_allclose(x.numpy().std(1), 2, atol=0.2)
    assert dc.normal(mean, 1.0).shape == dc.normal(1.0, mean).shape == (2, 1)


# -- generators ---------------------------------------------------------------------------------------


def test_manual_seed_starts_the_default_generator_again():
    assert dc.manual_seed(3) is random.default_generator
    first = dc.rand(5).tolist(), dc.randn(5).tolist()
    dc.manual_seed(3)
    assert (dc.rand(5).tolist(), dc.randn(5).tolist()) == first
    assert random.initial_seed() == 3
    dc.manual_seed(4)
    assert dc.rand(5).tolist() != first[0]


def test_a_restored_state_goes_on_with_the_same_numbers():
    g = Generator(9, stream=4)
    dc.rand(3, generator=g)
    state = g.get_state()
    assert state == {"seed": 9, "stream": 4, "position": 1}
    want = dc.randn(70, generator=g).tolist()
    for other in (Generator(0).set_state(state), pickle.loads(pickle.dumps(Generator().set_state(state)))):
        assert dc.randn(70, generator=other).tolist() == want
    g.set_state(state)
    twin = copy.deepcopy(g)
    assert dc.randn(70, generator=g).tolist() == want == dc.randn(70, generator=twin).tolist()
    kept = random.get_rng_state()
    want = dc.rand(3).tolist()
    random.set_rng_state(kept)
    assert dc.rand(3).tolist() == want


def test_seeds_and_streams_give_other_numbers():
    generators = [Generator(1), Generator(2), Generator(1, stream=1), Generator(1, stream=2**40), Generator(2**40)]
    generators += [Generator(1).split(), Generator(), Generator()]
    draws = {tuple(dc.randint(2**60, (2,), generator=g).tolist()) for g in generators}
    assert len(draws) == len(generators)
    assert Generator(-1).initial_seed() == 2**64 - 1
    assert Generator(1).split().initial_seed() == Generator(1).split().initial_seed()
    g = Generator(1)
    assert g.split().initial_seed() != g.split().initial_seed()
    assert g.seed() == g.initial_seed() != 1


def test_threads_never_share_numbers():
    g = Generator(0)
    with ThreadPoolExecutor(4) as pool:
        words = list(pool.map(lambda _: random.random_bits(CPU, g, 8).tobytes(), range(2000)))
    assert len(set(words)) == 2000
    want = reference.philox(CPU, 0, 0, 0, 4000).reshape(2000, 8)
    assert set(words) == {row.tobytes() for row in want}


@pytest.fixture
def hurried():
    """Threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("second", ["eager", "compiled"])
def test_compiled_and_eager_draws_of_threads_never_share_numbers(second, hurried):
    pytest.importorskip("numba")

    def draw():
        x = dc.rand(4)
        return x, dc.rand(4)

    functions = [dc.compile(draw), dc.compile(draw) if second == "compiled" else draw]
    for f in functions:
        for _ in range(3):
            f()
    dc.manual_seed(0)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(lambda f=f: [x.numpy().tobytes() for _ in range(250) for x in f()]) for f in functions * 2]
        words = [word for job in jobs for word in job.result()]
    assert functions[0].runs > 400 and not functions[0].faults
    assert len(words) == len(set(words)) == 2000
    assert random.get_rng_state()["position"] == 2000
    want = dc.rand(8000, generator=Generator(0)).numpy().reshape(2000, 4)
    assert set(words) == {row.tobytes() for row in want}


def test_a_draw_of_another_thread_while_a_function_is_traced():
    pytest.importorskip("numba")
    once = threading.Lock()

    def draw():
        x = dc.rand(4)
        if once.acquire(blocking=False):
            thread = threading.Thread(target=dc.rand, args=(4,))
            thread.start()
            thread.join()
        return x + dc.rand(4)

    f = dc.compile(draw)
    dc.manual_seed(0)
    f()
    assert random.get_rng_state()["position"] == 3
    got = [f().numpy() for _ in range(4)]
    assert not f.faults and f.runs >= 1 and random.get_rng_state()["position"] == 11
    u = dc.rand(44, generator=Generator(0)).numpy().reshape(11, 4)
    np.testing.assert_array_equal(got, u[3::2] + u[4::2])


def test_numbers_that_were_claimed_are_given_back_once():
    g, claims = Generator(3), []
    assert g.claim(5, claims) == (3, 0, 0) and g.get_state()["position"] == 5
    random.give_back(claims)
    assert g.get_state()["position"] == 0 and not claims
    g.claim(5, claims)
    assert g.claim(2, []) == (3, 0, 5)  # someone else draws
    random.give_back(claims)
    assert g.get_state()["position"] == 7
    g.claim(1, claims)
    g.manual_seed(4)
    random.give_back(claims)
    assert g.get_state() == {"seed": 4, "stream": 0, "position": 0}


def test_derived_seeds_take_no_numbers():
    g = Generator(3)
    seeds = [g.derive_seed() for _ in range(3)]
    assert g.get_state()["position"] == 0 and len(set(seeds)) == 3
    assert Generator(3).derive_seed() == seeds[0] != Generator(4).derive_seed()
    dc.rand(1, generator=g)
    assert g.derive_seed() not in seeds and g.manual_seed(3).derive_seed() == seeds[0]


def test_a_stand_in_counts_in_its_thread_alone():
    dc.manual_seed(5)
    state = random.get_rng_state()
    with random.standing_in(8, 2):
        assert random.get_rng_state() == {"seed": 8, "stream": 2, "position": 0} and random.initial_seed() == 8
        want = dc.rand(3, generator=Generator(8, stream=2)).tolist()
        assert dc.rand(3).tolist() == want
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(random.get_rng_state).result() == state
        with random.standing_in(9, 0):
            dc.manual_seed(1)
        assert random.get_rng_state() == {"seed": 8, "stream": 2, "position": 1}
        dc.manual_seed(1)
    assert random.get_rng_state() == state


def test_a_compiled_function_draws_from_a_stand_in():
    pytest.importorskip("numba")
    f = dc.compile(lambda x: dc.rand(4) + x)
    x = dc.zeros(4)
    for _ in range(3):
        f(x)
    state = random.get_rng_state()
    with random.standing_in(8, 2):
        got = [f(x).tolist() for _ in range(2)]
    want = dc.rand(8, generator=Generator(8, stream=2)).reshape(2, 4).tolist()
    assert got == want and random.get_rng_state() == state and f.runs >= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_draws():
    held, done = threading.Event(), threading.Event()

    def hold():
        with random.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # ends a child that waits for ever
        Generator(0).advance(1)
        os._exit(0)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


# -- the functions ------------------------------------------------------------------------------------


def test_shapes_dtypes_and_gradients(backend):
    x = dc.rand(2, 3, backend=backend, requires_grad=True)
    assert (
        x.requires_grad
        and x.is_leaf
        and x.shape == (2, 3)
        and x.dtype == dc.float32
        and x.backend == get_backend(backend)
    )
    assert dc.randn([2, 3]).shape == dc.randn((2, 3)).shape == (2, 3) and dc.rand().shape == ()
    assert dc.randint(5, (2, 3)).dtype == dc.int64 and dc.randperm(3).dtype == dc.int64
    assert dc.randint(-128, 128, (9,), dtype=dc.int8).dtype == dc.int8
    assert dc.randint(256, (9,), dtype=dc.uint8, backend=backend).numpy().dtype == np.uint8
    y = dc.rand(4, dtype=dc.float64, backend=backend)
    for like in (dc.rand_like(y), dc.randn_like(y), random.randint_like(y, 9), dc.bernoulli(y)):
        assert like.shape == (4,) and like.dtype == dc.float64 and like.backend == y.backend and not like.requires_grad
    assert dc.randn_like(y, dtype=dc.float32, requires_grad=True).dtype == dc.float32


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: dc.rand(2, dtype=dc.int64), DTypeError, "randint"),
        (lambda: dc.rand(-1), ShapeError, "negative"),
        (lambda: dc.rand(2.5), ArgumentError, "whole numbers"),
        (lambda: dc.randint(5), ArgumentError, "size"),
        (lambda: dc.randint(1, 5), ArgumentError, "size"),
        (lambda: dc.randint(5, 5, (2,)), ArgumentError, "low < high"),
        (lambda: dc.randint(0.5, 5, (2,)), ArgumentError, "whole numbers"),
        (lambda: dc.randint(0, 300, (2,), dtype=dc.uint8), ArgumentError, "uint8"),
        (lambda: dc.randperm(300, dtype=dc.uint8), ArgumentError, "uint8"),
        (lambda: dc.bernoulli(dc.tensor([1.5])), ArgumentError, "0 ≤ p ≤ 1"),
        (lambda: dc.bernoulli(dc.tensor([float("nan")])), ArgumentError, "0 ≤ p ≤ 1"),
        (lambda: dc.bernoulli(dc.tensor([1])), DTypeError, "int64"),
        (lambda: dc.normal(0.0, -1.0, (2,)), ArgumentError, "std"),
        (lambda: dc.normal(0.0, 1.0), ArgumentError, "size"),
        (lambda: dc.normal(dc.zeros(2), dc.ones(3)), ShapeError, "broadcast"),
        (lambda: dc.uniform(1.0, 0.0, (2,)), ArgumentError, "low"),
        (lambda: Generator("0"), BackendError, "no backend named .0."),
        (lambda: Generator(2**64), ArgumentError, "64 bits"),
        (lambda: Generator(True), ArgumentError, "64 bits"),
        (lambda: dc.manual_seed(1.5), ArgumentError, "64 bits"),
        (lambda: Generator(0).set_state({"seed": 1}), ArgumentError, "state"),
        (lambda: Generator(0).set_state(3), ArgumentError, "state"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
