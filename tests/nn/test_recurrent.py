"""Recurrent layers, cells and packed sequences: against PyTorch, by hand, on both backends, compiled."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from backends import has_run
from nn_examples import flat

import deepcore as dc
from deepcore import nn, optim
from deepcore.errors import ArgumentError, DeepcoreWarning, DTypeError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.utils import rnn

RTOL, ATOL = 1e-7, 1e-12

LAYERS = {
    "rnn": ("RNN", {}),
    "rnn relu": ("RNN", {"nonlinearity": "relu", "num_layers": 2, "batch_first": True}),
    "rnn both": ("RNN", {"bidirectional": True, "bias": False}),
    "lstm": ("LSTM", {}),
    "lstm deep": ("LSTM", {"num_layers": 3, "bidirectional": True}),
    "lstm projected": ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm projected, no bias": ("LSTM", {"proj_size": 1, "bias": False}),
    "gru": ("GRU", {"num_layers": 2}),
    "gru both": ("GRU", {"bidirectional": True, "batch_first": True}),
    "gru no bias": ("GRU", {"bias": False, "num_layers": 2, "bidirectional": True}),
}
FORMS = ["batch", "unbatched", "packed", "packed sorted"]
CELLS = {
    "rnn": ("RNNCell", {}),
    "relu": ("RNNCell", {"nonlinearity": "relu", "bias": False}),
    "lstm": ("LSTMCell", {}),
    "lstm no bias": ("LSTMCell", {"bias": False}),
    "gru": ("GRUCell", {}),
    "gru no bias": ("GRUCell", {"bias": False}),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pair(torch, name, arguments, backend):
    """PyTorch's layer and ours, with the same state."""
    theirs = getattr(torch.nn, name)(3, 4, **arguments).double()
    ours = getattr(nn, name)(3, 4, **arguments).double().to(backend)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and repr(ours) == repr(theirs)
    ours.load_state_dict({key: t.numpy() for key, t in theirs.state_dict().items()})
    return theirs, ours


def compare(ours, theirs, own_leaves, leaves, own_outputs, outputs):
    """Equal outputs, and equal gradients of leaves and parameters."""
    rng, loss, own_loss = np.random.default_rng(1), 0, 0
    import torch

    for mine, other in zip(own_outputs, outputs, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), RTOL, ATOL)
        weight = rng.standard_normal(other.shape)
        loss = loss + (other * torch.tensor(weight)).sum()
        own_loss = own_loss + (mine * dc.tensor(weight, backend=mine.backend)).sum()
    loss.backward()
    own_loss.backward()
    for mine, other in zip((*own_leaves, *ours.parameters()), (*leaves, *theirs.parameters()), strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), RTOL, ATOL)


def leaf_pair(torch, rng, shape, backend):
    array = rng.standard_normal(shape)
    return torch.tensor(array, requires_grad=True), dc.tensor(array, backend=backend, requires_grad=True)


def structured(states):
    return states[0] if len(states) == 1 else tuple(states)


@pytest.mark.parametrize("given", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_pytorchs(torch, case, form, given, backend):
    name, arguments = LAYERS[case]
    theirs, ours = pair(torch, name, arguments, backend)
    rng, time, batch = np.random.default_rng(0), 4, 3
    first = arguments.get("batch_first", False)
    shape = (time, 3) if form == "unbatched" else (batch, time, 3) if first else (time, batch, 3)
    (x, own_x), leaves, own_leaves = leaf_pair(torch, rng, shape, backend), [], []
    states = own_states = None
    if given:
        count = arguments.get("num_layers", 1) * (1 + arguments.get("bidirectional", False))
        for width in (arguments.get("proj_size") or 4, 4)[: 1 + (name == "LSTM")]:
            size = (count, width) if form == "unbatched" else (count, batch, width)
            state, own = leaf_pair(torch, rng, size, backend)
            leaves.append(state)
            own_leaves.append(own)
        states, own_states = structured(leaves), structured(own_leaves)
    inputs, own_inputs = x, own_x
    if form.startswith("packed"):
        lengths = [4, 2, 2] if form == "packed sorted" else [1, 4, 3]
        options = {"batch_first": first, "enforce_sorted": form == "packed sorted"}
        inputs = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, **options)
        own_inputs = rnn.pack_padded_sequence(own_x, lengths, **options)
    out, last = theirs(inputs, states)
    own_out, own_last = ours(own_inputs, own_states)
    if form.startswith("packed"):
        assert type(own_out) is rnn.PackedSequence
        assert own_out.batch_sizes.tolist() == out.batch_sizes.tolist()
        out, lengths = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=first)
        own_out, own_lengths = rnn.pad_packed_sequence(own_out, batch_first=first)
        assert own_lengths.tolist() == lengths.tolist()
    assert own_out.backend == backend
    compare(ours, theirs, [own_x, *own_leaves], [x, *leaves], flat((own_out, own_last)), flat((out, last)))


