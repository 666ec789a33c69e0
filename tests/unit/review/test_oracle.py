"""A truth file answers as a person who knows the truth."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import judged, result

from secondlook.evaluation.matching import ScoredBox, TrueBox, evaluate
from secondlook.review.oracle import Oracle
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.values import (
    Judgement,
    LabelResult,
    Outcome,
    ReviewAnswer,
    ReviewItem,
    WrongReason,
)

A, LOOSE, FAR = (10, 10, 50, 50), (10, 10, 50, 62), (100, 100, 140, 140)
CLASSES = ("dog", "cat", "horse")
RIGHT, WRONG, UNSURE = ReviewAnswer.RIGHT, ReviewAnswer.WRONG, ReviewAnswer.UNSURE


def truth_file(folder: Path, *boxes: TrueBox, images: tuple[str, ...] = ("a.png",)) -> Path:
    names = ["dog", "cat", "bird"]
    path = folder / "truth.json"
    plain = {
        "images": [
            {"id": n, "file_name": name, "width": 320, "height": 240}
            for n, name in enumerate(images, 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": n,
                "image_id": 1,
                "category_id": names.index(one.class_name) + 1,
                "bbox": [*one.box[:2], one.box[2] - one.box[0], one.box[3] - one.box[1]],
                "iscrowd": int(one.ignore),
            }
            for n, one in enumerate(boxes, 1)
        ],
    }
    path.write_text(json.dumps(plain))
    return path


def named(*judgements: Judgement, name: str = "a.png") -> LabelResult:
    return LabelResult(**{**vars(result(*judgements)), "name": name})


def item_of(found: LabelResult, place: int) -> ReviewItem:
    one = found.judgements[place]
    return ReviewItem(
        id=place + 1,
        queue="q",
        position=place + 1,
        label_id=f"81.{place}",
        image=found.sha256,
        image_name=found.name,
        width=found.width,
        height=found.height,
        class_name=one.class_name,
        box=one.box,
        probability=one.probability,
        outcome=one.outcome,
        stratum="",
    )


def answers(oracle: Oracle, found: LabelResult) -> list[tuple[ReviewAnswer, WrongReason | None]]:
    given = [
        oracle.answer(item_of(found, place), found.judgements)
        for place in range(len(found.judgements))
    ]
    for one in given:
        one.check()
    return [(one.answer, one.reason) for one in given]


def test_each_box_is_called_what_it_is(tmp_path: Path) -> None:
    truth = truth_file(
        tmp_path, TrueBox("dog", A), TrueBox("cat", FAR), TrueBox("dog", (200, 0, 240, 40), True)
    )
    found = named(
        judged("dog", LOOSE, Outcome.UNSURE),  # a second box of one dog, less probable
        judged("dog", A),
        judged("dog", FAR),
        judged("dog", (201, 0, 239, 40)),
        judged("cat", (100, 120, 140, 170)),  # IoU 0.29 with the cat
        judged("cat", (260, 100, 300, 140)),
    )
    oracle = Oracle.from_truth(truth)
    assert oracle.right(found) == {0: False, 1: True, 2: False, 4: False, 5: False}
    assert answers(oracle, found) == [
        (WRONG, WrongReason.DUPLICATE),
        (RIGHT, None),
        (WRONG, WrongReason.CLASS),
        (UNSURE, None),
        (WRONG, WrongReason.OUTLINE),
        (WRONG, WrongReason.NOTHING_THERE),
    ]
    bad = item_of(found, 4)
    assert oracle.answer(bad, found.judgements).new_box is None
    assert oracle.answer(bad, found.judgements, correct=True).new_box == FAR


def test_a_lower_overlap_may_do(tmp_path: Path) -> None:
    truth = truth_file(tmp_path, TrueBox("dog", A))
    found = named(judged("dog", (10, 30, 50, 70)))  # IoU 0.33
    assert Oracle.from_truth(truth).right(found) == {0: False}
    assert Oracle.from_truth(truth, min_iou=0.3).right(found) == {0: True}


def test_without_the_other_boxes_the_first_one_asked_about_is_right(tmp_path: Path) -> None:
    oracle = Oracle.from_truth(truth_file(tmp_path, TrueBox("dog", A)))
    found = named(judged("dog", LOOSE), judged("dog", A))
    first, second = item_of(found, 0), item_of(found, 1)
    assert oracle.answer(first).answer is RIGHT
    assert oracle.answer(second).reason is WrongReason.DUPLICATE
    assert oracle.answer(first).answer is RIGHT  # asked again


def test_a_truth_of_other_images_or_classes_is_refused(tmp_path: Path) -> None:
    oracle = Oracle.from_truth(truth_file(tmp_path, TrueBox("dog", A)))
    with pytest.raises(InvalidInput, match=r"truth.json has no image 'b.png', only a.png; give"):
        oracle.right(named(judged("dog", A), name="b.png"))
    with pytest.raises(InvalidInput, match=r"no class 'horse', only bird, cat, dog; its classes"):
        oracle.right(named(judged("horse", A)))
    assert oracle.right(named(judged("bird", A))) == {0: False}  # listed, though without a box
    with pytest.raises(InvalidInput, match="not the judgements of the image of item 2"):
        oracle.answer(item_of(named(judged("dog", A), judged("dog", A)), 1), [judged("dog", A)])
    with pytest.raises(NotFound):
        Oracle.from_truth(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(InvalidInput, match="expected a COCO dataset"):
        Oracle.from_truth(tmp_path / "bad.json")


def test_what_it_says_of_a_whole_image(tmp_path: Path) -> None:
    truth = truth_file(tmp_path, TrueBox("dog", A), TrueBox("cat", FAR), TrueBox("bird", FAR))
    found = named(
        judged("dog", LOOSE),
        judged("dog", FAR, Outcome.UNSURE),
        judged("cat", FAR, Outcome.REJECT),  # nobody sees it: the cat is missing
        judged("horse", A),  # not in the truth
    )
    oracle = Oracle.from_truth(truth)
    said = [(n.class_name, n.answer.value, n.box) for n in oracle.review(found, CLASSES)]
    assert said == [
        ("dog", "right", LOOSE),
        ("dog", "wrong", FAR),
        ("cat", "missing", FAR),
    ]
    first = next(oracle.review(found, CLASSES, outlines=True))
    assert (first.answer, first.reason, first.new_box) == (WRONG, WrongReason.OUTLINE, A)
    first.check()


_BOXES = st.sampled_from([A, LOOSE, FAR, (100, 100, 140, 155), (12, 14, 50, 50), (0, 0, 9, 9)])


@given(
    st.lists(st.builds(judged, st.sampled_from(["dog", "cat"]), _BOXES, st.sampled_from(Outcome))),
    st.lists(st.builds(TrueBox, st.sampled_from(["dog", "cat"]), _BOXES, st.booleans())),
)
def test_right_is_what_the_evaluation_calls_right(
    judgements: list[Judgement], truth: list[TrueBox]
) -> None:
    found = named(*judgements)
    oracle = Oracle({"a.png": truth}, frozenset(["dog", "cat"]), "the truth")
    right = oracle.right(found)
    scored = [ScoredBox(j.class_name, j.box, j.probability) for j in judgements]
    total = evaluate([(scored, truth)], ["dog", "cat"]).total()
    assert sum(right.values()) == total.right
    assert len(right) - sum(right.values()) == total.wrong
    assert len(judgements) - len(right) == total.ignored
    said = [one for one, _ in answers(oracle, found)]
    expected = {place: RIGHT if is_right else WRONG for place, is_right in right.items()}
    assert said == [expected.get(place, UNSURE) for place in range(len(judgements))]
