"""HTML pages of stored results: the differences of two runs, and one label explained."""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondlook.config.settings import ImageSettings
from secondlook.core.drawing import score_text
from secondlook.core.images import decode
from secondlook.core.types import Image, Pixels
from secondlook.evaluation.run_stats import OUTCOME_WORDS
from secondlook.labeling.applied_reviews import review_words
from secondlook.labeling.decisions import box_of
from secondlook.labeling.verifier import VerificationRequest, presence_requests, rendered
from secondlook.reports.gallery import KINDS, OUTCOMES, PATHS, page_box
from secondlook.reports.page import write_page
from secondlook.reports.viewer import (
    DASHED,
    DOTTED,
    SOLID,
    PageBox,
    PageImage,
    PageKind,
    PageView,
    embedded,
    thumbnail,
    viewer_values,
)
from secondlook.review.compare_runs import (
    ClassChange,
    ImageDifference,
    LabelDifference,
    RunComparison,
)
from secondlook.review.explain import ClassEvidence, Explanation, Rerun, mask_words
from secondlook.store.blobs import Blobs
from secondlook.store.results import Result
from secondlook_client.errors import BadImage, SecondlookError
from secondlook_client.values import Judgement, LabelPath, Verdict, View

DIFFERENCES = (
    PageKind("lost", "−", DOTTED),
    PageKind("changed class", "≠", DASHED),
    PageKind("gained", "+", SOLID),
    PageKind("kept", "", SOLID, shown=False),
)
LOST, CHANGED, GAINED, KEPT = range(4)
BEFORE, AFTER = 0, 1
"""The sides of an image."""
MAX_LOST = 3000
"""Lost boxes that the page lists."""
VIEW_BYTES = 900_000
"""Of what the verifier saw, where it is too large to be kept without loss."""


def write_comparison(
    path: Path,
    comparison: RunComparison,
    differences: Iterable[ImageDifference],
    blobs: Blobs,
    shown: int,
    limits: ImageSettings,
) -> Path:
    """Read all ``differences`` and write a page with the ``shown`` images that have most.

    It names each lost box, up to ``MAX_LOST``.
    """
    before, after = comparison.before.name, comparison.after.name
    lost = _LostBoxes(comparison)
    ranked = (
        (_rank(one), place, _compared(one, before, after), one.before.labelled.sha256)
        for place, one in enumerate(lost.listing(differences))
    )
    most = heapq.nsmallest(shown, ranked, key=lambda entry: entry[:2])
    images, sha256s = [entry[2] for entry in most], [entry[3] for entry in most]
    orders = ("most lost", "most different")
    view = PageView(DIFFERENCES, comparison.classes, orders, sides=(before, after))
    values = viewer_values(images, image_loader(blobs, images, sha256s, limits), view)
    shown_at = {entry[1]: place for place, entry in enumerate(most)}
    return write_page(
        path,
        "compare.html",
        title=f"{before} → {after}",
        about=_about(comparison),
        figures=_difference_figures(comparison),
        rows=_class_rows(comparison, values["colours"]),
        changes=sorted(comparison.changed.items(), key=lambda entry: -entry[1]),
        lost=[{**row, "open": shown_at.get(row["image_place"])} for row in lost.rows],
        left_out=lost.left_out,
        different=lost.images,
        **values,
    )


def write_explanation(
    path: Path,
    explanation: Explanation,
    blobs: Blobs,
    limits: ImageSettings,
    rerun: Rerun | None = None,
) -> Path:
    """A page with what the verifier saw, the image with the box, and all that was decided."""
    label = explanation.label
    result, judgement = label.result, label.judgement
    labelled = result.labelled
    name = labelled.name or labelled.sha256
    boxes = [
        page_box(one, OUTCOMES.index(one.outcome), label_id=result.label_id(place))
        for place, one in enumerate(labelled.judgements)
        if one.box == judgement.box
    ]
    flags = [PATHS[labelled.path]] if labelled.path in PATHS else []
    shown = [PageImage(name, labelled.width, labelled.height, boxes, flags)]
    kinds = [PageKind(kind.word, kind.sign, kind.line) for kind in KINDS]
    view = PageView(kinds, label.run.ontology.names, scores=True)
    load = image_loader(blobs, shown, [labelled.sha256], limits)
    return write_page(
        path,
        "explain.html",
        title=f"{judgement.class_name} in {name}",
        about=f"label {result.label_id(label.index)} of the run {label.run.name}",
        figures=_label_figures(judgement),
        outcome=OUTCOME_WORDS[judgement.outcome],
        reason=judgement.reason,
        views=_views(explanation, blobs, limits),
        evidence=[
            _evidence_row(one, judgement.class_name)
            for one in sorted(explanation.classes, key=lambda one: not one.same_group)
            if one.same_group or one.judgement or one.verdict
        ],
        not_judged=[
            f"{one.spec.name} {one.score:.3f} (≥ {one.spec.threshold:.2f})"
            for one in explanation.classes
            if not (one.same_group or one.judgement or one.verdict)
        ],
        contributions=explanation.reasons,
        uncertainties=[
            (one.method, f"{one.value:.2f}", one.reason) for one in explanation.uncertainties
        ],
        history=list(_history(explanation)),
        facts=_facts(explanation),
        rerun=_rerun_facts(explanation, rerun) if rerun else [],
        **viewer_values(shown, load, view),
    )


