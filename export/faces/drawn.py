"""Drawn faces of known age, which the demo experts are fitted on and shown.

Many gentle signs carry the age (proportions, graying and receding hair, lines, folds, sagging,
spots); identity, clothes and camera vary freely. A seed is the same person at every age, in
portraits and in scenes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from export.faces.canvas import Canvas, curve, ellipse, mix, outline, rise
from export.faces.person import BROWN, GOLD, INK, RED, WARM, WHITE, Person

REVISION = 1
"""Bumped whenever these faces change."""
MIN_FACE_SIZE, MIN_SCENE_SIZE = 32, 64


@dataclass(frozen=True, slots=True)
class DrawnFace:
    """A drawn face and its true age."""

    image: NDArray[np.uint8]
    """The portrait, (size, size, 3), RGB."""
    age_years: float


@dataclass(frozen=True, slots=True)
class PersonScene:
    """A whole person in a scene. Boxes are (x, y, width, height) in pixels, within the image."""

    image: NDArray[np.uint8]
    """(height, width, 3), RGB."""
    face_box: tuple[int, int, int, int]
    """Head with hair and collar, as `draw_face` shows it."""
    person_box: tuple[int, int, int, int]


def sample_ages(count: int, *, seed: int) -> NDArray[np.float64]:
    """Returns `count` ages in years, one from each of `count` equal strata of 1..90, shuffled."""
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}. Use 0 or more.")
    rng = np.random.default_rng([seed, 6])
    strata = (np.arange(count) + rng.random(count)) / max(count, 1)
    return rng.permutation(1 + 89 * strata)


def drawn_faces(count: int, *, seed: int, size: int = 96) -> Iterator[DrawnFace]:
    """Yields `count` different people of all ages."""
    for index, age in enumerate(sample_ages(count, seed=seed).tolist()):
        one = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        yield DrawnFace(draw_face(age, seed=one, size=size), age)


def draw_face(age_years: float, *, seed: int, size: int = 96) -> NDArray[np.uint8]:
    """Returns a portrait, uint8 (size, size, 3), RGB, of the person of this seed at this age."""
    _check_size("size", size, MIN_FACE_SIZE)
    person, rng = Person(age_years, seed), np.random.default_rng([seed, 5])
    canvas = Canvas.blank(size, size)
    canvas.paint_backdrop(rng)
    middle = (np.array([1, 1.03]) + rng.uniform(-0.04, 0.04, size=2)) * (size / 2)
    _paint_person(canvas.placed(middle, rng.uniform(0.92, 1.06) * size / 2), person, rng)
    return canvas.photograph(rng)


def draw_person(age_years: float, *, seed: int, width: int, height: int) -> PersonScene:
    """Returns the person of this seed at this age standing in a scene, with boxes."""
    _check_size("width", width, MIN_SCENE_SIZE)
    _check_size("height", height, MIN_SCENE_SIZE)
    p, rng = Person(age_years, seed), np.random.default_rng([seed, 7])
    canvas, reach, soles = Canvas.blank(width, height), p.shoulder + 0.5, p.feet_y + 0.2
    unit = min(rng.uniform(0.86, 0.95) * height / (soles + 0.8), width / (2 * reach + 0.9))
    x = width / 2 + (width / 2 - unit * (reach + 0.45)) * rng.uniform(-0.6, 0.6)
    y = height - (soles + 0.05) * unit * rng.uniform(1.0, 1.02)
    canvas.paint_backdrop(rng)
    floor = y + (p.feet_y - 0.5) * unit
    canvas.fill([(0, floor), (width, floor), (width, height), (0, height)], BROWN, 0.22)
    _paint_person(canvas.placed((x, y), unit), p, rng)

    def box(half: float, bottom: float) -> tuple[int, int, int, int]:
        left, top = max(int(x - half * unit), 0), max(int(y - unit), 0)
        right, low = int(np.ceil(x + half * unit)), int(np.ceil(y + bottom * unit))
        return left, top, min(right, width) - left, min(low, height) - top

    return PersonScene(canvas.photograph(rng), box(1.0, 1.0), box(reach, soles))


def _check_size(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(
            f"{name} must be at least {least} pixels; got {value}. Use {name}={least}."
        )


# Below, `c` is a canvas with the middle of the face as its origin and `p` the person.


def _paint_person(canvas: Canvas, p: Person, rng: Generator) -> None:
    head = canvas.placed((0, 0), 1, float(np.clip(rng.normal(0, 4), -12, 12)))
    _paint_hair_behind(head, p)
    _paint_body(canvas, p)
    _paint_head(head, p)
    _paint_marks(head.clipped(p.face), p)
    _paint_mouth(head, p)
    for side in head.sides():
        _paint_eye(side, p)
        if p.age_years >= p.glasses_from:
            _paint_lens(side, p)
    _paint_hair(head.sides()[p.part], p)


def _paint_body(c: Canvas, p: Person) -> None:
    y, half, hip, hip_y, feet = p.shoulder_y, p.shoulder, p.hip, p.hip_y, p.feet_y
    waist, arm, dark = mix(y, hip_y, 0.5), 0.25 + 0.09 * p.growth, mix(p.shirt, INK, 0.12)
    neck = mix(0.19, 0.2 + 0.06 * p.male * p.adult, p.growth)
    c.fill(ellipse(0, feet + 0.08, hip * 1.9, 0.13), INK, 0.35, soft=0.05)
    for side in c.sides():
        leg = [(hip * 0.52, hip_y - 0.1), (hip * 0.55, feet)]
        side.stroke(leg, (hip * 0.86, hip * 0.5), p.trousers)
        side.fill(ellipse(hip * 0.65, feet + 0.02, hip * 0.4, 0.11), mix(p.shirt, INK, 0.7))
    c.stroke([(0, 0.3), (0, y + 0.1)], (neck * 2, neck * 2), mix(p.skin, p.shade, 0.3))
    c.fill(ellipse(0, p.chin - 0.02, neck, 0.14), p.shade, 0.8, soft=0.02)
    shirt = outline([(0, y + 0.1), (0.2, y - 0.03), (half * 0.75, y + 0.06), (half, y + 0.3),
                     (half * 0.88, waist), (hip, hip_y), (0, hip_y)])  # fmt: skip
    c.fill(shirt, p.shirt)
    cloth = c.clipped(shirt)
    for at in np.arange(y + 0.2, hip_y, 0.2) if p.stripes else ():
        cloth.stroke([(-2, at), (2, at)], (0.07, 0.07), mix(p.shirt, WHITE, 0.5))
    for side in c.sides():
        elbow, hand, top = (half + 0.12, waist), (half + 0.15, hip_y + 0.2), (half * 0.84, y + 0.24)
        side.fill(ellipse(hand[0], hand[1] + 0.06, arm * 0.5, arm * 0.6), p.skin)
        side.stroke([top, elbow, hand], (arm * 1.05, arm * 0.8), dark)
        side.fill(ellipse(*top, arm * 0.53), dark)
    collar = [(-0.22, y - 0.02), (-0.12, y + 0.08), (0.12, y + 0.08), (0.22, y - 0.02)]
    c.stroke(collar, 0.06, mix(p.shirt, INK, 0.25))


def _paint_head(c: Canvas, p: Person) -> None:
    ear, ear_y, young = 0.11 + 0.035 * rise(p.age_years, 10, 100), p.eye_y + 0.08, 1 - p.growth
    for side in c.sides():
        side.fill(ellipse(p.cheek + 0.015, ear_y, 0.07, ear), mix(p.skin, p.shade, 0.35))
        side.fill(ellipse(p.cheek + 0.015, ear_y + 0.01, 0.035, ear * 0.6), p.shade)
        side.fill(ellipse(p.cheek + 0.03, ear_y + ear, 0.028), GOLD, p.earrings * p.adult)
    c.fill(p.face, p.skin)
    lit = c.clipped(p.face).sides()[p.light]
    lit.fill(ellipse(-0.52, 0.2, 0.2, 0.62), p.shade, 0.5, soft=0.07)
    lit.fill(ellipse(0.1, -0.32, 0.22, 0.1), p.glow, 0.5, soft=0.06)
    for side in lit.sides():
        cheek = ellipse(p.cheek * 0.64, 0.2 + 0.1 * young, 0.1 + 0.03 * young, 0.08 + 0.02 * young)
        side.fill(cheek, p.blush, 0.28 + 0.32 * young, soft=0.03)
        jowl = ellipse(0.27, 0.5 + 0.03 * p.sagging, 0.07, 0.09)
        side.fill(jowl, p.shade, 0.55 * p.sagging, soft=0.03)
    y, wide = p.nose_y, p.nose * (mix(0.045, 0.078, p.growth) + 0.012 * p.sagging)
    tip = [(wide, y - 0.03), (wide * 0.8, y + 0.018), (0, y + 0.035)]
    bridge = [(wide * 0.3, p.eye_y + 0.06), (wide * 0.75, y - 0.08), (wide * 0.9, y), (0, y)]
    c.fill(curve(bridge, closed=True), p.shade, 0.45 * p.growth, soft=0.012)
    c.stroke([*((-x, v) for x, v in tip[:2]), *tip[::-1]], 0.026, p.line, 0.8)


def _paint_marks(c: Canvas, p: Person) -> None:
    """Paints age spots, blotches and wrinkles."""
    rng, x, nose, mouth = np.random.default_rng([p.seed, 4]), p.eye_x, p.nose_y, p.mouth_y
    for rank, (u, v) in enumerate(rng.uniform((-0.42, -0.5), (0.42, 0.5), size=(12, 2))):
        size, alpha = 0.018 + 0.002 * (rank * 7 % 12), 0.4 * rise(p.spots * 12, rank, rank + 2)
        c.fill(ellipse(u, v, size, size * 0.8), p.line, alpha, soft=0.006)
        c.fill(ellipse(-u, -v, 0.07, 0.045), p.shade, 0.38 * p.rough, soft=0.02)
    for rank, y in enumerate((-0.30, -0.375, -0.235, -0.44)):
        knots = np.array([(-1, 0.012), (-0.5, -0.008), (0, 0.0), (0.5, -0.008), (1, 0.012)])
        alpha = 0.75 * rise(p.forehead * 4, rank * 0.7, rank * 0.7 + 2)
        c.stroke(knots * (0.25 - 0.035 * rank, 1) + (0, y), 0.02, p.wrinkle, alpha)
    corner, low = x + p.eye_rx + 0.025, p.eye_y + p.eye_ry * 1.15
    lines = [
        ([(0.095, nose - 0.01), (0.165, nose + 0.07), (0.185, mouth + 0.02)], 0.026, p.folds),
        ([(0.15, mouth + 0.05), (0.165, mouth + 0.14)], 0.022, p.sagging / 2),
        ([(x - 0.07, low + 0.01), (x, low + 0.055), (x + 0.07, low + 0.015)], 0.018, p.bags * 0.9),
    ]
    for rank, lift in enumerate((0.005, -0.045, 0.05)):
        foot = [(corner, p.eye_y + lift / 2), (corner + 0.085, p.eye_y + lift * 2)]
        lines.append((foot, 0.018, rise(p.crows_feet * 3, rank * 0.6, rank * 0.6 + 1.8)))
    for side in c.sides():
        bag = ellipse(x, low + 0.012, p.eye_rx * 0.9, 0.04)
        side.fill(bag, p.shade, 0.6 * p.bags, soft=0.012)
        for points, width, share in lines:
            side.stroke(points, width, p.wrinkle, 0.75 * share)


def _paint_eye(c: Canvas, p: Person) -> None:
    x, y, rx, ry, hood = p.eye_x, p.eye_y, p.eye_rx, p.eye_ry, p.hooding
    top, iris = y - ry * (1 - 0.5 * hood), mix(0.088, 0.054, p.growth) * p.eye_size
    lid = np.array([(x - rx, y + 0.012), (x - rx * 0.5, top + ry * 0.2), (x, top),
                    (x + rx * 0.6, top + ry * (0.28 + 0.2 * hood)),
                    (x + rx, y + 0.02 * hood)])  # fmt: skip
    opening = np.concatenate([curve(lid), curve([lid[-1], (x, y + ry * 0.95), lid[0]])])
    crease = lid - (0, 0.035 + 0.02 * hood)
    c.stroke(crease, 0.014 + 0.012 * hood, p.line, 0.35 + 0.4 * hood)
    eye = c.clipped(opening)
    eye.fill(opening, mix(WHITE, WARM, p.rough))
    eye.fill(ellipse(x, y + 0.004, iris), p.eyes)
    eye.fill(ellipse(x, y + 0.004, iris * 0.55), INK)
    eye.fill(ellipse(x - 0.015, y - 0.022, iris * 0.28), WHITE)
    c.stroke(lid, 0.03 if p.male else 0.04, INK)
    brow = y - ry - 0.09 + 0.015 * hood
    arch = [(x - rx * 1.05, brow + 0.015), (x + rx * 0.3, brow - 0.022),
            (x + rx * 1.3, brow + 0.022 + 0.02 * hood)]  # fmt: skip
    weight = 0.042 * p.brow_weight * mix(0.6, 1, p.adult)
    c.stroke(arch, weight, p.brow, mix(0.45, 0.95, p.hair))


def _paint_lens(c: Canvas, p: Person) -> None:
    x, y = p.eye_x * 1.06, p.eye_y + 0.01
    rim, inside = ellipse(x, y, 0.152, 0.13), ellipse(x, y, 0.131, 0.11)
    c.fill(rim, WHITE, 0.14)
    c.fill(np.concatenate([rim, inside[::-1]]), p.frame)
    c.stroke([(x + 0.145, y - 0.03), (p.cheek + 0.02, y - 0.02)], 0.03, p.frame)
    c.stroke([(max(x - 0.152, 0.01) + 0.015, y - 0.01), (0, y - 0.035)], (0.03, 0.02), p.frame)


def _paint_mouth(c: Canvas, p: Person) -> None:
    y, chin, cheek, corner = p.mouth_y, p.chin, p.cheek, p.mouth_y - 0.012 - 0.045 * p.smile
    if p.beard in ("full", "stubble"):
        beard = [(0, y - 0.06), (0.13, y - 0.075), (0.21, y + 0.02), (cheek * 0.8, y - 0.12),
                 (cheek * 0.97, 0.02), (cheek * 1.01, 0.16), (cheek * 0.86, 0.42), (0.19, chin),
                 (0, chin + 0.05)]  # fmt: skip
        c.fill(outline(beard), p.tone, p.adult * (0.95 if p.beard == "full" else 0.25), soft=0.006)
    if p.beard == "mustache":
        beard = [(0, y - 0.085), (0.08, y - 0.095), (0.19, corner), (0.08, y - 0.02), (0, y - 0.03)]
        c.fill(outline(beard), p.tone, 0.95 * p.adult, soft=0.004)
    wide = mix(0.095, 0.155, p.growth) * (0.9 + 0.2 * p.smile)
    plump = mix(0.8, 1.0, p.growth) * (1 - 0.7 * p.thin_lips)
    teeth = 0.05 * (p.teeth and p.age_years > 2)
    low, line = y + teeth + 0.045 * plump, [(0, y + 0.012), (wide * 0.5, y), (wide, corner)]
    c.fill(outline([(0, y + 0.005), (wide, corner), (wide * 0.5, low), (0, low)]), p.lip)
    upper = [(0, y - 0.025 * plump), (0.04, y - 0.035 * plump), (wide, corner), (0, y + 0.015)]
    c.fill(outline(upper), mix(p.lip, p.line, 0.2))
    if teeth:
        c.fill(outline([*line, (wide * 0.5, y + teeth), (0, y + teeth + 0.014)]), WHITE)
    c.stroke([*((-x, v) for x, v in line[:0:-1]), *line], 0.022, mix(p.line, RED, 0.2))


def _paint_hair_behind(c: Canvas, p: Person) -> None:
    full = p.hair * (1 - 0.3 * p.thinning)
    low = {"long": 0.98, "bob": 0.5}.get(p.style, 0.0) * full * (1 - 0.35 * p.gray)
    wide = p.cheek + 0.04 + 0.07 * p.volume * full
    if low > 0.15:
        locks = [(0, -0.7), (wide * 0.7, -0.62), (wide, -0.2), (wide + 0.03, low * 0.6),
                 (wide * 0.86, low), (0, low + 0.02)]  # fmt: skip
        c.fill(outline(locks), p.hair_shade)
    if p.style == "bun":
        c.fill(ellipse(0, -0.74, 0.22 * full, 0.2 * full), p.hair_shade)
        c.fill(ellipse(-0.02, -0.76, 0.18 * full, 0.15 * full), p.tone)
    if p.style == "curly":
        radius = 0.46 + (0.05 + 0.13 * p.volume) * full * (1 - p.receding)
        c.fill(ellipse(0, -0.2, radius), p.hair_shade, rise(full, 0.2, 0.8))


def _paint_hair(c: Canvas, p: Person) -> None:
    full, wide, bare = p.hair * (1 - 0.4 * p.thinning), p.cheek, p.receding
    volume = 0.015 + (0.03 + 0.07 * p.volume) * full * (1 - 0.7 * bare)
    density = mix(0.4, 1.0, p.hair) * (1 - 0.3 * p.thinning) * (1 - rise(bare, 0.35, 0.95))
    edge, top = wide + 0.02 + volume * 0.5, -0.61 - volume
    crown = np.array([(edge, -0.1), (edge * 0.93, -0.36 - volume * 0.5), (0.29, top)])
    crown = np.concatenate([crown * (-1, 1), [(0, top - 0.065)], crown[::-1]])
    line = mix(-0.46, -0.40, p.growth) - 0.2 * bare + p.fringe * (1 - bare) * mix(2, 1, p.growth)
    temple = np.array([(wide * 0.93, -0.1), (wide * 0.88, -0.25)])
    front = np.column_stack([np.linspace(0.33, -0.33, 5), line])
    cap = np.concatenate([crown, temple, front, temple[::-1] * (-1, 1)])
    c.fill(curve(cap, closed=True), p.tone, min(density * 1.1, 1.0))
    for side in c.sides():
        if p.style in ("bob", "long") and p.hair > 0.3:
            low = 0.34 * p.hair - 0.1 * p.gray
            lock = [(0, top - 0.05), (0.3, top + 0.01), (edge + 0.01, -0.25), (edge + 0.05, 0.1),
                    (wide + 0.02, low), (wide * 0.93, low - 0.12), (wide * 0.9, -0.16),
                    (0.27, -0.38), (0, -0.56)]  # fmt: skip
            side.fill(curve(lock, closed=True), p.tone)
            side.stroke([(0.1, -0.6), (0.33, -0.44), (wide * 0.97, -0.12)], 0.05, p.shine, 0.5)
        else:
            tuft = [(0.97 * wide, 0.03), (edge, -0.1), (edge - 0.01, -0.33), (0.86 * wide, -0.42),
                    (0.9 * wide, -0.2)]  # fmt: skip
            side.fill(curve(tuft, closed=True), p.tone, min(0.25 + p.hair, 1.0))
    if p.style != "curly":
        c.stroke([(-0.32, -0.5), (-0.12, -0.6), (0.1, -0.6)], 0.06, p.shine, 0.6 * density * p.hair)
        return
    rng, ring, alpha = np.random.default_rng([p.seed, 8]), curve(crown)[2::5], full * density
    for outward in (0.15 * p.volume * (1 - bare), 0.0, -0.1, -0.2):
        for x, y in ring * (1 + outward) + rng.normal(0, 0.012, ring.shape):
            color = mix(p.tone, p.hair_shade, rng.uniform(0, 0.6))
            c.fill(ellipse(x, y, 0.04 + 0.05 * full), color, rise(alpha, 0.35, 0.55))
