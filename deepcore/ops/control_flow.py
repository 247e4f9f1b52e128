"""Loops and branches with JAX's names and semantics: `scan`, `fori_loop`, `while_loop`, `cond`.

A loop is one node of the graph: its gradient runs through the steps in reverse, one after the other, and sums those of
closures step by step. So a program needs one body for each direction (`compiler/control.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcore.autograd import Node, mixed_backends, mode, no_grad
from deepcore.autograd.engine import gradients_at
from deepcore.autograd.function import OutputNode
from deepcore.autograd.graph import is_array, next_id
from deepcore.autograd.levels import all_values, is_readable
from deepcore.autograd.trees import LEAF, Structure, flatten, paths, unflatten
from deepcore.backend import dtypes as dt
from deepcore.effects import effect
from deepcore.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError, ShapeError
from deepcore.ops.comparison import where
from deepcore.ops.index import getitem
from deepcore.ops.shape import contiguous, reshape_p, stack
from deepcore.tensor import Tensor, arange, as_tensor, from_raw, made

# -- public functions ---------------------------------------------------------------------------------------------------


def scan(f: Callable, init, xs=None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """carry₀ = init; (carryₜ₊₁, yₜ) = f(carryₜ, xₜ) for t = 0, …, T - 1. Returns (carry_T, ys), with yₜ = ys[t].

    `init`, `xs`, `ys` and the carry are trees of tensors: tuples, lists and dicts, nested, where None has no leaves; arrays
    and numbers become tensors. xₜ has each leaf of `xs` at index t of its first dimension, and `ys` the stacked leaves of the
    yₜ. `length` is T; it is needed where `xs` has no leaves. `reverse` runs t = T - 1, …, 0, and ys[t] still belongs to xₜ.
    With T = 0, `f` runs once on zeros, for the shapes of `ys`.

    Differentiable to any order with respect to `init`, `xs` and all tensors that `f` reads. In a compiled function the body
    is recorded once and the program runs it T times, with saved values of the T steps for the gradient. `f` returns new
    tensors: writing into its arguments raises. Errors: ArgumentError for another structure of the carry, ShapeError and
    DTypeError for another shape or dtype, ShapeError for leaves of `xs` of different lengths.

    As `jax.lax.scan`.
    """
    leaves, structure = _tensors("scan", "init", init)
    columns, x_structure = _tensors("scan", "xs", xs)
    length = _length(columns, paths(x_structure, "xs"), length)
    _one_backend("scan", [*leaves, *columns])
    carry, columns = list(map(contiguous, leaves)), list(map(contiguous, columns))
    body = _Body(f, structure, x_structure, carry)
    if mode.level is not None and length:
        return _scanned(body, carry, columns, length, reverse)
    if length == 0:
        with no_grad():
            empty = [from_raw(x.backend.zeros(x.shape[1:], dtype=x.dtype), x.backend) for x in columns]
            _, ys, _ = body(0, carry, empty)
        stacked = [made(y.backend.zeros((0, *y.shape), dtype=y.dtype), y.backend) for y in ys]
        return unflatten(structure, leaves), unflatten(body.y_structure, stacked)
    results = body.run(carry, columns, length, reverse)
    return unflatten(structure, results[: len(carry)]), unflatten(body.y_structure, results[len(carry) :])


def fori_loop(lower, upper, body_fun: Callable, init_val):
    """val = init_val; val = body_fun(i, val) for i = lower, …, upper - 1. Returns val.

    `i` is an int64 tensor. Where both bounds are Python integers this is a `scan`, and differentiable as that is; where one
    is a tensor, it is a `while_loop`.

    As `jax.lax.fori_loop`.
    """
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        i, end = (_scalar("fori_loop", name, x) for name, x in (("lower", lower), ("upper", upper)))
        return while_loop(lambda s: s[0] < end, lambda s: (s[0] + 1, body_fun(s[0], s[1])), (i, init_val))[1]
    for name, bound in (("lower", lower), ("upper", upper)):
        if not hasattr(bound, "__index__"):
            raise ArgumentTypeError(f"fori_loop: {name} is an integer", received=type(bound).__name__)
    backend = next((t.backend for t in flatten(init_val)[0] if isinstance(t, Tensor)), None)
    steps = arange(int(lower), max(int(lower), int(upper)), dtype=dt.int64, backend=backend)
    if not steps.shape[0]:
        leaves, structure = _tensors("fori_loop", "init_val", init_val)
        return unflatten(structure, leaves)
    return scan(lambda val, i: (body_fun(i, val), None), init_val, steps)[0]


def while_loop(cond_fun: Callable, body_fun: Callable, init_val):
    """val = init_val; while cond_fun(val): val = body_fun(val). Returns val.

    `init_val` is a tree of tensors, and `cond_fun` returns a tensor of one element, or a bool. The number of steps may depend
    on values. Differentiable: the graph keeps every step, and a program cannot, so where a result requires a gradient a compiled
    function runs eagerly; a loop of known length that is compiled with its gradient is `scan`. Errors: as `scan`.

    As `jax.lax.while_loop`.
    """
    leaves, structure = _tensors("while_loop", "init_val", init_val)
    _one_backend("while_loop", leaves)
    carry = list(map(contiguous, leaves))
    names = paths(structure, "val")
    if mode.level is not None:
        return _repeated(cond_fun, body_fun, structure, carry)

    def condition(val: list[Tensor]) -> list[Tensor]:
        return [_truth("while_loop", "the result of cond_fun", cond_fun(unflatten(structure, val)))]

    def body(val: list[Tensor]) -> list[Tensor]:
        versions = [t.version for t in val]
        outs, out_structure = _tensors("while_loop", "the result of body_fun", body_fun(unflatten(structure, val)))
        _check_carry("while_loop", structure, out_structure, names, carry, outs)
        _check_unwritten("while_loop", "body_fun", names, val, versions)
        return list(map(contiguous, outs))

    return unflatten(structure, effect("repeat", repeat, condition, body, carry))


def cond(pred, true_fun: Callable, false_fun: Callable, *operands):
    """true_fun(*operands) if pred else false_fun(*operands).

    `pred` is a bool, a number, or a tensor of one element. The operands and results are trees of tensors. Only the branch
    that `pred` selects runs; a compiled function records both, and the program runs the selected one. There, results of another
    structure, shape or dtype in one branch than in the other raise ArgumentError, ShapeError or DTypeError. Differentiable
    with respect to the operands and all tensors that the branch reads.

    As `jax.lax.cond`.
    """
    for name, function in (("true_fun", true_fun), ("false_fun", false_fun)):
        if not callable(function):
            raise ArgumentTypeError(f"cond: {name} is a function", received=type(function).__name__)
    if isinstance(pred, bool):
        return (true_fun if pred else false_fun)(*operands)
    pred = _truth("cond", "pred", pred)
    leaves, structure = _tensors("cond", "operands", operands)
    _one_backend("cond", [pred, *leaves])
    if mode.level is not None:
        return _either(pred, true_fun, false_fun, operands)
    branches = [_Branch(function, structure) for function in (true_fun, false_fun)]
    inputs = list(map(contiguous, leaves))
    results, number, recorded = effect("branch", choose, pred, branches, inputs)
    branch = branches[number]
    if branch.graph.steps:
        branch.graph.attach(results, _BranchNode(inputs, branch.graph, recorded))
    return unflatten(branch.y_structure, results)


# -- arguments ----------------------------------------------------------------------------------------------------------


def _tensors(function: str, name: str, tree) -> tuple[list[Tensor], Structure]:
    """The leaves of a tree, as tensors, and its structure."""
    leaves, structure = flatten(tree)
    backend = next((leaf.backend for leaf in leaves if isinstance(leaf, Tensor)), None)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            continue
        if not isinstance(leaf, (bool, int, float)) and not is_array(leaf):
            raise ArgumentTypeError(
                f"{function}: {paths(structure, name)[i]} is not a tensor",
                expected="tuples, lists and dicts of tensors, arrays and numbers",
                received=type(leaf).__name__,
            )
        leaves[i] = as_tensor(leaf, backend=None if is_array(leaf) else backend)
    return leaves, structure


def _scalar(function: str, name: str, value) -> Tensor:
    leaves, structure = _tensors(function, name, value)
    if structure != LEAF:
        raise ArgumentTypeError(f"{function}: {name} is a tensor of one element", received=type(value).__name__)
    (t,) = leaves
    if t._data.size != 1:
        raise ShapeError(
            f"{function}: {name} is a tensor of one element", received=f"shape {t.shape}", fix="use .any() or .all()"
        )
    return t


def _truth(function: str, name: str, value) -> Tensor:
    t = _scalar(function, name, value)
    return t if t.dtype == dt.bool_ else t != 0


def _one_backend(function: str, tensors: list[Tensor]) -> None:
    if any(t.backend is not tensors[0].backend for t in tensors):
        raise mixed_backends(function, tensors)


def _length(columns: list[Tensor], names: list[str], length: int | None) -> int:
    """The number of steps of a scan."""
    if length is not None and (not hasattr(length, "__index__") or int(length) < 0):
        raise ArgumentError("scan: length is a whole number from 0 on", received=repr(length))
    for name, x in zip(names, columns):
        if not x.ndim:
            raise ShapeError(f"scan: {name} has no dimension to go along", fix="pass it in init, or let f read it")
        if length is None:
            length = x.shape[0]
        if x.shape[0] != length:
            raise ShapeError(
                "scan goes along arrays of one length",
                expected=str(int(length)),
                received=", ".join(f"{n} of shape {t.shape}" for n, t in zip(names, columns)),
            )
    if length is None:
        raise ArgumentError("scan needs the number of steps", fix="pass xs with at least one tensor, or length=")
    return int(length)


def _check_carry(
    function: str, expected: Structure, received: Structure, names: list[str], before: list[Tensor], after: list[Tensor]
) -> None:
    """Raise unless a step's carry is like the one it started from."""
    if expected != received:
        raise ArgumentError(
            f"{function}: the carry changes its structure", expected=str(expected), received=str(received),
            fix="return a carry with the structure of the one passed in",
        )  # fmt: skip
    for name, a, b in zip(names, before, after):
        if a.shape != b.shape:
            raise ShapeError(f"{function}: {name} changes its shape", expected=str(a.shape), received=str(b.shape))
        if a.dtype != b.dtype:
            raise DTypeError(
                f"{function}: {name} changes its dtype", expected=dt.name_of(a.dtype), received=dt.name_of(b.dtype),
                fix=f"convert the initial value or the result: .to(dc.{dt.name_of(b.dtype)})",
            )  # fmt: skip
        if a.backend is not b.backend:
            raise mixed_backends(function, (a, b))