@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batch"])
@pytest.mark.parametrize("given", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("case", CELLS)
def test_cells_are_pytorchs(torch, case, given, batch, backend):
    name, arguments = CELLS[case]
    theirs, ours = pair(torch, name, arguments, backend)
    rng = np.random.default_rng(0)
    pairs = [leaf_pair(torch, rng, (*batch, 3), backend)]
    if given:
        pairs += [leaf_pair(torch, rng, (*batch, 4), backend) for _ in range(1 + (name == "LSTMCell"))]
    leaves, own_leaves = map(list, zip(*pairs))
    results = theirs(leaves[0], structured(leaves[1:]) if given else None)
    own_results = ours(own_leaves[0], structured(own_leaves[1:]) if given else None)
    compare(ours, theirs, own_leaves, leaves, flat(own_results), flat(results))


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(2, 2, bidirectional=True), lambda: nn.GRU(2, 2), lambda: nn.RNN(2, 2)]
)
def test_second_derivatives(make, backend):
    """Of a packed batch: the gradient in array code, and the gradient that is differentiated."""
    layer, x = make().double().to(backend), dc.randn(2, 2, 2, dtype=dc.float64, backend=backend)
    parameters = list(layer.parameters())

    def loss():
        out, last = layer(rnn.pack_padded_sequence(x, [2, 1]))
        return (out.data * out.data).sum() + sum((t * t * t).sum() for t in flat(last))

    plain = dc.autograd.grad(loss(), parameters)
    first = dc.autograd.grad(loss(), parameters, create_graph=True)
    for a, b in zip(plain, first):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), RTOL, ATOL)
    weight, slope = parameters[1], 1e-5
    second = dc.autograd.grad(sum((g * g).sum() for g in first), [weight])[0]
    measured = []
    for sign in (1, -1):
        with dc.no_grad():
            weight[0, 1] += sign * slope
        measured.append(sum((g * g).sum() for g in dc.autograd.grad(loss(), parameters)).item())
        with dc.no_grad():
            weight[0, 1] -= sign * slope
    assert second[0, 1].item() == pytest.approx((measured[0] - measured[1]) / (2 * slope), rel=1e-5)


def test_weights_and_states_that_depend_on_each_other():
    """h₀ = c₀, computed from a weight: each edge gets its own part of the gradient, in both ways of computing it."""
    layer, x = nn.LSTM(2, 2).double(), dc.randn(3, 1, 2, dtype=dc.float64)

    def grads(**options):
        state = layer.weight_hh_l0[:1].reshape(1, 1, 2) * 2
        return dc.autograd.grad(layer(x, (state, state))[0].sum(), list(layer.parameters()), **options)

    for a, b in zip(grads(), grads(create_graph=True)):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), RTOL, ATOL)


# -- by hand ------------------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def textbook(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s) for s in shapes]


def test_a_step_of_an_rnn_by_hand(backend):
    """h' = tanh(W x + b + U h + d), and L = v · h' backward, as in textbooks."""
    w, u, b, d, x, h, v = textbook((3, 2), (3, 3), 3, 3, 2, 3, 3)
    new = np.tanh(w @ x + b + u @ h + d)
    dz = v * (1 - new**2)
    cell = nn.RNNCell(2, 3).double().to(backend)
    cell.load_state_dict({"weight_ih": w, "weight_hh": u, "bias_ih": b, "bias_hh": d})
    own_x, own_h = (dc.tensor(a, backend=backend, requires_grad=True) for a in (x, h))
    out = cell(own_x, own_h)
    np.testing.assert_allclose(out.detach().numpy(), new, 1e-12)
    out.backward(dc.tensor(v, backend=backend))
    pairs = [(own_x, w.T @ dz), (own_h, u.T @ dz), (cell.weight_ih, np.outer(dz, x)), (cell.weight_hh, np.outer(dz, h)),
             (cell.bias_ih, dz), (cell.bias_hh, dz)]  # fmt: skip
    for mine, expected in pairs:
        np.testing.assert_allclose(mine.grad.numpy(), expected, 1e-10, 1e-14)


