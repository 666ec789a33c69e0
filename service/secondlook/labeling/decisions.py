"""Scores and verdicts in, decisions and judgements out.

Needs no model and no pixels and keeps no state, so stored evidence can be decided again under other
thresholds, groups, classes or calibrators, and gives exactly what the pipeline gave.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Evidence, Proposals
from secondlook.labeling.box_features import ScoredBoxes, box_features
from secondlook.labeling.calibrator import Calibrator, VerifyBudget
from secondlook.labeling.duplicates import duplicate_reason, find_duplicates
from secondlook.labeling.outlines import with_outlines
from secondlook.labeling.proposer import Candidate, candidates, student_candidates
from secondlook.labeling.verify_budget import (
    ALL,
    ASKED,
    CERTAIN,
    budget_in_force,
    budgeted,
    pairs_to_ask,
)
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import (
    WHOLE_IMAGE,
    Decision,
    Judgement,
    LabelPath,
    Outcome,
    Verdict,
    View,
)

UNASKED = "not asked: "
"""What the reason of a decision begins with whose question was left out on purpose."""
FILLED = "filled between "
"""What the error begins with of an answer on a box that nobody found, between two of its track."""
CONTRADICTION = "the answers contradict: yes to"
NEEDS_ANSWER = "no verdict: the calibrator needs an answer, and no verifier was in use"
"""The reason where no verifier was in use and the calibrator goes by its answers."""


def judge(
    evidence: Evidence,
    ontology: Ontology,
    nms_iou: float,
    calibrator: Calibrator | None = None,
    size: tuple[int, int] = (0, 0),
    duplicate_iou: float = PipelineSettings.duplicate_iou,
    verify_budget: str = ALL,
) -> tuple[Judgement, ...]:
    """Every judgement that the evidence allows, candidate by candidate.

    ``evidence.proposals`` has one column a class of ``ontology``. ``nms_iou`` in [0, 1] is for
    the suppression inside contrast groups, ``duplicate_iou`` for what is accepted. With a
    ``calibrator`` the limits apply to its probabilities, for which it needs the ``size`` (width,
    height) of the image, pixels. A question that would have to be asked and was not is
    no verdict, so its box is unsure, unless the ``verify_budget`` of the run left it out. A
    student's evidence is judged by the probabilities in it.
    """
    if evidence.path is LabelPath.STUDENT:
        return _judge_student(evidence, ontology, nms_iou)
    ontology = in_force(ontology, calibrator)
    found = candidates(evidence.proposals, ontology, nms_iou)
    budget = budget_in_force(calibrator, verify_budget)
    judgements = judge_candidates(
        evidence, ontology, found, calibrator, size, duplicate_iou, budget
    )
    return with_outlines(judgements, evidence, ontology)


def in_force(ontology: Ontology, calibrator: Calibrator | None) -> Ontology:
    """``ontology`` with the limits of acceptance that hold: the calibrator's own where higher."""
    if calibrator is None or not calibrator.accept:
        return ontology
    limits = [max(spec.accept, calibrator.accept.get(spec.name, 0.0)) for spec in ontology.classes]
    return Ontology(
        tuple(
            spec if limit == spec.accept else replace(spec, accept=limit)
            for spec, limit in zip(ontology.classes, limits, strict=True)
        )
    )


def _judge_student(evidence: Evidence, ontology: Ontology, nms_iou: float) -> tuple[Judgement, ...]:
    """By a student's probabilities: see ``decide_for_student``."""
    judgements: list[Judgement] = []
    for candidate in student_candidates(evidence.proposals, ontology, nms_iou):
        specs = [ontology.classes[index] for index in candidate.classes]
        probabilities = [
            float(evidence.proposals.scores[candidate.row, c]) for c in candidate.classes
        ]
        box = box_of(evidence.proposals, candidate.row)
        decisions = decide_for_student(specs, probabilities)
        for spec, probability, decision in zip(specs, probabilities, decisions, strict=True):
            judgements.append(Judgement(spec.name, box, probability, None, decision, candidate.row))
    return tuple(judgements)


