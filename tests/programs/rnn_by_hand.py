"""A character RNN, its cell written out, trained by Adagrad with clipped gradients."""

import numpy as np
import torch
from torch import nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.set_default_dtype(torch.float64)
data = "to be or not to be that is the question whether tis nobler in the mind to suffer " * 2
chars = sorted(set(data))
char_to_ix = {ch: i for i, ch in enumerate(chars)}
rng = np.random.default_rng(0)


def randn(*shape):
    return torch.from_numpy(rng.standard_normal(shape)) * 0.1


class RNN(nn.Module):
    def __init__(self, vocab_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.Wxh = nn.Parameter(randn(hidden_size, vocab_size))
        self.Whh = nn.Parameter(randn(hidden_size, hidden_size))
        self.Why = nn.Parameter(randn(vocab_size, hidden_size))
        self.bh = nn.Parameter(torch.zeros(hidden_size, 1))
        self.by = nn.Parameter(torch.zeros(vocab_size, 1))

    def forward(self, inputs, h):
        outputs = []
        for x in inputs:
            h = torch.tanh(self.Wxh[:, x : x + 1] + torch.mm(self.Whh, h) + self.bh)
            outputs.append(self.Why.mm(h) + self.by)
        return torch.cat(outputs, dim=1).t(), h

    def init_hidden(self):
        return next(self.parameters()).new_zeros(self.hidden_size, 1)


def sample(model, h, ix, n):
    text = []
    with torch.no_grad():
        for _ in range(n):
            y, h = model([ix], h)
            p = torch.exp(y) / torch.exp(y).sum()
            ix = int(p.argmax())
            text.append(chars[ix])
    return "".join(text)


def main():
    seq_length = 25
    model = RNN(len(chars), 24).to(device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-1)
    criterion = nn.CrossEntropyLoss()
    h, p, losses = model.init_hidden(), 0, []
    for n in range(30):
        if p + seq_length + 1 >= len(data):
            h, p = model.init_hidden(), 0
        inputs = [char_to_ix[ch] for ch in data[p : p + seq_length]]
        targets = torch.tensor([char_to_ix[ch] for ch in data[p + 1 : p + seq_length + 1]], device=device)
        outputs, h = model(inputs, h.detach())
        loss = criterion(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 5)
        optimizer.step()
        losses.append(loss.item())
        p += seq_length
        if n % 10 == 0:
            print(f"iter {n}, loss: {loss:.3f}")
    print(sample(model, model.init_hidden(), char_to_ix["t"], 12))
    return {"losses": losses, "h": h, "Whh": model.Whh, "norm": model.Wxh.norm()}
