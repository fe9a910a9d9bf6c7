"""The states of the page between and around answers, and its accessibility by axe-core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.serving.generation import PAGE
from runtime.serving.settings import Settings
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import add_detector
from tests.serving.live import Live, engines_in, policy_in, serving
from tests.serving.pages import BROWSER_MARKS, CAMERA, ERROR, SHOWN, launched, opened, spot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

FAMILY = PAGE / "examples" / "family.jpg"
SIX = [(24, 40), (96, 32), (168, 44), (24, 100), (96, 108), (168, 96)]
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
OPEN_URLS = """
window.openUrls = new Set();
const create = URL.createObjectURL, revoke = URL.revokeObjectURL;
URL.createObjectURL = (file) => { const url = create(file); openUrls.add(url); return url; };
URL.revokeObjectURL = (url) => { openUrls.delete(url); revoke(url); };
"""
FILE = """([type, size]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(size)], 'x', { type: 'image/png' }));
  const data = type === 'paste' ? 'clipboardData' : 'dataTransfer';
  const kind = type === 'paste' ? ClipboardEvent : DragEvent;
  document.body.dispatchEvent(new kind(type, { [data]: transfer, bubbles: true }));
}"""

pytestmark = BROWSER_MARKS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(*CAMERA) as browser:
        yield browser


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with a policy, whose detector finds red spots as faces."""
    folder = engines_in(tmp_path_factory.mktemp("page") / "engines")
    add_detector(folder, tiny_centerface(folder.parent / "colors.onnx"))
    policy_in(folder, threshold=16.0, challenge=20.0, floor=8.0)
    with serving(Settings(folder, policy=True)) as running:
        yield running


def estimating(browser: Browser, live: Live, **options: Any) -> Page:
    """Opens the page to estimate ages."""
    page = opened(browser, live.url, [], **options)
    page.wait_for_selector("#mode:not([hidden])")
    page.locator("#estimates").check(force=True)
    return page


def ask_for_at_least(page: Page, age: str) -> None:
    page.locator("#options > summary").click()
    page.locator("#threshold").fill(age)


def test_the_picture_and_a_spinner_are_shown_at_once(live: Live, browser: Browser) -> None:
    page = estimating(browser, live)
    page.evaluate(OPEN_URLS)
    held: list[Route] = []
    page.route("**/v1/ages", held.append)
    page.locator("#file").set_input_files(FAMILY)
    page.wait_for_selector("#status.busy")
    page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
    assert page.locator("#picture").is_visible()
    assert page.locator("#status").inner_text() == "Estimating …"
    assert page.locator("#result").get_attribute("aria-busy") == "true"
    assert page.evaluate("openUrls.size") == 1
    page.locator("#decides").check(force=True)
    assert page.locator("#result").is_hidden()
    assert page.evaluate("openUrls.size") == 0, "pictures are freed"
    page.locator("#file").set_input_files([FAMILY, FAMILY])
    page.wait_for_selector(SHOWN)
    assert page.locator("#verdict").is_visible()
    assert page.evaluate("openUrls.size") == 2