def _check_unwritten(function: str, body: str, names: list[str], inputs: list[Tensor], versions: list[int]) -> None:
    for name, t, version in zip(names, inputs, versions):
        if t.version != version:
            raise ArgumentError(
                f"{function}: {body} writes into {name}, which the caller and other steps read",
                fix="compute a new tensor (c = c + x for c += x), or clone() it first",
            )


# -- inside of vmap and jvp ----------------------------------------------------------------------------------------------


def _scanned(body: _Body, carry: list[Tensor], xs: list[Tensor], length: int, reverse: bool) -> tuple[Any, Any]:
    """`scan` as a loop of ops."""
    rows: list[list[Tensor]] = [[]] * length
    for k in range(length):
        t = length - 1 - k if reverse else k
        result = body.f(unflatten(body.structure, carry), unflatten(body.x_structure, [getitem(x, t) for x in xs]))
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ArgumentError(
                "scan: f returns a pair: the carry, and a result of the step or None", received=type(result).__name__
            )
        carry, structure = _tensors("scan", "the carry that f returns", result[0])
        _check_carry("scan", body.structure, structure, body.names, body.carry, carry)
        rows[t], body.y_structure = _tensors("scan", "y", result[1])
    ys = [stack(list(column)) for column in zip(*rows)]
    return unflatten(body.structure, carry), unflatten(body.y_structure, ys)


