"""One HTML file that shows what was labelled and why; it needs no network and no other file.

Everything that came from a user or a model is escaped, and a content security policy forbids the
page to run or load anything but its own script and embedded images.
"""

import base64
import hashlib
import heapq
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image as PILImage

from secondlook.core.drawing import Load, Shown
from secondlook.core.errors import SecondlookError
from secondlook.core.files import replacing
from secondlook.core.types import Pixels
from secondlook.evaluation.run_stats import Totals
from secondlook_client.results import Judgement, LabelPath, LabelResult, Outcome

# The gallery's HTML, piece by piece. Every value is escaped where it enters the text.

CHARACTER = 0.022
"""Width of a tag's character as a share of an image in the grid."""
Words = Mapping[Outcome, str]
"""What each outcome is called; an outcome without a word is not shown."""
WORDS: Words = {
    Outcome.ACCEPT: "accepted",
    Outcome.REJECT: "rejected",
    Outcome.UNSURE: "unsure",
}

HEAD = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src '$digest'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body data-words="$words">
""")

SUMMARY = Template("""<header>
<div class="masthead">
<h1>$title</h1>
<p class="models">$models</p>
</div>
<ul class="figures">$figures</ul>
<div class="meter" aria-hidden="true">$meter</div>
<div class="filters">
<div class="group" role="group" aria-label="Outcomes shown">$outcomes</div>
<div class="group classes" role="group" aria-label="Class shown">\
<button type="button" class="class" data-class="" aria-pressed="true">all classes</button>\
$classes</div>
</div>
</header>
<div class="layout">
<main id="cards">
""")

CARD = Template("""<figure class="card" tabindex="0" aria-label="$name: $spoken">
<div class="frame" style="aspect-ratio:$width/$height">$image
<svg viewBox="0 0 $width $height" preserveAspectRatio="none">$boxes</svg>$tags</div>
<figcaption><span class="name">$name</span>$path<span class="tally">$tally</span></figcaption>
</figure>
""")

FOOT = Template("""</main>
<aside id="panel" aria-live="polite">
<p class="hint">Point at a box, or click it, to see what both stages said about it.</p>
</aside>
</div>
<footer><p>$shown</p><p><kbd>Tab</kbd> next image <kbd>←</kbd> <kbd>→</kbd> boxes \
<kbd>Enter</kbd> keep <kbd>Esc</kbd> let go <kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd> outcomes</p>
</footer>
<script>$script</script>
</body>
</html>
""")


def head(title: str, style: str, digest: str, words: Words = WORDS) -> str:
    """Up to and with ``<body>``; only a script of this ``digest`` may run."""
    told = escape(json.dumps({outcome.value: word for outcome, word in words.items()}))
    return HEAD.substitute(title=escape(title), style=style, digest=digest, words=told)


def summary(title: str, totals: Totals, words: Words = WORDS) -> str:
    """Figures of the whole run, the legend and the filters."""
    amounts = {
        Outcome.ACCEPT: totals.accepted,
        Outcome.REJECT: totals.rejected,
        Outcome.UNSURE: totals.unsure,
    }
    figures = [("images", totals.images), ("boxes proposed", totals.proposals)]
    if by_student := totals.by_path[LabelPath.STUDENT]:
        figures.append(("images by the student alone", by_student))
    whole = sum(amounts.values()) or 1
    models = " → ".join(m for m in (totals.proposer, totals.verifier) if m)
    return SUMMARY.substitute(
        title=escape(title),
        models=escape(models),
        figures="".join(f"<li><b>{n:,}</b> {word}</li>" for word, n in figures),
        meter="".join(
            f'<span class="{o.value}" style="width:{100 * n / whole:.2f}%"></span>'
            for o, n in amounts.items()
        ),
        outcomes="".join(_outcome_button(o, words[o], n) for o, n in amounts.items() if o in words),
        classes="".join(_class_button(name, totals) for name in totals.by_class),
    )


def _outcome_button(outcome: Outcome, word: str, amount: int) -> str:
    return (
        f'<button type="button" class="outcome {outcome.value}" data-outcome="{outcome.value}" '
        f'aria-pressed="true"><svg viewBox="0 0 22 14" aria-hidden="true">'
        f'<rect x="2" y="2" width="18" height="10"/></svg>{word} <b>{amount:,}</b>'
        "</button>"
    )


def _class_button(name: str, totals: Totals) -> str:
    amount = totals.by_class[name][Outcome.ACCEPT]
    return (
        f'<button type="button" class="class" data-class="{escape(name)}" aria-pressed="false">'
        f"{escape(name)} <b>{amount:,}</b></button>"
    )


def card(name: str, result: LabelResult, source: str, problem: str, words: Words = WORDS) -> str:
    """One image with its boxes; ``source`` is a data URI, or empty with the ``problem``."""
    marks = list(_marks(result.judgements))
    counted = [(o, len(result.of(o))) for o in Outcome if o in words]
    return CARD.substitute(
        name=escape(name.encode("utf-8", "replace").decode()),
        spoken=", ".join(f"{n} {words[o]}" for o, n in counted),
        width=result.width,
        height=result.height,
        path=_PATHS[result.path],
        image=_image(source, problem),
        boxes="".join(_rectangle(result, words, *mark) for mark in marks),
        tags="".join(_tag(result, place, *mark) for place, mark in enumerate(marks)),
        tally="".join(f'<i class="{o.value}">{n}</i>' for o, n in counted if n),
    )


_PATHS = {
    LabelPath.TEACHERS: "",
    LabelPath.STUDENT: '<span class="path" title="The student was certain, and audits agree with '
    'it; no second look was taken">student</span>',
    LabelPath.AUDIT: '<span class="path" title="The models\' labels; what the student would have '
    'said was compared with them">audit</span>',
}
"""What is said of who labelled an image; that the models did is what everybody expects."""


def _image(source: str, problem: str) -> str:
    if problem:
        return f'<p class="gone">{escape(problem)}</p>'
    return f'<img alt="" loading="lazy" decoding="async" src="{source}">'


Box = tuple[float, float, float, float]
Mark = tuple[Box, Outcome, list[Judgement]]


def _marks(judgements: Iterable[Judgement]) -> list[Mark]:
    """One mark a box and outcome, with every judgement of that box; accepted drawn last."""
    of_box: dict[Box, list[Judgement]] = {}
    for judgement in judgements:
        of_box.setdefault(judgement.box, []).append(judgement)
    return [
        (box, outcome, said)
        for outcome in (Outcome.REJECT, Outcome.UNSURE, Outcome.ACCEPT)
        for box, said in sorted(of_box.items(), key=lambda entry: -_area(entry[0]))
        if any(j.outcome is outcome for j in said)
    ]


def _rectangle(
    result: LabelResult, words: Words, box: Box, outcome: Outcome, said: list[Judgement]
) -> str:
    x1, y1, x2, y2 = _inset(box, outcome, said, max(result.width, result.height) / 100)
    shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    told = escape(json.dumps([_told(j) for j in said], ensure_ascii=True))
    classes = escape(json.dumps([j.class_name for j in said if j.outcome is outcome]))
    return (
        f'<g class="box {outcome.value}" data-outcome="{outcome.value}" data-classes="{classes}" '
        f'data-said="{told}"><title>{escape(_first_line(words[outcome], outcome, said))}</title>'
        f'<rect class="halo" {shape}/><rect class="line" {shape}/></g>'
    )


def _inset(box: Box, outcome: Outcome, said: list[Judgement], step: float) -> Box:
    """Drawn inside the box's other outcomes, so that one line never hides another."""
    order = (Outcome.ACCEPT, Outcome.UNSURE, Outcome.REJECT)
    outer = {j.outcome for j in said} & set(order[: order.index(outcome)])
    x1, y1, x2, y2 = box
    by = min(step * len(outer), (x2 - x1) / 4, (y2 - y1) / 4)
    return x1 + by, y1 + by, x2 - by, y2 - by


