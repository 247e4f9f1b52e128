"""Files made to take time or memory, or to reach code that does not expect them: one class of error, at once."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import struct
import sys
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest

import deepcore as dc
from deepcore import metrics, nn
from deepcore.cli import config, predict
from deepcore.errors import ConfigError, DataError, DeepcoreWarning, FileFormatError, ShapeError
from deepcore.io import idx, read_idx, read_samples, safetensors, write_idx
from deepcore.io.tables import TableFile


# -- making files -----------------------------------------------------------------------------------
def header(text, data=b""):
    """A safetensors file with this header."""
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text)) + text + data


def with_model(note):
    """A safetensors file whose metadata describe a model."""
    text = note if isinstance(note, str) else json.dumps({"model": note})
    return header(json.dumps({"__metadata__": {"deepcore.model": text}}))


def npy(shape="(4,)", descr="<f4", data=b"\0" * 16, fortran="False", version=b"\1\0", extra=""):
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, {extra}}}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text + data


def zeros(count, head=b""):
    """`head` and `count` zeros as gzip, made a block at a time."""
    out, packer = io.BytesIO(), zlib.compressobj(9, zlib.DEFLATED, 31)
    out.write(packer.compress(head))
    for _ in range(count >> 20):
        out.write(packer.compress(bytes(1 << 20)))
    out.write(packer.flush())
    return out.getvalue()


def png(width, height, depth=8, colour=2, data=b""):
    """A PNG of this size; an image of zeros where `data` is whole."""

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(scans):
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("L", (64, 64)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    at = whole.index(b"\xff\xda")
    return whole[:at] + whole[at:-2] * scans + whole[-2:]


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def noted_png(*chunks):
    """A small PNG with these chunks before its pixels."""
    plain = png(4, 4, data=zlib.compress(bytes(13 * 4)))
    return plain[:33] + b"".join(chunks) + plain[33:]


def noted_jpeg(segments):
    """A small JPEG with these segments before all others."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("RGB", (64, 64)).save(out, "JPEG")
    return out.getvalue()[:2] + segments + out.getvalue()[2:]


def exif(entries, size):
    """EXIF data whose entries all stand for the same bytes, and an orientation at the end."""
    kept = b"".join(struct.pack(">HHII", 1000 + i, 7, size, 8) for i in range(entries))
    turn = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    head = b"MM\0*" + struct.pack(">I", 8 + size) + bytes(size)
    return head + struct.pack(">H", entries + 1) + turn + kept + bytes(4)


IDX_FLOATS = b"\0\0\x0d\1"

