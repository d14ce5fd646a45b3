"""The algorithms: every parameter, option and text, as tables. Needs no QGIS."""

from . import installation, objects, training

COMMANDS = (*objects.COMMANDS, *training.COMMANDS, *installation.COMMANDS)
