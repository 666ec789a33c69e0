"""``secondlook loop``: label, ask, train and measure in rounds, until it is good enough.

The commands open the loop's own store, as ``secondlook label`` made it; no server runs after the
images are labelled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import class_options, in_process_options, models_option, settings_of
from secondlook.cli.output import console, duration, table
from secondlook.cli.params import NamedNumber
from secondlook.config.entrypoint import (
    MORE,
    Command,
    CommandGroup,
    SectionedCommand,
    SectionOption,
    config_option,
    gentle_interrupts,
    setting_options,
)
from secondlook.config.extras import check_extras
from secondlook.config.settings import SOURCES
from secondlook.config.terminal import echo, print_json
from secondlook.selection.choices import Measure, Strategy
from secondlook.training.settings import TrainingSettings, load_settings
from secondlook_client.errors import Cancelled, NotFound, OutputExists
from secondlook_client.values import GroupBy

if TYPE_CHECKING:
    from collections.abc import Callable

    from secondlook.cli.output_folder import OutputFolder
    from secondlook.review.learning_loop import LoopStatus
    from secondlook.review.loop_record import LoopPlan, LoopRecord, Round, StopRules
    from secondlook.review.oracle import Oracle

LOOP_FILE = "loop.json"
PLATEAU = 3
TRAINED_WITH = ("size", "start", "steps", "input_width", "max_minutes")
"""The settings of a training that a loop takes."""
RULES = ("target", "budget", "stop", "plateau", "rounds")
"""Options that may change while a loop is under way; so may the next."""
ANSWERED_BY = "oracle"
WORK_UNITS_S = {"h": 3600.0, "min": 60.0, "s": 1.0}
MEASURES = (Measure.ENTROPY, Measure.MARGIN, Measure.LEAST_CONFIDENCE)
STRATEGIES = tuple(one for one in Strategy if one not in (Strategy.TRANSFER, Strategy.KEYFRAMES))


class WorkTime(click.ParamType):
    """Hours, minutes or seconds of work: ``2h``, ``90min``, ``600s``."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(h|min|s)", str(value))
        if match is None:
            self.fail(f"expected a time such as 2h, 90min or 600s, got '{value}'", param, ctx)
        return float(match[1]) * WORK_UNITS_S[match[2]]


