"""A CUDA device in NumPy: runs the PTX of a kernel over every thread of a grid at once, and checks what it does.

It supports the instructions that LLVM's PTX generator emits for deepcore's kernels; another one is an error. Threads at
the same basic block run together. Errors, as under a GPU's checking tools: an access outside the live
allocations or not aligned, two threads of a block that access one word of shared memory between two barriers (one of
them writing), two threads that write one word of global memory, a barrier that not all threads of a block reach,
and a shuffle without all lanes of its warp.
"""

from __future__ import annotations

import bisect
import ctypes
import re

import numpy as np

WARP = 32
MAX_THREADS, MAX_BLOCKS, MAX_SHARED = 1024, 2**31 - 1, 48 << 10
_THREADS_PER_RUN = 1 << 15
_SHARED_WINDOW, _LOCAL_WINDOW = 1 << 61, 1 << 62
_BITS = {"b8": 8, "b16": 16, "b32": 32, "b64": 64, "pred": 1, "f32": 32, "f64": 64}
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


class PtxError(Exception):
    """An error of a kernel, or an unsupported instruction."""


def _numpy_type(name):
    if name == "pred":
        return np.dtype(bool)
    kind, bits = name[0], int(name[1:])
    return np.dtype({"f": f"f{bits // 8}", "s": f"i{bits // 8}"}.get(kind, f"u{bits // 8}"))


