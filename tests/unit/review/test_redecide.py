import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete
from stored import ANSWERS, LIMITS, STREET, labelled, stored_run, street_ontology

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Labelled
from secondlook.labeling.calibrator import Calibrator, ClassFit
from secondlook.labeling.decisions import judge
from secondlook.review import redecide as module
from secondlook.review.redecide import RedecideProgress, redecide
from secondlook.store.runs import DUPLICATE_IOU, Run, create_run
from secondlook.store.schema import decisions
from secondlook_client.errors import (
    AlreadyExists,
    BadOntology,
    BadSetting,
    InvalidInput,
    NotFound,
)
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome

if TYPE_CHECKING:
    from secondlook.store import Store

NAMES = ("first", "sure", "again", "without")
STRICT = street_ontology(threshold=0.25, accept=0.97)


def results(count: int = 5) -> list[Labelled]:
    return [labelled(f"p{i}", answers={**ANSWERS, "Dog?": i / 7}) for i in range(count)]


def test_a_run_decided_again_is_what_judge_makes_of_it(store: "Store") -> None:
    first = stored_run(store, "first", results())
    told = redecide(store, "first", "strict", STRICT)
    assert (told.images, told.before, told.not_asked) == (5, 0, 0)
    assert (told.run.kind, told.run.parent_id, told.run.proposer) == (
        "redecide",
        first.id,
        "scripted@p0",
    )
    before, after = store.results.page(first.id), store.results.page(told.run.id)
    for old, new in zip(before, after, strict=True):
        assert (old.item_id, old.key, old.labelled.name) == (
            new.item_id,
            new.key,
            new.labelled.name,
        )
        assert new.labelled.judgements == judge(new.labelled.evidence, STRICT, LIMITS.nms_iou)
        assert old.labelled.judgements[0].decision.outcome is Outcome.ACCEPT
        assert new.labelled.judgements[0].decision.outcome is Outcome.UNSURE


def test_other_classes_already_asked_and_a_run_of_a_run(store: "Store") -> None:
    stored_run(store, "first", results())
    dogs = Ontology((ClassSpec("hound", ("dog",), "Dog?", accept=0.5, reject=0.3),))
    redecide(store, "first", "dogs", dogs)
    told = redecide(store, "dogs", "again", street_ontology())
    for old, new in zip(
        store.results.page(store.results.run("first").id),
        store.results.page(told.run.id),
        strict=True,
    ):
        assert old.labelled.judgements == new.labelled.judgements
    (_, last) = store.results.page(store.results.run("dogs").id)[-2:]
    (hound,) = last.labelled.judgements
    assert (hound.class_name, hound.decision.outcome) == ("hound", Outcome.ACCEPT)
    assert last.labelled.evidence.proposals.scores.shape == (4, 1)
    label = store.results.label(last.label_id(0))
    assert (label.run.name, label.evidence_run.name) == ("dogs", "first")


def test_boxes_below_the_old_threshold_were_not_asked_about(store: "Store") -> None:
    stored_run(store, "first", results(2))
    told = redecide(store, "first", "lower", street_ontology(threshold=0.15))
    assert told.not_asked == 2  # the dog of 0.2, once an image


def test_without_a_second_look_scores_decide(store: "Store") -> None:
    stored_run(store, "scores", [labelled(answers=None)])
    unasked = Ontology((ClassSpec("dog", question="Never asked?", threshold=0.15),))
    told = redecide(store, "scores", "lower", unasked)
    (result,) = store.results.page(told.run.id)
    assert result.labelled.judgements == judge(result.labelled.evidence, unasked, LIMITS.nms_iou)
    assert len(result.labelled.of(Outcome.ACCEPT)) == 2


def test_runs_of_two_ontologies_and_suppression(store: "Store") -> None:
    stored_run(store, "first", results(2))
    loose = redecide(store, "first", "loose", street_ontology(), nms_iou=1.0)
    assert loose.run.nms_iou == 1.0
    (result, _) = store.results.page(loose.run.id)
    assert len(result.labelled.judgements) == 4  # the second box of the dog, too
    assert redecide(store, "loose", "as loose", street_ontology()).run.nms_iou == 1.0


