from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from settled import settled_job
from sqlalchemy import func, select
from stored import ANSWERS, image_of, labelled, review_box, stored_run, street_ontology

from secondlook.core.types import Labelled
from secondlook.store import ontologies as texts
from secondlook.store.results import Result
from secondlook.store.runs import create_run
from secondlook.store.schema import decisions, evidence, ontologies
from secondlook_client.errors import AlreadyExists, Damaged, InvalidInput, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Judgement, Outcome

if TYPE_CHECKING:
    from secondlook.store import Store


def plain(judgements: tuple[Judgement, ...]) -> list[Judgement]:
    """Without times, of which single precision is kept."""
    return [replace(j, verdict=replace(j.verdict, ms=0.0)) if j.verdict else j for j in judgements]


def rows_of(store: "Store", table: object) -> int:
    with store.database.reading() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def assert_same(kept: Labelled, found: Labelled) -> None:
    assert plain(kept.judgements) == plain(found.judgements)
    assert (kept.name, kept.width, kept.height) == (found.name, found.width, found.height)
    assert kept.proposals == found.proposals
    assert kept.evidence.verdicts.keys() == found.evidence.verdicts.keys()
    assert (kept.evidence.proposer, kept.evidence.verifier) == (
        found.evidence.proposer,
        found.evidence.verifier,
    )


def test_results_come_back_as_they_were_page_by_page(store: "Store") -> None:
    results = [labelled(f"p{i}", answers={**ANSWERS, "Dog?": i / 7}) for i in range(7)]
    run = stored_run(store, "first", results)
    stored_run(store, "other", [labelled("elsewhere")])
    found, after = [], 0
    while page := store.results.page(run.id, after, limit=3):
        assert len(page) <= 3
        found += page
        after = page[-1].cursor
    assert [r.labelled.name for r in found] == [f"p{i}" for i in range(7)]
    assert [r.key for r in found] == list(range(7))
    assert {r.format for r in found} == {"png"}
    for kept, made in zip(found, results, strict=True):
        assert_same(kept.labelled, made)
    assert store.results.count(run.id) == 7
    assert store.results.page(run.id, after) == []
    assert (run.proposer, run.verifier) == ("scripted@p0", "scripted@v0")


def test_the_outcome_of_one_item_is_its_result_or_its_failure(store: "Store") -> None:
    results = [labelled("a"), labelled("b")]
    run_id = settled_job(store, "day", results, failed=["broken"], waiting=["next"]).run_id
    settled_job(store, "night", [labelled("c")])
    first = store.results.outcome(run_id, 0)
    assert isinstance(first, Result) and (first.key, first.labelled.name) == (0, "a")
    assert_same(first.labelled, results[0])
    (_, last) = store.results.page(run_id)
    second = store.results.outcome(run_id, 1)
    assert isinstance(second, Result) and second.cursor == last.cursor
    assert store.results.outcome(run_id, 2) is None  # it waits
    (failed,) = store.queue.failures(run_id)
    assert store.results.outcome(run_id, failed.key) == failed
    assert failed.reason == "bad_image"
    with pytest.raises(NotFound, match="no image with key 3"):
        store.results.outcome(run_id, 3)
    review_box(store, first.image_id, "dog", (20, 5, 39, 25), "right", "ann")
    corrected = store.results.outcome(run_id, 0)
    assert isinstance(corrected, Result)
    assert len(corrected.labelled.result.labels) == len(first.labelled.result.labels) + 1


def test_a_run_without_second_look(store: "Store") -> None:
    result = labelled(answers=None)
    run = stored_run(store, "scores only", [result])
    (kept,) = store.results.page(run.id)
    assert_same(kept.labelled, result)
    assert all(j.verdict is None for j in kept.labelled.judgements)


