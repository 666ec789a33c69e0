"""The page of one label shows what the verifier saw, pixel for pixel."""

import base64
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from html_page import Page
from PIL import Image as PILImage
from sqlalchemy import update
from stored import LIMITS, encoded, labelled, stored_run, street_ontology

from secondlook.config.settings import ImageSettings
from secondlook.core.images import decode
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.verifier import presence_requests, render_view
from secondlook.review.explain import explain
from secondlook.review.pages import write_explanation
from secondlook_client.ontology import Ontology
from secondlook_client.values import View

if TYPE_CHECKING:
    from pathlib import Path

    from secondlook.store import Store


def shown_pixels(page: Page) -> np.ndarray:
    """The first image of the page."""
    uri = page.all("img")[0]["src"]
    assert uri
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return np.asarray(PILImage.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("view", [View.CROP, View.CONTEXT, View.IMAGE])
@pytest.mark.parametrize("min_side", [None, 64])
def test_the_view_is_the_one_that_was_asked_about(
    store: "Store", tmp_path: "Path", view: View, min_side: int | None
) -> None:
    classes = tuple(replace(spec, view=view) for spec in street_ontology().classes)
    ontology = Ontology(classes)
    run = stored_run(store, "first", [labelled("a", ontology=ontology)], ontology)
    if min_side:
        _record(store, run.id, {**run.settings, "view_min_side": min_side})
    explanation = explain(store, "1.2")
    path = tmp_path / "explain.html"
    write_explanation(path, explanation, store.blobs, ImageSettings())
    image = decode(encoded("a"), "a", ImageSettings())
    expected = render_view(image, explanation.label.judgement.box, view, min_side or 1)
    page = Page(path.read_text())
    assert np.array_equal(shown_pixels(page), expected)
    assert f"view: {view.value}, {expected.shape[1]}×{expected.shape[0]} pixels" in page.texts()


def _record(store: "Store", run: int, settings: dict[str, object]) -> None:
    from secondlook.store.schema import runs

    with store.database.writing() as connection:
        values = {"settings": json.dumps(settings)}
        connection.execute(update(runs).where(runs.c.id == run).values(**values))


def test_a_doubt_about_the_whole_image_shows_the_tiles_with_their_answers(
    store: "Store", tmp_path: "Path"
) -> None:
    ontology = street_ontology()
    said = {spec.presence_question: 0.1 for spec in ontology.classes}
    said[ontology.classes[2].presence_question] = 0.7
    settings = replace(LIMITS, verify_empty=True, empty_tiles=2)
    doubting = Pipeline(ScriptedProposer(lambda *_: []), ScriptedVerifier(said), settings)
    image = decode(encoded("street"), "street", ImageSettings())
    stored_run(store, "first", doubting.label([Task(image, ontology)]))
    path = tmp_path / "explain.html"
    write_explanation(path, explain(store, "1.0"), store.blobs, ImageSettings())
    page = Page(path.read_text())
    assert len(page.all("figure", "view")) == 4
    (tile, *_) = presence_requests(image, (), 2)
    assert np.array_equal(shown_pixels(page), render_view(image, tile.box, tile.view, 1))
    questions = [spec.presence_question for spec in ontology.classes]
    assert page.texts("span").count(questions[2]) == 4
    assert {f"{one} (crop)" for one in questions} <= set(page.texts("td"))
    assert sum("P(yes) 0.700" in words for words in page.texts("b")) == 4
