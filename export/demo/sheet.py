"""The contact sheet of the drawn faces, each with its estimate and the experts' predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from export.demo.chart import (
    FAINT,
    INK,
    PAPER,
    Colors,
    Entry,
    draw_age_axis,
    draw_age_line,
    draw_legend,
    expert_colors,
    font,
    fused_label,
    paste_rounded,
)

_COLUMNS = 4
_FACE = 272
_GAP = 28
_MARGIN = 44
_HEADER = 128
_CHART = 60
_TILE_HEIGHT = _FACE + 62 + _CHART
_FOOTER = 56
_CAPTION = (
    "Demo experts on unseen drawn faces, and on one photograph, whose predicted ages are "
    "meaningless."
)


def evaluation_summary(evaluation: Mapping[str, Any]) -> str:
    """Summarizes a report of `agemoe evaluate --json` in one line."""
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
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    colors = expert_colors(entries)
    draw.text((_MARGIN, _MARGIN - 8), "AgeMoE runtime: the four architectures", INK, font(38))
    draw.text((_MARGIN, _MARGIN + 42), _CAPTION, FAINT, font(20))
    draw_legend(draw, colors, fused_label(entries), (_MARGIN, _MARGIN + 82.0))
    for index, entry in enumerate(entries):
        row, column = divmod(index, _COLUMNS)
        x = _MARGIN + column * (_FACE + _GAP)
        y = _MARGIN + _HEADER + row * (_TILE_HEIGHT + _GAP)
        _draw_tile(sheet, entry, colors, (x, y))
    draw.text((_MARGIN, height - _FOOTER), summary, INK, font(20))
    return sheet


def _draw_tile(sheet: Image.Image, entry: Entry, colors: Colors, corner: tuple[int, int]) -> None:
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    with Image.open(entry.path) as picture:
        face = picture.convert("RGB").resize((_FACE, _FACE), Image.Resampling.LANCZOS)
    paste_rounded(sheet, face, corner)
    draw_age_line(draw, entry, (x, y + _FACE + 8), _FACE, unknown="photograph")
    draw_age_axis(draw, entry, colors, (x, y + _FACE + 62), _FACE)
