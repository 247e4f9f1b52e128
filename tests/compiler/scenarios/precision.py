"""Autocasting inside and around compiled functions, and scaled gradients."""

from __future__ import annotations

import deepcore as dc
from deepcore import nn, optim

from . import EQUAL_OR_EAGER, scenario
from .common import F, batches, inputs, mlp, randn, trainer

CALLS = 9
#: The type of device of the backend that a scenario runs on.
KINDS = {name: lambda name=name: (_kind(), getattr(dc, name)) for name in ("bfloat16", "float16")}


def _kind() -> str:
    return dc.get_backend().kernel_kind or "cpu"


@scenario(each=KINDS, everywhere=True)
def autocast_inside(compile, make):
    model = mlp(nn.LayerNorm(8))
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    kind, dtype = make()

    @compile
    def step(x, y):
        optimizer.zero_grad()
        with dc.autocast(kind, dtype):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        return logits.detach(), loss.detach()

    for x, y in batches(CALLS):
        yield step(x, y), model, optimizer


@scenario(each=KINDS, everywhere=True)
def autocast_around(compile, make):
    """Casts of parameters that were cached before the call, and parameters that the program then changes."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = trainer(compile, model, optimizer)
    with dc.autocast(*make()):
        for x, y in batches(CALLS):
            yield step(x, y), model, optimizer, model(x)


@scenario(everywhere=True)
def autocast_switched(compile):
    model = mlp()
    forward = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(12)):
        with dc.autocast(_kind(), (dc.bfloat16, dc.float16)[i // 4 % 2], enabled=i % 3 > 0):
            yield forward(x)


@scenario(everywhere=True)
def default_dtype_of_a_region_inside(compile):
    """The region inside names no dtype: that of the thread is part of what the program was recorded under."""
    model, kind = mlp(), _kind()

    @compile
    def forward(x):
        with dc.autocast(kind):
            return model(x).detach()

    before = dc.get_autocast_dtype(kind)
    try:
        for i, x in enumerate(inputs(12)):
            dc.set_autocast_dtype(kind, (dc.bfloat16, dc.float16)[i // 3 % 2])
            yield forward(x)
    finally:
        dc.set_autocast_dtype(kind, before)


@scenario(EQUAL_OR_EAGER)
def state_left_changed(compile):
    run = compile(lambda x: (dc.set_autocast_enabled("cpu", not dc.is_autocast_enabled("cpu")), x @ x.T)[1])
    try:
        for x in inputs(6):
            yield run(x), dc.is_autocast_enabled("cpu")
    finally:
        dc.set_autocast_enabled("cpu", False)


@scenario(each=["plain", "clipped"])
def scaled_gradients(compile, how):
    """A scale that overflows at first, grows, and overflows again by an input."""
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    scaler = dc.amp.GradScaler("cpu", 2.0**21, growth_interval=3)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        with dc.autocast("cpu", dc.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if how == "clipped":
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    for i, (x, y) in enumerate(batches(24)):
        yield step(x * float("inf") if i == 15 else x, y), model, optimizer, scaler.state_dict()


@scenario(EQUAL_OR_EAGER, everywhere=True)
def scaled_gradients_of_the_backend(compile):
    """A GPU's program cannot check gradients: the step then runs eagerly."""
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = dc.amp.GradScaler(_kind(), 2.0**40, growth_interval=3)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        with dc.autocast(_kind(), dc.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    for x, y in batches(28):
        yield step(x, y), model, optimizer, scaler.state_dict()


@scenario(everywhere=True)
def differentiated_outside_of_the_region(compile):
    model = mlp()
    forward = compile(lambda x: model(x))
    for x, y in batches(CALLS):
        model.zero_grad()
        with dc.autocast(_kind(), dc.bfloat16):
            loss = F.cross_entropy(forward(x), y)
        loss.backward()
        yield loss.detach(), [p.grad for p in model.parameters()]


@scenario(functions=2)
def settings_of_a_scaler(compile):
    w = randn(4, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    scaler = dc.amp.GradScaler("cpu", 8.0, growth_interval=2)

    @compile
    def step(x):
        optimizer.zero_grad()
        scaler.scale((w * x).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    for i, x in enumerate(inputs(14, 4)):
        if i == 6:
            scaler.set_growth_factor(4.0)
        if i == 9:
            scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0, "growth_interval": 3})
        step(x)
        yield w, scaler.state_dict()
