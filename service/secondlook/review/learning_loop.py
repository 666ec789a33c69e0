"""The learning loop: choose images, ask people about them, train a student, measure it, decide.

    HOLD_OUT      the held-out scenes are chosen, once; never selected, never trained on
    ASK_HELD_OUT  people say what is on them
    SELECT        images of the rest, by a strategy of ``selection``
    ASK           people answer the boxes of these, in a review queue of the round
    FREEZE        a snapshot of all labels, with what people said
    TRAIN         a student learns the snapshot
    MEASURE       its mAP50 on the held-out images, with an interval
    DECIDE        stop by one of the rules, or begin the next round

Each phase takes a record and returns the next one, which is written as a whole before the next
phase begins. A phase that was killed is done again and finds what it had made: queues, answers,
snapshots and students have names that follow from loop and round, so nothing is there twice.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from secondlook.datasets.manifest import Entry
from secondlook.datasets.query import Query
from secondlook.datasets.readers.stored_snapshot import read_stored_snapshot
from secondlook.datasets.samples import Sample, TrainingSet
from secondlook.datasets.snapshot import create_snapshot
from secondlook.datasets.splits import group_images
from secondlook.detector.detections import Detections
from secondlook.evaluation.map_interval import map_interval
from secondlook.review.image_pool import RunPool
from secondlook.review.loop_record import (
    LabelUse,
    LoopPlan,
    LoopRecord,
    Round,
    StopRules,
    cost_of,
    write_record,
)
from secondlook.review.oracle import PERSON, Oracle
from secondlook.selection.choices import Strategy
from secondlook.selection.strategies import choose_images
from secondlook.store import Store
from secondlook.store.results import Result
from secondlook.store.reviews import QueueItem
from secondlook.store.runs import Run
from secondlook_client.errors import AlreadyExists, Cancelled, InvalidInput, NotFound
from secondlook_client.values import (
    BACKGROUND,
    EmptyReason,
    GroupBy,
    NewReview,
    Outcome,
    ReviewAnswer,
    ReviewQueue,
)

PAGE, AT_ONCE = 200, 100
"""Results, and items of a queue, at a time."""
HELD_OUT = "held out"
COMMITTEE = 4
"""Students of the last rounds that vote."""
EVERY_EMPTY = tuple(EmptyReason)


class Phase(StrEnum):
    """What is to be done next."""

    HOLD_OUT = "choosing the held-out images"
    ASK_HELD_OUT = "asking about the held-out images"
    SELECT = "choosing images"
    ASK = "asking"
    FREEZE = "freezing the labels"
    TRAIN = "training"
    MEASURE = "measuring"
    DECIDE = "deciding"


class LoopModels(Protocol):
    """What a loop does with models; all of it may be called again after a crash."""

    def pool(
        self, strategy: Strategy, students: Sequence[str], left_out: Collection[str]
    ) -> RunPool:
        """The images that may be chosen, with what ``strategy`` needs to know of them.

        ``students`` are the folders of rounds before, relative to the loop, the newest last.
        ``left_out`` as in ``read_pool``; what people reviewed is not chosen in any case.
        """
        ...

    def train(self, number: int, data: TrainingSet) -> str:
        """Train the student of a round; its folder, relative to the loop."""
        ...

    def detect(self, student: str, samples: Sequence[Sample]) -> list[Detections]:
        """What a student finds on each sample, of the classes of the run."""
        ...


@dataclass(frozen=True)
class LoopStatus:
    """How a loop stands after it was advanced."""

    record: LoopRecord
    waiting: ReviewQueue | None = None
    """The queue that people must answer before it goes on."""


class LearningLoop:
    """A loop in a folder, over a run of a store. One process at a time."""

    def __init__(
        self,
        store: Store,
        data: Path,
        file: Path,
        models: LoopModels,
        oracle: Oracle | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """``data`` is the folder of the store, ``file`` the loop's record; ``oracle`` answers
        instead of a person; ``tell`` is told what is done, ``stopped`` asked whether to go on."""
        self._store, self._data, self._file = store, data, file
        self._models, self._oracle = models, oracle
        self._tell, self._stopped = tell, stopped

    def advance(self, record: LoopRecord, rules: StopRules) -> LoopStatus:
        """Go on until a rule of ``rules`` stops the loop, or people are to answer.

        A loop that was stopped goes on where the rules no longer say so. Raises what the phases
        raise, and ``Cancelled`` where it was stopped; what was done before is kept.
        """
        if record.stopped:
            record = self._keep(self._decided(replace(record, stopped=""), rules))
        while not record.stopped:
            self._go_on()
            phase = phase_of(record)
            self._tell(f"round {len(record.rounds)}: {phase}" if record.rounds else str(phase))
            if phase in (Phase.ASK, Phase.ASK_HELD_OUT):
                waiting = self._ask(record)
                if waiting:
                    return LoopStatus(record, waiting)
                record = self._keep(self._answered(record))
            elif phase is Phase.DECIDE:
                record = self._keep(self._decided(record, rules))
            else:
                record = self._keep(_PHASES[phase](self, record))
        return LoopStatus(record)

    def _go_on(self) -> None:
        if self._stopped():
            raise Cancelled("the loop was stopped; what is done is kept")

    def _keep(self, record: LoopRecord) -> LoopRecord:
        write_record(self._file, record)
        return record

    def _hold_out(self, record: LoopRecord) -> LoopRecord:
        results = [*_results(self._store, self._run(record))]
        chosen = held_out_of(self._store, results, record.plan)
        return replace(record, held_out=tuple(sorted(chosen)))

    def _select(self, record: LoopRecord) -> LoopRecord:
        plan, number = record.plan, len(record.rounds)
        before = [one.student for one in record.rounds if one.student]
        students = before[-COMMITTEE:]
        strategy = strategy_of(plan.strategy, students)
        pool = self._models.pool(strategy, students, self._left_out(record))
        if not pool.images:
            return replace(
                record, rounds=record.rounds[:-1], stopped="every image has been asked about"
            )
        seed = plan.seed * 1_000 + number
        chosen = choose_images(pool.pool, strategy, plan.batch, measure=plan.measure, seed=seed)
        images = tuple(pool.images[one.place].sha256 for one in chosen.chosen)
        reasons = tuple(one.reason for one in chosen.chosen)
        return record.with_last(images=images, reasons=reasons, strategy=strategy.value)

    def _left_out(self, record: LoopRecord) -> frozenset[str]:
        """What is not to be chosen, and is unlike what people reviewed: the held-out images, and
        those chosen before on which there was nothing to ask."""
        chosen = (image for one in record.rounds for image in one.images)
        unasked = (image for image in chosen if not self._store.reviews.of_image(image))
        return frozenset(record.held_out).union(unasked)

    def _ask(self, record: LoopRecord) -> ReviewQueue | None:
        """Make the queue of the phase, and let the oracle answer it; what is left to people."""
        name = queue_name(record.plan.name, len(record.rounds))
        results = self._results_of(record, record.asked_now)
        queue = self._queue(name, record.plan.run, results)
        if self._oracle:
            self._answer(record, results, self._oracle)
            queue = self._store.reviews.queue(name) if queue else None
        return queue if queue and queue.answered < queue.total else None

    def _queue(self, name: str, run: str, results: Sequence[Result]) -> ReviewQueue | None:
        """The queue of that name; None where there is nothing to ask about."""
        items = [item for result in results for item in items_of(result)]
        try:
            return self._store.reviews.queue(name)
        except NotFound:
            if not items:
                return None
        try:
            return self._store.reviews.create_queue(name, run, items, "loop")
        except AlreadyExists:  # a process that made it was killed half way
            self._store.reviews.delete_queue(name)
            return self._store.reviews.create_queue(name, run, items, "loop")

    def _answer(self, record: LoopRecord, results: Sequence[Result], oracle: Oracle) -> None:
        """Answer a queue, then add what its images lack; an image is completed at one go."""
        name = queue_name(record.plan.name, len(record.rounds))
        reviews, judged = self._store.reviews, {one.cursor: one for one in results}
        asked = any(items_of(one) for one in results)
        while asked and (items := reviews.next(name, PERSON, AT_ONCE)):
            self._go_on()
            for item in items:
                cursor = int(item.label_id.partition(".")[0])
                said = oracle.answer(item, judged[cursor].labelled.judgements, correct=True)
                reviews.answer(item.id, PERSON, said.answer, said.reason, new_box=said.new_box)
        for result in results:
            now = self._store.results.outcome(self._run(record).id, result.key)
            if isinstance(now, Result) and not now.labelled.complete:
                reviews.add([*_missing(oracle, result, now)])

    def _answered(self, record: LoopRecord) -> LoopRecord:
        said = [r for sha in record.asked_now for r in self._store.reviews.of_image(sha)]
        cost = cost_of(said, record.plan, timed=self._oracle is None)
        if not record.rounds:
            return replace(record, held_out_cost=cost, rounds=(Round(1),))
        return record.with_last(cost=cost)

    def _freeze(self, record: LoopRecord) -> LoopRecord:
        name = queue_name(record.plan.name, len(record.rounds))
        query = Query(runs=(record.plan.run,), empty=EVERY_EMPTY, hard_negatives=True)
        try:
            self._store.snapshots.get(name)
        except NotFound:
            create_snapshot(self._store, name, query)
        return record.with_last(snapshot=name)

    def _train(self, record: LoopRecord) -> LoopRecord:
        data = self._training_set(record)
        return record.with_last(student=self._models.train(len(record.rounds), data))

    def _measure(self, record: LoopRecord) -> LoopRecord:
        data = self._training_set(record)
        found = self._models.detect(record.last.student, data.held_out)
        measured = map_interval(data.held_out, found, len(data.classes), record.plan.seed)
        return record.with_last(measured=measured)

    def _decided(self, record: LoopRecord, rules: StopRules) -> LoopRecord:
        why = rules.reason(record)
        if why:
            return replace(record, stopped=why)
        return replace(record, rounds=(*record.rounds, Round(len(record.rounds) + 1)))

    def _training_set(self, record: LoopRecord) -> TrainingSet:
        """What the newest round learns, and what it is measured on."""
        held_out, reviewed = frozenset(record.held_out), record.reviewed
        every = record.plan.labels is LabelUse.ALL

        def split_of(entry: Entry) -> str:
            if entry.is_empty and entry.empty not in BACKGROUND:
                return ""  # nothing was proposed and nobody looked: an object may have been missed
            if entry.sha256 in held_out:
                return HELD_OUT
            return "train" if every or entry.sha256 in reviewed else ""

        read = read_stored_snapshot(self._store, self._data, record.last.snapshot, split_of)
        train, measured = (read.samples.get(one, ()) for one in ("train", HELD_OUT))
        for what, samples in (
            ("that a student would learn", train),
            ("that is held out", measured),
        ):
            if not any(len(one.boxes) for one in samples):
                raise InvalidInput(
                    f"no image {what} has a label, so no student can be trained and measured; ask "
                    "about more images in another loop (--batch, --held-out), or accept more"
                )
        return TrainingSet(
            read.name,
            read.classes,
            train,
            measured,
            HELD_OUT,
            digest_of_images(read.digest, train),
            read.ontology,
            read.warnings,
        )

    def _run(self, record: LoopRecord) -> Run:
        return self._store.results.run(record.plan.run)

    def _results_of(self, record: LoopRecord, images: Collection[str]) -> list[Result]:
        """As the run decided them, in its order."""
        wanted = frozenset(images)
        every = _results(self._store, self._run(record))
        return [one for one in every if one.labelled.sha256 in wanted]


_PHASES: Mapping[Phase, Callable[[LearningLoop, LoopRecord], LoopRecord]] = {
    Phase.HOLD_OUT: LearningLoop._hold_out,
    Phase.SELECT: LearningLoop._select,
    Phase.FREEZE: LearningLoop._freeze,
    Phase.TRAIN: LearningLoop._train,
    Phase.MEASURE: LearningLoop._measure,
}


def phase_of(record: LoopRecord) -> Phase:
    """What a loop that is not stopped does next."""
    if not record.held_out:
        return Phase.HOLD_OUT
    if not record.rounds:
        return Phase.ASK_HELD_OUT
    last = record.last
    if not last.images:
        return Phase.SELECT
    if last.cost is None:
        return Phase.ASK
    if not last.snapshot:
        return Phase.FREEZE
    if not last.student:
        return Phase.TRAIN
    return Phase.MEASURE if last.measured is None else Phase.DECIDE


def queue_name(loop: str, number: int) -> str:
    """The queue of a round, and its snapshot; 0 is that of the held-out images."""
    return f"{loop}-round-{number}" if number else f"{loop}-held-out"


def strategy_of(wanted: Strategy, students: Sequence[str]) -> Strategy:
    """What chooses the images of a round: without a student yet, nothing can be asked of one."""
    if wanted is Strategy.EXPECTED_CHANGE and not students:
        return Strategy.MIXED
    return wanted


def items_of(result: Result) -> list[QueueItem]:
    """What people are asked about an image: its labels and unsure boxes."""
    return [
        QueueItem(
            result.cursor, place, one.class_name, one.box, one.probability, one.outcome, "loop"
        )
        for place, one in enumerate(result.labelled.judgements)
        if one.outcome is not Outcome.REJECT and not one.whole_image
    ]


def held_out_of(store: Store, results: Sequence[Result], plan: LoopPlan) -> frozenset[str]:
    """SHA-256 of about ``plan.held_out`` images: whole scenes, drawn at random.

    Raises ``InvalidInput`` where nothing would be left to choose from.
    """
    unique = {one.labelled.sha256: one for one in results}
    if len(unique) < plan.held_out + plan.batch:
        raise InvalidInput(
            f"there are {len(unique):,} images, and {plan.held_out:,} are to be held out and "
            f"{plan.batch:,} asked about in each round; ask for fewer"
        )
    scenes: dict[str, list[str]] = {}
    for sha256, scene in zip(unique, _scenes(store, [*unique.values()], plan), strict=True):
        scenes.setdefault(scene, []).append(sha256)
    names = sorted(scenes)
    chosen: list[str] = []
    for place in np.random.default_rng(plan.seed).permutation(len(names)).tolist():
        images = scenes[names[place]]
        # A scene as large as most of the pool would leave nothing to learn from.
        if len(chosen) + len(images) <= max(plan.held_out, 1) * 3 // 2:
            chosen += images
        if len(chosen) >= plan.held_out:
            return frozenset(chosen)
    raise InvalidInput(
        f"the {len(unique):,} images are {len(scenes):,} scenes, of which none is divided, so no "
        f"{plan.held_out:,} can be held out; ask for fewer, or call fewer images one scene with "
        "--group-by similarity"
    )


def _scenes(store: Store, results: Sequence[Result], plan: LoopPlan) -> list[str]:
    """The scene of each image."""
    facts = store.snapshots.facts(one.image_id for one in results)
    folders: dict[str, list[int]] = {}
    if plan.group_by is GroupBy.FOLDER:
        for place, one in enumerate(results):
            folder = f"folder:{PurePosixPath(one.labelled.name).parent}"
            folders.setdefault(folder, []).append(place)
    hashes = [facts[one.image_id].perceptual_hash for one in results]
    return group_images([one.labelled.sha256 for one in results], hashes, folders)


def digest_of_images(snapshot: str, samples: Sequence[Sample]) -> str:
    """Of a snapshot of which only some images are learnt."""
    names = sorted(one.sha256 for one in samples)
    return hashlib.sha256("\n".join([snapshot, *names]).encode()).hexdigest()


def _missing(oracle: Oracle, decided: Result, now: Result) -> Iterator[NewReview]:
    """The objects that no box of an image marks, and that nothing else is missing."""
    seen = oracle.review(decided.labelled.result, oracle.classes, current=now.labelled.result)
    for one in seen:
        if one.answer is ReviewAnswer.MISSING:
            yield one
    yield NewReview(decided.labelled.sha256, "", None, ReviewAnswer.COMPLETE, person=PERSON)


def _results(store: Store, run: Run) -> Iterator[Result]:
    """The results of a run as it decided them."""
    after = 0
    while page := store.results.page(run.id, after, PAGE, reviewed=False):
        after = page[-1].cursor
        yield from page
