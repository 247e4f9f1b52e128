"""`model.summary()`: the output shape and parameter count of every layer."""

from __future__ import annotations

import contextlib
import copy
import weakref
from dataclasses import dataclass, field
from typing import Any

from deepcore.autograd import no_grad
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, DeepcoreError, printable
from deepcore.nn import init
from deepcore.nn.modules.lazy import LazyModuleMixin
from deepcore.nn.parameter import UninitializedTensor
from deepcore.tensor import Tensor, zeros


@dataclass
class Row:
    """One module: its path, type, output shape (None if it was not called) and own parameters."""

    path: str
    type: str
    output_shape: Any
    parameters: int
    trainable: int


@dataclass
class Summary:
    """The table: `rows`, `parameters`, `trainable`, `bytes` (of parameters and buffers); `str()` draws it."""

    model: str
    input_shape: Any
    rows: list[Row]
    parameters: int
    trainable: int
    bytes: int
    #: Paths of lazy layers, which are counted as for this input.
    lazy: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        cells = [("layer", "type", "output shape", "parameters", "trainable")]
        for row in self.rows:
            trainable = "" if not row.parameters else "yes" if row.trainable == row.parameters else "no"
            if 0 < row.trainable < row.parameters:
                trainable = f"{row.trainable:,}"
            shape = "not called" if row.output_shape is None else str(row.output_shape)
            shape = "?" if self.input_shape is None else shape
            cells.append((printable(row.path), row.type, shape, f"{row.parameters:,}", trainable))
        widths = [max(len(line[i]) for line in cells) for i in range(5)]
        rule = "-" * (sum(widths) + 8)
        head = self.model if self.input_shape is None else f"{self.model}, input {self.input_shape}"
        lines = [head, rule]
        for i, line in enumerate(cells):
            aligned = [c.rjust(w) if j == 3 else c.ljust(w) for j, (c, w) in enumerate(zip(line, widths))]
            lines.append("  ".join(aligned).rstrip())
            if i == 0:
                lines.append(rule)
        frozen = self.parameters - self.trainable
        total = f"{self.parameters:,} parameters, {self.trainable:,} trainable"
        lines += [rule, total + (f", {frozen:,} frozen" if frozen else "") + f"; {human(self.bytes)}"]
        if self.lazy:
            shown = ", ".join(self.lazy[:5]) + (f" and {len(self.lazy) - 5} more" if len(self.lazy) > 5 else "")
            counted = "not counted" if self.input_shape is None else "counted as for this input"
            lines.append(f"not initialised yet, and {counted}: {printable(shown)}; the first call does it")
        if self.input_shape is None:
            lines.append("output shapes: summary(input_shape), or summary() once a Trainer has run a batch")
        return "\n".join(lines)

    __repr__ = __str__


#: The shape and dtype of each input of the last run of models under a Trainer.
_inputs_seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def remember(model, inputs) -> None:
    """Keep the shapes of a batch's inputs for `model.summary()`, where all of them are tensors."""
    if inputs and all(isinstance(t, Tensor) and t.ndim for t in inputs):
        _inputs_seen[model] = [(t.shape[1:], t.dtype) for t in inputs]


def human(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _shapes(value) -> Any:
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, dict):
        return {key: _shapes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shapes(item) for item in value]
    return type(value).__name__


def _run(model, shapes: list[tuple[int, ...]], dtype, batch_size: int, lazy: bool) -> tuple[Any, dict[int, Any]]:
    """The model, or a copy of one with lazy layers, and the shapes of its modules' outputs, by the modules' ids."""
    if lazy:
        model = copy.deepcopy(model)
    first = next((p for p in model.parameters() if dt.is_floating(p.dtype)), None)
    kinds = dtype if isinstance(dtype, (list, tuple)) else [dtype] * len(shapes)
    default = dt.default_float if first is None else first.dtype
    backend = get_backend() if first is None else first.backend
    inputs = [zeros((batch_size, *shape), dtype=kind or default, backend=backend) for shape, kind in zip(shapes, kinds)]
    outputs: dict[int, Any] = {}
    modes = [(module, module.training) for module in model.modules()]

    def note(module, args, output):
        outputs[id(module)] = _shapes(output)

    handles = [module.register_forward_hook(note) for module, _ in modes]
    try:
        model.eval()
        with no_grad(), init.skip_init() if lazy else contextlib.nullcontext():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return model, outputs


