import sqlite3
import threading
import time
from pathlib import Path

import pytest
from postgres import Postgres
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from secondlook.core.cancellation import Cancellation, cancelled_by
from secondlook.store import Store, database, open_store
from secondlook.store.database import Database, insert_new
from secondlook.store.schema import images, runs, texts
from secondlook_client.errors import (
    BadRequest,
    BadSetting,
    Cancelled,
    Damaged,
    StorageFull,
    StoreUnavailable,
)

ROW = {"digest": b"d" * 16, "text": "is it a dog?"}


def count(store: Store) -> int:
    with store.database.reading() as connection:
        return len(connection.execute(texts.select()).all())


def test_a_transaction_is_kept_whole_or_not_at_all(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.database.writing() as connection:
        insert_new(connection, texts, [ROW])
        _ = 1 / 0
    assert count(store) == 0
    with store.database.writing() as connection:
        insert_new(connection, texts, [ROW])
    assert count(store) == 1


def test_only_new_rows_are_inserted_and_counted(store: Store) -> None:
    other = {**ROW, "digest": b"e" * 16}
    with store.database.writing() as connection:
        assert insert_new(connection, texts, []) == 0
        assert insert_new(connection, texts, [ROW, ROW]) == 1
        assert insert_new(connection, texts, [ROW, other]) == 1
    assert count(store) == 2


def test_one_reading_sees_one_state(store: Store) -> None:
    with store.database.reading() as connection:
        before = connection.execute(texts.select()).all()
        with store.database.writing() as writer:
            insert_new(writer, texts, [ROW])
        assert connection.execute(texts.select()).all() == before
    assert count(store) == 1


def test_reading_writes_nothing_on_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    with open_store(tmp_path, postgres.url(postgres.new_database())) as store:
        with pytest.raises(StoreUnavailable), store.database.reading() as connection:
            insert_new(connection, texts, [ROW])
        assert count(store) == 0


def test_many_threads_write_without_losing_anything(store: Store) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            with store.database.writing() as connection:
                digest = thread.to_bytes(8) + number.to_bytes(8)
                # Reads first: the kind of transaction that SQLite refuses when it begins late.
                connection.execute(texts.select()).all()
                insert_new(connection, texts, [{"digest": digest, "text": ""}])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(store) == 160


def test_what_is_kept_is_on_the_disk(store: Store) -> None:
    settings = {
        "sqlite": [("PRAGMA journal_mode", "wal"), ("PRAGMA synchronous", 2)],
        "postgresql": [("SHOW synchronous_commit", "on")],
    }
    with store.database.writing() as connection:
        for question, answer in settings[store.database.dialect]:
            assert connection.execute(text(question)).scalar_one() == answer


def test_postgresql_that_was_told_to_be_careless_is_careful_with_us(
    postgres: Postgres, tmp_path: Path
) -> None:
    name = postgres.new_database()
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit TO off")
    with open_store(tmp_path, postgres.url(name)) as store, store.database.writing() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


def test_a_row_that_breaks_a_rule_is_our_fault_and_no_outage(store: Store) -> None:
    wrong = text("INSERT INTO decisions (run_id, item_id) VALUES (1, 1)")
    with pytest.raises(IntegrityError), store.database.writing() as connection:
        connection.execute(wrong)


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "", "no url"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="postgresql://user"):
        Database(url)


def test_a_password_is_in_no_message() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:1/name")
    with pytest.raises(StoreUnavailable) as caught, database.reading():
        pass
    assert "secret" not in str(caught.value)


def test_a_file_that_may_not_grow_says_so_and_recovers(tmp_path: Path) -> None:
    big = {"digest": b"b" * 16, "text": "x" * 500_000}
    with open_store(tmp_path) as store:
        with (
            pytest.raises(StorageFull, match="free some space"),
            store.database.writing() as writer,
        ):
            pages = writer.execute(text("PRAGMA page_count")).scalar_one()
            writer.execute(text(f"PRAGMA max_page_count={pages + 2}"))
            insert_new(writer, texts, [big])
        with store.database.writing() as writer:
            writer.execute(text("PRAGMA max_page_count=1000000"))
            insert_new(writer, texts, [big])
        assert count(store) == 1


