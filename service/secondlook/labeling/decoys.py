"""Decoys: questions whose answer is known to be no, mixed in to audit the verifier with no truth.

A yes to a decoy would have let a wrong label through, whatever the picture shows: the answer is no
to "may this box be a label of the class". How each kind is known, and how far:

- ``background``: no proposal overlaps the box or what is shown around it. It is a no only as far as
  the proposer sees everything at its low floor: of an object that it missed, a yes is honest.
- ``other_class``: a proposal with a confident score for one class is asked about another, which
  scores low there and on every box that overlaps it. Classes that could both be true of one box are
  never asked of each other: those of one contrast group, and those that share a word of their names
  or phrases ("person", "person wearing glasses"). Synonyms share no word; the low score rules out
  those that the proposer knows.
- ``swapped_attribute``: one side of a contrast was answered with a sure yes, so another side is a
  no as far as that yes is right. Both were asked already: such a decoy costs no question.
- ``off_centre``: the box of a proposal, shifted or shrunk until its IoU with every proposal of the
  class is small. What it shows may be a part of the object, so a patient verifier says yes more
  often than to the others: what counts is how that share changes, and it says how well the verifier
  guards against loose boxes.

Classes whose view is the whole image get no decoys: there a question is not about the box. Nor do
those whose view shows a mask, of which a decoy's box has none. Which decoys an image has depends on
its hash, its proposals and the ontology alone, so a repeated run asks the same ones.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from re import findall

import numpy as np
from numpy.typing import NDArray

from secondlook.core import boxes as box_ops
from secondlook.core.boxes import Xyxy
from secondlook.core.types import Boxes, Decoy, DecoyKind, Evidence, Image, Proposals
from secondlook.labeling.proposer import Candidate
from secondlook.labeling.verifier import CONTEXT_MARGIN, CROP_MARGIN
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import View

CONFIDENT = 0.5
"""Score from which a proposal is an object of its class, for ``other_class``."""
LOW = 0.5
"""Share of a class's threshold below which a box is not one of the class."""
SURE = 0.9
"""P(yes) to one side of a contrast from which another side is a no."""
MAX_IOU = 0.3
"""Of an ``off_centre`` box with a proposal of the class; a label counts as right from 0.5 on."""
MIN_SIDE = 8.0
"""Pixels of a decoy's shorter side at least."""
MIN_TAKEN, MAX_TAKEN = 0.05, 0.4
"""Sides of a background box as shares of the image's, where no proposal shows what is plausible."""
TRIES = 30
"""Draws for one decoy; where none of them fits there is none."""
WITHOUT_DECOYS = (View.IMAGE, View.MASK)
NO_NOUNS = frozenset(("a", "an", "the", "of", "on", "in", "at", "and", "or", "not", "no", "with"))
"""Words that two classes may share and still rule each other out."""


@dataclass(frozen=True)
class DecoyPlan:
    """The decoys of one image before anything is answered."""

    asked: tuple[Decoy, ...] = ()
    swapped: int = 0
    """How many of kind ``swapped_attribute`` to look for among the answers."""


def plan_decoys(
    image: Image, ontology: Ontology, proposals: Proposals, questions: int, share: float
) -> DecoyPlan:
    """Decoys for an image of which ``questions`` real ones are asked.

    ``share`` is that of decoys to real questions, so an image has ``share * questions`` of them on
    average; kinds and classes take turns at random. There may be fewer where the image has no room.
    """
    if not share:
        return DecoyPlan()
    seeded = random.Random(f"decoys {image.sha256}")
    count = math.floor(questions * share + seeded.random())
    if not count or not _askable(ontology):
        return DecoyPlan()
    kinds = [DecoyKind.BACKGROUND, DecoyKind.OTHER_CLASS, DecoyKind.OFF_CENTRE]
    if any(not group.startswith("=") for group in ontology.groups):
        kinds.append(DecoyKind.SWAPPED_ATTRIBUTE)
    chosen = [seeded.choice(kinds) for _ in range(count)]
    chooser = _Chooser(seeded, image, ontology, proposals)
    found = (chooser.choose(kind) for kind in chosen if kind is not DecoyKind.SWAPPED_ATTRIBUTE)
    asked = tuple(dict.fromkeys(decoy for decoy in found if decoy))
    return DecoyPlan(asked, chosen.count(DecoyKind.SWAPPED_ATTRIBUTE))


