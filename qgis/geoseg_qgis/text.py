"""Texts in the user's language."""

from __future__ import annotations

from qgis.PyQt.QtCore import QCoreApplication


def tr(text: str) -> str:
    """Translate a text, if QGIS runs in a language that the plugin has."""
    return QCoreApplication.translate("geoseg", text)