#: Name: (how to read it, its content, what the error says).
HOSTILE = {
    "toml of dots": ("toml", "a" + ".a" * 16_000 + "=1", "nested too deeply"),
    "toml of quoted dots": ("toml", "'a'" + '."a"' * 8_000 + "=1", "nested too deeply"),
    "toml header of dots": ("toml", "[" + "a ." * 10_000 + "a]", "nested too deeply"),
    "toml of brackets": ("toml", "a=" + "[" * 32_000, "nested too deeply"),
    "toml of tables": ("toml", "a=" + "{a=" * 10_000, "nested too deeply"),
    "toml of escaped quotes": ("toml", 'a="' + '\\"' * 15_000 + "\\", "not TOML"),
    "toml too long": ("toml", "a=1\n" * 100_000, "longer than"),
    "toml of digits": ("toml", "a=" + "9" * 32_000, "not TOML"),
    "toml with escapes": ("toml", '"\\u001b[2J"=1', r"no section '\\x1b\[2J'"),
    "npy of booleans": ("samples", npy("(True,4)"), "bad NPY header"),
    "npy of commas": ("samples", npy(descr=",f4"), "type ',f4'"),
    "npy of fields": ("samples", npy(descr="f4,f4", data=b"\0" * 32), "type 'f4,f4'"),
    "npy of objects": ("samples", npy(descr="|O"), "type '|O'"),
    "npy of records": ("samples", npy().replace(b"'<f4'", b"[('a', '<f4')]"), "bad NPY|records"),
    "npy of text": ("samples", npy(descr="<U4"), "type '<U4'"),
    "npy of escapes": ("samples", npy(descr="\\d"), "type"),
    "npy that overflows": ("samples", npy("(4611686018427387904, 4)"), "no array has shape"),
    "npy that overflows beside 0": ("samples", npy("(0, 4611686018427387904, 4)", data=b""), "no array has shape"),
    "npy of 65 dimensions": ("samples", npy("(" + "1, " * 65 + ")", data=b"\0" * 4), "no array has shape"),
    "npy of a negative size": ("samples", npy("(-4,)"), "bad NPY header"),
    "npy of digits": ("samples", npy("(" + "9" * 5000 + ",)"), "bad NPY header"),
    "npy of a name twice": ("samples", npy(extra="'descr': '<f8', "), "bad NPY header"),
    "npy of code": ("samples", npy("(__import__('os').getpid(),)"), "bad NPY header"),
    "npy of brackets": ("samples", npy("(" * 4000), "bad NPY header"),
    "npy of a long header": ("samples", npy(extra=" " * 60_000), "bad NPY header"),
    "npy of a header of 4 GB": ("samples", b"\x93NUMPY\2\0\xff\xff\xff\xff", "bad NPY header"),
    "idx of 3 GB": ("samples", lambda: zeros(4 << 20, IDX_FLOATS + struct.pack(">I", 800 << 20)), "more than 67,108"),
    "idx of more than it holds": ("idx", gzip.compress(IDX_FLOATS + struct.pack(">I", 1 << 20)), "cannot hold"),
    "gzip of zeros": ("samples", lambda: zeros(20 << 20), "not an IDX file"),
    "png of 178 million pixels": ("image", lambda: png(13_350, 13_350), "(?s)exceeds limit.*scale it down"),
    "png of 89 million pixels": ("image", lambda: png(9_400, 9_400), "too large an image"),
    "png of 67 million bytes": ("image", lambda: png(8_000, 8_000), "too large an image"),
    "png of 16 bits": ("image", lambda: png(6_000, 6_000, 16, 0), "too large an image"),
    "png of 2 ** 62 pixels": ("image", lambda: png(1 << 31, 1 << 31), "cannot be decoded"),
    "png of a palette": ("image", lambda: png(8_000, 8_000, 1, 3, zlib.compress(bytes(1001 * 8000))), "too large an"),
    "png of empty chunks": ("image", lambda: noted_png(chunk(b"abcd") * 300_000), "parts"),
    "png of empty texts": ("image", lambda: noted_png(chunk(b"tEXt", b"k\0v") * 200_000), "parts"),
    "png of empty data": ("image", lambda: noted_png(chunk(b"IDAT") * 300_000), "parts"),
    "jpeg of notes": ("image", lambda: noted_jpeg(b"\xff\xfe\0\2" * 900_000), "parts"),
    "png of no pixels": ("image", lambda: png(0, 4), "cannot be decoded"),
    "png cut short": ("image", lambda: png(4, 4, data=zlib.compress(bytes(10))), "cannot be decoded"),
    "jpeg of 1000 scans": ("image", lambda: jpeg(200), "scans"),
    "safetensors of lists": ("tensors", header('{"a":[' + "[]," * 400_000 + "[]]}"), "lists and objects"),
    "safetensors in depth": ("tensors", header('{"a":' + "[" * 4000), "nested too deeply"),
    "safetensors of notes": (
        "tensors",
        lambda: header('{"__metadata__":{' + ",".join(f'"{i}":""' for i in range(500_000)) + '},"a":1}'),
        "texts",
    ),
    "safetensors of 200,000 tensors": (
        "tensors",
        lambda: header(
            "{" + ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(200_000)) + "}"
        ),
        "200,000 tensors",
    ),
    "safetensors of texts": ("tensors", lambda: header('{"a":[' + '"",' * 900_000 + "0]}"), "texts"),
    "safetensors of numbers": ("tensors", lambda: header('{"a":[' + "0," * 2_000_000 + "0]}"), "values"),
    "safetensors of wide text": ("tensors", lambda: header('{"a":"' + "a" * (1 << 24) + '\U0001f600"}'), "bytes for 0"),
    "keys of one hash": (
        "tensors",
        lambda: header(
            json.dumps(
                {
                    "__metadata__": {
                        "deepcore.state": '{"items":['
                        + ",".join(f"[{i * ((1 << 61) - 1)},0]" for i in range(30_000))
                        + "]}"
                    }
                }
            )
        ),
        "same hash",
    ),
    "safetensors of digits": ("tensors", header('{"a":' + "9" * 100_000 + "}"), "valid JSON"),
    "safetensors of escaped quotes": ("tensors", header("[]," * 9000 + '"' + '\\"' * 100_000), "no JSON|lists"),
    "safetensors with escapes": ("tensors", header('{"\\u001b[2J":{}}'), r"'\\x1b\[2J'"),
    "model in itself": ("model", with_model({"layer": "Sequential", "modules": {"0": {"same_as": ""}}}), "same as one"),
    "model of brackets": ("model", with_model("[" * 300_000), "too large"),
    "model of names": ("model", with_model({"layer": "x" * 400_000}), "described by its name"),
    "model of a size": (
        "model",
        with_model({"layer": "Linear", "arguments": {"in_features": 1 << 40, "out_features": 1 << 20}}),
        "cannot be built|missing",
    ),
}
READERS = {
    "toml": config.read,
    "samples": read_samples,
    "idx": read_idx,
    "image": read_samples,
    "tensors": dc.load,
    "model": nn.Module.load,
}


