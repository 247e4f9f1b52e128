"""Find the membranes of nerve cells in electron micrographs with a small U-Net, with deepcore or with PyTorch.

    python examples/membranes.py [--library torch] [--minutes 2]

The two libraries run the same lines below; the one difference is `compiled`. The data are the 30 slices of the ISBI 2012
challenge, `membrane/image/0.png` … and `membrane/label/0.png` … in the folder that DEEPCORE_DATA names: the first 25 to
train on, the last 5 to test on. A slice of 512×512 is more than the network's 128×128, so it learns from random crops
and predicts a slice tile by tile.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from two_libraries import compiled, library_called, real_data, train_for

from deepcore.data.vision import read_image
from deepcore.errors import DataError, DeepcoreError, FileFormatError

SIZE, TILE, TRAINING = 512, 128, 25  # pixels of a slice and of a crop; slices to train on


# -- the network ------------------------------------------------------------------------------------------
def unet(library):
    """A U-Net of two levels, 64-128-64: what the lower one sees of the surroundings is joined to the upper one's detail."""
    nn = library.nn

    def double_convolution(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
        )

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = double_convolution(1, 64)
            self.pool = nn.MaxPool2d(2)
            self.bottom = double_convolution(64, 128)
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
            self.join = double_convolution(128 + 64, 64)
            self.out = nn.Conv2d(64, 1, 1)

        def forward(self, x):
            detail = self.down(x)
            surroundings = self.up(self.bottom(self.pool(detail)))
            return self.out(self.join(library.cat([surroundings, detail], 1)))

    model = UNet()
    assert sum(p.numel() for p in model.parameters()) == 406_657
    return model


# -- the data ---------------------------------------------------------------------------------------------
def read_slices(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and masks (1 on membranes), both (30, 512, 512) float32."""
    images = np.stack([read_png(folder / "image" / f"{i}.png") for i in range(30)])
    labels = np.stack([read_png(folder / "label" / f"{i}.png") for i in range(30)])
    return images / np.float32(255), (labels < 128).astype(np.float32)


def read_png(path: Path) -> np.ndarray:
    try:
        image = read_image(path, "L")
    except FileNotFoundError:
        raise DataError(
            f"there is no {path}", fix="set DEEPCORE_DATA to a folder with the ISBI 2012 slices in membrane/"
        ) from None
    if image.size != (SIZE, SIZE):
        raise FileFormatError(f"{path} has another size", expected=(SIZE, SIZE), received=image.size)
    return np.asarray(image)


def random_crops(images, masks, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """`count` crops of random slices, (count, 1, 128, 128), each flipped and turned in one of eight ways."""
    pairs = []
    for _ in range(count):
        i, (y, x) = rng.integers(len(images)), rng.integers(SIZE - TILE + 1, size=2)
        pair = np.stack([images[i, y : y + TILE, x : x + TILE], masks[i, y : y + TILE, x : x + TILE]])
        pair = np.rot90(pair, rng.integers(4), (1, 2))
        pairs.append(pair[:, :, ::-1] if rng.integers(2) else pair)
    crops = np.stack(pairs)
    return crops[:, :1].copy(), crops[:, 1:].copy()


# -- training and testing ---------------------------------------------------------------------------------
def train(library, model, images, masks, seconds: float, batch: int) -> None:
    """Adam on the binary cross-entropy of random crops, until the time is up."""
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    loss_function = library.nn.BCEWithLogitsLoss()

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = compiled(library, step)
    rng = np.random.default_rng(0)

    def one(number, share):
        return step(*map(library.from_numpy, random_crops(images, masks, batch, rng))).item()

    train_for(seconds, one, batch, "crops", ".2f")


def predict(library, model, images, batch: int) -> np.ndarray:
    """Whether each pixel of the slices is on a membrane: the 16 tiles of each, put together again."""
    tiles = images.reshape(-1, 4, TILE, 4, TILE).swapaxes(2, 3).reshape(-1, 1, TILE, TILE)
    forward = compiled(library, lambda x: model(x) > 0)
    predicted = []
    with library.no_grad():
        for i in range(0, len(tiles), batch):
            predicted.append(forward(library.from_numpy(tiles[i : i + batch].copy())).numpy())
    return np.concatenate(predicted).reshape(-1, 4, 4, TILE, TILE).swapaxes(2, 3).reshape(images.shape)


def save_picture(path: Path, image, mask, predicted) -> bool:
    """Slice, mask and prediction side by side, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: pip install matplotlib")
        return False
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    for axes, title, pixels in zip(
        figure.subplots(1, 3), ("slice", "mask", "prediction"), (image, 1 - mask, ~predicted)
    ):
        axes.imshow(pixels, cmap="gray")
        axes.set_title(title)
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return True


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """The intersection over union and the pixel error on the test slices."""
    parser = argparse.ArgumentParser(description="Membranes in electron micrographs, with a small U-Net.")
    parser.add_argument("--library", choices=["deepcore", "torch"], default="deepcore")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train (default 2)")
    parser.add_argument("--batch", type=int, default=4, help="crops in a step (default 4)")
    parser.add_argument("--picture", type=Path, help="where to save it (default runs/membranes-LIBRARY.png)")
    options = parser.parse_args(arguments)
    library = library_called(options.library)
    images, masks = read_slices(real_data("membrane/"))
    images = (images - images[:TRAINING].mean()) / images[:TRAINING].std()

    library.manual_seed(0)
    model = unet(library)
    print(f"{options.library}: {TRAINING} slices to train on, {len(images) - TRAINING} to test on; 406,657 parameters")
    train(library, model, images[:TRAINING], masks[:TRAINING], 60 * options.minutes, options.batch)

    start = time.perf_counter()
    predicted, true = predict(library, model, images[TRAINING:], options.batch), masks[TRAINING:] > 0
    overlap = (predicted & true).sum() / max(1, (predicted | true).sum())
    error = (predicted != true).mean()
    print(f"{len(predicted)} test slices in {time.perf_counter() - start:.1f} s")
    print(
        f"membranes: intersection over union {overlap:.3f}, pixel error {error:.2%} (no membrane anywhere: {true.mean():.2%})"
    )
    picture = options.picture or Path("runs") / f"membranes-{options.library}.png"
    if save_picture(picture, images[-1], masks[-1], predicted[-1]):
        print(f"picture: {picture}")
    return float(overlap), float(error)


if __name__ == "__main__":
    try:
        main()
    except DeepcoreError as problem:
        sys.exit(str(problem))
