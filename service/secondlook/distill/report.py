"""What a distillation came to, for people (``report.html``) and programs (``report.json``).

The page is one file: no script, no network, pictures inside. A content security policy forbids
everything else, and all text that came from a user is escaped.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondlook.atomic import replacing
from secondlook.detector.found import Detections
from secondlook.distill import report_page, report_pictures, report_plots
from secondlook.distill.calibration import Reliability
from secondlook.distill.pictures import read_pixels
from secondlook.distill.samples import Sample
from secondlook.distill.scores import Scores
from secondlook.evaluate import Counts

HTML, JSON = "report.html", "report.json"
MOST_PICTURES = 24
"""On the page."""
MOST_WARNINGS = 20
MOST_LOSSES = 1000
"""Kept in ``report.json``."""


@dataclass(frozen=True, eq=False)
class PartOfData:
    """What one part of the data held."""

    pictures: int
    boxes: int
    ignored: int
    """Regions to ignore."""
    negatives: int
    """Hard negatives."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "PartOfData":
        """Counted."""
        return cls(
            len(samples),
            sum(len(sample.boxes) for sample in samples),
            sum(len(sample.ignore) for sample in samples),
            sum(len(sample.negatives) for sample in samples),
        )


@dataclass(frozen=True, eq=False)
class ReportInput:
    """Everything a report tells. Texts may be anything."""

    name: str
    """The student's."""
    architecture: str
    size: str
    start: str
    """What it began from."""
    input_size: tuple[int, int]
    """Width, height, pixels."""
    classes: tuple[str, ...]
    data: str
    """The dataset's name."""
    snapshot: str
    """Its hash, 64 hex digits."""
    split: str
    """What the held-out part is called."""
    scores: Scores
    samples: Sequence[Sample]
    """The held-out pictures."""
    found: Sequence[Detections]
    """What the student found on each of them."""
    trained_on: PartOfData
    images_per_second: float | None
    """Of the exported student; None where nobody measured it."""
    machine: str = ""
    """What it was measured on, e.g. ``onnxruntime, 2 threads``."""
    training: Sequence[Mapping[str, Any]] = ()
    """Moments of the training in order, each with ``step`` and, where known, ``loss`` and
    ``map50`` (the last one measured), as ``Progress.plain`` has them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the exported models against the trained one."""
    warnings: Sequence[str] = ()
    created_at: float = 0.0
    """Seconds since 1970, UTC."""


def write_report(out: Path, told: ReportInput, load: report_pictures.Load = read_pixels) -> None:
    """Write ``report.html`` and ``report.json`` into the folder ``out``, each whole or not at all.

    At most ``MOST_PICTURES`` are read, by ``load``; one that cannot be read is told on the page.
    Raises ``StorageFull`` or ``InvalidInput`` where nothing can be written.
    """
    text = json.dumps(plain(told), indent=1, allow_nan=False)
    with replacing(out / JSON) as part:
        part.write_text(text + "\n", encoding="utf-8")
    with (
        replacing(out / HTML) as part,
        part.open("w", encoding="utf-8", errors="replace") as file,
    ):
        for piece in _pieces(told, load):
            file.write(piece)


def plain(told: ReportInput) -> dict[str, Any]:
    """The content of ``report.json``. A figure that is not finite is null."""
    scores = told.scores
    return _finite(
        {
            "name": told.name,
            "architecture": told.architecture,
            "size": told.size,
            "start": told.start,
            "input_size": list(told.input_size),
            "classes": list(told.classes),
            "created_at": told.created_at,
            "data": told.data,
            "snapshot": told.snapshot,
            "split": told.split,
            "map": scores.map,
            "map50": scores.map50,
            "map50_per_class": dict(scores.map50_per_class),
            "map_per_class": dict(scores.map_per_class),
            "images_per_second": told.images_per_second,
            "machine": told.machine,
            "thresholds": dict(scores.best_thresholds),
            "at_thresholds": {n: _counts(c) for n, c in scores.at_thresholds.items()},
            "calibration": {n: list(fit) for n, fit in scores.calibration.items()},
            "reliability": {
                "raw": _reliability(scores.raw_reliability),
                "calibrated": _reliability(scores.reliability),
            },
            "precision_at_recall": {
                n: None if curve is None else [round(p, 5) for p in curve.tolist()]
                for n, curve in scores.curves.items()
            },
            "counts": {
                "train": vars(told.trained_on),
                "held_out": vars(PartOfData.of(told.samples)),
                "boxes_per_class": dict(scores.boxes_per_class),
                "detections": scores.detections,
            },
            "parity": dict(told.parity),
            "seconds": dict(told.seconds),
            "settings": dict(told.settings),
            "training": {"loss": _losses(told.training), "map50": _looks(told.training)},
            "warnings": list(told.warnings),
        }
    )


