"""deepcore's CUDA kernels against CuPy, cuBLAS and PyTorch, on the GPU that is here.

    python benchmarks/gpu.py [--quick] [--device N] [--only WORD]

Device events time bursts of calls, the sides take turns, and a figure is the median of the rounds. Inputs are random and
rotate among sets that together outgrow the L2 cache. Every contest first compares the sides' results with each other.
The results go to benchmarks/results/gpu-<device>.json. Without a usable GPU it says what is missing and ends with status 2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # this checkout, whatever is installed

import contest  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
from contest import Absent, Contest  # noqa: E402

import deepcore as dc  # noqa: E402
from deepcore.kernels.cuda import gemm as cuda_gemm  # noqa: E402
from deepcore.nn import functional as F  # noqa: E402
from deepcore.ops.conv import conv_input_p, conv_p, conv_weight_p  # noqa: E402

#: What the input sets of a contest hold together, at least: more than the L2 cache of any GPU so far.
SPREAD = 256 << 20
MOST_SETS = 16


@dataclass(frozen=True)
class Sizes:
    elements: tuple[int, ...] = (10_000, 1_000_000, 16_000_000)
    rows: tuple[tuple[int, int], ...] = ((65_536, 10), (4096, 1000), (8192, 4096), (256, 50_000))
    products: tuple[tuple[int, int, int], ...] = (
        (256, 1024, 1024),
        (1024,) * 3,
        (4096,) * 3,
        (50_176, 64, 64),
        (8192, 256, 1024),
    )
    parameters: tuple[tuple[int, ...], ...] = ((256, 256),) * 20 + ((256, 640),) * 4 + ((942,),) * 36
    spread: int = SPREAD
    #: Batch and layers of networks that are trained.
    networks: tuple[tuple[int, ...], ...] = ((32, 784, 128, 10), (256, 784, 1024, 1024, 10))
    #: Images, their channels and side, filters, and side and stride of those: the convolutions of ResNet-18.
    convolutions: tuple[tuple[int, ...], ...] = (
        (32, 3, 224, 64, 7, 2),
        (32, 64, 56, 64, 3, 1),
        (32, 64, 56, 128, 3, 2),
        (32, 64, 56, 128, 1, 2),
        (32, 128, 28, 128, 3, 1),
        (32, 128, 28, 256, 3, 2),
        (32, 256, 14, 256, 3, 1),
        (32, 256, 14, 512, 3, 2),
        (32, 512, 7, 512, 3, 1),
    )


TINY = Sizes((1000,), ((3, 40),), ((40, 24, 30),), ((5, 3), (7,)), 0, ((4, 6, 5, 3),), ((2, 16, 6, 32, 3, 1),))


class Machine:
    """A GPU: arrays for every side, and how long its work takes."""

    def __init__(self, backend, sizes: Sizes = Sizes(), torch=None):
        self.backend, self.cupy, self.sizes, self.torch = backend, backend.array_module, sizes, torch
        self._drawn: tuple = (None, [])

    @property
    def name(self) -> str:
        return self.backend.info()["device"]

    def timed(self, run: Callable[[], None]) -> float:
        """Seconds between two events around `run`."""
        start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, stop) / 1e3

    def arrays(self, *shapes, seed: int = 0) -> list[list]:
        """Input sets: for each, an array of every shape. The sides of a contest have the same ones."""
        if self._drawn[0] == (shapes, seed):
            return self._drawn[1]
        self._drawn = None, []
        size = 4 * sum(math.prod(shape) for shape in shapes)
        count = max(1, min(MOST_SETS, self.sizes.spread // max(size, 1)))
        draw = np.random.default_rng(seed)
        sets = [[self.backend.from_host(draw.standard_normal(s, np.float32)) for s in shapes] for _ in range(count)]
        self._drawn = (shapes, seed), sets
        return sets

    def tensors(self, sets) -> list[list]:
        return [[dc.as_tensor(a) for a in one] for one in sets]

    def torches(self, sets) -> list[list]:
        """The same memory as PyTorch's tensors."""
        if self.torch is None:
            raise Absent("PyTorch with CUDA is not installed")
        return [[self.torch.from_dlpack(a) for a in one] for one in sets]


