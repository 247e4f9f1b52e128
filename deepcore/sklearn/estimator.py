"""What the estimators share: parameters, training by `Trainer`, outputs, and pickling as safetensors."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from deepcore import io, nn, optim
from deepcore.autograd import no_grad
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ArgumentTypeError, ShapeError, non_negative, suggest
from deepcore.nn.modules.loss import module_of
from deepcore.random import standing_in
from deepcore.sklearn.rows import Rows, distinct, unmerged
from deepcore.train import Callback, EarlyStopping, Trainer

#: Rows that are computed together for outputs. Always as many, as other shapes may have other bits: so the outputs of a
#: row do not depend on the others.
_ROWS = 64
#: Floating dtypes that are kept; anything else becomes the first.
DTYPES = (np.float64, np.float32)
_NESTED = ("module", "optimizer", "loss")


class Estimator(BaseEstimator):
    """Base of the estimators.

    A constructor only stores its arguments; `fit` checks them. `module__x`, `optimizer__x` and `loss__x` are arguments of
    the module, the optimizer and the loss, and parameters like all others for `get_params`, `set_params` and `clone`.
    """

    # Those that every estimator has.
    module: Any
    hidden_layer_sizes: Any
    activation: Any
    loss: Any
    optimizer: Any
    lr: float
    batch_size: int
    max_epochs: int
    tol: float | None
    n_iter_no_change: int | None
    early_stopping: bool
    validation_fraction: float
    random_state: Any
    backend: Any
    compile: bool
    verbose: int
    warm_start: bool
    callbacks: Any
    # Set by `fit`; those without an underscore at the end are for its next call and for outputs.
    n_outputs_: int
    n_iter_: int
    history_: dict[str, list[float]]
    loss_curve_: list[float]
    validation_loss_curve_: list[float]
    _module: Any
    _optimizer: Any
    _state: bytes | None
    _recipe: dict[str, Any]
    _random: Any

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        # scikit-learn's view of the constructor, in which `**nested` would be a parameter of that name.
        own = inspect.signature(cls.__init__)
        shown = [p for p in own.parameters.values() if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        cls.__signature__ = own.replace(parameters=shown)

    def _store(self, parameters: dict[str, Any]) -> None:
        """Store the arguments of a constructor, its `locals()`."""
        nested = parameters.pop("nested")
        for name, value in parameters.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)
        for name, value in nested.items():
            if not _is_nested(name):
                raise ArgumentTypeError(
                    f"{type(self).__name__} has no parameter {name!r}",
                    fix=suggest(name, [*self._get_param_names(), *(f"{prefix}__…" for prefix in _NESTED)]),
                )
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, also those of the module, the optimizer and the loss."""
        return {**super().get_params(deep), **{k: v for k, v in vars(self).items() if _is_nested(k)}}

    def set_params(self, **params):
        """Set parameters by name. Errors: `ValueError` for a name that the estimator does not have."""
        nested = {name: value for name, value in params.items() if _is_nested(name)}
        super().set_params(**{name: value for name, value in params.items() if name not in nested})
        vars(self).update(nested)
        return self

    def _arguments(self, prefix: str) -> dict[str, Any]:
        start = f"{prefix}__"
        return {name.removeprefix(start): value for name, value in vars(self).items() if name.startswith(start)}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # -- training -------------------------------------------------------------------------------------------
    def _train(
        self,
        X,
        y,
        weight: np.ndarray,
        outputs: int,
        resume: bool,
        epochs: int | None,
        default_loss: str = "MSELoss",
        factors: np.ndarray | None = None,
    ) -> None:
        """Train on rows of X and y with these weights; y None: the targets are the rows themselves.

        resume: go on with the module and optimizer of the previous call. epochs: None for `max_epochs`, which early
        stopping may end. factors: of the weights, equal for equal rows; they follow the sum over these, which is then as
        exact as repetition.
        """
        self._check_parameters()
        stopping = epochs is None
        epochs = self.max_epochs if epochs is None else epochs
        random = self._random if resume else check_random_state(self.random_state)
        loss = self._build_loss(default_loss)
        measured = module_of(loss)
        if measured is not None and measured.reduction == "none":
            raise ArgumentError("the loss must be one number", received="reduction='none'", fix="reduction='mean'")
        if measured is None:
            index, weight = unmerged(X, y, weight if factors is None else weight * factors)
        else:
            index, weight = distinct(X, y, weight)
            if factors is not None:
                weight = weight * factors[index]
                index, weight = index[weight > 0], weight[weight > 0]
        if not len(index):
            raise ValueError("all weights are zero: class_weight leaves no sample to train on")
        parts = {"train": index}
        if stopping and self.early_stopping:
            parts = self._split(index, y, random)
        weights = None
        if weight.min() != weight.max():
            weights = np.zeros(X.shape[0])
            weights[index] = weight / weight.mean()
            loss = WeightedMean(measured)
        if isinstance(loss, nn.Module):
            loss = loss.to(dtype=self._recipe["dtype"] if resume else X.dtype)
        seed = int(random.randint(np.iinfo(np.int32).max))
        backend = get_backend(self.backend)
        with standing_in(seed, 0):
            if resume:
                recipe = self._recipe
                module, optimizer = self._module_and_optimizer()
            else:
                recipe = self._recipe_of(X.dtype, outputs)
                module = self._build_module(recipe).to(backend=backend)
                if self.module is not None:
                    self._check_outputs(module, X[:1], recipe)
                optimizer = self._build_optimizer(module)
            run = Trainer(module, optimizer, loss, metrics=(), backend=backend, compile=bool(self.compile))
            rows = {name: Rows(X, recipe["dtype"], y, weights, part) for name, part in parts.items()}
            callbacks = self._callbacks_of_run(stopping)
            history = run.fit(
                rows["train"],
                validation=rows.get("validation"),
                epochs=epochs,
                batch_size=self.batch_size,
                callbacks=callbacks,
                verbose=int(self.verbose),
            )
        self._recipe, self._random = recipe, random
        self._module, self._optimizer, self._state = module, optimizer, None
        self._record(history, resume)

    def _check_parameters(self) -> None:
        for name, least in (("batch_size", 1), ("max_epochs", 1), ("n_iter_no_change", 1)):
            value = getattr(self, name)
            whole = hasattr(value, "__index__") and not isinstance(value, (bool, np.ndarray))
            if not (whole and value >= least) and not (name == "n_iter_no_change" and value is None):
                raise ArgumentError(f"{name} is a whole number of at least {least}", received=f"{name}={value!r}")
        non_negative("lr", self.lr, zero=False)
        if self.tol is not None:
            non_negative("tol", self.tol)
        fraction = self.validation_fraction
        if not (isinstance(fraction, (int, float)) and 0 < fraction < 1):
            raise ArgumentError(
                "validation_fraction lies between 0 and 1", received=f"validation_fraction={fraction!r}"
            )

    def _split(self, index: np.ndarray, y, random) -> dict[str, np.ndarray]:
        """The rows to train on and those to validate on; of class numbers the latter have the same proportions."""
        count = int(np.ceil(self.validation_fraction * len(index)))
        if count >= len(index):
            raise ValueError(
                f"early_stopping needs rows to validate on, and there are n_samples={len(index)} distinct ones: "
                "early_stopping=False, or more samples"
            )
        classes = y[index] if y is not None and y.ndim == 1 else None
        if classes is not None:
            sizes = np.unique(classes, return_counts=True)[1]
            if sizes.min() < 2 or len(sizes) > min(count, len(index) - count):
                classes = None
        train, validation = train_test_split(index, test_size=count, stratify=classes, random_state=random)
        return {"train": train, "validation": validation}

    def _callbacks_of_run(self, stopping: bool) -> list[Callback]:
        """Copies of the user's callbacks, which refer to the trainer while it runs, and early stopping."""
        own = [] if self.callbacks is None else self.callbacks
        callbacks = [copy.deepcopy(c) for c in ([own] if isinstance(own, Callback) else own)]
        if stopping and self.n_iter_no_change is not None and self.tol is not None:
            callbacks.append(
                EarlyStopping(
                    "val_loss" if self.early_stopping else "loss",
                    min_delta=self.tol,
                    patience=int(self.n_iter_no_change),
                    restore_best_weights=bool(self.early_stopping),
                )
            )
        return callbacks

    def _record(self, history, resume: bool) -> None:
        """Set `history_`, `loss_curve_`, `validation_loss_curve_` and `n_iter_`, which go on where training does."""
        curves = {name: list(history[name]) for name in history.names}
        if resume:
            before = self.history_
            done, new = len(before.get("loss", ())), len(history)
            nan = float("nan")
            curves = {
                name: [*before.get(name, [nan] * done), *curves.get(name, [nan] * new)]
                for name in dict.fromkeys([*before, *curves])
            }
        self.history_ = curves
        self.loss_curve_ = curves.get("loss", [])
        self.n_iter_ = len(self.loss_curve_)
        if "val_loss" in curves:
            self.validation_loss_curve_ = curves["val_loss"]
        elif hasattr(self, "validation_loss_curve_"):
            del self.validation_loss_curve_

    # -- modules --------------------------------------------------------------------------------------------
    def _recipe_of(self, dtype, outputs: int) -> dict[str, Any]:
        """What the module is built from, kept apart from parameters that may be set after `fit`."""
        return {
            "module": self.module,
            "hidden_layer_sizes": self.hidden_layer_sizes,
            "activation": self.activation,
            "arguments": self._arguments("module"),
            "inputs": self.n_features_in_,
            "outputs": outputs,
            "dtype": np.dtype(dtype).name,
        }

    def _build_module(self, recipe: dict[str, Any]) -> nn.Module:
        factory, dtype = recipe["module"], recipe["dtype"]
        if factory is None:
            if recipe["arguments"]:
                raise ArgumentError(
                    "module__ parameters are arguments of module, and module is None",
                    received=", ".join(f"module__{name}" for name in recipe["arguments"]),
                    fix="module=function_or_class, or hidden_layer_sizes and activation for the default network",
                )
            return self._default_module(recipe).to(dtype=dtype)
        if isinstance(factory, nn.Module):
            raise ArgumentTypeError(
                "module is a class or a function that builds a Module, as every fit starts from a new one",
                received=f"a {type(factory).__name__}",
                fix="module=lambda n_features_in, n_outputs: nn.Sequential(…), or the class of your module",
            )
        if not callable(factory):
            raise ArgumentTypeError("module is a class or a function that builds a Module", received=repr(factory))
        module = construct("module", factory, recipe["arguments"], recipe["inputs"], recipe["outputs"])
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(
                "module(n_features_in, n_outputs, …) returns a Module", received=type(module).__name__
            )
        self._check_module(module)
        return module.to(dtype=dtype)

    def _check_module(self, module: nn.Module) -> None:
        """Raise where a user's module lacks parts that the estimator needs."""

    def _check_outputs(self, module: nn.Module, X, recipe: dict[str, Any]) -> None:
        """Raise where a user's module does not give as many numbers a row as it should."""
        check_outputs(self._run(module, X, recipe["dtype"]), recipe["outputs"])

    def _default_module(self, recipe: dict[str, Any]) -> nn.Module:
        return perceptron([recipe["inputs"], *hidden_sizes(recipe), recipe["outputs"]], recipe["activation"])

    def _build_optimizer(self, module: nn.Module):
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            optimizer = named(optim.OPTIMIZERS, optimizer)
        if not callable(optimizer):
            raise ArgumentTypeError(
                "optimizer is a name or a class of deepcore.optim", received=repr(optimizer), fix="optimizer='adam'"
            )
        arguments = self._arguments("optimizer")
        if "lr" in arguments:
            raise ArgumentTypeError(
                "the learning rate is a parameter of its own", received="optimizer__lr", fix=f"lr={arguments['lr']!r}"
            )
        return construct("optimizer", optimizer, arguments, module.parameters(), lr=float(self.lr))

    def _build_loss(self, default: str) -> Callable:
        loss, arguments = default if self.loss is None else self.loss, self._arguments("loss")
        if isinstance(loss, str):
            loss = named(nn.LOSSES, loss)
        if isinstance(loss, type):
            return construct("loss", loss, arguments)
        if arguments:
            raise ArgumentError(
                "loss__ parameters are arguments of a class, and loss is an object",
                received=", ".join(f"loss__{name}" for name in arguments),
                fix="loss=nn.HuberLoss, its class, or loss='huber'",
            )
        if not callable(loss):
            raise ArgumentTypeError("loss is a name, a class or an object of deepcore.nn", received=repr(loss))
        return copy.deepcopy(loss)

    # -- the fitted module, which a pickle holds as safetensors ---------------------------------------------
    def __sklearn_is_fitted__(self) -> bool:
        return vars(self).get("_module") is not None or vars(self).get("_state") is not None

    @property
    def module_(self) -> nn.Module:
        """The fitted module."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no module_ before fit")
        if self._module is None:
            self._restore()
        return self._module

    def _module_and_optimizer(self):
        module = self.module_
        if self._optimizer is None:
            self._optimizer = self._build_optimizer(module)
        return module, self._optimizer

    def _restore(self) -> None:
        """Build the module, and the optimizer if it was kept, from their safetensors bytes."""
        backend = get_backend(self.backend)
        state = io.from_bytes(self._state, backend)
        with standing_in(0, 0):
            module = self._build_module(self._recipe).to(backend=backend)
            module.load_state_dict(state["module"])
            if state["optimizer"] is not None:
                self._optimizer = self._build_optimizer(module)
                self._optimizer.load_state_dict(state["optimizer"])
        self._module, self._state = module, None

    def _goes_on(self) -> bool:
        """Whether later calls go on with the optimizer, so that a pickle needs its state."""
        return bool(self.warm_start) or vars(self).get("_partial", False)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        module, optimizer = state.pop("_module", None), state.pop("_optimizer", None)
        if module is not None:
            parts = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict() if optimizer is not None and self._goes_on() else None,
            }
            state["_state"] = io.to_bytes(parts)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if vars(self).get("_state") is not None:
            self._module = self._optimizer = None

    # -- outputs --------------------------------------------------------------------------------------------
    def _outputs(self, X, part: Callable[[nn.Module], Any] = lambda module: module) -> np.ndarray:
        """The outputs of the fitted module, or a part of it, for the rows of X."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)
        return self._run(part(self.module_), X, self._recipe["dtype"])

    def _run(self, module: nn.Module, X, dtype) -> np.ndarray:
        rows = Rows(X, dtype, targets=False)
        backend = next((p.backend for p in module.parameters()), get_backend(self.backend))
        results = []
        trained = [m for m in module.modules() if m.training]
        module.eval()
        try:
            with no_grad():
                for start in range(0, len(rows), _ROWS):
                    (x,) = rows.get_batch(np.arange(start, start + _ROWS))
                    results.append(module(x.to(backend)).numpy())
        finally:
            for m in trained:
                m.training = True
        return np.concatenate(results)[: len(rows)]


