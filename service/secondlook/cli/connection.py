"""A connection to the service: to one that runs somewhere, or to one started here for a while.

Commands label through the service either way, so there is one path to test and to trust.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import image_limits
from secondlook.config.settings import Settings
from secondlook.core.errors import MissingExtra
from secondlook.core.image_folder import Source
from secondlook.core.images import ImageLimits
from secondlook.core.ontology import Ontology, for_client
from secondlook.core.ontology_yaml import dump, load_ontology
from secondlook_client import ClassSpec, Client, ClientError, LabelResult, RetryPolicy, ServerInfo

if TYPE_CHECKING:
    from secondlook.server.app import Server

IN_FLIGHT = 16
"""Images sent and not answered yet, at most: two batches, so that no stage ever waits."""
TIMEOUT_S = 300.0
"""For one image, its time in queues and all tries included."""
PATIENT = RetryPolicy(unavailable_s=60)
"""A server that restarts has its models to load; a long run waits for it."""
CONNECT_S = 5.0
"""For the first answer of a server; one that is there answers at once."""
FORMAT = 2
"""Of run.json and what it stands for; a run of another one is not continued."""


@dataclass(frozen=True)
class Session:
    """A service that is there, and what is asked of it."""

    client: Client
    ontology: Ontology
    image_limits: ImageLimits
    models: dict[str, Any]
    """What must stay the same for a run to be continued: models and what shapes their results."""
    own: "Server | None" = None
    """The service, when it runs in this process and ends with it."""

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """What is asked for, as the client says it."""
        return for_client(self.ontology)

    def label_many(
        self, images: Iterable[tuple[Source, bytes]]
    ) -> Iterator[tuple[Source, LabelResult | ClientError]]:
        """Label images as they come, ``IN_FLIGHT`` at a time; each is given back once."""
        return self.client.label_many(
            images,
            classes=self.classes,
            concurrency=IN_FLIGHT,
            timeout_s=TIMEOUT_S,
            name=_sendable,
        )

    def identity(self, root: Path) -> dict[str, Any]:
        """The content of ``run.json``."""
        return {
            "format": FORMAT,
            "root": str(root),
            "classes": list(self.ontology.names),
            "ontology": self.ontology.digest,
            "ontology_yaml": dump(self.ontology),
            **self.models,
        }


@contextmanager
def connected(
    server: str | None,
    settings: Settings,
    ontology: Ontology | None,
    ready: Callable[[], Path] | None = None,
) -> Iterator[Session]:
    """A session with the service at ``server`` (host:port), or with one started here.

    ``ontology`` None takes the settings' own. ``ready`` hears that the models are loaded or the
    service has answered; it gives the folder for what a service started here keeps, unless the
    settings say where. Without it that one keeps nothing. Raises ``ClientError`` when no service
    answers, and what loading the models and opening a store raises.
    """
    if ontology is None and settings.ontology:
        ontology = load_ontology(Path(settings.ontology))
    if ontology is None:
        raise click.UsageError(
            'say what to look for: -c "person wearing glasses", or --ontology FILE'
        )
    with (
        _running(server, settings, ready) as (address, own),
        Client(address, retry=PATIENT) as client,
    ):
        info = client.info(timeout_s=CONNECT_S)
        if server and ready:
            ready()
        models = _identity(info, None if server else settings)
        yield Session(client, ontology, image_limits(settings), models, own)


@contextmanager
def _running(
    server: str | None, settings: Settings, ready: Callable[[], Path] | None
) -> "Iterator[tuple[str, Server | None]]":
    if server:
        if ":" not in server:
            raise click.UsageError(f"--server: expected HOST:PORT, got {server!r}")
        yield server, None
        return
    try:
        from secondlook.cli.local_service import local_server
    except ImportError as missing:
        raise MissingExtra(
            f"running models here needs {missing.name}; install it with "
            'pip install "secondlook[serve]", or use a running service with --server'
        ) from missing
    with local_server(settings, ready) as running:
        yield running.address, running


def say_what_demo_knows(settings: Settings) -> None:
    """On stderr, that the embedded models are no use on photos; nothing with any others."""
    if "demo" in (settings.proposer, settings.verifier):
        click.echo(
            "note: the embedded demo models know only the drawings of `secondlook world`; "
            "for photos name others with --proposer and --verifier",
            err=True,
        )


def _identity(info: ServerInfo, settings: Settings | None) -> dict[str, Any]:
    """Models by name and digest; and, where this process runs them, what shapes their results."""
    identity: dict[str, Any] = {"proposer": info.proposer, "verifier": info.verifier}
    if info.student:
        identity["cascade"] = info.student
    if settings:
        shaping = ("floor", "max_boxes", "max_iou")
        identity["settings"] = {name: getattr(settings, name) for name in shaping}
    return identity


def _sendable(source: Source) -> str:
    """The name for the server's eyes; file names may hold what a text message may not."""
    return source.name.encode("utf-8", "replace").decode()[-1000:]
