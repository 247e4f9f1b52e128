"""The examples of docs/data.md run, in their order, on small files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from deepcore.data import audio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
XML = (
    "<annotation><size><width>20</width><height>16</height></size><object><name>cell</name><bndbox><xmin>1</xmin>"
    "<ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for folder in ("pictures/cat", "pictures/dog", "voc/Annotations", "voc/ImageSets/Main", "voc/JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(4):
        picture = image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        for path in (f"pictures/cat/{i}.png", f"pictures/dog/{i}.jpg", f"voc/JPEGImages/{i}.jpg"):
            picture.save(tmp_path / path)
        (tmp_path / f"voc/Annotations/{i}.xml").write_text(XML)
    (tmp_path / "voc/ImageSets/Main/train.txt").write_text("0\n1\n2\n3\n")
    audio.write_wav(tmp_path / "speech.wav", rng.uniform(-1, 1, 8000), 8000)
    (tmp_path / "reviews.txt").write_text("A fine film.\nDull, and long.\n")
    rows = ["Ann,30,7.5,C,yes", "Bob,,8.5,S,no", "Cy,50,,,no", "Di,22,9.5,S,yes"]
    (tmp_path / "passengers.csv").write_text("\n".join(["name,age,fare,port,survived", *rows]))
    for i in range(2):
        np.save(tmp_path / f"inputs{i}.npy", rng.normal(size=(20, 3)).astype(np.float32))
    np.save(tmp_path / "targets.npy", rng.integers(0, 2, 40))
    monkeypatch.chdir(tmp_path)


def test_the_examples_run(files):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 9
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["images"][0].shape == (3, 16, 20) and names["labels"].shape[1] == 2
    assert names["features"].shape == (1, 80, 101) and names["coefficients"].shape[:2] == (1, 13)
    assert names["tokens"].shape == (2, 5) and sorted(names["lengths"].tolist()) == [4, 5]
    assert names["inputs"].shape == (4, 4) and set(names["targets"].tolist()) == {0, 1}
    assert names["errors"].compute() == 0.25
