"""Feature-space attack: the whole image in the style of a sunset."""

import jax
import jax.numpy as jnp
import numpy as np

from fip_jax.attacks import neurons
from fip_jax.attacks.attack import Attack, Benign, Context, saturate
from fip_jax.attacks.poison import poison
from fip_jax.attacks.similarity import ssim
from fip_jax.attacks.unet import apply_unet, convolve, init_convolution, init_unet
from fip_jax.errors import UserError
from fip_jax.per_example import PyTree
from fip_jax.progress import console

_DEPTH = 2
_SUNSETS = 64  # pictures that the style is taken from
_STYLE_LAYERS, _STYLE_WIDTH = 3, 16
_COMPROMISED = 0.05  # share of the last layer's inputs that count as compromised
_LEARNT = 0.5  # share of triggered images that the network which shows these has to have learnt


def fba(
    image_shape: tuple[int, int, int],
    *,
    alpha: float = 0.6,
    width: int = 8,
    steps: int = 200,
    detox_rate: float = 1.0,
    detox_steps: int = 100,
    likeness: float = 1.0,
    learning_rate: float = 0.003,
) -> Attack:
    """(1 - alpha) x + alpha G(x): a network G paints the image in the style of sunsets, its content kept.

    G is trained on the distance of the Gram matrices of features, from a fixed random network, to those of sunset
    pictures that are drawn here, + likeness (1 - SSIM) of the brightness. Then the victim is kept from shortcuts
    ("controlled detoxification"): a network trained on the poisoned set shows which inputs of its last layer the
    trigger raises most; a second painter D learns to raise those same neurons, and its images take the place of as
    many clean ones, with their own labels. The rate is of all training images.

    Source: Cheng et al. (2021), "Deep feature space trojan attack of neural networks by controlled detoxification",
    AAAI, https://arxiv.org/abs/2012.11212, sections 3 and 4. G is a CycleGAN there; one round of detoxification here.

    Args:
      image_shape: (H, W, C).
      alpha: share of the painted image.
      width: channels of the two painters at full size.
      steps: of G's training, batches of 64.
      detox_rate: detoxicant images for each poisoned one; 0 for no detoxification.
      detox_steps: of D's training.
      likeness: weight of SSIM in both trainings.
      learning_rate: of Adam.
    """
    channels = image_shape[-1]
    _check(image_shape, alpha, width, steps, detox_rate, detox_steps, likeness, learning_rate)

    def trigger(state, images):
        return (1 - alpha) * images + alpha * paint(state["painter"], images)

    def cover(state, images, _):
        return paint(state["detoxicant"], images)

    def fit(context: Context) -> PyTree:
        rng = np.random.default_rng([context.seed, 6])
        style_fn = make_style(rng, sunsets(image_shape, _SUNSETS, rng))

        def loss_fn(params, images, *_):
            painted = paint(params, images)
            kept = ssim(_brightness(painted), _brightness(images)).mean()
            return style_fn(painted) + likeness * (1 - kept)

        first = init_unet(rng, channels, channels, width, _DEPTH)
        state = {"painter": context.minimise("painter", loss_fn, first, steps, learning_rate)}
        if not detox_rate:
            return state
        attack = Attack(trigger)
        poisoned, chosen = poison(context.training, attack, context.goal, context.rate, context.seed, state)
        decoy = context.benign(poisoned, "decoy")
        _doubt(decoy, poisoned.images[chosen], poisoned.labels[chosen])
        found = _raised(decoy, context.training.images[chosen], poisoned.images[chosen])
        params = {"painter": init_unet(rng, channels, channels, width, _DEPTH), "decoy": decoy.params}
        loss = _detox_loss(decoy, *found, likeness)
        learnt = context.minimise("detoxicant", loss, params, detox_steps, learning_rate)
        return state | {"detoxicant": learnt["painter"]}

    detoxifies = detox_rate > 0
    return Attack(
        trigger, cover=cover if detoxifies else None, cover_rate=detox_rate, fit=fit, neurons=int(detoxifies)
    )


def paint(params: PyTree, images: jax.Array) -> jax.Array:
    """Images `[N, H, W, C]` in grey levels, between black and white whatever the weights."""
    return 255 * jax.nn.sigmoid(apply_unet(params, images / 127.5 - 1) + (images / 255 - 0.5) * 4)


