"""`autocast`: PyTorch's rules op by op, regions, threads, the cache of casts, gradients, functions of the user's."""

from __future__ import annotations

import threading
from operator import attrgetter

import numpy as np
import pytest
from op_samples import replace, samples, tensors_in

import deepcore as dc
from deepcore import missing, nn
from deepcore.autograd import Function
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend, use_backend
from deepcore.errors import ArgumentError, DeepcoreWarning, DTypeError
from deepcore.ops import casting
from deepcore.ops.registry import FUNCTIONAL, FUNCTIONS

F = nn.functional
HALVES = {"bfloat16": dc.bfloat16, "float16": dc.float16}


@pytest.fixture(params=HALVES)
def half(request):
    return HALVES[request.param]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def kind(backend):
    """The type of device of each backend, which is the default one."""
    with use_backend(backend):
        yield get_backend(backend).kernel_kind or "cpu"


def cast_tree(value, dtype):
    """The floating tensors of a sample as leaves of another dtype."""
    mapping = {id(t): t.detach().to(dtype) for t in tensors_in([value]) if dt.is_floating(t.dtype)}
    return replace(value, mapping)


def dtypes_of(result) -> list[str]:
    return [dt.name_of(t.dtype) for t in tensors_in(result if isinstance(result, (list, tuple)) else [result])]


# -- rules -------------------------------------------------------------------------------------------------------------
def test_the_table_has_names_that_exist():
    """A name in the table is one of PyTorch's, or declared here."""
    ours = {entry.function.__name__ for entry in FUNCTIONS.values()}
    places = ("torch", "torch.nn.functional", "torch.linalg", "torch.special", "torch.Tensor")
    known = set().union(*(missing.torch_names()[place] for place in places), ours, FUNCTIONAL)
    assert set(casting.RULES) <= known


#: Functions that have a rule, by their public names.
RULED = {name: entry.function for name, entry in FUNCTIONS.items() if entry.function.__name__ in casting.RULES}
RULED |= {name: function for name, function in FUNCTIONAL.items() if name in casting.RULES}


def followed(name: str) -> bool:
    return getattr(RULED[name], "follows", False)


@pytest.mark.parametrize("name", sorted(RULED))
def test_every_function_in_the_table_follows_it(name):
    assert followed(name)


def test_functions_without_a_rule_keep_their_dtypes(kind, half):
    """They are composed of functions that have one, which must not show."""
    changed = set()
    for name in sorted(FUNCTIONS):
        if kind in casting.RULES.get(FUNCTIONS[name].function.__name__, {}):
            continue
        for sample in samples(name, str(dc.get_backend())):
            args = cast_tree(sample.args, half)
            kwargs = {key: cast_tree(value, half) for key, value in sample.kwargs.items()}
            try:
                want = dtypes_of(FUNCTIONS[name].function(*args, **kwargs))
            except DTypeError:  # it takes no 16-bit floats
                continue
            with dc.autocast(kind, half):
                changed |= {name} if dtypes_of(FUNCTIONS[name].function(*args, **kwargs)) != want else set()
    # Powers and sums, in PyTorch, too.
    sums = {"lp_pool1d", "lp_pool2d", "lp_pool3d", "trapezoid", "cumulative_trapezoid", "linalg.vecdot"}
    assert changed == (set() if kind == "cpu" else sums)


#: Functions whose result PyTorch computes elsewhere than in one op of the lists: LSTMs without its fused kernel keep their
#: cells in float32.
_OTHERWISE = {"lstm"}


def to_torch(value, torch, dtype):
    if isinstance(value, dc.Tensor):
        out = torch.tensor(np.array(value.detach().numpy()))
        return out.to(dtype) if out.is_floating_point() else out
    if isinstance(value, (list, tuple)):
        return type(value)(to_torch(v, torch, dtype) for v in value)
    return value


