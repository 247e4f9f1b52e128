"""Features of sound: spectra, mel bands, MFCC, and other rates, by torchaudio's (and librosa's) definitions.

Functions take NumPy arrays or tensors (…, frames), compute on the host, and return what they were given, on its backend.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, ShapeError
from deepcore.tensor import Tensor, from_raw

WINDOWS = {
    "hann": (0.5, 0.5),
    "hamming": (0.54, 0.46),
    "blackman": (0.42, 0.5, 0.08),
    "ones": (1.0,),
}
MEL_SCALES = ("htk", "slaney")


def _on_host(function: Callable) -> Callable:
    """`function` of a host array of floats; a tensor's result is a tensor on its backend."""

    @functools.wraps(function)
    def on_host(x, *args, **options) -> Any:
        if isinstance(x, Tensor):
            out = np.ascontiguousarray(function(x.detach().numpy(), *args, **options))
            return from_raw(x.backend.from_host(out), x.backend)
        array = np.asarray(x)
        if array.dtype.kind != "f":
            array = array.astype(np.float32)
        return function(array, *args, **options)

    return on_host


def _whole(name: str, value, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name} is a whole number of at least {least}", received=repr(value))
    return int(value)


# -- spectra ------------------------------------------------------------------------------------------
def _window(window, length: int, n_fft: int, dtype) -> np.ndarray:
    """A window of `length`, periodic, in the middle of n_fft."""
    if isinstance(window, str) or window is None:
        name = window or "ones"
        if name not in WINDOWS:
            raise ArgumentError(
                "there is no such window", expected=", ".join(map(repr, WINDOWS)), received=repr(window)
            )
        angle = 2 * math.pi * np.arange(length) / length
        values = sum((-1) ** k * a * np.cos(k * angle) for k, a in enumerate(WINDOWS[name]))
    else:
        values = window.numpy() if isinstance(window, Tensor) else np.asarray(window)
        if values.shape != (length,):
            raise ShapeError("the window has another length", expected=f"({length},)", received=str(values.shape))
    left = (n_fft - length) // 2
    return np.pad(np.asarray(values, dtype), (left, n_fft - length - left))


def _magnitudes(frames: np.ndarray) -> np.ndarray:
    """|FFT| of real rows, (…, n_fft) to (…, n_fft//2 + 1): the one place that computes a Fourier transform."""
    return np.abs(np.fft.rfft(frames))


@_on_host
def spectrogram(
    waveform,
    n_fft: int = 400,
    win_length: int | None = None,
    hop_length: int | None = None,
    window="hann",
    power: float = 2.0,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
):
    """|Σₙ w[n]·x[t·hop + n]·e^(-2πi·k·n/n_fft)|^power for k ≤ n_fft/2: (…, frames) to (…, n_fft//2 + 1, T).

    win_length: of the window, in the middle of n_fft (default n_fft); hop_length: default win_length // 2.
    window: "hann", "hamming", "blackman", "ones", all periodic, or its numbers. center: frame t is around t·hop, with
    n_fft // 2 numbers padded at both ends by `pad_mode` ("reflect"; librosa: "constant"). normalized: divided by √Σw².
    As in torchaudio. Errors: `ShapeError` for fewer numbers than a frame needs.
    """
    n_fft = _whole("n_fft", n_fft)
    length = n_fft if win_length is None else _whole("win_length", win_length)
    hop = max(length // 2, 1) if hop_length is None else _whole("hop_length", hop_length)
    if length > n_fft:
        raise ArgumentError("win_length is at most n_fft", received=f"{length} and {n_fft}")
    if not power > 0:
        raise ArgumentError("power is above 0: 1 for magnitudes, 2 for energies", received=repr(power))
    if waveform.ndim == 0:
        raise ShapeError("a waveform is (…, frames)", received="a number")
    if center:
        half = n_fft // 2
        if pad_mode == "reflect" and waveform.shape[-1] <= half:
            raise ShapeError(
                f"a waveform of {waveform.shape[-1]} is too short to be reflected at its ends",
                expected=f"more than n_fft // 2 = {half}",
                fix='a smaller n_fft, or pad_mode="constant"',
            )
        around = [(0, 0)] * (waveform.ndim - 1) + [(half, half)]
        waveform = np.pad(waveform, around, mode=pad_mode)  # type: ignore[call-overload]
    if waveform.shape[-1] < n_fft:
        raise ShapeError(f"a waveform of {waveform.shape[-1]} has no frame of n_fft = {n_fft}", fix="a smaller n_fft")
    taper = _window(window, length, n_fft, waveform.dtype)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, n_fft, axis=-1)[..., ::hop, :]
    out = _magnitudes(frames * taper)
    if normalized:
        out /= np.sqrt(np.square(taper).sum())
    if power == 2:
        np.square(out, out=out)
    elif power != 1:
        out **= power
    return np.swapaxes(out, -1, -2)


