"""Labels of a micro-model: read, merged, checked against their frame, and made of reviews."""

import json

import numpy as np
import pytest

from secondlook.training.micro_labels import (
    FrameLabels,
    checked,
    contradictions,
    labels_of_reviews,
    merged,
    read_labels,
    write_labels,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import Review, ReviewAnswer, WrongReason

A, B, C = (10.0, 10.0, 30.0, 40.0), (50.0, 10.0, 70.0, 40.0), (80.0, 10.0, 95.0, 40.0)


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def of_frame(name="f.jpg", own=(A,), negatives=(), complete=True, size=(100, 50)):
    return FrameLabels(name, boxes(*own), boxes(*negatives), complete, size)


def coco(path, annotations, names=("hat", "cap")):
    images = [{"id": 1, "file_name": "f.jpg", "width": 100, "height": 50}]
    rows = [
        {"id": n, "image_id": 1, "category_id": category, "bbox": [x, y, x2 - x, y2 - y]}
        for n, (category, (x, y, x2, y2)) in enumerate(annotations, start=1)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return path


def test_boxes_of_another_class_look_alike_and_are_not_it(tmp_path):
    path = coco(tmp_path / "five.json", [(1, A), (2, B)])
    with pytest.raises(InvalidInput, match="--class"):
        read_labels(path)
    name, (found,) = read_labels(path, "hat")
    assert (name, found.boxes.tolist(), found.negatives.tolist()) == ("hat", [[*A]], [[*B]])
    assert found.complete
    assert read_labels(coco(tmp_path / "one.json", [(1, A)]))[0] == "hat"
    with pytest.raises(InvalidInput, match="no box"):
        read_labels(coco(tmp_path / "none.json", []))


def test_what_is_written_is_read_again(tmp_path):
    frames = [of_frame(negatives=(B,)), of_frame("g.jpg", complete=False)]
    write_labels(tmp_path / "labels.json", "hat", frames)
    _, again = read_labels(tmp_path / "labels.json", "hat")
    for one, other in zip(frames, again, strict=True):
        assert one.name == other.name and one.complete == other.complete
        assert one.boxes.tolist() == other.boxes.tolist()
        assert one.negatives.tolist() == other.negatives.tolist()


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (of_frame(size=(50, 100)), "the video is turned"),
        (of_frame(size=(200, 100)), "do not fit"),
        (of_frame(own=((200.0, 10.0, 230.0, 40.0),)), "inside the frame"),
        (of_frame(negatives=((11.0, 10.0, 30.0, 40.0),)), "both the target and something else"),
    ],
)
def test_labels_that_cannot_be_are_refused(frame, said):
    with pytest.raises(InvalidInput, match=said):
        checked(frame, 100, 50)


def test_a_label_that_stands_twice_counts_once():
    kept, warnings = checked(of_frame(own=(A, (10.0, 10.0, 31.0, 40.0), B)), 100, 50)
    assert kept.boxes.tolist() == [[*A], [*B]]
    assert "twice" in warnings[0]


def test_labels_that_contradict_each_other_are_told():
    near = (14.0, 12.0, 34.0, 42.0)
    _, (said,) = checked(of_frame(negatives=(near,)), 100, 50)
    assert "the target and something else at nearly one place (IoU 0.60)" in said
    first = [of_frame(own=(A, B), negatives=(C,)), of_frame("g.jpg")]
    later = [of_frame(own=(C,), negatives=(near,))]
    assert contradictions([first, later]) == 2
    assert contradictions([first, [of_frame(own=(near,)), of_frame("h.jpg", negatives=(A,))]]) == 0


def test_the_newer_label_of_a_box_counts():
    (one,) = merged([[of_frame(own=(A, B), negatives=(C,))], [of_frame(own=(C,), negatives=(B,))]])
    assert one.boxes.tolist() == [[*A], [*C]]
    assert one.negatives.tolist() == [[*B]]
    with pytest.raises(InvalidInput, match="distill"):
        merged([[of_frame(f"{number}.jpg") for number in range(501)]])


def test_reviews_become_labels_and_boxes_that_are_not_it():
    def review(number, answer, box, **more):
        given = {"image": "k" * 64, "class_name": "hat", "box": box, "answer": answer}
        return Review(**given, **more, person="p", id=number, created_at=float(number))

    moved = review(
        3, ReviewAnswer.WRONG, B, reason=WrongReason.OUTLINE, new_box=(50.0, 8.0, 72.0, 41.0)
    )
    said = [
        review(1, ReviewAnswer.RIGHT, A),
        review(2, ReviewAnswer.WRONG, C),
        moved,
    ]
    (found,) = labels_of_reviews(said, {"k" * 64: ("f.jpg", 100, 50)}, "hat")
    assert found.boxes.tolist() == [[*A], [50.0, 8.0, 72.0, 41.0]]
    assert found.negatives.tolist() == [[*C]]
    assert not found.complete
    assert labels_of_reviews(said, {}, "hat") == []
    assert labels_of_reviews(said, {"k" * 64: ("f.jpg", 100, 50)}, "cap") == []
