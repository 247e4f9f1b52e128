"""Operations with a user-defined backward."""

from __future__ import annotations

from deepcore.autograd.graph import Node, mixed_backends, mode, next_id, stale
from deepcore.autograd.modes import no_grad
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, BackendError, GradientError, ShapeError
from deepcore.tensor import Tensor, made


class Context:
    """State of a `Function` between forward and backward."""

    def __init__(self, needs_input_grad: tuple[bool, ...]):
        self.needs_input_grad = needs_input_grad
        self._saved: tuple = ()
        self._versions: tuple = ()
        self._outputs: dict[int, int] = {}
        self._node: FunctionNode | None = None
        self._constant: set[int] = set()
        self._materialize = True

    def save_for_backward(self, *tensors) -> None:
        """Keep inputs or outputs; read them back as `saved_tensors`, checked against overwriting."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise ArgumentError(
                    "save_for_backward keeps tensors",
                    received=type(t).__name__,
                    fix="keep other values as attributes: ctx.scale = scale",
                )
        self._saved = tensors
        self._versions = tuple(None if t is None else t.version for t in tensors)

    @property
    def saved_tensors(self) -> tuple:
        tensors = []
        for t, version in zip(self._saved, self._versions):
            if t is not None and t.version != version:
                raise stale("Function", f"a saved tensor (shape {t.shape})")
            if t is not None and id(t) in self._outputs and self._node is not None:
                t = Tensor(t._data, t.backend, True, self._node.output(self._outputs[id(t)]))
            tensors.append(t)
        return tuple(tensors)

    def mark_non_differentiable(self, *outputs) -> None:
        """These outputs have no gradient."""
        self._constant |= {id(t) for t in outputs}

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (default) or None for outputs without a gradient."""
        self._materialize = bool(value)


class Function:
    """An operation with a backward of your own, as torch.autograd.Function.

    Subclass with static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`, which returns one gradient
    (or None) per argument of forward, and call `apply`. A backward made of tensor operations can be differentiated
    again.
    """

    @staticmethod
    def forward(ctx: Context, *args, **kwargs):
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gradients):
        raise NotImplementedError

    @classmethod
    def apply(cls, *args, **kwargs):
        tensors = [a for a in args if isinstance(a, Tensor)]
        for t in tensors[1:]:
            if t.backend is not tensors[0].backend:
                raise mixed_backends(cls.__name__, tensors)
        for name, value in kwargs.items():
            if isinstance(value, Tensor) and value._requires_grad and mode.grad:
                raise GradientError(
                    f"{cls.__name__}: {name} requires grad, and keyword arguments have no gradient",
                    fix="pass it by position, or detach() it",
                )
        needs = tuple(isinstance(a, Tensor) and a._requires_grad and mode.grad for a in args)
        ctx = Context(needs)
        with no_grad():
            result = cls.forward(ctx, *args, **kwargs)
        single = isinstance(result, Tensor)
        if not single and not isinstance(result, (tuple, list)):
            raise ArgumentError(
                f"{cls.__name__}.forward returns a tensor, or a tuple of tensors and other values",
                received=type(result).__name__,
            )
        outputs = (result,) if single else tuple(result)
        if any(needs):
            node = FunctionNode(cls, ctx, args, outputs, single)
            ctx._outputs = {id(t): i for i, t in enumerate(outputs)}
        results = []
        for i, t in enumerate(outputs):
            if not isinstance(t, Tensor):
                results.append(t)
                continue
            # Writing to an output over an argument's memory would change the argument without raising its version.
            shared = any(needs) and any(t is a or (t._storage and t._storage is a._storage) for a in tensors)
            out = Tensor(t._data.copy() if shared else t._data, t.backend)
            if not shared:
                out._storage = t.storage()
            if any(needs) and id(t) not in ctx._constant and dt.is_inexact(t.dtype):
                out._node, out._requires_grad = node.output(i), True
            results.append(out)
        return results[0] if single else tuple(results)


