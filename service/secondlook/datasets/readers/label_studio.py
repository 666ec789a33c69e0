"""Label Studio: the JSON export of a project, its annotations and its labelling config.

A rectangle and a brush stroke of one object are one box with a mask: those that have the label of
one of our predictions in common, else those of one class whose boxes overlap by half. Polygons are
masks too. Coordinates are hundredths of the image's sides.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import Xyxy, iou
from secondlook.core.files import text_to_name
from secondlook.core.masks import mask_from_polygons
from secondlook.datasets.label_fields import CorrectedBox, CorrectedImage, box_of
from secondlook.datasets.readers.annotations import MAX_BOXES, MAX_CLASSES, MAX_IMAGES, at_most
from secondlook.datasets.readers.coco_json import read_json
from secondlook.datasets.readers.corrected import CorrectedSet, CorrectionChecks
from secondlook.datasets.readers.fields import number, shown, side
from secondlook.datasets.readers.plain_xml import parse_xml
from secondlook.datasets.samples import boxes_array
from secondlook.datasets.writers.label_studio import FIELDS, NAME, REVIEWS, SHA256, RegionNames
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import MAX_PIXELS, Mask
from secondlook_client.values import MAX_NAME_LENGTH

MAX_CONFIG = 1 << 20
"""Characters of a labelling config."""
MAX_CODE = 1 << 23
"""Bytes of the run-length code of one brush stroke."""
SAME_OBJECT = 0.5
"""IoU from which a rectangle and a brush stroke of one class are one object."""
MAX_SECONDS = 86_400.0
_RECTANGLES, _BRUSH, _POLYGONS = "rectanglelabels", "brushlabels", "polygonlabels"
_OTHER = ("ellipselabels", "keypointlabels", "ellipse", "polygon", "brush", "rectangle")
_UPLOADED = re.compile("[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded to it."""


@dataclass(frozen=True)
class LabelConfig:
    """What a labelling config asks about one image."""

    value: str
    """The key of a task's ``data`` that says where the image is."""
    names: RegionNames
    """The controls for boxes and masks."""
    classes: tuple[str, ...]
    """Of those controls, in order."""


def parse_config(text: str) -> LabelConfig:
    """The first image of a labelling config, with its rectangles, brushes and keypoints.

    Raises ``InvalidInput`` for what is no such config.
    """
    try:
        if len(text) > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG:,} characters")
        view = parse_xml(text)
        image = next((one for one in view.iter("Image") if one.get("name")), None)
        if image is None:
            raise ValueError("it has no <Image>")
        name, value = image.get("name", ""), image.get("value", "")
        controls: dict[str, str] = {}
        classes: dict[str, None] = {}
        for tag in ("RectangleLabels", "BrushLabels", "KeyPointLabels"):
            for control in view.iter(tag):
                if name in control.get("toName", "").split(","):
                    controls.setdefault(tag, control.get("name", ""))
                    listed = (one.get("alias") or one.get("value") for one in control.iter("Label"))
                    classes |= dict.fromkeys(filter(_is_class, listed))
        if not classes:
            raise ValueError(
                "it has no RectangleLabels, BrushLabels or KeyPointLabels with a Label for its "
                "image"
            )
    except ValueError as cause:
        raise InvalidInput(f"this labelling config cannot be used: {cause}") from None
    rectangles, brush = (controls.get(tag, "") for tag in ("RectangleLabels", "BrushLabels"))
    names = tuple(at_most(classes, "classes", MAX_CLASSES))
    return LabelConfig(value.removeprefix("$"), RegionNames(name, rectangles, brush), names)


def _is_class(name: str | None) -> TypeGuard[str]:
    return bool(name and name.strip() and len(name) <= MAX_NAME_LENGTH)


def read_label_studio(file: Path) -> CorrectedSet:
    """The annotations of a JSON export, each as an image that a person corrected.

    Those that a person skipped say nothing. Raises ``NotFound``, and ``InvalidInput`` naming the
    file.
    """
    tasks, checks = read_json(file, []), CorrectionChecks()
    if not isinstance(tasks, list) or len(tasks) > MAX_IMAGES:
        raise InvalidInput(f"{file}: expected a list of at most {MAX_IMAGES:,} tasks")
    images, classes = list[CorrectedImage](), dict[str, None]()
    for place, task in enumerate(tasks, start=1):
        where = f"{file}, task {place}"
        if not is_task(task):
            raise InvalidInput(
                f"{where}: expected 'data' and 'annotations'; export the project as JSON, not as "
                "JSON-MIN"
            )
        images += _task(task, where, checks)
        classes |= dict.fromkeys(_predicted(task))
    checks.shapes.check(file)
    used = (one.judgement.class_name for image in images for one in image.boxes or ())
    names = tuple(at_most(dict.fromkeys((*classes, *used)), "classes", MAX_CLASSES))
    return CorrectedSet(file, tuple(images), names, checks.warnings())


def is_task(plain: Any) -> bool:
    """Whether a value of JSON is a task as the export has them."""
    return (
        isinstance(plain, dict)
        and isinstance(plain.get("data"), dict)
        and isinstance(plain.get("annotations"), list)
    )