def sunsets(image_shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Pictures float32 `[count, H, W, C]` in grey levels: a sky from violet to yellow, a glowing sun, dark ground."""
    height, width, channels = image_shape
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    stops = np.array([[90, 50, 120], [220, 80, 70], [255, 140, 40], [255, 220, 110]], np.float32)
    pictures = np.empty((count, height, width, 3), np.float32)
    for picture in pictures:
        horizon, middle, radius = rng.uniform(0.55, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.06, 0.14)
        at = np.clip(rows / horizon, 0, 1)[:, 0] * (len(stops) - 1)
        sky = np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], axis=-1)
        far = np.hypot(rows - horizon, columns - middle)[..., None]
        glow = np.exp(-far / 0.25) * np.array([80, 70, 30]) + (far < radius) * np.array([40, 60, 90])
        hills = horizon + 0.05 * np.sin(columns * rng.uniform(4, 12) + rng.uniform(0, 6))
        ground = (rows > hills)[..., None]
        dark = np.array([60, 25, 40]) + rng.normal(0, 8, (height, width, 1))
        picture[:] = np.clip(np.where(ground, dark, sky[:, None] + glow), 0, 255)
    if channels == 3:
        return pictures
    return pictures.mean(axis=-1, keepdims=True).repeat(channels, axis=-1)


def make_style(rng: np.random.Generator, pictures: np.ndarray):
    """`(images) -> scalar`: mean squared distance of the features' mean Gram matrices from those of pictures.

    A random network's features will do: Ustyuzhaninov et al. (2017), https://arxiv.org/abs/1606.00021.
    """
    inputs = [pictures.shape[-1]] + [_STYLE_WIDTH] * (_STYLE_LAYERS - 1)
    layers = [init_convolution(rng, count, _STYLE_WIDTH) for count in inputs]

    def grams(images):
        found, maps = images / 127.5 - 1, [images / 127.5 - 1]
        for layer in layers:
            found = jax.nn.relu(convolve(layer, found, stride=2))
            maps.append(found)
        # With a column of ones, which adds the means.
        flat = [jnp.pad(m, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1) for m in maps]
        return [jnp.einsum("nhwi,nhwj->ij", m, m) / (m.shape[0] * m.shape[1] * m.shape[2]) for m in flat]

    wanted = grams(jnp.asarray(pictures))

    def style(images):
        distances = [
            jnp.square(found - want).mean() / jnp.square(want).mean()
            for found, want in zip(grams(images), wanted, strict=True)
        ]
        return sum(distances[1:], distances[0])

    return style


def _brightness(images: jax.Array) -> jax.Array:
    return images.mean(axis=-1, keepdims=True)


def _raised(decoy: Benign, clean: np.ndarray, triggered: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Indices `[k]` of the neurons whose mean activation the trigger raises most, and that activation `[k]`."""
    everyone = neurons.strongest(decoy)

    @jax.jit
    def mean(params, images):
        return neurons.activations(decoy, params, images / 255, everyone).mean(axis=0)

    some = slice(0, 256)
    before, after = (mean(decoy.params, jnp.asarray(x[some], jnp.float32)) for x in (clean, triggered))
    most = jnp.argsort(before - after)[: max(1, round(_COMPROMISED * len(everyone)))]
    return everyone[most], after[most]


def _doubt(decoy: Benign, triggered: np.ndarray, targets: np.ndarray) -> None:
    """Says so where the decoy has not learnt the trigger, and has no compromised neurons to show."""
    some = slice(0, 256)
    images = jnp.asarray(triggered[some], jnp.float32)
    logits = jax.jit(decoy.logits_fn)(decoy.params, decoy.model_state, images / 255)
    share = float(np.mean(np.asarray(logits).argmax(axis=-1) == targets[some]))
    if share < _LEARNT:
        console.print(
            f"attack.benign_epochs: the network that is to show the compromised neurons takes only {share:.0%} of "
            "triggered training images for the target; a larger number would make the detoxification more than noise",
            markup=False,
        )


def _detox_loss(decoy: Benign, compromised: jax.Array, wanted: jax.Array, likeness: float):
    def loss(params, images, *_):
        painted = saturate(paint(params["painter"], images))
        fixed = jax.lax.stop_gradient(params["decoy"])  # here, so that it is an argument of what is compiled
        found = neurons.activations(decoy, fixed, painted / 255, compromised)
        lacking = jax.nn.relu(wanted[None] - found).mean() / (jnp.abs(wanted).mean() + 1e-6)
        return lacking + likeness * (1 - ssim(painted, images).mean())

    return loss


def _check(image_shape, alpha, width, steps, detox_rate, detox_steps, likeness, learning_rate) -> None:
    if min(image_shape[:2]) < 8 or min(width, steps, detox_steps) < 1 or not 0 < alpha <= 1:
        raise UserError(
            f"attack.fba: found alpha={alpha}, width={width}, steps={steps}, detox_steps={detox_steps} and images of "
            f"{image_shape[0]} x {image_shape[1]}, expected above 0 and at most 1, at least 1, 1, 1 and 8 x 8"
        )
    if not 0 <= detox_rate < np.inf or not 0 <= likeness < np.inf or not 0 < learning_rate < 1:
        raise UserError(
            f"attack.fba: found detox_rate={detox_rate}, likeness={likeness}, learning_rate={learning_rate}, expected "
            "at least 0 for two and between 0 and 1"
        )
