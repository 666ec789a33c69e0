"""The pipeline behind two batching queues: what the server and every long run share.

Stage one of the next batch runs while stage two of the last one does, and images of all
callers share batches. At most ``max_in_flight`` images are accepted at any moment; more are
refused at once with a retry hint, so memory and delay stay bounded whatever arrives. How many
images are finished a second is measured, so that a server can tell how long another one would wait.
"""

import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from secondlook.config.settings import BatchingSettings
from secondlook.core.types import Labelled
from secondlook.labeling.batcher import Batcher
from secondlook.labeling.pipeline import Pipeline, Proposed, Task
from secondlook_client.errors import Busy
from secondlook_client.ontology import Ontology
from secondlook_client.tracing import QueuedTrace, continued, queued

MIN_HINT_S, MAX_HINT_S = 0.05, 60.0
"""A retry hint is within these bounds, whatever rate was measured."""


class ServiceRate:
    """Images finished a second while there was enough work: the mean of the last few batches.

    What is finished while there is less says how many came, not how many could be done; it counts
    only until there is something better. Not thread-safe: the engine calls it with its lock.
    """

    WEIGHT = 1 - 1 / 32
    """Of what was measured before, after one more image: about 32 images are remembered."""

    def __init__(self) -> None:
        self._images = self._seconds = 0.0
        self._since = 0.0
        self._proven = False
        """Whether there was enough work ever."""

    def resume(self, now: float) -> None:
        """There is work again, from ``now`` (a ``time.monotonic()`` moment) on."""
        self._since = now

    def finished(self, now: float, enough: bool = True) -> None:
        """One more image is done; there was ``enough`` work for full batches until now."""
        passed_s, self._since = max(now - self._since, 0.0), now
        if not enough and self._proven:
            return
        if enough and not self._proven:
            self._proven, self._images, self._seconds = True, 0.0, 0.0
        self._seconds = self._seconds * self.WEIGHT + passed_s
        self._images = self._images * self.WEIGHT + 1

    def seconds(self, images: float) -> float | None:
        """How long that many images take; None before the first one was finished."""
        return images * self._seconds / self._images if self._images else None


@dataclass(frozen=True, eq=False)
class EngineCall:
    """One image on its way through both stages."""

    task: Task
    outcome: "Future[Labelled]"
    """What the caller waits for."""
    deadline: float | None
    """A ``time.monotonic()`` moment."""
    entered: float
    """A ``time.perf_counter()`` moment."""
    background: bool = False
    """Whether it waits for the others."""
    trace: QueuedTrace | None = field(default_factory=queued)

    def fail(self, failure: BaseException) -> None:
        """Give the caller an error, unless it has gone away in the meantime."""
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(failure)

    def finish(self, labelled: Labelled) -> None:
        """Give the caller its answer, with the time since it arrived, unless it has gone away."""
        total = (time.perf_counter() - self.entered) * 1000
        timings = {**labelled.timings_ms, "total": total}
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_result(replace(labelled, timings_ms=timings))


