"""The slot of the model: swapped between two frames, tried, and taken back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_models import Heard, ScriptedDetector
from students import image, write_student

from secondlook.detector.manifest import Manifest
from secondlook.edge.app import open_student
from secondlook.edge.model_trial import Loaded, ModelSlot

FRAME = np.full((48, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_student(tmp_path_factory.mktemp("student"))


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
    seen = slot.look(image((1, 0), (2, 1)))
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
