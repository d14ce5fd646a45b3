"""`geoseg prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from geoseg.datasets.layout import Prepared

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave out what cannot be used instead of refusing all."
)


@click.group("prepare")
def command() -> None:
    """Prepare training data: a folder for `geoseg train --data`."""


@command.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", type=FOLDER)
@click.option("--patch", default=896, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=384, show_default=True, help="Overlap of patches, px.")
@SKIP_BAD
@options.workers
def isaid(
    source: Path, target: Path, patch: int, overlap: int, skip_bad: bool, workers: int | None
) -> None:
    """Cut the iSAID data set SRC (folders train and val) into patches.

    Images are NAME.png, masks NAME_instance_color_RGB.png, in one folder or two. After an
    interruption, the same command continues. JSeg's patches are --patch 800 --overlap 200.
    """
    from geoseg.datasets.isaid import prepare_isaid
    from geoseg.datasets.layout import Patching

    with options.count_bar("prepare", "image") as progress:
        prepared = prepare_isaid(
            source,
            target,
            Patching(patch, overlap),
            skip_bad=skip_bad,
            workers=workers,
            progress=progress,
        )
    click.echo(report(prepared, target))


@command.command()
@click.argument("scene")
@click.argument("labels", type=FILE)
@click.argument("target", metavar="DST", type=FOLDER)
@click.option("--field", required=True, help="Attribute of the polygons that names their class.")
@click.option("--layer", help="Layer of LABELS.  [default: all]")
@click.option(
    "--area",
    type=FILE,
    help="Polygons of the area in which everything is labeled: the rest of it is background. "
    "Without them, pixels outside of all polygons are ignored, and the model learns no background "
    "unless there are polygons of class background. Of a layer of `geoseg suggest`, the polygons "
    "that are reviewed.",
)
@click.option(
    "--update",
    is_flag=True,
    help="LABELS are results of predict that were corrected: what lies outside of --area and was "
    "neither drawn nor changed by hand is no label.",
)
@click.option("--patch", default=512, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=0, show_default=True, help="Overlap of patches, px.")
@click.option(
    "--val-share",
    default=0.2,
    show_default=True,
    help="Share of the labeled squares for validation.",
)
@SKIP_BAD
def labels(
    scene: str,
    labels: Path,
    target: Path,
    field: str,
    layer: str | None,
    area: Path | None,
    update: bool,
    patch: int,
    overlap: int,
    val_share: float,
    skip_bad: bool,
) -> None:
    """Cut SCENE, and the polygons drawn over it in LABELS, into patches.

    Several scenes can be prepared into one DST, one after the other. A scene that is prepared
    again replaces its own patches.
    """
    from geoseg.datasets.from_labels import prepare_labels
    from geoseg.datasets.layout import Patching

    with options.count_bar("prepare", "patch") as progress:
        prepared = prepare_labels(
            scene,
            labels,
            target,
            field=field,
            layer=layer,
            area_path=area,
            update=update,
            patching=Patching(patch, overlap),
            val_share=val_share,
            skip_bad=skip_bad,
            progress=progress,
        )
    click.echo(report(prepared, target))


@command.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", type=FOLDER)
@click.option(
    "--format",
    "form",
    type=click.Choice(["dota", "yolo", "coco", "csv"]),
    required=True,
    help="dota: images and labelTxt; yolo: images and labels, oriented boxes and outlines too; "
    "coco: JSON, outlines and masks too; csv: boxes.csv with image, class, x1, y1 … x4, y4.",
)
@click.option(
    "--map",
    "renamed",
    type=options.Pair("OLD=NEW"),
    multiple=True,
    help="Rename a class of the boxes, or exclude it with OLD=ignore; may be repeated.",
)
@click.option(
    "--classes",
    "classes_file",
    type=FILE,
    help="CSV with id, name and color.  [default: iSAID's if it has all, else those found]",
)
@click.option("--group", help="Name of these images in recipes.  [default: SRC's]")
@click.option("--patch", default=896, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=128, show_default=True, help="Overlap of patches, px.")
@click.option(
    "--val-share",
    default=0.1,
    show_default=True,
    help="Share of the images for validation, if SRC has no folders train and val.",
)
@SKIP_BAD
def boxes(
    source: Path,
    target: Path,
    form: str,
    renamed: tuple[tuple[str, str], ...],
    classes_file: Path | None,
    group: str | None,
    patch: int,
    overlap: int,
    val_share: float,
    skip_bad: bool,
) -> None:
    """Cut images with boxes in SRC into patches with masks.

    Masks hold the class where it is certain (the ellipse of a tank, the rectangle of a car, the
    middle of a plane), background outside of all boxes, and 255, unlabeled, between. DST also
    gets boxes.csv, by which `geoseg evaluate` counts objects. Several sources can be prepared
    into one DST, one after the other.
    """
    from geoseg.classes import read_class_list
    from geoseg.datasets.from_boxes import prepare_boxes
    from geoseg.datasets.layout import Patching

    with options.count_bar("prepare", "image") as progress:
        prepared = prepare_boxes(
            source,
            target,
            form,
            Patching(patch, overlap),
            group=group,
            renamed=dict(renamed),
            classes=read_class_list(classes_file) if classes_file else None,
            val_share=val_share,
            skip_bad=skip_bad,
            progress=progress,
        )
    click.echo(report(prepared, target))


def report(prepared: Prepared, target: Path) -> str:
    """Return the summary for the terminal."""
    lines = [f"skipped: {sentence}" for sentence in prepared.skipped]
    lines += [f"Note: {sentence}" for sentence in prepared.notes]
    lines += [f"{name:<20} {pixels:>13,} px" for name, pixels in prepared.pixels.items() if pixels]
    background = prepared.classes[0].name
    if absent := [name for name in prepared.absent if name != background]:
        lines.append(f"without a pixel: {', '.join(absent)}")
    if background in prepared.absent:
        lines.append(
            f"Warning: no pixel is {background}. A model trained on such patches alone finds an "
            "object in every pixel, so geoseg train refuses them: give --area (polygons within "
            "which everything is labeled), or draw polygons of class background"
        )
    made = " and ".join(f"{count} {split}" for split, count in prepared.patches.items())
    lines.append(f"{made} patches, {len(prepared.skipped)} skipped: {target / 'split.csv'}")
    return "\n".join(lines)
