"""``secondlook ui``: a server for this machine alone, and its page in the browser."""

import threading
import webbrowser
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import models_option
from secondlook.cli.serve import run_service, stop_before_it_serves
from secondlook.config.entrypoint import SectionedCommand, config_option, setting_options
from secondlook.config.settings import Settings, load_settings
from secondlook.config.terminal import echo
from secondlook_client.errors import BadSetting

if TYPE_CHECKING:
    from secondlook.server.app import Server

WEB_PORT = 8080
"""Where the page is, unless another program has that port."""


@click.command(
    "ui",
    cls=SectionedCommand,
    examples=[
        "secondlook ui --data data",
        "secondlook ui --data data --models photo --image-roots /photos",
    ],
)
@config_option
@models_option
@setting_options(Settings)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def ui_command(browser: bool, **flags: Any) -> None:
    """Open the page: try classes, look at labels, and review them.

    Starts a server as `secondlook serve` does, with the same settings, on free ports unless they
    are given; prints the address of the page, and opens it in the browser. Ctrl-C ends it. With
    the embedded models their segmenter runs too, so that clicks make masks.
    """
    stop_before_it_serves()
    settings = _settings(flags)

    def ready(server: "Server") -> None:
        echo(f"page on {server.web_address}")
        if browser:  # in a thread: a browser in a terminal returns when it is closed
            open_page = threading.Thread(
                target=webbrowser.open, args=(server.web_address,), daemon=True
            )
            open_page.start()

    run_service(settings, ready)


def _settings(flags: dict[str, Any]) -> Settings:
    """Those of a server for one person. Raises ``BadSetting`` without a place for what is kept."""
    settings = load_settings(flags, flags.pop("config"))
    if not settings.store.given:
        raise BadSetting("give --data DIR, a folder where images, labels and reviews are kept")
    changed: dict[str, Any] = {}
    if flags.get("port") is None:
        changed["port"] = 0
    if settings.server.web_port is None:
        changed["web_port"] = _free_port(settings.server.web_host)
    if flags.get("segmenter") is None and settings.models.proposer == "demo":
        changed["segmenter"] = "demo"
    if flags.get("log_level") is None:
        changed["log_level"] = "warning"
    return settings.replace(**changed)


def _free_port(host: str) -> int:
    """``WEB_PORT``, or any where another program has it: a second page is no error."""
    from secondlook.server.addresses import is_free

    return WEB_PORT if is_free(host, WEB_PORT) else 0