def test_six_faces_are_numbered_in_reading_order_and_folded(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    phone: Any = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    page = estimating(browser, live, **phone)
    ask_for_at_least(page, "18")
    path = spot(tmp_path, "six", 90, SIX)
    page.locator("#shot").set_input_files(path)
    page.wait_for_selector(SHOWN)
    assert page.locator("#status").inner_text() == "6 faces, numbered in reading order."
    groups = page.locator("#boxes g").evaluate_all(
        "all => all.map((g) => [+g.querySelector('rect').getAttribute('x'), "
        "+g.querySelector('rect').getAttribute('y'), g.querySelector('.badge + text').textContent,"
        " g.querySelectorAll('.landmark').length])"
    )
    assert [number for _, _, number, _ in groups] == ["1", "2", "3", "4", "5", "6"]
    for (x, y, _, points), (spot_x, spot_y) in zip(groups, SIX, strict=True):
        assert abs(x + 18 - spot_x) < 9, "the box is 36 pixels wide"
        assert abs(y + 18 - spot_y) < 9
        assert points == 5
    cards = page.locator("#faces li")
    answer = live.client.post("/v1/ages", files={"image": path.read_bytes()}).json()
    estimates = {
        round(face["box"][0]) // 36 * 10 + (face["box"][1] > 60): face["estimate"]
        for face in answer["images"][0]["faces"]
    }
    for index, (x, y, number, _) in enumerate(groups):
        shown = estimates[round(x) // 36 * 10 + (y > 60)]
        assert cards.nth(index).locator(".number").inner_text() == number
        assert f"{shown['age_years']:.1f} years" in cards.nth(index).inner_text()
        interval = f"{shown['low_years']:.1f} … {shown['high_years']:.1f}"
        assert interval in cards.nth(index).inner_text()
    assert page.locator("#faces table:visible").count() == 0
    assert page.evaluate("document.documentElement.scrollHeight") < 3000
    assert page.locator("label[for=shot]").is_visible()
    assert page.locator("#shot").get_attribute("capture") == "user"
    assert page.locator("#open").is_hidden()


def test_a_failed_request_can_be_sent_again(live: Live, browser: Browser) -> None:
    page = estimating(browser, live)
    page.evaluate(OPEN_URLS)
    page.route(
        "**/v1/ages",
        lambda route: route.fulfill(
            status=500,
            headers={"X-Request-ID": "r-17"},
            json={"type": "urn:agemoe:problem:unexpected", "detail": "of the API"},
        ),
    )
    page.locator("#file").set_input_files(FAMILY)
    page.wait_for_selector(ERROR)
    shown = page.locator("#error").inner_text()
    assert shown.startswith("The service has a fault.")
    assert "Number for the operator: r-17" in shown
    assert "of the API" not in shown
    assert page.locator("#result").is_hidden()
    assert page.evaluate("openUrls.size") == 0
    again = page.get_by_role("button", name="Try again")
    again.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.textContent === 'Try again'")
    page.unroute("**/v1/ages")
    page.keyboard.press("Enter")
    page.wait_for_selector(SHOWN)
    assert page.locator(ERROR).count() == 0


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_files_are_sent_unless_they_are_too_large(
    live: Live, browser: Browser, way: str
) -> None:
    page = estimating(browser, live)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    page.evaluate(FILE, [way, (32 << 20) + 1])
    large = "This picture is too large. Choose one under 32 MB."
    page.locator(ERROR, has_text=large).wait_for()
    assert "POST" not in sent
    page.evaluate(FILE, [way, 2])
    page.locator(ERROR, has_text="This file cannot be read as a picture.").wait_for()
    assert sent.count("POST") == 1


def violations(page: Page, state: str) -> list[str]:
    """Returns what axe-core finds in the state, light and dark, 1000 and 320 pixels wide."""
    found = []
    for scheme, width in (("light", 1000), ("dark", 320)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{state}, {width} pixels: scrolls sideways")
        results = page.evaluate("(rules) => axe.run(document, rules)", RULES)
        found += [
            f"{state}, {scheme}: {rule['id']}: {rule['nodes'][0]['html']}"
            for rule in results["violations"]
        ]
    return found


def test_no_state_has_an_accessibility_violation(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.base")
    page = opened(browser, live.url, [], reduced_motion="reduce", permissions=["camera"])
    page.wait_for_selector("#mode:not([hidden])")
    page.evaluate(axe.AXE_SCRIPT)
    file = page.locator("#file")
    found = violations(page, "empty")
    page.locator("#open").click()
    page.wait_for_selector("#take:focus")
    found += violations(page, "camera")
    for level, outcome in ((250, "pass"), (80, "refer"), (0, "fail")):
        file.set_input_files([spot(tmp_path, "one", level), FAMILY])
        page.wait_for_selector(f"{SHOWN} #verdict.{outcome}")
        found += violations(page, outcome)
    page.locator("#estimates").check(force=True)
    ask_for_at_least(page, "18")
    file.set_input_files(spot(tmp_path, "six", 90, SIX))
    page.wait_for_selector(SHOWN)
    page.locator("#faces summary >> nth=1").click()
    found += violations(page, "six faces")
    held: list[Route] = []
    page.route("**/v1/ages", held.append)
    file.set_input_files(FAMILY)
    page.wait_for_selector("#status.busy")
    found += violations(page, "busy")
    held[0].fulfill(status=503, body="")
    page.wait_for_selector(ERROR)
    found += violations(page, "error")
    assert found == []
