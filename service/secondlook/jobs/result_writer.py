"""Outcomes of one job on their way into the store, many in one transaction."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from secondlook.core.errors import LostLease, StorageFull, Unavailable
from secondlook.core.ontology import Ontology
from secondlook.jobs.failures import told
from secondlook.jobs.in_flight import Done
from secondlook.store import Store
from secondlook.store.database import now
from secondlook.store.images import Measured, add_images, measure_images
from secondlook.store.queue import Item, Setback, settle

log = logging.getLogger(__name__)

FULL = 64
"""Outcomes that are written at once, however young."""
LONGEST_S = 0.5
"""An outcome does not wait longer than this for company: a commit costs as much as ten outcomes."""


@dataclass(frozen=True, eq=False)
class _Outcome:
    item: Item
    done: Done | None = None
    setback: Setback | None = None
    """``not_before`` 0 sets the item aside."""


class Commits:
    """Gathers outcomes and writes them; belongs to one thread."""

    def __init__(self, store: Store, name: str, owner: str) -> None:
        """``name`` is the job's. Raises ``NotFound`` and ``Damaged``."""
        self._store = store
        self._owner = owner
        self._run = store.records.run(name)
        self._pending: list[_Outcome] = []
        self._oldest = 0.0

    @property
    def ontology(self) -> Ontology:
        """What the job labels with."""
        return self._run.ontology

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def pending(self) -> set[int]:
        """Ids of the items whose outcome is not written yet."""
        return {outcome.item.id for outcome in self._pending}

    def due(self) -> bool:
        """Whether it is time to write."""
        old = time.monotonic() - self._oldest > LONGEST_S
        return bool(self._pending) and (old or len(self._pending) >= FULL)

    def done(self, item: Item, done: Done) -> None:
        """An item has a result."""
        self._add(_Outcome(item, done=done))

    def aside(self, item: Item, reason: str, message: str) -> None:
        """An item will never have one."""
        self._add(_Outcome(item, setback=Setback(item.id, reason, message)))

    def later(self, item: Item, reason: str, message: str, wait_s: float) -> None:
        """An item is to be tried again after ``wait_s``."""
        self._add(_Outcome(item, setback=Setback(item.id, reason, message, now() + wait_s)))

    def write(self) -> None:
        """Make all outcomes durable.

        Raises ``LostLease``, and ``Unavailable`` or ``StorageFull``: then all are still pending.
        """
        if not self._pending:
            return
        try:
            self._write(self._pending)
        except (LostLease, Unavailable, StorageFull):
            raise
        except Exception:
            log.exception("%d results cannot be kept together", len(self._pending))
            for outcome in self._pending:
                self._write_alone(outcome)
        self._pending = []
        if not self._run.named:  # by the first result of its models
            self._run = self._store.records.run(self._run.name)

    def _add(self, outcome: _Outcome) -> None:
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(outcome)

    def _write_alone(self, outcome: _Outcome) -> None:
        """A result that the database refuses is its image's fault, and no other's."""
        try:
            self._write([outcome])
        except (LostLease, Unavailable, StorageFull):
            raise
        except Exception as failure:
            log.exception("a result cannot be kept", extra={"item": outcome.item.name})
            self._write([_Outcome(outcome.item, None, Setback(outcome.item.id, *told(failure)))])

    def _write(self, outcomes: Sequence[_Outcome]) -> None:
        done = [(o.item, o.done) for o in outcomes if o.done]
        setbacks = [o.setback for o in outcomes if o.setback]
        with self._store.database.writing() as connection:
            numbers = add_images(connection, [of_item.image for _, of_item in done])
            results, measured = [], []
            for item, of_item in done:
                labelled, image = of_item.labelled, numbers[of_item.image.sha256]
                results.append((item.id, image, labelled))
                size = labelled.width, labelled.height
                measured.append(Measured(image, *size, of_item.perceptual_hash))
            measure_images(connection, measured)
            self._store.records.keep_all(connection, self._run, results)
            settle(
                connection,
                self._run.id,
                self._owner,
                {item: image for item, image, _ in results},
                failed=[setback for setback in setbacks if not setback.not_before],
                later=[setback for setback in setbacks if setback.not_before],
            )
