"""``secondlook health``: what a container's health check and a cluster's probes ask."""

import click

from secondlook.cli.params import address_option
from secondlook.config.entrypoint import SectionedCommand
from secondlook.config.extras import check_extras
from secondlook.config.terminal import echo
from secondlook_client.addresses import DEFAULT_ADDRESS

SERVING = "SERVING"


@click.command(
    "health",
    cls=SectionedCommand,
    examples=[
        "secondlook health",
        "secondlook health --live --server 127.0.0.1:50051",
    ],
)
@address_option(
    "The service to ask; without it, the one that this user runs on this machine, by its private "
    "socket: that takes neither TLS nor a token.",
)
@click.option("--live", is_flag=True, help="Ask only whether it runs, not whether it is ready.")
def health_command(server: str | None, live: bool) -> int:
    """Ask a service whether it is ready for calls; the exit code is 0 if so, else 1.

    It is not ready while its store or its models are away, and while it stops; what is away is
    named on stderr.
    """
    check_extras("this question", "serve", only=("grpc_health",))
    from secondlook.server.health import ask_health
    from secondlook.server.own_socket import own_address
    from secondlook.server.readiness import READY

    found = ask_health(server or own_address() or DEFAULT_ADDRESS)
    status = found.get("" if live else READY, "SERVICE_UNKNOWN")
    echo(status)
    if status == SERVING:
        return 0
    away = sorted(name for name, told in found.items() if told != SERVING and name != READY)
    echo(f"away: {', '.join(filter(None, away))}", err=True)
    return 1
