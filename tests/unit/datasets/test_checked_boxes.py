from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.boxes import Xyxy
from secondlook.datasets.annotated_images import ImageAnnotations
from secondlook.datasets.checked_boxes import CheckedBox, FindingKind, check_boxes
from secondlook.datasets.samples import Sample, boxes_array, class_array
from secondlook_client.values import (
    Answer,
    Decision,
    Judgement,
    LabelResult,
    Outcome,
    Verdict,
    View,
)

CLASSES = ("dog", "cat")
NAMES = {"dog": "dog", "cat": "cat"}
HERE, NEAR, FAR = (10.0, 10.0, 50.0, 50.0), (30.0, 10.0, 70.0, 50.0), (100.0, 0.0, 150.0, 90.0)


def image(*rows: tuple[Xyxy, int], ignore: tuple[Xyxy, ...] = ()) -> ImageAnnotations:
    none = class_array(())
    sample = Sample(
        Path("a.jpg"),
        200,
        100,
        "a.jpg",
        "",
        boxes_array(box for box, _ in rows),
        class_array(number for _, number in rows),
        boxes_array(ignore),
        class_array([0] * len(ignore)),
        boxes_array(()),
        none,
    )
    return ImageAnnotations("a.jpg", sample, (("", "a.jpg"),))


def judged(
    name: str, box: Xyxy, p_yes: float | None, score: float = 1.0, error: str = ""
) -> Judgement:
    verdict = Verdict(f"{name}?", View.CROP, Answer(p_yes, error=error), "vlm@1", 1.0)
    sure = Outcome.UNSURE if p_yes is None else Outcome.ACCEPT if p_yes >= 0.6 else Outcome.REJECT
    return Judgement(name, box, score, verdict, Decision(sure, p_yes or 0.0, "a reason"))


def checked(one: ImageAnnotations, *judgements: Judgement) -> list[CheckedBox]:
    result = LabelResult("a.jpg", "", 200, 100, len(judgements), judgements, "annotations", "vlm@1")
    return check_boxes(one, CLASSES, result, NAMES)


def test_every_annotation_has_its_outcome() -> None:
    found = checked(
        image((HERE, 0), (FAR, 1), (NEAR, 0)),
        judged("cat", FAR, 0.1),
        judged("dog", HERE, 0.9),
        judged("dog", NEAR, None, error="down"),
    )
    assert [(c.class_name, c.outcome, c.kind) for c in found] == [
        ("dog", Outcome.ACCEPT, None),
        ("cat", Outcome.REJECT, FindingKind.REJECTED),
        ("dog", Outcome.UNSURE, FindingKind.UNSURE),
    ]


def test_a_class_that_was_not_asked_about_is_not_among_them() -> None:
    result = LabelResult("a.jpg", "", 200, 100, 1, (judged("dog", HERE, 0.9),), "", "")
    one = image((HERE, 0), (HERE, 1))
    assert [c.class_name for c in check_boxes(one, CLASSES, result, {"dog": "dog"})] == ["dog"]


def test_another_class_that_is_accepted_is_suggested_for_what_is_not() -> None:
    (wrong,) = checked(image((HERE, 0)), judged("dog", HERE, 0.1), judged("cat", HERE, 0.8, 0.0))
    assert (wrong.kind, wrong.suggested and wrong.suggested.class_name) == (
        FindingKind.WRONG_CLASS,
        "cat",
    )
    assert "accepted as 'cat' (P(yes) 0.80)" in wrong.reason
    (right,) = checked(image((HERE, 0)), judged("dog", HERE, 0.9), judged("cat", HERE, 0.8, 0.0))
    assert (right.kind, right.suggested) == (None, None)


def test_the_second_of_two_equal_boxes_of_a_class_is_a_duplicate() -> None:
    almost = (10.0, 10.0, 50.0, 49.0)
    found = checked(
        image((HERE, 0), (almost, 0), (HERE, 1), (HERE, 0)),
        *(judged(name, box, 0.9) for name, box in (("dog", HERE), ("dog", almost), ("cat", HERE))),
    )
    duplicate = FindingKind.DUPLICATE
    assert [c.kind for c in found] == [None, duplicate, None, duplicate]


