"""vmap, jvp, vjp, Jacobians and checkpoints, against loops, finite differences and PyTorch."""

from __future__ import annotations

import types

import numpy as np
import pytest

import deepcore as dc
import deepcore.func
from deepcore import nn
from deepcore.autograd import forward_ad
from deepcore.autograd.function import once_differentiable
from deepcore.errors import GradientError, TransformError
from deepcore.nn import functional as F
from deepcore.ops.sampling import standard_gamma
from deepcore.utils.checkpoint import checkpoint, checkpoint_sequential

# PyTorch's jvp compiles decompositions with functions that it has since deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert:UserWarning"),
]


def library(name):
    """What a script of PyTorch imports, from either library."""
    if name == "deepcore":
        return types.SimpleNamespace(t=dc, nn=nn, F=F, func=dc.func, functional=dc.autograd.functional)
    torch = pytest.importorskip("torch")
    functional = torch.autograd.functional
    return types.SimpleNamespace(t=torch, nn=torch.nn, F=torch.nn.functional, func=torch.func, functional=functional)


def both(script, **tolerance):
    """Run a script with both libraries; it returns a dict of tensors."""
    results = []
    for name in ("deepcore", "torch"):
        rng = np.random.default_rng(0)
        lib = library(name)
        new = lambda *shape, lib=lib, rng=rng: lib.t.tensor(rng.standard_normal(shape))
        results.append({k: v.detach().resolve_conj().numpy() for k, v in script(lib, new, rng).items()})
    mine, theirs = results
    for key, expected in theirs.items():
        assert mine[key].shape == expected.shape, key
        np.testing.assert_allclose(mine[key], expected, **{"rtol": 1e-9, "atol": 1e-11, **tolerance}, err_msg=key)


# -- PyTorch's tutorials ----------------------------------------------------------------------------------------------


