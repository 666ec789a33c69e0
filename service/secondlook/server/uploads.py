"""Uploaded images, made durable together: one commit for all that wait for one.

Each image's bytes are written first, several at a time. Its row is then written with those of
every image that came while the last transaction was under way, so that a slow disk costs
waiting and not throughput.
"""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from secondlook.store.ingest import UploadedImage, UploadIngest
from secondlook_client.errors import Busy

WRITERS = 4
"""Images written at the same time: most of the time of each is the disk's."""
BATCHING_WINDOW_S = 0.01
"""The first image of a transaction waits this long for others: clients send several at once."""
MAX_AT_ONCE = 256
"""Images in one transaction."""
MAX_BYTES = 256 * 2**20
"""Of images received and not durable yet; one more is refused with RESOURCE_EXHAUSTED."""


@dataclass(eq=False)
class _QueuedImage:
    job: str
    arrived: UploadedImage
    already: "asyncio.Future[bool]"


class UploadBatcher:
    """Stores images of upload jobs. Belongs to one event loop, which never waits for a disk."""

    def __init__(self, uploads: UploadIngest) -> None:
        self._uploads = uploads
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="uploads")
        self._waiting: deque[_QueuedImage] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._bytes = 0

    async def keep(self, job: str, key: int, name: str, content: bytes) -> bool:
        """Make one image durable and queue it; whether the job had its key before.

        Raises ``Busy``, ``NotFound``, ``BadRequest`` when the job takes no more, and what the
        store raises.
        """
        if self._bytes and self._bytes + len(content) > MAX_BYTES:
            raise Busy(
                "too many images are being uploaded at once; try again in a moment",
                retry_after_s=0.5,
            )
        self._bytes += len(content)
        try:
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(self._writers, self._uploads.store, content)
            one = _QueuedImage(job, UploadedImage(key, name, image), loop.create_future())
            self._waiting.append(one)
            if self._committing is None:
                self._committing = loop.create_task(self._commit_all())
            return await one.already
        finally:
            self._bytes -= len(content)

    def close(self) -> None:
        """Let the threads end; call it when no upload is pending."""
        self._writers.shutdown(wait=False, cancel_futures=True)

    async def _commit_all(self) -> None:
        """Until nothing waits; one commit at a time, so that the next one is a larger batch."""
        try:
            while self._waiting:
                await asyncio.sleep(BATCHING_WINDOW_S)
                await self._commit(self._next())
        finally:
            self._committing = None

    def _next(self) -> list[_QueuedImage]:
        """The images of one job that wait, the longest waiting job first."""
        job = self._waiting[0].job
        chosen = [one for one in self._waiting if one.job == job][:MAX_AT_ONCE]
        taken = set(map(id, chosen))
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        return chosen

    async def _commit(self, group: list[_QueuedImage]) -> None:
        arrived = [one.arrived for one in group]
        try:
            already = await asyncio.to_thread(self._uploads.add, group[0].job, arrived)
        except Exception as failure:
            for one in group:
                if not one.already.done():
                    one.already.set_exception(failure)
            return
        for one, known in zip(group, already, strict=True):
            if not one.already.done():  # its caller has gone away; it is kept all the same
                one.already.set_result(known)