def _chosen(pred: Tensor, structure: Structure, first: list[Tensor], second: list[Tensor]):
    return unflatten(structure, [where(pred, a, b) for a, b in zip(first, second)])


def _either(pred: Tensor, true_fun: Callable, false_fun: Callable, operands: tuple):
    """`cond`; both branches where examples differ in which one is theirs."""
    pred = reshape_p(pred, shape=())
    if is_readable(pred):
        return (true_fun if bool(pred) else false_fun)(*operands)
    first, structure = _tensors("cond", "the result", true_fun(*operands))
    second, other = _tensors("cond", "the result", false_fun(*operands))
    _check_carry("cond", structure, other, paths(structure, "the result"), first, second)
    return _chosen(pred, structure, first, second)


def _repeated(cond_fun: Callable, body_fun: Callable, structure: Structure, val: list[Tensor]):
    """`while_loop`; until all examples are done, and those that are keep their value."""
    names = paths(structure, "val")
    while True:
        pred = reshape_p(_truth("while_loop", "the result of cond_fun", cond_fun(unflatten(structure, val))), shape=())
        if not bool(all_values(pred).any()):
            return unflatten(structure, val)
        outs, other = _tensors("while_loop", "the result of body_fun", body_fun(unflatten(structure, val)))
        _check_carry("while_loop", structure, other, names, val, outs)
        val = outs if is_readable(pred) else flatten(_chosen(pred, structure, outs, val))[0]


