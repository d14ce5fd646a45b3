"""Writes docs/cli.md from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from geoseg.cli.main import main

PAGE = Path(__file__).with_name("cli.md")
_TOP = """# Commands

<!-- Written by docs/make_cli.py from the commands; change their help, not this page. -->

`geoseg COMMAND --help` prints the same. `geoseg --version` prints the version.

Exit codes: 0 done, 1 failed, 2 impossible options, 3 done but for parts that could not be read,
130, 143 and 129 stopped by Ctrl-C, SIGTERM and SIGHUP. Messages go to standard error; an error is
one line that begins with `Error:`.

For programs that run these commands, the environment variable `GEOSEG_PROGRESS=json` turns
progress into lines on standard error:
`{"progress": "scene.tif", "done": 4096, "total": 8192, "unit": "px"}`.
"""


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """All commands below `group` with their full names, groups before their commands."""
    for key, command in group.commands.items():
        yield f"{name} {key}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {key}")


def section(name: str, command: click.Command) -> str:
    """One command: usage, help, options."""
    ctx = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(ctx))
    parts = [f"{'#' * (name.count(' ') + 1)} {name}", f"```text\n{name} {usage}\n```"]
    parts.append(inspect.cleandoc(command.help or ""))
    records = [
        record
        for param in command.params
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
    ]
    if records:
        rows = [f"| `{cell(names)}` | {cell(text)} |" for names, text in records]
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def cell(text: str) -> str:
    """`text` inside a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def reference() -> str:
    """The page."""
    sections = (section(name, command) for name, command in commands(main, "geoseg"))
    return "\n\n".join([_TOP.strip(), *sections]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
