"""Options that several commands share: what to look for, and the models that look."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from secondlook.config.settings import Settings, load_settings, rules
from secondlook.core.images import ImageLimits
from secondlook.core.ontology import Ontology

Command = TypeVar("Command", bound=Callable[..., Any])

IN_PROCESS = (
    "proposer",
    "verifier",
    "device",
    "dtype",
    "trust_remote_code",
    "threads",
    "timeout_s",
    "concurrency",
    "propose_batch",
    "verify_batch",
    "view_batch",
    "floor",
    "max_boxes",
    "max_iou",
    "max_image_bytes",
    "max_image_pixels",
    "max_image_side",
)
"""Settings that matter when a command runs the models itself; ``serve`` takes them all."""


def looked_for(command: Command) -> Command:
    """``-c/--class`` and ``--ontology``."""
    lines = click.option(
        "-c",
        "--class",
        "lines",
        multiple=True,
        metavar="CLASS",
        help="A class to label: NAME [@GROUP] [= PHRASE, …] [? QUESTION]. Repeat for more.",
    )
    file = click.option(
        "--ontology", type=click.Path(path_type=Path), help="YAML file of classes, instead of -c."
    )
    return lines(file(command))


def models(command: Command) -> Command:
    """``--server``, ``--models`` and the settings of models in this process."""
    for name in reversed(IN_PROCESS):
        command = setting_option(name)(command)
    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML)."),
        click.option("--models", help="Short for --proposer and --verifier alike, e.g. demo."),
        click.option(
            "--server", metavar="HOST:PORT", help="Use a running service instead of models here."
        ),
    ):
        command = option(command)
    return command


def setting_option(name: str) -> Callable[[Command], Command]:
    """The flag of one setting, with its meaning, default and range from its rule."""
    rule, flag = rules()[name], "--" + name.replace("_", "-")
    if rule.kind is bool:
        return click.option(flag, name, is_flag=True, default=None, help=rule.help)
    return click.option(flag, name, default=None, metavar=rule.metavar, help=rule.help_line)


def settings_of(flags: dict[str, Any]) -> Settings:
    """Settings from file, environment and these flags; removes them from ``flags``."""
    names = [name for name in flags if name in rules() or name == "models"]
    given = {name: flags.pop(name) for name in names}
    return load_settings(given, file=flags.pop("config", None))


def ontology_of(lines: Sequence[str], file: Path | None) -> Ontology | None:
    """What the user wants labelled; None when nothing was said."""
    from secondlook.core.ontology_yaml import load_ontology, ontology_from_lines

    if lines and file:
        raise click.UsageError("give the classes with -c or with --ontology, not both")
    if file:
        return load_ontology(file)
    return ontology_from_lines(lines) if lines else None


def image_limits(settings: Settings) -> ImageLimits:
    """How large an image may be."""
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)
