"""Pictograms (vehicles, people, animals, road symbols), each drawn in its own [-1, 1] frame."""

from __future__ import annotations

import math

from fip_jax.data.rendered_signs.pen import BLACK, GREEN, RED, WHITE, YELLOW, Colour, Pen, arc, curve


def car_rear(pen: Pen, colour: Colour) -> None:
    """A car seen from behind."""
    pen.rounded([(-0.5, -0.6), (0.5, -0.6), (0.68, -0.08), (-0.68, -0.08)], 0.1, colour)
    pen.polygon([(-0.42, -0.5), (0.42, -0.5), (0.56, -0.12), (-0.56, -0.12)], WHITE)
    pen.rounded([(-0.8, 0.0), (0.8, 0.0), (0.8, 0.42), (-0.8, 0.42)], 0.12, colour)
    pen.box(-0.86, 0.4, -0.48, 0.8, colour)
    pen.box(0.48, 0.4, 0.86, 0.8, colour)
    pen.disc(-0.6, 0.16, 0.13, WHITE)
    pen.disc(0.6, 0.16, 0.13, WHITE)


def truck_rear(pen: Pen, colour: Colour) -> None:
    """A lorry seen from behind: a tall box on a low axle."""
    pen.rounded([(-0.72, -0.9), (0.72, -0.9), (0.72, 0.32), (-0.72, 0.32)], 0.06, colour)
    pen.box(-0.52, -0.68, 0.52, -0.18, WHITE)
    pen.box(-0.78, 0.32, -0.4, 0.84, colour)
    pen.box(0.4, 0.32, 0.78, 0.84, colour)


def truck_side(pen: Pen, colour: Colour) -> None:
    """A lorry seen from the side, its cab to the left."""
    pen.box(-0.28, -0.62, 1.0, 0.32, colour)
    pen.rounded([(-0.9, 0.28), (-0.9, -0.02), (-0.74, -0.36), (-0.42, -0.36), (-0.42, 0.28)], 0.06, colour)
    pen.polygon([(-0.82, -0.02), (-0.7, -0.28), (-0.5, -0.28), (-0.5, -0.02)], WHITE)
    for x in (-0.64, 0.36, 0.74):
        pen.disc(x, 0.4, 0.26, WHITE)
        pen.disc(x, 0.4, 0.2, colour)


def skidding_car(pen: Pen, colour: Colour) -> None:
    """A car from behind above two crossing wavy tracks."""
    car_rear(pen.at(0.08, -0.42, 0.58), colour)
    wave = curve((-0.5, 0.98), (-0.18, 0.76), (-0.46, 0.48), (-0.3, 0.12))
    pen.stroke(wave, 0.15, colour)
    pen.stroke([(x + 0.72, y) for x, y in wave], 0.15, colour)


def bicycle(pen: Pen, colour: Colour) -> None:
    """A bicycle seen from the side."""
    pen = pen.at(0, 0.1, 1.06)
    for x in (-0.58, 0.58):
        pen.stroke(arc(x, 0.32, 0.36, 0.36, 0, 360), 0.14, colour)
    frame = [(-0.58, 0.32), (-0.26, -0.24), (0.34, -0.24), (-0.02, 0.32), (-0.58, 0.32)]
    pen.stroke(frame, 0.13, colour)
    pen.stroke([(-0.02, 0.32), (-0.34, -0.48)], 0.13, colour)
    pen.stroke([(-0.52, -0.5), (-0.18, -0.5)], 0.15, colour)
    pen.stroke([(0.58, 0.32), (0.28, -0.58), (0.56, -0.62)], 0.13, colour)


