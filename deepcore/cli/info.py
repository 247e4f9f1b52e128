"""Print versions, each backend and why one is not usable, CPU features, threads and the BLAS."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

PACKAGES = ("numpy", "numba", "llvmlite", "ml_dtypes", "tqdm", "cupy", "numba-cuda", "matplotlib", "pillow")
ENVIRONMENT = ("DEEPCORE_BACKEND", "DEEPCORE_NUM_THREADS", "DEEPCORE_KERNELS", "DEEPCORE_CACHE", "DEEPCORE_DATA")


def arguments(parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args) -> int:
    facts = collect()
    if args.json:
        import json

        print(json.dumps(facts, indent=1, default=str))
        return 0
    for title, values in facts.items():
        print(title)
        width = max((len(name) for name in values), default=0)
        for name, value in values.items():
            lines = _lines(value)
            print(f"  {name.ljust(width)}  {lines[0]}")
            for line in lines[1:]:
                print(" " * (width + 4) + line)
    return 0


def _lines(value) -> list[str]:
    import textwrap

    return [part for line in str(value).splitlines() for part in textwrap.wrap(line, 90) or [""]] or [""]


def collect() -> dict[str, dict[str, Any]]:
    """All facts that `info` prints, by section."""
    from deepcore import __version__, backend
    from deepcore.cli import cache
    from deepcore.config import settings

    facts: dict[str, dict[str, Any]] = {
        "versions": {"deepcore": __version__, "python": platform.python_version(), "system": platform.platform()}
        | {name: _version(name) for name in PACKAGES}
    }
    for kind in backend.available_kinds():
        title = f"backend {kind}" + (" (default)" if settings.backend.partition(":")[0] == kind else "")
        facts[title] = _backend(kind)
    facts["kernels"] = {"used": "yes" if settings.kernels else "no: DEEPCORE_KERNELS=0"} | cache.facts()
    facts["environment"] = {name: os.environ.get(name, "not set") for name in ENVIRONMENT}
    for name, expected, _ in settings.problems:
        facts["environment"][name] += f": not {expected}"
    return facts


def _version(name: str) -> str:
    # CuPy's distribution is named after the CUDA version it is built for.
    names = [name, "cupy-cuda13x", "cupy-cuda12x"] if name == "cupy" else [name]
    for distribution in names:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _backend(kind: str) -> dict[str, Any]:
    from deepcore import backend
    from deepcore.errors import DeepcoreError

    try:
        return {"usable": "yes"} | backend.get_backend(kind).info()
    except DeepcoreError as error:
        return {"usable": f"no: {error.problem}"} | ({"fix": error.fix} if error.fix else {})
