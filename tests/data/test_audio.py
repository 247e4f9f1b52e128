"""Sound: WAV files against Python's `wave` and by bytes; features against PyTorch, SciPy and closed forms."""

from __future__ import annotations

import io
import math
import os
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import audio
from deepcore.errors import ArgumentError, DeepcoreError, FileFormatError, ShapeError


def tone(rate=8000, seconds=0.25, frequency=440.0):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)


def wav(data, channels=1, bits=16, tag=1, rate=8000, before=b"", fmt=None):
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    body = b"WAVE" + before + chunk(b"fmt ", form if fmt is None else fmt) + chunk(b"data", data)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# -- files --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_files_of_pythons_wave_module(channels, width):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 50 * channels * width, dtype=np.uint8).tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(22050)
        out.writeframes(content)
    samples, rate = audio.read_wav(file.getvalue())
    assert rate == 22050 and samples.shape == (channels, 50) and samples.dtype == np.float32
    numbers = [
        int.from_bytes(content[i : i + width], "little", signed=width > 1) - 128 * (width == 1)
        for i in range(0, len(content), width)
    ]
    expected = np.array(numbers, np.float64).reshape(50, channels).T / 2 ** (8 * width - 1)
    np.testing.assert_allclose(samples, expected, rtol=1e-7)
    part, _ = audio.read_wav(file.getvalue(), start=7, frames=11)
    np.testing.assert_array_equal(part, samples[:, 7:18])
    assert audio.read_wav(file.getvalue(), start=99)[0].shape == (channels, 0)


@pytest.mark.parametrize("encoding, error", [("pcm8", 2**-8), ("pcm16", 2**-16), ("pcm24", 2**-24), ("pcm32", 1e-7)])
def test_writing_and_reading(tmp_path, encoding, error):
    samples = 0.9 * np.stack([tone(), -0.5 * tone(frequency=1000)])[:, :999]
    path = tmp_path / "a.wav"
    audio.write_wav(path, dc.tensor(samples), 8000, encoding)
    back, rate = audio.read_wav(path)
    assert rate == 8000
    np.testing.assert_allclose(back, samples, atol=error * 1.01)
    again = tmp_path / "b.wav"
    audio.write_wav(again, back, 8000, encoding)
    assert again.read_bytes() == path.read_bytes(), "what was read is written to the same bytes"
    if encoding != "pcm32":
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getnframes(), file.getframerate()) == (2, 999, 8000)


def test_floats_clipping_and_other_chunks(tmp_path):
    x = np.float32([0.0, 1.5, -2.0, 1.0])
    audio.write_wav(tmp_path / "f.wav", x, 8000, "float32")
    np.testing.assert_array_equal(audio.read_wav(tmp_path / "f.wav")[0], x[None])
    audio.write_wav(tmp_path / "p.wav", x, 8000)
    np.testing.assert_allclose(audio.read_wav(tmp_path / "p.wav")[0][0], [0, 32767 / 32768, -1, 32767 / 32768])
    assert audio.read_wav(wav(x.astype("<f8").tobytes(), bits=64, tag=3))[0].tolist() == [x.tolist()]
    list_chunk = chunk(b"LIST", b"odd")
    assert audio.read_wav(wav(b"\0\x40", before=list_chunk))[0].tolist() == [[0.5]]
    extensible = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 8000, 16000, 2, 16, 22, 16, 4, 1) + bytes(14)
    assert audio.read_wav(wav(b"\0\x40", fmt=extensible))[0].tolist() == [[0.5]]
    streamed = wav(b"\0\x40\0\xc0").replace(b"data\4\0\0\0", b"data\xff\xff\xff\xff")
    assert audio.read_wav(streamed)[0].tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b"RIFF", "not a WAV file"),
        (b"fLaC" + bytes(60), "FLAC"),
        (b"\x80\x04\x95" + bytes(60), "pickle"),
        (wav(b"")[:30], "ends inside its format|ends before a data chunk"),
        (wav(b"\0\0" * 10)[:-5], "truncated"),
        (wav(b"\0\0\0"), "ends inside a frame"),
        (wav(b"\0\0", tag=6, bits=8), "A-law of 8 bits"),
        (wav(b"\0\0", bits=12), "numbers of 12 bits"),
        (wav(b"\0\0", channels=0), "impossible format"),
        (wav(b"\0\0", channels=30_000), "impossible format"),
        (wav(b"\0\0", rate=0), "impossible format"),
        (wav(b"\0\0", before=chunk(b"data", b"\0\0")), "before its format"),
        (b"RIFF\0\0\0\0WAVE" + chunk(b"junk", b"") * 11_000, "chunks before its data"),
        (b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff", "ends before a data chunk"),
    ],
)
def test_hostile_files(tmp_path, content, words):
    (tmp_path / "f.wav").write_bytes(content)
    with pytest.raises(FileFormatError, match=words) as caught:
        audio.read_wav(tmp_path / "f.wav")
    assert "f.wav" in str(caught.value)


