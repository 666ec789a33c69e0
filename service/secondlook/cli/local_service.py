"""Settings to a service in this process; needs what ``secondlook[serve]`` installs."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from secondlook.cascade.router import Cascade
from secondlook.cli.calibrators import pipeline_calibrator
from secondlook.config.settings import ServerSettings, Settings
from secondlook.detector.trial import open_tried
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.models.registry import load_pipeline, prepare_process
from secondlook.registry.active_model import PromotionWatcher
from secondlook.server.app import Server, running_server
from secondlook.server.metrics import Metrics
from secondlook.store import Store, open_store
from secondlook_client.errors import BadSetting

MODEL = "model:"
"""Before the name of a model, as ``--student``: the cascade uses its promoted version."""
GRACE_S = 2.0
"""Of a server in this process, which has no other clients."""


BuildPipeline = Callable[[Settings], Pipeline]
"""Loads the models."""


@contextmanager
def running_engine(
    settings: Settings,
    metrics: Metrics,
    store: Store | None = None,
    build: BuildPipeline = load_pipeline,
) -> Iterator[Engine]:
    """The models behind their queues; loading them, by ``build``, is the slow part.

    With a student of ``model:NAME`` the promotions in ``store`` are followed. Raises what loading
    a model raises: ``NotFound``, ``MissingExtra``, ``BadSetting``; and ``Damaged`` for a student
    whose files are not what its manifest says.
    """
    models, student = settings.models, settings.cascade.student
    if student.startswith(MODEL) and store is None:
        raise BadSetting(
            f"--student {student} follows the promotions of a server that keeps models; "
            "give --data DIR, or the folder of a student"
        )
    prepare_process(models)
    pipeline = build(settings)
    pipeline.use_calibrator(pipeline_calibrator(settings, pipeline, store))
    if student:
        with _cascade(settings, pipeline, metrics, store) as cascade:
            yield cascade
    else:
        with closing(Engine(pipeline, settings.batching, metrics.batch_done)) as engine:
            yield engine


@contextmanager
def _cascade(
    settings: Settings, pipeline: Pipeline, metrics: Metrics, store: Store | None
) -> Iterator[Cascade]:
    """The models behind a student, which outlives them: they finish what was accepted."""
    student, threads = settings.cascade.student, settings.models.threads
    given = settings.cascade, settings.batching, metrics.batch_done, metrics.passed
    if store and student.startswith(MODEL):
        cascade = Cascade(pipeline, None, *given, follows=student)
        name = student.removeprefix(MODEL)
        with PromotionWatcher(store, name, cascade.use_student, threads), closing(cascade):
            yield cascade
        return
    with (
        closing(open_tried(Path(student), "fp32", threads)) as detector,
        closing(Cascade(pipeline, detector, *given)) as cascade,
    ):
        yield cascade


@contextmanager
def configured_store(settings: Settings) -> Iterator[Store | None]:
    """The store that a server with these settings works on; None when it keeps nothing.

    Raises ``BadSetting`` for settings that name half a store, and what ``open_store`` raises.
    """
    place = settings.store
    if place.given:
        data = Path(place.data)
        with open_store(data, place.database_url, place.blob_url, serving=True) as store:
            yield store
    elif place.database_url or place.blob_url or settings.server.image_roots:
        raise BadSetting(
            "there is no place for images and results; give --data DIR, or both --database-url "
            "and --blob-url"
        )
    else:
        yield None


@contextmanager
def local_server(
    settings: Settings,
    data: Callable[[], Path] | None = None,
    build: BuildPipeline = load_pipeline,
) -> Iterator[Server]:
    """A service for this process alone: on loopback, at a free port; ``build`` loads its models.

    Without ``data`` it keeps nothing. Otherwise it keeps things where the settings say, or in the
    folder that ``data`` returns, which is called once the models are loaded.
    """
    metrics = Metrics()
    server = ServerSettings(port=0, grace_s=GRACE_S, max_trainings=0)
    own = Settings(images=settings.images, server=server)
    with running_engine(settings, metrics, build=build) as engine:
        if data is None:
            with running_server(engine, None, own, metrics) as running:
                yield running
            return
        folder = data()
        named = settings.store.data or settings.store.database_url
        place = settings if named else settings.replace(data=str(folder))
        with (
            configured_store(place) as store,
            running_server(engine, None, own, metrics, store) as running,
        ):
            yield running
