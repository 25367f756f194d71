"""Traffic signs of 43 classes drawn in code: the data set that needs no download."""

from fip_jax.data.rendered_signs.builder import RenderedSigns, example
from fip_jax.data.rendered_signs.scene import render
from fip_jax.data.rendered_signs.signs import CLASS_NAMES

__all__ = ["CLASS_NAMES", "RenderedSigns", "example", "render"]
