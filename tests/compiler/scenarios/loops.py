"""Training loops."""

from __future__ import annotations

import copy

import deepcore as dc
from deepcore import nn, optim

from . import EAGER, EQUAL_OR_EAGER, Lag, scenario
from .common import F, batches, inputs, integers, mlp, randn, trainer

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "maximize": lambda p: optim.SGD(p, lr=0.01, maximize=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.1),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
}


@scenario(each=OPTIMIZERS, everywhere=True)
def zero_grad_first(compile, make):
    model = mlp()
    optimizer = make(model.parameters())
    step = trainer(compile, model, optimizer)
    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario(each=OPTIMIZERS)
def zero_grad_last(compile, make):
    model = mlp()
    optimizer = make(model.parameters())

    @compile
    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario(each=["sgd", "momentum", "adam"], everywhere=True)
def gradients_set_to_zero(compile, kind):
    model = mlp()
    optimizer = OPTIMIZERS[kind](model.parameters())

    @compile
    def step(x, y):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario()
def zero_grad_between_backward_and_forward(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario()
def zero_grad_of_the_model(compile):
    model = mlp()
    optimizer = optim.Adam(model.parameters())

    @compile
    def step(x, y):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario()
def zero_grad_outside(compile):
    model = mlp()
    optimizer = optim.Adam(model.parameters())

    @compile
    def step(x, y):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for x, y in batches(8):
        optimizer.zero_grad()
        yield step(x, y), model, optimizer


@scenario()
def no_zero_grad_at_all(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    @compile
    def step(x, y):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario()
def loss_that_keeps_its_graph(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for x, y in batches(8):
        yield step(x, y).detach(), model, optimizer


@scenario()
def loss_requires_grad_after_backward(compile):
    w = randn(4, requires_grad=True)

    @compile
    def step(x):
        w.grad = None
        loss = (w * x).square().sum()
        loss.backward()
        return loss

    for x in inputs(6, 4):
        loss = step(x)
        yield loss.detach(), loss.requires_grad, loss.is_leaf, w


@scenario(EQUAL_OR_EAGER)
def loss_and_predictions(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        predictions = model(x)
        loss = F.cross_entropy(predictions, y)
        loss.backward()
        optimizer.step()
        return loss.detach(), predictions.detach(), model(x).detach()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario(each=[2, 3, 5], everywhere=True, functions=2)
def accumulated_gradients(compile, every):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @compile
    def backward(x, y):
        loss = F.cross_entropy(model(x), y) / every
        loss.backward()
        return loss.detach()

    @compile
    def update():
        optimizer.step()
        optimizer.zero_grad()

    for i, (x, y) in enumerate(batches(14), 1):
        loss = backward(x, y)
        if i % every == 0:
            update()
        yield loss, model, optimizer


@scenario()
def accumulated_by_a_flag(compile):
    model = mlp()
    optimizer = optim.Adam(model.parameters())

    @compile
    def step(x, y, update):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if update:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

    for i, (x, y) in enumerate(batches(13)):
        yield step(x, y, i % 3 == 2), model, optimizer


@scenario()
def accumulated_inside(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(pairs):
        optimizer.zero_grad()
        for x, y in pairs:
            (F.cross_entropy(model(x), y) / len(pairs)).backward()
        optimizer.step()

    data = list(batches(24))
    for i in range(8):
        yield step(data[3 * i : 3 * i + 3]), model, optimizer


@scenario(each={"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}, everywhere=True)
def clipped(compile, clip):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.5)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        clip(model.parameters(), 0.1)
        optimizer.step()

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario()
def clipped_with_the_norm_returned(compile):
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return norm

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario(each=["sgd", "adam"])
def several_optimizers(compile, kind):
    body, head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3)
    first, second = OPTIMIZERS[kind](body.parameters()), optim.AdamW(head.parameters(), lr=0.02)

    @compile
    def step(x, y):
        for optimizer in (first, second):
            optimizer.zero_grad()
        loss = F.cross_entropy(head(body(x)), y)
        loss.backward()
        first.step()
        second.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), body, head, first, second


@scenario(EQUAL_OR_EAGER, each=["one", "two"])
def generative_adversarial(compile, functions):
    generator, critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4)), nn.Linear(4, 1)
    g_optimizer = optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.9))
    c_optimizer = optim.Adam(critic.parameters(), lr=0.01, betas=(0.5, 0.9))
    logits = F.binary_cross_entropy_with_logits

    def criticize(real):
        c_optimizer.zero_grad()
        fake = generator(dc.randn(6, 2)).detach()
        loss = logits(critic(real), dc.ones(6, 1)) + logits(critic(fake), dc.zeros(6, 1))
        loss.backward()
        c_optimizer.step()
        return loss.detach()

    def generate():
        g_optimizer.zero_grad()
        loss = logits(critic(generator(dc.randn(6, 2))), dc.ones(6, 1))
        loss.backward()
        g_optimizer.step()
        return loss.detach()

    if functions == "one":
        step = compile(lambda real: (criticize(real), generate()))
    else:
        parts = compile(criticize), compile(generate)
        step = lambda real: (parts[0](real), parts[1]())
    for x in inputs(8, 6, 4):
        yield step(x), generator, critic, g_optimizer, c_optimizer


