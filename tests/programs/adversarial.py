"""Adversarial examples: FGSM, projected gradients, a targeted attack, adversarial training, saliency."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from seeded import seeded

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


def fgsm_attack(image, epsilon, data_grad):
    sign_data_grad = data_grad.sign()
    perturbed_image = image + epsilon * sign_data_grad
    return torch.clamp(perturbed_image, 0, 1)


def pgd(model, images, labels, eps=0.1, alpha=0.03, iters=4, target=None):
    ori_images = images.data
    for _ in range(iters):
        images.requires_grad = True
        outputs = model(images)
        model.zero_grad()
        cost = F.cross_entropy(outputs, labels) if target is None else -F.cross_entropy(outputs, target)
        cost.backward()
        adv_images = images + alpha * images.grad.sign()
        eta = torch.clamp(adv_images - ori_images, min=-eps, max=eps)
        images = torch.clamp(ori_images + eta, min=0, max=1).detach_()
    return images


def main():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 3, 30)).to(device)
    images = torch.from_numpy(rng.random((30, 1, 6, 6)).astype("float32")).to(device) * 0.5
    for i in range(3):
        images[labels == i, :, 2 * i : 2 * i + 2] += 0.5
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model = seeded(model).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(6):
        data = images.clone().detach().requires_grad_(True)
        clean = F.cross_entropy(model(data), labels)
        (data_grad,) = torch.autograd.grad(clean, data, retain_graph=True)
        attacked = fgsm_attack(data, 0.05, data_grad).detach()
        loss = 0.5 * clean + 0.5 * F.cross_entropy(model(attacked), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    accuracies, examples = [], []
    for eps in (0, 0.1, 0.3):
        correct = 0
        for i in range(10):
            data, target = images[i : i + 1].clone(), labels[i : i + 1]
            data.requires_grad = True
            output = model(data)
            init_pred = output.max(1, keepdim=True)[1]
            if init_pred.item() != target.item():
                continue
            loss = F.nll_loss(F.log_softmax(output, dim=1), target)
            model.zero_grad()
            loss.backward()
            perturbed = fgsm_attack(data, eps, data.grad.data)
            final_pred = model(perturbed).max(1, keepdim=True)[1]
            correct += final_pred.item() == target.item()
            examples.append(perturbed.squeeze().detach().cpu().numpy())
        accuracies.append(correct / 10)
        print(f"Epsilon: {eps}\tTest Accuracy = {correct} / 10 = {correct / 10}")
    adv = pgd(model, images.clone(), labels)
    targeted = pgd(model, images.clone(), labels, eps=0.3, target=(labels + 1) % 3)
    hit = (model(targeted).argmax(1) == (labels + 1) % 3).float().mean()
    data = images[:3].clone().requires_grad_()
    model(data).gather(1, labels[:3, None]).sum().backward()
    saliency, _ = data.grad.abs().max(dim=1)
    return {"losses": losses, "accuracies": accuracies, "distance": (adv - images).flatten(1).norm(float("inf"), dim=1),
            "hit": hit, "saliency": saliency, "example": examples[0]}  # fmt: skip
