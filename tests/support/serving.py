"""A real server on a free loopback port, with scripted models behind it, and images to send."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fakes import ScriptedProposer, ScriptedVerifier
from PIL import Image as PILImage

from secondlook.config.settings import BatchingSettings, Settings
from secondlook.labeling.calibrator import Calibrator
from secondlook.labeling.engine import Engine
from secondlook.labeling.pipeline import Pipeline
from secondlook.labeling.segmenter import Segmenter
from secondlook.server.app import Server, running_server
from secondlook.server.metrics import Metrics
from secondlook.store import Store
from secondlook_client.ontology import ClassSpec, Ontology

DOG = Ontology((ClassSpec("dog"),))


@dataclass(frozen=True)
class Serving:
    """What a test may look at."""

    server: Server
    proposer: ScriptedProposer
    verifier: ScriptedVerifier
    engine: Engine
    metrics: Metrics

    @property
    def address(self) -> str:
        """``host:port``."""
        return self.server.address


def server_settings(**changed: Any) -> Settings:
    """Settings of a server at a free port."""
    return Settings().replace(**{"port": 0, **changed})


@contextmanager
def serving(
    proposer: ScriptedProposer | None = None,
    verifier: ScriptedVerifier | None = None,
    ontology: Ontology | None = DOG,
    limits: BatchingSettings | None = None,
    options: Settings | None = None,
    store: Store | None = None,
    calibrator: Calibrator | None = None,
    segmenter: Segmenter | None = None,
) -> Iterator[Serving]:
    """A running server; stopped and its engine closed at the end. ``store`` is the caller's."""
    proposer, verifier = proposer or ScriptedProposer(), verifier or ScriptedVerifier()
    metrics = Metrics()
    pipeline = Pipeline(proposer, verifier, segmenter=segmenter)
    pipeline.use_calibrator(calibrator)
    engine = Engine(pipeline, limits, metrics.batch_done)
    try:
        with running_server(engine, ontology, options, metrics, store) as server:
            yield Serving(server, proposer, verifier, engine, metrics)
    finally:
        engine.close()


def png(width: int = 40, height: int = 30, shade: int = 128) -> bytes:
    """A plain grey image, encoded."""
    out = io.BytesIO()
    PILImage.new("RGB", (width, height), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Fails when it takes too long."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)
