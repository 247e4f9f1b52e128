"""`vmap`: a function of one example as a function of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepcore.autograd.graph import apply
from deepcore.autograd.levels import Level, Lifted
from deepcore.autograd.trees import Structure, flatten, paths, unflatten
from deepcore.errors import ArgumentError, IndexRangeError, ShapeError, TransformError
from deepcore.tensor import Tensor

_RANDOMNESS = ("error", "different", "same")


class BatchLevel(Level):
    """Maps ops over the first dimension of contents of length `size`."""

    name = "vmap"
    batches = True
    #: Computes an op for each example in turn; set by ops.batching, as are rules' names.
    by_loop: Callable
    rules: dict[str, Callable]
    #: `cat`.
    join: Callable

    def __init__(self, size: int, randomness: str):
        super().__init__()
        self.size, self.randomness = size, randomness

    def interpret(self, op, inputs: tuple, params: dict) -> Any:
        contents = tuple(map(self.content, inputs))
        mapped = tuple(self.owns(t) and t.mapped for t in inputs)  # type: ignore[attr-defined]
        if not any(mapped):
            out = apply(op, contents, params)
            return tuple(map(self.lift, out)) if isinstance(out, tuple) else self.lift(out)
        out = NotImplemented
        if op.batch is not None:
            rule = BatchLevel.rules[op.batch] if isinstance(op.batch, str) else op.batch
            out = rule(op, contents, mapped, params, self.size)
        if out is NotImplemented:
            out = BatchLevel.by_loop(op, contents, mapped, params, self.size)
        if isinstance(out, tuple):
            return tuple([self.lift(t, mapped=True) for t in out])
        return self.lift(out, mapped=True)

    def store(self, target: Lifted, value: Tensor, steps, indices, dims, write, assign) -> None:
        if not target.mapped and self.carries(tuple(t for t in (value, *indices) if self.owns(t) and t.mapped)):  # type: ignore[attr-defined]
            raise TransformError(
                "vmap: a tensor that all examples share is written with a value of each",
                received=f"a tensor of shape {target.shape}, and a value of shape {tuple(value.shape)}",
                fix="an operation that is not in place: y = x + b for x += b",
            )
        part: Tensor = target
        for op, params in steps:
            part = apply(op, (part,), params)
        if dims:
            value = apply(assign, (part, value, *indices), {"steps": (), "dims": dims})
        content = self.content(value)
        if self.owns(value) and value.mapped:  # type: ignore[attr-defined]
            lead = part.ndim - value.ndim
            with self.outside():
                content = content.reshape(self.size, *(1,) * lead, *value.shape) if lead > 0 else content
        with self.outside():
            write(self.content(part), content, (), (), ())

    def shares_draws(self) -> bool:
        return self.randomness == "same" or super().shares_draws()

    def differs(self, what: str) -> bool:
        if self.randomness == "error":
            raise TransformError(
                f'vmap: {what} draws random numbers, and randomness is "error", the default',
                fix='vmap(f, randomness="different") for numbers of each example, or "same" for those that all share',
            )
        return self.randomness == "different"


def vmap(
    func: Callable, in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", *, chunk_size: int | None = None
) -> Callable:
    """x ↦ stack([func(x[0]), func(x[1]), …]), computed for all examples at once.

    `in_dims`: the dimension of each argument that is mapped over (None: shared by all examples), an int for all of them, or a
    tree like the positional arguments'; keyword arguments are shared. `out_dims`: where the dimension is in the results,
    an int or a tree. `randomness`: whether functions that draw random numbers raise ("error"), draw numbers of each example
    ("different") or numbers that all share ("same"). `chunk_size`: the number of examples computed at once (None: all).

    Inside, tensors have the shape of one example. Their values cannot be read (`item()`, `if`), and results whose shape depends
    on values raise. Nests, with itself and with `grad`: `vmap(grad(f), (None, 0))` is a gradient for each example.
    """
    if randomness not in _RANDOMNESS:
        raise ArgumentError(
            "vmap: unknown randomness", expected='"error", "different" or "same"', received=repr(randomness)
        )
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ArgumentError("vmap: chunk_size is a positive number or None", received=repr(chunk_size))

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        leaves, structure, dims = _inputs(in_dims, args, kwargs)
        size = _size(func, leaves, dims, structure)
        if chunk_size is None or size <= chunk_size:
            return _mapped(func, leaves, structure, dims, out_dims, size, randomness)
        parts = []
        for start in range(0, size, chunk_size):
            length = min(chunk_size, size - start)
            chunk = [t if d is None else t.narrow(d, start, length) for t, d in zip(leaves, dims)]
            parts.append(_mapped(func, chunk, structure, dims, out_dims, length, randomness))
        results = [flatten(part) for part in parts]
        outs = _spread("out_dims", out_dims, results[0][1])
        joined = [BatchLevel.join(ts, d) for ts, d in zip(zip(*(r[0] for r in results)), outs)]
        return unflatten(results[0][1], joined)

    return wrapped


def _inputs(in_dims, args: tuple, kwargs: dict) -> tuple[list, Structure, list]:
    """The leaves of the arguments, their structure, and the mapped dimension of each, or None."""
    if not isinstance(in_dims, (int, tuple, list, dict)) and in_dims is not None:
        raise ArgumentError(
            "vmap: in_dims is an int, None, or a tree of these like the arguments", received=type(in_dims).__name__
        )
    if not args:
        raise ArgumentError("vmap needs an argument to map over", fix="pass the batch by position")
    leaves, structure = flatten(args)
    if isinstance(in_dims, list):
        in_dims = tuple(in_dims)
    dims = _spread("in_dims", in_dims, structure)
    keyword_leaves, keyword_structure = flatten(kwargs)
    dims += [None] * len(keyword_leaves)
    names = [*paths(structure, "args"), *paths(keyword_structure, "kwargs")]
    leaves = leaves + keyword_leaves
    for i, (t, d, name) in enumerate(zip(leaves, dims, names)):
        if d is None:
            continue
        if isinstance(d, bool) or not isinstance(d, int):
            raise ArgumentError(f"vmap: in_dims of {name} is an int or None", received=repr(d))
        if not isinstance(t, Tensor):
            raise ArgumentError(
                f"vmap: in_dims maps over dimension {d} of {name}, which is not a tensor",
                received=type(t).__name__,
                fix="in_dims=None for this argument, or dc.as_tensor(…)",
            )
        if not -t.ndim <= d < t.ndim:
            raise IndexRangeError(
                f"vmap: in_dims maps over dimension {d} of {name}, which has {t.ndim} dimensions",
                expected=f"a dimension of shape {t.shape}" if t.ndim else "a tensor that has dimensions",
                received=str(d),
            )
        dims[i] = d % t.ndim
    return leaves, Structure(tuple, (), (structure, keyword_structure)), dims


def _spread(name: str, dims, structure: Structure) -> list:
    """An entry of `dims`, which is a tree as deep as `structure` or less, for each leaf."""
    if dims is None or not isinstance(dims, (tuple, list, dict)):
        return [dims] * len(paths(structure))
    if structure.kind is None or structure.kind is type(None):
        raise _misfit(name, dims, structure)
    if isinstance(dims, dict):
        if not structure.keys or set(dims) != set(structure.keys):
            raise _misfit(name, dims, structure)
        parts = [dims[key] for key in structure.keys]
    else:
        parts = list(dims)
        if structure.keys or len(parts) != len(structure.parts):
            raise _misfit(name, dims, structure)
    return [d for part, inner in zip(parts, structure.parts) for d in _spread(name, part, inner)]


def _misfit(name: str, dims, structure: Structure) -> ArgumentError:
    whose = "the positional arguments" if name == "in_dims" else "the function's results"
    return ArgumentError(
        f"vmap: {name} does not have the structure of {whose}", expected=str(structure), received=repr(dims)
    )


def _size(func, leaves, dims, structure) -> int:
    sizes = {t.shape[d] for t, d in zip(leaves, dims) if d is not None}
    if not sizes:
        raise ArgumentError(
            "vmap: no argument is mapped over", expected="an entry of in_dims that is not None", fix="call f itself"
        )
    if len(sizes) > 1:
        names = [*paths(structure.parts[0], "args"), *paths(structure.parts[1], "kwargs")]
        lengths = [f"{n}: {t.shape[d]}" for n, t, d in zip(names, leaves, dims) if d is not None]
        raise ShapeError("vmap: the mapped dimensions have several lengths", received=", ".join(lengths))
    return sizes.pop()


def _mapped(func, leaves, structure, dims, out_dims, size: int, randomness: str):
    level = BatchLevel(size, randomness)
    fronts = [t if d is None or d == 0 else t.movedim(d, 0) for t, d in zip(leaves, dims)]
    with level.running():
        inputs = [t if d is None else level.lift(t, mapped=True) for t, d in zip(fronts, dims)]
        args, kwargs = unflatten(structure, inputs)
        result = func(*args, **kwargs)
    if result is None:
        raise ArgumentError("vmap: the function returned None", fix="return what it computes")
    outs, out_structure = flatten(result)
    places = _spread("out_dims", out_dims, out_structure)
    return unflatten(out_structure, [_placed(level, t, d, size) for t, d in zip(outs, places)])


def _placed(level: BatchLevel, t, d, size: int):
    """A result of the level outside of it, with its batch at dimension `d`."""
    if not isinstance(t, Tensor):
        raise ArgumentError(
            "vmap: the function returns tensors, and trees of them",
            received=type(t).__name__,
            fix="return dc.as_tensor(…)",
        )
    content = level.content(t)
    if level.owns(t) and t.mapped:  # type: ignore[attr-defined]
        if d is None:
            raise ArgumentError(
                "vmap: out_dims is None for a result that each example has its own of", fix="out_dims=0"
            )
    elif d is None:
        return content
    else:
        content = content.unsqueeze(0).expand((size, *content.shape))
    if isinstance(d, bool) or not isinstance(d, int):
        raise ArgumentError("vmap: out_dims is made of ints and None", received=repr(d))
    if not -content.ndim <= d < content.ndim:
        raise IndexRangeError(
            f"vmap: out_dims {d} is out of range for a result of shape {t.shape}",
            expected=f"from {-content.ndim} to {content.ndim - 1}",
        )
    return content if d % content.ndim == 0 else content.movedim(0, d)
