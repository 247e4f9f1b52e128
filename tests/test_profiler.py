"""`dc.profile`: times, arithmetic, bytes and memory by op and module, eager and compiled; tables and traces."""

from __future__ import annotations

import gzip
import json
import threading

import numpy as np
import pytest
import standin

import deepcore as dc
import deepcore.nn.functional as F
from deepcore import errors, nn, optim
from deepcore.compiler.compiled import _compiles
from deepcore.kernels.runtime import threadpool
from deepcore.profiler import ProfilerActivity, record_function, schedule


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(x)))


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def training(backend, width: int = 8):
    net = Net(width).to(backend)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = dc.randn(4, width, backend=backend), dc.tensor([0, 1, 2, 0], backend=backend)
    return net, step, x, y


def by_name(prof, **options):
    return {row.key: row for row in prof.key_averages(**options)}


def test_op_times_sum_to_no_more_than_the_whole(backend):
    _, step, x, y = training(backend)
    with dc.profile() as prof:
        for _ in range(2):
            step(x, y)
    ops = [event for event in prof.events() if event.kind == "op"]
    assert ops and all(event.seconds >= 0 for event in ops)
    assert sum(event.seconds for event in ops) <= prof.seconds
    for group in ("op", "module"):
        rows = prof.key_averages(group_by=group)
        assert sum(row.self_seconds for row in rows) <= prof.seconds
        assert all(0 <= row.self_seconds <= row.total_seconds + 1e-9 for row in rows)
    rows = by_name(prof)
    assert rows["linear"].count == 10 and rows["SGD.step"].count == 2 and rows["gelu"].bytes > 0
    assert all(event.device == x.backend.name for event in ops)


LSTM = {"bidirectional": False}
FLOPS = {
    # 2mkn for each product, whatever runs it
    "linear": (lambda b: F.linear(dc.ones(5, 7, backend=b), dc.ones(3, 7, backend=b)), {"linear": 2 * 5 * 7 * 3}),
    "matmul": (lambda b: dc.ones(2, 5, 7, backend=b) @ dc.ones(7, 3, backend=b), {"matmul": 2 * 2 * 5 * 7 * 3}),
    "conv2d": (
        lambda b: F.conv2d(dc.ones(2, 4, 6, 5, backend=b), dc.ones(8, 2, 3, 3, backend=b), padding=1, groups=2),
        {"conv": 2 * (2 * 8 * 6 * 5) * (2 * 3 * 3)},
    ),
    "attention": (
        lambda b: F.scaled_dot_product_attention(*(dc.ones(2, 3, n, 8, backend=b) for n in (5, 7, 7))),
        {"attention": 2 * 2 * (2 * 3) * 5 * 7 * 8},
    ),
    "add": (lambda b: dc.ones(4, 1, backend=b) + dc.ones(5, backend=b), {"add": 20}),
    "views": (lambda b: dc.ones(4, 6, backend=b).reshape(8, 3).t(), {}),
}


@pytest.mark.parametrize("name", FLOPS)
def test_arithmetic_equals_the_closed_form(name, backend):
    call, expected = FLOPS[name]
    with dc.profile() as prof:
        call(backend)
    rows = by_name(prof)
    if name == "attention" and "attention" not in rows:  # where it is composed of ops: two products, and the softmax
        assert sum(row.flops for key, row in rows.items() if key in ("matmul", "product")) == expected["attention"]
        return
    assert {key: row.flops for key, row in rows.items() if row.flops} == expected


def test_an_lstm_has_the_arithmetic_of_its_products(backend):
    steps, batch, inputs, hidden = 5, 2, 3, 4
    lstm = nn.LSTM(inputs, hidden).to(backend)
    with dc.profile() as prof:
        lstm(dc.ones(steps, batch, inputs, backend=backend))
    products = [e.flops for e in prof.events() if e.name in ("linear", "matmul", "lstm_sequence")]
    assert sum(products) == 2 * steps * batch * 4 * hidden * (inputs + hidden)
    assert {e.module for e in prof.events()} == {"LSTM"}


