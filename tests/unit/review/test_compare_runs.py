from typing import TYPE_CHECKING

import pytest
from html_page import Page
from stored import ANSWERS, image_of, labelled, review_box, stored_run, street_ontology

from secondlook.config.settings import ImageSettings
from secondlook.review import pages
from secondlook.review.compare_runs import ImageDifference, RunComparison, compare_runs
from secondlook.review.pages import write_comparison
from secondlook.review.redecide import redecide
from secondlook_client.errors import NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from secondlook.store import Store

DOGGED = {**ANSWERS, "Dog?": 0.9}


def read(store: "Store", before: str, after: str) -> tuple[RunComparison, list[ImageDifference]]:
    found, changes = compare_runs(store, before, after)
    return found, list(changes)


def test_a_run_decided_again(store: "Store") -> None:
    stored_run(store, "first", [labelled("a"), labelled("b", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    found, changes = read(store, "first", "strict")
    assert (found.images, found.only_before, found.only_after) == (2, 0, 0)
    assert dict(found.lost) == {"glasses on": 2, "dog": 1}
    assert found.gained.total() == 0
    assert found.kept.total() == 0
    assert [c.before.labelled.name for c in changes] == ["a", "b"]
    (on, dog) = changes[1].lost
    assert (on.label.class_name, dog.label.class_name) == ("glasses on", "dog")
    assert dog.other is not None
    assert dog.other.decision.outcome is Outcome.UNSURE
    assert changes[1].before.labelled.judgements[dog.place] == dog.label
    back, others = read(store, "strict", "first")
    assert back.gained == found.lost
    assert [len(c.gained) for c in others] == [1, 2]


def test_the_same_run_gains_and_loses_nothing(store: "Store") -> None:
    stored_run(store, "first", [labelled("a", answers=DOGGED), labelled("b")])
    found, changes = read(store, "first", "first")
    assert changes == []
    assert (found.images, dict(found.kept)) == (2, {"glasses on": 2, "dog": 1})


def test_runs_of_other_models_are_matched_by_image_and_overlap(store: "Store") -> None:
    moved = (((1, 1, 12, 21), {"person": 0.8}), ((5, 20, 15, 29), {"dog": 0.9}))
    stored_run(store, "first", [labelled("a", answers=DOGGED), labelled("here")])
    stored_run(store, "other", [labelled("there"), labelled("a", moved, DOGGED)])
    found, (change,) = read(store, "first", "other")
    assert (found.images, found.only_before, found.only_after) == (1, 1, 1)
    assert dict(found.kept) == {"glasses on": 1}
    assert [m.label.box for m in change.gained] == [(5, 20, 15, 29)]
    assert [m.label.box for m in change.lost] == [(20, 5, 39, 25)]
    assert change.gained[0].other is change.lost[0].other is None


def test_two_boxes_over_one_are_matched_once(store: "Store") -> None:
    one = (((10, 5, 30, 25), {"dog": 0.9}),)
    two = (((10, 5, 25, 25), {"dog": 0.9}), ((16, 5, 30, 25), {"dog": 0.8}))
    ontology = Ontology((ClassSpec("dog", question="Dog?"),))
    stored_run(store, "one", [labelled("a", one, DOGGED, ontology)], ontology)
    stored_run(store, "two", [labelled("a", two, DOGGED, ontology)], ontology)
    found, (change,) = read(store, "one", "two")
    assert (found.kept["dog"], found.gained["dog"], found.lost["dog"]) == (1, 1, 0)
    (gained,) = change.gained
    assert gained.label.box == (16, 5, 30, 25)
    assert gained.other is not None
    found, _ = read(store, "two", "one")
    assert (found.kept["dog"], found.gained["dog"], found.lost["dog"]) == (1, 0, 1)


def test_reviews_count_in_both_runs(store: "Store") -> None:
    stored_run(store, "first", [labelled("a", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    image = image_of(store, "a")
    review_box(store, image, "dog", (20, 5, 39, 25), "right", "Ann")
    found, _ = read(store, "first", "strict")
    assert (found.kept["dog"], found.lost["dog"], found.lost["glasses on"]) == (1, 0, 1)


def test_many_images_page_by_page(store: "Store") -> None:
    stored_run(store, "first", [labelled(f"p{i}") for i in range(450)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    found, changes = read(store, "first", "strict")
    assert (found.images, len(changes)) == (450, 450)


def test_the_page_shows_those_that_changed_most(store: "Store", tmp_path: "Path") -> None:
    stored_run(store, "first", [labelled("<one>"), labelled("two", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    found, changes = compare_runs(store, "first", "strict")
    page = tmp_path / "compare.html"
    write_comparison(page, found, changes, store.blobs, 1, ImageSettings())
    text = page.read_text()
    read = Page(text)
    assert read.texts("h1") == ["first → strict"]
    assert [card["n"] for card in read.data()["images"]] == ["two"]
    assert text.count("data:image/webp;base64,") == 1
    assert read.data()["sides"] == ["first", "strict"]
    figures = dict(zip(("lost", "changed class", "gained", "kept"), read.texts("b"), strict=False))
    assert figures == {"lost": "3", "changed class": "0", "gained": "0", "kept": "0"}
    assert found.lost.total() == 3


def test_each_lost_box_is_named_with_both_scores_and_both_ids(
    store: "Store", tmp_path: "Path"
) -> None:
    stored_run(store, "first", [labelled("<one>"), labelled("two", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    found, changes = compare_runs(store, "first", "strict")
    page = tmp_path / "compare.html"
    write_comparison(page, found, changes, store.blobs, 1, ImageSettings())
    read = Page(page.read_text())
    cells = read.texts("td")
    assert cells.count("<one>") == 1  # it is named though it is not shown
    (button,) = [a for a in read.all("button", "link") if a["data-at"] == "2.2"]
    assert button["data-open"] == "0"
    at = cells.index("dog")
    assert cells[at : at + 6] == ["dog", "0.70 / 0.90", "unsure", cells[at + 3], "2.2", "4.2"]
    assert cells[at + 3] == "P(yes) 0.90 is between 0.40 and 0.97"
    boxes = {(box["side"], box["id"]): box for box in read.boxes()}
    assert boxes[0, "2.2"]["kind"] == boxes[1, "4.2"]["kind"] == "lost"
    assert boxes[1, "4.2"]["reason"].startswith("unsure: P(yes) 0.90")


def test_a_box_with_another_class_has_changed(store: "Store", tmp_path: "Path") -> None:
    stored_run(store, "first", [labelled("a")])
    other = {**ANSWERS, "On?": 0.03, "Off?": 0.97}
    stored_run(store, "second", [labelled("a", answers=other)])
    found, (change,) = read(store, "first", "second")
    assert dict(found.changed) == {("glasses on", "glasses off"): 1}
    assert (found.lost.total(), found.gained.total(), found.kept.total()) == (0, 0, 0)
    assert found.changed_from("glasses on") == 1
    (one,) = change.changed
    assert (one.before.label.class_name, one.after.label.class_name) == (
        "glasses on",
        "glasses off",
    )
    page = tmp_path / "compare.html"
    write_comparison(page, found, iter([change]), store.blobs, 5, ImageSettings())
    shown = Page(page.read_text())
    assert [(box["side"], box["kind"], box["class"]) for box in shown.boxes()] == [
        (0, "changed class", "glasses on"),
        (1, "changed class", "glasses off"),
    ]
    assert "now glasses off" in shown.texts("td")


def test_the_list_of_lost_boxes_has_an_end(
    store: "Store", tmp_path: "Path", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MAX_LOST", 2)
    stored_run(store, "first", [labelled("one"), labelled("two", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    found, changes = compare_runs(store, "first", "strict")
    page = tmp_path / "compare.html"
    write_comparison(page, found, changes, store.blobs, 9, ImageSettings())
    read = Page(page.read_text())
    assert len(read.all("tr")) == 1 + len(found.classes) + 1 + 2
    assert any("1 more are not listed" in words for words in read.texts("p"))


def test_unknown_runs(store: "Store") -> None:
    stored_run(store, "first", [labelled("a")])
    with pytest.raises(NotFound, match="no run 'secnd'"):
        compare_runs(store, "first", "secnd")
