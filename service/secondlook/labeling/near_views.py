"""Views that barely changed: a place that a verifier was shown a moment ago, in another image.

Frames of a still camera are seldom equal to the last bit, so ``VerdictCache``, which goes by the
pixels, is asked in vain. ``NearViews`` says which earlier view of the same place looks nearly
alike; the answers to that one stand for it. It compares with the view that was asked about, never
with one whose answer was reused itself, so slow changes do not add up.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.core.boxes import Xyxy, iou
from secondlook.labeling.verifier import VerificationRequest, rendered
from secondlook_client.values import View

SIDE = 16
"""Blocks of a view, each way, whose mean colours are compared."""
MEAN, MOST = 2.0, 6.0
"""Levels of 255 by which blocks may differ on average, and the one that differs most. The noise of
a camera and of JPEG stays below; glasses that are put on do not."""
SAME_PLACE = 0.8
"""IoU of two boxes that may be of one object which did not move."""
COMPARED = 4
"""Views of a place that are compared, the latest first."""
VIEWS, SOURCES = 256, 64
"""Views that are remembered of each source, the latest, and sources; one view takes 3 KiB."""


@dataclass(frozen=True, eq=False)
class SeenView:
    """A view that the verifier was asked about."""

    box: Xyxy
    view: View
    size: tuple[int, int]
    """Width and height of its image."""
    blocks: NDArray[np.float32]
    shown: bytes
    """Fingerprint of its pixels, by which its answers are known."""
    image: str
    """Name of its image."""
    sha256: str
    """Of its image: two boxes of one image are two objects."""


class NearViews:
    """The views of the latest images of each job or stream. Thread-safe."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, deque[SeenView]] = OrderedDict()
        self._lock = Lock()

    def find(self, request: VerificationRequest, shown: bytes) -> tuple[bytes, str]:
        """Fingerprint and image of the view whose answers stand for that of ``request``.

        Without one it is the request's own, ``shown`` and no image, and remembered from now
        on. Compared is what the earlier box shows in the image of now, so a box that trembles is no
        change. Masks are not reused, they tremble themselves.
        """
        if not request.source or request.decoy or request.view is View.MASK:
            return shown, ""
        with self._lock:
            seen = self._seen.setdefault(request.source, deque(maxlen=VIEWS))
            self._seen.move_to_end(request.source)
            if len(self._seen) > SOURCES:
                self._seen.popitem(last=False)
            if known := _nearly(request, seen):
                seen.remove(known)  # what is still there is remembered longest
                seen.append(known)
                return known.shown, known.image
            seen.append(_seen(request, shown))
        return shown, ""


def _seen(request: VerificationRequest, shown: bytes) -> SeenView:
    image = request.image
    size = image.width, image.height
    blocks = _blocks(request)
    return SeenView(request.box, request.view, size, blocks, shown, image.name, image.sha256)


def _nearly(request: VerificationRequest, seen: Iterable[SeenView]) -> SeenView | None:
    """The latest of ``seen`` that shows the same place, nearly alike."""
    image = request.image
    like = request.view, (image.width, image.height)
    known = [one for one in seen if (one.view, one.size) == like and one.sha256 != image.sha256]
    known.reverse()
    boxes = np.array([one.box for one in known], np.float32).reshape(-1, 4)
    overlaps = iou(np.array([request.box], np.float32), boxes)[0]
    there = [known[place] for place in np.flatnonzero(overlaps >= SAME_PLACE)[:COMPARED]]
    return next(
        (one for one in there if _alike(one.blocks, _blocks(replace(request, box=one.box)))), None
    )


def _blocks(request: VerificationRequest) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3) mean colours of the view."""
    pixels = PILImage.fromarray(rendered(request, 1))
    return np.asarray(pixels.resize((SIDE, SIDE), PILImage.Resampling.BOX), np.float32)


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    apart = np.abs(one - other)
    return bool(apart.mean() <= MEAN and apart.max() <= MOST)
