"""Datasets, order, batches, worker processes, IDX files, the bundled digits, MNIST, and samples from files."""

from __future__ import annotations

import dataclasses
import errno
import functools
import gzip
import hashlib
import http.server
import itertools
import multiprocessing
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.backend import get_backend
from deepcore.config import settings
from deepcore.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    datasets,
    default_collate,
    digits,
    get_worker_info,
    mnist,
    random_split,
    read_idx,
    workers,
    write_idx,
)
from deepcore.errors import (
    ArgumentError,
    DataError,
    DeepcoreError,
    FileFormatError,
    IndexRangeError,
    MissingDependencyError,
    ShapeError,
    StateDictError,
)
from deepcore.io import read_samples

METHODS = multiprocessing.get_all_start_methods()
ROOT = Path(__file__).resolve().parents[2]


class Squares(Dataset):
    """Sample i is (i as an array, i², and a random number): made one by one, as user datasets are."""

    def __init__(self, size=20):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"x": np.full((2, 3), i, np.float32), "y": i * i, "noise": dc.rand(2), "text": str(i)}


class Wide(Squares):
    """Samples larger than what a pipe holds."""

    def __getitem__(self, i):
        return np.full(1 << 18, i, np.float32)


class Timed(Squares):
    """Each sample is when the work on it began and ended."""

    def __getitem__(self, i):
        start = time.monotonic()
        time.sleep(0.05)
        return np.array([start, time.monotonic()])


class Failing(Squares):
    def __init__(self, how, size=20):
        super().__init__(size)
        self.how = how

    def __getitem__(self, i):
        if i == 7:
            if self.how == "raise":
                raise KeyError("sample seven")
            if self.how == "typed":
                raise DataError("sample seven is bad", fix="mend it")
            if self.how == "odd":
                raise Odd("a", "b")
            if self.how == "exit":
                os._exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "interrupt":
                raise KeyboardInterrupt
            if self.how == "unpicklable":
                return lambda: 0
            if isinstance(self.how, BaseException):
                raise self.how
            if isinstance(self.how, Unsendable):
                return self.how
        return i


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a + b)


class Unsendable:
    """What raises when it is pickled; `there`: when it is unpickled, in another process than this."""

    def __init__(self, error, there=False):
        self.error, self.there = error, there

    def __reduce__(self):
        if self.there:
            return unpickle, (self.error, os.getpid())
        raise self.error


def unpickle(error, pid):
    if os.getpid() != pid:
        raise error
    return error


class UnsendableError(Unsendable, Exception):
    pass


class NotHere(Exception):
    """An error that can be pickled, and unpickled only where it was raised."""

    def __reduce__(self):
        return unpickle, (ValueError("not here"), os.getpid())


Point = namedtuple("Point", "a b")


@dataclasses.dataclass
class Pair:
    a: int
    b: int


def numbers(n=10):
    return TensorDataset(np.arange(n, dtype=np.float32), np.arange(n) * 10)


