"""What there is to see of the tracks of a run, for the choice of keyframes.

Of each track whose boxes are labels or unsure:

- where it shows best: large, certain, whole, sharp and not behind another one; or nearly so.
- where it looks otherwise for a while than in all frames before: other colours, as something may
  have been put on, or another object may have been taken for it.
- where it begins on the place that another one has just left: it may have been cut in two.
- where it is found again after it was lost: it may be another object.
- where its boxes were filled in, because nothing was found.

What a person has called right, or was unsure of, is seen already. A box that was called wrong is no
sighting of its track any more, so the next best one is looked at.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import ImageSettings
from secondlook.core.boxes import Xyxy, iou
from secondlook.core.cancellation import check_cancelled
from secondlook.core.frame_names import DEFAULT_FPS, frame_address, sequence_of
from secondlook.core.images import decode
from secondlook.labeling.appearance import alike, appearances, sharpness
from secondlook.labeling.decisions import FILLED
from secondlook.labeling.rejoining import LEAST, SAME
from secondlook.labeling.tracks import LOST_S, quality
from secondlook.review.image_pool import RunPool
from secondlook.review.visited_images import Progress
from secondlook.selection.keyframes import Moment
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook.store.runs import Run
from secondlook_client.errors import Damaged, InvalidInput, NotFound
from secondlook_client.values import Judgement, Outcome

PAGE = 100
"""Results read at a time."""
NEARLY_BEST = 0.8
"""Share of the best quality that is good enough to look at a track."""
LOOKS = 4
"""Ways in which a track may look, at most."""
SAME_PLACE = 0.3
"""IoU of the first box of a track with the last one of another that it may be a part of."""
OTHERS_WEIGHT = 0.5
"""Of what happens to a track, beside seeing it at all."""


def with_moments(
    store: Store,
    run: Run,
    found: RunPool,
    limits: ImageSettings | None = None,
    progress: Progress = lambda done, total: None,
) -> RunPool:
    """The pool of a run with what its images show of tracks.

    Every frame is decoded once; some twenty bytes of each box are kept. Raises ``InvalidInput`` for
    a run without tracks.
    """
    places = {one.cursor: place for place, one in enumerate(found.images)}
    tracks = _read_tracks(store, run, limits or ImageSettings(), progress)
    if not tracks:
        raise InvalidInput(
            f"run '{run.name}' has no tracks, so no frame of it is a keyframe; label a video or a "
            "sequence of images with --track, or choose by another strategy"
        )
    moments = []
    for moment in _moments(tracks):
        frames = {places[at]: well for at, well in moment.frames.items() if at in places}
        if frames:
            moments.append(replace(moment, frames=frames))
    return replace(found, pool=replace(found.pool, moments=moments))


@dataclass(eq=False)
class _Track:
    """What was seen of one track; arrays have an entry for each sighting."""

    number: int
    sequence: str
    first_box: Xyxy
    first_s: float
    last_box: Xyxy = (0.0, 0.0, 0.0, 0.0)
    last_s: float = 0.0
    classes: set[str] = field(default_factory=set)
    cursors: "array[int]" = field(default_factory=lambda: array("q"))
    qualities: "array[float]" = field(default_factory=lambda: array("f"))
    sharp: "array[float]" = field(default_factory=lambda: array("f"))
    look_of: "array[int]" = field(default_factory=lambda: array("b"))
    looks: list[NDArray[np.float32]] = field(default_factory=list)
    again: list[tuple[int, float]] = field(default_factory=list)
    """Where it was found again: place of the sighting, and after how many seconds."""
    filled: list[list[int]] = field(default_factory=list)
    """Cursors of the frames of each gap that was filled in."""
    in_gap: bool = False
    seen: set[int] = field(default_factory=set)
    """Cursors of frames in which a person has answered about it."""

    def see(self, at_s: float, cursor: int, box: Xyxy, shows: float, sharp: float) -> None:
        if self.cursors and at_s - self.last_s > LOST_S:
            self.again.append((len(self.cursors), at_s - self.last_s))
        self.cursors.append(cursor)
        self.qualities.append(shows)
        self.sharp.append(sharp)
        self.last_box, self.last_s, self.in_gap = box, at_s, False

    def look(self, seen: NDArray[np.float32]) -> None:
        """The colours of the sighting that was told last."""
        near = [alike(seen, known) for known in self.looks]
        if not near or (max(near) < SAME and len(near) < LOOKS):
            self.looks.append(seen)
            near.append(1.0)
        self.look_of.append(int(np.argmax(near)))

    def fill(self, cursor: int) -> None:
        if not self.in_gap:
            self.filled.append([])
        self.filled[-1].append(cursor)
        self.in_gap = True

    @property
    def shows(self) -> NDArray[np.float64]:
        """(sightings,) how well it shows."""
        sharp = np.array(self.sharp, np.float64)
        return np.array(self.qualities, np.float64) * np.sqrt(sharp / max(sharp.max(), 1e-9))


def _read_tracks(
    store: Store, run: Run, limits: ImageSettings, progress: Progress
) -> dict[int, _Track]:
    tracks: dict[int, _Track] = {}
    after, done, total, of_sequence = 0, 0, store.results.count(run.id), dict[str, int]()
    while page := store.results.page(run.id, after, PAGE):
        after = page[-1].cursor
        for result in page:
            check_cancelled()
            name = result.labelled.name
            sequence, address = sequence_of(name), frame_address(name)
            place = of_sequence[sequence] = of_sequence.get(sequence, -1) + 1
            at_s = address.ms / 1000 if address else place / DEFAULT_FPS
            _add(store, result, sequence, at_s, limits, tracks)
        done += len(page)
        progress(done, total)
    return {number: one for number, one in tracks.items() if one.cursors}


def _add(
    store: Store,
    result: Result,
    sequence: str,
    at_s: float,
    limits: ImageSettings,
    tracks: dict[int, _Track],
) -> None:
    """Tell what a frame shows of its tracks."""
    labelled = result.labelled
    answered = {labelled.judgements[place].track for place in result.reviewed}
    shown = _shown(labelled.judgements)
    if not shown:
        return
    boxes = np.array([one.box for one in shown], np.float32)
    try:
        pixels = decode(store.blobs.get(labelled.sha256), labelled.name, limits).pixels
    except (NotFound, Damaged, InvalidInput):  # `label` lists what cannot be read
        return
    looks, hidden = appearances(pixels, boxes), _hidden(boxes)
    for row, one in enumerate(shown):
        known = tracks.setdefault(one.track, _Track(one.track, sequence, one.box, at_s))
        known.classes.add(one.class_name)
        if one.track in answered:
            known.seen.add(result.cursor)
        if one.decision.reason.startswith(FILLED):
            known.fill(result.cursor)
            continue
        size = labelled.width, labelled.height
        shows = quality(one.box, one.score, size) * (1 - hidden[row])
        known.see(at_s, result.cursor, one.box, shows, sharpness(pixels, one.box))
        known.look(looks[row])


def _shown(judgements: tuple[Judgement, ...]) -> list[Judgement]:
    """Of each track its box, by its class of the highest score."""
    best: dict[int, Judgement] = {}
    for one in judgements:
        if one.track and one.outcome is not Outcome.REJECT:
            known = best.get(one.track)
            if known is None or one.score > known.score:
                best[one.track] = one
    return [best[track] for track in sorted(best)]


def _hidden(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) the largest share of each box that another one covers."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    np.fill_diagonal(shared, 0)
    own = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6)
    return np.asarray(np.clip(shared.max(axis=1) / own, 0, 1), np.float64)


def _moments(tracks: dict[int, _Track]) -> Iterator[Moment]:
    """By cursor of the frames; without what a person has seen."""
    ended: dict[tuple[str, int], list[_Track]] = {}
    for track in tracks.values():
        ended.setdefault((track.sequence, int(track.last_s)), []).append(track)
    for track in tracks.values():
        own = [_at_its_best(track), *_otherwise(track), *_after_gaps(track)]
        second = int(track.first_s)
        near = [
            *ended.get((track.sequence, second - 1), ()),
            *ended.get((track.sequence, second), ()),
        ]
        if before := _cut_from(track, near):
            why = f"begins where track {before} ended"
            own.append(_moment(track, why, _graded(track, range(min(2, len(track.cursors))))))
        for moment in own:
            if not track.seen.intersection(moment.frames):
                yield moment


def _at_its_best(track: _Track) -> Moment:
    shows, look_of = track.shows, np.array(track.look_of)
    good = (shows >= NEARLY_BEST * shows.max()) & (look_of == look_of[shows.argmax()])
    places = np.flatnonzero(good)
    return Moment(track.number, "at its best", _frames(track, shows, places))


def _otherwise(track: _Track) -> Iterator[Moment]:
    """Where it looks otherwise than where it shows best."""
    shows, look_of = track.shows, np.array(track.look_of)
    for look in set(look_of.tolist()) - {int(look_of[shows.argmax()])}:
        places = np.flatnonzero(look_of == look)
        if len(places) >= LEAST:
            best = places[shows[places] >= NEARLY_BEST * shows[places].max()]
            why = "looks otherwise"
            yield _moment(track, why, _frames(track, shows, best))


def _after_gaps(track: _Track) -> Iterator[Moment]:
    for place, seconds in track.again:
        why = f"found again after {seconds:.1f} s"
        yield _moment(track, why, _graded(track, range(place, min(place + 2, len(track.cursors)))))
    for cursors in track.filled:
        middle = len(cursors) // 2
        frames = {at: 1.0 if n == middle else NEARLY_BEST for n, at in enumerate(cursors)}
        yield _moment(track, "filled in", frames)


def _cut_from(track: _Track, ended: list[_Track]) -> int:
    """The track that ended where this one begins a moment later; 0: none."""
    for other in ended:
        if (
            0 < track.first_s - other.last_s <= LOST_S
            and track.classes & other.classes
            and iou(np.array([other.last_box]), np.array([track.first_box]))[0, 0] >= SAME_PLACE
        ):
            return other.number
    return 0


def _frames(
    track: _Track, shows: NDArray[np.float64], places: NDArray[np.intp]
) -> dict[int, float]:
    """How well it shows at these sightings, beside the best of them."""
    best = max(float(shows[places].max()), 1e-9)
    return {track.cursors[at]: max(float(shows[at]) / best, 1e-3) for at in places.tolist()}


def _graded(track: _Track, places: range) -> dict[int, float]:
    """The first of these sightings, and less the others."""
    return {track.cursors[at]: 1.0 if at == places[0] else NEARLY_BEST for at in places}


def _moment(track: _Track, why: str, frames: dict[int, float]) -> Moment:
    return Moment(track.number, why, frames, OTHERS_WEIGHT)