@pytest.mark.parametrize("form", ["cell", "layer"])
def test_a_step_of_an_lstm_by_hand(form, backend):
    """Gates, the cell's state and L = v · h' + s · c' backward, as in textbooks."""
    w, u, b, x, h, c, v, s = textbook((12, 2), (12, 3), 12, 2, 3, 3, 3, 3)
    zi, zf, zg, zo = np.split(w @ x + u @ h + b, 4)
    i, f, g, o = sigmoid(zi), sigmoid(zf), np.tanh(zg), sigmoid(zo)
    cell_state = f * c + i * g
    t = np.tanh(cell_state)
    dc_ = s + v * o * (1 - t**2)
    dz = np.concatenate([dc_ * g * i * (1 - i), dc_ * c * f * (1 - f), dc_ * i * (1 - g**2), v * t * o * (1 - o)])
    state = {"weight_ih": w, "weight_hh": u, "bias_ih": b, "bias_hh": np.zeros(12)}
    own_x, own_h, own_c = (dc.tensor(a, backend=backend, requires_grad=True) for a in (x, h, c))
    if form == "cell":
        module = nn.LSTMCell(2, 3).double().to(backend)
        module.load_state_dict(state)
        new_h, new_c = module(own_x, (own_h, own_c))
    else:
        module = nn.LSTM(2, 3).double().to(backend)
        module.load_state_dict({f"{name}_l0": value for name, value in state.items()})
        _, (new_h, new_c) = module(own_x.reshape(1, 2), (own_h.reshape(1, 3), own_c.reshape(1, 3)))
    np.testing.assert_allclose(new_h.detach().numpy().ravel(), o * t, 1e-12)
    np.testing.assert_allclose(new_c.detach().numpy().ravel(), cell_state, 1e-12)
    loss = (new_h * dc.tensor(v, backend=backend)).sum() + (new_c * dc.tensor(s, backend=backend)).sum()
    loss.backward()
    weight_ih, weight_hh, bias, _ = module.parameters()
    pairs = [(own_x, w.T @ dz), (own_h, u.T @ dz), (own_c, dc_ * f), (weight_ih, np.outer(dz, x)),
             (weight_hh, np.outer(dz, h)), (bias, dz)]  # fmt: skip
    for mine, expected in pairs:
        np.testing.assert_allclose(mine.grad.numpy(), expected, 1e-10, 1e-14)


def lstm_by_hand(w, u, b, xs, h, c, vs):
    """Hidden states of an LSTM, and the gradients of L = Σ vₜ · hₜ for w, u, b, xs, h₀ and c₀, backward through time."""
    steps = []
    for x in xs:
        i, f, g, o = np.split(w @ x + u @ h + b, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new_c = f * c + i * g
        steps.append((x, h, c, i, f, g, o, np.tanh(new_c)))
        h, c = o * np.tanh(new_c), new_c
    dw, du, db, dxs = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b), np.zeros_like(xs)
    dh, dc_ = np.zeros_like(h), np.zeros_like(c)
    for n in reversed(range(len(xs))):
        x, h, c, i, f, g, o, t = steps[n]
        dh = dh + vs[n]
        dc_ = dc_ + dh * o * (1 - t**2)
        dz = np.concatenate([dc_ * g * i * (1 - i), dc_ * c * f * (1 - f), dc_ * i * (1 - g**2), dh * t * o * (1 - o)])
        dw, du, db = dw + np.outer(dz, x), du + np.outer(dz, h), db + dz
        dxs[n], dh, dc_ = w.T @ dz, u.T @ dz, dc_ * f
    hidden = [o * t for *_, o, t in steps]
    return np.array(hidden), (dw, du, db, dxs, dh, dc_)


