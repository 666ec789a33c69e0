"""Jobs for plain code. ``AsyncJobs`` is the twin for event loops."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from secondlook_client import job_values, messages
from secondlook_client.channel import key_name
from secondlook_client.classes import Classes
from secondlook_client.errors import ClientError
from secondlook_client.job_values import Job, JobFailure, JobNews, JobResult, Uploaded
from secondlook_client.many import Many
from secondlook_client.messages import ImageInput
from secondlook_client.retry import Attempts, RetryPolicy, resumed
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc

Key = TypeVar("Key")

CALL_S = 30.0
"""For a call that moves no image, all its tries included."""
OFFERED_AT_ONCE = 10_000
"""Keys in one message; the server takes no more."""


class Jobs:
    """The jobs of a server that keeps what it does; use ``Client.jobs``.

        client.jobs.create("street", classes=["dog"])
        for path, kept in client.jobs.upload("street", ((p, p) for p in paths)):
            print(path, kept)
        client.jobs.finish("street")
        for found in client.jobs.results("street", follow=True):
            print(found.result.name, found.result.labels)

    Every call may be made again: an image is stored once and has one result. Every call raises a
    ``ClientError``: ``NotFound`` for a job that is not there, ``NotSupported`` from a server that
    keeps nothing.
    """

    def __init__(self, channel: Any, retry: RetryPolicy, address: str) -> None:
        """``channel`` is the client's."""
        self._stub = jobs_pb2_grpc.JobServiceStub(channel)
        self._retry = retry
        self._address = address

    def create(
        self,
        name: str,
        *,
        classes: Classes | None = None,
        folder: str = "",
        reuse: bool = False,
        timeout_s: float = CALL_S,
    ) -> Job:
        """Begin a job: of images in ``folder`` on the server, or else of those uploaded.

        ``classes`` None asks for the server's own. With ``reuse`` a job of this name with the
        same source and classes is given back. Raises ``AlreadyExists`` and ``NotAllowed``.
        """
        attempts = Attempts(self._retry, timeout_s, self._address)
        while True:
            request = job_values.create_request(name, classes, folder, reuse)
            try:
                return job_values.job(self._stub.CreateJob(request, timeout=attempts.left_s()).job)
            except grpc.RpcError as failed:
                wait_s = attempts.wait_s(failed)
            reuse = True  # the try that failed may have made it
            time.sleep(wait_s)

    def offer(self, job: str, keys: Sequence[int], *, timeout_s: float = CALL_S) -> Sequence[int]:
        """Those of the numbers that the job does not have yet, so that no others need be sent."""
        wanted: list[int] = []
        for start in range(0, len(keys), OFFERED_AT_ONCE):
            some = keys[start : start + OFFERED_AT_ONCE]
            request = pb.OfferImagesRequest(job=job, keys=some)
            wanted.extend(self._call(self._stub.OfferImages, request, timeout_s).wanted)
        return wanted

    def upload(
        self,
        job: str,
        images: Iterable[tuple[Key, ImageInput]],
        *,
        number: Callable[[Key], int] | None = None,
        name: Callable[[Key], str] | None = None,
        concurrency: int = 16,
        timeout_s: float = 300.0,
    ) -> Iterator[tuple[Key, Uploaded | ClientError]]:
        """Send pairs of key and image; yields (key, what became of it) as each is durable.

        ``images`` may be endless: it is read only as far as ``concurrency`` of them are under
        way. ``number(key)`` is the image's number in the job, signed 64 bits (default: the
        server makes one of name and content); ``name(key)`` goes with it (default: the key, where
        that is a text or path). An image that fails is yielded with its error. ``timeout_s`` is
        for each, all its tries included.
        """
        named = name or key_name

        def request(key: Key, data: bytes) -> pb.UploadImageRequest:
            return pb.UploadImageRequest(
                job=job,
                image=data,
                name=messages.sendable(named(key)),
                key=number(key) if number else None,
            )

        def attempts() -> Attempts:
            return Attempts(self._retry, timeout_s, self._address)

        sending = Many(self._stub.UploadImage, request, job_values.uploaded, attempts, concurrency)
        return sending.results(images)

    def finish(self, job: str, *, timeout_s: float = CALL_S) -> Job:
        """Say that no more images will come; uploading another opens the job again."""
        request = pb.FinishUploadRequest(job=job)
        return job_values.job(self._call(self._stub.FinishUpload, request, timeout_s).job)

    def get(self, job: str, *, paths: bool = False, timeout_s: float = CALL_S) -> Job:
        """How a job stands; with ``paths``, who labelled its images, too."""
        request = pb.GetJobRequest(job=job, paths=paths)
        return job_values.job(self._call(self._stub.GetJob, request, timeout_s).job)

    def list(self, *, timeout_s: float = CALL_S) -> Iterator[Job]:
        """All jobs, the newest first, fetched page by page."""
        token = ""
        while True:
            page = self._call(self._stub.ListJobs, pb.ListJobsRequest(page_token=token), timeout_s)
            yield from map(job_values.job, page.jobs)
            token = page.next_page_token
            if not token:
                return

    def watch(self, job: str) -> Iterator[JobNews]:
        """How a job stands, now and at each change, until it is over."""

        request = pb.WatchJobRequest(job=job)
        for response in resumed(lambda: self._stub.WatchJob(request), self._endless):
            yield job_values.news(response)

    def cancel(self, job: str, *, timeout_s: float = CALL_S) -> Job:
        """Stop a job; what is done stays."""
        request = pb.CancelJobRequest(job=job)
        return job_values.job(self._call(self._stub.CancelJob, request, timeout_s).job)

    def retry(self, job: str, *, reasons: Iterable[str] = (), timeout_s: float = CALL_S) -> int:
        """Queue again what was set aside (for one of ``reasons``, if any); how many images."""
        request = pb.RetryJobRequest(job=job, reasons=reasons)
        return int(self._call(self._stub.RetryJob, request, timeout_s).retried)

    def results(
        self, job: str, *, after: int = 0, follow: bool = False, detail: str = "all"
    ) -> Iterator[JobResult]:
        """Results behind the cursor ``after``; with ``follow``, those to come until it is over.

        A broken connection is made anew, and the results go on where they were.
        """
        number, cursor = messages.detail_number(detail), after

        def responses() -> Any:
            return self._stub.ListResults(
                pb.ListResultsRequest(job=job, after=cursor, detail=number, follow=follow)
            )

        for response in resumed(responses, self._endless):
            for message in response.results:
                yield job_values.result(message)
                cursor = message.cursor

    def failures(self, job: str, *, timeout_s: float = CALL_S) -> Iterator[JobFailure]:
        """Every image that was set aside, fetched page by page."""
        after = 0
        while True:
            request = pb.ListFailuresRequest(job=job, after=after)
            page = self._call(self._stub.ListFailures, request, timeout_s)
            yield from map(job_values.failure, page.failures)
            after = page.next_after
            if not after:
                return

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        return Attempts(self._retry, timeout_s, self._address).call(method, request)

    def _endless(self) -> Attempts:
        return Attempts(self._retry, math.inf, self._address)
