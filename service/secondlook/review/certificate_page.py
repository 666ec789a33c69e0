"""The page of a certificate: what is guaranteed and what is not, and which labels were wrong."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from secondlook.config.settings import ImageSettings
from secondlook.evaluation.certificate import Certificate
from secondlook.evaluation.guarantee import Guaranteed, Promise
from secondlook.reports.gallery import page_box
from secondlook.reports.page import share, write_page
from secondlook.reports.plots import MAX_POINTS, Point, risk_coverage
from secondlook.reports.viewer import (
    DASHED,
    DOTTED,
    SOLID,
    PageImage,
    PageKind,
    PageView,
    viewer_values,
)
from secondlook.review.guarantees import CERTIFIED, STATE_WORDS, GuaranteeStatus
from secondlook.review.pages import image_loader
from secondlook.review.population import Population, read_population
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook_client.errors import InvalidInput
from secondlook_client.values import ReviewAnswer

ANSWERS = (
    PageKind("wrong", "✕", DOTTED),
    PageKind("unsure", "?", DASHED),
    PageKind("right", "", SOLID, shown=False),
)
"""As the page shows the boxes that were asked about."""
_KINDS = (ReviewAnswer.WRONG, ReviewAnswer.UNSURE, ReviewAnswer.RIGHT)
PROMISES = {
    Promise.RUN: "in this run",
    Promise.SCENES: "in further scenes drawn like these",
}
ASSUMED = {
    Promise.RUN: "",
    Promise.SCENES: " It is assumed that a box in a scene with m times as many boxes is at most m "
    "times as likely to be wrong.",
}
"""Beside chance; see ``evaluation.precision_tests``."""


def write_certificate(
    path: Path, store: Store, status: GuaranteeStatus, shown: int, limits: ImageSettings
) -> Path:
    """Write the page of a certified guarantee, with at most ``shown`` images of wrong answers.

    Raises ``InvalidInput`` for one that is not certified, and what reading the run raises.
    """
    certificate = status.certificate
    if certificate is None:
        raise InvalidInput(
            f"guarantee '{status.row.name}' is not certified yet: there is no certificate to show"
        )
    run = store.results.run(status.row.run)
    images, sha256s = _wrong_images(store, run.id, status.answers, shown)
    view = PageView(ANSWERS, run.ontology.names, ("most wrong answers",))
    return write_page(
        path,
        "certificate.html",
        title=f"Certificate of '{certificate.name}'",
        about=f"{STATE_WORDS[status.row.state]} · {certificate.population}",
        state=STATE_WORDS[status.row.state].capitalize(),
        figures=list(_figures(certificate)),
        promise=_promise(certificate),
        rows=[_row(result) for result in certificate.results],
        refused=[r for r in certificate.results if not r.holds],
        curves=list(_curves(store, status, certificate)),
        not_guaranteed=certificate.not_guaranteed,
        facts=_facts(certificate),
        history=[(_when(e.created_at), *_event(e.kind, e.content)) for e in status.events],
        wrong=sum(answer != ReviewAnswer.RIGHT for answer in status.answers.values()),
        asked=len(status.answers),
        **viewer_values(images, image_loader(store.blobs, images, sha256s, limits), view),
    )


def _figures(certificate: Certificate) -> Iterator[tuple[str, str]]:
    terms = certificate.terms
    yield "precision asked for", f"{terms.target:g}"
    yield "confidence", f"{terms.confidence:g}"
    if len(certificate.results) == 1 and certificate.holds:
        (result,) = certificate.results
        yield "precision proven", share(result.bound)
        yield "coverage", share(result.coverage)
    elif len(certificate.results) > 1:
        yield "classes guaranteed", f"{len(certificate.thresholds)} of {len(certificate.results)}"
    yield "answers", f"{sum(result.answers for result in certificate.results):,}"


def _promise(certificate: Certificate) -> str:
    terms = certificate.terms
    if not certificate.holds:
        return "The reasons are below."
    what = "each guaranteed class" if certificate.results[0].class_name else "all classes together"
    return (
        f"Of the labels of {what} whose probability reaches the limit, "
        f"{PROMISES[terms.promise]}, at least {100 * terms.target:g} % are right. Of many "
        f"guarantees that are made like this one, at most {100 * terms.level:.3g} % are untrue, "
        "whatever the models are like, because the boxes that were asked about were drawn at "
        f"random.{ASSUMED[terms.promise]}"
    )


def _row(result: Guaranteed) -> dict[str, Any]:
    limit = result.threshold
    cells = [
        "–" if limit is None else f"{limit:.4f}",
        share(result.bound) if result.holds else "–",
        share(result.scenes_bound) if result.holds else "–",
        f"{result.accepted:,}" if result.holds else "–",
        f"{result.answers:,}",
        f"{result.wrong - result.unsure:,}",
        f"{result.unsure:,}",
    ]
    return {
        "name": result.class_name or "all classes together",
        "holds": result.holds,
        "coverage": result.coverage if result.holds else None,
        "cells": cells,
    }


def _curves(
    store: Store, status: GuaranteeStatus, certificate: Certificate
) -> Iterator[dict[str, Any]]:
    """Of each result its risk over coverage, as far as the run still has what was asked about."""
    row = status.row
    calibrator = store.calibrators.get(row.calibrator) if row.calibrator else None
    run = store.results.run(row.run)
    until, filled = int(row.settings["until"]), bool(row.settings.get("filled"))
    population = read_population(store, run, calibrator, until, with_filled=filled)
    if population.digest != row.settings["population"]:
        return
    asked, wrong = _answered(population, status.answers)
    for result in certificate.results:
        of_class = population.of(result.class_name)
        taken = of_class[asked]
        if taken.any():
            name = result.class_name or "all classes together"
            plot = _curve(population, of_class, asked[taken], wrong[taken], result, certificate)
            yield {"name": name, "plot": plot}


def _answered(
    population: Population, answers: Mapping[str, str]
) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """(A,) rows of the population that were asked about, and whether each is wrong or unsure."""
    found = [(population.row_of(label), answer) for label, answer in answers.items()]
    known = [(row, answer) for row, answer in found if row is not None]
    asked = np.array([row for row, _ in known], dtype=np.intp)
    return asked, np.array([answer != ReviewAnswer.RIGHT for _, answer in known], dtype=bool)


def _curve(
    population: Population,
    of_class: "np.ndarray[Any, Any]",
    asked: "np.ndarray[Any, Any]",
    wrong: "np.ndarray[Any, Any]",
    result: Guaranteed,
    certificate: Certificate,
) -> Markup:
    probabilities = np.sort(population.probabilities[of_class])
    order = np.argsort(-population.probabilities[asked], kind="stable")
    limits = population.probabilities[asked][order]
    kept = 1 - np.searchsorted(probabilities, limits) / len(probabilities)
    errors = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    steps = np.unique(np.linspace(0, len(order) - 1, MAX_POINTS).round().astype(int))
    points: list[Point] = [(float(kept[n]), float(errors[n])) for n in steps]
    at = None
    if result.threshold is not None:
        share_kept = result.accepted / len(probabilities)
        above = limits >= result.threshold
        estimate = float(wrong[order][above].mean()) if above.any() else 0.0
        at = (share_kept, estimate), 1 - result.bound
    what = result.class_name or "all classes"
    label = f"risk over coverage of {what}"
    return risk_coverage(points, certificate.terms.error_share, at, label)


def _wrong_images(
    store: Store, run_id: int, answers: Mapping[str, str], shown: int
) -> tuple[list[PageImage], list[str]]:
    """The images with a wrong or unsure answer, those with most first, and their sha256."""
    by_cursor: dict[int, dict[int, ReviewAnswer]] = {}
    for label, answer in answers.items():
        cursor, _, place = label.partition(".")
        by_cursor.setdefault(int(cursor), {})[int(place)] = ReviewAnswer(answer)
    ranked = sorted((-_wrong(given), at) for at, given in by_cursor.items() if _wrong(given))
    images: list[PageImage] = []
    sha256s: list[str] = []
    for _, number in ranked[:shown]:
        for result in store.results.page(run_id, number - 1, 1):
            if result.cursor == number:
                images.append(_page_image(result, by_cursor[number]))
                sha256s.append(result.labelled.sha256)
    return images, sha256s


def _wrong(given: Mapping[int, ReviewAnswer]) -> int:
    return sum(answer is not ReviewAnswer.RIGHT for answer in given.values())


def _page_image(result: Result, given: Mapping[int, ReviewAnswer]) -> PageImage:
    labelled = result.labelled
    return PageImage(
        labelled.name or labelled.sha256,
        labelled.width,
        labelled.height,
        [
            page_box(
                labelled.judgements[place],
                _KINDS.index(answer),
                label_id=result.label_id(place),
            )
            for place, answer in sorted(given.items())
            if place < len(labelled.judgements)
        ],
        flags=sorted({answer.value for answer in given.values()} - {"right"}),
        ranks=(-_wrong(given),),
    )


def _facts(certificate: Certificate) -> dict[str, list[tuple[str, str]]]:
    return {
        "population": [
            ("run", certificate.run),
            ("images", f"{certificate.images:,}"),
            ("scenes", f"{certificate.scenes:,}"),
            ("boxes", f"{certificate.boxes:,}"),
        ],
        "terms": [
            ("precision", f"{certificate.terms.target:g}"),
            ("confidence", f"{certificate.terms.confidence:g}"),
            ("answers at most", f"{certificate.terms.budget:,}"),
            ("promised for", PROMISES[certificate.terms.promise]),
        ],
        "to check it": [
            ("seed", str(certificate.seed)),
            ("calibrator", certificate.calibrator or "none: the models' own probabilities"),
            ("sample", certificate.sample.replace("\n", ", ")),
            ("answers", certificate.answers),
            ("made at", _when(certificate.created_at)),
        ],
    }


def _event(kind: str, content: Mapping[str, Any]) -> tuple[str, str]:
    """What happened, and what is told of it."""
    if kind == CERTIFIED:
        return kind, f"answers {len(content.get('answers', ()))}"
    told = {name: value for name, value in content.items() if isinstance(value, str | int | float)}
    return kind, ", ".join(f"{name} {value}" for name, value in told.items() if value != "")


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
