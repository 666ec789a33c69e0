"""A rolling restart of three servers of one PostgreSQL and one folder while clients work.

Each server gets SIGTERM, as by an orchestrator, and is started again before the next one. Clients
reach the servers by one address and have the retry policy of the default. Models are scripted.
"""

import tempfile
import time
from pathlib import Path

from fleet import Fleet
from postgres import postgres_server
from workday import Workday

from bench.paired_timing import Figure, against, none_of
from secondlook.store import open_store

SERVERS = 3
REST_S = 3.0
ASKED = 200
TIMED = ("labels", "answers")


def run() -> list[Figure | str]:
    """What is lost or fails, and the longest wait."""
    with (
        tempfile.TemporaryDirectory() as name,
        postgres_server() as postgres,
    ):
        folder, url = Path(name), postgres.url(postgres.new_database())
        flags = ["--data", folder / "data", "--database-url", url, "--image-roots", folder]
        with Fleet(folder, flags, count=SERVERS) as fleet:
            fleet.start_all()
            day = Workday(folder, fleet.address)
            day.ask(ASKED)
            with day.working():
                time.sleep(REST_S)
                stops, starts = zip(*(_restart(fleet, n) for n in range(SERVERS)), strict=True)
            with open_store(folder / "data", url) as store:
                account = day.account(store)
    return [
        none_of("lost, doubled or damaged", account.faults),
        none_of("calls that failed after all tries of the client", len(day.errors)),
        *(against(f"longest wait, {kind}", day.longest_wait_s(kind), 10, "s") for kind in TIMED),
        f"{account.sentence()}; calls that failed: {day.told()}. A server took "
        f"{max(stops):.1f} s at most to stop and {max(starts):.1f} s to listen again.",
    ]


def _restart(fleet: Fleet, number: int) -> tuple[float, float]:
    """Seconds that it took to stop, and to start."""
    times = fleet.stop(number), fleet.start(number)
    time.sleep(REST_S)
    return times