def bits(batch):
    """A batch as something that compares."""
    if isinstance(batch, dc.Tensor):
        return str(batch.dtype), tuple(batch.shape), bytes(batch.backend.to_host(batch.array).tobytes())
    if isinstance(batch, dict):
        return {key: bits(item) for key, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [bits(item) for item in batch]
    return batch


def children():
    return [p for p in multiprocessing.active_children() if p.name == "deepcore-loader"]


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    """Random integers are the same without them, and no worker stops to compile one."""
    monkeypatch.setattr(settings, "kernels", False)


# -- datasets -----------------------------------------------------------------------------------------
def test_tensor_dataset():
    data = TensorDataset(dc.arange(6).reshape(3, 2), np.array([5.0, 6.0, 7.0]), classes=["a", "b"])
    assert len(data) == 3 and data.classes == ("a", "b")
    x, y = data[-1]
    assert x.tolist() == [4, 5] and y.item() == 7.0 and y.shape == ()
    assert [y.item() for _, y in data] == [5.0, 6.0, 7.0]
    assert [t.tolist() for t in data[1:]] == [[[2, 3], [4, 5]], [6.0, 7.0]]
    with pytest.raises(IndexRangeError, match="no sample 3"):
        data[3]
    with pytest.raises(DataError, match="differ in length"):
        TensorDataset(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError):
        TensorDataset(np.float32(1))
    with pytest.raises(ArgumentError):
        TensorDataset()


def test_subset():
    part = Subset(Subset(numbers(), range(2, 9)), [6, 0, 0])
    assert [x.item() for x, _ in part] == [8, 2, 2]
    assert [bits(b) for b in DataLoader(part, 2)] == [bits((dc.tensor([8.0, 2.0]), dc.tensor([80, 20]))),
                                                      bits((dc.tensor([2.0]), dc.tensor([20])))]  # fmt: skip
    assert len(Subset(numbers(), [])) == 0
    with pytest.raises(IndexRangeError):
        part[3]
    assert part[-1][0].item() == 2.0


INDICES = {
    "mask": (np.arange(10) % 3 == 0, [0, 3, 6, 9]),
    "list of booleans": ([True, False] * 5, [0, 2, 4, 6, 8]),
    "tensor": (dc.tensor([3, 1]), [3, 1]),
    "tensor mask": (dc.arange(10) > 7, [8, 9]),
    "unsigned": (np.array([3, 9], np.uint64), [3, 9]),
    "range": (range(8, 2, -3), [8, 5]),
    "negative": ([-1, 0, -10], [9, 0, 0]),
    "list of tensors": ([dc.tensor(3), dc.tensor(1)], [3, 1]),
    "integers of two kinds": ([3, np.int8(-1)], [3, 9]),
    "short mask": ([True, False], ArgumentError, "as long as the dataset"),
    "mixed": ([True, 2], ArgumentError, "a mix of bool, int"),
    "floats": ([1.7, 2.2], ArgumentError, r"1\.7 \(float64\)"),
    "whole floats": (np.array([1.0]), ArgumentError, "whole numbers"),
    "text": (["1"], ArgumentError, "received: *'1'"),
    "a text": ("12", ArgumentError, "received: *str"),
    "nested": ([[1], [2]], ArgumentError, "one dimension"),
    "ragged": ([[1], [2, 3]], ArgumentError, "nested lists"),
    "nonzero": (np.nonzero(np.arange(10) > 7), ArgumentError, "flatnonzero"),
    "none": ([None], ArgumentError, "received: *None"),
    "too large": ([3, 10], IndexRangeError, "index 10"),
    "too small": ([-11], IndexRangeError, "index -11"),
    "far too large": ([1 << 70], ArgumentError, "whole numbers"),
    "unsigned and large": (np.array([1 << 63], np.uint64), IndexRangeError, "index 9223372036854775808"),
}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("use", [lambda i: Subset(numbers(), i), lambda i: DataLoader(numbers(), 3, sampler=i).sampler])
def test_indices(use, name):
    values, *wanted = INDICES[name]
    if len(wanted) == 2:
        with pytest.raises(wanted[0], match=wanted[1]):
            use(values)
        return
    chosen = use(values)
    loader = DataLoader(chosen, 3) if isinstance(chosen, Subset) else DataLoader(numbers(), 3, sampler=values)
    assert len(loader) == -(-len(wanted[0]) // 3)
    assert [order(loader) for _ in range(2)] == [wanted[0]] * 2


def test_subsets_of_no_sequence():
    assert [x.item() for x, _ in Subset(numbers(), (i for i in (4, 2)))] == [4, 2]
    for wrong in (None, 3, {1, 2}, {1: 2}):
        with pytest.raises(ArgumentError, match="a sequence or an array"):
            Subset(numbers(), wrong)


@pytest.mark.parametrize(
    "index", [1.7, True, np.True_, None, "a", np.float64(1), [0.5], [True, False], dc.tensor(True)], ids=repr
)
def test_samples_are_numbered_by_whole_numbers(index):
    for data in (numbers(), Subset(numbers(), range(5))):
        with pytest.raises(ArgumentError):
            data[index]
    for last in (-1, np.int8(-1), np.array(-1), dc.tensor(-1)):
        assert numbers()[last][0].item() == Subset(numbers(), [9])[last][0].item() == 9.0


def test_an_unfinished_dataset_says_what_is_missing():
    with pytest.raises(ArgumentError, match="__len__"):
        DataLoader(Dataset())
    with pytest.raises(NotImplementedError, match="__getitem__"):
        Dataset()[0]


@pytest.mark.parametrize(
    "lengths, sizes",
    [
        ([7, 3], [7, 3]),
        ([0.7, 0.3], [7, 3]),
        ([1 / 3] * 3, [4, 3, 3]),
        ([1.0], [10]),
        (np.array([0.7, 0.3], np.float32), [7, 3]),
        ([np.float16(0.8), 0.2], [8, 2]),
        (np.array([4, 6], np.uint8), [4, 6]),
    ],
)
def test_random_split(lengths, sizes):
    parts = random_split(numbers(), lengths, seed=4)
    assert [len(p) for p in parts] == sizes
    taken = [int(i) for p in parts for i in p.indices]
    assert sorted(taken) == list(range(10))
    assert taken == [int(i) for p in random_split(numbers(), lengths, seed=4) for i in p.indices]
    assert taken != [int(i) for p in random_split(numbers(), lengths, seed=5) for i in p.indices]
    drawn = [random_split(numbers(), lengths, generator=dc.Generator().manual_seed(6)) for _ in range(2)]
    assert [p.indices.tolist() for p in drawn[0]] == [p.indices.tolist() for p in drawn[1]]
    with pytest.raises(ArgumentError, match="exclude each other"):
        random_split(numbers(), lengths, dc.Generator(), seed=1)


INF = float("inf")


@pytest.mark.parametrize(
    "lengths",
    [
        [5, 4],
        [0.5, 0.4],
        [11, -1],
        [2.5, 7.5],
        [INF, -INF],
        [INF, 1],
        [0.5, float("nan")],
        ["a"],
        [True, 9],
        None,
        3,
        [],
    ],
    ids=str,
)
def test_random_split_that_does_not_add_up(lengths):
    with pytest.raises(ArgumentError, match="sum to 10"):
        random_split(numbers(), lengths)


# -- order --------------------------------------------------------------------------------------------
def order(loader):
    return [int(v) for x, _ in loader for v in x.numpy()]


def test_order_is_a_function_of_seed_and_epoch():
    first = DataLoader(numbers(50), 7, shuffle=True, seed=3)
    epochs = [order(first) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(50))
    dc.manual_seed(99)
    dc.rand(5)
    again = DataLoader(numbers(50), 10, shuffle=True, seed=3)
    assert [order(again) for _ in range(3)] == epochs
    assert order(DataLoader(numbers(50), 7, shuffle=True, seed=4)) != epochs[0]
    assert order(DataLoader(numbers(50), 7)) == list(range(50))


def test_the_order_is_fixed_for_good():
    """A change here breaks every resumed run and every published result."""
    assert order(DataLoader(numbers(10), 10, shuffle=True, seed=0)) == FIRST
    assert RandomSampler(range(10), seed=0).order().tolist() == FIRST


FIRST = [4, 7, 8, 5, 9, 3, 2, 0, 1, 6]


def test_without_a_seed_manual_seed_decides():
    def run():
        dc.manual_seed(5)
        return order(DataLoader(numbers(), 3, shuffle=True)), [
            p.indices.tolist() for p in random_split(numbers(), [5, 5])
        ]

    assert run() == run()
    dc.manual_seed(5)
    a, b = DataLoader(numbers(30), 3, shuffle=True), DataLoader(numbers(30), 3, shuffle=True)
    assert order(a) != order(b)


def test_samplers():
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]
    sampler = RandomSampler(range(30), seed=1)
    zero = list(sampler)
    assert sorted(zero) == list(range(30)) and list(sampler) == zero and len(sampler) == 30
    sampler.set_epoch(1)
    assert list(sampler) != zero
    loader = DataLoader(numbers(), 4, sampler=[9, 0, 9])
    assert len(loader) == 1 and order(loader) == [9, 0, 9]
    with pytest.raises(DataError, match="no samples"):
        DataLoader(numbers(), 4, sampler=[])


def test_validation_data_leaves_training_as_it_is():
    def fit(validation):
        dc.manual_seed(2)
        model = dc.nn.Sequential(dc.nn.Linear(3, 4), dc.nn.Dropout(), dc.nn.Linear(4, 1))
        trainer = dc.Trainer(model, dc.optim.SGD(model.parameters(), lr=0.1), dc.nn.MSELoss())
        trainer.fit((dc.rand(8, 3), dc.rand(8, 1)), validation, epochs=2, batch_size=4, verbose=0)
        return [p.tolist() for p in model.parameters()]

    x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
    plain = fit(None)
    assert fit((x, y)) == plain == fit(DataLoader(list(zip(x, y, strict=True)), 2))


class Counts:
    """A sampler that says one length and gives another."""

    def __init__(self, says, gives):
        self.says, self.gives = says, gives

    def __len__(self):
        return self.says

    def __iter__(self):
        return iter(range(10)) if self.gives is None else itertools.islice(itertools.cycle(range(10)), self.gives)


class Once(Counts):
    """Its second pass goes on where the first one ended."""

    def __init__(self, n):
        super().__init__(n, None)
        self.left = iter(range(n))

    def __iter__(self):
        return self.left


@pytest.mark.parametrize("once", [(i for i in range(4)), map(int, "12"), iter([1, 2])], ids=lambda i: type(i).__name__)
def test_a_sampler_that_can_be_walked_once_is_refused(once):
    with pytest.raises(ArgumentError, match=r"anew for each pass(.|\n)*sampler=list"):
        DataLoader(numbers(), 2, sampler=once)


@pytest.mark.parametrize(
    "says, gives, message", [(4, 3, "fewer"), (4, 5, "more"), (4, 0, "fewer"), (3, 1 << 60, "more")]
)
def test_a_sampler_that_does_not_give_what_it_says(says, gives, message):
    with pytest.raises(DataError, match=f"gives {message} indices than its length"):
        list(DataLoader(numbers(), 2, sampler=Counts(says, gives)))


def test_a_sampler_that_ends_after_its_first_pass():
    loader = DataLoader(numbers(), 2, sampler=Once(4))
    assert order(loader) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"fewer(.|\n)*received: *0"):
        order(loader)


