"""Ratings of items by users: MovieLens."""

from __future__ import annotations

import os

import numpy as np

from deepcore.backend import Backend, takes_device
from deepcore.data.dataset import TensorDataset
from deepcore.errors import DataError
from deepcore.io.files import path_of
from deepcore.io.tables import TableFile
from deepcore.tensor import as_tensor

_FILES = ("ratings.csv", "u.data")
_NAMES = ("userId", "movieId", "rating", "timestamp")


class MovieLens(TensorDataset):
    """Sample i is (user, item, rating): int64, int64 from 0 on, for an embedding, and float32.

    root: the folder of a MovieLens set, or its file: `ratings.csv` (of ml-latest, ml-25m and the like: userId, movieId,
    rating, timestamp) or `u.data` (of ml-100k: the same without names, in tabs).
    user_ids, item_ids: the ids of users 0, 1, … and items 0, 1, …, ascending; num_users, num_items; timestamps (N,)
    int64, seconds since 1970, to split by time: `Subset(data, numpy.argsort(data.timestamps)[:n])`.

    Errors: `DataError` for files that are missing, and for ids that are not whole numbers, with the row; those of tables.
    Source: Harper and Konstan, "The MovieLens datasets", 2015; https://grouplens.org/datasets/movielens/.
    """

    @takes_device
    def __init__(self, root, *, backend: str | Backend | None = None, device=None):
        path = self._path(path_of(root))
        file = TableFile(path, expected_names=_NAMES)
        if file.names is not None:
            columns = [file.column(name) for name in _NAMES]
        elif file.width == 4:
            columns = [0, 1, 2, 3]
        else:
            raise DataError(
                f"{path!r} is no file of ratings",
                expected="user, item, rating, timestamp",
                received=f"{file.width} columns",
            )
        values = file.read(columns, dtype=np.float64).numbers
        for k, name in ((0, "user"), (1, "item"), (3, "timestamp")):
            wrong = np.flatnonzero((values[:, k] != np.rint(values[:, k])) | (np.abs(values[:, k]) >= 2.0**53))
            if wrong.size:
                raise DataError(
                    f"{path!r} has a {name} that is not a whole number",
                    received=f"{values[wrong[0], k]} in row {wrong[0] + 1} of ratings",
                )
        whole = values[:, [0, 1, 3]].astype(np.int64)
        self.user_ids, users = np.unique(whole[:, 0], return_inverse=True)
        self.item_ids, items = np.unique(whole[:, 1], return_inverse=True)
        self.timestamps = whole[:, 2].copy()
        self.path = path
        ratings = values[:, 2].astype(np.float32)
        arrays = (users.reshape(-1).astype(np.int64), items.reshape(-1).astype(np.int64), ratings)
        super().__init__(*(as_tensor(array, backend=backend) for array in arrays))

    @staticmethod
    def _path(root: str) -> str:
        if not os.path.isdir(root):
            return root
        path = next((p for p in (os.path.join(root, name) for name in _FILES) if os.path.isfile(p)), None)
        if path is None:
            old = os.path.isfile(os.path.join(root, "ratings.dat"))
            raise DataError(
                f"the folder {root!r} has no ratings",
                expected=" or ".join(_FILES),
                fix="convert ratings.dat: sed 's/::/\\t/g' ratings.dat > u.data" if old else "unpack MovieLens there",
            )
        return path

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"MovieLens({self.path!r}: {len(self)} ratings of {self.num_items} items by {self.num_users} users)"
