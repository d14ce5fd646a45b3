"""Checks before writing: results replace existing files only if asked, and never their inputs."""

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
    """Check that results may be written, before anything is done.

    Args:
        outputs: files to write.
        inputs: files that are read; see `refuse_inputs`.
        overwrite: whether outputs may replace files. They never replace folders.
        obsolete: files to remove when the outputs are written.

    Raises:
        OutputError: an output exists or is a folder.
        OptionError: an output is an input.
    """
    planned = [*outputs, *obsolete]
    refuse_inputs(planned, inputs)
    for path in planned:
        if path.is_dir() and not path.is_symlink():
            raise OutputError(f"{path} is a folder; move it away, or choose another folder (-o)")
        if os.path.lexists(path) and not overwrite:
            raise OutputError(f"{path} exists; give --overwrite or another name or folder (-o)")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Check that no output, nor a companion of it, is an input or a folder with an input.

    Files are compared by identity: links and other spellings of a path do not matter. Inputs that
    are not local files are ignored.

    Raises:
        OptionError: an output is an input.
        OutputError: an output has an impossible name.
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
            input_ = names.get(_identity(path)) or names.get(_resolved(path))
            if input_ is None and path.is_dir():
                resolved = _resolved(path)
                input_ = next((file for file in files if resolved in _resolved(file).parents), None)
            if input_ is not None:
                raise OptionError(
                    f"{path} would be replaced, and is the input {input_}; choose another name or "
                    "folder (-o)"
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, or None if there is none."""
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
