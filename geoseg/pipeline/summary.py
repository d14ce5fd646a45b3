"""The report of a prediction, for people and programs."""

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
    """In square pixels if the scene has no place on the ground."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One scene's prediction."""

    scene: str
    """Path as given."""
    width: int
    height: int
    crs: str | None
    gsd: float | None
    """Meters a pixel."""
    valid_pixels: int
    """Pixels with data; the others are nodata in the class raster."""
    damaged: list[dict[str, int]]
    """Windows of the scene that could not be read and became nodata."""
    seconds: dict[str, float]
    """Seconds per stage, summed over threads; `total` is wall time."""
    classes: dict[str, ClassTotal]
    """Objects by class name; classes without any are absent."""
    outputs: dict[str, str]
    """Path of each output, by kind."""
    weights: dict[str, Any]
    """Variant, provenance, license and hash of the weights."""
    options: dict[str, Any]
    notes: tuple[str, ...]
    """Guesses and defaults that the user should know about."""
    state: Literal["done", "skipped"] = "done"
    """skipped: the results existed already, and this is the summary of the run that made them."""

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
        """Return the fields and derived values, ready for JSON."""
        return {
            **asdict(self),
            "pixels": self.pixels,
            "objects": self.objects,
            "mpx_per_second": round(self.mpx_per_second, 4),
        }


@dataclass(frozen=True, slots=True)
class Written:
    """The files that a prediction wrote."""

    names: dict[str, str]
    """File names by kind; by kind and class if a format has a file per class: `shapefile:ship`."""
    totals: dict[str, ClassTotal]
    """Objects by class, those with the largest objects first."""
    valid_pixels: int
    damaged: tuple[Window, ...]
    """Windows of the scene that could not be read."""


def summarize(
    path: str,
    plan: Plan,
    written: Written,
    timer: StageTimer,
    model: TileModel,
    options: PredictOptions,
    computing: Mapping[str, object],
) -> Summary:
    """Return the summary of a prediction that has just ended.

    Args:
        path: the scene's, as given.
        computing: `TileModel.options` of the machines that computed.
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
        # Rounded here, so that the speed derived from a stored summary is the same.
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
    """Return notes on a scene whose pixels are finer or coarser than the weights know.

    Args:
        own: meters a pixel of the scene.
        seen: meters a pixel that the model saw; None = its own.
        known: finest and coarsest of the training, meters a pixel.
    """
    if own is None or known is None:
        return ()
    trained = f"the weights were trained on {known[0]:g} to {known[1]:g} m a pixel"
    if seen is None and own > 1.1 * known[1]:
        return (f"{trained}, the scene has {own:.2g} m: --gsd {known[1]:g} may find more",)
    if seen is not None and seen == suitable_gsd(own, known):
        return (
            f"{trained}, the scene has {own:.2g} m: the model saw it at {seen:g} m "
            f"(--gsd {own:.2g} leaves it as it is)",
        )
    return ()
