"""A person to draw: identity by seed, and the signs of age by years."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from export.faces.canvas import colors, mix, outline, rise

GRAY, WHITE, INK, BROWN = colors("d4d3d6 ffffff 2c1a1c 783834")
RED, WARM, GOLD = colors("d8524e fff0e0 f0c868")
_SKINS = colors("ffe2d0 f9d3bb f0c1a2 e2ac88 cc916b b07654 915d42 714734 56372b")
_HAIRS = colors("262124 3a2a26 5c3e2d 7e5234 9c5434 be6c3a d6aa68 b2926c")
_EYES = colors("462e22 603e28 7a5c34 587454 527a9a 687c8a")
_SHIRTS = colors("e26d5c efb155 548e8a 466694 8e6c9e eee4d2 5c7a56 c45c7a 3a425c 8cb2cc")
_TROUSERS = colors("3e4e70 545054 967c60 4a6054 6e4a4e")
_FRAMES = colors("3a3438 8a5438 b04848 465c80")


class Person:
    """Identity, signs of age (0 not begun, 1 complete), proportions and colors.

    Lengths are in units of half a portrait, from the middle of the face; y points down.
    """

    def __init__(self, age_years: float, seed: int) -> None:
        """Makes the person of this seed at this age; raises ValueError outside 0..100 years."""
        if not 0 <= age_years <= 100:
            raise ValueError(f"age_years must be within 0..100; got {age_years}. Give it in years.")
        self.age_years, self.seed, rng = age_years, seed, np.random.default_rng([seed, 1])
        tone = rng.uniform(0, len(_SKINS) - 1)
        dark, self.male = tone > 4, bool(rng.random() < 0.5)
        self.own_skin = mix(_SKINS[int(tone)], _SKINS[int(tone) + 1], tone % 1)
        self.own_hair = rng.choice(_HAIRS[:2] if dark else _HAIRS)
        self.eyes, self.frame = rng.choice(_EYES[:2] if dark else _EYES), rng.choice(_FRAMES)
        self.shirt, self.trousers = rng.choice(_SHIRTS), rng.choice(_TROUSERS)
        style = "short" if self.male else rng.choice(["bob", "long", "bun"])
        self.style = "curly" if rng.random() < (0.5 if dark else 0.2) else style
        self.beard = rng.choice(["", "", "", "stubble", "mustache", "full"]) if self.male else ""
        self.volume, self.smile = rng.random(), rng.uniform(0.1, 1)
        self.fringe = rng.uniform(-0.05, 0.12, 5)
        self.part, self.light, self.stripes = rng.integers(2, size=3)
        self.width, self.jaw = rng.normal(1, 0.035), rng.uniform(-1.3, 0.7) + 0.6 * self.male
        self.eye_size, self.nose = rng.normal(1, 0.06), rng.normal(1, 0.12)
        self.brow_weight = rng.uniform(0.8, 1.3) * (1.15 if self.male else 0.85)
        self.teeth, self.earrings = rng.random() < 0.3, rng.random() < (0.08 if self.male else 0.5)
        self.glasses_from = rng.choice([4, 12, 45, 999], p=[0.05, 0.13, 0.22, 0.6])
        self._set_signs(rng)
        self._set_shape()
        self._set_colors()

    def _set_signs(self, rng: Generator) -> None:
        def clock(spread: float = 0.09) -> float:
            # Every sign has a clock of its own, so that none of them gives the age away.
            return self.age_years * pace * rng.lognormal(0, spread) + rng.normal(0, 0.4)

        pace, loses_hair = rng.lognormal(0, 0.04), self.male and rng.random() < 0.65
        graying = self.age_years * pace * rng.lognormal(0, 0.12)
        self.gray, self.brow_gray = rise(graying, 37, 68), rise(graying, 46, 80)
        self.receding = rise(clock(0.15), 36, 84) * loses_hair
        self.growth, self.hair = 1 - np.exp(-max(clock(), 0) / 11), rise(clock(), -1, 5)
        self.adult, self.thinning = rise(clock(), 12, 22), rise(clock(), 35, 100)
        self.forehead, self.folds = rise(clock(), 20, 78), rise(clock(), 16, 74)
        self.crows_feet, self.bags = rise(clock(), 26, 76), rise(clock(), 26, 84)
        self.hooding, self.sagging = rise(clock(), 34, 92), rise(clock(), 36, 94)
        self.spots, self.rough = rise(clock(), 46, 94), rise(clock(), 28, 92)
        self.thin_lips, self.stoop = rise(clock(), 22, 90), rise(clock(), 58, 96)

    def _set_shape(self) -> None:
        g, sag, wide = self.growth, self.sagging, self.width
        self.chin, self.cheek = mix(0.52, 0.69, g), wide * mix(0.54, 0.445, g)
        jaw = wide * (mix(0.45, 0.345, g) + 0.03 * self.jaw * g + 0.05 * sag)
        self.face = outline([
            (0, -0.66), (wide * 0.27, -0.61), (wide * mix(0.47, 0.43, g), -0.34),
            (self.cheek, mix(0.10, -0.02, g)), (jaw, mix(0.36, 0.37, g) + 0.06 * sag),
            (wide * (mix(0.21, 0.15, g) + 0.025 * self.jaw * g), self.chin - 0.06), (0, self.chin),
        ])  # fmt: skip
        self.eye_x, self.eye_y = wide * mix(0.225, 0.19, g), mix(0.14, -0.04, g)
        self.eye_rx = self.eye_size * mix(0.112, 0.086, g)
        self.eye_ry = self.eye_size * mix(0.112, 0.055, g)
        self.nose_y = mix(0.245, 0.2, g) + 0.02 * sag
        self.mouth_y = mix(0.375, 0.4, g) + 0.015 * sag
        self.shoulder = mix(0.56, mix(0.68, 1.0 if self.male else 0.82, self.adult), g)
        self.shoulder_y = mix(0.72, 0.83, g) - 0.1 * self.stoop
        # Drawing manuals count 4 heads to a toddler's body and 7.5 to an adult's.
        self.feet_y = -0.69 + 1.35 * (mix(3.7, 7.5, g) - 0.5 * self.stoop)
        self.hip, self.hip_y = self.shoulder * 0.74, mix(self.shoulder_y, self.feet_y, 0.42)

    def _set_colors(self) -> None:
        skin = self.skin = mix(self.own_skin, GRAY, 0.12 * self.rough)
        self.shade, self.glow = mix(skin, BROWN, 0.28), mix(skin, WARM, 0.45)
        self.line = mix(mix(skin, BROWN, 0.6), INK, 0.3)
        self.wrinkle = mix(self.shade, self.line, 0.65)
        self.blush, self.lip = mix(skin, RED, 0.4), mix(skin, RED, 0.5 - 0.17 * self.thin_lips)
        own = mix(self.own_hair, GOLD, 0.2 * (1 - self.growth))
        self.tone = mix(own, GRAY, 0.92 * self.gray)
        self.hair_shade, self.shine = mix(self.tone, INK, 0.25), mix(self.tone, WARM, 0.25)
        self.brow = mix(mix(self.own_hair, INK, 0.3), GRAY, 0.85 * self.brow_gray)