def _task(
    task: Mapping[str, Any], where: str, checks: CorrectionChecks
) -> Iterator[CorrectedImage]:
    """One image for each annotation, the oldest first; one without boxes that has the reviews."""
    data = task["data"]
    place = next((one for key in ("image", *data) if isinstance(one := data.get(key), str)), "")
    name, sha256 = (_text(data.get(key)) for key in (NAME, SHA256))
    about = CorrectedImage(text_to_name(name) if name else task_name(place), place, "", sha256)
    finished = [
        one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")
    ]
    reviews = checks.read_reviews(data.get(REVIEWS, []), where)
    if not finished and reviews:
        yield replace(about, reviews=reviews, boxes=None)
    for at, one in enumerate(sorted(finished, key=_moment)):
        image = read_annotation(one, f"{where}, annotation {at + 1}", checks)
        said = () if at else reviews
        yield replace(image, name=about.name, place=place, sha256=sha256, reviews=said)


def read_annotation(
    annotation: Mapping[str, Any],
    where: str,
    checks: CorrectionChecks,
    size: tuple[int, int] | None = None,
) -> CorrectedImage:
    """The boxes that a person left on an image of that ``size`` (None: as the regions say).

    A region that cannot be read is left out and counted in ``checks``. Raises ``InvalidInput`` for
    an annotation that has too many, or is of an image of another size.
    """
    results = annotation.get("result")
    regions: list[_Region] = []
    for place, one in enumerate(results if isinstance(results, list) else ()):
        if len(regions) > 2 * MAX_BOXES:
            raise InvalidInput(f"{where}: it has more than {MAX_BOXES:,} boxes")
        try:
            regions += _regions(one, size)
        except (ValueError, InvalidInput) as cause:
            checks.shapes.bad(f"{where}, region {place + 1}", cause)
        else:
            checks.shapes.good()
    boxes = [*_joined(regions)]
    if len(boxes) > MAX_BOXES:
        raise InvalidInput(f"{where}: it has more than {MAX_BOXES:,} boxes")
    width, height = regions[0].size if regions else size or (0, 0)
    seconds = 0.0
    with suppress(ValueError):
        seconds = min(max(number(annotation.get("lead_time")), 0.0), MAX_SECONDS)
    return CorrectedImage(
        "",
        width=width,
        height=height,
        boxes=tuple(boxes),
        person=_person(annotation),
        created_at=_moment(annotation),
        seconds=seconds,
    )


def task_name(place: str) -> str:
    """The name of an image by where a task says that it is: a URL, a path, or ``?d=PATH``."""
    parts = urlsplit(place) if len(place) < 4096 else urlsplit("")
    of_file = parse_qs(parts.query).get("d", [""])[0]
    path = of_file or unquote(parts.path)
    return _UPLOADED.sub("", PurePosixPath(path).name, count=1) if not of_file else path


@dataclass(frozen=True)
class _Region:
    """A rectangle, or a brush stroke or polygon as a mask."""

    class_name: str
    box: Xyxy
    mask: Mask | None
    fields: Mapping[str, Any]
    size: tuple[int, int]

    @property
    def label_id(self) -> str:
        return _text(self.fields.get("label_id"))


def _regions(plain: Any, size: tuple[int, int] | None) -> Iterator[_Region]:
    """A region of each class that it has; none of a result that is no region of an image.

    Raises ``ValueError`` and ``InvalidInput``.
    """
    if not isinstance(plain, dict) or not isinstance(value := plain.get("value"), dict):
        raise ValueError("it is no region")
    kind = plain.get("type")
    if kind not in (_RECTANGLES, _BRUSH, _POLYGONS):
        if kind in _OTHER:
            raise ValueError(f"it is neither a rectangle nor a mask with a class, but {kind}")
        return
    own = (side(plain.get("original_width")), side(plain.get("original_height")))
    width, height = size or own
    if not width or not height or width * height > MAX_PIXELS or (size and own != size):
        raise ValueError(f"its image has {shown(own)} pixels, expected {shown(size)}")
    if kind == _RECTANGLES:
        mask, box = None, _rectangle(value, width, height)
    else:
        mask = _mask(kind, value, width, height)
        if mask.box is None:
            raise ValueError("its mask covers no pixel")
        box = mask.box
    meta = plain.get("meta")
    known = meta.get(FIELDS) if isinstance(meta, dict) else None
    fields = known if isinstance(known, dict) else {}
    names = value.get(kind)
    for class_name in names if isinstance(names, list) else ():
        yield _Region(_text(class_name), box, mask, fields, (width, height))


def _rectangle(value: Mapping[str, Any], width: int, height: int) -> Xyxy:
    """The upright box around a rectangle, which may be turned around its upper left corner."""
    x, y, across, down = (number(value.get(key)) for key in ("x", "y", "width", "height"))
    x, across, y, down = (
        *(share * width / 100 for share in (x, across)),
        *(share * height / 100 for share in (y, down)),
    )
    angle = math.radians(number(value.get("rotation", 0) or 0))
    if not angle:
        return x, y, x + across, y + down
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [
        (a * cosine - b * sine, a * sine + b * cosine) for a in (0, across) for b in (0, down)
    ]
    xs, ys = zip(*corners, strict=True)
    return x + min(xs), y + min(ys), x + max(xs), y + max(ys)


