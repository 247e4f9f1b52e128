"""Show the cache of compiled kernels, or clear it.

The folder is DEEPCORE_CACHE, or deepcore's where the system keeps caches. Clearing it is always safe: kernels are
compiled again when they are needed.
"""

from __future__ import annotations

from typing import Any


def arguments(parser) -> None:
    parser.add_argument("action", metavar="clear", nargs="?", choices=("clear",), help="delete all compiled kernels")


def run(args) -> int:
    from deepcore.kernels.codegen import cache

    if args.action == "clear":
        entry_count = len(cache.entries())
        count = cache.clear()
        print(f"deleted {_count(count)} from {cache.folder()}")
        return 0 if count >= entry_count else 1
    for name, value in facts().items():
        print(f"{name:<8}{value}")
    return 0


def facts() -> dict[str, Any]:
    """The folder of the kernel cache, and the number and size of its kernels."""
    from deepcore.kernels.codegen import cache

    sizes = cache.entries().values()
    facts_ = {"cache": str(cache.folder()), "kept": f"{_count(len(sizes))}, {sum(sizes) / 1000:,.1f} kB"}
    problem = cache.problem()
    return facts_ | ({"problem": f"{problem}: kernels are compiled anew in each process"} if problem else {})


def _count(count: int) -> str:
    return f"{count} kernel" + ("" if count == 1 else "s")
