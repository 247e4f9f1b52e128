"""Multi-head attention, and the transformer made of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from deepcore.autograd import constant
from deepcore.errors import ArgumentError, suggest
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.functional.attention import attention
from deepcore.nn.modules.container import ModuleList
from deepcore.nn.modules.dropout import Dropout
from deepcore.nn.modules.linear import Linear, check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.modules.normalization import LayerNorm
from deepcore.nn.parameter import Parameter
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.shape import triu
from deepcore.tensor import Tensor, full


@LAYERS.register
class MultiheadAttention(Module):
    """(concat(head₁ … headₕ) Wᴼᵀ + bᴼ, weights), headᵢ = softmax(qᵢ kᵢᵀ / √d + mask) vᵢ with d = embed_dim / num_heads.

    Input query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim), with `batch_first` (N, L, …), or without N; output like
    the query; weights (N, L, S), the mean over the heads, or (N, heads, L, S) with `average_attn_weights=False`, or None with
    `need_weights=False`, which is faster. Masks are of bool, True where a key is *left out*, or floats that are added:
    `key_padding_mask` (N, S), `attn_mask` (L, S) or (N · heads, L, S); `is_causal` says that `attn_mask` is the causal one.
    `in_proj_weight` (3 · embed_dim, embed_dim), or with other `kdim` or `vdim` the three of `q_proj_weight` …, starts
    Xavier-uniform, biases at 0. `add_bias_kv` appends a learned key and value, `add_zero_attn` zeros. `dropout` drops weights
    in training. With `cache`, a `KVCache`, and `position`, query, key and value continue its sequence there: query i attends to
    the keys 0 … `position` + i, and no other mask is allowed. (Vaswani et al., 2017)
    """

    examples = (
        Example({"embed_dim": 4, "num_heads": 2}, ((3, 2, 4), (5, 2, 4), (5, 2, 4))),
        Example(
            {"embed_dim": 4, "num_heads": 1, "bias": False, "batch_first": True}, ((2, 3, 4), (2, 1, 4), (2, 1, 4))
        ),
        Example(
            {"embed_dim": 6, "num_heads": 3, "kdim": 2, "vdim": 5, "add_bias_kv": True, "add_zero_attn": True},
            ((3, 6), (4, 2), (4, 5)),
        ),
    )

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        check_sizes(self, embed_dim=embed_dim, num_heads=num_heads, kdim=self.kdim, vdim=self.vdim)
        if embed_dim % num_heads:
            raise ArgumentError(
                "MultiheadAttention: num_heads does not divide embed_dim", received=f"{embed_dim=}, {num_heads=}"
            )
        if not 0 <= dropout <= 1:
            raise ArgumentError("MultiheadAttention's dropout is a probability", received=f"{dropout=}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        self.add_bias_kv = add_bias_kv
        self.add_zero_attn = add_zero_attn
        same = self.kdim == self.vdim == embed_dim
        for name, width in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
            weight = None if same else new_parameter((embed_dim, width), backend, dtype)
            self.register_parameter(f"{name}_proj_weight", weight)
        weight = new_parameter((3 * embed_dim, embed_dim), backend, dtype) if same else None
        self.register_parameter("in_proj_weight", weight)
        self.register_parameter("in_proj_bias", new_parameter((3 * embed_dim,), backend, dtype) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, backend=backend, dtype=dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, new_parameter((1, 1, embed_dim), backend, dtype) if add_bias_kv else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new projections; the output's keeps its weight, and its bias is 0."""
        for weight in self._in_weights():
            init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        if self.bias_k is not None:
            init.xavier_normal_(self.bias_k)
            init.xavier_normal_(self.bias_v)

    def _in_weights(self) -> tuple:
        if self.in_proj_weight is not None:
            return (self.in_proj_weight,)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def constructor_arguments(self) -> dict[str, Any]:
        names = ("embed_dim", "num_heads", "dropout", "add_bias_kv", "add_zero_attn", "kdim", "vdim", "batch_first")
        return {**{name: getattr(self, name) for name in names}, "bias": self.in_proj_bias is not None}

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights: bool = True,
        attn_mask=None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache=None,
        position=None,
    ):
        return attention(
            query, key, value, self.embed_dim, self.num_heads, self._in_weights(), self.in_proj_bias, self.bias_k,
            self.bias_v, self.add_zero_attn, self.dropout if self.training else 0.0, self.out_proj.weight,
            self.out_proj.bias, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal,
            self.batch_first, cache=cache, position=position, name="MultiheadAttention",
        )  # fmt: skip


