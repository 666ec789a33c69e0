"""Scores and verdicts in, decisions out. No model, no state: the same input decides the same."""

from collections.abc import Sequence

from secondlook.labels import Decision, Outcome, Verdict
from secondlook.ontology import ClassSpec


def decide(
    specs: Sequence[ClassSpec], scores: Sequence[float], verdicts: Sequence[Verdict | None]
) -> list[Decision]:
    """Decide one box for the classes of one contrast group (or for one class alone).

    ``scores`` are the proposer's, ``verdicts`` the answers to each class's own question; None
    means that no verifier is in use, and the proposer's score decides alone. In a group every
    side is heard: a class is accepted only if every other side was answered with no.
    """
    if all(verdict is None for verdict in verdicts):
        return _decide_by_scores(specs, scores)
    alone = [
        _decide_alone(spec, score, verdict)
        for spec, score, verdict in zip(specs, scores, verdicts, strict=True)
    ]
    return _hear_all(specs, alone)


def decide_for_student(
    specs: Sequence[ClassSpec], probabilities: Sequence[float]
) -> list[Decision]:
    """``decide`` for a box of a student, which takes no second look.

    ``probabilities`` in [0, 1], one a class, meet the same limits as P(yes) would: from ``accept``
    on it is a label, up to ``reject`` it is none. Of a contrast one side may reach ``accept``. The
    others need not be ruled out: a verifier is asked about each side alone and may say yes to both,
    a student learnt that at most one of them is a label, and gives one side what the other lacks.
    """
    alone = []
    for spec, probability in zip(specs, probabilities, strict=True):
        outcome = _outcome(spec, probability)
        reason = in_students_words(spec, outcome, probability)
        alone.append(Decision(outcome, probability, reason))
    claims = _claims(alone)
    return _settle_claims(specs, alone, claims) if len(claims) > 1 else alone


def in_students_words(spec: ClassSpec, outcome: Outcome, probability: float) -> str:
    """Why a student's word alone leads to ``outcome``."""
    if outcome is Outcome.ACCEPT:
        return f"the student was certain ({probability:.2f}), and audits agree with it"
    if outcome is Outcome.REJECT:
        return f"the student ruled it out ({probability:.2f} ≤ {spec.reject:.2f})"
    return (
        f"the student's {probability:.2f} is between {spec.reject:.2f} and {spec.accept:.2f}, "
        "and no second look was taken"
    )


def _decide_by_scores(specs: Sequence[ClassSpec], scores: Sequence[float]) -> list[Decision]:
    """Without a verifier the best side that reaches its threshold wins; a tie stays open."""
    pairs = list(zip(specs, scores, strict=True))
    best = max((score for spec, score in pairs if score >= spec.threshold), default=0.0)
    winners = [spec.name for spec, score in pairs if spec.threshold <= score == best]
    return [_decide_by_score(spec, score, winners) for spec, score in pairs]


def _decide_by_score(spec: ClassSpec, score: float, winners: list[str]) -> Decision:
    said = f"score {score:.2f}, no second look"
    if score < spec.threshold:
        return Decision(Outcome.REJECT, score, f"{said}; the threshold is {spec.threshold:.2f}")
    if spec.name not in winners:
        return Decision(Outcome.REJECT, score, f"{said}; '{winners[0]}' scores higher")
    if len(winners) > 1:
        others = " and ".join(f"'{name}'" for name in winners)
        return Decision(Outcome.UNSURE, score, f"{said}; scores alone cannot tell {others} apart")
    return Decision(Outcome.ACCEPT, score, said)


def _decide_alone(spec: ClassSpec, score: float, verdict: Verdict | None) -> Decision:
    if verdict is None:
        return Decision(Outcome.UNSURE, score, "no verdict: the question was not asked")
    p_yes = verdict.answer.p_yes
    if p_yes is None:
        return Decision(Outcome.UNSURE, score, _no_verdict(verdict))
    outcome = _outcome(spec, p_yes)
    return Decision(outcome, p_yes, in_words(spec, outcome, p_yes))


def _outcome(spec: ClassSpec, probability: float) -> Outcome:
    if probability >= spec.accept:
        return Outcome.ACCEPT
    return Outcome.REJECT if probability <= spec.reject else Outcome.UNSURE


def in_words(spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
    """Why an answer alone leads to ``outcome``."""
    if outcome is Outcome.ACCEPT:
        return f"P(yes) {p_yes:.2f} ≥ {spec.accept:.2f}"
    if outcome is Outcome.REJECT:
        return f"P(yes) {p_yes:.2f} ≤ {spec.reject:.2f}"
    return f"P(yes) {p_yes:.2f} is between {spec.reject:.2f} and {spec.accept:.2f}"


def _no_verdict(verdict: Verdict) -> str:
    if verdict.answer.error:
        return f"no verdict: {verdict.answer.error}"
    return f"no verdict: the answer was neither yes nor no ({verdict.answer.raw[:60]!r})"


def _hear_all(specs: Sequence[ClassSpec], alone: list[Decision]) -> list[Decision]:
    """What becomes of each side of a contrast once the others are heard."""
    claims = _claims(alone)
    if len(claims) > 1:
        return _settle_claims(specs, alone, claims)
    return [_hear_the_others(i, alone, specs) for i in range(len(specs))]


def _claims(alone: list[Decision]) -> list[int]:
    return [i for i, decision in enumerate(alone) if decision.outcome is Outcome.ACCEPT]


def _settle_claims(
    specs: Sequence[ClassSpec], alone: list[Decision], claims: list[int]
) -> list[Decision]:
    """More than one side of a contrast was answered with yes: none can be trusted."""
    names = " and ".join(f"'{specs[i].name}'" for i in claims)
    return [
        Decision(Outcome.UNSURE, decision.probability, f"the answers contradict: yes to {names}")
        if i in claims
        else decision
        for i, decision in enumerate(alone)
    ]


def _hear_the_others(index: int, alone: list[Decision], specs: Sequence[ClassSpec]) -> Decision:
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
