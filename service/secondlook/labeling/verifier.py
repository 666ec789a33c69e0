"""Stage two: boxes and questions in, verdicts out.

A verifier is shown a view of a box: the crop, the crop in its context, the whole image, or the crop
with all but the object's mask dimmed.
"""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw

from secondlook.core.boxes import padded_window
from secondlook.core.types import Image, Pixels, VQAQuery
from secondlook_client.errors import SecondlookError
from secondlook_client.masks import Mask
from secondlook_client.values import Answer, Verdict, View

log = logging.getLogger(__name__)

CROP_MARGIN = 0.1
CONTEXT_MARGIN = 0.5
"""On each side, so that a context view is twice as wide and high as its box."""
OUTLINE = (255, 0, 0)
DIMMED = 0.3
"""Brightness that a mask view leaves of all that is not the object: enough to see where it is."""
MAX_SIDE = 2048
"""A view is never enlarged beyond this, however thin its box."""


@runtime_checkable
class Verifier(Protocol):
    """A model that answers closed questions about images. Implement this to plug one in."""

    name: str
    """Short name for people, e.g. ``moondream``."""
    digest: str
    """Hash or version of the weights; part of every verdict."""
    min_side: int
    """Views are enlarged until their shorter side has this many pixels."""

    def answer(self, queries: Sequence[VQAQuery]) -> list[tuple[Answer, ...]]:
        """Answer every question of every view, in order.

        An answer that is neither yes nor no has ``p_yes`` None and the words in ``raw``; a view
        that could not be asked has ``error`` set. Raise only when nothing at all can be
        answered: the whole batch then has no verdict, and its boxes are unsure.
        """
        ...


@dataclass(frozen=True, eq=False)
class VerificationRequest:
    """One box of an image, the view that is shown of it, and the questions about it."""

    image: Image
    box: tuple[float, float, float, float]
    view: View
    questions: tuple[str, ...]
    decoy: bool = False
    """Asked only to audit the verifier: neither counted among its answers nor cached, so that
    whatever is real is the same with decoys and without."""
    mask: Mask | None = None
    """Of the object, for the view ``mask``."""
    source: str = ""
    """The job or stream of the image; empty: none. Only within one are answers reused for views
    that barely changed."""


class VerdictCache:
    """Answers by the hash of a view, a question and a model, least recently used out first.

    Holds at most ``size`` answers, each in a quarter of a kilobyte. Failures and abstentions are
    never cached: a backend that was down, or whose model got no image, is asked again. Thread-safe.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._lock = Lock()

    def get(self, key: bytes) -> Answer | None:
        """The answer kept under ``key``, or None."""
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep ``answer``, if it is one."""
        if answer.p_yes is None or self._size <= 0:
            return
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            while len(self._answers) > self._size:
                self._answers.popitem(last=False)


_UNCACHED = VerdictCache(0)


def verify(
    verifier: Verifier,
    requests: Sequence[VerificationRequest],
    cache: VerdictCache,
    observe: Callable[[Sequence[Answer]], None] | None = None,
    near: Callable[[VerificationRequest, bytes], tuple[bytes, str]] | None = None,
) -> list[tuple[Verdict, ...]]:
    """Answer every question of every request, in order; never raises for a failing backend.

    Cached answers are not asked for again; the other questions go to the model in one call, whose
    answers ``observe`` is told, without those to decoys. Requests that show the same pixels, as all
    of an image do with the view ``image``, are one query, and of equal questions one is asked. With
    ``near`` (``NearViews.find``) the answers to an earlier view stand for one that barely differs.
    """
    plans: list[tuple[bytes, str, list[_Slot]]] = []
    wanted: dict[tuple[bytes, bool], _WantedView] = {}
    for request in requests:
        pixels = rendered(request, verifier.min_side)
        shown, origin = _fingerprint(pixels), ""
        if near:
            shown, origin = near(request, shown)
        known = _UNCACHED if request.decoy else cache
        slots = [_slot(shown, question, verifier.digest, known) for question in request.questions]
        missing = [slot.question for slot in slots if slot.known is None]
        if missing:
            of_view = wanted.setdefault((shown, request.decoy), _WantedView(pixels, {}))
            of_view.questions.update(dict.fromkeys(missing))
        plans.append((shown, origin, slots))
    fresh = _asked(verifier, wanted, observe)
    model = f"{verifier.name}@{verifier.digest}"
    return [
        _verdicts(request, *plan, fresh, _UNCACHED if request.decoy else cache, model)
        for request, plan in zip(requests, plans, strict=True)
    ]


