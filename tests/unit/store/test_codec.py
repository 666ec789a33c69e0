import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedSegmenter, ScriptedVerifier, ellipse, make_image
from hypothesis import given
from hypothesis import strategies as st
from stored import LIMITS, labelled, street_ontology

from secondlook.core.types import Evidence, ImageVerdicts, Labelled, Proposals
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.segmenter import SegmentationPrompt
from secondlook.store.bulk import DecisionBatch, pack_many
from secondlook.store.codec import (
    compress,
    decompress,
    pack_decisions,
    pack_evidence,
    presence_questions_of,
    questions_of,
    unpack_decisions,
    unpack_evidence,
)
from secondlook_client.errors import Damaged
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import (
    Answer,
    BoxSource,
    Decision,
    Judgement,
    Outcome,
    Verdict,
    View,
)

ONTOLOGY = street_ontology()
share = st.floats(0, 1, width=32)
tracks = st.integers(1, 2**32 - 1)
answers = st.builds(
    Answer,
    st.none() | share | st.floats(0, 1),
    st.text(st.characters(exclude_categories=()), max_size=8),
    st.text(max_size=8),
    st.booleans(),
)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    boxes = draw(st.integers(0, 6))
    numbers = st.lists(st.floats(0, 5000, width=32), min_size=4 * boxes, max_size=4 * boxes)
    scores = st.lists(share, min_size=3 * boxes, max_size=3 * boxes)
    verdicts = {}
    for row in range(boxes):
        for view, question in questions_of(ONTOLOGY):
            if draw(st.booleans()):
                model = draw(st.sampled_from(("scripted@v0", "another@2")))
                ms = draw(st.floats(0, 1e6, width=32))
                answer = draw(answers)
                reused = "" if answer.error else draw(st.text(max_size=8))
                verdicts[row, view, question] = Verdict(
                    question, view, answer, model, ms, draw(st.booleans()), reused
                )
    return Evidence(
        Proposals(
            np.array(draw(numbers), dtype=np.float32).reshape(-1, 4),
            np.array(draw(scores), dtype=np.float32).reshape(-1, 3),
        ),
        verdicts,
        "scripted@p0",
        "scripted@v0",
        image=draw(st.none() | images()),
        **draw(st.just({}) | masks(boxes)),
        tracks=draw(st.just({}) | st.dictionaries(st.integers(0, 2**16 - 2), tracks, max_size=4)),
    )


@st.composite
def masks(draw: st.DrawFn, boxes: int) -> dict[str, Any]:
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = st.lists(st.booleans(), min_size=width * height, max_size=width * height)
    found: dict[str, Any] = {"segmenter": "a segmenter@1", "segmentations": {}, "unsegmented": {}}
    for row in range(boxes):
        if draw(st.booleans()):
            mask = Mask.from_array(np.array(draw(bits)).reshape(height, width))
            measured = draw(share | st.floats(0, 1)), draw(share)
            found["segmentations"][row] = Segmentation(mask, *measured, "a segmenter@1")
        elif draw(st.booleans()):
            found["unsegmented"][row] = draw(st.text(max_size=8))
    return found


@st.composite
def images(draw: st.DrawFn) -> ImageVerdicts:
    tiles = draw(st.sampled_from((1, 4)))
    view = View.IMAGE if tiles == 1 else View.CROP
    asked = draw(st.lists(st.sampled_from(presence_questions_of(ONTOLOGY)), unique=True))
    found = {
        question: tuple(
            Verdict(question, view, draw(answers), "scripted@v0", 1.5) for _ in range(tiles)
        )
        for question in asked
    }
    return ImageVerdicts((draw(st.integers(1, 2**32 - 1)), 30), found)


