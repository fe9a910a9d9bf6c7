"""The page in headless Chromium: mouse, keyboard, phone, dark mode, no external requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.serving.generation import PAGE
from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.runtime.tiny_engines import Tiny, write_engines
from tests.serving.live import Live, engines_in, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FOCUSED = "document.activeElement.id || document.activeElement.innerText"
COLLINS, HOPPER = "Eileen Collins, about 42", "Grace Hopper, 77"
FAMILY_NAME = "A drawn family"
FAMILY = PAGE / "examples" / "family.jpg"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engines = engines_in(tmp_path_factory.mktemp("page") / "engines", kind="demo")
    with serving(Settings(engines)) as running:
        yield running


def opened(browser: Browser, url: str, errors: list[str], **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda entry: errors.append(entry.text) if entry.type == "error" else None)
    page.on(
        "request",
        lambda sent: None if sent.url.startswith((url, "blob:")) else errors.append(sent.url),
    )
    page.goto(url)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_an_example_is_estimated(demo: Live, browser: Browser, scheme: Any, width: int) -> None:
    errors: list[str] = []
    size: Any = {"width": width, "height": 800}
    page = opened(browser, demo.url, errors, viewport=size, color_scheme=scheme)
    page.get_by_role("button", name=FAMILY_NAME).click()
    page.wait_for_selector("#faces li >> nth=2")
    assert page.locator("#status").inner_text() == "3 faces, from left to right."
    assert page.locator("#boxes rect").count() == 3
    assert page.locator("#faces li").count() == 3
    assert page.locator("#notice").inner_text().startswith("a has placeholder weights")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == (scheme == "dark")
    assert errors == []


def test_the_page_tells_the_licenses(browser: Browser, tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"a": Tiny(license="CC0-1.0"), "b": Tiny()})
    errors: list[str] = []
    with serving(Settings(engines, detector="haar")) as running:
        page = opened(browser, running.url, errors)
        page.wait_for_selector("#experts:not(:empty)")
        shown = page.locator("#experts").inner_text()
    assert shown == "Experts: a (CC0-1.0), b (no license stated)."
    assert errors == []


def _chance(at_least: dict[str, float]) -> str:
    low, high = at_least["low"], at_least["high"]
    if low == high:
        return f"{low:.0%}".replace("%", " %")
    return f"at most {100 * high:.1f} %" if low == 0 else f"at least {100 * low:.1f} %"


def test_the_page_shows_the_answer(demo: Live, browser: Browser) -> None:
    errors: list[str] = []
    page = opened(browser, demo.url, errors)
    page.locator("summary").first.click()
    page.locator("#threshold").fill("18")
    page.locator("#file").set_input_files(FAMILY)
    page.wait_for_selector("#faces li >> nth=2")
    answer = demo.client.post(
        "/v1/ages", files={"image": FAMILY.read_bytes()}, data={"threshold": "18"}
    ).json()
    faces = answer["images"][0]["faces"]
    for index, face in enumerate(faces):
        estimate, card = face["estimate"], page.locator("#faces li").nth(index)
        assert card.locator("h3 b").inner_text() == f"{estimate['age_years']:.1f}"
        assert f"{estimate['low_years']:.1f} … {estimate['high_years']:.1f}" in card.inner_text()
        assert f"At least 18: {_chance(estimate['at_least'])}." in card.inner_text()
        for row, (name, expert) in enumerate(estimate["experts"].items()):
            cells = card.locator("tbody tr").nth(row).locator("td")
            assert cells.nth(0).inner_text() == name
            assert cells.nth(1).inner_text() == f"{expert['age_years']:.1f}"
            assert cells.nth(2).inner_text() == "−5.0"
            assert cells.nth(3).inner_text() == f"{expert['corrected_years']:.1f}"
            assert cells.nth(4).inner_text().strip() == "33 %"
            assert cells.nth(5).inner_text().endswith(" ms")
            assert cells.nth(6).locator("circle").count() == 2
    box = page.locator("#boxes rect").first
    assert [
        float(box.get_attribute(name) or "") for name in ("x", "y", "width", "height")
    ] == faces[0]["box"]
    assert errors == []


def test_the_page_works_with_the_keyboard(demo: Live, browser: Browser) -> None:
    errors: list[str] = []
    page = opened(browser, demo.url, errors)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.innerText")
        )
    assert reached == ["file", "open", COLLINS, HOPPER, FAMILY_NAME, "Options"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "detect"
    page.keyboard.press("Space")
    page.get_by_role("button", name=COLLINS).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#faces li")
    assert page.locator("#boxes rect").count() == 0, "the whole picture is the face"
    assert page.evaluate("document.activeElement.id") == "heading"
    assert errors == []


def test_a_dropped_file_that_is_not_a_picture_is_explained(demo: Live, browser: Browser) -> None:
    page = opened(browser, demo.url, [])
    transfer = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['no'], 'x.png')); return t; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#status.problem")
    assert (
        page.locator("#status").inner_text() == "The picture of 2 bytes is not JPEG, PNG or WEBP."
    )
    assert page.locator("#result").is_hidden()


def test_missing_results_are_explained(demo: Live, browser: Browser) -> None:
    answer = demo.client.post("/v1/ages", files={"image": FAMILY.read_bytes()}).json()
    first, second, third = answer["images"][0]["faces"]
    first["estimate"] |= {"low_years": None, "high_years": None, "interval_level": None}
    second["estimate"]["missing"] = {"b": "deadline of 30 ms passed"}
    second["estimate"]["notes"] = ["a: aligned by the average landmarks"]
    third["estimate"] = None
    third["problem"] = {"detail": "The box lies outside the picture."}
    errors: list[str] = []
    page = opened(browser, demo.url, errors)
    page.route("**/v1/ages", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name=FAMILY_NAME).click()
    page.wait_for_selector("#faces li >> nth=2")
    cards = page.locator("#faces li").all_inner_texts()
    assert "Not calibrated: no interval available." in cards[0]
    assert "b is missing: deadline of 30 ms passed." in cards[1]
    assert "Note: a: aligned by the average landmarks." in cards[1]
    assert cards[2].split("\n\n") == ["Face 3", "The box lies outside the picture."]
    _age, _other_age, its_interval, unknown = page.locator("#boxes text").all_text_contents()
    assert its_interval == "{low_years:.0f} … {high_years:.0f}".format(**second["estimate"])
    assert unknown == "?"
    assert errors == []
    page.route("**/v1/ages", lambda route: route.abort())
    page.get_by_role("button", name=COLLINS).click()
    page.wait_for_selector("#status.problem")
    assert page.locator("#status").inner_text().startswith("The service cannot be reached.")
    assert page.locator("#result").is_hidden()


def test_an_api_key_can_be_entered(tmp_path: Path, browser: Browser) -> None:
    secret, key = new_key("page", "user")
    (tmp_path / "keys").write_text(key.line())
    settings = Settings(engines_in(tmp_path / "engines"), keys=tmp_path / "keys")
    with serving(settings) as live:
        page = opened(browser, live.url, [])
        page.wait_for_selector("#status.problem")
        assert "requires an API key" in page.locator("#status").inner_text()
        page.locator("#key").fill(secret)
        page.get_by_role("button", name=HOPPER).click()
        page.wait_for_selector("#faces li")
        assert secret not in page.content()
        page.context.close()
