"""Schema migrations: from any older schema to the current one, in one transaction.

A store is migrated when it is opened. A change of ``schema.py`` comes with a new file in
``versions`` and a new ``CURRENT``.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from secondlook.store.database import Database
from secondlook_client.errors import Damaged, InvalidInput

CURRENT = "0011"
"""The revision that ``schema.py`` describes."""
FOLDER = Path(__file__).parent
_LOCK = 7_236_911
"""Names the lock under which one server at a time upgrades a PostgreSQL; any number does."""


def upgrade(database: Database) -> None:
    """Migrate the database, which may be empty, to the current schema.

    Raises ``InvalidInput`` when a newer version made it, ``Damaged`` when it is not ours.
    """
    if revision_of(database) == CURRENT:
        return
    with database.writing() as connection:
        if database.dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        revision = _revision(connection)
        if revision == CURRENT:  # another server was faster
            return
        _run(connection, revision)


def revision_of(database: Database) -> str | None:
    """The schema of a database; None for an empty one. Raises ``Damaged`` when it is not ours."""
    with database.reading() as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    """None for an empty database."""
    found = inspect(connection).get_table_names()
    if "alembic_version" in found:
        rows = connection.execute(text("SELECT version_num FROM alembic_version")).all()
        if len(rows) == 1:
            return str(rows[0][0])
    if found:
        raise Damaged(
            f"the database holds tables that are not this store's ({', '.join(found[:3])}); give "
            "it a database of its own"
        )
    return None


def _run(connection: Connection, revision: str | None) -> None:
    # Imported here: only a new or an older database needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise InvalidInput(
            f"the store was made by a newer secondlook (its schema is {revision[:20]}, this "
            f"version knows up to {CURRENT}); install that version, or give another --data"
        )
    command.upgrade(config, "head")
