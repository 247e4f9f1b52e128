"""Text in experiment files: its data, networks of sequences, and predictions of raw lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.cli import build, main, runs, sources
from deepcore.cli.config import Place, parse
from deepcore.cli.inputs import Inputs
from deepcore.cli.text import PADDING, UNKNOWN, Text
from deepcore.config import settings
from deepcore.errors import ConfigError, DataError, DeepcoreError, FileFormatError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

LSTM = """[[layers]]
type = "LSTM"
hidden_size = 12
bidirectional = true
[[layers]]
type = "SequencePool"
"""
TRANSFORMER = """[[layers]]
type = "LearnedPositionalEncoding"
[[layers]]
type = "TransformerEncoderLayer"
nhead = 2
dim_feedforward = 16
[[layers]]
type = "TransformerEncoderLayer"
nhead = 2
dim_feedforward = 16
[[layers]]
type = "SequencePool"
mode = "max"
"""
TEXT = f"""
[data]
type = "text"
train = "texts.tsv"

[[layers]]
type = "Embedding"
embedding_dim = 8

{LSTM}
[[layers]]
type = "Linear"
out_features = 2

[loss]
type = "CrossEntropyLoss"

[optimizer]
type = "Adam"
lr = 0.02

[train]
epochs = 8
"""
BAG = TEXT.replace(LSTM, "").replace(
    '"Embedding"\nembedding_dim = 8', '"EmbeddingBag"\nembedding_dim = 8\nmode = "max"'
)
NETWORKS = {"lstm": TEXT, "transformer": TEXT.replace(LSTM, TRANSFORMER), "bag": BAG}


def write_texts(folder: Path, count: int = 100) -> None:
    """Sentences with a good or a bad word among others, one of which is unknown."""
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        words = [f"word{n}" for n in rng.integers(9, size=rng.integers(0, 6))]
        words.append(f"rare{i}")
        words.insert(rng.integers(len(words) + 1), ("Bad", "Good")[i % 2])
        lines.append(f"{('against', 'for')[i % 2]}\t{' '.join(words)}!")
    (folder / "texts.tsv").write_text("\n".join(lines) + "\n")


def data(folder: Path, keys: str = "", loss: str = "CrossEntropyLoss") -> sources.Data:
    text = TEXT.replace('train = "texts.tsv"', keys or 'train = "texts.tsv"').replace("CrossEntropyLoss", loss)
    return sources.load(parse(text, Place("text.toml"), "text").data, folder, loss in build.CLASS_LOSSES)


def trained(folder: Path, text: str = TEXT, *options: str) -> Path:
    (folder / "text.toml").write_text(text)
    run = folder / "run"
    assert main(["train", str(folder / "text.toml"), "--quiet", "--out", str(run), "--overwrite", *options]) == 0
    return run


# -- data ---------------------------------------------------------------------------------------------------
def test_words_of_the_training_part_alone(tmp_path):
    (tmp_path / "a.tsv").write_text("b\tIt's  fine, fine\n\na\tIt's not fine.\r\n")
    (tmp_path / "t.tsv").write_text("a\tnot bad, it's FINE, it really is\n")
    got = data(tmp_path, 'train = "a.tsv"\ntest = "t.tsv"\nmin_count = 1')
    assert got.text.vocabulary == ("fine", "it's", ",", ".", "not")
    assert got.classes == ("a", "b")
    assert got.train.inputs.tolist() == [[3, 2, 4, 2], [3, 6, 2, 5]] and got.train.inputs.dtype == np.int64
    assert got.train.targets.tolist() == [1, 0]
    assert got.test.inputs.tolist() == [[6, UNKNOWN, 4, 3]]
    frequent = data(tmp_path, 'train = "a.tsv"\ntest = "t.tsv"\nlength = 5')
    assert frequent.text.vocabulary == ("fine", "it's")
    assert frequent.train.inputs.tolist() == [[3, 2, 1, 2, PADDING], [3, 1, 2, 1, PADDING]]
    assert data(tmp_path, 'train = "a.tsv"\nmax_vocabulary = 1\ntest_fraction = 0').text.size == 3


def test_the_vocabulary_leaves_out_what_is_tested_on(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{'ab'[i % 2]}\tword{i} word{i}\n" for i in range(50)))
    got = data(tmp_path, 'train = "a.tsv"')
    assert (len(got.train), len(got.test), len(got.text.vocabulary)) == (40, 10, 40)
    assert (got.test.inputs == UNKNOWN).all() and (got.train.inputs > UNKNOWN).all()


def test_characters(tmp_path):
    (tmp_path / "a.tsv").write_text("x\t aBa\ny\tb\n", encoding="utf-8-sig")
    keys = 'train = "a.tsv"\ntest_fraction = 0\ntokens = "character"\nmin_count = 1\n'
    got = data(tmp_path, keys)
    assert got.text.vocabulary == ("a", "b") and got.train.inputs.tolist() == [[2, 3, 2], [3, 0, 0]]
    assert data(tmp_path, keys + "lowercase = false").text.vocabulary == ("a", "B", "b")


def test_folders_of_classes(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "good.txt").write_bytes(b"fine film\n\ncaf\xe9 fine\x85 film\n")
    (tmp_path / "a" / ".hidden").write_text("no")
    for i, text in enumerate(("a\nfilm", "a fine\nfilm\n")):
        (tmp_path / "a" / "deep" / f"{i}.txt").write_text(text)
    got = data(tmp_path, 'train = "a"\ntest_fraction = 0\nencoding = "latin-1"')
    assert got.classes == ("deep", "good") and got.train.targets.tolist() == [0, 0, 1, 1]
    assert got.text.vocabulary == ("film", "fine", "a")
    assert got.train.inputs.tolist() == [[4, 2, 0], [4, 3, 2], [3, 2, 0], [1, 3, 2]]
    with pytest.raises(FileFormatError, match=r'byte 0xe9 in line 3\n[\s\S]*encoding = "latin-1"'):
        data(tmp_path, 'train = "a"')


def test_values_as_labels(tmp_path):
    (tmp_path / "a.tsv").write_text("1.5\tfine fine\n-2\tbad bad\n")
    got = data(tmp_path, 'train = "a.tsv"\ntest_fraction = 0', "MSELoss")
    assert got.classes is None and got.train.targets.tolist() == [[1.5], [-2]]
    (tmp_path / "a.tsv").write_text("1.5\tfine\nhigh\tbad\n")
    with pytest.raises(DataError, match=r"not a number\n[\s\S]*'high'\n[\s\S]*a loss on classes"):
        data(tmp_path, 'train = "a.tsv"', "MSELoss")


@pytest.mark.parametrize(
    ("content", "keys", "says"),
    [
        ("a\tx x\nno label\n", "", r"line 2, 'no label'\n[\s\S]*a file of texts for each class"),
        ("\tx x\n", "", "line without a label"),
        ("\n\n", "", "has no texts"),
        ("a\tx\nb\ty\n", "", r"no word of the training lines occurs 2 times\n[\s\S]*min_count = 1"),
        ("a\t \nb\t \n", "", "there is no text"),
        ("a\tx x\n", 'test = "t.tsv"', r"a class 'c' that is not in the training data"),
        ("a\tx x\n", 'tokens = "words"', "'word', 'character'"),
        ("a\tx x\n", 'encoding = "ascii"', "'utf-8', 'latin-1'"),
        ("a\tx x\n", "length = 0", "length is 1 to 65,536"),
        ("a\tx x\n", "min_count = -1", "min_count is 1"),
        ("a\tx x\n", "max_vocabulary = 100000", "max_vocabulary is 1"),
        ("a\tx x\n", 'normalize = "all"\ntest_fraction = 0', r"data.normalize[\s\S]*leave out normalize"),
        ("a\tx x\n", "shape = [2]\ntest_fraction = 0", r"data.shape[\s\S]*leave out shape"),
    ],
)
def test_texts_that_cannot_be(content, keys, says, tmp_path):
    (tmp_path / "a.tsv").write_text(content)
    (tmp_path / "t.tsv").write_text("c\tx\n")
    with pytest.raises(DeepcoreError, match=says):
        data(tmp_path, f'train = "a.tsv"\n{keys}')


# -- networks -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_sizes_follow_from_the_text(text, tmp_path):
    write_texts(tmp_path)
    found = data(tmp_path)
    config = parse(text, Place("text.toml"), "text")
    net, full = build.model(config, found.train.inputs.shape[1:], found.text)
    build.check_output(full, net, found.train.inputs.shape[1:], found.classes, (), found.text)
    assert type(net) is dc.nn.PaddedSequential
    assert net[0].num_embeddings == found.text.size and net[0].padding_idx == PADDING
    again, _ = build.model(parse(text, Place("text.toml"), "text"), found.train.inputs.shape[1:], found.text)
    assert repr(again) == repr(net)


WRONG = {
    "no embedding": (TEXT.replace('"Embedding"\nembedding_dim = 8', '"ReLU"'), "layers[0].type", "Embedding or Embedd"),
    "few rows": (TEXT.replace("= 8\n", "= 8\nnum_embeddings = 5\n", 1), "layers[0].num_embeddings", "leave out"),
    "padding": (
        TEXT.replace("= 8\n", "= 8\npadding_idx = 1\n", 1),
        "layers[0].padding_idx",
        "0, the number of padding",
    ),
    "no pool": (TEXT.replace('[[layers]]\ntype = "SequencePool"\n', ""), "layers[2]", "put SequencePool before"),
    "time first": (TEXT.replace("= 12", "= 12\nbatch_first = false"), "layers[1].batch_first", "or leave it out"),
    "other sizes": (TEXT.replace("= 12", "= 12\ninput_size = 9"), "layers[1]", "9 features"),
    "heads": (NETWORKS["transformer"].replace("nhead = 2", "nhead = 3", 1), "layers[2]", "num_heads"),
    "positions": (
        NETWORKS["transformer"].replace('Encoding"\n', 'Encoding"\nmax_len = 2\n', 1),
        "layers[1]",
        "2 positions",
    ),
    "mode": (TEXT.replace('"SequencePool"', '"SequencePool"\nmode = "sum"'), "layers[2]", "no mode 'sum'"),
    "second embedding": (
        TEXT.replace("[[layers]]", '[[layers]]\ntype = "Embedding"\nembedding_dim = 2\n[[layers]]', 1),
        "layers[1]",
        "needs num_embeddings",
    ),
}


@pytest.mark.parametrize(("text", "key", "says"), WRONG.values(), ids=WRONG)
def test_wrong_networks(text, key, says, tmp_path):
    write_texts(tmp_path)
    found = data(tmp_path)
    shape = found.train.inputs.shape[1:]
    with pytest.raises(ConfigError) as caught:
        net, full = build.model(parse(text, Place("text.toml"), "text"), shape, found.text)
        build.check_output(full, net, shape, found.classes, (), found.text)
    assert says in str(caught.value) and f"text.toml: {key}," in str(caught.value) + ","


# -- runs ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", NETWORKS.values(), ids=NETWORKS)
def test_train_and_predict(text, tmp_path, capsys, backend):
    write_texts(tmp_path)
    run = trained(tmp_path, text, "--backend", backend)
    result = json.loads((run / runs.RESULT).read_text())
    assert result["test_accuracy"] == 1
    (tmp_path / "new.txt").write_text("good\n\nword1 word2, BAD word1\r\nnever seen good")
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "new.txt"), "--device", backend, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 4
    assert [lines[i]["class"] for i in (0, 2, 3)] == ["for", "against", "for"]
    (tmp_path / "new.txt").write_text("good\n")
    assert main(["predict", str(run), str(tmp_path / "new.txt"), "--device", backend, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["probability"] == pytest.approx(lines[0]["probability"], rel=1e-5)
    assert main(["summary", str(run)]) == 0
    assert "PaddedSequential" in capsys.readouterr().out
    (tmp_path / "new.txt").write_text("")
    assert main(["predict", str(run), str(tmp_path / "new.txt")]) == 2
    assert "has no lines" in capsys.readouterr().err


def test_the_resolved_file_gives_the_same_run(tmp_path, capsys):
    write_texts(tmp_path)
    run = trained(tmp_path, TEXT, "--epochs", "2")
    again = tmp_path / "again"
    assert main(["train", str(run / runs.CONFIG), "--quiet", "--out", str(again)]) == 0
    for name in (runs.MODEL, runs.INPUTS, runs.CONFIG):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert main(["summary", str(run / runs.CONFIG)]) == 0
    assert "PaddedSequential" in capsys.readouterr().out


def test_numbers_in_a_row(tmp_path, capsys):
    """Sequences of numbers from arrays: the sum of a few values."""
    x = np.random.default_rng(0).uniform(-1, 1, (200, 4, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x.sum((1, 2)))
    text = TEXT.replace('"text"\ntrain = "texts.tsv"', '"npy"\ninputs = "x.npy"\ntargets = "y.npy"')
    text = text.replace('[[layers]]\ntype = "Embedding"\nembedding_dim = 8\n', "").replace(
        "out_features = 2", "out_features = 1"
    )
    run = trained(tmp_path, text.replace("CrossEntropyLoss", "MSELoss").replace("epochs = 8", "epochs = 15"))
    assert json.loads((run / runs.RESULT).read_text())["test_loss"] < 0.1
    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "x.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 200


def test_the_vocabulary_of_a_run_is_checked(tmp_path):
    inputs = Inputs((4,), classes=("a", "b"), output="logits", text=Text(("x", "é"), 4))
    inputs.save(tmp_path / "input.json")
    assert Inputs.load(tmp_path / "input.json") == inputs
    good = json.loads((tmp_path / "input.json").read_text())
    for changes in (
        {"vocabulary": 3},
        {"vocabulary": ["x", 1]},
        {"vocabulary": ["x", "x"]},
        {"length": 5},
        {"length": "4"},
        {"tokens": "words"},
        {"encoding": "utf-16"},
        {"lowercase": "no"},
        {"more": 1},
    ):
        (tmp_path / "input.json").write_text(json.dumps({**good, "text": {**good["text"], **changes}}))
        with pytest.raises(FileFormatError, match="does not describe"):
            Inputs.load(tmp_path / "input.json")


@pytest.mark.slow
def test_reviews_are_learned(tmp_path, capsys):
    folder = Path(settings.data_dir or "")
    if not settings.data_dir or not (folder / "movie_reviews").is_dir():
        pytest.skip("DEEPCORE_DATA names no folder with movie_reviews/")
    run = tmp_path / "run"
    argv = [
        "train",
        str(EXAMPLES / "reviews.toml"),
        "--data",
        str(folder),
        "--epochs",
        "3",
        "--quiet",
        "--out",
        str(run),
    ]
    assert main(argv) == 0
    assert json.loads((run / runs.RESULT).read_text())["test_accuracy"] >= 0.7
