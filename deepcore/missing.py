"""Names that PyTorch has and deepcore has not: an error that says so, and what is nearest.

`torch_names.txt` (see `torch_names.py`) lists PyTorch's public names by place, and is read when an error is printed.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from deepcore.errors import DeepcoreError, suggest

#: Where PyTorch's names are looked for; deepcore has the same places. Tensor is the first: its names are read early.
PLACES = (
    "torch.Tensor", "torch", "torch.nn", "torch.nn.functional", "torch.nn.Module", "torch.nn.init", "torch.nn.parameter",
    "torch.nn.utils", "torch.nn.utils.parametrizations", "torch.nn.utils.parametrize",
    "torch.optim", "torch.optim.lr_scheduler", "torch.utils", "torch.utils.data", "torch.autograd", "torch.cuda",
    "torch.linalg", "torch.func", "torch.special", "torch.fft", "torch.signal.windows", "torch.distributions", "torch.amp",
)  # fmt: skip
FILE = Path(__file__).with_name("torch_names.txt")
#: How alike two names are that are called near.
_NEAR = 0.8

_COMPLEX = "complex numbers of 64 bits: `dc.complex64`"
_SETTINGS = (
    "leave it out, there is nothing to set: algorithms depend on shapes alone (`dc.set_num_threads` sets threads)"
)
_AUTOCAST = '`dc.autocast`("cuda"), `dc.is_autocast_enabled`("cpu"): functions that take the type of device'
_NESTING = "`dc.autocast` counts its regions itself"
_STREAM = "work is queued on one stream, in order: `dc.cuda.synchronize` waits for it"
_SPARSE = "tensors are dense: `dc.nn.Embedding` with few rows in use, `dc.index_add` and `dc.scatter_add` over indices"
_ONE_PROCESS = "deepcore trains in one process, on one device: leave it out"
_SHARED = "the workers of `dc.data.DataLoader` send their batches through shared memory"
_PEAK = "`dc.cuda.memory_reserved` is the most that was in use since `dc.cuda.empty_cache`"
_DEVICES = "deepcore computes on CPUs and CUDA GPUs: `dc.cuda`"
#: What serves in place of a name, where no name is like it. What stands between backquotes exists.
INSTEAD = {
    **dict.fromkeys((f"torch.{n}" for n in ("complex32", "chalf")), _COMPLEX),
    **dict.fromkeys(("torch.set_flush_denormal",), _SETTINGS),
    **dict.fromkeys(("torch.cuda.amp", *(f"torch.{n}" for n in (
        "is_autocast_cpu_enabled", "is_autocast_ipu_enabled", "is_autocast_xla_enabled", "set_autocast_cpu_enabled",
        "set_autocast_ipu_enabled", "set_autocast_xla_enabled", "get_autocast_cpu_dtype", "get_autocast_gpu_dtype",
        "get_autocast_ipu_dtype", "get_autocast_xla_dtype", "set_autocast_cpu_dtype", "set_autocast_gpu_dtype",
        "set_autocast_ipu_dtype", "set_autocast_xla_dtype"))), _AUTOCAST),
    **dict.fromkeys(("torch.autocast_increment_nesting", "torch.autocast_decrement_nesting"), _NESTING),
    **dict.fromkeys((f"torch.cuda.{n}" for n in ("Event", "Stream", "StreamContext", "current_stream", "default_stream",
                                                 "set_stream", "stream")), _STREAM),
    **dict.fromkeys((f"torch.cuda.{n}" for n in ("max_memory_allocated", "max_memory_reserved", "max_memory_cached",
                                                 "memory_stats", "memory_summary", "reset_peak_memory_stats",
                                                 "reset_max_memory_allocated")), _PEAK),
    **dict.fromkeys(("torch.mps", "torch.xpu", "torch.mtia", "torch.accelerator"), _DEVICES),
    "torch.autograd.Variable": "tensors are variables: `dc.tensor`(data, requires_grad=True)",
    "torch.compiler": "`dc.compile`",
    "torch.export": "`dc.compile`, or `dc.nn.Module.save`",
    "torch.frombuffer": "`dc.from_numpy`(np.frombuffer(…))",
    **dict.fromkeys((
        "torch.sparse", "torch.sparse_coo_tensor", "torch.sparse_csr_tensor", "torch.Tensor.to_sparse",
        "torch.Tensor.sparse_mask", "torch.Tensor.to_dense", "torch.optim.SparseAdam"), _SPARSE),
    **dict.fromkeys(("torch.nn.DataParallel", "torch.nn.parallel", "torch.nn.SyncBatchNorm", "torch.distributed"),
                    _ONE_PROCESS),
    "torch.overrides": "subclasses of `dc.Tensor` are not asked: a function of your own, or `dc.autograd.Function`",
    "torch.range": "`dc.arange`(start, end + step, step): without its end, as Python's range",
    "torch.nn.Module.register_backward_hook": "`dc.nn.Module.register_full_backward_hook`",
    "torch.nn.Module.ipu": _DEVICES,
    "torch.func.debug_unwrap": "printing a tensor inside of a transform shows the tensor that it stands for",
    "torch.func.functionalize": "`dc.compile` records functions that write in place as they are",
    "torch.func.rearrange": "`dc.permute` and `dc.reshape`",
    "torch.fx": "`dc.compile`",
    "torch.hub": "`dc.load` reads files of safetensors",
    "torch.jit": "`dc.compile`",
    "torch.utils.tensorboard": "the callback `dc.train.TensorBoard` of a `dc.Trainer` writes its files",
    "torch.Tensor.new": "`dc.Tensor.new_tensor` of data, `dc.Tensor.new_empty` of a size",
    "torch.Tensor.resize_": "t.data = other gives a tensor other memory, `dc.Tensor.reshape` another shape",
    "torch.Tensor.resize_as_": "t.data = other gives a tensor other memory, `dc.Tensor.reshape` another shape",
    "torch.Tensor.set_": "t.data = other gives a tensor other memory",
    "torch.Tensor.apply_": "functions of whole tensors: `dc.where`, `dc.exp` and the like",
    "torch.Tensor.map_": "functions of whole tensors: `dc.where`, `dc.exp` and the like",
    **dict.fromkeys(("torch.Tensor.share_memory_", "torch.Tensor.is_shared", "torch.nn.Module.share_memory"), _SHARED),
    "torch.nn.Module.compile": "model = `dc.compile`(model); Keras's compile is `dc.Trainer`(model, optimizer, loss)",
}  # fmt: skip
_TRAINER = "`dc.Trainer`(model, optimizer, loss, metrics=[…]) has Keras's fit, evaluate and predict"
#: What serves in place of Keras's names, by the place where they are looked for.
KERAS = {
    **dict.fromkeys((f"torch.nn.Module.{n}" for n in (
        "fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")), _TRAINER),
    **dict.fromkeys((f"torch.nn.Module.{n}" for n in ("trainable_variables", "trainable_weights", "weights")),
                    "list(model.parameters()), of `dc.nn.Module.parameters`"),
    "torch.nn.Module.save_weights": "`dc.nn.Module.save`",
    "torch.nn.Module.load_weights": "`dc.nn.Module.load`",
    **dict.fromkeys(("torch.keras", "torch.layers"), "layers are in `dc.nn`, and " + _TRAINER),
    "torch.Sequential": "`dc.nn.Sequential`",
    "torch.nn.Dense": "`dc.nn.LazyLinear`(units), or `dc.nn.Linear`(inputs, units)",
    "torch.nn.Activation": "`dc.nn.ReLU` and the like, layers of their own",
    "torch.nn.BatchNormalization": "`dc.nn.LazyBatchNorm1d`, or `dc.nn.LazyBatchNorm2d` for images",
    "torch.nn.LayerNormalization": "`dc.nn.LayerNorm`",
    **{f"torch.nn.{name}{d}D": f"`dc.nn.{other}{d}d`" for d in (1, 2, 3) for name, other in (
        ("Conv", "LazyConv"), ("MaxPooling", "MaxPool"), ("AveragePooling", "AvgPool"))},
    "torch.nn.GlobalAveragePooling1D": "`dc.nn.AdaptiveAvgPool1d`(1)",
    "torch.nn.GlobalAveragePooling2D": "`dc.nn.AdaptiveAvgPool2d`(1)",
    **dict.fromkeys(("torch.nn.Concatenate", "torch.nn.concatenate"), "`dc.concatenate`(tensors, dim=-1)"),
    "torch.nn.Input": "`dc.Input`",
    "torch.nn.Model": "`dc.Model`",
}  # fmt: skip


class MissingNameError(DeepcoreError, AttributeError):
    """An attribute that PyTorch has and deepcore has not, or that neither has."""

    def __init__(self, problem: str, *, torch: str = "", choices: Iterable[str] = (), **lines):
        super().__init__(problem, **lines)
        self.name = torch.rpartition(".")[2]  # with no `obj`, so that Python adds no guess of its own
        self._torch, self._choices = torch, choices

    def __str__(self) -> str:
        if self._torch:  # not in __init__: hasattr() makes these, and throws them away
            place, _, name = self._torch.rpartition(".")
            problem = absent(place, name, self._choices)
            if problem:
                self.problem = problem
            else:
                self.fix = KERAS.get(f"{place}.{name}") or suggest(name, self._choices)
            self._torch = ""
        return super().__str__()


def here(torch: str, package: str = "dc") -> str:
    """deepcore's name for the same thing: `dc.nn` for `torch.nn`."""
    return package + torch.removeprefix("torch")


