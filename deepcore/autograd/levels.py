"""Levels: each running `vmap` or `jvp` interprets the ops of the function that it transforms.

Inside a level, tensors that the transform concerns are `Lifted`: they have the shape that the function sees, and stand for
a batch of tensors, or for a value with its tangent. An op with such an operand reaches the level, as the thread's hook; the
level runs ops on the contents, which reach the level around it. A level records nodes of its own, so that gradients taken
inside a `vmap` are those of each example, and those taken outside of the whole batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from deepcore.autograd import graph
from deepcore.autograd.graph import Node, apply, mode, view_steps
from deepcore.backend import dtypes as dt
from deepcore.errors import GradientError, TransformError
from deepcore.tensor import Tensor


class Hidden:
    """In place of the array of a tensor that stands for a batch: shape, dtype and nothing to read."""

    __slots__ = ("dtype", "shape")
    base = None

    def __init__(self, shape: tuple[int, ...], dtype):
        self.shape, self.dtype = shape, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.itemsize * math.prod(self.shape[d + 1 :]) for d in range(self.ndim))

    @property
    def flags(self) -> Hidden:
        return self

    c_contiguous = writeable = True

    def transpose(self, *order) -> Hidden:
        return Hidden(tuple(self.shape[d] for d in order), self.dtype)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and not name.startswith("__array"):
            raise AttributeError(name)
        raise unreadable(f"reading a value (.{name})" if name in ("item", "tolist") else "reading values")

    def _refuse(self, *args, **kwargs) -> NoReturn:
        raise unreadable("reading values")

    __array__ = __array_ufunc__ = __array_function__ = __getitem__ = __setitem__ = __bool__ = __iter__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __add__ = __sub__ = __mul__ = __truediv__ = _refuse  # type: ignore[assignment]
    __radd__ = __rsub__ = __rmul__ = __and__ = __or__ = __invert__ = __neg__ = _refuse
    __hash__ = object.__hash__


def unreadable(what: str) -> TransformError:
    return TransformError(
        f"vmap: {what} of a tensor that is mapped over is not possible, as each example has its own",
        expected="operations of tensors alone: no item(), bool(), numpy(), and no result whose shape depends on values",
        fix="dc.where(condition, a, b) for a decision; or compute it outside of vmap; or loop over the examples",
    )


def is_readable(t: Tensor) -> bool:
    """Whether `t` has values of its own, which all examples share."""
    return not isinstance(t._data, Hidden)


def readable(t: Tensor) -> Any:
    """The array of `t`, for code that reads its values."""
    if isinstance(t._data, Hidden):
        raise unreadable("reading values")
    return t._data


class Lifted(Tensor):
    """A tensor of a level. `content`: the batch (its first dimension) or value; `tangent`: that of a value, None for 0."""

    __slots__ = ("content", "level", "mapped", "tangent")

    level: Level
    content: Tensor
    #: Whether the content has a batch dimension.
    mapped: bool
    tangent: Tensor | None

    @property
    def array(self):
        if isinstance(self._data, Hidden):
            raise unreadable("taking .array")
        return Tensor.array.fget(self)  # type: ignore[attr-defined]

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value) -> None:
        raise TransformError(
            "a tensor inside of a transformed function cannot be given other memory", fix="t = other, or t.copy_(other)"
        )

    def detach(self) -> Tensor:
        return self.level.lift(self.content.detach(), mapped=self.mapped)

    def stripped(self) -> Lifted:
        """The same value without this level's history."""
        return self.level.lift(self.content, self.tangent, self.mapped)

    def twin(self, node: Node | None = None) -> Lifted:
        """The same value with the history `node`, and with no view of its own."""
        other = self.stripped()
        other._requires_grad, other._node = node is not None, node
        return other

    def backward(self, gradient=None, retain_graph=None, create_graph=False, inputs=None) -> NoReturn:
        raise GradientError(
            "backward() inside of a transformed function would add up what belongs to each call",
            fix="dc.grad(f) or dc.vjp(f, x), which return the gradients",
        )

    def __repr__(self) -> str:
        kind = self.level.name
        return f"<tensor of shape {self.shape}, {dt.name_of(self.dtype)}, inside of {kind}: {self.content!r}>"

    def __format__(self, spec: str) -> str:
        return Tensor.__format__(self, spec) if not isinstance(self._data, Hidden) else repr(self)

    def __reduce__(self):
        raise unreadable("copying the memory")


class LevelNode(Node):
    """A node recorded inside of a level; the saved output is a tensor of that level."""

    __slots__ = ()

    def __init__(self, op, inputs, params, out: Lifted):
        super().__init__(op, inputs, params, None)
        if self.storage is not None:
            self.out = out.stripped()

    def _saved_output(self, backend) -> Tensor:
        if self.storage.version:
            raise graph.stale(self.name, "its output")
        return self.out.twin(self)


