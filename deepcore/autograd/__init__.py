"""Reverse-mode differentiation of any order."""

import importlib
from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.autograd import autocasting, forward_ad, function, functional
from deepcore.autograd.engine import Handle, backward, grad, register_hook
from deepcore.autograd.function import Context, Function
from deepcore.autograd.gradcheck import gradcheck, gradgradcheck
from deepcore.autograd.graph import (
    Node,
    apply,
    constant,
    is_array,
    mixed_backends,
    mode,
    run,
    view_steps,
    wrong_argument,
)
from deepcore.autograd.modes import (
    detect_anomaly,
    enable_grad,
    inference_mode,
    intercept,
    is_anomaly_enabled,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_detect_anomaly,
    set_grad_enabled,
)

__all__ = [
    "Context",
    "Function",
    "Handle",
    "Node",
    "apply",
    "autocasting",
    "backward",
    "constant",
    "detect_anomaly",
    "enable_grad",
    "forward_ad",
    "function",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "intercept",
    "is_anomaly_enabled",
    "is_array",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "mixed_backends",
    "mode",
    "no_grad",
    "profile",
    "profiler",
    "register_hook",
    "run",
    "set_detect_anomaly",
    "set_grad_enabled",
    "view_steps",
    "wrong_argument",
]

if TYPE_CHECKING:
    from deepcore.autograd import profiler
    from deepcore.profiler import profile

_missing = missing.names_of(__name__, "torch.autograd")


def __getattr__(name: str):
    if name not in ("profile", "profiler"):
        return _missing(name)
    profiler = importlib.import_module("deepcore.autograd.profiler")  # loaded when first used
    globals().update(profile=profiler.profile, profiler=profiler)
    return globals()[name]
