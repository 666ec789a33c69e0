"""A guarantee from the request to the certificate, and its application.

1. ``create_guarantee`` reads the population of a run (``review.population``), draws what to ask
   about (``evaluation.guarantee``) and puts it into a review queue named ``guarantee-NAME``.
2. People answer the queue, or a truth file does. Called again, ``create_guarantee`` draws the same
   sample from the stored seed and goes on from the answers that are in the store, whenever and
   however it was ended before.
3. Once the answers are enough the certificate goes into the store, with the answers it rests on.
4. ``apply_guarantee`` decides the run again by the thresholds, as a new run: what is guaranteed is
   accepted, and everything else that was not rejected is unsure.

The unit of a sample is explained in ``evaluation.guarantee``; nothing here weighs evidence.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondlook.core.cancellation import check_cancelled
from secondlook.datasets.snapshot import NAME
from secondlook.evaluation.certificate import (
    Certificate,
    digest_of_answers,
    filled_name,
    is_filled_name,
    limit_reason,
)
from secondlook.evaluation.guarantee import Promise, SamplePlan, Terms, certify, draw
from secondlook.labeling.calibrator import Calibrator
from secondlook.models.embedded_calibrator import embedded_calibrator
from secondlook.review.oracle import PERSON, Oracle
from secondlook.review.population import (
    Population,
    filled_in,
    lowest_decisions,
    read_population,
)
from secondlook.review.redecide import run_to_write
from secondlook.store import Store
from secondlook.store.bulk import DecisionBatch, add_decisions, redecided_up_to
from secondlook.store.codec import OUTCOMES, WHOLE_IMAGE_ROW
from secondlook.store.database import now
from secondlook.store.guarantees import (
    APPLIED,
    GuaranteeEvent,
    GuaranteeRow,
    GuaranteeState,
    guarantee_of,
)
from secondlook.store.locks import deletion_blocked
from secondlook.store.results import Result
from secondlook.store.reviews import Contradiction, QueueItem
from secondlook.store.runs import Run
from secondlook_client.errors import (
    AlreadyExists,
    BadOntology,
    BadSetting,
    InvalidInput,
    NotFound,
)
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.values import Decision, LabelResult, Outcome, ReviewAnswer, ReviewItem

STATE_WORDS = {
    GuaranteeState.ASKING: "answers are missing",
    GuaranteeState.HOLDS: "it holds",
    GuaranteeState.NOT_REACHED: "nothing can be guaranteed",
    GuaranteeState.BROKEN: "it no longer holds",
    GuaranteeState.WITHDRAWN: "withdrawn",
}
EVIDENCE_SETTINGS = frozenset(
    {"score_floor", "max_boxes", "view_min_side", "verify_budget", "reuse_answers"}
)
"""Settings of a run that shape what its models are asked; with a budget also its calibrator."""
CERTIFIED = "certified"
"""Kind of the event with the answers that a certificate rests on."""
AT_ONCE = 50
"""Questions that a truth file answers between two looks at whether it is enough."""
FEWEST_KNOWN, LEAST_RIGHT = 20, 0.1
"""A truth file that calls a smaller share of so many boxes right is taken for that of other images;
nothing could be guaranteed with it anyway."""
PAGE = 200
LEASE_S = 60.0
MOST_KEPT = 500
"""Results in memory."""
_YES, _NO, _OPEN = (OUTCOMES.index(o) for o in (Outcome.ACCEPT, Outcome.REJECT, Outcome.UNSURE))

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is."""


@dataclass(frozen=True)
class GuaranteeRequest:
    """What is asked for. Raises ``InvalidInput`` for what cannot be guaranteed at all."""

    run: str
    terms: Terms = field(default_factory=Terms)
    classes: tuple[str, ...] = ()
    """Each guaranteed by itself; empty: all labels of the run together."""
    seed: int = 0
    filled: bool = False
    """Whether boxes that were filled in where nothing was found are asked about too, as classes of
    their own."""

    def told(self) -> dict[str, Any]:
        """Plain values, equal for equal requests."""
        return {
            "classes": list(self.classes),
            "seed": self.seed,
            "filled": self.filled,
            **asdict(self.terms),
        }


