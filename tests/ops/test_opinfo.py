"""Every function against PyTorch's own test inputs: values, vector-Jacobian products, dtypes, in-place forms, errors."""

from __future__ import annotations

import collections
import itertools
import random
import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore.backend.dtypes import DTYPES, name_of
from deepcore.errors import DeepcoreError
from deepcore.ops.registry import FUNCTIONS
from deepcore.tensor import Tensor

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's test inputs need expecttest")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

#: Relative tolerances of values and of vector-Jacobian products.
TOLERANCE = {
    torch.float64: (1e-9, 1e-7), torch.float32: (1e-5, 1e-5), torch.float16: (2e-3, 2e-3), torch.bfloat16: (2e-2, 2e-2),
    torch.complex128: (1e-9, 1e-7), torch.complex64: (1e-5, 1e-5),
}  # fmt: skip
#: Sums cancel: below this share of the largest element (and of 1), the error allowed is that of an element this large.
FLOOR = {torch.float64: 1e-3, torch.float32: 0.1, torch.float16: 1.0, torch.bfloat16: 1.0}
FLOOR |= {torch.complex128: 1e-3, torch.complex64: 0.1}

#: They return memory as it comes, or draw random numbers: nothing to compare. So do all of deepcore.random's.
RANDOM = {"empty", "empty_like", "new_empty"}
RANDOM |= {
    f"nn.functional.{name}"
    for name in ("dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu")
}
RANDOM |= {"bernoulli", "multinomial", "normal", "normal-in_place", "normal-number_mean"}
RANDOM |= {"svd_lowrank", "pca_lowrank"}  # `test_linalg.py` compares what they are made for
RANDOM.add("nn.functional.multi_head_attention_forward")  # its dropout; `tests/nn/test_attention.py` compares without
#: Functions whose OpInfo takes the arguments in another order, or writes into a copy.
ADAPTED = {
    "einsum": lambda tensors, equation: dc.einsum(equation, *tensors),
    "where": lambda input, condition, other: dc.where(condition, input, other),
    "nn.functional.embedding": lambda weight, input, **kwargs: dc.nn.functional.embedding(input, weight, **kwargs),
    # In PyTorch 255 equals -1 in uint8.
    "nn.functional.cosine_embedding_loss": lambda first, second, target, **kwargs: (
        dc.nn.functional.cosine_embedding_loss(
            first, second, target.to(dc.int8) if target.dtype == dc.uint8 else target, **kwargs
        )
    ),
    # The distance of its samples is PyTorch's function of the default.
    "nn.functional.triplet_margin_with_distance_loss": lambda *args, distance_function, **kwargs: (
        dc.nn.functional.triplet_margin_with_distance_loss(*args, **kwargs)
    ),
    "nn.functional.embedding_bag": lambda weight, input, **kwargs: dc.nn.functional.embedding_bag(
        input, weight, **kwargs
    ),
    "zero_": lambda input: input.clone().zero_(),
    "polygamma": lambda input, n: dc.polygamma(n, input),
    "special.polygamma": lambda input, n: dc.special.polygamma(n, input),
    "unfold": Tensor.unfold,
    "linalg.lstsq-grad_oriented": lambda *args, **kwargs: dc.linalg.lstsq(*args, **kwargs)[:2],
    "linalg.pinv-singular": lambda a, b, **kwargs: dc.linalg.pinv(a @ b.mT, **kwargs),
}
#: Arguments that are left out on purpose.
ABSENT = {
    (f"nn.functional.{name}", a)
    for name in ("embedding", "embedding_bag")
    for a in ("max_norm", "norm_type", "scale_grad_by_freq", "sparse")
}
#: Equal elements come in any order in PyTorch's indices: only values are compared where there are such.
TIES = {"argsort", "sort", "topk", "kthvalue"}
#: Vectors of a decomposition have any sign: compared after the OpInfo's own normalisation.
SIGNS = {"linalg.eigh", "linalg.svd", "svd"}
#: Functions of Hermitian matrices, whose gradient deepcore gives as one: of PyTorch's, that is the Hermitian part.
HERMITIAN = {"cholesky", "linalg.cholesky"}
#: (OpInfo, what the message of the difference holds) to the reason.
KNOWN: dict[tuple[str, str], str] = {
    **{
        (name, "keeps its shape"): "views of a tensor that requires grad would no longer fit: on purpose"
        for name in ("squeeze", "squeeze-multiple", "unsqueeze", "transpose", "t")
    },
    **{
        (name, "inf"): "at the poles PyTorch's trigamma is finite"
        for name in ("digamma", "polygamma", "special.polygamma")
    },
    **{
        (name, "not [nan nan nan]"): "PyTorch's is NaN at infinity, where the limit is 0"
        for name in ("polygamma", "special.polygamma")
    },
    **{
        (name, "gradient 0: [nan nan nan], not"): "PyTorch's slope at NaN is 1/2"
        for name in ("special.i1", "special.i1e")
    },
    **{
        (name, "not np.float64(0.0)"): "PyTorch's bounds that are NaN have no slope"
        for name in ("clamp_min", "clamp_max")
    },
    **{
        (name, "gradient"): "PyTorch's gradient is not 0 in the triangle that is not read"
        for name in ("cholesky_inverse", "cholesky_solve")
    },
    **{
        (name, "received: float16"): "there are no complex numbers of 16 bits"
        for name in ("complex", "view_as_complex")
    },
    ("polar", "gradient 0"): "PyTorch's gradient has the sign of a positive absolute value where it is negative",
    ("special.zeta", "nan"): "at infinite arguments PyTorch has neither the limits nor NaN throughout",
    ("special.log_ndtr", "gradient 0:"): "far below 0 PyTorch's slope is not |x|",
    ("matrix_exp", "not [nan nan nan]"): "PyTorch overflows in 16 bits on the way",
    ("nn.functional.batch_norm", "batch and a channel"): "a vector, which PyTorch takes when it is empty",
    ("nn.functional.elu", "nan"): "PyTorch's gradient at NaN differs between its vector lanes and the rest",
    ("nn.functional.silu", ", not [nan"): "PyTorch's is NaN at infinity, where the limit is plain",
    ("nn.functional.mish", ", not [nan"): "PyTorch's is NaN at infinity, where the limit is plain",
    ("nn.functional.celu", "nan"): "PyTorch's gradient at NaN differs between its vector lanes and the rest",
    ("nn.functional.selu", "nan"): "PyTorch's gradient at NaN differs between its vector lanes and the rest",
    ("nn.functional.softshrink", "np.float64(0.0), not"): "PyTorch passes the gradient on where the input is NaN",
    ("nn.functional.hardshrink", "np.float64(0.0), not"): "PyTorch passes the gradient on where the input is NaN",
    ("nn.functional.hardtanh", "np.float64(0.0), not"): "PyTorch passes the gradient on where the input is NaN",
    ("nn.functional.relu6", "np.float64(0.0), not"): "PyTorch passes the gradient on where the input is NaN",
    ("nn.functional.margin_ranking_loss", "does not broadcast"): "on purpose",
    ("nn.functional.hinge_embedding_loss", "does not broadcast"): "on purpose",
    ("nn.functional.soft_margin_loss", ", not [inf]"): "PyTorch's exponential overflows 16 bits",
    ("nn.functional.gaussian_nll_loss", "a loss does not broadcast"): "on purpose",
    **{
        (f"nn.functional.{name}", "takes floats"): "images of bytes, which the caller converts, and rounds as they like"
        for name in ("interpolate", "upsample_bilinear")
    },
    ("addcdiv", "gradient 2"): "PyTorch computes the gradient of a 16-bit divisor in 16 bits",
    ("addmv", "must be of the result's kind"): "on purpose",
    ("addr", "must be of the result's kind"): "on purpose",
    ("addbmm", "must be of the result's kind"): "on purpose",
    ("baddbmm", "must be of the result's kind"): "on purpose",
    ("renorm", ", not [nan nan nan]"): "PyTorch's slope of a complex norm of order infinity is NaN",
    ("cov", "relative error 1.9e-05"): "a rounding of weights whose sum is nearly the correction",
    ("arange", "does not fit dtype"): "a value outside the dtype is refused, not wrapped",
    ("full", "does not fit dtype"): "a value outside the dtype is refused, not wrapped",
    ("scalar_tensor", "does not fit dtype"): "a value outside the dtype is refused, not wrapped",
}


