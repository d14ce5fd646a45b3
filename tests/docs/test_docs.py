"""The documentation agrees with the code: commands parse, names exist, tables are complete."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import geoseg
from geoseg.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        REPOSITORY / "geoseg/model/weights/README.md",
    ]
)
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text("utf-8") for path in PAGES}
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def fenced(text: str, *languages: str) -> Iterator[str]:
    """The blocks of code in these languages."""
    for _, language, code in _FENCE.findall(text):
        if language in languages:
            yield inspect.cleandoc(code)


def inline(text: str) -> Iterator[str]:
    """What stands in backticks, outside blocks of code."""
    for code in _INLINE.findall(_FENCE.sub("", text)):
        yield " ".join(code.replace("\\|", "|").split())


# -- Commands -------------------------------------------------------------------------------------


def shell_commands(code: str) -> Iterator[str]:
    """The geoseg commands in a block of shell."""
    for line in code.replace("\\\n", " ").splitlines():
        command = line.split(" #")[0].strip()
        if command.startswith("geoseg "):
            yield command


def examples() -> list[tuple[str, str]]:
    """Page and command of all complete commands: in blocks, fenced or indented."""
    found = []
    for name, text in TEXTS.items():
        blocks = [*fenced(text, "sh", "console"), *re.findall(r"^    (geoseg .*)$", text, re.M)]
        found += [(name, each) for block in blocks for each in shell_commands(block)]
    return found


def find_command(words: list[str]) -> tuple[click.Context, list[str]]:
    """The command that the words name, and the words after its name."""
    ctx = click.Context(main, info_name="geoseg")
    while words and isinstance(ctx.command, click.Group) and not words[0].startswith("-"):
        command = ctx.command.get_command(ctx, words[0])
        if command is None:
            raise click.UsageError(f"no command {words[0]!r} in {ctx.command_path}")
        ctx = click.Context(command, info_name=words[0], parent=ctx)
        words = words[1:]
    return ctx, words


def check_command(command: str) -> None:
    """Parse a command as click does, except that files need not exist.

    Raises click.UsageError.
    """
    words = shlex.split(command)[1:]
    ctx, rest = find_command(words)
    if isinstance(ctx.command, click.Group):
        if set(rest) & {"--help", "--version"}:
            return
        raise click.UsageError(f"{command}: which command?")
    values, extra, _ = ctx.command.make_parser(ctx).parse_args(list(rest))
    if extra:
        raise click.UsageError(f"{command}: unexpected {extra[0]!r}")
    for param in ctx.command.params:
        value = values.get(param.name)
        given = value is not None and value != () and not str(value).startswith("Sentinel.")
        if not given and param.required:
            raise click.MissingParameter(ctx=ctx, param=param)
        if given and not isinstance(param.type, click.Path):
            param.type_cast_value(ctx, value)


@pytest.mark.parametrize(("page", "command"), examples())
def test_commands_in_blocks_parse(page, command):
    check_command(command)


def test_there_are_examples_of_every_command():
    used = {find_command(shlex.split(command)[1:])[0].command_path for _, command in examples()}
    assert used >= {
        *("geoseg demo", "geoseg predict", "geoseg train", "geoseg evaluate"),
        *("geoseg prepare labels", "geoseg weights fetch"),
    }


@pytest.mark.parametrize(
    "command",
    [
        "geoseg",
        "geoseg predit scene.tif",
        "geoseg predict",
        "geoseg predict scene.tif --colour red",
        "geoseg predict scene.tif --bands red",
        "geoseg predict scene.tif --device",
        "geoseg export layers.gpkg --format dwg",
        "geoseg train lite2_own extra",
    ],
)
def test_wrong_commands_would_be_noticed(command):
    with pytest.raises(click.UsageError):
        check_command(command)


def all_commands(
    group: click.Group = main, name: str = "geoseg"
) -> Iterator[tuple[str, click.Command]]:
    for key, command in group.commands.items():
        yield f"{name} {key}", command
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{name} {key}")


OPTIONS = {
    flag
    for _, command in all_commands()
    for param in command.params
    for flag in (*param.opts, *param.secondary_opts)
} | {"--help", "--version"}
OTHERS = {
    "decisions.md": {"--only", "--also", "--size", "--rendered", "--pairs"},  # of benchmarks
}


@pytest.mark.parametrize("page", TEXTS)
def test_options_in_prose_exist(page):
    for code in inline(TEXTS[page]):
        if re.match(r"geoseg( |$)", code) and "COMMAND" not in code:
            words = re.sub(r"\{.*?\}|<.*?>", "X", code.replace("'", "")).split()[1:]
            ctx, rest = find_command([word for word in words if word != "…"])
            flags = {word for word in rest if re.match(r"--?[a-z]", word)}
            known = {f for p in ctx.command.params for f in (*p.opts, *p.secondary_opts)}
            assert flags <= known | {"--help", "--version"}, code
        elif re.match(r"--[a-z]", code):
            flag = re.split(r"[ =]", code)[0]
            assert flag in OPTIONS | OTHERS.get(Path(page).name, set()), code


# -- The reference of commands --------------------------------------------------------------------


def test_the_reference_of_commands_is_current():
    script = runpy.run_path(str(REPOSITORY / "docs" / "make_cli.py"))
    assert script["PAGE"].read_text("utf-8") == script["reference"](), "run docs/make_cli.py"


def test_the_reference_has_every_command_and_option():
    text = (REPOSITORY / "docs" / "cli.md").read_text("utf-8")
    for name, command in all_commands():
        found = re.search(rf"^#+ {name}$(.*?)(^#|\Z)", text, re.M | re.S)
        assert found, name
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                for flag in (*param.opts, *param.secondary_opts):
                    assert flag in found[1], (name, flag)


# -- Python ---------------------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    return [(page, code) for page, text in TEXTS.items() for code in fenced(text, "python")]


def check_names(code: str) -> None:
    """Every name of geoseg in `code` exists, and functions have the parameters they are given.

    Raises AttributeError, ImportError, SyntaxError or AssertionError.
    """
    tree = ast.parse(code)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "geoseg":
                    importlib.import_module(alias.name)
                    names[alias.asname or "geoseg"] = (
                        sys.modules[alias.name] if alias.asname else geoseg
                    )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geoseg"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := resolve(node.func, names)) is not None:
            parameters = inspect.signature(called).parameters
            if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                continue
            unknown = {word.arg for word in node.keywords if word.arg} - parameters.keys()
            assert not unknown, f"{ast.unparse(node.func)} has no {unknown}"
        elif isinstance(node, ast.Attribute):
            resolve(node, names)


def resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """The object of geoseg that an expression like `geoseg.predict` names; None of others."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := resolve(node.value, names)) is not None:
        fields = {each.name for each in dataclasses.fields(owner)} if is_dataclass(owner) else ()
        return None if node.attr in fields else getattr(owner, node.attr)
    return None


