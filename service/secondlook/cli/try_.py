"""``secondlook try``: is this a good prompt? Every stage's scores on a handful of images."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import looked_for, models, ontology_of, settings_of
from secondlook.core.errors import InvalidInput, SecondlookError

if TYPE_CHECKING:
    from rich.console import Console

    from secondlook.cli.connection import Session
    from secondlook.core.image_folder import Selection, Source
    from secondlook.core.images import ImageLimits
    from secondlook.core.ontology import Ontology
    from secondlook_client.results import Judgement, LabelResult

HANDFUL = 50
STYLES = {"accept": "cyan", "reject": "dark_orange3", "unsure": "yellow"}


@click.command("try")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@looked_for
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("try.html"),
    show_default=True,
    help="Page with the images and their boxes; overwritten.",
)
@models
def try_command(
    images: tuple[Path, ...],
    lines: tuple[str, ...],
    ontology: Path | None,
    out: Path,
    server: str | None,
    **flags: Any,
) -> int:
    """Show what both stages say about IMAGES, so that a prompt can be judged.

    Every box above its class's threshold is listed with the proposer's score, P(yes), the
    verifier's own words and what was decided. The images with their boxes go to --out.
    """
    from secondlook.cli.connection import connected, say_what_demo_knows
    from secondlook.cli.output import console
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.core.image_folder import select

    settings = settings_of(flags)
    selection = select(images)
    sources = _handful(selection)
    screen = console()
    if not server:
        say_what_demo_knows(settings)
    with connected(server, settings, ontology_of(lines, ontology)) as session:
        _print_prompt(screen, session.ontology)
        with gentle_interrupts() as stopped:
            wanted = itertools.takewhile(lambda _: not stopped(), sources)
            found = _label(screen, session, wanted)
    if not found:
        return 1
    _write_page(out, selection, found, session.image_limits)
    screen.print(f"\nThe images with their boxes: {out}", highlight=False, markup=False)
    return 0


def _label(
    screen: "Console", session: "Session", sources: "Iterable[Source]"
) -> "dict[str, LabelResult]":
    """The results by name, each printed as it comes."""
    found = {}
    readable = _readable(screen, sources, session.image_limits.max_bytes)
    for source, answer in session.label_many(readable):
        if isinstance(answer, Exception):
            _print_failure(screen, source, answer)
        else:
            found[source.name] = answer
            _print_result(screen, source.name, answer)
    return found


def _write_page(
    out: Path, selection: "Selection", found: "dict[str, LabelResult]", limits: "ImageLimits"
) -> None:
    from secondlook.cli.output_folder import loader
    from secondlook.evaluation.run_stats import Totals
    from secondlook.reports import gallery

    shown = gallery.pick(found.items(), HANDFUL)
    totals = Totals.of(found.values())
    gallery.write(out, "secondlook try", totals, shown, loader(selection.root, limits))


def _handful(selection: "Selection") -> "list[Source]":
    sources = []
    for source in selection.walk():
        sources.append(source)
        if len(sources) > HANDFUL:
            raise InvalidInput(
                f"there are more than {HANDFUL} images; try a few of them, or run "
                "`secondlook label`"
            )
    if not sources:
        raise InvalidInput(f"there is no image in {selection.root}; name some files")
    return sources


def _readable(
    screen: "Console", sources: "Iterable[Source]", max_bytes: int
) -> "Iterator[tuple[Source, bytes]]":
    from secondlook.core.image_folder import read

    for source in sources:
        try:
            yield source, read(source, max_bytes)
        except SecondlookError as failure:
            _print_failure(screen, source, failure)


def _print_prompt(screen: "Console", ontology: "Ontology") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in ("class", "phrases for the proposer", "question for the verifier", "view"):
        table.add_column(heading, overflow="fold")
    for heading in ("ask from", "reject ≤", "accept ≥"):
        table.add_column(heading, justify="right")
    for spec in ontology.classes:
        name = f"{spec.name} @{spec.group}" if spec.group else spec.name
        words = [name, ", ".join(spec.phrases), spec.question, str(spec.view)]
        limits = [f"{value:.2f}" for value in (spec.threshold, spec.reject, spec.accept)]
        table.add_row(*(Text(cell) for cell in (*words, *limits)))
    screen.print(table)


def _print_failure(screen: "Console", source: "Source", failure: Exception) -> None:
    screen.print(f"\n{source.name}: {failure}", style="red", highlight=False, markup=False)


def _print_result(screen: "Console", name: str, result: "LabelResult") -> None:
    from rich.table import Table
    from rich.text import Text

    times = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in result.timings_ms.items())
    size = f"{result.width}×{result.height}, {result.proposals} boxes; {times}"
    screen.print(Text(f"\n{name}", style="bold"), Text(size, style="dim"))
    table = Table(box=None)
    for heading in ("outcome", "class", "box", "proposer", "P(yes)", "answer", "because"):
        right = heading in ("box", "proposer", "P(yes)")
        table.add_column(heading, justify="right" if right else "left", no_wrap=right)
    for judgement in _in_order(result.judgements):
        style = STYLES[judgement.outcome.value]
        table.add_row(*(Text(cell) for cell in _cells(judgement)), style=style)
    screen.print(table)
    if not result.judgements:
        screen.print("no box reached the threshold of its class", style="dim")


def _in_order(judgements: "Iterable[Judgement]") -> "list[Judgement]":
    """Box by box, the best scored box first, so that what was asked about one stands together."""
    best: dict[tuple[float, ...], float] = {}
    for judgement in judgements:
        best[judgement.box] = max(best.get(judgement.box, 0.0), judgement.score)
    return sorted(judgements, key=lambda j: (-best[j.box], j.box, list(STYLES).index(j.outcome)))


def _cells(judgement: "Judgement") -> tuple[str, ...]:
    p_yes = "–" if judgement.p_yes is None else f"{judgement.p_yes:.2f}"
    return (
        judgement.outcome.value,
        judgement.class_name,
        " ".join(f"{value:.0f}" for value in judgement.box),
        f"{judgement.score:.2f}",
        p_yes if judgement.exact else f"~{p_yes}",
        judgement.raw_answer.strip() or judgement.error or "–",
        judgement.reason,
    )
