"""Who is drawn: an identity from a seed, and the signs of age it shows at an age.

Every sign follows its own, identity-dependent clock, so faces of neighboring ages overlap and no
single sign gives the age away.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator

Color: TypeAlias = tuple[float, float, float]
"""RGB, each channel 0..255."""

HairStyle: TypeAlias = Literal["short", "parted", "fringe", "curly", "afro", "bob", "long", "bun"]
Beard: TypeAlias = Literal["none", "stubble", "mustache", "goatee", "full"]
Collar: TypeAlias = Literal["crew", "shirt", "stripes", "hood"]

SKIN_TONES: tuple[Color, ...] = (
    (255, 226, 208), (249, 211, 187), (240, 193, 162), (226, 172, 136), (204, 145, 107),
    (176, 118, 84), (145, 93, 66), (113, 71, 52), (86, 55, 43),
)  # fmt: skip
HAIR_TONES: tuple[Color, ...] = (
    (38, 33, 36), (58, 42, 38), (92, 62, 45), (126, 82, 52), (156, 84, 52), (190, 108, 58),
    (214, 170, 104), (178, 146, 108),
)  # fmt: skip
DARK_HAIR_TONES = 2
"""How many of HAIR_TONES, from the first, go with the darker half of SKIN_TONES."""
GRAY_HAIR: Color = (212, 211, 214)
EYE_TONES: tuple[Color, ...] = (
    (70, 46, 34), (96, 62, 40), (122, 92, 52), (88, 116, 84), (82, 122, 154), (104, 124, 138),
)  # fmt: skip
CLOTH_TONES: tuple[Color, ...] = (
    (226, 109, 92), (239, 177, 85), (84, 142, 138), (70, 102, 148), (142, 108, 158),
    (238, 228, 210), (92, 122, 86), (196, 92, 122), (58, 66, 92), (140, 178, 204),
)  # fmt: skip
TROUSER_TONES: tuple[Color, ...] = (
    (62, 78, 112), (84, 80, 84), (150, 124, 96), (74, 96, 84), (110, 74, 78),
)  # fmt: skip
BACKDROPS: tuple[tuple[Color, Color], ...] = (
    ((250, 225, 200), (246, 196, 168)), ((208, 228, 226), (164, 204, 206)),
    ((226, 220, 240), (196, 186, 224)), ((250, 236, 190), (244, 212, 140)),
    ((214, 230, 204), (174, 206, 168)), ((250, 216, 218), (238, 178, 186)),
    ((206, 220, 242), (158, 184, 224)), ((236, 230, 220), (206, 198, 188)),
    ((106, 134, 158), (74, 98, 128)), ((132, 150, 128), (96, 118, 102)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same over a life."""

    skin: Color
    hair: Color
    eyes: Color
    cloth: Color
    trousers: Color
    hair_style: HairStyle
    hair_volume: float
    """0 (flat) to 1 (full)."""
    part_side: float
    """-1 or 1: the side on which the hair is parted."""
    grows_beard: bool
    beard: Beard
    face_width: float
    """Factor on the width of the face, about 1."""
    jaw: float
    """-1 (pointed) to 1 (square)."""
    eye_size: float
    """Factor on the size of the eyes, about 1."""
    brow_weight: float
    nose_width: float
    smile: float
    """0 (serious) to 1 (broad smile)."""
    shows_teeth: bool
    freckles: bool
    earrings: bool
    glasses_from_years: float
    """From this age on glasses are worn; infinite for most."""
    round_glasses: bool
    glasses_tone: Color
    collar: Collar
    skirt: bool


@dataclass(frozen=True, slots=True)
class Signs:
    """How far each sign of age has come, 0 (not begun) to 1 (complete)."""

    growth: float
    """From a baby's proportions to an adult's."""
    hair: float
    """From a baby's wisps to full hair."""
    adulthood: float
    """Beard, brows, shoulders."""
    gray: float
    brow_gray: float
    recession: float
    thinning: float
    forehead_lines: float
    crows_feet: float
    cheek_folds: float
    eye_bags: float
    hooding: float
    sagging: float
    spots: float
    thin_lips: float
    roughness: float
    stoop: float


@dataclass(frozen=True, slots=True)
class Person:
    """An identity at an age."""

    age_years: float
    identity: Identity
    signs: Signs
    seed: int


def person_at(age_years: float, seed: int) -> Person:
    """Returns the person of this seed at this age."""
    return Person(age_years, identity_of(seed), signs_at(age_years, seed), seed)


def mix(first: Color, second: Color, share: float) -> Color:
    """Returns the color `share` (0..1) of the way from the first to the second."""
    r, g, b = (a + (z - a) * share for a, z in zip(first, second, strict=True))
    return r, g, b


def blend(young: float, grown: float, share: float) -> float:
    """Returns the number `share` (0..1) of the way from young to grown."""
    return young + (grown - young) * share


