"""`dc.compile` on random programs: the bits of the function, whatever it is made of."""

from __future__ import annotations

import pytest
import random_programs
from random_programs import Program

import deepcore as dc
from deepcore.compiler.passes import chains
from deepcore.config import settings
from deepcore.kernels.runtime import threadpool

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")


def fails(program: Program) -> bool:
    try:
        return bool(random_programs.differences(program)[0])
    except Exception:
        return False


@pytest.mark.parametrize("fused", [False, True], ids=["", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_programs_have_the_bits_of_the_function(dtype, fused, request, monkeypatch):
    count, first = request.config.getoption("--programs"), request.config.getoption("--seed")
    if fused:  # which takes a second for each the first time
        count = max(count // 10, 1)
        monkeypatch.setattr(chains, "WORTH", 0)
    ran, faults = 0, []
    for seed in range(first, first + count):
        program = random_programs.generate(seed, dtype)
        wrong, compiled = random_programs.differences(program)
        if wrong:
            smallest = random_programs.shrunk(program, fails)
            again = f"from random_programs import Program, differences\nprint(differences({smallest!r}))"
            pytest.fail(
                f"seed {seed}, {dtype}: {wrong}; smallest:\n{smallest.source()}\nagain, in tests/support/:\n{again}"
            )
        ran += compiled.runs == 3
        faults += [f"seed {seed}: {fault.reason}, {fault.place}" for fault in compiled.faults]
    assert ran >= 0.95 * count, "\n".join(faults)


#: What random programs found: functions of an argument, a parameter, and a state outside.
FOUND = {
    "gradients of two parameters": lambda x, w, s: [(w * s.requires_grad_() * x).sum().backward()],
    "a gradient that is one number": lambda x, w, s: [w.sum().backward(), (w * x).sum().backward()],
    "adding in place": lambda x, w, s: [s.add_(x.mean())],
    "a number to a part": lambda x, w, s: [s.__setitem__(0, x.sum()), s * 1],
    "detached": lambda x, w, s: [x * w.detach()],
    "a result lent to the state": lambda x, w, s: [(v := x * w), s.copy_(v.detach()), s.add_(x), v * 1],
    "a result written after it was lent": lambda x, w, s: [(v := x * 2), s.copy_(v), v.mul_(3)],
    "a gradient lent to the state": lambda x, w, s: [
        (x * w).sum().backward(),
        s.copy_(w.grad),
        (w * 2).sum().backward(),
    ],
    "a result as gradient": lambda x, w, s: [(v := x * 2), (w + 1).backward(v), (w + 1).backward(v), v * 1],
    "a gradient that is written": lambda x, w, s: [(v := x * 2), (w + 1).backward(v), v.mul_(3)],
    "not a number": lambda x, w, s: [(x - 1).sqrt() * w, ((x - 1).sqrt() * w).sum().backward()],
}


@pytest.mark.parametrize("gradient", [None, 1.0], ids=["first", "added"])
@pytest.mark.parametrize("rebound", [False, True], ids=["", "other memory"])
@pytest.mark.parametrize("name", FOUND)
def test_what_random_programs_found(name, rebound, gradient, monkeypatch):
    monkeypatch.setattr(settings, "compile_check", 0)
    found = []
    for compiled in (False, True):
        w, s = dc.full((1, 3), 0.5, requires_grad=True), dc.zeros(1, 3)

        def function(x, w=w, s=s):
            return [r.detach() for r in FOUND[name](x, w, s) if r is not None and r is not s]

        run = dc.compile(function) if compiled else function
        for i in range(4):
            w.grad = None if gradient is None else dc.full((1, 3), gradient)
            s.grad = None if gradient is None or not s.requires_grad else dc.full((1, 3), gradient)
            if rebound and i == 2:
                w.data, s.data = dc.full((1, 3), 7.0), dc.ones(1, 3)
            results = run(dc.full((1, 3), float(i)))
            found.append([random_programs.bits(t) for t in (*results, w, s, w.grad, s.grad)])
        if compiled:
            assert run.runs and not run.faults, run.faults
    assert found[:4] == found[4:]
