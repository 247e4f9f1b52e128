"""Gradients: modes, orders, where they are kept, and who reads them."""

from __future__ import annotations

import contextlib

import deepcore as dc
from deepcore import nn, optim

from . import EQUAL_OR_EAGER, scenario
from .common import F, batches, inputs, mlp, randn


@scenario(EQUAL_OR_EAGER, everywhere=True)
def gradient_penalty(compile):
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.Adam(critic.parameters(), lr=0.01)

    @compile
    def step(real, fake, mix):
        optimizer.zero_grad()
        between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
        (gradient,) = dc.autograd.grad(critic(between).sum(), [between], create_graph=True)
        penalty = (gradient.square().sum(-1).sqrt() - 1).square().mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        loss.backward()
        optimizer.step()
        return loss.detach(), penalty.detach()

    for i, x in enumerate(inputs(8)):
        yield step(x, randn(5, 4, seed=i), randn(5, 1, seed=i).sigmoid()), critic


@scenario(EQUAL_OR_EAGER, each=["grad", "backward", "transform"])
def double_backward(compile, how):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        loss = (w * x).pow(3).sum()
        if how == "grad":
            (first,) = dc.autograd.grad(loss, [w], create_graph=True)
            first.square().sum().backward()
            return first.detach()
        if how == "backward":
            loss.backward(create_graph=True)
            first = w.grad
            w.grad = None
            first.square().sum().backward()
            return first.detach()
        return dc.grad(lambda v: dc.grad(lambda u: (u * x).pow(3).sum())(v).square().sum())(w.detach())

    for x in inputs(8, 4):
        yield step(x), w


@scenario()
def third_derivative(compile):
    f = lambda x: (x.sin() * x).sum()
    third = compile(dc.grad(lambda x: dc.grad(lambda x: dc.grad(f)(x).sum())(x).sum()))
    for x in inputs(8, 4):
        yield third(x)


@scenario(each=["grad", "value_and_grad", "aux", "tree"], everywhere=True)
def transforms(compile, which):
    def loss(w, x):
        return (x @ w).square().mean()

    if which == "grad":
        run = compile(dc.grad(loss))
    elif which == "value_and_grad":
        run = compile(dc.value_and_grad(loss, argnums=(0, 1)))
    elif which == "aux":
        run = compile(dc.value_and_grad(lambda w, x: ((x @ w).sum(), {"product": x @ w}), has_aux=True))
    else:
        run = compile(lambda w, x: dc.grad(lambda p: loss(p["w"], x) + p["b"].sum())({"w": w, "b": x[0]}))
    w = randn(4, 3)
    for x in inputs(8):
        yield run(w, x), w
        w = w + 0.5


@scenario()
def detached_loss(compile):
    a, b = randn(4, requires_grad=True), randn(4, requires_grad=True)

    @compile
    def step(x):
        a.grad = b.grad = None
        ((a * x).detach() * b).sum().backward()
        return (a * x).detach().sum()

    for x in inputs(8, 4):
        yield step(x), a, b


@scenario()
def some_without_gradient(compile):
    first, unused = nn.Linear(4, 3), nn.Linear(4, 3)
    model = nn.ModuleList([first, unused])
    optimizer = optim.Adam(model.parameters())

    @compile
    def step(x, which):
        optimizer.zero_grad()
        model[which](x).square().sum().backward()
        optimizer.step()

    for i, x in enumerate(inputs(12)):
        yield step(x, int(i % 4 == 3)), model, optimizer


@scenario(each=["context", "decorator", "enable", "set"])
def grad_mode_inside(compile, how):
    w = randn(4, requires_grad=True)

    @dc.no_grad()
    def frozen(x):
        return (w * x).exp()

    @compile
    def step(x):
        w.grad = None
        if how == "context":
            with dc.no_grad():
                y = (w * x).exp()
        elif how == "decorator":
            y = frozen(x)
        elif how == "enable":
            with dc.no_grad(), dc.enable_grad():
                y = (w * x).exp()
        else:
            with dc.set_grad_enabled(False):
                y = (w * x).exp()
        (y * w).sum().backward()
        return y.detach()

    for x in inputs(8, 4):
        yield step(x), w


