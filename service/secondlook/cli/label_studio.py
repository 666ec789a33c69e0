"""``secondlook label-studio``: a machine learning backend for projects of Label Studio."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import class_options, model_options, ontology_of, settings_of
from secondlook.config.entrypoint import SectionedCommand, setting_options
from secondlook.config.extras import check_extras
from secondlook.config.settings import Settings, StoreSettings
from secondlook.config.terminal import echo
from secondlook_client.errors import NotFound

if TYPE_CHECKING:
    from secondlook.server.label_studio.task_images import LabelStudioSite
    from secondlook_client.ontology import Ontology

PORT = 9090
"""Where Label Studio's own backends are."""
POLL_S = 0.2
"""How soon Ctrl-C is noticed."""


@click.command(
    "label-studio",
    cls=SectionedCommand,
    examples=[
        "secondlook label-studio --data data --label-studio http://localhost:8080",
        "secondlook label-studio --server localhost:50051 --local-files photos",
    ],
)
@click.option(
    "--label-studio",
    "address",
    metavar="URL",
    default="",
    help="Address of Label Studio; images of tasks are fetched from there and nowhere else.",
)
@click.option(
    "--label-studio-token",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File with the token of an account there.",
)
@click.option(
    "--local-files",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder that Label Studio serves as local files; images are read there.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 takes any.",
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File with the password that Label Studio has to show; needed beyond this machine.",
)
@click.option(
    "--run", default="", metavar="NAME", help="Show the labels of this run where it has the image."
)
@class_options
@setting_options(StoreSettings)
@model_options
def label_studio_command(
    address: str,
    label_studio_token: Path | None,
    local_files: Path | None,
    host: str,
    port: int,
    password_file: Path | None,
    run: str,
    lines: tuple[str, ...],
    ontology: Path | None,
    server: str | None,
    **flags: Any,
) -> None:
    """Predict, outline and learn from people in Label Studio.

    Connect it there as a model (Settings, Model). Tasks get boxes and masks with scores, for the
    labels of the project's RectangleLabels and BrushLabels; a click with a smart keypoint or
    rectangle gives a mask; and each annotation that is handed in becomes reviews in the store.

    -c or --ontology say what to ask about labels of these names; others are asked as they are
    called. Without --server the models run in this process, and --data says where labels and
    reviews are kept.
    """
    check_extras("a backend of Label Studio", "serve", only=("aiohttp",))
    from secondlook.cli.connection import running_service
    from secondlook.server.label_studio.endpoint import check_bind
    from secondlook.server.label_studio.task_images import LabelStudioSite
    from secondlook_client.channel import read_token

    password = read_token(password_file) if password_file else ""
    check_bind(host, password)
    token = read_token(label_studio_token) if label_studio_token else ""
    site = LabelStudioSite.parse(address, token) if address else None
    classes = ontology_of(lines, ontology)
    settings = settings_of(flags)
    if local_files and not local_files.is_dir():
        raise NotFound(f"there is no folder '{local_files}'; give the one that is served")
    if not server and not settings.store.given:
        raise click.UsageError(
            "say where labels and reviews are kept: --data DIR, or --server with a service"
        )
    with running_service(server, settings, lambda: Path(settings.store.data)) as (service, _):
        backend = _Backend(service, site, local_files, classes, run, password, settings)
        asyncio.run(backend.serve(host, port))


class _Backend:
    """Everything that is open while the command runs."""

    def __init__(
        self,
        service: str,
        site: "LabelStudioSite | None",
        local_files: Path | None,
        ontology: "Ontology | None",
        run: str,
        password: str,
        settings: Settings,
    ) -> None:
        self._service, self._site, self._local_files = service, site, local_files
        self._ontology, self._run, self._password = ontology, run, password
        self._max_image_bytes = settings.images.max_image_bytes

    async def serve(self, host: str, port: int) -> None:
        """Until Ctrl-C or SIGTERM."""
        from secondlook.config.entrypoint import gentle_interrupts
        from secondlook.server.label_studio.backend import LabelStudioBackend, RunImages
        from secondlook.server.label_studio.endpoint import LabelStudioEndpoint
        from secondlook.server.label_studio.task_images import TaskImages, opened_session
        from secondlook_client import AsyncClient, RetryPolicy
        from secondlook_client.channel import ServerAccess

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncClient(self._service))
            channel = ServerAccess.given({}).channel(self._service, aio=True)
            stack.push_async_callback(channel.close)
            known = RunImages(channel, RetryPolicy(), self._service)
            session = await stack.enter_async_context(opened_session())
            files = self._local_files
            images = TaskImages(self._site, files, self._max_image_bytes, session)
            backend = LabelStudioBackend(client, known, images, self._ontology, self._run)
            endpoint = LabelStudioEndpoint(backend, self._password)
            address = await stack.enter_async_context(endpoint.listening(host, port))
            echo(f"backend of Label Studio on {address}")
            with gentle_interrupts("keeping what was handed in") as stopped:
                await _until(stopped)


async def _until(stopped: Callable[[], bool]) -> None:
    while not stopped():
        await asyncio.sleep(POLL_S)
