"""A sample as the loss wants it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.training.augment import AnnotatedImage
from secondlook.training.data import targets_of


def _targets(boxes, classes, count=3, size=(200, 100), ignore=(), ignore_classes=()):
    image = AnnotatedImage(
        np.zeros((*reversed(size), 3), np.uint8),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(ignore, np.float32).reshape(-1, 4),
        np.array(ignore_classes, np.int64),
    )
    return targets_of(image, count)


def test_boxes_become_centres_and_sides_of_the_image():
    made = _targets([[20, 10, 60, 50]], [2])
    assert made["boxes"][0].tolist() == pytest.approx([0.2, 0.3, 0.2, 0.4])
    assert made["class_labels"].tolist() == [2]


def test_labels_of_several_classes_on_one_box_are_one_object():
    box = [10, 10, 50, 90]
    made = _targets([box, [10, 10.5, 50, 90], [100, 10, 150, 60]], [0, 2, 0])
    assert made["hot"].tolist() == [[1, 0, 1], [1, 0, 0]]
    assert made["class_labels"].tolist() == [0, 0]
    assert len(made["boxes"]) == 2


def test_two_labels_of_one_class_stay_two_objects():
    box = [10, 10, 50, 90]
    assert _targets([box, box], [1, 1])["hot"].tolist() == [[0, 1, 0], [0, 1, 0]]


def test_a_region_without_a_class_speaks_of_every_class():
    made = _targets([], [], ignore=[[0, 0, 100, 50]] * 2, ignore_classes=[-1, 1])
    assert made["ignore_hot"].tolist() == [[1, 1, 1], [0, 1, 0]]
    assert made["ignore"][0].tolist() == pytest.approx([0, 0, 0.5, 0.5])
    assert made["boxes"].shape == (0, 4)
    assert made["hot"].shape == (0, 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_no_label_is_lost_and_none_is_made(labels):
    places = [[40 * place, 5, 40 * place + 30, 60] for place, _ in labels]
    made = _targets(places, [kind for _, kind in labels])
    assert int(made["hot"].sum()) == len(labels)
    assert len(made["hot"]) == len(made["boxes"]) == len(made["class_labels"])
    for kind in range(3):
        assert int(made["hot"][:, kind].sum()) == sum(1 for _, k in labels if k == kind)