# -- steps --------------------------------------------------------------------------------------------------------------


class _Boundary(Node):
    """Passes a gradient from one step to the one before it, or out of the loop; a step's own gradients end here."""

    __slots__ = ()

    def __init__(self, t: Tensor):
        self.id, self.edges = next_id(), (t._node or t,)
        self.saved: Any = ()
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = None

    @property
    def name(self) -> str:
        return "StepBackward"

    def backward(self, g) -> list:
        return [g]

    def free(self) -> None:
        pass


def boundary(t: Tensor, array=None) -> Tensor:
    """`t` as the input of a step, over its array or a copy of that; writing to either raises the version of both."""
    node = _Boundary(t) if t._requires_grad and mode.grad else None
    new = Tensor(t._data if array is None else array, t.backend, node is not None, node)
    new._storage = t.storage()
    return new


def _at(x: Tensor, t: int) -> Tensor:
    if (x._requires_grad and mode.grad) or mode.level is not None:
        return getitem(x, t)
    new = Tensor(x._data[t, ...], x.backend)
    new._storage = x.storage()
    return new


def iterate(
    body: Callable, carry: list[Tensor], xs: list[Tensor], length: int, reverse: bool, graph: bool = False, node=None
) -> tuple:
    """Run (carry, ys, sums) = body(k, carry, x) for k = 0, …, length - 1; x and ys are at index k, or from the end.

    Returns the last carry, the stacked ys, the totals of the sums (where not None), and None. `graph`: results continue the
    graph of the steps; else they are new memory. For the recorder, `node` is that of the loop whose gradient this is, with
    what the recorder returned in place of None.
    """
    graph = graph or mode.level is not None  # inside of a vmap, tensors have no array to write to
    columns: list[Any] = []
    totals: list[Tensor | None] = []
    for k in range(length):
        t = length - 1 - k if reverse else k
        carry, ys, sums = body(k, carry, [_at(x, t) for x in xs])
        if k == 0:
            totals = list(sums)
            columns = [[None] * length if graph else y.backend.empty((length, *y.shape), dtype=y.dtype) for y in ys]
        else:
            totals = [b if a is None else a if b is None else a + b for a, b in zip(totals, sums)]
        for column, y in zip(columns, ys):
            if graph:
                column[t] = y
            else:
                column[t, ...] = y._data
    if graph:
        return carry, [stack(column) for column in columns], totals, None
    stacked = [Tensor(column, y.backend) for column, y in zip(columns, ys)]
    return list(map(_copied, carry)), stacked, list(map(_copied, totals)), None


def _copied(t: Tensor | None) -> Tensor | None:
    return None if t is None else Tensor(t._data.copy(), t.backend)


class _Body:
    """A function of trees as a function of lists of tensors, which keeps the graph of each step."""

    def __init__(self, f: Callable, structure: Structure, x_structure: Structure, carry: list[Tensor]):
        self.f, self.structure, self.x_structure, self.carry = f, structure, x_structure, carry
        self.names = [*paths(structure, "carry"), *paths(x_structure, "x")]
        self.y_structure: Any = None
        self.signature: Any = None
        self.graph = _Graph()

    def __call__(self, k: int, carry: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list]:
        inputs = list(map(boundary, (*carry, *x)))
        versions = [t.version for t in inputs]
        count = len(carry)
        result = self.f(unflatten(self.structure, inputs[:count]), unflatten(self.x_structure, inputs[count:]))
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ArgumentError(
                "scan: f returns a pair: the carry, and a result of the step or None", received=type(result).__name__
            )
        new, structure = _tensors("scan", "the carry that f returns", result[0])
        _check_carry("scan", self.structure, structure, self.names, self.carry, new)
        ys, self.y_structure = _tensors("scan", "y", result[1])
        signature = _described(self.y_structure, ys)
        if self.signature not in (None, signature):
            raise ShapeError("scan: steps return different results", expected=self.signature, received=signature)
        self.signature = signature
        _check_unwritten("scan", "f", self.names, inputs, versions)
        outs = list(map(contiguous, (*new, *ys)))
        self.graph.add(inputs, outs)
        return outs[:count], outs[count:], []

    def run(self, carry: list[Tensor], xs: list[Tensor], length: int, reverse: bool) -> list[Tensor]:
        """The last carry and the stacked results."""
        last, ys, _, recorded = effect("loop", iterate, self, carry, xs, length, reverse)
        results = [*last, *ys]
        if self.graph.steps:
            self.graph.attach(results, _LoopNode([*carry, *xs], len(carry), self.graph, length, reverse, recorded))
        return results


