"""Layers, losses, modes, hooks and functions with a backward of their own."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn, optim
from deepcore.autograd import Function

from . import EAGER, EQUAL_OR_EAGER, scenario
from .common import F, batches, inputs, integers, mlp, randn, trainer

LAYERS = {
    "identity": nn.Identity,
    "batch norm": lambda: nn.BatchNorm1d(8),
    "batch norm without statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm(8),
    "rms norm": lambda: nn.RMSNorm(8),
    "dropout": lambda: nn.Dropout(0.4),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "rrelu": nn.RReLU,
    "softplus": nn.Softplus,
    "log sigmoid": nn.LogSigmoid,
    "softmax": lambda: nn.Softmax(-1),
    "flatten": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten()),
}


@scenario(each=LAYERS, everywhere=True)
def trained_through(compile, make):
    model = mlp(make())
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = trainer(compile, model, optimizer)
    for x, y in batches(7):
        yield step(x, y), model, optimizer


@scenario(EQUAL_OR_EAGER)
def mean_of_all_batches(compile):
    """Batch norm whose running statistics divide by the number of batches so far."""
    model = mlp(nn.BatchNorm1d(8, momentum=None))
    step = trainer(compile, model, optim.SGD(model.parameters(), lr=0.1))
    for x, y in batches(7):
        yield step(x, y), model


@scenario(each=["batch norm", "dropout"], everywhere=True)
def modes_switched(compile, kind):
    model = mlp(LAYERS[kind]())
    forward = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(12)):
        model.train(i % 4 < 2)
        yield forward(x), model


@scenario()
def one_layer_in_eval(compile):
    model = mlp(nn.BatchNorm1d(8), nn.Dropout())
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            model[1].eval()
        yield step(x, y), model


@scenario(EQUAL_OR_EAGER)
def modes_switched_inside(compile):
    model = mlp(nn.BatchNorm1d(8), nn.Dropout())

    @compile
    def both(x):
        model.eval()
        with dc.no_grad():
            calm = model(x)
        model.train()
        return calm, model(x).detach()

    for x in inputs(8):
        yield both(x), model


@scenario(each={"p": lambda m: setattr(m[1], "p", 0.9), "momentum": lambda m: setattr(m[2], "momentum", 0.9),
                "eps": lambda m: setattr(m[2], "eps", 0.5)})  # fmt: skip
def setting_of_a_layer_changed(compile, change):
    model = mlp(nn.Dropout(0.2), nn.BatchNorm1d(8))
    forward = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(12)):
        if i == 6:
            change(model)
        yield forward(x), model


@scenario()
def statistics_reset(compile):
    model = mlp(nn.BatchNorm1d(8))
    forward = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(10)):
        if i == 5:
            model[1].running_mean.zero_()
            model[1].running_var.fill_(1.0)
        yield forward(x), model


@scenario()
def buffer_replaced(compile):
    model = mlp(nn.BatchNorm1d(8)).eval()
    forward = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(10)):
        if i == 5:
            model[1].running_mean = dc.ones(8)
        yield forward(x), model


@scenario(everywhere=True)
def embedding_of_tokens(compile):
    model = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 3))
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    @compile
    def step(tokens, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(8):
        yield step(integers(9, 5, 3, seed=i), integers(3, 5, seed=i)), model


REAL = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
    "smooth l1": lambda a, b: F.smooth_l1_loss(a, b, beta=0.5),
    "bce": lambda a, b: F.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
    "bce with logits": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid(), pos_weight=dc.full((3,), 2.0)),
    "sum": lambda a, b: F.mse_loss(a, b, reduction="sum"),
    "none": lambda a, b: F.mse_loss(a, b, reduction="none").mean(0).max(),
}


@scenario(each=REAL)
def loss_of_numbers(compile, loss):
    model = nn.Linear(4, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, target):
        optimizer.zero_grad()
        value = loss(model(x), target)
        value.backward()
        optimizer.step()
        return value.detach()

    for i, x in enumerate(inputs(8)):
        yield step(x, randn(5, 3, seed=i)), model


@scenario(everywhere=True)
def attention(compile):
    project, out = nn.Linear(6, 18), nn.Linear(6, 6)
    norm = nn.LayerNorm(6)
    model = nn.ModuleList([project, out, norm])
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    @compile
    def step(x):
        b, t, d = x.shape
        q, k, v = project(norm(x)).reshape(b, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / (d // 2) ** 0.5
        scores = scores.masked_fill(dc.ones(t, t).triu(1).bool(), float("-inf"))
        y = x + out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))
        optimizer.zero_grad()
        loss = F.mse_loss(y[:, :-1], x[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.detach(), scores.detach()

    for i in range(8):
        yield step(randn(2, 4 + i % 2, 6, seed=i)), model


@scenario()
def recurrent_loop(compile):
    cell, head = nn.Linear(4 + 5, 5), nn.Linear(5, 1)
    model = nn.ModuleList([cell, head])
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    @compile
    def step(x, h):
        optimizer.zero_grad()
        for t in range(x.shape[0]):
            h = cell(dc.cat([x[t], h], -1)).tanh()
        loss = head(h).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach(), h.detach()

    h = dc.zeros(2, 5)
    for i in range(9):
        loss, h = step(randn(3, 2, 4, seed=i), h)
        yield loss, h, model


@scenario(each=["RNN", "LSTM", "GRU"], everywhere=True)
def recurrent_layers(compile, kind):
    layer, head = getattr(nn, kind)(4, 5, bidirectional=kind == "GRU"), nn.Linear(10 if kind == "GRU" else 5, 3)
    model = nn.ModuleList([layer, head])
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        out, _ = layer(x)
        loss = F.cross_entropy(head(out[-1]), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(8):
        yield step(randn(3, 5, 4, seed=i), integers(3, 5, seed=i)), model


class Scaled(Function):
    """The input doubled, with a gradient of three times what it would be."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 + 0 * x


