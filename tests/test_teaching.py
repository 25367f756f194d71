"""The loss of a purification by its formula: labels, the teacher's answers to another image, the second batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_trees_close, conv_net

from fip_jax import purify
from fip_jax.network import FunctionNetwork
from fip_jax.objective import Anchor, Settings
from fip_jax.teaching import Teaching, make_taught_objective

KEY = jax.random.key(0)


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def divergence(teacher, student, temperature):
    """T^2 times the mean of sum_c p (log p - log q)."""
    p, q = (log_softmax(np.asarray(z, np.float64) / temperature) for z in (teacher, student))
    return temperature**2 * (np.exp(p) * (p - q)).sum(axis=1).mean()


@pytest.fixture
def case():
    """(network, student, teacher, batch); student and teacher are (params, model_state), and differ."""
    network, params, model_state, batch = conv_net(6, np.float32)
    rng = np.random.default_rng(1)

    def changed(tree, scale):
        return jax.tree.map(
            lambda x: x * jnp.asarray(rng.uniform(1 - scale, 1 + scale, x.shape), x.dtype), tree
        )

    params = params | {"linear": jax.tree.map(lambda x: x / 4, params["linear"])}
    teacher = changed(params, 0.5), changed(model_state, 0.3)

    def images():
        return jnp.asarray(rng.uniform(size=(6, 6, 6, 3)), jnp.float32)

    batch |= {"plain": images(), "mixed": {"image": images(), "plain": images()}}
    return network, (params, model_state), teacher, batch


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize(
    "teaching",
    [
        Teaching(),
        Teaching(labels=0.5, smoothing=0.3),
        Teaching(labels=0.0, teacher=1.0, temperature=2.0),
        Teaching(teacher=0.7, mixed=0.4, temperature=3.0),
        Teaching(mixed=2.0),
    ],
)
def test_the_loss_is_the_formula(case, teaching, batch_statistics):
    network, student, teacher, batch = case
    objective = make_taught_objective(network, teaching, batch_statistics=batch_statistics)
    asked = (
        batch if objective.ask_fn is None else objective.ask_fn(Anchor(*teacher[:1], None, teacher[1]), batch)
    )
    found, state = objective.loss_fn(*student, asked, KEY)

    # Both batches of the student in one pass, so that its statistics are those of all images.
    images = [batch["image"], *([batch["mixed"]["image"]] if teaching.mixed else [])]
    answers, moved = network(*student, jnp.concatenate(images), batch_statistics=batch_statistics)
    first, *second = np.split(np.asarray(answers, np.float64), len(images))
    targets = (1 - teaching.smoothing) * np.eye(3)[np.asarray(batch["label"])] + teaching.smoothing / 3
    expected = -teaching.labels * (targets * log_softmax(first)).sum(axis=1).mean()
    t = teaching.temperature
    if teaching.teacher:
        told, _ = network(*teacher, batch["plain"])
        expected += teaching.teacher * divergence(told, first, t)
    if teaching.mixed:
        told, _ = network(*teacher, batch["mixed"]["plain"])
        expected += teaching.mixed * divergence(told, second[0], t)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert_trees_close(state, moved, 1e-6, 1e-7)


def test_without_a_teacher_nothing_is_asked(case):
    assert make_taught_objective(case[0], Teaching(), batch_statistics=True).ask_fn is None


def test_a_student_that_answers_like_the_teacher_has_nothing_to_learn():
    def apply_fn(params, images):
        return images.reshape(len(images), -1) @ params["w"]

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)}
    plain = jnp.asarray(rng.uniform(size=(4, 2, 2, 3)), jnp.float32)
    batch = {"image": plain, "plain": plain, "label": jnp.zeros(4, jnp.int32)}
    objective = make_taught_objective(
        FunctionNetwork(apply_fn), Teaching(labels=0.0, teacher=1.0, temperature=2.0), batch_statistics=True
    )
    asked = objective.ask_fn(Anchor(params, None, {}), batch)
    np.testing.assert_array_equal(asked["told"], apply_fn(params, plain))
    gradient = jax.grad(lambda p: objective.loss_fn(p, {}, asked, KEY)[0])(params)
    np.testing.assert_allclose(gradient["w"], 0, atol=1e-6)


def test_the_step_asks_the_suspicious_network_and_not_the_one_that_has_become_of_it(case):
    """Two steps by hand: in the second the teacher is still where it was."""
    network, student, teacher, batch = case
    objective = make_taught_objective(
        network, Teaching(teacher=1.0, mixed=1.0, temperature=2.0), batch_statistics=True
    )
    anchor = Anchor(teacher[0], model_state=teacher[1])
    chosen = Settings(0.1, 2, momentum=0.0)
    step = purify.make_step(objective, chosen, lambda key, step, data: data)
    state = purify.run(step, purify.init_state(chosen, *student, KEY), anchor, batch, 2)
    params, model_state = student
    asked = objective.ask_fn(anchor, batch)
    for rate in (0.1, 0.05):
        gradient, model_state = jax.grad(objective.loss_fn, has_aux=True)(params, model_state, asked, KEY)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradient)
    assert_trees_close(state.params, params, 1e-4, 1e-5)
    assert_trees_close(state.model_state, model_state, 1e-4, 1e-5)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, student[0])
    assert max(jax.tree.leaves(moved)) > 0.01
