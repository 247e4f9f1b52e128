"""The stand-in keeps CuPy's rules: the suite must fail where a GPU would."""

from __future__ import annotations

import ctypes
import functools
import gc
import inspect
import itertools

import numpy as np
import pytest
import standin

from deepcore.backend.dtypes import DTYPES
from deepcore.errors import BackendError
from deepcore.kernels.cuda.blas import Cublas

cp = standin.cupy
TABLE = standin.read_table()
ENTRIES = [(kind, name) for kind, names in TABLE.items() for name in names]


@pytest.fixture
def x():
    return cp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))


def test_the_table_is_what_cupy_has():
    real = pytest.importorskip("cupy", reason="CuPy is not installed: the table cannot be compared with it")
    lines = [line for line in standin.TABLE.read_text().splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if standin.describe(real, *line.split(" ")[:2]) != line]
    assert not wrong, f"not as in CuPy {real.__version__}; run tests/support/standin.py: {wrong}"
    assert len(lines) == len(ENTRIES) > 300


def _holders(real):
    yield "cupy", cp, real
    yield "cupy.ndarray", standin.ndarray, real.ndarray
    yield "cupy.ufunc", cp.add, real.add
    yield "cupy.cuda", cp.cuda, real.cuda
    yield "cupy.cuda.runtime", cp.cuda.runtime, real.cuda.runtime
    yield "cupy.cuda.Device", standin.Device, real.cuda.Device
    yield "cupy.cuda.Stream", standin.Stream, real.cuda.Stream
    yield "cupy.cuda.Event", standin.Event, real.cuda.Event
    yield "cupy.RawModule", standin.RawModule, real.RawModule
    yield "cupy.RawKernel", standin.RawKernel, real.RawKernel
    yield "cupy.cuda.MemoryPool", standin.MemoryPool, real.cuda.MemoryPool
    yield "cupy.cuda.MemoryPointer", cp.zeros(1).data, real.cuda.MemoryPointer
    yield "cupy.cuda.Graph", standin.Graph, real.cuda.Graph


def test_every_name_exists_in_cupy():
    real = pytest.importorskip("cupy", reason="CuPy is not installed: names cannot be compared with it")

    class Plain:  # what Python itself puts on a class
        annotated: int = 0

    internal = {"__getattr__", "__del__", "__slots__", "__spec__", "__loader__"} | set(dir(Plain))
    extra = []
    for path, ours, theirs in _holders(real):
        names = {n for n in dir(ours) if not (n.startswith("_") and not n.startswith("__"))} - internal
        extra += [f"{path}.{n}" for n in names if not hasattr(theirs, n)]
    assert not extra


@pytest.mark.parametrize("name", sorted(TABLE["value"]))
def test_values_are_numpys(name):
    real = pytest.importorskip("cupy")
    assert getattr(real, name) is getattr(cp, name) or getattr(real, name) == getattr(cp, name)


@pytest.mark.filterwarnings("ignore:numpy.fix is deprecated")
@pytest.mark.parametrize("name", sorted(TABLE["ufunc"]))
def test_ufunc_dtypes(name):
    """On supported dtypes the ufunc's dtype is the first loop's that takes them, and NumPy's where both have one."""
    function = getattr(cp, name)
    compared = 0
    for dtypes in itertools.product([d for n, d in DTYPES.items() if n in _SAMPLED], repeat=function.nin):
        arrays = [np.ones(2, d) for d in dtypes]
        try:
            with np.errstate(all="ignore"):
                expected = getattr(np, name)(*arrays)
            got = function(*(cp.asarray(a) for a in arrays))
        except TypeError:
            continue  # either has no such loop
        expected, got = (r if isinstance(r, tuple) else (r,) for r in (expected, got))
        for e, g in zip(expected, got):
            compared += 1
            assert g.dtype == e.dtype or name in _OTHER_DTYPES, (dtypes, e.dtype, g.dtype)
            np.testing.assert_allclose(g.get().astype(float), e.astype(float), rtol=1e-2, atol=1e-3)
    assert compared


_SAMPLED = {"bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"}
_OTHER_DTYPES = {
    "degrees",
    "radians",
    "divmod",
    "float_power",
    "i0",
    "ldexp",
    "sinc",
}  # CuPy's loops are not NumPy's for some dtypes


