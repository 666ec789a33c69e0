"""Tokens: who may call the server. A secret is told once, and only its SHA-256 is kept."""

import json
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from secondlook.core.access import Role, TokenAccess, new_secret, secret_digest
from secondlook.store.database import ChangeNotifier, Database, now
from secondlook.store.schema import tokens
from secondlook_client.errors import (
    AlreadyExists,
    BadSetting,
    Damaged,
    InvalidInput,
    NotFound,
    StorageFull,
)

MAX_TOKENS = 10_000
"""A server holds all of them in memory."""
MAX_NAME, MAX_SCOPE = 128, 100
"""Characters of a name; streams, and models, of a device."""
OIDC = "oidc:"
"""Before the names of those who show a JWT instead of a token; no token has such a name."""
KEPT_S = 90 * 86_400
"""Tokens that ended so long ago are removed when another one is made."""


@dataclass(frozen=True)
class TokenRow:
    """One token, without its secret. Times are seconds since 1970."""

    id: int
    name: str
    access: TokenAccess
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None
    """When it was last used, some minutes early at most."""
    digest: bytes
    """SHA-256 of its secret."""

    def ended(self, moment: float) -> str:
        """``revoked``, ``expired``, or nothing while it is valid."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= moment else ""


@dataclass(frozen=True)
class TokensVersion:
    """Changes whenever a token is made, revoked or removed."""

    count: int
    last_id: int
    revoked: int


class Tokens:
    """The tokens of one store. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.changes = ChangeNotifier()
        """Notified when this process made or revoked one."""

    def create(self, name: str, access: TokenAccess, expires_at: float | None = None) -> str:
        """Make a token; returns its secret, which nobody can read again.

        Raises ``InvalidInput``, ``AlreadyExists`` while a valid one has the name, and
        ``StorageFull``.
        """
        _check(name, access)
        secret, moment = new_secret(), now()
        row = {
            "name": name,
            "digest": secret_digest(secret),
            "access": _written(access),
            "created_at": moment,
            "expires_at": expires_at,
        }
        with self._database.writing() as connection:
            ended = func.coalesce(tokens.c.revoked_at, tokens.c.expires_at)
            connection.execute(delete(tokens).where(ended < moment - KEPT_S))
            if _valid(connection, name, moment):
                raise AlreadyExists(
                    f"there is a token '{name}' already; revoke it first, or give another name"
                )
            if (connection.scalar(select(func.count()).select_from(tokens)) or 0) >= MAX_TOKENS:
                raise StorageFull(f"there are {MAX_TOKENS:,} tokens, which is the most")
            connection.execute(insert(tokens).values(row))
        self.changes.notify()
        return secret

    def revoke(self, name: str) -> None:
        """End a token now; servers know within 2 s. Raises ``NotFound`` when none is valid."""
        moment = now()
        with self._database.writing() as connection:
            valid = _valid(connection, name, moment)
            if not valid:
                raise NotFound(f"there is no valid token '{name:.80}'; see `secondlook token list`")
            ending = update(tokens).where(tokens.c.id.in_(valid))
            connection.execute(ending.values(revoked_at=moment))
        self.changes.notify()

    def all(self) -> list[TokenRow]:
        """Every token, the newest first, those that ended within 90 days too.

        Raises ``Damaged``.
        """
        with self._database.reading() as connection:
            found = connection.execute(select(tokens).order_by(tokens.c.id.desc()))
            return [read_token(row) for row in found]

    def version(self) -> TokensVersion:
        """Compares equal as long as ``all`` gives the same; cheap."""
        columns = func.count(), func.max(tokens.c.id), func.count(tokens.c.revoked_at)
        with self._database.reading() as connection:
            count, last, revoked = connection.execute(select(*columns)).one()
        return TokensVersion(count, last or 0, revoked)

    def note_used(self, ids: Collection[int]) -> None:
        """These were used now."""
        with self._database.writing() as connection:
            used = update(tokens).where(tokens.c.id.in_(sorted(ids)))
            connection.execute(used.values(used_at=now()))


def read_token(row: Row[tuple[object, ...]]) -> TokenRow:
    """A row of the table. Raises ``Damaged`` when it is not what was written."""
    try:
        written = json.loads(row.access)
        access = TokenAccess(
            frozenset(map(Role, written["roles"])),
            frozenset(map(str, written["streams"])),
            frozenset(map(str, written["models"])),
            tuple(written.get("limits", {}).items()),  # those of before had none
        )
    except (ValueError, KeyError, TypeError, AttributeError, BadSetting) as cause:
        raise Damaged(f"token {row.id} cannot be read; make a new one in its place") from cause
    times = row.created_at, row.expires_at, row.revoked_at, row.used_at
    return TokenRow(row.id, row.name, access, *times, digest=bytes(row.digest))


def _written(access: TokenAccess) -> str:
    parts = {"roles": access.roles, "streams": access.streams, "models": access.models}
    lists = {name: sorted(part) for name, part in parts.items()}
    return json.dumps(lists | {"limits": dict(access.limits)})


def _valid(connection: Connection, name: str, moment: float) -> list[int]:
    """The ids of the tokens of that name that have not ended."""
    query = select(tokens.c.id).where(
        tokens.c.name == name,
        tokens.c.revoked_at.is_(None),
        tokens.c.expires_at.is_(None) | (tokens.c.expires_at > moment),
    )
    return [*connection.scalars(query)]


def _check(name: str, access: TokenAccess) -> None:
    for given in (name, *access.streams, *access.models):
        if not 0 < len(given) <= MAX_NAME or not given.isprintable() or given != given.strip():
            raise InvalidInput(
                f"expected a name of 1 to {MAX_NAME} printable characters, got {given[:80]!r}"
            )
    if name.startswith(OIDC):
        raise InvalidInput(f"names that begin with '{OIDC}' are of an OIDC issuer; give another")
    if not access.roles:
        raise InvalidInput("a token without a role allows nothing; give it one")
    if max(len(access.streams), len(access.models)) > MAX_SCOPE:
        raise InvalidInput(f"a device has at most {MAX_SCOPE} streams and {MAX_SCOPE} models")
