"""The module that `dc.compile` returns for a module."""

from __future__ import annotations

from typing import Any

from deepcore.nn.modules.module import Module

#: The compiled class of each module class.
_classes: dict[type, type] = {}


def compiled_module(module: Module, compiled: Any) -> Module:
    """A module whose call runs `compiled`; it shares the attributes of `module`: parameters, modes, hooks, state.

    Both have the same `__dict__`, so a change to one is a change to the other.
    """
    kind = type(module)
    cls = _classes.get(kind)
    if cls is None:
        cls = _classes[kind] = type(kind.__name__, (_Compiled, kind), {"__slots__": ("_compiled",)})
    view: Module = object.__new__(cls)
    object.__setattr__(view, "__dict__", module.__dict__)
    object.__setattr__(view, "_compiled", compiled)
    return view


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
        return _recompile, (self._compiled.function, self._compiled.options)

    def explain(self, file=None) -> None:
        """Print the programs: see `dc.compile`."""
        self._compiled.explain(file)

    traces = property(lambda self: self._compiled.traces, doc="How often the module was traced.")
    runs = property(lambda self: self._compiled.runs, doc="How often a program ran.")
    faults = property(lambda self: self._compiled.faults, doc="Why calls run eagerly.")
    peak_memory = property(lambda self: self._compiled.peak_memory, doc="Bytes of the memory that the programs share.")
    function = property(lambda self: self._compiled.function, doc="The module that was compiled.")


def _recompile(module: Module, options: dict) -> Module:
    from deepcore.compiler import compile

    return compile(module, **options)
