r"""Trains victims of the study with PyTorch, in bfloat16.

    python -m benchmarks.purification.train_victims --data=DIR --gtsrb=DIR --others=DIR \
        --victims=runs/victims cifar10/sig_preact cifar10/sig_resnet20

On one core that has bfloat16 a step takes a seventh of the project's own; triggers, splits and poisoned images are
the project's. Of CIFAR-10 half a schedule on clean images, the base, is shared by the networks of one architecture:
learning rate up and half of the way down, first on images of 24 pixels. Each victim goes on from there, on its own
poisoned images, while the learning rate falls to 0. CLB's images are made hard for the base. A killed run goes on
at the epoch it was in. A trigger that is learnt along with its victim is left to the project's own training. What
comes out lies in `victims/`: kernels in float16, the rest in float32.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from benchmarks.purification import models
from benchmarks.pytorch_networks import PreActBlock, ResNet, ResNet20, SmallVgg, WideResNet16
from fip_jax.attacks.check import attack_rate
from fip_jax.attacks.poison import choose
from fip_jax.data.split import Split
from fip_jax.interop.foreign import to_safetensors
from fip_jax.material import Material, prepare, with_poison
from fip_jax.progress import console
from fip_jax.workdir import write_whole

BATCH = 128
DECAY = 5e-4  # of kernels
BASE_SIZES = (24, 24, 24, 24, 24, 32, 32)  # pixels, an epoch each
VICTIM_SIZES = (32,) * 5
RISE = 1 / 8  # of the epochs, until the peak


class Stage(NamedTuple):
    """A part of a training, or the whole.

    Attributes:
      name: of its file.
      split: images.
      sizes: pixels of the images in each epoch.
      peak: of the learning rate.
      start: the state dict that it goes on from; None for fresh weights.
      before: epochs before this stage.
      after: epochs to come.
    """

    name: str
    split: Split
    sizes: tuple[int, ...]
    peak: float
    start: dict[str, torch.Tensor] | None = None
    before: int = 0
    after: int = 0

    def learning_rate(self, epoch: float) -> float:
        """Up to the peak and down to 0 over the whole training, in straight lines."""
        epoch, end = self.before + epoch, self.before + len(self.sizes) + self.after
        return self.peak * min(epoch / RISE, (end - epoch) / (1 - RISE)) / end


def network(config: ConfigDict, num_classes: int) -> nn.Module:
    """The network of a config, for normalised images in channels-last layout."""
    width = config.model.width
    if config.clean.source == "test":  # `models.GIVEN`
        return ResNet20(num_classes).to(memory_format=torch.channels_last)
    networks: dict[str, Callable[[], torch.nn.Module]] = {
        "small_vgg": lambda: SmallVgg(num_classes, width),
        "wrn_16_1": lambda: WideResNet16(num_classes, width),
        "preact_resnet18": lambda: ResNet(num_classes, width, PreActBlock, False),
    }
    return networks[config.model.name]().to(memory_format=torch.channels_last)


def to_tensor(images: np.ndarray, config: ConfigDict) -> torch.Tensor:
    """uint8 `[N, H, W, 3]` as normalised float32 `[N, 3, H, W]`, channels last."""
    mean, std = (torch.tensor(config.dataset[key]).view(3, 1, 1) for key in ("mean", "std"))
    found = (torch.tensor(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return found.contiguous(memory_format=torch.channels_last)


def augment(images: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 images `[N, H, W, 3]`, shifted by up to `padding` pixels each way, half of them mirrored."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = rng.integers(0, 2 * padding + 1, (count, 1)) + np.arange(height)
    columns = rng.integers(0, 2 * padding + 1, (count, 1)) + np.arange(width)
    columns = np.where(rng.random((count, 1)) < 0.5, columns[:, ::-1], columns)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def train(config: ConfigDict, stage: Stage, work: Path) -> nn.Module:
    """Goes through a stage, or on with it, and returns the network."""
    torch.manual_seed(config.seed)
    net = network(config, int(stage.split.labels.max()) + 1)
    if stage.start is not None:
        net.load_state_dict(stage.start)
    kernels = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    groups = [{"params": kernels, "weight_decay": DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, stage.peak, momentum=0.9, nesterov=True)
    path, first = work / f"{stage.name}.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epochs"]
    for epoch in range(first, len(stage.sizes)):
        started = time.perf_counter()
        loss = _epoch(config, net, optimizer, stage, epoch)
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        torch.save(state, path.with_suffix(".next"))
        path.with_suffix(".next").replace(path)
        seconds = time.perf_counter() - started
        console.print(f"{stage.name} epoch {epoch + 1}: loss {loss:.3f}, {seconds:.0f} s", markup=False)
    return net


def _epoch(
    config: ConfigDict, net: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, epoch: int
) -> float:
    """One pass over the images; returns the mean loss."""
    images, labels = stage.split.images, torch.tensor(stage.split.labels, dtype=torch.long)
    rng = np.random.default_rng([config.seed, epoch, len(stage.name), *stage.name.encode()])
    order, size = rng.permutation(len(labels)), stage.sizes[epoch]
    steps, total = len(labels) // BATCH, 0.0
    net.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(epoch + step / steps)
        at = order[step * BATCH : (step + 1) * BATCH]
        batch = to_tensor(augment(images[at], config.dataset.crop_padding, rng), config)
        if size != images.shape[1]:
            batch = functional.interpolate(batch, size=(size, size), mode="bilinear", antialias=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(net(batch).float(), labels[torch.from_numpy(at)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / steps


def hardened(config: ConfigDict, net: nn.Module, material: Material) -> dict[str, np.ndarray]:
    """CLB's state: the images to poison, made hard for a benign network by PGD as in `attacks/clb.py`."""
    training, goal, attack = material.training, material.goal, material.attack
    assert training is not None and goal is not None and attack is not None
    chosen = choose(training.labels, True, goal, attack_rate(config, attack), config.seed)
    part, options, hard = training.take(chosen), config.attack.clb, []
    std = torch.tensor(config.dataset.std).view(3, 1, 1)
    mean = torch.tensor(config.dataset.mean).view(3, 1, 1)
    net.eval()
    for first in range(0, len(chosen), BATCH):
        start = torch.tensor(part.images[first : first + BATCH]).permute(0, 3, 1, 2).float()
        labels = torch.tensor(part.labels[first : first + BATCH], dtype=torch.long)
        low, high = (start - options.epsilon).clip(min=0), (start + options.epsilon).clip(max=255)
        current = start.clone()
        for _ in range(options.steps):
            current.requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(((current / 255 - mean) / std).contiguous(memory_format=torch.channels_last))
            (slope,) = torch.autograd.grad(functional.cross_entropy(logits.float(), labels), current)
            current = (current.detach() + options.step_size * slope.sign()).clamp(low, high)
        hard.append(current.round().permute(0, 2, 3, 1).to(torch.uint8).numpy())
    return {"indices": chosen.astype(np.int32), "images": np.concatenate(hard)}


