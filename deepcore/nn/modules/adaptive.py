"""AdaptiveLogSoftmaxWithLoss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from deepcore.backend import takes_device
from deepcore.errors import ArgumentError, IndexRangeError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.modules.container import ModuleList, Sequential
from deepcore.nn.modules.linear import Linear
from deepcore.nn.modules.module import Module
from deepcore.ops.shape import cat
from deepcore.tensor import Tensor


class AdaptiveOutput(NamedTuple):
    """The log-probability of each sample's class, and their negated mean."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """log p(class) over many classes in clusters, the frequent ones in the first. Called with (input, target).

    Classes below `cutoffs[0]` have logits of their own in the head, each further cluster one logit there and its own
    softmax behind a projection to in_features / div_valueⁱ numbers: p(class) = p(cluster) · p(class | cluster). Classes
    are numbered by decreasing frequency. Only the clusters that occur among the targets are computed.
    Shapes: input (N, in_features) or (in_features,), target (N,) or (). Returns (output, loss): the targets'
    log-probabilities and the negated mean of them. `n_classes` counts all; `cutoffs` rise from 1 to n_classes - 1.
    Errors: `ArgumentError` for other cutoffs, `IndexRangeError` for a target that is no class. (Grave et al., 2017)
    """

    @takes_device
    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        backend=None,
        dtype=None,
    ):
        super().__init__()
        bounds = list(cutoffs)
        if not bounds or any(int(c) != c for c in bounds) or any(a >= b for a, b in pairwise([0, *bounds, n_classes])):
            raise ArgumentError(
                "the cutoffs of AdaptiveLogSoftmaxWithLoss are whole numbers that rise",
                expected=f"one or more between 1 and {n_classes - 1}",
                received=repr(bounds),
            )
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*map(int, bounds), n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = self.cutoffs[0], len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, backend=backend, dtype=dtype)
        self.tail = ModuleList()
        for i, (first, stop) in enumerate(pairwise(self.cutoffs)):
            hidden = int(in_features // div_value ** (i + 1))
            if not hidden:
                raise ArgumentError(
                    f"cluster {i + 1} of AdaptiveLogSoftmaxWithLoss has no hidden units",
                    received=f"in_features {in_features} / div_value {div_value} ** {i + 1}",
                    fix="a smaller div_value, or fewer cutoffs",
                )
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, backend=backend, dtype=dtype),
                    Linear(hidden, stop - first, bias=False, backend=backend, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, Linear):
                module.reset_parameters()

    def forward(self, input: Tensor, target: Tensor) -> AdaptiveOutput:
        if target.ndim > 1 or input.ndim != target.ndim + 1 or input.shape[:-1] != target.shape:
            raise ShapeError(
                "AdaptiveLogSoftmaxWithLoss: one class for each input",
                expected="(N, in_features) and (N,), or (in_features,) and ()",
                received=f"{input.shape} and {target.shape}",
            )
        if target.numel() and not 0 <= (least := int(target.min())) <= (most := int(target.max())) < self.n_classes:
            raise IndexRangeError(
                "AdaptiveLogSoftmaxWithLoss: a target is no class",
                expected=f"0 to {self.n_classes - 1}",
                received=f"{least} to {most}",
            )
        single = not target.ndim
        if single:
            input, target = input.unsqueeze(0), target.unsqueeze(0)
        head = F.log_softmax(self.head(input), dim=1)
        output = input.new_zeros(target.shape)
        in_head = target.clone()
        for i, (first, stop) in enumerate(pairwise(self.cutoffs)):
            rows = ((target >= first) & (target < stop)).nonzero().squeeze(1)
            if rows.numel():
                within = F.log_softmax(self.tail[i](input.index_select(0, rows)), dim=1)
                chosen = within.gather(1, (target.index_select(0, rows) - first).unsqueeze(1)).squeeze(1)
                output = output.index_copy(0, rows, chosen.to(output.dtype))
                in_head = in_head.index_fill(0, rows, self.shortlist_size + i)
        output = output + head.gather(1, in_head.unsqueeze(1)).squeeze(1)
        return AdaptiveOutput(output.squeeze(0) if single else output, -output.mean())

    def log_prob(self, input: Tensor) -> Tensor:
        """log p of every class: (N, in_features) to (N, n_classes)."""
        head = F.log_softmax(self.head(input), dim=1)
        short = self.shortlist_size
        parts = [head[:, :short]]
        for i, tail in enumerate(self.tail):
            parts.append(F.log_softmax(tail(input), dim=1) + head[:, short + i : short + i + 1])
        return cat(parts, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The class of highest probability for each input, (N,); a cluster is computed where its logit is the highest."""
        best = self.head(input).argmax(dim=1)
        rows = (best >= self.shortlist_size).nonzero().squeeze(1)
        if not rows.numel():
            return best
        return best.index_copy(0, rows, self.log_prob(input.index_select(0, rows)).argmax(dim=1))
