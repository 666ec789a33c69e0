"""``secondlook label``: a folder of images in, labels out.

A run is an upload job of the service, of one that runs somewhere or of one that is started here.
The service keeps the images and the results, so a run that was stopped anywhere continues there:

1. ``SelectionUpload`` sends the images that the job lacks, and ``_wait`` shows its progress.
2. ``FetchedResults`` holds the results of the images that exist now, in the order of the folder.
3. ``write_outputs`` writes the formats, the gallery and the list of failed images.

``label_into`` does all three; ``secondlook demo`` uses it too.
"""

import itertools
import json
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from secondlook.cli.calibrators import file_digest
from secondlook.cli.dataset_options import (
    SECTION,
    doubt_choices,
    doubt_options,
    format_option,
    split_options,
    split_shares,
)
from secondlook.cli.finished_run import FinishedRun
from secondlook.cli.options import (
    class_options,
    fps_option,
    model_options,
    ontology_of,
    resume_options,
    settings_of,
)
from secondlook.cli.output import Step, bar, counted, sums_of
from secondlook.cli.output_folder import (
    FAILED,
    PLAIN_LAYOUT,
    SHOWN,
    TRACK,
    DatasetLayout,
    FailedImage,
    OutputFolder,
    WrittenOutputs,
    image_loader,
    image_reader,
    read_failures,
    write_outputs,
)
from secondlook.cli.params import PathOrBucket
from secondlook.cli.ray_runs import (
    bucket_store,
    check_ray,
    extras_of_ray,
    output_folder,
    ray_models,
    ray_options,
    select_bucket,
    shares_in,
)
from secondlook.config.entrypoint import (
    MORE,
    SectionedCommand,
    SectionOption,
    gentle_interrupts,
    setting_options,
)
from secondlook.config.settings import CascadeSettings, StoreSettings
from secondlook.config.terminal import echo
from secondlook.core.files import explain_write_errors, is_below, name_to_text, text_to_name
from secondlook.core.image_folder import (
    IMAGE_SUFFIXES,
    ImageFile,
    ImageSelection,
    LeftOut,
)
from secondlook.core.images import decode
from secondlook.core.sorted_numbers import find_sorted
from secondlook.core.types import Pixels
from secondlook.datasets.division import SplitPlan
from secondlook.datasets.writers import (
    LABEL_FORMATS,
    DoubtfulImages,
    Labels,
    Provenance,
    linked_images,
)
from secondlook.evaluation.run_stats import OUTCOME_WORDS, Results, RunStats
from secondlook_client import Job, JobState, LabelPath
from secondlook_client.errors import (
    BadImage,
    Damaged,
    ImageTooLarge,
    InvalidInput,
    MessageTooLarge,
    NotAllowed,
    NotFound,
    SecondlookError,
    Unavailable,
)
from secondlook_client.values import GroupBy, JobResult, LabelResult, Review

if TYPE_CHECKING:
    from secondlook.cli.connection import Session
    from secondlook.cli.local_service import BuildPipeline
    from secondlook.store import Store
    from secondlook_client.jobs import Jobs

POLL_S = 0.2
"""Between two requests for the state of the job."""
STUCK_S = 15.0
"""A service of this process that reports a problem for so long has failed: nobody else could
repair it meanwhile."""
TRANSIENT = (
    "busy",
    "deadline_exceeded",
    "internal",
    "storage_full",
    "store_unavailable",
    "unavailable",
    "verifier_failed",
)
"""Reasons of failures that are tried again by the next start."""
IGNORE, OFF = "ignore", "off"
"""What becomes of the gaps of tracks."""
OFFER_BATCH = 1000
"""Images that the job is asked about in one request."""
IN_FLIGHT = 16
"""Images sent and not durable yet; the server makes those durable together."""
MAX_NAME = 4000
"""Characters of a path, from which a name is; the server accepts few more."""
CLASS_WIDTH = 48
"""Characters of a class's name that are printed in front of its counts."""
ERRORS_OF_ONE_IMAGE = (BadImage, ImageTooLarge, MessageTooLarge)
"""Any other error would be the same for all images."""


