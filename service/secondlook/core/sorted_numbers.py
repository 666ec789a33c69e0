"""64-bit integers, one for each image of a run, in 8 bytes each: a ``set`` takes a hundred."""

import numpy as np
from numpy.typing import NDArray

_MOST_NEW = 4096
"""Numbers that a ``NumberSet`` gathers before it sorts them in."""


def find_sorted(numbers: NDArray[np.int64], number: int) -> int | None:
    """The place of ``number`` in sorted ``numbers``; None when it is not there."""
    place = int(np.searchsorted(numbers, number))
    return place if place < len(numbers) and int(numbers[place]) == number else None


class NumberSet:
    """A set of 64-bit signed integers, to which numbers are only added."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype=np.int64)
        self._new: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number in self._new or find_sorted(self._sorted, number) is not None

    def add(self, number: int) -> None:
        """Add ``number``, which may be there already."""
        self._new.add(number)
        if len(self._new) >= _MOST_NEW:
            new = np.fromiter(self._new, dtype=np.int64, count=len(self._new))
            self._sorted = np.union1d(self._sorted, new)
            self._new.clear()
