"""Vocabularies, tokenizers, padding, and lines of files."""

from __future__ import annotations

import functools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import DataLoader, text
from deepcore.data.text import (
    CharTokenizer,
    TextLines,
    Vocabulary,
    WordTokenizer,
    pad_collate,
    pad_sequences,
    split_words,
)
from deepcore.errors import ArgumentError, DataError, DeepcoreError, FileFormatError, IndexRangeError, StateDictError


# -- vocabularies -------------------------------------------------------------------------------------
def test_vocabulary_by_frequency():
    texts = ["the cat sat", "the cat", "the dog sat on"]
    words = Vocabulary.from_texts(texts, str.split)
    assert list(words) == ["<pad>", "<unk>", "the", "cat", "sat", "dog", "on"]
    assert words.encode(["the", "cow", "sat"]).tolist() == [2, 1, 4] and words["cow"] == 1
    assert words.decode(dc.tensor([2, 1, 0, 4])) == ["the", "<unk>", "<pad>", "sat"]
    assert words.decode([2, 1, 0, 4], skip_specials=True) == ["the", "sat"]
    assert "cat" in words and "cow" not in words and len(words) == 7
    assert list(Vocabulary.from_texts(texts, str.split, min_freq=2, specials=(), unknown=None)) == ["the", "cat", "sat"]
    assert len(Vocabulary.from_texts([t.split() for t in texts], max_tokens=4)) == 4
    strict = Vocabulary(["a"], specials=(), unknown=None)
    with pytest.raises(DataError, match="no token 'b'"):
        strict.encode(["a", "b"])


def test_vocabulary_in_files(tmp_path):
    words = Vocabulary(["naïve", "日本", 'quo"te', "\n"], specials=("<pad>", "<unk>", "<eos>"))
    words.save(tmp_path / "v.json")
    back = Vocabulary.load(tmp_path / "v.json")
    assert back.tokens == words.tokens and back.specials == words.specials and back.unknown == words.unknown
    for content, words_ in (
        (b"[1", "not JSON"),
        (b"{}", "not a vocabulary"),
        (b'{"tokens": ["a", "a"], "specials": [], "unknown": null}', "each token once"),
        (b'{"tokens": [1], "specials": [], "unknown": null}', "lists of texts"),
        (b'{"tokens": "ab", "specials": [], "unknown": null}', "lists of texts"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(FileFormatError, match=words_) as caught:
            Vocabulary.load(tmp_path / "bad.json")
        assert "bad.json" in str(caught.value)


# -- tokenizers ---------------------------------------------------------------------------------------
def test_words_of_several_scripts():
    assert split_words("Don't stop—it's 3.5€!") == ["Don't", "stop", "—", "it's", "3", ".", "5", "€", "!"]
    assert split_words("हिन्दी में") == ["हिन्दी", "में"]
    assert split_words("e\u0301te\u0301 va") == ["e\u0301te\u0301", "va"], "marks that combine"
    assert split_words("«привет», Ελλάδα") == ["«", "привет", "»", ",", "Ελλάδα"]
    assert split_words("  ") == []
    long = "a'" * 50_000 + "!" * 50_000
    assert sum(map(len, split_words(long))) == len(long), "in linear time"


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_tokenizers_there_and_back(kind):
    texts = ["The cat sat.", "A naïve cat, sat\nthere!", "e\u0301"]
    tokenizer = kind.from_texts(texts)
    for line in texts:
        numbers = tokenizer(line)
        assert numbers.dtype == np.int64 and numbers.min() >= 2
        tokens = tokenizer.tokenize(line)
        assert tokenizer.vocabulary.decode(numbers) == tokens and tokenizer.decode(numbers) == tokenizer.join(tokens)
    if kind is CharTokenizer:
        assert tokenizer.decode(tokenizer(texts[1])) == texts[1]
        assert len(tokenizer("e\u0301")) == 1, "composed"
    state = json.loads(json.dumps(tokenizer.state_dict()))
    copy = kind.from_state_dict(state)
    assert copy("The dog").tolist() == tokenizer("The dog").tolist() and len(copy) == len(tokenizer)
    small = kind.from_texts(texts, lowercase=True, min_freq=2)
    assert all(token == token.lower() for token in small.vocabulary)


# -- padding ------------------------------------------------------------------------------------------
def test_padding(backend):
    rows = [[1, 2, 3], [], [4]]
    assert pad_sequences(rows).tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert pad_sequences(rows, 2, -1, "left").tolist() == [[2, 3], [-1, -1], [-1, 4]]
    assert pad_sequences(rows, multiple_of=4).shape == (3, 4) and pad_sequences(rows).dtype == np.int64
    deep = [dc.ones(2, 3, backend=backend), dc.ones(1, 3, backend=backend)]
    assert pad_sequences(deep).tolist() == [[[1] * 3, [1] * 3], [[1] * 3, [0] * 3]]
    samples = [(np.arange(n), n % 2, {"name": str(n)}) for n in (3, 1, 2)]
    loader = DataLoader(samples, 3, collate_fn=functools.partial(pad_collate, value=9), backend=backend)
    padded, lengths, labels, names = next(iter(loader))
    assert padded.tolist() == [[0, 1, 2], [0, 9, 9], [0, 1, 9]] and lengths.tolist() == [3, 1, 2]
    assert labels.tolist() == [1, 1, 0] and names == {"name": ["3", "1", "2"]}
    assert padded.backend is labels.backend is dc.backend.get_backend(backend)
    alone, lengths = pad_collate([np.arange(2.0), np.arange(3.0)], length=2)
    assert alone.tolist() == [[0, 1], [0, 1]] and lengths.tolist() == [2, 2]
    assert pad_collate([[1, 2], [3]])[0].tolist() == [[1, 2], [3, 0]], "lists of numbers are sequences"


# -- lines --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content, lines",
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\n\n\xc3\xa9\n", ["a", "", "é"]),
        (b"\n", [""]),
        (b"one", ["one"]),
    ],
)
def test_lines(tmp_path, content, lines):
    path = tmp_path / "f.txt"
    path.write_bytes(content)
    data = TextLines(path)
    assert [data[i] for i in range(len(data))] == lines == text.read_lines(path)
    assert data[-1] == lines[-1]
    filled = [line for line in lines if line]
    if filled:
        data = TextLines(path, str.upper, skip_empty=True)
        assert [data[i] for i in range(len(data))] == [line.upper() for line in filled]
        assert pickle.loads(pickle.dumps(data))[0] == filled[0].upper()


