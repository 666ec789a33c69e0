"""``secondlook serve`` and ``ui`` as processes: where they listen, how they end, what is told."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from serving import wait_until

from secondlook_client import Client

TESTS = Path(__file__).parents[1] / "support"
MAIN = [sys.executable, "-c", "from secondlook.cli import main; main()"]
MODELS = ["--proposer", "scripted_models:bright_half", "--verifier", "scripted_models:agreeable"]


def start(
    *more: str, cwd: Path, command: str = "serve", **variables: str
) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*MAIN, command, *more],
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


def test_the_page_is_opened_in_the_browser_and_beside_the_service(tmp_path):
    browser = tmp_path / "browser.sh"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o755)
    flags = ("--data", "data", "--web-port", "0")
    page = start(*MODELS, *flags, cwd=tmp_path, command="ui", BROWSER=f"{browser} %s")
    assert page.stdout
    address = page.stdout.readline().removeprefix("page on ").strip()
    call = urllib.request.Request(
        f"{address}/secondlook.v1.BrowseService/ListRuns",
        b"{}",
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(call, timeout=20) as answer:
        assert json.load(answer) == {}
    wait_until((tmp_path / "opened").is_file)
    wait_until(lambda: (tmp_path / "opened").read_text() == f"{address}\n")
    page.send_signal(signal.SIGINT)
    page.communicate(timeout=30)
    assert page.returncode == 0


def test_a_page_needs_a_place_for_what_it_keeps_and_is_for_this_machine(tmp_path):
    for command, more, cause in (
        ("ui", (), "give --data DIR"),
        ("serve", ("--web-port", "0", "--web-host", "0.0.0.0"), "takes TLS"),
    ):
        server = start(*MODELS, *more, cwd=tmp_path, command=command)
        _, told = server.communicate(timeout=60)
        assert server.returncode == 2 and cause in told and "Traceback" not in told
