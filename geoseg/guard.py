"""What results may take the place of: never of what they are made from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from geoseg.atomic import companions
from geoseg.errors import OptionError, OutputError


def check_outputs(
    outputs: Iterable[Path],
    inputs: Iterable[str | Path],
    *,
    overwrite: bool,
    obsolete: Iterable[Path] = (),
) -> None:
    """Raise OutputError where results may not be written, before anything is done.

    Args:
        outputs: files that will appear.
        inputs: files that are read; see `refuse_inputs`.
        overwrite: outputs may replace files, but not folders.
        obsolete: files that go when the outputs come.
    """
    planned = [*outputs, *obsolete]
    refuse_inputs(planned, inputs)
    for path in planned:
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path} is a folder; move it away, or choose another folder (-o)")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists; give --overwrite or another name or folder (-o)")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise OptionError where one of the `outputs`, or what goes with it, is one of the `inputs`,
    or holds it, and OutputError where it cannot have its name.

    The same file counts by whatever name: through links, or spelled another way. What is no local
    file is no output.
    """
    files = [Path(each) for each in inputs]
    names: dict[object, Path] = {
        name: file for file in files for name in (_identity(file), _resolved(file)) if name
    }
    for output in outputs:
        try:
            replaced = [output, *companions(output)]
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror}") from error
        for path in replaced:
            held = names.get(_identity(path)) or names.get(_resolved(path))
            if held is None and path.is_dir():
                place = _resolved(path)
                held = next((file for file in files if place in _resolved(file).parents), None)
            if held is not None:
                raise OptionError(
                    f"{path} would be replaced, and is the input {held}; choose another name or "
                    "folder (-o)"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file that exists."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError):
        return path.absolute()
