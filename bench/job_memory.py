"""Peak resident memory of a server that labels a folder of 100,000 images, compared with 1,000.

Each in a fresh process: `secondlook serve` with scripted models and SQLite; small distinct images,
all stored. The larger number can be set: SECONDLOOK_JOB_IMAGES=20000.
"""

import os
import re
import tempfile
import time
from pathlib import Path

from crash_trial import JOB, Trial

from bench.paired_timing import Figure, not_above
from secondlook_client import Client
from secondlook_client.values import JobState

FEW, MANY = 1_000, int(os.environ.get("SECONDLOOK_JOB_IMAGES", "100000"))
BAR = 1.1


def run() -> list[Figure | str]:
    """One ratio of peaks, from a single run of each, since peaks hardly vary."""
    few, many = (_peak_mib(count) for count in (FEW, MANY))
    name = f"peak RSS of a job of {MANY:,} images ÷ {FEW:,}"
    return [not_above(name, many, few, at_most=BAR, unit="MiB")]


def _peak_mib(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), "", images=count, frames=0, pause_s=0.0)
        server = trial.start()
        if not server.is_ready():
            raise RuntimeError(trial.log())
        began = time.perf_counter()
        with Client(f"127.0.0.1:{trial.port}") as client:
            client.jobs.create(JOB, folder=str(trial.folder / "images"))
            while (job := client.jobs.get(JOB)).state != JobState.DONE:
                time.sleep(1)
        print(f"{job.done:,} images in {time.perf_counter() - began:.0f} s", flush=True)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        server.stop()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024
