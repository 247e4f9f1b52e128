"""Declarations of kernels: every kernel has one, and launches are checked against it."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest

from deepcore import kernels
from deepcore.backend import get_backend
from deepcore.errors import DeepcoreError
from deepcore.kernels.codegen import intrinsics, jit, ptx
from deepcore.kernels.codegen.kernel import Address, Code, Float, In, Kernel, Operand, Out, Rest, Size, Words, args
from deepcore.kernels.plan import Launch, Plan, contiguous
from deepcore.kernels.runtime.executable import Buffer
from deepcore.kernels.runtime.executable import Launch as Bound

F32 = np.dtype("f")
pytest.importorskip("numba")


@args(x=In, mask=In(np.bool_), out=Out, n=Size, eps=Float)
def _masked(tools, dtype: str):
    def kernel(x, mask, out, n, eps, chunk):
        for i in range(chunk * 4, min(n, chunk * 4 + 4)):
            out[i] = x[i] + eps if mask[i] else x[i]
        return 0

    return kernel


MASKED = jit.Kernel("test_masked", _masked, "float32")
jit.KERNELS.pop("test_masked")


def arguments(**changes):
    given = {"x": Operand(0), "mask": Operand(1), "out": Operand(3), "n": 6, "eps": Operand(2)}
    return {name: value for name, value in {**given, **changes}.items() if value is not ...}


def test_a_plan_binds_arguments_by_name():
    launch = Launch(MASKED, 2, **dict(reversed(arguments().items())))
    assert launch.words == (Operand(0), Operand(1), Operand(3), 6, Operand(2))
    assert MASKED.ready()
    plan = Plan(contiguous((6,), F32, get_backend("cpu")), [launch])
    x, mask = np.arange(6, dtype="f"), np.array([True, False] * 3)
    assert plan.run((x, mask), (0.1,)).tolist() == np.where(mask, x + F32.type(0.1), x).tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n": ...}, "test_masked: argument 'n' is missing"),
        ({"rows": 3}, "test_masked has no argument 'rows'"),
        ({"n": Operand(1)}, "test_masked: argument 'n' is Size.*got Operand"),
        ({"n": 2.5}, "'n' is Size.*whole number; got 2.5"),
        ({"x": 7}, r"'x' is In\(float32\).*got 7"),
        ({"x": np.zeros(3)}, r"'x' is In\(float32\), so an array of float32 or an operand; got an array of float64"),
        ({"mask": np.zeros(3, np.uint8)}, r"'mask' is In\(bool\).*got an array of uint8"),
        ({"eps": np.zeros(3, "f")}, r"'eps' is Float\(float32\).*got an array"),
        ({"eps": "much"}, "'eps' is Float.*got 'much'"),
    ],
)
def test_a_launch_that_does_not_fit_the_declaration(change, message):
    with pytest.raises(DeepcoreError, match=message):
        Launch(MASKED, 1, **arguments(**change))


def test_values_become_words():
    x, words = np.zeros(3, "f"), np.zeros(2, np.int64)

    @args(plan=Words, at=Address, none=Address, run=Code, eps=Float(np.float64), rest=Rest)
    def build(tools):
        return lambda plan, at, none, run, eps, rest: 0

    kernel = jit.Kernel("test_words", build)
    jit.KERNELS.pop("test_words")
    given = {"plan": words, "at": x, "none": None, "run": None, "eps": -0.0, "rest": (4, np.int64(5))}
    assert kernel.words(given) == (jit.address(words), jit.address(x), 0, 0, -(1 << 63), 4, 5)
    with pytest.raises(DeepcoreError, match="'run' is Code"):
        kernel.words({**given, "run": kernel})  # it has no machine code yet


def test_a_launch_of_a_program_has_places_for_addresses():
    buffer = Buffer("own", 64)
    launch = Bound.of(MASKED, 2, **arguments(x=(buffer, 8), mask=(buffer, 0), out=(buffer, 32), eps=0.5))
    assert launch.words == [0, 0, 0, 6, jit.bits(0.5)] and launch.chunks == 2
    assert launch.places == {0: (buffer, 8), 1: (buffer, 0), 2: (buffer, 32)}


def test_declarations_that_make_no_sense():
    with pytest.raises(DeepcoreError, match="declares no arguments"):
        Kernel("nothing", lambda tools: None)
    with pytest.raises(DeepcoreError, match="'x' has no dtype"):
        Kernel("typeless", args(x=In)(lambda tools: None))
    with pytest.raises(DeepcoreError, match="no floating dtype"):
        Kernel("whole", args(x=Float(np.int64))(lambda tools: None))
    with pytest.raises(DeepcoreError, match=r"its function takes \(out, x\)"):
        Kernel("swapped", args(x=In(F32), out=Out(F32))(lambda tools: lambda out, x: 0)).body(intrinsics)


def test_every_kernel_of_both_devices_declares_its_arguments():
    kernels.discover()
    importlib.import_module("deepcore.optim")
    every = [*jit.KERNELS.values(), *ptx.KERNELS.values()]
    assert len(every) > 300
    for kernel in every:
        assert kernel.arguments, kernel.name
        assert all(declared.dtype is not None for declared in kernel.arguments.values())
        assert inspect.signature(kernel.build).parameters.keys() >= {"tools"}
    assert all("Rest" not in [t.kind for t in list(k.arguments.values())[:-1]] for k in every), "Rest is last"
    assert not {"Rest", "Code", "Address"} & {t.kind for k in ptx.KERNELS.values() for t in k.arguments.values()}