class Unsupported(Exception):
    """A sample that asks for what deepcore leaves out by design; the text says what."""


# -- which OpInfo is which function -------------------------------------------------------------------------------


def function_of(name: str):
    """deepcore's function for an OpInfo's name, or None."""
    if name in ADAPTED:
        return ADAPTED[name]
    if name.startswith("nn.functional."):
        return getattr(dc.nn.functional, name.removeprefix("nn.functional."), None)
    if "." in name:
        return FUNCTIONS[name].function if name in FUNCTIONS else alias_of(name)
    found = getattr(dc, name, None) or getattr(Tensor, name, None)
    found = found.fget if isinstance(found, property) else found
    return found if callable(found) else None


def function_for(op):
    return ADAPTED.get(f"{op.name}-{op.variant_test_name}") or function_of(op.name)


def alias_of(name: str):
    return next((entry.function for entry in FUNCTIONS.values() if name in entry.aliases), None)


OPS = {
    op.name + (f"-{op.variant_test_name}" if op.variant_test_name else ""): op
    for op in op_db
    if op.name not in RANDOM
    and getattr(getattr(dc.random, op.name, None), "__module__", "") != "deepcore.random"
    and function_of(op.name) is not None
    and "triton" not in op.variant_test_name
}


def test_every_function_has_an_opinfo():
    """A function that PyTorch has no inputs for is named here, so that none is left out unseen."""
    names = {op.name.removeprefix("nn.functional.") for op in OPS.values()} | {"getitem", "Tensor.unfold"}
    # PyTorch's inputs for modules have those of LPPool; `tests/nn/test_vision.py` compares grids, `test_recurrent.py` the rest.
    recurrent = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell"]
    others = ["affine_grid", "alias", "lp_pool1d", "lp_pool2d", "lp_pool3d"]
    others += ["adjoint", "chain_matmul", "vander"]  # `test_linalg.py` compares them
    missing = [name for name, entry in FUNCTIONS.items() if names.isdisjoint(entry.names)]
    assert sorted(missing) == sorted(recurrent + others)
    assert len(OPS) > 180


