"""The loop of the agent."""

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_models import RecordingListener, ScriptedDetector
from students import write_student

from secondlook.core.ontology_yaml import ontology_from_lines
from secondlook.detector.frames import SkippedFrame, SourceFrame
from secondlook.detector.manifest import read_manifest
from secondlook.edge.agent import Agent
from secondlook.edge.app import _TargetSwitch
from secondlook.edge.model_trial import LoadedModel, ModelRunner
from secondlook.edge.sender import SenderState, student_target
from secondlook.selection.frames import FrameSelector, SelectionSettings
from secondlook_client.errors import BadOntology


class Frames:
    """A source that gives the frames of a list."""

    superseded = 0

    def __init__(self, frames: list[SourceFrame | SkippedFrame], live: bool = False) -> None:
        self._frames = frames
        self.live = live

    @property
    def ended(self) -> bool:
        return not self._frames

    def read(self, timeout_s: float) -> SourceFrame | SkippedFrame | None:
        return self._frames.pop(0)

    def close(self) -> None:
        pass


class Sink:
    """Takes everything it is offered."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, str]] = []
        self.waits: set[float] = set()

    @property
    def state(self) -> SenderState:
        return SenderState(len(self.frames), 3, 2, 1, 5, 999, True, "no line")

    def offer(self, frame: SourceFrame, reason: str, wait_s: float = 0.0) -> bool:
        self.frames.append((frame.name, reason))
        self.waits.add(wait_s)
        return True


def frames(count: int) -> list[SourceFrame | SkippedFrame]:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 255, (count, 8, 9, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return [SourceFrame(pixels[n], f"{n}.jpg", float(n), 1e9 + n) for n in range(count)]


@pytest.fixture
def runner(tmp_path: Path) -> ModelRunner:
    write_student(tmp_path / "student")
    made = ModelRunner(RecordingListener())
    detector = ScriptedDetector(read_manifest(tmp_path / "student"))
    made.offer(LoadedModel(4, "d4", detector, proven=True))
    return made


def never() -> bool:
    return False


def test_every_frame_reaches_the_hook_and_some_the_server(runner: ModelRunner) -> None:
    seen: list[tuple[str, list[str]]] = []
    sink = Sink()
    agent = Agent(
        Frames(frames(30)),
        runner,
        [lambda frame, found: seen.append((frame.name, [d.class_name for d in found]))],
        FrameSelector(SelectionSettings(budget=float("inf"))),
        sink,
    )
    agent.run(never)
    assert seen == [(f"{n}.jpg", ["dog"]) for n in range(30)]
    assert sink.frames[0] == ("0.jpg", "novel")
    health = agent.health()
    assert (health.frames, health.detections) == (30, 30)
    assert (health.not_processed, health.unreadable) == (0, 0)
    assert sum(health.selected.values()) == len(sink.frames)
    assert (health.model, health.model_version, health.model_digest) == ("street", 4, "d4")
    assert (health.acknowledged, health.dropped, health.refused_frames) == (3, 2, 1)
    assert health.pending == 5
    assert health.problems == {"sending": "no line"}
    assert health.rss_bytes > 10**7


def test_nothing_that_goes_wrong_with_one_frame_ends_the_loop(runner: ModelRunner) -> None:
    def model(pixels: np.ndarray) -> None:
        if pixels[0, 0, 0] == 7:
            raise RuntimeError("an odd frame")

    def hook(frame: SourceFrame, found: object) -> None:
        if frame.name == "2.jpg":
            raise KeyError("the user's own bug")

    some = frames(5)
    odd = np.full((8, 8, 3), 7, np.uint8)
    some[1:1] = [SkippedFrame("broken.jpg", "truncated"), SourceFrame(odd, "odd.jpg", 0.0, 0.0)]
    called: list[str] = []
    runner.detect(frames(1)[0].pixels)  # type: ignore[union-attr]
    assert runner.current is not None
    runner.current.detector.on_image = model  # type: ignore[attr-defined]
    agent = Agent(Frames(some), runner, [hook, lambda frame, found: called.append(frame.name)])
    agent.run(never)
    health = agent.health()
    assert called == [f"{n}.jpg" for n in range(5)]
    assert (health.frames, health.unreadable) == (5, 1)
    assert (health.not_processed, health.hook_failures) == (1, 1)
    assert "KeyError" in health.last_error and health.last_error_at > 0


def test_the_loop_stops_when_asked_and_after_so_many_frames(runner: ModelRunner) -> None:
    agent = Agent(Frames(frames(50)), runner)
    agent.run(never, max_frames=7)
    assert agent.health().frames == 7
    asked = iter([False, False, True])
    agent.run(lambda: next(asked))
    assert agent.health().frames == 9


@pytest.mark.parametrize("live", [True, False])
def test_only_images_of_a_folder_wait_for_the_disk(runner: ModelRunner, live: bool) -> None:
    sink = Sink()
    selector = FrameSelector(SelectionSettings(budget=float("inf")))
    Agent(Frames(frames(5), live), runner, [], selector, sink).run(never)
    assert {wait > 0 for wait in sink.waits} == {not live}


def test_a_closed_output_ends_the_loop(runner: ModelRunner) -> None:
    def gone(frame: SourceFrame, found: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Agent(Frames(frames(3)), runner, [gone]).run(never)


def test_the_capture_target_follows_the_student(tmp_path: Path) -> None:
    plain = write_student(tmp_path / "a", classes=("person", "dog"))
    first = student_target("gate", plain)
    assert [spec.name for spec in first.classes] == ["person", "dog"]
    yaml = "classes:\n  person:\n  dog:\n    phrases: hound\n    question: Is it a hound?\n"
    rich = replace(plain, ontology=yaml)
    second = student_target("gate", rich)
    assert second.classes[1].question == "Is it a hound?"
    assert first.stream_id.startswith("gate-") and second.stream_id.startswith("gate-")
    assert first.stream_id != second.stream_id, "a stream keeps its classes for ever"
    assert student_target("gate", plain) == first
    newer = student_target("gate", plain, "student, version 2")
    assert newer != first and newer.stream_id == first.stream_id, "the stream is opened anew"
    given = _TargetSwitch("gate", ontology_from_lines(["cat"])).fixed
    assert given is not None
    assert (given.stream_id, [spec.name for spec in given.classes]) == ("gate", ["cat"])
    with pytest.raises(BadOntology):
        student_target("gate", replace(plain, ontology="classes: [[[["))


def test_the_watchdog_is_notified_from_the_loop(
    runner: ModelRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Agent(Frames(frames(2)), runner).run(never)
        words = [listening.recv(100) for _ in range(3)]
    assert words == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
