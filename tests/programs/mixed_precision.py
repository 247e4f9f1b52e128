"""Mixed precision: autocast in bfloat16 on the CPU, a GradScaler with unscaling and clipping, disabled and enabled."""

import contextlib

import numpy as np
import torch
import torch.nn as nn
from seeded import seeded
from torch.amp import GradScaler, autocast

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RTOL = 2e-2  # products of bfloat16
use_amp = device.type == "cuda"


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((32, 8)).astype(np.float32)).to(device)
    y = torch.from_numpy(rng.standard_normal((32, 1)).astype(np.float32)).to(device)
    losses, dtypes = [], []
    for dtype, enabled in ((torch.bfloat16, True), (torch.float32, False)):
        model = seeded(nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scaler = GradScaler(device.type, init_scale=256.0, growth_interval=3, enabled=enabled)
        context = autocast(device_type=device.type, dtype=dtype) if enabled else contextlib.nullcontext()
        for _ in range(6):
            optimizer.zero_grad(set_to_none=True)
            with context:
                output = model(X)
                hidden = model[0](X)
                loss = nn.functional.mse_loss(output.float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        dtypes += [str(t.dtype).split(".")[-1] for t in (output, hidden, loss, model[0].weight)]
        print(f"scale {scaler.get_scale()}, dtypes {dtypes[-4:]}")
        state = scaler.state_dict()
    half = X.to(torch.bfloat16)
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        product = half @ half.t()
        soft = torch.softmax(product, -1)
    print(sorted(state), torch.is_autocast_enabled(device.type))
    return {
        "losses": losses,
        "dtypes": dtypes,
        "soft": soft.float().diagonal(),
        "params": [p.float() for p in model.parameters()],
    }
