"""Kernel cache on disk: one object file per kernel in the user's cache folder, named after everything it depends on.

A file is read only if it and its folder belong to this user, nobody else may write them, neither is a link, and the
digest in its header matches. An invalid file counts as missing; with an unusable folder, kernels stay in memory, after
one warning.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from deepcore.config import settings
from deepcore.errors import DeepcoreWarning

_MAGIC = b"deepcore kernel\n"
_KERNELS = Path(__file__).parent.parent
_SUFFIX, _SOURCE = ".kernel", ".py"
_MAX_BYTES = 1 << 26
_POSIX = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


def folder() -> Path | None:
    """The cache folder: in DEEPCORE_CACHE, else in the system's folder for caches; None if there is none."""
    if settings.cache_dir:
        return Path(settings.cache_dir).absolute() / "kernels"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "deepcore" / "kernels" if base.is_absolute() else None


# -- names ------------------------------------------------------------------------------------------------------


def stem(name: str, parameters: tuple, *source_files: str) -> str | None:
    """`name` and a digest of all the kernel depends on except numba's version; None if a source file cannot be read."""
    try:
        digest = hashlib.sha256(_environment().encode())
        for path in sorted(set(map(Path, source_files))):
            if not path.is_relative_to(_KERNELS):
                digest.update(path.read_bytes())
    except OSError:
        return None
    digest.update(repr((name, parameters)).encode())
    return f"{name}-{digest.hexdigest()[:40]}"


@functools.cache
def _environment() -> str:
    """Sources, versions and processor. Includes every file of `kernels`, as a kernel may inline any of it."""
    import llvmlite
    from llvmlite import binding

    from deepcore import __version__

    triple, cpu, features = host()

    sources = hashlib.sha256()
    for path in sorted(_KERNELS.rglob("*.py")):
        text = path.read_bytes()
        sources.update(f"{path.relative_to(_KERNELS).as_posix()} {len(text)}\n".encode() + text)
    numba_options = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    parts = [_MAGIC, __version__, sources.hexdigest(), sys.implementation.cache_tag, llvmlite.__version__]
    return repr([*parts, binding.llvm_version_info, triple, cpu, features, numba_options])


@functools.cache
def host() -> tuple[str, str, str]:
    """LLVM's target triple, processor name and feature string."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:  # not available on every system; the processor's name implies features
        features = ""
    return binding.get_process_triple(), binding.get_host_cpu_name(), features


@functools.cache
def numba_version() -> str:
    """A digest of numba's version file, or "" without numba. Avoids the slow import of numba."""
    try:
        spec = importlib.util.find_spec("numba")
        assert spec is not None and spec.origin is not None
        return hashlib.sha256(Path(spec.origin).with_name("_version.py").read_bytes()).hexdigest()[:12]
    except (AssertionError, OSError, ValueError, ImportError):
        return ""


# -- files ------------------------------------------------------------------------------------------------------


def read(stem: str) -> bytes | None:
    """The object cached under `stem`, validated, or None. Without numba, an object from any version of it."""
    with _open_folder() as root:
        if root is None:
            return None
        if numba_version():
            return _read(root, f"{stem}-{numba_version()}{_SUFFIX}")
        names = sorted(n for n in os.listdir(root) if n.startswith(f"{stem}-") and n.endswith(_SUFFIX))
        return next((data for data in (_read(root, name) for name in names) if data is not None), None)


def _read(root: int | str, name: str) -> bytes | None:
    try:
        if isinstance(root, int):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
        else:
            if not stat.S_ISREG(os.lstat(os.path.join(root, name)).st_mode):
                return None
            file = os.open(os.path.join(root, name), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        with open(file, "rb") as stream:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or not _is_private(status) or status.st_size > _MAX_BYTES:
                return None
            data = stream.read(_MAX_BYTES + 1)
    except OSError:
        return None
    header, payload = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    title = name.encode() + b"\n"
    if header != _MAGIC + hashlib.sha256(payload).digest() or not payload.startswith(title):
        return None
    return payload[len(title) :]


def write(stem: str, data: bytes) -> bool:
    """Cache an object, atomically; False on failure."""
    global _write_failed
    if not numba_version():
        return False
    name = f"{stem}-{numba_version()}{_SUFFIX}"
    body = name.encode() + b"\n" + data
    written = _write(name, _MAGIC + hashlib.sha256(body).digest() + body)
    _write_failed = _write_failed or not written
    return written


_write_failed = _warned = False


def warn_write_failed() -> None:
    """Warn once if an object could not be written."""
    global _warned
    if _write_failed and not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels cannot be kept in {folder() or 'a cache'}: {problem() or 'writing there fails'}"
            "; every process compiles them anew; fix: DEEPCORE_CACHE=FOLDER, a folder of yours that can be written",
            DeepcoreWarning,
            stacklevel=5,
        )


