"""Making tensors, reading them, printing them, and handing them to other libraries."""

from __future__ import annotations

import array
import copy
import operator
import pickle

import ml_dtypes
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
    assert dc.tensor(np.ones(2, complex)).dtype == dc.complex128


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
    dc.sum([1,2]) dc.mean(2.5) dc.reshape([1,2],(2,1)) dc.softmax(None,1) dc.cat(3) dc.cat(None) dc.hstack([t,1])
    dc.tensor([2**63]) dc.full((2,),'x') dc.full((2,),None) dc.full((2,),2**70) dc.arange('x') dc.linspace('a',1,2)
    dc.from_dlpack(3) dc.zeros_like(a) dc.ones_like(5) t.size(9) t.stride(9) t.split('x') t.split(1.5) t.chunk(1.5)
    t.unflatten(0,3) t.unflatten(0,(3,-1)) t.unflatten(0,(-1,-1)) t.fill_('x') t.__setitem__(0,'x') t.masked_fill(t>1,'x')
    dc.ones(2,dtype=int).__setitem__(0,2**70) dc.broadcast_tensors(t,dc.ones(7)) t.masked_select(dc.ones(7)>1)
    t.fill_(None) dc.einsum(5,t) n//0 n%n n.div(0,rounding_mode='trunc') dc.fmod(n,0) dc.autograd.grad(5,t) dc.autograd.grad(t,5) dc.autograd.grad(t,t,3.0)
    dc.Tensor(2.5) dc.Tensor('x') dc.Tensor((1,2)) dc.Tensor(a,3) dc.Tensor(2,-1) dc.Tensor({1}) dc.FloatTensor(t,t)
    t+[1.,2.,3.] [1.,2.,3.]*t t==[1,2,3] t@[1,2,3] [1,2]@t dc.cat([[1.],[2.]]) t.to(None,dtype='f5') t.astype(None)
    dc.arange(3,dtype=bool) dc.arange(0.5,2,0.5,dtype=int) dc.tensor({1,2}) dc.tensor(iter([1])) dc.tensor([None,1.0])
"""


@pytest.mark.parametrize("call", REFUSED.split())
def test_wrong_arguments_are_typed_errors(call):
    with pytest.raises(errors.DeepcoreError):
        eval(call, {"dc": dc, "n": dc.tensor([3, 0]), "t": dc.ones(2, 3), "a": np.ones((2, 3))})


LEGACY = """
    t.Tensor(2,3).shape t.Tensor(2,3,4,5,6,7).shape t.Tensor(3,0).shape t.Tensor() t.Tensor([1,2]) t.Tensor(a) t.Tensor(t.ones(3))
    t.FloatTensor([[1,2]]) t.FloatTensor(a) t.DoubleTensor(a) t.HalfTensor([1.5]) t.BFloat16Tensor([1.5]) t.LongTensor([1,2])
    t.LongTensor(4).shape t.IntTensor([-1]) t.ShortTensor([7]) t.CharTensor([7]) t.ByteTensor([255]) t.BoolTensor([True])
    t.ones(2).type(t.LongTensor) isinstance(t.ones(2),t.FloatTensor) isinstance(t.ones(2),t.LongTensor)
    isinstance(3,t.FloatTensor) list(reversed(t.arange(3))) t.relu_(t.arange(3)-1) t.clamp_(t.arange(5.),1,3)