@given(evidences())
def test_evidence_comes_back_to_the_last_bit(found: Evidence) -> None:
    packed = pack_evidence(found, ONTOLOGY)
    again = unpack_evidence(packed, ONTOLOGY, found.proposer, found.verifier)
    assert again.proposals.boxes.tobytes() == found.proposals.boxes.tobytes()
    assert again.proposals.scores.tobytes() == found.proposals.scores.tobytes()
    assert again.proposals.boxes.dtype == again.proposals.scores.dtype == np.float32
    assert again.verdicts == found.verdicts
    assert again.image == found.image
    assert again.tracks == found.tracks
    plain = 3 if found.segmenter else 1 if found.image is None else 2
    assert packed[0] == (4 if found.tracks else plain), "versions of before read the others"
    assert again.segmentations == found.segmentations
    assert (again.segmenter, again.unsegmented) == (found.segmenter, found.unsegmented)
    assert (again.proposer, again.verifier) == ("scripted@p0", "scripted@v0")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(ONTOLOGY.classes),
            st.sampled_from(Outcome),
            share | st.floats(0, 1),
            st.text(st.characters(exclude_categories=()), max_size=30),
        ),
        max_size=6,
    )
)
def test_decisions_come_back_to_the_last_bit(
    rows: list[tuple[int, ClassSpec, Outcome, float, str]],
) -> None:
    evidence = labelled().evidence
    boxes, scores = evidence.proposals.boxes.tolist(), evidence.proposals.scores.tolist()
    judgements = tuple(
        Judgement(
            spec.name,
            tuple(boxes[row]),
            scores[row][ONTOLOGY.classes.index(spec)],
            evidence.verdict(row, spec.view, spec.question),
            Decision(outcome, probability, reason),
            row,
        )
        for row, spec, outcome, probability, reason in rows
    )
    assert unpack_decisions(pack_decisions(judgements, ONTOLOGY), evidence, ONTOLOGY) == judgements


def test_what_the_pipeline_makes_comes_back_equal() -> None:
    for answered in ({"On?": 0.1, "Off?": 1 / 3, "Dog?": 0.5}, None):
        found = labelled(answers=answered)
        evidence = found.evidence
        packed = pack_evidence(evidence, ONTOLOGY)
        again = unpack_evidence(packed, ONTOLOGY, evidence.proposer, evidence.verifier)
        decided = pack_decisions(found.judgements, ONTOLOGY)
        assert len(found.judgements) == 3
        judgements = unpack_decisions(decided, again, ONTOLOGY)
        assert [_without_ms(j) for j in judgements] == [_without_ms(j) for j in found.judgements]


def _without_ms(judgement: Judgement) -> Judgement:
    if judgement.verdict is None:
        return judgement
    return replace(judgement, verdict=replace(judgement.verdict, ms=0.0))


def test_doubts_about_the_whole_image_come_back() -> None:
    said = {spec.presence_question: 1 / 3 for spec in ONTOLOGY.classes}
    said[ONTOLOGY.classes[0].presence_question] = 0.7
    asked = replace(LIMITS, verify_empty=True)
    task = Task(make_image("street"), ONTOLOGY)
    pipeline = Pipeline(ScriptedProposer(lambda *_: []), ScriptedVerifier(said), asked)
    (found,) = pipeline.label([task])
    packed = pack_evidence(found.evidence, ONTOLOGY)
    again = unpack_evidence(packed, ONTOLOGY, "scripted@p0", "scripted@v0")
    decided = pack_decisions(found.judgements, ONTOLOGY)
    assert decided[0] == 2
    (doubt,) = unpack_decisions(decided, again, ONTOLOGY)
    assert doubt.whole_image and _without_ms(doubt) == _without_ms(found.judgements[0])
    with pytest.raises(Damaged, match="was not asked about"):
        unpack_decisions(decided, labelled().evidence, ONTOLOGY)


def masked() -> tuple[Labelled, Ontology]:
    """A label with a mask and its box, and other judgements with a mask alone."""
    specs = [replace(spec, box=BoxSource.MASK) for spec in ONTOLOGY.classes]
    ontology = Ontology((*specs[:2], replace(specs[2], box=BoxSource.PROPOSER)))
    smaller = ScriptedSegmenter(lambda prompt, size: ellipse(_shrunk(prompt), size))
    return labelled(ontology=ontology, segmenter=smaller, segment="all"), ontology


def _shrunk(prompt: SegmentationPrompt) -> SegmentationPrompt:
    assert prompt.box
    x1, y1, x2, y2 = prompt.box
    return replace(prompt, box=(x1 + 1, y1 + 1, x2 - 1, y2 - 1))


def test_masks_and_their_boxes_come_back() -> None:
    found, ontology = masked()
    packed = pack_evidence(found.evidence, ontology)
    again = unpack_evidence(packed, ontology, "scripted@p0", "scripted@v0")
    decided = pack_decisions(found.judgements, ontology)
    judgements = unpack_decisions(decided, again, ontology)
    assert (packed[0], decided[0]) == (3, 3)
    assert [_without_ms(j) for j in judgements] == [_without_ms(j) for j in found.judgements]
    on, off, dog = judgements
    assert on.box == off.box == (2, 2, 11, 19)
    assert all(j.segmentation for j in judgements) and dog.box == (20, 5, 39, 25)


