"""The first textbook cases, with their numbers; what is tested is the code of examples/."""

from __future__ import annotations

import importlib.util
import io
import os
import runpy
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.errors import DataError, DeepcoreError, FileFormatError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str):
    """An example as a module, afresh."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(backend):
    """Load an example afresh, on the backend; everything in the test then runs there."""
    with dc.use_backend(backend):
        yield load


def test_perceptron_computes_nand_and_nands_add(example):
    adder = example("perceptron_adder")
    a, b = dc.tensor([0.0, 0.0, 1.0, 1.0]), dc.tensor([0.0, 1.0, 0.0, 1.0])
    assert adder.nand(a, b).tolist() == [1, 1, 1, 0]
    eight = [dc.tensor([(n >> i) & 1 for n in range(8)]).float() for i in range(3)]
    total, carry = adder.add_bits(*eight)
    assert (total + 2 * carry).tolist() == [bin(n).count("1") for n in range(8)]
    x, y = dc.arange(256).reshape(256, 1).expand(256, 256), dc.arange(256).expand(256, 256)
    assert (adder.add(x, y) == x + y).all().item()


def test_one_neuron(example):
    neuron = example("one_neuron")
    assert neuron.preactivation(neuron.W, neuron.B).item() == pytest.approx(-0.29, abs=1e-12)
    assert neuron.output(neuron.W, neuron.B).item() == pytest.approx(0.4280, abs=5e-5)
    assert neuron.error(neuron.W, neuron.B).item() == pytest.approx(0.13838, abs=5e-6)
    assert neuron.train(neuron.true_gradient) == pytest.approx(0.4829, abs=5e-5)
    assert neuron.train(neuron.shortcut) == pytest.approx(0.6045, abs=5e-5)


def test_the_shortcut_is_the_cross_entropy_gradient(example):
    """What the example says of the shortcut: the true one passes a gradient check, the other is of another loss."""
    neuron = example("one_neuron")

    def cross_entropy(w, b):
        a, y = neuron.output(w, b), neuron.TARGET
        return -2 * (y * dc.log(a) + (1 - y) * dc.log(1 - a))

    step = 1e-6
    measured = (neuron.error(neuron.W, neuron.B + step) - neuron.error(neuron.W, neuron.B - step)) / (2 * step)
    assert neuron.true_gradient(neuron.W, neuron.B)[1].item() == pytest.approx(measured.item(), rel=1e-7)
    for shortcut, exact in zip(neuron.shortcut(neuron.W, neuron.B), dc.grad(cross_entropy, (0, 1))(neuron.W, neuron.B)):
        np.testing.assert_allclose(shortcut.numpy(), exact.numpy(), rtol=1e-12)


def test_one_weight(example):
    one = example("one_weight")
    weights, losses, gradients = one.descend(one.product_loss, 5.0, lr=0.1, steps=30)
    assert (gradients[0], losses[0]) == (8.0, 8.0)
    assert (weights[1], losses[1]) == (pytest.approx(4.2), pytest.approx(2.88))
    np.testing.assert_allclose(weights, 3 + 2 * 0.6 ** np.arange(31), rtol=1e-12)


def test_parabola(example):
    one = example("one_weight")
    weights, losses, _ = one.descend(one.parabola, 5.0, lr=0.01, steps=40)
    np.testing.assert_allclose(weights, 1 + 4 * 0.98 ** np.arange(41), rtol=1e-12)
    assert weights[40] == pytest.approx(2.782802, abs=5e-7)
    assert losses[39] == pytest.approx(3.309435, abs=5e-7)


def test_backpropagation_by_hand_equals_autodiff(example):
    xor = example("xor")
    x, y = dc.tensor(xor.INPUTS, dtype=dc.float64), dc.tensor(xor.TARGETS, dtype=dc.float64)
    layers = [(w.double(), b.double()) for w, b in xor.uniform_weights([2, 4, 4, 1], seed=3)]
    by_hand = xor.backward_by_hand(layers, xor.forward(layers, x), y)
    for hand, auto in zip(by_hand, xor.backward_by_autodiff(layers, x, y), strict=True):
        for one, other in zip(hand, auto, strict=True):
            assert abs(one.numpy()).max() > 1e-6
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12, atol=1e-15)


def test_seeds_trained_together_do_not_see_each_other(example):
    xor = example("xor")
    together = xor.train_tutorial(xor.uniform_weights, [2, 2, 1], 20, seeds=[4, 5])
    alone = xor.train_tutorial(xor.uniform_weights, [2, 2, 1], 20, seeds=[5])
    np.testing.assert_allclose(together[1].numpy(), alone[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "weights, sizes, epochs",
    [
        ("uniform_weights", [2, 2, 1], 1_000),
        pytest.param("small_normal_weights", [2, 4, 4, 1], 10_000, marks=pytest.mark.slow),
    ],
)
def test_tutorial_programs_do_not_solve_xor(example, weights, sizes, epochs):
    xor = example("xor")
    outputs = xor.train_tutorial(getattr(xor, weights), sizes, epochs)
    assert len(outputs) == 20
    assert sum(xor.solved(one) for one in outputs) == 0


def test_recipe_solves_xor_and_a_linear_model_cannot(example, backend):
    xor = example("xor")
    seeds = range(2 if backend == "standin" else 20)  # the stand-in checks every call, at its price
    assert sum(xor.solved(xor.train_recipe(seed)) for seed in seeds) >= 0.95 * len(seeds)
    assert not any(xor.solved(xor.train_linear(seed)) for seed in seeds)
    np.testing.assert_allclose(xor.train_linear(0, epochs=300).numpy(), 0.5, atol=0.01)


def test_softmax_and_sizes(example):
    sizes = example("softmax_and_sizes")
    assert [f"{p:.4f}" for p in sizes.probabilities().tolist()] == ["0.6590", "0.2424", "0.0986"]
    assert [sizes.count(sizes.network(hidden)) for hidden in (64, 128)] == [50_890, 101_770]


def test_gradients_of_a_numpy_function(example, backend):
    """On the backend's own arrays: nothing in the function names the array library of the argument."""
    rosenbrock = example("numpy_gradients").rosenbrock
    x = dc.tensor([1.3, 0.7, 0.8, 1.9, 1.2], dtype=dc.float64).array
    gradient = dc.grad(rosenbrock)(x)
    assert type(gradient) is type(x)
    host = dc.get_backend(backend).to_host(gradient)
    np.testing.assert_allclose(host, [515.4, -285.4, -341.6, 2085.4, -482.0], rtol=1e-12)


