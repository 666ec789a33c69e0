"""What the driver sends to actors, and when; the actors are scripted, and answer when told to."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import RayActorError

from secondlook.jobs.in_flight import Attempt
from secondlook.jobs.ray_actors import ModelFacts
from secondlook.jobs.ray_cluster import LOST_ALONE, RemoteActor
from secondlook.jobs.ray_labeling import RayAttempts
from secondlook.store.queue import Item
from secondlook_client.errors import BadImage, ShuttingDown, Unavailable
from secondlook_client.ontology import ClassSpec, Ontology

DOGS = Ontology((ClassSpec("dog"),))
FACTS = ModelFacts(("scripted", "1"), None, None, "1")
BATCH = 2


class Reference:
    """Of a call that a scripted actor has."""

    def __init__(self, argument: Any) -> None:
        self.argument = argument
        self.ended: Future[Any] = Future()

    def future(self) -> "Future[Any]":
        return self.ended


class Method:
    """Of a scripted actor; ``calls`` are those that it was given."""

    def __init__(self) -> None:
        self.calls: list[Reference] = []

    def remote(self, argument: Any = None, *_: Any) -> Reference:
        self.calls.append(Reference(argument))
        return self.calls[-1]

    def options(self, **_: Any) -> "Method":
        return self


class Handle:
    """Of a scripted actor of either kind."""

    def __init__(self) -> None:
        self.ready, self.prepare, self.label = Method(), Method(), Method()


class Driver:
    """A driver of one decoding actor and so many with models, as a ``Worker`` uses it."""

    def __init__(self, models: int = 1) -> None:
        self.decoder, self.models = Handle(), [Handle() for _ in range(models)]
        actors = [RemoteActor(one) for one in self.models]
        decoders = [RemoteActor(self.decoder)]
        self.attempts = RayAttempts(actors, decoders, BATCH, (DOGS, "j"), None, FACTS)
        for one in (*self.models, self.decoder):
            self.revive(one)
        until(lambda: all(one.up for one in (*actors, *decoders)))

    def revive(self, actor: Handle) -> None:
        actor.ready.calls[-1].ended.set_result(None)

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            self.attempts.begin(Item(number, 1, number, str(number), 1, 1, None, 0))
        assert self.attempts.next(0) is None

    def labelled(self, models: int = 0) -> list[list[int]]:
        """Ids of the images of each call that the models were given."""
        calls = self.models[models].label.calls
        return [[item.id for item in call.argument.argument] for call in calls]

    def finish(self, models: int = 0) -> None:
        """The models end their latest call; of each image they give an outcome of its own."""
        call = self.models[models].label.calls[-1]
        call.ended.set_result([BadImage(str(item.id)) for item in call.argument.argument])

    def lose(self) -> None:
        """The models end with the call that they have, and start again."""
        models, calls = self.models[0], len(self.labelled())
        models.label.calls[-1].ended.set_exception(RayActorError())
        until(lambda: len(models.ready.calls) == calls + 1)
        assert len(self.labelled()) == calls
        self.revive(models)
        self.revive(self.decoder)
        until(lambda: len(self.labelled()) > calls)

    def collect(self, count: int) -> list[Any]:
        """The outcomes of the next attempts, in the order of their ids."""
        found: list[Attempt] = []
        while len(found) < count:  # a wake of the driver is no attempt
            if attempt := self.attempts.next(10):
                found.append(attempt)
        return [one.outcome for one in sorted(found, key=lambda one: one.item.id)]


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_models_get_their_next_batch_once_the_last_one_is_stored() -> None:
    driver = Driver()
    driver.begin(*range(1, 7))
    assert driver.labelled() == [[1, 2]]
    assert len(driver.decoder.prepare.calls) == 2  # the next one is decoded meanwhile
    driver.finish()
    driver.collect(1)
    driver.attempts.written()  # half of the batch
    assert driver.labelled() == [[1, 2]]
    assert [str(one) for one in driver.collect(1)] == ["2"]
    assert driver.attempts.next(0) is None
    assert driver.labelled() == [[1, 2]]
    driver.attempts.written()
    assert driver.labelled() == [[1, 2], [3, 4]]
    assert len(driver.decoder.prepare.calls) == 3


def test_each_of_several_models_has_a_batch_of_its_own() -> None:
    driver = Driver(models=2)
    driver.begin(*range(1, 13))
    assert [driver.labelled(0), driver.labelled(1)] == [[[1, 2]], [[3, 4]]]
    driver.finish(1)
    driver.collect(2)
    driver.attempts.written()
    assert [driver.labelled(0), driver.labelled(1)] == [[[1, 2]], [[3, 4], [5, 6]]]


def test_less_than_a_batch_waits_for_more_while_the_models_work() -> None:
    driver = Driver()
    driver.begin(1)
    assert driver.labelled() == [[1]]
    driver.begin(2)
    assert len(driver.decoder.prepare.calls) == 1
    driver.begin(3)
    assert len(driver.decoder.prepare.calls) == 2
    driver.begin(4)
    driver.finish()
    driver.collect(1)
    driver.attempts.written()
    assert driver.labelled() == [[1], [2, 3]]


def test_images_of_a_lost_call_go_again_each_alone_and_not_for_ever() -> None:
    driver = Driver()
    driver.begin(1, 2, 3)
    for _ in range(1 + 2 * LOST_ALONE):
        driver.lose()
    assert driver.labelled() == [[1, 2], *[[1], [2]] * LOST_ALONE, [3]]
    for outcome in driver.collect(2):
        assert isinstance(outcome, BadImage)
        assert "ended its worker" in str(outcome)
    driver.finish()
    assert [str(one) for one in driver.collect(1)] == ["3"]


def test_what_no_models_have_yet_ends_when_the_run_is_stopped() -> None:
    driver = Driver()
    driver.begin(*range(1, 7))
    driver.attempts.stop()
    assert [type(one) for one in driver.collect(4)] == [ShuttingDown] * 4
    driver.finish()
    assert [type(one) for one in driver.collect(2)] == [BadImage] * 2
    driver.attempts.written()
    assert not driver.attempts.item_ids
    assert len(driver.labelled()) == 1


def test_an_error_of_the_call_is_the_outcome_of_its_images() -> None:
    driver = Driver()
    driver.begin(1, 2, 3, 4)
    driver.models[0].label.calls[-1].ended.set_exception(BadImage("of all"))
    assert [str(one) for one in driver.collect(2)] == ["of all"] * 2


def test_images_that_cannot_be_sent_end_where_the_connection_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: Any) -> Reference:
        raise ConnectionError("Ray client is not connected")

    driver = Driver()
    monkeypatch.setattr(driver.decoder.prepare, "remote", gone)
    for number in (1, 2, 3):
        driver.attempts.begin(Item(number, 1, number, str(number), 1, 1, None, 0))
    assert [type(one) for one in driver.collect(3)] == [Unavailable] * 3
    assert not driver.attempts.item_ids
    monkeypatch.undo()
    driver.begin(4)
    assert driver.labelled() == [[4]]  # its place is free, should the connection be made again
