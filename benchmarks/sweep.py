"""Every function against PyTorch, over dtypes and dimensions: where are the slow corners?

    python benchmarks/sweep.py [-k WORDS] [--quick] [--size 512] [--dtypes float32,float16] [--save]

Functions of one or two tensors of one shape are found in the registry, by their declared samples; the others have a
line in `CASES` or are listed as not swept. A ratio is the median, over interleaved rounds, of deepcore's time divided
by PyTorch's: above 1, deepcore is slower.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # this checkout, whatever is installed

import machine  # noqa: E402
import peers  # noqa: E402
from contest import Absent, Contest, Effort, array, run  # noqa: E402
from tqdm import tqdm  # noqa: E402

import deepcore as dc  # noqa: E402
from deepcore.errors import DeepcoreError  # noqa: E402
from deepcore.ops.registry import FUNCTIONS  # noqa: E402

FLOATS = ("float32", "float64", "float16", "bfloat16")
DTYPES = (*FLOATS, "int64", "int32", "uint8", "bool")
#: `--quick` has all functions in these, and those of `CASES` in all.
QUICK_DTYPES = ("float32", "float16")
QUICK = Effort(2e-4, 0.01, 3, 3)
THOROUGH = Effort(1e-3, 0.1, 5, 9)


class Case(NamedTuple):
    """`call(library, *tensors)` over tensors of `shapes` (in units of the size: 1 is the size), of which `integers` are indices."""

    call: Callable
    shapes: tuple = ((1, 1),)
    #: What each operand is: "x" of the swept dtype, "i" indices below the size, "m" a mask, "f" float32.
    kinds: str = "x"
    low: float = -2.0
    high: float = 2.0
    dtypes: tuple[str, ...] = DTYPES


class _Samples:
    """Notes what the samples of a function are made of."""

    def __init__(self):
        self.ranges: list[tuple[float, float]] = []

    def __call__(self, *shape, low=-2.0, high=2.0):
        self.ranges.append((low, high))
        return dc.zeros(shape) + (low + high) / 2

    def int(self, high, *shape):
        return dc.zeros(shape, dtype=dc.int64)

    def bool(self, *shape):
        return dc.zeros(shape, dtype=dc.bool_)


def _shaped_like(name: str, entry) -> Case | None:
    """The case of a function whose first sample is of one or two tensors of one shape, with a result of that shape."""
    make = _Samples()
    samples = [s for s in entry.examples(make) if s.args and isinstance(s.args[0], dc.Tensor) and s.args[0].ndim]
    if not samples:
        return None
    first = samples[0]
    tensors = [x for x in first.args if isinstance(x, dc.Tensor)]
    if len(tensors) != len(first.args) or first.kwargs or len(tensors) > 2:
        return None
    if any(t.shape != tensors[0].shape for t in tensors):
        return None
    try:
        result = entry.function(*first.args)
    except DeepcoreError:
        return None
    if not isinstance(result, dc.Tensor) or result.shape != tensors[0].shape:
        return None
    low = max((r[0] for r in make.ranges), default=-2.0)
    high = min((r[1] for r in make.ranges), default=2.0)
    return Case(lambda lib, *x: getattr(lib, name)(*x), ((1, 1),) * len(tensors), "x" * len(tensors), low, high)


def _dims(name: str, *dims, dtypes=DTYPES, **settings) -> dict[str, Case]:
    """A function over dimensions of a matrix; None: over all of it."""
    return {
        f"{name} {d}": Case(
            partial(lambda lib, x, d: getattr(lib, name)(x) if d is None else getattr(lib, name)(x, d), d=d),
            dtypes=dtypes, **settings,
        )
        for d in dims
    }  # fmt: skip


def _functional(name: str):
    return lambda lib, *x, **settings: getattr(lib.nn.functional, name)(*x, **settings)


CASES: dict[str, Case] = {
    **_dims("sum", None, 0, 1), **_dims("mean", None, 0, 1, dtypes=FLOATS), **_dims("prod", None, 0, 1, low=0.9, high=1.1),
    **_dims("var", None, 0, 1, dtypes=FLOATS), **_dims("std", None, 0, 1, dtypes=FLOATS),
    **_dims("amax", (0, 1), 0, 1), **_dims("amin", (0, 1), 0, 1), **_dims("max", None, 0, 1), **_dims("min", None, 0, 1),
    **_dims("argmax", None, 0, 1), **_dims("argmin", None, 0, 1), **_dims("all", None, 0, 1), **_dims("any", None, 0, 1),
    **_dims("count_nonzero", None, 0, 1), **_dims("logsumexp", 0, 1, dtypes=FLOATS),
    **_dims("cumsum", 0, 1), **_dims("cumprod", 0, 1, low=0.9, high=1.1), **_dims("cummax", 0, 1), **_dims("cummin", 0, 1),
    **_dims("logcumsumexp", 0, 1, dtypes=FLOATS), **_dims("softmax", 0, 1, dtypes=FLOATS),
    **_dims("log_softmax", 0, 1, dtypes=FLOATS), **_dims("sort", 0, 1), **_dims("argsort", 0, 1), **_dims("flip", (0,), (1,)),
    "topk 0": Case(lambda lib, x: lib.topk(x, 8, 0)), "topk 1": Case(lambda lib, x: lib.topk(x, 8, 1)),
    "roll 0": Case(lambda lib, x: lib.roll(x, 7, 0)), "roll 1": Case(lambda lib, x: lib.roll(x, 7, 1)),
    "x + 2": Case(lambda lib, x: x + 2), "x * 3": Case(lambda lib, x: x * 3), "x + 1.5": Case(lambda lib, x: x + 1.5, dtypes=FLOATS),
    "x ** 2": Case(lambda lib, x: x**2), "x ** 3": Case(lambda lib, x: x**3), "x ** 4": Case(lambda lib, x: x**4),
    "x ** 0.5": Case(lambda lib, x: x**0.5, dtypes=FLOATS, low=0.1), "x ** -1": Case(lambda lib, x: x**-1, dtypes=FLOATS, low=0.1),
    "x ** -2": Case(lambda lib, x: x**-2, dtypes=FLOATS, low=0.1), "x ** 1.7": Case(lambda lib, x: x**1.7, dtypes=FLOATS, low=0.1),
    "x > 0": Case(lambda lib, x: x > 0), "x == 0": Case(lambda lib, x: x == 0), "1 / x": Case(lambda lib, x: 1 / x, dtypes=FLOATS),
    "x // 2": Case(lambda lib, x: x // 2), "x % 3": Case(lambda lib, x: x % 3),
    "x + row": Case(lambda lib, x, y: x + y, ((1, 1), (1,)), "xx"), "x + column": Case(lambda lib, x, y: x + y, ((1, 1), (1, 0)), "xx"),
    "x + x.T": Case(lambda lib, x, y: x + y.T, ((1, 1),) * 2, "xx"), "x.T * 2": Case(lambda lib, x: x.T * 2),
    "where": Case(lambda lib, m, x, y: lib.where(m, x, y), ((1, 1),) * 3, "mxx"),
    "where 0": Case(lambda lib, m, x: lib.where(m, x, 0), ((1, 1),) * 2, "mx"),
    "clamp": Case(lambda lib, x: x.clamp(0, 1)), "masked_fill": Case(lambda lib, x, m: x.masked_fill(m, 1), ((1, 1),) * 2, "xm"),
    "x[mask]": Case(lambda lib, x, m: x[m], ((1, 1),) * 2, "xm"), "x[mask row]": Case(lambda lib, x, m: x[m], ((1, 1), (1,)), "xm"),
    "masked_select": Case(lambda lib, x, m: x.masked_select(m), ((1, 1),) * 2, "xm"), "nonzero": Case(lambda lib, x: x.nonzero()),
    "x[index]": Case(lambda lib, x, i: x[i], ((1, 1), (1,)), "xi"), "x[:, index]": Case(lambda lib, x, i: x[:, i], ((1, 1), (1,)), "xi"),
    "index_select 0": Case(lambda lib, x, i: lib.index_select(x, 0, i), ((1, 1), (1,)), "xi"),
    "index_select 1": Case(lambda lib, x, i: lib.index_select(x, 1, i), ((1, 1), (1,)), "xi"),
    "gather 0": Case(lambda lib, x, i: lib.gather(x, 0, i), ((1, 1),) * 2, "xi"),
    "gather 1": Case(lambda lib, x, i: lib.gather(x, 1, i), ((1, 1),) * 2, "xi"),
    "scatter_add 0": Case(lambda lib, x, i, y: x.scatter_add(0, i, y), ((1, 1),) * 3, "xix"),
    "scatter_add 1": Case(lambda lib, x, i, y: x.scatter_add(1, i, y), ((1, 1),) * 3, "xix"),
    "x.T.contiguous": Case(lambda lib, x: x.T.contiguous()), "x[:, ::2].contiguous": Case(lambda lib, x: x[:, ::2].contiguous()),
    "permute contiguous": Case(lambda lib, x: x.permute(2, 0, 1).contiguous(), ((1, -16, -32),)), "clone": Case(lambda lib, x: x.clone()),
    **{f"to {d}": Case(partial(lambda lib, x, d: x.to(getattr(lib, d)), d=d)) for d in ("float32", "float16", "bfloat16", "int64", "uint8", "bool")},
    **{f"{name} {d}": Case(partial(lambda lib, x, y, name, d: getattr(lib, name)([x, y], d), name=name, d=d), ((1, 1),) * 2, "xx")
       for name in ("cat", "stack") for d in (0, 1)},
    "stack -1": Case(lambda lib, x, y: lib.stack([x, y], -1), ((1, 1),) * 2, "xx"),
    "repeat": Case(lambda lib, x: x.repeat(2, 2)), "tril": Case(lambda lib, x: lib.tril(x)), "triu": Case(lambda lib, x: lib.triu(x)),
    "pad": Case(lambda lib, x: lib.nn.functional.pad(x, (1, 2, 3, 4))), "one_hot": Case(lambda lib, i: lib.nn.functional.one_hot(i, 64), ((1,),), "i", dtypes=("int64",), high=64),
    "matmul": Case(lambda lib, x, y: x @ y, ((1, 1),) * 2, "xx", dtypes=FLOATS[:3]), "matvec": Case(lambda lib, x, y: x @ y, ((1, 1), (1,)), "xx", dtypes=FLOATS[:3]),
    "outer": Case(lambda lib, x, y: lib.outer(x, y), ((1,), (1,)), "xx"),
    "linear": Case(lambda lib, x, y, z: lib.nn.functional.linear(x, y, z), ((1, 1), (1, 1), (1,)), "xxx", dtypes=("float32", "float64")),
    "norm": Case(lambda lib, x: x.norm(), dtypes=FLOATS), "layer_norm": Case(lambda lib, x: lib.nn.functional.layer_norm(x, x.shape[1:]), dtypes=FLOATS),
    "gelu": Case(_functional("gelu"), dtypes=FLOATS), "silu": Case(_functional("silu"), dtypes=FLOATS), "elu": Case(_functional("elu"), dtypes=FLOATS),
    "softplus": Case(_functional("softplus"), dtypes=FLOATS), "leaky_relu": Case(_functional("leaky_relu"), dtypes=FLOATS),
    **{name: Case(_functional(name), ((1, 1),) * 2, "xx", 0.01, 0.99, dtypes=FLOATS) for name in
       ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")},
    "cross_entropy": Case(_functional("cross_entropy"), ((1, 1), (1,)), "xi", dtypes=FLOATS),
    "nll_loss": Case(_functional("nll_loss"), ((1, 1), (1,)), "xi", dtypes=FLOATS),
    "embedding": Case(lambda lib, i, w: lib.nn.functional.embedding(i, w), ((1,), (1, 1)), "ix", dtypes=FLOATS),
}  # fmt: skip


def cases() -> tuple[dict[str, Case], list[str]]:
    """Every case by name, and the functions without one."""
    found = dict(CASES)
    covered = {name.split()[0].removeprefix("x.") for name in CASES}
    left = []
    for name, entry in FUNCTIONS.items():
        if name in covered:
            continue
        one = _shaped_like(name, entry)
        if one is None:
            left.append(name)
        else:
            found[name] = one
    return found, left


def operands(one: Case, dtype: str, size: int, large: int) -> Iterator:
    """NumPy's arrays for a case."""
    import ml_dtypes
    import numpy as np

    for k, (shape, kind) in enumerate(zip(one.shapes, one.kinds)):
        shape = tuple(size if n == 1 else 1 if n == 0 else -n for n in shape)
        unit = (np.tanh(array(*shape, seed=k)) + 1) / 2
        if kind == "i":
            yield (unit * min(large, int(one.high) if one.high > 2 else large)).astype(np.int64) % large
        elif kind == "m" or dtype == "bool":
            yield unit > 0.5
        elif dtype in FLOATS:
            values = one.low + (one.high - one.low) * unit
            yield values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        else:
            yield (unit * 7 + (1 if one.low > 0 else 0)).astype(dtype)


