"""The safetensors reader and writer, atomic writing, and the refusal of other formats."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import platform
import shutil
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from deepcore.backend.dtypes import DTYPES
from deepcore.errors import ArgumentError, DeepcoreWarning, DTypeError, FileFormatError
from deepcore.io import files, safetensors
from deepcore.io.files import FileAccessError, MissingFileError, atomic_write
from deepcore.io.safetensors import DTYPE_NAMES, SafetensorsFile, load_file, load_with_metadata, save_file


def raw_file(path, header, data=b""):
    """A safetensors file of a header given as a dict, text or bytes."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def sample():
    rng = np.random.default_rng(0)
    return {
        "layer.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "layer.bias": rng.standard_normal(5),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.int16),
        "scalar": np.array(7, np.int64),
        "é 字": np.arange(3, dtype=np.uint8),
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(sample(), path, {"note": "ünï"})
    return path


# -- round trips ------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", list(DTYPE_NAMES), ids=str)
def test_round_trip_of_every_dtype(dtype, tmp_path):
    bits = np.arange(24, dtype=np.uint8) % (2 if dtype == np.bool_ else 251)
    array = np.resize(bits, 6 * dtype.itemsize).view(dtype).reshape(2, 3)
    save_file({"x": array, "t": array.T, "zero": array[:0], "nought": array[0, 0].reshape(())}, tmp_path / "f")
    for mmap in (False, True):
        loaded = load_file(tmp_path / "f", mmap=mmap)
        assert same(loaded["x"], array)
        assert same(loaded["t"], np.ascontiguousarray(array.T))
        assert loaded["zero"].shape == (0, 3) and loaded["nought"].shape == ()
        assert all(a.flags.aligned for a in loaded.values())
        assert loaded["x"].flags.writeable is not mmap


def test_dtypes_cover_those_of_tensors():
    assert set(DTYPES.values()) - set(DTYPE_NAMES) == {np.dtype(complex)}
    assert {"F8_E4M3", "F8_E5M2"} <= set(DTYPE_NAMES.values())


def test_order_metadata_and_bytes_are_kept(file, tmp_path):
    arrays, metadata = load_with_metadata(file)
    assert list(arrays) == list(sample())
    assert metadata == {"note": "ünï"}
    save_file(arrays, tmp_path / "again", metadata)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_big_endian_and_strided_arrays(tmp_path):
    array = np.arange(20, dtype=">i4").reshape(4, 5)[::2, ::-2]
    save_file({"x": array}, tmp_path / "f")
    loaded = load_file(tmp_path / "f")["x"]
    assert loaded.dtype == np.int32 and loaded.dtype.isnative
    np.testing.assert_array_equal(loaded, array)


def test_selected_names(file):
    assert list(load_file(file, ["mask"])) == ["mask"]
    with SafetensorsFile(file) as opened:
        assert "mask" in opened and len(opened) == 6 and list(opened) == opened.names
        assert opened.info("layer.weight").shape == (3, 5)
        assert same(opened.map("layer.bias", verify=True), sample()["layer.bias"])
        with pytest.raises(ArgumentError, match="did you mean"):
            opened.read("layer.bia")


def test_a_mapped_array_outlives_its_file_object(file):
    mapped = load_file(file, mmap=True)
    for name, array in sample().items():
        assert same(mapped[name], array)
    with pytest.raises(ValueError):
        mapped["mask"][0] = False


@pytest.mark.parametrize(
    "tensors, metadata, error",
    [
        ({1: np.zeros(1)}, None, ArgumentError),
        ({"__metadata__": np.zeros(1)}, None, ArgumentError),
        ({"\ud800": np.zeros(1)}, None, ArgumentError),
        ({"x": [1.0]}, None, ArgumentError),
        ({"x": np.zeros(1, complex)}, None, DTypeError),
        ({"x": np.array(["a"])}, None, DTypeError),
        ({"x": np.array([None])}, None, DTypeError),
        ({}, {"a": 1}, ArgumentError),
        ({}, {"deepcore.crc32": "{}"}, ArgumentError),
    ],
)
def test_what_the_format_cannot_hold(tensors, metadata, error, tmp_path):
    with pytest.raises(error):
        save_file(tensors, tmp_path / "f", metadata)
    assert not list(tmp_path.iterdir())


def test_property_round_trip(tmp_path, monkeypatch):
    pytest.importorskip("hypothesis")
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the disk takes most of the time
    from hypothesis import given, settings
    from hypothesis import strategies as st

    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    shapes = st.lists(st.integers(0, 4), max_size=4)

    @settings(max_examples=60)
    @given(
        st.dictionaries(text.filter("__metadata__".__ne__), st.tuples(st.sampled_from(list(DTYPE_NAMES)), shapes)),
        st.dictionaries(text, text),
        st.randoms(use_true_random=False),
    )
    def check(layout, metadata, random):
        tensors = {}
        for name, (dtype, shape) in layout.items():
            size = int(np.prod(shape, dtype=int)) * dtype.itemsize
            raw = np.frombuffer(random.randbytes(size), np.uint8) & (1 if dtype == np.bool_ else 255)
            tensors[name] = raw.view(dtype).reshape(shape)
        save_file(tensors, tmp_path / "f", metadata)
        loaded, notes = load_with_metadata(tmp_path / "f")
        assert notes == metadata and list(loaded) == list(tensors)
        assert all(same(loaded[name], tensors[name]) for name in tensors)

    check()


# -- the public package -----------------------------------------------------------------------------
def test_the_public_package_reads_ours(file):
    public = pytest.importorskip("safetensors.numpy")
    loaded = public.load_file(file)
    assert loaded.keys() == sample().keys()
    assert all(same(loaded[name], array) for name, array in sample().items())


def test_pytorch_reads_ours_and_we_read_theirs(tmp_path):
    torch = pytest.importorskip("torch")
    public = pytest.importorskip("safetensors.torch")
    state = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name))
        for name in (*DTYPES, "float8_e4m3fn", "float8_e5m2")
        if name != "complex128"
    }
    public.save_file(state, tmp_path / "theirs", {"format": "pt"})
    arrays, metadata = load_with_metadata(tmp_path / "theirs")
    assert metadata == {"format": "pt"}
    for name, tensor in state.items():
        assert arrays[name].tobytes() == bytes(tensor.contiguous().view(torch.uint8).flatten().tolist()), name
    save_file(arrays, tmp_path / "ours")
    back = public.load_file(tmp_path / "ours")
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8))


