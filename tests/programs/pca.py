"""Principal components three ways: svd, eigh of the covariance, low-rank svd; whitening and reconstruction."""

import numpy as np
import torch

torch.set_default_dtype(torch.float64)


def svd_flip(u, v):
    max_abs_cols = torch.argmax(torch.abs(u), 0)
    i = torch.arange(u.shape[1], device=u.device)
    signs = torch.sign(u[max_abs_cols, i])
    return u * signs, v * signs.view(-1, 1)


class PCA:
    def __init__(self, n_components):
        self.n_components = n_components

    def fit(self, X):
        n, d = X.size()
        self.mean_ = X.mean(0, keepdim=True)
        U, S, Vh = torch.linalg.svd(X - self.mean_, full_matrices=False)
        U, Vt = svd_flip(U, Vh)
        self.components_ = Vt[: self.n_components]
        self.explained_variance_ = (S**2 / (n - 1))[: self.n_components]
        self.ratio_ = (S**2 / torch.sum(S**2))[: self.n_components]
        return self

    def transform(self, X):
        return torch.matmul(X - self.mean_, self.components_.t())

    def inverse_transform(self, Y):
        return torch.matmul(Y, self.components_) + self.mean_


def main():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(
        rng.standard_normal((60, 3)) @ rng.standard_normal((3, 8)) + 0.05 * rng.standard_normal((60, 8))
    )
    pca = PCA(3).fit(X)
    Y = pca.transform(X)
    error = (pca.inverse_transform(Y) - X).pow(2).sum(1).sqrt()

    L, Q = torch.linalg.eigh(torch.cov(X.T))
    L, Q = L.flip(0), Q.flip(-1)
    cosines = (Q[:, :3] * pca.components_.T).sum(0).abs()
    assert torch.allclose(L[:3], pca.explained_variance_)

    U, S, V = torch.svd_lowrank(X - X.mean(0), q=4, niter=4)
    U2, S2, V2 = torch.pca_lowrank(X, q=4, center=True, niter=4)
    assert torch.allclose(S[:3], S2[:3]) and V.shape == V2.shape == (8, 4)
    explained = torch.cumsum(L / L.sum(), dim=0)
    k = int((explained < 0.99).sum()) + 1
    whitened = Y / pca.explained_variance_.sqrt()
    corr = torch.corrcoef(whitened.mT)
    old_U, old_S, old_V = torch.svd(X[:5])
    print(f"{k} components explain {100 * explained[k - 1]:.2f} %, rank {torch.linalg.matrix_rank(X, tol=1.0).item()}")
    print(bool(torch.allclose(old_U @ torch.diag(old_S) @ old_V.t(), X[:5])))
    return {
        "Y": Y.abs(),
        "ratio": pca.ratio_,
        "error": error,
        "cosines": cosines,
        "S": S[:3],
        "covariance": whitened.T @ whitened / (len(X) - 1),
        "corr": corr.abs().diagonal(),
        "condition": torch.linalg.cond(X[:, :3]),
        "nuclear": torch.linalg.norm(X, ord="nuc"),
        "pinv": torch.linalg.pinv(X),
    }
