"""Labels the images of a job on the machines of a Ray cluster.

The driver, which is the process of the command, keeps the job: what is done, what failed, and what
is tried again is decided by the same ``Worker`` and written into the same store as without Ray. Ray
only makes the attempts. That is what ``RayAttempts`` is for::

    RayModels   connects, starts the actors with models; stands where the pipeline would
    RayAttempts sends batches of items: decoding actor ─▶ actor with models ─▶ ``Attempt``

An actor with models gets its next batch, which is decoded by then, once the results of the last one
are stored. So no death, not even the driver's, costs an actor's work on more than one.

A call whose actor died is no failure of its images: they are sent again, each alone, since one of
them may be the cause. One that ends ``LOST_ALONE`` actors by itself is given up.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from secondlook.config.settings import Settings
from secondlook.core.image_folder import ImageSelection
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.jobs.in_flight import Attempt, JobAttempts, LabelledItem
from secondlook.jobs.ray_actors import DecodingActor, ModelActor, ModelFacts
from secondlook.jobs.ray_cluster import (
    LOST_ALONE,
    MADE_AGAIN,
    Cluster,
    ClusterPlan,
    RemoteActor,
    call,
    check_machine,
    future_of,
    idle,
    is_lost,
    least_busy,
    original,
    unavailable,
)
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook.store.blobs import Blobs
from secondlook.store.queue import Item
from secondlook_client.errors import (
    BadImage,
    NotSupported,
    SecondlookError,
    ShuttingDown,
)
from secondlook_client.ontology import Ontology
from secondlook_client.values import Answer

log = logging.getLogger(__name__)

READY_AHEAD = 3
"""Batches in flight for each actor with models: one labelled, one decoded, one waiting for that."""
DECODED_BATCHES = 3
"""That a decoding actor works on at the same time."""


class _ModelElsewhere:
    """Name and digest of a model that only the cluster loads."""

    def __init__(self, name: str, digest: str, min_side: int = 1) -> None:
        self.name = name
        self.digest = digest
        self.min_side = min_side

    def propose(
        self, images: Sequence[Image], phrases: Sequence[str], floor: float
    ) -> list[Proposals]:
        """Raises ``NotSupported``."""
        raise self._elsewhere()

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Raises ``NotSupported``."""
        raise self._elsewhere()

    def encode(self, images: Sequence[Image]) -> list[ImageEncoding]:
        """Raises ``NotSupported``."""
        raise self._elsewhere()

    def segment(
        self, encoding: ImageEncoding, prompts: Sequence[SegmentationPrompt]
    ) -> list[tuple[MaskCandidate, ...]]:
        """Raises ``NotSupported``."""
        raise self._elsewhere()

    def _elsewhere(self) -> NotSupported:
        return NotSupported(f"'{self.name}' runs on the Ray cluster, for images of jobs only")


class RayModels(Pipeline):
    """Models on a Ray cluster, where a ``Pipeline`` stands; labels the images of jobs only."""

    def __init__(
        self,
        plan: ClusterPlan,
        settings: Settings,
        selection: ImageSelection,
        say: Callable[[str], None],
    ) -> None:
        """Connect, and start actors that load the models; the first is waited for.

        ``selection`` is where the images of the job lie, ``say`` gets a line while the cluster is
        waited for. Raises ``Unavailable`` where there is no cluster or no room on it, and what
        loading the models raises.
        """
        self._selection = selection
        self._limits = settings.images
        self._batch = settings.batching.propose_batch
        self._cluster = Cluster(plan)
        try:
            self._actors = [
                self._cluster.start(ModelActor, settings, calls=2)
                for _ in range(self._cluster.shares.models)
            ]
            facts: ModelFacts = self._cluster.first_ready(self._actors, say)
            check_machine(facts)
        except BaseException:
            self.close()
            raise
        self._facts = facts
        verifier = _ModelElsewhere(*facts.verifier) if facts.verifier else None
        segmenter = _ModelElsewhere(*facts.segmenter) if facts.segmenter else None
        super().__init__(_ModelElsewhere(*facts.proposer), verifier, settings.pipeline, segmenter)

    def close(self) -> None:
        """Leave the cluster, which ends the actors."""
        self._cluster.close()

    def check_ontology(self, ontology: Ontology) -> None:
        """See ``Pipeline``; the models are asked on the cluster."""
        super().check_ontology(ontology)
        call(self._actors[0].handle.check_words, ontology, retried=True)

    def attempts(self, blobs: Blobs, ontology: Ontology, source: str) -> "RayAttempts":
        """See ``LabelsElsewhere``."""
        decoders = [
            self._cluster.start_decoder(
                DecodingActor, self._limits, blobs, self._selection, calls=DECODED_BATCHES
            )
            for _ in range(self._cluster.shares.decoders)
        ]
        calibrator = self._cluster.put(self.calibrator)
        return RayAttempts(
            self._actors, decoders, self._batch, (ontology, source), calibrator, self._facts
        )


