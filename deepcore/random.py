"""Random numbers: one counter-based generator, so every draw is a function of (seed, stream, position) alone.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key is the
seed, the counter is (position, stream). Integers, uniforms and permutations are the same numbers on every backend;
normals agree to rounding. A draw takes whole blocks of four 32-bit words and leaves the position after them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from deepcore import locks
from deepcore.backend import Backend, get_backend, place
from deepcore.backend import device as device_
from deepcore.backend import dtypes as dt
from deepcore.effects import effect, mode, untraceable
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.kernels.math import reference
from deepcore.tensor import Tensor, factory, from_raw, tensor_like

_WORD = 1 << 64
#: Random bits of a uniform number: the bits of the significand, so that no number rounds to 1.0.
_DIGITS = {dt.float64: 53, dt.float32: 24, dt.float16: 11, dt.bfloat16: 8}
# Draws of up to _SMALL blocks are slices of _PREFETCH blocks computed at once, as the array library's calls dominate.
_SMALL, _PREFETCH = 256, 1024


class Generator:
    """A stream of random numbers, and a position in it.

    `seed` is any whole number of 64 bits (default: from the operating system). Generators of one seed and different
    `stream` (also 64 bits) are independent. A generator serves every backend; `device`, and a device in place of the
    seed, are accepted as in PyTorch and change nothing. Safe to use from several threads, by eager and compiled code
    alike: no two draws get the same numbers.

    >>> g = Generator(0)
    >>> rand(2, generator=g)
    """

    __slots__ = ("_derived", "_position", "_prefetched", "_seed", "_stream", "device")

    def __init__(self, seed: int | str | device_ | None = None, stream: int = 0, device: str | device_ | None = None):
        untraceable("making a generator")
        if isinstance(seed, (str, device_)):
            seed, device = None, place(seed, device)
        #: As in PyTorch; the state is on no device.
        self.device = device_("cpu" if device is None else device)
        self._restart(_entropy() if seed is None else _word("seed", seed), _word("stream", stream), 0)

    def _restart(self, seed: int, stream: int, position: int) -> None:
        self._seed, self._stream, self._position = seed, stream, position
        self._prefetched: tuple[Any, ...] | None = None
        self._derived = 0

    def _active(self) -> Generator:
        """The generator that this thread draws from: its stand-in inside `standing_in`, else itself."""
        return _stand_ins.get((self, threading.get_ident()), self) if _stand_ins else self

    def manual_seed(self, seed: int) -> Generator:
        """Restart from `seed`, at position 0 of the same stream. Returns the generator."""
        seed = _word("seed", seed)
        untraceable("seeding a generator")
        with lock:
            active = self._active()
            active._restart(seed, active._stream, 0)
        return self

    def initial_seed(self) -> int:
        """The seed that was last set."""
        untraceable("reading a generator's state")
        return self._active()._seed

    def seed(self) -> int:
        """Restart from a seed of the operating system, and return it."""
        return self.manual_seed(_entropy()).initial_seed()

    def get_state(self) -> dict[str, int]:
        """`{"seed", "stream", "position"}`: three whole numbers below 2⁶⁴, which any file format can hold."""
        untraceable("reading a generator's state")
        with lock:
            active = self._active()
            return {"seed": active._seed, "stream": active._stream, "position": active._position}

    def set_state(self, state: dict[str, int]) -> Generator:
        """Continue exactly where the generator was when `get_state` returned `state`. Returns the generator."""
        if not hasattr(state, "keys") or set(state.keys()) != {"seed", "stream", "position"}:
            raise ArgumentError(
                "this is not the state of a generator",
                expected="a dict with seed, stream and position, as get_state() gives",
                received=repr(sorted(state) if isinstance(state, dict) else state),
            )
        values = [_word(name, state[name]) for name in ("seed", "stream", "position")]
        untraceable("seeding a generator")
        with lock:
            self._active()._restart(*values)
        return self

    def _mark(self) -> tuple[int, int, int]:
        """(seed, stream, position) for `_go_back`: cheap enough for every step of a training loop."""
        return self._seed, self._stream, self._position

    def _go_back(self, mark: tuple[int, int, int]) -> None:
        with lock:
            self._restart(*mark)

    def split(self) -> Generator:
        """A new generator whose seed is the next number of this one, statistically independent of it."""
        low, high = random_bits(get_backend("cpu"), self, 2).tolist()
        return Generator(high << 32 | low)

    def derive_seed(self) -> int:
        """A seed that takes no numbers from the stream, so that other draws do not depend on whether it is used.

        A function of seed, stream, position, and the number derived since the generator was seeded or restored.
        """
        with lock:
            active = self._active()
            active._derived += 1
            return derive_stream(active._seed, active._stream, active._position, active._derived)

    def advance(self, blocks: int) -> tuple[int, int, int]:
        """Claim the next `blocks` blocks: (seed, stream, position of the first one)."""
        with lock:
            return effect("advance", _advanced, self, blocks)

    def claim(self, blocks: int, claims: list) -> tuple[int, int, int]:
        """`advance` outside of recording; appends to `claims` the entry that `give_back` undoes."""
        with lock:
            active = self._active()
            first, after = active._position, (active._position + blocks) % _WORD
            # Appended first: an interrupt in between must not leave blocks that are neither used nor listed.
            claims.append((active, active._seed, active._stream, first, after))
            active._position = after
            return active._seed, active._stream, first

    def at(self, seed: int, stream: int, position: int) -> Generator:
        """A new generator at a position."""
        other = Generator.__new__(Generator)
        other._restart(seed, stream, position)
        return other

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, stream={self._stream}, position={self._position})"

    def __reduce__(self):
        return Generator, (self._seed, self._stream), self.get_state()

    __setstate__ = set_state


def _advanced(generator: Generator, blocks: int) -> tuple[int, int, int]:
    active = generator._active() if _stand_ins else generator
    first = active._position
    active._position = (first + blocks) % _WORD
    return active._seed, active._stream, first


#: Held while the state of any generator changes. Re-entrant, as a signal handler may draw.
lock = locks.rlock()
#: Stand-ins by (generator, thread).
_stand_ins: dict[tuple[Generator, int], Generator] = {}


def _after_fork() -> None:
    """Drop the stand-ins of threads that a forked child does not have, as new threads may reuse their numbers."""
    for key in list(_stand_ins):
        if key[1] != threading.get_ident():
            del _stand_ins[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def give_back(claims: list) -> None:
    """Undo `Generator.claim`, except where others have drawn since: no number is drawn twice."""
    with lock:
        for generator, seed, stream, first, after in reversed(claims):
            if (generator._seed, generator._stream, generator._position) == (seed, stream, after):
                generator._position = first
        claims.clear()


@contextlib.contextmanager
def standing_in(seed: int, stream: int, position: int = 0) -> Iterator[None]:
    """Inside, this thread's draws from the default generator come from this stream; other threads' do not."""
    key = default_generator, threading.get_ident()
    outer = _stand_ins.get(key)
    _stand_ins[key] = default_generator.at(seed, stream, position)
    try:
        yield
    finally:
        if outer is None:
            del _stand_ins[key]
        else:
            _stand_ins[key] = outer


@contextlib.contextmanager
def reserved(draws: Iterable[tuple[Generator, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Inside, this thread draws from blocks that no other thread gets, `(generator, blocks)` each. Yields their starts.

    Afterwards each generator is at the position where this thread left it.
    """
    thread, claims = threading.get_ident(), []
    with lock:
        for generator, blocks in draws:
            active, outer = generator._active(), _stand_ins.get((generator, thread))
            start = _advanced(generator, blocks)
            stand_in = _stand_ins[generator, thread] = generator.at(*start)
            stand_in._derived = active._derived
            claims.append((generator, active, outer, stand_in, start, active._mark()))
    try:
        yield [start for *_, start, _ in claims]
    finally:
        with lock:
            for generator, active, outer, stand_in, start, end in claims:
                if outer is None:
                    del _stand_ins[generator, thread]
                else:
                    _stand_ins[generator, thread] = outer
                if stand_in._mark() != end and (active._mark() == end or stand_in._mark()[:2] != start[:2]):
                    active._restart(*stand_in._mark())
                active._derived = stand_in._derived


