"""A small ResNet; its weights to a file and back, a part of them into another model, frozen features, fine-tuning."""

import os
import tempfile
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch import Tensor

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def conv3x3(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    expansion: int = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inplanes, planes, stride), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(planes, planes), nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.inplanes = 8
        self.stem = nn.Sequential(
            OrderedDict([("conv", conv3x3(3, 8)), ("bn", nn.BatchNorm2d(8)), ("relu", nn.ReLU())])
        )
        self.layer1 = self._make_layer(8, 1)
        self.layer2 = self._make_layer(16, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)
        for m in self.modules():
            if isinstance(m, BasicBlock):
                nn.init.constant_(m.bn2.weight, 0)

    def _make_layer(self, planes, blocks, stride=1):
        downsample = None
        if stride != 1 or self.inplanes != planes:
            downsample = nn.Sequential(nn.Conv2d(self.inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
        layers = [BasicBlock(self.inplanes, planes, stride, downsample)]
        self.inplanes = planes
        layers += [BasicBlock(planes, planes) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((8, 3, 12, 12)).astype(np.float32)).to(device)
    y = torch.from_numpy(rng.integers(0, 5, 8)).to(device)
    model = seeded(ResNet()).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1).to(device)

    def train_step(x, y):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [train_step(x, y).item() for _ in range(4)]
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "resnet.pt")
        torch.save(model.state_dict(), path)
        state = torch.load(path, map_location=device)
    restored = ResNet().to(device)
    print(restored.load_state_dict(state))
    restored.eval()
    assert torch.equal(model(x), restored(x))

    # Another head: the rest of the weights, found by name and shape.
    other = seeded(ResNet(num_classes=3), 1).to(device)
    own = other.state_dict()
    kept = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    missing, unexpected = other.load_state_dict(kept, strict=False)
    print(missing, unexpected)
    for name, p in other.named_parameters():
        p.requires_grad_(name.startswith("fc"))
    trained = [name for name, p in other.named_parameters() if p.requires_grad]
    print(trained, sum(p.numel() for p in other.parameters() if p.requires_grad))
    other.fc = nn.Identity()
    features = other.eval()(x)
    try:
        ResNet(3).load_state_dict(state)
    except RuntimeError as e:
        print("size mismatch for fc.weight" in str(e) or "fc.weight" in str(e))
    return {
        "losses": losses,
        "logits": model(x),
        "features": features,
        "running_var": state["layer2.1.bn1.running_var"],
        "tracked": state["stem.bn.num_batches_tracked"],
        "names": list(state),
        "grad": model.layer2[0].downsample[0].weight.grad,
    }
