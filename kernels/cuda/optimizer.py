"""Optimizer updates on CUDA: all parameters of one formula and dtype in one launch, over a table of their addresses.

A row of the table has the parameter's first tile, its size, the addresses of gradient, parameter and states, and the
formula's scalars as float64. A block finds the row of its tile by bisection.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from operator import is_
from typing import Any

import numpy as np

from deepcore.kernels.codegen.kernel import Size, Words, args
from deepcore.kernels.codegen.ptx import KERNELS, THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.registry import register
from deepcore.kernels.update import Update, UpdateKernels

#: Elements of a tile.
TILE = 4 * THREADS

_TEXT = """
def kernel(table, rows, tiles):
    for tile in range(block(), tiles, blocks()):
        low, high = 0, rows
        while high - low > 1:
            middle = (low + high) // 2
            if table[middle * {width}] <= tile:
                low = middle
            else:
                high = middle
        row = low * {width}
        start = (tile - table[row]) * {tile}
        stop = min(table[row + 1], start + {tile})
        {pointers}
        {numbers}
        i = start + thread()
        while i < stop:
            {results} = formula({arguments})
            {stores}
            i += {threads}
"""


@args(table=Words, rows=Size, tiles=Size)
def build(tools, formula, states: int, dtype: str):
    dt = np.dtype(dtype)
    count = formula.__code__.co_argcount - 2 - states
    arrays, numbers = ["w", *(f"s{i}" for i in range(states))], [f"c{i}" for i in range(count)]
    text = _TEXT.format(
        width=4 + states + count,
        tile=TILE,
        threads=THREADS,
        pointers="\n        ".join(f"{a} = at(table[row + {2 + i}])" for i, a in enumerate(["g", *arrays])),
        numbers="\n        ".join(
            f"{c} = convert(np.int64(table[row + {4 + states + i}]).view(np.float64))" for i, c in enumerate(numbers)
        )
        or "pass",
        results=", ".join(f"new_{a}" for a in arrays) + ("," if len(arrays) == 1 else ""),
        arguments=", ".join(["w[i]", "g[i]", *(f"{a}[i]" for a in arrays[1:]), *numbers]),
        stores="; ".join(f"{a}[i] = new_{a}" for a in arrays),
    )
    scope: dict[str, Any] = {
        "np": np, "at": tools.at(dt), "convert": dt.type, "formula": tools.lift(formula, dt),
        "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
    }  # fmt: skip
    return tools.compiled(text, scope)["kernel"]


#: `kernel(update, dtype)`: the kernel of an update for parameters of `dtype`, or None.
kernel = UpdateKernels(
    lambda name, update, dtype: Kernel(name, build, update.formula, len(update.states), dtype.name), KERNELS
)


def fits(w, states) -> bool:
    return all(x.dtype == w.dtype and x.shape == w.shape and x.flags.c_contiguous for x in (w, *states))


def _addresses(update: Update) -> int:
    """The column of a row's first scalar, behind first tile, size and addresses."""
    return 4 + len(update.states)


def width(update: Update) -> int:
    """Words of a row."""
    return _addresses(update) + update.formula.__code__.co_argcount - 2 - len(update.states)


def fill(xp, update: Update, dtype, entries: list[tuple], table) -> tuple[int, list]:
    """Store the addresses of (w, g, states) of all entries, none empty, in `table`; the number of tiles, and the gradients."""
    table_rows = Table(update, entries)
    gradients = table_rows.set_gradients(xp, dtype, entries)
    table[:, : _addresses(update)] = table_rows.words[:, : _addresses(update)]
    return table_rows.tiles, gradients


def update_by_table(xp, update: Update, dtype, table, tiles: int) -> Callable[[], None]:
    """A callable that runs the update over a table on the device."""
    return xp.prepared(kernel(update, dtype), blocks_for(xp, tiles, 1), table=table, rows=table.shape[0], tiles=tiles)


def set_scalars(table, update: Update, row: int, values: list[float]) -> None:
    table[row, _addresses(update) :] = np.asarray(values, np.float64).view(np.int64)


class Table:
    """The table rows of parameters, valid as long as the arrays are the same objects."""

    def __init__(self, update: Update, entries: list[tuple]):
        self.arrays = [x for w, _, states, *_ in entries for x in (w, *states)]
        self.fits = all(fits(w, states) for w, _, states, *_ in entries)
        self.rows = [i for i, entry in enumerate(entries) if entry[0].size]
        self.words = np.zeros((len(self.rows), width(update)), np.int64)
        self.scalars = self.words[:, _addresses(update) :]
        tiles = [-(-entries[i][0].size // TILE) for i in self.rows]
        self.tiles = sum(tiles)
        for row, i in zip(self.words, self.rows if self.fits else ()):
            w, _, states, *_ = entries[i]
            row[1], row[3 : _addresses(update)] = w.size, [x.data.ptr for x in (w, *states)]
        self.words[:, 0] = np.cumsum([0, *tiles])[:-1]

    def set_gradients(self, xp, dtype, entries: list[tuple]) -> list:
        """Point the rows to the entries' gradients, which are returned as contiguous arrays of the dtype."""
        gradients = [
            g if g.dtype == dtype and g.flags.c_contiguous else xp.ascontiguousarray(g.astype(dtype, copy=False))
            for g in (entries[i][1] for i in self.rows)
        ]
        self.words[:, 2] = [g.data.ptr for g in gradients]
        return gradients

    def is_for(self, entries: list[tuple]) -> bool:
        arrays = [x for w, _, states, _ in entries for x in (w, *states)]
        return len(arrays) == len(self.arrays) and all(map(is_, arrays, self.arrays))


@register("updates", "cuda", needs_numba=False)
def updates(xp, *, update: Update, entries: list[tuple], cache: dict) -> Callable[[], object] | None:
    """A callable that runs the updates of all entries (w, g, states, scalars), or NotImplemented.

    Everything that can fail is done before it is returned, and it runs compiled code only. `cache` has the table of the
    previous step.
    """
    dtype = entries[0][0].dtype
    run, table = kernel(update, dtype), cache.pop("table", None)
    if run is None:
        return NotImplemented
    if table is None or not table.is_for(entries):
        table = Table(update, entries)
    if not table.fits or any(g.shape != w.shape for w, g, _, _ in entries) or not xp.ready(run):
        return NotImplemented
    if table.rows:
        gradients = table.set_gradients(xp, dtype, entries)
        scalars = [entries[i][3] for i in table.rows]
        same = all(map(is_, scalars, repeat(scalars[0])))
        table.scalars[...] = np.asarray(scalars[0] if same else scalars, np.float64).view(np.int64)
        call: Any = update_by_table(xp, update, dtype, xp.from_host(table.words), table.tiles)
        call.gradients = gradients  # kept alive until the call
    cache["table"] = table
    return call if table.rows else int


@register("update", "cuda", needs_numba=False)
def update(xp, w, g, *states, update: Update, scalars: dict[str, float]):
    call = updates(xp, update=update, entries=[(w, g, states, update.values(scalars))], cache={})
    return call if call is NotImplemented else call()  # type: ignore[misc]
