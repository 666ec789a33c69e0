"""A cascade whose student changes while it works."""

from dataclasses import replace

import pytest
from fakes import ScriptedProposer, ScriptedVerifier, make_image
from scripted_student import DOGS, LEARNT, Found, ScriptedStudent, right

from secondlook.cascade.router import Cascade
from secondlook.cascade.threshold import LEAST
from secondlook.core.errors import BadSetting
from secondlook.core.types import Labelled, LabelPath, Pixels
from secondlook.labeling.engine import EngineLimits
from secondlook.labeling.pipeline import Pipeline, Task


def student(name: str) -> ScriptedStudent:
    made = ScriptedStudent(("dog",), right)
    made.manifest = replace(made.manifest, name=name)
    return made


def cascade(first: ScriptedStudent | None, follows: str = "") -> Cascade:
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    return Cascade(pipeline, first, limits=EngineLimits(max_wait_s=0.0), follows=follows)


def label(made: Cascade, count: int) -> list[Labelled]:
    return [made.submit(Task(make_image(f"p{i}"), DOGS)).result(10) for i in range(count)]


def test_without_a_student_the_teachers_label_until_one_is_adopted() -> None:
    made, first = cascade(None, follows="model:street"), student("first")
    assert {labelled.path for labelled in label(made, LEARNT)} == {LabelPath.TEACHERS}
    assert (made.student, made.settings["cascade"]) == ("", "model:street")
    made.adopt(first)
    assert made.student.startswith("student:first@")
    assert made.settings["cascade"] == "model:street"
    label(made, LEARNT)
    assert first.seen == LEARNT and made.trusts("", DOGS)
    made.close()


def test_another_student_earns_its_own_trust() -> None:
    made, second = cascade(student("first")), student("second")
    label(made, LEARNT)
    assert made.trusts("", DOGS)
    made.adopt(second)
    assert not made.trusts("", DOGS)
    found = label(made, LEARNT)
    assert {labelled.path for labelled in found[:LEAST]} == {LabelPath.TEACHERS}
    assert made.trusts("", DOGS)
    heard = {labelled.evidence.student for labelled in found} - {""}
    assert len(heard) == 1 and heard.pop().startswith("student:second@")
    made.close()


def test_what_the_one_before_said_counts_for_nobody() -> None:
    made, second = cascade(first := student("first")), student("second")
    label(made, LEARNT)
    assert made.trusts("", DOGS)

    def meanwhile(pixels: Pixels) -> list[Found]:
        made.adopt(second)
        return right(pixels)

    first.script = meanwhile
    (found,) = label(made, 1)
    assert (found.path, found.evidence.student) == (LabelPath.TEACHERS, "")
    # Had it been heard, one comparison less would do.
    assert {labelled.path for labelled in label(made, LEAST)} == {LabelPath.TEACHERS}
    assert label(made, 1)[0].path is LabelPath.AUDIT
    made.close()


def test_one_that_makes_no_sense_is_not_adopted() -> None:
    made, broken = cascade(student("first")), student("broken")
    broken.manifest = replace(broken.manifest, ontology="classes: [")
    with pytest.raises(BadSetting, match=r"student:broken@.* cannot be a cascade"):
        made.adopt(broken)
    assert made.student.startswith("student:first@")
    made.close()
