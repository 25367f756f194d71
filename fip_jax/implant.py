"""The attacker's work: the trigger is made, the training set poisoned, and the victim trained."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from fip_jax import phase, purify
from fip_jax.attacks import neurons
from fip_jax.attacks.attack import Benign, Context, FitLoss
from fip_jax.attacks.check import attack_rate
from fip_jax.attacks.poison import triggered_test_set
from fip_jax.attacks.storage import load_state, save_state
from fip_jax.attacks.training import ByBatch
from fip_jax.data.batches import make_draw, to_device
from fip_jax.data.split import Split, spread
from fip_jax.material import Material, with_poison
from fip_jax.network import Network
from fip_jax.objective import Objective, Settings
from fip_jax.per_example import PyTree
from fip_jax.suspect import Course, Suspect, build, train
from fip_jax.workdir import Workdir

# Of what an attack learns before the victim is trained.
_BATCH_SIZE = 64
_ROW_EVERY = 50  # steps: on a GPU these are one dispatch, after which a checkpoint may be taken

# Rates of a network on some data.
Measure = Callable[[Suspect | purify.State, Material], phase.Row]


def check(config: ConfigDict, fresh: Suspect, material: Material) -> None:
    """Refuses, before any work is done, an attack that asks for more than the network has.

    Args:
      config: the run's.
      fresh: the network with fresh weights.
      material: from `material.prepare`.

    Raises:
      UserError: says what is lacking.
    """
    attack, network = material.attack, fresh.network
    if attack is None or not attack.neurons or config.victim.checkpoint or material.attack_state is not None:
        return
    assert isinstance(network, Network)  # what `build` gives
    head = network.head(fresh.params, fresh.model_state, material.image_shape)
    neurons.check(fresh.params, head, attack.neurons)


def implant(
    config: ConfigDict, fresh: Suspect, material: Material, workdir: Workdir, measure: Measure
) -> tuple[Suspect, Material]:
    """Trains the victim.

    Args:
      config: the run's.
      fresh: the network with fresh weights.
      material: from `material.prepare`, with training images.
      workdir: for checkpoints, `victim/`, and `attack/`, which holds what the attack has learnt.
      measure: rates to log each epoch.

    Returns:
      (victim, the data with the triggered test images).
    """
    assert material.training is not None  # or `prepare` would have refused
    attack, goal = material.attack, material.goal
    if attack is None or goal is None:
        return train(config, fresh, material.training, workdir, _on(material, measure)), material
    if attack.joint is not None and material.attack_state is None:
        return _jointly(config, fresh, material, workdir, measure)
    state, folder = material.attack_state, workdir.path / "attack"
    if attack.fit is not None and state is None:
        if not folder.exists():
            learnt = attack.fit(_context(config, fresh, material, workdir))
            save_state(folder, config.attack, material.image_shape, learnt)
        state = load_state(folder, config.attack, material.image_shape)
        triggered = triggered_test_set(material.test, attack, goal, state)
        material = material._replace(attack_state=state, triggered=triggered)
    by_batch = None
    if attack.every_batch:
        by_batch = ByBatch(attack, goal, attack_rate(config, attack), state, False)
    elif material.poisoned is None:
        material = with_poison(material, config)
    assert material.training is not None
    course = Course(by_batch=by_batch)
    return train(config, fresh, material.training, workdir, _on(material, measure), course), material


def _on(material: Material, measure: Measure) -> phase.Measure:
    return lambda found: measure(found, material)


def _jointly(
    config: ConfigDict, fresh: Suspect, material: Material, workdir: Workdir, measure: Measure
) -> tuple[Suspect, Material]:
    """Trains the victim and the trigger together."""
    training, attack, goal = material.training, material.attack, material.goal
    assert training is not None and attack is not None and goal is not None and attack.fit is not None
    folder, state = workdir.path / "attack", None
    if not (workdir.path / "victim").exists():
        state = attack.fit(_context(config, fresh, material, workdir))
    eligible = np.flatnonzero(goal.targets(material.test.labels) != material.test.labels)
    few = material.test.take(eligible[spread(len(eligible), config.report.eval_images)])

    def rates(found: purify.State) -> phase.Row:
        triggered = triggered_test_set(few, attack, goal, found.params["attack"])
        return measure(found._replace(params=found.params["network"]), material._replace(triggered=triggered))

    course = Course(by_batch=ByBatch(attack, goal, attack_rate(config, attack), state, True))
    victim = train(
        config,
        fresh,
        training,
        workdir,
        rates,
        course,
        lambda learnt: save_state(folder, config.attack, material.image_shape, learnt),
    )
    state = load_state(folder, config.attack, material.image_shape)
    triggered = triggered_test_set(material.test, attack, goal, state)
    return victim, material._replace(attack_state=state, triggered=triggered)


def _context(config: ConfigDict, fresh: Suspect, material: Material, workdir: Workdir) -> Context:
    assert material.training is not None and material.goal is not None and material.attack is not None
    data = to_device(material.training.images, material.training.labels)

    def benign(split: Split, name: str) -> Benign:
        course = Course(name, f"attack: {name} network", config.attack.benign_epochs, None, False, 12)
        # Not the victim's own first weights, which would tell the attacker more than he can know.
        other = build(fresh.description, int(np.random.default_rng([config.seed, 9]).integers(2**32)))
        found = train(config, other, split, workdir, lambda _: {}, course)
        network = found.network
        assert isinstance(network, Network)  # what `build` gives
        return Benign(
            lambda params, state, images: network(params, state, images)[0],
            network.features,
            network.head(found.params, found.model_state, material.image_shape),
            found.params,
            found.model_state,
        )

    def minimise(name: str, loss_fn: FitLoss, params: PyTree, num_steps: int, learning_rate: float) -> PyTree:
        return _minimise(config, workdir, data, name, loss_fn, params, num_steps, learning_rate)

    rate = attack_rate(config, material.attack)
    return Context(material.training, material.goal, rate, config.seed, benign, minimise)


def _minimise(
    config: ConfigDict,
    workdir: Workdir,
    data: PyTree,
    name: str,
    loss_fn: FitLoss,
    params: PyTree,
    num_steps: int,
    learning_rate: float,
) -> PyTree:
    """What an attack learns before the victim is trained, as a phase of the run."""
    settings = Settings(learning_rate, num_steps)
    adam = optax.adam(learning_rate)

    def mean_loss(params, model_state, batch, key):
        return loss_fn(params, batch["image"] * 255, batch["label"], key), model_state

    objective = Objective(mean_loss, lambda *_: jnp.zeros(()))
    # Each phase draws batches of its own.
    key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
    state = purify.init_state(settings, params, {}, key, adam)
    every = min(num_steps, _ROW_EVERY)
    around = phase.Phase(
        name, f"attack: {name}", num_steps, every, lambda _: {}, config.report.checkpoint_seconds
    )
    draw = make_draw(_BATCH_SIZE)
    step_fn = purify.make_step(objective, settings, draw, tx=adam, rate=lambda _: learning_rate)
    return phase.run(around, workdir, step_fn, state, None, data).state.params
