from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier, make_image
from hypothesis import assume, given
from hypothesis import strategies as st
from stored import STREET, street_ontology

from secondlook.config.settings import PipelineSettings
from secondlook.core.boxes import iou, padded_window
from secondlook.core.types import Decoy, DecoyKind, DecoyReply, Evidence, Labelled, Proposals
from secondlook.labeling.decoys import (
    CONFIDENT,
    LOW,
    MAX_IOU,
    MIN_SIDE,
    DecoyPlan,
    plan_decoys,
    related_classes,
    swapped_decoys,
)
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.proposer import Candidate
from secondlook.labeling.verifier import CONTEXT_MARGIN, CROP_MARGIN
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Verdict, View

ZOO = Ontology(
    (
        ClassSpec("person", threshold=0.2),
        ClassSpec("hat on", ("person",), "On?", group="hat", threshold=0.4),
        ClassSpec("hat off", ("person",), "Off?", group="hat", threshold=0.4),
        ClassSpec("dog", threshold=0.2),
        ClassSpec("black dog", ("dog",), "Black?", threshold=0.4, view=View.CONTEXT),
        ClassSpec("night", question="Is it night?", view=View.IMAGE),
    )
)
PERSON, ON, OFF, DOG, BLACK, NIGHT = range(6)
sides = st.integers(20, 400)


@st.composite
def scenes(draw):
    """An image's size and its proposals, scored as one noun or another."""
    width, height = draw(sides), draw(sides)
    boxes, scores = [], []
    for _ in range(draw(st.integers(0, 12))):
        x1, x2 = sorted(draw(st.tuples(*[st.floats(0, width, width=32)] * 2)))
        y1, y2 = sorted(draw(st.tuples(*[st.floats(0, height, width=32)] * 2)))
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue
        person, dog = draw(st.tuples(*[st.sampled_from([0.01, 0.06, 0.15, 0.5, 0.9])] * 2))
        boxes.append((x1, y1, x2, y2))
        scores.append((person, person, person, dog, dog, 0.3))
    proposals = Proposals(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32).reshape(-1, 6),
    )
    return make_image(str(draw(st.integers(0, 9))), width, height), proposals


def touching(box, boxes):
    low = np.maximum(boxes[:, :2], box[:2])
    return ((np.minimum(boxes[:, 2:], box[2:]) - low) > 0).all(axis=1)


@given(scenes())
def test_decoys_lie_in_the_image_and_are_what_their_kind_says(scene) -> None:
    image, proposals = scene
    plan = plan_decoys(image, ZOO, proposals, questions=40, share=0.5)
    assert len(plan.asked) + plan.swapped <= 21
    for decoy in plan.asked:
        index = ZOO.names.index(decoy.class_name)
        spec = ZOO.classes[index]
        assert (decoy.view, decoy.question) == (spec.view, spec.question)
        x1, y1, x2, y2 = decoy.box
        assert 0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height
        present = proposals.scores[:, index] > LOW * spec.threshold
        if decoy.kind is DecoyKind.BACKGROUND:
            margin = CONTEXT_MARGIN if decoy.view is View.CONTEXT else CROP_MARGIN
            window = padded_window(decoy.box, margin, image.width, image.height)
            assert not touching(window, proposals.boxes).any()
        elif decoy.kind is DecoyKind.OTHER_CLASS:
            (rows,) = np.nonzero((proposals.boxes == np.float32(decoy.box)).all(axis=1))
            assert proposals.scores[rows].max() >= CONFIDENT
            assert not (touching(decoy.box, proposals.boxes) & present).any()
        else:
            assert decoy.kind is DecoyKind.OFF_CENTRE
            near = iou(np.array([decoy.box], dtype=np.float32), proposals.boxes[present])
            assert near.max(initial=0) < MAX_IOU
            assert min(x2 - x1, y2 - y1) >= MIN_SIDE


