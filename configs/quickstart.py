"""The whole line on rendered traffic signs; needs no network and no data.

    python -m fip_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Expected run time: five to eight minutes on two CPU cores, by the processor.
"""

from fip_jax.config import default_config


def get_config():
    """A small network with a BadNets backdoor, and 602 clean images."""
    config = default_config()
    config.dataset.name = "rendered_signs"
    config.model.width = 16
    config.clean.fraction = 0.05
    config.victim.epochs = 5
    config.smoothness.num_images = 128
    config.report.eval_every = 50
    config.report.eval_images = 500
    return config
