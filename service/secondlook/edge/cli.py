"""``secondlook-edge``: the agent's own command line, without the service's packages."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.config.entrypoint import (
    CommandGroup,
    config_option,
    gentle_interrupts,
    run_group,
    setting_options,
    write_privately,
)
from secondlook.config.extras import check_extras
from secondlook.config.terminal import TerminalFormatter, echo
from secondlook.edge.settings import EdgeSettings, load_settings

if TYPE_CHECKING:
    from secondlook.edge.hooks import Hook
    from secondlook_client.ontology import Ontology


@click.group(cls=CommandGroup)
@click.version_option(package_name="secondlook")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Detect objects with a student; send back the frames that are worth labelling."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or input."""
    write_privately()
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Errors are one line on stderr."""
    return run_group(group, "secondlook-edge", arguments)


def _every_setting(command: Any) -> Any:
    lines = click.option(
        "-c",
        "--class",
        "lines",
        multiple=True,
        metavar="CLASS",
        help="Class to label instead of the student's; repeat for more.",
    )
    return config_option(lines(setting_options(EdgeSettings)(command)))


@group.command(
    "run",
    examples=[
        "secondlook-edge run --student student --source /dev/video0",
        "secondlook-edge run --server host:50051 --model street --source frames",
    ],
)
@_every_setting
@click.option(
    "--frames",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Stop after this many frames; 0: never.",
)
def run_command(frames: int, **flags: Any) -> None:
    """Detect objects in every frame of a source; print them; send selected frames to a server.

    Runs until the source ends, SIGTERM or Ctrl-C. Settings come from --config, then
    SECONDLOOK_EDGE_* variables, then these flags; later ones win.
    """
    settings, ontology = _read(flags)
    _configure_logging(settings.log_level)
    from secondlook.edge.app import RunningAgent, run_agent
    from secondlook.edge.sources import extras_of_source

    check_extras("the agent", "edge", *extras_of_source(settings.source))

    def ready(running: RunningAgent) -> None:
        if running.health_port is not None:
            echo(f"health on {settings.health_host}:{running.health_port}", err=True)

    with gentle_interrupts("") as stopped:
        health = run_agent(
            settings, _hooks(settings), stopped, ontology=ontology, max_frames=frames, ready=ready
        )
    sent = f"; {health.acknowledged} sent, {health.pending} pending" if settings.server else ""
    unreadable = f", {health.unreadable} could not be read" if health.unreadable else ""
    echo(f"{health.frames} frames, {health.detections} detections{unreadable}{sent}", err=True)


@group.command("once", examples=["secondlook-edge once photo.jpg --student student"])
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--student", required=True, type=click.Path(path_type=Path), help="Its folder.")
@setting_options(EdgeSettings, only=("precision", "threads"))
@click.option("--json", "as_json", is_flag=True, help="One line of JSON per image.")
def once_command(images: tuple[Path, ...], student: Path, as_json: bool, **flags: Any) -> None:
    """Print what a student finds in images, to check that it works."""
    from secondlook.edge.doctor import detect_on, format_detections

    settings = load_settings(flags)
    check_extras("running a student", "edge")
    found = detect_on(student, images, settings.precision, settings.threads)
    for frame, detections in found:
        for line in format_detections(frame, detections, as_json):
            echo(line)


@group.command(
    "check",
    examples=["secondlook-edge check --config /etc/secondlook/edge.toml"],
)
@_every_setting
def check_command(**flags: Any) -> int:
    """Check everything that `run` needs with the same flags, and report what fails."""
    settings, ontology = _read(flags)
    _configure_logging("error")
    from secondlook.edge.doctor import run_checks

    failed = False
    for what, problem in run_checks(settings, ontology):
        failed |= bool(problem)
        echo(f"{'FAILED' if problem else 'ok':7}{what}{': ' + problem if problem else ''}")
    return int(failed)


def _read(flags: dict[str, Any]) -> "tuple[EdgeSettings, Ontology | None]":
    from secondlook.core.ontology_yaml import load_ontology, ontology_from_lines

    lines, config = flags.pop("lines"), flags.pop("config")
    settings = load_settings(flags, config)
    if lines and settings.ontology:
        raise click.UsageError("give the classes with -c or with --ontology, not both")
    if lines:
        return settings, ontology_from_lines(lines)
    return settings, load_ontology(Path(settings.ontology)) if settings.ontology else None


def _hooks(settings: EdgeSettings) -> "list[Hook]":
    from secondlook.edge.hooks import json_lines_hook, load_hook

    hooks = [load_hook(settings.hook)] if settings.hook else []
    return hooks if hooks or settings.quiet else [json_lines_hook(sys.stdout)]


def _configure_logging(level: str) -> None:
    """One line per message; the journal of systemd adds the time."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core repeats our messages
    handler = logging.StreamHandler()
    handler.setFormatter(TerminalFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


if __name__ == "__main__":
    main()