@given(scenes(), st.floats(0, 0.5))
def test_the_same_image_has_the_same_decoys_and_a_larger_share_adds_to_them(scene, share) -> None:
    image, proposals = scene
    plan = plan_decoys(image, ZOO, proposals, 30, share)
    assert plan == plan_decoys(replace(image, name="moved"), ZOO, proposals, 30, share)
    assert len(plan.asked) + plan.swapped <= np.floor(30 * share) + 1
    if not share:
        assert plan == DecoyPlan()
    other = replace(image, sha256="f" * 64)
    assume(len(proposals) and len(plan.asked) > 2)
    assert plan != plan_decoys(other, ZOO, proposals, 30, share)


def test_the_share_is_kept_on_average() -> None:
    proposals = Proposals(
        np.array([[10, 10, 40, 80], [200, 50, 260, 90]], dtype=np.float32),
        np.array([[0.9, 0.9, 0.9, 0, 0, 0], [0, 0, 0, 0.8, 0.8, 0]], dtype=np.float32),
    )
    kinds: Counter[DecoyKind] = Counter()
    for number in range(1000):
        plan = plan_decoys(make_image(str(number), 320, 240), ZOO, proposals, 9, 0.1)
        kinds.update(decoy.kind for decoy in plan.asked)
        kinds[DecoyKind.SWAPPED_ATTRIBUTE] += plan.swapped
    assert 840 <= kinds.total() <= 960
    assert min(kinds[kind] for kind in DecoyKind) > 180


def test_classes_that_could_both_be_true_are_never_asked_of_each_other() -> None:
    related = [set(found.tolist()) for found in related_classes(ZOO)]
    assert related[PERSON] == related[ON] == related[OFF] == {PERSON, ON, OFF}
    assert related[DOG] == related[BLACK] == {DOG, BLACK}
    lone = Ontology((ClassSpec("the red car"), ClassSpec("cat in the sun"), ClassSpec("car")))
    assert [found.tolist() for found in related_classes(lone)] == [[0, 2], [1], [0, 2]]
    sides = Ontology(tuple(ClassSpec(name, group="light") for name in ("day", "night")))
    assert [found.tolist() for found in related_classes(sides)] == [[0, 1], [0, 1]]
    image = make_image("one person", 200, 200)
    person = Proposals(
        np.array([[50, 50, 150, 190]], dtype=np.float32),
        np.array([[0.9, 0.9, 0.9, 0.0, 0.0, 0.0]], dtype=np.float32),
    )
    asked = [
        decoy.class_name
        for number in range(50)
        for decoy in plan_decoys(make_image(str(number), 200, 200), ZOO, person, 20, 0.5).asked
        if decoy.kind is DecoyKind.OTHER_CLASS
    ]
    assert set(asked) == {"dog", "black dog"}
    sure = replace(person, scores=np.full((1, 6), 0.9, dtype=np.float32))
    kinds = {decoy.kind for decoy in plan_decoys(image, ZOO, sure, 40, 0.5).asked}
    assert DecoyKind.OTHER_CLASS not in kinds and DecoyKind.OFF_CENTRE in kinds


def test_there_is_none_where_every_question_is_about_the_whole_image() -> None:
    ontology = Ontology((ZOO.classes[NIGHT],))
    proposals = Proposals(np.array([[1, 1, 9, 9]], np.float32), np.ones((1, 1), np.float32))
    assert plan_decoys(make_image(), ontology, proposals, 10, 0.5) == DecoyPlan()


def swapped(on: float | None, off: float | None) -> list[Decoy]:
    proposals = Proposals(
        np.array([[2, 2, 20, 28]], dtype=np.float32), np.full((1, 6), 0.5, dtype=np.float32)
    )
    verdicts = {
        (0, View.CROP, question): Verdict(question, View.CROP, Answer(p_yes), "v@1", 1.0)
        for question, p_yes in (("On?", on), ("Off?", off))
    }
    evidence = Evidence(proposals, verdicts, "p@1", "v@1")
    picked = [Candidate(0, (ON, OFF)), Candidate(0, (PERSON,))]
    return list(swapped_decoys(make_image(), ZOO, evidence, picked, 3))


