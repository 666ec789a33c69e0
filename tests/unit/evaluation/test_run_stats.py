"""Before and after the second look, on a case worked out by hand."""

from dataclasses import replace

import pytest
from labelled import judged, result

from secondlook.core.types import NOT_ASKED
from secondlook.evaluation.matching import Counts, TrueBox
from secondlook.evaluation.run_stats import RunStats, compare_stages
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import WHOLE_IMAGE, Answer, Decision, EmptyReason, Outcome

ONE, TWO = (0.0, 0.0, 50.0, 50.0), (100.0, 0.0, 150.0, 50.0)
ONTOLOGY = Ontology(
    (
        ClassSpec("person"),
        ClassSpec("wearing glasses", ("person",), "Glasses?", group="eyes", threshold=0.3),
        ClassSpec("not wearing glasses", ("person",), "No glasses?", group="eyes"),
    )
)
IMAGES = [
    (
        "a.jpg",
        result(
            judged("person", ONE),
            judged("wearing glasses", ONE),
            judged("not wearing glasses", ONE, Outcome.REJECT),
            judged("person", TWO),
            judged("wearing glasses", TWO, Outcome.UNSURE),
            judged("not wearing glasses", TWO, Outcome.UNSURE, error="the model is down"),
        ),
    ),
    ("b.jpg", result(judged("wearing glasses", ONE, Outcome.REJECT, score=0.29))),
]
TRUTH = {
    "a.jpg": [
        TrueBox("person", ONE),
        TrueBox("person", TWO),
        TrueBox("wearing glasses", ONE),
        TrueBox("not wearing glasses", TWO),
    ],
    "b.jpg": [],
}


def test_the_proposer_alone_says_everything_and_the_second_look_only_what_it_heard():
    change = compare_stages(lambda: iter(IMAGES), TRUTH, ONTOLOGY)
    assert change.before.by_class == {
        "person": Counts(right=2),
        "wearing glasses": Counts(right=1, wrong=1),  # the box at 0.29 is under its threshold
        "not wearing glasses": Counts(right=1, wrong=1),
    }
    assert change.after.by_class == {
        "person": Counts(right=2),
        "wearing glasses": Counts(right=1),
        "not wearing glasses": Counts(missed=1),
    }
    assert change.before.total().precision == pytest.approx(4 / 6)
    assert change.after.total().precision == 1


def test_totals_count_judgements_and_missing_verdicts():
    totals = RunStats.of(found for _, found in IMAGES)
    assert (totals.images, totals.proposals) == (2, 3)
    assert (totals.accepted, totals.rejected, totals.unsure) == (3, 2, 2)
    assert (totals.judged_boxes, totals.decisions) == (3, 7)
    assert totals.empty == {EmptyReason.ALL_REJECTED: 1}
    assert (totals.without_verdict, totals.first_error) == (1, "the model is down")
    assert totals.by_class["wearing glasses"][Outcome.UNSURE] == 1


def test_doubts_about_whole_images_are_counted_apart():
    doubt = replace(judged("person", (0, 0, 320, 240), Outcome.UNSURE), row=WHOLE_IMAGE)
    totals = RunStats.of([result(doubt), result(), IMAGES[1][1]])
    assert (totals.unsure, totals.rejected, totals.decisions) == (0, 1, 1)
    assert (totals.doubts, totals.doubtful_images, totals.judged_boxes) == (1, 1, 1)
    assert totals.empty == {EmptyReason.NOTHING_PROPOSED: 1, EmptyReason.ALL_REJECTED: 1}
    change = compare_stages(lambda: iter([("b.jpg", result(doubt))]), TRUTH, ONTOLOGY)
    assert change.before.total() == Counts()


def test_what_was_not_asked_on_purpose_is_no_missing_verdict():
    unasked = judged("person", ONE, error=NOT_ASKED)
    certain = Decision(Outcome.ACCEPT, 0.98, "not asked: probability 0.98 ≥ 0.60 without it")
    open_ = Decision(Outcome.UNSURE, 0.5, f"no verdict: {NOT_ASKED}")
    totals = RunStats.of([result(*(replace(unasked, decision=one) for one in (certain, open_)))])
    assert (totals.not_asked, totals.without_verdict) == (1, 1)


def test_a_verifier_that_never_answers_is_found_out_where_not_all_is_asked():
    said = judged("person", ONE, Outcome.UNSURE)
    maybe = replace(said, verdict=replace(said.verdict, answer=Answer(None, "maybe")))
    certain = judged("person", TWO, error=NOT_ASKED)
    assert RunStats.of([result(maybe, certain)]).verifier_never_answered
    assert not RunStats.of([result(certain)]).verifier_never_answered