def test_a_tool_that_keeps_our_metadata_may_write_the_same_tensors(file):
    public = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    with public.safe_open(file, "np") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    numpy.save_file(tensors, file, metadata)
    assert load_with_metadata(file)[1] == {"note": "ünï"}
    numpy.save_file(tensors | {"mask": ~tensors["mask"]}, file, metadata)
    with pytest.raises(FileFormatError, match="must drop"):
        load_file(file)
    numpy.save_file({"other": tensors["mask"]}, file, metadata)
    with pytest.raises(FileFormatError, match="must drop"):
        load_file(file)


def test_foreign_files_need_no_checksums_and_no_alignment(tmp_path):
    data = b"\x01" + np.arange(3, dtype="<f4").tobytes()
    path = raw_file(tmp_path / "f", {"a": entry("U8", (1,), (0, 1)), "b": entry("F32", (3,), (1, 13))}, data)
    for mmap in (False, True):
        loaded = load_file(path, mmap=mmap)
        np.testing.assert_array_equal(loaded["b"], [0, 1, 2])
        assert loaded["b"].flags.aligned
    path = raw_file(tmp_path / "f", {"z": entry("F32", (0,), (0, 0)), "a": entry()}, b"\0\0\0\0")
    assert list(load_file(path)) == ["z", "a"]


