"""The description of a checkpoint: one JSON object in the safetensors header.

The header is untrusted input: constructing `Metadata` checks every field, and errors name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from geoseg.classes import IGNORE, LabelClass, display_color, name_problem
from geoseg.errors import CheckpointError
from geoseg.model.variants import PYRAMIDS, VARIANTS

HEADER_KEY = "geoseg"
FORMAT = 1

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class Metadata:
    """All that predictions and readers need to know of weights besides the tensors.

    Raises:
        CheckpointError: a field has an impossible value.
    """

    variant: str
    """T, S, B or L, or one of `PYRAMIDS`."""
    classes: tuple[LabelClass, ...]
    """Classes of the channels of the logits, in order."""
    mean: Triple = IMAGENET_MEAN
    """Of red, green and blue, on the 0-255 scale."""
    std: Triple = IMAGENET_STD
    """Of red, green and blue, on the 0-255 scale."""
    head_bias: bool = False
    """Whether the decoder's convolutions have a bias, as in Jittor weights before December 2022."""
    nmf_rank: int = 0
    """Columns of the NMF bases, which no tensor shows; 0 becomes the variant's in the paper."""
    gsd_range: tuple[float, float] | None = None
    """Least and largest pixel size of the training images, m; None = unknown."""
    scale: float = 1.0
    """Factor by which a scene's pixels are enlarged before the model sees them."""
    provenance: str = ""
    """Origin of the weights: data, recipe, file."""
    license: str = ""
    """Terms of use of the weights."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores by name, as `{"val mIoU": 0.47}`."""
    min_confidence: Mapping[str, float] = field(default_factory=dict)
    """Mean probability, by class name, from which an object is more likely right than wrong."""
    split: tuple[str, ...] = ()
    """Classes whose touching objects are split, see `geoseg.tiling.splitting`."""

    def __post_init__(self) -> None:
        known = (*VARIANTS, *PYRAMIDS)
        check("variant", self.variant, isinstance(self.variant, str) and self.variant in known)
        if self.nmf_rank == 0:
            rank = VARIANTS[self.variant].rank if self.variant in VARIANTS else 1
            object.__setattr__(self, "nmf_rank", rank)
        check_classes(self.classes)
        check("mean", self.mean, is_numbers(self.mean, 3, -1e6))
        check("std", self.std, is_numbers(self.std, 3, 1e-6))
        check("head_bias", self.head_bias, isinstance(self.head_bias, bool))
        rank = self.nmf_rank
        check("nmf_rank", rank, type(rank) is int and 1 <= rank <= 1024)
        gsd = self.gsd_range
        check("gsd_range", gsd, gsd is None or (is_numbers(gsd, 2, 1e-6) and gsd[0] <= gsd[1]))
        check("scale", self.scale, is_number(self.scale, 1 / 16) and self.scale <= 16)
        check("provenance", self.provenance, is_text(self.provenance))
        check("license", self.license, is_text(self.license))
        metrics = self.metrics
        check(
            "metrics",
            metrics,
            isinstance(metrics, Mapping)
            and all(is_text(key) and is_number(value, -1e6) for key, value in metrics.items()),
        )
        limits, names = self.min_confidence, {item.name for item in self.classes}
        check(
            "min_confidence",
            limits,
            isinstance(limits, Mapping)
            and limits.keys() <= names
            and all(is_number(value, 0) and value <= 1 for value in limits.values()),
        )

        split = self.split
        check("split", split, isinstance(split, tuple) and set(split) <= names)

    def to_header(self) -> dict[str, str]:
        """Return the safetensors header."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, allow_nan=False)
        return {HEADER_KEY: text}

    @classmethod
    def from_header(cls, header: Mapping[str, str] | None) -> Metadata:
        """Parse a safetensors header.

        Raises:
            CheckpointError: there is no metadata, or it is of another format or not valid.
        """
        try:
            values = json.loads((header or {})[HEADER_KEY])
        except KeyError:
            raise CheckpointError("no geoseg metadata in its header") from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"its metadata is not JSON: {str(error)[:80]}") from None
        check("format", values, isinstance(values, dict))
        if (version := values.pop("format", None)) != FORMAT:
            raise CheckpointError(f"metadata format {version!r:.40}, this geoseg reads {FORMAT}")
        if "license" not in values and "licence" in values:  # as the first checkpoints spelled it
            values["license"] = values.pop("licence")
        for name, empty in (("min_confidence", {}), ("split", [])):
            values.setdefault(name, empty)  # which the first checkpoints lack
        names = {f.name for f in fields(cls)}
        if wrong := sorted(names ^ values.keys()):
            state = "is missing" if wrong[0] in names else "is unknown"
            raise CheckpointError(f"metadata field {wrong[0]!r:.40} {state}")
        values["classes"] = classes_from_json(values["classes"])
        for name in ("mean", "std", "gsd_range", "split"):
            if isinstance(values[name], list):
                values[name] = tuple(values[name])
        return cls(**values)


def classes_from_json(rows: Any) -> tuple[LabelClass, ...]:
    """Return classes from a list of `{"id": 0, "name": "ship", "color": [r, g, b]}`."""
    check("classes", rows, isinstance(rows, list))
    for row in rows:
        check("classes", row, isinstance(row, dict) and row.keys() == {"id", "name", "color"})
        check("classes", row, isinstance(row["color"], list))
    classes = tuple(LabelClass(row["id"], row["name"], tuple(row["color"])) for row in rows)
    check_classes(classes)
    return tuple(replace(item, color=display_color(item.name, item.color)) for item in classes)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_classes(classes: tuple[LabelClass, ...]) -> None:
    """Check that ids count from 0, names differ by more than case, and colors are RGB."""
    check("classes", classes, isinstance(classes, tuple) and 1 <= len(classes) <= IGNORE)
    for index, item in enumerate(classes):
        check("classes", item, isinstance(item, LabelClass))
        check("classes", item, type(item.id) is int and item.id == index)
        check("classes", item, isinstance(item.name, str) and not name_problem(item.name))
        rgb = item.color
        check("classes", item, isinstance(rgb, tuple) and len(rgb) == 3)
        check("classes", item, all(type(v) is int and 0 <= v <= 255 for v in rgb))
    names = [item.name.casefold() for item in classes]
    check("classes", names, len(set(names)) == len(names))


def check(name: str, value: object, holds: object) -> None:
    """Raise CheckpointError with the name and value of a metadata field unless `holds`."""
    if not holds:
        raise CheckpointError(f"metadata field {name!r} is wrong: {value!r:.80}")


def is_number(value: Any, low: float) -> bool:
    """Return whether `value` is a real number from `low` to a million."""
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= 1e6


def is_numbers(value: Any, length: int, low: float) -> bool:
    """Return whether `value` is a tuple of `length` numbers from `low` on."""
    return (
        isinstance(value, tuple)
        and len(value) == length
        and all(is_number(item, low) for item in value)
    )


def is_text(value: Any) -> bool:
    """Return whether `value` is text without control characters, which is safe to print."""
    return isinstance(value, str) and all(c.isprintable() or c == "\n" for c in value)
