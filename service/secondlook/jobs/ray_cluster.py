"""Labels the images of a job on the machines of a Ray cluster.

The driver, which is the process of the command, keeps the job: what is done, what failed, and what
is tried again is decided by the same ``Worker`` and written into the same store as without Ray. Ray
only makes the attempts. That is what ``RayAttempts`` is for::

    RayModels   connects, starts the actors with models; stands where the pipeline would
    RayAttempts sends batches of items: decoding actor ─▶ actor with models ─▶ ``Attempt``

A call whose actor died is no failure of its images: they are sent again, each alone, since one of
them may be the cause. One that ends ``LOST_ALONE`` actors by itself is given up.
"""

import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from secondlook.config.extras import missing_extra
from secondlook.config.settings import Settings
from secondlook.core.image_folder import ImageSelection
from secondlook.core.types import Image, Proposals, VQAQuery
from secondlook.core.version import installed_version
from secondlook.jobs.in_flight import JobAttempts, LabelledItem
from secondlook.jobs.ray_actors import (
    AHEAD,
    DecodingActor,
    ModelActor,
    ModelFacts,
)
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.segmenter import ImageEncoding, MaskCandidate, SegmentationPrompt
from secondlook.store.blobs import Blobs
from secondlook.store.queue import Item
from secondlook_client.errors import (
    BadImage,
    BadSetting,
    NotSupported,
    SecondlookError,
    ShuttingDown,
    Unavailable,
)
from secondlook_client.ontology import Ontology
from secondlook_client.values import Answer

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
except ImportError as missing:
    raise missing_extra("--ray", "ray") from missing

log = logging.getLogger(__name__)

LOST_ALONE = 3
"""Actors that an image may end while it is alone with them, before it is given up."""
START_S = 600.0
"""For the first actor with models to be placed and loaded; a cluster that grows takes minutes."""
TELL_S = 15.0
"""After so long without an actor the driver says what it waits for."""
READY_AHEAD = AHEAD + 1
"""Batches in flight for each actor with models: one more than it has waits to be sent."""
MODELS_PER_DECODER = 4
"""Actors with models on CPUs for each decoding actor: a model takes far longer than a decoder."""
DECODERS_PER_GPU = 4
DECODER_CPUS = 0.5
"""Of each decoding actor where models have GPUs."""
DRIVER_CPUS = 0.1
"""Share of a CPU that decoding actors have where the models have the CPUs."""


@dataclass(frozen=True)
class ClusterPlan:
    """Which cluster, and what each actor with models has of it."""

    address: str
    """``auto``, or ``ray://HOST:PORT``."""
    actors: int = 0
    """With models; 0: as many as fit."""
    gpus: float = 1.0
    """GPUs of each, where the cluster has any; below 1 several share one, 0 uses none."""
    cpus: float = 0.0
    """CPUs of each; 0: 1 beside a GPU, else nearly one."""


@dataclass(frozen=True)
class ActorShares:
    """How many actors there are, and what each reserves."""

    models: int
    gpus: float
    cpus: float
    decoders: int
    decoder_cpus: float


def shares_of(plan: ClusterPlan, cpus: float, gpus: float) -> ActorShares:
    """What ``plan`` means for a cluster with so many CPUs and GPUs."""
    if gpus and plan.gpus:
        models = plan.actors or max(1, int(gpus / plan.gpus))
        of_model = plan.cpus or 1.0
        fit = int((cpus - models * of_model) / DECODER_CPUS)
        decoders = max(1, min(DECODERS_PER_GPU * math.ceil(models * plan.gpus), fit))
        return ActorShares(models, plan.gpus, of_model, decoders, DECODER_CPUS)
    of_model = plan.cpus or 0.9
    models = plan.actors or max(1, int(cpus / (of_model + DRIVER_CPUS / MODELS_PER_DECODER)))
    decoders = math.ceil(models / MODELS_PER_DECODER)
    return ActorShares(models, 0.0, of_model, decoders, DRIVER_CPUS)


