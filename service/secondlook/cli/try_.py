"""``secondlook try``: the scores of both stages on a few images, to choose classes and prompts."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import class_options, model_options, ontology_of, settings_of
from secondlook.cli.output import counted, table
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.terminal import echo
from secondlook_client.errors import InvalidInput, SecondlookError

if TYPE_CHECKING:
    from rich.console import Console

    from secondlook.cli.connection import Session
    from secondlook.core.drawing import Load
    from secondlook.core.image_folder import ImageFile, ImageSelection
    from secondlook_client.ontology import Ontology
    from secondlook_client.values import Judgement, LabelResult

MAX_IMAGES = 50
MAX_STEM = 60
"""Characters of an image's name in the name of its drawing."""
SMALLEST, LARGEST = 720, 2160
"""Height of a drawing, pixels; between them it is as high as the image."""
STYLES = {"accept": "cyan", "reject": "dark_orange3", "unsure": "yellow"}


@click.command(
    "try",
    cls=SectionedCommand,
    examples=[
        'secondlook try a.jpg b.jpg -c "vehicle = car, bus" -c dog',
        "secondlook try photos/ --ontology classes.yaml --out try.html",
    ],
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@class_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("try.html"),
    show_default=True,
    help="HTML page with the images and their boxes; it is overwritten.",
)
@click.option(
    "--images-out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also write each image with its boxes and both scores as a PNG file into FOLDER.",
)
@model_options
def try_command(
    images: tuple[Path, ...],
    lines: tuple[str, ...],
    ontology: Path | None,
    out: Path,
    images_out: Path | None,
    server: str | None,
    **flags: Any,
) -> int:
    """Try classes and prompts on a few IMAGES before labelling many.

    Prints every box above the threshold of its class with the proposer's score, P(yes), the
    verifier's answer and the decision, and writes the images to --out with both scores on the
    boxes.
    """
    from secondlook.cli.connection import (
        check_can_label,
        chosen_ontology,
        connected,
        warn_about_demo_models,
    )
    from secondlook.cli.output import console
    from secondlook.cli.output_folder import image_loader
    from secondlook.config.entrypoint import gentle_interrupts
    from secondlook.core.files import check_can_write
    from secondlook.core.image_folder import select_images

    settings = settings_of(flags)
    selection = select_images(images)
    files = _few(selection)
    wanted = chosen_ontology(ontology_of(lines, ontology), settings)
    check_can_write(out)
    if images_out:
        check_can_write(images_out)
    check_can_label(server, settings)
    screen = console()
    if not server:
        warn_about_demo_models(settings)
    with connected(server, settings, wanted) as session:
        _print_prompt(screen, session.ontology)
        with gentle_interrupts() as stopped:
            to_try = itertools.takewhile(lambda _: not stopped(), files)
            found = _label(screen, session, to_try)
    if not found:
        return 1
    load = image_loader(selection.root, session.image_limits)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write_page(out, session.ontology, found, load)
    screen.print(f"\nThe images with their boxes: {out}", highlight=False, markup=False)
    if images_out:
        _write_images(images_out, session.ontology, found, load)
        screen.print(f"as image files: {images_out}", highlight=False, markup=False)
    return 0


def _label(
    screen: "Console", session: "Session", files: "Iterable[ImageFile]"
) -> "dict[str, LabelResult]":
    """Print each result as it arrives; the results by name."""
    found = {}
    readable = _readable(screen, files, session.image_limits.max_image_bytes)
    for file, answer in session.label_many(readable):
        if isinstance(answer, Exception):
            _print_failure(screen, file, answer)
        else:
            found[file.name] = answer
            _print_result(screen, file.name, answer)
    return found


def _write_page(
    out: Path, ontology: "Ontology", found: "dict[str, LabelResult]", load: "Load"
) -> None:
    from secondlook.core.types import LabelledImage
    from secondlook.evaluation.run_stats import RunStats
    from secondlook.reports import gallery

    shown = gallery.pick((LabelledImage(*one) for one in found.items()), MAX_IMAGES)
    totals = RunStats.of(found.values())
    gallery.write(out, "secondlook try", totals, shown, load, classes=ontology.names, scores=True)


