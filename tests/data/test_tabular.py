"""Tables by column names, from CSV and pandas, and their encoding; scikit-learn as oracle."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import DataLoader
from deepcore.data.tabular import Table, TableEncoder
from deepcore.errors import ArgumentError, DataError, FileFormatError, StateDictError

CSV = """id,age,fare,port,class,price,kind
a1,22,7.25,S,3,1.5,yes
a2,,71.3,C,1,2.5,no
a3,26,,S,3,3.5,yes
a4,35,53.1,,1,4.5,no
a5,28,8.05,Q,3,5.5,yes
a6,54,51.9,S,1,6.5,no
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "train.csv").write_text(CSV)
    return tmp_path / "train.csv"


def read(path, **options):
    options = {"numbers": ["fare", "age"], "categories": ["port", "class"], "target": "kind", "id": "id"} | options
    return Table.read_csv(path, **options)


def same(a, b):
    assert a.number_names == b.number_names and a.ids == b.ids and a.target_name == b.target_name
    np.testing.assert_array_equal(a.numbers, b.numbers)
    assert list(a.categories) == list(b.categories)
    for name, column in a.categories.items():
        assert column.categories == b.categories[name].categories
        np.testing.assert_array_equal(column.codes, b.categories[name].codes)
    if isinstance(a.target, np.ndarray):
        np.testing.assert_array_equal(a.target, b.target)
    elif a.target is not None:
        assert a.target.categories == b.target.categories and a.target.codes.tolist() == b.target.codes.tolist()


def test_columns_by_name(path):
    table = read(path)
    assert len(table) == 6 and table.number_names == ("fare", "age") and table.ids == [f"a{i}" for i in range(1, 7)]
    np.testing.assert_array_equal(table.column("age"), np.float32([22, np.nan, 26, 35, 28, 54]))
    assert table.column("port").tolist() == ["S", "C", "S", None, "Q", "S"]
    assert table.categories["port"].categories == ("C", "Q", "S") and table.categories["class"].categories == ("1", "3")
    assert table.column("kind").tolist() == ["yes", "no"] * 3
    price = read(path, target="price")
    assert price.target.dtype == np.float32 and price.target.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert read(path, target="class", categories=["port"]).target.tolist() == [3, 1] * 3
    assert read(path, target="class", categories=["port"], target_kind="category").target.categories == ("1", "3")
    rest = Table.read_csv(path, categories=["port", "kind"], id="id")
    assert rest.number_names == ("age", "fare", "class", "price") and rest.target is None
    part = table.rows(slice(1, 3))
    assert part.ids == ["a2", "a3"] and part.column("port").tolist() == ["C", "S"] and len(part) == 2
    assert table.rows(np.array([True, False] * 3)).ids == ["a1", "a3", "a5"]


def test_columns_by_number(tmp_path):
    (tmp_path / "f.csv").write_text("1,x,0\n2,y,1\n")
    table = Table.read_csv(tmp_path / "f.csv", categories=[1], target=-1)
    assert table.number_names == ("0",) and table.column("1").tolist() == ["x", "y"] and table.target.tolist() == [0, 1]


@pytest.mark.parametrize("rows", [2, 60_000], ids=["Python", "kernel"])
def test_other_spellings_of_what_is_missing(tmp_path, rows):
    (tmp_path / "f.csv").write_text("x,c,y\n" + "1.5,a,0\n?,?,1\n" * rows)
    table = Table.read_csv(tmp_path / "f.csv", categories=["c"], target="y", missing_values=["?"])
    np.testing.assert_array_equal(table.column("x"), np.float32([1.5, np.nan] * rows))
    assert table.categories["c"].categories == ("a",) and table.column("c")[:2].tolist() == ["a", None]
    for options, words in (
        ({}, "not a number"),
        ({"missing_values": ["?"], "missing": "error"}, r"missing value\n.*line 3"),
        ({"missing_values": ["-999"]}, "numpy.nan"),
        ({"numbers": [], "missing_values": ["?"], "missing": "error"}, r"missing value\n.*line 3"),
    ):
        with pytest.raises((DataError, ArgumentError), match=words):
            Table.read_csv(tmp_path / "f.csv", categories=["c"], target="y", **options)