@scenario()
def alternately_frozen(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(14)):
        model[0].requires_grad_(i % 2 == 0)
        yield step(x, y), model, optimizer


@scenario()
def unfrozen_midway(compile):
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = optim.Adam(model.parameters())
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            model[0].requires_grad_(True)
        yield step(x, y), model, optimizer


@scenario()
def frozen_after_having_gradients(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for i, (x, y) in enumerate(batches(12)):
        if i == 4:
            model[2].weight.requires_grad_(False)
        yield step(x, y), model


@scenario()
def swapped_layer(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        if i == 4:
            model[1] = nn.ReLU()
        if i == 8:
            model[2] = nn.Linear(8, 3)
            optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
        yield step(x, y), model, optimizer


@scenario(each=["model", "optimizer", "both", "copied"], everywhere=True)
def state_dict_loaded_midway(compile, which):
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    step = trainer(compile, model, optimizer)
    saved = None
    for i, (x, y) in enumerate(batches(12)):
        if i == 3:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        if i == 8:
            if which in ("model", "both"):
                model.load_state_dict(saved[0])
            if which in ("optimizer", "both"):
                optimizer.load_state_dict(saved[1])
            if which == "copied":
                with dc.no_grad():
                    for name, p in model.named_parameters():
                        p.copy_(saved[0][name])
        yield step(x, y), model, optimizer


@scenario()
def state_dict_assigned(compile):
    model, other = mlp(), mlp()
    run = compile(lambda x: model(x).detach())
    for i, x in enumerate(inputs(10)):
        if i == 5:
            model.load_state_dict(other.state_dict(), assign=True)
        yield run(x), model


SCHEDULES = {
    "step": lambda o: optim.lr_scheduler.StepLR(o, 3, 0.5),
    "multistep": lambda o: optim.lr_scheduler.MultiStepLR(o, [2, 5], 0.1),
    "cosine": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 8),
    "lambda": lambda o: optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
}


@scenario(each=SCHEDULES)
def schedule_outside(compile, make):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = make(optimizer)
    step = trainer(compile, model, optimizer)
    for x, y in batches(12):
        loss = step(x, y)
        schedule.step()
        yield loss, model, optimizer, schedule


@scenario(EQUAL_OR_EAGER, each=SCHEDULES)
def schedule_inside(compile, make):
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.5)
    schedule = make(optimizer)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()

    for x, y in batches(12):
        yield step(x, y), model, optimizer, schedule


@scenario()
def learning_rate_set_by_hand(compile):
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        yield step(x, y), model, optimizer


@scenario(each=["momentum", "weight_decay", "nesterov", "dampening"])
def hyperparameter_changed(compile, name):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            optimizer.param_groups[0][name] = True if name == "nesterov" else 0.25
        yield step(x, y), model, optimizer


