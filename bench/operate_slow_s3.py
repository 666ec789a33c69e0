"""An S3 that throttles and is slow while clients work: what is lost, named, and asked again.

One server with PostgreSQL and an S3 (moto) behind a proxy. For a while each request is answered
with 503 SlowDown, then half of them and the others late. The requests a second of these times,
divided by those of the good time before, show whether retries pile up. Models are scripted.
"""

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from fleet import Fleet
from postgres import postgres_server
from s3 import client
from slow_s3 import SlowS3, slow_s3
from workday import FOLDER, Workday

from bench.paired_timing import Figure, none_of, not_above
from secondlook.store import open_store
from secondlook_client import Client

PHASE_S = 12.0
BUCKET = "images"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


def run() -> list[Figure | str]:
    """What is lost, the rates of requests, and what callers and the job were told."""
    with (
        patch.dict(os.environ, {**KEYS, "AWS_REGION": "us-east-1"}),
        tempfile.TemporaryDirectory() as name,
        postgres_server() as postgres,
        slow_s3() as s3,
    ):
        folder, url = Path(name), postgres.url(postgres.new_database())
        client(s3.endpoint).create_bucket(Bucket=BUCKET)
        blobs = f"s3://{BUCKET}/kept?endpoint={s3.endpoint}"
        flags = ["--database-url", url, "--blob-url", blobs, "--image-roots", folder]
        with Fleet(folder, flags) as fleet:
            fleet.start_all()
            day = Workday(folder, fleet.address, job_images=600)
            day.ask(100)
            with day.working():
                good, _ = _phase(s3, fleet.address)
                throttled, told = _phase(s3, fleet.address, refused=1.0)
                slow, _ = _phase(s3, fleet.address, refused=0.5, delay_s=0.5)
                _phase(s3, fleet.address)
            with open_store(folder / "data", url, blobs) as store:
                account = day.account(store)
    return [
        none_of("lost, doubled, damaged or given up", account.faults),
        not_above("requests, all refused ÷ good", throttled, good, at_most=2, unit="a second"),
        not_above("requests, half refused ÷ good", slow, good, at_most=2, unit="a second"),
        f"{account.sentence()}; calls that failed: {day.told()}. The job said: {told or '-'}.",
    ]


def _phase(
    s3: SlowS3, address: str, refused: float = 0.0, delay_s: float = 0.0
) -> tuple[float, str]:
    """Requests a second, and what the job waits for at the end."""
    s3.refused, s3.delay_s = refused, delay_s
    before, began = s3.requests, time.monotonic()
    time.sleep(PHASE_S)
    rate = (s3.requests - before) / (time.monotonic() - began)
    with Client(address) as caller:
        waits_for = caller.jobs.get(FOLDER).message
    s3.refused = s3.delay_s = 0.0
    return rate, waits_for
