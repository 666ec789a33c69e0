"""Models that follow the server: downloaded, opened, refused, and back to the last good one."""

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from device_models import FolderRegistry
from students import image, replace_model, swap_classes, truncate, write_bomb, write_student

from secondlook.detector.manifest import read_manifest
from secondlook.edge.app import StudentGate, open_student
from secondlook.edge.model_cache import MAX_TRIES, ModelCache
from secondlook.edge.model_trial import ModelRunner
from secondlook.edge.model_updater import MAX_DAMAGED, ModelUpdater
from secondlook.edge.settings import EdgeSettings
from secondlook_client.errors import Cancelled, Damaged, Unavailable


class Device:
    """Everything of a device that has to do with models; ``restart`` starts its next process."""

    def __init__(self, tmp_path: Path) -> None:
        self.registry = FolderRegistry(tmp_path / "server")
        self.models = tmp_path / "models"
        self.tried: list[Path] = []
        self.gate = lambda folder, stopped: self.tried.append(folder)
        self.restart()

    def restart(self) -> None:
        self.cache = ModelCache(self.models, "street", keep=2)
        settings = EdgeSettings(model="street")
        self.updater = ModelUpdater(
            settings,
            self.registry,
            self.cache,
            lambda folder, stopped: self.gate(folder, stopped),
            open_student,
            lambda model: self.runner.offer(model),
        )
        self.runner = ModelRunner(self.updater, trial_frames=3, max_slowdown=0)

    def use(self, version: int) -> None:
        """A version that is promoted, downloaded and accepted."""
        self.registry.add(version)
        self.updater.poll()
        self.frames()

    def frames(self, count: int = 4) -> list[int]:
        outputs = [self.runner.detect(image((1, 0))) for _ in range(count)]
        self.updater._handle_events()
        return [one.version if one else 0 for one in outputs]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_promoted_model_is_fetched_once_and_used(device: Device) -> None:
    assert not device.updater.poll()
    device.registry.add(1)
    assert device.updater.poll()
    assert not device.updater.poll(), "it is on trial"
    assert device.frames() == [1] * 4
    assert not device.updater.poll()
    assert device.registry.downloads == [1]
    present = {path.name for path in (device.models / "1").iterdir()}
    assert present == {"manifest.json", "model.onnx", "self_test.npz"}, "no report on a device"


def test_a_rollback_is_followed_without_fetching_again(device: Device) -> None:
    for version in (1, 2):
        device.registry.add(version)
        assert device.updater.poll()
        device.frames()
    device.registry.wanted = 1
    assert device.updater.poll()
    assert device.frames()[-1] == 1
    assert device.registry.downloads == [1, 2]
    device.restart()
    assert device.updater.offer_last_good()
    assert device.frames() == [1] * 4, "the next process begins with what the last one used"


def test_without_a_server_the_last_good_model_goes_on(device: Device) -> None:
    device.use(1)
    device.registry.failing = Unavailable("no server")
    device.restart()
    assert device.updater.offer_last_good()
    with pytest.raises(Unavailable):
        device.updater.poll()
    assert device.frames() == [1] * 4


def corrupt(folder: Path) -> None:
    replace_model(folder, read_manifest(folder), b"this is no ONNX")


def disordered(folder: Path) -> None:
    swap_classes(folder, read_manifest(folder))


@pytest.mark.parametrize("spoil", [corrupt, disordered])
def test_a_model_that_does_not_open_is_refused_for_good_and_the_old_one_goes_on(
    device: Device, spoil: Callable[[Path], None]
) -> None:
    device.use(1)
    bad = device.registry.add(2)
    spoil(bad)
    digest = read_manifest(bad).digest
    assert not device.updater.poll()
    assert device.frames() == [1] * 4
    assert list(device.cache.refused) == [digest]
    assert not (device.models / "2").exists()
    device.restart()
    assert device.updater.offer_last_good()
    for _ in range(3):
        assert not device.updater.poll()
    assert device.registry.downloads == [1, 2], "not downloaded again, not even by the next process"
    assert device.frames() == [1] * 4
    device.registry.add(3)
    assert device.updater.poll()
    assert device.frames()[-1] == 3


@pytest.mark.parametrize("spoil", [truncate, lambda f: (f / "manifest.json").unlink()])
def test_a_download_that_came_damaged_is_tried_again_a_few_times(
    device: Device, spoil: Callable[[Path], None]
) -> None:
    device.registry.add(1)
    device.registry.spoil = spoil
    for _ in range(MAX_DAMAGED - 1):
        with pytest.raises(Exception):  # noqa: B017  # Damaged or NotFound, by what is damaged
            device.updater.poll()
        assert device.cache.refused == {}
    device.registry.spoil = None
    assert device.updater.poll(), "a line that was mended in time"
    device.registry.add(2)
    device.registry.spoil = spoil
    for _ in range(MAX_DAMAGED + 2):
        try:
            assert not device.updater.poll()
        except Exception as cause:
            assert "student" in str(cause)
    assert len(device.cache.refused) == 1
    assert device.registry.downloads.count(2) == MAX_DAMAGED


def test_faults_of_server_or_disk_do_not_count_against_a_model(device: Device) -> None:
    device.registry.add(1)
    for failing in (Unavailable("gone"), OSError(28, "No space left on device")):
        device.registry.failing = failing
        for _ in range(5):
            with pytest.raises(type(failing)):
                device.updater.poll()
    device.registry.failing = None
    full: list[Exception] = [MemoryError() for _ in range(5)]

    def opened(folder: Path) -> object:
        if full:
            raise full.pop()
        return open_student(folder)

    device.updater._open = opened  # type: ignore[assignment]
    for _ in range(5):
        with pytest.raises(MemoryError):
            device.updater.poll()
    assert device.cache.refused == {}
    assert device.updater.poll()


