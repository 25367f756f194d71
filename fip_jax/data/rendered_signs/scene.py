"""Photograph a clean sign: background, viewpoint, blur, light and sensor noise, down to 32 x 32 pixels.

Every random draw comes from the generator that the caller passes in. Whatever ends in a rounding is computed
in integers or in float64, so that one seed gives the same pixels on every processor. Nothing here calls a
large matrix product: at this size a threaded BLAS makes the whole picture several times slower.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fip_jax.data.rendered_signs.backgrounds import background
from fip_jax.data.rendered_signs.signs import SIGN_SIZE, clean_sign

IMAGE_SIZE = 32
ZOOM = 3
"""The scene is drawn `ZOOM` times as large as the photograph."""
MARGIN = 6
"""Extra scene pixels on every side, which the motion blur may reach."""
SCENE_SIZE = IMAGE_SIZE * ZOOM + 2 * MARGIN

Floats = NDArray[np.float64]


def render(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One photograph of the sign of class `label` (0..42): uint8 [32, 32, 3], RGB.

    The result depends on `label` and on the state of `rng` alone; `rng` is advanced.
    """
    scene = background(SCENE_SIZE, rng)
    sign = clean_sign(label).transform(
        (SCENE_SIZE, SCENE_SIZE), Image.Transform.PERSPECTIVE, _viewpoint(rng), Image.Resampling.BILINEAR
    )
    scene.paste(sign, (0, 0), sign)
    blurred = _motion_blur(scene, rng).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.6))))
    photo = _light(np.asarray(blurred.reduce(ZOOM), np.float64), rng)
    photo += rng.normal(0.0, rng.uniform(1.0, 7.0), photo.shape)
    return np.clip(np.rint(photo), 0, 255).astype(np.uint8)


def _viewpoint(rng: np.random.Generator) -> list[float]:
    """The 8 coefficients with which Pillow maps scene pixels to sign pixels, for a random camera."""
    yaw, pitch = rng.uniform(-0.7, 0.7), rng.uniform(-0.4, 0.4)
    roll = math.radians(rng.normal(0.0, 4.0))
    radius = rng.uniform(0.38, 0.49) * IMAGE_SIZE * ZOOM
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    # The sign is a plane turned by yaw and pitch, seen from 4 half-widths away.
    depth = 1 + (corners[:, 0] * math.sin(yaw) + corners[:, 1] * math.sin(pitch)) / 4
    flat = corners * (math.cos(yaw), math.cos(pitch)) / depth[:, None]
    turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    centre = SCENE_SIZE / 2 + rng.uniform(-0.05, 0.05, 2) * IMAGE_SIZE * ZOOM
    target = flat @ turn.T * radius + centre
    return _homography(target, (corners + 1) * SIGN_SIZE / 2)


def _homography(source: Floats, target: Floats) -> list[float]:
    """The 8 coefficients of the projective map that takes four `source` points to four `target` points."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return [float(c) for c in np.linalg.solve(np.array(rows), target.reshape(-1))]


def _motion_blur(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Average the scene along a short random line and cut off the margin: RGB, 96 x 96 px."""
    reach, angle = rng.uniform(0.0, 4.5), rng.uniform(0.0, math.pi)
    side = IMAGE_SIZE * ZOOM
    if reach < 1.5:
        return scene.crop((MARGIN, MARGIN, MARGIN + side, MARGIN + side))
    pixels = np.asarray(scene)
    total = np.zeros((side, side, 3), np.uint16)
    for step in (-1.0, -0.5, 0.0, 0.5, 1.0):
        top = MARGIN + round(step * reach * math.sin(angle))
        left = MARGIN + round(step * reach * math.cos(angle))
        total += pixels[top : top + side, left : left + side]
    return Image.fromarray((total // 5).astype(np.uint8))


def _light(photo: Floats, rng: np.random.Generator) -> Floats:
    """Gamma, brightness, haze, colour cast and a shadow or gradient over float64 [32, 32, 3] in 0..255."""
    gamma, brightness = rng.uniform(0.7, 1.4), rng.uniform(0.45, 1.15)
    haze, cast = rng.uniform(0.0, 0.25), 1 + rng.normal(0.0, 0.07, 3)
    lit = (photo / 255) ** gamma * (1 - haze) + haze * rng.uniform(0.3, 0.9)
    angle, place, softness = rng.uniform(0, 2 * math.pi), rng.uniform(-0.7, 0.7), rng.uniform(0.05, 1.0)
    axis = np.linspace(-1, 1, IMAGE_SIZE)
    along = math.cos(angle) * axis + math.sin(angle) * axis[:, None]
    shade = 1 - rng.uniform(0.0, 0.5) * np.clip((along - place) / softness, 0, 1)
    lit_scene: Floats = lit * cast * (shade * brightness * 255)[..., None]
    return lit_scene
