"""``secondlook select``: which images of a run to ask people about next, and why.

Opens a store itself, without a server. What images look like to an embedder is kept in the store.
"""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import settings_of
from secondlook.cli.output import bar, console, counted, table
from secondlook.cli.ray_runs import look_elsewhere, ray_options
from secondlook.cli.store import STORE_FLAGS, opened_store, run_of, store_options
from secondlook.cli.uncertainty import opened_detector, opened_torch_student, tell_failures
from secondlook.config.entrypoint import (
    SectionedCommand,
    complete_models,
    gentle_interrupts,
    setting_options,
)
from secondlook.config.extras import EXTRAS, check_extras
from secondlook.config.settings import EMBEDDERS, ImageSettings, ModelSettings
from secondlook.config.stop_signals import INTERRUPTED
from secondlook.config.terminal import echo, print_json
from secondlook.selection.choices import Measure, Strategy
from secondlook_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from secondlook.cli.ray_runs import LookElsewhere
    from secondlook.config.settings import Settings
    from secondlook.labeling.embedder import Embedder
    from secondlook.review.embedded_images import Embedded
    from secondlook.review.image_pool import RunPool
    from secondlook.review.visited_images import LookAt, LookAtBatches, Visit
    from secondlook.selection.strategies import PoolSelection
    from secondlook.store import Store
    from secondlook.store.blobs import Blobs
    from secondlook.store.runs import Run

DEMO = "demo"
SHOWN_ROWS = 30
"""Chosen images in the table; all are in --out and in the --json."""
NEEDED = ("device", "dtype", "threads", "model_batch", *ImageSettings.specs())
"""The settings that an embedder has a use for."""
FORMATS = (".txt", ".json", ".html")
GALLERY = 300
"""Most images on the page."""


@click.command(
    "select",
    cls=SectionedCommand,
    examples=[
        "secondlook select labels --count 50",
        "secondlook select labels --embedder facebook/dinov2-small --out chosen.html",
        "secondlook select street --data data --strategy transfer --target night/",
        "secondlook select street --data data --strategy diversity --ray auto",
    ],
)
@click.argument("run")
@click.option(
    "--count",
    type=click.IntRange(1, 10**6),
    default=50,
    show_default=True,
    metavar="N",
    help="Images to choose.",
)
@click.option(
    "--strategy",
    type=click.Choice([one.value for one in Strategy]),
    default=Strategy.MIXED.value,
    show_default=True,
    metavar="STRATEGY",
    help="mixed: uncertain, more so for difficult classes, then unlike each other; uncertainty; "
    "committee: proposer and verifier, or some --student, disagree; expected-change: what would "
    "change the --student most; diversity: unlike all before; density: typical of many; transfer: "
    "like --target; balance: rare classes and rare kinds of scenes; keyframes: of a run with "
    "tracks, the few frames that show each and what happens to it; random.",
)
@click.option(
    "--measure",
    type=click.Choice([one.value for one in Measure]),
    default=Measure.ENTROPY.value,
    show_default=True,
    metavar="MEASURE",
    help="What mixed and uncertainty call uncertain: entropy, margin, least-confidence; or what "
    "`secondlook uncertainty` measured: monte-carlo, committee, distribution.",
)
@click.option(
    "--embedder",
    default=DEMO,
    show_default=True,
    metavar="MODEL",
    help="Model that says which images are alike: demo (synthetic scenes only), a vision "
    "backbone's folder or org/name such as facebook/dinov2-small, efficientnet-lite, "
    "NAME[:ARGUMENT].",
    shell_complete=lambda ctx, option, typed: complete_models(typed, EMBEDDERS),
)
@click.option(
    "--by-boxes",
    is_flag=True,
    help="An image is what its boxes look like, not what it looks like as a whole.",
)
@click.option(
    "--target",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Images of the place or time that the labels are for, for --strategy transfer.",
)
@click.option(
    "--student",
    "students",
    multiple=True,
    metavar="FOLDER",
    help="The --out of `secondlook distill`: one for expected-change; two to eight that vote for "
    "committee, each with its own --student.",
)
@click.option("--again", is_flag=True, help="Embed also what was embedded by the same model.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what was chosen: .txt has one name a line, .json the reasons too, .html the "
    "images with their boxes. It is overwritten.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image.")
