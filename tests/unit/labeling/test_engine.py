import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image
from hypothesis import given
from hypothesis import strategies as st

from secondlook.config.settings import BatchingSettings
from secondlook.core.types import Image, Labelled
from secondlook.labeling.engine import (
    MAX_HINT_S,
    MIN_HINT_S,
    Engine,
    ServiceRate,
    retry_hint_s,
)
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import Busy, DeadlineExceeded, ShuttingDown
from secondlook_client.ontology import ClassSpec, Ontology

DOGS = Ontology((ClassSpec("dog"),))
CATS = Ontology((ClassSpec("cat"),))


def task(name: str, ontology: Ontology = DOGS, shade: int = 128) -> Task:
    return Task(make_image(name, shade=shade), ontology)


def unlucky(image: Image, phrases: Sequence[str]) -> list[Row]:
    if "bad" in image.name:
        raise ValueError("this image breaks the model")
    return [((1, 1, 9, 9), dict.fromkeys(phrases, 0.9))]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


def engine(
    proposer: ScriptedProposer, verifier: ScriptedVerifier | None = None, **limits: object
) -> Engine:
    pipeline = Pipeline(proposer, verifier or ScriptedVerifier())
    return Engine(pipeline, BatchingSettings(**limits))  # type: ignore[arg-type]


def test_what_shapes_a_view_is_recorded_with_the_settings() -> None:
    made = engine(ScriptedProposer(lambda *_: []))
    assert made.recorded_settings["view_min_side"] == ScriptedVerifier.min_side
    made.pipeline.verifier = None
    assert "view_min_side" not in made.recorded_settings
    made.close()


def settled(made: Engine) -> bool:
    """Callbacks run a moment after a result can be read."""
    until = time.monotonic() + 5
    while made.depth() and time.monotonic() < until:
        time.sleep(0.001)
    return made.depth() == 0


def test_a_image_goes_through_both_stages() -> None:
    made = engine(ScriptedProposer())
    labelled = made.submit(task("p")).result(5)
    assert (labelled.name, labelled.judgements[0].class_name) == ("p", "dog")
    assert labelled.timings_ms["total"] >= labelled.timings_ms["propose"]
    assert settled(made)
    made.close()


def test_many_callers_each_get_their_own_and_share_batches() -> None:
    proposer = ScriptedProposer(unlucky, delay_s=0.002)
    made = engine(proposer, propose_batch=4, max_in_flight=1000)
    futures: dict[str, Future[Labelled]] = {}

    def send(caller: int) -> None:
        rng = np.random.default_rng(caller)
        for i in range(20):
            name = f"{caller}-{i}" + ("-bad" if rng.random() < 0.1 else "")
            futures[name] = made.submit(task(name, DOGS if rng.random() < 0.5 else CATS))

    callers = [threading.Thread(target=send, args=(caller,)) for caller in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    made.close()
    assert len(futures) == 160
    for name, future in futures.items():
        assert future.done()
        if "bad" in name:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result().name == name
    assert max(proposer.batches) > 1
    assert made.depth() == 0


def test_one_too_many_is_refused_and_nobody_else_suffers(gate: threading.Event) -> None:
    made = engine(ScriptedProposer(gate=gate), max_in_flight=3)
    inside = [made.submit(task(str(i))) for i in range(3)]
    with pytest.raises(Busy, match="3 images") as refused:
        made.submit(task("late"))
    assert refused.value.retry_after_s > 0
    gate.set()
    assert [future.result(5).name for future in inside] == ["0", "1", "2"]
    assert settled(made)
    assert made.submit(task("late")).result(5).name == "late"
    made.close()


def test_the_cancelled_cost_no_model_and_no_place(gate: threading.Event) -> None:
    proposer, verifier = ScriptedProposer(gate=gate), ScriptedVerifier()
    made = engine(proposer, verifier, max_in_flight=4)
    first = made.submit(task("first", shade=1))
    assert proposer.started.wait(5)
    gone = [made.submit(task(f"gone{i}", shade=2)) for i in range(3)]
    assert all(future.cancel() for future in gone)
    assert first.cancel()
    after = made.submit(task("after", shade=3))
    gate.set()
    assert after.result(5).name == "after"
    made.close()
    assert proposer.seen == ["first", "after"]
    assert verifier.views == 1
    with pytest.raises(CancelledError):
        first.result(0)
    assert made.depth() == 0


def test_given_up_in_the_middle_of_stage_two(caplog: pytest.LogCaptureFixture) -> None:
    verifier, answering = ScriptedVerifier(), threading.Event()
    go_on = threading.Event()

    def slow(question: str) -> float:
        answering.set()
        assert go_on.wait(5)
        return 0.9

    verifier.script = slow
    made = engine(ScriptedProposer(), verifier)
    first = made.submit(task("first"))
    assert answering.wait(5)
    assert first.cancel()
    go_on.set()
    assert made.submit(task("second", shade=9)).result(5).name == "second"
    made.close()
    assert not caplog.records
    assert made.depth() == 0


def test_a_flood_of_calls_given_up_does_not_lock_others_out(gate: threading.Event) -> None:
    proposer = ScriptedProposer(gate=gate)
    made = engine(proposer, max_in_flight=2)
    first = made.submit(task("first"))
    assert proposer.started.wait(5)
    for _ in range(50):
        assert made.submit(task("gone")).cancel()
    gate.set()
    assert first.result(5).name == "first"
    made.close()


def test_time_that_ran_out_is_not_spent_on(gate: threading.Event) -> None:
    proposer, verifier = ScriptedProposer(gate=gate), ScriptedVerifier()
    made = engine(proposer, verifier)
    first = made.submit(task("first"), deadline=time.monotonic() + 0.05)
    assert proposer.started.wait(5)
    late = made.submit(task("late"), deadline=time.monotonic() + 0.05)
    time.sleep(0.08)
    gate.set()
    for future in (first, late):
        with pytest.raises(DeadlineExceeded):
            future.result(5)
    made.close()
    assert proposer.seen == ["first"]
    assert verifier.calls == 0
    assert made.depth() == 0


def test_closing_finishes_both_stages_and_takes_no_more(gate: threading.Event) -> None:
    made = engine(ScriptedProposer(gate=gate), propose_batch=2)
    accepted = [made.submit(task(str(i))) for i in range(7)]
    closing = threading.Thread(target=made.close)
    closing.start()
    time.sleep(0.02)
    with pytest.raises(ShuttingDown):
        made.submit(task("late"))
    gate.set()
    closing.join(10)
    assert [future.result(0).name for future in accepted] == [str(i) for i in range(7)]
    assert made.depth() == 0


def test_metrics_hear_both_stages() -> None:
    heard: list[tuple[str, int]] = []
    made = Engine(
        Pipeline(ScriptedProposer(), ScriptedVerifier()),
        observe=lambda stage, size, seconds: heard.append((stage, size)),
    )
    made.submit(task("p")).result(5)
    made.close()
    assert heard == [("propose", 1), ("verify", 1)]


def test_a_batch_in_stage_two_does_not_mix_images_up() -> None:
    def by_shade(image: Image, phrases: Sequence[str]) -> list[Row]:
        shade = float(image.pixels[0, 0, 0])
        return [((0, 0, 5 + shade / 10, 9), dict.fromkeys(phrases, 0.9))]

    made = engine(ScriptedProposer(by_shade), ScriptedVerifier(delay_s=0.002))
    futures = [made.submit(task(str(shade), shade=shade)) for shade in range(40)]
    for shade, future in enumerate(futures):
        labelled = future.result(10)
        assert labelled.name == str(shade)
        assert labelled.judgements[0].box[2] == pytest.approx(5 + shade / 10)
    made.close()


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=200))
def test_the_rate_is_a_mean_of_the_last_times_an_image_took(times: list[float]) -> None:
    rate, now = ServiceRate(), 100.0
    rate.resume(now)
    assert rate.seconds(1) is None
    for passed in times:
        now += passed
        rate.finished(now)
    seconds = rate.seconds(1)
    assert seconds is not None
    assert min(times) - 1e-6 <= seconds <= max(times) + 1e-6
    assert rate.seconds(10) == pytest.approx(10 * seconds)


