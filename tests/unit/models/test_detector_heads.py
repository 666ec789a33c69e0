"""Each head is told by its outputs, and gives back the boxes that were encoded for it."""

import numpy as np
import pytest
from detector_graphs import SIZE, encoded
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secondlook.models.detector_heads import HEADS, detection_outputs, find_head
from secondlook_client.errors import BadSetting

CLASSES = 3
UNIT = st.floats(1 / 64, 63 / 64, width=32)


def boxes_of(count: int) -> st.SearchStrategy[np.ndarray]:
    """(count, 4) xyxy inside the input, at least three pixels wide and high."""
    corner = arrays.arrays(np.float32, (count, 4), elements=UNIT)

    def sorted_corners(corners: np.ndarray) -> np.ndarray:
        low = np.minimum(corners[:, :2], corners[:, 2:]) * (np.array(SIZE) - 4)
        high = np.maximum(corners[:, :2], corners[:, 2:]) * (np.array(SIZE) - 4)
        return np.concatenate([low, high + 3], axis=1).astype(np.float32)

    return corner.map(sorted_corners)


@pytest.mark.parametrize("head", list(HEADS))
@given(data=st.data())
def test_boxes_and_scores_come_back(head: str, data: st.DataObject) -> None:
    boxes = data.draw(boxes_of(4))
    scores = data.draw(arrays.arrays(np.float32, (4, CLASSES), elements=UNIT))
    outputs = encoded(head, boxes, scores)
    assert find_head(outputs, SIZE, CLASSES).name == head
    found, probable = HEADS[head].decode(outputs, SIZE, CLASSES)
    assert found.shape[2:] == (4,) and probable.shape == (*found.shape[:2], CLASSES)
    for box, wanted in zip(boxes, scores, strict=True):
        gaps = np.abs(found[0] - box).max(axis=1)
        best = np.flatnonzero(gaps < 0.01)
        assert len(best), f"no box near {box}"
        single = head in ("yolo_nms", "boxes_scores_labels")
        kept = np.where(np.arange(CLASSES) == wanted.argmax(), wanted, 0) if single else wanted
        assert np.abs(probable[0, best] - kept).max(axis=1).min() < 1e-5


def test_columns_for_no_object_and_background_are_left_out() -> None:
    boxes, scores = np.array([[4, 4, 20, 20]], np.float32), np.array([[0.1, 0.7, 0.2]], np.float32)
    ssd = encoded("boxes_scores", boxes, scores)
    assert HEADS["boxes_scores"].decode(ssd, SIZE, 2)[1].tolist() == [[pytest.approx([0.7, 0.2])]]
    detr = {**encoded("detr", boxes, scores), "logits": np.log(scores)[None]}
    assert HEADS["detr"].decode(detr, SIZE, 2)[1].tolist() == [[pytest.approx([0.1, 0.7])]]


def test_heads_that_exports_name_otherwise() -> None:
    boxes, scores = np.array([[4, 4, 20, 20]], np.float32), np.array([[0.1, 0.7, 0.2]], np.float32)
    rows = encoded("yolov8", boxes, scores)["output0"].transpose(0, 2, 1)
    assert find_head({"output0": rows}, SIZE, CLASSES).name == "yolov8"
    found, probable = HEADS["yolov8"].decode({"output0": rows}, SIZE, CLASSES)
    assert found[0, 0].tolist() == [4, 4, 20, 20] and probable[0, 0, 1] == pytest.approx(0.7)
    # RF-DETR calls its logits labels, MMDetection puts the score behind the box, and torchvision
    # gives one image without a batch.
    detr = encoded("detr", boxes, scores)
    rf_detr = {"dets": detr["pred_boxes"], "labels": detr["logits"]}
    assert find_head(rf_detr, SIZE, 0).name == "detr"
    assert HEADS["detr"].decode(rf_detr, SIZE, 3)[1][0, 0] == pytest.approx(scores[0])
    mmdet = {"dets": np.array([[[4, 4, 20, 20, 0.7]]], np.float32), "labels": np.array([[1]])}
    vision = {"boxes": boxes, "labels": np.array([1]), "scores": np.array([0.7], np.float32)}
    for outputs in (mmdet, vision):
        assert find_head(outputs, SIZE, CLASSES).name == "boxes_scores_labels"
        found, probable = HEADS["boxes_scores_labels"].decode(outputs, SIZE, CLASSES)
        assert found[0, 0].tolist() == [4, 4, 20, 20]
        assert probable[0, 0] == pytest.approx([0, 0.7, 0])


def test_hidden_states_beside_a_detr_are_left_out() -> None:
    detr = encoded("detr", np.ones((1, 4), np.float32), np.full((1, 3), 0.5, np.float32))
    more = {**detr, "last_hidden_state": np.zeros((1, 1, 8), np.float32)}
    assert list(detection_outputs(more)) == ["logits", "pred_boxes"]


@pytest.mark.parametrize(
    "outputs",
    [
        {"masks": np.zeros((1, 32, 160, 160), np.float32)},
        {"output": np.zeros((1, 77, 85), np.float32)},
        {"a": np.zeros((1, 10, 4), np.float32), "b": np.zeros((1, 10, 4), np.float32)},
        {"boxes": np.zeros((1, 10, 4), np.float32), "other": np.zeros((1, 9, 3), np.float32)},
        {str(name): np.zeros((1, 1), np.float32) for name in range(20)},
    ],
)
def test_other_outputs_are_shown(outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadSetting, match=r"are those of no detector .* \?head="):
        find_head(outputs, SIZE, 0)
