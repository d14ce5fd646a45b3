"""Training and evaluation. Needs the extra `train`, but neither GDAL nor GIS libraries."""

from __future__ import annotations

from importlib.util import find_spec

from geoseg.errors import GeosegError

for _name in ("pytorch_lightning", "torchmetrics", "yaml"):
    if find_spec(_name) is None:
        raise GeosegError(
            f"training and evaluation need {_name}, which is not installed: "
            "pip install 'geoseg[train]'"
        )
