"""Results fetched from the service once, to be read as often as the outputs need.

They lie in a file that vanishes with the process; in memory a picture is two numbers, whatever
its results weigh. What is durable is the service's store.
"""

import json
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secondlook.atomic import explaining
from secondlook.runs.names import from_text
from secondlook_client.results import LabelResult


class Fetched:
    """The results of the pictures that are there now, in the order of the folder."""

    def __init__(self, folder: Path, keys: "array[int]") -> None:
        """``keys``: the pictures', in order; results of others are not taken."""
        self._folder = folder
        self._keys = np.array(keys, dtype=np.int64)
        self._order = np.argsort(self._keys, kind="stable")
        self._ranked = self._keys[self._order]
        self._places = np.full(len(self._keys), -1, dtype=np.int64)
        with explaining(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (ours to the end)

    def wants(self, key: int) -> bool:
        """Whether the picture is there now."""
        return self._row(key) is not None

    def add(self, key: int, result: LabelResult) -> None:
        """Keep a result, if its picture is there now. Raises ``StorageFull``."""
        row = self._row(key)
        if row is None:
            return
        line = json.dumps(result.to_dict(), separators=(",", ":")).encode("ascii") + b"\n"
        with explaining(self._folder):
            self._places[row] = self._file.seek(0, 2)
            self._file.write(line)
            self._file.flush()  # or a full disk shows when it is read

    def results(self) -> Iterator[tuple[str, LabelResult]]:
        """(name, result) of every picture that has one."""
        for place in self._places.tolist():
            if place >= 0:
                self._file.seek(place)
                result = LabelResult.from_dict(json.loads(self._file.readline()))
                yield from_text(result.name), result

    def _row(self, key: int) -> int | None:
        found = int(np.searchsorted(self._ranked, key))
        if found < len(self._ranked) and int(self._ranked[found]) == key:
            return int(self._order[found])
        return None


def holds(ranked: "NDArray[np.int64]", key: int) -> bool:
    """Whether the sorted numbers hold ``key``."""
    row = int(np.searchsorted(ranked, key))
    return row < len(ranked) and int(ranked[row]) == key
