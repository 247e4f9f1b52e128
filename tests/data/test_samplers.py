"""Datasets made of others, samplers, and how a loader uses them."""

from __future__ import annotations

import os

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_convert,
)
from deepcore.errors import ArgumentError, DataError, IndexRangeError


def numbers(count: int = 10) -> TensorDataset:
    """Sample i is (i,)."""
    return TensorDataset(np.arange(count))


def order(loader) -> list[int]:
    """The samples of a pass."""
    return [int(i) for batch in loader for i in batch[0]]


def test_datasets_one_after_the_other():
    both = numbers(3) + numbers(5)
    assert isinstance(both, ConcatDataset) and len(both) == 8 and both.cumulative_sizes == [3, 8]
    first, second = numbers(3), numbers(5)
    assert [int(both[i][0]) for i in range(8)] == [int(d[i][0]) for d in (first, second) for i in range(len(d))]
    assert int(both[-1][0]) == int(second[4][0]) and int(both[-8][0]) == int(first[0][0])
    with pytest.raises(IndexRangeError, match="no sample 8"):
        both[8]
    with pytest.raises(ArgumentError, match="at least one"):
        ConcatDataset([])
    with pytest.raises(ArgumentError, match="__len__"):
        ConcatDataset([iter([1])])


def test_datasets_side_by_side():
    pairs = StackDataset(range(4), list("abcd"))
    assert pairs[1] == (1, "b") and pairs[-1] == (3, "d") and len(pairs) == 4
    named = StackDataset(image=np.arange(6).reshape(3, 2), label=[0, 1, 2])
    batch = next(iter(DataLoader(named, 3)))
    assert batch["image"].tolist() == [[0, 1], [2, 3], [4, 5]] and batch["label"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="differ in length"):
        StackDataset(range(3), range(4))
    with pytest.raises(ArgumentError, match="by name"):
        StackDataset()


def test_random_samplers():
    chosen = SubsetRandomSampler([5, 7, 11, 13], seed=3)
    zero = list(chosen)
    assert sorted(zero) == [5, 7, 11, 13] and len(chosen) == 4 and list(chosen) == zero
    orders = set()
    for epoch in range(20):
        chosen.set_epoch(epoch)
        orders.add(tuple(chosen))
    assert len(orders) > 10
    more = RandomSampler(range(3), seed=0, num_samples=8)
    assert len(more) == 8 and [sorted(list(more)[i : i + 3]) for i in (0, 3)] == [[0, 1, 2]] * 2
    drawn = np.bincount(list(RandomSampler(range(4), seed=1, replacement=True, num_samples=40_000)), minlength=4)
    assert abs(drawn / 40_000 - 0.25).max() < 0.01
    first, second = (list(RandomSampler(range(50), generator=dc.Generator(7))) for _ in range(2))
    assert first == second != sorted(first)


def test_weighted_samplers():
    weights = [0.0, 1.0, 3.0, 6.0]
    drawn = np.bincount(list(WeightedRandomSampler(weights, 50_000, seed=2)), minlength=4) / 50_000
    assert abs(drawn - np.array(weights) / 10).max() < 0.01
    firsts = np.zeros(4)
    sampler = WeightedRandomSampler(dc.tensor(weights), 3, replacement=False, seed=0)
    for epoch in range(3000):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == [1, 2, 3]
        firsts[order[0]] += 1
    assert abs(firsts / 3000 - np.array(weights) / 10).max() < 0.04
    for arguments, message in (
        (([1.0, -1.0], 1), "at least 0"), (([0.0], 1), "weights above 0"), (([1.0, 0.0], 2, False), "replacement=True"),
        (([1.0], 0), "num_samples"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            WeightedRandomSampler(*arguments)


def test_batches_of_a_sampler():
    batches = BatchSampler(SequentialSampler(range(10)), 3, False)
    assert list(batches) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]] and len(batches) == 4
    assert list(BatchSampler(range(10), 3, True))[-1] == [6, 7, 8] and len(BatchSampler(range(10), 3, True)) == 3
    loader = DataLoader(numbers(10), batch_sampler=BatchSampler(RandomSampler(range(10), seed=1), 4))
    passes = [order(loader) for _ in range(2)]
    assert len(loader) == 3 and [sorted(p) for p in passes] == [list(range(10))] * 2 and passes[0] != passes[1]
    assert [b[0].shape[0] for b in DataLoader(numbers(10), batch_sampler=[[1, 2], [3]])] == [2, 1]
    with pytest.raises(ArgumentError, match="batch_sampler excludes"):
        DataLoader(numbers(10), batch_size=2, batch_sampler=[[1]])
    with pytest.raises(IndexRangeError, match="a batch"):
        list(DataLoader(numbers(10), batch_sampler=[[10]]))
    with pytest.raises(ArgumentError, match="__len__"):
        DataLoader(numbers(10), batch_sampler=3)


@pytest.mark.parametrize("drop_last", [False, True])
def test_shares_of_processes(drop_last):
    torch = pytest.importorskip("torch")
    for shuffle in (False, True):
        shares = [DistributedSampler(range(11), 3, rank, shuffle, drop_last=drop_last) for rank in range(3)]
        lengths = {len(s) for s in shares} | {len(list(s)) for s in shares}
        assert lengths == {3 if drop_last else 4} and {i for s in shares for i in s} >= (
            set(range(11)) if not drop_last else set()
        )
        if not shuffle:
            theirs = [
                torch.utils.data.DistributedSampler(range(11), 3, rank, False, drop_last=drop_last) for rank in range(3)
            ]
            assert [list(s) for s in shares] == [list(s) for s in theirs]
    shares[0].set_epoch(1)
    with pytest.raises(ArgumentError, match="num_replicas=n"):
        DistributedSampler(range(11))
    with pytest.raises(ArgumentError, match="0 to 2"):
        DistributedSampler(range(11), 3, 3)


def _count_in_file(number: int) -> None:
    with open(os.environ["DEEPCORE_TEST_WORKERS"], "a") as file:
        file.write(f"{number}\n")


def _refuse(number: int) -> None:
    raise ValueError(f"worker {number} will not")


def test_a_function_begins_each_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCORE_TEST_WORKERS", str(tmp_path / "workers"))
    loader = DataLoader(
        StackDataset(range(8)), 2, num_workers=2, worker_init_fn=_count_in_file, persistent_workers=True
    )
    assert len(list(loader)) == 4
    assert sorted((tmp_path / "workers").read_text().split()) == ["0", "1"]
    with pytest.raises(ValueError, match="will not"):
        list(DataLoader(StackDataset(range(8)), 2, num_workers=1, worker_init_fn=_refuse))


def test_a_generator_decides_about_the_order():
    runs = [order(DataLoader(numbers(20), 5, shuffle=True, generator=dc.Generator(3))) for _ in range(2)]
    assert runs[0] == runs[1] != order(DataLoader(numbers(20), 5, shuffle=True, generator=dc.Generator(4)))
    with pytest.raises(ArgumentError, match="seed and generator"):
        DataLoader(numbers(), generator=dc.Generator(3), seed=1)


def test_default_convert():
    got = default_convert({"a": np.ones(2), "b": ["text", np.float32(3)], "c": (dc.ones(1), 4)})
    assert isinstance(got["a"], dc.Tensor) and got["b"][0] == "text" and got["c"][1] == 4