def judge_candidates(
    evidence: Evidence,
    ontology: Ontology,
    found: Sequence[Candidate],
    calibrator: Calibrator | None = None,
    size: tuple[int, int] = (0, 0),
    duplicate_iou: float = PipelineSettings.duplicate_iou,
    budget: VerifyBudget | None = None,
) -> tuple[Judgement, ...]:
    """``judge`` where the candidates are known already, without masks, which change no outcome; the
    ontology's limits are ``in_force``."""
    judgements = _judge_boxes(evidence, ontology, found, calibrator, size, budget)
    judgements = _without_duplicates(judgements, ontology, duplicate_iou)
    return judgements + _doubts_of_image(evidence, ontology, judgements)


def _judge_boxes(
    evidence: Evidence,
    ontology: Ontology,
    found: Sequence[Candidate],
    calibrator: Calibrator | None,
    size: tuple[int, int],
    budget: VerifyBudget | None,
) -> tuple[Judgement, ...]:
    judgements: list[Judgement] = []
    given = _calibrated(evidence, ontology, found, calibrator, size, budget) if calibrator else ()
    known = iter(given)
    for candidate in found:
        specs = [ontology.classes[index] for index in candidate.classes]
        scores = [float(evidence.proposals.scores[candidate.row, c]) for c in candidate.classes]
        verdicts = [evidence.verdict(candidate.row, spec.view, spec.question) for spec in specs]
        calibrated = [next(known) for _ in specs] if calibrator else None
        box = box_of(evidence.proposals, candidate.row)
        for spec, score, verdict, decision in zip(
            specs, scores, verdicts, decide(specs, scores, verdicts, calibrated), strict=True
        ):
            judgements.append(
                Judgement(
                    spec.name,
                    box,
                    score,
                    verdict,
                    decision,
                    candidate.row,
                    track=evidence.tracks.get(candidate.row, 0),
                )
            )
    return tuple(judgements)


def _calibrated(
    evidence: Evidence,
    ontology: Ontology,
    found: Sequence[Candidate],
    calibrator: Calibrator,
    size: tuple[int, int],
    budget: VerifyBudget | None,
) -> list[tuple[float, int]]:
    """The probability of every class of every candidate, in their order, and how it is known."""
    rows, classes = pairs_of(found)
    scored = scored_boxes(evidence, ontology, size)
    if budget and evidence.verifier:
        specs = [ontology.classes[place] for place in classes]
        keys = zip(rows.tolist(), specs, strict=True)
        asked = [(row, spec.view, spec.question) in evidence.verdicts for row, spec in keys]
        had = np.array(asked, dtype=bool)
        known = budgeted(calibrator, budget, ontology, scored, (rows, classes), had)
        return list(zip(known.probabilities.tolist(), known.how.tolist(), strict=True))
    features = box_features(scored, ontology, rows, classes)
    names = [ontology.classes[place].name for place in classes]
    return [(one, ASKED) for one in calibrator.probabilities(features, names).tolist()]


