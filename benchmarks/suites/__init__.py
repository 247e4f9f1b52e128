"""The contests, by subject: each file of this folder lists its own in CONTESTS."""

from __future__ import annotations

import importlib
import pkgutil


def contests(*suites: str) -> list:
    """The contests of these suites, or of all."""
    names = suites or sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [contest for name in names for contest in importlib.import_module(f"{__name__}.{name}").CONTESTS]
