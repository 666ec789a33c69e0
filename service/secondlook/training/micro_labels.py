"""Labels of a micro-model: what a person marked in some frames of a clip, and what is not it.

A COCO file lists frames by their name, ``clip.mp4@00-00-12.400.jpg``, or images of a folder by
theirs. Boxes of its class are labels; those of other classes and of ``hard_negatives`` look alike
and are not it. All else in a frame is background, unless the file calls the frame not ``complete``,
as it is where people reviewed single boxes of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.core.boxes import Xyxy, clip, iou, to_xywh
from secondlook.core.files import replacing
from secondlook.core.types import Boxes
from secondlook.datasets.readers.coco_json import CocoFile, read_json
from secondlook.datasets.samples import boxes_array
from secondlook.labeling.applied_reviews import is_complete, reviewed_boxes
from secondlook_client.errors import InvalidInput
from secondlook_client.values import Outcome, Review

SAME_BOX = 0.8
"""IoU from which two boxes are one."""
SAME_OBJECT = 0.5
"""IoU from which two boxes may be about one object."""
MAX_FRAMES = 500
"""Labelled frames of one micro-model; with more, ``distill`` trains a student."""
LEAST_SIDE = 4.0
"""Pixels of a label."""


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """What is known of one frame."""

    name: str
    boxes: Boxes
    """(N, 4): the target."""
    negatives: Boxes
    """(K, 4): what is not it."""
    complete: bool
    """Whether every object that is not among ``boxes`` is background."""
    size: tuple[int, int] | None = None
    """Width and height as the file has them."""


def read_labels(path: Path, class_name: str = "") -> tuple[str, list[FrameLabels]]:
    """The class, and the labels of each frame that a COCO file lists.

    ``class_name`` is needed where the file has boxes of several. Raises ``NotFound`` and
    ``InvalidInput``, which name the file and the way out.
    """
    plain = read_json(path)
    coco = CocoFile(path, plain)
    present = dict.fromkeys(coco.names[one.category_id] for one in coco.annotations)
    wanted = class_name or (next(iter(present)) if len(present) == 1 else "")
    if not present:
        raise InvalidInput(f"{path} has no box; mark the target in about five frames")
    if wanted not in present:
        names = ", ".join(f"'{name:.60}'" for name in list(present)[:8])
        none = f"no box of '{class_name:.60}', only " if class_name else ""
        raise InvalidInput(
            f"{path} has {none}boxes of {names}; say with --class which one the micro-model finds"
        )
    partial = _partial_images(plain)
    boxes: dict[Any, list[Xyxy]] = {key: [] for key in coco.images}
    negatives: dict[Any, list[Xyxy]] = {key: [] for key in coco.images}
    for entry in coco.annotations:
        own = coco.names[entry.category_id] == wanted and not entry.ignore
        (boxes if own else negatives)[entry.image_id].append(entry.box)
    for entry in coco.hard_negatives():
        negatives[entry.image_id].append(entry.box)
    return wanted, [
        FrameLabels(
            image.name,
            boxes_array(boxes[key]),
            boxes_array(negatives[key]),
            image.name not in partial,
            image.size,
        )
        for key, image in coco.images.items()
    ]


def labels_of_reviews(
    reviews: Iterable[Review],
    names: Mapping[str, tuple[str, int, int]],
    class_name: str,
) -> list[FrameLabels]:
    """What people said of the labels of a run, as labels: right, corrected and missing objects are
    the target, wrong boxes are not it.

    ``names``: (name, width, height) of the images by their hash; others are left out.
    """
    of_images: dict[str, list[Review]] = {}
    for review in reviews:
        of_images.setdefault(review.image, []).append(review)
    found = []
    for image, said in of_images.items():
        if image not in names:
            continue
        kept: dict[Outcome, list[Xyxy]] = {outcome: [] for outcome in Outcome}
        for judgement, _ in reviewed_boxes(said):
            if judgement.class_name == class_name:
                kept[judgement.outcome].append(judgement.box)
        name, width, height = names[image]
        boxes, negatives = kept[Outcome.ACCEPT], kept[Outcome.REJECT]
        # A box that was moved is no negative: it lies on the target.
        far = [one for one in negatives if not _overlaps(one, boxes)]
        if boxes or far or is_complete(said):
            size = (width, height)
            found.append(
                FrameLabels(name, boxes_array(boxes), boxes_array(far), is_complete(said), size)
            )
    return found


def merged(groups: Iterable[Sequence[FrameLabels]]) -> list[FrameLabels]:
    """The frames of several sources, each once; of one box that is listed twice, the newer.

    Raises ``InvalidInput`` for more than ``MAX_FRAMES``.
    """
    frames: dict[str, FrameLabels] = {}
    for one in (one for group in groups for one in group):
        before = frames.get(one.name)
        frames[one.name] = one if before is None else _joined(before, one)
    if len(frames) > MAX_FRAMES:
        raise InvalidInput(
            f"{len(frames)} labelled frames; a micro-model takes {MAX_FRAMES}, and for more "
            "`secondlook distill` trains a student"
        )
    return list(frames.values())


def contradictions(groups: Sequence[Sequence[FrameLabels]]) -> int:
    """How many boxes one source calls the target and a later one something else, or the reverse;
    in ``merged`` the later one counts."""
    count = 0
    for place, later in enumerate(groups):
        known = {one.name: one for group in groups[:place] for one in group}
        for after in later:
            if before := known.get(after.name):
                for said, denied in (
                    (before.boxes, after.negatives),
                    (before.negatives, after.boxes),
                ):
                    count += int((iou(said, denied) >= SAME_OBJECT).any(axis=1).sum())
    return count


def checked(frame: FrameLabels, width: int, height: int) -> tuple[FrameLabels, list[str]]:
    """The labels cut to their frame of that size, without boxes that stand twice; and warnings.

    Raises ``InvalidInput`` for labels of another size or another turn of the frame, for boxes that
    lie outside, and for one object that is both the target and not.
    """
    if frame.size and frame.size != (width, height):
        turned = frame.size == (height, width)
        why = "the video is turned: label its frames upright" if turned else "they do not fit"
        raise InvalidInput(
            f"the labels of '{frame.name}' are for {frame.size[0]}×{frame.size[1]} pixels, and the "
            f"frame has {width}×{height}; {why}"
        )
    boxes = clip(frame.boxes, width, height)
    for row, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if x1 - x0 < LEAST_SIDE or y1 - y0 < LEAST_SIDE:
            raise InvalidInput(
                f"label {row + 1} of '{frame.name}' has {x1 - x0:.0f}×{y1 - y0:.0f} pixels inside "
                f"the frame; at least {LEAST_SIDE:g}×{LEAST_SIDE:g} are needed"
            )
    kept = _distinct(boxes)
    warnings = []
    if len(kept) < len(boxes):
        warnings.append(f"'{frame.name}' has a label twice; one of them is used")
    negatives = clip(frame.negatives, width, height)
    negatives = negatives[((negatives[:, 2:] - negatives[:, :2]) >= LEAST_SIDE).all(axis=1)]
    shared = float(iou(boxes[kept], negatives).max(initial=0))
    if shared >= SAME_BOX:
        raise InvalidInput(
            f"'{frame.name}' has a box that is both the target and something else; remove one"
        )
    if shared >= SAME_OBJECT:
        warnings.append(
            f"'{frame.name}' has the target and something else at nearly one place (IoU "
            f"{shared:.2f}); if they are one object, remove one"
        )
    return replace(frame, boxes=boxes[kept], negatives=negatives, size=(width, height)), warnings


def write_labels(path: Path, class_name: str, frames: Sequence[FrameLabels]) -> None:
    """Write labels as COCO, as ``read_labels`` reads them. Raises ``StorageFull``."""
    numbered = [*enumerate(frames, start=1)]
    plain = {
        "info": {"description": "labels of a micro-model"},
        "categories": [{"id": 1, "name": class_name}],
        "images": [
            {
                "id": number,
                "file_name": one.name,
                **({"width": one.size[0], "height": one.size[1]} if one.size else {}),
                "complete": one.complete,
            }
            for number, one in numbered
        ],
        "annotations": _annotations((number, one.boxes) for number, one in numbered),
        "hard_negatives": _annotations((number, one.negatives) for number, one in numbered),
    }
    with replacing(path) as part:
        part.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _annotations(frames: Iterable[tuple[int, Boxes]]) -> list[dict[str, Any]]:
    rows = [(image, to_xywh(tuple(box))) for image, boxes in frames for box in boxes.tolist()]
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": [round(value, 2) for value in box],
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
        }
        for number, (image, box) in enumerate(rows, start=1)
    ]


def _partial_images(plain: Any) -> set[str]:
    """Names of the images that the file calls not complete."""
    return {
        str(entry.get("file_name"))
        for entry in plain["images"]
        if isinstance(entry, dict) and entry.get("complete") is False
    }


def _joined(before: FrameLabels, after: FrameLabels) -> FrameLabels:
    """Both; where they speak of one box, ``after`` is right."""
    old = [box for box in before.boxes.tolist() if not _overlaps(box, after.negatives.tolist())]
    old = [box for box in old if not _overlaps(box, after.boxes.tolist())]
    not_it = [one for one in before.negatives.tolist() if not _overlaps(one, after.boxes.tolist())]
    return FrameLabels(
        after.name,
        boxes_array([*old, *after.boxes.tolist()]),
        boxes_array([*not_it, *after.negatives.tolist()]),
        before.complete or after.complete,
        after.size or before.size,
    )


def _overlaps(box: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether one of the others is about the same object."""
    return bool((iou(boxes_array([box]), boxes_array(others)) >= SAME_OBJECT).any())


def _distinct(boxes: Boxes) -> list[int]:
    """Rows without those that stand for the object of an earlier one."""
    alike = iou(boxes, boxes) >= SAME_BOX
    return [row for row in range(len(boxes)) if not np.flatnonzero(alike[row, :row]).size]
