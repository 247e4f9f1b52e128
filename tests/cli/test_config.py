"""Experiment files: what they can say, and the errors that say where they are wrong."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.cli import build, default, sources
from deepcore.cli.config import Config, Place, checked, dumps, parse, read
from deepcore.errors import ConfigError
from deepcore.nn import LAYERS, LOSSES
from deepcore.optim import OPTIMIZERS, SCHEDULERS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SMALL = """
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
"""


def config(text: str = SMALL) -> Config:
    return parse(text, Place("small.toml"), "small")


def built(text: str = SMALL):
    """(model, optimizer, schedule, config) for inputs (1, 8, 8)."""
    net, full = build.model(config(text), (1, 8, 8))
    optimizer = build.optimizer(full, net)
    return net, optimizer, build.schedule(full, optimizer), full


def layer(text: str) -> str:
    """SMALL with these lines in its second layer."""
    return SMALL.replace('type = "Linear"\nout_features = 10', text)


# -- what is wrong, where, and what was meant -----------------------------------------------------------
WRONG = {
    "section": (SMALL + "[optimiser]\nlr = 1", "optimiser", "'optimizer'"),
    "no section": (
        SMALL.replace("[loss]", "[train]").replace('type = "CrossEntropyLoss"', ""),
        "",
        "'loss' is missing",
    ),
    "layer": (layer('type = "Liner"'), "layers[1].type", "'Linear'"),
    "layer argument": (layer('type = "Linear"\nout_feature = 10'), "layers[1].out_feature", "'out_features'"),
    "missing argument": (layer('type = "Linear"'), "layers[1]", "needs out_features"),
    "no type": (layer("out_features = 10"), "layers[1]", "no type"),
    "argument type": (layer('type = "Linear"\nout_features = "ten"'), "layers[1].out_features", "a whole number"),
    "bool for int": (layer('type = "Linear"\nout_features = true'), "layers[1].out_features", "received: true"),
    "float for int": (layer('type = "Linear"\nout_features = 10.5'), "layers[1].out_features", "10.5"),
    "int for bool": (layer('type = "Linear"\nout_features = 10\nbias = 1'), "layers[1].bias", "true or false"),
    "not finite": (layer('type = "Dropout"\np = nan'), "layers[1].p", "p is NaN"),
    "lr NaN": (SMALL.replace("0.1", "nan"), "optimizer.lr", "lr is NaN"),
    "lr infinite": (SMALL.replace("0.1", "inf"), "optimizer.lr", "lr is infinite"),
    "betas NaN": (SMALL.replace('"SGD"', '"Adam"') + "betas = [nan, 0.9]", "optimizer.betas", "a number that is NaN"),
    "clip NaN": (SMALL + "[train]\nclip_grad_norm = nan", "train.clip_grad_norm", "clip_grad_norm is NaN"),
    "split": (SMALL + "[train]\nvalidation_split = 1.5", "train.validation_split", "between 0 and 1"),
    "best without validation": (SMALL + '[train]\nbest = "val_loss"', "train.best", "validation_split = 0.1"),
    "stopping without validation": (
        SMALL + "[train]\nearly_stopping = { patience = 2 }",
        "train.early_stopping.monitor",
        "validation_split = 0.1",
    ),
    "stopping argument": (
        SMALL + "[train.early_stopping]\npatiense = 2",
        "train.early_stopping.patiense",
        "'patience'",
    ),
    "stopping mode": (
        SMALL + '[train.early_stopping]\nmonitor = "loss"\nmode = "low"',
        "train.early_stopping",
        "'min', 'max' or 'auto'",
    ),
    "stopping number": (SMALL + "[train]\nearly_stopping = 2", "train.early_stopping", "is a table"),
    "checkpoint without a file": (SMALL + "[train.checkpoint]\nsave_freq = 5", "train.checkpoint", "needs filepath"),
    "checkpoint elsewhere": (
        SMALL + '[train.checkpoint]\nfilepath = "../x.safetensors"',
        "train.checkpoint.filepath",
        "in the run's folder",
    ),
    "clip negative": (SMALL + "[train]\nclip_grad_norm = -1", "train.clip_grad_norm", "is negative"),
    "factor": (layer('type = "Linear"\nout_features = 10\nlr_factor = -1'), "layers[1].lr_factor", "≥ 0"),
    "factor's name": (layer('type = "Linear"\nout_features = 9\nlr_factr = 1'), "layers[1].lr_factr", "'lr_factor'"),
    "import path": (layer('type = "os.system"'), "layers[1].type", "no layer named 'os.system'"),
    "dunder": (layer('type = "__class__"'), "layers[1].type", "no layer named"),
    "holder": (layer('type = "Sequential"'), "layers[1].type", "holds other layers"),
    "backend of a layer": (
        layer('type = "Linear"\nout_features = 10\nbackend = "cpu"'),
        "layers[1].backend",
        "no argument 'backend'",
    ),
    "layers as a table": (
        SMALL.replace("[[layers]]", "[layers]", 1).replace('[[layers]]\ntype = "Linear"\nout_features = 10', ""),
        "layers",
        "[[layers]]",
    ),
    "loss": (SMALL.replace("CrossEntropyLoss", "CrossEntropy"), "loss.type", "'CrossEntropyLoss'"),
    "optimizer": (SMALL.replace('"SGD"', '"Addam"'), "optimizer.type", "'Adam'"),
    "optimizer argument": (SMALL + "momentun = 0.9", "optimizer.momentun", "'momentum'"),
    "optimizer's params": (SMALL + "params = [1]", "optimizer.params", "no argument 'params'"),
    "betas": (SMALL.replace('"SGD"', '"Adam"') + "betas = [0.9]", "optimizer.betas", "[a number, a number]"),
    "schedule": (SMALL + '[schedule]\ntype = "Cosine"', "schedule.type", "no learning-rate schedule named 'Cosine'"),
    "schedule argument": (SMALL + '[schedule]\ntype = "StepLR"\nstep = 3', "schedule.step", "'step_size'"),
    "a function": (
        SMALL + '[schedule]\ntype = "LambdaLR"\nlr_lambda = "print"',
        "schedule.lr_lambda",
        "nothing a file",
    ),
    "data": (SMALL.replace('"digits"', '"digit"'), "data.type", "'digits'"),
    "data argument": (SMALL.replace('"digits"', '"mnist"\nsplit = "train"'), "data.split", "no argument 'split'"),
    "hidden data argument": (SMALL.replace('"digits"', '"mnist"\nfolder = "/"'), "data.folder", "no argument 'folder'"),
    "shape": (SMALL.replace('"digits"', '"digits"\nshape = [0, 64]'), "data.shape", "[1, 8, 8]"),
    "normalize": (SMALL.replace('"digits"', '"digits"\nnormalize = "al"'), "data.normalize", "'all'"),
    "epochs": (SMALL + "[train]\nepochs = 0", "train.epochs", "at least 1"),
    "epochs' type": (SMALL + "[train]\nepochs = 1e3", "train.epochs", "a whole number"),
    "train key": (SMALL + "[train]\nepoch = 3", "train.epoch", "'epochs'"),
    "seed": (SMALL + "[train]\nseed = -1", "train.seed", "0 or more"),
    "date": (SMALL + "[train]\nepochs = 2020-01-01", "train.epochs", "a whole number"),
    "syntax": (SMALL + "[train\n", "", "not TOML"),
}


@pytest.mark.parametrize("text, key, says", WRONG.values(), ids=WRONG)
def test_wrong_files(text, key, says):
    with pytest.raises(ConfigError) as caught:
        config(text)
    message = str(caught.value)
    assert says in message
    assert (f"small.toml: {key}," if key else "small.toml,") in message + ","


BUILD_WRONG = {
    "range": (layer('type = "Dropout"\np = 1.5'), "layers[1]", "1.5"),
    "zero size": (layer('type = "Linear"\nout_features = 0'), "layers[1]", "out_features"),
    "sizes that do not meet": (layer('type = "Linear"\nin_features = 63\nout_features = 10'), "layers[1]", "63"),
    "negative lr": (SMALL.replace("0.1", "-0.1"), "optimizer", "lr"),
    "factor without parameters": (layer('type = "ReLU"\nlr_factor = 2'), "layers[1].lr_factor", "no parameters"),
    "factor of another parameter": (
        layer('type = "Linear"\nout_features = 10\nlr_factor = { bais = 2 }'),
        "layers[1].lr_factor.bais",
        "'bias'",
    ),
    "nothing to train": (layer('type = "ReLU"'), "optimizer", "nothing to train"),
    "step size": (SMALL + '[schedule]\ntype = "StepLR"\nstep_size = 0', "schedule", "step_size"),
}


@pytest.mark.parametrize("text, key, says", BUILD_WRONG.values(), ids=BUILD_WRONG)
def test_what_constructors_refuse_is_an_error_of_the_file(text, key, says):
    with pytest.raises(ConfigError) as caught:
        built(text)
    message = str(caught.value)
    assert says in message
    assert f"small.toml: {key}," in message + ","


def test_any_value_anywhere_is_taken_or_refused():
    """Whatever stands at a key, nothing but a ConfigError comes of it."""
    st = pytest.importorskip("hypothesis.strategies")
    from hypothesis import given

    scalars = st.one_of(
        st.booleans(),
        st.integers(),
        st.just(10**400),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(sorted(LAYERS)),
    )
    values = st.recursive(
        scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["type", "p"]), v, max_size=2)
    )
    whole = config(SMALL + '[schedule]\ntype = "StepLR"\nstep_size = 3\n[train]\nepochs = 2').table()
    keys = ["type", "p", "bias", "lr", "betas", "shape", "lr_factor", "weight", "step_size", "seed", "batch_size"]
    refused = []

    @given(st.sampled_from(sorted(whole)), st.sampled_from([None, *keys]), values)
    def check(section, key, value):
        table = {name: held.copy() for name, held in whole.items()}
        if key is None:
            table[section] = value
        else:
            held = table[section]
            table[section] = [held[0], {**held[1], key: value}] if section == "layers" else {**held, key: value}
        try:
            checked(table, Place("any.toml"), "any")
        except ConfigError as error:
            refused.append(str(error))

    check()
    assert refused
    assert all("any.toml" in message for message in refused)


def test_outputs_must_fit_the_data():
    text = layer('type = "Linear"\nout_features = 9')
    net, full = build.model(config(text), (1, 8, 8))
    with pytest.raises(ConfigError, match=r"out_features = 10"):
        build.check_output(full, net, (1, 8, 8), tuple("0123456789"), ())
    net, full = build.model(config(text.replace("CrossEntropyLoss", "MSELoss")), (1, 8, 8))
    with pytest.raises(ConfigError, match=r"shape \[9\], and the targets have \[1\]"):
        build.check_output(full, net, (1, 8, 8), None, (1,))
    build.check_output(full, net, (1, 8, 8), None, (9,))


def test_a_missing_file_offers_the_nearest(tmp_path):
    (tmp_path / "digits.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r"did you mean 'digits.toml'"):
        read(tmp_path / "digit.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match=r"not text in UTF-8\n[\s\S]*byte 0xe9 in line 1\n[\s\S]*UTF-8"):
        read(tmp_path / "latin.toml")
    (tmp_path / "marked.toml").write_text(SMALL, encoding="utf-8-sig")
    assert read(tmp_path / "marked.toml").table() == config().table()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_an_experiment_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ConfigError, match="not a regular file"):
            read(path)


def test_a_table_in_place_of_an_experiment_file(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r'is a table(.|\n)*type = "csv", train = "data\.csv"'):
        read(tmp_path / "data.csv")


def test_a_number_of_thousands_of_digits():
    with pytest.raises(ConfigError, match="not TOML"):
        config("x = " + "9" * 5000)


# -- what is right ------------------------------------------------------------------------------------------
def test_the_default_is_the_example_and_both_examples_build():
    text = (EXAMPLES / "digits.toml").read_text(encoding="utf-8")
    assert text == default.DIGITS
    for name, shape, count in (("digits", (1, 8, 8), 51_594), ("mnist_mlp", (1, 28, 28), 203_530)):
        net, full = build.model(read(EXAMPLES / f"{name}.toml"), shape)
        assert sum(p.numel() for p in net.parameters()) == count
        assert build.schedule(full, build.optimizer(full, net)).T_max == full.train.epochs


def test_what_is_written_reads_the_same():
    text = SMALL.replace("lr = 0.1", "lr = 1e-3\nmomentum = 0.9\nnesterov = true") + (
        '[schedule]\ntype = "MultiStepLR"\nmilestones = [3, 5]\n[train]\nepochs = 7\nclip_grad_norm = 1\ndrop_last = true\n'
    )
    text = text.replace("out_features = 10", "out_features = 10\nlr_factor = { weight = 2, bias = 0.5 }")
    _, _, _, full = built(text)
    again = config(dumps(full.table()))
    assert again.table() == full.table()
    assert again.layers[1].arguments == {"in_features": 64, "out_features": 10}
    assert again.layers[1].factors("bias") == (0.5, 1.0)
    strings = {"data": {"type": 'a "quoted" \\ path\n\x7fé'}}
    assert tomllib.loads(dumps(strings)) == strings


def test_sizes_follow_from_the_layer_before():
    net, *_ = built(
        layer('type = "Linear"\nout_features = 12\n[[layers]]\ntype = "BatchNorm1d"\n[[layers]]\ntype = "LayerNorm"')
    )
    assert net[1].in_features == 64
    assert net[2].num_features == 12
    assert tuple(net[3].normalized_shape) == (12,)


def test_a_layer_of_any_arguments_needs_none():
    net, *_ = built(layer('type = "Identity"\n[[layers]]\ntype = "Linear"\nout_features = 10'))
    assert type(net) is dc.nn.Sequential and type(net[1]) is dc.nn.Identity


def test_building_draws_what_plain_code_draws():
    """The trial forward that infers sizes must not touch the random stream, nor BatchNorm's statistics."""
    dc.manual_seed(5)
    net, *_ = built(
        layer('type = "Dropout"\n[[layers]]\ntype = "BatchNorm1d"\n[[layers]]\ntype = "Linear"\nout_features = 10')
    )
    dc.manual_seed(5)
    plain = dc.nn.Linear(64, 10)
    assert (net[3].weight == plain.weight).all().item()
    assert net[2].num_batches_tracked.item() == 0
    assert all(module.training for module in net.modules())


