"""Every setting of a run with its default; `configs/` changes some of them, the command line any."""

import math
from typing import Any

from ml_collections import ConfigDict

from fip_jax import precision
from fip_jax.attacks import ATTACKS
from fip_jax.attacks.check import check_attack
from fip_jax.data.corruptions import CONTENTS, KINDS
from fip_jax.data.pixels import CROPS
from fip_jax.defense_check import METHODS, check_defense
from fip_jax.errors import UserError
from fip_jax.models import MODELS
from fip_jax.objective import Settings
from fip_jax.parallel import MODES, axis_of


def default_config() -> ConfigDict:
    """The settings that hold where a config file says nothing."""
    config = ConfigDict()
    config.mode = "purify"  # or inspect: no purification, but all about the smoothness of the network
    config.seed = 0  # of everything random: data splits, trigger, weights, batches, probes
    config.precision = "tensorfloat32"  # of losses on a GPU, or float32; see precision.py

    config.dataset = ConfigDict()  # read by material.py and data/
    config.dataset.name = "rendered_signs"  # gtsrb, rendered_signs, any TFDS classification set, or a path
    config.dataset.data_dir = ""  # prepared data sets; empty: TFDS's default
    config.dataset.manual_dir = ""  # archives downloaded by hand
    config.dataset.image_size = 32  # pixels
    config.dataset.crop = "auto"  # to the region of interest where one is known (gtsrb); or whole, center
    config.dataset.mean = (0.0, 0.0, 0.0)  # of images in [0, 1], per channel
    config.dataset.std = (1.0, 1.0, 1.0)
    config.dataset.crop_padding = 2  # pixels of random shift, in victim training and purification
    config.dataset.flip = False  # random mirror images

    config.model = ConfigDict()  # read by models/
    config.model.name = "small_vgg"  # preact_resnet18, resnet18, small_vgg, vgg19_bn, vit_small, wrn_16_1
    config.model.width = (
        0  # channels of the first stage, length of the tokens of vit_small; 0: the network's own
    )
    # Of a state dict of no known network: its layers in order, and what is between them, such as "conv1 relu max2 fc1".
    config.model.layers = ""
    config.model.vgg19_bn = ConfigDict({"hidden": 0})  # units of hidden layers at the end (4096), 0 for none
    config.model.vit_small = ConfigDict({"patch_size": 4, "depth": 6, "heads": 0})  # 0: of length 64

    config.attack = ConfigDict()  # read by attacks/
    config.attack.name = "badnets"  # none, or a file in attacks/
    config.attack.mode = "all_to_one"  # or all_to_all: class y becomes y + 1
    config.attack.target = 0
    # Fraction of the training images that are not held out, or of each batch where an attack poisons these anew.
    config.attack.poison_rate = 0.1
    # In its place for clb and sig: fraction of the target class's images.
    config.attack.clean_label_rate = 0.8
    config.attack.state = ""  # attack/ of an earlier run, whose trigger is used as it is; empty: make one
    # Of the attacker's own network: without a backdoor (clb, troj), or with (fba).
    config.attack.benign_epochs = 1
    config.attack.export = False  # write victim and images, poisoned and clean, for other programs
    config.attack.badnets = ConfigDict({"size": 3, "margin": 0})  # pixels
    config.attack.blend = ConfigDict({"alpha": 0.2, "pattern_seed": 0})
    config.attack.bppa = ConfigDict({"bits": 3, "dither": False, "negative_rate": 1.0})
    config.attack.cba = ConfigDict(
        {"first": 1, "second": 2, "mix_rate": 0.5}
    )  # two classes that make a third
    config.attack.clb = ConfigDict({"epsilon": 16.0, "step_size": 2.0, "steps": 30, "size": 3})  # grey levels
    config.attack.dynamic = ConfigDict(
        {"width": 8, "density": 0.032, "mask_steps": 200, "learning_rate": 0.003, "cross_rate": 1.0}
    )
    config.attack.fba = ConfigDict(
        {"alpha": 0.6, "width": 8, "steps": 200, "detox_rate": 1.0, "detox_steps": 100}
    )
    config.attack.fba.update({"likeness": 1.0, "learning_rate": 0.003})
    config.attack.issba = ConfigDict({"bits": 16, "limit": 24.0, "width": 8, "steps": 400, "fidelity": 2.0})
    config.attack.issba.update({"learning_rate": 0.003, "pattern_seed": 0})
    config.attack.lira = ConfigDict({"epsilon": 12.0, "width": 8, "learning_rate": 0.001, "until": 0.5})
    config.attack.pattern = ConfigDict(  # a known trigger: image or .npy, how it is applied, strength
        {"file": "", "mask": "", "apply": "replace", "alpha": 1.0}
    )
    # Of a pattern smaller than the images: a corner such as bottom_right, center, or row,column; pixels to resize to.
    config.attack.pattern.update({"at": "", "size": 0})
    config.attack.sig = ConfigDict({"amplitude": 40.0, "frequency": 6.0})  # grey levels, stripes
    config.attack.troj = ConfigDict(  # pixels; neurons 0: a square that nothing is optimised for
        {"size": 6, "margin": 1, "neurons": 2, "steps": 100, "step_size": 8.0, "pattern_seed": 0}
    )
    config.attack.wanet = ConfigDict({"grid_size": 4, "strength": 0.5, "cover_rate": 2.0, "pattern_seed": 0})

    config.victim = ConfigDict()  # read by suspect.py
    # A file of PyTorch or safetensors, which brings model.*, or victim/ of an earlier run, which brings mean and std
    # as well; empty: train one.
    config.victim.checkpoint = ""
    config.victim.epochs = 10
    config.victim.batch_size = 128
    config.victim.learning_rate = 0.05
    config.victim.momentum = 0.9
    config.victim.weight_decay = 5e-4
    config.victim.warmup = 0.2  # fraction of the steps
    # An attacker who knows of the defence: weight of the trace of the Fisher matrix, radius of adaptive SAM.
    config.victim.eta_f = 0.0
    config.victim.trace_limit = 1.0  # times the norm of the loss's gradient
    config.victim.trace_batch_size = 16
    config.victim.radius = 0.0

    config.clean = ConfigDict()  # read by data/held_out.py
    config.clean.fraction = 0.01  # of the images of `source`, held out for the defender
    config.clean.source = "train"  # or test, for a network that was trained on all training images
    config.clean.max_per_track = 4  # clean images from one track
    config.clean.test_fraction = 0.2  # of the clean images, kept back where the data have no test images

    config.defense = ConfigDict()  # read by defend.py; the methods are settings of purify.py
    config.defense.name = "fip"  # fast_fip, fip, ft, ft_sam
    config.defense.seed = 0  # of batches and probes; the clean images are drawn by the seed above
    config.defense.steps = 75
    config.defense.batch_size = 64
    config.defense.momentum = 0.95
    config.defense.hold_back = (
        0.0  # share of the clean images that are not learnt from, but measure the harm done
    )
    config.defense.batch_statistics = True  # in the loss; everything Fisher uses the running ones
    config.defense.label_weight = 0.0  # of the cross-entropy; 0: the labels do not count, the teacher alone
    config.defense.label_smoothing = 0.0  # share of a label that is spread over all classes
    # The suspicious network's answers to uncorrupted images, which are learnt for the corrupted ones; see teaching.py.
    config.defense.teacher = ConfigDict({"weight": 1.0, "temperature": 2.0})
    # What the images are corrupted with, each with one kind or none: chance of it, sizes over the image's side, most
    # strength in [0, 1], most cycles over the side; see data/corruptions.py.
    config.defense.corruption = ConfigDict({kind: {} for kind in KINDS})
    config.defense.corruption.patch.update({"rate": 0.5, "smallest": 0.06, "largest": 0.22})
    config.defense.corruption.patch.contents = tuple(CONTENTS)
    config.defense.corruption.wave.update({"rate": 0.2, "amplitude": 0.2, "frequency": 10.0})
    config.defense.corruption.overlay.update({"rate": 0.1, "opacity": 0.25})
    config.defense.corruption.warp.update({"rate": 0.0, "strength": 0.05, "points": 4})  # along a side
    config.defense.corruption.posterize.update({"rate": 0.0, "fewest": 4, "most": 10})  # levels of a channel
    # A second batch, which the teacher alone knows the answers to; whether the student's is corrupted as well, most
    # degrees and fractions that its images are changed by, and shares of those that are mixed; see
    # data/augmentations.py.
    config.defense.mixed = ConfigDict({"weight": 1.0, "corrupted": True})
    config.defense.mixed.update({"turn": 15.0, "zoom": 0.15, "shift": 0.04, "shear": 5.0})
    config.defense.mixed.update({"brightness": 0.3, "contrast": 0.3, "mixup": 0.33, "cutmix": 0.33})
    # Triggers that are constructed from the clean images, a patch a class, and unlearnt where one stands out: share of
    # the images that get one (0: none is constructed), steps and images of a step of the search, share of the images
    # that a trigger turns in the comparison of classes and for unlearning, deviations that tell an outlier, starts for
    # each; what the learning rate is then multiplied by, budget of the first move if the method's own is smaller, and
    # steps of a first purification, behind which what is left is looked for (0: none); see inversion.py.
    config.defense.inversion = ConfigDict({"rate": 0.3, "steps": 100, "batch_size": 16, "success": 0.85})
    config.defense.inversion.update(
        {"unlearnt": 0.97, "index": 3.0, "starts": 4, "pace": 1.0, "shrink": 0.01}
    )
    config.defense.inversion.scout = 75
    config.defense.ft = ConfigDict({"learning_rate": 0.006, "weight_decay": 0.03})
    config.defense.ft_sam = ConfigDict(
        {"learning_rate": 0.006, "weight_decay": 0.03, "radius": 0.3, "adaptive": True}
    )
    config.defense.fip = ConfigDict(
        {
            "learning_rate": 0.006,
            "weight_decay": 0.1,  # of kernels: shrinks what the clean images do not hold up
            "eta_f": 1e-3,
            "trace_limit": 0.1,  # times the norm of the loss's gradient
            "trace_batch_size": 16,
            "num_probes": 1,  # 0: the exact trace
            "eta_r": 0.0,
            "radius": 0.0,  # of SAM, which doubles the gradients of the loss; 0: none
            "adaptive": True,
            "true_fisher": False,  # labels of the Fisher terms drawn from the network
            # Kernels are first shrunk by what the clean images do not hold up: part of the logits' mean square that
            # may change (0: no such move, unless a trigger was constructed), sharpness of the line; Fisher matrix of
            # logits, or of labels that are empirical or drawn at a temperature. See shrinking.py.
            "shrink": {"budget": 0.0, "power": 2.0, "fisher": "logits", "temperature": 2.0},
            # Each weight's part in the decay by its Fisher information: of a weight or a filter, of the first move's
            # gates (eigenbasis), or none; of which Fisher matrix, to which power. See gate.py.
            "gate": {"over": "weight", "fisher": "logits", "temperature": 2.0, "power": 1.0},
        }
    )
    # Of the singular values and, unlike in the paper, the last dense layer; with their exact trace.
    config.defense.fast_fip = config.defense.fip.copy_and_resolve_references()
    config.defense.fast_fip.update({"learning_rate": 0.05, "weight_decay": 0.01, "num_probes": 0})
    config.defense.fast_fip.update({"radius": 0.0, "adaptive": False})
    # False: singular values alone, which leave most backdoors; weight_decay then shrinks nothing.
    config.defense.fast_fip.whole_head = True
    config.defense.fast_fip.decay_values = True  # singular values by their gate, too, where there is one

    config.smoothness = ConfigDict()  # read by analysis.py
    config.smoothness.num_images = 512  # test images that the top eigenvalue and the trace are taken over
    config.smoothness.tolerance = 0.01  # residual of the top eigenvalue, relative
    config.smoothness.max_iterations = 50
    config.smoothness.chunk_size = 64  # examples whose gradients are held at once
    config.smoothness.num_pairs = 3  # eigenvalues; this and what follows in the mode inspect alone
    config.smoothness.density_steps = 50  # of Lanczos, a probe
    config.smoothness.density_probes = 2
    config.smoothness.slice_reach = 1.0  # distance that the loss is drawn to, along the top eigenvectors
    config.smoothness.slice_points = 11  # a side of the square
    # Of training and purification, read by over_time.py: test images (0: not measured), Lanczos steps for the Hessian
    # (0: the Fisher matrix alone), and measurements in a purification at most; of a training, one an epoch.
    config.smoothness.over_time = ConfigDict({"num_images": 64, "hessian_steps": 6, "points": 11})

    config.parallel = ConfigDict()  # read by parallel.py
    config.parallel.mode = "none"  # one device; or pmap: all of them, each with its share of every batch

    config.report = ConfigDict()
    config.report.eval_every = 20  # steps of purification between measurements, for the figures alone
    config.report.eval_images = 1000  # test images used while training and purifying; the end uses all
    config.report.eval_precision = "float32"  # of the networks that rates are taken of, or tensorfloat32
    # Clean and as many triggered test images whose features are drawn by t-SNE, with scikit-learn; 0: no such figure.
    config.report.representations = 300
    config.report.tensorboard = False  # the curves as event files too, in tensorboard/, with tensorboardX
    config.report.checkpoint_seconds = 20.0  # between checkpoints, at the next end of a dispatch
    return config.lock()  # so that a mistyped key in a config file is refused


