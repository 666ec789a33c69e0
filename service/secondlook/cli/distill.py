"""``secondlook distill``: a dataset in, a small fast detector with its report out.

The command, then how its progress is shown: as a bar with losses and mAP on a terminal, as a line
now and then elsewhere, and in ``progress.jsonl`` beside the student for programs.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import PLAIN_EVERY_S, console, duration
from secondlook.cli.params import address_option, empty_option
from secondlook.config.entrypoint import MORE, SectionedCommand, SectionOption, setting_options
from secondlook.config.extras import check_extras
from secondlook.config.terminal import echo, printable
from secondlook.core.files import check_can_write, explain_write_errors
from secondlook.training.progress import has_begun
from secondlook.training.settings import TrainingSettings, load_settings
from secondlook_client.errors import BadOntology, Cancelled

if TYPE_CHECKING:
    from secondlook.datasets.samples import TrainingSet
    from secondlook.detector.manifest import StudentManifest
    from secondlook.training.progress import Progress, ProgressCallback
    from secondlook_client.values import EmptyReason


PROGRESS_FILE = "progress.jsonl"
WRITE_EVERY_S = 0.5
PHASE_NAMES = {
    "train": "training",
    "score": "measuring",
    "export": "exporting",
    "report": "writing the report",
}


@click.command(
    "distill",
    cls=SectionedCommand,
    examples=[
        "secondlook distill labels --size pico --out student",
        "secondlook distill street-1 --server host:50051 --register street",
    ],
)
@click.argument("source")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("student"),
    show_default=True,
    help="Folder of the student. The same folder continues a training that was stopped.",
)
@address_option("Address of a service that has the snapshot SOURCE.", "")
@click.option(
    "--name", default="", metavar="NAME", help="Name of the student.  [default: as the data]"
)
@click.option("--split", default="", metavar="NAME", help="The split to hold out.  [default: val]")
@empty_option("Which images without a box to take as background, of the COCO of `label`:")
@click.option(
    "--ontology",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file of the classes, kept for devices that send images to be labelled. Snapshots "
    "have their own.",
)
@click.option(
    "--register",
    "model",
    default="",
    metavar="MODEL",
    help="Add the student to --server as a new version of MODEL.",
)
@click.option(
    "--int8",
    cls=SectionOption,
    section=MORE,
    type=click.Choice(["auto", "required", "never"]),
    default="auto",
    show_default=True,
    help="Whether to export an int8 model too. auto: only if it finds as much; required: fail "
    "otherwise.",
)
@click.option(
    "--cache",
    cls=SectionOption,
    section=MORE,
    type=click.Path(path_type=Path),
    help="Folder for downloaded images.  [default: the user's cache]",
)
@click.option(
    "--progress",
    "how",
    cls=SectionOption,
    section=MORE,
    type=click.Choice(["bar", "jsonl"]),
    default="bar",
    show_default=True,
    help="How to show the progress. jsonl: only write it to OUT/progress.jsonl.",
)
@setting_options(TrainingSettings)
def distill_command(source: str, out: Path, server: str, **flags: Any) -> None:
    """Train a small fast detector (a student) on SOURCE, measure it and export it.

    SOURCE is the name of a snapshot (with --server), the output folder of `secondlook label`, a
    COCO file or folder, or a YOLO or VOC folder.
    Writes manifest.json, model.onnx, model.int8.onnx, self_test.npz, report.html, report.json and
    torch/ to --out. After Ctrl-C, the same command continues the training. On several GPUs run
    `accelerate launch -m secondlook distill …`.
    """
    model = flags.pop("model")
    if model and not server:
        raise click.UsageError("--register needs --server HOST:PORT")
    taken = ("name", "split", "empty", "ontology", "int8", "cache", "how")
    options = {k: flags.pop(k) for k in taken}
    settings = load_settings(flags)
    manifest = _distill(source, server, out, settings, **options)
    if manifest is None:  # not the main process of a training on several devices
        return
    _print_student(manifest, out)
    if model:
        _register(server, model, out)


def _distill(
    source: str,
    server: str,
    out: Path,
    settings: TrainingSettings,
    *,
    name: str,
    split: str,
    empty: "tuple[EmptyReason, ...]",
    ontology: Path | None,
    int8: str,
    cache: Path | None,
    how: str,
) -> "StudentManifest | None":
    from secondlook.cli.output_folder import OutputFolder
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.training.finished import finished_student

    check_extras("training a student", "serve", "distill")
    check_can_write(out)
    data = _open_data(source, server, split, empty, cache, how, out, settings.max_bad_images)
    if ontology is not None:
        data = replace(data, ontology=_ontology_text(ontology, data.classes))
    if done := finished_student(data, settings, out):
        echo(f"{out} was finished before, and nothing has changed since", err=True)
        return done
    from secondlook.training.distill import distill

    with ExitStack() as stack:
        progress: ProgressCallback = lambda _: None  # noqa: E731
        if _is_main_process():
            stack.enter_context(OutputFolder(out))
            progress = stack.enter_context(training_progress(out, how))
        stop = stack.enter_context(gentle_interrupts("saving the training"))
        try:
            return distill(data, settings, out, progress, stop, name=name, int8=int8)
        except Cancelled as stopped:
            raise KeyboardInterrupt(str(stopped)) from stopped


def _is_main_process() -> bool:
    """Whether this process prints and writes, in a training on several devices."""
    return os.environ.get("RANK", "0") == "0"


def _open_data(
    source: str,
    server: str,
    split: str,
    empty: "tuple[EmptyReason, ...]",
    cache: Path | None,
    how: str,
    out: Path,
    max_bad_images: float,
) -> "TrainingSet":
    """The data, its images checked; prints its warnings and its size."""
    from secondlook.datasets.bad_images import ImageCheck, read_record
    from secondlook.datasets.open import open_training_set

    with ExitStack() as stack:
        shown = how == "bar" and _is_main_process()
        before = read_record(out) if has_begun(out) else None
        data = open_training_set(
            source,
            server=server,
            split=split,
            cache=cache,
            progress=_later_bar(stack, "downloading") if server and shown else None,
            check=ImageCheck(
                max_bad_images,
                progress=_later_bar(stack, "checking images") if shown else None,
                folder=out if _is_main_process() else None,
                before=before,
            ),
            empty=empty,
        )
    if not _is_main_process():
        return data
    for warning in data.warnings:
        echo(f"warning: {warning}", err=True)
    echo(
        f"{data.name}: {len(data.train)} images to train on, {len(data.held_out)} held out "
        f"({data.split}), {len(data.classes)} classes, {data.digest[:12]}",
        err=True,
    )
    return data


def _later_bar(stack: ExitStack, what: str) -> Callable[[int, int], None]:
    """A bar that appears with the first image, once the one before it is done."""
    from secondlook.cli.output import bar

    shown: list[Callable[[int, int], None]] = []

    def step(done: int, whole: int) -> None:
        if not shown:
            stack.close()
            shown.append(stack.enter_context(bar(what, whole)))
        shown[0](done, whole)

    return step


def _ontology_text(file: Path, classes: tuple[str, ...]) -> str:
    from secondlook.core.ontology_yaml import load_ontology

    names = load_ontology(file).names
    lacking = [name for name in classes if name not in names]
    if lacking:
        raise BadOntology(f"{file} lacks the class '{lacking[0]}' of the data; add it there")
    return file.read_text(encoding="utf-8")


def _print_student(manifest: "StudentManifest", out: Path) -> None:
    figures = manifest.metrics
    facts = [f"mAP {figures['map']:.3f}", f"mAP50 {figures['map50']:.3f}"]
    if "images_per_second" in figures:
        facts.append(f"{figures['images_per_second']:.0f} images/s here")
    echo(f"{manifest.name}: {', '.join(facts)} on '{manifest.split}'")
    echo(f"the student is in {out}; look at {out / 'report.html'}")


def _register(server: str, model: str, out: Path) -> None:
    from secondlook_client import Client

    with Client(server) as client:
        added = client.models.add(out, model)
    echo(f"added version {added.version} of {model} to {server}")


@contextmanager
def training_progress(out: Path, how: str) -> Iterator["ProgressCallback"]:
    """A function that shows each ``Progress`` and appends it to ``out/progress.jsonl``.

    ``how``: ``bar``, or ``jsonl`` for only the file, which gets two lines a second at most and one
    for every note.
    """
    with explain_write_errors(out), _progress_file(out / PROGRESS_FILE) as write:
        if how == "jsonl":
            yield write
            return
        with (_progress_bars if sys.stderr.isatty() else _progress_lines)() as show:

            def both(progress: "Progress") -> None:
                write(progress)
                show(progress)

            yield both


@contextmanager
def _progress_file(path: Path) -> Iterator["ProgressCallback"]:
    last: tuple[str, float | None] = ("", None)
    at = 0.0
    with path.open("a", encoding="utf-8") as file:

        def write(progress: "Progress") -> None:
            nonlocal last, at
            news = (progress.phase, progress.map50)
            over = progress.step >= progress.of or bool(progress.note)
            if news != last or over or time.monotonic() - at >= WRITE_EVERY_S:
                last, at = news, time.monotonic()
                file.write(progress.line())
                file.flush()

        yield write


@contextmanager
def _progress_bars() -> Iterator[Callable[["Progress"], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Bars(*columns, console=console(err=True)) as bars:
        tasks: dict[str, object] = {}

        def show(progress: "Progress") -> None:
            if progress.phase not in tasks:
                name = PHASE_NAMES.get(progress.phase, progress.phase)
                tasks[progress.phase] = bars.add_task(name, total=progress.of, facts="")
            task = tasks[progress.phase]
            facts = progress_facts(progress)
            if facts:
                bars.update(task, facts=printable(facts))  # type: ignore[arg-type]
            bars.update(task, completed=progress.step, total=progress.of)  # type: ignore[arg-type]
            if progress.note:
                bars.console.print(progress.note, style="dim")

        yield show


@contextmanager
def _progress_lines() -> Iterator[Callable[["Progress"], None]]:
    at, phase = 0.0, ""

    def show(progress: "Progress") -> None:
        nonlocal at, phase
        new = progress.phase != phase
        if progress.note or new or time.monotonic() - at >= PLAIN_EVERY_S:
            at, phase = time.monotonic(), progress.phase
            facts = progress.note or progress_facts(progress)
            name = PHASE_NAMES.get(progress.phase, progress.phase)
            echo(f"{name}: {progress.step}/{progress.of} {facts}".rstrip(), err=True)

    yield show


def progress_facts(progress: "Progress") -> str:
    """ "loss 12.3 (mal 2.1, bbox 0.4) · mAP50 0.41, best 0.43 · 2.1 steps/s · 3 min left"."""
    facts = []
    if "loss" in progress.losses:
        kinds = [f"{k} {v:.2f}" for k, v in progress.losses.items() if k != "loss" and v]
        more = f" ({', '.join(kinds[:4])})" if kinds else ""
        facts.append(f"loss {progress.losses['loss']:.2f}{more}")
    if progress.map50 is not None:
        best = progress.best_map50
        facts.append(f"mAP50 {progress.map50:.3f}" + (f", best {best:.3f}" if best else ""))
    if rate := progress.steps_a_second:
        facts.append(f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
    if progress.seconds_left is not None and progress.losses:
        facts.append(f"{duration(progress.seconds_left)} left")
    return " · ".join(facts)
