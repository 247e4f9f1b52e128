"""What `import deepcore` costs, beside NumPy and PyTorch: fresh processes, taking turns.

    python benchmarks/import_time.py [--json FILE]

The figure is what the import adds to starting Python: at most 0.15 s.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time

from machine import describe

ROUNDS = 15
HEAVY = ("numba", "cupy", "scipy", "matplotlib", "torch")


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    names = ["pass", "import numpy", "import deepcore"]
    if importlib.util.find_spec("torch"):
        names.append("import torch")
    for name in names:
        seconds(name)
    rounds = [{name: seconds(name) for name in names} for _ in range(ROUNDS)]
    rows = {n: statistics.median(r[n] - r["pass"] for r in rounds) for n in names[1:]}
    for name, value in rows.items():
        print(f"{name:<18}{value:.3f} s")
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, deepcore; print([m for m in {HEAVY} if m in sys.modules])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    print("loaded with it:", loaded)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"benchmark": "import", "unit": "s", "machine": describe(), "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
