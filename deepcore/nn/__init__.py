"""Neural-network layers, losses, and the `Module` they are made of. Names, shapes and defaults are PyTorch's."""

from deepcore.nn import functional, init, modules, registry, utils
from deepcore.nn.modules.activation import (
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
from deepcore.nn.modules.container import ModuleDict, ModuleList, Sequential
from deepcore.nn.modules.dropout import Dropout
from deepcore.nn.modules.embedding import Embedding
from deepcore.nn.modules.linear import Flatten, Identity, Linear, Unflatten
from deepcore.nn.modules.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from deepcore.nn.modules.module import Module
from deepcore.nn.modules.normalization import BatchNorm1d, LayerNorm
from deepcore.nn.parameter import Parameter
from deepcore.nn.registry import LAYERS, LOSSES

__all__ = [
    "ELU", "GELU", "LAYERS", "LOSSES", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "CrossEntropyLoss", "Dropout",
    "Embedding", "Flatten", "HuberLoss", "Identity", "L1Loss", "LayerNorm", "LeakyReLU", "Linear", "LogSigmoid",
    "LogSoftmax", "MSELoss", "Module", "ModuleDict", "ModuleList", "NLLLoss", "Parameter", "ReLU", "Sequential",
    "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Tanh", "Unflatten", "functional", "init", "utils",
]  # fmt: skip

# The names above are for editors; what any other file of `modules` registers is here as well.
globals().update(registry.discover(modules.__name__, modules.__path__, LAYERS, LOSSES))
