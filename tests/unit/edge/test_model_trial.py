"""The model in use: swapped between two frames, tried, and kept when a trial fails."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from device_models import RecordingListener, ScriptedDetector
from students import image, write_student

from secondlook.detector.manifest import StudentManifest
from secondlook.edge.app import open_student
from secondlook.edge.model_trial import LoadedModel, ModelRunner

FRAME = np.full((48, 64, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> StudentManifest:
    return write_student(tmp_path_factory.mktemp("student"))


class Bench:
    """A runner with a clock that only detectors advance."""

    def __init__(self, manifest: StudentManifest, **options: float) -> None:
        self.manifest = manifest
        self.now = 0.0
        self.listener = RecordingListener()
        self.runner = ModelRunner(self.listener, clock=lambda: self.now, trial_frames=6, **options)

    def model(
        self,
        version: int,
        seconds: float = 0.01,
        fails: Callable[[int], bool] = lambda count: False,
        proven: bool = False,
    ) -> LoadedModel:
        def on_image(pixels: object) -> None:
            self.now += seconds
            if fails(detector.calls):
                raise RuntimeError("a bad model")

        detector = ScriptedDetector(self.manifest, on_image)
        return LoadedModel(version, f"{version:064x}", detector, proven)

    def frames(self, count: int) -> list[int]:
        """The version that looked at each frame; 0 for none."""
        outputs = [self.runner.detect(FRAME) for _ in range(count)]
        return [one.version if one else 0 for one in outputs]


def closed(model: LoadedModel) -> bool:
    assert isinstance(model.detector, ScriptedDetector)
    return model.detector.closed


def test_detections_are_plain_values_with_thresholds_applied(tmp_path: Path) -> None:
    write_student(tmp_path, thresholds=(0.5, 0.999))
    runner = ModelRunner(RecordingListener())
    runner.offer(LoadedModel(0, "d", open_student(tmp_path), proven=True))
    detections = runner.detect(image((1, 0), (2, 1)))
    assert detections is not None
    sure = [d for d in detections.found if d.certain]
    assert [d.class_name for d in sure] == ["person"]
    assert sure[0].box == (32.0, 0.0, 64.0, 32.0)
    assert 0.5 < sure[0].probability == pytest.approx(sure[0].score, abs=1e-3)
    assert any(d.class_name == "dog" and not d.certain for d in detections.found)
    runner.close()


def test_without_a_model_there_are_no_detections(manifest: StudentManifest) -> None:
    assert Bench(manifest).frames(2) == [0, 0]


def test_a_new_model_takes_over_between_two_frames_and_the_old_one_is_closed(
    manifest: StudentManifest,
) -> None:
    bench = Bench(manifest)
    old, new = bench.model(1), bench.model(2)
    bench.runner.offer(old)
    assert bench.frames(3) == [1, 1, 1]
    bench.runner.offer(new)
    assert bench.frames(8) == [2] * 8, "the new one's detections count from its first frame"
    assert bench.runner.current is new and closed(old) and not closed(new)
    assert bench.listener.events == [("accepted", 1, ""), ("accepted", 2, "")]
    assert (bench.runner.swaps, bench.runner.failed_trials) == (1, 0)
    assert isinstance(new.detector, ScriptedDetector) and new.detector.calls == 8
    bench.runner.close()
    assert closed(new)


@pytest.mark.parametrize("at", [1, 4])
def test_a_model_that_fails_on_trial_is_refused_and_no_frame_is_lost(
    manifest: StudentManifest, at: int
) -> None:
    bench = Bench(manifest)
    old, bad = bench.model(1), bench.model(2, fails=lambda count: count == at)
    bench.runner.offer(old)
    bench.frames(1)
    bench.runner.offer(bad)
    assert bench.frames(6) == [2] * (at - 1) + [1] * (7 - at)
    assert bench.runner.current is old and closed(bad) and not closed(old)
    why = "it failed on a frame: RuntimeError: a bad model"
    assert bench.listener.events[1:] == [("refused", 2, why)]
    assert bench.runner.failed_trials == 1


@pytest.mark.parametrize(
    ("seconds", "bound", "proven", "swapped"),
    [
        (0.029, 3.0, False, True),
        (0.031, 3.0, False, False),
        (0.031, 0.0, False, True),
        (0.5, 3.0, True, True),
    ],
)
def test_a_model_that_is_far_slower_is_refused_unless_it_is_wanted_back(
    manifest: StudentManifest, seconds: float, bound: float, proven: bool, swapped: bool
) -> None:
    bench = Bench(manifest, max_slowdown=bound)
    bench.runner.offer(bench.model(1))
    bench.frames(1)
    bench.runner.offer(bench.model(2, seconds, proven=proven))
    versions = bench.frames(32)
    assert versions[-1] == (2 if swapped else 1)
    assert 0 not in versions
    if not swapped:
        assert versions == [2] * 29 + [1] * 3, "tried for longer, as it may be the machine"
        assert "31 ms a frame where the model in use takes 10 ms" in bench.listener.events[-1][2]


def test_a_tiny_difference_is_no_reason_to_refuse(manifest: StudentManifest) -> None:
    bench = Bench(manifest)
    bench.runner.offer(bench.model(1, 0.0001))
    bench.frames(1)
    bench.runner.offer(bench.model(2, 0.009))
    assert bench.frames(8)[-1] == 2 and bench.runner.swaps == 1


def test_a_machine_that_is_busy_at_times_is_no_reason_either(manifest: StudentManifest) -> None:
    bench = Bench(manifest)
    bench.runner.offer(bench.model(1))
    bench.frames(1)
    busy = bench.model(2)
    assert isinstance(busy.detector, ScriptedDetector)

    def on_image(pixels: object) -> None:
        bench.now += 0.01 if busy.detector.calls % 8 == 7 else 0.5  # type: ignore[attr-defined]

    busy.detector.on_image = on_image
    bench.runner.offer(busy)
    bench.frames(12)
    assert bench.runner.current is busy


def test_a_first_model_that_fails_at_once_is_refused(manifest: StudentManifest) -> None:
    bench = Bench(manifest)
    bench.runner.offer(bench.model(1, fails=lambda count: True))
    assert bench.frames(2) == [0, 0]
    assert bench.runner.current is None
    bench.runner.offer(bench.model(2))
    assert bench.frames(1) == [2]
    assert [event[:2] for event in bench.listener.events] == [("refused", 1), ("accepted", 2)]


def test_a_proven_model_that_fails_on_one_frame_is_kept(manifest: StudentManifest) -> None:
    bench = Bench(manifest)
    bench.runner.offer(bench.model(1, fails=lambda count: count == 1, proven=True))
    with pytest.raises(RuntimeError):
        bench.runner.detect(FRAME)
    assert bench.frames(2) == [1, 1]


def test_a_newer_model_ends_the_trial_of_the_one_before(manifest: StudentManifest) -> None:
    bench = Bench(manifest)
    first, second, third = bench.model(1), bench.model(2), bench.model(3)
    bench.runner.offer(first)
    bench.frames(1)
    bench.runner.offer(second)
    bench.frames(2)
    bench.runner.offer(third)
    assert bench.frames(7)[-1] == 3
    assert closed(first) and closed(second) and not closed(third)
    assert [event[:2] for event in bench.listener.events] == [("accepted", 1), ("accepted", 3)]
