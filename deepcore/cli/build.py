"""Builds the model, loss, optimizer and schedule of a validated experiment."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import replace

import deepcore as dc
from deepcore.cli.config import INFERRED, Config, LayerPart, Part, Place
from deepcore.errors import ConfigError, DeepcoreError
from deepcore.nn import LAYERS, LOSSES, Module, Sequential
from deepcore.optim import OPTIMIZERS, SCHEDULERS, Optimizer

#: Losses that take class numbers, and the kind of the model's output.
CLASS_LOSSES = {"CrossEntropyLoss": "logits", "NLLLoss": "log_probabilities"}
#: Losses on one yes-or-no per output, and the kind of the model's output.
BINARY_LOSSES = {"BCEWithLogitsLoss": "logit", "BCELoss": "probability"}


@contextlib.contextmanager
def at(place: Place) -> Iterator[None]:
    """Context manager: converts errors of constructors and layers to errors of the file at this key."""
    try:
        yield
    except ConfigError:
        raise
    except DeepcoreError as error:
        raise place.error(error.problem, expected=error.expected, received=error.received, fix=error.fix) from None
    except (TypeError, ValueError, OverflowError, IndexError, MemoryError) as error:
        raise place.error(str(error)) from None


def model(config: Config, shape: tuple[int, ...]) -> tuple[Sequential, Config]:
    """The network for samples of `shape`, and the experiment with the inferred arguments of its layers filled in."""
    x = dc.zeros(2, *shape)
    layers: list[Module] = []
    parts: list[LayerPart] = []
    for part in config.layers:
        cls = LAYERS[part.type]
        parameters = inspect.signature(cls).parameters
        inferred = {
            name: x.shape[dim]
            for name, dim in INFERRED.items()
            if name in parameters and name not in part.arguments and -len(x.shape) <= dim < len(x.shape)
        }
        part = replace(part, arguments={**inferred, **part.arguments})
        with at(part.at):
            layer = cls(**part.arguments)
            with dc.no_grad():
                x = layer.eval()(x)
        layers.append(layer.train())
        parts.append(part)
    return Sequential(*layers), replace(config, layers=tuple(parts))


def check_output(config: Config, net: Sequential, shape: tuple[int, ...], classes, targets_shape) -> None:
    """Raise unless the network's output has the shape that the loss and the data need."""
    net.eval()
    with dc.no_grad():
        out = net(dc.zeros(2, *shape)).shape[1:]
    net.train()
    last = config.layers[-1].at
    if config.loss.type in CLASS_LOSSES:
        if len(out) != 1 or (classes and out[0] < len(classes)):
            raise last.error(
                f"the network gives outputs of shape {list(out)}, and the data has {len(classes or ())} classes",
                expected=f"a last layer with out_features = {len(classes or ())}",
                fix="put Flatten before the Linear layers" if len(out) > 1 else None,
            )
    elif tuple(out) != tuple(targets_shape):
        raise last.error(
            f"the network gives outputs of shape {list(out)}, and the targets have {list(targets_shape)}",
            expected=f"a last layer with out_features = {math.prod(targets_shape)}",
        )


def loss(config: Config) -> Module:
    """The loss; lists of numbers among its arguments become tensors."""
    part = config.loss
    arguments = {k: dc.tensor(v, dtype=dc.float32) if isinstance(v, list) else v for k, v in part.arguments.items()}
    with at(part.at):
        return LOSSES[part.type](**arguments)


def optimizer(config: Config, net: Sequential) -> Optimizer:
    """The optimizer, with a parameter group for each pair of factors; an lr factor of 0 freezes parameters."""
    part = config.optimizer
    cls = OPTIMIZERS[part.type]
    signature = inspect.signature(cls).parameters
    base = {
        name: part.arguments.get(name, p.default) for name, p in signature.items() if name in ("lr", "weight_decay")
    }
    groups: dict[tuple[float, float], list] = {}
    for layer, settings in zip(net, config.layers, strict=True):
        named = dict(layer.named_parameters())
        _check_factors(settings, named)
        for name, parameter in named.items():
            factors = settings.factors(name)
            if factors[0] == 0:
                parameter.requires_grad_(False)
            else:
                groups.setdefault(factors, []).append(parameter)
    if not groups:
        raise part.at.error(
            "there is nothing to train", expected="a layer with parameters and lr_factor above 0", fix='type = "Linear"'
        )
    if "weight_decay" not in base and any(decay != 1 for _, decay in groups):
        raise part.at.error(f"{part.type} has no weight_decay", fix="leave out weight_decay_factor")
    with at(part.at):
        param_groups = []
        for (lr, decay), parameters in groups.items():
            group = {"params": parameters}
            group |= {"lr": base["lr"] * lr} if lr != 1 else {}
            group |= {"weight_decay": base["weight_decay"] * decay} if decay != 1 else {}
            param_groups.append(group)
        return cls(param_groups, **part.arguments)


def _check_factors(part: LayerPart, named: dict) -> None:
    from deepcore.errors import suggest

    for key in ("lr_factor", "weight_decay_factor"):
        factor = getattr(part, key)
        place = part.at.key(key)
        if factor != 1.0 and not named:
            raise place.error(f"{part.type} has no parameters, so {key} has no effect", fix=f"leave out {key}")
        for name in factor if isinstance(factor, dict) else ():
            if name not in named:
                raise place.key(name).error(f"{part.type} has no parameter {name!r}", fix=suggest(name, named))


def schedule(config: Config, optimizer: Optimizer):
    """The schedule, or None; T_max or total_steps that is left out is the number of epochs."""
    part: Part | None = config.schedule
    if part is None:
        return None
    cls = SCHEDULERS[part.type]
    arguments = dict(part.arguments)
    for name in {"T_max", "total_steps"} & inspect.signature(cls).parameters.keys():
        arguments.setdefault(name, config.train.epochs)
    with at(part.at):
        return cls(optimizer, **arguments)
