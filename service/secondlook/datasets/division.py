"""Labels divided into splits, by the rule by which a snapshot divides them.

The same images in the same shares give the same splits as in a snapshot of their run.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.datasets.query import SplitShare
from secondlook.datasets.splits import block_id, by_time, group_images, source_of, split_of
from secondlook.datasets.writers import UNSPLIT, Labels
from secondlook_client.errors import InvalidInput
from secondlook_client.values import GroupBy


@dataclass(frozen=True)
class SplitPlan:
    """How labels are divided. Raises ``InvalidInput`` for a split that is named twice."""

    shares: tuple[SplitShare, ...] = ()
    """Empty: they are not divided."""
    group_by: GroupBy = GroupBy.AUTO

    def __post_init__(self) -> None:
        twice = [n for n, times in Counter(s.name for s in self.shares).items() if times > 1]
        if twice:
            raise InvalidInput(f"split '{twice[0]}' is given twice; name it once")


UNDIVIDED = SplitPlan()


def divide(
    labels: Labels, plan: SplitPlan, run: str = "", hashes: Iterable[int | None] = ()
) -> dict[str, Labels]:
    """The labels of each split that has images; of ``UNSPLIT`` alone if they are not divided.

    ``run`` is the name of the run, by which blocks of time are placed. ``hashes`` are the
    perceptual hashes of the images, in their order; one without is a near duplicate of none.
    Memory: some 200 bytes an image.
    """
    if not plan.shares:
        return {UNSPLIT: labels}
    groups = _groups(labels, plan.group_by, run, hashes)
    names = [share.name for share in plan.shares]
    chosen = [names.index(split_of(group, plan.shares)) for group in groups]
    places = np.array(chosen, dtype=np.uint8 if len(names) < 256 else np.int64)
    divided = {
        name: _of_split(labels, places == place)
        for place, name in enumerate(names)
        if place in places
    }
    return divided or {names[0]: labels}


def _of_split(labels: Labels, chosen: NDArray[np.bool_]) -> Labels:
    """Those of the images that are ``chosen``, (N,)."""
    cursors = labels.cursors
    return replace(
        labels,
        results=lambda: itertools.compress(labels.results(), chosen),
        cursors=cursors and (lambda: itertools.compress(cursors(), chosen)),
    )


def _groups(
    labels: Labels, group_by: GroupBy, run: str, hashes: Iterable[int | None]
) -> Sequence[str]:
    """The group of each image, in order."""
    if group_by is GroupBy.TIME:
        names = [name for name, _ in labels.results()]
        order = sorted(range(len(names)), key=lambda place: by_time(names[place]))
        blocks = {place: block_id(run, number) for number, place in enumerate(order)}
        return [blocks[place] for place in range(len(names))]
    sha256s: list[str] = []
    sources: dict[str, list[int]] = {}
    for place, (_, result) in enumerate(labels.results()):
        sha256s.append(result.sha256)
        if source := source_of(result.name, group_by):
            sources.setdefault(source, []).append(place)
    known = itertools.chain(hashes, itertools.repeat(None))
    return group_images(sha256s, [*itertools.islice(known, len(sha256s))], sources)


def empty_splits(plan: SplitPlan, divided: Sequence[str]) -> Iterator[str]:
    """A sentence for every split without an image."""
    for share in plan.shares:
        if share.name not in divided:
            yield (
                f"split '{share.name}' got no image: images that belong together are never "
                "divided; label more, or group them otherwise (--group-by)"
            )
