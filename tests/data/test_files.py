"""Arrays in NumPy's files, ratings, and batches copied ahead."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import threading
import time
import zipfile
from collections import namedtuple

import numpy as np
import pytest

import deepcore as dc
from deepcore.backend import get_backend
from deepcore.data import DataLoader, Dataset, IterableDataset, MovieLens, NumpyFiles, Subset, TensorDataset, prefetch
from deepcore.errors import ArgumentError, DataError, DeepcoreError, FileFormatError
from deepcore.io.npy import open_npy, read_npy, read_npz


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(50, 3, 4)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 5, 50))
    for i, part in enumerate(np.array_split(np.load(tmp_path / "x.npy"), [7, 7, 30])):
        np.save(tmp_path / f"x{i}.npy", part)
    np.savez(tmp_path / "both.npz", x=np.load(tmp_path / "x.npy"), y=np.load(tmp_path / "y.npy"))
    np.savez_compressed(tmp_path / "one.npz", np.load(tmp_path / "y.npy"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "unpickled").exists()


# -- arrays -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.array([True, False]),
        np.float64(3),
        np.zeros((0, 5), np.uint8),
        np.arange(3, dtype=">f4"),
    ],
)
def test_arrays_mapped_and_read(tmp_path, array):
    np.save(tmp_path / "f.npy", array)
    for read in (open_npy, read_npy):
        found = read(tmp_path / "f.npy")
        assert found.dtype == array.dtype and found.shape == array.shape
        assert not (found.size and found.flags.writeable)
        np.testing.assert_array_equal(found, array)
    np.savez(tmp_path / "f.npz", a=array, b=array)
    found = read_npz(tmp_path / "f.npz", ["b"])
    assert list(found) == ["b"]
    np.testing.assert_array_equal(found["b"], array)


FILES = [
    ("x.npy", "y.npy"),
    (["x0.npy", "x1.npy", "x2.npy", "x3.npy"], "y.npy"),
    ("both.npz:x", "both.npz:y"),
    ("x.npy", "one.npz"),
]


@pytest.mark.parametrize("files", FILES)
def test_a_dataset_of_files(backend, folder, files):
    x, y = np.load("x.npy"), np.load("y.npy")
    data = NumpyFiles(*files)
    assert len(data) == 50
    for i in (0, 6, 7, 29, 49, -1):
        a, b = data[i]
        np.testing.assert_array_equal(a, x[i])
        assert b == y[i] and a.flags.writeable
    expected = [
        (u.numpy(), v.numpy()) for u, v in DataLoader(TensorDataset(x, y), 8, shuffle=True, seed=1, drop_last=True)
    ]
    for workers in (0, 2):
        loader = DataLoader(data, 8, shuffle=True, seed=1, drop_last=True, num_workers=workers, backend=backend)
        for (u, v), (a, b) in zip(loader, expected, strict=True):
            assert u.backend is v.backend is get_backend(backend)
            np.testing.assert_array_equal(u.numpy(), a)
            np.testing.assert_array_equal(v.numpy(), b)
    part = Subset(data, [3, 40, 8])
    np.testing.assert_array_equal(next(iter(DataLoader(part, 3, num_workers=1)))[0].numpy(), x[[3, 40, 8]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[9][0], x[9])
    assert len(pickle.dumps(data)) < 1000, "the file's name, not its content"


def test_a_transform_is_applied_to_samples(folder):
    data = NumpyFiles("x.npy", transform=lambda row: row.sum())
    batch = next(iter(DataLoader(data, 4)))
    np.testing.assert_allclose(batch.numpy(), np.load("x.npy")[:4].sum((1, 2)), rtol=1e-5)
    pairs = NumpyFiles("x.npy", "y.npy", transform=lambda sample: sample[1])
    assert pairs[3] == np.load("y.npy")[3]


def test_batches_of_a_subclass_with_its_own_samples(folder):
    class Doubled(NumpyFiles):
        def __getitem__(self, index):
            return tuple(2 * a for a in super().__getitem__(index))

    batch = next(iter(DataLoader(Doubled("x.npy"), 4)))[0]
    np.testing.assert_allclose(batch.numpy(), 2 * np.load("x.npy")[:4])


def test_files_are_read_by_pages(tmp_path):
    """A sparse file of 8 GiB: only the rows that are used are read."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 25, 64)})
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        file.write(head.getvalue())
        try:
            file.truncate(len(head.getvalue()) + (1 << 33))
        except OSError:
            pytest.skip("the file system has no sparse files of 8 GiB")
        file.seek(len(head.getvalue()) + 4 * 64 * 30_000_000)
        file.write(np.arange(64, dtype=np.float32).tobytes())
    data = NumpyFiles(path)
    begin = time.perf_counter()
    assert len(data) == 1 << 25
    batch = data.get_batch(np.array([30_000_000, 5, 30_000_000]))[0]
    np.testing.assert_array_equal(batch, [np.arange(64), np.zeros(64), np.arange(64)])
    assert time.perf_counter() - begin < 2


