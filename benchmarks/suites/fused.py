"""gelu(x·Wᵀ + b) by `Sequential(Linear, GELU)`, forward alone and with the gradients of x, W and b."""

from __future__ import annotations

from functools import partial

import peers
from contest import Absent, Contest, array

import deepcore as dc

# rows, in, out: a small layer, a wide one, and the first of a transformer's MLP.
SHAPES = [(64, 784, 512), (256, 1024, 1024), (1024, 256, 1024)]
SIDES = ("deepcore", "torch eager", "torch.compile")


def make(side: str, rows: int, inputs: int, outputs: int, backward: bool):
    library = dc if side == "deepcore" else peers.torch()
    model = library.nn.Sequential(library.nn.Linear(inputs, outputs), library.nn.GELU())
    weights = {"0.weight": array(outputs, inputs, seed=2) / inputs**0.5, "0.bias": array(outputs, seed=3)}
    model.load_state_dict({name: library.tensor(values) for name, values in weights.items()})
    x = library.tensor(array(rows, inputs), requires_grad=backward)
    g = library.tensor(array(rows, outputs, seed=1))
    forward = compiled(library, model, x) if side == "torch.compile" else model
    if not backward:

        def alone():
            with library.no_grad():
                return forward(x)

        return alone

    def step():
        forward(x).backward(g)
        model.zero_grad()
        x.grad = None

    return step


def compiled(torch, model, x):
    torch._dynamo.reset()  # each contest its own compilation
    try:
        forward = torch.compile(model)
        forward(x)
    except Exception as error:  # no C++ compiler, above all
        raise Absent(f"torch.compile: {str(error).strip().splitlines()[0]}") from None
    return forward


CONTESTS = [
    Contest(
        "fused",
        f"{rows}x{inputs}x{outputs} {'forward, backward' if backward else 'forward'}",
        partial(make, rows=rows, inputs=inputs, outputs=outputs, backward=backward),
        SIDES,
        (6.0 if backward else 2.0) * rows * inputs * outputs,
        "flop",
        long=(rows, inputs, outputs) != SHAPES[0],
        facts={"shape": [rows, inputs, outputs]},
    )
    for rows, inputs, outputs in SHAPES
    for backward in (False, True)
]
