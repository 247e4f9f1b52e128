"""Tell whether a sentence of a movie review is in favour or against, with an LSTM or a small transformer, in deepcore or PyTorch.

    python examples/reviews.py [--model transformer] [--library torch] [--minutes 1]

The two libraries run the same lines below; the one difference is `compiled`. The data are the 10,662 sentences of Pang and
Lee (2005), `movie_reviews/rt-polarity.neg` and `.pos` in the folder that DEEPCORE_DATA names: a tenth of each, drawn once, to
test on. Beside the network, a maximum-entropy model (logistic regression on the words a sentence has, in any order) is
trained and tested on the same sentences.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from two_libraries import compiled, library_called, real_data, train_for

from deepcore.errors import DataError, DeepcoreError

LENGTH = 40  # words of a sentence; what follows is left out
PADDING, UNKNOWN, FIRST = 0, 1, 2  # numbers of words; those from FIRST on are in the vocabulary
WIDTH, RATE, MOST_BYTES = 64, 2e-3, 1 << 24  # of a word's vector; of learning, at first; of a file


# -- the networks -----------------------------------------------------------------------------------------
def network(library, kind: str, words: int):
    """Numbers of words (N, 40) to scores of the two classes (N, 2), by an "lstm" or a "transformer"."""
    nn = library.nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(words, WIDTH, padding_idx=PADDING)
            with library.no_grad():
                self.embedding.weight *= 0.1
            if kind == "lstm":
                self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            else:
                self.position = nn.Embedding(LENGTH, WIDTH)
                with library.no_grad():
                    self.position.weight *= 0.1
                self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.2, batch_first=True, norm_first=True)
            self.dropout = nn.Dropout(0.5)
            self.out = nn.Linear(WIDTH, 2)

        def forward(self, x):
            padding = x == PADDING
            x = self.dropout(self.embedding(x))
            if kind == "lstm":
                x = self.lstm(x)[0]  # padding comes last, so it changes no word before it
            else:
                x = self.encoder(x + self.position.weight, src_key_padding_mask=padding)
            counts = (~padding).unsqueeze(2).to(x.dtype)
            return self.out(self.dropout((x * counts).sum(1) / counts.sum(1)))

    return Classifier()


def maximum_entropy(library, words: int):
    """Logistic regression on the set of a sentence's words: a score of each class for each word, summed."""
    model = library.nn.EmbeddingBag(words, 2, mode="sum", padding_idx=PADDING)
    with library.no_grad():
        model.weight *= 0
    return model


