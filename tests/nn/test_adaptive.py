"""AdaptiveLogSoftmaxWithLoss, buffers as attributes, fused batch norms: as PyTorch's."""

import copy

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, IndexRangeError, ShapeError

F = nn.functional
rng = np.random.default_rng(0)


def twins(torch, ours, theirs):
    """Both in float64 with PyTorch's parameters."""
    theirs.double()
    ours.double().load_state_dict({k: dc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cutoffs", [[5], [3, 8], [2, 10, 15]])
def test_adaptive_softmax_as_pytorch(cutoffs, bias):
    torch = pytest.importorskip("torch")
    arguments = (16, 20, cutoffs, 2.0, bias)
    ours, theirs = twins(
        torch, nn.AdaptiveLogSoftmaxWithLoss(*arguments), torch.nn.AdaptiveLogSoftmaxWithLoss(*arguments)
    )
    x, y = rng.normal(size=(12, 16)), rng.integers(0, 20, 12)
    a, b = dc.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    got, want = ours(a, dc.tensor(y)), theirs(b, torch.tensor(y))
    np.testing.assert_allclose(got.output.numpy(force=True), want.output.detach().numpy(), rtol=1e-10)
    got.loss.backward(), want.loss.backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-15)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        want_grad = np.zeros(p.shape) if q.grad is None else q.grad.numpy()
        np.testing.assert_allclose(0 if p.grad is None else p.grad.numpy(), want_grad, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(ours.log_prob(a).numpy(force=True), theirs.log_prob(b).detach().numpy(), rtol=1e-10)
    assert ours.predict(a).tolist() == theirs.predict(b).tolist() == ours.log_prob(a).argmax(1).tolist()
    assert ours(a[0], dc.tensor(3)).output.shape == ()


def test_adaptive_softmax_uses_every_cluster_and_sums_to_one(backend):
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 6], 2.0, backend=backend)
    x = dc.randn(24, 8, backend=backend)
    p = layer.log_prob(x).exp()
    np.testing.assert_allclose(p.sum(1).numpy(force=True), 1, rtol=1e-5)
    y = dc.arange(24, backend=backend) % 12
    got = layer(x, y).output
    np.testing.assert_allclose(
        got.numpy(force=True), layer.log_prob(x).gather(1, y.unsqueeze(1)).squeeze(1).numpy(force=True), rtol=1e-5
    )


@pytest.mark.parametrize("cutoffs", [[], [0, 3], [3, 3], [4, 2], [10], [2.5]])
def test_wrong_cutoffs(cutoffs):
    with pytest.raises(ArgumentError, match="cutoffs"):
        nn.AdaptiveLogSoftmaxWithLoss(8, 10, cutoffs)


def test_wrong_inputs_of_the_adaptive_softmax():
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 10, [4], 2.0)
    with pytest.raises(IndexRangeError, match="0 to 9"):
        layer(dc.randn(2, 8), dc.tensor([0, 10]))
    with pytest.raises(ShapeError, match="one class"):
        layer(dc.randn(3, 8), dc.tensor([0, 1]))


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_registers_itself(persistent):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = nn.Buffer(dc.zeros(2), persistent=persistent)

    module = Counter()
    assert [name for name, _ in module.named_buffers()] == ["count"] and not list(module.parameters())
    assert list(module.state_dict()) == (["count"] if persistent else [])
    assert module.double().count.dtype == dc.float64
    assert copy.deepcopy(module).count.tolist() == [0.0, 0.0]
    module.count = dc.ones(2)
    assert module.count.tolist() == [1.0, 1.0] and len(list(module.buffers())) == 1
    assert repr(nn.Buffer(dc.ones(1))).startswith("Buffer containing:")


def _trained_norm(norm, width):
    with dc.no_grad():
        for t in (norm.running_mean, norm.weight, norm.bias):
            t.copy_(dc.tensor(rng.normal(size=width)))
        norm.running_var.copy_(dc.tensor(rng.uniform(0.5, 2, width)))
    return norm.eval()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda: nn.Linear(3, 5), lambda: nn.BatchNorm1d(5), (4, 3)),
        (lambda: nn.Linear(3, 5, bias=False), lambda: nn.BatchNorm1d(5), (4, 3)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), lambda: nn.BatchNorm1d(6), (2, 4, 7)),
        (lambda: nn.Conv2d(3, 4, 3, bias=False), lambda: nn.BatchNorm2d(4), (2, 3, 6, 6)),
        (lambda: nn.ConvTranspose2d(3, 4, 3), lambda: nn.BatchNorm2d(4), (2, 3, 6, 6)),
    ],
)
def test_a_batch_norm_folds_into_the_layer_before(layer, norm, shape):
    layer, norm = layer().double().eval(), norm().double()
    _trained_norm(norm, norm.num_features)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    if isinstance(layer, nn.Linear):
        fused = nn.utils.fuse_linear_bn_eval(layer, norm)
    else:
        fused = nn.utils.fuse_conv_bn_eval(layer, norm, transpose=transposed)
    x = dc.tensor(rng.normal(size=shape))
    np.testing.assert_allclose(fused(x).numpy(force=True), norm(layer(x)).numpy(force=True), rtol=1e-9, atol=1e-12)
    assert fused is not layer and fused.bias is not None


def test_what_cannot_be_fused():
    with pytest.raises(ArgumentError, match="training"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ArgumentError, match="running statistics"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(2, 2).eval(), nn.BatchNorm1d(2, track_running_stats=False).eval())
    with pytest.raises(ArgumentError, match="2 outputs"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(2, 2).eval(), nn.BatchNorm1d(3).eval())


def test_gradients_clipped_with_a_norm_computed_before():
    layer = nn.Linear(3, 2)
    layer(dc.ones(1, 3)).sum().backward()
    before = [p.grad.numpy().copy() for p in layer.parameters()]
    total = nn.utils.get_total_norm([p.grad for p in layer.parameters()])
    nn.utils.clip_grads_with_norm_(layer.parameters(), 0.5, total)
    for p, g in zip(layer.parameters(), before, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g * 0.5 / (float(total) + 1e-6), rtol=1e-6)
    nn.utils.clip_grads_with_norm_(layer.parameters(), 10, nn.utils.get_total_norm([dc.ones(2)]))
    np.testing.assert_allclose(layer.bias.grad.numpy(), before[1] * 0.5 / (float(total) + 1e-6), rtol=1e-6)
    with pytest.raises(ArgumentError, match="one number"):
        nn.utils.clip_grads_with_norm_(layer.parameters(), 1.0, 2.0)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "celu", "selu", "hardtanh", "rrelu"])
def test_activations_in_place(name, backend):
    x = dc.linspace(-2, 2, 9, backend=backend)
    expected = getattr(F, name)(x).tolist()
    result = getattr(F, f"{name}_")(x)
    assert result is x and x.tolist() == expected
    y = dc.linspace(-2, 2, 9, backend=backend).requires_grad_()
    getattr(F, f"{name}_")(y * 1).sum().backward()
    assert y.grad.shape == (9,)
    assert F.threshold_(dc.tensor([-1.0, 3.0], backend=backend), 1.0, 7.0).tolist() == [7.0, 3.0]
