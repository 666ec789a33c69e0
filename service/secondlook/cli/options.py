"""Options that several commands share: which classes to label, and which models label them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from secondlook.cli.params import address_option
from secondlook.config.entrypoint import (
    MORE,
    Command,
    SectionOption,
    complete_models,
    config_option,
    setting_options,
)
from secondlook.config.settings import (
    PROPOSERS,
    SOURCES,
    VERIFIERS,
    BatchingSettings,
    ImageSettings,
    ModelSettings,
    PipelineSettings,
    Settings,
)
from secondlook.core.frame_names import DEFAULT_FPS
from secondlook_client.ontology import Ontology

models_option = click.option(
    "--models",
    metavar="MODELS",
    help="Short for --proposer and --verifier alike: demo (synthetic scenes only), photo-small, "
    "photo, photo-large (published ones for photos, fetched when first used).",
    shell_complete=lambda ctx, option, typed: complete_models(typed, PROPOSERS, VERIFIERS),
)
in_process_options = setting_options(
    ModelSettings, PipelineSettings, BatchingSettings, ImageSettings
)
"""The settings that matter when a command runs the models itself; ``serve`` takes them all."""


fps_option = click.option(
    "--fps",
    cls=SectionOption,
    section=MORE,
    type=click.FloatRange(0, 1000),
    default=DEFAULT_FPS,
    show_default=True,
    metavar="N",
    help="Frames of each second of a video; 0 takes all.",
)


def class_options(command: Command) -> Command:
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


def model_options(command: Command) -> Command:
    """``--server``, ``--models``, ``--config`` and the settings of models in this process."""
    server = address_option(
        "Label through a running service; without it, the models run in this process."
    )
    return server(models_option(config_option(in_process_options(command))))


def resume_options(command: Command) -> Command:
    """``--fresh`` and ``--retry-failed`` of a command whose ``--out`` resumes a run."""
    fresh = click.option(
        "--fresh", is_flag=True, help="Remove the results of an earlier run in --out first."
    )
    retry = click.option(
        "--retry-failed",
        cls=SectionOption,
        section=MORE,
        is_flag=True,
        help="Try the images that failed again.",
    )
    return fresh(retry(command))


def settings_of(flags: dict[str, Any]) -> Settings:
    """Settings from file, environment and these flags; removes them from ``flags``."""
    given = {name: flags.pop(name) for name in SOURCES.names if name in flags}
    return SOURCES.load(given, flags.pop("config", None))


def ontology_of(lines: Sequence[str], file: Path | None) -> Ontology | None:
    """The classes of ``-c`` or ``--ontology``; None when neither is given."""
    from secondlook.core.ontology_yaml import load_ontology, ontology_from_lines

    if lines and file:
        raise click.UsageError("give the classes with -c or with --ontology, not both")
    if file:
        return load_ontology(file)
    return ontology_from_lines(lines) if lines else None
