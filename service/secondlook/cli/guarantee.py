"""``secondlook guarantee``: name a precision, answer some questions, get it with a certificate.

The commands open a store themselves, without a server; no model runs.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.output import bar, console, counted, local_time, share, table
from secondlook.cli.params import limit_option
from secondlook.cli.store import STORE_FLAGS, opened_store, run_of, store_options
from secondlook.config.entrypoint import CommandGroup, setting_options
from secondlook.config.settings import ImageSettings
from secondlook.config.terminal import echo, print_json

if TYPE_CHECKING:
    from secondlook.jobs.guarantee_checks import ChecksStatus
    from secondlook.labeling.calibrator import Calibrator
    from secondlook.review.guarantees import GuaranteeStatus, Progress
    from secondlook.store import Store
    from secondlook.store.guarantees import GuaranteeRow
    from secondlook.store.runs import Run

UNITS = {"reading the run": "images", "deciding": "images", "answering": "answers"}
"""What is counted while it is done."""
SHOWN_WRONG = 200
"""Images with a wrong answer on the page of a certificate at most."""


@click.group("guarantee", cls=CommandGroup)
def guarantee_command() -> None:
    """Guarantee the precision of a run's labels, from a few hundred answers of a person.

    A guarantee says: of the labels from this limit on, at least 95 % are right, and this statement
    is true with 95 % confidence. It is made from answers about boxes that are drawn at random, with
    whole scenes as the unit, and it comes with a certificate. It says nothing about objects that
    were missed, nor about other kinds of scenes.
    """


@guarantee_command.command(
    "create",
    examples=[
        "secondlook guarantee create street --precision 0.95 --data data",
        "secondlook guarantee create labels --class dog --oracle truth.json",
    ],
)
@click.argument("run")
@click.option(
    "--precision",
    type=float,
    default=0.95,
    show_default=True,
    metavar="X",
    help="Share of the labels that shall be right at least, below 1.",
)
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    metavar="X",
    help="Probability with which that shall be true, below 1.",
)
@click.option(
    "-c",
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="Guarantee this class by itself. Repeat for more. Without it, all labels together.",
)
@click.option("--each-class", is_flag=True, help="Guarantee every class by itself.")
@click.option(
    "--filled",
    is_flag=True,
    help="Also guarantee boxes that `label --fill-gaps` filled in, by answers of their own.",
)
@click.option(
    "--promise",
    type=click.Choice(["scenes", "run"]),
    default="scenes",
    show_default=True,
    help="scenes: of boxes in scenes like those of this run. run: of the boxes of this run and no "
    "others, which takes fewer scenes.",
)
@click.option(
    "--budget",
    type=click.IntRange(1, 1_000_000),
    default=200,
    show_default=True,
    metavar="N",
    help="Maximum number of answers; of each class, where classes are guaranteed by themselves.",
)
@click.option(
    "--name",
    default="",
    metavar="NAME",
    help="Name of the guarantee.  [default: of the run, with the precision]",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="Random seed."
)
@click.option(
    "--calibrator",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="What ranks the boxes: auto (the run's own), none (the run's probabilities), or a "
    "calibrator of the store by name or digest.",
)
@click.option(
    "--oracle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="COCO file with the true boxes, which answers instead of a person.",
)
@click.option(
    "--oracle-iou",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    metavar="IOU",
    help="IoU with a true box from which --oracle calls a box right.",
)
@click.option(
    "--person",
    default="oracle",
    show_default=True,
    metavar="NAME",
    help="Who the answers of --oracle are stored under.",
)
@store_options
def create(
    run: str, oracle: Path | None, oracle_iou: float, person: str, name: str, **flags: Any
) -> int:
    """Guarantee the precision of RUN, or say which answers it still takes.

    RUN is a run or job of the store (--data), or the output folder of `secondlook label`. The first
    call draws the boxes to be asked about and makes a queue of them. Answer it with `secondlook
    review ask`, then give the same command again: it goes on from the answers there are, however
    often it was stopped, and writes the certificate once they are enough. With --oracle all of that
    is one call. An answer of 'unsure' counts as wrong. The exit code is 1 while answers are
    missing, and when nothing can be guaranteed.
    """
    folder, run = run_of(run, flags)
    terms = {key: flags.pop(key) for key in ("precision", "confidence", "budget", "promise")}
    classes, each, seed = (flags.pop(key) for key in ("classes", "each_class", "seed"))
    filled = flags.pop("filled")
    named = flags.pop("calibrator")
    if classes and each:
        raise click.UsageError("give --class or --each-class, not both")
    with opened_store({name: flags[name] for name in STORE_FLAGS}) as store, _bars() as progress:
        from secondlook.evaluation.guarantee import Promise, Terms
        from secondlook.review.guarantees import GuaranteeRequest, create_guarantee, default_name
        from secondlook.review.oracle import Oracle

        truth = Oracle.from_truth(oracle, oracle_iou) if oracle else None
        of_run = store.results.run(run)
        request = GuaranteeRequest(
            run,
            Terms(
                terms["precision"], terms["confidence"], terms["budget"], Promise(terms["promise"])
            ),
            of_run.ontology.names if each else classes,
            seed,
            filled,
        )
        name = name or default_name(folder.resolve().name if folder else run, request)
        status = create_guarantee(
            store, name, request, _calibrator(store, of_run, named), truth, person, progress
        )
    _print_status(status)
    _print_next(status, folder, flags)
    return 0 if status.holds else 1


def _calibrator(store: "Store", run: "Run", named: str) -> "Calibrator | None":
    """What ranks the boxes of ``run``."""
    from secondlook.cli.calibrators import NONE, find_calibrator
    from secondlook.review.guarantees import default_calibrator

    if named == NONE:
        return None
    if named == "auto":
        return default_calibrator(store, run)
    return find_calibrator(named, store)


@guarantee_command.command(
    "list",
    examples=[
        "secondlook guarantee list --data data",
    ],
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each.")
@store_options
def list_guarantees(folder: Path | None, limit: int, as_json: bool, **flags: Any) -> None:
    """List the guarantees of a store, the newest first. FOLDER is as for `guarantee show`."""
    with _store_in(folder, flags) as store:
        from secondlook.jobs.guarantee_checks import checks_status

        found = [(row, checks_status(store, row)) for row in store.guarantees.page(limit=limit)]
    if not as_json:
        _print_guarantees(found)
    for row, checks in found if as_json else ():
        print_json({**guarantee_json(row), "checks": asdict(checks) if checks else None})


@guarantee_command.command(
    "show",
    examples=[
        "secondlook guarantee show street-0.95 --data data",
        "secondlook guarantee show street-0.95 labels --page certificate.html",
        "secondlook guarantee show street-0.95 --doubtful doubtful.jsonl --data data",
    ],
)
@click.argument("name")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the certificate and its history as JSON; - prints them.",
)
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the certificate as an HTML page with the images of wrong labels.",
)
@click.option(
    "--doubtful",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the labels that jobs accepted from the time when a broken guarantee was last known "
    "to hold, one line of JSON each; - prints them.",
)
@setting_options(ImageSettings)
@store_options
def show(
    name: str,
    folder: Path | None,
    json_file: Path | None,
    page: Path | None,
    doubtful: Path | None,
    **flags: Any,
) -> None:
    """Show the guarantee NAME: what holds, by how many answers, and what is not guaranteed.

    FOLDER is the output folder of `secondlook label`; without it --data says where the store is.
    """
    printed = [one for one in (json_file, doubtful) if str(one) == "-"]
    if len(printed) > 1:
        raise click.UsageError("print one of --json and --doubtful, and write the other to a file")
    from secondlook.cli.options import settings_of

    limits = settings_of({**flags}).images
    with _store_in(folder, flags) as store:
        from secondlook.review.guarantees import guarantee_status

        status = guarantee_status(store, name)
        whole = status.to_json()
        if page:
            from secondlook.review.certificate_page import write_certificate

            write_certificate(page, store, status, SHOWN_WRONG, limits)
        if doubtful:
            _write_doubtful(store, name, doubtful)
        since = store.guarantees.doubtful_since(name)
    if json_file and str(json_file) == "-":
        print_json(whole, indent=2)
        return
    if json_file:
        from secondlook.core.files import replacing

        with replacing(json_file) as part:
            part.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if printed:
        return
    _print_status(status)
    for event in status.events:
        told = event.content.get("reason")
        echo(f"{local_time(event.created_at)}  {event.kind}" + (f": {told}" if told else ""))
    if since:
        moment = datetime.fromtimestamp(since, UTC).isoformat()
        echo(f"in doubt is what its jobs accepted after {moment}; --doubtful FILE lists it")
    for written in (json_file, page, doubtful):
        if written:
            echo(f"written: {written}")


def _write_doubtful(store: "Store", name: str, file: Path) -> None:
    """One line of JSON for each label that is in doubt; ``-`` prints them."""
    from secondlook.core.files import replacing
    from secondlook.review.doubtful_labels import doubtful_labels

    found = (asdict(one) for one in doubtful_labels(store, name))
    if str(file) == "-":
        for line in found:
            print_json(line)
        return
    with replacing(file) as part, part.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in found)


@guarantee_command.command(
    "apply",
    examples=[
        "secondlook guarantee apply street-0.95 --data data",
    ],
)
@click.argument("name")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--run",
    "new",
    default="",
    metavar="NEW",
    help="Name of the run that is made.  [default: NAME of the guarantee]",
)
@store_options
def apply(name: str, folder: Path | None, new: str, **flags: Any) -> None:
    """Decide a run again by the limits of the guarantee NAME, as the run NEW.

    No model runs. What reaches the limit of its class is accepted, and its precision is guaranteed;
    what does not is unsure. FOLDER is as for `guarantee show`.
    """
    with _store_in(folder, flags) as store, _bars() as progress:
        from secondlook.review.guarantees import apply_guarantee

        applied = apply_guarantee(store, name, new, progress)
    echo(
        f"{counted(applied.images, 'image')} decided again as '{applied.run}': of "
        f"{', '.join(applied.classes)} everything accepted is guaranteed, and the rest is unsure"
    )
    snapshot = f"secondlook snapshot create NEW --guarantee {shlex.quote(name)}"
    echo(f"freeze what is guaranteed: {snapshot}{_where(None, flags)}")


@guarantee_command.command(
    "withdraw",
    examples=[
        "secondlook guarantee withdraw street-0.95 --reason moved --data data",
    ],
)
@click.argument("name")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--reason", default="", metavar="TEXT", help="Kept in its history.")
@store_options
def withdraw(name: str, folder: Path | None, reason: str, **flags: Any) -> None:
    """Withdraw the guarantee NAME: from then on no snapshot is made under it.

    Its certificate and history stay, until `secondlook forget` removes its run. FOLDER is as for
    `guarantee show`.
    """
    with _store_in(folder, flags) as store:
        from secondlook.store.guarantees import GuaranteeState

        told = {"reason": reason[:2000]}
        store.guarantees.change(name, "withdrawn", told, state=GuaranteeState.WITHDRAWN)
    echo(f"withdrew the guarantee '{name}'; snapshots that were made under it stay as they are")


def _store_in(folder: Path | None, flags: dict[str, Any]) -> "Store":
    """The store of an output folder, or of ``--data``; ``flags`` keeps what says where it is."""
    if folder:
        from secondlook.cli.output_folder import store_of

        if flags["data"]:
            raise click.UsageError("give FOLDER or --data, not both")
        flags["data"] = str(store_of(folder))
    return opened_store({name: flags[name] for name in STORE_FLAGS})


def _where(folder: Path | None, flags: dict[str, Any]) -> str:
    """The arguments that name the same store to the next command."""
    if folder:
        return f" {shlex.quote(str(folder))}"
    return f" --data {shlex.quote(str(flags['data']))}" if flags.get("data") else ""


@contextmanager
def _bars() -> "Iterator[Progress]":
    """A function that shows what is done: (what, done, total); a bar for each ``what``."""
    with ExitStack() as shown:
        current, step = "", None

        def progress(what: str, done: int, total: int) -> None:
            nonlocal current, step
            if what != current or step is None:
                shown.close()
                current, step = what, shown.enter_context(bar(what, total, unit=UNITS[what]))
            step(done, total)

        yield progress


def guarantee_json(row: "GuaranteeRow") -> dict[str, Any]:
    """A guarantee of a list as values for JSON."""
    names = ("name", "run", "queue", "calibrator", "created_at", "updated_at")
    told = {name: getattr(row, name) for name in names}
    return {**told, "state": row.state.value, "settings": dict(row.settings)}


def _print_guarantees(found: "Sequence[tuple[GuaranteeRow, ChecksStatus | None]]") -> None:
    from rich.text import Text

    rows = table("guarantee", "run", "precision", "confidence", "state", "since", "checks of jobs")
    for row, checks in found:
        rows.add_row(
            Text(row.name),
            Text(row.run),
            f"{row.settings['target']:g}",
            f"{row.settings['confidence']:g}",
            row.state.value,
            local_time(row.updated_at),
            str(checks or ""),
        )
    console().print(rows)


def _print_status(status: "GuaranteeStatus") -> None:
    from rich.text import Text

    from secondlook.review.guarantees import STATE_WORDS

    screen, row = console(), status.row
    certificate = status.certificate
    title = f"guarantee '{row.name}' of the run '{row.run}': {STATE_WORDS[row.state]}"
    screen.print(title, style="bold", highlight=False, soft_wrap=True)
    if certificate is None:
        screen.print(f"answered so far: {status.answered:,} of at most {status.asked:,} questions")
        return
    terms = certificate.terms
    screen.print(
        f"asked for: precision {terms.target:g} with confidence {terms.confidence:g}, "
        f"{counted(certificate.images, 'image')}, {counted(certificate.scenes, 'scene')}, "
        f"{certificate.boxes:,} boxes that could be labels",
        highlight=False,
        soft_wrap=True,
    )
    numbers = ("from P(right)", "proven", "accepted", "coverage", "answers", "wrong", "unsure")
    rows = table("class", *numbers, right=numbers)
    for result in certificate.results:
        holds = result.threshold is not None
        rows.add_row(
            Text(result.class_name or "all together"),
            f"{result.threshold:.3f}" if result.threshold is not None else "–",
            share(result.bound) if holds else "–",
            f"{result.accepted:,}" if holds else "–",
            share(result.coverage) if holds else "–",
            f"{result.answers:,}",
            f"{result.wrong - result.unsure:,}",
            f"{result.unsure:,}",
        )
    screen.print(rows)
    for result in certificate.results:
        if not result.holds:
            what = result.class_name or "not guaranteed"
            screen.print(f"{what}: {result.reason}", highlight=False, style="yellow")
    screen.print("not guaranteed in any case:", highlight=False)
    for sentence in certificate.not_guaranteed:
        screen.print(f"  {sentence}", highlight=False, soft_wrap=True)


def _print_next(status: "GuaranteeStatus", folder: Path | None, flags: dict[str, Any]) -> None:
    """What to do now."""
    where, name = _where(folder, flags), shlex.quote(status.row.name)
    if not status.certified:
        echo(f"answer its questions: secondlook review ask {status.row.queue}{where}")
        echo("then give the same command again; it says when the answers are enough")
    elif status.holds:
        echo(f"look at it: secondlook guarantee show {name}{where} --page certificate.html")
        echo(f"label by it: secondlook guarantee apply {name}{where}")
