"""The page in headless Chromium: mouse, keyboard, phone, dark mode, no external requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.serving.generation import PAGE
from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.runtime.tiny_engines import Tiny, write_engines
from tests.serving.live import Live, engines_in, serving
from tests.serving.pages import BROWSER_MARKS, ERROR, launched, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COLLINS, HOPPER = "Eileen Collins, about 42", "Grace Hopper, 77"
FAMILY_NAME = "A drawn family"
FAMILY = PAGE / "examples" / "family.jpg"

pytestmark = BROWSER_MARKS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engines = engines_in(tmp_path_factory.mktemp("page") / "engines", kind="demo")
    with serving(Settings(engines)) as running:
        yield running


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 360)])
def test_an_example_is_estimated(demo: Live, browser: Browser, scheme: Any, width: int) -> None:
    errors: list[str] = []
    size: Any = {"width": width, "height": 800}
    page = opened(browser, demo.url, errors, viewport=size, color_scheme=scheme)
    page.get_by_role("button", name=FAMILY_NAME).click()
    page.wait_for_selector("#faces li >> nth=2")
    assert page.locator("#status").inner_text() == "3 faces, numbered in reading order."
    assert page.locator("#boxes rect").count() == 3
    assert page.locator("#faces li").count() == 3
    scale = page.locator("#faces svg.narrow >> nth=0")
    assert page.locator("#faces details[open]").count() == 0, "several faces are folded"
    page.locator("#faces summary").first.click()
    assert scale.is_visible() == (width < 640), "the axis has its numbers on phones, too"
    numbers = scale.locator("text").all_text_contents()
    assert numbers == ["0", "20", "40", "60", "80", "100"]
    assert page.locator("#notice").inner_text().startswith("a has placeholder weights")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == (scheme == "dark")
    assert errors == []


def test_the_page_tells_licenses_and_sources(browser: Browser, tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"a": Tiny(license="CC0-1.0"), "b": Tiny()})
    manifest = json.loads((engines / "manifest.json").read_text())
    address = "https://user:secret@example.org/weights.pth"
    manifest["experts"]["a"]["source"]["location"] = f"{address}?token=secret"
    (engines / "manifest.json").write_text(json.dumps(manifest))
    errors: list[str] = []
    with serving(Settings(engines, detector="haar")) as running:
        page = opened(browser, running.url, errors)
        page.wait_for_selector("#about:not([hidden])")
        shown = page.locator("#experts li").all_inner_texts()
    assert shown == [
        "a: CC0-1.0, https://example.org/weights.pth",
        "b: no license stated, from a file of the operator",
    ]
    assert errors == []


def _chance(at_least: dict[str, float]) -> str:
    low, high = at_least["low"], at_least["high"]
    if low == high:
        return f"{low:.0%}".replace("%", " %")
    return f"≤ {100 * high:.1f} %" if low == 0 else f"≥ {100 * low:.1f} %"


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
        assert card.locator(".number").inner_text() == f"{index + 1}"
        assert card.locator("h3 b").inner_text() == _chance(estimate["at_least"]), "the largest"
        assert card.locator(".age").inner_text() == f"{estimate['age_years']:.1f} years"
        assert f"{estimate['low_years']:.1f} … {estimate['high_years']:.1f}" in card.inner_text()
        assert f"At least 18: {_chance(estimate['at_least'])}" in card.inner_text()
        card.locator("summary").click()
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


def test_missing_results_are_explained(demo: Live, browser: Browser) -> None:
    answer = demo.client.post("/v1/ages", files={"image": FAMILY.read_bytes()}).json()
    first, second, third = answer["images"][0]["faces"]
    first["estimate"] |= {"low_years": None, "high_years": None, "interval_level": None}
    second["estimate"]["missing"] = {"b": "deadline of 30 ms passed"}
    second["estimate"]["notes"] = ["a: aligned by the average landmarks"]
    third["estimate"] = None
    third["problem"] = {
        "type": "urn:agemoe:problem:quality",
        "reasons": ["the face is 12 pixels wide"],
    }
    errors: list[str] = []
    page = opened(browser, demo.url, errors)
    page.route("**/v1/ages", lambda route: route.fulfill(json=answer))
    page.get_by_role("button", name=FAMILY_NAME).click()
    page.wait_for_selector("#faces li >> nth=2")
    cards = page.locator("#faces li").all_inner_texts()
    assert "Not calibrated: no interval available." in cards[0]
    assert "b is missing: deadline of 30 ms passed." in cards[1]
    assert "Note: a: aligned by the average landmarks." in cards[1]
    assert "The face cannot be judged in this picture." in cards[2]
    assert cards[2].endswith("The face is 12 pixels wide.")
    labels = page.locator("#boxes g").evaluate_all("all => all.map((g) => g.textContent)")
    ages = "{age_years:.1f}{low_years:.0f} … {high_years:.0f}2".format(**second["estimate"])
    assert labels == ["{age_years:.1f}1".format(**first["estimate"]), ages, "?3"]
    assert errors == []
    page.route("**/v1/ages", lambda route: route.abort())
    page.get_by_role("button", name=COLLINS).click()
    page.wait_for_selector(ERROR)
    assert page.locator(ERROR).inner_text().startswith("The service cannot be reached.")
    assert page.locator("#result").is_hidden()


def test_an_api_key_can_be_entered(tmp_path: Path, browser: Browser) -> None:
    secret, key = new_key("page", "user")
    (tmp_path / "keys").write_text(key.line())
    settings = Settings(engines_in(tmp_path / "engines"), keys=tmp_path / "keys")
    with serving(settings) as live:
        page = opened(browser, live.url, [])
        page.wait_for_selector(ERROR)
        asked = "This service asks for a key. Enter it under Options."
        assert page.locator(ERROR).inner_text() == asked
        page.get_by_role("button", name=HOPPER).click()
        page.wait_for_selector(ERROR)
        page.locator("#key").fill("wrong")
        page.locator("#key").press("Enter")
        page.locator(ERROR, has_text="This key is not accepted.").wait_for()
        page.locator("#key").fill(secret)
        page.locator("#key").press("Enter")
        page.wait_for_selector("#faces li")  # the picture is sent again
        assert page.locator(ERROR).count() == 0
        assert secret not in page.content()
        page.context.close()
