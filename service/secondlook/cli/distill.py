"""``secondlook distill``: a dataset in, a small fast detector with its report out."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secondlook.cli.output import PLAIN_EVERY_S, duration
from secondlook.core.errors import BadOntology, Cancelled, MissingExtra
from secondlook.core.files import explaining

if TYPE_CHECKING:
    from secondlook.datasets.samples import TrainingSet
    from secondlook.detector.manifest import Manifest
    from secondlook.training.progress import Progress, Tell
    from secondlook.training.settings import TrainingSettings


Command = TypeVar("Command", bound=Callable[..., Any])


def _settings(decorated: Command) -> Command:
    """A flag for every setting of a training, with its meaning, range and default."""
    from secondlook.training.settings import training_rules

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
        decorated = option(decorated)
    return decorated


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
    help="YAML file of the classes, for devices that send images; snapshots have their own.",
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
    "--cache", type=click.Path(path_type=Path), help="Folder of pulled images.  [default: yours]"
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
def distill_command(source: str, out: Path, server: str, **flags: Any) -> None:
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
    from secondlook.training.settings import TrainingSettings, training_rules

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
    from secondlook.cli.output_folder import OutFolder
    from secondlook.config.entrypoint import gentle_interrupts

    data = _opened(source, server, split, cache, how)
    if ontology is not None:
        data = replace(data, ontology=_ontology_text(ontology, data.classes))
    try:
        from secondlook.training.distill import distill
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
    from secondlook.cli.output import bar
    from secondlook.datasets.open import open_training_set

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
        f"{data.name}: {len(data.train)} images to learn from, {len(data.held_out)} held out "
        f"({data.split}), {len(data.classes)} classes, {data.digest[:12]}",
        err=True,
    )
    return data


def _ontology_text(file: Path, classes: tuple[str, ...]) -> str:
    from secondlook.core.ontology_yaml import load_ontology

    names = load_ontology(file).names
    lacking = [name for name in classes if name not in names]
    if lacking:
        raise BadOntology(f"{file} has no class '{lacking[0]}', which the data has; name it there")
    return file.read_text(encoding="utf-8")


def _print_student(manifest: "Manifest", out: Path) -> None:
    figures = manifest.metrics
    facts = [f"mAP {figures['map']:.3f}", f"mAP50 {figures['map50']:.3f}"]
    if "images_per_second" in figures:
        facts.append(f"{figures['images_per_second']:.0f} images/s here")
    click.echo(f"{manifest.name}: {', '.join(facts)} on '{manifest.split}'")
    click.echo(f"the student is in {out}; look at {out / 'report.html'}")


def _register(server: str, model: str, out: Path) -> None:
    from secondlook_client import Client

    with Client(server) as client:
        added = client.models.add(out, model)
    click.echo(f"{model} has version {added.version} on {server} now")


# A distillation as it goes: a bar with losses and mAP on a terminal, a plain line elsewhere, and
# ``progress.jsonl`` beside the student for programs that watch.

FILE_NAME = "progress.jsonl"
WRITTEN_EVERY_S = 0.5
DOING = {
    "train": "training",
    "score": "measuring",
    "export": "exporting",
    "report": "writing the report",
}
"""What each phase is called."""


@contextmanager
def watched(out: Path, how: str) -> Iterator["Tell"]:
    """A function that shows each ``Progress`` and appends it to ``out/progress.jsonl``.

    ``how``: ``bar``, or ``jsonl`` for only the file, which gets two lines a second at most and one
    for every decision.
    """
    with explaining(out), _written(out / FILE_NAME) as write:
        if how == "jsonl":
            yield write
            return
        with (_rich if sys.stderr.isatty() else _plain)() as show:

            def tell(progress: "Progress") -> None:
                write(progress)
                show(progress)

            yield tell


@contextmanager
def _written(path: Path) -> Iterator["Tell"]:
    last: tuple[str, float | None] = ("", None)
    at = 0.0
    with path.open("a", encoding="utf-8") as file:

        def write(progress: "Progress") -> None:
            nonlocal last, at
            news = (progress.phase, progress.map50)
            over = progress.step >= progress.of or bool(progress.note)
            if news != last or over or time.monotonic() - at >= WRITTEN_EVERY_S:
                last, at = news, time.monotonic()
                file.write(progress.line())
                file.flush()

        yield write


@contextmanager
def _rich() -> Iterator[Callable[["Progress"], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def show(progress: "Progress") -> None:
            if progress.phase not in tasks:
                doing = DOING.get(progress.phase, progress.phase)
                tasks[progress.phase] = bars.add_task(doing, total=progress.of, facts="")
            task = tasks[progress.phase]
            facts = facts_of(progress)
            if facts:
                bars.update(task, facts=facts)  # type: ignore[arg-type]
            bars.update(task, completed=progress.step, total=progress.of)  # type: ignore[arg-type]
            if progress.note:
                bars.console.print(progress.note, style="dim")

        yield show


@contextmanager
def _plain() -> Iterator[Callable[["Progress"], None]]:
    at, phase = 0.0, ""

    def show(progress: "Progress") -> None:
        nonlocal at, phase
        new = progress.phase != phase
        if progress.note or new or time.monotonic() - at >= PLAIN_EVERY_S:
            at, phase = time.monotonic(), progress.phase
            facts = progress.note or facts_of(progress)
            doing = DOING.get(progress.phase, progress.phase)
            click.echo(f"{doing}: {progress.step}/{progress.of} {facts}".rstrip(), err=True)

    yield show


def facts_of(progress: "Progress") -> str:
    """ "loss 12.3 (mal 2.1, bbox 0.4) · mAP50 0.41, best 0.43 · 2.1 steps/s · 3 min left"."""
    facts = []
    if "loss" in progress.losses:
        kinds = [f"{k} {v:.2f}" for k, v in progress.losses.items() if k != "loss" and v]
        more = f" ({', '.join(kinds[:4])})" if kinds else ""
        facts.append(f"loss {progress.losses['loss']:.2f}{more}")
    if progress.map50 is not None:
        best = progress.best_map50
        facts.append(f"mAP50 {progress.map50:.3f}" + (f", best {best:.3f}" if best else ""))
    if progress.steps_a_second:
        facts.append(f"{progress.steps_a_second:.1f} steps/s")
    if progress.seconds_left is not None and progress.losses:
        facts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(facts)
