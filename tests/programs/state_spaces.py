"""Time series: a Kalman filter with a learned noise, a hidden Markov model by the forward algorithm and Viterbi, an AR model."""

import math

import numpy as np
import torch
from torch import nn

torch.set_default_dtype(torch.float64)
RTOL = 1e-7


def kalman(y, A, C, Q, R, mu, P):
    total = torch.zeros(())
    means = []
    for obs in y:
        mu, P = A @ mu, A @ P @ A.mT + Q
        S = C @ P @ C.mT + R
        K = torch.linalg.solve(S, C @ P, left=True).mT
        innovation = obs - C @ mu
        total = total - 0.5 * (
            innovation @ torch.linalg.solve(S, innovation) + torch.logdet(S) + len(obs) * math.log(2 * math.pi)
        )
        mu = mu + K @ innovation
        P = (torch.eye(len(mu)) - K @ C) @ P
        means.append(mu)
    return total, torch.stack(means)


class HMM(nn.Module):
    def __init__(self, states, symbols):
        super().__init__()
        ramp = torch.linspace(-1, 1, states * states).reshape(states, states)
        self.start = nn.Parameter(torch.zeros(states))
        self.transition = nn.Parameter(torch.eye(states) + 0.1 * ramp)
        self.emission = nn.Parameter(torch.linspace(-1, 1, states * symbols).view(states, symbols).sin())

    def parts(self):
        return self.start.log_softmax(0), self.transition.log_softmax(1), self.emission.log_softmax(dim=1)

    def forward(self, x):
        start, transition, emission = self.parts()
        alpha = start + emission[:, x[:, 0]].T
        for t in range(1, x.size(1)):
            alpha = torch.logsumexp(alpha.unsqueeze(2) + transition, dim=1) + emission.T[x[:, t]]
        return alpha.logsumexp(1)

    @torch.no_grad()
    def viterbi(self, x):
        start, transition, emission = self.parts()
        delta, back = start + emission[:, x[0]], []
        for symbol in x[1:]:
            score, source = (delta[:, None] + transition).max(dim=0)
            delta = score + emission[:, symbol]
            back.append(source)
        path = [int(delta.argmax())]
        for source in reversed(back):
            path.append(source[path[-1]].item())
        return path[::-1]


def main():
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.normal(0, 0.3, (25, 2)), axis=0)
    y = torch.from_numpy(truth @ np.array([[1.0, 0.5], [0.0, 1.0]]) + rng.normal(0, 0.5, (25, 2)))
    log_q, log_r = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    C = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    optimizer = torch.optim.Adam([log_q, log_r], lr=0.1)
    log_likelihoods = []
    for _ in range(5):
        eye = torch.eye(2)
        ll, means = kalman(y, eye, C, log_q.exp() * eye, log_r.exp() * eye, torch.zeros(2), 10 * eye)
        optimizer.zero_grad()
        (-ll).backward()
        optimizer.step()
        log_likelihoods.append(ll.item())

    hmm = HMM(3, 4)
    x = torch.from_numpy(rng.integers(0, 4, (6, 10)))
    optimizer = torch.optim.SGD(hmm.parameters(), lr=0.2, maximize=True)
    evidences = []
    for _ in range(5):
        optimizer.zero_grad()
        evidence = hmm(x).mean()
        evidence.backward()
        optimizer.step()
        evidences.append(evidence.item())
    # The sum over all paths of a short sequence.
    start, transition, emission = hmm.parts()
    paths = torch.cartesian_prod(*[torch.arange(3)] * 3)
    logp = start[paths[:, 0]] + transition[paths[:, 0], paths[:, 1]] + transition[paths[:, 1], paths[:, 2]]
    logp = logp + sum(emission[paths[:, i], x[0, i]] for i in range(3))
    assert torch.allclose(logp.logsumexp(0), hmm(x[:1, :3])[0])

    series = y[:, 0]
    lagged = series.unfold(0, 4, 1)
    design = torch.column_stack([torch.ones(len(lagged)), lagged[:, :3]])
    solution = torch.linalg.lstsq(design, lagged[:, 3:]).solution
    ridge = torch.linalg.solve(design.T @ design + 0.1 * torch.eye(4), design.T @ lagged[:, 3])
    residual = lagged[:, 3] - design @ ridge
    autocorrelation = (
        torch.stack([(residual[k:] * residual[: len(residual) - k]).sum() for k in range(4)]) / residual.square().sum()
    )
    print(f"{log_likelihoods[-1]:.3f} {evidences[-1]:.4f}", hmm.viterbi(x[1]))
    return {"ll": log_likelihoods, "means": means, "evidences": evidences, "path": hmm.viterbi(x[0]), "ar": solution,
            "ridge": ridge, "autocorrelation": autocorrelation, "transition": transition}  # fmt: skip