def test_lines_of_a_long_file(tmp_path, monkeypatch):
    from deepcore.data.text import lines as module

    monkeypatch.setattr(module, "_BLOCK", 7)
    path = tmp_path / "f.txt"
    path.write_text("".join(f"line {i}\n" for i in range(200)))
    data = TextLines(path)
    assert len(data) == 200 and all(data[i] == f"line {i}" for i in range(200))
    tokenizer = CharTokenizer.from_texts(data[i] for i in range(200))
    batches = [
        [x.tolist() for x, _ in DataLoader(TextLines(path, tokenizer), 32, collate_fn=pad_collate, num_workers=n)]
        for n in (0, 2)
    ]
    assert batches[0] == batches[1]


def test_faults_of_text_files(tmp_path):
    path = tmp_path / "f.txt"
    path.write_bytes(b"good\nb\xe9d\n")
    with pytest.raises(FileFormatError, match="byte 0xe9 in line 2") as caught:
        TextLines(path)[1]
    assert "latin-1" in str(caught.value)
    assert TextLines(path, encoding="latin-1")[1] == "béd" and text.read_lines(path, "latin-1") == ["good", "béd"]
    with pytest.raises(FileFormatError, match="ascii"):
        text.read_lines(path, "ascii")
    path.write_bytes("a\n".encode("utf-16"))
    with pytest.raises(FileFormatError, match="UTF-16"):
        TextLines(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no lines"):
        TextLines(path)


def test_labelled_texts(tmp_path):
    (tmp_path / "f.txt").write_text("good\tfine film\n\nbad\tdull\n")
    assert text.read_labelled(tmp_path / "f.txt") == (["good", "bad"], ["fine film", "dull"])
    (tmp_path / "d" / "neg").mkdir(parents=True)
    (tmp_path / "d" / "neg" / "1").write_text("two\nlines")
    (tmp_path / "d" / "pos.txt").write_text("a\nb\n")
    assert text.read_labelled(tmp_path / "d") == (["neg", "pos", "pos"], ["two lines", "a", "b"])


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Vocabulary(["a", "a"]), ArgumentError, "each token once"),
        (lambda: Vocabulary(["a"], specials=(), unknown="<unk>"), ArgumentError, "unknown=None"),
        (lambda: Vocabulary.from_texts("abc"), ArgumentError, "texts are several"),
        (lambda: Vocabulary.from_texts(["abc"]), ArgumentError, "split"),
        (lambda: Vocabulary(["a"]).decode([7]), IndexRangeError, "0 to 2"),
        (lambda: CharTokenizer(["a"]), ArgumentError, "from_texts"),
        (lambda: CharTokenizer.from_texts(["a"])(3), ArgumentError, "takes texts"),
        (lambda: CharTokenizer.from_state_dict({}), StateDictError, "vocabulary"),
        (lambda: pad_sequences([]), DataError, "no sequences"),
        (lambda: pad_sequences([np.zeros((2, 3)), np.zeros((2, 4))]), DataError, "sequence 1"),
        (lambda: pad_sequences([[1]], side="middle"), ArgumentError, "'right' or 'left'"),
        (lambda: TextLines("f", encoding="odd"), ArgumentError, "no such encoding"),
    ],
)
def test_errors_name_the_fault(call, error, words):
    with pytest.raises(error, match=words):
        call()
    assert issubclass(error, DeepcoreError)


@pytest.mark.slow
def test_real_texts():
    root = Path(os.environ.get("DEEPCORE_DATA", ""))
    if not (root / "movie_reviews").is_dir():
        pytest.skip("DEEPCORE_DATA has no movie_reviews")
    reviews = TextLines(root / "movie_reviews" / "rt-polarity.pos", encoding="latin-1")
    assert len(reviews) == 5331
    words = WordTokenizer.from_texts((reviews[i] for i in range(5331)), min_freq=2, lowercase=True)
    assert 5_000 < len(words) < 20_000
    play = TextLines(root / "tinyshakespeare" / "input.txt")
    characters = CharTokenizer.from_texts(play[i] for i in range(len(play)))
    assert len(characters) == 2 + 64 and play[0] == "First Citizen:"
