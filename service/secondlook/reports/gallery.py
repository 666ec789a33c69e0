"""One HTML file that shows what was labelled and why; it needs no network and no other file."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from secondlook.core.drawing import Load
from secondlook.core.types import LabelledImage
from secondlook.evaluation.run_stats import OUTCOME_WORDS, RunStats
from secondlook.reports.page import write_page
from secondlook.reports.viewer import (
    DASHED,
    DOTTED,
    SOLID,
    PageBox,
    PageImage,
    PageKind,
    PageView,
    viewer_values,
)
from secondlook_client.errors import InvalidInput
from secondlook_client.masks import Segmentation
from secondlook_client.values import EmptyReason, Judgement, LabelPath, LabelResult, Outcome

OUTCOMES = tuple(OUTCOME_WORDS)
KINDS = (
    PageKind(OUTCOME_WORDS[Outcome.ACCEPT], "", SOLID),
    PageKind(OUTCOME_WORDS[Outcome.UNSURE], "?", DASHED),
    PageKind(OUTCOME_WORDS[Outcome.REJECT], "✕", DOTTED, shown=False),
)
"""One for each of ``OUTCOMES``."""
EMPTY = {
    EmptyReason.NOTHING_PROPOSED: "nothing proposed",
    EmptyReason.ALL_REJECTED: "all rejected",
    EmptyReason.VERIFIED_EMPTY: "verified empty",
}
EMPTY_NOTES = {
    EmptyReason.NOTHING_PROPOSED: "No box was proposed, so the verifier was not asked.",
    EmptyReason.ALL_REJECTED: "Boxes were proposed, and each of them was rejected.",
    EmptyReason.VERIFIED_EMPTY: "The verifier was asked about each class, and every answer was no.",
}
PATHS = {LabelPath.STUDENT: "by the student", LabelPath.AUDIT: "audited"}


def pick(
    images: Iterable[LabelledImage],
    limit: int,
    key: Callable[[LabelResult], tuple[float, ...]] | None = None,
) -> list[LabelledImage]:
    """At most ``limit`` images, those with the smallest ``key`` first.

    Without a key: the most unsure ones first, then those with boxes, then the empty ones. Holds no
    more than ``limit`` results at a time, however many there are.
    """
    rank = key or _most_unsure
    ranked = ((rank(image.result), place, image) for place, image in enumerate(images))
    best = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    return [image for _, _, image in best]


def write(
    path: Path,
    title: str,
    stats: RunStats,
    images: Sequence[LabelledImage],
    load: Load,
    *,
    order: str = "most unsure",
    classes: Sequence[str] = (),
    failed: int = 0,
    scores: bool = False,
    originals: Sequence[str] = (),
    kinds: Sequence[PageKind] = KINDS,
) -> Path:
    """Write the page to ``path``, one image in memory at a time; ``order`` is what they come in.

    ``stats`` are those of the whole run, of which ``images`` may be a part, and ``failed`` is the
    number of images without a result. ``classes`` are those of the ontology, in order. An image
    that cannot be loaded any more is shown as an empty frame with the reason. ``scores`` writes
    both scores on the boxes. ``originals`` are folders beside the page with images by their
    names, which the large view shows where it finds them. ``kinds``: one for each of ``OUTCOMES``.
    """
    known = [*classes, *stats.by_class]
    view = PageView(kinds, known, (order, "lowest probability"), scores=scores, originals=originals)
    shown = [_page_image(place, image) for place, image in enumerate(images)]
    values = viewer_values(shown, lambda place: load(images[place].name), view)
    return write_page(
        path,
        "gallery.html",
        title=title,
        about=" → ".join(model for model in (stats.proposer, stats.verifier) if model),
        figures=list(_figures(stats, failed)),
        classes=[
            (name, place, [f"{stats.count(outcome, [name]):,}" for outcome in OUTCOMES])
            for name, place in values["colours"].items()
        ],
        notices=list(_notices(stats, failed)),
        shown=_how_many(len(images), stats.images, order),
        **values,
    )


def page_box(
    judgement: Judgement, kind: int, *, label_id: str = "", reason: str = "", side: int = 0
) -> PageBox:
    """A judgement as a page shows it; ``reason`` stands instead of its own."""
    asked = f"{judgement.question} ({judgement.view})" if judgement.question else ""
    return PageBox(
        judgement.class_name,
        judgement.box,
        kind,
        score=judgement.score,
        p_yes=judgement.p_yes,
        exact=judgement.exact,
        asked=asked,
        answer=(judgement.error or judgement.raw_answer.strip()) if asked else "",
        reason=reason or judgement.reason,
        label_id=label_id,
        side=side,
        mask=judgement.mask,
        mask_facts=_mask_facts(judgement.segmentation) if judgement.segmentation else "",
    )


def _mask_facts(found: Segmentation) -> str:
    facts = f"quality {found.quality:.2f}, stability {found.stability:.2f}, {found.model}"
    try:
        return f"{found.mask.area:,} pixels, {facts}"
    except InvalidInput:  # it cannot be shown, which is no reason to show nothing
        return f"damaged, {facts}"


def _page_image(order: int, image: LabelledImage) -> PageImage:
    result = image.result
    return PageImage(
        image.name,
        result.width,
        result.height,
        [
            page_box(
                judgement,
                OUTCOMES.index(judgement.outcome),
                label_id=image.label_id(place),
            )
            for place, judgement in enumerate(result.judgements)
        ],
        flags=list(_flags(result)),
        ranks=(order, min((j.probability for j in result.labels), default=2.0)),
        note=_note(result),
    )


def _note(result: LabelResult) -> str:
    """Why there is no box, and what the verifier was asked about the whole image."""
    if not result.empty:
        return ""
    answers = [
        f"{verdict.question} {verdict.answer.p_yes:.2f}"
        for verdict in result.image_verdicts
        if verdict.answer.p_yes is not None
    ]
    asked = f" P(yes) of the whole image: {'; '.join(answers)}" if answers else ""
    return EMPTY_NOTES[result.empty] + asked


def _flags(result: LabelResult) -> Iterator[str]:
    if result.of(Outcome.UNSURE):
        yield "unsure"
    if result.empty:
        yield EMPTY[result.empty]
    if result.path in PATHS:
        yield PATHS[result.path]


def _most_unsure(result: LabelResult) -> tuple[float, ...]:
    return _unsureness(result), not result.judgements


def _unsureness(result: LabelResult) -> float:
    """The smaller, the less sure: by the number of unsure boxes, then by the least sure label."""
    least = min((abs(j.probability - 0.5) for j in result.judgements), default=0.5)
    return least - len(result.of(Outcome.UNSURE))


def _figures(stats: RunStats, failed: int) -> Iterator[tuple[str, str]]:
    amounts = {
        "images": stats.images,
        "accepted": stats.accepted,
        "unsure": stats.unsure,
        "rejected": stats.rejected,
    }
    yield from ((word, f"{count:,}") for word, count in amounts.items())
    if failed:
        yield "images failed", f"{failed:,}"


def _notices(stats: RunStats, failed: int) -> Iterator[str]:
    """What a user should know of the whole run."""
    empties = [f"{EMPTY[reason]}: {count:,}" for reason, count in stats.empty.items() if count]
    if empties:
        yield "Images without a label or an unsure box – " + ", ".join(empties) + "."
    if stats.doubtful_images:
        yield (
            f"Images without a box on which a class could not be ruled out: "
            f"{stats.doubtful_images:,}; the whole image is unsure."
        )
    if by_student := stats.by_path[LabelPath.STUDENT]:
        yield f"Labelled by the student alone: {by_student:,} images."
    if stats.without_verdict:
        yield (
            f"The verifier gave no answer for {stats.without_verdict:,} boxes, which are unsure; "
            f"the first error: {stats.first_error[:300]}"
        )
    if failed:
        yield f"Images that failed: {failed:,}; the reasons are in failed.jsonl."


def _how_many(shown: int, images: int, order: str) -> str:
    if shown >= images:
        return f"All {images:,} images are shown."
    return f"{shown:,} of {images:,} images are shown, the {order} ones (--gallery N)."
