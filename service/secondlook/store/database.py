"""The connection to the database: transactions, error translation, change notification.

SQLite in WAL mode or PostgreSQL; only this module, ``locks`` and ``backup`` tell them apart. A
transaction that ended without an error is on the disk (``synchronous=FULL``,
``synchronous_commit``).
"""

import asyncio
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, Connection, Double, Engine, Insert, Table, event, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from secondlook.config.extras import missing_extra
from secondlook.config.redaction import redacted, url_scheme
from secondlook.core.cancellation import check_cancelled, current_cancellation
from secondlook.core.files import DISK_FULL
from secondlook.store.commit_witness import CommitWitness, LostCommits
from secondlook_client.errors import (
    BadRequest,
    BadSetting,
    Damaged,
    SecondlookError,
    StorageFull,
    StoreUnavailable,
)

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""How long a transaction waits for a lock or a free connection before it fails."""
CONNECT_S = 5
BUSY_POLL_S = 0.02
CANCEL_POLL_S = 0.2
"""How soon work that waits notices that it was cancelled."""
LONGEST_LEASE_S = 300.0
"""No server leases a job or a training for longer at a time, nor lets an image wait for longer."""
STEPS_A_CHECK = 200_000
"""Of SQLite's machine, some milliseconds, after which a statement asks whether it was cancelled."""
QUICK_CHECK_S = 2.0
"""A server's start looks for damage for so long; `secondlook check` reads the whole file."""
POOL: Mapping[str, Any] = {
    "pool_size": 8,
    "max_overflow": 24,
    "pool_timeout": WAIT_S,
    "pool_use_lifo": True,  # so that few of SQLite's caches, one a connection, are ever filled
}
POSTGRESQL_OPTIONS = {
    "connect_timeout": CONNECT_S,
    "options": f"-c lock_timeout={WAIT_S:.0f}s -c statement_timeout=600s",
    # A server that vanished without closing is noticed within half a minute, not in two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": int(WAIT_S * 1000),
}
WARNED = "secondlook.warned"
"""Key of a connection's ``info``: what PostgreSQL warned of last."""
OF_THE_PRIMARY = {"target_session_attrs": "read-write"}
"""Of several hosts connect to the one that takes writes, wherever a fail-over has put it."""


