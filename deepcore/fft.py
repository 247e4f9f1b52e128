"""Discrete Fourier transforms, as in `torch.fft`. The functions are declared in `ops`."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.ops import public
from deepcore.ops.fft import fftfreq as fftfreq
from deepcore.ops.fft import rfftfreq as rfftfreq

if TYPE_CHECKING:
    from deepcore.ops._fft import *  # noqa: F403

globals().update(public("fft"))
__all__ = sorted(["fftfreq", "rfftfreq", *public("fft")])

__getattr__ = missing.names_of(__name__, "torch.fft")