def test_masks_that_are_damaged_are_reported() -> None:
    found, ontology = masked()
    evidence, decided = found.evidence, pack_decisions(found.judgements, ontology)
    with pytest.raises(Damaged, match="decisions"):  # a mask that is not there
        unpack_decisions(decided, replace(evidence, segmentations={}), ontology)
    broken = replace(evidence.segmentations[0], mask=Mask(40, 30, "1"))
    with pytest.raises(Damaged, match="does not fill its image"):
        unpack_decisions(decided, replace(evidence, segmentations={0: broken, 1: broken}), ontology)
    packed = pack_evidence(replace(evidence, segmentations={0: broken, 1: broken}), ontology)
    short = decompress(packed)[:-40]
    with pytest.raises(Damaged):
        unpack_evidence(compress(short, kind=3), ontology, "", "")
    other = replace(broken, mask=Mask(30, 40, "1"))
    with pytest.raises(ValueError, match="masks of 2 sizes"):
        pack_evidence(replace(evidence, segmentations={0: broken, 1: other}), ontology)


def test_there_may_be_more_classes_than_a_byte_can_count() -> None:
    many = Ontology(tuple(ClassSpec(f"class {number}") for number in range(300)))
    proposals = Proposals(
        np.array([[1, 2, 3, 4]], dtype=np.float32), np.full((1, 300), 0.5, dtype=np.float32)
    )
    found = Evidence(proposals, {}, "p@1", "")
    for names in (["class 255"], ["class 3", "class 299"]):
        judgements = tuple(
            Judgement(name, (1, 2, 3, 4), 0.5, None, Decision(Outcome.ACCEPT, 0.5, "score"), 0)
            for name in names
        )
        packed = pack_decisions(judgements, many)
        assert unpack_decisions(packed, found, many) == judgements
        batch = DecisionBatch(
            np.array([0, len(names)]),
            np.zeros(len(names), dtype=np.intp),
            np.array([many.names.index(name) for name in names]),
            np.zeros(len(names), dtype=np.intp),
            np.full(len(names), 0.5),
            ["score"] * len(names),
        )
        assert pack_many(batch) == [packed]
        assert packed[0] == (1 if names == ["class 255"] else 2)


def test_two_classes_with_one_question_share_one_ask() -> None:
    same = Ontology((ClassSpec("a", question="Same?"), ClassSpec("b", question="Same?")))
    assert questions_of(same) == ((View.CROP, "Same?"),)


def test_evidence_of_another_ontology_is_refused() -> None:
    evidence = labelled().evidence
    with pytest.raises(ValueError, match="3 scores a box for 1 classes"):
        pack_evidence(evidence, Ontology((ClassSpec("dog"),)))
    packed = pack_evidence(evidence, ONTOLOGY)
    with pytest.raises(Damaged, match="3 classes where the ontology has 1"):
        unpack_evidence(packed, Ontology((ClassSpec("dog"),)), "", "")


@pytest.mark.parametrize("with_masks", [False, True])
def test_a_flipped_bit_is_reported_or_changes_nothing(with_masks: bool) -> None:
    found, ontology = masked() if with_masks else (labelled(), ONTOLOGY)
    evidence = pack_evidence(found.evidence, ontology)
    decisions = pack_decisions(found.judgements, ontology)
    for place in range(8 * len(evidence)):
        with contextlib.suppress(Damaged):
            again = unpack_evidence(_flipped(evidence, place), ontology, "", "scripted@v0")
            assert pack_evidence(again, ontology) == evidence
    for place in range(8 * len(decisions)):
        with contextlib.suppress(Damaged):
            bent = _flipped(decisions, place)
            assert unpack_decisions(bent, found.evidence, ontology) == found.judgements


@pytest.mark.parametrize("with_masks", [False, True])
def test_bytes_cut_short_are_reported(with_masks: bool) -> None:
    found, ontology = masked() if with_masks else (labelled(), ONTOLOGY)
    evidence = pack_evidence(found.evidence, ontology)
    decisions = pack_decisions(found.judgements, ontology)
    for length in range(len(evidence)):
        with pytest.raises(Damaged):
            unpack_evidence(evidence[:length], ontology, "", "")
    for length in range(len(decisions)):
        with pytest.raises(Damaged):
            unpack_decisions(decisions[:length], found.evidence, ontology)


def _flipped(content: bytes, bit: int) -> bytes:
    bent = bytearray(content)
    bent[bit // 8] ^= 1 << bit % 8
    return bytes(bent)


def test_a_format_of_a_newer_version_is_reported() -> None:
    with pytest.raises(Damaged, match=r"format 9.*newer"):
        unpack_evidence(b"\x09whatever", ONTOLOGY, "", "")
