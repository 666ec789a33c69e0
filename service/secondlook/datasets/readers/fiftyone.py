"""FiftyOne's own dataset on disk, as ``writers.fiftyone`` and FiftyOne's export write it.

The labels are the detections of the field ``secondlook``; of a dataset that is not ours, those of
``ground_truth``, or of the only field with detections. A mask of another size than its bounding box
is stretched to it, as FiftyOne shows it. Masks in files of their own (``mask_path``) are not read.
"""

import base64
import binascii
import io
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy
from secondlook.core.files import text_to_name
from secondlook.datasets.label_fields import (
    PROPOSED_BOX,
    CorrectedBox,
    CorrectedImage,
    box_of,
    proposed_box,
    reason_of,
)
from secondlook.datasets.readers.annotations import (
    MAX_BOXES,
    MAX_CLASSES,
    MAX_IMAGES,
    at_most,
    split_of_word,
)
from secondlook.datasets.readers.coco_json import read_json
from secondlook.datasets.readers.corrected import CorrectedSet, CorrectionChecks
from secondlook.datasets.readers.fields import number, shown, side
from secondlook.datasets.writers.fiftyone import EMPTY, FIELD, NAME, REVIEWS, SHA256, UNSURE
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import MAX_PIXELS, Mask
from secondlook_client.values import Outcome

SAMPLES = "samples.json"
_HEADER = 1 << 14
"""Bytes before the pixels of an array."""


def find_fiftyone(folder: Path) -> bool:
    """Whether a folder is such a dataset."""
    return (folder / SAMPLES).is_file() and (folder / "metadata.json").is_file()


def read_fiftyone(folder: Path) -> CorrectedSet:
    """The samples of a dataset. Raises ``NotFound``, and ``InvalidInput`` naming the file."""
    file, checks = folder / SAMPLES, CorrectionChecks()
    plain = read_json(file, [])
    samples = plain.get("samples") if isinstance(plain, dict) else None
    if not isinstance(samples, list) or len(samples) > MAX_IMAGES:
        raise InvalidInput(f"{file}: expected 'samples', a list of at most {MAX_IMAGES:,}")
    field = _field(file, samples)
    images = []
    for place, sample in enumerate(samples, start=1):
        where = f"{file}, sample {place}"
        if not isinstance(sample, dict):
            raise InvalidInput(f"{where}: expected an object, got {shown(sample)}")
        images.append(_image(sample, field, where, checks))
    checks.shapes.check(file)
    used = (one.judgement.class_name for image in images for one in image.boxes or ())
    every = dict.fromkeys(itertools.chain(_listed(folder), used))
    names = tuple(at_most(every, "classes", MAX_CLASSES))
    return CorrectedSet(file, tuple(images), names, checks.warnings())


def _listed(folder: Path) -> Iterator[str]:
    """The classes of the dataset: in ``info`` as we write it, or where FiftyOne's export has it."""
    metadata = read_json(folder / "metadata.json", [])
    known = metadata if isinstance(metadata, dict) else {}
    info = known.get("info")
    listed = known.get("default_classes") or (
        info.get("default_classes") if isinstance(info, dict) else None
    )
    yield from (one for one in listed or () if isinstance(one, str) and one.strip())


def _field(file: Path, samples: list[Any]) -> str:
    found = {
        name
        for sample in samples
        if isinstance(sample, dict)
        for name, value in sample.items()
        if isinstance(value, dict) and value.get("_cls") == "Detections"
    }
    for name in (FIELD, "ground_truth"):
        if name in found or not found:
            return name
    if len(found) > 1:
        raise InvalidInput(
            f"{file} has detections in {', '.join(sorted(found))[:200]}; rename the field that is "
            f"meant to '{FIELD}'"
        )
    return found.pop()


