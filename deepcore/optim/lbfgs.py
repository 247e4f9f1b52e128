"""Limited-memory BFGS with a line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore.autograd import enable_grad, no_grad
from deepcore.effects import untraceable
from deepcore.errors import ArgumentError
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer, finite, is_number, non_negative
from deepcore.tensor import Tensor, from_raw, tensor

#: Sufficient decrease and curvature of the strong Wolfe conditions, and the most evaluations of a line search after the first.
_DECREASE, _CURVATURE, _MOST_TRIALS = 1e-4, 0.9, 25
#: The least curvature yᵀs of a pair that is kept.
_LEAST_CURVATURE = 1e-10

_LISTS = ("old_dirs", "old_stps", "ro")
_VECTORS = ("d", "prev_flat_grad")


class _Point(NamedTuple):
    """A point of a line search: the step, the loss there, its gradient, and the slope along the direction."""

    step: float
    loss: float
    gradient: Any
    slope: float


@OPTIMIZERS.register
class LBFGS(Optimizer):
    """w ← w + t · d, d = -H g with H ≈ the inverse Hessian, from the last `history_size` changes of w and g.

    `step(closure)` makes at most `max_iter` such iterations and `max_eval` (1.25 · max_iter) evaluations; `closure` clears
    the gradients, computes the loss, calls `backward()` and returns the loss. It ends early where no gradient exceeds
    tolerance_grad, or the change of the parameters or of the loss is below tolerance_change. t is lr, in the first
    iteration min(1, 1/‖g‖₁) · lr; with line_search_fn="strong_wolfe" it is searched for. One group, and memory of
    history_size · 2 times the parameters. (Liu and Nocedal, 1989; Nocedal and Wright, 2006, 3.5)
    """

    takes_complex = False

    by_formula = False  # type: ignore[assignment]

    def __init__(
        self,
        params,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )

    def validate(self, group) -> None:
        non_negative(group, "lr")
        finite(group, "max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size")
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise ArgumentError('line_search_fn is None or "strong_wolfe"', received=repr(group["line_search_fn"]))

    def add_param_group(self, param_group) -> None:
        """LBFGS has one group: its direction is one vector of all parameters."""
        if self.param_groups:
            raise ArgumentError("LBFGS has one parameter group", fix="LBFGS(model.parameters())")
        super().add_param_group(param_group)

    # -- parameters as one vector -----------------------------------------------------------------------
    def _gradient(self):
        parts = []
        for p in self.param_groups[0]["params"]:
            g = p.backend.zeros_like(p._data) if p.grad is None else p.grad._data
            parts.append(g.reshape(-1))
        return parts[0].copy() if len(parts) == 1 else self.param_groups[0]["params"][0].backend.concatenate(parts)

    def _move(self, start: list, step: float, direction) -> None:
        """Set the parameters to start + step · direction."""
        at = 0
        for p, w in zip(self.param_groups[0]["params"], start):
            p._data[...] = w + step * direction[at : at + w.size].reshape(w.shape)
            p.bump_version()
            at += w.size

    def _values(self) -> list:
        return [p._data.copy() for p in self.param_groups[0]["params"]]

    # -- the step -----------------------------------------------------------------------------------------
    def step(self, closure: Callable[[], Any] | None = None):
        """Iterate, and return the loss before. `closure` computes the loss and its gradients, and is needed."""
        untraceable("LBFGS, whose steps depend on values")
        if closure is None:
            raise ArgumentError(
                "LBFGS.step needs a closure that computes the loss again",
                fix="def closure(): optimizer.zero_grad(); loss = …; loss.backward(); return loss",
            )
        with no_grad():
            return self._iterate(closure)

    def _iterate(self, closure: Callable[[], Any]):
        group = self.param_groups[0]
        first = group["params"][0]
        state = self.state.setdefault(first, {"func_evals": 0, "n_iter": 0})
        xp, lr, tolerance = first.backend, float(group["lr"]), group["tolerance_change"]

        def evaluate():
            with enable_grad():
                loss = closure()
            state["func_evals"] += 1
            return loss, self._gradient()

        result, g = evaluate()
        loss, evaluations = float(result), 1
        for iteration in range(1, group["max_iter"] + 1):
            if float(xp.abs(g).max()) <= group["tolerance_grad"]:
                break
            state["n_iter"] += 1
            begins = state["n_iter"] == 1
            d = -g if begins else self._direction(xp, state, g)
            previous, state["prev_flat_grad"], state["prev_loss"], state["d"] = loss, g, loss, d
            t = min(1.0, 1.0 / float(xp.sum(xp.abs(g)))) * lr if begins else lr
            slope = _dot(xp, g, d)
            state["t"] = t
            if slope > -tolerance:
                break
            start, before = self._values(), state["func_evals"]
            if group["line_search_fn"] is not None:

                def at(step: float, start=start, d=d) -> _Point:
                    self._move(start, step, d)
                    value, gradient = evaluate()
                    return _Point(step, float(value), gradient, _dot(xp, gradient, d))

                trials = min(_MOST_TRIALS, group["max_eval"] - evaluations)
                best = _strong_wolfe(at, t, _Point(0.0, loss, g, slope), float(xp.abs(d).max()), tolerance, trials)
                loss, g, t = best.loss, best.gradient, best.step
                self._move(start, t, d)
            else:
                self._move(start, t, d)
                if iteration < group["max_iter"]:
                    value, g = evaluate()
                    loss = float(value)
            state["t"] = t
            evaluations += state["func_evals"] - before
            if (
                evaluations >= group["max_eval"]
                or float(xp.abs(d * t).max()) <= tolerance
                or abs(loss - previous) < tolerance
            ):
                break
        self._stepped = True
        return result

    def _direction(self, xp, state: dict[str, Any], g):
        """-H g by the two-loop recursion, after the last iteration's pair is taken in."""
        steps, changes, inverses = (state.setdefault(name, []) for name in ("old_stps", "old_dirs", "ro"))
        y, s = g - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = _dot(xp, y, s)
        if curvature > _LEAST_CURVATURE:
            if len(changes) == self.param_groups[0]["history_size"]:
                for each in (steps, changes, inverses):
                    each.pop(0)
            changes.append(y)
            steps.append(s)
            inverses.append(1.0 / curvature)
            state["H_diag"] = curvature / _dot(xp, y, y)
        d, shares = -g, []
        for y, s, inverse in zip(reversed(changes), reversed(steps), reversed(inverses)):
            shares.append(_dot(xp, s, d) * inverse)
            d = d - shares[-1] * y
        d = d * state.get("H_diag", 1.0)
        for y, s, inverse, share in zip(changes, steps, inverses, reversed(shares)):
            d = d + (share - _dot(xp, y, d) * inverse) * s
        return d

    # -- files --------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """As `Optimizer.state_dict`: the state, with lists of tensors, is that of the first parameter."""
        saved = super().state_dict()
        for entry in saved["state"].values():
            xp = self.param_groups[0]["params"][0].backend
            entry |= {
                name: [from_raw(x, xp) if isinstance(x, xp.array_type) else x for x in entry[name]]
                for name in _LISTS
                if name in entry
            }
        return saved

    def _load_state(self, number, p: Tensor, entry, faults: list[str]) -> dict[str, Any]:
        total = sum(q.numel() for q in self.param_groups[0]["params"])
        loaded: dict[str, Any] = {}
        for name, value in entry.items():
            if name == "al" or value is None:  # PyTorch's scratch memory
                continue
            if name in _VECTORS:
                loaded[name] = self._vector(name, value, total, p, faults)
            elif name in ("old_dirs", "old_stps"):
                loaded[name] = [self._vector(name, x, total, p, faults) for x in value]
            elif name == "ro":
                loaded[name] = [float(x) for x in value]
            elif name in ("func_evals", "n_iter", "t", "H_diag", "prev_loss"):
                number_ = value.item() if hasattr(value, "item") else value
                if not is_number(number_):
                    faults.append(f"parameter {number}: {name!r} is a number, not {value!r:.60}")
                loaded[name] = number_
            else:
                faults.append(f"parameter {number}: {name!r} is not state of LBFGS")
        lengths = {len(loaded.get(name, ())) for name in _LISTS}
        if len(lengths) > 1:
            faults.append(f"parameter {number}: the lists of the history differ in length")
        return {"func_evals": 0, "n_iter": 0, **loaded}

    def _vector(self, name: str, value, total: int, p: Tensor, faults: list[str]):
        if tuple(getattr(value, "shape", ())) != (total,):
            faults.append(f"{name!r} is no vector of the {total} elements of the parameters")
            return None
        copy = tensor(value.detach() if hasattr(value, "detach") else value, backend=p.backend)
        return copy.to(p.dtype)._data


