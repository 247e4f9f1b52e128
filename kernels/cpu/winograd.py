"""Winograd's convolution F(m×m, 3×3), m = 2 or 4: (m + 2)² multiplications for m×m results, where a sum takes 9 m².

result = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A for each patch x of an image, m + 2 wide, summed over the channels before A (Winograd,
1980; Lavin and Gray, 2016). The sums are matrix products, of patches × channels and channels × filters, one for each of
the (m + 2)² multiplications. The points of m = 4 are 0, ±2/3, ±3/2, ∞, whose error is half that of the usual ±1, ±2;
short sums keep it below three times that of direct convolution. Bits depend on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepcore.kernels.codegen.kernel import Address, Code, Size, Type, args
from deepcore.kernels.cpu import conv_direct, conv_tile, gemm, gemm_tables, gemm_tile

#: Channels of a sum, before it is added to the sums of others.
_SUM = 16
#: Filters of a task.
_FILTERS = 64
#: Bytes between two parts of a buffer beyond what they need, so that they map to different sets of a cache.
_APART = 64
# The points ±_A and ±_B, whose product is 1, and the factors of a filter at each.
_A, _B = 2 / 3, 3 / 2
_LOW, _HIGH = 1 / (2 * _A**2 * (_A**2 - _B**2)), 1 / (2 * _B**2 * (_B**2 - _A**2))


class _LinesOfFour:
    """Vectors of a builder, and what the transforms of m = 4 do with them along one dimension."""

    def __init__(self, s: gemm_tile.Shape, b):
        self.s, self.b, self.fma = s, b, s.fma(b)

    def times(self, factor: float, x, addend=None):
        """factor · x, or factor · x + addend rounded once."""
        ir = self.s.ir
        constant = ir.Constant(self.s.vector, [factor] * self.s.lanes)
        return self.b.fmul(x, constant) if addend is None else self.b.call(self.fma, [x, constant, addend])

    def pair(self, even, factor: float, odd) -> list:
        """The two results for points of opposite sign."""
        return [self.times(factor, odd, even), self.times(-factor, odd, even)]

    def image(self, d: list) -> list:
        """Bᵀd."""
        add, times = self.b.fadd, self.times
        low_square, high_square = _A**2, _B**2
        both = -low_square - high_square
        first, last = times(both, d[2], add(d[0], d[4])), times(both, d[3], add(d[1], d[5]))
        low = self.pair(times(-high_square, d[2], d[4]), _A, times(-high_square, d[1], d[3]))
        high = self.pair(times(-low_square, d[2], d[4]), _B, times(-low_square, d[1], d[3]))
        return [first, *low, *high, last]

    def filter(self, g: list) -> list:
        """Gg."""
        times = self.times
        low = self.pair(times(_LOW * _A**2, g[2], times(_LOW, g[0])), _LOW * _A, g[1])
        high = self.pair(times(_HIGH * _B**2, g[2], times(_HIGH, g[0])), _HIGH * _B, g[1])
        return [g[0], *low, *high, g[2]]

    def result(self, m: list) -> list:
        """Aᵀm."""
        b, times = self.b, self.times
        low, low_odd, high, high_odd = b.fadd(m[1], m[2]), b.fsub(m[1], m[2]), b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
        return [
            b.fadd(m[0], b.fadd(low, high)),
            times(_A, low_odd, times(_B, high_odd)),
            times(_A**2, low, times(_B**2, high)),
            b.fadd(m[5], times(_A**3, low_odd, times(_B**3, high_odd))),
        ]

    def result_gradient(self, g: list) -> list:
        """Ag, the transpose of `result`."""
        times = self.times
        low = self.pair(times(_A**2, g[2], g[0]), _A, times(_A**2, g[3], g[1]))
        high = self.pair(times(_B**2, g[2], g[0]), _B, times(_B**2, g[3], g[1]))
        return [g[0], *low, *high, g[3]]

    def filter_gradient(self, u: list) -> list:
        """Gᵀu, the transpose of `filter`."""
        b, times = self.b, self.times
        low, low_odd, high, high_odd = b.fadd(u[1], u[2]), b.fsub(u[1], u[2]), b.fadd(u[3], u[4]), b.fsub(u[3], u[4])
        return [
            times(_LOW, low, times(_HIGH, high, u[0])),
            times(_LOW * _A, low_odd, times(_HIGH * _B, high_odd)),
            times(_LOW * _A**2, low, times(_HIGH * _B**2, high, u[5])),
        ]


class _LinesOfTwo(_LinesOfFour):
    """The same for m = 2, with points 0, ±1 and ∞."""

    def image(self, d: list) -> list:
        b = self.b
        return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]

    def filter(self, g: list) -> list:
        ends = self.times(0.5, self.b.fadd(g[0], g[2]))
        return [g[0], *self.pair(ends, 0.5, g[1]), g[2]]

    def result(self, m: list) -> list:
        b = self.b
        return [b.fadd(m[0], b.fadd(m[1], m[2])), b.fsub(b.fsub(m[1], m[2]), m[3])]

    def result_gradient(self, g: list) -> list:
        return [g[0], self.b.fadd(g[0], g[1]), self.b.fsub(g[0], g[1]), self.times(-1.0, g[1])]

    def filter_gradient(self, u: list) -> list:
        b = self.b
        both = b.fadd(u[1], u[2])
        return [self.times(0.5, both, u[0]), self.times(0.5, b.fsub(u[1], u[2])), self.times(0.5, both, u[3])]


_LINES = {2: _LinesOfTwo, 4: _LinesOfFour}


def _sides(name: str, m: int) -> tuple[int, int]:
    """The sides of the blocks that a transform reads and writes."""
    return {
        "image": (m + 2, m + 2), "filter": (3, m + 2), "result": (m + 2, m), "result_gradient": (m, m + 2),
        "filter_gradient": (m + 2, 3),
    }[name]  # fmt: skip


def _transform(tools, s: gemm_tile.Shape, name: str, m: int) -> Callable:
    """transform(from, row, column, to, to_row, to_column): a transform along both dimensions of a block of vectors."""
    before, after = _sides(name, m)

    def body(b, start, row, column, to, to_row, to_column):
        apply = getattr(_LINES[m](s, b), name)
        rows = [b.add(start, b.mul(row, s.const(i))) for i in range(before)]
        columns = []
        for j in range(before):
            offset = b.mul(column, s.const(j))
            columns.append(apply([s.load(b, s.pointer(b, b.add(at, offset)), 0) for at in rows]))
        for i in range(after):
            at = b.add(to, b.mul(to_row, s.const(i)))
            for j, value in enumerate(apply([line[i] for line in columns])):
                s.store(b, value, s.pointer(b, b.add(at, b.mul(to_column, s.const(j)))), 0)

    return tools.intrinsic(None, "i" * 6, gemm_tile.outlined(s, f"winograd_{name}_{m}", body))


def block_tiles(m: int) -> int:
    """The most tiles of a task: whole heights of the register tile, in buffers of a second cache's size."""
    return (36 if gemm_tables.own().bytes == 64 else 24) * (2 if m == 2 else 1)


