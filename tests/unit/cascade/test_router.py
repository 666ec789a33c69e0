import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest
from fakes import WHOLE, Row, ScriptedProposer, ScriptedVerifier, make_image
from scripted_student import DOGS, MIDDLE, TRUSTED_AFTER, Found, ScriptedStudent, right

from secondlook.cascade.router import MAX_STREAMS, Cascade, RoutingEvent
from secondlook.cascade.threshold import MIN_COMPARISONS
from secondlook.config.settings import BatchingSettings, CascadeSettings, PipelineSettings
from secondlook.core.types import Image, Labelled, Pixels
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import Busy, DeadlineExceeded, ShuttingDown
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import LabelPath

CATS = Ontology((ClassSpec("cat"),))


def wrong(pixels: Pixels) -> list[Found]:
    return [((0.0, 0.0, 5.0, 5.0), "dog", 0.97)]


def doubtful(pixels: Pixels) -> list[Found]:
    return [(MIDDLE, "dog", 0.5)]


class Events:
    """The routing events of a cascade."""

    def __init__(self) -> None:
        self.all: list[RoutingEvent] = []

    @property
    def paths(self) -> Counter[LabelPath]:
        return Counter(event.path for event in self.all)


def cascade(
    script: Callable[[Pixels], Sequence[Found]] = right,
    proposer: ScriptedProposer | None = None,
    verifier: ScriptedVerifier | None = None,
    events: Events | None = None,
    batching: BatchingSettings | None = None,
    **trust: float,
) -> tuple[Cascade, ScriptedStudent]:
    student = ScriptedStudent(("dog",), script)
    made = Cascade(
        Pipeline(proposer or ScriptedProposer(), verifier or ScriptedVerifier()),
        student,
        CascadeSettings(**trust),  # type: ignore[arg-type]
        batching or BatchingSettings(batching_window_ms=0),
        on_routed=(events or Events()).all.append,
    )
    return made, student


def task(name: str = "p", ontology: Ontology = DOGS, source: str = "", shade: int = 128) -> Task:
    return Task(make_image(name, shade=shade), ontology, source)


def label(made: Cascade, count: int, source: str = "", shade: int = 128) -> list[Labelled]:
    return [made.submit(task(f"p{i}", source=source, shade=shade)).result(10) for i in range(count)]


def test_at_first_the_teachers_do_all_and_the_student_is_compared() -> None:
    made, student = cascade()
    found = label(made, MIN_COMPARISONS + 10)
    made.close()
    assert student.seen == MIN_COMPARISONS + 10
    assert {labelled.path for labelled in found[:MIN_COMPARISONS]} == {LabelPath.TEACHERS}
    assert found[0].evidence.student == ""
    assert {labelled.path for labelled in found[MIN_COMPARISONS:]} == {LabelPath.AUDIT}
    audited = found[-1]
    assert audited.evidence.proposer == "scripted@p0"
    assert audited.evidence.student == made.student
    assert audited.judgements[0].verdict is not None
    assert {"student", "propose", "verify", "total"} <= audited.timings_ms.keys()


def test_a_student_that_agrees_labels_alone_but_for_audits() -> None:
    proposer, events = ScriptedProposer(), Events()
    made, _ = cascade(proposer=proposer, events=events)
    label(made, TRUSTED_AFTER)
    assert made.is_trusted("", DOGS)
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
    assert events.all[-1].trusted == events.all[-1].watched == 1
    assert all(p.agreement == 1.0 for p in events.all if p.path is LabelPath.AUDIT)
    assert events.paths.total() == 400 + TRUSTED_AFTER


def test_only_images_that_the_teachers_label_have_decoys() -> None:
    student = ScriptedStudent(("dog",), right)
    settings = PipelineSettings(decoys=0.5)
    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier(), settings)
    made = Cascade(pipeline, student, batching=BatchingSettings(batching_window_ms=0))
    label(made, TRUSTED_AFTER)
    found = label(made, 400)
    made.close()
    asked = Counter(one.path for one in found if one.decoys)
    assert asked[LabelPath.AUDIT] > 0 == asked[LabelPath.STUDENT]


def test_a_student_that_disagrees_never_labels_alone() -> None:
    made, _ = cascade(wrong)
    found = label(made, 200)
    made.close()
    assert {labelled.path for labelled in found} == {LabelPath.TEACHERS}
    assert not made.is_trusted("", DOGS)


