"""``secondlook label --track``: what it needs, and the run that it makes of the job's results."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from secondlook.cli.output import bar, counted
from secondlook.cli.output_folder import ANSWERS, OutputFolder
from secondlook.config.entrypoint import gentle_interrupts
from secondlook.config.settings import Settings
from secondlook.config.terminal import echo
from secondlook.labeling.verify_budget import ALL
from secondlook_client.errors import BadSetting
from secondlook_client.ontology import Ontology
from secondlook_client.values import View

if TYPE_CHECKING:
    from secondlook.cli.connection import Session
    from secondlook.labeling.pipeline import Pipeline


def check_can_track(settings: Settings, ontology: Ontology, server: str | None) -> None:
    """Raises ``BadSetting`` for what does not go together with tracks."""
    models, pipeline = settings.models, settings.pipeline
    masked = [spec.name for spec in ontology.classes if spec.mask or spec.view is View.MASK]
    causes = {
        "--server: frames are tracked where they were labelled": server,
        "--verifier none: each track is to be asked about": models.verifier.strip() == "none",
        "--student, which labels alone": settings.cascade.student,
        "--segmenter: only what is a label has a mask, and that is not known yet": (
            models.segmenter.strip() != "none" or masked
        ),
        "--verify-budget: the tracks say what is asked": pipeline.verify_budget != ALL,
        "--verify-empty, which asks about whole frames": pipeline.verify_empty,
        "--reuse-answers: the frames of a track share its answers": pipeline.reuse_answers,
        "--decoys: one a track would double the questions": pipeline.decoys,
    }
    if cause := next((text for text, found in causes.items() if found), ""):
        raise BadSetting(f"--track does not go together with {cause}; leave one of them out")


def unasked_pipeline(settings: Settings) -> "Pipeline":
    """The models that the settings name, of which the verifier waits for the tracks."""
    from secondlook.labeling.tracks import UnaskedPipeline
    from secondlook.models.registry import load_proposer, load_verifier

    models = settings.models
    verifier = load_verifier(models.verifier, models)  # first: a model server may be down
    return UnaskedPipeline(load_proposer(models.proposer, models), verifier, settings.pipeline)


def track_job(
    folder: OutputFolder,
    session: "Session",
    job: str,
    keys: Collection[int],
    fps: float,
    fill_gaps: bool,
) -> str:
    """The run with the labels of the tracks of a finished job, which the folder notes.

    ``keys`` are those of the images that exist now. Raises ``KeyboardInterrupt`` where it was
    stopped; a later start goes on from there.
    """
    from secondlook.jobs.answer_log import AnswerLog
    from secondlook.jobs.tracking import TrackingStopped, TrackProgress, track_run

    own = session.own
    if own is None or own.store is None:
        raise BadSetting("tracks are made where the frames were labelled; leave out --server")
    log = AnswerLog(folder.path / ANSWERS)
    with bar("following objects", 0, unit="frames") as step, gentle_interrupts() as stopped:
        try:
            progress = TrackProgress(step, stopped)
            run = track_run(own.store, own.pipeline, job, keys, fps, log, progress, fill_gaps)
        except TrackingStopped:
            raise KeyboardInterrupt(
                f"stopped: the boxes of all frames are kept in {folder.path}; the same command "
                "continues from there"
            ) from None
    echo(
        f"{counted(run.tracks, 'track')} in {counted(run.frames, 'frame')}; the verifier was shown "
        f"{run.looks / max(run.frames, 1):.2f} boxes a frame",
        err=True,
    )
    folder.note_labels(run.run.name)
    return run.run.name
