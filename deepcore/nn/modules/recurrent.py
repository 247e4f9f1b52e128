"""Recurrent layers (RNN, LSTM, GRU) and their cells, which are one step."""

from __future__ import annotations

import math
import warnings
from typing import ClassVar, NamedTuple

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DeepcoreWarning, DTypeError, ShapeError
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.nn.utils.rnn import PackedSequence
from deepcore.ops import recurrent
from deepcore.ops.comparison import where
from deepcore.ops.dropout import dropped
from deepcore.ops.index import embedding
from deepcore.ops.shape import cat
from deepcore.tensor import Tensor, arange, zeros

_MOST_LAYERS = 10_000
_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def _mode(layer: Module, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(
            f"{type(layer).__name__}: unknown nonlinearity", expected='"tanh" or "relu"', received=repr(nonlinearity)
        )
    return f"RNN_{nonlinearity.upper()}"


def _check_dtype(layer: Module, tensors, dtype) -> None:
    for t in tensors:
        if t.dtype != dtype:
            raise DTypeError(
                f"{type(layer).__name__}: input, states and parameters have one dtype",
                expected=dt.name_of(dtype), received=dt.name_of(t.dtype), fix=f"x.to(dc.{dt.name_of(dtype)})",
            )  # fmt: skip


class PaddedBatch(NamedTuple):
    """Sequences (N, L, features), and True where a position is padding, (N, L); padding follows what counts."""

    data: Tensor
    padding: Tensor | None


def steps_of(x: Tensor, steps: Tensor) -> Tensor:
    """y[n, k] = x[n, steps[n, k]]; the kernel checks the range, so this can be recorded, which `gather` cannot."""
    batch, time, width = x.shape
    return embedding(arange(0, batch * time, time, backend=x.backend).unsqueeze(1) + steps, x.reshape(-1, width))


class RNNBase(Module):
    """What RNN, LSTM and GRU share: stacked layers in one or both directions, and their parameters."""

    #: PyTorch's defaults; `mode` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".
    mode: str

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        backend=None,
        dtype=None,
    ):
        super().__init__()
        name = type(self).__name__
        if mode not in _GATES:
            raise ArgumentError(f"{name}: unknown mode", expected=" or ".join(_GATES), received=repr(mode))
        check_sizes(self, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if num_layers > _MOST_LAYERS:
            raise ArgumentError(f"{name} has at most {_MOST_LAYERS:,} layers", received=f"num_layers={num_layers}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ArgumentError(
                f"{name}: dropout is a probability", expected="0 ≤ dropout ≤ 1", received=f"dropout={dropout!r}"
            )
        if dropout and num_layers == 1:
            warnings.warn(
                DeepcoreWarning(
                    f"{name}: dropout acts between layers, and num_layers is 1: dropout={dropout} does nothing"
                ),
                stacklevel=3,
            )
        if isinstance(proj_size, bool) or not hasattr(proj_size, "__index__") or not 0 <= proj_size < hidden_size:
            raise ArgumentError(
                f"{name}: proj_size is a whole number below hidden_size, or 0 for no projection",
                received=f"proj_size={proj_size!r}, hidden_size={hidden_size}",
            )
        if proj_size and mode != "LSTM":
            raise ArgumentError(f"{name} has no projection", received=f"proj_size={proj_size}", fix="nn.LSTM has one")
        self.mode = mode
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._names: list[str] = []
        rows, width = _GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            columns = width * (2 if bidirectional else 1) if layer else input_size
            for suffix in ("", "_reverse") if bidirectional else ("",):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, columns), "weight_hh": (rows, width)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for part, shape in shapes.items():
                    self._names.append(f"{part}_l{layer}{suffix}")
                    self.register_parameter(self._names[-1], new_parameter(shape, backend, dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, uniform in ±1/√hidden_size."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction."""
        flat = [getattr(self, name) for name in self._names]
        each = len(flat) // (self.num_layers * (2 if self.bidirectional else 1))
        return [flat[k : k + each] for k in range(0, len(flat), each)]

    def flatten_parameters(self) -> None:
        """Accepted and without effect: there is no layout of the parameters to restore."""

    def forward(self, input, hx=None):
        """(output, hₙ), for an LSTM (output, (hₙ, cₙ)); the output of a PackedSequence is one, and that of a PaddedBatch
        stands alone."""
        if isinstance(input, PaddedBatch):
            return self._padded(*input)
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, restore = input
            sizes = tuple(batch_sizes.tolist())
            rows = constant(type(self).__name__, data)
            self._check_input(rows, 2, "rows")
            states = self._states(hx, rows, sizes[0], True)
            if hx is not None and order is not None:
                states = [s.index_select(1, order) for s in states]
            out, *finals = self._run(rows, sizes, states)
            if restore is not None:
                finals = [s.index_select(1, restore) for s in finals]
            return PackedSequence(out, batch_sizes, order, restore), self._final(finals)
        x = constant(type(self).__name__, input)
        batched = x.ndim == 3
        self._check_input(x, 3 if batched else 2, "batch, time" if self.batch_first else "time, batch")
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        time, batch, features = x.shape
        if not time:
            raise ShapeError(
                f"{type(self).__name__}: the sequences have no time steps", received=f"shape {input.shape}"
            )
        states = self._states(hx, x, batch, batched)
        out, *finals = self._run(x.reshape(time * batch, features), (batch,) * time, states)
        if not batched:
            return out, self._final([s.squeeze(1) for s in finals])
        out = out.reshape(time, batch, out.shape[1])
        return (out.transpose(0, 1) if self.batch_first else out), self._final(finals)

    def _padded(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """The output (N, L, …), at positions that count as for a PackedSequence.

        The reverse direction runs over sequences reversed without their padding, so no length is read by Python.
        """
        if padding is None or not self.bidirectional:
            return self.forward(x)[0]
        x = constant(type(self).__name__, x)
        self._check_input(x, 3, "batch, time")
        batch, time, _ = x.shape
        lengths = padding.logical_not().sum(1, keepdim=True)
        steps = arange(time, backend=x.backend)
        order = where(steps < lengths, lengths - 1 - steps, steps)

        def run(x: Tensor, params: list[Tensor]) -> Tensor:
            rows = x.transpose(0, 1).reshape(time * batch, x.shape[2])
            states = [s[:1] for s in self._states(None, x, batch, True)]
            out = recurrent.layers(
                self.mode, rows, (batch,) * time, states, params, bool(self.bias), 1, 0.0, self.training, False
            )[0]
            return out.reshape(time, batch, out.shape[1]).transpose(0, 1)

        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = dropped(x, self.dropout)
            forward, reverse = self.all_weights[2 * layer : 2 * layer + 2]
            x = cat([run(x, forward), steps_of(run(steps_of(x, order), reverse), order)], -1)
        return x

    def _run(self, rows: Tensor, sizes: tuple[int, ...], states: list[Tensor]) -> tuple:
        params = [getattr(self, name) for name in self._names]
        return recurrent.layers(
            self.mode, rows, sizes, states, params, bool(self.bias), self.num_layers, self.dropout, self.training,
            bool(self.bidirectional),
        )  # fmt: skip

    def _final(self, states: list[Tensor]):
        return tuple(states) if len(states) > 1 else states[0]

    def _check_input(self, x: Tensor, rank: int, leading: str) -> None:
        name = type(self).__name__
        if x.ndim != rank or x.shape[-1] != self.input_size:
            unbatched = "" if leading == "rows" else f" or (time, {self.input_size})"
            size = f"{name} expects {self.input_size} features in the last dimension"
            raise ShapeError(
                size if x.ndim == rank else f"{name} takes sequences of {self.input_size} features",
                expected=f"shape ({leading}, {self.input_size}){unbatched}", received=f"shape {x.shape}",
            )  # fmt: skip
        _check_dtype(self, (x,), getattr(self, self._names[0]).dtype)

    def _states(self, hx, x: Tensor, batch: int, batched: bool) -> list[Tensor]:
        """The initial states, each (num_layers · directions, batch, width)."""
        count, name = self.num_layers * (2 if self.bidirectional else 1), type(self).__name__
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: recurrent.STATES[self.mode]]
        if hx is None:
            return [zeros((count, batch, width), dtype=x.dtype, backend=x.backend) for width in widths]
        if len(widths) == 2 and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise ArgumentError(
                f"{name} takes two initial states", expected="a pair (h₀, c₀)",
                received=f"a {type(hx).__name__}" + (f" of {len(hx)}" if isinstance(hx, (tuple, list)) else ""),
            )  # fmt: skip
        states = [constant(name, s) for s in (hx if len(widths) == 2 else [hx])]
        for state, width, symbol in zip(states, widths, ("h₀", "c₀")):
            shape = (count, batch, width) if batched else (count, width)
            if state.shape != shape:
                raise ShapeError(
                    f"{name}: {symbol} does not fit the input",
                    expected=f"shape {shape}",
                    received=f"shape {state.shape}",
                )
        _check_dtype(self, states, x.dtype)
        return states if batched else [s.unsqueeze(1) for s in states]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        for key, default in (("bias", True), ("batch_first", False), ("dropout", 0.0), ("bidirectional", False)):
            if getattr(self, key) != default:
                text += f", {key}={getattr(self, key)}"
        return text


_SHAPES = """
    Input (time, batch, input_size), with `batch_first` (batch, time, input_size), unbatched (time, input_size), or a
    `PackedSequence`; h₀ (num_layers · directions, batch, hidden_size), 0 by default. The result is (output, hₙ): the last
    layer's states at all steps, both directions side by side, and the last states of all layers. Of layer k there are
    `weight_ih_lk`, `weight_hh_lk`, `bias_ih_lk`, `bias_hh_lk`, with `_reverse` those of the other direction, all uniform in
    ±1/√hidden_size. `dropout` acts between layers in training."""


@LAYERS.register
class RNN(RNNBase):
    __doc__ = f"""h' = tanh(x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ), or with max(0, ·) for `nonlinearity="relu"`. (Elman, 1990)
{_SHAPES}
    """

    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3, 3),)),
        Example({"input_size": 2, "hidden_size": 3, "num_layers": 2, "nonlinearity": "relu", "bidirectional": True}, ((3, 2, 2),)),
        Example({"input_size": 2, "hidden_size": 2, "bias": False}, ((3, 2),)),
    )  # fmt: skip

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        backend=None,
        dtype=None,
    ):
        super().__init__(
            _mode(self, nonlinearity), input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            backend=backend, dtype=dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


@LAYERS.register
class LSTM(RNNBase):
    __doc__ = f"""c' = σ(f) c + σ(i) tanh(g) and h' = σ(o) tanh(c'), where (i, f, g, o) = x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ.
{_SHAPES} States are pairs (h, c). `proj_size`: h' is
    multiplied by `weight_hr_lk` (proj_size, hidden_size), and h has this width. (Hochreiter, Schmidhuber, 1997; Sak et
    al., 2014)
    """

    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3, 3),)),
        Example({"input_size": 2, "hidden_size": 3, "num_layers": 2, "batch_first": True, "bidirectional": True}, ((2, 3, 2),)),
        Example({"input_size": 2, "hidden_size": 3, "bias": False, "proj_size": 2}, ((3, 2),)),
    )  # fmt: skip

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        backend=None,
        dtype=None,
    ):
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            backend=backend, dtype=dtype,
        )  # fmt: skip


