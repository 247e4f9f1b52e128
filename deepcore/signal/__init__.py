"""Signal processing, as in `torch.signal`: `signal.windows`."""

from deepcore.signal import windows as windows

__all__ = ["windows"]
