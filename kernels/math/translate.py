"""Scalar Python functions of users, translated to functions of one dtype that kernels and array code run.

A function is read as source, once for each combination of kinds of its arguments: "f" real, "i" whole, "b" boolean.
Each variable gets one kind, conversions are written out, names from outside become constants, and `math`'s functions become
those of `scalar`. The result is Python source: its digest names the kernel, `formula` is the function for `lift`, and
`evaluate` runs it over arrays, where branches are masks.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import linecache
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepcore.backend.dtypes import fits
from deepcore.errors import ArgumentError, ArgumentTypeError, UnsupportedError, suggest
from deepcore.kernels.math import scalar

_ORDER = "bif"
_OPERATORS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
_BITS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift)
#: Functions of `math` and `numpy`: number of arguments, and the name in `scalar`. All compute real numbers.
_FUNCTIONS: dict[str, tuple[int, str]] = {
    **{
        name: (1, name)
        for name in ("exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan",
                     "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "floor", "ceil", "trunc", "rint")
    },
    **{f"arc{name}": (1, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: (2, name) for name in ("atan2", "hypot", "copysign")},
    "arctan2": (2, "atan2"), "pow": (2, "power"), "power": (2, "power"), "fabs": (1, "abs"), "abs": (1, "abs"),
    "fmax": (2, "largest"), "fmin": (2, "smallest"), "maximum": (2, "largest"), "minimum": (2, "smallest"), "sigmoid": (1, "sigmoid"),
}  # fmt: skip
_PREDICATES = ("isnan", "isinf", "isfinite")
_KEEPING = ("abs", "largest", "smallest")
#: Powers up to this one are products.
_MOST_FACTORS = 32
_MODULES = ("math", "numpy", "cmath", "deepcore", "scipy.special")


class Translation(NamedTuple):
    """A function for arguments of some kinds."""

    name: str
    source: str
    kinds: str
    #: The kind of the result.
    result: str
    #: Functions of the C library that it calls, by dtype: a GPU has no kernel then.
    host: frozenset[str]


class Reader:
    """The source of a function of numbers, and what it names."""

    def __init__(self, function: Callable):
        function = getattr(function, "_kernel_function", function)
        if not isinstance(function, types.FunctionType):
            raise ArgumentTypeError(
                "a kernel is made of a Python function of numbers", received=type(function).__name__
            )
        self.function = function
        self.file, self.name = function.__code__.co_filename, function.__name__
        self.node = _node_of(function)
        if isinstance(self.node, (ast.AsyncFunctionDef,)) or function.__code__.co_flags & 0x20:
            raise self.unsupported(self.node, "a generator or coroutine", "return one number")
        arguments = self.node.args
        if arguments.vararg or arguments.kwarg:
            raise self.unsupported(self.node, "*args and **kwargs", "name each argument")
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.parameters = tuple(a.arg for a in parameters)
        if not self.parameters:
            raise self.unsupported(
                self.node, "a function without arguments", "give it one argument for each tensor or number"
            )
        self.defaults = {**dict(zip(reversed(self.parameters[: len(parameters) - len(arguments.kwonlyargs)]), reversed(function.__defaults__ or ()))), **(function.__kwdefaults__ or {})}  # fmt: skip

    def place(self, node) -> str:
        return f"{self.file}:{getattr(node, 'lineno', self.function.__code__.co_firstlineno)}"

    def unsupported(self, node, what: str, fix: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.name}: a kernel has no {what}" if not what.startswith("!") else f"{self.name}: {what[1:]}",
            where=self.place(node), fix=fix,
        )  # fmt: skip

    def lookup(self, name: str, node=None) -> Any:
        """The value of a name from outside the function, as Python finds it."""
        code, function = self.function.__code__, self.function
        if name in code.co_freevars:
            cell = (function.__closure__ or ())[code.co_freevars.index(name)]
            try:
                return cell.cell_contents
            except ValueError:
                raise self.undefined(name, node) from None
        if name in function.__globals__:
            return function.__globals__[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise self.undefined(name, node)

    def undefined(self, name: str, node) -> UndefinedName:
        return UndefinedName(
            f"{self.name}: name {name!r} is not defined", where=self.place(node), fix="define it before the call"
        )


class UndefinedName(ArgumentError):
    """A name that is not defined when the kernel is translated; it may be by the time of the call."""


class WrongKind(UnsupportedError):
    """An operation that whole numbers have and real ones have not, or the reverse."""


@functools.lru_cache(64)
def _parsed(text: str, file: str) -> ast.Module:
    return ast.parse(text, file)


def _node_of(function: types.FunctionType) -> Any:
    """The definition of a function in the file, cell or text that it was compiled from."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    candidates = []
    if lines:
        try:
            tree = _parsed("".join(lines), code.co_filename)
        except SyntaxError:
            tree = ast.Module([], [])
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                name = getattr(node, "name", "<lambda>")
                first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
                arguments = node.args
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                count = code.co_argcount + code.co_kwonlyargcount
                if name == code.co_name and first == code.co_firstlineno and tuple(names) == code.co_varnames[:count]:
                    candidates.append(node)
    if len(candidates) > 1 and hasattr(code, "co_positions"):
        places = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
        candidates = [
            n for n in candidates
            if all((n.lineno, n.col_offset) <= at <= (n.end_lineno or 0, n.end_col_offset or 0) for at in places)
        ]  # fmt: skip
    if len(candidates) == 1:
        return candidates[0]
    what = "its source is not there" if not candidates else "several functions like it are on one line"
    raise ArgumentError(
        f"{function.__name__} cannot be translated: {what}",
        where=f"{code.co_filename}:{code.co_firstlineno}",
        fix="define it with def, in a file or a notebook" if not candidates else "put it on a line of its own",
    )


