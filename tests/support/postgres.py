"""A PostgreSQL server of the tests' own: Debian's binaries, a unix socket, no port."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from memory_disk import memory_disk

PLACES = "/usr/lib/postgresql/*/bin"


class Postgres:
    """A running server with empty databases on request."""

    def __init__(self, binaries: Path, folder: Path, fsync: bool = False) -> None:
        """``fsync`` False is for tests that never cut the power; killing a process is fine."""
        self._binaries, self._folder, self._fsync = binaries, folder, fsync
        self.account = _account()
        self._data = folder / "data"

    def make(self) -> None:
        """Write an empty cluster."""
        self._run("initdb", "-D", self._data, "-U", "test", "-A", "trust", "-E", "UTF8", "-N")

    def start(self) -> None:
        """Returns once the server answers."""
        options = f"-c listen_addresses='' -k {self._folder} -c max_connections=300"
        if not self._fsync:
            options += " -c fsync=off -c full_page_writes=off"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-t", "60", "-D", self._data, "-l", log, "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """``mode`` ``immediate`` is a crash: clients are cut off, nothing is written."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", self._data)

    def new_database(self, template: str = "template1") -> str:
        """The name of a new database, a copy of ``template``."""
        name = f"t{uuid4().hex}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def url(self, database: str) -> str:
        """What ``--database-url`` takes."""
        return f"postgresql://test@/{database}?host={self._folder}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [*self._as_account(), self._binaries / program, *arguments],
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            # The server keeps what it inherits open: a pipe would never end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        log = self._folder / "log"
        told = log.read_text()[-2000:] if log.exists() else "no log"
        assert done.returncode == 0, f"{program} ended with {done.returncode}: {told}"

    def _as_account(self) -> list[str]:
        """By a program, as gRPC's threads do not survive the fork that ``user=`` needs."""
        if not self.account:
            return []
        group = pwd.getpwnam(self.account).pw_gid
        return ["setpriv", f"--reuid={self.account}", f"--regid={group}", "--clear-groups"]


@contextmanager
def postgres_server(fsync: bool = False) -> Iterator[Postgres]:
    """A server for as long as the block lasts; skips the test where there are no binaries."""
    binaries = _binaries()
    # Not under pytest's folder: the path of a unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=None if fsync else memory_disk()))
    server = Postgres(binaries, folder, fsync)
    try:
        if server.account:
            shutil.chown(folder, server.account)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests, each of which takes a database of its own."""
    with postgres_server() as server:
        yield server


def _binaries() -> Path:
    found = sorted(glob.glob(PLACES), key=lambda path: int(path.split("/")[-2]))  # noqa: PTH207
    if not found and (on_path := shutil.which("pg_ctl")):
        found = [str(Path(on_path).resolve().parent)]
    if not found:
        message = "no PostgreSQL binaries here (Debian: apt-get install postgresql); not tested"
        if os.environ.get("SECONDLOOK_NEEDS_POSTGRES"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found[-1])


def _account() -> str | None:
    """PostgreSQL refuses to run as root: who it runs as then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
