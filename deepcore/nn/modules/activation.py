"""Activation layers; their formulas are the ops they call."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example

_ONE = ((3, 4),)


@LAYERS.register
class Sigmoid(Module):
    """y = 1 / (1 + e⁻ˣ)."""

    epilogue = "sigmoid"
    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.sigmoid(input)


@LAYERS.register
class LogSigmoid(Module):
    """y = -log(1 + e⁻ˣ)."""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.logsigmoid(input)


@LAYERS.register
class Tanh(Module):
    """y = tanh x."""

    epilogue = "tanh"
    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.tanh(input)


@LAYERS.register
class ReLU(Module):
    """y = max(x, 0). `inplace` is accepted and changes nothing."""

    epilogue = "relu"
    examples = (Example({}, _ONE),)

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input):
        return F.relu(input)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


@LAYERS.register
class LeakyReLU(Module):
    """y = x for x > 0, negative_slope · x otherwise. `inplace` is accepted and changes nothing."""

    examples = (Example({}, _ONE), Example({"negative_slope": 0.3}, _ONE))

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input):
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


@LAYERS.register
class ELU(Module):
    """y = x for x > 0, alpha · (eˣ - 1) otherwise. (Clevert et al., 2015)"""

    examples = (Example({}, _ONE), Example({"alpha": 0.5}, _ONE))

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input):
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


@LAYERS.register
class GELU(Module):
    """y = x · Φ(x), Φ the normal distribution function; `approximate="tanh"` uses its tanh form.

    (Hendrycks and Gimpel, 2016)
    """

    epilogue = property(lambda self: "gelu" if self.approximate == "none" else "gelu_tanh")
    examples = (Example({}, _ONE), Example({"approximate": "tanh"}, _ONE))

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ArgumentError("GELU's approximate", expected='"none" or "tanh"', received=repr(approximate))
        self.approximate = approximate

    def forward(self, input):
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


@LAYERS.register
class SiLU(Module):
    """y = x / (1 + e⁻ˣ), also called swish."""

    epilogue = "silu"
    examples = (Example({}, _ONE),)

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input):
        return F.silu(input)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


@LAYERS.register
class Softplus(Module):
    """y = log(1 + e^(beta · x)) / beta, and x itself where beta · x > threshold."""

    examples = (Example({}, _ONE), Example({"beta": 2.0, "threshold": 1.0}, _ONE))

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input):
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class _AlongDim(Module):
    def __init__(self, dim: int | None = None):
        super().__init__()
        if dim is None:
            raise ArgumentError(
                f"{type(self).__name__} needs the dimension it sums over", fix=f"nn.{type(self).__name__}(dim=-1)"
            )
        self.dim = dim

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


@LAYERS.register
class Softmax(_AlongDim):
    """yᵢ = e^xᵢ / Σⱼ e^xⱼ along `dim`. `CrossEntropyLoss` takes the values before this, not after."""

    examples = (Example({"dim": 1}, _ONE), Example({"dim": 0}, ((3, 2, 2),)))

    def forward(self, input):
        return F.softmax(input, self.dim)


@LAYERS.register
class LogSoftmax(_AlongDim):
    """yᵢ = xᵢ - log Σⱼ e^xⱼ along `dim`; with `NLLLoss` it makes cross-entropy."""

    examples = (Example({"dim": 1}, _ONE), Example({"dim": -1}, ((3, 2, 2),)))

    def forward(self, input):
        return F.log_softmax(input, self.dim)
