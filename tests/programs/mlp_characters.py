"""An MLP over character embeddings with a batch norm by hand, its statistics and a backward pass by hand."""

import numpy as np
import torch
import torch.nn.functional as F

RTOL = 1e-4  # forty steps with a batch norm
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
rng = np.random.default_rng(2147483647)
block_size, n_embd, n_hidden, vocab = 3, 6, 24, 27


def randn(*shape):
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)


X = torch.from_numpy(rng.integers(0, vocab, (256, block_size))).to(device)
Y = X.sum(1) % vocab
C = randn(vocab, n_embd)
W1 = randn(n_embd * block_size, n_hidden) * (5 / 3) / (n_embd * block_size) ** 0.5
W2 = randn(n_hidden, vocab) * 0.1
b2 = randn(vocab) * 0.1
bngain = torch.ones((1, n_hidden), device=device)
bnbias = torch.zeros((1, n_hidden), device=device)
running_mean = torch.zeros((1, n_hidden), device=device)
running_std = torch.ones((1, n_hidden), device=device)
parameters = [C, W1, W2, b2, bngain, bnbias]
for p in parameters:
    p.requires_grad = True


def train_step(Xb, Yb):
    emb = C[Xb]
    embcat = emb.view(emb.shape[0], -1)
    hpreact = embcat @ W1
    mean = hpreact.mean(0, keepdim=True)
    std = hpreact.std(0, keepdim=True)
    h = torch.tanh(bngain * (hpreact - mean) / std + bnbias)
    with torch.no_grad():
        running_mean.mul_(0.9).add_(mean, alpha=0.1)
        running_std.mul_(0.9).add_(std, alpha=0.1)
    loss = F.cross_entropy(h @ W2 + b2, Yb)
    for p in parameters:
        p.grad = None
    loss.backward()
    for p in parameters:
        p.data += -0.1 * p.grad
    return loss


def cmp(s, dt, t):
    exact = torch.allclose(dt, t.grad, rtol=1e-4, atol=1e-6)
    print(f"{s:10s} | approximate: {exact!s:5s}")


def main():
    losses = []
    for i in range(40):
        ix = torch.from_numpy(rng.integers(0, X.shape[0], (32,))).to(device)
        losses.append(train_step(X[ix], Y[ix]).log10().item())

    # The gradient of the cross-entropy by hand.
    n = 32
    logits = (randn(n, vocab) * 3).requires_grad_()
    logit_maxes = logits.max(1, keepdim=True).values
    norm_logits = logits - logit_maxes
    counts = norm_logits.exp()
    counts_sum_inv = counts.sum(1, keepdims=True) ** -1
    probs = counts * counts_sum_inv
    logprobs = probs.log()
    loss = -logprobs[range(n), Y[:n]].mean()
    for t in (logprobs, probs, counts, counts_sum_inv, norm_logits):
        t.retain_grad()
    loss.backward()
    dlogprobs = torch.zeros_like(logprobs)
    dlogprobs[range(n), Y[:n]] = -1.0 / n
    cmp("logprobs", dlogprobs, logprobs)
    dprobs = (1.0 / probs) * dlogprobs
    cmp("probs", dprobs, probs)
    dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)
    cmp("sum_inv", dcounts_sum_inv, counts_sum_inv)
    dlogits = F.softmax(logits, 1)
    dlogits[range(n), Y[:n]] -= 1
    dlogits /= n
    cmp("logits", dlogits, logits)
    return {"losses": losses, "W2": W2, "running": [running_mean, running_std], "dlogits": dlogits}