# -- the data ---------------------------------------------------------------------------------------------
def read_sentences(folder: Path) -> tuple[list[list[str]], np.ndarray]:
    """The words of each sentence, and 1 where it is in favour."""
    sentences: list[list[str]] = []
    labels: list[int] = []
    for label, name in enumerate(("neg", "pos")):
        path = folder / f"rt-polarity.{name}"
        try:
            if path.stat().st_size > MOST_BYTES:
                raise DataError(f"{path} has more than {MOST_BYTES:,} bytes")
            lines = path.read_text(encoding="latin-1").split("\n")
        except FileNotFoundError:
            raise DataError(f"there is no {path}", fix="set DEEPCORE_DATA to a folder with movie_reviews/") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        found = [line.split() for line in lines if line.strip()]
        if len(found) < 10:
            raise DataError(f"{path} has {len(found)} sentences", expected="at least 10, one in each line")
        sentences += found
        labels += [label] * len(found)
    return sentences, np.array(labels, np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sentences to train on, and a tenth of each class to test on; the same in every run."""
    rng, training, testing = np.random.default_rng(0), [], []
    for label in (0, 1):
        order = rng.permutation(np.flatnonzero(labels == label))
        testing.append(order[: len(order) // 10])
        training.append(order[len(order) // 10 :])
    return np.concatenate(training), np.concatenate(testing)


def vocabulary(sentences) -> dict[str, int]:
    """Words that occur at least twice, and their numbers."""
    counts = Counter(word for words in sentences for word in words)
    return {word: i for i, word in enumerate(sorted(word for word, n in counts.items() if n > 1), FIRST)}


def numbered(sentences, number: dict[str, int]) -> np.ndarray:
    """Sentences as numbers of words (N, 40), padded at the end."""
    x = np.full((len(sentences), LENGTH), PADDING, np.int64)
    for row, words in zip(x, sentences):
        words = words[:LENGTH]
        row[: len(words)] = [number.get(word, UNKNOWN) for word in words]
    return x


def sets_of_words(x: np.ndarray) -> np.ndarray:
    """Each row with every word once; repeated ones become padding."""
    x = np.sort(x, 1)
    x[:, 1:][x[:, 1:] == x[:, :-1]] = PADDING
    return x


# -- training and testing ---------------------------------------------------------------------------------
def train(library, model, x, y, seconds: float, batch: int) -> int:
    """Adam on the cross-entropy of random batches, at a rate that falls to 0 until the time is up; the number of steps."""
    optimizer = library.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    loss_function = library.nn.CrossEntropyLoss()

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = compiled(library, step)
    rng = np.random.default_rng(0)

    def one(number, share):
        optimizer.param_groups[0]["lr"] = RATE * max(0.0, 1 - share)
        chosen = rng.integers(len(x), size=batch)
        return step(library.from_numpy(x[chosen]), library.from_numpy(y[chosen])).item()

    return train_for(seconds, one, batch, "sentences")


def train_maximum_entropy(library, model, x, y, steps: int = 150) -> None:
    """Adam on the cross-entropy of all sentences plus 2e-5 Σw²."""
    optimizer = library.optim.Adam(model.parameters(), lr=0.05)
    x, y = library.from_numpy(x), library.from_numpy(y)

    def step(x, y):
        optimizer.zero_grad()
        loss = library.nn.functional.cross_entropy(model(x), y) + 2e-5 * (model.weight**2).sum()
        loss.backward()
        optimizer.step()

    step = compiled(library, step)
    for _ in range(steps):
        step(x, y)


def accuracy(library, model, x, y) -> float:
    """The share of sentences whose class is right."""
    model.eval()
    right = 0
    with library.no_grad():
        for i in range(0, len(x), 500):
            right += int((model(library.from_numpy(x[i : i + 500])).argmax(1).numpy() == y[i : i + 500]).sum())
    return right / len(x)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """The accuracies of the network and of the maximum-entropy model on the test sentences."""
    parser = argparse.ArgumentParser(description="The sentiment of sentences from movie reviews.")
    parser.add_argument("--model", choices=["lstm", "transformer"], default="lstm")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to train the network (default 1)")
    parser.add_argument("--batch", type=int, default=64, help="sentences in a step (default 64)")
    options = parser.parse_args(arguments)
    library = library_called(options.library)
    sentences, labels = read_sentences(real_data("movie_reviews/"))
    training, testing = split(labels)
    number = vocabulary([sentences[i] for i in training])
    words = FIRST + len(number)
    x, y = numbered([sentences[i] for i in training], number), labels[training]
    test_x, test_y = numbered([sentences[i] for i in testing], number), labels[testing]

    library.manual_seed(0)
    model = network(library, options.model, words)
    count = sum(p.numel() for p in model.parameters())
    print(f"{options.library}: {len(x):,} sentences to train on, {len(test_x):,} to test on; {words:,} words")
    print(f"{options.model}: {count:,} parameters")
    train(library, model, x, y, 60 * options.minutes, options.batch)
    baseline = maximum_entropy(library, words)
    train_maximum_entropy(library, baseline, sets_of_words(x), y)

    found = accuracy(library, model, test_x, test_y), accuracy(library, baseline, sets_of_words(test_x), test_y)
    print(f"right of {len(test_x):,} test sentences: {options.model} {found[0]:.2%}, maximum entropy {found[1]:.2%}")
    return found


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