class FunctionNode(Node):
    """The node of a `Function`; with several outputs, gradients arrive as {position: gradient}."""

    __slots__ = ("ctx", "function", "like", "single")

    def __init__(self, function, ctx, args, outputs, single):
        self.id = next_id()
        self.function, self.ctx, self.single = function, ctx, single
        self.edges = [(a._node or a) if need else None for a, need in zip(args, ctx.needs_input_grad)]
        self.saved = [(a._data.shape, a._data.dtype, a.backend) if isinstance(a, Tensor) else None for a in args]
        self.like = [(t._data.shape, t.dtype, t.backend) if isinstance(t, Tensor) else None for t in outputs]
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = None

    @property
    def name(self) -> str:
        return f"{self.function.__name__}Backward"

    def output(self, i: int) -> Node:
        return self if self.single else OutputNode(self, i)

    def backward(self, g) -> list:
        if self.saved is None:
            Node.backward(self, g)  # raises
        gradients = {0: g} if self.single else g
        if self.ctx._materialize:
            for i, like in enumerate(self.like):
                if i not in gradients and like is not None:
                    shape, dtype, xp = like
                    gradients[i] = made(xp.zeros(shape, dtype=dtype), xp)
        self.ctx._node = self
        try:
            result = self.function.backward(self.ctx, *(gradients.get(i) for i in range(len(self.like))))
        finally:
            self.ctx._node = None
        result = list(result) if isinstance(result, (tuple, list)) else [result]
        while len(result) > len(self.edges) and result[-1] is None:  # for defaults that were not passed
            result.pop()
        if len(result) != len(self.edges):
            raise GradientError(
                f"{self.function.__name__}.backward returned {len(result)} gradients",
                expected=f"one per argument of forward: {len(self.edges)}",
                fix="return None for arguments that are not tensors",
            )
        return [
            None if edge is None or gradient is None else self._fit(i, gradient)
            for i, (edge, gradient) in enumerate(zip(self.edges, result))
        ]

    def _fit(self, i: int, gradient) -> Tensor:
        """Gradient `i`, converted to its argument's dtype, and summed to its shape where the argument was broadcast."""
        shape, dtype, backend = self.saved[i]
        name = self.function.__name__
        if not isinstance(gradient, Tensor):
            raise GradientError(
                f"{name}.backward: gradient {i} is not a tensor",
                expected="a Tensor or None",
                received=type(gradient).__name__,
                fix="make gradients with tensor operations, or dc.as_tensor(…)",
            )
        if gradient.backend is not backend:
            raise BackendError(
                f"{name}.backward: gradient {i} is on {gradient.backend}, and its argument on {backend}",
                fix=f'gradient.to("{backend}")',
            )
        if gradient.shape != shape:
            lead = gradient.ndim - len(shape)
            if lead < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[lead:])):
                raise ShapeError(
                    f"{name}.backward: gradient {i} does not fit its argument",
                    expected=f"{shape}, or a shape that it broadcasts to",
                    received=str(gradient.shape),
                )
            dims = [k for k in range(gradient.ndim) if k < lead or shape[k - lead] != gradient.shape[k]]
            gradient = gradient.sum(dims).reshape(shape)
        return gradient if gradient.dtype == dtype else gradient.to(dtype)

    def free(self) -> None:
        self.saved = None
        self.ctx._saved = ()


class OutputNode(Node):
    """One output of a `Function` with several: passes its gradient on, keyed by position."""

    __slots__ = ("position",)

    def __init__(self, parent: FunctionNode, position: int):
        self.id = next_id()
        self.position = position
        self.edges = [parent]
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = self.saved = None

    @property
    def name(self) -> str:
        return self.edges[0].name

    def backward(self, g) -> list:
        return [{self.position: g}]

    def free(self) -> None:
        pass
