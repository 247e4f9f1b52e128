"""`dc.compile(dynamic=…)`: one program for many sizes, with the bits of the function at each of them."""

from __future__ import annotations

import io
import random
import warnings

import pytest
import standin

import deepcore as dc
from deepcore import nn
from deepcore.backend import get_backend, use_backend
from deepcore.config import settings
from deepcore.errors import ArgumentError
from deepcore.kernels.runtime import threadpool

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")

F = nn.functional


@pytest.fixture(autouse=True)
def on(backend, monkeypatch):
    """Programs on each backend."""
    monkeypatch.setattr(standin, "kernels", backend != "cpu")
    with use_backend(backend):
        yield


def same(a, b) -> bool:
    if isinstance(a, dc.Tensor):
        a, b = a.detach().numpy(), b.detach().numpy()
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def cpu(backend):
    """For tests of what does not depend on the device, or of gradients that sort, which the stand-in cannot capture."""
    if backend != "cpu":
        pytest.skip("on the CPU alone")


class Counted:
    """A function that counts how often it runs."""

    def __init__(self, function):
        self.function, self.calls, self.__signature__ = function, 0, __import__("inspect").signature(function)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


def lengths(count: int, low: int = 3, high: int = 24, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(low, high) for _ in range(count)]


def follow(make, sizes, dynamic, **options):
    """Run `make()`'s step eagerly and compiled over inputs of these sizes, comparing bits; the compiled step."""
    (eager, state, inputs), (step, other, _) = make(), make()
    compiled = dc.compile(step, dynamic=dynamic, **options)
    if get_backend().name != "cpu":
        warnings.filterwarnings("ignore", ".*cannot be captured.*")
    for size in sizes:
        args = inputs(size)
        before = dc.get_rng_state()
        expected = eager(*args)
        dc.set_rng_state(before)
        assert same(expected, compiled(*args)), size
        for a, b in zip(state(), other()):
            assert same(a, b), size
    if any("cannot be captured" in fault.reason for fault in compiled.faults):
        pytest.skip("no program of it on this backend")
    assert not compiled.faults
    return compiled


def numbers(*shape):
    return dc.randn(*shape)


def classes(*shape):
    return dc.randint(0, 11, shape)


# -- whole steps --------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(11, 4), kind(4, 6, batch_first=True), nn.Linear(6, 11)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 8), nn.Embedding(64, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.out = nn.Linear(8, 11)

    def forward(self, x):
        n = x.shape[1]
        mask = dc.full((n, n), float("-inf")).triu(1)
        return self.out(self.block(self.embed(x) + self.place(dc.arange(n)), src_mask=mask))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv, self.norm = nn.Embedding(11, 4), nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 11)

    def forward(self, x):
        h = self.norm(self.conv(self.embed(x).transpose(1, 2))).relu()
        return self.out(h.transpose(1, 2))


MODELS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "attention": Attentive,
    "convolution": Convolutional,
}


def training(model):
    """A training step of a language model, with a schedule and clipping."""

    def make():
        dc.manual_seed(0)
        net = MODELS[model]()
        optimizer = dc.optim.AdamW(net.parameters(), lr=0.01)
        schedule = dc.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=3)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            return loss

        def state():
            schedule.step()
            return [*net.parameters(), *net.buffers(), *(p.grad for p in net.parameters())]

        return step, state, lambda size: (classes(*size), classes(*size))

    return make


@pytest.mark.parametrize("model", MODELS)
def test_training_steps_of_many_lengths(model, cpu):
    sizes = [(2, n) for n in lengths(12)]
    compiled = follow(training(model), sizes, {"x": 1, "y": 1})
    assert compiled.traces <= 4 and len(compiled._runners()) <= 2


def test_last_smaller_batches_and_lengths(cpu):
    rng = random.Random(1)
    sizes = [(rng.randint(2, 6), rng.randint(3, 20)) for _ in range(24)]
    compiled = follow(training("lstm"), sizes, {"x": (0, 1), "y": (0, 1)})
    assert compiled.traces <= 7 and len(compiled._runners()) <= 4
    program = next(runner.sized for runner in compiled._runners() if runner.sized)
    assert len(program.low) == 2