@dataclass
class _LostBoxes:
    """The lost boxes as rows of a table, gathered while the differences are read."""

    comparison: RunComparison
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    images: int = 0
    """That differ."""

    def listing(self, differences: Iterable[ImageDifference]) -> Iterator[ImageDifference]:
        """The differences; those read so far are in ``rows``."""
        for difference in differences:
            for one in difference.lost:
                self._add(difference, one, None)
            for change in difference.changed:
                self._add(difference, change.before, change)
            yield difference
            self.images += 1

    def _add(
        self, difference: ImageDifference, lost: LabelDifference, change: ClassChange | None
    ) -> None:
        if len(self.rows) >= MAX_LOST:
            self.left_out += 1
            return
        now = change.after.label if change else lost.other
        place = change.after.place if change else lost.other_place
        self.rows.append(
            {
                "image_place": self.images,
                "image": difference.before.labelled.name or difference.before.labelled.sha256,
                "class": lost.label.class_name,
                "scores": score_text(lost.label),
                "id": difference.before.label_id(lost.place),
                "now": _now(now, change is not None),
                "now_scores": score_text(now) if now else "",
                "reason": now.reason if now else "",
                "now_id": difference.after.label_id(place) if now else "",
            }
        )


def _now(judgement: Judgement | None, changed: bool) -> str:
    if judgement is None:
        return "no such box"
    return f"now {judgement.class_name}" if changed else OUTCOME_WORDS[judgement.outcome]


def _rank(difference: ImageDifference) -> tuple[int, int]:
    return -len(difference.lost) - len(difference.changed), -len(difference.gained)


def _compared(difference: ImageDifference, before: str, after: str) -> PageImage:
    """An image with the boxes of both runs."""
    old, new = difference.before, difference.after
    boxes = [
        *_two_sided(difference.lost, LOST, (old, new), (before, after), BEFORE),
        *_changed(difference, before, after),
        *_two_sided(difference.gained, GAINED, (new, old), (after, before), AFTER),
    ]
    for a, b in difference.kept:
        for side, result, place in ((BEFORE, old, a), (AFTER, new, b)):
            judgement, label_id = result.labelled.judgements[place], result.label_id(place)
            boxes.append(page_box(judgement, KEPT, label_id=label_id, side=side))
    labelled = new.labelled
    lost, gained = len(difference.lost) + len(difference.changed), len(difference.gained)
    return PageImage(
        labelled.name or labelled.sha256,
        labelled.width,
        labelled.height,
        boxes,
        flags=list(_difference_flags(difference)),
        ranks=(-lost, -lost - gained),
    )


def _difference_flags(difference: ImageDifference) -> Iterator[str]:
    if difference.lost:
        yield "lost"
    if difference.changed:
        yield "changed class"
    if difference.gained:
        yield "gained"


def _two_sided(
    labels: Iterable[LabelDifference],
    kind: int,
    results: tuple[Result, Result],
    runs: tuple[str, str],
    side: int,
) -> Iterator[PageBox]:
    """Each label on its own side, and the other run's judgement of the same box on the other."""
    for one in labels:
        label_id, own = results[0].label_id(one.place), one.label.reason
        if one.other is None:
            own += f"; no such box in {runs[1]}"
        yield page_box(one.label, kind, label_id=label_id, reason=own, side=side)
        if one.other is not None:
            other_id = results[1].label_id(one.other_place)
            reason = f"{OUTCOME_WORDS[one.other.outcome]}: {one.other.reason}"
            yield page_box(one.other, kind, label_id=other_id, reason=reason, side=1 - side)


def _changed(difference: ImageDifference, before: str, after: str) -> Iterator[PageBox]:
    for change in difference.changed:
        for side, result, one, run, other in (
            (BEFORE, difference.before, change.before, after, change.after),
            (AFTER, difference.after, change.after, before, change.before),
        ):
            label_id = result.label_id(one.place)
            reason = f"{one.label.reason}; in {run}: {other.label.class_name}"
            yield page_box(one.label, CHANGED, label_id=label_id, reason=reason, side=side)


