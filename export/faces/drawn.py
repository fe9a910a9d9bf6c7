"""Drawn faces whose age is known: what the demo experts are fitted on and shown.

Many gentle signs drive the age (proportions, hair, graying, lines, folds, sagging, spots); identity
and the camera vary freely. The same seed is the same person at every age, in portrait and scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.faces.hair import paint_hair_behind, paint_hair_front
from export.faces.head import SIDES, paint_head, palette_of, shape_of
from export.faces.scene import (
    MAX_TILT_DEGREES,
    Canvas,
    blank_canvas,
    mirrored,
    paint_backdrop,
    photograph,
    placement,
    spline,
)
from export.faces.traits import Color, Person, blend, mix, person_at

REVISION = 1
"""Bumped whenever these faces change."""
MIN_AGE_YEARS, MAX_AGE_YEARS = 0.0, 100.0
MIN_FACE_SIZE = 32
MIN_SCENE_SIZE = 64
HEAD_UNITS = 1.35
"""An adult's head from crown to chin, in units of half a portrait."""
CROWN_Y = -0.69
SCENE_MARGIN_UNITS = 0.45


@dataclass(frozen=True, slots=True)
class DrawnFace:
    """A drawn face and the truth about it."""

    image: NDArray[np.uint8]
    """The portrait, (size, size, 3), RGB."""
    age_years: float


@dataclass(frozen=True, slots=True)
class PersonScene:
    """A person seen whole. Boxes are (x, y, width, height) in pixels, within the image."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB."""
    face_box: tuple[int, int, int, int]
    """Head with hair and collar: what `draw_face` shows."""
    person_box: tuple[int, int, int, int]


def sample_ages(count: int, *, seed: int) -> NDArray[np.float64]:
    """Returns `count` ages in years, one from each of `count` equal strata of 1..90, shuffled."""
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}. Ask for 0 ages or more.")
    rng = np.random.default_rng([seed, 6])
    strata = (np.arange(count) + rng.random(count)) / max(count, 1)
    return rng.permutation(1 + 89 * strata)


