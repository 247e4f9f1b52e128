"""Files written in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import deepcore as dc
from deepcore.io import background, safetensors
from deepcore.io.files import MissingFileError


@pytest.fixture
def gate(monkeypatch):
    """Writes wait for `gate.set()`."""
    opened, save_file = threading.Event(), safetensors.save_file

    def slow(*args):
        assert opened.wait(10)
        save_file(*args)

    monkeypatch.setattr(safetensors, "save_file", slow)
    yield opened
    opened.set()


def test_the_state_is_copied_first(tmp_path, gate, backend):
    t = dc.ones(3, device=backend)
    saving = dc.save({"state": t, "step": 1}, tmp_path / "a.safetensors", wait=False)
    t.fill_(7.0)
    assert not saving.done() and not saving.wait(0.01) and not (tmp_path / "a.safetensors").exists()
    gate.set()
    assert saving.wait() and saving.done()
    assert dc.load(tmp_path / "a.safetensors")["state"].tolist() == [1.0] * 3


def test_saves_and_loads_of_one_path_keep_their_order(tmp_path, gate):
    path = tmp_path / "a.safetensors"
    dc.save({"x": dc.zeros(1)}, path, wait=False)
    threading.Timer(0.1, gate.set).start()
    assert dc.load(path)["x"].item() == 0.0  # waits for the write
    gate.clear()
    dc.save({"x": dc.ones(1)}, path, wait=False)
    threading.Timer(0.1, gate.set).start()
    dc.save({"x": dc.full((1,), 2.0)}, os.path.relpath(path))
    assert dc.load(path)["x"].item() == 2.0


def test_few_copies_wait_at_a_time(tmp_path, gate):
    for i in range(background._MOST):
        dc.save({"x": dc.ones(1)}, tmp_path / f"{i}.safetensors", wait=False)
    more = threading.Thread(
        target=dc.save, args=({"x": dc.ones(1)}, tmp_path / "more.safetensors"), kwargs={"wait": False}
    )
    more.start()
    more.join(0.1)
    assert more.is_alive()
    gate.set()
    more.join(10)
    assert not more.is_alive() and dc.load(tmp_path / "more.safetensors")["x"].item() == 1.0


def test_an_error_is_raised_once_by_wait(tmp_path):
    saving = dc.save({"x": dc.ones(1)}, tmp_path / "none" / "a.safetensors", wait=False)
    with pytest.raises(MissingFileError, match="no folder"):
        saving.wait()
    assert saving.wait() and saving.done()


def python(code, *args, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], text=True, **options)


def test_a_process_that_ends_writes_what_is_pending_and_prints_errors(tmp_path):
    code = (
        "import sys, deepcore as dc\n"
        "dc.save({'x': dc.ones(1 << 20)}, sys.argv[1] + '/a.safetensors', wait=False)\n"
        "dc.save({'x': dc.ones(1)}, sys.argv[1] + '/none/b.safetensors', wait=False)\n"
    )
    process = python(code, tmp_path, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "b.safetensors' was not saved" in errors and "no folder" in errors
    assert dc.load(tmp_path / "a.safetensors")["x"].sum().item() == 1 << 20


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("delays", [(0.013,), pytest.param((0.0, 0.004, 0.021, 0.037, 0.05), marks=pytest.mark.slow)])
def test_a_killed_process_leaves_a_whole_snapshot(delays, tmp_path):
    path = tmp_path / "a.safetensors"
    code = (
        "import itertools, sys, deepcore as dc\n"
        "for i in itertools.count():\n"
        "    t = dc.full((1 << 19,), float(i))\n"
        "    dc.save({'a': t, 'b': t + 1, 'step': i}, sys.argv[1], wait=False)\n"
        "    print(i, flush=True)\n"
    )
    seen = -1
    for delay in delays:
        process = python(code, path, stdout=subprocess.PIPE)
        for _ in range(8):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        state = dc.load(path)
        assert (state["a"] == state["step"]).all() and (state["b"] == state["step"] + 1).all()
        seen = max(seen, state["step"])
    assert seen > 0
