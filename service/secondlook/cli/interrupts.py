"""Ctrl-C that ends a run between two pictures, not in the middle of somebody's code."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from secondlook.cli import INTERRUPTED


@contextmanager
def gentle_interrupts(
    told: str = "finishing what is under way",
) -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C and SIGTERM only answer the yielded question with yes.

    A second one ends the process at once. An exception raised wherever the main thread happens
    to be can leave a gRPC channel that never closes, so a run asks instead.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(INTERRUPTED)  # what is on disk is whole at any moment
        asked.set()
        click.echo(f"\n{told}; once more to stop at once", err=True)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield asked.is_set
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
