"""The installed command line, the embedded models and one small world, shared by these tests."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from secondlook.demo.world import write_world

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """Few threads, no hub: what a test machine has."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve unseen scenes with truth and ontology."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, seed=4242, count=12, size=320)
    return folder


@pytest.fixture(scope="session")
def secondlook() -> Run:
    """Run ``secondlook`` as a user does and demand the exit code."""

    def run(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "secondlook", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``secondlook serve`` in a process of its own, on a free port; its address and process."""
    command = [sys.executable, "-m", "secondlook", "serve", "--models", "demo", "--port", "0"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"serving on (\S+)", said)
        assert found, f"expected the address, got {said!r}"
        yield found[1], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Service(NamedTuple):
    """A running service and the folder of its store."""

    address: str
    data: Path


@pytest.fixture(scope="session")
def service(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One with the world's ontology, which keeps what it does."""
    data = tmp_path_factory.mktemp("data")
    with serving("--ontology", world / "ontology.yaml", "--data", data) as (address, _):
        yield Service(address, data)


class Kept(NamedTuple):
    """A service with a store that holds the finished job ``street``."""

    address: str
    data: Path
    results: list[dict[str, Any]]


@pytest.fixture(scope="session")
def kept(
    world: Path, secondlook: Run, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Kept:
    """The labels of the world, kept by the service."""
    here, at = tmp_path_factory.mktemp("here"), ("--server", service.address)
    create = ("job", "create", "street", world / "images", "--watch", *at)
    secondlook(*create, "--ontology", world / "ontology.yaml", cwd=here)
    lines = secondlook("job", "results", "street", *at, cwd=here).stdout.splitlines()
    return Kept(*service, [json.loads(line) for line in lines])


@pytest.fixture
def server(service: Service) -> str:
    """Its address."""
    return service.address