def draw_face(age_years: float, *, seed: int, size: int = 96) -> NDArray[np.uint8]:
    """Returns a portrait, uint8 (size, size, 3), RGB: the person of this seed at this age."""
    _check_age(age_years)
    _check_size("size", size, MIN_FACE_SIZE)
    person, rng = person_at(age_years, seed), np.random.default_rng([seed, 5])
    canvas = blank_canvas(size, size, 2)
    paint_backdrop(canvas, rng)
    shift = rng.uniform(-0.04, 0.04, size=2)
    tilt = float(np.clip(rng.normal(0, 4), -MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    middle = ((1 + float(shift[0])) * size / 2, (1.03 + float(shift[1])) * size / 2)
    bust = placement(canvas, middle, rng.uniform(0.92, 1.06) * size / 2, tilt)
    paint_hair_behind(bust, person)
    _paint_bust(bust, person)
    paint_head(bust, person)
    paint_hair_front(bust, person)
    return photograph(canvas, size, size, rng)


def draw_person(age_years: float, *, seed: int, width: int, height: int) -> PersonScene:
    """Returns the person of this seed at this age standing in a scene, with boxes."""
    _check_age(age_years)
    _check_size("width", width, MIN_SCENE_SIZE)
    _check_size("height", height, MIN_SCENE_SIZE)
    person, rng = person_at(age_years, seed), np.random.default_rng([seed, 7])
    canvas = blank_canvas(width, height, 2)
    body = _body_of(person)
    tall, wide = body.feet_y + 1.0, 2 * (body.half_width + SCENE_MARGIN_UNITS)
    unit = min(rng.uniform(0.86, 0.95) * height / tall, width / wide)
    slack = (width - unit * wide) / 2
    x = width / 2 + slack * rng.uniform(-0.6, 0.6) - body.lean / 2 * unit
    y = height - (body.feet_y + 0.25) * unit * rng.uniform(1.0, 1.02)
    paint_backdrop(canvas, rng)
    _paint_floor(canvas, width, height, y + (body.feet_y - 0.5) * unit)
    figure = placement(canvas, (x, y), unit)
    head_at = (x + body.lean * unit, y + body.drop * unit)
    tilt = float(np.clip(rng.normal(0, 3), -MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    head = placement(canvas, head_at, unit, tilt)
    paint_hair_behind(head, person)
    _paint_body(figure, person, body)
    paint_head(head, person)
    paint_hair_front(head, person)
    face = (head_at[0] - unit, head_at[1] - unit, head_at[0] + unit, head_at[1] + unit)
    reach, sole = body.half_width * unit, y + (body.feet_y + 0.2) * unit
    whole = (min(x - reach, face[0]), face[1], max(x + reach, face[2]), sole)
    return PersonScene(
        photograph(canvas, width, height, rng),
        _pixel_box(face, width, height),
        _pixel_box(whole, width, height),
    )


def drawn_faces(count: int, *, seed: int, size: int = 96) -> Iterator[DrawnFace]:
    """Yields `count` different people of all ages."""
    for index, age in enumerate(sample_ages(count, seed=seed).tolist()):
        one = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        yield DrawnFace(draw_face(age, seed=one, size=size), age)


def _check_age(age_years: float) -> None:
    if not MIN_AGE_YEARS <= age_years <= MAX_AGE_YEARS:
        raise ValueError(
            f"age_years must lie within {MIN_AGE_YEARS:g}..{MAX_AGE_YEARS:g}; got {age_years}. "
            "Choose an age in years within that range."
        )


def _check_size(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(
            f"{name} must be at least {least} pixels for a face to be seen; got {value}. "
            f"Ask for {name}={least} or more."
        )


def _pixel_box(
    corners: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    left, top = max(int(corners[0]), 0), max(int(corners[1]), 0)
    right, bottom = min(int(np.ceil(corners[2])), width), min(int(np.ceil(corners[3])), height)
    return left, top, right - left, bottom - top


@dataclass(frozen=True, slots=True)
class _Body:
    """Proportions of a standing body, in head units with the upright head at the origin."""

    shoulder_y: float
    shoulder_half: float
    hip_y: float
    hip_half: float
    feet_y: float
    lean: float
    """How far the head is carried forward (to one side in the picture)."""
    drop: float
    half_width: float


def _shoulders(person: Person) -> tuple[float, float]:
    who, signs = person.identity, person.signs
    adult = 1.0 if who.grows_beard else 0.82
    half = blend(0.56, blend(0.68, adult, signs.adulthood), signs.growth)
    return half, blend(0.72, 0.83, signs.growth) - 0.07 * signs.stoop


def _body_of(person: Person) -> _Body:
    signs = person.signs
    # Drawing manuals count 4 heads to a toddler's body and 7.5 to an adult's.
    heads = blend(3.7, 7.5, signs.growth) - 0.4 * signs.stoop
    feet = CROWN_Y + heads * HEAD_UNITS
    half, shoulder = _shoulders(person)
    hip = shoulder + (feet - shoulder) * 0.42
    lean = person.identity.part_side * 0.45 * signs.stoop
    return _Body(shoulder, half, hip, half * 0.74, feet, lean, 0.32 * signs.stoop, half + 0.5)


def _paint_neck(canvas: Canvas, person: Person, base_y: float) -> None:
    colors, chin = palette_of(person), shape_of(person).chin_y
    g, burly = person.signs.growth, person.identity.grows_beard * person.signs.adulthood
    half = blend(0.19, 0.2 + 0.06 * burly, g)
    neck = [(-half, 0.3), (half, 0.3), (half + 0.02, base_y), (0, base_y + 0.14),
            (-half - 0.02, base_y)]  # fmt: skip
    canvas.fill(neck, mix(colors.skin, colors.shade, 0.3))
    canvas.ellipse((0, chin - 0.02), (half, 0.14), colors.shade, 0.8, soft=0.02,
                   clip=canvas.mask(neck))  # fmt: skip
    for y in (0.09, 0.15):
        crease = [(-half * 0.7, chin + y), (0, chin + y + 0.02), (half * 0.7, chin + y)]
        canvas.stroke(crease, 0.016, colors.line, 0.45 * person.signs.sagging)


def _paint_bust(canvas: Canvas, person: Person) -> None:
    half, y = _shoulders(person)
    _paint_neck(canvas, person, y)
    shirt = [(0, y + 0.1), (0.2, y - 0.03), (half * 0.75, y + 0.06), (half, y + 0.26),
             (half + 0.06, 1.9), (0, 1.9)]  # fmt: skip
    _paint_garment(canvas, person, spline(mirrored(shirt), closed=True), y)


def _paint_garment(canvas: Canvas, person: Person, outline: NDArray[np.float64], y: float) -> None:
    who = person.identity
    deep, pale = mix(who.cloth, (40, 30, 50), 0.25), mix(who.cloth, (255, 255, 255), 0.55)
    canvas.fill(outline, who.cloth)
    neckline = [(-0.22, y - 0.02), (-0.12, y + 0.08), (0, y + 0.11), (0.12, y + 0.08),
                (0.22, y - 0.02)]  # fmt: skip
    if who.collar == "stripes":
        clip = canvas.mask(outline)
        for at in np.arange(y + 0.2, float(outline[:, 1].max()), 0.2):
            stripe = [(-1.2, at), (1.2, at), (1.2, at + 0.07), (-1.2, at + 0.07)]
            canvas.fill(stripe, pale, 0.9, clip=clip)
    if who.collar == "shirt":
        for side in SIDES:
            flap = [(side * 0.25, y - 0.07), (0, y + 0.13), (side * 0.16, y + 0.24),
                    (side * 0.3, y + 0.06)]  # fmt: skip
            canvas.fill(flap, pale)
        canvas.stroke([(0, y + 0.14), (0, y + 0.9)], 0.02, deep)
        return
    canvas.stroke(neckline, 0.12 if who.collar == "hood" else 0.06, deep)
    if who.collar == "hood":
        for side in SIDES:
            canvas.stroke([(side * 0.1, y + 0.12), (side * 0.11, y + 0.34)], 0.03, pale)


def _paint_floor(canvas: Canvas, width: int, height: int, y: float) -> None:
    floor = [(0, y), (width, y), (width, height), (0, height)]
    canvas.fill(floor, (120, 92, 84), 0.22)


def _paint_body(canvas: Canvas, person: Person, body: _Body) -> None:
    skin = palette_of(person).skin
    hip, feet = body.hip_half, body.feet_y
    lean = body.lean * 0.7
    canvas.ellipse((0, feet + 0.08), (hip * 1.9, 0.13), (50, 36, 50), 0.35, soft=0.05)
    _paint_legs(canvas, person, body)
    shoulder = body.shoulder_y + body.drop * 0.8
    _paint_neck(placement(canvas, (body.lean, body.drop), 1), person, body.shoulder_y)
    shirt = _shirt_outline(body, shoulder, lean)
    _paint_garment(placement(canvas, (lean, 0), 1), person, shirt, shoulder)
    for side in SIDES:
        _paint_arm(canvas, person, body, side)
    if person.signs.stoop > 0.55 and person.seed % 2:
        _paint_cane(canvas, body, skin)


def _shirt_outline(body: _Body, shoulder_y: float, lean: float) -> NDArray[np.float64]:
    half, waist_y = body.shoulder_half, (shoulder_y + body.hip_y) / 2
    top = [(0.2, shoulder_y - 0.03), (half * 0.68, shoulder_y + 0.05),
           (half * 0.9, shoulder_y + 0.2), (half * 0.88 - lean * 0.3, waist_y)]  # fmt: skip
    right = [*top, (body.hip_half * 1.04 - lean, body.hip_y)]
    left = [*((-x, y) for x, y in top[:-1]), (-half * 0.88 - lean * 0.3, waist_y),
            (-body.hip_half * 1.04 - lean, body.hip_y)]  # fmt: skip
    return np.concatenate([spline(right, closed=False), spline(left, closed=False)[::-1]])


def _paint_legs(canvas: Canvas, person: Person, body: _Body) -> None:
    who, hip, feet = person.identity, body.hip_half, body.feet_y
    skirt = who.skirt and who.hair_style != "afro"
    tone = palette_of(person).skin if skirt else who.trousers
    thick = hip * 0.86
    for side in SIDES:
        shoe = spline([(side * 0.12, feet - 0.1), (side * (hip * 0.55 + 0.28), feet - 0.04),
                       (side * (hip * 0.55 + 0.3), feet + 0.1), (side * 0.12, feet + 0.1)],
                      closed=True)  # fmt: skip
        leg = [(side * hip * 0.52, body.hip_y), (side * hip * 0.56, (body.hip_y + feet) / 2),
               (side * hip * 0.55, feet - 0.1)]  # fmt: skip
        canvas.limb(leg, (thick, thick * (0.45 if skirt else 0.68)), tone)
        canvas.fill(shoe, mix(who.cloth, (50, 40, 52), 0.7))
    if skirt:
        hem = body.hip_y + (feet - body.hip_y) * 0.5
        cloth = [(-hip, body.hip_y - 0.3), (hip, body.hip_y - 0.3), (hip * 1.45, hem),
                 (-hip * 1.45, hem)]  # fmt: skip
        canvas.fill(cloth, who.trousers)


def _paint_arm(canvas: Canvas, person: Person, body: _Body, side: float) -> None:
    who, thick = person.identity, 0.25 + 0.09 * person.signs.growth
    shoulder = (body.lean * 0.7 + side * (body.shoulder_half * 0.99 - thick / 2),
                body.shoulder_y + body.drop * 0.8 + 0.06 + thick / 2)  # fmt: skip
    hand = (side * (body.shoulder_half + 0.16), body.hip_y + 0.25)
    elbow = (side * (body.shoulder_half + 0.14) + body.lean * 0.3, (shoulder[1] + hand[1]) / 2)
    sleeve: Color = mix(who.cloth, (40, 30, 50), 0.12)
    canvas.ellipse(hand, (thick * 0.5, thick * 0.56), palette_of(person).skin)
    canvas.limb([shoulder, elbow, (hand[0], hand[1] - 0.12)], (thick, thick * 0.8), sleeve)


def _paint_cane(canvas: Canvas, body: _Body, skin: Color) -> None:
    side = 1.0 if body.lean >= 0 else -1.0
    x, top = side * (body.shoulder_half + 0.2), body.hip_y + 0.18
    wood: Color = (112, 74, 50)
    canvas.limb([(x, top), (x + side * 0.1, body.feet_y + 0.05)], (0.1, 0.08), wood)
    canvas.ellipse((x, top + 0.08), (0.17, 0.17), skin)
