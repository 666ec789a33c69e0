"""Jobs under a guarantee: their boxes are decided by its certificate, and a few are checked.

A job whose settings name a guarantee accepts a box from the guaranteed limit of its class on.
Of what it accepts, ``PrecisionMonitor`` draws a trickle of checks into the review queue
``checks_queue_of(name)``, in the transaction that stores the results: whatever is stored was drawn
from once. The answers are counted in the order of the queue, each once, whoever gave it; what is
taken back later stays counted, or one box would count twice. ``ScoreDrift`` follows the scores of
all these jobs together and raises the trickle while they are unlike those of the guarantee's run.

Once the answers say that the guarantee no longer holds, its state is ``BROKEN``, and no transaction
after that one writes a box that is accepted under it: a result locks the guarantee before it is
written, and is decided again where the guarantee has ended meanwhile.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from secondlook.core.types import Labelled
from secondlook.evaluation.certificate import Certificate, limit_reason, lowest_limits
from secondlook.evaluation.precision_monitor import EVIDENCE, RATE, Check, PrecisionMonitor
from secondlook.evaluation.score_drift import (
    CHECKS_RAISED,
    ScoreDrift,
    ScoreReference,
    Values,
    reference_of,
    values_of,
)
from secondlook.labeling.decisions import judge
from secondlook.store import Store
from secondlook.store.guarantees import (
    HELD_UNTIL,
    GuaranteeRow,
    GuaranteeState,
    checks_queue_of,
    guarantee_of,
    locked_guarantee,
    save_monitor,
)
from secondlook.store.results import cursors_of, decided_at
from secondlook.store.reviews import QueueItem, append_to_queue
from secondlook.store.runs import Run
from secondlook_client.errors import NotFound
from secondlook_client.values import (
    Decision,
    Judgement,
    LabelPath,
    Outcome,
    ReviewAnswer,
    ReviewItem,
)

log = logging.getLogger(__name__)

ORDER = "checks"
"""Of the queue: as they were drawn."""
PAGE = 200
"""Answers that are counted in one transaction."""
STRETCHES, STRETCH = 8, 250
"""Of how many images in a row, and how many times, scores of the guarantee's run are read."""
MOST_RAISES_TOLD = 100
"""Times that the history tells of a raised share; a job without an end must not fill it."""
SUSPICIOUS = "answers of people are evidence against it"


@dataclass(frozen=True)
class ChecksStatus:
    """How the checks of the jobs under a guarantee stand."""

    name: str
    holds: bool
    checked: int
    wrong: int
    """Of these; an unsure answer is not right."""
    evidence: float
    """Against the guarantee, see ``PrecisionMonitor``."""
    waiting: int
    """For an answer."""
    precision: float | None
    """Estimate for everything that was accepted; None before the first answer."""
    share: float
    """Of the accepted boxes that is checked at present, [0, 1]."""
    raised: str
    """Why that is more than usual; empty while it is not."""

    def __str__(self) -> str:
        found = f", about {self.precision:.1%} right" if self.precision is not None else ""
        more = f"; {self.share:.0%} of the boxes are checked: {self.raised}" if self.raised else ""
        counts = f"{self.checked:,} checked, {self.wrong:,} wrong{found}"
        return f"{counts}; {self.waiting:,} to answer{more}"


