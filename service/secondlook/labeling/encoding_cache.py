"""Encodings of images, kept so that a click costs no more than the click.

Several clients may open one image at once; it is encoded once, and the others wait for that.
"""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

from secondlook.core.cancellation import check_cancelled
from secondlook.labeling.segmenter import ImageEncoding
from secondlook_client.errors import Cancelled

POLL_S = 0.1
"""How soon a call that nobody waits for any more stops waiting for another's encoding."""

EncodingKey = tuple[str, str]
"""Hash of the image's bytes and digest of the segmenter."""


@dataclass(frozen=True)
class EncodingCacheStats:
    """What an ``EncodingCache`` holds and how often it helped."""

    hits: int
    """Encodings that were there, or being made for somebody else."""
    misses: int
    """Encodings that had to be made."""
    entries: int
    nbytes: int


class EncodingCache:
    """Encodings by (image, segmenter), least recently used out first. Thread-safe.

    Holds at most ``max_bytes`` of encodings, by their own count; 0 keeps none. An encoding that is
    larger by itself is given and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """The bound."""
        self._kept: OrderedDict[EncodingKey, ImageEncoding] = OrderedDict()
        self._coming: dict[EncodingKey, Future[ImageEncoding]] = {}
        self._lock = Lock()
        self._hits = self._misses = self._nbytes = 0

    @property
    def stats(self) -> EncodingCacheStats:
        """As of now."""
        with self._lock:
            return EncodingCacheStats(self._hits, self._misses, len(self._kept), self._nbytes)

    def get(self, sha256: str, digest: str) -> ImageEncoding | None:
        """What is kept of the image with this hash for the segmenter with this digest, or None.

        Found is a hit; not found is no miss, since nothing is made here.
        """
        with self._lock:
            return self._get((sha256, digest))

    def get_or_encode(
        self, sha256: str, digest: str, encode: Callable[[], ImageEncoding]
    ) -> ImageEncoding:
        """The encoding that is kept, that another caller is making, or that ``encode()`` makes.

        Raises what ``encode`` raises, to everyone who waits for it; but a caller that gives up
        (``Cancelled``) does not take the others with it: one of them encodes anew.
        """
        key = (sha256, digest)
        while True:
            with self._lock:
                if (kept := self._get(key)) is not None:
                    return kept
                coming = self._coming.get(key)
                if coming is None:
                    self._misses += 1
                    mine = self._coming[key] = Future()
            if coming is None:
                return self._make(key, encode, mine)
            if (made := _wait(coming)) is not None:
                with self._lock:
                    self._hits += 1
                return made

    def _get(self, key: EncodingKey) -> ImageEncoding | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self._hits += 1
        return found

    def _make(
        self,
        key: EncodingKey,
        encode: Callable[[], ImageEncoding],
        future: Future[ImageEncoding],
    ) -> ImageEncoding:
        try:
            encoding = encode()
        except BaseException as failure:
            with self._lock:
                del self._coming[key]
            future.set_exception(failure)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, encoding)
        future.set_result(encoding)
        return encoding

    def _keep(self, key: EncodingKey, encoding: ImageEncoding) -> None:
        if encoding.nbytes > self.max_bytes:
            return
        self._kept[key] = encoding
        self._nbytes += encoding.nbytes
        while self._nbytes > self.max_bytes:
            self._nbytes -= self._kept.popitem(last=False)[1].nbytes


def _wait(coming: Future[ImageEncoding]) -> ImageEncoding | None:
    """Another caller's encoding, or None when it gave up. Raises ``Cancelled`` and what it met."""
    while True:
        check_cancelled()
        try:
            return coming.result(POLL_S)
        except TimeoutError:
            if coming.done():  # its own, not that of our waiting
                raise
        except Cancelled:
            return None
