"""The report of a distillation, for people (``report.html``) and programs (``report.json``).

The page is one file: no network, images inside.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from secondlook.core.files import replacing
from secondlook.core.types import Pixels
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation import calibration
from secondlook.evaluation.calibration import Reliability
from secondlook.evaluation.detector_scores import Scores
from secondlook.evaluation.matching import Counts
from secondlook.reports import mistakes, plots
from secondlook.reports.page import MAX_TEXT, share, write_page
from secondlook.reports.viewer import PageView, viewer_values
from secondlook_client.errors import BadImage, SecondlookError

HTML, JSON = "report.html", "report.json"
MAX_IMAGES, MAX_CURVES, MAX_ROWS, MAX_WARNINGS = 24, 60, 400, 20
"""On the page: images with mistakes, classes with a curve, classes in the table, warnings."""
MAX_LOSSES = 1000
"""Points of the training's curve in ``report.json``."""
WORST_IMAGES, WORST_BOXES = 12, 40
"""Images with mistakes in ``report.json``, and boxes of each."""

Rows = Sequence[tuple[str, str]]
"""Names and values."""


@dataclass(frozen=True, eq=False)
class PartOfData:
    """What one part of the data held."""

    images: int
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
    """The held-out images."""
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


def write_report(out: Path, report: ReportInput, load: mistakes.LoadSample = read_pixels) -> None:
    """Write ``report.html`` and ``report.json`` into the folder ``out``, each atomically.

    At most ``MAX_IMAGES`` are read, by ``load``; the page says so of one that cannot be read.
    Raises ``StorageFull`` or ``InvalidInput`` where nothing can be written.
    """
    text = json.dumps(plain(report), indent=1, allow_nan=False)
    with replacing(out / JSON) as part:
        part.write_text(text + "\n", encoding="utf-8")
    scores = report.scores
    thresholds = [scores.best_thresholds[name] for name in report.classes]
    worst, wrong_images = mistakes.worst(report.samples, report.found, thresholds, MAX_IMAGES)
    known = [name for name, curve in scores.curves.items() if curve is not None]
    write_page(
        out / HTML,
        "report.html",
        title=report.name,
        about=_about(report),
        figures=_figures(report),
        warnings=_warnings(report),
        classes=len(report.classes),
        rows=[
            {"colour": place, **_class_row(scores, name)}
            for place, name in enumerate(report.classes[:MAX_ROWS])
        ],
        with_curve=len(known),
        curves=[_curve(scores, name) for name in known[:MAX_CURVES]],
        reliability=_reliability_diagram(scores),
        training=_training(report),
        facts=_facts(report),
        images=len(report.samples),
        wrong_images=wrong_images,
        total=_total(scores),
        **_where_it_fails(report, worst, load),
    )


def _where_it_fails(
    report: ReportInput, worst: Sequence[mistakes.Mistakes], load: mistakes.LoadSample
) -> dict[str, Any]:
    """The images with most mistakes."""

    def load_place(place: int) -> Pixels:
        try:
            return load(report.samples[worst[place].place])
        except SecondlookError:  # its message may name a path, and reports travel
            raise BadImage("this image could not be read when the report was made") from None

    images = [
        mistakes.page_image(one, report.samples[one.place], report.found[one.place], report.classes)
        for one in worst
    ]
    view = PageView(mistakes.KINDS, report.classes, mistakes.ORDERS, scores=True)
    return viewer_values(images, load_place, view)


def plain(report: ReportInput) -> dict[str, Any]:
    """The content of ``report.json``. A figure that is not finite is null."""
    scores = report.scores
    return _finite(
        {
            "name": report.name,
            "architecture": report.architecture,
            "size": report.size,
            "start": report.start,
            "input_size": list(report.input_size),
            "classes": list(report.classes),
            "created_at": report.created_at,
            "data": report.data,
            "snapshot": report.snapshot,
            "split": report.split,
            "map": scores.map,
            "map50": scores.map50,
            "map50_per_class": dict(scores.map50_per_class),
            "map_per_class": dict(scores.map_per_class),
            "images_per_second": report.images_per_second,
            "machine": report.machine,
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
                "train": vars(report.trained_on),
                "held_out": vars(PartOfData.of(report.samples)),
                "boxes_per_class": dict(scores.boxes_per_class),
                "detections": scores.detections,
            },
            "parity": dict(report.parity),
            "seconds": dict(report.seconds),
            "settings": dict(report.settings),
            "training": {"loss": _losses(report.training), "map50": _validations(report.training)},
            "warnings": list(report.warnings),
            "worst_images": _worst_images(report),
        }
    )


def _worst_images(report: ReportInput) -> list[dict[str, Any]]:
    """The images with most mistakes, by whose hashes a program finds them in a store."""
    thresholds = [report.scores.best_thresholds[name] for name in report.classes]
    worst, _ = mistakes.worst(report.samples, report.found, thresholds, WORST_IMAGES)
    return [_mistaken_image(report, one) for one in worst]


