"""`geoseg weights`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from geoseg.model.engines.export import Format
    from geoseg.model.metadata import Metadata

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("weights")
def command() -> None:
    """List, describe, fetch, import, export and quantize weights."""


@command.command("list")
def list_() -> None:
    """List the built-in weights and those that can be fetched by name."""
    from geoseg.model.hub import LICENSE, PUBLIC_WEIGHTS
    from geoseg.model.variants import BUILT_IN, DEFAULT_WEIGHTS, network_name

    click.echo(f"{'name':<20} {'model':<18} {'iSAID val mIoU':>14}  where")
    for name, variant in BUILT_IN.items():
        where = "inside geoseg" + (", the default" if name == DEFAULT_WEIGHTS else "")
        click.echo(f"{name:<20} {network_name(variant):<18} {'':>14}  {where}")
    for entry in PUBLIC_WEIGHTS:
        where = str(entry.path) if entry.path.is_file() else "not fetched yet"
        click.echo(
            f"{entry.name:<20} {network_name(entry.variant):<18} {entry.miou:>14.1f}  {where}"
        )
    click.echo(f"Fetched weights: {LICENSE}.")


@command.command()
@click.argument("weights", metavar="NAME|PATH")
def show(weights: str) -> None:
    """Describe the weights NAME (as in `list`; not fetched by this) or the checkpoint PATH."""
    from geoseg.model.checkpoint import weights_hash
    from geoseg.model.hub import find_public
    from geoseg.model.load import load_model, locate_weights

    public = find_public(weights)
    if public and not public.path.is_file():
        click.echo(f"{public.name}: SegNeXt-{public.variant}, iSAID val mIoU {public.miou}")
        click.echo(f"not fetched yet: geoseg weights fetch {public.name}  ({public.url})")
        return
    path = locate_weights(weights)
    model = load_model(path)
    # The hash of the tensors, as in summaries and GeoPackages.
    click.echo(f"{path}\n{describe(model.metadata)}\nsha256      {weights_hash(model)}")


@command.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch anew what is in the cache already.")
def fetch(name: str, force: bool) -> None:
    """Download the public weights NAME into the cache, once; `--weights NAME` then uses them."""
    from geoseg.model.hub import PUBLIC_WEIGHTS, fetch, find_public, record_path

    entry = find_public(name)
    if entry is None:
        names = ", ".join(entry.name for entry in PUBLIC_WEIGHTS)
        raise click.BadParameter(f"{name!r} is not one of {names}", param_hint="NAME")
    click.echo(fetch(entry, force=force))
    if entry.sha256 is None:
        click.echo(
            "No hash of these weights is published: the first download was trusted, and its hash "
            f"is checked from now on ({record_path(entry)})."
        )


@command.command("import")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--classes",
    required=True,
    metavar="isaid|stored|FILE",
    help="What the channels mean: iSAID's 16 classes; the names stored in IN; or a JSON or CSV "
    "file with id, name and color (#rrggbb).",
)
@click.option(
    "--scale",
    type=float,
    help="Enlarge scenes by this before the model.  [default: "
    "1.12 for iSAID weights of the Jittor code, else 1]",
)
@click.option(
    "--nmf-rank",
    type=click.IntRange(1, 1024),
    help="Columns of the NMF bases (MD_R), "
    "which weights do not show.  [default: as configured in IN, else the paper's]",
)
@click.option("--gsd", type=(float, float), metavar="MIN MAX", help="Meters a pixel trained on.")
@click.option("--license", default="not stated in the imported file", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def import_(
    source: Path,
    target: Path,
    classes: str,
    scale: float | None,
    nmf_rank: int | None,
    gsd: tuple[float, float] | None,
    license: str,
    overwrite: bool,
) -> None:
    """Convert the SegNeXt weights IN to the geoseg checkpoint OUT (.safetensors).

    IN is a .pth of the official code or of mmsegmentation 1.x, or a .pkl of the Jittor code.
    The variant follows from the weights. No code in the file is run.
    """
    from geoseg.classes import ISAID, read_class_list
    from geoseg.errors import OutputError
    from geoseg.guard import refuse_inputs
    from geoseg.model.convert import import_checkpoint

    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; --overwrite replaces it")
    named = {"isaid": ISAID, "stored": None}
    refuse_inputs([target], [source, *([] if classes in named else [classes])])
    metadata = import_checkpoint(
        source,
        target,
        named[classes] if classes in named else read_class_list(Path(classes)),
        scale=scale,
        nmf_rank=nmf_rank,
        gsd_range=gsd,
        license=license,
    )
    click.echo(f"{target}\n{describe(metadata)}")


def file_to_write(text: str) -> Callable[[Any], Any]:
    """Return the option of the file to write."""
    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--out", "path", required=True, metavar="FILE", type=kind, help=text)


@command.command("export")
@click.argument("weights", metavar="NAME|PATH")
@file_to_write("File to write: .onnx; .xml, with the weights in a .bin beside it; or .pt2.")
@click.option(
    "--to",
    type=click.Choice(["onnx", "openvino", "torch"]),
    help="Format.  [default: by the suffix of FILE]",
)
@click.option(
    "--deepness",
    is_flag=True,
    help="Take and give what Deepness (QGIS) and GeoDeep expect: pixels of 0-1, probabilities, "
    "tiles of one size. Else pixels of 0-255, logits, and sides of any multiple of 32.",
)
@click.option(
    "--tile-size", type=int, help="Fix height and width, px.  [default: free; 1024 for --deepness]"
)
@click.option(
    "--gsd",
    type=click.FloatRange(min=0, min_open=True),
    metavar="METERS",
    help="Pixel size at which Deepness and GeoDeep show scenes to the model.  [default: the finest "
    "that it was trained on]",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def export(
    weights: str,
    path: Path,
    to: Format | None,
    deepness: bool,
    tile_size: int | None,
    gsd: float | None,
    overwrite: bool,
) -> None:
    """Write the weights NAME or the checkpoint PATH as a model for other programs.

    The graph takes pixels (1, 3, H, W) as float32, normalizes them itself and returns the classes
    at the same size. It is run beside torch on two pictures before the file appears.
    """
    from geoseg.errors import OptionError
    from geoseg.model.engines.export import SUFFIXES, check_options, export_weights
    from geoseg.model.engines.graph import GraphForm
    from geoseg.model.engines.quantized import QuantizedNetwork
    from geoseg.model.load import load_model

    by_suffix = {suffix: each for each, suffix in SUFFIXES.items()}
    to = to or by_suffix.get(path.suffix.lower())
    if to is None:
        raise OptionError(f"{path} has no suffix of {', '.join(by_suffix)}; give --to")
    form = GraphForm(1 if deepness else 255, deepness, tile_size or (1024 if deepness else None))
    check_options(path, to, form)
    model = load_model(weights)
    if isinstance(model, QuantizedNetwork):
        raise OptionError(
            f"{weights} is quantized for OpenVINO; give the weights that it was made from"
        )
    difference = export_weights(model, path, to, form=form, gsd=gsd, overwrite=overwrite)
    click.echo(f"{path}\nlargest difference to torch: {difference:.1g}")


@command.command()
@click.argument("weights", metavar="NAME|PATH")
@click.option(
    "--calibrate",
    "sources",
    required=True,
    multiple=True,
    metavar="SCENE|FOLDER",
    help="Scenes like those to predict, or a training set, of which the split train is used; may "
    "be given several times.",
)
@file_to_write("Checkpoint to write, .safetensors.")
@click.option(
    "--tiles",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tiles to measure on, of 512 px a side, drawn from all scenes.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
def quantize(
    weights: str, sources: tuple[str, ...], path: Path, tiles: int, overwrite: bool
) -> None:
    """Write the weights NAME or the checkpoint PATH with 8-bit convolutions, for OpenVINO.

    `--weights FILE` then predicts with them on a CPU, faster and a little less accurate. The
    tiles only tell the range of each layer's values; nothing is trained.
    """
    from geoseg.errors import OptionError
    from geoseg.guard import check_outputs
    from geoseg.model.engines.quantize import agreement, check_installed, quantize
    from geoseg.model.engines.quantized import QuantizedNetwork, save_quantized
    from geoseg.model.load import load_model
    from geoseg.pipeline.calibration import calibration_tiles

    check_installed()
    if path.suffix.lower() != ".safetensors":
        raise OptionError(f"{path} is no name for a checkpoint; end it in .safetensors")
    check_outputs([path], [weights, *sources], overwrite=overwrite)
    network = load_model(weights)
    if isinstance(network, QuantizedNetwork):
        raise OptionError(f"{weights} is quantized already; give the weights that it was made from")
    shown = calibration_tiles(sources, network.metadata, tiles)
    with redirect_stdout(sys.stderr):  # for bars of progress
        quantized = quantize(network, shown)
    share = agreement(network, quantized, shown)
    save_quantized(path, quantized)
    click.echo(f"{path}\n{len(shown)} tiles; {share:.2%} of the pixels keep their class")


def describe(metadata: Metadata) -> str:
    """Return the report for the terminal."""
    from geoseg.model.variants import PYRAMIDS, network_name

    gsd = "unknown"
    if metadata.gsd_range is not None:
        gsd = "{:g} to {:g} m a pixel".format(*metadata.gsd_range)
    model = network_name(metadata.variant)
    if metadata.variant not in PYRAMIDS:
        model += f", NMF rank {metadata.nmf_rank}"
        model += ", biases before GroupNorm" * metadata.head_bias
    limits = metadata.min_confidence
    rows = {
        "model": model,
        "classes": ", ".join(item.name for item in metadata.classes),
        "mean, std": " ".join(f"{v:g}" for v in (*metadata.mean, *metadata.std)),
        "trained on": gsd,
        "scale": f"{metadata.scale:g}",
        "confidence": ", ".join(f"{name} from {limit:g}" for name, limit in limits.items()),
        "metrics": ", ".join(f"{name} {value:g}" for name, value in metadata.metrics.items()),
        "license": metadata.license,
        "provenance": metadata.provenance.replace("\n", "\n            "),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in rows.items() if text)
