"""YOLO: ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``, ready for the usual trainers.

YOLO has no ignore regions: an object without a label is learnt as background. So images with an
unsure box, with their sure labels, are in a folder of their own, ``unsure/``, and images on which
nothing was proposed in ``nothing_proposed/``, where neither ``data.yaml`` nor a program that takes
all of ``images/`` finds them; unless ``Labels`` says otherwise. How many images these are stands at
the top of ``data.yaml``.

As ``yolo-seg`` a row is an outline. An object is one row whatever its mask is like: YOLO would take
a second row for a second object, so parts and holes are joined by slits of no width, as its
makers' own converter joins parts. Filled by the even-odd rule it is the very same mask; a program
that paints the line too adds a pixel along it. A box without a mask is its four corners, since one
file cannot have boxes and outlines.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from secondlook.core.masks import mask_polygon
from secondlook.datasets.writers.label_set import (
    DoubtfulImages,
    FreeNames,
    LabelledImage,
    Labels,
    flat_name,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.values import EmptyReason, Judgement, LabelResult, Outcome

UNSURE, NOTHING_PROPOSED = "unsure", "nothing_proposed"
"""Kinds of images in doubt, and the folders of those that are kept separate."""
_BECAME = {
    DoubtfulImages.SEPARATE: "the images are in {kind}/, where no training finds them",
    DoubtfulImages.LEAVE_OUT: "the images are left out",
    DoubtfulImages.BACKGROUND: "{region} learnt as background",
    DoubtfulImages.LABEL: "these boxes are labels here",
}
_WHAT = {
    UNSURE: ("have an unsure box", "these boxes are", "--unsure"),
    NOTHING_PROPOSED: (
        "had nothing proposed, so nobody looked twice",
        "the images are",
        "--nothing-proposed",
    ),
}


def write(splits: Mapping[str, Labels], folder: Path) -> Sequence[str]:
    """Write everything into ``folder``, which exists and is empty.

    Returns what became of the images in doubt, a sentence each kind.
    """
    return _write(splits, folder, _box_row)


def write_outlines(splits: Mapping[str, Labels], folder: Path) -> Sequence[str]:
    """The same with an outline for each label, as segmentation models are trained on."""
    return _write(splits, folder, _outline_row)


Row = Callable[[Judgement, LabelResult], Sequence[float] | NDArray[np.floating]]
"""Gives the numbers after a row's class: shares of the image's sides."""


def _write(splits: Mapping[str, Labels], folder: Path, row: Row) -> Sequence[str]:
    doubtful: Counter[str] = Counter()
    total = 0
    for split, labels in splits.items():
        for path in (folder / "images" / split, folder / "labels" / split):
            path.mkdir(parents=True)
        names = FreeNames(folder / "images" / split, ".txt")
        for image in labels.images():
            kind = _doubt(image.result)
            doubtful[kind] += 1
            total += 1
            made_of = _made_of(kind, labels)
            if made_of is DoubtfulImages.LEAVE_OUT:
                continue
            home = folder / kind if made_of is DoubtfulImages.SEPARATE else folder
            as_label = made_of is DoubtfulImages.LABEL
            _write_image(image, labels, names, home / "images" / split, row, as_label)
    labels = next(iter(splits.values()))
    notes = [*_notes(doubtful, total, labels)]
    text = "".join(f"# {note}\n" for note in notes)
    text += _yaml([*splits], labels.classes, outlines=row is _outline_row)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return notes


def _doubt(result: LabelResult) -> str:
    """The kind of image in doubt that it is; empty where there is none."""
    if result.of(Outcome.UNSURE):
        return UNSURE
    return NOTHING_PROPOSED if result.empty is EmptyReason.NOTHING_PROPOSED else ""


def _made_of(kind: str, labels: Labels) -> DoubtfulImages:
    chosen = {UNSURE: labels.unsure, NOTHING_PROPOSED: labels.nothing_proposed}
    return chosen.get(kind, DoubtfulImages.BACKGROUND)


def _write_image(
    image: LabelledImage, labels: Labels, names: FreeNames, folder: Path, row: Row, unsure: bool
) -> None:
    """Put an image into ``folder``, of the images of a split, and its text file where YOLO has it;
    ``unsure``: with its unsure boxes."""
    free = names.take(flat_name(image.name))
    place = folder / free
    text = folder.parent.parent / "labels" / folder.name / free.with_suffix(".txt")
    for path in (place, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    labels.place_image(image.name, image.result, place)
    kept = (Outcome.ACCEPT, Outcome.UNSURE) if unsure else (Outcome.ACCEPT,)
    numbers = {name: number for number, name in enumerate(labels.classes)}
    lines = [
        _line(numbers[judgement.class_name], row(judgement, image.result))
        for judgement in image.result.judgements
        if judgement.outcome in kept
    ]
    text.write_text("".join(lines), encoding="utf-8")


def _notes(doubtful: Mapping[str, int], total: int, labels: Labels) -> Iterator[str]:
    for kind, (what, region, flag) in _WHAT.items():
        if doubtful.get(kind):
            became = _BECAME[_made_of(kind, labels)].format(kind=kind, region=region)
            yield f"YOLO: {doubtful[kind]:,} of {total:,} images {what}; {became} ({flag})."


def _yaml(splits: Sequence[str], classes: Sequence[str], *, outlines: bool) -> str:
    """Without ``path``: trainers then look beside the file itself, wherever it is moved to."""
    train = "train" if "train" in splits else splits[0]
    # Trainers insist on a val; one that is the train folder at least looks like what it is.
    val = next((name for name in ("val", "test") if name in splits), train)
    content = {"train": f"images/{train}", "val": f"images/{val}"}
    content |= {"test": "images/test"} if "test" in splits else {}
    # Four corners may be a rotated box; our reader asks for this before it takes them for a mask.
    content |= {"task": "segment"} if outlines else {}
    text = ""
    if train == val:
        text += "# There is no split to measure on: write the labels again with --split.\n"
    for entry in (content, {"names": dict(enumerate(classes))}):
        text += yaml.safe_dump(entry, sort_keys=False, allow_unicode=True)
    return text


def _line(place: int, numbers: Sequence[float] | NDArray[np.floating]) -> str:
    # One template for the whole row: outlines have thousands of numbers.
    inside = np.clip(numbers, 0.0, 1.0).tolist()
    return f"{place}" + (" %.6f" * len(inside) % tuple(inside)) + "\n"


def _box_row(judgement: Judgement, result: LabelResult) -> Sequence[float] | NDArray[np.floating]:
    """Centre and size."""
    x1, y1, x2, y2 = judgement.box
    width, height = result.width, result.height
    centre = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
    return *centre, (x2 - x1) / width, (y2 - y1) / height


def _outline_row(
    judgement: Judgement, result: LabelResult
) -> Sequence[float] | NDArray[np.floating]:
    """x and y of each corner of the mask; those of the box where there is no outline."""
    corners = _outline(judgement)
    return (corners / np.array([result.width, result.height])).ravel()


def _outline(judgement: Judgement) -> NDArray[np.floating]:
    x1, y1, x2, y2 = judgement.box
    found = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    if judgement.mask:
        with suppress(InvalidInput):  # more corners than any object has: no outline of one
            polygon = mask_polygon(judgement.mask)
            found = polygon.astype(np.float64) if len(polygon) else found
    return found
