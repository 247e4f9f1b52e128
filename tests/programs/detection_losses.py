"""Pieces of detectors and segmenters: IoU and its kin, non-maximum suppression, focal and Dice losses, anchors, warps."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def box_iou(a, b, kind="iou"):
    area1, area2 = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    lt = torch.max(a[:, None, :2], b[None, :, :2])
    rb = torch.min(a[:, None, 2:], b[None, :, 2:])
    inter = (rb - lt).clamp(min=0).prod(2)
    union = area1[:, None] + area2[None] - inter
    iou = inter / union
    if kind == "iou":
        return iou
    hull = torch.maximum(a[:, None, 2:], b[None, :, 2:]) - torch.minimum(a[:, None, :2], b[None, :, :2])
    if kind == "giou":
        area = hull[..., 0].mul(hull[..., 1])
        return iou - (area - union) / area
    centre = lambda t: (t[..., :2] + t[..., 2:]) / 2
    distance = (centre(a)[:, None] - centre(b)[None]).pow(2).sum(-1)
    w, h = (lambda t: (t[:, 2] - t[:, 0], t[:, 3] - t[:, 1]))(a)
    v = (4 / math.pi**2) * (torch.atan(w / h)[:, None] - torch.atan2(*(b[:, 2:] - b[:, :2]).unbind(1))[None]) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + 1e-9)
    return iou - distance / hull.square().sum(-1) - alpha * v


def nms(boxes, scores, threshold):
    order, keep = scores.argsort(descending=True), []
    while order.numel() > 0:
        i = order[0]
        keep.append(i.item())
        if order.numel() == 1:
            break
        iou = box_iou(boxes[i].unsqueeze(0), boxes[order[1:]]).squeeze(0)
        order = order[1:][iou <= threshold]
    return keep


class FocalLoss(nn.Module):
    def __init__(self, gamma=2, alpha=0.25, size_average=True):
        super().__init__()
        self.gamma, self.size_average = gamma, size_average
        self.alpha = torch.tensor([alpha, 1 - alpha])

    def forward(self, input, target):
        if input.dim() > 2:
            input = input.view(input.size(0), input.size(1), -1).transpose(1, 2).contiguous().view(-1, input.size(1))
        target = target.view(-1, 1)
        logpt = F.log_softmax(input, dim=-1).gather(1, target).view(-1)
        pt = logpt.exp()
        if self.alpha.type() != input.data.type():
            self.alpha = self.alpha.type_as(input.data)
        logpt = logpt * self.alpha.gather(0, target.data.view(-1))
        loss = -1 * (1 - pt) ** self.gamma * logpt
        return loss.mean() if self.size_average else loss.sum()


def main():
    rng = np.random.default_rng(0)
    corners = torch.from_numpy(rng.uniform(0, 10, (9, 2))).float().to(device)
    boxes = torch.cat([corners, corners + torch.from_numpy(rng.uniform(2, 8, (9, 2))).float().to(device)], dim=1)
    scores = torch.from_numpy(rng.random(9)).float().to(device)
    keep = nms(boxes, scores, 0.3)
    predicted = boxes[:4].clone().requires_grad_(True)
    loss = sum((1 - box_iou(predicted, boxes[4:8], kind).diag()).sum() for kind in ("giou", "ciou"))
    loss.backward()

    logits = torch.from_numpy(rng.standard_normal((2, 2, 6, 6))).float().to(device).requires_grad_()
    target = torch.from_numpy(rng.integers(0, 2, (2, 6, 6))).to(device)
    focal = FocalLoss()(logits, target)
    onehot = F.one_hot(target, 2).permute(0, 3, 1, 2).float()
    probs = logits.softmax(1)
    tp, fp, fn = (
        (probs * onehot).sum((0, 2, 3)),
        (probs * (1 - onehot)).sum((0, 2, 3)),
        ((1 - probs) * onehot).sum((0, 2, 3)),
    )
    tversky = (1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)).mean()
    edges = F.conv2d(probs[:, 1:], torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]], device=device), padding=1)
    variation = (probs[..., 1:, :] - probs[..., :-1, :]).abs().mean() + edges.abs().mean()
    (focal + tversky + 0.1 * variation).backward()

    stride, size = 4, 3
    shift = (torch.arange(0, size) + 0.5) * stride
    shift_y, shift_x = torch.meshgrid(shift, shift, indexing="ij")
    base = torch.tensor([[-2.0, -2, 2, 2], [-4, -2, 4, 2]])
    anchors = (torch.stack([shift_x, shift_y, shift_x, shift_y], -1).view(-1, 1, 4) + base).reshape(-1, 4).to(device)
    overlap = box_iou(anchors, boxes)
    best, matched = overlap.max(dim=1)
    matched[best < 0.2] = -1
    matched[overlap.argmax(dim=0)] = torch.arange(len(boxes), device=device)

    theta = torch.tensor([[[0.8, -0.3, 0.1], [0.3, 0.8, 0.0]]], device=device).repeat(2, 1, 1)
    grid = F.affine_grid(theta, [2, 2, 5, 5], align_corners=False)
    warped = F.grid_sample(logits, grid, mode="bilinear", padding_mode="border", align_corners=False)
    patches = F.unfold(logits, kernel_size=3, stride=3)
    again = F.fold(patches, (6, 6), kernel_size=3, stride=3)
    assert torch.equal(again, logits)
    pooled = F.adaptive_max_pool2d(F.pixel_unshuffle(logits, 2), 2)
    up = F.interpolate(logits, scale_factor=1.5, mode="bicubic", align_corners=False)
    print(keep, (matched >= 0).sum().item(), f"{focal.item():.4f} {tversky:.4f}")
    return {"keep": keep, "grad": predicted.grad, "focal": [focal, tversky, variation], "logits": logits.grad, "matched": matched,
            "warped": warped, "pooled": pooled, "up": up}  # fmt: skip
