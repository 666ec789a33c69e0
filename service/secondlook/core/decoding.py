"""Decode strangers' images in child processes, within a budget of time and memory.

``images.decode`` trusts its caller to bring bytes that were decoded before, or that are one's own.
What comes from anybody (uploads, folders of jobs, streams) is decoded by an ``ImageDecoder``: a
fault in a decoder, a file that takes for ever or one that fills the memory costs that image alone.
What the store holds went through here before it was labelled.
"""

import functools
import hashlib
import threading
import weakref
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from typing import Any

import numpy as np

from secondlook.config.settings import ImageSettings
from secondlook.core.images import DEFAULT_LIMITS, check_bytes, decode_pixels
from secondlook.core.processors import available_cpus
from secondlook.core.sandbox import (
    CannotStart,
    Crashed,
    OutOfMemory,
    OutOfTime,
    Sandbox,
    SandboxCall,
    SandboxLimits,
    Withdrawn,
)
from secondlook.core.types import Image
from secondlook_client.errors import (
    Busy,
    DeadlineExceeded,
    DecodingFailed,
    ShuttingDown,
    Unavailable,
)

WORKERS = max(2, min(8, available_cpus()))
"""Images decoded at the same time, in this process all together."""
OTHER_BYTES = 64 * 2**20
"""Memory of a decoding besides the encoded image and what it asks for: buffers, small images."""
BACKGROUND_SHARE = 0.75
"""Of the budget, for images of jobs: some is left to callers that wait for an answer."""
POLL_S = 0.25
"""How soon a decoding is given up when its job stops."""
RETRY_AFTER_S = 0.25
"""Hint for a caller that found the memory taken: a few batches later."""


