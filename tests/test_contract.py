"""What PyTorch's users type on tensors and dtypes, against PyTorch: names, conversions, printing, keywords."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors
from deepcore.backend import dtypes as dt

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "int8", "int16", "int32", "int64")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def default_dtype():
    yield
    dc.set_default_dtype(dc.float32)


# -- dtypes ------------------------------------------------------------------------------------------------------------
def test_aliases_of_dtypes(torch):
    for alias in ("float", "double", "half", "long", "int", "short", "bool", "bfloat16", "uint8"):
        ours, theirs = getattr(dc, alias), getattr(torch, alias)
        assert f"torch.{dt.name_of(ours)}" == str(theirs) and isinstance(ours, dc.dtype)
    assert dc.float is dc.float32 and dc.long is dc.int64 and not isinstance(float, dc.dtype)


@pytest.mark.parametrize("name", FLOATS)
def test_finfo(name, torch):
    ours, theirs = dc.finfo(getattr(dc, name)), torch.finfo(getattr(torch, name))
    for field in ("bits", "eps", "max", "min", "tiny", "smallest_normal", "resolution", "dtype"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert repr(ours) == repr(theirs)
    assert dc.full((1,), ours.max, dtype=getattr(dc, name)).item() == ours.max


@pytest.mark.parametrize("name", INTEGERS)
def test_iinfo(name, torch):
    ours, theirs = dc.iinfo(getattr(dc, name)), torch.iinfo(getattr(torch, name))
    assert (ours.bits, ours.max, ours.min, ours.dtype) == (theirs.bits, theirs.max, theirs.min, theirs.dtype)
    assert repr(dc.iinfo(dc.int8)) == repr(torch.iinfo(torch.int8))


def test_limits_of_the_other_kind():
    with pytest.raises(TypeError, match=r"dc\.iinfo\(dc\.int8\)"):
        dc.finfo(dc.int8)
    with pytest.raises(TypeError, match=r"dc\.finfo\(dc\.float32\)"):
        dc.iinfo(dc.float32)
    with pytest.raises(TypeError, match="an integer dtype"):
        dc.iinfo(dc.bool)


def test_the_default_dtype(default_dtype, backend):
    assert dc.get_default_dtype() is dc.float32 and dc.finfo().dtype == "float32"
    step = dc.compile(lambda x: x * dc.ones(2, device=backend))
    x = dc.ones(2, dtype=dc.int64, device=backend)
    assert step(x).dtype == step(x).dtype == dc.float32
    dc.set_default_dtype(dc.float64)
    for made in (
        dc.tensor(0.1),
        dc.ones(2),
        dc.rand(2),
        dc.linspace(0, 1, 3),
        dc.logspace(0, 1, 3),
        dc.tensor(1) / 2,
        dc.nn.Linear(1, 1).weight,
    ):
        assert made.dtype == dc.float64
    assert dc.tensor(0.1).item() == 0.1 and dc.ones(2, dtype=dc.float32).dtype == dc.float32
    assert step(x).dtype == dc.float64, "a compiled function notices"
    with pytest.raises(TypeError, match="floating"):
        dc.set_default_dtype(dc.int32)


def test_conversions_and_casts(torch):
    methods = ("float", "double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool")
    for method in methods:
        ours, theirs = getattr(dc.tensor([0.0, 1.5, 3.0]), method)(), getattr(torch.tensor([0.0, 1.5, 3.0]), method)()
        assert ours.tolist() == theirs.tolist() and ours.type() == theirs.type().replace("torch", "deepcore")
        assert dc.ones(1).type(ours.type()).dtype == dc.ones(1).type(ours.dtype).dtype == dc.ones(1).type_as(ours).dtype
    every = [*FLOATS, *INTEGERS, "bool"]
    for a in every:
        for b in every:
            expected = torch.can_cast(getattr(torch, a), getattr(torch, b))
            assert dc.can_cast(getattr(dc, a), getattr(dc, b)) == expected, (a, b)
    for pair in (
        (dc.ones(2), 1),
        (dc.ones(2, dtype=dc.int32), 1.5),
        (2, True),
        (dc.tensor(1.0), dc.ones(1, dtype=dc.int64)),
    ):
        theirs = [torch.tensor(p.numpy()) if isinstance(p, dc.Tensor) else p for p in pair]
        assert f"torch.{dt.name_of(dc.result_type(*pair))}" == str(torch.result_type(*theirs)), pair


# -- printing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value, spec", [(3.14159, ".3f"), (3.14159, ""), (2.5, "8.2e"), (7, "d"), (7, "05d"), (True, "d"), (7, "")]
)
def test_numbers_in_f_strings(value, spec, torch, backend):
    assert format(dc.tensor(value, device=backend), spec) == format(torch.tensor(value), spec)


def test_tensors_in_f_strings(torch, backend):
    x = dc.ones(1, device=backend)
    assert f"{x}" == str(x) and f"{dc.ones(2)}" == format(torch.ones(2))
    for spec, shape in ((".2f", (1,)), ("d", (2, 2)), (">10", (2,))):
        for lib in (dc, torch):
            with pytest.raises(TypeError):
                format(lib.ones(*shape), spec)
    loss = dc.nn.Parameter(dc.tensor(2.5)) * 1
    assert f"{loss:.2f}" == "2.50" and f"{dc.nn.Parameter(dc.tensor(2.5)):.1f}" == "2.5"


@pytest.mark.parametrize(
    "options",
    [
        {"precision": 2}, {"threshold": 5, "edgeitems": 1}, {"linewidth": 30}, {"sci_mode": True}, {"sci_mode": False},
        {"profile": "short"}, {"profile": "full"},
    ],
)  # fmt: skip
def test_print_options(options, torch):
    values = [[0.125 * i - 1 for i in range(7)], [1000.0 + i for i in range(7)]]
    try:
        dc.set_printoptions(**options)
        torch.set_printoptions(**options)
        assert repr(dc.tensor(values)) == repr(torch.tensor(values))
    finally:
        dc.set_printoptions(profile="default")
        torch.set_printoptions(profile="default")
    assert repr(dc.tensor([1.5])) == repr(torch.tensor([1.5]))
    with pytest.raises(errors.ArgumentError, match="did you mean 'short'"):
        dc.set_printoptions(profile="shrt")


# -- what a tensor says of itself --------------------------------------------------------------------------------------
VIEWS = {
    "whole": lambda x: x, "part": lambda x: x[1:, 2:], "transposed": lambda x: x.t(), "row": lambda x: x[2],
    "number": lambda x: x[0, 1], "steps": lambda x: x[:, ::2], "copy": lambda x: x[1:].clone(),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_memory(name, torch, backend):
    ours = VIEWS[name](dc.zeros(4, 5, device=backend))
    theirs = VIEWS[name](torch.zeros(4, 5))
    for method in ("stride", "storage_offset", "is_contiguous", "numel", "nelement", "dim", "ndimension", "element_size",
                   "is_floating_point", "is_complex", "dim_order"):  # fmt: skip
        assert getattr(ours, method)() == getattr(theirs, method)(), method
    for field in (
        "nbytes",
        "itemsize",
        "ndim",
        "is_leaf",
        "output_nr",
        "_version",
        "is_sparse",
        "is_quantized",
        "name",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.untyped_storage().nbytes() == theirs.untyped_storage().nbytes()
    offset = ours.data_ptr() - ours.untyped_storage().data_ptr()
    assert offset == theirs.data_ptr() - theirs.untyped_storage().data_ptr()
    assert ours.is_set_to(ours.detach()) and not ours.is_set_to(ours.clone())
    assert ours.dim() != 2 or ours.H.tolist() == theirs.H.tolist()
    assert ours.layout is dc.strided and repr(ours.layout) == "dc.strided"


def test_memory_of_large_results(backend):
    """Those lie in blocks of an allocator, which are no storage."""
    x = dc.ones(600, 1000, device=backend) + 1
    assert x.storage_offset() == 0 and x.untyped_storage().nbytes() == x.nbytes == 2400000
    assert x[3:].storage_offset() == 3000 and x[3:].untyped_storage().data_ptr() == x.data_ptr()


def test_memory_formats(torch):
    for shape, order in (((2, 3, 4, 5), (0, 3, 1, 2)), ((2, 4, 5, 3), (0, 1, 2, 3))):
        ours, theirs = dc.zeros(shape).permute(order), torch.zeros(shape).permute(order)
        for name in ("contiguous_format", "channels_last"):
            found = ours.is_contiguous(memory_format=getattr(dc, name))
            assert found == theirs.is_contiguous(memory_format=getattr(torch, name)), (shape, name)
    x = dc.ones(1, 2, 3, 3)
    for made in (x.to(memory_format=dc.channels_last), x.contiguous(memory_format=dc.channels_last),
                 x.clone(memory_format=dc.preserve_format), dc.zeros_like(x, memory_format=dc.preserve_format)):  # fmt: skip
        assert made.shape == x.shape
    with pytest.raises(TypeError, match=r"memory_format is one of dc\.contiguous_format"):
        x.to(memory_format="channels_last")


def test_retained_gradients(torch):
    for lib in (dc, torch):
        leaf = lib.ones(2, requires_grad=True)
        made = leaf * 2
        assert not made.retains_grad and not leaf.retains_grad
        made.retain_grad()
        assert made.retains_grad
        made.sum().backward()
        assert made.grad.tolist() == [1.0, 1.0]


def test_questions(torch):
    for lib in (dc, torch):
        x = lib.tensor([2.0])
        assert lib.is_tensor(x) and lib.is_floating_point(x) and not lib.is_complex(x) and lib.is_nonzero(x)
        assert lib.numel(lib.zeros(2, 3)) == 6 and not lib.is_floating_point(lib.tensor([1])) and complex(x) == 2 + 0j
        assert lib.typename(x).endswith(".FloatTensor") and lib.scalar_tensor(3).dtype == lib.float32
        assert (lib.pi, lib.e, lib.inf, lib.newaxis) == (math.pi, math.e, math.inf, None) and math.isnan(lib.nan)
        assert isinstance(x.shape, lib.Size) and x[lib.newaxis].shape == (1, 1)
        lib.set_num_interop_threads(1) if lib is dc else None
        assert lib.get_num_interop_threads() >= 1
        with lib.inference_mode():
            y = lib.ones(1, requires_grad=True) * 2
            assert lib.is_inference_mode_enabled() and not y.requires_grad
            with lib.inference_mode(False):
                assert lib.is_grad_enabled() and not lib.is_inference_mode_enabled()
        assert lib.is_grad_enabled() and not lib.is_inference_mode_enabled()

        @lib.inference_mode()
        def predict(x, lib=lib):
            return x * 2, lib.is_grad_enabled()

        @lib.inference_mode
        def plain(x, lib=lib):
            return lib.is_grad_enabled()

        assert predict(x)[1] is plain(x) is False
    with pytest.raises(errors.ShapeError, match="one element"):
        dc.is_nonzero(dc.ones(2))
    with pytest.raises(TypeError, match="takes a tensor"):
        dc.is_floating_point([1.0])
    dc.use_deterministic_algorithms(True)
    assert dc.are_deterministic_algorithms_enabled()


# -- keywords of factories ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, args", [("zeros", (2, 3)), ("ones", (2, 3)), ("full", ((2, 3), 7.0)), ("rand", (2, 3)),
                                        ("randn", (2, 3)), ("eye", (2, 3)), ("arange", (6,)), ("linspace", (0, 1, 6))])  # fmt: skip
def test_out(name, args, backend):
    out = dc.empty(6, device=backend) if name in ("arange", "linspace") else dc.empty(2, 3, device=backend)
    dc.manual_seed(1)
    assert getattr(dc, name)(*args, out=out) is out
    dc.manual_seed(1)
    assert out.tolist() == getattr(dc, name)(*args, dtype=dc.float32).tolist()
    with pytest.raises(errors.ShapeError, match="out does not have"):
        getattr(dc, name)(*args, out=dc.empty(7, device=backend))
    with pytest.raises(errors.ShapeError, match="out does not have"):
        getattr(dc, name)(*args, out=out, dtype=dc.float64)


def test_keywords_that_pytorch_has(backend):
    for make in (dc.zeros, dc.ones, dc.rand, dc.empty):
        assert make(size=(2, 3), layout=dc.strided, requires_grad=True, pin_memory=False, device=backend).shape == (
            2,
            3,
        )
    assert dc.randint(high=3, size=(4,)).shape == (4,) and dc.ones(2).new_full((3,), 2.0).tolist() == [2.0] * 3
    g = dc.Generator(device=backend).manual_seed(0)
    assert dc.rand(2, generator=g, device=backend).shape == (2,)
    with pytest.raises(TypeError, match=r"zeros\(\) has no argument 'generator'"):
        dc.zeros(2, generator=g)
    with pytest.raises(TypeError, match="did you mean 'dtype'"):
        dc.ones(2, dtyp=dc.float32)
    with pytest.raises(TypeError, match=r"layout is one of dc\.strided"):
        dc.zeros(2, layout="sparse")
    with pytest.raises(TypeError, match="out is a tensor"):
        dc.zeros(2, out=np.zeros(2))
    with pytest.raises(TypeError, match="no argument 'device'"):
        dc.bernoulli(dc.ones(2), device="cpu")


def test_asarray(torch):
    array = np.ones(3, np.float32)
    for lib in (dc, torch):
        shared = lib.asarray(array)
        array[0] = 5
        assert shared[0].item() == 5 and lib.asarray(array, copy=True).sum().item() == 7
        array[0] = 1
        assert lib.asarray([1, 2], dtype=lib.float32, requires_grad=True).requires_grad
        with pytest.raises(ValueError):
            lib.asarray([1, 2], copy=False)
    assert dc.asarray(array, copy=False).array.base is array or np.shares_memory(
        dc.asarray(array, copy=False).array, array
    )


# -- no silent wraps ---------------------------------------------------------------------------------------------------
WRAPS = {
    "full": lambda x: dc.full((2,), 300, dtype=dc.uint8, device=x.device),
    "full_like": lambda x: dc.full_like(x, -1),
    "new_full": lambda x: x.new_full((2,), 256),
    "tensor": lambda x: dc.tensor([1, 300], dtype=dc.uint8, device=x.device),
    "scalar_tensor": lambda x: dc.scalar_tensor(300, dtype=dc.uint8, device=x.device),
    "asarray": lambda x: dc.asarray([300], dtype=dc.uint8, device=x.device),
    "new_tensor": lambda x: x.new_tensor([300]),
    "arange": lambda x: dc.arange(300, dtype=dc.uint8, device=x.device),
    "linspace": lambda x: dc.linspace(0, 300, 3, dtype=dc.uint8, device=x.device),
    "fill_": lambda x: x.fill_(300),
    "data.fill_": lambda x: x.data.fill_(300),
    "setitem": lambda x: x.__setitem__(0, -1),
    "setitem list": lambda x: x.__setitem__(slice(None), [1, 300]),
    "setitem mask": lambda x: x.__setitem__(x > 0, 256),
    "masked_fill": lambda x: x.masked_fill(x > 0, 300),
    "masked_fill_": lambda x: x.masked_fill_(x > 0, 300),
    "copy_": lambda x: x.copy_([300, 1]),
    "add": lambda x: x + 300,
    "iadd": lambda x: x.add_(300),
    "rsub": lambda x: 300 - x,
    "mul": lambda x: x * -1,
    "where": lambda x: dc.where(x > 0, x, 300),
    "clamp": lambda x: x.clamp(max=300),
    "randint": lambda x: dc.randint(0, 300, (2,), dtype=dc.uint8, device=x.device),
    "half": lambda x: dc.full((2,), 1e5, dtype=dc.half, device=x.device),
    "half fill_": lambda x: x.half().fill_(1e5),
}


@pytest.mark.parametrize("name", WRAPS)
def test_numbers_that_do_not_fit_raise(name, backend):
    x = dc.tensor([1, 2], dtype=dc.uint8, device=backend)
    with pytest.raises((errors.DTypeError, errors.ArgumentError), match=r"300|299|-1|256|100000"):
        WRAPS[name](x)
    assert x.tolist() == [1, 2], "nothing was written"
