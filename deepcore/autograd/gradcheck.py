"""Gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcore.autograd import engine
from deepcore.autograd.batching import vmap
from deepcore.autograd.forward import forward_level, split_dual, zeros_like
from deepcore.autograd.graph import mode
from deepcore.autograd.levels import leaf
from deepcore.autograd.modes import enable_grad
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, GradientError
from deepcore.tensor import Tensor, as_tensor


def gradcheck(
    fn: Callable,
    inputs,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compare the Jacobian that backward gives with (f(x + eps) − f(x − eps)) / 2eps, element by element.

    `inputs`: the tensors (or other arguments) of `fn`; those that require grad are checked, in float64 or complex128.
    A complex number counts as two elements, its real and its imaginary part.
    `fn` returns a tensor or a tuple of them; when none of them requires grad, the differences must be 0. True, or
    `GradientError` naming the entry that differs most (False with `raise_exception=False`).

    `check_forward_ad`: the Jacobian of `jvp`, too. `check_batched_grad`, `check_batched_forward_grad`: `vmap` of backward
    and of `jvp` against one vector at a time. `check_grad_dtypes`: gradients have the dtypes of inputs. `nondet_tol`: how much
    two calls of backward may differ. `fast_mode`: products with one fixed vector on either side in place of all entries.
    `check_undefined_grad`: each output alone has gradients, which the Jacobians check. `masked` changes nothing.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    checked = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise ArgumentError("gradcheck needs an input that requires grad")
    for t in checked:
        if t.dtype not in (dt.float64, dt.complex128):
            raise ArgumentError(
                "gradcheck needs float64 or complex128: finite differences drown in the rounding of smaller dtypes",
                received=dt.name_of(t.dtype),
                fix="t.cdouble()" if t.is_complex() else "t.double()",
            )
    tolerance = eps, atol, rtol
    try:
        for k, out in enumerate(_outputs(fn, inputs)):
            if fast_mode:
                _check_products(fn, inputs, checked, k, out, tolerance, check_backward_ad, check_forward_ad)
            else:
                _check_entries(fn, inputs, checked, k, out, tolerance, check_backward_ad, check_forward_ad)
            if out.requires_grad and check_backward_ad:
                _check_calls(out, checked, nondet_tol, check_grad_dtypes)
            if check_batched_grad and out.requires_grad:
                _check_batched(fn, inputs, checked, k)
            if check_batched_forward_grad:
                _check_batched_forward(fn, inputs, checked, k)
    except GradientError:
        if raise_exception:
            raise
        return False
    return True


def _check_entries(fn, inputs, checked, k: int, out, tolerance, backward: bool, forward: bool) -> None:
    eps, atol, rtol = tolerance
    kinds = []
    if backward:
        kinds.append(
            ("", _analytic(fn, inputs, checked, k) if out.requires_grad else [_zeros(out, t) for t in checked])
        )
    if forward:
        kinds.append((" by forward mode", _forward(fn, inputs, checked, k)))
    for i, t in enumerate(checked):
        numeric = _numeric(fn, inputs, t, k, eps)
        xp = t.backend
        for kind, jacobians in kinds:
            exact = jacobians[i]
            excess = xp.absolute(exact - numeric) - (atol + rtol * xp.absolute(numeric))
            if excess.size and not bool((excess <= 0).all()):
                worst = int(xp.where(xp.isnan(excess), xp.asarray(float("inf")), excess).argmax())
                row, column = divmod(worst, exact.shape[1])
                raise GradientError(
                    f"the gradient of output {k} with respect to input {i}{kind} is wrong",
                    expected=f"∂out[{row}]/∂in[{column}] = {float(numeric[row, column]):.9g} by finite differences",
                    received=f"{float(exact[row, column]):.9g}",
                )


def _check_products(fn, inputs, checked, k: int, out, tolerance, backward: bool, forward: bool) -> None:
    """uᵀ J v for fixed u and v, in place of all entries of J."""
    eps, atol, rtol = tolerance
    u = _ramp(out)
    for i, t in enumerate(checked):
        v = _ramp(t)
        moved = _difference(fn, inputs, t, k, v._data, eps)
        numeric = float((u._data.reshape(-1) * moved).sum())
        scale = float(abs(v._data).sum()) * float(abs(u._data).sum()) + 1
        products = []
        if backward:
            g = None
            if out.requires_grad:
                (g,) = engine.grad(_outputs(fn, inputs)[k], [t], u, allow_unused=True)
            products.append(("", 0.0 if g is None else float((g._data * v._data).sum())))
        if forward:
            tangent = _jvp(fn, inputs, k, {id(t): v})
            products.append((" by forward mode", 0.0 if tangent is None else float((tangent._data * u._data).sum())))
        for kind, exact in products:
            if not abs(exact - numeric) <= atol * scale + rtol * abs(numeric):
                raise GradientError(
                    f"the gradient of output {k} with respect to input {i}{kind} is wrong",
                    expected=f"uᵀ J v = {numeric:.9g} by finite differences",
                    received=f"{exact:.9g}",
                    fix="fast_mode=False names the entry",
                )


def _check_calls(out: Tensor, checked, nondet_tol: float, check_dtypes: bool) -> None:
    """Two calls of backward agree, and gradients have the dtypes of inputs."""
    u = _ramp(out)
    calls = [engine.grad(out, checked, u, retain_graph=True, allow_unused=True) for _ in range(2)]
    for i, (t, a, b) in enumerate(zip(checked, *calls)):
        if a is None or b is None:
            continue
        if check_dtypes and a.dtype != t.dtype:
            raise GradientError(
                f"the gradient of input {i} has another dtype",
                expected=dt.name_of(t.dtype),
                received=dt.name_of(a.dtype),
            )
        difference = float(abs(a._data - b._data).max()) if a.numel() else 0.0
        if difference > nondet_tol:
            raise GradientError(
                f"two calls of backward give different gradients of input {i}",
                expected=f"a difference of at most nondet_tol={nondet_tol}",
                received=f"{difference:.3g}",
            )


def _check_batched(fn, inputs, checked, k: int) -> None:
    out = _outputs(fn, inputs)[k]
    vectors = _three(_ramp(out))
    options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    batched: Any = engine.grad(out, checked, vectors, is_grads_batched=True, **options)
    for row in range(3):
        single: Any = engine.grad(out, checked, vectors[row], **options)
        _compare_rows("backward", [g._data[row] for g in batched], [g._data for g in single])


def _check_batched_forward(fn, inputs, checked, k: int) -> None:
    for t in checked:
        vectors = _three(_ramp(t))
        moved: Any = lambda v, t=t: _jvp(fn, inputs, k, {id(t): v}, zeros=True)
        batched = vmap(moved)(vectors)
        for row in range(3):
            _compare_rows("jvp", [batched._data[row]], [moved(vectors[row])._data])


def _three(t: Tensor) -> Tensor:
    """Three vectors: a batch."""
    xp = t.backend
    return Tensor(xp.stack([t._data, t._data * -0.5, xp.flip(t._data.reshape(-1), 0).reshape(t._data.shape)]), xp)


def _compare_rows(name: str, batched, single) -> None:
    for a, b in zip(batched, single):
        if not bool((abs(a - b) <= 1e-8 + 1e-6 * abs(b)).all()):
            raise GradientError(
                f"vmap of {name} differs from {name} of one vector at a time",
                expected=f"{float(abs(b).max()):.6g} at most",
                received=f"a difference of {float(abs(a - b).max()):.6g}",
                fix="a backward made of tensor operations, or a vmap of the Function's own",
            )


def gradgradcheck(
    fn: Callable,
    inputs,
    grad_outputs=None,
    *,
    gen_non_contig_grad_outputs: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    **options,
) -> bool:
    """`gradcheck` of the gradients of `fn`: its second derivatives.

    `check_fwd_over_rev`, `check_rev_over_rev`: by `jvp` of the gradients, and by backward. `gen_non_contig_grad_outputs`: the
    vectors are not in row order. Other options are those of `gradcheck`.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = _outputs(fn, inputs)
    if not any(o.requires_grad for o in outputs):
        raise GradientError(
            "no output of the function requires grad, so there is no first derivative to differentiate",
            fix="pass inputs that require grad, and do not detach() inside",
        )
    if grad_outputs is None:
        grad_outputs = [_ramp(o) for o in outputs]
        if gen_non_contig_grad_outputs:
            grad_outputs = [Tensor(g.backend.stack([g._data, g._data], -1)[..., 0], g.backend) for g in grad_outputs]
        grad_outputs = [g.requires_grad_() for g in grad_outputs]
    grad_outputs = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    differentiated = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]

    def first_order(*arguments):
        args, vectors = list(arguments[: len(inputs)]), arguments[len(inputs) :]
        if mode.level is not None:  # as in `jvp`, whose arguments are no leaves
            for i in differentiated:
                args[i] = leaf(args[i], True)
        gradients = engine.grad(
            _outputs(fn, args), [args[i] for i in differentiated], vectors, create_graph=True, allow_unused=True
        )
        return tuple(g for g in gradients if g is not None)

    options |= {"check_forward_ad": check_fwd_over_rev, "check_backward_ad": check_rev_over_rev}
    return gradcheck(first_order, (*inputs, *grad_outputs), **options)