def _refuse_guarantee(ctx: click.Context, option: click.Parameter, name: str | None) -> None:
    """A guarantee lies in a store, and the store of an output folder holds one run."""
    if name is not None:
        raise click.UsageError(
            "labels under a guarantee are made by a service on the store that has it: `secondlook "
            "job create NAME IMAGES --guarantee GUARANTEE`; `secondlook guarantee apply` decides "
            "what was labelled already"
        )


@click.command(
    "label",
    cls=SectionedCommand,
    examples=[
        'secondlook label photos/ -c "dog ? Is this a dog?" --out labels',
        "secondlook label photos/ --ontology classes.yaml --server host:50051",
        "secondlook label s3://bucket/in --ray auto -c dog --out labels",
    ],
)
@click.argument("images", nargs=-1, required=True, type=PathOrBucket())
@click.option(
    "--out",
    type=PathOrBucket(),
    default=Path("labels"),
    show_default=True,
    help="Folder for the labels. The same folder resumes a run. With --ray also s3://…",
)
@class_options
@format_option(LABEL_FORMATS)
@split_options("all images are in one")
@doubt_options(nothing_proposed=DoubtfulImages.SEPARATE)
@click.option(
    "--copy-images",
    cls=SectionOption,
    section=SECTION,
    is_flag=True,
    help="Copy the images into the datasets. Without it they are links to IMAGES; frames of videos "
    "are files in any case.",
)
@fps_option
@click.option(
    "--track",
    is_flag=True,
    help="Follow objects through the frames of a video, or of a folder of images in order: the "
    "verifier is asked once or a few times about each, and labels have the number of their object.",
)
@click.option(
    "--fill-gaps",
    cls=SectionOption,
    section=MORE,
    type=click.Choice((IGNORE, OFF)),
    default=OFF,
    show_default=True,
    help="With --track, where an object is not found for up to a second: an unsure box meanwhile, "
    "in which nothing is learned, or none.",
)
@click.option(
    "--gallery",
    "shown",
    cls=SectionOption,
    section=MORE,
    type=click.IntRange(0),
    default=SHOWN,
    show_default=True,
    metavar="N",
    help="Maximum number of images in gallery.html, the most unsure first: 10 MB for 600; 0 writes "
    "none.",
)
@ray_options
@click.option("--guarantee", hidden=True, expose_value=False, callback=_refuse_guarantee)
@resume_options
@model_options
@setting_options(CascadeSettings, StoreSettings)
def label_command(
    images: tuple[Path | str, ...],
    out: Path | str,
    lines: tuple[str, ...],
    ontology: Path | None,
    formats: tuple[str, ...],
    shown: int,
    fresh: bool,
    retry_failed: bool,
    server: str | None,
    fps: float,
    track: bool,
    fill_gaps: str,
    ray: str | None,
    **flags: Any,
) -> int:
    """Label IMAGES: image files, folders with everything below them, or videos.

    A video is labelled frame by frame, --fps of each second; a frame is called by its time, such as
    clip.mp4@00-00-12.400.jpg.

    After Ctrl-C, a crash or a full disk, the same command continues where it stopped. Images that
    cannot be labelled are listed in failed.jsonl with the reason. All scores and answers are kept:
    with --server by that service, else in --out/.store or in --data.

    With --student, a student labels the images that it is certain of alone, as long as audits by
    the models agree with it.

    With --ray the models run on the machines of a Ray cluster, and images and labels may lie in
    buckets (s3://bucket/prefix); everything else is as without.
    """
    from secondlook.cli.connection import (
        check_can_label,
        chosen_ontology,
        connected,
        identity_without_models,
        warn_about_demo_models,
    )
    from secondlook.cli.micro import micro_digest, with_outline
    from secondlook.cli.tracked_runs import check_can_track, unasked_pipeline
    from secondlook.core.clips import clips_in, has_video
    from secondlook.core.image_folder import select_images

    layout = DatasetLayout(
        SplitPlan(split_shares(flags.pop("split")), GroupBy(flags.pop("group_by"))),
        flags.pop("copy_images"),
        **doubt_choices(flags),
    )
    shares = shares_in(flags)
    # Whatever can be refused is refused before a model is loaded.
    settings = settings_of(flags)
    files = [Path(place) for place in images]
    check_ray(
        ray,
        [*images, out],
        settings,
        {"--server": server, "--track": track, "a video": has_video(files)},
    )
    settings = bucket_store(settings, out) if ray else settings
    settings = settings if server else with_outline(settings)
    wanted = chosen_ontology(ontology_of(lines, ontology), settings)
    if track:
        check_can_track(settings, wanted, server)
    videos = has_video(files)
    also = [*["video"] * videos, *["tracks"] * track, *extras_of_ray(ray, [*images, out])]
    if also:
        check_can_label(server, settings, *also)
    if isinstance(images[0], str):
        selection = select_bucket(images[0])
    else:
        beside = out if isinstance(out, Path) else None
        selection = select_images(files, beside, clips_in(files, settings.images, fps))
    check_has_image(selection)
    known = identity_without_models(wanted, selection.root, None if server else settings)
    known |= {TRACK: True} if track else {}
    given = {**known, "settings": settings, "formats": formats, "shown": shown, "layout": layout}
    given |= {"fps": fps, "fill_gaps": fill_gaps}
    given["calibrator"] = file_digest(settings.pipeline.calibrator)
    given["micro"] = micro_digest(settings.models.proposer)  # the same path, another version
    finished = FinishedRun(out, selection, given) if isinstance(out, Path) else None
    lines_before = None
    if finished and not (server or fresh or retry_failed):
        lines_before = finished.lines()
    if lines_before is not None:
        _print_finished(out, lines_before)
        return 0
    check_can_label(server, settings)
    if not server:
        warn_about_demo_models(settings)
    with output_folder(out) as folder, ExitStack() as ending:
        if not fresh:
            folder.check_same_run(known)

        ready = partial(folder.data_folder, fresh)
        build: BuildPipeline | None = unasked_pipeline if track else None
        if ray:
            build = ending.enter_context(ray_models(ray, shares, selection))
        with connected(server, settings, wanted, ready, build) as session:
            run = label_into(
                folder,
                session,
                selection,
                formats=formats,
                shown=shown,
                retry_failed=retry_failed,
                layout=layout,
                track_fps=fps if track else None,
                fill_gaps=fill_gaps == IGNORE,
            )
        folder.publish()
        return _conclude(run.written, folder, finished)


