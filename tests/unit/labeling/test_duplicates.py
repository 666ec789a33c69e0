"""Of one object one label a class survives."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.types import Evidence, Proposals
from secondlook.labeling.decisions import judge
from secondlook.labeling.duplicates import (
    DUPLICATE,
    find_duplicates,
    hard_negatives,
    same_object,
)
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    Decision,
    Judgement,
    Outcome,
    Verdict,
    View,
)

Box = tuple[float, float, float, float]
DOG = Ontology((ClassSpec("dog", question="Dog?"),))
EYES = Ontology(
    (
        ClassSpec("on", ("person",), "On?", group="eyes"),
        ClassSpec("off", ("person",), "Off?", group="eyes"),
    )
)
LOOSE, TIGHT = (0, 0, 100, 100), (10, 8, 88, 80)
LIMIT = 0.45


def same(a: Box, b: Box, limit: float = LIMIT) -> bool:
    boxes = np.array([a, b], dtype=np.float32)
    assert same_object(boxes[0], boxes[1], limit) == same_object(boxes[1], boxes[0], limit)
    return bool(same_object(boxes[0], boxes[1], limit))


def evidence(rows: Sequence[tuple[Box, Sequence[float], dict[str, float]]]) -> Evidence:
    """Boxes with their scores by class and their answers by question."""
    verdicts = {
        (row, View.CROP, question): Verdict(question, View.CROP, Answer(p_yes), "v@1", 1.0)
        for row, (_, _, answers) in enumerate(rows)
        for question, p_yes in answers.items()
    }
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32)
    scores = np.array([scores for _, scores, _ in rows], dtype=np.float32)
    return Evidence(Proposals(boxes, scores), verdicts, "p@1", "v@1")


def judgement(
    box: Box, outcome: Outcome, reason: str = "", class_name: str = "dog", row: int = 0
) -> Judgement:
    return Judgement(class_name, box, 0.5, None, Decision(outcome, 0.5, reason), row)


def test_boxes_that_overlap_mark_one_object() -> None:
    assert same((0, 0, 10, 10), (0, 0, 10, 10))
    assert same((0, 0, 10, 10), (3, 0, 13, 10))  # IoU 7/13
    assert not same((0, 0, 10, 10), (4, 0, 14, 10))  # IoU 6/14


def test_a_loose_outline_marks_the_object_and_a_part_of_it_does_not() -> None:
    assert same((0, 0, 100, 100), (20, 20, 80, 80))  # IoU 0.36, the same centre
    assert not same((0, 0, 100, 100), (0, 0, 50, 50))  # a corner of it
    assert not same((0, 0, 100, 100), (95, 40, 105, 60))


def test_people_side_by_side_stay_two() -> None:
    assert not same((0, 0, 40, 100), (30, 5, 70, 100))
    assert not same((0, 0, 40, 100), (18, 10, 58, 110))  # one half behind the other


def test_with_a_limit_of_one_nothing_is_a_duplicate() -> None:
    assert not same((0, 0, 10, 10), (0, 0, 10, 10), limit=1.0)
    boxes = np.zeros((2, 4), dtype=np.float32)
    found = find_duplicates(boxes, np.zeros(2, int), np.ones(2), np.ones(2), 1.0)
    assert not len(found.removed)


corner = st.integers(0, 20)
boxes_of = st.lists(
    st.tuples(corner, corner, st.integers(1, 15), st.integers(1, 15)), min_size=1, max_size=12
)


@given(boxes_of, st.data(), st.sampled_from((0.0, 0.3, 0.45, 0.7)))
def test_the_best_box_of_every_object_stays(
    drawn: list[tuple[int, int, int, int]], data: st.DataObject, limit: float
) -> None:
    """Against the definition, box by box."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in drawn], dtype=np.float32)
    few = st.sampled_from((0.2, 0.5, 0.9))
    keys = np.array([data.draw(st.integers(0, 2)) for _ in drawn])
    probabilities = np.array([data.draw(few) for _ in drawn])
    scores = np.array([data.draw(few) for _ in drawn])
    found = find_duplicates(boxes, keys, probabilities, scores, limit)
    kept: list[int] = []
    removed: dict[int, int] = {}
    for at in sorted(range(len(drawn)), key=lambda at: (-probabilities[at], -scores[at], at)):
        rivals = [one for one in kept if keys[one] == keys[at]]
        better = [one for one in rivals if same_object(boxes[one], boxes[at], limit)]
        if better:
            removed[at] = better[0]
        else:
            kept.append(at)
    assert dict(zip(found.removed.tolist(), found.kept.tolist(), strict=True)) == removed