def _join(a: str, b: str) -> str:
    return max(a, b, key=_ORDER.index)


def translate(
    reader: Reader, kinds: str, component: tuple[int, int] | None = None, result: str | None = None
) -> tuple[Translation, list]:
    """The function for arguments of these kinds, and what it reads from outside as (lookup, path, value).

    `component`: (i, n): of a function that returns n numbers, the i-th. `result`: the least kind of its result.
    """
    module = _Module()
    _, result = module.add(reader, kinds, component, result)
    return module.translation(reader, kinds, result), module.outside


def reordered(translation: Translation, reader: Reader, order: Sequence[int]) -> Translation:
    """The same function with its arguments in another order."""
    if list(order) == sorted(order):
        return translation
    tree = ast.parse(translation.source)
    (formula,) = (d for d in tree.body if isinstance(d, ast.FunctionDef) and d.name == "formula")
    formula.args.args = [formula.args.args[i] for i in order]
    kinds = "".join(translation.kinds[i] for i in order)
    return _labelled(reader, ast.unparse(tree), kinds, translation.result, translation.host)


def _labelled(reader: Reader, source: str, kinds: str, result: str, host: frozenset[str]) -> Translation:
    digest = hashlib.sha256(f"{kinds} {result}\n{source}".encode()).hexdigest()[:16]
    stem = "".join(c for c in reader.name if c.isascii() and (c.isalnum() or c == "_")).strip("_") or "kernel"
    return Translation(f"user_{stem[:40].lower()}_{digest}", source, kinds, result, host)