def test_ops_belong_to_modules_forward_and_backward(backend):
    net, step, x, y = training(backend)
    with dc.profile() as prof:
        step(x, y)
    events = [e for e in prof.events() if e.kind == "op"]
    forward = {(e.name, e.module) for e in events if not e.backward}
    assert {("linear", "layers.0.fc1"), ("linear", "layers.1.fc2"), ("linear", "head"), ("gelu", "layers.1")} <= forward
    backward = {e.module for e in events if e.backward}
    assert {"layers.0.fc1", "layers.0.fc2", "layers.0", "layers.1.fc1", "head"} <= backward
    paths = {path or "Net" for path, _ in net.named_modules()}
    assert {e.module for e in events} - {""} <= paths
    rows = by_name(prof, group_by="module")
    assert {"Net", "layers", "layers.0", "layers.0.fc1", "layers.0.fc1 (backward)", "SGD.step"} <= rows.keys()
    assert rows["layers.0.fc1"].flops == 2 * 4 * 8 * 16 and rows["layers.0.fc1"].count == 1
    # the gradient of a product is two of them; the first layer's input needs none
    products = {name: sum(e.flops for e in events if e.backward and e.module == name and e.name == "matmul") for name in ("head", "layers.0.fc1")}  # fmt: skip
    assert products == {"head": 2 * 2 * 4 * 8 * 3, "layers.0.fc1": 2 * 4 * 8 * 16}
    for suffix in ("", " (backward)"):
        whole, parts = rows[f"Net{suffix}"], [rows[f"layers{suffix}"], rows[f"head{suffix}"]]
        assert whole.flops == sum(part.flops for part in parts)
        assert whole.total_seconds + 1e-9 >= sum(part.total_seconds for part in parts)


def test_modules_of_two_networks_have_names_of_their_own():
    a, b, loss = Net(), nn.Sequential(nn.Linear(3, 3), Block(3)), nn.CrossEntropyLoss()
    with dc.profile() as prof:
        loss(b(a(dc.ones(2, 8))), dc.tensor([0, 1]))
        nn.Sequential(nn.Linear(2, 2))(dc.ones(1, 2))
    rows = by_name(prof, group_by="module")
    assert {"Net", "layers.0.fc1", "1.fc1", "CrossEntropyLoss", "head"} <= rows.keys()
    assert {"Sequential#1.0", "Sequential#2.0"} <= rows.keys()


@pytest.fixture
def compiles(backend, request):
    """Skips where programs cannot run; the stand-in runs kernels, which updates in programs need, with --slow."""

    def check(updates: bool):
        if not dc.config.settings.kernels or not _compiles(dc.get_backend(backend)):
            pytest.skip("programs need compiled kernels")
        if updates and backend == "standin" and not standin.kernels:
            pytest.skip("an update in a program takes the stand-in seconds")

    return check


@pytest.mark.parametrize("whole", [True, False], ids=["step", "module"])
def test_a_compiled_program_is_timed_step_by_step(whole, backend, compiles):
    compiles(updates=whole)
    results = []
    for profiled in (False, True):
        dc.manual_seed(0)
        net, step, x, y = training(backend)
        if whole:
            run = dc.compile(step)
        else:
            compiled = dc.compile(net)

            def run(x, y, compiled=compiled, net=net):
                net.zero_grad()
                loss = F.cross_entropy(compiled(x), y)
                loss.backward()
                return loss

        prof = dc.profile(record_shapes=True)
        for i in range(7):
            if profiled and i == 3:
                prof.start()
            loss = run(x, y)
            if profiled and i == 5:
                prof.stop()
        results.append([t.detach().numpy() for p in net.parameters() for t in (loss, p, p.grad)])
    assert all(np.array_equal(a, b) for a, b in zip(*results))  # timing changes no bit
    events = prof.events()
    steps = [e for e in events if e.kind == "step" and any(a.kind == "program" for a in e.ancestors())]
    assert all(a.start <= e.start <= e.end <= a.end for e in steps for a in e.ancestors())
    modules = {(op, module) for e in steps for op, module in e.origins}
    assert {("linear", "layers.0.fc1"), ("gelu", "layers.1"), ("linear", "head")} <= modules
    assert any(op.endswith("(backward)") and module == "layers.1.fc2" for op, module in modules)
    rows = by_name(prof, group_by="module")
    assert {"layers.0.fc1", "layers.0.fc1 (backward)", "head (backward)"} <= rows.keys()
    assert rows.keys() >= ({"SGD.step"} if whole else {"Net"})
    assert sum(row.self_seconds for row in rows.values()) <= prof.seconds