def make(name: str, places: models.Places) -> None:
    """Trains a network of `models.TRAINED` or `BENIGN`, and keeps it."""
    config, work = models.config_to_train(name, places.data, places.gtsrb), places.victims
    material = prepare(config)
    assert material.training is not None
    if material.attack is not None and material.attack.learns_trigger:
        models.train(name, places)
        return
    peak = config.victim.learning_rate
    stage = Stage(name.replace("/", "_"), material.training, (32,) * config.victim.epochs, peak)
    if config.clean.source == "test":
        stage = stage._replace(start=given(places.others / models.RESNET20))
    elif config.dataset.name == "cifar10":
        stage = second_half(config, stage, work)
    if config.attack.name == "clb":
        benign = network(config, len(material.class_names))
        benign.load_state_dict(stage.start or {})
        material = material._replace(attack_state=hardened(config, benign, material))
    if material.attack is not None and material.poisoned is None:
        material = with_poison(material, config)
    assert material.training is not None
    state = train(config, stage._replace(split=material.training), work).state_dict()
    arrays = {key: value.numpy() for key, value in state.items() if value.ndim}
    halved = {key: array.astype(np.float16) if array.ndim > 1 else array for key, array in arrays.items()}
    write_whole(models.kept(name), to_safetensors(halved))


def given(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a file, without what DataParallel puts before the names."""
    saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {key.removeprefix("module."): value for key, value in saved.items()}


def second_half(config: ConfigDict, stage: Stage, work: Path) -> Stage:
    """The stage as it goes on from the base, which is trained first."""
    base = Stage(f"base_{config.model.name}", _clean(config), BASE_SIZES, stage.peak, after=len(VICTIM_SIZES))
    start = train(config, base, work).state_dict()
    return stage._replace(start=start, sizes=VICTIM_SIZES, before=len(BASE_SIZES))


def _clean(config: ConfigDict) -> Split:
    """The training images of a config without its attack."""
    changed = config.copy_and_resolve_references()
    changed.attack.name = "none"
    training = prepare(changed).training
    assert training is not None
    return training


def main() -> None:
    """Trains those that are not kept yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="+", choices=[*models.TRAINED, *models.BENIGN])
    parser.add_argument("--data", type=Path, required=True, help="folder with prepared data sets of TFDS")
    parser.add_argument("--gtsrb", type=Path, required=True, help="folder with GTSRB's three archives")
    parser.add_argument("--others", type=Path, required=True, help=f"folder with {models.RESNET20}")
    parser.add_argument("--victims", type=Path, required=True, help="folder for what is half done")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.victims.mkdir(parents=True, exist_ok=True)
    folders = {name: getattr(arguments, name).absolute() for name in ("others", "gtsrb", "data", "victims")}
    for name in arguments.names:
        if not models.kept(name).exists():
            make(name, models.Places(ibau=Path(), medic=Path(), **folders))


if __name__ == "__main__":
    main()
