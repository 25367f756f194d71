"""The 43 clean signs (the classes of GTSRB, in its order) as small RGBA pictures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from PIL import Image

from fip_jax.data.rendered_signs import pictograms as pg
from fip_jax.data.rendered_signs.glyphs import write
from fip_jax.data.rendered_signs.pen import BLACK, BLUE, CANVAS, GREY, RED, WHITE, YELLOW, Pen, Point, curve

SIGN_SIZE = 128
"""Side of a clean sign in pixels."""

Drawing = Callable[[Pen], None]


def _prohibition(pen: Pen) -> None:
    """White disc with a red ring."""
    pen.disc(0, 0, 0.98, WHITE)
    pen.disc(0, 0, 0.95, RED)
    pen.disc(0, 0, 0.72, WHITE)


def _speed_limit(number: str) -> Drawing:
    """Red ring around a black number."""

    def draw(pen: Pen) -> None:
        _prohibition(pen)
        height, pitch = (0.42, 0.5) if len(number) == 2 else (0.38, 0.39)
        write(pen, number, BLACK, height=height, pitch=pitch, weight=0.3)

    return draw


def _end_of(content: Drawing) -> Drawing:
    """White disc with grey content struck through by a diagonal bundle of black lines."""

    def draw(pen: Pen) -> None:
        pen.disc(0, 0, 0.98, BLACK)
        pen.disc(0, 0, 0.92, WHITE)
        content(pen)
        for offset in (-0.18, -0.06, 0.06, 0.18):
            reach = 0.62 - abs(offset) / 4
            pen.stroke([(offset - reach, offset + reach), (offset + reach, offset - reach)], 0.065, BLACK)

    return draw


def _two_vehicles(left: Callable[..., None], *, grey: bool) -> Drawing:
    """A vehicle on the left that must not overtake the car on the right."""

    def draw(pen: Pen) -> None:
        left(pen.at(-0.34, 0.0, 0.34), GREY if grey else RED)
        pg.car_rear(pen.at(0.34, 0.03, 0.33), GREY if grey else BLACK)

    return draw


def _in_ring(content: Drawing) -> Drawing:
    """Red ring around any content."""

    def draw(pen: Pen) -> None:
        _prohibition(pen)
        content(pen)

    return draw


def _warning(content: Drawing) -> Drawing:
    """Red triangle, apex up, around content drawn in the frame of its lower middle."""

    def draw(pen: Pen) -> None:
        pen.rounded([(0, -0.76), (0.86, 0.72), (-0.86, 0.72)], 0.11, RED)
        pen.rounded([(0, -0.5), (0.62, 0.57), (-0.62, 0.57)], 0.03, WHITE)
        content(pen.at(0, 0.18, 0.43))

    return draw


def _mandatory(*paths: list[Point], mirror: bool = False) -> Drawing:
    """Blue disc with one white arrow along each path."""

    def draw(pen: Pen) -> None:
        pen.disc(0, 0, 0.98, WHITE)
        pen.disc(0, 0, 0.94, BLUE)
        for path in paths:
            pen.at(0, 0, 1.0, mirror=mirror).arrow(path, 0.23, WHITE, head=2.5)

    return draw


def _black(symbol: Callable[..., None], *, mirror: bool = False) -> Drawing:
    """The symbol in black, possibly mirrored."""
    return lambda pen: symbol(pen.at(0, 0, 1.0, mirror=mirror), BLACK)


def _priority_road(pen: Pen) -> None:
    """Yellow diamond with a broad white border."""
    for reach, colour in ((0.99, GREY), (0.95, WHITE), (0.68, YELLOW)):
        pen.polygon([(0, -reach), (reach, 0), (0, reach), (-reach, 0)], colour)


def _yield(pen: Pen) -> None:
    """Red triangle, apex down, with a white middle."""
    pen.rounded([(-0.86, -0.66), (0.86, -0.66), (0, 0.84)], 0.11, RED)
    pen.rounded([(-0.54, -0.46), (0.54, -0.46), (0, 0.5)], 0.03, WHITE)


def _stop(pen: Pen) -> None:
    """Red octagon with a white rim and the word STOP."""
    for reach, colour in ((0.98, WHITE), (0.91, RED)):
        corners = [math.radians(22.5 + 45 * k) for k in range(8)]
        pen.polygon([(reach * math.cos(a), reach * math.sin(a)) for a in corners], colour)
    write(pen, "STOP", WHITE, height=0.32, pitch=0.4, weight=0.28)


def _no_entry(pen: Pen) -> None:
    """Red disc with a white bar."""
    pen.disc(0, 0, 0.98, WHITE)
    pen.disc(0, 0, 0.94, RED)
    pen.box(-0.68, -0.17, 0.68, 0.17, WHITE)


def _grey_eighty(pen: Pen) -> None:
    """The number of the limit that ends."""
    write(pen, "80", GREY, height=0.46, pitch=0.56, weight=0.28)


def _roundabout(pen: Pen) -> None:
    """Blue disc with three white arrows in a circle."""
    _mandatory()(pen)
    pg.roundabout(pen, WHITE)


_AHEAD: list[Point] = [(0, 0.66), (0, -0.72)]
_TURN: list[Point] = [*curve((-0.3, 0.66), (-0.3, 0.1), (-0.12, -0.14), (0.16, -0.16)), (0.74, -0.16)]
_FORK_UP: list[Point] = [(-0.26, 0.68), (-0.26, -0.74)]
_FORK_SIDE: list[Point] = [*curve((-0.26, 0.58), (-0.22, 0.26), (0.02, 0.08)), (0.7, 0.08)]
_KEEP: list[Point] = [(-0.46, -0.46), (0.52, 0.52)]

_SIGNS: tuple[tuple[str, Drawing], ...] = (
    ("speed limit 20", _speed_limit("20")),
    ("speed limit 30", _speed_limit("30")),
    ("speed limit 50", _speed_limit("50")),
    ("speed limit 60", _speed_limit("60")),
    ("speed limit 70", _speed_limit("70")),
    ("speed limit 80", _speed_limit("80")),
    ("end of speed limit 80", _end_of(_grey_eighty)),
    ("speed limit 100", _speed_limit("100")),
    ("speed limit 120", _speed_limit("120")),
    ("no passing", _in_ring(_two_vehicles(pg.car_rear, grey=False))),
    ("no passing for trucks", _in_ring(_two_vehicles(pg.truck_rear, grey=False))),
    ("right of way at next intersection", _warning(_black(pg.priority_crossing))),
    ("priority road", _priority_road),
    ("yield", _yield),
    ("stop", _stop),
    ("no vehicles", _prohibition),
    ("no trucks", _in_ring(lambda pen: pg.truck_side(pen.at(0, 0.04, 0.56), BLACK))),
    ("no entry", _no_entry),
    ("general caution", _warning(_black(pg.exclamation))),
    ("curve left", _warning(_black(pg.bend_left))),
    ("curve right", _warning(_black(pg.bend_left, mirror=True))),
    ("double curve", _warning(_black(pg.double_bend))),
    ("bumpy road", _warning(_black(pg.bumps))),
    ("slippery road", _warning(_black(pg.skidding_car))),
    ("road narrows on the right", _warning(_black(pg.narrowing_right))),
    ("road work", _warning(_black(pg.digger))),
    ("traffic signals", _warning(pg.traffic_light)),
    ("pedestrians", _warning(_black(pg.pedestrian_crossing))),
    ("children", _warning(_black(pg.children))),
    ("bicycles", _warning(_black(pg.bicycle))),
    ("ice or snow", _warning(_black(pg.snowflake))),
    ("wild animals", _warning(_black(pg.deer))),
    ("end of all limits", _end_of(lambda pen: None)),
    ("turn right ahead", _mandatory(_TURN)),
    ("turn left ahead", _mandatory(_TURN, mirror=True)),
    ("ahead only", _mandatory(_AHEAD)),
    ("straight or right", _mandatory(_FORK_UP, _FORK_SIDE)),
    ("straight or left", _mandatory(_FORK_UP, _FORK_SIDE, mirror=True)),
    ("keep right", _mandatory(_KEEP)),
    ("keep left", _mandatory(_KEEP, mirror=True)),
    ("roundabout", _roundabout),
    ("end of no passing", _end_of(_two_vehicles(pg.car_rear, grey=True))),
    ("end of no passing for trucks", _end_of(_two_vehicles(pg.truck_rear, grey=True))),
)

CLASS_NAMES: tuple[str, ...] = tuple(name for name, _ in _SIGNS)


@functools.cache
def clean_sign(label: int) -> Image.Image:
    """The sign of class `label` (0..42): RGBA, 128 x 128 px, transparent outside the sign.

    The picture is shared between callers and must not be changed.
    """
    pen = Pen()
    _SIGNS[label][1](pen)
    # Premultiplied alpha while shrinking, so that no dark seam appears at the sign's edge.
    return pen.image.convert("RGBa").reduce(CANVAS // SIGN_SIZE).convert("RGBA")