def npy(header: bytes, version=b"\1\0", length=None):
    size = len(header) if length is None else length
    return b"\x93NUMPY" + version + size.to_bytes(2 if version == b"\1\0" else 4, "little") + header


def npz(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


GOOD = saved(np.arange(5.0))
OBJECTS = np.array([Attack(), None], dtype=object)
HOSTILE = {
    "objects": (saved(OBJECTS, allow_pickle=True), "values of type"),
    "records": (saved(np.zeros(3, "i4,f8")), "records"),
    "text": (saved(np.array(["a"])), "values of type"),
    "complex": (saved(np.zeros(3, complex)), "values of type"),
    "truncated": (GOOD[:-3], "takes 40 bytes and 37"),
    "more": (GOOD + b"x", "takes 40 bytes and 41"),
    "no header": (npy(b""), "bad NPY header"),
    "code": (npy(b"__import__('os').mkdir('unpickled')"), "bad NPY header"),
    "long header": (npy(b"{" + b" " * 60_000, length=60_001), "bad NPY header"),
    "huge": (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,)}"), "damaged|takes"),
    "negative": (npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"), "bad NPY header"),
    "empty": (b"", "bad NPY header"),
    "pickle": (pickle.dumps(Attack()), "pickle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays(folder, name):
    content, words = HOSTILE[name]
    (folder / "f.npy").write_bytes(content)
    for read in (open_npy, read_npy, NumpyFiles):
        with pytest.raises(FileFormatError, match=words) as caught:
            read(folder / "f.npy")
        assert "f.npy" in str(caught.value)
    (folder / "f.npz").write_bytes(npz(**{"a.npy": content}))
    with pytest.raises(FileFormatError) as caught:
        read_npz(folder / "f.npz")
    assert "f.npz" in str(caught.value)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"PK\3\4 damaged", "cannot be unpacked"),
        (GOOD, "NumPy array"),
        (b"", "no NPZ"),
        (npz(**{"a.npy": saved(np.zeros(1 << 24))}), "unpacks to"),
        (npz(**{"a.npy": npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999,)}")}), "damaged"),
        (npz(**{str(i): b"" for i in range(10_001)}), "10,001 members"),
    ],
)
def test_hostile_archives(folder, content, words):
    (folder / "f.npz").write_bytes(content)
    begin = time.perf_counter()
    with pytest.raises(FileFormatError, match=words):
        read_npz(folder / "f.npz")
    assert time.perf_counter() - begin < 2


def test_any_damage_is_a_typed_error(folder):
    rng = np.random.default_rng(0)
    archive = npz(**{"a.npy": GOOD})
    for content, read in ((GOOD, open_npy), (archive, read_npz)):
        for _ in range(100):
            data = bytearray(content)
            for place in rng.integers(0, len(data), 2):
                data[place] = rng.integers(256)
            (folder / "f").write_bytes(data)
            with contextlib.suppress(DeepcoreError):
                read(folder / "f")


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: NumpyFiles(), ArgumentError, "at least one"),
        (lambda: NumpyFiles("absent.npy"), FileNotFoundError, "absent.npy"),
        (lambda: NumpyFiles("x.npy", "x0.npy"), DataError, "differ in length"),
        (lambda: NumpyFiles(["x.npy", "y.npy"]), DataError, "one dtype"),
        (lambda: NumpyFiles("both.npz"), DataError, "both.npz:x"),
        (lambda: NumpyFiles("both.npz:z"), DataError, "no array 'z'"),
        (lambda: NumpyFiles("x.npy")["a"], ArgumentError, "by its number"),
        (lambda: NumpyFiles("x.npy")[50], IndexError, "no sample 50"),
        (lambda: (np.save("n.npy", np.float32(1)), NumpyFiles("n.npy")), FileFormatError, "single number"),
        (
            lambda: (np.save("l.npy", np.zeros(3, np.longdouble)), NumpyFiles("l.npy")),
            FileFormatError,
            "float128|longdouble",
        ),
        (lambda: (np.save("b.npy", np.zeros(3, ">f4")), NumpyFiles("b.npy")), FileFormatError, "byte order"),
    ],
)
def test_errors_name_the_fault(folder, call, error, words):
    with pytest.raises(error, match=words):
        call()


# -- ratings ------------------------------------------------------------------------------------------
ROWS = [(7, 500, 3.5, 1_500_000_001), (3, 20, 5.0, 881250949), (7, 20, 0.5, 1_500_000_000), (9, 193_609, 4.0, 0)]