def test_a_batch_that_is_smaller_in_the_end(backend):
    def make():
        dc.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        optimizer = dc.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            return loss, len(x), x.numel()

        return step, lambda: [*net.parameters(), *net.buffers()], lambda n: (numbers(n, 5), numbers(n, 1))

    compiled = follow(make, [8, 8, 8, 3, 8, 8, 5, 8, 8, 6, 7, 8, 4], {0: 0, 1: 0})
    assert compiled.traces == 3 and len(compiled._runners()) == 1


def test_backward_outside(cpu):
    def make():
        dc.manual_seed(0)
        net = Recurrent(nn.LSTM)

        def loss(x):
            return (net(x) ** 2).mean(), net.embed(x).sum(1)

        def run(x):
            for p in net.parameters():
                p.grad = None
            a, b = function(x)
            (a + b.mean()).backward()
            return a, b

        function = loss
        return run, lambda: [p.grad for p in net.parameters()], loss, net

    eager, state, _, _ = make()
    _, other, loss, net = make()
    compiled = dc.compile(loss, dynamic={"x": 1})
    for n in lengths(16):
        x = classes(2, n)
        expected = eager(x)
        for p in net.parameters():
            p.grad = None
        a, b = compiled(x)
        (a + b.mean()).backward()
        assert same(expected, (a, b)) and all(map(same, state(), other())), n
    assert not compiled.faults
    assert compiled.traces <= 4 and len(compiled._runners()) <= 2


def test_a_gradient_of_an_argument_and_accumulated_gradients():
    def make():
        dc.manual_seed(0)
        net = nn.Linear(4, 4)

        def step(x):
            loss = net(x).tanh().sum()
            loss.backward()
            return x.grad * 2

        return step, lambda: [p.grad for p in net.parameters()], lambda n: (numbers(n, 4).requires_grad_(),)

    (eager, state, inputs), (step, other, _) = make(), make()
    compiled = dc.compile(step, dynamic={"x": 0})
    for n in lengths(16):
        (x,) = inputs(n)
        y = x.detach().clone().requires_grad_()
        assert same(eager(x), compiled(y)) and same(x.grad, y.grad), n
        assert all(map(same, state(), other())), n


def test_a_compiled_module():
    dc.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    compiled = dc.compile(net, dynamic={0: 1})
    with dc.no_grad():
        for n in lengths(12):
            x = numbers(2, n, 4)
            assert same(net(x), compiled(x))


# -- functions of a size ------------------------------------------------------------------------------------------------

_TABLE = {n: n * 0.25 for n in range(200)}
_WEIGHT = {}


def _weight(x, *shape):
    if (x.backend, shape) not in _WEIGHT:
        _WEIGHT[x.backend, shape] = dc.full(shape, 0.5)
    return _WEIGHT[x.backend, shape]


