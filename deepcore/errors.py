"""One family of exceptions: every message says what was expected, what came, where, and the likely fix."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).resolve().parent)
_KERNELS = str(Path(__file__).resolve().parent.parent / "kernels")
_LONG = 2000  # letters of a line of a message
_NOT_THE_USERS = (_PACKAGE, _KERNELS, "<frozen", contextlib.__file__)


class DeepcoreError(Exception):
    """Base of every error deepcore raises on purpose.

    `problem` is one sentence; `expected`, `received`, `where` and `fix` are optional lines below it.
    Modules that the error passes through add themselves, so the message names the path of the layer.
    """

    def __init__(self, problem: str, *, expected=None, received=None, where=None, fix=None):
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.received = received
        self.where = where
        self.fix = fix
        self.modules: list = []
        self.call_site = _user_call_site()

    def passed_through(self, module) -> None:
        """Called by `Module.__call__` on the way out; innermost module first."""
        self.modules.append(module)

    def module_path(self) -> str:
        """The failing layer as `Net.encoder.0 (Linear)`, or an empty string outside modules."""
        if not self.modules:
            return ""
        root, failed = self.modules[-1], self.modules[0]
        name = next((n for n, m in root.named_modules() if m is failed), "")
        path = type(root).__name__ + (f".{name}" if name else "")
        return path + (f" ({type(failed).__name__})" if name else "")

    def __str__(self) -> str:
        where = ", ".join(str(part) for part in (self.module_path(), self.where, self.call_site) if part)
        lines = [_shortened(self.problem)]
        for label, text in (
            ("expected", self.expected),
            ("received", self.received),
            ("where", where),
            ("fix", self.fix),
        ):
            if text:
                lines.append(f"  {label + ':':<10}{_shortened(str(text))}")
        return printable("\n".join(lines), keep="\n\t")

    def __reduce__(self):
        # Modules and frames stay behind: an error must survive the trip back from a worker process.
        return _rebuild, (type(self), self.problem, self.expected, self.received, self.where, self.fix)


def _rebuild(cls, problem, expected, received, where, fix):
    return cls(problem, expected=expected, received=received, where=where, fix=fix)


class ShapeError(DeepcoreError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(DeepcoreError, TypeError):
    """A dtype the operation does not take."""


class ArgumentError(DeepcoreError, ValueError):
    """An argument outside what the function accepts."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of a type, or a keyword, that a function does not take."""


class UninitializedError(ArgumentError):
    """A parameter or buffer of a lazy layer that has not seen an input yet."""


class IndexRangeError(DeepcoreError, IndexError):
    """An index, class number or dimension out of range."""


class BackendError(DeepcoreError, RuntimeError):
    """A backend that is missing, or operands that live on two of them."""


class GradientError(DeepcoreError, RuntimeError):
    """A gradient that cannot be computed, or would be wrong."""


class TransformError(DeepcoreError, RuntimeError):
    """What a transform of functions (`vmap`, `jvp`) cannot do, as with reading a value of a batch of them."""


class StateDictError(DeepcoreError, RuntimeError):
    """A state dict with missing, unexpected or misshapen entries."""


class FileFormatError(DeepcoreError, ValueError):
    """A file that is truncated, corrupt, of another format, or not safe to read."""


class ConfigError(DeepcoreError, ValueError):
    """An unknown name or an unusable value in a configuration."""


class DataError(DeepcoreError, ValueError):
    """A dataset that cannot be used: empty, ragged, or missing."""


class NonFiniteError(DeepcoreError, ArithmeticError):
    """A loss, gradient or activation that became NaN or infinite."""


class OutOfMemoryError(DeepcoreError, MemoryError):
    """No memory for a tensor; `tensors` are those that fill it, as (path, kind, bytes), the largest first."""

    tensors: list = []  # noqa: RUF012


class LinAlgError(DeepcoreError, RuntimeError):
    """A matrix that is singular, not positive definite, or whose decomposition did not converge."""


class UnsupportedError(DeepcoreError, NotImplementedError):
    """Something that has no formula or no implementation, such as the entropy of some distributions."""


class MissingDependencyError(DeepcoreError, ImportError):
    """An optional package that is not installed; the fix is the line that installs it."""


class DeepcoreWarning(UserWarning):
    """Something that works but is probably not what was meant, or is slower than it need be."""


def _shortened(text: str) -> str:
    """`text` without its middle where it is too long to be read: a name from a file may have a million letters."""
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} … {text[-_LONG // 4 :]}"


def printable(text, keep: str = "") -> str:
    """`text` with escapes for what a terminal would act on or cannot show, apart from the characters of `keep`.

    For names that come from files: tensors, layers, columns, classes.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def suggest(name: str, choices: Iterable[str]) -> str:
    """`did you mean 'Linear'?` for the nearest of `choices`, or the list of them when nothing is near."""
    choices = sorted(itertools.islice((c for c in choices if len(c) <= _LONGEST_NAME), _MOST_NAMES))
    if len(str(name)) > _LONGEST_NAME:
        name = ""
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6) or [
        c for c in choices if c.lower() == str(name).lower()
    ]
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(choices[:20]) + (", …" if len(choices) > 20 else "")
    return f"one of: {shown}" if choices else "nothing is registered under any name here"


#: More and longer names are not compared: that takes seconds.
_MOST_NAMES, _LONGEST_NAME = 2000, 100


def number(name: str, value, expected: str = "a number") -> float:
    """`value` as a float, if it is a number and not NaN; `name` and `expected` are for the error."""
    try:
        result = None if isinstance(value, (str, bytes, bool)) else float(value)
    except (TypeError, ValueError):
        result = None
    if result is None or math.isnan(result):
        problem = f"{name} is not a number" if result is None else f"{name} is NaN"
        raise ArgumentError(problem, expected=expected, received=f"{name}={value!r}")
    return result


def non_negative(name: str, value, zero: bool = True) -> float:
    """`value` as a float, if it is a number of at least 0 (`zero` False: above 0); `name` is for the error."""
    expected = f"{name} {'≥' if zero else '>'} 0"
    result = number(name, value, expected)
    if result < 0 or (result == 0 and not zero):
        problem = f"{name} is {'negative' if result < 0 else '0'}"
        raise ArgumentError(problem, expected=expected, received=f"{name}={value!r}")
    return result


def _user_call_site() -> str:
    """`train.py:12`: the innermost frame outside deepcore."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_USERS):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
