"""Jobs for event loops; ``Jobs`` is the twin for plain code."""

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from secondlook_client import job_values, messages
from secondlook_client.async_many import concurrently
from secondlook_client.channel import key_name
from secondlook_client.classes import Classes
from secondlook_client.errors import ClientError
from secondlook_client.job_values import Job, JobFailure, JobNews, JobResult, Uploaded
from secondlook_client.jobs import CALL_S, OFFERED_AT_ONCE
from secondlook_client.messages import ImageInput, image_bytes
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc

Key = TypeVar("Key")


class AsyncJobs:
    """The jobs of a server that keeps what it does; use ``AsyncClient.jobs``.

    Every method is as in ``Jobs``.
    """

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        self._stub = jobs_pb2_grpc.JobServiceStub(channel)
        self._retry = retry
        self._address = address

    async def create(
        self,
        name: str,
        *,
        classes: Classes | None = None,
        folder: str = "",
        reuse: bool = False,
        timeout_s: float = CALL_S,
    ) -> Job:
        """Begin a job: of images in ``folder`` on the server, or else of those uploaded."""
        attempts = Attempts(self._retry, timeout_s, self._address)
        while True:
            request = job_values.create_request(name, classes, folder, reuse)
            try:
                answer = await self._stub.CreateJob(request, timeout=attempts.left_s())
                return job_values.job(answer.job)
            except grpc.RpcError as failed:
                wait_s = attempts.wait_s(failed)
            reuse = True  # the try that failed may have made it
            await asyncio.sleep(wait_s)

    async def offer(
        self, job: str, keys: Sequence[int], *, timeout_s: float = CALL_S
    ) -> Sequence[int]:
        """Those of the numbers that the job does not have yet."""
        wanted: list[int] = []
        for start in range(0, len(keys), OFFERED_AT_ONCE):
            some = keys[start : start + OFFERED_AT_ONCE]
            request = pb.OfferImagesRequest(job=job, keys=some)
            answer = await self._call(self._stub.OfferImages, request, timeout_s)
            wanted.extend(answer.wanted)
        return wanted

    def upload(
        self,
        job: str,
        images: Iterable[tuple[Key, ImageInput]] | AsyncIterable[tuple[Key, ImageInput]],
        *,
        number: Callable[[Key], int] | None = None,
        name: Callable[[Key], str] | None = None,
        concurrency: int = 16,
        timeout_s: float = 300.0,
    ) -> AsyncIterator[tuple[Key, Uploaded | ClientError]]:
        """Send pairs of key and image; yields (key, what became of it) as each is durable."""
        named = name or key_name

        async def one(item: tuple[Key, ImageInput]) -> tuple[Key, Uploaded | ClientError]:
            key, image = item
            try:
                request = pb.UploadImageRequest(
                    job=job,
                    image=await asyncio.to_thread(image_bytes, image),
                    name=messages.sendable(named(key)),
                    key=number(key) if number else None,
                )
                answer = await self._call(self._stub.UploadImage, request, timeout_s)
            except ClientError as failure:
                return key, failure
            return key, job_values.uploaded(answer)

        return concurrently(images, one, concurrency)

    async def finish(self, job: str, *, timeout_s: float = CALL_S) -> Job:
        """Say that no more images will come; uploading another opens the job again."""
        request = pb.FinishUploadRequest(job=job)
        return job_values.job((await self._call(self._stub.FinishUpload, request, timeout_s)).job)

    async def get(self, job: str, *, paths: bool = False, timeout_s: float = CALL_S) -> Job:
        """How a job stands; with ``paths``, who labelled its images, too."""
        request = pb.GetJobRequest(job=job, paths=paths)
        return job_values.job((await self._call(self._stub.GetJob, request, timeout_s)).job)

    async def list(self, *, timeout_s: float = CALL_S) -> AsyncIterator[Job]:
        """All jobs, the newest first, fetched page by page."""
        token = ""
        while True:
            request = pb.ListJobsRequest(page_token=token)
            page = await self._call(self._stub.ListJobs, request, timeout_s)
            for message in page.jobs:
                yield job_values.job(message)
            token = page.next_page_token
            if not token:
                return

    async def watch(self, job: str) -> AsyncIterator[JobNews]:
        """How a job stands, now and at each change, until it is over."""
        request = pb.WatchJobRequest(job=job)
        async for response in self._responses(lambda: self._stub.WatchJob(request)):
            yield job_values.news(response)

    async def cancel(self, job: str, *, timeout_s: float = CALL_S) -> Job:
        """Stop a job; what is done stays."""
        request = pb.CancelJobRequest(job=job)
        return job_values.job((await self._call(self._stub.CancelJob, request, timeout_s)).job)

    async def retry(
        self, job: str, *, reasons: Iterable[str] = (), timeout_s: float = CALL_S
    ) -> int:
        """Queue again what was set aside (for one of ``reasons``, if any); how many images."""
        request = pb.RetryJobRequest(job=job, reasons=reasons)
        return int((await self._call(self._stub.RetryJob, request, timeout_s)).retried)

    async def results(
        self, job: str, *, after: int = 0, follow: bool = False, detail: str = "all"
    ) -> AsyncIterator[JobResult]:
        """Results behind the cursor ``after``; with ``follow``, those to come until it is over."""
        number, cursor = messages.detail_number(detail), after

        def responses() -> Any:
            return self._stub.ListResults(
                pb.ListResultsRequest(job=job, after=cursor, detail=number, follow=follow)
            )

        async for response in self._responses(responses):
            for message in response.results:
                yield job_values.result(message)
                cursor = message.cursor

    async def failures(self, job: str, *, timeout_s: float = CALL_S) -> AsyncIterator[JobFailure]:
        """Every image that was set aside, fetched page by page."""
        after = 0
        while True:
            request = pb.ListFailuresRequest(job=job, after=after)
            page = await self._call(self._stub.ListFailures, request, timeout_s)
            for message in page.failures:
                yield job_values.failure(message)
            after = page.next_after
            if not after:
                return

    async def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        attempts = Attempts(self._retry, timeout_s, self._address)
        return await attempts.call_async(method, request)

    async def _responses(self, start: Callable[[], Any]) -> AsyncIterator[Any]:
        """The responses of a stream that is started again where its line breaks."""
        attempts = self._endless()
        while True:
            call = start()
            try:
                async for response in call:
                    attempts = self._endless()
                    yield response
                return
            except grpc.RpcError as failed:
                wait_s = attempts.wait_s(failed)
            finally:
                call.cancel()
            await asyncio.sleep(wait_s)

    def _endless(self) -> Attempts:
        return Attempts(self._retry, math.inf, self._address)
