"""``secondlook serve``: labelling for everybody who may reach this machine's port."""

from pathlib import Path
from typing import Any

import click

from secondlook.cli.options import setting_option, settings_of
from secondlook.config.settings import rules


def _every_setting(decorated: Any) -> Any:
    for name in reversed(rules()):
        decorated = setting_option(name)(decorated)
    return decorated


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
@click.option("--models", help="Short for --proposer and --verifier alike, e.g. demo.")
@_every_setting
def serve_command(**flags: Any) -> None:
    """Serve labelling over gRPC until SIGTERM or Ctrl-C.

    Settings come from secondlook.toml (or --config), then SECONDLOOK_* variables, then these
    flags; the later wins. Prints the address on standard output once it listens.

    With --data everything is kept, and there are jobs (see `secondlook job`), captured streams
    and datasets; what was under way when the server ended goes on when it starts again.
    """
    from secondlook.core.ontology_yaml import load_ontology

    settings = settings_of(flags)
    ontology = load_ontology(Path(settings.ontology)) if settings.ontology else None
    from secondlook.cli.local_service import kept_by, running_engine, server_options
    from secondlook.server import json_logs
    from secondlook.server.app import serve
    from secondlook.server.metrics import Metrics

    json_logs.configure(settings.log_level)
    metrics = Metrics()
    with kept_by(settings) as store, running_engine(settings, metrics, store) as engine:
        serve(
            engine,
            ontology,
            server_options(settings),
            metrics,
            store,
            ready=lambda server: click.echo(f"serving on {server.address}"),
        )
