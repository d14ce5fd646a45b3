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


LINES = 12
"""Lines across a box in each direction on which the projection loss looks."""
TRIMMED = 1
"""Lines at either end that are left out: boxes are drawn by hand, a little too large."""


def projection(logits: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Mean loss of boxes that their objects do not fill.

    An object touches all sides of its box, so each line across the box, either way, meets it
    somewhere: -log of the greatest probability on the line. Background outside of the box comes
    from the mask. After Tian et al., "BoxInst" (CVPR 2021), here for boxes at any angle.

    Args:
        logits: (N,C,H,W), float.
        boxes: (N,K,4,2) corners as column and row, px of the logits.
        classes: (N,K) long; below 0 where there is no box.
    """
    sample, number = (classes >= 0).nonzero(as_tuple=True)
    if not len(sample):
        return logits.sum() * 0
    height, width = logits.shape[2:]
    shares = (torch.arange(LINES, device=logits.device) + 0.5) / LINES
    corners = boxes[sample, number]  # (M,4,2)
    across = (corners[:, 1] - corners[:, 0])[:, None, None] * shares[None, None, :, None]
    down = (corners[:, 3] - corners[:, 0])[:, None, None] * shares[None, :, None, None]
    points = corners[:, :1, None] + across + down  # (M,LINES,LINES,2)
    size = torch.tensor([width, height], device=logits.device)
    inside = ((points >= 0) & (points <= size)).all(dim=-1)
    chosen = classes[sample, number]
    maps = logits.log_softmax(dim=1)[sample, chosen][:, None]  # (M,1,H,W)
    values = F.grid_sample(maps, points / size * 2 - 1, align_corners=False, padding_mode="border")[
        :, 0
    ]
    kept = slice(TRIMMED, LINES - TRIMMED)
    losses, counted = [], []
    for direction in (1, 2):
        losses.append(-values.amax(dim=direction)[:, kept])
        # Where a line leaves the crop, the object may lie beyond.
        counted.append(inside.all(dim=direction)[:, kept])
    known = torch.cat(counted, dim=1)
    return (torch.cat(losses, dim=1) * known).sum() / known.sum().clamp(min=1)


ALIKE = 24.0
"""Distance of colors below which neighbors are taken for one thing, of 442 at most."""
PAIRS = (
    ((slice(None), slice(None, -2)), (slice(None), slice(2, None))),
    ((slice(None, -2), slice(None)), (slice(2, None), slice(None))),
    ((slice(None, -2), slice(None, -2)), (slice(2, None), slice(2, None))),
    ((slice(None, -2), slice(2, None)), (slice(2, None), slice(None, -2))),
)
"""Rows and columns of one pixel and of its neighbor, two pixels away."""


def pairwise(logits: Tensor, image: Tensor, undecided: Tensor) -> Tensor:
    """Mean loss of neighbors that look alike and are told apart, where labels do not decide.

    -log of the probability that both have one class, over pairs two pixels apart whose colors
    differ little (BoxInst, equations 4 to 7).

    Args:
        logits: (N,C,H,W), float. image: (N,3,H,W) on the 0-255 scale.
        undecided: (N,H,W) bool, pixels without a label.
    """
    probs = logits.softmax(dim=1)
    total, count = logits.new_zeros(()), logits.new_zeros(())
    for a, b in PAIRS:
        alike = (image[..., *a] - image[..., *b]).square().sum(dim=1).sqrt() < ALIKE
        chosen = alike & (undecided[..., *a] | undecided[..., *b])
        same = (probs[..., *a] * probs[..., *b]).sum(dim=1).clamp(min=1e-6)
        total = total - (same.log() * chosen).sum()
        count = count + chosen.sum()
    return total / count.clamp(min=1)