def _pieces(told: ReportInput, load: report_pictures.Load) -> Iterator[str]:
    scores = told.scores
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    yield report_page.head(told.name, _about(told), _figures(told), _warnings(told), style)
    yield report_page.classes(scores)
    yield report_page.curves(scores)
    yield report_page.reliability(scores)
    yield report_page.training(_losses(told.training), _looks(told.training))
    yield report_page.facts(_facts(told))
    yield _worst(told, load)
    yield report_page.FOOT


def _worst(told: ReportInput, load: report_pictures.Load) -> str:
    thresholds = [told.scores.best_thresholds[name] for name in told.classes]
    worst, wrong = report_pictures.worst(told.samples, told.found, thresholds, MOST_PICTURES)
    cards = (
        report_pictures.card(made, told.samples[p], told.found[p], told.classes, load)
        for made in worst
        for p in (made.place,)
    )
    return report_page.pictures(cards, len(worst), wrong, _total(told.scores), len(told.samples))


def _about(told: ReportInput) -> str:
    wide, high = told.input_size
    when = datetime.fromtimestamp(told.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{told.architecture} {told.size}, {wide}×{high} pixels · trained on {told.data} "
        f"({told.snapshot[:12]}) · figures on its {len(told.samples):,} held-out pictures "
        f"('{told.split}') · {when}"
    )


def _figures(told: ReportInput) -> report_page.Rows:
    total = _total(told.scores)
    figures = [
        ("mAP50", report_page.share(told.scores.map50)),
        ("mAP", report_page.share(told.scores.map)),
        ("precision", report_page.share(total.precision)),
        ("recall", report_page.share(total.recall)),
    ]
    if told.images_per_second is not None:
        figures.append(("pictures a second", f"{told.images_per_second:,.0f}"))
    return figures


def _warnings(told: ReportInput) -> list[str]:
    more = len(told.warnings) - MOST_WARNINGS
    shown = list(told.warnings[:MOST_WARNINGS])
    return [*shown, f"and {more} more, in report.json"] if more > 0 else shown


def _facts(told: ReportInput) -> dict[str, report_page.Rows]:
    held_out = PartOfData.of(told.samples)
    data = [("dataset", told.data), ("snapshot", told.snapshot), ("held out", told.split)]
    data += [("began from", told.start)]
    data += [("trained on", _said(told.trained_on)), ("judged on", _said(held_out))]
    seconds = [(name, _duration(value)) for name, value in told.seconds.items()]
    if told.images_per_second is not None:
        seconds.append(("one picture", f"{1000 / max(told.images_per_second, 1e-9):.1f} ms"))
        seconds.append(("measured on", told.machine or "–"))
    return {
        "Data": data,
        "Time": seconds,
        "Exported models": [(name, _value(value)) for name, value in told.parity.items()],
        "Settings": [(name, _value(value)) for name, value in told.settings.items()],
    }


def _said(part: PartOfData) -> str:
    words = f"{part.pictures:,} pictures, {part.boxes:,} boxes"
    words += f", {part.ignored:,} regions to ignore" if part.ignored else ""
    return words + (f", {part.negatives:,} hard negatives" if part.negatives else "")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _total(scores: Scores) -> Counts:
    return sum(scores.at_thresholds.values(), Counts())


def _losses(training: Sequence[Mapping[str, Any]]) -> list[report_plots.Point]:
    """(step, loss), of a long training the means of some steps each."""
    losses = [
        (float(moment["step"]), float(moment["loss"]))
        for moment in _of_training(training)
        if moment.get("loss") is not None and math.isfinite(moment["loss"])
    ]
    return report_plots.thinned(losses, MOST_LOSSES)


def _looks(training: Sequence[Mapping[str, Any]]) -> list[report_plots.Point]:
    """(step, mAP50) where it was measured; a moment with a loss only tells the last one again."""
    looks: list[report_plots.Point] = []
    for moment in _of_training(training):
        measured = moment.get("map50")
        again = moment.get("loss") is not None and looks and looks[-1][1] == measured
        if measured is not None and not again:
            looks.append((float(moment["step"]), float(measured)))
    return looks


def _of_training(moments: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Without those of what came after it."""
    return (moment for moment in moments if moment.get("phase", "train") == "train")


def _counts(counts: Counts) -> dict[str, Any]:
    return {**vars(counts), "precision": counts.precision, "recall": counts.recall}


def _reliability(reliability: Reliability) -> dict[str, Any]:
    return {"error": reliability.error, "bins": [vars(one) for one in reliability.bins]}


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)
