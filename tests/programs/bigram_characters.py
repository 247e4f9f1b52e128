"""A bigram model of names: counts, and the same by gradient descent on one-hot vectors."""

import torch
import torch.nn.functional as F

words = "emma olivia ava isabella sophia charlotte mia amelia harper evelyn abigail emily ella".split()
chars = sorted(set("".join(words)))
stoi = {s: i + 1 for i, s in enumerate(chars)}
stoi["."] = 0
itos = {i: s for s, i in stoi.items()}


def main():
    n = len(stoi)
    N = torch.zeros((n, n), dtype=torch.int32)
    xs, ys = [], []
    for w in words:
        chs = [".", *w, "."]
        for ch1, ch2 in zip(chs, chs[1:]):
            ix1, ix2 = stoi[ch1], stoi[ch2]
            N[ix1, ix2] += 1
            xs.append(ix1)
            ys.append(ix2)

    P = (N + 1).float()
    P /= P.sum(1, keepdim=True)
    log_likelihood = 0.0
    for i, (x, y) in enumerate(zip(xs, ys)):
        logprob = torch.log(P[x, y])
        log_likelihood += logprob
        if i < 3:
            print(f"{itos[x]}{itos[y]}: {P[x, y]:.4f} {logprob:.4f}")
    nll = -log_likelihood / len(xs)
    print(f"{nll=:.4f}")

    # Greedy generation from the counts, without the most probable character twice.
    out, ix = [], 0
    for _ in range(8):
        p = P[ix].clone()
        p[ix] = 0
        ix = torch.argmax(p).item()
        out.append(itos[ix])
        if ix == 0:
            break
    print("".join(out))

    xs, ys = torch.tensor(xs), torch.tensor(ys)
    num = xs.nelement()
    W = torch.zeros((n, n), requires_grad=True)
    xenc = F.one_hot(xs, num_classes=n).float()
    losses = []
    for _ in range(30):
        logits = xenc @ W
        counts = logits.exp()
        probs = counts / counts.sum(1, keepdims=True)
        loss = -probs[torch.arange(num), ys].log().mean() + 0.01 * (W**2).mean()
        W.grad = None
        loss.backward()
        W.data += -10 * W.grad
        losses.append(loss.item())
    print(f"number of examples: {num}, loss {losses[-1]:.3f}")
    return {"P": P, "nll": nll, "losses": losses, "W": W, "counts": N.sum(1, keepdim=True)}