def test_the_rate_follows_the_present_and_leaves_out_pauses() -> None:
    rate, now = ServiceRate(), 0.0
    rate.resume(now)
    for _ in range(200):
        rate.finished(now := now + 1.0)
    rate.resume(now := now + 3600)
    for _ in range(200):
        rate.finished(now := now + 0.1)
    assert rate.seconds(1) == pytest.approx(0.1, rel=0.05)


def test_the_rate_is_what_could_be_done_not_how_many_came() -> None:
    rate, now = ServiceRate(), 0.0
    rate.resume(now)
    rate.finished(now := now + 5.0, enough=False)
    assert rate.seconds(1) == pytest.approx(5.0)  # for want of something better
    for _ in range(3):
        rate.finished(now := now + 0.1)
    for _ in range(100):
        rate.finished(now := now + 5.0, enough=False)
    rate.finished(now := now + 0.1)
    assert rate.seconds(1) == pytest.approx(0.1)


@given(st.none() | st.floats(0, 1e6))
def test_a_retry_hint_is_near_the_expected_time_and_within_bounds(expected: float | None) -> None:
    hint = retry_hint_s(expected)
    wanted = 1.0 if expected is None else min(max(expected, MIN_HINT_S), MAX_HINT_S)
    assert 0.74 * wanted <= hint <= 1.26 * wanted


def test_the_engine_measures_how_long_an_image_takes() -> None:
    made = engine(ScriptedProposer(delay_s=0.02), propose_batch=1, verify_batch=1)
    assert made.seconds_for(1) is None
    for number in range(5):
        made.submit(task(str(number))).result(5)
    assert settled(made)
    measured = made.seconds_for(1)
    assert measured is not None and 0.02 <= measured < 1
    made.close()


def test_jobs_wait_for_callers_and_have_their_share(gate: threading.Event) -> None:
    proposer = ScriptedProposer(gate=gate)
    made = engine(proposer, propose_batch=4, max_in_flight=100)
    first = made.submit(task("first"))
    assert proposer.started.wait(5)
    jobs = [made.submit(task(f"job{i}"), background=True) for i in range(8)]
    calls = [made.submit(task(f"call{i}")) for i in range(8)]
    gate.set()
    for future in (first, *jobs, *calls):
        future.result(5)
    made.close()
    order = [name.rstrip("0123456789") for name in proposer.seen[1:]]
    assert sorted(order[:4]) == ["call", "call", "call", "job"]
    assert "call" not in order[11:]
