"""Tables in text files: the same by the kernel and by Python, numbers as float() reads them, errors with their place."""

from __future__ import annotations

import csv
import importlib.util
import io
import random
import time
import tracemalloc

import numpy as np
import pytest

from deepcore.config import settings
from deepcore.errors import DataError, DeepcoreError, FileFormatError
from deepcore.io import read_samples, tables
from deepcore.io.tables import TableFile, read_numbers

WAYS = ["python", "kernel"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """How rows are parsed, for files of any size."""
    if request.param == "kernel":
        if importlib.util.find_spec("numba") is None or not settings.kernels:
            pytest.skip("kernels need numba")
        from deepcore.kernels.cpu import csv_rows

        assert csv_rows.Rows.ready()
    monkeypatch.setattr(tables, "_KERNEL_BYTES", 0 if request.param == "kernel" else 1 << 60)
    return request.param


@pytest.fixture
def table(tmp_path):
    """Writes a table and returns its path."""

    def write(content):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# -- formats --------------------------------------------------------------------------------------------------
SAME = {
    "plain": "1,2\n3,4\n",
    "no newline at the end": "1,2\n3,4",
    "crlf": "1,2\r\n3,4\r\n",
    "cr": "1,2\r3,4\r",
    "empty lines": "\n\n1,2\n\n\n3,4\n\n",
    "lines of blanks": "  \n1,2\n \t \n3,4\n ",
    "rows of empty cells": "1,2\n,\n3,4\n,\n,\n",
    "mark": "\ufeff1,2\n3,4",
    "names": "a,b\n1,2\n3,4",
    "names behind a mark": "\ufeffa,b\n1,2\n3,4",
    "an unnamed column": ",b\n1,2\n3,4",
    "semicolons": "a;b\n1;2\n3;4",
    "tabs": "1\t2\n3\t4",
    "blanks": " 1 2 \n3\t \t4\n",
    "names in savetxt's way": "# a b\n1 2\n3 4",
    "quotes": '"a","b"\n"1","2"\n"3",4\n',
    "blanks around": " 1 , 2\n3\t,\t4",
    "blanks around quotes": ' "1" , " 2 "\n3,4',
    "signs and exponents": "+1,2e0\n0.3e+1,400E-2",
    "points": "1.,2.0\n3,.4e1",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_forms_of_one_table(text, table, way):
    assert read_numbers(table(text)).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", ["1\n2\n", "a\n1\n\n2", "petal length\n1\n2", '"1"\n"2"'])
def test_one_column(text, table, way):
    assert read_numbers(table(text)).tolist() == [[1], [2]]


def test_the_delimiter_is_what_all_rows_agree_on(table, way):
    file = TableFile(table('name;size, in cm;n\n"a,b";"1,5";2\n"c;d, e";"2,0";3\n'))
    assert file.names == ("name", "size, in cm", "n")
    got = file.read([2], {0: None, 1: None})
    assert got.numbers.tolist() == [[2], [3]]
    assert got.texts[0].categories == ("a,b", "c;d, e") and got.texts[1].categories == ("1,5", "2,0")


def test_quoted_cells_are_those_of_the_csv_module(table, way):
    cells = ["a", "", "a b", "a,b", 'say "so"', "two\nlines", "cr\rlf\r\n", "é", '"', '""', ",", "1", "a;b\tc"]
    draw = random.Random(0)
    rows = [[draw.choice(cells) for _ in range(3)] + [str(i)] for i in range(400)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["x", "y", "z", "n"], *rows])
    got = TableFile(table(text.getvalue())).read([3], {0: None, 1: None, 2: None}, missing=(0, 1, 2))
    assert got.numbers.ravel().tolist() == list(range(400))
    for i, column in enumerate(got.texts):
        assert [column.categories[c] if c >= 0 else "" for c in column.codes] == [row[i].strip(" \t") for row in rows]


# -- numbers --------------------------------------------------------------------------------------------------
def spellings(draw, count):
    """Numbers of every size and length; halves between two floats; sizes at the edges."""
    values = draw.integers(0, 2**63, count, np.uint64).view(np.float64)
    values = values[np.isfinite(values)]
    yield from (repr(float(v)) for v in values)
    yield from (f"{v:.18e}" for v in values[: count // 4])
    yield from map(repr, draw.standard_normal(count).tolist())
    for w, q in zip(draw.integers(0, 2**64, count, np.uint64).tolist(), draw.integers(-345, 310, count).tolist()):
        yield f"{w}e{q}"
    for w in draw.integers(2**53, 2**63, count).tolist():
        yield str((w >> w.bit_length() - 54 | 1) << w.bit_length() - 54)
    for w in draw.integers(2**53, 2**54, count).tolist():
        yield f"{(w | 1) * 5}e-1"
    yield from ["0", "-0", "00", "-0.0e5", "1e22", "1e23", "8.5e22", "9007199254740993", "9007199254740993.0000"]
    yield from ["2.2250738585072014e-308", "2.2250738585072011e-308", "5e-324", "2e-324", "1.7976931348623157e308"]
    yield from [
        "0." + "0" * 40 + "123456789012345678901234567890",
        "9" * 25,
        "1" + "0" * 400 + "e-400",
        "1e-99999999999",
    ]


def test_numbers_are_exactly_rounded(table, way):
    """float64 results, before they become float32, are those of float()."""
    texts = list(spellings(np.random.default_rng(0), 1000 if way == "python" else 4000))
    file = TableFile(table("\n".join(texts)), header=False)
    parse = file._parser(np.zeros(1, np.int64), 1, 0)
    got = np.concatenate([block.numbers.ravel() for _, _, block in file._blocks(parse)])
    wanted = np.array([float(text) for text in texts])
    different = np.flatnonzero(got.view(np.int64) != wanted.view(np.int64))
    assert len(got) == len(texts) and not len(different), [texts[i] for i in different[:5]]


NO_NUMBERS = [
    "2024_01", "1_000", "0x10", "0b1", "1e", "e5", ".", "+", "-", "--1", "1 2", "1.2.3", "1e5.5", "1,000,", "٣", "１", "½", "1f",
    "$1", "1%", "true", "1d5", "infinit", "nano", "1\u00a0", "\u22121", "'1'", '1"', '"1""2"',
]  # fmt: skip


@pytest.mark.parametrize("cell", NO_NUMBERS)
def test_what_is_no_number(cell, table, way):
    with pytest.raises(DataError, match=r"not a number\n.*in line 2, column 2 \('b'\)|different lengths"):
        read_numbers(table(f"a;b\n1;{cell}\n2;3\n"))


@pytest.mark.parametrize("cell", ["", " ", '""', "nan", "NaN", "-nan", "NA", "n/a", "N/A", "null", "None", '"na"'])
def test_missing_numbers(cell, table, way):
    path = table(f"a,b,c\n1,{cell},3\n4,5,6\n")
    with pytest.raises(DataError, match=r"missing value\n.*in line 2, column 2 \('b'\)\n[\s\S]*fill in"):
        read_numbers(path)
    got = TableFile(path).read([0, 1], missing=[1])
    np.testing.assert_array_equal(got.numbers, np.array([[1, np.nan], [4, 5]], np.float32))
    with pytest.raises(DataError, match="line 2, column 2"):
        TableFile(path).read([0, 1], missing=[0])


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e39", "-4e38", "1e999"])
def test_infinite_numbers(cell, table, way):
    with pytest.raises(DataError, match=f"too large for float32\n.*\n.*'{cell}' in line 3, column 1"):
        TableFile(table(f"1,2\n3,4\n{cell},5\n"), header=False).read([0, 1], missing=[0, 1])


def test_many_cells_that_the_kernel_leaves(table, way):
    """More than one call has room for."""
    rows = 6000
    got = read_numbers(
        table(
            "\n".join(f"{i}.{'0' * 25},NA" if i % 7 else f"{i},{i}" for i in range(rows)).replace(
                "NA", '"1.""'.replace('""', "") + '"'
            )
        )
    )
    assert got[:, 0].tolist() == list(range(rows))
    assert got[:, 1].tolist() == [1 if i % 7 else i for i in range(rows)]


# -- both ways ------------------------------------------------------------------------------------------------
ATOMS = ["1", "2.5", "-3e2", " 7 ", "", "x", "a b", '"q"', '"1"', '"a,b"', '"a""b"', '"l\nm"', '""', "nan", "NA", "1_0", "0x1", "1e400",
         "inf", "٣", "é", '5"', '"u"v', "\t", '" 3 "', "1,5", "1.", "+.5", "\x0b", "12345678901234567890123", "\x0c4", '"']  # fmt: skip


def outcome(path, header, texts, missing):
    try:
        file = TableFile(path, header)
        numbers = [i for i in range(file.width) if i not in texts]
        got = file.read(numbers, {i: None for i in texts if i < file.width}, range(file.width) if missing else ())
    except DeepcoreError as error:
        return f"{type(error).__name__}: {error}"
    columns = [(column.codes.tolist(), column.categories) for column in got.texts]
    return file.names, got.numbers.view(np.int32).tolist(), columns


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="kernels need numba")
@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_and_python_agree(seed, table, monkeypatch):
    """On any text, in blocks of any size, down to the messages."""
    draw = random.Random(seed)
    good = 0
    for _ in range(120):
        mark, end, width = draw.choice([",", ";", "\t", " "]), draw.choice(["\n", "\r\n", "\r"]), draw.randint(1, 4)
        atoms = (
            draw.sample(ATOMS, draw.randint(1, 5)) if draw.random() < 0.6 else ["1", "2.5", "", "nan", '"4"', "1e-7"]
        )
        widths = [width if draw.random() < 0.95 else draw.randint(1, 5) for _ in range(draw.randint(1, 6))]
        path = table(end.join(mark.join(draw.choice(atoms) for _ in range(w)) for w in widths) + draw.choice(["", end]))
        asked = draw.choice([None, True, False]), [i for i in range(width) if draw.random() < 0.4], draw.random() < 0.6
        monkeypatch.setattr(tables, "_BLOCK", draw.choice([1, 3, 7, 1 << 18]))
        found = []
        for least in (1 << 60, 0):
            monkeypatch.setattr(tables, "_KERNEL_BYTES", least)
            found.append(outcome(path, *asked))
        assert found[0] == found[1], path.read_bytes()
        good += isinstance(found[0], tuple)
    assert 10 < good < 110


# -- columns --------------------------------------------------------------------------------------------------
def test_columns_by_name_and_number(table, way):
    file = TableFile(table("id,age,city\nx1,30,Rome\nx2,41,Oslo\nx3,52,Rome\n"))
    assert (file.names, file.width) == (("id", "age", "city"), 3)
    assert [file.column(which) for which in ("age", 0, -1)] == [1, 0, 2]
    got = file.read([file.column("age")], {file.column("city"): None})
    assert got.numbers.tolist() == [[30], [41], [52]] and len(got) == 3
    assert got.texts[0].codes.tolist() == [0, 1, 0] and got.texts[0].categories == ("Rome", "Oslo")
    known = file.read([], {2: ("Oslo", "Rome")})
    assert known.texts[0].codes.tolist() == [1, 0, 1] and known.numbers.shape == (3, 0)
    with pytest.raises(
        DataError, match=r"none of its column's categories\n.*'Oslo'\n.*'Rome' in line 2, column 3 \('city'\)"
    ):
        file.read([], {2: ("Oslo",)})
    with pytest.raises(DataError, match=r"'x1' in line 2, column 1 \('id'\)"):
        file.read([0, 1])
    for which, says in (("agee", "did you mean 'age'"), (3, "0 to 2"), (-4, "0 to 2")):
        with pytest.raises(DataError, match=says):
            file.column(which)


def test_columns_of_one_name(table):
    file = TableFile(table("a,b,a\n1,2,3\n"))
    assert file.column("b") == 1
    with pytest.raises(DataError, match=r"several columns named 'a'\n.*columns 0, 2"):
        file.column("a")


def test_whether_the_first_row_is_names(table):
    years, words = table("2019,2020\n1,2\n"), "a,b\nc,d\n"
    assert TableFile(years).names is None
    assert TableFile(years, header=True).names == TableFile(years, expected_names=["2020"]).names == ("2019", "2020")
    assert TableFile(years, expected_names=["2020", "2021"]).names is None
    assert TableFile(table(words)).names == ("a", "b")
    file = TableFile(table(words), header=False)
    assert file.names is None and file.read([], {0: None}).texts[0].categories == ("a", "c")


def test_empty_texts_are_missing(table, way):
    path = table('1,x\n2,\n3,""\n')
    with pytest.raises(DataError, match=r"missing value\n.*'' in line 2, column 2\n"):
        TableFile(path).read([0], {1: None})
    assert TableFile(path).read([0], {1: None}, missing=[1]).texts[0].codes.tolist() == [0, -1, -1]


# -- faults ---------------------------------------------------------------------------------------------------
FAULTS = {
    "longer row": ("a,b\n1,2\n\n1,2,3\n", DataError, r"expected: +2 cells, separated by commas, .*\n +received: +3 in line 4\n"),
    "shorter row": ("1;2\n1\n", DataError, r"separated by semicolons.*\n +received: +1 in line 2\n"),
    "names of another width": ("a,b,c\n1,2\n1,2\n", DataError, r"3 cells.*names\n +received: +2 in line 2\n"),
    "behind a quoted newline": ('"a\nb",c\n3,x\n', DataError, r"'x' in line 3, column 2"),
    "crlf lines": ("1,2\r\n3,4\r\n5,x\r\n", DataError, r"'x' in line 3, column 2"),
    "cr lines": ("1,2\r3,4\r5,x\r", DataError, r"'x' in line 3, column 2"),
    "decimal comma": ("a;b\n1;2,5\n", DataError, r"'2,5' in line 2[\s\S]*with a point: 1\.5"),
    "open quote": ('1,2\n"3,4\n5,6\n', FileFormatError, r"a row that does not end\n[\s\S]*from line 2 on\n[\s\S]*close the quote"),
    "open quote at once": ('"1,2\n3,4\n', FileFormatError, r"from line 1 on\n"),
    "behind a quote": ('1,2\n"3"4,5\n', FileFormatError, r"behind a closing quote\n +received: +in line 2\n"),
    "behind the first quote": ('"3"4,5\n1,2\n', FileFormatError, r"behind a closing quote\n +received: +in line 1\n"),
    "null": (b"1,2\n3,\x004\n", FileFormatError, r"null byte.*\n.*line 2\n"),
    "latin-1": ("name,n\nJosé,1\n".encode("latin-1"), FileFormatError, r"UTF-8\n.*byte 0xe9 in line 2\n.*\n.*WINDOWS-1252"),
    "latin-1 in a late block": (b"1,2\n" * 80_000 + b"1,\xe9\n", FileFormatError, r"byte 0xe9 in line 80001\n"),
    "cut in a character": ("1,é".encode()[:-1], FileFormatError, r"byte 0xc3 in line 1\n"),
    "utf-16": ("1,2\n".encode("utf-16"), FileFormatError, r"but in UTF-16\n[\s\S]*iconv -f UTF-16"),
    "excel": (b"PK\3\4" + bytes(22) + b"\x13\0\0\0[Content_Types].xml", FileFormatError, r"Office file[\s\S]*CSV"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), FileFormatError, r"gzip"),
    "nothing": ("", DataError, "no rows"),
    "blank": ("\ufeff \n\n,,\n", DataError, "no rows"),
    "names alone": ("a,b\n\n", DataError, "no rows below its column names"),
    "escapes": ("1,2\n3,\x1b[31m\n", DataError, r"'\\x1b\[31m' in line 2"),
    "long text": ("1,2\n3," + "x" * 500 + "\n", DataError, r"'x{40}…' in line 2"),
}  # fmt: skip


@pytest.mark.parametrize("content, error, says", FAULTS.values(), ids=FAULTS)
def test_faults_name_their_place(content, error, says, table, way):
    path = table(content)
    with pytest.raises(error, match=says) as caught:
        file = TableFile(path)
        file.read(range(file.width))
    assert type(caught.value) is error and "\x1b" not in str(caught.value)


_MANY = 6 << 20
HOSTILE = {
    "one line": lambda: b"1" * _MANY,
    "one line of cells": lambda: b"1," * (_MANY // 2),
    "empty cells": lambda: b"," * _MANY,
    "empty quoted cells": lambda: b'"",' * (_MANY // 3),
    "quoted cells in the second row": lambda: b'1,2\n"1"' + b',"1"' * (_MANY // 4),
    "an open quote": lambda: b'1,2\n"' + b"a,\n" * (_MANY // 3),
    "quotes": lambda: b'"' * _MANY + b"a",
    "quotes in the second row": lambda: b"1,2\n" + b'"' * _MANY + b"a",
    "blanks": lambda: b" " * _MANY,
    "columns": lambda: b",".join([b"a"] * 300_000) + b"\n" + b",".join([b"1"] * 300_000),
    "a huge number": lambda: b"1,2\n3," + b"9" * (3 << 20) + b"\n",
    "zeros": lambda: bytes(_MANY),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tables(content, table):
    path = table(content())
    tracemalloc.start()
    try:
        with pytest.raises((FileFormatError, DataError)):
            read_numbers(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_memory_and_blocks_of_a_large_table(table, way):
    rows, width = (8_000 if way == "python" else 30_000), 4
    values = np.random.default_rng(0).standard_normal((rows, width))
    path = table("a,b,c,d\n" + "\n".join(",".join(map(repr, row)) for row in values.tolist()))
    read_numbers(path)
    tracemalloc.start()
    try:
        got = read_samples(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(got, values.astype(np.float32))
    # Twice the array while its blocks are joined, and what a block takes.
    assert peak < 2.2 * got.nbytes + 24 * tables._BLOCK


@pytest.mark.slow
def test_speed_of_a_large_table(table):
    """Two million rows of four numbers a second, here at a quarter of that for a busy machine."""
    pytest.importorskip("numba")
    values = np.random.default_rng(0).standard_normal((200_000, 4))
    path = table("\n".join(",".join(map(repr, row)) for row in values.tolist()))
    read_numbers(path)
    begun = time.process_time()
    assert read_numbers(path).shape == (200_000, 4)
    assert time.process_time() - begun < 4