class Timed(contest.Local):
    """A side whose work is queued on the GPU."""

    def __init__(self, gpu: Machine, one: Contest, side: str):
        super().__init__(one, side)
        self.gpu = gpu

    def burst(self, calls: int) -> float:
        call = self.call

        def run():
            for _ in range(calls):
                call()

        return self.gpu.timed(run) * self.factor

    def settle(self) -> None:
        """The events have already waited for the GPU."""


def turning(function: Callable, sets: list) -> Callable:
    """A call of `function` on one set of inputs after the other."""
    if len(sets) == 1:
        return partial(function, *sets[0])
    turn = itertools.cycle(sets).__next__
    return lambda: function(*turn())


# -- contests -------------------------------------------------------------------------------------------------------


def elementwise(gpu: Machine):
    xp, torch = gpu.cupy, gpu.torch
    nn = torch.nn.functional if torch else None
    half = math.sqrt(0.5)

    def plain_gelu(x):
        from deepcore.kernels.math import reference

        return x * (0.5 * (1 + reference.erf(gpu.backend, x * np.float32(half))))

    table = {
        "exp": (dc.exp, xp.exp, torch and torch.exp),
        "tanh": (dc.tanh, xp.tanh, torch and torch.tanh),
        "sigmoid": (dc.sigmoid, lambda x: 1 / (1 + xp.exp(-x)), torch and torch.sigmoid),
        "gelu": (F.gelu, plain_gelu, nn and nn.gelu),
        "silu": (F.silu, lambda x: x / (1 + xp.exp(-x)), nn and nn.silu),
        "softplus": (F.softplus, lambda x: xp.logaddexp(x, xp.zeros((), x.dtype)), nn and nn.softplus),
    }
    for size in gpu.sizes.elements:
        yield from (
            _three(gpu, "elementwise", f"{name}, {size:,}", [(size,)], sides, 8 * size) for name, sides in table.items()
        )
        yield Contest(
            "elementwise", f"copy, {size:,}", partial(_copy, gpu, size), ("deepcore", "cupy"), 8.0 * size, "byte"
        )


def _copy(gpu: Machine, size: int, side: str):
    sets = gpu.arrays((size,))
    return turning(dc.clone, gpu.tensors(sets)) if side == "deepcore" else turning(lambda x: x.copy(), sets)


def _three(gpu: Machine, suite: str, name: str, shapes, sides, work: float, unit: str = "byte") -> Contest:
    """deepcore's function of tensors, CuPy's of its arrays, PyTorch's of its tensors; None where there is none."""
    own, cupy, torch = sides

    def make(side: str):
        sets = gpu.arrays(*shapes)
        if side == "deepcore":
            return turning(own, gpu.tensors(sets))
        if side == "torch":
            return turning(torch, gpu.torches(sets))
        return turning(cupy, sets)

    names = ("deepcore", *(["cupy"] if cupy else []), *(["torch"] if torch else []))
    return Contest(suite, name, make, names, float(work), unit)


def rows(gpu: Machine):
    xp, torch = gpu.cupy, gpu.torch
    nn = torch.nn.functional if torch else None

    def plain_softmax(x):
        e = xp.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def plain_norm(x, w, b):
        d = x - x.mean(axis=-1, keepdims=True)
        return d / xp.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5) * w + b

    for m, n in gpu.sizes.rows:
        shape, work = f"{m}×{n}", 4.0 * m * n
        table = {
            "softmax": (lambda x: dc.softmax(x, -1), plain_softmax, nn and (lambda x: nn.softmax(x, -1)), [(m, n)], 2),
            "log_softmax": (
                lambda x: dc.log_softmax(x, -1), None, nn and (lambda x: nn.log_softmax(x, -1)), [(m, n)], 2,
            ),
            "amax": (lambda x: dc.amax(x, -1), lambda x: x.max(axis=-1), nn and (lambda x: torch.amax(x, -1)), [(m, n)], 1),
            "argmax": (
                lambda x: dc.argmax(x, -1), lambda x: x.argmax(axis=-1), nn and (lambda x: torch.argmax(x, -1)), [(m, n)], 1,
            ),
            "layer_norm": (
                lambda x, w, b, n=n: F.layer_norm(x, n, w, b), plain_norm,
                nn and (lambda x, w, b, n=n: nn.layer_norm(x, (n,), w, b)), [(m, n), (n,), (n,)], 2,
            ),
        }  # fmt: skip
        for name, (own, cupy, other, shapes, moved) in table.items():
            yield _three(gpu, "rows", f"{name}, {shape}", shapes, (own, cupy, other), moved * work)
        yield Contest(
            "rows", f"cross_entropy, forward and backward, {shape}", partial(_cross_entropy, gpu, m, n),
            ("deepcore", "torch") if torch else ("deepcore",), 2 * work, "byte",
        )  # fmt: skip