def task_panels(dtype) -> int:
    return max(1, _FILTERS // conv_tile.columns(dtype))


def filter_bytes(m: int, groups: int, rows: int, depth: int, dtype) -> int:
    """The size of transformed filters."""
    width = conv_tile.columns(dtype)
    return groups * -(-rows // width) * width * (m + 2) ** 2 * depth * np.dtype(dtype).itemsize


@args(
    weight=Address, out=Address, rows=Size, depth=Size, row_bytes=Size, depth_bytes=Size, group_bytes=Size, turned=Size
)
def filters(tools, m: int, dtype: str):
    """G w Gᵀ as panels (groups, panels, (m + 2)², depth, columns), 16 of the depth a chunk; `turned`: of filters that are turned.

    Filters are `row_bytes` apart, their channels `depth_bytes`.
    """
    shape, size = gemm_tables.own(), np.dtype(dtype).itemsize
    lanes = shape.bytes // size
    s = gemm_tile.Shape(dtype, lanes)
    pack, _ = gemm.packer(tools, dtype, dtype, shape)
    transform, width, side = _transform(tools, s, "filter", m), shape.across * lanes, m + 2
    view, zero = tools.view(np.dtype(dtype)), np.dtype(dtype).type(0)
    pitch = width * size
    taps_space = gemm_tile.space(tools, 9 * 16 * pitch)

    def kernel(weight, out, rows, depth, row_bytes, depth_bytes, group_bytes, turned, chunk):
        across = -(-depth // 16)
        part = chunk // across
        c0 = (chunk - part * across) * 16
        panels = -(-rows // width)
        group = part // panels
        first = (part - group * panels) * width
        count, filters = min(16, depth - c0), min(width, rows - first)
        start, taps = weight + group * group_bytes + first * row_bytes + c0 * depth_bytes, taps_space()
        if filters < width:  # what a stack happens to hold makes arithmetic slow where it is subnormal
            unused = view(taps)
            for i in range(9 * count * width):
                unused[i] = zero
        if depth_bytes == 9 * size:
            pack(start, size, row_bytes, 9 * count, filters, taps, pitch)
        else:
            for c in range(count):
                pack(start + c * depth_bytes, size, row_bytes, 9, filters, taps + 9 * c * pitch, pitch)
        for c in range(count):
            at, row, column = taps + 9 * c * pitch, 3 * pitch, pitch
            if turned:
                at, row, column = at + 8 * pitch, -3 * pitch, -pitch
            to = out + (part * side * side * depth + c0 + c) * pitch
            for v in range(0, pitch, lanes * size):
                transform(at + v, row, column, to + v, side * depth * pitch, depth * pitch)
        return 0

    return kernel


def _pitch(m: int) -> int:
    """Bytes of a row of vectors: the columns that a task's tiles are computed from."""
    return (m * block_tiles(m) + 2) * gemm_tables.own().bytes


_GEOMETRY: dict[str, Type] = dict.fromkeys(
    ("samples", "groups", "rows", "depth", "height", "width", "oh", "ow", "top", "left", "high", "across"), Size
)
_CONVOLVE: dict[str, Type] = {
    "x": Address, "filters": Address, "bias": Address, "out": Address, "activation": Code, "pre": Address, "other": Address,
    **_GEOMETRY,
}  # fmt: skip


def tasks(m: int, samples: int, groups: int, rows: int, oh: int, ow: int, dtype) -> tuple[int, int, int]:
    """(rows of tiles, tiles across, tasks): what a task computes, for `task_panels` panels of filters."""
    tall, wide = -(-oh // m), -(-ow // m)
    across = min(wide, block_tiles(m))
    high = max(1, block_tiles(m) // across) if across == wide else 1
    count = -(-samples * tall // high) * -(-wide // across)
    return high, across, groups * -(-rows // (task_panels(dtype) * conv_tile.columns(dtype))) * count


@args(**_CONVOLVE)
def convolve(tools, m: int, dtype: str):
    """activation(filters ∗ x + bias), a task a chunk: `high` rows of tiles, `across` tiles each, of some panels of filters.

    `x` is contiguous, (samples, groups · depth, height, width); `filters` as the kernel `filters` has made them.
    """
    dt, shape = np.dtype(dtype), gemm_tables.own()
    size, vector = dt.itemsize, shape.bytes
    lanes, most, side = vector // size, block_tiles(m), m + 2
    s = gemm_tile.Shape(dtype, lanes)
    panel, multiply = conv_tile.columns(dtype), conv_tile.multiplier(tools, dtype)
    fill, finish = conv_tile.filler(tools, dtype), conv_direct.finisher(tools, dtype)
    from_image, to_result = _transform(tools, s, "image", m), _transform(tools, s, "result", m)
    pitch, most_panels, panel_bytes = _pitch(m), task_panels(dtype), panel * size
    patch_pitch = conv_tile.DEPTH * size
    patch_part, sum_pitch = most * patch_pitch + _APART, most_panels * panel_bytes
    sum_part, row_pitch = most * sum_pitch + _APART, m * most * vector
    strip_space = gemm_tile.space(tools, max(side * pitch, m * row_pitch))
    patches_space = gemm_tile.space(tools, side * side * patch_part)
    sums_space = gemm_tile.space(tools, side * side * sum_part)
    write = conv_tile.writer(tools, dtype, m * m * most)

    def kernel(
        x, filters, bias, out, activation, pre, other, samples, groups, rows, depth, height, width, oh, ow, top, left, high,
        across, chunk,
    ):  # fmt: skip
        tall, wide, panels = -(-oh // m), -(-ow // m), -(-rows // panel)
        segments, strips = -(-wide // across), -(-samples * tall // high)
        block = chunk // (segments * strips)
        strip, segment = (chunk - block * segments * strips) // segments, chunk % segments
        blocks = -(-panels // most_panels)
        group, first_panel = block // blocks, block % blocks * most_panels
        count = min(most_panels, panels - first_panel)
        first, last = strip * high, min(samples * tall, (strip + 1) * high)
        first_tile = segment * across
        length = min(across, wide - first_tile)
        patches, sums, lines = patches_space(), sums_space(), strip_space()
        plane, positions = height * width * size, oh * ow
        total = (last - first) * length
        for c0 in range(0, depth, conv_tile.DEPTH):
            steps, tile = min(conv_tile.DEPTH, depth - c0), 0
            for q in range(first, last):
                sample = q // tall
                y = (q - sample * tall) * m - top
                for c in range(0, steps, lanes):
                    fill(
                        x + ((sample * groups + group) * depth + c0 + c) * plane, plane, min(lanes, steps - c), height, width,
                        y, first_tile * m - left, length * m + 2, side, lines, pitch, vector,
                    )  # fmt: skip
                    for t in range(length):
                        from_image(
                            lines + t * m * vector, pitch, vector, patches + (tile + t) * patch_pitch + c * size,
                            side * patch_part, patch_part,
                        )  # fmt: skip
                tile += length
            for p in range(side * side):
                for j in range(count):
                    at = filters + (((group * panels + first_panel + j) * side * side + p) * depth + c0) * panel_bytes
                    multiply(
                        patches + p * patch_part, patch_pitch, size, at, panel_bytes, steps, total,
                        sums + p * sum_part + j * panel_bytes, sum_pitch, c0, _SUM,
                    )  # fmt: skip
        channels, tile = min(count * panel, rows - first_panel * panel), 0
        for q in range(first, last):
            sample = q // tall
            y = (q - sample * tall) * m
            number, column = min(m, oh - y), first_tile * m
            valid = min(length * m, ow - column)
            for c in range(0, channels, lanes):
                for t in range(length):
                    to_result(
                        sums + (tile + t) * sum_pitch + c * size, side * sum_part, sum_part, lines + t * m * vector,
                        length * m * vector, vector,
                    )  # fmt: skip
                kinds = min(lanes, channels - c)
                channel = (sample * groups + group) * rows + first_panel * panel + c
                to = out + (channel * positions + y * ow + column) * size
                if valid == ow and valid == length * m:
                    write(lines, vector, kinds, number * valid, to, positions * size)
                else:
                    for i in range(number):
                        write(
                            lines + i * length * m * vector, vector, kinds, valid, to + i * ow * size, positions * size
                        )
            tile += length
            channel = group * rows + first_panel * panel
            at = ((sample * groups * rows + channel) * positions + y * ow + column) * size
            runs, run = (1, number * valid) if valid == ow else (number, valid)
            for i in range(runs):
                finish(out, at + i * ow * size, channel, channels, positions, run, bias, activation, pre, other)
        return 0

    return kernel


# -- the gradient of filters --------------------------------------------------------------------------------------------

#: Bytes of transformed tiles at a time; tiles of a sum's block; channels of a chunk that transforms.
_ROUND_BYTES, _BLOCK, _CHUNK_CHANNELS = 12 << 20, 128, 64


def tile_pitch(channels: int, dtype) -> int:
    """Bytes between two transformed tiles of so many channels."""
    vector = gemm_tables.own().bytes
    return -(-channels * np.dtype(dtype).itemsize // vector) * vector + _APART


def part_bytes(tiles: int, channels: int, dtype) -> int:
    """Bytes of one of the (m + 2)² parts of transformed tiles: beyond them, a panel that starts in the last tile is read."""
    return tiles * tile_pitch(channels, dtype) + conv_tile.columns(dtype) * np.dtype(dtype).itemsize + _APART


def rounds(m: int, samples: int, oh: int, ow: int, channels: int, dtype) -> int:
    """Rows of tiles that are transformed before their products are added; `channels`: of image and result together."""
    row = (m + 2) ** 2 * -(-ow // m) * tile_pitch(channels, dtype)
    return max(1, min(samples * -(-oh // m), _ROUND_BYTES // row))


def run(tiles: int) -> int:
    """Tiles of a sum: about as many as there are sums."""
    return min(_BLOCK, max(1, round(tiles**0.5 / 16)) * 16)


def chunks(channels: int) -> int:
    """Chunks of a row of tiles that is transformed."""
    return -(-channels // _CHUNK_CHANNELS)


_TILES: dict[str, Type] = {
    "x": Address, "out": Address,
    **dict.fromkeys(("channels", "height", "width", "oh", "ow", "top", "left", "first", "part", "tile_pitch"), Size),
}  # fmt: skip


@args(**_TILES)
def tile_rows(tools, name: str, m: int, dtype: str):
    """The transform `name` of rows of tiles from `first`, as ((m + 2)², tiles, channels): a row and 64 channels a chunk.

    `name`: "image", whose patches are those of results (oh, ow), or "result_gradient", an image of that size.
    """
    shape, size = gemm_tables.own(), np.dtype(dtype).itemsize
    vector, s = shape.bytes, gemm_tile.Shape(dtype, shape.bytes // size)
    lanes, pitch, most, high, side = s.lanes, _pitch(m), block_tiles(m), _sides(name, m)[0], m + 2
    fill, transform = conv_tile.filler(tools, dtype), _transform(tools, s, name, m)
    strip_space = gemm_tile.space(tools, side * pitch)

    def kernel(x, out, channels, height, width, oh, ow, top, left, first, part, tile_pitch, chunk):
        blocks = -(-channels // _CHUNK_CHANNELS)
        line = chunk // blocks
        start = (chunk - line * blocks) * _CHUNK_CHANNELS
        tall, wide, q = -(-oh // m), -(-ow // m), first + line
        sample = q // tall
        y, lines, plane = (q - sample * tall) * m - top, strip_space(), height * width * size
        for t0 in range(0, wide, most):
            length = min(most, wide - t0)
            for c in range(start, min(channels, start + _CHUNK_CHANNELS), lanes):
                fill(
                    x + (sample * channels + c) * plane, plane, min(lanes, channels - c), height, width, y,
                    t0 * m - left, length * m + high - m, high, lines, pitch, vector,
                )  # fmt: skip
                for t in range(length):
                    transform(
                        lines + t * m * vector, pitch, vector, out + (line * wide + t0 + t) * tile_pitch + c * size,
                        side * part, part,
                    )  # fmt: skip
        return 0

    return kernel


_TILE_PRODUCTS: dict[str, Type] = {
    "image": Address, "gradient": Address, "out": Address,
    **dict.fromkeys((
        "groups", "rows", "depth", "tiles", "image_part", "image_pitch", "gradient_part", "gradient_pitch", "add", "run"
    ), Size),
}  # fmt: skip


@args(**_TILE_PRODUCTS)
def tile_products(tools, m: int, dtype: str):
    """out = Σ gradient ⊗ image over tiles, or added to it, as panels (groups, panels, (m + 2)², rows, columns): a part a chunk.

    `run`: tiles of a sum; bytes of a part, and between two tiles of it, by `part_bytes` and `tile_pitch`.
    """
    size = np.dtype(dtype).itemsize
    width, multiply, parts = conv_tile.columns(dtype), conv_tile.multiplier(tools, dtype), (m + 2) ** 2

    def kernel(
        image, gradient, out, groups, rows, depth, tiles, image_part, image_pitch, gradient_part, gradient_pitch, add, run, chunk
    ):  # fmt: skip
        panels = -(-depth // width)
        block = chunk // parts
        p, group = chunk - block * parts, block // panels
        a = gradient + p * gradient_part + group * rows * size
        b = image + p * image_part + (group * depth + (block - group * panels) * width) * size
        for t in range(0, tiles, _BLOCK):
            multiply(
                a + t * gradient_pitch, size, gradient_pitch, b + t * image_pitch, image_pitch, min(_BLOCK, tiles - t), rows,
                out + chunk * rows * width * size, width * size, add + t, run,
            )  # fmt: skip
        return 0

    return kernel


@args(products=Address, out=Address, rows=Size, depth=Size)
def filter_gradient(tools, m: int, dtype: str):
    """Gᵀ products G as filters (groups · rows, depth, 3, 3): 8 rows of a panel a chunk."""
    shape, dt = gemm_tables.own(), np.dtype(dtype)
    size, vector, width = dt.itemsize, shape.bytes, conv_tile.columns(dtype)
    lanes, side = vector // size, m + 2
    transform = _transform(tools, gemm_tile.Shape(dtype, lanes), "filter_gradient", m)
    view, taps_space = tools.view(dt), gemm_tile.space(tools, 9 * vector)

    def kernel(products, out, rows, depth, chunk):
        high, panels, taps = -(-rows // 8), -(-depth // width), taps_space()
        part = chunk // high
        group = part // panels
        first, row_pitch = (part - group * panels) * width, width * size
        source = view(taps)
        for k in range((chunk - part * high) * 8, min(rows, (chunk - part * high + 1) * 8)):
            for c in range(0, min(width, depth - first), lanes):
                at = products + (part * side * side * rows + k) * row_pitch + c * size
                transform(at, side * rows * row_pitch, rows * row_pitch, taps, 3 * vector, vector)
                result = view(out + ((group * rows + k) * depth + first + c) * 9 * size)
                for j in range(min(lanes, depth - first - c)):
                    for tap in range(9):
                        result[j * 9 + tap] = source[tap * lanes + j]
        return 0

    return kernel