class Level:
    """One run of `vmap` or `jvp`, while its function runs; entered again for the backward of a user's `Function`."""

    name = "a transform"
    #: Whether this level, or one around it, computes tangents or maps over a batch.
    forward = False
    batches = False

    def __init__(self) -> None:
        self.outer: Level | None = None
        self.below: Callable | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Level]:
        previous = self.outer, self.below
        self.outer, self.below = mode.level, mode.hook
        own = type(self)
        self.forward = own.forward or (self.outer is not None and self.outer.forward)
        self.batches = own.batches or (self.outer is not None and self.outer.batches)
        with graph.watching():
            mode.hook, mode.level = self.hook, self
            try:
                yield self
            finally:
                mode.hook, mode.level = self.below, self.outer
                self.outer, self.below = previous

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Ops inside reach the level around this one."""
        previous = mode.hook, mode.level
        mode.hook, mode.level = self.below, self.outer
        try:
            yield
        finally:
            mode.hook, mode.level = previous

    def hook(self, op, inputs: tuple, params: dict):
        previous = mode.hook, mode.level
        mode.hook, mode.level = self.below, self.outer
        try:
            if not any(self.owns(t) for t in inputs):
                return apply(op, inputs, params)
            if op.formula is not None:  # the gradient of another op, as the ops that it consists of
                mode.hook, mode.level = previous
                return op.formula(*inputs, **params)
            return self._run(op, inputs, params)
        finally:
            mode.hook, mode.level = previous

    def owns(self, t) -> bool:
        return t.__class__ is Lifted and t.level is self

    def _run(self, op, inputs: tuple, params: dict):
        recorded = op.differentiable and mode.grad and any(self.owns(t) and t._requires_grad for t in inputs)
        saved = None
        if recorded and op.reads_aux:
            out = self.interpret(op.with_aux, inputs, params)
            if isinstance(out, tuple):
                out, *aux = out
                saved = {**params, "aux": tuple(aux)}
            if any(
                (self.owns(t) and (t.tangent is not None or is_differentiated(t.content))) or t._requires_grad
                for t in inputs
            ):
                out = self.interpret(op, inputs, params)  # with what is recorded outside of the level
        else:
            out = self.interpret(op, inputs, params)
        if isinstance(out, tuple):
            return out
        if recorded:
            out._node = node = LevelNode(op, inputs, params if saved is None else saved, out)
            out._requires_grad = True
            if node.storage is not None:
                out._storage = node.storage
        if op.view is not None:
            _link_view(out, inputs[0], op, params)
        return out

    def lift(self, content: Tensor, tangent: Tensor | None = None, mapped: bool = False) -> Lifted:
        """`content` as a tensor of this level."""
        t = Lifted.__new__(Lifted)
        t.level, t.content, t.tangent, t.mapped = self, content, tangent, mapped
        raw = content._data
        t._data = Hidden(raw.shape[1:], raw.dtype) if mapped else raw
        t.backend, t._requires_grad = content.backend, False
        t._spec = t._node = t.grad = t._base = t._storage = None
        return t

    def differs(self, what: str) -> bool:
        """Whether each example of this level has random numbers of its own; raises where it may have none."""
        return False

    def shares_draws(self) -> bool:
        """Whether examples of this level, or of one around it, have the same random numbers."""
        return self.outer is not None and self.outer.shares_draws()

    def drawn(self, what: str, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """`draw(shape)`, by the randomness of this level and those around it."""
        levels: list[Level] = []
        level: Level | None = self
        while level is not None:
            if level.differs(what):
                levels.insert(0, level)
            level = level.outer
        t = draw((*(level.size for level in levels), *shape))  # type: ignore[attr-defined]
        for level in levels:
            t = level.lift(t, mapped=True)
        return t

    def content(self, t: Tensor) -> Tensor:
        return t.content if self.owns(t) else t  # type: ignore[attr-defined]

    def carries(self, tensors) -> bool:
        """Whether any of these has what a tensor from outside of the level cannot: a batch, a tangent, a history."""
        return any(self.owns(t) and (t.mapped or t.tangent is not None or t._requires_grad) for t in tensors)

    def adopted(self, t: Tensor, args: tuple) -> Tensor:
        """A tensor that a factory made inside of the level."""
        return t

    def like(self, t: Tensor, build: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """A new tensor of the levels that `t` is of: `build(the tensor of all its values, the sizes of batches)`."""
        chain: list[Any] = []
        while t.__class__ is Lifted:
            chain.insert(0, t)
            t = t.content  # type: ignore[attr-defined]
        out = build(t, tuple(c.level.size for c in chain if c.mapped))
        for c in chain:
            out = c.level.lift(out, mapped=c.mapped)
        return out

    def interpret(self, op, inputs: tuple, params: dict) -> Any:
        """The result of an op, lifted; called outside of the level."""
        raise NotImplementedError

    def store(self, target: Lifted, value: Tensor, steps: tuple, indices: tuple, dims: tuple, write, assign) -> None:
        """Write to the memory of the content; called inside of the level."""
        raise NotImplementedError

    def write(self, target: Lifted, value: Tensor, steps: tuple, indices: tuple, dims: tuple, write, assign) -> Tensor:
        """`ops.index.write` of a tensor of this level; `assign` is the op that the base's new node is of."""
        base, chain = target._base or (target, None)
        previous = base.twin(base._node) if base._node is not None else base.stripped()  # type: ignore[attr-defined]
        self.store(target, value, steps, indices, dims, write, assign)
        target.bump_version()
        if mode.grad and any(self.owns(t) and t._requires_grad for t in (base, target, value)):
            params = {"steps": (*view_steps(chain), *steps), "dims": dims}
            base._node = LevelNode(assign, (previous, value, *indices), params, base)  # type: ignore[arg-type]
            base._requires_grad = True
            for view in views_of(base):
                current: Tensor = base
                for op, view_params in view_steps(view._base[1]):  # type: ignore[index]
                    current = apply(op, (current,), view_params)
                view._node, view._requires_grad = current._node, True
        return target


