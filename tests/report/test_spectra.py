"""Pictures of spectra show the numbers they were given, and say them in words."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fip_jax.report.spectra import describe_densities, describe_slices, draw_densities, draw_slices


def found(**changes):
    """Of `Analysis.whole`: all eigenvalues 0 but one in ten, which is 4; and a loss of 1 + a^2 + 2 b^2."""
    square = [-1.0, 0.0, 1.0]
    part = {
        "eigenvalues": [4.0, None],
        "density": {"nodes": [[0.0, 4.0], [0.0, 4.0]], "weights": [[0.9, 0.1], [0.9, 0.1]], "size": 10},
        "line": {"distances": [-2.0, 0.0, 2.0], "loss": [5.0, 1.0, None]},
        "square": {"distances": square, "loss": [[1 + a * a + 2 * b * b for b in square] for a in square]},
    }
    return {"fisher": part, "hessian": part | changes}


def test_the_density_has_its_peaks_where_the_eigenvalues_are():
    figure = draw_densities(found())
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        curve, ticks = axis.lines
        x, y = (np.asarray(data) for data in curve.get_data())
        # Gaussians of width 4 / 200 with weights 0.9 and 0.1: heights are weight / (width sqrt(2 pi)).
        height = 1 / (0.02 * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(y[np.abs(x).argmin()], 0.9 * height, rtol=0.02)
        np.testing.assert_allclose(y[np.abs(x - 4).argmin()], 0.1 * height, rtol=0.02)
        # What is not finite has no tick.
        assert list(ticks.get_data()[0]) == [4.0]
        assert axis.get_yscale() == "log"


def test_densities_of_one_probe_have_no_band():
    one = {"nodes": [[0.0, 4.0]], "weights": [[0.9, 0.1]], "size": 10}
    fisher, hessian = draw_densities(found(density=one)).axes
    assert (len(fisher.collections), len(hessian.collections)) == (1, 0)


def test_densities_in_words():
    assert describe_densities(found(eigenvalues=[8.0])) == (
        "Spectral densities over test images, on a logarithmic scale. Fisher matrix: from 0 to 4, top eigenvalues 4, "
        "not finite. Hessian: from 0 to 4, top eigenvalues 8."
    )


def test_slices_show_the_loss_and_leave_out_what_is_not_finite():
    figure = draw_slices(found())
    FigureCanvasAgg(figure).draw()
    line, first, *_ = figure.axes
    for curve in line.lines:
        assert list(curve.get_data()[0]) == [-2.0, 0.0, 2.0]
        np.testing.assert_array_equal(curve.get_data()[1], [5.0, 1.0, np.nan])
    # The loss rises faster along the second eigenvector, the vertical one: level 2.5 cuts it nearer to the middle.
    paths = first.collections[0].get_paths()
    reach = np.abs(np.concatenate([path.vertices for path in paths if len(path.vertices)])).max(axis=0)
    assert reach.tolist() == [1.0, 1.0]
    assert first.get_xlabel() == "first eigenvector"


@pytest.mark.parametrize("loss", [[[1.0, 1.0, 1.0]] * 3, [[1.0, None, 2.0]] * 3])
def test_slices_that_are_flat_or_have_holes_can_be_drawn(loss):
    flat = {"distances": [-1.0, 0.0, 1.0], "loss": loss}
    FigureCanvasAgg(draw_slices(found(square=flat))).draw()


def test_slices_in_words():
    assert describe_slices(found()) == (
        "Mean loss along the top eigenvector, and over the plane of the first two. "
        "Fisher matrix: 1 at the network, 5 at -2 and not finite at 2; in the plane 1 to 4. "
        "Hessian: 1 at the network, 5 at -2 and not finite at 2; in the plane 1 to 4."
    )