def models(lib, new, count=1):
    class Model(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = lib.nn.Conv2d(1, 4, 3, 1)
            self.conv2 = lib.nn.Conv2d(4, 6, 3, 1)
            self.fc = lib.nn.Linear(6 * 16, 10)

        def forward(self, x):
            x = lib.F.relu(self.conv1(x))
            x = lib.F.relu(self.conv2(x))
            x = lib.F.max_pool2d(x, 2)
            return lib.F.log_softmax(self.fc(lib.t.flatten(x, 1)), dim=1)

    made = [Model().double() for _ in range(count)]
    with lib.t.no_grad():
        for model in made:
            for p in model.parameters():
                p.copy_(new(*p.shape) * 0.2)
    return made


def test_per_sample_gradients():
    def script(lib, new, rng):
        (model,) = models(lib, new)
        data, targets = new(8, 1, 12, 12), lib.t.tensor(rng.integers(0, 10, 8))
        params = {k: v.detach() for k, v in model.named_parameters()}
        buffers = {k: v.detach() for k, v in model.named_buffers()}

        def loss(params, buffers, sample, target):
            predictions = lib.func.functional_call(model, (params, buffers), (sample.unsqueeze(0),))
            return lib.F.nll_loss(predictions, target.unsqueeze(0))

        gradients = lib.func.vmap(lib.func.grad(loss), in_dims=(None, None, 0, 0))(params, buffers, data, targets)
        values = lib.func.grad_and_value(
            lambda p, s, t: lib.F.cross_entropy(lib.func.functional_call(model, p, (s.unsqueeze(0),)), t.unsqueeze(0))
        )
        again, losses = lib.func.vmap(values, in_dims=(None, 0, 0), chunk_size=3)(params, data, targets)
        return {**gradients, "losses": losses, "again": again["conv1.weight"]}

    both(script)


def test_ensembles():
    def script(lib, new, rng):
        three = models(lib, new, 3)
        params, buffers = lib.func.stack_module_state(three)
        call = lambda p, b, x: lib.func.functional_call(three[0], (p, b), (x,))
        own = lib.func.vmap(call)(params, buffers, new(3, 5, 1, 12, 12))
        shared = lib.func.vmap(call, in_dims=(0, 0, None))(params, buffers, new(5, 1, 12, 12))
        (shared**2).sum().backward()
        return {"own": own, "shared": shared, **{k: p.grad for k, p in params.items()}}

    both(script)


def test_jacobians_and_hessians():
    def script(lib, new, rng):
        f = lib.func
        weight, bias, x, batch = new(5, 4) * 0.3, new(5), new(4), new(3, 4)
        predict = lambda weight, bias, x: lib.F.linear(x, weight, bias).tanh()
        number = lambda x: x.sin().sum() * x.prod()
        out = {
            "rev": f.jacrev(predict, argnums=2)(weight, bias, x),
            "fwd": f.jacfwd(predict, argnums=2)(weight, bias, x),
        }
        out["to weight"], out["to bias"] = f.jacrev(predict, argnums=(0, 1))(weight, bias, x)
        out["fwd weight"], out["fwd bias"] = f.jacfwd(predict, argnums=(0, 1))(weight, bias, x)
        out["hessian"] = f.hessian(predict, argnums=2)(weight, bias, x)
        for name, (outer, inner) in {
            "rr": (f.jacrev, f.jacrev), "ff": (f.jacfwd, f.jacfwd), "rf": (f.jacrev, f.jacfwd), "fr": (f.jacfwd, f.jacrev),
        }.items():  # fmt: skip
            out[name] = outer(inner(predict, argnums=2), argnums=2)(weight, bias, x)
        out["batch"] = f.vmap(f.jacrev(predict, argnums=2), in_dims=(None, None, 0))(weight, bias, batch)
        out["batch hessian"] = f.vmap(f.hessian(predict, argnums=2), in_dims=(None, None, 0))(weight, bias, batch)
        out["chunks"] = f.jacrev(predict, argnums=2, chunk_size=2)(weight, bias, x)
        out["hvp"] = f.jvp(f.grad(number), (x,), (batch[0],))[1]
        out["value"], pullback = f.vjp(predict, weight, bias, x)
        out["vjp"] = pullback(bias)[0]
        out["linear value"], push = f.linearize(predict, weight, bias, x)
        out["linearize"] = push(weight, bias, batch[1])
        aux, (jacobian, extra) = lambda x: (x * x, x.sum()), f.jacfwd(lambda x: (x * x, x.sum()), has_aux=True)(x)
        out["aux"], out["jacobian"], out["rev aux"] = extra, jacobian, f.jacrev(aux, has_aux=True)(x)[1]
        tree = f.jacrev(lambda p: {"a": p["w"] @ p["v"], "b": p["v"]})({"w": weight, "v": x})
        out |= {"aw": tree["a"]["w"], "av": tree["a"]["v"], "bw": tree["b"]["w"], "bv": tree["b"]["v"]}
        return out

    both(script)


def test_neural_tangent_kernels():
    def script(lib, new, rng):
        f, (model,) = lib.func, models(lib, new)
        params = {k: v.detach() for k, v in model.named_parameters()}
        one, two = new(3, 1, 12, 12), new(2, 1, 12, 12)
        single = lambda params, x: f.functional_call(model, (params,), (x.unsqueeze(0),)).squeeze(0)

        def by_jacobians(x1, x2):
            first, second = (
                [j.flatten(2) for j in f.vmap(f.jacrev(single), (None, 0))(params, x).values()] for x in (x1, x2)
            )
            return sum(lib.t.einsum("Naf,Mbf->NMab", a, b) for a, b in zip(first, second))

        def by_products(x1, x2):
            def entry(x1, x2):
                out, pullback = f.vjp(lambda p: single(p, x1), params)
                push = lambda v: f.jvp(lambda p: single(p, x2), (params,), pullback(v))[1]
                return f.vmap(push)(lib.t.eye(out.numel(), dtype=out.dtype))

            return f.vmap(f.vmap(entry, (None, 0)), (0, None))(x1, x2)

        return {"jacobians": by_jacobians(one, two), "products": by_products(one, two)}

    both(script)


def test_learning_to_learn():
    def script(lib, new, rng):
        net = lambda x, p: lib.F.linear(lib.F.relu(lib.F.linear(x, p[0], p[1])), p[2], p[3])
        params = [new(8, 1), new(8), new(1, 8), new(1)]

        def task(x1, y1, x2, y2, params):
            gradients = lib.func.grad(lambda p: ((net(x1, p) - y1) ** 2).mean())(params)
            adapted = [p - 0.1 * g for p, g in zip(params, gradients)]
            return ((net(x2, adapted) - y2) ** 2).mean()

        data = [new(6, 5, 1) for _ in range(4)]
        meta = lambda p: lib.func.vmap(lambda *d: task(*d, p))(*data).mean()
        return {str(i): g for i, g in enumerate(lib.func.grad(meta)(params))}

    both(script)


def test_the_functions_of_autograd_functional():
    def script(lib, new, rng):
        f = lib.functional
        x, y, v, w = new(3), new(2, 3), new(3), new(2, 3)
        several = lambda x, y: (y @ x, (x * x).sum())
        number = lambda x, y: (y * x).sin().sum() * x.sum()
        out = {}
        for kind in ({}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
            for i, row in enumerate(f.jacobian(several, (x, y), **kind)):
                for j, part in enumerate(row):
                    out[f"jacobian {i} {j} {kind}"] = part
        for kind in ({}, {"vectorize": True}, {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}):
            for i, row in enumerate(f.hessian(number, (x, y), **kind)):
                for j, part in enumerate(row):
                    out[f"hessian {i} {j} {kind}"] = part
        out["single"] = f.jacobian(lambda x: x.exp(), x)
        for name in ("hvp", "vhp"):
            value, (a, b) = getattr(f, name)(number, (x, y), (v, w))
            out |= {f"{name} value": value, f"{name} a": a, f"{name} b": b}
        _, (a, b) = f.vjp(several, (x, y), (new(2), new(1)[0]))
        _, (c, d) = f.jvp(several, (x, y), (v, w))
        out |= {"vjp a": a, "vjp b": b, "jvp c": c, "jvp d": d}
        leaf = new(3).requires_grad_()
        f.jacobian(lambda x: x**3, leaf, create_graph=True).sum().backward()
        return out | {"through": leaf.grad}

    both(script)


# -- in place, and factories -----------------------------------------------------------------------------------------


def _rows(lib, v):
    z = lib.t.zeros_like(v)
    z[0] = v[1] * 2
    z[1] += v[0]
    return z


def _steps(lib, v):
    y = v * 1
    y.mul_(3)
    y[0] = 0
    return y * v


def _views(lib, v):
    y = v.clone()
    y[1:].add_(v[0])
    return y * y


def _view(lib, v):
    y = v * 2
    y.view(2, 1).mul_(v.sum())
    return y * v


def _index(lib, v):
    y = lib.t.empty_like(v)
    y.copy_(v.sin())
    y[[1, 0]] = y * 2
    return y


def _new(lib, v):
    z = v.new_zeros(3)
    z[1:] = v
    return z.exp()


def _detached(lib, v):
    return v.detach() * v


def _unrecorded(lib, v):
    with lib.t.no_grad():
        s = v * 2
    return s * v


@pytest.mark.parametrize("program", [_rows, _steps, _views, _view, _index, _new, _detached, _unrecorded])
def test_programs_that_write_in_place(program):
    def script(lib, new, rng):
        f, x = lib.func, lib.t.tensor(np.arange(1, 7, dtype="float64").reshape(3, 2) / 3)
        fn = lambda v: program(lib, v)
        square = lambda v: (fn(v) ** 2).sum()
        out = {
            "vmap": f.vmap(fn)(x), "vmap 1": f.vmap(fn, in_dims=1)(x[:2]), "grad": f.grad(square)(x[0]),
            "vmap grad": f.vmap(f.grad(square))(x), "grad vmap": f.grad(lambda x: (f.vmap(fn)(x) ** 2).sum())(x),
            "jacrev": f.jacrev(fn)(x[0]),
        }  # fmt: skip
        if program is not _unrecorded:  # no_grad does not stop PyTorch's tangents, nor these
            out |= {"hessian": f.hessian(square)(x[0])}
        return out | {"jvp": f.jvp(fn, (x[0],), (x[1],))[1], "jacfwd": f.jacfwd(fn)(x[0])}

    both(script)


def test_tangents_enter_tensors_made_inside():
    def fill(v):
        z = dc.zeros(2, dtype="float64")
        z[0] = v[0] * v[1]
        return z

    x = dc.tensor([2.0, 3.0], dtype="float64")
    np.testing.assert_array_equal(dc.jvp(fill, (x,), (x,))[1].numpy(), [12.0, 0.0])
    np.testing.assert_array_equal(dc.func.jacfwd(fill)(x).numpy(), [[3.0, 2.0], [0.0, 0.0]])


def test_vmap_writes_to_its_arguments(backend):
    x = dc.tensor([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    dc.vmap(lambda v: v.mul_(2), in_dims=1)(x)
    assert x.tolist() == [[2.0, 4.0], [6.0, 8.0]]


# -- complex numbers ------------------------------------------------------------------------------------------------------

#: Functions of a library and a complex matrix.
MAPS = {
    "fft": lambda t, z: t.fft.fft(z), "rfft": lambda t, z: t.fft.rfft(z.real), "irfft": lambda t, z: t.fft.irfft(z, 5),
    "hfft": lambda t, z: t.fft.hfft(z), "fft2": lambda t, z: t.fft.fft2(z, norm="ortho"), "conj": lambda t, z: z.conj() * z,
    "abs": lambda t, z: z.abs(), "angle": lambda t, z: z.angle(), "complex": lambda t, z: t.complex(z.real * z.imag, z.abs()),
    "view_as_real": lambda t, z: t.view_as_real(z) ** 2, "sgn": lambda t, z: z.sgn(), "pow": lambda t, z: z**z,
    "view_as_complex": lambda t, z: t.view_as_complex(t.stack([z.real, z.imag * 2], -1)), "exp": lambda t, z: z.exp() * z.sin(),
    "quotient": lambda t, z: z.conj() / z, "real times complex": lambda t, z: z.real * z, "matmul": lambda t, z: z @ z.mH,
    "linear": lambda t, z: t.nn.functional.linear(z, z, z[0]), "inv": lambda t, z: t.linalg.inv(z),
    "solve": lambda t, z: t.linalg.solve(z, z.conj()), "det": lambda t, z: t.linalg.det(z), "svdvals": lambda t, z: t.linalg.svdvals(z),
    "cholesky": lambda t, z: t.linalg.cholesky(z @ z.mH + 3 * t.eye(3)), "norm": lambda t, z: t.linalg.norm(z),
    "where": lambda t, z: t.where(z.real > 0, z, z.conj()), "var": lambda t, z: z.var(), "cumprod": lambda t, z: z.cumprod(0),
}  # fmt: skip


def _size(t, out):
    return (out.abs() ** 2).sum()


def _parts(t, name):
    """A function of `MAPS`, from real numbers to real numbers."""

    def function(parts):
        out = MAPS[name](t, t.view_as_complex(parts))
        return t.view_as_real(out) if out.is_complex() else out

    return function


#: The transforms that PyTorch has no wrong results of; second derivatives are those of `grad`.
COMPLEX = {
    "jvp": lambda t, f, name, z, v: f.jvp(lambda a: MAPS[name](t, a), (z,), (v,))[1],
    "linearize": lambda t, f, name, z, v: f.linearize(lambda a: MAPS[name](t, a), z)[1](v),
    "vjp": lambda t, f, name, z, v: f.vjp(lambda a: MAPS[name](t, a), z)[1](MAPS[name](t, v))[0],
    "grad in vmap": lambda t, f, name, z, v: f.vmap(f.grad(lambda a: _size(t, MAPS[name](t, a))))(t.stack([z, v])),
    "jvp in vmap": lambda t, f, name, z, v: f.vmap(lambda b: f.jvp(lambda a: MAPS[name](t, a), (z,), (b,))[1])(t.stack([v, z])),
    "jvp of grad": lambda t, f, name, z, v: f.jvp(f.grad(lambda a: _size(t, MAPS[name](t, a))), (z,), (v,))[1],
    "jacrev": lambda t, f, name, z, v: f.jacrev(_parts(t, name))(t.view_as_real(z)),
    "jacfwd": lambda t, f, name, z, v: f.jacfwd(_parts(t, name))(t.view_as_real(z)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MAPS))
def test_transforms_of_complex_functions(name):
    def script(lib, new, rng):
        z, v = (lib.t.complex(new(3, 3), new(3, 3)) for _ in range(2))
        return {key: transform(lib.t, lib.func, name, z, v) for key, transform in COMPLEX.items()}

    both(script)


@pytest.mark.parametrize("name", ["solve", "det", "inv", "abs", "angle", "pow", "svdvals"])
def test_second_tangents_of_complex_functions(name, backend):
    """A jvp of a jvp against differences; PyTorch's is wrong for the solution and the determinant."""
    rng, step = np.random.default_rng(0), 1e-5
    z, v = (
        dc.tensor(rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)), backend=backend) for _ in range(2)
    )
    first = lambda a: dc.jvp(lambda b: MAPS[name](dc, b), (a,), (v,))[1]
    numeric = (first(z + step * v) - first(z - step * v)) / (2 * step)
    np.testing.assert_allclose(dc.jvp(first, (z,), (v,))[1].numpy(), numeric.numpy(), rtol=1e-6, atol=1e-6)


def test_writes_into_parts_of_complex_numbers():
    def script(lib, new, rng):
        z, v = (lib.t.complex(new(3, 4), new(3, 4)) for _ in range(2))

        def write(a):
            b = a * 2
            b.real.mul_(a.imag)
            lib.t.view_as_real(b)[1:, 0] += a.real[1:] ** 2
            return b

        return {
            "value": lib.func.vmap(write)(z), "along the last": lib.func.vmap(write, 1, 1)(z),
            "jvp": lib.func.jvp(write, (z[0],), (v[0],))[1],
            "jvp in vmap": lib.func.vmap(lambda a, b: lib.func.jvp(write, (a,), (b,))[1])(z, v),
            "grad in vmap": lib.func.vmap(lib.func.grad(lambda a: _size(lib.t, write(a))))(z),
        }  # fmt: skip

    both(script)


def test_jacobians_of_complex_functions(backend):
    """As PyTorch has them in `autograd.functional`; transforms refuse, as both parts are one matrix of real numbers."""
    z = dc.tensor([1 + 2j, 3 - 1j], dtype=dc.complex128, backend=backend)
    jacobian = dc.autograd.functional.jacobian
    for vectorize in (False, True):
        assert jacobian(lambda a: a.abs() ** 2, z, vectorize=vectorize).tolist() == [[2 + 4j, 0], [0, 6 - 2j]]
    assert jacobian(lambda a: a * a, z, vectorize=True).tolist() == [[2 - 4j, 0], [0, 6 + 2j]]
    forward = {"vectorize": True, "strategy": "forward-mode"}
    assert jacobian(lambda a: a * a, z, **forward).tolist() == [[2 + 4j, 0], [0, 6 - 2j]]
    for call in (
        lambda: dc.func.jacrev(dc.abs)(z), lambda: dc.func.jacfwd(dc.abs)(z), lambda: dc.func.hessian(lambda a: a.abs().sum())(z),
        lambda: dc.func.jacrev(lambda x: x * 1j)(z.real), lambda: dc.func.jacfwd(lambda x: x * 1j)(z.real), lambda: jacobian(dc.exp, z),
    ):  # fmt: skip
        with pytest.raises(dc.errors.DTypeError, match=r"(?s)needs real.*view_as_real"):
            call()
    with pytest.raises(GradientError, match="real number"):
        dc.grad(lambda a: a.sum())(z)


# -- errors -------------------------------------------------------------------------------------------------------------


def _wrong_calls(lib):
    t, f = lib.t, lib.func
    x, y, ints = t.ones(3, 2), t.ones(4, 2), t.tensor([1, 2])
    model = lib.nn.Linear(2, 2)
    same = lambda a: a
    return {
        "in_dims out of range": lambda: f.vmap(same, in_dims=2)(x),
        "negative in_dims": lambda: f.vmap(same, in_dims=-3)(x),
        "in_dims of another type": lambda: f.vmap(same, in_dims=(0.5,))(x),
        "in_dims of another structure": lambda: f.vmap(lambda a, b: a, in_dims=(0,))(x, x),
        "nothing is mapped": lambda: f.vmap(same, in_dims=(None,))(x),
        "sizes": lambda: f.vmap(lambda a, b: a)(x, y),
        "no arguments": lambda: f.vmap(lambda: x)(),
        "no tensor": lambda: f.vmap(lambda a, b: a * b)(x, 3),
        "a number is returned": lambda: f.vmap(lambda a: 3)(x),
        "nothing is returned": lambda: f.vmap(lambda a: None)(x),
        "out_dims out of range": lambda: f.vmap(lambda a: a.sum(), out_dims=1)(x),
        "out_dims of another structure": lambda: f.vmap(same, out_dims=(0, 0))(x),
        "out_dims None": lambda: f.vmap(same, out_dims=None)(x),
        "no dimension": lambda: f.vmap(same)(t.tensor(1.0)),
        "item": lambda: f.vmap(lambda a: a * a.sum().item())(x),
        "if": lambda: f.vmap(lambda a: a if a.sum() > 0 else -a)(x),
        "mask": lambda: f.vmap(lambda a: a[a > 0])(x),
        "nonzero": lambda: f.vmap(lambda a: a.nonzero())(x),
        "numpy": lambda: f.vmap(lambda a: t.tensor(a.numpy()))(x),
        "rand": lambda: f.vmap(lambda a: a + t.rand(2))(x),
        "randn_like": lambda: f.vmap(lambda a: t.randn_like(a))(x),
        "dropout": lambda: f.vmap(lambda a: lib.F.dropout(a))(x),
        "randomness": lambda: f.vmap(same, randomness="some")(x),
        "in place on what all share": lambda: f.vmap(lambda a: t.zeros(2).add_(a))(x),
        "in place on a closure": lambda: f.vmap(lambda a: y[0].copy_(a))(x),
        "chunk_size": lambda: f.vmap(same, chunk_size=0)(x),
        "grad of a vector": lambda: f.grad(same)(x),
        "grad with respect to integers": lambda: f.grad(lambda a: a.sum())(ints),
        "grad of a number": lambda: f.grad(lambda a: 3.0)(x),
        "argnums": lambda: f.grad(lambda a: a.sum(), argnums=3)(x),
        "aux": lambda: f.grad(lambda a: a.sum(), has_aux=True)(x),
        "backward in vmap": lambda: f.vmap(lambda a: (a.requires_grad_().sum().backward(), a)[1])(x),
        "jvp without tuples": lambda: f.jvp(same, x, x),
        "shapes of tangents": lambda: f.jvp(same, (x,), (y,)),
        "structure of tangents": lambda: f.jvp(same, (x,), (x, x)),
        "strict": lambda: f.jvp(lambda a: t.ones(2), (x,), (x,), strict=True),
        "structure of cotangents": lambda: f.vjp(lambda a: (a, a), x)[1](x),
        "shape of cotangents": lambda: f.vjp(same, x)[1](y),
        "jacrev argnums": lambda: f.jacrev(same, argnums=1)(x),
        "hessian of integers": lambda: f.hessian(lambda a: a.sum())(ints),
        "functional_call, strict": lambda: f.functional_call(model, {"weight": x[:2]}, (x,), strict=True),
        "functional_call, twice": lambda: f.functional_call(model, ({"bias": x[0]}, {"bias": x[0]}), (x,)),
        "no modules": lambda: f.stack_module_state([]),
        "two classes": lambda: f.stack_module_state([model, lib.nn.ReLU()]),
    }


@pytest.mark.parametrize("name", list(_wrong_calls(library("deepcore"))))
def test_what_pytorch_refuses(name):
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        _wrong_calls(library("torch"))[name]()
    with pytest.raises(dc.errors.DeepcoreError) as raised:
        _wrong_calls(library("deepcore"))[name]()
    assert "where" in str(raised.value) or "expected" in str(raised.value) or "fix" in str(raised.value)


def test_a_tensor_that_left_its_vmap_says_so():
    kept = []
    dc.vmap(lambda a: kept.append(a) or a)(dc.ones(3, 2))
    with pytest.raises(TransformError):
        kept[0] + 1


# -- random numbers ---------------------------------------------------------------------------------------------------

DRAWS = {
    "rand": lambda a: dc.rand(4, backend=a.backend),
    "randn_like": dc.randn_like,
    "randint": lambda a: dc.randint(0, 1000, (4,), backend=a.backend),
    "randperm": lambda a: dc.randperm(64, backend=a.backend),
    "dropout": lambda a: F.dropout(a + 1, 0.5),
    "bernoulli": lambda a: dc.bernoulli(a + 0.5),
    "multinomial": lambda a: dc.multinomial(a + 0.5, 3),
    "normal": lambda a: dc.normal(a, 1.0),
    "uniform_": lambda a: dc.zeros_like(a).uniform_(),
    "nested": lambda a: dc.vmap(lambda b: b + dc.rand(16, backend=b.backend), randomness="different")(dc.stack([a, a])),
}


@pytest.mark.parametrize("name", list(DRAWS))
def test_random_numbers(name, backend):
    x = dc.zeros(3, 16, backend=backend)
    draw = DRAWS[name]
    with pytest.raises(TransformError, match="random"):
        dc.vmap(draw)(x)
    dc.manual_seed(0)
    out = dc.vmap(draw, randomness="different")(x).cpu().numpy()
    assert not (out[0] == out[1]).all() and not (out[1] == out[2]).all()
    dc.manual_seed(0)
    again = dc.vmap(draw, randomness="different")(x).cpu().numpy()
    np.testing.assert_array_equal(out, again)
    if name != "uniform_":  # in place on a tensor of each
        out = dc.vmap(draw, randomness="same")(x).cpu().numpy()
        assert (out[0] == out[1]).all() and (out[1] == out[2]).all()


@pytest.mark.parametrize("draw", [dc.poisson, standard_gamma])
def test_draws_by_rejection(draw):
    rate = dc.full((3, 8), 5.0)
    out = dc.vmap(draw, randomness="different")(rate).numpy()
    assert not (out[0] == out[1]).all()
    shared = dc.vmap(lambda _, r: draw(r), (0, None), randomness="different")(dc.zeros(3), rate[0]).numpy()
    assert shared.shape == (3, 8) and not (shared[0] == shared[1]).all()
    with pytest.raises(TransformError, match="accepted"):
        dc.vmap(draw, randomness="same")(rate)


# -- loops and branches -------------------------------------------------------------------------------------------------


def test_loops_and_branches_of_examples():
    x = dc.tensor([[0.5, 2.0], [3.0, -1.0], [0.1, 0.2]], dtype="float64")

    def branch(v):
        return dc.cond(v.sum() > 1, lambda t: t * t, lambda t: -t, v)

    def loop(v):
        return dc.while_loop(lambda s: s.sum() < 20, lambda s: s * 2 + 1, v)

    def scan(v):
        return dc.scan(lambda c, a: (c * a + 1, c.sin()), v[0], v)[1]

    for f in (branch, loop, scan):
        np.testing.assert_allclose(dc.vmap(f)(x).numpy(), np.stack([f(row).numpy() for row in x]))
        gradient = dc.grad(lambda v, f=f: (f(v) ** 2).sum())
        np.testing.assert_allclose(dc.vmap(gradient)(x).numpy(), np.stack([gradient(row).numpy() for row in x]))
        tangent = dc.jvp(f, (x[0],), (x[1],))[1]
        jacobian = dc.jacobian(f)(x[0])
        np.testing.assert_allclose(tangent.numpy(), (jacobian @ x[1]).numpy())


# -- nesting ------------------------------------------------------------------------------------------------------------


def test_levels_do_not_confuse_perturbations():
    x = dc.tensor(3.0, dtype="float64")
    one = dc.tensor(1.0, dtype="float64")
    push = lambda f, at: dc.jvp(f, (at,), (one,))[1]
    # d/dx (x · d/dy (x + y)) = 1, and not 2
    assert float(push(lambda x: x * push(lambda y: x + y, one), x)) == 1.0
    assert float(dc.grad(lambda x: x * push(lambda y: x + y, one))(x)) == 1.0
    assert float(push(lambda x: x * dc.grad(lambda y: x + y)(one), x)) == 1.0
    assert float(push(lambda x: push(lambda y: x**3 * y**2, x), x)) == pytest.approx(2 * 4 * 27)
    assert float(dc.grad(lambda x: dc.vmap(lambda y: x * y)(dc.ones(4, dtype="float64")).sum())(x)) == 4.0
    third = dc.grad(dc.grad(dc.grad(lambda x: x**4)))
    assert float(dc.vmap(third)(dc.stack([x, x * 2]))[1]) == 24 * 6.0


def test_gradients_recorded_outside_pass_through(backend):
    w = dc.tensor([0.5, -1.0, 2.0], dtype="float64", backend=backend, requires_grad=True)
    x = dc.tensor(np.random.default_rng(0).standard_normal((4, 3)), backend=backend)
    loss = dc.vmap(dc.grad(lambda v: (v * w).sin().sum()))(x).sum()
    loss.backward()
    expected = np.cos(x.numpy() * w.detach().numpy()) - x.numpy() * w.detach().numpy() * np.sin(
        x.numpy() * w.detach().numpy()
    )
    np.testing.assert_allclose(w.grad.numpy(), expected.sum(0))


def test_rows_of_one_graph():
    x = dc.tensor([1.0, 2.0, 3.0], dtype="float64", requires_grad=True)
    y = x.sin() * x.sum()
    rows = dc.vmap(lambda v: dc.autograd.grad(y, x, v, retain_graph=True)[0])(dc.eye(3, dtype="float64"))
    (batched,) = dc.autograd.grad(y, x, dc.eye(3, dtype="float64"), is_grads_batched=True, retain_graph=True)
    expected = np.stack([dc.autograd.grad(y[i], x, retain_graph=True)[0].numpy() for i in range(3)])
    np.testing.assert_allclose(rows.numpy(), expected)
    np.testing.assert_allclose(batched.numpy(), expected)
    z = dc.tensor(1.0, requires_grad=True)
    assert dc.autograd.grad(y.sum(), [x, z], materialize_grads=True)[1].item() == 0.0


# -- functions of the user's --------------------------------------------------------------------------------------------


class Double(dc.autograd.Function):
    """sin, whose gradient counts twice, so that nothing but `backward` can be what gave it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos() * 2


class DoubleBySetup(Double):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])


class DoubleByRules(DoubleBySetup):
    generate_vmap_rule = False
    calls = 0

    @staticmethod
    def vmap(info, in_dims, x):
        DoubleByRules.calls += 1
        assert info.randomness == "error" and info.batch_size == x.shape[in_dims[0]]
        return DoubleByRules.apply(x), in_dims[0]

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent * x.cos() * 2


class SavedOutput(dc.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        y = x.exp() * scale
        ctx.save_for_backward(y)
        return y, x.argmax()

    @staticmethod
    def backward(ctx, g, _):
        (y,) = ctx.saved_tensors
        return g * y, None


@pytest.mark.parametrize("function", [Double, DoubleBySetup, DoubleByRules])
def test_functions_of_the_users(function):
    rng = np.random.default_rng(0)
    x, v = dc.tensor(rng.standard_normal((4, 3))), dc.tensor(rng.standard_normal(3))
    f = lambda t: (function.apply(t) * t).sum()
    slope = 2 * x.cos() * x + x.sin()
    np.testing.assert_allclose(dc.vmap(dc.grad(f))(x).numpy(), slope.numpy())
    np.testing.assert_allclose(dc.grad(lambda x: dc.vmap(f)(x).sum())(x).numpy(), slope.numpy())
    np.testing.assert_allclose(float(dc.jvp(f, (x[0],), (v,))[1]), float((slope[0] * v).sum()))
    second = np.diag((4 * x.cos() - 2 * x.sin() * x)[0].numpy())
    np.testing.assert_allclose(dc.hessian(f)(x[0]).numpy(), second, atol=1e-12)
    np.testing.assert_allclose(dc.vmap(dc.hessian(f))(x)[0].numpy(), second, atol=1e-12)
    w = dc.tensor(2.0, dtype="float64", requires_grad=True)
    dc.vmap(dc.grad(lambda t: function.apply(t * w).sum()))(x).sum().backward()
    y = x * 2
    np.testing.assert_allclose(float(w.grad), float((2 * (y.cos() - y * y.sin())).sum()))
    assert function is not DoubleByRules or DoubleByRules.calls


def test_functions_that_save_outputs():
    x = dc.tensor(np.random.default_rng(0).standard_normal((4, 3)))
    f = lambda t: SavedOutput.apply(t, 2.0)[0].sum()
    for t in (dc.vmap(dc.grad(f))(x), dc.grad(lambda x: dc.vmap(f)(x).sum())(x)):
        np.testing.assert_allclose(t.numpy(), 2 * np.exp(x.numpy()))
    np.testing.assert_allclose(dc.vmap(dc.hessian(f))(x)[2].numpy(), np.diag(2 * np.exp(x[2].numpy())), atol=1e-12)
    full = dc.hessian(lambda x: dc.vmap(f)(x).sum())(x).reshape(12, 12)
    np.testing.assert_allclose(full.numpy(), np.diag(2 * np.exp(x.numpy()).ravel()), atol=1e-12)


def test_a_backward_that_is_not_differentiable():
    class Once(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert not g.requires_grad or not dc.is_grad_enabled()
            return g * x * 2

    x = dc.tensor(3.0, requires_grad=True)
    (g,) = dc.autograd.grad(Once.apply(x), x, create_graph=True)
    assert g.item() == 6.0
    with pytest.raises(GradientError, match="once_differentiable"):
        g.backward()


# -- dual tensors -------------------------------------------------------------------------------------------------------


def test_dual_tensors():
    x, v = dc.tensor([1.0, 2.0], dtype="float64"), dc.tensor([1.0, 0.5], dtype="float64")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, v)
        out = forward_ad.unpack_dual((dual * dual).sin())
        assert forward_ad.unpack_dual(x).tangent is None
        with pytest.raises(TransformError):
            forward_ad.enter_dual_level()
    np.testing.assert_allclose(out.tangent.numpy(), (2 * x * v * (x * x).cos()).numpy())
    with pytest.raises(TransformError):
        forward_ad.make_dual(x, v)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.requires_grad_(), v)
        (g,) = dc.autograd.grad((dual**3).sum(), dual)
        product = forward_ad.unpack_dual(g).tangent
    np.testing.assert_allclose(product.detach().numpy(), 6 * x.detach().numpy() * v.numpy())


# -- checkpoints --------------------------------------------------------------------------------------------------------


def _model(backend):
    dc.manual_seed(0)
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2)
    return nn.Sequential(*layers).to(backend)


WAYS = {
    "checkpoint": lambda m, x: checkpoint(m, x, use_reentrant=False),
    "nested": lambda m, x: checkpoint(lambda y: checkpoint(m, y, use_reentrant=False), x, use_reentrant=True),
    "sequential": lambda m, x: checkpoint_sequential(m, 3, x, use_reentrant=False),
    "transform": lambda m, x: dc.checkpoint(m)(x),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_checkpoints_change_no_bit(way, backend):
    model, results = _model(backend), []
    x = dc.randn(4, 8, backend=backend)
    for f in (lambda m, x: m(x), WAYS[way]):
        dc.manual_seed(3)
        model.zero_grad()
        x = x.detach().requires_grad_()
        y = f(model, x)
        between = dc.rand(3)
        (y**2).sum().backward()
        results.append(
            [t.cpu().numpy() for t in (y.detach(), x.grad, *(p.grad for p in model.parameters()), between, dc.rand(3))]
        )
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_checkpoints_keep_less():
    calls = []

    def part(x):
        calls.append(1)
        return x.sin().exp().tanh()

    x = dc.randn(4, dtype="float64", requires_grad=True)
    y = checkpoint(part, x)
    nodes, stack = 0, [y.grad_fn]
    while stack:
        node = stack.pop()
        if not isinstance(node, dc.Tensor):
            nodes += 1
            stack.extend(node.next_functions)
    assert nodes == 2 and len(calls) == 1  # the checkpoint, and the one output of it
    y.sum().backward()
    assert len(calls) == 2
    f = lambda t: (checkpoint(part, t) ** 2).sum()
    plain = lambda t: (part(t) ** 2).sum()
    np.testing.assert_allclose(dc.hessian(f)(x.detach()).numpy(), dc.hessian(plain)(x.detach()).numpy())
    assert dc.autograd.gradgradcheck(f, x)
    mask = dc.func.jacrev(lambda t: checkpoint(lambda t: F.dropout(t, 0.5), t))(dc.ones(64)).numpy()
    assert set(np.unique(mask.diagonal())) == {0.0, 2.0}


def test_checkpoints_notice_changes():
    x = dc.ones(3, requires_grad=True)
    y = x * 2
    out = checkpoint(lambda t: t * t, y)
    with dc.no_grad():
        y.mul_(2)
    with pytest.raises(GradientError, match="overwritten"):
        out.sum().backward()
    out = checkpoint(lambda t: t.mul_(2).exp(), x * 2)  # would compute exp of four times what it was
    with pytest.raises(GradientError, match="overwritten"):
        out.sum().backward()
    sizes = iter((2, 3))
    out = checkpoint(lambda t: t[: next(sizes)] * t[:1], x)
    with pytest.raises(GradientError, match="computed again"):
        out.sum().backward()


# -- compiled -----------------------------------------------------------------------------------------------------------


def test_compiled_functions_may_transform(backend):
    rng = np.random.default_rng(0)
    w, x = (dc.tensor(rng.standard_normal(s).astype("f"), backend=backend) for s in ((2, 3), (4, 3)))
    loss = lambda w, v: (F.linear(v, w).tanh() ** 2).sum()
    for f in (
        lambda w, x: dc.vmap(dc.grad(loss), (None, 0))(w, x),
        lambda w, x: dc.jvp(lambda v: loss(w, v), (x,), (x * 2,))[1],
        lambda w, x: dc.hessian(lambda v: loss(w, v))(x[0]),
        lambda w, x: dc.grad(lambda w: checkpoint(lambda w: loss(w, x), w))(w),
    ):
        compiled = dc.compile(f)
        for _ in range(3):
            np.testing.assert_array_equal(compiled(w, x).cpu().numpy(), f(w, x).cpu().numpy())
    inner = dc.compile(lambda v: v.sin() * 2)
    np.testing.assert_array_equal(dc.vmap(inner)(x).cpu().numpy(), (x.sin() * 2).cpu().numpy())


# -- gradcheck ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"fast_mode": True}, {"check_forward_ad": True}, {"check_batched_grad": True}, {"check_grad_dtypes": True},
        {"check_batched_forward_grad": True}, {"fast_mode": True, "check_forward_ad": True, "nondet_tol": 1e-9},
    ],
)  # fmt: skip
def test_gradcheck_options(options):
    rng = np.random.default_rng(0)
    x, w = (dc.tensor(rng.standard_normal(s), requires_grad=True) for s in ((3, 2), (2, 2)))
    f = lambda x, w: ((x @ w).tanh(), (x * x).sum(0), x > 0)
    assert dc.autograd.gradcheck(f, (x, w), **options)
    if "check_forward_ad" not in options:
        assert dc.autograd.gradgradcheck(f, (x, w), check_fwd_over_rev=True, **options)
    wrong = lambda x: Double.apply(x)
    assert not dc.autograd.gradcheck(wrong, x, raise_exception=False, **options)
    with pytest.raises(GradientError, match="is wrong"):
        dc.autograd.gradcheck(wrong, x, check_backward_ad=False, check_forward_ad=True)