@pytest.mark.parametrize("form", ["cell", "layer"])
def test_backpropagation_through_time_by_hand(form, backend):
    """Five steps of an LSTM, each with a loss of its own."""
    w, u, b, xs, h, c, vs = textbook((12, 2), (12, 3), 12, (5, 2), 3, 3, (5, 3))
    hidden, expected = lstm_by_hand(w, u, b, xs, h, c, vs)
    state = {"weight_ih": w, "weight_hh": u, "bias_ih": b, "bias_hh": np.zeros(12)}
    own_xs, own_h, own_c = (dc.tensor(a, backend=backend, requires_grad=True) for a in (xs, h, c))
    if form == "cell":
        module = nn.LSTMCell(2, 3).double().to(backend)
        module.load_state_dict(state)
        states, outputs = (own_h, own_c), []
        for x in own_xs:
            states = module(x, states)
            outputs.append(states[0])
        out = dc.stack(outputs)
    else:
        module = nn.LSTM(2, 3).double().to(backend)
        module.load_state_dict({f"{name}_l0": value for name, value in state.items()})
        out, _ = module(own_xs, (own_h.reshape(1, 3), own_c.reshape(1, 3)))
    np.testing.assert_allclose(out.detach().numpy(), hidden, 1e-12)
    (out * dc.tensor(vs, backend=backend)).sum().backward()
    weight_ih, weight_hh, bias, _ = module.parameters()
    for mine, gradient in zip((weight_ih, weight_hh, bias, own_xs, own_h, own_c), expected, strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), gradient, 1e-10, 1e-13)


def truncated(library, model, chunks, targets):
    """Losses and first gradients of training on a long sequence, part by part; a state's past stays behind."""
    optimizer = library.optim.SGD(model.parameters(), lr=0.1)
    states, losses, gradients = None, [], []
    for x, y in zip(chunks, targets):
        optimizer.zero_grad()
        out, states = model(x, states)
        loss = ((out - y) ** 2).mean()
        loss.backward()
        gradients.append([p.grad.numpy().copy() for p in model.parameters()])
        optimizer.step()
        states = tuple(s.detach() for s in states) if isinstance(states, tuple) else states.detach()
        losses.append(loss.item())
    return losses, gradients


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_truncated_backpropagation_through_time_is_pytorchs(torch, name, backend):
    theirs, ours = pair(torch, name, {"num_layers": 2}, backend)
    chunks, targets = textbook((4, 5, 2, 3), (4, 5, 2, 4))
    own = truncated(dc, ours, *([dc.tensor(a, backend=backend) for a in arrays] for arrays in (chunks, targets)))
    expected = truncated(torch, theirs, *([torch.tensor(a) for a in arrays] for arrays in (chunks, targets)))
    np.testing.assert_allclose(own[0], expected[0], 1e-9)
    for mine, other in zip(own[1], expected[1], strict=True):
        for one, gradient in zip(mine, other, strict=True):
            np.testing.assert_allclose(one, gradient, 1e-7, 1e-12)


def test_the_gradient_of_a_part_ends_where_its_states_are_detached():
    """By hand: the gradients of a second part, its first states constants, are those of that part alone."""
    w, u, b, xs, h, c, vs = textbook((12, 2), (12, 3), 12, (6, 2), 3, 3, (6, 3))
    module = nn.LSTM(2, 3).double()
    module.load_state_dict({"weight_ih_l0": w, "weight_hh_l0": u, "bias_ih_l0": b, "bias_hh_l0": np.zeros(12)})
    first, states = module(dc.tensor(xs[:3]), (dc.tensor(h[None]), dc.tensor(c[None])))
    second, _ = module(dc.tensor(xs[3:]), tuple(s.detach() for s in states))
    (second * dc.tensor(vs[3:])).sum().backward()
    hidden, expected = lstm_by_hand(w, u, b, xs[3:], *(s.detach().numpy()[0] for s in states), vs[3:])
    np.testing.assert_allclose(second.detach().numpy(), hidden, 1e-12)
    for mine, gradient in zip(list(module.parameters())[:3], expected):
        np.testing.assert_allclose(mine.grad.numpy(), gradient, 1e-10, 1e-13)
    assert first.requires_grad
    whole, _ = module(dc.tensor(xs), (dc.tensor(h[None]), dc.tensor(c[None])))
    (through,) = dc.autograd.grad((whole[3:] * dc.tensor(vs[3:])).sum(), [module.weight_hh_l0])
    assert abs(through.numpy() - module.weight_hh_l0.grad.numpy()).max() > 1e-3


