"""CVAT for images 1.1: boxes, masks and polygons of each image, as people left them.

A mask has a run-length code inside of its own box. What our own exports have beside the class and
the outline comes back in attributes, see ``writers.cvat``. Shapes that are no outline of an object
(points, lines, cuboids, skeletons) are left out and counted.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from secondlook.core.boxes import Xyxy
from secondlook.core.files import text_to_name
from secondlook.core.masks import mask_from_polygons
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
from secondlook.datasets.readers.corrected import CorrectedSet, CorrectionChecks
from secondlook.datasets.readers.fields import number, shown, side, whole_number
from secondlook.datasets.readers.plain_xml import children_of_root
from secondlook.datasets.writers.cvat import FILE, IMAGE_LABEL
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import MAX_COUNTS, MAX_PIXELS, Mask

ROOT = "annotations"
SHAPES = ("box", "mask", "polygon")
"""What outlines an object."""
_HEAD = 1 << 12
"""Bytes of a file that show whether it is one of CVAT."""
_OTHER = ("polyline", "points", "cuboid", "skeleton", "ellipse")


def find_cvat(folder: Path) -> list[Path]:
    """The files of a folder in the layouts of our export and of CVAT's own; empty where there are
    none."""
    found = [folder / FILE, *sorted(folder.glob(f"*/{FILE}"))]
    return [file for file in found if file.is_file() and _looks_like_cvat(file)]


def _looks_like_cvat(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b"<annotations" in stream.read(_HEAD)
    except OSError:
        return False


def read_cvat(file: Path) -> CorrectedSet:
    """The images of an ``annotations.xml``.

    Raises ``NotFound``, and ``InvalidInput`` naming the file, also for tracks of a video.
    """
    split = split_of_word(file.resolve().parent.name)
    checks, classes, images = CorrectionChecks(), dict[str, None](), list[CorrectedImage]()
    for element in children_of_root(file, ROOT):
        if element.tag == "meta":
            classes |= dict.fromkeys(_classes(element))
        elif element.tag == "track":
            raise InvalidInput(
                f"{file} has tracks of a video; export it from CVAT as 'CVAT for images 1.1'"
            )
        elif element.tag == "image":
            where = f"{file}, image {len(images) + 1}"
            images.append(_image(element, split, where, checks))
            if len(images) > MAX_IMAGES:
                raise InvalidInput(f"{file} has more than {MAX_IMAGES:,} images")
    checks.shapes.check(file)
    used = (one.judgement.class_name for image in images for one in image.boxes or ())
    every = dict.fromkeys(itertools.chain(classes, used))
    names = tuple(at_most(every, "classes", MAX_CLASSES))
    return CorrectedSet(file, tuple(images), names, checks.warnings())


def _classes(meta: ElementTree.Element) -> Iterator[str]:
    """Those of the task or project, without the label of our tags."""
    for label in meta.iter("label"):
        name = label.findtext("name") or ""
        if name.strip() and name != IMAGE_LABEL:
            yield name


def _image(
    element: ElementTree.Element, split: str, where: str, checks: CorrectionChecks
) -> CorrectedImage:
    width, height = (side(element.get(key)) for key in ("width", "height"))
    if not width or not height or width * height > MAX_PIXELS:
        raise InvalidInput(f"{where}: its width and height are not those of an image")
    boxes = []
    for shape in element:
        if shape.tag in SHAPES:
            try:
                boxes.append(_box(shape, width, height))
            except (ValueError, InvalidInput) as cause:
                checks.shapes.bad(f"{where}, {shape.tag}", cause)
            else:
                checks.shapes.good()
        elif shape.tag in _OTHER:
            checks.shapes.bad(f"{where}, {shape.tag}", "it is no outline of an object")
    if len(boxes) > MAX_BOXES:
        raise InvalidInput(f"{where}: it has more than {MAX_BOXES:,} boxes")
    about, reviews = _about(element)
    place = element.get("name", "")
    return CorrectedImage(
        text_to_name(about.get("name", "") or place),
        place,
        split,
        about.get("sha256", ""),
        width,
        height,
        tuple(boxes),
        checks.read_reviews(reviews, where),
        empty=reason_of(about.get("empty")),
    )


def _about(element: ElementTree.Element) -> tuple[dict[str, str], str]:
    """What our tags say of an image, and its reviews as JSON."""
    parts: dict[int, str] = {}
    about: dict[str, str] = {}
    for tag in element.findall("tag"):
        if tag.get("label") == IMAGE_LABEL:
            found = _fields(tag)
            with suppress(ValueError):
                parts[whole_number(found.pop("part", None))] = found.pop("reviews", "")
            about |= {key: value for key, value in found.items() if value}
    return about, "".join(parts[part] for part in sorted(parts))


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {one.get("name", ""): one.text or "" for one in element.findall("attribute")}


def _box(shape: ElementTree.Element, width: int, height: int) -> CorrectedBox:
    """Raises ``ValueError`` and ``InvalidInput``."""
    class_name, fields = shape.get("label", ""), _fields(shape)
    if shape.tag == "box":
        edges = [number(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
        return box_of(class_name, _turned(edges, number(shape.get("rotation", 0))), fields)
    mask = _code(shape, width, height) if shape.tag == "mask" else _polygon(shape, width, height)
    words = fields.get(PROPOSED_BOX, "").split()
    return box_of(class_name, proposed_box(mask, words, fields), fields, mask)


def _turned(edges: Sequence[float], degrees: float) -> Xyxy:
    """The upright box around one that was turned around its centre."""
    x1, y1, x2, y2 = edges
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"its corners are the wrong way round: {shown(edges)}")
    if not degrees % 360:
        return x1, y1, x2, y2
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    across, down = (x2 - x1) / 2, (y2 - y1) / 2
    right, lower = across * cosine + down * sine, across * sine + down * cosine
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - right, y - lower, x + right, y + lower


def _code(shape: ElementTree.Element, width: int, height: int) -> Mask:
    """The mask of CVAT's code; of an object that reaches out of the image what is inside."""
    left, top, across, down = (
        whole_number(shape.get(key)) for key in ("left", "top", "width", "height")
    )
    if not (across > 0 and down > 0 and across * down <= MAX_PIXELS):
        raise ValueError("its mask has no size")
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
        raise ValueError("its mask lies outside of the image")
    text = shape.get("rle", "")
    if text.count(",") >= MAX_COUNTS:
        raise ValueError(f"its mask has more than {MAX_COUNTS:,} runs")
    runs = [whole_number(word.strip()) for word in text.split(",")]
    if min(runs) < 0 or sum(runs) != across * down:
        raise ValueError(f"its runs do not fill {across} × {down} pixels")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(down, across)
    pixels = np.zeros((height, width), bool)
    rows, columns = slice(max(top, 0), top + down), slice(max(left, 0), left + across)
    inside = values[max(-top, 0) :, max(-left, 0) :]
    target = pixels[rows, columns]
    target |= inside[: target.shape[0], : target.shape[1]]
    return Mask.from_array(pixels)


def _polygon(shape: ElementTree.Element, width: int, height: int) -> Mask:
    words = [corner.split(",") for corner in shape.get("points", "").split(";")]
    if not all(len(corner) == 2 for corner in words):
        raise ValueError("its points are not x and y")
    corners = np.array([[number(value.strip()) for value in corner] for corner in words])
    return mask_from_polygons([corners], width, height)
