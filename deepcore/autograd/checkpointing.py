"""Activations that are computed again in the backward pass, in place of being kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from deepcore import random
from deepcore.autograd.engine import gradients_at
from deepcore.autograd.function import OutputNode
from deepcore.autograd.graph import Node, brief, mode, next_id, stale
from deepcore.autograd.modes import enable_grad
from deepcore.autograd.trees import flatten, unflatten
from deepcore.effects import untraceable
from deepcore.errors import GradientError
from deepcore.tensor import Tensor


def run(function: Callable, args: tuple, kwargs: dict, preserve_rng_state: bool = True, context_fn=None):
    """function(*args, **kwargs), of whose graph only the inputs are kept. See `utils.checkpoint.checkpoint`."""
    forward_context, again_context = context_fn() if context_fn is not None else (None, None)
    if not mode.grad or mode.level is not None:  # levels interpret the operations one by one
        with forward_context or contextlib.nullcontext():
            return function(*args, **kwargs)
    start = random.default_generator._active()._mark() if preserve_rng_state else None
    first_node = next_id()
    arguments = [(t, t.version) for t in flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    autocast = mode.autocast
    with forward_context or contextlib.nullcontext():
        result = function(*args, **kwargs)
    outs, structure = flatten(result)
    roots = [t for t in outs if isinstance(t, Tensor) and t._requires_grad]
    if not roots:
        return result
    if start is not None and random.default_generator._active()._mark() != start:
        untraceable("drawing the random numbers of a checkpoint again")
    edges = _inputs(roots, first_node)
    again = functools.partial(_again, function, args, kwargs, start, again_context, autocast)
    node = CheckpointNode(edges, arguments, again, outs)
    for i, t in enumerate(outs):
        if isinstance(t, Tensor) and t._requires_grad:
            new = Tensor(t._data, t.backend, True, OutputNode(node, i))  # type: ignore[arg-type]
            new._storage = t.storage()
            outs[i] = new
    return unflatten(structure, outs)


def _again(function, args, kwargs, start, context, autocast):
    """Run the function as it ran first: outside of levels that began since, with its random numbers."""
    with contextlib.ExitStack() as stack:
        level = mode.level
        while level is not None:
            stack.enter_context(level.outside())
            level = level.outer
        if start is not None:
            stack.enter_context(random.standing_in(*start))
        stack.enter_context(enable_grad())
        if context is not None:
            stack.enter_context(context)
        outside, mode.autocast = mode.autocast, autocast
        in_backward, mode.backward = mode.backward, False
        try:
            return flatten(function(*args, **kwargs))[0]
        finally:
            mode.autocast, mode.backward = outside, in_backward


def _inputs(roots: list[Tensor], first_node: int) -> list:
    """The nodes before `first_node`, and the leaves, that `roots` were computed from."""
    edges: dict[Any, None] = {}
    visited: set = set()
    stack = [t._node or t for t in roots]
    while stack:
        edge = stack.pop()
        if edge is None or edge in visited:
            continue
        visited.add(edge)
        if isinstance(edge, Tensor) or edge.id < first_node:
            edges[edge] = None
        else:
            stack.extend(edge.edges)
    return list(edges)


class CheckpointNode(Node):
    """The node of a checkpoint: computes the function again, and differentiates that."""

    __slots__ = ("again", "like", "read")

    def __init__(self, edges: list, arguments: list[tuple[Tensor, int]], again: Callable, outs: list):
        self.id = next_id()
        self.edges = edges
        self.again: Any = again
        #: The tensors that the function read, with their versions then.
        self.read = [*arguments, *((edge, edge.version) for edge in edges if isinstance(edge, Tensor))]
        self.like = [brief(t) if isinstance(t, Tensor) else None for t in outs]
        self.saved: Any = ()
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = None

    @property
    def name(self) -> str:
        return "CheckpointBackward"

    def backward(self, g) -> list:
        if self.saved is None:
            Node.backward(self, g)  # raises
        for t, version in self.read:
            if t.version != version:
                raise stale("checkpoint", f"an input (shape {tuple(t.shape)})")
        outs = self.again()
        like = [brief(t) if isinstance(t, Tensor) else None for t in outs]
        if like != self.like:
            raise GradientError(
                "checkpoint: the function returned something else when it was computed again",
                expected=", ".join(map(str, self.like)),
                received=", ".join(map(str, like)),
                fix="a function that depends on its arguments alone, and on no state that changes",
            )
        roots = [(outs[i], gradient) for i, gradient in g.items() if outs[i]._requires_grad]
        return gradients_at(list(self.edges), roots, mode.grad, hooked=False)

    def free(self) -> None:
        self.saved, self.read = None, []
        self.again = None


def checkpoint(fn: Callable) -> Callable:
    """`fn` whose intermediate results are not kept for the backward pass but computed again there, to the same bits.

    Memory for time: a chain of checkpoints keeps the inputs of each, and computes every forward twice. Random numbers are those
    of the first time. Inside of `vmap` and `jvp`, and without a gradient, it is `fn` itself. In a compiled function a checkpoint
    that draws random numbers runs eagerly.

    As `jax.checkpoint`; PyTorch's is `dc.utils.checkpoint.checkpoint(fn, *args)`.
    """

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        return run(fn, args, kwargs)

    return wrapped