@pytest.mark.filterwarnings("ignore:Default grid_sample and affine_grid", "ignore:Using padding='same'")
@pytest.mark.filterwarnings("ignore:(?s).*deprecated:UserWarning")
@pytest.mark.parametrize("name", sorted(set(RULED) & set(FUNCTIONS) - _OTHERWISE))
def test_results_have_the_dtypes_of_pytorchs(name, half, torch):
    places = (torch, torch.nn.functional, torch.Tensor)
    theirs = next((getattr(place, name) for place in places if hasattr(place, name)), None) or attrgetter(name)(torch)
    kind = getattr(torch, dt.name_of(half))
    compared = 0
    for sample in samples(name, "cpu"):
        if name == "linear" and "activation" in sample.kwargs:
            continue
        for own_dtype, dtype in ((dc.float32, torch.float32), (half, kind)):
            given = [to_torch(v, torch, dtype) for v in sample.args]
            keywords = {key: to_torch(v, torch, dtype) for key, v in sample.kwargs.items()}
            try:
                with torch.autocast("cpu", kind):
                    want = theirs(*given, **keywords)
            except (RuntimeError, TypeError, NotImplementedError):
                continue
            kwargs = {key: cast_tree(v, own_dtype) for key, v in sample.kwargs.items()}
            with dc.autocast("cpu", half):
                out = FUNCTIONS[name].function(*cast_tree(sample.args, own_dtype), **kwargs)
            want = want if isinstance(want, tuple) else (want,)
            names = [str(t.dtype).removeprefix("torch.") for t in want if isinstance(t, torch.Tensor)]
            assert dtypes_of(out)[: len(names)] == names, sample
            compared += 1
    assert compared


LOSS_CASES = {
    "mse_loss": "xy", "l1_loss": "xy", "smooth_l1_loss": "xy", "huber_loss": "xy", "cross_entropy": "xc", "nll_loss": "xc",
    "kl_div": "xy", "binary_cross_entropy": "pp", "binary_cross_entropy_with_logits": "xp", "poisson_nll_loss": "xy",
    "hinge_embedding_loss": "xs", "soft_margin_loss": "xs", "multi_margin_loss": "xc", "multilabel_soft_margin_loss": "xp",
    "triplet_margin_loss": "xyx", "cosine_similarity": "xy", "pairwise_distance": "xy", "gaussian_nll_loss": "xyp",
}  # fmt: skip


@pytest.mark.parametrize("name", LOSS_CASES)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_losses_against_pytorchs(name, half, torch):
    rng = np.random.default_rng(3)
    make = {
        "x": lambda: rng.standard_normal((6, 5)).astype("f"), "y": lambda: rng.standard_normal((6, 5)).astype("f"),
        "p": lambda: rng.random((6, 5)).astype("f") * 0.9 + 0.05, "c": lambda: rng.integers(0, 5, 6),
        "s": lambda: rng.choice([-1.0, 1.0], (6, 5)).astype("f"),
    }  # fmt: skip
    arrays = [make[kind]() for kind in LOSS_CASES[name]]
    kind = getattr(torch, dt.name_of(half))
    for low in (False, True):
        own = [dc.tensor(a) for a in arrays]
        own = [t.to(half) if low and t.dtype == dc.float32 else t for t in own]
        given = [torch.tensor(a) for a in arrays]
        given = [t.to(kind) if low and t.is_floating_point() else t for t in given]
        with torch.autocast("cpu", kind):
            want = getattr(torch.nn.functional, name)(*given)
        with dc.autocast("cpu", half):
            out = getattr(F, name)(*own)
        assert f"torch.{dt.name_of(out.dtype)}" == str(want.dtype)
        tolerance = 1e-5 if out.dtype == dc.float32 else 3 * dc.finfo(half).eps
        np.testing.assert_allclose(out.float().numpy(), want.float().numpy(), tolerance, tolerance)


