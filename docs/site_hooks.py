"""Hooks of the documentation's site: pages at their paths in the repository, no outside host.

The site holds every page under its path in the repository, and every file that a page links to, so
that one relative link is right on a code host and on the site.
"""  # noqa: INP001 - mkdocs loads this file by its path

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_PAGES = ("*.md", "engines/README.md", "docs/**/*.md")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\s(?:src|srcset)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*\brel=["']?canonical)[^>]*?\shref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(|@import\s)["']?((?:https?:)?//[^"')\s]+)"""
)
"""Matches addresses on other hosts that a browser loads with a page or a style sheet."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the pages of the repository, what they link to, and the files of the theme."""
    root = Path(config.config_file_path).parent
    theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = pages_of(root)
    linked = {path for page in pages for path in _linked(page, root)} - set(pages)
    own = [*pages, *sorted(linked), root / "docs/site.css"]
    return Files([*theme, *(_file(path, root, config) for path in own)])


def on_post_build(config: MkDocsConfig) -> None:
    """Raises `PluginError` if a page of the site loads anything from another host."""
    found = [
        f"{path.relative_to(config.site_dir)}: {address}"
        for path in sorted(Path(config.site_dir).rglob("*"))
        if path.suffix in (".html", ".css")
        for address in loaded_from_elsewhere(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("The site loads from other hosts:\n" + "\n".join(found))


def pages_of(root: Path) -> list[Path]:
    """Returns the pages of the repository, without what commands write into `engines`."""
    return sorted({page for pattern in _PAGES for page in root.glob(pattern)})


def loaded_from_elsewhere(text: str) -> list[str]:
    """Returns the addresses on other hosts that a page or style sheet loads; links load nothing."""
    return ["".join(groups) for groups in _LOADED.findall(text)]


def _linked(page: Path, root: Path) -> Iterator[Path]:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        if path.is_file() and path.is_relative_to(root):
            yield path


def _file(path: Path, root: Path, config: MkDocsConfig) -> File:
    name = path.relative_to(root).as_posix()
    return File(name, str(root), config.site_dir, config.use_directory_urls)
