"""The report's HTML, piece by piece. Every value is escaped where it enters the text."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template

from secondlook.distill import calibration, report_plots
from secondlook.distill.report_pictures import legend
from secondlook.distill.scores import Scores
from secondlook.evaluate import Counts

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
        "Each class has the threshold at which its F1 on these pictures is best; precision and "
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
        lead = "No class has a true box on these pictures."
    shown = (_curve(scores, name) for name in known[:MOST_CURVES])
    return section("Precision and recall", lead, f'<div class="multiples">{"".join(shown)}</div>')


def _curve(scores: Scores, name: str) -> str:
    curve, counts = scores.curves[name], scores.at_thresholds[name]
    if curve is None:
        return ""
    half = share(scores.map50_per_class[name])
    drawn = report_plots.precision_recall(
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
    diagram = report_plots.reliability(raw.bins, after.bins, "reliability diagram")
    columns = report_plots.histogram(after.bins, "detections by calibrated probability")
    key = _key({"raw": "the student's own scores", "calibrated": "calibrated probabilities"})
    said = (
        "A dot on the dotted line can be taken at its word: of the detections that are given 0.8, "
        "eight in ten are right. Larger dots stand for more detections.",
        f"The mean distance from the line is {raw.error:.3f} for the student's own scores and "
        f"{after.error:.3f} for the calibrated probabilities. These are judged on pictures that "
        "the calibration had not seen: each half of the held-out pictures is calibrated by the "
        "other half.",
        "Detections in regions to ignore, and those with a score below "
        f"{calibration.FLOOR}, are left out.",
    )
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in said)
    figure = f'<figure class="plot">{diagram}{columns}</figure>'
    body = f'<div class="pair">{figure}<div>{key}{text}</div></div>'
    return section(BELIEVED, "What a score says, against what turned out to be right.", body)


def training(losses: Sequence[report_plots.Point], looks: Sequence[report_plots.Point]) -> str:
    """The curves of the training; empty when there was none to see."""
    shown = []
    if losses:
        drawn = report_plots.training(losses, "loss", "loss", "loss over the steps")
        shown.append(f'<figure class="plot"><figcaption>loss</figcaption>{drawn}</figure>')
    if looks:
        drawn = report_plots.training(looks, "mAP50", "calibrated", "mAP50 over the steps", True)
        shown.append(
            f'<figure class="plot"><figcaption>mAP50 on held-out pictures</figcaption>{drawn}'
            "</figure>"
        )
    if not shown:
        return ""
    lead = "The weights that did best on the held-out pictures are the ones that are kept."
    return section("Training", lead, f'<div class="halves">{"".join(shown)}</div>')


def pictures(cards: Iterable[str], shown: int, wrong: int, counts: Counts, judged: int) -> str:
    """The ``shown`` worst pictures, whose ``cards`` are HTML, of the ``wrong`` ones with a mistake
    among all ``judged`` ones."""
    lead = (
        f"At the thresholds {wrong:,} of {judged:,} pictures have a mistake; boxes that are "
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
    lead = "The same snapshot hash is the same pictures and the same labels, everywhere."
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