def test_rules_of_a_gpu(half):
    """On the stand-in: exponentials, norms and sums in float32, products in 16 bits."""
    with use_backend("standin"), dc.autocast("cuda", half):
        x = dc.randn(4, 4).to(half)
        assert {f(x).dtype for f in (dc.exp, dc.log, dc.sum, dc.tan, dc.rsqrt)} == {dc.float32}
        assert F.layer_norm(x, (4,)).dtype == F.softmax(x, -1).dtype == dc.float32
        assert dc.sum(x, dtype=half).dtype == half and F.softmax(x, -1, dtype=half).dtype == half
        assert dc.mv(x.float(), x[0]).dtype == half and (x.float() @ x).dtype == half
        assert dc.dot(x[0], x[1].float()).dtype == dc.float32 and dc.dot(x[0], x[1]).dtype == half
        assert (x + 1).dtype == half and dc.tanh(x).dtype == half
        with pytest.raises(DTypeError, match="BCEWithLogitsLoss"):
            F.binary_cross_entropy(dc.sigmoid(x), x)


def test_ineligible_tensors_and_writes(half):
    x, wide = dc.ones(3, 3), dc.ones(3, 3, dtype=dc.float64)
    with dc.autocast("cpu", half):
        assert (wide @ wide).dtype == dc.float64
        assert (dc.ones(3, 3, dtype=dc.int64) @ dc.ones(3, 3, dtype=dc.int64)).dtype == dc.int64
        with pytest.raises(DTypeError, match="one dtype"):
            wide @ x
        y = x.clone()
        y.addmm_(x, x)
        assert y.dtype == dc.float32 and y[0, 0] == 4
        y @= x
        assert y.dtype == half
        assert dc.einsum("ij->j", x).dtype == dc.float32 and dc.einsum("ij,jk->ik", x, x).dtype == half


@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention_has_one_dtype(half, mask):
    """Also with masks in float32, and for the weights that it returns."""
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), dc.randn(2, 5, 8)
    given = {None: None, "float": dc.zeros(5, 5), "bool": dc.ones(5, 5).triu(1) > 0}[mask]
    with dc.autocast("cpu", half):
        for need_weights in (True, False):
            out, weights = attention(x, x, x, attn_mask=given, need_weights=need_weights)
            assert out.dtype == half and (weights is None or weights.dtype == half)


def test_arrays_are_operands(half):
    with dc.autocast("cpu", half):
        x = np.ones((3, 3), "f")
        assert F.linear(dc.ones(2, 3), dc.ones(3, 3), None).dtype == half
        assert F.mse_loss(dc.ones(3, 3).to(half), x).dtype == dc.float32


# -- regions -----------------------------------------------------------------------------------------------------------
def test_regions_nest_and_end(kind, half):
    x = dc.ones(2, 2)
    other = dc.float16 if half == dc.bfloat16 else dc.bfloat16
    with dc.autocast(kind, half) as region:
        assert region.fast_dtype == half and dc.is_autocast_enabled(kind) and dc.get_autocast_dtype(kind) == half
        with dc.autocast(kind, other):
            assert (x @ x).dtype == other
            with dc.autocast(kind, enabled=False):
                assert (x @ x).dtype == dc.float32 and not dc.is_autocast_enabled(kind)
            with dc.autocast(kind):
                assert (x @ x).dtype == other
        assert (x @ x).dtype == half
        with pytest.raises(ZeroDivisionError), dc.autocast(kind, enabled=False):
            1 / 0  # noqa: B018
        assert (x @ x).dtype == half
        other_kind = "cpu" if kind == "cuda" else "cuda"
        assert not dc.is_autocast_enabled(other_kind)
    assert (x @ x).dtype == dc.float32 and not dc.is_autocast_enabled(kind)


def test_decorator():
    @dc.autocast("cpu", dc.float16)
    def product(x, depth=0):
        """Doc."""
        return product(x, depth - 1) if depth else (x @ x, dc.is_autocast_enabled("cpu"))

    x = dc.ones(2, 2)
    assert product.__name__ == "product" and product(x)[0].dtype == dc.float16 and product(x, 3)[1]
    assert not dc.is_autocast_enabled("cpu")

    class Model(nn.Module):
        @dc.amp.autocast("cpu", dtype=dc.bfloat16)
        def forward(self, x):
            return x @ x

    assert Model()(x).dtype == dc.bfloat16