def test_factors_make_groups():
    text = layer(
        'type = "Linear"\nout_features = 20\nlr_factor = 0\n'
        '[[layers]]\ntype = "Linear"\nout_features = 20\n'
        '[[layers]]\ntype = "Linear"\nout_features = 10\nlr_factor = { bias = 2 }\nweight_decay_factor = 0.5'
    )
    net, optimizer, schedule, _ = built(text + 'weight_decay = 0.2\n[schedule]\ntype = "StepLR"\nstep_size = 1')
    frozen = net[1].weight.numpy().copy()
    assert not net[1].weight.requires_grad
    groups = [(g["lr"], g["weight_decay"], [p.shape for p in g["params"]]) for g in optimizer.param_groups]
    assert groups == [
        (0.1, 0.2, [(20, 20), (20,)]),
        (0.1, 0.1, [(10, 20)]),
        (0.2, 0.1, [(10,)]),
    ]
    net(dc.rand(3, 1, 8, 8)).sum().backward()
    optimizer.step()
    schedule.step()
    np.testing.assert_array_equal(net[1].weight.numpy(), frozen)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.01, 0.02])


def test_a_list_in_a_loss_is_a_tensor():
    text = SMALL.replace('"CrossEntropyLoss"', f'"CrossEntropyLoss"\nweight = {[0.5] * 10}')
    assert build.loss(config(text)).weight.tolist() == [0.5] * 10


