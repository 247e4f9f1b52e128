"""Connectionist temporal classification of toy strips: a recurrent net, the loss, greedy and prefix beam decoding."""

import itertools
import math
from collections import defaultdict

import numpy as np
import torch
from seeded import seeded
from torch import nn

torch.set_default_dtype(torch.float64)
RTOL = 1e-6
alphabet = "-abcd"


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.rnn = nn.RNN(8, 8, bidirectional=True)
        self.out = nn.Linear(16, len(alphabet))

    def forward(self, x):
        x = torch.relu(self.conv(x)).permute(2, 0, 1)
        x, _ = self.rnn(x)
        return self.out(x).log_softmax(-1)


def greedy(log_probs, length):
    path = log_probs[:length].argmax(-1).tolist()
    return "".join(alphabet[k] for k, _ in itertools.groupby(path) if k)


def beam_search(log_probs, width=4):
    beams = {(): (0.0, -math.inf)}
    add = lambda a, b: float(np.logaddexp(a, b))
    for frame in log_probs.tolist():
        candidates = defaultdict(lambda: (-math.inf, -math.inf))
        for prefix, (blank, label) in beams.items():
            b, n = candidates[prefix]
            candidates[prefix] = add(b, add(blank, label) + frame[0]), n
            for c in range(1, len(frame)):
                b, n = candidates[(*prefix, c)]
                if prefix and prefix[-1] == c:
                    candidates[(*prefix, c)] = b, add(n, blank + frame[c])
                    same = candidates[prefix]
                    candidates[prefix] = same[0], add(same[1], label + frame[c])
                else:
                    candidates[(*prefix, c)] = b, add(n, add(blank, label) + frame[c])
        beams = dict(sorted(candidates.items(), key=lambda kv: -add(*kv[1]))[:width])
    best = max(beams, key=lambda p: add(*beams[p]))
    return "".join(alphabet[c] for c in best), add(*beams[best])


def main():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((4, 3, 12)))
    targets = torch.tensor([[1, 2, 3], [2, 2, 0], [4, 1, 2], [3, 0, 0]])
    target_lengths, input_lengths = torch.tensor([3, 2, 3, 1]), torch.tensor([12, 12, 10, 7])
    model = seeded(Recogniser())
    criterion = nn.CTCLoss(blank=0, zero_infinity=True)
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.02)

    def train_step(x):
        log_probs = model(x)
        loss = criterion(log_probs, targets, input_lengths, target_lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    losses = [train_step(x).item() for _ in range(10)]
    with torch.no_grad():
        log_probs = model(x)
    each = nn.functional.ctc_loss(log_probs, targets, input_lengths, target_lengths, reduction="none")
    texts = [greedy(log_probs[:, i], n) for i, n in enumerate(input_lengths.tolist())]
    beams = [beam_search(log_probs[:n, i]) for i, n in enumerate(input_lengths.tolist())]
    flat = torch.cat([t[:n] for t, n in zip(targets, target_lengths)])
    joined = nn.functional.ctc_loss(log_probs, flat, input_lengths, target_lengths, reduction="sum")
    assert torch.allclose(joined, each.sum())
    print(texts, [b[0] for b in beams])
    return {"losses": losses, "each": each, "scores": [b[1] for b in beams], "conv": model.conv.weight}
