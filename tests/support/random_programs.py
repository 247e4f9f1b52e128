"""Random programs of deepcore's functions, as Python source: compiled by `dc.compile`, they must have the same bits.

A program is generated line by line, and each line is run at once, so that shapes are known; lines that raise are dropped.
"""

from __future__ import annotations

import math
import string
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import deepcore as dc
from deepcore.autograd.trees import tree_map
from deepcore.config import settings
from deepcore.errors import DeepcoreError, DeepcoreWarning

#: The parts in braces are chosen by `_Choices`.
LINES = """
-{x} | {x}.abs() | {x}.exp() | {x}.abs().sqrt() | {x}.square() | {x}.sin() | {x}.tanh() | {x}.sigmoid() | {x}.relu()
F.gelu({x}) | F.gelu({x}, approximate="tanh") | F.silu({x}) | F.softplus({x}) | F.elu({x}) | F.leaky_relu({x}, 0.1)
F.logsigmoid({x}) | {x}.erf() | {x}.expm1() | {x}.abs().log1p() | ({x}.square() + 1).rsqrt() | {x}.round()
{x}.clamp(-0.5, {number}) | {x} * {number} | {number} - {x} | {number} / ({x}.square() + 0.5) | {x} ** 2 | {x} ** 3
{x}.sign() | {x}.atan() | {x}.clone() | {x}.contiguous() | {x}.detach() | {x}.to(dc.{dtype}) | {x} / {number}
{x} + {y} | {x} - {y} | {x} * {y} | {x} / ({y}.abs() + 1) | dc.maximum({x}, {y}) | dc.minimum({x}, {y})
dc.atan2({x}, {y}) | dc.logaddexp({x}, {y}) | {x} * {y} + {x} | ({x} - {y}) * {y} | {x} * ({y} > {number})
dc.where({x} > {y}, {x}, {y}) | dc.where({x} <= 0, {number}, {y}) | {x}.masked_fill({y} > {number}, {number})
dc.where(({x} > 0) & ({y} < 1), {y}, {x}) | dc.fmod({x}, {y}.abs() + 1) | {x} * ~({x} == {y})
{x}.sum({dim}, keepdim={bool}) | {x}.mean({dim}, keepdim={bool}) | {x}.var({dim}, keepdim={bool})
{x}.amax({dim}, keepdim={bool}) | {x}.amin({dim}, keepdim={bool})
{x}.logsumexp({dim}, keepdim={bool}) | {x}.softmax({dim}) | {x}.log_softmax({dim}) | {x}.cumsum({dim})
{x}.std({dim}, keepdim={bool}) | {x}.prod({dim}, keepdim={bool}) | {x}.sum({dims}, keepdim={bool})
{x}.mean({dims}, keepdim={bool}) | {x}.amin({dims}) | {x}.var({dims}, correction=0) | {x}.sum() | {x}.max() | {x}.mean()
{x}.reshape({shape}) | {x}.flatten() | {x}.permute({permutation}) | {x}.transpose({dim}, -1) | {x}.unsqueeze({dim})
{x}.squeeze() | {x}.flip({dim}) | {x}.expand(2, *{x}.shape) | {x}[1:] | {x}[..., ::2] | {x}[..., :-1] | {x}[0]
{x}.select({dim}, 0) | {x}.narrow({dim}, 0, 1) | {x}.roll(1, {dim}) | {x}.tril() | {x}[:, None] | F.pad({x}, (1, 2))
dc.cat([{x}, {y}, {x}], {dim}) | dc.stack([{x}, {x} * {number}], {dim}) | dc.stack([{x}, {y}]) | {x}.split(1, {dim})[0]
{x}.split(2, {dim})[-1] | {x}.unbind({dim})[0] | {x}.repeat(2, *[1] * {x}.ndim) | {x}.chunk(2, {dim})[0] * 2
{x}.index_select({dim}, {index}) | {x}[{index}]
F.embedding({index}, {x})
{x} @ {y} | {x} @ {x}.transpose(-1, -2) | {x}.transpose(-1, -2) @ {x} | F.linear({x}, {y}) | F.linear({x}, {x}, {y})
dc.einsum("...i,...i->...", {x}, {y}) | F.relu(F.linear({x}, {x})) | dc.outer({x}.flatten(), {y}.flatten())
F.layer_norm({x}, {x}.shape[-1:]) | F.layer_norm({x}, {x}.shape[-1:], {x}[0], {x}[-1]) | F.rms_norm({x}, {x}.shape[-1:])
F.layer_norm({x}, {x}.shape[-1:], {y}) | F.rms_norm({x}, {x}.shape[-1:], {y}) | F.normalize({x}, dim={dim})
F.mse_loss({x}, {x} * {number}) | F.l1_loss({x}, {y}) | F.smooth_l1_loss({x}, {y}) | F.huber_loss({x}, {y}, "sum")
F.binary_cross_entropy_with_logits({x}, {y}.sigmoid()) | {x} * ({x}.argmax({dim}, keepdim=True) + 1)
F.cross_entropy({x}, {index}[: {x}.shape[0]]) | F.nll_loss({x}.log_softmax(1), {index}[: {x}.shape[0]])
F.dropout({x}, 0.3) | {x} + dc.randn({x}.shape, dtype={x}.dtype) | F.batch_norm({x}, None, None, training=True)
{new}[...] = {y} | {new}[0] = {number} | {new} += {y} | {new}.mul_({number}) | {new}[..., :1] = {y} | {new} -= {new} * {y}
{new}.relu_() | {new}[1:] *= {number} | {new}.t()[0] = {y} | {state}.mul_({number}) | {state}.add_({x}.detach().mean())
{state}[0] = {x}.detach().sum() | {state}.copy_({x}.detach())
"""
TEMPLATES = [line.strip() for row in LINES.strip().splitlines() for line in row.split(" | ")]
SIZES = [1, 2, 3, 4, 5, 8, 17]
#: The exceptions of lines to drop.
_LINE_ERRORS = DeepcoreError, DeepcoreWarning, IndexError, ValueError, TypeError, KeyError
HEADER = "import numpy as np\nimport deepcore as dc\nF = dc.nn.functional\n"


