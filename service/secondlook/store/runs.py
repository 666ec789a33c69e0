"""Runs: one ontology and one configuration applied to one set of images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from secondlook.core.types import STUDENT
from secondlook.store import ontologies
from secondlook.store.database import insert_new, now
from secondlook.store.schema import decisions, runs
from secondlook_client.errors import AlreadyExists, NotFound
from secondlook_client.ontology import Ontology

BATCH = 500
"""Names a statement: below every database's limit of parameters."""
SUGGESTIONS = 5
"""Runs that an error names."""
MAX_IOU = 0.6
"""Default of ``nms_iou``, for runs without one in their settings."""
DUPLICATE_IOU = 0.45
"""The same of ``duplicate_iou``."""


@dataclass(frozen=True)
class Run:
    """A run and the configuration that it decides by."""

    id: int
    name: str
    kind: str
    """``folder``, ``upload``, ``capture`` or ``redecide``."""
    ontology_id: int
    ontology: Ontology
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``score_floor``, ``max_boxes``, ``nms_iou`` and ``duplicate_iou`` as they were in force, and
    the digest of the ``calibrator``; with a student also ``cascade`` (its name) and what it may
    decide alone."""
    proposer: str = ""
    """Name and digest; empty until an image is done, and the student's until its teachers
    labelled one."""
    verifier: str = ""
    parent_id: int | None = None
    """The run whose evidence this one re-decides."""
    created_at: float = 0.0
    created_by: str = ""
    """Name of the token that made it; empty: without tokens, or before them."""

    @property
    def named(self) -> bool:
        """Whether the proposer and verifier are known, rather than only their student."""
        return bool(self.proposer) and not self.proposer.startswith(STUDENT)

    @property
    def nms_iou(self) -> float:
        """IoU above which two boxes of one contrast group are one object, [0, 1]."""
        return float(self.settings.get("nms_iou", MAX_IOU))

    @property
    def duplicate_iou(self) -> float:
        """The same for accepted boxes of a class, [0, 1]; 1 keeps them all.

        Runs of before kept duplicates; where one is decided again, they go, unless it had switched
        off suppression altogether.
        """
        default = DUPLICATE_IOU if self.nms_iou < 1 else 1.0
        return float(self.settings.get("duplicate_iou", default))

    @property
    def calibrator(self) -> str:
        """Digest of the calibrator whose probabilities it decides by; empty: none."""
        return str(self.settings.get("calibrator", ""))

    @property
    def verify_budget(self) -> str:
        """Which questions went unasked on purpose: the setting ``verify_budget``; "all": none."""
        return str(self.settings.get("verify_budget", "all"))


def create_run(
    connection: Connection,
    name: str,
    kind: str,
    ontology: Ontology,
    settings: Mapping[str, Any],
    parent: Run | None = None,
    created_by: str = "",
) -> Run:
    """Insert a run. Raises ``AlreadyExists`` when the name is taken."""
    row = {
        "name": name,
        "kind": kind,
        "ontology_id": ontologies.ontology_id(connection, ontology),
        "proposer": parent.proposer if parent else "",
        "verifier": parent.verifier if parent else "",
        "settings": json.dumps(dict(settings), sort_keys=True),
        "parent_id": parent.id if parent else None,
        "created_at": now(),
        "created_by": created_by,
    }
    if not insert_new(connection, runs, [row]):
        raise AlreadyExists(f"there is a run '{name}' already; choose another name")
    return load_run(connection, name)


def load_run(connection: Connection, name: str) -> Run:
    """The run of that name. Raises ``NotFound``."""
    row = connection.execute(select(runs).where(runs.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no run '{name:.200}' in the store; {_newest(connection)}")
    return _run(connection, row)


def load_runs(connection: Connection, names: Sequence[str]) -> list[Run]:
    """The runs of these names, in order. Raises ``NotFound`` for the first that is missing."""
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(names), BATCH):
        some = select(runs).where(runs.c.name.in_(names[start : start + BATCH]))
        found.update((row.name, row) for row in connection.execute(some))
    for name in names:
        if name not in found:
            raise NotFound(f"there is no run '{name:.200}' in the store; {_newest(connection)}")
    return [_run(connection, found[name]) for name in names]


def _newest(connection: Connection) -> str:
    """The newest runs, for an error message."""
    names = connection.scalars(
        select(runs.c.name).order_by(runs.c.id.desc()).limit(SUGGESTIONS)
    ).all()
    if not names:
        return "nothing is labelled there yet"
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"the newest are {quoted}" if len(names) > 1 else f"there is {quoted}"


def load_run_by_id(connection: Connection, run_id: int) -> Run:
    """The run of that id. Raises ``NotFound``."""
    row = connection.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise NotFound(f"there is no run number {run_id} in the store")
    return _run(connection, row)


@dataclass(frozen=True)
class RunCount:
    """A run and how much there is of it."""

    run: Run
    images: int
    """With a result."""
    parent: str
    """Name of the run that it decides again; empty: of none."""


def page_of_runs(
    connection: Connection, before: int | None, limit: int, text: str = ""
) -> list[RunCount]:
    """The newest runs below the id ``before``, at most ``limit``, with ``text`` in their names."""
    query = select(runs).order_by(runs.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(runs.c.id < before)
    if text:
        query = query.where(runs.c.name.icontains(text, autoescape=True))
    return count_runs(connection, [_run(connection, row) for row in connection.execute(query)])


def count_runs(connection: Connection, found: Sequence[Run]) -> list[RunCount]:
    """How much there is of each of the runs, at most some hundred."""
    of_runs = decisions.c.run_id.in_([run.id for run in found])
    counting = select(decisions.c.run_id, func.count()).where(of_runs).group_by(decisions.c.run_id)
    counts = {row[0]: row[1] for row in connection.execute(counting)}
    parents = {run.parent_id for run in found if run.parent_id is not None}
    naming = select(runs.c.id, runs.c.name).where(runs.c.id.in_(parents))
    names = {row.id: row.name for row in connection.execute(naming)}
    return [
        RunCount(run, counts.get(run.id, 0), names.get(run.parent_id or 0, "")) for run in found
    ]


def source_run(connection: Connection, run: Run) -> Run:
    """The run whose models labelled the images: ``run`` itself, or the one that it re-decided."""
    while run.parent_id is not None:
        run = load_run_by_id(connection, run.parent_id)
    return run


def name_models(connection: Connection, run: Run, proposer: str, verifier: str) -> None:
    """Set the models that labelled a run's first image; later calls change nothing.

    A student's name is replaced by its teachers' once these have labelled an image.
    """
    if run.named or run.proposer == proposer:
        return
    unnamed = runs.c.proposer == ""
    if not proposer.startswith(STUDENT):
        unnamed |= runs.c.proposer.startswith(STUDENT, autoescape=True)
    connection.execute(
        update(runs)
        .where(runs.c.id == run.id, unnamed)
        .values(proposer=proposer, verifier=verifier)
    )


def _run(connection: Connection, row: "Row[Any]") -> Run:
    return Run(
        id=row.id,
        name=row.name,
        kind=row.kind,
        ontology_id=row.ontology_id,
        ontology=ontologies.load_ontology(connection, row.ontology_id),
        settings=json.loads(row.settings),
        proposer=row.proposer,
        verifier=row.verifier,
        parent_id=row.parent_id,
        created_at=row.created_at,
        created_by=row.created_by,
    )
