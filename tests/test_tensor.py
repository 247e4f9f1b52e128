"""Making tensors, reading them, printing them, and handing them to other libraries."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors


@pytest.mark.parametrize(
    "data, dtype",
    [
        (1.5, "float32"),
        (3, "int64"),
        (True, "bool"),
        ([1, 2.0], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        ([], "float32"),
        (np.arange(3, dtype=np.int16), "int16"),
        (np.float64(2.0), "float64"),
        ([np.float64(2.0)], "float64"),
        (np.array([1.0], dtype=">f4"), "float32"),
    ],
)
def test_dtype_follows_the_data(data, dtype, backend):
    t = dc.tensor(data, backend=backend)
    assert t.dtype == dtype and t.backend == backend
    assert t.dtype.isnative


def test_numbers_given_as_float64_keep_all_their_digits():
    assert dc.tensor(0.1, dtype="float64").item() == 0.1
    assert dc.tensor([0.1], dtype=dc.float64).tolist() == [0.1]
    assert dc.full((1,), 0.1, dtype="float64").item() == 0.1


def test_tensor_copies_and_as_tensor_shares():
    array = np.zeros(3, "f")
    copied, shared, wrapped = dc.tensor(array), dc.as_tensor(array), dc.from_numpy(array)
    array[0] = 5
    assert copied[0].item() == 0 and shared[0].item() == 5 and wrapped[0].item() == 5
    assert shared.numpy() is array or np.shares_memory(shared.numpy(), array)
    t = dc.ones(2)
    assert dc.as_tensor(t) is t and dc.as_tensor(t, dtype="float64") is not t


def test_nested_tensors_and_mixed_lists():
    assert dc.tensor([dc.tensor(1.0), dc.tensor(2.0)]).tolist() == [1.0, 2.0]
    with pytest.raises(errors.ShapeError, match="one array"):
        dc.tensor([[1, 2], [3]])
    with pytest.raises(errors.DTypeError):
        dc.tensor(["a"])
    with pytest.raises(errors.DTypeError, match="complex"):
        dc.tensor(np.ones(2, complex))


@pytest.mark.parametrize(
    "made, expected",
    [
        (lambda b: dc.zeros(2, 3, backend=b), np.zeros((2, 3), "f")),
        (lambda b: dc.ones((2,), dtype="int64", backend=b), np.ones(2, int)),
        (lambda b: dc.full((2, 2), 7, backend=b), np.full((2, 2), 7)),
        (lambda b: dc.full(3, 0.5, backend=b), np.full(3, 0.5, "f")),
        (lambda b: dc.arange(5, backend=b), np.arange(5)),
        (lambda b: dc.arange(1, 2, 0.25, backend=b), np.arange(1, 2, 0.25, "f")),
        (lambda b: dc.arange(5, 0, -2, backend=b), np.array([5, 3, 1])),
        (lambda b: dc.arange(3, 3, backend=b), np.array([], int)),
        (lambda b: dc.linspace(0, 1, 5, backend=b), np.linspace(0, 1, 5, dtype="f")),
        (lambda b: dc.eye(2, 3, backend=b), np.eye(2, 3, dtype="f")),
        (lambda b: dc.full_like(dc.zeros(2, backend=b), 3.0), np.full(2, 3.0, "f")),
        (lambda b: dc.ones_like(dc.arange(2, backend=b)), np.ones(2, int)),
    ],
)
def test_factories(made, expected, backend):
    t = made(backend)
    np.testing.assert_array_equal(t.numpy(), expected)
    assert t.dtype == expected.dtype and t.backend == backend


@pytest.mark.parametrize(
    "wrong, error",
    [
        (lambda: dc.zeros(-1), errors.ShapeError),
        (lambda: dc.zeros(1.5), errors.ArgumentError),
        (lambda: dc.arange(0, 1, 0), errors.ArgumentError),
        (lambda: dc.arange(3, 1), errors.ArgumentError),
        (lambda: dc.zeros(2, dtype="float31"), errors.DTypeError),
        (lambda: dc.ones(2).item(), errors.ShapeError),
        (lambda: bool(dc.ones(2)), errors.ShapeError),
        (lambda: len(dc.tensor(1.0)), errors.ShapeError),
        (lambda: iter(dc.tensor(1.0)), errors.ShapeError),
        (lambda: dc.ones(2)[5], errors.IndexRangeError),
        (lambda: dc.ones(2)[0, 0], errors.IndexRangeError),
        (lambda: dc.ones(2)["a"], errors.DTypeError),
        (lambda: dc.ones(2)[dc.tensor([2])], errors.IndexRangeError),
        (lambda: dc.ones(2, 3).reshape(5), errors.ShapeError),
        (lambda: dc.ones(2) + dc.ones(3), errors.ShapeError),
        (lambda: dc.ones(2) @ dc.ones(3), errors.ShapeError),
        (lambda: dc.ones(2, 2) @ dc.ones(2, 2).double(), errors.DTypeError),
        (lambda: dc.ones(2).sum(3), errors.IndexRangeError),
        (lambda: dc.ones(2).gather(0, dc.tensor([7])), errors.IndexRangeError),
        (lambda: dc.ones(2) + "a", errors.DTypeError),
        (lambda: dc.einsum("ij,jk->ik", dc.ones(2, 3), dc.ones(2, 3)), errors.ShapeError),
    ],
)
def test_bad_input_is_a_typed_error_that_names_this_line(wrong, error):
    with pytest.raises(error) as caught:
        wrong()
    assert "test_tensor.py" in str(caught.value)


REFUSED = """
    dc.sum(a) dc.sum([1,2]) dc.mean(2.5) dc.reshape(a,(3,2)) dc.softmax(None,1) dc.cat(3) dc.cat(None) dc.hstack([t,1])
    dc.tensor([2**63]) dc.full((2,),'x') dc.full((2,),None) dc.full((2,),2**70) dc.arange('x') dc.linspace('a',1,2)
    dc.from_dlpack(3) dc.zeros_like(a) dc.ones_like(5) t.size(9) t.stride(9) t.split('x') t.split(1.5) t.chunk(1.5)
    t.unflatten(0,3) t.unflatten(0,(3,-1)) t.unflatten(0,(-1,-1)) t.fill_('x') t.__setitem__(0,'x') t.masked_fill(t>1,'x')
    dc.ones(2,dtype=int).__setitem__(0,2**70) dc.broadcast_tensors(t,dc.ones(7)) t.masked_select(dc.ones(7)>1)
    t.fill_(None) dc.einsum(5,t) n//0 n%n n.div(0,rounding_mode='trunc') dc.fmod(n,0) dc.autograd.grad(5,t) dc.autograd.grad(t,5) dc.autograd.grad(t,t,3.0)
