"""``SegmentationService``: an image is encoded once, and clicks are answered from its encoding.

Nothing is kept between calls but the bounded ``EncodingCache``: a click brings the mask that it
mends. What the cache has lost is encoded again where the image is in the store, and is refused
with ``image_not_open`` where it is not.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from secondlook.config.settings import ImageSettings
from secondlook.core.cancellation import check_cancelled, current_cancellation
from secondlook.core.decoding import RETRY_AFTER_S, ImageDecoder
from secondlook.core.types import Image
from secondlook.labeling.encoding_cache import EncodingCache
from secondlook.labeling.segmenter import (
    ImageEncoding,
    MaskCandidate,
    SegmentationPrompt,
    Segmenter,
)
from secondlook.server.one_service import running_service
from secondlook.server.store_calls import deadline_of, in_thread
from secondlook.store import Store
from secondlook_client import wire
from secondlook_client.errors import (
    BadRequest,
    Busy,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    NotSupported,
)
from secondlook_client.masks import Mask
from secondlook_client.private_files import is_sha256
from secondlook_client.segmentation import IMAGE_NOT_OPEN
from secondlook_client.v1 import segmentation_pb2 as pb
from secondlook_client.v1 import segmentation_pb2_grpc

ENCODERS = 2
"""Images decoded and encoded at the same time, so that a large one does not hold up the others."""
CLICKERS = 2
"""Clicks answered at the same time."""
MAX_OPENING, MAX_CLICKS = 32, 64
"""Calls at the same time; more are refused with a hint."""
BUSY_S = 0.5
"""The hint, about what a full queue of clicks takes."""
_ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""Of messages to and from a service on the same machine; what is too large is told why."""
WAIT_FOR_MEMORY_S = 2.0
"""How long an image waits for the pixels of others to be freed before it is refused."""


