"""Backward over the graph: newest node first, with a dict of pending gradients that empties as it goes."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Container
from typing import Any

from deepcore import locks
from deepcore.autograd import graph
from deepcore.autograd.graph import Node, mixed_backends, mode
from deepcore.effects import effect, untraceable
from deepcore.errors import ArgumentError, DTypeError, GradientError, ShapeError
from deepcore.tensor import Tensor, as_tensor, changes, made


def backward(tensors, grad_tensors=None, retain_graph=None, create_graph: bool = False, *, inputs=None) -> None:
    """Add Σ d(tensors)/d(leaf) to the `.grad` of every leaf that requires it, or of `inputs` alone.

    `tensors` is a tensor or a sequence; `grad_tensors` has the vector of the vector-Jacobian product of each (1 for
    tensors of one element).
    """
    tensors = (tensors,) if isinstance(tensors, Tensor) else _sequence("backward", "tensors", tensors)
    roots = [(t, _start(t, g)) for t, g in zip(tensors, _vectors("backward", "grad_tensors", grad_tensors, tensors))]
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        leaves = _propagate(roots, retain, create_graph)
    else:
        targets = _inputs("backward", inputs)
        watched: dict[Any, Any] = {t._node: None for t in targets if t._node is not None}
        only = _reaching([t._node or t for t in targets], [t._node or t for t, _ in roots])
        leaves = _propagate([(t, g) for t, g in roots if (t._node or t) in only], retain, create_graph, only, watched)
        leaves |= {t: watched[t._node] for t in targets if t._node is not None and watched[t._node] is not None}
    with _ACCUMULATING:
        for leaf in leaves:
            accumulate(leaf, leaves, create_graph)


#: Serialises threads that accumulate to the `.grad` of shared leaves.
_ACCUMULATING = locks.rlock()


def _start(tensor: Tensor, gradient) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ArgumentError("backward starts from a tensor", received=type(tensor).__name__)
    if not tensor._requires_grad:
        raise GradientError(
            "this tensor does not require grad: nothing it was computed from does, or it was computed under no_grad()",
            fix="set requires_grad=True on the inputs or parameters before computing it",
        )
    xp = tensor.backend
    if gradient is None:
        if tensor._data.size != 1:
            raise GradientError(
                "backward without a gradient starts from a tensor of one element",
                received=f"shape {tensor.shape}",
                fix="reduce it first (loss.mean().backward()), or pass gradient=",
            )
        if tensor._data.dtype.kind == "c":
            raise GradientError(
                "backward without a gradient starts from a real number",
                received=f"a tensor of {tensor.dtype}",
                fix="make the loss real (loss.abs(), loss.real, dc.view_as_real(z).square().sum()), or pass gradient=",
            )
        return made(xp.ones(tensor.shape, dtype=tensor.dtype), xp)
    if not isinstance(gradient, Tensor):
        gradient = as_tensor(gradient, backend=xp)
    if gradient.backend is not xp:
        raise mixed_backends("backward", (tensor, gradient))
    if gradient.shape != tensor.shape:
        raise ShapeError(
            "the gradient has another shape than the tensor", expected=f"{tensor.shape}", received=f"{gradient.shape}"
        )
    if gradient.dtype == tensor.dtype:
        return gradient
    if gradient.dtype.kind == "c" and tensor.dtype.kind != "c":
        raise DTypeError(
            "the gradient of a real tensor is real", received=f"a gradient of {gradient.dtype}", fix="gradient.real"
        )
    return gradient.to(tensor.dtype)


def _propagate(
    roots, retain_graph, create_graph, only=None, watched=None, stop=(), hooked: bool = True
) -> dict[Tensor, Tensor]:
    """Walk the graph from `roots` ((tensor, gradient) pairs), newest node first; returns the leaves' summed gradients.

    `only`: the nodes and leaves to visit (None: all). `watched`: a dict whose node keys get their gradient.
    `stop`: nodes at which gradients stop. `hooked`: whether hooks of those and of leaves run.
    """
    pending: dict[Any, Any] = {}
    heap: list[tuple[int, Node]] = []
    leaves: dict[Tensor, Tensor] = {}

    def deliver(edge, gradient):
        target = leaves if isinstance(edge, Tensor) else pending
        total = target.get(edge)
        if total is not None:
            target[edge] = _merge(total, gradient)
            return
        target[edge] = gradient
        if target is pending:
            heapq.heappush(heap, (-edge.id, edge))

    previous = mode.grad, mode.backward, mode.node
    # A gradient with a tangent is itself differentiated.
    mode.grad, mode.backward = create_graph or (mode.level is not None and mode.level.forward), True
    # A backward of the user's runs under the caller's state; those of ops are made of ops, whose dtypes are settled.
    casting = mode.autocast if mode.autocast.enabled else None
    settled = None if casting is None else casting.disabled()
    try:
        for tensor, gradient in roots:
            deliver(tensor._node or tensor, gradient)
        while heap:
            node = heapq.heappop(heap)[1]
            gradient = pending.pop(node)
            for hook in (node.hooks or ()) if hooked or node not in stop else ():
                gradient = _call_hook(hook, gradient)
            if watched is not None and node in watched:
                watched[node] = gradient
            if node in stop or (only is not None and not any(edge in only for edge in node.edges)):
                continue
            if graph.watchers:
                mode.node = node
            if casting is not None:
                mode.autocast = casting if node.op is None else settled
            gradients = node.backward(gradient)
            edges = node.edges
            if not retain_graph:
                node.free()
            for edge, gradient in zip(edges, gradients):
                if edge is not None and gradient is not None and (only is None or edge in only):
                    deliver(edge, gradient)
            del gradient, gradients  # no local keeps a gradient alive past its use
        for leaf in leaves if hooked else ():
            for hook in getattr(leaf, "_hooks", None) or ():
                leaves[leaf] = _call_hook(hook, leaves[leaf])
    finally:
        mode.grad, mode.backward, mode.node = previous
        if casting is not None:
            mode.autocast = casting
    return leaves


def _merge(total, gradient):
    if isinstance(total, dict):  # the outputs of one Function, by position
        for i, g in gradient.items():
            total[i] = total[i] + g if i in total else g
        return total
    return total + gradient


def _call_hook(hook, gradient):
    untraceable("a gradient hook")
    result = hook(gradient)
    if result is None:
        return gradient
    if not isinstance(result, Tensor):
        raise ArgumentError(
            "a hook returns the tensor that replaces the gradient, or None to keep it",
            received=type(result).__name__,
            fix="return dc.as_tensor(…), or nothing",
        )
    if result.backend is not gradient.backend:
        raise mixed_backends("a hook's result", (gradient, result))
    if result.shape != gradient.shape:
        raise ShapeError(
            "a hook returned a gradient of another shape", expected=str(gradient.shape), received=str(result.shape)
        )
    return result if result.dtype == gradient.dtype else result.to(gradient.dtype)


def accumulate(leaf: Tensor, totals: dict[Tensor, Tensor], create_graph: bool) -> None:
    """leaf.grad += totals[leaf]; the first gradient is kept without a copy when nothing else holds its memory."""
    effect("accumulate", _accumulate, leaf, totals, create_graph)


def _accumulate(leaf: Tensor, totals: dict[Tensor, Tensor], create_graph: bool) -> None:
    # Through containers, whose references every Python version counts: one of the dict or slot, and one of the call.
    shared = sys.getrefcount(totals[leaf]) > 2 or sys.getrefcount(totals[leaf]._data) > 2
    total = totals[leaf]
    if create_graph:
        leaf.grad = leaf.grad + total if leaf.grad is not None else total.clone() if shared else total
        return
    raw = total._data
    if leaf.grad is None:
        # Accumulating in place into a view would change its base.
        if shared or raw.base is not None or not raw.flags.c_contiguous or total._storage is not None:
            raw = raw.copy()
        leaf.grad = Tensor(raw, leaf.backend)
    elif not isinstance(leaf.grad, Tensor) or leaf.grad._data.shape != raw.shape:
        raise GradientError(
            "a leaf's .grad holds something else than a gradient",
            expected=f"None, or a tensor of shape {leaf.shape}",
            received=f"shape {leaf.grad.shape}" if isinstance(leaf.grad, Tensor) else type(leaf.grad).__name__,
            fix="set it to None, or to a tensor of the leaf's shape and dtype",
        )
    elif leaf.grad._requires_grad or 0 in leaf.grad._data.strides:  # recorded or expanded: not writable in place
        leaf.grad = Tensor(leaf.grad._data + raw, leaf.backend)
    else:
        mode.enter(leaf.backend.add, leaf.grad._data, raw, out=leaf.grad._data)
        leaf.grad.bump_version()


class Handle:
    """Returned by registering a hook; `remove()` removes it."""

    def __init__(self, remove: Callable[[], None]):
        self.remove = remove

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc) -> None:
        self.remove()


def register_hook(tensor: Tensor, hook) -> Handle:
    """`Tensor.register_hook`."""
    if not tensor._requires_grad:
        raise GradientError("a hook on a tensor that does not require grad would never run")
    owner, name = (tensor, "_hooks") if tensor._node is None else (tensor._node, "hooks")

    def call(gradient):  # one object for each registration, so that removing it leaves other registrations of `hook`
        return hook(gradient)

    def replace(hooks: list) -> None:
        setattr(owner, name, hooks)
        changes.count += 1

    replace([*(getattr(owner, name, None) or ()), call])

    def remove():
        replace([h for h in getattr(owner, name) if h is not call])

    return Handle(remove)


def grad(
    outputs,
    inputs,
    grad_outputs=None,
    retain_graph=None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Σ d(outputs)/d(inputs), one gradient per input, nothing added to any `.grad`.

    `grad_outputs` are the vectors of the vector-Jacobian product (1 for outputs of one element); with `is_grads_batched`, each
    has a first dimension of several, and so have the gradients. An input that the outputs do not depend on is an error, or
    None with `allow_unused=True`, zeros with `materialize_grads=True`. `only_inputs` is True, as in PyTorch: `backward` adds to
    other leaves.
    """
    if not only_inputs:
        raise ArgumentError("autograd.grad gives gradients of the inputs alone", fix="use backward() for other leaves")
    if materialize_grads and allow_unused is False:
        raise ArgumentError("materialize_grads=True gives zeros for unused inputs", fix="leave allow_unused out")
    allow_unused = materialize_grads if allow_unused is None else allow_unused
    if is_grads_batched:
        gradients = _batched(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused)
    else:
        gradients = _grad(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused)
    if not materialize_grads:
        return gradients
    lead = (len(_sequence("autograd.grad", "grad_outputs", grad_outputs)[0]),) if is_grads_batched else ()
    return tuple(
        made(t.backend.zeros((*lead, *t.shape), dtype=t.dtype), t.backend) if g is None else g
        for t, g in zip(_sequence("autograd.grad", "inputs", inputs), gradients)
    )


