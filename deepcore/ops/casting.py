"""The rules of `autocast`, by op and type of device, and the casts of operands that follow from them.

An op without a rule computes in the dtypes that it is given. One with a rule runs with autocasting disabled, so that what
it is composed of has no rules of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from deepcore.autograd import autocasting
from deepcore.backend import dtypes as dt
from deepcore.effects import mode
from deepcore.errors import DTypeError
from deepcore.tensor import Tensor


# -- rules: the dtype of the operands, or None where they stay as they are -------------------------------------------------
def lower(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """The dtype of the region."""
    return dtype


def float32(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """float32, unless the call names another dtype."""
    return dt.float32 if keywords.get("dtype") is None else None


def widest(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """The widest dtype among the operands, the region's at least."""
    return dt.float32 if any(t.dtype == dt.float32 for t in tensors) else dtype


def unchanged(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """The given dtypes, though the op is composed of ops that have a rule."""
    return None


def _contraction(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """The dtype of the region where a label is summed over two operands: the others are products of elements."""
    left, _, right = arguments[0].partition("->") if isinstance(arguments[0], str) else ("", "", "")
    terms = left.split(",")
    summed = {c for term in terms for c in term if c.isalpha()}.difference(right)
    return dtype if any(sum(c in term for term in terms) > 1 for c in summed) else None


def _vectors(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """The dtype of the region for a product of matrices; numbers, and two vectors, are multiplied as they are."""
    return dtype if all(t.ndim for t in tensors) and any(t.ndim > 1 for t in tensors) else None


def _padding(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    """float32 where the padding repeats elements of the input."""
    mode_ = keywords.get("mode", arguments[2] if len(arguments) > 2 else "constant")
    return dt.float32 if mode_ in ("reflect", "replicate") else None


def _unsafe(tensors: list[Tensor], dtype, arguments: tuple, keywords: dict):
    raise DTypeError(
        "binary_cross_entropy under autocast: a sigmoid of 16 bits may be 0 or 1 exactly, where its logarithm is infinite",
        fix="binary_cross_entropy_with_logits, or BCEWithLogitsLoss, of the input of the sigmoid",
    )


_PRODUCTS = (
    "addbmm addmm baddbmm bmm chain_matmul conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d "
    "linear lstm matmul mm multi_dot prelu rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell "
    "scaled_dot_product_attention"
)
_LOSSES = (
    "binary_cross_entropy_with_logits cdist cosine_embedding_loss cross_entropy ctc_loss hinge_embedding_loss huber_loss "
    "kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss poisson_nll_loss "
    "smooth_l1_loss soft_margin_loss triplet_margin_loss"
)
#: PyTorch's rules, by type of device and rule: those of the CPU as measured, those of CUDA as documented. The names are those
#: of our functions in Python: `inv` is `linalg.inv`.
_LISTS: dict[str, dict[Callable, str]] = {
    "cpu": {
        lower: f"{_PRODUCTS} affine_grid corrcoef cov tensordot vecdot",
        float32: f"{_LOSSES} adaptive_avg_pool3d adaptive_max_pool3d avg_pool3d binary_cross_entropy cholesky cond eigh "
        "eigvalsh grid_sample inv linalg_cholesky linalg_qr linalg_svd local_response_norm lp_pool3d lstsq matrix_rank max_pool3d "
        "max_unpool1d max_unpool2d max_unpool3d nanquantile pinverse prod qr quantile solve svd svdvals trace",
        widest: "gru gru_cell index_copy lstm_cell",
        _contraction: "einsum",
        _vectors: "inner",
        unchanged: "addmv addr bilinear dot mv vdot",
        _padding: "pad",
    },
    "cuda": {
        lower: f"{_PRODUCTS} addmv addr einsum gru gru_cell lstm_cell mv",
        float32: f"{_LOSSES} acos asin cosh cosine_similarity cumprod cumsum dist erfinv exp expm1 group_norm interpolate "
        "layer_norm log log10 log1p log2 log_softmax logsumexp norm normalize pdist pow prod reciprocal renorm rsqrt sinh "
        "softmax softmin softplus sum tan",
        widest: "addcdiv addcmul atan2 bilinear cross dot grid_sample index_put scatter_add tensordot vdot",
        unchanged: "nansum trace",
        _unsafe: "binary_cross_entropy",
    },
}
#: Op: the rule of each type of device that has one.
RULES: dict[str, dict[str, Callable]] = {}
for _device, _rules in _LISTS.items():
    for _rule, _names in _rules.items():
        for _name in _names.split():
            RULES.setdefault(_name, {})[_device] = _rule


def operands(name: str, *arguments) -> tuple:
    """The arguments of the op `name`, cast by its rule; called only once `autocasting.used`."""
    found = _target(name, arguments, {}) if mode.autocast.enabled else None
    return arguments if found is None else _cast(arguments, *found)


def call(name: str, function: Callable, arguments: tuple, keywords: dict) -> Any:
    """`function` of arguments cast by the rule of the op `name`, or NotImplemented where no rule applies."""
    found = _target(name, arguments, keywords) if mode.autocast.enabled else None
    if found is None:
        return NotImplemented
    return autocasting.without(function, _cast(arguments, *found), _cast(keywords, *found))


def _target(name: str, arguments: tuple, keywords: dict):
    """(the dtype of the operands or None, the type of device) by the rule of an op, or None without one."""
    tensors = [*_tensors(arguments), *_tensors(keywords)]
    device = autocasting.type_of(tensors[0].backend) if tensors else ""
    rule = RULES[name].get(device)
    if device not in mode.autocast.enabled or rule is None:
        return None
    eligible = [t for t in tensors if autocasting.is_eligible(t, device)]
    return rule(eligible, getattr(mode.autocast, device), arguments, keywords), device


def _cast(tree, dtype, device: str):
    if dtype is None:
        return tree
    state = mode.autocast

    def cast(t: Tensor) -> Tensor:
        return autocasting.cast(t, dtype, state) if autocasting.is_eligible(t, device) and t.dtype != dtype else t

    return autocasting.map_tensors(tree, cast)


def _tensors(tree) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple, dict)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(value)


def casts(function: Callable) -> Callable:
    """Decorator: `function` follows the rule of its name, if there is one.

    Functions whose calls are so short that a wrapper would count follow it themselves: `follows` marks them.
    """
    name = function.__name__
    if name not in RULES or hasattr(function, "follows"):
        return function

    @functools.wraps(function)
    def casting(*args, **kwargs):
        if autocasting.used:
            result = call(name, casting, args, kwargs)
            if result is not NotImplemented:
                return result
        return function(*args, **kwargs)

    return follows(casting)


def follows(function: Callable) -> Callable:
    """Mark a function that follows the rule of its name itself, by `operands` or `call`."""
    function.follows = True  # type: ignore[attr-defined]
    return function
