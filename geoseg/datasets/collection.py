"""A folder of patches to which scene after scene is added, each of which can be prepared anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from geoseg.atomic import SUFFIX, Staging, commit_in_progress
from geoseg.classes import LabelClass
from geoseg.datasets.layout import SPLIT_COLUMNS, Patch, read_table, write_classes, write_table
from geoseg.errors import DataError

SCENE_COLUMNS = ("group", "scene")
_NAME = "patches"
"""Of the working folder in a folder of patches."""


@contextmanager
def adding(folder: Path, scene: str, stem: str) -> Iterator[Addition]:
    """One scene's patches on their way into a folder: all of them, or nothing changes.

    A context: what its `Addition` completed takes its place when the context is left without an
    error. Where an earlier preparation was killed while its patches took theirs, that is completed
    first; so ask what the folder holds within the context.

    Args:
        stem: of the scene's name.

    Raises:
        OutputError: the folder cannot be written.
        InUseError: another preparation adds to it.
    """
    with Staging(folder, _NAME, merged=True, given_as="DST") as staging:
        yield Addition(staging, scene, stem)


def check_complete(folder: Path) -> None:
    """Raise DataError for a folder in which patches change places, or stopped doing so."""
    if commit_in_progress(folder, _NAME):
        raise DataError(
            f"{folder} holds patches old and new: a preparation is putting them in place, or was "
            f"killed while it did ({_NAME}{SUFFIX}); run it again, which completes the folder"
        )


class Addition:
    """One scene's patches, which are written into `staging` and listed by `complete`.

    `scenes.csv` knows which group is which scene's: scenes of one name are kept apart, and a scene
    keeps its group.
    """

    def __init__(self, staging: Staging, scene: str, stem: str) -> None:
        self.folder, self.staging = staging.folder, staging.new
        self._obsolete = staging.obsolete
        self.scene = scene if "://" in scene else str(Path(scene).resolve())
        self.known = self.groups()
        own = [group for group, known in self.known.items() if known == self.scene]
        self.group = own[0] if own else self.free_name(stem)
        self.note = ""
        """What the user should know about the group, if anything."""
        if self.group != stem and not own:
            self.note = (
                f"{self.folder} has patches of another scene called {stem} "
                f"({self.known.get(stem, 'elsewhere')}): those of {self.scene} are kept apart as "
                f"{self.group}"
            )

    def groups(self) -> dict[str, str]:
        """Scene by group; empty where it is not recorded."""
        known: dict[str, str] = {}
        if (table := self.folder / "split.csv").is_file():
            known |= {row["group"]: "" for row in read_table(table, SPLIT_COLUMNS)}
        if (table := self.folder / "scenes.csv").is_file():
            found = {row["group"]: row["scene"] for row in read_table(table, SCENE_COLUMNS)}
            known |= {group: scene for group, scene in found.items() if group in known}
        return known

    def free_name(self, stem: str) -> str:
        """The stem, with its folder or a hash before it where another scene has that name."""
        parent = Path(self.scene).parent.name
        digest = hashlib.sha256(self.scene.encode()).hexdigest()[:8]
        taken = {group.casefold() for group in self.known}
        names = [stem, *([f"{parent}_{stem}"] if parent else []), f"{stem}_{digest}"]
        return next((name for name in names if name.casefold() not in taken), names[-1])

    def complete(self, classes: Sequence[LabelClass], patches: Sequence[Patch]) -> None:
        """List the patches in place of those that the scene had before, which are to go.

        Raises DataError for lists that cannot be read, OutputError.
        """
        rows: list[tuple[str, ...]] = []
        if (table := self.folder / "split.csv").is_file():
            found = read_table(table, SPLIT_COLUMNS)
            rows = [tuple(row[c] for c in SPLIT_COLUMNS) for row in found]
        kept = [row for row in rows if row[0] != self.group]
        before = {name for row in rows if row[0] == self.group for name in row[3:]}
        scenes = {group: scene for group, scene in self.known.items() if scene}
        scenes[self.group] = self.scene
        write_classes(self.staging, classes)
        write_table(self.staging / "scenes.csv", SCENE_COLUMNS, sorted(scenes.items()))
        listed = [*kept, *(patch.row for patch in patches)]
        write_table(self.staging / "split.csv", SPLIT_COLUMNS, listed)
        self._obsolete += [self.folder / name for name in sorted(before) if _is_below(name)]


def _is_below(name: str) -> bool:
    """A path that stays within the folder it is relative to: others are not the folder's."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts
