"""deepcore: deep learning on NumPy and CuPy arrays."""

from __future__ import annotations

import importlib.util as _util
import math as _math
import sys as _sys
from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

__version__ = "0.1.0"


def _find_kernels() -> None:
    """In a source checkout kernels/ lies beside deepcore/, and is imported from there."""
    beside = _Path(__file__).resolve().parent.parent / "kernels"
    if (_Path(__file__).resolve().parent / "kernels").is_dir() or not (beside / "__init__.py").is_file():
        return
    spec = _util.spec_from_file_location(
        "deepcore.kernels", beside / "__init__.py", submodule_search_locations=[str(beside)]
    )
    assert spec is not None and spec.loader is not None
    module = _util.module_from_spec(spec)
    _sys.modules["deepcore.kernels"] = module
    spec.loader.exec_module(module)
    globals()["kernels"] = module


_find_kernels()

from deepcore import autograd, backend, cuda, errors, kernels, missing, ops  # noqa: E402
from deepcore.autograd import (  # noqa: E402
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from deepcore.autograd.autocasting import (  # noqa: E402
    autocast,
    clear_autocast_cache,
    get_autocast_dtype,
    is_autocast_cache_enabled,
    is_autocast_enabled,
    set_autocast_cache_enabled,
    set_autocast_dtype,
    set_autocast_enabled,
)
from deepcore.autograd.batching import vmap  # noqa: E402
from deepcore.autograd.checkpointing import checkpoint  # noqa: E402
from deepcore.autograd.jacobians import hessian, jacobian, jvp, vjp  # noqa: E402
from deepcore.autograd.transforms import grad, value_and_grad  # noqa: E402
from deepcore.backend import device, get_backend, use_backend  # noqa: E402
from deepcore.backend.devices import get_default_device, set_default_device  # noqa: E402
from deepcore.backend.dtypes import (  # noqa: E402
    bfloat16,
    bool_,
    can_cast,
    complex64,
    complex128,
    dtype,
    finfo,
    float16,
    float32,
    float64,
    get_default_dtype,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    set_default_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from deepcore.config import (  # noqa: E402
    are_deterministic_algorithms_enabled,
    get_num_interop_threads,
    get_num_threads,
    set_num_interop_threads,
    set_num_threads,
    use_deterministic_algorithms,
)
from deepcore.ops.control_flow import cond, fori_loop, scan, while_loop  # noqa: E402
from deepcore.ops.custom import kernel  # noqa: E402
from deepcore.ops.lu import pca_lowrank, svd_lowrank  # noqa: E402
from deepcore.ops.pieces import broadcast_shapes, tril_indices, triu_indices  # noqa: E402
from deepcore.ops.pointwise import allclose, equal  # noqa: E402
from deepcore.ops.sampling import bernoulli, binomial, multinomial, normal, poisson  # noqa: E402
from deepcore.ops.windows import (  # noqa: E402
    bartlett_window,
    blackman_window,
    hamming_window,
    hann_window,
    kaiser_window,
)
from deepcore.predicates import (  # noqa: E402
    is_complex,
    is_conj,
    is_floating_point,
    is_neg,
    is_nonzero,
    numel,
    result_type,
    typename,
)
from deepcore.printing import set_printoptions  # noqa: E402
from deepcore.random import (  # noqa: E402
    Generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    seed,
    set_rng_state,
    uniform,
)
from deepcore.tensor import (  # noqa: E402
    Tensor,
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    is_tensor,
    layout,
    linspace,
    logspace,
    memory_format,
    ones,
    ones_like,
    scalar_tensor,
    tensor,
    zeros,
    zeros_like,
)

globals().update(ops.public(), **ops.in_place())
from deepcore import fft, linalg, signal, special  # noqa: E402

# PyTorch's other names of dtypes, which hide Python's types in this file alone.
float, double, half, long, int, short = float32, float64, float16, int64, int32, int16
bool, cfloat, cdouble = bool_, complex64, complex128
Size = tuple
strided = layout.strided
contiguous_format, preserve_format = memory_format.contiguous_format, memory_format.preserve_format
channels_last, channels_last_3d = memory_format.channels_last, memory_format.channels_last_3d
inf, nan = _math.inf, _math.nan
pi, e = _math.pi, _math.e
newaxis = None
missing.install(Tensor)

if _TYPE_CHECKING:
    from deepcore import amp, compiler, data, distributions, func, io, metrics, nn, optim, plots, profiler, train, utils
    from deepcore.amp import GradScaler
    from deepcore.compiler import Compiled, compile
    from deepcore.io import load, save
    from deepcore.nn.functional import cosine_similarity, layer_norm, pairwise_distance
    from deepcore.nn.model import Input, Model
    from deepcore.nn.tape import GradientTape, Variable
    from deepcore.ops._functions import *  # noqa: F403
    from deepcore.profiler import profile
    from deepcore.train import Trainer

#: PyTorch's types of tensors by dtype, as `FloatTensor`.
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
# Loaded when first used, so that `import deepcore` stays quick.
_LAZY = {
    "Compiled": "deepcore.compiler",
    "GradScaler": "deepcore.amp",
    **dict.fromkeys(("Input", "Model"), "deepcore.nn.model"),
    **dict.fromkeys(("GradientTape", "Variable"), "deepcore.nn.tape"),
    "Trainer": "deepcore.train",
    "amp": "deepcore.amp",
    "backends": "deepcore.backends",
    **dict.fromkeys(("get_float32_matmul_precision", "set_float32_matmul_precision"), "deepcore.backends"),
    **{f"{kind}Tensor": "deepcore.legacy" for kind in _KINDS},
    "compile": "deepcore.compiler",
    **dict.fromkeys(("cosine_similarity", "layer_norm", "pairwise_distance"), "deepcore.nn.functional"),
    "compiler": "deepcore.compiler",
    "load": "deepcore.io",
    "save": "deepcore.io",
    "data": "deepcore.data",
    "distributions": "deepcore.distributions",
    "func": "deepcore.func",
    "io": "deepcore.io",
    "metrics": "deepcore.metrics",
    "nn": "deepcore.nn",
    "optim": "deepcore.optim",
    "plots": "deepcore.plots",
    "profile": "deepcore.profiler",
    "profiler": "deepcore.profiler",
    "sklearn": "deepcore.sklearn",
    "train": "deepcore.train",
    "utils": "deepcore.utils",
}


_missing = missing.names_of(__name__, "torch")


def __getattr__(name: str):
    if name not in _LAZY:
        return _missing(name)
    module = __import__("importlib").import_module(_LAZY[name])
    value = module if module.__name__ == f"deepcore.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({n for n in globals() if not n.startswith("_")} | set(_LAZY))