class Memory:
    """The live allocations, which loads and stores may access."""

    def __init__(self):
        self._starts: list[int] = []
        self._entries: dict[int, list] = {}  # start: [end, bytes, reference count]

    def add(self, array):
        """Register the contiguous memory of an array; returns the address for `remove`."""
        start, end = np.lib.array_utils.byte_bounds(array)
        entry = self._entries.get(start)
        if entry is None:
            bisect.insort(self._starts, start)
            entry = self._entries[start] = [0, None, 0]
        if end > entry[0]:
            entry[:2] = end, np.frombuffer((ctypes.c_uint8 * (end - start)).from_address(start), np.uint8)
        entry[2] += 1
        return start

    def remove(self, start, _place=bisect.bisect_left):  # bound here because module globals go first at exit
        entry = self._entries[start]
        entry[2] -= 1
        if not entry[2]:
            del self._entries[start], self._starts[_place(self._starts, start)]

    def find(self, address):
        """(start, end, bytes) of the allocation that contains the address, or None."""
        i = bisect.bisect_right(self._starts, address) - 1
        if i >= 0:
            start = self._starts[i]
            end, raw, _ = self._entries[start]
            if address < end:
                return start, end, raw
        return None

    def view(self, addresses, dtype):
        """[(selection of the addresses, their allocation as an array of dtype, indices into it, its start)]."""
        low, high = int(addresses.min()), int(addresses.max())
        allocation = self.find(low)
        if allocation is None:
            raise PtxError(f"address {low:#x} is in no allocation")
        if high + dtype.itemsize <= allocation[1]:
            return [(slice(None), *self._inside(allocation, addresses, dtype), allocation[0])]
        parts, remaining = [], np.ones(addresses.size, bool)
        while remaining.any():
            allocation = self.find(int(addresses[remaining].min()))
            if allocation is None:
                raise PtxError(f"address {int(addresses[remaining].min()):#x} is in no allocation")
            inside = remaining & (addresses < allocation[1])
            if int(addresses[inside].max()) + dtype.itemsize > allocation[1]:
                raise PtxError("an access runs over the end of an allocation")
            parts.append((inside, *self._inside(allocation, addresses[inside], dtype), allocation[0]))
            remaining &= ~inside
        return parts

    def _inside(self, allocation, addresses, dtype):
        if (addresses % np.uint64(dtype.itemsize)).any():
            raise PtxError(f"an address is not aligned to {dtype.itemsize} bytes")
        start, _, raw = allocation
        first = -(-start // dtype.itemsize) * dtype.itemsize
        raw = raw[first - start :]
        elements = raw[: raw.size // dtype.itemsize * dtype.itemsize].view(dtype)
        return elements, ((addresses - np.uint64(first)) // np.uint64(dtype.itemsize)).astype(np.int64)


# -- parsing ------------------------------------------------------------------------------------------------------


class Program:
    """One kernel's PTX, decoded."""

    def __init__(self, text, symbol):
        if not re.search(r"^\.version \d", text, re.MULTILINE) or not re.search(
            r"^\.target sm_\d+", text, re.MULTILINE
        ):
            raise PtxError("this is no PTX")
        head = re.search(
            rf"^\.visible \.entry {symbol}\s*\(([^)]*)\)(.*?)^\{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL
        )
        if head is None:
            raise PtxError(f"there is no kernel {symbol}")
        #: (bits, whether it is a pointer) of each parameter.
        self.parameters = [(_param_bits(p), ".ptr" in p) for p in head[1].split(",") if p.strip()]
        limit = re.search(r"\.maxntid (\d+)", head[2])
        self.max_threads = int(limit[1]) if limit else MAX_THREADS
        self.registers: dict[str, int] = {}
        self.symbols: dict[str, int] = {}
        self.shared = self.local = 0
        body = head[3]
        for space, align, name, size in re.findall(
            r"^\s*\.(shared|local) \.align (\d+) \.b8 \s*([\w$]+)\[(\d+)\];", text, re.MULTILINE
        ):
            start = -(-getattr(self, space) // int(align)) * int(align)
            self.symbols[name] = start
            setattr(self, space, start + int(size))
        if self.shared > MAX_SHARED:
            raise PtxError(f"{self.shared} bytes of shared memory: a block has {MAX_SHARED}")
        if re.search(r"^\s*(\.visible )?\.(global|const) ", text, re.MULTILINE):
            raise PtxError("variables in global and constant memory are not supported")
        for kind, name in re.findall(r"\.reg \.(\w+)\s+(%\w+)(?:<\d+>)?;", body):
            self.registers[name] = _BITS[kind]
        self.blocks: list[list] = [[]]
        self.text: list[list[str]] = [[]]
        self.shuffles: set[int] = set()
        self._labels: dict[str, int] = {}
        self._decode(body)

    def _decode(self, body):
        pending = []
        statements = re.sub(r"//.*", "", body)
        # The unused half of a pair is assigned to a register of an inner scope.
        scope = r"\{\s*\.reg \.b\d+ (\w+);\s*([^;{}]*\{[^}]*\}[^;]*;)\s*\}"
        statements = re.sub(scope, lambda m: re.sub(rf"\b{m[1]}\b", "_", m[2]), statements)
        for piece in re.split(r";|(?<=:)\s", statements.strip()):
            line = " ".join(piece.split())
            if not line or line.startswith((".reg", ".pragma", ".shared", ".local", ".loc", ".file")):
                continue
            if line.endswith(":"):
                if self.blocks[-1]:
                    self._open()
                self._labels[line[:-1]] = len(self.blocks) - 1
                continue
            guard, line = _guard(line)
            opcode, _, rest = line.partition(" ")
            operands = _operands(rest)
            name = opcode.split(".")[0]
            if name == "shfl":  # a separate basic block, where lanes wait for each other
                if self.blocks[-1]:
                    self._open()
                self.shuffles.add(len(self.blocks) - 1)
                self.blocks[-1].append(_instruction(self, opcode, operands, guard))
                self.text[-1].append(line)
                self._open()
            elif name in ("bra", "ret", "exit", "bar", "barrier"):
                pending.append((len(self.blocks) - 1, name, guard, operands))
                self.blocks[-1].append(None)
                self.text[-1].append(line)
                self._open()
            else:
                self.blocks[-1].append(_instruction(self, opcode, operands, guard))
                self.text[-1].append(line)
        #: The terminator of each basic block: (kind, guard, target).
        self.ends: list = [("next", None, 0)] * len(self.blocks)
        for number, name, guard, operands in pending:
            self.blocks[number].pop()
            target = self._labels[operands[0]] if name == "bra" else 0
            self.ends[number] = ({"exit": "ret", "barrier": "bar"}.get(name, name), guard, target)

    def _open(self):
        self.blocks.append([])
        self.text.append([])

    def bits(self, register):
        return self.registers[re.match(r"%[A-Za-z]+", register)[0]]


def _param_bits(text):
    return int(re.search(r"\.param \.[a-z](\d+)", text)[1])


def _guard(line):
    if not line.startswith("@"):
        return None, line
    guard, _, line = line[1:].partition(" ")
    return (guard.lstrip("!"), guard.startswith("!")), line.strip()


def _operands(text):
    """Operands; a vector is a tuple, an address is ("[", base, offset)."""
    parsed = []
    for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", text):
        if part.startswith("{"):
            parsed.append(tuple(p.strip() for p in part[1:-1].split(",")))
        elif part.startswith("["):
            base, _, offset = part[1:-1].partition("+")
            parsed.append(("[", base.strip(), int(offset or 0)))
        else:
            parsed.append(part)
    return parsed


# -- running ------------------------------------------------------------------------------------------------------


class _Run:
    """The state of some of the grid's blocks."""

    def __init__(self, program, memory, first, count, threads, grid, values):
        self.program, self.memory, self.values = program, memory, values
        total = count * threads
        self.total, self.threads = total, threads
        number = np.arange(total)
        self.special = {
            "%tid.x": (number % threads).astype(np.uint32),
            "%ctaid.x": (first + number // threads).astype(np.uint32),
            "%ntid.x": np.full(total, threads, np.uint32),
            "%nctaid.x": np.full(total, grid, np.uint32),
            "%laneid": (number % threads % WARP).astype(np.uint32),
        }
        self.block = number // threads
        self.registers: dict[str, np.ndarray] = {}
        self.shared = np.full(count * program.shared, 0xFF, np.uint8)
        self.local = np.full(total * program.local, 0xFF, np.uint8)
        words = -(-self.shared.size // 4)
        self.epoch = np.zeros(count, np.int64)
        self.write_epoch, self.writer = np.full(words, -1), np.full(words, -1)
        self.read_epoch, self.reader = np.full(words, -1), np.full(words, -1)
        self.index = None  # the active threads; None: all
        self.global_writers: dict[int, np.ndarray] = {}
        self.first_thread = first * threads

    def go(self):
        program = self.program
        at = np.zeros(self.total, np.int64)  # each thread's basic block; the number of blocks is the end
        end, waiting = len(program.blocks), np.zeros(self.total, bool)
        parked = np.zeros(self.total, bool)  # at a shuffle, until the other lanes arrive
        converged_block: int | None = 0
        while True:
            if converged_block is None:
                ready = ~waiting & ~parked & (at < end)
                if not ready.any():
                    if parked.any():
                        raise PtxError("a shuffle that not all lanes of a warp come to")
                    if not waiting.any():
                        return
                    self._release(at, waiting, end)
                    waiting[:] = False
                    ready = at < end
                block = int(at[ready].min())
                active = (ready | parked) & (at == block)
                if block in program.shuffles:
                    full_warps = active.reshape(-1, WARP).all(1).repeat(WARP)
                    parked[active] = ~full_warps[active]
                    active &= full_warps
                    if not active.any():
                        continue
                if active.all():
                    self.index = None
                else:
                    self.index = np.nonzero(active)[0]
            else:
                block, self.index = converged_block, None
                if block == end:
                    return
            for instruction in program.blocks[block]:
                instruction(self)
            ending, guard, target = program.ends[block]
            index = self.index
            if ending == "bra" and guard is not None:
                condition = self.read(guard[0], "pred")
                condition = ~condition if guard[1] else condition
                if index is None and (condition.all() or not condition.any()):
                    converged_block = target if condition[0] else block + 1
                    continue
                next_block = np.where(condition, target, block + 1)
            else:
                if guard is not None:
                    raise PtxError(f"a guarded {ending} is not supported")
                next_block = {"bra": target, "ret": end}.get(ending, block + 1)
                if index is None:
                    self.epoch += ending == "bar"
                    converged_block = next_block
                    continue
            if converged_block is not None:
                at[:] = converged_block
                converged_block = None
            if index is None:
                at[:] = next_block
            else:
                at[index] = next_block
                if ending == "bar":
                    waiting[index] = True
            if not waiting.any() and not parked.any() and (at == at[0]).all():
                converged_block = int(at[0])

    def _release(self, at, waiting, end):
        """All unfinished threads wait: those of each block must be at one barrier."""
        for block in np.unique(self.block[waiting]):
            members = self.block == block
            if (at[members] != at[members][0]).any() or not waiting[members].all():
                raise PtxError("a barrier that not all threads of a block come to")
            self.epoch[block] += 1

    # Operands.
    def read(self, operand, kind):
        dtype = _numpy_type(kind)
        if operand[0] == "%":
            value = self.special.get(operand)
            if value is None:
                value = self.registers.get(operand)
                if value is None:
                    raise PtxError(f"{operand} is read before it is written")
            if self.index is not None:
                value = value[self.index]
            if value.dtype.itemsize > dtype.itemsize:
                value = value.astype(_UNSIGNED[8 * dtype.itemsize])
            return value if value.dtype == dtype else value.view(dtype)
        return _immediate(operand, dtype, self.program.symbols)

    def write(self, operand, value):
        if operand == "_":
            return
        bits = self.program.bits(operand)
        dtype = np.dtype(bool) if bits == 1 else np.dtype(_UNSIGNED[bits])
        value = np.asarray(value)
        if value.dtype != dtype:
            if value.dtype.itemsize == dtype.itemsize and value.dtype != bool:
                value = value.view(dtype)
            elif value.dtype.kind == "i":  # a wider register is filled with the sign
                value = value.astype(f"i{dtype.itemsize}").view(dtype)
            else:
                value = value.astype(dtype)
        register = self.registers.get(operand)
        if self.index is not None:
            if register is None:
                register = self.registers[operand] = np.zeros(self.total, dtype)
            register[self.index] = value
        elif value.shape == (self.total,) and value.base is None and value.flags.owndata:
            self.registers[operand] = value
        else:
            self.registers[operand] = np.broadcast_to(value, (self.total,)).copy()

    def addresses(self, operand):
        _, base, offset = operand
        value = self.read(base, "u64")
        value = np.broadcast_to(value, (self.count,))
        return value + np.uint64(offset % 2**64)

    @property
    def count(self):
        return self.total if self.index is None else self.index.size

    @property
    def active(self):
        return np.arange(self.total) if self.index is None else self.index

    # Memory.
    def load(self, space, addresses, dtype):
        space, addresses = self._resolve(space, addresses)
        if space == "global":
            parts = self.memory.view(addresses, dtype)
            if len(parts) == 1:
                return parts[0][1][parts[0][2]]
            out = np.empty(addresses.size, dtype)
            for selected, elements, index, _ in parts:
                out[selected] = elements[index]
            return out
        store, index = self._block_memory(space, addresses, dtype, False)
        return store[index]

    def store(self, space, addresses, values, dtype):
        space, addresses = self._resolve(space, addresses)
        values = np.broadcast_to(values, addresses.shape)
        if space != "global":
            store, index = self._block_memory(space, addresses, dtype, True)
            store[index] = values
            return
        for selected, elements, index, start in self.memory.view(addresses, dtype):
            self._check_single_writer(start, elements, index, dtype, self.active[selected])
            elements[index] = values[selected]

    def _check_single_writer(self, start, elements, index, dtype, threads):
        """Raise if two threads of the launch write the same element."""
        key = (start, dtype.itemsize)
        writers = self.global_writers.get(key)
        if writers is None:
            writers = self.global_writers[key] = np.full(elements.size, -1, np.int32)
        ids = (threads + self.first_thread).astype(np.int32)
        previous = writers[index]
        if ((previous >= 0) & (previous != ids)).any():
            raise PtxError("two threads write the same element of global memory")
        writers[index] = ids
        if (writers[index] != ids).any():
            raise PtxError("two threads write the same element of global memory")

    def _resolve(self, space, addresses):
        if space is not None:
            return space, addresses
        if (addresses >= _LOCAL_WINDOW).all():
            return "local", addresses - np.uint64(_LOCAL_WINDOW)
        if ((addresses >= _SHARED_WINDOW) & (addresses < _LOCAL_WINDOW)).all():
            return "shared", addresses - np.uint64(_SHARED_WINDOW)
        return "global", addresses

    def _block_memory(self, space, addresses, dtype, writes):
        size = getattr(self.program, space)
        offset = addresses.astype(np.int64)
        if ((offset < 0) | (offset + dtype.itemsize > size)).any():
            raise PtxError(f"an access outside the {size} bytes of {space} memory")
        if (offset % dtype.itemsize).any() or size % dtype.itemsize:
            raise PtxError(f"an address in {space} memory is not aligned to {dtype.itemsize} bytes")
        threads = self.active
        owner = self.block[threads] if space == "shared" else threads
        index = (owner * size + offset) // dtype.itemsize
        if space == "shared":
            first = (owner * size + offset) // 4
            for word in range(max(1, dtype.itemsize // 4)):
                self._check_races(first + word, threads, owner, writes)
        return getattr(self, space).view(dtype), index

    def _check_races(self, words, threads, owner, writes):
        epoch = self.epoch[owner]
        clash = (self.write_epoch[words] == epoch) & (self.writer[words] != threads)
        if writes:
            clash |= (self.read_epoch[words] == epoch) & (self.reader[words] != threads)
        if clash.any():
            raise PtxError("a race: a barrier is missing between two threads' accesses to shared memory")
        if writes:
            self.writer[words], self.write_epoch[words] = threads, epoch
            if (self.writer[words] != threads).any():
                raise PtxError("a race: two threads write the same word of shared memory")
        else:
            several = (self.read_epoch[words] == epoch) & (self.reader[words] != threads)
            readers = np.where(several, -2, threads)  # -2: several readers
            self.reader[words], self.read_epoch[words] = readers, epoch
            self.reader[words[self.reader[words] != readers]] = -2


def _immediate(text, dtype, symbols):
    if text in symbols:
        return dtype.type(symbols[text])
    if text[:2] in ("0f", "0d") and len(text) in (10, 18):
        bits = np.uint32(int(text[2:], 16)) if text[1] == "f" else np.uint64(int(text[2:], 16))
        return bits.view(dtype) if bits.itemsize == dtype.itemsize else bits.astype(_UNSIGNED[8 * dtype.itemsize])
    if dtype.kind == "b":
        return np.bool_(int(text))
    value = int(text, 0)
    unsigned = np.dtype(_UNSIGNED[8 * dtype.itemsize])
    return unsigned.type(value % 2 ** (8 * dtype.itemsize)).view(dtype)


def run(program, memory, grid, threads, values):
    """Launch. `values`: a NumPy scalar for each parameter."""
    if not 0 < threads <= min(MAX_THREADS, program.max_threads) or threads % WARP:
        raise PtxError(f"{threads} threads a block: the kernel takes up to {program.max_threads}, in warps")
    if not 0 < grid <= MAX_BLOCKS:
        raise PtxError(f"{grid} blocks")
    if len(values) != len(program.parameters):
        raise PtxError(f"{len(values)} arguments for {len(program.parameters)} parameters")
    step = max(1, _THREADS_PER_RUN // threads)
    writers: dict = {}
    with np.errstate(all="ignore"):
        for first in range(0, grid, step):
            state = _Run(program, memory, first, min(step, grid - first), threads, grid, values)
            state.global_writers = writers
            state.go()


# -- instructions -------------------------------------------------------------------------------------------------


def _instruction(program, opcode, operands, guard):
    name, *modifiers = opcode.split(".")
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise PtxError(f"instruction {opcode} is not supported")
    act = decoder(program, modifiers, operands)
    if guard is None:
        return act
    register, negated = guard

    def guarded(run):
        index = run.index
        condition = run.read(register, "pred")
        chosen = np.nonzero(~condition if negated else condition)[0]
        if chosen.size:
            run.index = chosen if index is None else index[chosen]
            act(run)
        run.index = index

    return guarded


_DECODERS: dict = {}


def _decoder(*names):
    def add(function):
        for name in names:
            _DECODERS[name] = function
        return function

    return add


def _simple(kind, operands, compute, result=None):
    """dst = compute(sources of type `kind`)."""
    target, *sources = operands

    def act(run):
        value = compute(*(run.read(s, kind) for s in sources))
        run.write(target, value if result is None else np.asarray(value).astype(result))

    return act


def _mask(bits):
    return (1 << bits) - 1


@_decoder("mov")
def _mov(program, modifiers, operands):
    kind = modifiers[-1]
    target, source = operands
    if isinstance(target, tuple):
        part = _BITS[kind] // len(target)

        def unpack(run):
            value = run.read(source, kind)
            for i, name in enumerate(target):
                shifted = value >> value.dtype.type(part * i)
                run.write(name, shifted.astype(_UNSIGNED[part]))

        return unpack
    if isinstance(source, tuple):
        part = _BITS[kind] // len(source)
        whole = _UNSIGNED[_BITS[kind]]

        def pack(run):
            total = whole(0)
            for i, name in enumerate(source):
                total = total | (run.read(name, f"u{part}").astype(whole) << whole(part * i))
            run.write(target, total)

        return pack
    return lambda run: run.write(target, np.array(run.read(source, kind)))


@_decoder("cvta")
def _cvta(program, modifiers, operands):
    target, source = operands
    space = next(m for m in modifiers if m in ("global", "shared", "local"))
    window = {"global": 0, "shared": _SHARED_WINDOW, "local": _LOCAL_WINDOW}[space]
    back = "to" in modifiers

    def act(run):
        value = run.read(source, "u64")
        run.write(target, np.array(value - np.uint64(window) if back else value + np.uint64(window)))

    return act


@_decoder("ld", "ldu")
def _ld(program, modifiers, operands):
    kind = modifiers[-1]
    dtype = _numpy_type(kind)
    target, address = operands
    targets = target if isinstance(target, tuple) else (target,)
    if modifiers[0] == "param":
        number = int(address[1].rsplit("_", 1)[1])

        def param(run):
            value = run.values[number]
            run.write(target, np.array(value).view(_UNSIGNED[8 * value.dtype.itemsize]))

        return param
    space = next((m for m in modifiers if m in ("global", "shared", "local")), None)
    width = dtype.itemsize * len(targets)

    def act(run):
        where = run.addresses(address)
        if len(targets) > 1 and (where % np.uint64(width)).any():
            raise PtxError(f"a vector's address is not aligned to {width} bytes")
        values = [run.load(space, where + np.uint64(i * dtype.itemsize), dtype) for i in range(len(targets))]
        for name, value in zip(targets, values):
            run.write(name, value)

    return act


@_decoder("st")
def _st(program, modifiers, operands):
    kind = modifiers[-1]
    dtype = _numpy_type(kind)
    address, source = operands
    sources = source if isinstance(source, tuple) else (source,)
    space = next((m for m in modifiers if m in ("global", "shared", "local")), None)
    width = dtype.itemsize * len(sources)

    def act(run):
        where = run.addresses(address)
        if len(sources) > 1 and (where % np.uint64(width)).any():
            raise PtxError(f"a vector's address is not aligned to {width} bytes")
        for i, name in enumerate(sources):
            run.store(space, where + np.uint64(i * dtype.itemsize), run.read(name, kind), dtype)

    return act


def _mixed(modifiers, operands, compute):
    """compute(…) in float32 of float16 numbers and, last, a float32."""
    target, *halves, last = operands

    def act(run):
        wide = [np.asarray(run.read(h, "f16")).astype(np.float32) for h in halves]
        run.write(target, compute(*wide, run.read(last, "f32")))

    return act


def _checked_type(modifiers):
    """The type; raises for unsupported modifiers before it."""
    supported = {"rn", "lo", "sat", "ftz", "wide", "hi", "NaN", "wrap", "uni", "to", "full", "approx"}
    extra = set(modifiers[:-1]) - supported
    if extra or {"ftz", "approx", "full", "sat"} & set(modifiers):
        raise PtxError(f"modifiers {modifiers} are not supported")
    return modifiers[-1]


def _exact_only(kind, modifiers):
    # Without .rn the assembler may contract a product and a sum.
    if kind[0] == "f" and "rn" not in modifiers:
        raise PtxError("floating arithmetic without .rn may be contracted")


def _arithmetic(name, function):
    def make(program, modifiers, operands):
        if modifiers == ["rn", "f32", "f16"]:
            return _mixed(modifiers, operands, function)
        kind = _checked_type(modifiers)
        _exact_only(kind, modifiers)
        return _simple(kind, operands, function)

    _DECODERS[name] = make


_arithmetic("add", lambda a, b: a + b)
_arithmetic("sub", lambda a, b: a - b)


@_decoder("mul", "mad")
def _mul(program, modifiers, operands):
    kind = _checked_type(modifiers)
    _exact_only(kind, modifiers)
    dtype = _numpy_type(kind)
    target, a, b, *rest = operands

    def product(x, y):
        if "wide" in modifiers:
            wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
            return x.astype(wide) * y.astype(wide)
        if "hi" in modifiers:
            if dtype.itemsize < 8:
                wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
                return ((x.astype(wide) * y.astype(wide)) >> wide.type(8 * dtype.itemsize)).astype(dtype)
            pairs = np.broadcast_arrays(x, y)
            values = [(int(p) * int(q)) >> 64 for p, q in zip(pairs[0].flat, pairs[1].flat)]
            return np.array(values, dtype).reshape(pairs[0].shape)
        return x * y

    out_kind = f"{kind[0]}{2 * int(kind[1:])}" if "wide" in modifiers else kind

    def act(run):
        value = product(np.asarray(run.read(a, kind)), np.asarray(run.read(b, kind)))
        for c in rest:
            value = value + run.read(c, out_kind)
        run.write(target, value)

    return act


@_decoder("fma")
def _fma(program, modifiers, operands):
    if modifiers == ["rn", "f32", "f16"]:
        return _mixed(modifiers, operands, fma32)
    kind = _checked_type(modifiers)
    _exact_only(kind, modifiers)
    return _simple(kind, operands, fma32 if kind == "f32" else fma64)


def _two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _to_odd(s, error):
    """The sum s + error rounded to odd, so that rounding it again is correct."""
    s, error = np.broadcast_arrays(s, error)
    bits = s.copy().view(np.int64)
    change = (error != 0) & (bits & 1 == 0) & np.isfinite(s)
    away = (error > 0) == (s > 0)
    return (bits + np.where(change, np.where(away, 1, -1), 0)).view(np.float64)


def fma32(a, b, c):
    s, error = _two_sum(np.float64(a) * np.float64(b), np.float64(c))
    return _to_odd(np.asarray(s), np.asarray(np.where(np.isfinite(s), error, 0.0))).astype(np.float32)


def _two_product(a, b):
    p = a * b
    split = np.float64(134217729.0)
    ah = split * a - (split * a - a)
    bh = split * b - (split * b - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def fma64(a, b, c):
    """Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008; exact away from the range's ends."""
    high, low = _two_product(np.asarray(a), np.asarray(b))
    th, tl = _two_sum(c, low)
    vh, vl = _two_sum(high, th)
    result = vh + _to_odd(*_two_sum(tl, vl)) if np.ndim(vh) else vh + (tl + vl)
    plain = high + c
    return np.where(np.isfinite(result) & (np.abs(high) > 1e-270), result, plain)


def _divide(a, b):
    if a.dtype.kind == "f":
        return a / b
    safe = np.where(b == 0, 1, b).astype(a.dtype)
    quotient = np.abs(a) // np.abs(safe) if a.dtype.kind == "i" else a // safe
    return np.where((a < 0) != (safe < 0), -quotient, quotient).astype(a.dtype) if a.dtype.kind == "i" else quotient


def _remainder(a, b):
    return a - _divide(a, b) * np.where(b == 0, 1, b).astype(a.dtype)


_arithmetic("div", lambda a, b: _divide(np.asarray(a), np.asarray(b)))
_DECODERS["rem"] = lambda program, modifiers, operands: _simple(
    _checked_type(modifiers), operands, lambda a, b: _remainder(np.asarray(a), np.asarray(b))
)
_arithmetic("sqrt", np.sqrt)
_arithmetic("rcp", lambda a: a.dtype.type(1) / a)


def _unary(name, function):
    _DECODERS[name] = lambda program, modifiers, operands: _simple(_checked_type(modifiers), operands, function)


def _negate(a):
    if a.dtype.kind != "f":
        return -a.view(f"i{a.dtype.itemsize}") if a.dtype.kind == "u" else -a
    return np.negative(a)


_unary("neg", _negate)
_unary("abs", np.abs)


def _logical(name, function):
    _DECODERS[name] = lambda program, modifiers, operands: _simple(modifiers[-1], operands, function)


_logical("and", np.bitwise_and)
_logical("or", np.bitwise_or)
_logical("xor", np.bitwise_xor)
_logical("not", np.invert)


def _extremes(name, number, propagating):
    def make(program, modifiers, operands):
        kind = _checked_type(modifiers)
        return _simple(kind, operands, propagating if "NaN" in modifiers or kind[0] != "f" else number)

    _DECODERS[name] = make


_extremes("min", np.fmin, np.minimum)
_extremes("max", np.fmax, np.maximum)


@_decoder("copysign")
def _copysign(program, modifiers, operands):  # the first operand has the sign
    return _simple(modifiers[-1], operands, lambda sign, size: np.copysign(size, sign))


def _shifts(name):
    def make(program, modifiers, operands):
        kind = modifiers[-1]
        dtype = _numpy_type(kind)
        bits = 8 * dtype.itemsize
        target, value, amount = operands

        def act(run):
            x, n = run.read(value, kind), run.read(amount, "u32")
            over, n = n >= bits, np.minimum(n, bits - 1).astype(dtype)
            if name == "shr" and dtype.kind == "i":
                run.write(target, x >> n)
            else:
                run.write(target, np.where(over, dtype.type(0), x << n if name == "shl" else x >> n))

        return act

    _DECODERS[name] = make


_shifts("shl")
_shifts("shr")


@_decoder("shf")
def _shf(program, modifiers, operands):
    left, clamp = "l" in modifiers, "clamp" in modifiers

    def compute(low, high, n):
        n = np.minimum(n, 32) if clamp else n & np.uint32(31)
        pair = (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
        n = n.astype(np.uint64)
        shifted = (pair << n) >> np.uint64(32) if left else pair >> n
        return shifted.astype(np.uint32)

    return _simple("u32", operands, lambda a, b, n: compute(np.asarray(a), np.asarray(b), np.asarray(n)))


@_decoder("bfe")
def _bfe(program, modifiers, operands):
    kind = modifiers[-1]
    if kind[0] != "u":
        raise PtxError("bfe of signed numbers is not supported")
    target, value, start, length = operands

    def act(run):
        x, s, n = run.read(value, kind), run.read(start, "u32"), run.read(length, "u32")
        one = x.dtype.type(1)
        run.write(target, (x >> s.astype(x.dtype)) & ((one << n.astype(x.dtype)) - one))

    return act


@_decoder("prmt")
def _prmt(program, modifiers, operands):
    if modifiers != ["b32"]:
        raise PtxError("prmt has modes that are not supported")

    def compute(a, b, selector):
        pair = (np.asarray(b).astype(np.uint64) << np.uint64(32)) | np.asarray(a).astype(np.uint64)
        out = np.uint64(0)
        for i in range(4):
            pick = (np.asarray(selector).astype(np.uint64) >> np.uint64(4 * i)) & np.uint64(15)
            byte = (pair >> ((pick & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            byte = np.where(pick & np.uint64(8), np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0)), byte)
            out = out | (byte << np.uint64(8 * i))
        return out.astype(np.uint32)

    return _simple("u32", operands, compute)


_COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip


def _comparison(name, kind):
    if name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")
    if name == "ne" and kind[0] == "f":  # ordered: false for NaN
        return lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)
    if name.endswith("u") and name[:-1] in _COMPARE:
        return lambda a, b: _COMPARE[name[:-1]](a, b) | np.isnan(a) | np.isnan(b)
    return _COMPARE[name]


@_decoder("setp")
def _setp(program, modifiers, operands):
    compare, kind = _comparison(modifiers[0], modifiers[-1]), modifiers[-1]
    if len(modifiers) == 2:
        return _simple(kind, operands, compare)
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[modifiers[1]]
    target, a, b, other = operands
    flip, other = other.startswith("!"), other.lstrip("!")

    def act(run):
        predicate = run.read(other, "pred")
        run.write(target, combine(compare(run.read(a, kind), run.read(b, kind)), ~predicate if flip else predicate))

    return act


@_decoder("selp")
def _selp(program, modifiers, operands):
    kind = modifiers[-1]
    target, a, b, choice = operands
    return lambda run: run.write(target, np.where(run.read(choice, "pred"), run.read(a, kind), run.read(b, kind)))


@_decoder("cvt")
def _cvt(program, modifiers, operands):
    *how, to, source = modifiers
    target, operand = operands
    if set(how) - {"rn", "rzi", "rni", "rmi", "rpi", "rz", "sat"} or "sat" in how:
        raise PtxError(f"cvt with {how} is not supported")
    out = _numpy_type(to)

    def act(run):
        value = np.asarray(run.read(operand, source))
        for mode, rounding in (("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil), ("rzi", np.trunc)):
            if mode in how:
                value = rounding(value)
        if value.dtype.kind == "f" and out.kind in "iu":  # out of range: saturate; NaN: 0
            limits = np.iinfo(out)
            high = value >= float(limits.max)
            low = value <= float(limits.min)
            inner = np.where(high | low | np.isnan(value), 0, value).astype(out)
            value = np.where(high, limits.max, np.where(low, limits.min, inner)).astype(out)
        run.write(target, value.astype(out))

    return act


@_decoder("shfl")
def _shfl(program, modifiers, operands):
    if modifiers != ["sync", "bfly", "b32"]:
        raise PtxError(f"shfl.{'.'.join(modifiers)} is not supported")
    target, value, mask, clamp, members = operands
    if int(clamp, 0) != 31 or int(members, 0) not in (-1, 0xFFFFFFFF):
        raise PtxError("a shuffle over less than a warp is not supported")
    target = target.split("|")[0]

    def act(run):
        count = run.count
        x = np.broadcast_to(run.read(value, "u32"), (count,)).reshape(-1, WARP)
        partner = np.arange(WARP) ^ np.broadcast_to(run.read(mask, "u32"), (count,)).reshape(-1, WARP).astype(np.int64)
        run.write(target, np.take_along_axis(x, partner, 1).ravel().copy())

    return act
