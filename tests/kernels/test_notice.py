"""The notice that kernels are being compiled."""

from __future__ import annotations

import time

import pytest

from deepcore.kernels.codegen import notice


@pytest.fixture
def interactive(monkeypatch):
    monkeypatch.setattr(notice, "_is_interactive", lambda: True)
    monkeypatch.setattr(notice, "PATIENCE_S", 0.05)
    monkeypatch.setattr(notice.CompileNotice, "printed", False)
    monkeypatch.setattr(notice.CompileNotice, "seconds", 0.0)


def test_the_notice_is_printed_once_when_compilation_adds_up(interactive, capsys):
    for _ in range(6):
        with notice.CompileNotice():
            time.sleep(0.03)
    time.sleep(0.05)
    assert capsys.readouterr().err.count("compiling kernels, once") == 1


def test_short_compilations_and_redirected_streams_print_nothing(interactive, monkeypatch, capsys):
    with notice.CompileNotice():
        pass
    monkeypatch.setattr(notice, "_is_interactive", lambda: False)
    with notice.CompileNotice():
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
