"""`Optimizer`: parameter groups, state and files; subclasses define `update`, `scalars` and `init`."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import starmap
from operator import call
from typing import Any

from deepcore import errors
from deepcore.autograd import enable_grad
from deepcore.backend import dtypes as dt
from deepcore.effects import effect, mode, untraceable
from deepcore.errors import (
    ArgumentError,
    BackendError,
    DTypeError,
    ShapeError,
    StateDictError,
    UninitializedError,
    suggest,
)
from deepcore.kernels.cpu.clip import Clip
from deepcore.kernels.math.formulas import count
from deepcore.kernels.update import Update, run_update
from deepcore.nn.hooks import RemovableHandle
from deepcore.nn.modules.module import clear_gradients
from deepcore.nn.parameter import UninitializedTensor
from deepcore.nn.registry import Registry
from deepcore.nn.utils import check_gradients, clip_grad_norm_, clip_grad_value_
from deepcore.ops.parts import real_array
from deepcore.optim.plan import Plan, restore_calls
from deepcore.tensor import Tensor, from_raw

OPTIMIZERS = Registry("optimizer")

# Switches of PyTorch's implementation, which constructors accept.
_SWITCHES = ("foreach", "fused", "capturable", "differentiable")
# Settings that PyTorch saves with a group, and that only some of deepcore's optimizers have.
_TORCH_ONLY = {*_SWITCHES, "decoupled_weight_decay"}
# Keys of a group that are not settings of an optimizer: parameters, and those that PyTorch's schedules add.
_NOT_RESTORED = {*_TORCH_ONLY, "params", "param_names"}
_NO_SETTINGS = {
    "params", "param_names", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr",
}  # fmt: skip


def _takes_switches(init: Callable) -> Callable:
    """A constructor that also accepts PyTorch's `foreach`, `fused`, `capturable` and `differentiable`."""
    own = inspect.signature(init).parameters
    switches = [name for name in _SWITCHES if name not in own]

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        if not kwargs.keys().isdisjoint(switches):
            if kwargs.get("differentiable") and "differentiable" in switches:
                raise ArgumentError(
                    f"{type(self).__name__}: a step is not differentiable",
                    received="differentiable=True",
                    fix="write the update with tensors: w = w - lr * dc.autograd.grad(loss, w, create_graph=True)[0]",
                )
            kwargs = {name: value for name, value in kwargs.items() if name not in switches}
        init(self, *args, **kwargs)

    return wrapper


def _hooked(step: Callable) -> Callable:
    """A step that runs the optimizer's hooks before and after it, once, whatever it calls."""

    def run(self, *args, **kwargs):
        hooks = self._step_hooks
        if not hooks:
            return step(self, *args, **kwargs)
        untraceable("an optimizer with hooks")
        self._step_hooks = {}
        try:
            for hook, _ in tuple(hooks.get("pre", {}).values()):
                replaced = hook(self, args, kwargs)
                if replaced is not None:
                    args, kwargs = replaced
            result = step(self, *args, **kwargs)
            for hook, _ in tuple(hooks.get("post", {}).values()):
                hook(self, args, kwargs)
        finally:
            self._step_hooks = hooks
        return result

    @functools.wraps(step)
    def wrapper(self, *args, **kwargs):
        return run(self, *args, **kwargs) if mode.profiler is None else _profiled(run, self, args, kwargs)

    return wrapper


def _profiled(run: Callable, optimizer: Optimizer, args: tuple, kwargs: dict):
    """A step as one event of a profile; what it calls of its own class is part of it."""
    name = f"{type(optimizer).__name__}.step"
    watch = mode.profiler
    if not watch.recording or mode.tracer is not None or any(event.name == name for event in watch.open):
        return run(optimizer, *args, **kwargs)
    event = watch.begin(name, "optimizer")
    try:
        result = run(optimizer, *args, **kwargs)
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.backend.synchronize()
            event.device = str(p.backend)
            break
    finally:
        watch.finish(event)
    event.flops, event.bytes = optimizer._work()
    return result