def pairs_of(found: Sequence[Candidate]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(J,) rows and (J,) classes of every class of every candidate, in their order."""
    pairs = [(candidate.row, place) for candidate in found for place in candidate.classes]
    rows, classes = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return rows, classes


def asked_pairs(
    proposals: Proposals,
    ontology: Ontology,
    found: Sequence[Candidate],
    size: tuple[int, int],
    calibrator: Calibrator | None,
    verify_budget: str,
) -> list[tuple[int, int]]:
    """The (row, class) pairs of the candidates that the verifier is asked about.

    The ontology's limits are ``in_force``; see ``judge`` for the others.
    """
    rows, classes = pairs_of(found)
    budget = budget_in_force(calibrator, verify_budget)
    if calibrator and budget:
        scored = scored_boxes(Evidence(proposals, {}, "", ""), ontology, size)
        wanted = pairs_to_ask(calibrator, budget, ontology, scored, (rows, classes))
        rows, classes = rows[wanted], classes[wanted]
    return list(zip(rows.tolist(), classes.tolist(), strict=True))


def scored_boxes(evidence: Evidence, ontology: Ontology, size: tuple[int, int]) -> ScoredBoxes:
    """One image's proposals with their scores and answers, as a calibrator sees them."""
    proposals = evidence.proposals
    p_yes = np.full(proposals.scores.shape, np.nan)
    columns: dict[tuple[View, str], list[int]] = {}
    for place, spec in enumerate(ontology.classes):
        columns.setdefault((spec.view, spec.question), []).append(place)
    for (row, view, question), verdict in evidence.verdicts.items():
        if (places := columns.get((view, question))) and verdict.answer.p_yes is not None:
            p_yes[row, places] = verdict.answer.p_yes
    starts, sizes = np.array([0, len(proposals)]), np.array([size], dtype=np.float32)
    return ScoredBoxes(starts, sizes, proposals.boxes, proposals.scores, p_yes)


def _without_duplicates(
    judgements: tuple[Judgement, ...], ontology: Ontology, limit: float
) -> tuple[Judgement, ...]:
    """``judgements`` with every label but the most probable one of an object rejected."""
    places = [at for at, one in enumerate(judgements) if one.outcome is Outcome.ACCEPT]
    if len(places) < 2:
        return judgements
    groups = enumerate(ontology.groups.values())
    group_of = {ontology.names[place]: key for key, members in groups for place in members}
    found = find_duplicates(
        np.array([judgements[at].box for at in places], dtype=np.float32),
        np.array([group_of[judgements[at].class_name] for at in places]),
        np.array([judgements[at].probability for at in places]),
        np.array([judgements[at].score for at in places]),
        limit,
    )
    decided = list(judgements)
    for worse, better, iou in zip(
        found.removed.tolist(), found.kept.tolist(), found.iou.tolist(), strict=True
    ):
        own, other = judgements[places[worse]], judgements[places[better]]
        reason = duplicate_reason(other.class_name, other.probability, iou, own.reason)
        rejected = Decision(Outcome.REJECT, 0.0, reason)
        decided[places[worse]] = replace(own, decision=rejected)
    return tuple(decided)


def _doubts_of_image(
    evidence: Evidence, ontology: Ontology, judgements: Sequence[Judgement]
) -> tuple[Judgement, ...]:
    """Where no box is left: an unsure judgement of the whole image for each class that it may show.

    There is none where the verifier was not asked about the image, or said no to every class.
    """
    if evidence.image is None or any(j.outcome is not Outcome.REJECT for j in judgements):
        return ()
    doubts = []
    for spec in ontology.classes:
        verdict = evidence.image.verdict(spec.presence_question)
        if decision := doubt_of_image(spec, verdict):
            doubts.append(
                Judgement(spec.name, evidence.image.box, 0.0, verdict, decision, WHOLE_IMAGE)
            )
    return tuple(doubts)


def doubt_of_image(spec: ClassSpec, verdict: Verdict) -> Decision | None:
    """The decision on an image without a box of the class, by the verdict on its presence.

    A no verifies that there is none: None. Anything else is unsure, a yes too, as nobody knows
    where the object is.
    """
    p_yes = verdict.answer.p_yes
    if p_yes is None:
        return Decision(Outcome.UNSURE, 0.0, f"not verified to be empty: {_no_verdict(verdict)}")
    if p_yes <= spec.reject:
        return None
    reason = f"not verified to be empty: P(yes) {p_yes:.2f} > {spec.reject:.2f}"
    return Decision(Outcome.UNSURE, p_yes, reason)


def box_of(proposals: Proposals, row: int) -> tuple[float, float, float, float]:
    """One box as plain numbers."""
    x1, y1, x2, y2 = proposals.boxes[row].tolist()
    return x1, y1, x2, y2


def decide(
    specs: Sequence[ClassSpec],
    scores: Sequence[float],
    verdicts: Sequence[Verdict | None],
    calibrated: Sequence[tuple[float, int]] | None = None,
) -> list[Decision]:
    """Decide one box for the classes of one contrast group (or for one class alone).

    ``scores`` are the proposer's, ``verdicts`` the answers to each class's own question; None
    means that no verifier is in use, and the proposer's score decides alone. In a group
    a class is accepted only if every other side was answered with no. ``calibrated`` are a
    calibrator's probabilities, NaN where it needs an answer that there is not, and how each is
    known (``labeling.verify_budget``).
    """
    if calibrated is not None:
        alone = [
            _decide_calibrated(specs, side, scores[side], verdicts[side], *calibrated[side])
            for side in range(len(specs))
        ]
        return _resolve_contrast(specs, alone, "these contradict each other:")
    if all(verdict is None for verdict in verdicts):
        return _decide_by_scores(specs, scores)
    alone = [
        _decide_alone(spec, score, verdict)
        for spec, score, verdict in zip(specs, scores, verdicts, strict=True)
    ]
    return _resolve_contrast(specs, alone)


def decide_for_student(
    specs: Sequence[ClassSpec], probabilities: Sequence[float]
) -> list[Decision]:
    """``decide`` for a box of a student, which is not verified.

    ``probabilities`` in [0, 1], one a class, meet the same limits as P(yes) would: from ``accept``
    on the box is a label, up to ``reject`` it is rejected. Of a contrast one side may reach
    ``accept``; the others need not be ruled out: a verifier is asked about each side alone and may
    say yes to both, a student learnt that at most one of them is a label.
    """
    alone = []
    for spec, probability in zip(specs, probabilities, strict=True):
        outcome = _outcome(spec, probability)
        reason = student_reason(spec, outcome, probability)
        alone.append(Decision(outcome, probability, reason))
    claims = _claims(alone)
    return _settle_claims(specs, alone, claims) if len(claims) > 1 else alone


def student_reason(spec: ClassSpec, outcome: Outcome, probability: float) -> str:
    """Why a student's probability alone leads to ``outcome``."""
    if outcome is Outcome.ACCEPT:
        return f"the student was certain ({probability:.2f}), and audits agree with it"
    if outcome is Outcome.REJECT:
        return f"the student ruled it out ({probability:.2f} ≤ {spec.reject:.2f})"
    return (
        f"the student's {probability:.2f} is between {spec.reject:.2f} and {spec.accept:.2f}, "
        "and was not verified"
    )


def _decide_by_scores(specs: Sequence[ClassSpec], scores: Sequence[float]) -> list[Decision]:
    """Without a verifier the best side that reaches its threshold wins; a tie stays open."""
    pairs = list(zip(specs, scores, strict=True))
    best = max((score for spec, score in pairs if score >= spec.threshold), default=0.0)
    winners = [spec.name for spec, score in pairs if spec.threshold <= score == best]
    return [_decide_by_score(spec, score, winners) for spec, score in pairs]


def _decide_by_score(spec: ClassSpec, score: float, winners: list[str]) -> Decision:
    reason = f"score {score:.2f}, not verified"
    if score < spec.threshold:
        return Decision(Outcome.REJECT, score, f"{reason}; the threshold is {spec.threshold:.2f}")
    if spec.name not in winners:
        return Decision(Outcome.REJECT, score, f"{reason}; '{winners[0]}' scores higher")
    if len(winners) > 1:
        others = " and ".join(f"'{name}'" for name in winners)
        return Decision(Outcome.UNSURE, score, f"{reason}; scores alone cannot tell {others} apart")
    return Decision(Outcome.ACCEPT, score, reason)


def _decide_alone(spec: ClassSpec, score: float, verdict: Verdict | None) -> Decision:
    if verdict is None:
        return Decision(Outcome.UNSURE, score, "no verdict: the question was not asked")
    p_yes = verdict.answer.p_yes
    if p_yes is None:
        if verdict.answer.error.startswith(UNASKED):  # on purpose: it is not worth a question
            return Decision(Outcome.REJECT, score, verdict.answer.error)
        return Decision(Outcome.UNSURE, score, _no_verdict(verdict))
    outcome = _outcome(spec, p_yes)
    return Decision(outcome, p_yes, verdict_reason(spec, outcome, p_yes))


def _decide_calibrated(
    specs: Sequence[ClassSpec],
    side: int,
    score: float,
    verdict: Verdict | None,
    probability: float,
    how: int,
) -> Decision:
    """By a calibrator's probability; without the answer of a verifier that is in use, as ever."""
    spec = specs[side]
    if how != ASKED:
        outcome = _outcome(spec, probability)
        reason = unasked_reason(specs, side, outcome, probability, how)
        return Decision(outcome, probability, reason)
    p_yes = verdict.answer.p_yes if verdict else None
    if verdict is not None and p_yes is None:
        return _decide_alone(spec, score, verdict)
    if math.isnan(probability):
        return Decision(Outcome.UNSURE, score, NEEDS_ANSWER)
    outcome = _outcome(spec, probability)
    return Decision(outcome, probability, calibrated_reason(spec, outcome, probability, p_yes))


def _outcome(spec: ClassSpec, probability: float) -> Outcome:
    if probability >= spec.accept:
        return Outcome.ACCEPT
    return Outcome.REJECT if probability <= spec.reject else Outcome.UNSURE


def verdict_reason(spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
    """Why an answer alone leads to ``outcome``."""
    if outcome is Outcome.ACCEPT:
        return f"P(yes) {p_yes:.2f} ≥ {spec.accept:.2f}"
    if outcome is Outcome.REJECT:
        return f"P(yes) {p_yes:.2f} ≤ {spec.reject:.2f}"
    return f"P(yes) {p_yes:.2f} is between {spec.reject:.2f} and {spec.accept:.2f}"


def calibrated_reason(
    spec: ClassSpec, outcome: Outcome, probability: float, p_yes: float | None, told: bool = True
) -> str:
    """Why a calibrator's probability leads to ``outcome``; ``p_yes`` None: not verified.

    ``told`` False leaves out what was answered.
    """
    accept, reject = f"{spec.accept:.2f}", f"{spec.reject:.2f}"
    shown = f"{probability:.2f}"
    if shown in (accept, reject):  # it may be on either side
        accept, reject, shown = (f"{x:.4f}" for x in (spec.accept, spec.reject, probability))
    asked = " (not verified)" if p_yes is None else f" (P(yes) {p_yes:.2f})"
    end = asked if told else ""
    if outcome is Outcome.ACCEPT:
        return f"probability {shown} ≥ {accept}{end}"
    if outcome is Outcome.REJECT:
        return f"probability {shown} ≤ {reject}{end}"
    return f"probability {shown} is between {reject} and {accept}{end}"


def unasked_reason(
    specs: Sequence[ClassSpec], side: int, outcome: Outcome, probability: float, how: int
) -> str:
    """The same for one of the sides ``specs`` that the verifier was not asked about on purpose."""
    reason = calibrated_reason(specs[side], outcome, probability, None, told=False)
    if how == CERTAIN:
        return f"{UNASKED}{reason} without the verifier's answer"
    return f"{UNASKED}{reason} by the answer on '{specs[1 - side].name}'"


def _no_verdict(verdict: Verdict) -> str:
    if verdict.answer.error.startswith(FILLED):
        return verdict.answer.error
    if verdict.answer.error:
        return f"no verdict: {verdict.answer.error}"
    return f"no verdict: the answer was neither yes nor no ({verdict.answer.raw[:60]!r})"


def _resolve_contrast(
    specs: Sequence[ClassSpec], alone: list[Decision], told: str = CONTRADICTION
) -> list[Decision]:
    """The decision on each side of a contrast, given those on the others."""
    claims = _claims(alone)
    if len(claims) > 1:
        return _settle_claims(specs, alone, claims, told)
    return [_unless_contradicted(i, alone, specs) for i in range(len(specs))]


def _claims(alone: list[Decision]) -> list[int]:
    return [i for i, decision in enumerate(alone) if decision.outcome is Outcome.ACCEPT]


def _settle_claims(
    specs: Sequence[ClassSpec],
    alone: list[Decision],
    claims: list[int],
    told: str = CONTRADICTION,
) -> list[Decision]:
    """More than one side of a contrast was answered with yes: none can be trusted."""
    names = " and ".join(f"'{specs[i].name}'" for i in claims)
    return [
        Decision(Outcome.UNSURE, decision.probability, f"{told} {names}")
        if i in claims
        else decision
        for i, decision in enumerate(alone)
    ]


def _unless_contradicted(index: int, alone: list[Decision], specs: Sequence[ClassSpec]) -> Decision:
    """A lone yes stands only if every other side of the contrast said no."""
    own = alone[index]
    doubtful = [
        specs[i].name
        for i, other in enumerate(alone)
        if i != index and other.outcome is Outcome.UNSURE
    ]
    if own.outcome is Outcome.ACCEPT and doubtful:
        reason = f"{own.reason}, but '{doubtful[0]}' was not ruled out"
        return Decision(Outcome.UNSURE, own.probability, reason)
    return own
