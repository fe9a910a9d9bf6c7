"""The page's decisions and its camera in headless Chromium, whose camera shows a drawn pattern."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from runtime import Policy
from runtime.serving.generation import PAGE
from runtime.serving.keys import new_key
from runtime.serving.settings import Settings
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import add_detector
from tests.serving.live import Live, engines_in, policy_in, serving
from tests.serving.pages import BROWSER_MARKS, CAMERA, ERROR, SHOWN, launched, opened, spot

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

FRAMES = 5
FAMILY = PAGE / "examples" / "family.jpg"

pytestmark = BROWSER_MARKS


@pytest.fixture(scope="module", params=[CAMERA])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    with launched(*request.param) as browser:
        yield browser


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines whose detector finds red spots, 36 pixels wide, as faces."""
    folder = engines_in(tmp_path_factory.mktemp("page") / "engines")
    add_detector(folder, tiny_centerface(folder.parent / "colors.onnx"))
    return folder


@pytest.fixture(scope="module")
def policy(engines: Path) -> Policy:
    return policy_in(engines, threshold=16.0, challenge=20.0, floor=8.0)


@pytest.fixture(scope="module")
def live(engines: Path, policy: Policy) -> Iterator[Live]:
    assert policy
    with serving(Settings(engines, policy=True)) as running:
        yield running


def decided(page: Page) -> None:
    page.wait_for_selector(SHOWN)


def size_of(page: Page, selector: str) -> float:
    text = page.locator(selector).evaluate("element => getComputedStyle(element).fontSize")
    return float(text.removesuffix("px"))


def ready(browser: Browser, live: Live, errors: list[str], **options: Any) -> Page:
    page = opened(browser, live.url, errors, **options)
    page.wait_for_selector("#mode:not([hidden])")
    return page


@pytest.mark.parametrize(
    ("level", "outcome", "scheme", "width"),
    [(250, "pass", "light", 1000), (80, "refer", "dark", 320), (0, "fail", "light", 320)],
)
def test_the_outcome_is_the_largest_thing(
    live: Live,
    browser: Browser,
    tmp_path: Path,
    level: int,
    outcome: str,
    scheme: Any,
    width: int,
) -> None:
    errors: list[str] = []
    size: Any = {"width": width, "height": 700}
    page = ready(browser, live, errors, viewport=size, color_scheme=scheme)
    assert page.locator("#decides").is_checked()
    path = spot(tmp_path, "one", level)
    page.locator("#file").set_input_files(path)
    decided(page)
    answer = live.client.post("/v1/decisions", files={"image": path.read_bytes()}).json()
    decision, estimate = answer["decision"], answer["estimate"]
    assert decision["outcome"] == outcome
    assert page.locator("#outcome").inner_text() == outcome.title()
    assert page.locator("#reasons").inner_text() == decision["reasons"][0]["sentence"]
    shown = page.locator("#age").inner_text()
    assert f"{estimate['age_years']:.1f} years" in shown
    assert f"{estimate['low_years']:.1f} … {estimate['high_years']:.1f}" in shown
    assert "At least 16 years old: " in shown
    sizes = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && e.innerText)"
        ".map((e) => [parseFloat(getComputedStyle(e).fontSize), e.id])"
    )
    assert max(sizes)[1] == "outcome"
    assert size_of(page, "#outcome") > 1.8 * size_of(page, "#age b")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.activeElement.id") == "heading"
    assert page.locator("#heading").inner_text() == f"Decision: {outcome}"
    assert errors == []


def test_several_pictures_and_unusable_ones_are_listed(
    live: Live, browser: Browser, tmp_path: Path
) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    paths = [spot(tmp_path, "a", 250), broken, spot(tmp_path, "b", 251)]
    page.locator("#file").set_input_files(paths)
    decided(page)
    assert page.locator("#outcome").inner_text() == "Pass"
    assert page.locator("#status").inner_text() == "2 of 3 pictures used."
    cards = page.locator("#pictures li").all_inner_texts()
    assert "Weight 50 %" in cards[0]
    assert "Not used. This file cannot be read as a picture." in cards[1]
    assert page.locator("#pictures li.unused").count() == 1
    page.locator("#made summary").click()
    assert page.locator("#fused tbody tr").count() == 4
    page.locator("#file").set_input_files(spot(tmp_path, "two", 250, [(24, 32), (64, 32)]))
    page.locator("#outcome", has_text="Refer").wait_for()
    assert "Several faces were found." in page.locator("#reasons").inner_text()
    assert page.locator("#made").is_hidden()
    assert page.locator("#age").inner_text() == ""
    assert errors == []


def test_the_policy_is_told_and_the_mode_switched_with_the_keyboard(
    live: Live, policy: Policy, browser: Browser, tmp_path: Path
) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors)
    told = page.locator("#policy").inner_text()
    assert told.startswith("Required age 16. A person who is estimated 20 or older passes. Below 8")
    assert policy.id in told
    page.locator("summary >> nth=0").click()
    assert page.locator("#threshold").is_hidden()
    page.keyboard.press("Shift+Tab")
    page.locator("#decides").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#estimates").is_checked()
    assert page.locator("#policy").is_hidden()
    assert page.locator("#threshold").is_visible()
    assert page.locator("#file").get_attribute("multiple") is None
    page.locator("#file").set_input_files(spot(tmp_path, "one", 250))
    decided(page)
    assert page.locator("#verdict").is_hidden()
    assert page.locator("#faces li").count() == 1
    page.keyboard.press("Shift+Tab")
    page.locator("#estimates").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#result").is_hidden()
    assert errors == []