def test_a_call_that_was_stopped_goes_on(store: "Store", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    stored_run(store, "first", results())

    class Stopped(Exception):
        pass

    def stop(told: RedecideProgress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        redecide(store, "first", "strict", STRICT, progress=stop)
    seen: list[int] = []
    told = redecide(store, "first", "strict", STRICT, progress=lambda t: seen.append(t.images))
    assert (told.before, told.images, seen) == (2, 3, [2, 3])
    names = [r.labelled.name for r in store.results.page(told.run.id)]
    assert names == ["p0", "p1", "p2", "p3", "p4"]
    assert redecide(store, "first", "strict", STRICT).images == 0


def test_what_was_labelled_since_is_decided_by_the_next_call(store: "Store") -> None:
    first = stored_run(store, "first", results(3))
    redecide(store, "first", "strict", STRICT)
    (last,) = store.results.page(first.id)[-1:]
    with store.database.writing() as connection:  # as if the third were labelled now
        connection.execute(delete(decisions).where(decisions.c.item_id == last.item_id))
        store.results.add(connection, first, [(last.item_id, last.image_id, last.labelled)])
    assert redecide(store, "first", "strict", STRICT).images == 1


def test_what_the_kept_evidence_cannot_decide_is_refused(store: "Store") -> None:
    stored_run(store, "first", results(1))

    def refused(ontology: Ontology, said: str) -> None:
        with pytest.raises(BadOntology, match=said):
            redecide(store, "first", "new", ontology)
        with pytest.raises(NotFound):
            store.results.run("new")

    refused(Ontology((ClassSpec("cat"),)), "no scores for 'cat'")
    refused(Ontology((ClassSpec("dog", question="Is it wet?"),)), "'Is it wet\\?' was not asked")
    refused(street_ontology(threshold=0.05), r"0\.05 is below 0\.1")
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        redecide(store, "first", "new", STRICT, nms_iou=1.5)
    with pytest.raises(InvalidInput, match="duplicate_iou"):
        redecide(store, "first", "new", STRICT, duplicate_iou=-0.1)
    with pytest.raises(NotFound, match="no run 'second'"):
        redecide(store, "second", "new", STRICT)
    with store.database.writing() as connection:
        create_run(connection, "empty", "folder", STRICT, {})
    with pytest.raises(InvalidInput, match="no results yet"):
        redecide(store, "empty", "new", STRICT)


def test_a_name_in_use_is_refused(store: "Store") -> None:
    stored_run(store, "first", results(1))
    redecide(store, "first", "strict", STRICT)
    for ontology, nms_iou, name in (
        (street_ontology(accept=0.8), None, "strict"),
        (STRICT, 0.1, "strict"),
        (STRICT, None, "first"),
    ):
        with pytest.raises(AlreadyExists, match="choose another name"):
            redecide(store, "first", name, ontology, nms_iou)


def calibrated(probability: float, *classes: str, **more: object) -> Calibrator:
    """One that gives every box of these classes the same probability."""
    fit = ClassFit(math.log(probability / (1 - probability)), ())
    names = classes or street_ontology().names
    return Calibrator(names, (), (), (fit,) * len(names), **more)  # type: ignore[arg-type]


def test_a_calibrator_is_kept_with_the_run_and_decides_its_runs_too(store: "Store") -> None:
    stored_run(store, "first", results())
    sure = calibrated(0.83, proposer="scripted@p0", verifier="scripted@v0")
    told = redecide(store, "first", "sure", street_ontology(), calibrator=sure)
    assert (told.run.calibrator, store.calibrators.get(sure.digest)) == (sure.digest, sure)
    again = redecide(store, "sure", "again", street_ontology())
    without = redecide(store, "again", "without", street_ontology(), calibrator="")
    assert (again.run.calibrator, without.run.calibrator) == (sure.digest, "")
    first, *later = (store.results.page(store.results.run(name).id) for name in NAMES)
    for old, *new in zip(first, *later, strict=True):
        size = (old.labelled.width, old.labelled.height)
        expected = judge(old.labelled.evidence, street_ontology(), LIMITS.nms_iou, sure, size)
        assert [one.labelled.judgements for one in new] == [
            expected,
            expected,
            old.labelled.judgements,
        ]
        assert [one.probability for one in expected] == [pytest.approx(0.83)] * len(expected)


@pytest.mark.parametrize(
    ("calibrator", "said"),
    [
        (calibrated(0.8, "dog"), "no class 'glasses on'"),
        (
            calibrated(0.8, proposer="other@1"),
            "fitted to the proposer other@1, and this is scripted",
        ),
        (
            calibrated(0.8, verifier="other@1"),
            "fitted to the verifier other@1, and this is scripted",
        ),
    ],
)
def test_a_calibrator_of_other_classes_or_models_is_refused(
    store: "Store", calibrator: Calibrator, said: str
) -> None:
    stored_run(store, "first", results(1))
    with pytest.raises((InvalidInput, BadSetting), match=said):
        redecide(store, "first", "new", street_ontology(), calibrator=calibrator)
    with pytest.raises(NotFound):
        store.results.run("new")
    assert store.calibrators.page() == []


def test_runs_of_before_lose_their_duplicates(store: "Store") -> None:
    twice = (*STREET[:2], ((15, 5, 34, 25), {"dog": 0.4}))  # IoU with the dog: 0.58
    with_both = labelled("p", rows=twice, answers={**ANSWERS, "Dog?": 0.9}, duplicate_iou=1.0)
    before = stored_run(store, "first", [with_both], settings={"score_floor": 0.1})
    assert before.duplicate_iou == DUPLICATE_IOU == PipelineSettings.duplicate_iou
    told = redecide(store, "first", "new", street_ontology())
    kept = redecide(store, "first", "kept", street_ontology(), duplicate_iou=1.0)

    def dogs(run: Run) -> list[Outcome]:
        (result,) = store.results.page(run.id)
        return [one.outcome for one in result.labelled.judgements if one.class_name == "dog"]

    assert dogs(before) == dogs(kept.run) == [Outcome.ACCEPT] * 2
    assert dogs(told.run) == [Outcome.ACCEPT, Outcome.REJECT]
    assert (told.run.duplicate_iou, kept.run.duplicate_iou) == (DUPLICATE_IOU, 1.0)


def test_where_nothing_was_suppressed_duplicates_stay(store: "Store") -> None:
    """As of verified annotations, each of which has its own answer."""
    run = stored_run(store, "first", results(1), settings={"score_floor": 0.1, "nms_iou": 1.0})
    assert run.duplicate_iou == 1.0


def test_empty_images_stay_empty(store: "Store") -> None:
    stored_run(store, "first", [labelled("nothing", rows=()), labelled("far", rows=STREET[3:])])
    told = redecide(store, "first", "strict", STRICT)
    found = store.results.page(told.run.id)
    assert [r.labelled.judgements for r in found] == [(), ()]
    assert replace(told, run=told.run).images == 2
