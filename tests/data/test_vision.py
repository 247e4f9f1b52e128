"""Images: folders, boxes, transforms; Pillow, NumPy and PyTorch as oracles."""

from __future__ import annotations

import colorsys
import functools
import math
import os
import pickle
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.data import DataLoader, vision
from deepcore.data.vision import ImageFolder, VOCDetection, detection_collate, functional, transforms
from deepcore.errors import ArgumentError, DataError, DeepcoreError, DTypeError, FileFormatError, ShapeError

Image = pytest.importorskip("PIL.Image")


def picture(height=24, width=31, seed=0):
    """Smooth colours with some noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + i) + np.cos(y / (3 + i)) for i in range(3)], -1)
    return np.clip(127 + 50 * waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)


def chw(array, backend="cpu"):
    return dc.tensor(np.ascontiguousarray(array.transpose(2, 0, 1)), backend=backend)


def hwc(tensor):
    return tensor.numpy().transpose(1, 2, 0)


def as_array(image):
    """The pixels (H, W, C) of any kind of image."""
    if isinstance(image, dc.Tensor):
        return hwc(image)
    return np.asarray(image)


# -- the three kinds ----------------------------------------------------------------------------------
#: What moves pixels and computes none: the same on every kind of image.
MOVES = {
    "hflip": functional.hflip,
    "vflip": functional.vflip,
    "pad": lambda x: functional.pad(x, 3),
    "pad of each side": lambda x: functional.pad(x, (1, 2, 3, 4), 7),
    "pad by colour": lambda x: functional.pad(x, (2, 0), (1, 2, 3)),
    "edge": lambda x: functional.pad(x, (1, 2, 3, 4), padding_mode="edge"),
    "reflect": lambda x: functional.pad(x, (5, 2), padding_mode="reflect"),
    "symmetric": lambda x: functional.pad(x, (5, 2), padding_mode="symmetric"),
    "crop": lambda x: functional.crop(x, 2, 3, 10, 11),
    "crop outside": lambda x: functional.crop(x, -3, 20, 40, 30),
    "center_crop": lambda x: functional.center_crop(x, (11, 16)),
    "center_crop of more": lambda x: functional.center_crop(x, (30, 20)),
    "erase": lambda x: functional.erase(x, 2, 3, 5, 6, [1, 2, 3]),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_are_the_same_on_every_kind(backend, name):
    array = picture()
    before = array.copy()
    moved = MOVES[name](array)
    for image in (Image.fromarray(array), chw(array, backend), chw(array, backend).float()):
        out = MOVES[name](image)
        assert type(out) is type(image)
        np.testing.assert_array_equal(as_array(out), moved)
    np.testing.assert_array_equal(array, before)
    batch = chw(array, backend).unsqueeze(0).expand(2, -1, -1, -1)
    np.testing.assert_array_equal(MOVES[name](batch)[1].numpy(), moved.transpose(2, 0, 1))


def test_pad_equals_numpy():
    array = picture()
    for mode in ("constant", "edge", "reflect", "symmetric"):
        expected = np.pad(array, ((2, 4), (1, 3), (0, 0)), mode=mode)
        np.testing.assert_array_equal(functional.pad(array, (1, 2, 3, 4), padding_mode=mode), expected)


SIZES = [((10, 12), None), ((40, 50), None), (9, None), (20, None), (30, 35), ([13], None)]


@pytest.mark.parametrize("size, most", SIZES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resize(size, most, mode):
    array = picture()
    height, width = functional.resized(24, 31, size, most)
    pil = Image.fromarray(array).resize((width, height), Image.Resampling[mode.upper()])
    for image in (array, Image.fromarray(array)):
        np.testing.assert_array_equal(as_array(functional.resize(image, size, mode, most)), np.asarray(pil))
    tensor = functional.resize(chw(array), size, mode, most)
    assert tensor.dtype == dc.uint8
    if mode != "nearest":
        difference = hwc(tensor).astype(int) - np.asarray(pil)
        assert abs(difference).max() <= 2 and abs(difference).mean() < 0.3
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(array.transpose(2, 0, 1).copy()).float()[None] / 255
    options = {"antialias": mode != "nearest"} | ({} if mode == "nearest" else {"align_corners": False})
    expected = torch.nn.functional.interpolate(x, (height, width), mode=mode, **options)
    ours = functional.resize(dc.tensor(x[0].numpy()), size, mode, most)
    np.testing.assert_allclose(ours.numpy(), expected[0].numpy(), atol=2e-6)
    as_floats = functional.resize(array.astype(np.float32) / 255, size, mode, most)
    np.testing.assert_allclose(as_floats, hwc(ours), atol=1e-6)


def test_the_smaller_edge():
    assert functional.resized(24, 31, 12) == (12, 15) and functional.resized(31, 24, 12) == (15, 12)
    assert functional.resized(10, 1000, 20, 50) == (1, 50)
    image = Image.fromarray(picture())
    assert functional.resize(image, 24) is image, "already of that size"


@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_quarter_turns_move_pixels(backend, angle, mode):
    array = picture()
    expected = np.rot90(array, angle // 90)
    for image in (array, Image.fromarray(array), chw(array, backend)):
        out = as_array(functional.rotate(image, angle, mode, expand=True))
        assert out.shape == expected.shape
        np.testing.assert_allclose(out, expected, atol=1)


@pytest.mark.parametrize("options", [{}, {"expand": True}, {"center": (5, 8)}, {"fill": 90}])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_rotation_of_tensors_is_near_pillows(options, mode):
    array = picture(60, 44)
    pil = np.asarray(functional.rotate(Image.fromarray(array), 27.5, mode, **options)).astype(int)
    out = hwc(functional.rotate(chw(array), 27.5, mode, **options)).astype(int)
    assert out.shape == pil.shape
    assert (abs(out - pil) <= 4).mean() > 0.95


def test_resized_crop_is_a_crop_resized():
    image = Image.fromarray(picture(40, 50))
    expected = image.crop((5, 3, 25, 33)).resize((16, 18), Image.Resampling.BILINEAR)
    out = functional.resized_crop(image, 3, 5, 30, 20, (18, 16))
    np.testing.assert_array_equal(np.asarray(out), np.asarray(expected))


# -- colours ------------------------------------------------------------------------------------------
def grey_of(x):
    return 0.2989 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]


def turned(x, by):
    out = np.empty_like(x)
    for place in np.ndindex(x.shape[:-1]):
        h, s, v = colorsys.rgb_to_hsv(*x[place])
        out[place] = colorsys.hsv_to_rgb((h + by) % 1, s, v)
    return out


COLOURS = {
    "brightness": lambda x, f: x * f,
    "contrast": lambda x, f: f * x + (1 - f) * grey_of(x).mean(),
    "saturation": lambda x, f: f * x + (1 - f) * grey_of(x)[..., None],
    "hue": lambda x, f: turned(x, f - 1),
}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_colours_by_formula(backend, name, factor):
    adjust = getattr(functional, f"adjust_{name}")
    array = picture(12, 14)
    x = array / 255
    expected = np.clip(COLOURS[name](x, factor), 0, 1)
    given = factor - 1 if name == "hue" else factor
    floats = dc.tensor(np.ascontiguousarray(x.transpose(2, 0, 1)), backend=backend)
    np.testing.assert_allclose(hwc(adjust(floats, given)), expected, atol=1e-9)
    np.testing.assert_allclose(adjust(x, given), expected, atol=1e-9)
    bytes_ = hwc(adjust(chw(array, backend), given))
    assert bytes_.dtype == np.uint8 and abs(bytes_ - 255 * expected).max() < 1.01 + (name in ("contrast", "saturation"))
    pil = np.asarray(adjust(Image.fromarray(array), given))
    # Pillow rounds its grey and has 256 hues.
    assert abs(pil - 255 * expected).max() < {"hue": 12, "contrast": 2.1, "saturation": 2.1}.get(name, 1.01)
    np.testing.assert_array_equal(adjust(array, given), pil)


def test_grey(backend):
    array = picture()
    expected = grey_of(array.astype(np.float64))
    for channels in (1, 3):
        pil = np.asarray(functional.rgb_to_grayscale(Image.fromarray(array), channels))
        assert pil.shape == ((24, 31) if channels == 1 else (24, 31, 3))
        assert abs(pil.reshape(24, 31, -1) - expected[..., None]).max() < 1.01
        out = functional.rgb_to_grayscale(chw(array, backend).float(), channels)
        np.testing.assert_allclose(hwc(out), np.repeat(expected[..., None], channels, 2), rtol=1e-5)
        np.testing.assert_array_equal(
            functional.rgb_to_grayscale(array, channels).reshape(24, 31, -1), pil.reshape(24, 31, -1)
        )


# -- conversions --------------------------------------------------------------------------------------
def test_to_tensor():
    array = picture()
    expected = array.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    for image in (array, Image.fromarray(array), array[:, ::-1][:, ::-1]):
        out = transforms.ToTensor()(image)
        assert out.dtype == dc.float32 and out.shape == (3, 24, 31) and out.array.flags.c_contiguous
        np.testing.assert_array_equal(out.numpy(), expected)
    assert transforms.ToTensor()(array[..., 0]).shape == (1, 24, 31)
    assert transforms.ToTensor()(Image.fromarray(array).convert("1")).numpy().max() == 1
    doubles = transforms.ToTensor()(array.astype(np.float64))
    assert doubles.dtype == dc.float64 and doubles.max().item() == array.max(), "not scaled"
    whole = transforms.PILToTensor()(Image.fromarray(array))
    np.testing.assert_array_equal(whole.numpy(), chw(array).numpy())
    back = transforms.ToPILImage()(transforms.ToTensor()(array))
    assert abs(np.asarray(back).astype(int) - array).max() <= 1
    np.testing.assert_array_equal(np.asarray(transforms.ToPILImage()(whole)), array)
    as_floats = transforms.ConvertImageDtype()(whole)
    np.testing.assert_array_equal(as_floats.numpy(), expected)
    np.testing.assert_array_equal(transforms.ConvertImageDtype(dc.uint8)(as_floats).numpy(), whole.numpy())


def test_normalize(backend):
    x = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    m, s = (np.float32(v).reshape(3, 1, 1) for v in (mean, std))
    t = dc.tensor(x, backend=backend)
    np.testing.assert_array_equal(transforms.Normalize(mean, std)(t).numpy(), (x - m) / s)
    np.testing.assert_array_equal(t.numpy(), x)
    array = x[0].transpose(1, 2, 0).copy()
    np.testing.assert_array_equal(transforms.Normalize(mean, std)(array), ((x - m) / s)[0].transpose(1, 2, 0))
    transforms.Normalize(mean, std, inplace=True)(t)
    np.testing.assert_array_equal(t.numpy(), (x - m) / s)
    y = dc.tensor(x, backend=backend, requires_grad=True)
    transforms.Normalize(mean, std)(y).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), np.broadcast_to(1 / s, x.shape), rtol=1e-6)


# -- random ones --------------------------------------------------------------------------------------
RANDOM = [
    transforms.RandomCrop(12, padding=2),
    transforms.RandomCrop((30, 12), pad_if_needed=True),
    transforms.RandomResizedCrop(16),
    transforms.RandomHorizontalFlip(),
    transforms.RandomVerticalFlip(),
    transforms.RandomRotation(40),
    transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
    transforms.RandomErasing(1.0),
    transforms.RandomErasing(1.0, value="random"),
    transforms.RandomGrayscale(0.5),
    transforms.RandomApply([transforms.CenterCrop(8)]),
    transforms.RandomChoice([transforms.Pad(1), transforms.Pad(2)], p=[0.2, 0.8]),
    transforms.RandomOrder([transforms.Pad(1), transforms.CenterCrop(9)]),
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_random_transforms_draw_from_deepcores_generator(transform):
    array = picture()
    for image in (array, Image.fromarray(array), chw(array), chw(array).float() / 255):
        runs = []
        for seed in (1, 1, *range(2, 12)):
            dc.manual_seed(seed)
            runs.append(as_array(transform(image)))
        assert runs[0].tobytes() == runs[1].tobytes()
        assert any(run.shape != runs[0].shape or run.tobytes() != runs[0].tobytes() for run in runs)
    copy = pickle.loads(pickle.dumps(transform))
    dc.manual_seed(1)
    first = as_array(transform(array))
    dc.manual_seed(1)
    assert as_array(copy(array)).tobytes() == first.tobytes()
    assert type(transform).__name__ in repr(transform)


def test_probabilities_and_places():
    array = picture()
    flipped = sum(transforms.RandomHorizontalFlip(0.3)(array) is not array for _ in range(2000))
    assert abs(flipped - 600) < 4 * math.sqrt(2000 * 0.21)
    tops = [transforms.RandomCrop.get_params(array, (20, 20))[:2] for _ in range(600)]
    assert {t for t, _ in tops} == set(range(5)) and {left for _, left in tops} == set(range(12))
    choices = [transforms.RandomChoice([lambda x: 0, lambda x: 1, lambda x: 2], p=[1, 0, 3])(0) for _ in range(400)]
    assert set(choices) == {0, 2} and 60 < choices.count(0) < 140


def test_parts_of_random_resized_crops():
    array = np.zeros((100, 150, 3), np.uint8)
    shares = []
    for _ in range(300):
        top, left, h, w = transforms.RandomResizedCrop.get_params(array, (0.2, 0.6), (0.5, 2.0))
        assert 0 <= top <= 100 - h and 0 <= left <= 150 - w and 0.45 < w / h < 2.2
        shares.append(h * w / 15000)
    assert 0.19 < min(shares) < 0.25 and 0.5 < max(shares) < 0.61
    narrow = transforms.RandomResizedCrop.get_params(np.zeros((10, 200, 3)), (1.0, 1.0), (0.75, 4 / 3))
    assert narrow == (0, 93, 10, 13), "the largest middle part"


def test_jitter_stays_within_its_factors(monkeypatch):
    seen = {}
    for name in ("brightness", "contrast", "saturation", "hue"):

        def adjust(x, factor, name=name):
            seen.setdefault(name, []).append(factor)
            return x

        monkeypatch.setattr(functional, f"adjust_{name}", adjust)
    jitter = transforms.ColorJitter(0.4, (0.9, 2.0), 3.0, 0.2)
    for _ in range(200):
        jitter(picture())
    for name, low, high in (("brightness", 0.6, 1.4), ("contrast", 0.9, 2.0), ("saturation", 0, 4), ("hue", -0.2, 0.2)):
        values = seen[name]
        assert len(values) == 200 and low <= min(values) and max(values) <= high
        assert max(values) - min(values) > 0.9 * (high - low)


def test_erased_share():
    ones = np.ones((60, 80, 3), np.float32)
    for _ in range(100):
        share = 1 - transforms.RandomErasing(1.0, (0.1, 0.2))(ones).mean()
        assert 0.08 < share < 0.22
    assert ones.min() == 1


# -- batches ------------------------------------------------------------------------------------------
def test_mixup_by_formula(backend):
    x = dc.rand(6, 3, 5, 7, backend=backend)
    y = dc.tensor([0, 1, 2, 3, 0, 1], backend=backend)
    mix = transforms.MixUp(alpha=0.7, num_classes=4)
    images, labels = mix(x, y)
    share = float(labels.numpy()[0, 0])
    assert 0 < share < 1
    before = np.roll(x.numpy(), 1, 0)
    np.testing.assert_allclose(images.numpy(), share * x.numpy() + (1 - share) * before, atol=1e-6)
    rows = np.eye(4)[y.numpy()]
    np.testing.assert_allclose(labels.numpy(), share * rows + (1 - share) * np.roll(rows, 1, 0), atol=1e-6)
    again, soft = mix((x, labels))
    assert again.shape == x.shape and soft.shape == (6, 4)
    np.testing.assert_allclose(soft.sum(1).numpy(), 1, atol=1e-6)


def test_cutmix_by_formula(backend):
    x = dc.rand(4, 2, 12, 16, backend=backend)
    y = dc.arange(4, backend=backend)
    for _ in range(10):
        images, labels = transforms.CutMix(num_classes=4)(x, y)
        before = np.roll(x.numpy(), 1, 0)
        changed = images.numpy() != x.numpy()
        np.testing.assert_array_equal(images.numpy(), np.where(changed, before, x.numpy()))
        rows, columns = changed[0, 0].any(1), changed[0, 0].any(0)
        assert changed.sum() == 8 * rows.sum() * columns.sum(), "a rectangle, the same in each"
        np.testing.assert_allclose(labels.numpy()[1, 1], 1 - changed[0, 0].mean(), atol=1e-6)


# -- folders ------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    for c, name in enumerate(("cat", "dog", "emu")):
        for i in range(4):
            path = tmp_path / "train" / name / f"{i}.{'png' if i % 2 else 'JPG'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(20 + i, 24, 10 * c + i)).save(path, "PNG" if i % 2 else "JPEG")
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "dog" / "more").mkdir()
    Image.fromarray(picture(9, 9)).convert("L").save(tmp_path / "train" / "dog" / "more" / "x.png")
    return tmp_path / "train"


def test_image_folder(folder):
    data = ImageFolder(folder)
    assert data.classes == ["cat", "dog", "emu"] and data.class_to_idx == {"cat": 0, "dog": 1, "emu": 2}
    assert len(data) == 13 and data.targets == [0] * 4 + [1] * 5 + [2] * 4
    names = [os.path.relpath(path, folder) for path, _ in data.imgs]
    assert names[4:9] == ["dog/0.JPG", "dog/1.png", "dog/2.JPG", "dog/3.png", "dog/more/x.png"]
    image, label = data[1]
    assert label == 0 and image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), picture(21, 24, 1))
    assert data[8][0].mode == "RGB", "grey files, too"
    assert data[-1][1] == 2
    grey = ImageFolder(folder, loader=functools.partial(vision.read_image, mode="L"), target_transform=str)
    assert grey[0][0].mode == "L" and grey[0][1] == "0"
    only = ImageFolder(folder, is_valid_file=lambda path: path.endswith(".png"))
    assert len(only) == 7


AUGMENT = transforms.Compose(
    [
        transforms.RandomResizedCrop(16),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3, 0.1),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.25] * 3),
        transforms.RandomErasing(0.5),
    ]
)


def test_augmented_batches_do_not_depend_on_the_workers(backend, folder):
    runs = []
    for workers in (0, 2):
        loader = DataLoader(ImageFolder(folder, AUGMENT), 4, shuffle=True, seed=3, num_workers=workers, backend=backend)
        runs.append([(x, y) for _ in range(2) for x, y in loader])
    for (x, y), (u, v) in zip(*runs):
        assert x.shape[1:] == (3, 16, 16) and str(x.backend) == str(dc.backend.get_backend(backend))
        np.testing.assert_array_equal(x.numpy(), u.numpy())
        np.testing.assert_array_equal(y.numpy(), v.numpy())
    first, second = runs[0][:4], runs[0][4:]
    assert any(a.numpy().tobytes() != b.numpy().tobytes() for (a, _), (b, _) in zip(first, second)), "epochs differ"


def test_mixing_in_the_loader(folder):
    size = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])

    def collate(samples):
        return transforms.MixUp(num_classes=3)(dc.data.default_collate(samples))

    x, y = next(iter(DataLoader(ImageFolder(folder, size), 5, collate_fn=collate)))
    assert x.shape == (5, 3, 8, 8) and y.shape == (5, 3)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda root: ImageFolder(root / "absent"), DataError, "does not exist"),
        (lambda root: ImageFolder(root / "cat"), DataError, "no folder for a class"),
        (lambda root: ((root / "zoo").mkdir(), ImageFolder(root)), DataError, "no file of class 'zoo'"),
        (lambda root: ImageFolder(root)["a"], ArgumentError, "by its number"),
        (lambda root: ImageFolder(root)[99], IndexError, "no sample 99"),
    ],
)
def test_faults_of_folders(folder, make, error, words):
    with pytest.raises(error, match=words):
        make(folder)


def test_a_batch_of_pil_images_says_what_to_do(folder):
    with pytest.raises(DataError, match="ToTensor"):
        next(iter(DataLoader(ImageFolder(folder), 2)))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b""):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def test_hostile_images_are_quick_typed_errors(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(picture()).save(good)
    content = good.read_bytes()
    files = {
        "bomb.png": png(60_000, 60_000, zlib.compress(bytes(1 << 20))),
        "large.png": png(4000, 4000),
        "cut.png": content[: len(content) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "pickle.png": pickle.dumps(os.system),
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 1, 1, 0, 0),
        "bomb.ppm": b"P6 90000 90000 255\n",
        "gif.png": b"GIF89a" + bytes(20),
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        begin = time.perf_counter()
        with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
            vision.read_image(tmp_path / name)
        assert time.perf_counter() - begin < 2
    rng = np.random.default_rng(0)
    for i in range(50):  # any damage is a typed error, or an image
        data = bytearray(content)
        for place in rng.integers(8, len(data), 4):
            data[place] = rng.integers(256)
        (tmp_path / "f.png").write_bytes(bytes(data))
        try:
            vision.read_image(tmp_path / "f.png")
        except DeepcoreError as error:
            assert "f.png" in str(error), i


def test_exif_orientation_is_applied_where_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(10, 20)).save(tmp_path / "f.jpg", exif=exif)
    assert vision.read_image(tmp_path / "f.jpg").size == (20, 10)
    assert vision.read_image(tmp_path / "f.jpg", upright=True).size == (10, 20)


# -- boxes --------------------------------------------------------------------------------------------
def annotation(*objects, size=(24, 31), before=""):
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, hard, (a, b, c, d) in objects
    )
    return f"{before}<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{boxes}</annotation>"


@pytest.fixture
def voc(tmp_path):
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / name).mkdir(parents=True)
    contents = [
        annotation(("dog", 0, (1, 2, 10, 12)), ("cat", 1, (3, 4.5, 9, 20))),
        annotation(),
        annotation(("cat", 0, (0, 0, 31, 24))),
    ]
    for i, text in enumerate(contents):
        (tmp_path / "Annotations" / f"{i}.xml").write_text(text)
        Image.fromarray(picture(24 + i, 31, i)).save(tmp_path / "JPEGImages" / f"{i}.jpg")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n")
    (tmp_path / "ImageSets" / "Main" / "cat_train.txt").write_text("0  1\n1 -1\n2  1\n")
    return tmp_path


def test_boxes(voc):
    data = VOCDetection(voc)
    assert data.classes == ["cat", "dog"] and len(data) == 3
    image, target = data[0]
    assert image.size == (31, 24) and target["image_id"] == "0" and target["size"] == (24, 31)
    assert target["boxes"].tolist() == [[1, 2, 10, 12], [3, 4.5, 9, 20]] and target["boxes"].dtype == dc.float32
    assert target["labels"].tolist() == [1, 0] and target["difficult"].tolist() == [False, True]
    assert data[1][1]["boxes"].shape == (0, 4)
    assert VOCDetection(voc, "cat_train").ids == ["0", "2"] and len(VOCDetection(voc, None)) == 3
    easy = VOCDetection(voc, keep_difficult=False, classes=["dog", "cat"])
    assert easy[0][1]["labels"].tolist() == [0]
    both = VOCDetection(voc, transforms=lambda image, target: (image.size, target["labels"].tolist()))
    assert both[2] == ((31, 26), [0])


def test_batches_of_boxes(backend, voc):
    data = VOCDetection(voc, transform=transforms.ToTensor())
    loader = DataLoader(data, 3, collate_fn=detection_collate, backend=backend, num_workers=2)
    images, targets = next(iter(loader))
    assert [tuple(x.shape) for x in images] == [(3, 24, 31), (3, 25, 31), (3, 26, 31)]
    assert [len(t["boxes"]) for t in targets] == [2, 0, 1]
    assert all(str(x.backend) == str(targets[0]["boxes"].backend) for x in images)
    same = VOCDetection(voc, transform=transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()]))
    assert next(iter(DataLoader(same, 3, collate_fn=detection_collate)))[0].shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("<annotation><object><name>a</name></object></annotation>", DataError, "without bndbox"),
        (annotation(("a", 0, (5, 2, 1, 9))), DataError, "end is before its start"),
        (annotation(("a", 0, ("x", 2, 1, 9))), DataError, "no number as <xmin>"),
        (annotation(("a", 0, ("nan", 2, 1, 9))), DataError, "no number as <xmin>"),
        ("<html></html>", DataError, "no annotation"),
        ("<annotation>", FileFormatError, "is not XML"),
        ("", FileFormatError, "is not XML"),
        ("\0", FileFormatError, "is not XML"),
        ("<a>" * 100, FileFormatError, "nested too deeply"),
        (annotation(before='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'), FileFormatError, "document type"),
        (
            annotation(before='<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'),
            FileFormatError,
            "document type",
        ),
        ('<?xml version="1.0" encoding="odd"?><annotation/>', FileFormatError, "encoding"),
        ("<annotation>" + " " * (1 << 22) + "</annotation>", FileFormatError, "too large"),
    ],
    ids=range(13),
)
def test_faults_of_annotations(voc, text, error, words):
    (voc / "Annotations" / "1.xml").write_text(text)
    with pytest.raises(error, match=words) as caught:
        VOCDetection(voc)
    assert "1.xml" in str(caught.value)


def test_faults_of_image_sets(voc):
    with pytest.raises(DataError, match="did you mean 'train'"):
        VOCDetection(voc, "trian")
    with pytest.raises(DataError, match="Annotations"):
        VOCDetection(voc, year=2012)
    with pytest.raises(DataError, match="no class"):
        VOCDetection(voc, classes=["cat"])
    (voc / "ImageSets" / "Main" / "train.txt").write_text("../../../etc/passwd\n")
    with pytest.raises(DataError, match="names no image of its own"):
        VOCDetection(voc)
    os.remove(voc / "JPEGImages" / "0.jpg")
    with pytest.raises(DataError, match="no image"):
        VOCDetection(voc, None)[0]


# -- errors -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: transforms.ToTensor()("x.png"), ArgumentError, "no image"),
        (lambda: transforms.Normalize([0.5], [0.5])(picture()), DTypeError, "ToTensor"),
        (lambda: transforms.Normalize([0.5], [0.0])(dc.rand(3, 2, 2)), ArgumentError, "no zeros"),
        (lambda: transforms.Normalize([0.5] * 2, [1.0] * 2)(dc.rand(3, 2, 2)), ArgumentError, "3 channels"),
        (lambda: transforms.Resize(0), ArgumentError, "at least 1"),
        (lambda: transforms.Resize(5, "cubic")(picture()), ArgumentError, "'bicubic'"),
        (lambda: transforms.Resize(5, "lanczos")(chw(picture())), ArgumentError, "before ToTensor"),
        (lambda: transforms.Resize(5, max_size=4)(picture()), ArgumentError, "more than size"),
        (lambda: transforms.RandomCrop(99)(picture()), ArgumentError, "pad_if_needed"),
        (lambda: transforms.RandomHorizontalFlip(2), ArgumentError, "probability"),
        (lambda: transforms.Pad(-1), ArgumentError, "at least 0"),
        (lambda: transforms.Pad(40, padding_mode="reflect")(picture()), ArgumentError, "less than"),
        (lambda: transforms.ColorJitter(hue=0.7), ArgumentError, "0.5"),
        (lambda: transforms.ColorJitter(brightness=(2, 1)), ArgumentError, "smallest, largest"),
        (lambda: transforms.RandomErasing(scale=(0.5, 2)), ArgumentError, "at most 1"),
        (lambda: transforms.RandomRotation(-3), ArgumentError, "degrees"),
        (lambda: transforms.Compose([3]), ArgumentError, "callables"),
        (lambda: transforms.MixUp()(dc.rand(2, 3, 4, 4), dc.tensor([0, 1])), ArgumentError, "num_classes"),
        (lambda: transforms.MixUp(alpha=0), ArgumentError, "alpha"),
        (lambda: transforms.CutMix()(dc.rand(3, 4, 4), dc.tensor([0, 1, 2])), ShapeError, "a batch"),
        (lambda: functional.adjust_hue(dc.rand(4, 2, 2), 0.1), ShapeError, "3, H, W"),
        (lambda: functional.hflip(np.zeros(3)), ShapeError, "H, W"),
    ],
)
def test_errors_name_the_fault(call, error, words):
    with pytest.raises(error, match=words):
        call()


# -- real data ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_blood_cells():
    root = os.environ.get("DEEPCORE_DATA")
    if not root or not Path(root, "bccd").is_dir():
        pytest.skip("DEEPCORE_DATA has no bccd")
    size = transforms.Compose([transforms.Resize((120, 160)), transforms.ToTensor()])
    sets = {name: VOCDetection(Path(root, "bccd"), name, transform=size) for name in ("train", "val", "test")}
    assert sum(map(len, sets.values())) == 364
    assert sets["train"].classes == ["Platelets", "RBC", "WBC"]
    loader = DataLoader(sets["test"], 16, collate_fn=detection_collate, num_workers=2)
    count = 0
    for images, targets in loader:
        assert images.shape[1:] == (3, 120, 160)
        count += sum(len(target["boxes"]) for target in targets)
    assert count > 500
