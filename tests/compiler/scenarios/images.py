"""Networks of images."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn, optim

from . import scenario
from .common import F, randn


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels, norm):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([norm(channels), norm(channels)])

    def forward(self, x):
        out = F.relu(self.norms[0](self.first(x)))
        return F.relu(x + self.norms[1](self.second(out)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(6, 3, 2, stride=2), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        high = F.relu(self.down(x))
        low = F.relu(self.middle(F.max_pool2d(high, 2)))
        return self.last(dc.cat([self.up(low), high], 1))


def classifier(*body):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


CLASSIFIERS = {
    "max pooling": lambda: classifier(nn.ReLU(), nn.MaxPool2d(2)),
    "average pooling": lambda: classifier(nn.AvgPool2d(2), nn.Tanh()),
    "batch norm": lambda: classifier(Block(4, nn.BatchNorm2d)),
    "group norm": lambda: classifier(Block(4, lambda c: nn.GroupNorm(2, c))),
    "instance norm": lambda: classifier(
        Block(4, lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True))
    ),
    "depthwise": lambda: classifier(nn.Conv2d(4, 4, 3, groups=4, padding="same"), nn.GELU()),
    "channel dropout": lambda: classifier(nn.Dropout2d(0.4), nn.ReLU()),
    "reflections": lambda: classifier(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
    "resampling": lambda: classifier(nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.LocalResponseNorm(2)),
    "adaptive": lambda: classifier(nn.AdaptiveMaxPool2d(3), nn.LPPool2d(2, 2)),
}


@scenario(each=CLASSIFIERS)
def classified(compile, make):
    model = make()
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for k in range(6):
        yield step(randn(4, 1, 8, 8, seed=k), dc.arange(4) % 3), model, optimizer
    model.eval()
    yield compile(model)(randn(2, 1, 8, 8, seed=9)).detach()


@scenario(each={"cross-entropy": F.binary_cross_entropy_with_logits, "dice": F.dice_loss})
def segmented(compile, loss):
    model = UNet()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compile
    def step(x):
        optimizer.zero_grad()
        value = loss(model(x), (x > 0).float())
        value.backward()
        optimizer.step()
        return value.detach()

    for k in range(6):
        yield step(randn(2, 1, 8, 8, seed=k)), model, optimizer


@scenario()
def warped(compile):
    """A spatial transformer's forward, differentiated outside."""
    theta = nn.Parameter(dc.tensor([[[0.9, 0.1, 0.0], [-0.1, 0.8, 0.2]]]))

    @compile
    def warp(x, theta):
        grid = F.affine_grid(theta.expand(x.shape[0], 2, 3), x.shape, align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    for k in range(6):
        theta.grad = None
        warp(randn(2, 1, 6, 6, seed=k), theta).square().sum().backward()
        yield theta.grad
