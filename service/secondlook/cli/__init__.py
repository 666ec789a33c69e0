"""The command line. Each command lives in a module of its own that is imported when it is run.

So ``secondlook --help`` answers at once, and nothing here imports numpy, rich or torch.
"""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence

import click

from secondlook.config.entrypoint import run_group

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": (
        "demo",
        "Draw a small world, label it through the service and show what each stage did.",
    ),
    "try": ("try_", "Judge a prompt: every stage's scores on a handful of images."),
    "label": ("label", "Label a folder of images; resumes where it stopped."),
    "serve": ("serve", "Serve labelling over gRPC; with --data, keep everything."),
    "job": ("jobs", "Label many images at a time on a service: create, list, watch, results."),
    "explain": ("runs", "Why a kept label is what it is, and whether the models say it again."),
    "redecide": ("runs", "Other thresholds or classes for all that a run kept, without a model."),
    "compare": ("runs", "Which labels one run has and another has not, with images."),
    "snapshot": (
        "snapshots",
        "Freeze labels into datasets that never change; list, compare, export them.",
    ),
    "distill": (
        "distill",
        "Train a small fast detector on a snapshot or a folder; measure and export it.",
    ),
    "models": ("models", "Versions of students on a service: list, promote, roll back, download."),
    "check": ("store", "Verify every row and every image of a store."),
    "backup": ("store", "Copy a store that is in use; again, only what is new."),
    "restore": ("store", "Fill an empty store from a backup; also the way to another database."),
    "forget": ("store", "Remove old results and images, never what a snapshot holds."),
    "evaluate": (
        "evaluate",
        "Precision, recall and average precision of COCO predictions against truth.",
    ),
    "world": ("world", "Write images of the drawn demo world with their exact truth."),
}
"""Every command, the module that has it as ``NAME_command``, and its line in ``--help``."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a newcomer's day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"secondlook.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secondlook")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Label images with words, and look twice.

    Grounding DINO proposes boxes; a local vision-language model takes a second look at each.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _speak_up("--debug" in arguments)
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; errors are told on stderr in one line."""
    return run_group(group, "secondlook", arguments)


def _speak_up(debug: bool) -> None:
    """Our warnings in a line each; where they came from, and what libraries advise their own
    developers, only when asked for."""
    if debug:
        logging.basicConfig(level=logging.DEBUG)
        return
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core repeats on stderr what we tell
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.simplefilter("ignore")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"
