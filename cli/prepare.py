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
    "--skip-bad", is_flag=True, help="Leave out what cannot be used, instead of refusing it all."
)


class Renaming(click.ParamType):
    """`old=new`."""

    name = "OLD=NEW"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        old, equals, new = value.partition("=")
        if not (old and equals and new):
            self.fail(f"{value!r} is not of the form OLD=NEW", param, ctx)
        return old, new


@click.group("prepare")
def command() -> None:
    """Make training data: a folder that `geoseg train --data` reads."""


@command.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", type=FOLDER)
@click.option("--patch", default=896, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=384, show_default=True, help="Of neighbouring patches, px.")
@SKIP_BAD
@options.workers
def isaid(
    source: Path, target: Path, patch: int, overlap: int, skip_bad: bool, workers: int | None
) -> None:
    """Cut the iSAID data set SRC (folders train and val) into patches.

    Images are NAME.png, masks NAME_instance_color_RGB.png, in one folder or two. Interrupted, the
    same command goes on where it stopped. JSeg's patches are --patch 800 --overlap 200.
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
    help="Polygons within which everything was labelled: the rest of them is background. Without "
    "them, pixels outside all polygons are ignored, and the model never sees background unless "
    "you draw polygons of class background.",
)
@click.option("--patch", default=512, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=0, show_default=True, help="Of neighbouring patches, px.")
@click.option(
    "--val-share", default=0.2, show_default=True, help="Share of the labelled squares for val."
)
@SKIP_BAD
def labels(
    scene: str,
    labels: Path,
    target: Path,
    field: str,
    layer: str | None,
    area: Path | None,
    patch: int,
    overlap: int,
    val_share: float,
    skip_bad: bool,
) -> None:
    """Cut SCENE, and the polygons drawn over it in LABELS, into patches.

    Several scenes can be prepared into one DST, one after the other; those of one name are kept
    apart. A scene that is prepared again replaces its own patches.
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
    type=Renaming(),
    multiple=True,
    help="Class of the masks for a class of the boxes, or `ignore`; may be repeated.",
)
@click.option(
    "--classes",
    "classes_file",
    type=FILE,
    help="CSV with id, name and color.  [default: iSAID's if they suffice, else those found]",
)
@click.option("--group", help="Name of these images in recipes.  [default: SRC's]")
@click.option("--patch", default=896, show_default=True, help="Side of a patch, px.")
@click.option("--overlap", default=128, show_default=True, help="Overlap of patches, px.")
@click.option(
    "--val-share",
    default=0.1,
    show_default=True,
    help="Share of the images for validation, where SRC has no folders train and val.",
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

    The mask holds the class where a box is sure of it (the ellipse of a tank, the rectangle of a
    turned car, the middle of a plane), background outside of all boxes, and 255, undecided,
    between. DST also gets boxes.csv, by which `geoseg evaluate` counts objects. Several sources
    can be prepared into one DST, one after the other.
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
    """For the terminal."""
    lines = [f"skipped: {sentence}" for sentence in prepared.skipped]
    lines += [f"Note: {sentence}" for sentence in prepared.notes]
    lines += [f"{name:<20} {pixels:>13,} px" for name, pixels in prepared.pixels.items() if pixels]
    background = prepared.classes[0].name
    if absent := [name for name in prepared.absent if name != background]:
        lines.append(f"without a pixel: {', '.join(absent)}")
    if background in prepared.absent:
        lines.append(
            f"Warning: no pixel is {background}. From such patches alone a model learns to see an "
            "object in every pixel, so geoseg train refuses them: give --area (polygons within "
            "which everything was labelled), or draw polygons of class background"
        )
    made = " and ".join(f"{count} {split}" for split, count in prepared.patches.items())
    lines.append(f"{made} patches, {len(prepared.skipped)} skipped: {target / 'split.csv'}")
    return "\n".join(lines)
