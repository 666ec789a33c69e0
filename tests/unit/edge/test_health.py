"""The health of the agent: its file, its port, and the notifications to systemd."""

import json
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from secondlook.edge.health import (
    FrameRate,
    Health,
    HealthFile,
    HealthServer,
    notify_systemd,
    prometheus,
)
from secondlook_client.errors import BadSetting


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
    health = Health(frames=12, connected=True, selected={"rare": 3}, refused_models={"d": "bad"})
    port = HealthServer("127.0.0.1", 0, lambda: health)
    base = f"http://127.0.0.1:{port.port}"
    with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    assert "secondlook_edge_frames 12" in lines
    assert "secondlook_edge_connected 1" in lines
    assert 'secondlook_edge_selected{reason="rare"} 3' in lines
    assert "secondlook_edge_refused_models 1" in lines
    with urllib.request.urlopen(f"{base}/health", timeout=5) as answer:
        assert json.load(answer)["refused_models"] == {"d": "bad"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/../etc/passwd", timeout=5)
    with pytest.raises(BadSetting, match="--health-port"):
        HealthServer("127.0.0.1", port.port, lambda: health)
    port.close()


def test_every_line_for_prometheus_has_a_number() -> None:
    for line in prometheus(Health(model="x", last_error="y")).splitlines():
        float(line.rsplit(" ", 1)[1])
        assert "last_error " not in line


def test_systemd_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        notify_systemd("READY=1")  # not asked for
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify_systemd("WATCHDOG=1")
        assert listening.recv(100) == b"WATCHDOG=1"
    notify_systemd("WATCHDOG=1")  # gone: no error


def test_a_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    rate = FrameRate(lambda: now[0])
    for _ in range(300):
        now[0] += 0.1
        rate.count()
    assert rate.per_second == pytest.approx(10, rel=0.05)
    now[0] += 1000
    assert rate.per_second < 0.1, "a camera that has gone silent"
