"""Progress bars: tqdm, imported when first needed."""

from __future__ import annotations

import warnings


def tqdm_class() -> type:
    """tqdm's bar for where the program runs: a widget in a notebook that has ipywidgets, else text."""
    with warnings.catch_warnings():
        # Without ipywidgets, a notebook gets the text bar, and need not be told.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    return tqdm
