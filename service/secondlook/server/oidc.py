"""OpenID Connect: a JWT of one issuer is accepted where a token of the store is.

Nothing is asked of the issuer but its public keys, from a file or a URL. A JWT is accepted when one
of these keys, named by its ``kid``, signed it with an algorithm of public keys (so neither "none"
nor a public key taken for a secret of HMAC passes), it is of the issuer and for the audience that
the settings name, it has not expired, and a claim of it gives a role. Whoever it is of (``sub``)
is called ``oidc:SUB``, in logs and as an owner. A device needs a token, as no claim says which
stream is its own.
"""

import asyncio
import hashlib
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from secondlook.config.extras import check_extras
from secondlook.config.settings import OidcSettings
from secondlook.core.access import Role, TokenAccess
from secondlook.server.addresses import is_loopback
from secondlook.server.token_table import BEARER, Principal
from secondlook.store.tokens import OIDC, TokenRow
from secondlook_client.errors import BadSetting, NotAuthenticated, Unavailable

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384")
"""Signatures by a private key alone: no secret is shared with this server."""
LEEWAY_S = 30
"""Clocks of the issuer and of this server may differ by so much."""
MAX_JWT, MAX_SUBJECT = 8192, 100
"""Characters of a JWT, and of whom it is of."""
MAX_KEYS_BYTES = 256 * 2**10
FETCH_TIMEOUT_S = 5.0
KEYS_AGE_S = 300.0
"""Keys are read again when they are older; those of before are used while they cannot be."""
MIN_FETCH_S = 10.0
"""Between two readings, whatever unknown keys strangers name."""
MAX_KNOWN = 10_000
"""JWTs that were checked lately; each is checked once."""


def bearer_jwt(credentials: Sequence[str]) -> str:
    """The JWT of ``authorization`` headers; empty where they have none: it has two dots."""
    if len(credentials) != 1:
        return ""
    scheme, value = credentials[0][: len(BEARER)], credentials[0][len(BEARER) :].strip()
    return value if scheme.lower() == BEARER and value.count(".") == 2 else ""


