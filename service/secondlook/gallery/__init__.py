"""One HTML file that shows what was labelled and why; it needs no network and no other file.

Everything that came from a user or a model is escaped, and a content security policy forbids the
page to run or load anything but its own script and embedded pictures.
"""

import base64
import hashlib
import heapq
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from secondlook.atomic import replacing
from secondlook.errors import SecondlookError
from secondlook.gallery import page
from secondlook.labels import Pixels
from secondlook.totals import Totals
from secondlook_client.results import LabelResult, Outcome

THUMBNAIL_SIDE = 640
QUALITY = 82

Load = Callable[[str], Pixels]
"""Gives the upright picture of a name; may raise ``SecondlookError``."""


@dataclass(frozen=True)
class Shown:
    """One picture of the gallery."""

    name: str
    result: LabelResult


def pick(
    results: Iterable[tuple[str, LabelResult]],
    limit: int,
    key: Callable[[LabelResult], int] | None = None,
) -> list[Shown]:
    """At most ``limit`` pictures, those with the smallest ``key`` first.

    Without a key: the doubtful first, then those with boxes, then the empty ones. Holds no more
    than ``limit`` results at a time, however many there are.
    """
    rank = key or _rank
    ranked = ((rank(result), place, name, result) for place, (name, result) in enumerate(results))
    best = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    return [Shown(name, result) for _, _, name, result in best]


def write(
    path: Path,
    title: str,
    totals: Totals,
    pictures: Iterable[Shown],
    load: Load,
    words: page.Words = page.WORDS,
) -> Path:
    """Write the page to ``path``, one picture in memory at a time.

    ``totals`` are those of the whole run, of which ``pictures`` may be a part. A picture that
    cannot be loaded any more is shown as an empty frame with the reason. ``words`` say what the
    outcomes are called, where they stand for something else.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="replace") as file:
        for piece in _pieces(title, totals, pictures, load, words):
            file.write(piece)
    return path


def _pieces(
    title: str, totals: Totals, pictures: Iterable[Shown], load: Load, words: page.Words
) -> Iterator[str]:
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    yield page.head(title, style, f"sha256-{digest}", words)
    yield page.summary(title, totals, words)
    shown = 0
    for picture in pictures:
        yield page.card(picture.name, picture.result, *_embedded(picture.name, load), words)
        shown += 1
    yield page.foot(shown, totals.pictures, script)


def _embedded(name: str, load: Load) -> tuple[str, str]:
    """(data URI of the thumbnail, "") or ("", why there is none)."""
    try:
        pixels = load(name)
    except SecondlookError as failure:
        return "", str(failure)
    return "data:image/jpeg;base64," + base64.b64encode(_thumbnail(pixels)).decode(), ""


def _thumbnail(pixels: Pixels) -> bytes:
    small = PILImage.fromarray(np.ascontiguousarray(pixels))
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), PILImage.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _rank(result: LabelResult) -> int:
    if result.of(Outcome.UNSURE):
        return 0
    return 1 if result.judgements else 2