"""


@pytest.mark.parametrize("call", LEGACY.split())
def test_older_ways_to_make_a_tensor_as_pytorch(call):
    torch = pytest.importorskip("torch")
    array = np.arange(4.0)
    ours, theirs = (eval(call, {"t": library, "a": array}) for library in (dc, torch))
    if isinstance(theirs, torch.Tensor):
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        ours, theirs = ours.tolist(), theirs.tolist()
    elif isinstance(theirs, list):
        ours, theirs = [int(x) for x in ours], [int(x) for x in theirs]
    assert ours == theirs or tuple(ours) == tuple(theirs)


def test_a_tuple_may_be_a_size_or_data():
    with pytest.raises(errors.ArgumentError, match=r"dc\.empty"):
        dc.Tensor(dc.ones(2, 3).shape)


def test_switches_of_other_libraries_are_accepted():
    import deepcore.backends.cudnn as cudnn

    cudnn.benchmark = True
    dc.backends.cuda.matmul.allow_tf32 = True
    assert not dc.backends.mps.is_available() and dc.backends.cudnn is cudnn
    with pytest.raises(errors.ArgumentError, match="benchmark"):
        cudnn.benchmrk = False
    before = dc.get_float32_matmul_precision()
    dc.set_float32_matmul_precision("high")
    assert dc.get_float32_matmul_precision() == "high"
    dc.set_float32_matmul_precision(before)
    with pytest.raises(errors.ArgumentError, match="highest"):
        dc.set_float32_matmul_precision("low")


inf, nan = float("inf"), float("nan")
u8, i8, u16, i32, i64, u64 = dc.uint8, dc.int8, dc.uint16, dc.int32, dc.int64, dc.uint64
f16, bf16, f32, f64 = dc.float16, dc.bfloat16, dc.float32, dc.float64

# A number, a dtype, and what it is in there; None: it does not fit.
NUMBERS = [
    (255, u8, 255), (256, u8, None), (-1, u8, None), (127, i8, 127), (-128, i8, -128), (128, i8, None), (-129, i8, None),
    (255.9, u8, 255), (256.0, u8, None), (-0.9, u8, 0), (-1.0, u8, None), (1.7, i64, 1), (-1.7, i64, -1),
    (2.0**63, i64, None), (-(2.0**63), i64, -(2**63)), (2**63 - 1, i64, 2**63 - 1), (2**63, i64, None), (2**63, u64, 2**63),
    (2.0**31, i32, None), (-(2.0**31), i32, -(2**31)), (2**70, i64, None), (2**64, u64, None), (-1, u64, None),
    (nan, i64, None), (inf, u8, None), (-inf, i32, None), (nan, bool, True), (7, bool, True),
    (65519.0, f16, 65504.0), (65520.0, f16, None), (70000, f16, None), (-1e5, f16, None), (inf, f16, inf), (-inf, bf16, -inf),
    (3.39e38, bf16, 2.0**127 * (2 - 2**-7)), (3.4e38, bf16, None), (1e39, f32, None), (-1e300, f32, None), (1e300, f64, 1e300),
    (2**100, f32, 2.0**100), (10**400, f64, None), (10**5000, f32, None), (10**400, i64, None), (1e-300, f32, 0.0),
]  # fmt: skip

WAYS = {
    "number": lambda v, d, b: dc.tensor(v, dtype=d, backend=b),
    "list": lambda v, d, b: dc.tensor([0, v], dtype=d, backend=b)[1],
    "as_tensor": lambda v, d, b: dc.as_tensor([[v]], dtype=d, backend=b)[0, 0],
    "array": lambda v, d, b: dc.tensor(np.array([0, v]), dtype=d, backend=b)[1],
    "new_tensor": lambda v, d, b: dc.zeros(2, dtype=d, backend=b).new_tensor([v])[0],
    "full": lambda v, d, b: dc.full((2,), v, dtype=d, backend=b)[1],
    "full_like": lambda v, d, b: dc.full_like(dc.zeros(2, dtype=d, backend=b), v)[1],
    "fill_": lambda v, d, b: dc.zeros(2, dtype=d, backend=b).fill_(v)[1],
    "constant_": lambda v, d, b: dc.nn.init.constant_(dc.zeros(2, dtype=d, backend=b), v)[1],
    "item": lambda v, d, b: _set(dc.zeros(2, dtype=d, backend=b), 1, v)[1],
    "copy_": lambda v, d, b: dc.zeros(2, dtype=d, backend=b).copy_([0, v])[1],
    "masked_fill": lambda v, d, b: dc.zeros(2, dtype=d, backend=b).masked_fill(dc.tensor([True, True], backend=b), v)[
        1
    ],
    "pad": lambda v, d, b: dc.nn.functional.pad(dc.zeros(2, dtype=d, backend=b), (1, 0), value=v)[0],
}


def _set(t, index, value):
    t[index] = value
    return t


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_the_dtype_cannot_hold_raises(way, backend):
    for value, dtype, expected in NUMBERS:
        if way == "array" and isinstance(value, int) and not -(2**63) <= value < 2**64:
            continue  # no NumPy array holds it
        if backend != "cpu" and dtype == bf16 and way == "pad":
            continue
        if expected is None:
            with pytest.raises(errors.DTypeError, match="does not fit dtype"):
                WAYS[way](value, dtype, backend)
        else:
            got = WAYS[way](value, dtype, backend)
            assert got.dtype == dc.backend.dtypes.as_dtype(dtype) and got.item() == expected, (value, dtype)


def test_numpys_numbers_are_on_no_device(backend):
    x = dc.arange(6.0, backend=backend).reshape(2, 3)
    assert x[np.int64(1), np.int32(-1)].item() == 5 and x[:, np.int64(0)].tolist() == [0, 3]
    assert x[np.bool_(True)].shape == (1, 2, 3) and x[..., np.uint8(1)].tolist() == [1, 4]
    x[np.int64(0), np.int64(2)] = np.float32(7)
    for got, expected in (
        (np.float32(2) * x, x * 2),
        (np.int64(1) - x, 1 - x),
        (np.maximum(np.float32(3), x), x.clamp(3)),
    ):
        assert got.dtype == f32 and got.backend is x.backend and got.tolist() == expected.tolist()
    assert (np.float64(7) == x).sum().item() == 1


def test_an_array_beside_the_edge_names_the_element_and_leaves_infinities(backend):
    data = np.zeros((3, 4))
    data[1, 2], data[2, 0] = inf, nan
    assert dc.tensor(data, dtype=f32, backend=backend)[1].tolist() == [0, 0, inf, 0]
    data[2, 3] = -1e39
    with pytest.raises(errors.DTypeError, match=r"(?s)-1e\+39 at \[2, 3\].*float64 holds it"):
        dc.tensor(data, dtype=f32, backend=backend)
    with pytest.raises(errors.DTypeError, match=r"(?s)300 at \[1\].*int16 holds it"):
        _set(dc.zeros(2, dtype=u8, backend=backend), slice(None), [1, 300])
    with pytest.raises(errors.DTypeError, match=r"(?s)1e\+300 at \[1\].*float64"):
        dc.tensor([0.0, 1e300], backend=backend)
    with pytest.raises(errors.DTypeError, match=r"(?s)9223372036854775808 at \[1, 0\].*uint64"):
        dc.tensor([[1], [2**63]], backend=backend)


@pytest.mark.parametrize(
    "call",
    """
    b+300 300-b b*-1 b.add(b,alpha=300) b//300 b%256 b&256 b**300 b.clamp(0,300) b.clamp(max=-1) dc.maximum(b,300)
    dc.where(b>1,b,300) b+np.int64(300) b.__iadd__(300) x*1e300 x.clamp(max=1e300) dc.where(x>1,x,-1e300) x+10**400
    dc.arange(300,dtype=dc.uint8) dc.arange(-3,3,dtype=dc.uint8) dc.arange(69990,70000,dtype=dc.float16)
    dc.arange(2**70,2**70+2) dc.linspace(0,300,4,dtype=dc.uint8) dc.linspace(0,nan,3,dtype=int)
    b.full_like(300) dc.full((2,),np.uint8(200),dtype=dc.int8)
    """.replace("b.full_like(300)", "dc.full_like(b,300)").split(),
)
def test_numbers_beside_tensors_fit_their_dtype_or_raise(call, backend):
    names = {"dc": dc, "np": np, "nan": nan, "b": dc.tensor([1, 2], dtype=u8, backend=backend)}
    names["x"] = dc.tensor([1.0, 2.0], backend=backend)
    with pytest.raises(errors.DTypeError, match="does not fit dtype"):
        eval(call, names)


def test_a_numpy_number_leaves_no_wrapped_constant_behind(backend):
    t = dc.tensor([1, 2], dtype=i8, backend=backend)
    for number in (np.uint8(200), 200):
        with pytest.raises(errors.DTypeError):
            t + number
    assert (dc.tensor([1], dtype=u8, backend=backend) + np.int64(200)).tolist() == [201]
    assert t.masked_fill(t > 1, np.int64(5)).tolist() == [1, 5]


@pytest.mark.parametrize(
    "number, dtype",
    [(np.int64(3), "uint8"), (np.float32(1.5), "float32"), (np.float16(1.5), "float32"), (np.bool_(True), "uint8")],
)
def test_numpy_numbers_promote_like_python_s(number, dtype):
    assert (dc.tensor([1], dtype=u8) + number).dtype == dtype
    assert dc.full((1,), number).dtype == dc.full((1,), number.item()).dtype


@pytest.mark.parametrize("number", [300, -1, 257, 2**70, -(2**70), 1.5, inf, -inf, pytest.param(10**400, id="huge")])
@pytest.mark.parametrize("dtype", [u8, i64, f32])
def test_comparisons_with_numbers_beyond_the_dtype_are_exact(number, dtype, backend):
    values = [1, 2, 0]
    t = dc.tensor(values, dtype=dtype, backend=backend)
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        wanted = [getattr(operator, name)(v, number) for v in values]
        assert getattr(operator, name)(t, number).tolist() == wanted
        assert getattr(operator, name)(number, t).tolist() == [getattr(operator, name)(number, v) for v in values]
    if dtype == f32:
        assert (dc.tensor([inf, -inf], backend=backend) == 1e300).tolist() == [False, False]


def test_casts_between_tensors_keep_pytorch_s_bits():
    torch = pytest.importorskip("torch")
    for values, dtype in (([300, -1], "uint8"), ([2**40 + 5], "int32"), ([300.0, -1.0], "uint8")):
        expected = torch.tensor(values).to(getattr(torch, dtype)).tolist()
        t = dc.tensor(values)
        assert t.to(dtype).tolist() == dc.as_tensor(t, dtype=dtype).tolist() == expected
        assert dc.zeros(len(values), dtype=dtype).copy_(t).tolist() == expected


@pytest.mark.parametrize("dtype", [i8, u8, i64])
def test_whole_numbers_round_to_tens(dtype, backend):
    values = [15, 25, 35, 14, 16, 5, 0, 99] + ([-15, -25, -5, -16] if dtype != u8 else [])
    t = dc.tensor(values, dtype=dtype, backend=backend)
    assert t.round(decimals=-1).tolist() == [round(v, -1) for v in values]
    assert t.round(decimals=-2).tolist() == [round(v, -2) for v in values]
    assert t.round(decimals=1).tolist() == values and t.round(decimals=-1).dtype == dtype
    with pytest.raises(errors.ArgumentError, match="multiples"):
        t.round(decimals=-20)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    for decimals in (1, 2):  # the next multiple may lie outside the dtype
        unit = 10**decimals
        ends = dc.tensor([least, most], dtype=dtype, backend=backend).round(decimals=-decimals).tolist()
        expected = [
            min(max(round(int(v), -decimals), -(-least // unit) * unit), most // unit * unit) for v in (least, most)
        ]
        assert ends == expected
    exact = 2**62 + 5
    assert dc.tensor([exact], backend=backend).round(decimals=-1).tolist() == [round(exact, -1)]


def test_whole_numbers_to_a_negative_power(backend):
    t = dc.tensor([2, 1], backend=backend)
    for call in (lambda: t**-1, lambda: dc.pow(t, -2), lambda: t.clone().pow_(-1), lambda: t ** np.int64(-1)):
        with pytest.raises(errors.ArgumentError, match=r"x\.float\(\) \*\* -"):
            call()
    assert (t**-1.0).tolist() == [0.5, 1.0] and (t.float() ** -1).tolist() == [0.5, 1.0]
    assert (t ** dc.tensor([-1, -1], backend=backend)).tolist() == [0, 1]


def test_masked_arrays_keep_their_mask_or_raise():
    masked, whole = np.ma.array([1.0, 2.0], mask=[False, True]), np.ma.array([1.0, 2.0])
    t = dc.ones(2, dtype=f64)
    for call in (dc.tensor, dc.as_tensor, lambda m: dc.tensor([m]), lambda m: t + m, lambda m: _set(t, 0, m), dc.sum):
        with pytest.raises(errors.DTypeError, match=r"(?s)1 masked of 2.*filled\(value\)"):
            call(masked)
    assert dc.tensor(whole).tolist() == [1.0, 2.0] and dc.tensor(masked.filled(7)).tolist() == [1.0, 7.0]


@pytest.mark.parametrize(
    "make", [dc.tensor, dc.as_tensor, dc.from_numpy, lambda a: pickle.loads(pickle.dumps(dc.tensor(a)))]
)
@pytest.mark.parametrize("dtype", [dc.float32, dc.float64, dc.int64, dc.bfloat16])
def test_the_dtype_of_a_tensor_is_one_object(make, dtype):
    # Kernels compare dtypes by identity; arrays that were unpickled or have a byte order's name hold other objects.
    plain = np.ones((2, 3), dtype)
    for other in (pickle.loads(pickle.dumps(plain)), plain.view(plain.dtype.newbyteorder("<"))):
        made = make(other)
        assert made.dtype is dtype
        assert made.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_an_index_out_of_range_is_called_an_index():
    with pytest.raises(errors.IndexRangeError, match=r"^index: index 5 is out of bounds"):
        dc.zeros(3)[5]


def test_masks_are_not_lost_where_arrays_and_numbers_are_read(tmp_path):
    masked, places = np.ma.array([1.0, 2.0], mask=[False, True]), np.ma.array([0, 1], mask=[False, True])
    for call in (
        lambda: dc.from_dlpack(masked),
        lambda: dc.save({"a": masked}, tmp_path / "a.safetensors"),
        lambda: dc.metrics.accuracy(dc.ones(2, 2), places),
        lambda: dc.data.Subset("ab", places),
        lambda: dc.data.DataLoader([1, 2], sampler=places),
        lambda: dc.full((2,), np.ma.masked),
        lambda: dc.ones(2).fill_(np.ma.masked),
        lambda: dc.arange(np.ma.masked),
    ):
        with pytest.raises(errors.DTypeError, match=r"(?s)1 masked of.*filled\(value\)"):
            call()
    assert list(dc.data.Subset("ab", np.ma.array([1, 0]))) == ["b", "a"]


def test_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    for make in (dc.tensor, dc.as_tensor, dc.from_dlpack):
        t = make(half)
        assert t.dtype == bf16 and t.tolist() == [1.5, -2.0]
    assert dc.tensor([half, half]).tolist() == [[1.5, -2.0]] * 2
    source = torch.arange(3.0)
    shared, copied = dc.as_tensor(source), dc.tensor(source)
    source[0] = 9
    assert shared.tolist() == [9.0, 1.0, 2.0] and copied.tolist() == [0.0, 1.0, 2.0]
    shared[1] = 5.0
    assert source.tolist() == [9.0, 5.0, 2.0]
    for make in (dc.tensor, dc.as_tensor, dc.from_dlpack):
        with pytest.raises(errors.GradientError, match="detach"):
            make(torch.ones(2, requires_grad=True))
        with pytest.raises(errors.DTypeError, match="float8"):
            make(torch.ones(2, dtype=torch.float8_e4m3fn))
    with pytest.raises(errors.DTypeError, match=r"(?s)torch\.Tensor.*dc\.as_tensor"):
        dc.nn.LayerNorm(3)(source)


class Array:
    """An array that other libraries' protocols alone give access to."""

    def __init__(self, array, *protocols):
        for name in protocols:
            setattr(type(self), name, property(lambda self, name=name: getattr(self.array, name)))
        self.array = array

    @classmethod
    def by(cls, array, *protocols):
        return type("Array", (cls,), {})(array, *protocols)


