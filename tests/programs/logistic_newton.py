"""Logistic regression by Newton's method: Hessian rows by autograd, Hessian-vector products and conjugate gradients."""

import numpy as np
import torch
from torch.autograd import grad
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

torch.set_default_dtype(torch.float64)
RTOL = 1e-7  # the last steps solve for differences of 1e-12


def hessian(loss, w):
    (g,) = grad(loss, w, create_graph=True)
    rows = [grad(g[i], w, retain_graph=True)[0] for i in range(len(w))]
    return g.detach(), torch.stack(rows)


def conjugate_gradient(mvp, b, steps):
    x, r = torch.zeros_like(b), b.clone()
    p, rs = r.clone(), torch.dot(r, r)
    for _ in range(steps):
        Ap = mvp(p)
        alpha = rs / torch.dot(p, Ap)
        x += alpha * p
        r -= alpha * Ap
        new = r.dot(r)
        if new.sqrt() < 1e-12:
            break
        p = r + (new / rs) * p
        rs = new
    return x


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(np.c_[rng.standard_normal((80, 4)), np.ones(80)])
    y = (X @ torch.tensor([1.0, -2.0, 0.5, 0.0, 0.3]) + torch.tensor(rng.logistic(0, 1, 80)) > 0).to(X.dtype)
    w = torch.zeros(5, requires_grad=True)
    losses = []
    for _ in range(7):
        loss = binary_cross_entropy_with_logits(X @ w, y, reduction="sum") + 0.5 * 0.1 * w.square().sum()
        g, H = hessian(loss, w)
        step = torch.linalg.solve(H, g)
        with torch.no_grad():
            w -= step
        losses.append(loss.item())
    p = torch.sigmoid(X @ w.detach())
    exact = X.t() @ torch.diag(p * (1 - p)) @ X + 0.1 * torch.eye(5)
    covariance = torch.inverse(exact)
    z = w.detach() / covariance.diag().sqrt()

    v = torch.zeros(5, requires_grad=True)
    for _ in range(7):
        loss = -(y * logsigmoid(X.mv(v)) + (1 - y) * logsigmoid(-X.mv(v))).sum() + 0.05 * v @ v
        (g,) = grad(loss, v, create_graph=True)
        direction = conjugate_gradient(lambda p: grad(g, v, grad_outputs=p, retain_graph=True)[0], g.detach(), 10)
        v.data.sub_(direction)
    assert torch.allclose(v, w, atol=1e-8)
    print(
        f"loss {losses[-1]:.6f}, accuracy {((p > 0.5) == y.bool()).double().mean():.3f}, |H - exact| {(H - exact).abs().max() < 1e-6}"
    )
    return {"losses": losses, "w": w, "z": z, "p_values": torch.erfc(z.abs() / 2**0.5), "logdet": torch.slogdet(H)[1]}