class ChangeNotifier:
    """Tells subscribers in this process that something changed. Thread-safe.

    Only a shortcut: subscribers also poll, because other processes change the database too, so a
    notification that nobody receives costs a moment and no more.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], None]] = {}
        self._lock = threading.Lock()

    def notify(self) -> None:
        """Call every subscriber."""
        with self._lock:
            listeners = [*self._listeners.values()]
        for listener in listeners:
            listener()

    @contextmanager
    def subscribed(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` at each change, in the thread that notifies: it must be quick."""
        key = object()
        with self._lock:
            self._listeners[key] = listener
        try:
            yield
        finally:
            with self._lock:
                del self._listeners[key]

    @contextmanager
    def event(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that each change sets; clear it before querying."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(event.set)

        with self.subscribed(wake):
            yield event


class Database:
    """Connections to one database, for any number of threads."""

    def __init__(self, url: str | URL) -> None:
        """``url``: ``sqlite:///path`` or ``postgresql://user:password@host/name``; a PostgreSQL
        that fails over has several hosts, ``one:5432,two:5432``.

        Nothing is connected yet. Raises ``BadSetting`` for any other URL.
        """
        self._engine = _engine(_checked_url(url))
        self._one_writer = threading.Lock()
        self.witness = CommitWitness(Path(self.file).resolve()) if self.file else None
        """Tells whether acknowledged commits are missing; None on PostgreSQL and read-only."""
        self.changes = ChangeNotifier()
        """Notified after each transaction of ``writing``."""

    @classmethod
    def in_file(cls, path: Path) -> "Database":
        """The SQLite database in that file, created if missing."""
        return cls(URL.create("sqlite", database=str(path)))

    @classmethod
    def read_only(cls, path: Path) -> "Database":
        """The SQLite database in that file, opened read-only."""
        query = {"mode": "ro", "uri": "true"}
        return cls(URL.create("sqlite", database=path.absolute().as_uri(), query=query))

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    @property
    def file(self) -> str | None:
        """Path of the SQLite file; None on PostgreSQL, and where the file is only read."""
        url = self._engine.url
        return url.database if self.dialect == "sqlite" and "uri" not in url.query else None

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A dedicated connection without a transaction, for advisory locks (PostgreSQL only)."""
        with _translated_errors(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only transaction that sees the database as it was at its first query.

        Raises ``StoreUnavailable``, ``Damaged``, and ``Cancelled`` for work that was cancelled.
        """
        with (
            _translated_errors(),
            self._connected() as connection,
            connection.begin(),
            _breaking_off(connection),
        ):
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, committed durably when the block ends without an error, else rolled back.

        On SQLite a process has one at a time: a second one in the same thread would deadlock.
        Raises ``StoreUnavailable``, ``StorageFull``, ``Damaged`` and ``Cancelled``. After
        ``StoreUnavailable`` it may have been committed all the same, so writes must be idempotent.
        """
        with (
            self._write_lock(),
            _translated_errors(),
            self._connected(writing=True) as connection,
            _replicated_commit(connection),
            connection.begin(),
            _breaking_off(connection),  # but not while it is committed
        ):
            driver: Any = connection.connection.dbapi_connection
            before = driver.total_changes if self.witness else 0
            yield connection
            number = None
            if self.witness and driver.total_changes != before:
                number = self.witness.count_commit(driver)
        if self.witness and number is not None:
            with _witnessing():
                self.witness.confirm(number)
        self.changes.notify()

    def note_lost_commits(self) -> LostCommits | None:
        """Note it if transactions that were acknowledged are missing; None where none are.

        Raises what ``writing`` raises.
        """
        if self.witness is None:
            return None
        with self.reading() as connection:
            driver: Any = connection.connection.dbapi_connection
            if not self.witness.missing(driver):
                return None
        with (
            self._write_lock(),
            _translated_errors(),
            _witnessing(),
            self._connected(writing=True) as connection,
            connection.begin(),
        ):
            driver = connection.connection.dbapi_connection
            return self.witness.note_loss(driver, now())

    def check_quickly(self) -> None:
        """Look for damage in the SQLite file for ``QUICK_CHECK_S``. Raises ``Damaged``.

        What a longer look would find is found when it is read, or by ``secondlook check``.
        """
        if not self.file:
            return
        ends = time.monotonic() + QUICK_CHECK_S
        with _translated_errors(), self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.set_progress_handler(lambda: time.monotonic() > ends, STEPS_A_CHECK)
            try:
                (report,) = driver.execute("PRAGMA quick_check(1)").fetchone()
            except sqlite3.OperationalError as failure:
                if failure.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    return
                raise _damaged(failure) from failure
            except sqlite3.DatabaseError as failure:
                raise _damaged(failure) from failure
            finally:
                driver.set_progress_handler(None, 0)
        if report != "ok":
            raise _damaged(" ".join(str(report).split())[:200])

    def probe(self) -> None:
        """Make a query; on PostgreSQL a commit, as only that waits for a synchronous standby.

        Raises what ``reading`` and ``writing`` raise.
        """
        if self.dialect == "sqlite":
            with self.reading() as connection:
                connection.execute(sqlalchemy.select(sqlalchemy.literal(1)))
            return
        message = sqlalchemy.func.pg_logical_emit_message(True, "secondlook", "probe")
        with (
            _translated_errors(),
            self._connected(writing=True) as connection,
            _replicated_commit(connection),
            connection.begin(),
        ):
            connection.execute(sqlalchemy.select(message))  # a few bytes of the log, in no table

    def waits_for_standby(self) -> bool:
        """Whether a commit of this user waits for a synchronous standby now; only on PostgreSQL.

        Raises ``StoreUnavailable``.
        """
        waiting = sqlalchemy.text(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE usename = current_user AND wait_event = 'SyncRep')"
        )
        with self.reading() as connection:
            return bool(connection.scalar(waiting))

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()
        if self.witness:
            self.witness.close()

    def _connected(self, writing: bool = False) -> Connection:
        check_cancelled()
        options: dict[str, Any] = {"writing": writing}
        if self.dialect == "postgresql" and not writing:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return self._engine.connect().execution_options(**options)

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Queue up behind the current writer: SQLite's own waiting polls and is unfair."""
        if self.dialect != "sqlite":
            yield
            return
        ends = time.monotonic() + WAIT_S
        while not self._one_writer.acquire(timeout=CANCEL_POLL_S):
            check_cancelled()
            if time.monotonic() > ends:
                raise StoreUnavailable(
                    "the database is busy with other writes; try again in a moment"
                )
        try:
            yield
        finally:
            self._one_writer.release()


@contextmanager
def _breaking_off(connection: Connection) -> Iterator[None]:
    """End the statement that runs, or the next one, when this thread's work is cancelled."""
    cancellation = current_cancellation()
    if cancellation is None:
        yield
        return
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        driver.set_progress_handler(lambda: cancellation.cancelled, STEPS_A_CHECK)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)
        return
    over, cancelling = threading.Event(), threading.Lock()

    def cancel() -> None:
        while not over.wait(CANCEL_POLL_S):  # it has no effect between two statements, so again
            with cancelling:
                if not over.is_set():
                    driver.cancel()

    with cancellation.calling(lambda: threading.Thread(target=cancel, daemon=True).start()):
        check_cancelled()
        try:
            yield
        finally:
            with cancelling:  # or the connection's next user would be cancelled
                over.set()


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows that violate no unique constraint; returns how many.

    Where several servers write at once, give rows in a fixed order, or PostgreSQL may detect a
    deadlock and abort one of the transactions (``StoreUnavailable``).
    """
    if not rows:
        return 0
    statement = _insert_new(connection.dialect.name, table)
    # Without this option the count of several rows is lost on PostgreSQL.
    counted = {"preserve_rowcount": True}
    return connection.execute(statement, [*rows], execution_options=counted).rowcount


@cache
def _insert_new(dialect: str, table: Table) -> Insert:
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing()


def sanitize_text(text: str, limit: int = 2000) -> str:
    """A text as every database can store it: no NUL, no lone surrogates, ``limit`` characters."""
    return text[:limit].encode("utf-8", "replace").decode().replace("\x00", "?")


def now() -> float:
    """Seconds since 1970 (UTC) by the clock of this machine."""
    return time.time()


class DatabaseClock(FunctionElement[float]):
    """In SQL: seconds since 1970 (UTC) by one clock for all servers of a database.

    Leases are told by it, so that servers whose clocks differ do not take jobs from each other.
    """

    name = "database_clock"
    type = Double()
    inherit_cache = True


@compiles(DatabaseClock, "postgresql")
def _postgresql_clock(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


def lease_ended(until: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a lease is over, or longer than any is: the clock has been set back since."""
    return or_(until < DatabaseClock(), until > DatabaseClock() + LONGEST_LEASE_S)