class WeightedMean(nn.Module):
    """Σ wᵢ·lᵢ / N over the N rows of a batch; lᵢ is the mean over the row's outputs of a loss of `deepcore.nn`.

    The target is the pair (y, w). Weights have mean 1 over all rows, so that batches are unbiased.
    """

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, output, target):
        y, weight = target
        losses = self.loss.reduced(output, y, "none")
        summed = self.loss.reduction == "sum"
        if losses.ndim > 1:
            losses = losses.flatten(1).sum(1) if summed else losses.flatten(1).mean(1)
        losses = losses * weight
        return losses.sum() if summed else losses.mean()


def _is_nested(name: str) -> bool:
    prefix, separator, rest = name.partition("__")
    return bool(separator and rest) and prefix in _NESTED


def named(registry, name: str):
    """The class of a registry by a name in lower case: "adam", "cross_entropy", "mse"."""
    plain = {key.lower(): cls for key, cls in registry.items()}
    wanted = name.replace("_", "").lower()
    for key in (wanted, f"{wanted}loss"):
        if key in plain:
            return plain[key]
    raise ArgumentError(f"there is no {registry.kind} named {name!r}", fix=suggest(name, registry))


def hidden_sizes(recipe: dict[str, Any]) -> list[int]:
    """`hidden_layer_sizes` as a list."""
    sizes = recipe["hidden_layer_sizes"]
    sizes = [sizes] if hasattr(sizes, "__index__") else sizes
    if not isinstance(sizes, (list, tuple, np.ndarray)) or not all(hasattr(n, "__index__") and n > 0 for n in sizes):
        raise ArgumentError("hidden_layer_sizes are whole numbers of at least 1", received=repr(sizes))
    return [int(n) for n in sizes]


