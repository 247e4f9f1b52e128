"""Transforms of functions, as in `torch.func`."""

from __future__ import annotations

from deepcore import missing
from deepcore.autograd.batching import vmap
from deepcore.autograd.jacobians import grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, vjp
from deepcore.autograd.transforms import grad
from deepcore.errors import ArgumentError
from deepcore.nn.modules.module import Module
from deepcore.nn.utils.stateless import functional_call
from deepcore.ops.shape import stack
from deepcore.tensor import Tensor

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
    "vjp",
    "vmap",
]


def stack_module_state(models: list[Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the buffers of equal modules, stacked by name: `vmap` over them runs an ensemble.

    params, buffers = stack_module_state(models)
    vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,)), (0, 0, None))(params, buffers, x)

    The stacked tensors are leaves that require grad where those of the modules do.
    """
    models = list(models)
    if not models:
        raise ArgumentError("stack_module_state needs a module")
    if any(type(m) is not type(models[0]) for m in models):
        raise ArgumentError(
            "stack_module_state takes modules of one class",
            received=", ".join(sorted({type(m).__name__ for m in models})),
        )
    if len({m.training for m in models}) > 1:
        raise ArgumentError("stack_module_state takes modules that are all in train() or all in eval()")
    stacked = []
    for of in (Module.named_parameters, Module.named_buffers):
        named = [dict(of(m)) for m in models]
        stacked.append({name: _stacked([one[name] for one in named]) for name in named[0]})
    return stacked[0], stacked[1]


def _stacked(tensors: list[Tensor]) -> Tensor:
    return stack([t.detach() for t in tensors]).detach().requires_grad_(tensors[0].requires_grad)


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Let every batch norm in `root` use the statistics of its batch only, in place, so that `vmap` may map over it."""
    for part in root.modules():
        if hasattr(part, "track_running_stats") and hasattr(part, "running_mean"):
            part.running_mean = part.running_var = None
            if hasattr(part, "num_batches_tracked"):
                part.num_batches_tracked = None
            part.track_running_stats = False
    return root


__getattr__ = missing.names_of(__name__, "torch.func", __all__)
