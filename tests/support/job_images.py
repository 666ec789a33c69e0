"""Small distinct images for jobs, and a runner over scripted models."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedProposer, ScriptedVerifier
from PIL import Image as PILImage

from secondlook.config.settings import BatchingSettings
from secondlook.jobs import worker
from secondlook.jobs.runner import JobRunner
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.store import Store
from secondlook.store.queue import JobRow
from secondlook_client.ontology import ClassSpec, Ontology
from secondlook_client.retry import RetryPolicy

DOGS = Ontology((ClassSpec("dog"),))
SETTLED_NS = 10**18
"""A time of change long ago: such a file is not being written any more."""


def encoded(number: int, width: int = 40, height: int = 30) -> bytes:
    """A PNG unlike that of any other number."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = 200
    pixels[0, :4, 0] = list(number.to_bytes(4, "big"))
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def fill(folder: Path, count: int) -> Path:
    """A folder of ``count`` images, ten in a folder of their own each."""
    for number in range(count):
        path = folder / f"part{number // 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return folder


@contextmanager
def running(
    store: Store,
    roots: Sequence[Path] = (),
    proposer: Any = None,
    verifier: Any = None,
    limits: BatchingSettings | None = None,
    **options: Any,
) -> Iterator[JobRunner]:
    """A runner at work; closed, and its engine after it, at the end."""
    pipeline = Pipeline(proposer or ScriptedProposer(), verifier or ScriptedVerifier())
    engine = Engine(pipeline, limits)
    runner = JobRunner(store, engine, roots=roots, **options)
    runner.start()
    try:
        yield runner
    finally:
        runner.close()
        engine.close()


def wait_for(
    store: Store, name: str, right: Callable[[JobRow], bool], timeout_s: float = 30
) -> JobRow:
    """The job as soon as it is as wanted; fails when that takes too long."""
    ends = time.monotonic() + timeout_s
    while not right(job := store.queue.get(name)):
        assert time.monotonic() < ends, f"still {job}"
        time.sleep(0.02)
    return job


def try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed in a job is tried again after a tenth of the usual time."""

    usual = RetryPolicy.backoff_s
    monkeypatch.setattr(RetryPolicy, "backoff_s", lambda policy, n: usual(policy, n) / 10)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a job waits for long."""
    try_again_soon(monkeypatch)
    monkeypatch.setattr(worker, "LINGER_S", 0.2)


def ended(job: JobRow) -> bool:
    """Whether nothing more will happen."""
    return not job.active
