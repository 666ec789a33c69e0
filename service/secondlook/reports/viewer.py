"""Images with boxes as ``page.js`` shows them: thumbnails in the page, boxes beside them as JSON.

A page stays small enough to be mailed, whatever the data. For up to ``FULL`` images all thumbnails
share ``THUMBNAIL_BYTES``, all boxes ``MAX_ROWS`` and ``TEXT_BYTES``, and all masks ``MASK_BYTES``;
with more images the page grows by as much for each. So few images are large ones, and 600 take less
than 10 MB.
"""

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image as PILImage

from secondlook.core.boxes import Xyxy
from secondlook.core.drawing import CLASS_COLOURS
from secondlook.core.types import Pixels
from secondlook.reports.mask_path import mask_path
from secondlook_client.errors import SecondlookError
from secondlook_client.masks import Mask

FULL = 600
"""Images from which on a page grows."""
THUMBNAIL_BYTES = 7_000_000
"""Of all thumbnails of ``FULL`` images or fewer, in base64."""
MAX_ROWS, TEXT_BYTES = 24_000, 700_000
"""Of ``FULL`` images or fewer: boxes, each for one class, and their questions and answers."""
MASK_BYTES = 1_500_000
"""Of the outlines of all masks of ``FULL`` images or fewer."""
LARGEST = 250_000
"""Bytes of one thumbnail at most."""
SMALLEST_SIDE, LARGEST_SIDE = 120, 1280
"""The longest side of a thumbnail, pixels."""
QUALITY = 74
"""Of its WebP."""
LOSSLESS = 800 * 800
"""Pixels of an image that is kept without loss at most."""
BYTES_A_PIXEL = 0.09
"""Of a thumbnail with little detail, for a first guess at its side."""
LONGEST_TEXT, LONGEST_NAME = 300, 200
"""Characters of one question, answer or reason, and of a name."""
RATIOS = (0.4, 4.0)
"""Width / height of a frame at least and at most; other images leave part of it empty."""

SOLID, DASHED, DOTTED = "solid", "dashed", "dotted"


@dataclass(frozen=True)
class PageKind:
    """A kind of box on a page, for example an outcome."""

    word: str
    sign: str
    """One character before the name of such a box; empty for the ordinary kind."""
    line: str
    """``SOLID``, ``DASHED`` or ``DOTTED``."""
    shown: bool = True
    """At first; it can be switched."""


@dataclass(frozen=True)
class PageBox:
    """A box for one class. All texts may be anything."""

    class_name: str
    """Empty for a region of no class."""
    box: Xyxy
    kind: int
    """Place among the page's kinds."""
    score: float | None = None
    p_yes: float | None = None
    exact: bool = True
    """False where ``p_yes`` was parsed from words."""
    asked: str = ""
    answer: str = ""
    reason: str = ""
    label_id: str = ""
    """For ``secondlook explain``; empty where there is none."""
    side: int = 0
    """Place among the page's sides."""
    mask: Mask | None = None
    """Of the image's size."""
    mask_facts: str = ""
    """What is known of the mask, for a person."""


@dataclass(frozen=True)
class PageImage:
    """An image with its boxes."""

    name: str
    width: int
    height: int
    boxes: Sequence[PageBox]
    flags: Sequence[str] = ()
    """Words that the images are filtered by."""
    ranks: Sequence[float] = ()
    """One for each of the page's orders; the smallest comes first."""
    note: str = ""
    """About the image, where it has no box."""


@dataclass(frozen=True)
class PageView:
    """How the images of a page are shown."""

    kinds: Sequence[PageKind]
    classes: Sequence[str]
    """In the order of the ontology, which gives them their colours."""
    orders: Sequence[str] = ()
    """What the images can be sorted by, besides name and number of boxes; the first is in use."""
    sides: Sequence[str] = ("",)
    """Each image is shown once for each, side by side, with the boxes of that side."""
    scores: bool = False
    """Write both scores on the boxes at first."""
    originals: Sequence[str] = ()
    """Folders beside the page, with ``/`` at their ends, that may have images by their names."""


LoadPlace = Callable[[int], Pixels]
"""Gives the upright image at a place among those of the page; may raise ``SecondlookError``."""


def viewer_values(images: Sequence[PageImage], load: LoadPlace, view: PageView) -> dict[str, Any]:
    """What ``cards.html`` and ``page.js`` take; an image is loaded when its card is written."""
    colours = {name: place for place, name in enumerate(dict.fromkeys(view.classes))}
    budget = int(THUMBNAIL_BYTES * 3 / 4 / max(min(len(images), FULL), 1))
    flags = dict.fromkeys(flag for image in images for flag in image.flags)
    return {
        "data": script_json(_data(images, view, colours, list(flags))),
        "cards": (
            _card(place, image, load, view, min(budget, LARGEST))
            for place, image in enumerate(images)
        ),
        "cards_count": len(images),
        "tile": _tile(len(images), view),
        "view": view,
        "colours": colours,
        "flags": [(flag, sum(flag in image.flags for image in images)) for flag in flags],
    }


def _tile(images: int, view: PageView) -> int:
    """How high an image is shown at first, pixels: few are large, and so are those with scores."""
    height = 460 if images <= 3 else 360 if images <= 12 or view.scores else 230
    return height if len(view.sides) == 1 else height * 7 // 10


