"""What every command line of ours shares: flags of settings, help, exit codes, errors, Ctrl-C."""

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secondlook.config.stop_signals import INTERRUPTED, StopSignals
from secondlook.config.terminal import echo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from secondlook.config.spec import SettingGroup, SettingSpec

Command = TypeVar("Command", bound=Callable[..., Any])

FINISH_S = 30.0
"""For a command to finish what is under way after Ctrl-C or SIGTERM; then it is ended."""

MORE = "More options"
"""Section of options that are no settings and not the first that somebody needs."""
_COMMON_ONLY = "secondlook.common_only"
_HELP_OPTIONS = ["-h", "--help"]


class SectionOption(click.Option):
    """An option that ``--help`` lists under the title of its section, after the common ones."""

    def __init__(self, *given: Any, section: str, **more: Any) -> None:
        super().__init__(*given, **more)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help begins with the common options and ends with examples.

    ``--help`` goes on with a section for each group of settings; ``-h`` leaves those out.
    """

    def __init__(self, *given: Any, examples: Sequence[str] = (), **more: Any) -> None:
        """``examples``: command lines, each of at most 78 characters."""
        super().__init__(*given, **more)
        # With each command, not only with its group: click keeps the help option that it made
        # first, which for a command that was run without its group would be another.
        self.context_settings.setdefault("help_option_names", _HELP_OPTIONS)
        self.examples = tuple(examples)
        if any(isinstance(option, SectionOption) for option in self.params):
            short = "Show these options only; --help shows all."
            self.params.append(
                click.Option(
                    ["-h"], is_flag=True, expose_value=False, callback=_show_common, help=short
                )
            )

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Without ``-h`` where that shows less than ``--help``."""
        taken = {name for parameter in self.params for name in parameter.opts}
        return [name for name in super().get_help_option_names(ctx) if name not in taken]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The common options, then each section under its title."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                title = option.section if isinstance(option, SectionOption) else "Options"
                sections.setdefault(title, []).append(_readable(*record))
        common_only = ctx.meta.get(_COMMON_ONLY)
        for title, records in list(sections.items())[: 1 if common_only else None]:
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples as they are."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class CommandGroup(click.Group):
    """A group of such commands."""

    command_class = SectionedCommand

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.context_settings.setdefault("help_option_names", _HELP_OPTIONS)


def _show_common(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        ctx.meta[_COMMON_ONLY] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _readable(names: str, help: str) -> tuple[str, str]:
    """An option's names and help as people write them: ``--[no-]sync``, ``at least 1``."""
    names = re.sub(r"--(\S+) / --no-\1", r"--[no-]\1", names)
    help = re.sub(r"x>=(\S+)\]", r"at least \1]", help)
    return names, re.sub(r"(\S+)<=x<=(\S+)\]", r"\1 to \2]", help)


config_option = click.option(
    "--config",
    cls=SectionOption,
    section=MORE,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file (TOML).",
)


def setting_options(
    *groups: "type[SettingGroup]", only: Collection[str] | None = None
) -> Callable[[Command], Command]:
    """A flag for every setting of ``groups``, or for ``only`` some; None where it is not given."""
    found = [
        (name, spec, group.titles()[name])
        for group in groups
        for name, spec in group.specs().items()
        if only is None or name in only
    ]

    def decorate(command: Command) -> Command:
        for name, spec, title in reversed(found):
            command = _setting_option(name, spec, "" if spec.common or only else title)(command)
        return command

    return decorate


def _setting_option(name: str, spec: "SettingSpec", section: str) -> Callable[[Command], Command]:
    flag = f"--{name.replace('_', '-')}"
    given: dict[str, Any] = {"help": spec.help_line}
    if section:
        given |= {"cls": SectionOption, "section": section}
    if spec.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, **given)
    if spec.choices or spec.plugins:
        given["shell_complete"] = partial(_complete_setting, spec)
    if spec.is_path:
        given["type"] = click.Path()
    return click.option(flag, name, metavar=spec.metavar, **given)


def _complete_setting(
    spec: "SettingSpec", ctx: click.Context, parameter: click.Parameter, typed: str
) -> "list[CompletionItem]":
    return complete_models(typed, spec.plugins) if spec.plugins else matching(typed, spec.choices)


def complete_models(typed: str, *groups: str) -> "list[CompletionItem]":
    """The models that each of these groups of entry points has; where none matches, files."""
    from importlib.metadata import entry_points

    from click.shell_completion import CompletionItem

    names = ({point.name for point in entry_points(group=group)} for group in groups)
    known = sorted(set.intersection(*names))
    return matching(typed, known) or [CompletionItem(typed, type="file")]


def matching(typed: str, words: Iterable[str], before: str = "") -> "list[CompletionItem]":
    """For the shell: the words that begin with what was typed, each behind ``before``."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(before + word) for word in words if word.startswith(typed)]


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
    happens to be can leave a gRPC channel that never closes, so a run asks instead. Signals belong
    to the main thread: in another one the answer stays no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask() -> None:
        asked.set()
        if message:
            echo(err=True)
            echo(f"{message}; once more to stop at once", err=True)

    with StopSignals(ask, FINISH_S):
        yield asked.is_set
