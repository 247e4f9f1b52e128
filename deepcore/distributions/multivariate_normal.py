"""The multivariate normal distribution."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import deepcore as dc
from deepcore.distributions import constraints
from deepcore.distributions.distribution import Distribution, noise, vector_of
from deepcore.errors import ArgumentError, ShapeError
from deepcore.tensor import Tensor


class MultivariateNormal(Distribution):
    """exp(-½ (x - loc)ᵀ C⁻¹ (x - loc)) / √|2πC|, x of K elements

    The covariance C is `covariance_matrix`, or `precision_matrix`⁻¹, or L Lᵀ with L = `scale_tril`, (…, K, K).
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "covariance_matrix": constraints.positive_definite,
        "precision_matrix": constraints.positive_definite,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        vector_of(self, "loc", loc)
        matrices = {
            "covariance_matrix": covariance_matrix,
            "precision_matrix": precision_matrix,
            "scale_tril": scale_tril,
        }
        given = [(name, matrix) for name, matrix in matrices.items() if matrix is not None]
        if len(given) != 1:
            raise ArgumentError(f"MultivariateNormal takes one of {', '.join(matrices)}", received=f"{len(given)}")
        ((name, matrix),) = given
        if matrix.ndim < 2:
            raise ShapeError(f"MultivariateNormal: {name} is a matrix", received=str(tuple(matrix.shape)))
        batch = dc.broadcast_shapes(matrix.shape[:-2], loc.shape[:-1])
        self.loc = loc.expand((*batch, loc.shape[-1]))
        self.__dict__[name] = matrix.expand((*batch, *matrix.shape[-2:]))
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @functools.cached_property
    def scale_tril(self) -> Tensor:
        if "covariance_matrix" in self.__dict__:
            return dc.linalg.cholesky(self.covariance_matrix)
        # P = U Uᵀ, so that L = U⁻ᵀ: U from the Cholesky factor of P with rows and columns reversed.
        reversed_factor = dc.linalg.cholesky(dc.flip(self.precision_matrix, (-2, -1)))
        lower = dc.flip(reversed_factor, (-2, -1)).mT
        identity = dc.eye(self.loc.shape[-1], dtype=self.loc.dtype, backend=self.loc.backend)
        return dc.linalg.solve_triangular(lower, identity.expand(lower.shape), upper=False)

    @functools.cached_property
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    @functools.cached_property
    def precision_matrix(self) -> Tensor:
        identity = dc.eye(self.loc.shape[-1], dtype=self.loc.dtype, backend=self.loc.backend)
        inverse = dc.linalg.solve_triangular(self.scale_tril, identity.expand(self.scale_tril.shape), upper=False)
        return inverse.mT @ inverse

    def rsample(self, sample_shape=()) -> Tensor:
        z = noise(self._extended_shape(sample_shape), self.loc, "normal_")
        return self.loc + (self.scale_tril @ z.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self.scale_tril**2).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        difference = value - self.loc
        factor = self.scale_tril.expand((*difference.shape, difference.shape[-1]))
        z = dc.linalg.solve_triangular(factor, difference.unsqueeze(-1), upper=False).squeeze(-1)
        return -0.5 * (self._size() + (z**2).sum(-1)) - half_log_det(self.scale_tril)

    def _size(self) -> float:
        return self.event_shape[0] * math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        return 0.5 * (self.event_shape[0] + self._size()) + half_log_det(self.scale_tril)


def half_log_det(factor: Tensor) -> Tensor:
    """ln of the determinant of a triangular matrix."""
    return dc.log(dc.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)