@dataclass(eq=False)
class RemoteActor:
    """An actor on the cluster, and what the driver knows of it."""

    handle: Any
    up: bool = False
    """Whether it takes calls, as far as is known."""
    load: int = 0
    """Calls that it has."""
    suspect: bool = False
    """Whether it has one image that may end it, and gets no other meanwhile."""


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
        self._connected = connect(plan.address)
        try:
            total = ray.cluster_resources()
            self._shares = shares_of(plan, total.get("CPU", 1.0), total.get("GPU", 0.0))
            self._actors = [self._new_model_actor(settings) for _ in range(self._shares.models)]
            facts = self._first(say)
        except BaseException:
            self.close()
            raise
        self._facts = facts
        verifier = _ModelElsewhere(*facts.verifier) if facts.verifier else None
        segmenter = _ModelElsewhere(*facts.segmenter) if facts.segmenter else None
        super().__init__(_ModelElsewhere(*facts.proposer), verifier, settings.pipeline, segmenter)

    def close(self) -> None:
        """Leave the cluster, which ends the actors."""
        if self._connected:
            ray.shutdown()
            self._connected = False

    def check_ontology(self, ontology: Ontology) -> None:
        """See ``Pipeline``; the models are asked on the cluster."""
        super().check_ontology(ontology)
        call(self._actors[0].handle.check_words, ontology, retried=True)

    def attempts(self, blobs: Blobs, ontology: Ontology, source: str) -> "RayAttempts":
        """See ``LabelsElsewhere``."""
        shares = self._shares
        kind = ray.remote(DecodingActor).options(
            num_cpus=shares.decoder_cpus, max_restarts=-1, max_concurrency=AHEAD + 1
        )
        decoders = [
            RemoteActor(kind.remote(self._limits, blobs, self._selection))
            for _ in range(shares.decoders)
        ]
        calibrator = ray.put(self.calibrator)
        return RayAttempts(
            self._actors, decoders, self._batch, (ontology, source), calibrator, self._check
        )

    def _new_model_actor(self, settings: Settings) -> RemoteActor:
        kind = ray.remote(ModelActor).options(
            num_cpus=self._shares.cpus,
            num_gpus=self._shares.gpus,
            max_restarts=-1,
            max_concurrency=AHEAD + 1,
        )
        return RemoteActor(kind.remote(settings))

    def _first(self, say: Callable[[str], None]) -> ModelFacts:
        """What the first actor that is ready loaded. Raises ``Unavailable`` where none is."""
        ready = [actor.handle.ready.remote() for actor in self._actors]
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            done, _ = ray.wait(ready, num_returns=1, timeout=TELL_S)
            if done:
                facts: ModelFacts = got(done[0])
                self._check_version(facts)
                return facts
            say(f"waiting for the cluster: {self._asked_for()}")
        raise Unavailable(
            f"the cluster has no room for a model after {START_S:g} s: {self._asked_for()}; give "
            "fewer --ray-gpus or --ray-cpus, or more machines"
        )

    def _asked_for(self) -> str:
        shares = self._shares
        return (
            f"{shares.models} actors of {shares.gpus:g} GPUs and {shares.cpus:g} CPUs load models"
        )

    def _check(self, found: ModelFacts) -> None:
        """Raises ``BadSetting`` for a machine with other models or another version."""
        self._check_version(found)
        if found != self._facts:
            raise BadSetting(
                f"machines of the cluster load different models: {found.proposer} and "
                f"{self._facts.proposer}; give each the same files"
            )

    def _check_version(self, found: ModelFacts) -> None:
        if found.version != installed_version():
            raise BadSetting(
                f"a machine of the cluster has secondlook {found.version}, this one "
                f"{installed_version()}; install the same on each"
            )


@dataclass(eq=False)
class _Batch:
    """Items that are sent together."""

    items: list[tuple[Item, float]]
    """Each with the moment at which its attempt began."""
    models: RemoteActor
    decoder: RemoteActor


