"""Stores for tests: the fixture ``store`` runs a test on SQLite and on PostgreSQL."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from postgres import Postgres, postgres

if TYPE_CHECKING:
    from secondlook.store import Store

__all__ = ["database_url", "postgres", "store", "store_places"]

_MIGRATED: dict[str, str] = {}
"""Where an empty SQLite store of the current schema is: copying it is quicker."""
_FREE: list[str] = []
"""Empty databases of the current schema: emptying one is quicker than making another."""
_EMPTY_ALL = """
SET lock_timeout = '5s';
DO $$ BEGIN EXECUTE (
  SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY'
  FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
); END $$
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """What ``open_store(tmp_path / "data", database_url)`` takes: empty for SQLite.

    The database has the current schema and no rows.
    """
    if request.param == "sqlite":
        data = tmp_path / "data"
        data.mkdir()
        shutil.copy(_template_file(tmp_path_factory), data / "store.db")
        yield ""
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = _FREE.pop() if _FREE else _new_database(server, tmp_path_factory)
    yield server.url(name)
    with suppress(psycopg.Error):  # a test that left something open; its database is not used again
        server.sql(_EMPTY_ALL, name)
        _FREE.append(name)


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator["Store"]:
    """An empty store in ``tmp_path / "data"``, once on each database."""
    from secondlook.store import open_store

    with open_store(tmp_path / "data", database_url) as opened:
        yield opened


@pytest.fixture
def store_places(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], tuple[Path, str]]:
    """A function from a dialect to (data folder, database URL) of another, unmade store."""

    def place(dialect: str) -> tuple[Path, str]:
        count = len(list(tmp_path.glob("other*")))
        data = tmp_path / f"other{count}"
        data.mkdir()
        if dialect == "sqlite":
            return data, ""
        server: Postgres = request.getfixturevalue("postgres")
        return data, server.url(server.new_database())

    return place


def _template_file(factory: pytest.TempPathFactory) -> str:
    from secondlook.store import open_store

    if "sqlite" not in _MIGRATED:
        data = factory.mktemp("template")
        open_store(data).close()
        _MIGRATED["sqlite"] = str(data / "store.db")
    return _MIGRATED["sqlite"]


def _new_database(server: Postgres, factory: pytest.TempPathFactory) -> str:
    from secondlook.store import open_store

    name = server.new_database()
    open_store(factory.mktemp("template"), server.url(name)).close()
    return name