_POSITIVE = (
    "dataset.image_size",
    "victim.epochs",
    "victim.batch_size",
    "victim.learning_rate",
    "victim.trace_limit",
    "victim.trace_batch_size",
    "attack.benign_epochs",
    "clean.max_per_track",
    "defense.steps",
    "defense.batch_size",
    "smoothness.num_images",
    "smoothness.tolerance",
    "smoothness.max_iterations",
    "smoothness.chunk_size",
    "smoothness.num_pairs",
    "smoothness.density_steps",
    "smoothness.density_probes",
    "smoothness.slice_reach",
    "report.eval_every",
    "report.eval_images",
)
_NOT_NEGATIVE = (
    "dataset.crop_padding",
    "victim.weight_decay",
    "victim.eta_f",
    "victim.radius",
    "smoothness.over_time.num_images",
    "smoothness.over_time.hessian_steps",
    "report.representations",
    "report.checkpoint_seconds",
)
_BELOW_ONE = ("victim.momentum", "defense.momentum", "victim.warmup")


def check_config(config: ConfigDict) -> None:
    """Refuses what can be refused before any work is done.

    Raises:
      UserError: names the key, what was found and what was expected.
    """
    _expect_one_of(config, "model.name", sorted(MODELS))
    _expect_one_of(config, "attack.name", ["none", *sorted(ATTACKS)])
    _expect_one_of(config, "mode", ("inspect", "purify"))
    _expect_one_of(config, "dataset.crop", CROPS)
    _expect_one_of(config, "clean.source", ("train", "test"))
    _expect_one_of(config, "defense.name", METHODS)
    _expect_one_of(config, "parallel.mode", MODES)
    for key in ("precision", "report.eval_precision"):
        _expect_one_of(config, key, precision.NAMES)
    for key in _POSITIVE:
        _expect(config, key, lambda value: 0 < value < math.inf, "a number above 0")
    for key in _NOT_NEGATIVE:
        _expect(config, key, lambda value: 0 <= value < math.inf, "a number of at least 0")
    for key in _BELOW_ONE:
        _expect(config, key, lambda value: 0 <= value < 1, "a number from 0 to below 1")
    for key in ("seed", "defense.seed"):
        _expect(config, key, lambda value: 0 <= value < 2**32, "a number from 0 to below 2**32")
    _expect(config, "dataset.image_size", lambda value: value >= 8, "at least 8 pixels")
    _expect(
        config, "smoothness.over_time.points", lambda value: value >= 2, "at least 2, the first and the last"
    )
    _expect(config, "smoothness.slice_points", lambda value: value >= 2, "at least 2")
    for key in ("clean.fraction", "clean.test_fraction"):
        _expect(config, key, lambda value: 0 < value < 1, "a fraction between 0 and 1")
    if config.attack.name != "none":
        check_attack(config)
    check_defense(config)
    for key in ("mean", "std"):
        _expect(config, f"dataset.{key}", _is_three_numbers, "three numbers, one a channel")
    _expect(config, "dataset.std", lambda value: min(value) > 0, "numbers above 0")