def test_a_proposal_where_nothing_is_annotated_is_a_missing_object() -> None:
    found = checked(image((HERE, 0)), judged("dog", HERE, 0.9), judged("cat", FAR, 0.9, score=0.5))
    assert [(c.class_name, c.kind) for c in found] == [
        ("dog", None),
        ("cat", FindingKind.MISSING_OBJECT),
    ]
    assert "proposed with 0.50" in found[1].reason


def test_a_rejected_proposal_is_no_missing_object() -> None:
    assert (
        len(checked(image((HERE, 0)), judged("dog", HERE, 0.9), judged("cat", FAR, 0.1, 0.5))) == 1
    )


def test_a_proposal_in_an_ignore_region_is_no_missing_object() -> None:
    crowd = image((HERE, 0), ignore=((90.0, 0.0, 200.0, 100.0),))
    assert len(checked(crowd, judged("dog", HERE, 0.9), judged("dog", FAR, 0.9, 0.5))) == 1


def test_a_box_that_no_proposal_matches_and_one_is_near_is_loose() -> None:
    (loose,) = checked(image((HERE, 0)), judged("dog", HERE, 0.9), judged("dog", NEAR, 0.8, 0.5))
    assert (loose.kind, loose.better and loose.better.box) == (FindingKind.LOOSE_BOX, NEAR)
    matched = checked(
        image((HERE, 0)),
        judged("dog", HERE, 0.9),
        judged("dog", (11, 10, 50, 50), 0.9, 0.7),
        judged("dog", NEAR, 0.8, 0.5),
    )
    assert [c.kind for c in matched] == [None]


def test_a_proposal_of_another_class_on_the_same_box_is_a_suggestion() -> None:
    fits = (11.0, 10.0, 51.0, 50.0)
    (wrong,) = checked(image((HERE, 0)), judged("dog", HERE, 0.1), judged("cat", fits, 0.9, 0.6))
    assert wrong.kind is FindingKind.WRONG_CLASS


def test_the_most_suspicious_come_first() -> None:
    in_order = [
        CheckedBox("dog", HERE, None),
        CheckedBox("dog", HERE, judged("dog", HERE, 0.1)),
        CheckedBox("dog", HERE, judged("dog", HERE, 0.3)),
        CheckedBox("dog", HERE, judged("dog", HERE, 0.9), duplicate=True),
        CheckedBox("dog", FAR, judged("dog", FAR, 0.9, 0.9), missing=True),
        CheckedBox("dog", FAR, judged("dog", FAR, 0.9, 0.3), missing=True),
        CheckedBox("dog", HERE, judged("dog", HERE, None)),
        CheckedBox("dog", HERE, judged("dog", HERE, 0.9)),
    ]
    shuffled = in_order[3:] + in_order[:3]
    assert sorted(shuffled, key=lambda box: box.suspicion) == in_order


sides = st.integers(0, 60)


@given(st.lists(st.tuples(sides, sides, st.integers(0, 1)), max_size=8), st.integers(0, 100))
def test_any_annotations_come_out_once_and_in_order(
    rows: list[tuple[int, int, int]], percent: int
) -> None:
    placed = [((float(x), float(y), x + 30.0, y + 30.0), number) for x, y, number in rows]
    one = image(*placed)
    judgements = {(CLASSES[n], box): judged(CLASSES[n], box, percent / 100) for box, n in placed}
    proposed = judged("dog", (100.0, 10.0, 140.0, 50.0), 0.9, 0.5)
    found = checked(one, *judgements.values(), proposed)
    assert [(c.box, c.class_name) for c in found[:-1]] == [(b, CLASSES[n]) for b, n in placed]
    assert found[-1].kind is FindingKind.MISSING_OBJECT