def test_samplers_of_ones_own():
    class Odd(Sampler):  # as those of PyTorch
        def __iter__(self):
            return iter(range(1, len(self.data_source), 2))

        def __len__(self):
            return len(self.data_source) // 2

    loader = DataLoader(numbers(), 2, sampler=Odd(range(10)))
    assert len(loader) == 3 and [order(loader) for _ in range(2)] == [[1, 3, 5, 7, 9]] * 2
    assert Odd(range(10)).order().tolist() == [1, 3, 5, 7, 9]

    class Endless:
        def __iter__(self):
            return itertools.cycle(range(3))

    with pytest.raises(ArgumentError, match="__len__, which says how many"):
        DataLoader(numbers(), 2, sampler=Endless())
    with pytest.raises(NotImplementedError, match="order or __iter__"):
        list(Sampler(range(3)))
    with pytest.raises(NotImplementedError, match="__len__"):
        len(Sampler())


@pytest.mark.parametrize("sampler, draws", [({}, False), ({"sampler": [1]}, False), ({"shuffle": True}, True)])
def test_building_a_loader_draws_only_for_a_random_order(sampler, draws):
    before = dc.random.get_rng_state()
    loaders = [DataLoader(Squares(), 4, **sampler) for _ in range(2)]
    assert (dc.random.get_rng_state() != before) == draws
    dc.random.set_rng_state(before)
    assert [DataLoader(Squares(), 4, **sampler).seed for _ in range(2)] == [loader.seed for loader in loaders]
    assert loaders[0].seed != loaders[1].seed
    dc.manual_seed(123)
    assert DataLoader(Squares(), 4, **sampler).seed != loaders[0].seed


# -- batches ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("drop_last, sizes", [(False, [4, 4, 2]), (True, [4, 4])])
def test_batch_sizes(drop_last, sizes):
    for data in (numbers(), Squares(10)):
        loader = DataLoader(data, 4, drop_last=drop_last)
        assert len(loader) == len(sizes)
        assert [len(next(iter(b.values())) if isinstance(b, dict) else b[0]) for b in loader] == sizes


def test_batches_are_copies_on_the_right_backend(backend):
    data = numbers()
    for x, y in DataLoader(data, 5, backend=backend):
        assert x.backend is y.backend is get_backend(backend)
        if backend == "cpu":
            x.array[:] = -1
    assert data.tensors[0].tolist() == list(range(10))
    moved = TensorDataset(dc.arange(4, backend=backend))
    ((batch,),) = DataLoader(moved, 4, shuffle=True, seed=0)
    assert batch.backend is get_backend(backend)
    (batch,) = DataLoader(Squares(3), 3, backend=backend)
    assert batch["x"].backend is batch["noise"].backend is get_backend(backend)
    assert batch["x"].shape == (3, 2, 3) and batch["text"] == ["0", "1", "2"]


def test_a_subclass_that_changes_samples_is_read_sample_by_sample():
    class Doubled(TensorDataset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return 2 * x, y

    for data in (
        Doubled(np.arange(3.0)[:, None], np.arange(3)),
        Subset(Doubled(np.arange(3.0), np.arange(3)), [0, 1, 2]),
    ):
        ((x, _),) = DataLoader(data, 3)
        assert x.numpy().ravel().tolist() == [0, 2, 4]


def test_samples_carry_no_graph():
    weight = dc.ones(4, requires_grad=True)
    ((batch,),) = DataLoader(TensorDataset(weight), 4)
    assert not batch.requires_grad and not TensorDataset(weight)[0][0].requires_grad


def test_default_collate():
    point = namedtuple("point", "a b")
    batch = default_collate([(1, 2.0, True, "t", {"k": [np.int8(1), dc.ones(2)]}, point(1, b"b"))] * 2)
    assert isinstance(batch, tuple) and isinstance(batch[5], point)
    kinds = [str(t.dtype) for t in (*batch[:3], *batch[4]["k"], batch[5].a)]
    assert kinds == ["int64", "float32", "bool", "int8", "float32", "int64"]
    assert batch[3] == ["t", "t"] and batch[4]["k"][1].shape == (2, 2) and batch[5].b == [b"b", b"b"]
    assert default_collate([np.zeros(2, ">f8")] * 3).dtype == np.float64


def test_text_of_numpy_and_numbers_of_python():
    assert default_collate([np.str_("a"), "b"]) == ["a", "b"] and default_collate([np.bytes_(b"a")]) == [b"a"]
    assert default_collate([True, 2]).tolist() == [1, 2]
    assert default_collate([INF, -INF, 1.5]).tolist() == [INF, -INF, 1.5]
    assert default_collate([1 << 62, -(1 << 63)]).tolist() == [1 << 62, -(1 << 63)]
    with pytest.raises(DataError, match="no samples"):
        default_collate([])


def test_default_collate_as_pytorch():
    torch = pytest.importorskip("torch")
    from torch.utils.data import default_collate as theirs

    samples = [(np.full((2, 2), i, np.float32), i, i > 1, np.float64(i), {"a": np.int16(i)}) for i in range(3)]
    ours = default_collate(samples)
    expected = theirs(samples)
    for a, b in zip((*ours[:4], ours[4]["a"]), (*expected[:4], expected[4]["a"]), strict=True):
        assert torch.equal(torch.from_numpy(a.numpy()), b)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda i: np.zeros((2, 3 + (i == 5))), r"shape \(2, 3\) at index 4, shape \(2, 4\) at index 5"),
        (lambda i: dc.zeros(2 + (i == 5)), r"shape \(2,\) at index 4, shape \(3,\) at index 5"),
        (lambda i: np.zeros(1, "f4" if i < 5 else "f8"), "dtype float32 at index 4, dtype float64 at index 5"),
        (lambda i: (1,) * (2 + (i == 5)), "length 2 at index 4, length 3 at index 5"),
        (lambda i: {"a": 1} if i < 5 else {"b": 1}, r"key \['a'\] at index 4, key \['b'\] at index 5"),
        (lambda i: 1 if i < 5 else "1", "type int at index 4, type str at index 5"),
        (lambda i: np.zeros(1) if i < 5 else 1.0, "type ndarray at index 4, type float at index 5"),
        (lambda i: np.int8(1) if i < 5 else np.int16(1), "type int8 at index 4, type int16 at index 5"),
        (lambda i: dc.ones(1) if i < 5 else np.ones(1, "f4"), "type Tensor at index 4, type ndarray at index 5"),
        (lambda i: {"a": (1, np.zeros(i))}, r"sample\['a'\]\[1\]"),
        (lambda i: None, "a sample holds None"),
        (lambda i: (i, None if i == 5 else 1), r"type int at index 4, type NoneType at index 5\n.*sample\[1\]"),
        (lambda i: {"a": 1, "b": 2} if i < 5 else {"a": 1}, r"key \['a', 'b'\] at index 4, key \['a'\] at index 5"),
        (lambda i: "a" if i < 5 else i, "type str at index 4, type int at index 5"),
        (lambda i: "a" if i < 5 else b"a", "type str at index 4, type bytes at index 5"),
        (lambda i: Point(1, 2) if i < 5 else (1, 2), "type Point at index 4, type tuple at index 5"),
        (lambda i: Point(1, None), r"sample\.b, index 0"),
        (lambda i: Pair(1, 2), r"Pair, which cannot be batched(.|\n)*asdict"),
        (lambda i: {"n": 2**70 if i == 5 else 1}, r"int64 does not hold the number 1180\d*\n.*sample\['n'\], index 5"),
        (lambda i: 1e300 if i == 5 else INF, r"float32 does not hold the number 1e\+300\n.*index 5"),
        (lambda i: np.ma.masked_array([1.0], [True]), r"MaskedArray(.|\n)*filled"),
        (lambda i: np.array(["a"]), "cannot become a tensor(.|\n)*text as str"),
        (lambda i: np.datetime64("2020"), r"dtype datetime64(.|\n)*index 0"),
        (lambda i: np.array([None]), "dtype object"),
        (lambda i: {1}, "a sample holds a set"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_do_not_fit_together(make, message, workers):
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("the lambda cannot be sent to a spawned process")

    class Data(Squares):
        def __getitem__(self, i):
            return make(i)

    with pytest.raises(DataError, match=message):
        list(DataLoader(Data(8), 4, num_workers=workers, multiprocessing_context="fork" if workers else None))


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 2.0},
        {"batch_size": True},
        {"num_workers": -1},
        {"prefetch_factor": 0},
        {"seed": "x"},
        {"seed": -1},
        {"shuffle": True, "sampler": [1]},
        {"timeout": 5},
        *({"timeout": value, "num_workers": 1} for value in (-1, float("nan"), INF, "5", None, True)),
    ],
    ids=str,
)
def test_bad_arguments(arguments):
    with pytest.raises(ArgumentError):
        DataLoader(numbers(), **arguments)


