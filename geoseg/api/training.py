"""Training data, training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoseg.api.messages import python_messages
from geoseg.api.models import ready_model
from geoseg.api.progress import Progress, reporting
from geoseg.classes import read_class_list
from geoseg.datasets.layout import Patching, Prepared
from geoseg.guard import refuse_inputs
from geoseg.model.devices import Precision
from geoseg.model.engines.backends import BackendOption
from geoseg.model.load import load_model, locate_weights
from geoseg.tiling.grid import OVERLAP, TILE_SIZE

if TYPE_CHECKING:
    from geoseg.train.metrics import Evaluation

AnyPath = str | Path
_LOG = logging.getLogger("geoseg")


@python_messages
def prepare_labels(
    scene: AnyPath,
    labels: AnyPath,
    out: AnyPath,
    *,
    field: str,
    layer: str | None = None,
    area: AnyPath | None = None,
    update: bool = False,
    patch: int = 512,
    overlap: int = 0,
    val_share: float = 0.2,
    skip_bad: bool = False,
    progress: Progress = None,
) -> Prepared:
    """Cut a scene and the polygons drawn over it into patches that `train` reads.

    >>> geoseg.prepare_labels("scene.tif", "drawn.gpkg", "patches", field="class", area="area.gpkg")

    Args:
        out: folder of the patches; several scenes can be prepared into one.
        field: attribute of the polygons that names their class.
        layer: layer of `labels`; None = all.
        area: polygons within which everything was labeled; the rest of them is background.
        update: the labels are corrected results of `predict`: what lies outside of `area` and was
            neither drawn nor changed by hand is no label.
        patch: side of a patch, px; neighboring ones share `overlap` px.
        val_share: share of the labeled squares for validation.
        skip_bad: leave out features that cannot be used.

    Raises:
        GeosegError: as `geoseg.datasets.from_labels.prepare_labels` does.
    """
    from geoseg.datasets.from_labels import prepare_labels as prepare

    with reporting(progress, "prepare", "patch") as report:
        return prepare(
            str(scene),
            Path(labels),
            Path(out),
            field=field,
            layer=layer,
            area_path=None if area is None else Path(area),
            update=update,
            patching=Patching(patch, overlap),
            val_share=val_share,
            skip_bad=skip_bad,
            progress=report,
        )


@python_messages
def prepare_boxes(
    source: AnyPath,
    out: AnyPath,
    *,
    format: Literal["dota", "yolo", "coco", "csv"],
    map: Mapping[str, str] | None = None,
    classes: AnyPath | None = None,
    group: str | None = None,
    patch: int = 896,
    overlap: int = 128,
    val_share: float = 0.1,
    skip_bad: bool = False,
    progress: Progress = None,
) -> Prepared:
    """Cut images with bounding boxes into patches with masks that `train` reads.

    >>> geoseg.prepare_boxes("dota", "patches", format="dota", map={"helipad": "ignore"})

    Args:
        out: folder of the patches; several sources can be prepared into one.
        map: class of the masks by class of the boxes; `ignore` leaves boxes out.
        classes: a CSV file with id, name and color; None = iSAID's if they suffice.
        group: name of these images in recipes; None = that of `source`.
        patch: side of a patch, px; neighboring ones share `overlap` px.
        val_share: share of the images for validation, if `source` has no folders train and val.
        skip_bad: leave out images that cannot be used.

    Raises:
        GeosegError: as `geoseg.datasets.from_boxes.prepare_boxes` does.
    """
    from geoseg.datasets.from_boxes import prepare_boxes as prepare

    with reporting(progress, "prepare", "image") as report:
        return prepare(
            Path(source),
            Path(out),
            format,
            Patching(patch, overlap),
            group=group,
            renamed=map,
            classes=None if classes is None else read_class_list(Path(classes)),
            val_share=val_share,
            skip_bad=skip_bad,
            progress=report,
        )


@python_messages
def prepare_isaid(
    source: AnyPath,
    out: AnyPath,
    *,
    patch: int = 896,
    overlap: int = 384,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> Prepared:
    """Cut the iSAID data set into patches that `train` reads.

    >>> geoseg.prepare_isaid("iSAID", "patches")

    Args:
        source: folder with the folders train and val.
        out: folder of the patches. After an interruption, the same call resumes.
        patch: side of a patch, px; neighboring ones share `overlap` px.
        skip_bad: leave out images that cannot be used.

    Raises:
        GeosegError: as `geoseg.datasets.isaid.prepare_isaid` does.
    """
    from geoseg.datasets.isaid import prepare_isaid as prepare

    with reporting(progress, "prepare", "image") as report:
        return prepare(
            Path(source),
            Path(out),
            Patching(patch, overlap),
            skip_bad=skip_bad,
            workers=workers,
            progress=report,
        )


@python_messages
def train(
    recipe: AnyPath,
    *,
    out: AnyPath | None = None,
    data: AnyPath | None = None,
    pretrained: AnyPath | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    seed: int | None = None,
    skip_bad: bool = False,
    without_background: bool = False,
    changes: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
    progress: Progress = None,
) -> Path:
    """Train a model and return the path of the best checkpoint, for `predict(weights=...)`.

    >>> best = geoseg.train("lite2_own", data="patches", pretrained="default", out="run")

    Args:
        recipe: a YAML file, or the name of a recipe that geoseg has.
        out: folder of the run; None = runs/<recipe>.
        data: folder of `prepare_labels` and its like; None = the recipe's.
        pretrained: weights to start from; `default` = the built-in ones, None = random.
        resume: go on with the run in `out`.
        devices: number of devices that share each batch.
        without_background: train although no pixel is background.
        changes: other values of the recipe by dotted name: {"optimizer.lr": 1e-4}.
        report: called with lines about the run.

    Raises:
        GeosegError: as `geoseg.train.fit.fit` does.
    """
    from geoseg.train.fit import RESULTS, fit
    from geoseg.train.recipe import load_recipe

    folder = Path("runs") / Path(recipe).stem if out is None else Path(out)
    start = None if pretrained is None else str(pretrained)
    if not resume:
        refuse_inputs((folder / name for name in RESULTS), filter(None, (recipe, start)))
    given = {"data.root": None if data is None else str(data), "seed": seed}
    values = {key: value for key, value in given.items() if value is not None}
    with reporting(progress, "read", "image") as count:
        return fit(
            load_recipe(recipe, **values, **(changes or {})),
            folder,
            resume=resume,
            pretrained=start,
            device=device,
            devices=devices,
            skip_bad=skip_bad,
            without_background=without_background,
            report=report,
            progress=count,
        )


@python_messages
def evaluate(
    weights: AnyPath | None,
    data: AnyPath,
    *,
    split: str = "val",
    recipe: AnyPath | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    backend: BackendOption = "auto",
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    tta: bool = False,
    progress: Progress = None,
) -> Evaluation:
    """Score weights on labeled images; for objects of a finished prediction see `score_objects`.

    >>> geoseg.evaluate("run/best.safetensors", "patches").scores.miou

    Args:
        weights: a checkpoint or a name of `geoseg weights list`; None = the built-in ones.
        data: folder of `prepare_labels` and its like.
        split: which of its images to score.
        recipe: says which classes each group labels completely; None = recipe.yaml beside the
            weights, if there is one.

    Raises:
        GeosegError: as `geoseg.train.evaluate.evaluate` does.
    """
    from geoseg.train.crops import hidden_by_group
    from geoseg.train.dataset import LabeledFolder
    from geoseg.train.evaluate import evaluate as score
    from geoseg.train.evaluate import ids_by_name
    from geoseg.train.recipe import load_recipe

    folder = LabeledFolder.open(Path(data))
    for warning in folder.warnings:
        _LOG.warning("%s", warning)
    items = folder.split(split)
    path = locate_weights(weights)
    beside = path.with_name("recipe.yaml")
    rules = recipe or (beside if beside.is_file() else None)
    network = load_model(path)
    ids_by_name(folder, network.metadata.classes)
    hidden = hidden_by_group(load_recipe(rules), items, len(folder.classes)) if rules else {}
    options: dict[str, Any] = {"device": device, "precision": precision, "backend": backend}
    model = ready_model(network, None, **options, batch_size=None, tta=tta)
    with reporting(progress, "evaluate", "image") as report:
        return score(
            model,
            folder,
            items,
            hidden=hidden,
            tile_size=tile_size,
            overlap=overlap,
            progress=report,
        )