def _ramp(t: Tensor) -> Tensor:
    """A fixed vector without symmetry, to multiply the first derivatives with."""
    xp = t.backend
    values = (xp.arange(t.numel()) % 7 * 0.25 - 0.6).astype(t.dtype)
    if t.is_complex():
        values = values + 1j * (xp.arange(t.numel()) % 5 * 0.25 - 0.4)
    return Tensor(values.reshape(t.shape), xp)


def _outputs(fn, inputs) -> list[Tensor]:
    """The outputs that require grad; where none does, the floating ones."""
    with enable_grad():
        out = fn(*inputs)
    tensors = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]
    if not tensors:
        raise ArgumentError("gradcheck needs a function that returns tensors", received=type(out).__name__)
    return [o for o in tensors if o.requires_grad] or [o for o in tensors if dt.is_inexact(o.dtype)]


def _parts(xp, raw):
    """The elements of an array in row order, of complex numbers their real and imaginary parts."""
    flat = xp.ascontiguousarray(raw).reshape(-1)
    return flat.view(dt.real_of(flat.dtype)) if flat.dtype.kind == "c" else flat


def _zeros(out: Tensor, t: Tensor):
    rows, columns = (x.numel() * (2 if x.is_complex() else 1) for x in (out, t))
    return out.backend.zeros((rows, columns), dtype=dt.float64)


