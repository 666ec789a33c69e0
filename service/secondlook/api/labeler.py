"""``secondlook.label``, and ``Labeler`` for whoever labels more than once with the same models.

Images go to a service as those of every command do: one that is started in this process, or with
``server`` one that runs elsewhere.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from secondlook.api.given_images import FilesGiven, GivenImages, ImagesInput, given_images
from secondlook.api.label_results import LabelResults
from secondlook.api.written_classes import WrittenClasses, ontology_of
from secondlook.cli.connection import (
    IN_FLIGHT,
    RETRY,
    TIMEOUT_S,
    connected,
    running_service,
    warn_about_demo_models,
)
from secondlook.cli.label import ERRORS_OF_ONE_IMAGE, label_into
from secondlook.cli.micro import with_outline
from secondlook.cli.output import bar
from secondlook.cli.output_folder import FAILED, FailedImage, OutputFolder, read_failures
from secondlook.cli.tracked_runs import check_can_track, unasked_pipeline
from secondlook.config.settings import SOURCES, Settings
from secondlook.config.stop_signals import call_off
from secondlook.core.frame_names import DEFAULT_FPS
from secondlook_client import Client
from secondlook_client.errors import (
    DeadlineExceeded,
    InvalidInput,
    SecondlookError,
    ServerFailure,
    UnreadableFile,
)
from secondlook_client.images import sendable
from secondlook_client.ontology import Ontology
from secondlook_client.values import LabelResult

Key: TypeAlias = tuple[int, str]
"""Place and name of an image."""
OF_ONE_IMAGE = (*ERRORS_OF_ONE_IMAGE, UnreadableFile, ServerFailure, DeadlineExceeded)
"""Any other error would be the same for all images."""


def label(
    images: ImagesInput,
    classes: WrittenClasses,
    *,
    proposer: str | None = None,
    verifier: str | None = None,
    segmenter: str | None = None,
    models: str | None = None,
    device: str | None = None,
    server: str | None = None,
    out: str | os.PathLike[str] | None = None,
    formats: Sequence[str] = ("coco",),
    progress: bool = True,
    fps: float = DEFAULT_FPS,
    track: bool = False,
    **settings: Any,
) -> LabelResults:
    """Label images with words.

        labels = secondlook.label("photos/", ["dog", "cat"])
        labels.save("labels/", formats=["coco", "yolo"])

    ``images`` is a folder, a file, a list of paths, an image in memory (a numpy array in RGB, a
    Pillow image, encoded bytes) or any iterable of those; an array of OpenCV is
    ``secondlook_client.bgr(frame)``. A video file is its frames, ``fps`` of each second (0: all).
    ``classes`` is a list of names or of lines as ``-c`` takes them, a dict of phrases by name, an
    ``Ontology``, or the path of a YAML file.

    ``proposer`` and ``verifier`` (or ``models`` for both), ``segmenter``, which adds masks,
    ``device`` and all other ``settings`` are those of ``secondlook label``, with the same defaults,
    file and environment variables;
    ``server`` (host:port) labels through a running service instead. ``progress`` goes to stderr.

    ``track`` follows objects through the frames of videos, or of a folder of images in order: the
    verifier is asked about each object, not in each frame, and ``track`` of a label is its number.
    It needs files, and the models in this process.

    With ``out``, a folder, it is the same as that command: it writes ``formats``, the gallery and
    all scores there, continues a run that was stopped, and needs files. Without, results stay in
    memory, some kilobytes for each image, and images that are iterated over are freed.

    An image that cannot be labelled is in ``failed`` of the result. Raises a ``SecondlookError``
    for everything that concerns all images, or where none could be labelled.
    """
    read = _settings(proposer, verifier, segmenter, models, device, settings)
    ontology = ontology_of(classes)
    skip = Path(out) if out else None
    given = given_images(images, read.images, raw=not server, out=skip, fps=fps)
    if track:
        check_can_track(read, ontology, server)
    if out is not None:
        return _label_into(
            Path(out), given, ontology, read, server, formats, fps if track else None
        )
    if track:
        return _label_tracks(given, ontology, read, fps)
    with _service(server, read) as client:
        return _label(client, given, ontology, progress)


class Labeler:
    """Models that stay loaded, for several calls; a context manager.

        with secondlook.Labeler(proposer="IDEA-Research/grounding-dino-tiny") as labeler:
            dogs = labeler.label("photos/", ["dog"])
            cats = labeler.label(frame, ["cat"])

    One call at a time. Loading raises ``NotFound``, ``MissingExtra`` and ``BadSetting``.
    """

    def __init__(
        self,
        *,
        proposer: str | None = None,
        verifier: str | None = None,
        segmenter: str | None = None,
        models: str | None = None,
        device: str | None = None,
        server: str | None = None,
        **settings: Any,
    ) -> None:
        """Load the models, or connect to ``server``; see ``label`` for the settings."""
        self._settings = _settings(proposer, verifier, segmenter, models, device, settings)
        self._local = not server
        with ExitStack() as stack:
            self._client = stack.enter_context(_service(server, self._settings))
            self._stack = stack.pop_all()

    def label(
        self,
        images: ImagesInput,
        classes: WrittenClasses,
        *,
        progress: bool = True,
        fps: float = DEFAULT_FPS,
    ) -> LabelResults:
        """As ``secondlook.label`` without ``out``."""
        ontology = ontology_of(classes)
        given = given_images(images, self._settings.images, raw=self._local, fps=fps)
        return _label(self._client, given, ontology, progress)

    def close(self) -> None:
        """Free the models, or hang up."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _settings(
    proposer: str | None,
    verifier: str | None,
    segmenter: str | None,
    models: str | None,
    device: str | None,
    others: dict[str, Any],
) -> Settings:
    given = {"proposer": proposer, "verifier": verifier, "segmenter": segmenter}
    given |= {"models": models, "device": device}
    config = others.pop("config", None)
    read = SOURCES.load(
        {**given, **others}, Path(config) if config else None, source=lambda name: f"{name}="
    )
    return with_outline(read)


