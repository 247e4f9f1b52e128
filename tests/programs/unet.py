"""A small U-Net that segments squares, with a Dice loss."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


class DoubleConv(nn.Sequential):
    def __init__(self, in_ch, out_ch):
        super().__init__(
            nn.Conv2d(in_ch, out_ch, 3, padding="same"),
            nn.GroupNorm(2, out_ch),
            nn.SiLU(inplace=True),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
            nn.InstanceNorm2d(out_ch, affine=True),
            nn.LeakyReLU(0.2),
        )


class Up(nn.Module):
    def __init__(self, in_ch, out_ch, bilinear):
        super().__init__()
        if bilinear:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(in_ch, out_ch, 1)
            )
        else:
            self.up = nn.ConvTranspose2d(in_ch, out_ch, kernel_size=2, stride=2)
        self.conv = DoubleConv(2 * out_ch, out_ch)

    def forward(self, x1, x2):
        x1 = self.up(x1)
        dy, dx = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


class UNet(nn.Module):
    def __init__(self, n_channels=1, n_classes=1):
        super().__init__()
        self.inc = DoubleConv(n_channels, 4)
        self.downs = nn.ModuleList([nn.Sequential(nn.MaxPool2d(2), DoubleConv(c, 2 * c)) for c in (4, 8)])
        self.ups = nn.ModuleList([Up(16, 8, bilinear=True), Up(8, 4, bilinear=False)])
        self.outc = nn.Conv2d(4, n_classes, kernel_size=1)

    def forward(self, x):
        skips = [self.inc(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, skip in zip(self.ups, reversed(skips)):
            x = up(x, skip)
        return self.outc(x)


def dice_loss(logits, target, smooth=1.0):
    p = torch.sigmoid(logits).flatten(1)
    t = target.flatten(start_dim=1)
    intersection = (p * t).sum(-1)
    return 1 - ((2.0 * intersection + smooth) / (p.sum(-1) + t.sum(-1) + smooth)).mean()


def main():
    rng = np.random.default_rng(0)
    masks = torch.zeros(4, 1, 18, 18, device=device)
    for i, (r, c) in enumerate(rng.integers(2, 10, (4, 2)).tolist()):
        masks[i, :, r : r + 5, c : c + 5] = 1
    noise = torch.from_numpy(rng.standard_normal((4, 1, 18, 18)).astype("float32")).to(device)
    images = masks + 0.3 * noise
    net = seeded(UNet()).to(device)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, weight_decay=1e-8, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0], device=device))

    def train_step(images, masks):
        logits = net(images)
        loss = criterion(logits, masks) + dice_loss(logits, masks)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss

    losses = [train_step(images, masks).item() for _ in range(5)]
    net.eval()
    with torch.inference_mode():
        pred = (net(images).sigmoid() > 0.5).float()
    iou = (pred * masks).sum() / ((pred + masks) > 0).sum()
    print(f"loss {losses[-1]:.3f} on {tuple(images.shape[2:])}")
    return {"losses": losses, "iou": iou, "up": net.ups[0].up[1].weight, "probs": net(images).sigmoid().mean((2, 3))}
