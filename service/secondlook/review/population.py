"""What a guarantee is about: every label of a run that its classes' limits alone keep or leave out.

The run is decided again in memory, with limits as low as they can be: whatever is accepted then
would be a label at some limit, and at a higher limit those whose probability reaches it still are,
and no others. So "accepted at the limit t" is "in the population, with a probability of at least
t", which is what the statistics of a guarantee need. Nobody's reviews count here: answers are drawn
from what the models made.

Boxes that were filled in where a track was not found (``label --fill-gaps``) are no labels at any
limit, and in no population unless it is asked for with them. Then they are marked, to be drawn
from, tested and accepted by themselves: what holds of found boxes says nothing of these.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.datasets.splits import block_of, group_images
from secondlook.evaluation.certificate import filled_name, is_filled_name, lowest_limits
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import FILLED
from secondlook.review.redecide import decisions_on
from secondlook.store import Store
from secondlook.store.bulk import DecisionBatch, PackedEvidence
from secondlook.store.codec import OUTCOMES, WHOLE_IMAGE_ROW
from secondlook.store.runs import Run
from secondlook_client.ontology import Ontology
from secondlook_client.values import Outcome

_ACCEPT, _REJECT = OUTCOMES.index(Outcome.ACCEPT), OUTCOMES.index(Outcome.REJECT)
FACTS_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class Population:
    """J judgements of a run, image by image in the order of its results."""

    run: Run
    cursors: NDArray[np.int64]
    """(J,) the result of each; ``until`` at most."""
    places: NDArray[np.int32]
    """(J,) among the judgements of its result."""
    classes: NDArray[np.intp]
    """(J,) indices of the run's classes."""
    probabilities: NDArray[np.float64]
    """(J,) that the label is right, [0, 1]; of a filled box the lower of the proposer's scores at
    both ends of the gap."""
    scenes: NDArray[np.intp]
    """(J,) images with the same number may be alike: near duplicates, a stretch of a stream."""
    images: int
    """Results of the run, those without a judgement too."""
    until: int
    """Cursor of the last result; 0 where there is none."""
    filled: NDArray[np.bool_]
    """(J,) which were filled in where nothing was found."""

    def __len__(self) -> int:
        return len(self.cursors)

    def label_id(self, index: int) -> str:
        """Of one judgement, for ``secondlook explain``."""
        return f"{self.cursors[index]}.{self.places[index]}"

    def row_of(self, label_id: str) -> int | None:
        """The row of a judgement; None where it is not in the population."""
        cursor, _, place = label_id.partition(".")
        start, end = np.searchsorted(self.cursors, [int(cursor), int(cursor) + 1])
        rows = start + np.flatnonzero(self.places[start:end] == int(place))
        return int(rows[0]) if len(rows) else None

    def of(self, name: str) -> NDArray[np.bool_]:
        """(J,) which a certificate means by ``name``: a class, "" for all of them, or one of their
        ``filled_name``."""
        filled = self.filled if is_filled_name(name) else ~self.filled
        if name in ("", filled_name("")):
            return filled
        names = self.run.ontology.names
        names = tuple(map(filled_name, names)) if is_filled_name(name) else names
        return filled & (np.array(names)[self.classes] == name)

    @property
    def digest(self) -> str:
        """SHA-256 of what a sample depends on, 64 hex digits."""
        whole = hashlib.sha256(self.run.ontology.digest.encode())
        for part in (self.cursors, self.places, self.classes, self.probabilities, self.scenes):
            whole.update(np.ascontiguousarray(part).tobytes())
        if self.filled.any():  # without, it is the digest that it always was
            whole.update(self.filled.tobytes())
        return whole.hexdigest()


