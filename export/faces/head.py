"""A drawn head but for its hair: face and the signs of age, in units of half a portrait.

The origin is the middle of the face, y points down, an adult's chin is near y = 0.66 and the crown
near y = -0.68.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.faces.scene import Canvas, ellipse_points, mirrored, spline
from export.faces.traits import GRAY_HAIR, Color, Person, blend, mix, rise

WHITE: Color = (255, 255, 255)
SIDES = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Where the parts of a head are."""

    outline: NDArray[np.float64]
    """Contour of the face, float64 (N, 2)."""
    width: float
    """Half the width of the face at the cheekbones."""
    eye: tuple[float, float]
    """Center of the eye on the right-hand side."""
    eye_radii: tuple[float, float]
    nose_y: float
    mouth_y: float
    chin_y: float
    hairline_y: float


@dataclass(frozen=True, slots=True)
class Palette:
    """The colors of a head."""

    skin: Color
    shade: Color
    line: Color
    glow: Color
    blush: Color
    hair: Color
    hair_shade: Color
    hair_shine: Color
    brow: Color
    lip: Color


def shape_of(person: Person) -> HeadShape:
    """Returns the proportions of this person's head."""
    who, signs = person.identity, person.signs
    g = signs.growth
    wide = who.face_width
    chin = blend(0.52, 0.69, g)
    cheek = wide * blend(0.54, 0.445, g)
    jaw = wide * (blend(0.45, 0.345, g) + 0.03 * who.jaw * g + 0.05 * signs.sagging)
    chin_side = wide * (blend(0.21, 0.15, g) + 0.025 * who.jaw * g)
    half = [
        (0, -0.66),
        (wide * 0.27, -0.61),
        (wide * blend(0.47, 0.43, g), -0.34),
        (cheek, blend(0.10, -0.02, g)),
        (jaw, blend(0.36, 0.37, g) + 0.06 * signs.sagging),
        (chin_side, chin - 0.06),
        (0, chin),
    ]
    eye_size = who.eye_size
    return HeadShape(
        outline=spline(mirrored(half), closed=True),
        width=cheek,
        eye=(wide * blend(0.225, 0.19, g), blend(0.14, -0.04, g)),
        eye_radii=(eye_size * blend(0.112, 0.086, g), eye_size * blend(0.112, 0.055, g)),
        nose_y=blend(0.245, 0.2, g) + 0.02 * signs.sagging,
        mouth_y=blend(0.375, 0.4, g) + 0.015 * signs.sagging,
        chin_y=chin,
        hairline_y=blend(-0.46, -0.40, g) - 0.2 * signs.recession,
    )


def palette_of(person: Person) -> Palette:
    """Returns the colors of this person's head, grayed and weathered by age."""
    who, signs = person.identity, person.signs
    skin = mix(who.skin, mix(who.skin, (196, 176, 160), 0.5), 0.3 * signs.roughness)
    line = mix(skin, (96, 44, 36), 0.52)
    infant_hair = mix(who.hair, (206, 170, 126), 0.3 * (1 - signs.growth))
    hair = mix(infant_hair, GRAY_HAIR, 0.92 * signs.gray)
    rosy = mix(skin, (226, 92, 92), 0.5)
    return Palette(
        skin=skin,
        shade=mix(skin, (120, 56, 52), 0.28),
        line=mix(line, (30, 16, 16), 0.35),
        glow=mix(skin, (255, 244, 230), 0.45),
        blush=rosy,
        hair=hair,
        hair_shade=mix(hair, (40, 26, 40), 0.25),
        hair_shine=mix(hair, (255, 236, 214), 0.25),
        brow=mix(mix(who.hair, (40, 28, 30), 0.3), GRAY_HAIR, 0.85 * signs.brow_gray),
        lip=mix(mix(skin, (196, 66, 74), 0.5), skin, 0.35 * signs.thin_lips),
    )


def paint_head(canvas: Canvas, person: Person) -> None:
    """Paints ears, face, beard and glasses: all but the hair."""
    shape, colors = shape_of(person), palette_of(person)
    face = canvas.mask(shape.outline)
    _paint_ears(canvas, person, shape, colors)
    canvas.fill(shape.outline, colors.skin)
    _paint_form(canvas, person, shape, colors, face)
    _paint_skin_marks(canvas, person, colors, face)
    _paint_wrinkles(canvas, person, shape, colors, face)
    _paint_beard(canvas, person, shape, colors, face)
    _paint_nose(canvas, person, shape, colors)
    _paint_mustache(canvas, person, shape, colors)
    _paint_mouth(canvas, person, shape, colors)
    for side in SIDES:
        _paint_eye(canvas, person, shape, colors, side)
        _paint_brow(canvas, person, shape, colors, side)
    _paint_glasses(canvas, person, shape)


