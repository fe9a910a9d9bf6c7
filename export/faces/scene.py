"""The stage of the drawn faces: a canvas with soft shapes, a backdrop, and a camera."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from export.faces.traits import BACKDROPS, Color, mix

SUBPIXEL_BITS = 4
"""OpenCV draws vertices in sixteenths of a pixel."""
SPLINE_STEPS = 8
MAX_TILT_DEGREES = 12.0
FAINTEST = 0.01
"""Anything more transparent is not drawn."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A supersampled picture that is painted in units of its own.

    `pixels` is uint8 (H, W, 3), RGB; `to_pixels` is the float64 (2, 3) affine map from units to
    pixels.
    """

    pixels: NDArray[np.uint8]
    to_pixels: NDArray[np.float64]

    @property
    def scale(self) -> float:
        """Pixels per unit."""
        return float(np.hypot(self.to_pixels[0, 0], self.to_pixels[1, 0]))

    def placed(self, to_pixels: NDArray[np.float64]) -> "Canvas":
        """Returns the same picture, painted in other units."""
        return Canvas(self.pixels, to_pixels)

    def mask(self, points: ArrayLike) -> NDArray[np.uint8]:
        """Returns a shape as coverage, uint8 (H, W), to clip later shapes with."""
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        _fill_polygon(mask, self._vertices(points), (255,))
        return mask

    def fill(
        self,
        points: ArrayLike,
        color: Color,
        alpha: float = 1.0,
        *,
        soft: float = 0.0,
        clip: NDArray[np.uint8] | None = None,
    ) -> None:
        """Fills the polygon (N, 2), with edges blurred over `soft` units."""
        if alpha < FAINTEST:
            return
        vertices = self._vertices(points)
        if alpha >= 1 and not soft and clip is None:
            _fill_polygon(self.pixels, vertices, color)
            return
        sigma = soft * self.scale
        margin = 2 + 2.5 * sigma
        (left, top), (right, bottom) = vertices.min(axis=0) - margin, vertices.max(axis=0) + margin
        height, width = self.pixels.shape[:2]
        x0, y0 = max(int(left), 0), max(int(top), 0)
        x1, y1 = min(int(right) + 1, width), min(int(bottom) + 1, height)
        if x1 <= x0 or y1 <= y0:
            return
        cover = np.zeros((y1 - y0, x1 - x0), np.uint8)
        _fill_polygon(cover, vertices - (x0, y0), (255,))
        if sigma:
            cover = _softened(cover, sigma)
        if clip is not None:
            cover = np.asarray(cv2.multiply(cover, clip[y0:y1, x0:x1], scale=1 / 255), np.uint8)
        region = self.pixels[y0:y1, x0:x1]
        weight = cover * np.float32(alpha / 255)
        paint = np.full(region.shape, np.rint(color), np.uint8)
        region[:] = cv2.blendLinear(region, paint, 1 - weight, weight)

    def ellipse(
        self,
        center: tuple[float, float],
        radii: tuple[float, float],
        color: Color,
        alpha: float = 1.0,
        *,
        soft: float = 0.0,
        clip: NDArray[np.uint8] | None = None,
    ) -> None:
        """Fills an upright ellipse."""
        if alpha >= FAINTEST:
            self.fill(ellipse_points(center, radii), color, alpha, soft=soft, clip=clip)

    def stroke(
        self,
        points: ArrayLike,
        width: float,
        color: Color,
        alpha: float = 1.0,
        *,
        clip: NDArray[np.uint8] | None = None,
    ) -> None:
        """Draws a smooth line through the points that swells and thins like a brush."""
        if alpha < FAINTEST:
            return
        line = spline(points, closed=False)
        half = np.sin(np.linspace(0.25, np.pi - 0.25, len(line)))[:, None] * (width / 2)
        self.fill(_band(line, half), color, alpha, clip=clip)

    def limb(self, points: ArrayLike, widths: tuple[float, float], color: Color) -> None:
        """Draws a smooth, round-ended line between two widths."""
        line = spline(points, closed=False)
        half = np.linspace(widths[0], widths[1], len(line))[:, None] / 2
        self.fill(_band(line, half), color)
        for (x, y), width in zip((line[0], line[-1]), widths, strict=True):
            self.ellipse((x, y), (width / 2, width / 2), color)

    def _vertices(self, points: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(points, np.float64) @ self.to_pixels[:, :2].T + self.to_pixels[:, 2]


def blank_canvas(width: int, height: int, supersampling: int) -> Canvas:
    """Returns an empty canvas painted in output pixels."""
    pixels = np.zeros((height * supersampling, width * supersampling, 3), np.uint8)
    return Canvas(pixels, np.array([[supersampling, 0, 0], [0, supersampling, 0]], np.float64))


def placement(
    canvas: Canvas, center: tuple[float, float], unit: float, tilt_degrees: float = 0.0
) -> Canvas:
    """Returns the canvas with its origin at `center`, `unit` old units long, turned by the tilt."""
    angle = np.deg2rad(tilt_degrees)
    turn = unit * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear, shift = canvas.to_pixels[:, :2], canvas.to_pixels[:, 2]
    moved = linear @ np.asarray(center) + shift
    return canvas.placed(np.column_stack([linear @ turn, moved]))


def spline(points: ArrayLike, *, closed: bool) -> NDArray[np.float64]:
    """Returns the Catmull-Rom curve (M, 2) through the points (N, 2)."""
    knots = np.asarray(points, np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
    segments = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)
    curve: NDArray[np.float64] = (_catmull_rom() @ segments).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def ellipse_points(center: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.float64]:
    """Returns an upright ellipse as a polygon (32, 2)."""
    return np.asarray(np.asarray(center) + _circle() * np.asarray(radii), np.float64)


def mirrored(points: ArrayLike) -> NDArray[np.float64]:
    """Returns the points of a right half followed by their mirror images, as one closed outline.

    A first or last point on the axis x = 0 is not repeated.
    """
    half = np.asarray(points, np.float64)
    other = half[::-1] * (-1, 1)
    return np.concatenate([half, other[np.abs(other[:, 0]) > 1e-9]])


def paint_backdrop(canvas: Canvas, rng: Generator) -> None:
    """Paints the background: plain, a gradient, or soft shapes on either."""
    light, deep = BACKDROPS[int(rng.integers(len(BACKDROPS)))]
    if rng.random() < 0.5:
        light, deep = deep, light
    kind = rng.random()
    end = light if kind < 0.25 else deep
    column = np.array([[light], [end]], np.uint8)
    height, width = canvas.pixels.shape[:2]
    canvas.pixels[:] = cv2.resize(column, (width, height), interpolation=cv2.INTER_LINEAR)
    if kind > 0.55:
        _paint_soft_shapes(canvas, mix(light, (255, 255, 255), 0.4), rng)


def photograph(canvas: Canvas, width: int, height: int, rng: Generator) -> NDArray[np.uint8]:
    """Returns what a camera makes of the canvas: uint8 (height, width, 3), RGB.

    Light falls off across the picture, exposure and white balance vary, and there is a little
    blur and sensor noise.
    """
    small = cv2.resize(canvas.pixels, (width, height), interpolation=cv2.INTER_AREA)
    blur = rng.uniform(0, 0.55) * min(min(width, height) / 96, 1.6)
    if blur > 0.25:
        small = cv2.GaussianBlur(small, (0, 0), blur)
    exposure = np.clip(rng.normal(0.97, 0.05), 0.8, 1.06) * (1 + rng.normal(0, 0.015, size=3))
    picture = small * (_light(width, height, rng)[..., None] * exposure.astype(np.float32))
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0.5, 3))
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def _light(width: int, height: int, rng: Generator) -> NDArray[np.float32]:
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.14)
    x = np.linspace(-strength, strength, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-strength, strength, height, dtype=np.float32) * np.float32(np.sin(angle))
    return 1 + x[None, :] + y[:, None]


def _paint_soft_shapes(canvas: Canvas, color: Color, rng: Generator) -> None:
    height, width = np.asarray(canvas.pixels.shape[:2]) / canvas.scale
    for _ in range(int(rng.integers(2, 5))):
        center = (rng.uniform(0, width), rng.uniform(0, height))
        radius = rng.uniform(0.12, 0.35) * min(width, height)
        canvas.ellipse(center, (radius, radius), color, rng.uniform(0.15, 0.4))


def _fill_polygon(
    target: NDArray[np.uint8], vertices: NDArray[np.float64], color: tuple[float, ...]
) -> None:
    fixed = np.rint(vertices * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(target, [fixed], color, cv2.LINE_AA, SUBPIXEL_BITS)


def _softened(cover: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    # Two box filters of width w have variance (w² - 1) / 6, at a fraction of a Gaussian's cost.
    side = max(int(np.sqrt(6 * sigma**2 + 1)) | 1, 3)
    return np.asarray(cv2.blur(cv2.blur(cover, (side, side)), (side, side)), np.uint8)


def _band(line: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    tangent = np.empty_like(line)
    tangent[1:-1] = line[2:] - line[:-2]
    tangent[0], tangent[-1] = line[1] - line[0], line[-1] - line[-2]
    normal = tangent[:, ::-1] * (-1, 1)
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


@cache
def _catmull_rom() -> NDArray[np.float64]:
    t = np.arange(SPLINE_STEPS)[:, None] / SPLINE_STEPS
    powers = np.concatenate([t**0, t, t**2, t**3], axis=1)
    weights = np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    return np.asarray(powers @ weights, np.float64)


@cache
def _circle() -> NDArray[np.float64]:
    angle = np.arange(32) * (2 * np.pi / 32)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
