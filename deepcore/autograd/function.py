"""Operations with a user-defined backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore.autograd.batching import BatchLevel
from deepcore.autograd.forward import ForwardLevel, transposed, zeros_like
from deepcore.autograd.graph import Node, mixed_backends, mode, next_id, stale
from deepcore.autograd.levels import Level, Lifted
from deepcore.autograd.modes import enable_grad, no_grad
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
        #: The vmap that this call is the batch of, whose tensors it saves.
        self._level: Level | None = None

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

    def save_for_forward(self, *tensors) -> None:
        """Keep tensors for `jvp`, which reads them as `saved_tensors`."""
        self.save_for_backward(*tensors)

    @property
    def saved_tensors(self) -> tuple:
        tensors = []
        for t, version in zip(self._saved, self._versions):
            if t is not None and t.version != version:
                raise stale("Function", f"a saved tensor (shape {t.shape})")
            if t is not None and id(t) in self._outputs and self._node is not None:
                t = self._connected(t, self._node.output(self._outputs[id(t)]))
            tensors.append(t)
        return tuple(tensors)

    def _connected(self, t: Tensor, node: Node) -> Tensor:
        """A saved output as the result of the node."""
        if not isinstance(t, Lifted):
            return Tensor(t._data, t.backend, True, node)
        if t.level is not self._level:
            return t.twin(node)
        content = t.content
        inner = (
            content.twin(node) if isinstance(content, Lifted) else Tensor(content._data, content.backend, True, node)
        )
        return t.level.lift(inner, mapped=t.mapped)

    def mark_non_differentiable(self, *outputs) -> None:
        """These outputs have no gradient."""
        self._constant |= {id(t) for t in outputs}

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (default) or None for outputs without a gradient."""
        self._materialize = bool(value)


#: PyTorch's name of the class.
FunctionCtx = Context


class VmapInfo(NamedTuple):
    """What `Function.vmap` gets: the number of examples, and the `randomness` of the vmap."""

    batch_size: int
    randomness: str