def is_dataclass(thing: Any) -> bool:
    return isinstance(thing, type) and dataclasses.is_dataclass(thing)


@pytest.mark.parametrize(("page", "code"), snippets())
def test_snippets_use_names_that_exist(page, code):
    check_names(code)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import geoseg\ngeoseg.predictt('scene.tif')", AttributeError),
        ("from geoseg.tiling.grid import Windo", AttributeError),
        ("import geoseg\ngeoseg.load_model(wheights='x')", AssertionError),
        ("import geoseg\ngeoseg.load_model(", SyntaxError),
    ],
)
def test_wrong_snippets_would_be_noticed(code, error):
    with pytest.raises(error):
        check_names(code)


def test_public_names_are_importable_and_documented():
    for name in geoseg.__all__:
        assert inspect.getdoc(getattr(geoseg, name)), name


# -- Tables of results ----------------------------------------------------------------------------


def section(page: str, title: str) -> str:
    """Text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(^## |\Z)", TEXTS[page], re.M | re.S)
    assert found, title
    return found[1]


def first_column(text: str) -> list[str]:
    """Code in the first column of the tables."""
    return [code for row in re.findall(r"^\| (`.*?) \|", text, re.M) for code in inline(row)]


def test_fields_of_polygons_are_documented():
    from affine import Affine

    from geoseg.geo.geobox import GeoBox
    from geoseg.geo.layers.features import empty_features

    fields = [*empty_features(GeoBox(8, 8, Affine.identity(), None)).columns.drop("geometry")]
    assert first_column(section("docs/results.md", "Polygons")) == fields


def test_formats_are_documented():
    from geoseg.geo.layers.formats import FORMATS

    text = section("docs/results.md", "Formats")
    assert first_column(text)[1:] == ["gpkg", *FORMATS]
    for style in FORMATS.values():
        assert f"STEM{'_CLASS' if style.per_class else ''}{style.suffix}" in text


def test_keys_of_the_summary_are_documented():
    from geoseg.pipeline.summary import Summary

    summary = Summary(
        **{field.name: {} for field in dataclasses.fields(Summary)}
        | {"seconds": {"total": 1.0}, "width": 1, "height": 1}
    )
    assert set(first_column(section("docs/results.md", "JSON"))) == set(summary.as_dict())


def test_files_of_a_prediction_are_documented(tmp_path):
    from geoseg.pipeline.options import OutputOptions
    from geoseg.pipeline.outputs import planned_names

    everything = OutputOptions(tmp_path, confidence=True, logits=True, report=True, preview=True)
    names = planned_names(everything, "STEM", mosaic=True).values()
    assert set(names) <= set(first_column(section("docs/results.md", "Files of `geoseg predict`")))


# -- Links ---------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Those of headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [name for name in TEXTS if "/" not in name])
def test_links_of_files_outside_the_site_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = REPOSITORY / page if not path else (REPOSITORY / page).parent / path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), target
