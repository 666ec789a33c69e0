from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import make_image
from scripted_student import ScriptedStudent, by_student, detections, manifest, prediction
from stored import labelled, street_ontology
from students import UNDECIDED, image, write_student

from secondlook.cascade.student import FEATURE_TOLERANCES, StudentAdapter, agreement
from secondlook.config.settings import PipelineSettings
from secondlook.core.types import Image
from secondlook.detector.runtime import OnnxDetector
from secondlook.labeling.pipeline import Task
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import EmptyReason, Judgement, LabelPath, Outcome

STREET = street_ontology()
DOGS = Ontology((ClassSpec("dog", threshold=0.95),))
LEFT, RIGHT = (1.0, 1.0, 12.0, 20.0), (20.0, 5.0, 39.0, 25.0)


def accepted(found: list[tuple[tuple[float, float, float, float], str, float]]) -> list[str]:
    said = by_student(found, STREET)
    return [j.class_name for j in said.of(Outcome.ACCEPT)]


def test_certain_boxes_are_labels_whatever_the_proposers_threshold() -> None:
    said = prediction([(LEFT, "dog", 0.93)], DOGS)
    (judgement,) = said.labelled.judgements
    assert judgement.decision.outcome is Outcome.ACCEPT
    assert judgement.verdict is None
    assert judgement.score == judgement.decision.probability == pytest.approx(0.93)
    assert "student was certain (0.93)" in judgement.decision.reason
    assert said.labelled.path is LabelPath.STUDENT
    assert said.labelled.evidence.proposer.startswith("student:street@")
    assert said.labelled.evidence.verifier == ""


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([], 1.0),
        ([0.95], 2 * 0.95 / (1 + 0.95)),
        ([0.95, 0.04], 2 * 0.95 / (1 + 0.95)),  # too unlikely to count
        ([0.95, 0.2], 2 * 0.95 / (1 + 0.95 + 0.2)),
        ([0.95, 0.8], 2 * 1.75 / (2 + 1.75)),
        ([0.5], 0.0),  # no label of its own, and likely one of the teachers'
    ],
)
def test_the_expected_agreement_is_a_ratio_of_expectations(
    probabilities: list[float], expected: float
) -> None:
    places = (LEFT, RIGHT)
    found = [(places[i], "dog", p) for i, p in enumerate(probabilities)]
    assert prediction(found, DOGS).expected == pytest.approx(expected, abs=1e-6)


def test_the_expected_agreement_is_reached_on_average() -> None:
    """Teachers sampled from the student's own probabilities agree as far as it expects."""
    draws = np.random.default_rng(0)
    places = [(10.0 * i, 2.0, 10.0 * i + 8, 28.0) for i in range(4)]
    for likely in ([0.97, 0.9, 0.8, 0.7], [0.95, 0.9, 0.3, 0.1], [0.99, 0.99, 0.99, 0.06]):
        found = [(place, "dog", p) for place, p in zip(places, likely, strict=True)]
        said = prediction(found, DOGS)
        came, agreed = [], {}  # few draws differ: each is worked out once
        for _ in range(2000):
            there = tuple(one for one, p in zip(found, likely, strict=True) if draws.random() < p)
            if there not in agreed:
                teachers = by_student([(box, name, 0.99) for box, name, _ in there], DOGS)
                agreed[there] = agreement(said.labelled, teachers)
            came.append(agreed[there])
        assert said.expected == pytest.approx(np.mean([c for c in came if c is not None]), abs=0.03)


def test_a_student_s_empty_image_was_seen_by_no_verifier() -> None:
    for found in ([], [(LEFT, "dog", 0.05)]):
        labelled = prediction(found, DOGS).labelled
        assert labelled.judgements == ()
        assert labelled.empty is EmptyReason.NOTHING_PROPOSED


def test_a_class_that_asks_for_more_gets_fewer_labels() -> None:
    strict = Ontology((ClassSpec("dog", accept=0.95),))
    assert prediction([(LEFT, "dog", 0.93)], strict).expected == 0.0
    assert prediction([(LEFT, "dog", 0.96)], strict).expected > 0.97


