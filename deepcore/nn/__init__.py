"""Neural-network layers, losses, and their base `Module`. Names, shapes and defaults are PyTorch's."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.nn import functional, init, modules, registry, utils
from deepcore.nn.modules.activation import SiLU as Swish
from deepcore.nn.modules.adaptive import AdaptiveLogSoftmaxWithLoss
from deepcore.nn.modules.cache import KVCache
from deepcore.nn.modules.module import Module
from deepcore.nn.modules.parameters import ParameterDict, ParameterList
from deepcore.nn.modules.recurrent import RNNBase, RNNCellBase
from deepcore.nn.parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter
from deepcore.nn.registry import LAYERS, LOSSES

if TYPE_CHECKING:
    from deepcore.nn._names import *  # noqa: F403

globals().update(registry.discover(modules.__name__, modules.__path__, LAYERS, LOSSES))
_OWN = [
    "AdaptiveLogSoftmaxWithLoss", "Buffer", "KVCache", "LAYERS", "LOSSES", "Module", "Parameter", "ParameterDict",
    "ParameterList", "RNNBase", "RNNCellBase", "Swish", "UninitializedBuffer", "UninitializedParameter",
]  # fmt: skip
__all__ = sorted([*_OWN, "functional", "init", "utils", *LAYERS, *LOSSES])

__getattr__ = missing.names_of(__name__, "torch.nn")