def perceptron(sizes: list[int], activation) -> nn.Module:
    """Linear layers of these sizes with an activation between them."""
    if isinstance(activation, str):
        activation = named(nn.LAYERS, activation)
    if not callable(activation):
        raise ArgumentTypeError("activation is a name or a class of deepcore.nn", received=repr(activation))
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def check_outputs(outputs: np.ndarray, count: int) -> np.ndarray:
    """The outputs of a user's module; raises unless they are `count` numbers a row."""
    if outputs.ndim != 2 or outputs.shape[1] != count:
        raise ShapeError(
            "the module does not give n_outputs numbers for each row",
            expected=f"shape (n, {count})",
            received=f"shape {('n', *outputs.shape[1:])}".replace("'", ""),
            fix="module(n_features_in, n_outputs, …) builds a network with n_outputs outputs",
        )
    return outputs


def construct(prefix: str, factory: Callable, arguments: dict[str, Any], *args, **kwargs):
    """`factory(*args, **kwargs, **arguments)`; raises for an argument, the parameter `prefix__x`, that it does not take."""
    try:
        names = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        names = None
    if names is not None and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
        for name in arguments:
            if name not in names:
                raise ArgumentTypeError(
                    f"{getattr(factory, '__name__', factory)} has no argument {name!r}",
                    received=f"{prefix}__{name}",
                    fix=suggest(name, names),
                )
    return factory(*args, **kwargs, **arguments)


def weights_of(sample_weight, X) -> np.ndarray:
    """`sample_weight` checked, as float64; ones for None."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weight < 0).any():
        raise ValueError("Negative values in data passed to `sample_weight`: weights are at least zero")
    if not (weight > 0).any():
        raise ValueError("every weight of sample_weight is zero: there is no sample to train on")
    return weight
