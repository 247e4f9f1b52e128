"""Products with Jacobians, Jacobians and Hessians as transforms of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepcore.autograd import engine
from deepcore.autograd.batching import vmap
from deepcore.autograd.forward import forward_level, split_dual, tangent_for, zeros_like
from deepcore.autograd.graph import is_array, mode
from deepcore.autograd.levels import is_differentiated
from deepcore.autograd.levels import leaf as independent
from deepcore.autograd.modes import enable_grad
from deepcore.autograd.transforms import cut, is_nested, positions, reads_others, value_and_grad
from deepcore.autograd.trees import Structure, flatten, unflatten
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, GradientError
from deepcore.tensor import Tensor, as_tensor, made


def _floating(name: str, leaves: list) -> list[Tensor]:
    """The leaves of arguments, as floating or complex tensors."""
    tensors = []
    for t in leaves:
        if not isinstance(t, Tensor) and not isinstance(t, (int, float, complex)) and not is_array(t):
            raise ArgumentError(f"{name} is taken with respect to tensors", received=type(t).__name__)
        t = t if isinstance(t, Tensor) else as_tensor(t)
        if not dt.is_inexact(t.dtype):
            raise DTypeError(
                f"{name} is taken with respect to floating and complex inputs, not {t.dtype}",
                fix="convert the argument first",
            )
        tensors.append(t)
    return tensors


def _outputs(name: str, result) -> tuple[list[Tensor], Structure]:
    outs, structure = flatten(result)
    for t in outs:
        if not isinstance(t, Tensor):
            raise ArgumentError(
                f"{name} needs a function that returns tensors, or trees of them", received=type(t).__name__
            )
    return outs, structure


def _with_aux(name: str, result, has_aux: bool):
    if not has_aux:
        return result, None
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ArgumentError(
            f"{name}: with has_aux the function returns a pair: the value, and whatever else it computed",
            received=type(result).__name__,
            fix="return value, aux",
        )
    return result[0], result[1]


def gradients_of(
    pairs: list[tuple[Tensor, Tensor]], inputs: list[Tensor], create_graph: bool, retain: bool = True
) -> list[Tensor | None]:
    """The gradients of `inputs` from (output, its gradient); None for inputs that no output depends on."""
    roots = [(t, g) for t, g in pairs if t._requires_grad]
    if not roots:
        return [None] * len(inputs)
    starts = [t for t, _ in roots], inputs, [g for _, g in roots]
    return list(engine.grad(*starts, retain_graph=retain, create_graph=create_graph, allow_unused=True))


class _Pullback:
    """u ↦ uᵀ J of a call of a function: the inputs' gradients, from those of its outputs."""

    def __init__(self, fn: Callable, primals: tuple, has_aux: bool, name: str = "vjp"):
        given, self.structure = flatten(primals)
        tensors = _floating(name, given)
        nested = is_nested(tensors)
        self.leaves = [independent(t, nested) for t in tensors]
        outside = mode.grad
        mode.transforms += 1
        try:
            with enable_grad():
                value, self.aux = _with_aux(name, fn(*unflatten(self.structure, self.leaves)), has_aux)
        finally:
            mode.transforms -= 1
        self.outs, self.out_structure = _outputs(name, value)
        self.recorded = nested or (
            outside and any(t._requires_grad and reads_others(t, self.leaves) for t in self.outs)
        )

    @property
    def value(self):
        return self.kept(unflatten(self.out_structure, self.outs))

    def kept(self, tree):
        """Results without the history of this call, where nothing outside is differentiated."""
        if self.recorded:
            return tree
        own = {id(leaf) for leaf in self.leaves}
        leaves, structure = flatten(tree)
        strip = lambda t: cut(t) if isinstance(t, Tensor) and (t._node is not None or id(t) in own) else t
        return unflatten(structure, list(map(strip, leaves)))

    def gradients(self, pairs: list[tuple[Tensor, Tensor]], create_graph: bool) -> list[Tensor]:
        """The gradients of the leaves, from (output, its gradient)."""
        gradients = gradients_of(pairs, self.leaves, create_graph)
        return [zeros_like(t) if g is None else g for t, g in zip(self.leaves, gradients)]

    def __call__(self, cotangents, retain_graph: bool = True, create_graph: bool | None = None):
        vectors, structure = flatten(cotangents)
        if structure != self.out_structure and not len(vectors) == len(self.outs) == 1:
            raise ArgumentError(
                "vjp: cotangents have the structure of the function's result",
                expected=str(self.out_structure),
                received=str(structure),
            )
        vectors = [t if isinstance(t, Tensor) else as_tensor(t, backend=o.backend) for t, o in zip(vectors, self.outs)]
        if create_graph is None:
            create_graph = self.recorded or is_nested(vectors)
        gradients = self.gradients(list(zip(self.outs, vectors)), create_graph)
        return unflatten(self.structure, gradients)