@scenario()
def parameter_groups(compile):
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "weight_decay": 0.1}]
    optimizer = optim.SGD(groups, lr=0.1, momentum=0.9)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(10)):
        optimizer.param_groups[1]["lr"] *= 0.9 if i % 2 else 1.0
        yield step(x, y), model, optimizer


@scenario()
def optimizer_state_cleared(compile):
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            optimizer.state.clear()
        yield step(x, y), model, optimizer


@scenario(EQUAL_OR_EAGER)
def optimizer_made_anew(compile):
    model = mlp()

    @compile
    def step(x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for i, (x, y) in enumerate(batches(12)):
        if i == 6:
            optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
        yield step(x, y, optimizer), model, optimizer


@scenario(EQUAL_OR_EAGER)
def step_with_a_closure(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss.detach()

        return optimizer.step(closure)

    for x, y in batches(8):
        yield step(x, y), model, optimizer


@scenario(EQUAL_OR_EAGER, each=["argument", "closure", "attribute", "default"], everywhere=True)
def average_of_weights(compile, place):
    model, average = mlp(), mlp()
    average.requires_grad_(False)
    optimizer = optim.SGD(model.parameters(), lr=0.2)
    model.__dict__["average"] = average

    def train(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    def follow(average):
        with dc.no_grad():
            for s, p in zip(average.parameters(), model.parameters()):
                s.mul_(0.5)
                s.add_(p * 0.5)

    if place == "argument":

        @compile
        def step(x, y, average):
            train(x, y)
            follow(average)

        call = lambda x, y: step(x, y, average)
    elif place == "closure":

        @compile
        def call(x, y):
            train(x, y)
            follow(average)
    elif place == "attribute":

        @compile
        def call(x, y):
            train(x, y)
            follow(model.average)
    else:

        @compile
        def call(x, y, average=average):
            train(x, y)
            follow(average)

    for x, y in batches(9):
        yield call(x, y), list(model.parameters()), average, optimizer


@scenario(EQUAL_OR_EAGER, each=["mul_", "lerp", "copy_"])
def one_state_averaged(compile, how):
    p = nn.Parameter(randn(3))
    s = dc.zeros(3)
    optimizer = optim.SGD([p], lr=0.1)

    @compile
    def step(x):
        optimizer.zero_grad()
        (p * x).square().sum().backward()
        optimizer.step()
        with dc.no_grad():
            if how == "mul_":
                s.mul_(0.5)
                s.add_(p)
            elif how == "lerp":
                s.add_((p - s) * 0.1)
            else:
                s.copy_(0.9 * s + 0.1 * p)

    for x in inputs(12, 3):
        yield step(x), p, s, optimizer


@scenario(everywhere=True)
def tied_weights(compile):
    embedding, hidden, head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7)
    head.weight = embedding.weight
    model = nn.ModuleList([embedding, hidden, head])
    optimizer = optim.Adam(model.parameters(), lr=0.05)

    @compile
    def step(tokens):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(hidden(embedding(tokens[:-1])).tanh()), tokens[1:])
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(8):
        yield step(integers(7, 9, seed=i)), model, optimizer


@scenario()
def tied_later(compile):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, nn.Tanh(), second)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    for i, x in enumerate(inputs(10)):
        if i == 5:
            second.weight = first.weight
        yield step(x), model, optimizer


@scenario(everywhere=True)
def teacher_and_student(compile):
    teacher, student = mlp().eval(), mlp()
    optimizer = optim.SGD(student.parameters(), lr=0.1)

    @compile
    def step(x):
        with dc.no_grad():
            target = teacher(x).softmax(-1)
        optimizer.zero_grad()
        loss = -(target * student(x).log_softmax(-1)).sum(-1).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, x in enumerate(inputs(10)):
        if i == 5:
            teacher.load_state_dict(student.state_dict())
        yield step(x), teacher, student, optimizer


