"""Removal of backdoors from trained networks by Fisher Information guided Purification, in JAX."""

from fip_jax.version import __version__

__all__ = ["__version__"]
