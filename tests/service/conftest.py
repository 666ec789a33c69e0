"""What the tests of a running service share."""

from collections.abc import Iterator

import pytest
from serving import Serving, serving

from secondlook.store import Store
from secondlook_client import Client


@pytest.fixture
def served(store: Store) -> Iterator[tuple[Serving, Client]]:
    """A server with a store, and a client of it."""
    with serving(store=store) as running, Client(running.address) as client:
        yield running, client
