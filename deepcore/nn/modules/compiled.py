"""What `dc.compile` makes of a module."""

from __future__ import annotations

from typing import Any

from deepcore.nn.modules.module import Module

#: By class of module.
_classes: dict[type, type] = {}


def compiled_module(module: Module, compiled: Any) -> Module:
    """A module that is called through `compiled` and shares all else with `module`: parameters, modes, hooks, states.

    The two have one table of attributes, so whatever is changed in one is changed in the other.
    """
    kind = type(module)
    made = _classes.get(kind)
    if made is None:
        made = _classes[kind] = type(kind.__name__, (_Compiled, kind), {"__slots__": ("_compiled",)})
    new: Module = object.__new__(made)
    object.__setattr__(new, "__dict__", module.__dict__)
    object.__setattr__(new, "_compiled", compiled)
    return new


class _Compiled:
    """Methods of a compiled module."""

    __slots__ = ()
    _compiled: Any

    def __call__(self, *args, **kwargs):
        return self._compiled(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._compiled.function)

    def __deepcopy__(self, memo):
        import copy

        from deepcore.compiler import compile

        return compile(copy.deepcopy(self._compiled.function, memo), **self._compiled.options)

    def __reduce__(self):
        return _again, (self._compiled.function, self._compiled.options)

    def explain(self, file=None) -> None:
        """Print the programs: see `dc.compile`."""
        self._compiled.explain(file)

    traces = property(lambda self: self._compiled.traces, doc="How often the module was recorded.")
    runs = property(lambda self: self._compiled.runs, doc="How often a program ran.")
    faults = property(lambda self: self._compiled.faults, doc="Why calls run eagerly.")
    peak_memory = property(lambda self: self._compiled.peak_memory, doc="Bytes that the programs take turns in.")
    function = property(lambda self: self._compiled.function, doc="The module that was compiled.")


def _again(module: Module, options: dict) -> Module:
    from deepcore.compiler import compile

    return compile(module, **options)
