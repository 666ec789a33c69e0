"""A run that is measured: kept, shown beside labels, used as an order, compared with a truth."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from stored import ANSWERS, STREET, labelled, stored_run, street_ontology
from students import write_student

from secondlook.cli import run as run_command
from secondlook.cli.review import models_said
from secondlook.cli.runs import explanation_json
from secondlook.config.settings import ImageSettings
from secondlook.core.types import Image, Labelled
from secondlook.evaluation.matching import TrueBox
from secondlook.review.explain import explain
from secondlook.review.local_reviews import LocalReviews
from secondlook.review.oracle import Oracle
from secondlook.review.pages import write_explanation
from secondlook.review.queue_order import queue_items
from secondlook.review.uncertainty import (
    ImageUncertainty,
    MeasureImages,
    best_method,
    measure_run,
    measured_images,
    report_on,
)
from secondlook.review.uncertainty_page import write_uncertainty_page
from secondlook.review.visited_images import AT_ONCE, Visit, looks_here
from secondlook.store import Store, open_store
from secondlook.store.reviews import QueueItem
from secondlook.store.runs import Run
from secondlook_client.errors import AlreadyExists, InvalidInput
from secondlook_client.ontology import Ontology
from secondlook_client.uncertainties import LabelUncertainty, UncertaintyMethod
from secondlook_client.values import ReviewOrder

LIMITS = ImageSettings()
DOG = 2
"""Place of the dog among the judgements."""
NAMES = ("a", "b", "c")
SURE = {**ANSWERS, "Dog?": 0.9}


class Scripted:
    """Gives the dog of each image an uncertainty, by its name."""

    method = UncertaintyMethod.COMMITTEE

    def __init__(self, values: dict[str, float], source: str = "student one") -> None:
        self.values, self.source = values, source
        self.seen: list[str] = []

    def measure(
        self, image: Image, labelled: Labelled, ontology: Ontology
    ) -> dict[int, LabelUncertainty]:
        self.seen.append(labelled.name)
        value = self.values[labelled.name]
        return {DOG: LabelUncertainty(self.method, value, 1 - value, f"it is {value}")}


VALUES = {"a": 0.2, "b": 0.9, "c": 0.4}


@pytest.fixture
def measured(store: Store) -> Store:
    """A run of three images whose dogs are accepted and measured."""
    run = stored_run(store, "first", [labelled(name, answers=SURE) for name in NAMES])
    assert measure(store, run, Scripted(VALUES)) == Visit(3, 0, (), 0)
    return store


def measure(store: Store, run: Run, source: Scripted, **more: Any) -> Visit:
    look = looks_here(store.blobs, LIMITS, MeasureImages(source, run.ontology))
    return measure_run(store, run, (source.method, source.source), look, **more)


def dogs(store: Store, order: str, **options: object) -> list[str]:
    """The images of the dogs in the order of a queue."""
    names = {
        one.result.cursor: one.result.labelled.name
        for one in measured_images(store, store.results.run("first"))
    }
    found: Sequence[QueueItem] = [
        *queue_items(store, "first", ReviewOrder(order), classes=["dog"], **options)  # type: ignore[arg-type]
    ]
    return [names[one.cursor] for one in found]


def test_measuring_goes_on_where_it_was_stopped(store: Store) -> None:
    many = [f"i{number:02}" for number in range(AT_ONCE + 2)]
    run = stored_run(store, "first", [labelled(name, answers=SURE) for name in many])
    source = Scripted(dict.fromkeys(many, 0.5))
    asked = iter((False, True))
    done: list[int] = []
    half = measure(
        store,
        run,
        source,
        progress=lambda now, total: done.append(now),
        stopped=lambda: next(asked),
    )
    assert half == Visit(AT_ONCE, 0, (), 0, stopped=True) and done == [AT_ONCE]
    assert measure(store, run, source) == Visit(2, AT_ONCE, (), 0)
    assert source.seen == many, "each image once"
    assert measure(store, run, source, again=True).measured == len(many)
    other = Scripted(dict.fromkeys(many, 0.1), "student two")
    assert measure(store, run, other).measured == len(many)


def test_an_image_that_is_gone_is_left_out_with_a_reason(measured: Store) -> None:
    run = measured.results.run("first")
    (_, second, _) = measured.results.page(run.id)
    measured.blobs.remove_unless_new(second.labelled.sha256, -1.0)
    done = measure(measured, run, Scripted(VALUES), again=True)
    assert (done.measured, done.failures, len(done.failed)) == (2, 1, 1)


def test_the_most_uncertain_is_asked_about_first_and_the_order_names_the_method(
    measured: Store,
) -> None:
    assert dogs(measured, "committee") == dogs(measured, "uncertainty") == ["b", "c", "a"]
    assert dogs(measured, "uncertainty", count=1) == ["b"]
    reviews = LocalReviews(measured)
    queue = reviews.create_queue("q", "first", order="uncertainty", classes=["dog"])
    assert queue.order == "committee"
    assert reviews.create_queue("q", "first", order="uncertainty", classes=["dog"], reuse=True)
    with pytest.raises(AlreadyExists, match="other choices"):
        reviews.create_queue("q", "first", order="value", classes=["dog"], reuse=True)
    (item,) = reviews.next("q", person="ada")
    assert [one.value for one in item.uncertainties] == [0.9]
    assert "uncertain 0.90 by committee: it is 0.9" in [*models_said(item)]
    with pytest.raises(InvalidInput, match="not measured by monte-carlo; measure it first: seco"):
        dogs(measured, "monte-carlo")


def test_what_was_not_measured_is_asked_behind_what_was(measured: Store) -> None:
    run = stored_run(measured, "half", [labelled(name, answers=ANSWERS) for name in NAMES])
    first, *_ = measured.results.page(run.id)
    little = LabelUncertainty("committee", 0.01, 0.99, "sure")
    measured.uncertainties.put(UncertaintyMethod.COMMITTEE, "x", {first.cursor: {DOG: little}})
    found = [*queue_items(measured, "half", ReviewOrder.UNCERTAINTY)]
    assert (found[0].cursor, found[0].place) == (first.cursor, DOG)
    assert [one.class_name for one in found[1:3]] == ["dog", "dog"], "then nearest to one half"


def test_explain_shows_it_beside_the_label(measured: Store, tmp_path: Path) -> None:
    (first, *_) = measured.results.page(measured.results.run("first").id)
    found = explain(measured, first.label_id(DOG))
    (told,) = explanation_json(found)["uncertainties"]
    assert told["uncertainty"] == 0.2 and told["reason"] == "it is 0.2"
    page = write_explanation(tmp_path / "explain.html", found, measured.blobs, LIMITS)
    assert "How uncertain it is" in page.read_text() and "it is 0.2" in page.read_text()
    other = explain(measured, first.label_id(0))
    page = write_explanation(page, other, measured.blobs, LIMITS)
    assert "How uncertain it is" not in page.read_text()


def test_an_image_is_as_uncertain_as_its_boxes() -> None:
    boxes = {n: LabelUncertainty("committee", v, 1 - v, "") for n, v in ((0, 0.5), (3, 0.25))}
    assert ImageUncertainty.of(boxes) == ImageUncertainty(0.75, 0.375, 0.5)
    assert ImageUncertainty.of({}) == ImageUncertainty(0, 0, 0)


def oracle(*with_dog: str) -> Oracle:
    """The truth: dogs on these images, and the glasses on all."""
    box, other = STREET[1][0], STREET[0][0]
    truth = {
        name: [TrueBox("glasses on", other), *([TrueBox("dog", box)] if name in with_dog else [])]
        for name in NAMES
    }
    return Oracle(truth, frozenset(("glasses on", "glasses off", "dog")), "truth")


def test_the_report_compares_with_the_plain_probability(measured: Store, tmp_path: Path) -> None:
    run = measured.results.run("first")
    report = report_on(measured, run, oracle("a", "c"))
    plain, committee = report.rows
    assert (report.labels, report.right, report.images) == (3, 2, 3), "labels that were measured"
    assert (plain.name, plain.auroc) == ("probability", 0.5), "all are equally probable"
    assert (committee.auroc, committee.image_auroc) == (1.0, 1.0)
    assert committee.area == pytest.approx(1 / 9) and plain.area == pytest.approx(1 / 3)
    assert "3 labels of 3 images, 66.7% of them right" in report.sentence
    page = write_uncertainty_page(tmp_path / "u.html", measured, run, report, 2, LIMITS)
    text = page.read_text()
    drawn = [tag for tag, _ in Page(text).seen if tag == "polyline"]
    assert text.count("data:image/webp") == 2 and len(drawn) > 8
    assert "uncertain 0.90 by committee: it is 0.9" in text and "it is 0.2" not in text
    assert best_method(measured, run) is UncertaintyMethod.COMMITTEE


def test_nothing_to_compare_is_told(store: Store) -> None:
    run = stored_run(store, "first", [labelled(name) for name in NAMES])
    with pytest.raises(InvalidInput, match="no label whose uncertainty was measured"):
        report_on(store, run, oracle())


# The command


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a run, a student of dogs beside it, and the truth."""
    with open_store(tmp_path / "data") as store:
        stored_run(store, "first", [labelled(name, answers=SURE) for name in NAMES])
    write_student(tmp_path / "student", ("person", "dog"))
    box = STREET[1][0]
    categories = [{"id": n, "name": one.name} for n, one in enumerate(street_ontology().classes)]
    entry = {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "category_id": 2}
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(NAMES)],
        "annotations": [{"id": n, "image_id": n, **entry} for n in (0, 1)],
        "categories": categories,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert run_command(["uncertainty", *words]) == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_the_command_measures_shows_and_compares(data: Path, capsys) -> None:
    place = ("first", "--data", str(data))
    said = told(capsys, *place, code=2)
    assert "was not measured; measure it with --method monte-carlo" in said
    said = told(capsys, *place, "--method", "committee", code=2)
    assert "need a student: give --student FOLDER" in said
    committee = ("--method", "committee", "--student", "student")
    said = told(capsys, *place, *committee, "--truth", "truth.json")
    assert "committee: 3 images measured" in said and "committee 3 of 3 student" in said
    assert "On 6 labels of 3 images, 33.3% of them right" in said
    assert Path("uncertainty.html").is_file()
    said = told(capsys, *place, *committee, "--gallery", "0")
    assert "committee: 0 images measured; 3 had been before" in said
    assert run_command(["uncertainty", *place, "--json", "--gallery", "0"]) == 0
    first, *_ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first["uncertainty"]["committee"]["highest"] > 0
    by_class = {one["class_name"]: one["uncertainties"][0] for one in first["boxes"]}
    assert by_class["dog"]["figures"]["student"] == [0.0]
    assert "student" not in by_class["glasses on"]["figures"]


def test_a_student_without_torch_weights_has_no_edges(data: Path, capsys) -> None:
    edges = ("--method", "distribution", "--student", "student")
    said = told(capsys, "first", "--data", str(data), *edges, code=2)
    assert "student has no model.safetensors; give the --out folder of `secondlook distill`" in said