@store_options
@ray_options
@setting_options(ModelSettings, ImageSettings, only=NEEDED)
def select_command(
    run: str,
    ray: str | None,
    count: int,
    strategy: str,
    measure: str,
    embedder: str,
    by_boxes: bool,
    target: Path | None,
    students: tuple[str, ...],
    again: bool,
    seed: int,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Choose the images of RUN that are worth a person's time next, each with its reason.

    RUN is a run or job of the store (--data), or the output folder of `secondlook label`. Images
    that people have reviewed are not chosen; diversity and density stay away from what is like
    them. What an embedder says of an image is kept, so that only the first command is slow; after
    Ctrl-C the same command goes on.
    """
    how = Strategy(strategy)
    if (target is not None) != (how is Strategy.TRANSFER):
        raise click.UsageError("give --target FOLDER with --strategy transfer, and only with it")
    _check_students(how, students)
    if ray and not how.needs_vectors:
        raise click.UsageError(f"--ray is for strategies that compare images; {how} does not")
    if out and out.suffix not in FORMATS:
        raise click.UsageError(f"--out ends in one of {', '.join(FORMATS)}")
    elsewhere = look_elsewhere(ray, flags)
    settings = settings_of({**flags})
    places = {name: flags[name] for name in STORE_FLAGS}
    _, name = run_of(run, places)
    with opened_store(places) as store, gentle_interrupts() as stopped:
        from secondlook.core.files import check_can_write
        from secondlook.selection.strategies import choose_images

        if out:
            check_can_write(out)
        of_run = store.results.run(name)
        voted = how is Strategy.COMMITTEE and bool(students)
        if voted and ask_committee(store, of_run, students, settings, stopped).stopped:
            return INTERRUPTED
        by = _measure(store, of_run, how, Measure(measure))
        looks = Looks(embedder, by_boxes, target, again, elsewhere) if how.needs_vectors else None
        found = opened_pool(store, of_run, by, looks, settings, stopped)
        if found is not None and how is Strategy.KEYFRAMES:
            found = _with_moments(store, of_run, found, settings)
        if found is not None and how is Strategy.EXPECTED_CHANGE:
            found = with_changes(store, of_run, found, students[0], settings, stopped)
        if found is None:
            return INTERRUPTED
        selection = choose_images(found.pool, how, count, measure=by, seed=seed)
        _show(found, selection, as_json)
        if out:
            _write(out, store, of_run, found, selection, settings)
            if not as_json:
                echo(f"What was chosen: {out}")
    return 0


def _check_students(how: Strategy, students: tuple[str, ...]) -> None:
    """Raises ``click.UsageError`` for students that a strategy has no use for, or lacks."""
    if how is Strategy.EXPECTED_CHANGE and len(students) != 1:
        raise click.UsageError("--strategy expected-change needs one --student FOLDER")
    if students and how not in (Strategy.EXPECTED_CHANGE, Strategy.COMMITTEE):
        raise click.UsageError("--student is for --strategy committee and expected-change")
    if how is Strategy.COMMITTEE and len(students) == 1:
        raise click.UsageError(
            "a committee has two students at least; one with proposer and verifier: `secondlook "
            "uncertainty --method committee --student FOLDER`, then --strategy committee alone"
        )


@dataclass(frozen=True)
class Looks:
    """How images are compared."""

    embedder: str
    by_boxes: bool
    target: Path | None = None
    again: bool = False
    elsewhere: "LookElsewhere | None" = None
    """Embeds the images of the run; None: this process does."""


def _measure(store: "Store", run: "Run", how: Strategy, measure: Measure) -> Measure:
    """What is read of the store: for a committee, what was measured with a student if it was.

    Raises ``InvalidInput`` for what was not measured.
    """
    from secondlook.review.image_pool import check_measured

    if how is Strategy.COMMITTEE:
        known = {one.method.value for one in store.uncertainties.methods(run.id)}
        return Measure.COMMITTEE if Measure.COMMITTEE in known else Measure.ENTROPY
    if how in (Strategy.MIXED, Strategy.UNCERTAINTY):
        check_measured(store, run, measure)
        return measure
    return Measure.ENTROPY


def opened_pool(
    store: "Store",
    run: "Run",
    measure: Measure,
    looks: Looks | None,
    settings: "Settings",
    stopped: "Callable[[], bool]",
    left_out: "Collection[str]" = (),
) -> "RunPool | None":
    """The pool of a run, embedded where ``looks`` says how; None when that was stopped.

    ``left_out`` as in ``read_pool``.
    """
    from secondlook.review.image_pool import read_pool

    if looks is None:
        return read_pool(store, run, measure=measure, left_out=left_out)
    from secondlook.review.embedded_images import embed_files

    target = None
    if looks.target:
        embedder = opened_embedder(looks.embedder, settings)
        target = embed_files(looks.target, embedder, settings.images)
    with _embedding(store, looks, settings) as (model, look):
        if _embed(store, run, model, look, looks, stopped):
            return None
    found = read_pool(
        store, run, measure=measure, model=model, by_boxes=looks.by_boxes, left_out=left_out
    )
    if target is None:
        return found
    for problem in target.failed:
        echo(f"not embedded: {problem}", err=True)
    pool = replace(found.pool, target=target.vectors, target_names=target.names)
    return replace(found, pool=pool)


def ask_committee(
    store: "Store",
    run: "Run",
    students: "Sequence[str]",
    settings: "Settings",
    stopped: "Callable[[], bool]",
) -> "Visit":
    """Let students vote on the boxes of a run, and keep how far they disagree.

    What is kept takes the place of what `secondlook uncertainty --method committee` measured.
    """
    from secondlook.evaluation.student_committee import Member, StudentCommittee
    from secondlook.review.uncertainty import MeasureImages, measure_run
    from secondlook.review.visited_images import looks_here

    with ExitStack() as stack:
        opened = [stack.enter_context(opened_detector(folder)) for folder in students]
        committee = StudentCommittee([Member(*one) for one in opened])
        progress = stack.enter_context(bar("voting", store.results.count(run.id)))
        look = looks_here(store.blobs, settings.images, MeasureImages(committee, run.ontology))
        by = committee.method, committee.source
        done = measure_run(store, run, by, look, progress=progress, stopped=stopped)
    tell_failures("not voted on", done)
    return done


def with_changes(
    store: "Store",
    run: "Run",
    found: "RunPool",
    student: str,
    settings: "Settings",
    stopped: "Callable[[], bool]",
) -> "RunPool | None":
    """The pool with what each image would change a student; None when that was stopped."""
    from secondlook.review.expected_changes import measure_changes

    change = opened_torch_student(student).expected_change
    with bar("measuring changes", store.results.count(run.id)) as progress:
        measured, done = measure_changes(
            store, run, found, change, settings.images, progress, stopped
        )
    tell_failures("not measured", done)
    return None if done.stopped else measured


def _with_moments(store: "Store", run: "Run", found: "RunPool", settings: "Settings") -> "RunPool":
    """The pool with what its images show of tracks."""
    from secondlook.review.keyframes import with_moments

    with bar("looking at tracks", store.results.count(run.id)) as progress:
        return with_moments(store, run, found, settings.images, progress)


def opened_embedder(spec: str, settings: "Settings") -> "Embedder":
    """The embedder; loading it is the slow part."""
    own = [name for name in [spec.strip().partition(":")[0]] if name in EXTRAS]
    check_extras("comparing images", "serve", *own)
    from secondlook.models.registry import load_embedder, prepare_process

    prepare_process(settings.models)
    return load_embedder(spec, settings.models)


@dataclass(frozen=True)
class OpenEmbedder:
    """Opens an embedder where it is called, here or on a machine of a cluster."""

    spec: str
    boxes: bool
    settings: "Settings"
    blobs: "Blobs"

    def __call__(self) -> "tuple[str, LookAt[Embedded]]":
        """Its ``name@digest``, and what looks at batches of results by it."""
        from secondlook.labeling.embedder import model_of
        from secondlook.review.embedded_images import EmbedImages
        from secondlook.review.visited_images import LookAt

        embedder = opened_embedder(self.spec, self.settings)
        look = EmbedImages(embedder, self.boxes)
        return model_of(embedder), LookAt(self.blobs, self.settings.images, look)


@contextmanager
def _embedding(
    store: "Store", looks: Looks, settings: "Settings"
) -> "Iterator[tuple[str, LookAtBatches[Embedded]]]":
    """The embedder's ``name@digest``, and what looks at images by it."""
    if looks.embedder == DEMO:
        echo(
            "note: the embedded demo embedder knows only the synthetic images of `secondlook "
            "world`; for photos name another with --embedder",
            err=True,
        )
    opening = OpenEmbedder(looks.embedder, looks.by_boxes, settings, store.blobs)
    if looks.elsewhere:
        with looks.elsewhere(opening) as opened:
            yield opened
    else:
        model, look_at = opening()
        yield model, partial(map, look_at)


def _embed(
    store: "Store",
    run: "Run",
    model: str,
    look: "LookAtBatches[Embedded]",
    looks: Looks,
    stopped: "Callable[[], bool]",
) -> bool:
    """Embed what is not yet, and say what came of it; whether it was stopped."""
    from secondlook.review.embedded_images import embed_run

    with bar("embed", store.results.count(run.id)) as progress:
        done = embed_run(
            store,
            run,
            model,
            look,
            boxes=looks.by_boxes,
            again=looks.again,
            progress=progress,
            stopped=stopped,
        )
    tell_failures("not embedded", done)
    return done.stopped


def _show(found: "RunPool", selection: "PoolSelection", as_json: bool) -> None:
    """Print what was chosen, and what to think of it."""
    if selection.advice:
        echo(f"note: {selection.advice}", err=True)
    if as_json:
        for rank in range(len(selection.chosen)):
            print_json(_row(found, selection, rank))
        return
    rows = table("", "image", "why", right=("",))
    for rank, one in enumerate(selection.chosen[:SHOWN_ROWS], start=1):
        rows.add_row(str(rank), found.images[one.place].name, one.reason)
    screen = console()
    screen.print(rows)
    more = len(selection.chosen) - SHOWN_ROWS
    reviewed = f"; {found.reviewed:,} more are reviewed already" if found.reviewed else ""
    echo(
        (f"… and {more:,} more\n" if more > 0 else "")
        + f"{len(selection.chosen):,} of {counted(selection.pool, 'image')} by {selection.strategy}"
        + reviewed
    )


def _row(found: "RunPool", selection: "PoolSelection", rank: int) -> dict[str, Any]:
    """One chosen image as plain values for JSON."""
    one = selection.chosen[rank]
    image = found.images[one.place]
    return {
        "rank": rank + 1,
        "image": image.name,
        "sha256": image.sha256,
        "value": round(one.value, 6),
        "reason": one.reason,
    }


def _write(
    out: Path,
    store: "Store",
    run: "Run",
    found: "RunPool",
    selection: "PoolSelection",
    settings: "Settings",
) -> None:
    """Write the list, or the page. Raises ``InvalidInput`` for what a list cannot hold."""
    from secondlook.core.files import explain_write_errors, replacing
    from secondlook.review.selection_page import write_selection_page

    if out.suffix == ".html":
        write_selection_page(out, store, run, found, selection, GALLERY, settings.images)
        return
    rows = [_row(found, selection, rank) for rank in range(len(selection.chosen))]
    if out.suffix == ".json":
        about = {"run": run.name, "strategy": selection.strategy.value, "pool": selection.pool}
        text = json.dumps({**about, "chosen": rows}, ensure_ascii=False, indent=1)
    else:
        text = "".join(f"{row['image']}\n" for row in rows)
        if len(text.splitlines()) != len(rows):
            raise InvalidInput("an image's name has a line break in it; write a .json file")
    with explain_write_errors(out), replacing(out) as part:
        part.write_text(text, encoding="utf-8")
