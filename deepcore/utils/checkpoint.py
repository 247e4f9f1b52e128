"""`torch.utils.checkpoint`: activations that are computed again in the backward pass, in place of being kept."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.autograd.checkpointing import run
from deepcore.errors import ArgumentError

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(
    function: Callable,
    *args,
    use_reentrant: bool | None = None,
    context_fn: Callable | None = None,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs,
):
    """function(*args, **kwargs), whose intermediate results are computed again in the backward pass, to the same bits.

    Gradients flow to the arguments and to all tensors that the function reads, such as parameters. `preserve_rng_state`: the
    second computation draws the numbers of the default generator that the first drew. `context_fn` returns the context managers
    of the two computations. Both of PyTorch's variants (`use_reentrant`) are this one; `determinism_check`, `debug` and
    `early_stop` change nothing: shapes and dtypes of results are always compared, and the function runs to its end.
    """
    if determinism_check not in ("default", "none"):
        raise ArgumentError(
            "checkpoint: unknown determinism_check", expected='"default" or "none"', received=repr(determinism_check)
        )
    return run(function, args, kwargs, preserve_rng_state, context_fn)


def checkpoint_sequential(functions, segments: int, input, use_reentrant: bool | None = None, **kwargs):
    """A `Sequential`, or a list of functions, in `segments` parts of equal length that are checkpoints, but for the last."""
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ArgumentError("checkpoint_sequential: unknown keywords", received=", ".join(kwargs))
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if not 1 <= segments <= len(steps):
        raise ArgumentError(
            "checkpoint_sequential: segments is a number of parts",
            expected=f"1 to {len(steps)}",
            received=repr(segments),
        )
    size = len(steps) // segments

    def part(first: int, last: int) -> Callable:
        def forward(x):
            for step in steps[first:last]:
                x = step(x)
            return x

        return forward

    end = size * (segments - 1)
    for start in range(0, end, size):
        input = checkpoint(part(start, start + size), input, preserve_rng_state=preserve)
    return part(end, len(steps))(input)