def read_population(
    store: Store,
    run: Run,
    calibrator: Calibrator | None,
    until: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    with_filled: bool = False,
) -> Population:
    """The population of ``run`` with the probabilities of ``calibrator``; None: as the models' are.

    ``with_filled`` adds the boxes that were filled in. ``until`` leaves out the results behind that
    cursor. Numbers only are kept, some 50 bytes a judgement. Raises what deciding again raises.
    """
    parts: list[tuple[NDArray[np.int64], ...]] = []
    of_gaps: list[NDArray[np.bool_]] = []
    probabilities: list[NDArray[np.float64]] = []
    image_ids: list[int] = []
    item_ids: list[int] = []
    total, last = store.results.count(run.id), 0
    for packed, decided in lowest_decisions(store, run, calibrator):
        count = len(packed)
        if until is not None:
            count = sum(one.cursor <= until for one in packed)
        at = np.arange(len(decided.rows))
        images = np.searchsorted(decided.starts, at, side="right") - 1
        kept = (decided.outcomes == _ACCEPT) & (decided.rows != WHOLE_IMAGE_ROW) & (images < count)
        filled = np.zeros(len(at), dtype=bool)
        if with_filled:
            filled = filled_in(decided, run.ontology) & (images < count)
        kept |= filled
        cursors = np.array([one.cursor for one in packed], dtype=np.int64)
        place_of_image = len(image_ids) + images
        places = at - decided.starts[images]
        parts.append(
            tuple(
                part[kept].astype(np.int64)
                for part in (cursors[images], places, decided.classes, place_of_image)
            )
        )
        probabilities.append(decided.probabilities[kept])
        of_gaps.append(filled[kept])
        image_ids += [one.image_id for one in packed[:count]]
        item_ids += [one.item_id for one in packed[:count]]
        last = packed[count - 1].cursor if count else last
        progress(len(image_ids), total)
        if count < len(packed):
            break
    nothing = np.zeros(0, dtype=np.int64)
    cursors, places, classes, images = (
        np.concatenate([nothing, *(part[column] for part in parts)]) for column in range(4)
    )
    scenes = _scenes(store, run, image_ids, item_ids)
    return Population(
        run,
        cursors,
        places.astype(np.int32),
        classes.astype(np.intp),
        np.concatenate([np.zeros(0), *probabilities]),
        scenes[images],
        len(image_ids),
        last,
        np.concatenate([np.zeros(0, dtype=bool), *of_gaps]),
    )


def filled_in(decided: DecisionBatch, ontology: Ontology) -> NDArray[np.bool_]:
    """(J,) which judgements of ``lowest_decisions`` are about a box that was filled in.

    Of a contrast group only where one class alone is possible: at most one can be accepted.
    """
    filled = np.array([reason.startswith(FILLED) for reason in decided.reasons], dtype=bool)
    at = np.flatnonzero(filled)
    if not len(at):
        return filled
    group_of = np.zeros(len(ontology.classes), dtype=np.intp)
    for number, members in enumerate(ontology.groups.values()):
        group_of[list(members)] = number
    images = np.searchsorted(decided.starts, at, side="right")
    keys = np.stack([images, decided.rows[at], group_of[decided.classes[at]]], axis=1)
    _, which, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    filled[at] = counts[which.ravel()] == 1
    return filled


def lowest_decisions(
    store: Store, run: Run, calibrator: Calibrator | None, after: int = 0
) -> Iterator[tuple[list[PackedEvidence], DecisionBatch]]:
    """``decisions_on`` with limits as low as can be: what would not be rejected is accepted."""
    free = calibrator.without_limits if calibrator else None
    lowest = replace(run, ontology=lowest_limits(run.ontology))
    return decisions_on(store, run, lowest, free, after)


def _scenes(
    store: Store, run: Run, image_ids: Sequence[int], item_ids: Sequence[int]
) -> NDArray[np.intp]:
    """(images,) a number for each image; those of one scene have the same."""
    source = store.snapshots.labelled_by(run)
    if source.kind == "capture":  # of one camera all images are alike: stretches of time count
        order = {item: place for place, (item, _) in enumerate(store.snapshots.items(source))}
        return np.array([block_of(order[item]) for item in item_ids], dtype=np.intp)
    hashes = _hashes(store, image_ids)
    names = [f"{number:020d}" for number in image_ids]
    groups = group_images(names, [hashes[number] for number in image_ids], _twice(image_ids))
    return np.unique(np.array(groups, dtype=str), return_inverse=True)[1].astype(np.intp)


def _hashes(store: Store, image_ids: Sequence[int]) -> dict[int, int | None]:
    """The perceptual hash of each image."""
    found: dict[int, int | None] = {}
    for start in range(0, len(image_ids), FACTS_AT_ONCE):
        facts = store.snapshots.facts(image_ids[start : start + FACTS_AT_ONCE])
        found |= {number: one.perceptual_hash for number, one in facts.items()}
    return found


def _twice(image_ids: Sequence[int]) -> Mapping[str, Sequence[int]]:
    """Places of images that a run has several times, under other names."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(image_ids):
        places.setdefault(number, []).append(place)
    return {f"image:{number}": of for number, of in places.items() if len(of) > 1}