def _batched(outputs, inputs, grad_outputs, retain_graph, create_graph: bool, allow_unused: bool) -> tuple:
    """`grad` for several vectors at once."""
    from deepcore.autograd.batching import vmap

    if grad_outputs is None:
        raise ArgumentError("is_grads_batched needs grad_outputs, whose first dimension it goes along")
    retain = create_graph if retain_graph is None else retain_graph
    used: list[int] = []

    def vectors(*starts):
        gradients = _grad(outputs, inputs, starts, retain, create_graph, allow_unused)
        used[:] = [i for i, g in enumerate(gradients) if g is not None]
        return [gradients[i] for i in used]

    parts = vmap(vectors)(*_sequence("autograd.grad", "grad_outputs", grad_outputs))
    results = dict(zip(used, parts))
    return tuple(results.get(i) for i in range(len(_sequence("autograd.grad", "inputs", inputs))))


def _grad(outputs, inputs, grad_outputs, retain_graph, create_graph: bool, allow_unused: bool) -> tuple:
    outputs, inputs = _sequence("autograd.grad", "outputs", outputs), _inputs("autograd.grad", inputs)
    starts = _vectors("autograd.grad", "grad_outputs", grad_outputs, outputs)
    roots = [(t, _start(t, g)) for t, g in zip(outputs, starts) if t._requires_grad or not allow_unused]
    targets = [t._node or t for t in inputs]
    watched: dict[Any, Any] = {key: None for key in targets if not isinstance(key, Tensor)}
    only = _reaching(targets, [t._node or t for t, _ in roots])
    roots = [(t, g) for t, g in roots if (t._node or t) in only]
    retain = create_graph if retain_graph is None else retain_graph
    leaves = _propagate(roots, retain, create_graph, only, watched)
    gradients = []
    for i, (t, key) in enumerate(zip(inputs, targets)):
        gradient = leaves.get(key) if isinstance(key, Tensor) else watched[key]
        if gradient is None and not allow_unused:
            raise GradientError(
                f"input {i} (shape {t.shape}) was not used to compute the outputs",
                fix="pass allow_unused=True to get None for it",
            )
        gradients.append(gradient)
    return tuple(gradients)


