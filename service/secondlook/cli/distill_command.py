"""``secondlook distill``: a dataset in, a small fast detector with its report out."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secondlook.errors import BadOntology, Cancelled, MissingExtra

if TYPE_CHECKING:
    from secondlook.detector.manifest import Manifest
    from secondlook.distill.samples import TrainingSet
    from secondlook.distill.settings import TrainingSettings

Command = TypeVar("Command", bound=Callable[..., Any])


def _settings(command: Command) -> Command:
    """A flag for every setting of a training, with its meaning, range and default."""
    from secondlook.distill.settings import training_rules

    for name, rule in reversed(training_rules().items()):
        value, flag = rule.default, "--" + name.replace("_", "-")
        if rule.kind is bool:
            flag = f"{flag}/--no-{name.replace('_', '-').removeprefix('use-')}"
            option = click.option(flag, name, default=value, show_default=True, help=rule.help)
        elif rule.choices:
            kind = click.Choice(rule.choices)
            option = click.option(
                flag, name, type=kind, default=value, show_default=True, help=rule.help
            )
        else:
            shown = f"{rule.help}  [default: {value}]"
            option = click.option(flag, name, metavar=rule.metavar, default=str(value), help=shown)
        command = option(command)
    return command


@click.command("distill")
@click.argument("source")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("student"),
    show_default=True,
    help="Folder of the student; what was stopped there goes on.",
)
@click.option("--server", default="", metavar="HOST:PORT", help="SOURCE is a snapshot there.")
@click.option("--name", default="", help="What the student is called.  [default: as its data]")
@click.option("--split", default="", help="The part to hold out.  [default: val]")
@click.option(
    "--ontology",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of the classes, for devices that send pictures; snapshots have their own.",
)
@click.option(
    "--register", "model", default="", metavar="MODEL", help="Add it to MODEL at --server."
)
@click.option(
    "--int8",
    type=click.Choice(["auto", "required", "never"]),
    default="auto",
    show_default=True,
    help="An int8 model too; auto: unless it finds less.",
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder of pulled pictures.  [default: yours]"
)
@click.option(
    "--progress",
    "how",
    type=click.Choice(["bar", "jsonl"]),
    default="bar",
    show_default=True,
    help="jsonl: only the lines of OUT/progress.jsonl.",
)
@_settings
def command(source: str, out: Path, server: str, **flags: Any) -> None:
    """Train a small fast detector on SOURCE; measure and export it.

    SOURCE is a snapshot of a service (with --server), a COCO folder or file, or a YOLO folder.
    --out gets manifest.json, model.onnx, model.int8.onnx, self_test.npz, report.html, report.json
    and torch/. Ctrl-C keeps what was learnt; the same command goes on. On several GPUs run
    `accelerate launch -m secondlook distill …`.
    """
    model = flags.pop("model")
    if model and not server:
        raise click.UsageError("--register: say where with --server HOST:PORT")
    options = {k: flags.pop(k) for k in ("name", "split", "ontology", "int8", "cache", "how")}
    settings = _training_settings(flags)
    manifest = _distilled(source, server, out, settings, **options)
    if manifest is None:  # this process only helped
        return
    _print_student(manifest, out)
    if model:
        _register(server, model, out)


def _training_settings(flags: dict[str, Any]) -> "TrainingSettings":
    from secondlook.distill.settings import TrainingSettings, training_rules

    read = {name: rule.read(flags[name], name) for name, rule in training_rules().items()}
    return TrainingSettings(**read)


def _distilled(
    source: str,
    server: str,
    out: Path,
    settings: "TrainingSettings",
    *,
    name: str,
    split: str,
    ontology: Path | None,
    int8: str,
    cache: Path | None,
    how: str,
) -> "Manifest | None":
    from secondlook.cli.distill_progress import watched
    from secondlook.command_line import gentle_interrupts
    from secondlook.runs.out_folder import OutFolder

    data = _opened(source, server, split, cache, how)
    if ontology is not None:
        data = replace(data, ontology=_ontology_text(ontology, data.classes))
    try:
        from secondlook.distill.distilling import distill
    except ImportError as missing:
        raise MissingExtra(
            f"training needs {missing.name}; install it with pip install "
            '"secondlook[serve,distill]"'
        ) from missing
    with ExitStack() as open_things:
        first = _is_first()
        if first:
            open_things.enter_context(OutFolder(out))
        tell = open_things.enter_context(watched(out, how)) if first else lambda progress: None
        stop = open_things.enter_context(gentle_interrupts("saving what was learnt"))
        try:
            return distill(data, settings, out, tell, stop, name=name, int8=int8)
        except Cancelled as stopped:
            raise KeyboardInterrupt(str(stopped)) from stopped


def _is_first() -> bool:
    """Whether this is the process that speaks and writes, of a training on several devices."""
    return os.environ.get("RANK", "0") == "0"


def _opened(source: str, server: str, split: str, cache: Path | None, how: str) -> "TrainingSet":
    """The data, with what is odd about it told."""
    from secondlook.cli.progress import bar
    from secondlook.distill.sources import open_training_set

    if server and ":" not in server:
        raise click.UsageError(f"--server: expected HOST:PORT, got {server!r}")
    with ExitStack() as shown:
        told = None
        if server and how == "bar":
            step = shown.enter_context(bar("pulling", 0))
            told = step
        data = open_training_set(source, server=server, split=split, cache=cache, told=told)
    if not _is_first():
        return data
    for warning in data.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(
        f"{data.name}: {len(data.train)} pictures to learn from, {len(data.held_out)} held out "
        f"({data.split}), {len(data.classes)} classes, {data.digest[:12]}",
        err=True,
    )
    return data


def _ontology_text(file: Path, classes: tuple[str, ...]) -> str:
    from secondlook.ontology_text import load_ontology

    names = load_ontology(file).names
    lacking = [name for name in classes if name not in names]
    if lacking:
        raise BadOntology(f"{file} has no class '{lacking[0]}', which the data has; name it there")
    return file.read_text(encoding="utf-8")


def _print_student(manifest: "Manifest", out: Path) -> None:
    figures = manifest.metrics
    facts = [f"mAP {figures['map']:.3f}", f"mAP50 {figures['map50']:.3f}"]
    if "images_per_second" in figures:
        facts.append(f"{figures['images_per_second']:.0f} pictures/s here")
    click.echo(f"{manifest.name}: {', '.join(facts)} on '{manifest.split}'")
    click.echo(f"the student is in {out}; look at {out / 'report.html'}")


def _register(server: str, model: str, out: Path) -> None:
    from secondlook_client import Client

    with Client(server) as client:
        added = client.models.add(out, model)
    click.echo(f"{model} has version {added.version} on {server} now")
