"""Random street backgrounds: sky, foliage, walls and roads, with the pole that carries the sign."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

# Base colours (RGB) that a background part is varied around.
_SKIES = ((150, 190, 235), (205, 215, 225), (235, 238, 240), (90, 140, 205), (225, 200, 180))
_FOLIAGE = ((60, 95, 45), (95, 120, 50), (40, 60, 35), (130, 110, 55), (85, 75, 55))
_WALLS = ((165, 90, 70), (190, 180, 160), (120, 120, 125), (215, 190, 130), (80, 95, 120), (150, 45, 45))
_ROADS = ((95, 95, 98), (125, 122, 118), (65, 66, 70))


def background(size: int, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of size x size px: an upper part, a lower part below a horizon, and maybe a pole."""
    upper = (_sky, _foliage, _wall)[rng.integers(3)]
    lower = (_foliage, _wall, _road)[rng.integers(3)]
    picture = upper(size, rng)
    horizon = int(rng.uniform(0.1, 1.3) * size)
    if horizon < size:
        picture.paste(lower(size, rng).crop((0, 0, size, size - horizon)), (0, horizon))
    if rng.random() < 0.7:
        grey = int(rng.integers(70, 190))
        middle, half = int(size / 2 + rng.normal(0, 4)), int(rng.integers(2, 5))
        pole = (middle - half, size // 2, middle + half, size)
        ImageDraw.Draw(picture).rectangle(pole, fill=(grey, grey, grey))
    return picture


def _tint(palette: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> np.ndarray:
    """One colour of the palette, varied: float64 [3]."""
    return np.array(palette[rng.integers(len(palette))]) + rng.normal(0, 18, 3)


def _texture(grid: np.ndarray, size: int) -> Image.Image:
    """Enlarge a coarse float [h, w, 3] grid of colours in about 0..255 smoothly to size x size px."""
    coarse = Image.fromarray(np.clip(np.rint(grid), 0, 255).astype(np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def _sky(size: int, rng: np.random.Generator) -> Image.Image:
    """A vertical gradient with soft clouds."""
    fade = np.linspace(0, rng.uniform(-20, 50), 5)[:, None, None]
    clouds = rng.normal(0, rng.uniform(0, 20), (5, 5, 1))
    return _texture(_tint(_SKIES, rng) + fade + clouds, size)


def _foliage(size: int, rng: np.random.Generator) -> Image.Image:
    """Leaf-sized patches of light and dark."""
    cells = int(rng.integers(8, 30))
    patches = rng.normal(0, rng.uniform(12, 45), (cells, cells, 1)) + rng.normal(0, 6, (cells, cells, 3))
    return _texture(_tint(_FOLIAGE, rng) + patches, size)


def _road(size: int, rng: np.random.Generator) -> Image.Image:
    """Fine-grained grey with a slow gradient."""
    grain = rng.normal(0, 7, (24, 24, 1)) + np.linspace(0, rng.uniform(-40, 40), 24)[:, None, None]
    return _texture(_tint(_ROADS, rng) + grain, size)


def _wall(size: int, rng: np.random.Generator) -> Image.Image:
    """A facade: a plain colour with a few rectangles such as windows, doors or other signs."""
    picture = _texture(_tint(_WALLS, rng) + rng.normal(0, 6, (4, 4, 3)), size)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(1, 6))):
        left, top = (int(v) for v in rng.integers(-20, size, 2))
        width, height = (int(v) for v in rng.integers(8, size // 2, 2))
        colour = tuple(int(v) for v in rng.integers(20, 200) + rng.integers(0, 56, 3))
        draw.rectangle((left, top, left + width, top + height), fill=colour)
    return picture
