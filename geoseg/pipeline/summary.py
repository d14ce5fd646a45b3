"""What a prediction did, as one object for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from geoseg.geo.raster.resampled import suitable_gsd
from geoseg.model.tile_model import TileModel
from geoseg.pipeline.execution.tasks import Plan
from geoseg.pipeline.options import PredictOptions
from geoseg.tiling.grid import Window
from geoseg.timing import StageTimer


@dataclass(frozen=True, slots=True)
class ClassTotal:
    """The objects of one class."""

    objects: int
    area_m2: float
    """Square pixels where the scene has no place on the ground."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One scene's prediction."""

    scene: str
    """Path as given."""
    width: int
    height: int
    crs: str | None
    gsd: float | None
    """Metres a pixel."""
    valid_pixels: int
    """Pixels that hold data; the others are nodata in the class raster."""
    damaged: list[dict[str, int]]
    """Windows of the scene that could not be read, and became nodata."""
    seconds: dict[str, float]
    """Per stage, added over threads; `total` is wall time."""
    classes: dict[str, ClassTotal]
    """By class name; classes without an object are absent."""
    outputs: dict[str, str]
    """Path of each output, by kind."""
    weights: dict[str, Any]
    """Variant, provenance, license and hash of the weights."""
    options: dict[str, Any]
    notes: tuple[str, ...]
    """What the user should know about how the scene was read."""
    state: Literal["done", "skipped"] = "done"
    """Skipped: it was done before, and this tells of then."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def mpx_per_second(self) -> float:
        return self.pixels / 1e6 / self.seconds["total"]

    @property
    def objects(self) -> int:
        return sum(total.objects for total in self.classes.values())

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **asdict(self),
            "pixels": self.pixels,
            "objects": self.objects,
            "mpx_per_second": round(self.mpx_per_second, 4),
        }


@dataclass(frozen=True, slots=True)
class Written:
    """What a prediction leaves on disk."""

    names: dict[str, str]
    """Files by kind; where a format has one for each class, by kind and class: `shapefile:ship`."""
    totals: dict[str, ClassTotal]
    """By class, that with the largest objects first."""
    valid_pixels: int
    damaged: tuple[Window, ...]
    """Parts of the scene that could not be read."""


def summarize(
    path: str,
    plan: Plan,
    written: Written,
    timer: StageTimer,
    model: TileModel,
    options: PredictOptions,
    computing: Mapping[str, object],
) -> Summary:
    """Of a prediction that has just ended, of the scene at `path`.

    Args:
        computing: `TileModel.options`, of those who computed.
    """
    scene, metadata = plan.view.scene, model.metadata
    geobox, folder = scene.geobox, options.output.folder
    return Summary(
        scene=path,
        width=geobox.width,
        height=geobox.height,
        crs=geobox.crs.to_string() if geobox.crs else None,
        gsd=geobox.gsd,
        valid_pixels=written.valid_pixels,
        damaged=[asdict(window) for window in written.damaged],
        # Speed follows from what is told, also when it is told again.
        seconds={name: round(value, 3) for name, value in timer.seconds.items()},
        classes=written.totals,
        outputs={kind: str(folder / name) for kind, name in written.names.items()},
        weights={
            "variant": metadata.variant,
            "provenance": metadata.provenance,
            "license": metadata.license,
            "sha256": model.weights_hash,
        },
        options={
            **asdict(options.scene),
            **asdict(options.tiling),
            **asdict(options.compute),
            **asdict(options.output),
            "folder": str(folder),
            **computing,
        },
        notes=scene.notes + gsd_notes(geobox.gsd, options.scene.gsd, metadata.gsd_range),
    )


def gsd_notes(
    own: float | None, seen: float | None, known: tuple[float, float] | None
) -> tuple[str, ...]:
    """Where the weights have never seen pixels of this size, what was done or could be, metres.

    Args:
        seen: at which the model saw the scene; None = its own.
    """
    if own is None or known is None:
        return ()
    told = f"the weights were trained on {known[0]:g} to {known[1]:g} m a pixel"
    if seen is None and own > 1.1 * known[1]:
        return (f"{told}, the scene has {own:.2g} m: --gsd {known[1]:g} may find more",)
    if seen is not None and seen == suitable_gsd(own, known):
        return (
            f"{told}, the scene has {own:.2g} m: the model saw it at {seen:g} m "
            f"(--gsd {own:.2g} leaves it as it is)",
        )
    return ()
