"""Labelled images drawn with Pillow: one, a run at a glance, and several models on the same frames.

A class has one colour in all drawings and pages, ``class_colours``; the outcome of a box is told by
the style of its line.
"""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.core.boxes import Xyxy
from secondlook.core.files import replacing
from secondlook.core.masks import cropped
from secondlook.core.types import Boxes, LabelledImage, Pixels
from secondlook_client.masks import Mask
from secondlook_client.values import Judgement, LabelResult, Outcome

WIDTH = STRIP_WIDTH = 1600
GAP = 8
GROUND = (17, 20, 23)
INK = (233, 237, 241)
SOFT = (152, 163, 174)
FONT_SIZE = 16
TAG = 20
"""Height of a name, pixels."""

ROW_HEIGHT, ROWS = 480, 2
"""Of an overview: height of a row in pixels, and rows at most."""
DASHES = {Outcome.ACCEPT: (0, 0), Outcome.UNSURE: (9, 6), Outcome.REJECT: (3, 5)}
"""Pixels drawn and left out (0: a whole line), the line styles of the pages; the first outcome
is the one that a box with several is drawn by."""

FILL, EDGE = 80, 220
"""Of a mask, out of 255: how much of its colour covers the pixels inside and at its edge."""
TALLEST = 420
"""Height of a strip's frame at most, pixels."""
BAR, TITLE_SIZE = 40, 20
"""Height of the title of a strip's row, and of its letters, pixels."""
CLASS_COLOURS = (
    (77, 184, 255),
    (255, 138, 60),
    (79, 209, 165),
    (240, 130, 205),
    (255, 225, 77),
    (136, 124, 255),
    (160, 148, 88),
    (255, 64, 112),
    (112, 184, 40),
    (244, 40, 255),
    (40, 232, 255),
    (255, 172, 160),
    (40, 255, 40),
    (220, 196, 255),
    (40, 255, 148),
    (208, 244, 160),
    (255, 40, 184),
    (184, 255, 40),
    (255, 76, 52),
    (220, 100, 232),
)
"""Of the classes, in their order; they begin anew after the last. Each is light enough for black
letters, and no two are nearer than 29 in CIE Lab."""

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Load = Callable[[str], Pixels]
"""Gives the upright image of a name; may raise ``SecondlookError``."""
FrameBoxes = tuple[Boxes, Sequence[str]]
"""The boxes on one frame, (N, 4) pixel xyxy of the frame, and the class name of each."""


@dataclass(frozen=True)
class StripRow:
    """What one model says of the frames."""

    title: str
    found: Sequence[FrameBoxes]
    """Of each frame."""
    milliseconds: Sequence[float] = ()
    """That each frame took; empty where nobody measured them."""


class _SheetMark(NamedTuple):
    """A box to be drawn, in pixels of the sheet."""

    box: Xyxy
    name: str
    colour: Colour
    dash: tuple[int, int] = (0, 0)


def class_colours(classes: Iterable[str]) -> dict[str, Colour]:
    """The colour of each class, by its place in the ontology."""
    names = dict.fromkeys(classes)
    return dict(zip(names, itertools.cycle(CLASS_COLOURS), strict=False))


def write_overview(
    path: Path,
    images: Sequence[LabelledImage],
    load: Load,
    classes: Sequence[str],
    most: int = ROWS,
) -> Path:
    """Draw labelled images side by side, in at most ``most`` full rows, to the PNG ``path``.

    ``classes`` are all of the ontology, in order.
    """
    colours = class_colours(classes)
    rows = [
        [draw_result(load(image.name), image.result, colours, height=ROW_HEIGHT) for image in row]
        for row in _rows(images, most)
    ]
    drawn = [_justified(row) for row in rows]
    sheet = PILImage.new("RGB", (WIDTH, sum(row.height + GAP for row in drawn) + GAP), GROUND)
    top = GAP
    for row in drawn:
        sheet.paste(row, (GAP, top))
        top += row.height + GAP
    with replacing(path) as part:
        sheet.save(part, "PNG")
    return path


def draw_result(
    pixels: Pixels,
    result: LabelResult,
    colours: Mapping[str, Colour],
    *,
    height: int,
    scores: bool = False,
) -> PILImage.Image:
    """An image with its boxes and masks, ``height`` pixels high.

    ``scores`` writes the proposer's score and P(yes) beside each name.
    """
    factor = height / result.height
    size = (_width(result, height), height)
    image = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC)
    of_box: dict[Xyxy, list[Judgement]] = {}
    for judgement in result.judgements:
        if judgement.mask and judgement.outcome is not Outcome.REJECT:
            tint(image, judgement.mask, colours[judgement.class_name])
    for judgement in result.judgements:
        of_box.setdefault(_scaled(judgement.box, factor), []).append(judgement)
    _draw_marks(image, [_mark(box, of, colours, scores) for box, of in of_box.items()])
    return image


