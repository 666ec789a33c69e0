"""Everything that a run's models said, decided again by other rules, as a run of its own.

No model is loaded and no image is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.boxes import area
from secondlook.core.class_mapping import Columns, check_questions, columns_for
from secondlook.core.errors import AlreadyExists, BadOntology, InvalidInput, NotFound
from secondlook.core.ontology import ClassSpec, Ontology
from secondlook.core.types import NOT_ASKED, Answer, Boxes, Decision, LabelPath, Outcome, Verdict
from secondlook.labeling.decisions import decide, decide_for_student, in_students_words, in_words
from secondlook.store import Store
from secondlook.store.bulk import (
    Decided,
    Gathered,
    Packed,
    add_decided,
    decided_up_to,
    gather,
    packed_evidence,
)
from secondlook.store.codec import OUTCOMES, asks_of
from secondlook.store.locks import nothing_forgotten
from secondlook.store.ontologies import load_ontology
from secondlook.store.runs import Run, create_run, load_run_by_id

# ``judging.judge`` for many images at once, and the same to the last bit.
#
# One image at a time takes most of a millisecond, nearly all of it in small steps of Python.
# Here the suppression of all images is one piece of array work, and so are the boxes whose
# answers settle them; every other box goes through ``decide.decide`` itself.

_YES, _NO, _OPEN = (OUTCOMES.index(o) for o in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE))
_NO_ANSWER = Answer(None, error=NOT_ASKED)
_PAIRS_AT_ONCE = 1_000_000


class Decider:
    """One ontology and its rules, for evidence that was gathered for ``kept``."""

    def __init__(
        self,
        ontology: Ontology,
        kept: Ontology,
        columns: Columns,
        max_iou: float,
        *,
        verified: bool,
    ) -> None:
        """``verified`` says whether a verifier was in use when the evidence was gathered."""
        self._ontology = ontology
        self._columns = columns
        self._max_iou = max_iou
        self._verified = verified
        known = {ask: place for place, ask in enumerate(asks_of(kept))}
        self._asks = [known.get((s.view, s.question), -1) for s in ontology.classes]

    def decide(self, gathered: Gathered) -> Decided:
        """Every judgement of every image."""
        found = _Found(gathered, self._columns.scores(gathered.scores))
        for members in self._ontology.groups.values():
            boxes = self._candidates(found, members)
            if len(boxes):
                self._judge(found, boxes, members)
        return found.decided()

    def _candidates(self, found: "_Found", members: tuple[int, ...]) -> NDArray[np.intp]:
        """Boxes to be judged for one group, image by image, the best score first."""
        specs = [self._ontology.classes[place] for place in members]
        scores = found.scores[:, list(members)]
        boxes = np.flatnonzero(self._above(specs, scores).any(axis=1))
        best = scores[boxes].max(axis=1, initial=0)
        order = np.lexsort((-best, found.images[boxes]))
        boxes = boxes[order]
        return boxes[_kept(found.gathered.boxes[boxes], found.images[boxes], self._max_iou)]

    def _above(self, specs: list[ClassSpec], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(boxes, members) whether a box is worth judging for a class."""
        return scores >= np.array([spec.threshold for spec in specs], dtype=np.float32)

    def _judge(self, found: "_Found", boxes: NDArray[np.intp], members: tuple[int, ...]) -> None:
        specs = [self._ontology.classes[place] for place in members]
        p_yes = self._answers(found, boxes, members)
        yes = p_yes >= np.array([spec.accept for spec in specs], dtype=np.float64)
        no = p_yes <= np.array([spec.reject for spec in specs], dtype=np.float64)
        outcomes = np.where(yes, _YES, np.where(no, _NO, _OPEN))
        probabilities = p_yes.copy()
        # A box is settled by its answers alone unless one is missing, two sides were answered
        # with yes, or one was and another is open.
        claims, open_ = yes.sum(axis=1), ~(yes | no)
        hard = np.isnan(p_yes).any(axis=1) | (claims > 1) | ((claims > 0) & open_.any(axis=1))
        reasons = [
            self._words(spec, OUTCOMES[outcome], p)
            for of_box, ps in zip(outcomes.tolist(), p_yes.tolist(), strict=True)
            for spec, outcome, p in zip(specs, of_box, ps, strict=True)
        ]
        for at in np.flatnonzero(hard).tolist():
            box = int(boxes[at])
            for side, decision in enumerate(self._decide_box(found, box, members)):
                outcomes[at, side] = OUTCOMES.index(decision.outcome)
                probabilities[at, side] = decision.probability
                reasons[at * len(specs) + side] = decision.reason
        found.add(boxes, members, outcomes, probabilities, reasons)

    def _decide_box(self, found: "_Found", box: int, members: tuple[int, ...]) -> list[Decision]:
        specs = [self._ontology.classes[place] for place in members]
        scores = found.scores[box, list(members)].tolist()
        verdicts = [self._verdict(found.gathered, box, place) for place in members]
        return decide(specs, scores, verdicts)

    def _words(self, spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
        return in_words(spec, outcome, p_yes)

    def _answers(
        self, found: "_Found", boxes: NDArray[np.intp], members: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """(boxes, members) P(yes); NaN where there is none."""
        gathered = found.gathered
        p_yes = np.full((len(boxes), len(members)), np.nan)
        for side, place in enumerate(members):
            if self._verified and self._asks[place] >= 0:
                p_yes[:, side] = gathered.p_yes[boxes, self._asks[place]]
        return p_yes

    def _verdict(self, gathered: Gathered, box: int, place: int) -> Verdict | None:
        """As far as a decision depends on it."""
        if not self._verified:
            return None
        spec, ask = self._ontology.classes[place], self._asks[place]
        p_yes = gathered.p_yes[box, ask] if ask >= 0 else np.nan
        silent = gathered.silent.get((box, ask), _NO_ANSWER)
        answer = silent if np.isnan(p_yes) else Answer(float(p_yes))
        return Verdict(spec.question, spec.view, answer, "", 0.0)


class StudentDecider(Decider):
    """The same for what a student said alone: its scores stand where the answers would."""

    def _above(self, specs: list[ClassSpec], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        return scores > np.array([spec.reject for spec in specs], dtype=np.float64)

    def _answers(
        self, found: "_Found", boxes: NDArray[np.intp], members: tuple[int, ...]
    ) -> NDArray[np.float64]:
        return found.scores[np.ix_(boxes, np.array(members))].astype(np.float64)

    def _words(self, spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
        return in_students_words(spec, outcome, p_yes)

    def _decide_box(self, found: "_Found", box: int, members: tuple[int, ...]) -> list[Decision]:
        specs = [self._ontology.classes[place] for place in members]
        return decide_for_student(specs, found.scores[box, list(members)].tolist())


class _Found:
    """Judgements as they are made, group by group."""

    def __init__(self, gathered: Gathered, scores: NDArray[np.float32]) -> None:
        self.gathered = gathered
        self.scores = scores
        amounts = np.diff(gathered.starts)
        self.images = np.repeat(np.arange(len(gathered)), amounts)
        self._boxes: list[NDArray[np.intp]] = []
        self._classes: list[NDArray[np.intp]] = []
        self._outcomes: list[NDArray[np.intp]] = []
        self._probabilities: list[NDArray[np.float64]] = []
        self._reasons: list[str] = []

    def add(
        self,
        boxes: NDArray[np.intp],
        members: Sequence[int],
        outcomes: NDArray[np.intp],
        probabilities: NDArray[np.float64],
        reasons: list[str],
    ) -> None:
        self._boxes.append(np.repeat(boxes, len(members)))
        self._classes.append(np.tile(np.array(members, dtype=np.intp), len(boxes)))
        self._outcomes.append(outcomes.ravel())
        self._probabilities.append(probabilities.ravel())
        self._reasons += reasons

    def decided(self) -> Decided:
        """All of them, image by image; within one in the order in which they came."""
        nothing = [np.zeros(0, dtype=np.intp)]
        boxes = np.concatenate(nothing + self._boxes)
        order = np.argsort(self.images[boxes], kind="stable")
        boxes = boxes[order]
        images = self.images[boxes]
        starts = np.searchsorted(images, np.arange(len(self.gathered) + 1))
        return Decided(
            starts,
            boxes - self.gathered.starts[images],
            np.concatenate(nothing + self._classes)[order],
            np.concatenate(nothing + self._outcomes)[order],
            np.concatenate([np.zeros(0), *self._probabilities])[order],
            [self._reasons[place] for place in order.tolist()],
        )


def _kept(boxes: Boxes, images: NDArray[np.intp], threshold: float) -> NDArray[np.intp]:
    """``boxes.nms`` inside each image; ``boxes`` come image by image, the best first."""
    alive = [True] * len(boxes)
    for better, worse in _overlapping(boxes, images, threshold):
        if alive[better]:  # settled: every box better than it was looked at before
            alive[worse] = False
    return np.flatnonzero(alive)


def _overlapping(boxes: Boxes, images: NDArray[np.intp], threshold: float) -> list[tuple[int, int]]:
    """Pairs (better, worse) of one image whose IoU is above ``threshold``, the better in order.

    Taken in slices, so that images with very many boxes do not fill the memory.
    """
    ends = np.searchsorted(images, images, side="right")
    behind = ends - np.arange(len(boxes)) - 1
    bounds = np.searchsorted(
        np.cumsum(behind), np.arange(_PAIRS_AT_ONCE, behind.sum(), _PAIRS_AT_ONCE)
    )
    sizes = area(boxes)
    found: list[tuple[int, int]] = []
    for these in np.split(np.arange(len(boxes)), np.unique(bounds)):
        amounts = behind[these]
        first = np.repeat(these, amounts)
        steps = np.arange(len(first)) - np.repeat(np.cumsum(amounts) - amounts, amounts)
        second = first + steps + 1
        low = np.maximum(boxes[first, :2], boxes[second, :2])
        high = np.minimum(boxes[first, 2:], boxes[second, 2:])
        sides = np.clip(high - low, 0, None)
        shared = sides[:, 0] * sides[:, 1]
        union = sizes[first] + sizes[second] - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        over = iou > threshold
        found += zip(first[over].tolist(), second[over].tolist(), strict=True)
    return found


AT_ONCE = 1000
"""Images in one transaction."""


@dataclass
class Redecided:
    """What a run became, so far."""

    run: Run
    images: int = 0
    """Decided in this call."""
    before: int = 0
    """Decided by an earlier call that was stopped."""
    not_asked: int = 0
    """Judgements of this call that are unsure because nobody had asked the question."""


def redecide(
    store: Store,
    parent: str,
    name: str,
    ontology: Ontology,
    max_iou: float | None = None,
    progress: Callable[[Redecided], None] = lambda _: None,
) -> Redecided:
    """Decide every result of the run ``parent`` by ``ontology``, as the run ``name``.

    A call that was stopped goes on where it was when it is made again. ``progress`` is called
    after every thousand images.

    Raises ``NotFound``; ``InvalidInput`` for a run without results; ``BadOntology`` for classes
    that the kept evidence cannot decide; ``AlreadyExists`` when ``name`` is another run; ``Busy``
    while ``forget`` removes results.
    """
    source = store.records.run(parent)
    settings = _settings(source, max_iou)
    _check(store, source, ontology)
    run = _run(store, name, ontology, settings, source)
    with nothing_forgotten(store.database):
        return _decide_all(store, source, run, progress)


def _decide_all(
    store: Store, source: Run, run: Run, progress: Callable[[Redecided], None]
) -> Redecided:
    with store.database.reading() as connection:
        cursor = decided_up_to(connection, run, source)
    told = Redecided(run, before=store.records.count(run.id))
    deciders = _Deciders(store, run)
    while True:
        with store.database.reading() as connection:
            packed = packed_evidence(connection, source.id, cursor, AT_ONCE)
        if not packed:
            return told
        for of_one_kind in _by_kind(packed):
            decided = deciders.decide(of_one_kind)
            with store.database.writing() as connection:
                told.images += add_decided(connection, run, of_one_kind, decided)
            told.not_asked += sum(NOT_ASKED in reason for reason in decided.reasons)
        cursor = packed[-1].cursor
        progress(told)


class _Deciders:
    """One for each ontology that evidence was gathered for; nearly always one in all."""

    def __init__(self, store: Store, run: Run) -> None:
        self._store = store
        self._run = run
        self._known: dict[tuple[int, bool, bool], tuple[Ontology, Decider]] = {}

    def decide(self, packed: list[Packed]) -> Decided:
        """``packed`` are of one kind."""
        kind = _kind(packed[0])
        if kind not in self._known:
            self._known[kind] = self._make(*kind)
        kept, decider = self._known[kind]
        return decider.decide(gather([one.content for one in packed], kept))

    def _make(self, ontology_id: int, verified: bool, by_student: bool) -> tuple[Ontology, Decider]:
        with self._store.database.reading() as connection:
            kept = load_ontology(connection, ontology_id)
        wanted = self._run.ontology
        path = LabelPath.STUDENT if by_student else LabelPath.TEACHERS
        columns, max_iou = columns_for(wanted, kept, path), self._run.max_iou
        if by_student:
            return kept, StudentDecider(wanted, kept, columns, max_iou, verified=False)
        return kept, Decider(wanted, kept, columns, max_iou, verified=verified)


def _by_kind(packed: list[Packed]) -> list[list[Packed]]:
    """Neighbours that one decider can take; the order stays."""
    return [list(members) for _, members in groupby(packed, key=_kind)]


def _kind(packed: Packed) -> tuple[int, bool, bool]:
    return packed.ontology_id, packed.verified, packed.path is LabelPath.STUDENT


def _settings(parent: Run, max_iou: float | None) -> dict[str, Any]:
    if max_iou is not None and not 0 <= max_iou <= 1:
        raise InvalidInput(f"expected an overlap (max_iou) between 0 and 1, got {max_iou}")
    return {**parent.settings, "max_iou": parent.max_iou if max_iou is None else max_iou}


def _check(store: Store, parent: Run, ontology: Ontology) -> None:
    """Refuse what the kept evidence cannot decide, before a run is made."""
    if not parent.proposer:
        raise InvalidInput(f"run '{parent.name}' has no results yet; wait for its first ones")
    asked_by = parent
    with store.database.reading() as connection:
        while asked_by.parent_id is not None:
            asked_by = load_run_by_id(connection, asked_by.parent_id)
    columns = columns_for(ontology, asked_by.ontology)
    if asked_by.verifier or asked_by.settings.get("cascade"):
        check_questions(ontology, asked_by.ontology)
    floor = float(parent.settings.get("floor", 0.0))
    for spec, places in zip(ontology.classes, columns.places, strict=True):
        before = min(asked_by.ontology.classes[place].threshold for place in places)
        if spec.threshold < min(floor, before):
            raise BadOntology(
                f"class '{spec.name}': the threshold {spec.threshold:g} is below {floor:g}, and "
                "lower scores were not kept (--floor of the labelling run); raise the threshold"
            )


def _run(
    store: Store, name: str, ontology: Ontology, settings: Mapping[str, Any], parent: Run
) -> Run:
    """The run to write to: a new one, or the same one that a call before began."""
    try:
        known = store.records.run(name)
    except NotFound:
        with store.database.writing() as connection:
            return create_run(connection, name, "redecide", ontology, settings, parent)
    same = (known.kind, known.parent_id, known.ontology) == ("redecide", parent.id, ontology)
    if same and known.settings == settings:
        return known
    raise AlreadyExists(
        f"there is a run '{name}' already, and it was decided otherwise; choose another name"
    )


# An ontology with other thresholds, or fewer classes.

EVERY = ""
"""Stands for every class that is not named itself."""


def adjusted(
    ontology: Ontology, changes: Mapping[str, Mapping[str, float]], only: Sequence[str] = ()
) -> Ontology:
    """``ontology`` with other numbers.

    ``changes`` are values by class name (or ``EVERY``) by field: ``threshold``, ``accept``,
    ``reject``. ``only`` keeps these classes; a contrast group of which one is left is none any
    more. Raises ``BadOntology`` for an unknown class or numbers that contradict each other.
    """
    for name in [*only, *(name for values in changes.values() for name in values)]:
        if name != EVERY and name not in ontology.names:
            known = ", ".join(f"'{known}'" for known in ontology.names[:10])
            raise BadOntology(f"there is no class '{name}' in that run; it has {known}")
    specs = [
        replace(
            spec,
            **{f: v.get(spec.name, v.get(EVERY, getattr(spec, f))) for f, v in changes.items()},
        )
        for spec in ontology.classes
        if not only or spec.name in only
    ]
    groups = [spec.group for spec in specs]
    return Ontology(tuple(replace(s, group="") if groups.count(s.group) == 1 else s for s in specs))
