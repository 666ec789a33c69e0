"""The servicer: each call is checked, handed on, and answered. Errors are the interceptor's."""

import asyncio
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from typing import Any

from secondlook.core.errors import BadRequest, Busy, DeadlineExceeded, NotSupported
from secondlook.core.images import ImageLimits, decode
from secondlook.core.ontology import Ontology
from secondlook.core.types import Image, Labelled
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Task
from secondlook.server.converters import (
    Ontologies,
    checked_name,
    labelled_message,
    ontology_message,
    wants_all,
)
from secondlook.server.metrics import Metrics
from secondlook.server.streams import DEFAULT_PENDING, MAX_PENDING, CaptureStream, LiveStream
from secondlook.store.ingest import Frames
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

# From bytes to an answer: decoded in threads, labelled by the engine, bounded as a whole.

RETRY_AFTER_S = 0.25
"""Told to a caller that found the server full: a few batches later."""


class Intake:
    """Labels encoded images. Belongs to one event loop, which never decodes or computes.

    At most as many images as the engine's ``max_images`` are inside at one time, the ones
    being decoded included; one more is refused at once.
    """

    def __init__(self, engine: Engine, image_limits: ImageLimits, decode_threads: int) -> None:
        self.limits = image_limits
        """How large an image may be."""
        self._engine = engine
        self._inside = 0
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")

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
        raised. Cancelling it takes the image out, unless a model is already at work on it.
        """
        room = self._engine.limits.max_images
        if self._inside >= room:
            raise Busy(
                f"{self._inside} images are being worked on already; try again in "
                f"{RETRY_AFTER_S} s or send fewer at a time",
                retry_after_s=RETRY_AFTER_S,
            )
        self._inside += 1
        try:
            started = time.perf_counter()
            image = await self._decoded(data, name, deadline)
            decode_ms = (time.perf_counter() - started) * 1000
            future = self._engine.submit(Task(image, ontology, source), deadline)
            labelled = await asyncio.wrap_future(future)
        finally:
            self._inside -= 1
        return replace(labelled, timings_ms={**labelled.timings_ms, "decode": decode_ms})

    def inside(self) -> int:
        """Images inside now."""
        return self._inside

    def close(self) -> None:
        """Let the decoding threads end; call it when nothing is inside."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _decoded(self, data: bytes, name: str, deadline: float | None) -> Image:
        def work() -> Image:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "the deadline passed before the image was decoded; allow more time"
                )
            return decode(data, name, self.limits)

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


MAX_STREAMS = 64
"""Open at one time; each holds a few encoded frames."""
MAX_STREAM_ID = 128


class LabelingServicer(labeling_pb2_grpc.LabelingServiceServicer):
    """``LabelingService`` over an engine."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        default: Ontology | None,
        metrics: Metrics,
        stopping: asyncio.Event,
        max_message_bytes: int,
        frames: Frames | None = None,
    ) -> None:
        """``stopping`` is set once the server takes nothing new; ``frames`` keeps what is captured.

        Without ``frames`` capture mode is refused.
        """
        self._engine = engine
        self._intake = intake
        self._default = default
        self._ontologies = Ontologies(default)
        self._metrics = metrics
        self._stopping = stopping
        self._max_message_bytes = max_message_bytes
        self._frames = frames
        self._streams = 0

    async def Label(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.LabelRequest, context: Any
    ) -> pb.LabelResponse:
        """Label one image."""
        ontology, every = self._ontologies.of(request), wants_all(request.detail)
        labelled = await self._intake.label(
            request.image, checked_name(request.name), ontology, _deadline(context)
        )
        self._metrics.judged(labelled)
        return pb.LabelResponse(labelled=labelled_message(labelled, every))

    # The stubs know only handlers that yield; this one writes, so that a slow reader slows it.
    async def LabelStream(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        """Label a stream of frames now, or keep them to be labelled later."""
        if self._streams >= MAX_STREAMS:
            raise Busy(f"{self._streams} streams are open already; try again later", 5.0)
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
            labelled = await self._intake.label(data, name, ontology, deadline, source)
            self._metrics.judged(labelled)
            return labelled

        opened = pb.StreamOpened(max_pending=max_pending)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = LiveStream(
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
                "this server keeps nothing, so it cannot capture; start it with --data FOLDER"
            )
        wanted = self._ontologies.of(opening) if opening.HasField("ontology") else None
        found = await asyncio.to_thread(
            frames.open, opening.stream_id, wanted, self._default, self._engine.settings
        )
        opened = pb.StreamOpened(resume_after=found.resume_after)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = CaptureStream(
            functools.partial(frames.keep, found.run_id),
            context.write,
            max_frame_bytes=self._intake.limits.max_bytes,
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
            default_ontology=ontology_message(self._default) if self._default else None,
            max_message_bytes=self._max_message_bytes,
            max_images=self._engine.limits.max_images,
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
        raise BadRequest("a captured stream needs a stream_id; it is its name for ever")
    if opening.max_pending > MAX_PENDING:
        raise BadRequest(f"expected max_pending up to {MAX_PENDING}, got {opening.max_pending}")
    if len(opening.stream_id) > MAX_STREAM_ID:
        raise BadRequest(f"the stream_id has over {MAX_STREAM_ID} characters; shorten it")
    return opening


def _deadline(context: Any) -> float | None:
    """When the caller's time is over, as a ``time.monotonic()`` moment."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


def _version() -> str:
    try:
        return metadata.version("secondlook")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
