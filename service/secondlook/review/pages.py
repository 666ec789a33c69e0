"""HTML pages of stored results: the differences of two runs, and one label explained."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from secondlook.core.drawing import GalleryImage
from secondlook.core.images import ImageSettings, decode
from secondlook.core.types import Pixels
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports import gallery
from secondlook.review.compare_runs import ImageDifference, LabelDifference, RunComparison
from secondlook.review.explain import Explanation
from secondlook.store.blobs import Blobs
from secondlook.store.results import Result
from secondlook_client.errors import BadImage, SecondlookError
from secondlook_client.values import Decision, Judgement, LabelResult, Outcome

GAINED_OR_LOST = {Outcome.ACCEPT: "gained", Outcome.REJECT: "lost"}


def write_comparison(
    path: Path,
    comparison: RunComparison,
    differences: Iterable[ImageDifference],
    blobs: Blobs,
    shown: int,
    limits: ImageSettings,
) -> Path:
    """Read all ``differences`` and write a page with the ``shown`` images that have most."""
    stats = RunStats()
    title = f"{comparison.before.name} → {comparison.after.name}"

    def results() -> Iterable[tuple[str, LabelResult]]:
        for difference in differences:
            result = _gained_and_lost(comparison, difference)
            stats.add(result)
            yield result.name, result

    most = gallery.pick(results(), shown, key=lambda result: -len(result.judgements))
    load = _loader(blobs, {image.name: image.result.sha256 for image in most}, limits)
    return gallery.write(path, title, stats, most, load, GAINED_OR_LOST)


def write_explanation(
    path: Path, explanation: Explanation, blobs: Blobs, limits: ImageSettings
) -> Path:
    """A page with the image and every judgement of the label's box."""
    stored = explanation.label.result
    box = explanation.label.judgement.box
    result = _label_result(stored, [j for j in stored.labelled.judgements if j.box == box])
    load = _loader(blobs, {result.name: result.sha256}, limits)
    title = f"{explanation.label.judgement.class_name} in {result.name}"
    shown = [GalleryImage(result.name, result)]
    return gallery.write(path, title, RunStats.of([result]), shown, load)


def _loader(blobs: Blobs, sha256s: Mapping[str, str], limits: ImageSettings) -> gallery.Load:
    def load(name: str) -> Pixels:
        try:
            return decode(blobs.get(sha256s[name]), name, limits).pixels
        except SecondlookError as failure:
            raise BadImage(f"the image cannot be shown: {failure}") from failure

    return load


def _gained_and_lost(comparison: RunComparison, difference: ImageDifference) -> LabelResult:
    """Gained labels as accepted boxes and lost ones as rejected, with the reasons of both runs."""
    before, after = comparison.before.name, comparison.after.name
    gained = [
        _judgement(label, Outcome.ACCEPT, difference.after, after, before)
        for label in difference.gained
    ]
    lost = [
        _judgement(label, Outcome.REJECT, difference.before, before, after)
        for label in difference.lost
    ]
    return _label_result(difference.after, gained + lost)


def _judgement(
    difference: LabelDifference, outcome: Outcome, result: Result, run: str, other_run: str
) -> Judgement:
    """The reason names the label's id for ``secondlook explain``."""
    label, other = difference.label, difference.other
    of_other = f"{other.outcome}, {other.reason}" if other else "not judged"
    label_id = result.label_id(difference.place)
    reason = f"{run}, label {label_id}: {label.reason}; {other_run}: {of_other}"
    return replace(label, decision=Decision(outcome, label.probability, reason))


def _label_result(result: Result, judgements: Iterable[Judgement]) -> LabelResult:
    labelled = result.labelled
    name = labelled.name or labelled.sha256
    return replace(labelled.result, name=name, judgements=tuple(judgements))
