"""Kernels: compiled, kept in objects on disk, loaded again; and what is wrong there never runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import wait_for

import deepcore as dc
from deepcore import kernels
from deepcore.backend import get_backend
from deepcore.cli import main
from deepcore.config import settings
from deepcore.errors import DeepcoreError, DeepcoreWarning
from deepcore.kernels.codegen import background, cache, jit, object_files, toolchain
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.codegen.kernel import Address, Float, In, InOut, Out, Rest, Size, Words, args
from deepcore.kernels.cpu import optimizer
from deepcore.kernels.math import reference
from deepcore.kernels.runtime import executable

ROOT = Path(__file__).resolve().parents[2]
CPU = get_backend("cpu")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no owners and modes of this kind")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and no kernel defined that was not before."""
    monkeypatch.setattr(settings, "cache_dir", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "KERNELS", dict(jit.KERNELS))
    monkeypatch.setattr(cache, "_write_failed", False)
    monkeypatch.setattr(cache, "_warned", False)
    yield tmp_path / "cache" / "kernels"
    monkeypatch.undo()


@args(x=InOut(np.float64), each=Size)
def _scale(tools, factor):
    def kernel(x, each, chunk):
        for i in range(chunk * each, (chunk + 1) * each):
            x[i] *= factor
        return 0

    return kernel


def fresh(name, build, *parameters):
    """The kernel as a new process sees it."""
    jit.KERNELS.pop(name, None)
    return Kernel(name, build, *parameters)


def tripled(kernel) -> bool:
    x = np.ones(3)
    return kernel.ready() and kernel.run(x=x, each=3) == 0 and x.tolist() == [3.0, 3.0, 3.0]


needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba compiles them")


# -- compiling and loading ------------------------------------------------------------------------------------------


@needs_numba
def test_a_kernel_is_compiled_once_and_then_loaded(folder):
    for state in ("compiled", "cached"):
        kernel = fresh("triple", _scale, 3.0)
        assert tripled(kernel) and kernel.state == state
    assert [name.partition("-")[0] for name in cache.entries()] == ["triple"]
    other = fresh("triple", _scale, 2.0)
    assert other.ready() and other.state == "compiled" and not tripled(other)
    assert len(cache.entries()) == 2


def test_two_kernels_of_one_name_are_refused(folder):
    Kernel("twin", _scale, 1.0)
    with pytest.raises(DeepcoreError, match="twin"):
        Kernel("twin", _scale, 1.0)


@needs_numba
def test_the_status_is_the_error_channel(folder):
    @args(a=Size, b=Size)
    def build(tools):
        def kernel(a, b):
            if a == 9:
                raise ValueError("nine")
            return a + b

        return kernel

    kernel = Kernel("status", build)
    assert kernel.ready() and kernel.state == "compiled"
    assert [kernel.run(a=a, b=b) for a, b in ((0, 0), (3, 4), (9, 0))] == [0, 7, -1]


@needs_numba
def test_what_needs_more_than_libm_is_neither_kept_nor_loaded_as_an_object(folder):
    """An array is allocated by numba's own runtime, which a process without numba lacks."""

    @args(n=Size)
    def build(tools):
        def kernel(n):
            x = np.empty(n)
            for i in range(n):
                x[i] = i
            return int(x[n - 1])

        return kernel

    import numba

    kernel = Kernel("greedy", build)
    machine = jit._machine()
    data = machine.emit_object(jit.optimized(numba, kernel, "greedy", machine))
    assert "NRT_Allocate_External" in object_files.undefined(
        data
    ) or "NRT_MemInfo_alloc_aligned" in object_files.undefined(data)
    assert kernel.ready() and kernel.run(n=8) == 7  # through numba itself
    assert not cache.entries()
    assert not kernel._load(data, "greedy")


def test_a_libm_call_is_fine(folder):
    pytest.importorskip("numba")

    @args(x=InOut(np.float64))
    def build(tools):
        import math

        def kernel(x):
            x[0] = math.lgamma(x[0])
            return 0

        return kernel

    for state in ("compiled", "cached"):
        x = np.array([10.0])
        kernel = fresh("libm", build)
        assert kernel.ready() and kernel.run(x=x) == 0 and kernel.state == state
        assert x[0] == pytest.approx(12.801827480081469)


