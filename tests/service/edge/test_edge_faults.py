"""The agent against a real server, and what breaks in between: lines, disks, clocks."""

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from flaky_line import FlakyLine
from running_agent import (
    SEND_ALL,
    BackgroundAgent,
    add_and_promote,
    add_images,
    never,
    promote,
    settings,
    stream_names,
)
from serving import Serving
from sqlalchemy import select
from students import replace_model, write_student

from secondlook.core.ontology_yaml import ontology_from_lines
from secondlook.edge.app import run_agent
from secondlook.edge.health import Health
from secondlook.store import Store
from secondlook.store.schema import items
from secondlook_client.errors import SpoolUnusable
from secondlook_client.spool import Spool


def heavy_student(folder: Path, megabytes: int) -> None:
    """One with a lot of weights that it does not use."""
    manifest = write_student(folder)
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
        waiting = settings(tmp_path, line.address, follow=True, wait_for_model=True)
        with BackgroundAgent(waiting) as agent:
            cutter.join(60)
            add_images(camera, [201])
            agent.until(lambda health: health.model_version == 1 or bool(add_images(camera, [202])))
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
    add_and_promote(server, tmp_path / "student", seed=1)
    with small_disk(tmp_path / "disk", "512k"):
        places = {"spool": str(tmp_path / "disk/spool"), "models": str(tmp_path / "disk/models")}
        places["health_file"] = str(tmp_path / "disk/health.json")
        on_disk = settings(
            tmp_path, server.address, **SEND_ALL, **places, follow=True, health_interval_s=0.05
        )
        with BackgroundAgent(on_disk) as agent:
            agent.until(lambda health: health.acknowledged == 6)
            filler = tmp_path / "disk" / "log"
            with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
            add_images(camera, range(10, 30))
            add_and_promote(server, tmp_path / "better", seed=2)
            health = agent.until(lambda health: health.frames == 26)
            health = agent.until(
                lambda health: health.dropped == 20 and "models" in health.problems
            )
            assert "No space left" in health.problems["sending"]
            assert health.model_version == 1 and health.refused_models == {}
            filler.unlink()
            add_images(camera, range(30, 60))
            agent.until(lambda health: health.acknowledged == 36)
            frames = itertools.count(60)

            def in_use(health: Health) -> bool:  # it is tried, in a process and then on frames
                add_images(camera, [next(frames)])
                return health.model_version == 2

            agent.until(in_use)


def test_a_spool_without_room_drops_the_oldest_and_never_blocks(
    server: Serving, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_and_promote(server, tmp_path / "student")
    run_agent(settings(tmp_path, server.address, **SEND_ALL), [], never)
    put = Spool.put

    def slow(self: Spool, data: bytes, name: str = "") -> int | None:
        time.sleep(0.3)
        return put(self, data, name)

    monkeypatch.setattr(Spool, "put", slow)
    monkeypatch.setattr("secondlook.edge.sources.FolderSource.live", True)
    add_images(camera, range(10, 60))
    offline = settings(tmp_path, "127.0.0.1:1", **SEND_ALL, follow=True)
    with BackgroundAgent(offline) as agent:
        health = agent.until(lambda health: health.frames == 56)
        assert agent.slowest_s < 0.25, "a disk of 0.3 s a frame, and the loop did not wait"
        assert health.dropped >= 40


def test_one_spool_belongs_to_one_agent(server: Serving, camera: Path, tmp_path: Path) -> None:
    add_and_promote(server, tmp_path / "student")
    given = ontology_from_lines(["dog"])
    with (
        BackgroundAgent(settings(tmp_path, server.address, follow=True), given),
        pytest.raises(SpoolUnusable, match="another process"),
    ):
        run_agent(
            settings(tmp_path, server.address, models=str(tmp_path / "m2")),
            [],
            never,
            ontology=given,
        )


def test_clocks_that_jump_give_no_burst_and_lose_nothing(
    server: Serving, store: Store, camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_and_promote(server, tmp_path / "student")
    jumping = iter([3e8, 2e9, 1e9, 4e9, 0.0] * 1000)
    real = time.time_ns
    monkeypatch.setattr("secondlook_client.spool.time.time_ns", lambda: int(next(jumping) * 1e9))
    add_images(camera, range(10, 60))
    few = settings(tmp_path, server.address, budget="9", random_share=0.0, random_reserve=0.0)
    health = run_agent(few, [], never)
    assert health.spooled == 3, "a third of an hour's budget, whatever the clock says"
    everything = settings(tmp_path, server.address, **SEND_ALL)
    health = run_agent(everything, [], never)
    assert health.acknowledged == health.spooled == 56
    monkeypatch.setattr("secondlook_client.spool.time.time_ns", real)
    (stream,) = stream_names(store)
    with store.database.reading() as connection:
        assert len(connection.execute(select(items.c.id)).all()) == 59
    assert stream.startswith("gate-")
