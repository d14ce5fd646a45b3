"""A folder of patches to which scene after scene is added, each of which can be prepared anew."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from geoseg.classes import LabelClass
from geoseg.errors import OutputError
from geoseg.patches import SPLIT_COLUMNS, Patch, read_table, write_classes, write_table

SCENE_COLUMNS = ("group", "scene")


class Addition:
    """One scene's patches on their way into a folder: all of them, or nothing changes.

    A context. Patches are written into `staging`, and `complete` puts them in place of those that
    the same scene had before. `scenes.csv` knows which group is which scene's: scenes of one name
    are kept apart, and a scene keeps its group.
    """

    def __init__(self, folder: Path, scene: str, stem: str) -> None:
        self.folder = folder
        self.scene = scene if "://" in scene else str(Path(scene).resolve())
        self.known = self.groups()
        own = [group for group, known in self.known.items() if known == self.scene]
        self.group = own[0] if own else self.free_name(stem)
        self.staging = folder / f"{self.group}.patches.unfinished"
        self.note = ""
        """What the user should know about the group, if anything."""
        if self.group != stem and not own:
            self.note = (
                f"{folder} has patches of another scene called {stem} "
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

    def __enter__(self) -> Addition:
        self.is_new = not self.folder.exists()
        try:
            shutil.rmtree(self.staging, ignore_errors=True)  # of a run that was killed
            self.staging.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}") from error
        return self

    def complete(self, classes: Sequence[LabelClass], patches: Sequence[Patch]) -> None:
        """Put the patches in place, list them, and remove what else the group had.

        Raises OutputError.
        """
        rows: list[tuple[str, ...]] = []
        if (table := self.folder / "split.csv").is_file():
            found = read_table(table, SPLIT_COLUMNS)
            rows = [tuple(row[c] for c in SPLIT_COLUMNS) for row in found]
        kept = [row for row in rows if row[0] != self.group]
        before = {name for row in rows if row[0] == self.group for name in row[3:]}
        scenes = {group: scene for group, scene in self.known.items() if scene}
        scenes[self.group] = self.scene
        new = {name for patch in patches for name in (patch.image, patch.mask)}
        try:
            for name in sorted(new):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.staging / name).replace(self.folder / name)
            write_classes(self.folder, classes)
            write_table(self.folder / "scenes.csv", SCENE_COLUMNS, sorted(scenes.items()))
            # Last: until here, the list is that of the patches from before.
            write_table(table, SPLIT_COLUMNS, [*kept, *(patch.row for patch in patches)])
            for name in sorted(before - new):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        if self.is_new and not any(self.folder.iterdir()):
            self.folder.rmdir()