def peak():
    """The most bytes of memory that this process has held."""
    resource = pytest.importorskip("resource")  # not on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name, tmp_path):
    kind, content, message = HOSTILE[name]
    if kind == "image":
        pytest.importorskip("PIL.Image").init()
    content = content() if callable(content) else content
    path = tmp_path / ("f.toml" if kind == "toml" else "f")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    error = ConfigError if kind == "toml" else FileFormatError
    begun, before = time.perf_counter(), peak()
    with pytest.raises(error, match=message) as caught:
        READERS[kind](path)
    assert time.perf_counter() - begun < 5  # a fiftieth, on an idle machine
    assert peak() - before < 50 << 20  # what Pillow takes is not traced
    text = str(caught.value)
    assert str(path) in text and len(text) < 2000 and text.replace("\n", "").isprintable()
    tracemalloc.start()
    try:
        with pytest.raises(error):
            READERS[kind](path)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_notes_of_images_do_not_reach_the_decoder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.init()
    packed = zlib.compress(bytes((1 << 20) - 10), 9)
    texts = chunk(b"zTXt", b"a\0\0" + packed) * 60 + chunk(b"iCCP", b"a\0\0" + packed)
    pad = b"\xff" * 2_000_000
    note = b"Exif\0\0" + exif(2700, 32_000)
    segment = b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note
    for content in (noted_png(texts), noted_png(chunk(b"eXIf", exif(40_000, 400_000))), noted_jpeg(pad + segment)):
        (tmp_path / "f").write_bytes(content)
        begun = time.process_time()
        read_samples(tmp_path / "f")
        assert time.process_time() - begun < 5  # a five-hundredth, on an idle machine
    wide = image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    for kind in ("PNG", "JPEG"):
        wide.save(tmp_path / "f", kind, exif=exif(1, 4) if kind == "PNG" else b"Exif\0\0" + exif(1, 4))
        assert read_samples(tmp_path / "f").shape == (1, 1, 10, 6)


