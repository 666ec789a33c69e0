"""What a detector's outputs mean: which head it has, told by names and shapes, and its boxes.

    yolox                 (B, cells, 5 + C)      offsets and logarithms by cell; objectness
    yolox_decoded         (B, cells, 5 + C)      centre and size in pixels; objectness
    yolov5                (B, 3 · cells, 5 + C)  the same, three boxes a cell; YOLOv5, v7
    yolov8                (B, 4 + C, cells)      centre and size in pixels; YOLOv8, v9, 11, 12
    yolo_nms              (B, N, 6)              xyxy in pixels, score, class; YOLOv10 and exports
                                                 with the suppression in the graph
    detr                  logits (B, N, C), pred_boxes (B, N, 4) relative centre and size
    boxes_scores          boxes (B, N, 4) xyxy, scores (B, N, C); SSD, RFB, our own students
    boxes_scores_labels   boxes (B, N, 4) xyxy, scores (B, N), labels (B, N); RT-DETR, D-FINE,
                          torchvision, MMDetection

``cells`` are those of grids with strides of 8, 16, 32 (and 64) pixels over the input, so their
number tells a YOLO from another model. Relative boxes and boxes in pixels are told by their values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondlook_client.errors import BadSetting

Array = NDArray[np.float32]
Outputs = Mapping[str, NDArray[np.generic]]
"""A model's outputs by name."""
Size = tuple[int, int]
"""Width, height in pixels."""

STRIDES = ((8, 16, 32), (8, 16, 32, 64))
LARGEST_RELATIVE = 2.0
"""A relative coordinate is about 1 at most; boxes in pixels exceed this."""
_ONE_COLOUR = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class PixelConvention:
    """How models of a kind want their pixels."""

    channels: str
    """``rgb`` or ``bgr``."""
    std: tuple[float, ...] | None
    """By which values of 0 … 255 are divided; None: models of this kind differ."""
    resize: str
    """``stretch``, ``letterbox`` (grey at the right and bottom) or ``letterbox_center``."""


@dataclass(frozen=True)
class DetectorHead:
    """One kind of outputs."""

    name: str
    decode: Callable[[Outputs, Size, int], tuple[Array, Array]]
    """(B, N, 4) xyxy in pixels of the input and (B, N, C) scores in [0, 1], of the outputs, the
    input's size and the number of classes, 0 where it is not known."""
    pixels: PixelConvention
    duplicates: bool
    """Whether an object may have many boxes, which non-maximum suppression has to thin."""


def find_head(outputs: Outputs, size: Size, classes: int) -> DetectorHead:
    """The head that outputs for one image of this ``size`` come from.

    ``classes``: how many names are known, 0 for none. Raises ``BadSetting``, which shows the
    outputs, when names and shapes do not tell.
    """
    shapes = {name: value.shape for name, value in outputs.items()}
    if len(outputs) == 1:
        (shape,) = shapes.values()
        name = _single(next(iter(outputs.values())), shape, size, classes)
    elif len(outputs) == 2:
        name = _pair(outputs)
    else:
        name = "boxes_scores_labels" if len(outputs) == 3 and _labels(outputs) else ""
    if not name:
        raise BadSetting(
            f"the outputs {described(outputs)} of an input of {size[0]}×{size[1]} are those of no "
            f"detector that is known here; say which it is with ?head= ({', '.join(HEADS)}), or "
            "write a proposer of your own (package.module:attribute)"
        )
    return HEADS[name]


def detection_outputs(outputs: Outputs) -> Outputs:
    """Without the hidden states that exports of transformers' DETR family may add."""
    both = ("logits", "pred_boxes")
    return {name: outputs[name] for name in both} if all(n in outputs for n in both) else outputs


def described(outputs: Outputs) -> str:
    """Names and shapes of outputs, for messages."""
    parts = [f"{name:.40} {tuple(value.shape)}" for name, value in list(outputs.items())[:8]]
    return ", ".join(parts) + (", …" if len(outputs) > 8 else "")


def _cells(size: Size) -> set[int]:
    """How many cells the grids of a YOLO have over the input."""
    return {
        sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)
        for strides in STRIDES
    }


def _single(value: NDArray[np.generic], shape: tuple[int, ...], size: Size, classes: int) -> str:
    cells = _cells(size)
    if len(shape) != 3 or not np.issubdtype(value.dtype, np.floating):
        return ""
    if shape[2] in cells and shape[1] > 4:
        return "yolov8"
    if shape[1] in cells and shape[2] > 4:
        if classes and shape[2] == 4 + classes:
            return "yolov8"
        largest = float(np.abs(value[..., :2].astype(np.float32)).max(initial=0))
        return "yolox_decoded" if largest > max(size) / 4 else "yolox"
    if shape[1] in {3 * count for count in cells} and shape[2] > 5:
        return "yolov5"
    return "yolo_nms" if shape[2] == 6 else ""


def _pair(outputs: Outputs) -> str:
    boxes, rest = _boxes_and(outputs)
    if boxes is None or len(rest) != 1:
        return ""
    ((name, value),) = rest.items()
    width = outputs[boxes].shape[-1]
    if width == 5 and value.ndim == outputs[boxes].ndim - 1:
        return "boxes_scores_labels"
    if width != 4 or value.ndim != 3 or value.shape[:2] != outputs[boxes].shape[:2]:
        return ""
    if "logit" in name or (boxes, name) == ("dets", "labels"):
        return "detr"
    return "boxes_scores" if "score" in name or "conf" in name else ""


def _boxes_and(outputs: Outputs) -> tuple[str | None, dict[str, NDArray[np.generic]]]:
    """The name of the output with the boxes, and the other outputs."""
    named = [name for name in outputs if "box" in name.lower() or name.lower() == "dets"]
    boxes = named[0] if len(named) == 1 else None
    return boxes, {name: value for name, value in outputs.items() if name != boxes}