@LAYERS.register
class GRU(RNNBase):
    __doc__ = f"""h' = (1 - z) n + z h, n = tanh(xₙ + r (h Wₙᵀ + bₙ)), (r, z) = σ(x + h Wₕᵀ + bₕ), where x is x Wᵢᵀ + bᵢ.
{_SHAPES} (Cho et al., 2014)
    """

    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3, 3),)),
        Example({"input_size": 2, "hidden_size": 3, "num_layers": 2, "batch_first": True, "bidirectional": True}, ((2, 3, 2),)),
        Example({"input_size": 2, "hidden_size": 2, "bias": False}, ((3, 2),)),
    )  # fmt: skip

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        backend=None,
        dtype=None,
    ):
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            backend=backend, dtype=dtype,
        )  # fmt: skip


# -- cells --------------------------------------------------------------------------------------------------------------


class RNNCellBase(Module):
    """What the cells share: parameters, and the check of their input."""

    gates: ClassVar[int]

    def _set_up(self, input_size: int, hidden_size: int, bias: bool, backend, dtype) -> None:
        check_sizes(self, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = self.gates * hidden_size
        self.weight_ih = new_parameter((rows, input_size), backend, dtype)
        self.weight_hh = new_parameter((rows, hidden_size), backend, dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, new_parameter((rows,), backend, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters, uniform in ±1/√hidden_size."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _operands(self, input, states: list) -> tuple[Tensor, list[Tensor]]:
        """Input and states, which are zeros where not given."""
        name = type(self).__name__
        x = constant(name, input)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name} expects {self.input_size} features in the last dimension",
                expected=f"shape (batch, {self.input_size}) or ({self.input_size},)", received=f"shape {x.shape}",
            )  # fmt: skip
        _check_dtype(self, (x,), self.weight_ih.dtype)
        shape = (*x.shape[:-1], self.hidden_size)
        if states[0] is None:
            return x, [zeros(shape, dtype=x.dtype, backend=x.backend) for _ in states]
        given = [constant(name, s) for s in states]
        for state, symbol in zip(given, ("h", "c")):
            if state.shape != shape:
                raise ShapeError(
                    f"{name}: {symbol} does not fit the input",
                    expected=f"shape {shape}",
                    received=f"shape {state.shape}",
                )
        _check_dtype(self, given, x.dtype)
        return x, given

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")
        kind = getattr(self, "nonlinearity", "tanh")
        return text if kind == "tanh" else f"{text}, nonlinearity={kind}"


@LAYERS.register
class RNNCell(RNNCellBase):
    """One step of an RNN: h' = tanh(x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ), or with max(0, ·) for `nonlinearity="relu"`.

    Input (batch, input_size) or (input_size,), state (batch, hidden_size) or (hidden_size,), 0 by default; the result is
    the new state. `weight_ih` (hidden_size, input_size), `weight_hh`, `bias_ih` and `bias_hh` are uniform in ±1/√hidden_size.
    """

    gates = 1
    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3), (2, 4))),
        Example({"input_size": 2, "hidden_size": 3, "bias": False, "nonlinearity": "relu"}, ((2,),)),
    )

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", backend=None, dtype=None
    ):
        super().__init__()
        _mode(self, nonlinearity)
        self.nonlinearity = nonlinearity
        self._set_up(input_size, hidden_size, bias, backend, dtype)

    def forward(self, input, hx=None):
        x, (h,) = self._operands(input, [hx])
        step = recurrent.rnn_tanh_cell if self.nonlinearity == "tanh" else recurrent.rnn_relu_cell
        return step(x, h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


@LAYERS.register
class LSTMCell(RNNCellBase):
    """One step of an LSTM: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'), where (i, f, g, o) = x Wᵢᵀ + bᵢ + h Wₕᵀ + bₕ.

    Input (batch, input_size) or (input_size,), states (h, c), each (batch, hidden_size) or (hidden_size,), 0 by default;
    the result is (h', c'). `weight_ih` (4 · hidden_size, input_size), `weight_hh`, `bias_ih` and `bias_hh` are uniform in
    ±1/√hidden_size.
    """

    gates = 4
    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3),)),
        Example({"input_size": 2, "hidden_size": 3, "bias": False}, ((2,),)),
    )

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, backend=None, dtype=None):
        super().__init__()
        self._set_up(input_size, hidden_size, bias, backend, dtype)

    def forward(self, input, hx=None):
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise ArgumentError("LSTMCell takes two states", expected="a pair (h, c)", received=type(hx).__name__)
        x, states = self._operands(input, [None, None] if hx is None else list(hx))
        return recurrent.lstm_cell(x, states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


@LAYERS.register
class GRUCell(RNNCellBase):
    """One step of a GRU: h' = (1 - z) n + z h, n = tanh(xₙ + r (h Wₙᵀ + bₙ)), (r, z) = σ(x + h Wₕᵀ + bₕ), x being x Wᵢᵀ + bᵢ.

    Input (batch, input_size) or (input_size,), state (batch, hidden_size) or (hidden_size,), 0 by default; the result is
    the new state. `weight_ih` (3 · hidden_size, input_size), `weight_hh`, `bias_ih` and `bias_hh` are uniform in
    ±1/√hidden_size.
    """

    gates = 3
    examples = (
        Example({"input_size": 3, "hidden_size": 4}, ((2, 3), (2, 4))),
        Example({"input_size": 2, "hidden_size": 3, "bias": False}, ((2,),)),
    )

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, backend=None, dtype=None):
        super().__init__()
        self._set_up(input_size, hidden_size, bias, backend, dtype)

    def forward(self, input, hx=None):
        x, (h,) = self._operands(input, [hx])
        return recurrent.gru_cell(x, h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
