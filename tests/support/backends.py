"""The backends that tests run on."""

from __future__ import annotations

import pytest
import standin

from deepcore.backend import get_backend, register
from deepcore.errors import BackendError
from deepcore.kernels.runtime import threadpool

register("standin", standin.create)


def _cuda_usable() -> bool:
    try:
        get_backend("cuda")
    except BackendError:
        return False
    return True


BACKENDS = ["cpu", "standin"] + ([pytest.param("cuda", marks=pytest.mark.gpu)] if _cuda_usable() else [])


def has_run(compiled, least: int = 1) -> bool:
    """Whether a compiled function has run as a program so often and without a fault, where there are programs at all."""
    return not compiled.faults and (compiled.runs >= least or not threadpool.can_prepare())