def rise(value: float, start: float, end: float) -> float:
    """Returns 0 before start, 1 after end, and a smooth step between."""
    t = min(max((value - start) / (end - start), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def identity_of(seed: int) -> Identity:
    """Returns the identity of this seed."""
    rng = np.random.default_rng([seed, 1])
    skin_place = rng.uniform(0, len(SKIN_TONES) - 1)
    dark = skin_place > (len(SKIN_TONES) - 1) / 2
    grows_beard = bool(rng.random() < 0.5)
    return Identity(
        skin=_between(SKIN_TONES, skin_place),
        hair=_pick(rng, HAIR_TONES[:DARK_HAIR_TONES] if dark else HAIR_TONES),
        eyes=_pick(rng, EYE_TONES[:2] if dark else EYE_TONES),
        cloth=_pick(rng, CLOTH_TONES),
        trousers=_pick(rng, TROUSER_TONES),
        hair_style=_hair_style(rng, grows_beard=grows_beard, dark=dark),
        hair_volume=rng.uniform(0, 1),
        part_side=rng.choice([-1.0, 1.0]),
        grows_beard=grows_beard,
        beard=_beard(rng, grows_beard=grows_beard),
        face_width=rng.normal(1, 0.035),
        jaw=rng.uniform(-1, 1) + (0.3 if grows_beard else -0.3),
        eye_size=rng.normal(1, 0.06),
        brow_weight=rng.uniform(0.8, 1.3) * (1.15 if grows_beard else 0.85),
        nose_width=rng.normal(1, 0.12),
        smile=rng.uniform(0.1, 1),
        shows_teeth=bool(rng.random() < 0.3),
        freckles=bool(skin_place < 3 and rng.random() < 0.3),
        earrings=bool(rng.random() < (0.08 if grows_beard else 0.5)),
        glasses_from_years=float(rng.choice([4, 12, 45, np.inf], p=[0.05, 0.13, 0.22, 0.6])),
        round_glasses=bool(rng.random() < 0.5),
        glasses_tone=_pick(rng, ((58, 52, 56), (138, 84, 56), (176, 72, 72), (70, 92, 128))),
        collar=rng.choice(["crew", "shirt", "stripes", "hood"]),
        skirt=bool(not grows_beard and rng.random() < 0.5),
    )


def signs_at(age_years: float, seed: int) -> Signs:
    """Returns the signs of age; each runs on a clock that is this identity's own."""
    rng = np.random.default_rng([seed, 2])
    pace = np.exp(rng.normal(0, 0.04) + rng.normal(0, 0.09, size=17))
    clocks = iter(np.clip(age_years * pace + rng.normal(0, 0.4, size=17), 0, None).tolist())
    gray_from = rng.uniform(30, 46)
    loses_hair = identity_of(seed).grows_beard and rng.random() < 0.65
    recession_from = rng.uniform(26, 48)
    gray_clock = next(clocks)
    return Signs(
        gray=rise(gray_clock, gray_from, gray_from + 30),
        brow_gray=rise(gray_clock, gray_from + 8, gray_from + 42),
        recession=rise(next(clocks), recession_from, recession_from + 48) * loses_hair,
        growth=1 - float(np.exp(-next(clocks) / 11)),
        hair=rise(next(clocks), -1, 5),
        adulthood=rise(next(clocks), 12, 22),
        thinning=rise(next(clocks), 35, 100),
        forehead_lines=rise(next(clocks), 20, 78),
        crows_feet=rise(next(clocks), 26, 76),
        cheek_folds=rise(next(clocks), 16, 74),
        eye_bags=rise(next(clocks), 26, 84),
        hooding=rise(next(clocks), 34, 92),
        sagging=rise(next(clocks), 36, 94),
        spots=rise(next(clocks), 46, 94),
        thin_lips=rise(next(clocks), 22, 90),
        roughness=rise(next(clocks), 28, 92),
        stoop=rise(next(clocks), 58, 96),
    )


def _between(tones: tuple[Color, ...], place: float) -> Color:
    index = min(int(place), len(tones) - 2)
    return mix(tones[index], tones[index + 1], place - index)


def _pick(rng: Generator, tones: tuple[Color, ...]) -> Color:
    return tones[int(rng.integers(len(tones)))]


def _hair_style(rng: Generator, *, grows_beard: bool, dark: bool) -> HairStyle:
    styles: list[HairStyle] = (
        ["short", "parted", "fringe", "curly"]
        if grows_beard
        else ["bob", "long", "bun", "fringe", "curly", "long"]
    )
    if dark:
        styles += ["afro", "curly"]
    return styles[int(rng.integers(len(styles)))]


def _beard(rng: Generator, *, grows_beard: bool) -> Beard:
    beards: list[Beard] = ["none", "none", "none", "stubble", "mustache", "goatee", "full"]
    choice = beards[int(rng.integers(len(beards)))]
    return choice if grows_beard else "none"
