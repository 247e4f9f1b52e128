"""`Module`: parameters, buffers and submodules under names, and a `forward`."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from deepcore import missing
from deepcore.autograd import graph, is_grad_enabled, mode, wrong_argument
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend, place, takes_device
from deepcore.effects import effect, untraceable
from deepcore.errors import ArgumentError, DeepcoreError, DTypeError, StateDictError, printable, suggest
from deepcore.nn.hooks import GradientTap, RemovableHandle
from deepcore.nn.parameter import Buffer, Parameter, UninitializedTensor
from deepcore.ops.convert import target_of
from deepcore.tensor import _MEMORY_FORMAT, Tensor, as_tensor, changes, empty_like, one_of

_FLOATING = (dt.float32, dt.float64, dt.float16, dt.bfloat16)
_TABLES = ("_parameters", "_buffers", "_modules")
_EXTRA = "_extra_state"  # the name of what `get_extra_state` gives
_SHOWN = 20  # names of one kind that a message lists


#: The class of symbolic tensors, once there is one: `nn.model`.
symbol_class: Any = None


def _holds_symbol(arguments) -> bool:
    for value in arguments:
        kind = value.__class__
        if kind is symbol_class:
            return True
        if (kind is list or kind is tuple) and _holds_symbol(value):
            return True
        if kind is dict and _holds_symbol(value.values()):
            return True
    return False


class ModuleAttributeError(DeepcoreError, AttributeError):
    """A module has no attribute of this name."""

    def __init__(self, problem: str, *, choices=(), looked_for: str = "", **lines):
        super().__init__(problem, **lines)
        self._choices, self._looked_for = choices, looked_for

    def __str__(self) -> str:
        if self.fix is None and self._looked_for:  # not in __init__: hasattr() creates thousands of these errors
            absent = missing.absent("torch.nn.Module", self._looked_for) if isinstance(self._choices, _Names) else ""
            if absent:
                self.problem, self._looked_for = f"{self.problem}: {absent}", ""
            else:
                known = f"torch.nn.Module.{self._looked_for}" if isinstance(self._choices, _Names) else ""
                self.fix = missing.KERAS.get(known) or suggest(self._looked_for, self._choices)
        return super().__str__()

    def __reduce__(self):
        return type(self), (str(self.problem),)


class IncompatibleKeys(NamedTuple):
    """The result of `load_state_dict`: names missing from the state dict, and names the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class _Load:
    """`model.load(path)` fills a model; `Model.load(path)` builds one from the file."""

    def __get__(self, module, owner):
        from deepcore.nn import files

        def load(path, backend=None, device=None):
            if module is None:
                return files.load_new(owner, path, place(backend, device))
            return files.load_into(module, path)

        load.__doc__ = (
            "Read a file written by `save`. On a model: copy its tensors in, all or none, and return the model. "
            "On a class: build the layers the file describes (registered ones only), then fill them."
        )
        return load


