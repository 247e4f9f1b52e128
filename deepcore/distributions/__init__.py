"""Probability distributions, as in `torch.distributions`: draws, densities, moments, divergences."""

from deepcore import missing
from deepcore.distributions import constraints, transforms
from deepcore.distributions.categorical import Categorical, Multinomial, OneHotCategorical
from deepcore.distributions.continuous import Cauchy, Exponential, Laplace, Normal, StudentT, Uniform
from deepcore.distributions.derived import Independent, LogNormal, TransformedDistribution
from deepcore.distributions.discrete import Bernoulli, Binomial, Geometric, Poisson
from deepcore.distributions.distribution import Distribution
from deepcore.distributions.gamma import Beta, Dirichlet, Gamma
from deepcore.distributions.kl import kl_divergence, register_kl
from deepcore.distributions.multivariate_normal import MultivariateNormal
from deepcore.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    SigmoidTransform,
    TanhTransform,
    Transform,
)

__all__ = [
    "AffineTransform",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Cauchy",
    "Dirichlet",
    "Distribution",
    "ExpTransform",
    "Exponential",
    "Gamma",
    "Geometric",
    "Independent",
    "Laplace",
    "LogNormal",
    "Multinomial",
    "MultivariateNormal",
    "Normal",
    "OneHotCategorical",
    "Poisson",
    "SigmoidTransform",
    "StudentT",
    "TanhTransform",
    "Transform",
    "TransformedDistribution",
    "Uniform",
    "constraints",
    "kl_divergence",
    "register_kl",
    "transforms",
]

__getattr__ = missing.names_of(__name__, "torch.distributions", __all__)
