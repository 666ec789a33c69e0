"""``secondlook models``: versions of students, on a service or in a store of this machine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from secondlook.cli.jobs import moment
from secondlook.cli.options import Command
from secondlook.cli.output import console, size
from secondlook.cli.store import opened, stored
from secondlook.detector.manifest import STUDENT_SIZES, USUAL_SIZE
from secondlook_client.model_values import ModelVersion, Training

if TYPE_CHECKING:
    from secondlook_client.model_values import Training
    from secondlook_client.models import Models


SERVER = "HOST:PORT"


def placed(command: Command) -> Command:
    """``--server``, or where the store is."""
    server = click.option("--server", metavar=SERVER, help="A service started with --data.")
    return server(stored(command))


def served(command: Command) -> Command:
    """``--server`` alone: a training outlives the command."""
    return click.option(
        "--server",
        default="127.0.0.1:50051",
        show_default=True,
        metavar=SERVER,
        help="A service started with --data.",
    )(command)


@click.group("models")
def models_command() -> None:
    """Keep versions of students, say which one devices run, and fetch them.

    A version is promoted only if it finds as much as the current one on images that were held
    out. Give --server for a running service, or --data for a store on this machine.
    """


@models_command.command("list")
@click.argument("name", default="")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@placed
def list_models(name: str, limit: int, as_json: bool, **flags: Any) -> None:
    """All versions (of the model NAME), the newest first."""

    with _models(flags) as models:
        found = list(islice(models.list(name), limit))
    if not as_json:
        print_models(found)
    for model in found if as_json else ():
        click.echo(json.dumps(as_plain(model)))


@models_command.command("show")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, report included.")
@placed
def show(name: str, version: int | None, as_json: bool, **flags: Any) -> None:
    """What VERSION (default: the current one) of the model NAME is and how good it was."""

    with _models(flags) as models:
        found = models.get(name, version or 0, report=as_json)
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=2))
    else:
        print_model(found)


@models_command.command("add")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Of the model; by default as it was distilled.")
@placed
def add(folder: Path, name: str, **flags: Any) -> None:
    """Keep the student in FOLDER, which `secondlook distill` wrote, as a new version."""
    with _models(flags) as models:
        kept = models.add(folder, name)
    click.echo(
        f"version {kept.version} of '{kept.name}'; `secondlook models promote {kept.name} "
        f"{kept.version}` makes it the one that devices run"
    )


@models_command.command("promote")
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--force", is_flag=True, help="Also if it is worse; nothing is compared.")
@click.option(
    "--on-snapshot",
    default="",
    metavar="NAME",
    help="Compare on this snapshot's held-out images, not on those of the current version's.",
)
@placed
def promote(name: str, version: int, force: bool, on_snapshot: str, **flags: Any) -> None:
    """Make VERSION of the model NAME the one that devices run."""
    with _models(flags) as models:
        promoted = models.promote(name, version, force=force, on_snapshot=on_snapshot)
    click.echo(f"version {version} of '{name}' is current: {promoted.model.promotion}")


@models_command.command("rollback")
@click.argument("name")
@placed
def rollback(name: str, **flags: Any) -> None:
    """Go back to the version of the model NAME that was current before."""
    with _models(flags) as models:
        current = models.rollback(name)
    click.echo(f"version {current.version} of '{name}' is current: {current.promotion}")


@models_command.command("download")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@placed
def download(name: str, version: int | None, out: Path, **flags: Any) -> None:
    """Fetch VERSION (default: the current one) of the model NAME into the folder --out.

    If it breaks off, the same command fetches the rest; every file is checked by its hash.
    """
    from secondlook.cli.output import bar

    with _models(flags) as models, bar("fetching", 1, unit="bytes") as step:
        found = models.download(name, version or 0, out, progress=lambda n, of: step(n, max(of, 1)))
    click.echo(f"{out} holds version {found.version} of '{name}'")


@models_command.command("train")
@click.argument("name")
@click.argument("snapshot")
@click.option("--split", default="", help="The part that is held out.  [default: val]")
@click.option(
    "--size", type=click.Choice(STUDENT_SIZES), default=USUAL_SIZE, show_default=True,
    help="Of the student.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(0), default=0, help="0: as many as is usual.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of everything random.")
@click.option("--watch", is_flag=True, help="Stay and show how it gets on.")
@served
def train(name: str, snapshot: str, watch: bool, server: str, **order: Any) -> int:
    """Let the service train a student on SNAPSHOT; it becomes a new version of the model NAME."""
    with _served(server) as models:
        training = models.train(name, snapshot, **order)
        if watch:
            return _watch(models, training.id)
    click.echo(
        f"training {training.id} is queued; `secondlook models watch {training.id}` shows it"
    )
    return 0


@models_command.command("trainings")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most.")
@served
def trainings(limit: int, server: str) -> None:
    """All trainings of the service, the newest first."""

    with _served(server) as models:
        print_trainings(list(islice(models.trainings(), limit)))


@models_command.command("watch")
@click.argument("training", type=click.IntRange(1))
@served
def watch(training: int, server: str) -> int:
    """Show how the TRAINING of that number gets on until it is over; Ctrl-C leaves it running."""
    with _served(server) as models:
        return _watch(models, training)


@models_command.command("cancel")
@click.argument("training", type=click.IntRange(1))
@served
def cancel(training: int, server: str) -> None:
    """Stop the TRAINING of that number for good."""
    with _served(server) as models:
        _print_end(models.cancel(training))


@contextmanager
def _models(flags: dict[str, Any]) -> "Iterator[Models]":
    """The models of the service or store that the flags name; removes them from ``flags``."""
    if server := flags.pop("server"):
        with _served(server) as models:
            yield models
        return
    with opened(flags) as store:
        from secondlook.server.models import models_alone

        with models_alone(store) as address, _served(address) as models:
            yield models


@contextmanager
def _served(server: str) -> "Iterator[Models]":
    from secondlook_client import Client

    if ":" not in server:
        raise click.UsageError(f"--server: expected {SERVER}, got {server!r}")
    with Client(server) as client:
        yield client.models


def _watch(models: "Models", number: int) -> int:
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts

    training, told = models.training(number), ""
    with (
        bar("training", max(training.of, 1), training.step, unit="steps") as step,
        gentle_interrupts("leaving; the training goes on") as stopped,
    ):
        for training in models.watch(number):
            step(training.step, max(training.of, training.step, 1))
            if (now := _now(training)) != told:
                click.echo(told := now, err=True)
            if stopped():
                raise KeyboardInterrupt(
                    f"training {number} goes on; `secondlook models watch {number}` shows it"
                )
    _print_end(training)
    return 0 if training.state == "done" else 1


def _now(training: "Training") -> str:
    """What is new when it changes, and not at each step."""
    measured = "" if training.map50 is None else f", mAP50 {training.map50:.3f}"
    return f"{training.phase or training.state}{measured}"


def _print_end(training: "Training") -> None:
    why = f": {training.message}" if training.message else ""
    made = f", version {training.version} of '{training.model}'" if training.version else ""
    click.echo(f"training {training.id}: {training.state}{made}{why}")


# Versions of models and trainings as a person reads them, and as programs do.


def as_plain(model: ModelVersion) -> dict[str, Any]:
    """Everything about a version as plain values for JSON."""
    return {
        "name": model.name,
        "version": model.version,
        "current": model.current,
        "digest": model.digest,
        "created_at": model.created_at,
        "promotion": model.promotion,
        "manifest": json.loads(model.manifest_json),
        "report": json.loads(model.report_json) if model.report_json else None,
    }


def print_models(found: Sequence[ModelVersion]) -> None:
    """A line a version."""
    if not found:
        console().print("there is no model yet; `secondlook models add` keeps the first")
        return
    table = Table(box=None)
    for heading in ("model", "version", "", "size", "mAP50", "int8", "made", "snapshot"):
        right = heading in ("version", "mAP50", "int8")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for model in found:
        manifest = json.loads(model.manifest_json)
        figures = manifest["metrics"]
        cells = (
            model.name,
            str(model.version),
            "current" if model.current else "",
            f"{manifest['architecture']} {manifest['size']}",
            *(_figure(figures, name) for name in ("map50", "int8_map50")),
            moment(model.created_at),
            manifest["snapshot"][:16],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)


def print_model(model: ModelVersion) -> None:
    """All that is known of one version."""
    manifest = json.loads(model.manifest_json)
    table = Table(box=None, show_header=False)
    facts = {
        "model": f"{model.name}, version {model.version}" + (", current" if model.current else ""),
        "digest": model.digest,
        "promoted": model.promotion or "never",
        "size": f"{manifest['architecture']} {manifest['size']}, "
        f"{'×'.join(map(str, manifest['input_size']))} pixels",
        "classes": ", ".join(manifest["classes"]),
        "snapshot": manifest["snapshot"],
        "held out": manifest["split"],
        "added": moment(model.created_at),
        **{name: _figure(manifest["metrics"], name) for name in sorted(manifest["metrics"])},
        **{name: size(count) for name, (_, count) in sorted(model.files.items())},
    }
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    console().print(table)


def print_trainings(found: Sequence[Training]) -> None:
    """A line a training."""
    if not found:
        console().print("there is no training yet; `secondlook models train` begins one")
        return
    table = Table(box=None)
    for heading in ("training", "model", "snapshot", "size", "state", "step", "mAP50", "begun", ""):
        table.add_column(heading, overflow="fold")
    for training in found:
        cells = (
            str(training.id),
            training.model,
            training.snapshot,
            training.size,
            str(training.state),
            f"{training.step:,} of {training.of:,}" if training.of else "",
            "" if training.map50 is None else f"{training.map50:.3f}",
            moment(training.created_at),
            training.message or (f"version {training.version}" if training.version else ""),
        )
        table.add_row(*(Text(cell) for cell in cells))
    console().print(table)


def _figure(figures: Mapping[str, float], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
