"""Distillation from end to end: a training set in, a measured student with its report out.

OUT/manifest.json, model.onnx, model.int8.onnx, self_test.npz    what devices fetch
OUT/report.html, report.json                                     what people look at
OUT/torch/                                                       what to train on from
OUT/checkpoints/                                                 only while it is under way
OUT/images.json                                                  which images it was made of
OUT/bad_images.txt                                               those left out, if there are any
"""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from secondlook.core.files import explain_write_errors, remove
from secondlook.datasets.bad_images import BadImageCount, readable
from secondlook.datasets.bad_images import write_record as write_images
from secondlook.datasets.samples import TrainingSet
from secondlook.detector.manifest import (
    INT8,
    MAX_LINE,
    StudentManifest,
    describe_file,
    write_manifest,
)
from secondlook.reports import training as report
from secondlook.training.export.export import ExportResult, export_student
from secondlook.training.finished import finished_student
from secondlook.training.progress import (
    CHECKPOINTS,
    TORCH,
    Progress,
    ProgressCallback,
    TrainingRecord,
    read_record,
)
from secondlook.training.settings import TrainingSettings
from secondlook.training.trainer import ShouldStop, train
from secondlook_client.errors import BadSetting, Cancelled, Damaged
from secondlook_client.ontology import is_one_line

GROUPS_NOTE = (
    "model.onnx scores every class. Of boxes of different classes of one group that overlap by "
    "more than half (IoU), keep the most probable by the manifest's group_calibration: "
    "secondlook's own detector does"
)
"""In the report, for those who run the model with other software."""


def distill(
    data: TrainingSet,
    settings: TrainingSettings,
    out: Path,
    tell: ProgressCallback = lambda progress: None,
    stop: ShouldStop = lambda: False,
    *,
    name: str = "",
    int8: str = "auto",
) -> StudentManifest | None:
    """Train a student on ``data`` into the folder ``out``, measure and export it.

    Goes on where the same call was stopped; a student that is done is only read, and one whose
    files do not open is exported again from its weights. ``tell`` is called at every step,
    ``name`` is the student's (empty: the data's), ``int8`` is ``auto`` (kept unless it finds
    less), ``required`` or ``never``. None in the processes of a training on several devices that
    are not the first. Raises what ``trainer.train`` and ``export_student`` raise: ``Cancelled``,
    ``OutputExists``, ``BadSetting``, ``ModelDrifted``, ``StorageFull``, ``InvalidInput``.
    """
    if len(name) > MAX_LINE or not is_one_line(name):
        raise BadSetting(f"name: expected at most {MAX_LINE} printable characters")
    _hide_progress_bars()
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    done = finished_student(data, settings, out)
    if done is not None:
        tell(Progress("report", 1, 1, map50=done.metrics.get("map50"), note=f"{out} is done"))
        return done
    first = os.environ.get("RANK", "0") == "0"
    if first and data.images.used:
        write_images(out, data.images)
    train(data, settings, out, tell, stop)
    if not first:
        return None
    # Those that were lost while it was trained must not end it now.
    count = BadImageCount(data, settings.max_bad_images, out)
    data = replace(data, held_out=readable(data.held_out, count))
    return _exported(data, settings, out, tell, stop, name=name or data.name, int8=int8)


def _exported(
    data: TrainingSet,
    settings: TrainingSettings,
    out: Path,
    tell: ProgressCallback,
    stop: ShouldStop,
    *,
    name: str,
    int8: str,
) -> StudentManifest:
    """Everything after the training; done again from its beginning where it was stopped."""
    folder = out / TORCH
    record = read_record(folder)
    if record is None:
        raise Damaged(f"{folder} has no record of its training; remove {out} to begin anew")

    def on_compared(images: int) -> None:
        tell(Progress("export", images, len(data.held_out), map50=record.best_map50))

    began = time.monotonic()
    for left in out.glob(".export-*"):  # of an export that was killed
        remove(left)
    on_compared(0)
    _stop_if(stop)
    exported = export_student(
        folder,
        out,
        data.held_out,
        data.classes,
        data.groups,
        int8=int8,
        on_compared=on_compared,
    )
    seconds = {"training": record.seconds, "exporting": round(time.monotonic() - began, 1)}
    map50, images = exported.scores.map50, len(data.held_out)
    for warning in exported.warnings:
        tell(Progress("export", images, images, map50=map50, note=f"note: {warning}"))
    _stop_if(stop)
    tell(Progress("report", 0, 1, map50=map50))
    architecture = _architecture(folder)
    content = _report(data, settings, record, exported, name, architecture, seconds)
    report.write_report(out, content)
    manifest = _manifest(data, settings, exported, name, architecture, out)
    write_manifest(out, manifest)
    remove(out / CHECKPOINTS)
    tell(Progress("report", 1, 1, map50=map50))
    return manifest


def _stop_if(stop: ShouldStop) -> None:
    if stop():
        raise Cancelled("stopped after the training; the same command exports and measures it")


def _report(
    data: TrainingSet,
    settings: TrainingSettings,
    record: TrainingRecord,
    exported: ExportResult,
    name: str,
    architecture: str,
    seconds: Mapping[str, float],
) -> report.ReportInput:
    training = {"steps": f"{record.steps} of {record.of}", "trained on": record.device}
    return report.ReportInput(
        name=name,
        architecture=architecture,
        size=settings.size,
        start=record.start,
        input_size=exported.input_size,
        classes=data.classes,
        data=data.name,
        snapshot=data.digest,
        split=data.split,
        scores=exported.scores,
        samples=data.held_out,
        found=exported.detections,
        trained_on=report.PartOfData.of(data.train),
        images_per_second=exported.metrics.get("images_per_second"),
        machine="onnxruntime on a CPU, in batches",
        training=[moment.plain() for moment in record.progress()],
        seconds=seconds,
        settings={**training, **_chosen(settings)},
        parity={**exported.parity, **({"contrast groups": GROUPS_NOTE} if data.groups else {})},
        warnings=(*data.warnings, *exported.warnings),
        created_at=time.time(),
    )


def _chosen(settings: TrainingSettings) -> dict[str, Any]:
    """The settings by words, without those that were left to be chosen."""
    plain = {key.replace("_", " "): value for key, value in asdict(settings).items()}
    return {key: value for key, value in plain.items() if value not in (0, -1) or value is False}


def _manifest(
    data: TrainingSet,
    settings: TrainingSettings,
    exported: ExportResult,
    name: str,
    architecture: str,
    out: Path,
) -> StudentManifest:
    scores, files = exported.scores, (*exported.files, report.HTML, report.JSON)
    if INT8 not in files:
        remove(out / INT8)  # of an export that was stopped
    return StudentManifest(
        name=name,
        architecture=architecture,
        size=settings.size,
        classes=data.classes,
        input_size=exported.input_size,
        thresholds=tuple(float(scores.best_thresholds[one]) for one in data.classes),
        calibration=tuple(
            (float(slope), float(intercept))
            for slope, intercept in (scores.calibration[one] for one in data.classes)
        ),
        ontology=data.ontology,
        snapshot=data.digest,
        split=data.split,
        metrics=dict(exported.metrics),
        files={file: describe_file(out / file) for file in files},
        created_at=time.time(),
        groups=data.groups,
        group_calibration=exported.group_calibration,
    )


def _architecture(folder: Path) -> str:
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(folder).model_type)


def _hide_progress_bars() -> None:
    """Those of model files being read and written would be drawn into ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
