"""Fourier transforms beyond PyTorch's samples: arguments, errors, frames, windows; and scripts as users write them."""

from __future__ import annotations

import itertools
import math
import wave

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors

NAMES = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pair(torch, backend, *shape, dtype="float64"):
    """The same random numbers as deepcore's and as PyTorch's."""
    theirs = torch.randn(*shape, dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(sum(shape)))
    return dc.tensor(theirs.numpy(), backend=backend), theirs


def close(ours, theirs, **tolerance) -> None:
    ours, theirs = ours.detach().numpy(), theirs.detach().resolve_conj().numpy()
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-9, "atol": 1e-9, **tolerance})


# -- transforms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int64", "bool", "float64", "complex128"])
@pytest.mark.parametrize("name", [*NAMES, *(f"{n}2" for n in NAMES), *(f"{n}n" for n in NAMES)])
def test_dtypes(name, dtype, torch, backend):
    """Single precision stays single; whole numbers become float32; what needs real numbers refuses complex ones."""
    real = name.startswith(("rfft", "ihfft"))
    values = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    ours, theirs = dc.tensor(values, backend=backend), torch.tensor(values)
    if real and dtype.startswith("complex"):
        with pytest.raises(errors.DTypeError, match=rf"{name.replace('2', 'n')} takes real tensors"):
            getattr(dc.fft, name)(ours)
        return
    for norm in (None, "ortho", "forward", "backward"):
        close(getattr(dc.fft, name)(ours, norm=norm), getattr(torch.fft, name)(theirs, norm=norm), rtol=1e-5, atol=1e-5)


ERRORS = {
    "no points": (lambda x: dc.fft.fft(x, 0), errors.ShapeError, "at least one point"),
    "negative": (lambda x: dc.fft.rfft(x, -2), errors.ShapeError, "at least one point"),
    "one frequency": (lambda x: dc.fft.irfft(x[:, :1]), errors.ShapeError, "at least one point"),
    "no elements": (lambda x: dc.fft.fft(x[:, :0]), errors.ShapeError, "0 points"),
    "norm": (lambda x: dc.fft.fft(x, norm="orto"), errors.ArgumentError, "did you mean 'ortho'"),
    "0-d": (lambda x: dc.fft.fft(x[0, 0]), errors.ShapeError, "has a dimension"),
    "0-d by name": (lambda x: dc.fft.fftn(x[0, 0], dim=0), errors.ShapeError, "no dimension 0"),
    "twice": (lambda x: dc.fft.fftn(x, dim=(0, -2)), errors.ArgumentError, "named twice"),
    "lengths": (lambda x: dc.fft.fftn(x, (2,), (0, 1)), errors.ArgumentError, "one length for each"),
    "many lengths": (lambda x: dc.fft.fftn(x, (2, 2, 2)), errors.ShapeError, "3 lengths"),
    "nothing": (lambda x: dc.fft.rfftn(x, dim=()), errors.ShapeError, "at least one dimension"),
    "half": (lambda x: dc.fft.fft(x.half()), errors.DTypeError, r"t\.float\(\)"),
    "bfloat16": (lambda x: dc.fft.irfft(x.bfloat16()), errors.DTypeError, r"t\.float\(\)"),
    "complex": (lambda x: dc.fft.rfft(x.cfloat()), errors.DTypeError, r"dc\.fft\.fft\(t\)"),
    "rank": (lambda x: dc.fft.fft2(x[0]), errors.IndexRangeError, "dim"),
    "list": (lambda x: dc.fft.fft([1.0, 2.0]), errors.DTypeError, "takes tensors"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, backend):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        call(dc.ones(3, 4, backend=backend))


def test_frequencies(torch, backend):
    for n, d in itertools.product((1, 2, 5, 8), (1.0, 0.25)):
        for name in ("fftfreq", "rfftfreq"):
            close(getattr(dc.fft, name)(n, d, device=backend), getattr(torch.fft, name)(n, d), rtol=1e-6, atol=0)
    assert dc.fft.fftfreq(4, dtype=dc.float64).dtype == dc.float64
    assert dc.fft.fftshift(dc.fft.fftfreq(5)).tolist() == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])
    with pytest.raises(errors.ShapeError, match="at least one point"):
        dc.fft.fftfreq(0)
    with pytest.raises(errors.DTypeError, match="floating"):
        dc.fft.rfftfreq(4, dtype=dc.int64)