def presence_requests(
    image: Image, questions: Sequence[str], tiles: int
) -> list[VerificationRequest]:
    """Questions about the whole image, or about each of ``tiles`` × ``tiles`` tiles, row by row.

    A tile is a crop with its margin, so neighbours overlap and an object on their border is seen.
    """
    width, height = image.width, image.height
    if tiles == 1:
        return [VerificationRequest(image, (0, 0, width, height), View.IMAGE, tuple(questions))]
    xs, ys = np.linspace(0, width, tiles + 1).tolist(), np.linspace(0, height, tiles + 1).tolist()
    boxes = [(x1, y1, x2, y2) for y1, y2 in pairwise(ys) for x1, x2 in pairwise(xs)]
    return [VerificationRequest(image, box, View.CROP, tuple(questions)) for box in boxes]


@dataclass(frozen=True)
class _Slot:
    question: str
    key: bytes
    known: Answer | None


@dataclass(frozen=True, eq=False)
class _WantedView:
    """A view that the model is shown, with the questions about it in order."""

    pixels: Pixels
    questions: dict[str, None]


_Fresh = dict[tuple[bytes, bool, str], tuple[Answer, float | None]]
"""By fingerprint, whether it was for a decoy, and question: the answer and its milliseconds, until
a verdict has them."""


def _fingerprint(pixels: Pixels) -> bytes:
    """Of the shape and the values; once a view, however many questions are asked about it."""
    shape = str(pixels.shape).encode()
    values = np.ascontiguousarray(pixels).data
    return hashlib.blake2b(values, digest_size=16, key=shape).digest()


def _slot(shown: bytes, question: str, digest: str, cache: VerdictCache) -> _Slot:
    # One hash: as a tuple of its parts the keys would be most of what the cache takes.
    asked = f"{digest}\0{question}".encode(errors="surrogatepass")
    key = hashlib.blake2b(shown + asked, digest_size=16).digest()
    return _Slot(question, key, cache.get(key))


def _asked(
    verifier: Verifier,
    wanted: Mapping[tuple[bytes, bool], _WantedView],
    observe: Callable[[Sequence[Answer]], None] | None,
) -> _Fresh:
    """All that is ``wanted`` in one call of the model; each answer has its share of the time."""
    places = [(*key, question) for key, view in wanted.items() for question in view.questions]
    started = time.perf_counter()
    queries = [VQAQuery(view.pixels, tuple(view.questions)) for view in wanted.values()]
    answers = _ask(verifier, queries)
    real = [answer for (_, decoy, _), answer in zip(places, answers, strict=True) if not decoy]
    if observe and real:
        observe(real)
    share_ms = (time.perf_counter() - started) * 1000 / max(len(places), 1)
    return {place: (answer, share_ms) for place, answer in zip(places, answers, strict=True)}


def _ask(verifier: Verifier, queries: Sequence[VQAQuery]) -> list[Answer]:
    """All answers in one flat list; a failure becomes answers without a verdict."""
    if not queries:
        return []
    expected = [len(query.questions) for query in queries]
    try:
        answers = verifier.answer(queries)
        got = [len(of_view) for of_view in answers]
    except Exception as failure:  # a plug-in may raise anything, and a failure is not a no
        log.exception("verifier failed", extra={"verifier": verifier.name})
        return [Answer(None, error=_cause(failure))] * sum(expected)
    if got != expected:
        mismatch = f"the verifier gave {sum(got)} answers to {sum(expected)} questions"
        return [Answer(None, error=mismatch)] * sum(expected)
    return [_checked(answer) for of_view in answers for answer in of_view]