def test_any_damage_is_a_typed_error():
    content = wav(tone().astype("<i2").tobytes()[:200])
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(content)
        for place in rng.integers(0, 48, 3):
            data[place] = rng.integers(256)
        try:
            samples, _ = audio.read_wav(bytes(data))
            assert samples.size <= 200
        except DeepcoreError:
            pass


# -- features -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_fft": 256, "hop_length": 80, "win_length": 200},
        {"n_fft": 101, "window": "hamming", "power": 1.0},
        {"n_fft": 128, "center": False, "window": "blackman"},
        {"n_fft": 128, "normalized": True, "pad_mode": "constant", "window": None},
        {"n_fft": 64, "window": np.linspace(0.1, 1, 64)},
    ],
)
def test_spectrogram_equals_pytorchs(options):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 3, 1500)).astype(np.float32)
    ours = audio.spectrogram(x, **options)
    n_fft = options.get("n_fft", 400)
    length = options.get("win_length", n_fft)
    window = options.get("window", "hann")
    if isinstance(window, np.ndarray):
        taper = torch.from_numpy(window.astype(np.float32))
    else:
        taper = getattr(torch, f"{window}_window")(length) if window else torch.ones(length)
    expected = torch.stft(
        torch.from_numpy(x.reshape(6, -1)),
        n_fft,
        options.get("hop_length", length // 2),
        length,
        taper,
        options.get("center", True),
        options.get("pad_mode", "reflect"),
        return_complex=True,
    ).abs()
    if options.get("normalized"):
        expected = expected / taper.square().sum().sqrt()
    expected = (expected ** options.get("power", 2.0)).numpy().reshape(2, 3, *expected.shape[1:])
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4 * expected.max())


def test_a_tone_is_at_its_frequency():
    x = tone(seconds=1, frequency=1000)
    energies = audio.spectrogram(x, n_fft=400).mean(-1)
    assert energies.argmax() == 50, "1000 Hz of 8000 / 400 Hz steps"
    # A sine of amplitude 1 in a Hann window: (Σw/2)² at its frequency.
    middle = audio.spectrogram(x, n_fft=400)[50, 5:-5]
    np.testing.assert_allclose(middle, 100**2, rtol=1e-3)


def test_mel_scales():
    f = np.array([0, 60, 110, 440, 999, 1000, 3000, 8000.0])
    np.testing.assert_allclose(audio.hz_to_mel([110, 220, 440], "slaney"), [1.65, 3.3, 6.6])
    np.testing.assert_allclose(audio.hz_to_mel(6400, "slaney"), 42)
    np.testing.assert_allclose(audio.hz_to_mel(700, "htk"), 2595 * math.log10(2))
    for scale in ("htk", "slaney"):
        np.testing.assert_allclose(audio.mel_to_hz(audio.hz_to_mel(f, scale), scale), f, atol=1e-9)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
def test_filterbank_by_definition(scale, norm):
    bank = audio.mel_filterbank(201, 50.0, 7000.0, 23, 16000, norm, scale)
    low, high = audio.hz_to_mel(50.0, scale), audio.hz_to_mel(7000.0, scale)
    corners = [float(audio.mel_to_hz(low + (high - low) * i / 24, scale)) for i in range(25)]
    for m in range(23):
        a, b, c = corners[m : m + 3]
        for k in range(201):
            f = k * 40.0
            value = (f - a) / (b - a) if a <= f <= b else (c - f) / (c - b) if b <= f <= c else 0
            value *= 2 / (c - a) if norm else 1
            assert bank[k, m] == pytest.approx(value, abs=1e-6)
    if norm:
        fine = audio.mel_filterbank(20_001, 0.0, None, 10, 16000, norm, scale)
        np.testing.assert_allclose(fine.sum(0) * 8000 / 20_000, 1, rtol=1e-2)