def test_empty_batches_and_no_dimensions(backend):
    assert dc.fft.fft(dc.zeros(0, 4, backend=backend)).shape == (0, 4)
    assert dc.fft.rfftn(dc.zeros(2, 0, 6, backend=backend), dim=-1).shape == (2, 0, 4)
    x = dc.ones(2, backend=backend)
    assert dc.fft.fftn(x, dim=()).tolist() == [1, 1] and dc.fft.fftn(x[0]).dtype == dc.complex64


# -- frames -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # PyTorch's, of missing windows and of signals shorter than asked for
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_stft_and_istft_are_pytorchs(dtype, center, torch):
    for n_fft, hop, length, normalized in itertools.product((7, 16), (None, 3), (None, 5), (False, True)):
        rank, onesided = (1, None) if normalized else (2, False)
        ours, theirs = pair(torch, "cpu", *(2, 60)[2 - rank :], dtype=dtype)
        window = torch.rand(length or n_fft, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
        shared = {"center": center, "normalized": normalized, "onesided": onesided}
        first_args = n_fft, hop, length, dc.from_numpy(window.numpy())
        second_args = n_fft, hop, length, window
        for mode in ("constant", "replicate", "circular", "reflect") if center else ("reflect",):
            options = {**shared, "pad_mode": mode, "return_complex": True}
            first, second = dc.stft(ours, *first_args, **options), torch.stft(theirs, *second_args, **options)
            close(first, second)
        for samples in (None, 50, 80):
            if hop is None and length == 5 and n_fft == 16 and not center:
                continue  # frames whose windows leave the first samples out: both raise
            options = {**shared, "length": samples, "return_complex": dtype == "complex128" and onesided is not None}
            try:
                wanted = torch.istft(second, *second_args, **options)
            except RuntimeError:
                with pytest.raises(errors.ArgumentError, match=r"leave samples out|half the frequencies"):
                    dc.istft(first, *first_args, **options)
                continue
            close(dc.istft(first, *first_args, **options), wanted)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_further_arguments_of_stft(torch, backend):
    ours, theirs = pair(torch, backend, 50)
    window = np.hanning(9)[1:]
    first, second = dc.tensor(window, backend=backend), torch.tensor(window)
    options = {"win_length": 8, "center": False, "align_to_window": True, "return_complex": True}
    close(dc.stft(ours, 16, window=first, **options), torch.stft(theirs, 16, window=second, **options))
    close(
        dc.stft(ours, 8, window=first, return_complex=False), torch.stft(theirs, 8, window=second, return_complex=False)
    )
    close(dc.stft(ours, 8, window=first * 1j), torch.stft(theirs, 8, window=second * 1j))
    assert dc.stft(ours.float(), 8, return_complex=True).dtype == dc.complex64


FRAME_ERRORS = {
    "longer window": (lambda x: dc.stft(x, 8, win_length=9, return_complex=True), "longer than the transform"),
    "another window": (lambda x: dc.stft(x, 8, window=dc.ones(6), return_complex=True), r"hann_window\(8\)"),
    "no hop": (lambda x: dc.stft(x, 8, 0, return_complex=True), "hop_length is at least 1"),
    "short": (lambda x: dc.stft(x, 64, center=False, return_complex=True), "shorter than a frame"),
    "return": (lambda x: dc.stft(x, 8), "return_complex=True"),
    "onesided": (lambda x: dc.stft(x.cfloat(), 8, onesided=True), "onesided=False"),
    "align": (lambda x: dc.stft(x, 8, return_complex=True, align_to_window=True), "center=False"),
    "rank": (lambda x: dc.stft(x.reshape(2, 2, 5), 2, return_complex=True), r"\(B, L\)"),
    "real spectrum": (lambda x: dc.istft(x.reshape(5, 4), 8), "complex spectrum"),
    "frequencies": (lambda x: dc.istft(x.reshape(5, 4).cfloat(), 10), "n_fft=8"),
    "gaps": (lambda x: dc.istft(x.reshape(5, 4).cfloat(), 8, 9), "gaps"),
    "zeros": (lambda x: dc.istft(x.reshape(5, 4).cfloat(), 8, window=dc.hann_window(8), center=False), "leave samples out"),
    "real signal": (lambda x: dc.istft(x.reshape(5, 4).cfloat(), 8, return_complex=True), "return_complex=False"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAME_ERRORS)
def test_errors_of_frames(name):
    call, words = FRAME_ERRORS[name]
    with pytest.raises((errors.ArgumentError, errors.ShapeError, errors.DTypeError), match=words):
        call(dc.ones(20))


WINDOWS = [f"{name}_window" for name in ("hann", "hamming", "blackman", "bartlett", "kaiser")]
OPTIONS = {"general_cosine": {"a": [0.4, 0.3, 0.2]}, "gaussian": {"std": 2.0}, "exponential": {"tau": 3.0}}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name, torch, backend):
    for n, periodic, dtype in itertools.product((0, 1, 2, 7, 8), (True, False), ("float32", "float64")):
        ours = getattr(dc, name)(n, periodic, dtype=dtype, device=backend)
        theirs = getattr(torch, name)(n, periodic, dtype=getattr(torch, dtype))
        close(ours, theirs, rtol=1e-5, atol=1e-6 if dtype == "float32" else 1e-12)
    assert getattr(dc, name)(4, requires_grad=True).requires_grad
    for wrong, kind in ((-1, errors.ArgumentError), (2.5, errors.ArgumentError)):
        with pytest.raises(kind, match="whole number"):
            getattr(dc, name)(wrong)
    with pytest.raises(errors.DTypeError, match="floating"):
        getattr(dc, name)(4, dtype=dc.int64)


@pytest.mark.parametrize("name", sorted(set(dir(dc.signal.windows)) & set(OPTIONS) | {
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_hamming", "hamming", "hann", "kaiser", "nuttall",
}))  # fmt: skip
def test_signal_windows(name, torch, backend):
    for M, sym in itertools.product((0, 1, 2, 7, 8), (True, False)):
        ours = getattr(dc.signal.windows, name)(M, sym=sym, dtype=dc.float64, backend=backend, **OPTIONS.get(name, {}))
        theirs = getattr(torch.signal.windows, name)(M, sym=sym, dtype=torch.float64, **OPTIONS.get(name, {}))
        close(ours, theirs, rtol=1e-10, atol=1e-12)


# -- scripts --------------------------------------------------------------------------------------------------------------


def test_spectrogram_of_a_file(tmp_path, backend):
    """Two tones, read from a wav file: each frame's peaks are at their frequencies."""
    rate, path = 8000, tmp_path / "tones.wav"
    time = np.arange(rate) / rate
    signal = 0.5 * np.sin(2 * np.pi * 1000 * time) + 0.25 * np.sin(2 * np.pi * 3000 * time)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes((signal * 32767).astype("<i2").tobytes())
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    x = dc.tensor(raw, backend=backend).float() / 32768
    window = dc.hann_window(256, device=backend)
    spectrum = dc.stft(x, n_fft=256, hop_length=128, window=window, return_complex=True)
    power = spectrum.abs() ** 2
    assert power.shape == (129, 1 + rate // 128)
    middle = power[:, 10:-10]
    peaks = dc.fft.rfftfreq(256, 1 / rate)[middle.cpu().argmax(0)]
    np.testing.assert_allclose(peaks.numpy(), 1000.0, rtol=1e-6)
    assert 10 * math.log10(middle[32].mean().item() / middle[96].mean().item()) == pytest.approx(6.02, abs=0.1)
    back = dc.istft(spectrum, 256, 128, window=window, length=rate)
    np.testing.assert_allclose(back.numpy(), x.numpy(), atol=1e-5)


def test_a_low_pass_learned_by_gradient(backend):
    """The gains of a filter in the frequency domain, from a signal and its filtered form."""
    rng = dc.Generator().manual_seed(0)
    x = dc.randn(16, 64, generator=rng, backend=backend)
    wanted = (dc.fft.rfftfreq(64, backend=backend) < 0.2).float()
    target = dc.fft.irfft(dc.fft.rfft(x) * wanted, n=64)
    gains = dc.full((33,), 0.5, backend=backend).requires_grad_()
    optimizer = dc.optim.Adam([gains], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        dc.nn.functional.mse_loss(dc.fft.irfft(dc.fft.rfft(x) * gains, n=64), target).backward()
        optimizer.step()
    np.testing.assert_allclose(gains.detach().numpy(), wanted.numpy(), atol=0.02)


def spectral_network(lib, nn, rank: int):
    """Fourier neural operator (Li et al., 2021), as its authors write the layer."""

    class SpectralConv(nn.Module):
        def __init__(self, channels, modes):
            super().__init__()
            self.modes, scale = modes, 1 / channels**2
            shape = channels, channels, *[modes] * rank
            self.weights1 = nn.Parameter(scale * lib.rand(*shape, dtype=lib.cfloat))
            if rank == 2:
                self.weights2 = nn.Parameter(scale * lib.rand(*shape, dtype=lib.cfloat))

        def forward(self, x):
            m = self.modes
            if rank == 1:
                x_ft = lib.fft.rfft(x)
                out_ft = lib.zeros(x.shape[0], x.shape[1], x.size(-1) // 2 + 1, device=x.device, dtype=lib.cfloat)
                out_ft[:, :, :m] = lib.einsum("bix,iox->box", x_ft[:, :, :m], self.weights1)
                return lib.fft.irfft(out_ft, n=x.size(-1))
            x_ft = lib.fft.rfft2(x)
            out_ft = lib.zeros(*x.shape[:2], x.size(-2), x.size(-1) // 2 + 1, dtype=lib.cfloat, device=x.device)
            out_ft[:, :, :m, :m] = lib.einsum("bixy,ioxy->boxy", x_ft[:, :, :m, :m], self.weights1)
            out_ft[:, :, -m:, :m] = lib.einsum("bixy,ioxy->boxy", x_ft[:, :, -m:, :m], self.weights2)
            return lib.fft.irfft2(out_ft, s=(x.size(-2), x.size(-1)))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.spectral, self.project = nn.Linear(1, 4), SpectralConv(4, 3), nn.Linear(4, 1)

        def forward(self, x):
            order = (0, rank + 1, *range(1, rank + 1))
            x = self.lift(x).permute(*order)
            x = lib.nn.functional.gelu(self.spectral(x) + x)
            return self.project(x.permute(0, *range(2, rank + 2), 1))

    return Network()


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_spectral_network_trains_as_in_pytorch(rank, compiled, torch, backend):
    """Five steps of Adam on complex and real parameters: losses and parameters."""
    if compiled and backend != "cpu":
        pytest.skip("`test_complex.py` compiles there")
    torch.manual_seed(0)
    theirs, ours = spectral_network(torch, torch.nn, rank), spectral_network(dc, dc.nn, rank).to(backend)
    ours.load_state_dict({name: dc.tensor(t.numpy()) for name, t in theirs.state_dict().items()})
    x, y = (torch.randn(4, *[16] * rank, 1) for _ in range(2))
    first, second = dc.optim.Adam(ours.parameters(), lr=1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)

    def step(x, y):
        first.zero_grad()
        loss = ((ours(x) - y) ** 2).mean()
        loss.backward()
        first.step()
        return loss

    run = dc.compile(step) if compiled else step
    for _ in range(5):
        second.zero_grad()
        loss = ((theirs(x) - y) ** 2).mean()
        loss.backward()
        second.step()
        mine = run(dc.tensor(x.numpy(), backend=backend), dc.tensor(y.numpy(), backend=backend))
        assert mine.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), value.numpy(), atol=2e-5)


def test_phase_retrieval(backend):
    """A signal from the magnitudes of its padded spectrum, by gradient from nearby."""
    rng = dc.Generator().manual_seed(0)
    x = dc.randn(16, dtype=dc.complex128, generator=rng, backend=backend)
    magnitudes = dc.fft.fft(x, n=64).abs()
    z = (x + 0.3 * dc.randn(16, dtype=dc.complex128, generator=rng, backend=backend)).requires_grad_()
    optimizer = dc.optim.SGD([z], lr=0.5, momentum=0.9)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = ((dc.fft.fft(z, n=64).abs() - magnitudes) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def rotary(lib, q, k, theta: float = 10000.0):
    """Llama's rotary embedding, as published."""
    dim, end = q.shape[-1], q.shape[1]
    freqs = 1.0 / (theta ** (lib.arange(0, dim, 2, device=q.device)[: (dim // 2)].float() / dim))
    t = lib.arange(end, device=freqs.device)
    freqs_cis = lib.polar(lib.ones_like(lib.outer(t, freqs)), lib.outer(t, freqs).float())
    xq_ = lib.view_as_complex(q.float().reshape(*q.shape[:-1], -1, 2))
    xk_ = lib.view_as_complex(k.float().reshape(*k.shape[:-1], -1, 2))
    shape = [d if i in (1, xq_.ndim - 1) else 1 for i, d in enumerate(xq_.shape)]
    freqs_cis = freqs_cis.view(*shape)
    xq_out = lib.view_as_real(xq_ * freqs_cis).flatten(3)
    xk_out = lib.view_as_real(xk_ * freqs_cis).flatten(3)
    return xq_out.type_as(q), xk_out.type_as(k)


def test_rotary_embeddings(torch, backend):
    (q, tq), (k, tk) = (pair(torch, backend, 2, n, 3, 8, dtype="float32") for n in (5, 5))
    for t in (q, k, tq, tk):
        t.requires_grad_()
    k.data.add_(1), tk.data.add_(1)
    ours, theirs = rotary(dc, q, k), rotary(torch, tq, tk)
    for a, b in zip(ours, theirs):
        close(a, b, rtol=1e-5, atol=1e-6)
    (ours[0] * ours[1]).sum().backward(), (theirs[0] * theirs[1]).sum().backward()
    close(q.grad, tq.grad, rtol=1e-4, atol=1e-5), close(k.grad, tk.grad, rtol=1e-4, atol=1e-5)


def test_convolution_by_fft(backend):
    rng = dc.Generator().manual_seed(0)
    x, w = (dc.randn(*s, generator=rng, dtype=dc.float64, backend=backend) for s in ((2, 3, 30), (4, 3, 5)))
    n = 30 + 5 - 1
    product = dc.einsum("bif,oif->bof", dc.fft.rfft(x, n), dc.fft.rfft(w, n).conj())
    by_fft = dc.fft.irfft(product, n)[..., : 30 - 5 + 1]
    np.testing.assert_allclose(by_fft.numpy(), dc.nn.functional.conv1d(x, w).numpy(), atol=1e-12)
    z, v = x * (1 + 0.5j), w * (2 - 1j)
    expected = dc.nn.functional.conv1d(x, w).numpy() * ((1 + 0.5j) * (2 - 1j))
    np.testing.assert_allclose(dc.nn.functional.conv1d(z, v).numpy(), expected, atol=1e-12)