# -- packed sequences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[3, 3, 1], [1, 3, 2], [2, 2, 2]])
def test_packing_is_pytorchs(torch, lengths, batch_first, backend):
    ordered = lengths == sorted(lengths, reverse=True)
    array = np.random.default_rng(0).standard_normal((3, 4, 2) if batch_first else (4, 3, 2))
    x, own_x = torch.tensor(array, requires_grad=True), dc.tensor(array, backend=backend, requires_grad=True)
    options = {"batch_first": batch_first, "enforce_sorted": ordered}
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), **options)
    own = rnn.pack_padded_sequence(own_x, dc.tensor(lengths), **options)
    for mine, other in zip(own, packed):
        assert mine is other is None or mine.tolist() == other.tolist()
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first, -2.0, total_length=4)
    own_out, own_lengths = rnn.pad_packed_sequence(own, batch_first, -2.0, total_length=4)
    assert own_out.tolist() == out.tolist() and own_lengths.tolist() == lengths
    (out * out).sum().backward()
    (own_out * own_out).sum().backward()
    assert own_x.grad.tolist() == x.grad.tolist()


def test_lists_of_sequences_are_pytorchs(torch, backend):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 2)) for n in (2, 4, 1)]
    items, own = [torch.tensor(a) for a in arrays], [dc.tensor(a, backend=backend) for a in arrays]
    utils = torch.nn.utils.rnn
    for options in ({}, {"batch_first": True, "padding_value": 3.0}, {"padding_side": "left"}):
        assert rnn.pad_sequence(own, **options).tolist() == utils.pad_sequence(items, **options).tolist()
    assert rnn.pack_sequence(own, False).data.tolist() == utils.pack_sequence(items, False).data.tolist()
    for mine, array in zip(rnn.unpack_sequence(rnn.pack_sequence(own, enforce_sorted=False)), arrays, strict=True):
        assert mine.tolist() == array.tolist()
    for mine, array in zip(rnn.unpad_sequence(rnn.pad_sequence(own, True), [2, 4, 1], True), arrays, strict=True):
        assert mine.tolist() == array.tolist()
    assert rnn.invert_permutation(dc.tensor([2, 0, 1], backend=backend)).tolist() == [1, 2, 0]
    packed = rnn.pack_sequence(own, False)
    assert packed.float().data.dtype == dc.float32 and packed.to("cpu").data.backend == "cpu"
    assert packed.double() is packed


