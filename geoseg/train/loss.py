"""The loss: cross-entropy that knows which classes a background label may hide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.classes import IGNORE


def partial_cross_entropy(
    logits: Tensor, target: Tensor, hidden: Tensor, hard_share: float = 1.0
) -> Tensor:
    """Mean cross-entropy over labelled pixels, marginal where labels are partial.

    Where some classes of a sample are not labelled, "background" only means "none of the
    labelled classes", so the likelihood of such a pixel is p(background) + Σ p(hidden).
    Without hidden classes this is the plain cross-entropy.

    Args:
        logits: (N,C,H,W), float.
        target: (N,H,W), long; IGNORE counts for nothing.
        hidden: (N,C), bool; classes present in the sample's pixels but not in its labels.
        hard_share: take the mean over this share of the pixels, hardest first
            (Shrivastava et al., CVPR 2016).
    """
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")  # (N,H,W)
    partial = hidden.any(dim=1)
    if partial.any():
        some = logits[partial]
        others = some.masked_fill(~hidden[partial][:, :, None, None], -torch.inf)
        others = torch.cat([some[:, :1], others[:, 1:]], dim=1)
        gain = torch.logsumexp(others, dim=1) - some[:, 0]  # log(1 + Σ p(hidden)/p(background))
        losses = losses.index_add(0, partial.nonzero()[:, 0], -gain * (target[partial] == 0))
    labelled = losses[target != IGNORE]
    if hard_share < 1 and labelled.numel():
        labelled = labelled.topk(max(1, int(hard_share * labelled.numel()))).values
    return labelled.sum() / max(1, labelled.numel())


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Mean divergence of the student's probabilities from the teacher's, softened.

    KL(softmax(taught / T) || softmax(logits / T)) · T², so that gradients keep their size
    whatever the temperature T (Hinton et al. 2015, section 2.1).

    Args:
        logits, taught: (N,C,H,W), float, of the student and of the teacher.
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(taught / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=1).mean() * temperature**2
