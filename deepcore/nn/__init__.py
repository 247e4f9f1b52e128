"""Neural-network layers, losses, and the `Module` they are made of. Names, shapes and defaults are PyTorch's."""

from deepcore.nn import functional, init, registry, utils
from deepcore.nn.activations import (
    ELU,
    GELU,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from deepcore.nn.containers import ModuleDict, ModuleList, Sequential
from deepcore.nn.dropout import Dropout
from deepcore.nn.embedding import Embedding
from deepcore.nn.linear import Flatten, Identity, Linear, Unflatten
from deepcore.nn.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from deepcore.nn.module import Module
from deepcore.nn.normalization import BatchNorm1d, LayerNorm
from deepcore.nn.parameter import Parameter
from deepcore.nn.registry import LAYERS, LOSSES

__all__ = [
    "ELU", "GELU", "LAYERS", "LOSSES", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "CrossEntropyLoss", "Dropout",
    "Embedding", "Flatten", "HuberLoss", "Identity", "L1Loss", "LayerNorm", "LeakyReLU", "Linear", "LogSigmoid",
    "LogSoftmax", "MSELoss", "Module", "ModuleDict", "ModuleList", "NLLLoss", "Parameter", "ReLU", "Sequential",
    "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "Unflatten", "functional", "init", "utils",
]  # fmt: skip

# The names above are for editors; what any other file of this folder registers is here as well.
globals().update(registry.discover(__name__, __path__, LAYERS, LOSSES))
