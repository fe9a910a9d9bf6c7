"""The parts of the demo's pictures: colors, text, legend, age axis, rounded photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from runtime.printing import printable

LAST_AGE = 100.0
PAPER, INK, FAINT = "#faf8f4", "#22252b", "#8b8f98"
BAND, AXIS, TRUTH = "#d9e2f2", "#d5d2ca", "#1d9a6c"
EXPERT_COLORS = ("#d1495b", "#3066be", "#e2962b", "#7b4fa3", "#2a9d8f", "#6c757d")

Canvas = ImageDraw.ImageDraw
Colors = Mapping[str, str]
"""Of the experts, by name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A face and its estimate."""

    path: Path
    """The picture that it is in."""
    estimate: Mapping[str, Any]
    """As `AgeEstimate.to_dict` returns it."""
    true_years: float | None
    """None where it is not known."""
    about: bool = False
    """The true age is known to a year or two only."""


def truth_text(entry: Entry, digits: int = 0) -> str | None:
    """Returns the true age; None where it is not known."""
    if entry.true_years is None:
        return None
    return f"about {entry.true_years:.0f}" if entry.about else f"{entry.true_years:.{digits}f}"


def expert_names(entries: Iterable[Entry]) -> list[str]:
    """Returns the names of the experts with predictions."""
    return sorted({name for entry in entries for name in entry.estimate["experts"]})


def expert_colors(entries: Iterable[Entry]) -> Colors:
    """Returns a color for each expert with predictions."""
    return dict(zip(expert_names(entries), EXPERT_COLORS, strict=False))


def fused_label(entries: Iterable[Entry]) -> str:
    """Returns the legend of the fused age, which has an interval or none."""
    calibrated = any(entry.estimate["low_years"] is not None for entry in entries)
    return "fused, on its 90 % interval" if calibrated else "fused"


def draw_legend(draw: Canvas, colors: Colors, fused: str, corner: tuple[float, float]) -> None:
    """Draws the marks of the age axis with their meanings, in one line."""
    x, y = corner
    for expert, color in colors.items():
        name = printable(expert, 40)
        dot(draw, x + 7, y + 11, 7, color)
        draw.text((x + 22, y), name, INK, font(18))
        x += 22 + draw.textlength(name, font(18)) + 28
    draw.rectangle((x, y + 1, x + 5, y + 21), INK)
    draw.text((x + 14, y), fused, INK, font(18))
    x += 14 + draw.textlength(fused, font(18)) + 28
    _diamond(draw, x + 7, y + 11, TRUTH)
    draw.text((x + 22, y), "truth", INK, font(18))


def draw_age_line(
    draw: Canvas, entry: Entry, corner: tuple[float, float], width: float, *, unknown: str
) -> None:
    """Draws the fused age in large figures, and the true one, or `unknown`, on the right."""
    x, y = corner
    age = f"{entry.estimate['age_years']:.0f}"
    draw.text((x, y), age, INK, font(40))
    after = x + draw.textlength(age, font(40)) + 10
    draw.text((after, y + 18), "years", FAINT, font(18))
    truth = truth_text(entry)
    text, color = (unknown, FAINT) if truth is None else (f"truth: {truth}", TRUTH)
    draw.text((x + width - draw.textlength(text, font(18)), y + 18), text, color, font(18))


def draw_age_axis(
    draw: Canvas, entry: Entry, colors: Colors, corner: tuple[float, float], width: float
) -> None:
    """Draws an age axis: interval as a band, fused age on it, experts above, truth below."""
    x, y = corner[0], corner[1] + 26

    def place(years: float) -> float:
        return x + min(max(years, 0.0), LAST_AGE) / LAST_AGE * width

    estimate = entry.estimate
    if estimate["low_years"] is not None:
        low, high = estimate["low_years"], estimate["high_years"]
        draw.rectangle((place(low), y - 7, place(high), y + 7), BAND)
    draw.line((x, y, x + width, y), AXIS, 2)
    for years in range(0, 101, 20):
        draw.line((place(years), y - 4, place(years), y + 4), AXIS, 2)
        label = str(years)
        left = place(years) - draw.textlength(label, font(13)) * years / LAST_AGE
        draw.text((left, y + 16), label, FAINT, font(13))
    for name, expert in estimate["experts"].items():
        size = 4.0 + 5.0 * float(expert["weight"])
        dot(draw, place(expert["corrected_years"]), y - 12, size, colors[name])
    fused = place(estimate["age_years"])
    draw.rectangle((fused - 2, y - 9, fused + 2, y + 9), INK)
    if entry.true_years is not None:
        _diamond(draw, place(entry.true_years), y + 9, TRUTH)


def paste_rounded(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int]) -> None:
    """Pastes a picture with rounded corners."""
    width, height = picture.size
    large = Image.new("L", (width * 4, height * 4), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, width * 4 - 1, height * 4 - 1), 64, 255)
    sheet.paste(picture, corner, large.resize(picture.size, Image.Resampling.LANCZOS))


def wrapped(draw: Canvas, text: str, size: int, width: float) -> Sequence[str]:
    """Returns the lines of a text that has to fit a width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font(size)) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def dot(draw: Canvas, x: float, y: float, radius: float, color: str) -> None:
    """Draws a disk with a thin edge."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color, PAPER)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font in a size, in pixels."""
    return ImageFont.load_default(size)


def _diamond(draw: Canvas, x: float, y: float, color: str) -> None:
    draw.polygon(((x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)), color)
