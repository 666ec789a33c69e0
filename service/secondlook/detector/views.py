"""Other views of an image, for a student that is asked more than once: mirrored, parts, enlarged.

They show the same objects, so what a student finds in one view only it does not really know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from secondlook.core.boxes import share_inside
from secondlook.core.types import Boxes, Pixels
from secondlook.detector.detections import Detections

WHOLE = 0.95
"""Share of a box that a view must show: a student may well miss the rest of a cut object."""


@dataclass(frozen=True)
class StudentView:
    """A window of an image, mirrored or not."""

    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """xyxy as shares of the image, x2 > x1 and y2 > y1; what lies outside of the image has its mean
    colour."""
    mirrored: bool = False

    def show(self, image: Pixels) -> Pixels:
        """The view of an image (H, W, 3), in the pixels of its window."""
        left, top, right, bottom = self._corners(image.shape[1], image.shape[0])
        red, green, blue = image.reshape(-1, 3).mean(axis=0).astype(int).tolist()
        canvas = PILImage.new("RGB", (right - left, bottom - top), (red, green, blue))
        canvas.paste(PILImage.fromarray(image), (-left, -top))
        shown = np.asarray(canvas)
        return np.ascontiguousarray(shown[:, ::-1] if self.mirrored else shown)

    def back(self, boxes: Boxes, width: int, height: int) -> Boxes:
        """Boxes in pixels of the view, (N, 4), as boxes of its image of ``width`` × ``height``."""
        left, top, right, _ = self._corners(width, height)
        found = boxes.astype(np.float32, copy=True)
        if self.mirrored:
            found[:, [0, 2]] = right - left - boxes[:, [2, 0]]
        return found + np.array([left, top, left, top], dtype=np.float32)

    def shows(self, boxes: Boxes, width: int, height: int) -> NDArray[np.bool_]:
        """(N,) which boxes of the image, (N, 4), the view shows: ``WHOLE`` of them or more."""
        window = np.array([self._corners(width, height)], dtype=np.float32)
        return np.asarray(share_inside(boxes, window)[:, 0] >= WHOLE)

    def _corners(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Of the window, in pixels; it is never empty."""
        x1, y1, x2, y2 = self.window
        left, top = round(x1 * width), round(y1 * height)
        return left, top, max(round(x2 * width), left + 1), max(round(y2 * height), top + 1)


VIEWS = (
    StudentView((0.1, 0.1, 0.9, 0.9), mirrored=True),
    StudentView((0.25, 0.25, 1.0, 1.0)),
    StudentView((0.0, 0.25, 0.75, 1.0), mirrored=True),
    StudentView((0.25, 0.0, 1.0, 0.75), mirrored=True),
    StudentView((0.0, 0.0, 0.75, 0.75)),
    StudentView(mirrored=True),
)
"""The most telling first; each costs one run of the student. Chosen on 90 scenes of the drawn world
(seed 501): parts, which a student sees larger, tell most. With the whole image made smaller the
embedded student misses small objects, and its errors were harder to find than by the score."""


@dataclass(frozen=True, eq=False)
class DetectedAgain:
    """What was found on another view of an image."""

    found: Detections
    """In pixels of the image; boxes may reach out of it."""
    shown: NDArray[np.bool_]
    """(N,) which of the N detections on the image itself this view shows."""


def detect_again(
    detect: Callable[[Sequence[Pixels]], list[Detections]],
    image: Pixels,
    first: Detections,
    views: Sequence[StudentView] = VIEWS,
) -> list[DetectedAgain]:
    """What a student finds on other views of an image (H, W, 3) where it has found ``first``.

    ``detect`` runs the student on images of any size, as ``OnnxDetector.detect`` does.
    """
    height, width = image.shape[:2]
    found = detect([view.show(image) for view in views])
    return [
        DetectedAgain(
            Detections(view.back(one.boxes, width, height), one.scores, one.classes),
            view.shows(first.boxes, width, height),
        )
        for view, one in zip(views, found, strict=True)
    ]
