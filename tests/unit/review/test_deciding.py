from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secondlook.core import boxes as box_ops
from secondlook.core.class_mapping import columns_for
from secondlook.core.types import Evidence, ImageVerdicts, Proposals
from secondlook.labeling.box_features import FEATURES, VERIFIER_FEATURES
from secondlook.labeling.calibrator import Calibrator, ClassFit, VerifyBudget
from secondlook.labeling.decisions import judge
from secondlook.review.redecide import BatchDecider
from secondlook.store.bulk import pack_many, unpack_many
from secondlook.store.codec import (
    pack_decisions,
    pack_evidence,
    questions_of,
    unpack_decisions,
    unpack_evidence,
)
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Verdict, View

KEPT = Ontology(
    (
        ClassSpec("on", ("person",), "On?", group="eyes"),
        ClassSpec("off", ("person",), "Off?", group="eyes"),
        ClassSpec("dog", question="Dog?"),
        ClassSpec("van", ("van", "camper"), "Dog?", view=View.CONTEXT),
    )
)
PRESENCE = tuple(spec.presence_question for spec in KEPT.classes)
# Few values, so that thresholds are met exactly, scores tie and boxes coincide.
share = st.sampled_from((0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.9, 1.0, 1 / 3))
answers = st.one_of(
    st.builds(Answer, share, st.just("yes")),
    st.just(Answer(None, "maybe")),
    st.just(Answer(None, error="the verifier failed")),
)


@st.composite
def evidences(draw: st.DrawFn, verifier: str) -> Evidence:
    boxes = [
        (x, y, x + draw(st.integers(1, 6)), y + draw(st.integers(1, 6)))
        for x, y in draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
    ]
    scores = [[draw(share) for _ in KEPT.classes] for _ in boxes]
    verdicts = {
        (row, view, question): Verdict(question, view, draw(answers), verifier, 1.0)
        for row in range(len(boxes))
        for view, question in questions_of(KEPT)
        if verifier and draw(st.integers(0, 3))
    }
    return Evidence(
        Proposals(
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.array(scores, dtype=np.float32).reshape(-1, 4),
        ),
        verdicts,
        "p@1",
        verifier,
        image=draw(st.none() | images()) if verifier else None,
        **draw(st.just({}) | masks(len(boxes))),
    )


@st.composite
def masks(draw: st.DrawFn, rows: int) -> dict[str, Any]:
    """Some rows have a mask, anywhere in an image of 12 × 10 pixels, others the reason why not."""
    found: dict[str, Any] = {"segmenter": "s@1", "segmentations": {}, "unsegmented": {}}
    for row in range(rows):
        if draw(st.booleans()):
            x, y = draw(st.integers(0, 7)), draw(st.integers(0, 7))
            pixels = np.zeros((10, 12), dtype=bool)
            pixels[y : y + draw(st.integers(1, 6)), x : x + draw(st.integers(1, 6))] = True
            mask = Mask.from_array(pixels)
            found["segmentations"][row] = Segmentation(mask, draw(share), draw(share), "s@1")
        elif draw(st.booleans()):
            found["unsegmented"][row] = "the segmenter failed"
    return found


@st.composite
def images(draw: st.DrawFn) -> ImageVerdicts:
    asked = draw(st.lists(st.sampled_from(PRESENCE), unique=True))
    found = {q: (Verdict(q, View.IMAGE, draw(answers), "v@1", 1.0),) for q in asked}
    return ImageVerdicts((40, 30), found)


@st.composite
def ontologies(draw: st.DrawFn) -> Ontology:
    """Some of the kept classes with other names, thresholds and groups, in any order."""
    chosen = draw(st.permutations(KEPT.classes))[: draw(st.integers(1, 4))]
    grouped = len(chosen) > 1 and draw(st.booleans())
    specs = []
    for place, spec in enumerate(chosen):
        reject, accept = sorted((draw(share), draw(share)))
        in_group = grouped and place < 2 and chosen[0].question != chosen[1].question
        specs.append(
            ClassSpec(
                f"class {place}",
                spec.phrases,
                spec.question,
                spec.view,
                "contrast" if in_group else "",
                draw(share),
                accept,
                reject,
                draw(st.sampled_from(("", *PRESENCE))),
                *draw(st.sampled_from(((None, "proposer"), (None, "mask"), (False, "proposer")))),
            )
        )
    return Ontology(tuple(specs))


@st.composite
def calibrators(draw: st.DrawFn, ontology: Ontology) -> Calibrator:
    """Any features, with weights that make every outcome likely; some can do without answers."""
    made = draw(logistic(ontology, FEATURES))
    limits = {name: draw(share) for name in ontology.names if draw(st.booleans())}
    if draw(st.booleans()):
        return replace(made, accept=limits)
    before = draw(logistic(ontology, [one for one in FEATURES if one not in VERIFIER_FEATURES]))
    certain = st.tuples(*(share for _ in ontology.names))
    budget = VerifyBudget(0.5, 0.0, draw(certain), draw(certain))
    return replace(made, accept=limits, before=before, budgets=(budget,))


@st.composite
def logistic(draw: st.DrawFn, ontology: Ontology, known: Sequence[str]) -> Calibrator:
    features = draw(st.lists(st.sampled_from(known), unique=True, max_size=5))
    weight = st.sampled_from((-1.0, 0.0, 0.3, 2.0))
    numbers = st.tuples(*(weight for _ in features))
    fits = tuple(ClassFit(draw(weight), draw(numbers)) for _ in ontology.names)
    return Calibrator(ontology.names, tuple(features), draw(numbers), fits)


