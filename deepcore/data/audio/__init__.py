"""Sound: WAV files and features of it."""

from __future__ import annotations

from deepcore.data.audio.features import (
    amplitude_to_db,
    create_dct,
    hz_to_mel,
    log_mel,
    mel_filterbank,
    mel_spectrogram,
    mel_to_hz,
    mfcc,
    resample,
    spectrogram,
)
from deepcore.data.audio.wav import read_wav, write_wav

__all__ = [
    "amplitude_to_db",
    "create_dct",
    "hz_to_mel",
    "log_mel",
    "mel_filterbank",
    "mel_spectrogram",
    "mel_to_hz",
    "mfcc",
    "read_wav",
    "resample",
    "spectrogram",
    "write_wav",
]
