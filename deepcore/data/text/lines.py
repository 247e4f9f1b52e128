"""Lines of text files: read whole, or by number from a file larger than memory."""

from __future__ import annotations

import codecs
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.data.dataset import Dataset, _number
from deepcore.errors import ArgumentError, DataError, FileFormatError
from deepcore.io.files import decode_utf8, not_utf8, open_regular

_BLOCK = 1 << 24


def read_lines(path, encoding: str = "utf-8") -> list[str]:
    """The lines of a file, without their ends; the empty one after the last end is none.

    Errors: `FileFormatError` for text in another encoding, with the line.
    """
    with open_regular(path) as file:
        content = file.read()
    text = decode_utf8(content, str(path)) if _codec(encoding) == "utf-8" else _decoded(content, encoding, path)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except LookupError:
        raise ArgumentError("there is no such encoding", expected="'utf-8', 'latin-1', …", received=repr(encoding)) \
            from None  # fmt: skip
    return "utf-8" if name == "utf-8-sig" else name


def _decoded(content: bytes, encoding: str, path) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise FileFormatError(
            f"{str(path)!r} is not text in {encoding}", received=f"byte 0x{content[error.start]:02x} in line {line}"
        ) from None


def read_labelled(path, encoding: str = "utf-8", read: Callable[[Any, str], list[str]] = read_lines):
    """(labels, texts) of a file or a folder: two lists.

    A file has `label<TAB>text` in each line. A folder has the texts by class: in files, a text in each line, or in
    folders, with a text in each file. Classes are named as these, without ".txt". Empty lines are left out.
    """
    path = Path(path)
    labels: list[str] = []
    texts: list[str] = []
    if not path.is_dir():
        for number, line in enumerate(read(path, encoding), 1):
            label, tab, text = line.partition("\t")
            if not line.strip():
                continue
            if not tab or not label.strip():
                raise DataError(
                    f"{str(path)!r} has a line without a label",
                    expected="label<TAB>text",
                    received=f"line {number}, {line[:40]!r}",
                    fix="give a folder with a file of texts for each class, or write a tab after each label",
                )
            labels.append(label.strip())
            texts.append(text)
        return labels, texts
    for entry in sorted(entry for entry in path.iterdir() if not entry.name.startswith(".")):
        if entry.is_dir():
            files = sorted(file for file in entry.iterdir() if file.is_file() and not file.name.startswith("."))
            lines = [" ".join(read(file, encoding)) for file in files]
        else:
            lines = read(entry, encoding)
        lines = [text for text in lines if text.strip()]
        labels += [entry.name.removesuffix(".txt")] * len(lines)
        texts += lines
    return labels, texts


class TextLines(Dataset):
    """Sample i is line i of a text file, or what `transform` makes of it, such as a tokenizer.

    The file is mapped into memory, so it may be larger; of each line its place is kept, 8 bytes. skip_empty: lines of
    white space are none. encoding: "utf-8", or another in which a line end is one byte, such as "latin-1".
    Errors: `DataError` for no lines, `FileFormatError` for a line in another encoding, when it is read.
    """

    def __init__(
        self,
        path,
        transform: Callable[[str], Any] | None = None,
        encoding: str = "utf-8",
        skip_empty: bool = False,
    ):
        self.path, self.transform, self.encoding = os.fsdecode(path), transform, encoding
        codec = _codec(encoding)
        if codec.startswith(("utf-16", "utf-32")):
            raise ArgumentError("TextLines takes encodings with line ends of one byte", received=repr(encoding),
                                fix="convert the file: iconv -t UTF-8")  # fmt: skip
        self._memory: mmap.mmap | None = None
        self._open()
        data = self._bytes()
        if codec == "utf-8" and bytes(data[:2].tobytes()) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise not_utf8(self.path, data[:2].tobytes(), 0, 1)
        begin = 3 if codec == "utf-8" and data[:3].tobytes() == codecs.BOM_UTF8 else 0
        parts = [
            np.flatnonzero(data[at : at + _BLOCK] == 10).astype(np.int64) + at for at in range(0, data.size, _BLOCK)
        ]
        ends = np.concatenate(parts) if parts else np.empty(0, np.int64)
        if data.size > begin and (not ends.size or ends[-1] != data.size - 1):
            ends = np.append(ends, data.size)
        #: Where each line begins, and where it ends.
        self._starts, self._ends = np.concatenate([[begin], ends[:-1] + 1]).astype(np.int64)[: ends.size], ends
        self._numbers: np.ndarray | None = None
        if skip_empty:
            kept = [i for i in range(ends.size) if self._raw(i).strip()]
            self._numbers = np.array(kept, np.int64)
        if not len(self):
            raise DataError(f"{self.path!r} has no lines")

    def _open(self) -> None:
        with open_regular(self.path) as file:
            if os.fstat(file.fileno()).st_size:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _bytes(self) -> np.ndarray:
        return np.empty(0, np.uint8) if self._memory is None else np.frombuffer(self._memory, np.uint8)

    def _raw(self, line: int) -> bytes:
        if self._memory is None:
            self._open()
        return b"" if self._memory is None else self._memory[int(self._starts[line]) : int(self._ends[line])]

    def __len__(self) -> int:
        return len(self._ends if self._numbers is None else self._numbers)

    def __getitem__(self, index: int) -> Any:
        number = _number(index, len(self))
        if number is None:
            raise ArgumentError("TextLines gives one line by its number", received=repr(index))
        line = number % len(self) if self._numbers is None else int(self._numbers[number])
        raw = self._raw(line).removesuffix(b"\r")
        try:
            text = raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            if _codec(self.encoding) == "utf-8":
                fault = not_utf8(self.path, raw, error.start, line + 1)
                fault.fix = f"{fault.fix}; or encoding='latin-1'"
                raise fault from None
            raise FileFormatError(
                f"{self.path!r} is not text in {self.encoding}",
                received=f"byte 0x{raw[error.start]:02x} in line {line + 1}",
            ) from None
        return text if self.transform is None else self.transform(text)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_memory": None}  # opened again where it is used

    def __repr__(self) -> str:
        return f"TextLines({self.path!r}: {len(self)} lines)"
