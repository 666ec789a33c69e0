"""Addresses of servers, and the variables that say how to connect. Imports no gRPC.

An address is ``host:port``, ``tls://host:port`` or ``unix:/path``.
"""

import ipaddress

DEFAULT_ADDRESS = "127.0.0.1:50051"
TLS, UNIX = "tls://", "unix:"
"""What an address may begin with."""
TOKEN_VARIABLE, TOKEN_FILE_VARIABLE = "SECONDLOOK_TOKEN", "SECONDLOOK_TOKEN_FILE"
CA_VARIABLE = "SECONDLOOK_CA"
CERT_VARIABLE, KEY_VARIABLE = "SECONDLOOK_CLIENT_CERT", "SECONDLOOK_CLIENT_KEY"
PLAIN_TOKEN_VARIABLE = "SECONDLOOK_PLAIN_TOKEN"


def is_unix(target: str) -> bool:
    """Whether it is a socket in the file system."""
    return target.startswith(UNIX)


def is_this_machine(target: str) -> bool:
    """Whether what is sent to ``host:port`` or ``unix:/path`` stays on this machine."""
    if is_unix(target):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
