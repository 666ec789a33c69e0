"""What runs on the machines of a Ray cluster: actors that decode images, and actors with models.

They are plain classes; ``ray_cluster`` makes actors of them, and nothing here imports Ray. An image
goes from a decoding actor to one with models without passing the driver, and what comes back to the
driver is what a server's own attempt gives: a ``LabelledItem``, or the exception. A failure of one
image is its own outcome; only the death of a process is a failure of a whole call.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

from secondlook.config.settings import ImageSettings, Settings
from secondlook.core.decoding import ImageDecoder
from secondlook.core.files import text_to_name
from secondlook.core.image_folder import ImageFile, ImageSelection
from secondlook.core.sandbox import Sandbox
from secondlook.core.types import Labelled
from secondlook.core.version import installed_version
from secondlook.jobs.image_source import ImageReader, PreparedImage
from secondlook.jobs.in_flight import LabelledItem
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.vocabulary import check_words
from secondlook.models.registry import load_pipeline, prepare_process
from secondlook.store.blobs import Blobs
from secondlook.store.queue import Item
from secondlook_client.errors import BadImage, Unavailable
from secondlook_client.ontology import Ontology

DECODED_AT_A_TIME = 2
"""Images in each decoding actor: one is read and written while another is decoded."""

Value = TypeVar("Value")
Result = TypeVar("Result")
Opening = Callable[[], tuple[str, Callable[[Sequence[Value]], Result]]]
"""Opens a function where it is called, and says by what it computes; it is pickled, and what it
opens is not."""


@dataclass(frozen=True)
class ModelFacts:
    """What the driver needs to know of the models, which it does not load."""

    proposer: tuple[str, str]
    """Name and digest."""
    verifier: tuple[str, str, int] | None
    """Name, digest and least side of a view; None without one."""
    segmenter: tuple[str, str] | None
    version: str
    """Of secondlook."""

    @property
    def models(self) -> str:
        """See ``ray_cluster.MachineFacts``."""
        return str(self.proposer)

    @classmethod
    def of(cls, pipeline: Pipeline) -> "ModelFacts":
        """Of the models of a pipeline."""
        verifier, segmenter = pipeline.verifier, pipeline.segmenter
        return cls(
            (pipeline.proposer.name, pipeline.proposer.digest),
            (verifier.name, verifier.digest, verifier.min_side) if verifier else None,
            (segmenter.name, segmenter.digest) if segmenter else None,
            installed_version(),
        )


class SelectionReader(ImageReader):
    """Reads the items of a job as ``secondlook label`` would send them: from its selection."""

    def __init__(
        self,
        blobs: Blobs,
        decoder: ImageDecoder,
        ontology: Ontology,
        source: str,
        selection: ImageSelection,
    ) -> None:
        """``selection`` is where the items were listed; its folder is there on each machine."""
        super().__init__(blobs, None, decoder, ontology, source)
        self._selection = selection
        self._given = {path for path in selection.sources if not path.is_dir()}
        """Files that were named themselves, which may be links to anywhere."""

    def prepare(self, item: Item, stopping: threading.Event) -> PreparedImage:
        """Read and decode one image and store its bytes.

        Raises ``BadImage`` and ``ImageTooLarge``, ``Unavailable`` where the folder is missing,
        and what decoding and storing raise.
        """
        content = self._read(item)
        prepared = self._prepared(content, item.name, stopping)
        self._blobs.put(content)
        return prepared

    def _read(self, item: Item) -> bytes:
        selection, name = self._selection, text_to_name(item.name)
        if selection.are_files and not selection.root.is_dir():
            raise Unavailable(
                f"a machine of the cluster has no folder '{selection.root}'; mount it on each, or "
                "give the images as s3://bucket/prefix"
            )
        path = selection.root / name
        root = None if path in self._given else selection.root
        image = ImageFile(name, path, item.size, item.mtime_ns, root=root)
        content = selection.read(image, self._decoder.limits.max_image_bytes)
        if len(content) != item.size:
            raise BadImage(
                "the file was changed after it was listed; the same command labels it as it is now"
            )
        return content


class DecodingActor:
    """Reads, decodes and keeps images, each in a sandbox as everywhere."""

    def __init__(self, limits: ImageSettings, blobs: Blobs, selection: ImageSelection) -> None:
        """``blobs`` gets the bytes; both it and ``selection`` are used from this machine."""
        self._limits = limits
        self._blobs = blobs
        self._selection = selection
        self._stopping = threading.Event()

    def ready(self) -> None:
        """Return once calls are taken."""

    def prepare(
        self, items: Sequence[Item], ontology: Ontology, source: str
    ) -> list[PreparedImage | Exception]:
        """Each image ready for the models, or why it is not, in order."""
        reader = SelectionReader(self._blobs, self._decoder, ontology, source, self._selection)

        def prepared(item: Item) -> PreparedImage | Exception:
            try:
                return reader.prepare(item, self._stopping)
            except Exception as failure:  # of this image, whatever it is; the others go on
                return failure

        with ThreadPoolExecutor(DECODED_AT_A_TIME) as threads:
            return [*threads.map(prepared, items)]

    @cached_property
    def _decoder(self) -> ImageDecoder:
        return ImageDecoder(self._limits, Sandbox(DECODED_AT_A_TIME))


class ModelActor:
    """The models behind their queues, as a server has them; loaded by the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading = threading.Lock()
        self._loaded: Engine | None = None

    def ready(self) -> ModelFacts:
        """What was loaded, once it is. Raises what loading a model raises."""
        return ModelFacts.of(self._engine().pipeline)

    def check_words(self, ontology: Ontology) -> None:
        """Raises ``BadOntology`` for words that a model cannot know."""
        pipeline = self._engine().pipeline
        check_words(pipeline.proposer, pipeline.verifier, ontology)

    def label(
        self, prepared: Sequence[PreparedImage | Exception], calibrator: Calibrator | None
    ) -> list[LabelledItem | Exception]:
        """Each image labelled and decided by ``calibrator``, or why it is not, in order."""
        engine = self._engine(calibrator)
        tasks = [one if isinstance(one, Exception) else one.task for one in prepared]
        waiting = [
            task if isinstance(task, Exception) else engine.submit(task, background=True)
            for task in tasks
        ]
        return [_outcome(*one) for one in zip(prepared, waiting, strict=True)]

    def _engine(self, calibrator: Calibrator | None = None) -> Engine:
        with self._loading:
            if self._loaded is None:
                prepare_process(self._settings.models)
                batching = self._settings.batching
                room = 2 * batching.propose_batch  # the last of a batch may be leaving still
                pipeline = load_pipeline(self._settings)
                self._loaded = Engine(pipeline, replace(batching, max_in_flight=room))
            pipeline = self._loaded.pipeline
            if calibrator and pipeline.calibrator != calibrator:
                pipeline.use_calibrator(calibrator)
            return self._loaded


