"""Backdoor attacks by name. An attack is a file with one function and a line here."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fip_jax.attacks.badnets import badnets
from fip_jax.attacks.blend import blend
from fip_jax.attacks.pattern import pattern
from fip_jax.attacks.sig import sig
from fip_jax.errors import UserError

Stamp = Callable[[np.ndarray], np.ndarray]


class Attack(NamedTuple):
    """A trigger and how it is taught.

    Attributes:
      stamp: puts the trigger on uint8 images `[N, H, W, C]` and returns new ones.
      clean_label: whether only images of the target class are poisoned, their labels left as they are.
    """

    stamp: Stamp
    clean_label: bool


# name: (maker of the stamp from (image shape, **options), clean label)
ATTACKS: dict[str, tuple[Callable[..., Stamp], bool]] = {
    "badnets": (badnets, False),
    "blend": (blend, False),
    "pattern": (pattern, False),
    "sig": (sig, True),
}


def create_attack(
    name: str, image_shape: tuple[int, int, int], options: Mapping[str, float | str] | None = None
) -> Attack | None:
    """The attack called `name`, or None for "none".

    Args:
      name: key of `ATTACKS`, or "none" for a victim without a backdoor.
      image_shape: (H, W, C).
      options: keyword arguments of the attack's maker.

    Raises:
      UserError: unknown name, or an option out of range.
    """
    if name == "none":
        return None
    if name not in ATTACKS:
        raise UserError(f"attack.name: found {name!r}, expected one of none, {', '.join(sorted(ATTACKS))}")
    make, clean_label = ATTACKS[name]
    return Attack(make(image_shape, **(options or {})), clean_label)
