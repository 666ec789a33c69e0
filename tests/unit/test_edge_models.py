"""Models on a device: swapped between two frames, tried, refused, remembered over kills."""

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_models import FolderRegistry, ScriptedDetector
from students import picture, replace_model, swapped_classes, truncate, write_student

from secondlook.detector.manifest import Manifest, read_manifest
from secondlook.edge.opening import files_needed, open_student
from secondlook.edge.shelf import MAX_REFUSED, MAX_TRIES, Shelf
from secondlook.edge.slot import Loaded, ModelSlot
from secondlook.edge.updates import MAX_DAMAGED, Updates, UpdateSettings
from secondlook.errors import BadSetting, Damaged
from secondlook_client.errors import Damaged as WireDamaged
from secondlook_client.errors import Unavailable

FRAME = np.full((48, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_student(tmp_path_factory.mktemp("student"))


class Heard:
    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    def survived(self, model: Loaded) -> None:
        pass

    def kept(self, model: Loaded) -> None:
        self.told.append(("kept", model.version, ""))

    def refused(self, model: Loaded, why: str) -> None:
        self.told.append(("refused", model.version, why))


class Bench:
    """A slot with a clock that only detectors move."""

    def __init__(self, manifest: Manifest, **options: float) -> None:
        self.manifest = manifest
        self.now = 0.0
        self.heard = Heard()
        self.slot = ModelSlot(self.heard, clock=lambda: self.now, trial_frames=6, **options)

    def model(
        self,
        version: int,
        seconds: float = 0.01,
        fails: Callable[[int], bool] = lambda count: False,
        proven: bool = False,
    ) -> Loaded:
        def look(pixels: object) -> None:
            self.now += seconds
            if fails(detector.looks):
                raise RuntimeError("a bad model")

        detector = ScriptedDetector(self.manifest, look)
        return Loaded(version, f"{version:064x}", detector, proven)

    def frames(self, count: int) -> list[int]:
        """The version that looked at each frame; 0 for none."""
        seen = [self.slot.look(FRAME) for _ in range(count)]
        return [found.version if found else 0 for found in seen]


def closed(model: Loaded) -> bool:
    assert isinstance(model.detector, ScriptedDetector)
    return model.detector.closed


def test_detections_are_plain_values_with_thresholds_applied(tmp_path: Path) -> None:
    write_student(tmp_path, thresholds=(0.5, 0.999))
    slot = ModelSlot(Heard())
    slot.offer(Loaded(0, "d", open_student(tmp_path), proven=True))
    seen = slot.look(picture((1, 0), (2, 1)))
    assert seen is not None
    sure = [d for d in seen.found if d.certain]
    assert [d.class_name for d in sure] == ["person"]
    assert sure[0].box == (32.0, 0.0, 64.0, 32.0)
    assert 0.5 < sure[0].probability == pytest.approx(sure[0].score, abs=1e-3)
    assert any(d.class_name == "dog" and not d.certain for d in seen.found)
    slot.close()


def test_there_is_nothing_to_see_without_a_model(manifest: Manifest) -> None:
    assert Bench(manifest).frames(2) == [0, 0]


def test_a_new_model_takes_over_between_two_frames_and_the_old_one_is_closed(
    manifest: Manifest,
) -> None:
    bench = Bench(manifest)
    old, new = bench.model(1), bench.model(2)
    bench.slot.offer(old)
    assert bench.frames(3) == [1, 1, 1]
    bench.slot.offer(new)
    assert bench.frames(8) == [2] * 8, "the new one's view counts from its first frame"
    assert bench.slot.current is new and closed(old) and not closed(new)
    assert bench.heard.told == [("kept", 1, ""), ("kept", 2, "")]
    assert (bench.slot.swaps, bench.slot.went_back) == (1, 0)
    assert isinstance(new.detector, ScriptedDetector) and new.detector.looks == 8
    bench.slot.close()
    assert closed(new)


@pytest.mark.parametrize("at", [1, 4])
def test_a_model_that_fails_on_trial_is_out_and_no_frame_is_lost(
    manifest: Manifest, at: int
) -> None:
    bench = Bench(manifest)
    old, bad = bench.model(1), bench.model(2, fails=lambda count: count == at)
    bench.slot.offer(old)
    bench.frames(1)
    bench.slot.offer(bad)
    assert bench.frames(6) == [2] * (at - 1) + [1] * (7 - at)
    assert bench.slot.current is old and closed(bad) and not closed(old)
    why = "it failed on a frame: RuntimeError: a bad model"
    assert bench.heard.told[1:] == [("refused", 2, why)]
    assert bench.slot.went_back == 1


@pytest.mark.parametrize(
    ("seconds", "bound", "proven", "swapped"),
    [
        (0.029, 3.0, False, True),
        (0.031, 3.0, False, False),
        (0.031, 0.0, False, True),
        (0.5, 3.0, True, True),
    ],
)
def test_a_model_that_is_far_slower_is_out_unless_it_is_wanted_back(
    manifest: Manifest, seconds: float, bound: float, proven: bool, swapped: bool
) -> None:
    bench = Bench(manifest, slower=bound)
    bench.slot.offer(bench.model(1))
    bench.frames(1)
    bench.slot.offer(bench.model(2, seconds, proven=proven))
    versions = bench.frames(32)
    assert versions[-1] == (2 if swapped else 1)
    assert 0 not in versions
    if not swapped:
        assert versions == [2] * 29 + [1] * 3, "looked at for longer, as it may be the machine"
        assert "31 ms a frame where the model in use takes 10 ms" in bench.heard.told[-1][2]


def test_a_difference_of_nothing_is_no_reason(manifest: Manifest) -> None:
    bench = Bench(manifest)
    bench.slot.offer(bench.model(1, 0.0001))
    bench.frames(1)
    bench.slot.offer(bench.model(2, 0.009))
    assert bench.frames(8)[-1] == 2 and bench.slot.swaps == 1


def test_a_machine_that_is_busy_now_and_then_is_no_reason_either(manifest: Manifest) -> None:
    bench = Bench(manifest)
    bench.slot.offer(bench.model(1))
    bench.frames(1)
    busy = bench.model(2)
    assert isinstance(busy.detector, ScriptedDetector)

    def look(pixels: object) -> None:
        bench.now += 0.01 if busy.detector.looks % 8 == 7 else 0.5  # type: ignore[attr-defined]

    busy.detector.look = look
    bench.slot.offer(busy)
    bench.frames(12)
    assert bench.slot.current is busy


def test_a_first_model_that_fails_at_once_is_refused(manifest: Manifest) -> None:
    bench = Bench(manifest)
    bench.slot.offer(bench.model(1, fails=lambda count: True))
    assert bench.frames(2) == [0, 0]
    assert bench.slot.current is None
    bench.slot.offer(bench.model(2))
    assert bench.frames(1) == [2]
    assert [told[:2] for told in bench.heard.told] == [("refused", 1), ("kept", 2)]


def test_a_proven_model_that_fails_on_one_frame_is_kept(manifest: Manifest) -> None:
    bench = Bench(manifest)
    bench.slot.offer(bench.model(1, fails=lambda count: count == 1, proven=True))
    with pytest.raises(RuntimeError):
        bench.slot.look(FRAME)
    assert bench.frames(2) == [1, 1]


def test_a_newer_model_ends_the_trial_of_the_one_before(manifest: Manifest) -> None:
    bench = Bench(manifest)
    first, second, third = bench.model(1), bench.model(2), bench.model(3)
    bench.slot.offer(first)
    bench.frames(1)
    bench.slot.offer(second)
    bench.frames(2)
    bench.slot.offer(third)
    assert bench.frames(7)[-1] == 3
    assert closed(first) and closed(second) and not closed(third)
    assert [told[:2] for told in bench.heard.told] == [("kept", 1), ("kept", 3)]


# The shelf


def test_the_shelf_remembers_over_restarts_and_keeps_few(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street", keep=2)
    for version in (1, 2, 3):
        shelf.path(version).mkdir()
        (tmp_path / f"{version + 1}.part").mkdir()
        shelf.keep(version, f"d{version}")
    (tmp_path / "notes").mkdir()
    again = Shelf(tmp_path, "street", keep=2)
    assert again.good == [(3, "d3"), (2, "d2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "notes", "state.json"]
    again.keep(2, "d2")
    assert Shelf(tmp_path, "street").good == [(2, "d2"), (3, "d3")], "the last used first"
    again.refuse("d2", "it is\nslow")
    last = Shelf(tmp_path, "street")
    assert last.good == [(3, "d3")] and last.refused == {"d2": "it is slow"}
    assert not last.path(2).exists()


def test_a_model_that_ends_the_process_is_found_out(tmp_path: Path) -> None:
    lives = []
    for _ in range(MAX_TRIES + 2):
        lives.append(Shelf(tmp_path, "street").tried("deadly"))  # and the process is gone
    assert lives == [True] * MAX_TRIES + [False] * 2
    assert f"ended {MAX_TRIES} times" in Shelf(tmp_path, "street").refused["deadly"]


def test_a_try_that_was_given_up_does_not_count(tmp_path: Path) -> None:
    for _ in range(10):
        shelf = Shelf(tmp_path, "street")
        assert shelf.tried("d")
        shelf.untried("d")


def test_refusals_are_bounded(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street")
    for number in range(MAX_REFUSED + 10):
        shelf.refuse(f"d{number}", "x" * 10_000)
    assert len(shelf.refused) == MAX_REFUSED and "d9" not in shelf.refused
    assert (tmp_path / "state.json").stat().st_size < 50_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"name": 1, "good": {}, "refused": {}, "tries": {}}',
        '{"name": "street", "good": {"../../etc": "d"}, "refused": {}, "tries": {}}',
        '{"name": "street", "good": [], "refused": {}, "tries": {"d": "x"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_state_is_a_new_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    shelf = Shelf(tmp_path, "street")
    assert shelf.good == [] and shelf.tried("d")


def test_models_of_another_name_make_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "street")
    shelf.path(1).mkdir()
    shelf.keep(1, "d1")
    assert Shelf(tmp_path, "yard").good == []
    assert not (tmp_path / "1").exists()


def test_a_full_disk_makes_no_shelf_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path, "street")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    shelf.refuse("d", "bad")
    assert shelf.refused == {"d": "bad"}, "known at least until the end of this life"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="--models"):
        Shelf(tmp_path / "file", "street")
    with pytest.raises(BadSetting, match="at least 2"):
        Shelf(tmp_path, "street", keep=1)


# Updates


class Device:
    """Everything of a device that has to do with models; ``restart`` is its next life."""

    def __init__(self, tmp_path: Path) -> None:
        self.registry = FolderRegistry(tmp_path / "server")
        self.models = tmp_path / "models"
        self.restart()

    def restart(self) -> None:
        self.shelf = Shelf(self.models, "street", keep=2)
        settings = UpdateSettings("street")
        self.updates = Updates(
            settings, self.registry, self.shelf, open_student, lambda m: self.slot.offer(m)
        )
        self.slot = ModelSlot(self.updates, trial_frames=3, slower=0)

    def frames(self, count: int = 4) -> list[int]:
        seen = [self.slot.look(picture((1, 0))) for _ in range(count)]
        self.updates._hear()
        return [found.version if found else 0 for found in seen]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_promoted_model_is_fetched_once_and_used(device: Device) -> None:
    assert not device.updates.poll()
    device.registry.add(1)
    assert device.updates.poll()
    assert not device.updates.poll(), "it is on trial"
    assert device.frames() == [1] * 4
    assert not device.updates.poll()
    assert device.registry.downloads == [1]
    present = {path.name for path in (device.models / "1").iterdir()}
    assert present == {"manifest.json", "model.onnx", "self_test.npz"}, "no report on a device"


def test_a_rollback_is_followed_without_fetching_again(device: Device) -> None:
    for version in (1, 2):
        device.registry.add(version)
        assert device.updates.poll()
        device.frames()
    device.registry.wanted = 1
    assert device.updates.poll()
    assert device.frames()[-1] == 1
    assert device.registry.downloads == [1, 2]
    device.restart()
    assert device.updates.offer_last_good()
    assert device.frames() == [1] * 4, "the next life begins with what the last one used"


def test_without_a_server_the_last_good_model_goes_on(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    device.registry.failing = Unavailable("no server")
    device.restart()
    assert device.updates.offer_last_good()
    with pytest.raises(Unavailable):
        device.updates.poll()
    assert device.frames() == [1] * 4


def corrupt(folder: Path) -> None:
    replace_model(folder, read_manifest(folder), b"this is no ONNX")


def disordered(folder: Path) -> None:
    swapped_classes(folder, read_manifest(folder))


@pytest.mark.parametrize("spoil", [corrupt, disordered])
def test_a_model_that_does_not_open_is_refused_for_good_and_the_old_one_goes_on(
    device: Device, spoil: Callable[[Path], None]
) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    bad = device.registry.add(2)
    spoil(bad)
    digest = read_manifest(bad).digest
    assert not device.updates.poll()
    assert device.frames() == [1] * 4
    assert list(device.shelf.refused) == [digest]
    assert not (device.models / "2").exists()
    device.restart()
    assert device.updates.offer_last_good()
    for _ in range(3):
        assert not device.updates.poll()
    assert device.registry.downloads == [1, 2], "not fetched again, not even in the next life"
    assert device.frames() == [1] * 4
    device.registry.add(3)
    assert device.updates.poll()
    assert device.frames()[-1] == 3


@pytest.mark.parametrize("spoil", [truncate, lambda f: (f / "manifest.json").unlink()])
def test_a_download_that_came_damaged_is_tried_again_a_few_times(
    device: Device, spoil: Callable[[Path], None]
) -> None:
    device.registry.add(1)
    device.registry.spoil = spoil
    for _ in range(MAX_DAMAGED - 1):
        with pytest.raises(Exception):  # noqa: B017  # Damaged or NotFound, by what is damaged
            device.updates.poll()
        assert device.shelf.refused == {}
    device.registry.spoil = None
    assert device.updates.poll(), "a line that was mended in time"
    device.registry.add(2)
    device.registry.spoil = spoil
    for _ in range(MAX_DAMAGED + 2):
        try:
            assert not device.updates.poll()
        except Exception as cause:
            assert "student" in str(cause)
    assert len(device.shelf.refused) == 1
    assert device.registry.downloads.count(2) == MAX_DAMAGED


def test_what_is_no_fault_of_the_model_does_not_count_against_it(device: Device) -> None:
    device.registry.add(1)
    for failing in (Unavailable("gone"), OSError(28, "No space left on device")):
        device.registry.failing = failing
        for _ in range(5):
            with pytest.raises(type(failing)):
                device.updates.poll()
    device.registry.failing = None
    full: list[Exception] = [MemoryError() for _ in range(5)]

    def opened(folder: Path) -> object:
        if full:
            raise full.pop()
        return open_student(folder)

    device.updates._open = opened  # type: ignore[assignment]
    for _ in range(5):
        with pytest.raises(MemoryError):
            device.updates.poll()
    assert device.shelf.refused == {}
    assert device.updates.poll()


def test_a_server_whose_own_copy_is_damaged_is_given_up(device: Device) -> None:
    device.registry.add(1)

    def damaged(*_: object) -> None:
        raise WireDamaged("run secondlook check there")

    device.registry.download = damaged  # type: ignore[method-assign]
    for _ in range(MAX_DAMAGED - 1):
        with pytest.raises(WireDamaged):
            device.updates.poll()
    assert not device.updates.poll()
    assert "secondlook check" in next(iter(device.shelf.refused.values()))


def test_a_good_model_that_the_disk_has_damaged_makes_room_for_the_one_before(
    device: Device,
) -> None:
    for version in (1, 2):
        device.registry.add(version)
        device.updates.poll()
        device.frames()
    truncate(device.models / "2")
    device.restart()
    assert device.updates.offer_last_good()
    assert device.frames() == [1] * 4
    assert device.shelf.refused == {}
    assert device.updates.poll(), "fetched again"
    assert device.frames()[-1] == 2


def test_a_version_of_another_server_with_the_same_number_is_fetched_anew(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    write_student(device.registry.root / "1", seed=77)
    assert device.updates.poll()
    device.frames()
    assert device.registry.downloads == [1, 1]


def test_a_model_that_loses_its_trial_is_refused_over_restarts(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    device.registry.add(2)
    device.updates.poll()
    offered = device.slot._offered
    assert offered is not None
    offered.detector.close()  # as if its memory were gone: detect raises
    assert device.frames() == [1] * 4
    assert len(device.shelf.refused) == 1
    device.restart()
    device.updates.offer_last_good()
    assert not device.updates.poll()


def test_the_thread_asks_again_and_again_whatever_happens(device: Device) -> None:
    asked = threading.Semaphore(0)
    answers = itertools.cycle([ValueError("odd"), Unavailable("no server"), None])

    def current(name: str) -> None:
        asked.release()
        if (answer := next(answers)) is not None:
            raise answer

    device.registry.current = current  # type: ignore[method-assign,assignment]
    device.updates._settings = UpdateSettings("street", every_s=0.01)
    device.updates.start()
    for _ in range(6):
        assert asked.acquire(timeout=10)
    device.updates.close()
    assert not device.updates._thread.is_alive()


def test_what_the_slot_said_last_is_written_before_the_end(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    for _ in range(2):
        device.slot.look(picture((1, 0)))
    device.updates.close()
    state = json.loads((device.models / "state.json").read_text())
    assert list(state["good"]) == ["1"] and state["tries"] == {}


def test_a_model_that_ends_the_process_with_its_first_frame_is_refused_in_the_end(
    device: Device,
) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    device.registry.add(2)
    tries = 0
    for _ in range(MAX_TRIES + 3):
        device.restart()
        assert device.updates.offer_last_good()
        device.frames()
        tries += device.updates.poll()  # and the process is gone
    assert tries == MAX_TRIES
    assert device.registry.downloads == [1, 2], "what is there is not fetched again"
    assert len(device.shelf.refused) == 1


def test_kills_during_a_trial_are_no_mark_once_a_frame_was_seen(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    device.registry.add(2)
    for _ in range(MAX_TRIES + 3):
        device.restart()
        device.updates.offer_last_good()
        device.frames()
        assert device.updates.poll()
        assert device.frames(1) == [2]  # killed here
    assert device.shelf.refused == {}


def test_an_end_in_the_middle_of_a_trial_is_no_mark_against_the_model(device: Device) -> None:
    device.registry.add(1)
    device.updates.poll()
    device.frames()
    device.registry.add(2)
    device.updates.poll()
    device.slot.look(picture((1, 0)))
    device.updates.close()
    assert json.loads((device.models / "state.json").read_text())["tries"] == {}


def test_int8_falls_back_to_what_there_is(tmp_path: Path) -> None:
    write_student(tmp_path / "both")
    write_student(tmp_path / "one", int8=False)
    assert open_student(tmp_path / "both", "int8").precision == "int8"
    assert open_student(tmp_path / "one", "int8").precision == "fp32"
    assert files_needed(["model.onnx", "model.int8.onnx"], "int8")[0] == "model.int8.onnx"
    assert files_needed(["model.onnx"], "int8")[0] == "model.onnx"
    with pytest.raises(Damaged):
        truncate(tmp_path / "one")
        open_student(tmp_path / "one")
