"""Context managers for gradient recording, op hooks and anomaly detection."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator

from deepcore.autograd import graph
from deepcore.autograd.graph import brief, mode
from deepcore.autograd.levels import all_values
from deepcore.backend import dtypes as dt
from deepcore.errors import NonFiniteError


class _GradMode(contextlib.ContextDecorator):
    enabled = True

    def __new__(cls, function=None):
        mode_ = super().__new__(cls)
        if function is None:
            return mode_
        mode_.__init__()
        return mode_(function)  # `@no_grad` without parentheses

    def __init__(self):
        self._previous: list[bool] = []

    def __call__(self, function):
        if not inspect.isgeneratorfunction(function):
            return super().__call__(function)
        return stepping(self._recreate_cm, function)

    def __enter__(self):
        self._previous.append(mode.grad)
        mode.grad = self.enabled
        return self

    def __exit__(self, *exc) -> None:
        mode.grad = self._previous.pop()

    def _recreate_cm(self):  # a decorated function may run in several threads at once
        return type(self)()


class no_grad(_GradMode):
    """Nothing is recorded inside; also a decorator."""

    enabled = False


class enable_grad(_GradMode):
    """Recording inside, also within `no_grad`; also a decorator."""


class _Inference(threading.local):
    def __init__(self):
        self.modes: list[bool] = []


_INFERENCE = _Inference()


class inference_mode(_GradMode):
    """`no_grad` by the name of PyTorch's faster variant: nothing is recorded inside. `inference_mode(False)` records.

    Tensors created inside are ordinary ones, and may be used where operations are recorded later.
    """

    def __new__(cls, mode: bool | Callable = True):
        return super().__new__(cls, None if isinstance(mode, bool) else mode)

    def __init__(self, mode: bool | Callable = True):
        super().__init__()
        self.enabled = mode is False

    def _recreate_cm(self):
        return inference_mode(not self.enabled)

    def __enter__(self):
        _INFERENCE.modes.append(not self.enabled)
        return super().__enter__()

    def __exit__(self, *exc) -> None:
        _INFERENCE.modes.pop()
        super().__exit__(*exc)


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`."""
    return bool(_INFERENCE.modes) and _INFERENCE.modes[-1]


def stepping(cm: Callable, function: Callable) -> Callable:
    """A generator function each of whose steps runs inside a fresh `cm()`."""

    @functools.wraps(function)
    def generate(*args, **kwargs):
        return _steps(cm, function(*args, **kwargs))

    return generate


def _steps(cm: Callable, generator):
    """`generator` with each of its steps inside a fresh `cm()`, which its caller is outside of."""
    try:
        with cm():
            out = generator.send(None)
        while True:
            try:
                sent = yield out
            except GeneratorExit:
                with cm():
                    generator.close()
                raise
            except BaseException as error:
                with cm():
                    out = generator.throw(error)
            else:
                with cm():
                    out = generator.send(sent)
    except StopIteration as stop:
        return stop.value


class set_grad_enabled(_GradMode):
    """`no_grad` or `enable_grad`, by a flag.

    Takes effect at once, and ends with the `with` block, if there is one; as a decorator it acts in the function only.
    """

    def __new__(cls, enabled: bool):
        return super().__new__(cls)

    def __init__(self, enabled: bool):
        super().__init__()
        self.enabled = bool(enabled)
        self._outside = mode.grad
        mode.grad = self.enabled

    def __call__(self, function):
        mode.grad = self._outside
        return super().__call__(function)

    def __enter__(self):
        self._previous.append(self._outside)
        mode.grad = self.enabled
        return self

    def _recreate_cm(self):
        return set_grad_enabled(self.enabled)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.grad


@contextlib.contextmanager
def intercept(watcher: Callable) -> Iterator[None]:
    """Inside, every op calls `watcher(proceed, op, inputs, params)`; `proceed(op, inputs, params)` runs it.

    Ops that the watcher itself uses are not watched by it. Each thread has its own watchers; the innermost comes first.
    """
    outer = mode.hook
    proceed = outer or graph.run

    def hook(op, inputs, params):
        mode.hook = outer
        try:
            return watcher(proceed, op, inputs, params)
        finally:
            mode.hook = hook

    with graph.watching():
        mode.hook = hook
        try:
            yield
        finally:
            mode.hook = outer


def detect_anomaly() -> contextlib.AbstractContextManager[None]:
    """Inside, the first op whose result has a NaN or infinity, forward or backward, raises `NonFiniteError`.

    It names the op, the direction and the layer; for a gradient, the layer of the forward. A compiled function runs a
    program that checks every result; it stops before it changes anything, and the function itself then raises.
    """
    return anomalies()


class set_detect_anomaly:
    """From set_detect_anomaly(True) to (False), in this thread, a NaN in a backward pass raises `NonFiniteError`.

    That is PyTorch's check; `detect_anomaly` also finds infinities, and looks at forward passes. As a context manager,
    what was before comes back at its end.
    """

    _inside = threading.local()

    def __init__(self, mode: bool, check_nan: bool = True):
        self._before = self._set(bool(mode) and check_nan)

    @classmethod
    def _set(cls, on: bool) -> bool:
        """Switch; returns how it was."""
        check = getattr(cls._inside, "check", None)
        if on and check is None:
            cls._inside.check = anomalies(forward=False, infinite=False)
            cls._inside.check.__enter__()
        elif not on and check is not None:
            cls._inside.check = None
            check.__exit__(None, None, None)
        return check is not None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error) -> None:
        self._set(self._before)


def is_anomaly_enabled() -> bool:
    """Whether `set_detect_anomaly` is on in this thread."""
    return getattr(set_detect_anomaly._inside, "check", None) is not None


@contextlib.contextmanager
def anomalies(forward: bool = True, infinite: bool = True) -> Iterator[None]:
    """`detect_anomaly` with options to skip the ops of the forward pass, and to check for NaN only."""
    layers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    passes = _finite if infinite else _no_nan

    def check_result(op, inputs, out) -> None:
        outs = out if isinstance(out, tuple) else (out,)
        if mode.layers:
            layers.update((t._node, tuple(mode.layers)) for t in outs if t._node is not None)
        if not (forward or mode.backward) or all(map(passes, outs)):
            return
        passed_on = not all(map(passes, inputs))
        error = NonFiniteError(
            f"{op.label} {'in the backward pass ' if mode.backward else ''}"
            + ("passed on" if passed_on else "produced")
            + f" a NaN{' or infinity' if infinite else ''}",
            received=", ".join(brief(t) for t in inputs),
            fix="look at the inputs of this op; lower the learning rate or clip the gradients if it diverged",
        )
        if mode.backward:
            for module in reversed(layers.get(mode.node, ())):
                error.passed_through(module)
        raise error

    def check(proceed, op, inputs, params):
        out = proceed(op, inputs, params)
        check_result(op, inputs, out)
        return out

    only_hook = mode.hook is None
    with intercept(check):
        mode.hook.inspector = check_result if only_hook else None  # type: ignore[union-attr]
        yield


def _finite(t) -> bool:
    t = all_values(t)
    return not dt.is_inexact(t.dtype) or bool(t.backend.isfinite(t._data).all())


def _no_nan(t) -> bool:
    t = all_values(t)
    return not dt.is_inexact(t.dtype) or not bool(t.backend.isnan(t._data).any())