def test_threads_have_states_of_their_own():
    seen = {}

    def work(name, dtype):
        seen[name, "before"] = dc.is_autocast_enabled("cpu"), dc.get_autocast_dtype("cpu")
        with dc.autocast("cpu", dtype):
            barrier.wait()
            seen[name] = (dc.ones(2, 2) @ dc.ones(2, 2)).dtype
            barrier.wait()

    barrier = threading.Barrier(2)
    with dc.autocast("cpu", dc.float16):
        threads = [threading.Thread(target=work, args=item) for item in HALVES.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(seen[name, "before"] == (False, dc.bfloat16) and seen[name] == dtype for name, dtype in HALVES.items())


def test_functions_that_set_the_state():
    assert not dc.is_autocast_enabled() and dc.get_autocast_dtype("cuda") == dc.float16
    try:
        dc.set_autocast_enabled("cpu", True)
        dc.set_autocast_dtype("cpu", dc.float16)
        assert dc.is_autocast_enabled("cpu") and not dc.is_autocast_enabled("cuda")
        assert (dc.ones(2, 2) @ dc.ones(2, 2)).dtype == dc.float16
        dc.set_autocast_enabled(True)  # as in PyTorch: of GPUs
        assert dc.is_autocast_enabled()
    finally:
        dc.set_autocast_enabled("cpu", False)
        dc.set_autocast_enabled(False)
        dc.set_autocast_dtype("cpu", dc.bfloat16)
    with pytest.raises(DTypeError, match="float32"):
        dc.set_autocast_dtype("cpu", dc.float32)


def test_invalid_arguments():
    with pytest.raises(ArgumentError, match="by name"):
        dc.autocast(dc.device("cpu"))
    with pytest.raises(ArgumentError, match="xpu"):
        dc.autocast("xpu")
    with pytest.warns(DeepcoreWarning, match="bfloat16 or float16, not to float32"):
        region = dc.autocast("cpu", dc.float32)
    with region:
        assert not dc.is_autocast_enabled("cpu")
    if not dc.cuda.is_available():
        with pytest.warns(DeepcoreWarning, match="no such device"):
            dc.autocast("cuda")
    assert dc.amp.is_autocast_available("cpu") and not dc.amp.is_autocast_available("xpu")


# -- gradients and the cache -------------------------------------------------------------------------------------------
def test_gradients_are_float32_and_pytorchs(half, torch):
    rng = np.random.default_rng(0)
    kind = getattr(torch, dt.name_of(half))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(20, 32), torch.nn.LayerNorm(32), torch.nn.GELU(), torch.nn.Linear(32, 5)
    )
    own = nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5))
    own.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    x, y = rng.standard_normal((64, 20)).astype("f"), rng.integers(0, 5, 64)
    with torch.autocast("cpu", kind):
        want = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
    with dc.autocast("cpu", half):
        loss = F.cross_entropy(own(dc.tensor(x)), dc.tensor(y))
    want.backward()
    loss.backward()
    assert loss.dtype == dc.float32
    np.testing.assert_allclose(loss.item(), want.item(), 1e-2)
    for p, q in zip(own.parameters(), theirs.parameters()):
        assert p.grad.dtype == dc.float32
        scale = float(q.grad.abs().max())
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 0, 4 * dc.finfo(half).eps * scale)


