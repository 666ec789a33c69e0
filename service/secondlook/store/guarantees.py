"""Guarantees: what precision is guaranteed of a run, its certificate, and its history.

A guarantee changes its state and gets its certificate; each change adds an event to its history in
the same transaction, and no event is ever changed or removed while the guarantee exists.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from secondlook.store.calibrators import put_calibrator
from secondlook.store.database import Database, insert_new, now, sanitize_text
from secondlook.store.runs import Run, load_run, load_run_by_id
from secondlook.store.schema import guarantee_events, guarantees, runs
from secondlook_client.errors import AlreadyExists, NotFound

if TYPE_CHECKING:
    from secondlook.labeling.calibrator import Calibrator

SUGGESTIONS = 5
"""Guarantees that an error names."""
MAX_EVENTS = 1000
"""Of one guarantee's history that are read: the newest."""


APPLIED = "applied"
"""Kind of the event that names the run which it was applied to make."""
HELD_UNTIL = "held_until"
"""In the event of a broken guarantee: when the last box was accepted after which nothing spoke
against it, seconds since 1970; null where there is none."""


class GuaranteeState(StrEnum):
    """How a guarantee stands."""

    ASKING = "asking"
    """Answers of a person are wanted."""
    HOLDS = "holds"
    """Certified, for at least one class or for the run as a whole."""
    NOT_REACHED = "not reached"
    """The answers do not allow to guarantee anything; the certificate says how many more would."""
    BROKEN = "broken"
    """Later answers say that it no longer holds."""
    WITHDRAWN = "withdrawn"
    """A person has withdrawn it."""


@dataclass(frozen=True)
class GuaranteeRow:
    """A guarantee as it stood when it was read."""

    id: int
    name: str
    run: str
    """Name of the run that it is about."""
    calibrator: str
    """Digest; empty where raw probabilities rank the boxes."""
    queue: str
    """Name of the review queue with its sample; empty until that is made."""
    state: GuaranteeState
    settings: Mapping[str, Any]
    """What was asked for, the seed, and the sample."""
    certificate: str
    """JSON; empty until it is certified."""
    monitor: str
    """JSON: how the checks of running jobs stand, see ``jobs.guarantee_checks``; empty before the
    first."""
    created_at: float
    """Seconds since 1970; so is ``updated_at``."""
    updated_at: float


@dataclass(frozen=True)
class GuaranteeEvent:
    """Something that happened to a guarantee."""

    kind: str
    """The state it came to, or another stable word, for example ``applied``."""
    content: Mapping[str, Any]
    created_at: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class AppliedGuarantee:
    """The run that a guarantee was applied to make."""

    run: str
    """Its labels of ``classes`` are those that are guaranteed."""
    classes: tuple[str, ...]
    summary: tuple[str, ...]
    """Sentences for a dataset card."""


