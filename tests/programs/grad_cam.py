"""Hooks: features and gradients of a layer for Grad-CAM, activations' statistics, guided backpropagation, removal."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class GradCAM:
    def __init__(self, model, target_layer):
        self.model, self.activations, self.gradients = model, None, None
        self.handles = [
            target_layer.register_forward_hook(self._save_activation),
            target_layer.register_full_backward_hook(self._save_gradient),
        ]

    def _save_activation(self, module, input, output):
        self.activations = output.detach()

    def _save_gradient(self, module, grad_input, grad_output):
        self.gradients = grad_output[0].detach()

    def __call__(self, x, index=None):
        self.model.zero_grad()
        output = self.model(x)
        if index is None:
            index = np.argmax(output.cpu().data.numpy())
        one_hot = torch.zeros_like(output)
        one_hot[0][index] = 1
        output.backward(gradient=one_hot, retain_graph=True)
        weights = self.gradients.mean(dim=(2, 3), keepdim=True)
        cam = F.relu((weights * self.activations).sum(1, keepdim=True))
        cam = F.interpolate(cam, size=x.shape[2:], mode="bilinear", align_corners=False)
        cam = cam - cam.min()
        return (cam / (cam.max() + 1e-8)).squeeze(), index

    def release(self):
        for handle in self.handles:
            handle.remove()


def main():
    rng = np.random.default_rng(0)
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 6, 3, padding=1))
    model.add_module("relu1", nn.ReLU())
    model.add_module("pool", nn.MaxPool2d(2))
    model.add_module("conv2", nn.Conv2d(6, 8, 3, padding=1))
    model.add_module("relu2", nn.ReLU())
    model.add_module("gap", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(8, 4))
    seeded(model).to(device).eval()
    x = torch.from_numpy(rng.standard_normal((1, 3, 12, 12)).astype("float32")).to(device)

    statistics = {}

    def get_activation(name):
        def hook(module, input, output):
            statistics[name] = (output.mean().item(), (output <= 0).float().mean().item(), tuple(input[0].shape))

        return hook

    handles = [layer.register_forward_hook(get_activation(name)) for name, layer in model.named_children()]
    cam = GradCAM(model, dict(model.named_modules())["conv2"])
    mask, index = cam(x)
    for handle in handles:
        handle.remove()
    cam.release()
    before = dict(statistics)
    model(x * 2)
    assert statistics == before

    # Guided backpropagation: only positive gradients pass a ReLU.
    guided = [
        m.register_full_backward_hook(lambda m, gin, gout: (torch.clamp(gin[0], min=0.0),))
        for m in model.modules()
        if isinstance(m, nn.ReLU)
    ]
    image = x.clone().requires_grad_()
    seen = []
    image.register_hook(lambda g: seen.append(g.abs().sum().item()))
    model(image)[0, index].backward()
    for h in guided:
        h.remove()

    # A forward hook may replace the result, a pre-hook the input.
    double = model.fc.register_forward_hook(lambda m, i, o: o * 2)
    half = model.conv1.register_forward_pre_hook(lambda m, i: (i[0] / 2,))
    changed = model(x).detach()
    double.remove()
    half.remove()
    for name, (mean, dead, shape) in statistics.items():
        print(f"{name:8s} mean {mean:7.4f} dead {dead:.3f} {shape}")
    return {"mask": mask, "index": int(index), "guided": image.grad, "seen": seen, "changed": changed}
