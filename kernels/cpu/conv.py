"""Convolution on the CPU: which kernels run for an image and filters of given shapes."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from deepcore import config
from deepcore.backend.dtypes import float32
from deepcore.errors import ConfigError
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Operand
from deepcore.kernels.cpu import conv_depthwise, conv_direct, conv_tile, gemm_tables, winograd
from deepcore.kernels.cpu.reductions import FLOATS, in_steps, kernels_of, regions, spaces
from deepcore.kernels.plan import Launch, Lowering, Plan, Spec, contiguous, with_epilogue
from deepcore.kernels.registry import register

# Approximate multiplications of a chunk; chunks of a weight gradient from which its batch is not split.
_CHUNK_WORK, _MIN_CHUNKS = 1 << 20, 16

_CONV, _CONV_WEIGHT = kernels_of("conv", conv_direct.convolve), kernels_of("conv_weight", conv_direct.weight_gradient)
_TURNED, _INTERLEAVE = (
    kernels_of("conv_turned", conv_direct.turned),
    kernels_of("conv_interleave", conv_direct.interleave),
)
_PANELS, _BY_TILES = kernels_of("conv_panels", conv_tile.panels), kernels_of("conv_tiles", conv_tile.convolve)
_DEPTHWISE = kernels_of("conv_depthwise", conv_depthwise.convolve)
_DEPTHWISE_WEIGHT = kernels_of("conv_depthwise_weight", conv_depthwise.weight_gradient)
_TILES = 2, 4
# Channels of an image from which it is transposed.
_LEAST = 3
_FILTERS = {m: Kernel(f"winograd_filters_{m}", winograd.filters, m, "float32") for m in _TILES}
_WINOGRAD = {m: Kernel(f"winograd_{m}", winograd.convolve, m, "float32") for m in _TILES}
_IMAGE_TILES = {m: Kernel(f"winograd_image_{m}", winograd.tile_rows, "image", m, "float32") for m in _TILES}
_GRADIENT_TILES = {
    m: Kernel(f"winograd_gradient_{m}", winograd.tile_rows, "result_gradient", m, "float32") for m in _TILES
}
_PRODUCTS = {m: Kernel(f"winograd_products_{m}", winograd.tile_products, m, "float32") for m in _TILES}
_FILTER_GRADIENT = {m: Kernel(f"winograd_filter_gradient_{m}", winograd.filter_gradient, m, "float32") for m in _TILES}


class _Walk(NamedTuple):
    """How a filter of `taps` moves over an image, to `positions`; zeros before it, and the geometry along both dimensions."""

    taps: tuple[int, int]
    positions: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int]

    def arguments(self, x: Spec) -> dict[str, int]:
        """The arguments of kernels that gather x."""
        names = "kh", "kw", "oh", "ow", "sh", "sw", "top", "left", "dh", "dw"
        numbers = *self.taps, *self.positions, *self.stride, *self.before, *self.dilation
        return {
            "height": x.shape[2], "width": x.shape[3], **dict(zip(("xn", "xc", "xh", "xw"), x.strides)),
            **dict(zip(names, numbers)),
        }  # fmt: skip


def _walk(taps, positions, params) -> _Walk:
    (top, _), (left, _) = params["padding"]
    return _Walk(tuple(taps), tuple(positions), params["stride"], (top, left), params["dilation"])


def _is_unsupported(specs, *kernels: dict) -> bool:
    """Whether the reference must run: three dimensions, another dtype, an empty operand, or no kernel."""
    dtype = specs[0].dtype
    if len(specs[0].shape) != 4 or dtype not in FLOATS or any(spec.dtype != dtype or not spec.size for spec in specs):
        return True
    return gemm_tables.table() is None or not all(variants[dtype].ready() for variants in kernels)


def _tasks(count: int, length: int, work: int, dtype) -> tuple[int, int, int]:
    """(columns of a task, tasks of a chunk, chunks) of `count` products of `length` columns, with `work` per column."""
    columns = conv_tile.columns(dtype)
    task_columns = columns * max(1, min(-(-length // columns), _CHUNK_WORK // (work * columns)))
    tasks, tasks_per_chunk = (
        count * -(-length // task_columns),
        max(1, _CHUNK_WORK // (work * min(length, task_columns))),
    )
    return task_columns, tasks_per_chunk, -(-tasks // tasks_per_chunk)


class _Filters(NamedTuple):
    """Where the taps of `rows` filters with `depth` channels are in the weight: see `conv_tile.panels`."""

    rows: int
    depth: int
    first: int
    down: int
    along: int
    of_group: int
    of_row: int
    of_channel: int

    def launch(self, kernels: dict, dtype, chunks: int, taps, **operands) -> Launch:
        """The launch that writes them in the order that a kernel reads."""
        return Launch(kernels[dtype], chunks, **operands, high=taps[0], wide=taps[1], **self._asdict())


def _direct(image: Spec, groups: int, walk: _Walk, filters: _Filters, weight: Operand, space: Operand, **operands):
    """The launches of a direct convolution, and the bytes of `space`, where it has the filters in another order."""
    samples, dtype, (rows, depth) = image.shape[0], image.dtype, filters[:2]
    k, item = depth * math.prod(walk.taps), image.dtype.itemsize
    epilogue = {"activation": None, "pre": None, "other": None}
    if block := _block(image, rows, depth, walk):
        width, (oh, ow) = conv_tile.columns(dtype), walk.positions
        strips = -(-oh // block.high) * -(-ow // block.across) * -(-samples // block.samples)
        panels, blocks = -(-rows // width), conv_tile.blocks(rows)
        arguments = walk.arguments(image)
        for name in ("xn", "xc", "xh", "xw"):
            del arguments[name]
        launches = [
            filters.launch(_PANELS, dtype, groups * panels * depth, walk.taps, weight=weight, out=space),
            Launch(
                _BY_TILES[dtype], groups * blocks * strips, **operands, **epilogue, panels=space, samples=samples, groups=groups,
                rows=rows, depth=depth, held=block.samples, high=block.high, across=block.across, blocks=blocks, **arguments,
            ),
        ]  # fmt: skip
        return launches, groups * panels * width * k * item
    launches, size = [], 0
    if filters != _in_order(rows, depth, walk.taps):
        launches.append(filters.launch(_TURNED, dtype, groups * rows, walk.taps, weight=weight, out=space))
        weight, size = space, groups * rows * k * item
    if band := _band(dtype, depth, walk, _DEPTHWISE):
        planes = samples * groups * rows
        each = max(1, _CHUNK_WORK // (8 * k * math.prod(walk.positions)))
        launch = Launch(
            _DEPTHWISE[dtype], -(-planes // each), **operands, **epilogue, weight=weight, planes=planes, each=each,
            groups=groups, rows=rows, band=band, **walk.arguments(image),
        )  # fmt: skip
    else:
        task_columns, tasks_per_chunk, chunks = _tasks(samples * groups, math.prod(walk.positions), rows * k, dtype)
        launch = Launch(
            _CONV[dtype], chunks, **operands, **epilogue, weight=weight, samples=samples, groups=groups, rows=rows, depth=depth,
            block=gemm_tables.steps(k), task_columns=task_columns, tasks_per_chunk=tasks_per_chunk, **walk.arguments(image),
        )  # fmt: skip
    return [*launches, launch], size


def _in_order(rows: int, depth: int, taps) -> _Filters:
    """Filters as they are in a convolution's weight."""
    k = depth * math.prod(taps)
    return _Filters(rows, depth, 0, taps[1], 1, rows * k, k, math.prod(taps))