def _labels(outputs: Outputs) -> str | None:
    """The name of the output with the classes' numbers, beside boxes and scores."""
    boxes, rest = _boxes_and(outputs)
    if boxes is None or any(value.ndim != outputs[boxes].ndim - 1 for value in rest.values()):
        return None
    named = [n for n in rest if "label" in n.lower() or "class" in n.lower()]
    whole = [n for n, value in rest.items() if np.issubdtype(value.dtype, np.integer)]
    found = named if len(named) == 1 else whole
    return found[0] if len(found) == 1 else None


def _only(outputs: Outputs) -> Array:
    return next(iter(outputs.values())).astype(np.float32, copy=False)


def _corners(centres: Array) -> Array:
    middle, half = centres[..., :2], centres[..., 2:4] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def _yolox(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    """As YOLOX (arXiv 2107.08430) predicts: centre = (cell + offset) · stride, side = e^s · stride.

    Exports with ``decode_in_inference`` off, which its own export script makes, leave this to us.
    """
    del classes
    raw = _only(outputs)
    for strides in STRIDES:
        origins, steps = _grid(size, strides)
        if len(origins) == raw.shape[1]:
            break
    centre = (raw[..., :2] + origins) * steps
    sides = np.exp(np.minimum(raw[..., 2:4], 20.0)) * steps
    return _corners(np.concatenate([centre, sides], axis=-1)), raw[..., 5:] * raw[..., 4:5]


def _grid(size: Size, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """(cells, 2) column and row of each cell, and (cells, 1) its stride in pixels."""
    origins, steps = [], []
    for stride in strides:
        rows, columns = np.indices((-(-size[1] // stride), -(-size[0] // stride)), np.float32)
        origins.append(np.stack([columns, rows], axis=-1).reshape(-1, 2))
        steps.append(np.full((rows.size, 1), stride, np.float32))
    return np.concatenate(origins), np.concatenate(steps)


def _objectness(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    del size, classes
    rows = _only(outputs)
    return _corners(rows), rows[..., 5:] * rows[..., 4:5]


def _yolov8(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    del classes
    rows = _only(outputs)
    if rows.shape[2] in _cells(size):
        rows = rows.transpose(0, 2, 1)
    return _corners(rows), rows[..., 4:]


def _yolo_nms(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    del size
    rows = _only(outputs)
    return rows[..., :4], _by_class(rows[..., 4], rows[..., 5], classes)


def _detr(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    """DETR's last column stands for no object (softmax); in its successors each class has a
    probability of its own (sigmoid)."""
    boxes, rest = _boxes_and(outputs)
    logits = _only(rest)
    if logits.shape[-1] == classes + 1:
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = (shifted / shifted.sum(axis=-1, keepdims=True))[..., :-1]
    else:
        scores = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return _corners(_only({"": outputs[boxes or ""]})) * np.array(
        [*size, *size], np.float32
    ), scores


def _boxes_scores(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    """SSD and its like have a first column for the background."""
    boxes, rest = _boxes_and(outputs)
    scores = _only(rest)
    if scores.shape[-1] == classes + 1:
        scores = scores[..., 1:]
    return _in_pixels(_only({"": outputs[boxes or ""]}), size), scores


def _boxes_scores_labels(outputs: Outputs, size: Size, classes: int) -> tuple[Array, Array]:
    boxes, rest = _boxes_and(outputs)
    found = _only({"": outputs[boxes or ""]})
    labels = rest.pop(_labels(outputs) or next(iter(rest)))
    scores = _only(rest) if rest else found[..., 4]
    if found.ndim == 2:  # torchvision's models give those of one image
        found, scores, labels = found[None], scores[None], labels[None]
    return _in_pixels(found[..., :4], size), _by_class(scores, labels, classes)


def _in_pixels(boxes: Array, size: Size) -> Array:
    """Boxes of each image in pixels, whichever way they are given."""
    largest = boxes.max(axis=(1, 2), initial=0)[:, None, None]
    scale = np.array([*size, *size], np.float32)
    return np.where(largest <= LARGEST_RELATIVE, boxes * scale, boxes)


def _by_class(scores: Array, labels: NDArray[np.generic], classes: int) -> Array:
    """(B, N, classes) scores of boxes that have one class each; of others, none."""
    numbers = labels.astype(np.float32).round()
    columns = np.arange(classes, dtype=np.float32)
    return np.where(numbers[..., None] == columns, scores[..., None], 0).astype(np.float32)


_YOLOX_PIXELS = PixelConvention("bgr", _ONE_COLOUR, "letterbox")
_YOLO_PIXELS = PixelConvention("rgb", (255.0, 255.0, 255.0), "letterbox_center")
_STRETCHED = PixelConvention("rgb", (255.0, 255.0, 255.0), "stretch")
_UNKNOWN_PIXELS = PixelConvention("rgb", None, "stretch")

HEADS = {
    head.name: head
    for head in (
        DetectorHead("yolox", _yolox, _YOLOX_PIXELS, True),
        DetectorHead("yolox_decoded", _objectness, _YOLOX_PIXELS, True),
        DetectorHead("yolov5", _objectness, _YOLO_PIXELS, True),
        DetectorHead("yolov8", _yolov8, _YOLO_PIXELS, True),
        DetectorHead("yolo_nms", _yolo_nms, _YOLO_PIXELS, False),
        DetectorHead("detr", _detr, _UNKNOWN_PIXELS, False),
        DetectorHead("boxes_scores", _boxes_scores, _UNKNOWN_PIXELS, True),
        DetectorHead("boxes_scores_labels", _boxes_scores_labels, _STRETCHED, False),
    )
}