def test_the_other_side_of_a_sure_yes_is_a_decoy_with_the_answer_that_there_is() -> None:
    (decoy,) = swapped(0.97, 0.2)
    assert (decoy.kind, decoy.class_name) == (DecoyKind.SWAPPED_ATTRIBUTE, "hat off")
    assert (decoy.answer.p_yes, decoy.said) == (0.2, DecoyReply.NO)
    (both,) = swapped(0.93, 0.96)  # a verifier that says yes to everything
    assert (both.class_name, both.said) == ("hat on", DecoyReply.YES)
    assert swapped(0.8, 0.1) == [] == swapped(None, None)
    (unknown,) = swapped(0.97, None)
    assert unknown.said is DecoyReply.ABSTAINED


def label(share: float, names: str = "abcdefgh", **said: float) -> tuple[list[Labelled], list]:
    """Images of a street through the pipeline; and what was counted as answers."""
    verifier = ScriptedVerifier({"On?": 0.95, "Off?": 0.1, "Dog?": 0.5} | said)
    pipeline = Pipeline(
        ScriptedProposer(lambda image, phrases: STREET),
        verifier,
        PipelineSettings(score_floor=0.1, decoys=share),
    )
    counted: list[Answer] = []
    pipeline.observe_answers = counted.extend
    tasks = [Task(make_image(name), street_ontology()) for name in names]
    return pipeline.label(tasks), counted


def timeless(found: Labelled) -> tuple[object, ...]:
    judgements = [
        replace(j, verdict=replace(j.verdict, ms=0.0, cached=False)) if j.verdict else j
        for j in found.judgements
    ]
    asked = {key: verdict.answer for key, verdict in found.evidence.verdicts.items()}
    return judgements, asked, found.empty, found.proposals


def test_labels_and_counted_answers_are_the_same_with_decoys() -> None:
    (plain, counted), (audited, counted_again) = label(0.0), label(0.3)
    assert [timeless(one) for one in plain] == [timeless(one) for one in audited]
    assert counted == counted_again and counted
    assert not any(one.decoys for one in plain)
    decoys = [decoy for one in audited for decoy in one.decoys]
    assert len({decoy.kind for decoy in decoys}) > 1
    said = {"On?": 0.95, "Off?": 0.1, "Dog?": 0.5}
    assert all(decoy.answer.p_yes == said[decoy.question] for decoy in decoys)
    for one in audited:
        assert "decoys" not in one.result.to_dict()


def test_an_image_has_the_same_decoys_alone_and_among_others() -> None:
    together, _ = label(0.3)
    alone = [label(0.3, name)[0][0] for name in "abcdefgh"]
    assert [one.decoys for one in together] == [one.decoys for one in alone]


def test_decoys_need_a_verifier_to_audit() -> None:
    with pytest.raises(BadSetting, match="leave --decoys out"):
        Pipeline(ScriptedProposer(), None, PipelineSettings(decoys=0.02))


def test_a_verifier_that_fails_leaves_decoys_without_an_answer() -> None:
    def fail(question: str) -> float:
        raise RuntimeError("down")

    pipeline = Pipeline(
        ScriptedProposer(lambda image, phrases: STREET),
        ScriptedVerifier(fail),
        PipelineSettings(score_floor=0.1, decoys=0.5),
    )
    told: list[Decoy] = []
    pipeline.observe_decoys = told.extend
    found = pipeline.label([Task(make_image(name), street_ontology()) for name in "abcd"])
    decoys = [decoy for one in found for decoy in one.decoys]
    assert decoys and {decoy.said for decoy in decoys} == {DecoyReply.FAILED}
    assert told == decoys
