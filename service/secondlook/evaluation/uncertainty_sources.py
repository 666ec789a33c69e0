"""Three ways to measure how uncertain the judgements on an image are.

``MonteCarlo`` asks the run's own models again: the verifier about the same box, mirrored, larger
and smaller, and in other words; the proposer on other views of the image. ``Committee`` compares
proposer and verifier with a student. ``EdgeDistribution`` reads how a student spreads the edges of
the box. Each gives a confidence that the label is right; how uncertain the decision is follows from
that and from what was decided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy
from secondlook.core.types import YES, Image, Labelled, Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.views import VIEWS, detect_again
from secondlook.evaluation.uncertainty import (
    Sightings,
    confirmations,
    decision_uncertainty,
    edge_uncertainty,
    sightings,
)
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.proposer import Proposer, by_class
from secondlook.labeling.verifier import VerdictCache, VerificationRequest, Verifier, verify
from secondlook.labeling.vocabulary import ChecksQuestions
from secondlook_client.errors import BadOntology, InvalidInput
from secondlook_client.ontology import MAX_QUESTION, ClassSpec, Ontology, with_article
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import Judgement, View

Floats = NDArray[np.float64]
Detect = Callable[[Sequence[Pixels]], list[Detections]]
"""Runs a student on images of any size."""

NAME = "{}"
"""Stands for the class in a wording."""
WORDINGS = ("Is this {}?", "Is there {} here?", "Can you see {}?")
"""Asked beside a class's own question; ``{}`` is its name with an article."""
MAX_WORDINGS, MAX_WORDING = 8, 120
"""How many, and characters of each."""
STUDENT_FLOOR = 0.01
"""Lowest score of a student's detection that confirms a box."""
EDGES = ("left", "top", "right", "bottom")
_NO_CACHE = VerdictCache(0)


class UncertaintySource(Protocol):
    """One way to measure."""

    method: UncertaintyMethod
    source: str
    """Models and options, in words: with another one the same image is measured anew."""

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        """The uncertainty of the judgements on an image as its run decided them, by place.

        Doubts about the whole image and boxes that a person added have none.
        """
        ...


@dataclass(frozen=True)
class Shown:
    """A way of showing the verifier a box again."""

    mirrored: bool = False
    scale: float = 1.0
    """Of the box's sides around its centre, so that the crop is wider or tighter."""


_SHOWN = (Shown(), Shown(mirrored=True), Shown(scale=1.15), Shown(scale=0.9, mirrored=True))
"""The box as the run showed it comes first."""


@dataclass(frozen=True, eq=False)
class JudgedBoxes:
    """The N judgements on an image that are about a box, as detections of its run's classes."""

    places: Sequence[int]
    """(N,) among the judgements."""
    judgements: Sequence[Judgement]
    """(N,)."""
    found: Detections
    """(N,) their boxes and scores; ``classes`` are indices of the ontology."""

    @classmethod
    def of(cls, labelled: Labelled, ontology: Ontology) -> "JudgedBoxes":
        """Of a result as its run decided it."""
        places = [at for at, one in enumerate(labelled.judgements) if not one.whole_image]
        judged = [labelled.judgements[at] for at in places]
        boxes = np.array([one.box for one in judged], np.float32).reshape(-1, 4)
        scores = np.array([one.score for one in judged], np.float32)
        classes = np.array([ontology.names.index(one.class_name) for one in judged], np.int64)
        return cls(places, judged, Detections(boxes, scores, classes))

    def told(
        self,
        method: UncertaintyMethod,
        confidences: Floats,
        reasons: Sequence[str],
        figures: Sequence[Mapping[str, Sequence[float]]],
    ) -> dict[int, LabelUncertainty]:
        """By place; ``confidences`` (N,) are NaN where the method knows nothing."""
        inside = np.clip(confidences, 0, 1).tolist()  # rounding may leave [0, 1]
        return {
            place: LabelUncertainty(
                method,
                decision_uncertainty(judged.outcome, confidence),
                confidence,
                reason,
                measured,
            )
            for place, judged, confidence, reason, measured in zip(
                self.places, self.judgements, inside, reasons, figures, strict=True
            )
            if np.isfinite(confidence)
        }