# -- PyTorch's values as deepcore's ---------------------------------------------------------------------------------


def convert(value, made: dict | None = None):
    """A sample's argument as deepcore's, in the same memory layout; `made` maps id(theirs) to ours."""
    if isinstance(value, torch.Tensor):
        if made is not None and id(value) in made:
            return made[id(value)]
        ours = dc.from_numpy(to_numpy(value))
        if value.requires_grad:
            ours.requires_grad_()
        if made is not None:
            made[id(value)] = ours
        return ours
    if isinstance(value, torch.dtype):
        name = str(value).removeprefix("torch.")
        if name not in DTYPES:
            raise Unsupported(f"dtype {name}")
        return DTYPES[name]
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(convert(v, made) for v in value)
    return value


def to_numpy(tensor) -> np.ndarray:
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.layout != torch.strided or name not in DTYPES:
        raise Unsupported(f"{tensor.layout}" if name in DTYPES else f"dtype {name}")
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(DTYPES[name]) if name == "bfloat16" else tensor.numpy(force=True)


def our_arguments(op, sample, made):
    kwargs = dict(sample.kwargs)
    if kwargs.pop("memory_format", None) not in (None, torch.contiguous_format, torch.preserve_format):
        raise Unsupported("memory_format")
    if kwargs.pop("layout", None) not in (None, torch.strided):
        raise Unsupported("layout")
    if kwargs.pop("pin_memory", False):
        raise Unsupported("pin_memory")
    if kwargs.get("dropout_p"):
        raise Unsupported("random numbers")
    if (
        op.name == "cov"
        and getattr(kwargs.get("aweights"), "dtype", None) == torch.float32
        and sample.input.is_complex()
    ):
        raise Unsupported("weights of less precision than the input")
    for name in kwargs:
        if (op.name, name) in ABSENT:
            raise Unsupported(f"{name} of {op.name}")
    if "device" in kwargs and op.name != "to":
        kwargs["backend"] = kwargs.pop("device")
    args = (sample.input, *sample.args)
    return tuple(convert(a, made) for a in args), {k: convert(v, made) for k, v in kwargs.items()}