@functools.cache
def torch_names() -> dict[str, frozenset[str]]:
    """PyTorch's public names, by place."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    parts = [line.partition(":") for line in lines if not line.startswith("#")]
    return {place: frozenset(names.split()) for place, _, names in parts}


def absent(place: str, name: str, choices: Iterable[str] = ()) -> str:
    """That deepcore lacks PyTorch's `place.name`, and the nearest of `choices`; "" where PyTorch lacks it, too."""
    if name not in torch_names().get(place, ()):
        return ""
    near = nearest(place, name, choices)
    return f"deepcore has no `{here(place)}.{name}` yet" + (f"; {near}" if near else "")


def nearest(place: str, name: str, choices: Iterable[str] = ()) -> str:
    """What serves in place of PyTorch's `place.name`, in words, or an empty string."""
    if f"{place}.{name}" in INSTEAD:
        return f"instead: {INSTEAD[f'{place}.{name}']}"
    for torch in PLACES:  # the same name somewhere else
        if torch not in (place, "torch.nn.Module") and hasattr(find(here(torch, "deepcore")), name):
            return f"nearest: `{here(torch)}.{name}`"
    near = difflib.get_close_matches(name, [c for c in choices if not c.startswith("_")], n=1, cutoff=_NEAR)
    return f"nearest: `{here(place)}.{near[0]}`" if near else ""


