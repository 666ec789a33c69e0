"""A server with a store, a client of it, and a student to keep there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from registered import freeze_quarters, student_of_snapshot
from serving import serving

from secondlook.store import Store, open_store
from secondlook_client import Client


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite; what differs between databases is tested in the store's own tests."""
    with open_store(tmp_path / "data") as store:
        yield store


@pytest.fixture
def client(kept: Store) -> Iterator[Client]:
    with serving(store=kept) as running, Client(running.address) as connected:
        yield connected


@pytest.fixture
def folder(kept: Store, tmp_path: Path) -> Path:
    """A student, as if trained on the snapshot ``s`` of the store."""
    student_of_snapshot(tmp_path / "student", freeze_quarters(kept, "s"))
    return tmp_path / "student"
