"""``secondlook-edge``: the agent's own command line, without the service's packages."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.config.entrypoint import gentle_interrupts, run_group
from secondlook.config.settings import Rule
from secondlook.edge.settings import EdgeSettings, load_settings, rules

if TYPE_CHECKING:
    from secondlook.core.ontology import Ontology
    from secondlook.edge.hooks import Hook


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secondlook")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """Look at images with a student; send back the frames that are worth learning from."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or input."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; errors are told on stderr in one line."""
    return run_group(group, "secondlook-edge", arguments)


def _every_setting(command: Any) -> Any:
    for name, rule in reversed(rules().items()):
        command = _option(name, rule)(command)
    config = click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    lines = click.option(
        "-c",
        "--class",
        "lines",
        multiple=True,
        metavar="CLASS",
        help="A class to label, instead of the student's. Repeat for more.",
    )
    return config(lines(command))


def _option(name: str, rule: Rule) -> Callable[[Any], Any]:
    """The flag of one setting, with its meaning, range and default."""
    flag = "--" + name.replace("_", "-")
    if rule.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=rule.help)
    return click.option(flag, name, default=None, metavar=rule.metavar, help=rule.help_line)


@group.command("run")
@_every_setting
@click.option("--frames", type=click.IntRange(min=0), default=0, help="Stop after so many; 0: all.")
def run_command(frames: int, **flags: Any) -> None:
    """Look at every frame of a source; print or hand on what is found; send what is worth it.

    Runs until the source ends, SIGTERM or Ctrl-C. Settings come from --config, then
    SECONDLOOK_EDGE_* variables, then these flags; the later wins.
    """
    settings, ontology = _read(flags)
    _speak_up(settings.log_level)
    from secondlook.edge.app import Running
    from secondlook.edge.app import run as run_agent

    def ready(everything: Running) -> None:
        if everything.health_port is not None:
            click.echo(f"health on {settings.health_host}:{everything.health_port}", err=True)

    with gentle_interrupts("") as stopped:
        health = run_agent(
            settings, _hooks(settings), stopped, ontology=ontology, most=frames, ready=ready
        )
    sent = f"; {health.acknowledged} sent, {health.spooled} wait" if settings.server else ""
    damaged = f", {health.damaged} could not be read" if health.damaged else ""
    click.echo(f"{health.frames} frames, {health.detections} detections{damaged}{sent}", err=True)


@group.command("once")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--student", required=True, type=click.Path(path_type=Path), help="Its folder.")
@click.option("--precision", default="auto", help="fp32, int8, or auto: the quicker one here.")
@click.option("--threads", default=0, help="CPU threads; 0: as many as help.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each image.")
def once_command(
    images: tuple[Path, ...], student: Path, precision: str, threads: int, as_json: bool
) -> None:
    """Print what a student finds on images, to see whether it works."""
    from secondlook.edge.doctor import look_at, told

    for frame, seen in look_at(student, images, precision, threads):
        click.echo(told(frame, seen, as_json))


@group.command("check")
@_every_setting
def check_command(**flags: Any) -> int:
    """Try everything that `run` with the same flags needs, and say what is missing."""
    settings, ontology = _read(flags)
    _speak_up("error")
    from secondlook.edge.doctor import checks

    failed = False
    for what, problem in checks(settings, ontology):
        failed |= bool(problem)
        click.echo(f"{'FAILED' if problem else 'ok':7}{what}{': ' + problem if problem else ''}")
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
    from secondlook.edge.hooks import load_hook, printing

    hooks = [load_hook(settings.hook)] if settings.hook else []
    return hooks if hooks or settings.quiet else [printing(sys.stdout)]


def _speak_up(level: str) -> None:
    """One line a message; systemd's journal and others add the time."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core repeats what we tell
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


if __name__ == "__main__":
    main()