"""


@pytest.mark.parametrize("call", REFUSED.split())
def test_wrong_arguments_are_typed_errors(call):
    with pytest.raises(errors.DeepcoreError):
        eval(call, {"dc": dc, "n": dc.tensor([3, 0]), "t": dc.ones(2, 3), "a": np.ones((2, 3))})


def test_a_chain_of_views_takes_linear_time_and_still_reaches_its_base():
    base = dc.tensor([1.0, 2.0], requires_grad=True) * 1
    view = base
    for _ in range(20_000):
        view = view[:]
    kept = [base[:1] for _ in range(1000)]  # all alive: the base looks through them now and then, not each time
    assert len(base.storage().views) < 1100
    view[:1] = 5.0
    assert base.tolist() == [5.0, 2.0] and kept[0].item() == 5.0


def test_reading_values():
    t = dc.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert t.tolist() == [[1.0, 2.0], [3.0, 4.0]] and t[1, 0].item() == 3.0 and float(t[0, 0]) == 1.0
    assert len(t) == 2 and [r.tolist() for r in t] == [[1.0, 2.0], [3.0, 4.0]] and 4.0 in t and 5.0 not in t
    assert t.size() == (2, 2) and t.size(0) == 2 and t.numel() == 4 and t.dim() == 2 and t.stride() == (2, 1)
    assert [10, 20, 30][dc.tensor(1)] == 20
    assert f"{t[0, 1]:.3f}" == "2.000"


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickle_and_deepcopy(protocol, backend):
    t = dc.tensor([1.0, 2.0], backend=backend, requires_grad=True)
    (t * 3).sum().backward()
    for other in (pickle.loads(pickle.dumps(t, protocol)), copy.deepcopy(t)):
        assert other.tolist() == [1.0, 2.0] and other.requires_grad and other.backend == backend
    assert copy.deepcopy(t).grad.tolist() == [3.0, 3.0]
    with pytest.raises(errors.GradientError):
        copy.deepcopy(t * 2)


def test_numpy_reads_tensors_without_a_copy():
    t = dc.zeros(3)
    np.asarray(t)[0] = 4
    assert t[0].item() == 4
    assert np.array(t, dtype="float64").dtype == np.float64
    with pytest.raises(errors.GradientError):
        np.asarray(t.requires_grad_())


def test_a_tensor_of_another_backend_is_not_converted(backend):
    t = dc.zeros(3, backend=backend)
    if backend == "cpu":
        pytest.skip("the CPU's arrays are NumPy's")
    with pytest.raises(errors.BackendError, match=r"t\.numpy"):
        np.asarray(t)
    with pytest.raises(errors.BackendError, match="two backends"):
        t + dc.zeros(3, backend="cpu")


def test_numpy_operators_leave_the_work_to_the_tensor():
    t = dc.tensor([1.0, 2.0], requires_grad=True)
    for out in (np.array([2.0, 3.0], "f") * t, np.multiply(t, 2.0), np.add(np.ones(2, "f"), t), np.sum(t)):
        assert isinstance(out, dc.Tensor) and out.requires_grad
    assert (np.array([[1.0, 2.0]], "f") @ t).tolist() == [5.0]
    with pytest.raises(errors.ArgumentError, match="fft"):
        np.fft.fft(t)


# NumPy's functions of a tensor a and a matrix m beside it, where NumPy and PyTorch differ and where they do not.
NUMPY = """
    sum(a) sum(a,0) sum(a,axis=(0,1),keepdims=True) sum(a,dtype="f") prod(a) mean(a,-1) max(a,axis=0) amax(a,(0,1))
    min(a,axis=1,keepdims=True) var(a) var(a,axis=0,ddof=1) std(a,0) argmax(a) argmin(a,1) any(a>1) all(a>1,axis=0)
    count_nonzero(a) cumsum(a) cumsum(a,axis=0) sort(-a) sort(-a,axis=0) sort(-a,None) argsort(-a) size(a) size(a,0)
    ndim(a) shape(a) reshape(a,(3,2)) reshape(a,6) ravel(a) transpose(a) transpose(a,(1,0)) swapaxes(a,0,1)
    moveaxis(a,0,1) squeeze(a[None]) expand_dims(a,0) expand_dims(a,(0,2)) broadcast_to(a,(4,2,3)) atleast_2d(a[0])
    flip(a) flip(a,0) roll(a,1) roll(a,1,axis=0) tile(a,2) tile(a,(2,1)) repeat(a,2) repeat(a,2,axis=0)
    repeat(a,[1,2],axis=0) split(a,2) split(a,3,axis=1) split(a,[1],axis=1) concatenate([a,m],axis=1)
    concatenate((a,m),axis=None) stack([a,m],axis=-1) vstack([a,m]) hstack([a,m]) pad(a,1) pad(a,(1,2))
    pad(a,((1,0),(0,2))) pad(a,((1,2),)) tril(a) triu(a,1) where(a>1,a,0.0) where(a>1) nonzero(a) round(a,1) round(a)
    clip(a,1,3) clip(a,None,3) clip(a,a_min=1,a_max=2) take(a,[0,1]) take(a,[0,1],axis=1)
    take_along_axis(a,np.array([[0],[1]]),axis=1) dot(a,m.T) dot(a[0],m[0]) dot(a,2.0) dot(a,m[0]) inner(a,m)
    outer(a,m) vdot(a,m) tensordot(a,m.T,1) tensordot(a,m) tensordot(a,m,((1,),(1,))) einsum("ij,kj->ik",a,m)
    zeros_like(a) ones_like(a,dtype="f") full_like(a,3.0) copy(a) allclose(a,m) isclose(a,a) array_equal(a,a)
    maximum(m,a) hypot(a,m) power(a,2) logical_and(a>1,m>1) divide(m,a) float64(2)*a
