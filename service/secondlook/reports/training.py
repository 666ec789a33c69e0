"""What a distillation came to, for people (``report.html``) and programs (``report.json``).

The page is one file: no script, no network, images inside. A content security policy forbids
everything else, and all text that came from a user is escaped.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from secondlook.core.files import replacing
from secondlook.datasets.image_cache import read_pixels
from secondlook.datasets.samples import Sample
from secondlook.detector.detections import Detections
from secondlook.evaluation import calibration
from secondlook.evaluation.calibration import Reliability
from secondlook.evaluation.detector_scores import Scores
from secondlook.evaluation.matching import Counts
from secondlook.reports import mistakes, plots
from secondlook.reports.mistakes import legend

# The report's HTML, piece by piece. Every value is escaped where it enters the text.

LONGEST = 120
"""Characters of a name on the page."""
MOST_CURVES = 60
MOST_ROWS = 400
"""Classes on the page; ``report.json`` has them all."""

BELIEVED = "How far a score can be believed"

Rows = Sequence[tuple[str, str]]
"""Names and values, as text that is not escaped yet."""

HEAD = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<div class="masthead"><h1>$title</h1><p class="about">$about</p></div>
<ul class="figures">$figures</ul>
</header>
<main>
$warnings""")

SECTION = Template("""<section>
<h2>$name</h2>
<p class="lead">$lead</p>
$body
</section>
""")

FOOT = """</main>
<footer><p>Boxes count as right from IoU 0.5 on. The same figures, and all curves, are in \
<code>report.json</code>.</p></footer>
</body>
</html>
"""


def head(title: str, about: str, figures: Rows, warnings: Sequence[str], style: str) -> str:
    """Up to the first section."""
    told = "".join(f"<li>{escape(warning[:1000])}</li>" for warning in warnings)
    return HEAD.substitute(
        title=printable(title),
        about=escape(about),
        figures="".join(f"<li><b>{escape(v)}</b> {escape(n)}</li>" for n, v in figures),
        warnings=f'<ul class="warnings">{told}</ul>\n' if told else "",
        style=style,
    )


def section(name: str, lead: str, body: str) -> str:
    """``body`` is HTML, the others are text."""
    return SECTION.substitute(name=escape(name), lead=escape(lead), body=body)