class Optimizer:
    """Base of the optimizers. A subclass passes `defaults` and defines three methods:

    `update(group)`: the `Update`, the formula of one element, for a group's settings; kernels and plain array code
    are derived from it. `scalars(group, step)`: the scalars of that formula, by name, at a parameter's update number
    `step`. `init(parameter)`: the initial state, a dict of raw arrays and numbers (a count of updates is called
    "step"); arrays of the formula that are not in it start as zeros.

    An update that is not elementwise is `apply(parameter, gradient, state, group)` instead of the first two: one
    update, in place, on raw arrays (`parameter._data`, `gradient`) with `xp = parameter.backend`.
    `validate(group)` checks hyperparameters; `state_names` are the names a saved state may have.

    `params` are tensors, (name, tensor) pairs, or dicts ("groups") with "params" and settings of their own:
    `[{"params": body}, {"params": head, "lr": 0.1}]`. State is keyed by parameter, apart from the settings.

    Complex parameters are updated as their real and imaginary parts, by the same formula; `takes_complex = False` refuses them.

    PyTorch's `foreach`, `fused` and `capturable` are accepted and change nothing: a step is always one program.
    """

    state_names: tuple[str, ...] | None = None
    takes_complex = True

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _takes_switches(cls.__init__)  # type: ignore[method-assign]
        if "step" in vars(cls):
            cls.step = _hooked(cls.step)  # type: ignore[method-assign]

    def __init__(self, params, defaults: dict[str, Any]):
        if isinstance(params, Tensor):
            raise ArgumentError("an optimizer takes several parameters, not one tensor", fix="[parameter]")
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.param_groups: list[dict[str, Any]] = []
        #: Whether `step()` has run; schedules check it.
        self._stepped = False
        self._step_hooks: dict[str, dict] = {}
        self._plan: Plan | None = None
        frame = getattr(params, "gi_frame", None)  # model.parameters(), not yet walked
        groups = _as_list(params)
        if not groups:
            raise ArgumentError(f"{type(self).__name__} was given no parameters", fix=_fix_for_empty(params, frame))
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # -- what a subclass defines ----------------------------------------------------------------------
    def init(self, parameter: Tensor) -> dict[str, Any]:
        """The state of a parameter before its first update."""
        return {}

    def update(self, group: dict[str, Any]) -> Update:
        """The formula for a group's settings."""
        raise NotImplementedError

    def scalars(self, group: dict[str, Any], step: int) -> dict[str, float]:
        """The formula's scalars at update number `step`; without a "step" in the state, 1 at first and 2 from then on."""
        raise NotImplementedError

    def apply(self, parameter: Tensor, gradient, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One update of `parameter._data` in place."""
        update, scalars, states = self.prepare(parameter, state, group)
        xp = parameter.backend
        arrays = [real_array(xp, array) for array in (parameter._data, gradient, *states)]
        run_update(xp, update, scalars, *arrays)

    def prepare(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> tuple[Update, dict, list]:
        """(formula, scalars, state arrays) of the next update; increments the state's step and creates missing arrays."""
        update = self.update(group)
        step = self.advance(parameter, state, update)
        return update, self.scalars(group, step), [state[name] for name in update.states]

    def advance(self, parameter: Tensor, state: dict[str, Any], update: Update) -> int:
        """The number of the next update; increments the state's step and creates missing arrays."""
        first = False
        for name in update.states:
            if state.get(name) is None:
                first = True
                state[name] = parameter.backend.zeros_like(parameter._data)
        if "step" in state:
            state["step"] += 1
            return state["step"]
        return 1 if first else 2

    def validate(self, group: dict[str, Any]) -> None:
        """Raise `ArgumentError` for invalid settings."""
        non_negative(group, "lr")

    def start(self, parameter: Tensor) -> dict[str, Any]:
        """`init`; real numbers that start the state of a complex parameter are those of both parts."""
        state = self.init(parameter)
        if parameter.is_complex():
            for value in state.values():
                if isinstance(value, parameter.backend.array_type) and value.dtype.kind == "c":
                    value.imag[...] = value.real
        return state

    def group_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's group, for `init`."""
        return next(g for g in self.param_groups if any(p is parameter for p in g["params"]))

    # -- groups -----------------------------------------------------------------------------------------
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: "params" and any settings that differ from the defaults (further keys, as "name", are kept)."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise ArgumentError("a parameter group is a dict with 'params'", received=repr(type(param_group).__name__))
        params = param_group["params"]
        items = [params] if isinstance(params, Tensor) else _as_list(params)
        group = {**param_group, "params": []}
        if items and isinstance(items[0], (tuple, list)):
            group["param_names"] = [name for name, _ in items]
            items = [p for _, p in items]
        parameter_ids = {id(p) for g in self.param_groups for p in g["params"]}
        for i, p in enumerate(items):
            if not isinstance(p, Tensor):
                raise ArgumentError(
                    f"{type(self).__name__}: parameter {i} of the group is not a tensor", received=type(p).__name__
                )
            if isinstance(p, UninitializedTensor):
                raise UninitializedError(
                    f"{type(self).__name__}: parameter {i} of the group has no shape yet, as its lazy layer has seen no input",
                    fix="call the model once on a batch, model(x), before the optimizer is made",
                )
            if not p.is_leaf:
                raise ArgumentError(
                    f"{type(self).__name__}: parameter {i} of the group (shape {p.shape}) was computed, and a step would "
                    "not change what it was computed from",
                    fix="give the leaf tensors, or detach() it",
                )
            if p.is_complex() and not self.takes_complex:
                raise DTypeError(
                    f"{type(self).__name__} has no update of complex parameters",
                    received=f"parameter {i} of the group: {dt.name_of(p.dtype)}, shape {p.shape}",
                    fix="keep the parameter as real numbers and compute with dc.view_as_complex(p), or use Adam",
                )
            if id(p) in parameter_ids:
                raise ArgumentError(
                    f"{type(self).__name__}: parameter {i} of the group (shape {p.shape}) is already in the optimizer",
                    expected="each parameter in one group, once",
                )
            parameter_ids.add(id(p))
        group["params"] = items
        for name in param_group:
            if self._is_misspelled(name):
                raise ArgumentError(f"{type(self).__name__} has no setting {name!r}", fix=suggest(name, self.defaults))
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        self.validate(group)
        self.param_groups.append(group)

    def _is_misspelled(self, name) -> bool:
        """Whether a group's key is not a setting but close to the name of one."""
        if name in self.defaults or name in _NO_SETTINGS:
            return False
        return bool(difflib.get_close_matches(str(name), self.defaults, n=1, cutoff=0.8))

    # -- the step ---------------------------------------------------------------------------------------
    @_hooked
    def step(self, closure: Callable[[], Any] | None = None):
        """Update every parameter that has a gradient. `closure`, if given, computes the loss, which is returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._update()
        return loss

    @_hooked
    def clipped_step(
        self,
        max_norm: float | None = None,
        clip_value: float | None = None,
        *,
        error_if_nonfinite: bool = False,
        named: Sequence[tuple[str, Tensor]] | None = None,
        keep: bool = True,
    ) -> Tensor | None:
        """`clip_grad_value_` and `clip_grad_norm_` of all parameters, then `step()`, fused, with the same bits.

        Returns the norm before clipping, or None without `max_norm`. `error_if_nonfinite`: a NaN or infinite norm, or
        without `max_norm` gradient, raises `NonFiniteError` naming the parameter (as in `named`, (name, parameter)
        pairs), and nothing is changed. `keep=False`: the gradients may be clipped or not afterwards, also after an
        exception.
        """
        max_norm = None if max_norm is None else errors.non_negative("max_norm", max_norm)
        clip_value = None if clip_value is None else errors.non_negative("clip_value", clip_value)
        clips = max_norm is not None or clip_value is not None
        clip = Clip(max_norm, clip_value, error_if_nonfinite, keep and clips)
        overrides_step = getattr(self.step, "__func__", None) is not Optimizer.step
        if not overrides_step:
            return effect("update", partial(_clip_and_step, named=named), self, clip, partial(_clipped, clip=clip))
        return self._clipped_step(clip, named)

    def _clipped_step(self, clip: Clip, named: Sequence[tuple[str, Tensor]] | None) -> Tensor | None:
        overrides_step = getattr(self.step, "__func__", None) is not Optimizer.step
        max_norm, clip_value, error_if_nonfinite = clip.max_norm, clip.value, clip.finite
        live, counts = self._live()
        if not overrides_step:
            plan = self._plan_for(live, counts)
            if plan.has_total_norm:
                self._plan = None
                if plan.run(self, _raw(live), clip) == 0:
                    self._plan = plan
                    return None if max_norm is None else from_raw(plan.norm(), live[0].backend)
        log = restore_calls(_raw(live)) if clip.keep else []
        undo = starmap(call, log)  # lazy: reads the list when it runs
        names = {} if named is None else {id(p): name for name, p in named}
        named_parameters = [(names.get(id(p)) or f"number {i} (shape {p.shape})", p) for i, p in enumerate(live)]
        try:
            if error_if_nonfinite and max_norm is None:
                check_gradients(named_parameters)
            if clip_value is not None:
                clip_grad_value_(named_parameters, clip_value)
            norm = None if max_norm is None else clip_grad_norm_(named_parameters, max_norm, 2.0, error_if_nonfinite)
            if overrides_step:
                log.clear()
                self.step()
            else:
                self._update(log)
        except BaseException:
            deque(undo, 0)  # as in `Plan.run`
            raise
        return norm

    def _live(self) -> tuple[list[Tensor], list[int]]:
        """The parameters with a gradient, and their number in each group."""
        if self._plan is not None:
            self._plan.rouse()
        parts = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        return [p for part in parts for p in part] if len(parts) > 1 else parts[0], [len(part) for part in parts]

    def _plan_for(self, live: list[Tensor], counts: list[int]) -> Plan:
        plan = self._plan
        if plan is not None and plan.fits(self, live, counts):
            return plan
        new_plan = Plan(self, live, counts, kernels=self.by_formula)
        if plan is not None:
            new_plan.backend_cache = plan.backend_cache
        return new_plan

    def _work(self) -> tuple[float, int]:
        """Arithmetic of one step, where formulas define it, and the bytes of parameters, gradients and states."""
        arithmetic, moved = 0.0, 0
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            size = sum(p._data.size for p in live)
            arithmetic += count(self.update(group).formula) * size if self.by_formula and live else 0
            for p in live:
                states = [x.nbytes for x in self.state.get(p, {}).values() if isinstance(x, p.backend.array_type)]
                moved += 3 * p._data.nbytes + 2 * sum(states)
        return arithmetic, moved

    @property
    def by_formula(self) -> bool:
        """Whether `update` and `scalars` define the update, rather than an overridden `apply`."""
        return type(self).apply is Optimizer.apply

    def _update(self, undo_log: list | None = None) -> None:
        """One step; `undo_log` reverts changes already made for it, as in `Plan.run`."""
        effect("update", partial(_step, undo_log=undo_log), self, None, None)

    def _step(self, undo_log: list | None) -> None:
        live, counts = self._live()
        plan = self._plan_for(live, counts)
        self._plan = None  # an exception leaves none
        if plan.others:
            _check(live)
        if plan.run(self, _raw(live), undo_log=undo_log):
            _check(live)
            # Gradients that are not contiguous, of another dtype, or alias a parameter are copied for the kernels.
            copies = [p.backend.array(g, p.dtype, order="C") for p, g in zip(live, _raw(live))]
            if plan.run(self, copies, undo_log=undo_log):
                plan = Plan(self, live, counts, kernels=False)
                plan.run(self, copies, undo_log=undo_log)
        self._plan = plan

    def register_step_pre_hook(self, hook: Callable) -> RemovableHandle:
        """`hook(optimizer, args, kwargs)` runs before each step; its result, if not None, replaces (args, kwargs)."""
        return RemovableHandle(self._step_hooks, "pre", hook)

    def register_step_post_hook(self, hook: Callable) -> RemovableHandle:
        """`hook(optimizer, args, kwargs)` runs after each step."""
        return RemovableHandle(self._step_hooks, "post", hook)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None, or to zeros."""
        clear_gradients([p for group in self.param_groups for p in group["params"]], set_to_none)

    # -- files --------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """{"state": {parameter number: {name: tensor or number}}, "param_groups": [settings and "params" numbers]}.

        PyTorch's layout; tensors share memory with the optimizer.
        """
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            settings = {name: value for name, value in group.items() if name != "params"}
            groups.append({**settings, "params": [numbers[id(p)] for p in group["params"]]})
        state = {
            numbers[id(p)]: {
                name: from_raw(value, p.backend) if isinstance(value, p.backend.array_type) else value
                for name, value in entry.items()
            }
            for p, entry in self.state.items()
            if entry and id(p) in numbers
        }
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict()` of this class or of PyTorch's optimizer of that name.

        Within a group, parameters are matched by name where both sides have names, else by position. The settings of
        a group become those of the state dict, which has all of them; a missing switch (True or False) is off.
        Everything is checked before anything changes; one `StateDictError` lists everything that does not fit.
        """
        name = type(self).__name__
        if not _has_layout(state_dict):
            raise StateDictError(
                f"{name}: this is not a state dict of an optimizer",
                expected="{'state': {number: {name: value}}, 'param_groups': [{'params': [number], …}]}",
            )
        saved_groups = state_dict["param_groups"]
        lengths = [len(g["params"]) for g in saved_groups]
        own_lengths = [len(g["params"]) for g in self.param_groups]
        if lengths != own_lengths:
            raise StateDictError(
                f"{name}: the state dict has other parameter groups",
                expected=f"groups of {own_lengths} parameters",
                received=f"groups of {lengths}",
                fix="build the optimizer over the same parameters as when it was saved",
            )
        faults: list[str] = []
        parameters: dict[Any, Tensor] = {}
        groups = []
        for i, (saved, group) in enumerate(zip(saved_groups, self.param_groups)):
            parameters |= zip(saved["params"], _match_parameters(i, saved, group, faults))
            groups.append(self._group_from(saved, group, faults))
        state = {}
        for key, entry in state_dict["state"].items():
            number = int(key) if isinstance(key, str) and key.isdigit() else key
            if number not in parameters:
                faults.append(f"state for parameter {key!r}, which no group has")
                continue
            state[parameters[number]] = self._load_state(number, parameters[number], entry, faults)
        if faults:
            raise StateDictError("\n  ".join([f"the state dict does not fit {name}:", *faults[:20]]))
        self.param_groups = groups
        self.state = state

    def _group_from(self, saved, group: dict[str, Any], faults: list[str]) -> dict[str, Any]:
        """A group with the settings of a saved one and the parameters of `group`."""
        restored = {k: v for k, v in saved.items() if k not in _NOT_RESTORED or k in self.defaults}
        restored = {k: _setting(v, group.get(k)) for k, v in restored.items()}
        wrong = [k for k, default in self.defaults.items() if k in restored and not _same_kind(restored[k], default)]
        faults += [f"setting {k!r} cannot be {restored[k]!r:.60}" for k in wrong]
        # A file written before a switch was added to the optimizer lacks it; it was off then.
        switches = {k: False for k, default in self.defaults.items() if isinstance(default, bool)}
        missing = [k for k in self.defaults if k not in restored and k not in switches]
        faults += [f"setting {k!r} is missing" for k in missing]
        faults += [
            f"there is no setting {k!r:.60}; {suggest(k, self.defaults)}" for k in restored if self._is_misspelled(k)
        ]
        loaded = {"params": group["params"], **switches, **restored}
        if "param_names" in group:
            loaded["param_names"] = group["param_names"]
        if not wrong and not missing:
            try:
                self.validate(loaded)
            except ArgumentError as error:
                faults.append(error.problem)
        return loaded

    def _load_state(self, number: int, p: Tensor, entry, faults: list[str]) -> dict[str, Any]:
        start = self.start(p)
        for name in start:
            if entry.get(name) is None:
                faults.append(f"parameter {number}: {name!r} is missing")
        loaded: dict[str, Any] = {}
        for name, value in entry.items():
            if self.state_names is not None and name not in self.state_names:
                faults.append(f"parameter {number}: {name!r} is not state of {type(self).__name__}")
            elif value is None:
                continue
            elif isinstance(start.get(name), int):
                count = _setting(value, 0)
                if is_number(count) and 0 <= count < 1 << 63 and count == int(count):
                    loaded[name] = int(count)
                else:
                    faults.append(f"parameter {number}: {name!r} is a whole number, not {value!r:.60}")
            elif isinstance(start.get(name), float):
                size = _setting(value, 0.0)
                if is_number(size):
                    loaded[name] = float(size)
                else:
                    faults.append(f"parameter {number}: {name!r} is a number, not {value!r:.60}")
            elif not hasattr(value, "shape") or not hasattr(value, "dtype"):
                if name in start:
                    faults.append(f"parameter {number}: {name!r} is a tensor, not {value!r:.60}")
                loaded[name] = value
            elif tuple(value.shape) != getattr(start.get(name), "shape", p.shape):
                faults.append(
                    f"parameter {number}: {name!r} has shape {tuple(value.shape)}, and the parameter {p.shape}"
                )
            else:
                loaded[name] = _copied(value, p)
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name not in ("params", "param_names")]
        return "\n".join([*lines, ")"])