class OidcIssuer:
    """Checks the JWTs of one issuer. One event loop."""

    def __init__(self, settings: OidcSettings) -> None:
        """Raises ``BadSetting`` and ``MissingExtra``."""
        check_extras("OpenID Connect", "oidc")
        self._settings = settings
        self._roles = roles_by_value(settings.oidc_roles)
        _check(settings)
        self._keys: KeySet | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._known: OrderedDict[bytes, Principal] = OrderedDict()

    async def principal(self, jwt: str) -> Principal:
        """Who shows this JWT. Raises ``NotAuthenticated``, and ``Unavailable`` without keys."""
        if len(jwt) > MAX_JWT:
            raise NotAuthenticated(f"the JWT has more than {MAX_JWT:,} characters; send a smaller")
        digest = hashlib.sha256(jwt.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            claims = await self._claims(jwt)
            known = self._known[digest] = self._principal_of(claims)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if known.token is None or known.token.ended(time.time()):
            raise NotAuthenticated("the JWT has expired; ask the issuer for a new one")
        return known

    async def _claims(self, jwt: str) -> Mapping[str, Any]:
        """Of a JWT that one of the keys signed; an unknown key may be new."""
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jwt import JWTClaimsRegistry, decode

        keys = await self._fresh(KEYS_AGE_S)
        try:
            try:
                found = decode(jwt, keys, algorithms=list(ALGORITHMS))
            except InvalidKeyIdError:
                keys = await self._fresh(MIN_FETCH_S)
                found = decode(jwt, keys, algorithms=list(ALGORITHMS))
            JWTClaimsRegistry(
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self._settings.oidc_issuer},
                aud={"essential": True, "value": self._settings.oidc_audience},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(found.claims)
        except (JoseError, ValueError, TypeError) as cause:
            why = getattr(cause, "description", "") or "it cannot be read"
            raise NotAuthenticated(
                f"the JWT is not accepted: {str(why)[:200]}; ask the issuer "
                f"{self._settings.oidc_issuer} for one for '{self._settings.oidc_audience}'"
            ) from cause
        return found.claims

    def _principal_of(self, claims: Mapping[str, Any]) -> Principal:
        """Name and roles that the claims give. Raises ``NotAuthenticated``."""
        subject = claims["sub"]
        if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
            raise NotAuthenticated(
                f"expected a 'sub' of 1 to {MAX_SUBJECT} printable characters in the JWT"
            )
        given: Any = claims
        for part in self._settings.oidc_claim.split("."):
            given = given.get(part) if isinstance(given, Mapping) else None
        values = given if isinstance(given, list) else [given]
        roles = {role for value in values for role in self._roles.get(str(value), ())}
        if not roles:
            raise NotAuthenticated(
                f"the JWT of '{subject}' gives no role here: its claim "
                f"'{self._settings.oidc_claim}' has none of those in the server's oidc_roles"
            )
        name, access = f"{OIDC}{subject}", TokenAccess(frozenset(roles))
        ends = float(claims["exp"]) + LEEWAY_S
        return Principal(name, access, TokenRow(0, name, access, 0.0, ends, None, None, b""))

    async def _fresh(self, age_s: float) -> "KeySet":
        """The keys, read again if they are older. Raises ``Unavailable`` without any."""
        async with self._reading:  # one reads, and the others wait for it
            if time.monotonic() - self._read_at > age_s:
                self._read_at = time.monotonic()
                try:
                    self._keys = await asyncio.to_thread(read_keys, self._settings.oidc_keys)
                except (OSError, HTTPException, ValueError, KeyError, TypeError) as cause:
                    log.warning("the keys of the OIDC issuer cannot be read: %s", cause)
            if self._keys is None:
                raise Unavailable("the keys of the OIDC issuer cannot be read; try again later")
            return self._keys


def read_keys(place: str) -> "KeySet":
    """The public keys of a JWKS in a file or at a URL; blocks for ``FETCH_TIMEOUT_S`` and a little.

    Raises ``OSError``, ``HTTPException``, ``ValueError``, ``KeyError`` and ``TypeError``.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    if "://" in place:
        opener = urllib.request.build_opener(_NoRedirect())
        with opener.open(place, timeout=FETCH_TIMEOUT_S) as answer:
            text = answer.read(MAX_KEYS_BYTES + 1)
    else:
        with Path(place).open("rb") as file:
            text = file.read(MAX_KEYS_BYTES + 1)
    if len(text) > MAX_KEYS_BYTES:
        raise ValueError(f"more than {MAX_KEYS_BYTES:,} bytes")
    keys = json.loads(text)["keys"]
    public = [key for key in keys if key.get("kty") in ("RSA", "EC") and key.get("kid")]
    try:
        return KeySet.import_key_set({"keys": public})
    except JoseError as cause:
        raise ValueError(str(cause)) from cause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from the place that the settings name, and from nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """None follows."""


def roles_by_value(text: str) -> Mapping[str, tuple[Role, ...]]:
    """``VALUE=ROLE,…`` as a mapping; a value may stand there twice. Raises ``BadSetting``."""
    found: dict[str, tuple[Role, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        value, equals, role = (piece.strip() for piece in part.rpartition("="))
        allowed = [one.value for one in Role if one is not Role.DEVICE]
        if not equals or not value or role not in allowed:
            raise BadSetting(
                f"expected VALUE=ROLE with a role of {', '.join(allowed)} in oidc_roles, "
                f"got '{part[:80]}'"
            )
        found[value] = (*found.get(value, ()), Role(role))
    return found


def _check(settings: OidcSettings) -> None:
    """Raises ``BadSetting`` where something is missing, or keys would come unprotected."""
    needed = {
        "oidc_audience": settings.oidc_audience,
        "oidc_keys": settings.oidc_keys,
        "oidc_roles": settings.oidc_roles,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise BadSetting(f"oidc_issuer takes {', '.join(missing)} too; give them")
    place = urlsplit(settings.oidc_keys)
    safe = place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname or ""))
    if "://" in settings.oidc_keys and not safe:
        raise BadSetting(
            f"oidc_keys {settings.oidc_keys:.200} can be changed on its way; give an https:// "
            "address, or a file"
        )