@dataclass
class _Checks:
    """All that is kept of the checks under a guarantee."""

    monitor: PrecisionMonitor
    counted: int = 0
    """The item of the queue up to which answers are counted."""
    held: int = 0
    """Cursor of the last checked result after which nothing spoke against the guarantee."""
    drift: ScoreDrift | None = None
    """None before the first result, and where its run has too few images."""
    compared: bool = False
    """Whether that run was read for it."""
    raises: int = 0
    """How often drift has raised the share."""

    @classmethod
    def of(cls, row: GuaranteeRow) -> "_Checks":
        """As they are stored."""
        if not row.monitor:
            target = float(row.settings["target"])
            return cls(PrecisionMonitor(target, rate=RATE, seed=f"{row.name}/{row.created_at}"))
        told = json.loads(row.monitor)
        drift = told.get("drift")
        return cls(
            PrecisionMonitor.from_json(told["monitor"]),
            int(told["counted"]),
            int(told.get("held", 0)),
            ScoreDrift.from_json(drift) if drift else None,
            drift is not None,
            int(told.get("raises", 0)),
        )

    def to_json(self) -> str:
        """The inverse of ``of``."""
        told = {"counted": self.counted, "held": self.held, "raises": self.raises}
        drift = self.drift.to_json() if self.drift else "" if self.compared else None
        return json.dumps({**told, "monitor": self.monitor.to_json(), "drift": drift})

    @property
    def why_raised(self) -> str:
        """Why more is checked than usual; or empty."""
        if self.monitor.is_suspicious:
            return SUSPICIOUS
        return self.drift.raised if self.drift and self.monitor.is_raised else ""

    def follow(self, values: Values) -> list[tuple[str, dict[str, Any]]]:
        """The scores of an image that was drawn from; what the history says of it."""
        if self.drift is None:
            return []
        kind, why = self.drift.follow(values, self.monitor)
        self.raises += kind == CHECKS_RAISED
        return [(kind, {"reason": why})] if kind and self.raises <= MOST_RAISES_TOLD else []


