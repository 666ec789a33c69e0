import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest
from fakes import WHOLE, Row, ScriptedProposer, ScriptedVerifier, make_image
from scripted_student import DOGS, LEARNT, MIDDLE, Found, ScriptedStudent, right

from secondlook.cascade.router import MAX_TRUSTS, Cascade, CascadeRule, Passed
from secondlook.cascade.threshold import LEAST
from secondlook.cascade.trust import TrustRule
from secondlook.core.errors import Busy, DeadlineExceeded, ShuttingDown
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import Image, Labelled, LabelPath, Pixels
from secondlook.labeling.engine import EngineLimits
from secondlook.labeling.pipeline import Pipeline, Task

CATS = Ontology((ClassSpec("cat"),))


def wrong(pixels: Pixels) -> list[Found]:
    return [((0.0, 0.0, 5.0, 5.0), "dog", 0.97)]


def doubtful(pixels: Pixels) -> list[Found]:
    return [(MIDDLE, "dog", 0.5)]


class Told:
    """What the cascade tells."""

    def __init__(self) -> None:
        self.all: list[Passed] = []

    @property
    def paths(self) -> Counter[LabelPath]:
        return Counter(passed.path for passed in self.all)


def cascade(
    script: Callable[[Pixels], Sequence[Found]] = right,
    proposer: ScriptedProposer | None = None,
    verifier: ScriptedVerifier | None = None,
    told: Told | None = None,
    limits: EngineLimits | None = None,
    **rule: float,
) -> tuple[Cascade, ScriptedStudent]:
    student = ScriptedStudent(("dog",), script)
    made = Cascade(
        Pipeline(proposer or ScriptedProposer(), verifier or ScriptedVerifier()),
        student,
        CascadeRule(trust=TrustRule(**rule)),  # type: ignore[arg-type]
        limits or EngineLimits(max_wait_s=0.0),
        tell=(told or Told()).all.append,
    )
    return made, student


def task(name: str = "p", ontology: Ontology = DOGS, source: str = "", shade: int = 128) -> Task:
    return Task(make_image(name, shade=shade), ontology, source)


def label(made: Cascade, count: int, source: str = "", shade: int = 128) -> list[Labelled]:
    return [made.submit(task(f"p{i}", source=source, shade=shade)).result(10) for i in range(count)]


def test_at_first_the_teachers_do_all_and_the_student_is_compared() -> None:
    made, student = cascade()
    found = label(made, LEAST + 10)
    made.close()
    assert student.seen == LEAST + 10
    assert {labelled.path for labelled in found[:LEAST]} == {LabelPath.TEACHERS}
    assert found[0].evidence.student == ""
    assert {labelled.path for labelled in found[LEAST:]} == {LabelPath.AUDIT}
    audited = found[-1]
    assert audited.evidence.proposer == "scripted@p0"
    assert audited.evidence.student == made.student
    assert audited.judgements[0].verdict is not None
    assert {"student", "propose", "verify", "total"} <= audited.timings_ms.keys()


def test_a_student_that_agrees_is_left_alone_but_for_audits() -> None:
    proposer, told = ScriptedProposer(), Told()
    made, _ = cascade(proposer=proposer, told=told)
    label(made, LEARNT)
    assert made.trusts("", DOGS)
    proposer.seen.clear()
    found = label(made, 400)
    made.close()
    paths = Counter(labelled.path for labelled in found)
    assert 15 <= paths[LabelPath.AUDIT] <= 70
    assert paths[LabelPath.STUDENT] == 400 - paths[LabelPath.AUDIT]
    assert len(proposer.seen) == paths[LabelPath.AUDIT]
    alone = next(labelled for labelled in found if labelled.path is LabelPath.STUDENT)
    assert alone.evidence.proposer == made.student
    assert alone.judgements[0].box == MIDDLE
    assert {"student", "total"} == alone.timings_ms.keys()
    assert told.all[-1].trusted == told.all[-1].watched == 1
    assert all(p.agreement == 1.0 for p in told.all if p.path is LabelPath.AUDIT)
    assert told.paths.total() == 400 + LEARNT


def test_one_that_disagrees_is_never_left_alone() -> None:
    made, _ = cascade(wrong)
    found = label(made, 200)
    made.close()
    assert {labelled.path for labelled in found} == {LabelPath.TEACHERS}
    assert not made.trusts("", DOGS)


def test_what_is_doubtful_goes_to_the_teachers_alone() -> None:
    made, student = cascade()
    label(made, LEARNT)
    student.script = doubtful
    found = label(made, 20)
    made.close()
    assert {labelled.path for labelled in found} == {LabelPath.TEACHERS}
    assert found[0].evidence.student == ""


def test_after_a_change_the_teachers_are_back_within_fifty_images() -> None:
    made, student = cascade()
    label(made, 150)
    assert made.trusts("", DOGS)
    student.script = wrong
    paths = [labelled.path for labelled in label(made, 120, shade=40)]
    made.close()
    assert LabelPath.STUDENT not in paths[50:]
    assert not made.trusts("", DOGS)


def test_trust_is_of_one_stream_and_one_ontology() -> None:
    made, _ = cascade()
    label(made, LEARNT, source="job:a")
    assert made.trusts("job:a", DOGS)
    assert not made.trusts("job:b", DOGS)
    assert label(made, 1, source="job:b")[0].path is LabelPath.TEACHERS
    other = Ontology((ClassSpec("dog", question="Is it a dog at all?"),))
    assert made.submit(task(ontology=other, source="job:a")).result(5).path is LabelPath.TEACHERS
    made.close()