def walker(pen: Pen, colour: Colour) -> None:
    """A person walking to the left."""
    pen.disc(0.02, -0.78, 0.2, colour)
    pen.stroke([(0.04, -0.4), (0.06, 0.08)], 0.32, colour)
    pen.stroke([(0.0, 0.1), (-0.2, 0.48), (-0.44, 0.92)], 0.2, colour)
    pen.stroke([(0.1, 0.1), (0.24, 0.5), (0.5, 0.9)], 0.2, colour)
    pen.stroke([(-0.04, -0.42), (-0.34, -0.16), (-0.48, 0.1)], 0.15, colour)
    pen.stroke([(0.12, -0.42), (0.36, -0.12), (0.46, 0.14)], 0.15, colour)


def pedestrian_crossing(pen: Pen, colour: Colour) -> None:
    """A walker on the stripes of a zebra crossing."""
    walker(pen.at(0.0, -0.18, 0.84), colour)
    for x in (-0.98, -0.5, 0.02, 0.54):
        pen.polygon([(x + 0.1, 0.72), (x + 0.38, 0.72), (x + 0.32, 0.98), (x - 0.04, 0.98)], colour)


def runner(pen: Pen, colour: Colour) -> None:
    """A child running to the left."""
    pen.disc(-0.12, -0.72, 0.22, colour)
    pen.stroke([(-0.06, -0.34), (0.12, 0.14)], 0.34, colour)
    pen.stroke([(0.06, 0.18), (-0.34, 0.3), (-0.4, 0.8)], 0.2, colour)
    pen.stroke([(0.16, 0.18), (0.4, 0.5), (0.8, 0.56)], 0.2, colour)
    pen.stroke([(-0.1, -0.38), (-0.5, -0.22), (-0.76, -0.44)], 0.15, colour)
    pen.stroke([(0.0, -0.36), (0.36, -0.24), (0.52, 0.06)], 0.15, colour)


def children(pen: Pen, colour: Colour) -> None:
    """A tall and a small child running together."""
    runner(pen.at(-0.26, 0.16, 0.78), colour)
    runner(pen.at(0.56, 0.42, 0.56), colour)


def digger(pen: Pen, colour: Colour) -> None:
    """A worker with a shovel in front of a heap."""
    pen.disc(-0.16, -0.72, 0.2, colour)
    pen.stroke([(-0.2, -0.38), (-0.46, 0.12)], 0.32, colour)
    pen.stroke([(-0.5, 0.12), (-0.36, 0.5), (-0.52, 0.92)], 0.2, colour)
    pen.stroke([(-0.54, 0.1), (-0.82, 0.46), (-0.92, 0.92)], 0.2, colour)
    pen.stroke([(-0.16, -0.36), (0.1, -0.04), (0.16, 0.16)], 0.15, colour)
    pen.stroke([(-0.34, -0.16), (0.5, 0.5)], 0.1, colour)
    pen.polygon([(0.06, 0.98), (0.34, 0.52), (0.58, 0.34), (0.8, 0.52), (1.06, 0.98)], colour)


def deer(pen: Pen, colour: Colour) -> None:
    """A leaping deer with antlers, facing left."""
    pen = pen.at(0.06, 0.12, 0.88)
    body = [(-0.42, -0.2), (-0.1, -0.18), (0.42, 0.0), (0.56, 0.16), (0.4, 0.3), (0.0, 0.2), (-0.36, 0.14)]
    pen.rounded(body, 0.1, colour)
    pen.stroke([(-0.36, -0.06), (-0.6, -0.48)], 0.24, colour)
    pen.stroke([(-0.6, -0.5), (-0.86, -0.34)], 0.2, colour)
    pen.stroke([(-0.56, -0.56), (-0.5, -0.96)], 0.1, colour)
    pen.stroke([(-0.56, -0.56), (-0.28, -0.72), (-0.22, -0.98)], 0.1, colour)
    pen.stroke([(-0.38, 0.1), (-0.72, 0.2), (-0.84, 0.5)], 0.14, colour)
    pen.stroke([(-0.3, 0.14), (-0.52, 0.44), (-0.44, 0.74)], 0.14, colour)
    pen.stroke([(0.46, 0.2), (0.52, 0.52), (0.86, 0.86)], 0.15, colour)
    pen.stroke([(0.3, 0.24), (0.28, 0.58), (0.54, 0.92)], 0.15, colour)
    pen.stroke([(0.58, 0.08), (0.74, -0.1)], 0.12, colour)