def _about(comparison: RunComparison) -> str:
    parts = [f"{comparison.images:,} images with a result in both runs"]
    for count, run in (
        (comparison.only_before, comparison.before),
        (comparison.only_after, comparison.after),
    ):
        if count:
            parts.append(f"left out, with a result only in {run.name}: {count:,}")
    return "; ".join(parts)


def _difference_figures(comparison: RunComparison) -> list[tuple[str, str]]:
    amounts = {
        "lost": comparison.lost.total(),
        "changed class": comparison.changed.total(),
        "gained": comparison.gained.total(),
        "kept": comparison.kept.total(),
    }
    return [(word, f"{count:,}") for word, count in amounts.items()]


def _class_rows(
    comparison: RunComparison, colours: Mapping[str, int]
) -> list[tuple[str, int, list[str]]]:
    """Name, place of the colour, and the counts of each class."""
    return [
        (
            name,
            colours[name],
            [
                f"{count:,}"
                for count in (
                    comparison.lost[name],
                    comparison.changed_from(name),
                    comparison.gained[name],
                    comparison.kept[name],
                )
            ],
        )
        for name in comparison.classes
    ]


def image_loader(
    blobs: Blobs, images: list[PageImage], sha256s: list[str], limits: ImageSettings
) -> Any:
    """Gives the upright image at a place of a page; ``sha256s`` are those of ``images``."""

    def load(place: int) -> Pixels:
        return _decoded(blobs, sha256s[place], images[place].name, limits).pixels

    return load


def _decoded(blobs: Blobs, sha256: str, name: str, limits: ImageSettings) -> Image:
    try:
        return decode(blobs.get(sha256), name, limits)
    except SecondlookError as failure:
        raise BadImage(f"the image cannot be shown: {failure}") from failure


def _label_figures(judgement: Judgement) -> list[tuple[str, str]]:
    figures = [
        ("outcome", OUTCOME_WORDS[judgement.outcome]),
        ("proposer's score", f"{judgement.score:.3f}"),
    ]
    if judgement.p_yes is not None:
        figures.append(("P(yes)", f"{'' if judgement.exact else '~'}{judgement.p_yes:.3f}"))
    return [*figures, ("P(label is right)", f"{judgement.probability:.3f}")]


def _views(explanation: Explanation, blobs: Blobs, limits: ImageSettings) -> list[dict[str, Any]]:
    """What the verifier was shown, pixel for pixel, with all that was asked about it.

    The view of the label's own class comes first.
    """
    labelled, judgement = explanation.label.result.labelled, explanation.label.judgement
    if judgement.whole_image:
        return _image_views(explanation, blobs, limits)
    asked: dict[View, list[ClassEvidence]] = {}
    own_first = sorted(explanation.classes, key=lambda c: c.spec.name != judgement.class_name)
    for evidence in own_first:
        if evidence.verdict:
            asked.setdefault(evidence.verdict.view, []).append(evidence)
    if not asked:
        return []
    try:
        image = _decoded(blobs, labelled.sha256, labelled.name, limits)
    except SecondlookError as failure:
        return [{"problem": str(failure), "view": view.value, "asked": []} for view in asked]
    min_side, found = _min_side(explanation), labelled.evidence
    segmented = found.segmentations.get(judgement.row)
    mask = segmented.mask if segmented else None
    box = box_of(found.proposals, judgement.row)
    return [
        _view(
            VerificationRequest(image, box, view, (), mask=mask),
            min_side,
            [(one.verdict.question, _answer(one.verdict)) for one in of_view if one.verdict],
        )
        for view, of_view in asked.items()
    ]


def _image_views(
    explanation: Explanation, blobs: Blobs, limits: ImageSettings
) -> list[dict[str, Any]]:
    """The image or its tiles, of which the verifier was asked whether they show the class."""
    labelled, class_name = explanation.label.result.labelled, explanation.label.judgement.class_name
    asked = labelled.evidence.image
    (spec,) = (one.spec for one in explanation.classes if one.spec.name == class_name)
    verdicts = asked.by_question.get(spec.presence_question, ()) if asked else ()
    try:
        image = _decoded(blobs, labelled.sha256, labelled.name, limits)
    except SecondlookError as failure:
        return [{"problem": str(failure), "view": View.IMAGE.value, "asked": []}]
    tiles = presence_requests(image, (), max(math.isqrt(len(verdicts)), 1))
    return [
        _view(tile, _min_side(explanation), [(verdict.question, _answer(verdict))])
        for tile, verdict in zip(tiles, verdicts, strict=False)
    ]