def _cross_entropy(gpu: Machine, m: int, n: int, side: str):
    target = np.random.default_rng(1).integers(0, n, m)
    sets = gpu.arrays((m, n))
    if side == "torch":
        classes = gpu.torches([[gpu.backend.from_host(target)]])[0][0]
        inputs = [[x.requires_grad_()] for (x,) in gpu.torches(sets)]
        loss = gpu.torch.nn.functional.cross_entropy
    else:
        classes = dc.as_tensor(gpu.backend.from_host(target))
        inputs = [[x.requires_grad_()] for (x,) in gpu.tensors(sets)]
        loss = F.cross_entropy

    def step(x):
        x.grad = None
        loss(x, classes).backward()
        return x.grad

    return turning(step, inputs)


def products(gpu: Machine):
    """Our product by itself, which the dispatcher leaves to cuBLAS, and with an epilogue."""
    torch = gpu.torch
    nn = torch.nn.functional if torch else None
    for m, k, n in gpu.sizes.products:
        flops, shape = 2.0 * m * k * n, f"{m}×{k}×{n}"
        ours = lambda x, y: cuda_gemm.product(gpu.backend, x, y)
        yield Contest(
            "products", f"matmul, {shape}", partial(_product, gpu, m, k, n, ours),
            ("deepcore own", "cupy", *(["torch"] if torch else [])), flops, "flop",
        )  # fmt: skip

        def fused(x, w, b):
            return cuda_gemm.product(gpu.backend, x, w.T, b, activation="gelu")

        yield Contest(
            "products", f"linear, bias, GELU, {shape}", partial(_linear, gpu, m, k, n, fused, nn),
            ("deepcore", "deepcore fused", *(["torch"] if torch else [])), flops, "flop",
        )  # fmt: skip


def _product(gpu: Machine, m: int, k: int, n: int, ours: Callable, side: str):
    sets = gpu.arrays((m, k), (k, n))
    if side == "torch":
        return turning(gpu.torch.matmul, gpu.torches(sets))
    return turning(ours if side == "deepcore own" else gpu.cupy.matmul, sets)


def _linear(gpu: Machine, m: int, k: int, n: int, fused: Callable, nn, side: str):
    sets = gpu.arrays((m, k), (n, k), (n,))
    if side == "torch":
        return turning(lambda x, w, b: nn.gelu(nn.linear(x, w, b)), gpu.torches(sets))
    if side == "deepcore fused":
        return turning(fused, sets)
    return turning(lambda x, w, b: F.linear(x, w, b, activation="gelu"), gpu.tensors(sets))


def convolutions(gpu: Machine):
    """Forward and both gradients, each by itself."""
    sides = ("deepcore", *(["torch"] if gpu.torch else []))
    for batch, channels, side, filters, taps, stride in gpu.sizes.convolutions:
        out = (side - 1) // stride + 1
        flops = 2.0 * batch * filters * out**2 * channels * taps**2
        name = f"{batch}×{channels}×{side}×{side}, {filters} filters of {taps}×{taps}, stride {stride}"
        for what in ("forward", *(["image's gradient"] if channels > 3 else []), "filters' gradient"):
            shapes = (batch, channels, side, side), (filters, channels, taps, taps), (batch, filters, out, out)
            make = partial(_convolution, gpu, shapes, stride, what)
            yield Contest("convolutions", f"{what}, {name}", make, sides, flops, "flop")