def _dot(xp, a, b) -> float:
    return float(xp.sum(a * b))


def _cubic_minimum(a: _Point, b: _Point, low: float, high: float) -> float:
    """Where the cubic through two points with their slopes is least, within [low, high]; the middle where it has no minimum."""
    if a.step > b.step:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    divisor = b.slope - a.slope + 2 * d2
    if divisor == 0:
        return (low + high) / 2
    least = b.step - (b.step - a.step) * ((b.slope + d2 - d1) / divisor)
    return min(max(least, low), high)


def _strong_wolfe(
    at: Callable[[float], _Point], t: float, start: _Point, longest: float, tolerance: float, most: int
) -> _Point:
    """A point with sufficient decrease and a slope of at most 0.9 of the first: bracket it, then narrow the bracket.

    `longest`: the largest element of the direction; a bracket shorter than `tolerance` is not narrowed. `most`: the
    evaluations after the first.
    """

    def too_high(point: _Point) -> bool:
        return point.loss > start.loss + _DECREASE * point.step * start.slope

    def is_flat(point: _Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    before, here, trials = start, at(t), 0
    while trials < most:
        if too_high(here) or (trials > 1 and here.loss >= before.loss):
            break
        if is_flat(here):
            return here
        if here.slope >= 0:
            break
        next_step = _cubic_minimum(before, here, here.step + 0.01 * (here.step - before.step), here.step * 10)
        before, here, trials = here, at(next_step), trials + 1
    else:
        before = start
    low, high = (before, here) if before.loss <= here.loss else (here, before)
    stuck = False
    while trials < most and abs(high.step - low.step) * longest >= tolerance:
        ends = sorted((low.step, high.step))
        t = _cubic_minimum(low, high, *ends)
        margin = 0.1 * (ends[1] - ends[0])
        near = min(ends[1] - t, t - ends[0]) < margin
        if near and (stuck or t >= ends[1] or t <= ends[0]):  # a second time near an end: move inside
            t = ends[1] - margin if abs(t - ends[1]) < abs(t - ends[0]) else ends[0] + margin
            near = False
        stuck = near
        here, trials = at(t), trials + 1
        if too_high(here) or here.loss >= low.loss:
            high = here
        else:
            if is_flat(here):
                return here
            if here.slope * (high.step - low.step) >= 0:
                high = low
            low = here
        if high.loss < low.loss:
            low, high = high, low
    return low