class Engine:
    """Labels single images, batched with everybody else's. Thread-safe."""

    def __init__(
        self,
        pipeline: Pipeline,
        batching: BatchingSettings | None = None,
        observe: Callable[[str, int, float], None] | None = None,
    ) -> None:
        """``observe(stage, batch size, seconds)`` is called after each batch, for metrics."""
        self.pipeline = pipeline
        self.batching = batching or BatchingSettings()
        if observe:
            pipeline.observe_masks = partial(observe, "segment")
        self._in_flight = 0
        self._rate = ServiceRate()
        self._lock = threading.Lock()
        window_s, room = self.batching.batching_window_ms / 1000, self.batching.max_in_flight
        self._propose: Batcher[Task, Proposed] = Batcher(
            "propose",
            pipeline.propose,
            max_batch=self.batching.propose_batch,
            max_wait_s=window_s,
            max_queue=room,
            observe=observe,
        )
        self._judge: Batcher[Proposed, Labelled] = Batcher(
            "verify",
            pipeline.judge,
            max_batch=self.batching.verify_batch,
            max_wait_s=window_s,
            max_queue=room,
            observe=observe,
        )

    def submit(
        self, task: Task, deadline: float | None = None, background: bool = False
    ) -> "Future[Labelled]":
        """Label one image; ``deadline`` is a ``time.monotonic()`` moment.

        One in the ``background`` lets the others go first, and has a share of each batch all the
        same. The future fails with ``DeadlineExceeded`` when the time ran out before a stage began;
        cancelling it keeps work not yet begun from being done. Raises ``Busy`` when full.
        """
        self._admit()
        outcome: Future[Labelled] = Future()
        outcome.add_done_callback(self._leave)
        try:
            self._begin(EngineCall(task, outcome, deadline, time.perf_counter(), background))
        except Exception:
            outcome.cancel()
            raise
        return outcome

    def close(self) -> None:
        """Finish what was accepted and accept nothing new."""
        self._propose.close()
        self._judge.close()

    def depth(self) -> int:
        """Images in flight now."""
        return self._in_flight

    @property
    def working_set(self) -> int:
        """Images that keep every stage at work on full batches; more of them only wait."""
        return self.batching.propose_batch + self.batching.verify_batch

    def seconds_for(self, images: float) -> float | None:
        """How long that many images take at the measured rate; None while it is unknown."""
        with self._lock:
            return self._rate.seconds(images)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """What shapes results besides models and classes; kept with each run."""
        pipeline = self.pipeline
        recorded = pipeline.settings.recorded()
        if pipeline.verifier:
            recorded["view_min_side"] = pipeline.verifier.min_side
        if pipeline.segmenter:  # runs of before had no such settings
            recorded["segmenter"] = pipeline.segmenter_name
            recorded["segment"] = pipeline.settings.segment
        return recorded

    def settings_for(self, ontology: Ontology | None) -> dict[str, Any]:
        """``recorded_settings`` of a run with these classes: with the digest of its calibrator."""
        return {**self.recorded_settings, "calibrator": self.calibrator_digest(ontology)}

    def calibrator_digest(self, ontology: Ontology | None) -> str:
        """Of the calibrator that decides labels of ``ontology``; empty: there is none."""
        calibrator = self.pipeline.calibrator_for(ontology) if ontology else None
        return calibrator.digest if calibrator else ""

    @property
    def student(self) -> str:
        """Name and digest of the student that runs before the models; empty without one."""
        return ""

    def _admit(self) -> None:
        with self._lock:
            if self._in_flight >= self.batching.max_in_flight:
                wait_s = self._rate.seconds(self.working_set / 2)  # about a batch
                raise Busy(
                    f"{self._in_flight} images are being worked on already; "
                    "try again in a moment or send fewer at a time",
                    retry_after_s=retry_hint_s(wait_s),
                )
            if not self._in_flight:
                self._rate.resume(time.monotonic())
            self._in_flight += 1

    def _leave(self, outcome: "Future[Labelled]") -> None:
        with self._lock:
            if not outcome.cancelled():
                self._rate.finished(time.monotonic(), 2 * self._in_flight >= self.working_set)
            self._in_flight -= 1

    def _begin(self, call: EngineCall) -> None:
        """Hand the image to stage one. Raises what its queue raises."""
        first = self._propose.submit(call.task, call.deadline, call.background)
        propagate_cancellation(call.outcome, first)
        first.add_done_callback(lambda done: self._start_stage_two(done, call))

    def _start_stage_two(self, first: "Future[Proposed]", call: EngineCall) -> None:
        """Stage one is done: hand the image to stage two; runs in the thread of stage one."""
        if call.outcome.cancelled() or first.cancelled():
            return
        if failure := first.exception():
            call.fail(failure)
            return
        try:
            with continued(call.trace):
                second = self._judge.submit(first.result(), call.deadline, call.background)
        except Exception as refused:
            call.fail(refused)
            return
        propagate_cancellation(call.outcome, second)
        second.add_done_callback(lambda done: _finish(done, call))


def retry_hint_s(expected_s: float | None) -> float:
    """When to try again, seconds, where there is expected to be room in ``expected_s``.

    A quarter more or less, so that callers which were refused together do not return together.
    """
    seconds = 1.0 if expected_s is None else min(max(expected_s, MIN_HINT_S), MAX_HINT_S)
    return round(seconds * random.uniform(0.75, 1.25), 3)


def propagate_cancellation(outcome: "Future[Labelled]", step: "Future[Any]") -> None:
    """Cancel a step when the outcome that it leads to is cancelled."""
    # Weak: futures keep their callbacks, and each would keep the other, and the image, in a cycle.
    # Whoever works on the step holds it.
    ahead = weakref.ref(step)

    def cancel(done: "Future[Labelled]") -> None:
        if done.cancelled() and (waiting := ahead()) is not None:
            waiting.cancel()

    outcome.add_done_callback(cancel)


def _finish(second: "Future[Labelled]", call: EngineCall) -> None:
    if second.cancelled():
        return
    if failure := second.exception():
        call.fail(failure)
    else:
        call.finish(second.result())
