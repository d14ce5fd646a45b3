"""The loss: cross-entropy that knows which classes a background label may hide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.classes import IGNORE


def partial_cross_entropy(logits: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels, marginal where labels are partial.

    Where some classes of a sample are not labelled, "background" only means "none of the
    labelled classes", so the likelihood of such a pixel is p(background) + Σ p(hidden).
    Without hidden classes this is the plain cross-entropy.

    Args:
        logits: (N,C,H,W), float.
        target: (N,H,W), long; IGNORE counts for nothing.
        hidden: (N,C), bool; classes present in the sample's pixels but not in its labels.
    """
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    labelled = (target != IGNORE).sum()
    partial = hidden.any(dim=1)
    if partial.any():
        some = logits[partial]
        background = target[partial] == 0
        others = some.masked_fill(~hidden[partial][:, :, None, None], -torch.inf)
        others = torch.cat([some[:, :1], others[:, 1:]], dim=1)
        gain = torch.logsumexp(others, dim=1) - some[:, 0]  # log(1 + Σ p(hidden)/p(background))
        total = total - gain[background].sum()
    return total / labelled.clamp(min=1)