def flat(value) -> list:
    """The tensors (or numbers) of a result or argument, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [x for v in value for x in flat(v)] if isinstance(value, (list, tuple)) else [value]


def leaves_of(sample) -> list:
    """The tensors of a sample that require grad, each once."""
    found = [
        x for x in flat([sample.input, sample.args, sample.kwargs]) if isinstance(x, torch.Tensor) and x.requires_grad
    ]
    return list({id(x): x for x in found}.values())


# -- comparing ------------------------------------------------------------------------------------------------------


def difference(ours, theirs, rtol: float, exact=()) -> str | None:
    """What is wrong with `ours`, or None.

    `exact`: the float64 result, then others for inputs a rounding apart: where sums cancel, `ours` may be four times
    as far from the first as those, or as PyTorch's, are.
    """
    if not isinstance(theirs, torch.Tensor):
        return None if type(ours) is type(theirs) and (ours == theirs or ours != ours) else f"{ours!r}, not {theirs!r}"
    if not isinstance(ours, Tensor):
        return f"{type(ours).__name__}, not a tensor"
    if ours.shape != tuple(theirs.shape):
        return f"shape {ours.shape}, not {tuple(theirs.shape)}"
    a, b = ours.detach().numpy(), to_numpy(theirs)
    if a.dtype != b.dtype:
        return f"dtype {name_of(a.dtype)}, not {name_of(b.dtype)}"
    if theirs.dtype.is_complex:  # both parts, together
        a, b = (np.ascontiguousarray(x).reshape(-1).view(a.real.dtype) for x in (a, b))
        exact = [torch.view_as_real(t.resolve_conj()) for t in exact]
    elif not theirs.dtype.is_floating_point:
        return None if np.array_equal(a, b) else f"{a.ravel()[:5]}, not {b.ravel()[:5]}"
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    rtol = max(rtol, TOLERANCE[theirs.dtype][0])
    finite = np.isfinite(b)
    bad = np.flatnonzero(~np.where(finite, np.isfinite(a), (a == b) | (np.isnan(a) & np.isnan(b))))
    if len(bad):
        return f"{a[bad][:3]}, not {b[bad][:3]} (at {bad[:3]})"
    if not finite.any():
        return None
    a, b = a[finite], b[finite]
    error = np.abs(a - b) / np.maximum(np.abs(b), FLOOR[theirs.dtype] * max(1.0, np.abs(b).max()))
    worst = int(error.argmax())
    if error[worst] <= rtol:
        return None
    if exact:
        truth, *near = (to_numpy(t).astype(np.float64).ravel()[finite] for t in exact)
        if np.abs(a - truth).max() <= 4 * max(np.abs(t - truth).max() for t in (b, *near)):
            return None
    return f"{a[worst]!r}, not {b[worst]!r} (relative error {error[worst]:.1e})"


def as_leaves(sample):
    """The sample with tensors of its own, in the same memory: PyTorch draws some as views made under no_grad."""
    made: dict = {}

    def detach(x):
        if isinstance(x, torch.Tensor) and x.requires_grad:
            return made.setdefault(id(x), x.detach().requires_grad_())
        return x

    return sample.transform(detach)


def their_results(op, sample, starts):
    """(outputs, gradients) from PyTorch; `starts(outputs)` gives (which outputs, cotangents)."""
    outputs = flat(normalised(op, sample)(op(sample.input, *sample.args, **sample.kwargs)))
    leaves = leaves_of(sample)
    chosen, cotangents = starts(outputs)
    if not chosen or not leaves:
        return outputs, []
    found = torch.autograd.grad([outputs[i] for i in chosen], leaves, cotangents, allow_unused=True)
    return outputs, [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves)]


def normalised(op, sample):
    """What is done to a result before it is compared."""
    return sample.output_process_fn_grad if op.name in SIGNS else lambda result: result


def our_results(function, args, kwargs, leaves, chosen, cotangents, process):
    outputs = flat(process(function(*args, **kwargs)))
    pairs = [
        (outputs[i], convert(g)) for i, g in zip(chosen, cotangents) if i < len(outputs) and outputs[i].requires_grad
    ]
    if not leaves or not chosen:
        return outputs, []
    found = [None] * len(leaves)
    if pairs:
        found = dc.autograd.grad([o for o, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)
    return outputs, [dc.zeros_like(t) if g is None else g for g, t in zip(found, leaves)]


WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def in_float64(sample, rng=None):
    """The sample with every float32 and complex64 tensor in double precision; with `rng`, each element moved by half a float32 rounding."""
    made: dict = {}

    def raise_precision(x):
        if isinstance(x, torch.Tensor) and x.dtype in WIDER:
            if id(x) not in made:
                away = rng.choice([-1, 1], tuple(x.shape)) * 2.0**-24 if rng else np.zeros(tuple(x.shape))
                made[id(x)] = (x.detach().to(WIDER[x.dtype]) * torch.as_tensor(1 + away)).requires_grad_(
                    x.requires_grad
                )
            return made[id(x)]
        return WIDER.get(x, x) if isinstance(x, torch.dtype) else x

    return sample.transform(raise_precision)


def cotangent(output, rng):
    """A vector to multiply a Jacobian with."""
    size = rng.uniform(0.5, 1.5, output.shape) * rng.choice([-1, 1], output.shape)
    return size * np.exp(1j * rng.uniform(-3, 3, output.shape)) if output.is_complex() else size


def compare(op, sample, dtype, rng, function=None) -> list[str]:
    """What differs for one sample, forward and backward."""
    made: dict = {}
    args, kwargs = our_arguments(op, sample, made)
    drawn: list = []

    def starts(outputs):
        chosen = [i for i, t in enumerate(outputs) if isinstance(t, torch.Tensor) and t.requires_grad]
        if not drawn:
            drawn.extend(cotangent(outputs[i], rng) for i in chosen)
        return chosen, [torch.as_tensor(g, dtype=outputs[i].dtype) for g, i in zip(drawn, chosen)]

    try:
        theirs, their_gradients = their_results(op, sample, starts)
    except RuntimeError as error:
        raise Unsupported(f"PyTorch refuses: {error}") from error
    if NotImplemented in theirs:
        raise Unsupported("PyTorch refuses: NotImplemented")
    if op.name in HERMITIAN:
        their_gradients = [(g + g.mH) / 2 for g in their_gradients]
    leaves = [made[id(t)] for t in leaves_of(sample)]
    function = function or function_for(op)
    ours, our_gradients = our_results(function, args, kwargs, leaves, *starts(theirs), normalised(op, sample))
    if len(theirs) != len(ours):
        return [f"{len(ours)} outputs, not {len(theirs)}"]
    forward, vjp = TOLERANCE[dtype]
    pairs = [(f"output {i}", a, b, forward) for i, (a, b) in enumerate(zip(ours, theirs))]
    pairs += [(f"gradient {i}", a, b, vjp) for i, (a, b) in enumerate(zip(our_gradients, their_gradients))]
    wrong = [i for i, (_, a, b, rtol) in enumerate(pairs) if difference(a, b, rtol)]
    exact: list = [()] * len(pairs)
    if wrong and dtype in WIDER:
        runs = [their_results(op, in_float64(sample, r), starts) for r in (None, rng, rng, rng)]
        exact = list(zip(*([*outputs, *gradients] for outputs, gradients in runs)))
    found = [(pairs[i][0], difference(*pairs[i][1:], exact[i])) for i in wrong]
    return [f"{what}: {text}" for what, text in found if text]


# -- the samples ----------------------------------------------------------------------------------------------------

COUNTS: dict = collections.defaultdict(collections.Counter)


def draw(op, dtype, seed: int, requires_grad: bool, kind: str = "sample_inputs", limit: int | None = None) -> list:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # op.sample_inputs would call the same function, and look through the whole stack for PyTorch's test case.
        found = (getattr(op, f"{kind}_func") or op.sample_inputs_func)(op, "cpu", dtype, requires_grad)
        return [as_leaves(sample) for sample in itertools.islice(found, limit)]


def check(name: str, dtype, samples, seed: int, count: collections.Counter, run=compare) -> list[str]:
    """A line for every sample that differs."""
    rng = np.random.default_rng(seed)
    failures = []
    for label, sample in samples:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                wrong = run(OPS[name], sample, dtype, rng)
            except Unsupported as left_out:
                count[f"skipped: {left_out}"] += 1
                continue
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
        text = "; ".join(wrong).replace("\n", " ")
        reason = next((why for (op, part), why in KNOWN.items() if name.startswith(op) and part in text), "")
        count[f"refused {reason}" if reason == "on purpose" else "failed" if wrong else "passed"] += 1
        if wrong and not reason:
            failures.append(f"{label} {sample.summary()}: {text}".replace("\n", " "))
    return failures


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", OPS)
def test_samples(name, dtype, manual_seed):
    """Values and vector-Jacobian products of every sample, contiguous and not."""
    op = OPS[name]
    if dtype not in op.supported_dtypes("cpu"):
        pytest.skip("PyTorch has it for other dtypes only")
    samples = draw(op, dtype, manual_seed, op.supports_autograd)
    both = itertools.chain(enumerate(samples), ((f"{i} strided", s.noncontiguous()) for i, s in enumerate(samples)))
    assert not check(name, dtype, both, manual_seed, COUNTS[dtype])


#: OpInfos that deepcore has for real numbers alone, as their complex samples showed.
REAL_ONLY: set[str] = set()
COMPLEX = [name for name, op in OPS.items() if torch.complex128 in op.supported_dtypes("cpu")]


@pytest.mark.parametrize(
    "dtype",
    [torch.complex128, pytest.param(torch.complex64, marks=pytest.mark.slow)],
    ids=["complex128", "complex64"],
)
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_samples(name, dtype, manual_seed):
    """As `test_samples`; an op that lacks complex numbers says so for each sample."""
    op = OPS[name]
    samples = draw(op, dtype, manual_seed, op.supports_autograd)
    both = itertools.chain(enumerate(samples), ((f"{i} strided", s.noncontiguous()) for i, s in enumerate(samples)))
    failures = check(name, dtype, both, manual_seed, COUNTS[dtype])
    if failures and all("DTypeError" in f and "complex" in f for f in failures):
        REAL_ONLY.add(name)
        pytest.skip("for real numbers alone")
    assert not failures


def test_most_functions_take_complex_numbers():
    if not COUNTS[torch.complex128]:
        pytest.skip("counts what test_complex_samples ran")
    print(len(COMPLEX) - len(REAL_ONLY), "of", len(COMPLEX), sorted(REAL_ONLY))
    assert len(REAL_ONLY) < 0.1 * len(COMPLEX)


def complex_too(x):
    return x.detach().to(torch.complex128) if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x


#: They need no order and take complex numbers, where PyTorch does not.
WIDER_THAN_PYTORCH = {"cdist", "nn.functional.pdist", "nansum", "nanmean", "unique_consecutive"}
WIDER_THAN_PYTORCH |= {f"nn.functional.{name}" for name in ("embedding_bag", "glu", "kl_div", "nll_loss")}


@pytest.mark.parametrize("name", [n for n in OPS if n not in COMPLEX and n not in WIDER_THAN_PYTORCH])
def test_functions_of_real_numbers_refuse_complex_ones(name, manual_seed):
    """What orders, or is not defined otherwise, raises a typed error, as it raises in PyTorch."""
    op = OPS[name]
    if torch.float64 not in op.supported_dtypes("cpu"):
        pytest.skip("a function of whole numbers")
    accepted = []
    for sample in draw(op, torch.float64, manual_seed, False, limit=3):
        sample = sample.transform(complex_too)
        try:
            op(sample.input, *sample.args, **sample.kwargs)
        except Exception:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    args, kwargs = our_arguments(op, sample, {})
                    function_for(op)(*args, **kwargs)
                except (Unsupported, DeepcoreError):
                    continue
            accepted.append(sample.summary())
    assert not accepted


@pytest.mark.parametrize(
    "dtypes",
    [
        pytest.param([torch.bool, torch.uint8, torch.int64], id="integers"),
        pytest.param(
            [torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16], id="more", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.parametrize("name", OPS)
def test_other_dtypes(name, dtypes, manual_seed):
    """Integers and bools exactly, half precisions roughly; the dtype of the result always."""
    op = OPS[name]
    failures = []
    for dtype in dtypes:
        if name == "nn.functional.grid_sample" and dtype in (torch.float16, torch.bfloat16):
            continue  # PyTorch computes the coordinates in 16 bits, deepcore in 32
        if dtype in op.supported_dtypes("cpu"):
            samples = draw(op, dtype, manual_seed, False, limit=4)
            failures += [
                f"{dtype} {f}"
                for f in check(name, dtype, enumerate(samples), manual_seed, COUNTS["other"], same_forward)
            ]
    assert not failures


def same_forward(op, sample, dtype, rng):
    args, kwargs = our_arguments(op, sample, {})
    theirs = flat(op(sample.input, *sample.args, **sample.kwargs))
    ours = flat(function_for(op)(*args, **kwargs))
    if op.name in TIES:
        ours, theirs = ours[: len(ours) - 1], theirs[: len(theirs) - 1]
    found = [difference(a, b, TOLERANCE.get(dtype, TOLERANCE[torch.float32])[0]) for a, b in zip(ours, theirs)]
    return [f for f in found if f] + ([f"{len(ours)} outputs, not {len(theirs)}"] if len(ours) != len(theirs) else [])


IN_PLACE = [
    name
    for name, op in OPS.items()
    if op.inplace_variant is not None
    and hasattr(Tensor, getattr(op.inplace_variant, "__name__", "no method"))
    and torch.float64 in op.dtypes
]


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name, manual_seed):
    """x.f_(…) leaves in a copy of x what PyTorch's does, with its gradients."""
    op = OPS[name]
    samples = [s for s in draw(op, torch.float64, manual_seed, op.supports_autograd) if not s.broadcasts_input]
    assert not check(name, torch.float64, enumerate(samples), manual_seed, COUNTS["in place"], same_in_place)