class SegmentationServicer(segmentation_pb2_grpc.SegmentationServiceServicer):
    """``SegmentationService`` over a segmenter; without one, every call is refused."""

    def __init__(
        self,
        segmenter: Segmenter | None,
        decoder: ImageDecoder,
        encodings: EncodingCache,
        store: Store | None = None,
    ) -> None:
        """``store`` has the images that are named by their hash; None: there are none."""
        self._optional_segmenter = segmenter
        self._decoder = decoder
        self._encodings = encodings
        self._store = store
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode-images")
        self._clickers = ThreadPoolExecutor(CLICKERS, thread_name_prefix="answer-clicks")
        self._opening = _Places(MAX_OPENING, "images are being opened")
        self._clicking = _Places(MAX_CLICKS, "clicks are being answered")

    def close(self) -> None:
        """Let the threads end; call it when no call is running."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._clickers.shutdown(wait=False, cancel_futures=True)

    @property
    def _segmenter(self) -> Segmenter:
        """Raises ``NotSupported`` where the server has none."""
        if self._optional_segmenter is None:
            raise NotSupported(
                "this server has no segmenter, and so no masks by clicks; start it with "
                "--segmenter, for example demo"
            )
        return self._optional_segmenter

    async def OpenImage(  # noqa: N802 (gRPC's own spelling)
        self, request: pb.OpenImageRequest, context: Any
    ) -> pb.OpenImageResponse:
        """Encode an image."""
        segmenter, deadline = self._segmenter, deadline_of(context)
        with self._opening.taken():
            sha256, encoding = await in_thread(
                self._encoders, lambda: self._opened(request, deadline)
            )
        width, height = encoding.size
        return pb.OpenImageResponse(
            sha256=sha256, width=width, height=height, segmenter=_name(segmenter)
        )

    async def Segment(  # noqa: N802
        self, request: pb.SegmentRequest, context: Any
    ) -> pb.SegmentResponse:
        """Masks of what a box and clicks mean."""
        segmenter, deadline = self._segmenter, deadline_of(context)
        sha256 = _checked_sha256(request.sha256)
        with self._clicking.taken():
            encoding = self._encodings.get(sha256, segmenter.digest)
            if encoding is None:
                encoding = await in_thread(self._encoders, lambda: self._stored(sha256, deadline))
            candidates = await in_thread(
                self._clickers, lambda: _segmented(segmenter, encoding, request, deadline)
            )
        return pb.SegmentResponse(candidates=candidates, segmenter=_name(segmenter))

    def _opened(
        self, request: pb.OpenImageRequest, deadline: float | None
    ) -> tuple[str, ImageEncoding]:
        """Hash and encoding of what a request brings or names."""
        source = request.WhichOneof("source")
        if source is None:
            raise BadRequest("expected an image, or the sha256 of one in the store; got neither")
        if source == "sha256":
            sha256 = _checked_sha256(request.sha256)
            return sha256, self._stored(sha256, deadline)
        content = request.image
        sha256 = hashlib.sha256(content).hexdigest()
        encoding = self._encoded(sha256, content, deadline)
        if encoding.nbytes > self._encodings.max_bytes:
            raise NotReady(
                f"the encoding of an image takes {encoding.nbytes:,} bytes, and the server keeps "
                f"{self._encodings.max_bytes:,}; raise its encoding_cache_bytes"
            )
        return sha256, encoding

    def _stored(self, sha256: str, deadline: float | None) -> ImageEncoding:
        """The encoding of an image in the store, or one that was opened lately.

        Raises ``NotFound`` (``image_not_open``) where it is neither.
        """
        known = self._encodings.get(sha256, self._segmenter.digest)
        if known is not None:
            return known
        if self._store is None or not self._store.reviews.image_names([sha256]):
            raise NotFound(
                f"the image {sha256[:12]} is neither in the store nor opened lately; open it with "
                "its bytes, and send the click again",
                reason=IMAGE_NOT_OPEN,
            )
        return self._encoded(sha256, self._store.blobs.get(sha256), deadline)

    def _encoded(self, sha256: str, content: bytes, deadline: float | None) -> ImageEncoding:
        segmenter = self._segmenter

        def encode() -> ImageEncoding:
            image = self._decoded(content, deadline)
            check_cancelled()
            (encoding,) = segmenter.encode([image])
            return encoding

        while True:
            try:
                return self._encodings.get_or_encode(sha256, segmenter.digest, encode)
            except DeadlineExceeded:  # of the call that encoded it first; this one may have time
                _check_wanted(deadline)

    def _decoded(self, content: bytes, deadline: float | None) -> Image:
        """The image, once there is room for its pixels; ``Busy`` when there is none for long."""
        ends = time.monotonic() + WAIT_FOR_MEMORY_S
        while True:
            _check_wanted(deadline)
            decoding = self._decoder.submit(content, deadline=deadline)
            try:
                with _cancelling(decoding):
                    return decoding.result()
            except CancelledError:
                check_cancelled()
                raise
            except Busy:
                if time.monotonic() + RETRY_AFTER_S > ends:
                    raise
            time.sleep(RETRY_AFTER_S)


class _Places:
    """So many calls at the same time; belongs to one event loop."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One of them, until the block ends. Raises ``Busy`` when there is none."""
        if self._taken >= self._most:
            raise Busy(
                f"{self._taken} {self._what} already; try again in {BUSY_S:g} s",
                retry_after_s=BUSY_S,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def _segmented(
    segmenter: Segmenter,
    encoding: ImageEncoding,
    request: pb.SegmentRequest,
    deadline: float | None,
) -> list[pb.SegmentCandidate]:
    prompt = checked_prompt(request, encoding.size)
    _check_wanted(deadline)
    (found,) = segmenter.segment(encoding, [prompt])
    if not found:
        raise InvalidInput("the segmenter found nothing there; click elsewhere, or draw a box")
    return [_candidate_message(one) for one in found]


def _candidate_message(found: MaskCandidate) -> pb.SegmentCandidate:
    mask = wire.mask_message(Mask.from_array(found.pixels))
    return pb.SegmentCandidate(mask=mask, quality=found.quality, stability=found.stability)


def checked_prompt(request: pb.SegmentRequest, size: tuple[int, int]) -> SegmentationPrompt:
    """What a request says of an object on an image of this ``size`` (width, height).

    Raises ``BadRequest`` for clicks and boxes outside of the image, a mask of another size, and for
    nothing at all; ``InvalidInput`` for a damaged mask.
    """
    for place, click in enumerate(request.clicks):
        if not (0 <= click.x < size[0] and 0 <= click.y < size[1]):
            raise BadRequest(
                f"clicks[{place}]: expected a point of the image, which has {size[0]}×{size[1]} "
                f"pixels, got {click.x:g}, {click.y:g}",
                field=f"clicks[{place}]",
            )
    previous = wire.mask_at(request, "previous")
    if previous and (previous.width, previous.height) != size:
        raise BadRequest(
            f"previous: expected a mask of the image's {size[0]}×{size[1]} pixels, got one of "
            f"{previous.width}×{previous.height}",
            field="previous",
        )
    box = _checked_box(wire.box_at(request, "box"), size)
    if box is None and previous is None and not any(click.inside for click in request.clicks):
        raise BadRequest("expected a box, a click on the object, or a mask to mend; got none")
    return SegmentationPrompt(
        box,
        [(click.x, click.y) for click in request.clicks if click.inside],
        [(click.x, click.y) for click in request.clicks if not click.inside],
        previous.to_array() if previous else None,
    )


def _checked_box(box: wire.Xyxy | None, size: tuple[int, int]) -> wire.Xyxy | None:
    """The part of a box that is on the image."""
    if box is None:
        return None
    x1, y1 = max(box[0], 0.0), max(box[1], 0.0)
    x2, y2 = min(box[2], float(size[0])), min(box[3], float(size[1]))
    if not (x1 < x2 and y1 < y2):
        raise BadRequest(
            f"box: expected x1 y1 x2 y2 with x2 > x1 and y2 > y1 on the image, which has "
            f"{size[0]}×{size[1]} pixels, got {box!r:.120}",
            field="box",
        )
    return x1, y1, x2, y2


def _checked_sha256(text: str) -> str:
    if not is_sha256(text):
        raise BadRequest(
            f"expected the SHA-256 of an image, 64 hex digits, got {text!r:.80}", field="sha256"
        )
    return text


def _check_wanted(deadline: float | None) -> None:
    """Raises ``Cancelled`` and ``DeadlineExceeded`` where nobody waits for the answer any more."""
    check_cancelled()
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded("the deadline passed before the masks were made; allow more time")


def _cancelling(decoding: Any) -> AbstractContextManager[None]:
    """Until the block ends, whoever gives the call up gives the decoding up."""
    current = current_cancellation()
    return current.calling(decoding.cancel) if current else nullcontext()


def _name(segmenter: Segmenter) -> str:
    return f"{segmenter.name}@{segmenter.digest}"


def segmentation_service(
    segmenter: Segmenter, images: ImageSettings, cache_bytes: int
) -> AbstractContextManager[str]:
    """``SegmentationService`` alone, on loopback, until the block ends; gives its address.

    For a command that outlines objects of an image and loads no other model.
    """

    def register(server: Any, _: asyncio.Event) -> Callable[[], None]:
        decoder = ImageDecoder(images)
        servicer = SegmentationServicer(segmenter, decoder, EncodingCache(cache_bytes))
        segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(servicer, server)

        def close() -> None:
            servicer.close()
            decoder.close()

        return close

    return running_service("segmentation", register, _ANY_SIZE)
