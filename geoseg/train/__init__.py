"""Training and evaluation. Needs the extra `train`, but neither GDAL nor GIS libraries."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from geoseg.errors import GeosegError

for _name in ("pytorch_lightning", "torchmetrics", "yaml"):
    if find_spec(_name) is None:
        raise GeosegError(
            f"training and evaluation need {_name}, which is not installed: "
            "pip install 'geoseg[train]'"
        )


class _Package(ModuleType):
    """Lets `geoseg.train(...)` call the function, although this package has the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return sys.modules["geoseg"].__getattr__("train")(*arguments, **options)


sys.modules[__name__].__class__ = _Package