class MonteCarlo:
    """Asks both models again. ``source`` names them, the views and the wordings."""

    method = UncertaintyMethod.MONTE_CARLO

    def __init__(
        self, pipeline: Pipeline, views: int = 3, wordings: Sequence[str] = WORDINGS
    ) -> None:
        """``views`` of the image for the proposer, 0 to 6, and as many of each box for the
        verifier, at most 3 (``_SHOWN``); both beside the first. Raises ``InvalidInput``."""
        if not 0 <= views <= len(VIEWS):
            raise InvalidInput(f"expected 0 to {len(VIEWS)} further views, got {views}")
        self._wordings = _checked_wordings(wordings)
        self._pipeline, self._views = pipeline, VIEWS[:views]
        self._shown = _SHOWN[: views + 1]
        if not views and (pipeline.verifier is None or not wordings):
            raise InvalidInput(
                "there is nothing to ask again: give more views, or wordings and a verifier"
            )
        words = ", ".join(self._wordings) if pipeline.verifier else ""
        asked = " → ".join(filter(None, pipeline.models))
        self.source = f"{asked}; {views} more views; {words or 'no wordings'}"

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        """See ``UncertaintySource``."""
        boxes = JudgedBoxes.of(labelled, ontology)
        if not boxes.places:
            return {}
        answers = self._answers(image, labelled, boxes, ontology)
        seen = self._seen(image, boxes.found, ontology)
        figures = [_repeated(answers[at], seen, at) for at in range(len(boxes.places))]
        confidences = [_mean_of_means(one) for one in figures]
        reasons = [_said_again(one) for one in figures]
        return boxes.told(self.method, np.array(confidences), reasons, figures)

    def _answers(
        self, image: Image, labelled: Labelled, boxes: JudgedBoxes, ontology: Ontology
    ) -> list[list[float]]:
        """Of each box, what the verifier answers now and answered in the run: P(yes)."""
        verifier = self._pipeline.verifier
        specs = [ontology.classes[place] for place in boxes.found.classes]
        known = [one.verdict.answer.p_yes if one.verdict else None for one in boxes.judgements]
        said: list[list[float]] = [[] if p is None else [p] for p in known]
        if verifier is None:
            return said
        mirrored = replace(image, pixels=np.ascontiguousarray(image.pixels[:, ::-1]))
        asked = [_questions(verifier, spec, self._wordings) for spec in specs]
        together: dict[tuple[Shown, Xyxy, View], dict[str, list[int]]] = {}
        for shown in self._shown:
            for at, judged in enumerate(boxes.judgements):
                # The run has the answer to its own question about its own view.
                again = asked[at][1:] if shown == Shown() and said[at] else asked[at]
                for question in again:
                    of_view = together.setdefault((shown, judged.box, specs[at].view), {})
                    of_view.setdefault(question, []).append(at)
        requests = [
            replace(_shown_again(image, mirrored, box, view, shown), questions=tuple(questions))
            for (shown, box, view), questions in together.items()
        ]
        found = verify(verifier, requests, _NO_CACHE)
        for questions, verdicts in zip(together.values(), found, strict=True):
            for of_boxes, one in zip(questions.values(), verdicts, strict=True):
                if (p_yes := one.answer.p_yes) is not None:
                    for at in of_boxes:
                        said[at].append(p_yes)
        return said

    def _seen(self, image: Image, first: Detections, ontology: Ontology) -> Sightings:
        pipeline, floor = self._pipeline, self._pipeline.settings.score_floor

        def detect(views: Sequence[Pixels]) -> list[Detections]:
            shown = [replace(image, pixels=one) for one in views]
            return _proposed(pipeline.proposer, shown, ontology, floor)

        again = detect_again(detect, image.pixels, first, self._views) if self._views else []
        return sightings(first, again)


def _proposed(
    proposer: Proposer, images: Sequence[Image], ontology: Ontology, floor: float
) -> list[Detections]:
    """A proposer's boxes, one for each class whose score reaches the floor."""
    found = []
    for image, phrases in zip(
        images, proposer.propose(images, ontology.phrases, floor), strict=True
    ):
        proposals = by_class(phrases, image, ontology, len(phrases))
        rows, classes = np.nonzero(proposals.scores >= floor)
        scores = proposals.scores[rows, classes]
        found.append(Detections(proposals.boxes[rows], scores, classes.astype(np.int64)))
    return found


