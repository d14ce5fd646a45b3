"""What a prediction did, as one object for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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
    seconds: dict[str, float]
    """Per stage, added over threads; `total` is wall time."""
    classes: dict[str, ClassTotal]
    """By class name; classes without an object are absent."""
    outputs: dict[str, str]
    """Path of each output, by kind."""
    weights: dict[str, Any]
    """Variant, provenance, licence and hash of the weights."""
    options: dict[str, Any]
    notes: tuple[str, ...]
    """What the user should know about how the scene was read."""

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
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }
