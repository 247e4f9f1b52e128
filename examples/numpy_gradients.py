"""The gradient of a function written with NumPy's functions; a CuPy array gives a CuPy gradient."""

from __future__ import annotations

import numpy as np

import deepcore as dc


def rosenbrock(x):
    """Σ 100(xᵢ₊₁ - xᵢ²)² + (1 - xᵢ)²"""
    return np.sum(100 * np.square(x[1:] - np.square(x[:-1])) + np.square(1 - x[:-1]))


def main(xp=np) -> None:
    x = xp.array([1.3, 0.7, 0.8, 1.9, 1.2])
    gradient = dc.grad(rosenbrock)(x)
    print(type(gradient).__module__, gradient)
    h = 1e-6
    for i in range(len(x)):
        step = h * (xp.arange(len(x)) == i)
        slope = (rosenbrock(x + step) - rosenbrock(x - step)) / (2 * h)
        print(f"d/dx{i}: {float(gradient[i]):.5f}, by central difference {float(slope):.5f}")


if __name__ == "__main__":
    try:
        main(dc.get_backend("cuda").array_module)
    except dc.errors.BackendError as error:
        print(f"{error.problem}; with NumPy:")
        main()
