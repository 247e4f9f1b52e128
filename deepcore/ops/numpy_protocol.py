"""NumPy's own functions on tensors: `np.sin(t)` and functions written with them can be differentiated."""

from __future__ import annotations

from deepcore.autograd import mixed_backends
from deepcore.errors import ArgumentError
from deepcore.ops.registry import FUNCTIONS, Tensor, as_tensor

# NumPy's name where it is not ours.
_NAMES = {
    "invert": "bitwise_not",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "power": "pow",
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "absolute": "abs",
    "fabs": "abs",
    "rint": "round",
    "concatenate": "cat",
    "expand_dims": "unsqueeze",
    "float_power": "pow",
}


def _find(name: str):
    wanted = _NAMES.get(name, name)
    if wanted in FUNCTIONS:
        return FUNCTIONS[wanted].function
    return next((d.function for d in FUNCTIONS.values() if wanted in d.aliases), None)


def ufunc(ufunc, method: str, inputs, kwargs):
    """`__array_ufunc__`: the op of the same name, recorded like any other."""
    function = _find(ufunc.__name__)
    if function is None or method != "__call__" or any(v is not None for v in kwargs.values()):
        return NotImplemented
    _same_backend(ufunc.__name__, inputs)
    return function(*map(_wrapped, inputs))


def function(function, args, kwargs):
    """`__array_function__`: the op of the same name; `np.transpose` reverses all dimensions, as NumPy does."""
    name = function.__name__
    if name == "transpose":
        axes = args[1] if len(args) > 1 else kwargs.get("axes")
        return args[0].permute(tuple(axes) if axes is not None else tuple(range(args[0].ndim))[::-1])
    if name in ("shape", "ndim", "size"):
        return args[0].numel() if name == "size" else getattr(args[0], name)
    if name in ("zeros_like", "ones_like"):
        import deepcore.tensor

        return getattr(deepcore.tensor, name)(args[0])
    if name in ("var", "std"):
        kwargs = dict(kwargs)
        kwargs["correction"] = kwargs.pop("ddof", kwargs.get("correction", 0))
    found = _find(name)
    if found is None:
        raise ArgumentError(
            f"np.{name} has no counterpart among deepcore's functions",
            fix=f"use the functions of deepcore, or np.{name}(t.detach().numpy()) where no gradient is needed",
        )
    return found(*map(_wrapped, args), **kwargs)


def _wrapped(value):
    return as_tensor(value) if hasattr(value, "__array_interface__") and not isinstance(value, float) else value


def _same_backend(name: str, inputs) -> None:
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    if any(t.backend is not tensors[0].backend for t in tensors):
        raise mixed_backends(name, tensors)
