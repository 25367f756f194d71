"""What a network makes of clean and of triggered images: its penultimate features, drawn in two dimensions by t-SNE.

Source of t-SNE: van der Maaten and Hinton (2008), "Visualizing Data using t-SNE", JMLR 9. This picture alone needs
scikit-learn, which is optional.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fip_jax.data.batches import to_unit
from fip_jax.data.split import spread
from fip_jax.errors import UserError
from fip_jax.evaluate import BATCH_SIZE
from fip_jax.material import Material
from fip_jax.precision import in_float32
from fip_jax.suspect import Suspect

# Okabe and Ito (2008); each kind of point has a shape of its own as well.
STYLES: dict[str, dict[str, Any]] = {
    "clean, other classes": {"color": "#999999", "marker": ".", "s": 14},
    "clean, target class": {"color": "#0072b2", "marker": "o", "s": 22},
    "triggered": {"color": "#d55e00", "marker": "^", "s": 22},
}
FEWEST = 8  # points; fewer make no picture


class Points(NamedTuple):
    """Images whose features are drawn.

    Attributes:
      images: uint8 `[N, H, W, C]`, clean ones first.
      kinds: key of `STYLES` `[N]`.
      targets: whether a clean image is of the attacker's target class, bool `[num_clean]`; all False where triggered
        images have several targets or there are none.
      shown: classes that the images show, int32 `[N, 2]`; one class twice.
    """

    images: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray
    shown: np.ndarray


def choose(material: Material, count: int) -> Points:
    """At most `count` clean and as many triggered test images, each at equal distances through its set."""
    test, triggered = material.test.spread(count), material.triggered
    targets = np.zeros(len(test.labels), bool)
    images, shown = [test.images], [np.stack([test.labels] * 2, axis=1)]
    if triggered is not None:
        found = spread(len(triggered.labels), count)
        images.append(triggered.images[found])
        shown.append(triggered.shown[found])
        if len(wanted := np.unique(triggered.targets)) == 1:
            targets = test.labels == wanted[0]
    num_triggered = sum(map(len, images[1:]))
    clean, target, trigger = STYLES
    kinds = [*np.where(targets, target, clean), *[trigger] * num_triggered]
    return Points(np.concatenate(images), np.array(kinds), targets, np.concatenate(shown))


def features_of(network: Suspect, images: np.ndarray) -> np.ndarray | None:
    """Penultimate features `[N, D]` of uint8 images; None without a dense layer, or where they are not finite."""

    @jax.jit
    @in_float32
    def features(params, model_state, batch):
        return network.network.features(params, model_state, to_unit(batch))

    parts = []
    for start in range(0, len(images), BATCH_SIZE):
        part = features(network.params, network.model_state, images[start : start + BATCH_SIZE])
        if part is None or not np.isfinite(part).all():
            return None
        parts.append(np.asarray(part))
    return np.concatenate(parts)


def embed(features: np.ndarray, seed: int) -> np.ndarray:
    """The features in two dimensions, float `[N, 2]`.

    Raises:
      UserError: scikit-learn is not installed.
    """
    perplexity = min(30.0, (len(features) - 1) / 3)
    # Every feature in units of the whole cloud's spread: PCA, the start, then neither under- nor overflows.
    centred = features - features.mean(axis=0, keepdims=True)
    scaled = centred / max(centred.std(), 1e-12)
    init = "pca" if features.shape[1] > 1 and centred.any() else "random"
    return _tsne()(perplexity=perplexity, init=init, random_state=seed).fit_transform(scaled)


def _tsne() -> Any:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(
            "it is optional and needs scikit-learn (pip install scikit-learn; report.representations=0 asks for none)"
        ) from error
    return TSNE


def neighbours(features: np.ndarray, points: Points) -> tuple[float, float | None] | None:
    """Which clean image is nearest to a triggered one, by features: one of what it shows, one of the target class.

    Returns:
      Shares of the triggered images, the second None without one target; None without triggered images.
    """
    num_clean = len(points.targets)
    if num_clean == len(points.images):
        return None
    clean, triggered = (part.astype(np.float64) for part in np.split(features, [num_clean]))
    # ||t - c||^2 up to the part that is the same for all c.
    nearest = ((clean**2).sum(axis=1)[None] - 2 * triggered @ clean.T).argmin(axis=1)
    own = float((points.shown[nearest, :1] == points.shown[num_clean:]).any(axis=1).mean())
    return own, float(points.targets[nearest].mean()) if points.targets.any() else None


def draw(points: Points, embedded: list[np.ndarray], whens: tuple[str, ...]) -> Figure:
    """A panel for each network, side by side.

    Args:
      points: of `choose`.
      embedded: of `embed`, one for each network.
      whens: their titles.
    """
    figure = Figure(figsize=(4.6 * len(embedded), 4.6), layout="constrained")
    for axis, places, when in zip(
        figure.subplots(1, len(embedded), squeeze=False)[0], embedded, whens, strict=True
    ):
        _draw_panel(axis, places, points.kinds)
        axis.set_title(when)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES))
    figure.suptitle("Penultimate features of test images, by t-SNE", fontsize=12)
    return figure


def _draw_panel(axis: Axes, places: np.ndarray, kinds: np.ndarray) -> None:
    for kind, style in STYLES.items():
        if (kinds == kind).any():
            axis.scatter(*places[kinds == kind].T, **style, alpha=0.75, linewidths=0, label=kind)
    axis.set(xticks=[], yticks=[])


def describe(points: Points, features: list[np.ndarray], whens: tuple[str, ...]) -> str:
    """What `draw` shows, with what distances in the plane cannot tell: where triggered images lie among clean ones."""
    counts = ", ".join(
        f"{(points.kinds == kind).sum()} {kind}" for kind in STYLES if (points.kinds == kind).any()
    )
    sentences = [f"Penultimate features of test images by t-SNE: {counts}."]
    for found, when in zip(features, whens, strict=True):
        shares = neighbours(found, points)
        if shares is not None:
            own, target = shares
            rest = "" if target is None else f", {100 * target:.1f} % of the target class"
            sentences.append(
                f"{when.capitalize()}, the clean image that is nearest to a triggered one by the features is of "
                f"its own class for {100 * own:.1f} % of them{rest}."
            )
    sentences.append("Distances between far points of such a picture mean little.")
    return " ".join(sentences)


def make(
    material: Material, networks: tuple[Suspect, ...], count: int, seed: int, whens: tuple[str, ...]
) -> tuple[Figure, str]:
    """The figure and its words.

    Args:
      material: the run's data.
      networks: before and, where there was one, after purification.
      count: images of each kind, at most.
      seed: of t-SNE.
      whens: what to call the networks.

    Raises:
      UserError: no scikit-learn, too few images, or a network without features that could be drawn.
    """
    points = choose(material, count)
    if len(points.images) < FEWEST:
        raise UserError(
            f"report.representations: found {len(points.images)} test images, expected {FEWEST} or more"
        )
    _tsne()  # before anything is computed for it
    features = []
    for network in networks:
        found = features_of(network, points.images)
        if found is None:
            raise UserError(
                "report.representations: found no finite features, expected a network with a dense layer (nnx.Linear)"
            )
        features.append(found)
    embedded = [embed(found, seed) for found in features]
    return draw(points, embedded, whens), describe(points, features, whens)
