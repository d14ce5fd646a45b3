"""Networks as the functions of the API take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from geoseg.errors import OptionError
from geoseg.model.load import load_model
from geoseg.model.tile_model import TileModel


def ready_model(
    model: TileModel | nn.Module | None, weights: str | Path | None, **options: Any
) -> TileModel:
    """Return a model that takes tiles: `model`, or one of these weights.

    Args:
        options: of `TileModel`; those with their default values may accompany a `TileModel`.

    Raises:
        OptionError: `model` and other options contradict each other.
        CheckpointError: the weights cannot be used.
    """
    if model is None:
        return TileModel(load_model(weights), **options, consume=True)
    if weights is not None:
        raise OptionError("model and weights are both given; leave one out")
    if not isinstance(model, TileModel):
        return TileModel(model, **options)
    defaults = {"device": "auto", "precision": "auto", "backend": "torch"}
    if chosen := [name for name, value in options.items() if value not in (None, False)]:
        chosen = [name for name in chosen if options[name] != defaults.get(name)]
        if chosen:
            raise OptionError(
                f"{chosen[0]} was chosen when the TileModel was made; leave it out, or give model "
                "a network (geoseg.load_model)"
            )
    return model