def test_the_default_backend_takes_the_batches(backend):
    with dc.use_backend(backend):
        for workers in (0, 1):
            (batch,) = DataLoader(Squares(2), 2, num_workers=workers, seed=1)
            assert batch["x"].backend is batch["y"].backend is batch["noise"].backend is get_backend(backend)


def test_datasets_that_cannot_be_used():
    with pytest.raises(DataError, match="empty") as caught:
        DataLoader(TensorDataset(np.zeros((0, 2))))
    assert caught.value.fix
    with pytest.raises(DataError, match="drop_last leaves no batch"):
        DataLoader(numbers(3), 4, drop_last=True)
    with pytest.raises(ArgumentError, match="TensorDataset"):
        DataLoader(5)
    with pytest.raises(ArgumentError, match=r"list\(samples\)"):
        DataLoader(iter([1, 2]))
    with pytest.raises(ArgumentError, match="spawn"):
        next(iter(DataLoader(Squares(3), num_workers=1, multiprocessing_context="thread")))


# -- resuming -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("epochs, batches, workers", [(0, 0, 0), (0, 1, 0), (1, 3, 0), (2, 7, 0), (1, 3, 2)])
def test_a_resumed_loader_delivers_exactly_what_remained(epochs, batches, workers):
    def make(seed):
        return DataLoader(Squares(20), 3, shuffle=True, seed=seed, num_workers=workers)

    reference = make(1)
    passes = [[bits(b) for b in reference] for _ in range(4)]
    stopped = make(1)
    for _ in range(epochs):
        list(stopped)
    running = iter(stopped)
    assert [bits(next(running)) for _ in range(batches)] == passes[epochs][:batches]
    state = stopped.state_dict()
    running.close()
    resumed = make(2)
    list(resumed)
    resumed.load_state_dict(state)
    assert [bits(b) for b in resumed] == passes[epochs][batches:]
    assert [bits(b) for b in resumed] == passes[epochs + 1]


def test_a_pass_left_early_counts_as_an_epoch():
    loader = DataLoader(numbers(9), 3, shuffle=True, seed=0)
    passes = [order(loader) for _ in range(2)]
    loader = DataLoader(numbers(9), 3, shuffle=True, seed=0)
    next(iter(loader))
    assert (loader.epoch, loader.position) == (0, 1)
    assert order(loader) == passes[1]
    a, b = iter(loader), iter(loader)  # the older of two passes does not count
    next(b), next(a), next(a)
    assert loader.position == 1


def test_the_state_names_what_differs():
    state = DataLoader(numbers(), 3, shuffle=True, seed=0).state_dict()
    assert all(type(v) in (int, bool, dict) for v in state.values())
    for arguments, key in (({"batch_size": 4}, "batch_size"), ({"shuffle": False}, "shuffle"), ({}, "samples")):
        other = DataLoader(numbers(10 if key != "samples" else 9), **{"batch_size": 3, "shuffle": True, **arguments})
        with pytest.raises(StateDictError, match=key):
            other.load_state_dict(state)
        assert other.epoch == 0
    loader = DataLoader(numbers(), 3, shuffle=True)
    for broken in ({}, {**state, "epoch": -1}, {**state, "position": 5}, {**state, "seed": "x"}, None, 3,
                   {**state, "sampler": {}}, {**state, "sampler": 5}, {**state, "samples": np.ones(2)}):  # fmt: skip
        with pytest.raises(StateDictError):
            loader.load_state_dict(broken)


def test_a_sampler_of_ones_own_is_resumed_too():
    def make(seed):
        return DataLoader(numbers(), 3, sampler=RandomSampler(numbers(), seed=seed))

    loader, other = make(1), make(2)
    order(loader)
    other.load_state_dict(loader.state_dict())
    assert order(other) == order(loader)


# -- worker processes ---------------------------------------------------------------------------------
@functools.cache
def plain_run():
    return [bits(b) for b in DataLoader(Squares(), 3, shuffle=True, seed=8)]


@pytest.mark.parametrize(
    "arguments",
    [{"num_workers": 1}, {"num_workers": 3, "prefetch_factor": 1}, {"num_workers": 9, "prefetch_factor": 5}]
    + [{"num_workers": 2, "multiprocessing_context": m} for m in METHODS if m != "forkserver"],
    ids=str,
)
def test_workers_change_neither_order_nor_bits(arguments):
    before = dc.random.get_rng_state()
    loader = DataLoader(Squares(), 3, shuffle=True, seed=8, **arguments)
    assert [bits(b) for b in loader] == plain_run()
    assert dc.random.get_rng_state() == before
    assert not children()


def test_random_samples_differ_between_batches_and_epochs():
    loader = DataLoader(Squares(), 3, seed=8)
    noise = [bits(b["noise"]) for _ in range(2) for b in loader]
    assert len(set(noise)) == len(noise)


@pytest.mark.skipif("fork" not in METHODS, reason="starting a process otherwise takes longer than the test")
def test_slow_samples_are_fetched_at_the_same_time():
    loader = DataLoader(Timed(24), 2, num_workers=6, multiprocessing_context="fork")
    spans = sorted(tuple(span) for batch in loader for span in batch.tolist())
    assert len(spans) == 24
    assert any(start < end for (_, end), (start, _) in itertools.pairwise(spans))  # two at once


