import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secondlook.labeling.decisions import decide, decide_for_student
from secondlook_client.ontology import ClassSpec
from secondlook_client.values import Answer, Outcome, Verdict, View

SHARE = st.floats(0, 1)
ORDER = {Outcome.REJECT: 0, Outcome.UNSURE: 1, Outcome.ACCEPT: 2}
FAILED = Answer(None, error="the backend is down")
ABSTAINED = Answer(None, raw="maybe")


def verdict(answer: Answer | float | None) -> Verdict | None:
    if answer is None:
        return None
    said = answer if isinstance(answer, Answer) else Answer(answer)
    return Verdict("?", View.CROP, said, "model@0", 1.0)


def outcomes(specs: list[ClassSpec], answers: list) -> list[Outcome]:
    decisions = decide(specs, [0.9] * len(specs), [verdict(answer) for answer in answers])
    return [decision.outcome for decision in decisions]


@st.composite
def groups(draw: st.DrawFn) -> list[ClassSpec]:
    bounds = st.tuples(SHARE, SHARE, SHARE)
    found = []
    for index, (a, b, threshold) in enumerate(draw(st.lists(bounds, min_size=1, max_size=4))):
        low, high = sorted([a, b])
        found.append(ClassSpec(f"c{index}", threshold=threshold, accept=high, reject=low))
    return found


ANSWER = st.one_of(SHARE, st.sampled_from([FAILED, ABSTAINED]))


@given(groups(), st.data())
def test_never_two_sides_of_a_contrast(specs: list[ClassSpec], data: st.DataObject) -> None:
    answers = [data.draw(st.one_of(ANSWER, st.none())) for _ in specs]
    scores = [data.draw(SHARE) for _ in specs]
    decisions = decide(specs, scores, [verdict(answer) for answer in answers])
    accepted = [i for i, decision in enumerate(decisions) if decision.outcome is Outcome.ACCEPT]
    assert len(accepted) <= 1
    assert all(0 <= decision.probability <= 1 and decision.reason for decision in decisions)
    if accepted:
        others = [d.outcome for i, d in enumerate(decisions) if i not in accepted]
        assert set(others) <= {Outcome.REJECT}


@given(groups(), st.data())
def test_no_verdict_is_never_a_rejection(specs: list[ClassSpec], data: st.DataObject) -> None:
    answers = [data.draw(ANSWER) for _ in specs]
    silent = data.draw(st.integers(0, len(specs) - 1))
    answers[silent] = data.draw(st.sampled_from([FAILED, ABSTAINED]))
    after = outcomes(specs, answers)
    assert after[silent] is Outcome.UNSURE
    assert Outcome.ACCEPT not in after


@given(groups(), st.data())
def test_a_surer_yes_never_counts_less(specs: list[ClassSpec], data: st.DataObject) -> None:
    """Alone, a higher P(yes) never lowers the outcome; in a group it never helps the others."""
    answers = [data.draw(ANSWER) for _ in specs]
    place = data.draw(st.integers(0, len(specs) - 1))
    low, high = sorted([data.draw(SHARE), data.draw(SHARE)])
    before = outcomes(specs, [*answers[:place], low, *answers[place + 1 :]])
    after = outcomes(specs, [*answers[:place], high, *answers[place + 1 :]])
    if len(specs) == 1:
        assert ORDER[after[0]] >= ORDER[before[0]]
    for other in set(range(len(specs))) - {place}:
        assert ORDER[after[other]] <= ORDER[before[other]]


@pytest.mark.parametrize(
    ("p_yes", "outcome"),
    [
        (0.6, Outcome.ACCEPT),
        (0.59, Outcome.UNSURE),
        (0.41, Outcome.UNSURE),
        (0.4, Outcome.REJECT),
        (0.0, Outcome.REJECT),
        (1.0, Outcome.ACCEPT),
    ],
)
def test_thresholds_include_their_ends(p_yes: float, outcome: Outcome) -> None:
    assert outcomes([ClassSpec("dog")], [p_yes]) == [outcome]


