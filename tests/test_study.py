"""The study: rows that are there are not run again, torn rows are, and the official code's term is what it is."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from oracles import conv_net

from benchmarks.purification import before, models, official, retuning, rows, split, study, summary
from benchmarks.purification.tables import TABLES, Run, settings
from fip_jax.evaluate import Rates
from fip_jax.network import make_objective
from fip_jax.objective import Settings

PLACES = models.Places(Path("/i"), Path("/m"), Path("/o"), Path("/g"), Path("/d"), Path("/v"))


def row(run, **rates):
    names = [f"{name}_{when}" for name in Rates._fields for when in ("before", "after")]
    return {**study.key_of(run), **dict.fromkeys(names, 0.5), "der": 0.5, "seconds": 1.5, **rates}


def test_a_killed_study_goes_on(tmp_path):
    path = tmp_path / "results" / "table.csv"
    runs = [Run("gtsrb/blend", "fip", settings(fip__eta_f=0.1), seed=seed) for seed in range(3)]
    assert study.pending(iter(runs), path) == runs
    for run in runs[:2]:
        rows.append(path, row(run))
    assert study.pending(iter(runs), path) == runs[2:]
    whole = path.read_bytes()
    for cut in (1, 5, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert study.pending(iter(runs), path) == runs[1:]
        rows.append(path, row(runs[1]))
        assert path.read_bytes() == whole
    path.write_bytes(whole[:10])  # not even a header
    assert study.pending(iter(runs), path) == runs
    rows.append(path, row(runs[0]))
    assert study.pending(iter(runs), path) == runs[1:]


@pytest.mark.parametrize("table", TABLES)
def test_tables_name_what_there_is(table):
    runs = list(TABLES[table]())
    assert len({tuple(study.key_of(run).values()) for run in runs}) == len(runs)
    for run in runs:
        if any(part in run.model for part in ("trojan", "l0", "medic")):
            continue  # their configs read the trigger's file
        config = study.configure(run, PLACES)
        for key, value in run.settings:
            *folders, name = key.split(".")
            assert functools.reduce(lambda part, name: part[name], folders, config)[name] == value


def test_every_network_is_on_one_side_of_the_split():
    assert not split.DEVELOPMENT.keys() & split.VALIDATION.keys()
    assert {**split.DEVELOPMENT, **split.VALIDATION}.keys() == {
        *models.PUBLISHED,
        *models.TRAINED,
        *models.BENIGN,
    }
    kinds = {"patch", "blended", "sinusoid", "clean-label", "warped", "learnt", "quantised", "composite"}
    assert set(split.VALIDATION.values()) == {*kinds, "all-to-all", "benign"}
    assert set(split.DEVELOPMENT.values()) <= set(split.VALIDATION.values())
    for name, kind in (split.DEVELOPMENT | split.VALIDATION).items():
        assert (kind == "benign") == (name in models.WITHOUT_BACKDOOR)


def test_validation_has_clean_images_of_its_own():
    def clean_images(name):
        config = models.config_of(name, PLACES)
        return config.dataset.name, config.clean.source, config.seed

    trained = [name for name in (*models.TRAINED, *models.BENIGN) if not name.startswith("cifar10")]
    seen = {clean_images(name) for name in trained if name in split.DEVELOPMENT}
    assert not seen & {clean_images(name) for name in trained if name in split.VALIDATION}


def test_a_line_of_the_table_of_victims():
    name, benign = "gtsrb/sig_31", "gtsrb/benign_33"
    found = before.line(name, "small_vgg", 392, Rates(0.9712, 0.8, 0.1))
    assert found == f"| `{name}` | validation | sinusoid | small_vgg | 392 | 97.1 / 80.0 / 10.0 |"
    assert before.line(benign, "x", 1, Rates(0.5, None, None)).endswith("| benign | x | 1 | 50.0 |")


def test_seeds_and_shares():
    published = study.configure(Run("ibau/cifar10_badnets", "ft", clean=0.5, seed=2), PLACES)
    assert (published.seed, published.defense.seed, published.clean.fraction) == (2, 0, 0.025)
    trained = study.configure(Run("gtsrb/badnets", "fip_noise", seed=2), PLACES)
    assert (trained.seed, trained.defense.seed, trained.defense.name) == (0, 2, "fip")


def test_every_curve_of_retuning_has_its_networks():
    curves = list(retuning.starts())
    assert len(set(curves)) == len(curves)
    for start in curves:
        assert start.model in models.TRAINED
        assert retuning.NEVER_POISONED[start.model] in models.BENIGN
        config = study.configure(Run(start.model, "fip", seed=start.seed), PLACES)
        benign = models.config_of(retuning.NEVER_POISONED[start.model], PLACES)
        # Both were trained without the same clean images.
        assert (config.seed, config.clean.fraction) == (benign.seed, benign.clean.fraction)


def test_the_official_term(x64):
    network, params, model_state, batch = conv_net(4)
    objective = make_objective(network, batch_statistics=False, dropout=False)
    flat, unravel = ravel_pytree(params)

    def mean_over_pairs(theta):
        log_probs = jax.nn.log_softmax(network(unravel(theta), model_state, batch["image"])[0])
        return sum(log_probs[n, label] for n in range(4) for label in batch["label"]) / 16

    gradient = jax.grad(mean_over_pairs)(flat)
    chosen = Settings(0.1, 1)
    draw = jax.jit(jax.vmap(lambda key: official.noise(objective, chosen, params, model_state, batch, key)))
    samples = draw(jax.random.split(jax.random.key(0), 4000))
    # A normal variable of mean zero and the gradient's norm.
    norm = float(jnp.linalg.norm(gradient))
    assert abs(samples.mean()) < 4 * norm / np.sqrt(len(samples))
    np.testing.assert_allclose(samples.std(), norm, rtol=4 / np.sqrt(2 * len(samples)))


def test_summary_by_hand():
    found = []
    for seed, (der, acc) in enumerate([(0.9, 0.95), (0.8, 0.91)]):
        for model in ("a", "b"):
            rates = {"acc_before": 0.97, "acc_after": acc, "asr_after": 0.02, "ra_after": 0.9, "der": der}
            found.append({k: str(v) for k, v in row(Run(model, "fip", seed=seed), **rates).items()})
    found[1]["asr_after"] = "0.06"  # of the one seed 2 and 6, of the other 2 and 2
    lines = summary.over_networks(found)
    # Lost 2 and 6 points, mean 4, deviation sqrt 8; DER mean 0.85, deviation 0.0707.
    expected = "4.0 ± 2.8 | 3.0 ± 1.4 | 4.0 ± 2.8 | 3.0 ± 2.8 | 0.850 ± 0.071 | 1.5 ± 0.0"
    assert lines[-1] == f"| fip | 2 | {expected} |"
    assert len(lines) == 5
    found[1]["asr_after"] = "0.02"
    found.append({k: str(v) for k, v in row(Run("a", "ft")).items()})  # b has none: averages over a alone
    lines = summary.over_networks(found)
    assert lines[0].startswith("**all networks** (1)")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| fip", "| ft"]
    table = summary.side_by_side(found)
    assert table[0] == "| network | before | fip | ft |"
    # Before: ACC 97, 97 and 50. After: the ASR is 2 in both rows, so that no deviation is shown.
    assert table[2] == "| `a` | 81.3 / 50.0 / 50.0 | 93.0 / 2.0 / 90.0 | 50.0 / 50.0 / 50.0 |"
    assert table[3] == "| `b` | 97.0 / 50.0 / 50.0 | 93.0 / 2.0 / 90.0 |  |"
    found[0]["asr_after"] = "0.03"  # 2 and 3: mean 2.5, deviation 0.707
    assert "| 93.0 / 2.5 ± 0.7 / 90.0 |" in summary.side_by_side(found)[2]
    found[0]["asr_after"] = "0.02"
    table = summary.by_network(found)
    assert "| fip | 2 | 93.0 ± 2.8 | 2.0 ± 0.0 | 90.0 ± 0.0 | 0.850 ± 0.071 | 1.5 ± 0.0 |" in table