def test_without_a_policy_the_page_shows_ages_only(
    engines: Path, browser: Browser, tmp_path: Path
) -> None:
    errors: list[str] = []
    with serving(Settings(engines)) as plain:
        page = opened(browser, plain.url, errors)
        page.wait_for_selector("#experts:not(:empty)")
        assert page.locator("#mode").is_hidden()
        page.locator("#file").set_input_files(spot(tmp_path, "one", 250))
        decided(page)
        assert page.locator("#faces li").count() == 1
        assert page.locator("#verdict").is_hidden()
        page.context.close()
    assert errors == []


def test_the_mode_appears_with_the_key(engines: Path, tmp_path: Path, browser: Browser) -> None:
    secret, key = new_key("page", "user")
    (tmp_path / "keys").write_text(key.line())
    with serving(Settings(engines, keys=tmp_path / "keys", policy=True)) as locked:
        page = opened(browser, locked.url, [])
        page.wait_for_selector(ERROR)
        assert page.locator("#mode").is_hidden()
        page.locator("#key").fill(secret)
        page.locator("#key").press("Tab")
        page.wait_for_selector("#mode:not([hidden])")
        assert page.locator("#decides").is_checked()
        page.context.close()


TRACKS = "document.getElementById('video').srcObject?.getTracks().map((t) => t.readyState) ?? []"


def test_the_camera_takes_pictures_and_closes(live: Live, browser: Browser) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors, permissions=["camera"], reduced_motion="reduce")
    bodies: list[bytes] = []

    def keep(route: Route) -> None:
        bodies.append(route.request.post_data_buffer or b"")
        route.continue_()

    page.route("**/v1/decisions", keep)
    assert page.evaluate(TRACKS) == [], "only a click opens the camera"
    page.locator("#open").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#take:focus")
    assert page.evaluate(TRACKS) == ["live"], "no sound"
    page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
    page.keyboard.press("Enter")
    decided(page)
    assert page.evaluate("window.track.readyState") == "ended"
    assert page.locator("#camera").is_hidden()
    (body,) = bodies
    images = [part for part in body.split(b"\r\n\r\n") if part.startswith(b"\xff\xd8")]
    assert len(images) == FRAMES
    assert all(Image.open(io.BytesIO(image)).format == "JPEG" for image in images)
    assert page.locator("#pictures li").count() == FRAMES
    assert page.locator("#outcome").inner_text() == "Refer", "the pattern has no face"
    assert errors == []


def test_the_camera_is_closed_by_a_button_and_by_a_file(live: Live, browser: Browser) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors, permissions=["camera"])
    closings: list[Callable[[], object]] = [
        lambda: page.locator("#close").click(),
        lambda: page.locator("#file").set_input_files(FAMILY),
    ]
    for close in closings:
        page.locator("#open").click()
        page.wait_for_selector("#take:focus")
        page.evaluate("window.track = document.getElementById('video').srcObject.getTracks()[0]")
        close()
        page.wait_for_selector("#camera", state="hidden")
        assert page.evaluate("window.track.readyState") == "ended"
    decided(page)
    assert errors == []


def test_for_ages_the_camera_takes_one_picture(live: Live, browser: Browser) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors, permissions=["camera"])
    page.locator("#estimates").check(force=True)
    page.locator("#open").click()
    page.wait_for_selector("#take:focus")
    assert page.locator("#take").inner_text() == "Take a picture"
    page.locator("#take").click()
    decided(page)
    assert page.locator("#picture").is_visible()
    assert page.locator("#status").inner_text().startswith("No face was found.")
    assert errors == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("NotAllowedError", "The camera was not permitted."),
        ("NotFoundError", "No camera was found."),
        ("NotReadableError", "another program may be using it"),
        ("OverconstrainedError", "The camera cannot be used: the reason"),
        (None, "only to pages over HTTPS or on this machine"),
    ],
)
def test_without_a_camera_the_page_says_why(
    live: Live, browser: Browser, error: str | None, message: str
) -> None:
    errors: list[str] = []
    page = ready(browser, live, errors)
    script = (
        "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"
        if error is None
        else "void (navigator.mediaDevices.getUserMedia = "
        f"() => Promise.reject(new DOMException('the reason', '{error}')))"
    )
    page.evaluate(script)
    page.locator("#open").click()
    page.wait_for_selector(ERROR)
    assert message in page.locator(ERROR).inner_text()
    assert page.locator("#camera").is_hidden()
    assert errors == []


@pytest.mark.parametrize("browser", [CAMERA[:1]], indirect=True)
def test_a_camera_that_is_not_permitted(live: Live, browser: Browser) -> None:
    context: BrowserContext = browser.new_context(permissions=[])
    page = context.new_page()
    page.goto(live.url)
    page.wait_for_selector("#mode:not([hidden])")
    page.locator("#open").click()
    page.wait_for_selector(ERROR)
    assert page.locator(ERROR).inner_text().startswith("The camera was not permitted.")
    assert page.locator("#camera").is_hidden()
    context.close()


def test_another_site_cannot_use_the_camera(live: Live) -> None:
    policy = live.client.get("/").headers["permissions-policy"]
    assert policy == "camera=(self), microphone=(), geolocation=()"
    assert (PAGE / "camera.js").read_text().count("getUserMedia") == 1
