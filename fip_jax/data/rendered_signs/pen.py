"""A small vector pen on a Pillow canvas: polygons, round strokes, curves, in a local [-1, 1] frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

BLACK: Colour = (22, 22, 24)
GREY: Colour = (110, 112, 116)
WHITE: Colour = (244, 244, 240)
RED: Colour = (200, 22, 34)
BLUE: Colour = (18, 88, 172)
YELLOW: Colour = (252, 196, 20)
GREEN: Colour = (20, 150, 70)

CANVAS = 512


class Pen:
    """Draws on a transparent RGBA canvas of 512 x 512 px; x and y run over [-1, 1], y points down.

    `at` gives a pen on the same canvas with its own origin and scale, so that a pictogram is drawn once in
    its own [-1, 1] frame and placed where a sign needs it.
    """

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._origin: Point = (0.0, 0.0)
        self._scale: Point = (1.0, 1.0)

    def at(self, x: float, y: float, scale: float, *, mirror: bool = False) -> Pen:
        """A pen whose frame is centred at (x, y) of this one and `scale` times as large; `mirror` flips x."""
        pen = Pen.__new__(Pen)
        pen.image, pen._draw = self.image, self._draw
        pen._origin = (self._origin[0] + x * self._scale[0], self._origin[1] + y * self._scale[1])
        pen._scale = (self._scale[0] * scale * (-1 if mirror else 1), self._scale[1] * scale)
        return pen

    def _pixel(self, point: Point) -> Point:
        """Canvas coordinates of a point of the local frame."""
        x, y = (o + p * s for o, p, s in zip(self._origin, point, self._scale, strict=True))
        return (x + 1) * CANVAS / 2, (y + 1) * CANVAS / 2

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon with sharp corners."""
        self._draw.polygon([self._pixel(p) for p in points], fill=(*fill, 255))

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A filled circle."""
        (px, py), r = self._pixel((x, y)), radius * self._scale[1] * CANVAS / 2
        self._draw.ellipse((px - r, py - r, px + r, py + r), fill=(*fill, 255))

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A line through `points` of the given full width, with round ends and joints."""
        half = width / 2
        for point in points:
            self.disc(*point, half, fill)
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = math.hypot(x1 - x0, y1 - y0)
            if length > 0:
                nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
                corners = [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]
                self.polygon(corners, fill)

    def rounded(self, points: Sequence[Point], radius: float, fill: Colour) -> None:
        """A filled polygon whose outline is grown by `radius`, which rounds its corners."""
        self.polygon(points, fill)
        self.stroke([*points, points[0]], 2 * radius, fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """A filled axis-aligned rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def arrow(self, path: Sequence[Point], width: float, fill: Colour, *, head: float = 2.6) -> None:
        """A stroke along `path` that ends in a triangle `head` times as wide as the stroke."""
        (x0, y0), (x1, y1) = path[-2], path[-1]
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        side, long = head * width / 2, head * width * 0.8
        bx, by = x1 - ux * long, y1 - uy * long
        self.stroke([*path[:-1], (bx, by)], width, fill)
        self.polygon([(x1, y1), (bx - uy * side, by + ux * side), (bx + uy * side, by - ux * side)], fill)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points of an elliptic arc; angles in degrees, 0 to the right and 90 downwards."""
    count = max(4, int(abs(end - start) / 8))
    angles = [math.radians(start + (end - start) * k / count) for k in range(count + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def curve(*points: Point) -> list[Point]:
    """A smooth (Catmull-Rom) curve through all the points, sampled in 8 steps a piece."""
    padded = [points[0], *points, points[-1]]
    sampled: list[Point] = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for k in range(8):
            t = k / 8
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            quad = list(zip(weights, (p0, p1, p2, p3), strict=True))
            sampled.append((sum(w * p[0] for w, p in quad) / 2, sum(w * p[1] for w, p in quad) / 2))
    return [*sampled, points[-1]]
