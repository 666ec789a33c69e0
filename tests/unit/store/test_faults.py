"""The database and the blob store refusing, slow and full: real ones, hurt in real ways."""

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flaky_line import FlakyLine
from postgres import Postgres, postgres_server, wait_for_standby
from sqlalchemy import text

from secondlook.store import Store, database, open_store
from secondlook.store.database import insert_new
from secondlook.store.object_blobs import ObjectBlobs
from secondlook.store.schema import texts
from secondlook_client.errors import SecondlookError, StorageFull, StoreUnavailable

MB = 1_000_000


def row(number: int, size: int = 1) -> dict[str, object]:
    return {"digest": number.to_bytes(16), "text": "x" * size}


def add(store: Store, number: int, size: int = 1) -> None:
    with store.database.writing() as connection:
        insert_new(connection, texts, [row(number, size)])


def count(store: Store) -> int:
    with store.database.reading() as connection:
        return len(connection.execute(texts.select()).all())


def eventually(act: Callable[[], object], within_s: float = 30) -> None:
    """Do it again until it works, as a job does."""
    ends = time.monotonic() + within_s
    while True:
        try:
            act()
            return
        except StoreUnavailable:
            assert time.monotonic() < ends
            time.sleep(0.05)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = Path(tempfile.mkdtemp(prefix="small-"))  # where PostgreSQL's account gets, too
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("a small disk cannot be mounted here (no root?); full disks are not tested")
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def fill_up(store: Store, number: int = 0) -> int:
    """Write until the disk is full; how many rows were kept."""
    while True:
        try:
            add(store, number, MB // 4)
        except StorageFull as failure:
            assert "free some space" in str(failure)
            return number
        number += 1
        assert number < 500


def test_a_server_that_crashes_and_comes_back(tmp_path: Path) -> None:
    with postgres_server() as server:
        url = server.url(server.new_database())
        with open_store(tmp_path, url) as store:
            add(store, 1)
            server.stop("immediate")
            for act in (lambda: add(store, 2), lambda: count(store)):
                with pytest.raises(StoreUnavailable, match="resumes once it is back"):
                    act()
            server.start()
            eventually(lambda: add(store, 3))
            assert count(store) == 2


def test_a_connection_that_breaks_in_the_middle_keeps_nothing(
    postgres: Postgres, tmp_path: Path
) -> None:
    with open_store(tmp_path, postgres.url(postgres.new_database())) as store:
        with pytest.raises(StoreUnavailable), store.database.writing() as connection:
            insert_new(connection, texts, [row(1)])
            number = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            postgres.sql(f"SELECT pg_terminate_backend({number})")
            insert_new(connection, texts, [row(2)])
        assert count(store) == 0
        add(store, 3)
        assert count(store) == 1


def test_a_row_that_somebody_holds_for_ever_is_given_up(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.new_database()
    monkeypatch.setitem(database.POSTGRESQL_OPTIONS, "options", "-c lock_timeout=300ms")
    with (
        open_store(tmp_path, postgres.url(name)) as store,
        open_store(tmp_path, postgres.url(name)) as other,
    ):
        with store.database.writing() as connection:
            connection.execute(text("LOCK TABLE texts IN ACCESS EXCLUSIVE MODE"))
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                add(other, 1)
            assert time.monotonic() - started < 20
        add(other, 1)
        assert count(store) == 1


def test_a_commit_that_no_standby_confirmed_is_not_acknowledged(
    postgres: Postgres, tmp_path: Path
) -> None:
    with open_store(tmp_path, postgres.url(postgres.new_database())) as store:
        wait_for_standby(postgres, "nobody")
        given_up = threading.Thread(target=eventually, args=(lambda: _cancel_wait(postgres),))
        try:
            given_up.start()
            with pytest.raises(StoreUnavailable, match="standby"):
                add(store, 1)
        finally:
            given_up.join()
            wait_for_standby(postgres, "")
        add(store, 2)
        assert count(store) == 2  # the first was written, and was not promised


def _cancel_wait(postgres: Postgres) -> None:
    """As an operator may do who sees that a commit hangs."""
    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    if not postgres.sql(waiting):
        raise StoreUnavailable("nobody waits yet")


def test_two_that_wait_for_each_other_are_told_to_try_again(
    postgres: Postgres, tmp_path: Path
) -> None:
    with open_store(tmp_path, postgres.url(postgres.new_database())) as store:
        meet, outcomes = threading.Barrier(2), []

        def cross(first: int, second: int) -> None:
            try:
                with store.database.writing() as connection:
                    insert_new(connection, texts, [row(first)])
                    meet.wait(20)
                    insert_new(connection, texts, [row(second)])
                outcomes.append(None)
            except SecondlookError as failure:
                outcomes.append(failure)

        threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {type(outcome) for outcome in outcomes} == {type(None), StoreUnavailable}
        assert count(store) == 2


def test_a_full_disk_of_postgresql_and_room_again(
    postgres: Postgres, tmp_path: Path, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(6 * MB))
    space = small_disk / "space"
    space.mkdir()
    if postgres.account:
        shutil.chown(space, postgres.account)
    postgres.sql(f"CREATE TABLESPACE small LOCATION '{space}'")
    name = postgres.new_database()
    try:
        with open_store(tmp_path / "data", postgres.url(name)) as store:
            with store.database.writing() as connection:
                connection.execute(text("ALTER TABLE texts SET TABLESPACE small"))
                connection.execute(text("ALTER TABLE texts ALTER text SET STORAGE EXTERNAL"))
            kept = fill_up(store)
            assert kept > 10 and count(store) == kept
            (small_disk / "ballast").unlink()
            add(store, 1000, MB // 4)
            assert count(store) == kept + 1
    finally:
        postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")
        postgres.sql("DROP TABLESPACE small")


def test_a_full_disk_of_sqlite_and_room_again(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(16 * MB))
    with open_store(small_disk / "data") as store:
        first = store.blobs.put(b"before")
        kept = fill_up(store)
        assert kept > 2 and count(store) == kept
        with pytest.raises(StorageFull, match="free some space"):
            store.blobs.put(bytes(8 * MB))
        assert list(store.blobs.all()) == [first]
        (small_disk / "ballast").unlink()
        add(store, 1000, MB // 4)
        assert count(store) == kept + 1
        assert store.blobs.has(store.blobs.put(bytes(8 * MB)))
    with open_store(small_disk / "data") as store:
        assert count(store) == kept + 1


def test_an_object_store_behind_a_bad_line(
    bucket_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.store.object_blobs.TIMEOUT_S", 1)
    target = s3_endpoint.removeprefix("http://")
    with FlakyLine(target) as line:
        blobs = ObjectBlobs(bucket_url.replace(s3_endpoint, f"http://{line.address}"))
        first = blobs.put(b"first")
        line.cut()  # a break now and then is not even noticed
        assert blobs.get(first) == b"first"
        line.target = "127.0.0.1:1"
        line.cut()
        for act in (lambda: blobs.put(b"second"), lambda: blobs.get(first)):
            with pytest.raises(StoreUnavailable, match="resumes once it is back"):
                act()
        line.target = target
        assert blobs.get(blobs.put(b"second")) == b"second"


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """Makes a server that answers everything with one status and body; its address."""
    servers = []

    def make(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(404 if self.command == "HEAD" else status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"s3://bucket/prefix?endpoint=http://127.0.0.1:{server.server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (507, "XMinioStorageFull", StorageFull, "free some space"),
        (403, "QuotaExceeded", StorageFull, "raise its quota"),
        (503, "SlowDown", StoreUnavailable, "resumes once it is back"),
        (403, "AccessDenied", StoreUnavailable, "check the credentials"),
        (500, "InternalError", StoreUnavailable, "resumes once it is back"),
    ],
)
def test_what_an_object_store_may_answer(
    answering: Callable[[int, str], str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    error: type[SecondlookError],
    message: str,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-secret-name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setattr("secondlook.store.object_blobs.TIMEOUT_S", 0.2)
    blobs = ObjectBlobs(answering(status, f"<Error><Code>{code}</Code></Error>"))
    with pytest.raises(error, match=message) as caught:
        blobs.put(b"content")
    assert "secret" not in str(caught.value) and "127.0.0.1" not in str(caught.value)
