"""``JobService``: each call is checked, handed to the store, and answered.

Calls that follow a job (its progress, its results) wake up when something is written to the store,
and look for what another process wrote twice a second.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from secondlook.core.decoding import ImageDecoder
from secondlook.core.types import Labelled
from secondlook.jobs.guarantee_checks import status_sentence
from secondlook.jobs.image_source import allowed_folder, allowed_folders
from secondlook.jobs.runner import JobRunner
from secondlook.labeling.engine import Engine
from secondlook.review.guarantees import job_under
from secondlook.server.client_limits import ClientLimits
from secondlook.server.converters import (
    Ontologies,
    checked_job_name,
    failure_message,
    job_message,
    key_of,
    result_message,
    wants_all,
)
from secondlook.server.loop_thread import in_daemon_thread
from secondlook.server.ownership import check_owner, creator
from secondlook.server.store_calls import StoreServicer, next_token, page_of
from secondlook.server.uploads import UploadBatcher
from secondlook.store import Store
from secondlook.store.guarantees import guarantee_of
from secondlook.store.ingest import CAPTURE_KIND as CAPTURE
from secondlook.store.ingest import UPLOAD_KIND as UPLOAD
from secondlook.store.ingest import CaptureIngest, UploadIngest
from secondlook.store.queue import FailedItem, JobRow
from secondlook.store.results import Result
from secondlook_client.errors import (
    AlreadyExists,
    BadRequest,
    DeadlineExceeded,
    NotFound,
    ShuttingDown,
    from_reason,
)
from secondlook_client.ontology import Ontology
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc
from secondlook_client.values import JobState

THREADS = 8
"""Calls that wait for the database at the same time."""
ACCEPTS_MORE_S = 1.0
"""How long a job that accepted an image is believed to accept others; each commit asks again."""
PAUSED = "the job is paused; `secondlook job resume` continues it"
MAX_JOBS, DEFAULT_JOBS = 500, 50
MAX_FAILURES, DEFAULT_FAILURES = 1000, 200

POLL_S = 0.5
"""Between two queries for what another process wrote; this process's own writes notify at once."""
MIN_RESULTS_INTERVAL_S, MIN_PROGRESS_INTERVAL_S = 0.02, 0.25
"""Between two queries, however much is written."""
ANSWER_S = 0.1
"""A call that waits for a result answers this long before its deadline, so that it is heard."""
HEARTBEAT_S = 1.0
"""A watcher gets a message at least this often, so that it knows that the connection stands."""
RESULTS_A_QUERY = 64
LARGE_MESSAGE = 2**20
"""Bytes from which results are sent without waiting for more."""

T = TypeVar("T")
Write = Callable[[Any], Awaitable[None]]
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class StoreServices:
    """What a server with a store runs besides answering calls: captured frames and jobs.

    Lives as long as the server; the store is the caller's.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        decoder: ImageDecoder,
        roots: Sequence[Path],
        max_jobs: int,
        verified: Callable[[str, float], None],
    ) -> None:
        """``roots``: folders that jobs may read images from; the others are as ``JobRunner``'s."""
        self.store = store
        self.frames = CaptureIngest(store.database, store.blobs, store.queue)
        self.runner = JobRunner(store, engine, decoder, roots, max_jobs=max_jobs, verified=verified)
        self.ended = asyncio.Event()
        """Set once no image of a job is labelled any more."""

    async def close(self, limit_s: float) -> None:
        """Finish and keep what is under way, for ``limit_s`` at most.

        Jobs go on where they are when a server starts.
        """
        try:
            await in_daemon_thread(partial(self.runner.close, limit_s))
        finally:
            self.ended.set()