def _image(
    sample: Mapping[str, Any], field: str, where: str, checks: CorrectionChecks
) -> CorrectedImage:
    metadata = sample.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    width, height = (side(known.get(key)) for key in ("width", "height"))
    if not width or not height or width * height > MAX_PIXELS:
        raise InvalidInput(
            f"{where}: its width and height are not known; call dataset.compute_metadata() first"
        )
    boxes = []
    for place, one in enumerate(_list(_dict(sample.get(field)).get("detections")), start=1):
        try:
            boxes.append(_box(_dict(one), (width, height)))
        except (ValueError, InvalidInput) as cause:
            checks.shapes.bad(f"{where}, detection {place}", cause)
        else:
            checks.shapes.good()
    if len(boxes) > MAX_BOXES:
        raise InvalidInput(f"{where}: it has more than {MAX_BOXES:,} boxes")
    place_, name, sha256 = (_text(sample.get(key)) for key in ("filepath", NAME, SHA256))
    said = [checks.read_reviews(f"[{_text(one)}]", where) for one in _list(sample.get(REVIEWS))]
    reviews = tuple(itertools.chain.from_iterable(said))
    known_name = text_to_name(name or place_)
    tags = map(split_of_word, filter(None, map(_text, _list(sample.get("tags")))))
    split = next(filter(None, tags), "")
    return CorrectedImage(
        known_name,
        place_,
        split,
        sha256,
        width,
        height,
        tuple(boxes),
        reviews,
        empty=reason_of(sample.get(EMPTY)),
    )


def _box(detection: Mapping[str, Any], size: tuple[int, int]) -> CorrectedBox:
    """Raises ``ValueError`` and ``InvalidInput``."""
    edges = detection.get("bounding_box")
    if not isinstance(edges, list) or len(edges) != 4:
        raise ValueError(f"expected a bounding_box of four numbers, got {shown(edges)}")
    left, top, across, down = map(number, edges)
    width, height = size
    box = left * width, top * height, (left + across) * width, (top + down) * height
    fields = {**detection, "probability": detection.get("confidence")}
    fields["outcome"] = Outcome.UNSURE.value if UNSURE in _list(detection.get("tags")) else ""
    mask, name = None, _text(detection.get("label"))
    if detection.get("mask") is not None:
        mask = _mask(_pixels(detection["mask"]), box, size)
        box = proposed_box(mask, _list(detection.get(PROPOSED_BOX)), fields)
    return box_of(name, box, fields, mask)


def _pixels(packed: Any) -> NDArray[np.bool_]:
    """(H, W) bool of an array in extended JSON; whatever it unpacks to, memory stays bounded."""
    binary = _dict(_dict(packed).get("$binary"))
    try:
        content = base64.b64decode(_text(binary.get("base64")), validate=True)
        inflated = zlib.decompressobj().decompress(content, MAX_PIXELS + _HEADER)
        stream = io.BytesIO(inflated)
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError("it is of another version")
        shape, fortran, kind = np.lib.format.read_array_header_1_0(stream)
        rest = inflated[stream.tell() :]
        if len(shape) != 2 or kind.itemsize != 1 or kind.kind not in "bui":
            raise ValueError("it has no pixels of one byte")
        if min(shape) < 1 or shape[0] * shape[1] != len(rest):
            raise ValueError("it is cut off")
        flat = np.frombuffer(rest, np.uint8) != 0
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, binascii.Error, zlib.error, EOFError) as cause:
        raise ValueError(f"its mask is no array of pixels ({cause})") from None


def _mask(pixels: NDArray[np.bool_], box: Xyxy, size: tuple[int, int]) -> Mask:
    """The mask on the whole image of that size; what lies outside of it is cut off."""
    x1, y1, x2, y2 = map(round, box)
    width, height = size
    across, down = x2 - x1, y2 - y1
    if not (0 < across <= 2 * width and 0 < down <= 2 * height):
        raise ValueError("its mask has no size, or is larger than the image")
    if pixels.shape != (down, across):
        rows = np.arange(down) * pixels.shape[0] // down
        columns = np.arange(across) * pixels.shape[1] // across
        pixels = pixels[np.ix_(rows, columns)]
    whole = np.zeros((height, width), bool)
    target = whole[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    inside = pixels[max(-y1, 0) :, max(-x1, 0) :]
    target |= inside[: target.shape[0], : target.shape[1]]
    return Mask.from_array(whole)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
