"""The programs of docs/keras.md, each run as it stands there, with fewer epochs where it has many."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import deepcore as dc

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "keras.md").read_text(encoding="utf-8")
#: {title of a section: the code after "deepcore:"}.
PROGRAMS = {
    title: code
    for title, section in re.findall(r"^## \d\. ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for code in re.findall(r"^deepcore:\n\n```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
}
FEWER = {"epochs=15": "epochs=3", "epochs=100": "epochs=20", "epochs=20,": "epochs=4,"}


def run(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dc.manual_seed(0)
    code = PROGRAMS[title]
    for many, few in FEWER.items():
        code = code.replace(many, few)
    names = {"__name__": "program"}
    exec(compile(code, title, "exec"), names)
    return names


def test_there_are_seven_programs_each_beside_its_keras_form():
    assert len(PROGRAMS) == 7
    assert len(re.findall(r"^Keras.*:\n\n```python\n", PAGE, re.MULTILINE)) == 7


def test_digits(tmp_path, monkeypatch, capsys):
    names = run("Digits", tmp_path, monkeypatch)
    assert names["score"]["accuracy"] > 0.85 and len(names["history"].history["val_accuracy"]) == 3
    out = capsys.readouterr().out
    assert "Conv2d" in out and "(1, 32, 6, 6)" in out and "epoch 3/3" in out


def test_a_table(tmp_path, monkeypatch):
    history = run("A table", tmp_path, monkeypatch)["history"].history
    assert {*history} == {"loss", "mse", "val_loss", "val_mse", "lr"} and history["val_loss"][-1] < history["val_loss"][
        0
    ] / 2


def test_text(tmp_path, monkeypatch):
    history = run("Text", tmp_path, monkeypatch)["history"].history
    assert history["loss"][-1] < history["loss"][0] and len(history["val_accuracy"]) == 10


def test_several_inputs_and_outputs(tmp_path, monkeypatch):
    names = run("Several inputs and outputs", tmp_path, monkeypatch)
    history, features = names["history"].history, names["features"]
    assert {"loss", "priority_loss", "department_loss", "priority_accuracy", "department_accuracy"} <= {*history}
    for total, first, second in zip(history["loss"], history["priority_loss"], history["department_loss"]):
        assert total == pytest.approx(first + 0.2 * second)
    assert "department" in features._modules and "priority" not in features._modules


def test_a_loop_of_ones_own(tmp_path, monkeypatch):
    losses = run("Sub-classing and a loop of one's own", tmp_path, monkeypatch)["losses"]
    assert losses[-1] < losses[0]


def test_callbacks(tmp_path, monkeypatch):
    names = run("Callbacks", tmp_path, monkeypatch)
    assert len(names["callbacks"][-1].losses) == 4 * 36
    assert (tmp_path / "log.csv").read_text().count("\n") == 5
    assert {p.name for p in tmp_path.glob("model_*.safetensors")} >= {"model_1.safetensors"}


def test_batches_from_elsewhere(tmp_path, monkeypatch):
    names = run("Batches from elsewhere", tmp_path, monkeypatch)
    assert names["history"].history["accuracy"][-1] > 0.5 and names["history"].params["steps"] is None


def test_named_things_exist():
    """Every dc.… and nn.… of the table of names is there."""
    table = PAGE.split("## What differs")[0]
    for owner, name in re.findall(r"\b(dc|nn)\.([A-Za-z_]\w*)", table):
        assert hasattr(dc if owner == "dc" else dc.nn, name), name
