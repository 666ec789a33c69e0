"""Evidence in, judgements out: what the models said of one picture, made into decisions.

Needs no model and no pixels, so stored evidence can be decided again under other thresholds,
groups or classes, and gives exactly what the pipeline gave.
"""

from collections.abc import Sequence

from secondlook import decide
from secondlook.labels import Answer, Evidence, Judgement, Proposals, Verdict
from secondlook.ontology import ClassSpec, Ontology
from secondlook.propose import Candidate, candidates

NOT_ASKED = "this question was not asked of this box"


def judge(evidence: Evidence, ontology: Ontology, max_iou: float) -> tuple[Judgement, ...]:
    """Every judgement that the evidence allows, candidate by candidate.

    ``evidence.proposals`` has one column a class of ``ontology``. ``max_iou`` in [0, 1] is for
    the suppression inside contrast groups. A question that would have to be asked and was not is
    no verdict, so its box is unsure.
    """
    found = candidates(evidence.proposals, ontology, max_iou)
    return judge_candidates(evidence, ontology, found)


def judge_candidates(
    evidence: Evidence, ontology: Ontology, found: Sequence[Candidate]
) -> tuple[Judgement, ...]:
    """``judge`` where the candidates are known already."""
    judgements: list[Judgement] = []
    for candidate in found:
        specs = [ontology.classes[index] for index in candidate.classes]
        scores = [float(evidence.proposals.scores[candidate.row, c]) for c in candidate.classes]
        heard = [_heard(evidence, candidate.row, spec) for spec in specs]
        box = box_of(evidence.proposals, candidate.row)
        for spec, score, verdict, decision in zip(
            specs, scores, heard, decide.decide(specs, scores, heard), strict=True
        ):
            judgements.append(Judgement(spec.name, box, score, verdict, decision, candidate.row))
    return tuple(judgements)


def box_of(proposals: Proposals, row: int) -> tuple[float, float, float, float]:
    """One box as plain numbers."""
    x1, y1, x2, y2 = proposals.boxes[row].tolist()
    return x1, y1, x2, y2


def _heard(evidence: Evidence, row: int, spec: ClassSpec) -> Verdict | None:
    """The answer to a class's question; None only where no verifier was in use."""
    if not evidence.verifier:
        return None
    known = evidence.verdicts.get((row, spec.view, spec.question))
    if known is not None:
        return known
    return Verdict(
        spec.question, spec.view, Answer(None, error=NOT_ASKED), evidence.verifier, ms=0.0
    )