@dataclass(frozen=True)
class GuaranteeStatus:
    """How a guarantee stands."""

    row: GuaranteeRow
    events: tuple[GuaranteeEvent, ...]
    certificate: Certificate | None
    """None while answers are missing."""
    asked: int
    """Questions in its queue."""
    answered: int

    @property
    def certified(self) -> bool:
        """Whether there is a certificate, whatever it says."""
        return self.certificate is not None

    @property
    def holds(self) -> bool:
        """Whether anything is guaranteed, now."""
        return self.row.state is GuaranteeState.HOLDS

    @property
    def answers(self) -> Mapping[str, str]:
        """By label id, the answers that the certificate rests on."""
        told = [event.content for event in self.events if event.kind == CERTIFIED]
        return told[-1].get("answers", {}) if told else {}

    def to_json(self) -> dict[str, Any]:
        """Everything as values for JSON: the certificate with its history, or how far it is."""
        history = [
            {"kind": event.kind, "created_at": event.created_at, **event.content}
            for event in self.events
        ]
        told = {"state": self.row.state.value, "asked": self.asked, "answered": self.answered}
        if self.certificate is None:
            return {"name": self.row.name, "run": self.row.run, **told, "history": history}
        whole = replace(self.certificate, history=tuple(history))
        return {**json.loads(whole.to_json()), **told}


@dataclass(frozen=True)
class Applied:
    """The run that a guarantee was applied to make."""

    run: str
    classes: tuple[str, ...]
    """Whose labels are guaranteed."""
    images: int


def default_name(run: str, request: GuaranteeRequest) -> str:
    """A name for a guarantee: of the run, the classes and the precision."""
    parts = [run, *request.classes[:3], f"{request.terms.target:g}"]
    plain = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in parts)
    return plain.lstrip("-._")[-150:].lstrip("-._") or "guarantee"


def queue_of(name: str) -> str:
    """The review queue of a guarantee."""
    return f"guarantee-{name}"