def swapped_decoys(
    image: Image,
    ontology: Ontology,
    evidence: Evidence,
    candidates: Sequence[Candidate],
    count: int,
) -> tuple[Decoy, ...]:
    """At most ``count`` decoys of kind ``swapped_attribute``, with the answers that there are.

    Not "where one side was accepted": that takes a no to every other side, so each such decoy
    would have been answered with no.
    """
    if not count:
        return ()
    found = [
        decoy
        for candidate in candidates
        if len(candidate.classes) > 1
        for decoy in _swapped(ontology, evidence, candidate)
    ]
    seeded = random.Random(f"swapped decoys {image.sha256}")
    return tuple(seeded.sample(found, min(count, len(found))))


def _swapped(ontology: Ontology, evidence: Evidence, candidate: Candidate) -> Iterator[Decoy]:
    """The sides of one box besides the surest one, if that is sure."""
    specs = [ontology.classes[index] for index in candidate.classes]
    asked = [spec for spec in specs if spec.view not in WITHOUT_DECOYS]
    said = {}
    for spec in asked:
        known = evidence.verdicts.get((candidate.row, spec.view, spec.question))
        if known and known.answer.p_yes is not None:
            said[spec.name] = known.answer.p_yes
    if not said or max(said.values()) < SURE:
        return
    surest = max(said, key=lambda name: said[name])
    box = _plain(evidence.proposals.boxes[candidate.row])
    for spec in asked:
        known = evidence.verdicts.get((candidate.row, spec.view, spec.question))
        if known and spec.name != surest:
            decoy = _decoy(DecoyKind.SWAPPED_ATTRIBUTE, spec, box)
            yield replace(decoy, answer=known.answer)


@lru_cache(maxsize=8)
def related_classes(ontology: Ontology) -> tuple[NDArray[np.intp], ...]:
    """For each class, itself and those that are never asked of each other's boxes, by index.

    They share a contrast group or a word: see the module.
    """
    holders: dict[str, set[int]] = {}
    marks = [_marks(spec) for spec in ontology.classes]
    for index, of_class in enumerate(marks):
        for mark in of_class:
            holders.setdefault(mark, set()).add(index)
    return tuple(
        np.array(sorted({index}.union(*(holders[mark] for mark in of_class))), dtype=np.intp)
        for index, of_class in enumerate(marks)
    )


def _marks(spec: ClassSpec) -> frozenset[str]:
    """The words of a class's name and phrases, and its group as what no word can be."""
    text = " ".join((spec.name, *spec.phrases)).casefold()
    words = frozenset(findall(r"\w+", text)) - NO_NOUNS
    return words | {f"={spec.group}"} if spec.group else words


def _askable(ontology: Ontology) -> list[int]:
    return [i for i, spec in enumerate(ontology.classes) if spec.view not in WITHOUT_DECOYS]


def _decoy(kind: DecoyKind, spec: ClassSpec, box: Xyxy) -> Decoy:
    return Decoy(kind, spec.name, box, spec.view, spec.question)


def _plain(box: NDArray[np.float32]) -> Xyxy:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


