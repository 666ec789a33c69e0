"""The client for event loops; ``Client`` is its twin for plain code."""

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import grpc

from secondlook_client import messages
from secondlook_client.async_jobs import AsyncJobs
from secondlook_client.async_many import concurrently
from secondlook_client.async_stream import AsyncLiveStream
from secondlook_client.channel import DEFAULT_ADDRESS, OPTIONS, key_name
from secondlook_client.classes import Classes
from secondlook_client.errors import ClientError
from secondlook_client.live import LiveOptions
from secondlook_client.messages import ImageInput
from secondlook_client.results import LabelResult, ServerInfo
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.v1 import labeling_pb2 as pb
from secondlook_client.v1 import labeling_pb2_grpc

Key = TypeVar("Key")


class AsyncClient:
    """A connection to one server; an async context manager.

        async with AsyncClient("127.0.0.1:50051") as client:
            result = await client.label("street.jpg", classes=["person wearing glasses"])

    Make it inside the event loop that will use it. Every call raises a ``ClientError``.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, retry: RetryPolicy | None = None) -> None:
        self.address = address
        self._retry = retry or RetryPolicy()
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._stub = labeling_pb2_grpc.LabelingServiceStub(self._channel)
        self.jobs = AsyncJobs(self._channel, self._retry, address)
        """Many images at a time, by a server that keeps what it does."""

    async def label(
        self,
        image: ImageInput,
        *,
        classes: Classes | None = None,
        name: str = "",
        detail: str = "all",
        timeout_s: float = 60.0,
    ) -> LabelResult:
        """Label one image; as ``Client.label``. A path is read in a thread."""
        request = pb.LabelRequest(
            image=await _bytes(image),
            name=messages.image_name(image, name),
            ontology=messages.ontology(classes),
            detail=messages.detail_number(detail),
        )
        answer = await self._call(self._stub.Label, request, timeout_s)
        return messages.label_result(answer.labelled)

    def label_many(
        self,
        items: Iterable[tuple[Key, ImageInput]] | AsyncIterable[tuple[Key, ImageInput]],
        *,
        classes: Classes | None = None,
        detail: str = "all",
        concurrency: int = 16,
        timeout_s: float = 60.0,
        name: Callable[[Key], str] | None = None,
    ) -> AsyncIterator[tuple[Key, LabelResult | ClientError]]:
        """Label pairs of key and image, as they are done; as ``Client.label_many``."""
        ontology, number = messages.ontology(classes), messages.detail_number(detail)
        named = name or key_name

        async def one(item: tuple[Key, ImageInput]) -> tuple[Key, LabelResult | ClientError]:
            key, image = item
            try:
                request = pb.LabelRequest(
                    image=await _bytes(image),
                    name=messages.sendable(named(key)),
                    ontology=ontology,
                    detail=number,
                )
                answer = await self._call(self._stub.Label, request, timeout_s)
            except ClientError as failure:
                return key, failure
            return key, messages.label_result(answer.labelled)

        return concurrently(items, one, concurrency)

    async def info(self, *, timeout_s: float = 10.0) -> ServerInfo:
        """What runs at the other end."""
        request = pb.GetServerInfoRequest()
        return messages.server_info(await self._call(self._stub.GetServerInfo, request, timeout_s))

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
        opening = messages.opening(classes, detail, stream_id, options.server_pending)
        return AsyncLiveStream(self._stub.LabelStream, opening, options, self._retry, self.address)

    async def close(self) -> None:
        """Cancel what is running and hang up."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        attempts = Attempts(self._retry, timeout_s, self.address)
        return await attempts.call_async(method, request)


async def _bytes(image: ImageInput) -> bytes:
    if isinstance(image, str | os.PathLike):
        return await asyncio.to_thread(messages.image_bytes, image)
    return bytes(image)
