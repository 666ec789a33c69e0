"""A PostgreSQL server of the tests' own: Debian's binaries, a unix socket, no port."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from memory_disk import memory_disk

PLACES = "/usr/lib/postgresql/*/bin"


class Postgres:
    """A running server with empty databases on request."""

    def __init__(self, binaries: Path, folder: Path, fsync: bool = False, port: int = 0) -> None:
        """``fsync`` False is for tests that never cut the power; killing a process is fine.

        With a ``port`` it listens on loopback, as a standby and a list of hosts need it.
        """
        self._binaries, self._folder, self._fsync = binaries, folder, fsync
        self.port = port
        self.account = _account()
        self._data = folder / "data"

    def make(self) -> None:
        """Write an empty cluster."""
        self._run("initdb", "-D", self._data, "-U", "test", "-A", "trust", "-E", "UTF8", "-N")

    def follow(self, primary: str) -> None:
        """Write a standby of the server that listens at ``primary`` (``host:port``)."""
        host, port = primary.rsplit(":", 1)
        source = f"host={host} port={port} user=test"
        self._run(
            "pg_basebackup", "-D", self._data, "-d", source, "-R", "-X", "stream", "-c", "fast"
        )

    def promote(self) -> None:
        """Make a standby a primary; returns once it takes writes."""
        self._run("pg_ctl", "promote", "-w", "-D", self._data)

    def kill(self) -> None:
        """``kill -9`` of all its processes, as when its machine dies."""
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with suppress(ProcessLookupError):  # a child may have ended with the postmaster
                os.kill(pid, signal.SIGKILL)

    def is_running(self) -> bool:
        """Whether it was started and neither stopped nor killed."""
        file = self._data / "postmaster.pid"
        return file.exists() and Path(f"/proc/{file.read_text().split()[0]}").exists()

    def start(self) -> None:
        """Returns once the server answers."""
        listen = f"'127.0.0.1' -c port={self.port}" if self.port else "''"
        options = f"-c listen_addresses={listen} -k {self._folder} -c max_connections=300"
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
        if self.port:
            return f"postgresql://test@127.0.0.1:{self.port}/{database}"
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


@contextmanager
def primary_and_standby(
    ports: tuple[int, int], path: Callable[[str], str]
) -> Iterator[tuple[Postgres, Postgres]]:
    """Two servers, of which the second one follows the first by streaming replication.

    ``path`` turns the address of the first into the one by which the second reaches it.
    """
    folders = [Path(tempfile.mkdtemp(prefix="pg-", dir=memory_disk())) for _ in ports]
    pair = [
        Postgres(_binaries(), folder, port=port)
        for folder, port in zip(folders, ports, strict=True)
    ]
    primary, standby = pair
    try:
        for server, folder in zip(pair, folders, strict=True):
            if server.account:
                shutil.chown(folder, server.account)
        primary.make()
        primary.start()
        standby.follow(path(f"127.0.0.1:{primary.port}"))
        standby.start()
        yield primary, standby
    finally:
        for server, folder in zip(pair, folders, strict=True):
            if server.is_running():
                server.kill()
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_standby(server: Postgres, name: str) -> None:
    """From now on commits wait for the synchronous standby of that name; empty: for none."""
    server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    server.sql("SELECT pg_reload_conf()")
    while server.sql("SHOW synchronous_standby_names") not in ([(name,)], [(f'"{name}"',)]):
        time.sleep(0.01)


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
