"""Evidence in, judgements out: what the models said of one picture, made into decisions.

Needs no model and no pixels, so stored evidence can be decided again under other thresholds,
groups or classes, and gives exactly what the pipeline gave.
"""

from collections.abc import Sequence

from secondlook import decide
from secondlook.labels import Evidence, Judgement, LabelPath, Proposals
from secondlook.ontology import Ontology
from secondlook.propose import Candidate, candidates, student_candidates


def judge(evidence: Evidence, ontology: Ontology, max_iou: float) -> tuple[Judgement, ...]:
    """Every judgement that the evidence allows, candidate by candidate.

    ``evidence.proposals`` has one column a class of ``ontology``. ``max_iou`` in [0, 1] is for
    the suppression inside contrast groups. A question that would have to be asked and was not is
    no verdict, so its box is unsure. A student's evidence is judged by the probabilities in it.
    """
    if evidence.path is LabelPath.STUDENT:
        return _judge_student(evidence, ontology, max_iou)
    found = candidates(evidence.proposals, ontology, max_iou)
    return judge_candidates(evidence, ontology, found)


def _judge_student(evidence: Evidence, ontology: Ontology, max_iou: float) -> tuple[Judgement, ...]:
    """A student's own limits and words: see ``decide.decide_for_student``."""
    judgements: list[Judgement] = []
    for candidate in student_candidates(evidence.proposals, ontology, max_iou):
        specs = [ontology.classes[index] for index in candidate.classes]
        said = [float(evidence.proposals.scores[candidate.row, c]) for c in candidate.classes]
        box = box_of(evidence.proposals, candidate.row)
        decisions = decide.decide_for_student(specs, said)
        for spec, probability, decision in zip(specs, said, decisions, strict=True):
            judgements.append(Judgement(spec.name, box, probability, None, decision, candidate.row))
    return tuple(judgements)


def judge_candidates(
    evidence: Evidence, ontology: Ontology, found: Sequence[Candidate]
) -> tuple[Judgement, ...]:
    """``judge`` where the candidates are known already."""
    judgements: list[Judgement] = []
    for candidate in found:
        specs = [ontology.classes[index] for index in candidate.classes]
        scores = [float(evidence.proposals.scores[candidate.row, c]) for c in candidate.classes]
        heard = [evidence.heard(candidate.row, spec.view, spec.question) for spec in specs]
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
