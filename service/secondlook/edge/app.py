"""From settings to a running agent: what is opened in which order, and closed again."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from secondlook.core.errors import BadOntology, BadSetting, MissingExtra, NotFound, SecondlookError
from secondlook.core.ontology import Ontology
from secondlook.detector.manifest import INT8, read_manifest
from secondlook.detector.runtime import OnnxDetector
from secondlook.edge.agent import Agent
from secondlook.edge.health import Health, HealthFile, HealthPort
from secondlook.edge.hooks import Hook
from secondlook.edge.model_cache import Shelf
from secondlook.edge.model_trial import Loaded, ModelSlot
from secondlook.edge.model_updater import Updates, UpdateSettings
from secondlook.edge.sender import Sender, teaching
from secondlook.edge.settings import EdgeSettings
from secondlook.edge.sources import open_source
from secondlook.selection.frames import Chooser, read_budget, write_budget
from secondlook_client import Client, ClientError, RetryPolicy, SpoolLimits

# Opening a student on a device.

log = logging.getLogger(__name__)


def open_student(folder: Path, precision: str = "auto", threads: int = 0) -> OnnxDetector:
    """Open a student folder, with its hashes checked and its self-test run.

    Raises ``NotFound``, ``Damaged``, ``BadSetting`` and ``MissingExtra``.
    """
    if precision == "int8" and INT8 not in read_manifest(folder).files:
        log.warning("this student has no int8 model; fp32 is used")
        precision = "fp32"
    return OnnxDetector.open(folder, precision, threads)


RETRY = RetryPolicy(first_s=0.2, longest_s=10.0, unavailable_s=5.0)
"""A device tries for weeks; what is given up after seconds comes again at its next turn."""


@dataclass(frozen=True, eq=False)
class Running:
    """An agent with everything around it."""

    agent: Agent
    sender: Sender | None
    health_port: int | None
    """Where it answers, when it was asked to."""


@contextmanager
def running(
    settings: EdgeSettings, hooks: Sequence[Hook] = (), ontology: Ontology | None = None
) -> Iterator[Running]:
    """An agent that is ready to ``run``; everything is closed at the end.

    ``ontology``: classes to label instead of the student's. Raises ``BadSetting``, ``NotFound``
    where there is no model or no source, ``MissingExtra`` and ``SpoolUnusable``: what cannot
    begin. Later troubles are told in the health only.
    """
    _check(settings)
    with ExitStack() as closing:
        client = None
        if settings.server:
            client = closing.enter_context(Client(settings.server, retry=RETRY))
        models = _Models(settings, client)
        closing.callback(models.close)
        models.begin()
        source = open_source(
            settings.source, fps=settings.fps, follow=settings.follow, every_s=settings.every_s
        )
        closing.callback(source.close)
        classes = _Classes(settings.stream or socket.gethostname(), ontology)
        chooser = None
        if client is not None:
            chooser, classes.sender = _sending(settings, client, classes, closing)
        agent = Agent(
            source,
            models.slot,
            hooks,
            chooser,
            classes.sender,
            model_changed=classes.model_changed,
            refused_models=models.refused,
            problems=lambda: {"models": models.problem, "classes": classes.problem},
        )
        models.watch()
        yield Running(agent, classes.sender, _told(settings, agent, closing))


def run(
    settings: EdgeSettings,
    hooks: Sequence[Hook],
    stopped: Callable[[], bool],
    *,
    ontology: Ontology | None = None,
    most: int = 0,
    ready: Callable[[Running], None] = lambda running: None,
) -> Health:
    """Run until ``stopped()``, the end of the source or ``most`` frames; how it was at the end.

    After the last frame of a source it waits a while until the server has all that was chosen.
    Raises as ``running``.
    """
    with running(settings, hooks, ontology) as everything:
        ready(everything)
        everything.agent.run(stopped, most)
        if everything.sender is not None:
            everything.sender.flush(settings.flush_s, stopped)
        return everything.agent.health()


def _check(settings: EdgeSettings) -> None:
    if not settings.source:
        raise BadSetting("say where frames come from: --source FOLDER, FILE, /dev/video0 or URL")
    if not settings.student and not (settings.server and settings.model):
        raise BadSetting(
            "say which model looks at them: --student FOLDER, or --server HOST:PORT with --model "
            "NAME"
        )


class _Models:
    """The slot, and what fills it."""

    def __init__(self, settings: EdgeSettings, client: Client | None) -> None:
        self._settings = settings
        self._client = client
        self._open = partial(open_student, precision=settings.precision, threads=settings.threads)
        self._shelf: Shelf | None = None
        self._updates: Updates | None = None
        heard: Updates | _ByHand = _ByHand()
        if settings.model:
            self._shelf = Shelf(Path(settings.models), settings.model, settings.keep_models)
            asked = UpdateSettings(settings.model, settings.poll_s, settings.precision)
            heard = self._updates = Updates(
                asked,
                client.models if client is not None else None,
                self._shelf,
                self._open,
                lambda model: self.slot.offer(model),
            )
        self.slot = ModelSlot(heard, slower=settings.slower, floor=settings.floor)

    def begin(self) -> None:
        """Offer a first model: the last good one, the folder given by hand, or the server's."""
        settings, updates = self._settings, self._updates
        if updates is not None and updates.offer_last_good():
            return
        if settings.student:
            detector = self._open(Path(settings.student))
            self.slot.offer(Loaded(0, detector.manifest.digest, detector, proven=True))
            return
        assert updates is not None
        if settings.wait:
            log.warning("there is no model yet; the server's is waited for")
            return
        why = f"the server has promoted no version of '{settings.model}'"
        try:
            if updates.poll():
                return
        except MissingExtra:
            raise
        except (ClientError, SecondlookError) as cause:
            why = str(cause)
        refused = "; ".join(self.refused().values())
        raise NotFound(
            f"there is no model to begin with: {f'refused: {refused}' if refused else why}. Give "
            "one with --student FOLDER, promote one with `secondlook models promote`, or wait for "
            "it with --wait"
        )

    def watch(self) -> None:
        """From now on, look for newer models in the background."""
        if self._updates is not None and self._client is not None:
            self._updates.start()

    def refused(self) -> Mapping[str, str]:
        return self._shelf.refused if self._shelf is not None else {}

    @property
    def problem(self) -> str:
        return self._updates.problem if self._updates is not None else ""

    def close(self) -> None:
        if self._updates is not None:
            self._updates.close()
        self.slot.close()


