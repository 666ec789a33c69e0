"""A student's prediction for one image: its labels, their expected agreement, drift features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import PipelineSettings
from secondlook.core.ontology_yaml import ontology_from_yaml
from secondlook.core.types import STUDENT, Evidence, Labelled, Pixels, Proposals
from secondlook.detector.detections import Detections
from secondlook.detector.manifest import StudentManifest
from secondlook.evaluation.matching import ScoredBox, TrueBox, evaluate
from secondlook.labeling.decisions import judge
from secondlook.labeling.pipeline import Task
from secondlook.labeling.proposer import candidates_above
from secondlook_client.errors import BadOntology, BadSetting
from secondlook_client.ontology import ClassSpec, Ontology, normal
from secondlook_client.values import Outcome

FEATURE_TOLERANCES = (0.05, 0.1, 0.03, *(0.02,) * 12)
"""How far each of a prediction's ``features`` may stray without an alarm; see ``trust``."""
MIN_PROBABILITY = 0.05
"""Probability from which a box counts among those that the teachers may label."""
_EPSILON = 1e-6
"""Probabilities are kept this far from 0 and 1, where odds would be infinite."""
_BRIGHTNESS_SAMPLES = 64
"""Pixels along each side from which the brightness of an image is computed."""


class CascadeStudent(Protocol):
    """A small detector with calibrated probabilities, e.g. ``detector.OnnxDetector``."""

    manifest: StudentManifest

    def detect(self, images: Sequence[Pixels], floor: float = ...) -> list[Detections]:
        """What is found on each image with a raw score of at least ``floor``."""
        ...

    def probability(self, found: Detections) -> NDArray[np.float32]:
        """(N,) that each detection is right, [0, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class StudentPrediction:
    """What a student makes of one image."""

    labelled: Labelled
    """The labels that it would give alone."""
    expected: float
    """Expected agreement with its teachers' labels, by its own probabilities, [0, 1]."""
    features: tuple[float, ...]
    """What ``trust.DriftDetector`` follows, as many as ``FEATURE_TOLERANCES``: the expected
    agreement, the logarithm of the number of likely boxes, their mean probability, and the
    brightness of each quarter in R, G and B."""


def student_name(manifest: StudentManifest) -> str:
    """What the evidence names as the proposer."""
    return f"{STUDENT}{manifest.name}@{manifest.digest[:12]}"