def _checked(answer: Answer) -> Answer:
    """A plug-in may return anything, and NaN would pass every comparison."""
    if answer.p_yes is None or 0 <= answer.p_yes <= 1:
        return answer
    return Answer(None, answer.raw, error=f"the verifier gave P(yes) = {answer.p_yes}")


def _cause(failure: Exception) -> str:
    """Short and safe to send: our own errors as they are, others by their class only."""
    if isinstance(failure, SecondlookError):
        return str(failure)
    return f"the verifier failed ({type(failure).__name__}); see the log"


def _verdicts(
    request: VerificationRequest,
    shown: bytes,
    origin: str,
    slots: list[_Slot],
    fresh: _Fresh,
    cache: VerdictCache,
    model: str,
) -> tuple[Verdict, ...]:
    """``shown`` is the view's fingerprint, and ``origin`` the image that answers come from which
    this request did not ask for."""
    found = []
    for slot in slots:
        place = shown, request.decoy, slot.question
        answer, ms = (slot.known, None) if slot.known else fresh[place]
        if not slot.known:
            cache.put(slot.key, answer)
            fresh[place] = answer, None
        source = origin if ms is None and answer.p_yes is not None else ""
        found.append(
            Verdict(slot.question, request.view, answer, model, ms or 0.0, ms is None, source)
        )
    return tuple(found)


def rendered(request: VerificationRequest, min_side: int) -> Pixels:
    """``render_view`` of a request."""
    return render_view(request.image, request.box, request.view, min_side, request.mask)


def render_view(
    image: Image,
    box: tuple[float, float, float, float],
    view: View,
    min_side: int,
    mask: Mask | None = None,
) -> Pixels:
    """The pixels that a verifier sees, (h, w, 3) uint8 RGB.

    The view ``mask`` needs the ``mask``, of the size of the image.
    Enlarged (bicubic, aspect kept) until the shorter side has ``min_side`` pixels: several
    vision models fail on, or see nothing in, images of fewer than about 32 pixels.
    """
    if view is View.IMAGE:
        return _enlarge(image.pixels, min_side)
    margin = CONTEXT_MARGIN if view is View.CONTEXT else CROP_MARGIN
    left, top, right, bottom = padded_window(box, margin, image.width, image.height)
    window = image.pixels[top:bottom, left:right]
    if view is View.CONTEXT:
        window = _outline(window, (box[0] - left, box[1] - top, box[2] - left, box[3] - top))
    if view is View.MASK:
        if mask is None:
            raise ValueError("the view 'mask' needs the mask of its box")
        window = _dimmed(window, mask.to_array()[top:bottom, left:right])
    return _enlarge(np.ascontiguousarray(window), min_side)


def _dimmed(window: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """``window`` with all that is not the object darker."""
    darker = (window * DIMMED).astype(np.uint8)
    return np.where(mask[..., None], window, darker)


def _outline(window: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    drawn = PILImage.fromarray(window)
    width = max(1, round(min(window.shape[:2]) / 100))
    # Whole pixels inside the window: a box at the image's border would lose that side.
    left, top = min(round(box[0]), drawn.width - 1), min(round(box[1]), drawn.height - 1)
    right = max(left, min(round(box[2]), drawn.width) - 1)
    bottom = max(top, min(round(box[3]), drawn.height) - 1)
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), outline=OUTLINE, width=width)
    return np.asarray(drawn)


def _enlarge(pixels: Pixels, min_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    factor = min(min_side / min(height, width), MAX_SIDE / max(height, width))
    if factor <= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(PILImage.fromarray(pixels).resize(size, PILImage.Resampling.BICUBIC))
