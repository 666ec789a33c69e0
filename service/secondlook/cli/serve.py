"""``secondlook serve``: labelling over gRPC, and the page over HTTP."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secondlook.cli.options import models_option
from secondlook.config.entrypoint import SectionedCommand, config_option, setting_options
from secondlook.config.extras import check_extras, extras_of_models
from secondlook.config.settings import Settings, load_settings
from secondlook.config.terminal import echo

if TYPE_CHECKING:
    from secondlook.server.app import Server


@click.command(
    "serve",
    cls=SectionedCommand,
    examples=[
        "secondlook serve --ontology classes.yaml --data data",
        "secondlook serve --data data --web-port 8080",
        "secondlook serve --config secondlook.toml --metrics-port 9090",
        "secondlook serve --data data --host 0.0.0.0 --tls-cert a.crt --tls-key a.key",
    ],
)
@config_option
@models_option
@setting_options(Settings)
def serve_command(**flags: Any) -> None:
    """Serve labelling over gRPC until SIGTERM or Ctrl-C.

    Settings come from secondlook.toml (or --config), then SECONDLOOK_* variables, then these
    flags; the later wins. Prints its address on standard output once it accepts calls.

    With --data there are jobs (see `secondlook job`), captured streams, datasets, trainings and
    models; all of it is kept there, and work that was interrupted resumes when the server starts
    again. A single image is kept when its request names a run to keep it in; live streams are
    answered and not kept.

    Beyond this machine it listens only with TLS and with tokens in the store (see `secondlook
    token`), or as --insecure says.

    With --web-port there is the page, too; see `secondlook ui`.
    """
    from secondlook.cli.micro import with_outline

    stop_before_it_serves()
    run_service(with_outline(load_settings(flags, flags.pop("config"))), _told)


def _told(server: "Server") -> None:
    echo(f"serving on {server.address}")
    if server.web_address:
        echo(f"page on {server.web_address}")


def stop_before_it_serves() -> None:
    """Let SIGTERM end this process at once until a server handles it."""
    from secondlook.config.stop_signals import end_at_once

    # While nothing is accepted there is nothing to finish. In a container the first process must
    # say so, or the signal is lost.
    signal.signal(signal.SIGTERM, lambda number, frame: end_at_once(128 + number))


def run_service(settings: Settings, ready: "Callable[[Server], None]") -> None:
    """Serve until a signal; ``ready`` is called once the server listens.

    Raises what loading a model raises, ``BadSetting`` and ``MissingExtra``.
    """
    from secondlook.core.ontology_yaml import load_ontology

    ontology = load_ontology(Path(settings.ontology)) if settings.ontology else None
    check_extras("a server", *extras_of_models(settings))
    from secondlook.server.addresses import check_doors, check_ports
    from secondlook.server.tls import TlsFiles

    check_ports(settings.server)
    if tls := TlsFiles.of(settings.server):
        tls.context()
    from secondlook.cli.local_service import configured_store, running_engine
    from secondlook.server import json_logs
    from secondlook.server.app import serve
    from secondlook.server.metrics import Metrics

    json_logs.configure(settings.server.log_level)
    metrics = Metrics()
    with configured_store(settings) as store:
        check_doors(settings.server, store is not None and store.tokens.version().count > 0)
        with running_engine(settings, metrics, store) as engine:
            serve(engine, ontology, settings, metrics, store, ready)