def find(path: str) -> Any:
    """The module, or the class in one, of that name, or None."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name, None)
        except ImportError:
            return None


def _own_names(module: ModuleType) -> list[str]:
    """Its public functions and classes that are deepcore's."""
    public = ((name, getattr(module, name)) for name in dir(module) if not name.startswith("_"))
    return [name for name, value in public if (getattr(value, "__module__", None) or "").startswith("deepcore")]


def names_of(module: str, torch: str, names: Iterable[str] | None = None) -> Callable[[str], NoReturn]:
    """The `__getattr__` of a module that has PyTorch's names of `torch`; `names` are its own (default: all)."""

    def __getattr__(name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        choices = _own_names(sys.modules[module]) if names is None else names
        raise MissingNameError(f"module {module!r} has no attribute {name!r}", torch=f"{torch}.{name}", choices=choices)

    return __getattr__


class _Missing:
    """An attribute of a class that raises."""

    __slots__ = ("choices", "torch")

    def __init__(self, torch: str, choices: Callable[[], Iterable[str]]):
        self.torch, self.choices = torch, choices

    def __get__(self, instance, owner=None) -> NoReturn:
        owner_name, _, name = self.torch.rpartition(".")
        problem = f"{owner_name.rpartition('.')[2]!r} object has no attribute {name!r}"
        raise MissingNameError(problem, torch=self.torch, choices=self.choices())


def install(cls: type) -> None:
    """Let `cls`, which has no `__getattr__` for the sake of speed, name what it lacks of PyTorch's Tensor."""
    with FILE.open(encoding="utf-8") as file:
        place, _, names = next(line for line in file if not line.startswith("#")).partition(":")

    def choices():
        return [name for name in object.__dir__(cls) if hasattr(cls, name)]

    missing = frozenset(name for name in names.split() if not hasattr(cls, name))
    for name in missing:
        setattr(cls, name, _Missing(f"{place}.{name}", choices))

    def __dir__(self):
        return [name for name in object.__dir__(self) if name not in missing or hasattr(self, name)]

    cls.__dir__ = __dir__  # type: ignore[method-assign, assignment]
