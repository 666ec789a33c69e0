"""Clicks: outline an object of an image by boxes and clicks, and save it as a review.

The server keeps nothing of it but a cache of encoded images: which clicks there were, what can be
undone and which mask they mend is known here alone. So a server that was started again, or another
one, goes on where the last click was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secondlook_client import wire
from secondlook_client.calls import Awaiting, Blocking, Connection, Load, Plan, Unary, retried
from secondlook_client.errors import InvalidInput, NotFound
from secondlook_client.images import ImageInput
from secondlook_client.masks import Mask, Segmentation
from secondlook_client.retry import Attempts, RetryPolicy
from secondlook_client.reviews import ReviewCalls
from secondlook_client.v1 import segmentation_pb2 as pb
from secondlook_client.v1 import segmentation_pb2_grpc
from secondlook_client.values import NewReview, Review, ReviewAnswer, WrongReason

Xyxy = tuple[float, float, float, float]
Xy = tuple[float, float]

OPEN_S = 300.0
"""A large segmenter takes many seconds for an image on a CPU."""
CLICK_S = 60.0
SAVE_S = 30.0
IMAGE_NOT_OPEN = "image_not_open"
"""Reason of the server that has to see the image again."""
OPENINGS = 3
"""Times that one click opens its image again, before a server whose cache is too small is given
up."""
SENSIBLE = 0.75
"""Of the best predicted quality: a mask from there on is a sensible one."""


@dataclass(frozen=True)
class Click:
    """A click, pixels of the upright image."""

    x: float
    y: float
    inside: bool = True
    """On the object; else on what is not the object."""


@dataclass(frozen=True)
class OpenedImage:
    """An image that a server has encoded."""

    sha256: str
    """Hash of its bytes, 64 hex digits."""
    width: int
    height: int
    """Pixels, after rotation by EXIF."""
    segmenter: str
    """Name and digest."""
    content: bytes | None
    """Its bytes, to open it again; None of one that is in the server's store."""


@dataclass(frozen=True)
class PromptState:
    """What was said of one object up to a moment, and the masks that it may mean."""

    box: Xyxy | None = None
    clicks: tuple[Click, ...] = ()
    start: Mask | None = None
    """The mask that was to be mended; None where it began with a box or a click."""
    candidates: tuple[Segmentation, ...] = ()
    """The best predicted quality first."""
    chosen: int = 0
    """Which of them, from 0."""

    @property
    def segmentation(self) -> Segmentation | None:
        """The chosen candidate."""
        return self.candidates[self.chosen] if self.candidates else None

    @property
    def mask(self) -> Mask | None:
        """Of the chosen candidate; before there is one, the mask that is to be mended."""
        return self.segmentation.mask if self.segmentation else self.start


def smallest_sensible(candidates: Sequence[Segmentation]) -> int:
    """The place of the smallest mask whose predicted quality is at least ``SENSIBLE`` of the best.

    A click on a part of an object often means that part, and the best candidate is the whole.
    """
    best = max(one.quality for one in candidates)
    areas = {
        place: one.mask.area
        for place, one in enumerate(candidates)
        if one.quality >= SENSIBLE * best and one.mask.area
    }
    return min(areas, key=areas.__getitem__, default=0)