def same_in_place(op, sample, dtype, rng):
    written = op.inplace_variant.__name__

    def theirs(input, *args, **kwargs):
        return op.inplace_variant(input.clone(), *args, **kwargs)

    def ours(input, *args, **kwargs):
        return getattr(input.clone(), written)(*args, **kwargs)

    theirs.name = op.name
    return compare(theirs, sample, dtype, rng, ours)


#: The exceptions that stand for PyTorch's RuntimeError, which it raises for most things.
ERRORS = (DeepcoreError, TypeError, ValueError, IndexError, RuntimeError, NotImplementedError, OverflowError)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.error_inputs_func is not None])
def test_error_inputs(name, manual_seed):
    """What PyTorch refuses is refused."""
    op = OPS[name]
    torch.manual_seed(manual_seed)
    accepted = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in op.error_inputs_func(op, "cpu"):
            sample = one.sample_input
            if not one.error_regex or "out" in sample.kwargs:  # numbers for tensors, which deepcore takes
                continue
            try:
                args, kwargs = our_arguments(op, sample, {})
            except (Unsupported, ValueError):  # also: more dimensions than NumPy has
                continue
            try:
                function_for(op)(*args, **kwargs)
            except ERRORS:
                continue
            accepted.append(f"{sample.summary()}: {one.error_regex}".replace("\n", " "))
    assert not accepted


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_reference_inputs(name, manual_seed):
    """PyTorch's larger set of inputs: special values, more shapes and layouts."""
    op = OPS[name]
    if torch.float64 not in op.supported_dtypes("cpu"):
        pytest.skip("PyTorch has it for other dtypes only")
    try:
        samples = draw(op, torch.float64, manual_seed, op.supports_autograd, "reference_inputs")
    except ValueError:  # some are integers, which PyTorch then cannot let require grad
        samples = draw(op, torch.float64, manual_seed, False, "reference_inputs")
    small = [s for s in samples if not isinstance(s.input, torch.Tensor) or s.input.numel() < 50_000]
    assert not check(name, torch.float64, enumerate(small), manual_seed, COUNTS["reference"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_nearly_all_samples_pass(dtype):
    """At least 99 % of the samples that ran, known differences counted against it, what is refused on purpose apart."""
    count = COUNTS[dtype]
    if not count:
        pytest.skip("counts what test_samples ran")
    print(dict(count))
    assert count["passed"] >= 0.99 * (count["passed"] + count["failed"])
