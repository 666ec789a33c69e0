"""The loop of the agent."""

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_models import Heard, ScriptedDetector
from students import write_student

from secondlook.core.errors import BadOntology
from secondlook.core.ontology_yaml import ontology_from_lines
from secondlook.detector.frames import Frame, Skipped
from secondlook.detector.manifest import read_manifest
from secondlook.edge.agent import Agent
from secondlook.edge.model_trial import Loaded, ModelSlot
from secondlook.edge.sender import Sent, teaching
from secondlook.selection.frames import Chooser, ChoosingRules


class Frames:
    """A source that gives what is in a list."""

    overtaken = 0

    def __init__(self, frames: list[Frame | Skipped], live: bool = False) -> None:
        self._frames = frames
        self.live = live

    @property
    def ended(self) -> bool:
        return not self._frames

    def read(self, timeout_s: float) -> Frame | Skipped | None:
        return self._frames.pop(0)

    def close(self) -> None:
        pass


class Outlet:
    """Takes what it is offered."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, str]] = []
        self.waits: set[float] = set()

    @property
    def state(self) -> Sent:
        return Sent(len(self.frames), 3, 2, 1, 5, 999, True, "no line")

    def offer(self, frame: Frame, reason: str, wait_s: float = 0.0) -> bool:
        self.frames.append((frame.name, reason))
        self.waits.add(wait_s)
        return True


def frames(count: int) -> list[Frame | Skipped]:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 255, (count, 8, 9, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return [Frame(pixels[n], f"{n}.jpg", float(n), 1e9 + n) for n in range(count)]


@pytest.fixture
def slot(tmp_path: Path) -> ModelSlot:
    write_student(tmp_path / "student")
    made = ModelSlot(Heard())
    detector = ScriptedDetector(read_manifest(tmp_path / "student"))
    made.offer(Loaded(4, "d4", detector, proven=True))
    return made


def never() -> bool:
    return False


def test_every_frame_reaches_the_hook_and_some_the_server(slot: ModelSlot) -> None:
    seen: list[tuple[str, list[str]]] = []
    outlet = Outlet()
    agent = Agent(
        Frames(frames(30)),
        slot,
        [lambda frame, found: seen.append((frame.name, [d.class_name for d in found]))],
        Chooser(ChoosingRules(budget=float("inf"))),
        outlet,
    )
    agent.run(never)
    assert seen == [(f"{n}.jpg", ["dog"]) for n in range(30)]
    assert outlet.frames[0] == ("0.jpg", "novel")
    health = agent.health()
    assert (health.frames, health.detections, health.unseen, health.damaged) == (30, 30, 0, 0)
    assert sum(health.chosen.values()) == len(outlet.frames)
    assert (health.model, health.model_version, health.model_digest) == ("street", 4, "d4")
    assert (health.acknowledged, health.dropped, health.refused_frames) == (3, 2, 1)
    assert health.spooled == 5
    assert health.problems == {"sending": "no line"}
    assert health.rss_bytes > 10**7


def test_nothing_that_goes_wrong_with_one_frame_ends_the_loop(slot: ModelSlot) -> None:
    def model(pixels: np.ndarray) -> None:
        if pixels[0, 0, 0] == 7:
            raise RuntimeError("an odd frame")

    def hook(frame: Frame, found: object) -> None:
        if frame.name == "2.jpg":
            raise KeyError("the user's own bug")

    some = frames(5)
    odd = np.full((8, 8, 3), 7, np.uint8)
    some[1:1] = [Skipped("broken.jpg", "truncated"), Frame(odd, "odd.jpg", 0.0, 0.0)]
    told: list[str] = []
    slot.look(frames(1)[0].pixels)  # type: ignore[union-attr]
    assert slot.current is not None
    slot.current.detector.look = model  # type: ignore[attr-defined]
    agent = Agent(Frames(some), slot, [hook, lambda frame, found: told.append(frame.name)])
    agent.run(never)
    health = agent.health()
    assert told == [f"{n}.jpg" for n in range(5)]
    assert (health.frames, health.damaged, health.unseen, health.hook_failures) == (5, 1, 1, 1)
    assert "KeyError" in health.last_error and health.last_error_at > 0


def test_the_loop_stops_when_asked_and_after_so_many_frames(slot: ModelSlot) -> None:
    agent = Agent(Frames(frames(50)), slot)
    agent.run(never, most=7)
    assert agent.health().frames == 7
    asked = iter([False, False, True])
    agent.run(lambda: next(asked))
    assert agent.health().frames == 9


@pytest.mark.parametrize("live", [True, False])
def test_only_what_can_wait_waits_for_the_disk(slot: ModelSlot, live: bool) -> None:
    outlet = Outlet()
    chooser = Chooser(ChoosingRules(budget=float("inf")))
    Agent(Frames(frames(5), live), slot, [], chooser, outlet).run(never)
    assert {wait > 0 for wait in outlet.waits} == {not live}


def test_nobody_reading_ends_the_loop(slot: ModelSlot) -> None:
    def gone(frame: Frame, found: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Agent(Frames(frames(3)), slot, [gone]).run(never)


def test_what_the_server_is_asked_for_follows_the_student(tmp_path: Path) -> None:
    plain = write_student(tmp_path / "a", classes=("person", "dog"))
    first = teaching("gate", None, plain)
    assert [spec.name for spec in first.classes] == ["person", "dog"]
    yaml = "classes:\n  person:\n  dog:\n    phrases: hound\n    question: Is it a hound?\n"
    rich = replace(plain, ontology=yaml)
    second = teaching("gate", None, rich)
    assert second.classes[1].question == "Is it a hound?"
    assert first.stream_id.startswith("gate-") and second.stream_id.startswith("gate-")
    assert first.stream_id != second.stream_id, "a stream keeps its classes for ever"
    assert teaching("gate", None, plain) == first
    given = teaching("gate", ontology_from_lines(["cat"]), rich)
    assert (given.stream_id, [spec.name for spec in given.classes]) == ("gate", ["cat"])
    with pytest.raises(BadOntology):
        teaching("gate", None, replace(plain, ontology="classes: [[[["))


def test_the_watchdog_is_fed_from_the_loop(
    slot: ModelSlot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        Agent(Frames(frames(2)), slot).run(never)
        words = [listening.recv(100) for _ in range(3)]
    assert words == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]