def score_text(judgement: Judgement) -> str:
    """The scores of both stages, ``0.62 / 0.97``; the proposer's alone where nobody was asked."""
    if judgement.verdict is None:
        return f"{judgement.score:.2f}"
    p_yes = "?" if judgement.p_yes is None else f"{judgement.p_yes:.2f}"
    return f"{judgement.score:.2f} / {'' if judgement.exact else '~'}{p_yes}"


def comparison_strip(
    images: Sequence[Pixels],
    rows: Sequence[StripRow],
    classes: Sequence[str] = (),
    width: int = STRIP_WIDTH,
) -> PILImage.Image:
    """Draw what several models see: ``rows`` under one another, each with all ``images``.

    A class has one colour in all rows, by its place in ``classes``; others follow by name.
    ``width`` is in pixels; the height follows. Raises ``ValueError`` without an image, or for a row
    that is not about all of them.
    """
    _check(images, rows)
    names = sorted({name for row in rows for _, labels in row.found for name in labels})
    colours = class_colours([*classes, *names])
    room = width - GAP * (len(images) + 1)
    ratios = [pixels.shape[1] / pixels.shape[0] for pixels in images]
    height = max(1, min(TALLEST, int(room / sum(ratios))))
    sheet = PILImage.new("RGB", (width, len(rows) * (BAR + height + GAP) + GAP), GROUND)
    for place, row in enumerate(rows):
        top = place * (BAR + height + GAP) + GAP
        _draw_title(sheet, row, top)
        left = GAP
        for number, pixels in enumerate(images):
            frame = _frame(pixels, row, number, height, colours)
            sheet.paste(frame, (left, top + BAR))
            left += frame.width + GAP
    return sheet


def free_label_place(
    box: Xyxy, width: float, size: tuple[float, float], taken: Sequence[Xyxy]
) -> Xyxy | None:
    """A place for words of that ``width`` at the box that covers none of ``taken``.

    It is ``TAG`` high and inside of an image of ``size`` (width, height); all in pixels. None
    when there is none.
    """
    x1, y1, x2, y2 = box
    for left in (x1 - 1, x2 - width + 1):
        for top in (y1 - TAG, y1 + 2, y2 - TAG - 2, y2):
            place = (left, top, left + width, top + TAG)
            inside = left >= 0 and top >= 0 and place[2] <= size[0] and place[3] <= size[1]
            if inside and not any(_overlap(place, other) for other in taken):
                return place
    return None


def tint(
    image: PILImage.Image,
    mask: Mask,
    colour: Colour,
    window: tuple[int, int, int, int] | None = None,
) -> None:
    """Lay ``colour`` over the pixels of a mask, thinly inside and strongly at its edge.

    ``image`` shows ``window`` (pixels of the mask's image: left, top, right, lower; None: all of
    it) at any scale.
    """
    left, top, right, lower = window or (0, 0, mask.width, mask.height)
    found, x, y = cropped(mask)
    whole = np.zeros((lower - top, right - left), np.uint8)
    x1, y1 = max(x, left), max(y, top)
    x2, y2 = min(x + found.shape[1], right), min(y + found.shape[0], lower)
    if x2 <= x1 or y2 <= y1:
        return
    whole[y1 - top : y2 - top, x1 - left : x2 - left] = found[y1 - y : y2 - y, x1 - x : x2 - x]
    shown = PILImage.fromarray(whole * 255).resize(image.size, PILImage.Resampling.BILINEAR)
    inside = np.asarray(shown) > 127
    padded = np.pad(inside, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    strength = np.where(inside & ~inner, EDGE, np.where(inside, FILL, 0)).astype(np.uint8)
    image.paste(colour, (0, 0), PILImage.fromarray(strength))


def outline(
    canvas: ImageDraw.ImageDraw, box: Xyxy, colour: Colour, dash: tuple[int, int] = (0, 0)
) -> None:
    """Draw a box; ``dash`` is pixels drawn and left out, (0, 0) a whole line."""
    x1, y1, x2, y2 = box
    drawn, left_out = dash
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        length = max(abs(bx - ax), abs(by - ay), 1.0)
        step = drawn + left_out or length
        for start in np.arange(0, length, step):
            a, b = start / length, min((start + (drawn or length)) / length, 1)
            piece = (ax + (bx - ax) * a, ay + (by - ay) * a, ax + (bx - ax) * b, ay + (by - ay) * b)
            canvas.line(piece, fill=colour, width=3)


def _rows(images: Sequence[LabelledImage], most: int) -> list[list[LabelledImage]]:
    """As many images of one height in a row as fill the width; a short last row is left out."""
    rows: list[list[LabelledImage]] = [[]]
    for image in images:
        rows[-1].append(image)
        if sum(_width(one.result, ROW_HEIGHT) + GAP for one in rows[-1]) >= WIDTH * 0.9:
            rows.append([])
    return rows[:-1][:most] or rows[:1]


def _width(result: LabelResult, height: int) -> int:
    return max(1, round(result.width * height / result.height))


def _justified(images: list[PILImage.Image]) -> PILImage.Image:
    """Side by side, scaled so that the row is exactly as wide as the sheet."""
    room = WIDTH - GAP * (len(images) + 1)
    factor = min(room / max(sum(p.width for p in images), 1), 1.2)
    height = round(ROW_HEIGHT * factor)
    row = PILImage.new("RGB", (WIDTH - 2 * GAP, height), GROUND)
    left = 0
    for image in images:
        size = (round(image.width * factor), height)
        row.paste(image.resize(size, PILImage.Resampling.LANCZOS), (left, 0))
        left += size[0] + GAP
    return row


def _mark(
    box: Xyxy, judgements: Sequence[Judgement], colours: Mapping[str, Colour], scores: bool
) -> _SheetMark:
    """One box, by its best outcome and the class that tells most: the longest name."""
    outcome = min((j.outcome for j in judgements), key=list(DASHES).index)
    own = sorted((j for j in judgements if j.outcome is outcome), key=lambda j: len(j.class_name))
    shown = own[0] if outcome is Outcome.REJECT else own[-1]
    name = f"no {shown.class_name}" if outcome is Outcome.REJECT else shown.class_name
    name += "?" if outcome is Outcome.UNSURE else ""
    name += f" {score_text(shown)}" if scores else ""
    return _SheetMark(box, name, colours[shown.class_name], DASHES[outcome])


def _frame(
    pixels: Pixels, row: StripRow, number: int, height: int, colours: Mapping[str, Colour]
) -> PILImage.Image:
    """Frame ``number`` of a strip."""
    factor = height / pixels.shape[0]
    size = (max(1, round(pixels.shape[1] * factor)), height)
    frame = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.LANCZOS)
    boxes, labels = row.found[number]
    of_box: dict[Xyxy, list[str]] = {}
    for box, name in zip(boxes.tolist(), labels, strict=True):
        of_box.setdefault(_scaled(box, factor), []).append(name)
    most_telling = ((box, max(names, key=len)) for box, names in of_box.items())
    marks = [_SheetMark(box, name, colours[name]) for box, name in most_telling]
    clock = _milliseconds(row.milliseconds[number]) if row.milliseconds else ""
    _draw_marks(frame, marks, clock)
    return frame


