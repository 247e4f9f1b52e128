"""The kernels of attention: what the reference computes, on any number of threads, in memory linear in the lengths."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.kernels import plan as plans
from deepcore.nn.functional import scaled_dot_product_attention

# Queries, keys, their length, that of values, leading dimensions: single ones, rests of blocks, few heads and many. Up to
# four queries have a kernel of their own.
SHAPES = [
    (1, 1, 1, 1, ()), (49, 130, 33, 20, (2,)), (130, 49, 16, 64, (3, 4)), (200, 300, 80, 8, (1, 1)), (7, 5, 256, 256, (2,)),
    (1, 131, 64, 70, (2, 3)), (4, 300, 5, 256, (2,)),
]  # fmt: skip
MASKS = {
    "all": lambda rng, n, m: {},
    "causal": lambda rng, n, m: {"is_causal": True},
    "booleans": lambda rng, n, m: {"attn_mask": dc.tensor(rng.random((n, m)) < 0.5)},
    "numbers by key": lambda rng, n, m: {"attn_mask": dc.tensor(rng.standard_normal((1, m)).astype("f"))},
    "no query": lambda rng, n, m: {"attn_mask": dc.zeros(n, 1, dtype=bool)},
    "negative scale": lambda rng, n, m: {"scale": -0.3},
}


def results(arrays, g, options, turned: bool) -> list[np.ndarray]:
    """The result and its gradients; `turned`: of operands whose last two leading dimensions are exchanged in memory."""
    operands = [dc.tensor(a, requires_grad=True) for a in arrays]
    given = [t.transpose(-3, -2).contiguous().transpose(-3, -2) for t in operands] if turned else operands
    out = scaled_dot_product_attention(*given, **options)
    out.backward(dc.tensor(g))
    return [t.detach().numpy() for t in (out, *(t.grad for t in operands))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_give_what_the_reference_gives_on_any_number_of_threads(shape, mask, dtype, monkeypatch):
    n, m, depth, width, lead = shape
    rng = np.random.default_rng(n)
    arrays = [rng.standard_normal((*lead, *s)).astype(dtype) for s in ((n, depth), (m, depth), (m, width))]
    options, g = MASKS[mask](rng, n, m), rng.standard_normal((*lead, n, width)).astype(dtype)

    def run(threads: int, kernels: bool, turned: bool = False):
        monkeypatch.setattr(settings, "threads", threads)
        monkeypatch.setattr(settings, "kernels", kernels)
        return results(arrays, g, options, turned)

    two, one, reference = run(2, True), run(1, True), run(1, False)
    assert [a.tobytes() for a in one] == [a.tobytes() for a in two]
    if lead:
        assert [a.tobytes() for a in run(2, True, turned=True)] == [a.tobytes() for a in two]
    tolerance = 3e-5 if dtype == "float32" else 1e-12
    for a, b in zip(two, reference):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


def test_memory_is_linear_in_the_lengths(monkeypatch):
    """What plans allocate, for results and temporaries, doubles with the lengths."""
    made = []
    monkeypatch.setattr(
        plans.Plan, "outputs", lambda self, *b, _old=plans.Plan.outputs: made.append(self) or _old(self, *b)
    )

    def allocated(n: int) -> int:
        made.clear()
        operands = [dc.ones(1, 2, n, 64, requires_grad=True) for _ in range(3)]
        scaled_dot_product_attention(*operands, is_causal=True).sum().backward()
        mine = [p for p in made if any(launch.kernel.name.startswith("attention") for launch in p.launches)]
        return sum(sum(p.temporaries) + sum(s.size * s.dtype.itemsize for s in p.results) for p in mine)

    first = allocated(1024)
    if not made:
        pytest.skip("there are no kernels")
    assert 0 < allocated(2048) <= 2.01 * first
    assert first < 2 * 1024 * 64 * 4 * 16