def _convolution(gpu: Machine, shapes, stride: int, what: str, side: str):
    (_, _, *image), (_, _, *taps), _ = shapes
    sets, pad = gpu.arrays(*shapes), taps[0] // 2
    if side == "torch":
        aten = gpu.torch.ops.aten
        options: tuple = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1)
        if what == "forward":
            return turning(lambda x, w, g: aten.convolution(x, w, None, *options), gpu.torches(sets))
        wanted = [what == "image's gradient", what == "filters' gradient", False]
        place = wanted.index(True)
        return turning(
            lambda x, w, g: aten.convolution_backward(g, x, w, None, *options, wanted)[place], gpu.torches(sets)
        )
    params = {"stride": (stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1), "groups": 1}
    tensors = gpu.tensors(sets)
    if what == "forward":
        return turning(lambda x, w, g: conv_p(x, w, **params), tensors)
    if what == "image's gradient":
        return turning(lambda x, w, g: conv_input_p(g, w, size=tuple(image), **params), tensors)
    return turning(lambda x, w, g: conv_weight_p(x, g, size=tuple(taps), **params), tensors)


def updates(gpu: Machine):
    shapes = gpu.sizes.parameters
    size = sum(map(math.prod, shapes))
    yield Contest(
        "updates", "Adam", partial(_adam, gpu), ("deepcore", *(["torch fused"] if gpu.torch else [])), 28.0 * size, "byte",
        facts={"parameters": size, "tensors": len(shapes)},
    )  # fmt: skip


def _adam(gpu: Machine, side: str):
    draw = np.random.default_rng(2)
    pairs = [[draw.standard_normal(s, np.float32) for _ in range(2)] for s in gpu.sizes.parameters]
    if side == "deepcore":
        parameters = [dc.nn.Parameter(dc.as_tensor(gpu.backend.from_host(w))) for w, _ in pairs]
        for p, (_, g) in zip(parameters, pairs):
            p.grad = dc.as_tensor(gpu.backend.from_host(g))
        return dc.optim.Adam(parameters, lr=1e-3).step
    torch = gpu.torch
    parameters = [torch.nn.Parameter(torch.tensor(w, device="cuda")) for w, _ in pairs]
    for p, (_, g) in zip(parameters, pairs):
        p.grad = torch.tensor(g, device="cuda")
    return torch.optim.Adam(parameters, lr=1e-3, fused=True).step


def steps(gpu: Machine):
    """Whole training steps with Adam: compiled, as they are, and PyTorch's, eager and replayed from a CUDA graph."""
    sides = ("deepcore compiled", "deepcore", *(["torch", "torch graph"] if gpu.torch else []))
    for batch, *layers in gpu.sizes.networks:
        flops = 6.0 * batch * sum(map(math.prod, itertools.pairwise(layers))) - 2.0 * batch * layers[0] * layers[1]
        name = f"training step, batch {batch}, {'-'.join(map(str, layers))}"
        yield Contest("steps", name, partial(_step, gpu, batch, layers), sides, flops, "flop")


