"""What one eager op costs on tiny arrays, beside NumPy's own call and PyTorch.

    python benchmarks/eager.py [--json FILE]

The candidates take turns, round after round, so that a change of the machine's speed meets them all; a figure is the
median of the rounds. `over NumPy` is the median of the differences within a round: the contract is at most 1.5 µs
without gradients and 2 µs with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from machine import describe

import deepcore as dc

ROUNDS, CALLS = 60, 1500
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


def candidates(op, plain):
    x, y = np.full((4, 4), 1.5, "f"), np.full((4, 4), 0.5, "f")
    a, b, g = dc.tensor(x), dc.tensor(y), dc.tensor(x, requires_grad=True)
    found = {
        "numpy": lambda: plain(x, y),
        "deepcore": lambda: op(a, b),
        "deepcore, recorded": lambda: op(g, b),
    }
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    ta, tb, tg = torch.tensor(x), torch.tensor(y), torch.tensor(x, requires_grad=True)
    found["torch"] = lambda: op(ta, tb)
    found["torch, recorded"] = lambda: op(tg, tb)
    return found


def microseconds(call) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def measure(name: str) -> dict[str, float]:
    calls = candidates(*OPS[name])
    for call in calls.values():
        microseconds(call)
    rounds = [{label: microseconds(call) for label, call in calls.items()} for _ in range(ROUNDS)]
    row = {label: statistics.median(r[label] for r in rounds) for label in calls}
    for label in ("deepcore", "deepcore, recorded"):
        row[f"{label}, over NumPy"] = statistics.median(r[label] - r["numpy"] for r in rounds)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    rows = {}
    print(f"{'µs':<16}{'NumPy':>8}{'deepcore':>10}{'over':>7}{'recorded':>10}{'over':>7}{'torch':>8}{'recorded':>10}")
    for name in OPS:
        rows[name] = r = measure(name)
        print(
            f"{name:<16}{r['numpy']:>8.2f}{r['deepcore']:>10.2f}{r['deepcore, over NumPy']:>7.2f}"
            f"{r['deepcore, recorded']:>10.2f}{r['deepcore, recorded, over NumPy']:>7.2f}"
            f"{r.get('torch', float('nan')):>8.2f}{r.get('torch, recorded', float('nan')):>10.2f}"
        )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                {"benchmark": "eager", "unit": "µs", "machine": describe(), "rows": rows},
                file,
                indent=1,
                ensure_ascii=False,
            )
            file.write("\n")


if __name__ == "__main__":
    main()