def _conclude(written: WrittenOutputs, folder: OutputFolder, finished: FinishedRun | None) -> int:
    """Print what the run made, and keep that it is finished; the exit code."""
    out = folder.path
    lines = [line.replace(str(out), folder.shown) for line in _about_run(written, out)]
    for line in lines:
        echo(line)
    nothing_labelled = written.failed and not written.stats.images
    if nothing_labelled or written.stats.verifier_never_answered:
        return 1
    if finished and not _to_be_tried_again(out / FAILED):
        finished.write(lines, [*written.paths, out / FAILED])
    return 0


def _print_finished(out: Path | str, lines: Sequence[str]) -> None:
    for line in lines:
        echo(line)
    echo(f"finished before, and nothing has changed since; --fresh labels {out} again")


def _to_be_tried_again(failed: Path) -> bool:
    """Whether an image failed for a reason that may have gone when the run is started again."""
    return any(image.reason in TRANSIENT for image in read_failures(failed))


def _about_run(written: WrittenOutputs, out: Path) -> Iterator[str]:
    """What is printed of a finished run."""
    stats = written.stats
    yield from sums_of(stats)
    yield from class_counts(stats, written.classes)
    if by_student := stats.by_path[LabelPath.STUDENT]:
        yield (
            f"{counted(by_student, 'image')} labelled by the student alone, "
            f"{1 - by_student / stats.images:.0%} by the models"
        )
    yield from about_unanswered(stats)
    if written.failed:
        failed = counted(written.failed, "image")
        yield f"{failed} failed; the reasons are in {out / FAILED}"
    yield from written.notes
    for path in written.paths:
        yield f"  {path}"


