"""`DataLoader`: batches in an order fixed by (seed, epoch), fetched in this process or by workers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from deepcore import random
from deepcore.backend import Backend, get_backend, place
from deepcore.data import workers
from deepcore.data.collate import collate, to_backend
from deepcore.data.dataset import IterableDataset, batch_getter, lives_in_memory
from deepcore.data.prefetching import prefetch
from deepcore.data.sampler import (
    RandomSampler,
    SequentialSampler,
    as_indices,
    check_sampler,
    check_seed,
    draw_seed,
    indices_of_pass,
)
from deepcore.errors import ArgumentError, DataError, StateDictError
from deepcore.random import default_generator, derive_stream, standing_in


class DataLoader:
    """Batches of `dataset`; each `iter()` is one pass (epoch) over it.

    An `IterableDataset` gives its samples in its own order, to each worker its own copy; then shuffle and samplers are
    errors, and `len(loader)` needs a dataset with `__len__`.
    batch_size, shuffle, drop_last: as in PyTorch; batch_size=None gives single samples, unbatched. `sampler`: indices in an order, or a mask, instead of `shuffle`: a
    list, an array, or an object with `__iter__` (restarted for each pass) and `__len__` (the number of indices).
    `batch_sampler`: instead of batch_size, shuffle, sampler and drop_last, gives the indices of each batch.
    seed: of the order and of augmentation; None derives one from the default generator, so `manual_seed` fixes it. Only
    `shuffle=True` draws a number for that: building another loader does not change the numbers of other draws.
    generator: what the seed is drawn from, instead.
    backend (or device): the backend of a batch's tensors (default: the default backend; those of a TensorDataset stay
    on theirs).
    pin_memory: batches for a GPU are copied one ahead, from page-locked memory, while the current one is computed with
    (see `prefetch`); on the CPU it changes nothing. `pin_memory_device` and `persistent_workers` are accepted as in
    PyTorch and change nothing.
    num_workers: processes that fetch samples, each `prefetch_factor` batches ahead. They change the speed only: order
    and bits are a function of (seed, epoch). A dataset of tensors is always read in this process, one gather per tensor.
    collate_fn: samples to batch (default: `default_collate`).
    worker_init_fn: called in each worker with its number, before its first batch.
    multiprocessing_context: how workers start ("fork", "spawn", "forkserver"; default: Python's own choice).
    timeout: seconds to wait for a worker's next batch (the first one includes the start of the process) before
    `DataError` names the worker and the samples; 0: no limit.

    Random numbers in `__getitem__` and `collate_fn`: deepcore's are seeded for each batch, as a function of (seed,
    epoch, number of the batch). In workers, so are Python's `random` and NumPy's global generator: the same numbers
    for any number of workers, and after a resume in mid-epoch. Without workers these two are not seeded, because the rest
    of the program draws from them. The dataset's own generators are copied into each worker: seed them there, from
    `get_worker_info().seed`.

    `state_dict()` has the seed, the epoch and the number of its delivered batches: a loader that loads it delivers
    exactly the remaining batches. A pass left early counts as an epoch when the next one starts.

    Errors: `DataError` for an empty dataset, samples that cannot be batched, a sampler that gives more or fewer
    indices than its length, and a worker that dies or hangs. An exception of the dataset in a worker is raised in this
    process, with the worker's traceback as a note; one that is not an `Exception`, or cannot be sent, as a `DataError`
    with that traceback.
    """

    def __init__(
        self,
        dataset,
        batch_size: int | None = 1,
        shuffle: bool = False,
        *,
        sampler=None,
        batch_sampler=None,
        num_workers: int = 0,
        drop_last: bool = False,
        collate_fn: Callable | None = None,
        seed: int | None = None,
        backend: str | Backend | None = None,
        device: Any = None,
        pin_memory: bool = False,
        pin_memory_device: str = "",
        prefetch_factor: int | None = 2,
        multiprocessing_context: str | None = None,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        generator: random.Generator | None = None,
        persistent_workers: bool = False,
    ):
        prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        for name, value, minimum in (
            ("batch_size", 1 if batch_size is None else batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
                raise ArgumentError(f"{name} must be a whole number of at least {minimum}", received=repr(value))
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.number)) or not 0 <= timeout < np.inf:
            raise ArgumentError("timeout is a number of seconds, or 0 for none", received=repr(timeout))
        if timeout and not num_workers:
            raise ArgumentError(
                "timeout is for workers, and num_workers=0 fetches samples in this process",
                fix="num_workers=1 or more, or leave out timeout",
            )
        is_stream = isinstance(dataset, IterableDataset)
        if is_stream:
            _check_stream(dataset, shuffle, sampler, batch_sampler)
        else:
            _check_indexed(dataset)
        if batch_size is None and drop_last:
            raise ArgumentError("drop_last is about batches, and batch_size=None gives single samples")
        if sampler is not None and shuffle:
            raise ArgumentError("sampler and shuffle exclude each other", fix="leave out shuffle=True")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ArgumentError(
                "batch_sampler excludes batch_size, shuffle, sampler and drop_last",
                fix="give these to the batch sampler",
            )
        if seed is not None and generator is not None:
            raise ArgumentError("seed and generator exclude each other", fix="seed alone decides about the order")
        self.dataset = dataset
        self.batch_size = None if batch_size is None else int(batch_size)
        self.drop_last = bool(drop_last)
        self.num_workers = int(num_workers)
        self.collate_fn = collate_fn
        backend = place(backend, device)
        self.backend = None if backend is None else get_backend(backend)
        self.pin_memory, self.pin_memory_device = bool(pin_memory), pin_memory_device
        self.prefetch_factor = int(prefetch_factor)
        self.multiprocessing_context = multiprocessing_context
        self.timeout = float(timeout)
        self.worker_init_fn, self.persistent_workers = worker_init_fn, bool(persistent_workers)
        if generator is not None:
            self.seed = generator.split().initial_seed()
        elif seed is None:
            self.seed = draw_seed() if shuffle else default_generator.derive_seed()
        else:
            self.seed = check_seed(seed)
        self.shuffle = bool(shuffle)
        #: The current or next pass, and the number of its delivered batches.
        self.epoch = 0
        self.position = 0
        self._started = False
        self._pass: object = None
        self.batch_sampler = batch_sampler
        self.sampler: Any = None
        if is_stream:
            return
        if sampler is None:
            sampler = RandomSampler(dataset, self.seed) if shuffle else SequentialSampler(dataset)
        if batch_sampler is not None:
            sampler = getattr(batch_sampler, "sampler", None) or sampler
            if not (hasattr(batch_sampler, "__iter__") and hasattr(batch_sampler, "__len__")):
                raise ArgumentError(
                    "a batch sampler has __iter__, which gives lists of indices, and __len__, which says how many",
                    received=type(batch_sampler).__name__,
                )
        self.sampler = check_sampler(sampler, len(dataset))
        if self._samples() == 0:
            raise DataError("the sampler gives no samples")
        if len(self) == 0:
            raise DataError(
                f"drop_last leaves no batch: {self._samples()} samples are fewer than batch_size {self.batch_size}",
                fix="a smaller batch_size, or drop_last=False",
            )

    def __len__(self) -> int:
        """Batches in a pass. Errors: `TypeError` for an iterable dataset without a length."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        samples, size = self._samples(), self.batch_size or 1
        return samples // size if self.drop_last else -(-samples // size)

    def _samples(self) -> int:
        return len(self.dataset if self.sampler is None else self.sampler)

    def __iter__(self) -> Iterator[Any]:
        if self._started:  # the previous pass was left early
            self.epoch, self.position = self.epoch + 1, 0
        self._started = True
        self._pass = this_pass = object()
        if self.sampler is None:
            return self._run(this_pass, self.epoch, self.position, self._stream(self.epoch, self.position))
        order = self._order(self.epoch)
        return self._run(this_pass, self.epoch, self.position, self._batches(self.epoch, self.position, order))

    def _stream(self, epoch: int, start: int) -> Generator[Any, None, None]:
        """The batches of an iterable dataset; of those before `start` the samples are read, too."""
        fetch = FetchNext(self.dataset, self.collate_fn, self.seed, epoch, self.worker_init_fn)
        fetch.size, fetch.drop_last = self.batch_size, self.drop_last
        with contextlib.closing(self._results(fetch, None)) as results:
            yield from self._place(itertools.islice(results, start, None))

    def _order(self, epoch: int) -> list[np.ndarray]:
        source = self.sampler if self.batch_sampler is None else self.batch_sampler
        if hasattr(source, "set_epoch"):
            source.set_epoch(epoch)
        if self.batch_sampler is not None:
            return [as_indices(batch, len(self.dataset), "a batch") for batch in self.batch_sampler]
        order = indices_of_pass(self.sampler, len(self.dataset))
        size = self.batch_size or 1
        stop = len(order) - len(order) % size if self.drop_last else len(order)
        return [order[i : i + size] for i in range(0, stop, size)]

    def _run(self, this_pass: object, epoch: int, start: int, source: Generator[Any, None, None]) -> Iterator[Any]:
        with contextlib.closing(source) as batches:
            for number, batch in enumerate(batches, start):
                if self._pass is this_pass:  # an older pass, still iterated, does not count
                    self.position = number + 1
                yield batch
        if self._pass is this_pass:
            self.epoch, self.position, self._started = epoch + 1, 0, False

    def _batches(self, epoch: int, start: int, order: list[np.ndarray]) -> Generator[Any, None, None]:
        batched = self.collate_fn is None and self.batch_size is not None
        get_batch = batch_getter(self.dataset) if batched else None
        if get_batch is not None and lives_in_memory(self.dataset):
            for indices in order[start:]:
                batch = get_batch(indices)
                yield batch if self.backend is None else to_backend(batch, self.backend)
            return
        fetch = Fetch(self.dataset, self.collate_fn, self.seed, epoch, self.worker_init_fn)
        fetch.single, fetch.get_batch = self.batch_size is None, get_batch
        jobs = [(number, order[number]) for number in range(start, len(order))]
        with contextlib.closing(self._results(fetch, jobs)) as results:
            yield from self._place(results)

    def _results(self, fetch: Callable, jobs: list[tuple] | None) -> Generator[Any, None, None]:
        """`fetch` of each job, or, without jobs, of each number until it says that there is no more."""
        if self.num_workers and jobs != []:
            ahead, method = self.prefetch_factor, self.multiprocessing_context
            return workers.run(fetch, jobs, self.num_workers, ahead, method, self.timeout)
        if jobs is None:
            every = (fetch(number, None) for number in itertools.count())
            return (batch for batch in itertools.takewhile(lambda batch: batch is not workers.END, every))
        return (fetch(*job) for job in jobs)

    def _place(self, results: Iterable[Any]) -> Iterator[Any]:
        target = get_backend() if self.backend is None else self.backend
        arrays = self.collate_fn is None
        if self.pin_memory:
            return prefetch(results, target, arrays=arrays)
        return (to_backend(batch, target, arrays=arrays) for batch in results)

    # -- resuming -----------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """The seed, the epoch, and the number of its delivered batches."""
        state = {"seed": self.seed, "epoch": self.epoch, "position": self.position, **self._layout()}
        if hasattr(self.sampler, "state_dict"):
            state["sampler"] = self.sampler.state_dict()
        return state

    def _layout(self) -> dict[str, Any]:
        return {
            **({} if self.sampler is None else {"samples": self._samples()}),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`: the next `iter()` delivers the remaining batches of that epoch.

        Errors: `StateDictError` when dataset, batch size, shuffle or drop_last differ from then.
        """
        if not isinstance(state, Mapping):
            raise StateDictError("the loader's state is a dict", received=type(state).__name__)
        for key in ("seed", "epoch", "position"):
            if not isinstance(state.get(key), int) or isinstance(state[key], bool) or state[key] < 0:
                raise StateDictError(f"the loader's state has no valid {key!r}", received=repr(state.get(key)))
        for key, current in self._layout().items():
            if type(state.get(key)) is not type(current) or state[key] != current:
                raise StateDictError(
                    f"the loader's {key} is not what it was when its state was saved",
                    expected=repr(state.get(key)),
                    received=repr(current),
                    fix="build the loader as it was; to start the epoch afresh, do not load its state",
                )
        if self.sampler is not None and state["position"] > len(self):
            raise StateDictError(f"the loader's state is at batch {state['position']} of {len(self)}")
        if hasattr(self.sampler, "load_state_dict") and "sampler" in state:
            self.sampler.load_state_dict(state["sampler"])
        self.seed = state["seed"]
        self.epoch, self.position = state["epoch"], state["position"]
        self._started, self._pass = False, None

    def __repr__(self) -> str:
        batches = "" if self.sampler is None else f", batches={len(self)}"
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"num_workers={self.num_workers}{batches})"
        )


def _check_indexed(dataset) -> None:
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        is_iterable = hasattr(dataset, "__iter__")
        raise ArgumentError(
            "a dataset has __len__ and __getitem__",
            received=type(dataset).__name__ + (", which can only be walked in its own order" if is_iterable else ""),
            fix="list(samples), if they fit into memory; or a deepcore.data.IterableDataset whose __iter__ begins anew"
            if is_iterable
            else "subclass deepcore.data.Dataset, or wrap arrays: TensorDataset(images, labels)",
        )
    if len(dataset) == 0:
        raise DataError("the dataset is empty", fix="check the path or the filter that made it")


def _check_stream(dataset, shuffle: bool, sampler, batch_sampler) -> None:
    arguments = {"shuffle": shuffle, "sampler": sampler is not None, "batch_sampler": batch_sampler is not None}
    for name, given in arguments.items():
        if given:
            raise ArgumentError(
                f"{name} is for samples by index, and a {type(dataset).__name__} gives them in its own order",
                fix=f"leave out {name}; shuffle in __iter__, for example within a buffer of samples",
            )


class _Fetcher:
    """Fetches batches in any process; a batch's draws come from a stream of its own."""

    def __init__(self, dataset, collate_fn, seed: int, epoch: int, worker_init_fn: Callable[[int], Any] | None = None):
        self.dataset, self.collate_fn, self.seed, self.epoch = dataset, collate_fn, seed, epoch
        self.worker_init_fn = worker_init_fn

    def __call__(self, number: int, indices):
        with standing_in(self.seed, derive_stream(self.epoch, number, 1)):
            try:
                return self.fetch(number, indices)
            except StopIteration as error:  # unconverted, it would end the pass
                shown = "" if indices is None else f"samples {', '.join(map(str, indices.tolist()[:20]))}"
                raise DataError(
                    f"the dataset or collate_fn raised StopIteration, in batch {number}", where=shown or None
                ) from error

    def fetch(self, number: int, indices):
        raise NotImplementedError


class Fetch(_Fetcher):
    """Fetches a batch from (number, indices), or with `single` the one sample."""

    single = False
    get_batch: Callable[[np.ndarray], Any] | None = None

    def fetch(self, number: int, indices: np.ndarray):
        if self.get_batch is not None:
            return self.get_batch(indices)
        positions = indices.tolist()
        samples = []
        several = getattr(self.dataset, "__getitems__", None)
        if several is not None and not self.single:  # PyTorch's name: a list of samples at once
            samples = several(positions)
            return collate(samples, positions) if self.collate_fn is None else self.collate_fn(samples)
        try:
            for i in positions:
                samples.append(self.dataset[i])
        except Exception as error:
            error.add_note(f"In sample {i} of a {type(self.dataset).__name__} of length {len(self.dataset)}.")
            raise
        if self.single:
            return samples[0] if self.collate_fn is None else self.collate_fn(samples[0])
        return collate(samples, positions) if self.collate_fn is None else self.collate_fn(samples)


class FetchNext(_Fetcher):
    """Fetches the next samples of an iterable dataset as a batch, or, without a size, as they are; END after the last."""

    size: int | None = None
    drop_last = False
    _samples: Iterator[Any] | None = None
    _count = 0

    def fetch(self, number: int, indices: None):
        if self._samples is None:
            self._samples = self._iterate()
        samples = list(itertools.islice(self._samples, self.size or 1))
        if not samples or (self.drop_last and len(samples) < (self.size or 1)):
            return workers.END
        first, self._count = self._count, self._count + len(samples)
        if self.size is None:
            return samples[0] if self.collate_fn is None else self.collate_fn(samples[0])
        if self.collate_fn is not None:
            return self.collate_fn(samples)
        return collate(samples, range(first, self._count))

    def _iterate(self) -> Iterator[Any]:
        count = 0
        try:
            for sample in self.dataset:
                yield sample
                count += 1
        except Exception as error:
            error.add_note(f"In sample {count} of a {type(self.dataset).__name__}.")
            raise