def _checked_url(text: str | URL) -> URL:
    try:
        url = _parsed_url(text)
    except (ArgumentError, ValueError):  # of a port that is no number
        url = URL.create("unknown")
    if url.get_backend_name() in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url.set(drivername="sqlite+pysqlite")
    raise BadSetting(
        "a database URL is postgresql://user:password@host:port/name or sqlite:///path/of/file, "
        f"not {url_scheme(str(text))}"
    )


def _parsed_url(text: str | URL) -> URL:
    """Also of several hosts as libpq writes them, which SQLAlchemy takes as parameters only."""
    listed = _SEVERAL_HOSTS.fullmatch(text) if isinstance(text, str) else None
    if listed is None:
        return make_url(text)
    hosts = [_HOST.fullmatch(one) for one in listed["hosts"].split(",")]
    if not all(hosts):
        raise ValueError("a host that is none")
    named = [(one[1].strip("[]"), one[2] or "") for one in hosts if one]
    parameters = {"host": ",".join(h for h, _ in named), "port": ",".join(p for _, p in named)}
    return make_url(listed["before"] + listed["behind"]).update_query_dict(parameters)


_SEVERAL_HOSTS = re.compile(
    r"(?P<before>postgres[\w+]*://([^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<behind>([/?].*)?)"
)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(?::(\d*))?")


