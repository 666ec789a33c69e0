"""``LabelingService``: each call is checked, labelled by the engine, and answered.

An image that is to be kept goes through the store instead, as an image of a job.

Images are decoded in child processes and counted from their arrival to their answer. As many are
admitted as keep the models busy: a longer queue would not raise throughput, only everybody's wait.
A call beyond that is refused at once and told when its turn would come. Errors are mapped by the
interceptor.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from secondlook.core.decoding import RETRY_AFTER_S, ImageDecoder
from secondlook.core.types import Image, Labelled
from secondlook.core.version import installed_version
from secondlook.labeling.engine import Engine, retry_hint_s
from secondlook.labeling.pipeline import Task
from secondlook.server.call_limits import RequestBytes
from secondlook.server.client_limits import ClientLimits, client_of_call
from secondlook.server.converters import (
    Ontologies,
    wants_all,
)
from secondlook.server.fair_shares import FairShares, FairTurns
from secondlook.server.health import FailureStreak
from secondlook.server.jobs import JobServicer
from secondlook.server.metrics import Metrics
from secondlook.server.ownership import check_owner, creator
from secondlook.server.store_calls import deadline_of
from secondlook.server.streams import DEFAULT_PENDING, CaptureSession, LiveSession
from secondlook.server.token_table import Principal, principal_of_call
from secondlook.store.ingest import CaptureIngest
from secondlook_client import wire
from secondlook_client.errors import (
    BadOntology,
    BadRequest,
    Busy,
    NotSupported,
    SecondlookError,
)
from secondlook_client.ontology import Ontology
from secondlook_client.v1 import access_pb2, labeling_pb2_grpc
from secondlook_client.v1 import labeling_pb2 as pb

WAIT_FOR_MEMORY_S = 1.0
"""How long a call waits for the pixels of others to be freed before it is refused."""
OPTIMISM = 0.8
"""Callers that come back a little early find others in their place; late ones leave it empty."""
MAX_TURNED_AWAY = 10
"""Times as many refused callers as places are taken into account in retry hints."""
MAX_STREAMS = 64
"""Open at the same time; each holds a few encoded frames."""


class AdmissionControl:
    """Labels encoded images, a bounded number at the same time.

    Belongs to one event loop, which never decodes or computes. Calls and frames of streams have
    the same number of places each, so neither can starve the other: one call more is refused, a
    frame waits in its stream for its turn. Together they are at most ``max_in_flight``.
    """

    def __init__(
        self, engine: Engine, decoder: ImageDecoder, clients: ClientLimits | None = None
    ) -> None:
        """``clients``: what each client may; without it, its fair share."""
        self.limits = decoder.limits
        """How large an image may be."""
        self._engine = engine
        self._decoder = decoder
        self.clients = clients or ClientLimits()
        self._shares = FairShares()
        """Of the clients in the places of calls."""
        self._frames = self._kept = 0
        self._decode_s = 0.0
        """Mean time from an image's admission to its pixels, of the last ones."""
        self._turned_away, self._turned_away_at = 0.0, 0.0
        """Callers that were refused and whose turn has not come, at that moment."""
        self.failures = FailureStreak()
        """Images that the models failed on, one after the other."""
        self.turns = FairTurns(self.places)
        """Places of the streams' frames; their clients take turns."""

    @property
    def places(self) -> int:
        """How many calls are admitted at the same time.

        As many as the models work on, those being decoded meanwhile at the measured rate (at most
        half as many), and those that may wait by ``max_queue_s``.
        """
        batching, full = self._engine.batching, self._engine.working_set
        image_s = self._engine.seconds_for(1)
        decoding = int(self._decode_s / image_s) if image_s else 0
        waiting = int(batching.max_queue_s / image_s) if image_s else 0
        places = full + min(decoding, full // 2) + waiting
        return min(places, batching.max_in_flight)

    @contextmanager
    def admitted(self, deadline: float | None = None) -> Iterator[None]:
        """Count one call as in flight.

        Raises ``Busy`` when there are too many, when the place is another client's turn, or when
        ``deadline`` (a ``time.monotonic()`` moment) would come before its turn.
        """
        client, most = client_of_call.get(), self._engine.batching.max_in_flight
        places = min(self.places, most - self._frames)
        if not self._shares.may_enter(client, places):
            hint_s = self._seconds_until_turn()
            self._shares.refused(client, hint_s)
            raise _no_place(self._shares.taken, hint_s)
        self._check_deadline(deadline)
        self._shares.enter(client)
        try:
            yield
        finally:
            self._shares.leave(client)

    @contextmanager
    def admitted_frame(self) -> Iterator[None]:
        """Count one frame, which has a place of ``turns``. Raises ``Busy`` as for a call."""
        self._check_places(self._shares.taken + self._frames, self._engine.batching.max_in_flight)
        self._frames += 1
        try:
            yield
        finally:
            self._frames -= 1

    @contextmanager
    def admitted_kept(self) -> Iterator[None]:
        """Count one image that waits for its job, and not for the models before the others.

        Raises ``Busy`` when there are too many.
        """
        self._check_places(self._kept, self._engine.batching.max_in_flight)
        self._kept += 1
        try:
            yield
        finally:
            self._kept -= 1

    def _check_places(self, taken: int, places: int) -> None:
        if taken >= places:
            raise _no_place(taken, self._seconds_until_turn())

    def _check_deadline(self, deadline: float | None) -> None:
        """With less than a batch in flight the image is tried anyway: rates are measured late."""
        in_flight = self._shares.taken + self._frames
        if deadline is None or 2 * in_flight < self._engine.working_set:
            return
        expected_s = self._engine.seconds_for(in_flight + 1)
        left_s = deadline - time.monotonic()
        if expected_s is not None and expected_s > left_s > 0:
            raise Busy(
                f"this image would take {expected_s:.2f} s at present and its deadline comes in "
                f"{left_s:.2f} s; allow more time",
                retry_after_s=self._seconds_until_turn(),
            )

    def _seconds_until_turn(self) -> float:
        """A retry hint: as if everybody who was refused stood in a queue.

        Those who do not come back lengthen it for others, so it has an end.
        """
        image_s, now = self._engine.seconds_for(1), time.monotonic()
        if image_s:
            gone = (now - self._turned_away_at) / image_s
            self._turned_away = max(self._turned_away - gone, 0.0)
        self._turned_away_at = now
        self._turned_away = min(self._turned_away + 1, MAX_TURNED_AWAY * self.places)
        return retry_hint_s(image_s and OPTIMISM * image_s * self._turned_away)

    async def label(
        self,
        data: bytes,
        name: str,
        ontology: Ontology,
        deadline: float | None = None,
        source: str = "",
    ) -> Labelled:
        """Label one image; ``deadline`` is a ``time.monotonic()`` moment.

        ``source`` is the stream of a frame, which has a place of ``turns``; empty for a call.
        Raises ``Busy``, ``BadImage``, ``ImageTooLarge``, ``DeadlineExceeded``, or what a model
        raised. Cancelling it withdraws the image, unless a model is already working on it.
        """
        place = self.admitted_frame() if source else self.admitted(deadline)
        with place, self.clients.image():
            started = time.perf_counter()
            task = Task(await self._decoded(data, name, deadline), ontology, source)
            decode_s = time.perf_counter() - started
            self._decode_s += 0.1 * (decode_s - self._decode_s)
            future = self._engine.submit(task, deadline)
            try:
                labelled = await asyncio.wrap_future(future)
            except SecondlookError:  # not the models' fault
                raise
            except Exception:
                self.failures.failed()
                raise
            self.failures.succeeded()
            took_ms = labelled.timings_ms.get("verify", 0.0)
            self.clients.verified(client_of_call.get(), took_ms / 1000)
        return replace(labelled, timings_ms={**labelled.timings_ms, "decode": decode_s * 1000})

    def in_flight(self) -> int:
        """Images being worked on now."""
        return self._shares.taken + self._frames + self._kept

    async def _decoded(self, data: bytes, name: str, deadline: float | None) -> Image:
        """The image, once there is room for its pixels; ``Busy`` when there is none for long."""
        ends = time.monotonic() + WAIT_FOR_MEMORY_S
        if deadline is not None:
            ends = min(ends, deadline)
        while True:
            try:
                return await asyncio.wrap_future(self._decoder.submit(data, name, deadline))
            except Busy:
                if time.monotonic() + RETRY_AFTER_S > ends:
                    raise
            await asyncio.sleep(RETRY_AFTER_S)


def _no_place(taken: int, hint_s: float) -> Busy:
    return Busy(
        f"{taken} images are being worked on already, as many as keep the models busy; "
        f"try again in {hint_s:.2f} s or send fewer at a time",
        retry_after_s=hint_s,
    )


class LabelingServicer(labeling_pb2_grpc.LabelingServiceServicer):
    """``LabelingService`` over an engine."""

    def __init__(
        self,
        engine: Engine,
        admission: AdmissionControl,
        ontologies: Ontologies,
        metrics: Metrics,
        stopping: asyncio.Event,
        max_message_bytes: int,
        jobs: JobServicer,
        frames: CaptureIngest | None = None,
        request_bytes: RequestBytes | None = None,
    ) -> None:
        """``stopping`` is set once the server accepts nothing new.

        ``request_bytes`` counts those of frames, beside the other calls'; without it nothing does.

        ``jobs`` keeps images and ``frames`` stores captured ones; without ``frames``, capture
        mode is refused.
        """
        self._engine = engine
        self._admission = admission
        self._clients = admission.clients
        self._ontologies = ontologies
        self._metrics = metrics
        self._stopping = stopping
        self._max_message_bytes = max_message_bytes
        self._jobs = jobs
        self._frames = frames
        self._request_bytes = request_bytes or RequestBytes()
        self._streams = 0

    async def Label(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.LabelRequest, context: Any
    ) -> pb.LabelResponse:
        """Label one image, and keep it if that is asked for."""
        ontology, every = await self._ontologies.of(request), wants_all(request.detail)
        name, deadline = request.name, deadline_of(context)
        if request.keep:
            with self._admission.admitted_kept():  # counted among the client's where it is kept
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
        requests = aiter(request_iterator)
        opening = _opening(await anext(requests, None))  # one that never opens takes no place
        if self._streams >= MAX_STREAMS:
            raise Busy(
                f"{self._streams} streams are open already; try again later", retry_after_s=5.0
            )
        self._streams += 1
        try:
            with self._clients.stream():
                if opening.mode == pb.STREAM_MODE_CAPTURE:
                    await self._capture(opening, requests, context)
                else:
                    await self._label_live(opening, requests, context)
        finally:
            self._streams -= 1

    async def _label_live(self, opening: pb.StreamOpening, requests: Any, context: Any) -> None:
        ontology, every = await self._ontologies.of(opening), wants_all(opening.detail)
        max_pending = opening.max_pending or DEFAULT_PENDING
        deadline, source = deadline_of(context), f"live:{opening.stream_id}"

        async def label(data: bytes, name: str) -> Labelled:
            labelled = await self._admission.label(data, name, ontology, deadline, source)
            self._metrics.judged(labelled)
            return labelled

        opened = pb.StreamOpened(max_pending=max_pending)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = LiveSession(
            label,
            context.write,
            turns=self._admission.turns.of(client_of_call.get()),
            request_bytes=self._request_bytes,
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
        wanted = await self._ontologies.of(opening) if opening.HasField("ontology") else None
        stream_id, guarantee = opening.stream_id, opening.guarantee

        def terms() -> tuple[Ontology, Mapping[str, Any]]:
            classes = wanted if guarantee else wanted or self._ontologies.default
            if classes is None and not guarantee:
                raise BadOntology(
                    f"'{stream_id}' is a new stream; give the classes to label it with"
                )
            return self._jobs.terms(classes, guarantee)

        found = await asyncio.to_thread(frames.open, stream_id, wanted, terms, guarantee, creator())
        check_owner(found.created_by, f"stream '{stream_id}'", stream_id)
        if model := opening.device_model:
            await asyncio.to_thread(frames.note_device_model, found.run_id, model)
        await self._clients.check_stored()
        opened = pb.StreamOpened(resume_after=found.resume_after)
        await context.write(pb.LabelStreamResponse(opened=opened))
        stream = CaptureSession(
            functools.partial(frames.add, found),
            context.write,
            resume_after=found.resume_after,
            request_bytes=self._request_bytes,
            max_frame_bytes=self._admission.limits.max_image_bytes,
            stopping=self._stopping,
            observe=self._metrics.frame_answered,
        )
        await stream.run(self._kept(requests))

    async def _kept(
        self, requests: AsyncIterator[pb.LabelStreamRequest]
    ) -> AsyncIterator[pb.LabelStreamRequest]:
        """Count captured frames; one too many ends the stream, and is sent again later."""
        async for request in requests:
            self._clients.keep(len(request.frame.image))
            yield request

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        """What runs here."""
        proposer, verifier = self._engine.pipeline.models
        default = self._ontologies.default
        return pb.GetServerInfoResponse(
            version=installed_version(),
            proposer=proposer,
            verifier=verifier,
            default_ontology=wire.ontology_message(default.classes) if default else None,
            max_message_bytes=self._max_message_bytes,
            max_images=self._engine.batching.max_in_flight,
            student=self._engine.student,
            segmenter=self._engine.pipeline.segmenter_name,
            caller=_caller(principal_of_call.get()),
        )


def _caller(principal: Principal) -> pb.Caller | None:
    """Whose token a call showed; None where it needed none."""
    if principal.token is None:
        return None
    names = (f"ROLE_{role.upper()}" for role in sorted(principal.access.roles))
    return pb.Caller(name=principal.name, roles=map(access_pb2.Role.Value, names))


def _opening(first: pb.LabelStreamRequest | None) -> pb.StreamOpening:
    """The checked first message of a stream."""
    if first is None or first.WhichOneof("message") != "opening":
        raise BadRequest("expected the opening as the first message of a stream")
    opening = first.opening
    if opening.mode not in pb.StreamMode.values():
        raise BadRequest(f"expected mode live or capture, got number {opening.mode}")
    if opening.mode == pb.STREAM_MODE_CAPTURE and not opening.stream_id.strip():
        raise BadRequest("a captured stream needs a stream_id, which names it for ever")
    if opening.guarantee and opening.mode != pb.STREAM_MODE_CAPTURE:
        raise BadRequest(
            "a live stream keeps nothing, so nobody could check what it accepts under a guarantee; "
            "capture the stream instead"
        )
    return opening