def derive_stream(*values: int) -> int:
    """One 64-bit number from several integers: SplitMix64's finalizer (Steele, Lea, Flood, 2014), chained."""
    x = 0
    for value in values:
        x = (x + 0x9E3779B97F4A7C15 + value) % _WORD
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % _WORD
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % _WORD
        x ^= x >> 31
    return x


def _word(name: str, value) -> int:
    """A whole number as 64 bits; negative numbers wrap, as PyTorch's seeds do."""
    try:
        number = operator.index(value)
    except TypeError:
        number = _WORD
    if isinstance(value, bool) or not -_WORD // 2 <= number < _WORD:
        raise ArgumentError(f"a generator's {name} is a whole number of 64 bits", received=repr(value))
    return number % _WORD


def _entropy() -> int:
    return int.from_bytes(os.urandom(8), "little")


#: The generator of draws without `generator=`.
default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Restart the default generator from `seed`, for every backend. Returns the generator."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Restart the default generator from a seed of the operating system, and return it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> dict[str, int]:
    """The state of the default generator, for `set_rng_state`."""
    return default_generator.get_state()


def set_rng_state(state: dict[str, int]) -> None:
    """Restore a state of the default generator from `get_rng_state`."""
    default_generator.set_state(state)


# -- raw arrays ---------------------------------------------------------------------------------------