def create_guarantee(
    store: Store,
    name: str,
    request: GuaranteeRequest,
    calibrator: Calibrator | None,
    oracle: Oracle | None = None,
    person: str = PERSON,
    progress: Progress = lambda what, done, total: None,
) -> GuaranteeStatus:
    """Begin a guarantee, or go on with it; certifies it once the answers are enough.

    ``calibrator`` gives the probabilities (None: as the models' are); of a guarantee that was begun
    before, it must be the same. ``oracle`` answers as ``person`` what is still to be answered.

    Raises ``InvalidInput`` for a run without a box, an oracle for other images, a calibrator of
    other classes, and answers of two people that contradict each other; ``BadOntology`` for a class
    that the run has not; ``AlreadyExists`` for a name with other settings; ``NotFound``.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "a guarantee's name has 1 to 200 letters, digits, '-', '_' or '.' and begins with a "
            f"letter or digit; '{name:.60}' does not"
        )
    run = store.results.run(request.run)
    free = _checked_calibrator(run, request, calibrator)
    row = store.guarantees.find(name)
    if row is not None:
        _check_same(row, request, free)
        if row.state is not GuaranteeState.ASKING:
            return guarantee_status(store, name)
    until = int(row.settings["until"]) if row else None
    population = read_population(
        store,
        run,
        free,
        until,
        lambda done, total: progress("reading the run", done, total),
        request.filled,
    )
    if not len(population):
        raise InvalidInput(
            f"run '{run.name}' has no box that could be a label, so there is nothing to guarantee; "
            "label its images first"
        )
    if request.filled and any(map(is_filled_name, run.ontology.names)):
        raise InvalidInput(
            f"a class of run '{run.name}' is called as a certificate calls filled boxes; leave out "
            "--filled"
        )
    if request.filled and not population.filled.any():
        raise InvalidInput(
            f"run '{run.name}' has no box that was filled in; label the video with --track and "
            "--fill-gaps ignore, or leave out --filled"
        )
    sample = _Questions(store, population, _plans(population, request))
    if oracle:
        sample.check_oracle(oracle)
    row = row or _begin(store, name, request, sample, free)
    sample.check_unchanged(row)
    _make_queue(store, row, sample)
    if oracle:
        _answer(store, name, sample, oracle, person, progress)
    return _certified(store, row, request, sample)


def certify_guarantee(store: Store, name: str) -> GuaranteeStatus:
    """Go on with a guarantee on the terms it was begun with. Raises as ``create_guarantee``."""
    row = store.guarantees.get(name)
    begun = row.settings
    terms = Terms(begun["target"], begun["confidence"], begun["budget"], Promise(begun["promise"]))
    filled = bool(begun.get("filled", False))
    request = GuaranteeRequest(row.run, terms, tuple(begun["classes"]), begun["seed"], filled)
    calibrator = store.calibrators.get(row.calibrator) if row.calibrator else None
    return create_guarantee(store, name, request, calibrator)


def guaranteed_classes(store: Store, run: Run) -> frozenset[str]:
    """The classes of a run whose labels the guarantee covers that it was decided under.

    Raises ``InvalidInput`` for a run without one, ``NotFound`` and ``Damaged``.
    """
    name = guarantee_of(run.settings)
    if not name:
        raise InvalidInput(
            f"run '{run.name}' was not decided under a guarantee; apply one to it first, "
            "`secondlook guarantee apply`, and look at the run that is made"
        )
    row = store.guarantees.get(name)
    if not row.certificate:
        return frozenset()
    certificate, names = Certificate.from_json(row.certificate), run.ontology.names
    return frozenset({*certificate.limits(names), *certificate.filled_limits(names)})


def default_calibrator(store: Store, run: Run) -> Calibrator | None:
    """What ranks the boxes of a run if nobody chooses: what the run decides by; of labels of the
    embedded models the one that comes with them; else None."""
    if run.calibrator:
        return store.calibrators.get(run.calibrator)
    if not run.proposer.startswith("demo-"):
        return None
    embedded = embedded_calibrator()
    try:
        embedded.check(run.ontology, run.proposer, run.verifier)
    except (BadSetting, InvalidInput):  # another version of the models, or other classes
        return None
    return embedded


def guarantee_status(store: Store, name: str) -> GuaranteeStatus:
    """How a guarantee stands. Raises ``NotFound`` and ``Damaged``."""
    row = store.guarantees.get(name)
    certificate = Certificate.from_json(row.certificate) if row.certificate else None
    asked = answered = 0
    if _queue_is_there(store, queue_of(name)):
        queue = store.reviews.queue(queue_of(name))
        asked, answered = queue.total, queue.answered
    return GuaranteeStatus(row, tuple(store.guarantees.events(name)), certificate, asked, answered)


def apply_guarantee(
    store: Store,
    name: str,
    new: str = "",
    progress: Progress = lambda what, done, total: None,
) -> Applied:
    """Decide the run of a guarantee again by its thresholds, as the run ``new`` (default: NAME).

    Only the results that the guarantee is about: what was labelled later is left out. A call that
    was interrupted continues where it was when it is repeated. Raises ``NotFound``,
    ``InvalidInput`` for a guarantee that does not hold, ``AlreadyExists`` for another run of that
    name, and ``Busy`` while ``forget`` removes results.
    """
    row = store.guarantees.get(name)
    certificate = _in_force(row)
    source = store.results.run(row.run)
    calibrator = store.calibrators.get(row.calibrator) if row.calibrator else None
    names = source.ontology.names
    limits, filled = certificate.limits(names), certificate.filled_limits(names)
    run = _applied_run(store, new or name, source, limits, row)
    until, images = int(row.settings["until"]), store.results.count(run.id)
    with deletion_blocked(store.database):
        with store.database.reading() as connection:
            after = redecided_up_to(connection, run, source)
        total = certificate.images
        for packed, decided in lowest_decisions(store, source, calibrator, after):
            kept = [one for one in packed if one.cursor <= until]
            if kept:
                part = _by_limits(decided, limits, filled, source.ontology, len(kept))
                with store.database.writing() as connection:
                    images += add_decisions(connection, run, kept, part)
                progress("deciding", images, total)
            if len(kept) < len(packed):
                break
    classes = tuple(name for name in names if name in limits or name in filled)
    told = {"run": run.name, "classes": list(classes), "summary": list(summary(certificate))}
    if store.guarantees.applied(name) is None or store.guarantees.events(name)[-1].content != told:
        store.guarantees.change(name, APPLIED, told)
    return Applied(run.name, classes, images)


def job_under(
    store: Store,
    name: str,
    ontology: Ontology | None,
    settings_for: Callable[[Ontology], Mapping[str, Any]],
    models: tuple[str, str],
) -> tuple[Ontology, dict[str, Any]]:
    """Classes and settings of a job that is to run under the guarantee ``name``.

    ``ontology`` is what the job was asked for (None: as the run of the guarantee); the server's
    are ``models`` (proposer, verifier) and the settings for an ontology. Raises ``NotFound``, and
    ``InvalidInput`` for a guarantee that does not hold, or is about other boxes than the job's.
    """
    row = store.guarantees.get(name)
    certificate, source = _in_force(row), store.results.run(row.run)
    settings, other = settings_for(source.ontology), ""
    if not certificate.limits(source.ontology.names):
        other = "boxes that were filled in, and a job has none"
    elif certificate.terms.promise is Promise.RUN:
        other = "the boxes of its run and no others; make one with --promise scenes"
    elif ontology is not None and _without_limits(ontology) != _without_limits(source.ontology):
        other = f"the classes and questions of run '{row.run}'; leave out those of the job"
    elif (run_models := (source.proposer, source.verifier)) != models:
        named, own = (" and ".join(filter(None, names)) for names in (run_models, models))
        other = f"labels of {named}, and this server has {own}"
    else:
        unset = {"verify_budget": "all", "reuse_answers": False}
        theirs, ours = {**unset, **source.settings}, {**unset, **settings}
        compared = EVIDENCE_SETTINGS | ({"calibrator"} if ours["verify_budget"] != "all" else set())
        differing = [
            f"{key} {value or 'none'}"
            for key, value in sorted(theirs.items())
            if key in compared and ours.get(key, value) != value
        ]
        if differing:
            other = f"labels made with {', '.join(differing)}, unlike this server's"
    if other:
        raise InvalidInput(f"guarantee '{name}' is about {other}")
    told = {
        **settings,
        "nms_iou": source.nms_iou,
        "duplicate_iou": source.duplicate_iou,
        "calibrator": row.calibrator,
        "guarantee": name,
    }
    return source.ontology, told


def _without_limits(ontology: Ontology) -> Ontology:
    return Ontology(tuple(replace(spec, accept=1.0, reject=0.0) for spec in ontology.classes))


def summary(certificate: Certificate) -> Iterator[str]:
    """Sentences that say what holds and what does not."""
    for result in certificate.results:
        what = f"'{result.class_name}'" if result.class_name else "All classes together"
        if not result.holds:
            yield f"{what}: not guaranteed: {result.reason}."
            continue
        yield (
            f"{what}: {result.reason}; proven by {result.answers} answers, {result.wrong} of them "
            f"wrong or unsure, is {result.bound:.3f}."
        )
    yield from (f"Not guaranteed: {sentence}" for sentence in certificate.not_guaranteed)


class _Questions:
    """What is asked about, as places in the population, in the order of the queue."""

    def __init__(self, store: Store, population: Population, plans: Sequence[SamplePlan]) -> None:
        self._store = store
        self.population = population
        self.plans = plans
        # In turns, so that each class comes to its first test early.
        turns = zip_longest(*(plan.rows.tolist() for plan in plans))
        self.rows = [row for turn in turns for row in turn if row is not None]
        self._known: dict[int, Result] = {}
        self.row_of = {population.label_id(row): row for row in self.rows}

    @property
    def digest(self) -> str:
        """Of what is asked and tested."""
        return "\n".join(plan.digest for plan in self.plans)

    def check_oracle(self, oracle: Oracle) -> None:
        """Raises ``InvalidInput`` when the file is of other images or classes.

        Other images may have the same names; then hardly a box is right.
        """
        rows = [row for row in self.rows if not self.population.filled[row]]
        cursors = {int(self.population.cursors[row]) for row in rows}
        right = {cursor: oracle.right(self.judged(cursor)) for cursor in sorted(cursors)}
        population = self.population
        found = [
            right[int(population.cursors[row])].get(int(population.places[row])) for row in rows
        ]
        known = [one for one in found if one is not None]
        if len(known) >= FEWEST_KNOWN and sum(known) < LEAST_RIGHT * len(known):
            raise InvalidInput(
                f"{oracle.source} has a true box for only {sum(known)} of {len(known)} boxes that "
                "are to be asked about: it seems to be of other images with the same names"
            )

    def judged(self, cursor: int) -> LabelResult:
        """An image as the population has it: its probabilities, and nothing else accepted."""
        result = self._result(cursor).labelled.result
        of_image = np.flatnonzero(self.population.cursors == cursor)
        places = self.population.places[of_image].tolist()
        known = dict(zip(places, self.population.probabilities[of_image].tolist(), strict=True))
        judgements = tuple(
            replace(judgement, decision=_as_drawn(known.get(place)))
            for place, judgement in enumerate(result.judgements)
        )
        return replace(result, judgements=judgements)

    def check_unchanged(self, row: GuaranteeRow) -> None:
        """Raises ``InvalidInput`` when results were removed since the sample was drawn."""
        if row.settings["population"] != self.population.digest:
            raise InvalidInput(
                f"the results of run '{row.run}' are not those that guarantee '{row.name}' was "
                "begun with: some were removed; make a new guarantee under another --name"
            )

    def questions(self) -> Iterator[QueueItem]:
        """As the queue takes them."""
        names = self.population.run.ontology.names
        strata = {row: plan.class_name for plan in self.plans for row in plan.rows.tolist()}
        for row in self.rows:
            cursor, place = int(self.population.cursors[row]), int(self.population.places[row])
            judgement = self._result(cursor).labelled.judgements[place]
            yield QueueItem(
                cursor,
                place,
                names[self.population.classes[row]],
                judgement.box,
                float(self.population.probabilities[row]),
                judgement.outcome,
                strata[row],
            )

    def given(self, queue: str) -> dict[int, tuple[ReviewItem, ReviewAnswer]]:
        """By row of the population, what the queue was answered."""
        found: dict[int, tuple[ReviewItem, ReviewAnswer]] = {}
        after = 0
        while page := self._store.reviews.items(queue, after, PAGE):
            after = page[-1][0].id
            for item, review in page:
                if review is not None and item.label_id in self.row_of:
                    found[self.row_of[item.label_id]] = item, review.answer
        return found

    def answers(self, queue: str) -> dict[int, ReviewAnswer]:
        """``given``, where of several reviews of a box the newest counts.

        Raises ``InvalidInput`` when two people contradict each other.
        """
        given = self.given(queue)
        self._refuse_contradictions([item for item, _ in given.values()])
        return {row: self._said(row) for row in sorted(given)}

    def _said(self, row: int) -> ReviewAnswer:
        result = self._read(int(self.population.cursors[row]))
        outcome = result.labelled.judgements[int(self.population.places[row])].outcome
        right = {Outcome.ACCEPT: ReviewAnswer.RIGHT, Outcome.REJECT: ReviewAnswer.WRONG}
        return right.get(outcome, ReviewAnswer.UNSURE)

    def _refuse_contradictions(self, asked: Sequence[ReviewItem]) -> None:
        boxes = {(item.image, item.class_name, item.box) for item in asked}
        found = [
            one
            for one in _contradictions(self._store, self.population.run)
            if any((r.image, r.class_name, r.box) in boxes for r in (one.older, one.newer))
        ]
        if found:
            many = f" ({len(found)} boxes)" if len(found) > 1 else ""
            raise InvalidInput(
                f"people contradict each other{many}: {found[0]}. Settle it before a guarantee is "
                f"made: one of them takes it back, `secondlook review undo {found[0].newer.id}` or "
                f"`secondlook review undo {found[0].older.id}`"
            )

    def _result(self, cursor: int) -> Result:
        """A result as it was when it was first read here."""
        if cursor not in self._known:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            self._known[cursor] = self._read(cursor)
        return self._known[cursor]

    def _read(self, cursor: int) -> Result:
        check_cancelled()
        (result,) = self._store.results.page(self.population.run.id, cursor - 1, 1)
        return result


def _as_drawn(probability: float | None) -> Decision:
    """The decision on a judgement with limits as low as can be; None: it is not a label then."""
    if probability is None:
        return Decision(Outcome.REJECT, 0.0, "")
    return Decision(Outcome.ACCEPT, probability, "")


def _contradictions(store: Store, run: Run) -> Iterator[Contradiction]:
    after = 0
    while page := store.reviews.contradictions(run.id, after, PAGE):
        yield from page
        after = page[-1].image_id


def _checked_calibrator(
    run: Run, request: GuaranteeRequest, calibrator: Calibrator | None
) -> Calibrator | None:
    """``calibrator`` without limits of its own, if it fits the run and the classes."""
    unknown = [name for name in request.classes if name not in run.ontology.names]
    if unknown:
        known = ", ".join(f"'{known}'" for known in run.ontology.names[:10])
        raise BadOntology(f"there is no class '{unknown[0]:.60}' in that run; it has {known}")
    if not run.proposer:
        raise InvalidInput(f"run '{run.name}' has no results yet; wait for its first ones")
    if calibrator is None:
        return None
    calibrator.check(run.ontology, run.proposer, run.verifier)
    return calibrator.without_limits


def _check_same(
    row: GuaranteeRow, request: GuaranteeRequest, calibrator: Calibrator | None
) -> None:
    """Raises ``AlreadyExists`` for a guarantee that was begun with other settings."""
    digest = calibrator.digest if calibrator else ""
    wanted = {"run": request.run, **request.told(), "calibrator": digest}
    begun = {"run": row.run, "filled": False, **row.settings}
    other = [name for name, value in wanted.items() if begun.get(name) != value]
    if other:
        what = {"target": "precision"}.get(other[0], other[0])
        raise AlreadyExists(
            f"there is a guarantee '{row.name}' already with another {what} "
            f"({begun.get(other[0])!s:.60} instead of {wanted[other[0]]!s:.60}); choose another "
            "--name, or give it the settings that it was begun with"
        )


def _plans(population: Population, request: GuaranteeRequest) -> list[SamplePlan]:
    names = request.classes or ("",)
    if request.filled:
        names += tuple(map(filled_name, names))
    return [_plan(population, request, name) for name in names]


def _plan(population: Population, request: GuaranteeRequest, name: str) -> SamplePlan:
    """What is asked about what a certificate calls ``name``."""
    probabilities = np.where(population.of(name), population.probabilities, np.nan)
    names = np.full(len(population), name)
    terms, seed = request.terms, request.seed
    return draw(probabilities, names, population.scenes, terms, class_name=name, seed=seed)


def _begin(
    store: Store,
    name: str,
    request: GuaranteeRequest,
    sample: _Questions,
    calibrator: Calibrator | None,
) -> GuaranteeRow:
    """The stored guarantee: all that it takes to draw the same sample again."""
    settings = {
        **request.told(),
        "calibrator": calibrator.digest if calibrator else "",
        "until": sample.population.until,
        "population": sample.population.digest,
    }
    return store.guarantees.create(name, request.run, settings, calibrator)


def _make_queue(store: Store, row: GuaranteeRow, sample: _Questions) -> None:
    """The queue with the sample, unless an earlier call made it."""
    queue = queue_of(row.name)
    told = {"guarantee": row.name, "population": sample.population.digest}
    if not sample.rows or (row.queue and _queue_is_there(store, queue)):
        return
    try:
        store.reviews.create_queue(queue, row.run, sample.questions(), "guarantee", told)
    except AlreadyExists:
        if not _queue_is_there(store, queue):  # the call that made it was killed half way
            store.reviews.delete_queue(queue)
            store.reviews.create_queue(queue, row.run, sample.questions(), "guarantee", told)
        elif store.reviews.settings(queue) != told:
            raise
    store.guarantees.change(row.name, "queue made", {"queue": queue}, queue=queue)


def _queue_is_there(store: Store, queue: str) -> bool:
    try:
        store.reviews.queue(queue)
    except NotFound:
        return False
    return True


def _answer(
    store: Store, name: str, sample: _Questions, oracle: Oracle, person: str, progress: Progress
) -> None:
    """Let ``oracle`` answer until it is enough."""
    queue, total = queue_of(name), len(sample.rows)
    while sample.rows and not _enough(store, name, sample):
        items = store.reviews.next(queue, person, AT_ONCE, LEASE_S)
        if not items:
            return  # the rest is with people, or answered
        for item in items:
            check_cancelled()
            cursor = int(item.label_id.partition(".")[0])
            said = oracle.answer(item, sample.judged(cursor).judgements)
            store.reviews.answer(
                item.id, person, said.answer, said.reason, said.new_class, said.new_box, said.note
            )
        progress("answering", store.reviews.queue(queue).answered, total)


def _enough(store: Store, name: str, sample: _Questions) -> bool:
    given = {row: answer for row, (_, answer) in sample.given(queue_of(name)).items()}
    return not any(certify(plan, given).open_questions for plan in sample.plans)


def _certified(
    store: Store, row: GuaranteeRow, request: GuaranteeRequest, sample: _Questions
) -> GuaranteeStatus:
    """Write the certificate if the answers are enough."""
    answers = sample.answers(queue_of(row.name)) if sample.rows else {}
    results = tuple(certify(plan, answers) for plan in sample.plans)
    if any(result.open_questions for result in results):
        return guarantee_status(store, row.name)
    population = sample.population
    certificate = Certificate(
        name=row.name,
        run=row.run,
        population=_population_told(population, request),
        images=population.images,
        boxes=len(population),
        scenes=len(np.unique(population.scenes)),
        terms=request.terms,
        results=results,
        calibrator=row.calibrator,
        seed=request.seed,
        sample=sample.digest,
        answers=digest_of_answers(sample.rows, answers),
        created_at=now(),
    )
    given = {population.label_id(r): answers[r].value for r in sample.rows if r in answers}
    store.guarantees.change(
        row.name,
        CERTIFIED,
        {"answers": given},
        state=GuaranteeState.HOLDS if certificate.holds else GuaranteeState.NOT_REACHED,
        certificate=certificate.to_json(),
    )
    return guarantee_status(store, row.name)


def _population_told(population: Population, request: GuaranteeRequest) -> str:
    what = "every class" if not request.classes else ", ".join(request.classes)
    if request.filled:
        what += " and, by themselves, boxes that were filled in between them,"
    whose = (
        "on these images"
        if request.terms.promise is Promise.RUN
        else "in further scenes drawn like those of these images"
    )
    return (
        f"labels of {what} that the models of run '{population.run.name}' make {whose}: "
        f"{population.images:,} images"
    )[:4000]


def _in_force(row: GuaranteeRow) -> Certificate:
    if row.state is not GuaranteeState.HOLDS:
        why = {
            GuaranteeState.ASKING: "is not certified yet; answer its queue first: "
            f"`secondlook review ask {queue_of(row.name)}`",
            GuaranteeState.NOT_REACHED: "guarantees nothing; its certificate says why",
            GuaranteeState.BROKEN: "no longer holds; its history says why",
            GuaranteeState.WITHDRAWN: "was withdrawn",
        }
        raise InvalidInput(f"guarantee '{row.name}' {why[row.state]}")
    return Certificate.from_json(row.certificate)


def _applied_run(
    store: Store, name: str, source: Run, limits: Mapping[str, float], row: GuaranteeRow
) -> Run:
    """The run to write to: a new one, or the one that an earlier call made."""

    def limited(spec: ClassSpec) -> ClassSpec:
        return replace(spec, accept=max(limits.get(spec.name, 1.0), spec.reject))

    ontology = Ontology(tuple(map(limited, source.ontology.classes)))
    settings = {**source.settings, "calibrator": row.calibrator, "guarantee": row.name}
    taken = "which is another one; choose another name with --run"
    return run_to_write(store, name, ontology, settings, source, taken)


def _by_limits(
    decided: DecisionBatch,
    limits: Mapping[str, float],
    filled: Mapping[str, float],
    ontology: Ontology,
    images: int,
) -> DecisionBatch:
    """The first ``images`` of ``decided`` (by limits as low as can be) by those of a guarantee,
    boxes that were filled in by the limits ``filled``."""
    end = int(decided.starts[images])
    thresholds = np.array([limits.get(name, np.inf) for name in ontology.names])
    outcomes, classes = decided.outcomes[:end].copy(), decided.classes[:end]
    probabilities, reasons = decided.probabilities[:end], [*decided.reasons[:end]]
    below: NDArray[np.bool_] = outcomes == _YES
    below &= probabilities < thresholds[classes]
    below &= decided.rows[:end] != WHOLE_IMAGE_ROW
    outcomes[below] = _OPEN
    for at in np.flatnonzero(below | (outcomes == _YES)).tolist():
        name = ontology.names[classes[at]]
        reasons[at] = limit_reason(name, float(probabilities[at]), limits.get(name))
    of_gaps = np.flatnonzero(filled_in(decided, ontology)[:end]) if filled else np.zeros(0)
    for at in of_gaps.astype(np.intp).tolist():
        name, score = ontology.names[classes[at]], float(probabilities[at])
        if (limit := filled.get(name)) is not None:
            outcomes[at] = _YES if score >= limit else _OPEN
            reasons[at] += f"; {limit_reason(filled_name(name), score, limit)}"
    return DecisionBatch(
        decided.starts[: images + 1], decided.rows[:end], classes, outcomes, probabilities, reasons
    )
