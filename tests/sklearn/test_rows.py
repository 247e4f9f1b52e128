"""Merging equal rows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.6")

from scipy import sparse

from deepcore.sklearn import rows


def table(rng, dtype):
    """Rows of few values, so that many are equal, with both zeros, and targets."""
    x = rng.choice([0.0, -0.0, 1.0, -1.5, 1e-40], (200, 3)).astype(dtype)
    return x, rng.integers(0, 2, 200), rng.integers(0, 3, 200).astype(float)


@pytest.mark.parametrize("collide", [False, True])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merged_rows(container, dtype, collide, monkeypatch):
    rng = np.random.default_rng(0)
    x, y, weight = table(rng, dtype)
    if collide:  # hashes only propose which rows may be equal
        monkeypatch.setattr(rows, "_hash", lambda X, first=0: np.zeros(X.shape[0], np.uint64))
    index, sums = rows.distinct(container(x), y, weight)
    expected: dict = {}
    for row, label, w in zip((x + 0.0).tolist(), y.tolist(), weight):
        if w:
            expected[(*row, label)] = expected.get((*row, label), 0) + w
    merged: dict = {}
    for i, w in zip(index, sums):
        key = (*(x[i] + 0.0).tolist(), int(y[i]))
        assert collide or key not in merged
        merged[key] = merged.get(key, 0) + w
    assert merged == expected
    if not collide:
        order = rng.permutation(200)
        again, _ = rows.distinct(container(x[order]), y[order], weight[order])
        np.testing.assert_array_equal(x[order][again], x[index])


def test_hashes_do_not_depend_on_storage_and_differ():
    rng = np.random.default_rng(0)
    x = np.unique(np.where(rng.random((5000, 6)) < 0.5, 0, rng.integers(-3, 4, (5000, 6))), axis=0).astype(float)
    hashes = rows._hash(x)
    assert len(np.unique(hashes)) == len(x)
    np.testing.assert_array_equal(hashes, rows._hash(sparse.csr_array(x)))
    np.testing.assert_array_equal(hashes, rows._hash(x.astype(np.float32)))
    assert (rows._hash(x, first=1) != hashes)[(x != 0).any(1)].all()
    assert rows._hash(sparse.csr_array((3, 4))).tolist() == [0, 0, 0]


def test_unmerged_rows_take_selections_alone():
    x = np.arange(6.0).reshape(3, 2)
    index, weight = rows.unmerged(x, None, np.array([2.0, 0.0, 2.0]))
    assert sorted(index) == [0, 2] and weight.tolist() == [2, 2]