@scenario(each=["no_grad", "set_grad_enabled"], everywhere=True)
def grad_mode_outside(compile, how):
    w = randn(4, requires_grad=True)

    @compile
    def run(x):
        y = w * x
        return y.detach() if dc.is_grad_enabled() else y.sum()

    for i, x in enumerate(inputs(12, 4)):
        off = i % 3 == 1
        mode = dc.no_grad() if how == "no_grad" else dc.set_grad_enabled(False)
        with mode if off else contextlib.nullcontext():
            yield run(x), w


@scenario(EQUAL_OR_EAGER)
def grad_mode_left_changed(compile):
    """The mode that a function leaves is the mode after it."""

    @compile
    def run(x):
        dc.set_grad_enabled(False)
        return x * 2

    try:
        for x in inputs(6):
            yield run(x)
            dc.set_grad_enabled(True)
    finally:
        dc.set_grad_enabled(True)


@scenario()
def requires_grad_of_an_argument(compile):
    @compile
    def run(x):
        y = x.square().sum()
        if y.requires_grad:
            y.backward()
        return y.detach()

    for i, x in enumerate(inputs(12)):
        x.requires_grad_(i % 3 == 0)
        yield run(x), x


@scenario()
def requires_grad_toggled_outside(compile):
    w = randn(4)

    @compile
    def run(x):
        y = (w * x).sum()
        if y.requires_grad:
            y.backward()
        return y.detach()

    for i, x in enumerate(inputs(12, 4)):
        w.requires_grad_(i % 4 > 1)
        yield run(x), w


@scenario(EQUAL_OR_EAGER)
def requires_grad_toggled_inside(compile):
    model = mlp()

    @compile
    def run(x):
        model.zero_grad()
        model[0].requires_grad_(False)
        model(x).sum().backward()
        model[0].requires_grad_(True)

    for x in inputs(8):
        yield run(x), model


@scenario(each=["from before", "by hand", "zeros", "none again"])
def gradient_present(compile, how):
    w = randn(4, requires_grad=True)
    run = compile(lambda x: (w * x).sum().backward())
    for i, x in enumerate(inputs(12, 4)):
        if i == 4 and how == "from before":
            (w * 3).sum().backward()
        if i in (4, 8) and how == "by hand":
            w.grad = randn(4, seed=i)
        if i % 4 == 0 and how == "zeros":
            w.grad = dc.zeros(4)
        if i % 3 == 0 and how == "none again":
            w.grad = None
        yield run(x), w


@scenario(EQUAL_OR_EAGER, each=["new", "scaled", "none", "shared"])
def gradient_assigned_inside(compile, how):
    w, v = randn(4, requires_grad=True), randn(4, seed=1, requires_grad=True)

    @compile
    def run(x):
        if how == "new":
            w.grad = x * 2
        elif how == "scaled":
            w.grad = None
            (w * x).sum().backward()
            w.grad = w.grad * 0.5
        elif how == "none":
            (w * x).sum().backward()
            out = w.grad * 1
            w.grad = None
            return out
        else:
            w.grad = v.grad = x + 1

    for x in inputs(8, 4):
        yield run(x), w, v


