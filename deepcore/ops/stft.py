"""The short-time Fourier transform of signals, and its inverse."""

from __future__ import annotations

from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import mul
from deepcore.ops.complex import view_as_real
from deepcore.ops.fft import fft_fft, ifft, irfft, rfft
from deepcore.ops.index import within
from deepcore.ops.parts import complex_p
from deepcore.ops.pieces import windows_back_p, windows_p
from deepcore.ops.registry import Tensor, cast, composite, sample, takes_arrays
from deepcore.ops.shape import broadcast_to_p, narrow, pad, reshape_p, transpose
from deepcore.tensor import made

#: The smallest sum of squared windows that `istft` divides by.
_LEAST = 1e-11


def _frame(name: str, n_fft, hop_length, win_length, window, like: Tensor) -> tuple[int, int, Tensor, int]:
    """(hop, length of the window, window of n_fft elements, zeros before it), checked; a missing window is 1."""
    hop = n_fft // 4 if hop_length is None else hop_length
    win_length = n_fft if win_length is None else win_length
    if hop < 1:
        raise ArgumentError(f"{name}: hop_length is at least 1", received=str(hop), fix="hop_length=n_fft // 4")
    if not 0 < win_length <= n_fft:
        raise ArgumentError(
            f"{name}: the window is longer than the transform",
            expected=f"0 < win_length ≤ n_fft = {n_fft}",
            received=f"win_length={win_length}",
            fix="a larger n_fft, or a shorter window",
        )
    real = dt.real_of(like.dtype)
    if window is None:
        window = made(like.backend.ones((win_length,), dtype=real), like.backend)
    if window.shape != (win_length,):
        raise ShapeError(
            f"{name}: the window is a vector of win_length elements",
            expected=f"({win_length},)",
            received=str(window.shape),
            fix=f"win_length={window.numel()}, or dc.hann_window({win_length})",
        )
    if not dt.is_inexact(window.dtype):
        raise DTypeError(f"{name}: the window is a floating tensor", received=dt.name_of(window.dtype))
    wanted = dt.complex_of(real) if window.dtype.kind == "c" else real
    window = window if window.dtype == wanted else cast(window, wanted)
    left = (n_fft - win_length) // 2
    if win_length < n_fft:
        window = pad(window, (left, n_fft - win_length - left))
    return hop, win_length, window, left


def _signal_samples(make):
    window = lambda n: make(n, low=0.3, high=1.0)
    return [
        sample(make(9), 4, window=window(4), return_complex=True),
        sample(make(2, 8), 4, 2, 3, window(3), normalized=True, return_complex=True),
        sample(make(8), 3, 1, center=False, onesided=False, return_complex=True),
        sample(make(8), 4, 3, pad_mode="constant", return_complex=False),
        sample(complex_p(make(6), make(6)).detach().requires_grad_(), 4, 2, pad_mode="circular"),
    ]


