"""Removal of backdoors from trained networks by Fisher Information guided Purification, in JAX.

`load`, `purify_network`, `purify_function` and `save` are the way in from Python; `python -m fip_jax.main` is the one
from the command line.
"""

from typing import Any

from fip_jax.errors import UserError
from fip_jax.version import __version__

_API = ("load", "purify_function", "purify_network", "save")

__all__ = ["UserError", "__version__", *_API]


def __getattr__(name: str) -> Any:
    # Only when they are used, so that a mistyped flag on the command line is answered before JAX is imported.
    if name in _API:
        from fip_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'fip_jax' has no attribute {name!r}")
