"""Atomic writes, of which a reader sees the old content or the new, never a part; opening files with typed errors."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import re
import secrets
import stat
import time
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from deepcore.errors import ArgumentError, DeepcoreError, FileFormatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(
    r"\.deepcore-([0-9a-f]{8})-(?:\d+-[0-9a-f]{16}|([0-9a-f]{32}))\.tmp"
)  # a process id: written without a lock
_LOCKS = fcntl is not None
_A_DAY = 24 * 3600


class MissingFileError(FileFormatError, FileNotFoundError):
    """A missing file, or a missing folder to write it to. Also a `FileNotFoundError`."""

    def __init__(self, problem: str, **details):
        FileFormatError.__init__(self, problem, **details)


class FileAccessError(DeepcoreError, OSError):
    """A file that cannot be read or written: no permission, no space, a disk error."""

    def __init__(self, problem: str, *, errno: int | None = None, **details):
        DeepcoreError.__init__(self, problem, **details)
        self.errno = errno

    @classmethod
    def of(cls, error: OSError, name: str, verb: str) -> FileAccessError:
        """The typed error, with a fix, for `error` of `name`, which could not be `verb` (read, written or made)."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, or take another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "change its permissions: chmod u+r" if verb == "read" else "take another folder"
        elif error.errno == errno.ENOENT and verb != "read":
            fix = "take another folder: nothing can be made there"
        else:
            fix = None
        reason = error.strerror or str(error)
        return cls(f"{name!r} cannot be {verb}: {reason}", errno=error.errno, fix=fix)


def path_of(path) -> str:
    """`path`, a str, bytes or `os.PathLike`, as a str."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise ArgumentError(
            "a path is a str or an os.PathLike",
            received=type(path).__name__,
            fix="the name of a file; for bytes in memory, write a file and read it back",
        ) from None
    if "\0" in name:
        raise ArgumentError(f"{name!r} is not a file name: embedded null byte")
    return name


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Context manager: converts an OSError of writing the file or folder `name` to a typed error with a fix."""
    try:
        yield
    except DeepcoreError:
        raise
    except OSError as error:
        folder = os.path.dirname(name) or os.curdir
        if error.errno == errno.ENOENT and not os.path.isdir(folder):
            raise MissingFileError(
                f"there is no folder {folder!r} to write to", fix=f"os.makedirs({folder!r})"
            ) from error
        raise FileAccessError.of(error, name, "written") from error


def make_folder(path) -> str:
    """Make the folder `path` and its missing parents. Errors: `FileAccessError`."""
    name = path_of(path)
    try:
        os.makedirs(name, exist_ok=True)
    except OSError as error:
        raise FileAccessError.of(error, name, "made") from error
    return name


class _TypedWriter(io.FileIO):
    """A raw file whose failed writes are typed errors."""

    def __init__(self, descriptor: int, target: str):
        super().__init__(descriptor, "wb")
        self._target = target

    def write(self, data, /) -> int:  # type: ignore[override]
        with writing(self._target):
            return super().write(data)


@contextlib.contextmanager
def atomic_write(path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an exception; else `path` is unchanged.

    Written beside the target, flushed to disk, then renamed over it. A new file gets the mode given by the umask, a
    replaced one keeps its own. Symbolic links are followed. Leftovers of dead writers are removed.
    Only regular files are replaced: a pipe or a character device (`/dev/null`) is written to directly.
    Errors: `FileAccessError`, an OSError, where the file cannot be written: no space, no permission, no such folder.
    """
    name = path_of(path)
    mode = _mode_of(name)
    if mode is not None and not stat.S_ISREG(mode):
        with _stream(name, mode) as file:
            yield file
        return
    target = os.path.realpath(name)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise MissingFileError(f"there is no folder {folder!r} to write to", fix=f"os.makedirs({folder!r})")
    _sweep(folder)
    with writing(target):
        descriptor, temporary = _temporary(folder)
    try:
        with io.BufferedWriter(_TypedWriter(descriptor, target)) as file:
            yield file
            with writing(target):
                file.flush()
                if mode is not None:
                    _set_mode(descriptor, stat.S_IMODE(mode))
                os.fsync(descriptor)
                if _LOCKS:  # while the lock is held; Windows cannot rename an open file
                    os.replace(temporary, target)
        with writing(target):
            if not _LOCKS:
                os.replace(temporary, target)
            _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _mode_of(name: str) -> int | None:
    """The mode of the file `name`, following links; None where it does not exist."""
    try:
        return os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileAccessError.of(error, name, "written") from error


@contextlib.contextmanager
def _stream(name: str, mode: int) -> Iterator[BinaryIO]:
    """A pipe or a character device, opened for writing; raises for other special files."""
    if stat.S_ISDIR(mode):
        raise FileFormatError(f"{name!r} is a folder", expected="the name of a file", fix=f"{name}/name")
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        kind = "a block device" if stat.S_ISBLK(mode) else "a socket" if stat.S_ISSOCK(mode) else "a special file"
        raise FileFormatError(f"{name!r} is {kind}", expected="the name of a file")
    with writing(name):
        descriptor = os.open(name, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0))
    with io.BufferedWriter(_TypedWriter(descriptor, name)) as file:
        yield file


def _set_mode(descriptor: int, mode: int) -> None:
    if hasattr(os, "fchmod") and os.name != "nt":
        os.fchmod(descriptor, mode)


def _sync_folder(folder: str) -> None:
    """Make the rename durable; Windows has no such call, and some file systems reject it."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that is writable but not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


# -- temporary files ----------------------------------------------------------------------------------
# A writer locks its temporary file until the rename, and the lock ends with the process: a file that can be locked is a
# leftover. Process ids would not tell, because each container numbers its own.
def _temporary(folder: str) -> tuple[int, str]:
    """(descriptor, path) of a new, locked file in `folder`."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        path = os.path.join(folder, f".deepcore-{_host()}-{secrets.token_hex(16)}.tmp")
        descriptor = os.open(path, flags, 0o666)
        # Another process may sweep the file before it is locked.
        if _lock(descriptor) is not False and os.path.exists(path):
            return descriptor, path
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file: True, or False where another process holds the lock; None where locks are not supported."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno == errno.EWOULDBLOCK else None
    return True


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode(errors='replace')):08x}"


def _sweep(folder: str) -> None:
    """Remove the temporary files in `folder` whose writers are gone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match:
                with contextlib.suppress(OSError):  # Windows cannot remove an open file
                    if entry.is_file(follow_symlinks=False):
                        _remove_if_stale(entry.path, match[1] == _host() and match[2] is not None)


def _remove_if_stale(path: str, trust_lock: bool) -> None:
    """Remove a file that can be locked; without `trust_lock`, only if it was not written to for a day.

    Locks of other hosts cannot be trusted: some network file systems keep locks local to a host.
    """
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        locked = _lock(descriptor)
        is_old = time.time() - os.fstat(descriptor).st_mtime > _A_DAY
        stale = locked is not False and (is_old or bool(locked and trust_lock))
        if stale and _LOCKS:
            os.unlink(path)
    finally:
        os.close(descriptor)
    if stale and not _LOCKS:  # Windows cannot remove an open file
        os.unlink(path)


def open_regular(path) -> BinaryIO:
    """`path` opened for reading; a missing file, a folder, a pipe or a device is a typed error."""
    name = os.fspath(path)
    try:
        # Opening a pipe for reading would wait for its writer, so stat first.
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
