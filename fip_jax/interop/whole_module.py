"""Whole modules and TorchScript, read for the tensors in them: as data, without the code that they are of.

`torch.save(model)` pickles objects by the names of their classes, whose code lies elsewhere. The names of the tensors
are those of the state dict, so that a known network is found in it all the same. What is written afterwards is a state
dict.
"""

from pathlib import Path
from typing import Any

from fip_jax.errors import UserError
from fip_jax.interop import torch_file
from fip_jax.interop.pickled_values import Opaque, TensorRef
from fip_jax.interop.torch_file import TorchFile

# Where programs put a state dict inside of what they save; the first of these that is there counts.
PLACES = (
    *("net", "state_dict", "model", "netC", "model_state_dict", "classifier", "network", "weights"),
    *("model_state", "net_state_dict", "state", "net_dict", "model_dict", "params", "network_state_dict"),
    *("student", "backbone", "module", "ema", "ema_state_dict", "model_ema", "state_dict_ema"),
)
# Parts can be held many times, and in each other.
_MAX_LOOKED_AT = 200_000
_MAX_PREFIX = 300


def read(path: Path, *, script: bool) -> tuple[TorchFile, str] | None:
    """A file of PyTorch that refers to more than plain values, and in words what it is; None without a network in it.

    Args:
      path: the file.
      script: whether it is TorchScript, whose content is a module.

    Returns:
      (file whose content is a state dict, or a dictionary with one, and what was found).
    """
    try:
        file = torch_file.read(path, any_name=True)
    except UserError:
        return None
    content = file.content
    candidates = [content, *(content.get(key) for key in PLACES)] if isinstance(content, dict) else [content]
    for value in candidates:
        if isinstance(value, Opaque):
            tensors = _tensors(value)
            if tensors:
                kind = "TorchScript" if script else f"a whole module ({str(value.kind)[:80]!r})"
                return file._replace(content=tensors), kind
        elif (
            not script
            and isinstance(value, dict)
            and any(isinstance(part, TensorRef) for part in value.values())
        ):
            kept = {key: part for key, part in value.items() if isinstance(part, TensorRef)}
            return file._replace(content=kept), "a state dict beside objects of unknown classes"
    return None


def _tensors(module: Opaque) -> dict[str, TensorRef]:
    """The tensors of a module and of its parts by the names that they have in its state dict."""
    found: dict[str, TensorRef] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    looked_at = 0
    while waiting and looked_at < _MAX_LOOKED_AT:
        prefix, part = waiting.pop()
        state = part.state if isinstance(part, Opaque) else None
        if not isinstance(state, dict) or len(prefix) > _MAX_PREFIX:
            continue
        looked_at += 1 + sum(len(held) for held in (state, *state.values()) if isinstance(held, dict))
        own, parts = _own_tensors(state), state.get("_modules", {})
        found |= {f"{prefix}{name}": value for name, value in own.items()}
        # Of TorchScript the parts are attributes like all others.
        parts = parts if isinstance(parts, dict) and parts else state
        inner = [(f"{prefix}{key}.", value) for key, value in parts.items() if isinstance(value, Opaque)]
        waiting.extend(reversed(inner))
    return found


def _own_tensors(state: dict[str, Any]) -> dict[str, TensorRef]:
    if "_parameters" not in state:
        return {key: value for key, value in state.items() if isinstance(value, TensorRef)}
    passing = state.get("_non_persistent_buffers_set", [])
    found: dict[str, TensorRef] = {}
    for key in ("_parameters", "_buffers"):
        held = state.get(key)
        for name, value in held.items() if isinstance(held, dict) else ():
            if isinstance(value, TensorRef) and not (isinstance(passing, list) and name in passing):
                found[name] = value
    return found
