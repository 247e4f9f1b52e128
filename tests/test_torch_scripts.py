"""Scripts as PyTorch's users write them, with nothing but the imports changed: the same results as with PyTorch.

A script leaves what it computed in `result`. The weights of `seeded(model)` are the same in both.
"""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest

import deepcore as dc

HEADER = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
rng = np.random.default_rng(0)
X = torch.tensor(rng.standard_normal((32, 4)), dtype=torch.float32).to(device)
Y = (X[:, 0] * X[:, 1] > 0).long().to(device)

def seeded(model):
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data.copy_(torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32) * 0.5))
    return model.to(device)

def mlp():
    return seeded(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
"""

SCRIPTS = {
    "training loop": """
model, criterion = mlp(), nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=False)
for epoch in range(3):
    running_loss = 0.0
    for inputs, labels in loader:
        inputs, labels = inputs.to(device, non_blocking=True), labels.to(device)
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * inputs.size(0)
    print(f"epoch {epoch + 1}: {running_loss / len(loader.dataset):.4f}")
    result.append(running_loss)
""",
    "evaluation": """
model = mlp()
model.eval()
correct = total = 0
with torch.no_grad():
    for inputs, labels in DataLoader(TensorDataset(X, Y), batch_size=10):
        outputs = model(inputs)
        _, predicted = torch.max(outputs.data, 1)
        total += labels.size(0)
        correct += (predicted == labels).sum().item()
print("accuracy: %d %%" % (100 * correct / total))
result += [correct, total]
""",
    "SGD by hand": """
w = torch.zeros(4, 1, device=device, requires_grad=True)
b = torch.zeros(1, requires_grad=True, device=device)
target = X @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]], device=device) + 0.25
lr = 0.1
for step in range(20):
    loss = ((X @ w + b - target) ** 2).mean()
    loss.backward()
    for p in (w, b):
        p.data -= lr * p.grad.data
        p.grad.data.zero_()
result += [loss.item(), *w.data.view(-1).tolist(), b.item()]
print(f"{loss.item():.3f} {b.item():.3f}")
""",
    "SGD under no_grad": """
w = torch.randn(4, 1, device=device) * 0
w.requires_grad_()
for step in range(10):
    loss = F.mse_loss(X @ w, X[:, :1] * 2)
    loss.backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
        w.grad = None
result += w.flatten().tolist()
""",
    "moving average of weights": """
import copy
model = mlp()
ema = copy.deepcopy(model)
for p in ema.parameters():
    p.requires_grad = False
optimizer = optim.Adam(model.parameters(), lr=1e-2)
decay = 0.9
for _ in range(5):
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for p, q in zip(model.parameters(), ema.parameters()):
        q.data.mul_(decay).add_(p.data, alpha=1 - decay)
result += [v for p in ema.parameters() for v in p.data.cpu().numpy().ravel().tolist()]
""",
    "clipping by hand": """
model = mlp()
F.cross_entropy(model(X) * 10, Y, reduction="sum").backward()
total = 0.0
for p in model.parameters():
    total += p.grad.data.norm(2).item() ** 2 if hasattr(p.grad.data, "norm") else p.grad.data.pow(2).sum().item()
total = total**0.5
coefficient = 1.0 / (total + 1e-6)
for p in model.parameters():
    if coefficient < 1:
        p.grad.data.mul_(coefficient)
    p.grad.data.clamp_(-0.1, 0.1)
result += [total, *[p.grad.abs().max().item() for p in model.parameters()]]
""",
    "counting parameters": """
model = mlp()
n = sum(p.numel() for p in model.parameters() if p.requires_grad)
size = sum(p.nelement() * p.element_size() for p in model.parameters()) / 1024**2
print(f"{n:,} parameters, {size:.3f} MB, on {next(model.parameters()).device.type}")
result += [n, size, next(model.parameters()).is_cuda, next(model.parameters()).dtype == torch.float32]
for name, param in model.named_parameters():
    result += [name, tuple(param.data.size()), param.data.dim(), param.is_leaf]
""",
    "freezing and finetuning": """
model = mlp()
for name, param in model.named_parameters():
    if name.startswith("0."):
        param.requires_grad = False
optimizer = optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), lr=0.05, weight_decay=0.1)
before = [p.clone().detach() for p in model.parameters()]
for _ in range(3):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(X), Y)
    loss.backward()
    optimizer.step()
result += [bool((p == q).all()) for p, q in zip(model.parameters(), before)]
result.append(loss.item())
""",
    "own module and buffers": """
class Net(nn.Module):
    def __init__(self, d_in, d_out, device=None, dtype=None):
        factory_kwargs = {"device": device, "dtype": dtype}
        super(Net, self).__init__()
        self.weight = nn.Parameter(torch.empty((d_out, d_in), **factory_kwargs))
        self.register_buffer("calls", torch.zeros(1, **factory_kwargs))
        self.norm = nn.LayerNorm(d_out, **factory_kwargs)
        nn.init.constant_(self.weight, 0.1)
        self.weight.data[0].fill_(0.5)

    def forward(self, x):
        self.calls += 1
        return self.norm(F.linear(x, self.weight)).relu()