def vjp(fn: Callable, *primals, has_aux: bool = False):
    """(fn(*primals), vjp_fn), where vjp_fn(u) = uᵀ J is a tuple of the gradients of the primals.

    Primals, the result and u are trees of tensors, u of the result's structure. `has_aux`: `fn` returns a pair whose second
    part is not differentiated, and so does `vjp`: (value, vjp_fn, aux). `vjp_fn` may be called again, also inside `vmap`.

    As `torch.func.vjp` and `jax.vjp`.
    """
    pullback = _Pullback(fn, primals, has_aux)
    return (pullback.value, pullback, pullback.kept(pullback.aux)) if has_aux else (pullback.value, pullback)


def jvp(fn: Callable, primals, tangents, *, strict: bool = False, has_aux: bool = False):
    """(fn(*primals), J v): the value and its derivative in the direction v = `tangents`, computed together.

    `primals` and `tangents` are tuples of trees of tensors, with one structure. Tangents of whole numbers are 0: integers or
    None. `strict`: raises where a result does not depend on the primals. `has_aux`: `fn` returns (value, aux), and `jvp`
    (value, J v, aux). Nests: a jvp of a jvp is a second derivative.

    As `torch.func.jvp` and `jax.jvp`.
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise ArgumentError(
            "jvp takes a tuple of primals and a tuple of tangents",
            received=f"{type(primals).__name__} and {type(tangents).__name__}",
            fix="jvp(f, (x,), (v,))",
        )
    values, structure = flatten(tuple(primals))
    directions = _directions(tuple(tangents), structure)
    values = [t if isinstance(t, Tensor) else as_tensor(t) for t in values]
    moved = [
        None if v is None or (isinstance(v, Tensor) and not dt.is_inexact(v.dtype) and not dt.is_inexact(t.dtype))
        else tangent_for(t, v if isinstance(v, Tensor) else as_tensor(v, backend=t.backend), "jvp: tangents")
        for t, v in zip(values, directions)
    ]  # fmt: skip
    with forward_level() as level:
        duals = [level.lift(t, v) for t, v in zip(values, moved)]
        value, aux = _with_aux("jvp", fn(*unflatten(structure, duals)), has_aux)
    outs, out_structure = _outputs("jvp", value)
    pairs = [split_dual(level, t) for t in outs]
    if strict and any(v is None for _, v in pairs):
        raise GradientError("jvp: a result does not depend on the primals", fix="strict=False, and its tangent is 0")
    value = unflatten(out_structure, [t for t, _ in pairs])
    tangent = unflatten(out_structure, [zeros_like(t) if v is None else v for t, v in pairs])
    if not has_aux:
        return value, tangent
    extra, aux_structure = flatten(aux)
    return value, tangent, unflatten(aux_structure, [split_dual(level, t)[0] for t in extra])


def _directions(tangents: tuple, structure: Structure) -> list:
    """The leaves of tangents; None stands for those of whole numbers."""
    leaves: list = []

    def collect(tree, part: Structure) -> None:
        if part.kind is None and not isinstance(tree, (tuple, list, dict)):
            leaves.append(tree)
            return
        keys = part.keys or range(len(part.parts))
        size = len(tree) if isinstance(tree, (tuple, list, dict)) else -1
        if (
            part.kind is None
            or (part.kind is type(None)) != (tree is None)
            or (tree is not None and size != len(part.parts))
        ):
            raise ArgumentError(
                "jvp: tangents have the structure of the primals",
                expected=str(structure),
                received=str(flatten(tangents)[1]),
            )
        for key, inner in zip(keys, part.parts):
            collect(tree[key], inner)

    collect(tangents, structure)
    return leaves


def linearize(fn: Callable, *primals):
    """(fn(*primals), jvp_fn), where jvp_fn(*tangents) = J v at these primals, without computing `fn` again.

    The VJP is recorded once; it is linear in its argument, and its transpose is J. As `torch.func.linearize`.
    """
    pullback = _Pullback(fn, primals, False, "linearize")
    with enable_grad():
        seeds = [independent(zeros_like(t), False) for t in pullback.outs]
        back = pullback.gradients(list(zip(pullback.outs, seeds)), True)

    def jvp_fn(*tangents):
        vectors, structure = flatten(tangents)
        if structure != pullback.structure:
            raise ArgumentError(
                "linearize: tangents have the structure of the primals",
                expected=str(pullback.structure),
                received=str(structure),
            )
        checked = [tangent_for(t, v, "linearize: tangents") for t, v in zip(pullback.leaves, vectors)]
        create_graph = pullback.recorded or is_nested(checked)
        results = gradients_of(list(zip(back, checked)), seeds, create_graph)
        outs = [zeros_like(t) if v is None else v for t, v in zip(pullback.outs, results)]
        return unflatten(pullback.out_structure, outs)

    return pullback.value, jvp_fn


# -- Jacobians ----------------------------------------------------------------------------------------------------------


def refuse_complex(name: str, tensors, what: str) -> None:
    """Raise for complex tensors: a complex matrix does not describe a derivative over the reals."""
    for t in tensors:
        if t.is_complex():
            raise DTypeError(
                f"{name} needs real {what}",
                received=f"a tensor of {dt.name_of(t.dtype)}",
                fix="both parts as real numbers (dc.view_as_real, and dc.view_as_complex inside), or dc.vjp and dc.jvp",
            )


def _basis(t: Tensor) -> Tensor:
    """The unit vectors of the elements of `t`: (numel, *shape)."""
    n, xp = t.numel(), t.backend
    return made(xp.eye(n, dtype=t.dtype).reshape(n, *t.shape), xp)


def _chosen(args: tuple, argnums) -> tuple[tuple, Callable]:
    """The arguments at `argnums`, and a function that puts others in their place."""
    numbers = positions(argnums, len(args))

    def place(parts) -> list:
        full = list(args)
        for n, part in zip(numbers, parts):
            full[n] = part
        return full

    return tuple(args[n] for n in numbers), place


def jacrev(fn: Callable, argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False, chunk_size: int | None = None):
    """x ↦ ∂fn(x)ᵢ/∂xⱼ by reverse mode, a row for each element of the result: best where results are smaller than x.

    The Jacobian with respect to `args[argnums]` has the structure of the result, and in it that of the argument (a tuple for a
    tuple of argnums); a leaf has the shape of the result's and then of the argument's. `has_aux`: `fn` returns (value, aux),
    and so does this: (jacobian, aux). `chunk_size`: rows computed at once (None: all).

    As `torch.func.jacrev`.
    """

    @functools.wraps(fn)
    def jacobian(*args, **kwargs):
        chosen, place = _chosen(args, argnums)
        pullback = _Pullback(lambda *parts: fn(*place(parts), **kwargs), chosen, has_aux, "jacrev")
        create_graph = pullback.recorded
        refuse_complex("jacrev", pullback.leaves, "arguments")
        refuse_complex("jacrev", pullback.outs, "results")
        columns = []
        for out in pullback.outs:
            rows = _rows(pullback, out, create_graph, chunk_size)
            parts = unflatten(pullback.structure, rows)
            columns.append(parts[0] if isinstance(argnums, int) else parts)
        result = unflatten(pullback.out_structure, columns)
        return (result, pullback.kept(pullback.aux)) if has_aux else result

    return jacobian


def _rows(pullback: _Pullback, out: Tensor, create_graph: bool, chunk_size: int | None) -> list[Tensor]:
    """The Jacobian of one result with respect to each leaf."""
    shape = tuple(out.shape)
    if not out._requires_grad or not out.numel():
        return [made(t.backend.zeros((*shape, *t.shape), dtype=out.dtype), t.backend) for t in pullback.leaves]
    function = lambda v: pullback.gradients([(out, v)], create_graph)
    rows = vmap(function, chunk_size=chunk_size)(_basis(out))
    return [row.reshape(*shape, *t.shape) for row, t in zip(rows, pullback.leaves)]


def jacfwd(
    fn: Callable,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
):
    """x ↦ ∂fn(x)ᵢ/∂xⱼ by forward mode, a column for each element of x: best where x is smaller than the results.

    Results and arguments are those of `jacrev`; `randomness` is that of `vmap`. As `torch.func.jacfwd`.
    """

    @functools.wraps(fn)
    def jacobian(*args, **kwargs):
        chosen, place = _chosen(args, argnums)
        given, structure = flatten(chosen)
        leaves = _floating("jacfwd", given)
        refuse_complex("jacfwd", leaves, "arguments")
        function = lambda *parts: fn(*place(parts), **kwargs)
        if has_aux:
            aux_of = lambda result: (
                (result[0], (result[0], result[1]))
                if isinstance(result, (tuple, list)) and len(result) == 2
                else result
            )
            inner = lambda *parts: aux_of(function(*parts))
        else:
            inner = lambda *parts: ((value := function(*parts)), (value, None))
        parts, out_structure, shapes, aux = [], None, [], None
        for k, leaf in enumerate(leaves):

            def column(v, k=k):
                tangents = [v if i == k else zeros_like(t) for i, t in enumerate(leaves)]
                primals = unflatten(structure, leaves)
                _, tangent, (value, extra) = jvp(inner, primals, unflatten(structure, tangents), has_aux=True)
                return tangent, value, extra

            tangent, value, extra = vmap(
                column, out_dims=(0, None, None), randomness=randomness, chunk_size=chunk_size
            )(_basis(leaf))
            outs, out_structure = flatten(tangent)
            refuse_complex("jacfwd", outs, "results")
            shapes, aux = [tuple(t.shape) for t in flatten(value)[0]], extra
            parts.append([t.movedim(0, -1).reshape(*s, *leaf.shape) for t, s in zip(outs, shapes)])
        assert out_structure is not None
        columns = []
        for i in range(len(shapes)):
            tree = unflatten(structure, [part[i] for part in parts])
            columns.append(tree[0] if isinstance(argnums, int) else tree)
        result = unflatten(out_structure, columns)
        return (result, aux) if has_aux else result

    return jacobian


def jacobian(
    fn: Callable,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    mode: str = "reverse",
    chunk_size: int | None = None,
):
    """x ↦ ∂fn(x)ᵢ/∂xⱼ: `jacrev`, or `jacfwd` with `mode="forward"`."""
    if mode not in ("reverse", "forward"):
        raise ArgumentError("jacobian: unknown mode", expected='"reverse" or "forward"', received=repr(mode))
    transform: Any = jacrev if mode == "reverse" else jacfwd
    return transform(fn, argnums, has_aux=has_aux, chunk_size=chunk_size)


def hessian(fn: Callable, argnums: int | tuple[int, ...] = 0):
    """x ↦ ∂²fn(x)/∂xᵢ∂xⱼ, the forward Jacobian of the reverse one. As `torch.func.hessian`."""
    return jacfwd(jacrev(fn, argnums), argnums)


def grad_and_value(fn: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False):
    """x ↦ (d fn(x)/dx, fn(x)); with `has_aux`: (gradient, (value, aux)). As `torch.func.grad_and_value`."""
    both = value_and_grad(fn, argnums, has_aux)

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        value, gradient = both(*args, **kwargs)
        return gradient, value

    return wrapped


__all__ = ["grad_and_value", "hessian", "is_differentiated", "jacfwd", "jacobian", "jacrev", "jvp", "linearize", "vjp"]