def test_even_odds_stand_where_the_teachers_accepted() -> None:
    """A student learns what was accepted: at even odds its teachers stood at the bound."""
    taught = "classes: {dog: {accept: 0.8, reject: 0.3}}"
    adapter = StudentAdapter(manifest(["dog"], taught), PipelineSettings(score_floor=0.1))

    def said(probability: float, asked: Ontology) -> list[Judgement]:
        found = detections(["dog"], [(LEFT, "dog", probability)])
        task = Task(make_image("street"), asked)
        return [*adapter.predict(task, found, found.scores, 0.0).labelled.judgements]

    asked = Ontology((ClassSpec("dog", accept=0.8, reject=0.3),))
    for probability, outcome in ((0.51, "accept"), (0.49, "unsure")):
        (judgement,) = said(probability, asked)
        assert judgement.decision.outcome == outcome
    (even,) = said(0.5, asked)
    assert even.decision.probability == pytest.approx(0.8)
    stricter = Ontology((ClassSpec("dog", accept=0.95, reject=0.3),))
    assert [j.decision.outcome for p in (0.8, 0.84) for j in said(p, stricter)] == [
        Outcome.UNSURE,
        Outcome.ACCEPT,
    ]


def test_a_duplicate_of_a_box_does_not_lower_the_expectation() -> None:
    again = (1.5, 1.0, 12.5, 20.0)
    said = prediction([(LEFT, "dog", 0.95), (again, "dog", 0.4)], DOGS)
    assert said.expected == prediction([(LEFT, "dog", 0.95)], DOGS).expected
    assert [j.box for j in said.labelled.judgements] == [LEFT]


def test_both_sides_of_a_contrast_come_from_one_box() -> None:
    assert accepted([(LEFT, "glasses on", 0.96), (LEFT, "glasses off", 0.02)]) == ["glasses on"]
    both = prediction([(LEFT, "glasses on", 0.96), (LEFT, "glasses off", 0.95)], STREET)
    assert both.expected == 0.0
    assert both.labelled.of(Outcome.ACCEPT) == ()
    assert len(both.labelled.evidence.proposals) == 1


def test_what_a_student_expects_of_a_contrast_is_what_it_labels() -> None:
    """Trained with ``accept`` 0.6, even odds are a label, though the other is not ruled out."""
    nearly = [(LEFT, "glasses on", 0.7), (LEFT, "glasses off", 0.3)]
    assert accepted(nearly) == ["glasses on"]
    assert prediction(nearly, STREET).expected == pytest.approx(2 * 0.7 / (1 + 0.7))


def test_a_ruled_out_side_is_rejected_in_words() -> None:
    said = by_student([(LEFT, "glasses on", 0.96), (LEFT, "glasses off", 0.02)], STREET)
    off = said.judgements[1]
    assert off.decision.outcome is Outcome.REJECT
    assert "ruled it out (0.02" in off.decision.reason


def test_classes_that_nobody_asked_for_are_left_out() -> None:
    said = prediction([(LEFT, "cat", 0.5), (RIGHT, "dog", 0.95)], DOGS, classes=("cat", "dog"))
    assert said.expected == prediction([(RIGHT, "dog", 0.95)], DOGS).expected
    assert len(said.labelled.evidence.proposals) == 1


def test_each_feature_has_a_tolerance_and_they_show_doubt_amount_and_brightness() -> None:
    calm = prediction([(LEFT, "dog", 0.95)], DOGS)
    unsure = prediction([(LEFT, "dog", 0.95), (RIGHT, "dog", 0.6)], DOGS)
    assert len(calm.features) == len(FEATURE_TOLERANCES)
    assert calm.features[0] == calm.expected > unsure.features[0]
    assert calm.features[1] < unsure.features[1]
    assert calm.features[3:] == pytest.approx([128 / 255] * 12)
    assert all(type(feature) is not np.ndarray for feature in calm.features)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (3, 1), (2000, 7)])