net = Net(4, 3, device=device)
out = net(X)
out.mean().backward()
result += [out.sum().item(), net.calls.item(), *net.weight.grad.view(-1).tolist(), sorted(net.state_dict())]
""",
    "accumulation and schedule": """
model = mlp()
optimizer = optim.SGD(model.parameters(), lr=0.5)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
for i in range(6):
    loss = F.cross_entropy(model(X), Y) / 2
    loss.backward()
    if (i + 1) % 2 == 0:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    result += [loss.item(), scheduler.get_last_lr()[0], optimizer.param_groups[0]["lr"]]
""",
    "gradient penalty": """
model = seeded(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
alpha = torch.full((32, 1), 0.3, device=device)
mixed = (alpha * X + (1 - alpha) * X.flip(0)).requires_grad_(True)
scores = model(mixed)
grads = torch.autograd.grad(outputs=scores, inputs=mixed, grad_outputs=torch.ones_like(scores), create_graph=True)[0]
penalty = ((grads.pow(2).sum(1).sqrt() - 1) ** 2).mean()
penalty.backward()
result += [penalty.item(), model[0].weight.grad.abs().sum().item()]
""",
    "masks and padding": """
lengths = torch.tensor([3, 5, 1], device=device)
mask = torch.arange(5, device=device)[None, :] < lengths[:, None]
scores = torch.arange(15, device=device, dtype=torch.float).view(3, 5)
masked = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
weights = masked.softmax(dim=-1)
causal = torch.tril(torch.ones(4, 4, dtype=torch.bool, device=device))
result += [weights.sum().item(), *weights.view(-1).tolist(), causal.long().sum().item(), mask.float().mean().item()]
result += [masked.new_zeros(2).tolist(), masked.new_full((2,), 3).tolist(), torch.iinfo(torch.int8).max]
""",
    "types and conversions": """
t = torch.tensor([1.7, -2.3, 0.0])
for kind in (torch.int, torch.long, torch.half, torch.double, torch.bool):
    result += [t.to(kind).tolist(), t.type(kind).dtype == kind]
result += [t.long().tolist(), t.byte().type_as(t).dtype == torch.float, t.bool().any().item(), t.is_floating_point()]
result += [str(torch.get_default_dtype()).split(".")[-1], torch.numel(t), len(t), t.shape == (3,), t.stride()]
result += [f"{t[0]:.2f}", f"{t.sum():8.3f}", f"{torch.tensor(3):d}", float(t[1]), int(t[1]), t[0].item()]
""",
    "saving weights in memory": """
model, other = mlp(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(device)
state = {k: v.cpu().clone() for k, v in model.state_dict().items()}
other.load_state_dict(state)
with torch.inference_mode():
    result += [(model(X) - other(X)).abs().max().item()]
target = state["0.weight"].data
target[:, 0] = 0
model[0].weight.data = target.to(device)
result += [model(X).sum().item(), model[0].weight.requires_grad]
""",
    "numpy and back": """
a = np.arange(6, dtype=np.float32).reshape(2, 3)
t = torch.from_numpy(a)
t.mul_(2)
result += [a.tolist(), t.numpy().tolist(), t.detach().cpu().numpy().dtype == np.float32]
p = nn.Parameter(torch.ones(2, 3))
result += [p.data.numpy().sum().item(), p.detach().numpy().shape, np.asarray(t).sum().item()]
result += [torch.as_tensor(a).data_ptr() == t.data_ptr(), torch.tensor(a).data_ptr() == t.data_ptr()]
""",
    "binarised weights": """
model = mlp()
optimizer = optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    kept = [p.data.clone() for p in model.parameters()]
    for p in model.parameters():
        p.data = p.data.sign()
    loss = F.cross_entropy(model(X), Y)
    optimizer.zero_grad()
    loss.backward()
    for p, old in zip(model.parameters(), kept):
        p.data.copy_(old)
    optimizer.step()
    for p in model.parameters():
        p.data.clamp_(-1, 1)
    result.append(loss.item())
""",
    "a penalty in the loss": """
model = mlp()
l2 = torch.tensor(0.0, device=device, requires_grad=True)
for name, p in model.named_parameters():
    if "bias" not in name:
        l2 = l2 + p.pow(2).sum()
loss = F.cross_entropy(model(X), Y) + 1e-2 * l2
loss.backward()
result += [loss.item(), *(p.grad.data.abs().sum().item() for p in model.parameters())]
print("loss: {:.3f}, l2: {:.1f}".format(loss, l2.item()))
""",
    "one cycle": """
model = mlp()
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, epochs=2, steps_per_epoch=4)
for epoch in range(2):
    for i in range(0, 32, 8):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(X[i : i + 8]), Y[i : i + 8], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        result += [loss.item(), scheduler.get_last_lr()[0]]
""",
    "warm-up and plateau": """
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau, SequentialLR
model = mlp()
optimizer = optim.RMSprop(model.parameters(), lr=0.01, momentum=0.9, centered=True)
warm, cosine = LinearLR(optimizer, start_factor=0.1, total_iters=3), CosineAnnealingLR(optimizer, T_max=9)
scheduler = SequentialLR(optimizer, schedulers=[warm, cosine], milestones=[3])
for epoch in range(8):
    loss = F.hinge_embedding_loss(torch.tanh(model(X))[:, 0], 2.0 * Y - 1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    result += [loss.item(), optimizer.param_groups[0]["lr"]]
plateau = ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=1)
for value in (1.0, 1.0, 1.0, 0.5):
    plateau.step(value)
result.append(optimizer.param_groups[0]["lr"])
""",
    "embeddings of triplets": """
model = seeded(nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 3), nn.Hardswish(inplace=True)))
optimizer = optim.NAdam(model.parameters(), lr=0.01)
criterion = nn.TripletMarginLoss(margin=1.0, p=2, swap=True)
for _ in range(4):
    anchor, positive, negative = (model(X[i::3][:10]) for i in range(3))
    loss = criterion(anchor, positive, negative)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    result += [loss.item(), F.cosine_similarity(anchor, positive).mean().item()]
