"""Settings to a service in this process; needs what ``secondlook[serve]`` installs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from secondlook.cli.session import image_limits
from secondlook.config import Settings
from secondlook.engine import Engine, EngineLimits
from secondlook.pipeline import Limits, Pipeline
from secondlook.plugins import load_proposer, load_verifier
from secondlook.server.app import Server, ServerOptions, running_server
from secondlook.server.metrics import Metrics
from secondlook.verify import VerdictCache


@contextmanager
def running_engine(settings: Settings, metrics: Metrics) -> Iterator[Engine]:
    """The models behind their queues; loading them is the slow part.

    Raises what ``plugins`` raises: ``NotFound``, ``MissingExtra``, ``BadSetting``.
    """
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
        settings.max_pictures,
    )
    engine = Engine(pipeline, limits, metrics.batch_done)
    try:
        yield engine
    finally:
        engine.close()


def server_options(settings: Settings) -> ServerOptions:
    """Where the server of these settings listens and what it takes."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        metrics_port=settings.metrics_port,
        image_limits=image_limits(settings),
        grace_s=settings.grace_s,
    )


@contextmanager
def local_server(settings: Settings) -> Iterator[Server]:
    """A service for this process alone: on loopback, at a free port."""
    metrics = Metrics()
    options = ServerOptions(image_limits=image_limits(settings), grace_s=GRACE_S)
    with (
        running_engine(settings, metrics) as engine,
        running_server(engine, None, options, metrics) as server,
    ):
        yield server


GRACE_S = 2.0
"""Nobody else waits for the answers of a server of our own."""