# -- training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "LSTMCell"])
def test_a_compiled_step_has_the_bits_of_the_function(name):
    """On the CPU; on CUDA see `tests/compiler/scenarios/layers.py`."""

    def train(compile):
        dc.manual_seed(0)
        options = {} if name == "LSTMCell" else {"num_layers": 2, "bidirectional": True, "dropout": 0.5}
        layer, head = getattr(nn, name)(3, 4, **options), nn.Linear(4 if name == "LSTMCell" else 8, 2)
        optimizer = optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)

        @compile
        def step(x, y):
            optimizer.zero_grad()
            out = flat(layer(x))[0]
            loss = F.cross_entropy(head(out.reshape(-1, out.shape[-1])), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        shape = (6, 3) if name == "LSTMCell" else (3, 2, 3)
        losses = [step(dc.randn(*shape), dc.randint(0, 2, (6,))).item() for _ in range(4)]
        return step, [losses, *(p.detach().numpy().tobytes() for p in layer.parameters())]

    (_, expected), (step, got) = train(lambda function: function), train(dc.compile)
    assert has_run(step, 2)
    assert got == expected


def test_one_program_serves_the_parts_of_truncated_backpropagation():
    def train(compile):
        dc.manual_seed(0)
        layer = nn.LSTM(3, 4, 2)
        optimizer = optim.SGD(layer.parameters(), lr=0.1)

        @compile
        def step(x, y, states):
            optimizer.zero_grad()
            out, states = layer(x, states)
            loss = F.mse_loss(out, y)
            loss.backward()
            optimizer.step()
            return loss.detach(), tuple(s.detach() for s in states)

        states, losses = (dc.zeros(2, 2, 4), dc.zeros(2, 2, 4)), []
        for _ in range(6):
            loss, states = step(dc.randn(5, 2, 3), dc.randn(5, 2, 4), states)
            losses.append(loss.item())
        return step, [losses, *(t.detach().numpy().tobytes() for t in (*states, *layer.parameters()))]

    (_, expected), (step, got) = train(lambda function: function), train(dc.compile)
    assert has_run(step, 2) and step.traces <= 1
    assert got == expected


def test_a_compiled_layer_takes_and_returns_packed_sequences():
    layer = nn.GRU(3, 4)
    compiled = dc.compile(layer)
    packed = rnn.pack_sequence([dc.randn(1, 3), dc.randn(2, 3)], enforce_sorted=False)
    expected, last = layer(packed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepcoreWarning)  # it runs eagerly, as batch_sizes is read
        for _ in range(3):
            out, final = compiled(packed)
            assert type(out) is rnn.PackedSequence and out.data.tolist() == expected.data.tolist()
            assert final.tolist() == last.tolist()


def test_dropout_acts_between_layers_in_training_alone(backend):
    layer = nn.GRU(3, 4, num_layers=2, dropout=1.0, backend=backend)
    x = dc.randn(2, 1, 3, backend=backend)
    without = nn.GRU(4, 4, backend=backend)
    without.load_state_dict(
        {f"{n}_l0": getattr(layer, f"{n}_l1") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    )
    assert layer(x)[0].tolist() == without(dc.zeros(2, 1, 4, backend=backend))[0].tolist()
    assert layer.eval()(x)[0].tolist() != without(dc.zeros(2, 1, 4, backend=backend))[0].tolist()
    with pytest.warns(DeepcoreWarning, match="num_layers is 1"):
        nn.GRU(3, 4, dropout=0.5)


@pytest.mark.parametrize("dtype", [dc.float16, dc.bfloat16])
def test_half_precision(dtype, backend):
    layer = nn.LSTM(3, 4, backend=backend)
    x = dc.randn(5, 2, 3, backend=backend)
    expected = layer(x)[0]
    layer.to(dtype=dtype)
    out, _ = layer(x.to(dtype=dtype))
    out.sum().backward()
    assert out.dtype == dtype and layer.weight_hh_l0.grad.dtype == dtype
    np.testing.assert_allclose(out.detach().float().numpy(), expected.detach().numpy(), atol=0.03)


def test_initial_parameters_and_attributes():
    layer = nn.LSTM(3, 16, num_layers=2)
    assert all(0.2 < p.detach().abs().max().item() <= 0.25 for p in layer.parameters())
    assert [len(part) for part in layer.all_weights] == [4, 4]
    layer.flatten_parameters()
    assert layer.mode == "LSTM" and nn.RNN(1, 1, nonlinearity="relu").mode == "RNN_RELU"
    assert isinstance(layer, nn.RNNBase) and isinstance(nn.GRUCell(1, 1), nn.RNNCellBase)
    assert nn.LSTM(3, 4)(dc.zeros(2, 0, 3))[0].shape == (2, 0, 4)


REFUSED = {
    "features": (lambda: nn.LSTM(3, 4)(dc.ones(2, 1, 5)), ShapeError, r"LSTM expects 3.*\(2, 1, 5\)"),
    "rank": (lambda: nn.GRU(3, 4)(dc.ones(2, 1, 1, 3)), ShapeError, r"\(time, batch, 3\) or \(time, 3\)"),
    "batch first": (lambda: nn.GRU(3, 4, batch_first=True)(dc.ones(3)), ShapeError, r"\(batch, time, 3\)"),
    "no steps": (lambda: nn.RNN(3, 4)(dc.ones(0, 1, 3)), ShapeError, "no time steps"),
    "h0": (lambda: nn.GRU(3, 4)(dc.ones(2, 1, 3), dc.ones(1, 2, 4)), ShapeError, r"h₀.*\(1, 1, 4\).*\(1, 2, 4\)"),
    "h0 rank": (lambda: nn.GRU(3, 4)(dc.ones(2, 1, 3), dc.ones(1, 4)), ShapeError, r"\(1, 1, 4\)"),
    "c0": (lambda: nn.LSTM(3, 4)(dc.ones(2, 3), (dc.ones(1, 4), dc.ones(1, 3))), ShapeError, r"c₀.*\(1, 4\)"),
    "one state": (lambda: nn.LSTM(3, 4)(dc.ones(2, 3), dc.ones(1, 4)), ArgumentError, r"pair \(h₀, c₀\)"),
    "dtype": (lambda: nn.LSTM(3, 4)(dc.ones(2, 3).double()), DTypeError, "LSTM.*float64"),
    "packed features": (lambda: nn.GRU(3, 4)(rnn.pack_sequence([dc.ones(2, 2)])), ShapeError, "GRU expects 3"),
    "proj_size": (lambda: nn.LSTM(3, 4, proj_size=4), ArgumentError, "proj_size=4, hidden_size=4"),
    "nonlinearity": (lambda: nn.RNN(3, 4, nonlinearity="gelu"), ArgumentError, "'gelu'"),
    "dropout": (lambda: nn.LSTM(3, 4, dropout=1.5), ArgumentError, "dropout=1.5"),
    "layers": (lambda: nn.LSTM(3, 4, num_layers=0), ArgumentError, "num_layers=0"),
    "cell": (lambda: nn.LSTMCell(3, 4)(dc.ones(2, 2)), ShapeError, r"LSTMCell expects 3.*\(2, 2\)"),
    "cell rank": (lambda: nn.GRUCell(3, 4)(dc.ones(1, 2, 3)), ShapeError, r"\(batch, 3\)"),
    "cell state": (lambda: nn.GRUCell(3, 4)(dc.ones(2, 3), dc.ones(3, 4)), ShapeError, r"\(2, 4\).*\(3, 4\)"),
    "cell states": (lambda: nn.LSTMCell(3, 4)(dc.ones(2, 3), dc.ones(2, 4)), ArgumentError, r"pair \(h, c\)"),
    "weight": (
        lambda: dc.gru(dc.ones(2, 1, 3), dc.ones(1, 1, 4), [dc.ones(12, 3), dc.ones(12, 5)], False, 1, 0.0, False, False),
        ShapeError, r"gru: weight_hh does not fit.*\(12, 4\).*\(12, 5\)",
    ),
    "bias": (
        lambda: dc.rnn_relu(
            dc.ones(2, 1, 3), dc.ones(1, 1, 4), [dc.ones(4, 3), dc.ones(4, 4), dc.ones(4), dc.ones(3)], True, 1, 0.0, False, False
        ),
        ShapeError, r"rnn: bias_hh does not fit.*\(4,\).*\(3,\)",
    ),
    "function": (lambda: dc.gru(dc.ones(2, 3), None, [], True, 1, 0.0, False, False), ShapeError, "time, batch"),
    "function's parameters": (
        lambda: dc.gru(dc.ones(2, 1, 3), dc.ones(1, 1, 4), [dc.ones(2)], True, 1, 0.0, False, False),
        ArgumentError,
        "4 parameters each",
    ),
    "order": (lambda: rnn.pack_padded_sequence(dc.ones(3, 2, 1), [1, 3]), ArgumentError, "enforce_sorted=False"),
    "length": (lambda: rnn.pack_padded_sequence(dc.ones(3, 2, 1), [4, 3]), ShapeError, "from 1 to the padded length, 3"),
    "no length": (lambda: rnn.pack_padded_sequence(dc.ones(3, 2, 1), [3, 0]), ShapeError, "from 1"),
    "lengths": (lambda: rnn.pack_padded_sequence(dc.ones(3, 2, 1), [3]), ShapeError, "2 lengths"),
    "total": (
        lambda: rnn.pad_packed_sequence(rnn.pack_sequence([dc.ones(3)]), total_length=2), ArgumentError, "total_length=2",
    ),
    "unlike sequences": (lambda: rnn.pad_sequence([dc.ones(2, 1), dc.ones(2, 2)]), ShapeError, r"\(length, \*\)"),
    "side": (lambda: rnn.pad_sequence([dc.ones(2)], padding_side="top"), ArgumentError, "'top'"),
    "no sizes": (lambda: rnn.PackedSequence(dc.ones(2)), ArgumentError, "pack_padded_sequence"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
