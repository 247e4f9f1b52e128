"""Recognise spoken digits, alone and several in a row, by CTC, with deepcore or with PyTorch.

    python examples/spoken_digits.py [--library torch] [--minutes 3]

The two libraries run the same lines below; the one difference is `compiled`. The data are the 3,000 recordings of the Free
Spoken Digit Dataset, `fsdd.zip` in the folder that DEEPCORE_DATA names, with `{digit}_{speaker}_{number}.wav` of 8 kHz: those
numbered 0 to 4 to test on, as its authors do, the others to train on. The network learns from one to three recordings in a
row and the digits in them: where one ends and the next begins, it is not told.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
from two_libraries import compiled, library_called, real_data, train_for

from deepcore.data import audio
from deepcore.errors import DataError, DeepcoreError, FileFormatError
from deepcore.nn.functional import ctc_greedy_decode

RATE, WINDOW, HOP, BANDS = 8000, 200, 80, 40  # Hz, samples, samples: 100 frames a second
FRAMES, STRIDE, BLANK = 192, 4, 10  # frames of an input; of them to one of the output; the class behind the digits
MOST_BYTES, MOST_FILES = 1 << 20, 10_000  # of a recording, in the archive


# -- the network ------------------------------------------------------------------------------------------
def network(library):
    """Convolutions along time, (N, 40, 192) to scores of the digits and the blank at each fourth frame, (N, 11, 48)."""
    nn, layers = library.nn, []
    for inputs, stride, dilation in ((BANDS, 2, 1), (96, 2, 1), (96, 1, 1), (96, 1, 2)):
        layers += [
            nn.Conv1d(inputs, 96, 5, stride, padding=2 * dilation, dilation=dilation),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Dropout(0.2),
        ]
    model = nn.Sequential(*layers, nn.Conv1d(96, 11, 1))
    assert sum(p.numel() for p in model.parameters()) == 159_659
    return model


# -- the data ---------------------------------------------------------------------------------------------
def read_recordings(path: Path) -> tuple[list, list]:
    """(features, digit) of each recording to train on, and of each to test on."""
    training: list[tuple[np.ndarray, int]] = []
    testing: list[tuple[np.ndarray, int]] = []
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
            if len(files) > MOST_FILES or any(file.file_size > MOST_BYTES for file in files):
                raise FileFormatError(f"{path} has too many files, or too long ones, for recordings of digits")
            for file in sorted(files, key=lambda file: file.filename):
                name = re.search(r"(\d)_[a-z]+_(\d+)\.wav$", file.filename)
                if name:
                    features = log_mel(read_wav(archive.read(file), file.filename))
                    (testing if int(name[2]) < 5 else training).append((features, int(name[1])))
    except FileNotFoundError:
        raise DataError(f"there is no {path}", fix="set DEEPCORE_DATA to a folder with fsdd.zip") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path} is not an archive that can be read: {error}") from None
    if not training or not testing:
        raise DataError(f"{path} has no recordings named {{digit}}_{{speaker}}_{{number}}.wav to train and test on")
    return training, testing


def read_wav(content: bytes, name: str) -> np.ndarray:
    """The samples of a recording, in [-1, 1)."""
    file = io.BytesIO(content)
    file.name = name  # for errors
    samples, rate = audio.read_wav(file)
    if (len(samples), rate) != (1, RATE):
        raise FileFormatError(
            f"{name} is no recording of this kind",
            expected=f"1 channel, {RATE} Hz",
            received=f"{len(samples)}, {rate}",
        )
    return samples[0]


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Logarithms of the energy in 40 bands of equal width in mel, (frames, 40); each band with mean 0 and variance 1."""
    samples = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * np.hanning(WINDOW)
    energy = np.abs(np.fft.rfft(frames, 256)) ** 2
    bands = np.log(energy @ mel_filters().T + 1e-6)
    return ((bands - bands.mean(0)) / (bands.std(0) + 1e-3)).astype(np.float32)[:FRAMES]


