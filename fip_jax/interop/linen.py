"""A Flax Linen module as a function with a state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from fip_jax.network import arguments_of
from fip_jax.per_example import PyTree


def as_function(module: linen.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[..., Any]:
    """`(params, model_state, images, trained) -> (logits, model_state)` of a module, without dropout.

    Args:
      module: whose call takes normalised images `[N, H, W, C]`, and may have one of the usual arguments that say
        whether it is trained (see `network.arguments_of`).
      mean: per channel, subtracted from images in [0, 1].
      std: per channel, divides what is left.

    `model_state` has all collections but `params`, such as `batch_stats`.
    """

    def apply_fn(
        params: PyTree, model_state: dict[str, PyTree], images: jax.Array, trained: bool
    ) -> tuple[jax.Array, PyTree]:
        shift, scale = (jnp.asarray(x, images.dtype).reshape(1, 1, 1, -1) for x in (mean, std))
        with linen.intercept_methods(_without_dropout):
            logits, moved = module.apply(
                {"params": params, **model_state},
                (images - shift) / scale,
                mutable=list(model_state) if trained else [],
                **arguments_of(module.__call__, trained),
            )
        return logits, {**model_state, **moved}

    return apply_fn


def _without_dropout(
    call: Callable[..., Any], arguments: tuple, options: dict, context: linen.module.InterceptorContext
) -> Any:
    if isinstance(context.module, linen.Dropout) and context.method_name == "__call__":
        return arguments[0]
    return call(*arguments, **options)
