"""Datasets that are walked in their own order: `IterableDataset`, `ChainDataset`, loaders and training over them."""

import itertools

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import ChainDataset, DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info
from deepcore.errors import ArgumentError, DataError


class Numbers(IterableDataset):
    """The numbers start to stop, shared among workers."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(self.start + first, self.stop, step))


class Sized(Numbers):
    def __len__(self):
        return self.stop - self.start


class Drawn(IterableDataset):
    """Samples with a random number each, from deepcore's generator."""

    def __iter__(self):
        for i in range(7):
            yield np.float32(i), dc.rand(2).numpy()


class Faulty(IterableDataset):
    def __iter__(self):
        yield from range(5)
        raise OSError("the stream broke")


class Nested(IterableDataset):
    def __iter__(self):
        for i in range(4):
            yield {"x": np.full(3, i, np.float32), "name": f"n{i}"}


def batches(loader):
    return [batch.tolist() for batch in loader]


def twice(samples):
    return dc.tensor(samples) * 2


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 20])
def test_batches_in_order(batch_size, drop_last):
    loader = DataLoader(Numbers(0, 10), batch_size, drop_last=drop_last)
    expected = [list(range(10))[i : i + batch_size] for i in range(0, 10, batch_size)]
    if drop_last:
        expected = [b for b in expected if len(b) == batch_size]
    assert batches(loader) == expected
    assert batches(loader) == expected  # the next pass begins anew


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # PyTorch's, on a machine with fewer cores
@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_as_pytorch_with_workers(workers, batch_size):
    torch = pytest.importorskip("torch")

    class Theirs(torch.utils.data.IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            first, step = (0, 1) if info is None else (info.id, info.num_workers)
            return iter(range(first, 11, step))

    theirs = torch.utils.data.DataLoader(Theirs(), batch_size=batch_size, num_workers=workers)
    ours = DataLoader(Numbers(0, 11), batch_size, num_workers=workers)
    expected = [b.tolist() if hasattr(b, "tolist") else b for b in theirs]
    assert [b.tolist() if hasattr(b, "tolist") else b for b in ours] == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_start_by_any_method(method):
    loader = DataLoader(Numbers(0, 5), 2, num_workers=2, multiprocessing_context=method, collate_fn=twice)
    assert batches(loader) == [[0, 4], [2, 6], [8]]


def test_single_samples_of_an_indexed_dataset():
    data = TensorDataset(dc.arange(4), dc.arange(4) * 10)
    assert [(int(x), int(y)) for x, y in DataLoader(data, batch_size=None)] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert len(DataLoader(data, batch_size=None)) == 4
    shuffled = DataLoader(data, batch_size=None, shuffle=True, seed=3)
    assert sorted(int(x) for x, _ in shuffled) == [0, 1, 2, 3]
    whole = DataLoader(data, batch_size=None, sampler=[2, 0], collate_fn=lambda sample: int(sample[1]))
    assert list(whole) == [20, 0]


def test_structures_are_collated():
    first, last = DataLoader(Nested(), 3)
    assert first["x"].shape == (3, 3) and first["name"] == ["n0", "n1", "n2"]
    assert last["x"].tolist() == [[3.0, 3.0, 3.0]]


def test_draws_are_a_function_of_seed_and_epoch():
    def drawn(seed):
        return [u.tolist() for _, u in DataLoader(Drawn(), 2, seed=seed)]

    assert drawn(1) == drawn(1) != drawn(2)
    loader = DataLoader(Drawn(), 2, seed=1)
    first, second = [u.tolist() for _, u in loader], [u.tolist() for _, u in loader]
    assert first == drawn(1) and second != first


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_delivers_the_rest(workers):
    whole = [u.tolist() for _, u in DataLoader(Drawn(), 2, seed=5, num_workers=workers)]
    loader = DataLoader(Drawn(), 2, seed=5, num_workers=workers)
    begun = iter(loader)
    next(begun), next(begun)
    state = loader.state_dict()
    begun.close()
    other = DataLoader(Drawn(), 2, seed=0, num_workers=workers)
    other.load_state_dict(state)
    assert [u.tolist() for _, u in other] == whole[2:]


def test_chain():
    chain = Numbers(0, 2) + Numbers(5, 8)
    assert isinstance(chain, ChainDataset) and list(chain) == [0, 1, 5, 6, 7]
    assert len(ChainDataset([Sized(0, 2), Sized(0, 3)])) == 5
    with pytest.raises(TypeError):
        len(chain)
    with pytest.raises(ArgumentError, match="ConcatDataset"):
        ChainDataset([TensorDataset(dc.ones(2))])


def test_length():
    assert len(DataLoader(Sized(0, 10), 3)) == 4 and len(DataLoader(Sized(0, 10), 3, drop_last=True)) == 3
    with pytest.raises(TypeError):
        len(DataLoader(Numbers(0, 10), 3))
    assert "Numbers" in repr(DataLoader(Numbers(0, 10), 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_stream_names_the_sample(workers):
    with pytest.raises(OSError, match="the stream broke") as caught:
        list(DataLoader(Faulty(), 2, num_workers=workers))
    assert any("sample 5 of a Faulty" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DataLoader(Numbers(0, 3), shuffle=True), "shuffle"),
        (lambda: DataLoader(Numbers(0, 3), sampler=[0]), "sampler"),
        (lambda: DataLoader(Numbers(0, 3), batch_sampler=[[0]]), "batch_sampler"),
        (lambda: DataLoader(Numbers(0, 3), batch_size=None, drop_last=True), "drop_last"),
        (lambda: DataLoader(iter([1, 2])), "IterableDataset"),
        (lambda: Numbers(0, 3)[0], "islice"),
    ],
)
def test_wrong_uses(make, text):
    with pytest.raises(ArgumentError, match=text):
        make()


def test_an_abstract_dataset_says_what_to_define():
    with pytest.raises(NotImplementedError, match="__iter__"):
        list(IterableDataset())
    with pytest.raises(TypeError):
        len(Dataset())


class Pairs(IterableDataset):
    """A line's points, in batches whose number only the end tells."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            x = np.float32(i / self.count)
            yield np.array([x]), np.array([3 * x + 1])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_over_a_stream(accumulate, backend, capsys):
    dc.manual_seed(0)
    model = dc.nn.Linear(1, 1, backend=backend)
    trainer = dc.Trainer(
        model, dc.optim.SGD(model.parameters(), lr=0.05), dc.nn.MSELoss(), accumulate=accumulate, backend=backend
    )
    history = trainer.fit(Pairs(22), epochs=3, batch_size=4, validation=Pairs(5))
    assert history["loss"][-1] < history["loss"][0]
    listed = dc.nn.Linear(1, 1, backend=backend)
    dc.manual_seed(0)
    listed.reset_parameters()
    other = dc.Trainer(
        listed, dc.optim.SGD(listed.parameters(), lr=0.05), dc.nn.MSELoss(), accumulate=accumulate, backend=backend
    )
    same = other.fit(list(Pairs(22)), epochs=3, batch_size=4, shuffle=False, validation=list(Pairs(5)))
    assert history["loss"] == same["loss"] and history["val_loss"] == same["val_loss"]


def test_a_stream_that_ends_after_one_pass_is_named():
    source = iter(list(Pairs(8)))

    class Once(IterableDataset):
        def __iter__(self):
            return source

    model = dc.nn.Linear(1, 1)
    trainer = dc.Trainer(model, dc.optim.SGD(model.parameters(), lr=0.1), dc.nn.MSELoss())
    with pytest.raises(DataError, match="no batch in epoch 2"):
        trainer.fit(Once(), epochs=2, batch_size=4)


def test_islice_gives_the_first_samples():
    assert list(itertools.islice(Numbers(3, 100), 4)) == [3, 4, 5, 6]
