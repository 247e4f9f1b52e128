"""`GradientTape` and `Variable`, in TensorFlow's meaning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from deepcore.autograd import enable_grad, no_grad
from deepcore.autograd.engine import grad
from deepcore.autograd.graph import next_id
from deepcore.autograd.trees import flatten, tree_map
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, GradientError
from deepcore.nn.parameter import Parameter
from deepcore.tensor import Tensor, ones_like, tensor, zeros_like


class Variable(Parameter):
    """A tensor that is changed by assignment, and, with `trainable`, followed by every `GradientTape`.

    initial_value is copied; of whole numbers the variable is not trainable. As an attribute of a Module it is a parameter.
    """

    __slots__ = ("name",)
    name: str | None  # type: ignore[assignment]

    def __init__(self, initial_value, trainable: bool = True, dtype=None, name: str | None = None, device=None):
        data = tensor(initial_value, dtype=dtype, device=device)
        super().__init__(data.detach(), trainable and dt.is_floating(data.dtype))
        self.name = name

    @property
    def trainable(self) -> bool:
        return self.requires_grad

    def assign(self, value) -> Variable:
        """Set the value; the variable's shape and dtype stay. Returns the variable."""
        return self._set(value, lambda old, new: new)

    def assign_add(self, delta) -> Variable:
        """Add `delta` to the value."""
        return self._set(delta, lambda old, new: old + new)

    def assign_sub(self, delta) -> Variable:
        """Subtract `delta` from the value."""
        return self._set(delta, lambda old, new: old - new)

    def _set(self, value, combine) -> Variable:
        with no_grad():
            value = value if isinstance(value, Tensor) else tensor(value, dtype=self.dtype, backend=self.backend)
            if value.shape != self.shape:
                raise ArgumentError(
                    "a Variable keeps its shape", expected=str(self.shape), received=str(tuple(value.shape))
                )
            self.copy_(combine(self.detach(), value))
        return self

    def numpy(self, *args, **kwargs):
        """The value as an array that is no part of the variable."""
        return self.detach().clone().numpy(*args, **kwargs)

    def value(self) -> Tensor:
        """The value as a tensor of its own."""
        return self.detach().clone()

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        return f"Variable({name}{Tensor.__repr__(self.detach())})"


#: Tapes that record, and for tensors that do not require grad themselves the number of tapes that watch them.
_recording: list[GradientTape] = []
_watched: dict[int, tuple[Tensor, int]] = {}


class GradientTape:
    """Records the operations inside its `with` block, for their gradients.

        with dc.GradientTape() as tape:
            loss = (w * x - y).square().mean()
        dw, = tape.gradient(loss, [w])

    Tensors that require grad (Variables, parameters) are watched unless `watch_accessed_variables` is False; others from
    `watch(tensor)` on. A tape gives gradients once, or, with `persistent`, as often as asked. Gradients that are computed
    inside the block of another tape are recorded there, so nested tapes give second derivatives.

    What was computed from watched tensors before the block belongs to the graph, too, which in TensorFlow it does not.
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True):
        self.persistent, self.watch_accessed_variables = persistent, watch_accessed_variables
        self._used = self._active = False
        self._end: int | None = None
        self._tensors: dict[int, Tensor] = {}
        self._mode: Any = None

    def __enter__(self) -> GradientTape:
        if self._active:
            raise GradientError("this tape records already", fix="another GradientTape")
        self._active, self._end = True, None
        self._mode = enable_grad()
        self._mode.__enter__()
        _recording.append(self)
        return self

    def __exit__(self, *exc) -> None:
        _recording.remove(self)
        self._mode.__exit__(*exc)
        self._active, self._end = False, next_id()
        for t in self._tensors.values():
            _release(t)

    def watch(self, tensor) -> None:
        """Record what is computed from a tensor, or from those in a list, from now on."""
        for t in flatten(tensor)[0]:
            if not isinstance(t, Tensor):
                raise ArgumentError("a tape watches tensors", received=type(t).__name__, fix="dc.tensor(value)")
            if id(t) in self._tensors:
                continue
            if not t.requires_grad or id(t) in _watched:
                t.requires_grad_()
                _watched[id(t)] = t, _watched.get(id(t), (t, 0))[1] + 1
            self._tensors[id(t)] = t

    @contextlib.contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Context manager inside which nothing is recorded."""
        with no_grad():
            yield

    def reset(self) -> None:
        """Forget which tensors were watched."""
        for t in self._tensors.values():
            _release(t)
        self._tensors, self._used = {}, False

    def gradient(self, target, sources, output_gradients=None, unconnected_gradients: str = "none"):
        """d Σ target / d source for each source, in the structure of `sources`; None where target does not depend on one.

        target: a tensor, or a list or dict of tensors, whose gradients are added. output_gradients: factors of the targets'
        elements (1). unconnected_gradients="zero": zeros in place of None.
        Errors: `GradientError` for a second call without `persistent`.
        """
        if unconnected_gradients not in ("none", "zero"):
            raise ArgumentError("unconnected_gradients is 'none' or 'zero'", received=repr(unconnected_gradients))
        if self._used and not self.persistent:
            raise GradientError(
                "a tape that is not persistent gives gradients once",
                fix="GradientTape(persistent=True), or all sources in one list",
            )
        self._used = True
        targets, _ = flatten(target)
        if output_gradients is None:
            factors = [ones_like(t) for t in targets]
        else:
            factors = flatten(output_gradients)[0]
        pairs = [(t, factor) for t, factor in zip(targets, factors, strict=True) if self._recorded(t)]
        leaves = [t for t in flatten(sources)[0] if self._follows(t)]
        results: dict[int, Any] = {}
        if pairs and leaves:
            with self._requiring_grad():
                grads = grad(
                    [t for t, _ in pairs],
                    leaves,
                    [factor for _, factor in pairs],
                    retain_graph=True,
                    create_graph=bool(_recording),
                    allow_unused=True,
                )
            results = {id(t): g for t, g in zip(leaves, grads, strict=True)}

        def result(source):
            g = results.get(id(source))
            return zeros_like(source) if g is None and unconnected_gradients == "zero" else g

        return tree_map(result, sources)

    def _follows(self, source) -> bool:
        if not isinstance(source, Tensor):
            raise ArgumentError("sources are tensors", received=type(source).__name__)
        return id(source) in self._tensors or (source.requires_grad and self.watch_accessed_variables)

    def _recorded(self, target: Tensor) -> bool:
        """Whether a target was computed before the block ended, or is watched itself."""
        node = target.grad_fn
        if node is None:
            return self._follows(target)
        return self._end is None or node.id < self._end

    @contextlib.contextmanager
    def _requiring_grad(self) -> Iterator[None]:
        """Let watched tensors require grad again, which they do inside the block alone."""
        again = [t for t in self._tensors.values() if not t.requires_grad]
        for t in again:
            t.requires_grad_()
        try:
            yield
        finally:
            for t in again:
                t.requires_grad_(False)


def _release(t: Tensor) -> None:
    """Undo one `watch` of a tensor."""
    if id(t) in _watched:
        count = _watched.pop(id(t))[1] - 1
        if count:
            _watched[id(t)] = t, count
        else:
            t.requires_grad_(False)