class _ByHand:
    """Hears of a model that nobody keeps up to date."""

    def survived(self, model: Loaded) -> None:
        pass

    def kept(self, model: Loaded) -> None:
        log.info("the student %s is in use", model.detector.manifest.name)

    def refused(self, model: Loaded, why: str) -> None:
        log.error("the student %s is refused: %s", model.detector.manifest.name, why)


class _Classes:
    """Tells the sender what frames are for when another model has come."""

    def __init__(self, stream: str, given: Ontology | None) -> None:
        self.stream = stream
        self.given = given
        self.sender: Sender | None = None
        self.problem = ""

    def model_changed(self, model: Loaded) -> None:
        if self.sender is None or self.given is not None:
            return
        try:
            self.sender.teach(teaching(self.stream, None, model.detector.manifest))
            self.problem = ""
        except BadOntology as cause:
            self.problem = f"{cause}; give classes of your own with --ontology"
            log.error("%s", self.problem)


def _sending(
    settings: EdgeSettings, client: Client, classes: _Classes, closing: ExitStack
) -> tuple[Chooser, Sender]:
    spool = Path(settings.spool)
    chooser = Chooser(settings.choosing(), settings.seed, read_budget(spool))

    def keep_budget() -> None:
        write_budget(spool, chooser.left)

    limits = SpoolLimits(settings.spool_mb * 2**20, settings.when_full, settings.sync)
    given = classes.given
    fixed = teaching(classes.stream, given, None) if given is not None else None
    sender = Sender(client, spool, limits, fixed, keep_budget)
    closing.callback(keep_budget)
    closing.callback(sender.close)
    return chooser, sender


def _told(settings: EdgeSettings, agent: Agent, closing: ExitStack) -> int | None:
    """Begin to say how the agent is; the port, when there is one."""
    if settings.health:
        file = HealthFile(Path(settings.health), agent.health, settings.health_s)
        closing.callback(file.close)
    if settings.health_port is None:
        return None
    endpoint = HealthPort(settings.health_host, settings.health_port, agent.health)
    closing.callback(endpoint.close)
    return endpoint.port
