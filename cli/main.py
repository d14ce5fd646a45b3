"""The `geoseg` command."""

from __future__ import annotations

import sys

import click

from geoseg import __version__
from geoseg.errors import GeosegError

from . import demo, evaluate, export, predict, prepare, train, vectorize, weights


class Group(click.Group):
    """Prints geoseg's own errors as one line and exits with their code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GeosegError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Find objects in aerial scenes: GeoTIFF in, georeferenced polygons out."""


main.add_command(demo.command, "demo")
main.add_command(predict.command, "predict")
main.add_command(prepare.command, "prepare")
main.add_command(train.command, "train")
main.add_command(evaluate.command, "evaluate")
main.add_command(vectorize.command, "vectorize")
main.add_command(export.command, "export")
main.add_command(weights.command)


if __name__ == "__main__":
    main()
