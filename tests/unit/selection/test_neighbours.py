"""Nearest neighbours: exact among few, nearly so among many, the same interface."""

import numpy as np
import pytest

from secondlook.selection.neighbours import NOBODY, NeighbourIndex

DIMENSIONS = 16


def units(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_few_are_compared_exactly_in_their_order() -> None:
    index, vectors = NeighbourIndex(DIMENSIONS), units(50)
    index.add(range(100, 130), vectors[:30])
    index.add(range(130, 150), vectors[30:])
    found = index.search(vectors, 3)
    assert not index.approximate and len(index) == 50
    assert found.keys[:, 0].tolist() == list(range(100, 150))
    assert np.abs(found.similarities[:, 0] - 1).max() < 1e-2
    expected = np.argsort(-(vectors @ vectors.T), axis=1)[:, :3] + 100
    assert (found.keys == expected).mean() > 0.95, "but for float16"


def test_many_are_found_by_the_graph_while_more_are_added() -> None:
    index, vectors = NeighbourIndex(DIMENSIONS, exact_up_to=100), units(600)
    for at in range(0, 600, 60):
        index.add(range(at, at + 60), vectors[at : at + 60])
    assert index.approximate and len(index) == 600
    found = index.search(vectors, 5)
    exact = np.argsort(-(vectors @ vectors.T), axis=1)[:, :5]
    recall = np.mean([len({*a} & {*b}) / 5 for a, b in zip(found.keys, exact, strict=True)])
    assert recall > 0.9
    (one,) = index.search(vectors[:1], 2).keys.tolist()
    assert one[0] == 0


def test_fewer_than_asked_for_and_none_at_all() -> None:
    index = NeighbourIndex(DIMENSIONS)
    assert index.search(units(2), 3).keys.shape == (2, 0)
    index.add([], units(0))
    index.add([7], units(1))
    found = index.search(units(1), 3)
    assert found.keys.tolist() == [[7]] and NOBODY not in found.keys


@pytest.mark.parametrize(
    ("keys", "vectors"),
    [([1], np.full((1, DIMENSIONS), np.nan)), ([1], units(2)), ([1], units(1)[:, :3])],
)
def test_what_is_no_vector_is_refused(keys: list[int], vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite vectors of shape"):
        NeighbourIndex(DIMENSIONS).add(keys, vectors)
