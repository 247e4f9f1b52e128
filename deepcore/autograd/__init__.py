"""Reverse-mode differentiation of any order."""

from deepcore.autograd.engine import Handle, backward, grad, register_hook
from deepcore.autograd.function import Context, Function
from deepcore.autograd.gradcheck import gradcheck, gradgradcheck
from deepcore.autograd.graph import Node, apply, mixed_backends, mode, not_a_tensor, run, view_steps
from deepcore.autograd.modes import (
    detect_anomaly,
    enable_grad,
    intercept,
    is_grad_enabled,
    no_grad,
    profile,
    set_grad_enabled,
)

__all__ = [
    "Context",
    "Function",
    "Handle",
    "Node",
    "apply",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "intercept",
    "is_grad_enabled",
    "mixed_backends",
    "mode",
    "no_grad",
    "not_a_tensor",
    "profile",
    "register_hook",
    "run",
    "set_grad_enabled",
    "view_steps",
]
