"""Tracks of a finished run: its boxes joined through the frames, its objects asked about once or
a few times, and every frame decided by the answers, as a run of its own.

The run that it starts from has every proposal and no answer (``UnaskedPipeline``). Tracks follow
from those alone, so a call that was stopped finds the same ones again, whatever it had written.

1. ``FrameOrder`` puts the results into the order of their videos, or of folders of images.
2. ``_Tracks`` numbers the objects that are worth a question, and chooses where each shows best.
3. ``_TrackAnswers`` asks the verifier there, and again about what stays in doubt.
4. ``_Gaps`` finds where a track was lost for a moment.
5. ``_decided`` judges each frame by its own proposals and the answers of its tracks.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import iou
from secondlook.core.files import text_to_name
from secondlook.core.frame_names import DEFAULT_FPS, frame_address, sequence_of, time_text
from secondlook.core.images import decode
from secondlook.core.types import YES, Evidence, Labelled, Proposals
from secondlook.jobs.answer_log import AnswerLog, BoxQuestion
from secondlook.labeling.appearance import appearances
from secondlook.labeling.decisions import FILLED, UNASKED, box_of, judge
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.proposer import Candidate, candidates
from secondlook.labeling.rejoining import TrackNumbers
from secondlook.labeling.tracks import (
    MAX_LOOKS,
    KeyframeChooser,
    SequenceTracker,
    Sighting,
    is_settled,
    leading_boxes,
    least_score,
    pooled,
    quality,
    tracked_rows,
)
from secondlook.labeling.verifier import VerificationRequest, verify
from secondlook.store import Store
from secondlook.store.locks import deletion_blocked
from secondlook.store.results import Result
from secondlook.store.runs import Run, create_run
from secondlook_client.errors import BadSetting, NotFound
from secondlook_client.values import Answer, Judgement, Verdict, View

PAGE = 128
"""Frames read, or written in one transaction, at a time."""
ASKED_AT_ONCE = 8
"""Frames whose boxes are shown to the verifier together."""
FILL_S = 1.0
"""Longest time between two sightings of an object for which it gets a box."""
_OTHER_BOX = Answer(None, error=f"{UNASKED}another box stands for its object")
_OTHER_CLASS = Answer(None, error=f"{UNASKED}its track is of another class")
_TOO_BRIEF = Answer(None, error=f"{UNASKED}its object was seen for less than a second or so")
Questions = dict[int, tuple[Sighting, tuple[int, ...]]]
"""By track, where to look, and the places of the classes that are asked about."""


@dataclass(frozen=True)
class TrackedRun:
    """A run with tracks."""

    run: Run
    tracks: int
    """Objects, each counted once however many frames show it."""
    frames: int
    looks: int
    """Boxes that the verifier was shown."""


class TrackProgress:
    """How many frames were read, asked about and written, of how many."""

    def __init__(
        self,
        step: Callable[[int, int], None] = lambda done, total: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """``step`` is told (done, total); ``stopped`` is asked every hundred frames or so."""
        self._step, self._stopped = step, stopped
        self._done = self._total = 0

    def expect(self, frames: int) -> None:
        """There are so many more to do."""
        self._total += frames

    def advance(self, frames: int) -> None:
        """So many more are done. Raises ``TrackingStopped``."""
        if self._stopped():
            raise TrackingStopped
        self._done += frames
        self._step(self._done, self._total)


class TrackingStopped(Exception):
    """``TrackProgress.stopped`` said so; what was written is kept."""


def track_run(
    store: Store,
    pipeline: Pipeline,
    parent: str,
    keys: Collection[int],
    fps: float,
    log: AnswerLog,
    progress: TrackProgress | None = None,
    fill_gaps: bool = False,
) -> TrackedRun:
    """Track the objects of the run ``parent``, and decide each of its frames as another run.

    Only images with one of ``keys`` are frames: what was replaced is still in the run. ``pipeline``
    has the models that ``parent`` was made with. ``fps`` is the rate of frames that do
    not say their time, images of a folder; 0: 5 a second. With ``fill_gaps`` an object that was
    not found for a moment has an unsure box meanwhile. Called again after it was stopped, it
    goes on: nothing is asked twice that is in ``log``, and what was written stays. The same frames
    are the same run; with others there may be other tracks, so they are a run of their own. Raises
    ``TrackingStopped``, ``MissingExtra``, ``NotFound``, ``Damaged``, ``Busy`` and ``StorageFull``.
    """
    progress = progress or TrackProgress()
    source = store.results.run(parent)
    wanted = frozenset(keys)
    names = ((at, name) for at, key, name in store.results.names(source.id) if key in wanted)
    order = FrameOrder.of(names, fps or DEFAULT_FPS)
    what = f"{order.digest}{' filled' if fill_gaps else ''}"
    run = _run_to_write(store, source, f"{parent[-180:]} tracks {what}".strip())
    progress.expect(3 * len(order))
    with deletion_blocked(store.database):
        tracks = _Tracks.of(_frames(store, order, progress), order, source, store)
        chooser, gaps = KeyframeChooser(), _Gaps(order)
        for at, frame in _frames(store, order, progress):
            _choose(chooser, float(order.at_s[at]), at, frame.labelled, tracks, source)
            if fill_gaps:
                gaps.add(at, frame.labelled.evidence.proposals, tracks.leading(at))
        answers = _TrackAnswers(store, pipeline, source, order, log)
        answers.ask(chooser, progress)
        for page in _pages(_frames(store, order, progress)):
            decided = [
                (one, _decided(one, at, tracks, answers, gaps.of_frame(at))) for at, one in page
            ]
            _write(store, run, decided)
    return TrackedRun(run, tracks.count, len(order), answers.looks)


def _run_to_write(store: Store, source: Run, name: str) -> Run:
    try:
        return store.results.run(name)
    except NotFound:
        settings = {**source.settings, "tracks": True}
        with store.database.writing() as connection:
            return create_run(connection, name, "redecide", source.ontology, settings, source)


@dataclass(frozen=True, eq=False)
class FrameOrder:
    """The results of a run, sequence by sequence, each in the order in which it was taken."""

    cursors: NDArray[np.int64]
    """(N,) of the results."""
    at_s: NDArray[np.float64]
    """(N,) seconds since the first frame of the sequence, ascending within each."""
    starts: tuple[int, ...]
    """Places at which a sequence begins, and N."""

    def __len__(self) -> int:
        return len(self.cursors)

    @classmethod
    def of(cls, names: Iterable[tuple[int, str]], fps: float) -> "FrameOrder":
        """``names``: (cursor, name of the image) of each result; no two names are equal. ``fps`` >
        0: of images that do not say their time."""
        cursors, times, of_sequence = array("q"), array("q"), array("q")
        known: dict[str, int] = {}
        untimed: list[tuple[str, int]] = []
        for cursor, text in names:
            name = text_to_name(text)
            address = frame_address(name)
            if address is None:
                untimed.append((name, len(cursors)))
            cursors.append(cursor)
            times.append(address.ms if address else 0)
            of_sequence.append(known.setdefault(sequence_of(name), len(known)))
        for rank, (_, place) in enumerate(sorted(untimed)):
            times[place] = rank
        return cls._sorted(cursors, times, of_sequence, known, fps)

    @classmethod
    def _sorted(
        cls,
        cursors: "array[int]",
        times: "array[int]",
        of_sequence: "array[int]",
        known: Mapping[str, int],
        fps: float,
    ) -> "FrameOrder":
        """``known``: by name of a sequence the number that it has in ``of_sequence``."""
        sequences = sorted(known)
        ranks = np.empty(len(sequences), np.int64)
        ranks[[known[name] for name in sequences]] = np.arange(len(sequences))
        rank = ranks[np.array(of_sequence, np.int64)]
        order = np.lexsort((np.array(times, np.int64), rank))
        at_s = np.array(times, np.float64)[order] / 1000
        starts = np.searchsorted(rank[order], np.arange(len(sequences) + 1)).tolist()
        for name, (begin, end) in zip(sequences, pairwise(starts), strict=True):
            if name.endswith("/"):  # a folder, whose images say no time
                at_s[begin:end] = np.arange(end - begin) / fps
        return cls(np.array(cursors, np.int64)[order], at_s, tuple(starts))

    @property
    def digest(self) -> str:
        """Of the frames and their times, eight hex digits."""
        content = self.cursors.tobytes() + self.at_s.tobytes()
        return blake2b(content, digest_size=4).hexdigest()

    def fps(self, begin: int, end: int) -> float:
        """The usual number of frames a second between two places."""
        gaps = np.diff(self.at_s[begin:end])
        return 1 / float(np.median(gaps)) if len(gaps) else DEFAULT_FPS


def _frames(
    store: Store, order: FrameOrder, progress: TrackProgress
) -> Iterator[tuple[int, Result]]:
    """(place, result) of every frame in order. Raises ``TrackingStopped``."""
    for start in range(0, len(order), PAGE):
        cursors = order.cursors[start : start + PAGE].tolist()
        yield from enumerate(store.results.decided_many(cursors), start)
        progress.advance(len(cursors))


def _pages(frames: Iterator[tuple[int, Result]]) -> Iterator[list[tuple[int, Result]]]:
    page: list[tuple[int, Result]] = []
    for frame in frames:
        page.append(frame)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def _candidates(evidence: Evidence, run: Run) -> list[Candidate]:
    return candidates(evidence.proposals, run.ontology, run.nms_iou)


class _Tracks:
    """The tracks of a run, some ten bytes a box."""

    def __init__(self) -> None:
        self.count = 0
        """Tracks that are worth a question."""
        self._starts = array("Q", [0])
        """Where the boxes of each frame begin in the arrays below."""
        self._rows, self._tracks, self._scores = array("I"), array("I"), array("f")

    @classmethod
    def of(
        cls, frames: Iterator[tuple[int, Result]], order: FrameOrder, run: Run, store: Store
    ) -> "_Tracks":
        """Of every frame of ``run``, in order."""
        tracks = cls()
        for begin, end in pairwise(order.starts):
            fps = order.fps(begin, end)
            tracker = SequenceTracker(fps)
            for at, frame in islice(frames, end - begin):
                tracks._add(float(order.at_s[at]), frame.labelled, run, tracker, store)
            tracks._finish(
                begin, order.at_s[begin:end], tracker.numbers, least_score(fps, end - begin)
            )
        return tracks

    def _add(
        self, at_s: float, labelled: Labelled, run: Run, tracker: SequenceTracker, store: Store
    ) -> None:
        proposals = labelled.evidence.proposals
        rows = tracked_rows(_candidates(labelled.evidence, run))
        boxes, scores = proposals.boxes[rows], proposals.scores[rows].max(axis=1, initial=0)
        leads = leading_boxes(boxes, scores, run.duplicate_iou)
        own = np.flatnonzero(leads == np.arange(len(rows)))
        looks = np.zeros((0, 0), np.float32)
        if len(own):
            # What the store holds was decoded within bounds before it was labelled.
            image = decode(store.blobs.get(labelled.sha256), labelled.name)
            looks = appearances(image.pixels, boxes[own])
        classes = proposals.scores[rows[own]].argmax(axis=1) if len(own) else own
        numbers = np.zeros(len(rows), np.int64)
        numbers[own] = tracker.update(at_s, boxes[own], classes, looks)
        self._rows.extend(rows.tolist())
        self._tracks.extend(numbers[leads].tolist())
        self._scores.extend(np.where(leads == np.arange(len(rows)), scores, 0.0).tolist())
        self._starts.append(len(self._rows))

    def _finish(
        self, begin: int, at_s: NDArray[np.float64], numbers: TrackNumbers, least: float
    ) -> None:
        """Give the objects of the sequence that begins at ``begin`` their numbers, those that are
        worth a question from ``count`` on, the others 0."""
        total: dict[int, float] = defaultdict(float)
        for at, seconds in enumerate(at_s.tolist(), begin):
            for place in range(self._starts[at], self._starts[at + 1]):
                self._tracks[place] = number = numbers.final(self._tracks[place], seconds)
                total[number] += self._scores[place]
        known: dict[int, int] = {}
        for place in range(self._starts[begin], self._starts[begin + len(at_s)]):
            number = self._tracks[place]
            if total[number] < least:
                self._tracks[place] = 0
            else:
                self._tracks[place] = known.setdefault(number, self.count + 1 + len(known))
        self.count += len(known)

    def of_frame(self, at: int) -> dict[int, int]:
        """By row of the frame's proposals, the number of its track; 0: not worth a question."""
        begin, end = self._starts[at], self._starts[at + 1]
        return dict(zip(self._rows[begin:end], self._tracks[begin:end], strict=True))

    def leading(self, at: int) -> dict[int, int]:
        """The same for the boxes that stand for an object that is worth a question."""
        begin, end = self._starts[at], self._starts[at + 1]
        places = (place for place in range(begin, end) if self._tracks[place] * self._scores[place])
        return {self._rows[place]: self._tracks[place] for place in places}


