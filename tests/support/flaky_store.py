"""A store that refuses, is slow or is full now and then; what is behind it is real."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from secondlook.store import Store
from secondlook_client.errors import StorageFull, StoreUnavailable


class Whim:
    """Decides what goes wrong: ``share`` of all calls go wrong."""

    def __init__(
        self, share: float, seed: int, kinds: Sequence[str] = ("refuse", "slow", "full")
    ) -> None:
        self.share = share
        self._kinds = kinds
        self.failed = 0
        self._random = random.Random(seed)

    def strike(self) -> None:
        """Fail, be slow, or do nothing."""
        if self._random.random() >= self.share:
            return
        self.failed += 1
        kind = self._random.choice(self._kinds)
        if kind == "slow":
            time.sleep(0.05)
        elif kind == "full":
            raise StorageFull("the disk is full; free some space and try again")
        else:
            raise StoreUnavailable("the store does not answer; try again in a moment")


class FlakyDatabase:
    """Fails before a transaction, or after it was kept."""

    def __init__(self, real: Any, whim: Whim) -> None:
        self._real, self._whim = real, whim
        self.dialect, self.changes = real.dialect, real.changes

    def probe(self) -> None:
        """See ``Database``."""
        self._whim.strike()
        self._real.probe()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """See ``Database``."""
        self._whim.strike()
        with self._real.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """See ``Database``; a failure at the end is one of the connection: all is kept."""
        self._whim.strike()
        with self._real.writing() as connection:
            yield connection
        self._whim.strike()


class FlakyBlobs:
    """Fails before or after the bytes were kept."""

    def __init__(self, real: Any, whim: Whim) -> None:
        self._real, self._whim = real, whim

    def put(self, content: bytes) -> str:
        """See ``Blobs``."""
        self._whim.strike()
        sha256 = self._real.put(content)
        self._whim.strike()
        return sha256

    def get(self, sha256: str) -> bytes:
        """See ``Blobs``."""
        self._whim.strike()
        return self._real.get(sha256)


def flaky(store: Store, database: Whim, blobs: Whim) -> Store:
    """The same store through faulty connections."""
    return Store(FlakyDatabase(store.database, database), FlakyBlobs(store.blobs, blobs))
