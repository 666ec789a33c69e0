"""Evidence for one ontology, mapped to the classes of another.

A class can be decided without a model when its phrases were proposed and its question was asked
before; its name, group and thresholds are free. A student's scores are of classes and not of
phrases, so of its columns only that of the same question will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.core.types import Evidence, Proposals
from secondlook_client.errors import BadOntology
from secondlook_client.ontology import ClassSpec, Ontology, normal
from secondlook_client.values import LabelPath


@dataclass(frozen=True)
class ColumnMapping:
    """Which score columns of one ontology each class of another reads."""

    places: tuple[tuple[int, ...], ...]
    """For each wanted class the columns whose best score is its score."""

    def scores(self, kept: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, wanted) scores from (N, kept) ones."""
        best = [kept[:, places].max(axis=1, initial=0) for places in self.places]
        return np.stack(best, axis=1).astype(np.float32)

    def apply(self, evidence: Evidence) -> Evidence:
        """The same evidence with its scores by wanted class; rows and verdicts stay."""
        boxes, scores = evidence.proposals.boxes, evidence.proposals.scores
        return replace(evidence, proposals=Proposals(boxes, self.scores(scores)))


def columns_for(
    wanted: Ontology, kept: Ontology, path: LabelPath = LabelPath.TEACHERS
) -> ColumnMapping:
    """Where to find the scores of ``wanted`` in evidence that was gathered for ``kept``.

    ``path`` is the evidence's. Raises ``BadOntology`` for a class whose phrases were never
    proposed or, of a student, whose question was never asked.
    """
    if path is LabelPath.STUDENT:
        check_questions(wanted, kept)
        return ColumnMapping(tuple(_same_question(spec, kept) for spec in wanted.classes))
    phrases = [frozenset(map(normal, spec.phrases)) for spec in kept.classes]
    return ColumnMapping(tuple(_places(spec, phrases, kept) for spec in wanted.classes))


def check_questions(wanted: Ontology, kept: Ontology) -> None:
    """Raises ``BadOntology`` for a class whose question, in its view, ``kept`` does not ask."""
    asked = {(spec.view, spec.question) for spec in kept.classes}
    for spec in wanted.classes:
        if (spec.view, spec.question) not in asked:
            raise BadOntology(
                f"class '{spec.name}': the question {spec.question!r} was not asked of a box's "
                f"{spec.view} in this run; asked were {_listed([q for _, q in sorted(asked)])}; "
                "use one of these, or label the images again"
            )


def _same_question(spec: ClassSpec, kept: Ontology) -> tuple[int, ...]:
    """Columns of the classes that ask the same; with the same phrases, if there are such."""
    asked = [
        place
        for place, known in enumerate(kept.classes)
        if (known.view, known.question) == (spec.view, spec.question)
    ]
    own = frozenset(map(normal, spec.phrases))
    same = [p for p in asked if frozenset(map(normal, kept.classes[p].phrases)) == own]
    return tuple(same or asked)


def _places(spec: ClassSpec, phrases: Sequence[frozenset[str]], kept: Ontology) -> tuple[int, ...]:
    """The class's own column if there is one, else columns whose phrases together are its own."""
    own = frozenset(map(normal, spec.phrases))
    for place, known in enumerate(phrases):
        if known == own:
            return (place,)
    parts = tuple(place for place, known in enumerate(phrases) if known <= own)
    if frozenset().union(*(phrases[place] for place in parts)) != own:
        missing = sorted(own.difference(*(phrases[place] for place in parts)))
        raise BadOntology(
            f"class '{spec.name}': there are no scores for {_listed(missing)} alone; this run "
            f"proposed {_listed([' / '.join(c.phrases) for c in kept.classes])}; use one of these, "
            "or label the images again"
        )
    return parts


def _listed(texts: Sequence[str]) -> str:
    some = ", ".join(f"'{text}'" for text in texts[:6])
    return some + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")