def _analytic(fn, inputs, checked, k):
    """Per checked input, the Jacobian (outputs × inputs) of output k, a row at a time.

    The gradient at 1 is the row of the real part of an output, that at i the row of its imaginary part.
    """
    out = _outputs(fn, inputs)[k]
    xp = out.backend
    jacobians = [_zeros(out, t) for t in checked]
    for row in range(len(jacobians[0])):
        start = xp.zeros(out.numel(), dtype=out.dtype)
        _parts(xp, start)[row] = 1
        gradients = engine.grad(
            out, checked, as_tensor(start.reshape(out.shape), backend=xp), retain_graph=True, allow_unused=True
        )
        for jacobian, gradient in zip(jacobians, gradients):
            if gradient is not None:
                jacobian[row] = _parts(xp, gradient._data)
    return jacobians


def _jvp(fn, inputs, k: int, tangents: dict[int, Tensor], zeros: bool = False) -> Tensor | None:
    """The tangent of output k, with the tangents of inputs by their ids."""
    with forward_level() as level:
        moved = [level.lift(t.detach(), tangents.get(id(t))) if isinstance(t, Tensor) else t for t in inputs]
        out = fn(*moved)
    outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]
    chosen = _chosen_outputs(fn, inputs)
    value, tangent = split_dual(level, outs[chosen[k]])
    return zeros_like(value) if tangent is None and zeros else tangent


def _chosen_outputs(fn, inputs) -> list[int]:
    """The positions of `_outputs` among all tensors that the function returns."""
    with enable_grad():
        out = fn(*inputs)
    tensors = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]
    recorded = [i for i, o in enumerate(tensors) if o.requires_grad]
    return recorded or [i for i, o in enumerate(tensors) if dt.is_inexact(o.dtype)]


def _forward(fn, inputs, checked, k: int):
    """Per checked input, the Jacobian (outputs × inputs) of output k by `jvp`, a column at a time."""
    out, jacobians = _outputs(fn, inputs)[k], []
    for t in checked:
        xp = t.backend
        jacobian = _zeros(out, t)
        for column in range(t.numel()):
            v = xp.zeros(t.numel(), dtype=t.dtype)
            v[column] = 1
            tangent = _jvp(fn, inputs, k, {id(t): Tensor(v.reshape(t.shape), xp)})
            if tangent is not None:
                jacobian[:, column] = tangent._data.reshape(-1)
        jacobians.append(jacobian)
    return jacobians


def _difference(fn, inputs, t: Tensor, k: int, direction, eps: float):
    """The derivative of output k along `direction` of input `t`, by central differences; a vector."""
    original, base, storage = t._data, t._base, t._storage
    sides = []
    try:
        for sign in (1, -1):
            t.rebind(original + sign * eps * direction, t.backend)
            sides.append(_outputs(fn, inputs)[k]._data.reshape(-1).copy())
    finally:
        t._data, t._base, t._storage, t._spec = original, base, storage, None  # restores the version, too
    return (sides[0] - sides[1]) / (2 * eps)


def _numeric(fn, inputs, t: Tensor, k: int, eps: float):
    """The Jacobian of output k for input `t`, a column at a time, by central differences."""
    xp = t.backend
    columns = []
    original, base, storage = t._data, t._base, t._storage
    try:
        for column in range(len(_parts(xp, original))):
            sides = []
            for sign in (1, -1):
                moved = xp.ascontiguousarray(original).copy().reshape(-1)
                _parts(xp, moved)[column] += sign * eps
                t.rebind(moved.reshape(original.shape), xp)
                sides.append(_parts(xp, _outputs(fn, inputs)[k]._data).copy())
            columns.append((sides[0] - sides[1]) / (2 * eps))
    finally:
        t._data, t._base, t._storage, t._spec = original, base, storage, None  # restores the version, too
    if not columns:
        return _zeros(_outputs(fn, inputs)[k], t)
    return xp.stack(columns, axis=1)