class _Module:
    """The functions that one kernel consists of."""

    def __init__(self):
        self.definitions: list[tuple[ast.FunctionDef, str]] = []
        self.outside: list[tuple[Callable, tuple[str, ...], Any]] = []
        self.host: set[str] = set()
        self._known: dict[tuple, tuple[str, str]] = {}
        self._stack: list[Any] = []

    def translation(self, reader: Reader, kinds: str, result: str) -> Translation:
        """The functions as source; the one that was added last is the kernel's."""
        self.definitions[-1][0].name = "formula"
        source = "\n\n".join(ast.unparse(ast.fix_missing_locations(d)) for d, _ in self.definitions)
        return _labelled(reader, source, kinds, result, frozenset(self.host))

    def add(self, reader: Reader, kinds: str, component=None, least: str | None = None) -> tuple[str, str]:
        """(name, kind of the result) of a function that is called."""
        key = reader.function.__code__, id(reader.function), kinds, component
        if key in self._known:
            return self._known[key]
        if any(reader.function is other for other in self._stack):
            raise reader.unsupported(reader.node, "recursion", "write it as a loop")
        self._stack.append(reader.function)
        definition, result = _Function(self, reader, kinds, component, least).translated()
        self._stack.pop()
        definition.name = f"f{len(self.definitions)}_{reader.name.strip('<>')}"
        self.definitions.append((definition, result))
        self._known[key] = definition.name, result
        return self._known[key]

    def power(self, n: int) -> str:
        """The function xⁿ as products."""
        name = f"power_{n}"
        if all(d.name != name for d, _ in self.definitions):
            lines, have = [f"def {name}(x):"], {1: "x"}

            def make(k: int) -> str:
                if k not in have:
                    a, b = make(k // 2), make(k - k // 2)
                    lines.append(f"    x{k} = {a} * {b}")
                    have[k] = f"x{k}"
                return have[k]

            lines.append(f"    return {make(n)}")
            definition = ast.parse("\n".join(lines)).body[0]
            assert isinstance(definition, ast.FunctionDef)
            self.definitions.append((definition, "f"))
        return name


class _Function:
    """Translates one function."""

    def __init__(self, module: _Module, reader: Reader, kinds: str, component, least: str | None):
        self.module, self.reader, self.kinds, self.component = module, reader, kinds, component
        self.variables: dict[str, str] = dict(zip(reader.parameters, kinds))
        self.result = least
        self.changed = False
        self.count = 0
        self.loops = 0
        node = reader.node
        self.body = [ast.Return(node.body, lineno=node.lineno)] if isinstance(node, ast.Lambda) else list(node.body)
        self.assigned = {
            n.id for s in self.body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        self.defined: set[str] = set()

    def translated(self) -> tuple[ast.FunctionDef, str]:
        for _ in range(3 * (len(self.assigned) + 2)):  # until each variable has its kind
            self.changed, self.count, self.defined = False, 0, set(self.reader.parameters)
            statements, ended = self.block(self.body)
            if not self.changed:
                break
        if not ended:
            raise self.error(self.reader.node, "!some way through it returns nothing", "return a number at its end")
        first = [
            _assign(f"v_{name}", _converted(_name(f"v_{name}"), kind, self.variables[name]))
            for name, kind in zip(self.reader.parameters, self.kinds)
            if self.variables[name] != kind
        ]
        arguments = ast.arguments([], [ast.arg(f"v_{n}") for n in self.reader.parameters], None, [], [], None, [])
        definition = ast.FunctionDef("", arguments, [*first, *statements], [], None)
        if hasattr(definition, "type_params") or "type_params" in ast.FunctionDef._fields:
            definition.type_params = []  # type: ignore[attr-defined]
        assert self.result is not None
        return definition, self.result

    def error(self, node, what: str, fix: str) -> UnsupportedError:
        return self.reader.unsupported(node, what, fix)

    # -- statements ---------------------------------------------------------------------------------------
    def block(self, statements: Sequence[ast.stmt]) -> tuple[list[ast.stmt], bool]:
        """The statements, and whether none reaches their end."""
        out: list[ast.stmt] = []
        for statement in statements:
            new, ended = self.statement(statement)
            out += new
            if ended:
                return out, True
        return out or [ast.Pass()], False

    def statement(self, node: ast.stmt) -> tuple[list[ast.stmt], bool]:
        if isinstance(node, ast.Return):
            return [ast.Return(self.returned(node))], True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return [], False  # a docstring
        if isinstance(node, ast.Pass):
            return [], False
        if isinstance(node, ast.Assign):
            return self.assignment(node), False
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            return self.bind(node.target, *self.value(node.value)), False
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            load = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
            return self.bind(
                node.target, *self.value(ast.copy_location(ast.BinOp(load, node.op, node.value), node))
            ), False
        if isinstance(node, ast.If):
            return self.branch(node)
        if isinstance(node, ast.For):
            return self.loop(node), False
        if isinstance(node, ast.While):
            return self.repeat(node), False
        if isinstance(node, ast.Break) and self.loops:
            return [ast.Break()], True
        if isinstance(node, ast.Continue) and self.loops:
            return [ast.Continue()], True
        raise self.error(
            node, f"statement `{ast.unparse(node).splitlines()[0]}`", "assignments, if, for, while and return"
        )

    def returned(self, node: ast.Return) -> ast.expr:
        value = node.value
        if value is None:
            raise self.error(node, "!it returns nothing", "return a number")
        if self.component is not None:
            i, n = self.component
            if isinstance(value, ast.Tuple) and len(value.elts) != n:
                raise self.error(
                    node, f"!it returns {len(value.elts)} numbers here and {n} elsewhere", "return as many each time"
                )
            if isinstance(value, ast.Tuple):
                value = value.elts[i]
        if isinstance(value, (ast.Tuple, ast.List)):
            raise self.error(value, "second result", "make a kernel for each result")
        expression, kind = self.value(value)
        joined = kind if self.result is None else _join(self.result, kind)
        self.changed |= joined != self.result
        self.result = joined
        return _converted(expression, kind, joined)

    def assignment(self, node: ast.Assign) -> list[ast.stmt]:
        if len(node.targets) > 1:
            raise self.error(node, "assignment to several names at once", "assign them one by one")
        (target,) = node.targets
        if not isinstance(target, (ast.Tuple, ast.List)):
            return self.bind(target, *self.value(node.value))
        if not isinstance(node.value, (ast.Tuple, ast.List)) or len(node.value.elts) != len(target.elts):
            raise self.error(node, "unpacking of values", "a, b = x, y with as many on both sides")
        out: list[ast.stmt] = []
        pairs = []
        for element in node.value.elts:
            expression, kind = self.value(element)
            self.count += 1
            out.append(_assign(f"t_{self.count}", expression))
            pairs.append((f"t_{self.count}", kind))
        for element, (name, kind) in zip(target.elts, pairs):
            out += self.bind(element, _name(name), kind)
        return out

    def bind(self, target: ast.expr, expression: ast.expr, kind: str) -> list[ast.stmt]:
        if not isinstance(target, ast.Name):
            raise self.error(target, f"assignment to `{ast.unparse(target)}`", "assign to names")
        known = self.variables.get(target.id)
        joined = kind if known is None else _join(known, kind)
        self.changed |= joined != known
        self.variables[target.id] = joined
        self.defined.add(target.id)
        return [_assign(f"v_{target.id}", _converted(expression, kind, joined))]

    def branch(self, node: ast.If) -> tuple[list[ast.stmt], bool]:
        test = self.test(node.test)
        if isinstance(test, ast.Constant):
            return self.block(node.body if test.value else node.orelse)
        before = set(self.defined)
        body, ended = self.block(node.body)
        after, self.defined = self.defined, before
        other, other_ended = self.block(node.orelse)
        if ended or other_ended:
            self.defined = set(self.defined) if not other_ended else after
        else:
            self.defined = self.defined & after
        return [ast.If(test, body, other if node.orelse else [])], ended and other_ended

    def loop(self, node: ast.For) -> list[ast.stmt]:
        call = node.iter
        if (
            not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "range"
            or call.keywords or not isinstance(node.target, ast.Name) or node.orelse
        ):  # fmt: skip
            raise self.error(
                node, f"loop over `{ast.unparse(call)}`", "for i in range(…), with constant bounds, or while"
            )
        bounds = [self.value(a) for a in call.args]
        if not all(isinstance(b, ast.Constant) and kind == "i" for b, kind in bounds):
            raise self.error(call, "loop whose bounds depend on arguments", "constant bounds, or while")
        numbers = range(*(b.value for b, _ in bounds))  # type: ignore[attr-defined]
        before = set(self.defined)
        assignment = self.bind(node.target, ast.Constant(0), "i")
        del assignment
        self.loops += 1
        body, _ = self.block(node.body)
        self.loops -= 1
        if not numbers or _has(node.body, (ast.Break, ast.Continue)):
            self.defined = before
        kind = self.variables[node.target.id]
        target = f"v_{node.target.id}"
        if kind != "i":
            self.count += 1
            body = [_assign(target, _converted(_name(f"t_{self.count}"), "i", kind)), *body]
            target = f"t_{self.count}"
        arguments: list[ast.expr] = [ast.Constant(n) for n in (numbers.start, numbers.stop, numbers.step)]
        return [ast.For(ast.Name(target, ast.Store()), ast.Call(_name("range"), arguments, []), body, [])]

    def repeat(self, node: ast.While) -> list[ast.stmt]:
        if node.orelse:
            raise self.error(node, "else of a loop", "a flag")
        test = self.test(node.test)
        before = set(self.defined)
        self.loops += 1
        body, _ = self.block(node.body)
        self.loops -= 1
        self.defined = before
        return [ast.While(test, body, [])]

    # -- expressions --------------------------------------------------------------------------------------
    def test(self, node: ast.expr) -> ast.expr:
        return _truth(*self.value(node))

    def value(self, node: ast.expr) -> tuple[ast.expr, str]:
        """An expression and its kind."""
        method = getattr(self, f"on_{type(node).__name__}", None)
        if method is None:
            raise self.error(
                node, f"expression `{ast.unparse(node)}`", "arithmetic, comparisons, x if y else z and calls"
            )
        return method(node)

    def constant(self, value: Any, node) -> tuple[ast.expr, str]:
        if isinstance(value, (bool, np.bool_)):
            return ast.Constant(bool(value)), "b"
        if isinstance(value, (int, np.integer)):
            if not -(2**63) <= value < 2**63:
                raise self.error(node, "whole number of more than 64 bits", f"{float(value)!r}")
            return ast.Constant(int(value)), "i"
        if isinstance(value, (float, np.floating)):
            return ast.Constant(float(value)), "f"
        raise self.error(node, f"value of type {type(value).__name__}", "numbers")

    def on_Constant(self, node):
        return self.constant(node.value, node)

    def on_Name(self, node):
        if node.id in self.variables or node.id in self.assigned:
            if node.id not in self.defined:
                raise self.error(
                    node, f"!{node.id!r} may be used before it has a value", "assign it ahead of the branch or loop"
                )
            return _name(f"v_{node.id}"), self.variables[node.id]
        return self.outside(node, (node.id,))

    def on_Attribute(self, node):
        path, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            path.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.variables or root.id in self.assigned:
            raise self.error(node, f"attribute `{ast.unparse(node)}`", "numbers have none")
        return self.outside(node, (root.id, *path))

    def find(self, node, path: tuple[str, ...]) -> Any:
        value = self.reader.lookup(path[0], node)
        for name in path[1:]:
            if not hasattr(value, name):
                raise self.reader.undefined(".".join(path), node)
            value = getattr(value, name)
        return value

    def outside(self, node, path: tuple[str, ...]) -> tuple[ast.expr, str]:
        """A number from outside, as a constant."""
        value, name = self.find(node, path), ".".join(path)
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            kind = type(value).__name__
            if hasattr(value, "shape") or isinstance(value, (list, tuple)):
                raise ArgumentTypeError(
                    f"{self.reader.name}: {name!r}, which it reads from outside, is no number",
                    expected="a number, which becomes a constant of the kernel",
                    received=f"a {kind}" + (f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""),
                    where=self.reader.place(node),
                    fix=f"make {name} an argument: tensors are passed, element by element",
                )
            raise ArgumentTypeError(
                f"{self.reader.name}: {name!r}, which it reads from outside, is no number",
                expected="a number", received=kind, where=self.reader.place(node), fix="numbers and functions of numbers",
            )  # fmt: skip
        self.module.outside.append((self.reader.lookup, path, value))
        return self.constant(value, node)

    def on_UnaryOp(self, node):
        operand, kind = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            truth = _truth(operand, kind)
            return (
                ast.Constant(not truth.value) if isinstance(truth, ast.Constant) else ast.UnaryOp(ast.Not(), truth)
            ), "b"
        if isinstance(node.op, ast.Invert) and kind != "i":
            raise self.wrong_kind(node, "~", "not, for booleans")
        operand, kind = (_converted(operand, "b", "i"), "i") if kind == "b" else (operand, kind)
        if isinstance(operand, ast.Constant):
            return self.folded(node, ast.UnaryOp(node.op, operand), kind)
        return ast.UnaryOp(node.op, operand), kind

    def wrong_kind(self, node, what: str, fix: str) -> WrongKind:
        return WrongKind(f"{self.reader.name}: real numbers have no `{what}`", where=self.reader.place(node), fix=fix)

    def folded(self, node, expression: ast.expr, kind: str) -> tuple[ast.expr, str]:
        """An expression of constants, computed as Python does."""
        try:
            code = compile(ast.fix_missing_locations(ast.Expression(expression)), "<constant>", "eval")
            value = eval(code, {"__builtins__": {}})
        except (ArithmeticError, ValueError):
            return expression, kind
        return self.constant(value, node)

    def on_BinOp(self, node):
        (a, ka), (b, kb) = self.value(node.left), self.value(node.right)
        kind = _join(ka, kb)
        op = type(node.op)
        if op not in _OPERATORS:
            raise self.error(node, f"operator in `{ast.unparse(node)}`", "arithmetic of numbers")
        if op in _BITS and kind == "f":
            raise self.wrong_kind(node, _OPERATORS[op], "int(x) makes whole numbers; and, or, not combine conditions")
        if op is ast.Pow:
            return self.power(node, a, ka, b, kb)
        if kind == "b" and op not in _BITS[:3]:
            kind = "i"
        if op is ast.Div:
            kind = "f"
        a, b = _converted(a, ka, kind), _converted(b, kb, kind)
        if isinstance(a, ast.Constant) and isinstance(b, ast.Constant) and not (op is ast.LShift and b.value > 64):
            return self.folded(node, ast.BinOp(a, node.op, b), kind)
        if op in (ast.FloorDiv, ast.Mod):
            name = "floor_divide" if op is ast.FloorDiv else "modulo"
            return self.called(f"real_{name}" if kind == "f" else name, [a, b]), kind
        return ast.BinOp(a, node.op, b), kind

    def power(self, node, a, ka: str, b, kb: str) -> tuple[ast.expr, str]:
        base, exponent = _constant(a), _constant(b)
        if base is not None and exponent is not None and abs(exponent) < 1024 and abs(base) < 1e9:
            return self.folded(node, ast.BinOp(a, node.op, b), _join(ka, kb))
        if ka == "b":
            a, ka = _converted(a, "b", "i"), "i"
        factors = exponent is not None and abs(exponent) <= _MOST_FACTORS and exponent == int(exponent)
        if factors and (ka == "f" or exponent > 0):
            kind = "f" if kb == "f" else ka
            a, n = _converted(a, ka, kind), abs(int(exponent))
            if n == 0:
                return ast.Constant(1.0), "f"
            product = a if n == 1 else ast.Call(_name(self.module.power(n)), [a], [])
            return (ast.BinOp(ast.Constant(1.0), ast.Div(), product), "f") if exponent < 0 else (product, kind)
        a = _converted(a, ka, "f")
        if exponent == 0.5:
            return self.called("sqrt", [a]), "f"
        return self.called("power", [a, _converted(b, kb, "f")]), "f"

    def on_BoolOp(self, node):
        values = []
        for part in node.values:
            expression, kind = self.value(part)
            if kind != "b":
                raise self.error(part, "!`and` and `or` combine conditions here", f"({ast.unparse(part)}) != 0")
            values.append(expression)
        return ast.BoolOp(node.op, values), "b"

    def on_Compare(self, node):
        parts = []
        left, kl = self.value(node.left)
        for op, right_node in zip(node.ops, node.comparators):
            if not isinstance(op, (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
                raise self.error(node, f"comparison `{ast.unparse(node)}`", "==, !=, <, <=, >, >=")
            right, kr = self.value(right_node)
            kind = _join(_join(kl, kr), "i")
            a, b = _converted(left, kl, kind), _converted(right, kr, kind)
            pair: ast.expr = ast.Compare(a, [op], [b])
            if isinstance(a, ast.Constant) and isinstance(b, ast.Constant):
                pair, _ = self.folded(node, pair, "b")
            parts.append(pair)
            left, kl = right, kr
        return (parts[0] if len(parts) == 1 else ast.BoolOp(ast.And(), parts)), "b"

    def on_IfExp(self, node):
        test = self.test(node.test)
        if isinstance(test, ast.Constant):
            return self.value(node.body if test.value else node.orelse)
        (a, ka), (b, kb) = self.value(node.body), self.value(node.orelse)
        kind = _join(ka, kb)
        return ast.IfExp(test, _converted(a, ka, kind), _converted(b, kb, kind)), kind

    def on_NamedExpr(self, node):
        raise self.error(node, "assignment inside an expression", "assign on a line of its own")

    # -- calls --------------------------------------------------------------------------------------------
    def called(self, name: str, arguments: list) -> ast.expr:
        if name in scalar.HOST:
            self.module.host.update(scalar.HOST[name])
        return ast.Call(_name(name), arguments, [])

    def on_Call(self, node):
        path, root = [], node.func
        while isinstance(root, ast.Attribute):
            path.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id in self.assigned or root.id in self.reader.parameters:
            raise self.error(node, f"call `{ast.unparse(node)}`", "functions of math, and functions of numbers")
        path.insert(0, root.id)
        function = self.find(node, tuple(path))
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            raise self.error(node, "call with * or **", "name the arguments")
        inner = getattr(function, "_kernel_function", function)
        if isinstance(inner, types.FunctionType) and not (inner.__module__ or "").startswith("deepcore."):
            return self.user_call(node, inner, tuple(path), function)
        name = getattr(function, "__name__", type(function).__name__)
        module = getattr(function, "__module__", None) or ""
        if node.keywords:
            raise self.error(node, f"keyword arguments of {name}", "give them by position")
        arguments = [self.value(a) for a in node.args]
        if function in (min, max, abs, float, int, bool, round, pow):
            return self.builtin(node, name, arguments)
        if isinstance(function, type) and issubclass(function, np.generic) and len(arguments) == 1:
            kind = {"f": "f", "i": "i", "u": "i", "b": "b"}.get(np.dtype(function).kind)
            if kind is not None:
                return self.builtin(node, {"f": "float", "i": "int", "b": "bool"}[kind], arguments)
        known = module in _MODULES or module.startswith("deepcore.") or isinstance(function, np.ufunc)
        if known and name in _PREDICATES and len(arguments) == 1:
            expression, kind = arguments[0]
            return self.called(name, [_converted(expression, kind, "f")]), "b"
        if not known or name not in _FUNCTIONS:
            text = ".".join(path)
            raise self.error(node, f"function `{text}`", suggest(name, [*_FUNCTIONS, *_PREDICATES]))
        if name == "log" and len(arguments) == 2:
            (x, kx), (base, kb) = arguments
            parts = [self.called("log", [_converted(*pair, "f")]) for pair in ((x, kx), (base, kb))]
            return ast.BinOp(parts[0], ast.Div(), parts[1]), "f"
        count, target = _FUNCTIONS[name]
        if len(arguments) != count:
            raise self.error(
                node, f"!{name} takes {count} argument{'s' * (count > 1)}", f"{name}({', '.join('xyz'[:count])})"
            )
        if all(isinstance(x, ast.Constant) for x, _ in arguments) and hasattr(math, name):
            try:
                return self.constant(float(getattr(math, name)(*(x.value for x, _ in arguments))), node)
            except (ArithmeticError, ValueError):
                pass
        kind = "f" if target not in _KEEPING else functools.reduce(_join, (k for _, k in arguments), "i")
        if target == "power":
            (x, kx), (y, ky) = arguments
            return self.power(node, _converted(x, kx, "f"), "f", y, ky)
        return self.called(target, [_converted(x, k, kind) for x, k in arguments]), kind

    def builtin(self, node, name: str, arguments: list) -> tuple[ast.expr, str]:
        count = len(arguments)
        if name in ("min", "max") and count >= 2:
            kind = functools.reduce(_join, (k for _, k in arguments), "i")
            values = [_converted(x, k, kind) for x, k in arguments]
            target = "largest" if name == "max" else "smallest"
            return functools.reduce(lambda a, b: self.called(target, [a, b]), values), kind
        if name == "pow" and count == 2:
            return self.power(node, *arguments[0], *arguments[1])
        if count != 1 or name in ("min", "max", "pow"):
            raise self.error(node, f"`{ast.unparse(node)}`", "min(x, y), max(x, y), abs(x), float(x), int(x), round(x)")
        expression, kind = arguments[0]
        if name == "abs":
            kind, expression = _join(kind, "i"), _converted(expression, kind, _join(kind, "i"))
            return self.called("abs", [expression]), kind
        if name == "bool":
            return _truth(expression, kind), "b"
        if name == "float":
            return _converted(expression, kind, "f"), "f"
        if name == "round":
            return (self.called("rint", [expression]), "f") if kind == "f" else (_converted(expression, kind, "i"), "i")
        if kind != "f":
            return _converted(expression, kind, "i"), "i"
        number = _constant(expression)
        if number is not None and math.isfinite(number):
            return self.constant(int(number), node)
        return self.called("whole", [self.called("trunc", [expression])]), "i"

    def user_call(self, node, function, path: tuple[str, ...], original) -> tuple[ast.expr, str]:
        reader = Reader(function)
        self.module.outside.append((self.reader.lookup, path, original))
        given: dict[str, tuple[ast.expr, str]] = {}
        if len(node.args) > len(reader.parameters):
            raise self.error(
                node, f"!{reader.name} takes {len(reader.parameters)} arguments", f"({', '.join(reader.parameters)})"
            )
        for name, argument in zip(reader.parameters, node.args):
            given[name] = self.value(argument)
        for keyword in node.keywords:
            if keyword.arg not in reader.parameters or keyword.arg in given:
                raise self.error(
                    node, f"!{reader.name} takes no further {keyword.arg!r}", f"({', '.join(reader.parameters)})"
                )
            given[keyword.arg] = self.value(keyword.value)
        for name in reader.parameters:
            if name not in given:
                if name not in reader.defaults:
                    raise self.error(node, f"!{reader.name} needs {name!r}", f"({', '.join(reader.parameters)})")
                given[name] = self.constant(reader.defaults[name], node)
        pairs = [given[name] for name in reader.parameters]
        name, result = self.module.add(reader, "".join(kind for _, kind in pairs))
        return ast.Call(_name(name), [expression for expression, _ in pairs], []), result


def _constant(expression: ast.expr) -> Any:
    """The number of a constant, or None."""
    return expression.value if isinstance(expression, ast.Constant) else None


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _assign(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _has(statements, kinds) -> bool:
    return any(isinstance(node, kinds) for statement in statements for node in ast.walk(statement))


def _converted(expression: ast.expr, kind: str, to: str) -> ast.expr:
    """An expression as a number of another kind."""
    if kind == to:
        return expression
    if isinstance(expression, ast.Constant):
        return ast.Constant(float(expression.value) if to == "f" else int(expression.value))  # type: ignore[arg-type]
    if kind == "b":
        return ast.IfExp(expression, *(ast.Constant(1.0 if to == "f" else 1), ast.Constant(0.0 if to == "f" else 0)))
    return ast.Call(_name("real"), [expression], [])


def _truth(expression: ast.expr, kind: str) -> ast.expr:
    if kind == "b":
        return expression
    if isinstance(expression, ast.Constant):
        return ast.Constant(bool(expression.value))
    return ast.Compare(expression, [ast.NotEq()], [ast.Constant(0.0 if kind == "f" else 0)])


def returns(reader: Reader) -> int | None:
    """How many numbers a function returns as a tuple; None for one."""
    node = reader.node
    if isinstance(node, ast.Lambda):
        return len(node.body.elts) if isinstance(node.body, ast.Tuple) else None
    counts = [len(n.value.elts) for n in ast.walk(node) if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)]
    return counts[0] if counts else None


# -- as a scalar function ------------------------------------------------------------------------------------------------


def formula(translation: Translation) -> types.FunctionType:
    """The translated function, for `lift`."""
    tree = ast.parse(translation.source)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    scope: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "__name__": f"{__package__}.formulas"}
    scope |= {name: scalar.scalar(name) for name in (names & called) - functions - {"range", "abs"}}
    exec(compile(tree, f"<{translation.name}>", "exec"), scope)
    function = scope["formula"]
    function.__name__ = function.__qualname__ = translation.name
    return function


# -- over arrays ---------------------------------------------------------------------------------------------------------


def evaluate(xp, translation: Translation, values: Sequence, dtype) -> Any:
    """The function of arrays and numbers; real numbers are computed in `dtype`."""
    arrays = _Arrays(xp, _trees(translation.source), dtype)
    return arrays.array(arrays.call("formula", list(values)))


@functools.lru_cache(256)
def _trees(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


class _Frame:
    def __init__(self, variables: dict[str, Any]):
        self.variables = variables
        self.result: Any = None
        #: Of the loops that run, the innermost last: masks of the elements that have left it, or its present pass.
        self.broken: list[Any] = []
        self.continued: list[Any] = []


#: The mask of no element at all, beside None for all of them.
_NONE = object()


class _Arrays:
    """Runs translated functions over arrays. A mask says which elements a statement is for."""

    def __init__(self, xp, functions: dict[str, ast.FunctionDef], dtype):
        self.xp, self.functions, self.dtype = xp, functions, dtype

    def call(self, name: str, values: list) -> Any:
        node = self.functions[name]
        frame = _Frame(dict(zip((a.arg for a in node.args.args), values)))
        self.block(frame, node.body, None)
        return frame.result

    # -- masks ----------------------------------------------------------------------------------------------
    def both(self, mask, condition) -> Any:
        if isinstance(condition, bool):
            return mask if condition else _NONE
        return condition if mask is None else mask & condition

    def either(self, a, b) -> Any:
        if a is _NONE or b is None:
            return b
        if b is _NONE or a is None:
            return a
        return a | b

    def where(self, condition, a, b) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        a, b = self.array(a), self.array(b)
        out = self.xp.where(condition, a, b)
        return out.astype(self.dtype) if out.dtype.kind == "f" and out.dtype != self.dtype else out

    def array(self, value) -> Any:
        if hasattr(value, "dtype"):  # NumPy makes scalars of 0-d arrays
            return self.xp.asarray(value)
        for kind, dtype in ((bool, np.dtype(np.bool_)), (int, np.dtype(np.int64)), (float, self.dtype)):
            if isinstance(value, kind):
                if kind is float and math.isfinite(value) and not fits(value, dtype):
                    value = math.copysign(math.inf, value)
                return self.xp.constant(value, dtype)
        return value

    # -- statements -----------------------------------------------------------------------------------------
    def block(self, frame: _Frame, statements, mask) -> Any:
        """Run statements; the mask of the elements that reach their end."""
        for statement in statements:
            if mask is _NONE:
                break
            mask = self.statement(frame, statement, mask)
        return mask

    def assign(self, frame: _Frame, name: str, value, mask) -> None:
        old = frame.variables.get(name)
        frame.variables[name] = value if mask is None or old is None else self.where(mask, value, old)

    def statement(self, frame: _Frame, node, mask) -> Any:
        if isinstance(node, ast.Assign):
            self.assign(frame, node.targets[0].id, self.value(frame, node.value), mask)  # type: ignore[attr-defined]
            return mask
        if isinstance(node, ast.Return):
            value = self.value(frame, node.value)
            frame.result = value if frame.result is None or mask is None else self.where(mask, value, frame.result)
            return _NONE
        if isinstance(node, ast.If):
            test = self.value(frame, node.test)
            other = not test if isinstance(test, bool) else ~test
            after = self.block(frame, node.body, self.both(mask, test))
            return self.either(after, self.block(frame, node.orelse, self.both(mask, other)))
        if isinstance(node, ast.For):
            return self.loop(frame, node, mask, range(*(a.value for a in node.iter.args)))  # type: ignore[attr-defined]
        if isinstance(node, ast.While):
            return self.loop(frame, node, mask, None)
        if isinstance(node, (ast.Break, ast.Continue)):
            masks = frame.broken if isinstance(node, ast.Break) else frame.continued
            masks[-1] = self.either(masks[-1], mask)
            return _NONE
        return mask  # pass

    def loop(self, frame: _Frame, node, mask, numbers: range | None) -> Any:
        frame.broken.append(_NONE)
        frame.continued.append(_NONE)
        left: Any = _NONE
        steps = iter(numbers) if numbers is not None else None
        while mask is not _NONE:
            if steps is None:
                test = self.value(frame, node.test)
                other = not test if isinstance(test, bool) else ~test
                left = self.either(left, self.both(mask, other))
                mask = self.both(mask, test)
                if mask is _NONE or (mask is not None and not bool(mask.any())):
                    break
            else:
                number = next(steps, None)
                if number is None:
                    left = self.either(left, mask)
                    break
                self.assign(frame, node.target.id, number, mask)
            frame.continued[-1] = _NONE
            mask = self.either(self.block(frame, node.body, mask), frame.continued[-1])
        frame.continued.pop()
        return self.either(left, frame.broken.pop())

    # -- expressions ----------------------------------------------------------------------------------------
    def value(self, frame: _Frame, node) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return (
                {"nan": math.nan, "inf": math.inf}.get(node.id)
                if node.id in ("nan", "inf")
                else frame.variables[node.id]
            )
        if isinstance(node, ast.BinOp):
            a, b = self.value(frame, node.left), self.value(frame, node.right)
            if isinstance(node.op, ast.Div) and not hasattr(a, "dtype"):
                a = self.array(float(a))  # Python's own division raises for zero
            return _BINARY[type(node.op)](a, b)
        if isinstance(node, ast.UnaryOp):
            x = self.value(frame, node.operand)
            if isinstance(node.op, ast.Not):
                return not x if isinstance(x, bool) else ~x
            return -x if isinstance(node.op, ast.USub) else ~x if isinstance(node.op, ast.Invert) else x
        if isinstance(node, ast.BoolOp):
            parts = [self.value(frame, part) for part in node.values]
            combine = (lambda a, b: a & b) if isinstance(node.op, ast.And) else (lambda a, b: a | b)
            return functools.reduce(combine, parts)
        if isinstance(node, ast.Compare):
            (op,), (right,) = node.ops, node.comparators
            return _COMPARE[type(op)](self.value(frame, node.left), self.value(frame, right))
        if isinstance(node, ast.IfExp):
            return self.where(
                self.value(frame, node.test), self.value(frame, node.body), self.value(frame, node.orelse)
            )
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name), ast.dump(node)
        name, values = node.func.id, [self.value(frame, a) for a in node.args]
        if name in self.functions:
            return self.call(name, values)
        if name == "abs":
            return abs(values[0])
        if name == "real":
            return values[0].astype(self.dtype) if hasattr(values[0], "astype") else float(values[0])
        result = scalar.ARRAYS[name](self.xp, *map(self.array, values))
        return result.astype(self.dtype) if result.dtype.kind == "f" and result.dtype != self.dtype else result


_BINARY: dict[type, Callable] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b,
    ast.BitAnd: lambda a, b: a & b, ast.BitOr: lambda a, b: a | b, ast.BitXor: lambda a, b: a ^ b,
    ast.LShift: lambda a, b: a << b, ast.RShift: lambda a, b: a >> b,
}  # fmt: skip
_COMPARE: dict[type, Callable] = {
    ast.Eq: lambda a, b: a == b, ast.NotEq: lambda a, b: a != b, ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
}  # fmt: skip