def test_a_class_that_the_student_does_not_know_is_the_teachers() -> None:
    made, student = cascade()
    both = Ontology((ClassSpec("dog"), ClassSpec("cat")))
    for ontology in (CATS, both):
        assert made.submit(task(ontology=ontology)).result(5).path is LabelPath.TEACHERS
    made.close()
    assert student.seen == 0


def test_a_student_that_fails_costs_no_image(caplog: pytest.LogCaptureFixture) -> None:
    def broken(pixels: Pixels) -> list[Found]:
        raise RuntimeError("the weights are gone")

    made, _ = cascade(broken)
    assert label(made, 1)[0].path is LabelPath.TEACHERS
    made.close()
    assert "the student failed" in caplog.text


def test_teachers_that_fail_in_an_audit_fail_the_image_and_are_no_proof() -> None:
    def broken(image: Image, phrases: Sequence[str]) -> list[Row]:
        raise ValueError("out of memory")

    told = Told()
    made, _ = cascade(proposer=ScriptedProposer(broken), told=told)
    with pytest.raises(ValueError, match="out of memory"):
        label(made, 1)
    made.close()
    assert told.all == []
    assert made.depth() == 0


def test_a_verifier_that_is_down_proves_nothing() -> None:
    told = Told()
    made, _ = cascade(verifier=ScriptedVerifier(0.5), told=told)
    label(made, 100)
    made.close()
    assert not made.trusts("", DOGS)
    assert {passed.agreement for passed in told.all} == {None}


def test_deadlines_cancelled_calls_and_full_queues_as_with_any_engine() -> None:
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    made, _ = cascade(proposer=proposer, limits=EngineLimits(max_images=3, max_wait_s=0.0))
    first = made.submit(task("first"))
    assert proposer.started.wait(5)
    gone = made.submit(task("gone"))
    late = made.submit(task("late"), deadline=time.monotonic() + 0.05)
    with pytest.raises(Busy):
        made.submit(task("one too many"))
    assert gone.cancel()
    time.sleep(0.1)
    gate.set()
    assert first.result(5).name == "first"
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    with pytest.raises(CancelledError):
        gone.result(0)
    made.close()
    assert proposer.seen == ["first"]
    assert made.depth() == 0
    with pytest.raises(ShuttingDown):
        made.submit(task("after"))
    assert made.depth() == 0


def test_the_cancelled_cost_neither_student_nor_teachers() -> None:
    looking, go_on = threading.Event(), threading.Event()

    def slow(pixels: Pixels) -> list[Found]:
        looking.set()
        assert go_on.wait(5)
        return right(pixels)

    proposer = ScriptedProposer()
    made, student = cascade(slow, proposer)
    first = made.submit(task("first"))
    assert looking.wait(5)
    gone = [made.submit(task(f"gone{i}")) for i in range(5)]
    assert all(future.cancel() for future in gone)
    assert first.cancel()
    go_on.set()
    made.close()
    assert (student.seen, proposer.seen) == (1, [])
    assert made.depth() == 0


def test_closing_finishes_what_was_accepted() -> None:
    made, _ = cascade(proposer=ScriptedProposer(delay_s=0.005))
    futures = [made.submit(task(str(i))) for i in range(40)]
    made.close()
    assert [future.result(0).name for future in futures] == [str(i) for i in range(40)]
    assert made.depth() == 0


def test_batches_of_both_do_not_mix_images_up() -> None:
    def by_shade(pixels: Pixels) -> list[Found]:
        return [((0.0, 0.0, 5 + float(pixels[0, 0, 0]) / 10, 9.0), "dog", 0.97)]

    def taught(image: Image, phrases: Sequence[str]) -> list[Row]:
        (box, _, _) = by_shade(image.pixels)[0]
        return [(box, dict.fromkeys(phrases, 0.9))]

    made, _ = cascade(by_shade, ScriptedProposer(taught), limits=EngineLimits(max_wait_s=0.002))
    label(made, LEARNT)
    shades = np.random.default_rng(0).integers(0, 250, 60).tolist()
    futures = [made.submit(task(str(shade), shade=shade)) for shade in shades]
    for shade, future in zip(shades, futures, strict=True):
        labelled = future.result(10)
        assert labelled.name == str(shade)
        assert labelled.judgements[0].box[2] == pytest.approx(5 + shade / 10)
    made.close()


def test_streams_without_end_do_not_fill_the_memory() -> None:
    made, _ = cascade()
    for number in range(MAX_TRUSTS + 50):
        made._trust(task(source=str(number)))
    assert len(made._trusts) == MAX_TRUSTS
    made.close()


def test_an_observer_that_fails_costs_no_image(caplog: pytest.LogCaptureFixture) -> None:
    def tell(passed: Passed) -> None:
        raise RuntimeError("no metrics today")

    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    made = Cascade(pipeline, ScriptedStudent(("dog",), right), tell=tell)
    assert made.submit(task()).result(5).path is LabelPath.TEACHERS
    made.close()
    assert "observer failed" in caplog.text


def test_what_shapes_results_is_told() -> None:
    made, _ = cascade(audit_share=0.2)
    made.close()
    assert made.settings["cascade"] == made.student
    assert made.student.startswith("student:street@")
    assert (made.settings["audit_share"], made.settings["floor"]) == (0.2, 0.1)
    assert WHOLE == (0.25, 0.25, 0.75, 0.75)  # what MIDDLE was made from