def _draw_marks(image: PILImage.Image, marks: Sequence[_SheetMark], clock: str = "") -> None:
    """The boxes, the largest first, and their names where there is room; a time in the corner."""
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=FONT_SIZE)
    ordered = sorted(marks, key=lambda m: -(m.box[2] - m.box[0]) * (m.box[3] - m.box[1]))
    taken: list[Xyxy] = []
    for mark in ordered:
        outline(canvas, mark.box, mark.colour, mark.dash)
    if clock:
        taken.append(_draw_clock(canvas, clock, image.size, font))
    for mark in reversed(ordered):  # the small ones first: they have fewer places
        width = canvas.textlength(mark.name, font) + 8
        if place := free_label_place(mark.box, width, image.size, taken):
            taken.append(place)
            canvas.rectangle(place, fill=mark.colour)
            canvas.text((place[0] + 4, place[1] + 1), mark.name, fill=(0, 0, 0), font=font)


def _draw_clock(canvas: ImageDraw.ImageDraw, words: str, size: tuple[int, int], font: Font) -> Xyxy:
    """Write the time into the lower right corner; the place it takes."""
    left, top = size[0] - canvas.textlength(words, font) - 10, size[1] - TAG - 2
    place = (left, top, float(size[0]), float(size[1]))
    canvas.rectangle(place, fill=GROUND)
    canvas.text((left + 5, top + 2), words, fill=SOFT, font=font)
    return place


def _draw_title(sheet: PILImage.Image, row: StripRow, top: int) -> None:
    """The row's title, and on the right how long an image takes."""
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TITLE_SIZE)
    at = top + BAR / 2
    canvas.text((GAP, at), row.title, fill=INK, font=font, anchor="lm")
    if row.milliseconds:
        median = f"{_milliseconds(statistics.median(row.milliseconds))} an image"
        canvas.text((sheet.width - GAP, at), median, fill=INK, font=font, anchor="rm")


def _check(images: Sequence[Pixels], rows: Sequence[StripRow]) -> None:
    if not images:
        raise ValueError("expected one image at least, got none")
    for row in rows:
        if len(row.found) != len(images) or len(row.milliseconds) not in (0, len(images)):
            raise ValueError(
                f"'{row.title}': expected boxes of {len(images)} images, got {len(row.found)} "
                f"(and {len(row.milliseconds)} times)"
            )


def _scaled(box: Sequence[float], factor: float) -> Xyxy:
    x1, y1, x2, y2 = (float(side) * factor for side in box)
    return x1, y1, x2, y2


def _overlap(a: Xyxy, b: Xyxy) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
