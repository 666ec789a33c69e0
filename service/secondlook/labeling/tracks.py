"""Tracks: the boxes of one object through the frames of a video, and which of them are asked about.

Boxes are joined by ByteTrack (Zhang et al., 2022, arXiv 2110.06864) as the package ``trackers`` has
it: a Kalman filter says where each object should be, and the assignment with the highest IoU wins.
The verifier is shown an object where it shows best, not in each frame: see ``KeyframeChooser``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.config.extras import missing_extra
from secondlook.core.boxes import iou
from secondlook.core.types import Boxes
from secondlook.labeling.pipeline import Pipeline, Proposed
from secondlook.labeling.proposer import Candidate
from secondlook.labeling.rejoining import TrackMender, TrackNumbers
from secondlook.labeling.verifier import VerificationRequest
from secondlook_client.values import Answer, View

LOST_S = 1.0
"""A track that is not seen for so long ends; another one may continue it, see ``rejoining``."""
MIN_IOU = 0.2
"""Of a box with where its track should be. On ten rendered clips with a tenth of the boxes missing
and 3 % jitter, IDF1 was 0.945 at 0.1 (the package's default), 0.969 here and 0.955 at 0.3."""
SURE = 0.9
"""P(yes) from which, and from one less this down to which, one answer settles a track."""
BORDER_QUALITY = 0.5
"""Of a box that touches the border of its frame, compared with one that is seen whole."""
BUCKET_S = 1.0
"""Of each second the best frame is a choice; those that are asked about are of several seconds."""
MAX_LOOKS = 4
"""At an object that stays in doubt. On three rendered clips F1 was 0.970, 0.975, 0.977 and 0.980 of
that of every frame at 1 to 4, for 0.15 to 0.19 boxes shown a frame."""


class UnaskedPipeline(Pipeline):
    """Proposes and asks nothing: what an object is, is asked when its track is known."""

    def _requests(self, item: Proposed) -> dict[tuple[int, View], VerificationRequest]:
        return {}


class SequenceTracker:
    """Numbers the objects of one sequence of frames, given in order.

    Boxes of one class are joined with each other only: an object that stands where another has just
    left is not the same one.
    """

    def __init__(self, fps: float) -> None:
        """``fps``: the usual number of frames a second, > 0. Raises ``MissingExtra``."""
        self._fps = fps
        self._next = 1
        self.numbers = TrackNumbers()
        """Which of the numbers turn out to be one object, or two."""
        self._of_class: dict[int, _ClassTracker] = {}

    def update(
        self, at_s: float, boxes: Boxes, classes: NDArray[np.intp], looks: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """The track of each box of the next frame: (N,) numbers, which ``numbers`` may correct.

        ``boxes`` (N, 4) pixel xyxy, ``classes`` (N,) the class that each most probably is, and
        ``looks`` (N, D) their ``appearances``; ``at_s`` seconds, more than that of the frame
        before.
        """
        tracks = np.zeros(len(boxes), np.int64)
        for one in sorted({*classes.tolist(), *self._of_class}):
            places = np.flatnonzero(classes == one)
            if one not in self._of_class:
                self._of_class[one] = _ClassTracker(self._fps, self.numbers)
            tracker = self._of_class[one]
            tracks[places] = tracker.update(at_s, boxes[places], looks[places], self._number)
        return tracks

    def _number(self) -> int:
        self._next += 1
        return self._next - 1


class _ClassTracker:
    """ByteTrack, where a track has its number from its first box on, and its mender."""

    def __init__(self, fps: float, numbers: TrackNumbers) -> None:
        self._supervision, bytetrack = _load_trackers()
        self._tracker = bytetrack(
            lost_track_buffer=round(30 * LOST_S),  # in thirtieths of a second, whatever the rate
            frame_rate=fps,
            minimum_consecutive_frames=1,
            minimum_iou_threshold=MIN_IOU,
        )
        self._mender = TrackMender(numbers)
        self._numbers: dict[Any, int] = {}
        """Of every track that may go on."""

    def update(
        self,
        at_s: float,
        boxes: Boxes,
        looks: NDArray[np.float32],
        number: Callable[[], int],
    ) -> NDArray[np.int64]:
        """(N,) numbers; ``number()`` gives a new one."""
        tracks = self._followed(at_s, boxes, number)
        for row, track in enumerate(tracks.tolist()):
            x1, y1, x2, y2 = boxes[row].tolist()
            if self._mender.see(at_s, track, (x1, y1, x2, y2), looks[row]):
                tracks[row] = new = number()
                self._mender.cut(track, new)
                (followed,) = [one for one, known in self._numbers.items() if known == track]
                self._numbers[followed] = new
        self._mender.end_frame(at_s, {*self._numbers.values()})
        return tracks

    def _followed(self, at_s: float, boxes: Boxes, number: Callable[[], int]) -> NDArray[np.int64]:
        rows = {"row": np.arange(len(boxes))}
        found = self._supervision.Detections(xyxy=boxes.astype(np.float64), data=rows)
        tracked = self._tracker.update(found, timestamp=at_s)
        begun = iter([one for one in self._tracker.tracks if one not in self._numbers])
        known = {one.tracker_id: n for one, n in self._numbers.items() if one.tracker_id >= 0}
        tracks = np.zeros(len(boxes), np.int64)
        if not len(boxes):
            return self._kept(tracks)
        for row, track in zip(
            tracked.data["row"].tolist(), tracked.tracker_id.tolist(), strict=True
        ):
            if track < 0:  # its first box: the tracker counts it, but names it with its second
                known[track] = self._numbers[next(begun)] = number()
            tracks[row] = known[track]
        return self._kept(tracks)

    def _kept(self, tracks: NDArray[np.int64]) -> NDArray[np.int64]:
        self._numbers = {one: self._numbers[one] for one in self._tracker.tracks}
        return tracks


def _load_trackers() -> tuple[Any, Any]:
    try:
        import supervision
        from trackers import ByteTrackTracker
    except ImportError as missing:
        raise missing_extra("tracking objects", "tracks") from missing
    return supervision, ByteTrackTracker


def tracked_rows(found: Sequence[Candidate]) -> NDArray[np.intp]:
    """The rows of the boxes worth judging, ascending, each once: these are tracked."""
    return np.array(sorted({candidate.row for candidate in found}), dtype=np.intp)


def leading_boxes(boxes: Boxes, scores: NDArray[np.float32], limit: float) -> NDArray[np.intp]:
    """(N,) of N boxes of one frame, whatever their classes, the one that stands for its object.

    That is the one with the highest of the ``scores`` (N,) among those with an IoU above ``limit``;
    a box that stands for an object itself has its own place.
    """
    leads = np.arange(len(boxes))
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        shared = iou(boxes[[place]], boxes[kept])[0] if kept else np.zeros(0)
        if kept and shared.max() > limit:
            leads[place] = kept[int(shared.argmax())]
        else:
            kept.append(place)
    return leads


def least_score(fps: float, frames: int) -> float:
    """The sum of its boxes' scores from which an object is worth a question: about a second's.

    Of the boxes of four rendered clips that stayed below it 3 % were on an object of their class.
    At one frame a second each object is asked about; of a sequence of few ``frames`` a fifth is
    enough.
    """
    return max(min(fps - 1, frames / 5), 0.0)


@dataclass(frozen=True)
class Sighting:
    """A box of a track in one frame."""

    frame: int
    """Place of the frame in its run's order."""
    row: int
    """Of the frame's proposals."""
    quality: float
    """How well the object shows."""


class KeyframeChooser:
    """Chooses the frames in which the verifier is shown an object, at most ``MAX_LOOKS``.

    The first is the one in which it is largest, most certain and whole; each further one is the
    best of another second, where it may stand otherwise. All questions about an object are asked
    of the same boxes, so that they share their encoding. Memory is some 200 bytes a second of each
    track.
    """

    def __init__(self) -> None:
        self._best: dict[int, dict[int, Sighting]] = {}
        """By track and second."""
        self._groups: dict[int, dict[tuple[int, ...], None]] = {}
        """By track, what it may be."""

    def add(self, at_s: float, track: int, classes: tuple[int, ...], seen: Sighting) -> None:
        """The box may be of any of ``classes``, one contrast group, and would be asked about."""
        self._groups.setdefault(track, {})[classes] = None
        buckets = self._best.setdefault(track, {})
        place = int(at_s / BUCKET_S)
        known = buckets.get(place)
        if known is None or seen.quality > known.quality:
            buckets[place] = seen

    def classes(self, track: int) -> tuple[int, ...]:
        """Every class that the track may be of, group by group."""
        return tuple(place for group in self._groups[track] for place in group)

    def look(self, number: int) -> dict[int, Sighting]:
        """By track, where to look at it for the first time (0), the second (1) and so on, where
        there is such a place: a track of less than a second or so has one."""
        found = {}
        for track, buckets in self._best.items():
            ranked = sorted(buckets.values(), key=lambda seen: -seen.quality)
            if number < len(ranked):
                found[track] = ranked[number]
        return found


def quality(box: Sequence[float], score: float, size: tuple[int, int]) -> float:
    """How well an object shows in its frame of ``size`` (width, height): larger is better."""
    x1, y1, x2, y2 = box
    whole = x1 > 1 and y1 > 1 and x2 < size[0] - 1 and y2 < size[1] - 1
    return score * math.sqrt((x2 - x1) * (y2 - y1)) * (1.0 if whole else BORDER_QUALITY)


def pooled(answers: Sequence[Answer]) -> Answer:
    """One answer for a track: the mean of P(yes) of those that were answered."""
    given = [answer for answer in answers if answer.p_yes is not None]
    if not given:
        return answers[0]
    p_yes = sum(answer.p_yes or 0.0 for answer in given) / len(given)
    return Answer(p_yes, given[0].raw, exact=all(answer.exact for answer in given))


def is_settled(answer: Answer) -> bool:
    """Whether one look was enough."""
    return answer.p_yes is not None and max(answer.p_yes, 1 - answer.p_yes) >= SURE
