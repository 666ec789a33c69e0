"""Addresses to listen on: how they are written, who reaches them, and whether they are free."""

import ipaddress
import socket
from contextlib import suppress

from secondlook.config.settings import ServerSettings
from secondlook_client.errors import BadSetting


def check_ports(server: ServerSettings) -> None:
    """Raises ``BadSetting`` where a server could not listen now.

    To be asked before models are loaded: another program may still come first.
    """
    if _problem(server.host, server.port):
        raise BadSetting(explain_port_failure(server.host, server.port))
    port = server.metrics_port
    if port is not None and (why := _problem(server.host, port)):
        raise BadSetting(explain_metrics_failure(server.host, port, why))
    if server.web_port is not None and _problem(server.web_host, server.web_port):
        raise BadSetting(explain_web_failure(server.web_host, server.web_port))


def explain_port_failure(host: str, port: int) -> str:
    """Why one cannot listen there; gRPC does not say, so the system is asked again."""
    why = _problem(host, port) or "the address cannot be used"
    return (
        f"cannot listen on {format_address(host, port)}: {why}. Stop the other program, or choose "
        "another --port (0: any free port) or --host"
    )


def explain_metrics_failure(host: str, port: int, why: str) -> str:
    """The same of the port of the metrics."""
    return (
        f"metrics cannot listen on {format_address(host, port)} ({why}); "
        "choose another metrics port or leave it out"
    )


def explain_web_failure(host: str, port: int) -> str:
    """The same of the page."""
    why = _problem(host, port) or "the address cannot be used"
    return (
        f"the page cannot be served on {format_address(host, port)} ({why}); choose another "
        "--web-port (0: any free port) or leave it out"
    )


def format_address(host: str, port: int) -> str:
    """``host:port``, with brackets where they are needed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address(host: str, port: int) -> str:
    """``host:port`` at which this machine reaches a server that listens on ``host``."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return format_address(host, port)


def is_free(host: str, port: int) -> bool:
    """Whether one could listen there now."""
    return not _problem(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_doors(server: ServerSettings, has_tokens: bool) -> None:
    """Raises ``BadSetting`` where a network could reach the server without TLS or tokens.

    ``has_tokens``: whether the store has one, so that calls need one.
    """
    if server.insecure:
        return
    binds = [("--host", server.host)]
    if server.metrics_port is not None:
        binds.append(("--metrics-host", server.metrics_host))
    if server.web_port is not None:
        binds.append(("--web-host", server.web_host))
    missing = [] if server.tls_cert else ["TLS (--tls-cert and --tls-key)"]
    missing += [] if has_tokens else ["a token in the store (`secondlook token create` on --data)"]
    for option, host in binds:
        if missing and not is_loopback(host):
            raise BadSetting(
                f"{option} {host} opens the server to the network, which takes "
                f"{' and '.join(missing)}; without them anybody who reaches it may do anything. "
                "Give them, listen on 127.0.0.1, or say --insecure"
            )


def _problem(host: str, port: int) -> str:
    """Why the system refuses to let anyone listen there; empty where it does not."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as cause:
        return (cause.strerror or str(cause)).lower()
    return ""
