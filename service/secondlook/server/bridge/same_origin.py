"""Who may ask: the page itself, and programs; no page of another origin.

A browser sends requests of any page to any address that it reaches, loopback included. What keeps
a stranger's page out, each by itself:

    Host             names this server, so that no name of a stranger's that was pointed at it
                     (DNS rebinding) makes its page one of ours
    Origin           is ours where there is one, which browsers send with each POST
    Sec-Fetch-Site   is not another site's, nor that of another port of this machine
    Content-Type     is JSON, which a form cannot send, and a script only after it asked with
                     OPTIONS, which is refused: no answer ever has a CORS header
"""

import ipaddress
from collections.abc import Collection, Mapping
from contextlib import suppress

from secondlook.server.addresses import is_loopback
from secondlook_client.errors import NotAllowed

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Server": "secondlook",
}
"""Of every answer. Without CORS headers, no other origin reads one."""
OWN_SITES = frozenset({"same-origin", "none"})
"""What browsers say of a request of the page itself, and of one that a person typed."""


def check_host(host: str | None, names: Collection[str]) -> None:
    """Raises ``NotAllowed`` for a request to another name than this server's; ``host`` is the
    header, and ``names`` are those of the server, and its addresses, besides loopback."""
    name = _name(host or "")
    if name not in names and not is_loopback(name):
        raise NotAllowed(
            f"this server does not know the name '{name:.100}'; open it as localhost or 127.0.0.1 "
            "on its own machine, or start it with --web-names"
        )


def check_site(headers: Mapping[str, str], scheme: str) -> None:
    """Raises ``NotAllowed`` for a request that a page of another origin has sent; ``scheme`` is
    ``http`` or ``https``, as the page is served."""
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if origin is not None and origin.lower() != f"{scheme}://{headers.get('Host', '')}".lower():
        raise NotAllowed(f"pages of '{origin:.100}' may not use this server")
    if site is not None and site not in OWN_SITES:
        raise NotAllowed("pages of another site may not use this server")


def _name(host: str) -> str:
    """The header without the port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        host = host[1:].partition("]")[0]
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(host))
        return host
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
