"""Libraries to compete with, and what deepcore has of theirs."""

from __future__ import annotations

import functools
import os

from contest import Absent

from deepcore.config import settings


def torch():
    # torch.compile without processes of its own, whose work would count as that of others (machine.Others).
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        import torch
    except ImportError as error:
        raise Absent(f"PyTorch cannot be imported ({error})") from None
    torch.set_num_threads(settings.threads)
    return torch


@functools.cache
def jax():
    """On the CPU. XLA takes the number of its threads from NPROC when its client is made, so later changes do nothing."""
    os.environ["NPROC"] = str(settings.threads)
    try:
        import jax
    except ImportError as error:
        raise Absent(f"JAX cannot be imported ({error})") from None
    jax.config.update("jax_platforms", "cpu")
    return jax


def shared(x):
    """A tensor of PyTorch's over the memory of an array that nobody writes to."""
    return torch().from_numpy(x)


@functools.cache
def backward(name: str):
    """PyTorch's own backward function `name` as (tensors…, result) -> result, written to `result`."""
    op = getattr(torch().ops.aten, name)
    into = op.grad_input if "grad_input" in op.overloads() else op.out
    where = "grad_input" if "grad_input" in {a.name for a in into._schema.arguments} else "out"
    return lambda *arguments: into(*arguments[:-1], **{where: arguments[-1]})


@functools.cache
def fused(name: str):
    """deepcore's function `name` that is one op where it has a kernel, as a gradient is: (tensors…, **params) -> tensor."""
    from deepcore.ops.registry import FUSED

    if name not in FUSED:
        raise Absent(f"there is no {name}")
    return FUSED[name]
