"""A connection to a service: one that runs elsewhere, or one started in this process.

Commands label through the service either way, so there is one code path to test.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.settings import ImageSettings, Settings
from secondlook.config.terminal import echo
from secondlook.core.image_folder import ImageFile
from secondlook.core.ontology_yaml import dump, load_ontology
from secondlook_client import (
    ClassSpec,
    Client,
    LabelResult,
    RetryPolicy,
    SecondlookError,
    ServerInfo,
)
from secondlook_client.ontology import Ontology

if TYPE_CHECKING:
    from secondlook.cli.local_service import BuildPipeline
    from secondlook.server.app import Server

IN_FLIGHT = 16
"""Maximum images sent and not answered yet: two batches, so that no stage is idle."""
TIMEOUT_S = 300.0
"""Of one image, with its time in queues and all attempts."""
RETRY = RetryPolicy(unavailable_s=60)
"""A long run waits for a server that restarts, which has to load its models."""
DEMO = "demo-"
"""What the names of the embedded models begin with."""
CONNECT_S = 5.0
"""Timeout of the first call; a server that is up answers at once."""
FORMAT = 2
"""Version of run.json; a run with another version is not resumed."""


@dataclass(frozen=True)
class Session:
    """A connected service, and the classes to label."""

    client: Client
    ontology: Ontology
    image_limits: ImageSettings
    models: dict[str, Any]
    """What must be the same for a run to be resumed: models and settings that shape results."""
    own: "Server | None" = None
    """The server, if it runs in this process."""

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """The classes to label."""
        return self.ontology.classes

    def label_many(
        self, images: Iterable[tuple[ImageFile, bytes]]
    ) -> Iterator[tuple[ImageFile, LabelResult | SecondlookError]]:
        """Label images as they come, ``IN_FLIGHT`` at a time; each is yielded once."""
        return self.client.label_many(
            images,
            classes=self.classes,
            concurrency=IN_FLIGHT,
            timeout_s=TIMEOUT_S,
            name=_message_name,
        )

    def identity(self, root: Path) -> dict[str, Any]:
        """The content of ``run.json``."""
        return {**identity_without_models(self.ontology, root), **self.models}


def identity_without_models(
    ontology: Ontology, root: Path, settings: Settings | None = None
) -> dict[str, Any]:
    """What is known of a run's identity before its models are loaded.

    ``settings``: of a run whose models run in this process.
    """
    return {
        "format": FORMAT,
        "root": str(root),
        "classes": list(ontology.names),
        "ontology": ontology.digest,
        "ontology_yaml": dump(ontology),
        **({"settings": _recorded(settings)} if settings else {}),
    }


@contextmanager
def connected(
    server: str | None,
    settings: Settings,
    ontology: Ontology | None,
    ready: Callable[[], Path] | None = None,
    build: "BuildPipeline | None" = None,
) -> Iterator[Session]:
    """A session with the service at ``server`` (host:port), or with one started here.

    ``ontology`` None takes that of the settings. ``ready`` is called once the models are loaded or
    the service has answered; it returns the folder in which a service started here keeps things,
    unless the settings name one. Without it that service keeps nothing. ``build`` loads its models
    (None: those that the settings name). Raises ``SecondlookError`` when no service answers, and
    what loading the models and opening a store raises.
    """
    ontology = chosen_ontology(ontology, settings)
    with (
        running_service(server, settings, ready, build) as (address, own),
        Client(address, retry=RETRY) as client,
    ):
        info = client.info(timeout_s=CONNECT_S)
        if server:
            _warn_about_demo_server(info)
        if server and ready:
            ready()
        models = _identity(info, None if server else settings)
        if own:  # what it decides by shapes the results too
            models["calibrator"] = own.calibrator_digest(ontology)
        yield Session(client, ontology, settings.images, models, own)


@contextmanager
def running_service(
    server: str | None,
    settings: Settings,
    ready: Callable[[], Path] | None = None,
    build: "BuildPipeline | None" = None,
) -> "Iterator[tuple[str, Server | None]]":
    """The address of ``server``, or of one that is started here, and that one; see ``connected``.

    Raises ``MissingExtra``, and what loading the models and opening a store raises.
    """
    if server:
        yield server, None
        return
    check_extras("running models here", *extras_of_models(settings))
    from secondlook.cli.local_service import local_server
    from secondlook.models.registry import load_pipeline

    with local_server(settings, ready, build or load_pipeline) as running:
        yield running.own_address, running


def chosen_ontology(ontology: Ontology | None, settings: Settings) -> Ontology:
    """``ontology``, or that of the settings. Raises ``click.UsageError`` where neither is given."""
    if ontology is not None:
        return ontology
    if settings.ontology:
        return load_ontology(Path(settings.ontology))
    raise click.UsageError('say what to look for: -c "person wearing glasses", or --ontology FILE')


def check_can_label(server: str | None, settings: Settings, *also: str) -> None:
    """Raises ``MissingExtra`` where models are to run in this process and cannot, and where one of
    the extras ``also`` is missing."""
    if not server:
        without = "" if also else "use a running service with --server"
        what = "this labelling" if also else "running models here"
        check_extras(what, *extras_of_models(settings), *also, otherwise=without)
    else:
        check_extras("this labelling", *also)


def warn_about_demo_models(settings: Settings) -> None:
    """Say on stderr that the embedded models are of no use on photos, if they are to be used."""
    models = settings.models
    if "demo" in (models.proposer, models.verifier, models.segmenter):
        echo(
            "note: the embedded demo models know only the synthetic images of `secondlook world`; "
            "for photos run with --models photo, or name others with --proposer, --verifier and "
            "--segmenter",
            err=True,
        )


def _warn_about_demo_server(info: ServerInfo) -> None:
    """The same of a service that runs elsewhere, which tells what it runs by name."""
    if any(name.startswith(DEMO) for name in (info.proposer, info.verifier, info.segmenter)):
        echo(
            "note: this service labels with the embedded demo models, which know only the "
            "synthetic images of `secondlook world`; for photos start it with --models photo",
            err=True,
        )


def _identity(info: ServerInfo, settings: Settings | None) -> dict[str, Any]:
    """Models by name and digest; and, where this process runs them, what shapes their results."""
    identity: dict[str, Any] = {"proposer": info.proposer, "verifier": info.verifier}
    if info.student:
        identity["cascade"] = info.student
    if info.segmenter:
        identity["segmenter"] = info.segmenter
    if settings:
        identity["settings"] = _recorded(settings)
    return identity


def _recorded(settings: Settings) -> dict[str, Any]:
    """What shapes results besides models and classes."""
    masks = settings.pipeline.segment if settings.models.segmenter != "none" else "none"
    return {**settings.pipeline.recorded(), "segment": masks}


def _message_name(file: ImageFile) -> str:
    """The file's name as a message may hold it: valid UTF-8, at most 1,000 characters."""
    return file.name.encode("utf-8", "replace").decode()[-1000:]