class Module:
    """Base of all layers and models, as torch.nn.Module.

    Assign `Parameter`s and other modules as attributes in `__init__` (after `super().__init__()`), define
    `forward`, and call the module itself. Tensors that are state but not trained go to `register_buffer`.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(2, 1)
    ...     def forward(self, x):
    ...         return self.fc(x).sigmoid()
    """

    training: bool
    # Every registered value is also a plain attribute of the instance, so `self.weight` needs no lookup in these tables.
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _hooks: dict[str, dict]
    _state_hooks: dict[str, dict]

    load = _Load()

    def __init_subclass__(cls, **keywords):
        """Let a constructor with an argument `backend` also accept `device`, PyTorch's name for it.

        A constructor that is inherited from a private class, such as `_Conv`, becomes the class's own, under its name.
        """
        super().__init_subclass__(**keywords)
        if "__init__" not in vars(cls) and not cls.__name__.startswith("_"):
            _name_constructor(cls)
        if "__init__" in vars(cls):
            cls.__init__ = takes_device(cls.__init__)  # type: ignore[method-assign]

    def __init__(self):
        attributes = self.__dict__
        attributes["training"] = True
        attributes["_parameters"] = {}
        attributes["_buffers"] = {}
        attributes["_modules"] = {}
        attributes["_non_persistent"] = set()
        attributes["_hooks"] = {}
        attributes["_state_hooks"] = {}

    def forward(self, *args, **kwargs):
        """The computation of the module; call `module(...)`, which also runs the hooks."""
        raise ArgumentError(
            f"{type(self).__name__} has no forward()", fix="define forward(self, …), or call its parts yourself"
        )

    def __call__(self, *args, **kwargs):
        if symbol_class is not None and _holds_symbol((*args, *kwargs.values())):
            from deepcore.nn.model import call_layer

            return call_layer(self, args, kwargs)
        if graph.watchers and mode.hook is not None:
            mode.layers.append(self)
            try:
                return self._run_forward(args, kwargs)
            finally:
                mode.layers.pop()
        return self._run_forward(args, kwargs)

    def _compiled_as(self, compiled) -> Module:
        """This module, called through `compiled`; see `dc.compile`."""
        from deepcore.nn.modules.compiled import compiled_module

        return compiled_module(self, compiled)

    def _run_forward(self, args: tuple, kwargs: dict):
        try:
            if not self._hooks:
                return self.forward(*args, **kwargs)
            return self._call_with_hooks(args, kwargs)
        except DeepcoreError as error:
            error.passed_through(self)
            raise
        except AttributeError as error:
            is_library_forward = type(self).forward.__module__.startswith(
                "deepcore."
            )  # a user's forward may take any arguments
            wrong = wrong_argument(type(self).__name__, args, error) if is_library_forward else None
            if wrong is None:
                raise
            wrong.passed_through(self)
            raise wrong from None

    def _call_with_hooks(self, args: tuple, kwargs: dict):
        untraceable("a module with hooks")
        for hook, with_kwargs in tuple(self._hooks.get("forward_pre", {}).values()):
            if with_kwargs:
                replaced = hook(self, args, kwargs)
                if replaced is not None:
                    args, kwargs = replaced
            else:
                replaced = hook(self, args)
                if replaced is not None:
                    args = replaced if isinstance(replaced, tuple) else (replaced,)
        tap = None
        backward, before = self._hooks.get("backward", {}), self._hooks.get("backward_pre", {})
        if (backward or before) and is_grad_enabled():
            tap = GradientTap(self, backward, before)
            args = tap.inputs(args)
        result = self.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self._hooks.get("forward", {}).values()):
            replaced = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            if replaced is not None:
                result = replaced
        return result if tap is None else tap.outputs(result)

    # -- attributes -----------------------------------------------------------------------------------
    def __setattr__(self, name: str, value) -> None:
        attributes = self.__dict__
        changes.count += 1
        if isinstance(value, Parameter):
            self._unregister(name, "_parameters")
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._unregister(name, "_modules")
            self.add_module(name, value)
        elif isinstance(value, Buffer):
            self._unregister(name, "_buffers")
            self.register_buffer(name, value, value.persistent)
        elif "_parameters" not in attributes:
            object.__setattr__(self, name, value)
        elif name in attributes["_parameters"]:
            if value is not None:
                raise ArgumentError(
                    f"{type(self).__name__}.{name} is a parameter",
                    expected="a Parameter, or None",
                    received=type(value).__name__,
                    fix=f"nn.Parameter(value); to keep the Parameter and change its values, {name}.copy_(value) "
                    "under no_grad()",
                )
            attributes["_parameters"][name] = attributes[name] = None
        elif name in attributes["_modules"]:
            if value is not None:
                raise ArgumentError(
                    f"{type(self).__name__}.{name} is a submodule",
                    expected="a Module, or None",
                    received=type(value).__name__,
                )
            attributes["_modules"][name] = attributes[name] = None
        elif name in attributes["_buffers"]:
            if value is not None and not isinstance(value, Tensor):
                raise ArgumentError(
                    f"{type(self).__name__}.{name} is a buffer",
                    expected="a Tensor, or None",
                    received=type(value).__name__,
                )
            attributes["_buffers"][name] = attributes[name] = value
        else:
            object.__setattr__(self, name, value)

    def _unregister(self, name: str, keep: str) -> None:
        """Remove `name` from every table but `keep`, before it is registered there."""
        attributes = self.__dict__
        if keep not in attributes:
            raise ModuleAttributeError(
                f"{type(self).__name__}: {name!r} was assigned before Module.__init__ ran",
                fix="call super().__init__() first in __init__",
            )
        attributes.pop(name, None)
        for table in _TABLES:
            if table != keep:
                attributes[table].pop(name, None)
        attributes["_non_persistent"].discard(name)

    def __getattr__(self, name: str):
        # Only called for names that neither the instance nor its class has.
        if isinstance(getattr(type(self), name, None), property):
            return getattr(type(self), name).fget(self)  # raises the property's own AttributeError
        if "_parameters" not in self.__dict__ and name in (*_TABLES, "_hooks", "_state_hooks", "training"):
            raise ModuleAttributeError(
                f"{type(self).__name__} was used before Module.__init__ ran",
                fix="call super().__init__() first in __init__",
            )
        if name in ("input", "output") and "_origin" in self.__dict__:  # of a layer called on symbols
            origin = self.__dict__["_origin"]
            call = None if origin.call is None else origin.call()
            if call is not None:
                return call.output if name == "output" else (call.args[0] if len(call.args) == 1 else call.args)
        raise ModuleAttributeError(
            f"{type(self).__name__} has no attribute {name!r}", choices=_Names(self), looked_for=name
        )

    def __delattr__(self, name: str) -> None:
        changes.count += 1
        for table in _TABLES:
            self.__dict__.get(table, {}).pop(name, None)
        self.__dict__.get("_non_persistent", set()).discard(name)
        object.__delattr__(self, name)

    def _check_name(self, table: str, kind: str, name: str) -> None:
        changes.count += 1
        if table not in self.__dict__:
            self._unregister(name, table)  # raises
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"a {kind}'s name is text without a dot, and not empty", received=repr(name))
        if name not in self.__dict__[table] and hasattr(self, name):
            raise ArgumentError(f"{type(self).__name__} already has an attribute {name!r}", fix="choose another name")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make `param` the parameter `name`; None declares an absent one (a layer without bias)."""
        self._check_name("_parameters", "parameter", name)
        if param is not None and not isinstance(param, Parameter):
            raise ArgumentError(
                f"{name!r} is to be a parameter of {type(self).__name__}",
                expected="a Parameter, or None",
                received=type(param).__name__,
                fix="nn.Parameter(tensor)",
            )
        self._parameters[name] = self.__dict__[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` state that moves and is saved with the module (`persistent=False`: moves only), untrained."""
        self._check_name("_buffers", "buffer", name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"{name!r} is to be a buffer of {type(self).__name__}",
                expected="a Tensor, or None",
                received=type(tensor).__name__,
                fix="dc.tensor(data)",
            )
        self._buffers[name] = self.__dict__[name] = tensor
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Make `module` the submodule `name`."""
        self._check_name("_modules", "module", name)
        if module is not None and not isinstance(module, Module):
            fix = f"{module.__name__}(…)" if isinstance(module, type) else None
            raise ArgumentError(
                f"{name!r} is to be a submodule of {type(self).__name__}",
                expected="a Module, or None",
                received=f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__,
                fix=fix,
            )
        self._modules[name] = self.__dict__[name] = module

    register_module = add_module

    # -- walking ----------------------------------------------------------------------------------------
    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module, path "", and all below it; shared ones once."""
        memo = set() if memo is None else memo
        if remove_duplicate:
            if self in memo:
                return
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it; shared ones once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct submodules; shared ones once."""
        yielded = set()
        for name, module in self._modules.items():
            if module is not None and module not in yielded:
                yielded.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct submodules; shared ones once."""
        for _, module in self.named_children():
            yield module

    def _named_members(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool):
        yielded: set[int] = set()
        owners = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in owners:
            for name, value in getattr(module, table).items():
                if value is None or (remove_duplicate and id(value) in yielded):
                    continue
                yielded.add(id(value))
                yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of this module and all below it; tied parameters once, under their first path."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter, tied ones once, as an optimizer takes them."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer) of this module and all below it."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def unregistered(self) -> list[str]:
        """Paths of plain lists, tuples and dicts that contain modules or parameters, which are therefore unregistered."""
        paths = []
        for path, module in self.named_modules():
            for name, value in module.__dict__.items():
                if name not in _TABLES and isinstance(value, (list, tuple, dict)):
                    items = value.values() if isinstance(value, dict) else value
                    if any(isinstance(item, (Module, Parameter)) for item in items):
                        paths.append(f"{path}.{name}" if path else name)
        return paths

    def get_submodule(self, target: str) -> Module:
        """The module at a path such as "encoder.layers.0"; "" is this one."""
        module = self
        for name in target.split(".") if target else ():
            submodule = module._modules.get(name)
            if submodule is None:
                raise ModuleAttributeError(
                    f"there is no submodule {target!r} in {type(self).__name__}: {type(module).__name__} has no {name!r}",
                    choices=module._modules,
                    looked_for=name,
                )
            module = submodule
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put `module` at a dotted path, whose last name may be new unless `strict`."""
        path, _, name = target.rpartition(".")
        if not isinstance(module, Module):
            raise ArgumentError("set_submodule takes a module", received=type(module).__name__)
        parent = self.get_submodule(path)
        if strict and name not in parent._modules:
            self.get_submodule(target)  # raises, and names what is near
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path such as "encoder.0.weight"."""
        return self._get_member("_parameters", "parameter", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path such as "norm.running_mean"."""
        return self._get_member("_buffers", "buffer", target)

    def _get_member(self, table: str, kind: str, target: str):
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        member = getattr(module, table).get(name)
        if member is None:
            raise ModuleAttributeError(
                f"{type(module).__name__} has no {kind} {name!r}", choices=getattr(module, table), looked_for=name
            )
        return member

    # -- modes --------------------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Module:
        """Training mode (dropout drops, batch norm uses the batch) for this module and all below it."""
        if not isinstance(mode, bool):
            raise ArgumentError("train() takes True or False", received=repr(mode))
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Train (True) or freeze (False) every parameter."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every parameter's gradient to None, or to zeros."""
        clear_gradients(list(self.parameters()), set_to_none)

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Call `fn(module)` on every module, children first, this one last."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # -- moving -------------------------------------------------------------------------------------------
    def to(
        self, *args, backend=None, dtype=None, device=None, non_blocking: bool = False, memory_format=None
    ) -> Module:
        """Move to a backend and/or a floating dtype, in place: `to("cuda")`, `to(dc.float64)`, `to("cuda", dc.half)`.

        Parameters stay the same objects (tied ones stay tied, optimizers stay valid), gradients move with them, and
        only floating tensors change dtype.
        """
        one_of(_MEMORY_FORMAT, memory_format)
        backend = place(backend, device)
        for arg in args:
            if arg is not None and not isinstance(arg, bool):
                arg_backend, arg_dtype = target_of(arg)
                backend, dtype = arg_backend or backend, arg_dtype or dtype
        xp = None if backend is None else get_backend(backend)
        kind = None if dtype is None else dt.as_dtype(dtype)
        if kind is not None and not dt.is_floating(kind):
            raise DTypeError(
                "a module is converted to a floating dtype",
                expected="float32, float64, float16 or bfloat16",
                received=dt.name_of(kind),
            )
        tensors = {id(t): t for t in (*self.parameters(), *self.buffers())}
        converted = [
            (t, _converted(t, xp, kind), None if t.grad is None else _converted(t.grad, xp, kind))
            for t in tensors.values()
        ]
        for t, value, gradient in converted:  # after all conversions: a failed one changes nothing
            if value is not t:
                t.rebind(value._data, value.backend)
            t.grad = gradient
        return self

    def cpu(self) -> Module:
        return self.to(backend="cpu")

    def cuda(self, device=None) -> Module:
        """Move to a GPU: `cuda()`, `cuda(1)`."""
        return self.to(device="cuda" if device is None else device)

    def float(self) -> Module:
        return self.to(dtype=dt.float32)

    def double(self) -> Module:
        return self.to(dtype=dt.float64)

    def half(self) -> Module:
        return self.to(dtype=dt.float16)

    def bfloat16(self) -> Module:
        return self.to(dtype=dt.bfloat16)

    def type(self, dst_type) -> Module:
        """Convert to a floating dtype, in place: `to(dst_type)`."""
        return self.to(dtype=dst_type)

    def to_empty(self, *, device=None, backend=None, recurse: bool = True) -> Module:
        """Move to a backend without the values: parameters and buffers become uninitialized memory."""
        backend = place(backend, device)
        for t in {id(t): t for t in (*self.parameters(recurse), *self.buffers(recurse))}.values():
            empty = empty_like(t.placeholder() if isinstance(t, UninitializedTensor) else t, backend=backend)
            t.rebind(empty._data, empty.backend)
        return self

    # -- state --------------------------------------------------------------------------------------------
    def state_dict(self, destination: dict | None = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """{path: tensor} of parameters and persistent buffers: detached, sharing their memory.

        With `get_extra_state` of a module under `<path>._extra_state`.
        """
        destination = {} if destination is None else destination
        for hook, _ in tuple(self._state_hooks.get("pre", {}).values()):
            hook(self, prefix, keep_vars)
        for name, t in self._entries().items():
            destination[prefix + name] = t if keep_vars else t.detach()
        if self._has_extra_state():
            destination[prefix + _EXTRA] = self.get_extra_state()
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination, f"{prefix}{name}.", keep_vars)
        for hook, _ in tuple(self._state_hooks.get("post", {}).values()):
            replaced = hook(self, destination, prefix, {})
            destination = destination if replaced is None else replaced
        return destination

    def _entries(self) -> dict[str, Tensor]:
        """The module's own parameters and persistent buffers."""
        own = {name: t for name, t in self._parameters.items() if t is not None}
        buffers = self._buffers.items()
        return own | {name: t for name, t in buffers if t is not None and name not in self._non_persistent}

    def _has_extra_state(self) -> bool:
        return type(self).get_extra_state is not Module.get_extra_state

    def get_extra_state(self) -> Any:
        """What `state_dict` holds of this module besides tensors by name: to be defined, together with `set_extra_state`.

        A file of safetensors takes a tensor alone.
        """
        raise ArgumentError(
            f"{type(self).__name__} has no get_extra_state()", fix="define it, and set_extra_state(state)"
        )

    def set_extra_state(self, state: Any) -> None:
        """Called by `load_state_dict` with what `get_extra_state` gave."""
        raise ArgumentError(
            f"{type(self).__name__} has no set_extra_state()", fix="define it, beside get_extra_state()"
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Copy the tensors or arrays of `state_dict` in, converted to each entry's dtype and backend: all or none.

        `strict=False` skips names that only one side has and returns them as (missing_keys, unexpected_keys). A name
        is not missing where the state dict has another name of the same (tied) parameter or buffer.
        `assign=True` adopts the memory, dtype and backend of the values. One `StateDictError` lists everything that does
        not fit.
        """
        if not isinstance(state_dict, Mapping):
            raise ArgumentError("load_state_dict takes a dict of tensors", received=type(state_dict).__name__)
        modules = [(f"{path}." if path else "", module) for path, module in self.named_modules(remove_duplicate=False)]
        entries = {prefix + name: t for prefix, module in modules for name, t in module._entries().items()}
        extras = {prefix + _EXTRA: module for prefix, module in modules if module._has_extra_state()}
        missing, unexpected, errors = [], [], []  # type: tuple[list[str], list[str], list[str]]
        if any("load_pre" in module._state_hooks for _, module in modules):
            state_dict = dict(state_dict)  # hooks change it
        for prefix, module in modules:
            for hook, with_module in tuple(module._state_hooks.get("load_pre", {}).values()):
                arguments: tuple = (state_dict, prefix, {}, strict, missing, unexpected, errors)
                hook(module, *arguments) if with_module else hook(*arguments)
        if errors:
            raise StateDictError(f"a hook of {type(self).__name__} refused the state dict: " + "; ".join(errors))
        for path, module in self.named_modules():
            for old, new in module._former_names(path).items():
                if old in state_dict and old not in entries and new not in state_dict:
                    state_dict = {new if name == old else name: value for name, value in state_dict.items()}
        # A tied tensor has several names; files of other programs contain only one of them.
        present = {id(target) for name, target in entries.items() if name in state_dict}
        missing += [name for name, target in entries.items() if name not in state_dict and id(target) not in present]
        missing += [name for name in extras if name not in state_dict]
        unexpected += [name for name in state_dict if name not in entries and name not in extras]
        misfits, values = {}, {}
        lazy, shapes = self._lazy_layers(state_dict)
        for name, target in entries.items():
            if name not in state_dict:
                continue
            value, shape = state_dict[name], shapes.get(name)
            if isinstance(value, UninitializedTensor):
                if not isinstance(target, UninitializedTensor):
                    misfits[name] = "is not initialised, and the module's is"
                continue
            if shape is None and not isinstance(target, UninitializedTensor):
                shape = target.shape
            if not hasattr(value, "shape") or not hasattr(value, "dtype"):
                misfits[name] = f"is {type(value).__name__}, not a tensor"
            elif shape is None:
                misfits[name] = "belongs to a lazy layer, whose shapes do not follow from the state dict"
            elif tuple(value.shape) != shape:
                misfits[name] = f"has shape {tuple(value.shape)}, and the module's is {shape}"
            elif assign and dt.is_floating(target.dtype) and value.dtype not in _FLOATING:
                misfits[name] = f"has dtype {value.dtype}, and the module's is {dt.name_of(target.dtype)}"
            else:
                values[name] = value
        if misfits or (strict and (missing or unexpected)):
            raise self._mismatch_error(entries, missing if strict else [], unexpected if strict else [], misfits)
        for path, module, size in lazy:
            module.become(size, draw=not all(f"{path}{name}" in values for name in module.uninitialized()))
        pairs = []
        for name, value in values.items():
            target = entries[name]
            value = as_tensor(value).detach()
            pairs.append((target, value if assign else value.to(target.backend, target.dtype)))
        for target, value in pairs:
            if assign:
                target.rebind(value._data, value.backend)
            elif target._data is not value._data:
                target._data[...] = value._data
                target.bump_version()
        for name, module in extras.items():
            if name in state_dict:
                module.set_extra_state(state_dict[name])
        keys = IncompatibleKeys(missing, unexpected)
        self._run_loaded_hooks(keys)
        return keys

    def _run_loaded_hooks(self, keys: IncompatibleKeys) -> None:
        for module in self._modules.values():
            if module is not None:
                module._run_loaded_hooks(keys)
        for hook, _ in tuple(self._state_hooks.get("load_post", {}).values()):
            hook(self, keys)

    def _former_names(self, path: str) -> dict[str, str]:
        """{name in older state dicts: name now} of entries of this module, which is at `path`."""
        return {}

    def _lazy_layers(self, state_dict: Mapping[str, Any]) -> tuple[list[tuple[str, Any, int]], dict[str, tuple]]:
        """(path, layer, size) of the lazy layers whose size follows from a state dict, and the shapes of their entries."""
        layers: dict[int, tuple[str, Any, int]] = {}
        shapes: dict[str, tuple] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            prefix = f"{path}." if path else ""
            size = module._size_in(state_dict, prefix) if isinstance(module, _Lazy) else None
            if size is not None:
                _, _, size = layers.setdefault(id(module), (prefix, module, size))
                shapes |= {prefix + name: shape for name, shape in module.shapes_for(size).items()}
        return list(layers.values()), shapes

    def _mismatch_error(self, target_entries, missing, unexpected, misfits) -> StateDictError:
        lines = [f"the state dict does not fit {type(self).__name__}"]
        likely = missing or target_entries
        suggests = len(likely) <= 500  # comparing every name with every other would take minutes
        for names, format_line in (
            (missing, lambda name: f"  missing:    {name} {_shape_text(target_entries.get(name))}"),
            (unexpected, lambda name: f"  unexpected: {name}" + (f" ({suggest(name, likely)})" if suggests else "")),
            (list(misfits), lambda name: f"  misshapen:  {name} {misfits[name]}"),
        ):
            lines += [format_line(name) for name in names[:_SHOWN]]
            lines += [f"  … and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        fix = None
        heads = {name.partition(".")[0] for name in unexpected}
        if len(heads) == 1 and {name.partition(".")[2] for name in unexpected} & set(missing):
            cut = len(heads.pop()) + 1
            fix = f"every name begins with {unexpected[0][:cut]!r}: {{k[{cut}:]: v for k, v in state.items()}}"
        elif not misfits:
            fix = "build the model that was saved, or load what fits with strict=False"
        error = StateDictError("\n".join(lines), fix=fix)
        error.missing_keys, error.unexpected_keys, error.mismatched = missing, unexpected, misfits  # type: ignore[attr-defined]
        return error

    def save(self, path, wait: bool = True):
        """Write the state dict to a safetensors file, with a description of the layers if all are registered ones.

        wait=False: a copy is written in the background, as by `dc.save`, and a `Saving` returned.
        """
        from deepcore.nn import files

        return files.save(self, path, wait)

    # -- hooks --------------------------------------------------------------------------------------------
    def register_forward_pre_hook(self, hook, *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """`hook(module, args)` runs before forward; its result, if not None, replaces the arguments.

        `with_kwargs`: `hook(module, args, kwargs)`, which returns None or (args, kwargs).
        """
        return RemovableHandle(self._hooks, "forward_pre", hook, with_kwargs, prepend)

    def register_forward_hook(self, hook, *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """`hook(module, args, output)` runs after forward; its result, if not None, replaces the output.

        `with_kwargs`: `hook(module, args, kwargs, output)`.
        """
        return RemovableHandle(self._hooks, "forward", hook, with_kwargs, prepend)

    def register_full_backward_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """`hook(module, grad_input, grad_output)` runs when the gradients of the inputs are known.

        Both are tuples over the positional arguments and the outputs (None where there is no gradient); the
        hook's result, if not None, replaces grad_input.
        """
        return RemovableHandle(self._hooks, "backward", hook, None, prepend)

    def register_full_backward_pre_hook(self, hook, prepend: bool = False) -> RemovableHandle:
        """`hook(module, grad_output)` runs before the module's backward; its result, if not None, replaces it."""
        return RemovableHandle(self._hooks, "backward_pre", hook, None, prepend)

    def register_state_dict_pre_hook(self, hook) -> RemovableHandle:
        """`hook(module, prefix, keep_vars)` runs before `state_dict` reads this module."""
        return RemovableHandle(self._state_hooks, "pre", hook, None, False)

    def register_state_dict_post_hook(self, hook) -> RemovableHandle:
        """`hook(module, state_dict, prefix, local_metadata)` runs when `state_dict` has read this module and its parts."""
        return RemovableHandle(self._state_hooks, "post", hook, None, False)

    def register_load_state_dict_pre_hook(self, hook) -> RemovableHandle:
        """`hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`.

        It runs before anything is loaded, and may change `state_dict`, which is a copy: rename old entries, for example.
        """
        return RemovableHandle(self._state_hooks, "load_pre", hook, True, False)

    def register_load_state_dict_post_hook(self, hook) -> RemovableHandle:
        """`hook(module, incompatible_keys)` runs when everything is loaded."""
        return RemovableHandle(self._state_hooks, "load_post", hook, None, False)

    # -- describing -----------------------------------------------------------------------------------------
    def constructor_arguments(self) -> dict[str, Any]:
        """The arguments that rebuild this layer, as plain values, read from the attributes of the same names.

        An argument with the name of a parameter (`bias=True`) is whether the layer has it.
        """
        arguments = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name in ("backend", "device", "dtype") or parameter.kind in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                continue
            if name in self._parameters:
                arguments[name] = self._parameters[name] is not None
            elif name in self.__dict__:
                arguments[name] = self.__dict__[name]
            else:
                raise ArgumentError(
                    f"{type(self).__name__} does not keep its argument {name!r}",
                    fix=f"store it as self.{name} in __init__, or override constructor_arguments()",
                )
        return arguments

    def extra_repr(self) -> str:
        """The text that `repr` shows between the parentheses, beside the submodules."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        lines = [f"({printable(name)}): {indent(repr(module))}" for name, module in self._modules.items()]
        return self._join_repr(extra, lines)

    def _join_repr(self, extra: list[str], lines: list[str]) -> str:
        if len(extra) < 2 and not lines:
            return f"{type(self).__name__}({''.join(extra)})"
        return f"{type(self).__name__}(\n  " + "\n  ".join(extra + lines) + "\n)"

    def __dir__(self):
        return sorted({*super().__dir__(), *self.__dict__})

    def summary(self, input_shape=None, dtype=None, batch_size: int = 1):
        """A table of every layer's output shape and parameters, from one forward over zeros; `print` it.

        `input_shape`: None for that of the last batch of a Trainer; before the first one, output shapes are unknown. It leaves out the batch dimension; a list of shapes means several inputs. `dtype` defaults to the
        parameters' floating dtype; models that begin with an Embedding need `dtype=dc.int64`.
        """
        from deepcore.nn.summary import summarize

        return summarize(self, input_shape, dtype, batch_size)


class _Lazy:
    """Marks the layers of `nn.modules.lazy`, which take a size from their first input, or from a state dict."""

    def _size_in(self, state_dict: Mapping[str, Any], prefix: str) -> int | None:
        raise NotImplementedError

    def shapes_for(self, size: int) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError


class _Names:
    """The attribute names of a module, listed only if an error message is printed."""

    def __init__(self, module):
        self.module = module

    def __iter__(self):
        return (name for name in dir(self.module) if not name.startswith("_"))


def _name_constructor(cls: type) -> None:
    """Give `cls` a constructor of its own name for one that it inherits from a private class: Python's errors show it."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    function = inspect.unwrap(vars(owner)["__init__"])
    if not owner.__name__.startswith("_") or not isinstance(function, types.FunctionType):
        return
    own: Any = types.FunctionType(
        function.__code__, function.__globals__, "__init__", function.__defaults__, function.__closure__
    )
    functools.update_wrapper(own, function)
    del own.__wrapped__
    own.__kwdefaults__, own.__qualname__ = function.__kwdefaults__, f"{cls.__qualname__}.__init__"
    cls.__init__ = own  # type: ignore[misc]


def _shape_text(t: Tensor | None) -> str:
    if t is None:
        return "(a module's own state)"
    return "uninitialised" if isinstance(t, UninitializedTensor) else str(t.shape)


def indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _converted(t: Tensor, backend, dtype) -> Tensor:
    dtype = dtype if dtype is not None and dt.is_floating(t.dtype) else t.dtype
    backend = t.backend if backend is None else backend
    if backend is t.backend and dtype == t.dtype:
        return t
    return (t.placeholder() if isinstance(t, UninitializedTensor) else t.detach()).to(backend, dtype)


def clear_gradients(parameters: list[Tensor], set_to_none: bool) -> None:
    """Set gradients to None, or fill them with zeros."""
    effect("clear", _clear, parameters, set_to_none)


def _clear(parameters: list[Tensor], set_to_none: bool) -> None:
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
        elif parameter.grad is not None:
            gradient = parameter.grad.detach()
            gradient._data.fill(0)
            gradient.bump_version()
            parameter.grad = gradient