@pytest.mark.parametrize(
    "content, message",
    [
        ("9" * 100_000 + "x\n1\n", None),
        ("1\n" + "9" * 100_000 + "x\n", "not a number"),
        (",\n" * 1_000_000, "no rows"),
        ('"",""\n' * 300_000, "no rows"),
        ("a,b\n" + ",\n" * 1_000_000 + "1,2\n", None),
        ("1\n" * 60_000 + "x\n", "line 60001"),
        ("a" * 1_000_000 + "\nx\n", "column 1"),
    ],
)
def test_tables_made_to_take_time(content, message, tmp_path):
    (tmp_path / "f").write_text(content)
    seconds = []
    for _ in range(3):  # the best of three: a busy machine slows single reads
        begun = time.process_time()
        if message is None:
            read_samples(tmp_path / "f")
        else:
            with pytest.raises(DataError, match=message) as caught:
                read_samples(tmp_path / "f")
            assert len(str(caught.value)) < 2000
        seconds.append(time.process_time() - begun)
        if seconds[-1] < 5:
            break
    assert min(seconds) < 5  # a fiftieth, on an idle machine


def test_texts_without_number_are_no_categories(tmp_path):
    (tmp_path / "f").write_text("id,x\n" + "".join(f"a{i},1\n" for i in range(70_000)))
    with pytest.raises(DataError, match=r'(?s)65,536 different texts.*ignore = \["id"\]'):
        TableFile(tmp_path / "f").read([1], {0: None})


def test_names_of_classes_are_printed_with_escapes():
    odd = "\x1b[2Jcat\n"
    assert predict.text(predict.describe(np.array([0.25, 0.75]), ("dog", odd), 1)) == r"\x1b[2Jcat\n 0.7500"
    table = metrics.format_confusion_matrix(np.eye(2, dtype=int), ("dog", odd))
    assert r"\x1b[2Jcat\n" in table and table.replace("\n", "").isprintable()


def test_bounds_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "max_unpacked", lambda size: 1 << 20)
    (tmp_path / "f").write_bytes(zeros(2 << 20, b"\0\0\x08\1" + struct.pack(">I", 2 << 20)))
    with pytest.raises(FileFormatError, match=r"read_idx\(path, max_bytes=2097152\)"):
        read_idx(tmp_path / "f")
    assert read_idx(tmp_path / "f", max_bytes=2097152).shape == (2 << 20,)


def test_swapped_values_take_no_second_copy(tmp_path):
    array = np.arange(1 << 18, dtype=np.float64)
    write_idx(array, tmp_path / "f")
    tracemalloc.start()
    try:
        back = read_idx(tmp_path / "f")
        assert tracemalloc.get_traced_memory()[1] < 1.2 * array.nbytes
    finally:
        tracemalloc.stop()
    assert back.dtype.isnative and (back == array).all()


def test_npy_headers_of_other_writers(tmp_path):
    values = np.arange(6, dtype="<i4")
    for content in (
        npy("(2L, 3L)", "<i4", values.tobytes()),
        npy("(2,3)", "<i4", values.tobytes(), version=b"\2\0"),
        npy("(2, 3)", "i4", values.tobytes(), version=b"\3\0"),
        npy("(2, 3)", ">i4", values.astype(">i4").tobytes()).replace(b"'", b'"'),
    ):
        (tmp_path / "f").write_bytes(content)
        assert read_samples(tmp_path / "f").tolist() == [[0, 1, 2], [3, 4, 5]]
    (tmp_path / "f").write_bytes(npy("(2, 3)", "<i4", values.reshape(2, 3).tobytes("F"), "True"))
    assert read_samples(tmp_path / "f").tolist() == [[0, 1, 2], [3, 4, 5]]
    for descr, dtype in (("|b1", bool), ("?", bool), ("<f2", np.float16), ("|u1", np.uint8), ("<u8", np.uint64)):
        (tmp_path / "f").write_bytes(npy("(2,)", descr, np.ones(2, dtype).tobytes()))
        expected = 1 / 255 if dtype is np.uint8 else 1
        np.testing.assert_allclose(read_samples(tmp_path / "f"), [expected] * 2)


