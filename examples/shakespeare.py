"""Write like Shakespeare, character by character: an LSTM or a small GPT, with deepcore or with PyTorch.

    python examples/shakespeare.py [--model gpt] [--library torch] [--minutes 5]

The two libraries run the same lines below; the differences are `compiled` and that the GPT keeps its keys and values while it
writes with deepcore alone (`nn.KVCache`). The text is `tinyshakespeare/input.txt` in the folder that DEEPCORE_DATA names: the
first 90 % to train on, the rest to test on. The loss is the mean of -log p(character) in nats over all of the rest, which is
read in windows of 128 characters: the first of a window is predicted from the one before it alone.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from two_libraries import compiled, library_called, real_data, train_for

from deepcore.errors import DataError, DeepcoreError, FileFormatError

CONTEXT, MOST_BYTES = 128, 1 << 26  # characters of a window; of the file
WIDTH, HEADS, LAYERS = 128, 4, 4  # of the GPT
HIDDEN = 256  # of the LSTM
RATES = {"lstm": 4e-3, "gpt": 2e-3}  # the highest ones


# -- the networks -----------------------------------------------------------------------------------------
def lstm(library, characters: int):
    """Two layers of an LSTM: tokens (N, L) to scores (N, L, characters) of the next ones, and the states."""
    nn = library.nn

    class CharacterLSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(characters, 64)
            self.lstm = nn.LSTM(64, HIDDEN, 2, batch_first=True)
            self.head = nn.Linear(HIDDEN, characters)

        def forward(self, tokens, states=None):
            x, states = self.lstm(self.embedding(tokens), states)
            return self.head(x), states

    return CharacterLSTM()


def gpt(library, characters: int):
    """A decoder of four blocks: tokens (N, L) to scores (N, L, characters) of the next ones, and the caches."""
    nn = library.nn

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(characters, WIDTH)
            self.positions = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(LAYERS)
            )
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, characters, bias=False)
            for table in (self.embedding, self.positions):
                nn.init.normal_(table.weight, 0.0, 0.02)

        def forward(self, tokens, caches=None, position=0):
            length = tokens.shape[1]
            x = self.embedding(tokens) + self.positions(position + library.arange(length))
            if caches is None:
                mask = nn.Transformer.generate_square_subsequent_mask(length)
                for block in self.blocks:
                    x = block(x, mask, is_causal=True)
            else:
                for block, cache in zip(self.blocks, caches):
                    x = block(x, cache=cache, position=position)
            return self.head(self.norm(x)), caches

    return GPT()


# -- the data ---------------------------------------------------------------------------------------------
def read_text(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """The characters that occur, and the numbers of those of the text to train on, and to test on."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise DataError(
            f"there is no {path}", fix="set DEEPCORE_DATA to a folder with tinyshakespeare/input.txt"
        ) from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not a text in UTF-8: {error}") from None
    if not 20 * CONTEXT <= len(text) <= MOST_BYTES:
        raise FileFormatError(
            f"{path} has another size", expected=f"{20 * CONTEXT:,} characters to {MOST_BYTES:,} bytes"
        )
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    tokens = np.array([numbers[character] for character in text])
    cut = len(tokens) * 9 // 10
    return "".join(characters), tokens[:cut], tokens[cut:]


