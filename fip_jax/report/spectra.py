"""Pictures of spectra, and of the loss along top eigenvectors."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from fip_jax.report.text import number
from fip_jax.spectrum import Density

MATRICES = {"fisher": ("Fisher matrix", "#2166ac"), "hessian": ("Hessian", "#b35806")}


def draw_densities(found: dict[str, Any]) -> Figure:
    """Spectral densities, blurred, on a logarithmic scale; ticks above mark the top eigenvalues.

    Args:
      found: of `Analysis.whole`.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    for axis, (matrix, (name, colour)) in zip(figure.subplots(2, 1), MATRICES.items(), strict=True):
        part = found[matrix]["density"]
        density = Density(np.array(part["nodes"]), np.array(part["weights"]), part["size"])
        low, high = density.nodes.min(), density.nodes.max()
        width = max((high - low) / 200, 1e-12)
        grid = np.linspace(low - 5 * width, high + 5 * width, 1000)
        mean, error = density.on(grid, width)
        axis.semilogy(grid, mean, color=colour, label=f"{name}, Gaussian blur {width:.2g}")
        if np.isfinite(error).all():
            axis.fill_between(grid, np.maximum(mean - error, 1e-300), mean + error, color=colour, alpha=0.25)
        # Below this there is less than a thousandth of an eigenvalue.
        axis.set_ylim(1e-3 / density.size / width, 3 * mean.max())
        values = [value for value in found[matrix]["eigenvalues"] if value is not None]
        axis.plot(
            values, np.full(len(values), 0.96), "|", color="#000000", transform=axis.get_xaxis_transform()
        )
        axis.set(xlabel="eigenvalue", ylabel="density")
        axis.legend(loc="upper right", fontsize=8)
        axis.grid(alpha=0.3)
    figure.suptitle("Spectra, over test images", fontsize=12)
    return figure


def describe_densities(found: dict[str, Any]) -> str:
    """What `draw_densities` shows: where each spectrum begins and ends, and its top eigenvalues."""
    sentences = ["Spectral densities over test images, on a logarithmic scale."]
    for matrix, (name, _) in MATRICES.items():
        nodes = found[matrix]["density"]["nodes"]
        top = ", ".join(map(number, found[matrix]["eigenvalues"]))
        low, high = np.min(nodes), np.max(nodes)
        sentences.append(f"{name}: from {low:.4g} to {high:.4g}, top eigenvalues {top}.")
    return " ".join(sentences)


def describe_slices(found: dict[str, Any]) -> str:
    """What `draw_slices` shows: the loss here, at both ends of each line, and its range over each square."""
    sentences = ["Mean loss along the top eigenvector, and over the plane of the first two."]
    for matrix, (name, _) in MATRICES.items():
        distances, loss = found[matrix]["line"]["distances"], found[matrix]["line"]["loss"]
        square = _array(found[matrix]["square"]["loss"])
        low, high = np.nanmin(square), np.nanmax(square)
        sentences.append(
            f"{name}: {number(loss[len(loss) // 2])} at the network, {number(loss[0])} at {distances[0]:.4g} and "
            f"{number(loss[-1])} at {distances[-1]:.4g}; in the plane {low:.4g} to {high:.4g}."
        )
    return " ".join(sentences)


def draw_slices(found: dict[str, Any]) -> Figure:
    """The mean loss along the top eigenvector, and over the plane of the first two.

    Args:
      found: of `Analysis.whole`.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    line, *squares = figure.subplots(1, 1 + len(MATRICES))
    for matrix, (name, colour) in MATRICES.items():
        part = found[matrix]["line"]
        line.plot(part["distances"], _array(part["loss"]), color=colour, label=name)
    line.set(xlabel="distance along the top eigenvector", ylabel="mean loss", yscale="log")
    line.legend(fontsize=8)
    line.grid(alpha=0.3)
    for axis, (matrix, (name, _)) in zip(squares, MATRICES.items(), strict=True):
        part = found[matrix]["square"]
        values = np.maximum(_array(part["loss"]).T, 1e-12)
        levels = np.geomspace(np.nanmin(values), np.nanmax(values) * 1.0001, 12)
        drawn = axis.contourf(
            part["distances"], part["distances"], values, levels, norm=LogNorm(), cmap="cividis"
        )
        figure.colorbar(drawn, ax=axis, format="%.2g")
        axis.plot(0, 0, "+", color="#ffffff")
        axis.set(title=f"{name}, loss", xlabel="first eigenvector", ylabel="second", aspect="equal")
    return figure


def _array(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=float)
