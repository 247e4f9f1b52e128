"""A bidirectional LSTM over packed sequences, sorted by length, as in sentiment tutorials."""

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader

RTOL = 1e-4
PAD = 0


class LSTMNet(nn.Module):
    def __init__(self, vocab_size, embedding_dim, hidden_dim, output_dim, n_layers, bidirectional, dropout):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=PAD)
        self.rnn = nn.LSTM(embedding_dim, hidden_dim, num_layers=n_layers, bidirectional=bidirectional,
                           dropout=dropout, batch_first=True)  # fmt: skip
        self.fc = nn.Linear(hidden_dim * 2, output_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text, text_lengths):
        embedded = self.dropout(self.embedding(text))
        packed = pack_padded_sequence(embedded, text_lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_output, (hidden, cell) = self.rnn(packed)
        output, output_lengths = pad_packed_sequence(packed_output, batch_first=True)
        hidden = torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)
        return self.fc(self.dropout(hidden)), output, output_lengths


def binary_accuracy(preds, y):
    rounded_preds = torch.round(torch.sigmoid(preds))
    correct = (rounded_preds == y).float()
    return correct.sum() / len(correct)


def collate_batch(batch):
    labels, texts, lengths = [], [], []
    for label, tokens in batch:
        labels.append(label)
        texts.append(torch.tensor(tokens, dtype=torch.int64))
        lengths.append(len(tokens))
    return (
        torch.tensor(labels, dtype=torch.float32),
        pad_sequence(texts, batch_first=True, padding_value=PAD),
        torch.tensor(lengths),
    )


def main():
    rng = np.random.default_rng(1)
    data = [(i % 2, rng.integers(1, 15, n).tolist()) for i, n in enumerate(rng.integers(2, 9, 24))]
    data = [(y, [t if y else t + 10 for t in tokens]) for y, tokens in data]
    loader = DataLoader(data, batch_size=8, shuffle=False, collate_fn=collate_batch)
    model = seeded(LSTMNet(26, 8, 12, 1, 2, True, 0.0))
    model.embedding.weight.data[PAD] = torch.zeros(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    criterion = nn.BCEWithLogitsLoss()
    losses, accuracies = [], []
    for _ in range(3):
        for label, text, lengths in loader:
            optimizer.zero_grad()
            predictions = model(text, lengths)[0].squeeze(1)
            loss = criterion(predictions, label)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=5, norm_type=2)
            optimizer.step()
            losses.append(loss.item())
            accuracies.append(binary_accuracy(predictions, label).item())
    model.eval()
    with torch.no_grad():
        logits, output, lengths = model(text, lengths)
        gru = seeded(nn.GRU(8, 6, batch_first=True, bidirectional=True))
        out, h = gru(model.embedding(text))
        cell = seeded(nn.LSTMCell(8, 5))
        state = (torch.zeros(8, 5), torch.zeros(8, 5))
        for step in model.embedding(text).unbind(1):
            state = cell(step, state)
    print(model)
    print(f"accuracy {np.mean(accuracies):.3f}, {tuple(output.shape)} {lengths.tolist()}")
    return {"losses": losses, "accuracies": accuracies, "output": output, "gru": [out, h], "cell": state[0]}
