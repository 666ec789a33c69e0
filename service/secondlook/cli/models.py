"""``secondlook models``: versions of students, on a service or in a store of this machine.

The commands, then where they find the models, then what is printed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import console, created_text, print_facts, size, table
from secondlook.cli.params import address_option, limit_option, server_option
from secondlook.cli.store import opened_store, store_options
from secondlook.config.entrypoint import Command, CommandGroup
from secondlook.config.terminal import echo, print_json
from secondlook.detector.manifest import DEFAULT_SIZE, STUDENT_SIZES

if TYPE_CHECKING:
    from secondlook_client.models import Models
    from secondlook_client.values import ModelVersion, Training


def _place_options(command: Command) -> Command:
    """``--server``, or where the store is."""
    server = address_option(
        "Address of a service that was started with --data; instead of a store here."
    )
    return server(store_options(command))


@click.group("models", cls=CommandGroup)
def models_command() -> None:
    """Manage versions of students: add, promote, roll back, download, train.

    Devices run the current version of a model. A version is promoted to be current only if it finds
    as much as the current one on held-out images. Give --server for a running service, or --data
    for a store on this machine.
    """


@models_command.command("list")
@click.argument("name", default="")
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
@_place_options
def list_models(name: str, limit: int, as_json: bool, **flags: Any) -> None:
    """List all versions, or those of the model NAME, the newest first."""
    with _models(flags) as models:
        found = list(islice(models.list(name), limit))
    if not as_json:
        _print_models(found)
    for model in found if as_json else ():
        print_json(model_json(model))


@models_command.command("show")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, with the training report."
)
@_place_options
def show(name: str, version: int | None, as_json: bool, **flags: Any) -> None:
    """Show VERSION of the model NAME (default: the current one) and its quality."""
    with _models(flags) as models:
        found = models.get(name, version or 0, report=as_json)
    if as_json:
        print_json(model_json(found), indent=2)
    else:
        _print_model(found)


@models_command.command(
    "add",
    examples=[
        "secondlook models add student --server host:50051",
    ],
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--name", default="", help="Name of the model.  [default: the student's name]", metavar="NAME"
)
@_place_options
def add(folder: Path, name: str, **flags: Any) -> None:
    """Add the student in FOLDER, written by `secondlook distill`, as a new version."""
    with _models(flags) as models:
        added = models.add(folder, name)
    echo(
        f"added version {added.version} of '{added.name}'; `secondlook models promote {added.name} "
        f"{added.version}` makes it the one that devices run"
    )


@models_command.command(
    "promote",
    examples=[
        "secondlook models promote street-1 1 --server host:50051",
    ],
)
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--force", is_flag=True, help="Promote it without a comparison, even if it is worse.")
@click.option(
    "--on-snapshot",
    default="",
    metavar="NAME",
    help="Compare on the held-out images of this snapshot.  [default: the snapshot of the current "
    "version]",
)
@_place_options
def promote(name: str, version: int, force: bool, on_snapshot: str, **flags: Any) -> None:
    """Make VERSION of the model NAME the current one, which devices run."""
    with _models(flags) as models:
        promoted = models.promote(name, version, force=force, on_snapshot=on_snapshot)
    echo(f"version {version} of '{name}' is current: {promoted.model.promotion}")


@models_command.command("create-key", examples=["secondlook models create-key model-signing.pem"])
@click.argument("file", type=click.Path(path_type=Path))
def create_signing_key(file: Path) -> None:
    """Make a key that signs models: FILE for the server, FILE.pub for devices.

    The server has it as --model-signing-key, a device the public one as --model-public-key.
    """
    from secondlook.core.signing import create_key

    public = create_key(file)
    echo(f"wrote {file}, which is secret, and {public}, which devices check signatures with")


@models_command.command("rollback")
@click.argument("name")
@_place_options
def rollback(name: str, **flags: Any) -> None:
    """Make the previous version of the model NAME current again."""
    with _models(flags) as models:
        current = models.rollback(name)
    echo(f"version {current.version} of '{name}' is current: {current.promotion}")


@models_command.command("download")
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@_place_options
def download(name: str, version: int | None, out: Path, **flags: Any) -> None:
    """Download VERSION of the model NAME (default: the current one) into the folder --out.

    Every file is checked by its hash. After an interruption, the same command downloads the rest.
    """
    from secondlook.cli.output import bar

    with _models(flags) as models, bar("downloading", 1, unit="bytes") as step:
        found = models.download(name, version or 0, out, progress=lambda n, of: step(n, max(of, 1)))
    echo(f"{out} has version {found.version} of '{name}'")


@models_command.command("train")
@click.argument("name")
@click.argument("snapshot")
@click.option("--split", default="", metavar="NAME", help="The split to hold out.  [default: val]")
@click.option(
    "--size",
    type=click.Choice(STUDENT_SIZES),
    default=DEFAULT_SIZE,
    show_default=True,
    help="Size of the student.",
)
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Training steps; 0 chooses them by the number of images.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
@click.option("--watch", is_flag=True, help="Show the progress until the training has ended.")
@server_option
def train(name: str, snapshot: str, watch: bool, server: str, **spec: Any) -> int:
    """Train a student on SNAPSHOT on the service; it becomes a new version of the model NAME."""
    with _served_models(server) as models:
        training = models.train(name, snapshot, **spec)
        if watch:
            return _watch(models, training.id)
    echo(f"training {training.id} is queued; `secondlook models watch {training.id}` shows it")
    return 0


@models_command.command("trainings")
@limit_option
@server_option
def trainings(limit: int, server: str) -> None:
    """List the trainings of the service, the newest first."""
    with _served_models(server) as models:
        _print_trainings(list(islice(models.trainings(), limit)))


@models_command.command("watch")
@click.argument("training", type=click.IntRange(1))
@server_option
def watch(training: int, server: str) -> int:
    """Show the progress of a training, given by its number, until it has ended.

    Ctrl-C does not stop the training.
    """
    with _served_models(server) as models:
        return _watch(models, training)


@models_command.command("cancel")
@click.argument("training", type=click.IntRange(1))
@server_option
def cancel(training: int, server: str) -> None:
    """Stop a training, given by its number, for good."""
    with _served_models(server) as models:
        _print_end(models.cancel(training))


@contextmanager
def _models(flags: dict[str, Any]) -> "Iterator[Models]":
    """The models of the service or store that the flags name; removes them from ``flags``."""
    if server := flags.pop("server"):
        with _served_models(server) as models:
            yield models
        return
    with opened_store(flags) as store:
        from secondlook.server.models import model_service

        with model_service(store) as address, _served_models(address) as models:
            yield models


@contextmanager
def _served_models(server: str) -> "Iterator[Models]":
    from secondlook_client import Client

    with Client(server) as client:
        yield client.models


def _watch(models: "Models", number: int) -> int:
    from secondlook.cli.output import bar
    from secondlook.config.entrypoint import gentle_interrupts

    training, printed = models.training(number), ""
    with (
        bar("training", max(training.of, 1), training.step, unit="steps") as step,
        gentle_interrupts("leaving; the training continues") as stopped,
    ):
        for training in models.watch(number):
            step(training.step, max(training.of, training.step, 1))
            if (status := _status(training)) != printed:
                echo(printed := status, err=True)
            if stopped():
                raise KeyboardInterrupt(
                    f"training {number} continues; `secondlook models watch {number}` shows it"
                )
    _print_end(training)
    return 0 if training.state == "done" else 1


def _status(training: "Training") -> str:
    """What is printed when it changes; unlike the step, it changes rarely."""
    measured = "" if training.map50 is None else f", mAP50 {training.map50:.3f}"
    return f"{training.phase or training.state}{measured}"


def _print_end(training: "Training") -> None:
    why = f": {training.message}" if training.message else ""
    version = f", version {training.version} of '{training.model}'" if training.version else ""
    echo(f"training {training.id}: {training.state}{version}{why}")


def model_json(model: "ModelVersion") -> dict[str, Any]:
    """Everything about a version as values for JSON."""
    return {
        "name": model.name,
        "version": model.version,
        "current": model.current,
        "digest": model.digest,
        "created_at": model.created_at,
        "created_by": model.created_by,
        "promotion": model.promotion,
        "manifest": json.loads(model.manifest_json),
        "report": json.loads(model.report_json) if model.report_json else None,
    }


def _print_models(found: Sequence["ModelVersion"]) -> None:
    from rich.text import Text

    if not found:
        console().print("there is no model; `secondlook models add` adds the first")
        return
    headings = ("model", "version", "", "size", "mAP50", "int8 mAP50", "created", "snapshot")
    rows = table(*headings, right=("version", "mAP50", "int8 mAP50"))
    for model in found:
        manifest = json.loads(model.manifest_json)
        cells = (
            model.name,
            str(model.version),
            "current" if model.current else "",
            f"{manifest['architecture']} {manifest['size']}",
            *(_figure(manifest["metrics"], name) for name in ("map50", "int8_map50")),
            created_text(model.created_at, model.created_by),
            manifest["snapshot"][:16],
        )
        rows.add_row(*(Text(cell) for cell in cells))
    console().print(rows)


def _print_model(model: "ModelVersion") -> None:
    manifest = json.loads(model.manifest_json)
    metrics = manifest["metrics"]
    input_size = "×".join(map(str, manifest["input_size"]))
    print_facts(
        {
            "model": f"{model.name}, version {model.version}"
            + (", current" if model.current else ""),
            "digest": model.digest,
            "promoted": model.promotion or "never",
            "size": f"{manifest['architecture']} {manifest['size']}, {input_size} pixels",
            "classes": ", ".join(manifest["classes"]),
            "snapshot": manifest["snapshot"],
            "held-out split": manifest["split"],
            "created": created_text(model.created_at, model.created_by),
            **{name: _figure(metrics, name) for name in sorted(metrics)},
            **{name: size(count) for name, (_, count) in sorted(model.files.items())},
        }
    )


def _print_trainings(found: Sequence["Training"]) -> None:
    from rich.text import Text

    if not found:
        console().print("there is no training; `secondlook models train` starts one")
        return
    headings = ("training", "model", "snapshot", "size", "state", "step", "mAP50", "created")
    rows = table(*headings, "result or message")
    for training in found:
        cells = (
            str(training.id),
            training.model,
            training.snapshot,
            training.size,
            str(training.state),
            f"{training.step:,} of {training.of:,}" if training.of else "",
            "" if training.map50 is None else f"{training.map50:.3f}",
            created_text(training.created_at, training.created_by),
            training.message or (f"version {training.version}" if training.version else ""),
        )
        rows.add_row(*(Text(cell) for cell in cells))
    console().print(rows)


def _figure(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
