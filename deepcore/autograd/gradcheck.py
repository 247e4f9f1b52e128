"""Gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.autograd import engine
from deepcore.autograd.modes import enable_grad
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, GradientError
from deepcore.tensor import Tensor, as_tensor


def gradcheck(
    fn: Callable, inputs, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3, raise_exception: bool = True
) -> bool:
    """Compare the Jacobian that backward gives with (f(x + eps) − f(x − eps)) / 2eps, element by element.

    `inputs`: the tensors (or other arguments) of `fn`; those that require grad are checked, in float64 or complex128.
    A complex number counts as two elements, its real and its imaginary part.
    `fn` returns a tensor or a tuple of them; when none of them requires grad, the differences must be 0. True, or
    `GradientError` naming the entry that differs most (False with `raise_exception=False`).
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
    for k, out in enumerate(_outputs(fn, inputs)):
        analytic = _analytic(fn, inputs, checked, k) if out.requires_grad else [_zeros(out, t) for t in checked]
        for i, (t, exact) in enumerate(zip(checked, analytic)):
            numeric = _numeric(fn, inputs, t, k, eps)
            xp = t.backend
            difference = xp.absolute(exact - numeric)
            excess = difference - (atol + rtol * xp.absolute(numeric))
            if excess.size and not bool((excess <= 0).all()):
                if not raise_exception:
                    return False
                worst = int(xp.where(xp.isnan(excess), xp.asarray(float("inf")), excess).argmax())
                row, column = divmod(worst, exact.shape[1])
                raise GradientError(
                    f"the gradient of output {k} with respect to input {i} is wrong",
                    expected=f"∂out[{row}]/∂in[{column}] = {float(numeric[row, column]):.9g} by finite differences",
                    received=f"{float(exact[row, column]):.9g}",
                )
    return True


def gradgradcheck(fn: Callable, inputs, grad_outputs=None, **tolerances) -> bool:
    """`gradcheck` of the gradients of `fn`: its second derivatives."""
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = _outputs(fn, inputs)
    if not any(o.requires_grad for o in outputs):
        raise GradientError(
            "no output of the function requires grad, so there is no first derivative to differentiate",
            fix="pass inputs that require grad, and do not detach() inside",
        )
    if grad_outputs is None:
        grad_outputs = [_ramp(o).requires_grad_() for o in outputs]
    grad_outputs = list(grad_outputs)
    differentiated = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]

    def first_order(*arguments):
        args, vectors = arguments[: len(inputs)], arguments[len(inputs) :]
        gradients = engine.grad(
            _outputs(fn, args), [args[i] for i in differentiated], vectors, create_graph=True, allow_unused=True
        )
        return tuple(g for g in gradients if g is not None)

    return gradcheck(first_order, (*inputs, *grad_outputs), **tolerances)


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
