"""A server with a store, and the folder of a camera for an agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_agent import add_images
from serving import Serving, serving

from secondlook.store import Store, open_store
from secondlook_client import RetryPolicy

FAST_RETRY = RetryPolicy(first_s=0.02, longest_s=0.1, unavailable_s=0.5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def server(store: Store) -> Iterator[Serving]:
    with serving(store=store, ontology=None) as s:
        yield s


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.edge.app.RETRY", FAST_RETRY)
    monkeypatch.setattr("secondlook.edge.sources.RESCAN_S", 0.02)


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    add_images(folder, range(6))
    return folder