@given(st.data(), ontologies(), share, share, st.sampled_from(("", "v@1")))
def test_many_at_once_are_decided_as_one_by_one_to_the_last_bit(
    data: st.DataObject, ontology: Ontology, nms_iou: float, duplicate_iou: float, verifier: str
) -> None:
    found = data.draw(st.lists(evidences(verifier), min_size=1, max_size=5))
    calibrator = data.draw(st.none() | calibrators(ontology))
    sizes = [(data.draw(st.integers(6, 12)), 10) for _ in found]
    packed = [pack_evidence(one, KEPT) for one in found]
    columns = columns_for(ontology, KEPT)
    budget = data.draw(st.sampled_from(("all", "auto", "0.6")))
    rules: dict[str, Any] = {
        "calibrator": calibrator,
        "duplicate_iou": duplicate_iou,
        "verify_budget": budget,
    }
    decider = BatchDecider(ontology, KEPT, columns, nms_iou, verified=bool(verifier), **rules)
    batch = unpack_many(packed, KEPT, np.array(sizes, dtype=np.float32))
    one_by_one = [
        pack_decisions(judge(columns.apply(again), ontology, nms_iou, size=size, **rules), ontology)
        for again, size in zip(
            (unpack_evidence(one, KEPT, "p@1", verifier) for one in packed), sizes, strict=True
        )
    ]
    assert pack_many(decider.decide(batch)) == one_by_one


def test_crowded_images_are_taken_in_slices(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(7)
    low = random.integers(0, 60, size=(300, 2))
    boxes = np.concatenate([low, low + random.integers(5, 30, size=(300, 2))], axis=1)
    ontology = Ontology((ClassSpec("dog", question="Dog?"),))
    found = Evidence(
        Proposals(boxes.astype(np.float32), random.random((300, 1), dtype=np.float32)), {}, "p", ""
    )
    packed = [pack_evidence(found, ontology)] * 3
    decider = BatchDecider(ontology, ontology, columns_for(ontology, ontology), 0.4, verified=False)
    whole = pack_many(decider.decide(unpack_many(packed, ontology)))
    assert whole == [pack_decisions(judge(found, ontology, 0.4), ontology)] * 3
    monkeypatch.setattr(box_ops, "PAIRS_AT_ONCE", 1000)
    assert pack_many(decider.decide(unpack_many(packed, ontology))) == whole


def test_contradictions_and_doubts_of_contrast_groups() -> None:
    """Many random images, in which every way of a group to disagree comes up."""
    random = np.random.default_rng(11)
    ontology = Ontology(
        tuple(
            ClassSpec(f"side {side}", question=f"Side {side}?", group="contrast")
            for side in range(3)
        )
    )
    packed, judged, said = [], [], set()
    for _ in range(300):
        low = random.integers(0, 20, size=(6, 2))
        boxes = np.concatenate([low, low + random.integers(5, 15, size=(6, 2))], axis=1)
        scores = random.random((6, 3), dtype=np.float32)
        verdicts = {
            (row, view, question): Verdict(question, view, answer, "v@1", 1.0)
            for row in range(6)
            for view, question in questions_of(ontology)
            if (answer := Answer(float(random.choice((0.1, 0.5, 0.9))), "said"))
            and random.random() < 0.95
        }
        one = Evidence(Proposals(boxes.astype(np.float32), scores), verdicts, "p@1", "v@1")
        packed.append(pack_evidence(one, ontology))
        judgements = judge(one, ontology, 0.5)
        judged.append(pack_decisions(judgements, ontology))
        said |= {j.decision.reason.split(" '")[0] for j in judgements}
    columns = columns_for(ontology, ontology)
    decider = BatchDecider(ontology, ontology, columns, 0.5, verified=True)
    assert pack_many(decider.decide(unpack_many(packed, ontology))) == judged
    assert {"the answers contradict: yes to", "P(yes) 0.90 ≥ 0.60, but"} <= said


def test_the_limits_of_a_calibrator_count_for_many_images_too() -> None:
    ontology = Ontology((ClassSpec("dog", question="Dog?"),))
    sure = Calibrator(("dog",), (), (), (ClassFit(2.0, ()),), {"dog": 0.95})
    found = Evidence(
        Proposals(np.array([[0, 0, 9, 9]], np.float32), np.array([[0.5]], np.float32)),
        {(0, View.CROP, "Dog?"): Verdict("Dog?", View.CROP, Answer(0.1), "v@1", 1.0)},
        "p@1",
        "v@1",
    )
    columns = columns_for(ontology, ontology)
    decider = BatchDecider(ontology, ontology, columns, 0.6, verified=True, calibrator=sure)
    sizes = np.array([[40, 30]], np.float32)
    (content,) = pack_many(
        decider.decide(unpack_many([pack_evidence(found, ontology)], ontology, sizes))
    )
    (dog,) = unpack_decisions(content, found, ontology)
    assert dog.reason == "probability 0.88 is between 0.40 and 0.95 (P(yes) 0.10)"
    assert (dog,) == judge(found, ontology, 0.6, sure, (40, 30))