def _paint_ears(canvas: Canvas, person: Person, shape: HeadShape, colors: Palette) -> None:
    height = 0.11 + 0.035 * rise(person.age_years, 10, 100)
    y = shape.eye[1] + 0.08
    for side in SIDES:
        x = side * (shape.width + 0.015)
        canvas.ellipse((x, y), (0.07, height), mix(colors.skin, colors.shade, 0.35))
        canvas.ellipse((x, y + 0.01), (0.035, height * 0.6), colors.shade)
        if person.identity.earrings and person.age_years > 7:
            canvas.ellipse((x + side * 0.015, y + height), (0.028, 0.028), (240, 200, 104))


def _paint_form(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, face: NDArray[np.uint8]
) -> None:
    light = float(np.random.default_rng([person.seed, 3]).choice(SIDES))
    g, sag = person.signs.growth, person.signs.sagging
    canvas.ellipse((-light * 0.52, 0.2), (0.2, 0.62), colors.shade, 0.5, soft=0.07, clip=face)
    canvas.ellipse((light * 0.1, -0.32), (0.22, 0.1), colors.glow, 0.5, soft=0.06, clip=face)
    for side in SIDES:
        cheek = (side * shape.width * 0.64, blend(0.3, 0.2, g))
        radius = blend(0.13, 0.1, g)
        canvas.ellipse(cheek, (radius, radius * 0.8), colors.blush, blend(0.6, 0.28, g), soft=0.03)
        jowl = (side * 0.27, 0.5 + 0.03 * sag)
        canvas.ellipse(jowl, (0.07, 0.09), colors.shade, 0.55 * sag, soft=0.03, clip=face)


def _paint_skin_marks(
    canvas: Canvas, person: Person, colors: Palette, face: NDArray[np.uint8]
) -> None:
    rng = np.random.default_rng([person.seed, 4])
    tone = mix(colors.skin, (132, 78, 48), 0.5)
    if person.identity.freckles:
        for x, y in rng.normal((0, 0.19), (0.2, 0.05), size=(16, 2)):
            canvas.ellipse((x, y), (0.011, 0.011), tone, 0.55 * person.signs.hair, clip=face)
    places = rng.uniform((-0.42, -0.5), (0.42, 0.5), size=(12, 2))
    for rank, (x, y) in enumerate(places):
        alpha = 0.5 * rise(person.signs.spots * 12, rank, rank + 2)
        size = 0.018 + 0.002 * (rank * 7 % 12)
        canvas.ellipse((x, y), (size, size * 0.8), tone, alpha, soft=0.006, clip=face)
    blotches = rng.uniform((-0.45, -0.45), (0.45, 0.6), size=(10, 2))
    for rank, (x, y) in enumerate(blotches):
        color = colors.shade if rank % 2 else colors.glow
        alpha = 0.38 * person.signs.roughness
        canvas.ellipse((x, y), (0.07, 0.045), color, alpha, soft=0.02, clip=face)


def _paint_wrinkles(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, face: NDArray[np.uint8]
) -> None:
    signs, tone = person.signs, mix(colors.shade, colors.line, 0.65)
    ex, ey = shape.eye
    rx, ry = shape.eye_radii
    for rank, y in enumerate((-0.30, -0.375, -0.235, -0.44)):
        alpha = 0.75 * rise(signs.forehead_lines * 4, rank * 0.7, rank * 0.7 + 2)
        half = 0.25 - 0.035 * rank
        curve = [(-half, y + 0.012), (-half / 2, y - 0.008), (0, y + 0.004),
                 (half / 2, y - 0.008), (half, y + 0.012)]  # fmt: skip
        canvas.stroke(curve, 0.02, tone, alpha, clip=face)
    for side in SIDES:
        corner = side * (ex + rx + 0.025)
        for rank, lift in enumerate((0.005, -0.045, 0.05)):
            alpha = 0.75 * rise(signs.crows_feet * 3, rank * 0.6, rank * 0.6 + 1.8)
            tip = (corner + side * 0.085, ey + lift * 1.9)
            canvas.stroke([(corner, ey + lift * 0.5), tip], 0.018, tone, alpha, clip=face)
        mouth_x = side * 0.185
        fold = [(side * 0.095, shape.nose_y - 0.01), (side * 0.165, shape.nose_y + 0.07),
                (mouth_x, shape.mouth_y + 0.02)]  # fmt: skip
        canvas.stroke(fold, 0.026, tone, 0.75 * signs.cheek_folds)
        droop = [(side * 0.15, shape.mouth_y + 0.05), (side * 0.165, shape.mouth_y + 0.14)]
        canvas.stroke(droop, 0.022, tone, 0.4 * signs.sagging)
        below = ey + ry * 1.15
        bag = ellipse_points((side * ex, below + 0.012), (rx * 0.9, 0.04))
        canvas.fill(bag, colors.shade, 0.6 * signs.eye_bags, soft=0.012)
        rim = [(side * (ex - rx * 0.8), below + 0.01), (side * ex, below + 0.055),
               (side * (ex + rx * 0.85), below + 0.015)]  # fmt: skip
        canvas.stroke(rim, 0.018, tone, 0.65 * signs.eye_bags)