@dataclass
class Program:
    """Lines of a function's body as (result name, source). `dtypes` and `shapes`: of arguments and captured tensors."""

    seed: int
    dtypes: dict[str, str]
    shapes: dict[str, tuple]
    learned: list[str]
    indices: dict[str, list[int]]
    lines: list[tuple[str, str]]
    losses: list[list[str]]
    results: list[str]
    transform: bool = False
    accumulating: bool = False

    @property
    def arguments(self) -> list[str]:
        return [name for name in self.shapes if not name.startswith(("w", "s"))]

    @property
    def outside(self) -> list[str]:
        return [name for name in self.shapes if name.startswith(("w", "s"))]

    def source(self) -> str:
        """The source of a module that defines `program`; `values(which)` gives its inputs."""
        statements = [f"{name} = dc.tensor({value})" for name, value in self.indices.items()]
        statements += [
            f"{name} = dc.zeros({self.shapes[name]}, dtype=dc.{self.dtypes[name]}"
            f"{', requires_grad=True' if name in self.learned else ''})"
            for name in self.outside
        ]
        body = [line for _, line in self.lines]
        returned = "[" + ", ".join(f"{name}.detach()" for name in self.results) + "]"
        totals = [" + ".join(f"{name}.sum()" for name in loss) for loss in self.losses]
        arguments = ", ".join(self.arguments)
        if self.transform:
            body += [f"return {totals[0]}, {returned}"]
            statements += [
                f"def objective({arguments}):", *(f"    {line}" for line in body),
                f"program = dc.value_and_grad(objective, argnums={tuple(range(len(self.arguments)))}, has_aux=True)",
            ]  # fmt: skip
        else:
            for i, total in enumerate(totals):
                body += [
                    f"loss{i} = {total}",
                    f"loss{i}.backward({'retain_graph=True' if total != totals[-1] else ''})",
                ]
            body += [f"return {returned}"]
            statements += [f"def program({arguments}):", *(f"    {line}" for line in body)]
        return HEADER + "\n".join(statements) + "\n"

    def values(self, which: int) -> dict[str, np.ndarray]:
        """Values of arguments and captured tensors; in one of four programs also special numbers."""
        rng = np.random.default_rng([self.seed, which])
        arrays = {}
        for name, shape in self.shapes.items():
            array = rng.standard_normal(shape)
            if self.seed % 4 == 0:
                special = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 1e-42, 3e38], shape)
                array = np.where(rng.random(shape) < 0.1, special, array)
            arrays[name] = array.astype(self.dtypes[name])
        return arrays