def mel_filters() -> np.ndarray:
    """Triangles over the 129 frequencies of a spectrum, (40, 129): mel = 2595 log₁₀(1 + f/700)."""
    most = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, most, BANDS + 2) / 2595) - 1)
    left, middle, right = (corners[i : i + BANDS, None] for i in range(3))
    frequencies = np.linspace(0, RATE / 2, 129)
    # A triangle narrower than the spectrum's step still has its nearest frequency.
    slopes = np.minimum((frequencies - left) / (middle - left), (right - frequencies) / (right - middle))
    near = np.abs(frequencies - middle) <= RATE / 512
    return np.maximum(slopes, np.where(near, 0.5, 0))


def in_a_row(recordings) -> tuple[np.ndarray, list[int]]:
    """The features of recordings one after the other, and their digits; those that find no room are left out."""
    parts, digits, room = [], [], FRAMES
    for features, digit in recordings:
        if len(features) <= room:
            parts.append(features)
            digits.append(digit)
            room -= len(features)
    return np.concatenate(parts), digits


def batch_of(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, 40, 192), digits (N, 5), and how many of the network's frames and of the digits count."""
    x = np.zeros((len(rows), FRAMES, BANDS), np.float32)
    digits = np.zeros((len(rows), 5), np.int64)
    for row, (features, row_digits) in enumerate(rows):
        x[row, : len(features)] = features
        digits[row, : len(row_digits)] = row_digits
    frames = np.array([-(-len(features) // STRIDE) for features, _ in rows])
    return x.transpose(0, 2, 1).copy(), digits, frames, np.array([len(row_digits) for _, row_digits in rows])


# -- training and testing ---------------------------------------------------------------------------------
def train(library, model, recordings, seconds: float, batch: int) -> None:
    """Adam on the CTC loss of random rows of recordings, at a rate that falls to 0 until the time is up."""
    optimizer = library.optim.Adam(model.parameters(), lr=3e-3)
    loss_function = library.nn.CTCLoss(blank=BLANK, zero_infinity=True)

    def step(x, digits, frames, count):
        optimizer.zero_grad()
        scores = model(x).permute(2, 0, 1)
        loss = loss_function(library.log_softmax(scores, -1), digits, frames, count)
        loss.backward()
        optimizer.step()
        return loss

    step = compiled(library, step)
    rng = np.random.default_rng(0)

    def one(number, share):
        optimizer.param_groups[0]["lr"] = 3e-3 * max(0.0, 1 - share)
        choices = [rng.integers(len(recordings), size=rng.integers(1, 4)) for _ in range(batch)]
        rows = [in_a_row([recordings[i] for i in chosen]) for chosen in choices]
        return step(*map(library.from_numpy, batch_of(rows))).item()

    train_for(seconds, one, batch, "rows")


def accuracy(library, model, rows) -> float:
    """The share of rows whose digits are all recognised, and no others."""
    forward, right = compiled(library, model), 0
    model.eval()
    with library.no_grad():
        for i in range(0, len(rows), 100):
            x, digits, frames, count = batch_of(rows[i : i + 100])
            scores = forward(library.from_numpy(x)).permute(2, 0, 1)
            decoded = ctc_greedy_decode(library.log_softmax(scores, -1).numpy(), frames, BLANK)
            right += sum(one.labels == row[:n].tolist() for one, row, n in zip(decoded, digits, count))
    return right / len(rows)


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """The accuracy on the test recordings, alone and several in a row."""
    parser = argparse.ArgumentParser(description="Spoken digits, alone and in a row, by CTC.")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to train (default 3)")
    parser.add_argument("--batch", type=int, default=32, help="rows of recordings in a step (default 32)")
    options = parser.parse_args(arguments)
    library = library_called(options.library)
    training, testing = read_recordings(real_data("fsdd.zip"))

    library.manual_seed(0)
    model = network(library)
    print(f"{options.library}: {len(training):,} recordings to train on, {len(testing)} to test on; 159,659 parameters")
    train(library, model, training, 60 * options.minutes, options.batch)

    rng = np.random.default_rng(1)
    alone = [in_a_row([one]) for one in testing]
    several = [in_a_row([testing[i] for i in rng.permutation(len(testing))[:5]]) for _ in testing]
    found = accuracy(library, model, alone), accuracy(library, model, several)
    mean = np.mean([len(digits) for _, digits in several])
    print(f"digits recognised: {found[0]:.2%} of {len(alone)}; rows of {mean:.1f} in the mean: {found[1]:.2%}")
    return found


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