class GuaranteedJob:
    """Decides and checks the results of one job. Belongs to one thread."""

    def __init__(self, store: Store, run: Run) -> None:
        """``run`` is under a guarantee, which may be gone. Raises ``NotFound`` and ``Damaged``."""
        self.name = guarantee_of(run.settings)
        self._store = store
        self._run = run
        self._models, self._limits = ("", ""), dict[str, float]()
        if row := store.guarantees.find(self.name):
            source = store.results.run(row.run)
            self._models = source.proposer, source.verifier
            self._limits = Certificate.from_json(row.certificate).limits(run.ontology.names)
        stored = store.calibrators.get(run.calibrator) if run.calibrator else None
        self._calibrator = stored.without_limits if stored else None
        self._ontology = lowest_limits(run.ontology)
        self._over = ""
        self._reference = self._population(row) if row else None

    def refresh(self) -> None:
        """See whether the guarantee still holds."""
        self._over = _reason_of(self._store.guarantees.find(self.name), self.name)

    def lock(self, connection: Any) -> bool:
        """See it again, and keep it so until the transaction of ``connection`` ends; whether that
        is another answer than before: then what was decided meanwhile is to be decided again."""
        before = self._over
        self._over = _reason_of(locked_guarantee(connection, self.name), self.name)
        return self._over != before

    def decide(self, labelled: Labelled) -> Labelled:
        """The same image, decided again as ``review.guarantees.apply_guarantee`` would: accepted
        is what the guarantee covers, and the rest of what is not rejected is unsure."""
        judged = judge(
            labelled.evidence,
            self._ontology,
            self._run.nms_iou,
            self._calibrator,
            (labelled.width, labelled.height),
            self._run.duplicate_iou,
            self._run.verify_budget,
        )
        over = self._over or self._not_covered(labelled)
        return replace(labelled, judgements=tuple(self._decided(one, over) for one in judged))

    def draw(
        self,
        connection: Any,
        results: Sequence[tuple[int, int, Labelled]],
        known: Mapping[int, int],
    ) -> None:
        """Draw checks among (item, image, result), in the transaction that has stored them; those
        of ``known`` items were stored before."""
        new = {item: one for item, _, one in results if item not in known}
        row = locked_guarantee(connection, self.name) if new else None
        if row is None or row.state is not GuaranteeState.HOLDS:
            return
        checks, asked, events = _Checks.of(row), [], list[tuple[str, dict[str, Any]]]()
        if not checks.compared:
            checks.compared = True
            checks.drift = ScoreDrift(self._reference) if self._reference else None
        cursors = cursors_of(connection, self._run.id, [*new])
        for item, labelled in new.items():
            places = _accepted(labelled)
            frame = f"{self._run.id}/{item}"
            if places and (check := checks.monitor.draw(frame, len(places))):
                place, judgement = places[check.box]
                asked.append(_question(cursors[item], place, judgement, check.chance))
            if not self._not_covered(labelled):  # after the draw: see ``PrecisionMonitor``
                events += checks.follow(values_of(labelled.judgements))
        told = {"guarantee": row.name}
        append_to_queue(connection, checks_queue_of(row.name), row.run, asked, ORDER, told)
        save_monitor(connection, row, checks.to_json(), events=events)

    def _population(self, row: GuaranteeRow) -> ScoreReference | None:
        """What scores are like in the run of the guarantee, where that is not stored yet."""
        if row.state is not GuaranteeState.HOLDS or _Checks.of(row).compared:
            return None
        read, source = self._store.results.page, self._store.results.run(row.run)
        until, after, stretches = int(row.settings["until"]), 0, []
        first = next((one.cursor for one in read(source.id, 0, 1, reviewed=False)), until)
        for number in range(STRETCHES):
            after = max(after, first - 1 + (until - first) * number // STRETCHES)
            found = read(source.id, after, STRETCH, reviewed=False)
            kept = [one.labelled for one in found if one.cursor <= until]
            if kept:
                after = found[-1].cursor
            covered = (one for one in kept if not self._not_covered(one))
            stretches.append([values_of(self.decide(one).judgements) for one in covered])
        return reference_of(stretches)

    def _not_covered(self, labelled: Labelled) -> str:
        """Why the certificate does not speak of this image; or empty."""
        found = labelled.evidence
        if found.path is LabelPath.STUDENT:
            return f"labelled by a student, of which guarantee '{self.name}' says nothing"
        if (found.proposer, found.verifier) != self._models:
            return f"labelled by other models than guarantee '{self.name}' is about"
        return ""

    def _decided(self, judgement: Judgement, over: str) -> Judgement:
        decision = judgement.decision
        if decision.outcome is not Outcome.ACCEPT:
            return judgement
        limit = self._limits.get(judgement.class_name)
        reason = over or limit_reason(judgement.class_name, decision.probability, limit)
        below = bool(over) or limit is None or decision.probability < limit
        outcome = Outcome.UNSURE if below else Outcome.ACCEPT
        return replace(judgement, decision=Decision(outcome, decision.probability, reason))


def count_answers(store: Store) -> None:
    """Count the answers that came since the last call, of every guarantee; cheap when none did."""
    for row in store.guarantees.checked():
        while _counted(store, row.name, _Checks.of(row).counted):
            row = store.guarantees.get(row.name)


def checks_status(store: Store, row: GuaranteeRow) -> ChecksStatus | None:
    """How the checks under a guarantee stand; None before the first box was accepted under it."""
    if not row.monitor:
        return None
    checks = _Checks.of(row)
    monitor, waiting = checks.monitor, 0
    try:
        queue = store.reviews.queue(checks_queue_of(row.name))
        waiting = queue.total - queue.answered
    except NotFound:  # deleted: the next check makes it again
        pass
    return ChecksStatus(
        row.name,
        row.state is GuaranteeState.HOLDS,
        monitor.checked,
        monitor.wrong,
        monitor.evidence,
        waiting,
        monitor.precision,
        monitor.rate,
        checks.why_raised,
    )


def checks_of_all(store: Store) -> list[ChecksStatus]:
    """``checks_status`` of every guarantee under which boxes were accepted, broken ones too."""
    found = (checks_status(store, row) for row in store.guarantees.page())
    return [status for status in found if status]


def status_sentence(store: Store, name: str) -> str:
    """How the guarantee of a job stands, for a person."""
    row = store.guarantees.find(name)
    over, status = _reason_of(row, name), checks_status(store, row) if row else None
    return "; ".join(filter(None, [over or "it holds", str(status) if status else ""]))


def _reason_of(row: GuaranteeRow | None, name: str) -> str:
    """Why nothing is accepted under a guarantee; empty while it holds."""
    if row is None:
        return f"guarantee '{name}' is not in the store any more"
    if row.state is GuaranteeState.HOLDS:
        return ""
    since = datetime.fromtimestamp(row.updated_at, UTC)
    what = "was withdrawn" if row.state is GuaranteeState.WITHDRAWN else "no longer holds"
    return f"guarantee '{name}' {what}, since {since:%Y-%m-%d %H:%M:%S} UTC"


def _counted(store: Store, name: str, after: int) -> bool:
    """Count the next answers behind the item ``after``; whether there may be more."""
    answers = _answers(store, checks_queue_of(name), after)
    if not answers:
        return False
    with store.database.writing() as connection:
        row = locked_guarantee(connection, name)
        if row is None or row.state is not GuaranteeState.HOLDS:
            return False
        checks = _Checks.of(row)
        monitor = checks.monitor
        if checks.counted != after:  # another server was faster
            return True
        for item, check, right in answers:
            checks.counted = item.id
            if not monitor.observe(check, right):
                break
            if monitor.evidence <= 1:
                checks.held = _place_of(item)[0]
        broken = None
        if not monitor.holds:
            held = decided_at(connection, checks.held)
            broken = _broken(monitor, float(row.settings["target"]), held)
        save_monitor(connection, row, checks.to_json(), broken)
    if broken:
        log.warning("guarantee '%s' no longer holds: %s", name, broken["reason"])
    return monitor.holds and len(answers) == PAGE


def _answers(store: Store, queue: str, after: int) -> list[tuple[ReviewItem, Check, bool]]:
    """The next checks of a queue, as far as there is none without an answer before them: (item,
    check, right)."""
    found: list[tuple[ReviewItem, Check, bool]] = []
    try:
        first = store.reviews.items(queue, after, 1)
        items = store.reviews.items(queue, after, PAGE) if first and first[0][1] else []
    except NotFound:
        return []
    for item, review in items:
        if review is None:
            break
        check = Check(_place_of(item)[1], item.inclusion)
        found.append((item, check, review.answer is ReviewAnswer.RIGHT))
    return found


def _place_of(item: ReviewItem) -> tuple[int, int]:
    """The cursor of the result of a question, and the place of its judgement there."""
    cursor, _, place = item.label_id.partition(".")
    return int(cursor), int(place)


def _broken(monitor: PrecisionMonitor, target: float, held: float | None) -> dict[str, Any]:
    """What the history of a guarantee says of its end."""
    return {
        HELD_UNTIL: held,
        "reason": f"{monitor.wrong:,} of {monitor.checked:,} boxes that were checked while jobs "
        "ran under it were wrong or unsure; in their order they are evidence of "
        f"{monitor.evidence:,.0f} against a precision of {target:g}, and the limit is "
        f"{EVIDENCE:g}",
        "checked": monitor.checked,
        "wrong": monitor.wrong,
        "accepted": monitor.accepted,
        "precision": monitor.precision,
        "evidence": monitor.evidence,
    }


def _accepted(labelled: Labelled) -> list[tuple[int, Judgement]]:
    places = enumerate(labelled.judgements)
    return [(n, one) for n, one in places if one.decision.outcome is Outcome.ACCEPT]


def _question(cursor: int, place: int, judgement: Judgement, chance: float) -> QueueItem:
    return QueueItem(
        cursor,
        place,
        judgement.class_name,
        judgement.box,
        judgement.decision.probability,
        Outcome.ACCEPT,
        inclusion=chance,
    )