def classes(scores: Scores) -> str:
    """The table and the curves of the classes."""
    names = list(scores.map50_per_class)
    lead = (
        "Each class has the threshold at which its F1 on these images is best; precision and "
        "recall are those at the threshold."
    )
    if len(names) > MOST_ROWS:
        lead += f" Shown are {MOST_ROWS} of {len(names)} classes."
    titles = ("class", "AP50", "AP", "boxes", "threshold", "precision", "recall", "not there")
    head = "".join(f'<th scope="col">{title}</th>' for title in (*titles, "missed"))
    rows = "".join(_class_row(scores, name) for name in names[:MOST_ROWS])
    table = (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return section("Classes", lead, table)


def _class_row(scores: Scores, name: str) -> str:
    half, counts = scores.map50_per_class[name], scores.at_thresholds[name]
    bar = (
        "" if half is None else f'<span class="bar"><i style="width:{100 * half:.1f}%"></i></span>'
    )
    cells = (
        share(scores.map_per_class[name]),
        f"{scores.boxes_per_class[name]:,}",
        f"{scores.best_thresholds[name]:.2f}",
        share(counts.precision),
        share(counts.recall),
        f"{counts.wrong:,}",
        f"{counts.missed:,}",
    )
    said = "".join(f"<td>{cell}</td>" for cell in cells)
    return (
        f'<tr><th scope="row">{printable(name)}</th><td class="wide">{bar}{share(half)}</td>'
        f"{said}</tr>"
    )


def curves(scores: Scores) -> str:
    """A small precision-recall diagram for every class that has a true box."""
    known = [name for name, curve in scores.curves.items() if curve is not None]
    lead = "Precision over recall at IoU 0.5; the dot is the threshold."
    if len(known) > MOST_CURVES:
        lead += f" Shown are {MOST_CURVES} of {len(known)} classes."
    if not known:
        lead = "No class has a true box on these images."
    shown = (_curve(scores, name) for name in known[:MOST_CURVES])
    return section("Precision and recall", lead, f'<div class="multiples">{"".join(shown)}</div>')


def _curve(scores: Scores, name: str) -> str:
    curve, counts = scores.curves[name], scores.at_thresholds[name]
    if curve is None:
        return ""
    half = share(scores.map50_per_class[name])
    drawn = plots.precision_recall(
        curve, (counts.precision, counts.recall), f"{name[:LONGEST]}: AP50 {half}"
    )
    caption = f"<figcaption><span>{printable(name)}</span><b>{half}</b></figcaption>"
    return f'<figure class="plot">{caption}{drawn}</figure>'


def reliability(scores: Scores) -> str:
    """The reliability diagram, with what it means."""
    raw, after = scores.raw_reliability, scores.reliability
    if after.error is None or raw.error is None:
        return section(
            "How far a score can be believed",
            "Nothing was found, so there is nothing to judge.",
            "",
        )
    diagram = plots.reliability(raw.bins, after.bins, "reliability diagram")
    columns = plots.histogram(after.bins, "detections by calibrated probability")
    key = _key({"raw": "the student's own scores", "calibrated": "calibrated probabilities"})
    said = (
        "A dot on the dotted line can be taken at its word: of the detections that are given 0.8, "
        "eight in ten are right. Larger dots stand for more detections.",
        f"The mean distance from the line is {raw.error:.3f} for the student's own scores and "
        f"{after.error:.3f} for the calibrated probabilities. These are judged on images that "
        "the calibration had not seen: each half of the held-out images is calibrated by the "
        "other half.",
        "Detections in regions to ignore, and those with a score below "
        f"{calibration.FLOOR}, are left out.",
    )
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in said)
    figure = f'<figure class="plot">{diagram}{columns}</figure>'
    body = f'<div class="pair">{figure}<div>{key}{text}</div></div>'
    return section(BELIEVED, "What a score says, against what turned out to be right.", body)


def training(losses: Sequence[plots.Point], looks: Sequence[plots.Point]) -> str:
    """The curves of the training; empty when there was none to see."""
    shown = []
    if losses:
        drawn = plots.training(losses, "loss", "loss", "loss over the steps")
        shown.append(f'<figure class="plot"><figcaption>loss</figcaption>{drawn}</figure>')
    if looks:
        drawn = plots.training(looks, "mAP50", "calibrated", "mAP50 over the steps", True)
        shown.append(
            f'<figure class="plot"><figcaption>mAP50 on held-out images</figcaption>{drawn}'
            "</figure>"
        )
    if not shown:
        return ""
    lead = "The weights that did best on the held-out images are the ones that are kept."
    return section("Training", lead, f'<div class="halves">{"".join(shown)}</div>')


def images(cards: Iterable[str], shown: int, wrong: int, counts: Counts, judged: int) -> str:
    """The ``shown`` worst images, whose ``cards`` are HTML, of the ``wrong`` ones with a mistake
    among all ``judged`` ones."""
    lead = (
        f"At the thresholds {wrong:,} of {judged:,} images have a mistake; boxes that are "
        f"missed: {counts.missed:,}, detections that are not in the labels: {counts.wrong:,}."
    )
    lead += f" The {shown} with most mistakes are shown." if shown < wrong else ""
    key = _key(legend()) if shown else ""
    return section("Where it fails", lead, f'{key}<div class="cards">{"".join(cards)}</div>')


def facts(groups: Mapping[str, Rows]) -> str:
    """Lists of names and values, side by side."""
    lists = []
    for title, rows in groups.items():
        if rows:
            said = "".join(f"<dt>{escape(n)}</dt><dd>{printable(v)}</dd>" for n, v in rows)
            lists.append(f"<div><h3>{escape(title)}</h3><dl>{said}</dl></div>")
    lead = "The same snapshot hash is the same images and the same labels, everywhere."
    return section("What it was made from", lead, f'<div class="facts">{"".join(lists)}</div>')