def test_bands_decibel_and_coefficients(backend):
    fft = pytest.importorskip("scipy.fft")
    x = np.random.default_rng(1).normal(size=(2, 4000)).astype(np.float32)
    t = dc.tensor(x, backend=backend)
    options = {"n_fft": 400, "n_mels": 40}
    energies = audio.spectrogram(x, 400)
    bands = audio.mel_filterbank(201, n_mels=40).T @ energies
    found = audio.mel_spectrogram(t, **options)
    assert isinstance(found, dc.Tensor) and found.backend is t.backend
    np.testing.assert_allclose(found.numpy(), bands, rtol=1e-5)
    np.testing.assert_allclose(
        audio.log_mel(t, eps=1e-3, **options).numpy(), np.log(bands + 1e-3), rtol=1e-4, atol=1e-5
    )
    decibel = 10 * np.log10(np.maximum(bands, 1e-10))
    decibel = np.maximum(decibel, decibel.max() - 80)
    expected = fft.dct(decibel, type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(audio.mfcc(x, n_mfcc=13, **options), expected, rtol=1e-4, atol=1e-3)
    logs = fft.dct(np.log(bands + 1e-6), type=2, axis=1)[:, :13]
    np.testing.assert_allclose(
        audio.mfcc(x, n_mfcc=13, norm=None, log_mels=True, **options), logs, rtol=1e-4, atol=1e-2
    )
    loud = np.array([[1.0, 1e-12], [100.0, 1.0]])
    np.testing.assert_allclose(audio.amplitude_to_db(loud, "magnitude", 30), [[10, 10], [40, 10]])


@pytest.mark.parametrize("old, new", [(8000, 16000), (16000, 8000), (44100, 16000), (8000, 11025)])
def test_resampling_keeps_tones(old, new):
    seconds, f = 0.5, 700.0
    out = audio.resample(tone(old, seconds, f), old, new)
    assert out.shape == (math.ceil(old * seconds * new / old),) and out.dtype == np.float32
    expected = np.sin(2 * np.pi * f * np.arange(out.size) / new)
    edge = new // 50
    np.testing.assert_allclose(out[edge:-edge], expected[edge:-edge], atol=0.01)
    if new < old:
        above = audio.resample(tone(old, seconds, new * 0.75), old, new)
        assert abs(above[edge:-edge]).max() < 0.03, "what the lower rate does not have is gone"


def test_resampling_equals_its_formula():
    """Each number by its own sum, as torchaudio defines it."""
    rng = np.random.default_rng(0)
    x, old, new, width = rng.normal(size=60), 3, 2, 6
    base = 2 * 0.99
    expected = []
    for i in range(40):
        total = 0.0
        for n, value in enumerate(x):
            t = (n / old - i / new) * base
            if abs(t) < width:
                total += value * np.sinc(t) * math.cos(t * math.pi / width / 2) ** 2 * base / old
        expected.append(total)
    np.testing.assert_allclose(audio.resample(x, 30, 20), expected, atol=1e-9)
    np.testing.assert_array_equal(audio.resample(x, 5, 5), x)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: audio.spectrogram(tone()[:100]), ShapeError, "too short to be reflected"),
        (lambda: audio.spectrogram(tone()[:100], center=False), ShapeError, "no frame"),
        (lambda: audio.spectrogram(tone(), 100, 200), ArgumentError, "at most n_fft"),
        (lambda: audio.spectrogram(tone(), window="kaiser"), ArgumentError, "'hann'"),
        (lambda: audio.spectrogram(tone(), window=np.ones(3)), ShapeError, r"\(400,\)"),
        (lambda: audio.mel_filterbank(201, 9000.0), ArgumentError, "f_min is below f_max"),
        (lambda: audio.mel_filterbank(201, mel_scale="bark"), ArgumentError, "slaney"),
        (lambda: audio.mfcc(tone(), n_mfcc=50, n_mels=40), ArgumentError, "50 of 40"),
        (lambda: audio.resample(tone(), 8000.5, 8000), ArgumentError, "whole number"),
        (lambda: audio.resample(tone(), 99991, 99989), ArgumentError, "common divisor"),
        (lambda: audio.read_wav("absent.wav"), FileNotFoundError, "absent.wav"),
        (lambda: audio.read_wav(b"", start=-1), ArgumentError, "start"),
        (lambda: audio.write_wav("x.wav", np.zeros(3, int), 8000), ArgumentError, "32768"),
        (lambda: audio.write_wav("x.wav", np.full(3, np.nan), 8000), ArgumentError, "finite"),
        (lambda: audio.write_wav("x.wav", np.zeros((1, 2, 3)), 8000), ShapeError, "channels, frames"),
        (lambda: audio.write_wav("x.wav", np.zeros(3), 8000, "mp3"), ArgumentError, "'pcm16'"),
    ],
)
def test_errors_name_the_fault(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.slow
def test_spoken_digits():
    path = Path(os.environ.get("DEEPCORE_DATA", ""), "fsdd.zip")
    if not path.is_file():
        pytest.skip("DEEPCORE_DATA has no fsdd.zip")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".wav")]
        assert len(names) == 3000
        for name in names[::50]:
            samples, rate = audio.read_wav(archive.read(name))
            assert rate == 8000 and len(samples) == 1 and 0 < abs(samples).max() <= 1
            features = audio.mfcc(samples, rate, 13, n_fft=200, n_mels=40)
            assert features.shape[:2] == (1, 13) and np.isfinite(features).all()
