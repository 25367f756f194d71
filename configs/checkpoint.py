"""Purify a network that you downloaded, with clean images of your own.

    python -m fip_jax.main --config=configs/checkpoint.py --workdir=runs/mine \
        --config.victim.checkpoint=suspicious.pth --config.dataset.name=my_images/

`my_images/` holds `clean/CLASS/*.png` and, if you have test images, `test/CLASS/*.png`; a set of TFDS by name does as
well, with `--config.clean.source=test` where the network was trained on its training images. Give
`dataset.image_size`, `mean` and `std` as the network was trained with. Where the trigger is not known, only ACC is
measured. Expected run time: minutes on two CPU cores for a small network.
"""

from fip_jax.config import default_config


def get_config():
    """No attack: what the network was poisoned with is not known."""
    config = default_config()
    config.attack.name = "none"
    return config
