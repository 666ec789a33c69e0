"""The command line. The module of a command is imported only when the command is run.

So ``secondlook --help`` answers at once, and nothing here imports numpy, rich or torch. Modules of
commands import torch and what else the ``serve`` extra installs inside functions, so that every
``--help`` works without it.
"""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from secondlook.config.entrypoint import CommandGroup, matching, run_group, write_privately
from secondlook.config.redaction import redacted
from secondlook.config.terminal import TerminalFormatter, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMAND_GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Label": {
        "demo": ("demo", "Label synthetic scenes and show what each stage contributes."),
        "try": ("try_", "Try classes and prompts on a few images; print every score."),
        "label": ("label", "Label a folder of images; continues where it stopped."),
        "verify": ("verify", "Verify annotations that exist: keep, reject or doubt each box."),
        "record": ("record", "Record a camera into a video file, to label it."),
        "segment": ("segment", "Outline an object by clicks or a box: a mask, or cut out."),
    },
    "Look and decide": {
        "explain": ("runs", "Show how a label was decided, with all scores and answers."),
        "compare": ("runs", "Show which labels differ between two runs, with images."),
        "review": ("review", "Say which labels are right; a person outranks every model."),
        "redecide": ("runs", "Decide a run again by other thresholds, without a model."),
        "decoys": ("decoys", "Show how often the verifier said yes where the answer is no."),
        "uncertainty": ("uncertainty", "Measure how uncertain each label is, in three ways."),
        "select": ("select", "Choose the images that people should look at next, and why."),
        "loop": ("loop", "Label, ask, train and measure in rounds until a target."),
        "guarantee": ("guarantee", "Guarantee a precision by some answers, with a certificate."),
        "evaluate": ("evaluate", "Measure predictions against truth: precision, recall, AP."),
    },
    "Datasets and training": {
        "snapshot": ("snapshots", "Freeze labels into datasets; compare and export them."),
        "distill": ("distill", "Train a small fast detector on a dataset; export it."),
        "micro": ("micro", "Train a model of one thing in one scene from five labels."),
        "models": ("models", "Manage versions of students: list, promote, roll back."),
        "world": ("world", "Write synthetic scenes with their exact truth."),
    },
    "Service and store": {
        "ui": ("ui", "Open the page: try classes, look at labels, review them."),
        "serve": ("serve", "Serve labelling over gRPC; with --data, keep everything."),
        "label-studio": ("label_studio", "Be a backend of Label Studio: predict, click, learn."),
        "job": ("jobs", "Label many images on a service: create, watch, results."),
        "health": ("health", "Ask a service whether it is ready; for probes and scripts."),
        "token": ("token", "Say who may call a service: make, list and revoke tokens."),
        "check": ("store", "Check every row and every image of a store."),
        "backup": ("store", "Copy a store that is in use; later, only what is new."),
        "restore": ("store", "Fill an empty store from a backup, or move it elsewhere."),
        "forget": ("store", "Remove old results and images, except those in snapshots."),
    },
    "Shell": {
        "completion": ("completion", "Print the completion script of bash, zsh or fish."),
    },
}
"""Every command, below the title of its group: the module that has it as ``NAME_command``, and its
line in ``--help``, in the order in which a new user needs them."""
COMMANDS = {name: found for group in COMMAND_GROUPS.values() for name, found in group.items()}


class LazyGroup(CommandGroup):
    """A group that imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None when there is none with that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"secondlook.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Commands without importing them, and options of the group."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return matching(incomplete, COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        longest = max(map(len, COMMANDS))
        for title, commands in COMMAND_GROUPS.items():
            with formatter.section(title):
                lines = [(name.ljust(longest), line) for name, (_, line) in commands.items()]
                formatter.write_dl(lines)


@click.group(cls=LazyGroup)
@click.version_option(package_name="secondlook")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Label images with words.

    Grounding DINO proposes boxes, and a local vision-language model verifies each of them.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _configure_logging("--debug" in arguments)
    write_privately()
    _export_traces()
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; errors are printed to stderr in one line."""
    return run_group(group, "secondlook", arguments)


def _export_traces() -> None:
    """Where the environment names a collector; it may name one for programs that cannot trace."""
    from secondlook_client import tracing

    try:
        tracing.export("secondlook")
    except ImportError:
        logging.warning(
            "traces are asked for by OTEL_EXPORTER_OTLP_ENDPOINT, and the packages for them are "
            'not installed; run: pip install "secondlook[tracing]"'
        )


def _configure_logging(debug: bool) -> None:
    """Warnings of secondlook in one line each; origins and warnings of libraries only for debug."""
    if debug:
        handler = logging.StreamHandler()
        handler.setFormatter(TerminalFormatter(logging.BASIC_FORMAT))
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])
        return
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core repeats our errors on stderr
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.simplefilter("ignore")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(redacted(f"{record.levelname.lower()}: {record.getMessage()}"))
