"""Identifies unsupported file formats by content, with the code that converts them to safetensors."""

from __future__ import annotations

import os

from deepcore.errors import FileFormatError

_TORCH = """convert it once, where PyTorch is installed (pip install torch safetensors):
            import torch
            from safetensors.torch import save_file
            state = torch.load({path!r}, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            save_file({{k: v.clone().contiguous() for k, v in state.items()}}, {out!r})"""
_HDF5 = """convert it once (pip install h5py):
            import h5py, deepcore as dc
            tensors = {{}}
            with h5py.File({path!r}) as f:
                f.visititems(lambda name, x: tensors.update(
                    {{name: dc.tensor(x[()])}} if hasattr(x, "shape") else {{}}))
            dc.save(tensors, {out!r})"""
_NPZ = """convert it once:
            import numpy as np, deepcore as dc
            with np.load({path!r}, allow_pickle=False) as f:
                dc.save({{name: dc.tensor(f[name]) for name in f.files}}, {out!r})"""
_NPY = """convert it once:
            import numpy as np, deepcore as dc
            dc.save({{"data": dc.tensor(np.load({path!r}, allow_pickle=False))}}, {out!r})"""
_PICKLE = """unpickling runs code from the file, so deepcore never does. If you trust where it came from, load it with
            the program that wrote it and store its arrays:
            import pickle, deepcore as dc
            arrays = pickle.load(open({path!r}, "rb"))   # a dict of arrays
            dc.save({{name: dc.tensor(a) for name, a in arrays.items()}}, {out!r})"""
_KERAS = """convert it once, where Keras is installed:
            import keras, deepcore as dc
            model = keras.saving.load_model({path!r})
            dc.save({{w.path: dc.tensor(w.numpy()) for w in model.weights}}, {out!r})"""
_UNPACK = "unpack it first, then give the path of a file inside"

#: By suffix, for content without a magic number.
_BY_SUFFIX = {
    ".pth": ("a PyTorch file", _TORCH), ".pt": ("a PyTorch file", _TORCH), ".bin": ("a PyTorch file", _TORCH),
    ".ckpt": ("a PyTorch Lightning or TensorFlow checkpoint", _TORCH),
    ".pkl": ("a pickle", _PICKLE), ".pickle": ("a pickle", _PICKLE),
    ".h5": ("an HDF5 file", _HDF5), ".hdf5": ("an HDF5 file", _HDF5), ".npz": ("a NumPy archive", _NPZ),
    ".keras": ("a Keras model", _KERAS),
}  # fmt: skip


def identify(head: bytes, path) -> tuple[str, str] | None:
    """(the file's format, how to convert it), from its first bytes, or else from its suffix."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if first.endswith(b"/data.pkl") or b"data.pkl" in head:
            return "a PyTorch file (a zip archive around a pickle)", _TORCH
        if first.endswith(b".npy"):
            return "a NumPy archive", _NPZ
        if first in (b"metadata.json", b"config.json", b"model.weights.h5"):
            return "a Keras model", _KERAS
        if first == b"[Content_Types].xml":
            return "an Office file, such as Excel writes", "save the sheet as CSV, in UTF-8"
        by_suffix = _BY_SUFFIX.get(_suffix(path))
        return by_suffix or ("a zip archive", _UNPACK)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file (Keras writes its weights so)", _HDF5
    if head.startswith(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"):
        return "a PyTorch file of before version 1.6 (a pickle)", _TORCH
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        torch = _suffix(path) in (".pth", ".pt", ".bin", ".ckpt")
        return ("a pickle", _TORCH if torch else _PICKLE)
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy array", _NPY
    if head.startswith(b"\x1f\x8b"):
        return "compressed with gzip", "unpack it first: gunzip"
    if head.startswith(b"GGUF"):
        return "a GGUF file", "get the model's safetensors files instead; most model pages offer both"
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if head.lstrip()[:1] == b"<":
        return "a web page or XML", "download the file itself, not the page about it"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file it stands for", "git lfs pull"
    return _BY_SUFFIX.get(_suffix(path))


def refusal(head: bytes, path) -> FileFormatError | None:
    """The error for a file of another format, with the way to convert it, or None for an unknown format."""
    identified = identify(head, path)
    if identified is None:
        return None
    kind, recipe = identified
    name = os.fsdecode(path)
    stem = os.path.splitext(name)[0]
    return FileFormatError(
        f"{name!r} is {kind}",
        expected="a safetensors file",
        fix=recipe.format(path=name, out=stem + ".safetensors"),
    )


def _suffix(path) -> str:
    return os.path.splitext(os.fsdecode(path))[1].lower()