class RayAttempts(JobAttempts):
    """Attempts at the items of one job, on a cluster."""

    def __init__(
        self,
        models: Sequence[RemoteActor],
        decoders: Sequence[RemoteActor],
        batch: int,
        wanted: tuple[Ontology, str],
        calibrator: Any,
        check: Callable[[ModelFacts], None],
    ) -> None:
        """``wanted`` are ontology and source, ``calibrator`` a reference to it; ``check`` refuses
        an actor with other models."""
        super().__init__()
        self._models = models
        self._decoders = decoders
        self._batch = batch
        self._wanted = wanted
        self._calibrator = calibrator
        self._check = check
        self._waiting: deque[tuple[Item, float]] = deque()
        self._lost: Counter[int] = Counter()
        """Calls that were lost with each item."""
        self._broken: SecondlookError | None = None
        """Why no call can be made any more."""
        self._lock = threading.RLock()
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

    def next(self, timeout_s: float) -> Any:
        """See ``JobAttempts``; what was begun since is sent."""
        self._send()
        return super().next(timeout_s)

    def stop(self) -> None:
        """See ``JobAttempts``; what was not sent yet ends."""
        super().stop()
        self._send()

    def close(self) -> None:
        """End the decoding actors."""
        for actor in self._decoders:
            with suppress(RayError):  # the cluster may be gone
                ray.kill(actor.handle)

    def _start(self, item: Item, began: float) -> None:
        with self._lock:
            self._waiting.append((item, began))

    def _send(self) -> None:
        """Send as many batches as the actors have room for."""
        with self._lock:
            if self._stopping.is_set() or self._broken:
                self._end_waiting()
            while batch := self._next_batch():
                self._submit(batch)

    def _end_waiting(self) -> None:
        stopping = ShuttingDown("the run is being stopped; the image stays in the queue")
        while self._waiting:
            self._end(*self._waiting.popleft(), self._broken or stopping)

    def _next_batch(self) -> _Batch | None:
        models, decoder = _least_busy(self._models), _least_busy(self._decoders)
        if not self._waiting or models is None or decoder is None or models.load >= AHEAD:
            return None
        suspect = self._lost[self._waiting[0][0].id] > 0
        # A suspect is alone, or its neighbours would be lost with it; what is less than a batch
        # would wait at the actor as it does here.
        if models.load and (suspect or len(self._waiting) < self._batch):
            return None
        models.suspect = suspect
        return _Batch(self._together(), models, decoder)

    def _together(self) -> list[tuple[Item, float]]:
        """The next items: one that was lost before, or as many as a batch has."""
        items = [self._waiting.popleft()]
        while self._waiting and len(items) < self._batch and not self._lost[items[0][0].id]:
            if self._lost[self._waiting[0][0].id]:
                break
            items.append(self._waiting.popleft())
        return items

    def _submit(self, batch: _Batch) -> None:
        for actor in (batch.models, batch.decoder):
            actor.load += 1
        items = [item for item, _ in batch.items]

        def labelled() -> Any:
            prepared = batch.decoder.handle.prepare.remote(items, *self._wanted)
            return batch.models.handle.label.remote(prepared, self._calibrator)

        _future(labelled).add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: _Batch, done: "Future[list[LabelledItem | Exception]]") -> None:
        """A call has ended; in a thread of Ray."""
        failure = done.exception()
        with self._lock:
            batch.models.suspect = False
            for actor in (batch.models, batch.decoder):
                actor.load -= 1
            if failure is None:
                for (item, began), outcome in zip(batch.items, done.result(), strict=True):
                    self._lost.pop(item.id, None)
                    self._end(item, began, outcome)
            elif _is_lost(failure):
                self._lose(batch)
            else:
                for item, began in batch.items:
                    self._end(item, began, original(failure))
            self._send()

    def _lose(self, batch: _Batch) -> None:
        """An actor or a machine is gone, and the call with it: its items go again."""
        log.warning("%d images are sent again: a worker of the cluster died", len(batch.items))
        alone = len(batch.items) == 1
        for item, began in reversed(batch.items):
            self._lost[item.id] += 1
            if alone and self._lost[item.id] > LOST_ALONE:
                self._end(item, began, _fatal())
            else:
                self._waiting.appendleft((item, began))
        for actor in (batch.models, batch.decoder):
            if actor.up:
                self._revive(actor)

    def _revive(self, actor: RemoteActor) -> None:
        """Send nothing to an actor until it answers; Ray starts one that died again."""
        actor.up = False
        ready = actor.handle.ready.options(max_task_retries=-1).remote
        _future(ready).add_done_callback(lambda done: self._revived(actor, done))

    def _revived(self, actor: RemoteActor, done: "Future[ModelFacts | None]") -> None:
        with self._lock:
            try:
                facts = done.result()
                if facts is not None:
                    self._check(facts)
            except Exception as failure:  # whatever loading a model raises there
                log.warning("a worker of the cluster does not start: %s", original(failure))
                self._broken = _unavailable(original(failure))
            else:
                actor.up = True
                self._broken = None
            self._send()
        self.wake()


def _future(call: Callable[[], Any]) -> "Future[Any]":
    """What a call on the cluster will give; it has failed where none can be made any more."""
    try:
        future: Future[Any] = call().future()
    except Exception as failure:  # the connection is gone, which Ray tells in many ways
        future = Future()
        future.set_exception(failure)
    return future


def _least_busy(actors: Iterable[RemoteActor]) -> RemoteActor | None:
    free = (one for one in actors if one.up and not one.suspect)
    return min(free, key=lambda one: one.load, default=None)


def _fatal() -> BadImage:
    return BadImage(
        f"labelling the image ended its worker {LOST_ALONE} times, so it was given up; the logs of "
        "the cluster say how"
    )


def _unavailable(cause: BaseException) -> SecondlookError:
    if isinstance(cause, SecondlookError):
        return cause
    return Unavailable(f"the Ray cluster does not answer ({type(cause).__name__})")


def _is_lost(failure: BaseException) -> bool:
    """Whether a call ended with its process or machine, rather than by itself."""
    if isinstance(failure, RayActorError):
        return True
    return isinstance(failure, RayError) and not isinstance(failure, RayTaskError)


def original(failure: BaseException) -> BaseException:
    """What was raised on the cluster."""
    cause = getattr(failure, "cause", None)
    return cause if isinstance(failure, RayTaskError) and cause else failure


def call(method: Any, *arguments: Any, retried: bool = False) -> Any:
    """The result of an actor's method. Raises what it raises, and ``Unavailable``."""
    retries = {"max_task_retries": -1} if retried else {}
    return got(method.options(**retries).remote(*arguments))


def got(reference: Any) -> Any:
    """The value of a reference; raises what the call raised, and ``Unavailable``."""
    try:
        return ray.get(reference)
    except RayError as failure:
        cause = original(failure)
        raise (_unavailable(cause) if isinstance(cause, RayError) else cause) from None


def connect(address: str) -> bool:
    """Join the cluster at ``address``; False where this process has joined one already.

    Raises ``Unavailable`` where there is none.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as failure:
        raise Unavailable(
            f"there is no Ray cluster at '{address}': start one with `ray start --head`, or give "
            f"its address as ray://HOST:10001 ({type(failure).__name__})"
        ) from failure
    return True
