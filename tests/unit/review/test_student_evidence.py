"""Labels of a student alone are stored, read, redecided, compared, explained and frozen."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import stored as stored_images
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from scripted_student import by_student
from stored import LIMITS, labelled, stored_run, street_ontology

from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Evidence, Labelled, Proposals
from secondlook.datasets.manifest import entries, load_manifest
from secondlook.datasets.query import Query
from secondlook.datasets.snapshot import create_snapshot
from secondlook.labeling.decisions import judge
from secondlook.review.compare_runs import compare_runs
from secondlook.review.explain import explain
from secondlook.review.pages import write_explanation
from secondlook.review.redecide import StudentBatchDecider, redecide
from secondlook.store.bulk import pack_many, unpack_many
from secondlook.store.codec import pack_decisions, pack_evidence, unpack_evidence
from secondlook.store.integrity import check
from secondlook.store.ontologies import parse_proposer_text, proposer_text
from secondlook_client.errors import BadOntology, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import LabelPath, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from secondlook.store import Store

STREET = street_ontology()
LEFT, RIGHT = (1.0, 1.0, 12.0, 20.0), (20.0, 5.0, 39.0, 25.0)
FOUND = [(LEFT, "glasses on", 0.02), (LEFT, "glasses off", 0.97), (RIGHT, "dog", 0.92)]


def student(name: str = "by student") -> Labelled:
    return by_student(FOUND, STREET, name)


def audited(name: str = "audited") -> Labelled:
    taught = labelled(name)
    said = replace(taught.evidence, student="student:street@0123456789ab")
    return replace(taught, evidence=said)


def mixed(store: "Store", name: str = "first") -> list[Labelled]:
    results = [labelled("taught"), audited(), student()]
    run = stored_run(store, name, results)
    return [result.labelled for result in store.results.page(run.id)]


def test_each_result_has_its_path_and_the_live_decisions(store: "Store") -> None:
    results = mixed(store)
    assert [labelled.path for labelled in results] == [
        LabelPath.TEACHERS,
        LabelPath.AUDIT,
        LabelPath.STUDENT,
    ]
    assert results[1].evidence.proposer == "scripted@p0"
    assert results[1].evidence.student == "student:street@0123456789ab"
    alone = results[2]
    assert alone.judgements == student().judgements
    assert [j.class_name for j in alone.of(Outcome.ACCEPT)] == ["glasses off", "dog"]
    assert alone.judgements == judge(alone.evidence, STREET, LIMITS.nms_iou)
    assert list(check(store)) == []


def test_a_run_is_named_for_its_models_even_when_the_student_was_first(store: "Store") -> None:
    assert stored_run(store, "alone", [student()]).proposer.startswith("student:street@")
    run = stored_run(store, "then taught", [student(), student("again"), audited()])
    assert (run.proposer, run.verifier) == ("scripted@p0", "scripted@v0")
    assert run.named


def test_decided_again_by_the_same_classes_nothing_changes(store: "Store") -> None:
    before = mixed(store)
    told = redecide(store, "first", "again", STREET)
    after = [result.labelled for result in store.results.page(told.run.id)]
    for old, new in zip(before, after, strict=True):
        assert old.judgements == new.judgements
        assert old.path is new.path
    found, changes = compare_runs(store, "first", "again")
    assert list(changes) == []
    assert found.kept["dog"] == 1
    assert list(check(store)) == []


def test_stricter_limits_put_the_students_word_in_doubt(store: "Store") -> None:
    mixed(store)
    redecide(store, "first", "strict", street_ontology(accept=0.95))
    alone = store.results.page(store.results.run("strict").id)[2].labelled
    outcomes = {j.class_name: j.decision for j in alone.judgements}
    assert outcomes["glasses off"].outcome is Outcome.ACCEPT
    assert outcomes["dog"].outcome is Outcome.UNSURE
    assert "and was not verified" in outcomes["dog"].reason


def test_a_student_has_columns_by_class_and_not_by_phrase(store: "Store") -> None:
    mixed(store)
    swapped = Ontology(
        (
            ClassSpec("bare", ("person",), "Off?"),
            ClassSpec("hound", ("dog",), "Dog?"),
        )
    )
    redecide(store, "first", "swapped", swapped)
    alone = store.results.page(store.results.run("swapped").id)[2].labelled
    assert [(j.class_name, round(j.score, 2)) for j in alone.of(Outcome.ACCEPT)] == [
        ("bare", 0.97),
        ("hound", 0.92),
    ]


def test_questions_that_the_student_was_not_taught_are_refused_before_a_run_is_made(
    store: "Store", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stored_images.SETTINGS, "cascade", "student:street@0123456789ab")
    stored_run(store, "scores", [labelled("taught", answers=None), student()])
    wet = Ontology((ClassSpec("dog", question="Is it wet?"),))
    with pytest.raises(BadOntology, match="'Is it wet\\?' was not asked"):
        redecide(store, "scores", "wet", wet)
    with pytest.raises(NotFound):
        store.results.run("wet")
    assert redecide(store, "scores", "same", STREET).images == 2


def test_an_explanation_of_a_label_by_the_student_alone(store: "Store", tmp_path: "Path") -> None:
    mixed(store)
    result = store.results.page(store.results.run("first").id)[2]
    place = [j.class_name for j in result.labelled.judgements].index("dog")
    found = explain(store, result.label_id(place))
    assert found.label.judgement.decision.reason.startswith("the student was certain (0.92)")
    (dog,) = [side for side in found.classes if side.spec.name == "dog"]
    assert (round(dog.score, 2), dog.verdict) == (0.92, None)
    from secondlook.config.settings import ImageSettings

    page = write_explanation(tmp_path / "label.html", found, store.blobs, ImageSettings())
    read = Page(page.read_text())
    assert "by the student" in read.texts("i")
    assert any("alone; its scores are probabilities" in words for words in read.texts("dd"))


def test_a_snapshot_names_the_student_and_its_images(store: "Store") -> None:
    mixed(store)
    create_snapshot(store, "s", Query(runs=("first",)))
    manifest = load_manifest(store.blobs, store.snapshots.get("s").manifest)
    name = student().evidence.proposer
    assert manifest.models == ("scripted@p0", "scripted@v0", name)
    found = {entry.name: entry for _, entry in entries(store.blobs, manifest)}
    assert found["by student"].path is LabelPath.STUDENT
    assert found["audited"].path is LabelPath.AUDIT
    assert found["taught"].path is LabelPath.TEACHERS


def test_who_labelled_a_run_over_time(store: "Store") -> None:
    results = [labelled(f"t{i}") for i in range(3)] + [student(f"s{i}") for i in range(5)]
    run = stored_run(store, "first", [*results, audited()])
    parts = store.results.paths(run.id)
    counts = [sum(part.images.get(path, 0) for part in parts) for path in LabelPath]
    assert counts == [3, 5, 1]
    assert all(part.begin < part.end for part in parts)
    assert [part.begin for part in parts] == sorted(part.begin for part in parts)
    assert store.results.paths(run.id + 1) == []


@pytest.mark.parametrize("beside", ["", "student:street@0123456789ab", "student:a + student:b@1"])
def test_speakers_are_read_as_they_were_written(beside: str) -> None:
    for proposer in ("scripted@p0", "a + b@1", "student:street@0123456789ab"):
        said = replace(labelled().evidence, proposer=proposer, student=beside)
        assert parse_proposer_text(proposer_text(said)) == (proposer, beside)


share = st.sampled_from((0.0, 0.05, 0.1, 0.4, 0.5, 0.6, 0.9, 0.95, 1.0, 1 / 3))


@given(data=st.data(), accept=st.sampled_from((0.6, 0.9, 0.95)))
def test_deciding_in_bulk_is_deciding_one_by_one(data: st.DataObject, accept: float) -> None:
    images = []
    for _ in range(data.draw(st.integers(1, 3))):
        count = data.draw(st.integers(0, 5))
        boxes = [(x, 0.0, x + data.draw(st.integers(1, 6)), 5.0) for x in range(count)]
        scores = [[data.draw(share) for _ in STREET.classes] for _ in range(count)]
        rows = np.array(scores, dtype=np.float32).reshape(count, 3)
        places = np.array(boxes, dtype=np.float32).reshape(count, 4)
        images.append(Evidence(Proposals(places, rows), {}, "student:s@1", ""))
    wanted = street_ontology(accept=accept)
    columns = columns_for(wanted, STREET, LabelPath.STUDENT)
    decider = StudentBatchDecider(wanted, STREET, columns, LIMITS.nms_iou, verified=False)
    packed = [pack_evidence(said, STREET) for said in images]
    again = [unpack_evidence(content, STREET, "student:s@1", "") for content in packed]
    one_by_one = [
        pack_decisions(judge(columns.apply(said), wanted, LIMITS.nms_iou), wanted) for said in again
    ]
    assert pack_many(decider.decide(unpack_many(packed, STREET))) == one_by_one