def _paint_nose(canvas: Canvas, person: Person, shape: HeadShape, colors: Palette) -> None:
    g = person.signs.growth
    wide = person.identity.nose_width * (blend(0.045, 0.078, g) + 0.012 * person.signs.sagging)
    y = shape.nose_y
    top = blend(y - 0.07, shape.eye[1] + 0.06, g)
    bridge = [(wide * 0.3, top), (wide * 0.75, y - 0.08), (wide * 0.9, y), (wide * 0.2, y)]
    canvas.fill(spline(bridge, closed=True), colors.shade, 0.45 * g, soft=0.012)
    tip = [(-wide, y - 0.03), (-wide * 0.85, y + 0.015), (0, y + 0.035), (wide * 0.85, y + 0.015),
           (wide, y - 0.03)]  # fmt: skip
    canvas.stroke(tip, 0.026, colors.line, 0.8)
    canvas.ellipse((-wide * 0.2, y - 0.02), (wide * 0.3, 0.02), colors.glow, 0.6, soft=0.008)


def _paint_mouth(canvas: Canvas, person: Person, shape: HeadShape, colors: Palette) -> None:
    who, signs = person.identity, person.signs
    y, wide = shape.mouth_y, blend(0.095, 0.155, signs.growth) * (0.9 + 0.2 * who.smile)
    lift = 0.012 + 0.045 * who.smile
    plump = blend(0.8, 1.0, signs.growth) * (1 - 0.7 * signs.thin_lips)
    left, right = (-wide, y - lift), (wide, y - lift)
    upper = [left, (-0.04, y - 0.035 * plump), (0, y - 0.025 * plump), (0.04, y - 0.035 * plump),
             right, (0, y + 0.015)]  # fmt: skip
    teeth = 0.05 if who.shows_teeth and person.age_years > 2 else 0.0
    lower = [left, (0, y + 0.005), right, (wide * 0.5, y + teeth + 0.045 * plump),
             (-wide * 0.5, y + teeth + 0.045 * plump)]  # fmt: skip
    canvas.fill(spline(lower, closed=True), mix(colors.lip, WHITE, 0.08))
    canvas.fill(spline(upper, closed=True), mix(colors.lip, colors.line, 0.15))
    line = [left, (-wide * 0.5, y), (0, y + 0.012), (wide * 0.5, y), right]
    if teeth:
        gap = [*line, (wide * 0.5, y + teeth), (0, y + teeth + 0.014), (-wide * 0.5, y + teeth)]
        canvas.fill(spline(gap, closed=True), (252, 248, 240))
    canvas.stroke(line, 0.022, mix(colors.line, (90, 24, 32), 0.4))


def _paint_eye(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, side: float
) -> None:
    who, signs = person.identity, person.signs
    (ex, y), (rx, ry) = shape.eye, shape.eye_radii
    x, hood = side * ex, signs.hooding
    top = y - ry * (1 - 0.5 * hood)
    inner, outer = (x - side * rx, y + 0.012), (x + side * rx, y + 0.02 * hood)
    upper = [inner, (x - side * rx * 0.5, top + ry * 0.2), (x, top), (x + side * rx * 0.6,
             top + ry * (0.28 + 0.2 * hood)), outer]  # fmt: skip
    lid = spline(upper, closed=False)
    opening = np.concatenate([lid, spline([outer, (x, y + ry * 0.95), inner], closed=False)])
    canvas.stroke([(px, py - 0.035 - 0.02 * hood) for px, py in upper], 0.014 + 0.012 * hood,
                  colors.line, 0.35 + 0.4 * hood)  # fmt: skip
    eye = canvas.mask(opening)
    canvas.fill(opening, mix((254, 252, 248), (240, 226, 210), 0.5 * signs.roughness))
    iris = blend(0.088, 0.054, signs.growth) * who.eye_size
    canvas.ellipse((x, y + 0.004), (iris, iris), who.eyes, clip=eye)
    canvas.ellipse((x, y + 0.004), (iris * 0.55, iris * 0.55), (24, 18, 20), clip=eye)
    canvas.ellipse((x - 0.02, y - 0.022), (iris * 0.28, iris * 0.28), WHITE, clip=eye)
    lash = mix((44, 28, 30), colors.line, 0.3)
    canvas.stroke(upper, 0.03 if who.grows_beard else 0.04, lash)