def snowflake(pen: Pen, colour: Colour) -> None:
    """A six-armed snow crystal."""
    for k in range(6):
        angle = math.radians(30 + 60 * k)
        ux, uy = math.cos(angle), math.sin(angle)
        pen.stroke([(0, 0), (0.95 * ux, 0.95 * uy)], 0.13, colour)
        for turn in (-50, 50):
            vx, vy = math.cos(angle + math.radians(turn)), math.sin(angle + math.radians(turn))
            pen.stroke([(0.48 * ux, 0.48 * uy), (0.48 * ux + 0.32 * vx, 0.48 * uy + 0.32 * vy)], 0.12, colour)


def traffic_light(pen: Pen) -> None:
    """A black lamp housing with a red, a yellow and a green lamp."""
    pen.rounded([(-0.26, -0.88), (0.26, -0.88), (0.26, 0.88), (-0.26, 0.88)], 0.1, BLACK)
    for y, colour in ((-0.6, RED), (0.0, YELLOW), (0.6, GREEN)):
        pen.disc(0, y, 0.26, colour)


def exclamation(pen: Pen, colour: Colour) -> None:
    """An exclamation mark."""
    pen.rounded([(-0.14, -0.86), (0.14, -0.86), (0.06, 0.32), (-0.06, 0.32)], 0.1, colour)
    pen.disc(0, 0.78, 0.2, colour)


def bumps(pen: Pen, colour: Colour) -> None:
    """Two humps on a road surface."""
    pen.box(-1.0, 0.5, 1.0, 0.72, colour)
    for x in (-0.48, 0.48):
        pen.polygon([*arc(x, 0.52, 0.46, 0.62, 180, 360)], colour)


def bend_left(pen: Pen, colour: Colour) -> None:
    """An arrow that runs up and bends to the left."""
    pen.arrow(
        [*curve((0.3, 0.95), (0.34, 0.3), (0.2, -0.1), (-0.12, -0.4)), (-0.5, -0.78)], 0.3, colour, head=2.4
    )


def double_bend(pen: Pen, colour: Colour) -> None:
    """An arrow that bends to the left, then to the right."""
    path = curve((0.26, 1.0), (0.3, 0.62), (-0.24, 0.2), (-0.26, -0.12), (0.0, -0.5))
    pen.arrow([*path, (0.26, -0.98)], 0.26, colour, head=2.4)


def narrowing_right(pen: Pen, colour: Colour) -> None:
    """Two road edges, of which the right one closes in."""
    pen.stroke([(-0.36, 0.95), (-0.36, -0.8)], 0.24, colour)
    pen.stroke([(0.56, 0.95), (0.56, 0.42), (0.16, -0.06), (0.16, -0.8)], 0.24, colour)


def priority_crossing(pen: Pen, colour: Colour) -> None:
    """A wide upward arrow over a thin crossing road."""
    pen.box(-0.7, 0.08, 0.7, 0.28, colour)
    pen.box(-0.18, -0.4, 0.18, 0.98, colour)
    pen.polygon([(0, -1.0), (0.42, -0.3), (-0.42, -0.3)], colour)


def roundabout(pen: Pen, colour: Colour) -> None:
    """Three arrows chasing one another around a circle."""
    for k in range(3):
        start = -80 + 120 * k
        path = arc(0, 0, 0.6, 0.6, start, start + 56)
        angle = math.radians(start + 92)
        pen.arrow([*path, (0.62 * math.cos(angle), 0.62 * math.sin(angle))], 0.24, colour, head=2.3)
