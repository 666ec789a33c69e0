"""What comes back from a program in which people corrected labels, whichever it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secondlook.datasets.label_fields import CorrectedImage
from secondlook.datasets.readers.annotations import (
    ClassBox,
    ImageBoxes,
    ParsedDataset,
    SampleMaker,
    below,
    display_name,
)
from secondlook.datasets.readers.fields import RowChecks
from secondlook.datasets.samples import Sample, bad_sample
from secondlook_client.errors import InvalidInput
from secondlook_client.values import Outcome, Review

MAX_REVIEWS = 2000
"""Of one image, as a store takes them."""


@dataclass(frozen=True)
class CorrectedSet:
    """A file or folder of another program, read."""

    path: Path
    images: tuple[CorrectedImage, ...]
    classes: tuple[str, ...]
    """All that its boxes may have."""
    warnings: tuple[str, ...] = ()
    """What was left out, a sentence each."""


@dataclass
class CorrectionChecks:
    """Counts what cannot be read of a file: shapes, and reviews, which nobody loses unnoticed."""

    shapes: RowChecks = field(default_factory=lambda: RowChecks("shapes"))
    reviews: RowChecks = field(default_factory=lambda: RowChecks("reviews"))

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each kind."""
        return (*self.shapes.warnings(), *self.reviews.warnings())

    def read_reviews(self, plain: Any, where: str) -> tuple[Review, ...]:
        """The reviews that an image was exported with, from their plain values or JSON."""
        if isinstance(plain, str):
            try:
                plain = json.loads(plain) if plain else []
            except (ValueError, RecursionError):
                plain = None
        if not isinstance(plain, list) or len(plain) > MAX_REVIEWS:
            self.reviews.bad(where, f"expected a list of at most {MAX_REVIEWS:,} reviews")
            return ()
        found = []
        for one in plain:
            try:
                found.append(Review.from_dict(one if isinstance(one, dict) else {}))
            except InvalidInput as cause:
                self.reviews.bad(where, cause)
            else:
                self.reviews.good()
        return tuple(found)


def as_dataset(name: str, found: Sequence[CorrectedSet], root: Path, kind: str) -> ParsedDataset:
    """The same as a dataset that is trained on or verified: its boxes, by split.

    ``kind`` is its format. The images are beside the file, in ``images`` there, or below ``root``,
    at the paths that the program names. An unsure box is an ignore region.
    """
    classes = tuple(dict.fromkeys(one for each in found for one in each.classes))
    places = {class_name: place for place, class_name in enumerate(classes)}
    maker, samples = SampleMaker(), dict[str, list[Sample]]()
    for each in found:
        folders = [each.path.parent / "images", each.path.parent, root]
        for image in each.images:
            made = _sample(image, folders, places, maker)
            samples.setdefault(image.split, []).append(made)
    divided = {split: tuple(of_split) for split, of_split in samples.items()}
    told = (sentence for one in found for sentence in one.warnings)
    return ParsedDataset(name, classes, divided, (*told, *maker.warnings()), format=kind)


def _sample(
    image: CorrectedImage, folders: Sequence[Path], places: dict[str, int], maker: SampleMaker
) -> Sample:
    path, name = below(image.place or image.name, folders), display_name(image.name)
    if path is None:
        return bad_sample(Path(name), name, "it is missing")
    labels: list[ClassBox] = []
    ignore: list[ClassBox] = []
    masks = []
    for one in image.boxes or ():
        row = one.judgement.box, places[one.judgement.class_name]
        if one.judgement.outcome is Outcome.UNSURE:
            ignore.append(row)
        else:
            labels.append(row)
            masks.append(one.judgement.mask)
    boxes = ImageBoxes(labels, ignore, masks=masks if any(masks) else ())
    size = (image.width, image.height) if image.width and image.height else None
    sample = maker.checked_sample(path, name, size, lambda _: boxes)
    return replace(sample, empty=image.empty)
