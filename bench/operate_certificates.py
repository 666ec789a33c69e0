"""Certificates of two servers that are replaced while clients work, and then their authority.

Clients trust both authorities, as they are told to before the new one is used. Each replacement is
seen by a client that connects then; whoever was connected before stays connected. In the end the
servers are restarted, and everybody connects by the new authority. Models are scripted.
"""

import tempfile
import time
from pathlib import Path

from certificates import Authority
from fleet import Fleet
from postgres import postgres_server
from workday import Workday

from bench.paired_timing import Figure, none_of
from secondlook.store import open_store
from secondlook_client import Client

REST_S = 4.0
ROTATIONS = 4
"""The last half of them by the new authority."""


def run() -> list[Figure | str]:
    """What is lost, and how many connections were made anew."""
    old, new = Authority("old"), Authority("new")
    with tempfile.TemporaryDirectory() as name, postgres_server() as postgres:
        folder, url = Path(name), postgres.url(postgres.new_database())
        bundle = folder / "both.crt"
        bundle.write_bytes(old.certificate + new.certificate)
        cert, key = old.certify("server").write(folder, "server")
        flags = ["--data", folder / "data", "--database-url", url, "--image-roots", folder]
        with Fleet(folder, [*flags, "--tls-cert", cert, "--tls-key", key], count=2) as fleet:
            fleet.start_all()
            day = Workday(folder, fleet.address, ca=str(bundle))
            day.ask(200)
            with day.working():
                time.sleep(REST_S)
                before = fleet.line.taken
                for number in range(ROTATIONS):
                    authority = old if number < ROTATIONS / 2 else new
                    authority.certify("server").write(folder, "server")
                    _connect_by(authority, folder, fleet.address)
                    time.sleep(REST_S / 2)
                anew = fleet.line.taken - before - ROTATIONS
                for number in fleet.servers.copy():
                    fleet.stop(number)
                    fleet.start(number)
                    time.sleep(REST_S)
            with open_store(folder / "data", url) as store:
                account = day.account(store)
    return [
        none_of("lost, doubled, damaged or given up", account.faults),
        none_of(f"connections made anew by {ROTATIONS} replacements", anew),
        none_of("calls that failed, also by the restarts at the end", len(day.errors)),
        f"{account.sentence()}; calls that failed: {day.told()}.",
    ]


def _connect_by(authority: Authority, folder: Path, address: str) -> None:
    """Fails where the server does not show a certificate of this authority alone."""
    ca = folder / "one.crt"
    ca.write_bytes(authority.certificate)
    with Client(address, ca=ca) as client:
        client.info()