REFUSED = {
    "np.asarray": lambda x: np.asarray(x),
    "np.array of a list": lambda x: np.array([x, x]),
    "float array from buffer": lambda x: memoryview(x),
    "array + numpy": lambda x: x + np.ones(4, np.float32),
    "numpy + array": lambda x: np.ones(4, np.float32) + x,
    "numpy 0-d": lambda x: x * np.array(2.0, np.float32),
    "iadd numpy": lambda x: x.__iadd__(np.ones(4, np.float32)),
    "array @ numpy": lambda x: x @ np.ones((4, 2), np.float32),
    "compare": lambda x: x == np.ones(4, np.float32),
    "np.add mixed": lambda x: np.add(x, np.ones(4, np.float32)),
    "np.concatenate mixed": lambda x: np.concatenate([x, np.ones((1, 4), np.float32)]),
    "cupy function of numpy": lambda x: cp.sum(np.ones(3)),
    "cupy ufunc of numpy": lambda x: cp.exp(np.ones(3)),
    "cupy ufunc of a list": lambda x: cp.exp([1.0, 2.0]),
    "cupy function of a list": lambda x: cp.sum([1.0, 2.0]),
    "where numpy condition": lambda x: cp.where(np.ones(4, bool), x, 0.0),
    "where numpy value": lambda x: cp.where(x > 1, x, np.ones(4)),
    "numpy index": lambda x: x[np.array([0, 1])],
    "numpy mask": lambda x: x[np.ones((3, 4), bool)],
    "assign numpy": lambda x: x.__setitem__(0, np.ones(4, np.float32)),
    "assign list": lambda x: x.__setitem__(0, [1, 2, 3, 4]),
    "take numpy": lambda x: cp.take(x, np.array([0, 1])),
    "concatenate numpy": lambda x: cp.concatenate([x, np.ones((1, 4), np.float32)]),
    "concatenate a list": lambda x: cp.concatenate([x, [[1, 2, 3, 4]]]),
    "sum with initial": lambda x: cp.sum(x, initial=1.0),
    "sum with where": lambda x: cp.sum(x, where=x > 1),
    "ufunc with where": lambda x: cp.exp(x, where=x > 1),
    "clip with min=": lambda x: cp.clip(x, min=0),
    "einsum with out": lambda x: cp.einsum("ij->j", x, out=x[0]),
    "broadcast_to with subok": lambda x: cp.broadcast_to(x, (2, 3, 4), subok=True),
    "array as int": lambda x: range(x[0, 0].astype(np.int64)),
    "array as slice": lambda x: [1, 2][x[0, 0].astype(np.int64) :],
    "bool subtraction": lambda x: (x > 1) - (x > 2),
    "iterate 0-d": lambda x: list(x[0, 0]),
    "out of another shape": lambda x: cp.exp(x, out=x[0]),
    "batched bfloat16 product": lambda x: cp.matmul(*[cp.ones((2, 3, 3), "bfloat16")] * 2),
    "float into int": lambda x: cp.arange(4).__iadd__(0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_on_a_gpu(x, name):
    with standin.transfers() as crossed, pytest.raises((TypeError, ValueError)):
        REFUSED[name](x)
    assert (crossed.uploads, crossed.downloads) == (0, 0)


@pytest.mark.parametrize(
    "name", ["block", "nanpercentile", "float128", "emath", "frompyfunc", "object_", "vecdot", "insert", "lib.format"]
)
def test_names_cupy_lacks(name):
    with pytest.raises(AttributeError, match="has no attribute"):
        functools.reduce(getattr, name.split("."), cp)


@pytest.mark.parametrize("method", ["minimum.reduce", "maximum.accumulate", "divide.at", "logical_and.reduce"])
def test_ufunc_methods_cupy_lacks(x, method):
    name, _, last = method.partition(".")
    with pytest.raises(NotImplementedError):
        getattr(getattr(cp, name), last)(x, *([cp.asarray([0]), 1.0] if last == "at" else []))


@pytest.mark.parametrize("value", ["text", [None], np.array(["a"]), np.zeros(2, "M8[s]"), np.zeros(2, np.longdouble)])
def test_unsupported_dtypes(value):
    with pytest.raises((ValueError, TypeError)):
        cp.asarray(value)


def test_reductions_and_elements_stay_on_the_device(x):
    with standin.transfers() as crossed:
        for value in (x.sum(), cp.max(x), x[1, 2], cp.count_nonzero(x), cp.allclose(x, x), x[0] @ x[0], np.sum(x)):
            assert type(value) is cp.ndarray and value.shape == ()
        assert type(np.exp(x)) is cp.ndarray
        assert len(cp.split(x, 3)) == 3 and type(cp.split(x, 3)[0]) is cp.ndarray
    assert (crossed.uploads, crossed.downloads, crossed.syncs) == (0, 0, 0)


def test_transfers_are_counted(x):
    with standin.transfers() as crossed:
        cp.asarray(2.0), x[[0, 1]], x * 2, x * np.float32(2), cp.full(3, 1.0)
    assert (crossed.uploads, crossed.downloads) == (2, 0)
    with standin.transfers() as crossed:
        bool(x[0, 0]), float(x[0, 0]), int(x[0, 0]), x.item(3), x.get(), cp.asnumpy(x), repr(x), x.tolist()
    assert (crossed.uploads, crossed.downloads) == (0, 8)
    with standin.transfers() as crossed:
        x[x > 3], cp.nonzero(x), cp.where(x > 2)
    assert crossed.syncs == 2 + 1 and crossed.downloads == 0


def test_truth_of_many_elements_is_an_error(x):
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)


def test_views_share_memory_and_name_their_base(x):
    for view in (x[1:], x.T, x.reshape(2, 6), x[:, ::2], x.ravel(), cp.broadcast_to(x, (2, 3, 4)), x[0][1:], x.view()):
        assert view.base is x and cp.shares_memory(view, x)
    for copy in (x + 0, x.copy(), x[x > 1], x[[0]], x.T.reshape(12), cp.asarray(x.get()), x.astype(np.float32)):
        assert copy.base is None and not cp.shares_memory(copy, x)
    assert cp.asarray(x) is x
    assert x.astype(np.float32, copy=False) is x
    assert x[1:].data.ptr == x.data.ptr + 16 == x.__cuda_array_interface__["data"][0] + 16


def test_what_cupy_leaves_undefined_is_not_numpys(x):
    assert np.isnan(cp.empty(3, np.float32).get()).all() and (cp.empty_like(cp.arange(3)).get() == -1).all()
    target = cp.zeros(2)
    target[cp.asarray([0, 0, 1])] = cp.asarray([1.0, 2.0, 3.0])
    assert target.tolist() == [1.0, 3.0]  # NumPy keeps 2.0
    assert x[cp.asarray([3, -4])].tolist() == [x[0].tolist(), x[2].tolist()]  # indices wrap, without an error
    assert cp.take(x, cp.asarray([13])).tolist() == [1.0]
    values = np.array([1e8, -1e8, 1.0], np.float32)
    total, host = cp.zeros(1, np.float32), np.zeros(1, np.float32)
    cp.add.at(total, cp.asarray([0, 0, 0]), cp.asarray(values))
    np.add.at(host, [0, 0, 0], values)
    assert total.get() != host  # atomics keep no order


def test_assignment_and_in_place(x):
    view = x[1:]
    view += 1
    view[0, cp.asarray([0, 2])] = 9
    view[view > 11] = -1
    assert x.tolist() == [[0, 1, 2, 3], [9, 6, 9, 8], [9, 10, 11, -1]]
    same = x
    x @= cp.eye(4, dtype=np.float32)  # CuPy has no in-place product: a new array
    assert x is not same
    with pytest.raises(IndexError, match="more than one boolean"):
        same[cp.ones(3, dtype=bool), cp.ones(4, dtype=bool)]


def test_memory_pool_counts_what_lives():
    pool = cp.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    array = cp.zeros((100, 100), np.float32)
    view = array[10:]
    assert pool.used_bytes() - before == 40448  # 40,000 in blocks of 512
    del array
    assert pool.used_bytes() - before == 40448
    del view
    assert pool.used_bytes() == before <= pool.total_bytes()
    pool.free_all_blocks()
    assert pool.free_bytes() == 0


def test_devices(x):
    with cp.cuda.Device(1):
        other = cp.ones((3, 4), np.float32)
        assert other.device.id == 1 and cp.asarray(x).device == cp.cuda.Device(1)
        with pytest.raises(ValueError, match="different from the current device"):
            other + x
    assert cp.cuda.get_device_id() == 0
    with pytest.raises(ValueError, match="different from the current device"):
        other.sum()
    with pytest.raises(standin.CUDARuntimeError):
        cp.cuda.Device(9).use()


def test_dlpack(x):
    shared = cp.from_dlpack(x)
    shared[0, 0] = 7
    assert x[0, 0].item() == 7 and x.__dlpack_device__() == (2, 0)
    with pytest.raises((BufferError, RuntimeError, ValueError)):
        np.from_dlpack(x)
    with pytest.raises(BufferError):
        cp.from_dlpack(np.ones(3))
    with standin.transfers() as crossed:
        host = np.from_dlpack(x, device="cpu")
    assert crossed.downloads == 1 and host[0, 0] == 7


def test_a_capture_records_and_a_graph_does_it_again(x):
    stream = cp.cuda.Stream(non_blocking=True)
    total = cp.zeros(4, dtype=np.float32)
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        total += x.sum(axis=0)
        total[0] = 7
        y = x * 2
        graph = stream.end_capture()
    assert total.get().tolist() == [0] * 4 and np.isnan(y.get()).all()
    for _ in range(2):
        graph.launch()
    assert total.get().tolist() == [7, 30, 36, 42]
    assert (y.get() == 2 * x.get()).all()
    x[...] = 1
    graph.launch()
    assert (y.get() == 2).all()


@pytest.mark.parametrize(
    "read",
    [
        lambda x, i: x[i],
        lambda x, i: cp.take_along_axis(x, i, 0),
        lambda x, i: x.take(i),
        lambda x, i: _written(x, lambda y: y.__setitem__(i, 7.0)),
        lambda x, i: _written(x, lambda y: cp.add.at(y, i, 7.0)),
    ],
)
def test_a_graph_reads_index_arrays_anew(read):
    x, index = cp.arange(4.0), cp.asarray(np.array([1, -1]))
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        found = read(x, index)
        graph = stream.end_capture()
    for places in ([1, -1], [2, 0]):
        index.set(np.array(places))
        graph.launch()
        assert cp.asnumpy(found).tolist() == cp.asnumpy(read(x, index)).tolist()


def _written(x, write):
    y = x.copy()
    write(y)
    return y


@pytest.mark.parametrize(
    "waits",
    [lambda x: x.get(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: cp.asarray([1.0]), lambda x: x.sort()],
)
def test_what_waits_voids_a_capture(x, waits):
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(standin.CUDARuntimeError, match="StreamCaptureUnsupported"):
            waits(x)
        with pytest.raises(standin.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            cp.matmul(x, x.T)
        stream.end_capture()


def test_memory_of_another_pool_stays_and_goes_around(x):
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        first = x + 1
        at = first.data.ptr
        del first
        second = x + 2
    assert (
        second.data.ptr == at and (second.get() == x.get() + 2).all() and pool.total_bytes() == pool.used_bytes() == 512
    )


def test_cublas_is_called_as_it_is():
    for name, ours in vars(standin.cublas).items():
        if not name.startswith("_"):
            _, *theirs = inspect.signature(getattr(Cublas, name)).parameters
            assert list(inspect.signature(ours.__func__).parameters) == theirs, name


def test_a_library_of_cublas_is_called_with_its_types():
    """Every argument arrives as C has it: numbers, addresses above 32 bits, strides of 64 bits."""
    names = "Create_v2", "SetStream_v2", "SetWorkspace_v2", "GemmStridedBatchedEx"
    seen: list = []

    class Library:
        pass

    for name in names:
        kinds = [Cublas._KINDS[kind] for kind in Cublas._ARGUMENTS[name]]
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
        setattr(
            Library, f"cublas{name}", prototype(lambda *given, name=name: seen.append((name, *given)) or len(seen) // 5)
        )
    library = Cublas(Library)
    library.set_stream(1, 1 << 40)
    library.set_workspace(1, 1 << 41, 1 << 33)
    operands = [1 << 42, 1 << 43, 0, 5, 1 << 34, 1 << 44, 0, 6, 7, 1 << 45, 1 << 46, 0, 8, 9]
    arguments = [1, 1, 0, 2, 3, 4, *operands, 10, 68, -1]
    library.gemm_strided_batched_ex(*arguments)
    assert seen[0][1:] == (1, 1 << 40) and seen[1][1:] == (1, 1 << 41, 1 << 33) and list(seen[2][1:]) == arguments
    assert library.create() == 0
    with pytest.raises(BackendError, match="cublasSetStream failed with status 1"):
        library.set_stream(1, 1)
