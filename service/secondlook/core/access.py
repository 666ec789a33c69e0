"""Roles, secrets of tokens, and what a token allows, and how much of it.

A secret is 256 random bits, written with a prefix by which programs recognise and hide it. Only
its SHA-256 is kept. A slow hash (bcrypt, Argon2) makes guessing costly where people choose
passwords; among 2^256 secrets there is nothing to guess, and a slow hash would be paid by each
call, also by those of strangers.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from secondlook.config.redaction import TOKEN_PREFIX
from secondlook.config.settings import LimitSettings
from secondlook_client.errors import BadSetting

SECRET_BYTES = 32
_SECRET = re.compile(rf"{TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}")


class Role(StrEnum):
    """What a token allows; described in ``protos/secondlook/v1/access.proto``."""

    VIEWER = "viewer"
    LABELER = "labeler"
    REVIEWER = "reviewer"
    TRAINER = "trainer"
    DEVICE = "device"
    ADMIN = "admin"


OF_A_CLIENT = "client_"
"""Before the names of the settings of ``LimitSettings``."""
LIMITS = tuple(
    name.removeprefix(OF_A_CLIENT) for name in LimitSettings.specs() if name != "client_connections"
)
"""What a token may have limits of its own for; connections come from an address."""
ALSO_VIEWERS = frozenset((Role.LABELER, Role.REVIEWER, Role.TRAINER))
"""Roles that may read what a viewer may."""


@dataclass(frozen=True)
class TokenAccess:
    """What one token allows."""

    roles: frozenset[Role]
    streams: frozenset[str] = frozenset()
    """Names of the streams of a device."""
    models: frozenset[str] = frozenset()
    """Names of the models of a device."""
    limits: tuple[tuple[str, float], ...] = ()
    """By names of ``LIMITS``: in place of what the settings say of all clients."""

    def __post_init__(self) -> None:
        """Raises ``BadSetting`` for a limit that the setting could not be."""
        checked = tuple(read_limit(*given) for given in sorted(self.limits))
        object.__setattr__(self, "limits", checked)

    def limited(self, settings: LimitSettings) -> LimitSettings:
        """The limits of this token, where all clients have those of ``settings``."""
        own: dict[str, Any] = {f"{OF_A_CLIENT}{name}": value for name, value in self.limits}
        return replace(settings, **own) if own else settings

    def grants(self, roles: Collection[Role]) -> bool:
        """Whether this suffices where any of ``roles`` does."""
        return self.grants_beyond_scope(roles) or (
            Role.DEVICE in self.roles and Role.DEVICE in roles
        )

    def grants_beyond_scope(self, roles: Collection[Role]) -> bool:
        """The same without the role of a device, which is bound to its own streams and models."""
        own = self.roles - {Role.DEVICE}
        if Role.ADMIN in own or own & set(roles):
            return True
        return Role.VIEWER in roles and bool(own & ALSO_VIEWERS)


def read_limit(name: str, value: object) -> tuple[str, float]:
    """One limit, with its value as the setting of that name takes it, also as text.

    Raises ``BadSetting``.
    """
    if name not in LIMITS:
        raise BadSetting(f"limit '{name:.40}': expected one of {', '.join(LIMITS)}")
    spec = LimitSettings.specs()[f"{OF_A_CLIENT}{name}"]
    return name, spec.read(value, f"limit '{name}'")


EVERYTHING = TokenAccess(frozenset({Role.ADMIN}))


def new_secret() -> str:
    """A new secret, 47 characters."""
    encoded = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES))
    return TOKEN_PREFIX + encoded.decode().rstrip("=")


def is_secret(text: str) -> bool:
    """Whether it has the form of a secret."""
    return _SECRET.fullmatch(text) is not None


def secret_digest(secret: str) -> bytes:
    """What is kept of a secret, 32 bytes."""
    return hashlib.sha256(secret.encode("ascii")).digest()
