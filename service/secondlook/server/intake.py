"""From bytes to an answer: decoded in threads, labelled by the engine, bounded as a whole."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from secondlook.engine import Engine
from secondlook.errors import Busy, DeadlineExceeded
from secondlook.images import ImageLimits, decode
from secondlook.labels import Image, Labelled
from secondlook.ontology import Ontology
from secondlook.pipeline import Task

RETRY_AFTER_S = 0.25
"""Told to a caller that found the server full: a few batches later."""


class Intake:
    """Labels encoded pictures. Belongs to one event loop, which never decodes or computes.

    At most as many pictures as the engine's ``max_pictures`` are inside at one time, the ones
    being decoded included; one more is refused at once.
    """

    def __init__(self, engine: Engine, image_limits: ImageLimits, decode_threads: int) -> None:
        self.limits = image_limits
        """How large a picture may be."""
        self._engine = engine
        self._inside = 0
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")

    async def label(
        self,
        data: bytes,
        name: str,
        ontology: Ontology,
        deadline: float | None = None,
        source: str = "",
    ) -> Labelled:
        """Label one picture; ``deadline`` is a ``time.monotonic()`` moment, ``source`` its stream.

        Raises ``Busy``, ``BadImage``, ``ImageTooLarge``, ``DeadlineExceeded``, or what a model
        raised. Cancelling it takes the picture out, unless a model is already at work on it.
        """
        room = self._engine.limits.max_pictures
        if self._inside >= room:
            raise Busy(
                f"{self._inside} pictures are being worked on already; try again in "
                f"{RETRY_AFTER_S} s or send fewer at a time",
                retry_after_s=RETRY_AFTER_S,
            )
        self._inside += 1
        try:
            started = time.perf_counter()
            image = await self._decoded(data, name, deadline)
            decode_ms = (time.perf_counter() - started) * 1000
            future = self._engine.submit(Task(image, ontology, source), deadline)
            labelled = await asyncio.wrap_future(future)
        finally:
            self._inside -= 1
        return replace(labelled, timings_ms={**labelled.timings_ms, "decode": decode_ms})

    def inside(self) -> int:
        """Pictures inside now."""
        return self._inside

    def close(self) -> None:
        """Let the decoding threads end; call it when nothing is inside."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _decoded(self, data: bytes, name: str, deadline: float | None) -> Image:
        def work() -> Image:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded(
                    "the deadline passed before the picture was decoded; allow more time"
                )
            return decode(data, name, self.limits)

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)
