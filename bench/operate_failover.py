"""A PostgreSQL that fails over while clients work: what is lost, and how long they wait.

Two clusters with streaming replication, two servers whose --database-url names both hosts. The
line between primary and standby breaks two seconds before the primary is killed (kill -9), which
is the worst moment for what had not arrived yet; then the standby is promoted. Once with
asynchronous and once with synchronous replication. Models are scripted, all else is the product.
"""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from flaky_line import FlakyLine
from fleet import Fleet, free_port
from postgres import Postgres, primary_and_standby
from workday import Account, Workday

from bench.paired_timing import Figure, against, none_of
from secondlook.store import open_store

BEFORE_S, PARTED_S, AFTER_S = 5.0, 2.0, 8.0
ASKED = 100


def run() -> list[Figure | str]:
    """What is lost with either kind of replication, and the longest wait."""
    rows: list[Figure | str] = []
    for name, synchronous in (("asynchronous", False), ("synchronous", True)):
        account, day, promoted_s = fail_over(synchronous)
        rows.append(f"{name} replication: {account.sentence()}; calls that failed: {day.told()}.")
        if synchronous:
            rows.append(none_of("lost, doubled or damaged", account.faults))
            for kind in ("labels", "answers"):
                rows.append(against(f"longest wait, {kind}", day.longest_wait_s(kind), 10, "s"))
        rows.append(f"{name}: the standby was promoted {promoted_s:.1f} s after the kill.")
    return rows


def fail_over(synchronous: bool) -> tuple[Account, Workday, float]:
    """A day with one fail-over in it; the books, and how long there was no primary, seconds."""
    with ExitStack() as open_things:
        folder = Path(open_things.enter_context(tempfile.TemporaryDirectory()))
        line = open_things.enter_context(FlakyLine(""))
        ports = free_port(), free_port()
        primary, standby = open_things.enter_context(
            primary_and_standby(ports, lambda address: _through(line, address))
        )
        if synchronous:
            _wait_for_the_standby(primary)
        url = _url_of_both(primary, standby, primary.new_database())
        fleet = _fleet(folder, url)
        open_things.enter_context(fleet)
        fleet.start_all()
        day = Workday(folder, fleet.address, job_images=200)
        day.ask(ASKED)
        with day.working():
            time.sleep(BEFORE_S)
            _part(line)
            time.sleep(PARTED_S)
            primary.kill()
            killed = time.monotonic()
            standby.promote()
            promoted_s = time.monotonic() - killed
            time.sleep(AFTER_S)
        with open_store(folder / "data", url) as store:
            return day.account(store), day, promoted_s


def _fleet(folder: Path, url: str) -> Fleet:
    flags = ["--data", folder / "data", "--database-url", url, "--image-roots", folder]
    return Fleet(folder, flags, count=2)


def _through(line: FlakyLine, address: str) -> str:
    line.target = address
    return line.address


def _part(line: FlakyLine) -> None:
    """Nothing reaches the standby any more."""
    line.target = f"127.0.0.1:{free_port()}"
    line.cut()


def _wait_for_the_standby(primary: Postgres) -> None:
    """Commits return once the standby has them on its disk."""
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.sql("SELECT pg_reload_conf()")
    ends = time.monotonic() + 30
    while primary.sql("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
        assert time.monotonic() < ends, "the standby does not follow synchronously"
        time.sleep(0.1)


def _url_of_both(primary: Postgres, standby: Postgres, database: str) -> str:
    return f"postgresql://test@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{database}"