def test_undefined_symbols_of_every_format():
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    text = """
        @held = common global i64 0
        @elsewhere = external global i64
        declare double @a_function_with_a_long_name(double)
        declare double @exp(double)
        define double @kernel(double %x) {
          %y = call double @exp(double %x)
          %z = call double @a_function_with_a_long_name(double %y)
          %v = load i64, REF @elsewhere
          %w = load i64, REF @held
          %u = add i64 %v, %w
          %f = sitofp i64 %u to double
          %s = fadd double %z, %f
          ret double %s
        }"""
    text = text.replace("REF", "ptr" if binding.llvm_version_info[0] > 15 else "i64*")
    for system in ("unknown-linux-gnu", "apple-darwin", "pc-windows-msvc"):
        triple = f"{arch}-{system}"
        machine = binding.Target.from_triple(triple).create_target_machine(codemodel="small")
        module = binding.parse_assembly(text)
        module.triple = triple
        data = machine.emit_object(module)
        wanted = {"exp", "a_function_with_a_long_name", "elsewhere"}
        assert object_files.undefined(data) - {"_fltused"} == wanted, system
        for cut in (1, 10, 70, len(data) // 2, len(data) - 3):
            with contextlib.suppress(ValueError):  # damage may be noticed, and may not do worse
                object_files.undefined(data[:cut])
    with pytest.raises(ValueError, match="format"):
        object_files.undefined(b"#!/bin/sh\n")


def test_addresses():
    x = np.arange(24.0).reshape(4, 6)
    for a in (x, x[1:, 2:], x.T, x[::-1], x[2, 3:3], np.array(1.0), np.zeros(0), x.view(np.uint8)):
        assert address(a) == a.ctypes.data == jit._slow_address(a)


# -- versions of numba ----------------------------------------------------------------------------------------------


@needs_numba
def test_an_unknown_numba_compiles_in_memory(folder, monkeypatch):
    monkeypatch.setattr(jit, "_SUPPORTED_NUMBA", ((0, 1), (0, 2)))
    assert tripled(Kernel("triple", _scale, 3.0))
    assert not cache.entries()

    types = {"x": In(np.float32), "flag": In(np.bool_), "out": Out(np.float64), "n": Size, "eps": Float(np.float32)}

    @args(**types, table=Words, where=Address, rest=Rest)
    def every(tools):
        def kernel(x, flag, out, n, eps, table, where, rest):
            out[0], out[1], out[2], out[3] = x[n], eps, table[1], rest[1]
            return int(flag[0]) + 2 * (where == 0)

        return kernel

    kernel = Kernel("every", every)
    x, flag, out, table = np.arange(4, dtype="f"), np.array([True]), np.zeros(4), np.array([7, 8])
    assert kernel.ready()
    assert kernel.run(x=x, flag=flag, out=out, n=3, eps=0.1, table=table, where=None, rest=(5, 6)) == 3
    assert out.tolist() == [3.0, np.float32(0.1), 8.0, 6.0]


@needs_numba
def test_what_does_not_compile_warns_once_and_leaves_the_reference(folder, monkeypatch):
    monkeypatch.setattr(jit, "_warned", False)

    @args(a=Size)
    def build(tools):
        def kernel(a):
            return a.nothing_of_this_name

        return kernel

    broken = [Kernel("broken", build), Kernel("broken2", build)]
    with pytest.warns(DeepcoreWarning, match="broken cannot be compiled") as caught:
        assert not any(kernel.ready() for kernel in broken * 2)
    assert len(caught) == 1
    assert broken[0].state == "failed"


@needs_numba
@pytest.mark.parametrize("installed", [True, False])
def test_without_numba_kept_kernels_still_run(folder, monkeypatch, installed):
    assert tripled(Kernel("triple", _scale, 3.0))
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(toolchain, "_numba", None)
    if not installed:
        monkeypatch.setattr(cache, "numba_version", lambda: "")
    assert tripled(fresh("triple", _scale, 3.0))
    with pytest.warns(DeepcoreWarning, match="pip install numba"):
        assert not Kernel("double", _scale, 2.0).ready()


@needs_numba
def test_two_versions_side_by_side(folder, monkeypatch):
    for version in ("a" * 12, "b" * 12):
        monkeypatch.setattr(cache, "numba_version", lambda version=version: version)
        assert tripled(fresh("triple", _scale, 3.0)) and jit.KERNELS["triple"].state == "compiled"
    monkeypatch.setattr(cache, "_environment", lambda: "another deepcore")
    assert tripled(fresh("triple", _scale, 3.0)) and jit.KERNELS["triple"].state == "compiled"
    assert len(cache.entries()) == 3
    assert tripled(fresh("triple", _scale, 3.0)) and jit.KERNELS["triple"].state == "cached"


def test_the_key_holds_all_that_matters(folder, tmp_path, monkeypatch):
    pytest.importorskip("llvmlite")
    source = tmp_path / "k.py"
    source.write_text("1")
    stems = {cache.stem("k", (), str(source)), cache.stem("k", (1,), str(source)), cache.stem("j", (), str(source))}
    source.write_text("2")
    stems.add(cache.stem("k", (), str(source)))
    assert len(stems) == 4
    cache._environment.cache_clear()
    before = cache.stem("k", (), str(source))
    with monkeypatch.context() as change:
        change.setenv("NUMBA_OPT", "0")
        cache._environment.cache_clear()
        assert cache.stem("k", (), str(source)) != before
    cache._environment.cache_clear()
    assert cache.stem("k", (), str(tmp_path / "gone.py")) is None


# -- faults of files and folders --------------------------------------------------------------------------------------


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def _empty(file):
    file.write_bytes(b"")


def _flip(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def _lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def _exchange(file):
    """The sound file of another kernel under this one's name."""
    Kernel("double", _scale, 2.0).ready()
    (other,) = [p for p in file.parent.iterdir() if p.name.startswith("double")]
    file.write_bytes(other.read_bytes())


def _link(file):
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


def _pipe(file):
    file.unlink()
    os.mkfifo(file, 0o600)


def _directory(file):
    file.unlink()
    file.mkdir()


FILE_FAULTS = [_truncate, _empty, _flip, _lengthen, _exchange, _directory]
POSIX_FILE_FAULTS = [
    _link,
    _pipe,
    lambda file: file.chmod(0o620),
    lambda file: file.chmod(0o602),
]


@needs_numba
@pytest.mark.parametrize("damage", [*FILE_FAULTS, *(pytest.param(f, marks=posix) for f in POSIX_FILE_FAULTS)])
def test_a_file_that_is_not_as_it_should_be_is_rebuilt(folder, damage, monkeypatch):
    assert tripled(Kernel("triple", _scale, 3.0))
    (file,) = folder.iterdir()
    damage(file)
    kernel = fresh("triple", _scale, 3.0)
    with pytest.warns(DeepcoreWarning, match="cannot be kept") if damage is _directory else contextlib.nullcontext():
        assert tripled(kernel) and kernel.state == "compiled"
    if damage is not _directory:
        kernel = fresh("triple", _scale, 3.0)
        assert tripled(kernel) and kernel.state == "cached"
        assert not list(folder.glob("*.new"))


@posix
@needs_numba
def test_a_file_of_another_owner_is_ignored(folder, monkeypatch):
    assert tripled(Kernel("triple", _scale, 3.0))
    (file,) = folder.iterdir()
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    kernel = fresh("triple", _scale, 3.0)
    assert tripled(kernel) and kernel.state == "compiled"


def _folder_link(folder):
    folder.rename(folder.with_name("real"))
    folder.symlink_to("real")


FOLDER_FAULTS = [
    _folder_link,
    lambda folder: folder.chmod(0o770),
    lambda folder: folder.parent.chmod(0o707),
]


@posix
@needs_numba
@pytest.mark.parametrize("damage", FOLDER_FAULTS)
def test_an_unsafe_folder_is_neither_read_nor_written(folder, damage):
    assert tripled(Kernel("triple", _scale, 3.0))
    before = sorted(folder.iterdir())
    damage(folder)
    assert cache.problem()
    with pytest.warns(DeepcoreWarning, match=UNKEPT) as caught:
        for kernel in (fresh("triple", _scale, 3.0), Kernel("double", _scale, 3.0)):
            assert tripled(kernel) and kernel.state == "compiled"
    assert len(caught) == 1
    assert sorted(folder.iterdir()) == before
    assert cache.entries() == {} and cache.clear() == 0


UNKEPT = "compiled kernels cannot be kept in .*; every process compiles them anew; fix: DEEPCORE_CACHE="


@needs_numba
@pytest.mark.parametrize("fault", ["file in the way", "full disk", "no home", "read only"])
def test_without_a_folder_kernels_live_in_memory(folder, monkeypatch, tmp_path, fault):
    if fault == "file in the way":
        (tmp_path / "cache").write_text("")
    elif fault == "full disk":

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
    elif fault == "no home":
        monkeypatch.setattr(cache, "folder", lambda: None)
    else:
        if os.name != "posix" or os.geteuid() == 0:
            pytest.skip("nothing is read-only for this user")
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(0o500)
    kernel = Kernel("triple", _scale, 3.0)
    with pytest.warns(DeepcoreWarning, match=UNKEPT) as caught:
        assert tripled(kernel) and kernel.state == "compiled"
        assert tripled(Kernel("once", _scale, 3.0))
    assert len(caught) == 1 and (str(folder) in str(caught[0].message) or fault == "no home")
    assert not cache.entries()
    if folder.is_dir():
        assert not list(folder.iterdir())
    else:
        assert cache.problem()


def test_where_kernels_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "cache_dir", None)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    found = {}
    for system in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", system)
        found[system] = cache.folder().relative_to(tmp_path).as_posix()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    found["plain"] = cache.folder().relative_to(tmp_path).as_posix()
    assert found == {
        "linux": "xdg/deepcore/kernels",
        "darwin": "Library/Caches/deepcore/kernels",
        "win32": "local/deepcore/kernels",
        "plain": ".cache/deepcore/kernels",
    }


# -- processes ----------------------------------------------------------------------------------------------------------

_PROCESS = """
import sys, time
import deepcore as dc
from deepcore.kernels.codegen import jit
g = dc.Generator(7)
x = dc.erf(dc.randn(1 << 17, generator=g))
states = {k.name: k.state for k in jit.KERNELS.values()}
print(float(x.numpy().astype("float64").sum()), states["erf_float32"], "numba" in sys.modules)
"""


def processes(count, place, **environment):
    environment = {
        **os.environ,
        "DEEPCORE_CACHE": str(place),
        "PYTHONPATH": str(ROOT),
        "DEEPCORE_KERNELS": "1",
        **environment,
    }
    command = [sys.executable, "-W", "error", "-c", _PROCESS]
    started = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    out = []
    for process in started:
        said, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        out.append(said.split())
    return out


@needs_numba
@pytest.mark.parametrize("count", [3, pytest.param(32, marks=pytest.mark.slow)])
def test_many_processes_on_a_cold_cache(tmp_path, count):
    cold = processes(count, tmp_path / "cache")
    assert len({total for total, _, _ in cold}) == 1
    assert {state for _, state, _ in cold} <= {"compiled", "cached"}
    assert not list((tmp_path / "cache").rglob("*.new"))
    # A warm process has the same bits, and does without numba.
    assert processes(1, tmp_path / "cache", DEEPCORE_NUM_THREADS="1") == [[cold[0][0], "cached", "False"]]


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_loads_and_compiles(folder):
    assert tripled(Kernel("triple", _scale, 3.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: other threads
        child = os.fork()
    if child == 0:
        fine = False
        try:
            fine = tripled(jit.KERNELS["triple"]) and tripled(fresh("triple", _scale, 3.0))
            fine = fine and Kernel("double", _scale, 2.0).ready()
        finally:
            os._exit(0 if fine else 1)
    assert wait_for(child) == 0


# -- the kernels there are, and the command ----------------------------------------------------------------------------------


# -- a second process ---------------------------------------------------------------------------------------------


@pytest.fixture
def start_worker(folder, monkeypatch):
    """start_worker(names): a worker that compiles these into an empty cache."""
    made = []
    monkeypatch.setenv("DEEPCORE_CACHE", settings.cache_dir)

    def start(*names):
        made.append(background.Worker(names))
        monkeypatch.setattr(background, "_worker", made[-1])
        return made[-1]

    yield start
    for one in made:
        one.close()
        assert one._process.wait(10) is not None


@needs_numba
def test_what_a_second_process_compiles_is_loaded(start_worker):
    worker = start_worker("move", "moves", "pool_limit")
    while worker.current != "move":
        time.sleep(0.001)
    kernel, later = fresh("move", executable._move), fresh("moves", executable._moves)
    assert kernel.ready() and kernel.state == "cached"
    # It was waited for at work: what nobody had begun was compiled here meanwhile.
    assert not worker.queue and later.state == "compiled"


@needs_numba
def test_what_nobody_has_begun_is_compiled_here(start_worker):
    worker = start_worker("no such kernel", "move")
    kernel = fresh("move", executable._move)
    assert kernel.ready() and kernel.state == "compiled" and worker.claim("move") == "move"


@needs_numba
@pytest.mark.parametrize("fault", ["killed", "no interpreter", "another version", "hangs"])
def test_a_second_process_that_fails_is_no_loss(start_worker, monkeypatch, fault):
    if fault == "hangs":
        monkeypatch.setattr(background, "_WORKER_CODE", "import time; time.sleep(60)")
        monkeypatch.setattr(background.Worker.wait, "__defaults__", (0.1,))
    if fault == "no interpreter":
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
    if fault == "another version":  # which keeps its kernels under other names
        monkeypatch.setattr(background, "_WORKER_CODE", "import sys; [print(flush=True) for line in sys.stdin]")
    worker = start_worker("move")
    if fault == "killed":
        worker._process.kill()
    kernel = fresh("move", executable._move)
    assert kernel.ready() and kernel.state == "compiled" and (worker.current is None or fault == "hangs")


@posix
@needs_numba
def test_one_second_process_is_enough_for_a_cache(start_worker):
    first = start_worker("move", "gemm_float32")
    while first.current != "gemm_float32":
        time.sleep(0.001)
    second = start_worker("pool_limit")
    assert second.current in ("pool_limit", None) and second.wait("pool_limit")
    assert [name.partition("-")[0] for name in cache.entries()] == ["move"]


def test_when_there_is_no_second_process(monkeypatch):
    def none() -> bool:
        monkeypatch.setattr(background, "_attempted", False)
        monkeypatch.setattr(background, "_worker", None)
        return background.worker() is None

    def refused(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr(settings, "threads", 2)
    assert none()
    monkeypatch.setattr(background, "Worker", lambda names: names)
    assert not none()
    none_of = (settings, "threads", 1), (sys, "executable", ""), (sys, "executable", "/bin/game"), (sys, "frozen", True)
    for owner, name, value in none_of:
        with monkeypatch.context() as change:
            change.setattr(owner, name, value, raising=False)
            assert none(), name
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(background.worker() is not None)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@posix
@needs_numba
def test_a_second_process_ends_with_the_first(tmp_path):
    code = """if True:
        from deepcore.kernels.codegen import background, jit
        from deepcore.kernels.runtime import threadpool
        from deepcore.config import settings
        settings.threads = 2
        assert jit.KERNELS["pool_limit"].ready()
        print(background.worker()._process.pid)
    """
    environment = {**os.environ, "DEEPCORE_CACHE": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not found.stderr and not list(tmp_path.rglob("*.new"))
    assert gone(int(found.stdout))


def gone(pid: int) -> bool:
    """Whether a process ends in ten seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@posix
@needs_numba
@pytest.mark.parametrize("way", ["os._exit(0)", "pass"])
def test_a_fork_does_not_keep_a_second_process(tmp_path, way):
    """The first process ends, with its exit handlers or without, and a fork of it lives on, and ends as programs do."""
    code = f"""if True:
        import os, sys
        from deepcore.kernels.codegen import background
        background._worker = background.Worker(["no such kernel"] * 1_000_000)
        child = os.fork()
        if not child:
            os.close(1)
            sys.stdin.read()
            sys.exit()
        print(background._worker._process.pid, flush=True)
        {way}
    """
    environment = {**os.environ, "DEEPCORE_CACHE": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        worker = int(process.stdout.read())
        assert gone(worker)


def test_a_second_process_uses_the_cache_that_was_set(folder, monkeypatch):
    given = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, env, **rest: given.append(env) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.Worker(())
    assert given[0]["DEEPCORE_CACHE"] == settings.cache_dir


@needs_numba
def test_philox_has_the_integers_of_the_reference():
    from deepcore.kernels.cpu import philox

    for seed, stream, start in ((0, 0, 0), (2**64 - 1, 2**63, 2**64 - 3), (2**63 - 1, 1, 2**32 - 2)):
        for blocks in (0, 1, philox._CHUNK_BLOCKS, 3 * philox._CHUNK_BLOCKS + 5):
            want = reference.philox(CPU, seed, stream, start, blocks)
            got = philox.philox(CPU, seed=seed, stream=stream, position=start, blocks=blocks)
            assert got.dtype == want.dtype and np.array_equal(got, want)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erf_has_the_same_bits_at_any_number_of_threads(dtype):
    from deepcore.kernels.cpu.elementwise import MAPS, SLICE

    erf = MAPS["erf"]
    x = np.random.default_rng(0).standard_normal(5 * SLICE + 17).astype(dtype)
    found = []
    before = settings.threads
    for count in (1, 2, 5):
        dc.set_num_threads(count)
        found.append(erf(CPU, x))
    found.append(np.concatenate([erf(CPU, part) for part in np.array_split(x, 7)]))
    settings.threads = before
    assert all(np.array_equal(a, found[0]) for a in found)


@needs_numba
@pytest.mark.parametrize("names", [("pool", "exp", "philox"), pytest.param((), marks=pytest.mark.slow)])
def test_warmup_fills_the_cache_and_cache_shows_and_clears_it(tmp_path, names):
    def deepcore(*argv):
        environment = {
            **os.environ,
            "DEEPCORE_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": str(ROOT),
            "DEEPCORE_KERNELS": "1",
        }
        command = [sys.executable, "-m", "deepcore", *argv]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "0 kernels" in deepcore("cache") and not (tmp_path / "cache").exists()
    first = deepcore("warmup", *names).splitlines()
    count = len(first) - 1
    assert count >= 4 and all("compiled in" in line for line in first[:-1])
    assert first[-1].startswith(f"{count} kernels in")
    assert all(line.endswith("cached") for line in deepcore("warmup", *names).splitlines()[:-1])
    assert deepcore("warmup", "--quiet", *names) == ""
    assert str(tmp_path / "cache") in deepcore("cache") and f"{count} kernels" in deepcore("cache")
    facts = json.loads(deepcore("info", "--json"))["kernels"]
    assert facts["kept"].startswith(f"{count} kernels") and facts["used"] == "yes"
    assert f"deleted {count} kernels" in deepcore("cache", "clear")
    assert "0 kernels" in deepcore("cache")


def test_cache_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "kernels").write_text("")
    monkeypatch.setattr(settings, "cache_dir", str(tmp_path))
    assert main(["cache"]) == 0
    assert "compiled anew in each process" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "burn"]) == 2
    assert "clear" in capsys.readouterr().err


def test_warmup_without_a_compiler(folder, monkeypatch, capsys):
    kernels.discover()
    optimizer.kernel.define_all()
    monkeypatch.setattr(toolchain, "_numba", False)
    monkeypatch.setattr(jit, "KERNELS", {})
    Kernel("triple", _scale, 3.0)
    assert main(["warmup", "double"]) == 2 and "double" in capsys.readouterr().err
    assert main(["warmup", "triple"]) == 1
    said = capsys.readouterr()
    assert "failed" in said.out and "1 of 1 kernels" in said.err


USERS_OWN = """
import numba, numpy as np
from deepcore import kernels
from deepcore.kernels.codegen import background, jit
background.disable()
kernels.discover()
for name in ("pool_run", "sum_rows_float32", "cross_entropy_loss_float32", "sum_columns_float64", "cross_entropy_loss_float64"):
    assert jit.KERNELS[name].ready() and jit.KERNELS[name].state == "compiled", name


@numba.njit
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@numba.njit
def mixed(x):
    rows = [float(v) for v in np.sort(x) if v > 0.0]
    seen = {1: 2.0}
    for i, v in enumerate(rows):
        seen[i] = min(max(np.exp(v), 0.5), np.float64(9)) + abs(np.log1p(v)) + int(v) % 3
    return seen[0] + seen[1], np.zeros(3).sum(), len(rows), min(1, 2) + max(3.0, 4.0)


@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(x.size):
        s += np.tanh(x[i])
    return s


@numba.vectorize(["float64(float64, float64)"])
def larger(a, b):
    return max(a, b)


x = np.linspace(-1, 2, 50)
assert fib(15) == 610
found, plain = mixed(x), mixed.py_func(x)
assert np.allclose(found, plain), (found, plain)
assert np.isclose(total(x), np.tanh(x).sum()) and (larger(x, -x) == abs(x)).all()
print("fine")
"""


def test_numba_compiles_the_users_own_functions_afterwards(tmp_path):
    """Kernels are compiled past numba's engine, which makes machine code of what the user compiles."""
    pytest.importorskip("numba")
    env = {**os.environ, "DEEPCORE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USERS_OWN], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stdout + done.stderr
