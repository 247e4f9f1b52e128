"""Sides in processes of their own: another BLAS core type, or another revision of deepcore.

The parent sends a line and waits for one line back, so only one process computes at a time and the turns stay turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Worker:
    """A process that holds sides. `tree`: the checkout whose deepcore it imports."""

    def __init__(self, tree: Path = HERE.parent, threads: int = 2, **environment: str):
        env = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": str(tree), **environment}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), str(tree), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True,
        )  # fmt: skip

    def ask(self, *request):
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"the worker ended with status {self.process.returncode}")
        return json.loads(line)

    def side(self, contest, side: str) -> Remote:
        return Remote(self, contest, side)

    def close(self) -> None:
        if self.process.stdin and self.process.stdout:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


class BestCore:
    """NumPy with the core type of OpenBLAS that is fastest here, in a process started when first needed."""

    TYPES = ("Haswell", "Zen", "SkylakeX", "Cooperlake", "Sapphirerapids", "NEOVERSEN1", "NEOVERSEV1", "ARMV8")
    SAMPLES = ("gemm: 64x784x512 AB", "gemm: 256x1024x1024 AB", "gemm: 1024x1024x1024 AB")

    def __init__(self, threads: int):
        self.threads = threads
        self.worker: Worker | None = None
        self.blas = ""

    def side(self, contest, side: str):
        if self.worker is None:
            self.worker = self._choose()
        found = self.worker.side(contest, side)
        contest.facts["best core"] = self.blas
        return found

    def _choose(self) -> Worker:
        from contest import QUICK, Absent, Turns, mean
        from suites import contests

        workers = {}
        for core in self.TYPES:
            one = Worker(threads=self.threads, OPENBLAS_CORETYPE=core)
            try:
                blas = one.ask("blas")["blas"]
            except RuntimeError:  # it has instructions that this processor lacks
                continue
            if blas in workers:  # a type that this library or processor does not have falls back to another
                one.close()
            else:
                workers[blas] = one
        if len(workers) > 1:
            totals = dict.fromkeys(workers, 1.0)
            by_id = {c.id: c for c in contests("gemm")}
            for sample in self.SAMPLES:
                turns = Turns(
                    replace(by_id[sample], sides=tuple(workers), baseline=""),
                    QUICK,
                    {blas: (lambda c, s, w=w: w.side(c, "numpy")) for blas, w in workers.items()},
                )
                rounds = [turns.round() for _ in range(turns.wanted)]
                turns.close()
                first = next(iter(workers))
                for blas in workers:
                    totals[blas] *= mean(r[blas] / r[first] for r in rounds)
            self.blas = min(totals, key=totals.__getitem__)
        else:
            if not workers:
                raise Absent("NumPy's BLAS runs in none of the core types that are tried")
            self.blas = next(iter(workers))
        for blas, one in workers.items():
            if blas != self.blas:
                one.close()
        return workers[self.blas]

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()


class Remote:
    """A side in a worker."""

    def __init__(self, worker: Worker, contest, side: str):
        from contest import Absent

        self.worker = worker
        reply = worker.ask("make", contest.id, side)
        if "absent" in reply:
            raise Absent(reply["absent"])
        self.factor = reply["factor"]

    def burst(self, calls: int) -> float:
        return self.worker.ask("burst", calls)["seconds"]

    def settle(self) -> None:
        self.worker.ask("settle")

    def close(self) -> None:
        self.worker.ask("drop")


def serve() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not talk to the parent
    tree, threads = sys.argv[1:]
    sys.path[:0] = [tree, str(HERE)]
    # An editable install would add the files that another revision of this one lacks.
    sys.meta_path[:] = [f for f in sys.meta_path if "editable___deepcore" not in getattr(f, "__module__", "")]
    from contest import Absent, Local, array
    from machine import set_threads
    from suites import contests

    set_threads(int(threads))
    known: dict = {}
    side = None
    for line in sys.stdin:
        what, *rest = json.loads(line)
        reply: dict = {}
        if what == "make":
            known = known or {c.id: c for c in contests()}
            try:
                side = Local(known[rest[0]], rest[1])
                reply["factor"] = side.factor
            except Absent as reason:
                reply["absent"] = str(reason)
            except Exception:  # an older revision may lack what a contest needs
                reply["absent"] = traceback.format_exc(limit=-1).strip().splitlines()[-1]
        elif what == "burst":
            reply["seconds"] = side.burst(rest[0])
        elif what == "settle":
            side.settle()
        elif what == "drop":
            side = None
            array.cache_clear()
        elif what == "blas":
            import numpy as np

            import deepcore as dc

            np.ones((256, 256), "f") @ np.ones((256, 256), "f")
            reply["blas"] = dc.get_backend("cpu").info()["blas"]
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    serve()