@pytest.mark.parametrize("name", ["ratings.csv", "u.data"])
def test_ratings(tmp_path, backend, name):
    separator = "," if name.endswith("csv") else "\t"
    lines = [separator.join(map(str, row)) for row in ROWS]
    if name.endswith("csv"):
        lines.insert(0, "userId,movieId,rating,timestamp")
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    for root in (tmp_path, tmp_path / name):
        data = MovieLens(root, backend=backend)
        assert (len(data), data.num_users, data.num_items) == (4, 3, 3)
        users, items, ratings = (t.numpy() for t in data.tensors)
        assert users.dtype == items.dtype == np.int64 and ratings.dtype == np.float32
        assert data.user_ids[users].tolist() == [row[0] for row in ROWS]
        assert data.item_ids[items].tolist() == [row[1] for row in ROWS]
        assert ratings.tolist() == [row[2] for row in ROWS]
        assert data.timestamps.tolist() == [row[3] for row in ROWS], "to the second"
        early = Subset(data, np.argsort(data.timestamps)[:2])
        assert next(iter(DataLoader(early, 2)))[2].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", "no column 'timestamp'"),
        ("u.data", "1\t2\t3\n", "no file of ratings"),
        ("u.data", "1.5\t2\t3\t4\n", "user that is not a whole number"),
        ("u.data", "1\t2\tx\t4\n", "not a number"),
        ("u.data", "1\t2\t3\t4\n1\t2\t\t4\n", "line 2"),
        ("ratings.dat", "1::2::3::4\n", "convert ratings.dat"),
        ("readme", "", "has no ratings"),
    ],
)
def test_faults_of_ratings(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        MovieLens(tmp_path)


def test_several_samples_at_once(backend):
    """PyTorch's `__getitems__`."""

    class Several(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            raise AssertionError("one at a time")

        def __getitems__(self, indices):
            return [np.full(2, i) for i in indices]

    for workers in (0, 1):
        batches = [b.tolist() for b in DataLoader(Several(), 2, num_workers=workers, backend=backend)]
        assert batches == [[[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]]]


# -- copies ahead -------------------------------------------------------------------------------------
class Mixed(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, i):
        return {"x": np.full((2, 3), i, np.float32), "y": i, "noise": dc.rand(2), "text": str(i)}


class Stream(IterableDataset):
    def __iter__(self):
        return (np.full(3, i, np.float32) for i in range(7))


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_are_equal(backend, workers):
    runs = []
    for pin in (False, True):
        loader = DataLoader(Mixed(), 3, shuffle=True, seed=2, num_workers=workers, backend=backend, pin_memory=pin)
        runs.append(list(loader))
        assert loader.state_dict()["epoch"] == 1 and loader.position == 0
    assert len(runs[0]) == len(runs[1]) == 4
    for plain, pinned in zip(*runs):
        assert pinned["text"] == plain["text"]
        for name in ("x", "y", "noise"):
            assert pinned[name].backend is plain[name].backend is get_backend(backend)
            assert pinned[name].numpy().tobytes() == plain[name].numpy().tobytes()
    stream = [b.numpy()[:, 0].tolist() for b in DataLoader(Stream(), 3, backend=backend, pin_memory=True)]
    assert stream == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_pass_left_early_counts_what_was_delivered(backend):
    loader = DataLoader(Mixed(), 2, backend=backend, pin_memory=True)
    batches = iter(loader)
    next(batches)
    assert loader.position == 1
    copy = DataLoader(Mixed(), 2, backend=backend, pin_memory=True)
    copy.load_state_dict(loader.state_dict())
    assert next(iter(copy))["text"] == next(batches)["text"] == ["2", "3"]
    batches.close()


def test_prefetch_is_one_ahead(backend):
    asked = []

    def source():
        for i in range(4):
            asked.append(i)
            yield (np.full(2, i), [dc.ones(1) * i], "text", None)

    seen = []
    for number, (a, (b,), text, nothing) in enumerate(prefetch(source(), backend)):
        assert asked == list(range(min(number + 2, 4))), "one more than was given"
        assert a.backend is b.backend is get_backend(backend) and text == "text" and nothing is None
        seen.append((a.tolist(), b.item()))
    assert seen == [([i, i], i) for i in range(4)]
    assert list(prefetch([], backend)) == []
    Pair = namedtuple("Pair", "x y")
    pair = next(prefetch([Pair(np.ones(2), 3)], backend))
    assert isinstance(pair, Pair) and pair.x.tolist() == [1, 1] and pair.y == 3
    kept = next(prefetch([np.ones(2)], backend, arrays=False))
    assert isinstance(kept, np.ndarray)
    on_it = dc.ones(2, backend=backend)
    assert next(prefetch([on_it], backend)) is on_it


def test_a_fault_in_the_source_is_raised(backend):
    def source():
        yield np.zeros(1)
        yield np.zeros(1)
        raise DataError("the end of the world")

    batches = prefetch(source(), backend)
    next(batches)
    with pytest.raises(DataError, match="end of the world"):
        list(batches)


def test_copies_in_several_threads(backend):
    results = {}

    def walk(name):
        loader = DataLoader(Mixed(), 2, backend=backend, pin_memory=True, seed=1)
        results[name] = [b["x"].numpy()[:, 0, 0].tolist() for b in loader]

    threads = [threading.Thread(target=walk, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == results[2] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
