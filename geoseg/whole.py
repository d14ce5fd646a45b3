"""Files that are whole once they have their name, even after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a complete file its name, in place of what had it; not before it is on the disk.

    Raises OSError.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
