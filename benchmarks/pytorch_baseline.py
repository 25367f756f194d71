"""The purification step in PyTorch, the same mathematics as `fip_jax.objective`, to compare results and times with.

Written as somebody who knows PyTorch would: channels-last memory, autograd for what is a sum over a batch,
`torch.func` for per-example gradients and Fisher-vector products, foreach kernels for everything element-wise, and
`torch.compile` around each of the differentiated functions where that is asked for.

One thing is PyTorch's own: its BatchNorm keeps the unbiased variance in the running statistics.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, jvp, vjp, vmap
from torch.nn import functional

from benchmarks.pytorch_networks import PreActBlock, ResNet, SmallVgg
from fip_jax.objective import Settings

Tensors = dict[str, torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]  # images [N, 3, H, W] in [0, 1], labels [N]


def build(name: str, num_classes: int, width: int, arrays: dict[str, np.ndarray]) -> nn.Module:
    """The network called `name` in fip_jax with the weights that `interop.state_dict.to_torch` gives."""
    networks: dict[str, Callable[[], nn.Module]] = {
        "small_vgg": lambda: SmallVgg(num_classes, width),
        "preact_resnet18": lambda: ResNet(num_classes, width, PreActBlock, False),
    }
    module = networks[name]()
    module.load_state_dict({key: torch.tensor(array) for key, array in arrays.items()}, strict=False)
    return module.to(memory_format=torch.channels_last)


@contextlib.contextmanager
def rounding(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round to TensorFloat-32 in matrix products and convolutions; a CPU never does."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


class Metrics(NamedTuple):
    """Scalars of a step, before its update."""

    loss: torch.Tensor
    trace: torch.Tensor


class Purification:
    """The steps of a method.

    Args:
      module: the suspicious network; copied.
      settings: the method, as fip_jax has it.
      diagonal: of the Fisher matrix, by name, where there is an eta_r term.
      compiled: whether to use `torch.compile`.
      official: whether the trace is replaced by the term that the paper's published code has in its place, which is
        zero-mean noise (see `benchmarks.purification.official`).
    """

    def __init__(
        self,
        module: nn.Module,
        settings: Settings,
        diagonal: Tensors | None = None,
        *,
        compiled: bool = False,
        official: bool = False,
    ):
        self.settings, self._diagonal = settings, diagonal
        self._rounded = settings.precision != "float32"  # of the loss alone, as in fip_jax
        self._official, self._compiled = official, compiled
        self._train, self._eval = copy.deepcopy(module).train(), copy.deepcopy(module).eval()
        for part in self._train.modules():
            if isinstance(part, nn.Dropout):
                part.eval()
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        everything = dict(self._train.named_parameters()) | dict(self._train.named_buffers())
        self.params = {name: everything[name] for name in names}
        self.state = {name: tensor.detach() for name, tensor in everything.items() if name not in names}
        self._anchor = {name: tensor.detach().clone() for name, tensor in everything.items()}
        groups = [
            {
                "params": [p for p in self.params.values() if (p.ndim > 1) == kernels],
                "weight_decay": settings.weight_decay if kernels else 0.0,
            }
            for kernels in (True, False)
        ]
        self._optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]], settings.learning_rate, settings.momentum
        )
        wrap = torch.compile if compiled else (lambda fn: fn)
        self._loss = wrap(self._loss_fn)
        self._trace_gradient = wrap(grad_and_value(self._trace_fn)) if compiled else self._by_autograd
        self._logits = wrap(self._logits_fn)

    def _logits_fn(self, params: Tensors, state: Tensors, images: torch.Tensor) -> torch.Tensor:
        return functional_call(self._eval, {**state, **params}, (images,))

    def _log_probs(self, params: Tensors, state: Tensors, batch: Batch) -> torch.Tensor:
        logits = self._logits_fn(params, state, batch[0])
        return -functional.cross_entropy(logits, batch[1], reduction="none")

    def _loss_fn(self, params, state, batch) -> torch.Tensor:
        return functional.cross_entropy(
            functional_call(self._train, {**state, **params}, (batch[0],)), batch[1]
        )

    def _trace_fn(self, params: Tensors, state: Tensors, batch: Batch, noise: Any) -> torch.Tensor:
        """Tr F, estimated with the signs `noise`, or exactly; or what the official code has."""
        if self._official:
            return self._official_fn(params, state, batch, noise)
        if self.settings.num_probes:
            gradient = self._first(
                lambda p: torch.dot(noise, self._log_probs(p, state, batch)), params
            ).values()
        else:

            def of_one(p, image, label):
                return self._log_probs(p, state, (image[None], label[None]))[0]

            gradient = vmap(grad(of_one), in_dims=(None, 0, 0))(params, *batch).values()
        return sum((g.square().sum() for g in gradient), torch.zeros(())) / len(batch[1])

    def _official_fn(self, params, state, batch, noise) -> torch.Tensor:
        def mean_over_pairs(p):
            return functional.log_softmax(self._logits_fn(p, state, batch[0]), dim=-1)[:, batch[1]].mean()

        gradient = self._first(mean_over_pairs, params)
        return sum(((gradient[name] * noise[name]).sum() for name in params), torch.zeros(()))

    def _first(self, fn: Callable[[Tensors], torch.Tensor], params: Tensors) -> Tensors:
        """Gradient that can be differentiated again: by autograd in eager mode, by `torch.func` when compiled."""
        if self._compiled:
            return grad(fn)(params)
        return dict(
            zip(
                params, torch.autograd.grad(fn(params), list(params.values()), create_graph=True), strict=True
            )
        )

    def _by_autograd(self, params, state, batch, noise) -> tuple[Tensors, torch.Tensor]:
        value = self._trace_fn(params, state, batch, noise)
        return dict(
            zip(params, torch.autograd.grad(value, list(params.values())), strict=True)
        ), value.detach()

    def gradient_of_loss(self, batch: Batch) -> Any:
        """(gradients in the order of `params`, loss); moves the running statistics."""
        with rounding(self._rounded):
            value = self._loss(self.params, self.state, batch)
            return torch.autograd.grad(value, list(self.params.values())), value.detach()

    def gradient_of_trace(
        self, batch: Batch, noise: Any, state: Tensors | None = None
    ) -> tuple[Tensors, torch.Tensor]:
        """(gradients by name, trace); `noise` as `noise_for` draws it, `state` other statistics than those now."""
        params = self.params
        if self._compiled:
            # Otherwise the compiler prepares for a derivative of this gradient as well.
            params = {name: parameter.detach() for name, parameter in params.items()}
        with rounding(False):
            return self._trace_gradient(params, state or self.state, batch, noise)

    def noise_for(self, num: int) -> Any:
        """Rademacher signs of `num` examples; for the official term normal noise for every parameter."""
        if self._official:
            return {name: torch.randn_like(parameter) for name, parameter in self.params.items()}
        like = next(iter(self.params.values()))
        return torch.randint(0, 2, (num,), device=like.device).to(like.dtype) * 2 - 1

    def step(self, batch: Batch, noise: Any, learning_rate: float) -> Metrics:
        """One step, with signs or noise as `noise_for` draws them."""
        settings, leaves = self.settings, list(self.params.values())
        # The trace takes the statistics from before this batch.
        before = {
            name: tensor.clone() if "running" in name else tensor for name, tensor in self.state.items()
        }
        gradients, loss = self.gradient_of_loss(batch)
        away: Any = None
        if settings.radius:
            gradients, away = self._at_sam_point(batch, gradients)
        trace = torch.zeros(())
        if settings.eta_f:
            size = settings.trace_batch_size
            found, trace = self.gradient_of_trace((batch[0][:size], batch[1][:size]), noise, before)
            gradients = self._with_trace(gradients, list(found.values()))
        if away is not None:
            with torch.no_grad():
                torch._foreach_sub_(leaves, away)
        for parameter, gradient in zip(leaves, gradients, strict=True):
            parameter.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        if settings.eta_r:
            self._pull(settings.eta_r * learning_rate / (1 - settings.momentum))
        return Metrics(loss, trace)

    def _at_sam_point(self, batch, gradients) -> tuple[Any, list[torch.Tensor]]:
        """Moves to the SAM point; gradients there, and the way back."""
        leaves = [parameter.detach() for parameter in self.params.values()]
        scales = [p.abs() if self.settings.adaptive else torch.ones_like(p) for p in leaves]
        scaled = torch._foreach_mul(list(gradients), scales)
        factor = self.settings.radius / torch.stack(torch._foreach_norm(scaled)).norm()
        away = torch._foreach_mul(torch._foreach_mul(scaled, scales), factor)
        with torch.no_grad():
            torch._foreach_add_(leaves, away)
        buffers = [tensor for name, tensor in self.state.items() if "running" in name]
        kept = [tensor.clone() for tensor in buffers]
        gradients, _ = self.gradient_of_loss(batch)
        torch._foreach_copy_(buffers, kept)  # statistics never see perturbed weights
        return gradients, away

    def _with_trace(self, gradients: Any, smoothing: list[torch.Tensor]) -> list[torch.Tensor]:
        norm = self.settings.eta_f * torch.stack(torch._foreach_norm(smoothing)).norm()
        allowed = self.settings.trace_limit * torch.stack(torch._foreach_norm(list(gradients))).norm()
        factor = self.settings.eta_f * torch.where(norm > allowed, allowed / norm.clamp_min(1e-30), 1.0)
        return torch._foreach_add(list(gradients), torch._foreach_mul(smoothing, factor))

    def _pull(self, strength: float) -> None:
        assert self._diagonal is not None
        with torch.no_grad():
            for name, parameter in self.params.items():
                weight = strength * self._diagonal[name]
                parameter.add_(weight * self._anchor[name]).div_(1 + weight)

    def product(self, batch: Batch, vector: Tensors) -> Tensors:
        """Fisher-vector product over a batch."""

        def log_probs(p):
            return self._log_probs(p, self.state, batch)

        params = {name: parameter.detach() for name, parameter in self.params.items()}
        tangents = {name: vector[name] for name in params}  # dicts have to agree in their order as well
        with rounding(False):
            _, along = jvp(log_probs, (params,), (tangents,))
            return vjp(log_probs, params)[1](along / len(batch[1]))[0]

    def snapshot(self) -> Tensors:
        """Copies of everything that a step changes, but the momentum."""
        return {name: t.detach().clone() for name, t in (self.params | self.state).items()}

    def restore(self, snapshot: Tensors) -> None:
        """Goes back to a snapshot, with no momentum."""
        with torch.no_grad():
            for name, tensor in (self.params | self.state).items():
                tensor.copy_(snapshot[name])
        self._optimizer.state.clear()

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Classes of uint8 images `[N, 3, H, W]`."""
        with torch.no_grad(), rounding(True):
            return self._logits(self.params, self.state, images.float() / 255).argmax(1)


def draw(
    images: torch.Tensor,
    labels: torch.Tensor,
    order: torch.Tensor,
    generator: torch.Generator,
    padding: int,
    erased: int = 0,
) -> Batch:
    """The examples `order` of uint8 images `[N, 3, H, W]`, shifted at random, a square of `erased` pixels on each."""
    size, count = images.shape[-1], len(order)
    padded = functional.pad(images[order], (padding,) * 4)
    corners = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=images.device)
    rows, columns = corners + torch.arange(size, device=images.device)
    index = torch.arange(count, device=images.device)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    if erased:
        middles = torch.randint(0, size, (2, count, 1), generator=generator, device=images.device)
        places = torch.arange(size, device=images.device) - middles + erased // 2
        inside = (places >= 0) & (places < erased)
        colours = torch.randint(0, 256, (count, 1, 1, 3), generator=generator, device=images.device)
        square = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        cut = torch.where(square, colours.to(torch.uint8), cut)
    return cut.permute(0, 3, 1, 2).float() / 255, labels[order]  # channels last in memory
