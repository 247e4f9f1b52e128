"""The backends that tests run on."""

from __future__ import annotations

import pytest
import standin

from deepcore.backend import get_backend, register
from deepcore.errors import BackendError

register("standin", standin.create)


def _cuda_usable() -> bool:
    try:
        get_backend("cuda")
    except BackendError:
        return False
    return True


BACKENDS = ["cpu", "standin"] + ([pytest.param("cuda", marks=pytest.mark.gpu)] if _cuda_usable() else [])
