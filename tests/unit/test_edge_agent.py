"""The loop of the agent, its health, its settings and its command line."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_models import ScriptedDetector
from PIL import Image as PILImage
from students import picture, write_student

from secondlook.detector.manifest import read_manifest
from secondlook.edge.agent import Agent
from secondlook.edge.choosing import Chooser, ChoosingRules
from secondlook.edge.classes import teaching
from secondlook.edge.cli import run
from secondlook.edge.frames import Frame, Skipped
from secondlook.edge.health import Health, HealthFile, HealthPort, Rate, prometheus, tell_systemd
from secondlook.edge.hooks import load_hook
from secondlook.edge.sending import Sent
from secondlook.edge.settings import EdgeSettings, load_settings, rules
from secondlook.edge.slot import Loaded, ModelSlot
from secondlook.errors import BadOntology, BadSetting, NotFound
from secondlook.ontology_text import ontology_from_lines
from secondlook_client import RetryPolicy

ROOT = Path(__file__).parents[2]


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


class Heard:
    def survived(self, model: Loaded) -> None:
        pass

    def kept(self, model: Loaded) -> None:
        pass

    def refused(self, model: Loaded, why: str) -> None:
        pass


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


# Health


def test_the_health_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    counts = iter(range(10**9))
    file = HealthFile(path, lambda: Health(frames=next(counts)), 0.002)
    seen, ends = set(), time.monotonic() + 5
    while len(seen) < 5 and time.monotonic() < ends:
        if path.exists():
            seen.add(json.loads(path.read_text())["frames"])
    file.close()
    assert len(seen) >= 5
    assert json.loads(path.read_text())["frames"] > max(seen)
    assert [p.name for p in tmp_path.iterdir()] == ["health.json"]


def test_a_health_file_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = HealthFile(tmp_path / "no" / "health.json", Health, 0.01)
    time.sleep(0.1)
    file.close()
    assert sum("health file" in record.message for record in caplog.records) == 1


def test_the_port_answers_prometheus_and_people() -> None:
    health = Health(frames=12, connected=True, chosen={"rare": 3}, refused_models={"d": "bad"})
    port = HealthPort("127.0.0.1", 0, lambda: health)
    base = f"http://127.0.0.1:{port.port}"
    with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    assert "secondlook_edge_frames 12" in lines
    assert "secondlook_edge_connected 1" in lines
    assert 'secondlook_edge_chosen{reason="rare"} 3' in lines
    assert "secondlook_edge_refused_models 1" in lines
    with urllib.request.urlopen(f"{base}/health", timeout=5) as answer:
        assert json.load(answer)["refused_models"] == {"d": "bad"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/../etc/passwd", timeout=5)
    with pytest.raises(BadSetting, match="--health-port"):
        HealthPort("127.0.0.1", port.port, lambda: health)
    port.close()


def test_every_line_for_prometheus_has_a_number() -> None:
    for line in prometheus(Health(model="x", last_error="y")).splitlines():
        float(line.rsplit(" ", 1)[1])
        assert "last_error " not in line


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        tell_systemd("READY=1")  # nobody asked
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_systemd("WATCHDOG=1")
        assert listening.recv(100) == b"WATCHDOG=1"
    tell_systemd("WATCHDOG=1")  # gone: no error


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


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    for _ in range(300):
        now[0] += 0.1
        rate.count()
    assert rate.a_second == pytest.approx(10, rel=0.05)
    now[0] += 1000
    assert rate.a_second < 0.1, "a camera that has gone silent"


# Settings


def test_a_flag_beats_a_variable_beats_a_file(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('source = "a"\nbudget = 30\nfps = 2\nfollow = true\n')
    environ = {"SECONDLOOK_EDGE_FPS": "3", "SECONDLOOK_EDGE_BUDGET": "40/h", "OTHER": "x"}
    found = load_settings({"fps": "4", "seed": None}, file, environ)
    assert (found.source, found.fps, found.follow, found.budget) == ("a", 4.0, True, "40/h")
    assert found.choosing().budget == 40
    named = load_settings({}, None, {"SECONDLOOK_EDGE_CONFIG": str(file)})
    assert named.choosing().budget == 30


def test_the_sample_settings_are_read() -> None:
    found = load_settings({}, ROOT / "deploy" / "edge.toml", {})
    assert found.model and found.server


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"fps": "fast"}, "--fps: expected a number from 0 to 1000, got 'fast'"),
        ({"budget": "lots"}, "budget: expected frames an hour"),
        ({"budget": "nan"}, "budget"),
        ({"server": "host"}, "HOST:PORT"),
        ({"uncertain_low": "0.9"}, "low to high"),
        ({"precision": "int4"}, "one of auto, fp32, int8"),
        ({"sorce": "x"}, "did you mean 'source'?"),
    ],
)
def test_what_makes_no_sense_is_told(flags: dict[str, str], told: str) -> None:
    with pytest.raises(BadSetting) as failed:
        load_settings(flags, None, {})
    assert told in str(failed.value)


def test_a_file_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--config"):
        load_settings({}, tmp_path / "nowhere.toml", {})
    (tmp_path / "bad.toml").write_text("= =")
    with pytest.raises(BadSetting, match="TOML"):
        load_settings({}, tmp_path / "bad.toml", {})


# The command line


@pytest.fixture
def student(tmp_path: Path) -> Path:
    write_student(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        PILImage.fromarray(picture((number, 1))).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_detections_are_printed_a_line_a_frame(
    student: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "--source", str(pictures), "--student", str(student)]) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["frame"] for line in lines] == ["0.png", "1.png", "2.png", "3.png"]
    (found,) = lines[3]["detections"]
    assert found["class"] == "dog" and found["box"] == [32, 32, 64, 64]
    assert lines[0]["size"] == [64, 64]
    assert "4 frames, 4 detections, 1 could not be read" in shown.err


def test_a_hook_of_the_users(
    student: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_hook.py").write_text(
        "def seen(frame, found):\n"
        "    with open('seen.txt', 'a') as file:\n"
        "        print(frame.name, *[d.class_name for d in found], file=file)\n"
    )
    monkeypatch.chdir(tmp_path)
    flags = ["--source", str(pictures), "--student", str(student), "--hook", "my_hook:seen"]
    assert run(["run", *flags, "--frames", "2"]) == 0
    assert Path("seen.txt").read_text() == "0.png dog\n1.png dog\n"
    assert capsys.readouterr().out == ""
    for wrong in ("my_hook:sen", "nowhere:seen", "my_hook"):
        with pytest.raises(NotFound, match="give it as package"):
            load_hook(wrong)


def test_once_shows_what_a_student_finds(
    student: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(pictures / "1.png"), "--student", str(student)]
    assert run(["once", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "1.png: 1 found in" in shown and "dog" in shown and "32 0 64 32" in shown
    assert run(["once", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detections"][0]["class"] == "dog"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "--source"),
        (["run", "--source", "."], "--student FOLDER"),
        (["run", "--source", "nowhere", "--student", "STUDENT"], "'nowhere' cannot be read"),
        (["run", "--source", ".", "--student", "."], "not the folder of a student"),
        (["run", "--source", ".", "--student", "STUDENT"], "no picture in"),
        (["run", "--source", ".", "--server", "localhost:1", "--model", "m"], "no model to begin"),
        (["once", "nowhere.jpg", "--student", "STUDENT"], "'nowhere.jpg' cannot be read"),
        (["run", "--ontology", "x.yaml", "-c", "dog"], "not both"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    told: str,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr("secondlook.edge.running.RETRY", RetryPolicy(unavailable_s=0))
    assert run([str(student) if word == "STUDENT" else word for word in arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown and "Traceback" not in shown


def test_check_says_what_is_missing(
    student: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--source", str(pictures), "--student", str(student)]
    assert run(["check", *flags]) == 0
    assert capsys.readouterr().out.split() == ["ok", "source", "ok", "student"]
    flags += ["--server", "127.0.0.1:1", "--spool", str(tmp_path / "spool")]
    assert run(["check", *flags, "--hook", "nowhere:f"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "FAILED", "FAILED", "ok"]
    assert "no secondlook server answers" in lines[3]


def test_every_setting_is_a_flag_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in shown for name in rules())
    assert EdgeSettings().choosing().budget == 60


def test_the_agent_runs_without_the_packages_of_the_service(student: Path, pictures: Path) -> None:
    heavy = "('torch', 'transformers', 'sqlalchemy', 'scipy', 'onnx', 'alembic', 'av')"
    code = (
        "import sys\n"
        f"for name in {heavy}: sys.modules[name] = None\n"
        "from secondlook.edge.cli import run\n"
        "import secondlook.edge.video\n"
        f"code = run(['run', '--source', {str(pictures)!r}, '--student', {str(student)!r}])\n"
        f"loaded = [n for n in {heavy} if sys.modules.get(n)]\n"
        "ours = [n for n in sys.modules if n.startswith(('secondlook.store', 'secondlook.models', "
        "'secondlook.server', 'secondlook.distill', 'secondlook.cli'))]\n"
        "sys.exit(str(loaded + ours) if loaded or ours else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_sigterm_ends_it_in_order(student: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    PILImage.fromarray(picture((0, 1))).save(tmp_path / "in" / "0.png")
    flags = ["--source", tmp_path / "in", "--follow", "--student", student]
    flags += ["--health", tmp_path / "health.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "secondlook.edge.cli", "run", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    killer = threading.Timer(30, process.kill)
    killer.start()
    process.stdout.readline()
    process.terminate()
    _, said = process.communicate()
    killer.cancel()
    assert process.returncode == 0, said
    assert "1 frames, 1 detections" in said
    assert json.loads((tmp_path / "health.json").read_text())["frames"] == 1