class Reversed(Function):
    """The identity, with a gradient scaled by a number."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -ctx.factor * g, None


class Rounded(Function):
    """Rounds; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


@scenario(EQUAL_OR_EAGER, each={"saved": Scaled.apply, "factor": lambda x: Reversed.apply(x, 0.5), "through": Rounded.apply},
          everywhere=True)  # fmt: skip
def function_of_its_own(compile, function):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(function(model(x)), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), model


@scenario(EQUAL_OR_EAGER)
def factor_of_a_function_changed(compile):
    w, factor = randn(4, requires_grad=True), 1.0

    @compile
    def step(x):
        w.grad = None
        Reversed.apply(w * x, factor).sum().backward()

    for i, x in enumerate(inputs(12, 4)):
        factor = 1.0 if i < 6 else 0.25
        yield step(x), w


@scenario(EQUAL_OR_EAGER, each=["forward", "pre", "backward"], everywhere=True)
def hook_on_a_module(compile, kind):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)

    def add():
        if kind == "forward":
            return model[1].register_forward_hook(lambda module, args, output: output * 2)
        if kind == "pre":
            return model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        return model[1].register_full_backward_hook(lambda module, gin, gout: (gin[0] * 0.5,))

    handle = None
    for i, (x, y) in enumerate(batches(15)):
        if i == 5:
            handle = add()
        if i == 10:
            handle.remove()
        yield step(x, y), model


@scenario(EQUAL_OR_EAGER, each=["parameter", "inside"], everywhere=True)
def hook_on_a_tensor(compile, where):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        hidden = model[0](x)
        if where == "inside":
            hidden.register_hook(lambda g: g.clamp(-0.01, 0.01))
        loss = F.cross_entropy(model[2](hidden.tanh()), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    handle = None
    for i, (x, y) in enumerate(batches(15)):
        if i == 5 and where == "parameter":
            handle = model[0].weight.register_hook(lambda g: g * 2)
        if i == 10 and handle:
            handle.remove()
        yield step(x, y), model


@scenario(EQUAL_OR_EAGER)
def hook_that_collects(compile):
    """A list that a hook fills in the function."""
    model, features = mlp(), []
    model[1].register_forward_hook(lambda module, args, output: features.append(output.detach()))

    @compile
    def forward(x):
        features.clear()
        out = model(x)
        return out.detach(), features[0]

    for x in inputs(8):
        yield forward(x)


@scenario(EAGER)
def hook_that_counts(compile):
    model, count = mlp(), 0

    def hook(module, args, output):
        nonlocal count
        count += 1

    model.register_forward_hook(hook)

    @compile
    def forward(x):
        out = model(x).detach()
        return out if count < 100 else -out

    for x in inputs(8):
        yield forward(x), count


@scenario()
def residual_and_gates(compile):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.gate, self.value = nn.RMSNorm(4), nn.Linear(4, 8), nn.Linear(4, 8)
            self.out = nn.Linear(8, 4)
            self.register_buffer("calls", dc.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            h = self.norm(x)
            return x + self.out(F.silu(self.gate(h)) * self.value(h))

    model = nn.Sequential(Block(), Block(), nn.Linear(4, 3))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    step = trainer(compile, model, optimizer)
    for x, y in batches(8):
        yield step(x, y), model


@scenario()
def parameter_in_a_list(compile):
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(randn(3))
            self.parts = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3), "c": nn.Linear(4, 3)})

        def forward(self, x):
            w = self.weights.softmax(0)
            return sum(w[i] * part(x) for i, part in enumerate(self.parts.values()))

    model = Mixture()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for x, y in batches(8):
        yield step(x, y), model


@scenario(each=["argument", "closure", "new"])
def dropout_of_a_function(compile, place):
    p = 0.5

    @compile
    def run(x, rate=None):
        return F.dropout(x, rate if place == "argument" else p, training=True)

    for i, x in enumerate(inputs(12)):
        p = 0.5 if i < 6 or place == "argument" else 0.25
        yield run(x, 0.5 if i < 8 else 0.1)


@scenario(everywhere=True)
def noise_and_masks(compile):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        mask = dc.bernoulli(dc.full((5, 4), 0.7))
        noisy = x * mask + 0.1 * dc.randn(5, 4) + dc.rand_like(x)
        loss = (noisy * w).square().mean()
        loss.backward()
        return loss.detach(), mask, dc.randint(0, 5, (3,)), dc.randperm(4)

    for x in inputs(8):
        yield step(x), w


@scenario()
def seeded_outside(compile):
    run = compile(lambda x: x + dc.randn(5, 4))
    for i, x in enumerate(inputs(12)):
        if i % 4 == 0:
            dc.manual_seed(7)
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def seeded_inside(compile):
    @compile
    def run(x):
        dc.manual_seed(11)
        return x + dc.randn(5, 4)

    for x in inputs(8):
        yield run(x)


@scenario()
def random_state_restored(compile):
    run = compile(lambda x: F.dropout(x, 0.5))
    state = None
    for i, x in enumerate(inputs(12)):
        if i == 4:
            state = dc.get_rng_state()
        if i == 9:
            dc.set_rng_state(state)
        yield run(x)


@scenario(each=["closure", "argument"])
def generator_of_its_own(compile, place):
    g = dc.Generator()
    g.manual_seed(3)

    @compile
    def run(x, generator=None):
        return x + dc.rand(5, 4, generator=generator or g)

    for i, x in enumerate(inputs(12)):
        if i == 8:
            g.manual_seed(3)
        yield run(x, g) if place == "argument" else run(x), g