def test_a_database_that_another_program_writes_to_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.3)
    with open_store(tmp_path) as store:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"), store.database.writing():
            pass
        assert 0.2 < time.monotonic() - started < 10
        other.execute("COMMIT")
        with store.database.writing() as connection:
            insert_new(connection, texts, [ROW])
        other.close()


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Damaged, match="secondlook restore"):
        open_store(tmp_path)


def test_a_server_that_comes_back_is_used_again(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    with open_store(tmp_path, url) as store:
        with store.database.writing() as connection:
            insert_new(connection, texts, [ROW])
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{url.split('/')[3].split('?')[0]}'"
        )
        assert count(store) == 1


LONG_QUERY = text(
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000000000) "
    "SELECT count(*) FROM c"
)


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_a_statement_is_broken_off_when_its_work_is_cancelled(store: Store, kind: str) -> None:
    cancellation = Cancellation()
    threading.Timer(0.3, cancellation.cancel).start()
    began = time.monotonic()
    transaction = getattr(store.database, kind)
    with cancelled_by(cancellation):
        with pytest.raises(Cancelled), transaction() as connection:
            if kind == "writing":
                insert_new(connection, texts, [ROW])
            connection.execute(LONG_QUERY)
        with pytest.raises(Cancelled), store.database.reading():
            raise AssertionError("it was begun")
    assert time.monotonic() - began < 5
    assert count(store) == 0  # and the connection is as good as before
    with store.database.reading() as connection:
        small = text(LONG_QUERY.text.replace("1000000000", "100000"))
        assert connection.execute(small).scalar_one() == 100_000


def test_a_store_opens_once_whoever_writes_to_its_new_database_is_done(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    other = sqlite3.connect(tmp_path / "data" / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    opened: list[Store] = []
    thread = threading.Thread(target=lambda: opened.append(open_store(tmp_path / "data")))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    other.execute("COMMIT")
    other.close()
    thread.join(20)
    (store,) = opened
    assert count(store) == 0
    store.close()


def test_a_cancelled_wait_for_other_writes_ends(store: Store) -> None:
    if store.database.dialect != "sqlite":
        pytest.skip("its writers do not wait for each other")
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()

    def wait() -> None:
        with cancelled_by(cancellation), pytest.raises(Cancelled), store.database.writing():
            raise AssertionError("two write at the same time")

    with store.database.writing():
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("value", [2**63, "a\x00b"])
def test_what_the_database_cannot_hold_is_a_wrong_request(store: Store, value) -> None:
    column = images.c.id if isinstance(value, int) else runs.c.name
    wanted = select(column).where(column == value)
    if store.database.dialect == "sqlite" and isinstance(value, str):
        with store.database.reading() as connection:
            assert connection.execute(wanted).first() is None  # SQLite compares it
        return
    with pytest.raises(BadRequest, match="cannot hold"), store.database.reading() as connection:
        connection.execute(wanted)


@pytest.mark.parametrize(
    ("hosts", "host", "port"),
    [
        ("one:5432,two:5433/name", "one,two", "5432,5433"),
        ("user:p%40ss@one,two:5433/name", "one,two", ",5433"),
        ("[::1]:5432,[fe80::2]/name", "::1,fe80::2", "5432,"),
        ("/name?host=/run/a,/run/b", "/run/a,/run/b", ","),
    ],
)
def test_a_database_url_names_several_hosts(hosts: str, host: str, port: str) -> None:
    url = database._checked_url(f"postgresql://{hosts}")
    _, arguments = database._engine(url).dialect.create_connect_args(url)
    found = {**arguments, **database._postgresql_options(url)}
    assert (found["host"], found["port"]) == (host, port)
    assert found["dbname"] == "name" and found["target_session_attrs"] == "read-write"


def test_of_several_hosts_the_one_that_answers_is_used(postgres: Postgres) -> None:
    url = postgres.url(postgres.new_database())
    Database(url.replace("host=", "host=/nowhere,")).probe()
    with pytest.raises(BadSetting):
        Database("postgresql://one:5432,two:port/name")