def _cached(cache, position) -> dict[str, Any]:
    """The arguments of a layer that continues a sequence; none without a cache, as not every layer takes them."""
    return {} if cache is None else {"cache": cache, "position": position}


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class _TransformerLayer(Module):
    """What the layers of encoder and decoder share: `norms` blocks, the last of them feed-forward."""

    norms: ClassVar[int]

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[..., Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        check_sizes(self, d_model=d_model, nhead=nhead, dim_feedforward=dim_feedforward)
        if isinstance(activation, str) and activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"{type(self).__name__} has no activation {activation!r}",
                expected='"relu", "gelu" or a function',
                fix=suggest(activation, _ACTIVATIONS),
            )
        place: dict[str, Any] = {"backend": backend, "dtype": dtype}
        for name in ("self_attn", "multihead_attn")[: self.norms - 1]:
            layer = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, **place)
            self.add_module(name, layer)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **place)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **place)
        self.norm_first = norm_first
        for i in range(1, self.norms + 1):
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, **place))
        for i in range(1, self.norms + 1):
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def constructor_arguments(self) -> dict[str, Any]:
        attention = self.self_attn
        named = next((name for name, f in _ACTIVATIONS.items() if f is self.activation), self.activation)
        return {
            "d_model": attention.embed_dim, "nhead": attention.num_heads, "dim_feedforward": self.linear1.out_features,
            "dropout": self.dropout.p, "activation": named, "layer_norm_eps": self.norm1.eps,
            "batch_first": attention.batch_first, "norm_first": self.norm_first, "bias": self.linear1.bias is not None,
        }  # fmt: skip

    def _feed_forward(self, x):
        first, activation = self.linear1, self.activation
        fused = next((name for name, f in _ACTIVATIONS.items() if f is activation), None)
        if (
            fused
            and "takes_activation" in type(first).__dict__
            and not first._hooks
            and "forward" not in first.__dict__
        ):
            x = first(x, activation=fused)
        else:
            x = activation(first(x))
        return self.linear2(self.dropout(x))

    def _attend(self, layer, x, memory, mask, padding, is_causal, cached):
        out, _ = layer(
            x, memory, memory, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal,
            **cached,
        )  # fmt: skip
        return out

    def _residual(self, x, i: int, block: Callable):
        """x + dropoutᵢ(block(normᵢ(x))), or normᵢ(x + dropoutᵢ(block(x)))."""
        norm, dropout = self._modules[f"norm{i}"], self._modules[f"dropout{i}"]
        if self.norm_first:
            return x + dropout(block(norm(x)))  # type: ignore[misc]
        return norm(x + dropout(block(x)))  # type: ignore[misc]


_SMALL = {"d_model": 4, "nhead": 2, "dim_feedforward": 6, "dropout": 0.0}


@LAYERS.register
class TransformerEncoderLayer(_TransformerLayer):
    """x' = norm₁(x + attention(x)), y = norm₂(x' + W₂ f(W₁x' + b₁) + b₂); with `norm_first` y = x' + mlp(norm₂(x')) and so on.

    Input (L, N, d_model), with `batch_first` (N, L, d_model), or without N. `src_mask` and `src_key_padding_mask` are
    `MultiheadAttention`'s, and so are `cache` and `position`. `activation` f: "relu", "gelu" or a function. Dropout is applied to
    attention weights, to f(…) and to what each block adds. (Vaswani et al., 2017; Xiong et al., 2020)
    """

    norms = 2
    examples = (
        Example(_SMALL, ((3, 2, 4),)),
        Example({**_SMALL, "activation": "gelu", "norm_first": True, "batch_first": True}, ((2, 3, 4),)),
        Example({**_SMALL, "bias": False, "layer_norm_eps": 1e-3}, ((3, 4),)),
    )

    def forward(
        self, src, src_mask=None, src_key_padding_mask=None, is_causal: bool = False, *, cache=None, position=None
    ):
        def attend(x):
            return self._attend(
                self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal, _cached(cache, position)
            )

        x = self._residual(constant(type(self).__name__, src), 1, attend)
        return self._residual(x, 2, self._feed_forward)


@LAYERS.register
class TransformerDecoderLayer(_TransformerLayer):
    """x' = norm₁(x + attention(x)), x″ = norm₂(x' + attention(x', memory)), y = norm₃(x″ + W₂ f(W₁x″ + b₁) + b₂).

    Input tgt (L, N, d_model) and memory (S, N, d_model), with `batch_first` (N, L, …), or without N. `cache` and `position`
    are those of tgt's attention to itself. The rest is as in `TransformerEncoderLayer`.
    """

    norms = 3
    examples = (
        Example(_SMALL, ((3, 2, 4), (5, 2, 4))),
        Example({**_SMALL, "activation": "gelu", "norm_first": True, "batch_first": True}, ((2, 3, 4), (2, 1, 4))),
        Example({**_SMALL, "bias": False, "layer_norm_eps": 1e-3}, ((3, 4), (2, 4))),
    )

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache=None,
        position=None,
    ):
        name = type(self).__name__
        memory = constant(name, memory)

        def attend(x):
            cached = _cached(cache, position)
            return self._attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal, cached)

        def look(x):
            return self._attend(
                self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask, memory_is_causal, {}
            )

        x = self._residual(constant(name, tgt), 1, attend)
        return self._residual(self._residual(x, 2, look), 3, self._feed_forward)


