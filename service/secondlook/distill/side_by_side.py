"""The same frames under one another as several models see them, each with its milliseconds."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.gallery.overview import (
    FONT_SIZE,
    GAP,
    GROUND,
    TAG,
    Box,
    Font,
    free_place,
    outline,
)
from secondlook.labels import Boxes, Pixels

WIDTH = 1600
TALLEST = 420
"""Height of a frame at most, pixels."""
BAR = 40
"""Height of a row's title, pixels."""
TITLE_SIZE = 20
INK = (233, 237, 241)
SOFT = (152, 163, 174)
COLOURS = (
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


def strip(pictures: Sequence[Pixels], rows: Sequence[Row], width: int = WIDTH) -> PILImage.Image:
    """Draw ``rows`` under one another, each with all ``pictures`` side by side.

    A class has one colour in all rows. ``width`` is in pixels; the height follows. Raises
    ``ValueError`` without a picture, or for a row that is not about all of them.
    """
    _check(pictures, rows)
    names = sorted({name for row in rows for _, labels in row.found for name in labels})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    room = width - GAP * (len(pictures) + 1)
    ratios = [pixels.shape[1] / pixels.shape[0] for pixels in pictures]
    height = max(1, min(TALLEST, int(room / sum(ratios))))
    sheet = PILImage.new("RGB", (width, len(rows) * (BAR + height + GAP) + GAP), GROUND)
    for place, row in enumerate(rows):
        top = place * (BAR + height + GAP) + GAP
        _title(sheet, row, top)
        left = GAP
        for number, pixels in enumerate(pictures):
            frame = _frame(pixels, row, number, height, colours)
            sheet.paste(frame, (left, top + BAR))
            left += frame.width + GAP
    return sheet


def _check(pictures: Sequence[Pixels], rows: Sequence[Row]) -> None:
    if not pictures:
        raise ValueError("expected one picture at least, got none")
    for row in rows:
        if len(row.found) != len(pictures) or len(row.milliseconds) not in (0, len(pictures)):
            raise ValueError(
                f"'{row.title}': expected boxes of {len(pictures)} pictures, got {len(row.found)} "
                f"(and {len(row.milliseconds)} times)"
            )


def _title(sheet: PILImage.Image, row: Row, top: int) -> None:
    """The row's title, and on the right how long a picture takes."""
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TITLE_SIZE)
    at = top + BAR / 2
    canvas.text((GAP, at), row.title, fill=INK, font=font, anchor="lm")
    if row.milliseconds:
        said = f"{_milliseconds(statistics.median(row.milliseconds))} a picture"
        canvas.text((sheet.width - GAP, at), said, fill=INK, font=font, anchor="rm")


def _frame(
    pixels: Pixels, row: Row, number: int, height: int, colours: dict[str, tuple[int, int, int]]
) -> PILImage.Image:
    factor = height / pixels.shape[0]
    size = (max(1, round(pixels.shape[1] * factor)), height)
    frame = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.LANCZOS)
    canvas, font = ImageDraw.Draw(frame), ImageFont.load_default(size=FONT_SIZE)
    marks = _marks(*row.found[number], factor)
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


def _marks(boxes: Boxes, labels: Sequence[str], factor: float) -> list[tuple[Box, str]]:
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
