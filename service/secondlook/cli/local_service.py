"""Settings to a service in this process; needs what ``secondlook[serve]`` installs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from secondlook.cascade.router import Cascade, CascadeRule
from secondlook.cascade.trust import TrustRule
from secondlook.cli.options import image_limits
from secondlook.config.settings import Settings
from secondlook.core.errors import BadSetting
from secondlook.detector.runtime import OnnxDetector
from secondlook.labeling.engine import Engine, EngineLimits
from secondlook.labeling.pipeline import Limits, Pipeline
from secondlook.labeling.verifier import VerdictCache
from secondlook.models.registry import load_proposer, load_verifier
from secondlook.registry.active_model import Promoted
from secondlook.server.app import Server, ServerOptions, running_server
from secondlook.server.metrics import Metrics
from secondlook.store import Store, open_store

MODEL = "model:"
"""Before the name of a model whose promotions a cascade follows."""
GRACE_S = 2.0
"""Nobody else waits for the answers of a server of our own."""


@contextmanager
def running_engine(
    settings: Settings, metrics: Metrics, store: Store | None = None
) -> Iterator[Engine]:
    """The models behind their queues; loading them is the slow part.

    A cascade of ``model:NAME`` follows the promotions in ``store``. Raises what ``plugins`` raises:
    ``NotFound``, ``MissingExtra``, ``BadSetting``; and ``Damaged`` for a student that is not what
    its manifest says.
    """
    _check_cascade(settings, store)
    if settings.threads:  # read by torch when it is first imported, with the models
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if not sys.stderr.isatty():  # bars of model files being read, drawn into logs
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = settings.model_options()
    pipeline = Pipeline(
        load_proposer(settings.proposer, options),
        load_verifier(settings.verifier, options),
        Limits(settings.floor, settings.max_boxes, settings.max_iou),
        VerdictCache(settings.cache_answers),
    )
    limits = EngineLimits(
        settings.propose_batch,
        settings.verify_batch,
        settings.max_wait_ms / 1000,
        settings.max_images,
    )
    if not settings.cascade:
        with closing(Engine(pipeline, limits, metrics.batch_done)) as engine:
            yield engine
        return
    with _cascade(settings, pipeline, limits, metrics, store) as cascade:
        yield cascade


def _check_cascade(settings: Settings, store: Store | None) -> None:
    if settings.cascade.startswith(MODEL) and store is None:
        raise BadSetting(
            f"--cascade {settings.cascade} follows the promotions of a server that keeps models; "
            "give --data DIR, or the folder of a student"
        )


@contextmanager
def _cascade(
    settings: Settings,
    pipeline: Pipeline,
    limits: EngineLimits,
    metrics: Metrics,
    store: Store | None,
) -> Iterator[Cascade]:
    """The models behind a student, which outlives them: they finish what was accepted."""
    rule = CascadeRule(TrustRule(settings.audit_share, settings.agreement))
    told = metrics.batch_done, metrics.passed
    if store and settings.cascade.startswith(MODEL):
        cascade = Cascade(pipeline, None, rule, limits, *told, follows=settings.cascade)
        name = settings.cascade.removeprefix(MODEL)
        with Promoted(store, name, cascade.adopt, settings.threads), closing(cascade):
            yield cascade
        return
    student = OnnxDetector.open(Path(settings.cascade), "fp32", settings.threads)
    with (
        closing(student),
        closing(Cascade(pipeline, student, rule, limits, *told)) as cascade,
    ):
        yield cascade


def server_options(settings: Settings) -> ServerOptions:
    """Where the server of these settings listens and what it takes."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        metrics_port=settings.metrics_port,
        image_limits=image_limits(settings),
        grace_s=settings.grace_s,
        roots=settings.roots,
        trainings=Path(settings.data) / "trainings" if settings.data else None,
        trainings_at_once=settings.trainings,
    )


@contextmanager
def kept_by(settings: Settings) -> Iterator[Store | None]:
    """The store that a server of these settings works on; None when it keeps nothing.

    Raises ``BadSetting`` for settings that make no whole store, and what ``open_store`` raises.
    """
    if settings.data or (settings.database_url and settings.blob_url):
        data = Path(settings.data)
        with open_store(data, settings.database_url, settings.blob_url, serving=True) as store:
            yield store
    elif settings.database_url or settings.blob_url or settings.allow_root:
        raise BadSetting(
            "there is no place for images and results; give --data DIR, or both --database-url "
            "and --blob-url"
        )
    else:
        yield None


@contextmanager
def local_server(settings: Settings, data: Callable[[], Path] | None = None) -> Iterator[Server]:
    """A service for this process alone: on loopback, at a free port.

    Without ``data`` it keeps nothing. Else it keeps things where the settings say, or in the
    folder that ``data`` gives; it is asked once the models are loaded, before a store is opened.
    """
    metrics = Metrics()
    options = ServerOptions(image_limits=image_limits(settings), grace_s=GRACE_S)
    with running_engine(settings, metrics) as engine:
        if data is None:
            with running_server(engine, None, options, metrics) as server:
                yield server
            return
        folder = data()
        place = settings if settings.keeps else replace(settings, data=str(folder))
        with kept_by(place) as store, running_server(engine, None, options, metrics, store) as own:
            yield own