class MapTarget(NamedNumber):
    """``map50=0.9``."""

    def __init__(self) -> None:
        super().__init__("map50=0.9")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, [0, 1]."""
        if isinstance(value, int | float):
            return float(value)
        name, number = super().convert(value, param, ctx)
        if name != "map50" or not 0 < number <= 1:
            self.fail(f"expected map50= and a number up to 1, got '{value}'", param, ctx)
        return number


@click.group("loop", cls=CommandGroup)
def loop_command() -> None:
    """Label, ask, train and measure in rounds, until a target, a budget or a plateau.

    Each round chooses images, asks people about their boxes, trains a student on what is known and
    measures it on images that are never chosen. A loop is a folder: everything in it is kept at
    once, and a loop that was stopped anywhere goes on there.
    """


def rule_options(command: Command) -> Command:
    """When a loop ends, and who answers."""
    options = (
        click.option(
            "--target",
            type=MapTarget(),
            metavar="map50=X",
            help="Stop when the lower end of the 95 % interval of mAP50 reaches X.",
        ),
        click.option(
            "--budget",
            type=WorkTime(),
            metavar="TIME",
            help="Stop when people have answered for so long (2h, 90min), held-out images too.",
        ),
        click.option(
            "--stop",
            type=click.Choice(["plateau"]),
            help="plateau: stop when --plateau rounds have brought nothing that can be told from "
            "chance. Without --target, --budget and --rounds that is the rule.",
        ),
        click.option(
            "--plateau",
            type=click.IntRange(1, 1000),
            metavar="N",
            help=f"Rounds of a plateau.  [default: {PLATEAU}]",
        ),
        click.option("--rounds", type=click.IntRange(1, 10_000), metavar="N", help="Stop after N."),
        click.option(
            "--oracle",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="A truth file (COCO) answers instead of a person.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@loop_command.command(
    "start",
    cls=SectionedCommand,
    examples=[
        'secondlook loop start photos/ --name street -c "car" --target map50=0.9',
        "secondlook loop start photos/ --name street --ontology a.yaml --budget 2h",
    ],
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="Name of the loop: the folder that it is kept in.",
)
@class_options
@rule_options
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Images that are asked about in a round.",
)
@click.option(
    "--held-out",
    type=click.IntRange(1, 100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Images, in whole scenes, that are asked about first, measured on, and never chosen.",
)
@click.option(
    "--strategy",
    type=click.Choice([one.value for one in STRATEGIES]),
    default=Strategy.BALANCE.value,
    show_default=True,
    metavar="STRATEGY",
    help="How images are chosen: as in `secondlook select`. committee: the students of the last "
    "rounds vote; expected-change: by the last student.",
)
@click.option(
    "--measure",
    type=click.Choice([one.value for one in MEASURES]),
    default=Measure.ENTROPY.value,
    show_default=True,
    cls=SectionOption,
    section=MORE,
    help="What mixed and uncertainty call uncertain.",
)
@click.option(
    "--embedder",
    default="demo",
    show_default=True,
    metavar="MODEL",
    help="Model that says which images are alike, as in `secondlook select`.",
)
@click.option(
    "--labels",
    type=click.Choice(["all", "reviewed"]),
    default="all",
    show_default=True,
    help="What a student learns. all: reviewed images, and what the models made of the others; "
    "reviewed: only images that people reviewed.",
)
@click.option(
    "--group-by",
    type=click.Choice([GroupBy.SIMILARITY.value, GroupBy.FOLDER.value]),
    default=GroupBy.SIMILARITY.value,
    show_default=True,
    help="What is one scene: near duplicates; folder: also the images of one folder.",
)
@click.option(
    "--seconds-per-answer",
    type=click.FloatRange(0, 3600),
    default=2.5,
    show_default=True,
    metavar="S",
    cls=SectionOption,
    section=MORE,
    help="What an answer takes a person, where the times of the answers do not tell.",
)
@click.option(
    "--seconds-per-box",
    type=click.FloatRange(0, 3600),
    default=7.0,
    show_default=True,
    metavar="S",
    cls=SectionOption,
    section=MORE,
    help="What drawing a missed box takes, likewise.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**20),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
@setting_options(TrainingSettings, only=TRAINED_WITH)
@models_option
@config_option
@in_process_options
def start(**flags: Any) -> int:
    """Begin a loop over IMAGES, or go on with it.

    The models label all images once. Then each round needs answers: without --oracle the command
    ends and says which queue to answer; the same command goes on. The exit code is 1 while answers
    are missing. The record, students and answers are in the folder --name, where the other
    commands find them too: `secondlook review ask`, `secondlook select`, `secondlook explain`.
    """
    return _go_on(flags["name"], _plain(flags))


@loop_command.command("resume", examples=["secondlook loop resume street --budget 3h"])
@click.argument("name", type=click.Path(path_type=Path))
@rule_options
def resume(name: Path, **rules: Any) -> int:
    """Go on with the loop NAME as it was begun; other rules may be given.

    Without one the rules are those of before.
    """
    check_extras("a learning loop", "serve", "distill")
    from secondlook.review.loop_record import read_record

    given = dict(read_record(name / LOOP_FILE).given)
    changed = {key: value for key, value in _plain(rules).items() if value is not None}
    if set(changed) & set(RULES):
        given |= dict.fromkeys(RULES)
    return _go_on(name, given | changed)


@loop_command.command(
    "show", examples=["secondlook loop show street", "secondlook loop show street --out curve.html"]
)
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with the curve of mAP50 over people's time; it is overwritten.",
)
def show(name: Path, as_json: bool, out: Path | None) -> None:
    """Show the rounds of the loop NAME: what they cost and what came of them."""
    check_extras("a learning loop", "serve")
    from secondlook.review.loop_page import loop_to_json, write_loop_page
    from secondlook.review.loop_record import read_record

    record = read_record(name / LOOP_FILE)
    if out:
        write_loop_page(out, record)
    if as_json:
        print_json(loop_to_json(record), indent=2)
        return
    _print_rounds(record)
    if out:
        echo(f"The curve: {out}")


def _plain(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Options as values for JSON, paths absolute."""
    return {key: _plain_value(value) for key, value in flags.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain_value(one) for one in value] if isinstance(value, tuple) else value


def _go_on(name: Path, given: dict[str, Any]) -> int:
    """Advance a loop; the exit code."""
    check_extras("a learning loop", "serve", "distill")
    from secondlook.cli.output_folder import OutputFolder
    from secondlook.review.loop_record import write_record
    from secondlook.review.oracle import Oracle

    rules = _rules(given)
    oracle = Oracle.from_truth(Path(given[ANSWERED_BY])) if given[ANSWERED_BY] else None
    with OutputFolder(name) as folder:
        record = _record(name, given)
        if not record.plan.run:
            plan = replace(record.plan, run=_labelled(folder, given))
            record = replace(record, plan=plan)
        write_record(name / LOOP_FILE, record)
        with gentle_interrupts("stopping; what is done is kept") as stopped:
            try:
                status = _advanced(folder, record, rules, oracle, stopped)
            except Cancelled as cause:
                raise KeyboardInterrupt(f"{cause}; the same command goes on") from cause
    _print_rounds(status.record)
    return _conclude(status, name)


def _rules(given: Mapping[str, Any]) -> "StopRules":
    from secondlook.review.loop_record import StopRules

    target, budget, stop, plateau, rounds = (given[key] for key in RULES)
    if plateau and not stop and (target or budget or rounds):
        raise click.UsageError("--plateau N needs --stop plateau")
    flat = bool(stop) or not (target or budget or rounds)
    return StopRules(target, budget, (plateau or PLATEAU) if flat else 0, rounds or 0)


