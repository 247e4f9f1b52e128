"""Hooks on modules: the handle that removes one, and the taps that observe gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from deepcore.autograd import Function
from deepcore.tensor import Tensor, changes

_next_id = itertools.count().__next__


class RemovableHandle:
    """Handle of a registered hook: `remove()`, or the end of a `with` block, removes the hook."""

    def __init__(self, table: dict[str, dict], kind: str, hook: Callable, options=None, first: bool = False):
        self._table, self._kind, self._id = table, kind, _next_id()
        entry = {self._id: (hook, options)}
        hooks = table.get(kind, {})
        table[kind] = {**entry, **hooks} if first else {**hooks, **entry}
        changes.count += 1

    def remove(self) -> None:
        changes.count += 1
        hooks = {i: hook for i, hook in self._table.get(self._kind, {}).items() if i != self._id}
        if hooks:
            self._table[self._kind] = hooks
        else:
            self._table.pop(self._kind, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc) -> None:
        self.remove()


class GradientTap:
    """Collects the gradients of one call of a module, of its outputs first, then of its inputs, and runs the hooks."""

    def __init__(self, module, hooks: dict, pre_hooks: dict):
        self.module = module
        self.hooks = [hook for hook, _ in hooks.values()]
        self.pre_hooks = [hook for hook, _ in pre_hooks.values()]
        self.grad_output: tuple = ()
        self.n_inputs = 0
        self.taps_inputs = False

    def inputs(self, args: tuple) -> tuple:
        self.n_inputs = len(args)
        self.input_indices = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if not self.input_indices:
            return args
        self.taps_inputs = True
        tapped = list(args)
        for i, t in zip(
            self.input_indices, _Tap.apply(self.on_input_gradients, *(args[i] for i in self.input_indices))
        ):
            tapped[i] = t
        return tuple(tapped)

    def outputs(self, result):
        items = (result,) if isinstance(result, Tensor) else result
        if not isinstance(items, (tuple, list)):
            return result
        input_indices = [i for i, t in enumerate(items) if isinstance(t, Tensor) and t.requires_grad]
        if not input_indices:
            return result
        self.output_indices, self.n_outputs = input_indices, len(items)
        tapped = list(items)
        for i, t in zip(input_indices, _Tap.apply(self.on_output_gradients, *(items[i] for i in input_indices))):
            tapped[i] = t
        return tapped[0] if isinstance(result, Tensor) else type(result)(tapped)

    def on_output_gradients(self, gradients: tuple) -> tuple:
        gradients_or_none: list = [None] * self.n_outputs
        for i, g in zip(self.output_indices, gradients):
            gradients_or_none[i] = g
        grad_output = tuple(gradients_or_none)
        for hook in self.pre_hooks:
            replaced = hook(self.module, grad_output)
            if replaced is not None:
                grad_output = replaced if isinstance(replaced, tuple) else (replaced,)
        self.grad_output = grad_output
        if not self.taps_inputs:
            self.run((None,) * self.n_inputs)
        return tuple(grad_output[i] for i in self.output_indices)

    def on_input_gradients(self, gradients: tuple) -> tuple:
        gradients_or_none: list = [None] * self.n_inputs
        for i, g in zip(self.input_indices, gradients):
            gradients_or_none[i] = g
        grad_input = self.run(tuple(gradients_or_none))
        return tuple(grad_input[i] for i in self.input_indices)

    def run(self, grad_input: tuple) -> tuple:
        for hook in self.hooks:
            replaced = hook(self.module, grad_input, self.grad_output)
            if replaced is not None:
                grad_input = replaced if isinstance(replaced, tuple) else (replaced,)
        return grad_input


class _Tap(Function):
    """Identity on tensors; `callback` receives their gradients and returns the replacements."""

    @staticmethod
    def forward(ctx, callback, *tensors):
        ctx.callback = callback
        ctx.set_materialize_grads(False)
        return tensors

    @staticmethod
    def backward(ctx, *gradients):
        return (None, *ctx.callback(gradients))