def _postgresql_options(url: URL) -> Mapping[str, Any]:
    """What the URL does not say itself."""
    host = url.query.get("host", "")
    several = not isinstance(host, str) or "," in host
    ours = POSTGRESQL_OPTIONS | (OF_THE_PRIMARY if several else {})
    return {name: value for name, value in ours.items() if name not in url.query}


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "postgresql":
            options = _postgresql_options(url)
            engine = sqlalchemy.create_engine(
                url, connect_args=options, pool_pre_ping=True, hide_parameters=True, **POOL
            )
            event.listen(engine, "connect", _prepare_postgresql)
        else:
            engine = sqlalchemy.create_engine(
                url, connect_args={"timeout": WAIT_S}, hide_parameters=True, **POOL
            )
            event.listen(engine, "connect", _prepare_sqlite)
            if url.query.get("mode") != "ro":
                event.listen(engine, "connect", _use_write_ahead_log)
            event.listen(engine, "begin", _begin_sqlite)
    except ImportError as missing:
        raise missing_extra("a PostgreSQL database", "postgres") from missing
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # or the driver begins and commits where it likes
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_write_ahead_log(connection: sqlite3.Connection, _record: object) -> None:
    # SQLite itself does not wait here while another connection writes: as where several servers
    # start at once on a new store, and one of them is just changing it to this mode.
    ends = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as failure:
            busy = failure.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > ends:
                raise
        time.sleep(BUSY_POLL_S)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later may fail half way, so a writing one takes the
    # write lock at its beginning and waits there.
    writing = connection.get_execution_options().get("writing", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _replicated_commit(connection: Connection) -> Iterator[None]:
    """Raises ``StoreUnavailable`` after a commit that gave up waiting for its synchronous standby.

    PostgreSQL says no more than a warning, as when ``statement_timeout`` ends the wait: the commit
    is there, but a fail-over would lose it.
    """
    yield
    if warning := connection.info.pop(WARNED, ""):
        log.warning("the database warned of a commit: %s", warning)
        raise StoreUnavailable(
            "the standby of the database has not confirmed what was written; pending work resumes "
            "once it is back"
        )


def _prepare_postgresql(connection: Any, record: Any) -> None:
    def note(notice: Any) -> None:
        if notice.sqlstate == "01000":  # as a wait for a standby that was given up is told
            record.info[WARNED] = notice.message_primary

    connection.add_notice_handler(note)
    with connection.cursor() as cursor:
        row = cursor.execute("SHOW synchronous_commit").fetchone()
        if row[0] == "off":  # set for a role or database; what we acknowledge must be durable
            cursor.execute("SET synchronous_commit TO on")
    connection.commit()


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate driver errors of the environment; those of our own SQL pass unchanged."""
    try:
        yield
    except DBAPIError as failure:
        check_cancelled()
        error = _translated(failure)
        if error is None:
            raise
        log.warning("the database failed: %s", redacted(str(failure.orig)))
        raise error from failure
    except OverflowError as failure:
        if "SQLite" not in str(failure):  # sqlite3 does not make it an error of its own
            raise
        raise _unstorable() from failure
    except NoConnectionFree as failure:
        raise StoreUnavailable(
            "every connection to the database is in use; try again in a moment"
        ) from failure


def _translated(failure: DBAPIError) -> SecondlookError | None:
    if isinstance(failure.orig, sqlite3.Error):
        return _sqlite_error(failure.orig)
    return _postgresql_error(failure)


def _sqlite_error(failure: sqlite3.Error) -> SecondlookError | None:
    code = getattr(failure, "sqlite_errorcode", 0) & 0xFF  # the rest of the code is detail
    if code == sqlite3.SQLITE_FULL:
        return _full("the disk of the data folder is full")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(failure)
    transient = {
        sqlite3.SQLITE_BUSY: "the database is busy with other writes",
        sqlite3.SQLITE_LOCKED: "the database is busy with other writes",
        sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
        sqlite3.SQLITE_IOERR: "the disk of the database failed",
        sqlite3.SQLITE_READONLY: "the database file may not be written",
        sqlite3.SQLITE_PERM: "the database file may not be read",
        sqlite3.SQLITE_PROTOCOL: "the database is busy with other writes",
    }.get(code)
    return StoreUnavailable(f"{transient}; try again in a moment") if transient else None


def _damaged(cause: object) -> Damaged:
    return Damaged(
        f"the database file is damaged ({cause}); `secondlook check` says what can still be read, "
        "and `secondlook restore` fills a new store from a backup"
    )


@contextmanager
def _witnessing() -> Iterator[None]:
    """Translate what the disk says to the file beside the database."""
    try:
        yield
    except OSError as failure:
        log.warning("the count of commits cannot be written: %s", failure)
        if failure.errno in DISK_FULL:
            raise _full("the disk of the data folder is full") from failure
        raise StoreUnavailable(
            "the count of commits beside the database cannot be written; free the data folder for "
            "this user and try again"
        ) from failure


def _postgresql_error(failure: DBAPIError) -> SecondlookError | None:
    state = str(getattr(failure.orig, "sqlstate", None) or "")
    if state.startswith("22") or (not state and type(failure.orig).__name__ == "DataError"):
        return _unstorable()
    if state == "53100":
        return _full("the disk of the database is full")
    if state in ("XX001", "XX002"):
        return Damaged(
            "the database reports damaged files; see its log, and restore a backup with "
            "`secondlook restore`"
        )
    # Connection, resources, operator, system, rollback; lock timeout, read-only, idle timeout.
    transient = state[:2] in ("08", "53", "57", "58", "40") or state in ("55P03", "25006", "25P03")
    unreachable = not state and type(failure.orig).__name__ in (
        "OperationalError",
        "InterfaceError",
    )
    if transient or unreachable or failure.connection_invalidated:
        return StoreUnavailable(
            f"the database is unavailable ({state or 'no connection'}); pending work resumes once "
            "it is back"
        )
    return None


def _unstorable() -> BadRequest:
    """Of a value that our own checks let pass."""
    return BadRequest(
        "the database cannot hold one of these values: a NUL character, or a number of 2^63 or more"
    )


def _full(what: str) -> StorageFull:
    return StorageFull(f"{what}; free some space and try again, what was stored before is intact")