result += [F.pairwise_distance(anchor, negative).sum().item(), F.kl_div(F.log_softmax(anchor, 1), F.softmax(positive, 1), reduction="batchmean").item()]
""",
    "a closure": """
x = nn.Parameter(torch.tensor([-1.5, 2.0]))
optimizer = optim.LBFGS([x], lr=1, max_iter=10, line_search_fn="strong_wolfe")
def closure():
    optimizer.zero_grad()
    loss = (1 - x[0]) ** 2 + 5 * (x[1] - x[0] ** 2) ** 2
    loss.backward()
    return loss
for _ in range(3):
    result.append(optimizer.step(closure).item())
result += x.tolist()
""",
    "averaged weights": """
from torch.optim.swa_utils import AveragedModel, SWALR, update_bn
model = seeded(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Mish(), nn.Linear(8, 2)))
optimizer = optim.SGD(model.parameters(), lr=0.1)
averaged, scheduler = AveragedModel(model), SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
loader = DataLoader(TensorDataset(X, Y), batch_size=8)
for epoch in range(5):
    for inputs, labels in loader:
        optimizer.zero_grad()
        F.multi_margin_loss(model(inputs), labels).backward()
        optimizer.step()
    averaged.update_parameters(model)
    scheduler.step()
update_bn(loader, averaged)
averaged.eval()
result += [averaged(X).abs().sum().item(), optimizer.param_groups[0]["lr"], averaged.n_averaged.item()]
result += nn.utils.parameters_to_vector(averaged.parameters())[:3].tolist()
""",
    "seeds and flags": """
torch.manual_seed(0)
torch.cuda.manual_seed_all(0)
torch.set_num_threads(torch.get_num_threads())
torch.use_deterministic_algorithms(True)
torch.set_printoptions(precision=3, sci_mode=False)
print(torch.tensor([1 / 3, 200.0]))
torch.set_printoptions(profile="default")
g = torch.Generator(device=device).manual_seed(1)
sample = torch.rand(3, generator=g, device=device)
again = torch.rand(3, generator=torch.Generator(device=device).manual_seed(1), device=device)
result += [(sample == again).all().item(), torch.cuda.is_available() or torch.cuda.device_count() == 0]
with torch.set_grad_enabled(False):
    result.append(torch.is_grad_enabled())
torch.use_deterministic_algorithms(False)
""",
}


def run(script: str, package: str, device: str = ""):
    """(what it left in `result`, what it printed); `device` in place of the one that the script looks for."""
    source = HEADER + script
    if device:
        source = re.sub("^device = .*$", f'device = torch.device("{device}")', source, flags=re.M)
    if package != "torch":
        source = re.sub(r"^import torch$", f"import {package} as torch", source, flags=re.M)
        source = re.sub(r"^(import|from) torch\b", rf"\1 {package}", source, flags=re.M)
    scope = {"np": np, "result": []}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, package, "exec"), scope)
    return scope["result"], printed.getvalue()


def check(ours, theirs):
    assert len(ours) == len(theirs) and ours
    for mine, other in zip(ours, theirs):
        if isinstance(mine, float) and isinstance(other, float):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
        else:
            assert mine == other


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name):
    pytest.importorskip("torch")
    ours, theirs = run(SCRIPTS[name], "deepcore"), run(SCRIPTS[name], "torch")
    assert ours[1] == theirs[1]
    check(ours[0], theirs[0])


@pytest.mark.parametrize(
    "name", ["SGD by hand", "moving average of weights", "masks and padding", "own module and buffers"]
)
def test_scripts_on_a_gpu(name):
    """The stand-in as the default device, too: the results of the CPU."""
    with dc.device("standin"):
        ours = run(SCRIPTS[name], "deepcore", "standin")
    check(ours[0], run(SCRIPTS[name], "deepcore")[0])
