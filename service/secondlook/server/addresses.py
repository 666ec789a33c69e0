"""Where a server listens, in words."""

import ipaddress
import socket
from contextlib import suppress


def joined(host: str, port: int) -> str:
    """``host:port``, with brackets where they are needed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_here(host: str, port: int) -> str:
    """Where this machine itself reaches a server that listens on ``host``."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return joined(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def why_no_port(host: str, port: int) -> str:
    """Why one cannot listen there: gRPC does not say; asking the system again does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    why = "the address cannot be used"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as cause:
        why = (cause.strerror or str(cause)).lower()
    return (
        f"cannot listen on {joined(host, port)}: {why}. Stop the other program, or choose "
        "another port (0 picks a free one) or host"
    )
