"""`nn.utils`: gradient clipping, parameters that are computed from others, and parameters as one vector."""

from __future__ import annotations

from deepcore import missing
from deepcore.nn.utils import parametrizations, parametrize, rnn, stateless
from deepcore.nn.utils.clip_grad import (
    check_gradients,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from deepcore.nn.utils.fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
)
from deepcore.nn.utils.norms import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from deepcore.nn.utils.vectors import parameters_to_vector, skip_init, vector_to_parameters

__all__ = [
    "check_gradients",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "skip_init",
    "spectral_norm",
    "stateless",
    "vector_to_parameters",
    "weight_norm",
]

__getattr__ = missing.names_of(__name__, "torch.nn.utils")