def _paint_brow(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, side: float
) -> None:
    who, signs = person.identity, person.signs
    (ex, ey), (rx, ry) = shape.eye, shape.eye_radii
    y = ey - ry - 0.09 + 0.015 * signs.hooding
    arch = [(side * (ex - rx * 1.05), y + 0.015), (side * (ex + rx * 0.3), y - 0.022),
            (side * (ex + rx * 1.3), y + 0.022 + 0.02 * signs.hooding)]  # fmt: skip
    width = 0.042 * who.brow_weight * blend(0.6, 1, signs.adulthood)
    canvas.stroke(arch, width, colors.brow, blend(0.45, 0.95, signs.hair))


def _paint_beard(
    canvas: Canvas, person: Person, shape: HeadShape, colors: Palette, face: NDArray[np.uint8]
) -> None:
    beard, grown = person.identity.beard, person.signs.adulthood
    if beard == "none" or grown <= 0:
        return
    hair, y, chin = colors.hair, shape.mouth_y, shape.chin_y
    wide = shape.width
    if beard in ("full", "stubble"):
        half = [(0, y - 0.06), (0.13, y - 0.075), (0.21, y + 0.02), (wide * 0.8, y - 0.12),
                (wide * 0.97, 0.02), (wide * 1.01, 0.16), (wide * 0.86, 0.42), (0.19, chin),
                (0, chin + 0.05)]  # fmt: skip
        alpha = grown * (0.96 if beard == "full" else 0.25)
        clip = None if beard == "full" else face
        canvas.fill(spline(mirrored(half), closed=True), hair, alpha, soft=0.006, clip=clip)
    if beard == "goatee":
        half = [(0, y + 0.085), (0.1, y + 0.08), (0.14, y + 0.16), (0.1, chin), (0, chin + 0.04)]
        canvas.fill(spline(mirrored(half), closed=True), hair, grown * 0.95, soft=0.006)


def _paint_mustache(canvas: Canvas, person: Person, shape: HeadShape, colors: Palette) -> None:
    who, y = person.identity, shape.mouth_y
    if who.beard not in ("mustache", "goatee"):
        return
    lift = 0.012 + 0.045 * who.smile
    half = [(0, y - 0.085), (0.08, y - 0.095), (0.19, y - 0.015 - lift), (0.17, y + 0.01 - lift),
            (0.08, y - 0.02), (0, y - 0.03)]  # fmt: skip
    alpha = 0.95 * person.signs.adulthood
    canvas.fill(spline(mirrored(half), closed=True), colors.hair, alpha, soft=0.004)


def _paint_glasses(canvas: Canvas, person: Person, shape: HeadShape) -> None:
    who = person.identity
    if person.age_years < who.glasses_from_years:
        return
    ex, ey = shape.eye
    rx, ry = 0.152, 0.14 if who.round_glasses else 0.112
    for side in SIDES:
        rim = ellipse_points((side * ex * 1.06, ey + 0.01), (rx, ry))
        if not who.round_glasses:
            rim = _squared(rim)
        canvas.fill(rim, WHITE, 0.14)
        loop = np.concatenate([rim, rim[:1]])
        center = rim.mean(axis=0)
        canvas.fill(np.concatenate([loop, (center + (loop - center) * 0.86)[::-1]]),
                    who.glasses_tone)  # fmt: skip
        hinge, temple = side * (ex * 1.06 + rx * 0.95), side * (shape.width + 0.02)
        canvas.stroke([(hinge, ey - 0.02), (temple, ey - 0.01)], 0.03, who.glasses_tone)
    gap = max(ex * 1.06 - rx, 0.01) + 0.015
    canvas.stroke([(-gap, ey), (0, ey - 0.025), (gap, ey)], 0.034, who.glasses_tone)


def _squared(rim: NDArray[np.float64]) -> NDArray[np.float64]:
    center = rim.mean(axis=0)
    radii = np.abs(rim - center).max(axis=0)
    unit = (rim - center) / radii
    return np.asarray(center + np.sign(unit) * np.abs(unit) ** 0.55 * radii, np.float64)