def _write_images(
    folder: Path, ontology: "Ontology", found: "dict[str, LabelResult]", load: "Load"
) -> None:
    """Draw each image that can still be read, with both scores on its boxes, as a PNG file."""
    from secondlook.core.drawing import class_colours, draw_result
    from secondlook.core.files import explain_write_errors, replacing

    colours = class_colours(ontology.names)
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for number, (name, result) in enumerate(found.items(), start=1):
        try:
            pixels = load(name)
        except SecondlookError as failure:
            echo(f"{name}: {failure}", err=True)
            continue
        height = min(max(result.height, SMALLEST), LARGEST)
        drawn = draw_result(pixels, result, colours, height=height, scores=True)
        stem = "".join(c if c.isalnum() else "_" for c in Path(name).stem[:MAX_STEM])
        with replacing(folder / f"{number:02d}-{stem}.png") as part:
            drawn.save(part, "PNG")


def _few(selection: "ImageSelection") -> "list[ImageFile]":
    from secondlook.core.image_folder import LeftOut

    left_out = LeftOut()
    files = list(itertools.islice(selection.walk(left_out), MAX_IMAGES + 1))
    if left_out:
        echo(f"left out: {left_out}", err=True)
    if len(files) > MAX_IMAGES:
        raise InvalidInput(
            f"there are more than {MAX_IMAGES} images; try fewer of them, or run `secondlook label`"
        )
    if not files:
        raise InvalidInput(f"there is no image in {selection.root}; name some files")
    return files


def _readable(
    screen: "Console", files: "Iterable[ImageFile]", max_bytes: int
) -> "Iterator[tuple[ImageFile, bytes]]":
    from secondlook.core.image_folder import read_image_file

    for file in files:
        try:
            yield file, read_image_file(file, max_bytes)
        except SecondlookError as failure:
            _print_failure(screen, file, failure)


def _print_prompt(screen: "Console", ontology: "Ontology") -> None:
    from rich.text import Text

    words = ("class", "phrases for the proposer", "question for the verifier", "view")
    numbers = ("threshold", "reject ≤", "accept ≥")
    rows = table(*words, *numbers, right=numbers)
    for spec in ontology.classes:
        name = f"{spec.name} @{spec.group}" if spec.group else spec.name
        texts = [name, ", ".join(spec.phrases), spec.question, str(spec.view)]
        limits = [f"{value:.2f}" for value in (spec.threshold, spec.reject, spec.accept)]
        rows.add_row(*(Text(cell) for cell in (*texts, *limits)))
    screen.print(rows)


def _print_failure(screen: "Console", file: "ImageFile", failure: Exception) -> None:
    screen.print(f"\n{file.name}: {failure}", style="red", highlight=False, markup=False)


def _print_result(screen: "Console", name: str, result: "LabelResult") -> None:
    from rich.text import Text

    times = ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in result.timings_ms.items())
    boxes = counted(result.proposals, "box")
    size = f"{result.width}×{result.height}, {boxes} proposed; {times}"
    screen.print(Text(f"\n{name}", style="bold"), Text(size, style="dim"))
    headings = ("outcome", "class", "box", "proposer", "P(yes)", "answer", "reason")
    rows = table(*headings, right=("box", "proposer", "P(yes)"))
    for judgement in _in_order(result.judgements):
        style = STYLES[judgement.outcome.value]
        rows.add_row(*(Text(cell) for cell in _cells(judgement)), style=style)
    screen.print(rows)
    if not result.judgements:
        screen.print("no box reached the threshold of its class", style="dim")


def _in_order(judgements: "Iterable[Judgement]") -> "list[Judgement]":
    """Box by box, the best score first, so that the judgements of one box are together."""
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
