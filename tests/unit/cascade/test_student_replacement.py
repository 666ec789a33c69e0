"""A cascade whose student changes while it works."""

from dataclasses import replace

import pytest
from fakes import ScriptedProposer, ScriptedVerifier, make_image
from scripted_student import DOGS, TRUSTED_AFTER, Found, ScriptedStudent, right

from secondlook.cascade.router import Cascade
from secondlook.cascade.threshold import MIN_COMPARISONS
from secondlook.config.settings import BatchingSettings
from secondlook.core.types import Labelled, Pixels
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import BadSetting
from secondlook_client.values import LabelPath


def student(name: str) -> ScriptedStudent:
    made = ScriptedStudent(("dog",), right)
    made.manifest = replace(made.manifest, name=name)
    return made


def cascade(first: ScriptedStudent | None, follows: str = "") -> Cascade:
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    return Cascade(
        pipeline, first, batching=BatchingSettings(batching_window_ms=0), follows=follows
    )


def label(made: Cascade, count: int) -> list[Labelled]:
    return [made.submit(Task(make_image(f"p{i}"), DOGS)).result(10) for i in range(count)]


def test_without_a_student_the_teachers_label_until_one_is_used() -> None:
    made, first = cascade(None, follows="model:street"), student("first")
    assert {labelled.path for labelled in label(made, TRUSTED_AFTER)} == {LabelPath.TEACHERS}
    assert (made.student, made.recorded_settings["cascade"]) == ("", "model:street")
    made.use_student(first)
    assert made.student.startswith("student:first@")
    assert made.recorded_settings["cascade"] == "model:street"
    label(made, TRUSTED_AFTER)
    assert first.seen == TRUSTED_AFTER and made.is_trusted("", DOGS)
    made.close()


def test_another_student_earns_its_own_trust() -> None:
    made, second = cascade(student("first")), student("second")
    label(made, TRUSTED_AFTER)
    assert made.is_trusted("", DOGS)
    made.use_student(second)
    assert not made.is_trusted("", DOGS)
    found = label(made, TRUSTED_AFTER)
    assert {labelled.path for labelled in found[:MIN_COMPARISONS]} == {LabelPath.TEACHERS}
    assert made.is_trusted("", DOGS)
    compared = {labelled.evidence.student for labelled in found} - {""}
    assert len(compared) == 1 and compared.pop().startswith("student:second@")
    made.close()


def test_a_prediction_of_the_previous_student_counts_for_nobody() -> None:
    made, second = cascade(first := student("first")), student("second")
    label(made, TRUSTED_AFTER)
    assert made.is_trusted("", DOGS)

    def meanwhile(pixels: Pixels) -> list[Found]:
        made.use_student(second)
        return right(pixels)

    first.script = meanwhile
    (found,) = label(made, 1)
    assert (found.path, found.evidence.student) == (LabelPath.TEACHERS, "")
    # Had it counted, one comparison less would do.
    assert {labelled.path for labelled in label(made, MIN_COMPARISONS)} == {LabelPath.TEACHERS}
    assert label(made, 1)[0].path is LabelPath.AUDIT
    made.close()


def test_a_student_with_a_broken_manifest_is_not_used() -> None:
    made, broken = cascade(student("first")), student("broken")
    broken.manifest = replace(broken.manifest, ontology="classes: [")
    with pytest.raises(BadSetting, match=r"student:broken@.* cannot be a cascade"):
        made.use_student(broken)
    assert made.student.startswith("student:first@")
    made.close()
