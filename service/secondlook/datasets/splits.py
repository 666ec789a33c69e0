"""Which images form a group, and which split a group falls into.

Two images that show nearly the same, or come from one stream or folder, must not be in different
splits: a detector would be tested on what it has memorised. With one fixed camera nothing would be
left to test on, so its frames can be cut into blocks instead: what passes the camera in one block
is mostly gone in the next.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from secondlook.core.cancellation import check_cancelled
from secondlook.core.frame_names import frame_address
from secondlook.datasets.query import SplitShare
from secondlook_client.values import GroupBy

NEAR = 6
"""Bits of 64 that may differ between near duplicates. Measured: an image encoded again at quality
40 or scaled to half or double its size differs in 6 at most, while no two of 128 photographs of
different things differ in fewer than 12. Sets taken at one place have nearer ones."""
AT_ONCE = 1_000_000
"""Pairs compared in one step, which takes some 20 MB."""
SHORTEST = 10
"""Images in the first block of a run; each further block has one more than the block before.

200 images make 13 blocks, 10,000 make 133 of up to 142. The length must not depend on the number of
images, or those that come later would move earlier ones to another split. One length for all is too
short for a long stream, with many images at the edges of blocks, or too long for a short one, with
fewer blocks than splits. Nor can it be a time: of a frame the store has the number that its device
gave, which need not be a time, and its arrival, which is late and all at once after an outage."""
_TURN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: with this distance between blocks, any 13 consecutive ones
reach every tenth of the range. Placed by hash, one set of 13 in four would miss a given tenth."""

_DIGITS = re.compile("[0-9]+")
Numbers = NDArray[np.int64]


def source_of(name: str, group_by: GroupBy) -> str | None:
    """The folder or the video that keeps the image called ``name`` with others; None: neither."""
    if group_by is GroupBy.FOLDER:
        return f"folder:{PurePosixPath(name).parent}"
    frame = frame_address(name) if group_by is GroupBy.AUTO else None
    return f"video:{frame.clip}" if frame else None


class UnionFind:
    """Disjoint sets of the numbers 0 to ``count`` - 1."""

    def __init__(self, count: int) -> None:
        self._parents: Numbers = np.arange(count)

    def join(self, left: Numbers, right: Numbers) -> None:
        """Put every ``left[i]`` into one set with ``right[i]``."""
        while len(left):
            check_cancelled()
            roots = self.roots()
            a, b = roots[left], roots[right]
            apart = a != b
            left, right = left[apart], right[apart]
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            # Of several with the same root only the lowest is joined; the rest follow next time.
            np.minimum.at(self._parents, high, low)

    def roots(self) -> Numbers:
        """The lowest member of each number's set, (count,)."""
        while True:
            further = self._parents[self._parents]
            if np.array_equal(further, self._parents):
                return self._parents
            self._parents = further


def join_near(sets: UnionFind, members: Numbers, signed: Numbers, near: int = NEAR) -> None:
    """Join the ``members`` whose hashes differ in at most ``near`` bits.

    ``members`` (N,) are numbers of ``sets``, ``signed`` (N,) their signed 64-bit hashes.
    """
    distinct, first, which = np.unique(signed, return_index=True, return_inverse=True)
    sets.join(members, members[first[which]])
    hashes, members = distinct.view(np.uint64), members[first]
    for band in _bands(hashes, near):
        roots = sets.roots()[members]
        pairs = _near_pairs(hashes, roots, band, near)
        for left, right in _batched(pairs):
            sets.join(members[left], members[right])


def _bands(hashes: NDArray[np.uint64], near: int) -> Iterator[NDArray[np.uint64]]:
    """``near`` + 1 bands of the hashes' bits.

    ``near`` differing bits leave at least one band equal, so only hashes that agree in a whole
    band need be compared.
    """
    edges = np.linspace(0, 64, near + 2).astype(int)
    for low, high in itertools.pairwise(edges.tolist()):
        yield (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)


