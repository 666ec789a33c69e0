"""Values to messages and back: nothing is lost, and both sides have the same words."""

import json
from dataclasses import replace
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook_client import wire
from secondlook_client.errors import BadOntology, Damaged
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec
from secondlook_client.v1 import jobs_pb2 as jobs_pb
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.values import (
    WHOLE_IMAGE,
    Answer,
    BoxSource,
    Decision,
    Job,
    JobKind,
    JobState,
    Judgement,
    LabelPath,
    LabelResult,
    Outcome,
    Verdict,
    View,
)

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
UNIT = st.floats(0, 1)
SIDE = st.floats(0, 4096, width=32)
ANSWERS = st.builds(Answer, st.none() | UNIT, WORDS, WORDS, st.booleans())
VERDICTS = st.builds(
    Verdict, WORDS.filter(bool), st.sampled_from(View), ANSWERS, WORDS, UNIT, st.booleans()
)
JUDGEMENTS = st.builds(
    Judgement,
    WORDS,
    st.tuples(SIDE, SIDE, SIDE, SIDE),
    UNIT,
    st.none() | VERDICTS,
    st.builds(Decision, st.sampled_from(Outcome), UNIT, WORDS),
    st.sampled_from((-1, WHOLE_IMAGE)),
)
RESULTS = st.builds(
    LabelResult,
    WORDS,
    WORDS,
    st.integers(1, 9999),
    st.integers(1, 9999),
    st.integers(0, 900),
    st.lists(JUDGEMENTS, max_size=3).map(tuple),
    WORDS,
    WORDS,
    st.dictionaries(WORDS, UNIT, max_size=2),
    st.sampled_from(LabelPath),
    st.lists(VERDICTS, max_size=2).map(tuple),
)


@given(RESULTS)
def test_a_result_comes_back_as_it_was(result: LabelResult) -> None:
    sent = wire.labelled_message(result).SerializeToString()
    assert wire.label_result(pb.Labelled.FromString(sent)) == result
    assert LabelResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@given(RESULTS)
def test_only_labels_are_sent_where_only_they_are_wanted(result: LabelResult) -> None:
    message = wire.labelled_message(result, every=False)
    again = wire.label_result(message)
    assert (again.judgements, again.image_verdicts) == (result.labels, ())
    assert again.empty is result.empty


def test_a_judgement_is_stored_flat() -> None:
    verdict = Verdict("Is it?", View.CONTEXT, Answer(0.9, "Yes"), "vlm@1", 12.0)
    judgement = Judgement("a", (1, 2, 3, 4), 0.5, verdict, Decision(Outcome.ACCEPT, 0.9, "sure"))
    assert judgement.to_dict() == {
        "class_name": "a",
        "box": (1, 2, 3, 4),
        "score": 0.5,
        "outcome": "accept",
        "probability": 0.9,
        "reason": "sure",
        "question": "Is it?",
        "view": "context",
        "p_yes": 0.9,
        "raw_answer": "Yes",
        "error": "",
        "exact": True,
        "verifier": "vlm@1",
        "verify_ms": 12.0,
        "cached": False,
        "whole_image": False,
        "segmentation": None,
        "track": 0,
    }


def test_classes_come_back_as_they_were() -> None:
    whole = ClassSpec("a", ("b", "c"), "Is it?", View.IMAGE, "g", 0.1, 0.9, 0.2, "Any?")
    others = (
        ClassSpec("cat", accept=0.5, reject=0.0),
        ClassSpec("owl", mask=True, box=BoxSource.MASK),
        ClassSpec("cow", mask=False),
    )
    message = wire.ontology_message([whole, "dog", *others])
    assert message is not None
    assert wire.class_specs(message) == (whole, ClassSpec("dog"), *others)


def segmented(
    width: int = 4, height: int = 3, counts: str = "0<"
) -> tuple[LabelResult, pb.Labelled]:
    """An image of 4×3 pixels whose only label has this mask, and its message."""
    mask = Segmentation(Mask(width, height, counts), 0.75, 0.5, "sam@1")
    decision = Decision(Outcome.ACCEPT, 0.9, "sure")
    label = Judgement("a", (0, 0, 4, 3), 0.5, None, decision, -1, mask)
    result = LabelResult("", "0" * 64, 4, 3, 1, (label,), "p@1", "v@1")
    return result, wire.labelled_message(result)


