"""Sheets of images drawn with Pillow: a run at a glance, and several models on the same frames."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.core.boxes import Xyxy
from secondlook.core.files import replacing
from secondlook.core.types import Boxes, Pixels
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
OUTCOME_COLOURS = {
    Outcome.ACCEPT: (77, 184, 255),
    Outcome.UNSURE: (255, 225, 77),
    Outcome.REJECT: (255, 138, 60),
}
DASHES = {Outcome.ACCEPT: (0, 0), Outcome.UNSURE: (3, 5), Outcome.REJECT: (9, 6)}
"""Pixels drawn and left out (0: a whole line), the line styles of the gallery."""

TALLEST = 420
"""Height of a strip's frame at most, pixels."""
BAR, TITLE_SIZE = 40, 20
"""Height of the title of a strip's row, and of its letters, pixels."""
STRIP_COLOURS = (
    (77, 184, 255),
    (255, 138, 60),
    (255, 225, 77),
    (79, 209, 165),
    (240, 150, 205),
    (200, 200, 205),
    (150, 160, 255),
    (255, 120, 120),
    (170, 220, 60),
    (120, 235, 235),
    (215, 175, 120),
    (205, 130, 255),
)
"""Of the classes, in their order; they begin anew after the last. A name stands at most boxes, so
colour tells nothing alone."""

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Load = Callable[[str], Pixels]
"""Gives the upright image of a name; may raise ``SecondlookError``."""
FrameBoxes = tuple[Boxes, Sequence[str]]
"""The boxes on one frame, (N, 4) pixel xyxy of the frame, and the class name of each."""


@dataclass(frozen=True)
class GalleryImage:
    """One labelled image to be shown."""

    name: str
    result: LabelResult


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


def write_overview(
    path: Path, images: Sequence[GalleryImage], load: Load, most: int = ROWS
) -> Path:
    """Draw labelled images side by side, in at most ``most`` full rows, to the PNG ``path``."""
    rows = [
        [_labelled(load(image.name), image.result) for image in row] for row in _rows(images, most)
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


def comparison_strip(
    images: Sequence[Pixels], rows: Sequence[StripRow], width: int = STRIP_WIDTH
) -> PILImage.Image:
    """Draw what several models see: ``rows`` under one another, each with all ``images``.

    A class has one colour in all rows. ``width`` is in pixels; the height follows. Raises
    ``ValueError`` without an image, or for a row that is not about all of them.
    """
    _check(images, rows)
    names = sorted({name for row in rows for _, labels in row.found for name in labels})
    colours = {name: STRIP_COLOURS[place % len(STRIP_COLOURS)] for place, name in enumerate(names)}
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


def _rows(images: Sequence[GalleryImage], most: int) -> list[list[GalleryImage]]:
    """As many images of one height in a row as fill the width; a short last row is left out."""
    rows: list[list[GalleryImage]] = [[]]
    for image in images:
        rows[-1].append(image)
        if sum(_width(one.result) + GAP for one in rows[-1]) >= WIDTH * 0.9:
            rows.append([])
    return rows[:-1][:most] or rows[:1]


def _width(result: LabelResult) -> int:
    return round(result.width * ROW_HEIGHT / result.height)


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


def _labelled(pixels: Pixels, result: LabelResult) -> PILImage.Image:
    """An image of an overview."""
    factor = ROW_HEIGHT / result.height
    image = PILImage.fromarray(pixels).resize(
        (_width(result), ROW_HEIGHT), PILImage.Resampling.BICUBIC
    )
    of_box: dict[Xyxy, list[Judgement]] = {}
    for judgement in result.judgements:
        of_box.setdefault(_scaled(judgement.box, factor), []).append(judgement)
    marks = []
    for box, judgements in of_box.items():
        outcome = min((j.outcome for j in judgements), key=list(OUTCOME_COLOURS).index)
        names = sorted((j.class_name for j in judgements if j.outcome is outcome), key=len)
        name = f"no {names[0]}" if outcome is Outcome.REJECT else names[-1]
        name += "?" if outcome is Outcome.UNSURE else ""
        marks.append(_SheetMark(box, name, OUTCOME_COLOURS[outcome], DASHES[outcome]))
    _draw_marks(image, marks)
    return image


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