@scenario(EQUAL_OR_EAGER, each=["tensor", "number"])
def memory_bank(compile, index):
    encoder, bank = nn.Linear(4, 3), dc.zeros(6, 3)
    optimizer = optim.SGD(encoder.parameters(), lr=0.1)

    @compile
    def step(x, where):
        optimizer.zero_grad()
        z = encoder(x)
        loss = F.mse_loss(z, bank.mean(0, keepdim=True).expand(2, 3).detach())
        loss.backward()
        optimizer.step()
        bank[where] = z.detach() if index == "tensor" else z[0].detach()
        return loss.detach()

    for i, x in enumerate(inputs(12, 2, 4)):
        where = dc.tensor([i % 6, (i + 1) % 6]) if index == "tensor" else i % 3
        yield step(x, where), encoder, bank


@scenario()
def queue_of_keys(compile):
    encoder, queue = nn.Linear(4, 3), randn(8, 3)
    optimizer = optim.SGD(encoder.parameters(), lr=0.1)

    @compile
    def step(x):
        optimizer.zero_grad()
        keys = F.normalize(encoder(x), dim=-1)
        (keys @ queue.t()).logsumexp(-1).mean().backward()
        optimizer.step()
        queue.copy_(dc.cat([queue[2:], keys.detach()]))

    for x in inputs(10, 2, 4):
        yield step(x), encoder, queue


@scenario(EAGER)
def early_stopping_by_value(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if loss < 1.0:
            return loss.detach(), True
        optimizer.step()
        return loss.detach(), False

    for x, y in batches(12):
        yield step(x, y), model


@scenario()
def early_stopping_outside(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    step = trainer(compile, model, optimizer)
    best, patience = float("inf"), 0
    for x, y in batches(20):
        loss = step(x, y)
        best, patience = (loss.item(), 0) if loss.item() < best else (best, patience + 1)
        yield loss, model, best, patience
        if patience == 3:
            break


@scenario()
def flag_that_stops(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    stopped = False

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if not stopped:
            loss.backward()
            optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(12)):
        stopped = i >= 6
        yield step(x, y), model


@scenario(each=["argument", "closure"])
def loss_scaled_by_a_number(compile, place):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scale = 1.0

    @compile
    def step(x, y, by=None):
        optimizer.zero_grad()
        by = scale if by is None else by
        loss = F.cross_entropy(model(x), y) * by
        loss.backward()
        for p in model.parameters():
            p.grad.mul_(1 / by)
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(12)):
        scale = float(2 ** (i // 4))
        yield step(x, y, scale) if place == "argument" else step(x, y), model


@scenario()
def loss_scaled_by_a_tensor(compile):
    model, scale = mlp(), dc.tensor(1.0)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * scale
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(12)):
        scale.fill_(2.0**-i)
        yield step(x, y), model


@scenario()
def curriculum_of_numbers(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y, length, noise):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[:length] + noise), y[:length])
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(12)):
        yield step(x, y, 2 + i // 3, 0.5 if i < 6 else 0.0), model


@scenario(EQUAL_OR_EAGER)
def a_new_number_in_each_call(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y, temperature):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x) / temperature, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(30)):
        yield step(x, y, 1.0 + i / 10), model


@scenario(everywhere=True)
def weights_of_samples(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y, weight):
        optimizer.zero_grad()
        losses = F.cross_entropy(model(x), y, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        optimizer.step()
        return losses.detach()

    for i, (x, y) in enumerate(batches(8)):
        yield step(x, y, randn(6, seed=i).abs()), model


@scenario()
def weights_of_classes(compile):
    model, weight = mlp(), dc.tensor([1.0, 2.0, 0.5])
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, weight=weight, label_smoothing=0.1, ignore_index=2)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i, (x, y) in enumerate(batches(10)):
        if i == 5:
            weight[0] = 3.0
        yield step(x, y), model