def _buckets(band: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Places of the hashes that agree in a band, at least two at a time."""
    order = np.argsort(band, kind="stable")
    bounds = np.flatnonzero(np.diff(band[order])) + 1
    edges = [0, *bounds.tolist(), len(order)]
    for start, end in itertools.pairwise(edges):
        if end - start > 1:
            yield order[start:end]


def _near_pairs(
    hashes: NDArray[np.uint64], roots: Numbers, band: NDArray[np.uint64], near: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Places of the pairs that agree in the band and are near.

    Uniform images (night, sky) fill one bucket of every band; once most of a bucket has one root,
    only the others are compared.
    """
    for bucket in _buckets(band):
        values, counts = np.unique(roots[bucket], return_counts=True)
        most = int(counts.argmax())
        crowded = 2 * counts[most] > len(bucket)
        rest = bucket[roots[bucket] != values[most]] if crowded else bucket
        rows = max(1, AT_ONCE // len(bucket))
        for start in range(0, len(rest), rows):
            check_cancelled()
            mine = rest[start : start + rows]
            differing = _bit_count(hashes[mine][:, None] ^ hashes[bucket][None, :])
            left, right = np.nonzero(differing <= near)
            other = mine[left] != bucket[right]
            yield mine[left][other], bucket[right][other]


def _batched(pairs: Iterable[tuple[Numbers, Numbers]]) -> Iterator[tuple[Numbers, Numbers]]:
    """The same pairs in larger batches: most buckets have none or a few."""
    pending: list[tuple[Numbers, Numbers]] = []
    count = 0
    for left, right in pairs:
        if len(left):
            pending.append((left, right))
            count += len(left)
        if count > AT_ONCE:
            yield np.concatenate([a for a, _ in pending]), np.concatenate([b for _, b in pending])
            pending, count = [], 0
    if pending:
        yield np.concatenate([a for a, _ in pending]), np.concatenate([b for _, b in pending])


def _bit_count(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    counts = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)
    parts = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return counts[parts].sum(axis=-1, dtype=np.uint8)


def group_images(
    sha256s: Sequence[str],
    hashes: Sequence[int | None],
    sources: Mapping[str, Sequence[int]],
) -> list[str]:
    """The group of each image: near duplicates, and images of one source, are one.

    ``sha256s`` are the images' hashes, ``hashes`` their signed perceptual ones (None: not known),
    and ``sources`` the places of the images that came from one stream or folder, by its name.
    """
    sets, names = UnionFind(len(sha256s)), [*sha256s]
    for source, places in sorted(sources.items(), reverse=True):
        check_cancelled()
        members = np.array(places, dtype=np.int64)
        if len(members):
            sets.join(members[1:], np.full(len(members) - 1, members[0]))
            names[members.min()] = source
    hashed = [place for place, found in enumerate(hashes) if found is not None]
    known = [hashes[place] for place in hashed]
    join_near(sets, np.array(hashed, dtype=np.int64), np.array(known, dtype=np.int64))
    roots = sets.roots().tolist()
    best: dict[int, tuple[bool, str]] = {}
    for name, root in zip(names, roots, strict=True):
        # A stream's or folder's name outlasts the images in it; the lowest hash does not.
        candidate = (":" not in name, name)
        best[root] = min(best.get(root, candidate), candidate)
    ids = {root: group_id(name) for root, (_, name) in best.items()}
    return [ids[root] for root in roots]


def by_time(name: str) -> str:
    """Images sorted by this come in the order in which they were taken, as far as names tell it:
    frame 9 is before frame 10."""
    return _DIGITS.sub(lambda digits: digits[0].zfill(20), name)


def group_id(name: str) -> str:
    """The id of a group, 16 hex digits; ``name`` is the lowest of its members' names."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def block_id(run: str, place: int) -> str:
    """``group_id`` of the block that the image at ``place`` (from 0) of a run falls into."""
    first = int(group_id(f"time:{run}"), 16)
    return f"{(first + block_of(place) * _TURN) % 2**64:016x}"


def block_of(place: int) -> int:
    """The block, from 0, of the image at ``place`` (from 0) of a run."""
    odd = 2 * SHORTEST - 1  # block k begins at k * SHORTEST + k * (k - 1) / 2
    return (math.isqrt(odd * odd + 8 * place) - odd) // 2


def split_of(group: str, shares: Sequence[SplitShare]) -> str:
    """The split of a group: the same for the same group and shares, on every machine."""
    point = int(group, 16) / 2**64 * sum(share.weight for share in shares)
    for share in shares:
        point -= share.weight
        if point < 0:
            return share.name
    return shares[-1].name
