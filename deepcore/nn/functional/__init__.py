"""`nn.functional`: layers and losses as functions. Activations and the like are the ops themselves."""

from deepcore.nn.functional.dropout import dropout
from deepcore.nn.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from deepcore.nn.functional.norm import batch_norm, layer_norm, normalize, rms_norm
from deepcore.ops.activation import elu, gelu, leaky_relu, logsigmoid, relu, sigmoid, silu, softplus
from deepcore.ops.index import embedding, one_hot
from deepcore.ops.linalg import linear
from deepcore.ops.reduction import logsumexp
from deepcore.ops.shape import flatten, pad, unflatten
from deepcore.ops.softmax import log_softmax, softmax
from deepcore.ops.trigonometric import tanh

__all__ = [
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "elu",
    "embedding", "flatten", "gelu", "huber_loss", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "logsumexp", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "relu", "rms_norm", "sigmoid", "silu",
    "smooth_l1_loss", "softmax", "softplus", "tanh", "unflatten",
]  # fmt: skip