class Guarantees:
    """The guarantees of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        run: str,
        settings: Mapping[str, Any],
        calibrator: "Calibrator | None" = None,
    ) -> GuaranteeRow:
        """Begin a guarantee of ``run``, in the state ``ASKING``; ``calibrator`` is stored with it.

        Raises ``AlreadyExists`` when the name is taken and ``NotFound`` for an unknown run.
        """
        with self._database.writing() as connection:
            moment = now()
            row = {
                "name": name,
                "run_id": load_run(connection, run).id,
                "calibrator": put_calibrator(connection, calibrator) if calibrator else "",
                "queue": "",
                "state": GuaranteeState.ASKING,
                "settings": json.dumps(dict(settings), sort_keys=True),
                "certificate": "",
                "monitor": "",
                "created_at": moment,
                "updated_at": moment,
            }
            if not insert_new(connection, guarantees, [row]):
                raise AlreadyExists(
                    f"there is a guarantee '{name:.200}' already; choose another --name"
                )
            made = _load(connection, name)
            _add_event(connection, made.id, GuaranteeState.ASKING, settings)
            return made

    def get(self, name: str) -> GuaranteeRow:
        """The guarantee of that name. Raises ``NotFound``."""
        with self._database.reading() as connection:
            return _load(connection, name)

    def find(self, name: str) -> GuaranteeRow | None:
        """The guarantee of that name; None when there is none."""
        with self._database.reading() as connection:
            row = connection.execute(_ROWS.where(guarantees.c.name == name)).first()
            return _guarantee(row) if row else None

    def page(self, run: str = "", limit: int = 200) -> list[GuaranteeRow]:
        """The newest first; with ``run`` only those of that run."""
        query = _ROWS.where(runs.c.name == run) if run else _ROWS
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(guarantees.c.id.desc()).limit(limit))
            return [_guarantee(row) for row in rows]

    def change(
        self,
        name: str,
        kind: str,
        content: Mapping[str, Any] | None = None,
        *,
        state: GuaranteeState | None = None,
        queue: str | None = None,
        calibrator: "Calibrator | None" = None,
        certificate: str | None = None,
    ) -> GuaranteeRow:
        """Change what is given, and add an event of that ``kind`` to the history.

        ``calibrator`` (a ``Calibrator``) is stored with it. Raises ``NotFound``.
        """
        values: dict[str, Any] = {"updated_at": now()}
        if state is not None:
            values["state"] = state
        if queue is not None:
            values["queue"] = queue
        if certificate is not None:
            values["certificate"] = certificate
        with self._database.writing() as connection:
            row = _load(connection, name)
            if calibrator is not None:
                values["calibrator"] = put_calibrator(connection, calibrator)
            changing = update(guarantees).where(guarantees.c.id == row.id)
            connection.execute(changing.values(**values))
            _add_event(connection, row.id, kind, content or {})
            return _load(connection, name)

    def checked(self) -> list[GuaranteeRow]:
        """Those that hold and of which boxes of running jobs are checked."""
        holding = (guarantees.c.state == GuaranteeState.HOLDS) & (guarantees.c.monitor != "")
        with self._database.reading() as connection:
            return [_guarantee(row) for row in connection.execute(_ROWS.where(holding))]

    def applied(self, name: str) -> AppliedGuarantee | None:
        """The run that it was applied to make last; None before. Raises ``NotFound``."""
        told = [event.content for event in self.events(name) if event.kind == APPLIED]
        if not told:
            return None
        last = told[-1]
        return AppliedGuarantee(last["run"], tuple(last["classes"]), tuple(last["summary"]))

    def jobs(self, name: str) -> list[Run]:
        """The jobs that accepted boxes under it as they ran, the oldest first."""
        told = runs.c.settings.contains('"guarantee"') & runs.c.parent_id.is_(None)
        with self._database.reading() as connection:
            rows = connection.execute(select(runs.c.id, runs.c.settings).where(told)).all()
            ids = [r.id for r in rows if guarantee_of(json.loads(r.settings)) == name]
            return [load_run_by_id(connection, number) for number in sorted(ids)]

    def doubtful_since(self, name: str) -> float | None:
        """From when on, seconds since 1970, what jobs accepted under it is in doubt; None while
        nothing is.

        Of a broken one: since nothing spoke against it for the last time; of one that a person has
        withdrawn, everything. Raises ``NotFound``.
        """
        state = self.get(name).state
        if state is GuaranteeState.WITHDRAWN:
            return 0.0
        if state is not GuaranteeState.BROKEN:
            return None
        told = [one.content for one in self.events(name) if one.kind == GuaranteeState.BROKEN]
        return float(told[-1].get(HELD_UNTIL) or 0.0) if told else 0.0

    def events(self, name: str) -> list[GuaranteeEvent]:
        """The history of a guarantee, oldest first. Raises ``NotFound``."""
        with self._database.reading() as connection:
            of_row = guarantee_events.c.guarantee_id == _load(connection, name).id
            newest = select(guarantee_events).where(of_row).order_by(guarantee_events.c.id.desc())
            rows = connection.execute(newest.limit(MAX_EVENTS)).all()
        return [GuaranteeEvent(r.kind, json.loads(r.content), r.created_at) for r in rows[::-1]]


def guarantee_of(settings: Mapping[str, Any]) -> str:
    """The guarantee that a run of these settings decides under; empty: none."""
    return str(settings.get("guarantee", ""))


def checks_queue_of(name: str) -> str:
    """The review queue with the checks of the jobs that run under a guarantee."""
    return f"{name}-checks"


def locked_guarantee(connection: Connection, name: str) -> GuaranteeRow | None:
    """The guarantee of that name, if there is one; nobody else changes it until the transaction, a
    writing one, ends."""
    query = _ROWS.where(guarantees.c.name == name).with_for_update(of=guarantees)
    row = connection.execute(query).first()
    return _guarantee(row) if row else None


def save_monitor(
    connection: Connection,
    row: GuaranteeRow,
    monitor: str,
    broken: Mapping[str, Any] | None = None,
    events: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> None:
    """Keep how the checks stand, of a ``locked_guarantee``, and ``events`` (kind, content) for its
    history; with ``broken``, what that says of its end, it no longer holds."""
    values: dict[str, Any] = {"monitor": monitor}
    for kind, content in events:
        _add_event(connection, row.id, kind, content)
    if broken is not None:
        values |= {"state": GuaranteeState.BROKEN, "updated_at": now()}
        _add_event(connection, row.id, GuaranteeState.BROKEN, broken)
    connection.execute(update(guarantees).where(guarantees.c.id == row.id).values(values))


_ROWS: Select[Any] = select(guarantees, runs.c.name.label("run")).join(
    runs, runs.c.id == guarantees.c.run_id
)


def _add_event(
    connection: Connection, guarantee_id: int, kind: str, content: Mapping[str, Any]
) -> None:
    row = {
        "guarantee_id": guarantee_id,
        "kind": sanitize_text(kind, 32),
        "content": json.dumps(dict(content), sort_keys=True),
        "created_at": now(),
    }
    connection.execute(insert(guarantee_events), [row])


def _load(connection: Connection, name: str) -> GuaranteeRow:
    row = connection.execute(_ROWS.where(guarantees.c.name == name)).first()
    if row is not None:
        return _guarantee(row)
    newest = select(guarantees.c.name).order_by(guarantees.c.id.desc()).limit(SUGGESTIONS)
    names = ", ".join(f"'{known}'" for known in connection.scalars(newest))
    raise NotFound(
        f"there is no guarantee '{name:.200}' in the store; "
        + (f"the newest are {names}" if names else "make one with `secondlook guarantee create`")
    )


def _guarantee(row: "Row[Any]") -> GuaranteeRow:
    return GuaranteeRow(
        id=row.id,
        name=row.name,
        run=row.run,
        calibrator=row.calibrator,
        queue=row.queue,
        state=GuaranteeState(row.state),
        settings=json.loads(row.settings),
        certificate=row.certificate,
        monitor=row.monitor,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