def _record(name: Path, given: dict[str, Any]) -> "LoopRecord":
    """The record of a loop that goes on with these options, or of a new one.

    Raises ``OutputExists`` for a loop that was begun with others.
    """
    from secondlook.review.loop_record import LoopRecord, read_record, write_record

    plan = _plan(name, given)
    try:
        known = read_record(name / LOOP_FILE)
    except NotFound:
        record = LoopRecord(plan, given=given)
        write_record(name / LOOP_FILE, record)
        return record
    free = (*RULES, ANSWERED_BY)
    for key in sorted(set(given) | set(known.given)):
        if key not in free and known.given.get(key) != given.get(key):
            raise OutputExists(
                f"{name} has a loop that was begun with another {key.replace('_', '-')} "
                f"({known.given.get(key)}, now {given.get(key)}); `secondlook loop resume {name}` "
                "goes on as it was begun, another --name begins anew"
            )
    return replace(known, given=given)


def _plan(name: Path, given: Mapping[str, Any]) -> "LoopPlan":
    from secondlook.cli.review import queue_name
    from secondlook.review.loop_record import LabelUse, LoopPlan

    return LoopPlan(
        name=queue_name(name.resolve().name)[:150],
        run="",
        strategy=Strategy(given["strategy"]),
        measure=Measure(given["measure"]),
        batch=given["batch"],
        held_out=given["held_out"],
        labels=LabelUse(given["labels"]),
        group_by=GroupBy(given["group_by"]),
        seed=given["seed"],
        seconds_per_answer=given["seconds_per_answer"],
        seconds_per_box=given["seconds_per_box"],
    )


def _labelled(folder: "OutputFolder", given: Mapping[str, Any]) -> str:
    """Label all images into the loop's folder; the run."""
    from functools import partial

    from secondlook.cli.connection import (
        check_can_label,
        chosen_ontology,
        connected,
        warn_about_demo_models,
    )
    from secondlook.cli.label import check_has_image, label_into
    from secondlook.cli.options import ontology_of
    from secondlook.cli.output_folder import run_in
    from secondlook.core.image_folder import select_images

    settings = settings_of(_of(given, SOURCES.names))
    file = Path(given["ontology"]) if given["ontology"] else None
    wanted = chosen_ontology(ontology_of(given["lines"], file), settings)
    check_can_label(None, settings)
    selection = select_images([Path(one) for one in given["images"]], folder.path)
    check_has_image(selection)
    warn_about_demo_models(settings)
    with connected(None, settings, wanted, partial(folder.data_folder, False)) as session:
        label_into(folder, session, selection, formats=(), shown=0)
    return run_in(folder.path)


def _of(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options of these names, and the settings file."""
    return {name: given[name] for name in (*names, "config") if name in given}


def _advanced(
    folder: "OutputFolder",
    record: "LoopRecord",
    rules: "StopRules",
    oracle: "Oracle | None",
    stopped: "Callable[[], bool]",
) -> "LoopStatus":
    """Go on with a loop whose images are labelled."""
    from secondlook.cli.loop_models import LocalLoopModels
    from secondlook.review.learning_loop import LearningLoop
    from secondlook.store import open_store

    given = record.given
    settings = settings_of(_of(given, SOURCES.names))
    trained = {name: given[name] for name in TRAINED_WITH}
    with open_store(folder.store) as store:
        models = LocalLoopModels(
            store,
            store.results.run(record.plan.run),
            folder.path,
            settings,
            load_settings({**trained, "seed": record.plan.seed}),
            given["embedder"],
            record.plan.measure,
            stopped,
        )
        file = folder.path / LOOP_FILE
        loop = LearningLoop(
            store, folder.store, file, models, oracle, lambda told: echo(told, err=True), stopped
        )
        return loop.advance(record, rules)


def _conclude(status: "LoopStatus", name: Path) -> int:
    """Say how a loop stands; the exit code."""
    if status.waiting is None:
        echo(f"stopped: {status.record.stopped}")
        return 0
    left = status.waiting.total - status.waiting.answered
    echo(f"answers missing: {left:,}; answer the boxes, then go on:")
    echo(f"  secondlook review ask {status.waiting.name} {name}")
    echo(f"  secondlook loop resume {name}")
    return 1


def _print_rounds(record: "LoopRecord") -> None:
    numbers = ("images", "answers", "boxes", "time", "mAP50", "95 % interval")
    rows = table("round", "chosen by", *numbers, "student", right=numbers)
    cost = record.held_out_cost
    if record.rounds:
        cells = (f"{len(record.held_out):,}", f"{cost.answers:,}", f"{cost.boxes:,}")
        rows.add_row("held out", "", *cells, duration(cost.seconds), "", "", "")
    for one in record.rounds:
        if one.images:
            rows.add_row(*_cells(one))
    console().print(rows)


def _cells(one: "Round") -> Iterator[str]:
    yield str(one.number)
    yield one.strategy
    yield f"{len(one.images):,}"
    cost = one.cost
    yield from (
        (f"{cost.answers:,}", f"{cost.boxes:,}", duration(cost.seconds)) if cost else ("",) * 3
    )
    if one.measured:
        low, high = one.measured.interval
        yield from (f"{one.measured.map50:.3f}", f"{low:.3f}–{high:.3f}")
    else:
        yield from ("", "")
    yield one.student
