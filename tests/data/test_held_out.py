"""The defender's images: how many, from which tracks, and none of them the victim's."""

import itertools

import numpy as np
import pytest

from fip_jax.data.held_out import hold_out
from fip_jax.data.split import Split
from fip_jax.errors import UserError


def split_of(counts, per_track=10, seed=0):
    """`counts[c]` images of class c in tracks of `per_track`, shuffled; pixel values number the images."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    tracks = None
    if per_track:
        starts = [np.arange(count) // per_track for count in counts]
        tracks = np.concatenate([1000 * c + start for c, start in enumerate(starts)]).astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Split(images, labels[order], None if tracks is None else tracks[order])


def numbers(split):
    """Positions of the images in the original split."""
    return (256 * split.images[:, 0, 0, 0].astype(int) + split.images[:, 0, 0, 1]).tolist()


@pytest.mark.parametrize("max_per_track", [1, 3, 100])
def test_no_track_is_on_both_sides(max_per_track):
    split = split_of([200, 120, 300])
    victims, clean = hold_out(split, 3, 0.05, max_per_track, seed=0)
    assert not set(victims.tracks) & set(clean.tracks)
    # Whole tracks of 10 are given up, and every image of another track is kept.
    given = np.isin(split.tracks, clean.tracks)
    assert numbers(victims) == np.flatnonzero(~given).tolist()
    assert len(victims.labels) == len(split.labels) - 10 * len(set(clean.tracks))
    assert set(numbers(clean)) <= set(np.flatnonzero(given))
    # 5 % of 200, 120 and 300.
    assert np.bincount(clean.labels).tolist() == [10, 6, 15]
    assert np.unique(clean.tracks, return_counts=True)[1].max() <= max_per_track
    # As few tracks as give the quota.
    needed = [-(-quota // min(max_per_track, 10)) for quota in (10, 6, 15)]
    assert np.bincount(np.unique(clean.tracks) // 1000).tolist() == needed


@pytest.mark.parametrize("per_track", [10, None])
def test_images_keep_their_labels_and_tracks(per_track):
    split = split_of([100, 100], per_track)
    for side in hold_out(split, 2, 0.1, 4, seed=0):
        where = numbers(side)
        assert where == sorted(set(where))
        np.testing.assert_array_equal(side.labels, split.labels[where])
        if per_track:
            np.testing.assert_array_equal(side.tracks, split.tracks[where])
        else:
            assert side.tracks is None


@pytest.mark.parametrize(
    "fraction, quotas",
    [
        # Of 100, 50 and 130, a half rounded up: 1.5, 0.75, 1.95.
        (0.015, [2, 1, 2]),
        # 2.5, 1.25, 3.25
        (0.025, [3, 1, 3]),
        # 10, 5, 13
        (0.1, [10, 5, 13]),
    ],
)
def test_quotas_round_a_half_up(fraction, quotas):
    for per_track in (5, None):
        _, clean = hold_out(split_of([100, 50, 130], per_track), 3, fraction, 2, seed=3)
        assert np.bincount(clean.labels).tolist() == quotas


def test_without_tracks_the_sides_are_disjoint_and_complete():
    split = split_of([100, 60], per_track=None)
    victims, clean = hold_out(split, 2, 0.1, 4, seed=0)
    assert len(clean.labels) == 16
    assert sorted(numbers(victims) + numbers(clean)) == list(range(160))


def test_a_track_of_two_classes_is_given_up_whole():
    # Class 1 lies in the tracks of class 0. A track that gives a clean image gives the victim nothing, of
    # either class.
    labels = np.tile(np.array([0, 1], np.int32), 40)
    split = split_of([80])._replace(labels=labels, tracks=np.arange(80, dtype=np.int32) // 8)
    victims, clean = hold_out(split, 2, 0.05, 4, seed=0)
    assert not set(victims.tracks) & set(clean.tracks)


@pytest.mark.parametrize("per_track", [10, None])
def test_a_smaller_fraction_gives_a_part(per_track):
    split = split_of([200, 150, 330], per_track)
    sets = [set(numbers(hold_out(split, 3, f, 4, seed=5)[1])) for f in (0.01, 0.02, 0.05, 0.1, 0.3)]
    assert [len(s) for s in sets] == [2 + 2 + 3, 4 + 3 + 7, 10 + 8 + 17, 20 + 15 + 33, 60 + 45 + 99]
    for small, large in itertools.pairwise(sets):
        assert small < large


def test_seeds():
    split = split_of([200, 150])
    first, same, other = (hold_out(split, 2, 0.05, 4, seed) for seed in (0, 0, 1))
    assert [numbers(side) for side in first] == [numbers(side) for side in same]
    assert set(numbers(first[1])) != set(numbers(other[1]))
    assert set(first[1].tracks) != set(other[1].tracks)
    # From all over a class, not its first or its last tracks.
    chosen = numbers(hold_out(split_of([1000]), 1, 0.05, 1, seed=0)[1])
    assert 0.25 < np.mean([position > 500 for position in chosen]) < 0.75


def test_tracks_that_are_not_known_count_as_one_each():
    # As GTSRB's test images have them.
    split = split_of([100, 60])
    unknown = split._replace(tracks=np.full(160, -1, np.int32))
    rest, clean = hold_out(unknown, 2, 0.1, 4, seed=0)
    assert np.bincount(clean.labels).tolist() == [10, 6]
    assert sorted(numbers(rest) + numbers(clean)) == list(range(160))
    assert set(clean.tracks) == {-1}
    # Some known: the first half of the images keep their tracks.
    some = np.where(np.arange(160) < 80, split.tracks, -1).astype(np.int32)
    rest, clean = hold_out(split._replace(tracks=some), 2, 0.1, 4, seed=0)
    assert not set(rest.tracks) & set(clean.tracks) - {-1}
    assert np.bincount(clean.labels).tolist() == [10, 6]


def test_own_images_may_lack_classes():
    split = split_of([100, 0, 60])
    rest, clean = hold_out(split, 4, 0.1, 4, seed=0, own=True)
    assert np.bincount(clean.labels).tolist() == [10, 0, 6]
    assert set(rest.labels) == {0, 2}


def test_too_small_a_fraction_names_the_class():
    # 0.01 of 200 is 2, of 49 is 0.49.
    with pytest.raises(UserError, match=r"clean\.fraction: 0\.01 .*class 1 \(49 images\).*larger"):
        hold_out(split_of([200, 49]), 2, 0.01, 4, seed=0)


def test_a_class_without_images_is_named():
    with pytest.raises(UserError, match=r"clean\.fraction: .*class 2 \(0 images\)"):
        hold_out(split_of([200, 100]), 3, 0.1, 4, seed=0)


@pytest.mark.parametrize(
    "per_track, fraction, max_per_track, fits",
    [
        # Class 0 has 20 images. Four tracks of 5 with one clean image each: 3 of 20 leave a track, 4 do not.
        (5, 0.15, 1, True),
        (5, 0.2, 1, False),
        # 5 cannot be had at all.
        (5, 0.25, 1, False),
        # Without tracks, 19 of 20 leave one.
        (None, 0.95, 1, True),
        (None, 0.98, 1, False),
    ],
)
def test_too_large_a_fraction_names_the_class(per_track, fraction, max_per_track, fits):
    split = split_of([20, 1000], per_track)
    if fits:
        victims, _ = hold_out(split, 2, fraction, max_per_track, seed=0)
        assert set(victims.labels) == {0, 1}
    else:
        with pytest.raises(UserError, match=r"clean\.fraction: .*every track of class 0.*smaller"):
            hold_out(split, 2, fraction, max_per_track, seed=0)


def test_unknown_tracks_are_a_track_each():
    labels = np.zeros(20, np.int32)
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    unknown = Split(images, labels, np.full(20, -1, np.int32))
    rest, clean = hold_out(unknown, 1, 0.2, 4, seed=0)
    assert (len(rest.labels), len(clean.labels)) == (16, 4)
    # As without tracks, and known ones beside them still stay together.
    _, same = hold_out(unknown._replace(tracks=None), 1, 0.2, 4, seed=0)
    np.testing.assert_array_equal(np.sort(clean.images.ravel()), np.sort(same.images.ravel()))
    mixed = unknown._replace(tracks=np.repeat([-1, 7], 10).astype(np.int32))
    rest, clean = hold_out(mixed, 1, 0.5, 1, seed=0)
    assert (clean.images >= 10).sum() == 1
    assert not (rest.images >= 10).any()
