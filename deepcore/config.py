"""Process-wide settings, read once from the environment."""

from __future__ import annotations

import os

from deepcore.errors import ArgumentError, ConfigError


def _environment_int(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name} is not a positive whole number", received=repr(text), fix=f"{name}=2, or unset it")
    return int(text)


def _available_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined]
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Settings:
    """`backend`: the default backend's name. `threads`: CPU threads for one op. `kernels`: use compiled kernels.

    Environment: DEEPCORE_BACKEND, DEEPCORE_NUM_THREADS, DEEPCORE_KERNELS (0 turns them off), DEEPCORE_CACHE
    (the folder of compiled kernels), DEEPCORE_DATA.
    """

    __slots__ = ("backend", "cache_dir", "data_dir", "kernels", "threads")

    def __init__(self):
        self.backend = os.environ.get("DEEPCORE_BACKEND", "").strip() or "cpu"
        self.threads = _environment_int("DEEPCORE_NUM_THREADS", _available_cpus())
        self.kernels = os.environ.get("DEEPCORE_KERNELS", "1").strip() != "0"
        self.cache_dir = os.environ.get("DEEPCORE_CACHE", "").strip() or None
        self.data_dir = os.environ.get("DEEPCORE_DATA", "").strip() or None


settings = Settings()


def set_num_threads(count: int) -> None:
    """Threads one CPU operation may use. Results do not depend on it: only the speed does."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError("set_num_threads needs a positive whole number", received=repr(count))
    settings.threads = count


def get_num_threads() -> int:
    """Threads one CPU operation may use (default: the processors this process may run on)."""
    return settings.threads