def partial_gradients(
    outputs: list[Tensor], inputs: list[Tensor], gradients: list[Tensor], create_graph: bool = False
) -> list[Tensor | None]:
    """`grad` that treats inputs as independent, even if one was computed from another; None for an input that no output
    depends on. The graph is not freed."""
    return gradients_at([t._node or t for t in inputs], list(zip(outputs, gradients)), create_graph)


def gradients_at(targets: list, roots: list[tuple[Tensor, Tensor]], create_graph: bool, hooked: bool = True) -> list:
    """The gradients that reach `targets`, nodes and leaves, from (tensor, gradient) pairs; None where none does."""
    nodes = [key for key in targets if not isinstance(key, Tensor)]
    watched: dict[Any, Any] = dict.fromkeys(nodes)
    only = _reaching(targets, [t._node or t for t, _ in roots], stop := set(nodes))
    leaves = _propagate(roots, True, create_graph, only, watched, stop, hooked)
    return [leaves.get(key) if isinstance(key, Tensor) else watched[key] for key in targets]


def _sequence(function: str, name: str, value) -> tuple:
    if isinstance(value, Tensor):
        return (value,)
    tensors = tuple(value) if hasattr(value, "__iter__") else (value,)
    if any(t is not None and not isinstance(t, Tensor) for t in tensors):
        raise ArgumentError(f"{function}: {name} is a tensor or a sequence of tensors", received=type(value).__name__)
    return tensors