class StudentAdapter:
    """Turns a student's detections into predictions for an ontology that it covers."""

    def __init__(self, manifest: StudentManifest, settings: PipelineSettings) -> None:
        """Raises ``BadSetting`` for a manifest whose ontology cannot be read."""
        self._name = student_name(manifest)
        self._classes = manifest.classes
        self._settings = settings
        self._trained: dict[str, ClassSpec] = {}
        if manifest.ontology:
            try:
                ontology = ontology_from_yaml(manifest.ontology, "the student's manifest")
            except BadOntology as cause:
                raise BadSetting(f"{self._name} cannot be a cascade: {cause}") from cause
            self._trained = {spec.name: spec for spec in ontology.classes}

    def covers(self, ontology: Ontology) -> bool:
        """Whether the student was trained on every class, with the same phrases and question."""
        return all(self._covers(spec) for spec in ontology.classes)

    def _covers(self, spec: ClassSpec) -> bool:
        if spec.name not in self._classes:
            return False
        trained = self._trained.get(spec.name)
        return trained is None or _meaning(trained) == _meaning(spec)

    def predict(
        self, task: Task, found: Detections, probabilities: NDArray[np.float32], ms: float
    ) -> StudentPrediction:
        """The prediction for one image; ``probabilities`` (N,) are those of ``found``.

        ``ms`` is the image's share of the student's time.
        """
        proposals = self._proposals(task.ontology, found, probabilities)
        answers = self._as_answers(proposals, task.ontology)
        kept = answers.take(self._worth_keeping(proposals))
        evidence = Evidence(kept, {}, self._name, verifier="")
        image = task.image
        judgements = judge(evidence, task.ontology, self._settings.nms_iou)
        timings = {"student": ms}
        labelled = Labelled(
            image.name, image.sha256, image.width, image.height, judgements, evidence, timings
        )
        expected = self._expected(proposals, answers, task.ontology)
        likely = proposals.scores[proposals.scores >= 0.5]
        mean = float(likely.mean()) if len(likely) else 1.0
        features = (expected, float(np.log1p(len(likely))), mean, *_brightness(image.pixels))
        return StudentPrediction(labelled, expected, features)

    def _proposals(
        self, ontology: Ontology, found: Detections, probabilities: NDArray[np.float32]
    ) -> Proposals:
        """One row per box, with its probability for every class; the best first.

        Detections of several classes that share a box are one row; classes outside the
        ontology are left out.
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
        """The rows to keep, by the limits of the teachers."""
        floor = min(self._settings.score_floor, MIN_PROBABILITY)
        likely = proposals.scores.max(axis=1, initial=0) >= floor
        return np.flatnonzero(likely)[: self._settings.max_boxes]

    def _as_answers(self, proposals: Proposals, ontology: Ontology) -> Proposals:
        """The same boxes with a verifier's P(yes) of each class in place of a probability.

        A student learns what was accepted when it was trained: where its odds are even, the
        verifier's answers stood at ``accept``. So the odds of ``accept`` multiply its own, where
        that bound is known.
        """
        trained = [self._trained.get(spec.name) for spec in ontology.classes]
        bounds = np.clip([spec.accept if spec else 0.5 for spec in trained], _EPSILON, 1 - _EPSILON)
        likely = np.clip(proposals.scores.astype(np.float64), _EPSILON, 1 - _EPSILON)
        odds = likely / (1 - likely) * bounds / (1 - bounds)
        return Proposals(proposals.boxes, (odds / (1 + odds)).astype(np.float32))

    def _expected(self, proposals: Proposals, answers: Proposals, ontology: Ontology) -> float:
        """Expected F1 of the labels against the teachers', as a ratio of expectations.

        A box is right with its probability p, and the teachers have Σp labels: with n labels of
        its own, whose p add up to r, that is 2·r / (n + Σp) (the approximation of Jansche,
        "Maximum expected F-measure training of logistic regression models", HLT/EMNLP 2005).
        A duplicate of a better box of its group is left out, as it is when labels are made.
        """
        accept = np.array([spec.accept for spec in ontology.classes])
        possible = proposals.scores >= MIN_PROBABILITY
        theirs = right = ours = 0.0
        for candidate in candidates_above(proposals, ontology, possible, self._settings.nms_iou):
            sides = list(candidate.classes)
            likely = float(proposals.scores[candidate.row, sides].max())
            theirs += likely
            # Where two sides of a contrast would be accepted, neither is.
            if (answers.scores[candidate.row, sides] >= accept[sides]).sum() == 1:
                right += likely
                ours += 1
        return 2 * right / (ours + theirs) if ours + theirs else 1.0


def agreement(student: Labelled, teachers: Labelled, min_iou: float = 0.5) -> float | None:
    """F1 of the student's labels against the teachers', [0, 1].

    What the teachers are unsure of counts neither way. 1 where neither has a label; None where
    the teachers have nothing but unsure boxes, with which nothing can be compared.
    """
    names = sorted({j.class_name for labelled in (student, teachers) for j in labelled.judgements})
    accepted = [
        ScoredBox(j.class_name, j.box, j.decision.probability)
        for j in student.judgements
        if j.decision.outcome is Outcome.ACCEPT
    ]
    truth = [
        TrueBox(j.class_name, j.box, ignore=j.decision.outcome is Outcome.UNSURE)
        for j in teachers.judgements
        if j.decision.outcome is not Outcome.REJECT
    ]
    total = evaluate([(accepted, truth)], names, min_iou).total()
    if total.f1 is None:
        return None if teachers.of(Outcome.UNSURE) else 1.0
    return total.f1


def _meaning(spec: ClassSpec) -> tuple[frozenset[str], str, str]:
    return frozenset(map(normal, spec.phrases)), spec.question, spec.view.value


def _brightness(pixels: Pixels) -> list[float]:
    """12 numbers in [0, 1]: the means of the quarters in R, G and B, from a sample of pixels."""
    height, width = pixels.shape[:2]
    some = pixels[:: max(1, height // _BRIGHTNESS_SAMPLES), :: max(1, width // _BRIGHTNESS_SAMPLES)]
    rows, columns = np.array_split(np.arange(some.shape[0]), 2), some.shape[1] // 2
    halves = [some[part] if len(part) else some for part in rows]
    quarters = [q for half in halves for q in (half[:, :columns], half[:, columns:])]
    return [v for q in quarters for v in (q if q.size else some).mean(axis=(0, 1)) / 255]
