"""Covering and grouping: the greedy bound, no row twice, and equal vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secondlook.selection.clusters import k_centre, k_means_plus_plus, k_medoids

NUMBERS = st.floats(-1, 1, width=32)


@st.composite
def vectors(draw: st.DrawFn, most: int = 30) -> np.ndarray:
    """(N, 3) unit vectors, some of them equal."""
    rows = draw(arrays.arrays(np.float32, (draw(st.integers(1, most)), 3), elements=NUMBERS))
    rows[:, 0] += 1.5  # none is zero
    rows = rows[draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=most))]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=2)


@given(vectors(), st.integers(1, 12), st.booleans())
def test_what_is_chosen_covers_as_the_greedy_bound_says(
    found: np.ndarray, count: int, with_known: bool
) -> None:
    known = found[:2] if with_known else None
    rows, alike = k_centre(found, count, known)
    assert len(rows) == min(count, len(found)) == len(set(rows.tolist()))
    again, _ = k_centre(found, count, known)
    assert rows.tolist() == again.tolist()
    centres = found[rows] if known is None else np.concatenate([known, found[rows]])
    radius = distances(found, centres).min(axis=1).max()
    # Each choice was as far from all before it as the farthest that is left: with one more, that
    # many vectors are pairwise that far apart, so no choice of as many covers within radius / 2.
    for place, row in enumerate(rows.tolist()):
        before = found[rows[:place]]
        before = before if known is None else np.concatenate([known, before])
        if len(before):
            nearest = distances(found[[row]], before).min()
            assert nearest >= radius - 1e-3
            assert alike[place] == pytest.approx(1 - nearest**2 / 2, abs=1e-3)
        else:
            assert np.isnan(alike[place])


def test_nothing_is_chosen_of_nothing() -> None:
    rows, alike = k_centre(np.zeros((0, 3), np.float32), 3)
    assert not len(rows) and not len(alike)
    medoids, groups = k_medoids(np.zeros((0, 3), np.float32), 3, rng())
    assert not len(medoids) and not len(groups)


@given(vectors(), st.integers(1, 12))
def test_seeds_are_no_row_twice_and_no_equal_ones_while_others_are_left(
    found: np.ndarray, count: int
) -> None:
    rows = k_means_plus_plus(found, count, rng())
    assert len(set(rows.tolist())) == min(count, len(found))
    distinct = len(np.unique(found.round(2), axis=0))
    assert len(np.unique(found[rows], axis=0)) >= min(distinct, len(rows)) - 1
    assert rows.tolist() == k_means_plus_plus(found, count, rng()).tolist()


@given(vectors(), st.integers(1, 12))
def test_every_medoid_is_a_member_of_its_own_group(found: np.ndarray, count: int) -> None:
    medoids, groups = k_medoids(found, count, rng())
    assert len(set(medoids.tolist())) == min(count, len(found))
    assert groups[medoids].tolist() == list(range(len(medoids)))


def test_clear_groups_are_found_with_their_middle() -> None:
    centres = np.eye(4, dtype=np.float32)
    near = np.repeat(centres, 10, axis=0)
    found = near + rng().normal(0, 0.05, near.shape).astype(np.float32)
    found[::10] = centres
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    medoids, groups = k_medoids(found, 4, rng())
    assert sorted(groups[::10].tolist()) == [0, 1, 2, 3]
    assert all(len(set(groups[at : at + 10].tolist())) == 1 for at in range(0, 40, 10))
    assert (found[medoids].max(axis=1) > 0.99).all(), "no outlier is a medoid"
