from collections.abc import Mapping

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier, make_image

from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Labelled
from secondlook.labeling.annotated_boxes import (
    ANNOTATED,
    MOST_PROPOSED,
    AnnotatedBoxes,
    AskedBoxes,
    SuggestingPipeline,
    is_annotated,
    with_annotations,
)
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook.labeling.proposer import Proposer
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Outcome

PETS = Ontology(
    (
        ClassSpec("dog", ("animal",), "Dog?"),
        ClassSpec("cat", ("animal",), "Cat?", threshold=0),
        ClassSpec("cow", question="Cow?"),
    )
)
EYES = Ontology(
    (
        ClassSpec("on", ("face",), "On?", group="eyes"),
        ClassSpec("off", ("face",), "Off?", group="eyes"),
    )
)
NOTHING_CUT = PipelineSettings(nms_iou=1.0, max_boxes=10_000)
LEFT, RIGHT = (1, 1, 15, 20), (20, 5, 39, 25)


def asked(*rows: tuple[tuple[float, ...], int]) -> dict[str, AskedBoxes]:
    boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    return {"a": AskedBoxes(boxes, np.array([number for _, number in rows], np.int64))}


def verified(
    boxes: Mapping[str, AskedBoxes],
    verifier: ScriptedVerifier,
    ontology: Ontology = PETS,
    also: Proposer | None = None,
    kind: type[Pipeline] = Pipeline,
) -> Labelled:
    ontology = with_annotations(ontology)
    proposer = AnnotatedBoxes(boxes, len(ontology.classes), also)
    (labelled,) = kind(proposer, verifier, NOTHING_CUT).label([Task(make_image("a"), ontology)])
    return labelled


def told(labelled: Labelled) -> list[tuple[str, tuple[float, ...], Outcome]]:
    return sorted((j.class_name, j.box, j.outcome) for j in labelled.judgements)


def test_each_annotation_is_asked_about_as_its_own_class_and_no_other() -> None:
    verifier = ScriptedVerifier({"Dog?": 0.9, "Cat?": 0.1})
    found = verified(asked((LEFT, 0), (RIGHT, 1)), verifier)
    assert told(found) == [("cat", RIGHT, Outcome.REJECT), ("dog", LEFT, Outcome.ACCEPT)]
    assert sorted(verifier.questions) == ["Cat?", "Dog?"]
    assert all(map(is_annotated, found.judgements))


def test_boxes_that_overlap_are_all_asked_about() -> None:
    """The suppression of a run would take two people in each other's arms for one."""
    near = (1, 1, 15, 21)
    found = verified(asked((LEFT, 0), (near, 0), (LEFT, 2)), ScriptedVerifier(0.9))
    assert [(name, box) for name, box, _ in told(found)] == [
        ("cow", LEFT),
        ("dog", LEFT),
        ("dog", near),
    ]


def test_an_image_without_annotations_has_no_proposal() -> None:
    assert verified({}, ScriptedVerifier(0.9)).proposals == 0


def test_in_a_contrast_group_each_side_is_asked_about() -> None:
    verifier = ScriptedVerifier({"On?": 0.1, "Off?": 0.9})
    found = verified(asked((LEFT, 0)), verifier, EYES)
    assert told(found) == [("off", LEFT, Outcome.ACCEPT), ("on", LEFT, Outcome.REJECT)]
    assert [j.class_name for j in found.judgements if is_annotated(j)] == ["on"]


def test_a_proposer_beside_them_is_asked_for_its_own_phrases_only() -> None:
    phrases_seen = []

    def script(image: object, phrases: object) -> list[tuple[tuple[float, ...], dict[str, float]]]:
        phrases_seen.append(phrases)
        return [(RIGHT, {"animal": 1.0}), ((20, 5, 39, 24), {"animal": 0.5})]

    found = verified(asked((LEFT, 2)), ScriptedVerifier(0.9), also=ScriptedProposer(script))  # type: ignore[arg-type]
    assert phrases_seen == [["animal", "cow"]]
    scores = {(j.class_name, j.box): j.score for j in found.judgements}
    most = pytest.approx(MOST_PROPOSED)
    assert scores == {("cow", LEFT): ANNOTATED, ("dog", RIGHT): most, ("cat", RIGHT): most}


def test_a_suggestion_is_what_is_accepted_for_a_box_that_is_not() -> None:
    verifier = ScriptedVerifier({"Dog?": 0.1, "Cat?": 0.9, "Cow?": 0.3})
    found = verified(asked((LEFT, 0), (RIGHT, 1)), verifier, kind=SuggestingPipeline)
    assert told(found) == [
        ("cat", LEFT, Outcome.ACCEPT),
        ("cat", RIGHT, Outcome.ACCEPT),
        ("dog", LEFT, Outcome.REJECT),
    ]
    assert [j.box for j in found.judgements if is_annotated(j)] == [LEFT, RIGHT]
    assert sorted({verdict.question for verdict in found.evidence.verdicts.values()}) == [
        "Cat?",
        "Cow?",
        "Dog?",
    ]
    assert len(verifier.questions) == 4  # nothing else is asked of the box that was accepted


def test_the_digest_tells_other_annotations_apart() -> None:
    one, other = asked((LEFT, 0)), asked((LEFT, 1))
    digests = {AnnotatedBoxes(boxes, 3).digest for boxes in (one, other, asked((RIGHT, 0)), {})}
    assert len(digests) == 4
    assert AnnotatedBoxes(one, 3).digest == AnnotatedBoxes(asked((LEFT, 0)), 3).digest
    beside = AnnotatedBoxes(one, 3, ScriptedProposer())
    assert (beside.name, beside.digest.endswith("-p0")) == ("annotations+scripted", True)
