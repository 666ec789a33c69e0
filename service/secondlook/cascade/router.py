"""A student before the teachers: what it is certain of needs no proposer and no verifier.

    image ─▶ student ─┬─ certain, trusted ──────────────▶ its labels         ("student")
                        ├─ certain, drawn for an audit ───▶ teachers, compared ("audit")
                        └─ in doubt, or it cannot know ───▶ teachers           ("teachers")

``opinions`` says what it expects of its labels, ``certainty`` from which expectation on it is
certain, ``trust`` when it is trusted. There is one trust for each job or stream and ontology (what
comes singly shares one), because trust is about a scene: pooled over ten cameras, the one that was
turned around would hardly show. It is one for all classes: each class alone would have too few
audits to be judged by, and an image's labels come from one side. It is kept in memory: after a
restart the student proves itself again, some hundred images a stream.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from secondlook.cascade.student import FLOORS, Opinion, Reading, Student, agreement, student_name
from secondlook.cascade.trust import Trust, TrustRule
from secondlook.core.errors import DeadlineExceeded
from secondlook.core.ontology import Ontology
from secondlook.core.types import Labelled, LabelPath
from secondlook.labeling.batcher import Batcher
from secondlook.labeling.engine import Engine, EngineLimits, Visit, follow
from secondlook.labeling.pipeline import Pipeline, Task

log = logging.getLogger(__name__)

MAX_TRUSTS = 1024
"""Streams remembered; the one without images for longest is forgotten, and starts anew."""
DETECT_FLOOR = 0.01
"""Raw scores may be low where probabilities are not."""


@dataclass(frozen=True)
class CascadeRule:
    """When a student decides alone."""

    trust: TrustRule = field(default_factory=TrustRule)
    seed: int = 0
    """Of the draws of audits."""


@dataclass(frozen=True)
class _Seated:
    """The student of the moment; changed as one."""

    model: Student
    reading: Reading
    name: str
    """``student:NAME@digest``."""


@dataclass(frozen=True)
class Passed:
    """One image got its labels; for metrics."""

    path: LabelPath
    agreement: float | None
    """Of an audit that could be compared, [0, 1]."""
    trusted: int
    """Streams on which the student decides alone now."""
    watched: int
    """Streams known."""


class Cascade(Engine):
    """An engine with a student before its models. Thread-safe; the student must be, too."""

    def __init__(
        self,
        pipeline: Pipeline,
        student: Student | None,
        rule: CascadeRule | None = None,
        limits: EngineLimits | None = None,
        observe: Callable[[str, int, float], None] | None = None,
        tell: Callable[[Passed], None] = lambda passed: None,
        follows: str = "",
    ) -> None:
        """``tell`` hears of each image that was labelled. The student is the caller's.

        Without one the teachers label everything until one is adopted; ``follows`` says which that
        will be. Raises ``BadSetting`` for a student whose manifest makes no sense.
        """
        super().__init__(pipeline, limits, observe)
        self.rule = rule or CascadeRule()
        self._seated = self._seat(student) if student else None
        self._tell = tell
        self._follows = follows
        self._trusts: OrderedDict[tuple[str, str], Trust] = OrderedDict()
        self._known: OrderedDict[str, bool] = OrderedDict()
        self._trust_lock = threading.Lock()
        self._look: Batcher[Task, Opinion] = Batcher(
            "student",
            self._opinions,
            max_batch=self.limits.propose_batch,
            max_wait_s=self.limits.max_wait_s,
            max_queue=self.limits.max_images,
            observe=observe,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The teachers' settings, whom the student is, or follows, and what it may decide alone."""
        trust = self.rule.trust
        return {
            **super().settings,
            "cascade": self._follows or self.student,
            "audit_share": trust.audit_share,
            "agreement": trust.agreement,
        }

    @property
    def student(self) -> str:
        """``student:NAME@digest``; empty without one."""
        seated = self._seated
        return seated.name if seated else ""

    def adopt(self, student: Student) -> None:
        """Take another student from the next image on; it has to earn its own trust.

        The one before may be closed then: an image that it fails on is its teachers'. Raises
        ``BadSetting`` for a manifest that makes no sense, and keeps the one before.
        """
        seated = self._seat(student)
        with self._trust_lock:
            self._seated = seated
            self._trusts.clear()
            self._known.clear()

    def _seat(self, student: Student) -> _Seated:
        reading = Reading(student.manifest, self.pipeline.limits)
        return _Seated(student, reading, student_name(student.manifest))

    def close(self) -> None:
        """Finish what was accepted, take nothing new."""
        self._look.close()
        super().close()

    def trusts(self, source: str, ontology: Ontology) -> bool:
        """Whether the student decides alone at present in a job or stream."""
        with self._trust_lock:
            trust = self._trusts.get((source, ontology.digest))
            return trust is not None and not trust.teachers_are_back

    def _begin(self, visit: Visit) -> None:
        with self._trust_lock:
            wanted = self._knows(visit.task.ontology) and self._trust(visit.task).wanted()
        visit.outcome.add_done_callback(self._passed)
        if not wanted:
            super()._begin(visit)
            return
        look = self._look.submit(visit.task, visit.deadline)
        follow(visit.outcome, look)
        look.add_done_callback(lambda done: self._looked(done, visit))

    def _looked(self, look: "Future[Opinion]", visit: Visit) -> None:
        """The student is done (in its worker's thread)."""
        if visit.outcome.cancelled() or look.cancelled():
            return
        failure = look.exception()
        if isinstance(failure, DeadlineExceeded):
            visit.fail(failure)
            return
        if failure:  # its teachers can do without it
            log.error("the student failed; the teachers take the image", exc_info=failure)
            self._teach(visit)
            return
        opinion = look.result()
        with self._trust_lock:
            path = self._route(visit.task, opinion)
        if path is LabelPath.STUDENT:
            visit.finish(opinion.labelled)
        else:
            self._compare(visit, opinion, path)

    def _route(self, task: Task, opinion: Opinion) -> LabelPath:
        """With the lock."""
        if not self._is_seated(opinion):
            return LabelPath.TEACHERS
        return self._trust(task).route(opinion.expected, opinion.numbers)

    def _is_seated(self, opinion: Opinion) -> bool:
        """Whether it is that of the present student; one may have been adopted meanwhile."""
        return opinion.labelled.evidence.proposer == self.student

    def _teach(self, visit: Visit) -> None:
        try:
            super()._begin(visit)
        except Exception as refused:
            visit.fail(refused)

    def _compare(self, visit: Visit, opinion: Opinion, path: LabelPath) -> None:
        """The teachers label it; what the student says is compared with that."""
        taught: Future[Labelled] = Future()
        follow(visit.outcome, taught)
        taught.add_done_callback(lambda done: self._taught(done, visit, opinion, path))
        self._teach(replace(visit, outcome=taught))

    def _taught(
        self, taught: "Future[Labelled]", visit: Visit, opinion: Opinion, path: LabelPath
    ) -> None:
        if taught.cancelled():
            return
        if failure := taught.exception():
            visit.fail(failure)
            return
        teachers = taught.result()
        agreed = agreement(opinion.labelled, teachers)
        if agreed is not None:
            with self._trust_lock:
                self._hear(visit.task, path, opinion, agreed)
        if path is LabelPath.TEACHERS:
            visit.finish(teachers)
            return
        evidence = replace(teachers.evidence, student=opinion.labelled.evidence.proposer)
        timings = {**teachers.timings_ms, **opinion.labelled.timings_ms}
        visit.finish(replace(teachers, evidence=evidence, timings_ms=timings))
        self._report(LabelPath.AUDIT, agreed)

    def _hear(self, task: Task, path: LabelPath, opinion: Opinion, agreed: float) -> None:
        """With the lock."""
        if not self._is_seated(opinion):
            return
        trust = self._trust(task)
        before = trust.trusted
        trust.heard(path, opinion.expected, agreed)
        if trust.trusted != before:
            what = "trusted" if trust.trusted else "not trusted any more"
            log.info("the student is %s", what, extra={"source": task.source})

    def _passed(self, outcome: "Future[Labelled]") -> None:
        """Audits report themselves, with what they came to."""
        if not outcome.cancelled() and not outcome.exception():
            path = outcome.result().path
            if path is not LabelPath.AUDIT:
                self._report(path, None)

    def _report(self, path: LabelPath, agreed: float | None) -> None:
        with self._trust_lock:
            trusted = sum(not trust.teachers_are_back for trust in self._trusts.values())
            watched = len(self._trusts)
        try:
            self._tell(Passed(path, agreed, trusted, watched))
        except Exception:  # a fault in somebody's metrics must not cost an image
            log.exception("the cascade's observer failed")

    def _opinions(self, tasks: Sequence[Task]) -> list[Opinion]:
        seated = self._seated
        assert seated  # only with a student is it asked
        started = time.perf_counter()
        found = seated.model.detect([task.image.pixels for task in tasks], floor=DETECT_FLOOR)
        ms = (time.perf_counter() - started) * 1000 / len(tasks)
        return [
            seated.reading.opinion(task, one, seated.model.probability(one), ms)
            for task, one in zip(tasks, found, strict=True)
        ]

    def _knows(self, ontology: Ontology) -> bool:
        """Whether there is a student that knows every class; with the lock."""
        if self._seated is None:
            return False
        if ontology.digest not in self._known:
            self._known[ontology.digest] = self._seated.reading.knows(ontology)
            if len(self._known) > MAX_TRUSTS:
                self._known.popitem(last=False)
            if not self._known[ontology.digest]:
                log.info(
                    "%s does not know all of %s; the teachers label these",
                    self.student,
                    ", ".join(ontology.names),
                )
        return self._known[ontology.digest]

    def _trust(self, task: Task) -> Trust:
        """The trust of the task's stream; with the lock."""
        key = (task.source, task.ontology.digest)
        if key not in self._trusts:
            seed = f"{self.rule.seed} {key}"
            self._trusts[key] = Trust(self.rule.trust, FLOORS, seed)
        self._trusts.move_to_end(key)
        while len(self._trusts) > MAX_TRUSTS:
            self._trusts.popitem(last=False)
        return self._trusts[key]
