"""Reviews written to files and read again."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored import image_of, labelled, review_box, stored_run

from secondlook.evaluation.coco_files import truth_of
from secondlook.evaluation.matching import TrueBox
from secondlook.review.review_files import (
    MAX_LINE,
    import_annotations,
    read_reviews,
    write_reviews,
)
from secondlook.store import Store
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.masks import Mask
from secondlook_client.values import Outcome, Review, ReviewAnswer, WrongReason

DOG = (20, 5, 39, 25)
LINE = {"image": "0" * 64, "class_name": "dog", "box": [1, 2, 3, 4], "answer": "right"}


@pytest.fixture
def filled(store: Store) -> Store:
    """Two images with reviews of all kinds, one of them taken back."""
    stored_run(store, "first", [labelled("a"), labelled("b")])
    a, b = image_of(store, "a"), image_of(store, "b")
    review_box(store, a, "dog", DOG, "right", "Ann", 'a "dog"\n')
    outline = (1.5, 1, 12, 22)
    box, reason = (1, 1, 12, 20), WrongReason.OUTLINE
    review_box(store, a, "glasses on", box, "wrong", "Ben", reason=reason, new_box=outline)
    back = review_box(store, b, "dog", DOG, "wrong", "Ann")
    store.reviews.undo(back.id, "Ann")
    review_box(store, b, "dog", (0, 0, 9, 9), "unsure", "Ben")
    review_box(store, b, "", None, "complete", "Ben")
    return store


def test_what_was_written_is_read_again(filled: Store, tmp_path: Path) -> None:
    path, said = tmp_path / "r.jsonl", filled.reviews.history()
    assert write_reviews(path, said) == 6
    assert [*read_reviews(path)] == said
    assert filled.reviews.add_from(read_reviews(path)) == (0, 6)


def test_a_coco_file_has_what_the_reviews_come_to(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert write_reviews(path, filled.reviews.history(), filled.reviews.image_names) == 6
    assert truth_of(path) == {
        "a": [TrueBox("dog", DOG), TrueBox("glasses on", (1.5, 1, 12, 22))],
        "b": [TrueBox("dog", (0, 0, 9, 9), ignore=True)],
    }
    plain = json.loads(path.read_text())
    assert [(i["width"], i["complete"]) for i in plain["images"]] == [(40, False), (40, True)]
    (wrong,) = plain["hard_negatives"]
    assert wrong["bbox"] == [1, 1, 11, 19] and wrong["attributes"]["person"] == "Ben"
    write_reviews(path, filled.reviews.history())
    assert [*truth_of(path)] == [one.image for one in filled.reviews.history()[1:3]]


def test_masks_are_written_and_read_again(store: Store, tmp_path: Path) -> None:
    stored_run(store, "first", [labelled("a")])
    mask = Mask.from_runs(40, 30, [660, 20, 520])
    a = image_of(store, "a")
    review_box(store, a, "dog", DOG, "right", mask=mask)
    review_box(store, a, "cat", (1, 1, 9, 9), "missing", mask=mask)
    path, said = tmp_path / "r.jsonl", store.reviews.history()
    write_reviews(path, said)
    assert [*read_reviews(path)] == said and [one.mask for one in said] == [mask, mask]
    assert store.reviews.add_from(read_reviews(path)) == (0, 2)
    coco = tmp_path / "r.json"
    write_reviews(coco, said, store.reviews.image_names)
    annotations = json.loads(coco.read_text())["annotations"]
    assert [one["segmentation"] for one in annotations] == [mask.to_coco()] * 2
    assert [one["area"] for one in annotations] == [20, 20]
    assert annotations[1]["bbox"] == [22, 0, 1, 20]


@pytest.mark.parametrize("outlines", [False, True])
def test_masks_of_a_coco_file_become_reviews(store: Store, tmp_path: Path, outlines: bool) -> None:
    stored_run(store, "first", [labelled("a")])
    dog, cat = Mask.from_runs(40, 30, [605, 20, 575]), Mask.from_runs(40, 30, [900, 20, 280])
    path = coco(tmp_path / "c.json", ("dog", DOG), ("dog", (30, 0, 31, 20)), image="a")
    plain = json.loads(path.read_text())
    for one, mask in zip(plain["annotations"], (dog, cat), strict=True):
        one["segmentation"] = mask.to_coco()
    plain["images"][0] |= {"width": 40, "height": 30}
    path.write_text(json.dumps(plain))
    added, _ = import_annotations(store, "first", path, "Ann", outlines=outlines)
    assert added and import_annotations(store, "first", path, "Ann", outlines=outlines)[0] == 0
    said = [one for one in store.reviews.history() if one.answer is not ReviewAnswer.WRONG]
    assert {(one.answer.value, one.mask) for one in said} == {
        ("right", dog if outlines else None),
        ("missing", cat),
    }
    plain["annotations"][1]["segmentation"]["counts"] = "~"
    path.write_text(json.dumps(plain))
    os.utime(path, (5.0, 9.0))
    import_annotations(store, "first", path, "Ben")
    newest = store.reviews.history()[-1]
    assert (newest.person, newest.mask) == ("Ben", None), "the box is of use without it"


def test_a_name_without_a_known_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"ends with .jsonl or, for COCO, .json"):
        write_reviews(tmp_path / "r.csv", [])
    assert [*tmp_path.iterdir()] == []


def test_a_line_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n" + json.dumps(LINE) + "\n\n")
    os.utime(path, (5.0, 7.5))
    (read,) = read_reviews(path, "Ann")
    assert (read.person, read.created_at, read.box) == ("Ann", 7.5, (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "one review"),
        ("\udcff", "not JSON"),
        (json.dumps(LINE | {"colour": "red"}), "a review has no 'colour'"),
        (json.dumps(LINE | {"answer": "maybe"}), "right, wrong, unsure"),
        (json.dumps(LINE | {"answer": ["right"]}), "right, wrong, unsure"),
        (json.dumps({"image": "0" * 64}), "needs its 'answer'"),
        (json.dumps(LINE | {"image": "A" * 64}), "SHA-256"),
        (json.dumps(LINE | {"image": 5}), "is a text"),
        (json.dumps(LINE | {"box": [1, 2, 3]}), r"is \[x1, y1, x2, y2\]"),
        (json.dumps(LINE | {"box": [1, 2, 1, 4]}), "x2 > x1"),
        (json.dumps(LINE | {"box": [1, 2, float("nan"), 4]}), "a finite number"),
        (json.dumps(LINE | {"box": [1, 2, 10**400, 4]}), "a finite number"),
        (json.dumps(LINE | {"box": [1, 2, True, 4]}), "a finite number"),
        (json.dumps(LINE | {"id": 2**70}), "0 to 2"),
        (json.dumps(LINE | {"undoes": -1}), "0 to 2"),
        (json.dumps(LINE | {"created_at": float("inf")}), "a finite number"),
        (json.dumps(LINE | {"person": "x" * 121}), "person of 1 to 120"),
        (json.dumps(LINE | {"note": "x" * 2001}), "at most 2000"),
        (json.dumps(LINE | {"note": "x" * MAX_LINE}), "longer than"),
        (json.dumps(LINE | {"reason": "class"}), "belong to a wrong box"),
        (json.dumps(LINE | {"mask": [1]}), "as COCO has it"),
        (json.dumps(LINE | {"mask": {"size": [4]}}), "as COCO has it"),
        (json.dumps(LINE | {"mask": {"size": [4, 5], "counts": [20]}}), "is not ASCII text"),
        (json.dumps(LINE | {"mask": {"size": [4, "5"], "counts": "d0"}}), "at least one pixel"),
        (json.dumps(LINE | {"mask": {"size": [4, 5], "counts": "d0d0"}}), "does not fill"),
        (json.dumps(LINE | {"answer": "complete"}), "give no class and no box"),
    ],
)
def test_a_line_that_is_no_review_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes((json.dumps(LINE) + "\n" + line + "\n").encode("utf-8", "surrogateescape"))
    read = read_reviews(path, "Ann")
    assert next(read).answer is ReviewAnswer.RIGHT
    with pytest.raises(InvalidInput, match=rf"r.jsonl, line 2: .*{message}"):
        next(read)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(NotFound, match="cannot be read"):
            next(read_reviews(path))


@given(
    st.builds(
        Review,
        image=st.text("0123456789abcdef", min_size=64, max_size=64),
        class_name=st.text(min_size=1, max_size=120),
        box=st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(10, 99), st.floats(10, 99)),
        answer=st.sampled_from(["right", "unsure", "missing"]).map(ReviewAnswer),
        person=st.text(min_size=1, max_size=120),
        note=st.text(max_size=2000),
        mask=st.none() | st.just(Mask.from_runs(5, 4, [3, 9, 8])),
        id=st.integers(0, 2**63 - 1),
        created_at=st.floats(0, 1e12),
        undone_by=st.none() | st.integers(0, 2**63 - 1),
    ).filter(
        lambda one: (
            one.person.strip()
            and one.class_name.strip()
            and not (one.mask and one.answer is ReviewAnswer.UNSURE)
        )
    )
)
def test_any_review_comes_back_from_its_line(review: Review) -> None:
    assert Review.from_dict(json.loads(json.dumps(review.to_dict()))) == review


def coco(
    path: Path, *boxes: tuple[str, tuple[float, float, float, float]], image: str = "a"
) -> Path:
    names = ["dog", "glasses on", "glasses off"]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": image, "width": 40, "height": 30}],
                "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
                "annotations": [
                    {"id": n, "image_id": 1, "category_id": names.index(name)}
                    | {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                    for n, (name, box) in enumerate(boxes)
                ],
            }
        )
    )
    return path


def test_annotations_of_a_person_are_compared_with_a_run(store: Store, tmp_path: Path) -> None:
    run = stored_run(store, "first", [labelled("a"), labelled("b")])
    a, _ = store.results.page(run.id)
    on, off, dog = a.labelled.judgements
    assert [j.outcome.value for j in (on, off, dog)] == ["accept", "reject", "unsure"]
    path = coco(
        tmp_path / "c.json",
        ("glasses on", (1, 1, 12, 18)),  # IoU 0.89 with the label
        ("glasses off", (20, 1, 30, 11)),  # nobody marked it
    )
    assert import_annotations(store, "first", path, "Ann") == (3, 0)
    said = {(r.class_name, r.answer.value) for r in store.reviews.history()}
    assert said == {("glasses on", "right"), ("dog", "wrong"), ("glasses off", "missing")}
    a, b = store.results.page(run.id)
    found = [(j.class_name, j.outcome) for j in a.labelled.judgements]
    assert found == [
        ("glasses on", Outcome.ACCEPT),
        ("glasses off", Outcome.REJECT),
        ("dog", Outcome.REJECT),
        ("glasses off", Outcome.ACCEPT),
    ]
    assert b.reviewed == set()  # the file does not list it
    # Read twice, kept once; and the object that was missing is no longer.
    assert import_annotations(store, "first", path, "Ann") == (0, 2)
    assert import_annotations(store, "first", path, "Ben", outlines=True) == (2, 0)
    outlined = store.reviews.history()[3]
    assert (outlined.reason, outlined.new_box) == (WrongReason.OUTLINE, (1, 1, 12, 18))


def test_annotations_of_other_images_are_refused(store: Store, tmp_path: Path) -> None:
    stored_run(store, "first", [labelled("a")])
    path = coco(tmp_path / "c.json", ("dog", (1, 1, 5, 5)), image="z")
    with pytest.raises(InvalidInput, match="lists none of the run's images"):
        import_annotations(store, "first", path, "Ann")
    with pytest.raises(NotFound):
        import_annotations(store, "none", path, "Ann")
    assert store.reviews.history() == []
