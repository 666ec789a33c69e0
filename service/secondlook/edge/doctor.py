"""Checks before the agent runs unattended: one image, and everything that ``run`` needs."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from secondlook.config.extras import check_extras
from secondlook.core.images import decode
from secondlook.detector.frames import SkippedFrame, SourceFrame
from secondlook.edge.app import StudentGate, open_student
from secondlook.edge.connect import connect
from secondlook.edge.hooks import json_line, load_hook
from secondlook.edge.model_trial import FrameDetections, LoadedModel, ModelRunner, TrialListener
from secondlook.edge.settings import EdgeSettings
from secondlook.edge.sources import open_source
from secondlook_client import Client, RetryPolicy
from secondlook_client.errors import InvalidInput, NotFound, SecondlookError
from secondlook_client.ontology import Ontology

FIRST_FRAME_S = 10.0
SERVER_S = 5.0


class _RaiseRefusal(TrialListener):
    def refused(self, model: LoadedModel, why: str) -> None:
        raise InvalidInput(f"the student cannot be used: {why}")


def detect_on(
    student: Path, images: Sequence[Path], precision: str = "auto", threads: int = 0
) -> Iterator[tuple[SourceFrame, FrameDetections]]:
    """What a student folder finds on each image, also below its thresholds.

    Raises ``NotFound``, ``BadImage`` and what opening a student raises.
    """
    for path in images:
        if not path.is_file():
            raise NotFound(f"'{path}' cannot be read (no such file)")
    StudentGate(EdgeSettings(precision=precision))(student)
    detector = open_student(student, precision, threads)
    runner = ModelRunner(_RaiseRefusal())
    runner.offer(LoadedModel(0, detector.manifest.digest, detector, proven=True))
    try:
        for path in images:
            try:
                data = path.read_bytes()
            except OSError as cause:
                raise NotFound(f"'{path}' cannot be read ({cause.strerror})") from cause
            frame = SourceFrame(decode(data, path.name).pixels, path.name, 0.0, 0.0, data)
            detections = runner.detect(frame.pixels)
            assert detections is not None
            yield frame, detections
    finally:
        runner.close()


def format_detections(frame: SourceFrame, detections: FrameDetections, as_json: bool) -> list[str]:
    """The detections of one image as lines of text, or as the JSON line that ``run`` prints."""
    found = [d for d in detections.found if d.certain]
    if as_json:
        return [json_line(frame, found)]
    head = f"{frame.name}: {len(found)} found in {detections.ms:.0f} ms"
    rows = [
        f"  {d.class_name:24} {d.probability:5.0%}  " + " ".join(f"{side:.0f}" for side in d.box)
        for d in found
    ]
    below = len(detections.found) - len(found)
    rest = [f"  and {below} below the thresholds"] if below else []
    return [head, *rows, *rest]


def run_checks(settings: EdgeSettings, ontology: Ontology | None) -> Iterator[tuple[str, str]]:
    """(what was checked, its problem) for everything in the settings; empty where it works."""
    yield "packages", _problem(lambda: check_extras("the agent", "edge"))
    yield "source", _problem(lambda: _one_frame(settings))
    if settings.student:
        yield "student", _problem(lambda: StudentGate(settings)(Path(settings.student)))
    if settings.hook:
        yield "hook", _problem(lambda: load_hook(settings.hook))
    if settings.server:
        yield f"server {settings.server}", _problem(lambda: _server(settings))
        yield "spool", _problem(lambda: _writable(Path(settings.spool)))
    if settings.server and settings.model:
        yield f"model {settings.model}", _problem(lambda: _model(settings))
        yield "models folder", _problem(lambda: _writable(Path(settings.models)))


def _problem(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (SecondlookError, OSError) as cause:
        return str(cause)
    return ""


def _one_frame(settings: EdgeSettings) -> None:
    source = open_source(settings.source, follow=settings.follow)
    try:
        frame = source.read(FIRST_FRAME_S)
    finally:
        source.close()
    if isinstance(frame, SkippedFrame):
        raise InvalidInput(f"{frame.name}: {frame.reason}")
    if frame is None and not settings.follow:
        raise InvalidInput(f"no frame within {FIRST_FRAME_S:g} s; check that the camera is on")


def _client(settings: EdgeSettings) -> Client:
    return connect(settings, RetryPolicy(unavailable_s=0))


def _server(settings: EdgeSettings) -> None:
    with _client(settings) as client:
        client.info(timeout_s=SERVER_S)


def _model(settings: EdgeSettings) -> None:
    with _client(settings) as client:
        if client.models.current(settings.model) is None:
            raise NotFound(
                f"the server has promoted no version of '{settings.model}'; see `secondlook "
                "models list`"
            )


def _writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