@pytest.mark.parametrize(
    "how, error, message",
    [
        ("raise", KeyError, "sample seven"),
        ("typed", DataError, "sample seven is bad"),
        ("odd", DataError, "Odd: ab"),
        ("interrupt", DataError, "worker 1(.|\n)*in __getitem__(.|\n)*KeyboardInterrupt\n(.|\n)*batch 3, samples 6, 7"),
        ("exit", DataError, "died .exit code 3"),
        pytest.param("kill", DataError, "killed by signal 9",
                     marks=pytest.mark.skipif(os.name == "nt", reason="no such signal")),
        ("unpicklable", DataError, "worker 1 of the loader made cannot be sent(.|\n)*pickle(.|\n)*samples 6, 7"),
        (SystemExit(0), DataError, "in __getitem__(.|\n)*SystemExit: 0"),
        (GeneratorExit(), DataError, "in __getitem__(.|\n)*GeneratorExit"),
        (StopIteration(), DataError, "StopIteration, in batch 3"),
        (UnsendableError(KeyboardInterrupt()), DataError, "in __getitem__(.|\n)*UnsendableError"),
        (UnsendableError(ValueError("x"), there=True), DataError, "in __getitem__(.|\n)*UnsendableError"),
        (NotHere("away"), DataError, "in __getitem__(.|\n)*NotHere: away"),
        (Exception(threading.Lock()), DataError, "in __getitem__(.|\n)*Exception: <unlocked"),
        (RecursionError("deep"), RecursionError, "deep"),
        *((Unsendable(error), DataError, f"cannot be sent: {type(error).__name__}(.|\n)*in __reduce__")
          for error in (ValueError("v"), RecursionError(), MemoryError(), OSError("o"), KeyboardInterrupt(), SystemExit(0))),
        (Unsendable(ValueError("v"), there=True), DataError, "cannot be rebuilt here: ValueError: v"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_goes_wrong_in_a_worker_is_raised_here(how, error, message):
    loader = DataLoader(Failing(how), 2, num_workers=2, collate_fn=list)
    got = []
    if not isinstance(how, str) and multiprocessing.get_start_method() != "fork":
        pytest.skip("the sample cannot be sent to a worker, either")
    with pytest.raises(error, match=message) as caught:
        for batch in loader:
            got.append(batch)
    # A worker that is killed takes with it what it had not sent.
    assert got == [[0, 1], [2, 3], [4, 5]][: None if how not in ("exit", "kill") else len(got)]
    if how in ("raise", "typed"):
        note = caught.value.__notes__[-1]
        assert "in __getitem__" in note and "worker 1" in note and "In sample 7 of a Failing of length 20." in note
    assert not children()


def ends(samples):
    raise StopIteration


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_is_shorter_than_it_says(workers):
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Failing("raise"), 4, num_workers=workers))
    assert "In sample 7 of a Failing of length 20." in caught.value.__notes__
    with pytest.raises(DataError, match="StopIteration, in batch 1"):
        list(DataLoader(Failing(StopIteration()), 4, collate_fn=list))
    with pytest.raises(DataError, match="StopIteration, in batch 0"):
        list(DataLoader(Squares(), 4, num_workers=workers, collate_fn=ends))


class Draws(Squares):
    """Numbers of Python, NumPy and deepcore, and of a generator that each worker seeds itself."""

    def __getitem__(self, i):
        info = get_worker_info()
        own = random.Random(info.seed if info else 0).random()
        return np.array([random.random(), np.random.rand(), dc.rand(1).item(), own])


def draws(workers=0, seed=3, passes=2, skip=0):
    loader = DataLoader(Draws(12), 2, num_workers=workers, seed=seed)
    if skip:
        running = iter(loader)
        for _ in range(skip):
            next(running)
        state = loader.state_dict()
        running.close()
        loader.load_state_dict(state)
    return [np.concatenate([batch.numpy() for batch in loader]) for _ in range(passes)]


def test_workers_draw_different_numbers_in_each_batch_and_epoch():
    first, second = draws(workers=3)
    for column in range(3):
        assert len({*first[:, column], *second[:, column]}) == 24
    # A worker's own seed: three of them, others in the next epoch.
    assert len(set(first[:, 3])) == 3 and not set(first[:, 3]) & set(second[:, 3])
    for count, skip in ((1, 0), (2, 4)):
        again = draws(count, skip=skip)
        np.testing.assert_array_equal(again[0][:, :3], first[2 * skip :, :3])
        np.testing.assert_array_equal(again[1][:, :3], second[:, :3])
    assert not set(draws(workers=2, seed=4)[0].ravel()) & set(first.ravel())


def test_without_workers_the_streams_of_the_program_are_drawn_from():
    random.seed(7)
    np.random.seed(7)
    want = [(random.random(), np.random.rand()) for _ in range(24)]
    random.seed(7)
    np.random.seed(7)
    here = np.concatenate(draws())
    assert list(map(tuple, here[:, :2])) == want
    np.testing.assert_array_equal(here[:, 2], np.concatenate(draws(workers=2))[:, 2])


class Told(Squares):
    def __getitem__(self, i):
        info = get_worker_info()
        return info.id, info.num_workers, len(info.dataset)


def test_a_worker_knows_what_it_is():
    told = list(DataLoader(Told(4), 1, num_workers=2, collate_fn=list))
    assert told == [[(0, 2, 4)], [(1, 2, 4)], [(0, 2, 4)], [(1, 2, 4)]]
    assert get_worker_info() is None


class Shared(Squares):
    """Lets another thread draw from the default generator in the middle of a sample."""

    def __getitem__(self, i):
        noise = dc.rand(1).item()
        thread = threading.Thread(target=lambda: self.there.append(dc.rand(1).item()))
        thread.start()
        thread.join()
        return noise, dc.rand(1).item()


def test_fetching_leaves_the_draws_of_other_threads_alone():
    data = Shared(6)
    passes = []
    for _ in range(2):
        data.there = []
        dc.manual_seed(9)
        passes.append([bits(batch) for batch in DataLoader(data, 2, seed=1)])
        after = dc.rand(1).item()
        dc.manual_seed(9)
        assert [*data.there, after] == [dc.rand(1).item() for _ in range(7)]
    assert passes[0] == passes[1]


class Hangs(Squares):
    def __init__(self, how, size=6):
        super().__init__(size)
        self.how = how

    def __getitem__(self, i):
        if i == 3:
            if self.how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)
        return np.full(1 << 10, i)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["sleep", "stop"])
def test_a_worker_that_hangs_is_named(how):
    loader = DataLoader(Hangs(how), 2, num_workers=2, timeout=0.3, collate_fn=list)
    got, start = [], time.monotonic()
    with pytest.raises(DataError, match=r"worker 1 of the loader sent nothing for 0\.3 s\n.*batch 1, samples 2, 3"):
        for batch in loader:
            got.append(batch)
    assert len(got) == 1 and not children()
    assert time.monotonic() - start < 4  # the others are not waited for, either


def half_a_batch(writing):
    frame, views = workers._message("batch", np.zeros(1 << 18))
    writing.send_bytes(frame)
    writing.send_bytes(views[0][:100])
    time.sleep(60)


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_hangs_in_the_middle_of_a_batch():
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=half_a_batch, args=(writing,), daemon=True)
    process.start()
    writing.close()
    with pytest.raises(DataError, match=r"sent nothing(.|\n)*batch 5, samples 0, 1, .*19, … .30 in all"):
        workers._receive(process, reading, 0, (5, np.arange(30)), "fork", timeout=0.2)
    process.join(5)
    assert not process.is_alive()
    reading.close()


def test_time_enough_changes_nothing():
    assert [bits(b) for b in DataLoader(Squares(), 3, shuffle=True, seed=8, num_workers=2, timeout=60)] == plain_run()


