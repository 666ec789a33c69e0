"""The pipeline behind two batching queues: what the server and every long run share.

Stage one of the next batch runs while stage two of the last one does, and images of all
callers share batches. At most ``max_in_flight`` images are accepted at any moment; more are
refused at once with a retry hint, so memory and delay stay bounded whatever arrives.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from secondlook.config.settings import BatchingSettings
from secondlook.core.types import Labelled
from secondlook.labeling.batcher import Batcher
from secondlook.labeling.pipeline import Pipeline, Proposed, Task
from secondlook_client.errors import Busy


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
        self._in_flight = 0
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

    def submit(self, task: Task, deadline: float | None = None) -> "Future[Labelled]":
        """Label one image; ``deadline`` is a ``time.monotonic()`` moment.

        The future fails with ``DeadlineExceeded`` when the time ran out before a stage began;
        cancelling it keeps work not yet begun from being done. Raises ``Busy`` when full.
        """
        self._admit()
        outcome: Future[Labelled] = Future()
        outcome.add_done_callback(self._leave)
        try:
            self._begin(EngineCall(task, outcome, deadline, time.perf_counter()))
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
    def recorded_settings(self) -> dict[str, Any]:
        """What shapes results besides models and classes; kept with each run."""
        return self.pipeline.settings.recorded()

    @property
    def student(self) -> str:
        """Name and digest of the student that runs before the models; empty without one."""
        return ""

    def _admit(self) -> None:
        with self._lock:
            if self._in_flight >= self.batching.max_in_flight:
                raise Busy(
                    f"{self._in_flight} images are being worked on already; "
                    "try again in a moment or send fewer at a time",
                    retry_after_s=0.2,
                )
            self._in_flight += 1

    def _leave(self, _: "Future[Labelled]") -> None:
        with self._lock:
            self._in_flight -= 1

    def _begin(self, call: EngineCall) -> None:
        """Hand the image to stage one. Raises what its queue raises."""
        first = self._propose.submit(call.task, call.deadline)
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
            second = self._judge.submit(first.result(), call.deadline)
        except Exception as refused:
            call.fail(refused)
            return
        propagate_cancellation(call.outcome, second)
        second.add_done_callback(lambda done: _finish(done, call))


def propagate_cancellation(outcome: "Future[Labelled]", step: "Future[Any]") -> None:
    """Cancel a step when the outcome that it leads to is cancelled."""
    outcome.add_done_callback(lambda done: step.cancel() if done.cancelled() else None)


def _finish(second: "Future[Labelled]", call: EngineCall) -> None:
    if second.cancelled():
        return
    if failure := second.exception():
        call.fail(failure)
    else:
        call.finish(second.result())
