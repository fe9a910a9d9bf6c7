"""The contact sheet: each face with its estimate and the experts' predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_COLUMNS = 4
_FACE = 272
_GAP = 28
_MARGIN = 44
_HEADER = 128
_CHART = 60
_TILE_HEIGHT = _FACE + 62 + _CHART
_FOOTER = 56
_LAST_AGE = 100.0
_PAPER, _INK, _FAINT = "#faf8f4", "#22252b", "#8b8f98"
_BAND, _AXIS, _TRUTH = "#d9e2f2", "#d5d2ca", "#1d9a6c"
_EXPERT_COLORS = ("#d1495b", "#3066be", "#e2962b", "#7b4fa3", "#2a9d8f", "#6c757d")


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture and its estimate."""

    path: Path
    estimate: Mapping[str, Any]
    """A line of `python -m runtime predict --json`."""
    true_years: float | None
    """None for the photograph."""


def expert_names(entries: Iterable[Entry]) -> list[str]:
    """Returns the names of the experts with predictions."""
    return sorted({name for entry in entries for name in entry.estimate["experts"]})


def evaluation_summary(evaluation: Mapping[str, Any]) -> str:
    """Summarizes a report of `export/evaluate.py --json` in one line."""
    errors = evaluation["mae"]
    corrected = {name: errors[name]["corrected"] for name in evaluation["experts"]}
    best = min(corrected, key=lambda name: corrected[name])
    return (
        f"On {evaluation['faces']} unseen drawn faces: mean absolute error fused "
        f"{errors['fused']:.1f} years, best single expert {corrected[best]:.1f} ({best}); "
        f"the 90 % interval covers {evaluation['coverage']['90']:.0%}."
    )


def contact_sheet(entries: Sequence[Entry], summary: str) -> Image.Image:
    """Draws all entries, with a legend above and the summary below."""
    rows = -(-len(entries) // _COLUMNS)
    width = 2 * _MARGIN + _COLUMNS * _FACE + (_COLUMNS - 1) * _GAP
    height = _MARGIN + _HEADER + rows * (_TILE_HEIGHT + _GAP) + _FOOTER
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    colors = dict(zip(expert_names(entries), _EXPERT_COLORS, strict=False))
    calibrated = any(entry.estimate["low_years"] is not None for entry in entries)
    _draw_header(draw, colors, "fused, on its 90 % interval" if calibrated else "fused")
    for index, entry in enumerate(entries):
        row, column = divmod(index, _COLUMNS)
        x = _MARGIN + column * (_FACE + _GAP)
        y = _MARGIN + _HEADER + row * (_TILE_HEIGHT + _GAP)
        _draw_tile(sheet, entry, colors, (x, y))
    draw.text((_MARGIN, height - _FOOTER), summary, _INK, _font(20))
    return sheet


def _draw_header(draw: ImageDraw.ImageDraw, colors: Mapping[str, str], fused: str) -> None:
    draw.text((_MARGIN, _MARGIN - 8), "AgeMoE runtime: the demo", _INK, _font(38))
    caption = (
        "Demo experts on unseen drawn faces, and on one photograph, whose predicted ages are "
        "meaningless."
    )
    draw.text((_MARGIN, _MARGIN + 42), caption, _FAINT, _font(20))
    x, y = float(_MARGIN), _MARGIN + 82.0
    for name, color in colors.items():
        _dot(draw, x + 7, y + 11, 7, color)
        draw.text((x + 22, y), name, _INK, _font(18))
        x += 22 + draw.textlength(name, _font(18)) + 28
    draw.rectangle((x, y + 1, x + 5, y + 21), _INK)
    draw.text((x + 14, y), fused, _INK, _font(18))
    x += 14 + draw.textlength(fused, _font(18)) + 28
    _diamond(draw, x + 7, y + 11, _TRUTH)
    draw.text((x + 22, y), "truth", _INK, _font(18))


def _draw_tile(
    sheet: Image.Image, entry: Entry, colors: Mapping[str, str], corner: tuple[int, int]
) -> None:
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    with Image.open(entry.path) as picture:
        face = picture.convert("RGB").resize((_FACE, _FACE), Image.Resampling.LANCZOS)
    sheet.paste(face, corner, _rounded_mask())
    age = f"{entry.estimate['age_years']:.0f}"
    draw.text((x, y + _FACE + 8), age, _INK, _font(40))
    after = x + draw.textlength(age, _font(40)) + 10
    draw.text((after, y + _FACE + 26), "years", _FAINT, _font(18))
    truth = "photograph" if entry.true_years is None else f"truth {entry.true_years:.0f}"
    color = _FAINT if entry.true_years is None else _TRUTH
    right = x + _FACE - draw.textlength(truth, _font(18))
    draw.text((right, y + _FACE + 26), truth, color, _font(18))
    _draw_chart(draw, entry, colors, (x, y + _FACE + 62))


def _draw_chart(
    draw: ImageDraw.ImageDraw, entry: Entry, colors: Mapping[str, str], corner: tuple[int, int]
) -> None:
    """Draws an age axis: interval as a band, fused age on it, experts above, truth below."""
    x, y = corner[0], corner[1] + 26

    def place(years: float) -> float:
        return x + min(max(years, 0.0), _LAST_AGE) / _LAST_AGE * _FACE

    estimate = entry.estimate
    if estimate["low_years"] is not None:
        draw.rectangle(
            (place(estimate["low_years"]), y - 7, place(estimate["high_years"]), y + 7), _BAND
        )
    draw.line((x, y, x + _FACE, y), _AXIS, 2)
    for years in range(0, 101, 20):
        draw.line((place(years), y - 4, place(years), y + 4), _AXIS, 2)
        label = str(years)
        left = place(years) - draw.textlength(label, _font(13)) * years / _LAST_AGE
        draw.text((left, y + 16), label, _FAINT, _font(13))
    for name, expert in estimate["experts"].items():
        size = 4.0 + 5.0 * float(expert["weight"])
        _dot(draw, place(expert["corrected_years"]), y - 12, size, colors[name])
    fused = place(estimate["age_years"])
    draw.rectangle((fused - 2, y - 9, fused + 2, y + 9), _INK)
    if entry.true_years is not None:
        _diamond(draw, place(entry.true_years), y + 9, _TRUTH)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color, _PAPER)


def _diamond(draw: ImageDraw.ImageDraw, x: float, y: float, color: str) -> None:
    draw.polygon(((x, y - 6), (x + 5, y), (x, y + 6), (x - 5, y)), color)


def _rounded_mask() -> Image.Image:
    large = Image.new("L", (_FACE * 4, _FACE * 4), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, _FACE * 4 - 1, _FACE * 4 - 1), 64, 255)
    return large.resize((_FACE, _FACE), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
