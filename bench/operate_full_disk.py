"""Full disks while clients work: of the data folder (SQLite and images), and of a device's spool.

Each is a small disk in memory (mounted, so this runs as root) that is filled to its last byte for a
while and then has room again. Models are scripted, all else is the product.
"""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet import Fleet
from workday import Workday

from bench.paired_timing import Figure, none_of
from secondlook.store import open_store

FULL_S, GOOD_S = 8.0, 6.0
SIZE = "64m"


def run() -> list[Figure | str]:
    """What is lost, and what callers were told."""
    with tempfile.TemporaryDirectory() as name, small_disk() as disk, small_disk() as spools:
        folder, data = Path(name), disk / "data"
        with Fleet(folder, ["--data", data, "--image-roots", folder]) as fleet:
            fleet.start_all()
            day = Workday(folder, fleet.address, job_images=600)
            day.spools = spools
            day.ask(200)
            with day.working():
                time.sleep(GOOD_S)
                with filled(disk):
                    time.sleep(FULL_S)
                time.sleep(GOOD_S)
                of_server = day.told()
                day.errors.clear()
                with filled(spools):
                    time.sleep(FULL_S / 2)
                time.sleep(GOOD_S)
            fleet.stop(0)
            with open_store(data) as store:
                account = day.account(store)
    return [
        none_of("lost, doubled, damaged or given up", account.faults),
        f"{account.sentence()}. While the server's disk was full callers were told: {of_server}. "
        f"While the device's disk was full: {day.told()}.",
    ]


@contextmanager
def small_disk() -> Iterator[Path]:
    """A disk of ``SIZE``."""
    folder = Path(tempfile.mkdtemp(prefix="small-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is left on it."""
    filler = disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], capture_output=True)
    try:
        yield
    finally:
        filler.unlink()
