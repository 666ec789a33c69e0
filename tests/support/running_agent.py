"""An agent for tests: its camera, its settings, and its frames on the server."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_trial import camera_image
from serving import Serving
from stored import stored_frames
from students import write_student

from secondlook.detector.frames import Detection, SourceFrame
from secondlook.edge.app import RunningAgent, run_agent
from secondlook.edge.health import Health
from secondlook.edge.settings import EdgeSettings
from secondlook.store import Store
from secondlook_client import Client
from secondlook_client.ontology import Ontology

SEND_ALL = {"budget": "none", "random_share": 1.0}
"""Every frame is sent."""


def add_images(camera: Path, numbers: Sequence[int]) -> None:
    """One image per number, each written atomically."""
    for number in numbers:
        part = camera / f"{number:04d}.png.part"
        part.write_bytes(camera_image(number))
        part.rename(part.with_suffix(""))


def settings(tmp_path: Path, address: str, **more: object) -> EdgeSettings:
    """An agent on the folder of the camera that polls often."""
    flags: dict[str, object] = {
        "source": str(tmp_path / "camera"),
        "server": address,
        "model": "street",
        "stream": "gate",
        "spool": str(tmp_path / "spool"),
        "models": str(tmp_path / "models"),
        "poll_s": 0.1,
        "sync": False,
        "threads": 1,
        "flush_s": 20.0,
    }
    return EdgeSettings().replace(**{**flags, **more})


def never() -> bool:
    """For an agent that is not stopped."""
    return False


def add_and_promote(server: Serving, folder: Path, **student: object) -> str:
    """Write a student and promote it; its digest."""
    write_student(folder, **student)  # type: ignore[arg-type]
    return promote(server, folder)


def promote(server: Serving, folder: Path) -> str:
    """Register the student in the folder and promote it; its digest."""
    with Client(server.address) as client:
        added = client.models.add(folder, "street")
        client.models.promote("street", added.version, force=True)
    return added.digest


def frames_on_server(store: Store, stream: str) -> dict[str, bytes]:
    """The bytes of every frame in the store, by name."""
    rows = stored_frames(store, stream)
    by_name = {name: content for _, name, content in rows}
    assert len(by_name) == len(rows)
    return by_name


def stream_names(store: Store) -> list[str]:
    """The names of the streams on the server."""
    return sorted(job.name for job in store.queue.list_jobs())


class BackgroundAgent:
    """An agent in a thread, whose health can be read while it runs."""

    def __init__(self, settings: EdgeSettings, ontology: Ontology | None = None) -> None:
        self._settings, self._ontology = settings, ontology
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._running: RunningAgent | None = None
        self.frames: list[str] = []
        self.failure: BaseException | None = None
        self.slowest_s = 0.0
        self._at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _hook(self, frame: SourceFrame, found: Sequence[Detection]) -> None:
        now = time.monotonic()
        self.slowest_s = max(self.slowest_s, now - self._at if self._at else 0.0)
        self._at = now
        self.frames.append(frame.name)

    def _started(self, running: RunningAgent) -> None:
        self._running = running
        self._ready.set()

    def _run(self) -> None:
        try:
            run_agent(
                self._settings,
                [self._hook],
                self._stop.is_set,
                ontology=self._ontology,
                ready=self._started,
            )
        except BaseException as failure:
            self.failure = failure
            self._ready.set()

    def __enter__(self) -> "BackgroundAgent":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    @property
    def health(self) -> Health:
        """The present one."""
        assert self._running is not None, self.failure
        return self._running.agent.health()

    def until(self, true: Callable[[Health], bool]) -> Health:
        """Wait until that is true of the health; fails after a minute."""
        ends = time.monotonic() + 60
        while not true(health := self.health):
            assert time.monotonic() < ends, health
            assert self.failure is None, self.failure
            time.sleep(0.02)
        return health