def test_the_more_probable_box_stays_whatever_the_proposer_scored() -> None:
    found = evidence([(LOOSE, [0.9], {"Dog?": 0.7}), (TIGHT, [0.4], {"Dog?": 0.97})])
    loose, tight = judge(found, DOG, 0.6)
    assert (loose.outcome, tight.outcome) == (Outcome.REJECT, Outcome.ACCEPT)
    assert loose.reason == "duplicate of a 'dog' of 0.97 (IoU 0.56); alone: P(yes) 0.70 ≥ 0.60"
    assert (loose.probability, tight.probability) == (0.0, 0.97)


def test_a_box_that_was_not_accepted_removes_nothing() -> None:
    found = evidence([(LOOSE, [0.9], {"Dog?": 0.5}), (TIGHT, [0.4], {"Dog?": 0.97})])
    assert [one.outcome for one in judge(found, DOG, 0.6)] == [Outcome.UNSURE, Outcome.ACCEPT]


def test_duplicates_can_be_kept() -> None:
    found = evidence([(LOOSE, [0.9], {"Dog?": 0.7}), (TIGHT, [0.4], {"Dog?": 0.97})])
    judged = judge(found, DOG, 0.6, duplicate_iou=1.0)
    assert [one.outcome for one in judged] == [Outcome.ACCEPT] * 2


def test_of_a_contrast_one_side_marks_an_object_once() -> None:
    found = evidence(
        [
            (LOOSE, [0.9, 0.9], {"On?": 0.9, "Off?": 0.1}),
            (TIGHT, [0.8, 0.8], {"On?": 0.2, "Off?": 0.8}),
        ]
    )
    accepted = [one for one in judge(found, EYES, 0.6) if one.outcome is Outcome.ACCEPT]
    assert [(one.class_name, one.row) for one in accepted] == [("on", 0)]


def test_classes_that_stand_alone_do_not_meet() -> None:
    both = Ontology((ClassSpec("dog", question="Dog?"), ClassSpec("pet", question="Pet?")))
    answers = {"Dog?": 0.9, "Pet?": 0.9}
    found = evidence([(LOOSE, [0.9, 0.1], answers), (TIGHT, [0.1, 0.9], answers)])
    assert [one.outcome for one in judge(found, both, 0.6)] == [Outcome.ACCEPT] * 2


@pytest.mark.parametrize(
    ("rejected", "is_negative"),
    [
        (judgement((200, 0, 300, 100), Outcome.REJECT), True),
        (judgement((50, 50, 150, 150), Outcome.REJECT), True),
        (judgement(TIGHT, Outcome.REJECT), False),
        (judgement(TIGHT, Outcome.REJECT, class_name="cat"), True),
        (judgement((200, 0, 300, 100), Outcome.REJECT, DUPLICATE + "a 'cat' of 0.97"), False),
        (judgement((0, 0, 400, 300), Outcome.REJECT, row=WHOLE_IMAGE), False),
        (judgement((200, 0, 300, 100), Outcome.UNSURE), False),
    ],
)
def test_what_is_rejected_on_a_labelled_object_is_no_hard_negative(
    rejected: Judgement, is_negative: bool
) -> None:
    found = hard_negatives([judgement(LOOSE, Outcome.ACCEPT), rejected])
    assert found == ({1} if is_negative else set())