"""


@pytest.mark.parametrize("call", NUMPY.split())
def test_numpy_functions_keep_their_meaning(call):
    a, m = np.arange(6.0).reshape(2, 3) + 0.5, np.arange(6.0).reshape(2, 3) ** 2
    want = eval(f"np.{call}", {"np": np, "a": a, "m": m})
    try:
        got = eval(f"np.{call}", {"np": np, "a": dc.as_tensor(a), "m": m})
    except errors.ArgumentError as error:
        assert "hypot" in call and "no counterpart" in str(error)
        return
    lists = isinstance(want, (list, tuple)) and not isinstance(got, dc.Tensor)
    for x, y in zip(got, want) if lists else [(got, want)]:
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-14)
    assert not lists or len(got) == len(want)


def test_numpy_functions_are_recorded():
    def f(a):
        parts = np.split(np.repeat(np.flip(a), 2, axis=0), 2)
        return np.sum(np.tensordot(parts[0], np.sort(parts[1]).T, 1)) + np.max(a, axis=0)[1] * np.linalg.norm(
            [3.0, 4.0]
        )

    assert dc.autograd.gradcheck(f, dc.tensor(np.arange(6.0).reshape(2, 3) + 0.5, requires_grad=True))


@pytest.mark.parametrize(
    "call",
    ["linalg.inv(a)", "sum(a,where=a>1)", "max(a,initial=3)", "exp(a,dtype='f')", "add.reduce(a)", "add(a,a,out=m)"],
)
def test_what_numpy_functions_cannot_do_is_refused(call):
    with pytest.raises(errors.ArgumentError, match=call.partition("(")[0].partition(".")[0]):
        eval(f"np.{call}", {"np": np, "a": dc.ones(2, 2), "m": np.ones((2, 2))})


def test_dlpack():
    t = dc.from_dlpack(np.arange(3.0))
    assert t.tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(np.from_dlpack(dc.arange(3)), np.arange(3))
    torch = pytest.importorskip("torch")
    shared = torch.from_dlpack(t)
    shared[0] = 9
    assert t[0].item() == 9.0
    with pytest.raises(errors.GradientError):
        t.requires_grad_().__dlpack__()


PRINTED = [
    (np.float32(3.5), "tensor(3.5000)"),
    (np.array([1.0, 2.0], "f"), "tensor([1., 2.])"),
    (np.array([[1.5, -2.25]], "f"), "tensor([[ 1.5000, -2.2500]])"),
    (np.array([1e-5, 1.0], "f"), "tensor([1.0000e-05, 1.0000e+00])"),
    (np.array([True, False]), "tensor([ True, False])"),
    (np.array([np.nan, 1.0, -np.inf], "f"), "tensor([nan, 1., -inf])"),
    (np.zeros((0, 3), "f"), "tensor([], size=(0, 3))"),
    (np.array([1, 2], np.int32), "tensor([1, 2], dtype=dc.int32)"),
]


@pytest.mark.parametrize("array, text", PRINTED)
def test_printing(array, text):
    assert repr(dc.tensor(array)) == text


def test_printing_names_what_matters(backend):
    t = dc.tensor([1.0], backend=backend, requires_grad=True)
    where = "" if backend == "cpu" else f", backend='{t.backend}'"
    assert repr(t) == f"tensor([1.]{where}, requires_grad=True)"
    assert repr(t * 2) == f"tensor([2.]{where}, grad_fn=<MulBackward>)"


def test_printing_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [a for a, _ in PRINTED]
    arrays += [rng.standard_normal(s) * 10.0**e for s in [(3, 4), (2, 2, 2), (50, 50), (1500,)] for e in (-6, 0, 3)]
    arrays += [np.arange(2000.0), np.arange(12).reshape(3, 4) * 1000, rng.standard_normal((30, 4, 11)).astype("f")]
    for a in arrays:
        assert repr(dc.tensor(a)) == repr(torch.tensor(a)).replace("torch.", "dc.")


def test_a_dtype_is_one_object():
    """Ops compare dtypes by identity first; a dtype that is equal but another object would take the long way round."""
    layer = dc.nn.Linear(2, 3)
    big_endian = dc.tensor(np.ones(3, ">f4"))
    for t in (
        dc.zeros(3),
        dc.ones(2, dtype="float32"),
        layer.weight,
        layer.bias,
        dc.randn(3),
        big_endian,
        dc.zeros(2) + 1,
    ):
        assert t.dtype is dc.float32
    assert dc.arange(3).dtype is dc.int64 and dc.zeros(2, dtype=float).dtype is dc.float32
