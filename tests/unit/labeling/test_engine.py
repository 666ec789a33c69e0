import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest
from fakes import Row, ScriptedProposer, ScriptedVerifier, make_image

from secondlook.config.settings import BatchingSettings
from secondlook.core.types import Image, Labelled
from secondlook.labeling.engine import Engine
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
