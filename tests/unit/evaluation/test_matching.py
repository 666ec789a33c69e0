"""Precision and recall: cases worked out by hand, and what must hold for any input."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import boxes

from secondlook.evaluation.average_precision import average_precision_of_images
from secondlook.evaluation.coco_files import join
from secondlook.evaluation.matching import Counts, ScoredBox, TrueBox, evaluate
from secondlook_client.errors import InvalidInput, NotFound

NEAR = (0.0, 0.0, 10.0, 10.0)
SHIFTED = (2.0, 0.0, 12.0, 10.0)  # IoU 8/12 with NEAR
FAR = (100.0, 100.0, 120.0, 120.0)


def found(box, score=1.0, name="dog"):
    return ScoredBox(name, box, score)


def real(box, *, ignore=False, name="dog"):
    return TrueBox(name, box, ignore)


def match_class(detections, truth, min_iou=0.5):
    """The counts of one class on one image."""
    return evaluate([(detections, truth)], ("dog",), min_iou).by_class["dog"]


def test_each_kind_is_counted():
    counts = match_class([found(NEAR), found(FAR)], [real(NEAR), real((50, 50, 60, 60))])
    assert counts == Counts(right=1, wrong=1, missed=1)
    assert counts.precision == counts.recall == counts.f1 == 0.5


def test_one_true_box_is_matched_once_by_the_best_score():
    counts = match_class([found(SHIFTED, 0.3), found(NEAR, 0.9)], [real(NEAR)])
    assert counts == Counts(right=1, wrong=1)


def test_a_box_taken_by_a_better_score_leaves_the_next_best_overlap():
    truth = [real(NEAR), real((4, 0, 14, 10))]
    counts = match_class([found(NEAR, 0.9), found(SHIFTED, 0.8)], truth)
    assert counts == Counts(right=2)


@pytest.mark.parametrize(("iou", "right"), [(0.66, 1), (0.67, 0)])
def test_the_overlap_asked_for_decides(iou, right):
    assert match_class([found(SHIFTED)], [real(NEAR)], iou).right == right


def test_an_ignore_region_forgives_any_number_and_is_not_missed():
    inside = [found((1, 1, 5, 5)), found((5, 5, 9, 9)), found(FAR)]
    assert match_class(inside, [real(NEAR, ignore=True)]) == Counts(wrong=1, ignored=2)


def test_a_real_box_is_matched_before_an_ignore_region_forgives():
    truth = [real(NEAR, ignore=True), real(NEAR)]
    assert match_class([found(NEAR)], truth) == Counts(right=1)


def test_nothing_at_all_has_no_precision():
    assert Counts().precision is None and Counts().recall is None and Counts().f1 is None


def test_classes_and_images_never_mix():
    images = [
        ([found(NEAR, name="cat")], [real(NEAR)]),
        ([], [real(NEAR, name="cat")]),
        ([found(NEAR, name="tree")], []),
    ]
    quality = evaluate(images, ("dog", "cat"))
    assert quality.by_class == {"dog": Counts(missed=1), "cat": Counts(wrong=1, missed=1)}
    assert quality.total() == Counts(wrong=1, missed=2)
    assert quality.total({"dog"}) == Counts(missed=1)


detections = st.lists(st.builds(found, boxes(), st.floats(0, 1)), max_size=8)
truths = st.lists(st.builds(real, boxes(), ignore=st.booleans()), max_size=8)


@given(detections, truths)
def test_the_counts_add_up(some, truth):
    counts = match_class(some, truth)
    assert counts.right + counts.wrong + counts.ignored == len(some)
    assert counts.right + counts.missed == sum(not t.ignore for t in truth)


@given(truths)
def test_the_truth_itself_is_perfect(truth):
    answered = [found(t.box) for t in truth if not t.ignore]
    counts = match_class(answered, truth)
    assert counts.wrong == counts.missed == 0


@given(detections, truths, st.integers(1, 4))
def test_a_stricter_overlap_never_finds_more(some, truth, step):
    assert match_class(some, truth, 0.5 + step / 10).right <= match_class(some, truth, 0.5).right


@given(detections, truths, st.randoms())
def test_the_order_of_entries_does_not_matter(some, truth, random):
    distinct = [found(d.box, place / 8) for place, d in enumerate(some)]
    shuffled = random.sample(distinct, len(distinct))
    assert match_class(shuffled, truth) == match_class(distinct, truth)


# --- COCO files ---------------------------------------------------------------------------


def data_set(annotations, names=("a.jpg", "b.jpg"), classes=("dog", "cat")):
    return {
        "images": [{"id": i, "file_name": n} for i, n in enumerate(names, 10)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(classes, 3)],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
    }


def entry(image, category, bbox=(0, 0, 10, 10), **more):
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "area": 100, **more}


def figures(joined):
    return average_precision_of_images([*joined.images.values()], joined.classes)


def write(path: Path, plain) -> Path:
    path.write_text(plain if isinstance(plain, str) else json.dumps(plain), encoding="utf-8")
    return path


@pytest.fixture
def truth(tmp_path):
    annotations = [entry(10, 3), entry(11, 4), entry(11, 3, (50, 50, 9, 9), iscrowd=1)]
    return write(tmp_path / "truth.json", data_set(annotations))


def test_two_data_sets_join_by_names_whatever_their_ids(tmp_path, truth):
    own = data_set([entry(10, 4, score=0.9)], names=("b.jpg", "a.jpg"))  # 10 is b.jpg, 4 is cat
    joined = join(write(tmp_path / "own.json", own), truth)
    quality = evaluate(joined.images.values(), joined.classes)
    assert quality.by_class == {"dog": Counts(missed=1), "cat": Counts(right=1)}


def test_a_results_list_joins_by_the_ids_of_the_truth(tmp_path, truth):
    listed = [entry(10, 3, score=0.9), entry(99, 3, score=0.9), entry(11, 99, score=0.2)]
    joined = join(write(tmp_path / "list.json", listed), truth)
    assert evaluate(joined.images.values(), joined.classes).total() == Counts(right=1, missed=1)
    assert joined.without_truth == 2


def test_unsure_predictions_are_no_predictions(tmp_path, truth):
    own = data_set([entry(10, 3, iscrowd=1, ignore=1)])
    joined = join(write(tmp_path / "own.json", own), truth)
    assert evaluate(joined.images.values(), joined.classes).total() == Counts(missed=2)


def test_classes_never_asked_for_are_told_and_not_missed(tmp_path, truth):
    own = data_set([entry(10, 3)], classes=("dog",))
    joined = join(write(tmp_path / "own.json", own), truth)
    assert joined.classes == ("dog",) and joined.classes_left_out == ("cat",)


def test_average_precision_is_coco_s(tmp_path, truth):
    listed = [entry(10, 3, score=0.9), entry(11, 4, (0, 0, 10, 8), score=0.8)]
    found = figures(join(write(tmp_path / "list.json", listed), truth))
    assert found.map_per_class["dog"] == pytest.approx(1)
    assert found.map_per_class["cat"] == pytest.approx(0.7)  # IoU 0.8: found at 7 of 10 overlaps
    assert found.map == pytest.approx(0.85) and found.map50 == pytest.approx(1)


def test_bad_rows_of_either_file_are_left_out_and_told(tmp_path, truth):
    plain = json.loads(truth.read_text())
    plain["annotations"] += [entry(10, 3, (5, 5, 0, 9)), entry(99, 3), entry(10, 3, "abcd")]
    write(truth, plain)
    listed = [entry(10, 3, score="0.9"), entry("11", 4.0, score=1), entry(10, 3, score=None)]
    joined = join(write(tmp_path / "list.json", listed), truth)
    assert evaluate(joined.images.values(), joined.classes).total() == Counts(right=2)
    assert joined.warnings == (
        "list.json: 1 of 3 results cannot be read and are left out: [2]: it has no 'score'",
        "truth.json: 2 of 6 annotations cannot be read and are left out: annotations[4]: image_id "
        "99 is not among its images; annotations[5]: expected bbox [x, y, width, height], got "
        "['a', 'b', 'c', 'd']",
        "truth.json: 1 boxes have no area; they are left out",
    )


def test_no_prediction_at_all_is_an_average_precision_of_nothing(tmp_path, truth):
    assert figures(join(write(tmp_path / "list.json", []), truth)).map == 0


@pytest.mark.parametrize(
    ("plain", "cause"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('"text"', "expected a COCO dataset"),
        ({}, "no list 'images'"),
        ({"images": [{}], "annotations": [], "categories": []}, r"images\[0\]: it has no 'id'"),
        ({"images": [3], "annotations": [], "categories": []}, r"images\[0\]: it has no 'id'"),
        ([{}], r"\[0\]: it has no 'image_id'"),
        ([entry(10, 3)], r"\[0\]: it has no 'score'"),
        ([entry(10, 3, score="high")], "score: expected a number, got 'high'"),
        ([entry(10, 3, score=float("nan"))], "score: expected a finite number"),
        ([entry([10], 3, score=1)], "image_id: expected a number"),
        ([entry(10, 3, (1, 2, 3), score=1)], "expected bbox"),
        ([entry(10, 3, (1, 2, -3, 4), score=1)], "negative side"),
        (data_set([entry(77, 3)]), "image_id 77 is not among its images"),
        (data_set([entry(10, 77)]), "category_id 77 is not among its categories"),
        (data_set([], classes=("cow",)), "none of its classes"),
        (data_set([entry(10, 3)], names=("else.jpg",)), "none of the predictions' images"),
    ],
)
def test_a_bad_file_is_named_with_its_cause(tmp_path, truth, plain, cause):
    with pytest.raises(InvalidInput, match=cause) as told:
        join(write(tmp_path / "bad.json", plain), truth)
    assert ".json" in str(told.value)


def test_a_missing_file_is_told(tmp_path, truth):
    with pytest.raises(NotFound, match=r"nowhere\.json does not exist"):
        join(tmp_path / "nowhere.json", truth)


def test_a_folder_or_binary_in_place_of_a_file_is_told(tmp_path, truth):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="has no COCO file"):
        join(tmp_path / "empty", truth)
    (tmp_path / "binary").write_bytes(b"\x89PNG\x00\x9c\x81")
    with pytest.raises(InvalidInput, match="not text in UTF-8"):
        join(tmp_path / "binary", truth)