def share(value: float | None) -> str:
    """A figure in [0, 1] with three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _key(words: Mapping[str, str]) -> str:
    marks = "".join(
        f'<li class="{kind}"><svg viewBox="0 0 24 14" aria-hidden="true">'
        f'<rect x="2" y="2" width="20" height="10"/></svg>{escape(said)}</li>'
        for kind, said in words.items()
    )
    return f'<ul class="key">{marks}</ul>'


def printable(text: str) -> str:
    """Escaped, and cut where no person would read on."""
    return escape(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


HTML, JSON = "report.html", "report.json"
MOST_IMAGES = 24
"""On the page."""
MOST_WARNINGS = 20
MOST_LOSSES = 1000
"""Kept in ``report.json``."""


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


def write_report(out: Path, told: ReportInput, load: mistakes.Load = read_pixels) -> None:
    """Write ``report.html`` and ``report.json`` into the folder ``out``, each whole or not at all.

    At most ``MOST_IMAGES`` are read, by ``load``; one that cannot be read is told on the page.
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


def _pieces(told: ReportInput, load: mistakes.Load) -> Iterator[str]:
    scores = told.scores
    style = (Path(__file__).parent / "training.css").read_text(encoding="utf-8")
    yield head(told.name, _about(told), _figures(told), _warnings(told), style)
    yield classes(scores)
    yield curves(scores)
    yield reliability(scores)
    yield training(_losses(told.training), _looks(told.training))
    yield facts(_facts(told))
    yield _worst(told, load)
    yield FOOT


def _worst(told: ReportInput, load: mistakes.Load) -> str:
    thresholds = [told.scores.best_thresholds[name] for name in told.classes]
    worst, wrong = mistakes.worst(told.samples, told.found, thresholds, MOST_IMAGES)
    cards = (
        mistakes.card(made, told.samples[p], told.found[p], told.classes, load)
        for made in worst
        for p in (made.place,)
    )
    return images(cards, len(worst), wrong, _total(told.scores), len(told.samples))


def _about(told: ReportInput) -> str:
    wide, high = told.input_size
    when = datetime.fromtimestamp(told.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{told.architecture} {told.size}, {wide}×{high} pixels · trained on {told.data} "
        f"({told.snapshot[:12]}) · figures on its {len(told.samples):,} held-out images "
        f"('{told.split}') · {when}"
    )


def _figures(told: ReportInput) -> Rows:
    total = _total(told.scores)
    figures = [
        ("mAP50", share(told.scores.map50)),
        ("mAP", share(told.scores.map)),
        ("precision", share(total.precision)),
        ("recall", share(total.recall)),
    ]
    if told.images_per_second is not None:
        figures.append(("images a second", f"{told.images_per_second:,.0f}"))
    return figures


def _warnings(told: ReportInput) -> list[str]:
    more = len(told.warnings) - MOST_WARNINGS
    shown = list(told.warnings[:MOST_WARNINGS])
    return [*shown, f"and {more} more, in report.json"] if more > 0 else shown


def _facts(told: ReportInput) -> dict[str, Rows]:
    held_out = PartOfData.of(told.samples)
    data = [("dataset", told.data), ("snapshot", told.snapshot), ("held out", told.split)]
    data += [("began from", told.start)]
    data += [("trained on", _said(told.trained_on)), ("judged on", _said(held_out))]
    seconds = [(name, _duration(value)) for name, value in told.seconds.items()]
    if told.images_per_second is not None:
        seconds.append(("one image", f"{1000 / max(told.images_per_second, 1e-9):.1f} ms"))
        seconds.append(("measured on", told.machine or "–"))
    return {
        "Data": data,
        "Time": seconds,
        "Exported models": [(name, _value(value)) for name, value in told.parity.items()],
        "Settings": [(name, _value(value)) for name, value in told.settings.items()],
    }


def _said(part: PartOfData) -> str:
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
    return plots.thinned(losses, MOST_LOSSES)


def _looks(training: Sequence[Mapping[str, Any]]) -> list[plots.Point]:
    """(step, mAP50) where it was measured; a moment with a loss only tells the last one again."""
    looks: list[plots.Point] = []
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
