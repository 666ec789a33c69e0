import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from secondlook.store import Store, migrations, open_store
from secondlook.store.database import Database
from secondlook.store.images import NewImage, add_images
from secondlook.store.schema import images, metadata
from secondlook.store.training_jobs import TrainingSpec
from secondlook_client.errors import Damaged, InvalidInput
from secondlook_client.values import TrainingState

DIALECTS = ["sqlite", "postgresql"]
NEXT = """
import sqlalchemy as sa
from alembic import op
revision = "9999"
down_revision = "{before}"

def upgrade() -> None:
    with op.batch_alter_table("images") as batch:
        batch.add_column(sa.Column("colour", sa.Text(), server_default="grey", nullable=False))
    {then}
"""


def revision_of(database: Database) -> str:
    with database.reading() as connection:
        query = text("SELECT version_num FROM alembic_version")
        return str(connection.execute(query).scalar_one())


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this version one that knows a further schema, whose step ends with a statement."""

    def become(then: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migrations.FOLDER, folder, dirs_exist_ok=True)
        step = NEXT.format(before=migrations.CURRENT, then=then)
        (folder / "versions" / "9999_next.py").write_text(step)
        monkeypatch.setattr(migrations, "FOLDER", folder)
        monkeypatch.setattr(migrations, "CURRENT", "9999")

    return become


def test_the_steps_lead_to_the_tables_as_they_are(store: Store) -> None:
    with store.database.reading() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    assert revision_of(store.database) == migrations.CURRENT


def test_current_is_the_last_step() -> None:
    script = ScriptDirectory(str(migrations.FOLDER))
    assert script.get_heads() == [migrations.CURRENT]


def test_checks_and_numbers_are_those_of_the_tables(store: Store) -> None:
    # Alembic compares neither.
    with store.database.reading() as connection:
        found = inspect(connection)
        for table in metadata.tables.values():
            checks = {check["name"] for check in found.get_check_constraints(table.name)}
            wanted = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
            assert checks == wanted
        if store.database.dialect == "sqlite":
            query = text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")
            counted = {row.name for row in connection.execute(query)}
            tables = metadata.tables.values()
            assert counted == {t.name for t in tables if t.kwargs.get("sqlite_autoincrement")}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_store_of_the_first_schema_gets_models_and_keeps_its_rows(dialect, store_places):
    data, url = place = store_places(dialect)
    database = Database(url) if url else Database.in_file(data / "store.db")
    with database.writing() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations.FOLDER))
        command.upgrade(config, "0001")
        connection.execute(
            text("INSERT INTO texts (digest, text) VALUES (:d, 'kept')"), {"d": b"1"}
        )
        connection.execute(
            text(
                "INSERT INTO pictures (sha256, size, width, height, format, likeness, added_at) "
                "VALUES (:sha256, 7, 640, 480, 'png', -5, 0.0)"
            ),
            {"sha256": bytes(range(32))},
        )
        counts = {"pictures": 3, "splits": {"train": {"pictures": 3, "groups": 1}}}
        connection.execute(
            text(
                "INSERT INTO snapshots (name, manifest, query, statistics, pictures, created_at) "
                "VALUES ('old', 'ab', :query, :statistics, 3, 0.0)"
            ),
            {"query": json.dumps({"group_by": "likeness"}), "statistics": json.dumps(counts)},
        )
        connection.execute(text("INSERT INTO snapshot_pictures VALUES (1, 1)"))
    assert revision_of(database) == "0001"
    assert "model_versions" not in tables_of(database)
    database.close()
    with open_store(*place) as store:
        assert revision_of(store.database) == migrations.CURRENT
        assert tables_of(store.database) >= {"model_versions", "model_files", "training_jobs"}
        with store.database.reading() as connection:
            assert connection.execute(text("SELECT text FROM texts")).scalars().all() == ["kept"]
            kept = connection.execute(images.select()).one()
            assert (kept.sha256, kept.perceptual_hash) == (bytes(range(32)), -5)
            old = connection.execute(text("SELECT query, statistics, images FROM snapshots")).one()
            assert json.loads(old.query) == {"group_by": "similarity"}
            assert json.loads(old.statistics) == {
                "images": 3,
                "splits": {"train": {"images": 3, "groups": 1}},
            }
            held = connection.execute(text("SELECT snapshot_id, image_id FROM snapshot_images"))
            assert held.all() == [(1, 1)]
        with store.database.writing() as connection:  # numbers go on where they were
            added = add_images(connection, [NewImage("ab" * 32, 7, "png")])
            assert added == {"ab" * 32: kept.id + 1}
        assert store.model_versions.page() == store.training_jobs.page() == []


OLD_ROWS = (
    "INSERT INTO ontologies (digest, classes) VALUES ('d', '[]')",
    "INSERT INTO texts (digest, text) VALUES ('1', 'a model')",
    "INSERT INTO pictures (sha256, size, width, height, format, added_at) "
    "VALUES ('2', 7, 640, 480, 'png', 1.5)",
    "INSERT INTO runs (name, kind, ontology_id, proposer, verifier, settings, created_at) "
    "VALUES ('night', 'folder', 1, '', '', '{\"floor\": 0.1, \"max_iou\": 0.6}', 1.5)",
    "INSERT INTO jobs VALUES (1, 'running', '', false, 1, 0, 1, '', 0.0, '', 2.5)",
    "INSERT INTO items (run_id, key, name, size, changed_ns, picture_id, state, tries, not_before, "
    "reason, message) VALUES (1, 5, 'a.png', 7, 11, 1, 2, 3, 0.0, 'bad_image', 'torn')",
    "INSERT INTO evidence (picture_id, ontology_id, proposer_id, verifier_id, content, made_at) "
    "VALUES (1, 1, 1, 1, '3', 3.5)",
    "INSERT INTO decisions (run_id, item_id, picture_id, evidence_id, accepted, rejected, unsure, "
    "content, made_at) VALUES (1, 1, 1, 1, 0, 0, 0, '4', 4.5)",
    "INSERT INTO corrections (picture_id, class_name, x1, y1, x2, y2, outcome, person, note, "
    "made_at) VALUES (1, 'dog', 0, 0, 1, 1, 'accept', 'Ann', '', 5.5)",
    "INSERT INTO model_versions (name, version, digest, manifest, report, snapshot, created_at) "
    "VALUES ('street', 1, 'd', '{}', '', '', 6.5)",
    "INSERT INTO model_promotions (model_id, name, kind, reason, made_at) "
    "VALUES (1, 'street', 'promote', '', 7.5)",
    "INSERT INTO trainings (model, snapshot, settings, state, progress, message, version, starts, "
    "owner, lease_until, created_at, changed_at) "
    "VALUES ('street', 'week-1', '{}', 'running', '', '', 0, 4, '', 0.0, 8.5, 9.5)",
)
NEW_COLUMNS = {
    "SELECT id, updated_at FROM jobs JOIN runs ON runs.id = jobs.run_id": (1, 2.5),
    "SELECT settings FROM runs": ('{"score_floor": 0.1, "nms_iou": 0.6}',),
    "SELECT mtime_ns, image_id, attempts, reason FROM items": (11, 1, 3, "bad_image"),
    "SELECT image_id, created_at FROM evidence": (1, 3.5),
    "SELECT image_id, created_at FROM decisions": (1, 4.5),
    "SELECT image_id, answer, person, created_at FROM reviews": (1, "right", "Ann", 5.5),
    "SELECT model_id, created_at FROM model_promotions": (1, 7.5),
    "SELECT attempts, created_at, updated_at FROM training_jobs": (4, 8.5, 9.5),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rows_of_the_second_schema_are_there_under_the_new_names(dialect, store_places):
    data, url = place = store_places(dialect)
    database = Database(url) if url else Database.in_file(data / "store.db")
    with database.writing() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations.FOLDER))
        command.upgrade(config, "0002")
        for statement in OLD_ROWS:
            connection.execute(text(statement))
        connection.execute(text("UPDATE pictures SET sha256 = :sha256"), {"sha256": bytes(32)})
    database.close()
    with open_store(*place) as store:
        with store.database.reading() as connection:
            for query, row in NEW_COLUMNS.items():
                assert tuple(connection.execute(text(query)).one()) == row
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, metadata) == []
            assert old_names(connection) == []
        (failed,) = store.queue.failures(1)
        assert (failed.name, failed.attempts) == ("a.png", 3)
        (review,) = store.reviews.history()
        assert store.reviews.add_from([review]) == (0, 1)  # its key is what a new one would have
        assert store.queue.retry("night") == 1 and store.queue.get("night").waiting == 1
        first = store.training_jobs.get(1)
        assert (first.state, first.updated_at) == (TrainingState.RUNNING, 9.5)
        # Ids continue where they were.
        assert store.training_jobs.create(TrainingSpec("street", "week-1")).id == 2


def old_names(connection: Connection) -> list[str]:
    """Names of tables, indexes, constraints and sequences that still use the old terms."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name || ' ' || coalesce(sql, '') FROM sqlite_master"
    else:
        query = (
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace "
            "UNION SELECT conname FROM pg_constraint "
            "WHERE connamespace = current_schema()::regnamespace AND contype != 'n'"
        )
    found = connection.execute(text(query)).scalars().all()
    return [name for name in found if re.search("picture|trainings|likeness|made_at", name)]