def _told(judgement: Judgement) -> dict[str, object]:
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


def _tag(result: LabelResult, place: int, box: Box, outcome: Outcome, said: list[Judgement]) -> str:
    """The name at an accepted or unsure box, where it fits; the panel has it in any case."""
    name = _name(outcome, said)
    width = (box[2] - box[0]) / result.width
    if outcome is Outcome.REJECT or width < min(0.2, CHARACTER * len(name)):
        return ""
    left, top = 100 * box[0] / result.width, 100 * box[1] / result.height
    kind = f"tag {outcome.value}" + (" inside" if top < 6 else "")
    style = f"left:{left:.2f}%;top:{top:.2f}%;max-width:{100 * width:.2f}%"
    return f'<span class="{kind}" data-box="{place}" style="{style}">{escape(name)}</span>'


def _name(outcome: Outcome, said: list[Judgement]) -> str:
    """The most telling class (the longest name), and how many more."""
    names = sorted((j.class_name for j in said if j.outcome is outcome), key=len, reverse=True)
    return names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")


def _first_line(word: str, outcome: Outcome, said: list[Judgement]) -> str:
    first = next(j for j in said if j.outcome is outcome)
    p_yes = "no verdict" if first.p_yes is None else f"P(yes) {first.p_yes:.2f}"
    return f"{first.class_name}: {word}, proposer {first.score:.2f}, {p_yes}"


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def foot(shown: int, images: int, script: str) -> str:
    """The panel, the footer and the script."""
    some = f"{shown:,} of {images:,} images are shown, the doubtful first (--gallery N)."
    every = f"All {images:,} images are shown, the doubtful first."
    return FOOT.substitute(shown=every if shown >= images else some, script=script)


THUMBNAIL_SIDE = 640
QUALITY = 82


def pick(
    results: Iterable[tuple[str, LabelResult]],
    limit: int,
    key: Callable[[LabelResult], int] | None = None,
) -> list[Shown]:
    """At most ``limit`` images, those with the smallest ``key`` first.

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
    images: Iterable[Shown],
    load: Load,
    words: Words = WORDS,
) -> Path:
    """Write the page to ``path``, one image in memory at a time.

    ``totals`` are those of the whole run, of which ``images`` may be a part. An image that
    cannot be loaded any more is shown as an empty frame with the reason. ``words`` say what the
    outcomes are called, where they stand for something else.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="replace") as file:
        for piece in _pieces(title, totals, images, load, words):
            file.write(piece)
    return path


def _pieces(
    title: str, totals: Totals, images: Iterable[Shown], load: Load, words: Words
) -> Iterator[str]:
    folder = Path(__file__).parent
    style = (folder / "gallery.css").read_text(encoding="utf-8")
    script = (folder / "gallery.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    yield head(title, style, f"sha256-{digest}", words)
    yield summary(title, totals, words)
    shown = 0
    for image in images:
        yield card(image.name, image.result, *_embedded(image.name, load), words)
        shown += 1
    yield foot(shown, totals.images, script)


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
