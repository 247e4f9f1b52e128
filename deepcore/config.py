"""Process-wide settings, read once from the environment."""

from __future__ import annotations

import os

from deepcore.errors import ArgumentError, ConfigError


def _available_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined]
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Settings:
    """`backend`: the default backend's name. `threads`: CPU threads for one op. `kernels`: use compiled kernels.

    Environment: DEEPCORE_BACKEND, DEEPCORE_NUM_THREADS, DEEPCORE_KERNELS (0 turns them off), DEEPCORE_CACHE
    (the folder of compiled kernels), DEEPCORE_DATA, DEEPCORE_COMPILE_CHECK (the period, in calls, at which a compiled
    program is checked against its function: 0 never, 1 always; by default at calls 2, 3, 5, 11, 23, …). `problems`: the
    errors for unusable values, which `check` raises; until then the defaults apply.
    """

    __slots__ = ("backend", "cache_dir", "compile_check", "data_dir", "kernels", "problems", "threads")

    def __init__(self):
        self.problems: list[tuple[str, str, str]] = []
        self.backend = _environment("DEEPCORE_BACKEND") or "cpu"
        self.threads = self._threads()
        self.kernels = self._switch("DEEPCORE_KERNELS")
        self.compile_check = self._count("DEEPCORE_COMPILE_CHECK")
        self.cache_dir = self._folder("DEEPCORE_CACHE")
        self.data_dir = self._folder("DEEPCORE_DATA")

    def check(self) -> None:
        """Raise a `ConfigError` for the first unusable variable; commands and first uses of ops call this."""
        for name, expected, fix in self.problems:
            received = repr(os.environ.get(name, ""))
            raise ConfigError(f"{name} is not {expected}", received=received, fix=f"{fix}, or unset it")

    def _threads(self) -> int:
        text = _environment("DEEPCORE_NUM_THREADS")
        if text and not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text)):
            self.problems.append(("DEEPCORE_NUM_THREADS", "a positive whole number", "DEEPCORE_NUM_THREADS=2"))
            text = ""
        return int(text) if text else _available_cpus()

    def _switch(self, name: str) -> bool:
        text = _environment(name)
        if text not in ("", "0", "1"):
            self.problems.append((name, "0 (off) or 1 (on)", f"{name}=0"))
        return text != "0"

    def _count(self, name: str) -> int | None:
        text = _environment(name)
        if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
            self.problems.append((name, "a whole number", f"{name}=1 checks every call, {name}=0 none"))
            text = ""
        return int(text) if text else None

    def _folder(self, name: str) -> str | None:
        path = os.path.expanduser(_environment(name))
        if path.startswith("~"):
            self.problems.append(
                (name, "a folder: it names the home of a user who is not there", f"{name}=/path/to/folder")
            )
            path = ""
        return path or None


def _environment(name: str) -> str:
    return os.environ.get(name, "").strip()


settings = Settings()

#: "auto" or "direct". Convolution on the CPU: "auto" uses Winograd's algorithm for 3×3 filters where it is faster, whose
#: float32 error is at most three times that of the sums of products which "direct" always uses.
conv_algorithm = "auto"


def set_num_threads(count: int) -> None:
    """Threads that one CPU operation may use. Only the speed depends on it, never a result."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError("set_num_threads needs a positive whole number", received=repr(count))
    settings.threads = count


def set_num_interop_threads(count: int) -> None:
    """Accepted for PyTorch's scripts, without effect: operations run one by one, on `set_num_threads` threads."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError("set_num_interop_threads needs a positive whole number", received=repr(count))


def get_num_interop_threads() -> int:
    """1: operations run one after the other."""
    return 1


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Accepted for PyTorch's scripts, without effect: every algorithm is deterministic, whatever `mode` is."""
    if not isinstance(mode, bool):
        raise ArgumentError("use_deterministic_algorithms takes True or False", received=repr(mode))


def are_deterministic_algorithms_enabled() -> bool:
    """True: every algorithm is deterministic."""
    return True


def get_num_threads() -> int:
    """Threads that one CPU operation may use (default: the processors this process may run on)."""
    return settings.threads
