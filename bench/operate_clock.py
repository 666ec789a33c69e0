"""Clocks of servers that jump by an hour, forward and back, while clients work.

Two servers of one PostgreSQL, each with a clock of its own (Python's, shifted); first one of them
jumps, then both, and one is stopped while its clock is an hour ahead. Models are scripted.
"""

import tempfile
import time
from pathlib import Path

from fleet import CLOCKED, Fleet
from postgres import postgres_server
from workday import Workday

from bench.paired_timing import Figure, against, none_of
from secondlook.store import open_store

HOUR_S = 3600.0
JUMPS = ((0, HOUR_S), (0, 0.0), (0, -HOUR_S), (1, -HOUR_S), (1, HOUR_S), (0, HOUR_S))
"""Server, and by how much its clock is off from now on."""
REST_S = 4.0


def run() -> list[Figure | str]:
    """What is lost or fails, and the longest wait."""
    with tempfile.TemporaryDirectory() as name, postgres_server() as postgres:
        folder, url = Path(name), postgres.url(postgres.new_database())
        flags = ["--data", folder / "data", "--database-url", url, "--image-roots", folder]
        with Fleet(folder, flags, count=2, program=CLOCKED) as fleet:
            fleet.start_all()
            day = Workday(folder, fleet.address, job_images=400)
            day.ask(150)
            with day.working():
                time.sleep(REST_S)
                for server, off_s in JUMPS:
                    fleet.set_clock(server, off_s)
                    time.sleep(REST_S)
                fleet.kill(0)  # what it leased with its clock must not wait for an hour
                time.sleep(REST_S)
            with open_store(folder / "data", url) as store:
                account = day.account(store)
    return [
        none_of("lost, doubled, damaged or given up", account.faults),
        none_of("calls that failed after all tries of the client", len(day.errors)),
        against("longest wait, labels", day.longest_wait_s("labels"), 25, "s"),
        f"{account.sentence()}; calls that failed: {day.told()}.",
    ]