def test_the_brightness_of_images_of_any_shape(width: int, height: int) -> None:
    student = manifest(["dog"])
    adapter = StudentAdapter(student, PipelineSettings())
    nothing = detections(["dog"], [])
    task = Task(make_image(width=width, height=height, shade=255), DOGS)
    said = adapter.predict(task, nothing, nothing.scores, 0.0)
    assert said.expected == 1.0
    assert said.features[2:] == pytest.approx([1.0] * 13)


def test_an_ontology_is_covered_by_name_and_by_meaning_where_the_manifest_has_it() -> None:
    adapter = StudentAdapter(manifest(["dog", "cat"]), PipelineSettings())
    assert adapter.covers(DOGS)
    assert adapter.covers(Ontology((ClassSpec("dog", question="Is it wet?"),)))
    assert not adapter.covers(Ontology((ClassSpec("dog"), ClassSpec("horse"))))
    taught = 'classes: {dog: {question: "Is it wet?", threshold: 0.7}}'
    meant = StudentAdapter(manifest(["dog"], taught), PipelineSettings())
    assert meant.covers(Ontology((ClassSpec("dog", question="Is it wet?"),)))
    assert not meant.covers(DOGS)
    assert not meant.covers(Ontology((ClassSpec("dog", ("hound",), question="Is it wet?"),)))
    with pytest.raises(BadSetting, match=r"student:street@.* cannot be a cascade"):
        StudentAdapter(manifest(["dog"], "classes: [["), PipelineSettings())


def test_agreement_is_f1_and_unsure_boxes_count_neither_way() -> None:
    taught = labelled()  # glasses on at the left; the dog at the right is unsure
    same = by_student([(LEFT, "glasses on", 0.96)], STREET)
    assert agreement(same, taught) == 1.0
    with_dog = by_student([(LEFT, "glasses on", 0.96), (RIGHT, "dog", 0.95)], STREET)
    assert agreement(with_dog, taught) == 1.0
    assert agreement(by_student([], STREET), taught) == 0.0
    far = (25.0, 1.0, 36.0, 20.0)
    half = by_student([(LEFT, "glasses on", 0.96), (far, "glasses on", 0.95)], STREET)
    assert agreement(half, taught) == pytest.approx(2 / 3)
    other = by_student([(LEFT, "glasses off", 0.96)], STREET)
    assert agreement(other, taught) == 0.0


def test_two_without_labels_agree_and_unsure_teachers_prove_nothing() -> None:
    nothing = by_student([], STREET)
    assert agreement(nothing, labelled(rows=())) == 1.0
    down = labelled(answers={"On?": 0.5, "Off?": 0.5, "Dog?": 0.5})
    assert agreement(nothing, down) is None


def test_a_scripted_student_is_a_student() -> None:
    student = ScriptedStudent(("dog",), lambda pixels: [(LEFT, "dog", 0.9)])
    (found,) = student.detect([make_image().pixels])
    assert found.boxes.tolist() == [list(LEFT)]
    assert replace(student.manifest, name="other").digest != student.manifest.digest


def test_a_detector_that_is_undecided_labels_the_more_probable_class(tmp_path: Path) -> None:
    """Its contrast groups are resolved before the cascade sees what it found."""
    write_student(
        tmp_path,
        reactions=UNDECIDED,
        groups=("a", "a"),
        group_calibration=((1.0, -5.0), (1.0, 0.0)),
    )
    detector = OnnxDetector.open(tmp_path)
    task = Task(Image(image((0, 0)), "0" * 64), Ontology((ClassSpec("person"), ClassSpec("dog"))))
    (found,) = detector.detect([task.image.pixels])
    adapter = StudentAdapter(detector.manifest, PipelineSettings())
    said = adapter.predict(task, found, detector.probability(found), 0.0)
    assert [j.class_name for j in said.labelled.of(Outcome.ACCEPT)] == ["dog"]
    (probability,) = {j.score for j in said.labelled.of(Outcome.ACCEPT)}
    assert said.expected == pytest.approx(2 * probability / (1 + probability), abs=1e-5)
