"""Nearest neighbours among embeddings: memory, time and recall of the approximate index.

Vectors of the demo embedder's length in groups of different sizes, as scenes of some cameras are.
The memory of 1,000,000 is extrapolated from 100,000: each vector takes its float16 numbers and its
edges, whatever the others; half as many show that it is so.
"""

import gc
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.paired_timing import Figure, against
from secondlook.selection.neighbours import NeighbourIndex

SEED = 16_001
DIMENSIONS = 288
VECTORS = 100_000
AT_ONCE = 10_000
GROUPS = 500
SPREAD = 0.9
"""Of a vector around the centre of its group, against 1 for the centre."""
QUERIES, NEAREST = 500, 10
MILLION = 1_000_000
BAR_GB = 2.0


def run() -> list[Figure | str]:
    """Bytes a vector at two sizes, vectors a second, and recall against comparing all."""
    rng = np.random.default_rng(SEED)
    centres = rng.normal(size=(GROUPS, DIMENSIONS)).astype(np.float32)
    index = NeighbourIndex(DIMENSIONS)
    every: list[NDArray[np.float16]] = []
    lines = ["| vectors | memory of the process | bytes a vector | added a second |"]
    lines.append("|---|---|---|---|")
    before, spent, used = _resident(), 0.0, 0.0
    for at in range(0, VECTORS, AT_ONCE):
        some = _vectors(rng, centres, AT_ONCE)
        every.append(some.astype(np.float16))
        started = time.perf_counter()
        index.add(range(at, at + AT_ONCE), some)
        spent += time.perf_counter() - started
        if len(index) in (VECTORS // 2, VECTORS):
            del some
            used = _resident() - before - sum(one.nbytes for one in every)
            lines.append(
                f"| {len(index):,} | {used / 1e6:.0f} MB | {used / len(index):.0f} "
                f"| {len(index) / spent:,.0f} |"
            )
    queries = _vectors(rng, centres, QUERIES)
    started = time.perf_counter()
    found = index.search(queries, NEAREST)
    milliseconds = 1000 * (time.perf_counter() - started) / QUERIES
    recall = _recall(found.keys, queries, np.concatenate(every))
    lines.append("")
    lines.append(
        f"A query takes {milliseconds:.2f} ms and finds {recall:.1%} of the {NEAREST} nearest of "
        f"{VECTORS:,}; {DIMENSIONS} numbers a vector."
    )
    lines.append("The memory of 1,000,000 vectors is extrapolated from those in the table.")
    million = used / VECTORS * MILLION / 1e9
    return [against("memory of 1,000,000 vectors", million, BAR_GB, "GB"), "\n".join(lines)]


def _vectors(
    rng: np.random.Generator, centres: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    of = (GROUPS * rng.random(count) ** 2).astype(np.intp)
    rows = centres[of] + SPREAD * rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _recall(
    keys: NDArray[np.int64], queries: NDArray[np.float32], every: NDArray[np.float16]
) -> float:
    exact = np.argsort(-(queries @ every.astype(np.float32).T), axis=1)[:, :NEAREST]
    return float(np.mean([len({*a} & {*b}) / NEAREST for a, b in zip(keys, exact, strict=True)]))


def _resident() -> float:
    """Bytes of this process in memory."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split("VmRSS:")[1].split()[0])