# -- damaged and hostile files ------------------------------------------------------------------------
NEXT = (4, 8)
HOSTILE = {
    "empty file": (b"", "too few"),
    "seven bytes": (b"\0" * 7, "too few"),
    "no header": (struct.pack("<Q", 0), "has no|valid JSON"),
    "header past the end": (struct.pack("<Q", 100) + b"{}", "announces a header"),
    "header of 2**63": (struct.pack("<Q", 1 << 63) + b"{}", "at most 100,000,000"),
    "not JSON": ('{"a"', "valid JSON"),
    "not UTF-8": (b'{"\xff":1}', "UTF-8"),
    "a list": ("[]", "no JSON follows"),
    "leading space": (" {}", "no JSON follows"),
    "trailing garbage": ("{}x", "valid JSON"),
    "nested deeply": ('{"a":' + "[" * 4000 + "]" * 4000 + "}", "nested too deeply"),
    "nested objects": ('{"a":' * 4000 + "1" + "}" * 4000, "nested too deeply"),
    "nested very deeply": ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", "lists and objects"),
    "a flood of lists": ('{"a":[' + "[]," * 100_000 + "[]]}", "lists and objects"),
    "a flood of lists after a string without end": (
        '{"a":[' + "[]," * 20_000 + '"' + '\\"' * 100_000,
        "lists and objects",
    ),
    "NaN": ('{"a":NaN}', "NaN is not allowed"),
    "Infinity": ('{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', "not allowed"),
    "a huge number": ('{"a":' + "9" * 10_000 + "}", "valid JSON"),
    "the same tensor twice": ('{"a":{},"a":{}}', "'a' is there twice"),
    "the same field twice": ('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "twice"),
    "entry is a list": ({"a": []}, "it needs dtype"),
    "field missing": ({"a": {"dtype": "F32", "shape": [1]}}, "it needs dtype"),
    "field too many": ({"a": entry(code="x")}, "nothing else"),
    "dtype unknown": ({"a": entry("F31")}, "not known"),
    "dtype a number": ({"a": entry(4)}, "not the name of one"),
    "dtype a list": ({"a": entry(["F32"])}, "not the name of one"),
    "dtype long": ({"a": entry("F" * 100_000)}, "not the name of one"),
    "half a byte": ({"a": entry("F4", (9,))}, "takes 5 bytes"),
    "six bits": ({"a": entry("F6_E2M3", (4,))}, "takes 3 bytes"),
    "unknown and reversed": ({"a": entry("F4X", (4,), (4, 0))}, "data_offsets span -4"),
    "unknown and a hole": ({"a": entry("F4X", (4,), (1, 4))}, "leaves a hole"),
    "shape negative": ({"a": entry(shape=(-1,))}, "list of sizes"),
    "shape a float": ({"a": entry(shape=(1.0,))}, "list of sizes"),
    "shape a bool": ({"a": entry(shape=(True,))}, "list of sizes"),
    "shape a string": ('{"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}}', "list of sizes"),
    "rank 65": ({"a": entry(shape=(1,) * 65)}, "list of sizes"),
    "a dimension of 2**70": ({"a": entry(shape=(1 << 70,))}, "list of sizes"),
    "size overflows": ({"a": entry(shape=(1 << 33, 1 << 33))}, "overflows"),
    "size overflows beside 0": ({"a": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}, "overflows"),
    "product wraps to 4": ({"a": entry(shape=(1 << 62, 1 << 62, 4))}, "overflows"),
    "offsets reversed": ({"a": entry(offsets=(4, 0))}, "data_offsets span -4"),
    "offsets negative": ({"a": entry(offsets=(-4, 0))}, "pair of offsets"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, "pair of offsets"),
    "size and shape differ": ({"a": entry(shape=(2,))}, "takes 8 bytes"),
    "a hole": ({"a": entry(), "b": entry(offsets=(8, 12))}, "leaves a hole"),
    "a hole at the start": ({"a": entry(offsets=NEXT)}, "leaves a hole"),
    "overlap": ({"a": entry(), "b": entry(offsets=(2, 6))}, "overlaps"),
    "the same bytes": ({"a": entry(), "b": entry()}, "overlaps"),
    "truncated": ({"a": entry(), "b": entry(offsets=NEXT)}, "truncated"),
    "absurdly large": ({"a": entry("U8", (1 << 50,), (0, 1 << 50))}, "truncated"),
    "trailing bytes": ({}, "4 bytes after"),
    "metadata a list": ({"__metadata__": []}, "metadata"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "metadata"),
    "a lone surrogate": ('{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "valid Unicode"),
    "a later format": ({"__metadata__": {"deepcore.format": "2"}}, "newer deepcore"),
    "format not a number": ({"__metadata__": {"deepcore.format": "²"}}, "format"),
    "checksums not JSON": ({"__metadata__": {"deepcore.crc32": "x"}, "a": entry()}, "checksums"),
    "checksums of others": (
        {"__metadata__": {"deepcore.crc32": '{"header":1,"tensors":{"b":1}}'}, "a": entry()},
        "checksums that do not fit",
    ),
    "checksum of another header": (
        {"__metadata__": {"deepcore.crc32": '{"header":1,"tensors":{"a":1}}'}, "a": entry()},
        "corrupt header",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / "f"
    if isinstance(content, bytes) and not content.startswith(b"{"):
        path.write_bytes(content)
    else:
        raw_file(path, content, b"\0\0\0\0")
    with pytest.raises(FileFormatError, match=message) as caught:
        load_file(path)
    assert str(path) in str(caught.value) and "fix:" in str(caught.value)


def test_nothing_is_allocated_for_a_lying_header(tmp_path):
    path = raw_file(tmp_path / "f", {"a": entry("U8", (1 << 40,), (0, 1 << 40))})
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        load_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_bytes_that_are_no_bool(tmp_path):
    path = raw_file(tmp_path / "f", {"a": entry("BOOL", (4,))}, b"\0\1\2\1")
    with pytest.raises(FileFormatError, match="BOOL"):
        load_file(path)


def test_a_file_cut_at_any_byte_is_refused(file):
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(FileFormatError):
            load_file(file)


def test_a_changed_byte_is_found(file):
    """Whatever bit flips: the file is refused, or what cannot be verified is said, or the tensors are right."""
    whole = bytearray(file.read_bytes())
    refused = 0
    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        file.write_bytes(whole)
        whole[at] ^= 1 << at % 8
        try:
            loaded = load_file(file)
        except (FileFormatError, DeepcoreWarning):  # the warning: a flip in the name of the checksums
            refused += 1
        else:
            assert loaded.keys() == sample().keys()
            assert all(same(loaded[name], array) for name, array in sample().items())
    assert refused > 0.9 * len(whole)


def test_a_wrong_checksum_names_the_tensor(file):
    content = file.read_bytes()
    weight = sample()["layer.weight"].tobytes()
    assert content.count(weight) == 1
    file.write_bytes(content.replace(weight, weight[::-1]))
    with pytest.raises(FileFormatError, match=r"'layer\.weight' is corrupt"):
        load_file(file)
    assert same(load_file(file, ["mask"])["mask"], sample()["mask"])
    assert load_file(file, mmap=True)["layer.weight"].tobytes() == weight[::-1]
    assert load_file(file, verify=False)["layer.weight"].tobytes() == weight[::-1]
    with pytest.raises(FileFormatError, match=r"'layer\.weight' is corrupt"):
        load_file(file, mmap=True, verify=True)
    assert same(load_file(file, ["mask"], mmap=True, verify=True)["mask"], sample()["mask"])


def test_missing_checksums_are_said(file):
    content = file.read_bytes()
    file.write_bytes(content.replace(b"deepcore.crc32", b"somebody.crc32"))
    with pytest.warns(DeepcoreWarning, match="(?s)has no checksums.*without being verified"):
        loaded = load_file(file)
    assert all(same(loaded[name], array) for name, array in sample().items())
    file.write_bytes(
        content.replace(b"deepcore.crc32", b"somebody.crc32").replace(b"deepcore.format", b"somebody.format")
    )
    assert load_file(file).keys() == sample().keys()  # a foreign file: no warning


# -- dtypes that NumPy does not have ------------------------------------------------------------------
def with_unknown(path):
    """Tensors of three dtypes without a NumPy one, and two that can be read."""
    header = {
        "a": entry("F32", (2,), (0, 8)),
        "four": entry("F4", (3, 2), (8, 11)),
        "six": entry("F6_E3M2", (4,), (11, 14)),
        "next year": entry("X9_E1", (7, 7), (14, 15)),
        "b": entry("U8", (1,), (15, 16)),
    }
    return raw_file(path, header, np.arange(2, dtype="<f4").tobytes() + b"12345678")


@pytest.mark.parametrize("mmap", [False, True])
def test_a_tensor_of_an_unknown_dtype_leaves_the_others_readable(mmap, tmp_path):
    path = with_unknown(tmp_path / "f")
    with pytest.raises(FileFormatError, match=r"(?s)3 tensors.*'four' \(F4\), 'six' \(F6_E3M2\).*names=\[…\]"):
        load_file(path, mmap=mmap)
    loaded = load_file(path, ["b", "a"], mmap=mmap)
    assert loaded["a"].tolist() == [0, 1] and loaded["b"].tolist() == [ord("8")] and list(loaded) == ["b", "a"]
    with SafetensorsFile(path) as opened:
        assert opened.info("four")[:2] == (None, (3, 2)) and opened.info("next year").stored == "X9_E1"
        with pytest.raises(FileFormatError, match="'next year' \\(X9_E1\\)"):
            (opened.map if mmap else opened.read)("next year")


def test_names_are_a_list(file):
    with pytest.raises(ArgumentError, match=r"names=\['mask'\]"):
        load_file(file, "mask")


# -- several files under an index ---------------------------------------------------------------------
def sharded(folder, index=None, **shards):
    """An index and shards: {file: {name: array}}; `index` changes what the index says."""
    shards = shards or {
        "one": {"a": np.arange(3.0), "c": np.ones(1, np.uint8)},
        "two": {"b": np.zeros((2, 2), np.int8)},
    }
    places = {}
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"{shard}.safetensors")
        places |= dict.fromkeys(tensors, f"{shard}.safetensors")
    total = sum(array.nbytes for tensors in shards.values() for array in tensors.values())
    content = {"metadata": {"total_size": total, "format": "pt"}, "weight_map": dict(sorted(places.items()))}
    content = index(content) if callable(index) else content
    path = folder / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("of", ["index", "folder"])
def test_shards(mmap, of, tmp_path):
    path = sharded(tmp_path)
    loaded = load_file(path if of == "index" else tmp_path, mmap=mmap, verify=True)
    assert list(loaded) == ["a", "b", "c"]
    assert same(loaded["a"], np.arange(3.0)) and same(loaded["b"], np.zeros((2, 2), np.int8))
    assert load_with_metadata(path)[1] == {"format": "pt"}
    assert list(load_file(tmp_path, ["b"], mmap=mmap)) == ["b"]
    with safetensors.open_file(path) as opened:
        assert opened.info("c").shape == (1,) and "b" in opened and len(opened) == 3
        with pytest.raises(ArgumentError, match=r"index\.json' has no tensor 'd'"):
            opened.read("d")


def test_unknown_dtypes_in_a_shard(tmp_path):
    path = sharded(tmp_path, lambda index: {"weight_map": dict.fromkeys(("a", "four", "six", "next year", "b"), "f")})
    with_unknown(tmp_path / "f")
    with pytest.raises(FileFormatError, match="'four' \\(F4\\)"):
        load_file(path)
    assert load_file(path, ["a"])["a"].tolist() == [0, 1]


def changed(**places):
    return lambda index: {**index, "weight_map": {**index["weight_map"], **places}}


HOSTILE_INDEXES = {
    "not JSON": (lambda index: "{", "valid JSON"),
    "a list": (lambda index: "[]", "not an object"),
    "nested deeply": (lambda index: '{"weight_map":' + "[" * 4000 + "]" * 4000 + "}", "nested too deeply"),
    "nested very deeply": (lambda index: "[" * 100_000, "lists and objects"),
    "a tensor twice": (
        lambda index: '{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}',
        "'a' is there twice",
    ),
    "another file": (lambda index: {"model_type": "x"}, "not an index"),
    "a list of places": (lambda index: {"weight_map": []}, "not an index"),
    "metadata a list": (lambda index: {**index, "metadata": []}, "not an index"),
    "a number": (changed(a=1), "places tensor 'a' in 1"),
    "a parent": (changed(a="../one.safetensors"), "a file in the same folder"),
    "a folder": (changed(a="x/one.safetensors"), "a file in the same folder"),
    "a folder of Windows": (changed(a="x\\one.safetensors"), "a file in the same folder"),
    "a drive": (changed(a="c:one.safetensors"), "a file in the same folder"),
    "absolute": (changed(a="/etc/passwd"), "a file in the same folder"),
    "the folder": (changed(a=".."), "a file in the same folder"),
    "a long name": (changed(a="x" * 256), "a file in the same folder"),
    "nothing": (changed(a=""), "a file in the same folder"),
    "a null byte": (changed(a="one\0"), "a file in the same folder"),
    "a surrogate": (changed(a="one\ud800"), "a file in the same folder"),
    "a missing shard": (changed(a="three.safetensors"), "'three.safetensors', which is not there"),
    "a missing tensor": (changed(d="one.safetensors"), "'d' in 'one.safetensors', which does not have it"),
    "the wrong shard": (changed(a="two.safetensors"), "places it in 'two.safetensors', and tensor 'a' is in"),
    "a tensor left out": (
        lambda index: {"weight_map": {"b": "two.safetensors", "a": "one.safetensors"}},
        "not name it",
    ),
    "too large": (lambda index: {**index, "metadata": {"total_size": 30}}, "30 bytes in all, and the shards hold 29"),
    "size of text": (lambda index: {**index, "metadata": {"total_size": "29"}}, "'29' bytes"),
}


@pytest.mark.parametrize("name", HOSTILE_INDEXES)
def test_hostile_indexes(name, tmp_path):
    change, message = HOSTILE_INDEXES[name]
    path = sharded(tmp_path, change)
    with pytest.raises(FileFormatError, match=message) as caught:
        load_file(path)
    assert "fix:" in str(caught.value)


def test_a_tensor_in_two_shards(tmp_path):
    path = sharded(tmp_path, one={"a": np.ones(1), "b": np.ones(1)}, two={"a": np.zeros(1)})
    with pytest.raises(FileFormatError, match=r"tensor 'a' is in 'one\.safetensors'"):
        load_file(path)


def test_folders(tmp_path):
    with pytest.raises(FileFormatError, match="0 safetensors files"):
        load_file(tmp_path)
    save_file({"x": np.ones(1)}, tmp_path / "weights.safetensors")
    assert list(load_file(tmp_path)) == ["x"]
    save_file({"y": np.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(FileFormatError, match=r"(?s)2 safetensors files.*give one of 'more\.safetensors', 'weights"):
        load_file(tmp_path)
    sharded(tmp_path)
    assert list(load_file(tmp_path)) == ["a", "b", "c"]
    save_file({"z": np.ones(1)}, tmp_path / "model.safetensors")
    assert list(load_file(tmp_path)) == ["z"]


def test_property_any_header_is_read_or_refused(tmp_path):
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    number = st.integers(-2, 9) | st.sampled_from([1 << 31, 1 << 62, 1 << 63, 1 << 64])
    junk = st.recursive(
        st.none() | st.booleans() | number | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
    field = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "BOOL", "F8_E4M3", "F4"]) | junk,
            "shape": st.lists(number, max_size=3) | junk,
            "data_offsets": st.lists(number, min_size=2, max_size=2) | junk,
        }
    )
    headers = st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), field | junk)

    @settings(max_examples=100)
    @given(headers, st.binary(max_size=16))
    def check(header, data):
        path = raw_file(tmp_path / "f", header, data)
        try:
            loaded = load_file(path)
        except FileFormatError:
            return
        assert sum(a.nbytes for a in loaded.values()) == len(data)

    check()


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    save_file({"x": np.zeros(1 << 18)}, tmp_path / "f")
    with SafetensorsFile(tmp_path / "f") as opened:
        os.truncate(tmp_path / "f", 1 << 20)
        with pytest.raises(FileFormatError, match="ended while"):
            opened.read("x")