def write_source(stem: str, text: str) -> bool:
    """Write the generated code of a kernel, for inspection only."""
    return _write(f"{stem}{_SOURCE}", text.encode())


def _write(name: str, content: bytes) -> bool:
    with _open_folder(create=True) as root:
        if root is None:
            return False
        dir_fd = root if isinstance(root, int) else None
        prefix = "" if dir_fd is not None else f"{root}{os.sep}"
        temporary = f"{prefix}.{os.urandom(8).hex()}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        exists = False
        try:
            file = os.open(temporary, flags, 0o600, dir_fd=dir_fd)
            exists = True
            with open(file, "wb") as stream:
                stream.write(content)
            os.replace(temporary, prefix + name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            exists = False
            return True
        except OSError:  # disk full, or on Windows, the old file is open
            return False
        finally:
            if exists:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=dir_fd)


def entries() -> dict[str, int]:
    """The bytes of each cached kernel, by file name."""
    sizes = {}
    with _open_folder() as root:
        for name in [] if root is None else sorted(os.listdir(root)):
            path, dir_fd = (name, root) if isinstance(root, int) else (os.path.join(str(root), name), None)
            with contextlib.suppress(OSError):
                status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
                if name.endswith(_SUFFIX) and stat.S_ISREG(status.st_mode):
                    sizes[name] = status.st_size
    return sizes


def clear() -> int:
    """Delete all cached kernels, and files of interrupted writers; the number of kernels."""
    count = 0
    with _open_folder() as root:
        for name in [] if root is None else os.listdir(root):
            if name.endswith((_SUFFIX, _SOURCE, ".new")):
                path, dir_fd = (name, root) if isinstance(root, int) else (os.path.join(str(root), name), None)
                with contextlib.suppress(OSError):
                    os.unlink(path, dir_fd=dir_fd)
                    count += name.endswith(_SUFFIX)
    return count


def lock_folder() -> bool:
    """Lock the folder until this process ends, so that one process compiles ahead for it; False if another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    with _open_folder(create=True) as root:
        if not isinstance(root, int):
            return False
        descriptor = os.dup(root)  # stays open until this process ends
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
    return True


def problem() -> str | None:
    """Why kernels cannot be cached, or None."""
    path = folder()
    if path is None:
        return "this system says of no folder that it is for caches"
    with _open_folder() as root:
        if root is not None:
            return None if os.access(path, os.W_OK) else "the folder cannot be written"
    if os.path.lexists(path):
        return "the folder, or the one it is in, is a link, belongs to someone else, or others may write it"
    ancestor = next((p for p in path.parents if os.path.lexists(p)), path)
    return (
        None if ancestor.is_dir() and os.access(ancestor, os.W_OK) else f"{ancestor} is no folder that can be written"
    )


@contextlib.contextmanager
def _open_folder(create: bool = False) -> Iterator[int | str | None]:
    """The folder, as a descriptor where the system supports that, else as a path; None unless it and its parent are safe."""
    path = folder()
    if path is None:
        yield None
        return
    descriptors: list[int] = []
    try:
        yield _open_checked(path, create, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _open_checked(path: Path, create: bool, descriptors: list[int]) -> int | str | None:
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        if not _POSIX:
            statuses = [os.lstat(p) for p in (path.parent, path)]
            return str(path) if all(stat.S_ISDIR(status.st_mode) for status in statuses) else None
        # Each folder is opened relative to its parent and checked by descriptor, so that none can be swapped in between.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptors.append(os.open(path.parent, flags))
        descriptors.append(os.open(path.name, flags, dir_fd=descriptors[0]))
        return descriptors[1] if all(_is_private(os.fstat(d)) for d in descriptors) else None
    except OSError:
        return None


def _is_private(status: os.stat_result) -> bool:
    """Whether this user owns it and only this user may write it. Always true on Windows, whose user folders are private."""
    return not _POSIX or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
