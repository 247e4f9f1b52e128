"""`Tensor.data`: a detached tensor over the same memory, as in PyTorch, and what assigning it does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from backends import has_run

import deepcore as dc
from deepcore import errors

VALUES = [1.0, -2.0, 3.0]


def parameter(backend="cpu"):
    return dc.nn.Parameter(dc.tensor(VALUES, device=backend))


def test_data_shares_memory_and_has_no_history(backend):
    w = parameter(backend)
    d = w.data
    assert type(d) is dc.Tensor and not d.requires_grad and d.grad_fn is None and d.is_leaf
    assert d.is_set_to(w) and d.array is w.array and isinstance(w.array, w.backend.array_type)
    d.mul_(2)
    assert w.tolist() == [2.0, -4.0, 6.0] and w.requires_grad


def test_the_idioms_of_training_scripts(backend):
    w = parameter(backend)
    for _ in range(2):
        (w * w).sum().backward()
    w.grad.data.mul_(0.5)
    assert w.grad.tolist() == [2.0, -4.0, 6.0]
    w.data -= 0.5 * w.grad.data
    assert w.tolist() == [0.0, 0.0, 0.0]
    w.data.copy_(dc.tensor(VALUES, device=backend))
    w.data = w.data * 0.5
    assert w.tolist() == [0.5, -1.0, 1.5] and w.requires_grad and w.is_leaf
    w.grad.data.zero_()
    w.data.add_(w.grad.data, alpha=3).clamp_(min=0)
    assert w.tolist() == [0.5, 0.0, 1.5]
    w.data[1] = 7
    assert w.tolist() == [0.5, 7.0, 1.5]
    assert not w.data.is_set_to(dc.ones(3, device=backend))


def test_writes_through_data_pass_unseen_and_rebinding_does_not(backend):
    """PyTorch has the first; it does not notice the second either, which deepcore does."""
    w, x = parameter(backend), dc.ones(3, device=backend, requires_grad=True)
    loss = (w * x).sum()
    version = w.version
    w.data.fill_(5)
    assert w.version == version and w.data.version == 0
    loss.backward()
    assert x.grad.tolist() == [5.0] * 3
    loss = (w * x).sum()
    w.data = w.data * 2
    with pytest.raises(errors.GradientError, match="overwritten"):
        loss.backward()


def test_writes_through_data_as_in_pytorch():
    torch = pytest.importorskip("torch")
    results = []
    for lib in (torch, dc):
        w = lib.nn.Parameter(lib.tensor(VALUES))
        x = lib.ones(3, requires_grad=True)
        loss = (w * x).sum()
        w.data.mul_(3)
        w.data[0] = 9.0
        loss.backward()
        d = w.data
        d += 1
        before = w._version
        with lib.no_grad():
            w.add_(1)
        results.append((x.grad.tolist(), w.tolist(), d.tolist(), w._version - before, w.data._version))
    assert results[0] == results[1]


def test_data_takes_another_shape_dtype_and_backend(backend):
    w = parameter()
    w.data = dc.ones(2, 2, dtype=dc.float64, device=backend)
    assert w.shape == (2, 2) and w.dtype == dc.float64 and w.backend == backend and w.requires_grad
    (w * 3).sum().backward()
    assert w.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    other = dc.zeros(2, 2, dtype=dc.float64, device=backend)
    w.data = other
    other.fill_(4)
    assert w.tolist() == [[4.0, 4.0], [4.0, 4.0]]


@pytest.mark.parametrize(
    "value, error, words",
    [
        (np.ones(3, np.float32), errors.ArgumentTypeError, r"dc\.as_tensor\(array\)"),
        ([1.0, 2.0, 3.0], errors.ArgumentTypeError, r"dc\.tensor\(values\)"),
        (None, TypeError, "NoneType"),
        (lambda: dc.ones(3, dtype=dc.int64), errors.DTypeError, "only floating and complex tensors"),
    ],
)
def test_what_data_cannot_be(value, error, words):
    w = parameter()
    with pytest.raises(error, match=words):
        w.data = value() if callable(value) else value
    assert w.tolist() == VALUES


@pytest.mark.parametrize("idiom", ["in place", "assigned", "read", "rebound", "detached"])
def test_compiled_steps_follow_data(idiom, backend):
    """Eager and compiled steps have the same bits, with `.data` too, and notice memory that was exchanged."""
    found = []
    for compiled in (False, True):
        w = parameter(backend)

        def step(x, w=w):
            loss = (w * x).square().sum()
            w.grad = None
            loss.backward()
            if idiom == "in place":
                w.data.sub_(0.1 * w.grad.data)
            elif idiom == "assigned":
                w.data -= 0.1 * w.grad.data
            elif idiom == "rebound":
                w.data = w.data - 0.1 * w.grad.data
            elif idiom == "detached":
                w.detach().sub_(0.1 * w.grad)
            return loss.detach() + w.data.sum()

        run = dc.compile(step) if compiled else step
        steps = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.DeepcoreWarning)
            for i in range(8):
                if i == 4:
                    w.data = dc.tensor([0.5, 0.25, -1.0], device=backend)
                if i == 6:
                    w.data.mul_(2)
                steps.append((run(dc.full((3,), 1.0 + i, device=backend)).tolist(), w.tolist(), w.grad.tolist()))
        found.append(steps)
        if compiled and idiom != "rebound":
            assert has_run(run), run.faults
    assert found[0] == found[1]
