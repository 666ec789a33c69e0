"""Who labelled a run's pictures, over time: its models, a student, or both for an audit."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, cast, func, select

from secondlook.labels import LabelPath, path_of
from secondlook.store.tables import decisions, evidence
from secondlook.store.texts import speakers_of, texts_of

PARTS = 24
"""Stretches of time that a run is told in, of one length."""


@dataclass(frozen=True)
class Stretch:
    """What was labelled in a part of a run's time."""

    begin: float
    end: float
    """Seconds since 1970."""
    pictures: Mapping[LabelPath, int]


def paths_over_time(connection: Connection, run_id: int) -> list[Stretch]:
    """The stretches of a run in which something was labelled, the oldest first.

    Reads two numbers of each result: some seconds for a million of them.
    """
    of_run = decisions.c.run_id == run_id
    span = select(func.min(decisions.c.made_at), func.max(decisions.c.made_at)).where(of_run)
    first, last = connection.execute(span).one()
    if first is None:
        return []
    width = max((last - first) / PARTS, 1e-3)
    # A cast to a whole number rounds on one database and cuts on another; nothing hangs on it.
    part = cast((decisions.c.made_at - first) / width, Integer)
    query = (
        select(part.label("part"), evidence.c.proposer_id, func.count())
        .join(evidence, evidence.c.id == decisions.c.evidence_id)
        .where(of_run)
        .group_by("part", evidence.c.proposer_id)  # not `part`: its parameters would be others
    )
    rows = connection.execute(query).all()
    names = texts_of(connection, {proposer for _, proposer, _ in rows})
    counts: dict[int, Counter[LabelPath]] = {}
    for number, proposer, count in rows:
        path = path_of(*speakers_of(names[proposer]))
        counts.setdefault(min(number, PARTS - 1), Counter())[path] += count
    return [
        Stretch(first + width * number, first + width * (number + 1), counts[number])
        for number in sorted(counts)
    ]
