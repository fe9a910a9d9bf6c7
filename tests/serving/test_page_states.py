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
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_SIZE_AND_COLOR = ["color-contrast", "target-size"]
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

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/ages", hold)
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
        "all => all.map((g) => [['x', 'y', 'width', 'height'].map((name) => "
        "+g.querySelector('rect').getAttribute(name)), "
        "g.querySelector('.badge + text').textContent, g.querySelectorAll('.landmark').length])"
    )
    assert [(number, points) for _, number, points in groups] == [(f"{n}", 5) for n in range(1, 7)]
    for index, ((x, y, width, height), _, _) in enumerate(groups):
        apart = [abs(x + width / 2 - at) + abs(y + height / 2 - down) for at, down in SIX]
        assert apart.index(min(apart)) == index
    cards = page.locator("#faces li")
    answer = live.client.post("/v1/ages", files={"image": path.read_bytes()}).json()
    estimates = {tuple(face["box"]): face["estimate"] for face in answer["images"][0]["faces"]}
    for index, (box, number, _) in enumerate(groups):
        shown = estimates[tuple(box)]
        assert cards.nth(index).locator(".number").inner_text() == number
        assert f"{shown['age_years']:.1f} years" in cards.nth(index).inner_text()
        interval = f"{shown['low_years']:.1f} … {shown['high_years']:.1f}"
        assert interval in cards.nth(index).inner_text()
        assert cards.nth(index).locator("h3").inner_text().endswith(" %")
    sizes = page.evaluate(
        "[...document.querySelectorAll('main b, main h3, main p')]"
        ".filter((e) => e.checkVisibility()).map((e) => "
        "[parseFloat(getComputedStyle(e).fontSize), e.parentElement.className])"
    )
    assert max(sizes)[1] == "chance", "where a threshold is given, nothing is larger"
    assert page.locator("#faces table:visible").count() == 0
    assert page.evaluate("document.documentElement.scrollHeight") < 3000
    assert page.locator("label[for=shot]").is_visible()
    assert page.locator("#shot").get_attribute("capture") == "user"
    assert page.locator("#open").is_hidden()


def test_a_failed_request_can_be_sent_again(live: Live, browser: Browser, tmp_path: Path) -> None:
    page = estimating(browser, live)
    page.evaluate(OPEN_URLS)
    problem = {"type": "urn:agemoe:problem:unexpected", "detail": "of the API"}
    failures = iter(("r-16", "r-17"))

    def answer(route: Route) -> None:
        number = next(failures, None)
        if number is None:
            route.continue_()
        else:
            route.fulfill(status=500, headers={"X-Request-ID": number}, json=problem)

    page.route("**/v1/ages", answer)
    page.locator("#file").set_input_files(spot(tmp_path, "one", 90))
    page.wait_for_selector(ERROR)
    shown = page.locator("#error").inner_text()
    assert shown.startswith("The service has a fault.")
    assert "Number for the operator: r-16" in shown
    assert "of the API" not in shown
    assert page.locator("#result").is_hidden()
    assert page.evaluate("openUrls.size") == 0
    page.get_by_role("button", name="Try again").focus()
    page.keyboard.press("Enter")
    page.locator("#error", has_text="r-17").wait_for()
    page.wait_for_function("document.activeElement.textContent === 'Try again'")
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


def test_several_files_give_the_ages_of_the_first_and_the_page_says_so(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    page = estimating(browser, live)
    page.evaluate(
        """(bytes) => {
          const transfer = new DataTransfer();
          for (const name of "abc") transfer.items.add(new File([new Uint8Array(bytes)], name));
          const dropped = new DragEvent("drop", { dataTransfer: transfer, bubbles: true });
          document.body.dispatchEvent(dropped);
        }""",
        [*spot(tmp_path, "one", 90).read_bytes()],
    )
    page.wait_for_selector(SHOWN)
    rest = "Only the first of 3 pictures is used: choose one at a time."
    assert page.locator("#status").inner_text() == f"1 face. {rest}"


LATE_EXAMPLE = """() => {
  const real = window.fetch;
  const example = { ok: true, blob: async () => new Blob(["late"]) };
  window.fetch = (path, options) => path.startsWith("page/examples/")
    ? new Promise((done) => {
        window.arrive = () => { done(example); return new Promise(setTimeout); };
      })
    : real(path, options);
}"""


def test_an_example_that_comes_late_does_not_replace_a_newer_picture(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    page = estimating(browser, live)
    page.evaluate(LATE_EXAMPLE)
    page.locator("[data-example='family.jpg']").click()
    page.locator("#file").set_input_files(spot(tmp_path, "one", 90))
    page.wait_for_selector(SHOWN)
    newer = page.locator("#picture").get_attribute("src")
    page.evaluate("arrive()")
    assert page.locator("#picture").get_attribute("src") == newer
    assert page.locator("#result").get_attribute("aria-busy") == "false"


def test_try_again_repeats_an_example_that_could_not_be_loaded(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    page = estimating(browser, live)
    page.locator("#file").set_input_files(spot(tmp_path, "one", 90))
    page.wait_for_selector(SHOWN)
    page.route("**/examples/*", lambda route: route.fulfill(status=503, body=""), times=1)
    page.locator("[data-example='family.jpg']").click()
    page.wait_for_selector(ERROR)
    with page.expect_response("**/examples/family.jpg"):
        page.get_by_role("button", name="Try again").click()


def test_a_key_that_no_header_can_hold_is_not_accepted(live: Live, browser: Browser) -> None:
    page = estimating(browser, live)
    page.locator("#options > summary").click()
    page.locator("#key").fill("a “key”")
    page.locator("#key").press("Enter")
    page.locator(ERROR, has_text="This key is not accepted.").wait_for()


def violations(page: Page, state: str, rules: list[str] = RULES) -> list[str]:
    """Returns what axe-core finds in a state: all rules in light, those of color in dark, too.

    Dark is 320 pixels wide, which nothing may exceed.
    """
    found = []
    for scheme, width, tags in (("light", 1000, rules), ("dark", 320, OF_SIZE_AND_COLOR)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{state}, {width} pixels: scrolls sideways")
        results = page.evaluate("(tags) => axe.run({ runOnly: tags })", tags)
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
    file, unused = page.locator("#file"), spot(tmp_path, "none", 90, [])
    page.locator("#options > summary").click()
    page.locator("#open").click()
    page.wait_for_selector("#take:focus")
    found = violations(page, "empty, with camera and options")
    for level, outcome, rules in (
        (250, "pass", RULES),
        (80, "refer", OF_SIZE_AND_COLOR),
        (0, "fail", OF_SIZE_AND_COLOR),
    ):
        file.set_input_files([spot(tmp_path, "one", level), unused])
        page.wait_for_selector(f"{SHOWN} #verdict.{outcome}")
        found += violations(page, outcome, rules)
    page.locator("#estimates").check(force=True)
    page.locator("#threshold").fill("18")
    file.set_input_files(spot(tmp_path, "six", 90, SIX))
    page.wait_for_selector(SHOWN)
    page.locator("#faces summary >> nth=1").click()
    found += violations(page, "six faces")
    page.route("**/v1/ages", lambda route: route.fulfill(status=503, body=""))
    file.set_input_files(unused)
    page.wait_for_selector(ERROR)
    found += violations(page, "error")
    page.route("**/v1/ages", lambda _: None)
    file.set_input_files(unused)
    page.wait_for_selector("#status.busy")
    found += violations(page, "busy", OF_SIZE_AND_COLOR)
    assert found == []