#: By name: a function of x (2, n, 6), and the recordings that it needs at most over 40 lengths.
FUNCTIONS = {
    "a branch": (lambda x: x * 2 if x.shape[1] > 12 else x * 3, 6),
    "a branch of a length from ops": (lambda x: x * 2 if dc.cat([x, x], 1).shape[1] > 24 else x * 3, 9),
    "an equal length": (lambda x: x * 2 if x.shape[1] == 11 else x * 3, 5),
    "even lengths": (lambda x: x * 2 if x.shape[1] % 2 else x * 3, 7),
    "powers": (lambda x: x * x.shape[1] ** 0.5 + x.shape[1] ** -0.5 + 1 / x.shape[1], 3),
    "means": (lambda x: (x.mean(), x.mean(1), x.var(1), x.std()), 3),
    "positions": (lambda x: (x + dc.arange(x.shape[1])[:, None], dc.arange(x.shape[1], 0, -1)), 3),
    "a causal mask": (
        lambda x: (x @ x.mT).masked_fill(dc.ones(x.shape[1], x.shape[1], dtype=dc.bool).triu(1), -1e9).softmax(-1) @ x,
        3,
    ),
    "diagonals": (lambda x: (dc.eye(x.shape[1]), dc.ones(x.shape[1], x.shape[1]).tril(), x * 1), 3),
    "ends": (lambda x: (x[:, -1] * 2, x[:, 1:] - x[:, :-1], x[:, 0] + 1), 3),
    "halves": (lambda x: (x[:, : x.shape[1] // 2] * 2, x[:, x.shape[1] // 2 :] * 3), 7),
    "every second": (lambda x: x[:, ::2].sum(1), 7),
    "joined": (lambda x: dc.cat([x, x[:, 1:], x * 2], 1), 3),
    "padded to a multiple": (lambda x: F.pad(x, (0, 0, 0, -x.shape[1] % 8)).cumsum(1), 40),
    "at most": (lambda x: x[:, : min(x.shape[1], 15)].sum(1), 7),
    "flattened": (lambda x: ((x * 2).reshape(-1), (x + 1).flatten(1), x.transpose(0, 1).reshape(-1, 6).sum(0)), 3),
    "squared": (lambda x: ((x @ x.mT).flatten(1).sum(1), (x[:, :, None] * x[:, None]).sum(-1)), 3),
    "a loop": (lambda x: sum((x[:, t] * t for t in range(x.shape[1])), x[:, 0]).tanh(), 40),
    "a size": (lambda x: (x * 2, x.shape[1], 2 * x.numel() + 1), 3),
    "a scan": (lambda x: dc.scan(lambda c, t: (c * 0.5 + t, (c * t).tanh()), dc.zeros(2, 6), x.transpose(0, 1)), 3),
    "random numbers": (
        lambda x: (F.dropout(x, 0.3), dc.randn(x.shape[1], 3), dc.rand(x.shape[1]), F.dropout(x[0, :, :3], 0.5)),
        3,
    ),
    "a table": (lambda x: x * _TABLE[x.shape[1]], 40),
    "Python's numbers": (lambda x: x + dc.tensor([float(i * i) for i in range(x.shape[1])])[:, None], 40),
    "sorted": (lambda x: (x.sort(1)[0], x.topk(2, 1)[0], x.cumsum(1), x.max(1)[0], x.argmax(1), x.flip(1), x.roll(1, 1)), 3),
    "a median": (lambda x: x.median(1)[0], 7),
    "convolved": (lambda x: (F.conv1d(x.mT, _weight(x, 4, 6, 3)), F.max_pool1d(x.mT, 2)), 7),
    "attention": (
        lambda x: F.scaled_dot_product_attention(*[x.reshape(2, -1, 2, 3).transpose(1, 2)] * 3, is_causal=True),
        3,
    ),
    "evenly spaced": (lambda x: (dc.linspace(0, 1, x.shape[1]), dc.full((x.shape[1],), 3.5), x * 1), 3),
    "a number of elements": (lambda x: (x.sum() / x.numel(), x / len(x[0]), x * x.size(1), x.long() * x.shape[1]), 4),
    "filled with a size": (lambda x: (dc.full((2,), x.shape[1]), x * 1), 3),
    "rounded": (lambda x: x * round(x.shape[1], -1), 40),
    "from one": (lambda x: x - x.mean(1, keepdim=True), 5),
}  # fmt: skip


#: Those whose programs differ on a GPU: constants, draws, results of one memory.
_ON_GPU = ("means", "positions", "flattened", "random numbers", "a size")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_a_size(name, backend):
    if backend != "cpu" and name not in _ON_GPU:
        pytest.skip("on the CPU alone")
    function, most = FUNCTIONS[name]
    low = 1 if name == "from one" else 4
    make = lambda: (function, list, lambda n: (numbers(2, n, 6),))
    compiled = follow(make, lengths(40 if backend == "cpu" else 12, low), {"x": 1})
    assert compiled.traces <= most


def test_the_function_rarely_runs(cpu, monkeypatch):
    monkeypatch.setattr(settings, "compile_check", None)
    counted = Counted(lambda x: x.softmax(1).sum())
    compiled = dc.compile(counted, dynamic={"x": 1}, side_effects="once")
    for n in range(2, 202):
        compiled(numbers(2, n))
    assert compiled.traces == 3 and len(compiled._runners()) == 1 and not compiled.faults
    assert counted.calls < 30
    calls = counted.calls
    monkeypatch.setattr(settings, "compile_check", 0)
    for n in lengths(50, 2, 201):
        compiled(numbers(2, n))
    assert counted.calls - calls <= 2 and compiled.traces == 3


def test_any_dimension_that_changes():
    make = lambda: (lambda x, y: (x @ y).tanh().sum(0), list, lambda n: (numbers(3, n), numbers(n, 4)))
    compiled = follow(make, lengths(12), True)
    assert compiled.traces <= 3
    assert follow(make, lengths(6), None).traces > 3


# -- naming dimensions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dynamic",
    [{"batch": 1}, {0: -1}, {"batch": {"x": 1, "more": (1, None)}}, {"batch.x": 1, "batch.more.0": 1}, {"batch": (1,)}],
    ids=str,
)
def test_containers(dynamic):
    def function(batch, scale):
        return batch["x"] * scale + batch["more"][0], batch["more"][1]

    make = lambda: (function, list, lambda n: ({"x": numbers(2, n), "more": (numbers(2, n), 3)}, numbers(1)))
    assert follow(make, lengths(10), dynamic).traces == 3


def test_keywords_and_positions():
    compiled = dc.compile(lambda x, *, mask=None: x.masked_fill(mask, 0.0).sum(1), dynamic={"x": 1, "mask": 1})
    for n in lengths(10):
        x, mask = numbers(2, n), numbers(2, n) > 0
        assert same(compiled(x, mask=mask), compiled.function(x, mask=mask))
    assert compiled.traces == 3


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"z": 1}, "names an argument that the function does not have"),
        ({2: 1}, "names an argument that the function does not have"),
        ({"x": "n"}, "has no dimensions for 'x'"),
        ({"x": ()}, "has no dimensions for 'x'"),
        ({"x": 1.5}, "has no dimensions for 'x'"),
        ("x", "names the dimensions that vary"),
        (1, "names the dimensions that vary"),
    ],
    ids=str,
)
def test_wrong_names(dynamic, message):
    with pytest.raises(ArgumentError, match=message):
        dc.compile(lambda x, y: x + y, dynamic=dynamic)


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [
        ({"x": 2}, r"names dimension 2 of x, which has 2"),
        ({"x": {"a": 0}}, "has a structure for x, which is one tensor"),
        ({"y": 0}, "names y, which is no tensor"),
    ],
    ids=str,
)
def test_wrong_dimensions(dynamic, message):
    compiled = dc.compile(lambda x, y: x + y, dynamic=dynamic)
    with pytest.raises(ArgumentError, match=message):
        compiled(numbers(2, 3), 1.0)


