"""`apply`, through which every op runs, and the graph that it records."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from deepcore import locks
from deepcore.backend import backend_of
from deepcore.backend import dtypes as dt
from deepcore.config import settings
from deepcore.effects import mode
from deepcore.errors import (
    ArgumentError,
    BackendError,
    DeepcoreError,
    DTypeError,
    GradientError,
    IndexRangeError,
    ShapeError,
)
from deepcore.tensor import Storage, Tensor, as_tensor

_NO_PARAMS: dict[str, Any] = {}
next_id = itertools.count().__next__


#: Number of threads with a hook: without any, `apply` skips the look-up in the thread's mode.
watchers = 0
_watching = locks.lock()


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Inside, ops call this thread's hook."""
    global watchers
    with _watching:
        watchers += 1
    try:
        yield
    finally:
        with _watching:
            watchers -= 1


def apply(op, inputs: tuple[Tensor, ...], params: dict[str, Any] = _NO_PARAMS, watched: bool = True) -> Tensor:
    """Run `op` on tensors, and record a node if the result requires a gradient.

    Every op runs through here, so a hook sees all of them; with `watched=False` the hook runs the op itself.
    """
    if watchers and watched and mode.hook is not None:
        if not all(isinstance(t, Tensor) for t in inputs):
            inputs = tuple(constant(op.label, t) for t in inputs)
        return mode.hook(op, inputs, params)
    first = inputs[0]
    result: Any = None
    if op.lowering is not None and not watchers and settings.kernels:
        result = _run_plan(op, op.lowering, inputs, params)
        if result is not None and result is not False:
            return result
    try:
        backend = first.backend
        impl = op.forward if result is False else backend.impls.get(op) or backend.bind(op)
        if not op.complex:
            for t in inputs:
                if t._data.dtype.kind == "c":
                    raise not_complex(op.label, t)
        if len(inputs) == 1:
            recorded = first._requires_grad
            if params:
                out = mode.enter(impl, backend, first._data, **params)
            else:
                out = mode.enter(impl, backend, first._data)
        elif len(inputs) == 2 and not params:
            second = inputs[1]
            if second.backend is not backend:
                raise mixed_backends(op.label, inputs)
            recorded = first._requires_grad or second._requires_grad
            out = mode.enter(impl, backend, first._data, second._data)
        else:
            recorded = False
            for t in inputs:
                if t.backend is not backend:
                    raise mixed_backends(op.label, inputs)
                recorded = recorded or t._requires_grad
            out = mode.enter(impl, backend, *[t._data for t in inputs], **params)
    except DeepcoreError:
        raise
    except AttributeError:  # checked on failure only: a check up front would cost every op
        if all(isinstance(t, Tensor) for t in inputs):
            raise
        symbol: Any = next((t for t in inputs if hasattr(type(t), "record_call")), None)
        if symbol is not None:  # a symbolic tensor: `nn.model`
            return symbol.record_call(op, inputs, params)
        return apply(op, tuple(constant(op.label, t) for t in inputs), params, watched)
    except (ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise explain(op, inputs, params, error) from error
    except RuntimeError as error:
        # A signal handler, a finalizer or a debugger may compute while a forward of this thread is running.
        if not str(error).startswith("cannot enter context"):
            raise
        recorded = any(t._requires_grad for t in inputs)
        out = impl(backend, *[t._data for t in inputs], **params)  # already inside the context without NumPy's warnings
    if out.__class__ is not first._data.__class__:  # nearly always the same type, and a cheaper test than isinstance
        if out.__class__ is tuple:
            if op.many:
                return tuple(Tensor(array, backend) for array in out)  # type: ignore[return-value]
            out, *aux = out  # auxiliary results for the gradient
            params = {**params, "aux": tuple(aux)}
        if not isinstance(out, backend.array_type):
            out = backend.asarray(out)
    if recorded and op.differentiable and mode.grad:
        node = Node(op, inputs, params, out)
        result = Tensor(out, backend, True, node)
        if node.storage is not None:
            result._storage = node.storage
    else:
        result = Tensor(out, backend)
    if op.view is not None:
        _link_view(result, first, op, params)
    return result


def not_complex(name: str, t: Tensor) -> DTypeError:
    """The error for an op that is not defined for complex tensors."""
    return DTypeError(
        f"{name} is not defined for complex tensors",
        expected="a real dtype",
        received=brief(t),
        fix="apply it to real numbers: t.abs(), t.angle(), t.real and t.imag, or both parts as dc.view_as_real(t)",
    )


def _run_plan(op, lowering, inputs: tuple[Tensor, ...], params: dict[str, Any]) -> Any:
    """`apply` by the op's plan for these specs; False: no plan applies, None: the backend's implementation decides."""
    count = len(inputs)
    first = inputs[0]
    try:
        if count == 1:
            key: Any = first._spec or specify(first)
            recorded = first._requires_grad
        elif count == 2:
            second = inputs[1]
            key = first._spec or specify(first), second._spec or specify(second)
            recorded = first._requires_grad or second._requires_grad
        else:
            key = tuple([t._spec or specify(t) for t in inputs])
            recorded = any(t._requires_grad for t in inputs)
        if params:
            params_key = lowering.key(params)
            if params_key is not None:
                key = key, params_key
        plan = lowering.plans.get(key)
        slots: list | None = None
        if lowering.has_slots:
            slots = [params[name].__float__() for name in lowering.floats]
            if lowering.draws:
                slots.insert(0, lowering.draw_state(params))
    except (AttributeError, KeyError, TypeError):  # not a tensor; a missing parameter or one of a wrong type
        return None
    if plan is None:
        plan = lowering.plan(key, [t._spec for t in inputs], params)
    if plan is False or plan is True:
        return None if plan else False
    if plan.many:
        return _run_plan_many(op, lowering, plan, inputs, params, slots or (), recorded)
    out = plan.empty(plan.shape, plan.dtype)
    if slots is not None:
        status = plan.call(*[t._data for t in inputs], *slots, out)
    elif count == 1:
        status = plan.call(first._data, out)
    elif count == 2:
        status = plan.call(first._data, second._data, out)
    else:
        status = plan.call(*[t._data for t in inputs], out)
    if status is not None:
        return _handle_stop(lowering, plan, status, inputs, params)
    if recorded and op.differentiable and mode.grad:
        node = Node(op, inputs, params, out)
        result = Tensor(out, first.backend, True, node, plan.spec)
        if node.storage is not None:
            result._storage = node.storage
        return result
    return Tensor(out, first.backend, False, None, plan.spec)


def _run_plan_many(op, lowering, plan, inputs: tuple[Tensor, ...], params: dict[str, Any], slots, recorded: bool):
    """Run a plan with several results: a tuple of tensors, or a tensor and auxiliary arrays for its gradient."""
    outputs = plan.outputs()
    status = plan.call(*[t._data for t in inputs], *slots, *outputs)
    if status is not None:
        return _handle_stop(lowering, plan, status, inputs, params)
    backend = inputs[0].backend
    if op.many:
        return tuple([Tensor(out, backend, False, None, spec) for out, spec in zip(outputs, plan.results)])
    out = outputs[0]
    if recorded and op.differentiable and mode.grad:
        node = Node(op, inputs, {**params, "aux": tuple(outputs[1:])}, out)
        result = Tensor(out, backend, True, node, plan.spec)
        if node.storage is not None:
            result._storage = node.storage
        return result
    return Tensor(out, backend, False, None, plan.spec)


def _handle_stop(lowering, plan, status: int, inputs: tuple[Tensor, ...], params: dict[str, Any]) -> bool:
    """Raise the error that a kernel stopped with, or return False so that the reference runs and raises."""
    if lowering.on_stop is None:
        plan.stopped(status)
    lowering.on_stop(inputs[0].backend, [t._data for t in inputs], params)
    return False


def specify(t: Tensor):
    """Compute a tensor's spec and cache it on the tensor."""
    global _spec_of
    if _spec_of is None:
        from deepcore.kernels.plan import spec_of as _spec_of
    spec = t._spec = _spec_of(t._data, t.backend)
    if not t._data.ndim:
        t.backend.number_specs[t._data.dtype] = spec
    return spec


_spec_of: Any = None


def run(op, inputs: tuple[Tensor, ...], params: dict[str, Any] = _NO_PARAMS) -> Tensor:
    """`apply` without the hook."""
    return apply(op, inputs, params, False)


def constant(name: str, value) -> Tensor:
    """An operand of the function `name`: a tensor, or an array of NumPy or CuPy, which becomes a constant tensor."""
    if isinstance(value, Tensor):
        return value
    if is_array(value):
        return as_tensor(value)
    raise not_a_tensor(name, value)


def is_array(value) -> bool:
    """Whether functions accept `value` as a tensor: arrays and scalars of the backends' libraries."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and backend_of(value) is not None


def not_a_tensor(name: str, value) -> DTypeError:
    kind, fix = type(value), "dc.tensor(…) makes one"
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        fix = "pass the tensors one by one, or dc.stack(…) them"
    elif hasattr(value, "__dlpack__"):
        fix = "dc.as_tensor(…) shares its memory"
    elif hasattr(kind, "record_call"):
        method = f"its method, x.{name}(…), or " if hasattr(Tensor, name) else ""
        fix = f"on a symbolic tensor {method}a Module that calls {name} in its forward"
    package = kind.__module__.partition(".")[0]
    return DTypeError(
        f"{name} takes tensors",
        expected="a tensor, or an array of NumPy or CuPy",
        received="None" if value is None else kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}",
        fix=fix,
    )


def wrong_argument(name: str, arguments, error: Exception) -> DTypeError | None:
    """The error that names a function's argument that is not a tensor, or None if `error` has another cause."""
    if isinstance(error, AttributeError) and error.name is not None:  # raised by the interpreter
        for value in arguments:
            foreign = hasattr(value, "__dlpack__") and not is_array(value)
            if not isinstance(value, Tensor) and (value is error.obj or foreign):
                return not_a_tensor(name, value)
    return None


def mixed_backends(name: str, inputs: Sequence[Tensor]) -> BackendError:
    first = inputs[0]
    other = next(t for t in inputs if t.backend is not first.backend)
    return BackendError(
        f"{name}: the operands live on two backends, and nothing is moved implicitly",
        received=f"{brief(first)} and {brief(other)}",
        fix=f'move one of them: t.to("{first.backend}") or t.to("{other.backend}")',
    )


def brief(t: Tensor) -> str:
    return f"{dt.name_of(t.dtype)}{list(t.shape)} on {t.backend}"


def explain(op, inputs, params, error: Exception) -> DeepcoreError:
    """The array library's error as a typed error with the op and its operands."""
    kind: type[DeepcoreError] = ArgumentError
    if isinstance(error, IndexError):
        kind = IndexRangeError
    elif isinstance(error, TypeError):
        kind = DTypeError
    elif any(word in str(error) for word in ("shape", "dimension", "broadcast", "axis", "axes", "size")):
        kind = ShapeError
    text = ", ".join(f"{k}={v!r}" for k, v in params.items())
    shapes = " and ".join(brief(t) for t in inputs)
    return kind(f"{op.label}: {error}", received=shapes + (f"; {text}" if text else ""), fix=op.hint(inputs, params))


def conj(t: Tensor) -> Tensor:
    """The complex conjugate; a real tensor itself."""
    return t if t._data.dtype.kind != "c" else conjugate(t)


#: The op that computes conjugates; set by ops.complex.
conjugate: Any = None

# -- the graph ----------------------------------------------------------------------------------------------


class Node:
    """One recorded application of an op: the values that its VJPs read, and the edges that gradients follow.

    It never owns its output tensor (only the raw array, where a VJP reads it), so a graph has no cycles.
    """

    __slots__ = ("__weakref__", "edges", "hooks", "id", "op", "out", "params", "saved", "storage", "versions")

    def __init__(self, op, inputs, params, out):
        self.id = next_id()
        self.op = op
        self.params = params
        self.hooks = None
        # Nearly all nodes have one or two inputs, for which a loop would cost a third of recording.
        if len(inputs) == 1:
            (t,) = inputs
            self.edges = (t._node or t,)
            needed, needs_out = op.saves.get(1) or op.plan_saves(1, 1)
            self.saved = (t if needed[0] else t._data.shape,)
            written = t._storage is not None
        elif len(inputs) == 2:
            t, u = inputs
            first, second = t._requires_grad, u._requires_grad
            self.edges = ((t._node or t) if first else None, (u._node or u) if second else None)
            mask = first + 2 * second
            needed, needs_out = op.saves.get(mask) or op.plan_saves(mask, 2)
            self.saved = (t if needed[0] else t._data.shape, u if needed[1] else u._data.shape)
            written = t._storage is not None or u._storage is not None
        else:
            self.edges = tuple((t._node or t) if t._requires_grad else None for t in inputs)
            mask = sum(1 << i for i, t in enumerate(inputs) if t._requires_grad)
            needed, needs_out = op.saves.get(mask) or op.plan_saves(mask, len(inputs))
            self.saved = tuple(t if keep else t._data.shape for t, keep in zip(inputs, needed))
            written = True
        self.versions = {i: t.version for i, t in enumerate(inputs) if needed[i] and t.version} if written else None
        if needs_out:
            self.out = out
            self.storage = Storage()
        else:
            self.out = self.storage = None

    @property
    def name(self) -> str:
        """`MulBackward`."""
        return "".join(part.capitalize() for part in self.op.label.split("_")) + "Backward"

    @property
    def next_functions(self) -> tuple:
        """The nodes (or leaf tensors) the gradients go to."""
        return tuple(edge for edge in self.edges if edge is not None)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def add_hook(self, hook) -> None:
        self.hooks = [*(self.hooks or ()), hook]

    def backward(self, g: Tensor) -> list[Tensor | None]:
        """One gradient per input, None where none is wanted."""
        if self.saved is None:
            raise GradientError(
                f"{self.name}: the graph was already freed by an earlier backward",
                fix="pass retain_graph=True to the first backward, or compute the loss again",
            )
        op = self.op
        gradients: list[Tensor | None]
        analytic = op.analytic and g._data.dtype.kind == "c"
        if analytic:
            g = conj(g)
        if op.joint:
            results = op.vjps[0](*self._arguments(op.vjp_plan(0)[1], g, 0))
            gradients = [None if edge is None else results[i] for i, edge in enumerate(self.edges)]
        else:
            gradients = []
            for i, edge in enumerate(self.edges):
                function, plan = (None, None) if edge is None else op.vjp_plan(i)
                gradients.append(None if function is None else function(*self._arguments(plan, g, i)))
        if analytic:
            gradients = [None if gradient is None else conj(gradient) for gradient in gradients]
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                saved = self.saved[i]
                shape = saved._data.shape if isinstance(saved, Tensor) else saved
                if gradient._data.shape != shape:
                    gradients[i] = op.sum_to(gradient, shape)
        return gradients

    def _arguments(self, plan, g: Tensor, i: int) -> list[Any]:
        """The arguments of the VJP of input `i`, by its plan."""
        saved = self.saved
        arguments: list[Any] = []
        for kind, key in plan:
            if kind == "g":
                arguments.append(g)
            elif kind == "input":
                arguments.append(self._saved_input(key) if key < len(saved) else None)
            elif kind == "shape":
                value = saved[key] if key < len(saved) else None
                arguments.append(value._data.shape if isinstance(value, Tensor) else value)
            elif kind == "out":
                arguments.append(self._saved_output(g.backend))
            elif kind == "rest":
                arguments.append([self._saved_input(k) for k in range(key, len(saved))])
            elif kind == "shapes":
                arguments.append([x._data.shape if isinstance(x, Tensor) else x for x in saved])
            elif kind == "i":
                arguments.append(i)
            elif kind == "needs":
                arguments.append(tuple(edge is not None for edge in self.edges))
            elif key == "aux":  # absent where the forward was not asked for it
                arguments.append(self.params.get(key))
            else:
                arguments.append(self.params[key])
        return arguments

    def _saved_input(self, i: int) -> Tensor:
        t = self.saved[i]
        storage = t._storage
        if storage is not None and storage.version != (self.versions.get(i, 0) if self.versions else 0):
            raise stale(self.name, f"input {i} (shape {t.shape})")
        return t

    def _saved_output(self, backend) -> Tensor:
        if self.storage.version:
            raise stale(self.name, "its output")
        return Tensor(self.out, backend, True, self)

    def free(self) -> None:
        self.saved = self.out = self.params = None


def stale(name: str, what: str) -> GradientError:
    return GradientError(
        f"{name}: {what} is needed for the gradient, but was overwritten by an in-place operation",
        fix="use the operation that makes a new tensor (x = x + 1 for x += 1), or clone() before overwriting",
    )


def _link_view(view: Tensor, source: Tensor, op, params) -> None:
    """Register `view` as a view of `source`, so that writing to either updates both."""
    if op.view != "always":
        base = view._data.base  # None, or the copy itself, where `view` is a copy
        if base is None:
            return
        raw = source._data
        if base is not raw and base is not raw.base and not view.backend.may_share_memory(view._data, raw):
            return
    storage = source._storage
    if storage is None:
        storage = source._storage = Storage()
    view._storage = storage
    if source._base is None:
        view._base = (source, (None, op, params))
    else:
        base, chain = source._base
        view._base = (base, (chain, op, params))
    storage.add_view(view)


def view_steps(chain) -> tuple:
    """The view ops, as (op, params), that lead from a base to the view with this chain: (chain before, op, params)."""
    steps = []
    while chain is not None:
        chain, op, params = chain
        steps.append((op, params))
    return tuple(reversed(steps))
