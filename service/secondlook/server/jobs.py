"""The servicer of jobs: each call is checked, handed to the store, and answered."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from secondlook.core.errors import AlreadyExists, BadRequest, NotFound, NotSupported, ShuttingDown
from secondlook.core.images import ImageLimits
from secondlook.core.ontology import Ontology
from secondlook.jobs.image_source import allowed
from secondlook.jobs.runner import JobRunner
from secondlook.labeling.engine import Engine
from secondlook.server.converters import (
    Ontologies,
    Pace,
    checked_job_name,
    failure_message,
    job_message,
    kept_name,
    key_of,
    result_message,
    wants_all,
)
from secondlook.server.uploads import Arrivals
from secondlook.store import Store
from secondlook.store.ingest import UPLOAD_KIND as UPLOAD
from secondlook.store.ingest import Frames, Uploads
from secondlook.store.queue import Job, JobState
from secondlook_client.v1 import jobs_pb2 as pb
from secondlook_client.v1 import jobs_pb2_grpc

# Streams that follow a job: its news and its results, as they come.

LOOK_EVERY_S = 0.5
"""Between two looks at the database for what another process wrote; for our own a bell rings."""
RESULTS_NOT_SOONER_S, NEWS_NOT_SOONER_S = 0.02, 0.25
"""Between two looks, however much is written."""
TELL_EVERY_S = 1.0
"""A watcher hears at least so often, so that it knows that the line stands."""
RESULTS_AT_ONCE = 64
LARGE_MESSAGE = 2**20
"""Bytes from which results are sent without waiting for more."""
LARGEST_CURSOR = 2**63 - 1

Write = Callable[[Any], Awaitable[None]]
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Following:
    """Follows jobs of one store for one call."""

    def __init__(self, store: Store, in_thread: InThread, stopping: asyncio.Event) -> None:
        """``in_thread`` runs what may wait for the database."""
        self._store = store
        self._in_thread = in_thread
        self._stopping = stopping

    async def job(self, name: str, write: Write) -> None:
        """Write how the job stands, then each change, until it is over.

        Raises ``NotFound``, and ``ShuttingDown`` when the server stops first.
        """
        pace, told, told_at = Pace(), None, 0.0
        loop = asyncio.get_running_loop()
        with self._store.database.written.waking() as written:
            while True:
                written.clear()
                job = await self._in_thread(lambda: self._store.queue.get(name))
                rate = pace.per_second(job.done + job.failed)
                if job != told or loop.time() - told_at >= TELL_EVERY_S:
                    await write(_news(job, rate))
                    told, told_at = job, loop.time()
                if not job.active:
                    return
                await self._rest(written, NEWS_NOT_SOONER_S)

    async def results(self, name: str, after: int, every: bool, follow: bool, write: Write) -> None:
        """Write the results behind the cursor ``after``; with ``follow``, until the job is over.

        Raises ``NotFound``, ``BadRequest`` for a cursor that none can be, and ``ShuttingDown``.
        """
        if after > LARGEST_CURSOR:
            raise BadRequest(f"expected a cursor that ListResults answered with, got {after}")
        run = await self._in_thread(lambda: self._store.records.run(name))
        with self._store.database.written.waking() as written:
            while True:
                written.clear()
                # Asked before the results are read, so that none comes between and is missed.
                over = not follow or await self._over(name)
                while found := await self._in_thread(partial(self._read, run.id, after, every)):
                    await self._write_results(found, write)
                    after = found[-1].cursor
                if over:
                    return
                await self._rest(written, RESULTS_NOT_SOONER_S)

    def _read(self, run_id: int, after: int, every: bool) -> list[pb.JobResult]:
        found = self._store.records.results(run_id, after, RESULTS_AT_ONCE)
        return [result_message(result, every) for result in found]

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

    async def _over(self, name: str) -> bool:
        try:
            job = await self._in_thread(lambda: self._store.queue.get(name))
        except NotFound:  # a run that was decided again has results and no job
            return True
        return not job.active

    async def _rest(self, written: asyncio.Event, not_sooner_s: float) -> None:
        """Until something is written or might have been. Raises ``ShuttingDown``."""
        await asyncio.sleep(not_sooner_s)
        waits = [asyncio.ensure_future(event.wait()) for event in (written, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down; follow the job again in a moment")


def _news(job: Job, rate: float) -> pb.WatchJobResponse:
    known = rate > 0 and job.state is not JobState.LISTING and not (job.waiting and job.message)
    return pb.WatchJobResponse(
        job=job_message(job),
        images_per_second=rate,
        seconds_left=job.waiting / rate if known else None,
    )


# What a server with a store does besides answering: it keeps what is sent and works on jobs.


class Keeping:
    """The parts that live as long as the server; the store is the caller's."""

    def __init__(
        self, store: Store, engine: Engine, limits: ImageLimits, roots: Sequence[Path]
    ) -> None:
        """``roots``: folders that jobs may read images from."""
        self.store = store
        self.frames = Frames(store.database, store.blobs, store.queue)
        self.runner = JobRunner(store, engine, limits, roots)

    async def close(self) -> None:
        """Finish and keep what is under way; jobs go on where they are when a server starts."""
        await asyncio.to_thread(self.runner.close)
        self.frames.close()


