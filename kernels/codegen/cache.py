"""Compiled kernels on disk: one object file each, in a folder of the user's, named after everything it depends on.

A file is read only if it and its folder belong to this user, nobody else may write them, neither is a link, and the
digest at its head fits. Whatever is wrong with it, it counts as missing; whatever is wrong with the folder, kernels
live in memory, and one warning says so.
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
    """Where kernels are kept: in DEEPCORE_CACHE, else where the system keeps caches; None if there is no such place."""
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
    """`name` and the digest of all the kernel depends on but numba's version; None where the source cannot be read."""
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
    """Sources, versions and processor. Every file of `kernels` counts: a kernel may inline anything from it."""
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


def host() -> tuple[str, str, str]:
    """The triple, the processor and its features, as LLVM calls them."""
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot list them on every system; the processor's name then says enough
        features = ""
    return binding.get_process_triple(), binding.get_host_cpu_name(), features


@functools.cache
def numba_version() -> str:
    """A digest of numba's version file, or "" without numba: importing it to ask would take longer than all else."""
    try:
        spec = importlib.util.find_spec("numba")
        assert spec is not None and spec.origin is not None
        return hashlib.sha256(Path(spec.origin).with_name("_version.py").read_bytes()).hexdigest()[:12]
    except (AssertionError, OSError, ValueError, ImportError):
        return ""


# -- files ------------------------------------------------------------------------------------------------------


def read(stem: str) -> bytes | None:
    """The object kept under `stem`, checked, or None. Without numba, one that any version of it made."""
    with _opened() as place:
        if place is None:
            return None
        if numba_version():
            return _read(place, f"{stem}-{numba_version()}{_SUFFIX}")
        names = sorted(n for n in os.listdir(place) if n.startswith(f"{stem}-") and n.endswith(_SUFFIX))
        return next((data for data in (_read(place, name) for name in names) if data is not None), None)


def _read(place: int | str, name: str) -> bytes | None:
    try:
        if isinstance(place, int):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        else:
            if not stat.S_ISREG(os.lstat(os.path.join(place, name)).st_mode):
                return None
            file = os.open(os.path.join(place, name), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        with open(file, "rb") as opened:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or not _private(facts) or facts.st_size > _MAX_BYTES:
                return None
            data = opened.read(_MAX_BYTES + 1)
    except OSError:
        return None
    head, body = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    title = name.encode() + b"\n"
    if head != _MAGIC + hashlib.sha256(body).digest() or not body.startswith(title):
        return None
    return body[len(title) :]


def write(stem: str, data: bytes) -> bool:
    """Keep an object; False where that is not possible. Another process sees all of it or nothing."""
    global _unkept
    if not numba_version():
        return False
    name = f"{stem}-{numba_version()}{_SUFFIX}"
    body = name.encode() + b"\n" + data
    done = _write(name, _MAGIC + hashlib.sha256(body).digest() + body)
    _unkept = _unkept or not done
    return done


_unkept = _warned = False


def warn_unkept() -> None:
    """Warn, the first time, if an object could not be kept."""
    global _warned
    if _unkept and not _warned:
        _warned = True
        warnings.warn(
            f"compiled kernels cannot be kept in {folder() or 'a cache'}: {problem() or 'writing there fails'}"
            "; every process compiles them anew; fix: DEEPCORE_CACHE=FOLDER, a folder of yours that can be written",
            DeepcoreWarning,
            stacklevel=5,
        )


def write_source(stem: str, text: str) -> bool:
    """Keep the generated code of a kernel, to be read; nothing here ever runs it."""
    return _write(f"{stem}{_SOURCE}", text.encode())


def _write(name: str, content: bytes) -> bool:
    with _opened(create=True) as place:
        if place is None:
            return False
        where = place if isinstance(place, int) else None
        root = "" if where is not None else f"{place}{os.sep}"
        temporary = f"{root}.{os.urandom(8).hex()}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        made = False
        try:
            file = os.open(temporary, flags, 0o600, dir_fd=where)
            made = True
            with open(file, "wb") as opened:
                opened.write(content)
            os.replace(temporary, root + name, src_dir_fd=where, dst_dir_fd=where)
            made = False
            return True
        except OSError:  # a full disk; on Windows, a reader has the old file open
            return False
        finally:
            if made:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=where)


def entries() -> dict[str, int]:
    """The bytes of each kept kernel, by file name."""
    found = {}
    with _opened() as place:
        for name in [] if place is None else sorted(os.listdir(place)):
            path, where = (name, place) if isinstance(place, int) else (os.path.join(str(place), name), None)
            with contextlib.suppress(OSError):
                facts = os.stat(path, dir_fd=where, follow_symlinks=False)
                if name.endswith(_SUFFIX) and stat.S_ISREG(facts.st_mode):
                    found[name] = facts.st_size
    return found


def clear() -> int:
    """Delete every kept kernel, and what interrupted writers left; the number of kernels."""
    count = 0
    with _opened() as place:
        for name in [] if place is None else os.listdir(place):
            if name.endswith((_SUFFIX, _SOURCE, ".new")):
                path, where = (name, place) if isinstance(place, int) else (os.path.join(str(place), name), None)
                with contextlib.suppress(OSError):
                    os.unlink(path, dir_fd=where)
                    count += name.endswith(_SUFFIX)
    return count


def lock_folder() -> bool:
    """Whether no other process has been told so and still lives: of those that compile ahead for a folder, one is enough."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    with _opened(create=True) as place:
        if not isinstance(place, int):
            return False
        held = os.dup(place)  # until this process ends
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            return False
    return True


def problem() -> str | None:
    """Why nothing is kept, or None."""
    path = folder()
    if path is None:
        return "this system says of no folder that it is for caches"
    with _opened() as place:
        if place is not None:
            return None if os.access(path, os.W_OK) else "the folder cannot be written"
    if os.path.lexists(path):
        return "the folder, or the one it is in, is a link, belongs to someone else, or others may write it"
    above = next((p for p in path.parents if os.path.lexists(p)), path)
    return None if above.is_dir() and os.access(above, os.W_OK) else f"{above} is no folder that can be written"


@contextlib.contextmanager
def _opened(create: bool = False) -> Iterator[int | str | None]:
    """The folder, as a descriptor where the system has those for folders, if it and the one it is in are safe."""
    path = folder()
    if path is None:
        yield None
        return
    opened: list[int] = []
    try:
        yield _open(path, create, opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open(path: Path, create: bool, opened: list[int]) -> int | str | None:
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        if not _POSIX:
            real = [os.lstat(p) for p in (path.parent, path)]
            return str(path) if all(stat.S_ISDIR(facts.st_mode) for facts in real) else None
        # Each is opened from the one above it and asked itself, so nothing can be exchanged in between.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        opened.append(os.open(path.parent, flags))
        opened.append(os.open(path.name, flags, dir_fd=opened[0]))
        return opened[1] if all(_private(os.fstat(d)) for d in opened) else None
    except OSError:
        return None


def _private(facts: os.stat_result) -> bool:
    """Whether it is this user's, and only this user may write it. Windows has no such bits: folders there are private."""
    return not _POSIX or (facts.st_uid == os.geteuid() and not facts.st_mode & 0o022)