def _min_side(explanation: Explanation) -> int:
    """To which the verifier's views were enlarged; runs of before did not record it."""
    return int(explanation.label.evidence_run.settings.get("view_min_side", 1))


def _view(
    shown: VerificationRequest, min_side: int, asked: list[tuple[str, str]]
) -> dict[str, Any]:
    if shown.view is View.MASK and shown.mask is None:
        problem = "there was no mask to show"
        return {"problem": problem, "view": shown.view.value, "asked": asked}
    pixels = rendered(shown, min_side)
    height, width = pixels.shape[:2]
    return {
        "problem": "",
        "view": shown.view.value,
        "source": embedded(pixels) or thumbnail(pixels, VIEW_BYTES),
        "size": f"{width}×{height} pixels",
        "asked": asked,
    }


def _answer(verdict: Verdict) -> str:
    answer = verdict.answer
    if answer.error:
        return answer.error
    words = answer.raw.strip()
    if answer.p_yes is None:
        return f"{words or 'nothing'} (neither yes nor no)"
    p_yes = f"P(yes) {'' if answer.exact else '~'}{answer.p_yes:.3f}"
    return f"{words}, {p_yes}" if words else p_yes  # some models give probabilities alone


def _evidence_row(evidence: ClassEvidence, own: str) -> dict[str, Any]:
    spec, verdict, judgement = evidence.spec, evidence.verdict, evidence.judgement
    return {
        "own": spec.name == own,
        "name": spec.name,
        "group": spec.group,
        "score": f"{evidence.score:.3f}",
        "threshold": f"≥ {spec.threshold:.2f}",
        "asked": f"{verdict.question} ({verdict.view.value})" if verdict else "not asked",
        "answer": _answer(verdict) if verdict else "–",
        "limits": f"≤ {spec.reject:.2f}, ≥ {spec.accept:.2f}",
        "outcome": OUTCOME_WORDS[judgement.outcome] if judgement else "not judged",
        "reason": judgement.reason if judgement else "",
    }


def _history(explanation: Explanation) -> Iterator[tuple[str, str, str]]:
    """When, who and what was decided, oldest first."""
    label = explanation.label
    if label.decided:
        decided = label.decided
        when, who = _when(label.result.decided_at), f"run {label.run.name}"
        yield when, who, f"{OUTCOME_WORDS[decided.outcome]}: {decided.reason}"
    for one in label.reviews:
        yield _when(one.created_at), one.person, review_words(one)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _facts(explanation: Explanation) -> dict[str, list[tuple[str, str]]]:
    label, labelled = explanation.label, explanation.label.result.labelled
    x1, y1, x2, y2 = label.judgement.box
    run, evidence_run = label.run, label.evidence_run
    if labelled.path is LabelPath.STUDENT:
        alone = f"{labelled.evidence.proposer}, alone; its scores are probabilities"
        models = [("student", alone)]
    else:
        models = [("proposer", labelled.evidence.proposer)]
        models.append(("verifier", labelled.evidence.verifier or "none"))
    if labelled.evidence.segmenter:
        models.append(("segmenter", labelled.evidence.segmenter))
    if labelled.evidence.student:
        models.append(("audited student", labelled.evidence.student))
    return {
        "Image": [
            ("name", labelled.name or "–"),
            ("SHA-256", labelled.sha256),
            ("size", f"{labelled.width}×{labelled.height} pixels"),
            ("box", f"{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}"),
            ("box size", f"{x2 - x1:.0f}×{y2 - y1:.0f} pixels"),
            *([("mask", said)] if (said := mask_words(label.judgement)) else []),
        ],
        "Models (name@digest)": models,
        "Run": [
            ("name", f"{run.name} ({run.kind})"),
            ("models ran in", evidence_run.name),
            *((name, str(value)) for name, value in run.settings.items()),
        ],
    }


def _rerun_facts(explanation: Explanation, rerun: Rerun) -> list[tuple[str, str]]:
    before, now = explanation.label.decided, rerun.judgement
    models = f"{rerun.proposer} → {rerun.verifier or 'none'}"
    facts = [("models", f"{models} ({'the same' if rerun.same_models else 'others'})")]
    if rerun.score is None:
        return [*facts, ("box", "they do not propose this box")]
    return [
        *facts,
        ("box", f"IoU {rerun.overlap:.4f} with the stored one"),
        ("scores before", score_text(before) if before else "–"),
        ("scores now", score_text(now) if now else f"{rerun.score:.2f}"),
        ("before", f"{OUTCOME_WORDS[before.outcome]}: {before.reason}" if before else "not judged"),
        ("now", f"{OUTCOME_WORDS[now.outcome]}: {now.reason}" if now else "not judged"),
    ]