def _checked_wordings(wordings: Sequence[str]) -> tuple[str, ...]:
    given = tuple(dict.fromkeys(wordings))
    if len(given) > MAX_WORDINGS:
        raise InvalidInput(f"at most {MAX_WORDINGS} wordings, got {len(given)}")
    for one in given:
        if one.count(NAME) != 1 or not one.isprintable() or len(one) > MAX_WORDING:
            raise InvalidInput(
                f"expected a question with one {NAME} where the class belongs, such as "
                f"'{WORDINGS[1]}', got {one!r:.80}"
            )
    return given


def _questions(verifier: Verifier, spec: ClassSpec, wordings: Sequence[str]) -> list[str]:
    """The class's own question first, then the wordings that the verifier takes."""
    worded = (one.replace(NAME, with_article(spec.name)) for one in wordings)
    asked = dict.fromkeys([spec.question, *(one for one in worded if len(one) <= MAX_QUESTION)])
    return [one for one in asked if one == spec.question or _takes(verifier, one)]


def _takes(verifier: Verifier, question: str) -> bool:
    if not isinstance(verifier, ChecksQuestions):
        return True
    try:
        verifier.check_questions([question])
    except BadOntology:
        return False
    return True


def _shown_again(
    image: Image, mirrored: Image, box: Xyxy, view: View, shown: Shown
) -> VerificationRequest:
    """The request, still without questions."""
    x1, y1, x2, y2 = box
    if shown.mirrored:
        x1, x2 = image.width - x2, image.width - x1
    across, down = (x2 - x1) * (shown.scale - 1) / 2, (y2 - y1) * (shown.scale - 1) / 2
    scaled = (
        max(x1 - across, 0.0),
        max(y1 - down, 0.0),
        min(x2 + across, float(image.width)),
        min(y2 + down, float(image.height)),
    )
    return VerificationRequest(mirrored if shown.mirrored else image, scaled, view, ())


def _repeated(answers: Sequence[float], seen: Sightings, at: int) -> dict[str, Sequence[float]]:
    """What was found of one box: answers, and score × IoU in each view that shows it."""
    views = (seen.scores * seen.overlaps)[:, at]
    shown = views[np.isfinite(views)].tolist()
    return {"answers": list(answers), "views": shown if len(seen.scores) > 1 else []}


def _mean_of_means(figures: Mapping[str, Sequence[float]]) -> float:
    known = [float(np.mean(values)) for values in figures.values() if len(values)]
    return float(np.mean(known)) if known else float("nan")


def _said_again(figures: Mapping[str, Sequence[float]]) -> str:
    """``the verifier said yes 9 of 12 times; the proposer found it again in 2 of 3 views``."""
    answers, views = figures["answers"], figures["views"][1:]
    parts = []
    if answers:
        yes = sum(p > YES for p in answers)
        parts.append(f"the verifier said yes {yes} of {len(answers)} times")
    if views:
        found = sum(one > 0 for one in views)
        parts.append(f"the proposer found it again in {found} of {len(views)} views")
    return "; ".join(parts)


class Committee:
    """Compares proposer and verifier, by what the run kept, with a student.

    The confidence is the mean of the proposer's score, the label's probability, which the run made
    of the verifier's answer, and the student's score for the same class at the same place. On the
    demo world the calibrated probability did better there than the answer itself.
    """

    method = UncertaintyMethod.COMMITTEE

    def __init__(self, detect: Detect, classes: Sequence[str], name: str) -> None:
        """``detect`` finds the student's ``classes``; ``name`` says which student it is."""
        self._detect, self._classes = detect, tuple(classes)
        self.source = name

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        """See ``UncertaintySource``. The student has no opinion of a class that it does not
        know."""
        boxes = JudgedBoxes.of(labelled, ontology)
        if not boxes.places:
            return {}
        (found,) = self._detect([image.pixels])
        known = detections_in_ontology(found, self._classes, ontology)
        student = confirmations(boxes.found, known).scores
        figures = [
            self._opinions(judged, float(score))
            for judged, score in zip(boxes.judgements, student, strict=True)
        ]
        confidences = np.array([np.mean([*one.values()]) for one in figures])
        reasons = [_opinions_told(one) for one in figures]
        return boxes.told(self.method, confidences, reasons, figures)

    def _opinions(self, judged: Judgement, score: float) -> dict[str, Sequence[float]]:
        opinions: dict[str, Sequence[float]] = {
            "proposer": (judged.score,),
            "probability": (judged.probability,),
        }
        if judged.class_name in self._classes:
            opinions["student"] = (score,)
        return opinions