def _mistaken_image(report: ReportInput, made: mistakes.Mistakes) -> dict[str, Any]:
    sample, found = report.samples[made.place], report.found[made.place]
    missed = zip(sample.boxes[made.missed], sample.classes[made.missed], strict=True)
    false = zip(found.boxes[made.false], found.classes[made.false], strict=True)
    boxes = [("missed", *one) for one in missed] + [("false", *one) for one in false]
    return {
        "name": sample.name[:MAX_TEXT],
        "sha256": sample.sha256,
        "width": sample.width,
        "height": sample.height,
        "mistakes": made.count,
        "boxes": [
            {
                "class": report.classes[at],
                "box": np.round(box.astype(float), 1).tolist(),
                "kind": kind,
            }
            for kind, box, at in boxes[:WORST_BOXES]
        ],
    }


def _class_row(scores: Scores, name: str) -> dict[str, Any]:
    counts = scores.at_thresholds[name]
    return {
        "name": name,
        "ap50": scores.map50_per_class[name],
        "cells": (
            share(scores.map_per_class[name]),
            f"{scores.boxes_per_class[name]:,}",
            f"{scores.best_thresholds[name]:.2f}",
            share(counts.precision),
            share(counts.recall),
            f"{counts.wrong:,}",
            f"{counts.missed:,}",
        ),
    }


def _curve(scores: Scores, name: str) -> dict[str, Any]:
    """The precision-recall diagram of a class that has one."""
    curve, counts = scores.curves[name], scores.at_thresholds[name]
    assert curve is not None
    ap50 = scores.map50_per_class[name]
    at = (counts.precision, counts.recall)
    plot = plots.precision_recall(curve, at, f"{name[:MAX_TEXT]}: AP50 {share(ap50)}")
    return {"name": name, "ap50": ap50, "plot": plot}


def _reliability_diagram(scores: Scores) -> dict[str, Any] | None:
    """None where nothing was found."""
    raw, after = scores.raw_reliability, scores.reliability
    if after.error is None or raw.error is None:
        return None
    return {
        "diagram": plots.reliability(raw.bins, after.bins, "reliability diagram"),
        "histogram": plots.histogram(after.bins, "detections by calibrated probability"),
        "raw": raw.error,
        "calibrated": after.error,
        "floor": calibration.FLOOR,
    }


def _training(report: ReportInput) -> list[tuple[str, Markup]]:
    """The curves of the training that there are."""
    shown = []
    if losses := _losses(report.training):
        shown.append(("loss", plots.training(losses, "loss", "loss", "loss over the steps")))
    if map50 := _validations(report.training):
        drawn = plots.training(map50, "mAP50", "calibrated", "mAP50 over the steps", share=True)
        shown.append(("mAP50 on held-out images", drawn))
    return shown


def _about(report: ReportInput) -> str:
    wide, high = report.input_size
    when = datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{report.architecture} {report.size}, {wide}×{high} pixels · trained on {report.data} "
        f"({report.snapshot[:12]}) · figures on its {len(report.samples):,} held-out images "
        f"('{report.split}') · {when}"
    )


def _figures(report: ReportInput) -> Rows:
    total = _total(report.scores)
    figures = [
        ("mAP50", share(report.scores.map50)),
        ("mAP", share(report.scores.map)),
        ("precision", share(total.precision)),
        ("recall", share(total.recall)),
    ]
    if report.images_per_second is not None:
        figures.append(("images a second", f"{report.images_per_second:,.0f}"))
    return figures


def _warnings(report: ReportInput) -> list[str]:
    more = len(report.warnings) - MAX_WARNINGS
    shown = list(report.warnings[:MAX_WARNINGS])
    return [*shown, f"and {more} more, in report.json"] if more > 0 else shown


def _facts(report: ReportInput) -> dict[str, Rows]:
    held_out = PartOfData.of(report.samples)
    data = [("dataset", report.data), ("snapshot", report.snapshot), ("held out", report.split)]
    data += [("began from", report.start)]
    data += [("trained on", _in_words(report.trained_on)), ("judged on", _in_words(held_out))]
    seconds = [(name, _duration(value)) for name, value in report.seconds.items()]
    if report.images_per_second is not None:
        seconds.append(("one image", f"{1000 / max(report.images_per_second, 1e-9):.1f} ms"))
        seconds.append(("measured on", report.machine or "–"))
    return {
        "Data": data,
        "Time": seconds,
        "Exported models": [(name, _value(value)) for name, value in report.parity.items()],
        "Settings": [(name, _value(value)) for name, value in report.settings.items()],
    }


def _in_words(part: PartOfData) -> str:
    words = f"{part.images:,} images, {part.boxes:,} boxes"
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


def _losses(training: Sequence[Mapping[str, Any]]) -> list[plots.Point]:
    """(step, loss), of a long training the means of some steps each."""
    losses = [
        (float(moment["step"]), float(moment["loss"]))
        for moment in _of_training(training)
        if moment.get("loss") is not None and math.isfinite(moment["loss"])
    ]
    return plots.thinned(losses, MAX_LOSSES)


def _validations(training: Sequence[Mapping[str, Any]]) -> list[plots.Point]:
    """(step, mAP50) where it was measured; a moment with a loss only tells the last one again."""
    found: list[plots.Point] = []
    for moment in _of_training(training):
        measured = moment.get("map50")
        again = moment.get("loss") is not None and found and found[-1][1] == measured
        if measured is not None and not again:
            found.append((float(moment["step"]), float(measured)))
    return found


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
