"""Builds the model, loss, optimizer and schedule of a validated experiment."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import replace

import deepcore as dc
from deepcore.cli.config import INFERRED, Config, LayerPart, Part, Place
from deepcore.cli.text import PADDING, UNKNOWN, Text
from deepcore.errors import ConfigError, DeepcoreError
from deepcore.nn import LAYERS, LOSSES, Module, PaddedSequential, Sequential
from deepcore.nn.modules import sequence
from deepcore.optim import OPTIMIZERS, SCHEDULERS, Optimizer
from deepcore.tensor import Tensor

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


def _sample(shape: tuple[int, ...], text: Text | None = None) -> Tensor:
    """Two samples of `shape`, to try layers on: zeros, or unknown tokens."""
    return dc.zeros(2, *shape) if text is None else dc.full((2, *shape), UNKNOWN, dtype=dc.int64)


def model(config: Config, shape: tuple[int, ...], text: Text | None = None) -> tuple[Sequential, Config]:
    """The network for samples of `shape`, and the experiment with the inferred arguments of its layers filled in.

    It is a `PaddedSequential` for text, and with layers of sequences.
    """
    x = _sample(shape, text)
    layers: list[Module] = []
    parts: list[LayerPart] = []
    if text is not None:
        _check_first(config.layers[0], text)
    for part in config.layers:
        cls = LAYERS[part.type]
        parameters = inspect.signature(cls).parameters
        inferred = {name: x.shape[dim] for name, dim in INFERRED.items() if -len(x.shape) <= dim < len(x.shape)}
        inferred["batch_first"] = True
        if text is not None and not parts:
            inferred |= {"num_embeddings": text.size, "padding_idx": PADDING}
        part = replace(part, arguments={n: v for n, v in inferred.items() if n in parameters} | part.arguments)
        _check_complete(part, parameters)
        with at(part.at):
            layer = cls(**part.arguments)
            with dc.no_grad():
                x = sequence.apply(layer.eval(), x, None)
        layers.append(layer.train())
        parts.append(part)
    padded = text is not None or any(sequence.is_sequential(LAYERS[part.type]) for part in parts)
    net = PaddedSequential(*layers) if padded else Sequential(*layers)
    return net, replace(config, layers=tuple(parts))


def _check_first(part: LayerPart, text: Text) -> None:
    """Raise unless the first layer looks up each token of `text`."""
    if part.type not in ("Embedding", "EmbeddingBag"):
        raise part.at.key("type").error(
            f"text is numbers of tokens, which {part.type} does not take",
            expected="Embedding or EmbeddingBag as the first layer",
            fix='[[layers]], type = "Embedding", embedding_dim = 64, before it',
        )
    for name, right, expected in (
        ("num_embeddings", lambda n: n >= text.size, f"at least {text.size}, the size of the vocabulary"),
        ("padding_idx", lambda n: n == PADDING, f"{PADDING}, the number of padding"),
    ):
        value = part.arguments.get(name)
        if value is not None and not right(value):
            error = part.at.key(name).error
            raise error(
                f"{name} does not fit the text", expected=expected, received=str(value), fix=f"leave out {name}"
            )


def _check_complete(part: LayerPart, parameters) -> None:
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [n for n in required if n not in part.arguments]
    if missing:
        raise part.at.error(f"layer {part.type} needs {', '.join(missing)}", fix=f"{missing[0]} = …")
    if part.arguments.get("batch_first") is False:
        raise part.at.key("batch_first").error(
            "samples are the first dimension of every layer's input", fix="batch_first = true, or leave it out"
        )


def check_output(config: Config, net: Sequential, shape: tuple[int, ...], classes, targets_shape, text=None) -> None:
    """Raise unless the network's output has the shape that the loss and the data need."""
    net.eval()
    with dc.no_grad():
        out = net(_sample(shape, text)).shape[1:]
    net.train()
    last = config.layers[-1].at
    flattener = "SequencePool" if isinstance(net, PaddedSequential) else "Flatten"
    if config.loss.type in CLASS_LOSSES:
        if len(out) != 1 or (classes and out[0] < len(classes)):
            raise last.error(
                f"the network gives outputs of shape {list(out)}, and the data has {len(classes or ())} classes",
                expected=f"a last layer with out_features = {len(classes or ())}",
                fix=f"put {flattener} before the Linear layers" if len(out) > 1 else None,
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
