"""`model = dc.compile(model)`, with `loss.backward()` outside."""

from __future__ import annotations

import copy

import deepcore as dc
from deepcore import nn, optim

from . import EAGER, EQUAL_OR_EAGER, scenario
from .common import F, batches, inputs, mlp, randn

KINDS = {
    "plain": lambda: (),
    "batch norm": lambda: (nn.BatchNorm1d(8),),
    "dropout": lambda: (nn.Dropout(0.3),),
    "layer norm": lambda: (nn.LayerNorm(8),),
    "all": lambda: (nn.BatchNorm1d(8), nn.Dropout(0.3), nn.RMSNorm(8)),
}


@scenario(each=KINDS, everywhere=True)
def backward_outside(compile, make):
    model = mlp(*make())
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = compile(model)
    for x, y in batches(12):
        optimizer.zero_grad()
        out = run(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        optimizer.step()
        yield loss.detach(), out.detach(), model, optimizer


@scenario(everywhere=True)
def used_like_the_module(compile):
    """Parameters, modes and states of a compiled module are the module's."""
    model = mlp(nn.Dropout(0.3))
    run = compile(model)
    optimizer = optim.Adam(run.parameters(), lr=0.05)
    for i, (x, y) in enumerate(batches(12)):
        run.train(i % 3 != 2)
        run.zero_grad()
        loss = F.cross_entropy(run(x), y)
        if run.training:
            loss.backward()
            optimizer.step()
        yield loss.detach(), model, dict(run.state_dict()), [name for name, _ in run.named_parameters()]


@scenario()
def under_no_grad(compile):
    model = mlp()
    run = compile(model)
    for i, x in enumerate(inputs(10)):
        with dc.set_grad_enabled(i % 2 == 0):
            out = run(x)
        yield out.detach(), out.requires_grad


@scenario(everywhere=True)
def two_forwards_one_backward(compile):
    model = mlp()
    run = compile(model)
    for x, y in batches(10):
        model.zero_grad()
        first, second = run(x), run(x * 0.5)
        loss = F.cross_entropy(first, y) + F.mse_loss(first, second)
        loss.backward()
        yield loss.detach(), first.detach(), second.detach(), model


@scenario()
def backwards_in_other_order(compile):
    model = mlp()
    run = compile(model)
    for x, y in batches(10):
        model.zero_grad()
        first, second = run(x), run(x + 1)
        F.cross_entropy(first, y).backward()
        F.cross_entropy(second, y).backward()
        yield first.detach(), second.detach(), model


@scenario()
def forward_that_is_never_differentiated(compile):
    model = mlp(nn.BatchNorm1d(8))
    run = compile(model)
    for i, (x, y) in enumerate(batches(12)):
        model.zero_grad()
        out = run(x)
        if i % 2:
            F.cross_entropy(out, y).backward()
        yield out.detach(), model


@scenario()
def accumulated(compile):
    model = mlp(nn.Dropout(0.2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    run = compile(model)
    for i, (x, y) in enumerate(batches(12), 1):
        F.cross_entropy(run(x), y).backward()
        if i % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        yield i, model


@scenario()
def frozen_in_between(compile):
    model = mlp()
    run = compile(model)
    for i, (x, y) in enumerate(batches(12)):
        model.zero_grad()
        model[0].requires_grad_(i % 4 < 2)
        F.cross_entropy(run(x), y).backward()
        yield i, model


@scenario(EQUAL_OR_EAGER)
def weights_changed_before_backward(compile):
    """Eagerly that raises, as the product saved the weight; so it must, compiled."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    run = compile(model)
    for i, (x, y) in enumerate(batches(10)):
        model.zero_grad()
        loss = F.cross_entropy(run(x), y)
        if i % 3 == 2:
            with dc.no_grad():
                model[2].weight.mul_(0.5)
        try:
            loss.backward()
            raised = None
        except dc.errors.GradientError as error:
            raised = type(error)
        yield raised, model


@scenario(EQUAL_OR_EAGER)
def input_changed_before_backward(compile):
    model = nn.Linear(4, 3)
    run = compile(model)
    for i, x in enumerate(inputs(10)):
        model.zero_grad()
        loss = run(x).square().sum()
        if i % 3 == 2:
            x.mul_(2)
        try:
            loss.backward()
            raised = None
        except dc.errors.GradientError as error:
            raised = type(error)
        yield raised, model


@scenario(EQUAL_OR_EAGER)
def differentiated_twice(compile):
    model = mlp()
    run = compile(model)
    for x, y in batches(8):
        model.zero_grad()
        loss = F.cross_entropy(run(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
        yield loss.detach(), model


@scenario(EQUAL_OR_EAGER)
def second_backward_raises(compile):
    model = mlp()
    run = compile(model)
    for x, y in batches(8):
        model.zero_grad()
        loss = F.cross_entropy(run(x), y)
        loss.backward()
        try:
            loss.backward()
            raised = None
        except dc.errors.GradientError as error:
            raised = type(error)
        yield raised, model


@scenario()
def gradient_of_the_input(compile):
    model = mlp()
    run = compile(model)
    for i, x in enumerate(inputs(12)):
        model.zero_grad()
        x.requires_grad_(i % 2 == 0)
        run(x).square().sum().backward()
        yield x, model


@scenario()
def graph_before(compile):
    before, model = nn.Linear(4, 4), mlp()
    run = compile(model)
    for x in inputs(10):
        before.zero_grad()
        model.zero_grad()
        run(before(x).tanh()).square().mean().backward()
        yield before, model


class Several(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.first, self.second, self.pack = nn.Linear(4, 4), nn.Linear(4, 2), pack

    def forward(self, x):
        h = self.first(x).tanh()
        return self.pack(h, self.second(h))


PACKS = {
    "tuple": lambda h, out: (h, out),
    "list": lambda h, out: [h, out],
    "dict": lambda h, out: {"hidden": h, "out": out},
    "nested": lambda h, out: (out, {"hidden": [h]}),
    "with none": lambda h, out: (h, None, out),
    "with numbers": lambda h, out: (h, out, h.shape[0], "name"),
}


@scenario(each=PACKS)
def several_results(compile, pack):
    model = Several(pack)
    run = compile(model)

    def tensors(value):
        if isinstance(value, dc.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from tensors(list(value.values()))
        elif isinstance(value, list | tuple):
            for each in value:
                yield from tensors(each)

    for x in inputs(10):
        model.zero_grad()
        out = run(x)
        sum(t.square().mean() for t in tensors(out)).backward()
        yield [t.detach() for t in tensors(out)], type(out).__name__, model


@scenario()
def only_one_of_several_differentiated(compile):
    model = Several(PACKS["tuple"])
    run = compile(model)
    for i, x in enumerate(inputs(12)):
        model.zero_grad()
        run(x)[i % 2].square().sum().backward()
        yield i, model


@scenario()
def several_inputs(compile):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x, other=None, *, scale=1.0):
            out = self.a(x)
            return out * scale if other is None else out + self.b(other) * scale

    model = Pair()
    run = compile(model)
    for i, x in enumerate(inputs(14)):
        model.zero_grad()
        out = run(x) if i % 3 == 0 else run(x, other=x * 2) if i % 3 == 1 else run(x, x, scale=0.5)
        out.square().sum().backward()
        yield out.detach(), model


@scenario()
def batches_of_two_sizes(compile):
    model = mlp(nn.BatchNorm1d(8))
    run = compile(model)
    for i in range(12):
        for x, y in batches(1, 6 if i % 3 else 4):
            model.zero_grad()
            F.cross_entropy(run(x), y).backward()
            yield i, model


@scenario()
def weights_loaded(compile):
    model, other = mlp(), mlp()
    run = compile(model)
    for i, (x, y) in enumerate(batches(10)):
        if i == 5:
            model.load_state_dict(other.state_dict())
        model.zero_grad()
        loss = F.cross_entropy(run(x), y)
        loss.backward()
        yield loss.detach(), model


@scenario()
def made_double(compile):
    model = mlp()
    run = compile(model)
    for i, (x, y) in enumerate(batches(10)):
        if i == 5:
            model.double()
            model.zero_grad()
        out = run(x.double() if i >= 5 else x)
        F.cross_entropy(out, y).backward()
        yield out.detach(), model


@scenario()
def layer_swapped(compile):
    model = mlp()
    run = compile(model)
    for i, (x, y) in enumerate(batches(10)):
        if i == 5:
            model[1] = nn.GELU()
        model.zero_grad()
        F.cross_entropy(run(x), y).backward()
        yield i, model


@scenario(EAGER)
def that_reads_a_value(compile):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            out = self.layer(x)
            return out if out.detach().sum().item() > 0 else -out

    model = Gated()
    run = compile(model)
    for x in inputs(8):
        model.zero_grad()
        out = run(x)
        out.sum().backward()
        yield out.detach(), model


@scenario(EAGER)
def that_counts(compile):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.layer(x) / self.calls

    model = Counting()
    run = compile(model)
    for x in inputs(8):
        model.zero_grad()
        out = run(x)
        out.sum().backward()
        yield out.detach(), model, model.calls


@scenario(EQUAL_OR_EAGER)
def output_written_before_backward(compile):
    model = nn.Linear(4, 3)
    run = compile(model)
    for x in inputs(8):
        model.zero_grad()
        out = run(x)
        out.mul_(2)
        out.square().sum().backward()
        yield out.detach(), model


@scenario()
def part_of_a_model(compile):
    model = mlp(nn.Dropout(0.2))
    model[0] = compile(model[0]) if isinstance(compile(model[0]), nn.Module) else model[0]
    body = compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    for x, y in batches(8):
        model.zero_grad()
        loss = F.cross_entropy(body(model(x)), y)
        loss.backward()
        yield loss.detach(), [p.grad for p in model.parameters()]


@scenario()
def compiled_copies(compile):
    model = mlp()
    run = compile(model)
    other = None
    for i, (x, y) in enumerate(batches(10)):
        if i == 4:
            other = copy.deepcopy(run)
        F.cross_entropy(run(x), y).backward()
        yield i, model, None if other is None else other(x).detach()


@scenario()
def shared_between_two_compiled(compile):
    body = nn.Linear(4, 4)
    first, second = nn.Sequential(body, nn.Tanh()), nn.Sequential(body, nn.ReLU())
    runs = compile(first), compile(second)
    for x in inputs(10):
        body.zero_grad()
        a, b = runs[0](x), runs[1](x)
        (a * b).sum().backward()
        yield a.detach(), b.detach(), body


@scenario(everywhere=True)
def loss_compiled_too(compile):
    model = mlp()
    run, loss_of = compile(model), compile(F.cross_entropy)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    for x, y in batches(10):
        optimizer.zero_grad()
        loss = loss_of(run(x), y)
        loss.backward()
        optimizer.step()
        yield loss.detach(), model


@scenario()
def penalty_on_weights_outside(compile):
    model = mlp()
    run = compile(model)
    for x, y in batches(8):
        model.zero_grad()
        loss = F.cross_entropy(run(x), y) + 0.1 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        yield loss.detach(), model


@scenario()
def clipped_outside(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    run = compile(model)
    for x, y in batches(8):
        optimizer.zero_grad()
        F.cross_entropy(run(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        yield norm, model


@scenario(EQUAL_OR_EAGER)
def view_of_the_input(compile):
    run = compile(nn.Flatten())
    for i in range(8):
        x = randn(2, 3, 4, seed=i, requires_grad=i % 2 == 0)
        out = run(x)
        yield out, x
