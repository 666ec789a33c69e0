"""The jobs of a server: images sent or found, labelled when there is time, and kept."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from secondlook_client import wire
from secondlook_client.calls import (
    Awaiting,
    Blocking,
    Connection,
    Emit,
    Load,
    Plan,
    Send,
    Sleep,
    Streaming,
    StreamPlan,
    Unary,
    resumed,
)
from secondlook_client.errors import SecondlookError
from secondlook_client.images import ImageInput, key_name, sendable
from secondlook_client.many import ManyCalls, PlanOf, many_async
from secondlook_client.ontology import Classes
from secondlook_client.retry import RetryPolicy
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc
from secondlook_client.values import Job, JobFailure, JobProgress, JobResult, Uploaded

Key = TypeVar("Key")

CALL_S = 30.0
"""For a call that moves no image, all its tries included."""
OFFERED_AT_ONCE = 10_000
"""Keys in one message; the server takes no more."""


class JobCalls(Connection):
    """What ``Jobs`` and ``AsyncJobs`` share: everything but the waiting."""

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        super().__init__(channel, retry, address)
        self._stub = jobs_pb2_grpc.JobServiceStub(channel)

    @Unary
    def create(
        self,
        name: str,
        *,
        classes: Classes | None = None,
        folder: str = "",
        reuse: bool = False,
        guarantee: str = "",
        timeout_s: float = CALL_S,
    ) -> Plan[Job]:
        """Begin a job: of images in ``folder`` on the server, or else of those uploaded.

        ``classes`` None asks for the server's own. With ``reuse`` a job of this name with the
        same source and classes is given back. With the name of a ``guarantee`` boxes are accepted
        under it, and its classes are looked for. Raises ``AlreadyExists`` and ``NotAllowed``, and
        ``InvalidInput`` for a guarantee that does not hold, or not of such a job.
        """
        request = pb.CreateJobRequest(
            name=sendable(name),
            ontology=wire.ontology_message(classes),
            folder=pb.FolderSource(path=folder) if folder else None,
            upload=None if folder else pb.UploadSource(),
            reuse=reuse,
            guarantee=sendable(guarantee),
        )
        attempts = self._attempts(timeout_s)
        while True:
            try:
                answer = yield Send(self._stub.CreateJob, request, attempts.left_s())
                return wire.job(answer.job)
            except grpc.RpcError as failed:
                wait_s = attempts.wait_s(failed)
            request.reuse = True  # the try that failed may have made it
            yield Sleep(wait_s)

    @Unary
    def offer(
        self, job: str, keys: Sequence[int], *, timeout_s: float = CALL_S
    ) -> Plan[Sequence[int]]:
        """Those of the numbers that the job does not have yet, so that no others need be sent."""
        wanted: list[int] = []
        for start in range(0, len(keys), OFFERED_AT_ONCE):
            some = keys[start : start + OFFERED_AT_ONCE]
            request = pb.OfferImagesRequest(job=job, keys=some)
            answer = yield from self._answer(self._stub.OfferImages, request, timeout_s)
            wanted.extend(answer.wanted)
        return wanted

    @Unary
    def finish(self, job: str, *, timeout_s: float = CALL_S) -> Plan[Job]:
        """Say that no more images will come; uploading another opens the job again."""
        request = pb.FinishUploadRequest(job=job)
        return wire.job((yield from self._answer(self._stub.FinishUpload, request, timeout_s)).job)

    @Unary
    def get(self, job: str, *, paths: bool = False, timeout_s: float = CALL_S) -> Plan[Job]:
        """How a job stands; with ``paths``, who labelled its images, too."""
        request = pb.GetJobRequest(job=job, paths=paths)
        return wire.job((yield from self._answer(self._stub.GetJob, request, timeout_s)).job)

    @Streaming
    def list(self, *, timeout_s: float = CALL_S) -> StreamPlan[Job]:
        """All jobs, the newest first, fetched page by page."""
        return self._listed(
            self._stub.ListJobs,
            pb.ListJobsRequest(),
            timeout_s,
            lambda page: map(wire.job, page.jobs),
        )

    @Streaming
    def watch(self, job: str) -> StreamPlan[JobProgress]:
        """How a job stands, now and at each change, until it is over."""
        request = pb.WatchJobRequest(job=job)
        yield from resumed(
            lambda: self._stub.WatchJob(request),
            self._attempts,
            read=lambda response: (wire.job_progress(response),),
        )

    @Unary
    def cancel(self, job: str, *, timeout_s: float = CALL_S) -> Plan[Job]:
        """Stop a job; what is done stays."""
        request = pb.CancelJobRequest(job=job)
        return wire.job((yield from self._answer(self._stub.CancelJob, request, timeout_s)).job)

    @Unary
    def pause(self, job: str, *, timeout_s: float = CALL_S) -> Plan[Job]:
        """Begin no further image of a job until ``resume``; one that has ended is left alone."""
        request = pb.PauseJobRequest(job=job)
        return wire.job((yield from self._answer(self._stub.PauseJob, request, timeout_s)).job)

    @Unary
    def resume(self, job: str, *, timeout_s: float = CALL_S) -> Plan[Job]:
        """Continue a paused job; any other is left alone."""
        request = pb.ResumeJobRequest(job=job)
        return wire.job((yield from self._answer(self._stub.ResumeJob, request, timeout_s)).job)

    @Unary
    def retry(
        self, job: str, *, reasons: Iterable[str] = (), timeout_s: float = CALL_S
    ) -> Plan[int]:
        """Queue again what failed (for one of ``reasons``, if any); how many images."""
        request = pb.RetryJobRequest(job=job, reasons=reasons)
        return int((yield from self._answer(self._stub.RetryJob, request, timeout_s)).retried)

    @Streaming
    def results(
        self, job: str, *, after: int = 0, follow: bool = False, detail: str = "all"
    ) -> StreamPlan[JobResult]:
        """Results behind the cursor ``after``; with ``follow``, those to come until it is over.

        A broken connection is made anew, and the results go on where they were.
        """
        number, cursor = wire.detail_number(detail), after

        def responses() -> Any:
            return self._stub.ListResults(
                pb.ListResultsRequest(job=job, after=cursor, detail=number, follow=follow)
            )

        def read(response: pb.ListResultsResponse) -> Iterator[JobResult]:
            nonlocal cursor
            for message in response.results:
                yield wire.job_result(message)
                cursor = message.cursor

        yield from resumed(responses, self._attempts, read=read)

    @Streaming
    def failures(self, job: str, *, timeout_s: float = CALL_S) -> StreamPlan[JobFailure]:
        """Every image that failed, fetched page by page."""
        request = pb.ListFailuresRequest(job=job)
        while True:
            page = yield from self._answer(self._stub.ListFailures, request, timeout_s)
            for message in page.failures:
                yield Emit(wire.job_failure(message))
            if not page.next_after:
                return
            request = pb.ListFailuresRequest(job=job, after=page.next_after)

    def _uploading(
        self,
        job: str,
        number: Callable[[Key], int] | None,
        name: Callable[[Key], str] | None,
        timeout_s: float,
    ) -> PlanOf[Key, Uploaded]:
        def upload(key: Key, image: ImageInput) -> Plan[Uploaded]:
            request = pb.UploadImageRequest(
                job=job,
                image=(yield Load(image)),
                name=sendable((name or key_name)(key)),
                key=number(key) if number else None,
            )
            answer = yield from self._answer(self._stub.UploadImage, request, timeout_s)
            return wire.uploaded(answer)

        return upload


class Jobs(JobCalls, Blocking):
    """The jobs of a server with a store; use ``Client.jobs``.

        client.jobs.create("street", classes=["dog"])
        for path, kept in client.jobs.upload("street", ((p, p) for p in paths)):
            print(path, kept)
        client.jobs.finish("street")
        for found in client.jobs.results("street", follow=True):
            print(found.result.name, found.result.labels)

    Every call may be made again: an image is stored once and has one result. Every call raises a
    ``SecondlookError``: ``NotFound`` for a job that is not there, ``NotSupported`` from a server
    without a store.
    """

    def upload(
        self,
        job: str,
        images: Iterable[tuple[Key, ImageInput]],
        *,
        number: Callable[[Key], int] | None = None,
        name: Callable[[Key], str] | None = None,
        concurrency: int = 16,
        timeout_s: float = 300.0,
    ) -> Iterator[tuple[Key, Uploaded | SecondlookError]]:
        """Send pairs of key and image; yields (key, what became of it) as each is durable.

        ``images`` may be endless: it is read only as far as ``concurrency`` of them are in
        flight. ``number(key)`` is the image's number in the job, signed 64 bits (default: the
        server makes one of name and content); ``name(key)`` goes with it (default: the key, where
        that is a text or path). An image that fails is yielded with its error. ``timeout_s`` is
        for each, all its tries included.
        """
        plan_of = self._uploading(job, number, name, timeout_s)
        return ManyCalls(plan_of, concurrency).results(images)


class AsyncJobs(JobCalls, Awaiting):
    """The same for event loops; use ``AsyncClient.jobs``."""

    def upload(
        self,
        job: str,
        images: Iterable[tuple[Key, ImageInput]] | AsyncIterable[tuple[Key, ImageInput]],
        *,
        number: Callable[[Key], int] | None = None,
        name: Callable[[Key], str] | None = None,
        concurrency: int = 16,
        timeout_s: float = 300.0,
    ) -> AsyncIterator[tuple[Key, Uploaded | SecondlookError]]:
        """As ``Jobs.upload``."""
        return many_async(images, self._uploading(job, number, name, timeout_s), concurrency)