def test_compiled_and_eager_arithmetic_are_equal(backend, compiles):
    compiles(updates=True)
    _, step, x, y = training(backend)
    compiled = dc.compile(step)
    with dc.profile() as eager:
        step(x, y)
    compiled(x, y)
    compiled(x, y)
    compiled(x, y)
    with dc.profile() as prof:
        compiled(x, y)
    assert any(e.kind == "program" for e in prof.events())
    expected, total = (sum(e.flops for e in p.events() if e.kind in ("op", "step", "optimizer")) for p in (eager, prof))
    planned = compiled.peak_memory
    assert all(e.in_use >= planned for e in prof.events() if e.kind == "step") and prof.peak_memory >= planned
    linear = sum(e.flops for e in prof.events() if not e.backward and e.name.startswith("linear"))
    assert total == pytest.approx(expected, rel=0.02)  # gradients that are the same sums are computed once
    assert linear >= sum(e.flops for e in eager.events() if e.name == "linear")


@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
def test_recording_and_checks_of_a_program_are_shown():
    _, step, x, y = training("cpu")
    compiled = dc.compile(step)
    with dc.profile() as prof:
        compiled(x, y)
        compiled(x, y)
    names = {e.kind: e.name for e in prof.events()}
    assert "compile" in names["compile"] and names["check"].startswith("check of")


