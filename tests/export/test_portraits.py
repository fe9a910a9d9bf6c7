"""`python -m export.demo portraits`: real portraits with made-up ages, and a fake `AgeMoE`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from PIL import Image

import runtime
from export.demo import __main__ as demo
from export.demo import portrait_sheet as sheets
from export.demo.chart import Entry, truth_text, wrapped
from export.demo.portraits import PORTRAITS, Card, Portrait, portrait_cards, problems, summary
from export.errors import ExportError
from runtime import AgeEstimate, ExpertAge, InputError, PhotoFace, ResidualQuantiles
from runtime.geometry import Pixels
from runtime.results import Box, Landmarks
from tests.runtime.photo_samples import ASTRONAUT_FACE, GRACE_FACE, astronaut, grace

BRIGHT = ResidualQuantiles((0.025, 0.05, 0.95, 0.975), (-10.0, -9.0, 9.0, 10.0))


def estimate(age: float, *, notes: tuple[str, ...] = (), calibrated: bool = True) -> AgeEstimate:
    experts = {"a": ExpertAge(age - 4, age - 2, 0.25), "b": ExpertAge(age + 4, age + 2, 0.75)}
    return AgeEstimate(age, experts, residuals=BRIGHT if calibrated else None, notes=notes)


def face(box: Box, age: float = 40.0, landmarks: Landmarks | None = None) -> PhotoFace:
    return PhotoFace(box, landmarks=landmarks, result=estimate(age))


class FakeMoE:
    """Finds what it is told to find, by the size of the picture."""

    def __init__(self, found: Callable[[Pixels], Sequence[PhotoFace]]) -> None:
        self.found = found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def predict_photo(self, image: Pixels) -> list[PhotoFace]:
        assert image.dtype == np.uint8
        return list(self.found(image))


def two_people(image: Pixels) -> Sequence[PhotoFace]:
    if image.shape == astronaut().shape:
        return [face(ASTRONAUT_FACE, 38.0)]
    if image.shape == grace().shape:
        return [face(GRACE_FACE, 90.0)]
    return []


def card(width: int, height: int, *boxes: Box) -> Card:
    image = np.full((height, width, 3), 200, np.uint8)
    return Card(Path("x.png"), "x", image, tuple(map(face, boxes)))


# The portraits


def test_the_portraits_come_with_installed_packages() -> None:
    for portrait, expected in zip(PORTRAITS, (astronaut(), grace()), strict=True):
        with Image.open(portrait.path()) as picture:
            assert (np.asarray(picture.convert("RGB")) == expected).all()


def test_ages_are_those_of_the_days_of_the_portraits() -> None:
    collins, hopper = PORTRAITS
    # On 20 January 1984, 77 years and 42 days after 9 December 1906.
    assert hopper.age_years == pytest.approx(77 + 42 / 365.2425, abs=0.003)
    assert not hopper.about
    # From her appointment on 5 March 1998 to the flight in July 1999 she was 41 or 42.
    assert 41.0 <= collins.age_years < 43.0
    assert collins.about


def test_a_missing_package_is_an_error_with_the_cure() -> None:
    day = date(2000, 1, 1)
    for package in ("no_such_package", "numpy"):
        with pytest.raises(
            ExportError, match=rf"{package} is not installed, or without a.png. Install"
        ):
            Portrait("Ada", day, day, package, "a.png", "nobody").path()


def test_known_ages_belong_to_the_only_face() -> None:
    cards = portrait_cards(FakeMoE(two_people), [])
    assert [(c.title, len(c.faces)) for c in cards] == [("Eileen Collins", 1), ("Grace Hopper", 1)]
    assert [e.true_years for c in cards for e in c.entries] == [p.age_years for p in PORTRAITS]
    twice = portrait_cards(FakeMoE(lambda image: [*two_people(image), *two_people(image)]), [])
    assert {e.true_years for c in twice for e in c.entries} == {None}


def test_the_summary_says_how_far_off_the_ages_are() -> None:
    cards = portrait_cards(FakeMoE(two_people), [])
    collins, hopper = (portrait.age_years for portrait in PORTRAITS)
    assert summary(cards) == (
        f"2 faces of known age: {abs(38 - collins):.1f} and {abs(90 - hopper):.1f} years off; "
        f"the 90 % interval holds 1 of 2."
    )
    assert summary(cards[2:]) == "No age is known of these faces."


def test_what_has_no_age_is_said() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    refused = PhotoFace((0, 0, 9, 9), result=InputError("too small"))
    noted = PhotoFace((0, 0, 9, 9), result=estimate(30.0, notes=("landmarks replaced",)))
    cards = [
        Card(Path("a.png"), "a.png", image, ()),
        Card(Path("b.png"), "b.png", image, (refused, noted)),
    ]
    assert list(problems(cards)) == [
        "a.png: no face was found",
        "b.png: too small",
        "b.png: landmarks replaced",
    ]
    assert len(cards[1].entries) == 1


def test_truths_are_written_as_exactly_as_they_are_known() -> None:
    entry = Entry(Path("x"), {}, 41.95)
    assert truth_text(entry) == "42"
    assert truth_text(entry, digits=1) == "42.0"
    assert truth_text(Entry(Path("x"), {}, 41.95, about=True), digits=1) == "about 42"
    assert truth_text(Entry(Path("x"), {}, None)) is None


# The picture


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((512, 512), [ASTRONAUT_FACE]),
        ((512, 600), [GRACE_FACE]),
        ((3000, 400), [(100, 100, 80, 90), (2800, 50, 80, 90)]),
        ((400, 3000), [(100, 2900, 80, 90)]),
        ((60, 60), [(0, 0, 60, 60)]),
        ((500, 500), [(-40, -30, 200, 200)]),
        ((640, 480), []),
    ],
)
def test_every_face_is_shown(size: tuple[int, int], boxes: list[Box]) -> None:
    left, top, scale = sheets._view(card(*size, *boxes))
    for box in boxes:
        x, y, width, height = sheets._placed(box, left, top, scale)
        inside = [max(x, 0.0), max(y, 0.0), min(x + width, 460.0), min(y + height, 500.0)]
        expected = [max(v, 0.0) for v in box[:2]]
        # All of the box that lies in the photograph is on the card.
        assert inside[0] == pytest.approx((expected[0] - left) * scale, abs=1.0)
        assert inside[1] == pytest.approx((expected[1] - top) * scale, abs=1.0)
        assert x + width <= 461.0
        assert y + height <= 501.0


def test_the_photographs_fill_their_cards() -> None:
    for image, box in ((astronaut(), ASTRONAUT_FACE), (grace(), GRACE_FACE)):
        height, width = image.shape[:2]
        left, top, scale = sheets._view(card(width, height, box))
        assert left >= 0.0
        assert top >= 0.0
        assert left + 460 / scale <= width + 0.01
        assert top + 500 / scale <= height + 0.01


def test_box_and_landmarks_are_drawn_where_they_are() -> None:
    points: Landmarks = ((40, 40), (60, 40), (50, 50), (42, 60), (58, 60))
    shown = Card(
        Path("x"),
        "x",
        np.full((100, 100, 3), 120, np.uint8),
        (face((30.0, 30.0, 40.0, 40.0), landmarks=points),),
    )
    left, top, scale = sheets._view(shown)
    picture = np.asarray(sheets._photograph(shown)).astype(int)
    yellow = np.abs(picture - [255, 205, 50]).sum(axis=2) < 60
    for x, y in points:
        assert yellow[round((y - top) * scale), round((x - left) * scale)]
    middle = round((30 - left) * scale), round((45 - top) * scale)
    assert yellow[middle[1], middle[0] - 2 : middle[0] + 3].any()
    assert yellow.mean() < 0.05


def test_a_sheet_of_many_photographs() -> None:
    cards = [card(300, 200, (10, 10, 50, 60)), card(900, 300), card(200, 800, (50, 90, 60, 70))]
    crowd = card(1600, 300, *((float(x), 50.0, 60.0, 70.0) for x in range(0, 1600, 200)))
    sheet = sheets.portrait_sheet([*cards, crowd], "the end")
    assert sheet.width == sheets.portrait_sheet(cards, "the end").width
    assert sheet.height > sheets.portrait_sheet(cards, "the end").height
    assert len(sheet.getcolors(1 << 20) or []) > 50
    bare = Card(
        Path("x"),
        "x",
        cards[0].image,
        (PhotoFace((9, 9, 9, 9), result=estimate(1.0, calibrated=False)),),
    )
    assert sheets.portrait_sheet([bare], "").width >= 1000


def test_text_is_wrapped_at_words() -> None:
    draw = sheets._measure()
    lines = wrapped(draw, "some words that do not fit", 19, 90.0)
    assert " ".join(lines) == "some words that do not fit"
    assert len(lines) > 2
    assert wrapped(draw, "x" * 99, 19, 90.0) == ["x" * 99]


# The command


def test_the_command_prints_the_table_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Path] = []

    def fake(engines: Path) -> FakeMoE:
        opened.append(engines)
        return FakeMoE(two_people)

    monkeypatch.setattr(runtime, "AgeMoE", fake)
    Image.new("RGB", (80, 60), "teal").save(tmp_path / "mine.png")
    output = tmp_path / "demo.png"
    arguments = ["portraits", str(tmp_path / "mine.png"), "--engines", "somewhere"]
    assert demo.main([*arguments, "--output", str(output)]) == 0
    assert opened == [Path("somewhere")]
    said = capsys.readouterr().out
    for text in ("Eileen Collins", "about 42", "38.0", "77.1", "mine.png: no face was found"):
        assert text in said
    assert "-m runtime serve --engines somewhere" in said
    with Image.open(output) as picture:
        assert picture.format == "PNG"
    assert demo.main(["portraits", str(tmp_path / "gone.png"), "--output", str(output)]) == 2
    assert "gone.png" in capsys.readouterr().err


def test_the_demo_of_portraits_needs_no_pytorch() -> None:
    script = (
        "import sys, export.demo.__main__, export.demo.portraits, export.demo.portrait_sheet, "
        "export.demo.table, export.build.console; "
        "heavy = {'torch', 'timm', 'transformers', 'matplotlib', 'skimage'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
