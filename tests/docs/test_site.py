"""The site: the reference holds every public name, documented, and outside hosts are noticed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import griffe
import pytest

import runtime
from tests.docs.pages import DOCS, ROOT

ALSO = {"deadline.Deadline", "decoding.DecoderPool", "serving.Batcher"}
"""Outside `runtime`, for use beside it."""


def reference() -> list[str]:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")]
    return re.findall(r"^::: runtime\.(\S+)$", "\n".join(pages), re.MULTILINE)


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_holds_every_public_name_once() -> None:
    assert sorted(reference()) == sorted({*runtime.__all__, *ALSO})


def test_every_public_name_and_attribute_is_documented() -> None:
    package = griffe.load("runtime", search_paths=[str(ROOT)])
    missing = []
    for name in runtime.__all__:
        kind = package[name].final_target if package[name].is_alias else package[name]
        members = kind.members.values() if kind.is_class else ()
        public = [one for one in members if not one.name.startswith("_") and one.name != "args"]
        missing += [one.path for one in (kind, *public) if one.docstring is None]
    assert missing == []


def test_reports_beside_the_engines_are_no_pages(tmp_path: Path) -> None:
    pages = ["README.md", "docs/a/b.md", "engines/README.md"]
    for name in [*pages, "engines/report.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# A page")
    assert hooks().pages_of(tmp_path) == [tmp_path / name for name in pages]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img alt=x src=//cdn.example/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ],
)
def test_what_comes_from_another_host_is_found(text: str) -> None:
    assert len(hooks().loaded_from_elsewhere(text)) == 1


def test_links_load_nothing() -> None:
    text = '<a href="https://example.org">x</a> <link rel="canonical" href="https://example.org">'
    assert hooks().loaded_from_elsewhere(text + '<img src="docs/demo.jpg">') == []
