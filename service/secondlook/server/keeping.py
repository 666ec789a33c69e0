"""What a server with a store does besides answering: it keeps what is sent and works on jobs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from secondlook.engine import Engine
from secondlook.images import ImageLimits
from secondlook.jobs.runner import JobRunner
from secondlook.store import Store
from secondlook.store.frames import Frames


class Keeping:
    """The parts that live as long as the server; the store is the caller's."""

    def __init__(
        self, store: Store, engine: Engine, limits: ImageLimits, roots: Sequence[Path]
    ) -> None:
        """``roots``: folders that jobs may read pictures from."""
        self.store = store
        self.frames = Frames(store.database, store.blobs, store.queue)
        self.runner = JobRunner(store, engine, limits, roots)

    async def close(self) -> None:
        """Finish and keep what is under way; jobs go on where they are when a server starts."""
        await asyncio.to_thread(self.runner.close)
        self.frames.close()
