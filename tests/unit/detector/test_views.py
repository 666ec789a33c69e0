"""Other views of an image, and the way back from their boxes to its own."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core.boxes import iou
from secondlook.core.types import Pixels
from secondlook.detector.detections import Detections
from secondlook.detector.views import VIEWS, WHOLE, StudentView, detect_again

WHITE = 255


def image_with(box: tuple[int, int, int, int], width: int, height: int) -> Pixels:
    """A black image with a white box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = WHITE
    return pixels


def detections(*boxes: Sequence[float]) -> Detections:
    """Boxes of one class, each with a score of 0.9."""
    count = len(boxes)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(corners, np.full(count, 0.9, np.float32), np.zeros(count, np.int64))


def find_white(images: Sequence[Pixels]) -> list[Detections]:
    """A detector that finds the white pixels."""
    found = []
    for image in images:
        rows, columns = np.nonzero((image == WHITE).all(axis=2))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None
        found.append(detections(box) if box else detections())
    return found


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from(VIEWS), st.data())
def test_a_box_that_a_view_shows_comes_back_to_its_place(
    width: int, height: int, view: StudentView, data: st.DataObject
) -> None:
    x1 = data.draw(st.integers(0, width - 2))
    y1 = data.draw(st.integers(0, height - 2))
    box = (
        x1,
        y1,
        data.draw(st.integers(x1 + 1, width - 1)),
        data.draw(st.integers(y1 + 1, height - 1)),
    )
    first = detections(box)
    (again,) = detect_again(find_white, image_with(box, width, height), first, [view])
    if again.shown[0]:  # a part of it may be cut off
        assert iou(first.boxes, again.found.boxes)[0, 0] >= WHOLE - 1e-6


def test_a_box_in_the_corner_is_shown_by_the_views_that_reach_it() -> None:
    first = detections((0, 0, 10, 10))
    shown = [bool(view.shows(first.boxes, 100, 80)[0]) for view in VIEWS]
    assert shown == [view.window[0] <= 0 and view.window[1] <= 0 for view in VIEWS]


def test_what_a_view_cuts_off_it_does_not_show() -> None:
    view = StudentView((0.0, 0.0, 0.5, 1.0))
    boxes = np.array([[0, 0, 40, 40], [10, 0, 60, 40], [10, 0, 52, 40]], np.float32)
    assert view.shows(boxes, 100, 100).tolist() == [True, False, True]


def test_beyond_the_image_a_view_has_its_mean_colour() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:5] = (200, 100, 50)
    shown = StudentView((-0.5, -0.5, 1.5, 1.5)).show(pixels)
    assert shown.shape == (20, 20, 3)
    assert shown[0, 0].tolist() == [100, 50, 25]
    assert np.array_equal(shown[5:15, 5:15], pixels)


def test_a_window_is_never_empty() -> None:
    assert StudentView((0.5, 0.5, 0.51, 0.51)).show(np.zeros((3, 3, 3), np.uint8)).shape[:2] == (
        1,
        1,
    )


def test_scores_and_classes_stay_with_their_boxes() -> None:
    def detect(images: Sequence[Pixels]) -> list[Detections]:
        (image,) = images
        boxes = np.array([[0, 0, 4, 4], [6, 2, 9, 8]], np.float32)
        assert image.shape == (10, 10, 3)
        return [Detections(boxes, np.array([0.7, 0.2], np.float32), np.array([3, 1]))]

    pixels = np.zeros((10, 10, 3), np.uint8)
    (again,) = detect_again(detect, pixels, detections(), [StudentView(mirrored=True)])
    assert again.found.boxes.tolist() == [[6, 0, 10, 4], [1, 2, 4, 8]]
    assert again.found.scores.tolist() == pytest.approx([0.7, 0.2])
    assert again.found.classes.tolist() == [3, 1]
    assert again.shown.shape == (0,)
