"""A run's judged boxes as arrays, with the exact truth beside them.

A judged pair is a box and a class that it was judged for. Whether it is right is decided as in
``evaluation.matching``: IoU of at least 0.5 (or ``min_iou``) with a true box of the class, each
true box once, the most probable pair first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import iou
from secondlook.core.types import Labelled
from secondlook.evaluation.matching import MIN_IOU, Matching, TrueBox, match_boxes
from secondlook.labeling.box_features import ScoredBoxes, box_features
from secondlook.labeling.decisions import scored_boxes
from secondlook_client.ontology import Ontology


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """J judged pairs of P images, image by image."""

    ontology: Ontology
    found: ScoredBoxes
    """Every box of the images, with scores and answers."""
    boxes: NDArray[np.intp]
    """(J,) places in ``found.boxes``."""
    classes: NDArray[np.intp]
    """(J,) indices of ``ontology``."""
    scenes: NDArray[np.intp]
    """(J,) the image of each pair; images of the drawn world are scenes of their own."""
    truth: Sequence[Sequence[TrueBox]]
    """By image."""
    proposer: str = ""
    verifier: str = ""
    min_iou: float = MIN_IOU
    """Overlap with a true box from which a pair is right."""
    names: Sequence[str] = ()
    """Of the images."""

    @property
    def class_names(self) -> NDArray[np.str_]:
        """(J,) names of the classes."""
        return np.array(self.ontology.names)[self.classes]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(J,) the proposer's, [0, 1]."""
        return self.found.scores[self.boxes, self.classes].astype(np.float64)

    @property
    def p_yes(self) -> NDArray[np.float64]:
        """(J,) the verifier's; NaN where it gave no answer."""
        return self.found.p_yes[self.boxes, self.classes]

    @property
    def products(self) -> NDArray[np.float64]:
        """(J,) score × P(yes); 0 without an answer."""
        return np.nan_to_num(self.scores * self.p_yes, nan=0.0)

    def features(self) -> NDArray[np.float64]:
        """(J, F) ``box_features`` of all pairs."""
        return box_features(self.found, self.ontology, self.boxes, self.classes)

    def true_boxes(self) -> NDArray[np.intp]:
        """(C,) how many objects there are of each class."""
        names = [t.class_name for of_image in self.truth for t in of_image if not t.ignore]
        return np.array([names.count(name) for name in self.ontology.names], dtype=np.intp)

    def right(self, probability: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(J,) which pairs are right, the most probable first; one in a region to ignore is not.

        ``known`` says which those are.
        """
        right = np.zeros(len(self.boxes), dtype=bool)
        pairs, objects = self._overlaps.pairs, self._overlaps.objects
        order = np.argsort(-probability[pairs], kind="stable")
        right[pairs[order][np.unique(objects[order], return_index=True)[1]]] = True
        for image in self._overlaps.unclear:
            rows = self._rows(image)
            right[rows] = self._match(image, probability[rows]).truth >= 0
        return right

    def known(self) -> NDArray[np.bool_]:
        """(J,) False for pairs that are neither right nor wrong: they lie in a region to ignore."""
        ignored = np.zeros(len(self.boxes), dtype=bool)
        for image, of_image in enumerate(self.truth):
            if any(box.ignore for box in of_image):
                rows = self._rows(image)
                ignored[rows] = self._match(image, self.products[rows]).ignored
        return ~ignored

    @cached_property
    def _overlaps(self) -> "_Overlaps":
        """Found once: rankings are many."""
        places = {name: place for place, name in enumerate(self.ontology.names)}
        pairs, objects, unclear, count = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], [], 0
        for image, of_image in enumerate(self.truth):
            rows = self._rows(image)
            corners, classes = _classed([t for t in of_image if not t.ignore], places)
            same = self.classes[rows, None] == classes
            near = same & (iou(self.found.boxes[self.boxes[rows]], corners) >= self.min_iou)
            if (near.sum(axis=1) > 1).any():
                unclear.append(image)
                near[:] = False
            pair, known = np.nonzero(near)
            pairs.append(pair + rows.start)
            objects.append(known + count)
            count += len(corners)
        return _Overlaps(np.concatenate(pairs), np.concatenate(objects), tuple(unclear))

    def _rows(self, image: int) -> slice:
        """The pairs of one image."""
        start, end = np.searchsorted(self.scenes, [image, image + 1])
        return slice(int(start), int(end))

    def _match(self, image: int, probability: NDArray[np.float64]) -> Matching:
        rows, places = self._rows(image), {n: k for k, n in enumerate(self.ontology.names)}
        real, regions = (
            _classed([t for t in self.truth[image] if t.ignore == ignore], places)
            for ignore in (False, True)
        )
        found = self.found.boxes[self.boxes[rows]], self.classes[rows].astype(np.int64)
        return match_boxes(found, probability, real, regions, self.min_iou)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Which pairs overlap an object of their class enough to be right."""

    pairs: NDArray[np.intp]
    objects: NDArray[np.intp]
    """One a pair, for pairs that overlap one object only."""
    unclear: Sequence[int]
    """Images where a pair overlaps more than one."""


def of_labelled(
    labelled: Sequence[Labelled], ontology: Ontology, truth: Sequence[Sequence[TrueBox]]
) -> JudgedRun:
    """The judged pairs of labelled images; ``truth[i]`` has the objects of ``labelled[i]``."""
    parts = [scored_boxes(one.evidence, ontology, (one.width, one.height)) for one in labelled]
    starts = np.concatenate([[0], np.cumsum([len(part.boxes) for part in parts])]).astype(np.intp)
    found = ScoredBoxes(
        starts,
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("sizes", "boxes", "scores", "p_yes")
        ),
    )
    places = {name: place for place, name in enumerate(ontology.names)}
    pairs = [
        (starts[image] + j.row, places[j.class_name], image)
        for image, one in enumerate(labelled)
        for j in one.judgements
        if not j.whole_image
    ]
    boxes, classes, scenes = np.array(pairs, dtype=np.intp).reshape(-1, 3).T
    first = labelled[0].evidence
    names = [one.name for one in labelled]
    models = first.proposer, first.verifier
    return JudgedRun(ontology, found, boxes, classes, scenes, truth, *models, names=names)


def _classed(
    boxes: Sequence[TrueBox], places: Mapping[str, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    boxes = [box for box in boxes if box.class_name in places]
    corners = np.array([b.box for b in boxes], dtype=np.float32).reshape(-1, 4)
    return corners, np.array([places[b.class_name] for b in boxes], dtype=np.int64)
