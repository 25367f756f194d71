"""Digits and capitals as pen strokes, so that no font file decides what a sign looks like."""

from __future__ import annotations

from fip_jax.data.rendered_signs.pen import Colour, Pen, Point, arc, curve

# Each glyph is a list of strokes in a frame of x in [-0.5, 0.5] and y in [-1, 1].
GLYPHS: dict[str, list[list[Point]]] = {
    "0": [arc(0, 0, 0.42, 0.86, 0, 360)],
    "1": [[(-0.28, -0.5), (0.1, -0.86), (0.1, 0.86)]],
    "2": [[*arc(0, -0.42, 0.42, 0.44, 195, 385), (-0.42, 0.86), (0.44, 0.86)]],
    "3": [[*arc(0, -0.44, 0.4, 0.42, 205, 450), *arc(0, 0.43, 0.44, 0.43, 270, 515)]],
    "5": [[(0.38, -0.86), (-0.3, -0.86), (-0.36, -0.06), *arc(0, 0.31, 0.43, 0.55, 222, 510)]],
    "6": [
        arc(0, 0.36, 0.42, 0.5, 0, 360),
        curve((0.34, -0.7), (0.05, -0.87), (-0.3, -0.6), (-0.42, 0.0), (-0.42, 0.36)),
    ],
    "7": [[(-0.42, -0.86), (0.42, -0.86), (-0.12, 0.86)]],
    "8": [arc(0, -0.44, 0.36, 0.42, 0, 360), arc(0, 0.43, 0.43, 0.43, 0, 360)],
    "S": [
        curve(
            (0.4, -0.6),
            (0.05, -0.87),
            (-0.36, -0.65),
            (-0.3, -0.22),
            (0.28, 0.18),
            (0.38, 0.62),
            (0.0, 0.88),
            (-0.42, 0.6),
        )
    ],
    "T": [[(-0.45, -0.86), (0.45, -0.86)], [(0, -0.86), (0, 0.86)]],
    "O": [arc(0, 0, 0.44, 0.86, 0, 360)],
    "P": [[(-0.36, 0.86), (-0.36, -0.86), *arc(0.0, -0.4, 0.42, 0.46, 270, 450), (-0.36, 0.06)]],
}


def write(pen: Pen, text: str, colour: Colour, *, height: float, pitch: float, weight: float) -> None:
    """Write `text` centred in the pen's frame.

    `height` is half the height of a glyph, `pitch` the distance between glyph centres, both in the pen's
    units; `weight` is the stroke width in glyph units (half the glyph's height is 1).
    """
    for place, character in enumerate(text):
        glyph_pen = pen.at((place - (len(text) - 1) / 2) * pitch, 0, height)
        for stroke in GLYPHS[character]:
            glyph_pen.stroke(stroke, weight, colour)