def detections_in_ontology(
    found: Detections, classes: Sequence[str], ontology: Ontology
) -> Detections:
    """A student's detections of the classes of an ontology, numbered as there."""
    places = {name: place for place, name in enumerate(ontology.names)}
    columns = np.array([places.get(name, -1) for name in classes], dtype=np.int64)
    mapped = columns[found.classes]
    kept = mapped >= 0
    return Detections(found.boxes[kept], found.scores[kept], mapped[kept])


def _opinions_told(opinions: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {values[0]:.2f}" for name, values in opinions.items())


class EdgeDetector(Protocol):
    """A student that says how it spreads the edges of its boxes."""

    name: str

    @property
    def classes(self) -> Sequence[str]:
        """What it finds, in its own order."""
        ...

    def detect(self, images: Sequence[Pixels], floor: float) -> list[Detections]:
        """Its detections, with scores of ``floor`` and more, on images of any size."""
        ...

    def edge_bins(
        self, image: Pixels, found: Detections
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, 4, K) probabilities of the K distances by which the edges of N of its detections may
        be moved, and these distances, in sides of the box."""
        ...


class EdgeDistribution:
    """Reads how a student spreads the edges of the box that it finds at the same place."""

    method = UncertaintyMethod.DISTRIBUTION

    def __init__(self, student: EdgeDetector) -> None:
        self._student = student
        self.source = student.name

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        """See ``UncertaintySource``. Where the student finds no such box the confidence is 0; a
        class that it does not know is not measured."""
        boxes = JudgedBoxes.of(labelled, ontology)
        if not boxes.places:
            return {}
        (found,) = self._student.detect([image.pixels], STUDENT_FLOOR)
        known = detections_in_ontology(found, self._student.classes, ontology)
        there = confirmations(boxes.found, known)
        at = np.flatnonzero(there.rows >= 0)
        entropy, width = np.full((2, len(boxes.places), 4), np.nan)
        if len(at):
            bins = self._student.edge_bins(image.pixels, known.take(there.rows[at]))
            entropy[at], width[at] = edge_uncertainty(*bins)
        confidences = np.nan_to_num(1 - entropy.mean(axis=1)) * there.overlaps
        unknown = [one.class_name not in self._student.classes for one in boxes.judgements]
        confidences[unknown] = np.nan
        figures = [_edges(*one) for one in zip(entropy, width, strict=True)]
        reasons = [
            _edges_told(one, j.box) for one, j in zip(figures, boxes.judgements, strict=True)
        ]
        return boxes.told(self.method, confidences, reasons, figures)


def _edges(entropy: Floats, width: Floats) -> dict[str, Sequence[float]]:
    """Of one box: the entropy of each edge, [0, 1], and its width in sides of the box; empty where
    the student finds no such box."""
    if np.isnan(entropy).any():
        return {}
    return {"entropy": entropy.tolist(), "width": width.tolist()}


def _edges_told(figures: Mapping[str, Sequence[float]], box: Xyxy) -> str:
    """``each edge in pixels: left ±3, top ±12, right ±3, bottom ±4``."""
    if not figures:
        return "the student finds no such box"
    across, down = box[2] - box[0], box[3] - box[1]
    sides = (across, down, across, down)
    edges = zip(EDGES, figures["width"], sides, strict=True)
    told = ", ".join(f"{name} ±{width * side:.1f}" for name, width, side in edges)
    return f"each edge in pixels: {told}"