BITS = [1.5, -2.0, 3.0, 4.5]


def bfloat16_of_torch():
    return pytest.importorskip("torch").tensor(BITS).bfloat16()


@pytest.mark.parametrize(
    ("data", "dtype", "values"),
    [
        (lambda: Array.by(np.array(BITS), "__array__"), f64, BITS),
        (lambda: Array.by(np.array(BITS, "f4"), "__array_interface__"), f32, BITS),
        (lambda: Array.by(np.array(BITS, "f4"), "__array__", "dtype", "shape"), f32, BITS),
        (lambda: Array.by(np.array(BITS, bf16), "__array__"), bf16, BITS),
        (lambda: Array.by(np.array(BITS, "f4"), "__dlpack__", "__dlpack_device__"), f32, BITS),
        (lambda: Array.by(bfloat16_of_torch(), "__dlpack__", "__dlpack_device__"), bf16, BITS),
        (lambda: Array.by(bfloat16_of_torch()[::2], "__dlpack__", "__dlpack_device__"), bf16, BITS[::2]),
        (lambda: bfloat16_of_torch().reshape(4, 1)[:, :0], bf16, [[], [], [], []]),
        (lambda: [Array.by(np.array(BITS), "__array__")] * 2, f64, [BITS, BITS]),
        (lambda: pytest.importorskip("pandas").DataFrame({"a": [1], "b": [2.5]}, dtype=object), f64, [[1, 2.5]]),
        (lambda: pytest.importorskip("pandas").Series([1, 2]), dc.int64, [1, 2]),
        (lambda: pytest.importorskip("pandas").DataFrame({"a": [1, 2], "b": [0.5, 3]}), f64, [[1, 0.5], [2, 3]]),
        (lambda: pytest.importorskip("pandas").DataFrame({"a": [True], "b": [3]}), dc.int64, [[1, 3]]),
        (lambda: pytest.importorskip("PIL.Image").new("RGB", (2, 1), (1, 2, 3)), dc.uint8, [[[1, 2, 3], [1, 2, 3]]]),
        (lambda: memoryview(np.arange(3)), dc.int64, [0, 1, 2]),
        (lambda: array.array("d", BITS), f32, BITS),  # as in PyTorch: a sequence
    ],
)
@pytest.mark.parametrize("make", [dc.tensor, dc.as_tensor, dc.asarray])
def test_anything_that_gives_an_array(make, data, dtype, values):
    t = make(data())
    assert t.dtype is dtype and t.tolist() == values
    assert (t + 1).dtype is dtype
    assert make(data(), dtype=dc.float64).tolist() == values