T = TypeVar("T")

THREADS = 8
"""Calls that wait for the database at one time."""
TAKES_MORE_S = 1.0
"""How long a job that took an image is believed to take others; each commit asks it again."""
MAX_OFFERED = 10_000
MAX_JOBS, SOME_JOBS = 500, 50
MAX_FAILURES, SOME_FAILURES = 1000, 200


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """``JobService`` of a server that keeps things; without ``keeping``, every call is refused."""

    def __init__(
        self,
        keeping: Keeping | None,
        default: Ontology | None,
        settings: Mapping[str, Any],
        roots: Sequence[Path],
        stopping: asyncio.Event,
    ) -> None:
        """``settings`` are kept with each new job, whose folder must be in one of ``roots``.

        ``stopping`` ends the calls that follow a job.
        """
        self._keeping = keeping
        self._ontologies = Ontologies(default)
        self._settings = settings
        self._roots = roots
        self._stopping = stopping
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs")
        store = keeping.store if keeping else None
        self._uploads = Uploads(store.database, store.blobs) if store else None
        self._arrivals = Arrivals(self._uploads) if self._uploads else None
        self._takes_more: dict[str, float] = {}
        """Until when, by the loop's clock, by name of job."""

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        self._threads.shutdown(wait=False)
        if self._arrivals:
            self._arrivals.close()

    async def CreateJob(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.CreateJobRequest, context: Any
    ) -> pb.CreateJobResponse:
        """Begin a job."""
        store, name = self._store(), checked_job_name(request.name)
        ontology = self._ontologies.of(request)
        kind, root = await self._in_thread(lambda: self._source(request))

        def create() -> Job:
            try:
                return store.queue.create(name, kind, ontology, root, self._settings)
            except AlreadyExists:
                run, job = store.records.run(name), store.queue.get(name)
                same = (job.kind, job.root, run.ontology.digest) == (kind, root, ontology.digest)
                if request.reuse and same:
                    return job
                raise

        return pb.CreateJobResponse(job=job_message(await self._in_thread(create), ontology))

    async def OfferImages(  # noqa: N802
        self, request: pb.OfferImagesRequest, context: Any
    ) -> pb.OfferImagesResponse:
        """Which images are wanted."""
        store = self._store()
        if len(request.keys) > MAX_OFFERED:
            raise BadRequest(f"expected up to {MAX_OFFERED:,} keys, got {len(request.keys):,}")
        job = await self._upload(request.job)
        known = await self._in_thread(lambda: store.queue.known(job.run_id, request.keys))
        wanted = (key for key in dict.fromkeys(request.keys) if key not in known)
        return pb.OfferImagesResponse(wanted=wanted)

    async def UploadImage(  # noqa: N802
        self, request: pb.UploadImageRequest, context: Any
    ) -> pb.UploadImageResponse:
        """Keep one image."""
        self._store()
        assert self._arrivals
        name = kept_name(request.name)
        await self._check_takes_more(request.job)  # or anybody could fill the disk
        given = request.HasField("key")
        key = request.key if given else key_of(name, request.image)
        already = await self._arrivals.keep(request.job, key, name, request.image)
        return pb.UploadImageResponse(key=key, already=already)

    async def FinishUpload(  # noqa: N802
        self, request: pb.FinishUploadRequest, context: Any
    ) -> pb.FinishUploadResponse:
        """No more images will come."""
        store = self._store()
        job = await self._upload(request.job)
        await self._in_thread(lambda: store.queue.close(job.run_id))
        return pb.FinishUploadResponse(job=await self._job(request.job))

    async def GetJob(  # noqa: N802
        self, request: pb.GetJobRequest, context: Any
    ) -> pb.GetJobResponse:
        """How one job stands, and what it looks for."""
        store = self._store()
        job = await self._in_thread(lambda: store.queue.get(request.job))
        run = await self._in_thread(lambda: store.records.run(request.job))
        paths = await self._in_thread(lambda: store.records.paths(run.id)) if request.paths else ()
        return pb.GetJobResponse(job=job_message(job, run.ontology, paths))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: Any
    ) -> pb.ListJobsResponse:
        """A page of jobs, the newest first."""
        store, before = self._store(), _page(request.page_token)
        size = _page_size(request.page_size, MAX_JOBS, SOME_JOBS)
        jobs = await self._in_thread(lambda: store.queue.list_jobs(before, size + 1))
        more = str(jobs[size - 1].run_id) if len(jobs) > size else ""
        return pb.ListJobsResponse(jobs=map(job_message, jobs[:size]), next_page_token=more)

    # The stubs know only handlers that yield; these write, so that a slow reader slows them.
    async def WatchJob(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchJobRequest, context: Any
    ) -> None:
        """News of one job until it is over."""
        await self._following().job(request.job, context.write)

    async def ListResults(  # type: ignore[override]  # noqa: N802
        self, request: pb.ListResultsRequest, context: Any
    ) -> None:
        """Results from a cursor on."""
        every = wants_all(request.detail)
        await self._following().results(
            request.job, request.after, every, request.follow, context.write
        )

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: Any
    ) -> pb.CancelJobResponse:
        """Stop a job."""
        store = self._store()
        job = await self._in_thread(lambda: store.queue.cancel(request.job))
        return pb.CancelJobResponse(job=job_message(job))

    async def RetryJob(  # noqa: N802
        self, request: pb.RetryJobRequest, context: Any
    ) -> pb.RetryJobResponse:
        """Try again what was set aside."""
        store, reasons = self._store(), tuple(request.reasons)
        again = await self._in_thread(lambda: store.queue.retry(request.job, reasons))
        return pb.RetryJobResponse(job=await self._job(request.job), retried=again)

    async def ListFailures(  # noqa: N802
        self, request: pb.ListFailuresRequest, context: Any
    ) -> pb.ListFailuresResponse:
        """A page of what was set aside."""
        store, after = self._store(), request.after
        size = _page_size(request.page_size, MAX_FAILURES, SOME_FAILURES)
        run = await self._in_thread(lambda: store.records.run(request.job))
        found = await self._in_thread(lambda: store.queue.failures(run.id, after, size + 1))
        more = found[size - 1].item_id if len(found) > size else 0
        return pb.ListFailuresResponse(failures=map(failure_message, found[:size]), next_after=more)

    def _store(self) -> Store:
        if self._keeping is None:
            raise NotSupported(
                "this server keeps nothing, so it has no jobs; start it with --data FOLDER"
            )
        return self._keeping.store

    def _following(self) -> Following:
        return Following(self._store(), self._in_thread, self._stopping)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """The database may be slow; the event loop never waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _job(self, name: str) -> pb.Job:
        store = self._store()
        return job_message(await self._in_thread(lambda: store.queue.get(name)))

    async def _upload(self, name: str) -> Job:
        """The job, if images may be sent for it."""
        self._store()
        uploads = self._uploads
        assert uploads
        return await self._in_thread(lambda: uploads.job(name))

    async def _check_takes_more(self, name: str) -> None:
        """Raises what ``_upload`` does."""
        now = asyncio.get_running_loop().time()
        if self._takes_more.get(name, 0.0) < now:
            await self._upload(name)
            self._takes_more = {n: until for n, until in self._takes_more.items() if until >= now}
            self._takes_more[name] = now + TAKES_MORE_S

    def _source(self, request: pb.CreateJobRequest) -> tuple[str, str]:
        """Kind and folder of a new job. Raises ``BadRequest``, ``NotAllowed``, ``NotFound``."""
        if request.HasField("upload"):
            return UPLOAD, ""
        if not request.HasField("folder"):
            raise BadRequest("the job has no source; give a folder, or say that you will upload")
        return "folder", str(allowed(request.folder.path, self._roots))


def _page(token: str) -> int | None:
    if not token:
        return None
    if not token.isdecimal() or len(token) > 18:
        raise BadRequest("the page_token is none of ours; give one that ListJobs answered with")
    return int(token)


def _page_size(asked: int, most: int, usual: int) -> int:
    if asked > most:
        raise BadRequest(f"expected page_size up to {most}, got {asked}")
    return asked or usual
