"""Embedding, EmbeddingBag."""

from __future__ import annotations

from deepcore.errors import ArgumentError, IndexRangeError, non_negative
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.nn.registry import LAYERS, Example, Integers


def _row(padding_idx: int | None, rows: int, name: str = "Embedding") -> int | None:
    """`padding_idx` counted from the first row."""
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise IndexRangeError(
            f"{name}'s padding_idx is one of its rows",
            expected=f"{-rows} … {rows - 1}",
            received=f"padding_idx={padding_idx}",
        )
    return None if padding_idx is None else padding_idx % rows


def _set_absent(layer: Module, **switches) -> None:
    """PyTorch's switches that are not there yet, as attributes; raises where one is on."""
    for name, value in switches.items():
        if value:
            raise ArgumentError(
                f"{type(layer).__name__}: {name} is not there yet", received=f"{name}={value}", fix="leave it out"
            )
        setattr(layer, name, value)


def _over_table(cls, embeddings, freeze: bool, arguments: tuple, options: dict):
    """A layer `cls` whose weight is an existing table."""
    if len(embeddings.shape) != 2:
        raise ArgumentError("from_pretrained takes a table", expected="2 dimensions", received=f"{embeddings.shape}")
    with init.skip_init():
        layer = cls(*embeddings.shape, *arguments, **options)
    layer.weight = Parameter(embeddings, requires_grad=not freeze)
    return layer


@LAYERS.register
class Embedding(Module):
    """y = weight[x]: a table of `num_embeddings` rows of length `embedding_dim`, looked up by whole numbers.

    Input (*) of integers, output (*, embedding_dim); `weight` starts N(0, 1). Row `padding_idx` starts at 0 and gets
    no gradient. With `max_norm`, rows that are looked up are first shortened to that `norm_type`-norm, in place.
    """

    examples = (
        Example({"num_embeddings": 6, "embedding_dim": 3}, (Integers((2, 4), 6),)),
        Example({"num_embeddings": 4, "embedding_dim": 2, "padding_idx": 1}, (Integers((9,), 4),)),
        Example({"num_embeddings": 4, "embedding_dim": 2, "padding_idx": -1}, (Integers((9,), 4),)),
        Example({"num_embeddings": 4, "embedding_dim": 2, "max_norm": 0.5, "norm_type": 3.0}, (Integers((3,), 4),)),
    )

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        check_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        _set_absent(self, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = _row(padding_idx, num_embeddings)
        self.max_norm = None if max_norm is None else non_negative("max_norm", max_norm)
        self.norm_type = non_negative("norm_type", norm_type, zero=False)
        self.weight = new_parameter((num_embeddings, embedding_dim), backend, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a new table."""
        init.normal_(self.weight)
        if self.padding_idx is not None and not init.skipping():
            self.weight._data[self.padding_idx] = 0
            self.weight.bump_version()

    @classmethod
    def from_pretrained(cls, embeddings, freeze: bool = True, *arguments, **options) -> Embedding:
        """An Embedding over an existing (rows, length) table; frozen unless `freeze=False`.

        Further arguments are the constructor's from `padding_idx` on.
        """
        return _over_table(cls, embeddings, freeze, arguments, options)

    def forward(self, input):
        return F.embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        norm = "" if self.max_norm is None else f", max_norm={self.max_norm}"
        norm += "" if self.norm_type == 2 else f", norm_type={self.norm_type}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{norm}"


@LAYERS.register
class EmbeddingBag(Module):
    """y = Σ, the mean or the maximum of weight[i] over the indices i of a bag; 0 for an empty bag.

    Input (B, n), a bag in each row, or (N,) with `offsets` (B,), where each begins; output (B, embedding_dim). `mode`: "sum",
    "mean" or "max"; `per_sample_weights` are factors of a sum. With `include_last_offset` the last offset is where the last
    bag ends. `weight` starts N(0, 1); row `padding_idx` starts at 0, counts nothing and gets no gradient.
    """

    examples = (
        Example({"num_embeddings": 6, "embedding_dim": 3}, (Integers((2, 4), 6),)),
        Example({"num_embeddings": 6, "embedding_dim": 3, "mode": "max", "padding_idx": 2}, (Integers((3, 2), 6),)),
        Example({"num_embeddings": 4, "embedding_dim": 2, "mode": "sum", "padding_idx": -1}, (Integers((2, 5), 4),)),
    )

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        check_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if mode not in ("sum", "mean", "max"):
            raise ArgumentError("EmbeddingBag's mode", expected='"sum", "mean" or "max"', received=repr(mode))
        _set_absent(self, max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
        self.norm_type = non_negative("norm_type", norm_type, zero=False)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.padding_idx = _row(padding_idx, num_embeddings, "EmbeddingBag")
        self.weight = new_parameter((num_embeddings, embedding_dim), backend, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a new table."""
        init.normal_(self.weight)
        if self.padding_idx is not None and not init.skipping():
            self.weight._data[self.padding_idx] = 0
            self.weight.bump_version()

    @classmethod
    def from_pretrained(cls, embeddings, freeze: bool = True, *arguments, **options) -> EmbeddingBag:
        """An EmbeddingBag over an existing (rows, length) table; frozen unless `freeze=False`.

        Further arguments are the constructor's from `max_norm` on.
        """
        return _over_table(cls, embeddings, freeze, arguments, options)

    def forward(self, input, offsets=None, per_sample_weights=None):
        return F.embedding_bag(
            input, self.weight, offsets, mode=self.mode, per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset, padding_idx=self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}{padding}"
