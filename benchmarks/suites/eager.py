"""What one eager op costs on 4×4 arrays, beside NumPy's own call and PyTorch, on one thread."""

from __future__ import annotations

from functools import partial

import numpy as np
import peers
from contest import Contest

import deepcore as dc

OPS = {
    "mul": (lambda a, b: a * b, np.multiply),
    "add": (lambda a, b: a + b, np.add),
    "exp": (lambda a, b: a.exp(), lambda a, b: np.exp(a)),
    "times a number": (lambda a, b: a * 2.5, lambda a, b: np.multiply(a, 2.5)),
    "matmul": (lambda a, b: a @ b, np.matmul),
    "sum": (lambda a, b: a.sum(), lambda a, b: np.sum(a)),
    "reshape": (lambda a, b: a.reshape(16), lambda a, b: a.reshape(16)),
    "index": (lambda a, b: a[0], lambda a, b: a[0]),
}


def make(side: str, op: str, recorded: bool):
    x, y = np.full((4, 4), 1.5, "f"), np.full((4, 4), 0.5, "f")
    run, plain = OPS[op]
    if side == "numpy":
        return lambda: plain(x, y)
    if side == "torch":
        torch = peers.torch()
        a, b = torch.tensor(x, requires_grad=recorded), torch.tensor(y)
    else:
        a, b = dc.tensor(x, requires_grad=recorded), dc.tensor(y)
    return lambda: run(a, b)


CONTESTS = [
    Contest(
        "eager",
        op + (", recorded" if recorded else ""),
        partial(make, op=op, recorded=recorded),
        ("deepcore", "numpy", "torch"),
        group="recorded" if recorded else "plain",
        baseline="numpy",
        facts={"op": op},
    )
    for recorded in (False, True)
    for op in OPS
]