def class_counts(stats: RunStats, classes: Sequence[str]) -> Iterator[str]:
    """A line for each class: what became of its boxes."""
    names = list(dict.fromkeys([*classes, *stats.by_class]))
    width = max((len(name[:CLASS_WIDTH]) for name in names), default=0)
    for name in names:
        counts = stats.by_class.get(name, Counter())
        of_outcomes = (f"{counts[o]:>8,} {word}" for o, word in OUTCOME_WORDS.items())
        yield f"  {name[:CLASS_WIDTH]:<{width}}{' '.join(of_outcomes)}"


def about_unanswered(stats: RunStats) -> Iterator[str]:
    """For how many boxes there is no answer or no mask that was asked for, if there are any."""
    if stats.not_asked:
        yield (
            f"the verifier was not asked about {stats.not_asked:,} of "
            f"{counted(stats.decisions, 'decision')}, which could be decided without "
            "(--verify-budget)"
        )
    if stats.by_track:
        yield (
            f"the verifier was not asked about {stats.by_track:,} of "
            f"{counted(stats.decisions, 'decision')}, which follow from its answers on the same "
            "objects in other frames (--track)"
        )
    if stats.brief:
        yield (
            f"{counted(stats.brief, 'decision')} rejected without asking the verifier, on objects "
            "that were seen for less than a second or so, or beside another box of theirs"
        )
    if stats.filled:
        yield (
            f"{counted(stats.filled, 'unsure box')} where an object was not found for a moment "
            "(--fill-gaps)"
        )
    if stats.without_verdict:
        yield (
            f"the verifier gave no answer for {counted(stats.without_verdict, 'decision')}, which "
            f"are unsure; the first error: {stats.first_error}"
        )
    if stats.abstained:
        yield (
            f"the verifier answered neither yes nor no for {counted(stats.abstained, 'decision')}, "
            f"which are unsure; the first time it said {stats.first_abstention[:60]!r}"
        )
    if stats.without_mask:
        yield (
            f"the segmenter gave no mask of {counted(stats.without_mask, 'label')}; the first "
            f"reason: {stats.first_mask_error}"
        )


@dataclass(frozen=True)
class LabelRun:
    """A finished run."""

    written: WrittenOutputs
    results: Results
    images: int
    """Labelled or failed since this start."""
    seconds: float
    """Spent on those."""


def label_into(
    folder: OutputFolder,
    session: "Session",
    selection: ImageSelection,
    *,
    formats: Sequence[str] = ("coco",),
    shown: int = SHOWN,
    retry_failed: bool = False,
    layout: DatasetLayout = PLAIN_LAYOUT,
    track_fps: float | None = None,
    fill_gaps: bool = False,
) -> LabelRun:
    """Label ``selection`` into ``folder``, continuing where an earlier start stopped.

    With ``track_fps`` and ``fill_gaps``, see ``track_run``, objects are followed, in a ``session``
    whose models are those of ``unasked_pipeline``.
    """
    check_has_image(selection)
    if track_fps is not None:
        session = replace(session, models={**session.models, TRACK: True})
    finished = finish_job(folder, session, selection, retry_failed)
    if track_fps is not None:
        from secondlook.cli.tracked_runs import track_job

        keys = finished.fetched.keys
        run = track_job(folder, session, finished.job.name, keys, track_fps, fill_gaps)
        labels = FetchedResults(folder.path, keys)
        for found in session.client.jobs.results(run):
            labels.add(found)
        finished = replace(finished, fetched=labels)
    clips = selection.clips
    written = write_outputs(
        folder.path,
        Labels(
            session.ontology.names,
            finished.results,
            linked_images(selection.root) if selection.are_files else _left_in_place,
            provenance=_provenance(session, finished),
            unsure=layout.unsure,
            nothing_proposed=layout.nothing_proposed,
            cursors=finished.fetched.cursors,
            reviews=_reviews(session, finished.job.name),
        ),
        _loader(session, selection),
        finished.failures,
        formats=formats,
        shown=shown,
        plan=layout.plan,
        run=finished.job.name,
        hashes=finished.fetched.hashes(),
        # A frame of a video is no file that could be linked to.
        copy=_copier(session, selection) if layout.copy_images or clips else None,
    )
    return LabelRun(written, finished.results, finished.images, finished.seconds)


