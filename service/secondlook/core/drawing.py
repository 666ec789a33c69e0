"""One image that shows a run at a glance: a few labelled images side by side."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.core.files import replacing
from secondlook.core.types import Boxes, Pixels
from secondlook_client.results import Judgement, LabelResult, Outcome

ROW_HEIGHT = 480
ROWS = 2
FONT_SIZE = 16
TAG = 20
"""Height of a name, pixels."""
WIDTH = 1600
GAP = 8
GROUND = (17, 20, 23)
COLOURS = {
    Outcome.ACCEPT: (77, 184, 255),
    Outcome.UNSURE: (255, 225, 77),
    Outcome.REJECT: (255, 138, 60),
}
DASHES = {Outcome.ACCEPT: (0, 0), Outcome.UNSURE: (3, 5), Outcome.REJECT: (9, 6)}
"""Pixels drawn and left out (0: a whole line), the line styles of the gallery."""

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Load = Callable[[str], Pixels]
"""Gives the upright image of a name; may raise ``SecondlookError``."""


@dataclass(frozen=True)
class Shown:
    """One image of the gallery."""

    name: str
    result: LabelResult


def write(path: Path, images: Sequence[Shown], load: Load, most: int = ROWS) -> Path:
    """Draw ``images`` in at most ``most`` full rows to the PNG ``path``."""
    font = ImageFont.load_default(size=FONT_SIZE)
    rows = [[_drawn(load(s.name), s.result, font) for s in row] for row in _rows(images, most)]
    sheets = [_row(row) for row in rows]
    sheet = PILImage.new("RGB", (WIDTH, sum(r.height + GAP for r in sheets) + GAP), GROUND)
    top = GAP
    for drawn in sheets:
        sheet.paste(drawn, (GAP, top))
        top += drawn.height + GAP
    with replacing(path) as part:
        sheet.save(part, "PNG")
    return path


def _rows(images: Sequence[Shown], most: int) -> list[list[Shown]]:
    """As many images of one height in a row as fill the width; a short last row is left out."""
    rows: list[list[Shown]] = [[]]
    for shown in images:
        rows[-1].append(shown)
        if sum(_width(s.result) + GAP for s in rows[-1]) >= WIDTH * 0.9:
            rows.append([])
    return rows[:-1][:most] or rows[:1]


def _width(result: LabelResult) -> int:
    return round(result.width * ROW_HEIGHT / result.height)


def _row(images: list[PILImage.Image]) -> PILImage.Image:
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


def _drawn(pixels: Pixels, result: LabelResult, font: Font) -> PILImage.Image:
    factor = ROW_HEIGHT / result.height
    size = (_width(result), ROW_HEIGHT)
    image = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    marks = _marks(result.judgements, factor)
    for box, outcome, _ in marks:
        outline(canvas, box, COLOURS[outcome], DASHES[outcome])
    taken: list[Box] = []
    for box, outcome, name in reversed(marks):  # the small ones first: they have fewer places
        if place := free_place(box, canvas.textlength(name, font) + 8, size, taken):
            taken.append(place)
            canvas.rectangle(place, fill=COLOURS[outcome])
            canvas.text((place[0] + 4, place[1] + 1), name, fill=(0, 0, 0), font=font)
    return image


def _marks(judgements: Sequence[Judgement], factor: float) -> list[tuple[Box, Outcome, str]]:
    """(box in pixels of the sheet, outcome, words), the largest first."""
    of_box: dict[Box, list[Judgement]] = {}
    for judgement in judgements:
        of_box.setdefault(judgement.box, []).append(judgement)
    marks = []
    for (x1, y1, x2, y2), said in of_box.items():
        outcome = min((j.outcome for j in said), key=list(COLOURS).index)
        names = sorted((j.class_name for j in said if j.outcome is outcome), key=len)
        words = f"no {names[0]}" if outcome is Outcome.REJECT else names[-1]
        words += "?" if outcome is Outcome.UNSURE else ""
        marks.append(((x1 * factor, y1 * factor, x2 * factor, y2 * factor), outcome, words))
    return sorted(marks, key=lambda m: -(m[0][2] - m[0][0]) * (m[0][3] - m[0][1]))


def free_place(
    box: Box, width: float, size: tuple[float, float], taken: Sequence[Box]
) -> Box | None:
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


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def outline(
    canvas: ImageDraw.ImageDraw,
    box: Box,
    colour: tuple[int, int, int],
    dash: tuple[int, int] = (0, 0),
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


# The same frames under one another as several models see them, each with its milliseconds.

STRIP_WIDTH = 1600
TALLEST = 420
"""Height of a frame at most, pixels."""
BAR = 40
"""Height of a row's title, pixels."""
TITLE_SIZE = 20
INK = (233, 237, 241)
SOFT = (152, 163, 174)
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