class SegmentationCalls(Connection):
    """What ``RemoteSegmentation`` and ``AsyncRemoteSegmentation`` share: all but the waiting."""

    def __init__(
        self, channel: Any, retry: RetryPolicy, address: str, reviews: ReviewCalls
    ) -> None:
        """``channel`` and ``reviews`` are the client's."""
        super().__init__(channel, retry, address)
        self._stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        self._reviews = reviews

    def opening(
        self, image: "ImageInput | None", sha256: str, timeout_s: float
    ) -> Plan[OpenedImage]:
        """Open an image by its content, or by the hash of one that is in the store."""
        if (image is None) != bool(sha256):
            raise InvalidInput("give an image, or the sha256 of one that is in the server's store")
        content = None if image is None else (yield Load(image))
        return (yield from self._opened(content, sha256, self._attempts(timeout_s)))

    def _opened(self, content: bytes | None, sha256: str, attempts: Attempts) -> Plan[OpenedImage]:
        named = {"sha256": sha256} if content is None else {"image": content}
        answer = yield from retried(attempts, self._stub.OpenImage, pb.OpenImageRequest(**named))
        return wire.read(OpenedImage, answer, content=content)

    def segmenting(
        self, opened: OpenedImage, prompt: PromptState, previous: Mask | None, timeout_s: float
    ) -> Plan[tuple[Segmentation, ...]]:
        """The candidates of a prompt; the image is opened again where the server lost it."""
        request = wire.segment_request(opened.sha256, prompt.box, prompt.clicks, previous)
        attempts, size = self._attempts(timeout_s), (opened.width, opened.height)
        for opening in range(OPENINGS + 1):
            try:
                answer = yield from retried(attempts, self._stub.Segment, request)
                return wire.segment_candidates(answer, size)
            except NotFound as missing:
                if missing.reason != IMAGE_NOT_OPEN or opening == OPENINGS:
                    raise
            yield from self._opened(opened.content, opened.sha256, attempts)
        raise AssertionError("the last opening returns or raises")

    def saving(self, said: NewReview, timeout_s: float) -> Plan[Review]:
        """Keep a review."""
        (kept,) = yield from self._reviews.adding([said], timeout_s)
        return kept


class SessionCalls:
    """What ``SegmentationSession`` and ``AsyncSegmentationSession`` share: all but the waiting."""

    def __init__(self, calls: SegmentationCalls, opened: OpenedImage) -> None:
        """Use ``client.segmentation.open``."""
        self._calls = calls
        self.image = opened
        """What is outlined."""
        self._states = [PromptState()]

    @property
    def state(self) -> PromptState:
        """All that was said, and what it led to."""
        return self._states[-1]

    @property
    def candidates(self) -> tuple[Segmentation, ...]:
        """What the last prompt may have meant, the best predicted quality first."""
        return self.state.candidates

    @property
    def segmentation(self) -> Segmentation | None:
        """The chosen candidate, with its predicted quality; None before the first prompt."""
        return self.state.segmentation

    @property
    def mask(self) -> Mask | None:
        """The pixels of the object so far; None before the first prompt."""
        return self.state.mask

    @Unary
    def click(
        self, x: float, y: float, inside: bool = True, *, timeout_s: float = CLICK_S
    ) -> Plan[Mask]:
        """Click on the object, or with ``inside`` False on what is not the object.

        The mask so far is mended. Returns the best candidate's mask; ``choose`` takes another.
        Raises ``InvalidInput`` for a click outside of the image, and for more than 64.
        """
        prompt = replace(self.state, clicks=(*self.state.clicks, Click(x, y, inside)))
        return (yield from self._prompted(prompt, self.mask, timeout_s))

    @Unary
    def box(
        self, x1: float, y1: float, x2: float, y2: float, *, timeout_s: float = CLICK_S
    ) -> Plan[Mask]:
        """Draw a box around the object, in place of the one before; clicks are kept."""
        prompt = replace(self.state, box=(x1, y1, x2, y2), start=None)
        return (yield from self._prompted(prompt, None, timeout_s))

    @Unary
    def prompt(
        self,
        box: Xyxy | None = None,
        inside: Iterable[Xy] = (),
        outside: Iterable[Xy] = (),
        *,
        timeout_s: float = CLICK_S,
    ) -> Plan[Mask]:
        """Begin anew with a box and clicks that are known already, in one call."""
        clicks = [Click(x, y) for x, y in inside] + [Click(x, y, False) for x, y in outside]
        return (yield from self._prompted(PromptState(box, tuple(clicks)), None, timeout_s))

    def _prompted(self, prompt: PromptState, previous: Mask | None, timeout_s: float) -> Plan[Mask]:
        found = yield from self._calls.segmenting(self.image, prompt, previous, timeout_s)
        self._states.append(replace(prompt, candidates=found, chosen=0))
        return found[0].mask

    def start_from(self, mask: Mask) -> None:
        """Begin anew with a mask, such as that of a label: the next clicks mend it."""
        self._states.append(PromptState(start=mask))

    def choose(self, which: int | str) -> Mask:
        """Take another candidate: its place, from 0; or ``best``, or ``smallest``.

        ``smallest`` is the smallest sensible one, see ``smallest_sensible``. The next click mends
        it. Raises ``InvalidInput`` where there is none.
        """
        found = self.candidates
        if not found:
            raise InvalidInput("there is no mask to choose yet; click on the object first")
        words = {"best": 0, "smallest": smallest_sensible(found)}
        place = words.get(which, -1) if isinstance(which, str) else which
        if not 0 <= place < len(found):
            raise InvalidInput(
                f"expected a candidate from 0 to {len(found) - 1}, best or smallest, got "
                f"{which!r:.60}"
            )
        self._states[-1] = replace(self.state, chosen=place)
        return found[place].mask

    def undo(self) -> Mask | None:
        """Take the last click, box or beginning back; the mask of before."""
        if len(self._states) > 1:
            self._states.pop()
        return self.mask

    def reset(self) -> None:
        """Forget all clicks and masks; the image stays open."""
        self._states = [PromptState()]

    @Unary
    def save(
        self,
        class_name: str,
        *,
        person: str,
        answer: ReviewAnswer | str = ReviewAnswer.MISSING,
        box: Xyxy | None = None,
        note: str = "",
        timeout_s: float = SAVE_S,
    ) -> Plan[Review]:
        """Keep the mask as a review of ``person``: it outranks every model from now on.

        ``answer``: ``missing`` for an object that no box marks; ``right`` or ``wrong`` of the label
        with this ``box``, which gets the mask, or is badly outlined and gives way to it. The image
        must be in the server's store. Raises ``InvalidInput`` before the first mask, and
        ``NotFound`` for an image that is not in the store.
        """
        mask, said = self.mask, wire.review_answer(answer)
        if mask is None:
            raise InvalidInput("there is no mask to save yet; click on the object first")
        if said is not ReviewAnswer.MISSING and box is None:
            raise InvalidInput(f"say which label is {said.value}: give its box")
        wrong = said is ReviewAnswer.WRONG
        review = NewReview(
            self.image.sha256,
            class_name,
            mask.box if box is None else box,
            said,
            WrongReason.OUTLINE if wrong else None,
            new_box=mask.box if wrong else None,
            person=person,
            note=note,
            mask=mask,
        )
        return (yield from self._calls.saving(review, timeout_s))


