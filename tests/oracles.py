"""Small networks, and answers in float64 to hold the code against."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from fip_jax.models import abstract_model
from fip_jax.network import make_log_probs_fn, split_module
from fip_jax.per_example import num_examples, of_one_example


def take(batch, n):
    """Example n of a batch."""
    return jax.tree.map(lambda leaf: leaf[n], batch)


def cast(tree, dtype):
    """The floating-point leaves of a tree in another dtype."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def make_log_prob_fn(network):
    """`(params, model_state, example) -> log p(label | image)`."""
    log_probs_fn = make_log_probs_fn(network)
    return lambda params, model_state, example: of_one_example(lambda p, b: log_probs_fn(p, model_state, b))(
        params, example
    )


def over_batch(log_prob_fn):
    """The log-likelihoods `[N]` of a batch, one by one."""
    return jax.vmap(log_prob_fn, in_axes=(None, 0))


def score_matrix(log_prob_fn, params, batch):
    """The Jacobian `[N, P]` of the N log-likelihoods, example by example, without vmap."""
    flat, unravel = ravel_pytree(params)
    score = jax.jit(jax.jacrev(lambda theta, example: log_prob_fn(unravel(theta), example)))
    return jnp.stack([score(flat, take(batch, n)) for n in range(num_examples(batch))])


def dense_fisher(log_prob_fn, params, batch):
    """F `[P, P]`, built outright."""
    scores = score_matrix(log_prob_fn, params, batch)
    return scores.T @ scores / len(scores)


def mlp_log_prob(params, example):
    """log p(label | image) of a two-layer network; `example` is a dict with an integer leaf."""
    hidden = jnp.tanh(example["image"] @ params["first"]["kernel"] + params["first"]["bias"])
    logits = hidden @ params["second"]["kernel"] + params["second"]["bias"]
    return jax.nn.log_softmax(logits)[example["label"]]


def mlp(num=7, dtype=np.float64, seed=0):
    """(log_prob_fn, params, batch) with P = 5*4 + 4 + 4*3 + 3 = 39."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {
        "first": {"kernel": normal(5, 4), "bias": normal(4)},
        "second": {"kernel": normal(4, 3), "bias": normal(3)},
    }
    batch = {"image": normal(num, 5), "label": jnp.asarray(rng.integers(0, 3, num), jnp.int32)}
    return mlp_log_prob, params, batch


class ConvNet(nnx.Module):
    """Convolution, BatchNorm, ReLU, twice; dropout; average; linear: 108 + 8 + 144 + 8 + 12 + 3 = 283."""

    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(3, 4, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv2 = nnx.Conv(4, 4, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.linear = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(self.norm2(self.conv2(x)))
        return self.linear(jnp.mean(self.dropout(x, rngs=rngs), axis=(1, 2)))


class TinyNet(nnx.Module):
    """A convolution, BatchNorm, dropout and a linear layer, for a network of `MODELS`: little to compile."""

    def __init__(self, num_classes, image_size=8, width=2, *, rngs):
        self.conv = nnx.Conv(3, width, (3, 3), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.linear = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = self.dropout(nnx.elu(self.norm(self.conv(x))), rngs=rngs)
        return self.linear(jnp.mean(x, axis=(1, 2)))


def conv_net(num=5, dtype=np.float64, seed=0):
    """(network, params, model_state, batch), every BatchNorm variable away from its initial 0 or 1."""
    rng = np.random.default_rng(seed)
    network, params, model_state = split_module(
        ConvNet(rngs=nnx.Rngs(seed)), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    )

    def shift(leaf):
        return jnp.asarray(np.asarray(leaf) + rng.uniform(0.05, 0.3, leaf.shape), dtype)

    params, model_state = jax.tree.map(shift, (params, model_state))
    batch = {
        "image": jnp.asarray(rng.uniform(size=(num, 6, 6, 3)), dtype),
        "label": jnp.asarray(rng.integers(0, 3, num), jnp.int32),
    }
    return network, params, model_state, batch


def drawn_model(name, num_classes, image_size, seed=0, **options):
    """A network of `MODELS` whose weights NumPy draws, which compiles nothing; its BatchNorms do something."""
    rng = np.random.default_rng(seed)
    graphdef, state = nnx.split(abstract_model(name, num_classes, image_size, **options))

    def draw(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        values = (
            rng.standard_normal(leaf.shape) * scale if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape)
        )
        return jnp.asarray(values, leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def conv_net_log_prob(num=5, dtype=np.float64):
    """(log_prob_fn, params, batch) of `conv_net`, with its running statistics."""
    network, params, model_state, batch = conv_net(num, dtype)
    log_prob_fn = make_log_prob_fn(network)
    return lambda p, example: log_prob_fn(p, model_state, example), params, batch


def assert_trees_close(found, expected, rtol, atol=0.0):
    """Same structure and dtypes, and every entry within rtol and atol."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_trees_equal(found, expected):
    """Same structure and dtypes, equal bit for bit."""
    assert_trees_close(found, expected, rtol=0)
