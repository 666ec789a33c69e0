"""Tracks of a finished run: its boxes joined through the frames, its objects asked about once or
twice, and every frame decided by the answers, as a run of its own.

The run that it starts from has every proposal and no answer (``UnaskedPipeline``). Tracks follow
from those alone, so a call that was stopped finds the same ones again, whatever it had written.

1. ``FrameOrder`` puts the results into the order of their videos, or of folders of images.
2. ``_Tracks`` numbers the objects, and chooses where each shows best.
3. ``_TrackAnswers`` asks the verifier there, and once more about what stays in doubt.
4. ``_decided`` judges each frame by its own proposals and the answers of its tracks.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from secondlook.core.files import text_to_name
from secondlook.core.frame_names import DEFAULT_FPS, frame_address, sequence_of
from secondlook.core.images import decode
from secondlook.core.types import Evidence, Labelled
from secondlook.jobs.answer_log import AnswerLog, BoxQuestion
from secondlook.labeling.decisions import UNASKED, box_of, judge
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.proposer import Candidate, candidates
from secondlook.labeling.tracks import (
    KeyframeChooser,
    SequenceTracker,
    Sighting,
    is_settled,
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
) -> TrackedRun:
    """Track the objects of the run ``parent``, and decide each of its frames as another run.

    Only images with one of ``keys`` are frames: what was replaced is still in the run. ``pipeline``
    has the models that ``parent`` was made with. ``fps`` is the rate of frames that do
    not say their time, images of a folder; 0: 5 a second. Called again after it was stopped, it
    goes on: nothing is asked twice that is in ``log``, and what was written stays. The same frames
    are the same run; with others there may be other tracks, so they are a run of their own. Raises
    ``TrackingStopped``, ``MissingExtra``, ``NotFound``, ``Damaged``, ``Busy`` and ``StorageFull``.
    """
    progress = progress or TrackProgress()
    source = store.results.run(parent)
    wanted = frozenset(keys)
    names = ((at, name) for at, key, name in store.results.names(source.id) if key in wanted)
    order = FrameOrder.of(names, fps or DEFAULT_FPS)
    run = _run_to_write(store, source, f"{parent[-180:]} tracks {order.digest}".strip())
    progress.expect(2 * len(order))
    with deletion_blocked(store.database):
        tracks = _Tracks.of(_frames(store, order, progress), order, source)
        answers = _TrackAnswers(store, pipeline, source, order, log)
        answers.ask(tracks.chooser, progress)
        for page in _pages(_frames(store, order, progress)):
            _write(store, run, [(one, _decided(one, at, tracks, answers)) for at, one in page])
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
    """The tracks of a run, and where each shows best; some hundred bytes a frame."""

    def __init__(self, frames: int) -> None:
        self.count = 0
        self.chooser = KeyframeChooser()
        self._of_frame: list[NDArray[np.uint32]] = [_NONE] * frames
        """By place of the frame, (B, 2) row and track."""

    @classmethod
    def of(cls, frames: Iterator[tuple[int, Result]], order: FrameOrder, run: Run) -> "_Tracks":
        """Of every frame of ``run``, in order."""
        tracks = cls(len(order))
        ends = iter(pairwise(order.starts))
        tracker, end = None, 0
        for at, frame in frames:
            if tracker is None or at >= end:
                begin, end = next(ends)
                tracker = SequenceTracker(order.fps(begin, end), tracks.count + 1)
            tracks._add(at, float(order.at_s[at]), frame.labelled, run, tracker)
        return tracks

    def _add(
        self, at: int, at_s: float, labelled: Labelled, run: Run, tracker: SequenceTracker
    ) -> None:
        proposals = labelled.evidence.proposals
        found = _candidates(labelled.evidence, run)
        rows = tracked_rows(found)
        classes = proposals.scores[rows].argmax(axis=1) if len(rows) else rows
        numbers = tracker.update(at_s, proposals.boxes[rows], classes)
        self.count = tracker.next_number - 1
        if len(rows):
            self._of_frame[at] = np.stack([rows, numbers], axis=1).astype(np.uint32)
        track_of = self.of_frame(at)
        size = labelled.width, labelled.height
        for candidate in found:
            score = float(proposals.scores[candidate.row, list(candidate.classes)].max())
            shows = quality(box_of(proposals, candidate.row), score, size)
            seen = Sighting(at, candidate.row, shows)
            self.chooser.add(at_s, track_of[candidate.row], candidate.classes, seen)

    def of_frame(self, at: int) -> dict[int, int]:
        """By row of the frame's proposals, the number of its track."""
        return dict(self._of_frame[at].tolist())


_NONE = np.zeros((0, 2), np.uint32)


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
    """By (track, class), at most two."""
    seen: dict[tuple[int, int, int], Verdict] = field(default_factory=dict)
    """By (place of the frame, row, class), what was asked in it."""

    def ask(self, chooser: KeyframeChooser, progress: TrackProgress) -> None:
        """Ask about every track, and of what stays in doubt a second time."""
        first = chooser.look(0)
        self._ask(
            {track: (seen, chooser.classes(track)) for track, seen in first.items()}, progress
        )
        again: Questions = {}
        for track, seen in chooser.look(1).items():
            open_ = (
                one for one in chooser.classes(track) if not is_settled(self.answer(track, one))
            )
            if doubtful := tuple(open_):
                again[track] = seen, doubtful
        self._ask(again, progress)

    def answer(self, track: int, place: int) -> Answer:
        """On the class at ``place``, of all looks at a track."""
        return pooled([verdict.answer for verdict in self.given[track, place]])

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


def _decided(frame: Result, at: int, tracks: _Tracks, answers: _TrackAnswers) -> Labelled:
    """A frame as its tracks were answered."""
    labelled, run, pipeline = frame.labelled, answers.run, answers.pipeline
    track_of, places = tracks.of_frame(at), {name: i for i, name in enumerate(run.ontology.names)}
    verdicts = {}
    for candidate in _candidates(labelled.evidence, run):
        for place in candidate.classes:
            verdict = _verdict(answers, at, candidate.row, track_of[candidate.row], place)
            verdicts[candidate.row, verdict.view, verdict.question] = verdict
    evidence = replace(labelled.evidence, verdicts=verdicts, tracks=track_of)
    judgements = judge(
        evidence,
        run.ontology,
        run.nms_iou,
        pipeline.calibrator_for(run.ontology),
        (labelled.width, labelled.height),
        run.duplicate_iou,
    )
    told = [
        one if (at, one.row, places[one.class_name]) in answers.seen else _by_track(one)
        for one in judgements
    ]
    return replace(labelled, judgements=tuple(told), evidence=evidence)


def _verdict(answers: _TrackAnswers, at: int, row: int, track: int, place: int) -> Verdict:
    """The answers on a track as the verdict on one of its boxes."""
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