def test_a_chrome_trace_has_nested_events_and_counters(backend, tmp_path):
    _, step, x, y = training(backend)
    with dc.profile(record_shapes=True, with_stack=True) as prof, record_function("outer"):
        step(x, y)
    prof.export_chrome_trace(tmp_path / "trace.json")
    prof.export_chrome_trace(tmp_path / "trace.json.gz")
    trace = json.loads((tmp_path / "trace.json").read_text())
    with gzip.open(tmp_path / "trace.json.gz", "rt") as file:
        assert json.load(file) == trace
    events = trace["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X", "C"}
    complete = [e for e in events if e["ph"] == "X"]
    for event in complete:
        assert event.keys() == {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"}
        assert event["ts"] >= 0 and event["dur"] >= 0 and isinstance(event["name"], str)
    names = {e["name"] for e in complete}
    assert {"outer", "Net", "layers.0.fc1", "linear", "matmul (backward)", "layers.0.fc1 (backward)"} <= names
    open_until: list[float] = []  # events of a thread nest: none ends after one that it began in
    for event in sorted(complete, key=lambda e: (e["ts"], -e["dur"])):
        while open_until and open_until[-1] <= event["ts"] + 1e-6:
            open_until.pop()
        assert not open_until or event["ts"] + event["dur"] <= open_until[-1] + 1e-3, event
        open_until.append(event["ts"] + event["dur"])
    counters = [e["args"]["bytes"] for e in events if e["ph"] == "C"]
    assert len(counters) >= len([e for e in complete if e["cat"] == "op"])
    (linear,) = [e for e in complete if e["name"] == "linear" and e["args"]["module"] == "head"]
    assert linear["args"]["input_shapes"] == [[4, 8], [3, 8], [3]] and linear["args"]["flops"] == 2 * 4 * 8 * 3
    assert any("test_profiler.py" in line for line in linear["args"]["stack"])


def test_memory_is_what_ops_allocate_and_has_a_peak():
    x = dc.ones(1000)
    with dc.profile() as prof:
        a = x.exp()
        b = a.exp()
        del a
        b.sum()
    rows = by_name(prof)
    assert rows["exp"].memory == rows["exp"].cpu_memory_usage == 8000 and rows["sum"].memory == 4
    assert prof.peak_memory == 8000 and prof.events()[-1].in_use == 4004
    with dc.profile(profile_memory=False) as prof:
        x.exp()
    assert by_name(prof)["exp"].memory == 0 and "memory" not in str(prof)


def test_tables_are_sorted_grouped_and_limited():
    _, step, x, y = training("cpu")
    with dc.profile(record_shapes=True) as prof:
        step(x, y)
    assert str(prof) == prof.table() and prof.key_averages().table(sort_by="self_cpu_time_total").startswith("op")
    lines = prof.table(sort_by="flops", row_limit=2).splitlines()
    assert len(lines) == 5 and "… " in lines[3] and lines[1].startswith("gelu")
    counts = [row.count for row in dc.profiler.tables.sorted_rows(prof.key_averages(), "calls")]
    assert counts == sorted(counts, reverse=True)
    shapes = {str(row.input_shapes) for row in prof.key_averages(group_by_input_shape=True) if row.key == "linear"}
    assert shapes == {"[[4, 8], [16, 8], [16]]", "[[4, 16], [8, 16], [8]]", "[[4, 8], [3, 8], [3]]"}
    assert "[[4, 16], [8, 16], [8]]" in prof.table(group_by="op+shape")
    total = prof.key_averages().total_average()
    assert total.count == sum(row.count for row in prof.key_averages())
    for wrong in ({"sort_by": "tiem"}, {"group_by": "layer"}):
        with pytest.raises(errors.ArgumentError):
            prof.table(**wrong)
    with dc.profile() as bare:
        x.exp()
    with pytest.raises(errors.ArgumentError, match="record_shapes"):
        bare.table(group_by="op+shape")
    with pytest.raises(errors.ArgumentError, match="with_stack"):
        bare.key_averages(group_by_stack_n=3)


def test_regions_nest_and_have_their_own_time():
    x = dc.ones(10)

    @record_function("decorated")
    def inner():
        return x.exp()

    with dc.profile() as prof:
        with record_function("a"):
            inner()
            inner()
        with pytest.raises(ZeroDivisionError), record_function("b"):
            x.exp() + 1 / 0
    rows = by_name(prof)
    assert rows["decorated"].count == 2 and rows["a"].count == rows["b"].count == 1 and rows["exp"].count == 3
    assert rows["a"].self_seconds <= rows["a"].total_seconds - rows["decorated"].total_seconds + 1e-9
    with record_function("outside"):
        pass
    with pytest.raises(errors.ArgumentError), record_function(3):
        pass


def test_a_schedule_keeps_the_active_steps(tmp_path):
    ready = []
    plan = schedule(wait=1, warmup=1, active=2, repeat=2, skip_first=1)
    names = ["NONE", "NONE", "WARMUP", "RECORD", "RECORD_AND_SAVE"]
    assert [plan(i).name for i in range(10)] == [*names, *names[1:], "NONE"]
    x = dc.ones(3)
    with dc.profile(schedule=plan, on_trace_ready=lambda p: ready.append((p.step_num, by_name(p)))) as prof:
        for _ in range(12):
            x.exp()
            prof.step()
    numbers, ready = zip(*ready)
    assert numbers == (5, 9)  # the steps that have ended, as in PyTorch
    assert [rows["exp"].count for rows in ready] == [2, 2]
    assert [sorted(k for k in rows if k.startswith("Profiler")) for rows in ready] == [
        ["ProfilerStep#3", "ProfilerStep#4"], ["ProfilerStep#7", "ProfilerStep#8"],
    ]  # fmt: skip
    with dc.profile(on_trace_ready=dc.profiler.tensorboard_trace_handler(str(tmp_path / "log"), "w")):
        x.exp()
    (file,) = (tmp_path / "log").iterdir()
    assert file.name.startswith("w.") and json.loads(file.read_text())["traceEvents"]
    for wrong in ({"wait": -1}, {"active": 0}):
        with pytest.raises(errors.ArgumentError):
            schedule(**{"wait": 0, "warmup": 0, "active": 1, **wrong})
    with pytest.raises(errors.ArgumentError, match="action"), dc.profile(schedule=lambda step: True):
        pass
    with pytest.raises(errors.ArgumentError, match="outside"):
        prof.step()


def test_profiles_nest_in_themselves_and_in_others():
    x = dc.ones(3)
    outer, inner = dc.profile(), dc.profile()
    with outer:
        x.exp()
        with inner, outer:
            x.exp()
        x.exp()
    assert by_name(outer)["exp"].count == 3 and by_name(inner)["exp"].count == 1
    outer.start()
    inner.start()
    outer.stop()  # in another order
    x.exp()
    inner.stop()
    x.exp()
    assert by_name(outer)["exp"].count == 3 and by_name(inner)["exp"].count == 2
    with pytest.raises(errors.ArgumentError, match="thread"):
        outer.stop()
    assert dc.autograd.mode.hook is None and dc.autograd.mode.profiler is None and type(dc.autograd.mode.layers) is list


def test_an_exception_ends_a_profile_and_its_modules():
    class Broken(nn.Module):
        def forward(self, x):
            return x.exp() @ dc.ones(5)

    with pytest.raises(errors.ShapeError), dc.profile() as prof:
        nn.Sequential(Broken())(dc.ones(3))
    assert {"Broken", "Sequential", "exp"} <= {e.name for e in prof.events()}
    assert dc.autograd.mode.hook is None and not dc.autograd.mode.layers
    with dc.profile() as again:
        nn.Linear(2, 2)(dc.ones(1, 2))
    assert by_name(again, group_by="module").keys() == {"Linear"}


def test_anomaly_detection_inside_a_profile():
    with pytest.raises(errors.NonFiniteError), dc.profile() as prof, dc.autograd.detect_anomaly():
        dc.ones(2).exp()
        dc.log(dc.tensor([-1.0]))
    assert "exp" in by_name(prof)
    with dc.autograd.detect_anomaly(), dc.profile() as prof:
        dc.ones(2).exp()
    assert by_name(prof)["exp"].count == 1 and dc.autograd.mode.hook is None


def test_threads_are_recorded_where_they_enter():
    x = dc.ones(3)
    prof = dc.profile()

    def work():
        x.exp()
        with prof:
            x.log()

    with prof:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        x.sin()
    names = {e.name: e.thread for e in prof.events()}
    assert names.keys() == {"log", "sin"} and len(set(names.values())) == 2


def test_decorators_of_functions_and_generators():
    x = dc.ones(3)
    prof = dc.profile()

    @prof
    def once():
        return x.exp()

    @prof
    def steps():
        for _ in range(2):
            yield x.log()

    once()
    for _ in steps():
        x.sin()  # outside of the generator
    assert {name: row.count for name, row in by_name(prof).items()} == {"exp": 1, "log": 2}

    async def waits():
        pass

    for wrong in (waits, 3):
        with pytest.raises(errors.ArgumentError):
            prof(wrong)


def test_pytorchs_names():
    from deepcore.autograd import profiler as older

    assert older.profile is dc.profiler.profile is dc.profile is dc.autograd.profile
    assert older.record_function is dc.profiler.record_function
    with dc.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True, profile_memory=True, with_stack=True,
        with_flops=True,
    ) as prof:  # fmt: skip
        dc.ones(3).exp()
    (event,) = prof.events()
    assert event.cpu_time_total == pytest.approx(event.seconds * 1e6) and event.cpu_parent is None
    row = prof.key_averages(group_by_stack_n=1)[0]
    assert (
        row.key == "exp"
        and row.cpu_time == row.cpu_time_total == row.self_cpu_time_total
        and "test_profiler" in row.stack[0]
    )
    with dc.profile(activities=[ProfilerActivity.CUDA]) as prof:
        dc.ones(3).exp()
    assert not prof.events()
    for wrong in ([], ["cpu"]):
        with pytest.raises(errors.ArgumentError):
            dc.profile(activities=wrong)
    with pytest.raises(AttributeError, match="itt"):
        _ = dc.profiler.itt