def _step(optimizer: Optimizer, clip: None, clipped: None, undo_log: list | None) -> None:
    optimizer._step(undo_log)


def _clip_and_step(optimizer: Optimizer, clip: Clip, clipped: Callable, named) -> Tensor | None:
    return optimizer._clipped_step(clip, named)


def _clipped(gradients: list[Tensor], clip: Clip) -> Tensor | None:
    """Clip gradients in place as `clipped_step` does; returns the norm before."""
    holders = [from_raw(g._data, g.backend) for g in gradients]
    for holder, g in zip(holders, gradients):
        holder.grad = g
    if clip.value is not None:
        clip_grad_value_(holders, clip.value)
    return None if clip.max_norm is None else clip_grad_norm_(holders, clip.max_norm)


def _raw(live: list[Tensor]) -> list:
    return [p.grad._data for p in live]  # type: ignore[union-attr]


def _check(live: list[Tensor]) -> None:
    """Raise where a gradient's backend or shape differs from its parameter's."""
    for p in live:
        gradient = p.grad
        assert gradient is not None
        if gradient.backend is not p.backend:
            raise BackendError(
                "a parameter and its gradient live on two backends", received=f"{p.backend}, {gradient.backend}"
            )
        if gradient._data.shape != p._data.shape:
            raise ShapeError(
                "a parameter and its gradient have different shapes",
                expected=str(p.shape),
                received=str(gradient.shape),
            )


