"""``secondlook verify``: a second look at annotations that exist.

Each annotated box is a proposal for its own class, and the verifier is asked about it. The run is a
job like that of ``secondlook label``, with ``AnnotatedBoxes`` in place of a proposer, so it resumes
in the same way and its answers are kept in the same store:

1. ``AnnotatedSet`` holds the dataset, ``class_questions`` says what is asked of each class.
2. ``finish_job`` has the boxes verified; ``check_boxes`` compares the answers with the annotations.
3. ``_write`` writes the findings, the dataset without what was rejected, and the page.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import (
    class_options,
    models_option,
    ontology_of,
    resume_options,
    settings_of,
)
from secondlook.cli.output import console, counted, table
from secondlook.cli.params import NameList
from secondlook.config.entrypoint import (
    MORE,
    SectionedCommand,
    SectionOption,
    config_option,
    setting_options,
)
from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.settings import (
    BatchingSettings,
    ImageSettings,
    ModelSettings,
    Settings,
)
from secondlook.config.terminal import echo
from secondlook.core.files import text_to_name
from secondlook_client.errors import BadSetting
from secondlook_client.values import Outcome

if TYPE_CHECKING:
    from secondlook.cli.output_folder import FailedImage, OutputFolder
    from secondlook.datasets.annotated_images import AnnotatedSet, ClassQuestions
    from secondlook.datasets.readers.annotations import ParsedDataset
    from secondlook.labeling.pipeline import Pipeline
    from secondlook.reports.verification import VerifiedSet

FORMATS = ("coco", "yolo", "voc")
WORDS = {Outcome.REJECT: "rejected", Outcome.UNSURE: "unsure", Outcome.ACCEPT: "kept"}


@click.command(
    "verify",
    cls=SectionedCommand,
    examples=[
        "secondlook verify annotations.json --images photos/ --verifier photo",
        "secondlook verify yolo/data.yaml --verifier moondream --suggest",
    ],
)
@click.argument("annotations", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the images of a COCO file, if they are not beside it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("verified"),
    show_default=True,
    help="Folder for the results. The same folder resumes a run.",
)
@class_options
@click.option(
    "--only",
    multiple=True,
    metavar="CLASS",
    help="Ask about the annotations of this class only; the others stay as they are. Repeatable.",
)
@click.option(
    "--suggest",
    is_flag=True,
    help="Ask about every other class of a box that is not accepted, and suggest the best.",
)
@click.option(
    "--find-missing",
    is_flag=True,
    help="Run --proposer too: find objects without annotation, and boxes that fit better.",
)
@click.option(
    "--format",
    "formats",
    type=NameList(FORMATS),
    metavar="FORMAT,…",
    help=f"Write what was kept as {', '.join(FORMATS)}.  [default: as the annotations are]",
)
@click.option(
    "--gallery",
    "shown",
    cls=SectionOption,
    section=MORE,
    type=click.IntRange(0),
    default=200,
    show_default=True,
    metavar="N",
    help="Maximum number of images in gallery.html, the most suspicious first; 0 writes none.",
)
@resume_options
@models_option
@config_option
@setting_options(ModelSettings, BatchingSettings, ImageSettings)
def verify_command(
    annotations: Path,
    images: Path | None,
    out: Path,
    lines: tuple[str, ...],
    ontology: Path | None,
    only: tuple[str, ...],
    **flags: Any,
) -> int:
    """Verify the boxes of ANNOTATIONS: a COCO file, or a COCO, YOLO or Pascal VOC folder.

    The verifier is asked about each box, "Is this a <class>?", or what -c and --ontology say. Boxes
    are kept, rejected or doubted; findings.csv lists what a person should look at, the most
    suspicious first. A COCO file is written without the rejected boxes, with all else as it was.
    The annotations themselves are never changed.

    After Ctrl-C or a crash the same command continues where it stopped.
    """
    from secondlook.cli.connection import warn_about_demo_models
    from secondlook.cli.output_folder import OutputFolder
    from secondlook.datasets.annotated_images import AnnotatedSet, class_questions
    from secondlook.datasets.open import read_path

    wanted = Wanted(**{name: flags.pop(name) for name in Wanted.__annotations__})
    settings = _settings(settings_of(flags), wanted.find_missing)
    data = read_path(annotations, images, masks=True)
    for warning in data.warnings:
        echo(f"warning: {warning}", err=True)
    annotated = AnnotatedSet.of(data)
    questions = class_questions(annotated, ontology_of(lines, ontology), only)
    check_extras("running models here", *extras_of_models(settings))
    warn_about_demo_models(settings)
    with OutputFolder(out) as folder:
        return Verification(data, annotated, questions, wanted, settings).run(folder)


@dataclass(frozen=True)
class Wanted:
    """What a verification is to do and to write."""

    suggest: bool
    find_missing: bool
    formats: tuple[str, ...] | None
    shown: int
    fresh: bool
    retry_failed: bool


def _settings(settings: Settings, find_missing: bool) -> Settings:
    """Nothing may be suppressed or cut off: each annotation is to have its own answer.

    Raises ``BadSetting`` without a verifier.
    """
    verifier = settings.models.verifier
    if verifier.strip() == "none":
        raise BadSetting("verify asks a verifier about each box, and --verifier is none; name one")
    place = {"data": "", "database_url": "", "blob_url": ""}
    pipeline = {"nms_iou": 1.0, "max_boxes": 10_000, "verify_empty": False, "duplicate_iou": 1.0}
    unused = {} if find_missing else {"proposer": verifier}
    return settings.replace(student="", verify_budget="all", **place, **pipeline, **unused)


@dataclass(frozen=True)
class Verification:
    """One run over one dataset."""

    data: "ParsedDataset"
    annotated: "AnnotatedSet"
    questions: "ClassQuestions"
    wanted: Wanted
    settings: Settings

    def run(self, folder: "OutputFolder") -> int:
        """Verify into ``folder`` and print what was found; the exit code."""
        from secondlook.cli.connection import connected, identity_without_models
        from secondlook.cli.label import finish_job
        from secondlook.cli.output_folder import FAILED, write_failures
        from secondlook.labeling.annotated_boxes import with_annotations
        from secondlook.reports.verification import VerifiedSet

        ontology = with_annotations(self.questions.ontology)
        asked = self._names()
        selection = self.annotated.selection(asked)
        # A run with suggestions is another one than a run without.
        more = {"suggest": self.wanted.suggest}
        ready = partial(folder.data_folder, self.wanted.fresh)
        if not self.wanted.fresh:
            known = identity_without_models(ontology, selection.root, self.settings)
            folder.check_same_run({**known, **more})
        with connected(None, self.settings, ontology, ready, self._pipeline) as session:
            session = replace(session, models={**session.models, **more})
            job = finish_job(folder, session, selection, self.wanted.retry_failed, "verifying")
            failures = itertools.chain(self._unusable(), job.failures)
            failed = write_failures(folder.path / FAILED, failures)
        names = self.questions.names
        verified = VerifiedSet(
            self.annotated, self.data.files, names, job.results(), job.fetched.cursors(), asked
        )
        paths = self._write(verified, folder.path)
        print_verified(verified, failed, folder.path, paths)
        return 0 if verified.images and not verified.stats.verifier_never_answered else 1

    def _names(self) -> set[str]:
        """Of the images that are looked at: with --find-missing all, else those with boxes."""
        if self.wanted.find_missing:
            return {image.name for image in self.annotated.images}
        return {text_to_name(name) for name in self.annotated.asked(self.questions.place_of)}

    def _pipeline(self, settings: Settings) -> "Pipeline":
        """The annotations in place of a proposer, and the verifier."""
        from secondlook.labeling.annotated_boxes import AnnotatedBoxes, SuggestingPipeline
        from secondlook.labeling.pipeline import Pipeline
        from secondlook.models.registry import load_proposer, load_segmenter, load_verifier

        models = settings.models
        also = load_proposer(models.proposer, models) if self.wanted.find_missing else None
        asked = self.annotated.asked(self.questions.place_of)
        boxes = AnnotatedBoxes(asked, len(self.questions.ontology.classes), also)
        kind = SuggestingPipeline if self.wanted.suggest else Pipeline
        verifier = load_verifier(models.verifier, models)
        segmenter = load_segmenter(models.segmenter, models)
        return kind(boxes, verifier, settings.pipeline, segmenter)

    def _unusable(self) -> "Iterator[FailedImage]":
        from secondlook.cli.output_folder import FailedImage

        for sample in self.annotated.unusable:
            yield FailedImage(sample.name, "bad_image", sample.problem)

    def _write(self, verified: "VerifiedSet", out: Path) -> list[Path]:
        """Findings, what was kept in the formats that are wanted, and the page."""
        from secondlook.cli.output_folder import GALLERY, image_loader

        formats = self.wanted.formats
        if formats is None:  # a COCO file is written as it was
            formats = (self.data.format,) if self.data.format not in ("", "coco") else ()
        paths = verified.write(out, formats)
        if self.wanted.shown:
            load = image_loader(self.annotated.root, self.settings.images)
            paths.append(verified.write_page(out / GALLERY, self.wanted.shown, load))
        return paths


def print_verified(verified: "VerifiedSet", failed: int, out: Path, paths: Sequence[Path]) -> None:
    """A table by class, what was not asked about, and the files."""
    from secondlook.cli.label import about_unanswered
    from secondlook.cli.output_folder import FAILED
    from secondlook.datasets.checked_boxes import FindingKind

    kinds = [kind for kind in FindingKind if kind not in (FindingKind.REJECTED, FindingKind.UNSURE)]
    kinds = [kind for kind in kinds if any(c.findings[kind] for c in verified.counts.values())]
    headings = ("asked", "kept", "rejected", "unsure", *map(str, kinds))
    shown = table("class", *headings, right=headings)
    total: Counter[str] = Counter()
    for name, counts in verified.counts.items():
        row = {"asked": counts.annotations}
        row |= {WORDS[outcome]: counts.outcomes[outcome] for outcome in Outcome}
        row |= {str(kind): counts.findings[kind] for kind in kinds}
        total.update(row)
        shown.add_row(name, *(f"{row[heading]:,}" for heading in headings))
    if len(verified.counts) > 1:
        shown.add_row("all", *(f"{total[heading]:,}" for heading in headings))
    console().print(shown)
    for line in about_unanswered(verified.stats):
        echo(line)
    if ignored := verified.annotated.ignored:
        echo(f"{counted(ignored, 'crowd or ignore region')} not asked about, kept as they are")
    if failed:
        echo(f"{counted(failed, 'image')} not verified; the reasons are in {out / FAILED}")
    for path in paths:
        echo(f"  {path}")