Found = tuple[Boxes, Sequence[str]]
"""The boxes on one frame, (N, 4) pixel xyxy of the frame, and the class name of each."""


class Row(NamedTuple):
    """What one model says of the frames."""

    title: str
    found: Sequence[Found]
    """Of each frame."""
    milliseconds: Sequence[float] = ()
    """That each frame took; empty where nobody measured them."""


def strip(
    images: Sequence[Pixels], rows: Sequence[Row], width: int = STRIP_WIDTH
) -> PILImage.Image:
    """Draw ``rows`` under one another, each with all ``images`` side by side.

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
        _title(sheet, row, top)
        left = GAP
        for number, pixels in enumerate(images):
            frame = _frame(pixels, row, number, height, colours)
            sheet.paste(frame, (left, top + BAR))
            left += frame.width + GAP
    return sheet


def _check(images: Sequence[Pixels], rows: Sequence[Row]) -> None:
    if not images:
        raise ValueError("expected one image at least, got none")
    for row in rows:
        if len(row.found) != len(images) or len(row.milliseconds) not in (0, len(images)):
            raise ValueError(
                f"'{row.title}': expected boxes of {len(images)} images, got {len(row.found)} "
                f"(and {len(row.milliseconds)} times)"
            )


def _title(sheet: PILImage.Image, row: Row, top: int) -> None:
    """The row's title, and on the right how long an image takes."""
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TITLE_SIZE)
    at = top + BAR / 2
    canvas.text((GAP, at), row.title, fill=INK, font=font, anchor="lm")
    if row.milliseconds:
        said = f"{_milliseconds(statistics.median(row.milliseconds))} an image"
        canvas.text((sheet.width - GAP, at), said, fill=INK, font=font, anchor="rm")


def _frame(
    pixels: Pixels, row: Row, number: int, height: int, colours: dict[str, tuple[int, int, int]]
) -> PILImage.Image:
    factor = height / pixels.shape[0]
    size = (max(1, round(pixels.shape[1] * factor)), height)
    frame = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.LANCZOS)
    canvas, font = ImageDraw.Draw(frame), ImageFont.load_default(size=FONT_SIZE)
    marks = _strip_marks(*row.found[number], factor)
    for box, name in marks:
        outline(canvas, box, colours[name])
    taken: list[Box] = []
    if row.milliseconds:
        taken.append(_clock(canvas, _milliseconds(row.milliseconds[number]), size, font))
    for box, name in reversed(marks):  # the small ones first: they have fewer places
        if place := free_place(box, canvas.textlength(name, font) + 8, size, taken):
            taken.append(place)
            canvas.rectangle(place, fill=colours[name])
            canvas.text((place[0] + 4, place[1] + 1), name, fill=(0, 0, 0), font=font)
    return frame


def _strip_marks(boxes: Boxes, labels: Sequence[str], factor: float) -> list[tuple[Box, str]]:
    """(box in pixels of the strip, the most telling of its names), the largest first."""
    of_box: dict[Box, list[str]] = {}
    for row, name in zip(boxes.tolist(), labels, strict=True):
        x1, y1, x2, y2 = (float(side) * factor for side in row)
        of_box.setdefault((x1, y1, x2, y2), []).append(name)
    marks = [(box, max(names, key=len)) for box, names in of_box.items()]
    return sorted(marks, key=lambda m: -(m[0][2] - m[0][0]) * (m[0][3] - m[0][1]))


def _clock(canvas: ImageDraw.ImageDraw, words: str, size: tuple[int, int], font: Font) -> Box:
    """Write the time into the lower right corner; the place it takes."""
    left, top = size[0] - canvas.textlength(words, font) - 10, size[1] - TAG - 2
    place = (left, top, float(size[0]), float(size[1]))
    canvas.rectangle(place, fill=GROUND)
    canvas.text((left + 5, top + 2), words, fill=SOFT, font=font)
    return place


def _milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