def test_large_batches_do_not_block():
    sums = [float(b.numpy().mean()) for b in DataLoader(Wide(12), 2, num_workers=3)]
    assert sums == [i + 0.5 for i in range(0, 12, 2)]


def odd_batch(samples):
    array = np.arange(24, dtype=np.float64).reshape(4, 6)
    return {
        "empty": array[:0],
        "fortran": np.asfortranarray(array),
        "strided": array[::2, ::3],
        "bytes": np.arange(1 << 19, dtype=np.uint32).view(np.uint8)[3:],
        "tensors": [dc.tensor([1.5, 2.5], dtype=dc.bfloat16), dc.zeros(0, 2), dc.tensor(True)],
        "scalar": np.float16(3),
        "plain": (None, 1, "text", len(samples)),
    }


def test_whatever_a_batch_holds_arrives_as_it_was():
    (here,), (there,) = (list(DataLoader(Squares(2), 2, num_workers=n, collate_fn=odd_batch)) for n in (0, 1))
    for key in ("empty", "fortran", "strided", "bytes", "scalar"):
        assert there[key].dtype == here[key].dtype and there[key].shape == here[key].shape
        np.testing.assert_array_equal(there[key], here[key])
    assert bits(there["tensors"]) == bits(here["tensors"]) and there["plain"] == here["plain"]
    there["fortran"][0, 0] = there["bytes"][0] = 1  # writable, as any array


def test_leaving_early_ends_the_workers():
    running = iter(DataLoader(Wide(), 1, num_workers=3))
    next(running)
    assert len(children()) == 3
    running.close()
    assert not children()
    for _ in DataLoader(Wide(), 1, num_workers=2):
        break
    assert not children()


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_copy_leaves_the_workers_alone():
    loader = DataLoader(Squares(40), batch_size=2, num_workers=2, multiprocessing_context="fork")
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if child == 0:
        try:
            next(batches)
            os._exit(1)
        except DataError as error:
            batches.close()
            os._exit(0 if "belongs to the process" in str(error) else 2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(batches)) == 19


def test_a_dataset_that_cannot_be_sent_says_so():
    class Local(Squares):
        pass

    with pytest.raises(DataError, match="module level"):
        list(DataLoader(Local(), num_workers=1, multiprocessing_context="spawn"))
    for error in (ValueError("v"), OSError("closed"), RecursionError()):
        with pytest.raises(DataError, match=f"cannot be sent to a worker process: {type(error).__name__}(.|\n)*module"):
            list(DataLoader([Unsendable(error)], num_workers=1, multiprocessing_context="spawn"))
    assert not children()


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.EMFILE, "Too many open files"), "worker 1 .*cannot be started: .*Too many(.|\n)*smaller"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "worker 1 .*died while it was started(.|\n)*__main__"),
    ],
)
def test_a_worker_that_cannot_be_started(error, message, monkeypatch):
    start = workers._start

    def fail(context, *arguments):
        if arguments[-1][0] == 1:
            monkeypatch.setattr(type(context), "Pipe", raises(error))
        return start(context, *arguments)

    monkeypatch.setattr(workers, "_start", fail)
    with pytest.raises(DataError, match=message):
        list(DataLoader(Squares(), num_workers=2))
    assert not children()


def raises(error):
    def function(*arguments, **options):
        raise error

    return function


def running(pid):
    """Whether a process runs; one that ended and waits for its parent to ask does not."""
    if Path("/proc/self/stat").exists():
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


KERNEL = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to end a process that keeps Python's lock")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    "how, sample",
    [
        (signal.SIGINT, "time.sleep(0.05)"),
        (signal.SIGINT, "time.sleep(60)"),
        (signal.SIGKILL, "time.sleep(0.05)"),
        (signal.SIGKILL, "time.sleep(60)"),
        # A call into C that keeps Python's lock.
        pytest.param(signal.SIGKILL, "time.sleep(0.1), ctypes.PyDLL(None).sleep(60)", marks=KERNEL),
    ],
)
def test_workers_end_with_the_program(how, sample):
    end_program("main()", how, sample)


@KERNEL
def test_workers_of_another_thread_end_with_the_program():
    # The kernel counts the end of the thread that started a process as its parent's, which is not used then.
    run = "thread = threading.Thread(target=main); thread.start(); thread.join()"
    end_program(run, signal.SIGKILL, "time.sleep(0.1), ctypes.PyDLL(None).sleep(60)")


def end_program(run, how, sample):
    code = f"""
import ctypes, os, time, threading, multiprocessing, sys
from deepcore.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self): return 100
    def __getitem__(self, i):
        if i > 1: {sample}
        return bytes(200_000)
def main():
    for batch in DataLoader(Slow(), 1, num_workers=2, multiprocessing_context="fork"):
        print(*[p.pid for p in multiprocessing.active_children()], flush=True)
        time.sleep(0.1)
if __name__ == "__main__":
    {run}
"""
    if "fork" not in METHODS:
        pytest.skip("a program given by -c needs fork")
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        if "60" in sample:  # the workers are in it then, and the program waits
            time.sleep(0.5)
        program.send_signal(how)
        program.wait(10)
        deadline = time.monotonic() + 5
        while alive := [pid for pid in pids if running(pid)]:
            assert time.monotonic() < deadline, f"{alive} still run"
            time.sleep(0.02)
        if how == signal.SIGINT:
            assert b"KeyboardInterrupt" in program.stderr.read()
    assert len(pids) == 2


# -- IDX ----------------------------------------------------------------------------------------------
def idx(kind, shape, values=b"", head=b"\0\0"):
    return head + bytes((kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5)])