@scenario(everywhere=True)
def gradient_read_inside(compile):
    w = randn(4, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        (w * x).square().sum().backward()
        return w.grad.square().sum(), w.grad.sign()

    for x in inputs(8, 4):
        yield run(x), w


@scenario(EQUAL_OR_EAGER)
def gradient_from_before_read_inside(compile):
    w = randn(4, requires_grad=True)
    run = compile(lambda x: x * 0 if w.grad is None else x + w.grad)
    for i, x in enumerate(inputs(12, 4)):
        if i == 4:
            (w * 2).sum().backward()
        if i == 8:
            w.grad.mul_(3)
        yield run(x), w


@scenario(EQUAL_OR_EAGER)
def gradient_returned(compile):
    w = randn(4, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    for x in inputs(8, 4):
        yield run(x), w


@scenario()
def gradient_kept_by_the_caller(compile):
    w, kept = randn(4, requires_grad=True), []

    @compile
    def run(x):
        w.grad = None
        (w * x).square().sum().backward()

    for x in inputs(8, 4):
        run(x)
        kept.append(w.grad)
        yield list(kept), w


@scenario(EQUAL_OR_EAGER)
def gradient_of_an_argument(compile):
    run = compile(lambda x: x.square().sum().backward())
    shared = randn(4, seed=9, requires_grad=True)
    for i, x in enumerate(inputs(10, 4)):
        x = shared if i % 3 == 0 else x.requires_grad_()
        yield run(x), x


@scenario()
def gradient_given_to_backward(compile):
    w = randn(4, requires_grad=True)

    @compile
    def run(x, g):
        w.grad = None
        (w * x).backward(g)

    for i, x in enumerate(inputs(8, 4)):
        yield run(x, randn(4, seed=i)), w


@scenario()
def graph_retained(compile):
    w = randn(4, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        loss = (w * x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()

    for x in inputs(8, 4):
        yield run(x), w


@scenario(EQUAL_OR_EAGER)
def gradient_of_a_middle_tensor(compile):
    w = randn(4, requires_grad=True)

    @compile
    def run(x):
        w.grad = None
        hidden = w * x
        hidden.retain_grad()
        hidden.square().sum().backward()
        return hidden.grad

    for x in inputs(8, 4):
        yield run(x), w


@scenario(EQUAL_OR_EAGER)
def loss_differentiated_outside(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loss_of = compile(lambda x, y: F.cross_entropy(model(x), y))
    for x, y in batches(10):
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        yield loss.detach(), model


@scenario(EQUAL_OR_EAGER)
def graph_around(compile):
    """Differentiable before, within and after the compiled part."""
    before, w = nn.Linear(4, 4), randn(4, requires_grad=True)
    middle = compile(lambda h: (h * w).tanh())
    for x in inputs(10):
        before.zero_grad()
        w.grad = None
        out = middle(before(x)).square().sum()
        out.backward()
        yield out.detach(), before, w


@scenario(EQUAL_OR_EAGER)
def implicit_leaf(compile):
    """A leaf that the function makes."""

    @compile
    def run(x):
        z = x.detach().clone().requires_grad_()
        (z**3).sum().backward()
        return z.grad

    for x in inputs(8):
        yield run(x)


@scenario(EQUAL_OR_EAGER)
def optimization_inside(compile):
    @compile
    def fit(x, y):
        w = dc.zeros(4, requires_grad=True)
        for _ in range(3):
            (gradient,) = dc.autograd.grad(((x @ w) - y).square().mean(), [w])
            w = (w - 0.1 * gradient).detach().requires_grad_()
        return w.detach()

    for i, x in enumerate(inputs(8)):
        yield fit(x, randn(5, seed=i))


@scenario(EQUAL_OR_EAGER)
def meta_gradient(compile):
    w = randn(4, requires_grad=True)
    optimizer = optim.Adam([w], lr=0.05)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        (inner,) = dc.autograd.grad(((x * w).sum(-1) - y).square().mean(), [w], create_graph=True)
        adapted = w - 0.1 * inner
        loss = ((x * adapted).sum(-1) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, x in enumerate(inputs(8)):
        yield step(x, randn(5, seed=i)), w


@scenario()
def two_losses(compile):
    body, first, second = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    @compile
    def step(x):
        for m in (body, first, second):
            m.zero_grad()
        h = body(x)
        a, b = first(h).square().mean(), second(h).abs().mean()
        (a + 0.5 * b).backward()
        return a.detach(), b.detach()

    for x in inputs(8):
        yield step(x), body, first, second


@scenario()
def two_backward_calls(compile):
    body, first, second = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    @compile
    def step(x):
        for m in (body, first, second):
            m.zero_grad()
        first(body(x)).square().mean().backward()
        second(body(x)).abs().mean().backward()

    for x in inputs(8):
        yield step(x), body, first, second


@scenario(EQUAL_OR_EAGER)
def anomalies_looked_for(compile):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        with dc.autograd.detect_anomaly():
            (w * x).exp().sum().backward()

    for x in inputs(6, 4):
        yield step(x), w


@scenario()
def anomalies_looked_for_outside(compile):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        loss = (w * x).abs().sqrt().sum()
        loss.backward()
        return loss.detach()

    for i, x in enumerate(inputs(12, 4)):
        raised = None
        with dc.autograd.detect_anomaly() if i > 5 else contextlib.nullcontext():
            try:
                step(x if i % 3 else x * 0)
            except dc.errors.NonFiniteError as error:
                raised = type(error)
        yield raised, w


@scenario()
def derivative_of_a_where(compile):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        y = dc.where(x > 0, (w * x).exp(), w.abs().sqrt())
        y.sum().backward()
        return y.detach()

    for x in inputs(8, 5, 4):
        yield step(x), w
