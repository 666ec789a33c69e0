"""From settings to a running agent: what is opened in which order, and closed again."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from secondlook.core.signing import SignatureChecker
from secondlook.detector.manifest import INT8, read_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook.detector.trial import TrialLimits, try_student
from secondlook.edge.agent import Agent
from secondlook.edge.connect import connect
from secondlook.edge.health import Health, HealthFile, HealthServer
from secondlook.edge.hooks import Hook
from secondlook.edge.model_cache import ModelCache
from secondlook.edge.model_trial import LoadedModel, ModelRunner, TrialListener
from secondlook.edge.model_updater import ModelUpdater
from secondlook.edge.sender import CaptureTarget, Sender, student_target
from secondlook.edge.settings import EdgeSettings
from secondlook.edge.sources import open_source
from secondlook.selection.frames import FrameSelector, read_budget, write_budget
from secondlook_client import Client, RetryPolicy, SpoolLimits
from secondlook_client.errors import (
    BadOntology,
    BadSetting,
    MissingExtra,
    NotFound,
    SecondlookError,
)
from secondlook_client.ontology import Ontology

log = logging.getLogger(__name__)

RETRY = RetryPolicy(first_s=0.2, longest_s=10.0, unavailable_s=5.0)
"""Each call is retried for seconds only: the agent asks again at the next poll, for weeks."""


@dataclass(frozen=True, eq=False)
class RunningAgent:
    """An agent with its sender and health port."""

    agent: Agent
    sender: Sender | None
    health_port: int | None
    """Where its health is served, if it is."""


def run_agent(
    settings: EdgeSettings,
    hooks: Sequence[Hook],
    stopped: Callable[[], bool],
    *,
    ontology: Ontology | None = None,
    max_frames: int = 0,
    ready: Callable[[RunningAgent], None] = lambda running: None,
) -> Health:
    """Run until ``stopped()``, the end of the source or ``max_frames``; its health at the end.

    After the last frame of a source it waits a while until the server has all selected frames.
    Raises as ``running_agent``.
    """
    with running_agent(settings, hooks, ontology) as running:
        ready(running)
        running.agent.run(stopped, max_frames)
        if running.sender is not None:
            running.sender.flush(settings.flush_s, stopped)
        return running.agent.health()


@contextmanager
def running_agent(
    settings: EdgeSettings, hooks: Sequence[Hook] = (), ontology: Ontology | None = None
) -> Iterator[RunningAgent]:
    """An agent that is ready for ``run``; everything is closed at the end.

    ``ontology``: classes to label instead of the student's. Raises ``BadSetting``, ``NotFound``
    where there is no model or no source, ``MissingExtra`` and ``SpoolUnusable``: what cannot
    start. Later problems are reported in the health only.
    """
    _check(settings)
    with ExitStack() as stack:
        client = None
        if settings.server:
            client = stack.enter_context(connect(settings, RETRY))
        models = _Models(settings, client)
        stack.callback(models.close)
        models.offer_first()
        source = open_source(
            settings.source,
            fps=settings.fps,
            follow=settings.follow,
            frame_interval_s=settings.frame_interval_s,
        )
        stack.callback(source.close)
        target = _TargetSwitch(settings.stream or socket.gethostname(), ontology)
        selector = None
        if client is not None:
            selector, target.sender = _open_sender(settings, client, target, stack)
        agent = Agent(
            source,
            models.runner,
            hooks,
            selector,
            target.sender,
            on_model=target.model_changed,
            refused_models=models.refused,
            problems=lambda: {"models": models.problem, "classes": target.problem},
        )
        models.follow_server()
        yield RunningAgent(agent, target.sender, _publish_health(settings, agent, stack))


def open_student(folder: Path, precision: str = "auto", threads: int = 0) -> OnnxDetector:
    """Open a student folder, with its hashes checked and its self-test run.

    One that has not worked on this device before is tried first, by ``StudentGate``. Raises
    ``NotFound``, ``Damaged``, ``BadSetting`` and ``MissingExtra``.
    """
    return OnnxDetector.open(folder, _precision_of(folder, precision), threads)


@dataclass(frozen=True)
class StudentGate:
    """Tries students of strangers in a process of its own, as an agent would run them."""

    settings: EdgeSettings

    def __call__(self, folder: Path, stopped: Callable[[], bool] = lambda: False) -> None:
        """Raises ``Damaged`` and the other errors of ``detector.trial.try_student``."""
        most_s = self.settings.max_trial_s  # a slow image is for the comparison of models to judge
        limits = TrialLimits(self.settings.max_model_mb, most_s, image_s=most_s, batch=1)
        try_student(folder, _precision_of(folder, self.settings.precision), limits, stopped)


def _precision_of(folder: Path, asked: str) -> str:
    if asked == "int8" and INT8 not in read_manifest(folder).files:
        log.warning("this student has no int8 model; fp32 is used")
        return "fp32"
    return asked


def _check(settings: EdgeSettings) -> None:
    if not settings.source:
        raise BadSetting("say where frames come from: --source FOLDER, FILE, /dev/video0 or URL")
    if not settings.student and not (settings.server and settings.model):
        raise BadSetting(
            "say which model to run: --student FOLDER, or --server HOST:PORT with --model NAME"
        )


class _Models:
    """The model runner, and where its models come from."""

    def __init__(self, settings: EdgeSettings, client: Client | None) -> None:
        self._settings = settings
        self._client = client
        self._open = partial(open_student, precision=settings.precision, threads=settings.threads)
        self._gate = StudentGate(settings)
        self._cache: ModelCache | None = None
        self._updater: ModelUpdater | None = None
        listener: TrialListener = _LogTrials()
        if settings.model:
            self._cache = ModelCache(Path(settings.models), settings.model, settings.keep_models)
            listener = self._updater = ModelUpdater(
                settings,
                client.models if client is not None else None,
                self._cache,
                self._gate,
                self._open,
                lambda model: self.runner.offer(model),
                SignatureChecker(settings.model_public_key) if settings.model_public_key else None,
            )
        self.runner = ModelRunner(
            listener, max_slowdown=settings.max_slowdown, score_floor=settings.score_floor
        )

    def offer_first(self) -> None:
        """Offer a first model: the last good one, the folder given by hand, or the server's."""
        settings, updater = self._settings, self._updater
        if updater is not None and updater.offer_last_good():
            return
        if settings.student:
            self._gate(Path(settings.student))
            detector = self._open(Path(settings.student))
            self.runner.offer(LoadedModel(0, detector.manifest.digest, detector, proven=True))
            return
        assert updater is not None
        if settings.wait_for_model:
            log.warning("there is no model yet; waiting for the server's")
            return
        why = f"the server has promoted no version of '{settings.model}'"
        try:
            if updater.poll():
                return
        except MissingExtra:
            raise
        except SecondlookError as cause:
            why = str(cause)
        refused = "; ".join(self.refused().values())
        raise NotFound(
            f"there is no model to begin with: {f'refused: {refused}' if refused else why}. Give "
            "one with --student FOLDER, promote one with `secondlook models promote`, or wait for "
            "it with --wait-for-model"
        )

    def follow_server(self) -> None:
        """Look for other models in the background from now on."""
        if self._updater is not None and self._client is not None:
            self._updater.start()

    def refused(self) -> Mapping[str, str]:
        return self._cache.refused if self._cache is not None else {}

    @property
    def problem(self) -> str:
        return self._updater.problem if self._updater is not None else ""

    def close(self) -> None:
        if self._updater is not None:
            self._updater.close()
        self.runner.close()


