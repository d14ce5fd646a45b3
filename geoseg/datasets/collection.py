"""Folders of patches from several scenes, each of which can be added or replaced."""

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
"""Name of the working folder in a folder of patches."""


@contextmanager
def adding(folder: Path, scene: str, stem: str) -> Iterator[Addition]:
    """Add the patches of a scene to a folder: all of them, or nothing changes.

    A context that yields an `Addition`; its patches are moved into the folder when the context is
    left without an error. If an earlier preparation was killed while it moved its patches, that
    is completed first; read the folder within the context only.

    Args:
        stem: name of the group, unless another scene has it.

    Raises:
        OutputError: the folder cannot be written.
        InUseError: another preparation adds to it.
    """
    with Staging(folder, _NAME, merged=True, given_as="DST") as staging:
        yield Addition(staging, scene, stem)


def check_complete(folder: Path) -> None:
    """Raise DataError for a folder into which patches are being moved, or were when killed."""
    if commit_in_progress(folder, _NAME):
        raise DataError(
            f"{folder} holds patches old and new: a preparation is moving them into it, or was "
            f"killed while it did ({_NAME}{SUFFIX}); run it again, which completes the folder"
        )


class Addition:
    """Patches of one scene, written into `staging` and listed by `complete`.

    `scenes.csv` maps groups to scenes: scenes of the same name get separate groups, and a scene
    that is prepared again keeps its group.
    """

    def __init__(self, staging: Staging, scene: str, stem: str) -> None:
        self.folder, self.staging = staging.folder, staging.new
        self._obsolete = staging.obsolete
        self.scene = scene if "://" in scene else str(Path(scene).resolve())
        self.known = self.groups()
        own = [group for group, known in self.known.items() if known == self.scene]
        self.group = own[0] if own else self.free_name(stem)
        self.note = ""
        """Notice on the name of the group for the user; may be empty."""
        if self.group != stem and not own:
            self.note = (
                f"{self.folder} has patches of another scene called {stem} "
                f"({self.known.get(stem, 'elsewhere')}): those of {self.scene} are kept apart as "
                f"{self.group}"
            )

    def groups(self) -> dict[str, str]:
        """Return the scene of each group; empty if it is not recorded."""
        known: dict[str, str] = {}
        if (table := self.folder / "split.csv").is_file():
            known |= {row["group"]: "" for row in read_table(table, SPLIT_COLUMNS)}
        if (table := self.folder / "scenes.csv").is_file():
            found = {row["group"]: row["scene"] for row in read_table(table, SCENE_COLUMNS)}
            known |= {group: scene for group, scene in found.items() if group in known}
        return known

    def free_name(self, stem: str) -> str:
        """Return the stem, extended by its folder or a hash if another scene has that name."""
        parent = Path(self.scene).parent.name
        digest = hashlib.sha256(self.scene.encode()).hexdigest()[:8]
        taken = {group.casefold() for group in self.known}
        names = [stem, *([f"{parent}_{stem}"] if parent else []), f"{stem}_{digest}"]
        return next((name for name in names if name.casefold() not in taken), names[-1])

    def complete(self, classes: Sequence[LabelClass], patches: Sequence[Patch]) -> None:
        """List the patches in place of earlier ones of the scene, which will be removed.

        Raises:
            DataError: a table cannot be read.
            OutputError: a table cannot be written.
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
    """Whether a relative path stays within its folder; others are not ours to remove."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts
