"""``secondlook uncertainty``: how uncertain labels are, by more than their probability.

The command measures a stored run and keeps what it finds; with a truth file it compares the
methods. Opens a store itself, without a server.
"""

import atexit
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import in_process_options, models_option, settings_of
from secondlook.cli.output import bar, console, counted, share, table
from secondlook.cli.ray_runs import look_elsewhere, ray_options
from secondlook.cli.store import STORE_FLAGS, opened_store, run_of, store_options
from secondlook.config.entrypoint import SectionedCommand, gentle_interrupts
from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.stop_signals import INTERRUPTED
from secondlook.config.terminal import echo, print_json
from secondlook_client.errors import NotFound
from secondlook_client.ontology import Ontology
from secondlook_client.uncertainties import UncertaintyMethod

if TYPE_CHECKING:
    from secondlook.cli.ray_runs import LookElsewhere
    from secondlook.config.settings import Settings
    from secondlook.evaluation.uncertainty_sources import Detect, UncertaintySource
    from secondlook.review.uncertainty import Measured, UncertaintyReport
    from secondlook.review.visited_images import LookAt, LookAtBatches, Visit
    from secondlook.store import Store
    from secondlook.store.blobs import Blobs
    from secondlook.store.runs import Run
    from secondlook.store.uncertainties import MethodCount
    from secondlook.training.torch_student import TorchStudent

MOST_VIEWS = 6
MANIFEST = "manifest.json"
"""Of a student that was exported to ONNX."""


@click.command(
    "uncertainty",
    cls=SectionedCommand,
    examples=[
        "secondlook uncertainty labels",
        "secondlook uncertainty labels --method committee --student student",
        "secondlook uncertainty street --data data --truth truth.json",
    ],
)
@click.argument("run")
@click.option(
    "--method",
    "methods",
    type=click.Choice([one.value for one in UncertaintyMethod]),
    multiple=True,
    help="Measure by this method; repeat for more. monte-carlo asks the models again on other "
    "views and in other words, committee compares them with --student, and distribution reads how "
    "--student spreads the edges of a box. Without it, show what was measured.",
)
@click.option(
    "--student",
    default="",
    metavar="FOLDER",
    help="The --out of `secondlook distill`; demo is the embedded student of the demo world.",
)
@click.option(
    "--views",
    type=click.IntRange(0, MOST_VIEWS),
    default=3,
    show_default=True,
    metavar="N",
    help="Further views on which monte-carlo asks both models.",
)
@click.option(
    "--wording",
    "wordings",
    multiple=True,
    metavar="TEXT",
    help="Question that monte-carlo asks the verifier beside a class's own, with {} for the class; "
    "repeat for more.  [default: Is this {}?, Is there {} here?, Can you see {}?]",
)
@click.option("--again", is_flag=True, help="Measure also what was measured by the same models.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="COCO file with the true boxes: compare how well each method finds wrong labels.",
)
@click.option(
    "--iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    metavar="X",
    help="IoU with a true box from which --truth calls a label right.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("uncertainty.html"),
    show_default=True,
    help="HTML page with the most uncertain images; it is overwritten.",
)
@click.option(
    "--gallery",
    "shown",
    type=click.IntRange(0, 600),
    default=120,
    show_default=True,
    metavar="N",
    help="Maximum number of images on the page; 0 writes no page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image.")
@store_options
@models_option
@ray_options
@in_process_options
def uncertainty_command(
    run: str,
    ray: str | None,
    methods: tuple[str, ...],
    student: str,
    views: int,
    wordings: tuple[str, ...],
    again: bool,
    truth: Path | None,
    iou: float,
    out: Path,
    shown: int,
    as_json: bool,
    **flags: Any,
) -> int:
    """Measure how uncertain each box and image of RUN is, in up to three ways.

    RUN is a run or job of the store (--data), or the output folder of `secondlook label`. What is
    measured is kept with the run: `secondlook explain` shows it beside the label, and `secondlook
    review start RUN --order uncertainty` asks by it. After Ctrl-C the same command goes on. For
    monte-carlo give the run's own --proposer and --verifier; it takes as long as labelling the
    images again several times. With --ray the machines of a Ray cluster do it. The exit code is 1
    when an image could not be measured.
    """
    wanted = [UncertaintyMethod(one) for one in dict.fromkeys(methods)]
    if student == "" and set(wanted) - {UncertaintyMethod.MONTE_CARLO}:
        raise click.UsageError("committee and distribution need a student: give --student FOLDER")
    elsewhere = look_elsewhere(ray, flags)
    places = {name: flags[name] for name in STORE_FLAGS}
    settings = settings_of({**flags})
    _, name = run_of(run, places)
    failures = 0
    with opened_store(places) as store:
        of_run = store.results.run(name)
        for method in wanted:
            source = OpenSource(method, settings, student, views, wordings)
            with _measuring(store, of_run, source, elsewhere) as (name, look):
                done = _measure(store, of_run, (method, name), look, again)
            if done.stopped:
                return INTERRUPTED
            failures += done.failures
        _show(store, of_run, truth, iou, out, shown, as_json, settings)
    return 1 if failures else 0


def _measure(
    store: "Store",
    run: "Run",
    by: tuple[UncertaintyMethod, str],
    look: "LookAtBatches[Measured]",
    again: bool,
) -> "Visit":
    """Measure by one method and source, and say what came of it."""
    from secondlook.review.uncertainty import measure_run

    method, source = by
    with (
        gentle_interrupts() as stopped,
        bar(method.value, store.results.count(run.id)) as progress,
    ):
        done = measure_run(store, run, by, look, again=again, progress=progress, stopped=stopped)
    before = f"; {done.before:,} had been before" if done.before else ""
    echo(f"{method}: {counted(done.measured, 'image')} measured{before}", err=True)
    models = " → ".join(filter(None, (run.proposer, run.verifier)))
    if method is UncertaintyMethod.MONTE_CARLO and not source.startswith(models):
        echo(f"note: the run was labelled by other models: {models}", err=True)
    tell_failures("not measured", done)
    return done


def tell_failures(what: str, done: "Visit") -> None:
    """The images of a visit that could not be read, each with its reason, as far as kept."""
    for problem in done.failed:
        echo(f"{what}: {problem}", err=True)
    if done.failures > len(done.failed):
        echo(f"… and {done.failures - len(done.failed):,} more", err=True)


@dataclass(frozen=True)
class OpenSource:
    """Opens what measures by a method; loading its models is the slow part."""

    method: UncertaintyMethod
    settings: "Settings"
    student: str
    views: int
    wordings: "Sequence[str]"

    @contextmanager
    def opened(self) -> "Iterator[UncertaintySource]":
        """Raises what loading the models raises."""
        from secondlook.evaluation.uncertainty_sources import (
            WORDINGS,
            Committee,
            EdgeDistribution,
            MonteCarlo,
        )

        if self.method is UncertaintyMethod.MONTE_CARLO:
            check_extras("running models here", *extras_of_models(self.settings))
            from secondlook.cli.local_service import running_engine
            from secondlook.server.metrics import Metrics

            fixed = {"calibrator": "none", "verify_budget": "all", "student": ""}
            with running_engine(self.settings.replace(**fixed), Metrics()) as engine:
                yield MonteCarlo(engine.pipeline, self.views, self.wordings or WORDINGS)
        elif self.method is UncertaintyMethod.DISTRIBUTION:
            yield EdgeDistribution(opened_torch_student(self.student))
        else:
            with opened_detector(self.student) as (detect, classes, name):
                yield Committee(detect, classes, name)


@dataclass(frozen=True)
class OpenOnCluster:
    """Opens a source on a machine of a cluster, until its process ends."""

    source: OpenSource
    ontology: Ontology
    blobs: "Blobs"

    def __call__(self) -> "tuple[str, LookAt[Measured]]":
        """The source's name, and what looks at batches of results by it."""
        from secondlook.review.uncertainty import MeasureImages
        from secondlook.review.visited_images import LookAt

        opened = ExitStack()
        source = opened.enter_context(self.source.opened())
        atexit.register(opened.close)
        look = MeasureImages(source, self.ontology)
        return source.source, LookAt(self.blobs, self.source.settings.images, look)


@contextmanager
def _measuring(
    store: "Store", run: "Run", source: OpenSource, elsewhere: "LookElsewhere | None"
) -> "Iterator[tuple[str, LookAtBatches[Measured]]]":
    """The name of a source, and what looks at images by it."""
    from secondlook.review.uncertainty import MeasureImages
    from secondlook.review.visited_images import looks_here

    if elsewhere:
        with elsewhere(OpenOnCluster(source, run.ontology, store.blobs)) as opened:
            yield opened
        return
    with source.opened() as here:
        look = MeasureImages(here, run.ontology)
        yield here.source, looks_here(store.blobs, source.settings.images, look)


def opened_torch_student(folder: str) -> "TorchStudent":
    """The student in a folder, in torch. Raises ``MissingExtra`` and as ``TorchStudent.open``."""
    check_extras("running a student in torch", "serve")
    from secondlook.training.torch_student import TorchStudent

    return TorchStudent.open(folder)


@contextmanager
def opened_detector(folder: str) -> "Iterator[tuple[Detect, Sequence[str], str]]":
    """A student for the committee: its ONNX model where there is one, else torch."""
    from secondlook.evaluation.uncertainty_sources import STUDENT_FLOOR

    if not (Path(folder) / MANIFEST).is_file():
        student = opened_torch_student(folder)
        yield lambda images: student.detect(images, STUDENT_FLOOR), student.classes, student.name
        return
    check_extras("running a student", "edge")
    from secondlook.detector.trial import open_tried

    with closing(open_tried(Path(folder), "fp32")) as detector:
        known = detector.manifest
        name = f"student {known.name}@{known.digest[:12]}"
        yield lambda images: detector.detect(images, STUDENT_FLOOR), known.classes, name


def _show(
    store: "Store",
    run: "Run",
    truth: Path | None,
    iou: float,
    out: Path,
    shown: int,
    as_json: bool,
    settings: "Settings",
) -> None:
    """Print what was measured, compare it with a truth, and write the page."""
    from secondlook.review.oracle import Oracle
    from secondlook.review.uncertainty import measured_images, report_on
    from secondlook.review.uncertainty_page import write_uncertainty_page

    known = store.uncertainties.methods(run.id)
    if not known:
        raise NotFound(
            f"the uncertainty of run '{run.name}' was not measured; measure it with --method "
            f"{UncertaintyMethod.MONTE_CARLO}"
        )
    report = report_on(store, run, Oracle.from_truth(truth, iou)) if truth else None
    if as_json:
        for one in measured_images(store, run):
            print_json(one.to_dict())
    else:
        _print_methods(known, store.results.count(run.id))
        if report:
            _print_report(report)
    if shown:
        write_uncertainty_page(out, store, run, report, shown, settings.images)
        if not as_json:
            echo(f"The most uncertain images, and why: {out}")


def _print_methods(known: "Sequence[MethodCount]", total: int) -> None:
    rows = table("method", "images", "measured by", right=("images",))
    for one in known:
        rows.add_row(one.method.value, f"{one.results:,} of {total:,}", one.source)
    console().print(rows)


def _print_report(report: "UncertaintyReport") -> None:
    """AUROC and area of each method, with those of the plain probability first."""
    numbers = ("AUROC of labels", "area", "AUROC of images")
    rows = table("confidence", *numbers, right=numbers)
    for one in report.rows:
        rows.add_row(one.name, share(one.auroc), f"{one.area:.4f}", share(one.image_auroc))
    screen = console()
    screen.print(rows)
    screen.print(report.sentence, highlight=False, markup=False, soft_wrap=True)
