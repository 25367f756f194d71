"""How far a purification moved the weights."""

import jax
import numpy as np

from fip_jax.per_example import PyTree


def change(before: PyTree, after: PyTree) -> dict[str, float]:
    """`relative_change`, the norm of the difference over that of the weights before, and `norm_ratio`, after over that.

    Args:
      before: the parameters of a network.
      after: those of the purified one, in the same structure.
    """

    def norm(*trees: PyTree) -> float:
        leaves = zip(*map(jax.tree.leaves, trees), strict=True)
        parts = (
            np.subtract(*map(np.asarray, pair)) if len(pair) > 1 else np.asarray(pair[0]) for pair in leaves
        )
        return float(np.sqrt(sum(np.square(part.astype(np.float64)).sum() for part in parts)))

    whole = norm(before) or 1.0
    return {"relative_change": norm(after, before) / whole, "norm_ratio": norm(after) / whole}