def test_an_item_has_one_result_however_often_it_is_kept(store: "Store") -> None:
    run = stored_run(store, "first", [labelled()])
    (first,) = store.results.page(run.id)
    again = labelled(answers={**ANSWERS, "Dog?": 0.9})
    with store.database.writing() as connection:
        kept = store.results.add(connection, run, [(first.item_id, first.image_id, again)])
    assert not kept
    (only,) = store.results.page(run.id)
    assert plain(only.labelled.judgements) == plain(first.labelled.judgements)
    assert rows_of(store, evidence) == rows_of(store, decisions) == 1


def test_nothing_is_kept_of_a_transaction_that_fails(store: "Store") -> None:
    run = stored_run(store, "first", [labelled()])
    (first,) = store.results.page(run.id)
    with store.database.writing() as connection:
        other = create_run(connection, "other", "folder", run.ontology, {})
    with pytest.raises(RuntimeError), store.database.writing() as connection:
        store.results.add(connection, other, [(first.item_id, first.image_id, labelled())])
        raise RuntimeError
    assert store.results.page(other.id) == []
    assert rows_of(store, evidence) == 1


def test_runs(store: "Store") -> None:
    with pytest.raises(NotFound, match="no run 'day' in the store; nothing is labelled there yet"):
        store.results.run("day")
    with store.database.writing() as connection:
        made = create_run(connection, "night", "folder", street_ontology(), {"nms_iou": 0.5})
    assert store.results.run("night") == made
    assert (made.nms_iou, made.kind, made.parent_id, made.proposer) == (0.5, "folder", None, "")
    with pytest.raises(AlreadyExists, match="'night'"), store.database.writing() as connection:
        create_run(connection, "night", "folder", street_ontology(), {})
    with pytest.raises(NotFound, match=r"no run 'day' in the store; there is 'night'$"):
        store.results.run("day")
    with store.database.writing() as connection:
        for number in range(6):
            create_run(connection, f"night {number}", "folder", street_ontology(), {})
    with pytest.raises(NotFound, match=r"; the newest are 'night 5', 'night 4', .* 'night 1'$"):
        store.results.run("day")
    with pytest.raises(NotFound):
        store.results.page(10_000)


def test_texts_and_ontologies_are_kept_once_and_exactly(store: "Store") -> None:
    odd = Ontology((ClassSpec(" spaced ", ("a  B", "c,d"), threshold=0, accept=1), ClassSpec("犬")))
    with store.database.writing() as connection:
        first = texts.ontology_id(connection, odd)
        assert texts.ontology_id(connection, odd) == first
        assert texts.ontology_id(connection, street_ontology()) != first
        one, two = (texts.text_id(connection, text) for text in ("model@1", "модель\x00\ud800"))
        assert texts.text_id(connection, "model@1") == one
    with store.database.reading() as connection:
        again = texts.load_ontology(connection, first)
        assert (again, again.digest) == (odd, odd.digest)
        assert texts.load_texts(connection, [one, two]) == {one: "model@1", two: "модель??"}
        with pytest.raises(NotFound):
            texts.load_ontology(connection, first + 100)
        with pytest.raises(Damaged, match="text 999"):
            texts.load_texts(connection, [one, 999])


def test_an_ontology_that_was_changed_behind_our_back_is_reported(store: "Store") -> None:
    run = stored_run(store, "first", [labelled()])
    with store.database.writing() as connection:
        bent = texts.ontology_json(street_ontology(accept=0.7))
        connection.execute(ontologies.update().values(classes=bent))
    with pytest.raises(Damaged, match="has changed since"):
        store.results.page(run.id)


