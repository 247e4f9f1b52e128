"""What 20 training steps add to a process's resident memory, each side in a process of its own.

    python benchmarks/memory.py SIDE WORKLOAD      one side, in this process

The baseline is taken when everything is imported and model, optimizer and data are there. Libraries import and load the
most when first needed, so a step of xor goes before. The first step is kept apart: a deepcore side's follows the function
and checks the program.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import workloads
from contest import OWN, Absent

from deepcore.config import settings
from deepcore.errors import DeepcoreWarning

HERE = Path(__file__).resolve().parent
SIDES = ("deepcore", "torch eager")
STEPS = 20


class Case(NamedTuple):
    name: str
    long: bool


CASES = [Case(name, name != "mlp_s") for name in workloads.WORKLOADS]


def status(what: str) -> int:
    """Bytes, from /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(what))


def forget_peak() -> None:
    """From here on, VmHWM is the highest since now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def measure(side: str, name: str) -> dict[str, int]:
    """Bytes: `built`, and over it the peaks of the first step and of those after it, and what is there at the end.

    `loaded` is the part of `built` that came with the step of xor; `planned` what dc.compile says of its program.
    """
    imported = status("VmRSS")
    workloads.training(side, "xor")()
    loaded = status("VmRSS") - imported
    step = workloads.training(side, name)
    gc.collect()
    forget_peak()
    built = status("VmRSS")
    step()
    first = status("VmHWM")
    forget_peak()
    for _ in range(STEPS - 1):
        step()
    later, held = status("VmHWM"), status("VmRSS")
    found = {"loaded": loaded, "built": built, "first": first - built, "later": later - built, "held": held - built}
    planned = getattr(getattr(step, "func", None), "peak_memory", None)
    return found if planned is None else {**found, "planned": planned}


def alone(side: str, name: str, runs: int) -> dict[str, int]:
    """The medians of `measure` in fresh processes."""
    if not os.path.exists("/proc/self/clear_refs"):
        raise Absent("no /proc/self/clear_refs here")
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "DEEPCORE_NUM_THREADS": str(settings.threads)}
    found = []
    # The first run of deepcore's is for the kernel cache: compiling takes memory, too.
    for _ in range(runs + (side == OWN)):
        done = subprocess.run([sys.executable, __file__, side, name], env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found.append(json.loads(done.stdout))
        if "absent" in found[-1]:
            raise Absent(found[-1]["absent"])
    return {key: int(statistics.median(each[key] for each in found[side == OWN :])) for key in found[0]}


def main(side: str, name: str) -> None:
    warnings.simplefilter("error", DeepcoreWarning)
    try:
        print(json.dumps(measure(side, name)))
    except Absent as reason:
        print(json.dumps({"absent": str(reason)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
