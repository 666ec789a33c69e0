"""What a student says of one image: its labels, what it expects of them, how it looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.core.errors import BadOntology, BadSetting
from secondlook.core.ontology import ClassSpec, Ontology, normal
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import STUDENT, Evidence, Judgement, Labelled, Outcome, Pixels, Proposals
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import Manifest
from secondlook.evaluation.matching import Counts, Detection, TrueBox, match_class
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Limits, Task
from secondlook.labeling.proposer import candidates_above

FLOORS = (0.05, 0.1, 0.03, *(0.02,) * 12)
"""By how much each of an opinion's ``numbers`` may stray without being strange; see ``trust``."""
POSSIBLE = 0.05
"""Probability from which a box counts among those that the teachers may label."""
_SURE = 1e-6
"""Odds have no end: a probability this near to 0 or 1 is taken as that."""
_SAMPLED = 64
"""Pixels along a side that the light of an image is read from."""


class Student(Protocol):
    """A small detector with calibrated probabilities, e.g. ``detector.OnnxDetector``."""

    manifest: Manifest

    def detect(self, images: Sequence[Pixels], floor: float = ...) -> list[Detections]:
        """What is found on each image with a raw score of at least ``floor``."""
        ...

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """(N,) that each detection is right, [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class Opinion:
    """What a student says of one image."""

    labelled: Labelled
    """As it would be without its teachers."""
    expected: float
    """How far its labels will agree with its teachers', by its own probabilities, [0, 1]."""
    numbers: tuple[float, ...]
    """What ``trust.Watch`` follows, as many as ``FLOORS``: the agreement expected, how much it
    found (logarithm), the mean probability of that, and how light each quarter is in R, G and B."""


def student_name(manifest: Manifest) -> str:
    """What stands in the evidence for a proposer."""
    return f"{STUDENT}{manifest.name}@{manifest.digest[:12]}"


class Reading:
    """Makes a student's detections an opinion on an ontology that it knows."""

    def __init__(self, manifest: Manifest, limits: Limits) -> None:
        """Raises ``BadSetting`` for a manifest whose ontology cannot be read."""
        self._name = student_name(manifest)
        self._classes = manifest.classes
        self._limits = limits
        self._meant: dict[str, ClassSpec] = {}
        if manifest.ontology:
            try:
                taught = ontology_from_yaml(manifest.ontology, "the student's manifest")
            except BadOntology as cause:
                raise BadSetting(f"{self._name} cannot be a cascade: {cause}") from cause
            self._meant = {spec.name: spec for spec in taught.classes}

    def knows(self, ontology: Ontology) -> bool:
        """Whether the student was taught every class, with the same phrases and question."""
        return all(self._knows(spec) for spec in ontology.classes)

    def _knows(self, spec: ClassSpec) -> bool:
        if spec.name not in self._classes:
            return False
        taught = self._meant.get(spec.name)
        return taught is None or _meaning(taught) == _meaning(spec)

    def opinion(
        self, task: Task, found: Detections, probabilities: NDArray[np.float32], ms: float
    ) -> Opinion:
        """The opinion of one image; ``probabilities`` (N,) are those of ``found``.

        ``ms`` is the image's share of the student's time.
        """
        proposals = self._proposals(task.ontology, found, probabilities)
        answers = self._as_answers(proposals, task.ontology)
        kept = answers.take(self._worth_keeping(proposals))
        evidence = Evidence(kept, {}, self._name, verifier="")
        image = task.image
        judgements = judge(evidence, task.ontology, self._limits.max_iou)
        timings = {"student": ms}
        labelled = Labelled(
            image.name, image.sha256, image.width, image.height, judgements, evidence, timings
        )
        expected = self._expected(proposals, answers, task.ontology)
        sure = proposals.scores[proposals.scores >= 0.5]
        mean = float(sure.mean()) if len(sure) else 1.0
        numbers = (expected, float(np.log1p(len(sure))), mean, *_light(image.pixels))
        return Opinion(labelled, expected, numbers)

    def _proposals(
        self, ontology: Ontology, found: Detections, probabilities: NDArray[np.float32]
    ) -> Proposals:
        """One row a box, with its probability for every class; the best first.

        Detections of several classes that share a box are one row; classes that nobody asked for
        are left out.
        """
        place = {name: column for column, name in enumerate(ontology.names)}
        columns = np.array([place.get(name, -1) for name in self._classes], dtype=np.intp)
        columns = columns[found.classes]
        asked = columns >= 0
        boxes, rows = np.unique(found.boxes[asked], axis=0, return_inverse=True)
        scores = np.zeros((len(boxes), len(place)), dtype=np.float32)
        np.maximum.at(scores, (rows.ravel(), columns[asked]), probabilities[asked])
        order = np.argsort(-scores.max(axis=1, initial=0), kind="stable")
        return Proposals(boxes[order].astype(np.float32), scores[order])

    def _worth_keeping(self, proposals: Proposals) -> NDArray[np.intp]:
        """The rows to keep: the limits are those of the teachers."""
        floor = min(self._limits.floor, POSSIBLE)
        likely = proposals.scores.max(axis=1, initial=0) >= floor
        return np.flatnonzero(likely)[: self._limits.max_boxes]

    def _as_answers(self, proposals: Proposals, ontology: Ontology) -> Proposals:
        """The same boxes with what a verifier would say of each class in place of a probability.

        A student learnt what was accepted when it was taught: where its odds are even, its
        verifier's answers stood at ``accept``. So that adds to its odds, where it is known.
        """
        taught = [self._meant.get(spec.name) for spec in ontology.classes]
        bounds = np.clip([spec.accept if spec else 0.5 for spec in taught], _SURE, 1 - _SURE)
        likely = np.clip(proposals.scores.astype(np.float64), _SURE, 1 - _SURE)
        odds = likely / (1 - likely) * bounds / (1 - bounds)
        return Proposals(proposals.boxes, (odds / (1 + odds)).astype(np.float32))

    def _expected(self, proposals: Proposals, answers: Proposals, ontology: Ontology) -> float:
        """F1 that the labels would have against its teachers', as a ratio of expectations.

        A box is right with its probability p, and the teachers have Σp labels: with n labels of
        its own, whose p add up to r, that is 2·r / (n + Σp). A box that repeats a better one of
        its group, as a student's second thoughts do, is suppressed when labels are made, too.
        """
        accept = np.array([spec.accept for spec in ontology.classes])
        possible = proposals.scores >= POSSIBLE
        theirs = right = ours = 0.0
        for candidate in candidates_above(proposals, ontology, possible, self._limits.max_iou):
            sides = list(candidate.classes)
            likely = float(proposals.scores[candidate.row, sides].max())
            theirs += likely
            # Where two sides of a contrast would be accepted, neither is.
            if (answers.scores[candidate.row, sides] >= accept[sides]).sum() == 1:
                right += likely
                ours += 1
        return 2 * right / (ours + theirs) if ours + theirs else 1.0


