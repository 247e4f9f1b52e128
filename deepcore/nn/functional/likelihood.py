"""Losses of distributions: Kullback-Leibler divergence, Poisson and Gaussian likelihoods."""

from __future__ import annotations

import math

from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn.functional.loss import check_reduction, reduced, same_shape
from deepcore.ops.arithmetic import weigh
from deepcore.ops.comparison import where
from deepcore.ops.exponential import exp, log
from deepcore.ops.loss import variances
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import functional, takes_arrays
from deepcore.ops.shape import unsqueeze
from deepcore.tensor import Tensor, full_like


@functional
@takes_arrays
def kl_div(input, target, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """y · (log y - x) on log-probabilities x; `log_target`: the target is log y, too.

    `reduction` "batchmean", the sum divided by the first dimension, is the divergence; "mean" divides by all elements.
    """
    same_shape("kl_div", input, target)
    # y · log y is 0 for y = 0.
    loss = exp(target) * (target - input) if log_target else weigh(target, log(target)) - weigh(target, input)
    if reduction == "batchmean":
        return sum_(loss) / input.shape[0] if input.shape else loss
    return reduced(loss, reduction)


@functional
@takes_arrays
def poisson_nll_loss(
    input, target, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Tensor:
    """eˣ - y·x of counts y with the logarithm x of their mean; without `log_input` x - y·log(x + eps), x the mean.

    `full` adds Stirling's y·log y - y + ½·log(2π·y) for y > 1, which x does not depend on.
    """
    same_shape("poisson_nll_loss", input, target)
    loss = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        many = target > 1
        y = where(many, target, 1.0)
        loss = loss + where(many, y * log(y) - y + 0.5 * log(y * (2 * math.pi)), 0.0)
    return reduced(loss, reduction)


@functional
@takes_arrays
def gaussian_nll_loss(input, target, var, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> Tensor:
    """½·(log v + (x - y)²/v), v = max(var, eps), of targets y with mean x; `full` adds ½·log 2π.

    `var` has the input's shape, with 1 for any dimension, or lacks its last one, or is a number; it is at least 0. Its
    gradient is that without the maximum. (Nix and Weigend, 1994)
    """
    same_shape("gaussian_nll_loss", input, target)
    check_reduction(reduction)
    if not isinstance(var, Tensor):
        var = full_like(input, var)
    if var.shape != input.shape and var.shape == input.shape[:-1]:
        var = unsqueeze(var, -1)
    if var.ndim != input.ndim or any(n not in (1, m) for n, m in zip(var.shape, input.shape)):
        raise ShapeError(
            "gaussian_nll_loss: var has another shape than the input",
            expected=f"shape {input.shape}, {input.shape[:-1]}, or 1 in place of a dimension",
            received=f"shape {var.shape}",
        )
    if not eps > 0:
        raise ArgumentError("gaussian_nll_loss: eps is positive", received=f"eps={eps!r}")
    variances(var.detach())
    var = var + (where(var < eps, eps, var) - var).detach()
    d = input - target
    loss = 0.5 * (log(var) + d * d / var)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)