def _outcome(
    prepared: PreparedImage | Exception, waiting: "Future[Labelled] | Exception"
) -> LabelledItem | Exception:
    if isinstance(prepared, Exception):
        return prepared
    if isinstance(waiting, Exception):
        return waiting
    try:
        return LabelledItem(waiting.result(), prepared.stored, prepared.perceptual_hash)
    except Exception as failure:  # whatever a model raises is this image's outcome
        return failure


@dataclass(frozen=True)
class MapFacts:
    """What the driver needs to know of the function that an actor opened."""

    models: str
    """What it computes by, such as a model and its version."""
    version: str
    """Of secondlook."""


class MapActor(Generic[Value, Result]):
    """Calls a function, which the first call opens, on batches of values."""

    def __init__(self, opening: Opening[Value, Result]) -> None:
        self._opening = opening

    def ready(self) -> tuple[MapFacts, None]:
        """What was opened, once it is. Raises what opening it raises."""
        return self._opened[0], None

    def call(self, values: Sequence[Value]) -> tuple[MapFacts, Result]:
        """The result for a batch. Raises what the function raises."""
        facts, function = self._opened
        return facts, function(values)

    @cached_property
    def _opened(self) -> tuple[MapFacts, Callable[[Sequence[Value]], Result]]:
        name, function = self._opening()
        return MapFacts(name, installed_version()), function
