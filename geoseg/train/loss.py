"""Losses: cross-entropy for partial labels, distillation, and losses for box labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geoseg.classes import IGNORE


def pixel_losses(logits: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel (N,H,W), marginal where labels are partial.

    Where some classes of a sample are not labeled, background only means "none of the labeled
    classes", so the likelihood of such a pixel is p(background) + Σ p(hidden). Without hidden
    classes this is the plain cross-entropy.

    Args:
        logits: (N,C,H,W), float.
        target: (N,H,W), long; the loss of IGNORE is 0.
        hidden: (N,C), bool; classes that the labels of the sample leave out.
    """
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")  # (N,H,W)
    partial = hidden.any(dim=1)
    if partial.any():
        some = logits[partial]
        others = some.masked_fill(~hidden[partial][:, :, None, None], -torch.inf)
        others = torch.cat([some[:, :1], others[:, 1:]], dim=1)
        gain = torch.logsumexp(others, dim=1) - some[:, 0]  # log(1 + Σ p(hidden)/p(background))
        losses = losses.index_add(0, partial.nonzero()[:, 0], -gain * (target[partial] == 0))
    return losses


def partial_cross_entropy(
    logits: Tensor,
    target: Tensor,
    hidden: Tensor,
    hard_share: float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean of `pixel_losses` over labeled pixels, weighted by class.

    Args:
        hard_share: share of the pixels, largest weighted loss first, that are averaged
            (Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
            Mining", CVPR 2016).
        class_weights: (C,), float; weights of pixels by their label. None = all 1.
    """
    labeled = target != IGNORE
    losses = pixel_losses(logits, target, hidden)[labeled]
    weights = None if class_weights is None else class_weights[target[labeled]]
    if weights is not None:
        losses = losses * weights
    if hard_share < 1 and losses.numel():
        losses, hardest = losses.topk(max(1, int(hard_share * losses.numel())))
        weights = None if weights is None else weights[hardest]
    if weights is None:
        return losses.sum() / max(1, losses.numel())
    return losses.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence of the student's softened probabilities from the teacher's.

    KL(softmax(taught / T) || softmax(logits / T)) · T²; T² keeps the size of gradients at any
    temperature T (Hinton et al. 2015, section 2.1).

    Args:
        logits: (N,C,H,W), float, of the student.
        taught: the same of the teacher.
    """
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(taught / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=1).mean() * temperature**2


LINES = 12
"""Lines across a box, in each direction, that the projection loss samples."""
TRIMMED = 1
"""Lines left out at either end: boxes drawn by hand are a little too large."""


def projection(logits: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Return the mean loss of boxes that predicted objects do not fill.

    An object touches all sides of its box, so every line across the box, in either direction,
    crosses the object: the loss is -log of the greatest probability on the line. Background
    outside of boxes comes from the mask. After Tian et al., "BoxInst" (CVPR 2021), here for
    boxes at any angle.

    Args:
        logits: (N,C,H,W), float.
        boxes: (N,K,4,2) corners as column and row, px of the logits.
        classes: (N,K), long; -1 for padding.
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
    grid = points / size * 2 - 1
    values = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")[:, 0]
    kept = slice(TRIMMED, LINES - TRIMMED)
    losses, counted = [], []
    for direction in (1, 2):
        losses.append(-values.amax(dim=direction)[:, kept])
        # Where a line leaves the crop, the object may touch it outside.
        counted.append(inside.all(dim=direction)[:, kept])
    known = torch.cat(counted, dim=1)
    return (torch.cat(losses, dim=1) * known).sum() / known.sum().clamp(min=1)


ALIKE = 24.0
"""Distance of colors (at most 442) below which neighbors are assumed to be of one class."""
PAIRS = (
    ((slice(None), slice(None, -2)), (slice(None), slice(2, None))),
    ((slice(None, -2), slice(None)), (slice(2, None), slice(None))),
    ((slice(None, -2), slice(None, -2)), (slice(2, None), slice(2, None))),
    ((slice(None, -2), slice(2, None)), (slice(2, None), slice(None, -2))),
)
"""Slices of rows and columns: pixels, and their neighbors two pixels away."""


def pairwise(logits: Tensor, image: Tensor, undecided: Tensor) -> Tensor:
    """Return the mean loss of similar neighbors with different classes, at unlabeled pixels.

    -log of the probability that both have the same class, over pairs two pixels apart of similar
    color (BoxInst, equations 4 to 7).

    Args:
        logits: (N,C,H,W), float.
        image: (N,3,H,W), on the 0-255 scale.
        undecided: (N,H,W), bool; pixels without a label.
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
