"""Complex tensors: creation, views, gradients, what is refused; against PyTorch, finite differences and NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from op_samples import Complex, Make, as_function, outputs_of, tensors_in

import deepcore as dc
from deepcore import errors
from deepcore.autograd import gradcheck, gradgradcheck
from deepcore.config import settings
from deepcore.ops.registry import FUNCTIONS
from deepcore.tensor import Tensor

VALUES = [1 + 2j, -3.5 - 0.25j, 0.5j, 2.0]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def leaf(backend, *shape, dtype=dc.complex128) -> Tensor:
    return dc.randn(*shape, dtype=dtype, backend=backend, generator=dc.Generator().manual_seed(1)).requires_grad_()


# -- creation, conversion, printing -----------------------------------------------------------------------------------


def test_creation(torch, backend):
    for make in (
        lambda lib: lib.tensor(VALUES), lambda lib: lib.tensor([[1j, 2], [3.5, True]]), lambda lib: lib.tensor(1j),
        lambda lib: lib.zeros(2, dtype=lib.complex64), lambda lib: lib.ones(2, 3, dtype=lib.cdouble),
        lambda lib: lib.full((2,), 1 - 2j), lambda lib: lib.full((2,), 3, dtype=lib.cfloat),
        lambda lib: lib.eye(2, dtype=lib.complex64), lambda lib: lib.linspace(0, 1, 3, dtype=lib.complex64),
        lambda lib: lib.zeros_like(lib.tensor(VALUES)), lambda lib: lib.tensor([1.5, 2]).cfloat(),
        lambda lib: lib.tensor([1.5, 2]).cdouble() * 1j, lambda lib: lib.tensor(VALUES, dtype=lib.complex128),
        lambda lib: lib.complex(lib.tensor([1.0, 2.0]), lib.tensor([[3.0], [4.0]])),
        lambda lib: lib.polar(lib.tensor([1.0, 2.0]), lib.tensor([0.5, -3.0])),
    ):  # fmt: skip
        theirs = make(torch)
        with dc.use_backend(backend):
            ours = make(dc)
        assert ours.numpy().dtype == theirs.numpy().dtype and ours.is_complex() and not ours.is_floating_point()
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
        assert ours.type().rpartition(".")[2] == theirs.type().rpartition(".")[2]
    assert dc.tensor(1 + 2j, backend=backend).item() == 1 + 2j == complex(dc.tensor(1 + 2j))
    assert dc.finfo(dc.complex64).max == dc.finfo(dc.float32).max and dc.finfo(dc.cdouble).dtype == "float64"


def test_random_numbers(backend):
    """The same for a seed on every backend; unit variance, shared by the parts."""
    for function in (dc.randn, dc.rand):
        for dtype in (dc.complex64, dc.complex128):
            dc.manual_seed(3)
            z = function(200, 50, dtype=dtype, backend=backend)
            dc.manual_seed(3)
            np.testing.assert_allclose(z.numpy(), function(200, 50, dtype=dtype).numpy(), rtol=1e-5)
            parts = dc.view_as_real(z).numpy().reshape(-1, 2)
            want = 0.5 if function is dc.randn else 1 / 12
            np.testing.assert_allclose(parts.var(axis=0), want, rtol=0.05)
            assert abs(np.corrcoef(parts.T)[0, 1]) < 0.03


def test_nan_to_num_replaces_both_parts(torch):
    values = [complex("nan+infj"), complex("1-infj"), 2 + 3j]
    for kwargs in ({}, {"nan": 2.0, "posinf": 3.0}):
        ours, theirs = (lib.tensor(values).nan_to_num(**kwargs) for lib in (dc, torch))
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_memory_is_shared_with_other_libraries(torch):
    array = np.array(VALUES, np.complex64)
    ours, theirs = dc.from_numpy(array), torch.from_numpy(array)
    assert np.shares_memory(ours.numpy(), array) and np.asarray(ours).dtype == np.complex64
    again = dc.from_dlpack(theirs)
    back = torch.from_dlpack(ours)
    array[0] = 7j
    assert again[0].item() == back[0].item() == ours[0].item() == 7j
    assert dc.tensor(array.astype(">c8")).tolist() == array.tolist()


@pytest.mark.parametrize(
    "values",
    [
        VALUES, [1e-5 + 1j], [], 1 + 2j, [1 + 2j, 3e9j], [complex("nan+1j"), complex("infj")], [-0.0 - 0.0j],
        [[1.5 + 1j, 2], [3, -4j]], [complex(k, -k / 3) for k in range(40)], [complex(k, k) for k in range(2000)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_printing(values, name, torch):
    ours, theirs = dc.tensor(values, dtype=name), torch.tensor(values, dtype=getattr(torch, name))
    assert repr(ours) == repr(theirs).replace("torch.", "dc.")


def test_files(tmp_path, backend):
    z = leaf(backend, 3, 2, dtype=dc.complex64).detach()
    dc.save({"z": z}, tmp_path / "z.safetensors")
    back = dc.load(tmp_path / "z.safetensors", backend=backend)["z"]
    assert back.dtype == dc.complex64 and back.tolist() == z.tolist()
    with pytest.raises(errors.DTypeError, match=r"(?s)complex128.*view_as_real"):
        dc.save({"z": z.cdouble()}, tmp_path / "z.safetensors")


def test_what_does_not_convert(backend):
    z = dc.tensor(VALUES, backend=backend)
    with pytest.warns(UserWarning, match="imaginary"):
        assert z.float().tolist() == [1.0, -3.5, 0.0, 2.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert z.bool().all() and z.real.dtype == dc.float32
    for call, words in (
        (lambda: dc.tensor(VALUES, dtype=dc.float32), "real number"),
        (lambda: float(z[0]), r"float\(t\.real\)"),
        (lambda: dc.zeros(4, backend=backend).__setitem__(0, z[0]), "complex"),
        (
            lambda: dc.zeros(4, backend=backend) + dc.zeros(4, backend=backend).add_(z),
            "complex64 result cannot be written",
        ),
        (lambda: dc.tensor([1e300j], dtype=dc.complex64), "does not fit dtype float32"),
        (lambda: dc.arange(3, dtype=dc.complex64), "cfloat"),
        (lambda: dc.view_as_complex(dc.zeros(3)), "pairs"),
        (lambda: dc.view_as_complex(dc.zeros(2, 3).t()), "contiguous"),
        (lambda: dc.zeros(2).imag, "complex tensors"),
    ):
        with pytest.raises((errors.DTypeError, errors.ShapeError), match=words):
            call()
    assert dc.tensor([1 + 0j], dtype=dc.float32).tolist() == [1.0]


# -- views ------------------------------------------------------------------------------------------------------------


def test_parts_are_views(torch, backend):
    for shape in ((), (3,), (2, 3)):
        values = np.random.default_rng(0).standard_normal((*shape, 2))
        ours, theirs = dc.tensor(values, backend=backend), torch.tensor(values)
        for lib, x in ((dc, ours), (torch, theirs)):
            z = lib.view_as_complex(x)
            z.real.mul_(2.0)
            z.imag = z.real + 1
            lib.view_as_real(z.t() if z.ndim == 2 else z)[..., 0] -= 0.5
            z.mul_(1j)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy())
    z = dc.tensor(VALUES, backend=backend)
    assert z.real._base is not None and z[::2].imag.tolist() == [2.0, 0.5] and dc.ones(2).real.dtype == dc.float32
    m = dc.tensor([[1j, 2], [3, 4j]], backend=backend)
    assert m.mH.tolist() == m.H.tolist() == m.adjoint().tolist() == [[-1j, 3], [2, -4j]]


def written(x):
    y = x * 2
    y.real.mul_(x.imag)
    y.imag[1:] = x.real[1:] ** 2
    dc.view_as_real(y)[0, 1] = x.abs()[0]
    w = dc.view_as_real(x * 1j).contiguous()
    dc.view_as_complex(w)[1] = x[0] * x[1]
    return y, w


def test_gradients_of_writes_through_views(backend):
    x = leaf(backend, 3)
    assert gradcheck(written, x) and gradgradcheck(written, x)


# -- gradients ---------------------------------------------------------------------------------------------------------

SCALARS = {
    "abs": lambda z: z.abs().sum(), "norm": lambda z: dc.linalg.norm(z), "real": lambda z: (z * z).real.sum(),
    "angle": lambda z: z.angle().sum(), "product": lambda z: (z @ z.conj()).abs(), "power": lambda z: (z**2.5).imag.sum(),
    "functions": lambda z: (z.exp() * z.sin() / (z + 2)).abs().sum(), "mean": lambda z: (z.mean() * z.var()).abs(),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
def test_gradients_are_pytorchs(name, torch, backend):
    """∂L/∂Re z + i ∂L/∂Im z: a step along its negative reduces the loss."""
    z = leaf(backend, 5)
    SCALARS[name](z).backward()
    theirs = torch.tensor(z.detach().numpy(), requires_grad=True)
    text = SCALARS[name]
    scope = dict(text.__globals__, dc=torch)
    type(text)(text.__code__, scope)(theirs).backward()
    np.testing.assert_allclose(z.grad.numpy(), theirs.grad.numpy(), rtol=1e-10)
    assert SCALARS[name](z.detach() - 1e-4 * z.grad) < SCALARS[name](z.detach())


def test_real_operands_get_real_gradients(backend):
    x = dc.tensor([1.0, 2.0, 3.0], backend=backend, dtype=dc.float64, requires_grad=True)
    z = leaf(backend, 3)
    for function in (lambda x, z: x * z, lambda x, z: x + z, lambda x, z: z / x, lambda x, z: dc.where(x > 1.5, x, z)):
        (g,) = dc.autograd.grad(dc.view_as_real(function(x, z)).sum(), x)
        assert g.dtype == dc.float64
        assert gradcheck(function, (x, z)) and gradgradcheck(function, (x, z))


MAPS = {
    "exp": lambda z: z.exp(), "mul": lambda z: z * z * (1 + 2j), "conj": lambda z: z.conj() * z, "abs": lambda z: z.abs(),
    "fft": lambda z: dc.fft.fft(z), "rfft": lambda z: dc.fft.rfft(z.real), "irfft": lambda z: dc.fft.irfft(z),
    "parts": lambda z: dc.view_as_real(z) * z.imag.sum(), "matmul": lambda z: z[None] @ z[:, None], "pow": lambda z: z**2.5,
    "sgn": lambda z: z.sgn(), "angle": lambda z: z.angle(), "inv": lambda z: dc.linalg.inv(z.reshape(2, 2)),
    "where": lambda z: dc.where(z.real > 0, z, z * 2), "cumprod": lambda z: z.cumprod(0),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_transforms_of_functions(name, backend):
    """Tangents against differences, batches against a loop."""
    function, step = MAPS[name], 1e-6
    x, t = (leaf(backend, 3, 4).detach()[i] for i in (0, 1))
    _, tangent = dc.jvp(function, (x,), (t,))
    numeric = (function(x + step * t) - function(x - step * t)) / (2 * step)
    np.testing.assert_allclose(tangent.numpy(), numeric.numpy(), rtol=1e-6, atol=1e-7)
    batch = leaf(backend, 3, 4).detach()
    rows = dc.stack([function(row) for row in batch])
    np.testing.assert_allclose(dc.vmap(function)(batch).numpy(), rows.numpy(), rtol=1e-12)


#: Whose samples cross a branch cut, where the functions jump.
CUTS = {"float_power", "logdet", "slogdet", "linalg.slogdet", "logaddexp"}
#: Vectors with a phase of their own: functions of them have no gradient.
PHASES = {"linalg.eigh", "linalg.svd", "svd", "linalg.qr", "qr"}


@pytest.mark.parametrize("name", sorted(n for n in FUNCTIONS if FUNCTIONS[n].differentiable and n not in PHASES))
def test_registered_functions_of_complex_tensors(name):
    """Gradients of both parts against finite differences, with `--slow` of second order, too; or a typed error."""
    entry, checked = FUNCTIONS[name], 0
    if entry.through is not None:
        pytest.skip("a function of matrices of one kind, which PyTorch's samples are")
    if any(t.is_complex() for one in entry.examples(Make("cpu", name)) for t in tensors_in(list(one.args))):
        pytest.skip("its samples are complex already: `test_ops.py`")
    try:
        examples = entry.examples(Complex("cpu", name))
    except errors.DTypeError:
        pytest.skip("its samples are ordered")
    for one in examples:
        call, leaves = as_function(entry, one)
        if not leaves or sum(t.numel() for t in leaves) > 12 or not any(t.is_complex() for t in leaves):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of conversions to real dtypes
            try:
                outputs = outputs_of(call(*leaves))
            except errors.DeepcoreError:
                pytest.skip("for real numbers alone")
            if any(o.requires_grad for o in outputs) and name not in CUTS:
                gradcheck(lambda *args, call=call: tuple(outputs_of(call(*args))), leaves, rtol=1e-5, atol=1e-6)
                checked += 1
    if not checked:
        pytest.skip("no small sample with a gradient")


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "less": lambda z: z < z, "maximum": lambda z: dc.maximum(z, z), "max": lambda z: z.max(), "max of a dim": lambda z: z.max(0),
    "argmin": lambda z: z.argmin(), "sort": lambda z: z.sort(), "topk": lambda z: z.topk(1), "clamp": lambda z: z.clamp(0, 1),
    "floor": lambda z: z.floor(), "round": lambda z: z.round(), "remainder": lambda z: z % 2, "floor_divide": lambda z: z // 2,
    "sign": lambda z: z.sign(), "relu": lambda z: dc.relu(z), "softmax": lambda z: z.softmax(0), "median": lambda z: z.median(),
    "atan2": lambda z: dc.atan2(z, z), "cummax": lambda z: z.cummax(0), "bitwise": lambda z: z & z, "gelu": lambda z: dc.nn.functional.gelu(z),
    "mse": lambda z: dc.nn.functional.mse_loss(z, z), "layer norm": lambda z: dc.nn.functional.layer_norm(z, z.shape),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_orders_is_refused(name, backend):
    z = dc.tensor(VALUES, backend=backend)
    with pytest.raises(errors.DTypeError, match=r"(?s)complex|integers"):
        REFUSED[name](z)
    with pytest.raises(errors.DTypeError):
        REFUSED[name](
            z[0].reshape(()) if name == "max of a dim" else z[:0].cdouble() if name == "less" else z.cdouble()
        )


def test_clipping_values_clips_both_parts(backend):
    z = leaf(backend, 2)
    z.grad = dc.tensor([3 - 0.5j, -1 + 4j], dtype=dc.complex128, backend=backend)
    dc.nn.utils.clip_grad_value_([z], 2.0)
    assert z.grad.tolist() == [2 - 0.5j, -1 + 2j]


def test_losses_are_real(backend):
    z = leaf(backend, 3)
    with pytest.raises(errors.GradientError, match="real number"):
        (z * z).sum().backward()
    (z * z).sum().backward(gradient=dc.tensor(1j, dtype=dc.complex128, backend=backend))
    np.testing.assert_allclose(z.grad.numpy(), 1j * 2 * z.detach().numpy().conj())
    with pytest.raises(errors.DTypeError, match=r"gradient\.real"):
        z.abs().sum().backward(gradient=dc.tensor(1j, backend=backend))


# -- determinism, programs, optimizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dc.complex64, dc.complex128], ids=str)
def test_threads_do_not_change_bits(dtype, monkeypatch):
    x, y = (dc.randn(*s, dtype=dtype) for s in ((300, 200), (200, 400)))

    def results():
        batch = dc.stack([x, x * 1j]) @ y
        return [t.numpy().tobytes() for t in (x @ y, batch, x.sum(0), x.cumsum(1), dc.fft.fft2(x), x.t() @ x.conj())]

    monkeypatch.setattr(settings, "threads", 1)
    one = results()
    monkeypatch.setattr(settings, "threads", 2)
    assert results() == one
    np.testing.assert_allclose((x @ y).numpy(), x.numpy() @ y.numpy(), rtol=1e-3 if dtype == dc.complex64 else 1e-10)


def everything(z, w):
    z, w = z.detach().requires_grad_(), w.detach().requires_grad_()
    y = dc.fft.ifft(dc.fft.fft(z) * w).exp().sin() * z.conj() / (w + 3)
    y = y * 1.0
    y.imag[1:] = z.real[1:] ** 2
    s = dc.stft(y.real, 8, pad_mode="constant", window=dc.hann_window(8, backend=z.backend), return_complex=True)
    r = dc.istft(s, 8, window=dc.hann_window(8, backend=z.backend))
    loss = dc.view_as_real(y).square().sum() + s.abs().sum() + (r * r).sum() + (y * y.conj()).sum().abs()
    return loss.detach(), y.detach(), *dc.autograd.grad(loss, (z, w))


def test_compiled_equals_eager(backend):
    step = dc.compile(everything)
    for _ in range(4):
        z, w = (dc.randn(32, dtype=dc.complex64, backend=backend) for _ in range(2))
        for ours, theirs in zip(step(z, w), everything(z, w)):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


OPTIMIZERS = [
    ("Adam", {}), ("AdamW", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    ("RMSprop", {"momentum": 0.9}), ("Adagrad", {"initial_accumulator_value": 0.1}), ("NAdam", {}), ("RAdam", {}),
    ("Adamax", {}), ("Adadelta", {}), ("ASGD", {}), ("Rprop", {}),
]  # fmt: skip


@pytest.mark.parametrize("name, options", OPTIMIZERS)
def test_optimizers_are_pytorchs(name, options, torch, backend):
    """A complex parameter beside a real one; state in PyTorch's layout."""
    start = np.random.default_rng(0).standard_normal((4, 3, 2))
    ours = [dc.tensor(start, backend=backend), dc.tensor(start[..., 0], backend=backend)]
    ours = [dc.view_as_complex(ours[0]).clone().requires_grad_(), ours[1].requires_grad_()]
    theirs = [torch.tensor(t.detach().numpy(), requires_grad=True) for t in ours]
    first = getattr(dc.optim, name)(ours, lr=0.01, **options)
    second = getattr(torch.optim, name)(theirs, lr=0.01, **options)
    for k in range(4):
        for optimizer, (z, x), lib in ((first, ours, dc), (second, theirs, torch)):
            optimizer.zero_grad()
            ((z * x - 1j * k).abs() ** 2).sum().backward()
            norm = lib.nn.utils.clip_grad_norm_([z, x], 5.0)
            optimizer.step()
            assert norm.dtype == lib.float64
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-7)
    loaded = getattr(dc.optim, name)(ours, lr=0.5, **options)
    loaded.load_state_dict(second.state_dict())
    for key, entry in first.state_dict()["state"].items():
        for item, value in entry.items():
            if isinstance(value, Tensor):
                np.testing.assert_allclose(loaded.state_dict()["state"][key][item].numpy(), value.numpy(), rtol=1e-7)


@pytest.mark.parametrize("name", ["LBFGS", "Muon", "Adafactor"])
def test_optimizers_without_complex_numbers(name, backend):
    with pytest.raises(errors.DTypeError, match="view_as_complex"):
        getattr(dc.optim, name)([leaf(backend, 2, 2)])
