"""Where geoseg is, and an environment of its own for it. Needs no QGIS."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .child import WINDOWS, environment, no_window

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
OLDEST = (3, 11)
"""Python that geoseg needs."""
BIN = "Scripts" if WINDOWS else "bin"
EXE = ".exe" if WINDOWS else ""
STAMP = "complete"
"""File in a finished environment; it holds the hash of what was installed."""
Run = Callable[["list[str]", str, float, float], None]
"""Runs a command: its words, what it does, and the percentages at its start and its end."""


class MissingError(Exception):
    """Something that must be installed first; the message says how."""


def find_command(configured: str, folder: Path) -> str:
    """Return the command geoseg: as configured, on the PATH, or in the plugin's environment.

    Raises:
        MissingError: it is in none of these places.
    """
    if configured:
        found = shutil.which(str(Path(configured).expanduser()))
        if found is None:
            raise MissingError(
                f"{configured} is not a program that can be run; correct it in Settings → Options "
                "→ Processing → Providers → geoseg, or leave that empty"
            )
        return found
    if found := shutil.which("geoseg"):
        return found
    if (folder / STAMP).is_file():
        return str(folder / BIN / f"geoseg{EXE}")
    raise MissingError(
        "geoseg is not installed: run the algorithm “Set up geoseg”, or give the path of the "
        "command in Settings → Options → Processing → Providers → geoseg"
    )


def pythons() -> Iterator[str]:
    """Yield Pythons that may be on this machine, the preferred ones first."""
    inside = Path(sys.base_prefix) / ("python.exe" if WINDOWS else "bin/python3")
    names = [f"python3.{minor}" for minor in (13, 12, 11, 14)] + ["python3", "python"]
    names += ["py"] if WINDOWS else []  # the installer of python.org leaves the others off the PATH
    for candidate in (inside, *names):
        if found := shutil.which(str(candidate)):
            yield found


def find_python(configured: str) -> str:
    """Return a Python that can make the environment.

    Raises:
        MissingError: the configured one cannot, or there is none.
    """
    for python in [configured] if configured else pythons():
        if usable(python):
            return python
    needed = "{}.{}".format(*OLDEST)
    if configured:
        raise MissingError(f"{configured} is no Python {needed} or newer with venv and pip")
    raise MissingError(
        f"no Python {needed} or newer with venv and pip was found; install one (python.org, on "
        "Debian and Ubuntu: apt install python3-venv), or give its path"
    )


def usable(python: str) -> bool:
    """Whether a program is a Python that is new enough and has venv and pip."""
    code = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {OLDEST})"
    try:
        done = subprocess.run(
            [python, "-c", code],
            env=environment(),
            capture_output=True,
            timeout=60,
            check=False,
            creationflags=no_window(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def set_up(folder: Path, python: str, run: Run, *, again: bool = False) -> str:
    """Install geoseg into an environment in `folder`, and return the command.

    What is installed is pinned by hash; geoseg itself comes with the plugin.

    Raises:
        MissingError: there is no Python to make it with, or the plugin was not built.
    """
    source = next(HERE.glob("geoseg-*.tar.gz"), None)
    if source is None:
        raise MissingError("this copy of the plugin was not built: make qgis-plugin makes the zip")
    command = str(folder / BIN / f"geoseg{EXE}")
    wanted = hashlib.sha256(LOCK.read_bytes() + source.read_bytes()).hexdigest()
    stamp = folder / STAMP
    if not again and stamp.is_file() and stamp.read_text() == wanted:
        return command
    base = find_python(python)
    if folder.exists():
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder)
    inside = str(folder / BIN / f"python{EXE}")
    pip = [inside, "-m", "pip", "--disable-pip-version-check", "install"]
    run([base, "-m", "venv", str(folder)], "Making the environment", 0, 3)
    run([*pip, "--require-hashes", "-r", str(LOCK)], "Installing libraries", 3, 90)
    run([*pip, "--no-deps", "--no-build-isolation", str(source)], "Installing geoseg", 90, 97)
    run([command, "--version"], "Starting it once", 97, 100)
    stamp.write_text(wanted)
    return command


def packages(lock: str) -> int:
    """Return the number of packages in a lock file."""
    return len(set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)))


def collected(line: str) -> str | None:
    """Return the package that a line of pip begins to fetch; None of other lines."""
    found = re.match(r"Collecting ([\w.-]+)", line)
    return found[1] if found else None


class StoppedError(Exception):
    """The user stopped the installation."""
