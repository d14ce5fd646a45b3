"""The plugin: a provider for Processing, and a menu."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import QCoreApplication, QTranslator

from .algorithm import icon
from .catalog import COMMANDS
from .provider import GeosegProvider
from .text import tr


class GeosegPlugin:
    """Adds geoseg to QGIS, and removes it."""

    def __init__(self, iface: Any) -> None:
        self.iface = iface
        self.provider: GeosegProvider | None = None
        self.menu: Any = None
        self.dialog: Any = None
        self.translator = QTranslator()
        locale = QgsApplication.instance().locale()
        if self.translator.load(f"geoseg_{locale}", str(Path(__file__).parent / "i18n")):
            QCoreApplication.installTranslator(self.translator)

    def initProcessing(self) -> None:
        """Add the provider; qgis_process calls this alone."""
        self.provider = GeosegProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider and a menu with all algorithms."""
        self.initProcessing()
        self.menu = self.iface.pluginMenu().addMenu(icon("geoseg"), "geoseg")
        for command in COMMANDS:
            show = partial(self.show, command.name)
            self.menu.addAction(icon(command.name), f"{tr(command.title)}…", show)

    def unload(self) -> None:
        """Remove all."""
        if self.menu is not None:
            self.iface.pluginMenu().removeAction(self.menu.menuAction())
        QgsApplication.processingRegistry().removeProvider(self.provider)
        QCoreApplication.removeTranslator(self.translator)

    def show(self, name: str, *_: Any) -> None:
        """Open the dialog of an algorithm."""
        import processing

        self.dialog = processing.createAlgorithmDialog(f"geoseg:{name}")
        self.dialog.show()
