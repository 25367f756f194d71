"""A trigger that is known as a picture: a pattern, a mask, and where and how they are applied."""

import jax.numpy as jnp

from fip_jax.attacks.attack import Attack
from fip_jax.attacks.pattern_file import read_pattern
from fip_jax.attacks.pattern_place import placed
from fip_jax.errors import UserError

WAYS = ("replace", "add", "blend")


def pattern(
    image_shape: tuple[int, int, int],
    *,
    file: str = "",
    mask: str = "",
    apply: str = "replace",
    alpha: float = 1.0,
    at: str = "",
    size: int = 0,
) -> Attack:
    """Stamps a given pattern p through a mask m on an image x, all in [0, 1].

    "replace": (1 - m) x + m p; "add": x + m p, clipped to [0, 1]; "blend": (1 - alpha m) x + alpha m p. The rate is of
    all training images.

    Args:
      image_shape: (H, W, C).
      file: the pattern: an image, an `.npy`, or an `.npz` with one array, of [H, W], [H, W, C] or [C, H, W], with or
        without a first axis of 1; uint8, or numbers in [0, 1] or [0, 255].
      mask: likewise, uint8 counting as 255ths; empty: where any channel of the pattern is not 0 for "replace",
        everywhere for the others; of a pattern with a place, all of the pattern.
      apply: one of `WAYS`.
      alpha: strength of "blend", in (0, 1]; 1 for the others.
      at: where a pattern smaller than the image goes: "top_left", "top_right", "bottom_left", "bottom_right",
        "center", or row and column of its first pixel, such as "27,27"; empty: it is as large as the image.
      size: pixels that the longer side of the pattern is resized to (bilinear); 0: left as it is.

    Raises:
      UserError: a file that is missing, unreadable or of another size, an option out of range, or a trigger that
        changes nothing.
    """
    if apply not in WAYS:
        raise UserError(f"attack.pattern.apply: found {apply!r}, expected one of {', '.join(WAYS)}")
    if not 0 < alpha <= 1 or (apply != "blend" and alpha != 1):
        raise UserError(
            f"attack.pattern.alpha: found {alpha}, expected a number above 0 and at most 1, and 1 unless "
            "attack.pattern.apply is blend"
        )
    given = read_pattern("file", file, image_shape)
    picture, inside = placed(given, image_shape, at, size, file)
    weight = alpha * inside
    if mask:
        own = read_pattern("mask", mask, image_shape)
        # One as large as the image is where it is to be; another goes where the pattern goes.
        weight = weight * (own if own.shape == image_shape else placed(own, image_shape, at, size, mask)[0])
    elif apply == "replace" and not at:
        weight = weight * (picture > 0).any(axis=-1, keepdims=True)
    kept, added = 1 - weight * (apply != "add"), weight * picture
    if (kept == 1).all() and not added.any():
        raise UserError(
            f"attack.pattern: {mask or file} is black, expected a trigger that changes some pixel by {apply!r}"
        )

    def trigger(_, images):
        kept_part = jnp.asarray(kept, jnp.float32)[None] * images
        return kept_part + jnp.asarray(255 * added, jnp.float32)[None]

    return Attack(trigger)
