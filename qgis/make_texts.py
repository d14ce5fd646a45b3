"""Writes the texts of the plugin as a Qt translation source, for translators.

Usage: python qgis/make_texts.py geoseg_de.ts
Translate it with Qt Linguist; lrelease makes geoseg_de.qm, which goes into geoseg_qgis/i18n.
"""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from geoseg_qgis.catalog import COMMANDS

PLUGIN = Path(__file__).resolve().parent / "geoseg_qgis"


def texts() -> list[str]:
    """Return all texts that users see, without repetition."""
    return list(dict.fromkeys([*of_tables(), *of_sources()]))


def of_tables() -> Iterator[str]:
    """Yield the texts of the tables."""
    for command in COMMANDS:
        yield from filter(None, (command.title, command.group, command.help, command.continues))
        for parameter in command.parameters:
            yield from filter(None, (parameter.label, parameter.help))
        for output in command.outputs:
            yield output.label


def of_sources() -> Iterator[str]:
    """Yield the texts in calls of tr."""
    for path in sorted(PLUGIN.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tr":
                (text,) = node.args
                if isinstance(text, ast.Constant):
                    yield text.value


def write(target: Path) -> None:
    """Write the texts, untranslated."""
    root = ET.Element("TS", version="2.1", sourcelanguage="en")
    context = ET.SubElement(root, "context")
    ET.SubElement(context, "name").text = "geoseg"
    for text in texts():
        message = ET.SubElement(context, "message")
        ET.SubElement(message, "source").text = text
        ET.SubElement(message, "translation", type="unfinished")
    ET.indent(root)
    ET.ElementTree(root).write(target, "utf-8", xml_declaration=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