def _choose(
    chooser: KeyframeChooser, at_s: float, at: int, labelled: Labelled, tracks: _Tracks, run: Run
) -> None:
    """Tell where the objects of a frame show."""
    proposals, track_of = labelled.evidence.proposals, tracks.leading(at)
    size = labelled.width, labelled.height
    for candidate in _candidates(labelled.evidence, run):
        if track := track_of.get(candidate.row):
            score = float(proposals.scores[candidate.row, list(candidate.classes)].max())
            shows = quality(box_of(proposals, candidate.row), score, size)
            chooser.add(at_s, track, candidate.classes, Sighting(at, candidate.row, shows))


@dataclass(frozen=True, eq=False)
class _Filled:
    """Where an object should be in a frame in which it was not found."""

    track: int
    box: NDArray[np.float32]
    """(4,) pixel xyxy."""
    scores: NDArray[np.float32]
    """(C,) of its classes."""
    why: str


class _Gaps:
    """Boxes between two sightings of a track that are at most ``FILL_S`` apart."""

    def __init__(self, order: FrameOrder) -> None:
        self._order = order
        self._last: dict[int, tuple[int, NDArray[np.float32], NDArray[np.float32]]] = {}
        """By track that was seen a moment ago: frame, box and scores."""
        self._of_frame: dict[int, list[_Filled]] = {}

    def add(self, at: int, proposals: Proposals, track_of: Mapping[int, int]) -> None:
        """The next frame, in order."""
        at_s = self._order.at_s
        boxes, scores = proposals.boxes, proposals.scores
        seen = {track: (at, boxes[row], scores[row]) for row, track in track_of.items()}
        for track, (_, box, scores) in seen.items():
            if track in self._last:
                self._fill(track, self._last[track], (at, box, scores))
        self._last = {
            track: last
            for track, last in (self._last | seen).items()
            if 0 <= at_s[at] - at_s[last[0]] <= FILL_S
        }

    def _fill(
        self,
        track: int,
        before: tuple[int, NDArray[np.float32], NDArray[np.float32]],
        after: tuple[int, NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        (first, box, scores), (last, next_box, next_scores) = before, after
        at_s = self._order.at_s
        ends = " and ".join(time_text(round(1000 * at_s[at])) for at in (first, last))
        for at in range(first + 1, last):
            share = np.float32((at_s[at] - at_s[first]) / (at_s[last] - at_s[first]))
            there = _Filled(
                track,
                box + share * (next_box - box),
                np.minimum(scores, next_scores),
                f"{FILLED}{ends}: nothing was found here",
            )
            self._of_frame.setdefault(at, []).append(there)

    def of_frame(self, at: int) -> list[_Filled]:
        """What is missing in a frame."""
        return self._of_frame.get(at, [])


@dataclass
class _TrackAnswers:
    """What the verifier says of each track."""

    store: Store
    pipeline: Pipeline
    run: Run
    """Whose frames are asked about."""
    order: FrameOrder
    log: AnswerLog
    looks: int = 0
    given: dict[tuple[int, int], list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    """By (track, class), at most ``MAX_LOOKS``."""
    seen: dict[tuple[int, int, int], Verdict] = field(default_factory=dict)
    """By (place of the frame, row, class), what was asked in it."""

    def ask(self, chooser: KeyframeChooser, progress: TrackProgress) -> None:
        """Ask about every track, and again about what stays in doubt."""
        for number in range(MAX_LOOKS):
            wanted: Questions = {}
            for track, seen in chooser.look(number).items():
                classes = chooser.classes(track)
                if doubtful := tuple(one for one in classes if not self._is_settled(track, one)):
                    wanted[track] = seen, doubtful
            self._ask(wanted, progress)

    def _is_settled(self, track: int, place: int) -> bool:
        return bool(self.given[track, place]) and is_settled(self.answer(track, place))

    def answer(self, track: int, place: int) -> Answer:
        """On the class at ``place``, of all looks at a track."""
        return pooled([verdict.answer for verdict in self.given[track, place]])

    def is_yes(self, track: int, place: int) -> bool:
        """Whether the track is rather of the class than not."""
        given = self.given.get((track, place))
        return bool(given) and (self.answer(track, place).p_yes or 0.0) > YES

    def _ask(self, wanted: Questions, progress: TrackProgress) -> None:
        by_frame: dict[int, Questions] = defaultdict(dict)
        for track, (seen, classes) in wanted.items():
            by_frame[seen.frame][track] = seen, classes
        places = sorted(by_frame)
        progress.expect(len(places))
        for start in range(0, len(places), ASKED_AT_ONCE):
            some = places[start : start + ASKED_AT_ONCE]
            self._ask_about({at: by_frame[at] for at in some})
            progress.advance(len(some))

    def _ask_about(self, by_frame: Mapping[int, Questions]) -> None:
        frames = self.store.results.decided_many(self.order.cursors[list(by_frame)].tolist())
        requests: list[VerificationRequest] = []
        about: list[tuple[int, int, int, list[int]]] = []
        for (at, questions), frame in zip(by_frame.items(), frames, strict=True):
            labelled = frame.labelled
            # What the store holds was decoded within bounds before it was labelled.
            image = decode(self.store.blobs.get(labelled.sha256), labelled.name)
            for track, (seen, classes) in questions.items():
                box = box_of(labelled.evidence.proposals, seen.row)
                for view, places in self._by_view(classes).items():
                    texts = tuple(self.run.ontology.classes[place].question for place in places)
                    requests.append(VerificationRequest(image, box, view, texts))
                    about.append((at, seen.row, track, places))
        for (at, row, track, places), verdicts in zip(
            about, self._verdicts(about, requests), strict=True
        ):
            for place, verdict in zip(places, verdicts, strict=True):
                self.given[track, place].append(verdict)
                self.seen[at, row, place] = verdict

    def _verdicts(
        self,
        about: Sequence[tuple[int, int, int, list[int]]],
        requests: Sequence[VerificationRequest],
    ) -> list[tuple[Verdict, ...]]:
        """Of each request, from the log or from the verifier."""
        pipeline = self.pipeline
        if pipeline.verifier is None:
            raise BadSetting("tracks are asked about, and --verifier is none; name one")
        keys = [
            [
                BoxQuestion(int(self.order.cursors[at]), row, one.view, text)
                for text in one.questions
            ]
            for (at, row, _, _), one in zip(about, requests, strict=True)
        ]
        known = [self.log.known(of_request) for of_request in keys]
        open_ = [place for place, verdicts in enumerate(known) if verdicts is None]
        asked = [requests[place] for place in open_]
        found = verify(pipeline.verifier, asked, pipeline.cache, pipeline.observe_answers)
        self.looks += len(requests)
        for place, verdicts in zip(open_, found, strict=True):
            known[place] = verdicts
        self.log.add(
            [pair for place in open_ for pair in zip(keys[place], known[place] or (), strict=True)]
        )
        return [verdicts or () for verdicts in known]

    def _by_view(self, classes: Sequence[int]) -> dict[View, list[int]]:
        by_view: dict[View, list[int]] = defaultdict(list)
        for place in classes:
            by_view[self.run.ontology.classes[place].view].append(place)
        return by_view


def _decided(
    frame: Result, at: int, tracks: _Tracks, answers: _TrackAnswers, missing: Sequence[_Filled]
) -> Labelled:
    """A frame as its tracks were answered."""
    labelled, run, pipeline = frame.labelled, answers.run, answers.pipeline
    track_of, places = tracks.of_frame(at), {name: i for i, name in enumerate(run.ontology.names)}
    evidence, filled = _with_filled(labelled.evidence, answers, missing)
    verdicts = {}
    for candidate in _candidates(evidence, run):
        for place in candidate.classes:
            row = candidate.row
            if row in filled:
                verdict = _of_filled(answers, filled[row], place)
            else:
                verdict = _verdict(answers, at, row, track_of[row], place)
            verdicts[row, verdict.view, verdict.question] = verdict
    of_rows = {row: track for row, track in track_of.items() if track}
    of_rows |= {row: one.track for row, one in filled.items()}
    evidence = replace(evidence, verdicts=verdicts, tracks=of_rows)
    judgements = judge(
        evidence,
        run.ontology,
        run.nms_iou,
        pipeline.calibrator_for(run.ontology),
        (labelled.width, labelled.height),
        run.duplicate_iou,
    )
    told = [
        one
        if not one.track or one.error or (at, one.row, places[one.class_name]) in answers.seen
        else _by_track(one)
        for one in judgements
    ]
    return replace(labelled, judgements=tuple(told), evidence=evidence)


def _with_filled(
    evidence: Evidence, answers: _TrackAnswers, missing: Sequence[_Filled]
) -> tuple[Evidence, dict[int, _Filled]]:
    """``evidence`` with the boxes that are ``missing`` where no other box is, for the classes that
    their tracks are of, and those boxes by their rows."""
    proposals, boxes = evidence.proposals, evidence.proposals.boxes
    wanted: list[tuple[_Filled, list[bool]]] = []
    for one in sorted(missing, key=lambda one: -float(one.scores.max())):
        yes = [answers.is_yes(one.track, place) for place in range(len(one.scores))]
        if any(yes) and not (iou(one.box[None], boxes) > answers.run.duplicate_iou).any():
            boxes = np.concatenate([boxes, one.box[None]])
            wanted.append((one, yes))
    if not wanted:
        return evidence, {}
    of_filled = (np.where(yes, one.scores, np.float32(0))[None] for one, yes in wanted)
    scores = np.concatenate([proposals.scores, *of_filled])
    rows = {len(proposals) + place: one for place, (one, _) in enumerate(wanted)}
    return replace(evidence, proposals=Proposals(boxes, scores)), rows


def _of_filled(answers: _TrackAnswers, filled: _Filled, place: int) -> Verdict:
    """Nobody found such a box, so no answer on its track makes it a label, whatever the limits."""
    spec, yes = answers.run.ontology.classes[place], answers.is_yes(filled.track, place)
    answer = Answer(None, error=filled.why) if yes else _OTHER_CLASS
    return Verdict(spec.question, spec.view, answer, answers.pipeline.models[1], 0.0, cached=True)


def _verdict(answers: _TrackAnswers, at: int, row: int, track: int, place: int) -> Verdict:
    """The answers on a track as the verdict on one of its boxes."""
    if not answers.given.get((track, place)):
        spec, why = answers.run.ontology.classes[place], _OTHER_BOX if track else _TOO_BRIEF
        return Verdict(spec.question, spec.view, why, answers.pipeline.models[1], 0.0)
    asked, answer = answers.seen.get((at, row, place)), answers.answer(track, place)
    if asked is None:
        return replace(answers.given[track, place][0], answer=answer, ms=0.0, cached=True)
    return replace(asked, answer=answer)


def _by_track(judgement: Judgement) -> Judgement:
    """With the reason of a box that was not asked about itself."""
    decision = judgement.decision
    reason = f"{UNASKED}{decision.reason} by the answers on track {judgement.track}"
    return replace(judgement, decision=replace(decision, reason=reason))


def _write(store: Store, run: Run, decided: Sequence[tuple[Result, Labelled]]) -> None:
    results = [(frame.item_id, frame.image_id, labelled) for frame, labelled in decided]
    with store.database.writing() as connection:
        store.results.add(connection, run, results)