def test_idx_round_trip(kind, name, shape, tmp_path):
    array = (np.arange(np.prod(shape)) - 3).astype(kind).reshape(shape)
    write_idx(array, tmp_path / name)
    back = read_idx(tmp_path / name)
    assert back.dtype == array.dtype and back.dtype.isnative
    np.testing.assert_array_equal(back, array)
    before = (tmp_path / name).read_bytes()
    write_idx(back[...], tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert (before[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_idx_bytes(tmp_path):
    (tmp_path / "f").write_bytes(idx(0x0B, (2,), b"\x01\x00\xff\xfe"))
    assert read_idx(tmp_path / "f").tolist() == [256, -2]
    with pytest.raises(DeepcoreError):
        write_idx(np.zeros(2, np.int64), tmp_path / "f")
    with pytest.raises(ArgumentError):
        write_idx(np.uint8(1), tmp_path / "f")


GOOD = idx(8, (4,), b"abcd")
HOSTILE_IDX = {
    "empty": (b"", "not an IDX"),
    "magic": (b"\0\1\x08\1" + GOOD[4:], "not an IDX"),
    "type": (idx(7, (4,), b"abcd"), "not an IDX"),
    "no dimensions": (idx(8, (), b"a"), "not an IDX"),
    "65 dimensions": (idx(8, (1,) * 65, b"a"), "not an IDX"),
    "header cut": (GOOD[:6], "ends inside its header"),
    "truncated": (GOOD[:-1], "truncated"),
    "trailing": (GOOD + b"x", "after its last value"),
    "absurd": (idx(8, (1 << 20, 1 << 20)), "more than"),
    "overflow": (idx(8, (0xFFFFFFFF,) * 3), "more than"),
    "overflow beside 0": (idx(8, (0, *(0xFFFFFFFF,) * 3)), "more than"),
    "wraps to 4": (idx(8, (1 << 31, 1 << 31, 4), b"abcd"), "more than"),
    "lies": (idx(8, (1 << 20,), b"abcd"), "truncated|cannot hold"),
    "lies more": (idx(8, (1 << 30,), b"abcd"), "truncated|more than 67,108,864"),
    "pickle": (b"\x80\x04\x95" + b"\0" * 20, "pickle"),
}


@pytest.mark.parametrize("name", HOSTILE_IDX)
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_idx(name, packed, tmp_path):
    content, message = HOSTILE_IDX[name]
    (tmp_path / "f").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(FileFormatError, match="not an IDX" if packed and name == "pickle" else message):
        read_idx(tmp_path / "f")


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(idx(8, (500,), bytes(range(250)) * 2))
    for size in range(2, len(whole)):
        (tmp_path / "f").write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            read_idx(tmp_path / "f")
    for at in range(10, len(whole)):
        (tmp_path / "f").write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(FileFormatError):
            read_idx(tmp_path / "f")


def test_a_gzip_bomb_is_bounded_by_its_header(tmp_path):
    (tmp_path / "f").write_bytes(gzip.compress(idx(8, (10,), b"\0" * (64 << 20)), 1))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(FileFormatError, match="after its last value"):
            read_idx(tmp_path / "f")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # it was not unpacked
    (tmp_path / "f").write_bytes(gzip.compress(idx(8, (5000,), b"\0" * 5000)))
    with pytest.raises(FileFormatError, match="more than 4,999 bytes"):
        read_idx(tmp_path / "f", max_bytes=4999)


# -- the digits that come along -----------------------------------------------------------------------
def test_digits():
    train, test, whole = (digits(split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(whole)) == (1437, 360, 1797)
    x, y = test.tensors
    assert x.shape == (360, 1, 8, 8) and x.dtype == np.float32 and y.dtype == np.int64
    assert x.numpy().min() == 0.0 and x.numpy().max() == 1.0
    assert test.classes == tuple("0123456789")
    assert np.bincount(y.numpy()).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.bincount(train.tensors[1].numpy()).tolist() == [142, 145, 142, 146, 145, 146, 145, 143, 139, 144]
    assert digits("all", flatten=True).tensors[0].shape == (1797, 64)
    assert len(digits("train[:1000]")) == 1000 and len(digits("test[-10:]")) == 10
    together = np.concatenate([train.tensors[0].numpy(), x.numpy()]).reshape(1797, -1)
    rows = [sorted(row.tobytes() for row in images) for images in (together, whole.tensors[0].numpy())]
    assert rows[0] == rows[1]


def test_digits_are_those_of_uci():
    x, y = (t.numpy() for t in digits("all").tensors)
    values = (x * 16).astype(np.uint8)
    assert (
        hashlib.sha256(values.tobytes()).hexdigest()
        == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    )
    assert hashlib.sha256(y.astype(np.uint8).tobytes()).hexdigest()[:16] == "8ba4f891220f5e4c"
    attribution = (Path(datasets.__file__).parent / "digits.ATTRIBUTION.txt").read_text()
    assert "Alpaydin" in attribution and "CC BY 4.0" in attribution and "creativecommons.org" in attribution


def test_digits_on_a_backend(backend):
    assert digits("test", backend=backend).tensors[0].backend is get_backend(backend)


@pytest.mark.parametrize("split", ["tests", "", "test[1]", "test[:", None, "test[a:]"])
def test_unknown_splits(split):
    with pytest.raises(ArgumentError, match="there is no split"):
        digits(split)


# -- MNIST --------------------------------------------------------------------------------------------
@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of four small files, whose checksums count as those of MNIST."""
    folder = tmp_path / "published"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 6), ("t10k", 4)):
        write_idx(rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), folder / f"{prefix}-images-idx3-ubyte.gz")
        write_idx(np.arange(n).astype(np.uint8), folder / f"{prefix}-labels-idx1-ubyte.gz")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(datasets, "_MNIST_SHA256", sums)
    return folder


@pytest.fixture
def serve(monkeypatch):
    """serve(folder) is the URL of a server of that folder."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def start(folder, handler=Quiet):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    start.Quiet = Quiet
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_mnist_is_downloaded_once(published, serve, tmp_path, capsys):
    root = tmp_path / "new" / "mnist"
    url = serve(published)
    test = mnist(root, "test", mirrors=[url + "/missing", url], timeout=5)
    assert sorted(p.name for p in root.iterdir()) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert test.tensors[0].shape == (4, 1, 28, 28) and test.tensors[1].tolist() == [0, 1, 2, 3]
    assert "t10k-images" in capsys.readouterr().err
    again = mnist(root, "test[1:3]", mirrors=[], flatten=True)
    assert again.tensors[0].shape == (2, 784) and again.tensors[1].tolist() == [1, 2]
    assert len(mnist(root, "train", mirrors=[url])) == 6


def test_a_wrong_or_broken_download_leaves_nothing(published, serve, tmp_path):
    images = published / "t10k-images-idx3-ubyte.gz"
    whole = images.read_bytes()

    class Cut(serve.Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:100])

    cut = serve(published, Cut)
    images.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DataError, match=r"place t10k-images-idx3-ubyte\.gz") as caught:
        mnist(tmp_path / "root", "test", mirrors=[serve(published), cut], timeout=5)
    message = str(caught.value)
    # A port may have these digits in it.
    assert "SHA-256" in message and "ended after 100" in message and not re.search(r"\b404\b", message)
    assert "t10k-images-idx3-ubyte.gz" not in os.listdir(tmp_path / "root")


def test_mnist_without_network_says_what_to_place_where(tmp_path, monkeypatch, published):
    monkeypatch.setenv("no_proxy", "*")
    closed = "http://127.0.0.1:9"
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz and train-labels-idx1-ubyte\.gz") as caught:
        mnist(tmp_path, "train", mirrors=[closed], timeout=2)
    assert str(tmp_path) in str(caught.value) and closed in str(caught.value)
    with pytest.raises(DataError, match="download=False"):
        mnist(tmp_path, "test", download=False)
    with pytest.raises(DataError, match=r"split='test\[:8000\]'"):
        for file in published.glob("t10k*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        mnist(tmp_path, "train", download=False)


def test_mnist_finds_plain_files_and_the_shared_folder(published, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_cache", lambda: tmp_path / "cache")
    folder = tmp_path / "shared" / "mnist"
    folder.mkdir(parents=True)
    for file in published.iterdir():
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    with pytest.raises(DataError):
        mnist(download=False)
    monkeypatch.setattr(datasets, "settings", type("Settings", (), {"data_dir": str(tmp_path / "shred")}))
    with pytest.raises(DataError, match=r"DEEPCORE_DATA names no folder\n.*shred'"):
        mnist(download=False)
    monkeypatch.setattr(datasets, "settings", type("Settings", (), {"data_dir": str(folder.parent)}))
    assert len(mnist(download=False)) == 6
    write_idx(np.zeros(3, np.uint8), folder / "t10k-labels-idx1-ubyte")
    with pytest.raises(FileFormatError, match="belong together"):
        mnist(folder, "test", download=False)


def test_real_mnist():
    if not settings.data_dir or not (Path(settings.data_dir) / "mnist").is_dir():
        pytest.skip("DEEPCORE_DATA names no folder with mnist/")
    train, test = mnist(split="test[:8000]", download=False), mnist(split="test[8000:]", download=False)
    assert (len(train), len(test)) == (8000, 2000)
    assert np.bincount(test.tensors[1].numpy(), minlength=10).sum() == 2000
    assert 0.12 < train.tensors[0].numpy().mean() < 0.15


# -- samples from files -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "1,2,3\n4,5,6\n",
        "a,b,c\n1,2,3\n\n4,5,6",
        "1;2;3\r\n4;5;6",
        "1\t2\t3\n4\t5\t6",
        "1 2  3\n4 5 6",
        '\ufeff"1","2",3\n4,5,6',
    ],
)
def test_csv(text, tmp_path):
    (tmp_path / "f.csv").write_text(text, encoding="utf-8")
    samples = read_samples(tmp_path / "f.csv", (3, 1))
    assert samples.dtype == np.float32 and samples.shape == (2, 3, 1)
    assert samples.ravel().tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "content, error, message",
    [
        (b"1,2\n3\n", DataError, "2 cells.*\n.*1 in line 2"),
        (b"1,2\n3,x\n", DataError, "'x' in line 2, column 2"),
        (b"1,2\n3,\n", DataError, "'' in line 2"),
        (b"1,2\nnan,1\n", DataError, "missing value\n.*'nan' in line 2, column 1"),
        (b"1,1e99\n", DataError, "too large for float32\n.*\n.*'1e99' in line 1, column 2"),
        (b"", DataError, "no rows"),
        (b"a,b\n", DataError, "no rows"),
        (b"1,2,3,4\n", ShapeError, r"shape \(4,\)"),
        (b"\xff\xfe1\0,\x002\0", FileFormatError, "in UTF-16\n.*\n.*\n.*iconv -f UTF-16"),
        (b"1,2\n3,4\0\n", FileFormatError, "null byte.*\n.*line 2"),
        (b"1,2\n3,\xe9\n", FileFormatError, "not text in UTF-8\n.*byte 0xe9 in line 2\n"),
        (b"\x80\x04\x95}\x94.", FileFormatError, "a pickle"),
        (b"PK\x03\x04" + b"\0" * 40, FileFormatError, "zip"),
    ],
)
def test_bad_csv(content, error, message, tmp_path):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(error, match=message):
        read_samples(tmp_path / "f.csv", (2,))


def npy(array, path):
    with path.open("wb") as file:
        np.save(file, array)
    return path


def test_npy(tmp_path):
    values = np.arange(12.0).reshape(2, 6)
    path = npy(np.asfortranarray(values), tmp_path / "f")
    np.testing.assert_array_equal(read_samples(path, (2, 3)), values.reshape(2, 2, 3))
    np.testing.assert_array_equal(read_samples(path), values)
    assert read_samples(npy(values[0], path), (6,)).shape == (1, 6)
    assert read_samples(npy(values, path), (1, 3, 4)).tolist() == values.reshape(1, 1, 3, 4).tolist()  # one image
    with pytest.raises(ShapeError):
        read_samples(npy(values[0], path), (2, 3))
    np.testing.assert_allclose(read_samples(npy(np.array([[0, 255]], np.uint8), path)), [[0, 1]])
    assert read_samples(npy(np.array([[0, 255]]), path)).tolist() == [[0, 255]]


def test_bad_npy(tmp_path):
    good = npy(np.arange(12.0), tmp_path / "f").read_bytes()
    objects = npy(np.array([{}], object), tmp_path / "o").read_bytes()
    contents = [
        good[:-1],
        good + b"x",
        good[:20],
        objects,
        good.replace(b"(12,)", b"(2**9,)"),
        good.replace(b"<f8", b"<M8"),
        good.replace(b"}", b" "),
    ]
    contents.append(b"\x93NUMPY\x09\x00" + good[8:])
    for content in contents:
        (tmp_path / "f.npy").write_bytes(content)
        with pytest.raises(FileFormatError):
            read_samples(tmp_path / "f.npy")
    (tmp_path / "f.npy").write_bytes(b"1,2,3")
    with pytest.raises(FileFormatError, match="not an NPY"):
        read_samples(tmp_path / "f.npy")


def test_idx_samples(tmp_path):
    write_idx(np.full((3, 4, 4), 255, np.uint8), tmp_path / "f.gz")
    samples = read_samples(tmp_path / "f.gz", (1, 4, 4))
    assert samples.shape == (3, 1, 4, 4) and samples.min() == 1.0
    with pytest.raises(DataError, match="no samples"):
        write_idx(np.zeros((0, 2)), tmp_path / "f.gz")
        read_samples(tmp_path / "f.gz")


def test_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image.fromarray(pixels).save(tmp_path / "f.png")
    np.testing.assert_allclose(read_samples(tmp_path / "f.png")[0], pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
    grey = pixels[..., 0].copy()
    image.fromarray(grey).save(tmp_path / "g.png")
    for shape in (None, (1, 4, 4), (4, 4), (16,)):
        samples = read_samples(tmp_path / "g.png", shape)
        assert samples.shape == (1, *(shape or (1, 4, 4)))
        np.testing.assert_allclose(samples.ravel(), grey.ravel() / 255, rtol=1e-6)
    assert read_samples(tmp_path / "f.png", (1, 8, 6)).shape == (1, 1, 8, 6)
    image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_samples(tmp_path / "deep.png").ravel(), grey.ravel() / 255, rtol=1e-6)
    image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "f.jpg")
    np.testing.assert_allclose(read_samples(tmp_path / "f.jpg", (64,)), 100 / 255, atol=0.01)
    with pytest.raises(ShapeError, match="does not fill"):
        read_samples(tmp_path / "f.png", (7,))
    (tmp_path / "cut.png").write_bytes((tmp_path / "f.png").read_bytes()[:50])
    with pytest.raises(FileFormatError, match="cannot be decoded"):
        read_samples(tmp_path / "cut.png")


def test_images_that_are_transparent_or_turned(tmp_path):
    image = pytest.importorskip("PIL.Image")
    ink = np.zeros((4, 4), np.uint8)
    ink[0] = 255
    for stroke, background in ((0, 1.0), (255, 0.0)):
        drawing = np.dstack([np.full_like(ink, stroke)] * 3 + [ink])
        image.fromarray(drawing).save(tmp_path / "f.png")
        image.fromarray(drawing).convert("LA").save(tmp_path / "g.png")
        for name in ("f.png", "g.png"):
            found = read_samples(tmp_path / name, (4, 4))[0]
            assert (found[0] == 1 - background).all() and (found[1:] == background).all()
    exif = image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.fromarray(np.rot90(ink)).save(tmp_path / "f.jpg", exif=exif)
    np.testing.assert_allclose(read_samples(tmp_path / "f.jpg", (4, 4))[0], ink / 255, atol=0.1)


def test_an_image_too_large_to_be_true(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    image.new("L", (100, 100)).save(tmp_path / "f.png")
    for limit in (9_000, 4_000):
        monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(FileFormatError, match="cannot be decoded"):
            read_samples(tmp_path / "f.png")


def test_images_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "f.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        read_samples(tmp_path / "f.png")
