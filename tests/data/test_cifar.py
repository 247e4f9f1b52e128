"""CIFAR-10 and CIFAR-100 from the files as published, and the reader of their pickles, which runs nothing."""

from __future__ import annotations

import os
import pickle
import random
import struct

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import cifar
from deepcore.errors import ArgumentError, DataError, FileFormatError
from deepcore.io import pickles
from deepcore.io.pickles import read_pickled_dict


def samples(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072)).astype(np.uint8), rng.integers(0, classes, n)


def python2(value) -> bytes:
    """`value` as Python 2 with an old NumPy pickles it: text is bytes, and arrays name numpy.core."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        short = len(value) < 256
        return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value + b"q\x01"
    if isinstance(value, dict):
        return b"}q\x02(" + b"".join(python2(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list):
        return b"]q\x03(" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, np.ndarray):
        shape = b"".join(b"M" + struct.pack("<H", n) for n in value.shape)
        dtype = (
            b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        make = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
        return make + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + python2(value.tobytes()) + b"tb"
    return b"K" + bytes([value])


WRITERS = {
    "Python 2": lambda value: b"\x80\x02" + python2(value) + b".",
    **{f"protocol {n}": lambda value, n=n: pickle.dumps(value, protocol=n) for n in range(2, 6)},
}


def write(folder, kind, images, labels, key="labels", also=()):
    """A batch in the form that torchvision and others meet."""
    if kind == "binary":
        columns = np.stack([*(values for _, values in also), labels], 1).astype(np.uint8)
        folder.write_bytes(np.concatenate([columns, images], 1).tobytes())
        return
    content = {b"batch_label": b"one of five", b"data": images, key.encode(): labels.tolist()}
    content |= {name.encode(): values.tolist() for name, values in also}
    content[b"filenames"] = [b"image_%d.png" % i for i in range(len(images))]
    if kind == "protocol 4":
        content = {name.decode(): value for name, value in content.items()}
    folder.write_bytes(WRITERS[kind](content))


@pytest.mark.parametrize("kind", ["binary", *WRITERS])
@pytest.mark.parametrize("inner", [True, False], ids=["in its folder", "directly"])
def test_cifar10(kind, inner, tmp_path, backend):
    folder = tmp_path / ("cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py") if inner else tmp_path
    folder.mkdir(exist_ok=True)
    images, labels = samples(12, 10)
    suffix = ".bin" if kind == "binary" else ""
    for i in range(5):
        write(folder / f"data_batch_{i + 1}{suffix}", kind, images[2 * i : 2 * i + 2], labels[2 * i : 2 * i + 2])
    write(folder / f"test_batch{suffix}", kind, images[10:], labels[10:])
    train, test = dc.data.cifar10(tmp_path, backend=backend), dc.data.cifar10(str(tmp_path), "test", flatten=True)
    pixels, classes = train.tensors
    assert pixels.shape == (10, 3, 32, 32) and pixels.dtype == dc.float32 and classes.dtype == dc.int64
    assert pixels.backend == classes.backend == backend and train.classes[3] == "cat" and len(train.classes) == 10
    np.testing.assert_array_equal(pixels.numpy(), images[:10].reshape(-1, 3, 32, 32) / np.float32(255))
    np.testing.assert_array_equal(classes.numpy(), labels[:10])
    np.testing.assert_array_equal(test.tensors[0].numpy(), images[10:] / np.float32(255))
    assert dc.data.cifar10(tmp_path, "train[3:-2]").tensors[1].tolist() == labels[3:8].tolist()


@pytest.mark.parametrize("kind", ["binary", *WRITERS])
def test_cifar100(kind, tmp_path):
    images, fine = samples(4, 100)
    coarse, suffix = fine // 5, ".bin" if kind == "binary" else ""
    folder = tmp_path / ("cifar-100-binary" if kind == "binary" else "cifar-100-python")
    folder.mkdir()
    write(folder / f"train{suffix}", kind, images, fine, "fine_labels", [("coarse_labels", coarse)])
    train, groups = dc.data.cifar100(tmp_path), dc.data.cifar100(tmp_path, coarse=True)
    np.testing.assert_array_equal(train.tensors[0].numpy(), images.reshape(-1, 3, 32, 32) / np.float32(255))
    assert train.tensors[1].tolist() == fine.tolist() and groups.tensors[1].tolist() == coarse.tolist()
    assert len(train.classes) == 100 and len(groups.classes) == 20
    assert list(train.classes) == sorted(train.classes) and list(groups.classes) == sorted(groups.classes)
    with pytest.raises(DataError, match=r"test files are not in(.|\n)*cifar-100-python.tar.gz"):
        dc.data.cifar100(tmp_path, "test")


def test_missing_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"download cifar-10-binary.tar.gz or cifar-10-python.tar.gz from https"):
        dc.data.cifar10(tmp_path)
    with pytest.raises(ArgumentError, match="no split 'valid'"):
        dc.data.cifar10(tmp_path, "valid")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"still packed(.|\n)*tar -xf"):
        dc.data.cifar10(tmp_path)
    write(tmp_path / "data_batch_1.bin", "binary", *samples(1, 10))
    with pytest.raises(DataError, match=r"not data_batch_2.bin, data_batch_3.bin(.|\n)*unpack cifar-10-binary.tar.gz"):
        dc.data.cifar10(tmp_path)
    monkeypatch.setattr(dc.config.settings, "data_dir", str(tmp_path))
    (tmp_path / "cifar100").mkdir()
    write(tmp_path / "cifar100" / "test.bin", "binary", *samples(2, 20), also=[("coarse_labels", np.zeros(2))])
    assert len(dc.data.cifar100(split="test")) == 2


DAMAGED = {
    "no whole records": (lambda images, labels: b"\0" * 3074, "test_batch.bin", "a multiple of 3,073 bytes"),
    "empty": (lambda images, labels: b"", "test_batch.bin", "received: 0 bytes"),
    "labels above 9": (lambda images, labels: b"\x0a" * 3073, "test_batch.bin", "labels from 10 to 10"),
    "no labels": (lambda images, labels: pickle.dumps({"data": images}), "test_batch", "no labels for its 2 images"),
    "too few labels": (lambda i, labels: pickle.dumps({"data": i, "labels": [1]}), "test_batch", "no labels"),
    "other labels": (lambda i, labels: pickle.dumps({"data": i, "labels": [1, 10]}), "test_batch", "0 to 9"),
    "labels of text": (lambda i, labels: pickle.dumps({"data": i, "labels": ["a", "b"]}), "test_batch", "no labels"),
    "no images": (lambda images, labels: pickle.dumps({"labels": [1]}), "test_batch", "no images of CIFAR"),
    "other images": (
        lambda i, labels: pickle.dumps({"data": i[:, :5], "labels": [1, 2]}), "test_batch", r"uint8 \(2, 5\)",
    ),
    "no dict": (lambda images, labels: pickle.dumps([images]), "test_batch", "it holds no dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(case, tmp_path):
    make, file, message = DAMAGED[case]
    (tmp_path / file).write_bytes(make(*samples(2, 10)))
    with pytest.raises(FileFormatError, match=message):
        dc.data.cifar10(tmp_path, "test")


# -- pickles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_is_read(protocol, tmp_path):
    again = ["x", 2**40, -1, 3.5, None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": {1: b"z"}}]
    big = np.arange(300, dtype=">i4").reshape(3, 100)
    value = {"list": again, "same": again, "text": "é" * 300, b"bytes": b"\xff" * 300, 3: [], "empty": {}}
    value |= {"array": big, "columns": np.asfortranarray(big.astype("i2")), "none": np.zeros((0, 4), "u1")}
    (tmp_path / "f").write_bytes(pickle.dumps(value, protocol=protocol))
    read = read_pickled_dict(tmp_path / "f")
    assert list(read) == [str(k.decode() if isinstance(k, bytes) else k) for k in value]
    for key, item in value.items():
        got = read[key.decode() if isinstance(key, bytes) else str(key)]
        if isinstance(item, np.ndarray):
            assert got.shape == item.shape and got.dtype == item.dtype.newbyteorder("=")
            np.testing.assert_array_equal(got, item)
        else:
            assert got == item and type(got) is type(item)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Plain:
    pass


HOSTILE = {
    "system": lambda path: pickle.dumps({"a": Call(os.system, f"touch {path}")}),
    "open": lambda path: pickle.dumps(Call(open, str(path), "w"), protocol=2),
    "a nested one": lambda path: pickle.dumps({"data": [Call(os.mkdir, str(path))]}),
    "eval": lambda path: b"cbuiltins\neval\n(Vopen(%r, 'w')\ntR." % str(path).encode(),
    "inst": lambda path: b"(S'touch " + str(path).encode() + b"'\nios\nsystem\n.",
    "obj": lambda path: b"(cos\nsystem\nS'touch " + str(path).encode() + b"'\no.",
    "an object": lambda path: pickle.dumps({"a": Plain()}),
    "an object array": lambda path: pickle.dumps({"a": np.array([Call(os.mkdir, str(path))], object)}),
    "a persistent id": lambda path: b"Pabc\n.",
    "an extension": lambda path: b"\x82\x01.",
    "another encoding": lambda path: b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    "a module for a function": lambda path: b"cnumpy\ncore.multiarray\n.",
    "calling a result": lambda path: b"}(U\x01a)Ru.",
    "building a dict": lambda path: b"}}b.",
    "an array of a huge shape": lambda path: pickle.dumps({"a": np.zeros((2, 3), "u1")}, protocol=2).replace(
        b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"
    ),
    "an array without content": lambda path: b"}(U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85Ru.",
    "a huge string": lambda path: b"}(U\x01aT\xff\xff\xff\x7fabcu.",
    "a huge length": lambda path: b"}(U\x01a\x8e" + b"\xff" * 7 + b"\x7fu.",
    "a list as a key": lambda path: b"}(]]u.",
    "keys without values": lambda path: b"}(]u.",
    "nothing": lambda path: b"",
    "no end": lambda path: b"\x80\x02}",
    "an empty stack": lambda path: b"e.",
    "no mark": lambda path: b"}u.",
    "values left over": lambda path: b"}}.",
    "an unknown place": lambda path: b"}(h\x07]u.",
    "text": lambda path: b"not a pickle at all",
    "many digits": lambda path: b"}(I1" + b"0" * 10_000 + b"\n]u.",
    "too many instructions": lambda path: b"}(" + b"]" * 1000 + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_run_nothing(case, tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_OPCODES", 500)
    target = tmp_path / "ran"
    (tmp_path / "f").write_bytes(HOSTILE[case](target))
    with pytest.raises(FileFormatError, match="nothing of the file was run"):
        read_pickled_dict(tmp_path / "f")
    assert not target.exists()


def test_sizes_are_bounded(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps({"a": b"x" * 100}))
    with pytest.raises(FileFormatError, match="more than 100"):
        read_pickled_dict(tmp_path / "f", 100)
    with open(tmp_path / "test_batch", "wb") as file:
        file.truncate(cifar._MAX_BYTES + 1)
    with pytest.raises(FileFormatError, match="more than 268,435,456"):
        dc.data.cifar10(tmp_path, "test")


@pytest.mark.parametrize("kind", WRITERS)
def test_any_damage_is_a_typed_error(kind, tmp_path):
    rng = random.Random(0)
    value = {b"data": np.arange(6, dtype="u1").reshape(2, 3), b"labels": [1, 2], b"filenames": [b"a.png", b"b.png"]}
    whole = WRITERS[kind](value)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        (tmp_path / "f").write_bytes(damaged)
        try:
            assert isinstance(read_pickled_dict(tmp_path / "f"), dict)
        except FileFormatError as error:
            assert "nothing of the file was run" in str(error)
