"""A student before the teachers: what it is certain of needs no proposer and no verifier.

    image ─▶ student ─┬─ certain and trusted ───────────▶ its labels          ("student")
                      ├─ certain, sampled for an audit ─▶ teachers, compared  ("audit")
                      └─ uncertain, or not covered ─────▶ teachers            ("teachers")

``student`` says which agreement with the teachers it expects, ``threshold`` from which value on
that is certain enough, ``trust`` whether the student is trusted. There is one ``Trust`` for each
job or stream and ontology (single images share one), because trust is about a scene: pooled over
ten cameras, the one that was turned around would hardly show. It is one for all classes: each class
alone would have too few audits to be judged by, and an image's labels come from one side. It is
kept in memory: after a restart the student has to earn it again, some hundred images a stream.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from secondlook.cascade.student import (
    FEATURE_TOLERANCES,
    CascadeStudent,
    StudentAdapter,
    StudentPrediction,
    agreement,
    student_name,
)
from secondlook.cascade.trust import Trust
from secondlook.config.settings import BatchingSettings, CascadeSettings
from secondlook.core.types import Labelled
from secondlook.labeling.batcher import Batcher
from secondlook.labeling.engine import Engine, EngineCall, propagate_cancellation
from secondlook.labeling.pipeline import Pipeline, Task
from secondlook_client.errors import DeadlineExceeded
from secondlook_client.ontology import Ontology
from secondlook_client.values import LabelPath

log = logging.getLogger(__name__)

MAX_STREAMS = 1024
"""Streams remembered; the one without images for longest is forgotten."""
DETECT_FLOOR = 0.01
"""Raw scores may be low where probabilities are not."""


@dataclass(frozen=True)
class _ActiveStudent:
    """The student in use; replaced as a whole."""

    model: CascadeStudent
    adapter: StudentAdapter
    name: str
    """``student:NAME@digest``."""


@dataclass(frozen=True)
class RoutingEvent:
    """One image was labelled; for metrics."""

    path: LabelPath
    agreement: float | None
    """Of an audit that could be compared, [0, 1]."""
    trusted: int
    """Streams on which the student labels alone now."""
    watched: int
    """Streams known."""


class Cascade(Engine):
    """An engine with a student before its models. Thread-safe; the student must be, too."""

    def __init__(
        self,
        pipeline: Pipeline,
        student: CascadeStudent | None,
        cascade_settings: CascadeSettings | None = None,
        batching: BatchingSettings | None = None,
        observe: Callable[[str, int, float], None] | None = None,
        on_routed: Callable[[RoutingEvent], None] = lambda event: None,
        follows: str = "",
    ) -> None:
        """``on_routed`` is called for each image that was labelled. The caller closes the student.

        Without a student the teachers label everything until ``use_student``; ``follows`` names
        the model whose promoted versions that will be. Raises ``BadSetting`` for a student whose
        manifest cannot be used.
        """
        super().__init__(pipeline, batching, observe)
        self.cascade_settings = cascade_settings or CascadeSettings()
        self._active = self._activate(student) if student else None
        self._on_routed = on_routed
        self._follows = follows
        self._trusts: OrderedDict[tuple[str, str], Trust] = OrderedDict()
        self._covered: OrderedDict[str, bool] = OrderedDict()
        self._trust_lock = threading.Lock()
        self._predictions: Batcher[Task, StudentPrediction] = Batcher(
            "student",
            self._predict,
            max_batch=self.batching.propose_batch,
            max_wait_s=self.batching.batching_window_ms / 1000,
            max_queue=self.batching.max_in_flight,
            observe=observe,
        )

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """The teachers' settings, which student is used or followed, and what it may do alone."""
        return {
            **super().recorded_settings,
            "cascade": self._follows or self.student,
            "audit_share": self.cascade_settings.audit_share,
            "agreement": self.cascade_settings.agreement,
        }

    @property
    def student(self) -> str:
        """``student:NAME@digest``; empty without one."""
        active = self._active
        return active.name if active else ""

    def use_student(self, student: CascadeStudent) -> None:
        """Use another student from the next image on; it has to earn its own trust.

        The previous one may be closed then: an image that it fails on goes to the teachers. Raises
        ``BadSetting`` for a manifest that cannot be used, and keeps the previous one.
        """
        active = self._activate(student)
        with self._trust_lock:
            self._active = active
            self._trusts.clear()
            self._covered.clear()

    def _activate(self, student: CascadeStudent) -> _ActiveStudent:
        adapter = StudentAdapter(student.manifest, self.pipeline.settings)
        return _ActiveStudent(student, adapter, student_name(student.manifest))

    def close(self) -> None:
        """Finish what was accepted, take nothing new."""
        self._predictions.close()
        super().close()

    def is_trusted(self, source: str, ontology: Ontology) -> bool:
        """Whether the student labels alone at present in a job or stream."""
        with self._trust_lock:
            trust = self._trusts.get((source, ontology.digest))
            return trust is not None and not trust.teachers_label_all

    def _begin(self, visit: EngineCall) -> None:
        with self._trust_lock:
            runs = self._covers(visit.task.ontology) and self._trust(visit.task).should_run()
        visit.outcome.add_done_callback(self._labelled)
        if not runs:
            super()._begin(visit)
            return
        prediction = self._predictions.submit(visit.task, visit.deadline, visit.background)
        propagate_cancellation(visit.outcome, prediction)
        prediction.add_done_callback(lambda done: self._predicted(done, visit))

    def _predict(self, tasks: Sequence[Task]) -> list[StudentPrediction]:
        """Run the student on a batch (in its worker's thread)."""
        active = self._active
        assert active  # nothing is submitted without a student
        started = time.perf_counter()
        found = active.model.detect([task.image.pixels for task in tasks], floor=DETECT_FLOOR)
        ms = (time.perf_counter() - started) * 1000 / len(tasks)
        return [
            active.adapter.predict(task, one, active.model.probability(one), ms)
            for task, one in zip(tasks, found, strict=True)
        ]

    def _predicted(self, done: "Future[StudentPrediction]", visit: EngineCall) -> None:
        """The student has finished an image: route it (in its worker's thread)."""
        if visit.outcome.cancelled() or done.cancelled():
            return
        failure = done.exception()
        if isinstance(failure, DeadlineExceeded):
            visit.fail(failure)
            return
        if failure:  # the teachers can do without it
            log.error("the student failed; the teachers label the image", exc_info=failure)
            self._send_to_teachers(visit)
            return
        prediction = done.result()
        with self._trust_lock:
            path = self._route(visit.task, prediction)
        if path is LabelPath.STUDENT:
            visit.finish(prediction.labelled)
        else:
            self._compare(visit, prediction, path)

    def _route(self, task: Task, prediction: StudentPrediction) -> LabelPath:
        """With the lock."""
        if not self._is_current(prediction):
            return LabelPath.TEACHERS
        return self._trust(task).route(prediction.expected, prediction.features)

    def _is_current(self, prediction: StudentPrediction) -> bool:
        """Whether it is the present student's; another may have taken over meanwhile."""
        return prediction.labelled.evidence.proposer == self.student

    def _send_to_teachers(self, visit: EngineCall) -> None:
        try:
            super()._begin(visit)
        except Exception as refused:
            visit.fail(refused)

    def _compare(self, visit: EngineCall, prediction: StudentPrediction, path: LabelPath) -> None:
        """The teachers label the image; the student's prediction is compared with that."""
        teachers: Future[Labelled] = Future()
        propagate_cancellation(visit.outcome, teachers)
        teachers.add_done_callback(lambda done: self._compared(done, visit, prediction, path))
        self._send_to_teachers(replace(visit, outcome=teachers))

    def _compared(
        self,
        done: "Future[Labelled]",
        visit: EngineCall,
        prediction: StudentPrediction,
        path: LabelPath,
    ) -> None:
        """The teachers have labelled an image that the student has seen, too."""
        if done.cancelled():
            return
        if failure := done.exception():
            visit.fail(failure)
            return
        teachers = done.result()
        agreed = agreement(prediction.labelled, teachers)
        if agreed is not None:
            with self._trust_lock:
                self._observe_agreement(visit.task, path, prediction, agreed)
        if path is LabelPath.TEACHERS:
            visit.finish(teachers)
            return
        evidence = replace(teachers.evidence, student=prediction.labelled.evidence.proposer)
        timings = {**teachers.timings_ms, **prediction.labelled.timings_ms}
        visit.finish(replace(teachers, evidence=evidence, timings_ms=timings))
        self._report(LabelPath.AUDIT, agreed)

    def _observe_agreement(
        self, task: Task, path: LabelPath, prediction: StudentPrediction, agreed: float
    ) -> None:
        """With the lock."""
        if not self._is_current(prediction):
            return
        trust = self._trust(task)
        before = trust.trusted
        trust.observe(path, prediction.expected, agreed)
        if trust.trusted != before:
            state = "trusted" if trust.trusted else "no longer trusted"
            log.info("the student is %s", state, extra={"source": task.source})

    def _labelled(self, outcome: "Future[Labelled]") -> None:
        """Report an image that has its labels; audits are reported with their agreement."""
        if not outcome.cancelled() and not outcome.exception():
            path = outcome.result().path
            if path is not LabelPath.AUDIT:
                self._report(path, None)

    def _report(self, path: LabelPath, agreed: float | None) -> None:
        with self._trust_lock:
            trusted = sum(not trust.teachers_label_all for trust in self._trusts.values())
            watched = len(self._trusts)
        try:
            self._on_routed(RoutingEvent(path, agreed, trusted, watched))
        except Exception:  # a fault in somebody's metrics must not cost an image
            log.exception("the cascade's observer failed")

    def _covers(self, ontology: Ontology) -> bool:
        """Whether there is a student trained on every class, and none that needs masks, which a
        student does not give; with the lock."""
        if self._active is None or any(spec.needs_segmenter for spec in ontology.classes):
            return False
        if ontology.digest not in self._covered:
            self._covered[ontology.digest] = self._active.adapter.covers(ontology)
            if len(self._covered) > MAX_STREAMS:
                self._covered.popitem(last=False)
            if not self._covered[ontology.digest]:
                log.info(
                    "%s was not trained on all of %s; the teachers label these images",
                    self.student,
                    ", ".join(ontology.names),
                )
        return self._covered[ontology.digest]

    def _trust(self, task: Task) -> Trust:
        """The trust of the task's stream; with the lock."""
        key = (task.source, task.ontology.digest)
        if key not in self._trusts:
            seed = f"0 {key}"
            self._trusts[key] = Trust(self.cascade_settings, FEATURE_TOLERANCES, seed)
        self._trusts.move_to_end(key)
        while len(self._trusts) > MAX_STREAMS:
            self._trusts.popitem(last=False)
        return self._trusts[key]