def test_a_parameter_is_cast_once_until_it_is_written(half):
    w = nn.Parameter(dc.ones(3, 3))
    casts = []

    def watch(proceed, op, inputs, params):
        casts.extend(t for t in inputs if op.name == "cast" and t is w)
        return proceed(op, inputs, params)

    x = dc.ones(2, 3)
    with dc.autograd.intercept(watch):
        with dc.autocast("cpu", half):
            a, b = F.linear(x, w), F.linear(x, w)
            with dc.autocast("cpu", enabled=False):
                pass
            c = x @ w
            assert len(casts) == 1
            with dc.no_grad():
                F.linear(x, w)
                w.mul_(2)
            assert F.linear(x, w)[0, 0] == 6
            count = len(casts)
            w.data = dc.zeros(3, 3)
            assert F.linear(x, w)[0, 0] == 0 and len(casts) == count + 1
            dc.clear_autocast_cache()
            F.linear(x, w)
            assert len(casts) == count + 2
        with dc.autocast("cpu", half, cache_enabled=False):
            assert not dc.is_autocast_cache_enabled()
            count = len(casts)
            F.linear(x, w)
            F.linear(x, w)
            assert len(casts) == count + 2
        assert dc.is_autocast_cache_enabled()
    for loss in (a, b, c):  # one backward frees nothing of the others
        loss.sum().backward()
    assert (w.grad.numpy() == 6).all()


def test_no_cast_outlives_its_region(half):
    from deepcore.autograd import autocasting

    w = nn.Parameter(dc.ones(3, 3))
    with dc.autocast("cpu", half):
        with dc.autocast("cpu", half):
            F.linear(dc.ones(2, 3), w)
        assert autocasting._casts.table
    assert not autocasting._casts.table


def test_backward_inside_a_region(half):
    """Derivatives of ops have the dtypes of the forward pass, also where they are products."""
    w, x = dc.ones(3, 3, requires_grad=True), dc.ones(3, 3, requires_grad=True)
    loss = (w @ x).sum()
    with dc.autocast("cpu", half):
        loss.backward()
        assert dc.is_autocast_enabled("cpu")
    assert w.grad.dtype == dc.float32
    (g,) = dc.autograd.grad((w * w).sum(), [w], create_graph=True)
    with dc.autocast("cpu", half):
        g.sum().backward()
    assert w.grad.dtype == dc.float32


# -- functions of the user's -------------------------------------------------------------------------------------------
def make_function(cast_inputs=None, seen=None):
    class Product(Function):
        @staticmethod
        @dc.amp.custom_fwd(device_type="cpu", cast_inputs=cast_inputs)
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            seen.append((dc.is_autocast_enabled("cpu"), a.dtype))
            return a @ b

        @staticmethod
        @dc.amp.custom_bwd(device_type="cpu")
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            seen.append((dc.is_autocast_enabled("cpu"), g.dtype))
            return g @ b.T, a.T @ g

    return Product


def test_custom_functions_run_backward_as_forward(half):
    seen = []
    a, b = dc.ones(3, 3, requires_grad=True), dc.ones(3, 3, requires_grad=True)
    with dc.autocast("cpu", half):
        out = make_function(seen=seen).apply(a, b)
    out.sum().backward()
    assert seen == [(True, dc.float32), (True, half)] and out.dtype == half
    assert a.grad.dtype == dc.float32 and (a.grad.numpy() == 3).all()


def test_custom_functions_that_cast_their_inputs(half):
    for given in (dc.float32, half):
        seen = []
        a, b = (dc.ones(3, 3, dtype=given, requires_grad=True) for _ in range(2))
        with dc.autocast("cpu", half):
            out = make_function(dc.float32, seen).apply(a, b)
            out.sum().backward()
        assert seen == [(False, dc.float32), (False, dc.float32)] and out.dtype == dc.float32
        assert a.grad.dtype == given
    seen = []
    make_function(dc.float16, seen).apply(dc.ones(3, 3), dc.ones(3, 3))
    assert seen == [(False, dc.float32)]  # outside of regions nothing is cast


def test_custom_bwd_needs_custom_fwd():
    class Half(Function):
        forward = staticmethod(lambda ctx, x: x * 1)
        backward = staticmethod(dc.amp.custom_bwd(lambda ctx, g: g, device_type="cpu"))

    with pytest.raises(ArgumentError, match="custom_fwd"):
        Half.apply(dc.ones(2, requires_grad=True)).sum().backward()