class _Branch:
    """A function of trees as a function of a list of tensors."""

    def __init__(self, f: Callable, structure: Structure):
        self.f, self.structure = f, structure
        self.names = [path.removeprefix("operands") for path in paths(structure, "operands")]
        self.y_structure: Any = None
        self.graph = _Graph()

    def __call__(self, operands: list[Tensor]) -> list[Tensor]:
        inputs = list(map(boundary, operands))
        versions = [t.version for t in inputs]
        outs, self.y_structure = _tensors("cond", "the result", self.f(*unflatten(self.structure, inputs)))
        _check_unwritten("cond", "a branch", [f"operand {name}" for name in self.names], inputs, versions)
        outs = list(map(contiguous, outs))
        self.graph.add(inputs, outs)
        return outs


def choose(pred: Tensor, branches: list, operands: list[Tensor]) -> tuple[list[Tensor], int, Any]:
    """Run branch 0 where `pred`, else branch 1. Returns its results, as new memory, its number, and None, in place of which
    the recorder returns what `_BranchNode` gets."""
    number = 0 if bool(pred._data.any()) else 1
    return list(map(_copied, branches[number](operands))), number, None  # type: ignore[arg-type]


def repeat(condition: Callable, body: Callable, val: list[Tensor]) -> list[Tensor]:
    """while condition(val)[0]: val = body(val)."""
    while bool(condition(val)[0]._data.any()):
        val = body(val)
    return val


# -- gradients ----------------------------------------------------------------------------------------------------------


class _Graph:
    """The graph of each step of a loop, from its inputs to its results, and the nodes and leaves outside that they read."""

    def __init__(self) -> None:
        self.first_node = next_id()
        self.steps: list[tuple[list[Tensor], list[Tensor]]] = []
        self.closures: dict[Any, None] = {}

    def add(self, inputs: list[Tensor], outs: list[Tensor]) -> None:
        roots = [t._node or t for t in outs if t._requires_grad]
        if not roots and not self.steps:
            return
        self.steps.append((inputs, outs))
        own = {t._node for t in inputs}
        visited: set = set()
        while roots:
            node = roots.pop()
            if node is None or node in own or node in visited:
                continue
            visited.add(node)
            if isinstance(node, Tensor) or node.id < self.first_node:
                self.closures[node] = None
            elif isinstance(node, _Boundary):
                raise GradientError(
                    "a step of a loop reads a tensor of another step",
                    fix="pass it on in the carry, or return it as a result of the step",
                )
            else:
                roots.extend(node.edges)

    def attach(self, results: list[Tensor], node: Node) -> None:
        """Make results that require a gradient results of `node`."""
        for i, (t, out) in enumerate(zip(results, self.steps[-1][1])):
            if out._requires_grad:
                t._node, t._requires_grad = OutputNode(node, i), True  # type: ignore[arg-type]

    def gradients(self, step: int, seeds: list[tuple[int, Tensor]]) -> tuple[list, list]:
        """The gradients of a step's inputs and of the closures, from those of results by number; None where there is none."""
        inputs, outs = self.steps[step]
        roots = [(outs[i], g) for i, g in seeds if outs[i]._requires_grad]
        nodes = [t._node for t in inputs if t._node is not None]
        found = gradients_at([*nodes, *self.closures], roots, mode.grad, hooked=False)
        by_node = dict(zip(nodes, found))
        return [by_node.get(t._node) for t in inputs], found[len(nodes) :]