def test_a_persons_word_outranks_every_run(store: "Store") -> None:
    run = stored_run(store, "first", [labelled()])
    image = image_of(store, "street")
    review_box(store, image, "dog", (21, 6, 39, 25), "right", "Ann", "a dog, seen from behind")
    review_box(store, image, "glasses on", (1, 1, 12, 20), "wrong", "Ann")
    later = stored_run(store, "later", [labelled()])
    for found in (run, later):
        (result,) = store.results.page(found.id)
        on, off, dog = result.labelled.judgements
        assert (on.decision.outcome, on.decision.probability) == (Outcome.REJECT, 0.0)
        assert on.decision.reason == "Ann says that it is wrong"
        assert (off.decision.outcome, off.decision.reason) == (
            Outcome.REJECT,
            "P(yes) 0.02 ≤ 0.40",
        )
        assert (dog.decision.outcome, dog.decision.probability) == (Outcome.ACCEPT, 1.0)
        assert dog.decision.reason == "Ann says that it is right: a dog, seen from behind"
        assert dog.box == (20, 5, 39, 25)
    review_box(store, image, "dog", (20, 5, 39, 25), "unsure", "Ben")
    (result,) = store.results.page(run.id)
    assert result.labelled.judgements[2].decision.outcome is Outcome.UNSURE


def test_a_person_may_add_a_box_that_no_model_found(store: "Store") -> None:
    run = stored_run(store, "first", [labelled()])
    image, box = image_of(store, "street"), (14.5, 1, 19, 6)
    review_box(store, image, "dog", box, "wrong", "Ann")  # nothing there to reject
    review_box(store, image, "dog", box, "right", "Ann")
    review_box(store, image, "cat", box, "right", "Ann")  # no class of this run
    (result,) = store.results.page(run.id)
    assert len(result.labelled.judgements) == 4
    added = result.labelled.judgements[3]
    assert (added.class_name, added.box, added.row, added.verdict) == ("dog", box, -1, None)
    label = store.results.label(result.label_id(3))
    assert (label.judgement, label.decided) == (added, None)
    review_box(store, image, "dog", box, "wrong", "Ben")
    assert store.results.label(result.label_id(3)).judgement.decision.outcome is Outcome.REJECT


@pytest.mark.parametrize(
    ("class_name", "box", "person", "message"),
    [
        ("", (0, 0, 1, 1), "Ann", "class of 1 to 120"),
        ("dog", (0, 0, 1, 1), " ", "person of 1 to 120"),
        ("dog", (0, 0, 0, 1), "Ann", "x2 > x1"),
        ("dog", (0, 0, float("nan"), 1), "Ann", "x2 > x1"),
    ],
)
def test_a_review_without_sense_is_refused(
    store: "Store", class_name: str, box: tuple[float, ...], person: str, message: str
) -> None:
    stored_run(store, "first", [labelled()])
    with pytest.raises(InvalidInput, match=message):
        review_box(store, 1, class_name, box, "right", person)


def test_a_label_with_all_that_it_came_from(store: "Store") -> None:
    run = stored_run(store, "first", [labelled(), labelled("empty", rows=())])
    result, empty = store.results.page(run.id)
    review_box(store, result.image_id, "dog", (20, 5, 39, 25), "right", "Ann")
    label = store.results.label(f"{result.cursor}.2")
    assert (label.run.name, label.evidence_run.name) == ("first", "first")
    assert label.judgement.decision.outcome is Outcome.ACCEPT
    assert label.decided is not None
    assert label.decided.decision.outcome is Outcome.UNSURE
    assert [r.person for r in label.reviews] == ["Ann"]
    with pytest.raises(NotFound, match=rf"{result.cursor}\.0 to {result.cursor}\.2"):
        store.results.label(f"{result.cursor}.3")
    with pytest.raises(NotFound, match="nothing was judged"):
        store.results.label(f"{empty.cursor}.0")
    with pytest.raises(NotFound, match=r"no label '999\.0'"):
        store.results.label("999.0")
    for wrong in ("81", "a.b", "1.-1", ""):
        with pytest.raises(InvalidInput, match=r"such as 81\.3"):
            store.results.label(wrong)


def test_a_label_beyond_every_database_is_not_there(store: "Store") -> None:
    with pytest.raises(NotFound, match=r"no label '9+\.0'"):
        store.results.label("99999999999999999999.0")