@scenario()
def metrics_as_tensors(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        scores = model(x)
        loss = F.cross_entropy(scores, y)
        loss.backward()
        optimizer.step()
        best = scores.detach().argmax(-1)
        return {"loss": loss.detach(), "accuracy": (best == y).float().mean(), "predicted": best}

    for x, y in batches(8):
        yield step(x, y), model


@scenario(EAGER)
def metrics_as_numbers(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    for x, y in batches(8):
        yield step(x, y), model


@scenario()
def totals_in_a_tensor(compile):
    model, total, count = mlp(), dc.zeros(()), dc.zeros((), dtype=dc.int64)

    @compile
    def evaluate(x, y):
        with dc.no_grad():
            hits = model(x).argmax(-1) == y
            total.add_(hits.sum().float())
            count.add_(len(y))

    for i in range(10):
        x, y = randn(4 + i % 2, 4, seed=i), integers(3, 4 + i % 2, seed=i)
        yield evaluate(x, y), total, count


@scenario(each=[6, 5, 1])
def last_batch_is_smaller(compile, last):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for _ in range(3):
        for n in (6, 6, 6, last):
            for x, y in batches(1, n):
                yield step(x, y), model


@scenario()
def growing_batches(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = trainer(compile, model, optimizer)
    for n in range(1, 13):
        for x, y in batches(1, n):
            yield step(x, y), model


@scenario()
def regularized_by_hand(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(x), y) + 0.01 * penalty
        loss.backward()
        optimizer.step()
        return loss.detach(), penalty.detach()

    for x, y in batches(8):
        yield step(x, y), model


@scenario(everywhere=True)
def plain_gradient_descent(compile):
    w, b = randn(4, 3, requires_grad=True), dc.zeros(3, requires_grad=True)

    @compile
    def step(x, y):
        loss = F.cross_entropy(x @ w + b, y)
        loss.backward()
        with dc.no_grad():
            for p in (w, b):
                p -= 0.1 * p.grad
                p.grad = None
        return loss.detach()

    for x, y in batches(10):
        yield step(x, y), w, b


@scenario(EQUAL_OR_EAGER)
def gradient_descent_by_grad(compile):
    w = randn(4, 3, requires_grad=True)

    @compile
    def step(x, y):
        (gradient,) = dc.autograd.grad(F.cross_entropy(x @ w, y), [w])
        with dc.no_grad():
            w.sub_(0.1 * gradient)
        return gradient

    for x, y in batches(10):
        yield step(x, y), w


@scenario(EQUAL_OR_EAGER)
def inner_loop(compile):
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @compile
    def epoch(x, y):
        losses = []
        for i in range(0, 6, 2):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[i : i + 2]), y[i : i + 2])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return dc.stack(losses)

    for x, y in batches(8):
        yield epoch(x, y), model, optimizer


@scenario()
def trained_and_evaluated(compile):
    model = mlp(nn.BatchNorm1d(8), nn.Dropout(0.3))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = trainer(compile, model, optimizer)

    @compile
    def evaluate(x, y):
        with dc.no_grad():
            return F.cross_entropy(model(x), y)

    for i, (x, y) in enumerate(batches(12)):
        model.train(i % 3 != 2)
        yield (step if i % 3 != 2 else evaluate)(x, y), model


@scenario()
def two_models_one_function(compile):
    models = [mlp(), mlp(nn.LayerNorm(8))]
    optimizers = [optim.SGD(m.parameters(), lr=0.1) for m in models]

    @compile
    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for i, (x, y) in enumerate(batches(14)):
        yield step(models[i % 2], optimizers[i % 2], x, y), models, optimizers


@scenario()
def ensemble(compile):
    models = nn.ModuleList(mlp() for _ in range(3))
    optimizer = optim.Adam(models.parameters(), lr=0.01)

    @compile
    def step(x, y):
        optimizer.zero_grad()
        loss = sum(F.cross_entropy(m(x), y) for m in models)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), models, optimizer


@scenario()
def logged_by_the_function(compile):
    """What is logged is logged when the function itself runs."""
    model, lines = mlp(), []
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    log = lines.append

    @compile(side_effects="once")
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        log(f"{len(x)} samples")
        return loss.detach()

    for x, y in batches(8):
        yield step(x, y), model, Lag(lines)