def test_a_server_whose_own_copy_is_damaged_is_given_up(device: Device) -> None:
    device.registry.add(1)

    def damaged(*_: object) -> None:
        raise Damaged("run secondlook check there")

    device.registry.download = damaged  # type: ignore[method-assign]
    for _ in range(MAX_DAMAGED - 1):
        with pytest.raises(Damaged):
            device.updater.poll()
    assert not device.updater.poll()
    assert "secondlook check" in next(iter(device.cache.refused.values()))


def test_a_good_model_damaged_on_the_disk_is_replaced_by_the_one_before(
    device: Device,
) -> None:
    for version in (1, 2):
        device.registry.add(version)
        device.updater.poll()
        device.frames()
    truncate(device.models / "2")
    device.restart()
    assert device.updater.offer_last_good()
    assert device.frames() == [1] * 4
    assert device.cache.refused == {}
    assert device.updater.poll(), "fetched again"
    assert device.frames()[-1] == 2


def test_a_version_of_another_server_with_the_same_number_is_fetched_anew(device: Device) -> None:
    device.use(1)
    write_student(device.registry.root / "1", seed=77)
    assert device.updater.poll()
    device.frames()
    assert device.registry.downloads == [1, 1]


def test_a_model_that_loses_its_trial_is_refused_over_restarts(device: Device) -> None:
    device.use(1)
    device.registry.add(2)
    device.updater.poll()
    offered = device.runner._offered
    assert offered is not None
    offered.detector.close()  # as if its memory were gone: detect raises
    assert device.frames() == [1] * 4
    assert len(device.cache.refused) == 1
    device.restart()
    device.updater.offer_last_good()
    assert not device.updater.poll()


def test_the_thread_keeps_polling_whatever_happens(device: Device) -> None:
    asked = threading.Semaphore(0)
    answers = itertools.cycle([ValueError("odd"), Unavailable("no server"), None])

    def current(name: str) -> None:
        asked.release()
        if (answer := next(answers)) is not None:
            raise answer

    device.registry.current = current  # type: ignore[method-assign,assignment]
    device.updater._settings = EdgeSettings(model="street", poll_s=0.05)
    device.updater.start()
    for _ in range(6):
        assert asked.acquire(timeout=10)
    device.updater.close()
    assert not device.updater._thread.is_alive()


def test_the_last_events_are_recorded_before_the_end(device: Device) -> None:
    device.registry.add(1)
    device.updater.poll()
    for _ in range(2):
        device.runner.detect(image((1, 0)))
    device.updater.close()
    state = json.loads((device.models / "state.json").read_text())
    assert list(state["good"]) == ["1"] and state["tries"] == {}


def test_a_model_that_crashes_the_process_at_its_first_frame_is_refused_in_the_end(
    device: Device,
) -> None:
    device.use(1)
    device.registry.add(2)
    tries = 0
    for _ in range(MAX_TRIES + 3):
        device.restart()
        assert device.updater.offer_last_good()
        device.frames()
        tries += device.updater.poll()  # and the process is gone
    assert tries == MAX_TRIES
    assert device.registry.downloads == [1, 2], "what is there is not fetched again"
    assert len(device.cache.refused) == 1


def test_kills_during_a_trial_do_not_count_after_the_first_frame(device: Device) -> None:
    device.use(1)
    device.registry.add(2)
    for _ in range(MAX_TRIES + 3):
        device.restart()
        device.updater.offer_last_good()
        device.frames()
        assert device.updater.poll()
        assert device.frames(1) == [2]  # killed here
    assert device.cache.refused == {}


def test_an_orderly_end_during_a_trial_does_not_count_against_the_model(device: Device) -> None:
    device.use(1)
    device.registry.add(2)
    device.updater.poll()
    device.runner.detect(image((1, 0)))
    device.updater.close()
    assert json.loads((device.models / "state.json").read_text())["tries"] == {}


def test_a_new_model_is_tried_before_it_is_opened_and_one_that_worked_is_not(
    device: Device,
) -> None:
    device.use(1)
    assert device.tried == [device.cache.path(1)]
    device.restart()
    assert device.updater.offer_last_good()
    assert device.frames() == [1] * 4 and len(device.tried) == 1


def test_a_model_that_takes_too_much_leaves_the_old_one_and_is_never_tried_again(
    device: Device,
) -> None:
    device.use(1)
    gate = StudentGate(EdgeSettings(max_model_mb=256))

    def tried(folder: Path, stopped: Callable[[], bool]) -> None:
        device.tried.append(folder)
        gate(folder, stopped)

    device.gate = tried
    write_bomb(device.registry.add(2))
    assert not device.updater.poll()
    assert device.frames() == [1] * 4
    (why,) = device.cache.refused.values()
    assert "more than 256 MB of memory" in why
    device.restart()
    assert device.updater.offer_last_good()
    assert not device.updater.poll()
    assert device.frames() == [1] * 4 and device.tried[1:] == [device.cache.path(2)]


@pytest.mark.parametrize("failure", [Cancelled("closed"), Unavailable("no process")])
def test_a_model_that_cannot_be_tried_now_is_tried_again(
    device: Device, failure: Exception
) -> None:
    def fail(folder: Path, stopped: Callable[[], bool]) -> None:
        raise failure

    works, device.gate = device.gate, fail
    device.registry.add(1)
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(type(failure)):
            device.updater.poll()
    device.gate = works
    assert device.updater.poll() and device.frames() == [1] * 4
