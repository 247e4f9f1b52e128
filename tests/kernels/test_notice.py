"""The line that says why a first step takes long."""

from __future__ import annotations

import time

import pytest

from deepcore.kernels.codegen import notice


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(notice, "_is_watched", lambda: True)
    monkeypatch.setattr(notice, "PATIENCE", 0.05)
    monkeypatch.setattr(notice.Waiting, "said", False)
    monkeypatch.setattr(notice.Waiting, "waited", 0.0)


def test_it_is_said_once_when_waiting_adds_up(watched, capsys):
    for _ in range(6):
        with notice.Waiting():
            time.sleep(0.03)
    time.sleep(0.05)
    assert capsys.readouterr().err.count("compiling kernels, once") == 1


def test_short_waits_and_unread_streams_say_nothing(watched, monkeypatch, capsys):
    with notice.Waiting():
        pass
    monkeypatch.setattr(notice, "_is_watched", lambda: False)
    with notice.Waiting():
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
