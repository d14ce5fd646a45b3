"""Put the aerial images behind the default weights into one labelled folder.

    python tests/benchmarks/aerial_data.py ../shared/data runs/aerial_data

Images with masks are listed where they lie; boxes become masks by `geoseg prepare boxes`; scenes
of a word that has no object (forest, farmland, …) are background. Takes two minutes.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from geoseg.classes import IGNORE, ISAID
from geoseg.datasets.from_boxes import prepare_boxes
from geoseg.datasets.layout import SPLIT_COLUMNS, Patching, read_table, write_table

BOXED = (
    *("aerial_airport", "airbus_aircraft", "airbus_tanks", "dota_full", "estonia_ortho"),
    *("hrplanes_640", "oil_floating", "ships_621", "ships_harbor63", "simd", "ucas_aod"),
)
MASKED = {"aid_tracks": 0, "hand_gearth": 0, "harvey_uav": 1, "pools_cannes": 28}
"""Folders with masks, and how many of their images are for validation."""
LAND = {"agricultural", "chaparral", "desert", "farmland", "forest", "mountain", "wetland"}
WATER = {"beach", "island", "lake", "river"}
"""Words without an object, but for a boat, a bridge or a car near water."""
SIDE = 1600
"""Of patches, px."""


def add_boxes(source: Path, target: Path) -> None:
    """One source, or its parts that are labelled for other classes."""
    with (source / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with_planes = {row["image"] for row in rows if row["isaid_id"] == "14"}
    parts: dict[str, list[Path]] = defaultdict(list)
    for image in sorted((source / "images").iterdir()):
        if source.name == "dota_full" and image.name.startswith("poolonly"):
            parts["dota_pools"].append(image)
        elif source.name == "ucas_aod":
            parts["ucas_planes" if image.name in with_planes else "ucas_cars"].append(image)
        else:
            parts[source.name].append(image)
    for group, images in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            names = {image.name for image in images}
            for image in images:
                (Path(folder) / image.name).symlink_to(image)
            chosen = [tuple(row.values()) for row in rows if row["image"] in names]
            write_table(Path(folder) / "boxes.csv", list(rows[0]), chosen)
            prepare_boxes(
                *(Path(folder), target, "csv", Patching(SIDE, 128)),
                group=group,
                classes=ISAID,
                val_share=0.1,
            )


def masked_rows(folder: Path, held_out: int, target: Path) -> list[tuple[str, ...]]:
    images = sorted((folder / "images").iterdir())
    middle = (len(images) - held_out) // 2
    return [
        row_of(
            folder.name,
            image.stem,
            "val" if middle <= i < middle + held_out else "train",
            image,
            folder / "masks" / f"{image.stem}.png",
            target,
        )
        for i, image in enumerate(images)
    ]


def scene_rows(folder: Path, target: Path) -> list[tuple[str, ...]]:
    """Scenes of a natural word, with masks of background; the others are not labelled."""
    rows = []
    with (folder / "scenes.csv").open(newline="") as file:
        words = {row["image"]: row["scene"] for row in csv.DictReader(file)}
    for image in sorted((folder / "images").iterdir()):
        word = words[image.name]
        kind = "land" if word in LAND else "water" if word in WATER else "unlabelled"
        mask = target / "masks" / folder.name / f"{image.stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(image) as picture:
            shape = picture.size[::-1]
        Image.fromarray(np.full(shape, IGNORE if kind == "unlabelled" else 0, np.uint8)).save(mask)
        rows.append(row_of(f"{folder.name}_{kind}", image.stem, "train", image, mask, target))
    return rows


def row_of(
    group: str, name: str, split: str, image: Path, mask: Path, target: Path
) -> tuple[str, ...]:
    return (group, name, split, *(os.path.relpath(path, target) for path in (image, mask)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder that holds aerial and aerial2")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    source, target = arguments.source.resolve(), arguments.target.resolve()
    for name in BOXED:
        add_boxes(source / "aerial2" / name, target)
        print(name, flush=True)
    rows = [
        tuple(r[c] for c in SPLIT_COLUMNS) for r in read_table(target / "split.csv", SPLIT_COLUMNS)
    ]
    for row in read_table(source / "aerial" / "split.csv", SPLIT_COLUMNS):
        image, mask = (source / "aerial" / row[part] for part in ("image", "mask"))
        rows.append(row_of(row["group"], row["name"], row["split"], image, mask, target))
    for name, held_out in MASKED.items():
        rows += masked_rows(source / "aerial2" / name, held_out, target)
    for name in ("resisc_scenes", "ucm_scenes"):
        rows += scene_rows(source / "aerial2" / name, target)
    write_table(target / "split.csv", SPLIT_COLUMNS, rows)
    print(f"{len(rows)} images: {target / 'split.csv'}")


if __name__ == "__main__":
    main()
