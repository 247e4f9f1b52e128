"""Lazy import of numba, when the first kernel is compiled."""

from __future__ import annotations

import warnings
from typing import Any

from deepcore import locks
from deepcore.errors import DeepcoreWarning

_LOCK = locks.rlock()
_numba: Any = None  # the module once imported; False if that failed


def load_numba():
    """The numba module, or None if it cannot be imported; warns once."""
    global _numba
    if _numba is None:
        with _LOCK:
            if _numba is None:
                try:
                    import numba
                except ImportError as error:
                    _numba = False
                    warnings.warn(
                        f"numba cannot be imported ({error}), so plain array code runs instead of compiled kernels: "
                        "same results, slower; fix: pip install numba, or DEEPCORE_KERNELS=0 to accept it",
                        DeepcoreWarning,
                        stacklevel=3,
                    )
                else:
                    _numba = numba
    return _numba or None
