"""The whole line on rendered traffic signs; needs no network and no data.

python -m fip_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from fip_jax.config import default_config


def get_config():
    """A small network with a BadNets backdoor."""
    config = default_config()
    config.dataset.name = "rendered_signs"
    config.model.width = 16
    config.clean.fraction = 0.05
    config.victim.epochs = 8
    config.defense.steps = 200
    return config