@composite(examples=_signal_samples)
@takes_arrays
def stft(
    input,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window=None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
):
    """X[…, k, t] = Σⱼ window[j] · input[…, t · hop + j] e^(−2πi jk/n_fft): (L) or (B, L) to (…, frequencies, frames).

    `hop_length`: n_fft // 4 by default. `win_length` ≤ n_fft (its default): the window is filled up with zeros on both
    sides. `window`: a vector, 1 by default. `center`: the signal is padded by n_fft // 2 in `pad_mode`, so that frame t
    is centred at t · hop. `normalized`: divide by √n_fft. `onesided` (default: where input and window are real): the
    frequencies 0 … n_fft/2. `return_complex`: required for real operands; False gives real and imaginary parts in
    the last dimension. `align_to_window`, without `center`: frames are as far apart as their windows reach.
    """
    if input.ndim not in (1, 2):
        raise ShapeError("stft takes a signal or a batch of them", expected="(L) or (B, L)", received=str(input.shape))
    if not dt.is_inexact(input.dtype):
        raise DTypeError("stft takes floating and complex tensors", received=dt.name_of(input.dtype), fix="t.float()")
    if center and align_to_window is not None:
        raise ArgumentError("stft: align_to_window is for center=False", received=f"align_to_window={align_to_window}")
    if n_fft < 1:
        raise ArgumentError("stft: n_fft is at least 1", received=str(n_fft))
    hop, win_length, window, left = _frame("stft", n_fft, hop_length, win_length, window, input)
    is_complex = input.dtype.kind == "c" or window.dtype.kind == "c"
    onesided = not is_complex if onesided is None else onesided
    if onesided and is_complex:
        raise ArgumentError("stft: half the frequencies tell only real signals and windows apart", fix="onesided=False")
    if return_complex is None and not is_complex:
        raise ArgumentError(
            "stft: real operands need return_complex",
            expected="True: complex numbers, or False: real and imaginary parts in the last dimension",
            fix="return_complex=True",
        )
    x = reshape_p(input, shape=(1, *input.shape)) if input.ndim == 1 else input
    if center:
        x = pad(x, (n_fft // 2, n_fft // 2), pad_mode)
    elif align_to_window:
        x = pad(x, (left, n_fft - win_length - left))
    if x.shape[1] < n_fft:
        raise ShapeError(
            "stft: the signal is shorter than a frame",
            expected=f"at least n_fft = {n_fft} samples" + (", with the padding of both ends" if center else ""),
            received=f"{input.shape}",
            fix="a smaller n_fft, or pad the signal",
        )
    frames = mul(windows_p(x, dim=1, size=n_fft, step=hop), window)
    transform = rfft if onesided else fft_fft
    out = transpose(transform(frames, norm="ortho" if normalized else None), 1, 2)
    out = reshape_p(out, shape=out.shape[1:]) if input.ndim == 1 else out
    return out if return_complex or return_complex is None else view_as_real(out)


def _spectrum_samples(make):
    spectrum = lambda *shape: complex_p(make(*shape), make(*shape)).detach().requires_grad_()
    window = lambda n: make(n, low=0.3, high=1.0)
    return [
        sample(spectrum(3, 4), 4, window=window(4)),
        sample(spectrum(2, 3, 3), 4, 2, 3, window(3), normalized=True, length=5),
        sample(spectrum(3, 3), 3, 1, center=False, onesided=False),
        sample(spectrum(4, 3), 4, 2, return_complex=True, onesided=False),
    ]


@composite(examples=_spectrum_samples)
@takes_arrays
def istft(
    input,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window=None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
):
    """The inverse of `stft` with the same arguments: (…, frequencies, frames) to (…, L).

    Frames are inverted, weighed by the window, added up, and divided by the sum of the squared windows: the signal of
    least squared error (Griffin and Lim, 1984). Windows that leave a sample out raise. `length`: of the signal, cut or
    filled up with zeros. `return_complex`: the signal is complex.
    """
    if input.dtype.kind != "c":
        raise DTypeError(
            "istft takes a complex spectrum", received=dt.name_of(input.dtype), fix="stft(…, return_complex=True)"
        )
    if input.ndim not in (2, 3) or not input.numel():
        raise ShapeError(
            "istft takes a spectrum or a batch of them", expected="(…, frequencies, frames)", received=str(input.shape)
        )
    frequencies, frames = input.shape[-2:]
    onesided = frequencies != n_fft if onesided is None else onesided
    count = n_fft // 2 + 1 if onesided else n_fft
    if frequencies != count:
        raise ShapeError(
            f"istft: the frequencies do not fit n_fft = {n_fft} and onesided={onesided}",
            expected=f"{count} frequencies",
            received=str(input.shape),
            fix=f"n_fft={2 * (frequencies - 1)}" if onesided else f"n_fft={frequencies}",
        )
    hop, win_length, window, _ = _frame("istft", n_fft, hop_length, win_length, window, input)
    if hop > win_length:
        raise ArgumentError("istft: frames leave gaps", expected="hop_length ≤ win_length", received=f"{hop}")
    if return_complex and onesided:
        raise ArgumentError("istft: half the frequencies give a real signal", fix="return_complex=False")
    if window.dtype.kind == "c" and not return_complex:
        raise ArgumentError("istft: a complex window gives a complex signal", fix="return_complex=True")
    norm = "ortho" if normalized else None
    spectrum = transpose(reshape_p(input, shape=(1, *input.shape)) if input.ndim == 2 else input, 1, 2)
    if return_complex:
        parts = ifft(spectrum, norm=norm)
    else:
        parts = irfft(spectrum if onesided else narrow(spectrum, 2, 0, n_fft // 2 + 1), n_fft, norm=norm)
    whole = n_fft + hop * (frames - 1)
    params: dict[str, Any] = {"dim": 1, "step": hop}
    signal = windows_back_p(mul(parts, window), shape=(parts.shape[0], whole), **params)
    squares = broadcast_to_p(mul(window, window), shape=(1, frames, n_fft))
    envelope = windows_back_p(squares, shape=(1, whole), **params)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else whole - (n_fft // 2 if center else 0)
    kept = max(min(end, whole) - start, 0)
    signal, envelope = narrow(signal, 1, start, kept), narrow(envelope, 1, start, kept)
    _check_envelope(envelope.detach().abs())
    signal = signal / envelope
    if end > whole:
        signal = pad(signal, (0, end - whole))
    return reshape_p(signal, shape=signal.shape[1:]) if input.ndim == 2 else signal


def _check_envelope(size: Tensor) -> None:
    if not within(cast(size > _LEAST, dt.int32), 1, 2):  # programs check ranges of integers
        raise ArgumentError(
            "istft: the windows leave samples out, which no spectrum determines",
            expected=f"a sum of squared windows of at least {_LEAST}",
            received=f"{float(size._data.min())}",
            fix="a smaller hop_length, a window that is not 0 at its ends, or center=True",
        )