class _ControlNode(Node):
    """The node of a loop's or a branch's results; gradients arrive as {position: gradient}."""

    __slots__ = ("graph",)

    def __init__(self, inputs: list[Tensor], graph: _Graph):
        self.graph = graph
        self.id, self.saved = next_id(), ()
        self.edges = (*((t._node or t) if t._requires_grad else None for t in inputs), *graph.closures)
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = None

    def free(self) -> None:
        self.saved = self.graph = None  # type: ignore[assignment]


class _LoopNode(_ControlNode):
    """gₜ, dxₜ, sₜ = VJP of step t at gₜ₊₁ and dyₜ, for t = T - 1, …, 0; closures get Σ sₜ, summed in this order."""

    __slots__ = ("count", "inputs", "length", "recorded", "reverse")

    def __init__(self, inputs: list[Tensor], count: int, graph: _Graph, length: int, reverse: bool, recorded):
        super().__init__(inputs, graph)
        self.count, self.length, self.reverse, self.recorded = count, length, reverse, recorded
        self.inputs = [t._requires_grad for t in inputs]

    @property
    def name(self) -> str:
        return "ScanBackward"

    def backward(self, g) -> list:
        if self.saved is None:
            Node.backward(self, g)  # raises
        graph, count = self.graph, self.count
        outs = graph.steps[-1][1]
        #: Numbers of the carry's leaves that a gradient may pass through, and of results that have one.
        carried = [i for i in range(count) if self.inputs[i] or any(o[i]._requires_grad for _, o in graph.steps)]
        ys = sorted(i for i in g if i >= count)
        xs = [i for i in range(count, len(self.inputs)) if self.inputs[i]]

        def step(k: int, carry: list[Tensor], x: list[Tensor]):
            inputs = graph.steps[max(-1 - k, -len(graph.steps))][0]
            if k >= len(graph.steps):  # a step before the first that required a gradient
                return *([_zeros(inputs[i]) for i in numbers] for numbers in (carried, xs)), [None] * len(
                    graph.closures
                )
            gradients, sums = graph.gradients(-1 - k, [*zip(carried, carry), *zip(ys, x)])
            carry, dx = ([_dense(gradients[i], inputs[i]) for i in numbers] for numbers in (carried, xs))
            return carry, dx, [None if s is None else contiguous(s) for s in sums]

        last = [g[i] if i in g else _zeros(outs[i]) for i in carried]
        first, dxs, sums, _ = effect(
            "loop", iterate, step, list(map(contiguous, last)), [contiguous(g[i]) for i in ys], self.length,
            not self.reverse, mode.grad, self,
        )  # fmt: skip
        found = dict(zip((*carried, *xs), (*first, *dxs)))
        return [*(found.get(i) if needed else None for i, needed in enumerate(self.inputs)), *sums]

    def free(self) -> None:
        super().free()
        self.recorded = None


class _BranchNode(_ControlNode):
    """The node of the results of a `cond`."""

    __slots__ = ("recorded",)

    def __init__(self, inputs: list[Tensor], graph: _Graph, recorded):
        super().__init__(inputs, graph)
        self.recorded = recorded

    @property
    def name(self) -> str:
        return "CondBackward"

    def backward(self, g) -> list:
        if self.saved is None:
            Node.backward(self, g)  # raises
        numbers = sorted(g)

        def gradients(graph: _Graph, seeds: list[Tensor], closures: list, node: _BranchNode) -> list[Tensor | None]:
            inputs, sums = graph.gradients(-1, list(zip(numbers, seeds)))
            found = dict(zip(graph.closures, sums))
            dense = [_dense(g, t) if t._requires_grad else None for g, t in zip(inputs, graph.steps[-1][0])]
            return [*dense, *(None if s is None else contiguous(s) for s in map(found.get, closures))]

        seeds, closures = [contiguous(g[i]) for i in numbers], list(self.graph.closures)
        return effect("branch_gradient", gradients, self.graph, seeds, closures, self)

    def free(self) -> None:
        super().free()
        self.recorded = None


def _zeros(t: Tensor) -> Tensor:
    return made(t.backend.zeros(t.shape, dtype=t.dtype), t.backend)


def _dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    return _zeros(like) if gradient is None else contiguous(gradient)


def _described(structure: Structure, tensors: list[Tensor]) -> str:
    return f"{structure} of " + ", ".join(f"{dt.name_of(t.dtype)}{list(t.shape)}" for t in tensors)
