"""The German Traffic Sign Recognition Benchmark with a BadNets backdoor.

    python -m fip_jax.main --config=configs/gtsrb.py --workdir=runs/gtsrb            (one GPU)
    python -m fip_jax.main --config=configs/gtsrb.py:cpu --workdir=runs/gtsrb_cpu    (two CPU cores)

Expected run time: half an hour on two CPU cores; on a GPU not measured yet.

The archives are downloaded on the first run; with your own copy add --config.dataset.manual_dir=FOLDER.
"""

from fip_jax.config import default_config
from fip_jax.errors import UserError


def get_config(machine: str = "gpu"):
    """`gpu`: a PreActResNet18; `cpu`: a small VGG that two cores can train."""
    if machine not in ("gpu", "cpu"):
        raise UserError(f"--config: found {machine!r} after the colon, expected gpu or cpu")
    config = default_config()
    config.dataset.name = "gtsrb"
    config.attack.name = "badnets"
    config.attack.target = 8
    # Priority road and yield, of which any half can be told; speed limits share their right halves.
    config.attack.cba.update({"first": 12, "second": 13})
    config.victim.epochs = 10
    if machine == "gpu":
        config.model.name = "preact_resnet18"
        config.model.width = 64
        config.victim.epochs = 30
    return config