def agreement(student: Labelled, teachers: Labelled, min_iou: float = 0.5) -> float | None:
    """How far the labels of both are the same, [0, 1]: F1 of the student's against the teachers'.

    What the teachers are unsure of counts neither way. 1 where both say that nothing is there;
    None where the teachers say nothing that could be compared.
    """
    total = Counts()
    names = {j.class_name for labelled in (student, teachers) for j in labelled.judgements}
    for name in sorted(names):
        accepted = [
            Detection(name, j.box, j.decision.probability)
            for j in _of_class(student, name)
            if j.decision.outcome is Outcome.ACCEPT
        ]
        truth = [
            TrueBox(name, j.box, ignore=j.decision.outcome is Outcome.UNSURE)
            for j in _of_class(teachers, name)
            if j.decision.outcome is not Outcome.REJECT
        ]
        total += match_class(accepted, truth, min_iou)
    if total.f1 is None:
        return None if teachers.of(Outcome.UNSURE) else 1.0
    return total.f1


def _of_class(labelled: Labelled, name: str) -> list[Judgement]:
    return [judgement for judgement in labelled.judgements if judgement.class_name == name]


def _meaning(spec: ClassSpec) -> tuple[frozenset[str], str, str]:
    return frozenset(map(normal, spec.phrases)), spec.question, spec.view.value


def _light(pixels: Pixels) -> list[float]:
    """12 numbers in [0, 1]: the means of the quarters in R, G and B, from a sample of pixels."""
    height, width = pixels.shape[:2]
    some = pixels[:: max(1, height // _SAMPLED), :: max(1, width // _SAMPLED)]
    rows, columns = np.array_split(np.arange(some.shape[0]), 2), some.shape[1] // 2
    halves = [some[part] if len(part) else some for part in rows]
    quarters = [q for half in halves for q in (half[:, :columns], half[:, columns:])]
    return [v for q in quarters for v in (q if q.size else some).mean(axis=(0, 1)) / 255]