class _Chooser:
    """Draws decoys for one image."""

    def __init__(
        self, seeded: random.Random, image: Image, ontology: Ontology, proposals: Proposals
    ) -> None:
        self._seeded = seeded
        self._width, self._height = image.width, image.height
        self._classes = ontology.classes
        self._related = related_classes(ontology)
        self._thresholds = np.array([spec.threshold for spec in ontology.classes])
        self._askable = _askable(ontology)
        self._boxes, self._scores = proposals.boxes, proposals.scores
        self._draw = {
            DecoyKind.BACKGROUND: self._background,
            DecoyKind.OTHER_CLASS: self._other_class,
            DecoyKind.OFF_CENTRE: self._off_centre,
        }

    def choose(self, kind: DecoyKind) -> Decoy | None:
        """A decoy of this kind for a class drawn at random; None where there is no room for it."""
        for _ in range(TRIES):
            index = self._seeded.choice(self._askable)
            box = self._draw[kind](index)
            if box is not None:
                return _decoy(kind, self._classes[index], box)
        return None

    def _background(self, index: int) -> Xyxy | None:
        """A box of some proposal's size where nothing was proposed."""
        width, height = self._size()
        if width > self._width or height > self._height or min(width, height) < MIN_SIDE:
            return None
        left = self._seeded.uniform(0, self._width - width)
        top = self._seeded.uniform(0, self._height - height)
        box = (left, top, left + width, top + height)
        context = self._classes[index].view is View.CONTEXT
        margin = CONTEXT_MARGIN if context else CROP_MARGIN
        window = box_ops.padded_window(box, margin, self._width, self._height)
        return box if not _touching(self._boxes, window).any() else None

    def _size(self) -> tuple[float, float]:
        if len(self._boxes):
            x1, y1, x2, y2 = self._boxes[self._seeded.randrange(len(self._boxes))].tolist()
            return x2 - x1, y2 - y1
        return (
            self._width * self._seeded.uniform(MIN_TAKEN, MAX_TAKEN),
            self._height * self._seeded.uniform(MIN_TAKEN, MAX_TAKEN),
        )

    def _other_class(self, index: int) -> Xyxy | None:
        """The box of a confident proposal that cannot be one of the class."""
        row = self._row(np.flatnonzero(self._scores.max(axis=1, initial=0) >= CONFIDENT))
        if row is None:
            return None
        confident = np.flatnonzero(self._scores[row] >= CONFIDENT)
        if np.isin(confident, self._related[index]).any():
            return None
        touching = _touching(self._boxes, _plain(self._boxes[row]))  # itself too
        return _plain(self._boxes[row]) if not (touching & self._present(index)).any() else None

    def _off_centre(self, index: int) -> Xyxy | None:
        """The box of a proposal of the class, moved or shrunk away from all of them."""
        threshold = self._classes[index].threshold
        row = self._row(np.flatnonzero(self._scores[:, index] >= threshold))
        if row is None:
            return None
        x1, y1, x2, y2 = self._boxes[row].tolist()
        box = self._moved(x1, y1, x2 - x1, y2 - y1)
        if min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
            return None
        found = self._boxes[self._present(index)]
        near = box_ops.iou(np.array([box], dtype=np.float32), found)
        return box if near.max(initial=0) < MAX_IOU else None

    def _moved(self, x: float, y: float, width: float, height: float) -> Xyxy:
        """Half of them shifted along both axes, half of them shrunk to a part of the box."""
        draw = self._seeded.uniform
        if self._seeded.random() < 0.5:
            taken = draw(0.35, 0.5)
            left, top = x + draw(0, 1 - taken) * width, y + draw(0, 1 - taken) * height
            return left, top, left + taken * width, top + taken * height
        left = x + self._seeded.choice((-1, 1)) * draw(0.3, 0.8) * width
        top = y + self._seeded.choice((-1, 1)) * draw(0.3, 0.8) * height
        right, bottom = min(left + width, self._width), min(top + height, self._height)
        return max(left, 0.0), max(top, 0.0), right, bottom

    def _row(self, rows: NDArray[np.intp]) -> int | None:
        return int(rows[self._seeded.randrange(len(rows))]) if len(rows) else None

    def _present(self, index: int) -> NDArray[np.bool_]:
        """(N,) which boxes may be of the class, or of one that could be true of the same box."""
        columns = self._related[index]
        above = self._scores[:, columns] > LOW * self._thresholds[columns]
        return np.asarray(above.any(axis=1))


def _touching(boxes: Boxes, window: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """(N,) which boxes share any area with the window."""
    left, top, right, bottom = window
    across = (boxes[:, 0] < right) & (boxes[:, 2] > left)
    return across & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
