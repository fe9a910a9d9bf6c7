"""Drawn hair: behind the head and in front of it, thinning and receding with age."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from export.faces.head import SIDES, HeadShape, Palette, palette_of, shape_of
from export.faces.scene import Canvas, mirrored, spline
from export.faces.traits import Person, blend, mix, rise


def paint_hair_behind(canvas: Canvas, person: Person) -> None:
    """Paints the hair that falls behind neck and shoulders."""
    who, colors = person.identity, palette_of(person)
    full = person.signs.hair * (1 - 0.3 * person.signs.thinning)
    wide = shape_of(person).width + 0.04 + 0.07 * who.hair_volume * full
    length = {"long": 0.98, "bob": 0.5}.get(who.hair_style, 0.0) * full
    length *= 1 - 0.35 * person.signs.gray
    if length > 0.15:
        half = [(0, -0.7), (wide * 0.7, -0.62), (wide, -0.2), (wide + 0.03, length * 0.6),
                (wide * 0.86, length), (0.2, length + 0.02), (0, length)]  # fmt: skip
        canvas.fill(spline(mirrored(half), closed=True), colors.hair_shade)
    if who.hair_style == "bun" and full > 0.4:
        radius = 0.2 * full
        canvas.ellipse((0, -0.74), (radius * 1.1, radius), colors.hair_shade)
        canvas.ellipse((-0.02, -0.76), (radius * 0.9, radius * 0.75), colors.hair)
    if who.hair_style == "afro":
        radius = 0.52 + (0.08 + 0.16 * who.hair_volume) * full - 0.06 * person.signs.recession
        for x, y in _arc(16, radius):
            canvas.ellipse((x, y), (0.12, 0.12), colors.hair)
        canvas.ellipse((0, -0.2), (radius, radius), colors.hair)


def paint_hair_front(canvas: Canvas, person: Person) -> None:
    """Paints the hair that lies on the head."""
    who, signs = person.identity, person.signs
    shape, colors = shape_of(person), palette_of(person)
    full = signs.hair * (1 - 0.4 * signs.thinning)
    volume = 0.015 + (0.03 + 0.07 * who.hair_volume) * full * (1 - 0.7 * signs.recession)
    density = blend(0.4, 1, signs.hair) * (1 - 0.3 * signs.thinning)
    density *= 1 - rise(signs.recession, 0.35, 0.95)
    outer = _crown(shape.width, volume)
    cap = np.concatenate([outer, _hairline(person, shape)])
    canvas.fill(spline(cap, closed=True), colors.hair, min(density * 1.1, 1.0))
    if who.hair_style in ("bob", "long"):
        _paint_curtains(canvas, person, shape, colors, volume)
    else:
        _paint_temples(canvas, shape, colors, volume, signs.hair)
    if who.hair_style in ("curly", "afro"):
        rng = np.random.default_rng([person.seed, 8])
        _paint_curls(canvas, outer, colors, full * density, rng)
    else:
        _paint_strands(canvas, person, outer, colors, density * signs.hair)
    wisp = [(-0.03, -0.66), (0.0, -0.76), (0.07, -0.74)]
    for turn in (-1.0, 0.3, 0.8):
        points = np.asarray(wisp) * (turn, 1)
        canvas.stroke(points, 0.026, colors.hair_shade, 0.9 * (1 - rise(signs.hair, 0.2, 0.75)))


def _crown(width: float, volume: float) -> NDArray[np.float64]:
    wide = width + 0.02 + volume * 0.5
    right = [(0, -0.675 - volume), (0.29, -0.61 - volume), (wide * 0.93, -0.36 - volume * 0.5),
             (wide, -0.1)]  # fmt: skip
    return np.concatenate([np.asarray(right[:0:-1]) * (-1, 1), right])


def _hairline(person: Person, shape: HeadShape) -> NDArray[np.float64]:
    style, side = person.identity.hair_style, person.identity.part_side
    y, wide = shape.hairline_y, shape.width
    bare = person.signs.recession
    corner = y - 0.1 * bare + 0.05 * (1 - bare)
    ends = [(wide * 0.93, -0.1), (wide * 0.88, -0.25)]
    middle: list[tuple[float, float]] = [(0.28, corner), (0, y), (-0.28, corner)]
    if style == "parted":
        middle = [(0.31, corner + 0.05), (0.2, y - 0.06), (-0.1, y + 0.02), (-0.33, y + 0.11)]
        middle = middle if side > 0 else [(-x, v) for x, v in middle[::-1]]
    elif style == "fringe":
        low = blend(y, max(shape.eye[1] - 0.26, y), (1 - bare) * person.signs.hair)
        middle = [(0.33, low + 0.03), (0.2, low - 0.01), (0.1, low + 0.02), (0, low - 0.02),
                  (-0.12, low + 0.02), (-0.22, low - 0.01), (-0.33, low + 0.03)]  # fmt: skip
    elif style in ("bob", "long"):
        middle = [(0.3, y + 0.02), (side * 0.1, y - 0.12), (-0.3, y + 0.02)]
    return np.array([*ends, *middle, *((-x, v) for x, v in reversed(ends))])


def _paint_curtains(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, volume: float
) -> None:
    signs, wide = person.signs, shape.width
    if signs.hair < 0.3:
        return
    part = person.identity.part_side * 0.1
    low = blend(0.0, 0.34, signs.hair) - 0.1 * signs.gray
    for side in SIDES:
        lock = [(part, -0.66 - volume), (side * 0.3, -0.6 - volume),
                (side * (wide + 0.02 + volume * 0.6), -0.25), (side * (wide + 0.06 + volume), 0.1),
                (side * (wide + 0.02), low), (side * wide * 0.93, low - 0.12),
                (side * wide * 0.9, -0.16), (side * 0.27, -0.38),
                (part, -0.56)]  # fmt: skip
        canvas.fill(spline(lock, closed=True), colors.hair)
        shine = [(part + side * 0.08, -0.6), (side * 0.33, -0.44), (side * wide * 0.97, -0.12)]
        canvas.stroke(shine, 0.05, colors.hair_shine, 0.5)


def _paint_temples(
    canvas: Canvas, shape: HeadShape, colors: Palette, volume: float, amount: float
) -> None:
    wide = shape.width
    for side in SIDES:
        tuft = [(0.97 * wide, 0.03), (wide + 0.03 + volume * 0.5, -0.1),
                (0.99 * wide + volume * 0.5, -0.33), (0.86 * wide, -0.42), (0.88 * wide, -0.25),
                (0.92 * wide, -0.08)]  # fmt: skip
        canvas.fill(spline(np.asarray(tuft) * (side, 1), closed=True), colors.hair,
                    min(0.25 + amount, 1.0))  # fmt: skip


def _paint_curls(
    canvas: Canvas, outer: NDArray[np.float64], colors: Palette, amount: float, rng: Generator
) -> None:
    line = spline(outer, closed=False)
    rows = ((0.0, 0.085), (0.1, 0.08), (0.19, 0.065))
    for inward, radius in rows:
        for x, y in line[2::5] * (1 - inward * 1.1) + (0, inward * -0.12):
            jitter = rng.normal(0, 0.012, size=3)
            tone = mix(colors.hair, colors.hair_shade, rng.uniform(0, 0.6))
            size = radius * (0.45 + 0.55 * amount) + jitter[2] * 0.5
            center = (x + jitter[0], y + jitter[1])
            canvas.ellipse(center, (size, size), tone, rise(amount, 0.35, 0.55))


def _paint_strands(
    canvas: Canvas, person: Person, outer: NDArray[np.float64], colors: Palette, alpha: float
) -> None:
    side = person.identity.part_side
    shine = [(-side * 0.32, -0.5), (-side * 0.12, -0.6), (side * 0.1, -0.6)]
    canvas.stroke(shine, 0.06, colors.hair_shine, 0.6 * alpha)
    lift = float(outer[:, 1].min()) + 0.06
    for x in (-0.2, 0.02, 0.22):
        strand = [(x, lift + abs(x) * 0.2), (x - side * 0.08, -0.52), (x - side * 0.1, -0.46)]
        canvas.stroke(strand, 0.016, colors.hair_shade, 0.55 * alpha)


def _arc(count: int, radius: float) -> NDArray[np.float64]:
    angle = np.linspace(np.pi * 0.98, np.pi * 2.02, count)
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius - 0.2], axis=1)