def test_gpu_arrays_of_other_libraries(backend):
    source = dc.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], backend=backend)
    if backend == "cpu":
        return
    for raw in (source.array, source.array.T[1:]):
        for protocols in (("__cuda_array_interface__",), ("__cuda_array_interface__", "dtype", "shape")):
            other = Array.by(raw, *protocols)
            shared, copied = dc.as_tensor(other, backend=backend), dc.tensor(other, backend=backend)
            assert shared.backend == copied.backend == backend and shared.dtype is copied.dtype is f32
            before = shared.tolist()
            assert before == copied.tolist() == raw.tolist()
            raw[0] += 1
            assert shared.tolist() == raw.tolist() and copied.tolist() == before
            with dc.use_backend(backend):
                assert dc.as_tensor(other).backend == backend
                assert dc.tensor(other, backend="cpu").tolist() == raw.tolist()
    assert dc.from_dlpack(source.array).backend == backend


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (
            lambda: pytest.importorskip("pandas").DataFrame({"a": ["x"], "b": [1]}),
            errors.DTypeError,
            "(?s)not str data.*get_dummies",
        ),
        (
            lambda: pytest.importorskip("pandas").Series(["2020-01-01"], dtype="datetime64[ns]"),
            errors.DTypeError,
            "datetime64",
        ),
        (lambda: pytest.importorskip("pandas").Series([1, None], dtype=object), errors.DTypeError, "NoneType"),
        (lambda: pytest.importorskip("pandas").Series([2**70, 1]), errors.DTypeError, "1180591620717411303424"),
        (lambda: np.array([1, None]), errors.DTypeError, "dtype object"),
        (lambda: np.ones(2, ml_dtypes.int4), errors.DTypeError, "int4"),
        (lambda: Array.by(np.ones(2, ml_dtypes.int4), "__array__"), errors.DTypeError, "int4"),
        (lambda: pytest.importorskip("torch").ones(2, device="meta"), errors.BackendError, "meta"),
        (lambda: pytest.importorskip("torch").eye(2).to_sparse(), errors.DTypeError, "strided"),
    ],
)
def test_arrays_that_are_no_tensors(data, error, said):
    for make in (dc.tensor, dc.as_tensor, dc.from_dlpack):
        if make is not dc.from_dlpack or hasattr(data(), "__dlpack__"):
            with pytest.raises(error, match=said):
                make(data())