def views_of(base: Tensor) -> list[Tensor]:
    """The live views of `base`."""
    views = [ref() for ref in base.storage().views]
    return [t for t in views if t is not None and t._base is not None and t._base[0] is base]


def _link_view(view: Lifted, source: Tensor, op, params) -> None:
    """Register `view` as a view of `source` in this level, if its content is one."""
    content = source.content if isinstance(source, Lifted) else source
    if view.content._storage is None or view.content._storage is not content._storage:
        return
    storage = source.storage()
    view._storage = storage
    base, chain = source._base or (source, None)
    view._base = (base, (chain, op, params))
    storage.add_view(view)


def leaf(t: Tensor, keep: bool) -> Tensor:
    """`t` as an independent input of what is differentiated next; `keep`: it stays connected to its own history."""
    level = mode.level
    if level is not None and not level.owns(t):
        return level.lift(t).requires_grad_()
    if keep and t._requires_grad:
        return t.alias()
    return (t.detach() if level is None else t.stripped()).requires_grad_()  # type: ignore[attr-defined]


def is_differentiated(t: Tensor | None) -> bool:
    """Whether a gradient or a tangent is computed through `t`, in any level."""
    while t is not None:
        if t._requires_grad:
            return True
        if t.__class__ is not Lifted:
            return False
        if t.tangent is not None:
            return True
        t = t.content
    return False


def snapshot(t: Tensor) -> Tensor:
    """`t` with the values of now, for an operation in place: what saves it is not changed by the write that follows."""
    if t.__class__ is not Lifted:
        return Tensor(t._data, t.backend, t._requires_grad, t._node)
    copy = t.level.lift(t.content.clone(), t.tangent, t.mapped)
    copy._node, copy._requires_grad = t._node, t._requires_grad
    return copy


def all_values(t: Tensor) -> Tensor:
    """The tensor of all values behind `t`: every example, no tangent; for checks of values."""
    while t.__class__ is Lifted:
        t = t.content
    return t


def in_place(target: Tensor, value: Tensor, steps: tuple, indices: tuple, dims: tuple, write, assign) -> bool:
    """`ops.index.write` by the level that one of the tensors belongs to; False if none does."""
    level: Level | None = mode.level
    with contextlib.ExitStack() as stack:
        while level is not None and not any(level.owns(t) for t in (target, value, *indices)):
            stack.enter_context(level.outside())
            level = level.outer
        if level is None:
            return False
        if not level.owns(target):
            if not level.carries((value, *indices)):
                write(target, *(level.content(value),), steps, tuple(map(level.content, indices)), dims)
                return True
            raise TransformError(
                f"{level.name}: a tensor from outside of it is written with a value of each call",
                received=f"a tensor of shape {tuple(target.shape)}, and a value of shape {tuple(value.shape)}",
                fix="make the tensor of the argument (dc.zeros_like(x), x.new_zeros(…)), or use an operation that is not in place",
            )
        level.write(target, value, steps, indices, dims, write, assign)  # type: ignore[arg-type]
        return True
