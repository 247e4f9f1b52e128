"""A transformer encoder that classifies padded sequences: positions by sines, a padding mask, masked mean pooling."""

import math

import numpy as np
import torch
from seeded import seeded
from torch import Tensor, nn
from torch.nn import TransformerEncoder, TransformerEncoderLayer
from torch.nn.utils.rnn import pad_sequence

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 1e-4


class PositionalEncoding(nn.Module):
    def __init__(self, d_model: int, dropout: float = 0.0, max_len: int = 64):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (seq_len, batch_size, embedding_dim)"""
        x = x + self.pe[: x.size(0)]
        return self.dropout(x)


class Classifier(nn.Module):
    def __init__(self, ntoken, d_model, nhead, d_hid, nlayers, nclass):
        super().__init__()
        self.pos_encoder = PositionalEncoding(d_model)
        layer = TransformerEncoderLayer(d_model, nhead, d_hid, dropout=0.0, activation="gelu", norm_first=True)
        self.transformer_encoder = TransformerEncoder(
            layer, nlayers, norm=nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        self.encoder = nn.Embedding(ntoken, d_model, padding_idx=0)
        self.d_model = d_model
        self.cls = nn.Parameter(torch.zeros(1, 1, d_model))
        self.linear = nn.Linear(d_model, nclass)

    def forward(self, src: Tensor, padding: Tensor) -> Tensor:
        x = self.pos_encoder(self.encoder(src) * math.sqrt(self.d_model))
        x = torch.cat([self.cls.expand(-1, x.size(1), -1), x])
        padding = nn.functional.pad(padding, (1, 0), value=False)
        x = self.transformer_encoder(x, src_key_padding_mask=padding)
        keep = (~padding).T.unsqueeze(-1).to(x.dtype)
        return self.linear((x * keep).sum(0) / keep.sum(0) + x[0])


def main():
    rng = np.random.default_rng(0)
    sequences = [torch.from_numpy(rng.integers(1, 20, n)) for n in rng.integers(3, 12, 12)]
    labels = torch.tensor([int(s.sum()) % 3 for s in sequences], device=device)
    src = pad_sequence(sequences).to(device)
    padding = (src == 0).transpose(0, 1)
    model = seeded(Classifier(20, 16, 4, 32, 2, 3)).to(device)
    with torch.no_grad():
        model.encoder.weight[0].fill_(0)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5], device=device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=4)

    def train_step(src, padding, labels):
        loss = criterion(model(src, padding), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    losses, rates = [], []
    for _ in range(6):
        losses.append(train_step(src, padding, labels).item())
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    model.train()
    one = model(src[:, :1], padding[:1])
    short = model(sequences[0].to(device).unsqueeze(1), padding[:1, : len(sequences[0])])
    assert torch.allclose(one, short, atol=1e-5)
    print(
        tuple(src.shape),
        padding.sum().item(),
        model.encoder.weight[0].abs().sum().item(),
        "pe" in str(model.state_dict().keys()),
    )
    return {"losses": losses, "rates": rates, "logits": model(src, padding), "cls": model.cls}
