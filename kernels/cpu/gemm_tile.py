"""LLVM IR of the matrix product that no Python loop compiles to: register tiles, transposition, masked rows.

Each builder returns a numba function of integers: addresses, strides in bytes, counts. All are parametrised by element
type and vector lanes, so the same code serves AVX-512, AVX2 and NEON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Prefetch distance in a row, in bytes.
_ROW_AHEAD = 4096


class Shape:
    """LLVM types for vectors of `lanes` elements of `dtype` (float32, float64), and instructions on them."""

    def __init__(self, dtype: str, lanes: int):
        from llvmlite import ir

        self.ir = ir
        self.i64, self.i32, self.byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
        self.size = 4 if dtype == "float32" else 8
        self.element = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.lanes = lanes
        self.vector = ir.VectorType(self.element, lanes)
        self.suffix = f"v{lanes}f{8 * self.size}"

    def const(self, value: int):
        return self.ir.Constant(self.i64, value)

    def pointer(self, b, address):
        return b.inttoptr(address, self.byte.as_pointer())

    def at(self, b, base, offset, kind=None):
        """A pointer to a vector (or `kind`), `offset` bytes behind a byte pointer."""
        if isinstance(offset, int):
            offset = self.const(offset)
        return b.bitcast(b.gep(base, [offset]), (kind or self.vector).as_pointer())

    def load(self, b, base, offset, kind=None):
        value = b.load(self.at(b, base, offset, kind))
        value.align = 1 if kind is None or isinstance(kind, self.ir.VectorType) else self.size
        return value

    def store(self, b, value, base, offset):
        b.store(value, self.at(b, base, offset, value.type)).align = 1

    def function(self, b, name: str, result, *arguments):
        module = b.module
        return module.globals.get(name) or self.ir.Function(module, self.ir.FunctionType(result, arguments), name)

    def prefetch(self, b, base, offset, level: int = 3) -> None:
        """Prefetch the cache line at base + offset."""
        kinds = [self.byte.as_pointer(), self.i32, self.i32, self.i32]
        call = self.function(b, "llvm.prefetch.p0", self.ir.VoidType(), *kinds)
        pointer = b.gep(base, [self.const(offset) if isinstance(offset, int) else offset])
        b.call(call, [pointer, self.i32(0), self.i32(level), self.i32(1)])

    def fma(self, b):
        return self.function(b, f"llvm.fma.{self.suffix}", self.vector, *[self.vector] * 3)

    def spread(self, b, value):
        """The vector with `value` in every lane."""
        undefined = self.ir.Constant(self.vector, self.ir.Undefined)
        zeros = self.ir.Constant(self.ir.VectorType(self.i32, self.lanes), [0] * self.lanes)
        return b.shuffle_vector(b.insert_element(undefined, value, self.i32(0)), undefined, zeros)

    def shuffle(self, b, x, y, places):
        mask = self.ir.Constant(self.ir.VectorType(self.i32, len(places)), list(places))
        return b.shuffle_vector(x, y, mask)

    def mask(self, b, count, first: int):
        """The mask of the lanes first, first + 1, … that are below count."""
        ir = self.ir
        numbers = ir.Constant(ir.VectorType(self.i64, self.lanes), [first + i for i in range(self.lanes)])
        undefined = ir.Constant(numbers.type, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(self.i32, self.lanes), [0] * self.lanes)
        limit = b.shuffle_vector(b.insert_element(undefined, count, self.i32(0)), undefined, zeros)
        return b.icmp_signed("<", numbers, limit)

    def masked_load(self, b, base, offset, mask):
        pointer = self.at(b, base, offset)
        zero = self.ir.Constant(self.vector, [0.0] * self.lanes)
        load = self.function(
            b, f"llvm.masked.load.{self.suffix}.p0", self.vector, pointer.type, self.i32, mask.type, self.vector
        )
        return b.call(load, [pointer, self.i32(1), mask, zero])

    def masked_store(self, b, value, base, offset: int, mask):
        pointer = self.at(b, base, offset)
        void = self.ir.VoidType()
        store = self.function(
            b, f"llvm.masked.store.{self.suffix}.p0", void, self.vector, pointer.type, self.i32, mask.type
        )
        b.call(store, [value, pointer, self.i32(1), mask])


_HALVES = ("float16", "bfloat16")


def source_size(s: Shape, source: str) -> int:
    """Bytes of an element of memory of type `source`, which is float16 or bfloat16, or that of the vectors."""
    return 2 if source in _HALVES else s.size


def outlined(s: Shape, name: str, body: Callable) -> Callable:
    """body(builder, *integers) as a function that is not inlined: inside a kernel, not all of its loop's sums would be
    assigned registers.
    """

    def generate(context, b, *arguments):
        function = b.module.globals.get(name)
        if function is None:
            kind = s.ir.FunctionType(s.ir.VoidType(), [a.type for a in arguments])
            function = s.ir.Function(b.module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = s.ir.IRBuilder(function.append_basic_block())
            body(inside, *function.args)
            inside.ret_void()
        b.call(function, arguments)

    return generate


def tile(tools, s: Shape, height: int, width: int, panel: bool = False) -> Callable:
    """tile(a, ars, aks, b, bks, k, rows, source, lds, out, ldo, add, ahead, count, down): out = A·B, or source + A·B if add.

    A is height × k, element (i, p) at a + i·ars + p·aks; B is k × (width vectors), row p at b + p·bks. With fewer rows,
    the last one is recomputed in place of the missing ones. `ahead`: prefetch distance in B, in bytes. `count` tiles are
    stacked, their A `down` bytes apart. `panel`: all rows exist and A is packed, which saves a seventh of the
    instructions.
    """
    from llvmlite import ir

    line_bytes = width * s.lanes * s.size
    zero = ir.Constant(s.vector, [0.0] * s.lanes)
    unrolled = 4

    def body(b, a, ars, aks, start, bks, k, rows, source, lds, out, ldo, add, ahead, count, down):
        fma = s.fma(b)
        line = [s.const(i) for i in range(height)]
        if not panel:
            last = b.sub(rows, s.const(1))
            line[1:] = [b.select(b.icmp_signed("<", i, rows), i, last) for i in line[1:]]
        of_a, of_source, of_out = ([b.mul(i, stride) for i in line] for stride in (ars, lds, ldo))
        source_down, out_down = b.mul(lds, s.const(height)), b.mul(ldo, s.const(height))
        kinds = [s.i64, s.byte.as_pointer() if panel else s.i64, s.byte.as_pointer(), *[s.vector] * (height * width)]
        entry = b.block
        tiles, single, end, adds, stores, done = (
            b.append_basic_block(name) for name in ("tiles", "single", "end", "adds", "stores", "done")
        )
        b.branch(tiles)

        def merge(b, *predecessors):
            """Phi nodes of the state (step, A's pointer, B's pointer, sums)."""
            state = [b.phi(kind) for kind in kinds]
            for block, values in predecessors:
                for x, value in zip(state, values):
                    x.add_incoming(value, block)
            return state

        def steps(b, block, before, state, number, limit, after):
            """A loop up to the limit, unrolled by `number` steps; the state after it."""
            b.position_at_end(block)
            state = at_top = merge(b, (before, state))
            for u in range(number):
                p, at_a, at_b, *sums = state
                row = [s.load(b, at_b, v * s.lanes * s.size) for v in range(width)]
                for v in range(0, line_bytes, 64):
                    s.prefetch(b, at_b, b.add(ahead, s.const(v)))
                for i in range(height):
                    base, offset = (at_a, (u * height + i) * s.size) if panel else (pointers[i], at_a)
                    x = s.spread(b, s.load(b, base, offset, s.element))
                    for v in range(width):
                        sums[i * width + v] = b.call(fma, [x, row[v], sums[i * width + v]])
                if not panel:
                    at_a = b.add(at_a, aks)
                elif u == number - 1:
                    at_a = b.gep(at_a, [s.const(number * height * s.size)])
                state = [b.add(p, s.const(1)), at_a, b.gep(at_b, [bks]), *sums]
            for x, value in zip(at_top, state):
                x.add_incoming(value, block)
            b.cbranch(b.icmp_signed("<", state[0], limit), block, after)
            return state

        b.position_at_end(tiles)
        left, at_tile, at_source, at_out = (b.phi(s.i64) for _ in range(4))
        for x, value in zip((left, at_tile, at_source, at_out), (count, a, source, out)):
            x.add_incoming(value, entry)
        pointers = [s.pointer(b, b.add(at_tile, x)) for x in of_a]
        for x in of_source:  # prefetch the result, needed when the loop ends
            base = s.pointer(b, b.add(at_source, x))
            for v in (*range(0, line_bytes, 64), line_bytes - 1):
                s.prefetch(b, base, v)
        state = [s.const(0), pointers[0] if panel else s.const(0), s.pointer(b, start), *[zero] * (height * width)]
        if panel:
            loop, rest = b.append_basic_block("loop"), b.append_basic_block("rest")
            whole = b.and_(k, s.const(-unrolled))
            b.cbranch(b.icmp_signed(">", whole, s.const(0)), loop, rest)
            after = steps(b, loop, tiles, state, unrolled, whole, rest)
            b.position_at_end(rest)
            state = merge(b, (tiles, state), (loop, after))
            b.cbranch(b.icmp_signed("<", whole, k), single, end)
            after = steps(b, single, rest, state, 1, k, end)
            b.position_at_end(end)
            totals = merge(b, (rest, state), (single, after))[3:]
        else:
            b.branch(single)
            totals = steps(b, single, tiles, state, 1, k, end)[3:]
            b.position_at_end(end)
        b.cbranch(b.icmp_signed("!=", add, s.const(0)), adds, stores)
        b.position_at_end(adds)
        # All loads precede the stores, as recomputed rows are duplicates.
        sums_with_source = []
        for i, x in enumerate(of_source):
            base = s.pointer(b, b.add(at_source, x))
            for v in range(width):
                sums_with_source.append(b.fadd(s.load(b, base, v * s.lanes * s.size), totals[i * width + v]))
        b.branch(stores)
        b.position_at_end(stores)
        results = [b.phi(s.vector) for _ in totals]
        for x, total, sum in zip(results, totals, sums_with_source):
            x.add_incoming(total, end)
            x.add_incoming(sum, adds)
        for i, x in enumerate(of_out):
            base = s.pointer(b, b.add(at_out, x))
            for v in range(width):
                s.store(b, results[i * width + v], base, v * s.lanes * s.size)
        fewer = b.sub(left, s.const(1))
        left.add_incoming(fewer, stores)
        for x, step in ((at_tile, down), (at_source, source_down), (at_out, out_down)):
            x.add_incoming(b.add(x, step), stores)
        b.cbranch(b.icmp_signed(">", fewer, s.const(0)), tiles, done)
        b.position_at_end(done)

    name = f"tile_{height}x{width}" + ("_panel" if panel else "")
    return tools.intrinsic(None, "i" * 15, outlined(s, name, body))


def adder(tools, s: Shape, depth: int, source: str) -> Callable:
    """add(b, bks, a, aks, out, count): out[j] += a[0]·b[0, j], then a[1]·b[1, j] … for `depth` rows of B, fused.

    out has room for whole vectors; elements past `count` are undefined. B is memory of type `source`.
    """
    ratio = s.size // source_size(s, source)

    def generate(context, b, start, bks, a, aks, out, count):
        fma = s.fma(b)
        factors, rows = [], []
        for i in range(depth):
            pointer = s.pointer(b, b.add(a, b.mul(aks, s.const(i))))
            factors.append(s.spread(b, s.load(b, pointer, 0, s.element)))
            rows.append(s.pointer(b, b.add(start, b.mul(bks, s.const(i)))))
        to = s.pointer(b, out)
        width = s.lanes * s.size
        whole = b.mul(b.sdiv(count, s.const(s.lanes)), s.const(width))
        before = b.block
        loop, body, end = (b.append_basic_block(name) for name in ("loop", "body", "end"))
        b.branch(loop)
        b.position_at_end(loop)
        at = b.phi(s.i64)
        at.add_incoming(s.const(0), before)
        b.cbranch(b.icmp_signed("<", at, whole), body, end)
        b.position_at_end(body)
        total = s.load(b, to, at)
        for x, row in zip(factors, rows):
            total = b.call(fma, [x, _load_widened(s, b, row, b.sdiv(at, s.const(ratio)), source), total])
        s.store(b, total, to, at)
        at.add_incoming(b.add(at, s.const(width)), body)
        b.branch(loop)
        b.position_at_end(end)
        rest = s.mask(b, b.sub(count, b.sdiv(whole, s.const(s.size))), 0)
        with b.if_then(b.icmp_signed("<", b.sdiv(whole, s.const(s.size)), count)):
            total = s.load(b, to, whole)
            for x, row in zip(factors, rows):
                row_vector = _load_widened(s, b, row, b.sdiv(whole, s.const(ratio)), source, rest)
                total = b.call(fma, [x, row_vector, total])
            s.store(b, total, to, whole)

    return tools.intrinsic(None, "i" * 6, generate)


def dotter(tools, s: Shape, height: int, source: str = "") -> Callable:
    """dot(a, b, bjs, k, columns, out): out[j] = Σ a[p]·b[p, j], both contiguous along p, for j below `height`.

    Two vectors of sums over every other vector of p are added, then reduced by halves, as in a tree. With fewer columns,
    the last is recomputed. B is memory of type `source`.
    """
    from llvmlite import ir

    ratio = s.size // source_size(s, source)

    def generate(context, b, a, start, bjs, k, columns, out):
        fma = s.fma(b)
        last = b.sub(columns, s.const(1))
        lines = [b.select(b.icmp_signed("<", s.const(j), columns), s.const(j), last) for j in range(height)]
        rows = [s.pointer(b, b.add(start, b.mul(line, bjs))) for line in lines]
        x = s.pointer(b, a)
        width = s.lanes * s.size
        size = b.mul(k, s.const(s.size))
        whole = b.mul(b.sdiv(size, s.const(2 * width)), s.const(2 * width))
        zero = ir.Constant(s.vector, [0.0] * s.lanes)
        before = b.block
        loop, body, rest, end = (b.append_basic_block(name) for name in ("loop", "body", "rest", "end"))
        b.branch(loop)
        b.position_at_end(loop)
        at = b.phi(s.i64)
        at.add_incoming(s.const(0), before)
        sums = [[b.phi(s.vector) for _ in range(2)] for _ in rows]
        for total in (total for pair in sums for total in pair):
            total.add_incoming(zero, before)
        b.cbranch(b.icmp_signed("<", at, whole), body, rest)
        b.position_at_end(body)
        x_vectors = [s.load(b, x, b.add(at, s.const(v * width))) for v in range(2)]
        for pair, row in zip(sums, rows):
            s.prefetch(b, row, b.add(at, s.const(_ROW_AHEAD)))
            s.prefetch(b, row, b.add(at, s.const(_ROW_AHEAD + width)))
            for v, total in enumerate(pair):
                offset = b.sdiv(b.add(at, s.const(v * width)), s.const(ratio))
                row_vector = _load_widened(s, b, row, offset, source)
                total.add_incoming(b.call(fma, [x_vectors[v], row_vector, total]), body)
        at.add_incoming(b.add(at, s.const(2 * width)), body)
        b.branch(loop)
        b.position_at_end(rest)
        left = b.sdiv(b.sub(size, whole), s.const(s.size))
        masks = [s.mask(b, left, v * s.lanes) for v in range(2)]
        x_vectors = [s.masked_load(b, x, b.add(whole, s.const(v * width)), masks[v]) for v in range(2)]
        for j, (pair, row) in enumerate(zip(sums, rows)):
            total = None
            for v in range(2):
                offset = b.sdiv(b.add(whole, s.const(v * width)), s.const(ratio))
                row_vector = _load_widened(s, b, row, offset, source, masks[v])
                product = b.call(fma, [x_vectors[v], row_vector, pair[v]])
                total = product if total is None else b.fadd(total, product)
            lanes = s.lanes
            while lanes > 1:
                lanes //= 2
                total = b.fadd(
                    s.shuffle(b, total, total, range(lanes)), s.shuffle(b, total, total, range(lanes, 2 * lanes))
                )
            value = b.extract_element(total, s.i32(0))
            where = s.at(b, s.pointer(b, b.add(out, b.mul(lines[j], s.const(s.size)))), 0, s.element)
            b.store(value, where)
        b.branch(end)
        b.position_at_end(end)

    return tools.intrinsic(None, "i" * 6, generate)


def reducer(tools, s: Shape, count: int, name: str) -> Callable:
    """reduce(start): the "sum" or "max" of `count` vectors, a power of two, by halves; a maximum ignores NaN."""
    from numba import types

    def combined(b, x, y):
        return b.fadd(x, y) if name == "sum" else b.select(b.fcmp_ordered(">", x, y), x, y)

    def generate(context, b, start):
        base = s.pointer(b, start)
        vectors = [s.load(b, base, v * s.lanes * s.size) for v in range(count)]
        while len(vectors) > 1:
            half = len(vectors) // 2
            vectors = [combined(b, x, y) for x, y in zip(vectors[:half], vectors[half:])]
        (total,), lanes = vectors, s.lanes
        while lanes > 1:
            lanes //= 2
            total = combined(
                b, s.shuffle(b, total, total, range(lanes)), s.shuffle(b, total, total, range(lanes, 2 * lanes))
            )
        return b.extract_element(total, s.i32(0))

    return tools.intrinsic(types.float32 if s.size == 4 else types.float64, "i", generate)


def _load_widened(s: Shape, b, base, offset, source: str, mask=None):
    """Load a vector, or its lanes in `mask`, widened from float16 or bfloat16 if that is `source`."""
    from llvmlite import ir

    if source not in _HALVES:
        return s.load(b, base, offset) if mask is None else s.masked_load(b, base, offset, mask)
    words = ir.VectorType(ir.IntType(16), s.lanes)
    if mask is None:
        bits = s.load(b, base, offset, words)
    else:
        pointer, name = s.at(b, base, offset, words), f"llvm.masked.load.v{s.lanes}i16.p0"
        load = s.function(b, name, words, pointer.type, s.i32, mask.type, words)
        bits = b.call(load, [pointer, s.i32(1), mask, ir.Constant(words, [0] * s.lanes)])
    if source == "float16":
        return b.fpext(b.bitcast(bits, ir.VectorType(ir.HalfType(), s.lanes)), s.vector)
    wide = b.zext(bits, ir.VectorType(s.i32, s.lanes))
    return b.bitcast(b.shl(wide, ir.Constant(wide.type, [16] * s.lanes)), s.vector)


def transposer(tools, s: Shape, source: str) -> Callable:
    """transpose(from, stride, rows, to, width): row i of a square block becomes column i.

    Rows are `stride` bytes apart in memory of type `source`, columns' elements `width` bytes. With fewer rows, the last
    replaces the missing ones.
    """

    def generate(context, b, start, stride, rows, to, width):
        last = b.sub(rows, s.const(1))
        lines = []
        for i in range(s.lanes):
            line = b.select(b.icmp_signed("<", s.const(i), rows), s.const(i), last)
            row = s.pointer(b, b.add(start, b.mul(line, stride)))
            lines.append(_load_widened(s, b, row, 0, source))
            s.prefetch(b, row, _ROW_AHEAD, 2)
        for i, column in enumerate(_transpose(s, b, lines)):
            s.store(b, column, s.pointer(b, b.add(to, b.mul(s.const(i), width))), 0)

    return tools.intrinsic(None, "iiiii", generate)


def _transpose(s: Shape, b, lines: list) -> list:
    """Transpose within 16-byte groups first, then whole groups, as processors shuffle."""
    n, group = s.lanes, 16 // s.size

    def interleave(x, y, unit, high):
        """The low or high halves of the groups of both, alternating by `unit` elements."""
        places = []
        for g in range(0, n, group):
            for u in range(0, group // 2, unit):
                at = g + (group // 2 if high else 0) + u
                places += [*range(at, at + unit), *range(n + at, n + at + unit)]
        return s.shuffle(b, x, y, places)

    for start in range(0, n, group):
        group_lines = lines[start : start + group]
        if group == 4:
            x, y, z, w = group_lines
            low, high = interleave(x, y, 1, False), interleave(x, y, 1, True)
            low2, high2 = interleave(z, w, 1, False), interleave(z, w, 1, True)
            group_lines = [interleave(p, q, 2, h) for p, q in ((low, low2), (high, high2)) for h in (False, True)]
        else:
            x, y = group_lines
            group_lines = [interleave(x, y, 1, False), interleave(x, y, 1, True)]
        lines[start : start + group] = group_lines
    # lines[r][group c] holds, of block column c, column r % group, rows of block row r // group.
    blocks = n // group
    columns: list[Any] = [None] * n
    for r in range(group):
        for c, column in enumerate(_gather_groups(s, b, [lines[q * group + r] for q in range(blocks)], group)):
            columns[c * group + r] = column
    return columns


def _gather_groups(s: Shape, b, lines: list, group: int) -> list:
    """For each c, the c-th groups of all vectors, which have as many groups as there are vectors."""
    count, n = len(lines), s.lanes
    if count == 1:
        return lines
    even = [g * group + i for g in range(0, 2 * count, 2) for i in range(group)]
    odd = [p + group for p in even]
    halves = []
    for places in (even, odd):
        halves.append([s.shuffle(b, x, y, places) for x, y in zip(lines[::2], lines[1::2])])
    if count == 2:
        return [halves[0][0], halves[1][0]]
    # Every vector now holds two rows' even (odd) groups: 0 2 | 0 2, and again gives 0 | 0 | 0 | 0.
    result: list[Any] = [None] * count
    for parity, (x, y) in enumerate(halves):
        result[parity] = s.shuffle(b, x, y, even)
        result[parity + 2] = s.shuffle(b, x, y, odd)
    assert n == count * group
    return result


def narrower(tools, s: Shape, target: str) -> Callable:
    """narrow(from, to): one vector of float32 rounded to the nearest float16 or bfloat16, ties to even."""
    from llvmlite import ir

    def generate(context, b, start, to):
        x, to = s.load(b, s.pointer(b, start), 0), s.pointer(b, to)
        if target == "float16":
            s.store(b, b.fptrunc(x, ir.VectorType(ir.HalfType(), s.lanes)), to, 0)
            return
        words = ir.VectorType(s.i32, s.lanes)

        def constant(value):
            return ir.Constant(words, [value] * s.lanes)

        bits = b.bitcast(x, words)
        odd = b.and_(b.lshr(bits, constant(16)), constant(1))
        rounded = b.lshr(b.add(bits, b.add(odd, constant(0x7FFF))), constant(16))
        quiet = b.or_(b.lshr(bits, constant(16)), constant(0x40))
        result = b.select(b.fcmp_unordered("uno", x, x), quiet, rounded)
        s.store(b, b.trunc(result, ir.VectorType(ir.IntType(16), s.lanes)), to, 0)

    return tools.intrinsic(None, "ii", generate)


def mover(tools, s: Shape, width: float, source: str = "") -> Callable:
    """move(from, to): copy `width` vectors, the last maybe partial, widened from memory of type `source`."""

    def generate(context, b, start, to):
        start, to = s.pointer(b, start), s.pointer(b, to)
        step = source_size(s, source)
        at, left, part = 0, round(width * s.lanes), s
        while left:
            while part.lanes > left:
                part = Shape("float32" if s.size == 4 else "float64", part.lanes // 2)
            s.store(b, _load_widened(part, b, start, at * step, source), to, at * s.size)
            at, left = at + part.lanes, left - part.lanes

    return tools.intrinsic(None, "ii", generate)


def masked_mover(tools, s: Shape, width: int, source: str = "") -> Callable:
    """move(from, to, count): copy the first `count` elements of `width` vectors, widened from memory of type `source`."""
    step = source_size(s, source)

    def generate(context, b, start, to, count):
        start, to = s.pointer(b, start), s.pointer(b, to)
        for v in range(width):
            mask = s.mask(b, count, v * s.lanes)
            value = _load_widened(s, b, start, v * s.lanes * step, source, mask)
            s.masked_store(b, value, to, v * s.lanes * s.size, mask)

    return tools.intrinsic(None, "iii", generate)


def space(tools, count: int) -> Callable:
    """A function `()` -> address of `count` bytes on the stack, 64-byte aligned. Each call site has its own memory."""
    from llvmlite import ir
    from numba import types

    def generate(context, b):
        with b.goto_entry_block():
            memory = b.alloca(ir.IntType(8), size=count)
        memory.align = 64
        return b.ptrtoint(memory, ir.IntType(64))

    return tools.intrinsic(types.int64, "", generate)
