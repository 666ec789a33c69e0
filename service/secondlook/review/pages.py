"""Kept results as the gallery shows them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from secondlook.core.errors import BadImage, SecondlookError
from secondlook.core.images import ImageLimits, decode
from secondlook.core.types import Judgement, Pixels
from secondlook.evaluation.run_stats import Totals
from secondlook.reports import gallery
from secondlook.review.compare_runs import Change, Comparison, Moved
from secondlook.review.explain import Explanation
from secondlook.store.blobs import Blobs
from secondlook.store.results import Result
from secondlook_client import results
from secondlook_client.results import LabelResult, Outcome

GAINED_OR_LOST = {Outcome.ACCEPT: "gained", Outcome.REJECT: "lost"}


def write_comparison(
    path: Path,
    comparison: Comparison,
    changes: Iterable[Change],
    blobs: Blobs,
    shown: int,
    limits: ImageLimits,
) -> Path:
    """Read all ``changes`` and write a page with the ``shown`` images that changed most."""
    totals = Totals()
    title = f"{comparison.before.name} → {comparison.after.name}"

    def counted() -> Iterable[tuple[str, LabelResult]]:
        for change in changes:
            result = _as_change(comparison, change)
            totals.add(result)
            yield result.name, result

    most = gallery.pick(counted(), shown, key=lambda result: -len(result.judgements))
    load = _loader(blobs, {image.name: image.result.sha256 for image in most}, limits)
    return gallery.write(path, title, totals, most, load, GAINED_OR_LOST)


def write_explanation(
    path: Path, explanation: Explanation, blobs: Blobs, limits: ImageLimits
) -> Path:
    """A page with the image and everything that was judged of the label's box."""
    result = explanation.label.result
    box = explanation.label.judgement.box
    shown = _view(result, [j for j in result.labelled.judgements if j.box == box])
    name = shown.name or result.labelled.sha256
    load = _loader(blobs, {name: shown.sha256}, limits)
    title = f"{explanation.label.judgement.class_name} in {name}"
    return gallery.write(path, title, Totals.of([shown]), [gallery.Shown(name, shown)], load)


def _loader(blobs: Blobs, sha256s: Mapping[str, str], limits: ImageLimits) -> gallery.Load:
    def load(name: str) -> Pixels:
        try:
            return decode(blobs.get(sha256s[name]), name, limits).pixels
        except SecondlookError as failure:
            raise BadImage(f"the image cannot be shown: {failure}") from failure

    return load


def _as_change(comparison: Comparison, change: Change) -> LabelResult:
    """Gained labels as accepted boxes, lost ones as rejected, each with what the other run said."""
    before, after = comparison.before.name, comparison.after.name
    judgements = [
        _moved(m, Outcome.ACCEPT, change.after.label_id(m.place), after, before)
        for m in change.gained
    ]
    judgements += [
        _moved(m, Outcome.REJECT, change.before.label_id(m.place), before, after)
        for m in change.lost
    ]
    return replace(_view(change.after, ()), judgements=tuple(judgements))


def _moved(
    moved: Moved, outcome: Outcome, label_id: str, run: str, other: str
) -> results.Judgement:
    """``label_id`` is there for `secondlook explain`."""
    there = f"{run}, label {label_id}: {moved.there.decision.reason}"
    if moved.other is None:
        elsewhere = f"{other}: not judged"
    else:
        decision = moved.other.decision
        elsewhere = f"{other}: {decision.outcome.value}, {decision.reason}"
    return _judgement(moved.there, outcome, f"{there}; {elsewhere}")


def _view(result: Result, judgements: Iterable[Judgement]) -> LabelResult:
    labelled = result.labelled
    return LabelResult(
        name=labelled.name or labelled.sha256,
        sha256=labelled.sha256,
        width=labelled.width,
        height=labelled.height,
        proposals=labelled.proposals,
        judgements=tuple(
            _judgement(j, Outcome(j.decision.outcome.value), j.decision.reason) for j in judgements
        ),
        proposer=labelled.evidence.proposer,
        verifier=labelled.evidence.verifier,
        path=results.LabelPath(labelled.path.value),
    )


def _judgement(judgement: Judgement, outcome: Outcome, reason: str) -> results.Judgement:
    told = results.Judgement(
        judgement.class_name,
        judgement.box,
        judgement.score,
        outcome,
        judgement.decision.probability,
        reason,
    )
    verdict = judgement.verdict
    if verdict is None:
        return told
    return replace(
        told,
        question=verdict.question,
        view=verdict.view.value,
        p_yes=verdict.answer.p_yes,
        raw_answer=verdict.answer.raw,
        error=verdict.answer.error,
        exact=verdict.answer.exact,
        verifier=verdict.model,
        verify_ms=verdict.ms,
        cached=verdict.cached,
    )