def tables_of(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(inspect(connection).get_table_names())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_older_database_is_brought_up_with_all_its_rows(dialect, store_places, newer):
    place = store_places(dialect)
    with open_store(*place) as store, store.database.writing() as connection:
        add_images(connection, [NewImage("ab" * 32, 7, "png")])
    newer("op.execute(\"UPDATE images SET colour = 'red'\")")
    with open_store(*place) as store:
        assert revision_of(store.database) == "9999"
        with store.database.reading() as connection:
            query = text("SELECT size, colour FROM images")
            assert connection.execute(query).one() == (7, "red")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_step_that_fails_leaves_the_database_as_it_was(dialect, store_places, newer):
    place = store_places(dialect)
    with open_store(*place) as store, store.database.writing() as connection:
        add_images(connection, [NewImage("ab" * 32, 7, "png")])
    before = migrations.CURRENT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "FOLDER", migrations.FOLDER)
        patch.setattr(migrations, "CURRENT", before)
        newer("raise ZeroDivisionError")
        with pytest.raises(ZeroDivisionError):
            open_store(*place)
    database = Database(place[1]) if place[1] else Database.in_file(place[0] / "store.db")
    assert revision_of(database) == before
    with database.reading() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("images")}
        assert "colour" not in columns
        assert len(connection.execute(images.select()).all()) == 1
    database.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_database_of_a_newer_version_is_refused(dialect: str, store_places) -> None:
    place = store_places(dialect)
    with open_store(*place) as store, store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0815'"))
    with pytest.raises(InvalidInput, match=r"newer secondlook .*0815.*knows up to"):
        open_store(*place)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_database_of_something_else_is_refused(dialect: str, store_places) -> None:
    data, url = store_places(dialect)
    database = Database(url) if url else Database.in_file(data / "store.db")
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE invoices (number INTEGER)"))
    with pytest.raises(Damaged, match="invoices"):
        open_store(data, url)
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == ["invoices"]
    database.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_servers_that_start_at_once_make_one_schema(dialect: str, store_places) -> None:
    place = store_places(dialect)
    wrong: list[BaseException] = []

    def start() -> None:
        try:
            open_store(*place).close()
        except BaseException as failure:
            wrong.append(failure)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with open_store(*place) as store:
        assert revision_of(store.database) == migrations.CURRENT