class _Choices(dict):
    """The values of a template's placeholders. `{y}` mostly has a shape that broadcasts with `{x}`'s."""

    def __init__(self, rng, scope: dict, program: Program):
        self.rng, self.scope, self.program = rng, scope, program
        super().__init__()

    def choose(self, items) -> Any:
        return items[self.rng.integers(len(items))]

    def tensors(self) -> list[str]:
        return [k for k, t in self.scope.items() if isinstance(t, dc.Tensor) and k[0] != "i" and t.is_floating_point()]

    def __missing__(self, key: str) -> str:
        self[key] = choice = str(getattr(self, f"_{key}")())
        return choice

    def _x(self):
        names = self.tensors()
        return self.choose(names[-4:] if self.rng.random() < 0.6 else names)

    def _y(self):
        names, x = (
            self.tensors(),
            self.scope[self["x"]].shape if "x" in self or "new" not in self else self._new_shape(),
        )
        fitting = [name for name in names if _fit(x, self.scope[name].shape)]
        return self.choose(fitting if fitting and self.rng.random() < 0.9 else names)

    def _new_shape(self):
        return self.scope[self["new"]].shape if self["new"] in self.scope else ()

    def _new(self):
        candidates = [name for name, line in self.program.lines if line.endswith(".clone()") or "+" in line]
        names = [name for name in candidates if name in self.scope and name[0] == "v"]
        return self.choose(names or ["none"])

    def _state(self):
        return self.choose([name for name in self.program.outside if name[0] == "s"] or ["none"])

    def _rank(self):
        return self.scope[self["x"]].ndim

    def _dim(self):
        rank = max(self._rank(), 1)
        return self.rng.integers(-rank, rank)

    def _dims(self):
        rank = self._rank()
        return tuple(self.rng.permutation(rank)[: self.rng.integers(1, rank + 1)].tolist()) if rank else None

    def _permutation(self):
        return ", ".join(map(str, self.rng.permutation(self._rank()))) or "()"

    def _shape(self):
        shape = list(self.scope[self["x"]].shape)
        size = int(np.prod(shape))
        divisors = [d for d in range(1, 9) if size % d == 0]
        d = self.choose(divisors) if divisors else 1
        return self.choose([(d, size // d), (size // d, 1, d), (-1,), (*shape, 1), (1, *shape)])

    def _bool(self):
        return bool(self.rng.integers(2))

    def _number(self):
        return self.choose([0.5, -0.25, 2, 0.1, -1.5, 0.7, 1])

    def _dtype(self):
        return self.choose(["float32", "float64"])

    def _index(self):
        name = f"i{len(self.program.indices)}"
        self.program.indices[name] = self.rng.integers(0, 2, self.choose([1, 3, 6])).tolist()
        self.scope[name] = dc.tensor(self.program.indices[name])
        return name


def _fit(a, b) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b)))


def generate(seed: int, dtype: str) -> Program:
    """The program of a seed: up to 24 lines over up to four arguments, parameters and one captured state."""
    rng = np.random.default_rng([seed, dtype == "float64"])
    while True:
        program = _generate_once(rng, seed, dtype)
        scope: dict = {}
        exec(program.source(), scope)
        if "raised" not in outcome(program, scope["program"], scope, 0):  # for example, a saved value was overwritten
            return program


def _generate_once(rng, seed: int, dtype: str) -> Program:
    sizes = [1, 1, 0] if seed % 10 == 0 else SIZES
    common = [int(rng.choice(sizes)) for _ in range(3)]

    def shape():
        lengths = [n if rng.random() < 0.85 else 1 for n in common[rng.integers(3) :]]
        return tuple(lengths) if rng.random() < 0.95 else ()

    names = [
        *"abcd"[: rng.integers(1, 5)],
        *[f"w{i}" for i in range(rng.integers(0, 3))],
        *["s0"] * (rng.random() < 0.3),
    ]
    learned = [name for name in names if name != "s0" and rng.random() < 0.85]
    program = Program(
        seed, dict.fromkeys(names, dtype), {name: shape() for name in names}, learned, {}, [], [], [],
        bool(rng.random() < 0.2), bool(rng.random() < 0.2),
    )  # fmt: skip
    if not set(learned) & set(program.arguments) or program.transform:
        program.learned = learned = list(dict.fromkeys([*learned, *program.arguments[:1]]))
    scope: dict[str, Any] = {"dc": dc, "F": dc.nn.functional, "np": np}
    scope |= {name: dc.tensor(array, requires_grad=name in learned) for name, array in program.values(0).items()}
    line_count = rng.integers(4, 25)
    for _ in range(200):
        if len(program.lines) >= line_count:
            break
        _add_line(rng, program, scope)
    names_made = [name for name, _ in program.lines if name in scope and name[0] == "v"]
    floats = [name for name in dict.fromkeys(names_made) if scope[name].requires_grad]
    program.losses = [_sample(rng, floats, 4) or learned[:1]]
    if rng.random() < 0.15 and not program.transform and floats:
        program.losses.append(_sample(rng, floats, 2))
    argument_arrays = [scope[name]._data for name in program.arguments]
    computed = [
        name for name in names_made if not any(np.may_share_memory(scope[name]._data, a) for a in argument_arrays)
    ]
    program.results = _sample(rng, computed, 4)
    return program


