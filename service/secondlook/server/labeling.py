"""``LabelingService``: each call is checked, labelled by the engine, and answered.

An image that is to be kept goes through the store instead, as an image of a job.

Images are decoded in threads and counted from their arrival to their answer, so that a bounded
number is in flight. Errors are mapped by the interceptor.
"""

import asyncio
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import Any

from secondlook.config.settings import ImageSettings
from secondlook.core.types import Labelled
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.server.converters import (
    Ontologies,
    checked_name,
    wants_all,
)
from secondlook.server.jobs import JobServicer
from secondlook.server.metrics import Metrics
from secondlook.server.streams import DEFAULT_PENDING, MAX_PENDING, CaptureSession, LiveSession
from secondlook.store.ingest import CaptureIngest
from secondlook_client import wire
from secondlook_client.errors import BadRequest, Busy, DeadlineExceeded, NotSupported
from secondlook_client.ontology import Ontology
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

RETRY_AFTER_S = 0.25
"""Hint for a caller that found the server full: a few batches later."""
MAX_STREAMS = 64
"""Open at the same time; each holds a few encoded frames."""
MAX_STREAM_ID = 128


class AdmissionControl:
    """Labels encoded images, a bounded number at the same time.

    Belongs to one event loop, which never decodes or computes. At most as many images as the
    engine's ``max_in_flight`` are in flight, those being decoded
    included; more are refused at once.
    """

    def __init__(self, engine: Engine, image_limits: ImageSettings, decode_threads: int) -> None:
        self.limits = image_limits
        """How large an image may be."""
        self._engine = engine
        self._in_flight = 0
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count one image as in flight. Raises ``Busy`` when there are too many."""
        room = self._engine.batching.max_in_flight
        if self._in_flight >= room:
            raise Busy(
                f"{self._in_flight} images are being worked on already; try again in "
                f"{RETRY_AFTER_S} s or send fewer at a time",
                retry_after_s=RETRY_AFTER_S,
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def label(
        self,
        data: bytes,
        name: str,
        ontology: Ontology,
        deadline: float | None = None,
        source: str = "",
    ) -> Labelled:
        """Label one image; ``deadline`` is a ``time.monotonic()`` moment, ``source`` its stream.

        Raises ``Busy``, ``BadImage``, ``ImageTooLarge``, ``DeadlineExceeded``, or what a model
        raised. Cancelling it withdraws the image, unless a model is already working on it.
        """
        with self.admitted():
            started = time.perf_counter()
            task = await self._decoded(data, name, ontology, deadline, source)
            decode_ms = (time.perf_counter() - started) * 1000
            future = self._engine.submit(task, deadline)
            labelled = await asyncio.wrap_future(future)
        return replace(labelled, timings_ms={**labelled.timings_ms, "decode": decode_ms})

    def in_flight(self) -> int:
        """Images being worked on now."""
        return self._in_flight

    def close(self) -> None:
        """Let the decoding threads end; call it when nothing is in flight."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _decoded(
        self, data: bytes, name: str, ontology: Ontology, deadline: float | None, source: str
    ) -> Task:
        def work() -> Task:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "the deadline passed before the image was decoded; allow more time"
                )
            return Task.from_bytes(data, name, ontology, self.limits, source)

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


