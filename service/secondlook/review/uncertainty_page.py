"""A page of the most uncertain images of a run, and how well each method finds wrong labels."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from secondlook.config.settings import ImageSettings
from secondlook.reports.gallery import KINDS, OUTCOMES, page_box
from secondlook.reports.page import write_page
from secondlook.reports.plots import risk_curves
from secondlook.reports.viewer import PageBox, PageImage, PageView, viewer_values
from secondlook.review.pages import image_loader
from secondlook.review.uncertainty import (
    BEST_FIRST,
    MeasuredImage,
    UncertaintyReport,
    measured_images,
)
from secondlook.store import Store
from secondlook.store.runs import Run
from secondlook.store.uncertainties import MethodCount, uncertainties_at
from secondlook_client.uncertainties import UncertaintyMethod

MEANINGS = {
    UncertaintyMethod.MONTE_CARLO: "the models were asked again on other views, in other words",
    UncertaintyMethod.COMMITTEE: "proposer, verifier and a student were compared",
    UncertaintyMethod.DISTRIBUTION: "how a student spreads the edges of the box",
}
ORDERS = ("expected errors", "highest of a box", "mean of the boxes")


def write_uncertainty_page(
    path: Path,
    store: Store,
    run: Run,
    report: UncertaintyReport | None,
    shown: int,
    limits: ImageSettings,
) -> Path:
    """Write the ``shown`` images with most expected errors, by the best method that measured."""
    counts = store.uncertainties.methods(run.id)
    known = {one.method for one in counts}
    method = next(one for one in BEST_FIRST if one in known)
    ranked = ((_rank(one, method), at, one) for at, one in enumerate(measured_images(store, run)))
    most = [image for _, _, image in heapq.nsmallest(shown, ranked, key=lambda one: one[:2])]
    images = [_page_image(image, method) for image in most]
    sha256s = [image.result.labelled.sha256 for image in most]
    view = PageView(KINDS, run.ontology.names, ORDERS)
    return write_page(
        path,
        "uncertainty.html",
        title=f"uncertainty of {run.name}",
        about=" → ".join(filter(None, (run.proposer, run.verifier))),
        figures=_figures(counts, method),
        methods=[(one.method.value, MEANINGS[one.method], one.source) for one in counts],
        order=method.value,
        comparison=_comparison(report) if report else None,
        **viewer_values(images, image_loader(store.blobs, images, sha256s, limits), view),
    )


def _rank(image: MeasuredImage, method: UncertaintyMethod) -> tuple[float, ...]:
    of = image.of_image().get(method)
    return (-of.expected, -of.highest, -of.mean) if of else (0.0, 0.0, 0.0)


def _page_image(image: MeasuredImage, method: UncertaintyMethod) -> PageImage:
    labelled = image.result.labelled
    return PageImage(
        labelled.name or labelled.sha256,
        labelled.width,
        labelled.height,
        [_box(image, place) for place in range(len(labelled.judgements))],
        ranks=_rank(image, method),
    )


def _box(image: MeasuredImage, place: int) -> PageBox:
    judged = image.result.labelled.judgements[place]
    told = [f"uncertain {one.words}" for one in uncertainties_at(image.known, place)]
    reason = "; ".join([judged.reason, *told])
    kind, label_id = OUTCOMES.index(judged.outcome), image.result.label_id(place)
    return page_box(judged, kind, label_id=label_id, reason=reason)


def _figures(counts: Sequence[MethodCount], method: UncertaintyMethod) -> list[tuple[str, str]]:
    images = sum(one.results for one in counts if one.method is method)
    return [("images measured", f"{images:,}"), ("methods", f"{len({c.method for c in counts})}")]


def _comparison(report: UncertaintyReport) -> dict[str, Any]:
    """The table and the diagram of the methods against the plain probability."""
    plain = report.rows[0]
    rows = [
        (
            one.name,
            [
                f"{one.auroc:.3f}",
                f"{one.area:.4f}",
                f"{one.area / plain.area:.2f}" if plain.area else "–",
                f"{one.image_auroc:.3f}",
            ],
        )
        for one in report.rows
    ]
    curves = {
        one.name: list(zip(one.curve.coverage.tolist(), one.curve.risk.tolist(), strict=True))
        for one in report.rows
    }
    label = "share of wrong labels over the share that is kept, for each confidence"
    plot: Markup = risk_curves(curves, label)
    return {"rows": rows, "plot": plot, "sentence": report.sentence}
