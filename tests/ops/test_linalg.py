"""Linear algebra and its relatives beyond the samples of the registry: errors, NumPy's names, singular matrices."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore.errors import ArgumentError, DTypeError, GradientError, LinAlgError, ShapeError

RNG = np.random.default_rng(0)
SQUARE, TALL, VECTOR = RNG.standard_normal((3, 3)), RNG.standard_normal((4, 3)), RNG.standard_normal(5)
POSITIVE = SQUARE @ SQUARE.T + np.eye(3)
WHOLE = np.array([4, 6, 9])


@pytest.mark.parametrize(
    "name, arguments",
    [
        *((f"linalg.{name}", [SQUARE]) for name in ("inv", "det", "slogdet", "cond", "matrix_norm", "matrix_rank")),
        *((f"linalg.{name}", [POSITIVE]) for name in ("eigh", "eigvalsh", "cholesky")),
        *((f"linalg.{name}", [TALL]) for name in ("qr", "svd", "svdvals", "pinv", "norm", "vector_norm")),
        ("linalg.solve", [SQUARE, TALL.T]), ("linalg.matrix_power", [SQUARE, -2]), ("diagonal", [TALL]), ("trace", [SQUARE]),
        ("kron", [SQUARE, VECTOR]), ("cross", [TALL, TALL[::-1]]), ("tensordot", [TALL, SQUARE, 1]), ("inner", [TALL, SQUARE]),
        ("vander", [VECTOR]), ("trapezoid", [VECTOR]), ("cumprod", [TALL]), ("diff", [TALL]), ("nansum", [TALL]), ("i0", [VECTOR]),
        ("nanmean", [TALL]), ("sinc", [VECTOR]), ("searchsorted", [np.sort(VECTOR), VECTOR]), ("isin", [WHOLE, WHOLE[:1]]),
        ("bincount", [WHOLE]), ("rot90", [TALL]), ("array_split", [TALL, 3]), ("meshgrid", [VECTOR, WHOLE * 1.0]),
        ("atleast_3d", [VECTOR]), ("hypot", [VECTOR, VECTOR]), ("gcd", [WHOLE, WHOLE[::-1]]), ("degrees", [VECTOR]),
        ("isclose", [VECTOR, VECTOR]), ("copysign", [VECTOR, -VECTOR]), ("left_shift", [WHOLE, WHOLE]), ("diag", [VECTOR, 1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_numpys_functions_of_tensors(name, arguments):
    function = np
    for part in name.split("."):
        function = getattr(function, part)
    ours = function(*(dc.tensor(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments))
    wanted = function(*arguments)
    pairs = zip(ours, wanted) if isinstance(wanted, (tuple, list)) else [(ours, wanted)]
    for ours, wanted in pairs:
        ours = ours.numpy()
        assert ours.shape == np.shape(wanted)
        signs = np.abs if name in ("linalg.eigh", "linalg.qr", "linalg.svd") else lambda x: x
        np.testing.assert_allclose(signs(ours), signs(wanted), rtol=1e-9, atol=1e-12)


def test_functions_that_pytorch_has_no_inputs_for():
    torch = pytest.importorskip("torch")
    first, second, third = (RNG.standard_normal(shape) for shape in ((2, 5), (5, 3), (3, 2)))
    theirs = [torch.from_numpy(x) for x in (first, second, third)]
    ours = [dc.from_numpy(x) for x in (first, second, third)]
    np.testing.assert_allclose(dc.chain_matmul(*ours).numpy(), torch.linalg.multi_dot(theirs).numpy(), rtol=1e-12)
    np.testing.assert_array_equal(dc.adjoint(ours[0]).numpy(), torch.adjoint(theirs[0]).numpy())
    for options in ({}, {"N": 3}, {"N": 0}, {"increasing": True}):
        wanted = torch.vander(theirs[0][0], **options)
        np.testing.assert_allclose(dc.vander(ours[0][0], **options).numpy(), wanted.numpy(), rtol=1e-12)


def test_matrices_without_a_result(backend):
    singular = dc.tensor([[1.0, 2.0], [2.0, 4.0]], backend=backend)
    for call in (dc.linalg.inv, dc.inverse, lambda A: dc.linalg.solve(A, A), lambda A: dc.linalg.cholesky(-A)):
        with pytest.raises(LinAlgError, match=r"(?s)linalg\.\w+: .*shape \(2, 2\).*fix"):
            call(singular)
    assert dc.linalg.LinAlgError is LinAlgError and issubclass(LinAlgError, RuntimeError)
    assert dc.linalg.cond(singular, 1).item() == np.inf and dc.linalg.matrix_rank(singular).item() == 1
    for call in (dc.linalg.inv, dc.linalg.det, dc.linalg.eigh, dc.linalg.cholesky):
        with pytest.raises(ShapeError, match="square matrices"):
            call(dc.ones(2, 3, backend=backend))
        with pytest.raises(DTypeError, match="float32, float64 and complex"):
            call(dc.ones(2, 2, dtype=dc.float16, backend=backend))
    with pytest.raises(GradientError, match="complete"):
        dc.linalg.qr(dc.ones(3, 2, backend=backend, requires_grad=True), "complete").R.sum().backward()
    with pytest.raises(ArgumentError, match="UPLO"):
        dc.linalg.eigh(singular, "X")


def test_the_slope_of_a_determinant_of_0(backend):
    """The cofactors: finite, where det(A) A⁻ᵀ is not defined."""
    A = dc.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=dc.float64, backend=backend, requires_grad=True)
    dc.linalg.det(A).backward()
    np.testing.assert_allclose(A.grad.numpy(), [[4, -2], [-2, 1]], atol=1e-12)


def test_whole_tensors_compared(backend):
    x = dc.tensor([1.0, np.nan], backend=backend)
    assert not x.equal(x) and dc.equal(x[:1], x[:1]) and not dc.equal(x, x[:1])
    assert dc.allclose(x, x, equal_nan=True) and not dc.allclose(x, x)


def test_a_diagonal_is_a_view(backend):
    x = dc.zeros(2, 3, backend=backend)
    x.diagonal().fill_(1)
    assert x.tolist() == [[1, 0, 0], [0, 1, 0]]
    tall = dc.zeros(5, 2, backend=backend)
    assert tall.clone().fill_diagonal_(1).sum().item() == 2 and tall.fill_diagonal_(1, wrap=True).sum().item() == 4


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_low_rank_of_a_matrix_of_low_rank(wide, center, backend):
    dc.manual_seed(1)
    make = lambda *shape: dc.randn(*shape, dtype=dc.float64, backend=backend)
    A = make(3, 30, 4) @ make(3, 4, 12)
    A = A.mT if wide else A
    U, S, V = dc.svd_lowrank(A, q=4)
    np.testing.assert_allclose((U * S.unsqueeze(-2) @ V.mT).numpy(), A.numpy(), atol=1e-9)
    np.testing.assert_allclose(S.numpy(), dc.linalg.svdvals(A)[..., :4].numpy(), rtol=1e-9)
    centred = A - A.mean(-2, keepdim=True) if center else A
    U, S, V = dc.pca_lowrank(A, 4, center=center)
    np.testing.assert_allclose((U * S.unsqueeze(-2) @ V.mT).numpy(), centred.numpy(), atol=1e-9)
    with pytest.raises(ArgumentError, match="smaller side"):
        dc.svd_lowrank(A, 13)


def test_lu_of_a_singular_matrix():
    A = dc.tensor([[0.0, 1.0], [0.0, 0.0]])
    with pytest.raises(LinAlgError, match="singular"):
        dc.linalg.lu_factor(A)
    P, L, U = dc.linalg.lu(A)
    np.testing.assert_array_equal((P @ L @ U).numpy(), A.numpy())
    assert dc.lu(A, get_infos=True)[2].item() == 1
    with pytest.raises(ArgumentError, match="pivots"):
        dc.lu_solve(dc.ones(2, 1), dc.eye(2), dc.tensor([1, 2]))
