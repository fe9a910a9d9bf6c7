"""The page in headless Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
BROWSER_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SHOWN = "#result:not([hidden])[aria-busy='false']"
ERROR = "#error p"


@contextmanager
def launched(*arguments: str) -> Iterator[Browser]:
    """Runs Chromium with further arguments."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", *arguments]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def opened(browser: Browser, url: str, errors: list[str], **options: Any) -> Page:
    """Opens the page; errors of its scripts, and requests to other hosts, are recorded."""
    page = browser.new_context(**options).new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda entry: errors.append(entry.text) if entry.type == "error" else None)
    page.on(
        "request",
        lambda sent: None if sent.url.startswith((url, "blob:")) else errors.append(sent.url),
    )
    page.goto(url)
    return page


def spot(folder: Path, name: str, level: int, places: list[tuple[int, int]] | None = None) -> Path:
    """Writes a picture with red spots, which the detector of `tiny_centerface` takes for faces.

    Its ground has no red; `places` are x, y of the spots, 4 pixels wide.
    """
    places = [(24, 32)] if places is None else places
    width = max([96, *(x + 32 for x, _ in places)])
    height = max([64, *(y + 32 for _, y in places)])
    pixels = np.full((height, width, 3), (0, level, level), np.uint8)
    for x, y in places:
        pixels[y : y + 4, x : x + 4] = 255, 128, 128
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path