def make(side: str, one: Case, dtype: str, size: int):
    """What a side is timed at."""
    if dtype not in one.dtypes:
        raise Absent("not swept")
    arrays = list(operands(one, dtype, size, size))
    if side == "torch":
        torch = peers.torch()
        tensors = [
            torch.from_numpy(a.view("int16")).view(torch.bfloat16)
            if a.dtype.name == "bfloat16"
            else torch.from_numpy(a)
            for a in arrays
        ]
        library = torch
    else:
        tensors, library = [dc.from_numpy(a) for a in arrays], dc
    call = partial(one.call, library, *tensors)
    try:
        call()
    except Exception as error:  # a dtype that a side does not take, a function that it lacks
        raise Absent(f"{type(error).__name__}: {error}".splitlines()[0]) from None
    return call


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-k", default="", metavar="WORDS", help="only cases whose name or dtype holds each of these words"
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="only these cases, separated by commas")
    parser.add_argument("--quick", action="store_true", help="at most three minutes: fewer dtypes, short rounds")
    parser.add_argument("--size", type=int, default=512, help="length of a dimension (default %(default)s)")
    parser.add_argument("--dtypes", default="", help="separated by commas (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.0, help="show ratios from this on")
    parser.add_argument("--save", action="store_true", help="write results/<machine>/sweep.json")
    given = parser.parse_args(arguments)
    machine.set_threads(given.threads)
    try:
        peers.torch()
    except Absent as reason:
        print(f"nothing to compare with: {reason}")
        return 2
    machine.set_threads(given.threads)
    others = machine.Others()
    wanted, left = cases()
    names = [name.strip() for name in given.only.split(",") if name]
    pairs = []
    for name, one in wanted.items():
        dtypes = given.dtypes.split(",") if given.dtypes else one.dtypes
        if given.quick and not given.dtypes:
            dtypes = QUICK_DTYPES
        for dtype in dtypes:
            text = f"{name} {dtype}"
            if dtype in one.dtypes and (not names or name in names) and all(word in text for word in given.k.split()):
                pairs.append((name, dtype, one))
    entries = []
    for name, dtype, one in tqdm(pairs, mininterval=0.1 if sys.stderr.isatty() else 30, leave=False):
        contest = Contest("sweep", f"{name}, {dtype}", partial(make, one=one, dtype=dtype, size=given.size),
                          ("deepcore", "torch"), facts={"op": name, "dtype": dtype, "size": given.size})  # fmt: skip
        entry = run(contest, QUICK if given.quick else THOROUGH)
        if entry["ratio"].get("deepcore"):
            entries.append(entry)
    entries.sort(key=slowness)
    for entry in entries:
        if slowness(entry) >= given.least:
            print(line(entry))
    slow = sum(slowness(e) > 1.5 for e in entries)
    print(f"{len(entries)} compared, {slow} take more than 1.5 times PyTorch's time; not swept: {', '.join(left)}")
    share = others.share()
    if share is not None and share > 0.1:
        print(f"other processes took {share:.0%} of the processors")
    if given.save:
        from conftest import written

        folder = HERE / "results" / machine.family()
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"benchmark": "sweep", "machine": machine.describe(), "contests": entries}
        (folder / "sweep.json").write_text(written(whole), encoding="utf-8", newline="\n")
    return 0


def slowness(entry: dict) -> float:
    """deepcore's time divided by PyTorch's."""
    return 1 / entry["ratio"]["deepcore"]["torch"][1]


def line(entry: dict) -> str:
    own, other = (entry["seconds"][side][1] * 1e6 for side in ("deepcore", "torch"))
    return f"{entry['name']:<44}{own:>10.1f} µs{other:>10.1f} µs   ×{slowness(entry):.2f}"


if __name__ == "__main__":
    sys.exit(main())