def test_one_script_for_both_backends(backend, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["both_backends.py", backend])
    script, least = (EXAMPLES / "both_backends.py").read_text(), 0.96
    assert "range(20)" in script
    if backend == "standin":  # it checks every call, at its price
        script, least = script.replace("range(20)", "range(1)"), 0.80
    with dc.use_backend("cpu"):  # puts back the default that the script sets
        exec(compile(script, "both_backends.py", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith(f"backend {backend}")
    assert float(said.split()[2].rstrip("%")) / 100 >= least


def test_script_for_both_backends_is_twenty_lines():
    code = (EXAMPLES / "both_backends.py").read_text().split('"""')[2].splitlines()
    assert len([line for line in code if line.strip()]) <= 20


@pytest.mark.parametrize(
    "name", ["perceptron_adder", "one_neuron", "one_weight", "softmax_and_sizes", "numpy_gradients"]
)
def test_examples_run(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


# -- membranes.py and those after it: one program for two libraries ----------------------------------------------
LIBRARIES = ["deepcore", "torch"]


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("DEEPCORE_DATA", raising=False)


def run(name: str, library: str, *arguments):
    """What `main` of the example returns, with this library; PyTorch with one thread: its others wait for busy cores."""
    module = pytest.importorskip(library)
    threads = module.get_num_threads()
    try:
        if library == "torch":
            module.set_num_threads(1)
        return load(name).main(["--library", library, *map(str, arguments)])
    finally:
        module.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.skipif("DEEPCORE_DATA" not in os.environ, reason="DEEPCORE_DATA names no folder with the real data")
@pytest.mark.parametrize("library", LIBRARIES)
class TestOnRealData:
    def test_membranes(self, library, tmp_path, capsys):
        pytest.importorskip("PIL")
        pytest.importorskip("matplotlib")
        overlap, error = run("membranes", library, "--minutes", 0.02, "--batch", 2, "--picture", tmp_path / "a.png")
        assert 0 <= overlap <= 1
        assert 0.05 < error < 0.95
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert "intersection over union" in capsys.readouterr().out

    def test_cells(self, library, capsys):
        pytest.importorskip("PIL")
        accuracies = run("cifar", library, "--epochs", 1)
        assert accuracies[-1] > 0.85  # 805 of 945 are red
        assert "platelets" in capsys.readouterr().out

    def test_spoken_digits(self, library, capsys):
        alone, several = run("spoken_digits", library, "--minutes", 0.02)
        assert 0 <= several <= 1 and 0 <= alone <= 1
        assert "2,700 recordings to train on, 300 to test on" in capsys.readouterr().out

    @pytest.mark.parametrize("model", ["lstm", "gpt"])
    def test_shakespeare(self, library, model, capsys):
        loss = run("shakespeare", library, "--model", model, "--minutes", 0.02, "--batch", 8, "--length", 20)
        assert 1 < loss < 4.5  # 4.17 where all characters are equally likely
        out = capsys.readouterr().out
        assert "1,003,854 characters to train on, 111,540 to test on" in out
        assert len(out.split("20 characters in ")[1].split(":\n", 1)[1]) == 22  # the first line's end, and print's

    @pytest.mark.parametrize("model", ["lstm", "transformer"])
    def test_reviews(self, model, library, capsys):
        network, words = run("reviews", library, "--model", model, "--minutes", 0.02)
        assert 0.4 < network < 1
        assert words > 0.75
        assert "9,596 sentences to train on, 1,066 to test on" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_cifar_reads_cifar10(library, tmp_path, no_data, capsys):
    """Ten classes of one brightness each, in the published format, are learnt at once."""
    rng = np.random.default_rng(0)
    for file in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = rng.permutation(np.arange(50, dtype=np.uint8) % 10)
        pixels = np.repeat(25 * labels[:, None], 3072, 1) + rng.integers(0, 10, (50, 3072), dtype=np.uint8)
        (tmp_path / file).write_bytes(np.hstack([labels[:, None], pixels]).tobytes())
    accuracies = run("cifar", library, "--cifar", tmp_path, "--epochs", 3, "--batch", 10)
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.2
    out = capsys.readouterr().out
    assert "250 images to train, 50 to validate; 167,562 parameters" in out
    assert "airplane" in out and "truck" in out


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_series_is_forecast(library, tmp_path, capsys):
    """A wave with noise is forecast better than by its last value, or that of a season ago."""
    times = np.arange(240)
    noise = 0.3 * np.random.default_rng(0).standard_normal(240)
    np.savetxt(tmp_path / "wave.csv", np.sin(2 * np.pi * times / 12) + noise, header="value", comments="")
    picture = tmp_path / "wave.png"
    argv = ["--csv", tmp_path / "wave.csv", "--season", 12, "--picture", picture]
    errors = run("sunspots", library, *argv)
    assert errors["LSTM"] < errors["value of a season ago"] < errors["last value"]
    assert "180 values to train on, 60 to test on, windows of 24" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sunspots_begin_in_1700():
    pytest.importorskip("statsmodels")
    years, numbers = load("sunspots").sunspots()
    assert (years[0], years[-1], len(numbers)) == (1700, 2008, 309)
    assert numbers.max() == 190.2


@pytest.mark.slow
def test_a_table_in_scikit_learn(capsys):
    pytest.importorskip("sklearn", "1.6")
    pytest.importorskip("pandas")
    accuracies = load("tables_sklearn").main([])
    assert accuracies["DeepcoreClassifier"] > 0.8
    assert accuracies["DeepcoreClassifier"] > accuracies["logistic regression"] - 0.03
    out = capsys.readouterr().out
    assert "1,309 passengers, 38.2% of whom survived; missing: age 263, fare 1, embarked 2" in out
    assert "393 test passengers" in out


def test_windows_of_a_series():
    x, y = load("sunspots").windows(np.arange(6.0), 3)
    assert x[:, :, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]] and y.tolist() == [[3], [4], [5]]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("v\n" + "1\n" * 20, ["--season", 8], "too few for seasons of 8"),
        ("v\n1\nnan\n", [], "missing value|not finite"),
        ("v\n1\n", ["--season", 0], "--season is at least 1"),
    ],
    ids=["short", "missing", "season"],
)
def test_series_that_are_refused(content, options, said, tmp_path):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DeepcoreError, match=said):
        load("sunspots").main(["--csv", str(tmp_path / "a.csv"), *map(str, options)])


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_both_libraries_classify_alike(kind):
    torch = pytest.importorskip("torch")
    script = load("reviews")
    ours, theirs = (script.network(library, kind, 9).eval() for library in (dc, torch))
    ours.load_state_dict({key: dc.from_numpy(value.numpy()) for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).integers(1, 9, (5, script.LENGTH))
    x[1, 7:] = x[4, 30:] = script.PADDING
    shorter = x.copy()
    shorter[0, 20:] = script.PADDING
    with dc.no_grad(), torch.no_grad():
        out = ours(dc.from_numpy(x)).numpy()
        np.testing.assert_allclose(out, theirs(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)
        again = ours(dc.from_numpy(shorter)).numpy()
    np.testing.assert_allclose(again[1:], out[1:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(again[0], out[0], rtol=1e-3)


def test_sentences_are_numbered_and_split():
    script = load("reviews")
    sentences = [["a", "b", "a"], ["b", "c"] + ["a"] * 50, []]
    number = script.vocabulary(sentences)
    assert number == {"a": 2, "b": 3}
    x = script.numbered(sentences, number)
    assert x.shape == (3, 40) and x[0, :4].tolist() == [2, 3, 2, 0] and x[1, :3].tolist() == [3, 1, 2]
    assert [sorted(row[row > 0]) for row in script.sets_of_words(x)] == [[2, 3], [1, 2, 3], []]
    labels = np.arange(200) % 2
    training, testing = script.split(labels)
    assert sorted([*training, *testing]) == list(range(200))
    assert labels[testing].sum() == 10 and len(testing) == 20
    assert script.split(labels)[1].tolist() == testing.tolist()


@pytest.mark.parametrize(
    ("name", "shape"), [("membranes", (1, 1, 128, 128)), ("cifar", (2, 3, 32, 32)), ("spoken_digits", (2, 40, 192))]
)
def test_both_libraries_compute_the_same_network(name, shape):
    torch = pytest.importorskip("torch")
    script = load(name)
    make = {"membranes": "unet", "cifar": "network", "spoken_digits": "network"}[name]
    more = (10,) if name == "cifar" else ()
    ours, theirs = (getattr(script, make)(library, *more).eval() for library in (dc, torch))
    ours.load_state_dict({key: dc.from_numpy(value.numpy()) for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with dc.no_grad(), torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ours(dc.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["membranes", "cifar", "spoken_digits", "shakespeare", "reviews"])
def test_missing_data_is_said(name, monkeypatch, tmp_path, no_data):
    with pytest.raises(DataError, match="export DEEPCORE_DATA="):
        load(name).main([])
    if name in ("membranes", "cifar"):
        pytest.importorskip("PIL")
    monkeypatch.setenv("DEEPCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)there is no .*set DEEPCORE_DATA to a folder with"):
        load(name).main([])


BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def test_boxes_are_cut_to_the_photograph_and_empty_ones_left_out(tmp_path):
    file = tmp_path / "a.xml"
    boxes = BOX.format("RBC", -5, 1, 20, 90), BOX.format("WBC", 3, 3, 3, 3), BOX.format("Platelets", 1, 2, 3, 4)
    file.write_text(f"<annotation>{''.join(boxes)}</annotation>")
    assert load("cifar").read_boxes(file, (10, 50)) == [("RBC", (0, 1, 10, 50)), ("Platelets", (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>', "document type"),
        ("<a>" + " " * (1 << 18), "bytes"),
        ("<a>" + BOX.format("RBC", 1, 2, 3, 4) * 1001 + "</a>", "1,000 boxes"),
        ("<a>" + BOX.format("frog", 1, 2, 3, 4) + "</a>", "'frog'"),
        ("<a>" + BOX.format("RBC", "x", 2, 3, 4) + "</a>", "'x'"),
        ("<a>", "no element found"),
    ],
    ids=["doctype", "long", "many", "unknown", "text", "truncated"],
)
def test_annotations_that_are_refused(text, said, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(FileFormatError, match=said):
        load("cifar").read_boxes(tmp_path / "a.xml", (10, 10))


def recording(samples, channels=1, width=2, rate=8000) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, f"<i{width}").tobytes())
    return content.getvalue()


def test_recordings_and_their_features(tmp_path):
    script = load("spoken_digits")
    tone = np.round(20000 * np.sin(2 * np.pi * 1000 / 8000 * np.arange(4000)))
    np.testing.assert_array_equal(script.read_wav(recording(tone), "a.wav"), (tone / 32768).astype(np.float32))
    filters = script.mel_filters()
    assert filters.shape == (40, 129) and (filters >= 0).all() and (filters.max(1) > 0).all()
    centres = filters.argmax(1) * 4000 / 128
    noisy = tone / 32768 + 1e-3 * np.random.default_rng(0).standard_normal(4000)
    silence = 1e-3 * np.random.default_rng(1).standard_normal(4000)
    features = script.log_mel(np.concatenate([silence, noisy]))
    assert features.shape == (98, 40) and features.dtype == np.float32
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)
    louder = features[60:].mean(0) - features[:40].mean(0)
    assert abs(centres[louder.argmax()] - 1000) < 100
    assert script.log_mel(np.zeros(10, np.float32)).shape == (1, 40)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("3_jackson_4", "7_theo_5", "about"):
            archive.writestr(f"recordings/{name}.wav", recording(tone))
    training, testing = script.read_recordings(tmp_path / "a.zip")
    assert [digit for _, digit in training] == [7] and [digit for _, digit in testing] == [3]
    row, digits = script.in_a_row([*training, *testing] * 2 + training)
    assert digits == [7, 3, 7, 3] and len(row) == 4 * len(training[0][0])
    x, labels, frames, count = script.batch_of([(row, digits), (*testing[0][:1], [3])])
    assert x.shape == (2, 40, 192) and labels.tolist() == [[7, 3, 7, 3, 0], [3, 0, 0, 0, 0]]
    assert count.tolist() == [4, 1] and frames.tolist() == [48, 12]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"RIFF", "'0_jackson_7.wav' is not a WAV file"),
        (recording([0, 0], channels=2), "1 channel, 8000 Hz"),
        (recording([0], rate=16000), "received: +1, 16000"),
    ],
    ids=["truncated", "stereo", "another rate"],
)
def test_recordings_that_are_refused(content, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0_jackson_7.wav", content)
    script = load("spoken_digits")
    with pytest.raises(FileFormatError, match=said):
        script.read_recordings(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(b"PK")
    with pytest.raises(FileFormatError, match="is not an archive"):
        script.read_recordings(tmp_path / "b.zip")


@pytest.mark.parametrize("name", ["lstm", "gpt"])
def test_both_libraries_write_the_same_text(name):
    """Equal scores and equal characters, with deepcore's cache of keys and values and without."""
    torch = pytest.importorskip("torch")
    script = load("shakespeare")
    torch.manual_seed(0)
    ours, theirs = (getattr(script, name)(library, 11).eval() for library in (dc, torch))
    ours.load_state_dict({key: dc.from_numpy(value.numpy()) for key, value in theirs.state_dict().items()})
    tokens = np.random.default_rng(0).integers(0, 11, (2, script.CONTEXT))
    with dc.no_grad(), torch.no_grad():
        expected = theirs(torch.from_numpy(tokens))[0].numpy()
        np.testing.assert_allclose(ours(dc.from_numpy(tokens))[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    text = script.write(dc, ours, 3, 12)
    assert len(text) == 13 and text == script.write(torch, theirs, 3, 12)


def test_an_activation_of_ones_own_trains_and_has_its_gradient():
    script = load("custom_kernel")
    x, a = dc.randn(5, dtype=dc.float64), dc.rand(5, dtype=dc.float64) + 0.5
    assert dc.autograd.gradcheck(script.snake, (x.requires_grad_(), a.requires_grad_()))
    np.testing.assert_allclose(script.snake(x, 2.0).detach().numpy(), (x + dc.sin(2 * x) ** 2 / 2).detach().numpy())
    first, _ = script.errors(script.Snake, steps=2)
    last, _ = script.errors(script.Snake, steps=60)
    assert last < first


def test_full_caches_start_with_the_second_half_of_their_text():
    script = load("shakespeare")
    script.CONTEXT = 8
    dc.manual_seed(0)
    model, text = script.gpt(dc, 5).eval(), [0]
    with dc.no_grad():
        for i, scores in enumerate(script.expected_next(dc, model, text, 18)):
            read = text[0 if i < 8 else 5 + (i - 8) // 5 * 5 :]  # 1 to 8 characters, then 4 to 8
            np.testing.assert_allclose(scores, model(dc.tensor([read]))[0][0, -1].numpy(), 1e-4, 1e-5)
            text.append(i % 5)


def test_every_character_is_tested_once():
    script = load("shakespeare")
    tokens = np.arange(1000)
    x, y = script.all_windows(tokens, 3)
    assert x.shape == y.shape == (3, 3, 128)
    assert y[y >= 0].tolist() == list(range(1, 1000))
    assert (x[y >= 0] == y[y >= 0] - 1).all()


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"\xff" * 3000, FileFormatError, "not a text in UTF-8"),
        (b"too short", FileFormatError, "another size"),
        (b"\n".join([b"word"] * 1000), None, ""),
    ],
)
def test_texts(content, error, said, tmp_path):
    path, script = tmp_path / "input.txt", load("shakespeare")
    path.write_bytes(content)
    if error is not None:
        with pytest.raises(error, match=said):
            script.read_text(path)
        return
    characters, training, testing = script.read_text(path)
    assert characters == "\ndorw"
    assert len(training) == 4499 and len(testing) == 500
    assert "".join(characters[i] for i in (*training, *testing)).encode() == content