def script_json(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element or begin another one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def thumbnail(pixels: Pixels, most: int) -> str:
    """An image as WebP inside of a page: as large as fits into ``most`` bytes."""
    image = PILImage.fromarray(np.ascontiguousarray(pixels))
    width, height = image.size
    share = min(1.0, (most / BYTES_A_PIXEL / (width * height)) ** 0.5)
    while True:
        side = min(max(share * max(width, height), SMALLEST_SIDE), LARGEST_SIDE)
        small = image.copy()
        small.thumbnail((side, side), PILImage.Resampling.LANCZOS, reducing_gap=2.0)
        content = _webp(small)
        if len(content) <= most or side <= SMALLEST_SIDE:
            return "data:image/webp;base64," + base64.b64encode(content).decode()
        share = side / max(width, height) * min((most / len(content)) ** 0.5 * 0.95, 0.9)


def embedded(pixels: Pixels) -> str:
    """A small image without any loss inside of a page; empty for one that is too large."""
    if pixels.shape[0] * pixels.shape[1] > LOSSLESS:
        return ""
    encoded = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(pixels)).save(encoded, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()


def _webp(image: PILImage.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=QUALITY, method=2)
    return encoded.getvalue()


def _card(
    place: int, image: PageImage, load: LoadPlace, view: PageView, most: int
) -> dict[str, Any]:
    """One image as the template takes it; what cannot be loaded has a ``problem``."""
    source = problem = ""
    try:
        source = thumbnail(load(place), most)
    except SecondlookError as failure:
        problem = str(failure)
    counts = [
        (kind, sum(box.kind == number for box in image.boxes))
        for number, kind in enumerate(view.kinds)
    ]
    words = {kind.word for kind in view.kinds}
    ratio = image.width / image.height
    shown = min(max(ratio, RATIOS[0]), RATIOS[1])
    name = shortened(image.name, LONGEST_NAME)
    spoken = ", ".join(f"{count} {kind.word}" for kind, count in counts)
    return {
        "name": name,
        "spoken": f"{name}: {spoken}",
        "source": source,
        "problem": problem,
        "width": image.width,
        "height": image.height,
        "ratio": f"{shown:.3f}",
        "across": f"{shown * len(view.sides):.3f}",
        "fit": "tall" if ratio < shown else "wide",
        "counts": [(kind, f"{count:,}") for kind, count in counts if count],
        "flags": [flag for flag in image.flags if flag not in words],
    }


def shortened(text: str, most: int) -> str:
    """At most ``most`` characters: what is in the middle is left out."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) + 1 + most // 2 - most :]}"


def _data(
    images: Sequence[PageImage], view: PageView, colours: dict[str, int], flags: Sequence[str]
) -> dict[str, Any]:
    scale = max(len(images), FULL) / FULL
    texts, masks = _Texts(int(TEXT_BYTES * scale)), _Masks(int(MASK_BYTES * scale))
    most = _most_boxes([len(image.boxes) for image in images], int(MAX_ROWS * scale))
    return {
        "kinds": [vars(kind) for kind in view.kinds],
        "sides": list(view.sides),
        "scores": view.scores,
        "colours": len(CLASS_COLOURS),
        "originals": list(view.originals),
        "images": [
            {
                "n": shortened(image.name, LONGEST_NAME),
                "o": image.name if view.originals else "",
                "w": image.width,
                "h": image.height,
                "f": [flags.index(flag) for flag in image.flags],
                "k": [round(rank, 4) for rank in image.ranks],
                "t": texts.index(image.note),
                "more": max(len(image.boxes) - most, 0),
                "b": list(_rows(image, most, colours, texts, masks)),
            }
            for image in images
        ],
        "classes": list(colours),  # after the images, whose boxes may be of more classes
        "texts": texts.known,
    }


def _most_boxes(counts: Sequence[int], total: int) -> int:
    """How many boxes an image may have, so that all of them together have at most ``total``."""
    if sum(counts) <= total:
        return max(counts, default=0)
    rest, left = total, len(counts)
    for count in sorted(counts):
        if count > rest // left:
            break
        rest, left = rest - count, left - 1
    return rest // left


def _rows(
    image: PageImage, most: int, colours: dict[str, int], texts: "_Texts", masks: "_Masks"
) -> Iterator[list[Any]]:
    """The boxes as ``page.js`` reads them; where there are too many, the last kinds are cut."""
    digits = 1 if max(image.width, image.height) < 1000 else 0
    boxes: Iterable[PageBox] = image.boxes
    if len(image.boxes) > most:
        boxes = sorted(boxes, key=lambda box: (box.kind, -(box.score or 0)))[:most]
    for box in boxes:
        name = shortened(box.class_name, LONGEST_NAME)
        yield [
            box.side,
            box.kind,
            colours.setdefault(name, len(colours)) if box.class_name else -1,
            *(round(float(edge), digits) for edge in box.box),
            None if box.score is None else round(box.score, 3),
            None if box.p_yes is None else round(box.p_yes, 3),
            int(box.exact),
            texts.index(box.asked),
            texts.index(box.answer),
            texts.index(box.reason),
            box.label_id,
            *((texts.index(box.mask_facts), masks.path(box.mask)) if box.mask else ()),
        ]


class _Masks:
    """Paths of masks, up to a number of bytes; a mask after that is not shown."""

    def __init__(self, most: int) -> None:
        self._left = most

    def path(self, mask: Mask) -> str:
        """The path, or an empty text where there is no room for it."""
        path = mask_path(mask) if self._left > 0 else ""
        self._left -= len(path)
        return path


class _Texts:
    """Each text once, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self.known = ["", "(left out: there is too much text for one page)"]
        self._index = {"": 0}
        self._left = most

    def index(self, text: str) -> int:
        """The place of ``text`` among those ``known``."""
        text = shortened(text, LONGEST_TEXT)
        if text not in self._index:
            size = len(text.encode("utf-8", "replace")) + 3
            if size > self._left:
                return 1
            self._left -= size
            self._index[text] = len(self.known)
            self.known.append(text)
        return self._index[text]
