"""Metadata of an exported model, under the keys that other tools read.

- Deepness (QGIS plugin) and GeoDeep: the keys of Deepness, "Add metadata to model", with values in
  JSON. Both tools divide pixels by 255, and read the size of tiles from the input's shape.
- The Machine Learning Model extension of STAC (MLM, version 1.5.1): the properties of an item that
  concern the model itself.
"""

from __future__ import annotations

import json

import torch
from torch import nn

from geoseg.classes import LabelClass
from geoseg.model.engines.graph import GraphForm
from geoseg.model.metadata import Metadata
from geoseg.model.variants import PYRAMIDS

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.1/schema.json"
OVERLAP_PERCENT = 15
"""Overlap of tiles: some 128 px of 1024, as `geoseg predict` has."""
SMALL_SEGMENT = 5
"""GeoDeep sieves regions below as many pixels; Deepness takes the median over as many squared."""


def tool_keys(network: nn.Module, form: GraphForm, gsd: float | None = None) -> dict[str, str]:
    """Return keys and values for a model's metadata.

    Args:
        network: with `metadata`.
        gsd: pixel size to show the model, m; None = the finest that it was trained on.
    """
    metadata = network.metadata
    assert isinstance(metadata, Metadata)
    return {**deepness_keys(metadata, form, gsd), **mlm_keys(network, metadata, form)}


def deepness_keys(metadata: Metadata, form: GraphForm, gsd: float | None) -> dict[str, str]:
    """Return the keys of a segmentation model for Deepness, which GeoDeep reads, too."""
    if gsd is None and metadata.gsd_range is not None:
        gsd = metadata.gsd_range[0]
    values: dict[str, object] = {
        "model_type": "Segmentor",
        "class_names": {str(item.id): item.name for item in metadata.classes},
        "tiles_overlap": OVERLAP_PERCENT,
        "seg_thresh": 0.0,  # the class of the highest probability, as geoseg decides
        "seg_small_segment": SMALL_SEGMENT,
        # The graph normalizes.
        "standardization_mean": [0.0, 0.0, 0.0],
        "standardization_std": [1.0, 1.0, 1.0],
    }
    if gsd is not None:
        values["resolution"] = round(100 * gsd / metadata.scale, 4)  # cm
    if form.tile_size:
        # The documentation of Deepness says tiles_size, its code tile_size.
        values |= {"tiles_size": form.tile_size, "tile_size": form.tile_size}
    return {key: json.dumps(value) for key, value in values.items()}


def mlm_keys(network: nn.Module, metadata: Metadata, form: GraphForm) -> dict[str, str]:
    """Return the properties of a STAC item for the model; numbers and objects in JSON."""
    name = f"EfficientNet-{metadata.variant}" if metadata.variant in PYRAMIDS else "SegNeXt"
    tasks = ["semantic-segmentation"]
    scaling = None if form.highest_pixel == 255 else [scale_of(form)]
    order = ["batch", "channel", "height", "width"]
    side = form.tile_size or -1
    result = {
        "shape": [1, len(metadata.classes), side, side],
        "dim_order": order,
        "data_type": "float32",
    }
    texts = {
        "mlm:name": f"geoseg {metadata.variant}",
        "mlm:architecture": name,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__,
        "license": metadata.license,
        "description": metadata.provenance,
    }
    objects: dict[str, object] = {
        "stac_extensions": [MLM_SCHEMA],
        "mlm:tasks": tasks,
        "mlm:total_parameters": sum(each.numel() for each in network.parameters()),
        "mlm:pretrained": True,
        "mlm:batch_size_suggestion": 1,
        "mlm:input": [
            {
                "name": "pixels",
                "bands": ["red", "green", "blue"],
                "input": {"shape": [1, 3, side, side], "dim_order": order, "data_type": "float32"},
                "value_scaling": scaling,
                "resize_type": None,
                "pre_processing_function": None,
            }
        ],
        "mlm:output": [
            {
                "name": output_name(form),
                "tasks": tasks,
                "result": result,
                "classification:classes": [stac_class(item) for item in metadata.classes],
                "post_processing_function": None,
            }
        ],
    }
    return {key: text for key, text in texts.items() if text} | {
        key: json.dumps(value) for key, value in objects.items()
    }


def scale_of(form: GraphForm) -> dict[str, object]:
    """Return the MLM value scaling from pixels of 0-255 to the input."""
    return {"type": "scale", "value": 255 / form.highest_pixel}


def output_name(form: GraphForm) -> str:
    """Return the name of the graph's output."""
    return "probabilities" if form.probabilities else "logits"


def stac_class(item: LabelClass) -> dict[str, object]:
    """Return a class object of STAC's classification extension, version 2."""
    color = "{:02X}{:02X}{:02X}".format(*item.color)
    return {"value": item.id, "name": item.name, "color_hint": color}
