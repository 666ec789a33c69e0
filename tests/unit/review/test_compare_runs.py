from typing import TYPE_CHECKING

import pytest
from stored import ANSWERS, image_of, labelled, stored_run, street_ontology

from secondlook.config.settings import ImageSettings
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
    assert dict(found.kept) == {"glasses on": 1, "dog": 0}
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


def test_corrections_count_in_both_runs(store: "Store") -> None:
    stored_run(store, "first", [labelled("a", answers=DOGGED)])
    redecide(store, "first", "strict", street_ontology(accept=0.97))
    image = image_of(store, "a")
    store.results.correct(image, "dog", (20, 5, 39, 25), Outcome.ACCEPT, "Ann")
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
    assert "first → strict" in text
    assert "two" in text
    assert "&lt;one&gt;" not in text
    assert "</svg>gained <b>0</b>" in text
    assert "</svg>lost <b>3</b>" in text
    assert "</svg>unsure" not in text
    assert "first, label 2.0: P(yes) 0.95" in text
    assert "0.60; strict: unsure, P(yes) 0.95 is between 0.40 and 0.97" in text
    assert text.count("data:image/jpeg;base64,") == 1
    assert found.lost.total() == 3


def test_unknown_runs(store: "Store") -> None:
    stored_run(store, "first", [labelled("a")])
    with pytest.raises(NotFound, match="no run 'secnd'"):
        compare_runs(store, "first", "secnd")