@dataclass(eq=False)
class _Batch:
    """Items that are sent together."""

    items: list[tuple[Item, float]]
    """Each with the moment at which its attempt began."""
    decoder: RemoteActor
    prepared: Any
    """A reference to the decoded images."""


class RayAttempts(JobAttempts):
    """Attempts at the items of one job, on a cluster."""

    def __init__(
        self,
        models: Sequence[RemoteActor],
        decoders: Sequence[RemoteActor],
        batch: int,
        wanted: tuple[Ontology, str],
        calibrator: Any,
        facts: ModelFacts,
    ) -> None:
        """``wanted`` are ontology and source, ``calibrator`` a reference to it; actors
        with other ``facts`` are refused."""
        super().__init__()
        self._models = models
        self._decoders = decoders
        self._batch = batch
        self._wanted = wanted
        self._calibrator = calibrator
        self._facts = facts
        self._waiting: deque[tuple[Item, float]] = deque()
        self._prepared: deque[_Batch] = deque()
        """Batches that were sent to be decoded and that no models have yet."""
        self._models_of: dict[int, RemoteActor] = {}
        """What labelled a batch, by its last item, until ``next`` has returned that."""
        self._returned: list[RemoteActor] = []
        """Models whose batch ``next`` has returned, and which is not known to be stored."""
        self._lost: Counter[int] = Counter()
        """Calls that were lost with each item."""
        self._broken: SecondlookError | None = None
        """Why no call can be made any more."""
        self._lock = threading.RLock()
        self._answers = ThreadPoolExecutor(1)
        for actor in (*models, *decoders):
            self._revive(actor)

    @property
    def limit(self) -> int:
        """See ``JobAttempts``."""
        return READY_AHEAD * self._batch * len(self._models)

    @property
    def written_at_once(self) -> bool:
        """See ``JobAttempts``; a batch comes whole, and is lost with this process."""
        return True

    def next(self, timeout_s: float) -> Attempt | None:
        """See ``JobAttempts``; what was begun since is sent."""
        self._send()
        attempt = super().next(timeout_s)
        if attempt and (models := self._models_of.pop(attempt.item.id, None)):
            self._returned.append(models)
        return attempt

    def written(self) -> None:
        """See ``JobAttempts``; models whose batch is stored get their next one."""
        with self._lock:
            for models in self._returned:
                models.load -= 1
            self._returned.clear()
            self._send()

    def stop(self) -> None:
        """See ``JobAttempts``; what was not sent yet ends."""
        super().stop()
        self._send()

    def close(self) -> None:
        """End the decoding actors."""
        for actor in self._decoders:
            actor.end()
        self._answers.shutdown(wait=False, cancel_futures=True)

    def _start(self, item: Item, began: float) -> None:
        with self._lock:
            self._waiting.append((item, began))

    def _send(self) -> None:
        """Give models that have nothing to do a batch, and have the next ones decoded."""
        with self._lock:
            if self._stopping.is_set() or self._broken:
                self._end_waiting()
            while self._prepare() or self._label():
                pass

    def _end_waiting(self) -> None:
        for batch in self._prepared:
            batch.decoder.load -= 1
            self._waiting.extend(batch.items)
        self._prepared.clear()
        stopping = ShuttingDown("the run is being stopped; the image stays in the queue")
        while self._waiting:
            self._end(*self._waiting.popleft(), self._broken or stopping)

    def _prepare(self) -> bool:
        """Have a batch decoded; False where there is none, or enough of them wait for models."""
        decoder = least_busy(self._decoders)
        if not self._waiting or decoder is None or len(self._prepared) >= len(self._models):
            return False
        whole = len(self._waiting) >= self._batch or self._lost[self._waiting[0][0].id]
        if not whole and (self._prepared or not idle(self._models)):
            return False  # more may come before it can be labelled
        items = self._together()
        try:
            prepared = decoder.handle.prepare.remote([item for item, _ in items], *self._wanted)
        except Exception as failure:  # the connection is gone, which Ray tells in many ways
            for item, began in items:
                self._end(item, began, original(failure))
            return True
        decoder.load += 1
        self._prepared.append(_Batch(items, decoder, prepared))
        return True

    def _label(self) -> bool:
        """Have a batch labelled; False where there is none, or no models for it."""
        models = idle(self._models)
        if not self._prepared or models is None:
            return False
        batch = self._prepared.popleft()
        models.load += 1
        label = partial(models.handle.label.remote, batch.prepared, self._calibrator)
        self._then(label, partial(self._finish, batch, models))
        return True

    def _together(self) -> list[tuple[Item, float]]:
        """The next items: one that was lost before, or as many as a batch has."""
        items = [self._waiting.popleft()]
        while self._waiting and len(items) < self._batch and not self._lost[items[0][0].id]:
            if self._lost[self._waiting[0][0].id]:
                break
            items.append(self._waiting.popleft())
        return items

    def _then(self, call: Callable[[], Any], handle: "Callable[[Future[Any]], None]") -> None:
        """Make a call, and ``handle`` what it gives in a thread of ours.

        Ray's client calls back in the thread that it needs itself to make the next call.
        """

        def answered(done: "Future[Any]") -> None:
            try:
                handle(done)
            except Exception:
                log.exception("an answer of the cluster was not understood")

        def hand_over(done: "Future[Any]") -> None:
            with suppress(RuntimeError):  # nobody waits for answers any more
                self._answers.submit(answered, done)

        future_of(call).add_done_callback(hand_over)

    def _finish(
        self,
        batch: _Batch,
        models: RemoteActor,
        done: "Future[list[LabelledItem | Exception]]",
    ) -> None:
        """A call has ended."""
        failure = done.exception()
        with self._lock:
            batch.decoder.load -= 1
            if failure is None:
                for item, _ in batch.items:
                    self._lost.pop(item.id, None)
                self._return(batch, models, done.result())
            elif is_lost(failure):
                self._lose(batch, models)
            else:
                self._return(batch, models, [original(failure)] * len(batch.items))
            self._send()

    def _return(
        self,
        batch: _Batch,
        models: RemoteActor,
        outcomes: Sequence[LabelledItem | BaseException],
    ) -> None:
        """Let ``next`` return the items; once they are stored the models are free."""
        self._models_of[batch.items[-1][0].id] = models
        for (item, began), outcome in zip(batch.items, outcomes, strict=True):
            self._end(item, began, outcome)

    def _lose(self, batch: _Batch, models: RemoteActor) -> None:
        """An actor or a machine is gone, and the call with it: its items go again."""
        log.warning("%d images are sent again: a worker of the cluster died", len(batch.items))
        alone = len(batch.items) == 1
        for item, began in reversed(batch.items):
            self._lost[item.id] += 1
            if alone and self._lost[item.id] > LOST_ALONE:
                self._end(item, began, _fatal())
            else:
                self._waiting.appendleft((item, began))
        models.load -= 1
        for actor in (models, batch.decoder):
            if actor.up:
                self._revive(actor)

    def _revive(self, actor: RemoteActor) -> None:
        """Send nothing to an actor until it answers; Ray starts one that died again."""
        actor.up = False
        ready = actor.handle.ready.options(**MADE_AGAIN).remote
        self._then(ready, partial(self._revived, actor))

    def _revived(self, actor: RemoteActor, done: "Future[ModelFacts | None]") -> None:
        with self._lock:
            try:
                facts = done.result()
                if facts is not None:
                    check_machine(facts, self._facts)
            except Exception as failure:  # whatever loading a model raises there
                log.warning("a worker of the cluster does not start: %s", original(failure))
                self._broken = unavailable(original(failure))
            else:
                actor.up = True
                self._broken = None
            self._send()
        self.wake()


def _fatal() -> BadImage:
    return BadImage(
        f"labelling the image ended its worker {LOST_ALONE} times, so it was given up; the logs of "
        "the cluster say how"
    )
