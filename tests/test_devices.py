"""`dc.device`, `device=` wherever `backend=` is, and `dc.cuda`."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import standin

import deepcore as dc
from deepcore import backend as backends
from deepcore import errors
from deepcore.config import settings
from deepcore.nn.registry import LAYERS


# -- the object --------------------------------------------------------------------------------------------------------
def test_devices_are_values():
    one = dc.device("cuda", 1)
    assert (one.type, one.index, str(one)) == ("cuda", 1, "cuda:1") and repr(one) == "device(type='cuda', index=1)"
    assert one == dc.device("cuda:1") == dc.device(1) == dc.device(one) == dc.device(type="cuda", index=1) == "cuda:1"
    assert len({one, dc.device("cuda:1"), "cuda:1"}) == 1
    cpu = dc.device("cpu")
    assert (cpu.type, cpu.index, str(cpu), repr(cpu)) == ("cpu", None, "cpu", "device(type='cpu')")
    assert cpu != one and cpu != "cuda" and dc.device("cuda") != dc.device("cuda:0") and cpu != 3
    for each in (one, cpu):
        assert pickle.loads(pickle.dumps(each)) == copy.deepcopy(each) == each
    with pytest.raises(AttributeError):
        cpu.index = 3


def test_devices_as_in_pytorch():
    torch = pytest.importorskip("torch")
    for given in (("cpu",), ("cuda",), ("cuda:1",), ("cuda", 1), ("cpu", 0)):
        theirs, ours = torch.device(*given), dc.device(*given)
        assert (ours.type, ours.index, str(ours), repr(ours)) == (theirs.type, theirs.index, str(theirs), repr(theirs))
    names = ("cpu", "cuda", "cuda:0", "cuda:1", "cpu:0")
    for a in names:
        for b in names:
            assert (torch.device(a) == torch.device(b)) == (dc.device(a) == dc.device(b)), (a, b)


@pytest.mark.parametrize(
    "given, error, words",
    [
        (("mps",), errors.BackendError, "CPUs and CUDA GPUs.*no backend 'mps'"),
        (("xpu:0",), errors.BackendError, "CPUs and CUDA GPUs"),
        (("meta",), errors.BackendError, '"auto"'),
        (("cude",), errors.BackendError, "did you mean 'cuda'"),
        (("cuda:x",), errors.BackendError, "is not a backend"),
        (("cuda:0", 1), errors.ArgumentError, "given twice"),
        (("cuda", -1), errors.ArgumentError, "at least 0"),
        ((-1,), errors.ArgumentError, "at least 0"),
        ((1.5,), errors.ArgumentError, "name or number"),
        ((None,), errors.ArgumentError, "name or number"),
    ],
)
def test_what_is_no_device(given, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        dc.device(*given)


def test_the_device_of_a_tensor(backend):
    x = dc.ones(2, device=backend)
    assert isinstance(x.device, dc.device) and x.device == x.backend and x.backend == x.device
    assert dc.ones(2, device=x.device).backend is x.backend and dc.get_backend(x.device) is x.backend
    assert x.is_cpu == (backend == "cpu") and x.is_cuda != x.is_cpu
    assert x.get_device() == (-1 if x.is_cpu else 0)
    assert dc.device(x.backend) == x.device


def test_default_devices(backend):
    before = settings.backend
    place = dc.device(backend)
    with place as entered:
        assert entered is place and dc.zeros(1).backend == backend
        assert dc.get_default_device() == dc.get_backend(backend).device
        with dc.device("cpu"), place:
            assert dc.zeros(1).backend == backend
        assert dc.zeros(1).backend == backend and dc.nn.Linear(1, 1).weight.backend == backend
    assert settings.backend == before
    dc.set_default_device(backend)
    assert dc.rand(2).backend == backend
    dc.set_default_device(None)
    assert dc.rand(2).backend == "cpu"
    settings.backend = before


# -- device= -----------------------------------------------------------------------------------------------------------
LIKE = np.ones((2, 3), np.float32)
FACTORIES = {
    "tensor": ([1.0, 2.0],), "as_tensor": ([1.0, 2.0],), "asarray": ([1.0, 2.0],), "scalar_tensor": (3,),
    "zeros": (2, 3), "ones": (2, 3), "empty": (2, 3), "full": ((2,), 7.0), "arange": (5,), "linspace": (0, 1, 4), "logspace": (0, 1, 4), "tril_indices": (3, 3), "triu_indices": (3, 3),
    "eye": (3,), "rand": (2,), "randn": (2,), "randint": (5, (2,)), "randperm": (4,), "normal": (0.0, 1.0, (2,)),
    "uniform": (0.0, 1.0, (2,)), "zeros_like": (LIKE,), "ones_like": (LIKE,), "empty_like": (LIKE,),
    "hann_window": (4,), "hamming_window": (4,), "blackman_window": (4,), "bartlett_window": (4,), "kaiser_window": (4,),
    "full_like": (LIKE, 2.0), "rand_like": (LIKE,), "randn_like": (LIKE,), "randint_like": (LIKE, 5),
}  # fmt: skip
METHODS = {
    "new_zeros": (2,), "new_ones": (2,), "new_empty": (2,), "new_full": ((2,), 3.0), "new_tensor": ([1.0],), "to": (),
}  # fmt: skip


def factory(name):
    arguments = [dc.from_numpy(a) if isinstance(a, np.ndarray) else a for a in FACTORIES[name]]
    return lambda **keywords: getattr(dc, name)(*arguments, **keywords)


def test_every_factory_is_here():
    """A function of `dc` that takes `backend` is tested below."""
    functions = {n: f for n, f in vars(dc).items() if inspect.isfunction(f) and not n.startswith("_")}
    takes = {n for n, f in functions.items() if "backend" in inspect.signature(f).parameters}
    assert takes - {"to", "load", "compile"} == set(FACTORIES)


@pytest.mark.parametrize("name", [*FACTORIES, *METHODS])
def test_device_is_backend(name, backend):
    if name in FACTORIES:
        make = factory(name)
    else:
        make = lambda **keywords: getattr(dc.ones(3), name)(*METHODS[name], **keywords)
    for keywords in ({"device": backend}, {"device": dc.device(backend)}, {"device": dc.get_backend(backend)},
                     {"backend": backend, "device": backend}):  # fmt: skip
        assert make(**keywords).backend == backend
    assert make(device=None).backend == "cpu"
    with pytest.raises(errors.BackendError, match="CPUs and CUDA GPUs"):
        make(device="mps")
    if backend != "cpu":
        with pytest.raises(errors.ArgumentError, match="name two places"):
            make(backend="cpu", device=backend)


@pytest.mark.parametrize(
    "name", [name for name, cls in LAYERS.items() if "backend" in inspect.signature(cls).parameters and cls.examples]
)
def test_layers_take_device(name, backend):
    example = LAYERS[name].examples[0].arguments
    layer = LAYERS[name](**example, device=dc.device(backend))
    assert all(t.backend == backend for t in (*layer.parameters(), *layer.buffers()))
    assert layer.constructor_arguments().keys().isdisjoint({"backend", "device"})
    with pytest.raises(errors.BackendError, match="CPUs and CUDA GPUs"):
        LAYERS[name](**example, device="xpu")


def test_own_layers_take_device(backend):
    class Mine(dc.nn.Module):
        def __init__(self, width, backend=None):
            super().__init__()
            self.inner = dc.nn.Linear(width, 1, backend=backend)

    class Plain(dc.nn.Module):
        def __init__(self, device):
            super().__init__()
            self.given = device

    assert Mine(2, device=backend).inner.weight.backend == backend == Mine(2, backend).inner.weight.backend
    assert Plain("anything").given == Plain(device="anything").given == "anything"


def test_moving(backend):
    place = dc.device(backend)
    x = dc.ones(2)
    assert x.to(place).backend == x.to(device=place, non_blocking=True).backend == backend
    assert x.to(place, dc.float64, True).dtype == dc.float64
    assert x.to(place).cpu().backend == "cpu" and x.cpu() is x
    net = dc.nn.Linear(2, 1).to(place, non_blocking=True)
    assert net.weight.backend == backend and net.to(device="cpu").weight.backend == "cpu"
    assert net.to_empty(device=place).bias.backend == backend and net.weight.shape == (1, 2)
    assert net.type(dc.float64).weight.dtype == dc.float64
    with pytest.raises(errors.BackendError, match="CPUs and CUDA GPUs"):
        x.to("mps")
    with pytest.raises(errors.BackendError, match="CPUs and CUDA GPUs"):
        net.to("meta")


def test_data_files_and_training_take_device(backend, tmp_path):
    place = dc.device(backend)
    assert dc.data.digits("test[:4]", device=place).tensors[0].backend == backend
    assert dc.data.default_collate([1.0, 2.0], device=place).backend == backend
    loader = dc.data.DataLoader([(1.0, 0), (2.0, 1)], 2, device=place, pin_memory=True, pin_memory_device="cuda")
    assert next(iter(loader))[0].backend == backend and loader.pin_memory
    dc.save({"a": dc.ones(2)}, tmp_path / "a.safetensors")
    assert dc.load(tmp_path / "a.safetensors", device=place)["a"].backend == backend
    net = dc.nn.Sequential(dc.nn.Linear(2, 2))
    net.save(tmp_path / "net.safetensors")
    assert type(net).load(tmp_path / "net.safetensors", device=place)[0].weight.backend == backend
    trainer = dc.Trainer(net, dc.optim.SGD(net.parameters(), lr=0.1), dc.nn.MSELoss(), device=place)
    assert trainer.backend == backend and net[0].weight.backend == backend
    optimizer = trainer.optimizer
    dc.io.save_checkpoint(tmp_path / "c.safetensors", model=net, optimizer=optimizer)
    dc.io.load_checkpoint(tmp_path / "c.safetensors", model=net, optimizer=optimizer, device=place)
    with pytest.raises(errors.ArgumentError, match="name two places"):
        dc.load(tmp_path / "a.safetensors", "standin:1", device="standin:0")


def test_generators_take_a_device(backend):
    for made in (dc.Generator(device=backend), dc.Generator(backend), dc.Generator(dc.device(backend))):
        assert made.device == dc.device(backend)
        made.manual_seed(5)
        assert dc.rand(3, generator=made, device=backend).tolist() == dc.rand(3, generator=dc.Generator(5)).tolist()
    assert dc.Generator(5).device == "cpu"


def test_use_backend_and_get_backend_take_devices(backend):
    with dc.use_backend(dc.device(backend)):
        assert dc.ones(1).backend == backend
    assert dc.get_backend(dc.device(backend)) == backend


# -- dc.cuda -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def as_cuda(monkeypatch):
    """The stand-in by the name of "cuda"."""
    pytest.importorskip("numba")  # without it a warning says that there are no kernels
    known = dict(backends.BACKENDS)

    def create(index):
        from deepcore.backend.cuda import CudaBackend

        return CudaBackend(index, standin.cupy, name="cuda", cublas=standin.cublas)

    monkeypatch.setitem(backends._FACTORIES, "cuda", create)
    monkeypatch.setattr(backends, "_INSTANCES", {n: b for n, b in backends._INSTANCES.items() if "cuda" not in n})
    yield
    for each in [b for b in backends.BACKENDS if b not in known]:
        del backends.BACKENDS[each]


def test_cuda_where_there_is_a_gpu(as_cuda):
    cuda = dc.cuda
    assert cuda.is_available() and cuda.device_count() == standin.DEVICES and cuda.current_device() == 0
    assert isinstance(cuda.get_device_name(), str) and cuda.get_device_name(1) and cuda.is_initialized()
    assert len(cuda.get_device_capability()) == 2
    x = dc.ones(1000).cuda()
    assert x.is_cuda and x.get_device() == 0 and x.device == dc.device("cuda", 0) and x.cpu().is_cpu
    assert dc.ones(1).cuda(1).get_device() == 1 and dc.ones(1).to(1).device == dc.ones(1).cuda("cuda:1").device
    assert cuda.memory_allocated() >= 4000 and cuda.memory_reserved() >= cuda.memory_allocated()
    free, total = cuda.mem_get_info()
    assert 0 <= free <= total
    cuda.synchronize()
    cuda.empty_cache()
    before = settings.backend
    with cuda.device(1):
        assert cuda.current_device() == 1 and dc.ones(1).get_device() == 1
    assert settings.backend == before
    cuda.set_device(1)
    assert dc.rand(1).get_device() == 1
    settings.backend = before
    assert dc.nn.Linear(1, 1).cuda().weight.is_cuda and dc.device("auto") == "cuda:0"
    with pytest.raises(errors.ArgumentError, match="about GPUs"):
        cuda.synchronize("cpu")


def test_pinned_memory(as_cuda):
    x = dc.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert not x.is_pinned()
    pinned = x.pin_memory()
    assert pinned.is_pinned() and pinned[1:].is_pinned() and pinned.pin_memory() is pinned and not x.is_pinned()
    assert pinned.tolist() == x.tolist() == pinned.cuda(non_blocking=True).tolist()
    assert dc.zeros(3, dtype=dc.bfloat16, pin_memory=True).is_pinned() and not dc.ones(2).is_pinned()
    with pytest.raises(errors.BackendError, match="only tensors on the CPU"):
        x.cuda().pin_memory()


def test_cuda_seeds(as_cuda):
    for seed in (dc.cuda.manual_seed, dc.cuda.manual_seed_all):
        seed(3)
        drawn = dc.rand(3, device="cuda").tolist()
        dc.manual_seed(3)
        assert dc.rand(3).tolist() == drawn


@pytest.mark.skipif(dc.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "use",
    [
        dc.cuda.current_device, dc.cuda.get_device_name, dc.cuda.synchronize, dc.cuda.memory_allocated, dc.cuda.init,
        lambda: dc.ones(1).cuda(), lambda: dc.nn.Linear(1, 1).cuda(), lambda: dc.ones(1, device="cuda"),
        lambda: dc.ones(1).to(0), lambda: dc.ones(1).pin_memory(), lambda: dc.device("cuda").__enter__(),
    ],
)  # fmt: skip
def test_cuda_without_a_gpu(use):
    assert not dc.cuda.is_available() and dc.cuda.device_count() == 0 and not dc.cuda.is_bf16_supported()
    dc.cuda.empty_cache()
    dc.cuda.manual_seed_all(0)
    assert dc.device("auto") == "cpu" and dc.ones(1, pin_memory=False).is_cpu
    with pytest.raises(errors.BackendError, match=r"pip install|driver"):
        use()