def _reviews(session: "Session", run: str) -> Callable[[str], Sequence[Review]]:
    """Gives all reviews of an image of the run; they are fetched when the first is asked for."""

    @cache
    def fetched() -> Mapping[str, Sequence[Review]]:
        found: dict[str, list[Review]] = {}
        with suppress(NotAllowed):  # a token that labels need not read reviews
            for review in session.client.reviews.list(run=run):
                found.setdefault(review.image, []).append(review)
        return found

    return lambda sha256: fetched().get(sha256, ())


def _copier(session: "Session", selection: ImageSelection) -> Callable[[str, LabelResult], bytes]:
    """Gives the bytes of an image by its name and result."""
    store = session.own.store if session.own else None
    if store and not selection.are_files:  # a video need not be decoded again
        return lambda _, result: store.blobs.get(result.sha256)
    read = image_reader(selection.root, session.image_limits, selection.clips)
    return lambda name, _: read(name)


def _loader(session: "Session", selection: ImageSelection) -> Callable[[str], Pixels]:
    """Gives the upright pixels of an image by its name."""
    limits, clips = session.image_limits, selection.clips
    if selection.are_files or clips:
        return image_loader(selection.root, limits, clips)

    def load(name: str) -> Pixels:
        found = ImageFile(name, selection.root / name, 0, 0)
        return decode(selection.read(found, limits.max_image_bytes), name, limits).pixels

    return load


def _left_in_place(name: str, result: LabelResult, path: Path) -> None:
    """A ``place_image`` where nothing can be linked to: the dataset names images in their bucket,
    or frames that are copied instead."""


def _provenance(session: "Session", finished: "FinishedJob") -> Provenance:
    """Of the date of the newest result, so that what is written again is the same."""
    keys = ("proposer", "verifier", "cascade", "segmenter")
    models = (session.models.get(key, "") for key in keys)
    date = finished.fetched.newest or finished.job.created_at
    return Provenance(date, [*filter(None, models)], session.ontology)


@dataclass(frozen=True)
class FinishedJob:
    """The job of a run when every image is labelled or has failed."""

    job: Job
    fetched: "FetchedResults"
    failures: Iterator[FailedImage]
    """Every image that exists now and has no result; asks the service, once."""
    images: int
    """Labelled or failed since this start."""
    seconds: float
    """Spent on those."""

    @property
    def results(self) -> Results:
        """Of the images that exist now, in the order of the folder."""
        return self.fetched.results


def finish_job(
    folder: OutputFolder,
    session: "Session",
    selection: ImageSelection,
    retry_failed: bool,
    doing: str = "labelling",
) -> FinishedJob:
    """Send the images of ``selection`` to the run's job and wait for its results.

    ``doing`` is what the progress says. Raises ``KeyboardInterrupt`` where it was stopped; a later
    start goes on from there.
    """
    job = _open_job(folder, session, selection, retry_failed)
    upload = _upload(session, job, selection)
    started = time.perf_counter()
    finished, images = _label(upload, session, job, folder.path, doing)
    seconds = time.perf_counter() - started
    fetched = _fetch(folder.path, upload, session, job)
    failures = _failures(fetched, upload, session, job)
    return FinishedJob(finished, fetched, failures, images, seconds)


def _upload(session: "Session", job: str, selection: ImageSelection) -> "SelectionUpload":
    """What brings the images to the models: to where these run, or only their names."""
    from secondlook.jobs.in_flight import LabelsElsewhere

    given = session.client.jobs, job, selection, session.image_limits.max_image_bytes
    own = session.own
    if own and own.store and isinstance(own.pipeline, LabelsElsewhere):
        return SelectionListing(*given, own.store)
    return SelectionUpload(*given)


