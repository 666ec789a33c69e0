"""Decide every result of a run again, by other thresholds, classes or rules, as a new run.

No model is loaded and no image is read: the scores and answers of a run are all stored.
``BatchDecider`` is ``labeling.decisions.judge`` for many images at once, with the same results to
the last bit. One image at a time takes most of a millisecond, nearly all of it in small steps of
Python; here the suppression of all images is one piece of array work, and so are the boxes whose
answers settle them. Every other box goes through ``labeling.decisions.decide`` itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secondlook.config.settings import PipelineSettings
from secondlook.core.boxes import pair_iou, pairs_within
from secondlook.core.class_mapping import ColumnMapping, check_questions, columns_for
from secondlook.core.types import NOT_ASKED, NOT_ASKED_OF_IMAGE, Boxes
from secondlook.labeling.box_features import ScoredBoxes, box_features
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.decisions import (
    calibrated_reason,
    decide,
    decide_for_student,
    doubt_of_image,
    in_force,
    student_reason,
    unasked_reason,
    verdict_reason,
)
from secondlook.labeling.duplicates import duplicate_reason, find_duplicates
from secondlook.labeling.outlines import find_outline, with_told
from secondlook.labeling.verify_budget import ALL, ASKED, KnownPairs, budget_in_force, budgeted
from secondlook.store import Store
from secondlook.store.bulk import (
    DecisionBatch,
    EvidenceBatch,
    PackedEvidence,
    add_decisions,
    packed_evidence,
    redecided_up_to,
    unpack_many,
)
from secondlook.store.codec import OUTCOMES, WHOLE_IMAGE_ROW, questions_of, taken_of_mask
from secondlook.store.locks import deletion_blocked
from secondlook.store.ontologies import load_ontology
from secondlook.store.runs import Run, create_run, source_run
from secondlook_client.errors import AlreadyExists, BadOntology, InvalidInput, NotFound
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Answer, Decision, LabelPath, Outcome, Verdict

BATCH = 1000
"""Images decided in one transaction."""
EVERY_CLASS = ""
"""Stands for every class that is not named itself, in ``adjusted_ontology``."""
_YES, _NO, _OPEN = (OUTCOMES.index(o) for o in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE))
_NO_ANSWER = Answer(None, error=NOT_ASKED)


@dataclass
class RedecideProgress:
    """How far the new run is."""

    run: Run
    images: int = 0
    """Decided in this call."""
    before: int = 0
    """Decided by an earlier call that was stopped."""
    not_asked: int = 0
    """Judgements of this call that are unsure because their question was not asked."""


def redecide(
    store: Store,
    parent: str,
    name: str,
    ontology: Ontology,
    nms_iou: float | None = None,
    progress: Callable[[RedecideProgress], None] = lambda _: None,
    *,
    duplicate_iou: float | None = None,
    calibrator: Calibrator | Literal[""] | None = None,
) -> RedecideProgress:
    """Decide every result of the run ``parent`` by ``ontology``, as the run ``name``.

    What is None is as in ``parent``; with the ``calibrator`` "" there is none, and the verifier's
    answers decide. A call that was interrupted continues where it was when it is repeated.
    ``progress`` is called after every thousand images.

    Raises ``NotFound``; ``InvalidInput`` for a run without results; ``BadOntology`` for classes
    that the stored evidence cannot decide; ``InvalidInput`` or ``BadSetting`` for a calibrator of
    other classes or models; ``AlreadyExists`` when ``name`` is another run; ``Busy`` while
    ``forget`` removes results.
    """
    source = store.results.run(parent)
    if calibrator is None:
        calibrator = run_calibrator(store, source) or ""
    settings = {
        # What is decided here is no longer under the guarantee of a job.
        **{key: value for key, value in source.settings.items() if key != "guarantee"},
        "nms_iou": _overlap("nms_iou", source.nms_iou if nms_iou is None else nms_iou),
        "duplicate_iou": _overlap(
            "duplicate_iou", source.duplicate_iou if duplicate_iou is None else duplicate_iou
        ),
        "calibrator": calibrator and calibrator.digest,
    }
    _check(store, source, ontology)
    if calibrator:
        own = calibrator.proposer, calibrator.verifier  # where only a student has labelled so far
        calibrator.check(ontology, *(source.proposer, source.verifier) if source.named else own)
        store.calibrators.put(calibrator)
    taken = "decided by other rules; choose another name"
    run = run_to_write(store, name, ontology, settings, source, taken)
    with deletion_blocked(store.database):
        return _decide_all(store, source, run, progress)


def _decide_all(
    store: Store, source: Run, run: Run, progress: Callable[[RedecideProgress], None]
) -> RedecideProgress:
    with store.database.reading() as connection:
        cursor = redecided_up_to(connection, run, source)
    done = RedecideProgress(run, before=store.results.count(run.id))
    deciders = _Deciders(store, run, run_calibrator(store, run))
    while True:
        with store.database.reading() as connection:
            packed = packed_evidence(connection, source.id, cursor, BATCH)
        if not packed:
            return done
        for of_one_kind in _by_kind(packed):
            decided = deciders.decide(of_one_kind)
            with store.database.writing() as connection:
                done.images += add_decisions(connection, run, of_one_kind, decided)
            done.not_asked += sum(
                NOT_ASKED in reason or NOT_ASKED_OF_IMAGE in reason for reason in decided.reasons
            )
        cursor = packed[-1].cursor
        progress(done)


def decisions_on(
    store: Store,
    source: Run,
    run: Run,
    calibrator: Calibrator | None,
    after: int = 0,
    *,
    with_reasons: bool = True,
) -> Iterator[tuple[list[PackedEvidence], DecisionBatch]]:
    """What ``run`` would decide on the results of ``source`` behind the cursor ``after``, some
    hundred images at a time.

    Without reasons, which take a third of the time, those of most judgements are empty. Nothing is
    written. ``run`` need not be in the store, nor ``calibrator``, which counts instead
    of the one that the settings of ``run`` name. Raises ``Damaged``.
    """
    deciders = _Deciders(store, run, calibrator, with_reasons)
    while True:
        with store.database.reading() as connection:
            packed = packed_evidence(connection, source.id, after, BATCH)
        if not packed:
            return
        for of_one_kind in _by_kind(packed):
            yield of_one_kind, deciders.decide(of_one_kind)
        after = packed[-1].cursor


class _Deciders:
    """A decider for each kind of evidence; nearly always there is only one."""

    def __init__(
        self, store: Store, run: Run, calibrator: Calibrator | None, with_reasons: bool = True
    ) -> None:
        self._with_reasons = with_reasons
        self._store = store
        self._run = run
        self._calibrator = calibrator
        self._known: dict[tuple[int, bool, bool], tuple[Ontology, BatchDecider]] = {}

    def decide(self, packed: list[PackedEvidence]) -> DecisionBatch:
        """``packed`` are all of one kind."""
        kind = _kind(packed[0])
        if kind not in self._known:
            self._known[kind] = self._make(*kind)
        kept, decider = self._known[kind]
        sizes = np.array([one.size for one in packed], dtype=np.float32)
        return decider.decide(unpack_many([one.content for one in packed], kept, sizes))

    def _make(
        self, ontology_id: int, verified: bool, by_student: bool
    ) -> "tuple[Ontology, BatchDecider]":
        with self._store.database.reading() as connection:
            kept = load_ontology(connection, ontology_id)
        wanted = self._run.ontology
        path = LabelPath.STUDENT if by_student else LabelPath.TEACHERS
        columns, nms_iou = columns_for(wanted, kept, path), self._run.nms_iou
        if by_student:
            return kept, StudentBatchDecider(wanted, kept, columns, nms_iou, verified=False)
        return kept, BatchDecider(
            wanted,
            kept,
            columns,
            nms_iou,
            verified=verified,
            duplicate_iou=self._run.duplicate_iou,
            calibrator=self._calibrator,
            verify_budget=self._run.verify_budget,
            with_reasons=self._with_reasons,
        )


def run_calibrator(store: Store, run: Run) -> Calibrator | None:
    """The calibrator whose probabilities ``run`` decides by; None: it has none.

    Raises ``NotFound`` and ``Damaged``.
    """
    return store.calibrators.get(run.calibrator) if run.calibrator else None


def _by_kind(packed: list[PackedEvidence]) -> list[list[PackedEvidence]]:
    """Consecutive images that one decider can take, in the same order."""
    return [list(members) for _, members in groupby(packed, key=_kind)]


def _kind(packed: PackedEvidence) -> tuple[int, bool, bool]:
    return packed.ontology_id, packed.verified, packed.path is LabelPath.STUDENT


def _overlap(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InvalidInput(f"expected an overlap ({name}) between 0 and 1, got {value}")
    return value


def _check(store: Store, parent: Run, ontology: Ontology) -> None:
    """Refuse what the stored evidence cannot decide, before a run is created."""
    if not parent.proposer:
        raise InvalidInput(f"run '{parent.name}' has no results yet; wait for its first ones")
    with store.database.reading() as connection:
        asked_by = source_run(connection, parent)
    columns = columns_for(ontology, asked_by.ontology)
    if asked_by.verifier or asked_by.settings.get("cascade"):
        check_questions(ontology, asked_by.ontology)
    floor = float(parent.settings.get("score_floor", 0.0))
    for spec, places in zip(ontology.classes, columns.places, strict=True):
        before = min(asked_by.ontology.classes[place].threshold for place in places)
        if spec.threshold < min(floor, before):
            raise BadOntology(
                f"class '{spec.name}': the threshold {spec.threshold:g} is below {floor:g}, and "
                "lower scores were not kept (--score-floor of the labelling run); raise the "
                "threshold"
            )


def run_to_write(
    store: Store,
    name: str,
    ontology: Ontology,
    settings: Mapping[str, Any],
    parent: Run,
    taken: str,
) -> Run:
    """The run to write to: a new one, or the one that an earlier call created.

    Raises ``AlreadyExists`` for another run of that name; ``taken`` says what it is, and the way
    out.
    """
    try:
        known = store.results.run(name)
    except NotFound:
        with store.database.writing() as connection:
            return create_run(connection, name, "redecide", ontology, settings, parent)
    same = (known.kind, known.parent_id, known.ontology) == ("redecide", parent.id, ontology)
    if same and known.settings == settings:
        return known
    raise AlreadyExists(f"there is a run '{name}' already, {taken}")


def adjusted_ontology(
    ontology: Ontology, changes: Mapping[str, Mapping[str, float]], only: Sequence[str] = ()
) -> Ontology:
    """``ontology`` with other thresholds, or fewer classes.

    ``changes`` maps a field (``threshold``, ``accept``, ``reject``) to its values by class name or
    ``EVERY_CLASS``. ``only`` keeps these classes; a class that is left alone in its contrast group
    leaves the group. Raises ``BadOntology`` for an unknown class or contradicting thresholds.
    """
    for name in [*only, *(name for values in changes.values() for name in values)]:
        if name != EVERY_CLASS and name not in ontology.names:
            known = ", ".join(f"'{known}'" for known in ontology.names[:10])
            raise BadOntology(f"there is no class '{name}' in that run; it has {known}")
    specs = [
        replace(
            spec,
            **{
                f: v.get(spec.name, v.get(EVERY_CLASS, getattr(spec, f)))
                for f, v in changes.items()
            },
        )
        for spec in ontology.classes
        if not only or spec.name in only
    ]
    groups = [spec.group for spec in specs]
    return Ontology(tuple(replace(s, group="") if groups.count(s.group) == 1 else s for s in specs))


class BatchDecider:
    """Decides by ``ontology`` what was gathered for the ontology ``kept``."""

    def __init__(
        self,
        ontology: Ontology,
        kept: Ontology,
        columns: ColumnMapping,
        nms_iou: float,
        *,
        verified: bool,
        duplicate_iou: float = PipelineSettings.duplicate_iou,
        calibrator: Calibrator | None = None,
        verify_budget: str = ALL,
        with_reasons: bool = True,
    ) -> None:
        """``verified`` says whether a verifier was in use when the evidence was gathered. Without
        reasons only those that are rare are there."""
        self._with_reasons = with_reasons
        self._budget = budget_in_force(calibrator, verify_budget) if verified else None
        self._ontology = in_force(ontology, calibrator)
        self._calibrator = calibrator
        self._duplicate_iou = duplicate_iou
        self._columns = columns
        self._nms_iou = nms_iou
        self._verified = verified
        known = {question: place for place, question in enumerate(questions_of(kept))}
        self._questions = [known.get((s.view, s.question), -1) for s in ontology.classes]

    def decide(self, evidence: EvidenceBatch) -> DecisionBatch:
        """Every judgement of every image."""
        found = _Found(evidence, self._columns.scores(evidence.scores))
        groups = [
            _Group(members, boxes)
            for members in self._ontology.groups.values()
            if len(boxes := self._candidates(found, members))
        ]
        for group in self._calibrated(found, groups) if self._calibrator and groups else groups:
            self._judge(found, group)
        decided = self._without_duplicates(found.batch(), found)
        decided = self._with_doubts_of_images(decided, evidence)
        return self._with_outlines(decided, evidence) if evidence.masks else decided

    def _calibrated(self, found: "_Found", groups: "list[_Group]") -> "list[_Group]":
        """``groups`` with the calibrator's probabilities: one computation for all of them."""
        evidence, calibrator = found.evidence, self._calibrator
        if calibrator is None or evidence.sizes is None:
            raise ValueError("a calibrator needs the sizes of the images")
        every = np.arange(len(evidence.boxes))
        p_yes = self._answers(found, every, range(len(self._ontology.classes)))
        scored = ScoredBoxes(evidence.starts, evidence.sizes, evidence.boxes, found.scores, p_yes)
        boxes = np.concatenate([group.flat_boxes for group in groups])
        classes = np.concatenate([group.flat_classes for group in groups])
        known = self._known(calibrator, evidence, scored, (boxes, classes))
        ends = np.cumsum([len(group.flat_boxes) for group in groups])[:-1]
        parts = zip(np.split(known.probabilities, ends), np.split(known.how, ends), strict=True)
        return [
            replace(
                group,
                calibrated=probabilities.reshape(len(group.boxes), -1),
                how=how.reshape(len(group.boxes), -1),
            )
            for group, (probabilities, how) in zip(groups, parts, strict=True)
        ]

    def _known(
        self,
        calibrator: Calibrator,
        evidence: EvidenceBatch,
        scored: ScoredBoxes,
        pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    ) -> KnownPairs:
        """By what each pair (its box, its class) is decided."""
        boxes, classes = pairs
        if not self._budget:
            features = box_features(scored, self._ontology, boxes, classes)
            known = calibrator.probabilities(features, np.array(self._ontology.names)[classes])
            return KnownPairs(known, np.full(len(known), ASKED, dtype=np.int8))
        asked = np.isfinite(scored.p_yes[boxes, classes])
        questions = np.array(self._questions)[classes]
        keys = zip(boxes.tolist(), questions.tolist(), strict=True)
        asked |= np.array([key in evidence.abstentions for key in keys], dtype=bool)
        return budgeted(calibrator, self._budget, self._ontology, scored, pairs, asked)

    def _without_duplicates(self, decided: DecisionBatch, found: "_Found") -> DecisionBatch:
        """The same as the one-image code of ``labeling.decisions`` does, for all images at once."""
        labels = np.flatnonzero(decided.outcomes == _YES)
        images = np.repeat(np.arange(len(decided)), np.diff(decided.starts))[labels]
        boxes = found.evidence.starts[images] + decided.rows[labels]
        classes = decided.classes[labels]
        group_of = np.zeros(len(self._ontology.classes), dtype=np.intp)
        for number, members in enumerate(self._ontology.groups.values()):
            group_of[list(members)] = number
        duplicates = find_duplicates(
            found.evidence.boxes[boxes],
            images * len(group_of) + group_of[classes],
            decided.probabilities[labels],
            found.scores[boxes, classes].astype(np.float64),
            self._duplicate_iou,
        )
        outcomes, probabilities = decided.outcomes.copy(), decided.probabilities.copy()
        reasons = list(decided.reasons)
        worse, better = labels[duplicates.removed], labels[duplicates.kept]
        for at, by, iou in zip(
            worse.tolist(), better.tolist(), duplicates.iou.tolist(), strict=True
        ):
            name = self._ontology.names[decided.classes[by]]
            told = float(decided.probabilities[by])
            reasons[at] = duplicate_reason(name, told, iou, decided.reasons[at])
        outcomes[worse], probabilities[worse] = _NO, 0.0
        return replace(decided, outcomes=outcomes, probabilities=probabilities, reasons=reasons)

    def _with_doubts_of_images(
        self, decided: DecisionBatch, evidence: EvidenceBatch
    ) -> DecisionBatch:
        """``decided``, and of images without a label or unsure box what their verdicts leave open.

        The same as the one-image code of ``labeling.decisions`` does: few images were asked about.
        """
        found: list[tuple[int, int, Decision]] = []
        for image, verdicts in evidence.images.items():
            start, end = decided.starts[image : image + 2]
            if (decided.outcomes[start:end] != _NO).any():
                continue
            for place, spec in enumerate(self._ontology.classes):
                if doubt := doubt_of_image(spec, verdicts.verdict(spec.presence_question)):
                    found.append((image, place, doubt))
        if not found:
            return decided
        images = np.array([image for image, _, _ in found])
        at = decided.starts[images + 1]
        doubts = [doubt for _, _, doubt in found]
        reasons = np.insert(np.array(decided.reasons, dtype=object), at, [d.reason for d in doubts])
        added = np.bincount(images, minlength=len(decided))
        return DecisionBatch(
            decided.starts + np.concatenate([[0], np.cumsum(added)]),
            np.insert(decided.rows, at, WHOLE_IMAGE_ROW),
            np.insert(decided.classes, at, [place for _, place, _ in found]),
            np.insert(decided.outcomes, at, _OPEN),
            np.insert(decided.probabilities, at, [doubt.probability for doubt in doubts]),
            reasons.tolist(),
        )

    def _with_outlines(self, decided: DecisionBatch, evidence: EvidenceBatch) -> DecisionBatch:
        """``decided`` with what each judgement takes of its mask, as ``labeling.outlines`` does."""
        outlines, reasons = np.zeros(len(decided.rows), dtype=np.uint8), list(decided.reasons)
        for image, masks in evidence.masks.items():
            for at in range(*decided.starts[image : image + 2].tolist()):
                row = int(decided.rows[at])
                if row == WHOLE_IMAGE_ROW:
                    continue
                x1, y1, x2, y2 = evidence.boxes[evidence.starts[image] + row].tolist()
                spec = self._ontology.classes[decided.classes[at]]
                outline = find_outline(
                    spec,
                    (x1, y1, x2, y2),
                    bool(decided.outcomes[at] == _YES),
                    masks.segmentations.get(row),
                    masks.unsegmented.get(row, ""),
                )
                reasons[at] = with_told(reasons[at], outline.told)
                outlines[at] = taken_of_mask(outline.segmentation, outline.box, spec)
        return replace(decided, reasons=reasons, outlines=outlines)

    def _candidates(self, found: "_Found", members: tuple[int, ...]) -> NDArray[np.intp]:
        """Boxes to be judged for one contrast group, image by image, the best score first."""
        specs = [self._ontology.classes[place] for place in members]
        scores = found.scores[:, list(members)]
        boxes = np.flatnonzero(self._above(specs, scores).any(axis=1))
        best = scores[boxes].max(axis=1, initial=0)
        order = np.lexsort((-best, found.images[boxes]))
        boxes = boxes[order]
        return boxes[_kept(found.evidence.boxes[boxes], found.images[boxes], self._nms_iou)]

    def _above(self, specs: list[ClassSpec], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(boxes, members) whether a box is judged for a class."""
        return scores >= np.array([spec.threshold for spec in specs], dtype=np.float32)

    def _judge(self, found: "_Found", group: "_Group") -> None:
        specs = [self._ontology.classes[place] for place in group.members]
        p_yes = self._answers(found, group.boxes, group.members)
        known = p_yes
        if group.calibrated is not None:
            unanswered = np.isnan(p_yes) & self._verified & (group.how == ASKED)
            known = np.where(unanswered, np.nan, group.calibrated)
        yes = known >= np.array([spec.accept for spec in specs], dtype=np.float64)
        no = known <= np.array([spec.reject for spec in specs], dtype=np.float64)
        outcomes = np.where(yes, _YES, np.where(no, _NO, _OPEN))
        probabilities = known.copy()
        # The probabilities alone settle a box unless one is missing, two classes of the group
        # reach their limits, or one does and another is between them.
        claims, open_ = yes.sum(axis=1), ~(yes | no)
        hard = np.isnan(known).any(axis=1) | (claims > 1) | ((claims > 0) & open_.any(axis=1))
        reasons = self._reasons(specs, outcomes, known, p_yes)
        if group.how is not None:
            for at, side in np.argwhere(group.how != ASKED).tolist():
                outcome, p = OUTCOMES[outcomes[at, side]], float(known[at, side])
                told = unasked_reason(specs, side, outcome, p, int(group.how[at, side]))
                reasons[at * len(specs) + side] = told
        for at in np.flatnonzero(hard).tolist():
            for side, decision in enumerate(self._decide_box(found, group, at)):
                outcomes[at, side] = OUTCOMES.index(decision.outcome)
                probabilities[at, side] = decision.probability
                reasons[at * len(specs) + side] = decision.reason
        found.add(group, outcomes, probabilities, reasons)

    def _reasons(
        self,
        specs: list[ClassSpec],
        outcomes: NDArray[np.intp],
        known: NDArray[np.float64],
        p_yes: NDArray[np.float64],
    ) -> list[str]:
        """Why each side of each box has its outcome, box by box; all are (boxes, sides)."""
        if not self._with_reasons:
            return [""] * outcomes.size
        rows = zip(outcomes.tolist(), known.tolist(), strict=True)
        if not self._calibrator:
            return [
                self._words(spec, OUTCOMES[outcome], p)
                for of_box, ps in rows
                for spec, outcome, p in zip(specs, of_box, ps, strict=True)
            ]
        return [
            calibrated_reason(spec, OUTCOMES[outcome], p, None if answer != answer else answer)
            for (of_box, ps), said in zip(rows, p_yes.tolist(), strict=True)
            for spec, outcome, p, answer in zip(specs, of_box, ps, said, strict=True)
        ]

    def _decide_box(self, found: "_Found", group: "_Group", at: int) -> list[Decision]:
        specs = [self._ontology.classes[place] for place in group.members]
        box = int(group.boxes[at])
        scores = found.scores[box, list(group.members)].tolist()
        verdicts = [self._verdict(found.evidence, box, place) for place in group.members]
        if group.calibrated is None or group.how is None:
            return decide(specs, scores, verdicts)
        known = zip(group.calibrated[at].tolist(), group.how[at].tolist(), strict=True)
        return decide(specs, scores, verdicts, list(known))

    def _words(self, spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
        return verdict_reason(spec, outcome, p_yes)

    def _answers(
        self, found: "_Found", boxes: NDArray[np.intp], members: Sequence[int]
    ) -> NDArray[np.float64]:
        """(boxes, members) P(yes); NaN where there is none."""
        evidence = found.evidence
        p_yes = np.full((len(boxes), len(members)), np.nan)
        for side, place in enumerate(members):
            if self._verified and self._questions[place] >= 0:
                p_yes[:, side] = evidence.p_yes[boxes, self._questions[place]]
        return p_yes

    def _verdict(self, evidence: EvidenceBatch, box: int, place: int) -> Verdict | None:
        """The parts of the verdict that a decision depends on."""
        if not self._verified:
            return None
        spec, question = self._ontology.classes[place], self._questions[place]
        p_yes = evidence.p_yes[box, question] if question >= 0 else np.nan
        no_answer = evidence.abstentions.get((box, question), _NO_ANSWER)
        answer = no_answer if np.isnan(p_yes) else Answer(float(p_yes))
        return Verdict(spec.question, spec.view, answer, "", 0.0)


class StudentBatchDecider(BatchDecider):
    """The same for labels of a student alone: its scores take the place of the answers."""

    def _above(self, specs: list[ClassSpec], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        return scores > np.array([spec.reject for spec in specs], dtype=np.float64)

    def _answers(
        self, found: "_Found", boxes: NDArray[np.intp], members: Sequence[int]
    ) -> NDArray[np.float64]:
        return found.scores[np.ix_(boxes, np.array(members))].astype(np.float64)

    def _words(self, spec: ClassSpec, outcome: Outcome, p_yes: float) -> str:
        return student_reason(spec, outcome, p_yes)

    def _decide_box(self, found: "_Found", group: "_Group", at: int) -> list[Decision]:
        specs = [self._ontology.classes[place] for place in group.members]
        scores = found.scores[group.boxes[at], list(group.members)]
        return decide_for_student(specs, scores.tolist())

    def _without_duplicates(self, decided: DecisionBatch, found: "_Found") -> DecisionBatch:
        """A student was trained on labels without duplicates."""
        return decided


@dataclass(frozen=True, eq=False)
class _Group:
    """What is judged for one contrast group, or for one class alone."""

    members: tuple[int, ...]
    """Classes of the ontology."""
    boxes: NDArray[np.intp]
    """(B,) of the batch."""
    calibrated: NDArray[np.float64] | None = None
    """(B, members) the calibrator's probabilities; None without one."""
    how: NDArray[np.int8] | None = None
    """(B, members) how each of them is known (``labeling.verify_budget``)."""

    @property
    def flat_boxes(self) -> NDArray[np.intp]:
        """(B × members) the box of each judgement, box by box."""
        return np.repeat(self.boxes, len(self.members))

    @property
    def flat_classes(self) -> NDArray[np.intp]:
        """(B × members) the class of each."""
        return np.tile(np.array(self.members, dtype=np.intp), len(self.boxes))


class _Found:
    """Collects judgements, group by group."""

    def __init__(self, evidence: EvidenceBatch, scores: NDArray[np.float32]) -> None:
        self.evidence = evidence
        self.scores = scores
        amounts = np.diff(evidence.starts)
        self.images = np.repeat(np.arange(len(evidence)), amounts)
        self._boxes: list[NDArray[np.intp]] = []
        self._classes: list[NDArray[np.intp]] = []
        self._outcomes: list[NDArray[np.intp]] = []
        self._probabilities: list[NDArray[np.float64]] = []
        self._reasons: list[str] = []

    def add(
        self,
        group: "_Group",
        outcomes: NDArray[np.intp],
        probabilities: NDArray[np.float64],
        reasons: list[str],
    ) -> None:
        self._boxes.append(group.flat_boxes)
        self._classes.append(group.flat_classes)
        self._outcomes.append(outcomes.ravel())
        self._probabilities.append(probabilities.ravel())
        self._reasons += reasons

    def batch(self) -> DecisionBatch:
        """All of them, image by image; within an image in the order in which they were added."""
        nothing = [np.zeros(0, dtype=np.intp)]
        boxes = np.concatenate(nothing + self._boxes)
        order = np.argsort(self.images[boxes], kind="stable")
        boxes = boxes[order]
        images = self.images[boxes]
        starts = np.searchsorted(images, np.arange(len(self.evidence) + 1))
        return DecisionBatch(
            starts,
            boxes - self.evidence.starts[images],
            np.concatenate(nothing + self._classes)[order],
            np.concatenate(nothing + self._outcomes)[order],
            np.concatenate([np.zeros(0), *self._probabilities])[order],
            [self._reasons[place] for place in order.tolist()],
        )


def _kept(boxes: Boxes, images: NDArray[np.intp], threshold: float) -> NDArray[np.intp]:
    """``core.boxes.nms`` within each image; ``boxes`` come image by image, the best first."""
    alive = [True] * len(boxes)
    for better, worse in _overlapping(boxes, images, threshold):
        if alive[better]:  # final: all boxes better than it were compared before
            alive[worse] = False
    return np.flatnonzero(alive)


def _overlapping(boxes: Boxes, images: NDArray[np.intp], threshold: float) -> list[tuple[int, int]]:
    """Pairs (better, worse) of one image whose IoU is above ``threshold``, sorted by the better."""
    found: list[tuple[int, int]] = []
    for first, second in pairs_within(images):
        over = pair_iou(boxes[first], boxes[second]) > threshold
        found += zip(first[over].tolist(), second[over].tolist(), strict=True)
    return found
