"""What can be said of an attack's settings before any work is done."""

from ml_collections import ConfigDict

from fip_jax.attacks import create_attack
from fip_jax.attacks.attack import Attack
from fip_jax.errors import UserError


def attack_rate(config: ConfigDict, attack: Attack) -> float:
    """The rate that counts for an attack."""
    return config.attack.clean_label_rate if attack.clean_label else config.attack.poison_rate


def check_attack(config: ConfigDict) -> None:
    """Refuses settings that the attack `config.attack.name` cannot have.

    Raises:
      UserError: names the key, what was found and what was expected.
    """
    for key in ("poison_rate", "clean_label_rate"):
        if not 0 < config.attack[key] <= 1:
            raise UserError(
                f"attack.{key}: found {config.attack[key]!r}, expected a fraction above 0, at most 1"
            )
    size, name = config.dataset.image_size, config.attack.name
    attack = create_attack(name, (size, size, 3), config.attack[name])
    assert attack is not None
    if config.attack.state and attack.fit is None:
        raise UserError(
            f"attack.state: found {config.attack.state!r}, expected nothing: {name} learns nothing"
        )
    if not config.victim.checkpoint:
        _check_training(config, attack)
    elif attack.learns_trigger and not config.attack.state:
        raise UserError(
            f"attack.state: found nothing, expected attack/ of the run that made the trigger of {name}, since "
            "victim.checkpoint brings a network and no trigger"
        )


def _check_training(config: ConfigDict, attack: Attack) -> None:
    """Of a victim that is to be trained."""
    name, rate = config.attack.name, attack_rate(config, attack)
    if attack.every_batch and not round(rate * config.victim.batch_size):
        raise UserError(
            f"attack.poison_rate: found {rate:g}, which is no image of the {config.victim.batch_size} of a batch, "
            f"expected a rate that is at least one, since {name} poisons batch by batch"
        )
    if attack.cover is not None and rate * (1 + attack.cover_rate) > 1:
        raise UserError(
            f"attack.poison_rate: found {rate:g}, expected at most {1 / (1 + attack.cover_rate):.3g}, since {name} "
            f"changes {attack.cover_rate:g} more images for each poisoned one"
        )
    if attack.joint is not None and not config.attack.state:
        for key, value, expected in (
            ("parallel.mode", config.parallel.mode, "none"),
            ("victim.radius", config.victim.radius, 0.0),
        ):
            if value != expected:
                raise UserError(
                    f"{key}: found {value!r}, expected {expected!r} for {name}, whose trigger is trained along with "
                    "the victim"
                )
