"""Connectionist temporal classification as a module; the formula is in `nn.functional`."""

from __future__ import annotations

from deepcore.nn import functional as F
from deepcore.nn.functional.loss import check_reduction
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LOSSES, Example, Integers

_PADDED = ((5, 3, 4), Integers((3, 2), 3), Integers((3,), 6), Integers((3,), 3))


@LOSSES.register
class CTCLoss(Module):
    """-log p of each sequence of labels, over all its alignments with the frames: `F.ctc_loss`.

    Called with (log_probs, targets, input_lengths, target_lengths): log-probabilities (T, N, C), labels (N, S) or concatenated,
    lengths (N,). "mean" divides each loss by its number of labels. (Graves et al., 2006)
    """

    examples = (
        Example({"blank": 3, "zero_infinity": True}, _PADDED),
        Example({"blank": 3, "reduction": "none", "zero_infinity": True}, _PADDED),
        Example(
            {"blank": 3, "reduction": "sum"}, ((5, 2, 4), Integers((2, 0), 1), Integers((2,), 6), Integers((2,), 1))
        ),
        Example(
            {"blank": 3, "zero_infinity": True}, ((6, 4), Integers((1, 2), 3), Integers((1,), 7), Integers((1,), 3))
        ),
    )

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__()
        check_reduction(reduction)
        self.blank, self.reduction, self.zero_infinity = blank, reduction, zero_infinity

    def forward(self, log_probs, targets, input_lengths, target_lengths):
        return F.ctc_loss(
            log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity
        )
