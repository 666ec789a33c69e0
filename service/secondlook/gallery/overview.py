"""One picture that shows a run at a glance: a few labelled pictures side by side."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from secondlook.atomic import replacing
from secondlook.gallery import Load, Shown
from secondlook.labels import Pixels
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


def write(path: Path, pictures: Sequence[Shown], load: Load, most: int = ROWS) -> Path:
    """Draw ``pictures`` in at most ``most`` full rows to the PNG ``path``."""
    font = ImageFont.load_default(size=FONT_SIZE)
    rows = [[_drawn(load(s.name), s.result, font) for s in row] for row in _rows(pictures, most)]
    sheets = [_row(row) for row in rows]
    sheet = PILImage.new("RGB", (WIDTH, sum(r.height + GAP for r in sheets) + GAP), GROUND)
    top = GAP
    for drawn in sheets:
        sheet.paste(drawn, (GAP, top))
        top += drawn.height + GAP
    with replacing(path) as part:
        sheet.save(part, "PNG")
    return path


def _rows(pictures: Sequence[Shown], most: int) -> list[list[Shown]]:
    """As many pictures of one height in a row as fill the width; a short last row is left out."""
    rows: list[list[Shown]] = [[]]
    for shown in pictures:
        rows[-1].append(shown)
        if sum(_width(s.result) + GAP for s in rows[-1]) >= WIDTH * 0.9:
            rows.append([])
    return rows[:-1][:most] or rows[:1]


def _width(result: LabelResult) -> int:
    return round(result.width * ROW_HEIGHT / result.height)


def _row(pictures: list[PILImage.Image]) -> PILImage.Image:
    """Side by side, scaled so that the row is exactly as wide as the sheet."""
    room = WIDTH - GAP * (len(pictures) + 1)
    factor = min(room / max(sum(p.width for p in pictures), 1), 1.2)
    height = round(ROW_HEIGHT * factor)
    row = PILImage.new("RGB", (WIDTH - 2 * GAP, height), GROUND)
    left = 0
    for picture in pictures:
        size = (round(picture.width * factor), height)
        row.paste(picture.resize(size, PILImage.Resampling.LANCZOS), (left, 0))
        left += size[0] + GAP
    return row


def _drawn(pixels: Pixels, result: LabelResult, font: Font) -> PILImage.Image:
    factor = ROW_HEIGHT / result.height
    size = (_width(result), ROW_HEIGHT)
    picture = PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    marks = _marks(result.judgements, factor)
    for box, outcome, _ in marks:
        outline(canvas, box, COLOURS[outcome], DASHES[outcome])
    taken: list[Box] = []
    for box, outcome, name in reversed(marks):  # the small ones first: they have fewer places
        if place := free_place(box, canvas.textlength(name, font) + 8, size, taken):
            taken.append(place)
            canvas.rectangle(place, fill=COLOURS[outcome])
            canvas.text((place[0] + 4, place[1] + 1), name, fill=(0, 0, 0), font=font)
    return picture


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

    It is ``TAG`` high and inside of a picture of ``size`` (width, height); all in pixels. None
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