# -- mel ----------------------------------------------------------------------------------------------
def hz_to_mel(frequency, mel_scale: str = "htk"):
    """2595·log₁₀(1 + f/700) ("htk"); "slaney": 3·f/200 below 1 kHz, 15 + 27·log(f/1000)/log(6.4) above."""
    f = np.asarray(frequency, np.float64)
    if mel_scale == "htk":
        return 2595.0 * np.log10(1.0 + f / 700.0)
    if mel_scale != "slaney":
        raise ArgumentError("mel_scale is 'htk' or 'slaney'", received=repr(mel_scale))
    return np.where(f < 1000.0, 3.0 * f / 200.0, 15.0 + 27.0 * np.log(np.maximum(f, 1e-9) / 1000.0) / math.log(6.4))


def mel_to_hz(mel, mel_scale: str = "htk"):
    """The inverse of `hz_to_mel`."""
    m = np.asarray(mel, np.float64)
    if mel_scale == "htk":
        return 700.0 * (10.0 ** (m / 2595.0) - 1.0)
    if mel_scale != "slaney":
        raise ArgumentError("mel_scale is 'htk' or 'slaney'", received=repr(mel_scale))
    return np.where(m < 15.0, 200.0 * m / 3.0, 1000.0 * np.exp((m - 15.0) * math.log(6.4) / 27.0))


@functools.lru_cache(maxsize=64)
def _filterbank(
    n_freqs: int, f_min: float, f_max: float, n_mels: int, sample_rate: float, norm: str | None, mel_scale: str
) -> np.ndarray:
    frequencies = np.linspace(0.0, sample_rate / 2, n_freqs)
    low, high = (float(hz_to_mel(f, mel_scale)) for f in (f_min, f_max))
    corners = mel_to_hz(np.linspace(low, high, n_mels + 2), mel_scale)
    slopes = corners - frequencies[:, None]
    width = np.diff(corners)
    bank = np.maximum(0.0, np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]))
    if norm == "slaney":
        bank *= 2.0 / (corners[2:] - corners[:-2])
    bank = bank.astype(np.float32)
    bank.flags.writeable = False
    return bank


def mel_filterbank(
    n_freqs: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    n_mels: int = 128,
    sample_rate: float = 16000,
    norm: str | None = None,
    mel_scale: str = "htk",
) -> np.ndarray:
    """Triangles over n_freqs frequencies from 0 to sample_rate / 2, (n_freqs, n_mels) float32, read-only.

    Band m rises from corner m to m + 1, where it is 1, and falls to m + 2; corners are equally apart in mel from f_min to
    f_max (default sample_rate / 2). norm="slaney": each divided by half its width, to have area 1.
    librosa's default is mel_scale="slaney", norm="slaney", and its transpose.
    A band narrower than the distance of two frequencies may have none: zeros.
    """
    n_freqs, n_mels = _whole("n_freqs", n_freqs, 2), _whole("n_mels", n_mels)
    top = sample_rate / 2 if f_max is None else float(f_max)
    if not 0 <= f_min < top <= sample_rate / 2:
        raise ArgumentError(
            "f_min is below f_max, which is at most half the sample_rate",
            received=f"f_min={f_min}, f_max={top}, sample_rate={sample_rate}",
        )
    if norm not in (None, "slaney"):
        raise ArgumentError("norm is None or 'slaney'", received=repr(norm))
    if mel_scale not in MEL_SCALES:
        raise ArgumentError("mel_scale is 'htk' or 'slaney'", received=repr(mel_scale))
    return _filterbank(n_freqs, float(f_min), top, n_mels, float(sample_rate), norm, mel_scale)


