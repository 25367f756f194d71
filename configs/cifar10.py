"""CIFAR-10 with a BadNets backdoor.

    python -m fip_jax.main --config=configs/cifar10.py --workdir=runs/cifar10            (one GPU)
    python -m fip_jax.main --config=configs/cifar10.py:cpu --workdir=runs/cifar10_cpu    (two CPU cores)

Expected run time: three quarters of an hour on two CPU cores, reckoned from the time a step takes on GTSRB; on a GPU
not measured yet.

TFDS prepares this set with TensorFlow; without it, point --config.dataset.data_dir at a folder prepared as
ArrayRecord elsewhere.
"""

from fip_jax.config import default_config
from fip_jax.errors import UserError


def get_config(machine: str = "gpu"):
    """`gpu`: a PreActResNet18; `cpu`: a small VGG that two cores can train."""
    if machine not in ("gpu", "cpu"):
        raise UserError(f"--config: found {machine!r} after the colon, expected gpu or cpu")
    config = default_config()
    config.dataset.name = "cifar10"
    config.dataset.mean = (0.4914, 0.4822, 0.4465)
    config.dataset.std = (0.247, 0.243, 0.261)
    config.dataset.crop_padding = 4
    config.dataset.flip = True
    config.attack.name = "badnets"
    config.victim.epochs = 12
    if machine == "gpu":
        config.model.name = "preact_resnet18"
        config.model.width = 64
        config.victim.epochs = 60
        config.victim.learning_rate = 0.1
    return config