class _LogTrials(TrialListener):
    """For a student given by hand, which nothing updates."""

    def accepted(self, model: LoadedModel) -> None:
        log.info("the student %s is in use", model.detector.manifest.name)

    def refused(self, model: LoadedModel, why: str) -> None:
        log.error("the student %s is refused: %s", model.detector.manifest.name, why)


class _TargetSwitch:
    """Sends frames to the stream of the classes of the model in use, or of the user's classes."""

    def __init__(self, stream: str, ontology: Ontology | None) -> None:
        self._stream = stream
        self.fixed = CaptureTarget(stream, ontology.classes) if ontology is not None else None
        self.sender: Sender | None = None
        self.problem = ""

    def model_changed(self, model: LoadedModel) -> None:
        if self.sender is None:
            return
        if self.fixed is not None:
            self.sender.set_target(replace(self.fixed, model=model.told))
            return
        try:
            target = student_target(self._stream, model.detector.manifest, model.told)
            self.sender.set_target(target)
            self.problem = ""
        except BadOntology as cause:
            self.problem = f"{cause}; give your own classes with --ontology"
            log.error("%s", self.problem)


def _open_sender(
    settings: EdgeSettings, client: Client, target: _TargetSwitch, stack: ExitStack
) -> tuple[FrameSelector, Sender]:
    spool = Path(settings.spool)
    selector = FrameSelector(settings.selection, settings.seed, read_budget(spool))

    def keep_budget() -> None:
        write_budget(spool, selector.tokens)

    limits = SpoolLimits(settings.spool_mb * 2**20, settings.when_full, settings.sync)
    sender = Sender(client, spool, limits, target.fixed, keep_budget)
    stack.callback(keep_budget)
    stack.callback(sender.close)
    return selector, sender


def _publish_health(settings: EdgeSettings, agent: Agent, stack: ExitStack) -> int | None:
    """Write the health file and serve the health port, as the settings say; the port, if any."""
    if settings.health_file:
        file = HealthFile(Path(settings.health_file), agent.health, settings.health_interval_s)
        stack.callback(file.close)
    if settings.health_port is None:
        return None
    server = HealthServer(settings.health_host, settings.health_port, agent.health)
    stack.callback(server.close)
    return server.port