def test_complex_arrays_of_other_libraries():
    theirs = pytest.importorskip("torch").tensor([1 + 2j])
    for make in (dc.tensor, dc.as_tensor, dc.from_dlpack):
        assert make(theirs).tolist() == [1 + 2j] and make(theirs).dtype == np.complex64
    assert dc.tensor(Array.by(np.array([1 + 2j], object), "__array__")).tolist() == [1 + 2j]


def test_bfloat16_by_dlpack():
    torch = pytest.importorskip("torch")
    t = dc.tensor(BITS, dtype=bf16)
    theirs = torch.from_dlpack(t)
    assert theirs.dtype == torch.bfloat16 and theirs.tolist() == BITS
    theirs[0] = 7
    back = dc.from_dlpack(theirs)
    assert back.dtype is bf16 and back.tolist() == t.tolist() == [7, *BITS[1:]]
    assert torch.from_dlpack(t[::2]).tolist() == [7, 3]
    assert torch.from_dlpack(dc.zeros(2, 0, dtype=bf16)).shape == (2, 0)
    readonly = np.array(BITS, bf16)
    readonly.flags.writeable = False
    for make in (dc.from_dlpack, dc.as_tensor):
        with pytest.raises(errors.GradientError, match="read-only"):
            make(readonly).add_(1)
    assert readonly.tolist() == BITS