def _has_layout(state_dict) -> bool:
    """Whether it has the layout of `Optimizer.state_dict`."""
    if not isinstance(state_dict, Mapping):
        return False
    state, groups = state_dict.get("state"), state_dict.get("param_groups")
    return (
        isinstance(state, Mapping)
        and all(isinstance(entry, Mapping) for entry in state.values())
        and isinstance(groups, (list, tuple))
        and all(isinstance(g, Mapping) and isinstance(g.get("params"), (list, tuple)) for g in groups)
        and all(isinstance(n, (int, str)) for g in groups for n in g["params"])
    )


def _match_parameters(number: int, saved, group: dict[str, Any], faults: list[str]) -> list[Tensor]:
    """The parameters of `group` in the order of a saved group: by name where both have names, each once."""
    names, own_names = saved.get("param_names"), group.get("param_names")
    parameters = group["params"]
    if names is None or own_names is None or len(set(own_names)) < len(parameters) or len(own_names) != len(parameters):
        return parameters
    if not isinstance(names, (list, tuple)) or len(names) != len(parameters) or not all(map(_is_text, names)):
        faults.append(f"group {number}: 'param_names' are not the names of {len(parameters)} parameters")
        return parameters
    if len(set(names)) < len(names):
        return parameters
    by_name = dict(zip(own_names, parameters))
    missing, unexpected = [n for n in own_names if n not in names], [n for n in names if n not in by_name]
    if missing or unexpected:
        faults.append(
            f"group {number} has parameters {', '.join(missing[:5])} where the state dict has {', '.join(unexpected[:5])}"
        )
        return parameters
    return [by_name[name] for name in names]