# -- other formats ----------------------------------------------------------------------------------
def make_torch(path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2)}, path)


def make_old_torch(path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def make_numpy(save):
    def make(path):
        with path.open("wb") as file:
            save(file, np.ones(2))

    return make


def make_keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")


MADE = {
    "torch": (make_torch, "PyTorch file"),
    "old torch": (make_old_torch, "PyTorch file"),
    "npz": (make_numpy(np.savez), "NumPy archive"),
    "npy": (make_numpy(np.save), "NumPy array"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94."), "a pickle"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500), "HDF5"),
    "keras": (make_keras, "Keras"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\3"), "gunzip"),
    "gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + b"\0" * 16), "GGUF"),
    "html": (lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>"), "web page"),
    "lfs": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
}


@pytest.mark.parametrize("kind", MADE)
def test_other_formats_are_told_by_their_content(kind, tmp_path):
    make, message = MADE[kind]
    path = tmp_path / "innocent.safetensors"
    make(path)
    with pytest.raises(FileFormatError, match=message) as caught:
        load_file(path)
    assert caught.value.fix


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".h5", ".hdf5", ".npz"])
def test_other_formats_are_told_by_their_name_when_content_says_nothing(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"no known format, but long enough to look at")
    with pytest.raises(FileFormatError, match=r"convert it once|load it with"):
        load_file(path)


@pytest.mark.parametrize("kind", ["torch", "npz", "npy"])
def test_the_recipes_work(kind, tmp_path):
    if "torch" in kind:
        pytest.importorskip("safetensors")
    path = tmp_path / "model.pth"
    MADE[kind][0](path)
    with pytest.raises(FileFormatError) as caught:
        load_file(path)
    recipe = textwrap.dedent(caught.value.fix.partition("\n")[2])
    exec(compile(recipe, "recipe", "exec"), {})
    (array,) = load_file(tmp_path / "model.safetensors").values()
    np.testing.assert_array_equal(array, [1, 1])


def test_a_legal_header_length_is_no_pickle(tmp_path):
    """A header of 0x280 bytes makes the file begin like a pickle of protocol 2."""
    header = json.dumps({"__metadata__": {"pad": ""}})
    header = json.dumps({"__metadata__": {"pad": "x" * (0x280 - len(header))}})
    assert load_file(raw_file(tmp_path / "f", header)) == {}


@pytest.mark.parametrize("path", ["nothing/here", "."])
def test_missing_files_and_folders(path, tmp_path):
    with pytest.raises(FileFormatError, match=r"there is no file|is a folder") as caught:
        load_file(tmp_path / path)
    assert isinstance(caught.value, FileNotFoundError) is (path != ".")


@pytest.mark.skipif(os.name == "nt", reason="a working directory cannot be removed on Windows")
def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(MissingFileError, match="which is gone"):
        load_file("x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="not a regular file"):
        load_file(tmp_path / "pipe")


def test_nothing_in_io_unpickles():
    for path in Path(safetensors.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in getattr(node, "names", [])] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            )
            assert not {"pickle", "dill", "cloudpickle", "shelve", "marshal"} & {n.split(".")[0] for n in names}
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") not in ("eval", "exec", "__import__")


# -- atomic writing ---------------------------------------------------------------------------------
@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(step, error, file, monkeypatch):
    before = file.read_bytes()

    def fail(*args):
        raise error

    if step == "write":
        monkeypatch.setattr(safetensors, "_layout", lambda tensors, metadata: (b"{}", list(tensors.values())))
        monkeypatch.setattr(safetensors, "_bytes_of", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_file({"x": np.zeros(3)}, file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.skipif(os.name == "nt", reason="no fsync of folders on Windows")
def test_data_and_folder_are_flushed_in_order(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    save_file({}, tmp_path / "f")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_writer_killed_midway_leaves_the_old_file_and_is_swept(moment, file):
    before = file.read_bytes()
    code = f"""
import os, signal, numpy as np
from deepcore.io.safetensors import save_file
{moment} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
save_file({{"x": np.zeros(1000)}}, {str(file)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert file.read_bytes() == before
    assert len(list(file.parent.iterdir())) == 2
    save_file({}, file.parent / "other")
    assert sorted(p.name for p in file.parent.iterdir()) == [file.name, "other"]


@pytest.mark.skipif(os.name == "nt", reason="Windows tells a live writer by the open file")
def test_only_leftovers_of_dead_writers_are_swept(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    host = files._host()
    other = f"{zlib.crc32(platform.node().encode()) ^ 1:08x}"
    written, new = f".deepcore-{host}-{'1' * 32}.tmp", f".deepcore-{host}-{'2' * 32}.txt"
    kept = [written, new, f".deepcore-{other}-{'3' * 32}.tmp", f".deepcore-{host}-77-{'4' * 16}.tmp", "file.tmp"]
    swept = [f".deepcore-{host}-{'5' * 32}.tmp"]
    aged = [f".deepcore-{other}-{'6' * 32}.tmp", f".deepcore-{host}-77-{'7' * 16}.tmp"]
    for name in kept + swept + aged:
        (tmp_path / name).touch()
    for name in aged:
        os.utime(tmp_path / name, (1, time.time() - 25 * 3600))
    (tmp_path / f".deepcore-{host}-{'8' * 32}.tmp").symlink_to("file.tmp")
    with open(tmp_path / written, "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with atomic_write(tmp_path / "f") as out:
            out.write(b"1")
            with atomic_write(tmp_path / "g") as inner:  # does not sweep the files that are being written
                inner.write(b"2")
    left = sorted(p.name for p in tmp_path.iterdir() if not p.is_symlink())
    assert left == sorted([*kept, "f", "g"])
    assert (tmp_path / "f").read_bytes() == b"1"


@pytest.mark.parametrize("locks", [None, "refused"])
def test_without_locks_only_old_leftovers_are_swept(locks, tmp_path, monkeypatch):
    """As on Windows, and on a network file system that has no locks."""
    if locks is None:
        monkeypatch.setattr(files, "fcntl", None)
        monkeypatch.setattr(files, "_LOCKS", False)
    else:
        fcntl = pytest.importorskip("fcntl")

        def refuse(*args):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(fcntl, "flock", refuse)
    new, old = (tmp_path / f".deepcore-{files._host()}-{digit * 32}.tmp" for digit in "12")
    for path in (new, old):
        path.touch()
    os.utime(old, (1, time.time() - 25 * 3600))
    save_file({"x": np.zeros(3)}, tmp_path / "f")
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, "f"]


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
def test_a_file_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    made, lock = [], files._lock

    def swept(descriptor):
        made.append(lock(descriptor))
        if len(made) == 1:
            for path in tmp_path.iterdir():
                path.unlink()
        return made[-1]

    monkeypatch.setattr(files, "_lock", swept)
    save_file({"x": np.zeros(3)}, tmp_path / "f")
    assert len(made) == 2 and list(load_file(tmp_path / "f")) == ["x"]


_SAVES = """
import os, sys
from deepcore.io.files import atomic_write
for i in range(100):
    with atomic_write(os.path.join(sys.argv[1], sys.argv[2])) as file:
        file.write(bytes(100))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")
def test_writers_in_containers_of_their_own_leave_each_other_alone(tmp_path):
    """One host name, and process ids that say nothing about the other's."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces may be made here")
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([*apart, sys.executable, "-c", _SAVES, str(tmp_path), name], cwd=root, stderr=subprocess.PIPE)
        for name in ("f", "g")
    ]
    assert [w.communicate()[1] for w in writers] == [b"", b""]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "g"]


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
def test_only_regular_files_are_replaced(tmp_path):
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
        null.open("wb").close()
    except OSError:
        pytest.skip("no devices may be made here")
    save_file({"x": np.zeros(3)}, null)
    assert stat.S_ISCHR(null.stat().st_mode)
    with pytest.raises(FileAccessError, match="No space"):
        save_file({"x": np.zeros(3)}, full)
    assert stat.S_ISCHR(full.stat().st_mode)
    with pytest.raises(FileFormatError, match="a block device"):
        save_file({"x": np.zeros(3)}, tmp_path / "disk")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_pipe_is_written_to_and_a_socket_refused(tmp_path):
    pipe, plain = tmp_path / "pipe", tmp_path / "plain"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    save_file({"x": np.zeros(3)}, pipe)
    save_file({"x": np.zeros(3)}, plain)
    assert os.read(reader, 1 << 16) == plain.read_bytes() and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(FileFormatError, match="is a socket"):
            save_file({}, tmp_path / "socket")


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)])
def test_the_umask_decides_the_mode_of_a_new_file(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        save_file({}, tmp_path / "f")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")
def test_a_replaced_file_keeps_its_mode_and_a_link_its_target(file):
    file.chmod(0o600)
    link = file.parent / "link"
    link.symlink_to(file)
    save_file({"x": np.zeros(1)}, link)
    assert link.is_symlink() and list(load_file(file)) == ["x"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("code, fix", [(errno.ENOSPC, "free some space"), (errno.EACCES, "another folder")])
def test_a_full_or_read_only_disk(code, fix, file, monkeypatch):
    before = file.read_bytes()

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileAccessError, match=f"(?s)cannot be written: {os.strerror(code)}.*{fix}") as caught:
        save_file({"x": np.zeros(3)}, file)
    assert caught.value.errno == code and isinstance(caught.value, OSError)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]


def test_names_that_no_file_has(tmp_path):
    with pytest.raises(FileAccessError, match="cannot be read"):
        load_file(tmp_path / ("x" * 300))
    with pytest.raises(FileAccessError, match="cannot be written"):
        save_file({}, tmp_path / ("x" * 300))
    with pytest.raises(ArgumentError, match="not a file name"):
        save_file({}, "\0")
    with pytest.raises(ArgumentError, match=r"a path is a str(.|\n)*received: +BytesIO"):
        save_file({}, io.BytesIO())


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(MissingFileError, match="there is no folder"):
        save_file({}, tmp_path / "missing" / "f")
    with pytest.raises(FileFormatError, match="is a folder"):
        save_file({}, tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileAccessError, match="cannot be written"):
        save_file({}, tmp_path / "loop")
    if sys.platform == "linux":
        with pytest.raises(FileAccessError, match=r"'/proc/x' cannot be written(.|\n)*another folder"):
            save_file({}, "/proc/x")


def test_only_errors_of_the_file_are_errors_of_the_file(tmp_path):
    """Not, say, those of a connection that it is copied from."""
    with pytest.raises(ConnectionResetError), atomic_write(tmp_path / "f"):
        raise ConnectionResetError
    assert not list(tmp_path.iterdir())
