"""What two runs made of the same pictures, side by side."""

from sqlalchemy import Connection, func, select

from secondlook.store.corrections import corrections_of
from secondlook.store.results import RESULTS, Reader, Result
from secondlook.store.runs import Run
from secondlook.store.tables import decisions


def pairs(
    connection: Connection, a: Run, b: Run, after: int = 0, limit: int = 200
) -> list[tuple[Result, Result | None]]:
    """The next results of ``a`` behind the cursor ``after``, each with that of ``b``, or None.

    The same item where both have it, as when one run decided the other again; else the same
    picture, under whatever name ``b`` has it.
    """
    chosen = (decisions.c.run_id == a.id) & (decisions.c.id > after)
    ours = connection.execute(RESULTS.where(chosen).order_by(decisions.c.id).limit(limit)).all()
    if not ours:
        return []
    last = decisions.c.id <= ours[-1].id
    items = select(decisions.c.item_id).where(chosen, last).scalar_subquery()
    pictures = select(decisions.c.picture_id).where(chosen, last).scalar_subquery()
    of_b = decisions.c.run_id == b.id
    by_item = {
        row.item_id: row
        for row in connection.execute(RESULTS.where(of_b, decisions.c.item_id.in_(items)))
    }
    by_picture = {
        row.picture_id: row
        for row in connection.execute(RESULTS.where(of_b, decisions.c.picture_id.in_(pictures)))
    }
    said = corrections_of(connection, pictures)
    reader = Reader(connection)
    found: list[tuple[Result, Result | None]] = []
    for row in ours:
        persons = said.get(row.picture_id, [])
        other = by_item.get(row.item_id) or by_picture.get(row.picture_id)
        theirs = reader.result(b, other, persons) if other is not None else None
        found.append((reader.result(a, row, persons), theirs))
    return found


def pictures_missing(connection: Connection, a: Run, b: Run) -> int:
    """How many pictures have a result in ``b`` and none in ``a``."""
    known = select(decisions.c.picture_id).where(decisions.c.run_id == a.id)
    of_b = (decisions.c.run_id == b.id) & decisions.c.picture_id.not_in(known)
    query = select(func.count(decisions.c.picture_id.distinct())).where(of_b)
    return int(connection.execute(query).scalar_one())
