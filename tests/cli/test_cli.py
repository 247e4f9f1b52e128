"""The command line, through `main([...])` and as a process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import cli
from deepcore.cli import main, runs
from deepcore.cli.inputs import Inputs
from deepcore.config import settings
from deepcore.train import feed

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MNIST = "t10k-images-idx3-ubyte.gz"

LINEAR = """
[data]
type = "digits"

[[layers]]
type = "Flatten"

[[layers]]
type = "Linear"
out_features = 10

[loss]
type = "CrossEntropyLoss"

[optimizer]
type = "SGD"
lr = 0.1
momentum = 0.9

[train]
epochs = 2
"""


@pytest.fixture
def linear(tmp_path) -> str:
    path = tmp_path / "linear.toml"
    path.write_text(LINEAR)
    return str(path)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """(folder, what was printed) of `deepcore train` as a newcomer runs it."""
    folder = tmp_path_factory.mktemp("digits")
    done = subprocess.run([sys.executable, "-m", "deepcore", "train"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    return run, done.stdout


def accuracy_in(text: str) -> float:
    return float(re.search(r"accuracy ([\d.]+)%\n", text)[1]) / 100


# -- train ------------------------------------------------------------------------------------------------
def test_train_with_no_argument(digits_run):
    run, said = digits_run
    assert re.fullmatch(r"digits-\d{8}-\d{6}", run.name)
    assert accuracy_in(said) >= 0.97
    assert f"saved in {Path('runs') / run.name}" in said
    assert "predicted" in said
    result = json.loads((run / runs.RESULT).read_text())
    matrix = np.array(result["confusion_matrix"])
    assert matrix.sum() == 360
    assert matrix.trace() / 360 == pytest.approx(result["test_accuracy"]) == pytest.approx(accuracy_in(said), abs=1e-4)
    lines = (run / runs.HISTORY).read_text().splitlines()
    assert lines[0].startswith("epoch,loss,accuracy")
    assert len(lines) == 31
    assert {runs.MODEL, runs.CONFIG, runs.INPUTS} <= {p.name for p in run.iterdir()}


def test_curves_are_drawn_where_matplotlib_is(digits_run):
    pytest.importorskip("matplotlib")
    run, _ = digits_run
    assert (run / runs.PLOT).read_bytes().startswith(b"\x89PNG")


def test_where_nothing_draws_nothing_is_said(linear, tmp_path, monkeypatch, capsys):
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["train", linear, "--out", str(tmp_path / "run")]) == 0
    assert "matplotlib" not in "".join(capsys.readouterr())
    assert runs.PLOT not in {p.name for p in (tmp_path / "run").iterdir()}


@pytest.mark.slow
def test_digits_reach_97_percent_over_five_seeds(tmp_path, capsys):
    found = []
    for seed in range(5):
        assert main(["train", "--quiet", "--seed", str(seed), "--out", str(tmp_path / str(seed))]) == 0
        found.append(json.loads((tmp_path / str(seed) / runs.RESULT).read_text()))
    assert np.mean([r["test_accuracy"] for r in found]) >= 0.97
    assert max(r["seconds"] for r in found) <= 20
    assert len({r["test_loss"] for r in found}) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options, least", [("mnist_mlp", [], 0.95), ("mnist_cnn", ["--epochs", "3"], 0.97)], ids=["mlp", "cnn"]
)
def test_mnist_is_learned(name, options, least, tmp_path, capsys):
    folder = Path(settings.data_dir or "") / "mnist"
    if not settings.data_dir or not (folder / MNIST).is_file():
        pytest.skip(f"DEEPCORE_DATA names no folder with mnist/{MNIST}")
    assert main(["train", str(EXAMPLES / f"{name}.toml"), *options, "--quiet", "--out", str(tmp_path / "m")]) == 0
    assert json.loads((tmp_path / "m" / runs.RESULT).read_text())["test_accuracy"] >= least


def test_the_same_seed_gives_the_same_bits_and_the_resolved_file_too(linear, tmp_path, capsys):
    a, b, c, d = (str(tmp_path / name) for name in "abcd")
    assert main(["train", linear, "--seed", "3", "--out", a]) == 0
    assert main(["train", linear, "--seed", "3", "--out", b]) == 0
    assert main(["train", str(tmp_path / "a" / runs.CONFIG), "--out", c]) == 0
    assert main(["train", linear, "--seed", "4", "--out", d]) == 0
    models = [(tmp_path / name / runs.MODEL).read_bytes() for name in "abcd"]
    assert models[0] == models[1] == models[2] != models[3]


def test_validation_early_stopping_and_checkpoints(tmp_path, capsys):
    path, out, again = tmp_path / "held.toml", tmp_path / "a", tmp_path / "b"
    settings = (
        'validation_split = 0.25\nbest = "val_loss"\n'
        'early_stopping = { monitor = "val_accuracy", min_delta = 1.0, patience = 1, restore_best_weights = true }\n'
        '[train.checkpoint]\nfilepath = "weights-{epoch:02d}.safetensors"\nsave_weights_only = true\nasynchronous = true\n'
    )
    path.write_text(LINEAR.replace("epochs = 2", "epochs = 9\n" + settings))
    assert main(["train", str(path), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1,077 samples to train, 360 to validate, 360 to test" in text and "val_accuracy" in text
    assert json.loads((out / runs.RESULT).read_text())["epochs"] == 2, "no epoch was better by 1"
    weights = [dc.load(out / f"weights-0{epoch}.safetensors") for epoch in (1, 2)]
    best = dc.load(out / runs.MODEL)
    assert (best["1.weight"] == weights[0]["1.weight"]).all() and (best["1.weight"] != weights[1]["1.weight"]).any()
    assert (out / "best.safetensors").exists()
    assert main(["train", str(out / runs.CONFIG), "--out", str(again), "--quiet"]) == 0
    assert (again / runs.HISTORY).read_text() == (out / runs.HISTORY).read_text()


def test_options_override_the_file(linear, tmp_path, capsys, backend):
    out = tmp_path / "run"
    assert main(["train", linear, "--epochs", "1", "--seed", "9", "--backend", backend, "--out", str(out)]) == 0
    result = json.loads((out / runs.RESULT).read_text())
    assert (result["epochs"], result["seed"]) == (1, 9)
    assert result["backend"].partition(":")[0] == backend
    assert "epochs = 1" in (out / runs.CONFIG).read_text()
    assert main(["predict", str(out), str(digits_file(tmp_path)), "--device", backend]) == 0


def test_a_profile_is_written_beside_the_run(linear, tmp_path, capsys):
    trace = tmp_path / "trace.json"
    options = ["--epochs", "1", "--quiet", "--overwrite", "--out", str(tmp_path / "run")]
    assert main(["train", linear, *options, "--profile", str(trace)]) == 0
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 10
    assert f"profile of 10 steps in {trace}" in capsys.readouterr().out
    assert main(["train", linear, *options, "--profile", str(tmp_path / "none" / "trace.json")]) == 2
    assert "--profile" in capsys.readouterr().err


def test_a_run_is_not_overwritten_unasked(linear, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", linear, "--quiet", "--out", out]) == 0
    assert main(["train", linear, "--quiet", "--out", out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["train", linear, "--quiet", "--out", out, "--overwrite"]) == 0


def test_runs_of_one_second_get_their_own_folders(linear, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    for _ in range(2):
        assert main(["train", linear, "--quiet", "--epochs", "1"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["linear-now", "linear-now-2"]


@pytest.mark.parametrize(
    "signum, status",
    [(getattr(signal, name), status) for name, status in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129))
     if hasattr(signal, name)],
)  # fmt: skip
def test_a_signal_saves_and_resume_gives_the_same_bits(signum, status, linear, tmp_path, capsys, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", linear, "--out", str(whole)]) == 0
    batches, plain = [], feed.Inputs.split

    def split(inputs, *batch):
        batches.append(1)
        if len(batches) == 60:  # in the second epoch of 45 batches
            signal.raise_signal(signum)
        return plain(inputs, *batch)

    monkeypatch.setattr(feed.Inputs, "split", split)
    assert main(["train", linear, "--out", str(cut)]) == status
    monkeypatch.undo()
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    assert f"--resume {cut}" in capsys.readouterr().out
    assert json.loads((cut / runs.RESULT).read_text())["interrupted"]
    assert main(["predict", str(cut), str(digits_file(tmp_path))]) == 0
    assert (cut / runs.MODEL).read_bytes() != (whole / runs.MODEL).read_bytes()
    assert main(["train", "--resume", str(cut)]) == 0
    assert (cut / runs.MODEL).read_bytes() == (whole / runs.MODEL).read_bytes()
    assert (cut / runs.HISTORY).read_text() == (whole / runs.HISTORY).read_text()


def test_ctrl_c_before_the_first_epoch_ends(linear, tmp_path, capsys, monkeypatch):
    """There are no curves to draw."""
    plain = feed.Inputs.split
    monkeypatch.setattr(feed.Inputs, "split", lambda *args: (signal.raise_signal(signal.SIGINT), plain(*args))[1])
    assert main(["train", linear, "--out", str(tmp_path / "run")]) == 130
    assert "in epoch 1 after batch 1 of 45" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["while the data is read", "after training"])
def test_a_signal_outside_the_steps(moment, linear, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"

    def end(*args):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("deepcore.cli.train." + ("load_data" if "data" in moment else "_test"), end)
    assert main(["train", linear, "--epochs", "1", "--out", str(run)]) == 143
    assert "terminated" in capsys.readouterr().err
    assert (run / runs.MODEL).exists() == ("after" in moment)


def test_a_run_without_a_checkpoint_yet_is_begun_again(linear, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", linear, "--out", str(whole)]) == 0
    cut.mkdir()
    assert main(["train", "--resume", str(cut)]) == 2
    assert "begun again, without --resume" in capsys.readouterr().err
    for name in (runs.CONFIG, runs.INPUTS):
        (cut / name).write_bytes((whole / name).read_bytes())
    assert main(["train", "--resume", str(cut)]) == 0
    assert "starting from the beginning" in capsys.readouterr().out
    assert (cut / runs.MODEL).read_bytes() == (whole / runs.MODEL).read_bytes()


def test_a_stopped_run_is_not_replaced_unasked_nor_mixed_with_a_new_one(linear, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", linear, "--out", str(run)]) == 0
    assert "resumed" not in capsys.readouterr().out
    (run / runs.MODEL).unlink()
    old = [runs.CHECKPOINT, "checkpoint-0007.safetensors", runs.BEST, runs.RESULT]
    for name in old:
        (run / name).write_bytes(b"old")
    assert main(["train", linear, "--out", str(run)]) == 2
    assert f"--resume {run}" in capsys.readouterr().err and (run / runs.CHECKPOINT).read_bytes() == b"old"
    assert main(["train", linear, "--out", str(run), "--overwrite", "--quiet"]) == 0
    assert not [name for name in old if (run / name).exists() and (run / name).read_bytes() == b"old"]


def test_a_closed_pipe_stops_training_and_loses_nothing(tmp_path):
    """As in `deepcore train | head -1`."""
    argv = [sys.executable, "-m", "deepcore", "train", "--epochs", "500", "--out", "run"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "nobody reads the output" in said and "deepcore train --resume run" in said
    saved = dc.io.read_checkpoint(tmp_path / "run" / runs.CHECKPOINT)["extra"]
    assert len(saved["history"]["epochs"]) == saved["progress"]["epoch"] >= 1


def test_checkpoints_of_a_file(linear, tmp_path, capsys):
    path = tmp_path / "often.toml"
    path.write_text(Path(linear).read_text() + 'save_every = 0\nkeep = 1\nbest = "accuracy"\n')
    run = tmp_path / "run"
    assert main(["train", str(path), "--out", str(run)]) == 0
    assert {"checkpoint-0002.safetensors", runs.BEST, runs.CHECKPOINT} <= {p.name for p in run.iterdir()}
    assert not (run / "checkpoint-0001.safetensors").exists()
    assert (
        'best = "accuracy"' in (run / runs.CONFIG).read_text() and "save_every = 0" in (run / runs.CONFIG).read_text()
    )
    path.write_text(path.read_text().replace("save_every = 0", "save_every = -1"))
    assert main(["train", str(path)]) == 2 and "train.save_every" in capsys.readouterr().err


KILLED = LINEAR.replace("epochs = 2", "epochs = 120\nsave_every = 0.3").replace(
    '[[layers]]\ntype = "Linear"',
    '[[layers]]\ntype = "Linear"\nout_features = 32\n\n[[layers]]\ntype = "BatchNorm1d"\n\n[[layers]]\n'
    'type = "Dropout"\n\n[[layers]]\ntype = "Linear"',
) + '\n[schedule]\ntype = "StepLR"\nstep_size = 7\n'  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_runs_resume_to_the_same_bits(tmp_path):
    """Killed at random times, a quarter by SIGTERM: each is resumed, loses an epoch or 0.3 s, and ends with the same bits.

    DEEPCORE_TEST_KILLS says how many kills (default 6). A run is killed up to three times, then left to end.
    """
    kills, rng = int(os.environ.get("DEEPCORE_TEST_KILLS", "6")), random.Random(7)
    (tmp_path / "net.toml").write_text(KILLED)
    train = [sys.executable, "-m", "deepcore", "train"]
    options = {"cwd": tmp_path, "stderr": subprocess.STDOUT, "text": True}
    begun = time.monotonic()
    subprocess.run([*train, "net.toml", "--out", "whole"], check=True, stdout=subprocess.DEVNULL, **options)
    seconds = time.monotonic() - begun
    done = 0
    while done < kills:
        name, log = f"run{done}", tmp_path / f"run{done}.txt"
        folder = tmp_path / name
        for attempt in range(4):
            # Before its experiment is written there is nothing to resume: the same command begins it.
            resumable = (folder / runs.CONFIG).exists()
            argv = [*train, "--resume", name] if resumable else [*train, "net.toml", "--out", name]
            with open(log, "w") as out, subprocess.Popen(argv, stdout=out, **options) as process:
                if attempt == 3 or done == kills:
                    status = process.wait()
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, seconds * 0.8))
                    break  # it had ended
                how = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
                process.send_signal(how)
                killed = time.time()
                status = process.wait()
            said = log.read_text()
            assert status == (-how if how == signal.SIGKILL else 143) or status == -how, said
            done += 1
            finished = [int(n) for n in re.findall(r"^epoch +(\d+)/120", said, re.MULTILINE)]
            if (folder / runs.CHECKPOINT).exists():
                at = dc.io.read_checkpoint(folder / runs.CHECKPOINT)["extra"]["progress"]["epoch"]
                lost = max(finished, default=0) - at
                assert lost <= 1 or killed - (folder / runs.CHECKPOINT).stat().st_mtime < 5, said
            else:
                assert len(finished) <= 3, said
        said = log.read_text()
        assert process.returncode == 0, said
        for file in (runs.MODEL, runs.HISTORY):
            assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), said
        assert not list(folder.glob(".deepcore-*.tmp")), "leftovers of writers that were killed are swept"


def test_data_option(tmp_path, capsys):
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (80, 28, 28), np.uint8), np.arange(80, dtype=np.uint8) % 10
    dc.data.write_idx(images, folder / MNIST)
    dc.data.write_idx(labels, folder / MNIST.replace("images-idx3", "labels-idx1"))
    config = tmp_path / "m.toml"
    text = LINEAR.replace('"digits"', '"mnist"\ntrain = "test[:60]"\ntest = "test[60:]"\ndownload = false')
    config.write_text(text)
    out = tmp_path / "run"
    assert main(["train", str(config), "--data", str(tmp_path), "--out", str(out)]) == 0
    assert "60 samples to train, 20 to test" in capsys.readouterr().out
    assert main(["train", str(out / runs.CONFIG), "--quiet", "--out", str(tmp_path / "again")]) == 0
    assert main(["train", str(config), "--data", "digits", "--out", str(tmp_path / "digits")]) == 0
    assert "1,437 samples" in capsys.readouterr().out


def test_more_outputs_than_classes(linear, tmp_path, capsys):
    config = Path(linear).read_text().replace("out_features = 10", "out_features = 3").replace("lr = 0.1", "lr = 0")
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "1,2,x\n-3,1,y\n" * 20)
    (tmp_path / "c.toml").write_text(config.replace('"digits"', '"csv"\ntrain = "t.csv"'))
    for seed in range(8):  # an untrained network names the third class from some of them
        assert main(["train", str(tmp_path / "c.toml"), "--out", str(tmp_path / f"r{seed}"), "--seed", str(seed)]) == 0
    matrices = [json.loads((tmp_path / f"r{seed}" / runs.RESULT).read_text())["confusion_matrix"] for seed in range(8)]
    assert all(len(m) == 3 for m in matrices) and any(row[2] for m in matrices for row in m)
    assert re.search(r"true \| +x +y +2 \|", capsys.readouterr().out)


def test_regression(tmp_path, capsys):
    x = np.linspace(-1, 1, 200)
    np.savetxt(tmp_path / "line.csv", np.stack([x, 3 * x + 1], 1), delimiter=",")
    config = tmp_path / "line.toml"
    text = LINEAR.replace('type = "digits"', 'type = "csv"\ntrain = "line.csv"\nnormalize = "feature"')
    text = text.replace("CrossEntropyLoss", "MSELoss").replace("out_features = 10", "out_features = 1")
    config.write_text(text.replace("epochs = 2", "epochs = 30"))
    assert main(["train", str(config), "--quiet", "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "new.csv").write_text("0\n0.5\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")]) == 0
    assert [float(line) for line in capsys.readouterr().out.split()] == pytest.approx([1, 2.5], abs=0.02)


def test_predict_takes_the_file_that_was_trained_on_and_others(tmp_path, capsys):
    rows = [(f"a{i}", i % 50, "xy"[i % 2], "Rome" if i % 2 else "Oslo", f"{1 + i % 7 / 10:.1f}") for i in range(100)]
    lines = [",".join(map(str, row)) for row in rows]
    lines[3] = lines[3].replace(",3,", ",,")
    (tmp_path / "t.csv").write_text("id,age,kind,city,height\n" + "\n".join(lines), encoding="utf-8-sig")
    text = LINEAR.replace(
        'type = "digits"',
        'type = "csv"\ntrain = "t.csv"\ntarget = "kind"\nignore = ["id"]\ncategories = ["city"]\nmissing = "mean"'
        '\nnormalize = "feature"',
    )
    (tmp_path / "c.toml").write_text(text.replace("out_features = 10", "out_features = 2"), encoding="utf-8-sig")
    run = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "c.toml"), "--quiet", "--out", run]) == 0
    capsys.readouterr()

    def predicted(head, chosen, mark=",") -> list[str]:
        body = [mark.join(line.split(",")[i] for i in chosen) for line in lines]
        (tmp_path / "p.csv").write_text("\n".join(([head] if head else []) + body))
        status = main(["predict", run, str(tmp_path / "p.csv")])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out.splitlines()

    same = predicted("id,age,kind,city,height", range(5))
    assert [line.split()[0] for line in same] == [row[2] for row in rows]
    assert predicted("id,age,city,height", (0, 1, 3, 4)) == same
    assert predicted("height;city;age", (4, 3, 1), ";") == same
    assert predicted("", range(5)) == predicted("", (0, 1, 3, 4)) == predicted("", (1, 3, 4)) == same
    assert main(["train", f"{run}/config.toml", "--quiet", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / runs.INPUTS).read_text() == (tmp_path / "run" / runs.INPUTS).read_text()
    capsys.readouterr()
    for content, says in (
        ("age,city\n1,Rome", "lacks 1 of the 3 columns"),
        ("1,Rome", "another number of columns"),
        ("age,city,height\n1,Bonn,1", "'Bonn' in line 2, column 2 ('city')"),
        ("age,city,height\n1,Rome,tall", "'tall' in line 2, column 3 ('height')"),
    ):
        (tmp_path / "p.csv").write_text(content)
        assert main(["predict", run, str(tmp_path / "p.csv")]) == 2
        assert says in capsys.readouterr().err


# -- predict ------------------------------------------------------------------------------------------------
def digits_file(folder: Path, count: int = 5) -> Path:
    images = dc.data.digits("test", flatten=True).tensors[0].numpy()[:count]
    np.savetxt(folder / "digits.csv", images * 16, fmt="%d", delimiter=",")
    return folder / "digits.csv"


def test_predict_gives_what_training_measured(digits_run, tmp_path, capsys):
    run, said = digits_run
    assert main(["predict", str(run), str(digits_file(tmp_path, 360))]) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = dc.data.digits("test").tensors[1].tolist()
    right = sum(line.split()[0] == str(label) for line, label in zip(lines, labels, strict=True))
    assert right / 360 == pytest.approx(accuracy_in(said), abs=1e-4)
    assert all(0.1 <= float(line.split()[1]) <= 1 for line in lines)


def write_as(form: str, folder: Path, images: np.ndarray) -> Path:
    """Images (N, 8, 8) in [0, 1] as a file of some form."""
    path = folder / f"x.{form.partition(' ')[0]}"
    sixteen = np.rint(images * 16).astype(np.uint8)
    if form == "csv of 0 to 16":
        np.savetxt(path, sixteen.reshape(len(images), -1), fmt="%d", delimiter=",")
    elif form == "csv of fractions":
        np.savetxt(path, images.reshape(len(images), -1), fmt="%.6f", delimiter=",")
    elif form == "npy of fractions":
        np.save(path, images)
    elif form == "npy of 0 to 16":
        np.save(path, sixteen)
    elif form == "npy of 0 to 255":
        np.save(path, np.rint(images * 255).astype(np.uint8))
    elif form == "idx of 0 to 16":
        dc.data.write_idx(sixteen, path)
    else:  # dark ink on light paper, large, in colour
        image = pytest.importorskip("PIL.Image")
        grey = image.fromarray(np.rint(255 - 255 * images[0]).astype(np.uint8))
        grey.resize((240, 240), image.Resampling.BICUBIC).convert("RGB").save(path)
    return path


FORMS = (
    "csv of 0 to 16",
    "csv of fractions",
    "npy of fractions",
    "npy of 0 to 16",
    "npy of 0 to 255",
    "idx of 0 to 16",
    "png",
    "jpg",
)


@pytest.mark.parametrize("form", FORMS)
def test_predict_reads(form, digits_run, tmp_path, capsys):
    run, _ = digits_run
    images, labels = (t.numpy() for t in dc.data.digits("test").tensors)
    chosen = [int(np.flatnonzero(labels == c)[1]) for c in (3, 0, 6, 4)]
    path = write_as(form, tmp_path, images[chosen][:, 0])
    assert main(["predict", str(run), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "0", "6", "4"][: len(lines)]
    assert len(lines) == (1 if form in ("png", "jpg") else 4)


def test_predict_top_and_json(digits_run, tmp_path, capsys):
    run, _ = digits_run
    path = str(digits_file(tmp_path, 2))
    assert main(["predict", str(run), path, "--top", "10", "--json"]) == 0
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        chances = [one["probability"] for one in line["top"]]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert chances == sorted(chances, reverse=True)
        assert line["class"] == line["top"][0]["class"]
    assert main(["predict", str(run), path, "--top", "2"]) == 0
    assert all(len(line.split()) == 4 for line in capsys.readouterr().out.splitlines())


def test_predict_needs_no_training_code(digits_run, tmp_path):
    run, _ = digits_run
    code = (
        "import sys; from deepcore.cli import main; status = main(sys.argv[1:]); "
        "print(status, sorted({'deepcore.train', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    argv = [sys.executable, "-c", code, "predict", str(run), str(digits_file(tmp_path, 1))]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_inputs_survive_their_file(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((20, 1, 4, 3), np.float32)
    for normalize in ("none", "all", "feature"):
        inputs = Inputs.fit(x, normalize, 255.0, ("a", "b"), "logits")
        inputs.save(tmp_path / "i.json")
        again = Inputs.load(tmp_path / "i.json")
        np.testing.assert_array_equal(again(x), inputs(x))
        assert again == inputs
    assert np.abs(inputs(x).mean(0)).max() < 1e-6
    np.testing.assert_allclose(inputs(x).std(0), 1, rtol=1e-4)
    flat = Inputs.fit(np.ones((5, 3), np.float32), "feature", None, None, "values")
    assert flat(np.ones((1, 3), np.float32)).tolist() == [[0, 0, 0]]  # a constant feature


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"shape": [64], "std": [1, 2]}', '{"shape": [64], "other": 1}', '{"shape": [Infinity]}',
        '{"shape": []}', '{"shape": [0]}', '{"shape": [1, 1000000, 1000000]}', '{"shape": [64], "std": 0}',
        '{"shape": [64], "mean": NaN}', '{"shape": [64], "mean": 1e400}', '{"shape": [64], "unit": 0}',
        '{"shape": [64], "background": []}', '{"shape": [64], "output": "code"}', "\udcff",
    ],
)  # fmt: skip
def test_damaged_inputs(content, tmp_path):
    (tmp_path / "i.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(dc.errors.FileFormatError):
        Inputs.load(tmp_path / "i.json")


# -- summary, info, version -------------------------------------------------------------------------------------
def test_summary(digits_run, linear, capsys):
    for argv in ([], [str(digits_run[0])], [str(EXAMPLES / "digits.toml")]):
        assert main(["summary", *argv]) == 0
        assert "51,594 parameters" in capsys.readouterr().out
    assert main(["summary", linear]) == 0
    assert "650 parameters" in capsys.readouterr().out


def test_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for word in (
        "deepcore",
        "numpy",
        "backend cpu (default)",
        "backend cuda",
        "features",
        "threads",
        "blas",
        "core type",
    ):
        assert word in said
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["deepcore"] == dc.__version__
    cuda = facts["backend cuda"]["usable"]
    assert cuda == "yes" or len(cuda) > len("no: ")


def test_version_as_a_module():
    done = subprocess.run([sys.executable, "-m", "deepcore", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"deepcore {dc.__version__}")


def test_help(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in cli.COMMANDS)
    for command in cli.COMMANDS:
        assert main([command, "--help"]) == 0
        assert command in capsys.readouterr().out


# -- errors -----------------------------------------------------------------------------------------------------
ERRORS = {
    "command": (["trian"], "did you mean 'train'?"),
    "option without a command": (["--versio"], "did you mean '--version'?"),
    "option": (["train", "--epoch", "3"], "did you mean '--epochs'?"),
    "option's value": (["train", "--epochs", "three"], "invalid int value"),
    "option of another command": (["info", "--seed", "3"], "no option '--seed'"),
    "range": (["train", "--epochs", "0"], "at least 1"),
    "no such file": (["train", "nowhere.toml"], "there is no file"),
    "data": (["train", "--data", "mnst"], "did you mean 'mnist'?"),
    "data without arguments": (["train", "--data", "csv"], "into an experiment file"),
    "digits have no folder": (["train", "--data", "."], "come with the package"),
    "backend": (["train", "--backend", "cdua"], "did you mean 'cuda'?"),
    "no run": (["predict", "nowhere", "x.csv"], "there is no run"),
    "not a run": (["predict", ".", "x.csv"], "is not a finished run"),
    "nothing to resume": (["train", "--resume", "."], "nothing to resume"),
    "resume is complete": (["train", "--resume", ".", "--seed", "1"], "without seed"),
    "summary": (["summary", "nowhere"], "there is no file"),
}


@pytest.mark.parametrize("argv, says", ERRORS.values(), ids=ERRORS)
def test_errors_are_messages_and_status_2(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.startswith(f"deepcore {argv[0]}: " if argv[0] in cli.COMMANDS else "deepcore: ")
    assert "Traceback" not in err + out
    assert list(tmp_path.iterdir()) == []


def test_predict_errors(digits_run, tmp_path, capsys):
    run = str(digits_run[0])
    (tmp_path / "few.csv").write_text("1,2,3\n")
    (tmp_path / "large.csv").write_text(",".join(["300"] * 64))
    (tmp_path / "nan.csv").write_text(",".join(["nan"] * 64))
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04" + bytes(60))
    for name, says in (
        ("few.csv", "64 values"),
        ("large.csv", "no pixels"),
        ("nan.csv", "missing value"),
        ("model.pth", "no samples"),
        ("none.csv", "there is no file"),
    ):
        assert main(["predict", run, str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err
    assert main(["predict", run, str(tmp_path / "few.csv"), "--top", "0"]) == 2


def test_errors_in_a_file_name_it(linear, tmp_path, capsys):
    Path(linear).write_text(LINEAR.replace('"Linear"', '"Liner"'))
    assert main(["train", linear]) == 2
    err = capsys.readouterr().err
    assert f"{linear}: layers[1].type\n" in err
    assert "did you mean 'Linear'?" in err


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite(linear, tmp_path, capsys):
    Path(linear).write_text(LINEAR.replace("lr = 0.1", "lr = 1e38"))
    assert main(["train", linear, "--quiet", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "a lower learning rate" in err
    assert "epoch 1, batch" in err


def test_device_is_another_word_for_backend(linear, capsys):
    Path(linear).write_text(LINEAR + 'device = "gpu"\n')
    assert main(["train", linear]) == 2
    assert f"{linear}: train.backend" in capsys.readouterr().err
    Path(linear).write_text(LINEAR + 'device = "cpu"\nbackend = "cpu"\n')
    assert main(["train", linear]) == 2
    assert "mean the same thing" in capsys.readouterr().err


def test_a_backend_in_a_file_that_does_not_exist(linear, capsys):
    Path(linear).write_text(LINEAR + 'backend = "gpu"\n')
    assert main(["train", linear]) == 2
    assert f"{linear}: train.backend" in capsys.readouterr().err


def test_digits_as_numbers(linear, tmp_path, capsys):
    """A loss on values makes the class numbers values, and there is nothing to confuse."""
    text = LINEAR.replace("CrossEntropyLoss", "MSELoss").replace("out_features = 10", "out_features = 1")
    Path(linear).write_text(text.replace("lr = 0.1", "lr = 0.001"))
    assert main(["train", linear, "--quiet", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "mean absolute error" in said
    assert "predicted" not in said
    assert main(["predict", str(tmp_path / "run"), str(digits_file(tmp_path)), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[0])["values"]) == 1


def test_traceback_on_demand(tmp_path):
    with pytest.raises(dc.errors.ConfigError):
        main(["train", str(tmp_path / "nowhere.toml"), "--traceback"])


def test_an_interrupt_outside_training(monkeypatch, capsys):
    def collect():
        raise KeyboardInterrupt

    monkeypatch.setattr("deepcore.cli.info.collect", collect)
    assert main(["info"]) == 130


def test_a_closed_pipe_ends_a_command_as_sigpipe_would():
    """As in `deepcore info | head`, when head has gone: without a word, and with a shell's status for SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "deepcore", "info"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