# -- mutated files ------------------------------------------------------------------------------------
def seeds(folder):
    """Reader and content of a small right file of each kind."""
    rng = np.random.default_rng(0)
    model = nn.Sequential({"a": nn.Linear(2, 3), "b": nn.LeakyReLU(0.1), "c": nn.LayerNorm(3)})
    model.save(folder / "model")
    dc.save({"x": dc.ones(2), "y": [1, (2.0, "z")]}, folder / "state")
    safetensors.save_file({"x": rng.standard_normal(3), "m": np.array([True, False])}, folder / "plain", {"k": "v"})
    write_idx(rng.integers(0, 9, (3, 4)).astype(np.int16), folder / "i.idx")
    write_idx(rng.integers(0, 9, (3, 4)).astype(np.uint8), folder / "i.gz")
    shard = {"metadata": {"total_size": 26}, "weight_map": {"x": "plain", "m": "plain"}}
    (folder / "index.json").write_text(json.dumps(shard))
    (folder / "f.npy").write_bytes(npy("(2, 2)"))
    (folder / "f.toml").write_text(
        '[data]\ntype = "digits"\n[[layers]]\ntype = "Linear"\nout_features = 10\n[loss]\ntype = "CrossEntropyLoss"\n'
        '[optimizer]\ntype = "SGD"\nlr = 0.1\n[train]\nepochs = 2\n'
    )
    pairs = [(nn.Module.load, "model"), (dc.load, "state"), (dc.load, "plain"), (dc.load, "index.json")]
    pairs += [(read_idx, "i.idx"), (read_samples, "i.gz"), (read_samples, "f.npy"), (config.read, "f.toml")]
    with contextlib.suppress(ImportError):
        from PIL import Image

        pixels = rng.integers(0, 255, (6, 5, 4)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "f.png")
        Image.fromarray(pixels[..., :3]).save(
            folder / "f.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6"
        )
        pairs += [(read_samples, "f.png"), (read_samples, "f.jpg")]
    return [(reader, folder / name, (folder / name).read_bytes()) for reader, name in pairs]


TOKENS = [b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"{", b"}", b"[", b"]", b'"', b"'", b",", b"\\", b".", b"-1"]
TOKENS += [b"9" * 30, b"1e999", b"NaN", b"null", b"true", b"True", b"\x1b[2J", b"\xed\xa0\x80", b"\\ud800", b"F4", b"O"]


def mutated(content, random):
    """`content` with a few bits flipped, bytes overwritten, inserted, removed, doubled, or cut off."""
    out = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(out)) if out else 0
        how = random.randrange(7)
        if how == 0 and out:
            out[at] ^= 1 << random.randrange(8)
        elif how == 1 and out:
            out[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        elif how == 2:
            token = random.choice(TOKENS)
            out[at : at + len(token) * random.randrange(2)] = token
        elif how == 3:
            del out[at : at + random.choice((1, 2, 4, 8, 100))]
        elif how == 4:
            out[at:at] = out[at : at + random.choice((1, 4, 30))]
        elif how == 5:
            del out[at:]
        elif len(out) > 8:
            place = random.choice((0, 4, 8, at))
            out[place : place + 4] = random.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", struct.pack("<I", len(out))))
    return bytes(out)


def fuzz(folder, rounds, seed):
    source = random.Random(seed)
    for reader, path, content in seeds(folder):
        for number in range(rounds):
            changed = mutated(content, source)
            path.write_bytes(changed)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    reader(path)
                except (FileFormatError, ConfigError, DataError, ShapeError, DeepcoreWarning):
                    pass
                except Exception as error:
                    raise AssertionError(f"{path.name}, round {number} of seed {seed}: {changed[:2000]!r}") from error
        path.write_bytes(content)


def test_mutated_files(tmp_path):
    fuzz(tmp_path, 30, seed=0)


@pytest.mark.slow
def test_many_mutated_files(tmp_path):
    fuzz(tmp_path, 1500, seed=1)
