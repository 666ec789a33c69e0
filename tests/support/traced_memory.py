"""The memory that Python takes meanwhile."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TracedMemory:
    """In bytes, once the block has ended."""

    kept: int = 0
    """Still held at its end."""
    peak: int = 0
    """Held at one time."""


@contextmanager
def traced_memory() -> Iterator[TracedMemory]:
    """Of all that the block allocates."""
    memory = TracedMemory()
    tracemalloc.start()
    try:
        yield memory
        memory.kept, memory.peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
