"""``secondlook label`` over folders of small images, with scripted models, and what it left.

What a process of its own adds (signals, limits, what else is said on stderr) is seen in some tests;
in the others the command runs in this process, which takes a tenth of the time.
"""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from secondlook.cli import run
from secondlook.core.files import text_to_name
from secondlook.store import open_store

TESTS = Path(__file__).parent
SCRIPTED = ("--proposer", "scripted_models:bright_half:{pause}", "--verifier",
            "scripted_models:agreeable:dog")  # fmt: skip
COCO = Path("coco/annotations/instances_default.json")
"""In the output folder of a run."""
START = [sys.executable, "-c", "from secondlook.cli import main; main()"]


def arguments(
    folder: Path,
    out: Path,
    *more: str,
    pause: float = 0.0,
    classes: Sequence[str] = ("dog", "cat"),
) -> list[str]:
    """The whole command; each image costs the models ``pause`` seconds."""
    models = [part.format(pause=pause) for part in SCRIPTED]
    wanted = [part for name in classes for part in ("-c", name)]
    return [*START, "label", str(folder), "--out", str(out), *wanted, *models, *more]


def environment(**more: str) -> dict[str, str]:
    """In which another process finds the scripted models."""
    paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def label(
    folder: Path, out: Path, *more: str, log: Path | None = None, **how: Any
) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process; ``log`` gets a line an image that is looked at."""
    extra = {"SCRIPTED_LOG": str(log)} if log else {}
    words = arguments(folder, out, *more, **how)[len(START) :]
    said, told = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(Path(out).parent),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(told),
        mock.patch.dict(os.environ, extra),
    ):
        code = run(words)
    return subprocess.CompletedProcess(words, code, said.getvalue(), told.getvalue())


def label_apart(
    folder: Path, out: Path, *more: str, **how: Any
) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    return subprocess.run(
        arguments(folder, out, *more, **how),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(out).parent,
    )


def image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Write noise with a bright left half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 99, (size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2] += 100
    Image.fromarray(pixels).save(path)
    return path


def folder_of(path: Path, count: int) -> Path:
    """Write ``count`` images into it."""
    for place in range(count):
        image(path / f"{place:03}.png", place)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    """Of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names_done(out: Path, data: Path | None = None) -> Counter[str]:
    """How many results each image has, by name, as the store has it on the disk."""
    place = data or out / ".store"
    with open_store(place) as store:
        (job,) = store.queue.list_jobs()
        found = store.results.page(job.run_id, limit=10_000)
    return Counter(text_to_name(result.labelled.name) for result in found)


def wait_for_results(data: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Until the store in ``data`` has so many; fails when the process ends before that."""
    query = "SELECT count(*) FROM decisions"
    for _ in range(1000):
        with contextlib.suppress(sqlite3.OperationalError):  # not made yet
            uri = f"file:{data / 'store.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
                if database.execute(query).fetchone()[0] >= count:
                    return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run made no progress")