# -- what is kept -------------------------------------------------------------------------------------------------------


def test_what_is_shown():
    compiled = dc.compile(lambda x: x * 2, dynamic={0: 0})
    for n in (5, 9, 7, 8, 6):
        compiled(numbers(n))
    out = io.StringIO()
    compiled.explain(file=out)
    assert "1 programs" in repr(compiled) and "serves 3 sizes so far (5 to 9)" in out.getvalue()
    assert compiled.options["dynamic"] == {0: 0}


def test_programs_of_other_kinds_are_not_dropped(cpu):
    compiled = dc.compile(lambda x, k: x * k, dynamic={"x": 0}, programs=4)
    for k in (1.0, 2.0):
        for n in lengths(30, 3, 200):
            x = numbers(n)
            assert same(compiled(x, k), x * k)
    assert compiled.traces == 6 and len(compiled._runners()) == 2


def test_a_guard_that_fails_leads_to_new_recordings():
    class State:
        factor = 2.0

    state = State()
    compiled = dc.compile(lambda x: x * state.factor, dynamic={"x": 0})
    for factor in (2.0, 3.0):
        state.factor = factor
        for n in lengths(12):
            x = numbers(n)
            assert same(compiled(x), x * factor)
    assert compiled.traces <= 8


def test_a_change_that_no_condition_shows():
    """Sizes that are converted to plain numbers are checked before a program serves sizes beyond the recorded ones."""
    compiled = dc.compile(lambda x: x * 2 if float(x.shape[0]) < 20 else x * 3, dynamic={"x": 0})
    for n in (5, 9, 7, 12, 25, 30, 28, 26, 21, 8, 19, 20):
        x = numbers(n)
        assert same(compiled(x), compiled.function(x)), n