def _block(image: Spec, rows: int, depth: int, walk: _Walk) -> conv_tile.Block | None:
    """What a task of the kernel for many channels computes; None where another one runs."""
    if depth < _LEAST or not (_PANELS[image.dtype].ready() and _BY_TILES[image.dtype].ready()):
        return None
    return conv_tile.block(depth, walk.taps, walk.positions, walk.stride, walk.dilation, image.dtype)


def _band(dtype, depth: int, walk: _Walk, kernels: dict) -> int:
    """Rows of results that the kernels for channels with filters of their own hold at a time; 0 where others run."""
    if depth > 1:
        return 0
    return conv_depthwise.band(walk.taps, walk.positions, walk.stride, walk.dilation) * kernels[dtype].ready()


def positions(shape, size, params) -> tuple[int, int]:
    """The numbers of positions (oh, ow) of a filter of `size` in an image of this shape."""
    return tuple(
        (n + sum(padding) - dilation * (k - 1) - 1) // stride + 1
        for n, k, padding, dilation, stride in zip(
            shape[2:], size, params["padding"], params["dilation"], params["stride"]
        )
    )  # type: ignore[return-value]


def _plan(specs, params) -> Plan | bool | None:
    x, weight = specs[:2]
    if _is_unsupported(specs, _CONV):
        return None
    if _copies(specs, params):
        return True
    (channels, depth, *size), count = weight.shape, len(specs)
    out_size = positions(x.shape, size, params)
    if m := _tile(specs, params):
        bias = Operand(2) if count > 2 else None
        return _winograd(
            m, x, weight, bias, channels, out_size, [top for top, _ in params["padding"]], params["groups"], count
        )
    groups, walk = params["groups"], _walk(size, out_size, params)
    filters = _in_order(channels // groups, depth, size)
    result = contiguous((x.shape[0], channels, *out_size), x.dtype, x.backend)
    spaces = int(_block(x, filters.rows, depth, walk) is not None)
    launches, space = _direct(
        x, groups, walk, filters, Operand(1), Operand(count), x=Operand(0), bias=Operand(2) if count > 2 else None,
        out=Operand(count + spaces),
    )  # fmt: skip
    return Plan(result, launches, (space,) * spaces)


class _Phase(NamedTuple):
    """Along one dimension, the positions of an image that meet the same taps of a filter that strides over it.

    Those are `taps` taps, `step` apart, the last one `last`; the convolution of the result's gradient with them, in
    reverse, has `before` zeros before that gradient and this `dilation`.
    """

    taps: int
    last: int
    step: int
    before: int
    dilation: int


def _phases(taps: int, stride: int, before: int, dilation: int) -> list[_Phase]:
    """The phases of positions 0, 1, …, stride - 1."""
    common = math.gcd(stride, dilation)
    step, apart = stride // common, dilation // common
    phases = []
    for phase in range(stride):
        first = next((k for k in range(min(taps, step)) if (phase + before - k * dilation) % stride == 0), taps)
        count = len(range(first, taps, step))
        start = (phase + before - first * dilation) // stride
        phases.append(_Phase(count, first + (count - 1) * step, step, (count - 1) * apart - start, apart))
    return phases


def _plan_input(specs, params) -> Plan | bool | None:
    """The gradient of the image: the result's gradient, convolved with filters that are turned, their channels swapped.

    Where the filter strides, it is computed phase by phase, as each meets other taps, and the phases are interleaved.
    """
    g, weight = specs
    if _is_unsupported(specs, _CONV, _TURNED, _INTERLEAVE):
        return None
    if _input_copies(specs, params):
        return True
    if m := _input_tile(specs, params):
        before = [2 - top for top, _ in params["padding"]]
        return _winograd(
            m, g, weight, None, weight.shape[1] * params["groups"], params["size"], before, params["groups"], 2, True
        )
    (channels, depth, *taps), groups, item = weight.shape, params["groups"], g.dtype.itemsize
    rows, stride, size = channels // groups, params["stride"], params["size"]
    phases = list(itertools.product(*(
        _phases(n, s, before, d) for n, s, (before, _), d in zip(taps, stride, params["padding"], params["dilation"])
    )))  # fmt: skip
    strided, result = stride != (1, 1), contiguous((g.shape[0], groups * depth, *size), g.dtype, g.backend)
    grid = tuple(-(-n // s) for n, s in zip(size, stride))
    planes, k = g.shape[0] * groups * depth, math.prod(taps)
    image, out = Operand(3), Operand(4 if strided else 3)
    launches: list[Launch] = []
    space = 0
    for number, (down, along) in enumerate(phases):
        meets_taps = down.taps * along.taps > 0
        if meets_taps:
            filters = _Filters(
                depth, rows, down.last * taps[1] + along.last, -down.step * taps[1], -along.step, rows * depth * k, k, depth * k
            )  # fmt: skip
            walk = _Walk(
                (down.taps, along.taps), grid, (1, 1), (down.before, along.before), (down.dilation, along.dilation)
            )  # fmt: skip
            steps, bytes = _direct(g, groups, walk, filters, Operand(1), Operand(2), x=Operand(0), bias=None, out=image)
            launches, space = [*launches, *steps], max(space, bytes)
        if strided:
            first, left = divmod(number, stride[1])
            launches.append(
                Launch(
                    _INTERLEAVE[g.dtype], planes, x=image if meets_taps else None, out=out, height=size[0], width=size[1],
                    high=grid[0], wide=grid[1], sh=stride[0], sw=stride[1], first=first, left=left,
                )
            )  # fmt: skip
    return Plan(result, launches, (max(space, 1), planes * math.prod(grid) * item)[: 1 + strided])


def _plan_weight(specs, params) -> Plan | bool | None:
    """The gradient of the weight, from partial sums over parts of the batch where there are too few filters for the threads."""
    x, g = specs
    if _is_unsupported(specs, _CONV_WEIGHT):
        return None
    if _weight_copies(specs, params):
        return True
    if m := _weight_tile(specs, params):
        return _winograd_weight(m, x, g, params)
    groups, size, out_size = params["groups"], params["size"], g.shape[2:]
    rows, depth, samples = g.shape[1] // groups, x.shape[1] // groups, x.shape[0]
    walk, spec = _walk(size, out_size, params), contiguous((g.shape[1], depth, *size), x.dtype, x.backend)
    if band := _band(x.dtype, depth, walk, _DEPTHWISE_WEIGHT):
        launch = Launch(
            _DEPTHWISE_WEIGHT[x.dtype], g.shape[1], x=Operand(0), g=Operand(1), out=Operand(2), samples=samples, groups=groups,
            rows=rows, band=band, **walk.arguments(x),
        )  # fmt: skip
        return Plan(spec, [launch])
    k, length = depth * math.prod(size), samples * math.prod(out_size)
    task_columns, tasks_per_chunk, chunks = _tasks(groups, k, rows * length, x.dtype)
    parts = 1 if chunks >= _MIN_CHUNKS else min(samples, -(-rows * k * groups * length // _CHUNK_WORK), _MIN_CHUNKS)
    parts = -(-samples // -(-samples // parts))
    total = rows * k * groups
    steps = regions("sum", x.dtype, 1, parts, total) if parts > 1 else []
    temporaries = (parts * total * x.dtype.itemsize, *spaces(steps, x.dtype)) if parts > 1 else ()
    launch = Launch(
        _CONV_WEIGHT[x.dtype], -(-parts * groups * -(-k // task_columns) // tasks_per_chunk), x=Operand(0),
        g=Operand(1), out=Operand(2),
        samples=samples, parts=parts, groups=groups, rows=rows, depth=depth,
        block=gemm_tables.steps(math.prod(out_size)),
        task_columns=task_columns, tasks_per_chunk=tasks_per_chunk, **walk.arguments(x),
    )  # fmt: skip
    sums = in_steps(steps, Operand(2), 3, Operand(2 + len(temporaries))) if steps else []
    if not all(sum_launch.kernel.ready() for sum_launch in sums):
        return None
    return Plan(spec, [launch, *sums], temporaries)


def _copies(specs, params) -> tuple[bool, ...] | None:
    return _copied(specs, specs[1].shape[1] >= _LEAST)


def _input_copies(specs, params) -> tuple[bool, ...] | None:
    return _copied(specs, specs[1].shape[0] // params["groups"] >= _LEAST)


def _weight_copies(specs, params) -> tuple[bool, ...] | None:
    return _copied(specs, _weight_tile(specs, params) > 0)


def _copied(specs, transposed: bool) -> tuple[bool, ...] | None:
    """Operands to copy. All must be contiguous, but an image that is not transposed may have any layout."""
    copies = tuple(not spec.aligned if i == 0 and not transposed else not spec.plain for i, spec in enumerate(specs))
    return copies if any(copies) else None


# -- Winograd's convolution ---------------------------------------------------------------------------------------------


def _tile(specs, params) -> int:
    """The side of the tiles that a convolution is computed by, or 0: directly."""
    x, weight = specs[:2]
    rows, depth, *taps = weight.shape
    if x.ndim != 4:
        return 0
    size = positions(x.shape, taps, params)
    m = _fitting(x, rows // params["groups"], depth, taps, size, min(*size, *x.shape[2:]) >= 6, params)
    return _if_ready(m, _FILTERS, _WINOGRAD)


def _input_tile(specs, params) -> int:
    g, weight = specs
    rows, depth, *taps = weight.shape
    if g.ndim != 4:
        return 0
    exact = min(*params["size"], *g.shape[2:]) >= 6
    m = _fitting(g, depth, rows // params["groups"], taps, params["size"], exact, params)
    return _if_ready(m, _FILTERS, _WINOGRAD)


def _weight_tile(specs, params) -> int:
    x, g = specs
    if x.ndim != 4:
        return 0
    size, groups = g.shape[2:], params["groups"]
    exact = math.prod(size) >= 192
    m = _fitting(x, g.shape[1] // groups, x.shape[1] // groups, params["size"], size, exact, params)
    return _if_ready(m, _IMAGE_TILES, _GRADIENT_TILES, _PRODUCTS, _FILTER_GRADIENT)


def _fitting(image: Spec, rows: int, depth: int, taps, size, exact: bool, params) -> int:
    """The side of tiles where fewer multiplications outweigh the transforms: of filters 3×3 that move by one.

    `exact`: sums are so long that the error of tiles of 4 is below three times that of direct convolution.
    """
    if _algorithm() == "direct" or image.dtype != float32 or tuple(taps) != (3, 3):
        return 0
    if params["stride"] != (1, 1) or params["dilation"] != (1, 1) or min(rows, depth) < 16:
        return 0

    def multiplications(m: int) -> int:
        return (m + 2) ** 2 * math.prod(-(-n // m) for n in size)

    m = 4 if exact and multiplications(4) < multiplications(2) else 2
    enough = image.shape[0] * math.prod(-(-n // m) for n in size) >= 16  # tiles that share the transform of filters
    return m if enough and multiplications(m) <= 6 * math.prod(size) else 0


def _if_ready(m: int, *kernels: dict[int, Kernel]) -> int:
    return m if m and all(variants[m].ready() for variants in kernels) else 0


def _winograd(
    m: int, image: Spec, weight: Spec, bias, channels: int, size, before, groups: int, count: int, turned: bool = False
):
    """The plan of a convolution of `channels` results; `turned`: the filters are turned, and their channels swapped."""
    dtype, n = image.dtype, image.shape[0]
    rows, depth, item = channels // groups, image.shape[1] // groups, image.dtype.itemsize
    row_bytes, depth_bytes = 9 * item, 9 * item
    if turned:
        depth_bytes *= rows
    else:
        row_bytes *= depth
    panels = -(-rows // conv_tile.columns(dtype))
    transform = Launch(
        _FILTERS[m], groups * panels * -(-depth // 16), weight=Operand(1), out=Operand(count), rows=rows, depth=depth,
        row_bytes=row_bytes, depth_bytes=depth_bytes, group_bytes=9 * rows * depth * item, turned=int(turned),
    )  # fmt: skip
    high, across, tasks = winograd.tasks(m, n, groups, rows, size[0], size[1], dtype)
    convolve = Launch(
        _WINOGRAD[m], tasks, x=Operand(0), filters=Operand(count), bias=bias, out=Operand(count + 1), activation=None, pre=None,
        other=None, samples=n, groups=groups, rows=rows, depth=depth, height=image.shape[2], width=image.shape[3], oh=size[0],
        ow=size[1], top=before[0], left=before[1], high=high, across=across,
    )  # fmt: skip
    result = contiguous((n, channels, *size), dtype, image.backend)
    return Plan(result, [transform, convolve], (winograd.filter_bytes(m, groups, rows, depth, dtype),))


def _cost(specs, params) -> float:
    x, weight = specs[:2]
    return 2 * x.shape[0] * math.prod(positions(x.shape, weight.shape[2:], params)) * weight.size


def _cost_input(specs, params) -> float:
    g, weight = specs[:2]
    return 2 * g.shape[0] * math.prod(g.shape[2:]) * weight.size


def _cost_weight(specs, params) -> float:
    x, g = specs[:2]
    return 2 * g.size * x.shape[1] // params["groups"] * math.prod(params["size"])


def _winograd_weight(m: int, x: Spec, g: Spec, params) -> Plan:
    """The gradient of filters: tiles of both are transformed in rounds, whose products are added, and transformed back."""
    dtype, groups, (n, channels, *size), out_size = x.dtype, params["groups"], x.shape, g.shape[2:]
    rows, depth = g.shape[1] // groups, channels // groups
    across, lines, parts = -(-out_size[1] // m), n * -(-out_size[0] // m), (m + 2) ** 2
    high = winograd.rounds(m, n, out_size[0], out_size[1], channels + g.shape[1], dtype)
    image_part, gradient_part = (winograd.part_bytes(high * across, count, dtype) for count in (channels, g.shape[1]))
    image_pitch, gradient_pitch = (winograd.tile_pitch(count, dtype) for count in (channels, g.shape[1]))
    panels = groups * -(-depth // conv_tile.columns(dtype))
    products = panels * parts * rows * conv_tile.columns(dtype) * dtype.itemsize
    temporaries = parts * image_part, parts * gradient_part, products
    positions = {"oh": out_size[0], "ow": out_size[1]}
    launches = []
    for first in range(0, lines, high):
        count = min(high, lines - first)
        (top, _), (left, _) = params["padding"]
        launches += [
            Launch(
                _IMAGE_TILES[m], count * winograd.chunks(channels), x=Operand(0), out=Operand(2), channels=channels, height=size[0],
                width=size[1], **positions, top=top, left=left, first=first, part=image_part, tile_pitch=image_pitch,
            ),
            Launch(
                _GRADIENT_TILES[m], count * winograd.chunks(g.shape[1]), x=Operand(1), out=Operand(3), channels=g.shape[1],
                height=out_size[0], width=out_size[1], **positions, top=0, left=0, first=first, part=gradient_part, tile_pitch=gradient_pitch,
            ),
            Launch(
                _PRODUCTS[m], panels * parts, image=Operand(2), gradient=Operand(3), out=Operand(4), groups=groups,
                rows=rows, depth=depth, tiles=count * across, image_part=image_part, image_pitch=image_pitch,
                gradient_part=gradient_part, gradient_pitch=gradient_pitch, add=first,
                run=winograd.run(lines * across),
            ),
        ]  # fmt: skip
    launches.append(
        Launch(_FILTER_GRADIENT[m], panels * -(-rows // 8), products=Operand(4), out=Operand(5), rows=rows, depth=depth)
    )
    return Plan(contiguous((g.shape[1], depth, 3, 3), dtype, x.backend), launches, temporaries)


def _algorithm() -> str:
    name = config.conv_algorithm
    if name not in ("auto", "direct"):
        raise ConfigError("unknown config.conv_algorithm", expected='"auto" or "direct"', received=repr(name))
    return name


def _key(params: dict) -> tuple:
    size = params.get("size")
    return params["stride"], params["padding"], params["dilation"], params["groups"], size, _algorithm()


for _lowering in (
    Lowering("conv", _plan, _key, copies=_copies, cost=_cost, epilogue=with_epilogue),
    Lowering("conv_input", _plan_input, _key, copies=_input_copies, cost=_cost_input, epilogue=with_epilogue),
    Lowering("conv_weight", _plan_weight, _key, copies=_weight_copies, cost=_cost_weight),
):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