class LabelingServicer(labeling_pb2_grpc.LabelingServiceServicer):
    """``LabelingService`` over an engine."""

    def __init__(
        self,
        engine: Engine,
        admission: AdmissionControl,
        default: Ontology | None,
        metrics: Metrics,
        stopping: asyncio.Event,
        max_message_bytes: int,
        jobs: JobServicer,
        frames: CaptureIngest | None = None,
    ) -> None:
        """``stopping`` is set once the server accepts nothing new.

        ``jobs`` keeps images and ``frames`` stores captured ones; without ``frames``, capture
        mode is refused.
        """
        self._engine = engine
        self._admission = admission
        self._default = default
        self._ontologies = Ontologies(default)
        self._metrics = metrics
        self._stopping = stopping
        self._max_message_bytes = max_message_bytes
        self._jobs = jobs
        self._frames = frames
        self._streams = 0

    async def Label(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.LabelRequest, context: Any
    ) -> pb.LabelResponse:
        """Label one image, and keep it if that is asked for."""
        ontology, every = self._ontologies.of(request), wants_all(request.detail)
        name, deadline = checked_name(request.name), _deadline(context)
        if request.keep:
            with self._admission.admitted():
                labelled = await self._jobs.keep_labelled(
                    request.keep, name, request.image, ontology, deadline
                )
        else:
            labelled = await self._admission.label(request.image, name, ontology, deadline)
        self._metrics.judged(labelled)
        return pb.LabelResponse(labelled=wire.labelled_message(labelled.result, every))

    # The stubs know only handlers that yield; this one writes, so that a slow reader slows it.
    async def LabelStream(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        """Label a stream of frames now, or store them to be labelled later."""
        if self._streams >= MAX_STREAMS:
            raise Busy(
                f"{self._streams} streams are open already; try again later", retry_after_s=5.0
            )
        self._streams += 1
        try:
            requests = aiter(request_iterator)
            opening = _opening(await anext(requests, None))
            if opening.mode == pb.STREAM_MODE_CAPTURE:
                await self._capture(opening, requests, context)
            else:
                await self._label_live(opening, requests, context)
        finally:
            self._streams -= 1

    async def _label_live(self, opening: pb.StreamOpening, requests: Any, context: Any) -> None:
        ontology, every = self._ontologies.of(opening), wants_all(opening.detail)
        max_pending = opening.max_pending or DEFAULT_PENDING
        deadline, source = _deadline(context), f"live:{opening.stream_id}"

        async def label(data: bytes, name: str) -> Labelled:
            labelled = await self._admission.label(data, name, ontology, deadline, source)
            self._metrics.judged(labelled)
            return labelled

        opened = pb.StreamOpened(max_pending=max_pending)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = LiveSession(
            label,
            context.write,
            every=every,
            max_pending=max_pending,
            stopping=self._stopping,
            observe=self._metrics.frame_answered,
        )
        await stream.run(requests)

    async def _capture(self, opening: pb.StreamOpening, requests: Any, context: Any) -> None:
        frames = self._frames
        if frames is None:
            raise NotSupported(
                "this server has no store, so it cannot capture; start it with --data FOLDER"
            )
        wanted = self._ontologies.of(opening) if opening.HasField("ontology") else None
        found = await asyncio.to_thread(
            frames.open, opening.stream_id, wanted, self._default, self._engine.recorded_settings
        )
        opened = pb.StreamOpened(resume_after=found.resume_after)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = CaptureSession(
            functools.partial(frames.add, found.run_id),
            context.write,
            max_frame_bytes=self._admission.limits.max_image_bytes,
            stopping=self._stopping,
            observe=self._metrics.frame_answered,
        )
        await stream.run(requests)

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        """What runs here."""
        proposer, verifier = self._engine.pipeline.proposer, self._engine.pipeline.verifier
        return pb.GetServerInfoResponse(
            version=_version(),
            proposer=f"{proposer.name}@{proposer.digest}",
            verifier=f"{verifier.name}@{verifier.digest}" if verifier else "",
            default_ontology=wire.ontology_message(self._default.classes)
            if self._default
            else None,
            max_message_bytes=self._max_message_bytes,
            max_images=self._engine.batching.max_in_flight,
            student=self._engine.student,
        )


def _opening(first: pb.LabelStreamRequest | None) -> pb.StreamOpening:
    """The checked first message of a stream."""
    if first is None or first.WhichOneof("message") != "opening":
        raise BadRequest("expected the opening as the first message of a stream")
    opening = first.opening
    if opening.mode not in pb.StreamMode.values():
        raise BadRequest(f"expected mode live or capture, got number {opening.mode}")
    if opening.mode == pb.STREAM_MODE_CAPTURE and not opening.stream_id.strip():
        raise BadRequest("a captured stream needs a stream_id, which names it for ever")
    if opening.max_pending > MAX_PENDING:
        raise BadRequest(f"expected max_pending up to {MAX_PENDING}, got {opening.max_pending}")
    if len(opening.stream_id) > MAX_STREAM_ID:
        raise BadRequest(f"the stream_id has over {MAX_STREAM_ID} characters; shorten it")
    return opening


def _deadline(context: Any) -> float | None:
    """The caller's deadline as a ``time.monotonic()`` value."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


@functools.cache  # it searches every folder of sys.path
def _version() -> str:
    try:
        return metadata.version("secondlook")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