PAIR = [ClassSpec("on", group="g"), ClassSpec("off", group="g")]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0.9, 0.1], [Outcome.ACCEPT, Outcome.REJECT]),
        ([0.9, 0.9], [Outcome.UNSURE, Outcome.UNSURE]),
        ([0.9, 0.5], [Outcome.UNSURE, Outcome.UNSURE]),
        ([0.1, 0.1], [Outcome.REJECT, Outcome.REJECT]),
        ([0.9, FAILED], [Outcome.UNSURE, Outcome.UNSURE]),
        ([0.1, ABSTAINED], [Outcome.REJECT, Outcome.UNSURE]),
    ],
)
def test_both_sides_are_considered(answers: list, expected: list[Outcome]) -> None:
    assert outcomes(PAIR, answers) == expected


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.7, 0.5], [Outcome.ACCEPT, Outcome.UNSURE]),  # a verifier would have to rule it out
        ([0.7, 0.1], [Outcome.ACCEPT, Outcome.REJECT]),
        ([0.7, 0.6], [Outcome.UNSURE, Outcome.UNSURE]),
        ([0.5, 0.5], [Outcome.UNSURE, Outcome.UNSURE]),
    ],
)
def test_of_a_student_one_side_stands_without_the_other(
    probabilities: list[float], expected: list[Outcome]
) -> None:
    decided = decide_for_student(PAIR, probabilities)
    assert [decision.outcome for decision in decided] == expected


@given(groups(), st.data())
def test_a_student_never_has_two_sides(specs: list[ClassSpec], data: st.DataObject) -> None:
    said = [data.draw(SHARE) for _ in specs]
    decided = decide_for_student(specs, said)
    assert sum(decision.outcome is Outcome.ACCEPT for decision in decided) <= 1
    assert [decision.probability for decision in decided] == said


def test_reasons_are_for_people() -> None:
    both = decide(PAIR, [0.9, 0.9], [verdict(0.9), verdict(0.8)])
    assert both[0].reason == "the answers contradict: yes to 'on' and 'off'"
    one = decide(PAIR, [0.9, 0.9], [verdict(0.9), verdict(0.5)])
    assert one[0].reason == "P(yes) 0.90 ≥ 0.60, but 'off' was not ruled out"
    (failed,) = decide([ClassSpec("dog")], [0.7], [verdict(FAILED)])
    assert failed.reason == "no verdict: the backend is down"
    (silent,) = decide([ClassSpec("dog")], [0.7], [verdict(ABSTAINED)])
    assert "'maybe'" in silent.reason


def by_score(scores: list[float]) -> list[Outcome]:
    return [d.outcome for d in decide(PAIR, scores, [None, None])]


def test_without_a_verifier_the_score_decides() -> None:
    assert by_score([0.9, 0.5]) == [Outcome.ACCEPT, Outcome.REJECT]
    assert by_score([0.1, 0.5]) == [Outcome.REJECT, Outcome.ACCEPT]
    assert by_score([0.1, 0.1]) == [Outcome.REJECT, Outcome.REJECT]


def test_without_a_verifier_equal_scores_tell_nothing() -> None:
    assert by_score([0.9, 0.9]) == [Outcome.UNSURE, Outcome.UNSURE]
    (first, _) = decide(PAIR, [0.9, 0.9], [None, None])
    assert first.reason == "score 0.90, not verified; scores alone cannot tell 'on' and 'off' apart"


@given(groups(), st.data())
def test_without_a_verifier_the_threshold_holds(
    specs: list[ClassSpec], data: st.DataObject
) -> None:
    scores = [data.draw(SHARE) for _ in specs]
    decisions = decide(specs, scores, [None] * len(specs))
    assume(any(decision.outcome is Outcome.ACCEPT for decision in decisions))
    for spec, score, decision in zip(specs, scores, decisions, strict=True):
        if decision.outcome is Outcome.ACCEPT:
            assert score >= spec.threshold
