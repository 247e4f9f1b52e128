"""Training data as weighted distinct rows, and batches of them."""

from __future__ import annotations

import numpy as np

from deepcore.data import TensorDataset
from deepcore.errors import ArgumentError
from deepcore.tensor import Tensor, as_tensor

_BLOCK = 1 << 20  # elements hashed at a time, which bounds temporaries


class Rows(TensorDataset):
    """Batches `(x, y)`, or with weights `(x, (y, weight))`, of the rows `index` of X and y, as tensors of `dtype`.

    X may be sparse (CSR): each batch of it is made dense. y None: x itself. Integer targets keep their dtype. An index past
    the end is the last row. `targets=False`: batches `(x,)`.
    """

    def __init__(self, X, dtype, y=None, weight=None, index=None, targets: bool = True):
        self.X, self.y, self.weight, self.dtype, self.targets = X, y, weight, dtype, targets
        self.index = np.arange(X.shape[0]) if index is None else index
        self.classes = None

    def __len__(self) -> int:
        return len(self.index)

    def get_batch(self, indices: np.ndarray) -> tuple:
        rows = self.index[np.minimum(indices, len(self.index) - 1)]
        x = self._tensor(dense(self.X[rows]))
        if not self.targets:
            return (x,)
        target = x if self.y is None else self._tensor(self.y[rows])
        return (x, target) if self.weight is None else (x, (target, self._tensor(self.weight[rows])))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return as_tensor(array, self.dtype if array.dtype.kind == "f" else None, backend="cpu")

    def __repr__(self) -> str:
        return f"Rows({len(self)} of {self.X.shape})"


def dense(X) -> np.ndarray:
    """`X`, or the dense array of a sparse one."""
    return X.toarray() if hasattr(X, "toarray") else X


def distinct(X, y: np.ndarray | None, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index of one row of each distinct (x, y) of positive weight, the sum of the weights of its equals).

    The order depends on the rows' values alone, not on their order or on whether X is sparse: rows are sorted by a
    64-bit hash and merged where neighbours are equal. So a row of weight k is the same data as k equal rows.
    """
    chosen = np.flatnonzero(weight > 0)
    if hasattr(X, "toarray"):
        X = X.copy()
        X.sum_duplicates()
        X.eliminate_zeros()
    hashes = _hash(X)
    if y is not None:
        y = y.reshape(len(y), -1)
        hashes = hashes + _hash(y, first=X.shape[1])
    order = chosen[np.argsort(hashes[chosen], kind="stable")]
    new = np.ones(len(order), bool)
    candidates = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    equal = _equal(X, order[candidates], order[candidates + 1])
    if y is not None:
        equal &= _equal(y, order[candidates], order[candidates + 1])
    new[1 + candidates[equal]] = False
    starts = np.flatnonzero(new)
    return order[starts], np.add.reduceat(weight[order], starts)


def unmerged(X, y: np.ndarray | None, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `distinct` without merging, for losses that take no weights: those that are not 0 have to be equal."""
    chosen = np.flatnonzero(weight > 0)
    if len(set(weight[chosen].tolist())) > 1:
        raise ArgumentError(
            "this loss takes no weights of samples or classes",
            expected="a loss of deepcore.nn, which gives the loss of each sample",
            fix="leave out sample_weight and class_weight, or use one of deepcore's losses",
        )
    hashes = _hash(X) if y is None else _hash(X) + _hash(y.reshape(len(y), -1), first=X.shape[1])
    order = chosen[np.argsort(hashes[chosen], kind="stable")]
    return order, weight[order]


def _equal(X, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether rows `a` and `b` are equal, pair by pair."""
    if not hasattr(X, "toarray"):
        return (X[a] == X[b]).all(1)
    difference = X[a] - X[b]
    difference.eliminate_zeros()
    return np.diff(difference.indptr) == 0


def _hash(X, first: int = 0) -> np.ndarray:
    """A 64-bit hash of each row: the sum of a hash of (column, value) over the values other than 0.

    `first` is the number of the first column.
    """
    if hasattr(X, "toarray"):
        terms = _mixed(X.data, X.indices.astype(np.uint64) + np.uint64(first))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        return sums[X.indptr[1:]] - sums[X.indptr[:-1]]
    columns = np.arange(first, first + X.shape[1], dtype=np.uint64)
    step = max(1, _BLOCK // max(1, X.shape[1]))
    blocks = [_mixed(X[i : i + step], columns).sum(1, dtype=np.uint64) for i in range(0, len(X), step)]
    return np.concatenate(blocks)


def _mixed(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea, Flood, 2014) of each value's bits and column; 0 for 0."""
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)  # exact for float32 and class numbers
    z = bits + (columns + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(values == 0, np.uint64(0), z ^ (z >> np.uint64(31)))
