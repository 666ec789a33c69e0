"""``secondlook serve`` as a process: where it listens, how it ends, what it refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook_client import Client

TESTS = Path(__file__).parents[1] / "support"
START = [sys.executable, "-c", "from secondlook.cli import main; main()", "serve"]
MODELS = ["--proposer", "scripted_models:bright_half", "--verifier", "scripted_models:agreeable"]


def start(*more: str, cwd: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*START, *more],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_says_where_it_listens_serves_and_ends_when_told(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [dog]")
    server = start(*MODELS, "--port", "0", "--ontology", "classes.yaml", cwd=tmp_path)
    assert server.stdout
    address = server.stdout.readline().removeprefix("serving on ").strip()
    with Client(address) as client:
        assert client.info().classes == ("dog",)
    server.send_signal(signal.SIGTERM)
    _, logged = server.communicate(timeout=30)
    assert server.returncode == 0
    assert "stopped" in [json.loads(line)["message"] for line in logged.splitlines()]


def test_settings_come_from_file_then_environment_then_flags(tmp_path):
    (tmp_path / "secondlook.toml").write_text("port = 1\nlog_level = 'error'\n")
    server = start(*MODELS, "--port", "0", cwd=tmp_path, SECONDLOOK_PORT="2")
    assert server.stdout
    assert not server.stdout.readline().endswith((":1\n", ":2\n"))
    server.terminate()
    _, logged = server.communicate(timeout=30)
    assert logged == ""


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (("--port", "70000"), "error: --port: expected a whole number from 0 to 65535"),
        (("--proposer", "nonsense"), "error: there is no proposer 'nonsense'"),
        (("--ontology", "nowhere.yaml"), "error: there is no ontology file 'nowhere.yaml'"),
        (("--config", "nowhere.toml"), "error: there is no settings file 'nowhere.toml'"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(tmp_path, more, cause):
    server = start(*MODELS, *more, cwd=tmp_path)
    _, told = server.communicate(timeout=60)
    assert server.returncode == 2 and cause in told and "Traceback" not in told


def test_a_port_in_use_is_told_in_a_line(tmp_path):
    first = start(*MODELS, "--port", "0", cwd=tmp_path)
    try:
        assert first.stdout
        port = first.stdout.readline().strip().rpartition(":")[2]
        second = start(*MODELS, "--port", port, cwd=tmp_path)
        _, told = second.communicate(timeout=60)
        assert second.returncode == 2 and "Traceback" not in told
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in told
    finally:
        first.kill()
        first.communicate()
