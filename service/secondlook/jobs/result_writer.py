"""Writes the outcomes of one job into the store, many in one transaction."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from secondlook.jobs.failures import describe_failure
from secondlook.jobs.guarantee_checks import GuaranteedJob
from secondlook.jobs.in_flight import LabelledItem
from secondlook.store import Store
from secondlook.store.database import now
from secondlook.store.guarantees import guarantee_of
from secondlook.store.images import ImageMeasurement, add_images, measure_images
from secondlook.store.queue import FailedAttempt, Item, record_outcomes, same_items
from secondlook.store.results import cursors_of
from secondlook.store.runs import Run
from secondlook_client.errors import LostLease, StorageFull, Unavailable

log = logging.getLogger(__name__)

BATCH = 64
"""Outcomes that are written at once, however recent."""
BATCH_WINDOW_S = 0.5
"""How long an outcome waits for others: a commit costs as much as ten outcomes."""


@dataclass(frozen=True, eq=False)
class _Outcome:
    item: Item
    result: LabelledItem | None = None
    failed: FailedAttempt | None = None
    """With ``not_before`` 0 the item fails, else it is retried."""


class ResultWriter:
    """Collects outcomes and writes them in batches; belongs to one thread."""

    def __init__(self, store: Store, name: str, owner: str) -> None:
        """``name`` is the job's. Raises ``NotFound`` and ``Damaged``."""
        self._store = store
        self._owner = owner
        self._run = store.results.run(name)
        under = guarantee_of(self._run.settings)
        self._guaranteed = GuaranteedJob(store, self._run) if under else None
        self._pending: list[_Outcome] = []
        self._oldest = 0.0

    @property
    def run(self) -> Run:
        """The job's: what it labels with."""
        return self._run

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def pending(self) -> set[int]:
        """Ids of the items whose outcome is not written yet."""
        return {outcome.item.id for outcome in self._pending}

    def due(self) -> bool:
        """Whether it is time to write."""
        expired = time.monotonic() - self._oldest > BATCH_WINDOW_S
        return bool(self._pending) and (expired or len(self._pending) >= BATCH)

    def done(self, item: Item, result: LabelledItem) -> None:
        """Record the result of an item."""
        self._add(_Outcome(item, result=result))

    def failed(self, item: Item, reason: str, message: str) -> None:
        """Record that an item failed for good."""
        self._add(_Outcome(item, failed=FailedAttempt(item.id, reason, message)))

    def retry(self, item: Item, reason: str, message: str, wait_s: float) -> None:
        """Record that an item is to be tried again after ``wait_s`` seconds."""
        self._add(_Outcome(item, failed=FailedAttempt(item.id, reason, message, now() + wait_s)))

    def write(self) -> None:
        """Make all outcomes durable.

        Raises ``LostLease``, and ``Unavailable`` or ``StorageFull``: then all remain pending.
        """
        if not self._pending:
            return
        try:
            self._write(self._pending)
        except (LostLease, Unavailable, StorageFull):
            raise
        except Exception:
            log.exception("a batch of %d results cannot be written", len(self._pending))
            for outcome in self._pending:
                self._write_alone(outcome)
        self._pending = []
        if not self._run.named:  # the first result of its models names them
            self._run = self._store.results.run(self._run.name)

    def _add(self, outcome: _Outcome) -> None:
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(outcome)

    def _write_alone(self, outcome: _Outcome) -> None:
        """So that a result which the database refuses fails its own image only."""
        try:
            self._write([outcome])
        except (LostLease, Unavailable, StorageFull):
            raise
        except Exception as failure:
            log.exception("a result cannot be written", extra={"item": outcome.item.name})
            failed = FailedAttempt(outcome.item.id, *describe_failure(failure))
            self._write([_Outcome(outcome.item, failed=failed)])

    def _write(self, outcomes: Sequence[_Outcome]) -> None:
        guaranteed = self._guaranteed
        if guaranteed:
            guaranteed.refresh()
        labelled = [(o.item, self._decided(o.result)) for o in outcomes if o.result]
        with self._store.database.writing() as connection:
            same = same_items(connection, self._run.id, [o.item for o in outcomes])
            failed = [o.failed for o in outcomes if o.failed and o.item.id in same]
            if guaranteed and guaranteed.lock(connection):  # it ended while they were decided
                labelled = [(item, self._decided(result)) for item, result in labelled]
            ids = add_images(connection, [result.image for _, result in labelled])
            results, measured = [], []
            for item, result in labelled:
                if item.id not in same:
                    continue
                image_id, found = ids[result.image.sha256], result.labelled
                results.append((item.id, image_id, found))
                size = found.width, found.height
                measured.append(ImageMeasurement(image_id, *size, result.perceptual_hash))
            measure_images(connection, measured)
            items = [item for item, _, _ in results]
            known = cursors_of(connection, self._run.id, items) if guaranteed else {}
            self._store.results.add(connection, self._run, results)
            record_outcomes(
                connection,
                self._run.id,
                self._owner,
                {item: image for item, image, _ in results},
                failed=[one for one in failed if not one.not_before],
                retries=[one for one in failed if one.not_before],
            )
            if guaranteed:  # the lease is known to be ours now
                guaranteed.draw(connection, results, known)

    def _decided(self, result: LabelledItem) -> LabelledItem:
        if self._guaranteed is None:
            return result
        return replace(result, labelled=self._guaranteed.decide(result.labelled))
