"""Stage three as the pipeline runs it: masks of boxes, each image encoded once.

A segmenter that fails costs masks and never a label: what it raises, or gives that is no mask, is
kept as the reason why a box has none.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from secondlook.core.types import Boxes, Image
from secondlook.labeling.segmenter import (
    ImageEncoding,
    MaskCandidate,
    SegmentationPrompt,
    Segmenter,
)
from secondlook_client.errors import BadOntology, InvalidInput, SecondlookError
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import Ontology

log = logging.getLogger(__name__)

MAX_KEPT_COUNTS = 2**16
"""Characters of a mask's run-length code: noise has more, no object has."""
MAX_IMAGE_COUNTS = 2**22
"""The same of all masks of an image, which are stored and sent together."""
NO_PIXEL = "the segmenter found no pixel of an object"


@dataclass(frozen=True, eq=False)
class BoxMasks:
    """What is known of the masks of one image's boxes."""

    segmentations: Mapping[int, Segmentation] = field(default_factory=dict)
    """By row of the proposals."""
    unsegmented: Mapping[int, str] = field(default_factory=dict)
    """By row, why there is no mask although one was asked for."""
    encoding: ImageEncoding | None = None
    """Of the image, once it was asked for."""
    ms: float = 0.0
    """This image's share of the segmenter's time."""


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """Boxes of one image that want a mask."""

    image: Image
    boxes: Boxes
    """(N, 4): all proposals."""
    rows: Sequence[int]
    """Those of them that want one."""
    known: BoxMasks = BoxMasks()

    @property
    def missing(self) -> list[int]:
        """The rows without a mask."""
        return [row for row in dict.fromkeys(self.rows) if row not in self.known.segmentations]


def check_segmenter(segmenter: Segmenter | None, ontology: Ontology) -> None:
    """Raises ``BadOntology`` for a class that needs a segmenter where there is none."""
    needing = [spec for spec in ontology.classes if spec.needs_segmenter]
    if segmenter is None and needing:
        raise BadOntology(
            f"class '{needing[0].name}' needs masks (mask: true, box: mask or view: mask), and no "
            "segmenter is in use; name one with --segmenter, for example demo, or leave these out"
        )


def segment_boxes(segmenter: Segmenter, requests: Sequence[MaskRequest]) -> list[BoxMasks]:
    """``known`` of each request and the masks that it lacked; never raises for a failing model.

    The images that are new to it are encoded together.
    """
    new = [one for one in requests if one.missing and one.known.encoding is None]
    try:
        encodings = segmenter.encode([one.image for one in new]) if new else []
        if len(encodings) != len(new):
            raise ValueError(f"{len(encodings)} encodings of {len(new)} images")
    except Exception as failure:  # a plug-in may raise anything
        cause = _cause(segmenter, failure)
        return [one.known if not one.missing else _without(one, cause) for one in requests]
    fresh = iter(encodings)
    return [
        _segmented(segmenter, one, one.known.encoding or next(fresh)) if one.missing else one.known
        for one in requests
    ]


def _segmented(segmenter: Segmenter, request: MaskRequest, encoding: ImageEncoding) -> BoxMasks:
    rows, known = request.missing, request.known
    prompts = [SegmentationPrompt(box=_plain(request.boxes, row)) for row in rows]
    try:
        found = _candidates(segmenter, encoding, prompts)
    except Exception as failure:
        return _without(request, _cause(segmenter, failure), encoding)
    model = f"{segmenter.name}@{segmenter.digest}"
    segmentations, unsegmented = dict(known.segmentations), dict(known.unsegmented)
    room = MAX_IMAGE_COUNTS - sum(len(one.mask.counts) for one in segmentations.values())
    for row, candidates in zip(rows, found, strict=True):
        try:
            if isinstance(candidates, InvalidInput):
                raise candidates
            made = _best(candidates, request.image, model)
        except Exception as failure:  # what a plug-in gives may be anything, too
            made = _cause(segmenter, failure)
        if isinstance(made, Segmentation) and len(made.mask.counts) > room:
            made = "the masks of this image are too many to keep"
        if isinstance(made, str):
            unsegmented[row] = made
            continue
        room -= len(made.mask.counts)
        segmentations[row] = made
        unsegmented.pop(row, None)
    return replace(known, segmentations=segmentations, unsegmented=unsegmented, encoding=encoding)


def _candidates(
    segmenter: Segmenter, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
) -> "list[tuple[MaskCandidate, ...] | InvalidInput]":
    """What the segmenter answers to each prompt, or why it refuses one."""
    try:
        found = segmenter.segment(encoding, prompts)
    except InvalidInput as refusal:  # of one prompt; the others may well have masks
        if len(prompts) == 1:
            return [refusal]
        return [one for each in prompts for one in _candidates(segmenter, encoding, [each])]
    if len(found) != len(prompts):
        raise ValueError(f"masks of {len(found)} boxes, asked for {len(prompts)}")
    return [*found]


def _best(candidates: Sequence[MaskCandidate], image: Image, model: str) -> "Segmentation | str":
    """The mask with the best predicted quality; or why there is none."""
    if not candidates:
        return NO_PIXEL
    best = max(candidates, key=lambda one: one.quality)
    pixels = np.asarray(best.pixels)
    if pixels.shape != (image.height, image.width):
        expected = (image.height, image.width)
        return f"the segmenter gave a mask of shape {pixels.shape} for an image of {expected}"
    if not (math.isfinite(best.quality) and math.isfinite(best.stability)):
        return f"the segmenter gave a quality of {best.quality} and stability of {best.stability}"
    if not pixels.any():
        return NO_PIXEL
    mask = Mask.from_array(pixels)
    if len(mask.counts) > MAX_KEPT_COUNTS:
        return f"the segmenter's mask has {len(mask.counts):,} characters; {MAX_KEPT_COUNTS:,} fit"
    return Segmentation(mask, _share(best.quality), _share(best.stability), model)


def _share(value: float) -> float:
    """In [0, 1], which predictions may leave, and as exact as it is stored."""
    return float(np.float32(min(max(value, 0.0), 1.0)))


def _without(request: MaskRequest, cause: str, encoding: ImageEncoding | None = None) -> BoxMasks:
    known = request.known
    unsegmented = {**known.unsegmented, **dict.fromkeys(request.missing, cause)}
    return replace(known, unsegmented=unsegmented, encoding=encoding or known.encoding)


def _plain(boxes: Boxes, row: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = boxes[row].tolist()
    return x1, y1, x2, y2


def _cause(segmenter: Segmenter, failure: Exception) -> str:
    """Short and safe to send: our own errors as they are, others by their class only."""
    log.error("segmenter failed", exc_info=failure, extra={"segmenter": segmenter.name})
    if isinstance(failure, SecondlookError):
        return str(failure)
    return f"the segmenter failed ({type(failure).__name__}); see the log"