def plain(value):
    return [plain(v) for v in value] if isinstance(value, tuple) else value


REGISTERED = [
    pytest.param("layers", name, example.arguments, id=f"{name}-{i}")
    for name, cls in LAYERS.items()
    for i, example in enumerate(cls.examples)
] + [
    pytest.param("loss", name, example.arguments, id=f"{name}-{i}")
    for name, cls in LOSSES.items()
    for i, example in enumerate(cls.examples)
]


@pytest.mark.parametrize("section, name, arguments", REGISTERED)
def test_everything_registered_can_be_said_in_a_file(section, name, arguments):
    given = {"type": name, **{k: plain(v) for k, v in arguments.items() if v is not None}}
    table = {"data": {"type": "digits"}, "layers": [{"type": "Flatten"}], "loss": {"type": "MSELoss"}}
    table |= {"optimizer": {"type": "SGD"}} | {section: [given] if section == "layers" else given}
    read_back = config(dumps(table))
    part = read_back.layers[0] if section == "layers" else read_back.loss
    assert part.table() == given


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Muon"])  # which takes matrices alone
def test_every_optimizer_can_be_said_in_a_file(name):
    _, optimizer, *_ = built(SMALL.replace('"SGD"', f'"{name}"'))
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("StepLR", "step_size = 2"),
        ("MultiStepLR", "milestones = [2, 3]"),
        ("CosineAnnealingLR", ""),
        ("OneCycleLR", "max_lr = 0.5\ncycle_momentum = false"),
        ("LinearLR", "start_factor = 0.1"),
        ("ReduceLROnPlateau", 'patience = 3\nmode = "min"'),
        ("CosineAnnealingWarmRestarts", "T_0 = 3"),
        ("PolynomialLR", "total_iters = 20"),
    ],
)
def test_schedules_can_be_said_in_a_file(name, arguments):
    _, _, schedule, _ = built(SMALL + f'[schedule]\ntype = "{name}"\n{arguments}')
    assert type(schedule) is SCHEDULERS[name]


