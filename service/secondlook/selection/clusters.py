"""Covering and grouping unit vectors: k-centre greedy, k-means++ and k-medoids.

Distances are Euclidean; of unit vectors that is the same order as by cosine similarity.
"""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(N, D) of length 1."""
Rows = NDArray[np.intp]
ROUNDS = 20
"""Of k-medoids at most; it mostly ends before."""
NEARLY_EQUAL = 1e-5
"""Sum of squared distances that rounding alone may leave."""
AT_ONCE = 4_096
"""Vectors compared with all medoids in one step."""


def k_centre(
    vectors: Vectors, count: int, known: Vectors | None = None
) -> tuple[Rows, NDArray[np.float32]]:
    """(count,) rows: each the farthest from those before it and from ``known`` (K, D); and (count,)
    its highest similarity with them.

    The farthest distance that is left is at most twice the smallest that ``count`` vectors can
    leave (Gonzalez 1985; for active learning arXiv 1708.00489). Without ``known`` the first row is
    the one nearest to the mean, whose similarity is NaN. Equal vectors come last, in their order.
    """
    count = min(count, len(vectors))
    rows, alike = np.empty(count, np.intp), np.full(count, np.nan, np.float32)
    nearest = np.full(len(vectors), -np.inf, np.float32)
    for at in range(0, 0 if known is None else len(known), AT_ONCE):
        assert known is not None
        nearest = np.maximum(nearest, (vectors @ known[at : at + AT_ONCE].T).max(axis=1))
    for place in range(count):
        if place or np.isfinite(nearest[0]):
            row = nearest.argmin()
            alike[place] = nearest[row]
        else:
            row = (vectors @ vectors.mean(axis=0)).argmax()
        rows[place] = row
        nearest = np.maximum(nearest, vectors @ vectors[row])
        nearest[rows[: place + 1]] = np.inf
    return rows, alike


def k_means_plus_plus(vectors: Vectors, count: int, rng: np.random.Generator) -> Rows:
    """(count,) rows, each drawn with a chance that grows with its squared distance to those before.

    Arthur and Vassilvitskii 2007. Where all vectors that are left equal one before, the first.
    """
    count = min(count, len(vectors))
    rows = np.empty(count, np.intp)
    away = np.full(len(vectors), 1.0)
    for place in range(count):
        away[rows[:place]] = 0
        total = away.sum()
        if total > NEARLY_EQUAL:
            row = int(rng.choice(len(vectors), p=away / total))
        else:
            row = int(np.isin(np.arange(len(vectors)), rows[:place], invert=True).argmax())
        rows[place] = row
        distances = np.maximum(2 - 2 * (vectors @ vectors[row]).astype(np.float64), 0)
        away = np.minimum(away, distances) if place else distances
    return rows


def k_medoids(vectors: Vectors, count: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """(count,) rows of medoids, and (N,) which of them each vector belongs to.

    Begun with ``k_means_plus_plus``: from ``k_centre`` outliers stayed groups of their own. The
    medoid of a group is the member nearest to its mean, so no distances between all pairs are
    needed.
    """
    medoids = k_means_plus_plus(vectors, count, rng)
    groups = _nearest(vectors, medoids)
    for _ in range(ROUNDS if len(medoids) else 0):
        sums = np.zeros((len(medoids), vectors.shape[1]), np.float32)
        np.add.at(sums, groups, vectors)
        inside = np.einsum("nd,nd->n", vectors, sums[groups])
        order = np.lexsort((-inside, groups))
        _, firsts = np.unique(groups[order], return_index=True)
        moved = order[firsts]
        if np.array_equal(moved, medoids):
            break
        medoids = moved
        groups = _nearest(vectors, medoids)
    return medoids, groups


def _nearest(vectors: Vectors, medoids: Rows) -> Rows:
    """(N,) the place of the nearest medoid; a medoid belongs to itself."""
    groups = np.zeros(len(vectors), np.intp)
    for at in range(0, len(vectors) if len(medoids) else 0, AT_ONCE):
        some = slice(at, at + AT_ONCE)
        groups[some] = (vectors[some] @ vectors[medoids].T).argmax(axis=1)
    groups[medoids] = np.arange(len(medoids))
    return groups