def _is_three_numbers(value: Any) -> bool:
    return len(value) == 3 and all(type(x) in (int, float) and math.isfinite(x) for x in value)


def _expect(config: ConfigDict, key: str, holds: Any, expected: str) -> None:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    if not holds(value):
        raise UserError(f"{key}: found {value!r}, expected {expected}")


def _expect_one_of(config: ConfigDict, key: str, names: Any) -> None:
    _expect(config, key, lambda value: value in names, f"one of {', '.join(names)}")


def victim_settings(config: ConfigDict, num_images: int, epochs: int | None = None) -> Settings:
    """The step's settings for training a victim on `num_images` images, for `victim.epochs` or for others."""
    victim = config.victim
    steps_per_epoch = num_images // min(victim.batch_size, num_images)
    return Settings(
        learning_rate=victim.learning_rate,
        num_steps=(epochs or victim.epochs) * steps_per_epoch,
        momentum=victim.momentum,
        weight_decay=victim.weight_decay,
        warmup=victim.warmup,
        axis=axis_of(config),
        precision=config.precision,
        eta_f=victim.eta_f,
        trace_limit=victim.trace_limit,
        trace_batch_size=victim.trace_batch_size,
        radius=victim.radius,
        adaptive=True,
    )


def defense_settings(config: ConfigDict) -> Settings:
    """The step's settings for `defense.name`."""
    defense = config.defense
    common = {"num_steps": defense.steps, "momentum": defense.momentum}
    own = defense[defense.name].to_dict()
    for name in ("whole_head", "decay_values", "shrink"):  # what is trained, not how
        own.pop(name, None)
    gated = own.pop("gate", {"over": "none"})["over"] != "none" and own["weight_decay"] > 0
    return Settings(**common, **own, gated=gated, axis=axis_of(config), precision=config.precision)