class JobServicer(StoreServicer, jobs_pb2_grpc.JobServiceServicer):
    """``JobService`` over a store; without ``services``, every call is refused."""

    def __init__(
        self,
        services: StoreServices | None,
        ontologies: Ontologies,
        settings: Callable[[Ontology | None], Mapping[str, Any]],
        models: Callable[[], tuple[str, str]],
        roots: Sequence[Path],
        stopping: asyncio.Event,
        clients: ClientLimits | None = None,
    ) -> None:
        """``settings`` gives what is kept with each new job, ``models`` the names of proposer and
        verifier.

        A job's folder must be in one of ``roots``; ``stopping`` ends the calls that follow a job.
        ``clients``: what each client may send; without it, as much as it likes.
        """
        store = services.store if services else None
        super().__init__(store, "jobs", THREADS)
        self._ontologies = ontologies
        self._settings = settings
        self._models = models
        self._roots = roots
        self._stopping = stopping
        self._clients = clients or ClientLimits()
        self._ended = services.ended if services else stopping
        self._uploads = UploadIngest(store.database, store.blobs) if store else None
        self._batcher = UploadBatcher(self._uploads) if self._uploads else None
        self._accepts_more: dict[tuple[str, str], float] = {}
        """Until when, by the event loop's clock, by names of job and token."""

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        super().close()
        if self._batcher:
            self._batcher.close()

    async def CreateJob(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.CreateJobRequest, context: Any
    ) -> pb.CreateJobResponse:
        """Begin a job."""
        store, name = self._store, checked_job_name(request.name)
        wanted = request.guarantee and not request.HasField("ontology")
        asked = None if wanted else await self._ontologies.of(request)
        kind, root = await self._in_thread(lambda: self._source(request))
        made_by = creator()
        self._clients.check_verifier()

        def create() -> tuple[JobRow, Ontology]:
            if request.guarantee and request.reuse:  # also when it no longer holds
                with suppress(NotFound):
                    known = store.results.run(name).ontology
                    return self._existing(name, kind, known, root, request.guarantee), known
            ontology, settings = self.terms(asked, request.guarantee)
            try:
                return store.queue.create(name, kind, ontology, root, settings, made_by), ontology
            except AlreadyExists:
                if request.reuse:
                    return self._existing(name, kind, ontology, root, request.guarantee), ontology
                raise

        job, ontology = await self._in_thread(create)
        _check_own(job)
        return pb.CreateJobResponse(job=job_message(job, ontology))

    async def OfferImages(  # noqa: N802
        self, request: pb.OfferImagesRequest, context: Any
    ) -> pb.OfferImagesResponse:
        """Which images are wanted."""
        store = self._store
        job = await self._own_upload(request.job)
        known = await self._in_thread(lambda: store.queue.known(job.run_id, request.keys))
        wanted = (key for key in dict.fromkeys(request.keys) if key not in known)
        return pb.OfferImagesResponse(wanted=wanted)

    async def UploadImage(  # noqa: N802
        self, request: pb.UploadImageRequest, context: Any
    ) -> pb.UploadImageResponse:
        """Keep one image."""
        given = request.key if request.HasField("key") else None
        key, already = await self._keep(request.job, request.name, request.image, given)
        return pb.UploadImageResponse(key=key, already=already)

    async def keep_labelled(
        self, job: str, name: str, image: bytes, ontology: Ontology, deadline: float | None
    ) -> Labelled:
        """Label one image as an image of an upload job, which is created if it is new.

        Returns once image, evidence and decision are durable; sent again, the image has the same
        result. ``deadline`` is a ``time.monotonic()`` moment. Raises ``AlreadyExists`` when the
        name is another source's or the job has other classes, what storing raises, what the image
        failed with, and ``DeadlineExceeded`` and ``ShuttingDown``: then it is labelled later.
        """
        checked_job_name(job)
        made_by = creator()
        found = await self._in_thread(lambda: self._created_or_existing(job, ontology, made_by))
        key, _ = await self._keep(job, name, image)
        watcher = JobWatcher(self._store, self._in_thread, self._ended)
        return (await watcher.result(job, found.run_id, key, deadline)).labelled

    async def FinishUpload(  # noqa: N802
        self, request: pb.FinishUploadRequest, context: Any
    ) -> pb.FinishUploadResponse:
        """No more images will come."""
        store = self._store
        job = await self._own_upload(request.job)
        await self._in_thread(lambda: store.queue.close(job.run_id))
        return pb.FinishUploadResponse(job=await self._job(request.job))

    async def GetJob(  # noqa: N802
        self, request: pb.GetJobRequest, context: Any
    ) -> pb.GetJobResponse:
        """How one job stands, and what it looks for."""
        store = self._store
        job = await self._in_thread(lambda: store.queue.get(request.job))
        run = await self._in_thread(lambda: store.results.run(request.job))
        paths = await self._in_thread(lambda: store.results.paths(run.id)) if request.paths else ()
        under = guarantee_of(run.settings)
        stands = await self._in_thread(lambda: status_sentence(store, under)) if under else ""
        return pb.GetJobResponse(job=job_message(job, run.ontology, paths, stands))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: Any
    ) -> pb.ListJobsResponse:
        """A page of jobs, the newest first."""
        store = self._store
        size, before = page_of(
            request.page_size, request.page_token, "ListJobs", MAX_JOBS, DEFAULT_JOBS
        )
        jobs = await self._in_thread(lambda: store.queue.list_jobs(before, size + 1))
        return pb.ListJobsResponse(
            jobs=map(job_message, jobs[:size]), next_page_token=next_token(jobs, size, "run_id")
        )

    # The stubs know only handlers that yield; these write, so that a slow reader slows them.
    async def WatchJob(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchJobRequest, context: Any
    ) -> None:
        """Progress of one job until it has ended."""
        await self._watcher().job(request.job, context.write)

    async def ListResults(  # type: ignore[override]  # noqa: N802
        self, request: pb.ListResultsRequest, context: Any
    ) -> None:
        """Results from a cursor on."""
        every = wants_all(request.detail)
        await self._watcher().results(
            request.job, request.after, every, request.follow, context.write
        )

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: Any
    ) -> pb.CancelJobResponse:
        """Stop a job."""
        store = self._store
        await self._check_own_job(request.job)
        job = await self._in_thread(lambda: store.queue.cancel(request.job))
        return pb.CancelJobResponse(job=job_message(job))

    async def PauseJob(  # noqa: N802
        self, request: pb.PauseJobRequest, context: Any
    ) -> pb.PauseJobResponse:
        """Begin no further image."""
        store = self._store
        await self._check_own_job(request.job)
        job = await self._in_thread(lambda: store.queue.pause(request.job))
        return pb.PauseJobResponse(job=job_message(job))

    async def ResumeJob(  # noqa: N802
        self, request: pb.ResumeJobRequest, context: Any
    ) -> pb.ResumeJobResponse:
        """Continue a paused job."""
        store = self._store
        await self._check_own_job(request.job)
        job = await self._in_thread(lambda: store.queue.resume(request.job))
        return pb.ResumeJobResponse(job=job_message(job))

    async def RetryJob(  # noqa: N802
        self, request: pb.RetryJobRequest, context: Any
    ) -> pb.RetryJobResponse:
        """Try again the images that failed."""
        store, reasons = self._store, tuple(request.reasons)
        await self._check_own_job(request.job)
        again = await self._in_thread(lambda: store.queue.retry(request.job, reasons))
        return pb.RetryJobResponse(job=await self._job(request.job), retried=again)

    async def ListFailures(  # noqa: N802
        self, request: pb.ListFailuresRequest, context: Any
    ) -> pb.ListFailuresResponse:
        """A page of the images that failed."""
        store, after = self._store, request.after
        size, _ = page_of(request.page_size, "", "ListFailures", MAX_FAILURES, DEFAULT_FAILURES)
        run = await self._in_thread(lambda: store.results.run(request.job))
        found = await self._in_thread(lambda: store.queue.failures(run.id, after, size + 1))
        more = found[size - 1].item_id if len(found) > size else 0
        return pb.ListFailuresResponse(failures=map(failure_message, found[:size]), next_after=more)

    async def ListFolders(  # noqa: N802
        self, request: pb.ListFoldersRequest, context: Any
    ) -> pb.ListFoldersResponse:
        """Folders that a job may read."""
        self._store  # noqa: B018 (without one there are no jobs, and the call is refused)
        path, roots = request.path, self._roots
        found = await self._in_thread(lambda: allowed_folders(path, roots))
        return pb.ListFoldersResponse(folders=found.folders, images=found.images, more=found.more)

    def _watcher(self) -> "JobWatcher":
        return JobWatcher(self._store, self._in_thread, self._stopping)

    async def _check_own_job(self, name: str) -> None:
        """Raises ``NotFound``, and ``NotAllowed`` for the job of another token."""
        store = self._store
        _check_own(await self._in_thread(lambda: store.queue.get(name)))

    async def _job(self, name: str) -> pb.Job:
        store = self._store
        return job_message(await self._in_thread(lambda: store.queue.get(name)))

    def terms(
        self, ontology: Ontology | None, guarantee: str
    ) -> tuple[Ontology, Mapping[str, Any]]:
        """Classes and settings of a new job; those of a guarantee, if it is to run under one.

        ``ontology`` may be None only with a guarantee. Raises what ``job_under`` raises.
        """
        if guarantee:
            assert self._store
            return job_under(self._store, guarantee, ontology, self._settings, self._models())
        assert ontology
        return ontology, self._settings(ontology)

    def _existing(
        self, name: str, kind: str, ontology: Ontology, root: str, guarantee: str | None
    ) -> JobRow:
        """The job of that name; under ``guarantee``, or with None under any or none.

        Raises ``NotFound``, and ``AlreadyExists`` for another one.
        """
        run = self._store.results.run(name)
        under = guarantee_of(run.settings)
        same = run.kind, run.ontology.digest, under if guarantee is None else guarantee
        if same == (kind, ontology.digest, under):
            job = self._store.queue.get(name)
            if job.root == root:
                return job
        raise AlreadyExists(
            f"there is a run '{name}' already, from another source or with other classes or "
            "another guarantee; choose another name"
        )

    def _created_or_existing(self, name: str, ontology: Ontology, made_by: str) -> JobRow:
        """The upload job of that name. Raises ``AlreadyExists`` as ``_existing`` does."""
        with suppress(NotFound):  # the usual case, without a transaction that writes
            return self._existing(name, UPLOAD, ontology, "", None)
        with suppress(AlreadyExists):  # another call was faster
            settings = self._settings(ontology)
            return self._store.queue.create(
                name, UPLOAD, ontology, settings=settings, created_by=made_by
            )
        return self._existing(name, UPLOAD, ontology, "", None)

    async def _keep(
        self, job: str, name: str, image: bytes, key: int | None = None
    ) -> tuple[int, bool]:
        """Make an image durable and queue it; its key, and whether the job had it before."""
        assert self._store
        assert self._batcher
        await self._check_accepts_more(job)  # or anybody could fill the disk
        await self._clients.check_stored()
        self._clients.keep(len(image))
        key = key_of(name, image) if key is None else key
        return key, await self._batcher.keep(job, key, name, image)

    async def _own_upload(self, name: str) -> JobRow:
        """The job, if the caller may send images for it."""
        assert self._store
        uploads = self._uploads
        assert uploads
        job = await self._in_thread(lambda: uploads.job(name))
        _check_own(job)
        return job

    async def _check_accepts_more(self, name: str) -> None:
        """Raises what ``_own_upload`` does."""
        now, key = asyncio.get_running_loop().time(), (name, creator())
        if self._accepts_more.get(key, 0.0) < now:
            await self._own_upload(name)
            valid = {k: until for k, until in self._accepts_more.items() if until >= now}
            self._accepts_more = {**valid, key: now + ACCEPTS_MORE_S}

    def _source(self, request: pb.CreateJobRequest) -> tuple[str, str]:
        """Kind and folder of a new job. Raises ``BadRequest``, ``NotAllowed``, ``NotFound``."""
        if request.HasField("upload"):
            return UPLOAD, ""
        if not request.HasField("folder"):
            raise BadRequest("the job has no source; give a folder, or choose upload")
        return "folder", str(allowed_folder(request.folder.path, self._roots))


