"""The algorithms: every parameter, option and text, as tables. Needs no QGIS."""

from . import installation, objects, results, training

COMMANDS = (
    *(*objects.COMMANDS, *results.COMMANDS),
    *(*training.COMMANDS, *installation.COMMANDS),
)
