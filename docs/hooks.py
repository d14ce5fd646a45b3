"""What the site adds to its pages: files that lie elsewhere in the repository."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_INCLUDE = re.compile(r"^<!-- include (?P<path>\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the file that `<!-- include PATH -->` names, PATH relative to the repository.

    Its links are relative to the repository, too; here they become relative to docs/.
    """
    root = Path(config.config_file_path).parent

    def content(match: re.Match[str]) -> str:
        return (root / match["path"]).read_text(encoding="utf-8").replace("](docs/", "](")

    return _INCLUDE.sub(content, markdown)
