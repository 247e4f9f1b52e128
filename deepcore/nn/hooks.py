"""Hooks on modules: the handle that removes one, and the taps that see gradients pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from deepcore.autograd import Function
from deepcore.tensor import Tensor, changes

_next_id = itertools.count().__next__


class RemovableHandle:
    """What registering a hook returns: `remove()`, or the end of a `with` block, takes the hook away."""

    def __init__(self, table: dict[str, dict], kind: str, hook: Callable, options=None, first: bool = False):
        self._table, self._kind, self._id = table, kind, _next_id()
        entry = {self._id: (hook, options)}
        held = table.get(kind, {})
        table[kind] = {**entry, **held} if first else {**held, **entry}
        changes.count += 1

    def remove(self) -> None:
        changes.count += 1
        rest = {i: hook for i, hook in self._table.get(self._kind, {}).items() if i != self._id}
        if rest:
            self._table[self._kind] = rest
        else:
            self._table.pop(self._kind, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc) -> None:
        self.remove()


class GradientTap:
    """Watches one call of a module: gradients of its outputs first, then of its inputs, then the hooks run."""

    def __init__(self, module, hooks: dict, pre_hooks: dict):
        self.module = module
        self.hooks = [hook for hook, _ in hooks.values()]
        self.pre_hooks = [hook for hook, _ in pre_hooks.values()]
        self.grad_output: tuple = ()
        self.n_inputs = 0
        self.taps_inputs = False

    def inputs(self, args: tuple) -> tuple:
        self.n_inputs = len(args)
        self.where = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if not self.where:
            return args
        self.taps_inputs = True
        tapped = list(args)
        for i, t in zip(self.where, _Tap.apply(self.see_input, *(args[i] for i in self.where))):
            tapped[i] = t
        return tuple(tapped)

    def outputs(self, result):
        items = (result,) if isinstance(result, Tensor) else result
        if not isinstance(items, (tuple, list)):
            return result
        where = [i for i, t in enumerate(items) if isinstance(t, Tensor) and t.requires_grad]
        if not where:
            return result
        self.out_where, self.n_outputs = where, len(items)
        tapped = list(items)
        for i, t in zip(where, _Tap.apply(self.see_output, *(items[i] for i in where))):
            tapped[i] = t
        return tapped[0] if isinstance(result, Tensor) else type(result)(tapped)

    def see_output(self, gradients: tuple) -> tuple:
        full: list = [None] * self.n_outputs
        for i, g in zip(self.out_where, gradients):
            full[i] = g
        grad_output = tuple(full)
        for hook in self.pre_hooks:
            replaced = hook(self.module, grad_output)
            if replaced is not None:
                grad_output = replaced if isinstance(replaced, tuple) else (replaced,)
        self.grad_output = grad_output
        if not self.taps_inputs:
            self.run((None,) * self.n_inputs)
        return tuple(grad_output[i] for i in self.out_where)

    def see_input(self, gradients: tuple) -> tuple:
        full: list = [None] * self.n_inputs
        for i, g in zip(self.where, gradients):
            full[i] = g
        grad_input = self.run(tuple(full))
        return tuple(grad_input[i] for i in self.where)

    def run(self, grad_input: tuple) -> tuple:
        for hook in self.hooks:
            replaced = hook(self.module, grad_input, self.grad_output)
            if replaced is not None:
                grad_input = replaced if isinstance(replaced, tuple) else (replaced,)
        return grad_input


class _Tap(Function):
    """The tensors unchanged; `see` gets their gradients, and what it returns goes on in their place."""

    @staticmethod
    def forward(ctx, see, *tensors):
        ctx.see = see
        ctx.set_materialize_grads(False)
        return tensors

    @staticmethod
    def backward(ctx, *gradients):
        return (None, *ctx.see(gradients))
