"""The installed command line, the embedded models and one small world, shared by these tests."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from installed import Kept, Run, Service, run_secondlook, served

from secondlook.demo.world import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve unseen scenes with truth and ontology."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, seed=4242, count=12, size=320)
    return folder


@pytest.fixture(scope="session")
def secondlook() -> Run:
    """The command line."""
    return run_secondlook


@pytest.fixture(scope="session")
def service(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the world's ontology and a store."""
    data = tmp_path_factory.mktemp("data")
    with served("--ontology", world / "ontology.yaml", "--data", data) as (address, _):
        yield Service(address, data)


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
