"""The agent against a real server: models from it, frames to it, and what breaks in between."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from edge_trial import drawn
from flaky_line import FlakyLine
from serving import Serving, serving
from sqlalchemy import select
from students import CLASSES, replace_model, write_student

from secondlook.edge.frames import Detection, Frame
from secondlook.edge.health import Health
from secondlook.edge.running import Running, run
from secondlook.edge.settings import EdgeSettings
from secondlook.errors import NotFound
from secondlook.ontology import Ontology
from secondlook.ontology_text import ontology_from_lines
from secondlook.store import Store, open_store
from secondlook.store.tables import items, pictures, runs
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import SpoolUnusable
from secondlook_client.spool import Spool

QUICK = RetryPolicy(first_s=0.02, longest_s=0.1, unavailable_s=0.5)
ALL = {"budget": "none", "random_share": 1.0}
"""Every frame is sent."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def server(store: Store) -> Iterator[Serving]:
    with serving(store=store, ontology=None) as s:
        yield s


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.edge.running.RETRY", QUICK)
    monkeypatch.setattr("secondlook.edge.sources.LOOK_AGAIN_S", 0.02)


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    shoot(folder, range(6))
    return folder


def shoot(camera: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        part = camera / f"{number:04d}.png.part"
        part.write_bytes(drawn(number))
        part.rename(part.with_suffix(""))


def settings(tmp_path: Path, address: str, **more: object) -> EdgeSettings:
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
    return EdgeSettings(**{**flags, **more})  # type: ignore[arg-type]


def never() -> bool:
    return False


def add(server: Serving, folder: Path, **student: object) -> str:
    """Keep a student as the current version of its name; its digest."""
    write_student(folder, int8=False, **student)  # type: ignore[arg-type]
    return promote(server, folder)


def promote(server: Serving, folder: Path) -> str:
    with Client(server.address) as client:
        added = client.models.add(folder, "street")
        client.models.promote("street", added.version, force=True)
    return added.digest


def kept(store: Store, stream: str) -> dict[str, bytes]:
    """The bytes of every frame in the store, by name."""
    query = select(items.c.name, pictures.c.sha256).join(runs, runs.c.id == items.c.run_id)
    query = query.join(pictures).where(runs.c.name == stream)
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
    assert len({name for name, _ in rows}) == len(rows)
    return {name: store.blobs.get(digest.hex()) for name, digest in rows}


def streams(store: Store) -> list[str]:
    return sorted(job.name for job in store.queue.list_jobs())


class Watched:
    """An agent in a thread: its health can be asked for while it runs."""

    def __init__(self, settings: EdgeSettings, ontology: Ontology | None = None) -> None:
        self._settings, self._ontology = settings, ontology
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._running: Running | None = None
        self.frames: list[str] = []
        self.failure: BaseException | None = None
        self.slowest_s = 0.0
        self._at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _hook(self, frame: Frame, found: Sequence[Detection]) -> None:
        now = time.monotonic()
        self.slowest_s = max(self.slowest_s, now - self._at if self._at else 0.0)
        self._at = now
        self.frames.append(frame.name)

    def _started(self, running: Running) -> None:
        self._running = running
        self._ready.set()

    def _run(self) -> None:
        try:
            run(
                self._settings,
                [self._hook],
                self._stop.is_set,
                ontology=self._ontology,
                ready=self._started,
            )
        except BaseException as failure:
            self.failure = failure
            self._ready.set()

    def __enter__(self) -> "Watched":
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
        assert self._running is not None, self.failure
        return self._running.agent.health()

    def until(self, true: Callable[[Health], bool]) -> Health:
        ends = time.monotonic() + 60
        while not true(health := self.health):
            assert time.monotonic() < ends, health
            assert self.failure is None, self.failure
            time.sleep(0.02)
        return health


def test_a_folder_is_looked_at_and_sent_with_the_servers_model(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    digest = add(server, tmp_path / "student")
    health = run(settings(tmp_path, server.address, **ALL), [], never)
    assert (health.frames, health.sent, health.acknowledged, health.spooled) == (6, 6, 6, 0)
    assert (health.model, health.model_version, health.model_digest) == ("street", 1, digest)
    (stream,) = streams(store)
    assert stream.startswith("gate-")
    assert kept(store, stream) == {f"random/{n:04d}.png": drawn(n) for n in range(6)}
    assert not list((tmp_path / "spool").glob("*.frame"))


def test_frames_carry_the_reason_they_were_chosen_for(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add(server, tmp_path / "student")
    health = run(settings(tmp_path, server.address, random_share=0.0), [], never)
    (stream,) = streams(store)
    names = list(kept(store, stream))
    assert len(names) == sum(health.chosen.values()) > 0
    assert {name.split("/")[0] for name in names} == {r for r, n in health.chosen.items() if n}


def test_classes_of_ones_own_go_to_the_stream_as_it_is_called(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add(server, tmp_path / "student")
    given = ontology_from_lines(["cat"])
    run(settings(tmp_path, server.address, **ALL), [], never, ontology=given)
    assert streams(store) == ["gate"]
    assert len(kept(store, "gate")) == 6


def test_without_a_server_it_begins_with_the_last_good_model_and_keeps_the_frames(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add(server, tmp_path / "student")
    run(settings(tmp_path, server.address, **ALL), [], never)
    offline = settings(tmp_path, "127.0.0.1:1", **ALL, flush_s=0.1)
    health = run(offline, [], never)
    assert (health.frames, health.model_version, health.acknowledged) == (6, 1, 0)
    assert health.spooled == 6 and not health.connected
    assert "no secondlook server answers" in health.problems["sending"]
    shoot(camera, [77])
    health = run(settings(tmp_path, server.address, **ALL), [], never)
    assert health.acknowledged == 13
    (stream,) = streams(store)
    with store.database.reading() as connection:
        count = len(connection.execute(select(items.c.id)).all())
    assert count == 6 + 6 + 7 and stream.startswith("gate-")


def test_no_model_anywhere_says_the_way_out_or_waits(
    server: Serving, camera: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"promoted no version of 'street'.*--student.*--wait"):
        run(settings(tmp_path, server.address), [], never)
    waiting = settings(tmp_path, server.address, wait=True, follow=True)
    with Watched(waiting) as agent:
        agent.until(lambda health: health.unseen == 6)
        add(server, tmp_path / "student")
        numbers = iter(range(100, 10_000))
        agent.until(
            lambda health: health.model_version == 1 or bool(shoot(camera, [next(numbers)]))
        )
    assert agent.frames


def test_models_are_swapped_refused_and_rolled_back_while_frames_flow(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add(server, tmp_path / "v1", seed=1)
    number = 10
    follow = settings(tmp_path, server.address, **ALL, follow=True, slower=0.0)

    def until(true: Callable[[Health], bool]) -> Health:
        nonlocal number

        def flowing(health: Health) -> bool:
            nonlocal number
            shoot(camera, range(number, number + 10))
            number += 10
            return true(health)

        return agent.until(flowing)

    with Watched(follow) as agent:
        until(lambda health: health.model_version == 1)
        add(server, tmp_path / "v2", seed=2)
        until(lambda health: health.model_version == 2)
        truncated = write_student(tmp_path / "v3", seed=3, int8=False)
        whole = (tmp_path / "v3" / "model.onnx").read_bytes()
        replace_model(tmp_path / "v3", truncated, whole[:300])
        bad = promote(server, tmp_path / "v3")
        until(lambda health: bad in health.refused_models)
        assert agent.health.model_version == 2
        add(server, tmp_path / "v4", seed=4, classes=(*CLASSES, "cat"))
        until(lambda health: health.model_version == 4)
        with Client(server.address) as client:
            before = client.models.rollback("street").version
        until(lambda health: health.model_version == before or bad in health.refused_models)
        with Client(server.address) as client:
            client.models.promote("street", 1, force=True)
        until(lambda health: health.model_version == 1)
        health = agent.until(lambda health: health.frames == number - 4 and not health.spooled)
    assert list(health.refused_models) == [bad]
    assert health.unseen == 0 and health.damaged == 0
    assert health.acknowledged == health.sent == number - 4
    both = streams(store)
    assert len(both) == 2, "other classes have a stream of their own"
    assert sum(len(kept(store, stream)) for stream in both) == number - 4
    assert len([path for path in (tmp_path / "models").iterdir() if path.is_dir()]) <= 3


def heavy_student(folder: Path, megabytes: int) -> None:
    """One with a lot of weights that it does not use."""
    manifest = write_student(folder, int8=False)
    model = onnx.load(folder / "model.onnx")
    ballast = np.random.default_rng(1).integers(0, 255, megabytes * 2**20, np.uint8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(ballast, "ballast"))
    replace_model(folder, manifest, model.SerializeToString())


def test_a_line_that_breaks_in_the_middle_of_a_download(
    server: Serving, camera: Path, tmp_path: Path
) -> None:
    heavy_student(tmp_path / "student", megabytes=24)
    size = (tmp_path / "student" / "model.onnx").stat().st_size
    promote(server, tmp_path / "student")
    part = tmp_path / "models" / "1.part" / "model.onnx"
    breaks: list[int] = []
    with FlakyLine(server.address) as line:

        def cutting() -> None:
            while len(breaks) < 3 and not (tmp_path / "models" / "1").exists():
                there = part.stat().st_size if part.exists() else 0
                if there > (breaks[-1] if breaks else 0) and there < size:
                    line.cut()
                    breaks.append(there)
                time.sleep(0.001)

        cutter = threading.Thread(target=cutting)
        cutter.start()
        waiting = settings(tmp_path, line.address, follow=True, wait=True)
        with Watched(waiting) as agent:
            cutter.join(60)
            shoot(camera, [201])
            agent.until(lambda health: health.model_version == 1 or bool(shoot(camera, [202])))
    assert breaks and breaks == sorted(set(breaks)), "gone on with, not begun anew"
    assert agent.health.refused_models == {}
    assert not part.exists()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk that is soon full, where this may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_costs_frames_and_models_but_not_the_loop(
    server: Serving, store: Store, camera: Path, tmp_path: Path
) -> None:
    add(server, tmp_path / "student", seed=1)
    with small_disk(tmp_path / "disk", "512k"):
        places = {"spool": str(tmp_path / "disk/spool"), "models": str(tmp_path / "disk/models")}
        places["health"] = str(tmp_path / "disk/health.json")
        on_disk = settings(tmp_path, server.address, **ALL, **places, follow=True, health_s=0.05)
        with Watched(on_disk) as agent:
            agent.until(lambda health: health.acknowledged == 6)
            filler = tmp_path / "disk" / "log"
            with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
            shoot(camera, range(10, 30))
            add(server, tmp_path / "better", seed=2)
            health = agent.until(lambda health: health.frames == 26)
            health = agent.until(
                lambda health: health.dropped == 20 and "models" in health.problems
            )
            assert "No space left" in health.problems["sending"]
            assert health.model_version == 1 and health.refused_models == {}
            filler.unlink()
            shoot(camera, range(30, 60))
            agent.until(lambda health: health.acknowledged == 36)
            shoot(camera, range(60, 90))
            time.sleep(0.4)
            shoot(camera, range(90, 120))
            agent.until(lambda health: health.model_version == 2)


def test_a_spool_without_room_drops_the_oldest_and_never_blocks(
    server: Serving, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server, tmp_path / "student")
    run(settings(tmp_path, server.address, **ALL), [], never)
    put = Spool.put

    def slow(self: Spool, data: bytes, name: str = "") -> int | None:
        time.sleep(0.3)
        return put(self, data, name)

    monkeypatch.setattr(Spool, "put", slow)
    monkeypatch.setattr("secondlook.edge.sources.FolderSource.live", True)
    shoot(camera, range(10, 60))
    offline = settings(tmp_path, "127.0.0.1:1", **ALL, follow=True)
    with Watched(offline) as agent:
        health = agent.until(lambda health: health.frames == 56)
        assert agent.slowest_s < 0.25, "a disk of 0.3 s a frame, and the loop did not wait"
        assert health.dropped >= 40


def test_one_spool_belongs_to_one_agent(server: Serving, camera: Path, tmp_path: Path) -> None:
    add(server, tmp_path / "student")
    given = ontology_from_lines(["dog"])
    with (
        Watched(settings(tmp_path, server.address, follow=True), given),
        pytest.raises(SpoolUnusable, match="another process"),
    ):
        run(
            settings(tmp_path, server.address, models=str(tmp_path / "m2")),
            [],
            never,
            ontology=given,
        )


def test_clocks_that_jump_give_no_burst_and_lose_nothing(
    server: Serving, store: Store, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server, tmp_path / "student")
    jumping = iter([3e8, 2e9, 1e9, 4e9, 0.0] * 1000)
    real = time.time_ns
    monkeypatch.setattr("secondlook_client.spool.time.time_ns", lambda: int(next(jumping) * 1e9))
    shoot(camera, range(10, 60))
    few = settings(tmp_path, server.address, budget="9", random_share=0.0, random_reserve=0.0)
    health = run(few, [], never)
    assert health.sent == 3, "a third of an hour's budget, whatever the clock says"
    everything = settings(tmp_path, server.address, **ALL)
    health = run(everything, [], never)
    assert health.acknowledged == health.sent == 56
    monkeypatch.setattr("secondlook_client.spool.time.time_ns", real)
    (stream,) = streams(store)
    with store.database.reading() as connection:
        assert len(connection.execute(select(items.c.id)).all()) == 59
    assert stream.startswith("gate-")