def random_windows(tokens: np.ndarray, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """`count` windows and the characters that follow each of theirs, both (count, 128)."""
    starts = rng.integers(len(tokens) - CONTEXT, size=(count, 1))
    windows = tokens[starts + np.arange(CONTEXT + 1)]
    return windows[:, :-1].copy(), windows[:, 1:].copy()


def all_windows(tokens: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Every character but the first as a target once, (batches, batch, 128); -100 where the last windows have no more."""
    size = batch * CONTEXT
    batches = -(-(len(tokens) - 1) // size)
    x, y = np.zeros(batches * size, np.int64), np.full(batches * size, -100)
    x[: len(tokens) - 1], y[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    return x.reshape(batches, batch, CONTEXT), y.reshape(batches, batch, CONTEXT)


# -- training, testing and writing ------------------------------------------------------------------------
def train(library, model, tokens: np.ndarray, seconds: float, batch: int, peak: float) -> None:
    """AdamW on random windows; the rate rises for 100 steps, then falls as a cosine until the time is up."""
    nn = library.nn
    optimizer = library.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.1)

    def step(x, y):
        optimizer.zero_grad()
        scores, _ = model(x)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    step = compiled(library, step)
    rng = np.random.default_rng(0)

    def one(number, share):
        falling = 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, share))) / 2
        optimizer.param_groups[0]["lr"] = peak * min(1.0, (number + 1) / 100) * falling
        return step(*map(library.from_numpy, random_windows(tokens, batch, rng))).item()

    train_for(seconds, one, batch * CONTEXT, "characters", ",.0f")


def test(library, model, tokens: np.ndarray, batch: int) -> float:
    """The mean loss over all characters but the first, in nats."""

    def total(x, y):
        scores, _ = model(x)
        return library.nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="sum")

    total, sums = compiled(library, total), []
    with library.no_grad():
        for x, y in zip(*all_windows(tokens, batch)):
            sums.append(total(library.from_numpy(x), library.from_numpy(y)).item())
    return sum(sums) / (len(tokens) - 1)


def write(library, model, first: int, count: int, temperature: float = 0.8) -> list[int]:
    """`count` characters after the `first` one, each drawn from what the model expects after those before it."""
    text, rng = [first], np.random.default_rng(0)
    with library.no_grad():
        for scores in expected_next(library, model, text, count):
            p = np.exp((scores - scores.max()).astype(np.float64) / temperature)
            text.append(int(rng.choice(len(p), p=p / p.sum())))
    return text


def expected_next(library, model, text: list[int], count: int):
    """`count` times the scores of the character after `text`, which grows meanwhile."""

    def tensor_of(numbers):
        return library.from_numpy(np.array([numbers]))

    if hasattr(model, "lstm"):
        step, states = compiled(library, lambda token, states: model(token, states)), None
        for _ in range(count):
            scores, states = step(tensor_of(text[-1:]), states)
            yield scores[0, -1].numpy()
    elif library.__name__ != "deepcore":
        for _ in range(count):
            yield model(tensor_of(text[-CONTEXT:]))[0][0, -1].numpy()
    else:
        caches = [library.nn.KVCache(1, HEADS, CONTEXT, WIDTH // HEADS) for _ in model.blocks]
        step = compiled(library, lambda tokens, position: model(tokens, caches, position)[0])
        position = 0
        for _ in range(count):
            new = text[-1:]
            if position == CONTEXT:  # the caches are full: the second half of their text becomes the first
                position, new = 0, text[-CONTEXT // 2 :]
            scores = step(tensor_of(new), library.tensor(position))
            position += len(new)
            yield scores[0, -1].numpy()


def main(arguments: list[str] | None = None) -> float:
    """The loss on the rest of the text, in nats a character."""
    parser = argparse.ArgumentParser(description="A character model of Shakespeare: an LSTM or a small GPT.")
    parser.add_argument("--model", choices=["lstm", "gpt"], default="gpt")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to train (default 5)")
    parser.add_argument("--batch", type=int, default=16, help="windows in a step (default 16)")
    parser.add_argument("--length", type=int, default=500, help="characters to write (default 500)")
    options = parser.parse_args(arguments)
    library = library_called(options.library)
    characters, training, testing = read_text(real_data("tinyshakespeare/") / "input.txt")

    library.manual_seed(0)
    model = {"lstm": lstm, "gpt": gpt}[options.model](library, len(characters))
    size = sum(p.numel() for p in model.parameters())
    print(
        f"{options.library}, {options.model}: {len(training):,} characters to train on, {len(testing):,} to test on; "
        f"{size:,} parameters"
    )
    train(library, model, training, 60 * options.minutes, options.batch, RATES[options.model])
    model.eval()
    start = time.perf_counter()
    loss = test(library, model, testing, options.batch)
    print(
        f"loss: {loss:.4f} nats a character, over {len(testing) - 1:,} of them in {time.perf_counter() - start:.1f} s"
    )
    start = time.perf_counter()
    text = write(library, model, characters.index("\n"), options.length)
    print(f"{options.length} characters in {time.perf_counter() - start:.1f} s:")
    print("".join(characters[i] for i in text))
    return loss


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