def test_uncertain_images_go_to_the_teachers_alone() -> None:
    made, student = cascade()
    label(made, TRUSTED_AFTER)
    student.script = doubtful
    found = label(made, 20)
    made.close()
    assert {labelled.path for labelled in found} == {LabelPath.TEACHERS}
    assert found[0].evidence.student == ""


def test_after_a_change_the_teachers_are_back_within_fifty_images() -> None:
    made, student = cascade()
    label(made, 150)
    assert made.is_trusted("", DOGS)
    student.script = wrong
    paths = [labelled.path for labelled in label(made, 120, shade=40)]
    made.close()
    assert LabelPath.STUDENT not in paths[50:]
    assert not made.is_trusted("", DOGS)


def test_trust_is_of_one_stream_and_one_ontology() -> None:
    made, _ = cascade()
    label(made, TRUSTED_AFTER, source="job:a")
    assert made.is_trusted("job:a", DOGS)
    assert not made.is_trusted("job:b", DOGS)
    assert label(made, 1, source="job:b")[0].path is LabelPath.TEACHERS
    other = Ontology((ClassSpec("dog", question="Is it a dog at all?"),))
    assert made.submit(task(ontology=other, source="job:a")).result(5).path is LabelPath.TEACHERS
    made.close()


def test_a_class_that_the_student_was_not_trained_on_goes_to_the_teachers() -> None:
    made, student = cascade()
    both = Ontology((ClassSpec("dog"), ClassSpec("cat")))
    for ontology in (CATS, both):
        assert made.submit(task(ontology=ontology)).result(5).path is LabelPath.TEACHERS
    made.close()
    assert student.seen == 0


def test_a_class_that_needs_masks_goes_to_the_teachers() -> None:
    made, student = cascade()
    masks = Ontology((ClassSpec("dog", mask=True),))
    assert made.submit(task(ontology=masks)).result(5).path is LabelPath.TEACHERS
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

    events = Events()
    made, _ = cascade(proposer=ScriptedProposer(broken), events=events)
    with pytest.raises(ValueError, match="out of memory"):
        label(made, 1)
    made.close()
    assert events.all == []
    assert made.depth() == 0


def test_a_verifier_that_is_down_proves_nothing() -> None:
    events = Events()
    made, _ = cascade(verifier=ScriptedVerifier(0.5), events=events)
    label(made, 100)
    made.close()
    assert not made.is_trusted("", DOGS)
    assert {event.agreement for event in events.all} == {None}


def test_deadlines_cancelled_calls_and_full_queues_as_with_any_engine() -> None:
    gate = threading.Event()
    proposer = ScriptedProposer(gate=gate)
    made, _ = cascade(
        proposer=proposer, batching=BatchingSettings(max_in_flight=3, batching_window_ms=0)
    )
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


def test_cancelled_images_cost_neither_student_nor_teachers() -> None:
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

    made, _ = cascade(
        by_shade, ScriptedProposer(taught), batching=BatchingSettings(batching_window_ms=2)
    )
    label(made, TRUSTED_AFTER)
    shades = np.random.default_rng(0).integers(0, 250, 60).tolist()
    futures = [made.submit(task(str(shade), shade=shade)) for shade in shades]
    for shade, future in zip(shades, futures, strict=True):
        labelled = future.result(10)
        assert labelled.name == str(shade)
        assert labelled.judgements[0].box[2] == pytest.approx(5 + shade / 10)
    made.close()


def test_endless_streams_do_not_fill_the_memory() -> None:
    made, _ = cascade()
    for number in range(MAX_STREAMS + 50):
        made._trust(task(source=str(number)))
    assert len(made._trusts) == MAX_STREAMS
    made.close()


def test_an_observer_that_fails_costs_no_image(caplog: pytest.LogCaptureFixture) -> None:
    def tell(event: RoutingEvent) -> None:
        raise RuntimeError("no metrics today")

    pipeline = Pipeline(ScriptedProposer(), ScriptedVerifier())
    made = Cascade(pipeline, ScriptedStudent(("dog",), right), on_routed=tell)
    assert made.submit(task()).result(5).path is LabelPath.TEACHERS
    made.close()
    assert "observer failed" in caplog.text


def test_the_settings_name_what_shapes_results() -> None:
    made, _ = cascade(audit_share=0.2)
    made.close()
    assert made.recorded_settings["cascade"] == made.student
    assert made.student.startswith("student:street@")
    assert (made.recorded_settings["audit_share"], made.recorded_settings["score_floor"]) == (
        0.2,
        0.1,
    )
    assert WHOLE == (0.25, 0.25, 0.75, 0.75)  # what MIDDLE was made from
