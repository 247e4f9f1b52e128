"""The order in which samples are visited: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, StateDictError
from deepcore.random import Generator, default_generator, raw_permutation

_MASK = (1 << 64) - 1


def derive_stream(*values: int) -> int:
    """One 64-bit stream number out of several integers: SplitMix64's finalizer (Steele, Lea, Flood, 2014), chained."""
    x = 0
    for value in values:
        x = (x + 0x9E3779B97F4A7C15 + (value & _MASK)) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


def draw_seed() -> int:
    """A seed from the default generator, so that `manual_seed` decides it."""
    return default_generator.split().initial_seed()


def permutation(n: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers 0 to n - 1 in an order that is a function of (n, seed, epoch), the same on every machine."""
    return raw_permutation(get_backend("cpu"), Generator(seed, stream=derive_stream(epoch)), n)


class Sampler:
    """Indices into a dataset. `set_epoch` says which pass over it comes next."""

    def __init__(self, data_source):
        self.data_source = data_source
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data_source)

    def order(self) -> np.ndarray:
        """Every index of the coming pass."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())


class SequentialSampler(Sampler):
    """0, 1, 2, …"""

    def order(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int64)


class RandomSampler(Sampler):
    """A permutation, another one each epoch: a function of (seed, epoch). `seed=None` draws one."""

    def __init__(self, data_source, seed: int | None = None):
        super().__init__(data_source)
        self.seed = draw_seed() if seed is None else check_seed(seed)

    def order(self) -> np.ndarray:
        return permutation(len(self), self.seed, self.epoch)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if not isinstance(state, Mapping) or "seed" not in state:
            raise StateDictError(
                "the state of a RandomSampler holds its seed", expected='{"seed": n}', received=repr(state)
            )
        self.seed = check_seed(state["seed"])


def check_seed(seed) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ArgumentError("a seed is a whole number", expected="0 to 2**64 - 1", received=repr(seed))
    return int(seed)
