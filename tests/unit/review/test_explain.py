import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from stored import (
    ANSWERS,
    LIMITS,
    STREET,
    encoded,
    image_of,
    labelled,
    review_box,
    stored_run,
    street_ontology,
)

from secondlook.cli.runs import explanation_json
from secondlook.config.settings import ImageSettings
from secondlook.core.images import decode
from secondlook.labeling.box_features import FEATURES
from secondlook.labeling.calibrator import BASE, Calibrator, ClassFit
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.review.explain import FEATURE_WORDS, explain, rerun_models
from secondlook.review.pages import write_explanation
from secondlook.review.redecide import redecide
from secondlook_client.errors import Damaged
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from secondlook.store import Store


def label_of(store: "Store", run: str, place: int) -> str:
    (result,) = store.results.page(store.results.run(run).id)
    return result.label_id(place)


def pipeline(rows: object = STREET, answers: object = ANSWERS) -> Pipeline:
    proposer = ScriptedProposer(lambda image, phrases: rows)  # type: ignore[arg-type,return-value]
    return Pipeline(proposer, ScriptedVerifier(answers), LIMITS)  # type: ignore[arg-type]


def test_the_evidence_of_every_class_for_the_box(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    found = explain(store, label_of(store, "first", 2))
    on, off, dog = found.classes
    assert (dog.spec.name, dog.same_group, dog.score) == ("dog", True, pytest.approx(0.7))
    assert (dog.spec.threshold, dog.spec.accept, dog.spec.reject) == (0.25, 0.6, 0.4)
    assert dog.verdict is not None
    assert (dog.verdict.question, dog.verdict.answer.p_yes, dog.verdict.answer.raw) == (
        "Dog?",
        0.5,
        "no",
    )
    assert dog.verdict.model == "scripted@v0"
    assert dog.judgement == found.label.judgement
    assert (on.score, on.verdict, on.judgement, on.same_group) == (
        pytest.approx(0.12),
        None,
        None,
        False,
    )
    on, off, dog = explain(store, label_of(store, "first", 0)).classes
    assert (on.same_group, off.same_group, dog.same_group) == (True, True, False)
    assert off.judgement is not None
    assert off.judgement.decision.outcome is Outcome.REJECT


def test_a_box_that_a_person_added_has_no_scores(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    review_box(store, image_of(store, "street"), "dog", (14, 1, 19, 6), "right", "Ann")
    found = explain(store, label_of(store, "first", 3))
    assert found.classes == ()
    again = rerun_models(store, found.label, pipeline(), ImageSettings())
    assert (again.score, again.judgement, again.same_outcome) == (None, None, False)


def test_the_same_models_say_the_same(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    hounds = Ontology((ClassSpec("hound", ("dog",), "Dog?", accept=0.45, reject=0.3),))
    redecide(store, "first", "hounds", hounds)
    for run, place, outcome in (
        ("first", 2, Outcome.UNSURE),
        ("first", 0, Outcome.ACCEPT),
        ("hounds", 0, Outcome.ACCEPT),
    ):
        label = explain(store, label_of(store, run, place)).label
        again = rerun_models(store, label, pipeline(), ImageSettings())
        assert again.same_outcome
        assert again.same_models
        assert again.overlap == 1.0
        assert again.score == label.judgement.score
        assert again.judgement is not None
        assert again.judgement.decision == label.judgement.decision
        assert again.judgement.decision.outcome is outcome


def test_a_doubt_about_the_whole_image_has_the_answers_of_every_class(store: "Store") -> None:
    said = {spec.presence_question: 0.1 for spec in street_ontology().classes}
    said[street_ontology().classes[2].presence_question] = 0.7
    asked = replace(LIMITS, verify_empty=True)
    doubting = Pipeline(ScriptedProposer(lambda *_: []), ScriptedVerifier(said), asked)
    image = decode(encoded("street"), "street")
    stored_run(store, "first", doubting.label([Task(image, street_ontology())]))
    found = explain(store, label_of(store, "first", 0))
    assert (found.label.judgement.whole_image, found.label.judgement.class_name) == (True, "dog")
    assert [c.verdict.answer.p_yes for c in found.classes if c.verdict] == [0.1, 0.1, 0.7]
    assert [c.judgement is not None for c in found.classes] == [False, False, True]
    again = rerun_models(store, found.label, doubting, ImageSettings())
    assert (again.same_outcome, again.overlap, again.score) == (True, 1.0, 0.0)
    sure = {**said, street_ontology().classes[2].presence_question: 0.1}
    doubting.verifier = ScriptedVerifier(sure)
    doubting.verifier.digest = "v1"
    other = rerun_models(store, found.label, doubting, ImageSettings())
    assert (other.same_outcome, other.judgement) == (False, None)
    redecide(store, "first", "strict", Ontology((ClassSpec("dog", question="Dog?", reject=0.2),)))
    redecide(store, "first", "hound", Ontology((ClassSpec("hound", ("dog",), "Dog?"),)))
    names = ("strict", "hound")
    reasons = [explain(store, label_of(store, run, 0)).label.judgement.reason for run in names]
    assert reasons[0] == "not verified to be empty: P(yes) 0.70 > 0.20"
    assert "this question was not asked of the image" in reasons[1]


def test_other_answers_are_another_outcome(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    label = explain(store, label_of(store, "first", 2)).label
    surer = pipeline(answers={**ANSWERS, "Dog?": 0.9})
    surer.verifier.digest = "v1"  # type: ignore[union-attr]
    again = rerun_models(store, label, surer, ImageSettings())
    assert (again.same_outcome, again.same_models, again.verifier) == (False, False, "scripted@v1")
    assert again.judgement is not None
    assert again.judgement.decision.outcome is Outcome.ACCEPT
    moved = pipeline((((19, 4, 38, 24), {"dog": 0.7}),))
    again = rerun_models(store, label, moved, ImageSettings())
    assert again.same_outcome
    assert 0.5 < again.overlap < 1
    nothing = rerun_models(store, label, pipeline(()), ImageSettings())
    assert (nothing.score, nothing.judgement, nothing.same_outcome) == (None, None, False)


def test_a_rerun_is_compared_with_the_decision_before_reviews(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    image = image_of(store, "street")
    review_box(store, image, "dog", (20, 5, 39, 25), "right", "Ann")
    label = explain(store, label_of(store, "first", 2)).label
    assert label.judgement.decision.outcome is Outcome.ACCEPT
    assert rerun_models(store, label, pipeline(), ImageSettings()).same_outcome


def test_the_page_has_the_image_and_the_box(store: "Store", tmp_path: "Path") -> None:
    stored_run(store, "first", [labelled()])
    found = explain(store, label_of(store, "first", 0))
    page = tmp_path / "explain.html"
    write_explanation(page, found, store.blobs, ImageSettings())
    text = page.read_text()
    assert "glasses on in street" in text
    assert text.count("data:image/webp;base64,") == 2
    assert "glasses off" in text
    assert "Dog?" not in text
    store.blobs.remove(found.label.result.labelled.sha256)
    write_explanation(page, found, store.blobs, ImageSettings())
    assert "the image cannot be shown" in page.read_text()


def test_a_image_that_was_changed_is_not_judged(store: "Store", tmp_path: "Path") -> None:
    stored_run(store, "first", [labelled()])
    label = explain(store, label_of(store, "first", 0)).label
    sha256 = label.result.labelled.sha256
    (file,) = (tmp_path / "data" / "blobs").rglob(f"*{sha256[4:]}*")
    file.chmod(0o600)
    file.write_bytes(encoded("another"))
    with pytest.raises(Damaged):
        rerun_models(store, label, pipeline(), ImageSettings())


def test_thresholds_of_the_run_are_shown_not_those_of_its_parent(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    redecide(store, "first", "strict", street_ontology(threshold=0.3, accept=0.97))
    (on, *_) = explain(store, label_of(store, "strict", 0)).classes
    assert (on.spec.threshold, on.spec.accept) == (0.3, 0.97)


def test_why_a_calibrator_gave_this_probability(store: "Store", tmp_path: "Path") -> None:
    calibrator = Calibrator(
        street_ontology().names,
        ("score", "p_yes", "size", "near"),
        (0.5, 0.2, -1.0, 0.0),
        (ClassFit(0.3, (0.7, 1.5, -0.2, 0.0)),) * 3,
        {"dog": 0.95},
    )
    stored_run(store, "first", [labelled()])
    redecide(store, "first", "new", street_ontology(), calibrator=calibrator)
    found = explain(store, label_of(store, "new", 0))
    assert found.calibrator == calibrator
    told = {one.feature: one.log_odds for one in found.contributions}
    assert set(told) == {"base", "score", "p_yes", "size"}  # without what adds nothing
    probability = found.label.judgement.probability
    assert sum(told.values()) == pytest.approx(math.log(probability / (1 - probability)))
    limits = {one.spec.name: one.spec.accept for one in found.classes}
    assert limits == {"glasses on": 0.6, "glasses off": 0.6, "dog": 0.95}
    page = write_explanation(tmp_path / "why.html", found, store.blobs, ImageSettings())
    assert "the verifier&#39;s P(yes)" in page.read_text()
    assert explanation_json(found)["contributions"][0]["feature"] == "base"


def test_answers_that_decide_alone_need_no_why(store: "Store") -> None:
    stored_run(store, "first", [labelled()])
    found = explain(store, label_of(store, "first", 0))
    assert (found.calibrator, found.contributions) == (None, ())


def test_without_a_verdict_no_calibrator_decided(store: "Store") -> None:
    stored_run(store, "first", [labelled(answers={**ANSWERS, "On?": Answer(None, "hm")})])
    by_answers = Calibrator(
        street_ontology().names, ("p_yes",), (0.0,), (ClassFit(0.0, (1.0,)),) * 3
    )
    redecide(store, "first", "new", street_ontology(), calibrator=by_answers)
    on, off = (explain(store, label_of(store, "new", place)) for place in (0, 1))
    assert (on.calibrator, off.calibrator) == (None, by_answers)


def test_a_rerun_is_decided_by_the_run_s_own_calibrator(store: "Store") -> None:
    names = street_ontology().names
    doubting = Calibrator(names, (), (), (ClassFit(0.0, ()),) * 3)
    stored_run(store, "first", [labelled()])
    redecide(store, "first", "new", street_ontology(), calibrator=doubting)
    label = explain(store, label_of(store, "new", 0)).label
    again = rerun_models(store, label, pipeline(), ImageSettings())
    assert again.same_outcome
    assert again.judgement is not None
    assert again.judgement.reason == label.judgement.reason
    assert again.judgement.reason.startswith("probability 0.50 is between 0.40 and 0.60")


def test_every_feature_has_words() -> None:
    assert set(FEATURE_WORDS) == {BASE, *FEATURES}