def _open_job(
    folder: OutputFolder, session: "Session", selection: ImageSelection, retry_failed: bool
) -> str:
    """The name of the run's job, which exists then and accepts images."""
    jobs = session.client.jobs
    if folder.left_job:
        with suppress(NotFound):
            jobs.cancel(folder.left_job)
    name = folder.claim(session.identity(selection.root))
    job = jobs.create(name, classes=session.classes, reuse=True)
    if job.state is JobState.CANCELLED:
        raise InvalidInput(
            f"the job of this run, '{name}', was cancelled; start a new one with --fresh or "
            "another --out"
        )
    if job.state is JobState.PAUSED:
        jobs.resume(name)
    if job.failed:
        jobs.retry(name, reasons=() if retry_failed else TRANSIENT)
    return name


def _label(
    upload: "SelectionUpload", session: "Session", job: str, out: Path, doing: str
) -> tuple[Job, int]:
    """Send what the job lacks and wait; the job that is done, and how many images finished."""
    jobs = session.client.jobs
    upload.count()
    upload.print_left_out()
    before = jobs.get(job)
    progress = _Progress(upload, before)
    with (
        bar(doing, progress.images, progress.finished(before)) as step,
        gentle_interrupts() as stopped,
    ):
        poller = _JobPoller(lambda: jobs.get(job), progress, step, own=session.own is not None)
        for _ in upload.send(stopped):
            poller.poll_if_due()
        if not stopped():
            jobs.finish(job)
        while not stopped() and not poller.poll().over:
            time.sleep(POLL_S)
    if session.own:
        session.own.finish_jobs()
    after = jobs.get(job)
    _check_done(after, progress.finished(after), progress.images, session, out)
    return after, progress.finished(after) - progress.finished(before)


def _check_done(job: Job, finished: int, images: int, session: "Session", out: Path) -> None:
    """Raise what ended the run, if the job is not done."""
    if job.state is JobState.DONE:
        return
    if job.over:
        raise InvalidInput(f"the job '{job.name}' was {job.state}: {job.message or 'by somebody'}")
    continues = "" if session.own else "; the service labels the images that it has"
    raise KeyboardInterrupt(
        f"stopped: {finished} of {images} images are done and kept in {out}{continues}; the same "
        "command continues from there"
    )


def _fetch(out: Path, upload: "SelectionUpload", session: "Session", job: str) -> "FetchedResults":
    fetched = FetchedResults(out, upload.keys)
    with bar("reading results", upload.images) as step:
        for count, found in enumerate(session.client.jobs.results(job), start=1):
            fetched.add(found)
            step(min(count, upload.images), upload.images)
    return fetched


def _failures(
    fetched: "FetchedResults", upload: "SelectionUpload", session: "Session", job: str
) -> Iterator[FailedImage]:
    """Every image that exists now and has no result."""
    yield from upload.failed
    for failure in session.client.jobs.failures(job):
        if failure.key in fetched:
            yield FailedImage(text_to_name(failure.name), failure.reason, failure.message)


def check_has_image(selection: ImageSelection) -> None:
    """Raises ``InvalidInput`` where the selection has no image, with what was left out, and for
    a video that is all there is and cannot be read."""
    left_out = LeftOut()
    found = list(itertools.islice(selection.walk(left_out), 2))
    if found:
        if len(found) == 1 and found[0].refusal and selection.clips:
            raise InvalidInput(found[0].refusal)
        return
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    message = f"there is no image in {selection.root}; images end in {suffixes}"
    if left_out:
        message += (
            f"; left out: {left_out}; to label them, name the folder that they are in or the file "
            "itself"
        )
    raise InvalidInput(message)


class _Progress:
    """Counts the finished images of the selection; the job may have earlier ones besides."""

    def __init__(self, upload: "SelectionUpload", before: Job) -> None:
        self.images = upload.images
        self._not_sent = len(upload.failed)
        self._gone = before.total - upload.known
        """In the job, and no longer in the selection."""

    def finished(self, job: Job) -> int:
        """Images that are labelled or failed."""
        found = job.done + job.failed - self._gone + self._not_sent
        return min(max(found, 0), self.images)