def _sample(rng, names: list[str], maximum: int) -> list[str]:
    return [str(name) for name in rng.permutation(names)[: rng.integers(1, maximum + 1)]]


def _add_line(rng, program: Program, scope: dict) -> None:
    """Try one more line; drop it if it raises, or if its result is too large or not finite."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    choices = _Choices(rng, scope, program)
    line = string.Formatter().vformat(template, (), choices)
    name = f"v{len(program.lines)}"
    if "{new}" in template or "{state}" in template:
        name = choices["new" if "{new}" in template else "state"]
        if name not in scope:
            return
        line = f"with dc.no_grad(): {line}" if "{state}" in template else line
    else:
        line = f"{name} = {line}"
        if rng.random() < 0.05:
            line = f"with dc.no_grad(): {line}"
    trial = dict(scope)
    if name in scope:
        trial[name] = scope[name].clone()  # a dropped line must not have written in place
    try:
        exec(line, trial)
        value = trial[name]
        if value.numel() > 4096 or value.ndim > 5 or (program.seed % 4 and not value.isfinite().all()):
            return
        exec(line, scope)
    except _LINE_ERRORS:
        return
    program.lines.append((name, line))


def bits(x):
    """A result for comparison: None, or dtype, shape and bytes. All NaN are equal: IEEE leaves their sign open."""
    if x is None:
        return None
    array = np.array(x.detach().numpy() if isinstance(x, dc.Tensor) else x)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return str(array.dtype), array.shape, array.tobytes()


def outcome(program: Program, function, scope: dict, which: int):
    """The bits of results, gradients, captured tensors and the random stream, by name."""
    dc.manual_seed(which)
    values = program.values(which)
    for name in program.outside:
        scope[name].detach().numpy()[...] = values[name]
        scope[name].grad = dc.ones(program.shapes[name], dtype=scope[name].dtype) if (
            program.accumulating and name in program.learned) else None  # fmt: skip
    args = [dc.tensor(values[name], requires_grad=name in program.learned) for name in program.arguments]
    leaves = dict(zip(program.arguments, args)) | {name: scope[name] for name in program.outside}
    try:
        with dc.set_grad_enabled(not program.transform):  # else the results of a transform would be recorded
            bits_by_name = {"results": tree_map(bits, function(*args))}
    except DeepcoreError as error:
        bits_by_name = {"raised": f"{type(error).__name__}: {error}"}
    bits_by_name |= {f"{name}.grad": bits(t.grad) for name, t in leaves.items()}
    bits_by_name |= {name: bits(t.detach()) for name, t in leaves.items()}
    return bits_by_name | {"random state": dc.get_rng_state()}


def differences(program: Program):
    """(what differs in which call, the compiled function): it is recorded, its program runs twice, and is checked."""
    scope: dict = {}
    exec(program.source(), scope)
    function = scope["program"]
    expected = [outcome(program, function, scope, which) for which in (0, 1)]
    compiled = dc.compile(function)
    wrong, before = [], settings.compile_check
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepcoreWarning)
        for call, which in enumerate((0, 1, 0, 1)):
            settings.compile_check = int(call == 3)
            runners = [runner for entry in compiled._cache.values() for runner, *_ in entry]
            for runner in runners:
                runner.next_check = 0 if call == 3 else math.inf
            try:
                actual = outcome(program, compiled, scope, which)
            finally:
                settings.compile_check = before
            wrong += [f"{name}, call {call}" for name, value in actual.items() if value != expected[which].get(name)]
            wrong += ["the check of a program"] * any(runner.differences for runner in runners)
    return wrong, compiled


def shrunk(program: Program, fails) -> Program:
    """A smaller program that also fails: without lines, losses and results that the failure does not need."""
    changed = True
    while changed:
        changed = False
        for part in ("results", "losses", "lines"):
            items = getattr(program, part)
            for i in reversed(range(len(items))):
                smaller = replace(program, **{part: items[:i] + items[i + 1 :]})
                if (smaller.losses or part != "losses") and fails(smaller):
                    program, items, changed = smaller, getattr(smaller, part), True
        losses = [[name] for loss in program.losses for name in loss]
        for single in losses:
            smaller = replace(program, losses=[single])
            if [single] != program.losses and fails(smaller):
                program, changed = smaller, True
                break
    return program
