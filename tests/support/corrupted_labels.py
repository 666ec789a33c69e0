"""Errors put into a COCO dataset on purpose: swapped classes, and shifted boxes."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

SWAPPED, SHIFTED = 0.3, 0.2
"""Shares of the annotations; no annotation has both errors."""
SHIFT = (0.3, 0.6)
"""Of a box's sides."""
RIGHT, WRONG_CLASS, WRONG_PLACE = "right", "swapped", "shifted"


def corrupted(
    truth: Mapping[str, Any], rng: random.Random
) -> tuple[dict[str, Any], dict[int, str]]:
    """The same COCO dataset with errors, and what was done to each annotation, by its id.

    A class is swapped for one that is not true of the box; equal boxes of an image are one thing
    with several true classes.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    classes: dict[Any, set[int]] = {}
    for entry in truth["annotations"]:
        classes.setdefault((entry["image_id"], *entry["bbox"]), set()).add(entry["category_id"])
    present = sorted({entry["category_id"] for entry in truth["annotations"]})
    order = [entry["id"] for entry in truth["annotations"] if not entry.get("iscrowd")]
    rng.shuffle(order)
    swapped, shifted = round(SWAPPED * len(order)), round(SHIFTED * len(order))
    errors = dict.fromkeys(order, RIGHT)
    errors |= dict.fromkeys(order[:swapped], WRONG_CLASS)
    errors |= dict.fromkeys(order[swapped : swapped + shifted], WRONG_PLACE)
    entries = []
    for entry in truth["annotations"]:
        error = errors.get(entry["id"], RIGHT)
        if error == WRONG_CLASS:
            true = classes[(entry["image_id"], *entry["bbox"])]
            entry = {**entry, "category_id": rng.choice([c for c in present if c not in true])}
        elif error == WRONG_PLACE:
            entry = {**entry, "bbox": _shifted(entry["bbox"], sizes[entry["image_id"]], rng)}
        entries.append(entry)
    return {**truth, "annotations": entries}, errors


def _shifted(box: Sequence[float], size: tuple[int, int], rng: random.Random) -> list[float]:
    """Moved along both sides and cut to the image; the other way where it would leave it."""
    corner, sides = [], []
    for low, side, whole in zip(box[:2], box[2:], size, strict=True):
        by = side * rng.uniform(*SHIFT) * rng.choice((-1, 1))
        by = -by if low + by < 0 or low + side + by > whole else by
        begin, end = max(low + by, 0.0), min(low + side + by, float(whole))
        corner.append(begin)
        sides.append(max(end - begin, 1.0))
    return [*corner, *sides]