@pytest.mark.parametrize("name, dtype", [("f4", f32), (">f4", f32), ("float32", f32), ("float", f32), ("i2", dc.int16)])
def test_names_of_dtypes(name, dtype):
    t, layer = dc.ones(2, dtype=f64), dc.nn.Linear(1, 1, dtype=f64)
    assert t.astype(name).dtype is t.to(name).dtype is t.type(name).dtype is dtype
    if dtype is f32:
        assert layer.to(name).weight.dtype is dtype


def test_a_name_that_is_no_dtype_is_not_taken_for_a_backend():
    with pytest.raises(errors.DTypeError, match="'f5' is not a dtype"):
        dc.ones(2).astype("f5")
    for thing in (dc.ones(2), dc.nn.Linear(1, 1)):
        with pytest.raises(errors.BackendError, match=r"(?s)neither a dtype nor a backend.*'float32'"):
            thing.to("flaot32")


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
    [
        "linalg.eigvals(a)",
        "sum(a,where=a>1)",
        "max(a,initial=3)",
        "exp(a,dtype='f')",
        "add.reduce(a)",
        "add(a,a,out=m)",
    ],
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


@pytest.mark.parametrize(
    "turn, shape",
    [
        (lambda t: t.unsqueeze_(0), (1, 2, 1, 3)), (lambda t: t.squeeze_(), (2, 3)), (lambda t: t.squeeze_(1), (2, 3)),
        (lambda t: t.transpose_(0, 2), (3, 1, 2)), (lambda t: t.swapaxes_(0, 1), (1, 2, 3)),
        (lambda t: t.squeeze_(1).t_(), (3, 2)),
    ],
)  # fmt: skip
def test_a_tensor_becomes_its_own_view(turn, shape, backend):
    t = dc.arange(6, backend=backend).reshape(2, 1, 3).clone()
    before, memory = t.tolist(), t.view(6)
    assert turn(t) is t and t.shape == shape and sorted(t.flatten().tolist()) == list(range(6))
    memory[0] = 9  # the same memory
    assert 9 in t.flatten().tolist() and before[0][0][0] == 0
    leaf = dc.ones(2, 1, 3, requires_grad=True, backend=backend)
    with pytest.raises(errors.GradientError, match=r"t = t\.(un)?(squeeze|transpose|swapaxes)"):
        turn(leaf)


def test_a_shape_changed_inside_a_compiled_function():
    pytest.importorskip("numba")

    @dc.compile
    def f(x):
        y = x * 2.0
        y.unsqueeze_(0)
        return y + 1.0

    with pytest.warns(errors.DeepcoreWarning, match="changes its shape"):
        results = [f(dc.ones(3) * n) for n in range(4)]
    assert [r.tolist() for r in results] == [[[2.0 * n + 1] * 3] for n in range(4)]


def test_logspace(backend):
    assert dc.logspace(0, 2, 3, dtype=dc.int64, backend=backend).tolist() == [1, 10, 100]
    np.testing.assert_allclose(dc.logspace(-2, 2, 5, 2.0, backend=backend).tolist(), [0.25, 0.5, 1, 2, 4], rtol=1e-6)
    assert dc.logspace(3, 0, 0).shape == (0,) and dc.logspace(3, 0, 1).tolist() == [1000.0]
