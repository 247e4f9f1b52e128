"""Activation layers; their formulas are the ops they call."""

from __future__ import annotations

from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.init import constant_
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example

_ONE = ((3, 4),)


class _InPlace(Module):
    """An activation with PyTorch's `inplace`, which is accepted and changes nothing."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


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
class ReLU(_InPlace):
    """y = max(x, 0)."""

    epilogue = "relu"
    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.relu(input)


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
class SiLU(_InPlace):
    """y = x / (1 + e⁻ˣ), also called swish."""

    epilogue = "silu"
    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.silu(input)


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


@LAYERS.register
class Hardtanh(Module):
    """y = min(max(x, min_val), max_val). `inplace` is accepted and changes nothing."""

    examples: tuple[Example, ...] = (Example({}, _ONE), Example({"min_val": -0.3, "max_val": 0.5}, _ONE))

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        if not min_val < max_val:
            raise ArgumentError(
                f"{type(self).__name__}: min_val is below max_val", received=f"min_val={min_val}, max_val={max_val}"
            )
        self.min_val, self.max_val = min_val, max_val
        self.inplace = inplace

    def forward(self, input):
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


@LAYERS.register
class ReLU6(Hardtanh):
    """y = min(max(x, 0), 6). (Krizhevsky, 2010)"""

    examples = (Example({}, _ONE),)

    def __init__(self, inplace: bool = False):
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


@LAYERS.register
class Hardsigmoid(_InPlace):
    """y = min(max(x + 3, 0), 6) / 6. (Howard et al., 2019)"""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.hardsigmoid(input)


@LAYERS.register
class Hardswish(_InPlace):
    """y = x · min(max(x + 3, 0), 6) / 6. (Howard et al., 2019)"""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.hardswish(input)


@LAYERS.register
class Threshold(Module):
    """y = x where x > threshold, value elsewhere. `inplace` is accepted and changes nothing."""

    examples = (Example({"threshold": 0.1, "value": -3.0}, _ONE),)

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self.threshold, self.value = threshold, value
        self.inplace = inplace

    def forward(self, input):
        return F.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}" + (", inplace=True" if self.inplace else "")


@LAYERS.register
class Softshrink(Module):
    """y = x - lambd for x > lambd, x + lambd for x < -lambd, 0 between; lambd ≥ 0."""

    examples = (Example({}, _ONE), Example({"lambd": 0.2}, _ONE))

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input):
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


@LAYERS.register
class Hardshrink(Module):
    """y = x where |x| > lambd, 0 elsewhere."""

    examples = (Example({}, _ONE), Example({"lambd": 0.2}, _ONE))

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input):
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


@LAYERS.register
class Tanhshrink(Module):
    """y = x - tanh x."""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.tanhshrink(input)


@LAYERS.register
class Softsign(Module):
    """y = x / (1 + |x|)."""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.softsign(input)


@LAYERS.register
class CELU(Module):
    """y = max(0, x) + min(0, alpha · (e^(x/alpha) - 1)). `inplace` is accepted and changes nothing. (Barron, 2017)"""

    examples = (Example({}, _ONE), Example({"alpha": 0.5}, _ONE))

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input):
        return F.celu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


@LAYERS.register
class SELU(_InPlace):
    """y = 1.0507 · (x for x > 0, 1.6733 · (eˣ - 1) otherwise); `AlphaDropout` fits it. (Klambauer et al., 2017)"""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.selu(input)


@LAYERS.register
class Mish(_InPlace):
    """y = x · tanh(log(1 + eˣ)). (Misra, 2019)"""

    examples = (Example({}, _ONE),)

    def forward(self, input):
        return F.mish(input)


@LAYERS.register
class GLU(Module):
    """y = a · sigmoid(b), a and b the halves of x along `dim`. (Dauphin et al., 2017)"""

    examples = (Example({}, _ONE), Example({"dim": 1}, ((3, 4, 2),)))

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input):
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


@LAYERS.register
class PReLU(Module):
    """y = max(0, x) + weight · min(0, x); `weight` (num_parameters,) starts at `init`. (He et al., 2015)

    Input (N, C, *) with num_parameters = C, or any shape with 1. Weight decay moves the slopes to 0: leave it out for them.
    """

    examples = (Example({}, _ONE), Example({"num_parameters": 4, "init": 0.1}, ((3, 4, 2),)))

    def __init__(self, num_parameters: int = 1, init: float = 0.25, backend=None, dtype=None, device=None):
        super().__init__()
        check_sizes(self, num_parameters=num_parameters)
        self.num_parameters, self.init = num_parameters, init
        self.weight = new_parameter((num_parameters,), backend, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every slope to `init`."""
        constant_(self.weight, self.init)

    def forward(self, input):
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


@LAYERS.register
class RReLU(Module):
    """y = max(0, x) + a · min(0, x), a of each element from U(lower, upper) in training, else (lower + upper) / 2.

    `inplace` is accepted and changes nothing. (Xu et al., 2015)
    """

    examples = (Example({}, _ONE), Example({"lower": 0.1, "upper": 0.4}, _ONE))

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False):
        super().__init__()
        self.lower, self.upper = lower, upper
        self.inplace = inplace

    def forward(self, input):
        return F.rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}" + (", inplace=True" if self.inplace else "")


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


@LAYERS.register
class Softmin(_AlongDim):
    """yᵢ = e^-xᵢ / Σⱼ e^-xⱼ along `dim`."""

    examples = (Example({"dim": 1}, _ONE), Example({"dim": 0}, ((3, 2, 2),)))

    def forward(self, input):
        return F.softmin(input, self.dim)


@LAYERS.register
class Softmax2d(Module):
    """Softmax over the channels of images: (N, C, H, W) or (C, H, W)."""

    examples = (Example({}, ((2, 3, 2, 2),)), Example({}, ((3, 2, 2),)))

    def forward(self, input):
        if input.ndim not in (3, 4):
            raise ShapeError("Softmax2d takes images", expected="(N, C, H, W) or (C, H, W)", received=f"{input.shape}")
        return F.softmax(input, -3)