def test_masks_come_back_as_they_were() -> None:
    result, message = segmented()
    assert wire.label_result(message) == result
    assert LabelResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.labels[0].mask is not None and result.labels[0].mask.area == 12


def test_a_track_comes_back_and_older_results_have_none() -> None:
    plain, _ = segmented()
    label = replace(plain.labels[0], track=7)
    result = replace(plain, judgements=(label,))
    assert wire.label_result(wire.labelled_message(result)) == result
    written = json.loads(json.dumps(result.to_dict()))
    assert LabelResult.from_dict(written).labels[0].track == 7
    del written["judgements"][0]["track"]
    assert LabelResult.from_dict(written).labels[0].track == 0


@pytest.mark.parametrize(
    ("width", "height", "counts", "reason"),
    [
        (4, 3, "0;", "does not fill its image: 11 of 12 pixels"),
        (4, 3, "", "does not fill its image"),
        (4, 3, "0l", "ends in the middle of a number"),
        (4, 3, "\x7f", "characters that none has"),
        (3, 4, "0<", " of 3 × 4 pixels for an image of 4 × 3"),
    ],
)
def test_a_mask_of_a_hostile_server_is_reported(
    width: int, height: int, counts: str, reason: str
) -> None:
    _, message = segmented(width, height, counts)
    with pytest.raises(Damaged, match=f"the server sent a mask.*{reason}"):
        wire.label_result(message)


def test_a_mask_out_of_bounds_is_reported() -> None:
    _, message = segmented()
    sent = message.judgements[0].segmentation.mask
    for wrong in (pb.Mask(width=4, height=3, counts="0" * (2**20 + 1)), pb.Mask()):
        sent.CopyFrom(wrong)
        with pytest.raises(Damaged, match="the server sent a mask that cannot be used"):
            wire.label_result(message)


def test_a_box_source_of_a_newer_client_is_refused() -> None:
    message = pb.Ontology(classes=[pb.ClassSpec(name="a", box=9)])  # type: ignore[arg-type]
    with pytest.raises(BadOntology, match="got number 9; is the client newer"):
        wire.class_specs(message)


def test_a_view_of_a_newer_client_is_refused() -> None:
    message = pb.Ontology(classes=[pb.ClassSpec(name="a", view=9)])  # type: ignore[arg-type]
    with pytest.raises(BadOntology, match="got number 9; is the client newer"):
        wire.class_specs(message)


@pytest.mark.parametrize(
    "numbers",
    [value for value in vars(wire).values() if isinstance(value, wire.EnumNumbers)],
    ids=lambda numbers: type(next(iter(numbers.member.values()))).__name__,
)
def test_every_member_of_an_enum_has_its_number(numbers: wire.EnumNumbers[StrEnum]) -> None:
    kind = type(next(iter(numbers.member.values())))
    assert set(numbers.number) == {member for member in kind if member.name != "UNKNOWN"}
    assert sorted(numbers.member) == list(range(1, len(numbers.member) + 1))


def test_what_a_newer_server_says_is_unknown_and_what_it_leaves_out_is_none() -> None:
    job = wire.job(jobs_pb.Job(name="a", kind=99, state=99))  # type: ignore[arg-type]
    assert (job.kind, job.state, job.classes) == (JobKind.UNKNOWN, JobState.UNKNOWN, None)
    assert isinstance(job, Job) and not job.over
    progress = wire.job_progress(jobs_pb.WatchJobResponse(images_per_second=2))
    assert (progress.images_per_second, progress.seconds_left) == (2, None)


def test_a_job_that_only_waits_for_more_is_idle() -> None:
    waiting = jobs_pb.Job(state=jobs_pb.JOB_STATE_RUNNING, open=True, total=5, done=4, failed=1)
    assert wire.job(waiting).idle
    for busy in ({"total": 6}, {"open": False}, {"state": jobs_pb.JOB_STATE_LISTING}):
        other = jobs_pb.Job()
        other.CopyFrom(waiting)
        for name, value in busy.items():
            setattr(other, name, value)
        assert not wire.job(other).idle