@contextmanager
def _service(server: str | None, settings: Settings) -> Iterator[Client]:
    """A client of the service that labels."""
    if not server:
        warn_about_demo_models(settings)
    with running_service(server, settings) as (address, _), Client(address, retry=RETRY) as client:
        yield client


def _label(client: Client, given: GivenImages, ontology: Ontology, progress: bool) -> LabelResults:
    """Label everything, in memory. Raises the first failure where nothing could be labelled."""
    found: dict[int, tuple[str, LabelResult]] = {}
    failed: dict[int, tuple[str, SecondlookError]] = {}
    total = given.count()
    shown = bar("labelling", total or 0) if progress else nullcontext(lambda now, whole: None)
    with shown as step:
        for (place, name), answer in _answers(client, given, ontology):
            if isinstance(answer, LabelResult):
                found[place] = name, answer
            elif isinstance(answer, OF_ONE_IMAGE):
                failed[place] = name, answer
            else:
                raise answer
            done = len(found) + len(failed)
            step(done, max(total or 0, done))
    if not found:
        raise failed[min(failed)][1]
    results = [found[place] for place in sorted(found)]
    failures = [
        FailedImage(name, failure.reason, str(failure))
        for _, (name, failure) in sorted(failed.items())
    ]
    return LabelResults(ontology, lambda: iter(results), failures, given)


def _answers(
    client: Client, given: GivenImages, ontology: Ontology
) -> Iterator[tuple[Key, LabelResult | SecondlookError]]:
    """((place, name), result or failure) of each image as it is done."""
    unreadable: list[tuple[Key, SecondlookError]] = []

    def readable() -> Iterator[tuple[Key, bytes]]:
        for place, (name, content) in enumerate(given.encoded()):
            if isinstance(content, SecondlookError):
                unreadable.append(((place, name), content))
            else:
                yield (place, name), content

    yield from client.label_many(
        readable(),
        classes=ontology.classes,
        concurrency=IN_FLIGHT,
        timeout_s=TIMEOUT_S,
        name=lambda key: sendable(key[1])[-1000:],
    )
    yield from unreadable


def _label_tracks(
    given: GivenImages, ontology: Ontology, settings: Settings, fps: float
) -> LabelResults:
    """With tracks, in memory when it is done: meanwhile the frames are in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="secondlook-") as folder:
        found = _label_into(Path(folder), given, ontology, settings, None, (), fps)
        results, failed = [(one.name, one) for one in found], found.failed
    return LabelResults(ontology, lambda: iter(results), failed, given)


def _label_into(
    out: Path,
    given: GivenImages,
    ontology: Ontology,
    settings: Settings,
    server: str | None,
    formats: Sequence[str],
    track_fps: float | None = None,
) -> LabelResults:
    """As the command does."""
    if not isinstance(given, FilesGiven):
        raise InvalidInput(
            "a run with track=True reads its frames twice, so it needs files"
            if track_fps is not None
            else "a run with out= continues where it stopped, so it needs files; leave out= away "
            "and write the labels with save()"
        )
    if not server:
        warn_about_demo_models(settings)
    build = None if track_fps is None else unasked_pipeline
    with OutputFolder(out) as folder:
        try:
            with connected(server, settings, ontology, lambda: folder.store, build) as session:
                run = label_into(
                    folder, session, given.selection, formats=tuple(formats), track_fps=track_fps
                )
        except KeyboardInterrupt:
            call_off()  # a notebook lives on
            raise
        return LabelResults(ontology, run.results, read_failures(out / FAILED), given)
