"""Annotations that exist already as proposals: the boxes of a dataset, asked about like any others.

``AnnotatedBoxes`` stands in place of a proposer. It knows an image by its name and gives each
annotated box the score 1 for its own class and 0 for the others, so that the pipeline asks one
question about each annotation. Boxes of a proposer, if one looks for missing objects too, score
less than 1: by that the two kinds can be told apart in what is stored.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.core.types import Boxes, Image, Labelled, Proposals
from secondlook.labeling.pipeline import Pipeline, Proposed
from secondlook.labeling.proposer import Candidate, Proposer
from secondlook_client.ontology import MAX_PHRASES, ClassSpec, Ontology
from secondlook_client.values import Judgement, Outcome

ANNOTATED = 1.0
"""The score of an annotated box for its class."""
MOST_PROPOSED = 0.999
"""The score of a proposer's box is at most this."""
MIN_THRESHOLD = 0.001
"""A class that a box was not annotated for has the score 0, and is not asked about."""


@dataclass(frozen=True, eq=False)
class AskedBoxes:
    """The annotations of one image that the verifier is asked about."""

    boxes: Boxes
    """(N, 4)."""
    classes: NDArray[np.int64]
    """(N,): places in the ontology."""


FOUND_IOU = 0.6
"""IoU above which two boxes that the other proposer finds are one object."""


class AnnotatedBoxes:
    """A ``Proposer`` whose boxes are given; ``also`` finds more of them on each image."""

    def __init__(
        self,
        boxes: Mapping[str, AskedBoxes],
        classes: int,
        also: Proposer | None = None,
    ) -> None:
        """``boxes`` by the name that images have in the job, of an ontology with so many
        ``classes``, see ``with_annotations``."""
        self.name, self.digest = "annotations", _digest(boxes)
        if also:
            self.name, self.digest = f"annotations+{also.name}", f"{self.digest}-{also.digest}"
        self._boxes, self._also = boxes, also
        self._classes = {marker(place): place for place in range(classes)}

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """The annotated boxes of each image; see ``Proposer.propose``."""
        columns = {self._classes[p]: c for c, p in enumerate(phrases) if p in self._classes}
        annotated = [self._annotated(image, columns, len(phrases)) for image in images]
        if self._also is None:
            return annotated
        words = [c for c, phrase in enumerate(phrases) if phrase not in self._classes]
        found = self._also.propose(images, [phrases[c] for c in words], floor)
        return [self._with(*both, words) for both in zip(annotated, found, strict=True)]

    def _annotated(self, image: Image, columns: Mapping[int, int], width: int) -> Proposals:
        """One row a box, however many classes it is annotated for."""
        asked = self._boxes.get(image.name)
        if asked is None or not len(asked.boxes):
            return Proposals(np.zeros((0, 4), np.float32), np.zeros((0, width), np.float32))
        boxes, rows = np.unique(asked.boxes, axis=0, return_inverse=True)
        scores = np.zeros((len(boxes), width), np.float32)
        scores[rows.reshape(-1), [columns[int(place)] for place in asked.classes]] = ANNOTATED
        return Proposals(boxes, scores)

    def _with(self, annotated: Proposals, found: Proposals, words: Sequence[int]) -> Proposals:
        """Both kinds of boxes; ``words`` are the columns of what was ``found``."""
        scores = np.zeros((len(found), annotated.scores.shape[1]), np.float32)
        scores[:, words] = np.minimum(found.scores, MOST_PROPOSED)
        kept = box_ops.nms(
            found.boxes, found.scores.max(axis=1, initial=0), FOUND_IOU, _best(found)
        )
        return Proposals(
            np.concatenate([annotated.boxes, found.boxes[kept]]),
            np.concatenate([annotated.scores, scores[kept]]),
        )


class SuggestingPipeline(Pipeline):
    """Asks about every other class of each annotated box that was not accepted as what it is."""

    def judge(self, proposed: Sequence[Proposed]) -> list[Labelled]:
        """As ``Pipeline.judge``; of the other classes, those that were accepted are added."""
        first = super().judge(proposed)
        again = [
            replace(item, candidates=_other_classes(item, labelled))
            for item, labelled in zip(proposed, first, strict=True)
        ]
        second = super().judge(again)
        return [_together(*both) for both in zip(first, second, strict=True)]


def with_annotations(ontology: Ontology) -> Ontology:
    """``ontology`` with a phrase a class, behind its own, by which annotations are known."""

    def spec_of(place: int, spec: ClassSpec) -> ClassSpec:
        words = tuple(spec.phrases)[: MAX_PHRASES - 1]
        threshold = max(spec.threshold, MIN_THRESHOLD)
        return replace(spec, phrases=(*words, marker(place)), threshold=threshold)

    return Ontology(tuple(spec_of(place, spec) for place, spec in enumerate(ontology.classes)))


def marker(place: int) -> str:
    """The phrase by which annotations of the class at ``place`` are known."""
    return f"annotations of class {place + 1}"


def is_annotated(judgement: Judgement) -> bool:
    """Whether the box was annotated as this class, rather than proposed or suggested."""
    return judgement.score == ANNOTATED


def _other_classes(item: Proposed, labelled: Labelled) -> tuple[Candidate, ...]:
    """The rest of the ontology for each annotated box that was not accepted."""
    asked: dict[int, set[int]] = {}
    for candidate in item.candidates:
        asked.setdefault(candidate.row, set()).update(candidate.classes)
    doubted = {
        j.row for j in labelled.judgements if is_annotated(j) and j.outcome is not Outcome.ACCEPT
    }
    groups = item.task.ontology.groups.values()
    return tuple(
        Candidate(row, members)
        for row in sorted(doubted)
        for members in groups
        if not asked[row].intersection(members)
    )


def _together(first: Labelled, second: Labelled) -> Labelled:
    """Rejected suggestions stay in the evidence alone: there may be dozens for each box."""
    one, other = first.evidence, second.evidence
    evidence = replace(
        one,
        verdicts={**one.verdicts, **other.verdicts},
        segmentations={**one.segmentations, **other.segmentations},
        unsegmented={**one.unsegmented, **other.unsegmented},
    )
    accepted = second.of(Outcome.ACCEPT)
    timings = {**first.timings_ms}
    for stage in ("verify", "segment"):
        if stage in second.timings_ms:
            timings[stage] = timings.get(stage, 0.0) + second.timings_ms[stage]
    return replace(
        first,
        judgements=(*first.judgements, *accepted),
        evidence=evidence,
        timings_ms=timings,
    )


def _best(found: Proposals) -> NDArray[np.int64]:
    """(N,): the column that each box scores highest in."""
    if not len(found):
        return np.zeros(0, np.int64)
    return found.scores.argmax(axis=1).astype(np.int64)


def _digest(boxes: Mapping[str, AskedBoxes]) -> str:
    total = hashlib.sha256()
    for name in sorted(boxes):
        total.update(name.encode("utf-8", "surrogateescape") + b"\0")
        total.update(boxes[name].boxes.tobytes() + boxes[name].classes.tobytes())
    return total.hexdigest()[:12]