class Function:
    """An operation with a backward of your own, as torch.autograd.Function.

    Subclass with static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`, which returns one gradient
    (or None) per argument of forward, and call `apply`. A backward made of tensor operations can be differentiated
    again. Or with `forward(*args)` and `setup_context(ctx, inputs, output)`, which saves what backward needs.

    Inside of `vmap`, forward and backward run on tensors of one example, and compute the batch if they are made of tensor
    operations (`generate_vmap_rule` says the same in PyTorch, and changes nothing here). Otherwise define
    `vmap(info, in_dims, *args) -> (output, out_dims)`, whose arguments have the batch at the dimensions `in_dims`. Inside of
    `jvp`, tangents are those of `jvp(ctx, *tangents)`, if defined, else the transpose of backward.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(*args, **kwargs):
        raise NotImplementedError("a Function defines forward")

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output):
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Context, *gradients):
        raise NotImplementedError("a Function defines backward, or is not differentiated")

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple, *args):
        raise NotImplementedError

    @staticmethod
    def jvp(ctx: Context, *tangents):
        raise NotImplementedError

    @classmethod
    def _defines(cls, name: str) -> bool:
        return getattr(cls, name) is not getattr(Function, name)

    @classmethod
    def _run(cls, ctx: Context, args: tuple, kwargs: dict):
        """The result of forward, with what it saves in `ctx`."""
        if not cls._defines("setup_context"):
            return cls.forward(ctx, *args, **kwargs)
        result = cls.forward(*args, **kwargs)
        cls.setup_context(ctx, args, result)
        return result

    @classmethod
    def apply(cls, *args, **kwargs):
        if mode.level is not None:
            return _apply_in_level(cls, mode.level, args, kwargs)
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
            result = cls._run(ctx, args, kwargs)
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


def _apply_in_level(cls, level: Level, args: tuple, kwargs: dict):
    """`Function.apply` inside of a vmap or jvp: the level computes the values, and records a node of its own."""
    if not any(isinstance(a, Tensor) and level.owns(a) for a in args):
        with level.outside():
            return cls.apply(*args, **kwargs)
    if isinstance(level, BatchLevel):
        result = _mapped(cls, level, args, kwargs)
    else:
        assert isinstance(level, ForwardLevel)
        result = _with_tangents(cls, level, args, kwargs)
    needs = tuple(isinstance(a, Tensor) and level.owns(a) and a._requires_grad and mode.grad for a in args)
    if not any(needs):
        return result
    single = isinstance(result, Tensor)
    outputs = (result,) if single else tuple(result)
    ctx = Context(needs)
    with no_grad():
        if cls._defines("setup_context"):
            cls.setup_context(ctx, args, result)
        else:  # the state that forward leaves; its values are those above
            again = cls.forward(ctx, *args, **kwargs)
            own = {id(t): k for k, t in enumerate((again,) if isinstance(again, Tensor) else again)}
            ctx._saved = tuple(outputs[own[id(t)]] if t is not None and id(t) in own else t for t in ctx._saved)
            ctx._versions = tuple(None if t is None else t.version for t in ctx._saved)
            ctx._constant = {id(outputs[own[i]]) for i in ctx._constant if i in own}
    node = FunctionNode(cls, ctx, args, outputs, single)
    ctx._outputs = {id(t): i for i, t in enumerate(outputs)}
    results = []
    for i, t in enumerate(outputs):
        if isinstance(t, Lifted) and id(t) not in ctx._constant and dt.is_inexact(t.dtype):
            t = t.twin(node.output(i))
        results.append(t)
    return results[0] if single else tuple(results)


def _mapped(cls, level: BatchLevel, args: tuple, kwargs: dict):
    contents = tuple(level.content(a) if isinstance(a, Tensor) else a for a in args)
    mapped = tuple(isinstance(a, Lifted) and level.owns(a) and a.mapped for a in args)
    with level.outside():
        if not any(mapped):
            return _lifted(level, cls.apply(*contents, **kwargs), None)
        if cls._defines("vmap"):
            if cls.generate_vmap_rule:
                raise ArgumentError(
                    f"{cls.__name__} has a vmap of its own, and generate_vmap_rule", fix="leave out one of them"
                )
            info = VmapInfo(level.size, level.randomness)
            result = cls.vmap(info, tuple(0 if m else None for m in mapped), *contents, **kwargs)
            if not isinstance(result, tuple) or len(result) != 2:
                raise ArgumentError(
                    f"{cls.__name__}.vmap returns a pair: the output, and the dimensions of the batch in it",
                    received=type(result).__name__,
                )
            return _lifted(level, *result)
        return _lifted(level, _batched(cls, level, mapped, kwargs).apply(*contents), 0)


def _lifted(level: Level, result, dims):
    """Outputs as tensors of the level; `dims`: where each has its batch, or None."""
    if not isinstance(result, (tuple, list)):
        result, dims, single = (result,), (dims,), True
    else:
        single = False
        dims = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,) * len(result)
    outs = []
    for t, d in zip(result, dims):
        if isinstance(t, Tensor):
            t = level.lift(t if not d else t.movedim(d, 0), mapped=d is not None)
        outs.append(t)
    return outs[0] if single else tuple(outs)


def _batched(cls, level: BatchLevel, mapped: tuple[bool, ...], kwargs: dict) -> type[Function]:
    """`cls` of one example as a Function of the batch; inside of forward and backward, the level runs again."""

    class Batched(Function):
        @staticmethod
        def forward(ctx, *contents):
            with level.running():
                args = tuple(level.lift(c, mapped=m) if isinstance(c, Tensor) else c for c, m in zip(contents, mapped))
                ctx.inner = inner = Context(ctx.needs_input_grad)
                inner._level = level
                result = cls._run(inner, args, kwargs)
                single = isinstance(result, Tensor)
                outs = (result,) if single else tuple(result)
                inner._outputs = {id(t): i for i, t in enumerate(outs)}
            full = tuple(_whole(level, t) if isinstance(t, Tensor) else t for t in outs)
            ctx.mark_non_differentiable(*(f for f, t in zip(full, outs) if id(t) in inner._constant))
            ctx.set_materialize_grads(inner._materialize)
            return full[0] if single else full

        @staticmethod
        def backward(ctx, *gradients):
            inner = ctx.inner
            inner._node = ctx._node
            try:
                with level.running():
                    lifted = [None if g is None else level.lift(g, mapped=True) for g in gradients]
                    result = cls.backward(inner, *lifted)
            finally:
                inner._node = None
            result = list(result) if isinstance(result, (tuple, list)) else [result]
            return tuple(
                g if not isinstance(g, Tensor) else _whole(level, g) if m else _whole(level, g).sum(0)
                for g, m in zip(result, (*mapped, *(False,) * len(result)))
            )

    Batched.__name__ = cls.__name__
    return Batched


def _whole(level: BatchLevel, t: Tensor) -> Tensor:
    """The content of `t` with the batch dimension."""
    content = level.content(t)
    if isinstance(t, Lifted) and level.owns(t) and t.mapped:
        return content
    return content.unsqueeze(0).expand((level.size, *content.shape))


def _with_tangents(cls, level: ForwardLevel, args: tuple, kwargs: dict):
    contents = tuple(level.content(a) if isinstance(a, Tensor) else a for a in args)
    tangents = [a.tangent if isinstance(a, Lifted) and level.owns(a) else None for a in args]
    with level.outside():
        if all(t is None for t in tangents):
            return _lifted(level, cls.apply(*contents, **kwargs), None)
        if not cls._defines("jvp"):
            function = lambda *values: cls.apply(*values, **kwargs)
            result, moved = transposed(function, contents, tangents)
        else:
            result = cls.apply(*contents, **kwargs)
            ctx = Context(tuple(t is not None for t in tangents))
            with no_grad():
                if cls._defines("setup_context"):
                    cls.setup_context(ctx, contents, result)
                else:
                    cls.forward(ctx, *contents, **kwargs)
            if ctx._materialize:
                tangents = [
                    zeros_like(c) if t is None and isinstance(c, Tensor) and dt.is_inexact(c.dtype) else t
                    for t, c in zip(tangents, contents)
                ]
            with enable_grad() if mode.grad else no_grad():
                moved = cls.jvp(ctx, *tangents)
            moved = tuple(moved) if isinstance(moved, (tuple, list)) else (moved,)
    if isinstance(result, Tensor):
        return level.lift(result, moved[0])
    return tuple(level.lift(t, v) if isinstance(t, Tensor) else t for t, v in zip(result, moved))


def once_differentiable(backward: Callable) -> Callable:
    """Decorator of a `Function`'s backward that is not made of differentiable operations: a second derivative raises."""

    @functools.wraps(backward)
    def wrapper(ctx, *gradients):
        recorded = mode.grad
        with no_grad():
            result: Any = backward(ctx, *gradients)
        if not recorded:
            return result
        several = isinstance(result, (tuple, list))
        parts = tuple(result) if several else (result,)
        source = next((g for g in gradients if isinstance(g, Tensor) and g._requires_grad), None)
        saved = (t for t in ctx._saved if isinstance(t, Tensor) and t._requires_grad)
        source = next(saved, None) if source is None else source
        if source is None:
            return result
        marked = _mark_once(source, parts)
        return marked if several else marked[0]

    return wrapper


def _mark_once(source: Tensor, parts: tuple) -> tuple:
    class Marked(Function):
        @staticmethod
        def forward(ctx, _):
            return tuple(t.clone() if isinstance(t, Tensor) else t for t in parts)

        @staticmethod
        def backward(ctx, *gradients):
            raise GradientError(
                "this backward is marked once_differentiable, and its gradient is differentiated",
                fix="make the backward of tensor operations, and leave the decorator out",
            )

    return Marked.apply(source)


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
