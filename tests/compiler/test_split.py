"""Forward and backward programs: what they keep."""

from __future__ import annotations

import gc
import weakref

import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.kernels.runtime import threadpool

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")


def test_programs_keep_nothing_of_the_recorded_call(backend, monkeypatch):
    """Neither its arguments nor the graph of its results, whose saved arrays may be large."""
    monkeypatch.setattr(settings, "compile_check", 0)
    with dc.use_backend(backend):
        w = dc.nn.Parameter(dc.ones(3))
        compiled = dc.compile(lambda x: ((w * x).exp() * w).sum())
        for call in range(3):
            x = dc.ones(3)
            result = compiled(x)
            held = [weakref.ref(each) for each in (x, x.array, result, result._node)]
            if call:
                result.backward()
            del x, result
            gc.collect()
            assert [ref() for ref in held] == [None] * 4, call
        assert compiled.runs == 2 and not compiled.faults
