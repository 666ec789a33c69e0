"""Nearest neighbours among unit vectors: exact among some thousands, approximate among more.

The approximate index is usearch's HNSW graph (arXiv 1603.09320) over float16 vectors; vectors are
added as they come. ``python -m bench neighbours`` measures memory, time and recall.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT_UP_TO = 5_000
"""Vectors that are compared one by one: less than 2 ms a query, and nothing is missed."""
AT_ONCE = 1_000
"""Queries compared in one step."""
CONNECTIVITY = 16
"""Edges of a vector in the graph; twice as many on its lowest level."""
NOBODY = -1
"""Key where fewer neighbours were found than asked for."""


class Neighbours(NamedTuple):
    """What was found for Q queries, the nearest first."""

    keys: NDArray[np.int64]
    """(Q, K); ``NOBODY`` where there is none."""
    similarities: NDArray[np.float32]
    """(Q, K) cosines; -1 where there is none."""


class NeighbourIndex:
    """Unit vectors by key, to be searched. Not thread-safe while vectors are added."""

    def __init__(self, dimensions: int, *, exact_up_to: int = EXACT_UP_TO) -> None:
        """``dimensions``: length of every vector; ``exact_up_to``: see ``EXACT_UP_TO``."""
        self.dimensions = dimensions
        self._exact_up_to = exact_up_to
        self._keys: list[NDArray[np.int64]] = []
        self._vectors: list[NDArray[np.float16]] = []
        self._count = 0
        self._graph: Any = None

    def __len__(self) -> int:
        return self._count

    @property
    def approximate(self) -> bool:
        """Whether neighbours may be missed."""
        return self._graph is not None

    def add(self, keys: Sequence[int] | NDArray[np.int64], vectors: NDArray[np.floating]) -> None:
        """Add (N, D) unit vectors under N new keys from 0. Raises ``ValueError``."""
        numbers, halves = np.asarray(keys, np.int64), vectors.astype(np.float16)
        if halves.shape != (len(numbers), self.dimensions) or not np.isfinite(halves).all():
            expected = (len(numbers), self.dimensions)
            raise ValueError(f"expected finite vectors of shape {expected}, got {vectors.shape}")
        if not len(numbers):
            return
        self._count += len(numbers)
        if self._graph is None:
            self._keys.append(numbers)
            self._vectors.append(halves)
            if self._count > self._exact_up_to:
                self._make_graph()
        else:
            self._graph.add(numbers, halves)

    def _make_graph(self) -> None:
        from usearch.index import Index

        self._graph = Index(
            ndim=self.dimensions, metric="ip", dtype="f16", connectivity=CONNECTIVITY
        )
        self._graph.add(np.concatenate(self._keys), np.concatenate(self._vectors))
        self._keys, self._vectors = [], []

    def search(self, vectors: NDArray[np.floating], count: int) -> Neighbours:
        """The ``count`` nearest of each of (Q, D) unit vectors."""
        count = min(count, self._count)
        keys = np.full((len(vectors), count), NOBODY, np.int64)
        similarities = np.full((len(vectors), count), -1, np.float32)
        for at in range(0, len(vectors) if count else 0, AT_ONCE):
            some = slice(at, at + AT_ONCE)
            look = self._search_graph if self.approximate else self._search_all
            found = look(vectors[some], count)
            keys[some, : found.keys.shape[1]] = found.keys
            similarities[some, : found.keys.shape[1]] = np.minimum(found.similarities, 1)
        return Neighbours(keys, similarities)

    def _search_all(self, vectors: NDArray[np.floating], count: int) -> Neighbours:
        every = np.concatenate(self._vectors).astype(np.float32)
        similarities = vectors.astype(np.float32) @ every.T
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        return Neighbours(
            np.concatenate(self._keys)[order], np.take_along_axis(similarities, order, axis=1)
        )

    def _search_graph(self, vectors: NDArray[np.floating], count: int) -> Neighbours:
        found = self._graph.search(vectors.astype(np.float16), count)
        # One query comes back without the axis of the queries, and without a count.
        keys = np.atleast_2d(found.keys).astype(np.int64)
        similarities = 1 - np.atleast_2d(found.distances).astype(np.float32)
        counts = np.asarray(found.counts) if len(vectors) > 1 else np.array([keys.shape[1]])
        none = np.arange(keys.shape[1]) >= counts[:, None]
        return Neighbours(np.where(none, NOBODY, keys), np.where(none, -1, similarities))
