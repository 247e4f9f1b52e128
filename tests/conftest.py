"""Backends to test on, the seed, and which tests run by default."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import standin
from backends import BACKENDS

from deepcore.config import settings
from deepcore.kernels.codegen import background

background.disable()  # a run has its own: see `_WARMUP`

# Under nohup, or in the background of a script, signals are ignored, and by every process that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Kernels that tests compile are kept from run to run, apart from the user's own, until changes have made them many.
if not settings.cache_dir:
    kept = Path(__file__).resolve().parents[1] / ".pytest_cache" / "kernels"
    if sum(1 for _ in kept.glob("**/*")) > 2000:
        shutil.rmtree(kept, ignore_errors=True)
    os.environ["DEEPCORE_CACHE"] = settings.cache_dir = str(kept)

try:
    import hypothesis
except ImportError:  # the property tests skip themselves
    pass
else:
    hypothesis.settings.register_profile("default", deadline=None, derandomize=bool(os.environ.get("CI")))
    hypothesis.settings.load_profile("default")


WARMUP = pytest.StashKey[subprocess.Popen]()


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    """The name of a backend: each test that asks runs on every one usable here."""
    return request.param


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--seed", type=int, default=0, help="what every test seeds deepcore's generator with (default 0)")
    parser.addoption(
        "--passed", metavar="FILE", help="leave out the tests that FILE lists; write those that pass, if it is new"
    )
    parser.addoption("--programs", type=int, help="how many random programs are compiled (default 50, with --slow 200)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs on all cores, at most 4, unless `-n` says otherwise."""
    whole = config.args_source is not config.ArgsSource.ARGS and "PYTEST_XDIST_WORKER" not in os.environ
    if whole and not config.option.collectonly and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = min(os.cpu_count() or 1, 4)


def pytest_configure(config):
    standin.kernels = config.getoption("--slow")
    if config.option.programs is None:
        config.option.programs = 200 if config.getoption("--slow") else 50
    passed = config.getoption("--passed")
    if passed and not os.path.exists(passed) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Passed(Path(passed)), "passed")


class _Passed:
    """Writes the names of the tests that passed, once the run has ended."""

    def __init__(self, path: Path):
        self.path, self.names = path, list[str]()

    def pytest_runtest_logreport(self, report):
        # With --slow, the stand-in runs kernels: those tests are others then.
        if report.when == "call" and report.passed and not re.search("standin|cuda|gpu|graph", report.nodeid):
            self.names.append(report.nodeid)

    def pytest_unconfigure(self):
        self.path.write_text("\n".join(self.names), encoding="utf-8")


def pytest_collection_modifyitems(config, items):
    passed = config.getoption("--passed")
    done = set(Path(passed).read_text(encoding="utf-8").splitlines()) if passed and os.path.exists(passed) else ()
    slow = config.getoption("--slow")
    kept = [item for item in items if item.nodeid not in done and (slow or not item.get_closest_marker("slow"))]
    if len(kept) < len(items):
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = kept


_WARMUP = """
from deepcore import kernels
from deepcore.kernels.codegen import jit
kernels.discover()
for kernel in reversed(jit.KERNELS.values()):
    kernel.ready()
"""


def pytest_collection_finish(session):
    """Have another process compile kernels, the last ones first, while the tests run: of a cold run that is most."""
    many = len(session.items) > 1000 and not session.config.option.collectonly
    able = settings.kernels and importlib.util.find_spec("numba") and (os.cpu_count() or 1) > 1
    if many and able and not hasattr(session.config, "workerinput"):
        root = Path(__file__).resolve().parents[1]
        session.config.stash[WARMUP] = subprocess.Popen(
            [sys.executable, "-c", _WARMUP], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def pytest_unconfigure(config):
    process = config.stash.get(WARMUP, None)
    if process is not None:
        process.kill()
        process.wait()


def pytest_report_header(config):
    names = [b if isinstance(b, str) else b.values[0] for b in BACKENDS]
    return f"deepcore backends: {', '.join(names)}; seed {config.getoption('--seed')}; threads {settings.threads}"


@pytest.fixture(autouse=True)
def manual_seed(request):
    """Every test starts from the same random state."""
    seed = request.config.getoption("--seed")
    if importlib.util.find_spec("deepcore.random") is not None:
        from deepcore import random

        random.manual_seed(seed)
    return seed


@pytest.fixture(autouse=True)
def settings_kept():
    """A test that changes a process-wide setting must put it back."""
    before = {name: getattr(settings, name) for name in settings.__slots__}
    yield
    after = {name: getattr(settings, name) for name in settings.__slots__}
    for name, value in before.items():
        setattr(settings, name, value)
    assert after == before, "the test left process-wide settings changed"
