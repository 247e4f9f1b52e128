"""Names that PyTorch has and deepcore has not say so; other names get a suggestion."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import deepcore as dc
import deepcore.utils.data
from deepcore import missing
from deepcore.errors import DeepcoreError


def resolve(text):
    """Every `dc.name` between backquotes, as an object."""
    for path in re.findall(r"`(dc\.[\w.]+)`", text):
        value = dc
        for part in path.split(".")[1:]:
            value = getattr(value, part)
        yield path, value


def owner(place):
    return missing.find(missing.here(place, "deepcore"))


HERE = [place for place in missing.PLACES if owner(place) is not None and place != "torch.nn.Module"]
ABSENT = [
    (place, name) for place in HERE for name in sorted(missing.torch_names()[place]) if not hasattr(owner(place), name)
]


def test_absent_names_say_so():
    """Each one: an AttributeError that names it, and nothing that does not exist."""
    assert len(ABSENT) > 20
    for place, name in ABSENT:
        with pytest.raises(AttributeError) as raised:
            getattr(owner(place), name)
        full = f"{missing.here(place)}.{name}"
        assert isinstance(raised.value, DeepcoreError) and f"deepcore has no `{full}` yet" in str(raised.value)
        for path, value in resolve(str(raised.value).partition(" yet")[2]):
            assert value is not None, path


def test_absent_attributes_of_objects():
    x, layer = dc.ones(2, 2), dc.nn.Linear(1, 1)
    names = [n for n in missing.torch_names()["torch.Tensor"] if not hasattr(dc.Tensor, n)]
    for name in names[:5]:
        with pytest.raises(AttributeError, match=f"deepcore has no `dc.Tensor.{name}` yet"):
            getattr(x, name)
        assert name not in dir(x) and not hasattr(layer.weight, name)
    assert "sum" in dir(x) and "backward" in dir(x)
    for name in missing.torch_names()["torch.nn.Module"]:
        if not hasattr(layer, name):
            with pytest.raises(AttributeError, match=rf"deepcore has no `dc.nn.Module.{name}` yet"):
                getattr(layer, name)


@pytest.mark.parametrize(
    "place, name, words",
    [
        (dc, "tensro", "did you mean 'tensor'"),
        (dc.nn, "Lineer", "did you mean 'Linear'"),
        (dc.nn.functional, "reluu", "did you mean 'relu'"),
        (dc.optim, "Adan", "did you mean 'Adam'"),
        (dc.optim.lr_scheduler, "StepLr", "did you mean 'StepLR'"),
        (dc.nn.init, "kaiming_uniform", "deepcore has no|did you mean 'kaiming_uniform_'"),
        (dc.cuda, "is_availabel", "did you mean 'is_available'"),
        (dc.autograd, "gradchek", "did you mean 'gradcheck'"),
        (deepcore.utils.data, "DataLoder", "did you mean 'DataLoader'"),
        (dc.data, "TensorDataSet", "did you mean 'TensorDataset'"),
    ],
)
def test_misspelt_names_get_a_suggestion(place, name, words):
    assert not hasattr(place, name)
    with pytest.raises(AttributeError, match=words):
        getattr(place, name)


def test_the_same_name_elsewhere_and_near_ones():
    assert missing.nearest("torch", "cross_entropy") == "nearest: `dc.nn.functional.cross_entropy`"
    assert missing.nearest("torch", "fill_") == "nearest: `dc.Tensor.fill_`"
    assert missing.nearest("torch.optim", "RAdam", ["Adam", "SGD"]) == "nearest: `dc.optim.Adam`"
    assert missing.nearest("torch.nn", "FractionalMaxPool3d", ["Linear"]) == ""


def test_what_serves_instead():
    names = missing.torch_names()
    for full, text in missing.INSTEAD.items():
        place, _, name = full.rpartition(".")
        assert name in names[place] or (place == "torch" and name.endswith("Tensor")), full
        assert all(value is not None for _, value in resolve(text))


@pytest.mark.parametrize("full", missing.KERAS)
def test_names_of_keras_say_what_serves_instead(full):
    place, _, name = full.rpartition(".")
    assert name not in missing.torch_names()[place]
    with pytest.raises(AttributeError) as raised:
        getattr(dc.nn.ReLU() if place == "torch.nn.Module" else owner(place), name)
    assert missing.KERAS[full] in str(raised.value)
    paths = [*resolve(missing.KERAS[full])]
    assert paths and all(value is not None for _, value in paths)


def test_dunder_names_are_not_looked_up():
    assert not hasattr(dc.nn, "__wrapped__") and not hasattr(dc.ones(1), "__torch_function__")


def test_errors_survive_pickling():
    import pickle

    with pytest.raises(AttributeError) as raised:
        dc.tensro  # noqa: B018
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is missing.MissingNameError and "tensro" in str(again)


def test_importing_reads_one_line_of_the_list():
    code = "import deepcore; from deepcore import missing; print(missing.torch_names.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "0"


def test_the_list_is_what_pytorch_has():
    torch = pytest.importorskip("torch")
    from deepcore.torch_names import listed

    first = missing.FILE.read_text(encoding="utf-8").partition("\n")[0]
    if torch.__version__.partition("+")[0] not in first:
        pytest.skip(f"another PyTorch: {first}")
    for place in missing.PLACES:
        assert set(listed(place)) == missing.torch_names()[place], place
