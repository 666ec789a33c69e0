"""What every command line of ours shares: flags of settings, exit codes, errors, Ctrl-C."""

import io
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secondlook.config.stop_signals import INTERRUPTED, StopSignals
from secondlook.config.terminal import echo

if TYPE_CHECKING:
    from secondlook.config.spec import SettingGroup

Command = TypeVar("Command", bound=Callable[..., Any])

FINISH_S = 30.0
"""For a command to finish what is under way after Ctrl-C or SIGTERM; then it is ended."""

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file (TOML)."
)


def setting_options(
    *groups: "type[SettingGroup]", only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """A flag for every setting of ``groups``, or for ``only`` some; None where it is not given."""
    specs = {
        name: spec
        for group in groups
        for name, spec in group.specs().items()
        if only is None or name in only
    }

    def decorate(command: Command) -> Command:
        for name, spec in reversed(specs.items()):
            flag = name.replace("_", "-")
            if spec.kind is bool:
                option = click.option(
                    f"--{flag}/--no-{flag}", name, default=None, help=spec.help_line
                )
            else:
                option = click.option(f"--{flag}", name, metavar=spec.metavar, help=spec.help_line)
            command = option(command)
        return command

    return decorate


def run_group(group: click.Group, name: str, arguments: Sequence[str]) -> int:
    """The exit code of one command line; errors are one line on stderr.

    ``name``: the program's. With ``--debug`` among the arguments an error of ours is raised.
    """
    try:
        outcome = group.main(list(arguments), prog_name=name, standalone_mode=False)
    except click.exceptions.Abort as stop:  # Ctrl-C
        echo(str(stop.__cause__ or "") or "interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as usage:
        shown = io.StringIO()
        usage.show(shown)
        for line in shown.getvalue().removesuffix("\n").split("\n"):
            echo(line, err=True)
        return usage.exit_code
    except BrokenPipeError:  # nobody reads our output any more, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as failure:
        if "--debug" in arguments:
            raise
        message, code = _message(failure)
        echo(f"error: {message}", err=True)
        return code
    return outcome if isinstance(outcome, int) else 0


def write_privately() -> None:
    """Everything that this process and its children create is for this user only.

    Outputs hold images and labels too. A folder that exists keeps its rights; whoever wants to
    share a result gives it away with ``chmod``.
    """
    os.umask(os.umask(0o077) | 0o077)


def _message(failure: Exception) -> tuple[str, int]:
    """One line and the exit code: 2 for what can be corrected in the command, else 1."""
    from secondlook.config.redaction import redacted
    from secondlook_client.errors import (
        AlreadyExists,
        InvalidInput,
        NotAllowed,
        NotFound,
        SecondlookError,
    )

    line = " ".join(redacted(str(failure)).split())
    if isinstance(failure, SecondlookError):
        usage = isinstance(failure, InvalidInput | NotFound | NotAllowed | AlreadyExists)
        return line, 2 if usage and not failure.from_server else 1
    return f"unexpected {type(failure).__name__}: {line}; --debug shows where it came from", 1


@contextmanager
def gentle_interrupts(
    message: str = "finishing what is under way",
) -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C and SIGTERM only answer the yielded question with yes.

    ``message`` is printed on stderr then, unless it is empty. A second one ends the process
    at once, and so do ``FINISH_S`` after the first. An exception raised wherever the main thread
    happens to be can leave a gRPC channel that never closes, so a run asks instead.
    """
    asked = threading.Event()

    def ask() -> None:
        asked.set()
        if message:
            echo(err=True)
            echo(f"{message}; once more to stop at once", err=True)

    with StopSignals(ask, FINISH_S):
        yield asked.is_set
