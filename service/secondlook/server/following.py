"""Streams that follow a job: its news and its results, as they come."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from secondlook.errors import BadRequest, NotFound, ShuttingDown
from secondlook.server.job_messages import Pace, job_message, result_message
from secondlook.store import Store
from secondlook.store.job import Job, JobState
from secondlook_client.v1 import jobs_pb2 as pb

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
        pictures_per_second=rate,
        seconds_left=job.waiting / rate if known else None,
    )