class MemoryBudget:
    """Bytes of decoded images that are in memory or about to be. Thread-safe.

    One image is always let in where there is no other, however large it is. Those in the
    background may use a part of the budget only.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        """Bytes."""
        self._used = 0
        # Reentrant, as memory is given back by finalizers, which run at any moment.
        self._lock = threading.RLock()

    @property
    def used(self) -> int:
        """Bytes taken now."""
        return self._used

    def room(self, background: bool = False) -> bool:
        """Whether there is room for a small image, which need not ask for its size."""
        return self._used < self._share(background)

    def take(self, size: int, background: bool = False) -> bool:
        """Take ``size`` bytes if there is room, or if nothing else is in memory."""
        with self._lock:
            if self._used and self._used + size > self._share(background):
                return False
            self._used += size
            return True

    def change(self, size: int) -> None:
        """Take (> 0) or give back (< 0) in any case."""
        with self._lock:
            self._used += size

    def _share(self, background: bool) -> float:
        return self.total * (BACKGROUND_SHARE if background else 1)


class Decoding(SandboxCall):
    """The future of one ``Image``; cancelling it keeps the bytes from being decoded."""

    def __init__(
        self,
        data: bytes,
        name: str,
        limits: ImageSettings,
        budget: MemoryBudget,
        deadline: float | None,
        background: bool,
    ) -> None:
        """See ``ImageDecoder.submit``."""
        encoded = -(-len(data) // 2**20) * 2**20  # rounded up, so that it is mostly the same
        within = SandboxLimits(limits.max_decode_s, OTHER_BYTES + encoded)
        super().__init__(decode_pixels, data, limits, within=within, deadline=deadline)
        self._name = name
        self._limits = limits
        self._budget = budget
        self._background = background
        self._taken = 0

    def begin(self) -> None:
        """Refuse what no child is needed for."""
        check_bytes(self.payload, self._limits)
        if not self._budget.room(self._background):
            raise self._busy()

    def grant(self, size: int) -> bool:
        """Take from the budget what a larger image needs."""
        if not self._budget.take(size, self._background):
            return False
        self._taken = size
        return True

    def finish(self, result: Any) -> None:
        """Keep as much of the budget as the pixels take, until they are freed."""
        image = Image(result, hashlib.sha256(self.payload).hexdigest(), self._name)
        size = result.nbytes
        self._budget.change(size - self._taken)
        # The budget follows the memory itself, which queues, views and tensors may share.
        weakref.finalize(_owner(result), self._budget.change, -size).atexit = False
        self.set_result(image)

    def fail(self, failure: BaseException) -> None:
        """Give the budget back, and say what the failure means for an image."""
        self._budget.change(-self._taken)
        self.set_exception(self._explained(failure))

    def _explained(self, failure: BaseException) -> BaseException:
        limits = self._limits
        if isinstance(failure, OutOfTime):
            return DecodingFailed(
                f"decoding the image took more than {limits.max_decode_s:g} s, so it was given "
                "up; save it again as an ordinary JPEG or PNG, or raise --max-decode-s"
            )
        if isinstance(failure, OutOfMemory):
            return DecodingFailed(
                f"decoding the image takes far more memory than its {self._taken:,} bytes of "
                "pixels; save it again as an ordinary JPEG or PNG"
            )
        if isinstance(failure, Crashed):
            return DecodingFailed(
                "the image made its decoder crash, so it is damaged; save it again"
            )
        if isinstance(failure, Withdrawn):
            if self.late:
                return DeadlineExceeded(
                    "the deadline passed before the image was decoded; allow more time"
                )
            return ShuttingDown("the image is decoded no more; send it again in a moment")
        if isinstance(failure, CannotStart):
            return Unavailable(f"the server cannot decode images at present: {failure}")
        if isinstance(failure, Busy):
            return self._busy()
        return failure

    def _busy(self) -> Busy:
        return Busy(
            f"the images being worked on take {self._budget.used:,} bytes of memory of "
            f"{self._budget.total:,}; try again in {RETRY_AFTER_S} s, send smaller or fewer "
            "images, or raise the server's max_decoded_bytes",
            retry_after_s=RETRY_AFTER_S,
        )


class ImageDecoder:
    """Decodes images in children that all decoders of this process share. Thread-safe."""

    def __init__(
        self, limits: ImageSettings = DEFAULT_LIMITS, sandbox: Sandbox | None = None
    ) -> None:
        """``sandbox`` is that of the process unless it is given."""
        self.limits = limits
        """How large an image may be."""
        self.budget = MemoryBudget(limits.max_decoded_bytes)
        """Counts images from before they are decoded until their pixels are freed."""
        self._sandbox = sandbox or _shared_sandbox()
        self._closed = False
        self._running: weakref.WeakSet[Decoding] = weakref.WeakSet()

    def submit(
        self,
        data: bytes,
        name: str = "",
        deadline: float | None = None,
        background: bool = False,
    ) -> Decoding:
        """Decode one image; ``deadline`` is a ``time.monotonic()`` moment.

        ``background``: nobody waits for it, so it leaves some room to others.

        The future fails with ``BadImage`` and ``ImageTooLarge`` as ``images.decode`` raises them;
        ``DecodingFailed`` for an image over the limits of time or memory or that crashes its
        decoder; ``Busy`` while there is no room for its pixels; ``DeadlineExceeded`` when the time
        ran out before it was decoded; ``ShuttingDown`` when it was cancelled while it ran or the
        decoder was closed; ``Unavailable`` when the machine cannot start a process.
        """
        decoding = Decoding(data, name, self.limits, self.budget, deadline, background)
        self._running.add(decoding)
        if self._closed:
            decoding.cancel()
        else:
            self._sandbox.submit(decoding)
        return decoding

    def decode(self, data: bytes, name: str, stopping: threading.Event) -> Image:
        """Decode one image, and wait for room until ``stopping`` is set.

        Raises what ``submit`` says except for ``Busy``.
        """
        while not stopping.is_set():
            decoding = self.submit(data, name, background=True)
            while not decoding.done():
                wait((decoding,), POLL_S)
                if stopping.is_set():
                    decoding.cancel()
            with suppress(Busy, CancelledError):
                return decoding.result()
            stopping.wait(RETRY_AFTER_S)
        raise ShuttingDown("the server is shutting down; the image stays in the queue")

    def close(self) -> None:
        """Give up what is being decoded. Does not wait."""
        self._closed = True
        for decoding in list(self._running):
            decoding.cancel()


def _owner(array: Any) -> Any:
    """What the memory of an array belongs to: a shared mapping, or another array."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@functools.cache
def _shared_sandbox() -> Sandbox:
    """Its children end with the process."""
    return Sandbox(WORKERS)
