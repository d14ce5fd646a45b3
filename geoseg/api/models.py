"""Networks as the functions of the API take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from torch import nn

from geoseg.errors import OptionError
from geoseg.model.devices import Precision
from geoseg.model.engines.backends import BACKENDS
from geoseg.model.load import load_model
from geoseg.model.metadata import Metadata
from geoseg.model.tile_model import TileModel

_CHOICES = {"precision": get_args(Precision), "backend": ("auto", *BACKENDS)}
_DEFAULTS = {
    "device": "auto",
    "precision": "auto",
    "backend": "auto",
    "batch_size": None,
    "tta": False,
}


def ready_model(
    model: TileModel | nn.Module | None,
    weights: str | Path | None,
    *,
    remote: bool = False,
    **options: Any,
) -> TileModel:
    """Return a model that takes tiles: `model`, or one of these weights.

    Args:
        remote, options: of `TileModel`.

    Raises:
        OptionError: an option has no such value, or `model` and other options exclude each other.
        CheckpointError: the weights cannot be used.
    """
    for name, choices in _CHOICES.items():
        if options[name] not in choices:
            raise OptionError(f"{name} is {options[name]!r}; choose from {', '.join(choices)}")
    if options["batch_size"] is not None and options["batch_size"] < 1:
        raise OptionError(f"batch_size is {options['batch_size']}; give at least 1, or None")
    if model is None:
        return TileModel(load_model(weights), **options, consume=True, remote=remote)
    if weights is not None:
        raise OptionError("model and weights are both given; leave one out")
    if isinstance(model, TileModel):
        if chosen := [name for name, value in options.items() if value != _DEFAULTS[name]]:
            raise OptionError(
                f"{chosen[0]} was chosen when the TileModel was made; leave it out, or give the "
                "network as model (geoseg.load_model)"
            )
        return model
    if not isinstance(getattr(model, "metadata", None), Metadata):
        raise OptionError(
            f"model is a {type(model).__name__}; give a geoseg.TileModel, or a network with "
            "metadata, as geoseg.load_model returns it"
        )
    return TileModel(model, **options, remote=remote)
