"""Runs: one way of deciding over one set of images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select, update

from secondlook.core.errors import AlreadyExists, NotFound
from secondlook.core.ontology import Ontology
from secondlook.core.types import STUDENT
from secondlook.store import ontologies
from secondlook.store.database import insert_new, now
from secondlook.store.schema import runs

NAMED = 5
"""Runs that an error offers."""
MAX_IOU = 0.6
"""Overlap above which two boxes of a contrast group are one, for runs that do not say."""


@dataclass(frozen=True)
class Run:
    """What a run decides by."""

    id: int
    name: str
    kind: str
    """``folder``, ``upload``, ``capture`` or ``redecide``."""
    ontology_id: int
    ontology: Ontology
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``floor``, ``max_boxes`` and ``max_iou`` as they were in force; with a student, ``cascade``
    (its name) and what it may decide by itself."""
    proposer: str = ""
    """Name and digest; empty until an image is done, a student's until its teachers did one."""
    verifier: str = ""
    parent_id: int | None = None
    """The run whose evidence this one decides again."""
    created_at: float = 0.0

    @property
    def named(self) -> bool:
        """Whether the proposer and verifier are known, rather than only a student of theirs."""
        return bool(self.proposer) and not self.proposer.startswith(STUDENT)

    @property
    def max_iou(self) -> float:
        """Two boxes of one contrast group that overlap more are one object, [0, 1]."""
        return float(self.settings.get("max_iou", MAX_IOU))


def create_run(
    connection: Connection,
    name: str,
    kind: str,
    ontology: Ontology,
    settings: Mapping[str, Any],
    parent: Run | None = None,
) -> Run:
    """Add a run. Raises ``AlreadyExists`` when the name is taken."""
    row = {
        "name": name,
        "kind": kind,
        "ontology_id": ontologies.ontology_id(connection, ontology),
        "proposer": parent.proposer if parent else "",
        "verifier": parent.verifier if parent else "",
        "settings": json.dumps(dict(settings), sort_keys=True),
        "parent_id": parent.id if parent else None,
        "created_at": now(),
    }
    if not insert_new(connection, runs, [row]):
        raise AlreadyExists(f"there is a run '{name}' already; choose another name")
    return load_run(connection, name)


def load_run(connection: Connection, name: str) -> Run:
    """The run of that name. Raises ``NotFound``."""
    row = connection.execute(select(runs).where(runs.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no run '{name}' in the store; {_newest(connection)}")
    return _run(connection, row)


def _newest(connection: Connection) -> str:
    """What there is, for whoever asked for something else."""
    names = connection.scalars(select(runs.c.name).order_by(runs.c.id.desc()).limit(NAMED)).all()
    if not names:
        return "nothing is labelled there yet"
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"the newest are {quoted}" if len(names) > 1 else f"there is {quoted}"


def load_run_by_id(connection: Connection, run_id: int) -> Run:
    """The run of that number. Raises ``NotFound``."""
    row = connection.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise NotFound(f"there is no run number {run_id} in the store")
    return _run(connection, row)


def name_models(connection: Connection, run: Run, proposer: str, verifier: str) -> None:
    """Keep which models a run's first image was labelled by; later calls change nothing.

    Only that a student's name gives way to those of its teachers.
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
    )