def summarize(model, input_shape, dtype, batch_size: int) -> Summary:
    """Run `model` once over zeros, in evaluation mode without gradients; its modes are restored.

    Of a model with lazy layers, which a call would initialise, a copy runs.
    """
    if input_shape is None:
        seen = _inputs_seen.get(model)
        if seen is None:
            return _without_shapes(model)
        input_shape, dtype = [shape for shape, _ in seen], [kind for _, kind in seen]
        if len(seen) == 1 and seen[0][0]:
            input_shape = input_shape[0]
    types = {path: type(module).__name__ for path, module in model.named_modules()}
    lazy = [path or "(model)" for path, module in model.named_modules() if isinstance(module, LazyModuleMixin)]
    several = isinstance(input_shape, (list, tuple)) and input_shape and isinstance(input_shape[0], (list, tuple))
    shapes = [_as_shape(s) for s in input_shape] if several else [_as_shape(input_shape)]
    try:
        model, outputs = _run(model, shapes, dtype, batch_size, bool(lazy))
    except DeepcoreError as error:
        rest = [shape[1:] for shape in shapes]
        if not all(rest) or len({shape[0] for shape in shapes}) > 1:
            raise
        try:
            _run(model, rest, dtype, batch_size, bool(lazy))
        except Exception:
            raise error from None
        raise ArgumentError(
            "input_shape is a shape without the batch dimension, and the model takes this one without its first number",
            expected=str(rest if several else rest[0]),
            received=str(shapes if several else shapes[0]),
            fix=f"summary({rest if several else rest[0]}, batch_size={shapes[0][0]})",
        ) from None
    parameters = list(model.parameters())
    shown = [(batch_size, *s) for s in shapes]
    return Summary(
        types[""],
        shown if several else shown[0],
        _rows(model, types, outputs),
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(t.nbytes for t in (*parameters, *model.buffers())),
        lazy,
    )


def of_graph(model, input_shape, shapes: dict[int, Any]) -> Summary:
    """The table of a `Model`: a row for each of its layers, whose output shapes are given by the layers' ids."""
    rows: list[Row] = []
    counted: set[int] = set()
    for name, layer in model._modules.items():
        own = [p for p in layer.parameters() if id(p) not in counted]
        counted.update(map(id, own))
        count, trainable = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
        rows.append(Row(name, type(layer).__name__, shapes.get(id(layer)), count, trainable))
    parameters = list(model.parameters())
    return Summary(
        model.name,
        input_shape,
        rows,
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(t.nbytes for t in (*parameters, *model.buffers())),
    )


def _without_shapes(model) -> Summary:
    """The table of a model that has not run; lazy layers count nothing."""
    named = dict(model.named_modules())
    types = {path: type(module).__name__ for path, module in named.items()}
    lazy = [path or "(model)" for path, module in named.items() if isinstance(module, LazyModuleMixin)]
    parameters = [p for p in model.parameters() if not isinstance(p, UninitializedTensor)]
    buffers = [b for b in model.buffers() if not isinstance(b, UninitializedTensor)]
    return Summary(
        types[""],
        None,
        _rows(model, types, {}),
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(t.nbytes for t in (*parameters, *buffers)),
        lazy,
    )


def _rows(model, types: dict[str, str], outputs: dict[int, Any]) -> list[Row]:
    counted: set[int] = set()
    rows = []
    for path, module in model.named_modules():
        direct_parameters = [
            p
            for p in module.parameters(recurse=False)
            if id(p) not in counted and not isinstance(p, UninitializedTensor)
        ]
        counted.update(id(p) for p in direct_parameters)
        if path or not module._modules:
            count, trainable = (
                sum(p.numel() for p in direct_parameters),
                sum(p.numel() for p in direct_parameters if p.requires_grad),
            )
            rows.append(Row(path or "(model)", types[path], outputs.get(id(module)), count, trainable))
    return rows


def _as_shape(shape) -> tuple[int, ...]:
    if hasattr(shape, "__index__"):
        return (shape.__index__(),)
    try:
        return tuple(n.__index__() for n in shape)
    except (TypeError, AttributeError):
        raise ArgumentError(
            "input_shape is a shape without the batch dimension", expected="for example (784,)", received=repr(shape)
        ) from None
