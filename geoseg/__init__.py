"""Objects from aerial scenes: a network on tiles, polygons out.

>>> import geoseg
>>> result = geoseg.predict("scene.tif", out="results")
>>> result.objects.explore("class")

Functions and classes are loaded on first use: `import geoseg` takes no time, and training works
without GDAL.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoseg.classes import IGNORE, ISAID, LabelClass
from geoseg.errors import (
    CheckpointError,
    ClusterError,
    DamageError,
    DataError,
    DownloadError,
    GeosegError,
    InUseError,
    MachineError,
    OptionError,
    OutputError,
    RecipeError,
    SceneError,
    SchedulerError,
)
from geoseg.version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from geoseg.api.analysis import (
        accuracy,
        change,
        count,
        decode,
        derive,
        report,
        sample,
        suggest,
    )
    from geoseg.api.arrays import ArrayPrediction, predict_array
    from geoseg.api.prediction import Prediction, RasterBand
    from geoseg.api.scenes import export, predict, score_objects, vectorize
    from geoseg.api.training import (
        evaluate,
        prepare_boxes,
        prepare_isaid,
        prepare_labels,
        train,
    )
    from geoseg.geo.layers.polygonize import polygonize
    from geoseg.geo.raster.scene import Scene
    from geoseg.model.load import load_model
    from geoseg.model.tile_model import TileModel
    from geoseg.tiling.grid import Window

__all__ = [
    "IGNORE",
    "ISAID",
    "ArrayPrediction",
    "CheckpointError",
    "ClusterError",
    "DamageError",
    "DataError",
    "DownloadError",
    "GeosegError",
    "InUseError",
    "LabelClass",
    "MachineError",
    "OptionError",
    "OutputError",
    "Prediction",
    "RasterBand",
    "RecipeError",
    "Scene",
    "SceneError",
    "SchedulerError",
    "TileModel",
    "Window",
    "__version__",
    "accuracy",
    "change",
    "count",
    "decode",
    "derive",
    "evaluate",
    "export",
    "load_model",
    "polygonize",
    "predict",
    "predict_array",
    "prepare_boxes",
    "prepare_isaid",
    "prepare_labels",
    "report",
    "sample",
    "score_objects",
    "suggest",
    "train",
    "vectorize",
]

_LAZY = {
    "geoseg.api.analysis": (
        *("accuracy", "change", "count", "decode"),
        *("derive", "report", "sample", "suggest"),
    ),
    "geoseg.api.arrays": ("ArrayPrediction", "predict_array"),
    "geoseg.api.prediction": ("Prediction", "RasterBand"),
    "geoseg.api.scenes": ("export", "predict", "score_objects", "vectorize"),
    "geoseg.api.training": (
        *("evaluate", "train"),
        *("prepare_boxes", "prepare_isaid", "prepare_labels"),
    ),
    "geoseg.geo.layers.polygonize": ("polygonize",),
    "geoseg.geo.raster.scene": ("Scene",),
    "geoseg.model.load": ("load_model",),
    "geoseg.model.tile_model": ("TileModel",),
    "geoseg.tiling.grid": ("Window",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}


if not TYPE_CHECKING:  # for type checkers, names that are not listed above do not exist

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
