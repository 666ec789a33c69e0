"""Trying things before they run for weeks: one image, and everything that ``run`` will need."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from secondlook.core.errors import InvalidInput, NotFound, SecondlookError
from secondlook.core.images import decode
from secondlook.core.ontology import Ontology
from secondlook.detector.frames import Frame, Skipped
from secondlook.edge.app import open_student
from secondlook.edge.hooks import line_of, load_hook
from secondlook.edge.model_trial import Loaded, ModelSlot, Seen
from secondlook.edge.settings import EdgeSettings
from secondlook.edge.sources import open_source
from secondlook_client import Client, ClientError, RetryPolicy

FIRST_FRAME_S = 10.0
ANSWER_S = 5.0


class _Heard:
    def survived(self, model: Loaded) -> None:
        pass

    def kept(self, model: Loaded) -> None:
        pass

    def refused(self, model: Loaded, why: str) -> None:
        raise InvalidInput(f"the student cannot be used: {why}")


def look_at(
    student: Path, images: Sequence[Path], precision: str = "auto", threads: int = 0
) -> Iterator[tuple[Frame, Seen]]:
    """What a student folder finds on each image, also below its thresholds.

    Raises ``NotFound``, ``BadImage`` and what opening a student raises.
    """
    detector = open_student(student, precision, threads)
    slot = ModelSlot(_Heard())
    slot.offer(Loaded(0, detector.manifest.digest, detector, proven=True))
    try:
        for path in images:
            try:
                data = path.read_bytes()
            except OSError as cause:
                raise NotFound(f"'{path}' cannot be read ({cause.strerror})") from cause
            frame = Frame(decode(data, path.name).pixels, path.name, 0.0, 0.0, data)
            seen = slot.look(frame.pixels)
            assert seen is not None
            yield frame, seen
    finally:
        slot.close()


def told(frame: Frame, seen: Seen, as_json: bool) -> str:
    """The detections of one image for a person, or as ``run`` prints them."""
    found = [d for d in seen.found if d.certain]
    if as_json:
        return line_of(frame, found)
    head = f"{frame.name}: {len(found)} found in {seen.ms:.0f} ms"
    rows = [
        f"  {d.class_name:24} {d.probability:5.0%}  " + " ".join(f"{side:.0f}" for side in d.box)
        for d in found
    ]
    below = len(seen.found) - len(found)
    rest = [f"  and {below} below the thresholds"] if below else []
    return "\n".join([head, *rows, *rest])


def checks(settings: EdgeSettings, ontology: Ontology | None) -> Iterator[tuple[str, str]]:
    """(what was tried, why it does not work) for everything asked for; empty where it works."""
    yield "source", _why(lambda: _one_frame(settings))
    if settings.student:
        yield "student", _why(lambda: open_student(Path(settings.student)).close())
    if settings.hook:
        yield "hook", _why(lambda: load_hook(settings.hook))
    if settings.server:
        yield f"server {settings.server}", _why(lambda: _server(settings))
        yield "spool", _why(lambda: _writable(Path(settings.spool)))
    if settings.server and settings.model:
        yield f"model {settings.model}", _why(lambda: _model(settings))
        yield "models folder", _why(lambda: _writable(Path(settings.models)))


def _why(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (SecondlookError, ClientError, OSError) as cause:
        return str(cause)
    return ""


def _one_frame(settings: EdgeSettings) -> None:
    source = open_source(settings.source, follow=settings.follow)
    try:
        frame = source.read(FIRST_FRAME_S)
    finally:
        source.close()
    if isinstance(frame, Skipped):
        raise InvalidInput(f"{frame.name}: {frame.reason}")
    if frame is None and not settings.follow:
        raise InvalidInput(f"no frame within {FIRST_FRAME_S:g} s; is the camera on?")


def _client(settings: EdgeSettings) -> Client:
    return Client(settings.server, retry=RetryPolicy(unavailable_s=0))


def _server(settings: EdgeSettings) -> None:
    with _client(settings) as client:
        client.info(timeout_s=ANSWER_S)


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
