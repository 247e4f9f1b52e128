"""Progress bars: tqdm, imported when first needed."""

from __future__ import annotations

import warnings


def tqdm_class() -> type:
    """tqdm's bar class: a widget in a notebook with ipywidgets, else text."""
    with warnings.catch_warnings():
        # Without ipywidgets, a notebook gets the text bar; its warning is noise.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    return tqdm