@_on_host
def mel_spectrogram(
    waveform,
    sample_rate: float = 16000,
    n_fft: int = 400,
    win_length: int | None = None,
    hop_length: int | None = None,
    f_min: float = 0.0,
    f_max: float | None = None,
    n_mels: int = 128,
    norm: str | None = None,
    mel_scale: str = "htk",
    **options,
):
    """`mel_filterbank`ᵀ · `spectrogram`: (…, frames) to (…, n_mels, T); `options` are those of `spectrogram`."""
    energies = spectrogram(waveform, n_fft, win_length, hop_length, **options)
    bank = mel_filterbank(n_fft // 2 + 1, f_min, f_max, n_mels, sample_rate, norm, mel_scale)
    return bank.T.astype(energies.dtype, copy=False) @ energies


@_on_host
def log_mel(waveform, sample_rate: float = 16000, eps: float = 1e-6, **options):
    """log(`mel_spectrogram` + eps): (…, frames) to (…, n_mels, T); `options` are those of `mel_spectrogram`."""
    bands = mel_spectrogram(waveform, sample_rate, **options)
    return np.log(bands + np.asarray(eps, bands.dtype))


@_on_host
def amplitude_to_db(x, stype: str = "power", top_db: float | None = None, amin: float = 1e-10):
    """10·log₁₀(max(x, amin)) of energies, 20·log₁₀ of "magnitude"s; at most `top_db` below the largest of each spectrogram.

    Of (batch, channels, bands, T), the largest of all channels. As torchaudio's `AmplitudeToDB`.
    """
    if stype not in ("power", "magnitude"):
        raise ArgumentError("stype is 'power' or 'magnitude'", received=repr(stype))
    out = (10.0 if stype == "power" else 20.0) * np.log10(np.maximum(x, np.asarray(amin, x.dtype)))
    if top_db is None:
        return out
    most = out.max(axis=tuple(range(max(out.ndim - 3, 0), out.ndim)), keepdims=True)
    return np.maximum(out, most - np.asarray(top_db, x.dtype))


def create_dct(n_mfcc: int, n_mels: int, norm: str | None = "ortho") -> np.ndarray:
    """cos(π/n_mels·(n + ½)·k), (n_mels, n_mfcc) float32, times 2, or with "ortho" √(2/n_mels), and 1/√2 for k = 0: DCT-II."""
    n, k = np.arange(_whole("n_mels", n_mels)), np.arange(_whole("n_mfcc", n_mfcc))[:, None]
    dct = np.cos(math.pi / n_mels * (n + 0.5) * k)
    if norm is None:
        dct *= 2.0
    elif norm == "ortho":
        dct[0] *= 1.0 / math.sqrt(2.0)
        dct *= math.sqrt(2.0 / n_mels)
    else:
        raise ArgumentError("norm is None or 'ortho'", received=repr(norm))
    return dct.T.astype(np.float32)


@_on_host
def mfcc(
    waveform,
    sample_rate: float = 16000,
    n_mfcc: int = 40,
    norm: str | None = "ortho",
    log_mels: bool = False,
    n_mels: int = 128,
    **options,
):
    """`create_dct`ᵀ · (mel bands in decibel, at most 80 below the largest): (…, frames) to (…, n_mfcc, T).

    log_mels: log(bands + 10⁻⁶) instead of decibel. `options` are those of `mel_spectrogram`. As in torchaudio.
    """
    if n_mfcc > n_mels:
        raise ArgumentError("there are at most as many coefficients as mel bands", received=f"{n_mfcc} of {n_mels}")
    bands = mel_spectrogram(waveform, sample_rate, n_mels=n_mels, **options)
    bands = np.log(bands + np.asarray(1e-6, bands.dtype)) if log_mels else amplitude_to_db(bands, "power", 80.0)
    return create_dct(n_mfcc, n_mels, norm).T.astype(bands.dtype, copy=False) @ bands


# -- rates --------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=16)
def _kernels(old: int, new: int, width_of_filter: int, rolloff: float) -> tuple[np.ndarray, int]:
    """(kernels (new, taps), numbers before a frame): a sinc of the lower rate's band under a Hann window."""
    base = min(old, new) * rolloff
    width = math.ceil(width_of_filter * old / base)
    t = (np.arange(0, -new, -1)[:, None] / new + np.arange(-width, width + old) / old) * base
    t = np.clip(t, -width_of_filter, width_of_filter)
    return np.sinc(t) * np.cos(t * math.pi / width_of_filter / 2) ** 2 * (base / old), width


@_on_host
def resample(waveform, orig_freq: int, new_freq: int, lowpass_filter_width: int = 6, rolloff: float = 0.99):
    """Another rate: Σₙ x[n]·sinc(t)·cos²(πt/2w) around each new place, t in periods of rolloff·(the lower rate).

    (…, frames) to (…, ⌈frames·new/orig⌉). lowpass_filter_width: w, zero crossings on each side. As in torchaudio.
    """
    old, new = _whole("orig_freq", orig_freq), _whole("new_freq", new_freq)
    common = math.gcd(old, new)
    old, new = old // common, new // common
    if old == new:
        return waveform.copy()
    if not 0 < rolloff <= 1:
        raise ArgumentError("rolloff is a share of the band", expected="0 < rolloff ≤ 1", received=repr(rolloff))
    if old * new > 1 << 24:
        raise ArgumentError("these rates have no small common divisor", received=f"{orig_freq} and {new_freq}")
    kernels, width = _kernels(old, new, _whole("lowpass_filter_width", lowpass_filter_width), float(rolloff))
    length = waveform.shape[-1]
    around = [(0, 0)] * (waveform.ndim - 1) + [(width, width + old)]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, around), kernels.shape[1], axis=-1)
    out = frames[..., ::old, :] @ kernels.T.astype(waveform.dtype)
    return out.reshape(*waveform.shape[:-1], -1)[..., : math.ceil(new * length / old)]