class _Draw:
    """A function `(xp, …) -> raw array` that each backend binds like an op, to a kernel where it has one."""

    def __init__(self, forward):
        self.forward = forward
        self.name = forward.__name__
        functools.update_wrapper(self, forward)

    def __call__(self, xp: Backend, *args, **params):
        return effect("draw", _drawn, self, xp, args, params)


def _drawn(function: _Draw, xp: Backend, args: tuple, params: dict):
    return (xp.impls.get(function) or xp.bind(function))(xp, *args, **params)


_philox = _Draw(reference.philox)


def random_bits(xp: Backend, generator: Generator | None, count: int):
    """`count` random 32-bit words, as a uint32 array on `xp`. Read-only: small draws share memory."""
    generator = generator or default_generator
    blocks = -(-count // 4)
    seed, stream, first = generator.advance(blocks)
    if blocks > _SMALL:
        return _philox(xp, seed=seed, stream=stream, position=first, blocks=blocks)[:count]
    if _stand_ins:
        generator = generator._active()
    prefetched = generator._prefetched
    if (
        prefetched is None
        or prefetched[:3] != (xp, seed, stream)
        or not prefetched[3] <= first <= prefetched[3] + _PREFETCH - blocks
    ):
        prefetched = (xp, seed, stream, first, _philox(xp, seed=seed, stream=stream, position=first, blocks=_PREFETCH))
        generator._prefetched = prefetched
    offset = 4 * (first - prefetched[3])
    return prefetched[4][offset : offset + count]


def bits_at(xp: Backend, seed: int, stream: int, position: int, count: int):
    """`count` random 32-bit words from a position, the same as `random_bits` draws there."""
    return _philox(xp, seed=seed, stream=stream, position=position, blocks=-(-count // 4))[:count]


def _wide_bits(xp, generator, count: int):
    """`count` random 64-bit words; the first 32-bit word drawn is the low half."""
    return random_bits(xp, generator, 2 * count).view(dt.uint64)


@_Draw
def raw_uniform(xp: Backend, generator: Generator | None, shape: tuple[int, ...], dtype=dt.float32, low=0.0, high=1.0):
    """low + (high - low)·k·2⁻ᵈ with d = 24 random bits k for float32, 53, 11 and 8 for float64, float16, bfloat16.

    [0, 1) without `low` and `high`; with them the sum may round to `high`.
    """
    if dtype.kind == "c":
        return _of_parts(xp, raw_uniform.forward(xp, generator, (*shape, 2), dt.real_of(dtype), low, high))
    digits = _digits(dtype)
    if dtype == dt.float64:
        out = (_wide_bits(xp, generator, math.prod(shape)) >> 11).astype(dt.float64)
    else:
        out = (random_bits(xp, generator, math.prod(shape)) >> (32 - digits)).astype(dt.float32)
    out *= 2.0**-digits
    return _scaled(xp, out.reshape(shape), high - low, low).astype(dtype, copy=False)


@_Draw
def raw_normal(xp: Backend, generator: Generator | None, shape: tuple[int, ...], dtype=dt.float32, mean=0.0, std=1.0):
    """mean + std·z; z by Box and Muller (1958): √(-2 log u)·(cos 2πv, sin 2πv), |z| ≤ 6.7 (float64: 9.5).

    `mean` and `std` are numbers, or raw arrays that broadcast to `shape`. A complex z has parts of variance ½.
    """
    if dtype.kind == "c":
        z = _of_parts(xp, raw_normal.forward(xp, generator, (*shape, 2), dt.real_of(dtype), std=math.sqrt(0.5)))
        return _scaled(xp, z, std, mean)
    _digits(dtype)
    count = math.prod(shape)
    half = (count + 1) // 2
    if dtype == dt.float64:
        bits, width, digits = _wide_bits(xp, generator, 2 * half), 64, 53
    else:
        bits, width, digits = random_bits(xp, generator, 2 * half), 32, 24
    real = dt.float64 if width == 64 else dt.float32
    radius = bits[:half].astype(real)
    radius += 1.0  # u in (0, 1]: its logarithm is finite
    radius *= 2.0**-width
    radius = xp.sqrt(-2.0 * xp.log(radius))
    angle = (bits[half:] >> (width - digits)).astype(real)
    angle *= 2.0**-digits * (2.0 * math.pi)
    out = xp.empty(2 * half, dtype=real)
    xp.multiply(radius, xp.cos(angle), out=out[:half])
    xp.multiply(radius, xp.sin(angle), out=out[half:])
    return _scaled(xp, out[:count].reshape(shape), std, mean).astype(dtype, copy=False)


def _of_parts(xp, parts):
    """The complex numbers whose real and imaginary parts lie side by side in the last dimension."""
    return xp.ascontiguousarray(parts).view(dt.complex_of(parts.dtype)).reshape(parts.shape[:-1])


def _scaled(xp, out, scale, shift):
    """scale·out + shift, in place for numbers; a no-op for 1 and 0."""
    if hasattr(scale, "dtype") or hasattr(shift, "dtype"):
        return xp.asarray(out * scale + shift)
    if scale != 1:
        out *= scale
    if shift:
        out += shift
    return out


@_Draw
def raw_integers(xp: Backend, generator: Generator | None, low: int, high: int, shape: tuple[int, ...], dtype=dt.int64):
    """Whole numbers of [low, high), 1 ≤ high - low ≤ 2⁶⁴: low + ⌊w·(high - low)/2ⁿ⌋ of an n-bit random word w.

    n = 64 up to a span of 2³², 128 beyond: no number is likelier than another by more than 1 part in 2³² or 2⁶⁴.
    """
    count, span = math.prod(shape), high - low
    if span <= 1 << 32:
        word = _wide_bits(xp, generator, count)
        value = ((word >> 32) * span + ((word & 0xFFFFFFFF) * span >> 32)) >> 32
    else:
        words = _wide_bits(xp, generator, 2 * count).reshape(count, 2)
        value = words[:, 1]
        if span < _WORD:
            low_product = value * span
            carry = (low_product + _high_product(words[:, 0], span)) < low_product
            value = _high_product(value, span) + carry.astype(dt.uint64)
    value = (value + low % _WORD).view(dt.int64)
    return value.astype(dtype, copy=False).reshape(shape)


def _high_product(word, factor: int):
    """⌊word·factor/2⁶⁴⌋ of 64-bit numbers, by halves."""
    high, low = factor >> 32, factor & 0xFFFFFFFF
    middle = (word >> 32) * low + ((word & 0xFFFFFFFF) * low >> 32)
    return (word >> 32) * high + (middle >> 32) + (((word & 0xFFFFFFFF) * high + (middle & 0xFFFFFFFF)) >> 32)


@_Draw
def raw_permutation(xp: Backend, generator: Generator | None, n: int, dtype=dt.int64):
    """0 … n-1 in random order.

    The numbers are sorted by random keys of 64 - log₂n bits; equal keys (rare) keep their order.
    """
    width = max(n - 1, 0).bit_length()
    # Key and number in one word: all words differ, so any sort gives the same order on every backend.
    words = _wide_bits(xp, generator, n) >> width << width | xp.arange(n, dtype=dt.uint64)
    words.sort()
    return (words & ((1 << width) - 1)).astype(dtype)


@_Draw
def raw_bernoulli(xp: Backend, generator: Generator | None, shape: tuple[int, ...], p: float):
    """True with probability `p`, rounded to a multiple of 2⁻³²; a bool array."""
    threshold = round(p * 2**32)
    bits = random_bits(xp, generator, math.prod(shape)).reshape(shape)
    return xp.ones(shape, dtype=dt.bool_) if threshold >= 1 << 32 else xp.asarray(bits < threshold)


def _digits(dtype) -> int:
    digits = _DIGITS.get(dtype)
    if digits is None:
        raise DTypeError(
            f"random real numbers cannot be {dt.name_of(dtype)}",
            expected="float32, float64, float16, bfloat16 or a complex dtype",
            fix="randint for whole numbers, bernoulli for 0 and 1",
        )
    return digits


# -- tensors ------------------------------------------------------------------------------------------


@factory
def rand(
    *size, generator: Generator | None = None, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """Uniform on [0, 1): `rand(2, 3)` or `rand((2, 3))`; float32 by default. Of a complex dtype, both parts are."""
    xp, kind = get_backend(backend), _real(dtype)
    return drawn("rand", _size(size), lambda s: raw_uniform(xp, generator, s, kind), xp, requires_grad)


@factory
def randn(
    *size, generator: Generator | None = None, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """Standard normal (mean 0, variance 1): `randn(2, 3)` or `randn((2, 3))`; float32 by default.

    Of a complex dtype, real and imaginary parts have variance ½.
    """
    xp, kind = get_backend(backend), _real(dtype)
    return drawn("randn", _size(size), lambda s: raw_normal(xp, generator, s, kind), xp, requires_grad)


@factory
def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad: bool = False,
    device=None,
) -> Tensor:
    """`rand` with the shape, dtype and backend of `input`."""
    return rand(
        tensor_like("rand_like", input).shape,
        generator=generator,
        **_like_options(input, dtype, backend),
        requires_grad=requires_grad,
    )


@factory
def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad: bool = False,
    device=None,
) -> Tensor:
    """`randn` with the shape, dtype and backend of `input`."""
    return randn(
        tensor_like("randn_like", input).shape,
        generator=generator,
        **_like_options(input, dtype, backend),
        requires_grad=requires_grad,
    )


@factory
def randint(
    low=0,
    high=None,
    size=None,
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad=False,
    device=None,
) -> Tensor:
    """Whole numbers of [low, high): `randint(high, size)` or `randint(low, high, size)`; int64 by default."""
    if size is None:
        if high is None or isinstance(high, int):
            raise ArgumentError("randint needs a size", fix="dc.randint(high, (n,)) or dc.randint(low, high, (n,))")
        low, high, size = 0, low, high
    xp = get_backend(backend)
    try:
        low, high = operator.index(low), operator.index(high)
    except TypeError:
        raise ArgumentError("randint draws whole numbers", received=f"low={low!r}, high={high!r}") from None
    dtype = dt.int64 if dtype is None else dt.as_dtype(dtype)
    if high <= low:
        raise ArgumentError("randint needs low < high: high itself is not drawn", received=f"low={low}, high={high}")
    smallest, largest = _range(xp, dtype)
    if low < smallest or high - 1 > largest:
        raise ArgumentError(
            f"{dt.name_of(dtype)} does not hold every number of [{low}, {high})", expected=f"{smallest} … {largest}"
        )
    return drawn(
        "randint", _size((size,)), lambda s: raw_integers(xp, generator, low, high, s, dtype), xp, requires_grad
    )


@factory
def randint_like(
    input: Tensor,
    low,
    high=None,
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad=False,
    device=None,
) -> Tensor:
    """`randint` with the shape, dtype and backend of `input`: `randint_like(x, high)` or `(x, low, high)`."""
    low, high = (0, low) if high is None else (low, high)
    options = _like_options(tensor_like("randint_like", input), dtype, backend)
    return randint(low, high, input.shape, generator=generator, **options, requires_grad=requires_grad)


@factory
def randperm(
    n: int, *, generator: Generator | None = None, dtype=None, backend=None, requires_grad: bool = False, device=None
) -> Tensor:
    """0 … n-1 in random order; int64 by default."""
    xp = get_backend(backend)
    (n,) = _size((n,))
    dtype = dt.int64 if dtype is None else dt.as_dtype(dtype)
    if n and n - 1 > _range(xp, dtype)[1]:
        raise ArgumentError(f"{dt.name_of(dtype)} does not hold every number below {n}")

    def draw(shape):
        if len(shape) == 1:
            return raw_permutation(xp, generator, n, dtype)
        return xp.stack([raw_permutation(xp, generator, n, dtype) for _ in range(math.prod(shape[:-1]))]).reshape(shape)

    return drawn("randperm", (n,), draw, xp, requires_grad)


@factory
def uniform(
    low=0.0,
    high=1.0,
    size=(),
    *,
    generator: Generator | None = None,
    dtype=None,
    backend=None,
    requires_grad=False,
    device=None,
) -> Tensor:
    """low + (high - low)·u with u uniform on [0, 1); the sum may round to `high`. float32 by default."""
    if not low <= high:
        raise ArgumentError("uniform needs low ≤ high", received=f"low={low!r}, high={high!r}")
    xp, kind = get_backend(backend), _real(dtype)
    return drawn("uniform", _size((size,)), lambda s: raw_uniform(xp, generator, s, kind, low, high), xp, requires_grad)


def drawn(name: str, shape: tuple[int, ...], draw, xp: Backend, requires_grad: bool = False) -> Tensor:
    """A tensor of the raw array `draw(shape)`; inside of a vmap, by its randomness."""
    level = mode.level
    out = from_raw(draw(shape), xp) if level is None else level.drawn(name, shape, lambda s: from_raw(draw(s), xp))
    return out.requires_grad_() if requires_grad else out


def _real(dtype):
    return dt.default_float if dtype is None else dt.as_dtype(dtype)


def _like_options(input: Tensor, dtype, backend) -> dict[str, Any]:
    return {
        "dtype": input.dtype if dtype is None else dtype,
        "backend": input.backend if backend is None else backend,
    }


def _range(xp: Backend, dtype) -> tuple[int, int]:
    """The range in which a dtype holds every whole number."""
    if dtype == dt.bool_:
        return 0, 1
    if dt.is_floating(dtype):
        return -(2 ** _DIGITS[dtype]), 2 ** _DIGITS[dtype]
    info = xp.iinfo(dtype)
    return int(info.min), int(info.max)


def _size(size: tuple) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    try:
        shape = tuple(operator.index(n) for n in size)
    except TypeError:
        raise ArgumentError("sizes are whole numbers", received=repr(size)) from None
    if any(n < 0 for n in shape):
        raise ShapeError("sizes cannot be negative", received=str(shape))
    return shape