def _step(gpu: Machine, batch: int, layers: list[int], side: str):
    """The first call returns the loss before any update, so that the sides can be compared."""
    draw = np.random.default_rng(3)
    weights = [draw.standard_normal((n, k), np.float32) / math.sqrt(k) for k, n in itertools.pairwise(layers)]
    inputs = gpu.backend.from_host(draw.standard_normal((batch, layers[0]), np.float32))
    classes = gpu.backend.from_host(draw.integers(0, layers[-1], batch))
    if side.startswith("torch"):
        torch = gpu.torch
        (x, y), (matrices,) = (
            gpu.torches([[inputs, classes]])[0],
            gpu.torches([[gpu.backend.from_host(w) for w in weights]]),
        )
        linear, relu, loss_of = torch.nn.functional.linear, torch.relu, torch.nn.functional.cross_entropy
        adam = partial(torch.optim.Adam, fused=True, capturable=side == "torch graph")
        parameters = [torch.nn.Parameter(w) for w in matrices]
    else:
        x, y = dc.as_tensor(inputs), dc.as_tensor(classes)
        linear, relu, loss_of, adam = F.linear, F.relu, F.cross_entropy, dc.optim.Adam
        parameters = [dc.nn.Parameter(dc.as_tensor(gpu.backend.from_host(w))) for w in weights]
    optimizer = adam(parameters, lr=1e-3)

    def step(x, y):
        optimizer.zero_grad()
        h = x
        for i, w in enumerate(parameters):
            h = linear(relu(h) if i else h, w)
        loss = loss_of(h, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if side == "torch graph":
        return _graphed(torch, partial(step, x, y), parameters, optimizer)
    return partial(dc.compile(step) if side == "deepcore compiled" else step, x, y)


def _graphed(torch, step: Callable, parameters: list, optimizer) -> Callable:
    """The step captured in a CUDA graph as PyTorch's manual has it, and weights and state as they were before."""
    before = [p.detach().clone() for p in parameters]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():
        for p, old in zip(parameters, before):
            p.copy_(old)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    def replay(inputs=step.args):  # the graph reads them, and does not hold them
        graph.replay()
        return loss

    return replay


SUITES = (elementwise, rows, products, convolutions, updates, steps)


# -- running --------------------------------------------------------------------------------------------------------


def agree(gpu: Machine, one: Contest) -> None:
    """The sides' results for the first inputs are the same numbers, or AssertionError."""
    results = {}
    for side in one.sides:
        try:
            made = one.make(side)
        except Absent:
            continue
        found = made()
        if found is not None:
            results[side] = _host(gpu, found)
    first, *others = results.items()
    for side, found in others:
        want = first[1].astype(np.float64)
        error = np.linalg.norm(found - want) / max(np.linalg.norm(want), 1e-30)
        assert error < 1e-3, f"{one.name}: {first[0]} and {side} differ by {error:.1e} of their norm"


def _host(gpu: Machine, found):
    found = getattr(found, "_data", found)
    if gpu.torch is not None and isinstance(found, gpu.torch.Tensor):
        return found.detach().cpu().numpy().astype(np.float64)
    return np.asarray(gpu.backend.to_host(found)).astype(np.float64)


def measure(gpu: Machine, effort: contest.Effort = contest.THOROUGH, only: str = "", say=print) -> dict:
    entries = []
    for suite in SUITES:
        for one in suite(gpu):
            if only not in one.id:
                continue
            if one.suite != "updates":
                agree(gpu, one)
            places = dict.fromkeys(one.sides, partial(Timed, gpu))
            entry = contest.run(one, effort, places)
            entries.append({"suite": one.suite, **entry})
            say(line(entry))
    return {
        "benchmark": "gpu",
        "device": gpu.name,
        "facts": gpu.backend.info(),
        "machine": machine.describe(),
        "contests": entries,
    }


def line(entry: dict) -> str:
    own = next(iter(entry["ratio"]))
    seconds = entry["seconds"][own][1]
    rate = entry["work"] / seconds / 1e9
    others = "  ".join(f"{side} ×{q[1]:.2f}" for side, q in entry["ratio"][own].items())
    return f"{entry['name']:<48}{seconds * 1e6:>11.1f} µs {rate:>9.1f} G{entry['unit']}/s   {others}"


def save(result: dict, folder: Path = HERE / "results") -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", result["device"].lower()).strip("-")
    path = folder / f"gpu-{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; nothing is saved")
    parser.add_argument("--device", type=int, default=0, help="which GPU (default 0)")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="contests whose name has this in it; nothing is saved"
    )
    given = parser.parse_args(arguments)
    try:
        backend = dc.get_backend(f"cuda:{given.device}")
    except dc.errors.BackendError as error:
        print(f"gpu.py measures a CUDA GPU, and there is none to measure.\n{error}", file=sys.stderr)
        return 2
    if not backend.ready(cuda_gemm.KERNELS["", False, False, cuda_gemm.TILES[0]]):
        print("gpu.py: deepcore's CUDA kernels cannot be compiled here (numba is missing?)", file=sys.stderr)
        return 2
    torch = _torch(given.device)
    gpu = Machine(backend, torch=torch)
    print(f"{gpu.name}; PyTorch: {torch.__version__ if torch else 'none with CUDA, so it takes no part'}")
    with backend.gpu:
        effort = contest.QUICK if given.quick else replace(contest.THOROUGH, burst=10e-3)
        result = measure(gpu, effort, given.only)
    if not given.quick and not given.only:
        print(f"saved as {save(result)}")
    return 0


def _torch(device: int):
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # all sides compute in float32
    torch.backends.cudnn.benchmark = True
    return torch


if __name__ == "__main__":
    sys.exit(main())
