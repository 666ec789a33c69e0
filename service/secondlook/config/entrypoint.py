"""What every command line of ours does: exit codes, errors in one line, Ctrl-C that is gentle."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

INTERRUPTED = 130


def run_group(group: click.Group, name: str, arguments: Sequence[str]) -> int:
    """The exit code of one command line; errors are told on stderr in one line.

    ``name``: the program's. With ``--debug`` among the arguments an error of ours is raised.
    """
    try:
        outcome = group.main(list(arguments), prog_name=name, standalone_mode=False)
    except click.exceptions.Abort as stop:  # click's word for Ctrl-C
        click.echo(str(stop.__cause__ or "") or "interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as failure:
        if "--debug" in arguments:
            raise
        told, code = _told(failure)
        click.echo(f"error: {told}", err=True)
        return code
    return outcome if isinstance(outcome, int) else 0


def _told(failure: Exception) -> tuple[str, int]:
    """One line and the exit code: 2 for what can be mended in the command, else 1."""
    from secondlook.core.errors import (
        AlreadyExists,
        InvalidInput,
        NotAllowed,
        NotFound,
        SecondlookError,
    )
    from secondlook_client.errors import ClientError

    line = " ".join(str(failure).split())
    if isinstance(failure, SecondlookError | ClientError):
        wrong = isinstance(failure, InvalidInput | NotFound | NotAllowed | AlreadyExists)
        return line, 2 if wrong else 1
    return f"unexpected {type(failure).__name__}: {line}; --debug shows where it came from", 1


@contextmanager
def gentle_interrupts(
    told: str = "finishing what is under way",
) -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C and SIGTERM only answer the yielded question with yes.

    ``told`` on stderr says what happens then; empty says nothing. A second one ends the process
    at once. An exception raised wherever the main thread happens to be can leave a gRPC channel
    that never closes, so a run asks instead.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(INTERRUPTED)  # what is on disk is whole at any moment
        asked.set()
        if told:
            click.echo(f"\n{told}; once more to stop at once", err=True)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield asked.is_set
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
