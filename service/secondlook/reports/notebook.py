"""Labelled images at the end of a notebook's cell: counts, and the first images with their boxes.

The boxes are drawn into the thumbnails and there is no script and no style sheet, so it looks the
same in Jupyter, in an editor, and where a notebook is only shown. At most ``SHOWN`` images of about
20 kB each, whatever the run.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

from secondlook.core.drawing import Colour, Load, class_colours, draw_result
from secondlook.evaluation.run_stats import RunStats
from secondlook.reports.gallery import EMPTY
from secondlook.reports.page import environment
from secondlook_client.errors import SecondlookError
from secondlook_client.values import LabelResult, Outcome

SHOWN, FAILURES, CLASSES = 12, 5, 8
"""Images, failures and classes that are shown at most; more are counted."""
HEIGHT, WIDEST, QUALITY = 260, 640, 80
"""Of a thumbnail: pixels, and quality of the JPEG."""


def notebook_html(
    stats: RunStats,
    classes: Sequence[str],
    results: Sequence[tuple[str, LabelResult]],
    load: Load,
    failed: Sequence[tuple[str, str]],
) -> str:
    """HTML for ``_repr_html_``. ``stats`` and ``classes`` are of the whole run.

    ``results`` are the first (name, result), of which at most ``SHOWN`` are shown; an image that
    ``load`` cannot give any more is replaced by the reason. ``failed`` are (name, why).
    """
    colours = class_colours(classes)
    labelled = [(name, stats.count(Outcome.ACCEPT, [name])) for name in classes]
    return environment.get_template("notebook.html").render(
        stats=stats,
        models=" → ".join(model for model in (stats.proposer, stats.verifier) if model),
        classes=[(name, f"rgb{colours[name]}", f"{count:,}") for name, count in labelled[:CLASSES]],
        more_classes=max(len(labelled) - CLASSES, 0),
        cards=[_card(name, result, load, colours) for name, result in results[:SHOWN]],
        more=max(stats.images - SHOWN, 0),
        failed=failed[:FAILURES],
        failures=len(failed),
    )


def _card(name: str, result: LabelResult, load: Load, colours: dict[str, Colour]) -> dict[str, Any]:
    source = problem = ""
    try:
        height = max(1, min(HEIGHT, WIDEST * result.height // result.width))
        drawn = draw_result(load(name), result, colours, height=height)
        encoded = io.BytesIO()
        drawn.save(encoded, "JPEG", quality=QUALITY)
        source = "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()
    except SecondlookError as failure:
        problem = str(failure)
    counts = [
        (len(result.labels), "label"),
        (len(result.of(Outcome.UNSURE)), "unsure"),
        (len(result.of(Outcome.REJECT)), "rejected"),
    ]
    said = ", ".join(
        f"{count} {word}{'s' * (word == 'label' and count > 1)}" for count, word in counts if count
    )
    empty = EMPTY[result.empty] if result.empty else ""
    return {
        "name": name.encode("utf-8", "replace").decode(),
        "source": source,
        "problem": problem,
        "said": f"{said} ({empty})" if said and empty else said or empty,
    }
