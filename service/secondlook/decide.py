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
    side is heard: a class is accepted only if no other side was also answered with yes.
    """
    alone = [
        _decide_alone(spec, score, verdict)
        for spec, score, verdict in zip(specs, scores, verdicts, strict=True)
    ]
    claims = [i for i, decision in enumerate(alone) if decision.outcome is Outcome.ACCEPT]
    if len(claims) > 1:
        return _settle_claims(specs, alone, claims)
    return [_hear_the_others(i, alone, specs) for i in range(len(specs))]


def _decide_alone(spec: ClassSpec, score: float, verdict: Verdict | None) -> Decision:
    if verdict is None:
        return Decision(Outcome.ACCEPT, score, f"proposed with score {score:.2f}; no second look")
    p_yes = verdict.answer.p_yes
    if p_yes is None:
        return Decision(Outcome.UNSURE, score, _no_verdict(verdict))
    if p_yes >= spec.accept:
        return Decision(Outcome.ACCEPT, p_yes, f"P(yes) {p_yes:.2f} ≥ {spec.accept:.2f}")
    if p_yes <= spec.reject:
        return Decision(Outcome.REJECT, p_yes, f"P(yes) {p_yes:.2f} ≤ {spec.reject:.2f}")
    between = f"P(yes) {p_yes:.2f} is between {spec.reject:.2f} and {spec.accept:.2f}"
    return Decision(Outcome.UNSURE, p_yes, between)


def _no_verdict(verdict: Verdict) -> str:
    if verdict.answer.error:
        return f"no verdict: {verdict.answer.error}"
    return f"no verdict: the answer was neither yes nor no ({verdict.answer.raw[:60]!r})"


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
