"""A canvas for smooth antialiased shapes, its backdrops, and a camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = NDArray[np.float64]
"""(N, 2)."""
Color: TypeAlias = NDArray[np.float64]
"""RGB, (3,), each channel 0..255."""
Width: TypeAlias = float | tuple[float, float]
_Value = TypeVar("_Value", float, NDArray[np.float64])

_SUPERSAMPLING = 2
_SUBPIXEL_BITS = 4
"""OpenCV draws vertices in sixteenths of a pixel."""
_FAINTEST = 0.01
"""Anything more transparent is not drawn."""
_CIRCLE = np.array([(np.cos(a), np.sin(a)) for a in np.arange(33) * np.pi / 16])
_STEPS = (np.arange(8)[:, None] / 8) ** np.arange(4)
_CATMULL_ROM = _STEPS @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2


def colors(text: str) -> NDArray[np.float64]:
    """Returns hexadecimal colors, separated by spaces, as float64 (N, 3)."""
    return np.array([[*bytes.fromhex(word)] for word in text.split()], np.float64)


_BACKDROPS = colors(
    "fae1c8 f6c4a8 d0e4e2 a4ccce e2dcf0 c4bae0 faecbe f4d48c d6e6cc aecea8 fad8da eeb2ba cedcf2 "
    "9eb8e0 ece6dc cec6bc 6a869e 4a6280 849680 607666"
).reshape(-1, 2, 3)
"""Pairs of a light and a deep color."""


def mix(first: _Value, second: _Value, share: float) -> _Value:
    """Returns the number or color `share` (0..1) of the way from the first to the second."""
    return first + (second - first) * share


def rise(value: float, start: float, end: float) -> float:
    """Returns 0 before start, 1 after end, and a smooth step between."""
    t = min(max((value - start) / (end - start), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def curve(points: ArrayLike, *, closed: bool = False) -> Points:
    """Returns the Catmull-Rom curve through the points."""
    knots = np.asarray(points, np.float64)
    before, after = (knots[-1:], knots[:2]) if closed else (knots[:1], knots[-1:])
    padded = np.concatenate([before, knots, after])
    segments = padded[np.arange(len(padded) - 3)[:, None] + np.arange(4)]
    smooth: Points = (_CATMULL_ROM @ segments).reshape(-1, 2)
    return smooth if closed else np.concatenate([smooth, knots[-1:]])


def outline(half: ArrayLike) -> Points:
    """Returns the closed curve through the points of a right half, from axis to axis."""
    right = np.asarray(half, np.float64)
    return curve(np.concatenate([right, right[-2:0:-1] * (-1, 1)]), closed=True)


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> Points:
    """Returns an upright ellipse; a circle without the second radius."""
    return np.asarray((x, y) + _CIRCLE * (rx, rx if ry is None else ry), np.float64)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A supersampled picture that is painted in units of its own."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    to_pixels: NDArray[np.float64]
    """Affine map (2, 3) from units to pixels."""
    clip: NDArray[np.uint8] | None = None
    """Coverage (H, W) that limits what is painted."""

    @classmethod
    def blank(cls, width: int, height: int) -> Canvas:
        """Returns an empty canvas whose unit is a pixel of the finished picture."""
        pixels = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 3), np.uint8)
        return cls(pixels, np.eye(2, 3) * _SUPERSAMPLING)

    def placed(self, center: ArrayLike, unit: float = 1.0, tilt_degrees: float = 0.0) -> Canvas:
        """Returns the canvas with its origin at `center` and `unit` old units to a new one."""
        cos, sin = np.cos(np.deg2rad(tilt_degrees)), np.sin(np.deg2rad(tilt_degrees))
        turned = self.to_pixels[:, :2] @ (unit * np.array([[cos, -sin], [sin, cos]]))
        return replace(self, to_pixels=np.column_stack([turned, self._vertices(center)]))

    def sides(self) -> tuple[Canvas, Canvas]:
        """Returns the canvas and its mirror image, to paint both halves of a figure alike."""
        return self, replace(self, to_pixels=self.to_pixels * (-1, 1, 1))

    def clipped(self, points: Points) -> Canvas:
        """Returns the canvas limited to a polygon."""
        clip = np.zeros(self.pixels.shape[:2], np.uint8)
        _fill_polygon(clip, self._vertices(points), (255,))
        return replace(self, clip=clip)

    def fill(self, points: ArrayLike, color: Color, alpha: float = 1.0, soft: float = 0.0) -> None:
        """Fills a polygon, with edges blurred over `soft` units."""
        if alpha < _FAINTEST:
            return
        vertices = self._vertices(points)
        if alpha >= 1 and not soft and self.clip is None:
            _fill_polygon(self.pixels, vertices, tuple(color.tolist()))
            return
        sigma, (height, width) = (
            soft * float(np.hypot(*self.to_pixels[:, 0])),
            self.pixels.shape[:2],
        )
        x, y, across, down = cv2.boundingRect(vertices.astype(np.float32))
        margin = int(2 + 2.5 * sigma)
        left, right = max(x - margin, 0), min(x + across + margin, width)
        top, bottom = max(y - margin, 0), min(y + down + margin, height)
        if right <= left or bottom <= top:
            return
        cover = np.zeros((bottom - top, right - left), np.uint8)
        _fill_polygon(cover, vertices - (left, top), (255,))
        if sigma:
            # Two box filters of width w have variance (w² - 1) / 6 and are cheaper than a Gaussian.
            box = (max(int(np.sqrt(6 * sigma**2 + 1)) | 1, 3),) * 2
            cv2.blur(cv2.blur(cover, box), box, dst=cover)
        if self.clip is not None:
            cv2.multiply(cover, self.clip[top:bottom, left:right], dst=cover, scale=1 / 255)
        region, weight = self.pixels[top:bottom, left:right], cover * np.float32(alpha / 255)
        paint = np.full(region.shape, np.rint(color), np.uint8)
        region[:] = cv2.blendLinear(region, paint, 1 - weight, weight)

    def stroke(self, points: ArrayLike, width: Width, color: Color, alpha: float = 1.0) -> None:
        """Draws a smooth line that swells like a brush, or goes from one width to another."""
        if alpha < _FAINTEST:
            return
        line = curve(points)
        if isinstance(width, tuple):
            widths = np.linspace(*width, len(line))
        else:
            widths = np.sin(np.linspace(0.25, np.pi - 0.25, len(line))) * width
        padded = np.concatenate([line[:1], line, line[-1:]])
        normal = (padded[2:] - padded[:-2])[:, ::-1] * (-1, 1)
        normal *= (widths / 2 / np.maximum(np.hypot(*normal.T), 1e-9))[:, None]
        self.fill(np.concatenate([line + normal, (line - normal)[::-1]]), color, alpha)

    def paint_backdrop(self, rng: Generator) -> None:
        """Covers the canvas with a plain color or a gradient, and perhaps soft circles."""
        height, width = self.pixels.shape[:2]
        light, deep = rng.permutation(_BACKDROPS[rng.integers(len(_BACKDROPS))])
        column = np.array([[light], [deep if rng.random() < 0.75 else light]], np.uint8)
        self.pixels[:] = cv2.resize(column, (width, height), interpolation=cv2.INTER_LINEAR)
        for _ in range(rng.choice([0, 2, 3, 4], p=[0.55, 0.15, 0.15, 0.15])):
            x, y = rng.uniform(0, (width, height)) / _SUPERSAMPLING
            radius = rng.uniform(0.06, 0.18) * min(width, height)
            pale = mix(light, np.full(3, 255.0), 0.4)
            self.fill(ellipse(x, y, radius), pale, rng.uniform(0.15, 0.4))

    def photograph(self, rng: Generator) -> NDArray[np.uint8]:
        """Returns the finished picture, uint8 (H, W, 3), RGB, as a camera would see it.

        Light falls off across the picture, exposure and white balance vary, and there is a little
        blur and sensor noise.
        """
        height, width = (side // _SUPERSAMPLING for side in self.pixels.shape[:2])
        small = cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
        blur = rng.uniform(0, 0.55) * min(min(width, height) / 96, 1.6)
        if blur > 0.25:
            small = cv2.GaussianBlur(small, (0, 0), blur)
        exposure = np.clip(rng.normal(0.97, 0.05), 0.8, 1.06) * rng.normal(1, 0.015, size=3)
        slope = rng.uniform(0, 0.14) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
        light = (1 + slope.real * x + slope.imag * y)[..., None] * exposure
        noise = rng.standard_normal(small.shape, np.float32) * np.float32(rng.uniform(0.5, 3))
        picture = np.clip(small * light.astype(np.float32) + noise, 0, 255)
        return np.asarray(picture, np.uint8)

    def _vertices(self, points: ArrayLike) -> Points:
        linear, shift = self.to_pixels[:, :2], self.to_pixels[:, 2]
        return np.asarray(np.asarray(points) @ linear.T + shift, np.float64)


def _fill_polygon(target: NDArray[np.uint8], vertices: Points, color: tuple[float, ...]) -> None:
    fixed = np.rint(vertices * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(target, [fixed], color, cv2.LINE_AA, _SUBPIXEL_BITS)
