"""The tokens of the store in memory, at most a second old, and what a caller shows of itself.

Each call asks for its token here. The table is compared with the database when it is older than
``MAX_AGE_S``: one small query a second, whatever the load, and a token that was revoked by another
process is refused within two seconds. Where the database does not answer, calls are refused.

A token is found by the SHA-256 of its secret, so the time that this takes tells of a hash that
nobody can choose; the hashes are then compared in constant time.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock

from secondlook.core.access import EVERYTHING, Role, TokenAccess, is_secret, secret_digest
from secondlook.store.database import now
from secondlook.store.tokens import TokenRow, Tokens, TokensVersion
from secondlook_client.errors import NotAuthenticated, SecondlookError

log = logging.getLogger(__name__)

MAX_AGE_S = 1.0
USED_EVERY_S = 600.0
"""How exactly it is known when a token was last used."""
BEARER = "bearer "


@dataclass(frozen=True)
class Principal:
    """Who makes a call."""

    name: str
    access: TokenAccess
    token: TokenRow | None = None
    """None: nobody had to show a token."""

    @property
    def roles(self) -> str:
        """For people, separated by commas."""
        return ",".join(sorted(self.access.roles))

    @property
    def is_bound(self) -> bool:
        """Whether it may name its own streams and models only."""
        return Role.DEVICE in self.access.roles


ANYONE = Principal("anyone", EVERYTHING)
"""Of a server whose store has no token."""
THIS_MACHINE = Principal("this server", EVERYTHING)
"""A program of the server's own user, by its socket in a private folder."""
NOBODY = Principal("", TokenAccess(frozenset()))
"""Who was refused without a valid token."""

principal_of_call: ContextVar[Principal] = ContextVar("principal_of_call", default=ANYONE)
"""Who makes the call that runs here."""


class TokenTable:
    """All tokens of a store. Thread-safe, and for an event loop."""

    def __init__(self, tokens: Tokens, required: bool = False) -> None:
        """Nothing is read yet; see ``read``. ``required``: also while the store has no token."""
        self._tokens = tokens
        self._required = required
        self._subscribed = ExitStack()
        self._subscribed.enter_context(tokens.changes.subscribed(self.forget))
        self._changes = 0
        self._rows: Mapping[bytes, TokenRow] = {}
        self._version: TokensVersion | None = None
        self._read_at = float("-inf")
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._reading: asyncio.Future[None] | None = None
        self._used: dict[int, float] = {}
        """When the use of a token was last noted, by its id; ``time.monotonic()``."""
        self._to_note: set[int] = set()

    @property
    def asks(self) -> bool:
        """Whether callers must show who they are: since the first token, even if it is revoked."""
        return bool(self._rows) or self._required

    async def fresh(self) -> None:
        """Returns when the table is at most ``MAX_AGE_S`` old. Raises what reading raises."""
        if time.monotonic() - self._read_at <= MAX_AGE_S:
            return
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._threads, self.read)
        await asyncio.shield(self._reading)  # others wait for it too

    def read(self) -> None:
        """Compare with the database now, unless another thread just did.

        Raises ``StoreUnavailable`` and ``Damaged``.
        """
        with self._lock:
            started, changes = time.monotonic(), self._changes
            if started - self._read_at <= MAX_AGE_S:
                return
            version = self._tokens.version()
            if version != self._version:
                self._rows = {row.digest: row for row in self._tokens.all()}
                self._version = version
            if changes == self._changes:  # else it may be older than the last one
                self._read_at = started
            self._note_used()

    def forget(self) -> None:
        """The next call reads again: something has changed."""
        self._changes += 1
        self._read_at = float("-inf")

    def principal(self, credentials: Sequence[str]) -> Principal:
        """Who shows these ``authorization`` headers. Raises ``NotAuthenticated``."""
        if not self.asks:
            return ANYONE
        row = self._row(credentials)
        if ended := row.ended(now()):
            raise NotAuthenticated(
                f"the token '{row.name}' {'was' if ended == 'revoked' else 'has'} {ended}; ask for "
                "a new one, which `secondlook token create` makes"
            )
        self._use(row.id)
        return Principal(row.name, row.access, row)

    def still(self, principal: Principal) -> bool:
        """Whether a principal of before may go on: its token has not ended since."""
        if principal.token is None:
            return principal is THIS_MACHINE or not self.asks
        if not principal.token.digest:  # a JWT, which nobody revokes
            return not principal.token.ended(now())
        row = self._rows.get(principal.token.digest)
        return row is not None and not row.ended(now())

    def close(self) -> None:
        """Read no more."""
        self._subscribed.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _row(self, credentials: Sequence[str]) -> TokenRow:
        if not credentials:
            raise NotAuthenticated(
                "this server wants a token; make one with `secondlook token create`, and give it "
                "as SECONDLOOK_TOKEN, --token-file or Client(token=…)"
            )
        (header, *more) = credentials
        secret = header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else ""
        digest = secret_digest(secret) if is_secret(secret) and not more else bytes(32)
        row = self._rows.get(digest)
        if row is None or not hmac.compare_digest(row.digest, digest):
            raise NotAuthenticated(
                "the token is not one of this server's; check that it is whole, and of this store "
                "(`secondlook token list`)"
            )
        return row

    def _use(self, number: int) -> None:
        moment = time.monotonic()
        if moment - self._used.get(number, float("-inf")) > USED_EVERY_S:
            self._used[number] = moment
            self._to_note.add(number)

    def _note_used(self) -> None:
        ids, self._to_note = self._to_note, set()
        if ids:
            try:
                self._tokens.note_used(ids)
            except SecondlookError as failure:  # to know when is not worth a refused call
                log.debug("the use of tokens was not noted: %s", failure)