# -- data sets ------------------------------------------------------------------------------------------------
def data(folder, table: str, loss: str = "CrossEntropyLoss", shape: str = ""):
    text = SMALL.replace('type = "digits"', table + shape).replace("CrossEntropyLoss", loss)
    parsed = config(text)
    return sources.load(parsed.data, folder, loss in build.CLASS_LOSSES)


def test_csv_by_column_name(tmp_path):
    rows = [f"{i},{'ab'[i % 2]},{i * 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["x,kind,y", *rows]))
    got = data(tmp_path, 'type = "csv"\ntrain = "t.csv"\ntarget = "kind"')
    assert got.classes == ("a", "b")
    assert (len(got.train), len(got.test)) == (16, 4)
    assert sorted(got.test.targets.tolist()) == [0, 0, 1, 1]  # each class has its share
    x = np.concatenate([got.train.inputs, got.test.inputs])
    y = np.concatenate([got.train.targets, got.test.targets])
    np.testing.assert_array_equal(x[:, 0] % 2, y)
    np.testing.assert_array_equal(x[:, 1], 2 * x[:, 0])


def test_csv_with_numbers_for_names_and_quoted_lines(tmp_path):
    (tmp_path / "t.csv").write_text('0,1,kind\n1,2,"x\ny"\n3,4,z\n')
    found = data(tmp_path, 'type = "csv"\ntrain = "t.csv"\ntarget = "kind"\ntest_fraction = 0')
    assert found.classes == ("x\ny", "z") and found.train.inputs.tolist() == [[1, 2], [3, 4]]


def test_csv_of_numbers_for_regression(tmp_path):
    (tmp_path / "t.csv").write_text("1;2;3\n4;5;6\n")
    got = data(tmp_path, 'type = "csv"\ntrain = "t.csv"\ntest = "t.csv"\ntarget = 0', "MSELoss")
    assert got.classes is None
    assert got.train.inputs.tolist() == [[2, 3], [5, 6]]
    assert got.test.targets.tolist() == [[1], [4]]


def test_numbered_classes_are_in_numeric_order(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(f"0.5,{c}" for c in (10, 9, 2, 10, 9, 2)))
    got = data(tmp_path, 'type = "csv"\ntrain = "t.csv"\ntest_fraction = 0')
    assert (got.classes, got.test) == (("2", "9", "10"), None)
    assert got.train.targets.tolist() == [2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize(
    "content, table, says",
    [
        ("1,2\n3\n", "", r"expected: +2 cells, separated by commas[\s\S]*1 in line 2"),
        ("1,2\nx,3\n", "", r"'x' in line 2, column 1\n[\s\S]*ignore = \[0\]"),
        ("", "", "no rows"),
        ("a,b\n1,2\n", 'target = "c"', "no column 'c'"),
        ("1,2\n", "target = 2", "no column 2"),
        ("1,nan\nnan,2\n", "", r"missing value\n[\s\S]*'nan' in line 2, column 1\n[\s\S]*missing = \"mean\""),
        ("1,2\n1,2\n", "test_fraction = 1", "test_fraction"),
        ("1,x\n2,\n", "", "missing value\n[\\s\\S]*'' in line 2, column 2\n[\\s\\S]*leave out the row$"),
        ("a,b\n", "", "no rows below its column names"),
        ("1,x\n3e39,y\n", "", "'3e39' in line 2, column 1"),
        (b"1,\xe9\n2,\xfc\n", "", "not text in UTF-8"),
    ],
)
def test_wrong_csv(tmp_path, content, table, says):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(dc.errors.DeepcoreError, match=says):
        data(tmp_path, f'type = "csv"\ntrain = "t.csv"\n{table}')


PEOPLE = """id,age,city,height,kind
a1,30,Rome,1.5,x
a2,,Oslo,1.75,y
a3,50,,2.0,x
a4,40,Rome,,y
"""
COLUMNS = 'type = "csv"\ntrain = "t.csv"\ntarget = "kind"\ntest_fraction = 0\nignore = ["id"]\n'


def test_csv_with_an_id_texts_and_missing_cells(tmp_path):
    (tmp_path / "t.csv").write_text(PEOPLE, encoding="utf-8-sig")
    table = COLUMNS + 'categories = ["city"]\nmissing = "mean"\n'
    got = data(tmp_path, table)
    assert got.classes == ("x", "y") and got.train.targets.tolist() == [0, 1, 0, 1]
    assert got.train.inputs.tolist() == [[30, 0, 1, 1.5], [40, 1, 0, 1.75], [50, 0, 0, 2], [40, 0, 1, 1.75]]
    codes = data(tmp_path, table + 'encoding = "codes"').train.inputs
    assert codes.tolist() == [[30, 1, 1.5], [40, 0, 1.75], [50, -1, 2], [40, 1, 1.75]]
    numbers = data(tmp_path, table.replace('"id"', '0, "city"').replace('["city"]', "[]"))
    assert numbers.train.inputs.tolist() == [[30, 1.5], [40, 1.75], [50, 2], [40, 1.75]]


def test_missing_cells_are_the_mean_of_what_is_trained_on(tmp_path):
    values = ["" if i % 3 == 0 else str(i * i) for i in range(30)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(f"{v},{i}" for i, v in enumerate(values)))
    got = data(tmp_path, 'type = "csv"\ntrain = "t.csv"\nmissing = "mean"', "MSELoss")
    known = [float(values[int(y)]) for y in got.train.targets.ravel() if values[int(y)]]
    for part in (got.train, got.test):
        for x, y in zip(part.inputs.ravel(), part.targets.ravel()):
            assert x == np.float32(values[int(y)] or np.mean(known))


def test_csv_for_testing_has_the_columns_of_the_other(tmp_path):
    (tmp_path / "t.csv").write_text("age,city,kind\n30,Rome,x\n40,Oslo,y\n")
    (tmp_path / "u.csv").write_text("kind,more,city,age\ny,?,Rome,7\n")
    table = 'type = "csv"\ntrain = "t.csv"\ntest = "u.csv"\ntarget = "kind"\ncategories = ["city"]'
    got = data(tmp_path, table)
    assert got.test.inputs.tolist() == [[7, 0, 1]] and got.test.targets.tolist() == [1]
    for content, says in (
        ("kind,city,age\ny,Bonn,7\n", "none of its column's categories[\\s\\S]*'Bonn' in line 2, column 2"),
        ("kind,age\ny,7\n", "lacks 1 of the 2 columns[\\s\\S]*no column 'city'"),
        ("1,Rome\n", "has another number of columns"),
        ("city,age\nRome,7\n", "no column 'kind'"),
    ):
        (tmp_path / "u.csv").write_text(content)
        with pytest.raises(dc.errors.DataError, match=says):
            data(tmp_path, table)


@pytest.mark.parametrize(
    "table, says",
    [
        ('ignore = ["id"]', r"""'Rome' in line 2, column 3 \('city'\)\n[\s\S]*categories = \["city"\] in .*ignore = \["city"\]"""),
        ("", r"""'a1' in line 2, column 1 \('id'\)\n[\s\S]*categories = \["id", "city"\]"""),
        ('ignore = ["id", "city"]', r"""'' in line 3, column 2 \('age'\)\n[\s\S]*missing = "mean" in \[data\]"""),
        ('ignore = ["id", "age", "height"]\ncategories = ["city"]', r"""'' in line 4, column 3 \('city'\)\n[\s\S]*missing = "mean\""""),
        ('ignore = ["idd"]', "no column 'idd'[\\s\\S]*did you mean 'id'"),
        ('ignore = ["kind"]', "is the target"),
        ('ignore = [0]\ncategories = ["id"]', "both|to be left out and of categories"),
        ('ignore = [0, 1, 2, 3]', "no column but the target"),
        ('encoding = "onehot"', "'one-hot', 'codes'"),
        ('missing = "median"', "'error', 'mean'"),
        ("header = false", "no column names"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be(tmp_path, table, says):
    (tmp_path / "t.csv").write_text(PEOPLE)
    with pytest.raises(dc.errors.DeepcoreError, match=says):
        data(tmp_path, f'type = "csv"\ntrain = "t.csv"\ntarget = "kind"\n{table}')


def test_csv_targets_and_names_that_cannot_be(tmp_path):
    for content, table, says in (
        ("x,y\n1,a\n", "", r"'a' in line 2, column 2 \('y'\)\n[\s\S]*a loss on classes"),
        ("x,y\n1,\n", 'missing = "mean"', r"missing value\n[\s\S]*column 2 \('y'\)\n[\s\S]*leave out the row$"),
        ("x,x,y\n1,2,3\n", "", "several columns named 'x'"),
        ("x,z,y\n1,,3\n", 'missing = "mean"', r"""column 'z' has no value[\s\S]*ignore = \["z"\]"""),
        ("x,z,y\n1,,3\n", 'missing = "mean"\ncategories = ["z"]', "column 'z' has no value"),
    ):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(dc.errors.DataError, match=says):
            data(tmp_path, f'type = "csv"\ntrain = "t.csv"\ntest_fraction = 0\n{table}', "MSELoss")


def test_the_columns_of_a_run_are_checked(tmp_path):
    from deepcore.cli.inputs import Inputs

    (tmp_path / "t.csv").write_text(PEOPLE)
    got = data(tmp_path, COLUMNS + 'categories = ["city"]\nmissing = "mean"')
    inputs = Inputs.fit(got.train.inputs, "none", None, got.classes, "logits", got.columns)
    inputs.save(tmp_path / "input.json")
    assert Inputs.load(tmp_path / "input.json") == inputs
    good = json.loads((tmp_path / "input.json").read_text())
    feature = good["columns"]["features"][1]
    for changes in (
        {"columns": 3},
        {"columns": {}},
        {"columns": {**good["columns"], "more": 1}},
        {"columns": {**good["columns"], "width": "5"}},
        {"columns": {**good["columns"], "target": 5}},
        {"columns": {**good["columns"], "encoding": "hot"}},
        {"columns": {**good["columns"], "features": [feature]}},
        {"columns": {**good["columns"], "features": [{**feature, "number": 1e300}]}},
        {"columns": {**good["columns"], "features": [{**feature, "categories": 7}]}},
        {"columns": {**good["columns"], "features": [None]}},
        {"columns": {**good["columns"], "features": [{**feature, "mean": "x"}]}},
    ):
        (tmp_path / "input.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises(dc.errors.FileFormatError, match="does not describe"):
            Inputs.load(tmp_path / "input.json")


def test_a_missing_data_file_offers_the_nearest(tmp_path):
    (tmp_path / "train.csv").write_text("1,2")
    with pytest.raises(dc.errors.DataError, match=r"did you mean 'train.csv'"):
        data(tmp_path, 'type = "csv"\ntrain = "trian.csv"')


def test_npy_and_idx(tmp_path):
    images = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
    labels = np.arange(10) % 3
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", labels)
    dc.data.write_idx(images, tmp_path / "x.idx.gz")
    dc.data.write_idx(labels.astype(np.uint8), tmp_path / "y.idx.gz")
    arrays = data(tmp_path, 'type = "npy"\ninputs = "x.npy"\ntargets = "y.npy"', shape="\nshape = [1, 4, 4]")
    idx = data(tmp_path, 'type = "idx"\nimages = "x.idx.gz"\nlabels = "y.idx.gz"')
    for got in (arrays, idx):
        assert got.train.inputs.shape == (8, 1, 4, 4)
        assert got.train.inputs.max() <= 1
        assert (got.unit, got.classes) == (255.0, ("0", "1", "2"))
    np.testing.assert_array_equal(arrays.train.inputs, idx.train.inputs)
    values = data(tmp_path, 'type = "npy"\ninputs = "x.npy"\ntargets = "y.npy"', "MSELoss")
    assert values.train.targets.shape == (8, 1)
    assert values.train.targets.dtype == np.float32
    with pytest.raises(ConfigError, match="another size"):
        data(tmp_path, 'type = "npy"\ninputs = "x.npy"\ntargets = "y.npy"', shape="\nshape = [17]")
    np.save(tmp_path / "y.npy", labels - 1)
    with pytest.raises(dc.errors.DataError, match="class numbers"):
        data(tmp_path, 'type = "npy"\ninputs = "x.npy"\ntargets = "y.npy"')