def _is_text(value) -> bool:
    return isinstance(value, str)


def _setting(value, like):
    """A saved setting as a plain number (PyTorch may keep a 0-d tensor), or a tuple where `like` is one."""
    if isinstance(value, list) and isinstance(like, tuple):
        return tuple(value)
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _same_kind(value, default) -> bool:
    """Whether a setting has the type of `default`."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and len(value) == len(default) and all(map(_same_kind, value, default))
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return default is None or isinstance(value, type(default))
    return is_number(value)


def is_number(value) -> bool:
    """A finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _as_list(params) -> list:
    if isinstance(params, (set, frozenset)):
        raise ArgumentError("parameters need an order, which a set does not have", fix="list(…) of them")
    if not isinstance(params, Iterable):
        fix = "model.parameters()" if hasattr(params, "parameters") or callable(params) else None
        raise ArgumentError("an optimizer takes parameters", received=type(params).__name__, fix=fix)
    return list(params)


def _fix_for_empty(params, frame) -> str:
    """The fix for an empty list of parameters; `frame` is that of a generator before it ran."""
    if frame is None and hasattr(params, "gi_frame"):
        return "an iterator gives its items once, and this one is used up: call model.parameters() again"
    unregistered = None if frame is None else getattr(frame.f_locals.get("self"), "unregistered", None)
    plain = unregistered() if unregistered else ()
    if plain:
        return f"modules in a plain list are not registered: self.{plain[0]} = nn.ModuleList(…)"
    return "a model's parameters are those of layers that are its attributes or in an nn.ModuleList, and nn.Parameters"


