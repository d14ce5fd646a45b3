"""The provider of the algorithms, and its setting."""

from __future__ import annotations

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import SETTING, CommandAlgorithm, SetUpAlgorithm, icon
from .catalog import COMMANDS
from .text import tr


class GeosegProvider(QgsProcessingProvider):
    """The algorithms of geoseg."""

    def id(self) -> str:
        return "geoseg"

    def name(self) -> str:
        return "geoseg"

    def icon(self) -> QIcon:
        return icon("geoseg")

    def load(self) -> bool:
        label = tr("Command geoseg (empty: on the PATH, or as set up)")
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(self.name(), SETTING, label, "", valuetype=Setting.FILE)
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        ProcessingConfig.removeSetting(SETTING)

    def loadAlgorithms(self) -> None:
        for command in COMMANDS:
            kind = SetUpAlgorithm if command.name == "setup" else CommandAlgorithm
            self.addAlgorithm(kind(command))
