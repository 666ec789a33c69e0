"""Stage one: images and an ontology in, scored boxes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.core.types import Image, Proposals
from secondlook_client.ontology import Ontology, normal


@runtime_checkable
class Proposer(Protocol):
    """A model that finds boxes from words. Implement this one method to plug one in."""

    name: str
    """Short name for people, e.g. ``grounding-dino-tiny``."""
    digest: str
    """Hash of the weights (or the version of a remote model); part of every label's record."""

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """Find boxes for each phrase on each image.

        ``phrases`` are lower case and distinct. Returns one ``Proposals`` an image, in order,
        with boxes in pixels of that image and ``scores`` of shape (N, len(phrases)); a box is
        returned when its best score is at least ``floor``. The result for an image must not
        depend on the others in the batch. Raises ``BadOntology`` for a phrase it cannot take.
        """
        ...


@dataclass(frozen=True)
class Candidate:
    """One box to be judged for the classes of one contrast group."""

    row: int
    """Of the image's proposals."""
    classes: tuple[int, ...]
    """Indices into the ontology: every side of the group, or one class that stands alone."""


def by_class(phrases: Proposals, image: Image, ontology: Ontology, max_boxes: int) -> Proposals:
    """A proposer's boxes, scored by phrase, as boxes scored by class.

    A class's score is the best of its phrases. Boxes are clipped to the image; the
    ``max_boxes`` best ones are kept, best first. Raises ``ValueError`` when the proposer did not
    score every phrase.
    """
    if phrases.scores.shape[1] != len(ontology.phrases):
        raise ValueError(
            f"the proposer gave {phrases.scores.shape[1]} scores a box "
            f"for {len(ontology.phrases)} phrases"
        )
    return _clipped_best(_best_phrase(phrases, _phrase_columns(ontology)), image, max_boxes)


def candidates(proposals: Proposals, ontology: Ontology, nms_iou: float) -> list[Candidate]:
    """Boxes worth judging, after class-agnostic suppression inside each contrast group.

    Grounding DINO has no suppression of its own and often gives one object under two phrases.
    Between classes that may both be true of one box (no shared group) nothing is suppressed.
    A box is a candidate when one side of the group reaches its threshold; all sides are then
    judged, because a verifier that is asked only one side of a contrast tends to say yes.
    """
    thresholds = np.array([spec.threshold for spec in ontology.classes], dtype=np.float32)
    return candidates_above(proposals, ontology, proposals.scores >= thresholds, nms_iou)


def student_candidates(proposals: Proposals, ontology: Ontology, nms_iou: float) -> list[Candidate]:
    """``candidates`` of a student, whose scores are probabilities that a box is right.

    Thresholds are on a proposer's scale, so here a box is a candidate when one side of the group
    is above its ``reject``: the others are ruled out already.
    """
    limits = np.array([spec.reject for spec in ontology.classes], dtype=np.float64)
    return candidates_above(proposals, ontology, proposals.scores > limits, nms_iou)


def candidates_above(
    proposals: Proposals, ontology: Ontology, above: NDArray[np.bool_], nms_iou: float
) -> list[Candidate]:
    """``candidates`` where ``above``, (N, classes), says which box is worth judging for a class."""
    picked: list[Candidate] = []
    for members in ontology.groups.values():
        columns = list(members)
        rows = np.flatnonzero(above[:, columns].any(axis=1))
        best = proposals.scores[np.ix_(rows, np.array(columns))].max(axis=1, initial=0)
        for kept in box_ops.nms(proposals.boxes[rows], best, nms_iou):
            picked.append(Candidate(int(rows[kept]), members))
    return picked


def _phrase_columns(ontology: Ontology) -> list[list[int]]:
    """For each class, the columns of its phrases among ``ontology.phrases``."""
    place = {phrase: column for column, phrase in enumerate(ontology.phrases)}
    return [[place[normal(p)] for p in spec.phrases] for spec in ontology.classes]


def _best_phrase(raw: Proposals, columns: list[list[int]]) -> Proposals:
    scores: list[NDArray[np.float32]] = [raw.scores[:, c].max(axis=1, initial=0) for c in columns]
    return Proposals(raw.boxes, np.stack(scores, axis=1).astype(np.float32))


def _clipped_best(proposals: Proposals, image: Image, max_boxes: int) -> Proposals:
    clipped = box_ops.clip(proposals.boxes, image.width, image.height)
    sound = (box_ops.area(clipped) > 0) & np.isfinite(proposals.scores).all(axis=1)
    best = np.where(sound, proposals.scores.max(axis=1, initial=0), -1)
    order = np.argsort(-best, kind="stable")[: min(max_boxes, int(sound.sum()))]
    return Proposals(clipped[order], proposals.scores[order])
