"""Query by committee: several students look at the boxes of a run, and where they disagree counts.

The disagreement about a box is what the students' votes would tell of each other: the entropy of
their mean less the mean of their entropies (BALD, arXiv 1112.5745), in bits. Students that are all
unsure alike do not disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.core.types import Image, Labelled
from secondlook.evaluation.uncertainty import confirmations
from secondlook.evaluation.uncertainty_sources import (
    Detect,
    Floats,
    JudgedBoxes,
    detections_in_ontology,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod

FEWEST, MOST = 2, 8
"""Members."""


@dataclass(frozen=True)
class Member:
    """One student of a committee."""

    detect: Detect
    classes: Sequence[str]
    """What it finds, in its own order."""
    name: str
    """Says which student it is."""


class StudentCommittee:
    """An ``UncertaintySource`` of two to eight students."""

    method = UncertaintyMethod.COMMITTEE

    def __init__(self, members: Sequence[Member]) -> None:
        """Raises ``InvalidInput`` for too few or too many members."""
        if not FEWEST <= len(members) <= MOST:
            raise InvalidInput(
                f"a committee has {FEWEST} to {MOST} students, got {len(members)}: name their "
                "folders"
            )
        self._members = tuple(members)
        self.source = "; ".join(one.name for one in members)

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        """See ``UncertaintySource``. A vote is a student's score for the class at the place of the
        box, 0 where it finds none; a class that not all of them know is not measured."""
        boxes = JudgedBoxes.of(labelled, ontology)
        if not boxes.places:
            return {}
        votes = np.stack([self._votes(one, image, boxes, ontology) for one in self._members])
        return {
            place: LabelUncertainty(self.method, apart, mean, _told(of_box), {"students": of_box})
            for place, apart, mean, of_box in zip(
                boxes.places,
                disagreement(votes).tolist(),
                votes.mean(axis=0).tolist(),
                votes.T.tolist(),
                strict=True,
            )
            if np.isfinite(apart)
        }

    def _votes(
        self, member: Member, image: Image, boxes: JudgedBoxes, ontology: Ontology
    ) -> Floats:
        """(N,), NaN of classes that the student does not know."""
        (found,) = member.detect([image.pixels])
        known = detections_in_ontology(found, member.classes, ontology)
        votes = confirmations(boxes.found, known).scores
        unknown = [one.class_name not in member.classes for one in boxes.judgements]
        votes[unknown] = np.nan
        return votes


def disagreement(votes: Floats) -> Floats:
    """(N,) bits, [0, 1], of (S, N) votes of S students, [0, 1]."""
    return np.clip(_entropy(votes.mean(axis=0)) - _entropy(votes).mean(axis=0), 0, 1)


def _entropy(p: Floats) -> Floats:
    """Of yes or no, in bits."""
    inside = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(-inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside))


def _told(votes: Sequence[float]) -> str:
    return "students " + ", ".join(f"{vote:.2f}" for vote in votes)