class JobWatcher:
    """Sends the progress or the results of a job, for one call, as they are written."""

    def __init__(self, store: Store, in_thread: InThread, stopping: asyncio.Event) -> None:
        """``in_thread`` runs what may wait for the database; ``stopping`` ends every wait."""
        self._store = store
        self._in_thread = in_thread
        self._stopping = stopping

    async def job(self, name: str, write: Write) -> None:
        """Write the job's state, then each change, until it has ended.

        Raises ``NotFound``, and ``ShuttingDown`` when the server stops first.
        """
        rate, sent, sent_at = Throughput(), None, 0.0
        loop = asyncio.get_running_loop()
        with self._store.database.changes.event() as written:
            while True:
                written.clear()
                job = await self._in_thread(lambda: self._store.queue.get(name))
                per_second = rate.per_second(job.done + job.failed)
                if job != sent or loop.time() - sent_at >= HEARTBEAT_S:
                    await write(_progress(job, per_second))
                    sent, sent_at = job, loop.time()
                if not job.active:
                    return
                await self._wait(written, MIN_PROGRESS_INTERVAL_S)

    async def results(self, name: str, after: int, every: bool, follow: bool, write: Write) -> None:
        """Write the results after the cursor ``after``; with ``follow``, until the job has ended.

        Raises ``NotFound`` and ``ShuttingDown``.
        """
        run = await self._in_thread(lambda: self._store.results.run(name))
        with self._store.database.changes.event() as written:
            while True:
                written.clear()
                # Asked before the results are read, so that none arrives in between and is missed.
                ended = not follow or await self._has_ended(name)
                while found := await self._in_thread(partial(self._read, run.id, after, every)):
                    await self._write_results(found, write)
                    after = found[-1].cursor
                if ended:
                    return
                await self._wait(written, MIN_RESULTS_INTERVAL_S)

    async def result(self, name: str, run_id: int, key: int, deadline: float | None) -> Result:
        """The result of one stored image, as soon as there is one.

        Raises what the image failed with, ``BadRequest`` when the job ended without it,
        ``NotFound`` when it was deleted, and ``DeadlineExceeded`` and ``ShuttingDown``.
        """

        def read() -> tuple[JobRow, Result | FailedItem | None]:
            return self._store.queue.get(name), self._store.results.outcome(run_id, key)

        with self._store.database.changes.event() as written:
            while True:
                written.clear()
                stopped = self._stopping.is_set()  # asked first, so that what it ended with is read
                job, found = await self._in_thread(read)
                if isinstance(found, Result):
                    return found
                if found:
                    raise from_reason(found.reason, found.message)
                if not job.active:
                    why = job.message or "keep it under another name"
                    raise BadRequest(
                        f"job '{name}' was {job.state} before the image was labelled: {why}"
                    )
                if stopped:
                    raise ShuttingDown(
                        f"the server is shutting down; the image is stored in '{name}' and will be "
                        "labelled after the next start: send it again for its labels"
                    )
                left_s = POLL_S if deadline is None else deadline - ANSWER_S - time.monotonic()
                if left_s <= 0:
                    waits = PAUSED if job.state is JobState.PAUSED else job.message
                    why = f"; it waits: {waits}" if waits else ""
                    raise DeadlineExceeded(
                        f"the image is stored in '{name}' and will be labelled{why}; send it again "
                        f"with more time, or see `secondlook job results {name}`"
                    )
                await self._next_change(written, MIN_RESULTS_INTERVAL_S, min(left_s, POLL_S))

    def _read(self, run_id: int, after: int, every: bool) -> list[pb.JobResult]:
        found = self._store.results.page(run_id, after, RESULTS_A_QUERY)
        facts = self._store.snapshots.facts(result.image_id for result in found)
        hashes = {image: fact.perceptual_hash for image, fact in facts.items()}
        return [result_message(result, hashes.get(result.image_id), every) for result in found]

    async def _write_results(self, found: list[pb.JobResult], write: Write) -> None:
        response = pb.ListResultsResponse()
        size = 0
        for result in found:
            response.results.append(result)
            size += result.ByteSize()
            if size >= LARGE_MESSAGE:
                await write(response)
                response, size = pb.ListResultsResponse(), 0
        if size:
            await write(response)

    async def _has_ended(self, name: str) -> bool:
        try:
            job = await self._in_thread(lambda: self._store.queue.get(name))
        except NotFound:  # a run that was re-decided has results and no job
            return True
        return not job.active

    async def _wait(self, written: asyncio.Event, at_least_s: float) -> None:
        """Until something is written or might have been. Raises ``ShuttingDown``."""
        await self._next_change(written, at_least_s, POLL_S)
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; follow the job again in a moment")

    async def _next_change(
        self, written: asyncio.Event, at_least_s: float, at_most_s: float
    ) -> None:
        """Sleep ``at_least_s``, then until a write, the stop, or ``at_most_s`` have passed."""
        await asyncio.sleep(at_least_s)
        waits = [asyncio.ensure_future(event.wait()) for event in (written, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=at_most_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class Throughput:
    """Images a job processes a second, over the last half minute."""

    WINDOW_S = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def per_second(self, settled: int) -> float:
        """Now that ``settled`` images are done or failed; 0 while unknown."""
        now = self._clock()
        self._seen.append((now, settled))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(settled - before, 0) / (now - then) if now > then else 0.0


def _check_own(job: JobRow) -> None:
    """Raises ``NotAllowed`` where the job is another token's."""
    check_owner(job.created_by, f"job '{job.name}'", job.name if job.kind == CAPTURE else "")


def _progress(job: JobRow, per_second: float) -> pb.WatchJobResponse:
    known = (
        per_second > 0 and job.state is not JobState.LISTING and not (job.waiting and job.message)
    )
    return pb.WatchJobResponse(
        job=job_message(job),
        images_per_second=per_second,
        seconds_left=job.waiting / per_second if known else None,
    )
