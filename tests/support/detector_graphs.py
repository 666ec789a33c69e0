"""ONNX files of detectors that are written by hand: every head, with boxes that are known.

``encoded`` is the inverse of a head's decoding: from boxes in pixels of the input and scores by
class, to the outputs that a model of that kind would give.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
SIZE = (64, 96)
"""Width, height of the input."""
OBJECTNESS = 0.99
CELLS = 12 * 8 + 6 * 4 + 3 * 2


def encoded(head: str, boxes: Array, scores: Array) -> dict[str, NDArray[Any]]:
    """Outputs for one image: ``boxes`` (N, 4) xyxy in pixels, ``scores`` (N, C) in (0, 1)."""
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    centres = np.concatenate([middle, sides], axis=1)
    unit = np.array([*SIZE, *SIZE], np.float32)
    if head == "yolox":
        return {"output": _yolox(centres, scores)}
    if head in ("yolox_decoded", "yolov5"):
        count = CELLS if head == "yolox_decoded" else 3 * CELLS
        rows = np.zeros((count, 5 + scores.shape[1]), np.float32)
        rows[:, :2] = SIZE  # cells without an object lie all over the input
        rows[: len(boxes), :4], rows[: len(boxes), 4] = centres, OBJECTNESS
        rows[: len(boxes), 5:] = scores / OBJECTNESS
        return {"output": rows[None]}
    if head == "yolov8":
        rows = np.zeros((CELLS, 4 + scores.shape[1]), np.float32)
        rows[: len(boxes), :4], rows[: len(boxes), 4:] = centres, scores
        return {"output0": rows.T[None].copy()}
    best = scores.argmax(axis=1)
    if head == "yolo_nms":
        rows = np.zeros((300, 6), np.float32)
        found = np.concatenate([boxes, scores.max(axis=1)[:, None], best[:, None]], axis=1)
        rows[: len(boxes)] = found
        return {"output0": rows[None]}
    if head == "detr":
        logits = np.log(scores / (1 - scores)).astype(np.float32)
        return {"logits": logits[None], "pred_boxes": (centres / unit)[None]}
    if head == "boxes_scores":
        return {"scores": scores[None], "boxes": (boxes / unit)[None]}
    labels, highest = best.astype(np.int64)[None], scores.max(axis=1)[None]
    return {"labels": labels, "boxes": boxes[None], "scores": highest}


def _yolox(centres: Array, scores: Array) -> Array:
    """Each box in a cell of its own: of stride 8, the one that holds its centre or the next."""
    rows = np.zeros((CELLS, 5 + scores.shape[1]), np.float32)
    columns = SIZE[0] // 8
    for box, of_classes in zip(centres, scores, strict=True):
        cell = int(box[1] // 8) * columns + int(box[0] // 8)
        while rows[cell, 4]:
            cell = (cell + 1) % (columns * SIZE[1] // 8)
        rows[cell, :2] = box[:2] / 8 - [cell % columns, cell // columns]
        rows[cell, 2:4] = np.log(box[2:] / 8)
        rows[cell, 4], rows[cell, 5:] = OBJECTNESS, of_classes / OBJECTNESS
    return rows[None]


def write_detector(
    path: Path,
    outputs: Mapping[str, NDArray[Any]],
    *,
    size: tuple[int, int] = SIZE,
    metadata: Mapping[str, str] | None = None,
    inputs: Sequence[Any] = (),
    nodes: Sequence[Any] = (),
    dtype: int = 1,
    shape: Sequence[Any] = (),
) -> Path:
    """A file whose graph gives ``outputs`` whatever the image shows; further ``nodes`` run too."""
    from onnx import helper, numpy_helper

    width, height = size
    images = helper.make_tensor_value_info("images", dtype, shape or [1, 3, height, width])
    kept = [numpy_helper.from_array(value, f"kept_{name}") for name, value in outputs.items()]
    same = [helper.make_node("Identity", [f"kept_{name}"], [name]) for name in outputs]
    graph = helper.make_graph(
        [*nodes, *same],
        "detector",
        [images, *inputs],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in outputs.items()
        ],
        kept,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    path.write_bytes(model.SerializeToString())
    return path