class SegmentationSession(SessionCalls, Blocking):
    """One object of one image, outlined by clicks; for one thread.

        for found in client.jobs.results("street"):
            clicks = client.segmentation.open(sha256=found.result.sha256)
            clicks.click(30, 20)
            clicks.click(5, 5, inside=False)
            show(clicks.mask.to_array())
            clicks.save("dog", person="ada")

    A server that was started again gets the image once more, by itself.
    """


class AsyncSegmentationSession(SessionCalls, Awaiting):
    """The same for event loops: await ``click``, ``box``, ``prompt`` and ``save``."""


class RemoteSegmentation(SegmentationCalls, Blocking):
    """Masks by boxes and clicks, by a server with a segmenter; use ``Client.segmentation``."""

    @Unary
    def open(
        self, image: "ImageInput | None" = None, *, sha256: str = "", timeout_s: float = OPEN_S
    ) -> Plan[SegmentationSession]:
        """Encode an image, so that clicks on it are answered at once.

        ``image`` is what ``Client.label`` takes; ``sha256`` names one that is in the server's
        store. Raises ``NotSupported`` where the server has no segmenter.
        """
        return SegmentationSession(self, (yield from self.opening(image, sha256, timeout_s)))


class AsyncRemoteSegmentation(SegmentationCalls, Awaiting):
    """The same for event loops; use ``AsyncClient.segmentation``."""

    @Unary
    def open(
        self, image: "ImageInput | None" = None, *, sha256: str = "", timeout_s: float = OPEN_S
    ) -> Plan[AsyncSegmentationSession]:
        """As ``RemoteSegmentation.open``."""
        return AsyncSegmentationSession(self, (yield from self.opening(image, sha256, timeout_s)))
