"""Jobs under a guarantee: their boxes are decided by its certificate, and a few are checked.

A job whose settings name a guarantee accepts a box from the guaranteed limit of its class on.
Of what it accepts, ``PrecisionMonitor`` draws a trickle of checks into the review queue
``checks_queue_of(name)``, in the transaction that stores the results: whatever is stored was drawn
from once. The answers are counted in the order of the queue, each once, whoever gave it; what is
taken back later stays counted, or one box would count twice. Once they say that the guarantee no
longer holds, its state is ``BROKEN``, and the results that are written from then on have no box
that is accepted under it.
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
from secondlook.labeling.decisions import judge
from secondlook.store import Store
from secondlook.store.guarantees import (
    GuaranteeRow,
    GuaranteeState,
    checks_queue_of,
    locked_guarantee,
    save_monitor,
)
from secondlook.store.results import cursors_of
from secondlook.store.reviews import QueueItem, append_to_queue
from secondlook.store.runs import Run
from secondlook_client.errors import NotFound
from secondlook_client.values import Decision, Judgement, LabelPath, Outcome, ReviewAnswer

log = logging.getLogger(__name__)

ORDER = "checks"
"""Of the queue: as they were drawn."""
PAGE = 200
"""Answers that are counted in one transaction."""


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

    def __str__(self) -> str:
        found = f", about {self.precision:.1%} right" if self.precision is not None else ""
        return f"{self.checked:,} checked, {self.wrong:,} wrong{found}; {self.waiting:,} to answer"


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

    def refresh(self) -> None:
        """See whether the guarantee still holds."""
        self._over = _reason_of(self._store.guarantees.find(self.name), self.name)

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
        accepted = {item: _accepted(one) for item, _, one in results if item not in known}
        if not any(accepted.values()):
            return
        row = locked_guarantee(connection, self.name)
        if row is None or row.state is not GuaranteeState.HOLDS:
            return
        counted, monitor = _monitor_of(row)
        cursors = cursors_of(connection, self._run.id, [*accepted])
        asked = []
        for item, places in accepted.items():
            if places and (check := monitor.draw(f"{self._run.id}/{item}", len(places))):
                place, judgement = places[check.box]
                asked.append(_question(cursors[item], place, judgement, check.chance))
        told = {"guarantee": row.name}
        queue = checks_queue_of(row.name)
        append_to_queue(connection, queue, row.run, asked, ORDER, told)
        save_monitor(connection, row, _text_of(counted, monitor))

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


def guarantee_of(settings: Mapping[str, Any]) -> str:
    """The guarantee that a job of these settings runs under; empty: none."""
    return str(settings.get("guarantee", ""))


def count_answers(store: Store) -> None:
    """Count the answers that came since the last call, of every guarantee; cheap when none did."""
    for row in store.guarantees.checked():
        while _counted(store, row.name, _monitor_of(row)[0]):
            row = store.guarantees.get(row.name)


def checks_status(store: Store, row: GuaranteeRow) -> ChecksStatus | None:
    """How the checks under a guarantee stand; None before the first box was accepted under it."""
    if not row.monitor:
        return None
    _, monitor = _monitor_of(row)
    waiting = 0
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
        counted, monitor = _monitor_of(row)
        if counted != after:  # another server was faster
            return True
        for number, check, right in answers:
            counted = number
            if not monitor.observe(check, right):
                break
        broken = None if monitor.holds else _broken(monitor, float(row.settings["target"]))
        save_monitor(connection, row, _text_of(counted, monitor), broken)
    if broken:
        log.warning("guarantee '%s' no longer holds: %s", name, broken["reason"])
    return monitor.holds and len(answers) == PAGE


def _answers(store: Store, queue: str, after: int) -> list[tuple[int, Check, bool]]:
    """The next checks of a queue, as far as there is none without an answer before them: (item,
    check, right)."""
    found: list[tuple[int, Check, bool]] = []
    try:
        first = store.reviews.items(queue, after, 1)
        items = store.reviews.items(queue, after, PAGE) if first and first[0][1] else []
    except NotFound:
        return []
    for item, review in items:
        if review is None:
            break
        check = Check(int(item.label_id.partition(".")[2]), item.inclusion)
        found.append((item.id, check, review.answer is ReviewAnswer.RIGHT))
    return found


def _broken(monitor: PrecisionMonitor, target: float) -> dict[str, Any]:
    """What the history of a guarantee says of its end."""
    return {
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


def _monitor_of(row: GuaranteeRow) -> tuple[int, PrecisionMonitor]:
    """The item up to which answers are counted, and the monitor."""
    if not row.monitor:
        target = float(row.settings["target"])
        return 0, PrecisionMonitor(target, rate=RATE, seed=f"{row.name}/{row.created_at}")
    told = json.loads(row.monitor)
    return int(told["counted"]), PrecisionMonitor.from_json(told["monitor"])


def _text_of(counted: int, monitor: PrecisionMonitor) -> str:
    return json.dumps({"counted": counted, "monitor": monitor.to_json()})


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