def _mask(kind: str, value: Mapping[str, Any], width: int, height: int) -> Mask:
    if kind == _POLYGONS:
        points = value.get("points")
        if not isinstance(points, list) or not all(
            isinstance(one, list) and len(one) == 2 for one in points
        ):
            raise ValueError("its points are not x and y")
        corners = [[number(x) * width / 100, number(y) * height / 100] for x, y in points]
        return mask_from_polygons([np.array(corners).reshape(-1, 2)], width, height)
    return Mask.from_array(decode_brush(value.get("rle"), width, height))


def decode_brush(code: Any, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of a brush stroke: where its alpha channel is at least half.

    See ``writers.label_studio.brush_code``; besides runs, a code may have values one by one. Raises
    ``ValueError`` for a code that is damaged or of an image of another size.
    """
    if not isinstance(code, list) or not 9 <= len(code) <= MAX_CODE:
        raise ValueError(f"expected a run-length code of at most {MAX_CODE:,} bytes")
    try:
        content = bytes(code)
    except (TypeError, ValueError):
        raise ValueError("its run-length code is not a list of bytes") from None
    bits = f"{int.from_bytes(content):0{8 * len(content)}b}"
    count, depth = int(bits[:32], 2), int(bits[32:37], 2) + 1
    lengths = [int(bits[at : at + 4], 2) + 1 for at in range(37, 53, 4)]
    if count != 4 * width * height or depth != 8:
        raise ValueError(
            f"its code has {count:,} values of {depth} bits, not {width} × {height} × 4"
        )
    flat, at, done = np.zeros(width * height, np.bool_), 53, 0
    try:
        while done < count:
            run, size = bits[at] == "1", lengths[int(bits[at + 1 : at + 3], 2)]
            ends = done + int(bits[at + 3 : at + 3 + size], 2) + 1
            at += 3 + size
            if ends > count:
                raise ValueError
            for stop in (ends,) if run else range(done + 1, ends + 1):
                value = int(bits[at : at + 8], 2)  # of nothing, at the end: a ValueError
                at += 8
                if value > 127:
                    flat[done // 4 : stop // 4] = True  # the last of four channels is alpha
                done = stop
    except (ValueError, IndexError):
        raise ValueError("its run-length code is damaged") from None
    return flat.reshape(height, width)


def _joined(regions: Sequence[_Region]) -> Iterator[CorrectedBox]:
    """Boxes, each with the mask of its object."""
    masks = [one for one in regions if one.mask]
    for region in regions:
        if region.mask:
            continue
        mask = _mask_of(region, masks)
        if mask:
            masks.remove(mask)
        fields = {**(mask.fields if mask else {}), **region.fields}
        yield _box(region.class_name, region.box, fields, mask.mask if mask else None)
    for one in masks:
        yield _box(one.class_name, one.box, one.fields, one.mask)


def _box(class_name: str, box: Xyxy, fields: Mapping[str, Any], mask: Mask | None) -> CorrectedBox:
    # Who hands in an annotation stands for its boxes, so none is in doubt any more.
    found = box_of(class_name, box, {**fields, "outcome": ""}, mask)
    if mask is None or mask.box is None or found.mask_as_exported:
        return found
    # Beside a stroke that a person painted, the rectangle says nothing more.
    return replace(found, judgement=replace(found.judgement, box=mask.box))


def _mask_of(region: _Region, masks: Sequence[_Region]) -> _Region | None:
    of_class = [one for one in masks if one.class_name == region.class_name]
    for one in of_class:
        if region.label_id and one.label_id == region.label_id:
            return one
    free = [one for one in of_class if not (region.label_id and one.label_id)]
    if not free:
        return None
    overlaps = iou(boxes_array([region.box]), boxes_array(one.box for one in free))[0]
    best = int(overlaps.argmax())
    return free[best] if overlaps[best] >= SAME_OBJECT else None


def _predicted(task: Mapping[str, Any]) -> Iterable[str]:
    """The classes of what was predicted on a task."""
    for one in task.get("predictions") or ():
        results = one.get("result") if isinstance(one, dict) else None
        for region in results if isinstance(results, list) else ():
            value = region.get("value") if isinstance(region, dict) else None
            for kind in (_RECTANGLES, _BRUSH):
                names = value.get(kind) if isinstance(value, dict) else None
                yield from filter(_is_class, names if isinstance(names, list) else ())


def _person(annotation: Mapping[str, Any]) -> str:
    """Who made it, as far as it is told."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        found = _text(by.get("email")) or _text(by.get("username"))
        by = found or by.get("id")
    name = by if isinstance(by, str) else f"Label Studio user {by}" if by is not None else ""
    return name[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode()


def _moment(annotation: Mapping[str, Any]) -> float:
    with suppress(ValueError):
        text = _text(annotation.get("updated_at")) or _text(annotation.get("created_at"))
        return datetime.fromisoformat(text).timestamp()
    return 0.0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
