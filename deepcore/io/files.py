"""Writing files so that a reader sees the old content or the new, never a part; and opening them with typed errors."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import stat
import threading
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from deepcore.errors import ArgumentError, DeepcoreError, FileFormatError

_TEMPORARY = re.compile(r"\.deepcore-([0-9a-f]{8})-(\d+)-[0-9a-f]{16}\.tmp")
_being_written: set[str] = set()
_lock = threading.Lock()


class MissingFileError(FileFormatError, FileNotFoundError):
    """A file, or the folder to write it to, that is not there. Also a `FileNotFoundError`."""

    def __init__(self, problem: str, **details):
        FileFormatError.__init__(self, problem, **details)


class FileAccessError(DeepcoreError, OSError):
    """A file that the system does not let be read or written: no right to, no room, a fault of the disk."""

    def __init__(self, problem: str, *, errno: int | None = None, **details):
        DeepcoreError.__init__(self, problem, **details)
        self.errno = errno

    @classmethod
    def of(cls, error: OSError, name: str, verb: str) -> FileAccessError:
        """`error`, met on the file `name`, as one that says what to do."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, or take another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "change its permissions: chmod u+r" if verb == "read" else "take another folder"
        else:
            fix = None
        reason = error.strerror or str(error)
        return cls(f"{name!r} cannot be {verb}: {reason}", errno=error.errno, fix=fix)


#: What the system answers about a file, and not, say, about a connection that feeds it.
_FILE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


@contextlib.contextmanager
def atomic_write(path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an exception; else `path` stays as it was.

    Written beside the target, flushed to the disk, then renamed over it. A new file gets the mode the umask asks
    for, a replaced one keeps its own. Symbolic links are followed. Leftovers of writers that died are removed.
    Errors: `FileAccessError`, an OSError, where the disk is full or the folder read-only.
    """
    try:
        target = os.path.realpath(os.fspath(path))
    except ValueError as error:  # an embedded null byte
        raise ArgumentError(f"{path!r} is not a file name: {error}") from None
    if isinstance(target, bytes):
        target = os.fsdecode(target)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise MissingFileError(f"there is no folder {folder!r} to write to", fix=f"os.makedirs({folder!r})")
    if os.path.isdir(target):
        raise FileFormatError(f"{target!r} is a folder", expected="the name of a file", fix=f"{target}/name")
    _sweep(folder)
    temporary = os.path.join(folder, f".deepcore-{_host()}-{os.getpid()}-{secrets.token_hex(8)}.tmp")
    with _lock:
        _being_written.add(temporary)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            with contextlib.suppress(FileNotFoundError):
                _set_mode(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, DeepcoreError) and error.errno in _FILE_ERRORS:
            raise FileAccessError.of(error, target, "written") from error
        raise
    finally:
        with _lock:
            _being_written.discard(temporary)


def _set_mode(descriptor: int, mode: int) -> None:
    if hasattr(os, "fchmod") and os.name != "nt":
        os.fchmod(descriptor, mode)


def _sync_folder(folder: str) -> None:
    """Make the rename itself durable; Windows has no such call, and some file systems refuse it."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to and not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode(errors='replace')):08x}"


def _sweep(folder: str) -> None:
    """Remove temporary files in `folder` whose writer, a process of this host, no longer runs."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and match[1] == _host() and not _is_written(entry.path, int(match[2])):
                with contextlib.suppress(OSError):  # Windows refuses to remove a file that is open
                    os.unlink(entry.path)


def _is_written(path: str, pid: int) -> bool:
    if pid == os.getpid():
        with _lock:
            return path in _being_written
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def open_regular(path) -> BinaryIO:
    """`path` opened for reading; a missing file, a folder, a pipe or a device is a typed error."""
    name = os.fspath(path)
    try:
        # Opening a pipe for reading would wait for its writer: look first.
        mode = os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError):
        try:
            start = f", {os.getcwd()}"
        except FileNotFoundError:
            start = ", which is gone"
        raise MissingFileError(
            f"there is no file {str(name)!r}",
            fix=f"check the path; a relative one starts at the working directory{start}",
        ) from None
    except ValueError as error:  # an embedded null byte
        raise FileFormatError(f"{name!r} is not a file name: {error}") from None
    except OSError as error:
        raise FileAccessError.of(error, str(name), "read") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise FileFormatError(f"{str(name)!r} is {kind}", expected="the path of a file")
    try:
        return open(name, "rb")
    except OSError as error:
        raise FileAccessError.of(error, str(name), "read") from None


def not_utf8(name: str, text: bytes, at: int, line: int) -> FileFormatError:
    """The error for a text file whose byte `text[at]`, in this line, is not UTF-8."""
    wide = text[:2] in (b"\xff\xfe", b"\xfe\xff")
    return FileFormatError(
        f"{name!r} is not text in UTF-8" + (", but in UTF-16" if wide else ""),
        received=f"byte 0x{text[at]:02x} in line {line}",
        fix=f"save it as UTF-8, or convert it: iconv -f {'UTF-16' if wide else 'WINDOWS-1252'} -t UTF-8",
    )


def decode_utf8(text: bytes, name: str) -> str:
    """Text in UTF-8, with or without a byte-order mark. Errors: `FileFormatError`, with the line."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + (len(text) - len(error.object))
        raise not_utf8(name, text, at, 1 + text.count(b"\n", 0, at)) from None
