"""Everything that a run's models said, decided again by other rules, as a run of its own.

No model is loaded and no picture is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from secondlook.columns import check_questions, columns_for
from secondlook.errors import AlreadyExists, BadOntology, InvalidInput, NotFound
from secondlook.labels import NOT_ASKED, LabelPath
from secondlook.ontology import Ontology
from secondlook.replay.deciding import Decider, StudentDecider
from secondlook.store import Store
from secondlook.store.batches import Decided, gather
from secondlook.store.care import nothing_forgotten
from secondlook.store.redecided import Packed, add_decided, decided_up_to, packed_evidence
from secondlook.store.runs import Run, create_run, load_run_by_id
from secondlook.store.texts import load_ontology

AT_ONCE = 1000
"""Pictures in one transaction."""


@dataclass
class Redecided:
    """What a run became, so far."""

    run: Run
    pictures: int = 0
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
    after every thousand pictures.

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
                told.pictures += add_decided(connection, run, of_one_kind, decided)
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