def _vectors(function: str, name: str, value, outputs: tuple) -> tuple:
    """The vectors of a vector-Jacobian product, one for each output; None stands for 1."""
    if value is None:
        return (None,) * len(outputs)
    several = isinstance(value, (list, tuple)) and any(v is None or isinstance(v, Tensor) for v in value)
    if len(outputs) == 1 and not several:
        return (value,)
    vectors = _sequence(function, name, value)
    if len(vectors) != len(outputs):
        raise ArgumentError(f"{function}: {name} needs one entry per output: {len(outputs)}, not {len(vectors)}")
    return vectors


def _inputs(function: str, value) -> tuple:
    inputs = _sequence(function, "inputs", value)
    for i, t in enumerate(inputs):
        if not t._requires_grad:
            raise GradientError(f"input {i} does not require grad", fix="requires_grad_() before it is used")
    if not inputs:
        raise ArgumentError(f"{function}: inputs are empty", fix="pass the tensors to differentiate with respect to")
    return inputs


def _reaching(targets: list, roots: list, stop: Container = ()) -> set:
    """The nodes and leaves on paths from `roots` to `targets`; `stop`: those at which paths end."""
    reach = set(targets)
    visited = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, expanded = stack.pop()
        if isinstance(node, Tensor) or node in stop:
            continue
        if expanded:
            if any(edge in reach for edge in node.edges if edge is not None):
                reach.add(node)
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            stack.extend((edge, False) for edge in node.edges if edge is not None)
    return reach
