"""All rows of one database into another, whichever of the two kinds each is."""

from sqlalchemy import Connection, Select, Table, cast, func, insert, select, text
from sqlalchemy.dialects.postgresql import REGCLASS

from secondlook.store.tables import metadata

AT_ONCE = 500

_COUNTED = [table for table in metadata.sorted_tables if table.kwargs.get("sqlite_autoincrement")]
"""Tables whose numbers are known outside of the store, in label ids and cursors."""


def is_empty(connection: Connection) -> bool:
    """Whether there is no row in any table."""
    return all(
        connection.execute(select(table).limit(1)).first() is None
        for table in metadata.sorted_tables
    )


def copy_rows(source: Connection, sink: Connection) -> int:
    """Copy every row with its number; how many. ``sink`` is empty and of the same schema.

    Numbers that ``source`` has handed out before are handed out by ``sink`` no more, also those
    of rows that are gone.
    """
    total = sum(_copy_table(source, sink, table) for table in metadata.sorted_tables)
    for table in _COUNTED:
        _go_on_from(sink, table, _last_number(source, table))
    if sink.dialect.name == "postgresql":
        for table in metadata.sorted_tables:
            if "id" in table.c and table not in _COUNTED:
                _go_on_from(sink, table, 0)
    return total


def _copy_table(source: Connection, sink: Connection, table: Table) -> int:
    # In the order of their numbers, so that a run comes after the one it refers to.
    query = select(table).order_by(*table.primary_key.columns)
    copied = 0
    for rows in source.execution_options(yield_per=AT_ONCE).execute(query).partitions():
        sink.execute(insert(table), [dict(row._mapping) for row in rows])
        copied += len(rows)
    return copied


def _last_number(connection: Connection, table: Table) -> int:
    """The highest number that was ever handed out."""
    if connection.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return int(connection.execute(query, {"name": table.name}).scalar() or 0)
    sequence = connection.execute(_sequence_of(table)).scalar_one()
    quoted = connection.dialect.identifier_preparer.quote(str(sequence).rpartition(".")[2])
    row = connection.execute(text(f"SELECT last_value, is_called FROM {quoted}")).one()
    return int(row.last_value) if row.is_called else 0


def _go_on_from(connection: Connection, table: Table, number: int) -> None:
    highest = connection.execute(select(func.max(table.c.id))).scalar() or 0
    last = max(number, highest)
    if not last:
        return
    if connection.dialect.name == "postgresql":
        sequence = _sequence_of(table).scalar_subquery()
        connection.execute(select(func.setval(sequence, last)))
        return
    values = {"name": table.name, "last": last}
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), values)
    connection.execute(text("INSERT INTO sqlite_sequence VALUES (:name, :last)"), values)


def _sequence_of(table: Table) -> Select[tuple[str]]:
    return select(cast(func.pg_get_serial_sequence(table.name, "id"), REGCLASS))
