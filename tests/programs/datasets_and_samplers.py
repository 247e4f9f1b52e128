"""Own datasets, samplers and collate functions: ragged batches, balanced classes, buckets by length, splits, streams."""

import math
from collections import Counter, defaultdict

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)  # fmt: skip
from torch.utils.data.dataloader import default_collate
from torch.utils.data.sampler import SubsetRandomSampler


class Sentences(Dataset):
    def __init__(self, n):
        rng = np.random.default_rng(0)
        self.items = [(torch.from_numpy(rng.integers(1, 9, k)), int(k % 3 == 0)) for k in rng.integers(1, 7, n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        tokens, label = self.items[index]
        return {"tokens": tokens, "label": label, "length": len(tokens)}


class Squares(IterableDataset):
    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def __iter__(self):
        worker_info = torch.utils.data.get_worker_info()
        assert worker_info is None
        return iter(i * i for i in range(self.start, self.end))


class BucketSampler(Sampler):
    """Batches of sentences of the same length."""

    def __init__(self, dataset, batch_size):
        self.batch_size = batch_size
        self.buckets = defaultdict(list)
        for i in range(len(dataset)):
            self.buckets[dataset[i]["length"]].append(i)

    def __iter__(self):
        for length in sorted(self.buckets):
            indices = self.buckets[length]
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    def __len__(self):
        return sum(math.ceil(len(b) / self.batch_size) for b in self.buckets.values())


def pad_collate(batch):
    longest = max(b["length"] for b in batch)
    tokens = torch.stack([torch.nn.functional.pad(b["tokens"], (0, longest - b["length"])) for b in batch])
    return tokens, torch.tensor([b["label"] for b in batch]), [b["length"] for b in batch]


def main():
    data = Sentences(30)
    padded = [tokens for tokens, _, _ in DataLoader(data, batch_size=8, collate_fn=pad_collate)]
    buckets = list(DataLoader(data, batch_sampler=BucketSampler(data, 4)))
    assert all(len(set(b["length"].tolist())) == 1 for b in buckets)
    print(len(buckets), [tuple(b["tokens"].shape) for b in buckets[:3]])

    generator = torch.Generator().manual_seed(42)
    train, val, test = random_split(data, [0.6, 0.2, 0.2], generator=generator)
    together = sorted([*train.indices, *val.indices, *test.indices])
    print(len(train), len(val), len(test), together == list(range(30)))
    again = random_split(data, [18, 6, 6], generator=torch.Generator().manual_seed(42))
    assert list(again[0].indices) == list(train.indices)

    labels = [d["label"] for d in data]
    count = Counter(labels)
    sampler = WeightedRandomSampler([1.0 / count[y] for y in labels], num_samples=2000, replacement=True)
    share = np.mean([labels[i] for i in sampler])
    print(abs(share - 0.5) < 0.06, len(sampler))
    seen = [
        i
        for batch in DataLoader(list(range(10)), batch_size=4, sampler=SubsetRandomSampler([1, 3, 5]))
        for i in batch.tolist()
    ]
    print(sorted(seen))
    shuffled = [b.tolist() for b in DataLoader(torch.arange(12), batch_size=5, shuffle=True, drop_last=True)]
    print(len(shuffled), len({i for b in shuffled for i in b}))

    print([b.tolist() for b in DataLoader(Squares(0, 7), batch_size=3)])
    print([x.shape == (2,) for x in DataLoader(torch.ones(3, 2), batch_size=None, prefetch_factor=None)])
    print(list(BatchSampler(SequentialSampler(range(5)), batch_size=2, drop_last=False)))
    joined = ConcatDataset([TensorDataset(torch.arange(3.0)), Subset(TensorDataset(torch.arange(10.0)), [9, 8])])
    print([joined[i][0].item() for i in range(len(joined))], joined.cumulative_sizes)
    nested = default_collate([{"a": (1, True), "b": np.float32(3)}, {"a": (4, False), "b": np.float32(6)}])
    mean = torch.cat([x for (x,) in DataLoader(joined, batch_size=2)]).mean()
    return {"padded": padded, "labels": [b["label"] for b in buckets], "nested": nested, "mean": mean,
            "ones": len(DataLoader(data, batch_size=7)), "drop": len(DataLoader(data, batch_size=7, drop_last=True))}  # fmt: skip