class _JobPoller:
    """Asks for the state of the job and shows its progress."""

    def __init__(self, get: Callable[[], Job], progress: _Progress, step: Step, own: bool) -> None:
        """``own``: whether the service is part of this process."""
        self._get = get
        self._progress = progress
        self._step = step
        self._own = own
        self._polled_at = 0.0
        self._waiting_since: float | None = None
        self._message = ""

    def poll_if_due(self) -> None:
        """Poll if the last poll was ``POLL_S`` ago."""
        if time.monotonic() - self._polled_at >= POLL_S:
            self.poll()

    def poll(self) -> Job:
        """The job as it is now. Raises ``Unavailable`` when it makes no progress."""
        job, now = self._get(), time.monotonic()
        self._polled_at = now
        self._step(self._progress.finished(job), self._progress.images)
        if job.message and not job.over:
            self._waiting_since = self._waiting_since or now
            if self._own and now - self._waiting_since > STUCK_S:
                raise Unavailable(
                    f"{job.message}. The results so far are kept; the same command continues from "
                    "there"
                )
            if job.message != self._message:
                echo(f"waiting: {job.message}", err=True)
        else:
            self._waiting_since = None
        self._message = job.message
        return job


class SelectionUpload:
    """Sends a selection of images to an upload job, but only those that the job lacks.

    ``count`` walks over the selection once, ``send`` again. The job keeps names as ``core.files``
    writes them.
    """

    def __init__(self, jobs: "Jobs", job: str, selection: ImageSelection, max_bytes: int) -> None:
        """``max_bytes`` is the limit of one image."""
        self._jobs = jobs
        self._job = job
        self._selection = selection
        self._max_bytes = max_bytes
        self._known = np.zeros(0, dtype=np.int64)
        self.images = 0
        """Found by the last walk."""
        self.keys = array("q")
        """Of the images found by the last walk that can be opened, in order."""
        self.left_out = LeftOut()
        """By the last walk."""
        self.failed: list[FailedImage] = []
        """Images of the last walk that cannot be sent."""

    @property
    def known(self) -> int:
        """Images of the selection that the job had when ``count`` was called."""
        return len(self._known)

    def count(self) -> None:
        """Count the images, and ask the job which of them it has."""
        known = array("q")
        walk = self._walk()
        while batch := list(itertools.islice(walk, OFFER_BATCH)):
            keys = [image.key for image in batch]
            wanted = set(self._jobs.offer(self._job, keys))
            known.extend(key for key in keys if key not in wanted)
        self._known = np.unique(np.array(known, dtype=np.int64))

    def print_left_out(self) -> None:
        """Say on stderr what the last walk left out, if it did."""
        if self.left_out:
            echo(f"left out: {self.left_out}", err=True)

    def send(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Send what the job lacks; yields whenever an image is durable or has failed.

        Once ``stopped()`` is true, nothing more is read, and images in flight are finished. Raises
        a ``SecondlookError`` that concerns all images.
        """
        images = itertools.takewhile(lambda _: not stopped(), self._walk())
        lacking = (image for image in images if find_sorted(self._known, image.key) is None)
        for image, answer in self._jobs.upload(
            self._job,
            self._readable(lacking),
            number=lambda image: image.key,
            name=lambda image: name_to_text(image.name),
            concurrency=IN_FLIGHT,
        ):
            if isinstance(answer, ERRORS_OF_ONE_IMAGE):
                self._fail(image, answer)
            elif isinstance(answer, SecondlookError):
                raise answer
            yield

    def _walk(self) -> Iterator[ImageFile]:
        """Every image that can be opened; the others have failed."""
        self.images, self.keys, self.failed, self.left_out = 0, array("q"), [], LeftOut()
        for image in self._selection.walk(self.left_out):
            self.images += 1
            if image.refusal:
                self.failed.append(FailedImage(image.name, "bad_image", image.refusal))
            elif len(name_to_text(image.name)) > MAX_NAME:
                refusal = f"its path has more than {MAX_NAME:,} characters; move it up"
                self.failed.append(FailedImage(image.name, "bad_image", refusal))
            else:
                self.keys.append(image.key)
                yield image

    def _readable(self, images: Iterator[ImageFile]) -> Iterator[tuple[ImageFile, bytes]]:
        for image in images:
            try:
                yield image, self._selection.read(image, self._max_bytes)
            except SecondlookError as failure:
                self._fail(image, failure)

    def _fail(self, image: ImageFile, failure: SecondlookError) -> None:
        self.failed.append(FailedImage(image.name, failure.reason, str(failure)))


class SelectionListing(SelectionUpload):
    """Queues the images that the job lacks for whoever reads them where the models run."""

    def __init__(
        self, jobs: "Jobs", job: str, selection: ImageSelection, max_bytes: int, store: "Store"
    ) -> None:
        """``store`` is where the job is kept."""
        super().__init__(jobs, job, selection, max_bytes)
        self._store = store

    def send(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """See ``SelectionUpload``; yields whenever a batch is queued."""
        from secondlook.store.queue import NewItem

        queue = self._store.queue
        run_id = queue.get(self._job).run_id
        images = itertools.takewhile(lambda _: not stopped(), self._walk())
        lacking = (image for image in images if find_sorted(self._known, image.key) is None)
        while batch := list(itertools.islice(lacking, OFFER_BATCH)):
            new = (
                NewItem(image.key, name_to_text(image.name), image.size, image.mtime_ns)
                for image in batch
            )
            queue.add(run_id, new, reopen=True)
            yield


class FetchedResults:
    """The results of the images that exist now, in the order of the folder.

    They are fetched from the service once and read as often as the outputs need. They lie in a
    temporary file; an image takes five numbers of memory, whatever the size of its result.
    """

    def __init__(self, folder: Path, keys: "array[int]") -> None:
        """``keys`` of the images, in order; results of other images are not taken."""
        self._folder = folder
        self.keys = keys
        """Of the images, in order."""
        in_order = np.array(keys, dtype=np.int64)
        self._order = np.argsort(in_order, kind="stable")
        self._sorted = in_order[self._order]
        self._offsets = np.full(len(in_order), -1, dtype=np.int64)
        self._cursors = np.zeros(len(in_order), dtype=np.int64)
        self._hashes = np.zeros(len(in_order), dtype=np.int64)
        self._has_hash = np.zeros(len(in_order), dtype=np.bool_)
        self.newest = 0.0
        """When the last of them was decided, seconds since 1970; 0 where there is none."""
        with explain_write_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open to the end)

    def __contains__(self, key: int) -> bool:
        return find_sorted(self._sorted, key) is not None

    def add(self, found: JobResult) -> None:
        """Keep a result, if its image exists now. Raises ``StorageFull``."""
        rank = find_sorted(self._sorted, found.key)
        if rank is None:
            return
        result, place = found.result, self._order[rank]
        if not is_below(text_to_name(result.name)):
            raise Damaged(
                f"the server calls an image '{result.name:.80}', which was never sent; run "
                "`secondlook check` where its store is, or use a server that you trust"
            )
        line = json.dumps(result.to_dict(), separators=(",", ":")).encode("ascii") + b"\n"
        with explain_write_errors(self._folder):
            self._offsets[place] = self._file.seek(0, 2)
            self._file.write(line)
            self._file.flush()  # else a full disk would show only when it is read
        self._cursors[place] = found.cursor
        self._hashes[place] = found.perceptual_hash or 0
        self._has_hash[place] = found.perceptual_hash is not None
        self.newest = max(self.newest, found.decided_at)

    def results(self) -> Iterator[tuple[str, LabelResult]]:
        """(name, result) of every image that has one."""
        for offset in map(int, self._offsets):  # a list of them would take five times as much
            if offset >= 0:
                self._file.seek(offset)
                result = LabelResult.from_dict(json.loads(self._file.readline()))
                yield text_to_name(result.name), result

    def cursors(self) -> Iterator[int]:
        """The cursor of each of these results."""
        return map(int, self._cursors[self._offsets >= 0])

    def hashes(self) -> Iterator[int | None]:
        """The perceptual hash of the image of each of these results."""
        there = self._offsets >= 0
        known = zip(self._hashes[there], self._has_hash[there], strict=True)
        return (int(found) if has_hash else None for found, has_hash in known)
