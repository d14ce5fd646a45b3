"""An algorithm of Processing for each command in the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
)
from qgis.PyQt.QtCore import QStandardPaths
from qgis.PyQt.QtGui import QIcon

from . import child, install, layers
from .commands import (
    Clock,
    Command,
    Progress,
    arguments,
    in_words_of_the_dialog,
    parse_progress,
    shell_line,
)
from .parameters import Values, define, define_output
from .text import tr

HERE = Path(__file__).parent
SETTING = "GEOSEG_COMMAND"
DAMAGED = 3
"""Exit code of a run that is done but for parts that could not be read."""


def environment_folder() -> Path:
    """Return the folder of the plugin's own environment, one for all profiles of a user."""
    location = QStandardPaths.StandardLocation.GenericDataLocation
    return Path(QStandardPaths.writableLocation(location)) / "geoseg" / "qgis-environment"


def icon(name: str) -> QIcon:
    """Return an icon of the plugin."""
    return QIcon(str(HERE / "icons" / f"{name}.svg"))


class CommandAlgorithm(QgsProcessingAlgorithm):
    """Runs a command of geoseg as a child process."""

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command
        self.values: dict[str, Any] = {}
        self.words: list[str] = []
        self.results: dict[str, Any] = {}

    def createInstance(self) -> CommandAlgorithm:
        return type(self)(self.command)

    def name(self) -> str:
        return self.command.name

    def displayName(self) -> str:
        return tr(self.command.title)

    def group(self) -> str:
        return tr(self.command.group)

    def groupId(self) -> str:
        return self.command.group.lower()

    def icon(self) -> QIcon:
        return icon(self.command.name)

    def shortHelpString(self) -> str:
        """Return the help of the tables as HTML: of the command, then of its parameters."""
        paragraphs = [f"<p>{line}</p>" for line in tr(self.command.help).splitlines()]
        paragraphs += [
            f"<p><b>{tr(each.label)}</b><br>{tr(each.help)}</p>"
            for each in self.command.parameters
            if each.help
        ]
        return "".join(paragraphs)

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        for parameter in self.command.parameters:
            self.addParameter(define(parameter))
        for output in self.command.outputs:
            self.addOutput(define_output(output))

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> bool:
        self.values = Values(self, parameters, context).read(self.command.parameters)
        self.check_unused(context)
        try:
            self.words = [self.program(), *arguments(self.command, self.values)]
        except (install.MissingError, ValueError) as error:
            raise QgsProcessingException(tr(str(error))) from error
        return True

    def program(self) -> str:
        """Return the command geoseg."""
        configured = ProcessingConfig.getSetting(SETTING) or ""
        return install.find_command(configured, environment_folder())

    def check_unused(self, context: QgsProcessingContext) -> None:
        """Raise QgsProcessingException if a file to be replaced is open in the project.

        SQLite would write the old file's journal into the new one.
        """
        if not self.values.get("OVERWRITE") or context.project() is None:
            return
        target = Path(self.values["OUTPUT"])
        if scene := self.values.get("SCENE"):
            target /= f"{Path(scene).stem}.gpkg"
        if names := layers.in_use(context.project(), str(target)):
            raise QgsProcessingException(
                tr("{} is open in this project: remove its layers first ({})").format(
                    target, ", ".join(names)
                )
            )

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        if output := self.values.get("OUTPUT"):
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        labels = {each.flag: tr(each.label) for each in self.command.parameters if each.flag}
        ended = Runner(feedback, labels).run(self.words)
        if ended is None:
            if self.command.continues:
                feedback.pushInfo(tr(self.command.continues))
            return {}
        for line in self.command.report(ended.stdout):
            feedback.pushInfo(line)
        written = [each.name for each in self.command.parameters if each.kind.startswith("new ")]
        self.results = {name: self.values[name] for name in written if self.values[name]}
        self.results |= self.command.results(self.values, ended.stdout)
        return self.results

    def postProcessAlgorithm(
        self, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Load the results; Processing calls this in the main thread."""
        objects = self.results.get("OBJECTS")
        if self.values.get("LOAD") and objects and context.project() is not None:
            scene = self.values.get("SCENE") or self.values.get("CLASSES") or ""
            rasters = [self.results.get(name) for name in ("CLASSES", "CONFIDENCE_RASTER")]
            layers.load(
                context.project(), Path(objects).stem, scene, objects, [r for r in rasters if r]
            )
        return self.results


class SetUpAlgorithm(CommandAlgorithm):
    """Installs geoseg into an environment of its own."""

    def program(self) -> str:
        return ""

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        python, again = self.values["PYTHON"] or "", bool(self.values["AGAIN"])
        try:
            command = install.set_up(
                environment_folder(), python, Runner(feedback).step, again=again
            )
        except install.MissingError as error:
            raise QgsProcessingException(tr(str(error))) from error
        except install.StoppedError:
            feedback.pushInfo(tr(self.command.continues))
            return {}
        feedback.pushInfo(command)
        return {"COMMAND": command}


class Runner:
    """Runs commands, and reports their lines and their progress.

    Args:
        labels: what options are called in the dialog.
    """

    def __init__(
        self, feedback: QgsProcessingFeedback, labels: Mapping[str, str] | None = None
    ) -> None:
        self.feedback, self.labels = feedback, labels or {}
        self.start, self.end = 0.0, 100.0
        self.fetched, self.packages = 0, install.packages(install.LOCK.read_text())
        self.errors: list[str] = []
        self.clock = Clock()

    def run(self, words: list[str]) -> child.Ended | None:
        """Run a command; None if it was stopped.

        Raises:
            QgsProcessingException: it failed.
        """
        self.feedback.pushCommandInfo(shell_line(words))
        try:
            ended = child.run(words, self.tell, self.feedback.isCanceled)
        except OSError as error:
            raise QgsProcessingException(f"{words[0]}: {error}") from error
        if ended.stopped:
            return None
        if ended.code not in (0, DAMAGED):
            found = [line for line in self.errors if line.startswith(("Error:", "ERROR:"))]
            lines = found or self.errors[-5:] or [tr("exit code {}").format(ended.code)]
            raise QgsProcessingException(in_words_of_the_dialog("\n".join(lines), self.labels))
        return ended

    def step(self, words: list[str], title: str, start: float, end: float) -> None:
        """Run a step of several, between these percentages.

        Raises:
            StoppedError: it was stopped.
        """
        self.start, self.end = start, end
        self.feedback.setProgressText(tr(title))
        self.feedback.setProgress(start)
        if self.run(words) is None:
            raise install.StoppedError
        self.feedback.setProgress(end)

    def tell(self, line: str, is_error: bool) -> None:
        """Report a line."""
        if progress := parse_progress(line):
            share = progress.percent
            self.tell_time(progress)
        elif install.collected(line):
            self.fetched += 1
            share = min(100.0, 100.0 * self.fetched / self.packages)
            self.feedback.pushConsoleInfo(line)
        else:
            self.errors += [line] if is_error and line else []
            kind, _, rest = line.partition(": ")
            if kind.lower() in ("warning", "note"):
                push = self.feedback.pushWarning if kind == "Warning" else self.feedback.pushInfo
                push(in_words_of_the_dialog(rest, self.labels))
            elif kind.lower() != "error" and not line.startswith("{"):
                self.feedback.pushConsoleInfo(line)
            return
        self.feedback.setProgress(self.start + (self.end - self.start) * share / 100)

    def tell_time(self, progress: Progress) -> None:
        """Report that a stage begins, or how long it still takes; each is a line of the log."""
        now = time.monotonic()
        if self.clock.is_new(progress, now):
            self.feedback.setProgressText(f"{progress.label} …")
        elif (seconds := self.clock.left(progress, now)) is not None:
            text = tr("{}: {:.0f} %, about {:.0f} min left")
            self.feedback.setProgressText(
                text.format(progress.label, progress.percent, max(1.0, seconds / 60))
            )