def _copies(owner: Module, layer: Module, count: int) -> ModuleList:
    """`count` deep copies of `layer`; without values of their own where layers are built without them."""
    check_sizes(owner, num_layers=count + 1)
    if not isinstance(layer, Module):
        raise ArgumentError(f"{type(owner).__name__} is made of copies of a layer", received=type(layer).__name__)
    if count > _MOST_LAYERS:
        raise ArgumentError(f"{type(owner).__name__} has at most {_MOST_LAYERS:,} layers", received=f"{count:,}")

    def copied() -> Module:
        memo: dict[int, Any] = {}
        if init.skipping():
            memo = {id(p): Parameter(p.detach(), p.requires_grad) for p in layer.parameters()}
        return copy.deepcopy(layer, memo)

    return ModuleList(copied() for _ in range(count))


def _caches(owner: Module, layers: ModuleList, caches) -> Sequence:
    """The cache of each layer, or None."""
    if caches is None:
        return [None] * len(layers)
    if len(caches) != len(layers):
        raise ArgumentError(
            f"{type(owner).__name__} has a cache for each layer", expected=f"{len(layers)}", received=f"{len(caches)}"
        )
    return caches


#: A description of a model in a file may ask for any number.
_MOST_LAYERS = 10_000


@LAYERS.register
class TransformerEncoder(Module):
    """norm(layerₙ(… layer₁(src))): `num_layers` deep copies of `encoder_layer`, then `norm`, if there is one.

    `mask`, `src_key_padding_mask`, `is_causal` and `position` go to every layer, `caches` to one each. `enable_nested_tensor` and `mask_check` are accepted
    and change nothing.
    """

    examples = ()
    composed = True

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ):
        super().__init__()
        self.layers = _copies(self, encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check

    def forward(
        self, src, mask=None, src_key_padding_mask=None, is_causal: bool | None = None, *, caches=None, position=None
    ):
        for layer, cache in zip(self.layers, _caches(self, self.layers, caches)):
            src = layer(src, mask, src_key_padding_mask, bool(is_causal), **_cached(cache, position))
        return src if self.norm is None else self.norm(src)


@LAYERS.register
class TransformerDecoder(Module):
    """norm(layerₙ(… layer₁(tgt, memory), memory)): `num_layers` deep copies of `decoder_layer`, then `norm`, if there is one.

    Masks, flags and `position` go to every layer, `caches` to one each.
    """

    examples = ()
    composed = True

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__()
        self.layers = _copies(self, decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        caches=None,
        position=None,
    ):
        for layer, cache in zip(self.layers, _caches(self, self.layers, caches)):
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
                bool(tgt_is_causal), memory_is_causal, **_cached(cache, position),
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


_SMALLEST = {**_SMALL, "num_encoder_layers": 1, "num_decoder_layers": 1}


@LAYERS.register
class Transformer(Module):
    """decoder(tgt, encoder(src)): `TransformerEncoder` and `TransformerDecoder`, each with a final LayerNorm.

    Input src (S, N, d_model) and tgt (L, N, d_model), with `batch_first` (N, S, …), or without N; output like tgt. Matrices start
    Xavier-uniform. `custom_encoder` and `custom_decoder` replace the two. (Vaswani et al., 2017)
    """

    examples = (
        Example(_SMALLEST, ((3, 2, 4), (5, 2, 4))),
        Example(
            {**_SMALLEST, "num_decoder_layers": 2, "norm_first": True, "batch_first": True}, ((2, 3, 4), (2, 1, 4))
        ),
    )

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[..., Any] = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        arguments = d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        place: dict[str, Any] = {"backend": backend, "dtype": dtype}
        parts = (
            ("encoder", custom_encoder, TransformerEncoder, TransformerEncoderLayer, num_encoder_layers),
            ("decoder", custom_decoder, TransformerDecoder, TransformerDecoderLayer, num_decoder_layers),
        )
        for name, custom, stack, layer, count in parts:
            if custom is None:
                norm = LayerNorm(d_model, layer_norm_eps, bias=bias, **place)
                custom = stack(layer(*arguments, **place), count, norm)  # type: ignore[operator]
            self.add_module(name, custom)
        self._arguments = (
            d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward, dropout, activation,
            custom_encoder, custom_decoder, layer_norm_eps, batch_first, norm_first, bias,
        )  # fmt: skip
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new matrices."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def constructor_arguments(self) -> dict[str, Any]:
        names = (
            "d_model", "nhead", "num_encoder_layers", "num_decoder_layers", "dim_feedforward", "dropout", "activation",
            "custom_encoder", "custom_decoder", "layer_norm_eps", "batch_first", "norm_first", "bias",
        )  # fmt: skip
        return dict(zip(names, self._arguments))

    @staticmethod
    def generate_square_subsequent_mask(sz: int, backend=None, dtype=None, *, device=None) -> Tensor:
        """The causal mask (sz, sz): -∞ above the diagonal, 0 elsewhere."""
        return triu(full((sz, sz), float("-inf"), dtype=dtype, backend=backend, device=device), 1)

    def forward(
        self,
        src,
        tgt,
        src_mask=None,
        tgt_mask=None,
        memory_mask=None,
        src_key_padding_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ):
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
            memory_is_causal,
        )  # fmt: skip
