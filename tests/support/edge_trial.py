"""A device's day in minutes: killed, disconnected, given other models; then compared.

The agent and the server are processes of their own, with a connection between them that is cut. A
camera puts images into a folder and removes those that were processed. What the agent's spool
acknowledged is logged by ``recorded_agent`` and compared with what the server has in the end.
"""

import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crash_trial import Server
from edge_device import MODEL, TESTS, Device
from flaky_line import FlakyLine
from PIL import Image as PILImage
from sqlalchemy import select
from students import COLOURS, QUARTERS, replace_model, write_student

from secondlook.store import open_store
from secondlook.store.schema import items, runs
from secondlook_client import Client, RetryPolicy

WINDOW, SLOW_WINDOW = 200, 8
"""Most images in the camera's folder; and while a step of the plan waits for the device."""
STALLED_S = 120.0
CLASSES = ("person", "dog")
OTHER_CLASSES = ("person", "dog", "cat")


@dataclass
class TrialResult:
    """What the trial found."""

    processed: int = 0
    spooled: int = 0
    acknowledged: int = 0
    lost: int = 0
    """Acknowledged, and the server does not have them."""
    vanished: int = 0
    """Spooled, and neither on the server nor in the spool."""
    on_server: int = 0
    dropped: int = 0
    kills: int = 0
    cuts: int = 0
    versions: Counter[int] = field(default_factory=Counter)
    """Health files seen by the version in use."""
    refused: dict[str, str] = field(default_factory=dict)
    """Models, by digest."""
    corrupt: list[str] = field(default_factory=list)
    """Digests of the models that had to be refused."""
    rss: list[tuple[int, int]] = field(default_factory=list)
    """(frames processed since the restart, resident bytes) of the last process."""
    health: dict[str, Any] = field(default_factory=dict)
    """The last one."""


