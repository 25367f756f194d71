"""Backdoor attacks by name. An attack is a file with one function and a line here."""

from collections.abc import Callable, Mapping

from fip_jax.attacks.attack import Attack
from fip_jax.attacks.badnets import badnets
from fip_jax.attacks.blend import blend
from fip_jax.attacks.bppa import bppa
from fip_jax.attacks.cba import cba
from fip_jax.attacks.clb import clb
from fip_jax.attacks.dynamic import dynamic
from fip_jax.attacks.fba import fba
from fip_jax.attacks.issba import issba
from fip_jax.attacks.lira import lira
from fip_jax.attacks.pattern import pattern
from fip_jax.attacks.sig import sig
from fip_jax.attacks.troj import troj
from fip_jax.attacks.wanet import wanet
from fip_jax.errors import UserError

# name: maker of the attack from (image shape, **options)
ATTACKS: dict[str, Callable[..., Attack]] = {
    "badnets": badnets,
    "blend": blend,
    "bppa": bppa,
    "cba": cba,
    "clb": clb,
    "dynamic": dynamic,
    "fba": fba,
    "issba": issba,
    "lira": lira,
    "pattern": pattern,
    "sig": sig,
    "troj": troj,
    "wanet": wanet,
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
    return ATTACKS[name](image_shape, **(options or {}))
