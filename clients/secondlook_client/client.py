"""The client: ``Client`` for plain code, ``AsyncClient`` for event loops.

Both are ``LabelCalls`` (see ``calls`` for how one text serves both) and differ in how they wait.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

from secondlook_client import wire
from secondlook_client.addresses import DEFAULT_ADDRESS
from secondlook_client.calls import Awaiting, Blocking, Connection, Load, Plan, Unary
from secondlook_client.capture import CaptureStream
from secondlook_client.channel import AccessOptions, ServerAccess
from secondlook_client.datasets import Datasets
from secondlook_client.errors import SecondlookError
from secondlook_client.images import ImageInput, image_name, key_name, sendable
from secondlook_client.jobs import AsyncJobs, Jobs
from secondlook_client.live import LiveOptions
from secondlook_client.many import ManyCalls, PlanOf, each, many_async
from secondlook_client.models import Models
from secondlook_client.ontology import Classes
from secondlook_client.retry import RetryPolicy
from secondlook_client.reviews import AsyncRemoteReviews, RemoteReviews
from secondlook_client.segmentation import AsyncRemoteSegmentation, RemoteSegmentation
from secondlook_client.spool import Spool, SpoolLimits
from secondlook_client.stream import AsyncLiveStream, LiveStream
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc
from secondlook_client.values import FrameResult, LabelResult, ServerInfo

Key = TypeVar("Key")


class LabelCalls(Connection):
    """What both clients share: everything but the waiting."""

    def __init__(self, channel: Any, retry: RetryPolicy | None, address: str) -> None:
        super().__init__(channel, retry or RetryPolicy(), address)
        self._stub = labeling_pb2_grpc.LabelingServiceStub(channel)

    @Unary
    def label(
        self,
        image: ImageInput,
        *,
        classes: Classes | None = None,
        name: str = "",
        detail: str = "all",
        keep: str = "",
        timeout_s: float = 60.0,
    ) -> Plan[LabelResult]:
        """Label one image: encoded bytes, a path, a numpy array (RGB) or a Pillow image.

        How each is sent, ``images`` says; an array of OpenCV is given as ``bgr(frame)``.
        ``classes`` None asks for the server's own; ``detail`` is ``all`` or only ``labels``;
        ``name`` (default: the file's) comes back with the result. ``keep`` names an upload job,
        created if it is new, in which the server keeps the image and its result before it
        answers; it stays open for more until ``jobs.finish``. Empty: they are not kept.
        ``timeout_s`` bounds all tries together.
        """
        ontology, number = wire.ontology_message(classes), wire.detail_number(detail)
        request = pb.LabelRequest(
            name=image_name(image, name), ontology=ontology, detail=number, keep=keep
        )
        return (yield from self._labelled(image, request, timeout_s))

    @Unary
    def info(self, *, timeout_s: float = 10.0) -> Plan[ServerInfo]:
        """What runs at the other end."""
        request = pb.GetServerInfoRequest()
        answer = yield from self._answer(self._stub.GetServerInfo, request, timeout_s)
        return wire.server_info(answer)

    def _labelling(
        self,
        classes: Classes | None,
        detail: str,
        keep: str,
        timeout_s: float,
        name: Callable[[Key], str] | None,
    ) -> PlanOf[Key, LabelResult]:
        ontology, number = wire.ontology_message(classes), wire.detail_number(detail)

        def label(key: Key, image: ImageInput) -> Plan[LabelResult]:
            request = pb.LabelRequest(
                name=sendable((name or key_name)(key)),
                ontology=ontology,
                detail=number,
                keep=keep,
            )
            return (yield from self._labelled(image, request, timeout_s))

        return label

    def _labelled(
        self, image: ImageInput, request: pb.LabelRequest, timeout_s: float
    ) -> Plan[LabelResult]:
        """Send ``request`` with the image's bytes."""
        request.image = yield Load(image)
        answer = yield from self._answer(self._stub.Label, request, timeout_s)
        return wire.label_result(answer.labelled)


class Client(LabelCalls, Blocking):
    """A connection to one server; thread-safe, and a context manager.

        with Client("127.0.0.1:50051") as client:
            result = client.label("street.jpg", classes=["person wearing glasses"])
            print(result.labels)

    It connects at the first call. Every call raises a ``SecondlookError`` (see ``errors``).
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        retry: RetryPolicy | None = None,
        **access: Unpack[AccessOptions],
    ) -> None:
        """``address`` is ``host:port``, or ``tls://host:port`` for an encrypted connection.

        ``access``: see ``channel.AccessOptions``. Raises ``BadSetting`` and ``NotFound``, at once.
        """
        super().__init__(ServerAccess.given(access).channel(address), retry, address)
        self.jobs = Jobs(self._channel, self._retry, address)
        """Many images at a time, by a server with a store."""
        self.datasets = Datasets(self._channel, self._retry, address)
        """Snapshots of such a server; for training see ``dataset.SnapshotDataset``."""
        self.models = Models(self._channel, self._retry, address)
        """Small detectors trained on them: what devices fetch."""
        self.reviews = RemoteReviews(self._channel, self._retry, address)
        """What people say of the labels, and the queues that ask for it."""
        self.segmentation = RemoteSegmentation(self._channel, self._retry, address, self.reviews)
        """Masks by boxes and clicks, by a server with a segmenter."""

    def label_many(
        self,
        items: Iterable[tuple[Key, ImageInput]],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        concurrency: int = 16,
        keep: str = "",
        timeout_s: float = 60.0,
        name: Callable[[Key], str] | None = None,
    ) -> Iterator[tuple[Key, LabelResult | SecondlookError]]:
        """Label pairs of key and image; yields (key, result or error) as each is done.

        ``items`` may be endless: it is read only as far as ``concurrency`` images are in flight,
        so memory does not grow with it. An image that fails is yielded with its error and the
        rest goes on. ``timeout_s`` is for each image; ``name(key)`` goes with it (default: the
        key, where that is a text or path). Leaving the loop cancels what is in flight. With
        ``keep`` each is kept in that upload job, as by ``label``.
        """
        plan_of = self._labelling(classes, detail, keep, timeout_s, name)
        return ManyCalls(plan_of, concurrency).results(items)

    def stream(
        self,
        *,
        classes: Classes | None = None,
        detail: str = "all",
        stream_id: str = "",
        options: LiveOptions | None = None,
    ) -> LiveStream:
        """Open a live stream of frames; see ``LiveStream``, and ``label_stream`` for a loop."""
        options = options or LiveOptions()
        opening = wire.live_opening(classes, detail, stream_id, options.server_pending)
        return LiveStream(self._stub.LabelStream, opening, options, self._retry, self.address)

    def label_stream(
        self,
        frames: Iterable[ImageInput],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        stream_id: str = "",
        options: LiveOptions | None = None,
    ) -> Iterator[FrameResult]:
        """Label the frames of a camera; yields one report for each, the last ones too.

            for found in client.label_stream(camera(), classes=["dog"]):
                if found.result:
                    show(found.key, found.result.labels)  # the key is the frame as it was given

        The reports come in order of completion, each as soon as the frame after it is there. When
        frames come faster than they are labelled the newest win, and those left out are reported
        with ``dropped``: for files, of which none may be left out, there is ``label_many``.
        Leaving the loop hangs up.
        """
        with self.stream(
            classes=classes, detail=detail, stream_id=stream_id, options=options
        ) as stream:
            for frame in frames:
                stream.send(frame, key=frame)
                yield from stream.ready()
            stream.finish()
            yield from stream

    def capture(
        self,
        stream_id: str,
        *,
        spool: str | Path,
        classes: Classes | None = None,
        guarantee: str = "",
        device_model: str = "",
        limits: SpoolLimits | None = None,
        on_refused: Callable[[int, SecondlookError], None] | None = None,
    ) -> CaptureStream:
        """Open a captured stream; see ``CaptureStream``.

        ``stream_id`` is its name on the server, ``spool`` is its own folder here. ``classes``
        None asks for the server's own, or what the stream was begun with. With the name of a
        ``guarantee`` boxes are accepted under it, and its classes are looked for; one that does
        not hold, or not of such a stream, is a ``CaptureState.problem``. ``device_model`` tells
        people which model the device runs, e.g. "street, version 3". Raises ``SpoolUnusable``.
        """
        told = sendable(guarantee), sendable(device_model)
        opening = wire.capture_opening(classes, stream_id, *told)
        held = Spool(Path(spool), limits)
        return CaptureStream(
            self._stub.LabelStream, opening, held, self._retry, self.address, on_refused
        )

    def close(self) -> None:
        """Cancel what is running and hang up."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(LabelCalls, Awaiting):
    """The same for event loops; an async context manager.

        async with AsyncClient("127.0.0.1:50051") as client:
            result = await client.label("street.jpg", classes=["person wearing glasses"])

    Make it inside the event loop that will use it. It has no ``capture``, ``datasets`` and
    ``models``.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        retry: RetryPolicy | None = None,
        **access: Unpack[AccessOptions],
    ) -> None:
        """As ``Client``."""
        self._access = ServerAccess.given(access)
        super().__init__(self._access.channel(address, aio=True), retry, address)
        self._stream_channel: Any = None
        self.jobs = AsyncJobs(self._channel, self._retry, address)
        """Many images at a time, by a server with a store."""
        self.reviews = AsyncRemoteReviews(self._channel, self._retry, address)
        """What people say of the labels, and the queues that ask for it."""
        self.segmentation = AsyncRemoteSegmentation(
            self._channel, self._retry, address, self.reviews
        )
        """Masks by boxes and clicks, by a server with a segmenter."""

    def label_many(
        self,
        items: Iterable[tuple[Key, ImageInput]] | AsyncIterable[tuple[Key, ImageInput]],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        concurrency: int = 16,
        keep: str = "",
        timeout_s: float = 60.0,
        name: Callable[[Key], str] | None = None,
    ) -> AsyncIterator[tuple[Key, LabelResult | SecondlookError]]:
        """Label pairs of key and image, as they are done; as ``Client.label_many``."""
        plan_of = self._labelling(classes, detail, keep, timeout_s, name)
        return many_async(items, plan_of, concurrency)

    def stream(
        self,
        *,
        classes: Classes | None = None,
        detail: str = "all",
        stream_id: str = "",
        options: LiveOptions | None = None,
    ) -> AsyncLiveStream:
        """Open a live stream of frames; see ``AsyncLiveStream``."""
        options = options or LiveOptions()
        opening = wire.live_opening(classes, detail, stream_id, options.server_pending)
        if self._stream_channel is None:
            self._stream_channel = self._access.channel(self.address)
        stub = labeling_pb2_grpc.LabelingServiceStub(self._stream_channel)
        return AsyncLiveStream(stub.LabelStream, opening, options, self._retry, self.address)

    async def label_stream(
        self,
        frames: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        stream_id: str = "",
        options: LiveOptions | None = None,
    ) -> AsyncIterator[FrameResult]:
        """Label the frames of a camera, the last ones too; as ``Client.label_stream``."""
        async with self.stream(
            classes=classes, detail=detail, stream_id=stream_id, options=options
        ) as stream:
            async for frame in each(frames):
                stream.send(frame, key=frame)
                for found in stream.ready():
                    yield found
            stream.finish()
            async for found in stream:
                yield found

    async def close(self) -> None:
        """Cancel what is running and hang up."""
        await self._channel.close()
        if self._stream_channel is not None:
            await asyncio.to_thread(self._stream_channel.close)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