def _copied(value, p: Tensor):
    """A saved tensor or array copied to the parameter's backend as a raw array, floating ones in its dtype."""
    from deepcore.tensor import tensor

    copy = tensor(value.detach() if hasattr(value, "detach") else value, backend=p.backend)
    return (copy.to(p.dtype) if dt.is_inexact(copy.dtype) else copy)._data


def non_negative(group: dict[str, Any], *names: str) -> None:
    """Each setting is a finite number ≥ 0."""
    finite(group, *names)
    for name in names:
        errors.non_negative(name, group[name])


def finite(group: dict[str, Any], *names: str) -> None:
    """Each setting is a finite number."""
    for name in names:
        value = group[name]
        if isinstance(value, Tensor):
            raise ArgumentError(f"{name} is a number", received=repr(value), fix=f"{name}={name}.item()")
        if math.isinf(errors.number(name, value)):
            raise ArgumentError(f"{name} is infinite", expected="a finite number", received=f"{name}={value!r}")


def in_unit_interval(group: dict[str, Any], *names: str) -> None:
    """Each setting is a number from 0 to 1."""
    finite(group, *names)
    for name in names:
        if not 0 <= group[name] <= 1:
            raise ArgumentError(f"{name} is from 0 to 1", received=f"{name}={group[name]!r}")


def betas_in_range(group: dict[str, Any]) -> None:
    """Two decay rates in [0, 1)."""
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ArgumentError("betas are two decay rates", expected="0 ≤ beta < 1", received=repr(betas))