def test_many_ids(tmp_path):
    """More than a column of categories may have, and equal ones."""
    ids = [f"row {i // 2}" for i in range(140_000)]
    (tmp_path / "f.csv").write_text("id,x\n" + "".join(f"{name},{i}\n" for i, name in enumerate(ids)))
    table = Table.read_csv(tmp_path / "f.csv", id="id")
    assert table.ids == ids and table.number_names == ("x",)


def test_frames(path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(path)
    frame["class"] = frame["class"].astype(str)
    arguments = {"numbers": ["fare", "age"], "categories": ["port", "class"], "target": "kind", "id": "id"}
    same(Table.from_pandas(frame, **arguments), read(path))
    by_kind = Table.from_pandas(frame, target="price", id="id")
    assert by_kind.number_names == ("age", "fare") and list(by_kind.categories) == ["port", "class", "kind"]
    frame["age"] = frame["age"].astype("Int64")
    frame["port"] = frame["port"].astype("category")
    same(Table.from_pandas(frame, **arguments), read(path))
    for wrong, words in (
        ({"numbers": ["port"]}, "'port' of the frame is not numbers"),
        ({"numbers": ["agee"]}, "did you mean 'age'"),
        ({"target": "port"}, "missing in row 3"),
        ({"categories": ["kind"], "target": "kind"}, "chosen twice"),
    ):
        with pytest.raises((DataError, ArgumentError), match=words):
            Table.from_pandas(frame, **wrong)


def test_one_hot_and_standardised_equal_scikit_learn(path):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    assert sklearn
    table = read(path)
    for strategy in ("mean", "median", "most_frequent"):
        encoder = TableEncoder(missing=strategy, standardize=True).fit(table)
        filled = SimpleImputer(strategy=strategy).fit_transform(table.numbers)
        scaler = StandardScaler().fit(table.numbers)  # without what is missing, as ours
        found = encoder.transform(table)
        np.testing.assert_allclose(found[:, :2], scaler.transform(filled), atol=1e-5)
        names = [["C", "Q", "S"], ["1", "3"]]
        columns = np.stack([table.column(n) for n in ("port", "class")], 1)
        if strategy == "most_frequent":
            columns = SimpleImputer(strategy=strategy, missing_values=None).fit_transform(columns)
        expected = OneHotEncoder(categories=names, handle_unknown="ignore").fit_transform(columns).toarray()
        np.testing.assert_array_equal(found[:, 2:], expected)
    assert encoder.feature_names == ["fare", "age", "port=C", "port=Q", "port=S", "class=1", "class=3"]


def test_codes_constants_and_indicators(path):
    encoder = TableEncoder("codes", missing=-1.0, indicators=True).fit(read(path))
    assert encoder.feature_names == [
        "fare",
        "fare is missing",
        "age",
        "age is missing",
        "port",
        "port is missing",
        "class",
    ]
    rows = encoder.transform(read(path))
    assert rows[1].tolist() == [np.float32(71.3), 0, -1, 1, 0, 0, 0]
    assert rows[3].tolist() == [np.float32(53.1), 0, 35, 0, -1, 1, 0]
    constant = Table(np.float32([[3.1], [3.1], [3.1]]), ["x"], {})
    assert TableEncoder(standardize=True).fit(constant).transform(constant).tolist() == [[0], [0], [0]]


def test_new_data_is_encoded_as_the_training_data_was(tmp_path, path, backend):
    encoder = TableEncoder(missing="mean", standardize=True, unknown="ignore").fit(read(path))
    (tmp_path / "new.csv").write_text("port,extra,class,fare,age,kind\nX,0,3,10,,no\nS,0,1,,30,yes\n")
    new = Table.read_csv(tmp_path / "new.csv", ["age", "fare"], ["class", "port"], target="kind")
    state = json.loads(json.dumps(encoder.state_dict()))
    copy = TableEncoder()
    copy.load_state_dict(state)
    rows = copy.transform(new)
    np.testing.assert_array_equal(rows, encoder.transform(new))
    train = read(path)
    fare, age = (train.column(n).astype(np.float64) for n in ("fare", "age"))
    assert rows[0, 1] == 0 and rows[1, 0] == 0, "the training mean"
    assert rows[0, 0] == pytest.approx((10 - np.nanmean(fare)) / np.nanstd(fare), rel=1e-5)
    assert rows[1, 1] == pytest.approx((30 - np.nanmean(age)) / np.nanstd(age), rel=1e-5)
    assert rows[:, 2:].tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    assert copy.encode_target(new).tolist() == [0, 1] and copy.classes == ("no", "yes")
    dataset = copy.dataset(new, backend)
    assert dataset.classes == ("no", "yes") and dataset.tensors[0].backend is dc.backend.get_backend(backend)
    x, y = next(iter(DataLoader(dataset, 2, backend=backend)))
    np.testing.assert_array_equal(x.numpy(), rows)
    assert y.tolist() == [0, 1]
    values = TableEncoder(missing="mean").fit(read(path, target="price"))
    assert values.encode_target(read(path, target="price")).shape == (6, 1)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p: read(p, numbers=["agee"]), DataError, "did you mean 'age'"),
        (lambda p: read(p, numbers=["port"], categories=[]), DataError, r'categories=\["port"\]'),
        (lambda p: read(p, numbers=["age"], categories=["age"]), ArgumentError, "chosen twice"),
        (lambda p: read(p, missing="error"), DataError, r"line 3, column 2 \('age'\)"),
        (lambda p: read(p, target="port", categories=[]), DataError, "missing value"),
        (lambda p: read(p, missing="mean"), ArgumentError, "TableEncoder"),
        (lambda p: read(p, target_kind="class"), ArgumentError, "'category'"),
        (lambda p: read(p, target_kind="number"), DataError, "target_kind='category'"),
        (lambda p: read(p).column("agee"), DataError, "did you mean 'age'"),
        (lambda p: TableEncoder().fit(read(p)), DataError, "first in row 2, id 'a3'"),
        (lambda p: TableEncoder().transform(read(p)), ArgumentError, "fit"),
        (lambda p: TableEncoder("binary"), ArgumentError, "one-hot"),
        (lambda p: TableEncoder(missing=float("nan")), ArgumentError, "median"),
        (lambda p: TableEncoder(indicators=True), ArgumentError, "strategy"),
        (lambda p: TableEncoder(missing="mean").fit(read(p).rows(slice(0, 0))), DataError, "no rows"),
        (lambda p: TableEncoder(missing="mean").fit(read(p).rows([1])), DataError, "'age' of .* has no value"),
        (
            lambda p: TableEncoder(missing="mean").fit(read(p).rows([0, 2])).transform(read(p)),
            DataError,
            "not in the training data",
        ),
        (
            lambda p: TableEncoder(missing="mean").fit(read(p)).transform(read(p, numbers=["age"])),
            DataError,
            "lacks 1 of the 2 columns",
        ),
        (lambda p: TableEncoder().load_state_dict({"a": 1}), StateDictError, "not the state"),
        (
            lambda p: TableEncoder().load_state_dict({**TableEncoder().state_dict(), "numbers": {"x": {"fill": "?"}}}),
            StateDictError,
            "damaged",
        ),
    ],
)
def test_errors_name_the_fault(path, call, error, words):
    with pytest.raises(error, match=words):
        call(path)


def test_files_that_are_no_tables(tmp_path):
    for content in (b"\x80\x04pickle", b"a,b\n1,\xff\n", b"PK\x03\x04" + bytes(40)):
        (tmp_path / "f.csv").write_bytes(content)
        with pytest.raises((FileFormatError, DataError), match=r"f\.csv"):
            Table.read_csv(tmp_path / "f.csv", target="b")