class Trial:
    """One server, one device, a day."""

    def __init__(self, folder: Path, frames: int, kills: int, cuts: int, seed: int = 1) -> None:
        self._folder = folder
        self._frames = frames
        self._random = random.Random(seed)
        self.result = TrialResult()
        half = frames // 2  # the second half is one process, so that its memory can be measured
        self._faults = [
            *((self._random.randrange(frames // 50, half), self._kill) for _ in range(kills)),
            *((self._random.randrange(frames), self._cut) for _ in range(cuts)),
        ]
        self._faults.sort(key=lambda entry: entry[0])
        steps = [self._better, self._corrupt, self._other_classes, self._better, self._roll_back]
        self._steps = [(frames * n // (len(steps) + 1), step) for n, step in enumerate(steps, 1)]
        self._awaited: Callable[[dict[str, Any]], bool] | None = None
        """Of the health file: that the device has seen the last step."""
        self._versions = 0

    def run(self) -> TrialResult:
        """The whole day; raises what goes wrong with the trial itself."""
        (self._folder / "device").mkdir()
        server, port = self._serve()
        try:
            with FlakyLine(f"127.0.0.1:{port}") as self._line, self._client(port) as self._server:
                self._better()
                self._device = Device(self._folder / "device", self._line.address)
                self._device.start()
                try:
                    self._run_camera()
                    self._settle()
                finally:
                    self._device.stop()
            server.stop()
        except BaseException:
            server.kill()
            raise
        self._compare()
        return self.result

    def _serve(self) -> tuple[Server, int]:
        flags = ["--data", self._folder / "data", "--port", "0", "--log-level", "error"]
        flags += ["--proposer", "scripted_models:bright_half:0"]
        flags += ["--verifier", "scripted_models:agreeable:dog"]
        with (self._folder / "server.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "secondlook", "serve", *map(str, flags)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on"), (self._folder / "server.log").read_text()
        return Server(process), int(line.rsplit(":", 1)[1])

    def _client(self, port: int) -> Client:
        return Client(f"127.0.0.1:{port}", retry=RetryPolicy(unavailable_s=60))

    def _run_camera(self) -> None:
        """Add images, remove processed ones, and do what is planned on the way."""
        waiting: set[str] = set()
        dropped, moved = 0, time.monotonic()
        while len(self._device.processed) < self._frames or self._is_unfinished():
            seen = waiting & self._device.processed
            for name in seen:
                (self._device.folder / "camera" / name).unlink()
            waiting -= seen
            fast = min(WINDOW, self._frames // 20)
            window = fast if self._awaited is None else SLOW_WINDOW
            while len(waiting) < window and (dropped < self._frames or self._is_unfinished()):
                waiting.add(self._drop(dropped))
                dropped += 1
            moved = time.monotonic() if seen else moved
            assert time.monotonic() - moved < STALLED_S, self._device.log()
            self._do_what_is_due(len(self._device.processed))
            self._watch()
            time.sleep(0.02)

    def _is_unfinished(self) -> bool:
        """A slow machine may need a longer day for the whole plan, but not for ever."""
        left = bool(self._steps or self._faults or self._awaited)
        return left and len(self._device.processed) < 3 * self._frames

    def _do_what_is_due(self, processed: int) -> None:
        """Whatever is due; another step only once the device has seen the last one."""
        while self._faults and self._faults[0][0] <= processed:
            self._faults.pop(0)[1]()
        if self._awaited is not None and self._awaited(self._device.health() or {}):
            self._awaited = None
        if self._awaited is None and self._steps and self._steps[0][0] <= processed:
            self._steps.pop(0)[1]()

    def _drop(self, number: int) -> str:
        name = f"{number:06d}.png"
        part = self._device.folder / "camera" / f"{name}.part"
        part.write_bytes(camera_image(number))
        part.rename(part.with_suffix(""))
        return name

    def _watch(self) -> None:
        health = self._device.health()
        if health:
            self.result.versions[health["model_version"]] += 1
        since = self._device.since_restart
        last = self.result.rss[-1][0] if self.result.rss else 0
        if since < last:
            self.result.rss.clear()
        if since and since - last >= max(self._frames // 100, 10):
            self.result.rss.append((since, self._device.rss()))

    def _settle(self) -> None:
        """Until the server has all that was spooled."""
        ends = time.monotonic() + STALLED_S
        while list((self._device.folder / "spool").glob("*.frame")):
            assert time.monotonic() < ends, self._device.log()
            time.sleep(0.1)
        time.sleep(0.5)  # a last health file
        assert not self._is_unfinished() and not self._steps, "the day was too short for its plan"
        self.result.health = self._device.health()

    def _kill(self) -> None:
        self._device.kill()
        self.result.kills += 1
        self._device.start()

    def _cut(self) -> None:
        self._line.cut()
        self.result.cuts += 1

    def _better(self) -> None:
        self._promote()

    def _other_classes(self) -> None:
        self._promote(classes=OTHER_CLASSES)

    def _corrupt(self) -> None:
        digest = self._promote(spoil=True)
        self.result.corrupt.append(digest)
        self._awaited = lambda health: digest in health.get("refused_models", {})

    def _promote(self, classes: tuple[str, ...] = CLASSES, spoil: bool = False) -> str:
        """Another student as the current version; its digest."""
        self._versions += 1
        folder = self._folder / f"student-{self._versions}"
        manifest = write_student(folder, classes, seed=self._versions)
        if spoil:
            whole = (folder / "model.onnx").read_bytes()
            manifest = replace_model(folder, manifest, whole[: len(whole) // 2])
        added = self._server.models.add(folder, MODEL)
        self._server.models.promote(MODEL, added.version, force=True)
        self._awaited = lambda health: health.get("model_version") == added.version
        return added.digest

    def _roll_back(self) -> None:
        back = self._server.models.rollback(MODEL).version
        self._awaited = lambda health: health.get("model_version") == back

    def _compare(self) -> None:
        """What the agent logged against what the server has."""
        logged: dict[str, set[int]] = {"put": set(), "ack": set(), "refused": set()}
        for line in (self._device.folder / "record").read_text().splitlines():
            event, _, number = line.partition(" ")
            if number != "None":
                logged[event].add(int(number))
            else:
                self.result.dropped += 1
        with (
            open_store(self._folder / "data") as store,
            store.database.reading() as connection,
        ):
            query = select(items.c.key).join(runs, runs.c.id == items.c.run_id)
            found = connection.execute(query.where(runs.c.name.like("gate%"))).scalars()
            kept = {int(key) for key in found}
        waiting = {int(path.stem) for path in (self._device.folder / "spool").glob("*.frame")}
        result = self.result
        result.processed = len(self._device.processed)
        result.spooled, result.acknowledged = len(logged["put"]), len(logged["ack"])
        result.lost = len(logged["ack"] - kept)
        result.vanished = len(logged["put"] - kept - waiting - logged["refused"])
        result.on_server = len(kept)
        result.refused = json.loads((self._device.folder / "models/state.json").read_text())[
            "refused"
        ]


def camera_image(number: int) -> bytes:
    """An image unlike that of any other number, with something in one of its quarters."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 160, (8, 8, 1), np.uint8).repeat(8, 0).repeat(8, 1).repeat(3, 2)
    x1, y1, x2, y2 = (QUARTERS[rng.integers(4)] * 64).astype(int)
    colour, strength = np.array(COLOURS[rng.integers(2)]), rng.uniform(0.4, 1)
    quarter = pixels[y1:y2, x1:x2]
    pixels[y1:y2, x1:x2] = quarter * (1 - strength) + colour * strength
    out = io.BytesIO()
    PILImage.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
