"""Images of the store for the page: smaller, cut out, and always encoded anew.

What strangers gave is decoded in the sandbox and never sent as an image: a browser is shown a JPEG
that was made here. Sizes come from a short list, so that few of them are made and cached.
"""

import asyncio
import io
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image as PILImage

from secondlook.core.decoding import ImageDecoder
from secondlook.core.types import Image
from secondlook.store import Store
from secondlook.store.images import image_ids
from secondlook_client.errors import BadRequest, Busy, NotFound, NotSupported
from secondlook_client.private_files import is_sha256

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Pixels; what is asked for is rounded up to one of these."""
MAX_SIDE = WIDTHS[-1]
QUALITY = 88
"""Of JPEG: 95 has twice the bytes, and 75 shows blocks at the edges that people judge."""
THREADS = 2
"""Images read, resized and encoded at the same time."""
MAX_WAITING = 512
"""Requests that wait; a screen of thumbnails has a hundred."""
CACHE_BYTES = 64 * 2**20
"""Of encoded images: some thousand thumbnails."""
RETRY_S = 0.5
CORNERS = 4

T = TypeVar("T")
Crop = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageView:
    """One image as it was asked for."""

    sha256: str
    width: int
    """At most so many pixels wide, one of ``WIDTHS``."""
    crop: Crop | None
    """The part that is shown, xyxy in pixels of the upright image; None: all."""


class PageImages:
    """Makes JPEGs of images in a store. One event loop."""

    def __init__(self, store: Store | None, decoder: ImageDecoder) -> None:
        self._optional_store = store
        self._decoder = decoder
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-images")
        self._places = asyncio.Semaphore(2 * THREADS)
        self._waiting = 0
        self._cache: OrderedDict[ImageView, bytes] = OrderedDict()
        self._cached_bytes = 0

    def close(self) -> None:
        """Let the threads end; call it when no request is open."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _store(self) -> Store:
        if self._optional_store is None:
            raise NotSupported("this server has no store, and so no images; start it with --data")
        return self._optional_store

    async def original(self, sha256: str) -> bytes:
        """The bytes of an image as they were given. Raises ``NotFound`` and ``Damaged``."""
        store, name = self._store, _checked_name(sha256)
        return await self._in_thread(lambda: _content(store, name))

    async def view(self, view: ImageView) -> bytes:
        """The JPEG of a view. Raises ``NotFound``, ``Damaged``, ``Busy``, and ``BadImage`` and
        others for an image that cannot be decoded."""
        if view in self._cache:
            self._cache.move_to_end(view)
            return self._cache[view]
        store = self._store
        if self._waiting >= MAX_WAITING:
            raise Busy("many images are asked for; try again in a moment", retry_after_s=RETRY_S)
        self._waiting += 1
        try:
            async with self._places:
                content = await self._in_thread(lambda: _content(store, view.sha256))
                decoded = await asyncio.wrap_future(self._decoder.submit(content))
                made = await self._in_thread(lambda: encoded_view(decoded, view))
        finally:
            self._waiting -= 1
        self._keep(view, made)
        return made

    def _keep(self, view: ImageView, content: bytes) -> None:
        if view in self._cache or len(content) > CACHE_BYTES // 8:
            return
        self._cache[view] = content
        self._cached_bytes += len(content)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= len(oldest)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def parse_view(sha256: str, query: Mapping[str, str]) -> ImageView:
    """The view that an address asks for. Raises ``BadRequest`` and ``NotFound``."""
    for name in query:
        if name not in ("width", "crop"):
            raise BadRequest(f"expected ?width=PIXELS and crop=x1,y1,x2,y2, got '{name:.40}'")
    return ImageView(
        _checked_name(sha256), _width(query.get("width", "")), _crop(query.get("crop", ""))
    )


def encoded_view(image: Image, view: ImageView) -> bytes:
    """The JPEG of a decoded image; never enlarged, and no side above ``MAX_SIDE``."""
    pixels = PILImage.fromarray(image.pixels)
    left, top, right, bottom = _inside(view.crop, pixels.size)
    scale = min(1.0, view.width / (right - left), MAX_SIDE / (bottom - top))
    size = max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1)
    # A reduction by whole numbers first, which is several times as fast and no worse to look at.
    shown = pixels.resize(
        size, PILImage.Resampling.LANCZOS, (left, top, right, bottom), reducing_gap=2.0
    )
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _inside(crop: Crop | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels of the image that a crop covers, one at least."""
    width, height = size
    if crop is None:
        return 0, 0, width, height
    left = min(max(math.floor(crop[0]), 0), width - 1)
    top = min(max(math.floor(crop[1]), 0), height - 1)
    right = min(max(math.ceil(crop[2]), left + 1), width)
    bottom = min(max(math.ceil(crop[3]), top + 1), height)
    return left, top, right, bottom


def _content(store: Store, sha256: str) -> bytes:
    """Only what is an image there: the same blobs hold models and manifests."""
    with store.database.reading() as connection:
        known = image_ids(connection, [sha256])
    if not known:
        raise NotFound(f"there is no image {sha256} in the store")
    return store.blobs.get(sha256)


def _checked_name(sha256: str) -> str:
    if not is_sha256(sha256):
        raise NotFound(f"expected the hash of an image, 64 hex digits, got '{sha256:.80}'")
    return sha256


def _width(text: str) -> int:
    if not text:
        return MAX_SIDE
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text)):
        raise BadRequest(f"expected a width of 1 to {MAX_SIDE} pixels, got '{text:.20}'")
    return next((width for width in WIDTHS if width >= int(text)), MAX_SIDE)


def _crop(text: str) -> Crop | None:
    if not text:
        return None
    try:
        corners = tuple(float(part) for part in text.split(",", CORNERS))
    except ValueError:
        corners = ()
    if len(corners) != CORNERS or not all(map(math.isfinite, corners)):
        raise BadRequest(f"expected crop=x1,y1,x2,y2 in pixels, got '{text:.80}'")
    x1, y1, x2, y2 = corners
    return x1, y1, x2, y2
