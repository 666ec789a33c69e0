"""One HTML file that shows what was labelled and why; it needs no network and no other file."""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secondlook.core.boxes import Xyxy
from secondlook.core.drawing import GalleryImage, Load
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports.page import data_uri, rect, write_page
from secondlook_client.errors import SecondlookError
from secondlook_client.values import Judgement, LabelPath, LabelResult, Outcome

SIDE, QUALITY = 640, 82
"""Of an image in the page: its longest side in pixels, and of the JPEG."""
CHARACTER = 0.022
"""Width of a tag's character as a share of an image in the grid."""
Words = Mapping[Outcome, str]
"""What each outcome is called; an outcome without a word is not shown."""
WORDS: Words = {
    Outcome.ACCEPT: "accepted",
    Outcome.REJECT: "rejected",
    Outcome.UNSURE: "unsure",
}


def pick(
    results: Iterable[tuple[str, LabelResult]],
    limit: int,
    key: Callable[[LabelResult], int] | None = None,
) -> list[GalleryImage]:
    """At most ``limit`` images, those with the smallest ``key`` first.

    Without a key: images with unsure boxes first, then those with boxes, then the empty ones.
    Holds no more than ``limit`` results at a time, however many there are.
    """
    rank = key or _rank
    ranked = ((rank(result), place, name, result) for place, (name, result) in enumerate(results))
    best = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    return [GalleryImage(name, result) for _, _, name, result in best]


def write(
    path: Path,
    title: str,
    stats: RunStats,
    images: Sequence[GalleryImage],
    load: Load,
    words: Words = WORDS,
) -> Path:
    """Write the page to ``path``, one image in memory at a time.

    ``stats`` are those of the whole run, of which ``images`` may be a part. An image that
    cannot be loaded any more is shown as an empty frame with the reason. ``words`` say what the
    outcomes are called, where they stand for something else.
    """
    shown = f"{len(images):,} of {stats.images:,} images are shown, those with unsure boxes first"
    if len(images) >= stats.images:
        shown = f"All {stats.images:,} images are shown, those with unsure boxes first."
    else:
        shown += " (--gallery N)."
    amounts = {
        Outcome.ACCEPT: stats.accepted,
        Outcome.REJECT: stats.rejected,
        Outcome.UNSURE: stats.unsure,
    }
    total = sum(amounts.values()) or 1
    return write_page(
        path,
        "gallery.html",
        title=title,
        words=json.dumps({outcome.value: word for outcome, word in words.items()}),
        models=" → ".join(model for model in (stats.proposer, stats.verifier) if model),
        figures=[(word, f"{n:,}") for word, n in _figures(stats)],
        meter=[(o.value, f"{100 * n / total:.2f}") for o, n in amounts.items()],
        outcomes=[(o.value, words[o], f"{n:,}") for o, n in amounts.items() if o in words],
        classes=[(name, f"{n[Outcome.ACCEPT]:,}") for name, n in stats.by_class.items()],
        cards=(_card(image, load, words) for image in images),
        shown=shown,
    )


def _rank(result: LabelResult) -> int:
    if result.of(Outcome.UNSURE):
        return 0
    return 1 if result.judgements else 2


def _figures(stats: RunStats) -> Iterator[tuple[str, int]]:
    yield "images", stats.images
    yield "boxes proposed", stats.proposals
    if by_student := stats.by_path[LabelPath.STUDENT]:
        yield "images by the student alone", by_student


def _card(image: GalleryImage, load: Load, words: Words) -> dict[str, Any]:
    """One image with its boxes, as the template takes it."""
    source = problem = ""
    try:
        source = data_uri(load(image.name), SIDE, QUALITY)
    except SecondlookError as failure:
        problem = str(failure)
    result = image.result
    counts = [(outcome, len(result.of(outcome))) for outcome in Outcome if outcome in words]
    return {
        "name": image.name.encode("utf-8", "replace").decode(),
        "spoken": ", ".join(f"{n} {words[outcome]}" for outcome, n in counts),
        "width": result.width,
        "height": result.height,
        "path": result.path.value,
        "source": source,
        "problem": problem,
        "marks": list(_marks(result, words)),
        "counts": [(outcome.value, n) for outcome, n in counts],
    }


def _marks(result: LabelResult, words: Words) -> Iterator[dict[str, Any]]:
    """One mark a box and outcome, with every judgement of that box; accepted drawn last."""
    of_box: dict[Xyxy, list[Judgement]] = {}
    for judgement in result.judgements:
        of_box.setdefault(judgement.box, []).append(judgement)
    largest_first = sorted(of_box.items(), key=lambda entry: -_area(entry[0]))
    place = 0
    for outcome in (Outcome.REJECT, Outcome.UNSURE, Outcome.ACCEPT):
        for box, judgements in largest_first:
            if own := [j for j in judgements if j.outcome is outcome]:
                mark = _mark(result, box, outcome, own, judgements, words[outcome])
                yield {"place": place, **mark}
                place += 1


def _mark(
    result: LabelResult,
    box: Xyxy,
    outcome: Outcome,
    own: Sequence[Judgement],
    judgements: Sequence[Judgement],
    word: str,
) -> dict[str, Any]:
    """``own`` are the judgements with this ``outcome`` among those of the ``box``."""
    inset = _inset(box, outcome, judgements, max(result.width, result.height) / 100)
    p_yes = "no verdict" if own[0].p_yes is None else f"P(yes) {own[0].p_yes:.2f}"
    # The most telling class (the longest name), and how many more.
    names = sorted((j.class_name for j in own), key=len, reverse=True)
    name = names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")
    left, top = 100 * box[0] / result.width, 100 * box[1] / result.height
    width = (box[2] - box[0]) / result.width
    # The name stands at an accepted or unsure box where it fits; the panel has it in any case.
    tagged = outcome is not Outcome.REJECT and width >= min(0.2, CHARACTER * len(name))
    return {
        "kind": outcome.value,
        "classes": json.dumps([j.class_name for j in own]),
        "judgements": json.dumps([_plain(j) for j in judgements]),
        "title": f"{own[0].class_name}: {word}, proposer {own[0].score:.2f}, {p_yes}",
        "rect": rect(inset),
        "name": name,
        "inside": top < 6,
        "tag_style": f"left:{left:.2f}%;top:{top:.2f}%;max-width:{100 * width:.2f}%" * tagged,
    }


def _inset(box: Xyxy, outcome: Outcome, judgements: Sequence[Judgement], step: float) -> Xyxy:
    """Drawn inside the box's other outcomes, so that one line never hides another."""
    order = (Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT)
    outer = {j.outcome for j in judgements} & set(order[: order.index(outcome)])
    x1, y1, x2, y2 = box
    by = min(step * len(outer), (x2 - x1) / 4, (y2 - y1) / 4)
    return x1 + by, y1 + by, x2 - by, y2 - by


def _plain(judgement: Judgement) -> dict[str, object]:
    """What the panel shows, as the script reads it."""
    return {
        "class": judgement.class_name,
        "outcome": judgement.outcome.value,
        "score": round(judgement.score, 3),
        "p": None if judgement.p_yes is None else round(judgement.p_yes, 3),
        "exact": judgement.exact,
        "question": judgement.question,
        "view": judgement.view,
        "raw": judgement.raw_answer,
        "reason": judgement.reason,
    }


def _area(box: Xyxy) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
